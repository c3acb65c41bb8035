package sys

import (
	"encoding/binary"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"syscall"
	"unsafe"
)

//go:wasmimport kiln_v1 spawn
//go:noescape
func kSpawn(req unsafe.Pointer, n uint32, pid, pidfd *int32) uint32

//go:wasmimport kiln_v1 exec
//go:noescape
func kExec(req unsafe.Pointer, n uint32) uint32

//go:wasmimport kiln_v1 pipe
//go:noescape
func kPipe(r, w *int32) uint32

//go:wasmimport kiln_v1 dup
//go:noescape
func kDup(fd, min int32, newfd *int32) uint32

//go:wasmimport kiln_v1 kill
func kKill(pid, sig int32) uint32

//go:wasmimport kiln_v1 sigaction
func kSigaction(sig, how int32) uint32

//go:wasmimport kiln_v1 sigfd
//go:noescape
func kSigfd(fd *int32) uint32

//go:wasmimport kiln_v1 ids
//go:noescape
func kIds(buf unsafe.Pointer) uint32

//go:wasmimport kiln_v1 args
//go:noescape
func kArgs(buf unsafe.Pointer, size uint32, n *uint32) uint32

//go:wasmimport kiln_v1 umask
//go:noescape
func kUmask(mask int32, old *int32) uint32

//go:wasmimport kiln_v1 stat
//go:noescape
func kStat(fd int32, path unsafe.Pointer, n uint32, flags int32, buf unsafe.Pointer) uint32

//go:wasmimport kiln_v1 chmod
//go:noescape
func kChmod(fd int32, path unsafe.Pointer, n uint32, flags int32, mode uint32) uint32

//go:wasmimport kiln_v1 mkfifo
//go:noescape
func kMkfifo(fd int32, path unsafe.Pointer, n uint32, mode uint32) uint32

//go:wasmimport kiln_v1 statfs
//go:noescape
func kStatfs(buf unsafe.Pointer) uint32

//go:wasmimport kiln_v1 chdir
//go:noescape
func kChdir(path unsafe.Pointer, n uint32) uint32

func errno(n uint32) error {
	if n == 0 {
		return nil
	}
	return syscall.Errno(n)
}

func bytesOf(s string) (unsafe.Pointer, uint32) {
	return unsafe.Pointer(unsafe.StringData(s)), uint32(len(s))
}

// Proc is a process that Start made. Wait must be called once.
type Proc struct {
	Pid   int
	pidfd *os.File
}

// request encodes a spec as ABI.md section 3 says. Descriptor numbers stay
// valid only while the files are open: the caller keeps them alive.
func (s *Spec) request() []byte {
	le := binary.LittleEndian
	dir := s.Dir
	if dir == "" {
		dir, _ = os.Getwd()
	}
	b := le.AppendUint32(nil, 0)
	str := func(s string) { b = append(le.AppendUint32(b, uint32(len(s))), s...) }
	list := func(l []string) {
		b = le.AppendUint32(b, uint32(len(l)))
		for _, s := range l {
			str(s)
		}
	}
	str(s.Path)
	str(dir)
	list(s.Args)
	list(s.Env)
	max := 2
	for fd := range s.Files {
		if fd > max {
			max = fd
		}
	}
	b = le.AppendUint32(b, uint32(max+1))
	for fd := range max + 1 {
		n := -1
		if f := s.Files[fd]; f != nil {
			n = number(f)
		}
		b = le.AppendUint32(b, uint32(int32(n)))
	}
	return b
}

// number is a file's descriptor. (*os.File).Fd would make it blocking.
func number(f *os.File) int {
	n := -1
	if c, err := f.SyscallConn(); err == nil {
		c.Control(func(fd uintptr) { n = int(fd) })
	}
	return n
}

// Start runs a file. The error is a syscall.Errno inside an fs.PathError.
func Start(s *Spec) (*Proc, error) {
	if s.Umask >= 0 {
		defer Umask(Umask(s.Umask))
	}
	b := s.request()
	var pid, pidfd int32
	err := errno(kSpawn(unsafe.Pointer(&b[0]), uint32(len(b)), &pid, &pidfd))
	runtime.KeepAlive(s)
	if err != nil {
		return nil, &fs.PathError{Op: "spawn", Path: s.Path, Err: err}
	}
	return &Proc{Pid: int(pid), pidfd: pollable(pidfd)}, nil
}

// pollable makes a file whose reads and writes wait in the poller.
func pollable(fd int32) *os.File {
	syscall.SetNonblock(int(fd), true)
	return os.NewFile(uintptr(fd), "")
}

