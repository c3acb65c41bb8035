package backendtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// A machine is what runs a fake sandbox's commands: processes or functions.
type machine interface {
	// run runs a command to its end. When ctx ends it kills the command and
	// all it started, and returns the cause.
	run(ctx context.Context, e backends.Exec) (backends.Exit, error)

	// running lists the commands that run, also in the background.
	running() []string

	// destroy kills everything and removes every file.
	destroy()
}

// A fakeSandbox is what process and memory mode have in common: when it
// lives, what ends a command, and the faults.
type fakeSandbox struct {
	fake    *Fake
	backend *fakeBackend
	number  int64
	id      string
	owner   backends.Owner // who made it, whoever adopted it since
	spec    backends.Spec
	machine machine
	held    *os.File // Held: an open end of its pipe
	done    chan struct{}

	mu      sync.Mutex
	reason  error // why it ends; nil as long as it lives
	left    bool  // for somebody to adopt
	execs   map[*gate]context.CancelCauseFunc
	dieDate *time.Timer
}

func newFakeSandbox(b *fakeBackend) (_ *fakeSandbox, err error) {
	f := b.fake
	n := f.nextID.Add(1)
	s := &fakeSandbox{
		fake: f, backend: b, number: n, id: fmt.Sprintf("%s-%d", f.name, n), owner: b.spec.Owner, spec: b.spec,
		done: make(chan struct{}), execs: map[*gate]context.CancelCauseFunc{},
	}
	if f.inMemory {
		s.machine = newMemoryMachine(s.id, b.spec)
	} else if s.machine, err = newProcessMachine(f, s.id, b.spec); err != nil {
		return nil, err
	}
	if f.held {
		if err := s.hold(); err != nil {
			s.machine.destroy()
			return nil, err
		}
	}
	f.mu.Lock()
	f.live[s.id] = s
	f.mu.Unlock()
	return s, nil
}

func (s *fakeSandbox) ID() string            { return s.id }
func (s *fakeSandbox) Done() <-chan struct{} { return s.done }

func (s *fakeSandbox) Err() error {
	select {
	case <-s.done:
		return s.reason // written before done was closed
	default:
		return nil
	}
}

func (s *fakeSandbox) Exec(ctx context.Context, e backends.Exec) (backends.Exit, error) {
	s.fake.execs.Add(1)
	faults := s.fake.faults.Load()
	if err := faults.Exec; err != nil {
		if errors.Is(err, backends.ErrGone) {
			s.end(err, 0)
		}
		return backends.Exit{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := &gate{fail: cancel}
	if err := s.enter(out, cancel); err != nil {
		return backends.Exit{}, err
	}
	defer s.leave(out)
	defer out.shut()
	if err := sleep(ctx, faults.ExecDelay); err != nil {
		return backends.Exit{}, err
	}
	e.Stdout, e.Stderr = out.writer(e.Stdout), out.writer(e.Stderr)
	if faults.Garbage != "" {
		io.WriteString(e.Stdout, faults.Garbage)
	}
	if e.Dir == "" {
		e.Dir = s.spec.Dir
	}
	env := maps.Clone(s.spec.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, e.Env)
	e.Env = env
	return s.machine.run(ctx, e)
}

// enter notes a command that starts; cancel ends it.
func (s *fakeSandbox) enter(out *gate, cancel context.CancelCauseFunc) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != nil {
		return s.reason
	}
	s.execs[out] = cancel
	return nil
}

func (s *fakeSandbox) leave(out *gate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.execs, out)
}

func (s *fakeSandbox) Close(ctx context.Context) error {
	faults := s.fake.faults.Load()
	if faults.Close != nil {
		return faults.Close
	}
	s.end(backends.ErrClosed, faults.CloseDelay)
	select {
	case <-s.done:
		return nil
	default:
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// hold makes the pipe of a Held sandbox, which ends when the last descriptor
// of its write end is closed.
func (s *fakeSandbox) hold() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	s.held = w
	go func() {
		defer r.Close()
		_, _ = r.Read(make([]byte, 1))
		s.fake.mu.Lock()
		now := s.fake.live[s.id] // whoever has adopted it
		s.fake.mu.Unlock()
		if now == nil {
			return
		}
		if now.end(&backends.GoneError{Reason: "its connection ended"}, 0); !now.lives() {
			now.destroy()
		}
	}()
	return nil
}

// Ticket names the sandbox; with Held it has a descriptor, too.
func (s *fakeSandbox) Ticket() (backends.Ticket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != nil {
		return backends.Ticket{}, s.reason
	}
	t := backends.Ticket{ID: s.id, Data: []byte(s.id)}
	if s.held != nil {
		fd, err := syscall.Dup(int(s.held.Fd()))
		if err != nil {
			return backends.Ticket{}, err
		}
		syscall.CloseOnExec(fd)
		t.File = os.NewFile(uintptr(fd), s.id)
	}
	return t, nil
}

// Leave ends what runs, as its successor would have to, and nothing else.
func (s *fakeSandbox) Leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopLocked(backends.ErrClosed) {
		return
	}
	s.left = true
	if s.held != nil {
		_ = s.held.Close()
	}
	close(s.done)
}

// lives reports whether the sandbox has neither ended nor been left.
func (s *fakeSandbox) lives() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.left
}

// stopLocked ends the commands of the sandbox, once, for that reason.
func (s *fakeSandbox) stopLocked(reason error) bool {
	if s.reason != nil {
		return false
	}
	s.reason = reason
	for _, cancel := range s.execs {
		cancel(reason)
	}
	if s.dieDate != nil {
		s.dieDate.Stop()
	}
	return true
}

// destroy removes what is left of the sandbox.
func (s *fakeSandbox) destroy() {
	s.machine.destroy()
	s.fake.mu.Lock()
	delete(s.fake.live, s.id)
	s.fake.mu.Unlock()
}

// end begins to destroy the sandbox, for that reason; done is closed when it
// is gone. Only the first call counts.
func (s *fakeSandbox) end(reason error, delay time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopLocked(reason) {
		return
	}
	go func() { // ends when done is closed, which is what Close and Kill wait for
		time.Sleep(delay)
		s.destroy()
		if s.held != nil {
			_ = s.held.Close()
		}
		close(s.done)
	}()
}

// dieAfter lets the sandbox end by itself.
func (s *fakeSandbox) dieAfter(d time.Duration, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dieDate = time.AfterFunc(d, func() { s.end(&backends.GoneError{Reason: reason}, 0) })
}

// A gate lets the output of one command through, one write at a time, until
// Exec returns; what background processes write later is discarded.
type gate struct {
	fail context.CancelCauseFunc // told of the first write that fails

	mu     sync.Mutex
	closed bool
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

func (g *gate) writer(w io.Writer) io.Writer {
	if w == nil {
		w = io.Discard
	}
	return gateWriter{g, w}
}

type gateWriter struct {
	gate *gate
	w    io.Writer
}

func (w gateWriter) Write(p []byte) (int, error) {
	w.gate.mu.Lock()
	defer w.gate.mu.Unlock()
	if w.gate.closed {
		return len(p), nil
	}
	n, err := w.w.Write(p)
	if err != nil {
		w.gate.fail(err)
		w.gate.closed = true
	}
	return n, err
}
