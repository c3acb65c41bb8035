// Package applets has the tools of the sandbox: one function and one file for
// each, with GNU's options, output and messages.
//
//	func rev(c *Ctx) {
//		o := c.options("0", "zero=0")        // getopt_long, with GNU's complaints
//		for o.next() { … }
//		for line := range c.lines(o.args) {  // the files, or standard input
//			c.print(reverse(line))
//		}
//	}
//
// A tool ends by returning; c.code is its exit status, and c.fail, c.die and
// c.exit set it. Standard output is buffered and flushed before anything is
// written to standard error and at the end.
package applets

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Call is one run of a tool.
type Call struct {
	Args   []string // Args[0] is the tool's name
	Env    []string // nil: the process's
	Dir    string   // for tools inside the shell: what relative paths are relative to
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Prefix string              // put before messages, as a shell builtin does
	Quote  func(string) string // the shell's %q
}

// Ctx is what a tool sees of its call.
type Ctx struct {
	name string
	args []string // without the name
	in   io.Reader
	out  *bufio.Writer
	err  io.Writer
	code int
	call *Call
}

// ended unwinds a tool from anywhere.
type ended struct{}

// Run runs a tool in this process and returns its exit status, 127 if there
// is none of that name.
func Run(call *Call) (code int) {
	name := filepath.Base(call.Args[0])
	f := find(name)
	if f == nil {
		fmt.Fprintf(call.Stderr, "%s: applet not found\n", name)
		return 127
	}
	c := &Ctx{name: name, args: call.Args[1:], in: call.Stdin, err: call.Stderr, call: call}
	c.out = bufio.NewWriterSize(&output{c: c, w: call.Stdout}, 32<<10)
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(ended); !ok {
				panic(r)
			}
			code = c.code
		}
	}()
	f(c)
	c.flush()
	return c.code
}

// output ends the tool when nobody reads on. After another failed write the
// tool may finish what it does, such as cp -v its copies; but not for ever.
type output struct {
	c    *Ctx
	w    io.Writer
	lost int // bytes since a write failed
}

const maxLost = 1 << 20

func (o *output) Write(p []byte) (int, error) {
	if o.lost > 0 {
		if o.lost += len(p); o.lost > maxLost {
			panic(ended{})
		}
		return len(p), nil
	}
	n, err := o.w.Write(p)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, syscall.EPIPE) {
		o.c.code = 141
		panic(ended{})
	}
	fmt.Fprintf(o.c.err, "%s%s: write error: %s\n", o.c.call.Prefix, o.c.name, Strerror(err))
	o.c.code = max(o.c.code, 1)
	o.lost = len(p)
	return len(p), nil
}

func (c *Ctx) flush() { c.out.Flush() }

// exit ends the tool.
func (c *Ctx) exit(code int) {
	c.code = code
	c.flush()
	panic(ended{})
}

// warn prints "NAME: message".
func (c *Ctx) warn(format string, a ...any) {
	c.flush()
	fmt.Fprintf(c.err, "%s%s: %s\n", c.call.Prefix, c.name, fmt.Sprintf(format, a...))
}

// fail is warn for what makes the exit status 1.
func (c *Ctx) fail(format string, a ...any) {
	c.warn(format, a...)
	c.code = max(c.code, 1)
}

// die is fail and the end.
func (c *Ctx) die(format string, a ...any) {
	c.warn(format, a...)
	c.exit(max(1, c.code))
}

// dieCode is die with another status.
func (c *Ctx) dieCode(code int, format string, a ...any) {
	c.warn(format, a...)
	c.exit(code)
}

func (c *Ctx) printf(format string, a ...any) { fmt.Fprintf(c.out, format, a...) }
func (c *Ctx) println(a ...any)               { fmt.Fprintln(c.out, a...) }
func (c *Ctx) print(s string)                 { c.out.WriteString(s) }

// environ is the whole environment.
func (c *Ctx) environ() []string {
	if c.call.Env == nil {
		return os.Environ()
	}
	return c.call.Env
}

// path makes a name absolute for tools that run inside the shell.
func (c *Ctx) path(name string) string {
	if c.call.Dir == "" || name == "" || filepath.IsAbs(name) {
		return name
	}
	return c.call.Dir + "/" + name
}

// open opens a file to read; "-" is standard input, which close leaves open.
func (c *Ctx) open(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(c.in), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if st, e := f.Stat(); e == nil && st.IsDir() {
		f.Close()
		return nil, &os.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	}
	return f, nil
}

