package e2b

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/e2b/e2btest"
)

// What goes wrong in a cloud, and where it is tried:
//
//	a bad key                             TestCreateRefused, TestCheck, TestKeyRotated, TestTokenRotated
//	no network                            TestNoNetwork, TestControlPlaneDown, TestStopsAnswering
//	401, 403, 404, 409, 429, 500 to 504   TestCreateRefused, TestNoTemplate, TestNoControlPlane, TestStartRefused, TestStartThrottled
//	a creation of which nobody knows      TestCreateRefused, TestCreateGivenUp, TestImpossibleSandbox
//	creations that are throttled          TestCreateRefused, TestPace
//	first creations at once               TestFirstCreatesAtOnce
//	a stream that breaks off in a frame   TestStreamCut, TestStream
//	a sandbox that expires, idle or busy  TestExpired, TestRenewed, TestEndedFromOutside
//	a daemon that is killed, and restarts TestDaemonKilled, TestCannotAdopt, TestAdoptedLife, TestLeaveAtStart
//	two daemons with one account          TestTwoDaemons, TestSweep
//	no HOME                               TestNoHome
//	a template that does not exist        TestNoTemplate
//	what must not be said                 TestSecrets, and TestCredentialsAreNotTold in cmd/kilntainersd

// What a control plane may answer to a creation: what is tried again, what is
// not, and what the operator is told. In no case anything is left.
func TestCreateRefused(t *testing.T) {
	const creation = "POST /v2/sandboxes"
	for _, k := range []struct {
		name  string
		fault e2btest.Fault
		tries int      // creations that the service sees
		want  []string // of the error; nil = it succeeds in the end
	}{
		{"a bad key", e2btest.Fault{Status: 401, Message: "Invalid API key"}, 1, []string{"API key was refused", "e2b_api_key_file", "401"}},
		{"a blocked account", e2btest.Fault{Status: 403, Message: "team is blocked"}, 1, []string{"403", "team is blocked"}},
		{"a conflict", e2btest.Fault{Status: 409, Message: "conflict"}, 1, []string{"409"}},
		{"a limit on the rate", e2btest.Fault{Status: 429, RetryAfter: "1", Times: 1}, 2, nil},
		{"a long limit on the rate", e2btest.Fault{Status: 429, RetryAfter: "3600", Message: "slow down"}, 1, []string{"try again in 3600s", "slow down"}},
		{"a limit on sandboxes", e2btest.Fault{Status: 429, Message: "maximum number of concurrent E2B sandboxes"}, 1, []string{"as many sandboxes as it may", "max_sandboxes"}},
		{"trouble", e2btest.Fault{Status: 500, Times: 1}, 1, []string{"problem of its own", "500"}},
		{"trouble at the edge", e2btest.Fault{Status: 502, Times: 1, Body: "<html>bad gateway</html>"}, 1, []string{"502"}},
		{"trouble in time", e2btest.Fault{Status: 504, Times: 1}, 1, []string{"504"}},
		{"a busy service", e2btest.Fault{Status: 503, Times: 2}, 3, nil},
		{"a service that stays busy", e2btest.Fault{Status: 503}, maxTries, []string{"503"}},
		{"an answer of another kind", e2btest.Fault{Status: 200, Times: 1, Body: "hello"}, 1, []string{"not what was asked for"}},
		{"half an answer", e2btest.Fault{Cut: 20, Times: 1}, 1, []string{"no answer"}},
		{"a lost answer", e2btest.Fault{Lose: true, Times: 1}, 1, []string{"no answer"}},
		{"a redirect", e2btest.Fault{Status: 307, Location: "http://192.0.2.1/"}, 1, []string{"points elsewhere"}},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			w := start(t, nil)
			k.fault.On = creation
			w.service.Fault(k.fault)
			if k.want == nil {
				w.create()
			} else {
				w.cannotCreate(k.want...)
			}
			if got := len(w.service.Requests(creation)); got != k.tries {
				t.Errorf("%d creations were asked for, want %d", got, k.tries)
			}
			if old := len(w.service.Requests("POST /sandboxes")); old > 0 {
				t.Errorf("the older call was tried")
			}
		})
	}
}

