package e2b

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
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/e2b/e2btest"
)

func TestMain(m *testing.M) {
	if url := os.Getenv("KILNTAINERS_TEST_DAEMON"); url != "" {
		os.Exit(doomed(url, os.Getenv("KILNTAINERS_TEST_WORDS")))
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
	// The service kills the first process when the command's time is over.
	`(sleep RUNS &); kill -KILL $(cut -d" " -f4 /proc/$PPID/stat); echo begun; sleep RUNS`,
}

// doomed is a daemon with a sandbox in which commands run, and one has ended.
// It writes its ticket and waits to be killed. The two words are how long what
// has ended, and what runs, sleeps, which nothing else on this machine does.
func doomed(url, words string) int {
	ends, runs, _ := strings.Cut(words, " ")
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	o := defaults()
	o.APIKey, o.APIURL, o.SandboxURL = e2btest.Key, url, url
	b, err := open(backends.Spec{Profile: "cloud", Owner: crashed}, o, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return fail(err)
	}
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
			command = strings.ReplaceAll(command, "RUNS", runs)
			exit, err := s.Exec(context.Background(), backends.Exec{Command: command, Stdin: silence{}, Stdout: writerFunc(sync.OnceFunc(begun.Done))})
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
	s := e2btest.New(t)
	ends, runs := fmt.Sprint(1_000_000+rand.N(1_000_000)), fmt.Sprint(2_000_000+rand.N(1_000_000))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KILNTAINERS_TEST_DAEMON="+s.URL, "KILNTAINERS_TEST_WORDS="+ends+" "+runs)
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

	w := with(t, s, nil)
	w.sweep(ticket.ID)
	sb := w.adopt(ticket)
	if got := w.sh(sb, "cat kept"); got != "kept\n" {
		t.Errorf("the file is %q", got)
	}
	if n := w.alive(sb, ends); n != "2" {
		t.Errorf("%s of 2 background processes live", n)
	}
	if n := w.alive(sb, runs); n != "0" {
		t.Errorf("%s processes live of commands that ran", n)
	}
	w.sweep(ticket.ID)
	w.sh(sb, "true")
}

// sweep sweeps but for what is to be kept. There must not be anything else.
func (w *world) sweep(keep ...string) {
	w.Helper()
	found, err := sweep(w.Context(), backends.Sweep{Owner: owner, Keep: keep, Log: slog.New(slog.DiscardHandler), Options: []backends.Options{optionsFor(w.service)}})
	if err != nil || len(found) > 0 {
		w.Errorf("sweep: found %+v, %v", found, err)
	}
}

// adopt takes over a sandbox and closes it with the test.
func (w *world) adopt(t backends.Ticket) *sandbox {
	w.Helper()
	sb, err := w.backend.Adopt(w.Context(), t)
	if err != nil {
		w.Fatalf("adopt: %v", err)
	}
	w.Cleanup(func() {
		if err := sb.Close(context.Background()); err != nil {
			w.Errorf("close: %v", err)
		}
	})
	return sb.(*sandbox)
}

// left makes a sandbox in a daemon of its own, which leaves it.
func left(t *testing.T, s *e2btest.Service, adjust func(*backends.Spec, *Options)) backends.Ticket {
	t.Helper()
	w := with(t, s, func(spec *backends.Spec, o *Options) {
		spec.Owner = crashed
		if adjust != nil {
			adjust(spec, o)
		}
	})
	sb, err := w.backend.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := sb.Ticket()
	if err != nil {
		t.Fatal(err)
	}
	sb.Leave()
	return ticket
}

// What cannot be taken over: the error says why, and what is ours is ended.
func TestCannotAdopt(t *testing.T) {
	const get = "GET /sandboxes/*"
	for name, k := range map[string]struct {
		spoil func(*world, *backends.Ticket)
		gone  bool
		want  string
		left  int
	}{
		"ended meanwhile":  {func(w *world, t *backends.Ticket) { w.service.Kill(t.ID) }, true, "while no daemon held it", 0},
		"paused meanwhile": {func(w *world, t *backends.Ticket) { w.service.Pause(t.ID) }, true, "paused from outside", 0},
		"another instance's": {func(w *world, _ *backends.Ticket) { w.backend.spec.Owner.Instance = "another" }, false,
			"not the one", 1},
		"another sandbox's": {func(w *world, t *backends.Ticket) { t.ID = w.create().ID() }, false, "not the one", 1},
		"another service's": {func(w *world, t *backends.Ticket) {
			t.Data = []byte(strings.ReplaceAll(string(t.Data), w.service.URL, "https://api.example.com"))
		}, false, "another service", 0},
		"another key": {func(w *world, _ *backends.Ticket) { w.service.SetKey("another") }, false, "API key was refused", 1},
		"no control plane": {func(w *world, _ *backends.Ticket) { w.service.Fault(e2btest.Fault{On: get, Status: 503}) }, false,
			"problem of its own", 1},
		"cannot look": {func(w *world, _ *backends.Ticket) {
			w.service.Fault(e2btest.Fault{On: "POST /process.Process/Start", Status: 404})
		}, false, "unimplemented", 0},
		"address for a name": {func(_ *world, t *backends.Ticket) { t.ID = "../v2/sandboxes" }, false, "not the name of a sandbox", 1},
		"pattern for a mark": {func(_ *world, t *backends.Ticket) { t.Data = []byte(`{"name":"x","marks":".*"}`) }, false, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := e2btest.New(t)
			ticket := left(t, s, nil)
			w := with(t, s, nil)
			k.spoil(w, &ticket)
			sb, err := w.backend.Adopt(t.Context(), ticket)
			if err == nil {
				sb.Close(context.Background())
				t.Fatal("it was adopted")
			}
			if errors.Is(err, backends.ErrGone) != k.gone || !strings.Contains(err.Error(), k.want) {
				t.Errorf("got %v (gone: %t), want %q (%t)", err, errors.Is(err, backends.ErrGone), k.want, k.gone)
			}
			s.Heal()
			if n := len(s.Sandboxes(metaBoot, crashed.Boot)); n != k.left {
				t.Errorf("%d sandboxes are left, want %d", n, k.left)
			}
			if strings.Contains(err.Error(), e2btest.Key) || strings.Contains(w.log.String(), e2btest.Key) {
				t.Error("the key is in the error or in the log")
			}
		})
	}
}

