//go:build linux

package backendtest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"golang.org/x/sys/unix"
)

// A mutant is a fake that breaks one promise. The suite is right when each is
// caught by the case meant for it:
//
//	TestMutants ──starts──► this test binary, TestMutant, one mutant, one case
//	            ◄──reads─── "--- FAIL: TestMutant/Cases/THE_CASE"
//
// and complete when each case catches one.
type mutant struct {
	promise string // what is broken
	caught  string // the case that must fail
	mutate  func(f *Fake, d *backends.Driver)
	claims  func(tg *Target) // what it claims to have; may be nil
}

const (
	mutantVar     = "BACKENDTEST_MUTANT"      // the promise
	mutantMarkVar = "BACKENDTEST_MUTANT_MARK" // the mark of its processes
)

func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	seen := map[string]bool{}
	for _, m := range mutants {
		if seen[m.promise] {
			t.Fatalf("two mutants are called %q", m.promise)
		}
		seen[m.promise], seen[m.caught] = true, true
		t.Run(m.promise, func(t *testing.T) {
			t.Parallel()
			want := "TestMutant/Cases/" + m.caught
			if m.caught == "NothingLeft" {
				want = "TestMutant/NothingLeft"
			}
			try := func() (caught bool, out []byte, err error) {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestMutant$/^(Cases|NothingLeft)$/^"+m.caught+"$", "-test.v")
				dir, mark := t.TempDir(), rand.Text()
				cmd.Env = append(os.Environ(), "TMPDIR="+dir, mutantVar+"="+m.promise, mutantMarkVar+"="+mark)
				defer killLeft(dir, mark)
				out, err = cmd.CombinedOutput()
				return err != nil && strings.Contains(string(out), "--- FAIL: "+want+" "), out, err
			}
			var caught bool
			var out []byte
			var err error
			for range 3 { // some are races, which a busy machine may not show
				if caught, out, err = try(); caught {
					return
				}
			}
			t.Errorf("%s was not caught by %s (%v):\n%s", m.promise, m.caught, err, out)
		})
	}
	for _, k := range cases {
		if !seen[k.name] {
			t.Errorf("no mutant shows that %s can fail", k.name)
		}
	}
}

// killLeft kills what a mutant left: processes with its mark, or, if they
// dropped it, in its directory.
func killLeft(dir, mark string) {
	killMarked(mark)
	for pid := range processes(mark) {
		if cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); strings.HasPrefix(cwd, dir+"/") {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// TestMutant is the other side of TestMutants.
func TestMutant(t *testing.T) {
	i := slices.IndexFunc(mutants, func(m mutant) bool { return m.promise == os.Getenv(mutantVar) })
	if i < 0 {
		t.Skip("only run by TestMutants")
	}
	f := NewFake()
	f.mark = cmp.Or(os.Getenv(mutantMarkVar), f.mark)
	tg := processTarget(f)
	tg.Patience = time.Second
	if mutants[i].claims != nil {
		mutants[i].claims(&tg)
	}
	if mutants[i].mutate != nil {
		mutants[i].mutate(f, &tg.Driver)
	}
	Run(t, tg)
}

// The pieces that mutants are made of.

type (
	execFunc   = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error)
	adoptFunc  = func(ctx context.Context, b backends.Backend, t backends.Ticket) (backends.Sandbox, error)
	createFunc = func(ctx context.Context, b backends.Backend) (backends.Sandbox, error)
	closeFunc  = func(ctx context.Context, sb backends.Sandbox) error
)

// opened changes each backend that is opened.
func opened(change func(f *Fake, b *mutantBackend)) func(*Fake, *backends.Driver) {
	return func(f *Fake, d *backends.Driver) {
		open := d.Open
		d.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
			b, err := open(s, o, l)
			if err != nil {
				return nil, err
			}
			m := &mutantBackend{Backend: b}
			change(f, m)
			return m, nil
		}
	}
}

type mutantBackend struct {
	backends.Backend
	create createFunc
	adopt  adoptFunc
	check  func(context.Context) error
}

func (m *mutantBackend) Adopt(ctx context.Context, t backends.Ticket) (backends.Sandbox, error) {
	if m.adopt != nil {
		return m.adopt(ctx, m.Backend, t)
	}
	return m.Backend.Adopt(ctx, t)
}

func (m *mutantBackend) Create(ctx context.Context) (backends.Sandbox, error) {
	if m.create != nil {
		return m.create(ctx, m.Backend)
	}
	return m.Backend.Create(ctx)
}

func (m *mutantBackend) Check(ctx context.Context) error {
	if m.check != nil {
		return m.check(ctx)
	}
	return m.Backend.Check(ctx)
}

// made changes each sandbox that is created.
func made(change func(f *Fake, m *mutantSandbox)) func(*Fake, *backends.Driver) {
	return opened(func(f *Fake, b *mutantBackend) {
		b.create = func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
			sb, err := b.Create(ctx)
			if err != nil {
				return nil, err
			}
			m := &mutantSandbox{Sandbox: sb, id: sb.ID()}
			change(f, m)
			return m, nil
		}
	})
}

type mutantSandbox struct {
	backends.Sandbox
	id    string
	exec  execFunc
	close closeFunc
	err   func() error
	done  chan struct{}

	ticket func() (backends.Ticket, error)
	leave  func()
}

func (m *mutantSandbox) Ticket() (backends.Ticket, error) {
	if m.ticket != nil {
		return m.ticket()
	}
	return m.Sandbox.Ticket()
}

func (m *mutantSandbox) Leave() {
	if m.leave != nil {
		m.leave()
		return
	}
	m.Sandbox.Leave()
}

func (m *mutantSandbox) ID() string { return m.id }

func (m *mutantSandbox) Exec(ctx context.Context, e backends.Exec) (backends.Exit, error) {
	if m.exec != nil {
		return m.exec(ctx, m.Sandbox, e)
	}
	return m.Sandbox.Exec(ctx, e)
}

func (m *mutantSandbox) Close(ctx context.Context) error {
	if m.close != nil {
		return m.close(ctx, m.Sandbox)
	}
	return m.Sandbox.Close(ctx)
}