// Without a network nothing hangs, and nothing says "timed out".
func TestNoNetwork(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	w := start(t, func(_ *backends.Spec, o *Options) { o.APIURL = "http://" + l.Addr().String() })
	w.cannotCreate("cannot reach " + l.Addr().String())
	if err := w.backend.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot reach") {
		t.Errorf("Check: got %v", err)
	}
}

func TestCheck(t *testing.T) {
	w := start(t, nil)
	if err := w.backend.Check(t.Context()); err != nil {
		t.Errorf("got %v", err)
	}
	w.service.SetKey("another")
	if err := w.backend.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "API key was refused") {
		t.Errorf("with a key that is not the service's: got %v", err)
	}
}

// A creation on its way when its caller gives up is ended all the same.
func TestCreateGivenUp(t *testing.T) {
	w := start(t, nil)
	w.service.Fault(e2btest.Fault{On: "POST /v2/sandboxes", Status: 503})
	why := errors.New("the user left")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(300*time.Millisecond, func() { cancel(why) })
	if _, err := w.backend.Create(ctx); !errors.Is(err, why) {
		t.Errorf("got %v, want %v", err, why)
	}
}

// systemd's services have no HOME.
func TestNoHome(t *testing.T) {
	t.Setenv("HOME", "") // so that it is put back
	os.Unsetenv("HOME")
	w := start(t, nil)
	if got := w.sh(w.create(), "echo fine"); got != "fine\n" {
		t.Errorf("got %q", got)
	}
}

func TestNoTemplate(t *testing.T) {
	w := start(t, func(_ *backends.Spec, o *Options) { o.Template = "my-template:v2" })
	w.cannotCreate("no template my-template:v2", "e2b_template")
	if n := len(w.service.Requests("POST /sandboxes")); n > 0 {
		t.Error("a missing template was taken for an older control plane")
	}
}

// A control plane of August 2026 has no POST /v2/sandboxes. That is found out
// once; and its sandboxes are told to ask for a token.
func TestOlderControlPlane(t *testing.T) {
	w := start(t, nil)
	w.service.SetOld(true)
	for range 2 {
		w.sh(w.create(), "true")
	}
	if n := len(w.service.Requests("POST /v2/sandboxes")); n != 1 {
		t.Errorf("the newer call was tried %d times", n)
	}
	for _, s := range w.service.Sandboxes(metaInstance, owner.Instance) {
		if s.Token == "" {
			t.Errorf("sandbox %s takes commands from anyone", s.ID)
		}
	}
}

