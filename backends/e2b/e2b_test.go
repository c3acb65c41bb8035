package e2b

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/e2b/e2btest"
)

// A world is a service, and a backend that uses it.
type world struct {
	*testing.T
	service *e2btest.Service
	backend *Backend
	log     *record
}

var owner = backends.Owner{Instance: "the-instance", Boot: "this-boot"}

// start starts both; adjust changes what the profile says.
func start(t *testing.T, adjust func(*backends.Spec, *Options)) *world {
	t.Helper()
	return with(t, e2btest.New(t), adjust)
}

// with starts a backend for a service.
func with(t *testing.T, s *e2btest.Service, adjust func(*backends.Spec, *Options)) *world {
	t.Helper()
	w := &world{T: t, service: s, log: &record{}}
	spec, o := backends.Spec{Profile: "cloud", Owner: owner}, optionsFor(s)
	if adjust != nil {
		adjust(&spec, o)
	}
	b, err := open(spec, o, slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	w.backend = b
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Backend.Close: %v", err)
		}
	})
	return w
}

// create makes a sandbox that is closed with the test.
func (w *world) create() *sandbox {
	w.Helper()
	sb, err := w.backend.Create(w.Context())
	if err != nil {
		w.Fatalf("create: %v", err)
	}
	w.Cleanup(func() {
		w.service.Heal()
		if err := sb.Close(context.Background()); err != nil {
			w.Errorf("close: %v", err)
		}
	})
	return sb.(*sandbox)
}

// cannotCreate returns the error of a Create that must fail, and leave
// nothing.
func (w *world) cannotCreate(want ...string) error {
	w.Helper()
	before := w.service.Leftovers(owner.Instance)
	sb, err := w.backend.Create(w.Context())
	if err == nil {
		sb.Close(context.Background())
		w.Fatalf("Create succeeded; want an error with %q", want)
	}
	for _, s := range want {
		if !strings.Contains(err.Error(), s) {
			w.Errorf("got %q, want an error with %q", err, s)
		}
	}
	w.service.Heal()
	if left := w.service.Leftovers(owner.Instance); len(left) > len(before) {
		w.Errorf("left behind: %q; there was %q before", left, before)
	}
	return err
}

// A result is an Exec's.
type result struct {
	out, err string
	code     int
	failure  error
}

func run(ctx context.Context, s backends.Sandbox, e backends.Exec) result {
	var out, errs bytes.Buffer
	e.Stdout, e.Stderr = &out, &errs
	exit, err := s.Exec(ctx, e)
	return result{out.String(), errs.String(), exit.Code, err}
}

// sh runs a command that must succeed, and returns what it says.
func (w *world) sh(s backends.Sandbox, command string) string {
	w.Helper()
	r := run(w.Context(), s, backends.Exec{Command: command})
	if r.failure != nil || r.code != 0 {
		w.Fatalf("%q: got %+v", command, r)
	}
	return r.out
}

// begin starts a command and returns when it has said "begun".
func (w *world) begin(ctx context.Context, s backends.Sandbox, command string) (ended <-chan error) {
	w.Helper()
	begun, over := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := s.Exec(ctx, backends.Exec{
			Command: command,
			Stdout:  writerFunc(sync.OnceFunc(func() { close(begun) })),
		})
		over <- err
	}()
	select {
	case <-begun:
	case err := <-over:
		w.Fatalf("%q ended: %v", command, err)
	case <-time.After(time.Minute):
		w.Fatalf("%q does not begin", command)
	}
	return over
}

// writerFunc is called at each write.
type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) { f(); return len(p), nil }

// await returns what comes within a minute.
func await[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Minute):
		t.Fatalf("%s: nothing in a minute", what)
		panic("")
	}
}

// alive counts the processes in a sandbox with that word in their arguments.
func (w *world) alive(s backends.Sandbox, word string) string {
	w.Helper()
	return strings.TrimSpace(w.sh(s, `grep -lsa '[`+word[:1]+`]`+word[1:]+`' /proc/[0-9]*/cmdline | wc -l`))
}

