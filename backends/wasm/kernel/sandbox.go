package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Limits bound what one sandbox may use. All must be positive but Fuel.
type Limits struct {
	Memory    int64 // bytes of all processes: linear memory, arguments, pipes
	Bytes     int64 // of files
	Inodes    int64
	Processes int
	Files     int   // descriptors of one process
	Fuel      int64 // instructions of one Exec; 0 = no limit

	GuestModules bool // modules that were written in the sandbox may be run
}

// ErrClosed is returned for a sandbox that was closed.
var ErrClosed = errors.New("sandbox is closed")

// Sandbox is one small machine: files, and processes that share them.
type Sandbox struct {
	kernel  *Kernel
	limits  Limits
	boot    time.Time
	paths   map[*Program]string // of the image
	mu      sync.Mutex
	fs      fileSystem
	procs   map[int]*Proc
	lastPid int
	memory  int64 // charged
	used    []*instance
	closed  bool

	guests     []*Program // modules written in here that were run
	guestBytes int64

	use     atomic.Int64   // nanoseconds of all processes, for the scheduler
	running sync.WaitGroup // processes
}

// File is one file of the image a sandbox starts with. The image is shared:
// its bytes are never written to.
type File struct {
	Path    string // absolute; its directory comes before it
	Mode    uint32 // permissions; 0 = 0755 for directories and programs, else 0644
	Dir     bool
	Link    string   // target of a symbolic link
	Program *Program // a module on PATH, ready to run
	Data    []byte
}

// NewSandbox makes a sandbox with the files of an image. It cannot fail for
// an image that worked once.
func (k *Kernel) NewSandbox(limits Limits, image []File) *Sandbox {
	sb := &Sandbox{kernel: k, limits: limits, boot: time.Now(), procs: map[int]*Proc{}, lastPid: 1, paths: map[*Program]string{}}
	const plenty = 1 << 40 // for the image, which does not count
	sb.fs = fileSystem{now: time.Now, quota: quota{bytes: plenty, inodes: plenty, fileMax: limits.Bytes}}
	sb.fs.root, _ = sb.fs.make(sIFDIR | 0o755)
	sb.fs.root.nlink, sb.fs.root.dir.parent = 1, sb.fs.root
	for _, f := range image {
		if err := sb.add(f); err != nil {
			panic(fmt.Sprintf("image: %s: %v", f.Path, err))
		}
	}
	sb.mountDevices()
	sb.mountProc()
	q := &sb.fs.quota
	q.bytes, q.inodes = limits.Bytes+q.used, limits.Inodes+q.inodesUsed
	return sb
}

func (sb *Sandbox) add(f File) error {
	at, e := sb.fs.walk(nil, sb.fs.root, f.Path, false)
	if e != ok {
		return e
	}
	if f.Dir && at.node != nil && at.node.is(sIFDIR) {
		return nil
	}
	mode := f.Mode
	switch {
	case f.Link != "":
		if e := sb.fs.symlink(at, f.Link); e != ok {
			return e
		}
		return nil
	case mode == 0 && (f.Dir || f.Program != nil):
		mode = 0o755
	case mode == 0:
		mode = 0o644
	}
	typ := uint32(sIFREG)
	if f.Dir {
		typ = sIFDIR
	}
	_, e = sb.fs.create(at, typ|mode, func(n *node) errno {
		switch {
		case f.Program != nil:
			n.prog, n.data = f.Program, imageContent(f.Program.Bytes)
			sb.paths[f.Program] = f.Path
		case len(f.Data) > 0:
			n.data = imageContent(f.Data)
		}
		return ok
	})
	if e != ok {
		return e
	}
	return nil
}

// template makes a process that no goroutine runs, for Program.initialize.
func (sb *Sandbox) template(g *Program) *Proc {
	j := &job{over: make(chan struct{})}
	p := &Proc{sb: sb, job: j, pid: 1, start: time.Now(), dead: make(chan struct{}), done: make(chan struct{}), woken: make(chan struct{}, 1)}
	null := func() fd { return fd{openFile: &openFile{refs: 1, read: true, write: true}} }
	p.become(&execution{program: g, argv: []string{"init"}, cwd: sb.fs.root, fds: []fd{null(), null(), null()}})
	return p
}