// Wait returns when the process has ended. It blocks the goroutine only.
func (p *Proc) Wait() Status {
	defer p.pidfd.Close()
	var b [8]byte
	if _, err := io.ReadFull(p.pidfd, b[:]); err != nil {
		return Status{Code: 127}
	}
	return Status{Code: int(binary.LittleEndian.Uint32(b[:])), Signal: int(binary.LittleEndian.Uint32(b[4:]))}
}

// Kill sends a signal; 0 only asks whether the process is there.
func Kill(pid, sig int) error { return errno(kKill(int32(pid), int32(sig))) }

// Umask sets the mask and returns the old one.
func Umask(m int) int {
	var old int32
	kUmask(int32(m), &old)
	return int(old)
}

// absolute makes a path that the kernel cannot misread: Go keeps the working
// directory of a process itself.
func absolute(name string) string {
	if name == "" || name[0] == '/' {
		return name
	}
	dir, err := os.Getwd()
	if err != nil {
		return name
	}
	return dir + "/" + name
}

// Chmod sets all twelve mode bits, following symbolic links.
func Chmod(name string, mode uint32) error {
	p, n := bytesOf(absolute(name))
	if err := errno(kChmod(-100, p, n, 1, mode)); err != nil {
		return &fs.PathError{Op: "chmod", Path: name, Err: err}
	}
	return nil
}

// Chown succeeds for a file that exists: the sandbox has one user.
func Chown(name string, uid, gid int, follow bool) error {
	_, err := stat(name, follow)
	return err
}

// Mkfifo makes a named pipe.
func Mkfifo(name string, mode uint32) error {
	p, n := bytesOf(absolute(name))
	return errno(kMkfifo(-100, p, n, mode))
}

// Utimes sets access and modification time in nanoseconds, following links.
func Utimes(name string, atime, mtime int64) error {
	ts := []syscall.Timespec{syscall.NsecToTimespec(atime), syscall.NsecToTimespec(mtime)}
	if err := syscall.UtimesNano(name, []syscall.Timespec{ts[0], ts[1]}); err != nil {
		return &fs.PathError{Op: "utimes", Path: name, Err: err}
	}
	return nil
}

func statPath(name string, follow bool, i *Info) error {
	if name == "" {
		return syscall.ENOENT
	}
	flags := int32(0)
	if follow {
		flags = 1
	}
	p, n := bytesOf(absolute(name))
	return i.read(-100, p, n, flags)
}

// Fstat is the status of an open file.
func Fstat(f *os.File) (*Info, error) {
	i := &Info{name: f.Name()}
	return i, i.read(int32(number(f)), nil, 0, 0)
}

func (i *Info) read(fd int32, p unsafe.Pointer, n uint32, flags int32) error {
	var b [80]byte
	if err := errno(kStat(fd, p, n, flags, unsafe.Pointer(&b[0]))); err != nil {
		return err
	}
	u32 := func(o int) uint32 { return binary.LittleEndian.Uint32(b[o:]) }
	u64 := func(o int) int64 { return int64(binary.LittleEndian.Uint64(b[o:])) }
	i.Dev, i.Ino, i.StMode, i.Nlink = u64(0), u64(8), u32(16), int64(u32(20))
	i.Uid, i.Gid, i.Rdev, i.Length, i.Blocks = int(u32(24)), int(u32(28)), u64(32), u64(40), u64(48)
	i.Atime, i.Mtime, i.Ctime = u64(56), u64(64), u64(72)
	return nil
}

// Exec makes this process become another program. It returns only on failure.
func Exec(s *Spec) error {
	if s.Umask >= 0 {
		Umask(s.Umask)
	}
	b := s.request()
	err := errno(kExec(unsafe.Pointer(&b[0]), uint32(len(b))))
	runtime.KeepAlive(s)
	return &fs.PathError{Op: "exec", Path: s.Path, Err: err}
}

// Notify delivers the numbers of caught signals until stop is called.
func Notify(sigs ...int) (c <-chan int, stop func()) {
	for _, s := range sigs {
		kSigaction(int32(s), 2)
	}
	out := make(chan int, 16)
	var fd int32
	if kSigfd(&fd) != 0 {
		return out, func() {}
	}
	f := pollable(fd)
	go func() {
		var b [4]byte
		for {
			if _, err := io.ReadFull(f, b[:]); err != nil {
				return
			}
			if sig := int(binary.LittleEndian.Uint32(b[:])); slices.Contains(sigs, sig) {
				out <- sig
			}
		}
	}()
	return out, func() {
		for _, s := range sigs {
			kSigaction(int32(s), 0)
		}
		f.Close()
	}
}

