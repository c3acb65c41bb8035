package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

func TestProcesses(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the fake runs processes only on Linux")
	}
	Run(t, processTarget(NewFake()))
}

func TestInMemory(t *testing.T) {
	Run(t, memoryTarget(NewFake(InMemory)))
}

func TestHeld(t *testing.T) {
	Run(t, memoryTarget(NewFake(InMemory, Held)))
}

func BenchmarkProcesses(b *testing.B) { Bench(b, processTarget(NewFake())) }

func BenchmarkInMemory(b *testing.B) { Bench(b, memoryTarget(NewFake(InMemory))) }

func processTarget(f *Fake) Target {
	return Target{
		Driver:    f.Driver(),
		Leftovers: leftoversOf(f),
		Destroy:   destroyIn(f),
		Failing:   func(testing.TB) backends.Options { return &FakeOptions{FakeImage: "missing"} },
		Lacks: map[Need]string{
			OwnRoot:      "its sandboxes are directories",
			OwnProcesses: "its commands are processes of this machine",
			OwnNetwork:   "its commands are processes of this machine",
			CleanKill:    "it finds processes by a mark in their environment",
		},
	}
}

func memoryTarget(f *Fake) Target {
	return Target{
		Driver:    f.Driver(),
		Leftovers: leftoversOf(f),
		Destroy:   destroyIn(f),
		Failing:   func(testing.TB) backends.Options { return &FakeOptions{FakeImage: "missing"} },
		Argv:      func(v Verb, words ...string) []string { return append([]string{string(v)}, words...) },
		Lacks:     map[Need]string{Shell: "its shell is a toy"},
	}
}

func leftoversOf(f *Fake) func(testing.TB, backends.Owner) []string {
	return func(_ testing.TB, o backends.Owner) []string { return f.Leftovers(o) }
}

func destroyIn(f *Fake) func(testing.TB, backends.Owner, string) {
	return func(t testing.TB, _ backends.Owner, id string) {
		if !f.Kill(id, "the test ended it") {
			t.Fatalf("there is no sandbox %s", id)
		}
	}
}

