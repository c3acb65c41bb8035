package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// TestMain turns the test binary into a process that hides behind its own
// death: its main thread has ended, so /proc calls it a zombie, and the others
// go on.
func TestMain(m *testing.M) {
	if os.Getenv("KILNTAINERS_TEST_ZOMBIE") != "" {
		runtime.LockOSThread() // main runs on the main thread
		go func() {
			for {
				time.Sleep(time.Hour)
			}
		}()
		fmt.Println("ready")
		syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
	}
	os.Exit(m.Run())
}

// init locks main to the main thread, for TestMain.
func init() { runtime.LockOSThread() }

// ready cancels when the command has said that it is.
func ready(cancel func()) io.Writer {
	return writer(func(p []byte) (int, error) { cancel(); return len(p), nil })
}

// Whatever a command did to get away, nothing of it is left when its ctx ends,
// and the sandbox works on.
func TestKill(t *testing.T) {
	b := newBox(t, Options{})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, command := range map[string]string{
		"plain":                    `echo; exec sleep 1000`,
		"pipeline":                 `sleep 1000 | sleep 1000 | (echo >&2; sleep 1000)`,
		"busy":                     `echo; while :; do :; done`,
		"flood":                    `yes`,
		"flood of both":            `yes >&2 & yes`,
		"background":               `sleep 1000 & sleep 1000 & echo; wait`,
		"TERM and all else caught": `trap '' TERM INT HUP QUIT; sleep 1000 & echo; while :; do sleep 1000; done`,
		"nohup":                    `nohup sleep 1000 >/dev/null & echo; wait`,
		"setsid":                   `setsid sleep 1000 & echo; wait`,
		"double fork":              `(setsid sh -c 'sleep 1000 & exec sleep 1000' &); echo; sleep 1000`,
		"orphans only":             `(setsid sh -c '(sleep 1000 &) ; exec sleep 1000' & ); (trap '' TERM; sleep 1000 &) ; echo; exec sleep 1000`,
		"stopped":                  `sleep 1000 & kill -STOP $!; echo; kill -STOP $$`,
		"closed all":               `echo; exec <&- >&- 2>&-; sleep 1000`,
		"stopped its supervisor":   `kill -STOP $PPID; echo; exit 0`,
		"zombie with threads":      `KILNTAINERS_TEST_ZOMBIE=1 ` + self,
		"chain":                    `f() { sleep 0.01; f & }; f & echo; wait`,
		"a subreaper of its own":   `unshare --pid --fork --kill-child sh -c 'setsid sleep 1000 & sleep 1000 & echo; wait'`,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Second, errors.New("it did not start"))
			defer cancel()
			ctx, stop := context.WithCancelCause(ctx)
			cause := errors.New("stop")
			out := ready(func() { stop(cause) })
			_, err := b.Exec(ctx, Command{Exec: backends.Exec{Command: command, Stdout: out, Stderr: out}})
			if err != cause {
				t.Errorf("got %v, want %v", err, cause)
			}
			b.onlyInit(t)
		})
	}
}

// A command that ended by itself and left processes behind is still killed as
// a whole when what it wrote turns out to be too much.
func TestKillAfterItsEnd(t *testing.T) {
	b := newBox(t, Options{})
	limit := errors.New("limit")
	for _, command := range []string{`yes & echo`, `yes & echo; sleep 0.01`, `setsid yes & echo; setsid yes >&2 &`, `sleep 1000 & head -c 1100000 /dev/zero`} {
		out := writer(func(p []byte) (int, error) {
			time.Sleep(100 * time.Millisecond) // so that the command has ended
			return 0, limit
		})
		if _, err := b.Exec(t.Context(), Command{Exec: backends.Exec{Command: command, Stdout: out}}); err != limit {
			t.Errorf("%s: got %v, want %v", command, err, limit)
		}
		b.onlyInit(t)
	}
}

// Whoever kills a supervisor does not get away with it.
func TestSupervisorKilled(t *testing.T) {
	b := newBox(t, Options{})
	for _, command := range []string{
		`kill -KILL $PPID; sleep 1000`,
		`setsid sleep 1000 & kill -KILL $PPID; sleep 1000`,
		`(setsid sh -c 'sleep 1000 & exec sleep 1000' &); sleep 0.02; kill -KILL $PPID; exec sleep 1000`,
		`kill -KILL -1; sleep 1000`,
	} {
		_, _, x := b.run(t, Command{Exec: backends.Exec{Command: command}})
		if x.Code != 137 || x.OOM {
			t.Errorf("%s: got %+v, want 137", command, x)
		}
		b.onlyInit(t)
	}

	// It hits commands that run beside it, and they say so.
	type result struct {
		x   backends.Exit
		err error
	}
	beside := make(chan result)
	started := make(chan bool)
	go func() {
		x, err := b.Exec(t.Context(), Command{Exec: backends.Exec{Command: "echo; exec sleep 1000", Stdout: ready(func() { close(started) })}})
		beside <- result{x, err}
	}()
	<-started
	b.run(t, Command{Exec: backends.Exec{Command: `kill -KILL -1`}})
	if r := <-beside; r.err != nil || r.x.Code != 137 {
		t.Errorf("got %+v, want 137", r)
	}
	b.onlyInit(t)
}