// First sandboxes of several sessions at once, before anybody knows which calls
// the service has.
func TestFirstCreatesAtOnce(t *testing.T) {
	for name, old := range map[string]bool{"new": false, "old": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, nil)
			w.service.SetOld(old)
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					s, err := w.backend.Create(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					if r := run(t.Context(), s, backends.Exec{Command: "echo fine"}); r.out != "fine\n" {
						t.Errorf("got %+v", r)
					}
					if err := s.Close(context.Background()); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if left := w.service.Leftovers(owner.Instance); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// A control plane that is none of E2B's.
func TestNoControlPlane(t *testing.T) {
	w := start(t, nil)
	w.service.Fault(e2btest.Fault{On: "POST /*", Status: 404, Body: "no such page"})
	w.service.Fault(e2btest.Fault{On: "POST /v2/*", Status: 404, Body: "no such page"})
	w.cannotCreate("does not make sandboxes", "api_url", "404")
}

// What the service is asked for.
func TestRequest(t *testing.T) {
	w := start(t, func(_ *backends.Spec, o *Options) { o.Metadata = map[string]string{"team": "a b&c=d/é"} })
	s := w.create()
	all := w.service.Sandboxes("team", "a b&c=d/é")
	if len(all) != 1 || all[0].ID != s.ID() {
		t.Fatalf("got %+v", all)
	}
	m := all[0].Metadata
	if m["kilntainers"] != "true" || m["kilntainers.instance"] != owner.Instance || m["kilntainers.boot"] != owner.Boot ||
		m["kilntainers.profile"] != "cloud" || len(m["kilntainers.sandbox"]) < 20 || len(m) != 6 {
		t.Errorf("got metadata %q", m)
	}
	if all[0].Internet || all[0].Open {
		t.Errorf("the sandbox has a network: %+v", all[0])
	}

	w = with(t, w.service, func(s *backends.Spec, o *Options) {
		s.Network = true
		o.AllowOut, o.DenyOut = []string{"*.example.com"}, []string{"10.0.0.0/8"}
	})
	w.create()
	posts := w.service.Requests("POST /v2/sandboxes")
	body := posts[len(posts)-1].Body
	for _, want := range []string{
		`"allow_internet_access":true`, `"allowOut":["*.example.com"]`, `"denyOut":["0.0.0.0/0","10.0.0.0/8"]`, `"allowPublicTraffic":false`, `"autoPause":false`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the creation is %s; want %s in it", body, want)
		}
	}
}

// A sandbox lives as long as it is in use, however soon the service would end
// it.
func TestRenewed(t *testing.T) {
	t.Parallel()
	w := start(t, func(_ *backends.Spec, o *Options) { o.SandboxTimeout = backends.Duration(2 * time.Second) })
	s := w.create()
	w.service.Fault(e2btest.Fault{On: "POST /sandboxes/*/timeout", Status: 500, Times: 2}) // and a little trouble does not matter
	if got := w.sh(s, "sleep 5; echo still here"); got != "still here\n" {
		t.Errorf("got %q", got)
	}
}

// When the service lets it live no longer, the agent is told so, whether the
// sandbox was idle or at work, and however the service says it.
func TestExpired(t *testing.T) {
	for name, refuse := range map[string]bool{"cut": false, "refused": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, nil)
			w.service.SetLimits(e2btest.Limits{Life: 4 * time.Second, Refuse: refuse})
			idle, busy := w.create(), w.create()
			over := w.begin(t.Context(), busy, "echo begun; sleep 60")
			await(t, "the end of the idle sandbox", idle.Done())
			gone(t, idle.Err(), "expired", "no longer than 4s")
			gone(t, await(t, "the command", over), "expired", "no longer than 4s")
			await(t, "the end of the busy sandbox", busy.Done())
			r := run(t.Context(), idle, backends.Exec{Command: "echo x"})
			gone(t, r.failure, "expired")
			w.service.SetLimits(e2btest.Limits{})
			w.sh(w.create(), "true")
		})
	}
}

func TestEndedFromOutside(t *testing.T) {
	w := start(t, nil)
	s := w.create()
	over := w.begin(t.Context(), s, "echo begun; sleep 60")
	w.service.Kill(s.ID())
	gone(t, await(t, "the command", over), "removed from outside")

	// Also when it is stdin that notices first.
	s = w.create()
	begun := make(chan struct{})
	time.AfterFunc(300*time.Millisecond, func() { <-begun; w.service.Kill(s.ID()) })
	_, err := s.Exec(t.Context(), backends.Exec{
		Command: "echo begun; while sleep 0.01; do head -c 10000 > /dev/null; done",
		Stdin:   strings.NewReader(strings.Repeat("x", 64<<20)),
		Stdout:  writerFunc(sync.OnceFunc(func() { close(begun) })),
	})
	gone(t, err, "removed from outside")

	s = w.create()
	over = w.begin(t.Context(), s, "echo begun; sleep 60")
	w.service.Pause(s.ID())
	gone(t, await(t, "the command", over), "paused from outside")
}

// A stream that breaks off, wherever it does, is not the sandbox's end; the
// command is ended, since nobody can know what it does.
func TestStreamCut(t *testing.T) {
	w := start(t, nil)
	s := w.create()
	for _, at := range []int{1, 4, 5, 20, 31, 45, 60, 200} {
		w.service.Fault(e2btest.Fault{On: "POST /process.Process/Start", Cut: at, Times: 1})
		r := run(t.Context(), s, backends.Exec{Command: "yes 0815 | head -c 100; sleep 4713"})
		if r.failure == nil || errors.Is(r.failure, backends.ErrGone) || !strings.Contains(r.failure.Error(), "broke off") {
			t.Errorf("after %d bytes: got %+v", at, r)
		}
		if n := w.alive(s, "4713"); n != "0" {
			t.Errorf("after %d bytes: %s processes are left", at, n)
		}
	}
}