// openMemory opens a fake in memory.
func openMemory(t *testing.T) (*Fake, backends.Backend) {
	t.Helper()
	f := NewFake(InMemory)
	d := f.Driver()
	b, err := d.Open(backends.Spec{Profile: "p"}, d.Options(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return f, b
}

func mustCreate(t *testing.T, b backends.Backend) backends.Sandbox {
	t.Helper()
	sb, err := b.Create(t.Context())
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return sb
}

// run runs a script and returns both streams and how it ended.
func run(ctx context.Context, sb backends.Sandbox, script string) (string, string, backends.Exit, error) {
	var stdout, stderr bytes.Buffer
	x, err := sb.Exec(ctx, backends.Exec{Command: script, Stdout: &stdout, Stderr: &stderr, Stdin: strings.NewReader("input")})
	return stdout.String(), stderr.String(), x, err
}

// The toy shell does what InMemory says.
func TestMemoryShell(t *testing.T) {
	_, b := openMemory(t)
	sb := mustCreate(t, b)
	for _, k := range []struct {
		script, stdout, stderr string
		code                   int
	}{
		{"echo hi", "hi\n", "", 0},
		{"  echo   a  'b  c' \"d $HOME\"  e\\ f ", "a b  c d / e f\n", "", 0},
		{`echo "a\nb" 'c\n' $NOPE. $HOME$PATH "$"`, `a\nb c\n . //bin $` + "\n", "", 0},
		{"echo out; echo err >&2; exit 43; echo never", "out\n", "err\n", 43},
		{"false; echo x", "x\n", "", 0},
		{"true && echo yes || echo no", "yes\n", "", 0},
		{"false && echo yes || echo no", "no\n", "", 0},
		{"echo one > f; echo two >> f; cat f; cat < f", "one\ntwo\none\ntwo\n", "", 0},
		{"cat", "input", "", 0},
		{"cat f nope", "one\ntwo\n", "cat: open /nope: file does not exist\n", 1},
		{"cat < nope", "", "sh: open /nope: file does not exist\n", 1},
		{"rm f; rm f", "", "rm: open /f: file does not exist\n", 1},
		{"pwd; id", "/\n" + sb.ID() + "\n", "", 0},
		{"sh -c 'echo $HOME; exit 5'", "/\n", "", 5},
		{"echo a\necho b\n\n", "a\nb\n", "", 0},
		{"nope x", "", "exec nope: not found\n", 127},
		{"/bin/echo x", "x\n", "", 0},
		{"/tmp", "", "exec /tmp: is a directory\n", 126},
		{"exit", "", "", 0},
		{"exit 256", "", "", 0},
		{"exit x", "", "exit: strconv.Atoi: parsing \"x\": invalid syntax\n", 2},
		{"sleep x", "", "sleep: strconv.ParseFloat: parsing \"x\": invalid syntax\n", 1},
		{"echo 'open", "", "sh: a ' is not closed\n", 2},
		{`echo "open`, "", "sh: a \" is not closed\n", 2},
		{"echo >", "", "sh: no file after >\n", 2},
		{"echo > ; echo", "", "sh: no file after >\n", 2},
		{"; echo", "", "sh: no command before ;\n", 2},
		{"echo &&", "", "sh: no command after &&\n", 2},
		{"echo | cat", "", "sh: '|' is not understood\n", 2},
		{"", "", "", 0},
	} {
		stdout, stderr, x, err := run(t.Context(), sb, k.script)
		if stdout != k.stdout || stderr != k.stderr || x.Code != k.code || err != nil {
			t.Errorf("%q: got %q, %q, %d, %v; want %q, %q, %d", k.script, stdout, stderr, x.Code, err, k.stdout, k.stderr, k.code)
		}
	}
	sb.Close(t.Context())
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// No script makes the toy shell panic or hang.
func FuzzMemoryShell(f *testing.F) {
	for _, seed := range []string{"echo hi", "a && b || c; d & e", `"$X\"'`, ">&2 >> f < g", "yes & exit", "sh -c 'sh -c x'", "\\"} {
		f.Add(seed)
	}
	fake := NewFake(InMemory)
	d := fake.Driver()
	b, err := d.Open(backends.Spec{}, d.Options(), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, script string) {
		sb := mustCreate(t, b)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		run(ctx, sb, script)
		if err := sb.Close(context.Background()); err != nil || sb.Err() == nil {
			t.Errorf("%q: close: %v, %v", script, err, sb.Err())
		}
	})
}

// Background commands live on, are seen, and end with what started them.
func TestMemoryBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := openMemory(t)
		sb := mustCreate(t, b)
		out, _, x, err := run(t.Context(), sb, "sleep 60 & yes & echo started; exit 3")
		if out != "started\n" || x.Code != 3 || err != nil {
			t.Errorf("got %q, %d, %v", out, x.Code, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, _, err := run(ctx, sb, "sleep 7200 & sh -c 'sleep 7300 & sleep 7400' & sleep 7500"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if got, want := f.Running(), []string{"sleep 60", "yes"}; !slices.Equal(got, want) {
			t.Errorf("running: %q, want %q", got, want)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got, want := f.Running(), []string{"yes"}; !slices.Equal(got, want) {
			t.Errorf("a minute later: %q, want %q", got, want)
		}
		sb.Close(t.Context())
		if got := f.Running(); len(got) > 0 {
			t.Errorf("after Close: %q", got)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A thousand sessions are cheap, and fit into a bubble.
func TestMemoryThousand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := openMemory(t)
		var all sync.WaitGroup
		for i := range 1000 {
			all.Go(func() {
				sb := mustCreate(t, b)
				defer sb.Close(context.Background())
				out, _, _, err := run(t.Context(), sb, fmt.Sprintf("sleep 60; echo %d > f; cat f; id", i))
				if want := fmt.Sprintf("%d\n%s\n", i, sb.ID()); out != want || err != nil {
					t.Errorf("got %q, %v; want %q", out, err, want)
				}
			})
		}
		synctest.Wait()
		if f.Live() != 1000 || len(f.Running()) != 1000 || f.Execs() != 1000 {
			t.Errorf("%d live, %d running, %d execs", f.Live(), len(f.Running()), f.Execs())
		}
		all.Wait()
		if f.Live() != 0 || f.Created() != 1000 {
			t.Errorf("%d live, %d created", f.Live(), f.Created())
		}
	})
}

// Each fault shows as what it says, and goes when it is taken back.
func TestFaults(t *testing.T) {
	broken := errors.New("broken on demand")
	for _, k := range []struct {
		name   string
		faults Faults
		try    func(t *testing.T, f *Fake, b backends.Backend)
	}{
		{"Check", Faults{Check: broken}, func(t *testing.T, f *Fake, b backends.Backend) {
			if err := b.Check(t.Context()); !errors.Is(err, broken) {
				t.Errorf("got %v", err)
			}
		}},
		{"Create", Faults{Create: broken}, func(t *testing.T, f *Fake, b backends.Backend) {
			for range 3 {
				if _, err := b.Create(t.Context()); !errors.Is(err, broken) {
					t.Errorf("got %v", err)
				}
			}
		}},
		{"CreateTimes", Faults{Create: broken, CreateTimes: 2}, func(t *testing.T, f *Fake, b backends.Backend) {
			for i, want := range []error{broken, broken, nil, nil} {
				sb, err := b.Create(t.Context())
				if !errors.Is(err, want) {
					t.Errorf("%d: got %v, want %v", i, err, want)
				}
				if err == nil {
					sb.Close(t.Context())
				}
			}
		}},
		{"CreateDelay", Faults{CreateDelay: time.Minute, Progress: []backends.Progress{{Message: "a"}, {Message: "b"}}}, func(t *testing.T, f *Fake, b backends.Backend) {
			start := time.Now()
			var at []time.Duration
			ctx := backends.WithProgress(t.Context(), func(backends.Progress) { at = append(at, time.Since(start)) })
			sb, err := b.Create(ctx)
			if err != nil || time.Since(start) != time.Minute || !slices.Equal(at, []time.Duration{20 * time.Second, 40 * time.Second}) {
				t.Errorf("got %v after %v, reports after %v", err, time.Since(start), at)
			}
			sb.Close(t.Context())
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, broken)
			defer cancel()
			if _, err := b.Create(ctx); !errors.Is(err, broken) {
				t.Errorf("cut short: got %v", err)
			}
		}},
		{"Exec", Faults{Exec: broken}, func(t *testing.T, f *Fake, b backends.Backend) {
			sb := mustCreate(t, b)
			if _, _, _, err := run(t.Context(), sb, "echo"); !errors.Is(err, broken) || sb.Err() != nil {
				t.Errorf("got %v, sandbox %v", err, sb.Err())
			}
			sb.Close(t.Context())
		}},
		{"Exec gone", Faults{Exec: &backends.GoneError{Reason: "pulled the plug"}}, func(t *testing.T, f *Fake, b backends.Backend) {
			sb := mustCreate(t, b)
			_, _, _, err := run(t.Context(), sb, "echo")
			<-sb.Done()
			if !errors.Is(err, backends.ErrGone) || sb.Err().Error() != "sandbox is gone: pulled the plug" {
				t.Errorf("got %v, sandbox %v", err, sb.Err())
			}
		}},
		{"ExecDelay", Faults{ExecDelay: time.Minute}, func(t *testing.T, f *Fake, b backends.Backend) {
			sb := mustCreate(t, b)
			start := time.Now()
			if out, _, _, err := run(t.Context(), sb, "echo x"); out != "x\n" || err != nil || time.Since(start) != time.Minute {
				t.Errorf("got %q, %v after %v", out, err, time.Since(start))
			}
			sb.Close(t.Context())
		}},
		{"Garbage", Faults{Garbage: "\xff\x00"}, func(t *testing.T, f *Fake, b backends.Backend) {
			sb := mustCreate(t, b)
			if out, _, _, err := run(t.Context(), sb, "echo x"); out != "\xff\x00x\n" || err != nil {
				t.Errorf("got %q, %v", out, err)
			}
			sb.Close(t.Context())
		}},
		{"DieAfter", Faults{DieAfter: time.Minute, DieReason: "it ran out of memory"}, func(t *testing.T, f *Fake, b backends.Backend) {
			sb := mustCreate(t, b)
			start := time.Now()
			_, _, _, err := run(t.Context(), sb, "sleep 3600")
			<-sb.Done()
			if !errors.Is(err, backends.ErrGone) || sb.Err().Error() != "sandbox is gone: it ran out of memory" || time.Since(start) != time.Minute {
				t.Errorf("got %v, sandbox %v after %v", err, sb.Err(), time.Since(start))
			}
		}},
		{"Close", Faults{Close: broken}, func(t *testing.T, f *Fake, b backends.Backend) {
			sb := mustCreate(t, b)
			if err := sb.Close(t.Context()); !errors.Is(err, broken) || sb.Err() != nil || f.Live() != 1 {
				t.Errorf("got %v, sandbox %v, %d live", err, sb.Err(), f.Live())
			}
			f.SetFaults(Faults{})
			if err := sb.Close(t.Context()); err != nil || f.Live() != 0 {
				t.Errorf("taken back: got %v, %d live", err, f.Live())
			}
		}},
		{"CloseDelay", Faults{CloseDelay: time.Minute}, func(t *testing.T, f *Fake, b backends.Backend) {
			sb := mustCreate(t, b)
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, broken)
			defer cancel()
			if err := sb.Close(ctx); !errors.Is(err, broken) || f.Live() != 1 {
				t.Errorf("cut short: got %v, %d live", err, f.Live())
			}
			start := time.Now()
			if err := sb.Close(t.Context()); err != nil || f.Live() != 0 || time.Since(start) != 59*time.Second {
				t.Errorf("got %v after %v, %d live", err, time.Since(start), f.Live())
			}
		}},
	} {
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, b := openMemory(t)
				f.SetFaults(k.faults)
				k.try(t, f, b)
				f.SetFaults(Faults{})
				sb := mustCreate(t, b)
				if out, _, _, err := run(t.Context(), sb, "echo fine"); out != "fine\n" || err != nil {
					t.Errorf("without faults: got %q, %v", out, err)
				}
				sb.Close(t.Context())
				if err := b.Close(); err != nil || f.Live() != 0 || f.Backends() != 0 {
					t.Errorf("close: %v, %d live, %d backends", err, f.Live(), f.Backends())
				}
			})
		})
	}
	f := NewFake(Named("fake2"))
	f.SetFaults(Faults{Open: broken})
	if d := f.Driver(); d.Name != "fake2" {
		t.Errorf("the name is %q", d.Name)
	} else if _, err := d.Open(backends.Spec{}, d.Options(), nil); !errors.Is(err, broken) {
		t.Errorf("Open: got %v", err)
	}
	var bad *backends.OptionError
	if err := (&FakeOptions{}).Validate(); !errors.As(err, &bad) || bad.Key != "fake_image" {
		t.Errorf("no fake_image: got %v", err)
	}
}

// A daemon that breaks the contract hears of it.
func TestMisuse(t *testing.T) {
	_, b := openMemory(t)
	sb := mustCreate(t, b)
	if err := b.Close(); err == nil || !strings.Contains(err.Error(), sb.ID()) {
		t.Errorf("closed before its sandbox: got %v", err)
	}
	sb.Close(t.Context())
	if err := b.Close(); err == nil {
		t.Errorf("closed twice: got nil")
	}
	if _, err := b.Create(t.Context()); err == nil {
		t.Errorf("create after close: got nil")
	}
}
