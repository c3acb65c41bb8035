package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"
)

// notifier calls f with all that was written to it, after each write.
type notifier struct {
	mu  sync.Mutex
	all strings.Builder
	f   func(string)
}

func (n *notifier) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all.Write(b)
	n.f(n.all.String())
	return len(b), nil
}

// after runs a command for a while and kills it. It returns how long that took.
func after(t *testing.T, sb *Sandbox, line string, stdin io.Reader, d time.Duration) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	_, err := sb.Exec(ctx, Command{Argv: strings.Fields(line), Env: []string{"PATH=/bin"}, Dir: "/", Stdin: stdin})
	deadline, _ := ctx.Deadline()
	took := time.Since(deadline)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%s: got %v, want a deadline exceeded", line, err)
	}
	return took
}

// usable checks that a sandbox still works and has nothing running.
func usable(t *testing.T, sb *Sandbox) {
	t.Helper()
	if o := run(t, sb, "echo still here", nil); o.out.String() != "still here\n" {
		t.Errorf("the sandbox is not usable: %q %q %d", o.out.String(), o.err.String(), o.Status)
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if len(sb.procs) != 0 || sb.memory != 0 {
		t.Errorf("%d processes and %d bytes are left", len(sb.procs), sb.memory)
	}
}

// Whatever a guest does, it ends when it is told to, with all it started.
func TestKill(t *testing.T) {
	for _, line := range []string{
		"spin", "sleep 1h", "run sleep 1h", "run run spin", "moves read on", "flood", "forks", "trap", "cat", "pipeline spin , cat , cat",
		"pipeline flood , sleep 1h", "cat /tmp/fifo",
	} {
		for program := range programs {
			t.Run(program+"/"+line, func(t *testing.T) {
				sb := newSandbox(t, testLimits, program)
				run(t, sb, "fifo /tmp/fifo", nil)
				r, w := io.Pipe() // standard input that does not end before the command does
				go func() {
					defer w.Close()
					for begun := false; ; time.Sleep(time.Millisecond) {
						sb.mu.Lock()
						n := len(sb.procs)
						sb.mu.Unlock()
						if begun = begun || n > 0; begun && n == 0 {
							return
						}
					}
				}()
				took := after(t, sb, line, r, 200*time.Millisecond)
				t.Logf("gone %v after the deadline", took.Round(time.Millisecond/10))
				usable(t, sb)
			})
		}
	}
}

// One call moves no more than on Linux, where 4 GiB were asked for.
func TestMoves(t *testing.T) {
	sb := newSandbox(t, testLimits, "command")
	for _, call := range []string{"read", "write", "pread", "pwrite"} {
		o := run(t, sb, "moves "+call, nil)
		if want := call + " errno 0 2147479552\n"; o.out.String() != want {
			t.Errorf("got %q, %q, want %q", o.out.String(), o.err.String(), want)
		}
	}
	usable(t, sb)
}

// A call that moves much is in nobody's way: after a piece of it, who waits for
// a turn and for the lock has both, and a kill ends it.
func TestLongCall(t *testing.T) {
	sb := &Sandbox{kernel: &Kernel{sched: newScheduler()}}
	sched := sb.kernel.sched
	sched.free = 1
	p := &Proc{sb: sb, woken: make(chan struct{}, 1), dead: make(chan struct{})}
	p.resume()
	var other sync.WaitGroup
	var went atomic.Bool
	pieces := 0
	f := func(b []byte) (int, errno) {
		if len(b) > 1<<20 {
			t.Errorf("a piece of %d bytes", len(b))
		}
		switch pieces++; pieces {
		case 1:
			other.Go(func() {
				var use atomic.Int64
				sched.acquire(&use, nil)
				sb.mu.Lock()
				went.Store(true)
				sb.mu.Unlock()
				sched.release()
			})
			for sched.waiting.Load() == 0 {
				runtime.Gosched()
			}
		case 2:
			if !went.Load() {
				t.Error("nobody else had a turn")
			}
			p.dying.Store(true)
			close(p.dead)
		}
		return len(b), ok
	}
	m := guestMemory{bytes: make([]byte, 8+4<<20)}
	le.PutUint32(m.bytes, 8)
	le.PutUint32(m.bytes[4:], 4<<20)
	func() {
		sb.mu.Lock()
		defer sb.mu.Unlock()
		defer func() {
			if _, exit := recover().(*sys.ExitError); !exit {
				t.Error("it was not killed")
			}
		}()
		vectors(p, memory{m}, 0, 1, f)
	}()
	p.yield()
	other.Wait()
	if pieces != 2 {
		t.Errorf("%d pieces were moved, want 2", pieces)
	}
}

// guestMemory is a guest's memory that can be read.
type guestMemory struct {
	api.Memory
	bytes []byte
}

func (m guestMemory) Read(at, n uint32) ([]byte, bool) { return m.bytes[at : at+n], true }

func TestBombs(t *testing.T) {
	for _, c := range []struct {
		line, out string
		bad, oom  bool
	}{
		{line: "bomb", bad: true, oom: true},
		{line: "recurse", bad: true},
		{line: "fds", out: "Too many open files"},
		{line: "inodes", out: "true open"},
		{line: "fill", out: "No space left on device"},
	} {
		for program := range programs {
			t.Run(program+"/"+c.line, func(t *testing.T) {
				sb := newSandbox(t, testLimits, program)
				o := run(t, sb, c.line, nil)
				if (o.Status != 0) != c.bad || o.OOM != c.oom || !strings.Contains(o.out.String(), c.out) {
					t.Errorf("got status %d, oom %v, %q, %.300q", o.Status, o.OOM, o.out.String(), o.err.String())
				}
				usable(t, sb)
				if sb.fs.quota.used > sb.fs.quota.bytes {
					t.Errorf("%d bytes of files, %d are allowed", sb.fs.quota.used, sb.fs.quota.bytes)
				}
			})
		}
	}
}

// The memory of a process is refused before it starts when it does not fit.
func TestInitialMemory(t *testing.T) {
	l := testLimits
	l.Memory = int64(programs["snapshot"].size) + 1<<20
	sb := newSandbox(t, l, "snapshot")
	o := run(t, sb, "run echo hi", nil)
	if o.Status != 1 || !strings.Contains(o.err.String(), "Out of memory") || !o.OOM {
		t.Errorf("got %d, %q, oom %v", o.Status, o.err.String(), o.OOM)
	}
	usable(t, sb)
}

// 3 GiB of output against a writer that takes 2 MiB: the command ends with
// the writer's error, and nothing is kept.
func TestFlood(t *testing.T) {
	sb := newSandbox(t, testLimits, "snapshot")
	full := errors.New("full")
	w := &limited{left: 2 << 20, err: full}
	_, err := sb.Exec(context.Background(), Command{Argv: []string{"pipeline", "flood", ",", "cat"}, Env: []string{"PATH=/bin"}, Dir: "/", Stdout: w})
	if !errors.Is(err, full) {
		t.Errorf("got %v, want %v", err, full)
	}
	usable(t, sb)
}

type limited struct {
	left int
	err  error
}

func (l *limited) Write(b []byte) (int, error) {
	if l.left -= len(b); l.left < 0 {
		return 0, l.err
	}
	return len(b), nil
}

func TestFuel(t *testing.T) {
	l := testLimits
	l.Fuel = 50_000_000
	sb := newSandbox(t, l, "snapshot")
	// The program is metered by calls here, so a unit is more than an
	// instruction; what matters is that it ends.
	o := run(t, sb, "run spin", nil)
	if !o.Result.Fuel {
		t.Errorf("got %+v, want the fuel exhausted", o.Result)
	}
	usable(t, sb)
}

// Fifty sandboxes that spin: another one's command is not held up for long,
// and neither are the daemon's own goroutines.
func TestSpinners(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var spinners []*Sandbox
	for range 50 {
		sb := newSandbox(t, testLimits, "snapshot")
		spinners = append(spinners, sb)
		wg.Go(func() {
			sb.Exec(ctx, Command{Argv: []string{"spin"}, Env: []string{"PATH=/bin"}, Dir: "/"})
		})
	}
	for slices.ContainsFunc(spinners, func(sb *Sandbox) bool { return sb.use.Load() < int64(time.Millisecond) }) {
		time.Sleep(time.Millisecond) // until each of them has spun
	}
	sb := newSandbox(t, testLimits, "snapshot")
	var calls, ticks []time.Duration
	for range 40 {
		start := time.Now()
		run(t, sb, "echo hi", nil)
		calls = append(calls, time.Since(start))
		start = time.Now()
		time.Sleep(time.Millisecond)
		ticks = append(ticks, time.Since(start))
	}
	start := time.Now()
	runtime.GC()
	gc := time.Since(start)
	cancel()
	start = time.Now()
	wg.Wait()
	slices.Sort(calls)
	slices.Sort(ticks)
	t.Logf("echo p50 %v max %v; 1 ms timer p50 %v max %v; GC %v; all gone after %v", calls[20], calls[39], ticks[20], ticks[39], gc, time.Since(start))
}

// The guest of the study that left stock wazero's directory mounts, and more.
func TestEscape(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret.txt")
	if err := os.WriteFile(secret, []byte("of the host"), 0o666); err != nil {
		t.Fatal(err)
	}
	for program := range programs {
		for _, outside := range []string{secret, "/etc/shadow", "/proc/1/root/etc/passwd"} {
			sb := newSandbox(t, testLimits, program)
			o := run(t, sb, "escape "+outside, nil)
			if o.out.String() != "done\n" || o.Status != 0 {
				t.Errorf("%s, %s: %s%s", program, outside, o.out.String(), o.err.String())
			}
			if o := run(t, sb, "pwd", nil); o.out.String() != "/\n" {
				t.Errorf("pwd: %q", o.out.String())
			}
		}
		for _, d := range []string{"/../../../../../../" + dir, dir, "/proc/self/cwd", "/proc/1/root"} {
			sb := newSandbox(t, testLimits, program)
			_, err := sb.Exec(context.Background(), Command{Argv: []string{"pwd"}, Env: []string{"PATH=/bin"}, Dir: d})
			if err == nil {
				t.Errorf("%s is a working directory", d)
			}
		}
	}
	if b, _ := os.ReadFile(secret); string(b) != "of the host" {
		t.Errorf("the host's file is now %q", b)
	}
	if l, _ := os.ReadDir(dir); len(l) != 1 {
		t.Errorf("files were made beside the host's: %v", l)
	}
}

// A module that was written inside runs only where the profile allows it, and
// never under the name of one that came with the image.
func TestGuestModules(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		l := testLimits
		l.GuestModules = allowed
		l.Memory, l.Bytes = 512<<20, 64<<20
		sb := newSandbox(t, l, "snapshot")
		send := func(name string) {
			if o := run(t, sb, "cp "+name, nil); o.Status != 127 {
				t.Fatal("the guest has cp now; use it")
			}
			err := sb.add(File{Path: name, Mode: 0o644, Data: modules["command"]})
			if err != nil {
				t.Fatal(err)
			}
			run(t, sb, "chmod 755 "+name, nil)
		}
		send("/tmp/guest")
		o := run(t, sb, "/tmp/guest echo from within", nil)
		switch {
		case !allowed && (o.Status != 126 || !strings.Contains(o.err.String(), "Operation not permitted")):
			t.Errorf("not allowed: got %d, %q, %q", o.Status, o.out.String(), o.err.String())
		case allowed && o.out.String() != "from within\n":
			t.Errorf("allowed: got %d, %q, %q", o.Status, o.out.String(), o.err.String())
		}
		// A module of the image that was written to is one of the guest's.
		run(t, sb, "write /bin/guest nonsense", nil)
		if o := run(t, sb, "echo hi", nil); o.Status != 126 || !strings.Contains(o.err.String(), "Exec format error") {
			t.Errorf("overwritten program: got %d, %q, %q", o.Status, o.out.String(), o.err.String())
		}
		usableAfter(t, sb)
	}
}

