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
// and complete when each case that the fake can run catches one.
type mutant struct {
	promise string // what is broken
	caught  string // the case that must fail
	mutate  func(f *Fake, d *backends.Driver)
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
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestMutant$/^(Cases|NothingLeft)$/^"+m.caught+"$", "-test.v")
			dir, mark := t.TempDir(), rand.Text()
			cmd.Env = append(os.Environ(), "TMPDIR="+dir, mutantVar+"="+m.promise, mutantMarkVar+"="+mark)
			defer killLeft(dir, mark)
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: "+want+" ") {
				t.Errorf("%s was not caught by %s (%v):\n%s", m.promise, m.caught, err, out)
			}
		})
	}
	skipped := []string{"NoZombies", "ForkBomb", "MemoryHog", "FileSystemsApart", "ProcessesApart", "NoNetwork"} // by the fake: see TestProcesses
	for _, k := range cases {
		if !seen[k.name] && !slices.Contains(skipped, k.name) {
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
	mutants[i].mutate(f, &tg.Driver)
	Run(t, tg)
}

// The pieces that mutants are made of.

type (
	execFunc   = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error)
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
	check  func(context.Context) error
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
	{"Options is one value for all", "Driver", func(_ *Fake, d *backends.Driver) {
		o := d.Options()
		d.Options = func() backends.Options { return o }
	}},
	{"the driver's name cannot be written", "Driver", func(_ *Fake, d *backends.Driver) { d.Name = "A Fake" }},
	{"Describe is silent about the network", "Describe", func(_ *Fake, d *backends.Driver) {
		d.Describe = func(backends.Spec, backends.Options) string { return "A sandbox." }
	}},
	{"Describe always says that the network is off", "Describe", func(_ *Fake, d *backends.Driver) {
		d.Describe = func(backends.Spec, backends.Options) string { return "A sandbox. Network is off." }
	}},
	{"Check fails although all is well", "Check", opened(func(_ *Fake, b *mutantBackend) {
		b.check = func(context.Context) error { return errMutant }
	})},
	{"Check makes a sandbox", "Check", opened(func(_ *Fake, b *mutantBackend) {
		b.check = func(ctx context.Context) error { _, err := b.Backend.Create(ctx); return err }
	})},

	// Exec: how a command ends.
	{"a nonzero status is an error", "ExitCodes", after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		if x.Code != 0 {
			return fmt.Errorf("exit status %d", x.Code)
		}
		return err
	})},
	{"statuses lose their high bit", "ExitCodes", after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		x.Code &= 0x7f
		return err
	})},
	{"every failure is OOM", "ExitCodes", after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		x.OOM = x.Code != 0
		return err
	})},
	{"death by signal is -1", "Signals", after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		if x.Code > 128 {
			x.Code = -1
		}
		return err
	})},
	{"not found is 126", "NotFound", after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		if x.Code == 127 {
			x.Code = 126
		}
		return err
	})},
	{"not found is an error", "NotFound", after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		if x.Code == 127 {
			return errMutant
		}
		return err
	})},
	{"the reason of 127 is on stdout", "NotFound", before(func(e *backends.Exec) { e.Stderr = e.Stdout })},
	{"the reason of 127 is missing", "NotFound", before(func(e *backends.Exec) { e.Stderr = nil })},
	{"not executable is 127", "NotExecutable", after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		if x.Code == 126 {
			x.Code = 127
		}
		return err
	})},
	{"a bad directory is ignored", "BadDirectory", before(func(e *backends.Exec) {
		if _, err := os.Stat(e.Dir); err != nil {
			e.Dir = ""
		}
	})},
	{"a bad directory looks like a missing command", "BadDirectory", execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		if _, err := os.Stat(e.Dir); e.Dir != "" && err != nil {
			fmt.Fprintln(e.Stderr, "exec: no such file or directory")
			return backends.Exit{Code: 127}, nil
		}
		return sb.Exec(ctx, e)
	})},

	// Exec: what goes in and out.
	{"stderr goes to stdout", "StreamsApart", before(func(e *backends.Exec) { e.Stderr = e.Stdout })},
	{"pieces change places", "StreamOrder", writes(func(w io.Writer) io.Writer {
		return writerFunc(func(p []byte) (int, error) {
			half := len(p) / 2
			w.Write(p[half:])
			w.Write(p[:half])
			return len(p), nil
		})
	})},
	{"output comes at the end", "OutputAsItComes", execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		flush := buffered(&e)
		x, err := sb.Exec(ctx, e)
		return x, errors.Join(err, flush())
	})},
	{"output is all kept in memory", "MuchOutput", execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		w := e.Stdout
		flush := buffered(&e)
		x, err := sb.Exec(ctx, e)
		for range 8 { // so that the case's writer looks at the memory
			w.Write(nil)
		}
		return x, errors.Join(err, flush())
	})},
	{"output is text", "BinaryBothWays", writes(func(w io.Writer) io.Writer {
		return writerFunc(func(p []byte) (int, error) {
			_, err := w.Write(bytes.ReplaceAll(p, []byte("\r\n"), []byte("\n")))
			return len(p), err
		})
	})},
	{"stderr is UTF-8", "BinaryStderr", before(func(e *backends.Exec) {
		w := e.Stderr
		e.Stderr = writerFunc(func(p []byte) (int, error) {
			_, err := w.Write(bytes.ToValidUTF8(p, []byte("\uFFFD")))
			return len(p), err
		})
	})},
	{"commands have a terminal", "NoTerminal", before(func(e *backends.Exec) {
		master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
		if err != nil {
			return
		}
		unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
		n, _ := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
		e.Command = fmt.Sprintf("exec < /dev/pts/%d; %s", n, e.Command)
		kept.files = append(kept.files, master)
	})},
	{"no stdin never ends", "EmptyStdin", execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		if e.Stdin == nil {
			e.Stdin = readerFunc(func([]byte) (int, error) { <-ctx.Done(); return 0, io.EOF })
		}
		return sb.Exec(ctx, e)
	})},
	{"stdin is cut at 64 KiB", "BigStdin", before(func(e *backends.Exec) {
		if e.Stdin != nil {
			e.Stdin = io.LimitReader(e.Stdin, 64<<10)
		}
	})},
	{"stdin that is not read is an error", "StdinIgnored", execs(unreadIsAnError)},
	{"stdin that is half read is an error", "StdinHalfRead", execs(unreadIsAnError)},
	{"stdin is written before output is read", "StdinAndOutputAtOnce", execs(stdinFirst)},
	{"stdin is written before both outputs are read", "StdinEchoedOnBoth", execs(stdinFirst)},
	{"there must be a writer", "NilWriters", execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		if e.Stdout == nil {
			return backends.Exit{}, errMutant
		}
		return sb.Exec(ctx, e)
	})},
	{"the two streams meet in one writer", "OneWriterForBoth", execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
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
	{"a slow reader loses output", "SlowWriter", execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
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
	{"one writer is called twice at once", "BigStdin", writes(func(w io.Writer) io.Writer {
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
	{"Args go through a shell", "Args", before(func(e *backends.Exec) {
		if len(e.Args) > 0 {
			e.Command, e.Args = strings.Join(e.Args, " "), nil
		}
	})},
	{"empty arguments are lost", "Args", before(func(e *backends.Exec) {
		e.Args = slices.DeleteFunc(slices.Clone(e.Args), func(a string) bool { return a == "" })
	})},
	{"there are 256 arguments at most", "ManyArgs", before(func(e *backends.Exec) { e.Args = e.Args[:min(len(e.Args), 256)] })},
	{"long commands are cut", "LongCommand", before(func(e *backends.Exec) { e.Command = e.Command[:min(len(e.Command), 64<<10)] })},
	{"commands end at a NUL", "Unrepresentable", before(func(e *backends.Exec) {
		e.Command, _, _ = strings.Cut(e.Command, "\x00")
		e.Args = slices.Clone(e.Args)
		for i := range e.Args {
			e.Args[i], _, _ = strings.Cut(e.Args[i], "\x00")
		}
	})},
	{"the shell is always sh", "DefaultShell", func(_ *Fake, d *backends.Driver) {
		open := d.Open
		d.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
			s.Shell = "/bin/sh"
			return open(s, o, l)
		}
	}},
	{"a missing shell is replaced", "NoSuchShell", func(_ *Fake, d *backends.Driver) {
		open := d.Open
		d.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
			if _, err := os.Stat(s.Shell); err != nil {
				s.Shell = ""
			}
			return open(s, o, l)
		}
	}},
	{"PATH is the daemon's", "Path", execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
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
	{"Exec.Env is ignored", "Env", before(func(e *backends.Exec) { e.Env = nil })},
	{"Exec.Env stays for the next", "Env", made(func(_ *Fake, m *mutantSandbox) {
		all := map[string]string{}
		m.exec = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
			maps.Copy(all, e.Env)
			e.Env = all
			return sb.Exec(ctx, e)
		}
	})},
	{"values are split at newlines", "Env", func(_ *Fake, d *backends.Driver) {
		open := d.Open
		d.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
			for k, v := range s.Env {
				s.Env[k], _, _ = strings.Cut(v, "\n")
			}
			return open(s, o, l)
		}
	}},
	{"the daemon's environment is inherited", "EnvOfTheDaemon", before(func(e *backends.Exec) {
		e.Env = maps.Clone(e.Env)
		if e.Env == nil {
			e.Env = map[string]string{}
		}
		for _, kv := range os.Environ() {
			k, v, _ := strings.Cut(kv, "=")
			e.Env[k] = v
		}
	})},
	{"Exec.Dir is ignored", "Dir", before(func(e *backends.Exec) { e.Dir = "" })},
	{"Spec.Dir is ignored", "Dir", func(_ *Fake, d *backends.Driver) {
		open := d.Open
		d.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
			s.Dir = ""
			return open(s, o, l)
		}
	}},

	// Exec: what stays between commands, and beside them.
	{"each command has new files", "FilesStay", execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		dir, err := os.MkdirTemp("", "kilntainers-mutant-")
		if err != nil {
			return backends.Exit{}, err
		}
		defer os.RemoveAll(dir)
		e.Dir = dir
		return sb.Exec(ctx, e)
	})},
	{"variables stay", "ShellStateDoesNot", before(func(e *backends.Exec) {
		e.Command = `[ ! -e "$HOME/state" ] || . "$HOME/state"; ` + e.Command + `; export -p | grep VARIABLE > "$HOME/state"; true`
	})},
	{"outputs go to the newest command", "Parallel", made(func(_ *Fake, m *mutantSandbox) {
		var newest atomic.Pointer[backends.Exec]
		m.exec = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
			mine := e
			newest.Store(&mine)
			e.Stdout = writerFunc(func(p []byte) (int, error) { return newest.Load().Stdout.Write(p) })
			return sb.Exec(ctx, e)
		}
	})},
	{"there are ten commands at most", "Parallel", made(func(_ *Fake, m *mutantSandbox) {
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
	{"one command at a time", "LongBesideShort", made(func(_ *Fake, m *mutantSandbox) {
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
	{"Exec waits for the end of its output", "BackgroundDoesNotDelay", made(func(f *Fake, m *mutantSandbox) {
		m.exec = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
			x, err := sb.Exec(ctx, e)
			for len(f.Running()) > 0 && ctx.Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
			return x, err
		}
	})},
	{"a write comes after Exec returned", "BackgroundDoesNotDelay", execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		x, err := sb.Exec(ctx, e)
		time.AfterFunc(time.Millisecond, func() { e.Stdout.Write([]byte("late")) })
		return x, err
	})},
	{"background processes are killed", "BackgroundLives", after(func(_ context.Context, sb backends.Sandbox, _ *backends.Exit, err error) error {
		killMarked(ofSandbox(sb).mark(""))
		return err
	})},
	{"background processes get SIGPIPE", "BackgroundMayWrite", execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		m := ofSandbox(sb)
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", e.Command)
		cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = m.dir, e.Stdout, e.Stderr, 50*time.Millisecond
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), markName + "=" + m.mark("mutant")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		cmd.Run()
		return backends.Exit{Code: cmd.ProcessState.ExitCode()}, nil
	})},
	{"each command leaves a goroutine", "ManyExecs", after(func(_ context.Context, sb backends.Sandbox, _ *backends.Exit, err error) error {
		go func() { <-sb.Done() }()
		return err
	})},
	{"each command leaves a descriptor", "ManyExecs", after(func(_ context.Context, _ backends.Sandbox, _ *backends.Exit, err error) error {
		leakFile()
		return err
	})},

	// Exec: kill means kill.
	{"a ctx that ended before is not looked at", "CtxEndedBefore", execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		if ctx.Err() != nil {
			ctx = context.WithoutCancel(ctx)
		}
		return sb.Exec(ctx, e)
	})},
	{"a timeout is an exit code", "Timeout", after(func(_ context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		if errors.Is(err, context.DeadlineExceeded) {
			x.Code = 124
			return nil
		}
		return err
	})},
	{"a timeout costs the sandbox", "Timeout", after(func(ctx context.Context, sb backends.Sandbox, _ *backends.Exit, err error) error {
		if ctx.Err() != nil {
			sb.Close(context.WithoutCancel(ctx))
		}
		return err
	})},
	{"a cancel gives ctx.Err", "CancelCause", after(func(ctx context.Context, _ backends.Sandbox, _ *backends.Exit, err error) error {
		return errors.Join(ctx.Err(), map[bool]error{true: err}[ctx.Err() == nil])
	})},
	{"a failed write is an exit code", "WriteError", after(func(ctx context.Context, _ backends.Sandbox, x *backends.Exit, err error) error {
		if err != nil && ctx.Err() == nil {
			x.Code = 1
			return nil
		}
		return err
	})},
	{"a failed write costs the sandbox", "WriteError", after(func(ctx context.Context, sb backends.Sandbox, _ *backends.Exit, err error) error {
		if err != nil && ctx.Err() == nil {
			sb.Close(context.WithoutCancel(ctx))
		}
		return err
	})},
	{"the last write may fail", "WriteErrorAtTheEnd", execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		flush := buffered(&e)
		x, err := sb.Exec(ctx, e)
		flush()
		return x, err
	})},
	{"stdin is read after Exec returned", "CancelDuringStdin", execs(func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
		x, err := sb.Exec(ctx, e)
		if e.Stdin != nil {
			time.AfterFunc(time.Millisecond, func() { e.Stdin.Read(make([]byte, 1)) })
		}
		return x, err
	})},
	{"a cancelled command looks like a success", "CancelRace", after(func(ctx context.Context, _ backends.Sandbox, _ *backends.Exit, err error) error {
		if ctx.Err() != nil {
			return nil
		}
		return err
	})},
	{"only the leader is killed on cancel", "KillByCancel", kills(killLeader)},
	{"only the leader is killed on timeout", "KillByTimeout", kills(killLeader)},
	{"only the leader is killed when a write fails", "KillByWriteError", kills(killLeader)},
	{"only the process group is killed", "KillByCancel", kills(func(m *processMachine, execID string) {
		strike(m, execID, syscall.SIGKILL, func(leader, p *process) bool { return p.group == leader.group })
	})},
	{"only descendants are killed", "KillByCancel", kills(func(m *processMachine, execID string) {
		tree := map[int]bool{} // a child's id is above its parent's, as long as ids do not wrap
		strike(m, execID, syscall.SIGKILL, func(leader, p *process) bool {
			tree[p.pid] = p == leader || tree[p.parent]
			return tree[p.pid]
		})
	})},
	{"SIGTERM is thought enough", "KillByCancel", kills(func(m *processMachine, execID string) {
		strike(m, execID, syscall.SIGTERM, func(_, _ *process) bool { return true })
	})},
	{"Exec returns before the kill is done", "KillByCancel", kills(func(m *processMachine, execID string) {
		killLeader(m, execID)
		time.AfterFunc(500*time.Millisecond, func() { killMarked(m.mark(execID)) })
	})},
	{"processes are listed once and killed then", "KillChain", kills(func(m *processMachine, execID string) {
		links := func() int { text, _ := os.ReadFile(filepath.Join(m.dir, "links")); return len(text) }
		wait := sync.OnceFunc(func() {
			for before := links(); links() < before+5; { // until who was listed has ended
				time.Sleep(time.Millisecond)
			}
		})
		strike(m, execID, syscall.SIGKILL, func(_, _ *process) bool { wait(); return true })
	})},
	{"a kill hits the whole sandbox", "KillSparesOthers", kills(func(m *processMachine, _ string) { killMarked(m.mark("")) })},
	{"a kill hits earlier background processes", "KillSparesBackground", kills(func(m *processMachine, _ string) { killMarked(m.mark("")) })},

	// Sandbox: one apart from the other.
	{"sandboxes share a directory", "FilesApart", func(f *Fake, d *backends.Driver) {
		dir := filepath.Join(os.TempDir(), "kilntainers-mutant-"+f.mark)
		before(func(e *backends.Exec) { os.Mkdir(dir, 0o700); e.Dir = dir })(f, d)
	}},

	// Sandbox: from Create to Done.
	{"a fresh sandbox is Done", "Fresh", made(func(_ *Fake, m *mutantSandbox) { m.done = make(chan struct{}); close(m.done) })},
	{"a fresh sandbox has an Err", "Fresh", made(func(_ *Fake, m *mutantSandbox) { m.err = func() error { return errMutant } })},
	{"a sandbox has no id", "Fresh", made(func(_ *Fake, m *mutantSandbox) { m.id = "" })},
	{"all sandboxes have one id", "CreateManyAtOnce", made(func(_ *Fake, m *mutantSandbox) { m.id = "one" })},
	{"progress comes after Create", "Fresh", creates(func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
		sb, err := b.Create(ctx)
		time.AfterFunc(time.Millisecond, func() { backends.Report(ctx, backends.Progress{Message: "late"}) })
		return sb, err
	})},
	{"two progress reports come at once", "CreateManyAtOnce", creates(func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
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
	{"progress passes its total", "Fresh", creates(func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
		backends.Report(ctx, backends.Progress{Message: "pulling", Done: 2, Total: 1})
		return b.Create(ctx)
	})},
	{"a sandbox ends with the ctx of its Create", "CreateCtxEndsLater", creates(func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
		sb, err := b.Create(ctx)
		if err == nil {
			context.AfterFunc(ctx, func() { sb.Close(context.Background()) })
		}
		return sb, err
	})},
	{"a cancelled Create leaves its sandbox", "CreateCancelled", creates(func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
		sb, err := b.Create(context.WithoutCancel(ctx))
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return sb, err
	})},
	{"a cancelled Create succeeds", "CreateCancelled", creates(func(ctx context.Context, b backends.Backend) (backends.Sandbox, error) {
		return b.Create(context.WithoutCancel(ctx))
	})},
	{"one Create at a time", "CreateManyAtOnce", opened(func(_ *Fake, m *mutantBackend) {
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
	{"Close destroys nothing", "Close", made(func(_ *Fake, m *mutantSandbox) {
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
	{"Close closes no Done", "Close", made(func(_ *Fake, m *mutantSandbox) { m.done = make(chan struct{}) })},
	{"Err after Close is nil", "Close", made(func(_ *Fake, m *mutantSandbox) { m.err = func() error { return nil } })},
	{"Err after Close is not ErrClosed", "Close", made(func(_ *Fake, m *mutantSandbox) { m.err = func() error { return backends.ErrGone } })},
	{"Exec after Close is some error", "Close", after(func(_ context.Context, _ backends.Sandbox, _ *backends.Exit, err error) error {
		if errors.Is(err, backends.ErrGone) {
			return errMutant
		}
		return err
	})},
	{"the second Close fails", "CloseTwice", made(func(_ *Fake, m *mutantSandbox) {
		var n atomic.Int64
		m.close = func(ctx context.Context, sb backends.Sandbox) error {
			if n.Add(1) > 1 {
				return errMutant
			}
			return sb.Close(ctx)
		}
	})},
	{"Close waits for the commands", "CloseWhileRunning", made(func(_ *Fake, m *mutantSandbox) {
		var running sync.WaitGroup
		m.exec = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
			running.Add(1)
			defer running.Done()
			return sb.Exec(ctx, e)
		}
		m.close = func(ctx context.Context, sb backends.Sandbox) error { running.Wait(); return sb.Close(ctx) }
	})},
	{"commands that Close ends were cancelled", "CloseWhileRunning", after(func(_ context.Context, _ backends.Sandbox, _ *backends.Exit, err error) error {
		if errors.Is(err, backends.ErrGone) {
			return context.Canceled
		}
		return err
	})},
	{"Close with an ended ctx does nothing", "CloseCtxEnded", closes(func(ctx context.Context, sb backends.Sandbox) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return sb.Close(ctx)
	})},
	{"Close leaves a process", "CloseEndsBackground", closes(func(ctx context.Context, sb backends.Sandbox) error {
		cmd := exec.Command("sleep", "2")
		cmd.Env = []string{markName + "=" + ofSandbox(sb).mark("mutant")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		err := sb.Close(ctx)
		cmd.Start()
		return err
	})},
	{"Close closes all sandboxes", "CloseOnlyOne", made(func(f *Fake, m *mutantSandbox) {
		m.close = func(ctx context.Context, sb backends.Sandbox) error {
			err := sb.Close(ctx)
			for _, id := range f.IDs() {
				f.Kill(id, "a mutant did it")
			}
			return err
		}
	})},
	{"a sandbox that goes by itself is not noticed", "GoneByItself", made(func(_ *Fake, m *mutantSandbox) { m.done = make(chan struct{}) })},
	{"a sandbox that goes by itself was closed", "GoneByItself", made(func(_ *Fake, m *mutantSandbox) {
		m.err = func() error { return map[bool]error{true: backends.ErrClosed}[m.Sandbox.Err() != nil] }
	})},
	{"a sandbox goes without a reason", "GoneByItself", made(func(_ *Fake, m *mutantSandbox) {
		m.err = func() error { return map[bool]error{true: &backends.GoneError{}}[m.Sandbox.Err() != nil] }
	})},
	{"Sweep takes other instances too", "Sweep", sweeps(func(req backends.Sweep, o backends.Owner) bool { return o != req.Owner }, true)},
	{"Sweep takes this boot too", "Sweep", sweeps(func(req backends.Sweep, o backends.Owner) bool { return o.Instance == req.Owner.Instance }, true)},
	{"Sweep finds nothing", "Sweep", sweeps(func(backends.Sweep, backends.Owner) bool { return false }, true)},
	{"Sweep only says that it removed", "Sweep", sweeps(olderBoot, false)},
	{"Sweep removes in a dry run", "Sweep", func(_ *Fake, d *backends.Driver) {
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
	{"some commands fail for nothing", "Hammer", made(func(_ *Fake, m *mutantSandbox) {
		var n atomic.Int64
		m.exec = func(ctx context.Context, sb backends.Sandbox, e backends.Exec) (backends.Exit, error) {
			if n.Add(1)%5 == 0 {
				return backends.Exit{}, io.ErrUnexpectedEOF
			}
			return sb.Exec(ctx, e)
		}
	})},

	// At the end of all.
	{"a backend leaves a goroutine", "NothingLeft", func(_ *Fake, d *backends.Driver) {
		open := d.Open
		d.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
			go func() { select {} }()
			return open(s, o, l)
		}
	}},
	{"a backend leaves a descriptor", "NothingLeft", func(_ *Fake, d *backends.Driver) {
		open := d.Open
		d.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
			leakFile()
			return open(s, o, l)
		}
	}},
	{"a backend leaves a sandbox", "NothingLeft", func(f *Fake, d *backends.Driver) {
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