// A service that cannot be reached yet, for longer than a call tries.
func TestAdoptEarly(t *testing.T) {
	t.Parallel()
	s := e2btest.New(t)
	ticket := left(t, s, nil)
	s.Fault(e2btest.Fault{On: "GET /sandboxes/*", Status: 503, Times: maxTries + 1})
	w := with(t, s, nil)
	w.sh(w.adopt(ticket), "true")
}

// A sandbox that was adopted is renewed like any other, at once, and its end
// comes when the service says, from its birth on; a token that was changed
// meanwhile is asked for.
func TestAdoptedLife(t *testing.T) {
	t.Parallel()
	s := e2btest.New(t)
	s.SetLimits(e2btest.Limits{Life: 8 * time.Second})
	short := func(_ *backends.Spec, o *Options) { o.SandboxTimeout = backends.Duration(2 * time.Second) }
	ticket := left(t, s, short)
	s.RotateToken(ticket.ID)
	w := with(t, s, short)
	sb := w.adopt(ticket)
	if got := w.sh(sb, "sleep 4; echo still here"); got != "still here\n" {
		t.Errorf("got %q", got)
	}
	await(t, "the end", sb.Done())
	gone(t, sb.Err(), "expired", "no longer than 8s")
}

// Of two daemons with one account neither adopts the other's, nor sweeps it;
// and what an instance left for nobody it sweeps itself.
func TestTwoDaemons(t *testing.T) {
	s := e2btest.New(t)
	other := backends.Owner{Instance: "another", Boot: "1"}
	mine, theirs := left(t, s, nil), left(t, s, func(spec *backends.Spec, _ *Options) { spec.Owner = other })
	w := with(t, s, nil)
	if _, err := w.backend.Adopt(t.Context(), theirs); err == nil || errors.Is(err, backends.ErrGone) {
		t.Errorf("adopted another's: %v", err)
	}
	found, err := sweep(t.Context(), backends.Sweep{Owner: owner, Log: slog.New(slog.DiscardHandler), Options: []backends.Options{optionsFor(s)}})
	if err != nil || !slices.Equal(found, []backends.Leftover{{Kind: "sandbox", ID: mine.ID, Profile: "cloud", Removed: true}}) {
		t.Errorf("sweep found %+v, %v", found, err)
	}
	if got := s.Sandboxes(metaInstance, other.Instance); len(got) != 1 || got[0].ID != theirs.ID {
		t.Errorf("of the other daemon there is %+v", got)
	}
}

// A command that is on its way when its sandbox is left is found by the next
// daemon.
func TestLeaveAtStart(t *testing.T) {
	s := e2btest.New(t)
	first := with(t, s, func(spec *backends.Spec, _ *Options) { spec.Owner = crashed })
	sb, err := first.backend.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := sb.Ticket()
	if err != nil {
		t.Fatal(err)
	}
	word := fmt.Sprint(3_000_000 + rand.N(1_000_000))
	before := len(s.Requests("POST /process.Process/Start"))
	over := make(chan error, 1)
	go func() {
		_, err := sb.Exec(context.Background(), backends.Exec{Command: "sleep " + word})
		over <- err
	}()
	for len(s.Requests("POST /process.Process/Start")) == before {
		time.Sleep(time.Millisecond)
	}
	sb.Leave()
	if err := await(t, "the command", over); !errors.Is(err, backends.ErrGone) {
		t.Errorf("the command: got %v", err)
	}
	w := with(t, s, nil)
	next := w.adopt(ticket)
	if n := w.alive(next, word); n != "0" {
		t.Errorf("%s processes are left", n)
	}
}