func (m *mutantSandbox) Err() error {
	if m.err != nil {
		return m.err()
	}
	return m.Sandbox.Err()
}

func (m *mutantSandbox) Done() <-chan struct{} {
	if m.done != nil {
		return m.done
	}
	return m.Sandbox.Done()
}

func creates(fn createFunc) func(*Fake, *backends.Driver) {
	return opened(func(_ *Fake, b *mutantBackend) { b.create = fn })
}

func adopts(fn adoptFunc) func(*Fake, *backends.Driver) {
	return opened(func(_ *Fake, b *mutantBackend) { b.adopt = fn })
}

func execs(fn execFunc) func(*Fake, *backends.Driver) {
	return made(func(_ *Fake, m *mutantSandbox) { m.exec = fn })
}

// before changes each Exec before it runs; after what comes of it.
func before(change func(e *backends.Exec)) func(*Fake, *backends.Driver) {
	return execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		change(&e)
		return sb.Exec(ctx, e)
	})
}

func after(change func(ctx context.Context, sb backends.Sandbox, x *backends.Exit, err error) error) func(*Fake, *backends.Driver) {
	return execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		x, err := sb.Exec(ctx, e)
		err = change(ctx, sb, &x, err)
		return x, err
	})
}

func closes(fn closeFunc) func(*Fake, *backends.Driver) {
	return made(func(_ *Fake, m *mutantSandbox) { m.close = fn })
}

func kills(fn func(m *processMachine, execID string)) func(*Fake, *backends.Driver) {
	return func(f *Fake, _ *backends.Driver) { f.wrongKill = fn }
}

