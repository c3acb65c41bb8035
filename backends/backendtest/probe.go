package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// A probe is what one case works with. Its methods stop the case when a step
// hangs, and hold the promises that every single Create and Exec must keep:
// progress reports, distinct ids, writers and readers left alone afterwards.
type probe struct {
	testing.TB
	suite   *suite
	backend backends.Backend
	sandbox backends.Sandbox
}

func (c *probe) target() Target          { return c.suite.target }
func (c *probe) patience() time.Duration { return c.suite.target.Patience }

// need skips the case when the target lacks one of ns.
func (c *probe) need(ns ...Need) {
	c.Helper()
	for _, n := range ns {
		if why := c.lacks(n); why != "" {
			c.Skipf("needs %s: %s", n, why)
		}
	}
}

func (c *probe) lacks(n Need) string {
	f := c.target().Driver.Features
	switch {
	case c.target().Lacks[n] != "":
		return c.target().Lacks[n]
	case n == Shell && !f.Shell && c.spec(nil).Shell == "",
		n == Background && !f.Background,
		n == Signals && !f.Signals,
		n == Adopt && !f.Adopt:
		return "not among the driver's Features"
	}
	return ""
}

// spec is what the suite opens the driver with.
func (c *probe) spec(adjust func(*backends.Spec)) backends.Spec {
	s := backends.Spec{Profile: "backendtest", Owner: c.suite.owner}
	if f := c.target().Spec; f != nil {
		f(&s)
	}
	if adjust != nil {
		adjust(&s)
	}
	return s
}

func (c *probe) options() backends.Options {
	if f := c.target().Options; f != nil {
		return f(c)
	}
	return c.target().Driver.Options()
}

// open returns a backend of the case's own.
func (c *probe) open(adjust func(*backends.Spec)) backends.Backend {
	c.Helper()
	return c.openWith(c.spec(adjust), c.options())
}

func (c *probe) openWith(s backends.Spec, o backends.Options) backends.Backend {
	c.Helper()
	b, err := c.target().Driver.Open(s, o, slog.New(slog.DiscardHandler))
	if err != nil {
		c.Fatalf("open: %v", err)
	}
	c.Cleanup(func() {
		var err error
		c.within("Backend.Close", func() { err = b.Close() })
		if err != nil {
			c.Errorf("Backend.Close: %v", err)
		}
	})
	return b
}

// create returns a sandbox of the case's own.
func (c *probe) create(b backends.Backend) backends.Sandbox {
	c.Helper()
	sb, err := c.tryCreate(c.Context(), b)
	if err != nil {
		c.Fatalf("create: %v", err)
	}
	c.Cleanup(func() { c.close(sb) })
	return sb
}

// tryCreate creates and holds Create to what it promises in any case. It may
// be called from any goroutine.
func (c *probe) tryCreate(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
	c.Helper()
	var busy, over atomic.Bool
	ctx = backends.WithProgress(ctx, func(p backends.Progress) {
		switch {
		case over.Load():
			c.suite.misdeed("progress was reported after Create returned")
		case !busy.CompareAndSwap(false, true):
			c.suite.misdeed("two progress reports at once")
		case p.Message == "" || p.Done < 0 || p.Total < 0 || p.Total > 0 && p.Done > p.Total:
			c.suite.misdeed(fmt.Sprintf("progress makes no sense: %+v", p))
		}
		runtime.Gosched()
		busy.Store(false)
	})
	var sb backends.Sandbox
	var err error
	c.within("Create", func() { sb, err = b.Create(ctx); over.Store(true) })
	if err != nil {
		return nil, err
	}
	s := c.suite
	s.mu.Lock()
	again := s.ids[sb.ID()]
	s.ids[sb.ID()] = true
	s.mu.Unlock()
	if sb.ID() == "" || again {
		s.misdeed(fmt.Sprintf("sandbox id %q is empty or was there before", sb.ID()))
	}
	return sb, nil
}

// close destroys a sandbox, which may be gone already.
func (c *probe) close(sb backends.Sandbox) {
	c.Helper()
	var err error
	c.within("Sandbox.Close", func() { err = sb.Close(context.Background()) })
	if err != nil {
		c.Errorf("Sandbox.Close: %v", err)
	}
}

