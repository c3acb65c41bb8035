package kernel

import (
	"hash/fnv"
	"slices"
	"strings"
	"time"
)

// File types and mode bits, as Linux numbers them.
const (
	sIFMT   = 0o170000
	sIFIFO  = 0o010000
	sIFCHR  = 0o020000
	sIFDIR  = 0o040000
	sIFREG  = 0o100000
	sIFLNK  = 0o120000
	permAll = 0o7777
)

const (
	maxPath  = 4096
	maxName  = 255
	maxLinks = 40   // symlinks followed for one path
	maxHard  = 8192 // names of one file
)

// entryCost is what a name in a directory is charged, besides its length.
const entryCost = 96

// fileSystem is the files of one sandbox. They exist in memory only: nothing
// in this package opens a file of the host. The sandbox's lock guards it.
type fileSystem struct {
	root  *node
	quota quota
	next  uint64 // inode number
	now   func() time.Time
}

// node is an inode. Exactly one of the groups of fields is used, by type.
type node struct {
	ino                 uint64
	mode                uint32
	nlink, opens        int
	freed               bool
	atime, mtime, ctime int64 // nanoseconds

	data content  // regular file
	prog *Program // the module a regular file of the image holds

	dir    *directory
	target string // symbolic link
	pipe   *pipe  // FIFO
	device device
	virt   virtual // made when looked at: /proc, /dev/fd
}

func (n *node) is(typ uint32) bool { return n.mode&sIFMT == typ }

// directory keeps its entries in the order they came, so that reading on
// after a removal neither skips nor repeats one.
type directory struct {
	parent *node
	name   string // in parent
	byName map[string]*entry
	order  []*entry
	dead   int // entries of order that are removed
	dirs   int // entries that are directories
	seq    uint64
}

type entry struct {
	name string
	seq  uint64
	n    *node // nil once removed
}

// The first two entries of every directory are its own and its parent's.
const firstSeq = 3

func (d *directory) add(name string, n *node) {
	if d.byName == nil {
		d.byName, d.seq = map[string]*entry{}, firstSeq-1
	}
	d.seq++
	e := &entry{name, d.seq, n}
	d.byName[name] = e
	d.order = append(d.order, e)
	if n.is(sIFDIR) {
		d.dirs++
	}
}

func (d *directory) remove(name string) {
	if d.byName[name].n.is(sIFDIR) {
		d.dirs--
	}
	d.byName[name].n = nil
	delete(d.byName, name)
	if d.dead++; d.dead > 16 && d.dead > len(d.order)/2 {
		d.order = slices.DeleteFunc(d.order, func(e *entry) bool { return e.n == nil })
		d.dead = 0
	}
}

// after returns the entries behind a cookie.
func (d *directory) after(cookie uint64) []*entry {
	i, _ := slices.BinarySearchFunc(d.order, cookie+1, func(e *entry, seq uint64) int {
		if e.seq < seq {
			return -1
		} else if e.seq > seq {
			return 1
		}
		return 0
	})
	return d.order[i:]
}

// virtual is what stands behind a node whose content is made when it is
// looked at. A virtual directory has lookup and list; a file text; a link link.
type virtual struct {
	lookup func(p *Proc, name string) *node
	list   func(p *Proc) []string
	text   func(p *Proc) string
	link   func(p *Proc) string
	fd     *fd // opening it duplicates this
}

// made reports whether the node is one of these.
func (v *virtual) made() bool {
	return v.lookup != nil || v.text != nil || v.link != nil || v.fd != nil
}

func (fs *fileSystem) time() int64 { return fs.now().UnixNano() }

// make allocates an inode.
func (fs *fileSystem) make(mode uint32) (*node, errno) {
	if fs.quota.inodesUsed >= fs.quota.inodes {
		return nil, eNOSPC
	}
	fs.quota.inodesUsed++
	fs.next++
	t := fs.time()
	n := &node{ino: fs.next, mode: mode, atime: t, mtime: t, ctime: t}
	if n.is(sIFDIR) {
		n.dir = &directory{}
	}
	return n, ok
}

// changed notes that the bytes of n are others now. A module of the image
// that was written to is one no more.
func (fs *fileSystem) changed(n *node) {
	n.prog = nil
	n.mtime = fs.time()
	n.ctime = n.mtime
}