// writes changes both writers.
func writes(change func(w io.Writer) io.Writer) func(*Fake, *backends.Driver) {
	return before(func(e *backends.Exec) { e.Stdout, e.Stderr = change(e.Stdout), change(e.Stderr) })
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// buffered gives e a Stdout that keeps everything, and flush to write it.
func buffered(e *backends.Exec) (flush func() error) {
	var buf bytes.Buffer
	w := cmp.Or(e.Stdout, io.Discard)
	e.Stdout = &buf
	return func() error { _, err := w.Write(buf.Bytes()); return err }
}

// ofSandbox is what a fake's process sandbox consists of.
func ofSandbox(sb backends.Sandbox) *processMachine {
	return sb.(*fakeSandbox).machine.(*processMachine)
}

// strike signals those processes of an exec that match, given the one that
// the exec itself started. Nothing without the fake's mark can be hit.
func strike(m *processMachine, execID string, s syscall.Signal, match func(leader, p *process) bool) {
	all := marked(m.mark(execID))
	i := slices.IndexFunc(all, func(p *process) bool { return p.parent == os.Getpid() })
	if i < 0 {
		return // it has ended
	}
	for _, p := range all {
		if match(all[i], p) {
			syscall.Kill(p.pid, s)
		}
	}
}

var errMutant = errors.New("broken by a mutant")

// kept is what must not be collected.
var kept struct {
	sync.Mutex
	files []*os.File
}

func leakFile() {
	f, _ := os.Open(os.DevNull)
	kept.Lock()
	defer kept.Unlock()
	kept.files = append(kept.files, f)
}

var mutants = []mutant{
	// Driver and Backend.
	{promise: "Options is one value for all", caught: "Driver", mutate: func(_ *Fake, d *backends.Driver) {
		o := d.Options()
		d.Options = func() backends.Options { return o }
	}},
	{promise: "the driver's name cannot be written", caught: "Driver", mutate: func(_ *Fake, d *backends.Driver) { d.Name = "A Fake" }},
	{promise: "Describe is silent about the network", caught: "Describe", mutate: func(_ *Fake, d *backends.Driver) {
		d.Describe = func(backends.Spec, backends.Options) string { return "A sandbox." }
	}},
	{promise: "Describe always says that the network is off", caught: "Describe", mutate: func(_ *Fake, d *backends.Driver) {
		d.Describe = func(backends.Spec, backends.Options) string { return "A sandbox. Network is off." }
	}},
	{promise: "Check fails although all is well", caught: "Check", mutate: opened(func(_ *Fake, b *mutantBackend) {
		b.check = func(context.Context) error { return errMutant }
	})},
	{promise: "Check makes a sandbox", caught: "Check", mutate: opened(func(_ *Fake, b *mutantBackend) {
		b.check = func(ctx context.Context) error { _, err := b.Backend.Create(ctx); return err }
	})},

	// Exec: how a command ends.
	{promise: "a nonzero status is an error", caught: "ExitCodes", mutate: after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		if x.Code != 0 {
			return fmt.Errorf("exit status %d", x.Code)
		}
		return err
	})},
	{promise: "statuses lose their high bit", caught: "ExitCodes", mutate: after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		x.Code &= 0x7f
		return err
	})},
	{promise: "every failure is OOM", caught: "ExitCodes", mutate: after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		x.OOM = x.Code != 0
		return err
	})},
	{promise: "death by signal is -1", caught: "Signals", mutate: after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		if x.Code > 128 {
			x.Code = -1
		}
		return err
	})},
	{promise: "not found is 126", caught: "NotFound", mutate: after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		if x.Code == 127 {
			x.Code = 126
		}
		return err
	})},
	{promise: "not found is an error", caught: "NotFound", mutate: after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		if x.Code == 127 {
			return errMutant
		}
		return err
	})},
	{promise: "the reason of 127 is on stdout", caught: "NotFound", mutate: before(func(e *backends.Exec) { e.Stderr = e.Stdout })},
	{promise: "the reason of 127 is missing", caught: "NotFound", mutate: before(func(e *backends.Exec) { e.Stderr = nil })},
	{promise: "not executable is 127", caught: "NotExecutable", mutate: after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		if x.Code == 126 {
			x.Code = 127
		}
		return err
	})},
	{promise: "a bad directory is ignored", caught: "BadDirectory", mutate: before(func(e *backends.Exec) {
		if _, err := os.Stat(e.Dir); err != nil {
			e.Dir = ""
		}
	})},
	{promise: "a bad directory looks like a missing command", caught: "BadDirectory", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		if _, err := os.Stat(e.Dir); e.Dir != "" && err != nil {
			fmt.Fprintln(e.Stderr, "exec: no such file or directory")
			return backends.Exit{Code: 127}, nil
		}
		return sb.Exec(ctx, e)
	})},

	// Exec: what goes in and out.
	{promise: "stderr goes to stdout", caught: "StreamsApart", mutate: before(func(e *backends.Exec) { e.Stderr = e.Stdout })},
	{promise: "pieces change places", caught: "StreamOrder", mutate: writes(func(w io.Writer) io.Writer {
		return writerFunc(func(p []byte) (int, error) {
			half := len(p) / 2
			w.Write(p[half:])
			w.Write(p[:half])
			return len(p), nil
		})
	})},
	{promise: "output comes at the end", caught: "OutputAsItComes", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		flush := buffered(&e)
		x, err := sb.Exec(ctx, e)
		return x, errors.Join(err, flush())
	})},
	{promise: "output is all kept in memory", caught: "MuchOutput", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		w := e.Stdout
		flush := buffered(&e)
		x, err := sb.Exec(ctx, e)
		for range 8 { // so that the case's writer looks at the memory
			w.Write(nil)
		}
		return x, errors.Join(err, flush())
	})},
	{promise: "output is text", caught: "BinaryBothWays", mutate: writes(func(w io.Writer) io.Writer {
		return writerFunc(func(p []byte) (int, error) {
			_, err := w.Write(bytes.ReplaceAll(p, []byte("\r\n"), []byte("\n")))
			return len(p), err
		})
	})},
	{promise: "stderr is UTF-8", caught: "BinaryStderr", mutate: before(func(e *backends.Exec) {
		w := e.Stderr
		e.Stderr = writerFunc(func(p []byte) (int, error) {
			_, err := w.Write(bytes.ToValidUTF8(p, []byte("\uFFFD")))
			return len(p), err
		})
	})},
	{promise: "commands have a terminal", caught: "NoTerminal", mutate: before(func(e *backends.Exec) {
		master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
		if err != nil {
			return
		}
		unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
		n, _ := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
		e.Command = fmt.Sprintf("exec < /dev/pts/%d; %s", n, e.Command)
		kept.files = append(kept.files, master)
	})},
	{promise: "no stdin never ends", caught: "EmptyStdin", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		if e.Stdin == nil {
			e.Stdin = readerFunc(func([]byte) (int, error) { <-ctx.Done(); return 0, io.EOF })
		}
		return sb.Exec(ctx, e)
	})},
	{promise: "stdin is cut at 64 KiB", caught: "BigStdin", mutate: before(func(e *backends.Exec) {
		if e.Stdin != nil {
			e.Stdin = io.LimitReader(e.Stdin, 64<<10)
		}
	})},
	{promise: "stdin that is not read is an error", caught: "StdinIgnored", mutate: execs(unreadIsAnError)},
	{promise: "stdin that is half read is an error", caught: "StdinHalfRead", mutate: execs(unreadIsAnError)},
	{promise: "stdin is written before output is read", caught: "StdinAndOutputAtOnce", mutate: execs(stdinFirst)},
	{promise: "stdin is written before both outputs are read", caught: "StdinEchoedOnBoth", mutate: execs(stdinFirst)},
	{promise: "there must be a writer", caught: "NilWriters", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		if e.Stdout == nil {
			return backends.Exit{}, errMutant
		}
		return sb.Exec(ctx, e)
	})},
	{promise: "the two streams meet in one writer", caught: "OneWriterForBoth", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		var copies sync.WaitGroup
		for _, w := range []*io.Writer{&e.Stdout, &e.Stderr} {
			r, pw := io.Pipe()
			to := *w
			*w = pw
			copies.Go(func() { io.Copy(to, r) })
			defer copies.Wait()
			defer pw.Close()
		}
		gate := e // two gates instead of one
		done := make(chan struct{})
		go func() {
			defer close(done)
			sb.Exec(ctx, backends.Exec{Command: "head -c 1000000 /dev/zero", Stdout: gate.Stdout})
		}()
		x, err := sb.Exec(ctx, backends.Exec{Command: "head -c 1000000 /dev/zero", Stdout: gate.Stderr})
		<-done
		return x, err
	})},
	{promise: "a slow reader loses output", caught: "SlowWriter", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		queue := make(chan []byte, 1)
		done := make(chan struct{})
		w := e.Stdout
		go func() {
			defer close(done)
			for p := range queue {
				w.Write(p)
			}
		}()
		e.Stdout = writerFunc(func(p []byte) (int, error) {
			select {
			case queue <- bytes.Clone(p):
			default:
			}
			return len(p), nil
		})
		x, err := sb.Exec(ctx, e)
		close(queue)
		<-done
		return x, err
	})},
	{promise: "one writer is called twice at once", caught: "BigStdin", mutate: writes(func(w io.Writer) io.Writer {
		return writerFunc(func(p []byte) (int, error) {
			var both sync.WaitGroup
			for half := range slices.Chunk(p, len(p)/2+1) {
				both.Go(func() { w.Write(half) })
			}
			both.Wait()
			return len(p), nil
		})
	})},

	// Exec: what a command is told.
	{promise: "Args go through a shell", caught: "Args", mutate: before(func(e *backends.Exec) {
		if len(e.Args) > 0 {
			e.Command, e.Args = strings.Join(e.Args, " "), nil
		}
	})},
	{promise: "empty arguments are lost", caught: "Args", mutate: before(func(e *backends.Exec) {
		e.Args = slices.DeleteFunc(slices.Clone(e.Args), func(a string) bool { return a == "" })
	})},
	{promise: "there are 256 arguments at most", caught: "ManyArgs", mutate: before(func(e *backends.Exec) { e.Args = e.Args[:min(len(e.Args), 256)] })},
	{promise: "long commands are cut", caught: "LongCommand", mutate: before(func(e *backends.Exec) { e.Command = e.Command[:min(len(e.Command), 64<<10)] })},
	{promise: "commands end at a NUL", caught: "Unrepresentable", mutate: before(func(e *backends.Exec) {
		e.Command, _, _ = strings.Cut(e.Command, "\x00")
		e.Args = slices.Clone(e.Args)
		for i := range e.Args {
			e.Args[i], _, _ = strings.Cut(e.Args[i], "\x00")
		}
	})},
	{promise: "the shell is always sh", caught: "DefaultShell", mutate: func(_ *Fake, d *backends.Driver) {
		open := d.Open
		d.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
			s.Shell = "/bin/sh"
			return open(s, o, l)
		}
	}},
	{promise: "a missing shell is replaced", caught: "NoSuchShell", mutate: func(_ *Fake, d *backends.Driver) {
		open := d.Open
		d.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
			if _, err := os.Stat(s.Shell); err != nil {
				s.Shell = ""
			}
			return open(s, o, l)
		}
	}},
	{promise: "PATH is the daemon's", caught: "Path", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		if len(e.Args) > 0 {
			file, err := exec.LookPath(e.Args[0])
			if err != nil {
				fmt.Fprintln(e.Stderr, err)
				return backends.Exit{Code: 127}, nil
			}
			e.Args = append([]string{file}, e.Args[1:]...)
		}
		return sb.Exec(ctx, e)
	})},
	{promise: "Exec.Env is ignored", caught: "Env", mutate: before(func(e *backends.Exec) { e.Env = nil })},
	{promise: "Exec.Env stays for the next", caught: "Env", mutate: made(func(_ *Fake, m *mutantSandbox) {
		all := map[string]string{}
		m.exec = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
			maps.Copy(all, e.Env)
			e.Env = all
			return sb.Exec(ctx, e)
		}
	})},
	{promise: "Exec.Env reaches other sandboxes", caught: "Env", mutate: opened(func(_ *Fake, m *mutantBackend) {
		var mu sync.Mutex
		all := map[string]map[string]string{} // by sandbox
		m.create = func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
			sb, err := b.Create(ctx)
			if err != nil {
				return nil, err
			}
			return &mutantSandbox{Sandbox: sb, id: sb.ID(), exec: func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
				mu.Lock()
				env := map[string]string{}
				for id, of := range all {
					if id != sb.ID() {
						maps.Copy(env, of)
					}
				}
				maps.Copy(env, e.Env)
				if e.Env != nil {
					all[sb.ID()] = e.Env
				}
				e.Env = env
				mu.Unlock()
				return sb.Exec(ctx, e)
			}}, nil
		}
	})},
	{promise: "values are split at newlines", caught: "Env", mutate: func(_ *Fake, d *backends.Driver) {
		open := d.Open
		d.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
			for k, v := range s.Env {
				s.Env[k], _, _ = strings.Cut(v, "\n")
			}
			return open(s, o, l)
		}
	}},
	{promise: "the daemon's environment is inherited", caught: "EnvOfTheDaemon", mutate: before(func(e *backends.Exec) {
		e.Env = maps.Clone(e.Env)
		if e.Env == nil {
			e.Env = map[string]string{}
		}
		for _, kv := range os.Environ() {
			k, v, _ := strings.Cut(kv, "=")
			e.Env[k] = v
		}
	})},
	{promise: "Exec.Dir is ignored", caught: "Dir", mutate: before(func(e *backends.Exec) { e.Dir = "" })},
	{promise: "Spec.Dir is ignored", caught: "Dir", mutate: func(_ *Fake, d *backends.Driver) {
		open := d.Open
		d.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
			s.Dir = ""
			return open(s, o, l)
		}
	}},

	// Exec: what stays between commands, and beside them.
	{promise: "each command has new files", caught: "FilesStay", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		dir, err := os.MkdirTemp("", "kilntainers-mutant-")
		if err != nil {
			return backends.Exit{}, err
		}
		defer os.RemoveAll(dir)
		e.Dir = dir
		return sb.Exec(ctx, e)
	})},
	{promise: "variables stay", caught: "ShellStateDoesNot", mutate: before(func(e *backends.Exec) {
		e.Command = `[ ! -e "$HOME/state" ] || . "$HOME/state"; ` + e.Command + `; export -p | grep VARIABLE > "$HOME/state"; true`
	})},
	{promise: "outputs go to the newest command", caught: "Parallel", mutate: made(func(_ *Fake, m *mutantSandbox) {
		var newest atomic.Pointer[backends.Exec]
		m.exec = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
			mine := e
			newest.Store(&mine)
			e.Stdout = writerFunc(func(p []byte) (int, error) { return newest.Load().Stdout.Write(p) })
			return sb.Exec(ctx, e)
		}
	})},
	{promise: "there are ten commands at most", caught: "Parallel", mutate: made(func(_ *Fake, m *mutantSandbox) {
		var n atomic.Int64
		m.exec = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
			defer n.Add(-1)
			if n.Add(1) > 10 {
				return backends.Exit{Code: 126}, nil
			}
			time.Sleep(50 * time.Millisecond)
			return sb.Exec(ctx, e)
		}
	})},
	{promise: "one command at a time", caught: "LongBesideShort", mutate: made(func(_ *Fake, m *mutantSandbox) {
		turn := make(chan struct{}, 1)
		m.exec = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
			select {
			case turn <- struct{}{}:
			case <-ctx.Done():
				return backends.Exit{}, context.Cause(ctx)
			}
			defer func() { <-turn }()
			return sb.Exec(ctx, e)
		}
	})},
	{promise: "Exec waits for the end of its output", caught: "BackgroundDoesNotDelay", mutate: made(func(f *Fake, m *mutantSandbox) {
		m.exec = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
			x, err := sb.Exec(ctx, e)
			for len(f.Running()) > 0 && ctx.Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
			return x, err
		}
	})},
	{promise: "a write comes after Exec returned", caught: "BackgroundDoesNotDelay", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		x, err := sb.Exec(ctx, e)
		time.AfterFunc(time.Millisecond, func() { e.Stdout.Write([]byte("late")) })
		return x, err
	})},
	{promise: "background processes are killed", caught: "BackgroundLives", mutate: after(func(_ context.Context, sb backends.Sandbox, _ *backends.Exit, err error) error {
		killMarked(ofSandbox(sb).mark(""))
		return err
	})},
	{promise: "background processes get SIGPIPE", caught: "BackgroundMayWrite", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		m := ofSandbox(sb)
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", e.Command)
		cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = m.dir, e.Stdout, e.Stderr, 50*time.Millisecond
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), markName + "=" + m.mark("mutant")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		cmd.Run()
		return backends.Exit{Code: cmd.ProcessState.ExitCode()}, nil
	})},
	{promise: "each command leaves a goroutine", caught: "ManyExecs", mutate: after(func(_ context.Context, sb backends.Sandbox, _ *backends.Exit, err error) error {
		go func() { <-sb.Done() }()
		return err
	})},
	{promise: "each command leaves a descriptor", caught: "ManyExecs", mutate: after(func(_ context.Context, _ backends.Sandbox, _ *backends.Exit, err error) error {
		leakFile()
		return err
	})},

	// Exec: kill means kill.
	{promise: "a ctx that ended before is not looked at", caught: "CtxEndedBefore", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		if ctx.Err() != nil {
			ctx = context.WithoutCancel(ctx)
		}
		return sb.Exec(ctx, e)
	})},
	{promise: "a timeout is an exit code", caught: "Timeout", mutate: after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		if errors.Is(err, context.DeadlineExceeded) {
			x.Code = 124
			return nil
		}
		return err
	})},
	{promise: "a timeout costs the sandbox", caught: "Timeout", mutate: after(func(ctx context.Context, sb backends.Sandbox, _ *backends.Exit, err error) error {
		if ctx.Err() != nil {
			sb.Close(context.WithoutCancel(ctx))
		}
		return err
	})},
	{promise: "a cancel gives ctx.Err", caught: "CancelCause", mutate: after(func(ctx context.Context, _ backends.Sandbox, _ *backends.Exit, err error) error {
		return errors.Join(ctx.Err(), map[bool]error{true: err}[ctx.Err() == nil])
	})},
	{promise: "a failed write is an exit code", caught: "WriteError", mutate: after(func(ctx context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		if err != nil && ctx.Err() == nil {
			x.Code = 1
			return nil
		}
		return err
	})},
	{promise: "a failed write costs the sandbox", caught: "WriteError", mutate: after(func(ctx context.Context, sb backends.Sandbox, _ *backends.Exit, err error) error {
		if err != nil && ctx.Err() == nil {
			sb.Close(context.WithoutCancel(ctx))
		}
		return err
	})},
	{promise: "the last write may fail", caught: "WriteErrorAtTheEnd", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		flush := buffered(&e)
		x, err := sb.Exec(ctx, e)
		flush()
		return x, err
	})},
	{promise: "stdin is read after Exec returned", caught: "CancelDuringStdin", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		x, err := sb.Exec(ctx, e)
		if e.Stdin != nil {
			time.AfterFunc(time.Millisecond, func() { e.Stdin.Read(make([]byte, 1)) })
		}
		return x, err
	})},
	{promise: "a cancelled command looks like a success", caught: "CancelRace", mutate: after(func(ctx context.Context, _ backends.Sandbox, _ *backends.Exit, err error) error {
		if ctx.Err() != nil {
			return nil
		}
		return err
	})},
	{promise: "only the leader is killed on cancel", caught: "KillByCancel", mutate: kills(killLeader)},
	{promise: "only the leader is killed on timeout", caught: "KillByTimeout", mutate: kills(killLeader)},
	{promise: "only the leader is killed when a write fails", caught: "KillByWriteError", mutate: kills(killLeader)},
	{promise: "only the process group is killed", caught: "KillByCancel", mutate: kills(func(m *processMachine, execID string) {
		strike(m, execID, syscall.SIGKILL, func(leader, p *process) bool { return p.group == leader.group })
	})},
	{promise: "only descendants are killed", caught: "KillByCancel", mutate: kills(func(m *processMachine, execID string) {
		tree := map[int]bool{} // a child's id is above its parent's, as long as ids do not wrap
		strike(m, execID, syscall.SIGKILL, func(leader, p *process) bool {
			tree[p.pid] = p == leader || tree[p.parent]
			return tree[p.pid]
		})
	})},
	{promise: "SIGTERM is thought enough", caught: "KillByCancel", mutate: kills(func(m *processMachine, execID string) {
		strike(m, execID, syscall.SIGTERM, func(_, _ *process) bool { return true })
	})},
	{promise: "Exec returns before the kill is done", caught: "KillByCancel", mutate: kills(func(m *processMachine, execID string) {
		killLeader(m, execID)
		time.AfterFunc(500*time.Millisecond, func() { killMarked(m.mark(execID)) })
	})},
	{promise: "processes are listed once and killed then", caught: "KillChain", mutate: kills(func(m *processMachine, execID string) {
		links := func() int { text, _ := os.ReadFile(filepath.Join(m.dir, "links")); return len(text) }
		wait := sync.OnceFunc(func() {
			for before := links(); links() < before+5; { // until who was listed has ended
				time.Sleep(time.Millisecond)
			}
		})
		strike(m, execID, syscall.SIGKILL, func(_, _ *process) bool { wait(); return true })
	})},
	{promise: "a kill hits the whole sandbox", caught: "KillSparesOthers", mutate: kills(func(m *processMachine, _ string) { killMarked(m.mark("")) })},
	{promise: "a kill hits earlier background processes", caught: "KillSparesBackground", mutate: kills(func(m *processMachine, _ string) { killMarked(m.mark("")) })},

	{promise: "a fork bomb ends the command but stays", caught: "ForkBomb", claims: claimsLimits, mutate: made(func(_ *Fake, m *mutantSandbox) {
		var full atomic.Bool
		m.exec = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
			if e.Command != "" { // the bomb itself never goes off
				full.Store(true)
				return backends.Exit{}, context.DeadlineExceeded
			}
			if full.Load() {
				fmt.Fprintln(e.Stderr, "fork: Resource temporarily unavailable")
				return backends.Exit{Code: 126}, nil
			}
			return sb.Exec(ctx, e)
		}
	})},
	{promise: "a command that was killed for memory looks like any other", caught: "MemoryHog", claims: claimsLimits, mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		if e.Command != "" {
			return backends.Exit{Code: 137}, nil
		}
		return sb.Exec(ctx, e)
	})},
	{promise: "a sandbox that was killed for memory does not say so", caught: "MemoryHog", claims: claimsLimits, mutate: made(func(f *Fake, m *mutantSandbox) {
		m.exec = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
			if e.Command != "" {
				f.Kill(m.id, "it ended")
				return backends.Exit{}, sb.Err()
			}
			return sb.Exec(ctx, e)
		}
	})},

	// Sandbox: one apart from the other. The fake needs no mutation for these.
	{promise: "a directory passes for a file system", caught: "FileSystemsApart", claims: claimsAll},
	{promise: "this machine's processes pass for a sandbox's", caught: "ProcessesApart", claims: claimsAll},
	{promise: "this machine's network passes for none", caught: "NoNetwork", claims: claimsAll},
	{promise: "zombies stay", caught: "NoZombies", claims: claimsAll, mutate: before(func(*backends.Exec) {
		exec.Command("true").Start() // and no Wait
	})},
	{promise: "sandboxes share a directory", caught: "FilesApart", mutate: func(f *Fake, d *backends.Driver) {
		dir := filepath.Join(os.TempDir(), "kilntainers-mutant-"+f.mark)
		before(func(e *backends.Exec) { os.Mkdir(dir, 0o700); e.Dir = dir })(f, d)
	}},

	// Sandbox: from Create to Done.
	{promise: "a fresh sandbox is Done", caught: "Fresh", mutate: made(func(_ *Fake, m *mutantSandbox) { m.done = make(chan struct{}); close(m.done) })},
	{promise: "a fresh sandbox has an Err", caught: "Fresh", mutate: made(func(_ *Fake, m *mutantSandbox) { m.err = func() error { return errMutant } })},
	{promise: "a sandbox has no id", caught: "Fresh", mutate: made(func(_ *Fake, m *mutantSandbox) { m.id = "" })},
	{promise: "all sandboxes have one id", caught: "CreateManyAtOnce", mutate: made(func(_ *Fake, m *mutantSandbox) { m.id = "one" })},
	{promise: "progress comes after Create", caught: "Fresh", mutate: creates(func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
		sb, err := b.Create(ctx)
		time.AfterFunc(time.Millisecond, func() { backends.Report(ctx, backends.Progress{Message: "late"}) })
		return sb, err
	})},
	{promise: "two progress reports come at once", caught: "CreateManyAtOnce", mutate: creates(func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
		var reports sync.WaitGroup
		for range 50 {
			reports.Go(func() {
				for range 50 {
					backends.Report(ctx, backends.Progress{Message: "pulling"})
				}
			})
		}
		reports.Wait()
		return b.Create(ctx)
	})},
	{promise: "progress passes its total", caught: "Fresh", mutate: creates(func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
		backends.Report(ctx, backends.Progress{Message: "pulling", Done: 2, Total: 1})
		return b.Create(ctx)
	})},
	{promise: "a sandbox ends with the ctx of its Create", caught: "CreateCtxEndsLater", mutate: creates(func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
		sb, err := b.Create(ctx)
		if err == nil {
			context.AfterFunc(ctx, func() { sb.Close(context.Background()) })
		}
		return sb, err
	})},
	{promise: "a failed Create leaves its sandbox", caught: "CreateFails", mutate: func(_ *Fake, d *backends.Driver) {
		open := d.Open
		d.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
			b, err := open(s, d.Options(), l)
			if err != nil || o.(*FakeOptions).FakeImage != "missing" {
				return b, err
			}
			m := &mutantBackend{Backend: b}
			m.create = func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
				b.Create(ctx)
				return nil, errMutant
			}
			return m, nil
		}
	}},
	{promise: "a failed Create does not say why", caught: "CreateFails", mutate: creates(func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
		sb, err := b.Create(ctx)
		if err != nil {
			return nil, errors.New("failed")
		}
		return sb, nil
	})},
	{promise: "a cancelled Create leaves its sandbox", caught: "CreateCancelled", mutate: creates(func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
		sb, err := b.Create(context.WithoutCancel(ctx))
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return sb, err
	})},
	{promise: "a cancelled Create succeeds", caught: "CreateCancelled", mutate: creates(func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
		return b.Create(context.WithoutCancel(ctx))
	})},
	{promise: "one Create at a time", caught: "CreateManyAtOnce", mutate: opened(func(_ *Fake, m *mutantBackend) {
		var n atomic.Int64
		m.create = func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
			defer n.Add(-1)
			if n.Add(1) > 1 {
				return nil, errMutant
			}
			time.Sleep(20 * time.Millisecond)
			return b.Create(ctx)
		}
	})},
	{promise: "Close destroys nothing", caught: "Close", mutate: made(func(_ *Fake, m *mutantSandbox) {
		m.done = make(chan struct{})
		once := sync.OnceFunc(func() { close(m.done) })
		m.close = func(context.Context, backends.Sandbox) error { once(); return nil }
		m.err = func() error { return backends.ErrClosed }
		m.exec = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
			select {
			case <-m.done:
				return backends.Exit{}, backends.ErrClosed
			default:
				return sb.Exec(ctx, e)
			}
		}
	})},
	{promise: "Close closes no Done", caught: "Close", mutate: made(func(_ *Fake, m *mutantSandbox) { m.done = make(chan struct{}) })},
	{promise: "Err after Close is nil", caught: "Close", mutate: made(func(_ *Fake, m *mutantSandbox) { m.err = func() error { return nil } })},
	{promise: "Err after Close is not ErrClosed", caught: "Close", mutate: made(func(_ *Fake, m *mutantSandbox) { m.err = func() error { return backends.ErrGone } })},
	{promise: "Exec after Close is some error", caught: "Close", mutate: after(func(_ context.Context, _ backends.Sandbox, _ *backends.Exit, err error) error {
		if errors.Is(err, backends.ErrGone) {
			return errMutant
		}
		return err
	})},
	{promise: "the second Close fails", caught: "CloseTwice", mutate: made(func(_ *Fake, m *mutantSandbox) {
		var n atomic.Int64
		m.close = func(ctx context.Context, sb backends.Sandbox) error {
			if n.Add(1) > 1 {
				return errMutant
			}
			return sb.Close(ctx)
		}
	})},
	{promise: "Close waits for the commands", caught: "CloseWhileRunning", mutate: made(func(_ *Fake, m *mutantSandbox) {
		var running sync.WaitGroup
		m.exec = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
			running.Add(1)
			defer running.Done()
			return sb.Exec(ctx, e)
		}
		m.close = func(ctx context.Context, sb backends.Sandbox) error { running.Wait(); return sb.Close(ctx) }
	})},
	{promise: "commands that Close ends were cancelled", caught: "CloseWhileRunning", mutate: after(func(_ context.Context, _ backends.Sandbox, _ *backends.Exit, err error) error {
		if errors.Is(err, backends.ErrGone) {
			return context.Canceled
		}
		return err
	})},
	{promise: "Close with an ended ctx does nothing", caught: "CloseCtxEnded", mutate: closes(func(ctx context.Context, sb backends.Sandbox) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return sb.Close(ctx)
	})},
	{promise: "Close leaves a process", caught: "CloseEndsBackground", mutate: closes(func(ctx context.Context, sb backends.Sandbox) error {
		cmd := exec.Command("sleep", "2")
		cmd.Env = []string{markName + "=" + ofSandbox(sb).mark("mutant")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		err := sb.Close(ctx)
		cmd.Start()
		return err
	})},
	{promise: "Close closes all sandboxes", caught: "CloseOnlyOne", mutate: made(func(f *Fake, m *mutantSandbox) {
		m.close = func(ctx context.Context, sb backends.Sandbox) error {
			err := sb.Close(ctx)
			for _, id := range f.IDs() {
				f.Kill(id, "a mutant did it")
			}
			return err
		}
	})},
	{promise: "a sandbox that goes by itself is not noticed", caught: "GoneByItself", mutate: made(func(_ *Fake, m *mutantSandbox) { m.done = make(chan struct{}) })},
	{promise: "a sandbox that goes by itself was closed", caught: "GoneByItself", mutate: made(func(_ *Fake, m *mutantSandbox) {
		m.err = func() error { return map[bool]error{true: backends.ErrClosed}[m.Sandbox.Err() != nil] }
	})},
	{promise: "a sandbox goes without a reason", caught: "GoneByItself", mutate: made(func(_ *Fake, m *mutantSandbox) {
		m.err = func() error { return map[bool]error{true: &backends.GoneError{}}[m.Sandbox.Err() != nil] }
	})},
	{promise: "Sweep takes other instances too", caught: "Sweep", mutate: sweeps(func(req backends.Sweep, o backends.Owner) bool { return o != req.Owner }, true)},
	{promise: "Sweep takes this boot too", caught: "Sweep", mutate: sweeps(func(req backends.Sweep, o backends.Owner) bool { return o.Instance == req.Owner.Instance }, true)},
	{promise: "Sweep finds nothing", caught: "Sweep", mutate: sweeps(func(backends.Sweep, backends.Owner) bool { return false }, true)},
	{promise: "Sweep only says that it removed", caught: "Sweep", mutate: sweeps(olderBoot, false)},
	{promise: "Sweep removes in a dry run", caught: "Sweep", mutate: func(_ *Fake, d *backends.Driver) {
		right := d.Sweep
		d.Sweep = func(ctx context.Context, req backends.Sweep) ([]backends.Leftover, error) {
			dry := req.DryRun
			req.DryRun = false
			found, err := right(ctx, req)
			for i := range found {
				found[i].Removed = !dry
			}
			return found, err
		}
	}},
	{promise: "Adopt is claimed and there are no tickets", caught: "Tickets", mutate: made(func(_ *Fake, m *mutantSandbox) {
		m.ticket = func() (backends.Ticket, error) { return backends.Ticket{}, backends.ErrNoTicket }
	})},
	{promise: "there are tickets and Adopt is not claimed", caught: "Tickets", mutate: func(_ *Fake, d *backends.Driver) { d.Features.Adopt = false }},
	{promise: "Adopt gives a fresh sandbox", caught: "Adopt", mutate: adopts(func(ctx context.Context, b backends.Backend, t backends.Ticket) (backends.Sandbox, error) {
		old, err := b.Adopt(ctx, t)
		if err != nil {
			return nil, err
		}
		sb, err := b.Create(ctx)
		if err == nil {
			err = old.Close(ctx)
		}
		return &mutantSandbox{Sandbox: sb, id: t.ID}, err
	})},
	{promise: "Adopt ends what commands had left running", caught: "Adopt", mutate: adopts(func(ctx context.Context, b backends.Backend, t backends.Ticket) (backends.Sandbox, error) {
		sb, err := b.Adopt(ctx, t)
		if err == nil {
			sb.Exec(ctx, backends.Exec{Command: "kill -9 $(cat pid)"})
		}
		return sb, err
	})},
	{promise: "what ran lives on after Adopt", caught: "AdoptKills", mutate: adopts(func(ctx context.Context, b backends.Backend, t backends.Ticket) (backends.Sandbox, error) {
		sb, err := b.Adopt(ctx, t)
		if err == nil {
			sb.Exec(ctx, backends.Exec{Command: "sleep 3600 > /dev/null 2>&1 & if [ -e pids ]; then echo $! >> pids; else kill $!; fi"})
		}
		return sb, err
	})},
	{promise: "running commands do not notice that they are left", caught: "AdoptKills", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		x, err := sb.Exec(ctx, e)
		if errors.Is(err, backends.ErrClosed) && strings.Contains(e.Command, "ready") {
			err = nil
		}
		return x, err
	})},
	{promise: "a command that takes input does not notice that it is left", caught: "AdoptInFullFlow", mutate: execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		x, err := sb.Exec(ctx, e)
		if errors.Is(err, backends.ErrClosed) && e.Stdin != nil {
			err = nil
		}
		return x, err
	})},
	{promise: "any ticket is good for a sandbox", caught: "AdoptNonsense", mutate: adopts(func(ctx context.Context, b backends.Backend, t backends.Ticket) (backends.Sandbox, error) {
		if string(t.Data) == "{}" {
			return b.Create(ctx)
		}
		return b.Adopt(ctx, t)
	})},
	{promise: "what was left is never swept", caught: "LeftForNobody", mutate: func(_ *Fake, d *backends.Driver) {
		right := d.Sweep
		d.Sweep = func(ctx context.Context, req backends.Sweep) ([]backends.Leftover, error) {
			if strings.HasSuffix(req.Owner.Boot, "-next") {
				return nil, nil
			}
			return right(ctx, req)
		}
	}},
	{promise: "there is a ticket for what is gone", caught: "AdoptWhatIsGone", mutate: made(func(_ *Fake, m *mutantSandbox) {
		m.ticket = func() (backends.Ticket, error) {
			if t, err := m.Sandbox.Ticket(); err == nil {
				return t, nil
			}
			return backends.Ticket{ID: m.id, Data: []byte(m.id)}, nil
		}
	})},
	{promise: "Adopt makes a new one of what is gone", caught: "AdoptWhatIsGone", mutate: adopts(func(ctx context.Context, b backends.Backend, t backends.Ticket) (backends.Sandbox, error) {
		if sb, err := b.Adopt(ctx, t); err == nil || !errors.Is(err, backends.ErrGone) {
			return sb, err
		}
		sb, err := b.Create(ctx)
		if err == nil {
			time.AfterFunc(time.Second, func() { sb.Close(context.Background()) })
		}
		return sb, err
	})},
	{promise: "an Adopt that is cancelled leaves the sandbox", caught: "AdoptCancelled", mutate: adopts(func(ctx context.Context, b backends.Backend, t backends.Ticket) (backends.Sandbox, error) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return b.Adopt(ctx, t)
	})},
	{promise: "Close ends what was left", caught: "LeaveThenClose", mutate: made(func(f *Fake, m *mutantSandbox) {
		m.close = func(ctx context.Context, sb backends.Sandbox) error {
			err := sb.Close(ctx)
			f.Kill(m.id, "a mutant did it")
			return err
		}
	})},
	{promise: "Leave does not end the sandbox here", caught: "Adopt", mutate: made(func(_ *Fake, m *mutantSandbox) { m.leave = func() {} })},
	{promise: "Sweep does not heed Keep", caught: "SweepKeeps", mutate: func(_ *Fake, d *backends.Driver) {
		right := d.Sweep
		d.Sweep = func(ctx context.Context, req backends.Sweep) ([]backends.Leftover, error) {
			req.Keep = nil
			return right(ctx, req)
		}
	}},
	{promise: "some commands fail for nothing", caught: "Hammer", mutate: made(func(_ *Fake, m *mutantSandbox) {
		var n atomic.Int64
		m.exec = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
			if n.Add(1)%5 == 0 {
				return backends.Exit{}, io.ErrUnexpectedEOF
			}
			return sb.Exec(ctx, e)
		}
	})},

	// At the end of all.
	{promise: "a backend leaves a goroutine", caught: "NothingLeft", mutate: func(_ *Fake, d *backends.Driver) {
		open := d.Open
		d.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
			go func() { select {} }()
			return open(s, o, l)
		}
	}},
	{promise: "a backend leaves a descriptor", caught: "NothingLeft", mutate: func(_ *Fake, d *backends.Driver) {
		open := d.Open
		d.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
			leakFile()
			return open(s, o, l)
		}
	}},
	{promise: "a backend leaves a sandbox", caught: "NothingLeft", mutate: func(f *Fake, d *backends.Driver) {
		open := d.Open
		d.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
			other, err := open(s, o, l)
			if err == nil {
				_, err = other.Create(context.Background())
			}
			return other, err
		}
	}},
}