// nothingLeft fails the case when the engine still holds something of ours.
func (c *probe) nothingLeft() {
	c.Helper()
	if left := c.leftovers(); len(left) > 0 {
		c.Errorf("left behind: %s", strings.Join(left, ", "))
	}
}

func (c *probe) leftovers() []string {
	c.Helper()
	if c.target().Leftovers == nil {
		return nil
	}
	return c.target().Leftovers(c, c.suite.owner)
}

// within stops the case when f, a call into the backend, does not return. A
// hung call is what users of the Python original met most.
func (c *probe) within(what string, f func()) {
	c.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	c.await(what, done)
}

// await stops the case when done is not closed in time.
func (c *probe) await(what string, done <-chan struct{}) {
	c.Helper()
	timer := time.NewTimer(c.patience())
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		buf := make([]byte, 1<<20)
		c.Fatalf("%s: not back after %v\n%s", what, c.patience(), buf[:runtime.Stack(buf, true)])
	}
}

// A result is how an Exec ended and what it wrote.
type result struct {
	stdout, stderr string
	backends.Exit
	err error
}

func (r result) String() string {
	return fmt.Sprintf("stdout %s, stderr %s, exit %+v, error %v", clip(r.stdout), clip(r.stderr), r.Exit, r.err)
}

// ok reports whether the command ran and ended with that code.
func (r result) ok(code int) bool { return r.err == nil && r.Code == code }