// Command is what Exec runs.
type Command struct {
	Program        *Program // nil: Argv[0] is looked up, in PATH unless it has a slash
	Argv           []string
	Env            []string // NAME=value
	Dir            string   // absolute
	Stdin          io.Reader
	Stdout, Stderr io.Writer // nil discards
}

// Result is how a command ended.
type Result struct {
	Status int  // 128+n after signal n
	OOM    bool // a process of it failed for lack of memory
	Fuel   bool // it was stopped because its fuel ran out
}

// StartError is why a command could not be started.
type StartError struct {
	Status int // what a shell would give: 127 not found, else 126
	What   string
	Err    error
}

func (e *StartError) Error() string { return e.What + ": " + e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// Exec runs a command to its end. When ctx ends, or a write to Stdout or
// Stderr fails, it kills the command and everything that it started, and
// returns context.Cause(ctx) or the writer's error. What a command that ended
// by itself leaves behind runs on; its output is lost.
func (sb *Sandbox) Exec(ctx context.Context, c Command) (Result, error) {
	j := &job{over: make(chan struct{}), limited: sb.limits.Fuel > 0}
	j.fuel.Store(sb.limits.Fuel)
	out := &sink{w: c.Stdout, job: j}
	errs := out
	if !same(c.Stdout, c.Stderr) {
		errs = &sink{w: c.Stderr, job: j}
	}
	defer out.close()
	defer errs.close()

	sb.mu.Lock()
	p, in, err := sb.start(ctx, j, c, out, errs)
	sb.mu.Unlock()
	if err != nil {
		return Result{}, err
	}
	if in != nil {
		stop := sb.feed(in, c.Stdin)
		defer stop()
	}

	select {
	case <-p.done:
	case <-j.over:
	case <-ctx.Done():
	}
	sb.mu.Lock()
	killed := ctx.Err() != nil && !p.reported || j.err != nil || j.empty
	if killed {
		sb.kill(j)
	}
	sb.mu.Unlock()
	if killed {
		j.running.Wait()
	}
	<-p.done
	sb.mu.Lock()
	defer sb.mu.Unlock()
	switch {
	case sb.closed:
		return Result{}, ErrClosed
	case j.err != nil:
		return Result{}, j.err
	case j.empty:
		return Result{Status: 128 + sigKILL, Fuel: true}, nil
	case killed:
		return Result{}, context.Cause(ctx)
	}
	return Result{Status: p.status, OOM: j.oom}, nil
}

// start starts the first process of a job. in is the pipe of its standard
// input, if it has one.
func (sb *Sandbox) start(ctx context.Context, j *job, c Command, out, errs *sink) (p *Proc, in *pipe, err error) {
	if sb.closed {
		return nil, nil, ErrClosed
	}
	dir, e := sb.fs.find(nil, sb.fs.root, c.Dir, true)
	if e == ok && !dir.is(sIFDIR) {
		e = eNOTDIR
	}
	if e != ok {
		return nil, nil, &StartError{126, "working directory " + c.Dir, e}
	}
	x := &execution{cwd: dir, env: c.Env, program: c.Program, file: c.Argv[0], argv: c.Argv}
	if x.program == nil {
		path := c.Argv[0]
		if !strings.Contains(path, "/") {
			if path = sb.lookPath(dir, path, c.Env); path == "" {
				return nil, nil, &StartError{127, c.Argv[0], errors.New("command not found")}
			}
		}
		if x.program, x.argv, e = sb.program(ctx, sb.unlocked, dir, path, c.Argv); e != ok {
			status := 126
			if e == eNOENT {
				status = 127
			}
			return nil, nil, &StartError{status, c.Argv[0], e}
		}
	}
	x.size = int64(x.program.size) + stringsSize(x.argv, x.env)
	stdin := &openFile{refs: 1, read: true}
	if c.Stdin != nil {
		if !sb.charge(pipeSize) {
			return nil, nil, &StartError{126, c.Argv[0], eNOMEM}
		}
		in = &pipe{readers: 1, writers: 1}
		stdin.pipe = in
	}
	x.fds = []fd{{openFile: stdin}, {openFile: &openFile{refs: 1, write: true, sink: out}}, {openFile: &openFile{refs: 1, write: true, sink: errs}}}
	p, e = sb.spawn(nil, j, x)
	if e != ok {
		if in != nil {
			in.close(false, true)
			sb.uncharge(pipeSize)
		}
		return nil, nil, &StartError{126, c.Argv[0], e}
	}
	return p, in, nil
}

func (sb *Sandbox) unlocked(f func()) {
	sb.mu.Unlock()
	defer sb.mu.Lock()
	f()
}

// lookPath finds a command as execvp does.
func (sb *Sandbox) lookPath(dir *node, name string, env []string) string {
	path := ""
	for _, s := range env {
		if v, found := strings.CutPrefix(s, "PATH="); found {
			path = v
		}
	}
	for d := range strings.SplitSeq(path, ":") {
		if d == "" {
			d = "."
		}
		n, e := sb.fs.find(nil, dir, d+"/"+name, true)
		if e == ok && n.is(sIFREG) && n.mode&0o111 != 0 {
			return d + "/" + name
		}
	}
	return ""
}

// feed copies r into the pipe until one of them ends. The function it returns
// stops that and waits for it.
func (sb *Sandbox) feed(q *pipe, r io.Reader) (stop func()) {
	stopped, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 32<<10)
		for open := true; open; {
			n, err := r.Read(buf)
			open = sb.pour(q, buf[:n], stopped) && err == nil
		}
		sb.mu.Lock()
		defer sb.mu.Unlock()
		q.close(false, true)
		if q.readers == 0 {
			sb.uncharge(pipeSize)
		}
	}()
	return func() {
		close(stopped)
		<-done
	}
}