// link puts n into a directory.
func (fs *fileSystem) link(dir *node, name string, n *node) errno {
	switch {
	case dir.virt.lookup != nil:
		return ePERM
	case dir.nlink == 0:
		return eNOENT // removed, but still somebody's working directory
	case n.nlink >= maxHard:
		return eMLINK
	case !fs.quota.take(entryCost + int64(len(name))):
		return eNOSPC
	}
	dir.dir.add(name, n)
	n.nlink++
	if n.is(sIFDIR) {
		n.dir.parent, n.dir.name = dir, name
	}
	n.ctime = fs.time()
	dir.mtime, dir.ctime = n.ctime, n.ctime
	return ok
}

// unlink takes a name out of a directory and frees what nobody uses any more.
func (fs *fileSystem) unlink(dir *node, name string) {
	n := dir.dir.byName[name].n
	dir.dir.remove(name)
	fs.quota.give(entryCost + int64(len(name)))
	n.nlink--
	n.ctime = fs.time()
	dir.mtime, dir.ctime = n.ctime, n.ctime
	fs.drop(n)
}

// drop frees n when it has neither a name nor an opener.
func (fs *fileSystem) drop(n *node) {
	if n.nlink > 0 || n.opens > 0 || n.freed {
		return
	}
	n.freed = true // a removed directory can still be somebody's working directory, and so be opened
	n.data.free(&fs.quota)
	fs.quota.give(int64(len(n.target)))
	n.target = ""
	fs.quota.inodesUsed--
}

// place is where a path leads.
type place struct {
	dir   *node  // the directory that has, or would have, the last name
	name  string // "." when the path is a directory without a name of its own
	node  *node  // nil when there is nothing of that name
	slash bool   // the path ended with one, so only a directory is meant
}

// walk follows path from a directory. follow says whether a symbolic link in
// the last place is followed. That nothing is in the last place is not an
// error; see find.
func (fs *fileSystem) walk(p *Proc, from *node, path string, follow bool) (place, errno) {
	links := 0
	switch {
	case path == "":
		return place{}, eNOENT
	case len(path) > maxPath:
		return place{}, eNAMETOOLONG
	case strings.IndexByte(path, 0) >= 0:
		return place{}, eINVAL
	}
	dir := from
	if path[0] == '/' {
		dir = fs.root
	}
	at := place{dir: dir, name: ".", node: dir}
	for {
		path = strings.TrimLeft(path, "/")
		if path == "" {
			return at, ok
		}
		if !dir.is(sIFDIR) {
			return place{}, eNOTDIR
		}
		name, rest, more := strings.Cut(path, "/")
		last := strings.TrimLeft(rest, "/") == ""
		if len(name) > maxName {
			return place{}, eNAMETOOLONG
		}
		n := fs.lookup(p, dir, name)
		at = place{dir: dir, name: name, node: n, slash: last && more}
		if name == "." || name == ".." {
			at.name, at.dir = ".", n
		}
		if n == nil {
			if !last {
				return place{}, eNOENT
			}
			return at, ok
		}
		if n.is(sIFLNK) && (!last || follow || at.slash) {
			if links++; links > maxLinks {
				return place{}, eLOOP
			}
			target := n.target
			if n.virt.link != nil {
				target = n.virt.link(p)
			}
			if target == "" {
				return place{}, eNOENT
			}
			if path = target; more {
				path = target + "/" + rest
			}
			if path[0] == '/' {
				dir = fs.root
			}
			at = place{dir: dir, name: ".", node: dir}
			continue
		}
		if last {
			if at.slash && !n.is(sIFDIR) {
				return place{}, eNOTDIR
			}
			return at, ok
		}
		dir, path = n, rest
	}
}

// find is walk to something that exists.
func (fs *fileSystem) find(p *Proc, from *node, path string, follow bool) (*node, errno) {
	at, e := fs.walk(p, from, path, follow)
	if e == ok && at.node == nil {
		e = eNOENT
	}
	return at.node, e
}

func (fs *fileSystem) lookup(p *Proc, dir *node, name string) *node {
	switch name {
	case ".":
		return dir
	case "..":
		return dir.dir.parent
	}
	if dir.virt.lookup != nil {
		n := dir.virt.lookup(p, name)
		if n != nil {
			n.fill(dir, name)
		}
		return n
	}
	if e := dir.dir.byName[name]; e != nil {
		return e.n
	}
	return nil
}

// fill completes a node that was made for one look.
func (n *node) fill(dir *node, name string) {
	h := fnv.New64a()
	h.Write([]byte(name))
	n.ino = (dir.ino*31 + h.Sum64()) | 1<<62
	n.nlink, n.opens = 1, 1 // never dropped
	n.atime, n.mtime, n.ctime = dir.mtime, dir.mtime, dir.mtime
	if n.is(sIFDIR) {
		n.nlink = 2
		n.dir = &directory{parent: dir, name: name}
	}
}