// PID 1 ignores what comes from inside.
func TestSignalsAtInit(t *testing.T) {
	b := newBox(t, Options{})
	b.sh(t, `for s in $(seq 1 64); do kill -$s 1; done 2>/dev/null; :`)
	if got := b.sh(t, "echo works"); got != "works\n" {
		t.Errorf("got %q after all signals", got)
	}
}

// How the agent itself ends, and what its stderr says of it.
func TestAgentEnds(t *testing.T) {
	for _, test := range []struct {
		name   string
		args   []string
		bring  func(t *testing.T, b *box)
		status int
		stderr string
	}{
		{"end of the channel", nil, func(t *testing.T, b *box) { b.conn.Close() }, 0, ""},
		{"BYE", nil, func(t *testing.T, b *box) { b.conn.Write(appendHeader(nil, frameBye, 0, 0)) }, 0, ""},
		{"a frame that is none", nil, func(t *testing.T, b *box) { b.conn.Write(make([]byte, headerSize)) }, 72,
			"kilntainers-init: the host sent a frame of unknown type\n"},
		{"silence", []string{"--heartbeat", "1"}, func(t *testing.T, b *box) {}, 75,
			"kilntainers-init: the host is silent\n"},
		{"wrong arguments", []string{"--heartbeat", "x"}, func(t *testing.T, b *box) {}, 64,
			"kilntainers-init: usage: kilntainers-init [--heartbeat SECONDS]\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := startAgent(t, test.args...)
			if test.status != 64 {
				if _, err := io.ReadFull(b.conn, make([]byte, headerSize+12)); err != nil {
					t.Fatal(err)
				}
			}
			test.bring(t, b)
			if got := b.status(t); got != test.status || b.stderr.String() != test.stderr {
				t.Errorf("got status %d, %q; want %d, %q", got, &b.stderr, test.status, test.stderr)
			}
		})
	}

	t.Run("not PID 1", func(t *testing.T) {
		out, err := exec.Command(agentFile(t)).CombinedOutput()
		want := "kilntainers-init: not PID 1, and killing is by PID namespace: refusing to run\n"
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 76 || string(out) != want {
			t.Errorf("got %v, %q; want status 76, %q", err, out, want)
		}
	})
}

// initPID is the agent's, as this namespace has it.
func (b *box) initPID(t *testing.T) int {
	t.Helper()
	out, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", b.proc.Process.Pid))
	var pid int
	if _, err2 := fmt.Sscan(string(out), &pid); err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	return pid
}