// Answers to a start of which nobody knows what they mean.
func TestStartRefused(t *testing.T) {
	for _, k := range []struct {
		fault e2btest.Fault
		want  string
	}{
		{e2btest.Fault{Status: 500, Message: "oh no"}, "oh no"},
		{e2btest.Fault{Status: 502, Body: "<html>"}, "unavailable"},
		{e2btest.Fault{Status: 404, Message: "no such thing"}, "no such thing"},
		{e2btest.Fault{Status: 200, Body: "hello, this is no stream"}, "too long"},
		{e2btest.Fault{Status: 200, Body: "\x00\x00\x00\x00\x02[]"}, "not an event"},
		{e2btest.Fault{Status: 200, Body: "\x01\x00\x00\x00\x02{}"}, "compressed"},
		{e2btest.Fault{Status: 200, Body: "\x02\x00\x00\x00\x02{}"}, "unexpected EOF"},
		{e2btest.Fault{Status: 200, Body: "\x02\x00\x00\x00\x02<>"}, "not an end"},
		{e2btest.Fault{Status: 307, Location: "http://192.0.2.1/"}, "points elsewhere"},
	} {
		w := start(t, nil)
		s := w.create()
		k.fault.On, k.fault.Times = "POST /process.Process/Start", 1
		w.service.Fault(k.fault)
		r := run(t.Context(), s, backends.Exec{Command: "echo x"})
		if r.failure == nil || errors.Is(r.failure, backends.ErrGone) || !strings.Contains(r.failure.Error(), k.want) {
			t.Errorf("%+v: got %+v", k.fault, r)
		}
		w.sh(s, "true")
	}
}

// A rate limit on commands is waited for.
func TestStartThrottled(t *testing.T) {
	w := start(t, nil)
	s := w.create()
	w.service.Fault(e2btest.Fault{On: "POST /process.Process/Start", Status: 429, Times: 2})
	if got := w.sh(s, "echo x"); got != "x\n" {
		t.Errorf("got %q", got)
	}
}