// usableAfter is usable for a sandbox whose /bin is gone.
func usableAfter(t *testing.T, sb *Sandbox) {
	t.Helper()
	var out bytes.Buffer
	_, err := sb.Exec(context.Background(), Command{Program: programs["snapshot"], Argv: []string{"echo", "still here"}, Dir: "/", Stdout: &out})
	if err != nil || out.String() != "still here\n" {
		t.Errorf("got %v, %q", err, out.String())
	}
}

func TestBackground(t *testing.T) {
	for program := range programs {
		sb := newSandbox(t, testLimits, program)
		pid, err := strconv.Atoi(strings.TrimSpace(run(t, sb, "bg sleep 1h", nil).out.String()))
		if err != nil {
			t.Fatal(err)
		}
		if o := run(t, sb, fmt.Sprintf("cat /proc/%d/comm", pid), nil); o.out.String() != "sleep\n" {
			t.Errorf("got %q, %q", o.out.String(), o.err.String())
		}
		if o := run(t, sb, fmt.Sprintf("kill %d 15", pid), nil); o.Status != 0 {
			t.Errorf("kill: %s", o.err.String())
		}
		run(t, sb, "bg flood", nil) // its output goes nowhere
		after(t, sb, "sleep 1h", nil, 50*time.Millisecond)
		sb.mu.Lock()
		n := len(sb.procs)
		sb.mu.Unlock()
		if n != 1 {
			t.Errorf("%d processes; the kill of one command is not for what another left", n)
		}
	}
}