// pour writes b to a pipe from outside; false: nobody wants more.
func (sb *Sandbox) pour(q *pipe, b []byte, stopped <-chan struct{}) bool {
	woken := make(chan struct{}, 1)
	sb.mu.Lock()
	defer sb.mu.Unlock()
	for {
		select {
		case <-stopped:
			return false
		default:
		}
		if q.readers == 0 {
			return false
		}
		if b = b[q.put(b):]; len(b) == 0 {
			return true
		}
		q.queue.add(woken)
		sb.mu.Unlock()
		select {
		case <-woken:
		case <-stopped:
		}
		sb.mu.Lock()
		q.queue.remove(woken)
	}
}

// Close kills everything in the sandbox and waits until it is gone.
func (sb *Sandbox) Close() {
	sb.mu.Lock()
	sb.closed = true
	for _, p := range sb.procs {
		p.kill(sigKILL)
	}
	sb.mu.Unlock()
	sb.running.Wait()
	sb.mu.Lock()
	defer sb.mu.Unlock()
	for _, in := range sb.used {
		in.module.Close(context.Background())
	}
	sb.used = nil
	for _, g := range sb.guests {
		sb.kernel.Release(g)
	}
	sb.guests = nil
}

// sink is where output leaves the sandbox. Processes may outlive the command
// whose sink it is; what they write then is dropped.
type sink struct {
	job *job

	mu     sync.Mutex
	w      io.Writer
	closed bool
}

func (s *sink) write(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.w == nil {
		return nil
	}
	_, err := s.w.Write(b)
	if err != nil {
		s.closed = true
	}
	return err
}

// same reports whether two writers are one, so that calls to it may not
// overlap.
func same(a, b io.Writer) bool {
	return a != nil && b != nil && reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

func (s *sink) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
}

// writeSink writes to the outside, and ends the job when that fails.
func (p *Proc) writeSink(s *sink, b []byte) (int, errno) {
	if len(b) == 0 {
		return 0, ok
	}
	var err error
	p.unlocked(func() { err = s.write(b) })
	if err != nil && s.job.err == nil {
		s.job.err = err
		p.sb.kill(s.job)
	}
	p.check()
	return len(b), ok
}