// clip quotes s, or its beginning and size.
func clip(s string) string {
	if len(s) > 400 {
		return fmt.Sprintf("%q… (%d bytes)", s[:400], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// exec runs e in sb with writers and a reader that notice misuse. What it
// wrote is in the result unless e has writers of its own.
func (c *probe) exec(ctx context.Context, sb backends.Sandbox, e backends.Exec) (r result) {
	c.Helper()
	c.within("Exec", func() { r = c.execGuarded(ctx, sb, e) })
	return r
}

// execGuarded is exec without an end to its patience.
func (c *probe) execGuarded(ctx context.Context, sb backends.Sandbox, e backends.Exec) (r result) {
	var stdout, stderr bytes.Buffer
	var over atomic.Bool
	guard := func(name string, w io.Writer, buf *bytes.Buffer) io.Writer {
		if w == nil {
			w = buf
		}
		return &guardedWriter{suite: c.suite, name: name, over: &over, w: w}
	}
	e.Stdout, e.Stderr = guard("Stdout", e.Stdout, &stdout), guard("Stderr", e.Stderr, &stderr)
	if e.Stdin != nil {
		e.Stdin = &guardedReader{suite: c.suite, over: &over, r: e.Stdin}
	}
	if e.Dir == "" {
		e.Dir = c.target().Scratch
	}
	r.Exit, r.err = sb.Exec(ctx, e)
	over.Store(true)
	r.stdout, r.stderr = stdout.String(), stderr.String()
	return r
}

// sh runs a script in the case's sandbox.
func (c *probe) sh(script string) result {
	c.Helper()
	return c.exec(c.Context(), c.sandbox, backends.Exec{Command: script})
}

// output runs a script that must succeed and returns its stdout.
func (c *probe) output(sb backends.Sandbox, script string) string {
	c.Helper()
	r := c.exec(c.Context(), sb, backends.Exec{Command: script})
	if !r.ok(0) {
		c.Fatalf("%s: %v", clip(script), r)
	}
	return r.stdout
}

// verb is the Exec of a verb; it skips the case when the target lacks it.
func (c *probe) verb(v Verb, words ...string) backends.Exec {
	c.Helper()
	argv := append([]string{string(v)}, words...)
	if f := c.target().Argv; f != nil {
		argv = f(v, words...)
	} else if v == Exit {
		argv = []string{"sh", "-c", "exit " + strings.Join(words, " ")}
	}
	if argv == nil {
		c.Skipf("the target has no %q", v)
	}
	return backends.Exec{Args: argv}
}

// usable fails the case when sb does not run commands as if nothing had been.
func (c *probe) usable(sb backends.Sandbox) {
	c.Helper()
	r := c.exec(c.Context(), sb, c.verb(Echo, "still", "here"))
	if !r.ok(0) || r.stdout != "still here\n" {
		c.Fatalf("the sandbox is not usable any more: %v", r)
	}
}

// file returns an absolute path for name in the scratch directory.
func (c *probe) file(name string) string {
	c.Helper()
	dir := c.target().Scratch
	if dir == "" {
		dir = strings.TrimSuffix(c.output(c.sandbox, "pwd"), "\n")
	}
	return path.Join(dir, name)
}

// errStop is the cause of every cancel in the suite.
var errStop = errors.New("the test stopped it")

// A command is an Exec that runs beside the case.
type command struct {
	c      *probe
	cancel context.CancelCauseFunc
	done   chan struct{}
	result result
}

// start begins e and does not wait. The command ends with the case at the
// latest.
func (c *probe) start(sb backends.Sandbox, e backends.Exec) *command {
	c.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	cmd := &command{c: c, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(cmd.done)
		cmd.result = c.execGuarded(ctx, sb, e)
	}()
	c.Cleanup(func() { cmd.stop() })
	return cmd
}

// wait returns how the command ended by itself.
func (cmd *command) wait() result {
	cmd.c.Helper()
	cmd.c.await("Exec", cmd.done)
	return cmd.result
}

// stop cancels the command and returns how it ended.
func (cmd *command) stop() result {
	cmd.c.Helper()
	cmd.cancel(errStop)
	cmd.c.await("a cancelled Exec", cmd.done)
	return cmd.result
}

// eventually reports whether cond came true in time.
func (c *probe) eventually(cond func() bool) bool {
	for deadline := time.Now().Add(c.patience()); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// A guardedWriter passes writes on and notices the ones that must not be.
type guardedWriter struct {
	suite *suite
	name  string
	over  *atomic.Bool // the Exec has returned
	busy  atomic.Bool
	w     io.Writer
}

func (g *guardedWriter) Write(p []byte) (int, error) {
	if g.over.Load() {
		g.suite.misdeed("a write to " + g.name + " after Exec returned")
		return 0, errors.New("too late")
	}
	if !g.busy.CompareAndSwap(false, true) {
		g.suite.misdeed("two writes to " + g.name + " at once")
	}
	defer g.busy.Store(false)
	return g.w.Write(p)
}

// A guardedReader passes reads on and notices the ones that come too late.
type guardedReader struct {
	suite *suite
	over  *atomic.Bool
	r     io.Reader
}

func (g *guardedReader) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	if g.over.Load() {
		g.suite.misdeed("a read of Stdin after, or still going on when, Exec returned")
	}
	return n, err
}

// A waitWriter keeps what is written, and tells when a text has been seen.
type waitWriter struct {
	text string
	seen chan struct{}
	fail error // what the write that completes the text returns

	mu  sync.Mutex
	buf bytes.Buffer
}

func newWaitWriter(text string) *waitWriter {
	return &waitWriter{text: text, seen: make(chan struct{})}
}

func (w *waitWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := strings.Contains(w.buf.String(), w.text)
	w.buf.Write(p)
	if before || !strings.Contains(w.buf.String(), w.text) {
		return len(p), nil
	}
	close(w.seen)
	return len(p), w.fail
}

func (w *waitWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// A countingWriter counts bytes and forgets them.
type countingWriter struct {
	n     atomic.Int64
	each  func()        // called before each write; may be nil
	begun chan struct{} // closed by the first write
	once  sync.Once
}

func newCountingWriter() *countingWriter { return &countingWriter{begun: make(chan struct{})} }

func (w *countingWriter) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.begun) })
	if w.each != nil {
		w.each()
	}
	w.n.Add(int64(len(p)))
	return len(p), nil
}

// A failingWriter takes so many bytes, then fails.
type failingWriter struct {
	room int
	err  error
}

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.room -= len(p); w.room < 0 {
		return 0, w.err
	}
	return len(p), nil
}