func TestSignals(t *testing.T) {
	sb := newSandbox(t, testLimits, "snapshot")
	sent := 0
	until := make(chan struct{})
	out := &notifier{f: func(s string) {}}
	var pid string
	out.f = func(s string) {
		lines := strings.Split(s, "\n")
		if len(lines) == 2 && sent == 0 {
			sent++
			close(until)
		}
	}
	done := make(chan Result)
	go func() {
		r, err := sb.Exec(context.Background(), Command{Argv: []string{"trap"}, Env: []string{"PATH=/bin"}, Dir: "/", Stdout: out})
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	<-until
	sb.mu.Lock()
	for _, p := range sb.list() {
		pid = strconv.Itoa(p.pid)
	}
	sb.mu.Unlock()
	for _, sig := range []string{"1", "19", "10", "18", "15"} { // HUP is ignored; STOP, USR1 caught, CONT, TERM caught
		run(t, sb, "kill "+pid+" "+sig, nil)
	}
	if r := <-done; r.Status != 0 || out.all.String() != "ready\nsignal 10\nsignal 15\n" {
		t.Errorf("got %d, %q", r.Status, out.all.String())
	}
	for sig, want := range map[string]int{"15": 143, "9": 137, "1": 129} {
		if o := run(t, sb, "run kill 0 "+sig, nil); o.Status != want {
			t.Errorf("signal %s to the group: got %d, want %d", sig, o.Status, want)
		}
	}
}

// Recycled instances are as new: nothing of the process before shows, and the
// random numbers are others.
func TestRecycling(t *testing.T) {
	for program := range programs {
		sb := newSandbox(t, testLimits, program)
		seen := map[string]bool{}
		for range 5 {
			o := run(t, sb, "random", nil)
			if seen[o.out.String()] {
				t.Errorf("%s: random numbers repeat: %s", program, o.out.String())
			}
			seen[o.out.String()] = true
		}
		// A program that has grown its memory leaves one as new, too.
		run(t, sb, "fill", nil)
		run(t, sb, "bomb", nil)
		if len(sb.used) != 1 {
			t.Fatalf("%s: %d instances were kept", program, len(sb.used))
		}
		in := sb.used[0]
		g := programs[program]
		b, _ := in.module.Memory().Read(0, in.module.Memory().Size())
		if uint64(len(b)) != g.size || in.memory.size != g.size {
			t.Errorf("%s: the memory has %d bytes, not %d", program, len(b), g.size)
		}
		fresh, err := reserve(g.size, g.image)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, fresh) {
			t.Errorf("%s: memory is not what it was", program)
		}
		unreserve(fresh)
		if o := run(t, sb, "echo again", nil); o.out.String() != "again\n" {
			t.Errorf("%s: %q, %q", program, o.out.String(), o.err.String())
		}
		usable(t, sb)
	}
}

// Commands of many sandboxes at once, with kills and closes between.
func TestHammer(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 8 {
		sb := newSandbox(t, testLimits, []string{"command", "snapshot"}[i%2])
		for j := range 3 {
			wg.Go(func() {
				for k := range 6 {
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(k*j)*5*time.Millisecond)
					var out bytes.Buffer
					sb.Exec(ctx, Command{Argv: strings.Fields([]string{"echo hi", "pipeline echo x , cat", "run spin", "files", "bg sleep 1h", "forks"}[(i+j+k)%6]),
						Env: []string{"PATH=/bin"}, Dir: "/", Stdin: strings.NewReader("input"), Stdout: &out, Stderr: io.Discard})
					cancel()
				}
				if j == 2 {
					sb.Close()
				}
			})
		}
	}
	wg.Wait()
}
