package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// required reports whether KILNTAINERS_TEST_REQUIRE names what.
func required(what string) bool {
	return slices.Contains(strings.Split(os.Getenv("KILNTAINERS_TEST_REQUIRE"), ","), what)
}

// need skips the test when err says that what is not there, or fails it where
// that is required.
func need(t testing.TB, what string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if required(what) {
		t.Fatalf("KILNTAINERS_TEST_REQUIRE names %s, but: %v", what, err)
	}
	t.Skipf("needs %s (KILNTAINERS_TEST_REQUIRE=%s makes this a failure): %v", what, what, err)
}

// A box is the real agent as PID 1 of a PID namespace of its own. That is all
// of a sandbox that matters here, and it needs no engine.
type box struct {
	*Client
	conn   net.Conn  // to the agent
	proc   *exec.Cmd // unshare or docker, whose exit status is the agent's
	stderr bytes.Buffer
	ended  chan struct{} // once the agent has, and stderr is whole
}

// agentFile is the agent under test.
func agentFile(t testing.TB) string {
	if path := os.Getenv("KILNTAINERS_TEST_AGENT"); path != "" { // see TestSanitizers
		return path
	}
	b, err := Binary(runtime.GOARCH)
	need(t, "unshare", err)
	dir := t.TempDir()
	path := filepath.Join(dir, Name)
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, b, 0o755)); err != nil {
		t.Fatal(err)
	}
	return path
}

// unshare is the command that runs argv as PID 1 of a new PID namespace.
func unshare(argv ...string) []string {
	args := []string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", "--"}
	if os.Getuid() != 0 {
		args = slices.Insert(args, 1, "--user", "--map-root-user")
	}
	return append(args, argv...)
}

var canUnshare = sync.OnceValue(func() error {
	argv := unshare("true")
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
})

// launch runs argv, which is to become the agent, with one end of a socket as
// its stdin and stdout.
func launch(t testing.TB, argv ...string) *box {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "agent")
	defer ours.Close()
	defer theirs.Close()
	b := &box{ended: make(chan struct{})}
	if b.conn, err = net.FileConn(ours); err != nil {
		t.Fatal(err)
	}
	b.proc = exec.Command(argv[0], argv[1:]...)
	b.proc.Stdin, b.proc.Stdout, b.proc.Stderr = theirs, theirs, &b.stderr
	if err := b.proc.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		b.proc.Wait()
		close(b.ended)
	}()
	t.Cleanup(func() {
		b.conn.Close()
		select {
		case <-b.ended:
		case <-time.After(20 * time.Second):
			t.Errorf("the agent did not end with its channel")
			b.proc.Process.Kill()
			<-b.ended
		}
		if b.stderr.Len() > 0 {
			t.Logf("agent: %s", &b.stderr)
		}
	})
	return b
}

// status waits for the agent's end and returns its exit status.
func (b *box) status(t testing.TB) int {
	t.Helper()
	select {
	case <-b.ended:
		return b.proc.ProcessState.ExitCode()
	case <-time.After(20 * time.Second):
		t.Fatal("the agent did not end")
		return 0
	}
}

// dial makes the box's Client.
func (b *box) dial(t testing.TB, o Options) *box {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var err error
	if b.Client, err = New(ctx, b.conn, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Client.Close() })
	return b
}

// startAgent starts an agent in a new PID namespace.
func startAgent(t testing.TB, args ...string) *box {
	t.Helper()
	need(t, "unshare", canUnshare())
	return launch(t, unshare(append([]string{agentFile(t)}, args...)...)...)
}

// newBox is an agent in a new PID namespace, and its Client.
func newBox(t testing.TB, o Options, args ...string) *box {
	t.Helper()
	return startAgent(t, args...).dial(t, o)
}

const image = "debian:bookworm-slim"

var canDocker = sync.OnceValue(func() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "docker", "image", "inspect", image).CombinedOutput(); err != nil {
		return fmt.Errorf("docker image inspect %s: %w: %s", image, err, out)
	}
	return nil
})

// newContainer is an agent in a container with these flags of docker run, and
// its Client. It is for what a PID namespace alone does not have: limits,
// another user, capabilities dropped.
func newContainer(t testing.TB, o Options, flags ...string) *box {
	t.Helper()
	need(t, "docker", canDocker())
	name := "kilntainers-test-" + rand.Text()
	argv := []string{"docker", "run", "--interactive", "--rm", "--name", name, "--label", "kilntainers.test=agent",
		"--network", "none", "--log-driver", "none", "--volume", agentFile(t) + ":/kilntainers-init:ro",
		"--entrypoint", "/kilntainers-init"}
	t.Cleanup(func() { // the last to run, when there should be nothing
		exec.Command("docker", "rm", "--force", "--volumes", name).Run()
	})
	if o.Kill == nil {
		o.Kill = func(ctx context.Context) error {
			return exec.CommandContext(ctx, "docker", "kill", name).Run()
		}
	}
	return launch(t, append(append(argv, flags...), image)...).dial(t, o)
}

// run runs e and returns what it wrote.
func (b *box) run(t testing.TB, e Command) (stdout, stderr string, x backends.Exit) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var o, r bytes.Buffer
	e.Stdout, e.Stderr = &o, &r
	x, err := b.Exec(ctx, e)
	if err != nil {
		t.Errorf("exec %.100q %.100q: %v", e.Command, e.Args, err)
	}
	return o.String(), r.String(), x
}

// sh runs a shell command that has to end well, and returns what it wrote.
func (b *box) sh(t testing.TB, command string) string {
	t.Helper()
	stdout, stderr, x := b.run(t, Command{Exec: backends.Exec{Command: command}})
	if x.Code != 0 {
		t.Errorf("%.100s: exit %d, %q", command, x.Code, stderr)
	}
	return stdout
}

// onlyInit waits until no process is left in the box but the agent.
func (b *box) onlyInit(t testing.TB) {
	t.Helper()
	var left string
	for range 100 { // what was killed may still be dying
		// A supervisor and the shell are there to ask. The shell starts nothing.
		left = b.sh(t, `cd /proc; for p in [0-9]*; do [ $p = $$ ] || [ $p = $PPID ] || [ $p = 1 ] ||
			{ IFS= read -r s <$p/stat && echo "$s"; } 2>/dev/null; done; :`)
		if left == "" {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("processes are left:\n%s", left)
}