//go:wasmimport wasi_snapshot_preview1 path_open
//go:noescape
func pathOpen(dir, dirflags int32, path unsafe.Pointer, n uint32, oflags int32, rights, inherited uint64, fdflags int32, fd *int32) uint32

// OpenFIFO opens a named pipe without blocking the process: ENXIO means that
// nobody reads it yet.
func OpenFIFO(name string, write bool) (*os.File, error) {
	const follow, nonblock, fdRead, fdWrite = 1, 4, 1 << 1, 1 << 6
	rights := uint64(fdRead)
	if write {
		rights = fdWrite
	}
	p, n := bytesOf(absolute(name))
	var fd int32
	if err := errno(pathOpen(1000, follow, p, n, 0, rights, rights, nonblock, &fd)); err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// KeepPipe lets writes to a pipe that nobody reads fail with EPIPE, where they
// would end this process. It does not change what its children do.
func KeepPipe() { kSigaction(13, 3) }

// Ignore makes the process and its children ignore a signal.
func Ignore(sig int) { kSigaction(int32(sig), 1) }

// Default undoes Ignore.
func Default(sig int) { kSigaction(int32(sig), 0) }

// Dup returns a second, pollable file for a descriptor of this process.
func Dup(fd int) (*os.File, error) {
	var n int32
	if err := errno(kDup(int32(fd), 100, &n)); err != nil {
		return nil, err
	}
	return pollable(n), nil
}

// PollableStdin returns standard input as a file whose reads block one
// goroutine and not the process.
func PollableStdin() *os.File {
	if f, err := Dup(0); err == nil {
		return f
	}
	return os.Stdin
}

// Usage is the space of the file system that holds path.
type Usage struct{ Bytes, BytesUsed, Inodes, InodesUsed int64 }

// Statfs reports it.
func Statfs(string) (Usage, error) {
	var b [4]int64
	err := errno(kStatfs(unsafe.Pointer(&b[0])))
	return Usage{b[0], b[1], b[2], b[3]}, err
}

// Ids are the numbers of this process.
func Ids() (pid, ppid, pgid, uid, gid int) {
	var b [5]int32
	kIds(unsafe.Pointer(&b[0]))
	return int(b[0]), int(b[1]), int(b[2]), int(b[3]), int(b[4])
}

// Begin sets the arguments, environment and directory of a process that
// started from a snapshot: ABI.md section 6.
func Begin() {
	buf := make([]byte, 16<<10)
	var n uint32
	for {
		if kArgs(unsafe.Pointer(&buf[0]), uint32(len(buf)), &n) != 0 {
			return
		}
		if int(n) <= len(buf) {
			break
		}
		buf = make([]byte, n)
	}
	b := buf[:n]
	num := func() int {
		v := binary.LittleEndian.Uint32(b)
		b = b[4:]
		return int(v)
	}
	str := func() string {
		n := num()
		s := string(b[:n])
		b = b[n:]
		return s
	}
	dir := str()
	os.Args = nil
	for range num() {
		os.Args = append(os.Args, str())
	}
	os.Clearenv()
	for range num() {
		kv := str()
		for i := range kv {
			if kv[i] == '=' {
				os.Setenv(kv[:i], kv[i+1:])
				break
			}
		}
	}
	os.Chdir(dir)
	p, l := bytesOf(dir)
	kChdir(p, l)
}

// Pipe returns a connected pair of files whose reads and writes block one
// goroutine and not the process.
func Pipe() (r, w *os.File, err error) {
	var a, b int32
	if err := errno(kPipe(&a, &b)); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(a), "|0"), os.NewFile(uintptr(b), "|1"), nil
}

// Inherited reports whether a descriptor was given to this process. Nothing
// else is open when it begins.
func Inherited(fd int) bool {
	var n int32
	if kDup(int32(fd), 100, &n) != 0 {
		return false
	}
	syscall.Close(int(n))
	return true
}

//go:wasmimport wasi_snapshot_preview1 random_get
//go:noescape
func randomGet(buf unsafe.Pointer, n uint32) uint32

// Random fills b from the kernel. Generators with a state of their own would
// give the same numbers in every process that starts from one snapshot.
func Random(b []byte) {
	if len(b) > 0 && randomGet(unsafe.Pointer(&b[0]), uint32(len(b))) != 0 {
		panic("random_get failed")
	}
}
