//go:build linux

package modal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/modal/modaltest"
)

// start returns a fake, on which nothing may be left when the test ends.
func start(t *testing.T) *modaltest.Server {
	unpaced(t)
	m := modaltest.Start(t)
	t.Cleanup(func() {
		for _, s := range m.Sandboxes() {
			t.Errorf("left behind: %s", s.Tags[tagSandbox])
		}
		for _, p := range m.Processes() {
			t.Errorf("left behind: %s", p)
		}
	})
	return m
}

// shorten sets a time limit until the test ends.
func shorten(t *testing.T, limit *time.Duration, to time.Duration) {
	old := *limit
	*limit = to
	t.Cleanup(func() { *limit = old })
}

var owner = backends.Owner{Instance: "instance", Boot: "boot"}

// use opens a backend until the test ends.
func use(t *testing.T, o *Options) *Backend {
	return useAs(t, backends.Spec{Profile: "test", Owner: owner}, o, slog.New(slog.DiscardHandler))
}

func useAs(t *testing.T, s backends.Spec, o *Options, log *slog.Logger) *Backend {
	b := open(s, o, log)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// create makes a sandbox until the test ends.
func create(t *testing.T, b *Backend) backends.Sandbox {
	t.Helper()
	s, err := b.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, s) })
	return s
}

func closeIt(t *testing.T, s backends.Sandbox) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

// sh runs a command that is to end by itself.
func sh(t *testing.T, s backends.Sandbox, script string) string {
	t.Helper()
	var out bytes.Buffer
	exit, err := s.Exec(t.Context(), backends.Exec{Command: script, Stdout: &out})
	if err != nil || exit.Code != 0 {
		t.Fatalf("%.60q: got %+v, %v", script, exit, err)
	}
	return out.String()
}

// await waits until cond holds.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: it did not come", what)
		}
	}
}

func unavailable() error { return status.Error(codes.Unavailable, "the server is being restarted") }

// What goes wrong in a cloud, and where it is tried. A gRPC code stands for the
// status of HTTP: UNAUTHENTICATED for 401, NOT_FOUND for 404, FAILED_PRECONDITION
// and ALREADY_EXISTS for 409, RESOURCE_EXHAUSTED for 429, INTERNAL for 500,
// UNAVAILABLE for 502 and 503.
//
//	a bad token                           TestNoWay, TestCreateRefused, TestTokenRotated, TestWorkerTokenRotated
//	no network                            TestNoWay
//	401 to 503                            TestCreateRefused
//	429 that says when                    TestCreateThrottled
//	a creation of which nobody knows      TestCreateAnswerLost, TestCreateGivenUp, TestCreateNotReady
//	creations that are throttled          TestCreateThrottled, TestCreatePaced
//	first creations at once of one image  TestFirstCreatesAtOnce
//	a stream that breaks off in a frame   TestStreamsCut
//	a sandbox that expires, idle or busy  TestGone, TestRenewed
//	a daemon that is killed, and restarts TestDaemonKilled, TestCannotAdopt, TestAdoptedLife, TestLeaveWhileBusy
//	two daemons with one account          TestTwoDaemons
//	no HOME                               TestNoHome, TestOwnFile
//	an image that does not exist          TestImageMissing
//	a GPU that is not to be had           TestNoGPU
//	a sandbox that floods the daemon      TestFlood
//	what must not be said                 TestNoCredentialSaid, and TestCredentialsAreNotTold in cmd/kilntainersd