// A record is a log that tests can read.
type record struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// gone fails the test unless err is a GoneError with those words in its
// reason. That something "timed out" is never one: in the Python original an
// expired sandbox said so for ever.
func gone(t testing.TB, err error, words ...string) {
	t.Helper()
	var g *backends.GoneError
	if !errors.As(err, &g) {
		t.Fatalf("got %v, want a GoneError", err)
	}
	for _, word := range words {
		if !strings.Contains(g.Reason, word) {
			t.Errorf("the reason is %q, want one with %q", g.Reason, word)
		}
	}
	if strings.Contains(err.Error(), "timed out") || strings.Contains(err.Error(), "timeout") {
		t.Errorf("%q can be taken for a command's own time limit", err)
	}
}

// tryOut uses a sandbox for what envd and our scripts have to do with each
// other. The fake and a real one are held to the same.
func tryOut(t *testing.T, s backends.Sandbox) {
	for _, k := range []struct {
		name, command, stdin, out, err string
		code                           int
	}{
		{name: "both streams and the code", command: "echo out; echo err >&2; exit 7", out: "out\n", err: "err\n", code: 7},
		{name: "a signal", command: "kill -TERM $$", code: 143},
		{name: "its group's signal", command: "kill -KILL 0", code: 137},
		{name: "stdin", command: "cat", stdin: strings.Repeat("0123456789abcdef", 1<<16), out: strings.Repeat("0123456789abcdef", 1<<16)},
		{name: "stdin that is not read", command: "exit 3", stdin: strings.Repeat("x", 1<<20), code: 3},
		{name: "a background process", command: "sleep 60 & echo started", out: "started\n"},
		{name: "no directory", command: "cd /no/such/directory 2>/dev/null || exit 9", code: 9},
	} {
		var in io.Reader
		if k.stdin != "" {
			in = strings.NewReader(k.stdin)
		}
		r := run(t.Context(), s, backends.Exec{Command: k.command, Stdin: in})
		if r.failure != nil || r.code != k.code || r.out != k.out || r.err != k.err {
			t.Errorf("%s: got code %d, error %v, %d bytes of %d, %q", k.name, r.code, r.failure, len(r.out), len(k.out), r.err)
		}
	}
	r := run(t.Context(), s, backends.Exec{Args: []string{"no-such-command"}})
	if r.failure != nil || r.code != 127 || !strings.Contains(r.err, "no-such-command") {
		t.Errorf("no such command: got %+v", r)
	}
	r = run(t.Context(), s, backends.Exec{Args: []string{"pwd"}, Dir: "/no/such/directory"})
	if r.failure != nil || r.code != 126 || !strings.Contains(r.err, "/no/such/directory") {
		t.Errorf("no such directory: got %+v", r)
	}
	r = run(t.Context(), s, backends.Exec{Command: "echo " + strings.Repeat("x", 200<<10) + " | wc -c"})
	if r.failure != nil || strings.TrimSpace(r.out) != "204801" {
		t.Errorf("a long command: got %.200q, %v", r.out, r.failure)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	r = run(ctx, s, backends.Exec{Command: `setsid sleep 471100 & env -i /bin/sleep 471101 & sleep 471102`})
	if !errors.Is(r.failure, context.DeadlineExceeded) {
		t.Errorf("a command that takes too long: got %+v", r)
	}
	r = run(t.Context(), s, backends.Exec{Command: `for d in /proc/[0-9]*; do tr '\0' ' ' < $d/cmdline; echo; done 2>/dev/null | grep -c 'sleep 47110[0-2]'; true`})
	if r.out != "0\n" {
		t.Errorf("of a command that took too long there is left: %+v", r)
	}
}

// tryAdopt leaves a sandbox and takes it over again, which is the only way that
// a daemon's death can be tried at a service.
func tryAdopt(t *testing.T, b *Backend, s backends.Sandbox) backends.Sandbox {
	ends, runs := fmt.Sprint(4_000_000+mathrand.N(1_000_000)), fmt.Sprint(5_000_000+mathrand.N(1_000_000))
	count := func(s backends.Sandbox, word string) string {
		return strings.TrimSpace(run(t.Context(), s, backends.Exec{Command: `grep -lsa '[` + word[:1] + `]` + word[1:] + `' /proc/[0-9]*/cmdline | wc -l`}).out)
	}
	if r := run(t.Context(), s, backends.Exec{Command: "echo kept > /tmp/kept; setsid sleep " + ends + " & sleep " + ends + " &"}); r.failure != nil {
		t.Fatalf("got %+v", r)
	}
	over := make(chan result, 1)
	go func() {
		over <- run(t.Context(), s, backends.Exec{Command: "setsid sleep " + runs + " & sleep " + runs})
	}()
	for until := time.Now().Add(time.Minute); count(s, runs) == "0"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("the command does not begin")
		}
	}
	ticket, err := s.Ticket()
	if err != nil {
		t.Fatal(err)
	}
	s.Leave()
	if r := await(t, "the command", over); !errors.Is(r.failure, backends.ErrGone) {
		t.Errorf("the command that ran: got %+v", r)
	}
	next, err := b.Adopt(t.Context(), ticket)
	if err != nil {
		t.Fatalf("adopt: %v", err)
	}
	if r := run(t.Context(), next, backends.Exec{Command: "cat /tmp/kept"}); r.out != "kept\n" {
		t.Errorf("the file: got %+v", r)
	}
	if n := count(next, ends); n != "2" {
		t.Errorf("%s of 2 background processes live", n)
	}
	if n := count(next, runs); n != "0" {
		t.Errorf("%s processes live of the command that ran", n)
	}
	return next
}