func TestTERMFromOutside(t *testing.T) {
	b := newBox(t, Options{})
	if err := syscall.Kill(b.initPID(t), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := b.status(t); got != 0 {
		t.Errorf("got status %d, want 0", got)
	}
	<-b.Done()
	if gone := (*backends.GoneError)(nil); !errors.As(b.Err(), &gone) || gone.Reason != "its connection ended" {
		t.Errorf("got %v, want a GoneError", b.Err())
	}
}

// A frozen agent is given up by its host, which then ends it otherwise.
func TestFrozenAgent(t *testing.T) {
	var b *box
	killed := make(chan bool, 2)
	b = newBox(t, Options{Heartbeat: 50 * time.Millisecond, Kill: func(context.Context) error {
		killed <- true
		return syscall.Kill(b.initPID(t), syscall.SIGKILL)
	}})
	pid := b.initPID(t)
	go func() {
		time.Sleep(20 * time.Millisecond)
		syscall.Kill(pid, syscall.SIGSTOP)
	}()
	_, err := b.Exec(t.Context(), Command{Exec: backends.Exec{Command: "sleep 1000"}})
	if gone := (*backends.GoneError)(nil); !errors.As(err, &gone) || gone.Reason != "it stopped answering" || len(killed) != 1 {
		t.Errorf("got %v and %d kills, want a GoneError and 1", err, len(killed))
	}
}

// One that was frozen for longer than it waits for its host lives, if the host
// went on pinging.
func TestFrozenForAWhile(t *testing.T) {
	b := newBox(t, Options{Heartbeat: 700 * time.Millisecond}, "--heartbeat", "1")
	pid := b.initPID(t)
	for range 2 {
		syscall.Kill(pid, syscall.SIGSTOP)
		time.Sleep(2 * time.Second)
		syscall.Kill(pid, syscall.SIGCONT)
		if got := b.sh(t, "echo works"); got != "works\n" {
			t.Errorf("got %q", got)
		}
	}
}

// The cases that need limits and capabilities of a container.

// A command cannot reach into PID 1 or its supervisor, whoever it is.
func TestOutOfReach(t *testing.T) {
	for _, flags := range [][]string{nil, {"--user", "1000"}, {"--cap-drop", "ALL", "--read-only", "--security-opt", "no-new-privileges"}} {
		b := newContainer(t, Options{}, flags...)
		got := b.sh(t, `for p in 1 $PPID; do
			for f in fd/0 fd/1 fd/3 cwd exe; do readlink /proc/$p/$f && echo "$p/$f can be read"; done
			for f in mem environ; do head -c 1 /proc/$p/$f && echo "$p/$f can be read"; done
		done 2>/dev/null; :`)
		if got != "" {
			t.Errorf("%q: %s", flags, got)
		}
		if score := b.sh(t, "cat /proc/self/oom_score_adj"); score != "100\n" {
			t.Errorf("%q: oom_score_adj of a command is %q, want 100", flags, score)
		}
		if score := b.sh(t, "cat /proc/1/oom_score_adj"); score != "0\n" {
			t.Errorf("%q: oom_score_adj of PID 1 is %q, want 0", flags, score)
		}
	}
}

// The kernel takes the command and not PID 1, and the exit says so.
func TestOOM(t *testing.T) {
	for _, flags := range [][]string{nil, {"--user", "1000", "--cap-drop", "ALL"}, {"--oom-score-adj", "500"}} {
		b := newContainer(t, Options{}, append(flags, "--memory", "32m", "--memory-swap", "32m")...)
		for range 3 {
			_, _, x := b.run(t, Command{Exec: backends.Exec{Args: []string{"tail", "/dev/zero"}}})
			if x != (backends.Exit{Code: 137, OOM: true}) {
				t.Errorf("%q: got %+v, want 137 and OOM", flags, x)
			}
		}
		if _, _, x := b.run(t, Command{Exec: backends.Exec{Command: "tail /dev/zero; true"}}); x != (backends.Exit{OOM: true}) {
			t.Errorf("%q: got %+v, want 0 and OOM", flags, x)
		}
		// Beside one that is hit, one that ends well has nothing to do with it.
		beside := make(chan backends.Exit)
		go func() {
			x, err := b.Exec(t.Context(), Command{Exec: backends.Exec{Args: []string{"sleep", "1"}}})
			if err != nil {
				t.Error(err)
			}
			beside <- x
		}()
		if _, _, x := b.run(t, Command{Exec: backends.Exec{Args: []string{"tail", "/dev/zero"}}}); x != (backends.Exit{Code: 137, OOM: true}) {
			t.Errorf("%q: got %+v, want 137 and OOM", flags, x)
		}
		if x := <-beside; x != (backends.Exit{}) {
			t.Errorf("%q: got %+v beside, want 0", flags, x)
		}
		b.onlyInit(t)
	}
}

// Fork bombs end with their command, and the sandbox works on.
func TestForkBombs(t *testing.T) {
	const (
		classic   = `f() { f | f & }; f`
		staying   = `echo; f() { f & f & wait; }; f`
		detaching = `echo; f() { while :; do (setsid sleep 1000 &) ; f & done; }; f`
	)
	for _, pids := range []string{"16", "100"} {
		b := newContainer(t, Options{}, "--pids-limit", pids, "--memory", "256m", "--cpus", "1")
		for name, bomb := range map[string]string{"staying": staying, "detaching": detaching} {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			_, err := b.Exec(ctx, Command{Exec: backends.Exec{Command: bomb}})
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s of %s: got %v, want %v", name, pids, err, context.DeadlineExceeded)
			}
			b.onlyInit(t)
		}

		// One whose main process ends at once is a background process like any
		// other. It does not keep the next command from being answered.
		b.run(t, Command{Exec: backends.Exec{Command: classic}})
		_, stderr, x := b.run(t, Command{Exec: backends.Exec{Args: []string{"true"}}})
		refused := strings.HasPrefix(stderr, "kilntainers: cannot start a process: ")
		if x.Code != 0 && !(x.Code == 126 && refused) {
			t.Errorf("beside a bomb: got %+v, %q; want 0, or 126 with the reason", x, stderr)
		}
	}
}