// What cannot be killed does not stay: its sandbox goes.
func TestCannotKill(t *testing.T) {
	w := start(t, nil)
	s := w.create()
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	over := w.begin(ctx, s, "echo begun; sleep 60")
	w.service.Fault(e2btest.Fault{On: "POST /process.Process/Start", Status: 500})
	cancel(why)
	if err := await(t, "the command", over); !errors.Is(err, why) {
		t.Errorf("got %v, want %v", err, why)
	}
	await(t, "the end of the sandbox", s.Done())
	gone(t, s.Err(), "could not be ended")
	<-s.remove().over
	if left := w.service.Leftovers(owner.Instance); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// Nor does what may or may not have been started.
func TestStartStalled(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	s := w.create()
	w.service.Fault(e2btest.Fault{On: "POST /process.Process/Start", Stall: true, Times: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if r := run(ctx, s, backends.Exec{Command: "sleep 60"}); !errors.Is(r.failure, context.DeadlineExceeded) {
		t.Errorf("got %+v", r)
	}
	gone(t, s.Err(), "could not be ended")
}

// A sandbox whose server does not answer any more is of no use.
func TestStopsAnswering(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	s := w.create()
	for _, on := range []string{"POST /process.Process/Start", "GET /health"} {
		w.service.Fault(e2btest.Fault{On: on, Status: 502})
	}
	gone(t, run(t.Context(), s, backends.Exec{Command: "true"}).failure, "stopped answering")
	w.service.Heal()
	w.sh(w.create(), "true")
}

// A control plane that is down does not hinder commands.
func TestControlPlaneDown(t *testing.T) {
	w := start(t, nil)
	s := w.create()
	for _, on := range []string{"GET /sandboxes/*", "POST /sandboxes/*/timeout", "GET /v2/sandboxes"} {
		w.service.Fault(e2btest.Fault{On: on, Status: 503})
	}
	w.sh(s, "true")
	if err := w.backend.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("Check: got %v", err)
	}
}

// A new sandbox may need a moment before it answers.
func TestSlowToAnswer(t *testing.T) {
	w := start(t, nil)
	w.service.Fault(e2btest.Fault{On: "POST /process.Process/Start", Status: 502, Times: 3})
	w.sh(w.create(), "true")
}

// Who is refused with a token asks for the one that holds now.
func TestTokenRotated(t *testing.T) {
	w := start(t, nil)
	s := w.create()
	w.service.RotateToken(s.ID())
	w.sh(s, "true")
	w.service.RotateToken(s.ID())
	r := run(t.Context(), s, backends.Exec{Command: "cat", Stdin: strings.NewReader("x")})
	if r.failure != nil || r.out != "x" {
		t.Errorf("got %+v", r)
	}
}

// A new API key in its file is used at once.
func TestKeyRotated(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	write := func(key string) {
		if err := os.WriteFile(file, []byte(key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(e2btest.Key)
	w := start(t, func(_ *backends.Spec, o *Options) { o.APIKey, o.APIKeyFile = "", file })
	w.create()
	w.service.SetKey("e2b_new")
	w.cannotCreate("API key was refused")
	write("e2b_new")
	w.create()
}

// Two daemons may use one account: each sweeps what its own earlier boots
// left, and nothing else.
func TestSweep(t *testing.T) {
	s := e2btest.New(t)
	by := func(o backends.Owner) string {
		return with(t, s, func(spec *backends.Spec, _ *Options) { spec.Owner = o }).create().ID()
	}
	left := by(backends.Owner{Instance: "the-instance", Boot: "crashed"})
	by(owner)
	by(backends.Owner{Instance: "another", Boot: "crashed"})
	noKey := optionsFor(s)
	noKey.APIKey, noKey.APIKeyFile = "", filepath.Join(t.TempDir(), "missing")
	found, err := sweep(t.Context(), backends.Sweep{
		Owner: owner, Log: slog.New(slog.DiscardHandler),
		Options: []backends.Options{optionsFor(s), optionsFor(s), noKey},
	})
	if want := (backends.Leftover{Kind: "sandbox", ID: left, Profile: "cloud", Removed: true}); !slices.Equal(found, []backends.Leftover{want}) {
		t.Errorf("got %+v, want %+v", found, want)
	}
	if err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a profile whose key is not there: got %v", err)
	}
	if n := len(s.Sandboxes("kilntainers", "true")); n != 2 {
		t.Errorf("%d sandboxes are left, want 2", n)
	}
	if n := len(s.Requests("GET /v2/sandboxes")); n != 1 {
		t.Errorf("the account was listed %d times", n)
	}
}

// The service gives its list in pages.
func TestPages(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("nextToken") {
		case "":
			w.Header().Set("X-Next-Token", "a/b")
			w.Write([]byte(`[{"sandboxID":"one","metadata":{"k":"v"}},{"sandboxID":"other","metadata":{}}]`))
		case "a/b":
			w.Write([]byte(`[{"sandboxID":"two","metadata":{"k":"v"}}]`))
		}
	}))
	defer srv.Close()
	o := defaults()
	o.APIKey, o.APIURL = "x", srv.URL
	c := newClient(o)
	defer c.close()
	got, err := c.list(t.Context(), "k", "v")
	if err != nil || len(got) != 2 || got[0].ID != "one" || got[1].ID != "two" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// A failing reader of stdin ends the command, or it would wait for ever.
func TestStdinFails(t *testing.T) {
	w := start(t, nil)
	s := w.create()
	why := errors.New("the pipe broke")
	r := run(t.Context(), s, backends.Exec{Command: "cat", Stdin: failingReader{why}})
	if !errors.Is(r.failure, why) {
		t.Errorf("got %+v", r)
	}
	w.service.Fault(e2btest.Fault{On: "POST /process.Process/CloseStdin", Status: 404, Times: 1})
	r = run(t.Context(), s, backends.Exec{Command: "cat", Stdin: strings.NewReader("x")})
	if r.failure == nil || !strings.Contains(r.failure.Error(), "too old") {
		t.Errorf("without CloseStdin: got %+v", r)
	}
	w.sh(s, "true")
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

// No secret is shown: not in the log, however talkative, not in an error, not
// in what others can read at the service, and not in the sandbox.
func TestSecrets(t *testing.T) {
	const key = "e2b_5ecre75ecre75ecre75ecre75ecre75ecre75ecr"
	w := start(t, func(_ *backends.Spec, o *Options) { o.APIKey = key })
	w.service.SetKey(key)
	var said []string
	say := func(err error) {
		if err != nil {
			said = append(said, err.Error())
		}
	}
	s := w.create()
	token := w.service.Sandboxes(metaMark, "true")[0].Token
	said = append(said, w.sh(s, "env; cat /proc/$PPID/cmdline /proc/$PPID/environ"))
	for _, f := range []e2btest.Fault{
		{On: "GET /*/*", Status: 401, Message: "the key " + key + " is not good"},
		{On: "GET /*/*", Status: 500, Body: "X-API-KEY: " + key},
		{On: "POST /process.Process/*", Status: 500, Message: "the token " + token + " is not good"},
	} {
		w.service.Fault(f)
		say(w.backend.Check(t.Context()))
		say(run(t.Context(), s, backends.Exec{Command: "true"}).failure)
		w.service.Heal()
	}
	<-s.remove().over // which it was, as nothing could be killed in it
	w.service.SetKey("another")
	_, err := w.backend.Create(t.Context())
	say(err)
	w.service.SetKey(key)
	bad := optionsFor(w.service)
	bad.APIKey = key + " and more"
	say(bad.Validate())
	for _, r := range w.service.Requests("") {
		said = append(said, r.Route, r.Query, r.Body)
		for name, values := range r.Header {
			if name != "X-Api-Key" && name != "X-Access-Token" {
				said = append(said, values...)
			}
		}
		if r.Header.Get("X-Api-Key") != "" && strings.Contains(r.Route, "process.Process") {
			t.Errorf("the API key went to a sandbox: %s", r.Route)
		}
	}
	said = append(said, w.log.String())
	if len(said) < 20 || len(w.log.String()) < 100 {
		t.Errorf("this test looks at too little: %q", said)
	}
	for _, text := range said {
		if strings.Contains(text, key) || strings.Contains(text, token) {
			t.Errorf("a secret is in %q", text)
		}
	}
}

// What a control plane may say of a sandbox that cannot be. Names go into
// addresses, so they are not taken as they come; what was made is ended.
func TestImpossibleSandbox(t *testing.T) {
	for _, k := range []struct{ answer, want string }{
		{`{"sandboxID":"../../v2/templates"}`, "cannot be"},
		{`{"sandboxID":"i1.example.com/"}`, "cannot be"},
		{`{"sandboxID":""}`, "cannot be"},
		{`{"sandboxID":"i1","domain":"example.com/path?"}`, "cannot be"},
		{`{"sandboxID":"i1","domain":"user@example.com"}`, "cannot be"},
		{`{"sandboxID":["i1"]}`, "not what was asked for"},
		{`null`, "cannot be"},
	} {
		var ended []string
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.Method {
			case http.MethodPost:
				w.WriteHeader(http.StatusCreated)
				w.Write([]byte(k.answer))
			case http.MethodDelete:
				ended = append(ended, r.URL.EscapedPath())
			case http.MethodGet: // what became of the creation that was not understood?
				w.Write([]byte(`[{"sandboxID":"..","metadata":{"kilntainers.sandbox":"` + nonceOf(r) + `"}},
					{"sandboxID":"other","metadata":{}},
					{"sandboxID":"found","metadata":{"kilntainers.sandbox":"` + nonceOf(r) + `"}}]`))
			}
		}))
		o := defaults()
		o.APIKey, o.APIURL, o.SandboxURL = "x", srv.URL, srv.URL
		b, err := open(backends.Spec{Owner: owner}, o, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.Create(t.Context())
		if err == nil || !strings.Contains(err.Error(), k.want) {
			t.Errorf("%s: got %v, want %q", k.answer, err, k.want)
		}
		if !slices.Equal(ended, []string{"/sandboxes/found"}) {
			t.Errorf("%s: ended was %q", k.answer, ended)
		}
		b.Close()
		srv.Close()
	}
}

// nonceOf is what a list is asked for.
func nonceOf(r *http.Request) string {
	_, nonce, _ := strings.Cut(r.URL.Query().Get("metadata"), "=")
	return nonce
}

// A service without tokens can be used, but the operator is told.
func TestNoToken(t *testing.T) {
	w := start(t, nil)
	w.service.Fault(e2btest.Fault{On: "POST /v2/sandboxes", Status: 201, Body: `{"sandboxID":"i1","envdVersion":"0.1"}`, Times: 1})
	w.cannotCreate("removed from outside") // the fake has no such sandbox
	if !strings.Contains(w.log.String(), "no access token") {
		t.Errorf("the log does not say so: %s", w.log)
	}
}
