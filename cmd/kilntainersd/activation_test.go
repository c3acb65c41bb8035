package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// An activator does what systemd does for a socket unit: it holds the socket,
// and starts the daemon with it when somebody connects.
type activator struct {
	testing.TB
	program, config, socket string
	ln                      *net.UnixListener
}

func newActivator(t testing.TB, daemonTable string) *activator {
	t.Helper()
	dir, err := os.MkdirTemp("", "kiln")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	a := &activator{TB: t, program: filepath.Join(dir, "kilntainersd"), config: filepath.Join(dir, "k.toml"), socket: filepath.Join(dir, "k.sock")}
	if out, err := exec.Command("go", "build", "-o", a.program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	conf := fmt.Sprintf("[daemon]\nstate_dir = %q\ncache_dir = %q\n%s\n[profiles.debian]\nbackend = \"docker\"\n", dir+"/state", dir+"/cache", daemonTable)
	if err := os.WriteFile(a.config, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	if a.ln, err = net.ListenUnix("unix", &net.UnixAddr{Name: a.socket, Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.ln.Close() })
	return a
}

// start starts the daemon as sd_listen_fds(3) says.
func (a *activator) start() *exec.Cmd {
	a.Helper()
	f, err := a.ln.File()
	if err != nil {
		a.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" --config "$1"`, a.program, a.config)
	cmd.Env = append(os.Environ(), "LISTEN_FDS=1", "LISTEN_FDNAMES=main", "WATCHDOG_USEC=900000")
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		a.Fatal(err)
	}
	return cmd
}

// initialize connects as the shim does and returns when the daemon has
// answered initialize.
func (a *activator) initialize() net.Conn {
	a.Helper()
	c, err := net.Dial("unix", a.socket)
	if err != nil {
		a.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	_, err = io.WriteString(c, "GET /stdio/debian HTTP/1.1\r\nHost: k\r\nConnection: Upgrade\r\nUpgrade: kilntainers-stdio/1\r\n\r\n"+
		`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`+"\n")
	if err != nil {
		a.Fatal(err)
	}
	r := bufio.NewReader(c)
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		a.Fatalf("got %v %v", res, err)
	}
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, `"serverInfo"`) {
		a.Fatalf("got %q %v", line, err)
	}
	return c
}

// A daemon that systemd started serves the socket it was given, leaves when
// nobody is connected but its own watchdog, and leaves the socket to its
// successor.
func TestActivation(t *testing.T) {
	a := newActivator(t, "exit_when_idle = 1")
	for range 2 {
		daemon := a.start()
		c := a.initialize()
		time.Sleep(1500 * time.Millisecond) // longer than exit_when_idle: a connection is no idleness
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(c, `{"jsonrpc":"2.0","id":2,"method":"ping"}`+"\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, `"id":2`) {
			t.Fatalf("got %q %v, want the connection to be served", line, err)
		}
		_ = c.Close()
		ended := make(chan error, 1)
		go func() { ended <- daemon.Wait() }()
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("the idle daemon ended with %v", err)
			}
		case <-time.After(30 * time.Second):
			_ = daemon.Process.Kill()
			t.Fatal("the idle daemon does not end")
		}
		if _, err := os.Stat(a.socket); err != nil {
			t.Fatalf("the socket is gone: %v", err)
		}
	}
}

// BenchmarkActivation is what a client waits for when it is the first: the
// start of the daemon, with the connection waiting, to initialize answered.
func BenchmarkActivation(b *testing.B) {
	a := newActivator(b, "")
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		daemon := a.start()
		c := a.initialize()
		took = append(took, time.Since(began))
		_ = c.Close()
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	}
	slices.Sort(took)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
}
