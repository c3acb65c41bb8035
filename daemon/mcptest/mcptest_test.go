package mcptest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/backendtest"
	"github.com/kilntainers/kilntainers/daemon"
)

// A world is a running daemon, and the ways in.
type world struct {
	fake *backendtest.Fake // its sandboxes, which only pretend; nil with a real driver
	url  string            // its profile over HTTP
	shim []string          // the command line of a client's configuration
	stop func()            // ends the daemon and waits for it
}

// start runs a daemon until the test ends, and then wants nothing left of it.
// More keys of its profile can be given.
func start(t testing.TB, keys ...string) *world {
	t.Helper()
	fake := backendtest.NewFake(backendtest.InMemory)
	w := startWith(t, fake.Driver(), strings.Join(append([]string{`backend = "fake"`}, keys...), "\n"))
	w.fake = fake
	t.Cleanup(func() { // before startWith's
		w.stop()
		if n := fake.Live(); n > 0 {
			t.Errorf("%d sandboxes are left of the daemon", n)
		}
		if n := fake.Backends(); n > 0 {
			t.Errorf("%d backends are left of the daemon", n)
		}
	})
	return w
}

// startWith runs a daemon with one driver, and a profile of these keys.
func startWith(t testing.TB, driver backends.Driver, keys string) *world {
	t.Helper()
	w := &world{}
	dir := t.TempDir()
	config := filepath.Join(dir, "kilntainers.toml")
	socket := filepath.Join(dir, "kilntainers.sock")
	write(t, config, fmt.Sprintf(`
		[daemon]
		listen = ["unix:%s", "tcp:127.0.0.1:0"]
		state_dir = %q
		cache_dir = %q
		allow_unauthenticated_loopback = true

		[profiles.box]
		%s
		`, socket, filepath.Join(dir, "state"), filepath.Join(dir, "cache"), keys))

	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan []string, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- daemon.Run(ctx, daemon.Options{
			Config:  config,
			Drivers: backends.Drivers{driver},
			Version: "mcptest",
			Log:     slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
			Ready:   func(addresses []string) { ready <- addresses },
		})
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the daemon ended: %v", err)
		}
	})
	t.Cleanup(w.stop)
	select {
	case addresses := <-ready:
		for _, a := range addresses {
			if address, ok := strings.CutPrefix(a, "tcp:"); ok {
				w.url = "http://" + address + "/mcp/box"
			}
		}
	case err := <-ended:
		ended <- err
		t.Fatal("the daemon did not start")
	}
	w.shim = []string{shim(t), "--socket", socket, "--profile", "box"}
	return w
}

// way is how a client gets to the daemon: "http" and the address, or "stdio"
// and the command.
func (w *world) way(kind string) []string {
	if kind == "http" {
		return []string{kind, w.url}
	}
	return append([]string{kind}, w.shim...)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for what another process, or the daemon, will do soon.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("this did not happen in 20 s: %s", what)
		}
	}
}

// TestMain removes what shim has built.
func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := shimDir(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

var shimDir = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "mcptest") })

// shim returns the path of kilntainers-stdio, built from this tree once.
func shim(t testing.TB) string {
	t.Helper()
	path, err := buildShim()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var buildShim = sync.OnceValues(func() (string, error) {
	dir, err := shimDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "kilntainers-stdio")
	cmd := exec.Command("go", "build", "-o", path, "github.com/kilntainers/kilntainers/cmd/kilntainers-stdio")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the shim: %w\n%s", err, out)
	}
	return path, nil
})

// A node runs programs that need Node.
type node struct {
	bin string // Node itself, of the release that the programs want
	dir string // a folder with node_modules and our scripts
}

// needNode finds what `make test` has installed. The conformance suite wants
// Node 22, so that is among the packages.
func needNode(t *testing.T) node {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	installed := filepath.Join(cache, "kilntainers-test", "node")
	want, err := os.ReadFile("node/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(installed, "package-lock.json")); err != nil || !bytes.Equal(got, want) {
		if slices.Contains(strings.Split(os.Getenv("KILNTAINERS_TEST_REQUIRE"), ","), "node") {
			t.Fatal("KILNTAINERS_TEST_REQUIRE names node, but the clients are not installed; make test does it where there is npm")
		}
		t.Skip("needs Node and MCP clients of other people; make test installs them where there is npm")
	}
	n := node{dir: t.TempDir(), bin: filepath.Join(installed, "node_modules", ".bin", "node")}
	if err := os.Symlink(filepath.Join(installed, "node_modules"), filepath.Join(n.dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(n.dir, os.DirFS("node")); err != nil {
		t.Fatal(err)
	}
	return n
}

// command prepares a program of the packages ("conformance") or a script of
// ours ("session.mjs"). It is killed when the test takes too long.
func (n node) command(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	if !strings.HasSuffix(program, ".mjs") {
		program = filepath.Join("node_modules", ".bin", program)
	}
	cmd := exec.CommandContext(ctx, n.bin, append([]string{program}, args...)...)
	cmd.Dir = n.dir
	cmd.Env = append(os.Environ(), "NODE_NO_WARNINGS=1")
	cmd.WaitDelay = 5 * time.Second // for what it started and left behind
	return cmd
}

// run runs a program to its end, and returns its output and exit status.
func (n node) run(t *testing.T, program string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := n.command(t, program, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}