// openDir reads a directory, sorted, and leaves it open while its files are
// looked at: who looks into /proc/self/fd finds the directory there.
func openDir(name string) (entries []os.DirEntry, close func(), err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, func() {}, err
	}
	entries, err = f.ReadDir(-1)
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, func() { f.Close() }, err
}

// inputs opens each of names in turn, or standard input if there are none.
// Those that cannot be read are complained about.
func (c *Ctx) inputs(names []string) func(func(string, io.Reader) bool) {
	if len(names) == 0 {
		names = []string{"-"}
	}
	return func(yield func(string, io.Reader) bool) {
		for _, n := range names {
			r, err := c.open(n)
			if err != nil {
				c.fail("%s: %s", n, Strerror(err))
				continue
			}
			more := yield(n, r)
			r.Close()
			if !more {
				return
			}
		}
	}
}

// lines yields the lines of r, each with its newline if it has one. The bytes
// are valid until the next one.
func lines(r io.Reader) func(func([]byte) bool) { return records(r, '\n') }

// records is lines with another delimiter.
func records(r io.Reader, delim byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		br, ok := r.(*bufio.Reader)
		if !ok {
			br = bufio.NewReaderSize(r, 64<<10)
		}
		var long []byte
		for {
			b, err := br.ReadSlice(delim)
			if err == bufio.ErrBufferFull {
				long = append(long, b...)
				continue
			}
			if len(long) > 0 {
				b = append(long, b...)
				long = nil
			}
			if len(b) > 0 && !yield(b) {
				return
			}
			if err != nil {
				return
			}
		}
	}
}

// allLines reads every line of every input without its newline.
func (c *Ctx) allLines(names []string) []string {
	var l []string
	for _, r := range c.inputs(names) {
		for b := range lines(r) {
			l = append(l, strings.TrimSuffix(string(b), "\n"))
		}
	}
	return l
}

// Strerror is the C library's text for an error.
func Strerror(err error) string {
	var no syscall.Errno
	if !errors.As(err, &no) {
		switch {
		case errors.Is(err, os.ErrClosed):
			return "Bad file descriptor"
		case errors.Is(err, os.ErrNotExist):
			return "No such file or directory"
		case errors.Is(err, io.ErrUnexpectedEOF):
			return "unexpected end of file"
		}
		var pe *os.PathError
		if errors.As(err, &pe) {
			return pe.Err.Error()
		}
		return err.Error()
	}
	switch no {
	case syscall.EPERM:
		return "Operation not permitted"
	case syscall.ENOENT:
		return "No such file or directory"
	case syscall.ESRCH:
		return "No such process"
	case syscall.EINTR:
		return "Interrupted system call"
	case syscall.EIO:
		return "Input/output error"
	case syscall.E2BIG:
		return "Argument list too long"
	case syscall.ENOEXEC:
		return "Exec format error"
	case syscall.EBADF:
		return "Bad file descriptor"
	case syscall.EAGAIN:
		return "Resource temporarily unavailable"
	case syscall.ENOMEM:
		return "Cannot allocate memory"
	case syscall.EACCES:
		return "Permission denied"
	case syscall.EBUSY:
		return "Device or resource busy"
	case syscall.EEXIST:
		return "File exists"
	case syscall.EXDEV:
		return "Invalid cross-device link"
	case syscall.ENOTDIR:
		return "Not a directory"
	case syscall.EISDIR:
		return "Is a directory"
	case syscall.EINVAL:
		return "Invalid argument"
	case syscall.ENFILE:
		return "Too many open files in system"
	case syscall.EMFILE:
		return "Too many open files"
	case syscall.EFBIG:
		return "File too large"
	case syscall.ENOSPC:
		return "No space left on device"
	case syscall.ESPIPE:
		return "Illegal seek"
	case syscall.EROFS:
		return "Read-only file system"
	case syscall.EMLINK:
		return "Too many links"
	case syscall.EPIPE:
		return "Broken pipe"
	case syscall.ENAMETOOLONG:
		return "File name too long"
	case syscall.ENOSYS:
		return "Function not implemented"
	case syscall.ENOTEMPTY:
		return "Directory not empty"
	case syscall.ELOOP:
		return "Too many levels of symbolic links"
	case syscall.EOPNOTSUPP:
		return "Operation not supported"
	}
	return no.Error()
}
