package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/backendtest"
)

// leftover makes a sandbox as an earlier boot of that instance did.
func leftover(t *testing.T, fake *backendtest.Fake, instance string) backends.Sandbox {
	t.Helper()
	d := fake.Driver()
	b, err := d.Open(backends.Spec{Profile: "old", Owner: backends.Owner{Instance: instance, Boot: "earlier"}}, d.Options(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	sb, err := b.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(sb.Close(context.Background()), b.Close()); err != nil {
			t.Error(err)
		}
	})
	return sb
}

// cleanup asks as kilntainers cleanup does.
func (r *running) cleanup(query string) (c CleanupResult) {
	r.Helper()
	res, err := r.client().Post("http://k/-/cleanup"+query, "", nil)
	if err != nil {
		r.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&c); err != nil {
		r.Fatal(err)
	}
	return c
}

// A cleanup finds what an earlier run left, and neither what is in use nor
// what is another daemon's.
func TestCleanup(t *testing.T) {
	r := start(t, oneProfile)
	w := r.wire("p", "").legacy()
	w.sh("echo kept > f")
	instance, err := os.ReadFile(filepath.Join(filepath.Dir(r.config), "state", "instance"))
	if err != nil {
		t.Fatal(err)
	}
	old := leftover(t, r.fake, strings.TrimSpace(string(instance)))
	foreign := leftover(t, r.fake, "another")
	for _, dry := range []bool{true, false} {
		query := map[bool]string{true: "?dry_run=true"}[dry]
		c := r.cleanup(query)
		want := LeftoverStatus{Backend: "fake", Kind: "sandbox", ID: old.ID(), Profile: "old", Removed: !dry}
		if len(c.Leftovers) != 1 || c.Leftovers[0] != want || c.DryRun != dry || len(c.Problems) != 0 {
			t.Errorf("%q: got %+v, want %+v", query, c, want)
		}
		if gone := old.Err() != nil; gone == dry {
			t.Errorf("%q: the leftover is gone: %t", query, gone)
		}
	}
	if c := r.cleanup(""); len(c.Leftovers) != 0 {
		t.Errorf("found again: %+v", c)
	}
	if foreign.Err() != nil {
		t.Error("it took another daemon's sandbox")
	}
	if a := w.sh("cat f"); a.Stdout != "kept\n" {
		t.Errorf("it took one in use: %+v", a)
	}
}

// An engine that takes its time over the first sweep keeps nobody waiting but
// for a sandbox, and the daemon is not ready before; it can be stopped, though.
func TestSweepBeforeSandboxes(t *testing.T) {
	r := prepare(t, backendtest.NewFake(backendtest.InMemory), oneProfile+"max_sandboxes = 1\n")
	release := make(chan struct{})
	r.adjust = func(o *Options) {
		slow := o.Drivers[0]
		sweep := slow.Sweep
		slow.Sweep = func(ctx context.Context, s backends.Sweep) ([]backends.Leftover, error) {
			select {
			case <-release:
				return sweep(ctx, s)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		o.Drivers = backends.Drivers{slow}
	}
	r.begin()
	serves := func() bool {
		conn, err := net.Dial("unix", r.socket)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	eventually(t, "it serves", serves)
	r.wire("p", "").legacy()
	r.shutdown()
	if strings.Contains(r.log.String(), "msg=started") || strings.Contains(r.log.String(), "level=WARN") {
		t.Errorf("it was stopped during the sweep\n%s", r.log)
	}

	ready := r.begin()
	eventually(t, "it serves", serves)
	// There may be one sandbox: when one call is refused, the other waits for it.
	answers := make(chan string)
	for range 2 {
		w := r.wire("p", "").legacy()
		go func() { answers <- w.sh("echo made").raw }()
	}
	if got := <-answers; !strings.Contains(got, "max_sandboxes") {
		t.Errorf("got %s before the sweep", got)
	}
	if status, body := r.get("/-/ready"); status != http.StatusServiceUnavailable || body != "starting\n" {
		t.Errorf("ready is told as %d %q", status, body)
	}
	if n := r.fake.Live(); n != 0 || strings.Contains(r.log.String(), "msg=started") {
		t.Errorf("%d sandboxes before the sweep\n%s", n, r.log)
	}
	close(release)
	ready()
	if got := <-answers; !strings.Contains(got, `"stdout":"made\n"`) {
		t.Errorf("got %s", got)
	}
}

// A sandbox that cannot be destroyed is tried again, at a stop at the latest,
// and counts until then.
func TestCloseIsTriedAgain(t *testing.T) {
	r := start(t, oneProfile+"max_sandboxes = 1\n")
	w := r.wire("p", "").legacy()
	w.sh("true")
	r.fake.SetFaults(backendtest.Faults{Close: errors.New("the engine is away")})
	_ = w.Conn.Close()
	eventually(t, "the failure is told", func() bool { return strings.Contains(r.log.String(), "the engine is away") })
	if a := r.wire("p", "").legacy().sh("true"); !a.IsError || !strings.Contains(a.Text, "max_sandboxes") {
		t.Errorf("it does not count any more: %+v", a)
	}
	r.fake.SetFaults(backendtest.Faults{})
	r.shutdown() // prepare looks for what is left
}