// create makes something new at a path that leads nowhere.
func (fs *fileSystem) create(at place, mode uint32, init func(*node) errno) (*node, errno) {
	switch {
	case at.node != nil:
		return nil, eEXIST
	case at.slash && mode&sIFMT != sIFDIR:
		return nil, eNOENT
	}
	n, e := fs.make(mode)
	if e != ok {
		return nil, e
	}
	if init != nil {
		e = init(n)
	}
	if e == ok {
		e = fs.link(at.dir, at.name, n)
	}
	if e != ok {
		fs.drop(n)
		return nil, e
	}
	return n, ok
}

func (fs *fileSystem) symlink(at place, target string) errno {
	if target == "" {
		return eNOENT
	}
	if len(target) > maxPath {
		return eNAMETOOLONG
	}
	_, e := fs.create(at, sIFLNK|0o777, func(n *node) errno {
		if !fs.quota.take(int64(len(target))) {
			return eNOSPC
		}
		n.target = target
		return ok
	})
	return e
}

// remove takes a file or, with dir, an empty directory out of the tree.
func (fs *fileSystem) remove(at place, dir bool) errno {
	n := at.node
	switch {
	case n == nil:
		return eNOENT
	case at.name == "." || n == fs.root:
		return eINVAL
	case at.dir.virt.lookup != nil:
		return ePERM
	case dir && !n.is(sIFDIR):
		return eNOTDIR
	case !dir && n.is(sIFDIR):
		return eISDIR
	case !dir && at.slash:
		return eNOTDIR
	case dir && (n.virt.lookup != nil || len(n.dir.byName) > 0):
		return eNOTEMPTY
	}
	fs.unlink(at.dir, at.name)
	return ok
}

func (fs *fileSystem) rename(from, to place) errno {
	n, old := from.node, to.node
	switch {
	case n == nil:
		return eNOENT
	case from.name == "." || to.name == "." || n == fs.root:
		return eINVAL
	case from.dir.virt.lookup != nil || to.dir.virt.lookup != nil || n.virt.lookup != nil:
		return ePERM
	case n == old:
		return ok
	case !n.is(sIFDIR) && (to.slash || from.slash):
		return eNOTDIR
	case to.dir.nlink == 0:
		return eNOENT
	}
	if n.is(sIFDIR) {
		for d := to.dir; ; d = d.dir.parent {
			if d == n {
				return eINVAL // into itself
			}
			if d == fs.root {
				break
			}
		}
	}
	if old != nil {
		switch {
		case old.is(sIFDIR) && !n.is(sIFDIR):
			return eISDIR
		case !old.is(sIFDIR) && n.is(sIFDIR):
			return eNOTDIR
		case old.is(sIFDIR) && (old.virt.lookup != nil || len(old.dir.byName) > 0):
			return eNOTEMPTY
		}
	}
	// The longer name may not fit the quota, and a failed rename changes
	// nothing.
	if more := int64(len(to.name) - len(from.name)); old == nil && more > fs.quota.bytes-fs.quota.used {
		return eNOSPC
	}
	n.opens++ // not dropped between the two steps
	fs.unlink(from.dir, from.name)
	if old != nil {
		fs.unlink(to.dir, to.name)
	}
	e := fs.link(to.dir, to.name, n)
	n.opens--
	return e
}

func (fs *fileSystem) hardlink(n *node, to place) errno {
	switch {
	case n.is(sIFDIR):
		return ePERM
	case n.virt.made():
		return ePERM
	case to.node != nil:
		return eEXIST
	case to.slash:
		return eNOENT
	}
	return fs.link(to.dir, to.name, n)
}

// size is what stat shows.
func (n *node) size() int64 {
	switch {
	case n.is(sIFREG):
		return n.data.size
	case n.is(sIFLNK):
		return int64(len(n.target))
	case n.is(sIFDIR):
		return 4096
	}
	return 0
}

// links is what stat shows: a directory has a name in its parent, one in
// itself, and one in each directory in it.
func (n *node) links() int {
	if !n.is(sIFDIR) || n.nlink == 0 {
		return n.nlink
	}
	return 2 + n.dir.dirs
}

// path returns the absolute path of a directory, "" when it was removed.
func (fs *fileSystem) path(dir *node) string {
	if dir == fs.root {
		return "/"
	}
	var parts []string
	for n := dir; n != fs.root; n = n.dir.parent {
		if n.nlink == 0 {
			return ""
		}
		parts = append(parts, n.dir.name)
	}
	slices.Reverse(parts)
	return "/" + strings.Join(parts, "/")
}
