package daemon

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends/backendtest"
)

// manager is the service manager's end of sd_notify(3).
func manager(t *testing.T) <-chan string {
	t.Helper()
	addr := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"}
	c, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	t.Setenv("NOTIFY_SOCKET", addr.Name)
	states := make(chan string, 1000)
	go func() {
		defer close(states)
		for buf := make([]byte, 4096); ; {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			states <- string(buf[:n])
		}
	}()
	return states
}

// await returns the next state with that text.
func await(t *testing.T, states <-chan string, text string) string {
	t.Helper()
	for timeout := time.After(30 * time.Second); ; {
		select {
		case s := <-states:
			if strings.Contains(s, text) {
				return s
			}
		case <-timeout:
			t.Fatalf("systemd was never told %s", text)
		}
	}
}

// What systemd is told: ready, reloading with its time, the problem of a bad
// configuration, that the daemon is alive, and that it stops.
func TestNotify(t *testing.T) {
	states := manager(t)
	t.Setenv("WATCHDOG_USEC", "300000")
	r := start(t, onePython)
	if s := await(t, states, "READY=1"); !strings.Contains(s, "STATUS=profiles: 1, sessions: 0, sandboxes: 0") {
		t.Errorf("got %q", s)
	}
	w := r.wire("python", "").legacy()
	w.sh("true")
	if s := await(t, states, "WATCHDOG=1"); !strings.Contains(s, "sessions: 1, sandboxes: 1") {
		s = await(t, states, "sessions: 1, sandboxes: 1") // the tick before may have been older
		if !strings.Contains(s, "WATCHDOG=1") {
			t.Errorf("got %q", s)
		}
	}
	r.reload("[profiles.python]\nbackend = \"nonsense\"\n")
	if s := await(t, states, "RELOADING=1"); !strings.Contains(s, "MONOTONIC_USEC=") {
		t.Errorf("got %q, want the time that Type=notify-reload needs", s)
	}
	if s := await(t, states, "READY=1"); !strings.Contains(s, "the configuration has a problem") || !strings.Contains(s, "nonsense") {
		t.Errorf("got %q, want the problem", s)
	}
	r.shutdown()
	await(t, states, "STOPPING=1")
}

// A TCP socket from systemd that nobody may use yet does not keep the daemon
// from serving the others. A token opens it without a restart.
func TestInheritedWithoutToken(t *testing.T) {
	r := prepare(t, backendtest.NewFake(), onePython)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	r.adjust = func(o *Options) { o.Inherited = []*os.File{f} }
	r.launch()
	if problems := r.status().Config.Problems; len(problems) != 1 || !strings.Contains(problems[0], "the socket "+l.Addr().String()+", which systemd handed over, would serve every user of this machine") {
		t.Errorf("got the problems %q", problems)
	}
	r.wire("python", "").legacy().sh("true")
	r.reload(onePython) // changes nothing
	if problems := r.status().Config.Problems; len(problems) != 1 {
		t.Errorf("after a reload: got the problems %q", problems)
	}

	get := func(token string) int {
		req, _ := http.NewRequest(http.MethodGet, "http://"+l.Addr().String()+"/-/status", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		if token == "" {
			req.Header.Del("Authorization")
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	if got := get(""); got != http.StatusUnauthorized {
		t.Errorf("without a token: got %d", got)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("0123456789abcdef0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.reload(onePython + fmt.Sprintf("[tokens.t]\nfile = %q\nprofiles = [\"*\"]\n", secret))
	if problems := r.status().Config.Problems; len(problems) != 0 {
		t.Errorf("with a token: got the problems %q", problems)
	}
	if got := get("0123456789abcdef0123456789abcdef"); got != http.StatusOK {
		t.Errorf("with a token: got %d", got)
	}
	if got := get(""); got != http.StatusUnauthorized {
		t.Errorf("without a token: got %d", got)
	}
}
