package sys

import (
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Proc is a process that Start made. Wait must be called once.
type Proc struct {
	Pid int
	p   *os.Process
}

// Start runs a file. The error is a syscall.Errno inside an fs.PathError.
func Start(s *Spec) (*Proc, error) {
	max := 2
	for fd := range s.Files {
		if fd > max {
			max = fd
		}
	}
	files := make([]*os.File, max+1)
	for fd, f := range s.Files {
		files[fd] = f
	}
	if s.Umask >= 0 {
		defer syscall.Umask(syscall.Umask(s.Umask))
	}
	p, err := os.StartProcess(s.Path, s.Args, &os.ProcAttr{Dir: s.Dir, Env: s.Env, Files: files})
	if err != nil {
		return nil, err
	}
	return &Proc{Pid: p.Pid, p: p}, nil
}

// Wait returns when the process has ended. It blocks the goroutine only.
func (p *Proc) Wait() Status {
	st, err := p.p.Wait()
	if err != nil {
		return Status{Code: 127}
	}
	ws := st.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return Status{Code: 128 + int(ws.Signal()), Signal: int(ws.Signal())}
	}
	return Status{Code: ws.ExitStatus()}
}

// Kill sends a signal; 0 only asks whether the process is there. On a real
// system it refuses "everybody" and process 1: a test of the shell must never
// end the machine it runs on.
func Kill(pid, sig int) error {
	if pid == -1 || pid == 1 || pid == 0 {
		return syscall.EPERM
	}
	return syscall.Kill(pid, syscall.Signal(sig))
}

// Umask sets the mask and returns the old one.
func Umask(m int) int { return syscall.Umask(m) }

// Chmod sets all twelve mode bits, following symbolic links.
func Chmod(path string, mode uint32) error {
	if err := syscall.Chmod(path, mode); err != nil {
		return &fs.PathError{Op: "chmod", Path: path, Err: err}
	}
	return nil
}

// Notify delivers the numbers of caught signals until stop is called.
func Notify(sigs ...int) (c <-chan int, stop func()) {
	in, out, done := make(chan os.Signal, 16), make(chan int, 16), make(chan struct{})
	for _, s := range sigs {
		signal.Notify(in, syscall.Signal(s))
	}
	go func() {
		for {
			select {
			case s := <-in:
				out <- int(s.(syscall.Signal))
			case <-done:
				return
			}
		}
	}()
	return out, func() { signal.Stop(in); close(done) }
}

// OpenFIFO opens a named pipe without blocking the process.
func OpenFIFO(name string, write bool) (*os.File, error) {
	if write {
		return os.OpenFile(name, os.O_WRONLY, 0)
	}
	return os.Open(name)
}

// KeepPipe lets writes to a pipe that nobody reads fail with EPIPE, where they
// would end this process. It does not change what its children do.
func KeepPipe() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }

// Ignore makes the process and its children ignore signals.
func Ignore(sig int) { signal.Ignore(syscall.Signal(sig)) }

// Default undoes Ignore.
func Default(sig int) { signal.Reset(syscall.Signal(sig)) }

// Dup returns a second file for a descriptor of this process.
func Dup(fd int) (*os.File, error) {
	n, _, no := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 100)
	if no != 0 {
		return nil, no
	}
	return os.NewFile(n, ""), nil
}

func statPath(name string, follow bool, i *Info) error {
	var st syscall.Stat_t
	var err error
	if follow {
		err = syscall.Stat(name, &st)
	} else {
		err = syscall.Lstat(name, &st)
	}
	i.fill(&st)
	return err
}

// Fstat is the status of an open file.
func Fstat(f *os.File) (*Info, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	i := &Info{name: fi.Name()}
	i.fill(fi.Sys().(*syscall.Stat_t))
	return i, nil
}

func (i *Info) fill(st *syscall.Stat_t) {
	i.Dev, i.Ino, i.Nlink, i.Blocks = int64(st.Dev), int64(st.Ino), int64(st.Nlink), st.Blocks
	i.Uid, i.Gid, i.StMode, i.Rdev, i.Length = int(st.Uid), int(st.Gid), st.Mode, int64(st.Rdev), st.Size
	i.Atime, i.Mtime, i.Ctime = st.Atim.Nano(), st.Mtim.Nano(), st.Ctim.Nano()
}

// Chown changes the owner; -1 leaves an id as it is.
func Chown(path string, uid, gid int, follow bool) error {
	if follow {
		return os.Chown(path, uid, gid)
	}
	return os.Lchown(path, uid, gid)
}

// Utimes sets access and modification time in nanoseconds, following links.
func Utimes(path string, atime, mtime int64) error {
	return os.Chtimes(path, time.Unix(0, atime), time.Unix(0, mtime))
}

// Mkfifo makes a named pipe.
func Mkfifo(path string, mode uint32) error { return syscall.Mkfifo(path, mode) }

// Exec makes this process become another program. It returns only on failure.
func Exec(s *Spec) error {
	for fd, f := range s.Files {
		if f == nil {
			continue
		}
		if err := syscall.Dup3(int(f.Fd()), fd+200, 0); err != nil {
			return err
		}
	}
	for fd := range 100 { // what Go opened for itself closes on exec
		if s.Files[fd] == nil {
			if Inherited(fd) || fd < 3 {
				syscall.CloseOnExec(fd)
			}
			continue
		}
		if err := syscall.Dup3(fd+200, fd, 0); err != nil {
			return err
		}
		syscall.CloseOnExec(fd + 200)
	}
	if s.Dir != "" {
		if err := os.Chdir(s.Dir); err != nil {
			return err
		}
	}
	if s.Umask >= 0 {
		syscall.Umask(s.Umask)
	}
	return syscall.Exec(s.Path, s.Args, s.Env)
}

// Usage is the space of the file system that holds path.
type Usage struct{ Bytes, BytesUsed, Inodes, InodesUsed int64 }

// Statfs reports it.
func Statfs(path string) (Usage, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return Usage{}, err
	}
	b := int64(st.Bsize)
	return Usage{int64(st.Blocks) * b, int64(st.Blocks-st.Bfree) * b, int64(st.Files), int64(st.Files - st.Ffree)}, nil
}

// Ids are the numbers of this process.
func Ids() (pid, ppid, pgid, uid, gid int) {
	return os.Getpid(), os.Getppid(), syscall.Getpgrp(), os.Getuid(), os.Getgid()
}

// PollableStdin returns standard input as a file whose reads block one
// goroutine and not the process.
func PollableStdin() *os.File { return os.Stdin }

// Pipe returns a connected pair of files whose reads and writes block one
// goroutine and not the process.
func Pipe() (r, w *os.File, err error) { return os.Pipe() }

// Inherited reports whether a descriptor was given to this process: those
// that Go opens for itself close on exec.
func Inherited(fd int) bool {
	flags, _, no := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0)
	return no == 0 && flags&syscall.FD_CLOEXEC == 0
}

// Random fills b from the kernel. Generators with a state of their own would
// give the same numbers in every process that starts from one snapshot.
func Random(b []byte) {
	f, err := os.Open("/dev/urandom")
	if err == nil {
		_, err = io.ReadFull(f, b)
		f.Close()
	}
	if err != nil {
		panic(err)
	}
}
