//go:build linux

package modal

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/modal/modaltest"
)

func TestMain(m *testing.M) {
	if words := os.Getenv("KILNTAINERS_TEST_DAEMON"); words != "" {
		os.Exit(doomed(words))
	}
	adoptPatience = 2 * time.Second
	os.Exit(m.Run())
}

// crashed is a daemon of the instance that is no more.
var crashed = backends.Owner{Instance: owner.Instance, Boot: "crashed"}

// running are commands that a daemon may have when it dies.
var running = []string{
	"echo begun; sleep RUNS",
	"setsid sleep RUNS & echo begun; sleep RUNS",
	"(setsid sleep RUNS &); echo begun; cat",
	// Modal kills the first process when the command's time is over.
	`(sleep RUNS &); kill -KILL $(cut -d" " -f4 /proc/$PPID/stat); echo begun; sleep RUNS`,
}

// doomed is a daemon with a sandbox in which commands run, and one has ended.
// It writes its ticket and waits to be killed. The two words are how long what
// has ended, and what runs, sleeps, which nothing else on this machine does. The
// token and the address are in the environment.
func doomed(words string) int {
	ends, runs, _ := strings.Cut(words, " ")
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	b := open(backends.Spec{Profile: "test", Owner: crashed}, defaults(), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	s, err := b.Create(context.Background())
	if err != nil {
		return fail(err)
	}
	t, err := s.Ticket() // as a daemon does: at once, since it does not know when it will die
	if err != nil {
		return fail(err)
	}
	if _, err := s.Exec(context.Background(), backends.Exec{Command: strings.ReplaceAll("echo kept > kept; sleep ENDS & setsid sleep ENDS &", "ENDS", ends)}); err != nil {
		return fail(err)
	}
	var begun sync.WaitGroup
	for _, command := range running {
		begun.Add(1)
		go func() {
			w := writerFunc(func(p []byte) (int, error) { begun.Done(); return len(p), nil })
			command = strings.ReplaceAll(command, "RUNS", runs)
			exit, err := s.Exec(context.Background(), backends.Exec{Command: command, Stdin: silence{}, Stdout: w})
			fmt.Fprintf(os.Stderr, "%q ended: %+v %v\n", command, exit, err)
		}()
	}
	begun.Wait()
	json.NewEncoder(os.Stdout).Encode(t)
	time.Sleep(time.Hour)
	return 0
}

// silence is a stdin of which nothing ever comes.
type silence struct{}

func (silence) Read([]byte) (int, error) { time.Sleep(time.Hour); return 0, io.EOF }

// A daemon that was killed has left nothing but its ticket. Its sandbox is found
// again: files are there, and what a command that had ended left behind runs;
// what the daemon was waiting for does not.
func TestDaemonKilled(t *testing.T) {
	m := start(t)
	ends, runs := fmt.Sprint(1_000_000+rand.N(1_000_000)), fmt.Sprint(2_000_000+rand.N(1_000_000))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KILNTAINERS_TEST_DAEMON="+ends+" "+runs,
		"MODAL_TOKEN_ID="+m.TokenID, "MODAL_TOKEN_SECRET="+m.TokenSecret)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	cmd.Process.Kill()
	cmd.Wait()
	var ticket backends.Ticket
	if err != nil || json.Unmarshal([]byte(line), &ticket) != nil {
		t.Fatalf("the first daemon said %q, %v", line, err)
	}

	sweepBut(t, m, ticket.ID)
	s := adopt(t, use(t, optionsFor(m)), ticket)
	if got := sh(t, s, "cat kept"); got != "kept\n" {
		t.Errorf("the file is %q", got)
	}
	if n := alive(t, s, ends); n != "2" {
		t.Errorf("%s of 2 background processes live", n)
	}
	if n := alive(t, s, runs); n != "0" {
		t.Errorf("%s processes live of commands that ran", n)
	}
	sweepBut(t, m, ticket.ID)
	sh(t, s, "true")
}

// alive counts the processes with that word in their arguments.
func alive(t *testing.T, s backends.Sandbox, word string) string {
	t.Helper()
	return strings.TrimSpace(sh(t, s, `grep -lsa '[`+word[:1]+`]`+word[1:]+`' /proc/[0-9]*/cmdline | wc -l`))
}

// sweepBut sweeps but for what is to be kept. There must not be anything else.
func sweepBut(t *testing.T, m *modaltest.Server, keep ...string) {
	t.Helper()
	found, err := sweep(t.Context(), backends.Sweep{Owner: owner, Keep: keep, Log: slog.New(slog.DiscardHandler), Options: []backends.Options{optionsFor(m)}})
	if err != nil || len(found) > 0 {
		t.Errorf("sweep: found %+v, %v", found, err)
	}
}

// adopt takes over a sandbox until the test ends.
func adopt(t *testing.T, b *Backend, ticket backends.Ticket) backends.Sandbox {
	t.Helper()
	s, err := b.Adopt(t.Context(), ticket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, s) })
	return s
}

// left makes a sandbox in a daemon of its own, which leaves it.
func left(t *testing.T, m *modaltest.Server) backends.Ticket {
	t.Helper()
	b := useAs(t, backends.Spec{Profile: "test", Owner: crashed}, optionsFor(m), slog.New(slog.DiscardHandler))
	s, err := b.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := s.Ticket()
	if err != nil {
		t.Fatal(err)
	}
	s.Leave()
	return ticket
}

