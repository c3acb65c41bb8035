package sys

import (
	"io/fs"
	"path"
	"time"
)

// Type bits of Info.Mode, as in st_mode.
const (
	ModeType   = 0170000
	ModeSocket = 0140000
	ModeLink   = 0120000
	ModeFile   = 0100000
	ModeBlock  = 0060000
	ModeDir    = 0040000
	ModeChar   = 0020000
	ModeFifo   = 0010000
)

// Info is a file's status: what stat(2) says. It is an fs.FileInfo too.
// WASI's own status lacks modes, owners and blocks, hence this.
type Info struct {
	name                    string
	Dev, Ino, Nlink, Blocks int64 // Blocks are of 512 bytes
	Uid, Gid                int
	StMode                  uint32 // type and permissions
	Rdev, Length            int64
	Atime, Mtime, Ctime     int64 // nanoseconds since 1970
}

func (i *Info) Name() string       { return i.name }
func (i *Info) Size() int64        { return i.Length }
func (i *Info) ModTime() time.Time { return time.Unix(0, i.Mtime) }
func (i *Info) IsDir() bool        { return i.StMode&ModeType == ModeDir }
func (i *Info) IsRegular() bool    { return i.StMode&ModeType == ModeFile }
func (i *Info) IsLink() bool       { return i.StMode&ModeType == ModeLink }
func (i *Info) Sys() any           { return nil }

// Perm is the twelve permission bits.
func (i *Info) Perm() uint32 { return i.StMode & 07777 }

// Mode translates StMode.
func (i *Info) Mode() fs.FileMode {
	m := fs.FileMode(i.StMode & 0777)
	switch i.StMode & ModeType {
	case ModeSocket:
		m |= fs.ModeSocket
	case ModeLink:
		m |= fs.ModeSymlink
	case ModeBlock:
		m |= fs.ModeDevice
	case ModeDir:
		m |= fs.ModeDir
	case ModeChar:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case ModeFifo:
		m |= fs.ModeNamedPipe
	}
	if i.StMode&04000 != 0 {
		m |= fs.ModeSetuid
	}
	if i.StMode&02000 != 0 {
		m |= fs.ModeSetgid
	}
	if i.StMode&01000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// Same reports whether two infos are of one file.
func (i *Info) Same(j *Info) bool { return i.Dev == j.Dev && i.Ino == j.Ino }

// Stat follows a last symbolic link, Lstat does not. Errors are *fs.PathError.
func Stat(name string) (*Info, error)  { return stat(name, true) }
func Lstat(name string) (*Info, error) { return stat(name, false) }

func stat(name string, follow bool) (*Info, error) {
	i := &Info{name: path.Base(name)}
	if err := statPath(name, follow, i); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return i, nil
}