// Whatever Modal answers to a creation: the error names it in words, nothing is
// left, and the next creation works.
func TestCreateRefused(t *testing.T) {
	m := start(t)
	b := use(t, optionsFor(m))
	for _, k := range []struct {
		name string
		errs []error
		want string // in the error; "" = it works all the same
	}{
		{"not known", []error{status.Error(codes.Unauthenticated, "token expired")}, "refuses the token (token expired)"},
		{"not allowed", []error{status.Error(codes.PermissionDenied, "no sandboxes for you")}, "may not do that at Modal (no sandboxes for you)"},
		{"not found", slices.Repeat([]error{status.Error(codes.NotFound, "no such region")}, 2), "no such region"},
		{"not found once", []error{status.Error(codes.NotFound, "no such image any more")}, ""},
		{"invalid", []error{status.Error(codes.InvalidArgument, "region moon is unknown")}, "region moon is unknown"},
		{"exhausted", []error{status.Error(codes.ResourceExhausted, "100 sandboxes at most")}, "no more for this account now (100 sandboxes at most)"},
		{"conflict", []error{status.Error(codes.FailedPrecondition, "the app is stopped")}, "the app is stopped"},
		{"there already", []error{status.Error(codes.AlreadyExists, "a sandbox of that name")}, "a sandbox of that name"},
		{"internal, for good", slices.Repeat([]error{status.Error(codes.Internal, "oops")}, 4), "oops"},
		{"unavailable, for good", slices.Repeat([]error{unavailable()}, 4), "Modal cannot be reached (the server is being restarted)"},
		{"internal, once", []error{status.Error(codes.Internal, "oops")}, ""},
		{"unavailable, twice", []error{unavailable(), unavailable()}, ""},
	} {
		t.Run(k.name, func(t *testing.T) {
			m.Fail("SandboxCreateV2", k.errs...)
			s, err := b.Create(t.Context())
			m.Heal()
			switch {
			case k.want == "" && err != nil:
				t.Errorf("got %v, want it to work", err)
			case k.want != "" && (err == nil || !strings.Contains(err.Error(), k.want)):
				t.Errorf("got %v, want %q", err, k.want)
			}
			if s != nil {
				closeIt(t, s)
			}
			if left := m.Sandboxes(); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			closeIt(t, create(t, b))
		})
	}
}

// Modal asks to come back later, twice; the SDK does.
func TestCreateThrottled(t *testing.T) {
	m := start(t)
	m.Throttle("SandboxCreateV2", 2, 300*time.Millisecond)
	begin := time.Now()
	sh(t, create(t, use(t, optionsFor(m))), "true")
	if took := time.Since(begin); took < 600*time.Millisecond {
		t.Errorf("it took %v; Modal had asked for 600 ms", took)
	}
}