// What cannot be taken over: the error says why, and what is ours is ended.
func TestCannotAdopt(t *testing.T) {
	for name, k := range map[string]struct {
		spoil func(*testing.T, *modaltest.Server, *Backend, *backends.Ticket)
		gone  bool
		want  string
		left  int
	}{
		"expired meanwhile": {func(_ *testing.T, m *modaltest.Server, _ *Backend, t *backends.Ticket) { m.Expire(t.ID) }, true,
			"its time was over", 0},
		"ended meanwhile": {func(_ *testing.T, m *modaltest.Server, _ *Backend, t *backends.Ticket) { m.Terminate(t.ID) }, true,
			"terminated from outside", 0},
		"forgotten meanwhile": {func(_ *testing.T, m *modaltest.Server, _ *Backend, t *backends.Ticket) { m.Forget(t.ID) }, true,
			"does not know it", 0},
		"another instance's": {func(_ *testing.T, _ *modaltest.Server, b *Backend, _ *backends.Ticket) {
			b.spec.Owner.Instance = "another"
		}, false,
			"not the one", 1},
		"another sandbox's": {func(t *testing.T, _ *modaltest.Server, b *Backend, k *backends.Ticket) { k.ID = create(t, b).ID() }, false,
			"not the one", 1},
		"another token": {func(_ *testing.T, m *modaltest.Server, _ *Backend, _ *backends.Ticket) {
			m.SetToken("ak-another", "as-another")
		}, false,
			"refuses the token", 1},
		"no Modal": {func(_ *testing.T, m *modaltest.Server, _ *Backend, _ *backends.Ticket) {
			for range 200 {
				m.Fail("SandboxTagsGetV2", unavailable())
			}
		}, false, "cannot be reached", 1},
		"cannot look": {func(_ *testing.T, m *modaltest.Server, _ *Backend, _ *backends.Ticket) {
			m.Fail("TaskExecStart", status.Error(codes.InvalidArgument, "no commands today"))
		}, false, "no commands today", 0},
		"pattern for a mark": {func(_ *testing.T, _ *modaltest.Server, _ *Backend, t *backends.Ticket) {
			t.Data = []byte(`{"name":"x","marks":".*"}`)
		}, false, "not one of this version", 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := start(t)
			id, secret := m.TokenID, m.TokenSecret
			ticket := left(t, m)
			left := ticket.ID
			b := use(t, optionsFor(m))
			k.spoil(t, m, b, &ticket)
			s, err := b.Adopt(t.Context(), ticket)
			if err == nil {
				closeIt(t, s)
				t.Fatal("it was adopted")
			}
			if errors.Is(err, backends.ErrGone) != k.gone || !strings.Contains(err.Error(), k.want) {
				t.Errorf("got %v (gone: %t), want %q (%t)", err, errors.Is(err, backends.ErrGone), k.want, k.gone)
			}
			if strings.Contains(err.Error(), id) || strings.Contains(err.Error(), secret) {
				t.Error("the token is in the error")
			}
			m.Heal()
			m.SetToken(id, secret)
			n := 0
			for _, s := range m.Sandboxes() {
				if s.ID == left {
					n++
					m.Terminate(left)
				}
			}
			if n != k.left {
				t.Errorf("%d sandboxes are left, want %d", n, k.left)
			}
		})
	}
}

// A Modal that cannot be reached yet, for longer than the SDK tries.
func TestAdoptEarly(t *testing.T) {
	m := start(t)
	ticket := left(t, m)
	b := use(t, optionsFor(m))
	for range 5 {
		m.Fail("SandboxTagsGetV2", unavailable())
	}
	sh(t, adopt(t, b, ticket), "true")
}

// A sandbox that was adopted is kept from idling to death, and is over when its
// time is, from its birth on.
func TestAdoptedLife(t *testing.T) {
	shorten(t, &renewEvery, 50*time.Millisecond)
	m := start(t)
	ticket := left(t, m)
	m.RotateWorkerTokens()
	s := adopt(t, use(t, optionsFor(m)), ticket)
	before := m.Calls("TaskExecStart")
	await(t, "a renewal", func() bool { return m.Calls("TaskExecStart") > before })
	m.Expire(s.ID())
	<-s.Done()
	if err := s.Err(); !errors.Is(err, backends.ErrGone) || !strings.Contains(err.Error(), "its time was over") {
		t.Errorf("got %v", err)
	}
}

// A backend can be closed once its sandboxes are left, also when a command in
// one takes no more of its stdin; and a command that is on its way at that time
// is found by the next daemon.
func TestLeaveWhileBusy(t *testing.T) {
	m := start(t)
	b := open(backends.Spec{Profile: "test", Owner: crashed}, optionsFor(m), slog.New(slog.DiscardHandler))
	s, err := b.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := s.Ticket()
	if err != nil {
		t.Fatal(err)
	}
	word := fmt.Sprint(3_000_000 + rand.N(1_000_000))
	over := make(chan error, 2)
	run := func(e backends.Exec) {
		_, err := s.Exec(context.Background(), e)
		over <- err
	}
	go run(backends.Exec{Command: "sleep " + word, Stdin: strings.NewReader(strings.Repeat("x", 4<<20))})
	await(t, "input", func() bool { return m.Calls("TaskExecStdinWrite") > 0 })
	m.Delay("TaskExecStart", 1, 300*time.Millisecond)
	before := m.Calls("TaskExecStart")
	go run(backends.Exec{Command: "sleep " + word})
	await(t, "the second command", func() bool { return m.Calls("TaskExecStart") > before })
	s.Leave()
	for range 2 {
		if err := <-over; !errors.Is(err, backends.ErrGone) {
			t.Errorf("a command: got %v", err)
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	next := adopt(t, use(t, optionsFor(m)), ticket)
	if n := alive(t, next, word); n != "0" {
		t.Errorf("%s processes are left", n)
	}
}