func claimsAll(tg *Target) {
	tg.Lacks = nil
	tg.Patience = 20 * time.Second // these fail without it
}

// claimsLimits claims limits that are not there; what would run into them is
// caught before it runs.
func claimsLimits(tg *Target) { tg.Limits = Limits{Memory: 1 << 20, Pids: 1} }

func unreadIsAnError(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
	x, err := sb.Exec(ctx, e)
	if e.Stdin != nil {
		if g := e.Stdin.(*guardedReader); g.r.(*strings.Reader).Len() > 0 {
			return x, errMutant
		}
	}
	return x, err
}

func stdinFirst(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
	all := make(chan struct{})
	in, out := e.Stdin, e.Stdout
	if in == nil {
		return sb.Exec(ctx, e)
	}
	e.Stdin = readerFunc(func(p []byte) (int, error) {
		n, err := in.Read(p)
		if err != nil {
			close(all)
		}
		return n, err
	})
	e.Stdout = writerFunc(func(p []byte) (int, error) {
		select {
		case <-all:
		case <-ctx.Done():
		}
		return out.Write(p)
	})
	return sb.Exec(ctx, e)
}

func killLeader(m *processMachine, execID string) {
	strike(m, execID, syscall.SIGKILL, func(leader, p *process) bool { return p == leader })
}

func olderBoot(req backends.Sweep, o backends.Owner) bool {
	return o.Instance == req.Owner.Instance && o.Boot != req.Owner.Boot
}

// sweeps replaces Sweep by one that picks its victims otherwise.
func sweeps(victim func(backends.Sweep, backends.Owner) bool, remove bool) func(*Fake, *backends.Driver) {
	return func(f *Fake, d *backends.Driver) {
		d.Sweep = func(_ context.Context, req backends.Sweep) (found []backends.Leftover, _ error) {
			f.mu.Lock()
			for _, s := range f.live {
				if victim(req, s.spec.Owner) {
					found = append(found, backends.Leftover{Kind: "sandbox", ID: s.id, Profile: s.spec.Profile, Removed: !req.DryRun})
				}
			}
			f.mu.Unlock()
			for _, l := range found {
				if l.Removed && remove {
					f.Kill(l.ID, "a mutant did it")
				}
			}
			return found, nil
		}
	}
}
