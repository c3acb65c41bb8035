package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// required reports whether KILNTAINERS_TEST_REQUIRE names what a test needs.
func required(what string) bool {
	return slices.Contains(strings.Split(os.Getenv("KILNTAINERS_TEST_REQUIRE"), ","), what)
}

// A box is the real agent as PID 1 of a PID namespace of its own: all of a
// sandbox that matters here, and no engine.
type box struct {
	*Client
	init   *exec.Cmd // unshare, whose exit status is the agent's
	stderr bytes.Buffer
	ended  chan struct{} // once the agent has
}

// raw starts the agent and returns its stream.
func startAgent(t testing.TB, args ...string) (*box, net.Conn) {
	t.Helper()
	path := os.Getenv("KILNTAINERS_TEST_AGENT") // see TestSanitizers
	if path == "" {
		path = filepath.Join(t.TempDir(), Name)
		if err := os.WriteFile(path, amd64, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "agent")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	unshare := []string{"--pid", "--fork", "--mount-proc", "--kill-child=KILL", "--", path}
	if os.Getuid() != 0 {
		unshare = append([]string{"--user", "--map-root-user"}, unshare...)
	}
	b := &box{ended: make(chan struct{})}
	b.init = exec.Command("unshare", append(unshare, args...)...)
	b.init.Stdin, b.init.Stdout, b.init.Stderr = theirs, theirs, &b.stderr
	if err := b.init.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		b.init.Wait()
		close(b.ended)
	}()
	t.Cleanup(func() {
		conn.Close()
		select {
		case <-b.ended:
		case <-time.After(10 * time.Second):
			t.Errorf("the agent does not end with its channel")
			b.init.Process.Kill()
			<-b.ended
		}
		if b.stderr.Len() > 0 {
			t.Logf("agent: %s", &b.stderr)
		}
	})
	return b, conn
}

// needUnshare skips the test where no PID namespace can be had.
var haveUnshare = sync.OnceValue(func() error {
	args := []string{"--pid", "--fork", "--mount-proc", "true"}
	if os.Getuid() != 0 {
		args = append([]string{"--user", "--map-root-user"}, args...)
	}
	out, err := exec.Command("unshare", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("unshare: %w: %s", err, out)
	}
	return nil
})

func newBox(t testing.TB, o Options, args ...string) *box {
	t.Helper()
	if err := haveUnshare(); err != nil {
		if required("unshare") {
			t.Fatal(err)
		}
		t.Skipf("needs root and unshare(1), or unprivileged user namespaces: %v", err)
	}
	b, conn := startAgent(t, args...)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var err error
	if b.Client, err = New(ctx, conn, o); err != nil {
		t.Fatalf("%v (agent says %q)", err, &b.stderr)
	}
	t.Cleanup(func() { b.Client.Close() })
	return b
}

// sh runs a shell command and returns what it wrote.
func (b *box) sh(t testing.TB, command string) (stdout, stderr string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	x, err := b.Exec(t.Context(), Command{Exec: backends.Exec{Command: command, Stdout: &o, Stderr: &e}})
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return o.String(), e.String(), x.Code
}

func TestSmoke(t *testing.T) {
	b := newBox(t, Options{})
	fmt.Println(b.Hello())
	fmt.Println(b.sh(t, "echo hi; echo err >&2; ls -l /proc/self/fd; ps -ef; cat /proc/self/oom_score_adj; exit 3"))
	fmt.Println(b.sh(t, "kill -9 $$"))
}

func BenchmarkExec(b *testing.B) {
	x := newBox(b, Options{})
	b.Run("agent", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := x.Exec(b.Context(), Command{Shell: "/bin/bash", Exec: backends.Exec{Command: "echo hi", Stdout: io.Discard}}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("host", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := exec.Command("/bin/bash", "-c", "echo hi").Output(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