// The account's limit is heeded before Modal has to say so.
func TestCreatePaced(t *testing.T) {
	m := start(t)
	old := creations.Limit()
	creations.SetLimit(0)
	defer creations.SetLimit(old)
	for creations.Allow() {
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("had to wait")
	time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
	if _, err := use(t, optionsFor(m)).Create(ctx); !errors.Is(err, cause) && err == nil {
		t.Errorf("got %v, want a wait", err)
	}
	if n := m.Calls("SandboxCreateV2"); n > 0 {
		t.Errorf("%d sandboxes were asked for", n)
	}
}

// The answer to a creation is lost: the same call, made again, gets the same
// sandbox; and when no answer comes through at all, the sandbox goes.
func TestCreateAnswerLost(t *testing.T) {
	m := start(t)
	b := use(t, optionsFor(m))
	m.Lose("SandboxCreateV2", 2)
	s := create(t, b)
	if n := len(m.Sandboxes()); n != 1 {
		t.Errorf("there are %d sandboxes, want 1", n)
	}
	closeIt(t, s)
	m.Lose("SandboxCreateV2", 4)
	if _, err := b.Create(t.Context()); err == nil {
		t.Error("Create worked without an answer")
	}
	if left := m.Sandboxes(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Nobody waits for a creation any more: neither one that hangs nor one that
// comes late leaves a sandbox.
func TestCreateGivenUp(t *testing.T) {
	m := start(t)
	shorten(t, &lateTimeout, 500*time.Millisecond)
	b := use(t, optionsFor(m))
	if err := b.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("the client has left")
	for _, fault := range []func(){
		func() { m.Stall("SandboxCreateV2", 1) },
		func() { m.Delay("SandboxCreateV2", 1, 200*time.Millisecond) }, // within lateTimeout
		func() { m.Delay("SandboxCreateV2", 1, 900*time.Millisecond) }, // after it
	} {
		fault()
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, cause)
		_, err := b.Create(ctx)
		cancel()
		m.Heal()
		if !errors.Is(err, cause) {
			t.Errorf("got %v, want %v", err, cause)
		}
		if left := m.Sandboxes(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

// A sandbox that does not run commands is not handed out, nor left.
func TestCreateNotReady(t *testing.T) {
	m := start(t)
	b := use(t, optionsFor(m))
	m.Fail("TaskExecStart", status.Error(codes.InvalidArgument, "exec /bin/sh: no such file or directory"))
	_, err := b.Create(t.Context())
	if err == nil || !strings.Contains(err.Error(), "an image needs a /bin/sh") || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
	if left := m.Sandboxes(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Several first sandboxes at once: the image is built once, for all. The SDK
// alone would build it for each, with a data race.
func TestFirstCreatesAtOnce(t *testing.T) {
	m := start(t)
	b := use(t, optionsFor(m))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			s, err := b.Create(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			closeIt(t, s)
		})
	}
	all.Wait()
	if n, at := m.Calls("ImageGetOrCreate"), m.MostBuilds(); n != 2 || at != 1 {
		t.Errorf("%d layers were built, at most %d at once; want the base and the one without entrypoint, after each other", n, at)
	}
}

// An image that does not exist is named, and no sandbox is asked for.
func TestImageMissing(t *testing.T) {
	m := start(t)
	o := optionsFor(m)
	o.Image = "no-such-image:1"
	m.Missing(o.Image)
	_, err := use(t, o).Create(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no-such-image:1 cannot be had") || !strings.Contains(err.Error(), "manifest unknown") {
		t.Errorf("got %v", err)
	}
	if n := m.Calls("SandboxCreateV2"); n > 0 {
		t.Errorf("%d sandboxes were asked for", n)
	}
}

// A GPU that is not to be had: Modal says so, or never schedules the sandbox,
// or the caller gives up. It is named, and nothing stays queued.
func TestNoGPU(t *testing.T) {
	m := start(t)
	shorten(t, &gpuTimeout, time.Second)
	o := optionsFor(m)
	o.GPU, o.Region = "H100:2", "us-east"
	b := use(t, o)
	const want = "no GPU H100:2 is free at Modal now in us-east"

	m.Fail("SandboxCreate", status.Error(codes.ResourceExhausted, "out of H100"))
	if _, err := b.Create(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	m.RunOutOfGPUs()
	if _, err := b.Create(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	cause := errors.New("the client has left")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, cause)
	defer cancel()
	if _, err := b.Create(ctx); !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
	if left := m.Sandboxes(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	m.Heal()
	s := create(t, b)
	gpu := m.Sandboxes()[0].Definition.GetResources().GetGpuConfig()
	if gpu.GetGpuType() != "H100" || gpu.GetCount() != 2 {
		t.Errorf("it has %v", gpu)
	}
	sh(t, s, "echo it runs")
}

// What a profile says is what Modal is asked for: CPU and memory are limits
// too, and an orphan idles to death.
func TestDefinition(t *testing.T) {
	m := start(t)
	o := optionsFor(m)
	o.CPU, o.Memory, o.Region, o.Image, o.Secrets = 1.5, 2048, "eu", "alpine:3", []string{"database"}
	o.SandboxTimeout = backends.Duration(2 * time.Hour)
	s := create(t, useAs(t, backends.Spec{Profile: "data", Owner: owner, Network: true}, o, slog.New(slog.DiscardHandler)))
	got := m.Sandboxes()[0]
	d := got.Definition
	r := d.GetResources()
	for _, k := range []struct {
		what      string
		got, want any
	}{
		{"cpu", r.GetMilliCpu(), uint32(1500)},
		{"cpu limit", r.GetMilliCpuMax(), uint32(1500)},
		{"memory", r.GetMemoryMb(), uint32(2048)},
		{"memory limit", r.GetMemoryMbMax(), uint32(2048)},
		{"life", d.GetTimeoutSecs(), uint32(7200)},
		{"idle", d.GetIdleTimeoutSecs(), uint32(600)},
		{"region", fmt.Sprint(d.GetSchedulerPlacement().GetRegions()), "[eu]"},
		{"image", got.Image, "alpine:3"},
		{"network", d.GetNetworkAccess().GetNetworkAccessType().String(), "OPEN"},
		{"secrets", fmt.Sprint(d.GetSecretIds()), "[st-database]"},
	} {
		if k.got != k.want {
			t.Errorf("%s: got %v, want %v", k.what, k.got, k.want)
		}
	}
	name := got.Tags[tagSandbox]
	delete(got.Tags, tagSandbox)
	want := map[string]string{"kilntainers": "true", "kilntainers.instance": "instance", "kilntainers.boot": "boot", "kilntainers.profile": "data"}
	if !maps.Equal(got.Tags, want) || !strings.HasPrefix(name, "kilntainers-data-") {
		t.Errorf("tags %v and name %q, want %v", got.Tags, name, want)
	}
	if got := sh(t, s, "echo $DATABASE"); got != "the value of st-database\n" {
		t.Errorf("the secret is %q", got)
	}

	closed := create(t, use(t, optionsFor(m)))
	for _, s := range m.Sandboxes() {
		if s.ID == closed.ID() && s.Definition.GetNetworkAccess().GetNetworkAccessType().String() != "BLOCKED" {
			t.Errorf("without network it has %v", s.Definition.GetNetworkAccess())
		}
	}
}

// A Modal Secret that is not there is named.
func TestSecretMissing(t *testing.T) {
	m := start(t)
	o := optionsFor(m)
	o.Secrets = []string{"no-such-secret"}
	if _, err := use(t, o).Create(t.Context()); err == nil || !strings.Contains(err.Error(), "Modal Secret no-such-secret") {
		t.Errorf("got %v", err)
	}
}

// A token that Modal does not know, no token, and no Modal.
func TestNoWay(t *testing.T) {
	m := start(t)
	wrong := optionsFor(m)
	wrong.TokenSecret = "as-wrongwrongwrong"
	for _, k := range []struct {
		name string
		o    *Options
		want string
	}{
		{"bad token", wrong, "Modal refuses the token"},
		{"no token", defaults(), "there is no token for Modal"},
		{"no file", func() *Options {
			o := defaults()
			o.TokenIDFile, o.TokenSecretFile = "/no/such/id", "/no/such/secret"
			return o
		}(), "modal_token_id_file: open /no/such/id"},
		{"no credentials directory", func() *Options {
			o := defaults()
			o.TokenIDFile, o.TokenSecretFile = "modal-id", "modal-secret"
			return o
		}(), "$CREDENTIALS_DIRECTORY"},
	} {
		b := use(t, k.o)
		if err := b.Check(t.Context()); err == nil || !strings.Contains(err.Error(), k.want) {
			t.Errorf("%s: Check: got %v, want %q", k.name, err, k.want)
		}
		if _, err := b.Create(t.Context()); err == nil || !strings.Contains(err.Error(), k.want) {
			t.Errorf("%s: Create: got %v, want %q", k.name, err, k.want)
		}
	}
	t.Setenv("MODAL_SERVER_URL", "http://127.0.0.1:1")
	b := use(t, optionsFor(m))
	if err := b.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "Modal cannot be reached") {
		t.Errorf("no network: got %v", err)
	}
	if _, err := b.Create(t.Context()); err == nil || !strings.Contains(err.Error(), "Modal cannot be reached") {
		t.Errorf("Create without a network: got %v", err)
	}
}

// A system service has no $HOME, and the SDK fails for want of it even when it
// is given a token.
func TestNoHome(t *testing.T) {
	m := start(t)
	t.Setenv("MODAL_CONFIG_PATH", "")
	t.Setenv("HOME", "")
	if err := use(t, optionsFor(m)).Check(t.Context()); err != nil {
		t.Errorf("with a token in the profile: %v", err)
	}
	if err := use(t, defaults()).Check(t.Context()); !errors.Is(err, errNoToken) {
		t.Errorf("without a token: got %v, want %v", err, errNoToken)
	}
	t.Setenv("MODAL_TOKEN_ID", m.TokenID)
	t.Setenv("MODAL_TOKEN_SECRET", m.TokenSecret)
	if err := use(t, defaults()).Check(t.Context()); err != nil {
		t.Errorf("with a token in the environment: %v", err)
	}
}

// The SDK's own file is used when nothing else is given, and only then.
func TestOwnFile(t *testing.T) {
	m := start(t)
	file := filepath.Join(t.TempDir(), "modal.toml")
	t.Setenv("MODAL_CONFIG_PATH", file)
	write := func(id, secret string) {
		text := fmt.Sprintf("[work]\nactive = true\ntoken_id = %q\ntoken_secret = %q\n", id, secret)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(m.TokenID, m.TokenSecret)
	b := use(t, defaults())
	if err := b.Check(t.Context()); err != nil {
		t.Error(err)
	}
	m.SetToken("ak-second", "as-second")
	write("ak-second", "as-second")
	if err := b.Check(t.Context()); err != nil {
		t.Errorf("after the file has changed: %v", err)
	}
	o := defaults()
	o.TokenID, o.TokenSecret = "ak-wrong", "as-wrong"
	if err := use(t, o).Check(t.Context()); err == nil {
		t.Error("a profile with a token of its own used that of the file")
	}
}

// The token is replaced while sandboxes live: what is in the files then is
// used, for new sandboxes and for those that are there.
func TestTokenRotated(t *testing.T) {
	m := start(t)
	dir := t.TempDir()
	o := defaults()
	o.TokenIDFile, o.TokenSecretFile = filepath.Join(dir, "id"), filepath.Join(dir, "secret")
	write := func(id, secret string) {
		t.Helper()
		for file, text := range map[string]string{o.TokenIDFile: id, o.TokenSecretFile: secret} {
			if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(m.TokenID, m.TokenSecret)
	b := use(t, o)
	old := create(t, b)
	sh(t, old, "echo first > file")

	write("ak-second", "as-second")
	m.SetToken("ak-second", "as-second")
	m.RotateWorkerTokens() // so that the old connection needs the control plane
	sh(t, create(t, b), "true")
	if got := sh(t, old, "cat file"); got != "first\n" {
		t.Errorf("the old sandbox says %q", got)
	}

	write("ak-third", "as-third")
	m.SetToken("ak-third", "as-third")
	closeIt(t, old)

	m.SetToken("ak-fourth", "as-fourth") // and nobody tells us
	_, err := b.Create(t.Context())
	if err == nil || !strings.Contains(err.Error(), "refuses the token") {
		t.Errorf("got %v", err)
	}
	write("ak-fourth", "as-fourth")
}

// The token for a worker is good for a while only; in the middle of a command
// it is fetched anew.
func TestWorkerTokenRotated(t *testing.T) {
	m := start(t)
	s := create(t, use(t, optionsFor(m)))
	out := &signalWriter{want: "begun\n", seen: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		_, err := s.Exec(t.Context(), backends.Exec{Command: "echo begun; until [ -e go ]; do sleep 0.05; done; echo ended", Stdout: out})
		done <- err
	}()
	<-out.seen
	m.RotateWorkerTokens()
	m.Cut(1) // the streams have to be opened anew, too
	sh(t, s, ": > go")
	if err := <-done; err != nil || out.String() != "begun\nended\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

// Output streams that break, every 100 kB: no byte is lost, none comes twice.
func TestStreamsCut(t *testing.T) {
	m := start(t)
	s := create(t, use(t, optionsFor(m)))
	m.Cut(100_000)
	var out, want bytes.Buffer
	for i := range 300_000 {
		fmt.Fprintln(&want, i)
	}
	exit, err := s.Exec(t.Context(), backends.Exec{Command: "seq 0 299999; exit 3", Stdout: &out})
	if err != nil || exit.Code != 3 || !bytes.Equal(out.Bytes(), want.Bytes()) {
		t.Errorf("got %d of %d bytes, %+v, %v", out.Len(), want.Len(), exit, err)
	}
}

// A sandbox's time is over, or somebody terminates it, or Modal forgets it:
// while it idles and while a command runs. Whoever asks is told which.
func TestGone(t *testing.T) {
	m := start(t)
	b := use(t, optionsFor(m))
	for _, k := range []struct {
		name string
		end  func(id string)
		want string
	}{
		{"expired", m.Expire, "it expired: its time was over (sandbox_timeout 1h0m0s)"},
		{"terminated", m.Terminate, "it was terminated from outside, or by Modal"},
		{"forgotten", m.Forget, ""},
	} {
		for _, running := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%t", k.name, running), func(t *testing.T) {
				s := create(t, b)
				done := make(chan error, 1)
				if running {
					out := &signalWriter{want: "begun\n", seen: make(chan struct{})}
					go func() {
						_, err := s.Exec(t.Context(), backends.Exec{Command: "echo begun; sleep 3600", Stdout: out})
						done <- err
					}()
					<-out.seen
				} else {
					done <- backends.ErrGone
				}
				k.end(s.ID())
				if err := <-done; !errors.Is(err, backends.ErrGone) {
					t.Errorf("the command that ran: got %v", err)
				}
				_, err := s.Exec(t.Context(), backends.Exec{Command: "echo next"})
				var gone *backends.GoneError
				if !errors.As(err, &gone) || gone.Reason == "" || k.want != "" && gone.Reason != k.want {
					t.Errorf("the next command: got %v, want %q", err, k.want)
				}
				await(t, "Done", func() bool { return s.Err() != nil })
			})
		}
	}
}

// A daemon that lives renews its sandboxes, which Modal would end for idling.
func TestRenewed(t *testing.T) {
	m := start(t)
	shorten(t, &renewEvery, 20*time.Millisecond)
	s := create(t, use(t, optionsFor(m)))
	before := m.Calls("TaskExecStart")
	await(t, "a renewal", func() bool { return m.Calls("TaskExecStart") > before+2 })
	sh(t, s, "true")
}

// The start of a command comes late, when its ctx has ended: it is killed all
// the same.
func TestStartLate(t *testing.T) {
	m := start(t)
	s := create(t, use(t, optionsFor(m)))
	m.Delay("TaskExecStart", 1, 300*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Exec(ctx, backends.Exec{Command: "sleep 3600"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if left := m.Processes(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	sh(t, s, "true")
}

// A start that is never answered ends with the ctx and a little.
func TestStartStalls(t *testing.T) {
	m := start(t)
	shorten(t, &startTimeout, 300*time.Millisecond)
	s := create(t, use(t, optionsFor(m)))
	m.Stall("TaskExecStart", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Exec(ctx, backends.Exec{Command: "sleep 3600"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	sh(t, s, "true")
}

// The answers of a worker are lost, as often as the SDK asks again.
func TestStartAnswerLost(t *testing.T) {
	m := start(t)
	s := create(t, use(t, optionsFor(m)))
	m.Lose("TaskExecStart", 3)
	if got := sh(t, s, "echo x >> file; cat file"); got != "x\n" {
		t.Errorf("the command ran more than once: %q", got)
	}
}

// A command that cannot be killed takes the sandbox with it.
func TestKillFails(t *testing.T) {
	m := start(t)
	s := create(t, use(t, optionsFor(m)))
	refusal := status.Error(codes.ResourceExhausted, "too many commands")
	m.Fail("TaskExecStart", nil, refusal, refusal)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Exec(ctx, backends.Exec{Command: "sleep 3600"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	_, err := s.Exec(t.Context(), backends.Exec{Command: "true"})
	var gone *backends.GoneError
	if !errors.As(err, &gone) || !strings.Contains(gone.Reason, "could not be stopped") {
		t.Errorf("the next command: got %v", err)
	}
	await(t, "the end of the sandbox", func() bool { return len(m.Sandboxes())+len(m.Processes()) == 0 })
}

// A command that kills the script around it has ended, and leaves what it
// leaves.
func TestWrapperKilled(t *testing.T) {
	m := start(t)
	s := create(t, use(t, optionsFor(m)))
	for _, command := range []string{"kill -KILL $PPID", `kill -KILL $(cut -d" " -f4 /proc/$PPID/stat) $PPID`} {
		exit, err := s.Exec(t.Context(), backends.Exec{Command: command, Stdout: &bytes.Buffer{}})
		if err != nil || exit.Code != 137 {
			t.Errorf("%s: got %+v, %v, want code 137", command, exit, err)
		}
	}
	sh(t, s, "true")
}

// Close says when a sandbox could not be terminated, and can be tried again.
func TestCloseFails(t *testing.T) {
	m := start(t)
	s := create(t, use(t, optionsFor(m)))
	m.Fail("SandboxTerminateV2", slices.Repeat([]error{unavailable()}, 4)...)
	if err := s.Close(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("got %v", err)
	}
	if err := s.Close(t.Context()); err != nil || len(m.Sandboxes()) > 0 {
		t.Errorf("the second time: got %v, and there are %v", err, m.Sandboxes())
	}
}

// What is too long for arguments goes another way and is the same.
func TestLong(t *testing.T) {
	m := start(t)
	s := create(t, use(t, optionsFor(m)))
	var words []string
	for i := range 3000 {
		words = append(words, fmt.Sprintf("it's word %d $HOME \\ \n", i))
	}
	for _, e := range []backends.Exec{
		{Args: append([]string{"printf", "%s"}, words...)},
		{Args: []string{"printf", "%s", "a\xff\xfeb"}},
		{Command: "printf '%s %s' \"$0\" '" + strings.Repeat("x", 300_000) + "'"},
	} {
		want := strings.Join(words, "")
		switch {
		case e.Command != "":
			want = "/bin/bash " + strings.Repeat("x", 300_000)
		case len(e.Args) == 3:
			want = "a\xff\xfeb"
		}
		var out, said bytes.Buffer
		e.Stdout, e.Stderr = &out, &said
		exit, err := s.Exec(t.Context(), e)
		if err != nil || exit.Code != 0 || out.String() != want || said.Len() > 0 {
			t.Errorf("got %.80q (%d bytes), want %d; %q, %+v, %v", out.String(), out.Len(), len(want), said.String(), exit, err)
		}
	}
	if left, _ := filepath.Glob("/tmp/.kilntainers-*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// What Modal would not take, or not as it is, is refused.
func TestRefusedHere(t *testing.T) {
	m := start(t)
	s := create(t, use(t, optionsFor(m)))
	for _, e := range []backends.Exec{
		{Command: "echo a\x00b"},
		{Args: []string{"echo", "a\x00b"}},
		{Command: "true", Dir: "/tmp\x00"},
		{Command: "true", Env: map[string]string{"a-b": ""}},
		{Command: "true", Env: map[string]string{"A": "\xff"}},
		{Command: "true", Env: map[string]string{"A": "\x00"}},
	} {
		if exit, err := s.Exec(t.Context(), e); err == nil {
			t.Errorf("%+v: got %+v, want an error", e, exit)
		}
	}
}

// A sandbox whose /bin/sh was replaced floods what the daemon reads of its own
// scripts: little of that is kept, and what is too long for an answer is none.
func TestFlood(t *testing.T) {
	const flood = 8 << 20
	long := backends.Exec{Command: ": " + strings.Repeat("x", maxArgv)}
	for _, k := range []struct {
		name, script string // a part of the script that floods
		stream, code int
		do           func(*Backend, backends.Sandbox, backends.Ticket) error
		want         string
	}{
		{"write", "cat >", 2, 7, func(_ *Backend, s backends.Sandbox, _ backends.Ticket) error {
			_, err := s.Exec(t.Context(), long)
			return err
		}, "could not be written to"},
		{"look, said", "/bin/bash", 2, 7, func(b *Backend, _ backends.Sandbox, _ backends.Ticket) error {
			_, err := b.Create(t.Context())
			return err
		}, "does not run commands (an image needs a /bin/sh): code 7"},
		{"look", "/bin/bash", 1, 0, func(b *Backend, _ backends.Sandbox, _ backends.Ticket) error {
			_, err := b.Create(t.Context())
			return err
		}, "more than 4096 bytes came of a script"},
		{"list, said", "grep -x", 2, 7, func(b *Backend, _ backends.Sandbox, k backends.Ticket) error {
			_, err := b.Adopt(t.Context(), k)
			return err
		}, "look for the commands that run: code 7"},
		{"list", "grep -x", 1, 0, func(b *Backend, _ backends.Sandbox, k backends.Ticket) error {
			_, err := b.Adopt(t.Context(), k)
			return err
		}, "more than 262144 bytes came of a script"},
	} {
		t.Run(k.name, func(t *testing.T) {
			m := start(t)
			ticket, b := left(t, m), use(t, optionsFor(m))
			s := create(t, b)
			shell := filepath.Join(t.TempDir(), "sh")
			script := fmt.Sprintf(`#!/bin/sh
case "$*" in *'%s'*) head -c %d /dev/zero | tr '\0' x >&%d; exit %d ;; esac
exec /bin/sh "$@"`, k.script, flood, k.stream, k.code)
			if err := os.WriteFile(shell, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			m.ReplaceShell(shell)
			err := k.do(b, s, ticket)
			m.ReplaceShell("")
			if err == nil || !strings.Contains(err.Error(), k.want) {
				t.Fatalf("got %.300v, want %q", err, k.want)
			}
			if n := len(err.Error()); n > 2*maxSaid {
				t.Errorf("the error has %d bytes", n)
			}
			m.Terminate(ticket.ID)
		})
	}
}

// Two daemons with one account, each of which died once: each removes what it
// left itself, over several pages, and not what belongs to the other.
func TestTwoDaemons(t *testing.T) {
	m := start(t)
	const n = 5
	ids := map[backends.Owner][]string{}
	for _, o := range []backends.Owner{{Instance: "a", Boot: "1"}, {Instance: "b", Boot: "1"}, {Instance: "a", Boot: "2"}} {
		b := useAs(t, backends.Spec{Profile: "p", Owner: o}, optionsFor(m), slog.New(slog.DiscardHandler))
		for range n {
			ids[o] = append(ids[o], create(t, b).ID())
		}
	}
	living := func() (all []string) {
		for _, s := range m.Sandboxes() {
			all = append(all, s.ID)
		}
		return all
	}
	sweepAs := func(instance, boot string) []string {
		t.Helper()
		// Two profiles with one account are asked about once.
		found, err := sweep(t.Context(), backends.Sweep{
			Owner: backends.Owner{Instance: instance, Boot: boot}, Options: []backends.Options{optionsFor(m), optionsFor(m)},
			Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, l := range found {
			if l.Profile != "p" || l.Kind != "sandbox" || !l.Removed {
				t.Errorf("found %+v", l)
			}
			all = append(all, l.ID)
		}
		slices.Sort(all)
		return all
	}
	left := slices.Sorted(slices.Values(ids[backends.Owner{Instance: "a", Boot: "1"}]))
	if got := sweepAs("a", "2"); !slices.Equal(got, left) {
		t.Errorf("a found %v, want %v", got, left)
	}
	if got := living(); len(got) != 2*n {
		t.Errorf("%d sandboxes live, want %d", len(got), 2*n)
	}
	if got := sweepAs("c", "1"); len(got) > 0 {
		t.Errorf("c found %v", got)
	}
	if got := sweepAs("b", "2"); len(got) != n {
		t.Errorf("b found %v", got)
	}
	if got := slices.Sorted(slices.Values(living())); !slices.Equal(got, slices.Sorted(slices.Values(ids[backends.Owner{Instance: "a", Boot: "2"}]))) {
		t.Errorf("what lives is %v", got)
	}
}

// A sweep where nothing was ever made makes nothing either, and one that fails
// says so.
func TestSweepNothing(t *testing.T) {
	m := start(t)
	s := backends.Sweep{Owner: owner, Options: []backends.Options{optionsFor(m)}, Log: slog.New(slog.DiscardHandler)}
	if found, err := sweep(t.Context(), s); err != nil || len(found) > 0 {
		t.Errorf("got %v, %v", found, err)
	}
	m.Fail("AppGetOrCreate", status.Error(codes.PermissionDenied, "no apps for you"))
	if _, err := sweep(t.Context(), s); err == nil || !strings.Contains(err.Error(), "no apps for you") {
		t.Errorf("got %v", err)
	}
	if _, err := sweep(t.Context(), backends.Sweep{Options: s.Options, Log: s.Log}); err == nil {
		t.Error("a sweep for no instance was made")
	}
}

// No half of the token is in any log at any level, in an error, in what Modal
// keeps of a sandbox, or in the options when somebody prints them; although
// the fake writes the token into its errors.
func TestNoCredentialSaid(t *testing.T) {
	m := start(t)
	var said bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug - 10, AddSource: true}))
	say := func(err error) {
		for e := err; e != nil; e = errors.Unwrap(e) {
			if _, ok := e.(*apiError); ok {
				fmt.Fprintf(&said, "%v %+v\n", e, e)
				return
			}
			fmt.Fprintf(&said, "%v %+v %#v\n", e, e, e)
		}
	}
	o := optionsFor(m)
	spec := backends.Spec{Profile: "test", Owner: owner}
	b := useAs(t, spec, o, log)
	s := create(t, b)
	sh(t, s, "env; cat /proc/self/cmdline")
	fmt.Fprintln(&said, sh(t, s, "env"))
	for _, box := range m.Sandboxes() {
		fmt.Fprintf(&said, "%+v\n", box)
	}
	m.RotateWorkerTokens()
	sh(t, s, "true")
	m.Throttle("SandboxCreateV2", 1, 10*time.Millisecond)
	m.Fail("SandboxWaitV2", status.Errorf(codes.Internal, "for %s", m.TokenSecret))
	closeIt(t, create(t, b))

	id, secret := m.TokenID, m.TokenSecret
	m.SetToken("ak-another", "as-another")
	_, err := b.Create(t.Context())
	say(err)
	say(b.Check(t.Context()))
	_, err = s.Exec(t.Context(), backends.Exec{Command: "true"})
	say(err)
	_, err = sweep(t.Context(), backends.Sweep{Owner: owner, Options: []backends.Options{o}, Log: log})
	say(err)
	say(s.Close(t.Context()))
	m.SetToken(id, secret)
	m.Expire(s.ID())

	fmt.Fprintf(&said, "%v %+v %#v\n", o, o, o)
	json.NewEncoder(&said).Encode(o)
	log.Info("options", "options", o, "secret", o.TokenSecret)
	wrong := *o
	wrong.TokenIDFile, wrong.TokenSecretFile = "x", "y"
	say(wrong.Validate())
	fmt.Fprintln(&said, describe(spec, o))

	if !strings.Contains(said.String(), "refuses the token") || !strings.Contains(said.String(), redacted) {
		t.Fatalf("this tests nothing: %s", said.String())
	}
	for _, half := range []string{id, secret, "ak-another", "as-another"} {
		for _, line := range strings.Split(said.String(), "\n") {
			if i := strings.Index(line, half); i >= 0 {
				t.Errorf("%s… is said: …%s", half[:5], line[max(0, i-100):min(len(line), i+60)])
			}
		}
	}
}

// A signalWriter keeps what is written, and tells when it has been seen.
type signalWriter struct {
	want string
	seen chan struct{}
	mu   sync.Mutex
	buf  bytes.Buffer
}

func (w *signalWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := strings.Contains(w.buf.String(), w.want)
	w.buf.Write(p)
	if !before && strings.Contains(w.buf.String(), w.want) {
		close(w.seen)
	}
	return len(p), nil
}

func (w *signalWriter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}