func TestTryOut(t *testing.T) {
	w := start(t, nil)
	s := w.create()
	tryOut(t, s)
	next := tryAdopt(t, w.backend, s)
	if err := next.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestTryOutHTTP2: at E2B all streams of all sandboxes are in few connections.
// One that is cut, or that nobody reads, does not hinder the others.
func TestTryOutHTTP2(t *testing.T) {
	service := e2btest.NewTLS(t)
	w := with(t, service, nil)
	w.backend.client.http.Transport = service.Client().Transport
	s := w.create()
	tryOut(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	slow := w.begin(ctx, s, "yes begun")
	service.Fault(e2btest.Fault{On: "POST /process.Process/Start", Cut: 60, Times: 1})
	if r := run(t.Context(), s, backends.Exec{Command: "yes | head -c 100; sleep 60"}); r.failure == nil || !strings.Contains(r.failure.Error(), "broke off") {
		t.Errorf("a stream that is cut: got %+v", r)
	}
	if got := w.sh(s, "echo fine"); got != "fine\n" {
		t.Errorf("got %q", got)
	}
	cancel()
	if err := await(t, "the endless command", slow); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestTryOutWithoutSetsid: a template may lack it. What does not run away from
// its environment, or its parent, is still found.
func TestTryOutWithoutSetsid(t *testing.T) {
	w := start(t, nil)
	s := w.create()
	s.setsid = ""
	ctx, cancel := context.WithCancelCause(t.Context())
	over := w.begin(ctx, s, "sleep 4711 & (sleep 4711 &) ; env -i /bin/sleep 4711 & echo begun; wait")
	why := errors.New("enough")
	cancel(why)
	if err := await(t, "the cancelled command", over); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if n := w.alive(s, "4711"); n != "0" {
		t.Errorf("%s processes are left", n)
	}
}

// TestRealEnvd holds a real envd to what the fake does. It needs one that
// listens at $ENVD_URL and may be spoilt.
func TestRealEnvd(t *testing.T) {
	url := os.Getenv("ENVD_URL")
	if url == "" {
		t.Skip("set ENVD_URL to the address of an envd, such as http://127.0.0.1:49983, to try it out")
	}
	s := e2btest.New(t)
	s.SetEnvd(url)
	w := with(t, s, func(_ *backends.Spec, o *Options) { o.SandboxURL = url })
	sb := w.create()
	tryOut(t, sb)
	next := tryAdopt(t, w.backend, sb)
	if err := next.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestLive uses a real account. It makes one sandbox, of two minutes at most.
func TestLive(t *testing.T) {
	if os.Getenv(keyVariable) == "" {
		t.Skipf("set %s, and E2B_DOMAIN if it is not E2B's own, to make one sandbox there for two minutes", keyVariable)
	}
	o := defaults()
	o.SandboxTimeout = backends.Duration(2 * time.Minute)
	if d := os.Getenv("E2B_DOMAIN"); d != "" {
		o.Domain = d
	}
	b, err := open(backends.Spec{Profile: "live", Owner: owner}, o, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	sb, err := b.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sb.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	tryOut(t, sb)
	sb = tryAdopt(t, b, sb)
}
