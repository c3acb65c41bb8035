// Package dockertest finds or starts container engines for tests.
//
//	host := dockertest.Podman(t) // "unix:///tmp/…/podman.sock"; skips the test without one
//	image := dockertest.Image(t, host)
//
// A test without its engine is skipped, unless the environment variable
// KILNTAINERS_TEST_REQUIRE, a list with commas, has "docker" or "podman".
package dockertest

import (
	"bytes"
	"context"
	"errors"
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

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

// Debian is the image that tests use: it has bash and the usual programs.
const Debian = "debian:bookworm-slim"

// Main runs the tests of a package. What [Podman] starts then lives until the
// end, and not for one test alone, which saves seconds for each:
//
//	func TestMain(m *testing.M) { os.Exit(dockertest.Main(m)) }
func Main(m *testing.M) int {
	shared.users++
	code := m.Run()
	if err := shared.leave(); err != nil {
		fmt.Fprintln(os.Stderr, "stop podman:", err)
		return max(code, 1)
	}
	return code
}

// Docker returns the address of a running Docker: $DOCKER_HOST, or the socket
// at its usual place.
func Docker(t testing.TB) string {
	t.Helper()
	host := os.Getenv("DOCKER_HOST")
	if host == "" {
		host = "unix:///var/run/docker.sock"
	}
	if err := ping(t.Context(), host); err != nil {
		absent(t, "docker", fmt.Sprintf("no Docker at %s (%v); start one, or set DOCKER_HOST", host, err))
	}
	return host
}

// Podman returns the address of a Podman: $CONTAINER_HOST, a socket at its
// usual place, or a service that is started for this test process, with a
// store of its own in a temporary directory. The last is stopped, and its
// store removed, when no test uses it any more.
func Podman(t testing.TB) string {
	t.Helper()
	if host := os.Getenv("CONTAINER_HOST"); host != "" {
		if err := ping(t.Context(), host); err != nil {
			absent(t, "podman", fmt.Sprintf("no Podman at CONTAINER_HOST=%s: %v", host, err))
		}
		return host
	}
	for _, s := range []string{"/run/podman/podman.sock", os.Getenv("XDG_RUNTIME_DIR") + "/podman/podman.sock"} {
		if ping(t.Context(), "unix://"+s) == nil {
			return "unix://" + s
		}
	}
	program, err := exec.LookPath("podman")
	if err != nil {
		absent(t, "podman", "no Podman is running and there is no podman command; install it, or set CONTAINER_HOST")
	}
	s, err := shared.use(t.Context(), program)
	if err != nil {
		absent(t, "podman", err.Error())
	}
	t.Cleanup(func() {
		if err := shared.leave(); err != nil {
			t.Errorf("stop podman: %v", err)
		}
	})
	return s
}

// absent skips the test, or fails it when the engine is required.
func absent(t testing.TB, engine, why string) {
	t.Helper()
	if Required(engine) {
		t.Fatalf("%s (KILNTAINERS_TEST_REQUIRE has %s)", why, engine)
	}
	t.Skipf("%s. KILNTAINERS_TEST_REQUIRE=%s makes this a failure", why, engine)
}

// Required tells whether KILNTAINERS_TEST_REQUIRE names what.
func Required(what string) bool {
	return slices.Contains(strings.Split(os.Getenv("KILNTAINERS_TEST_REQUIRE"), ","), what)
}

// Client returns a client of the engine, closed with the test.
func Client(t testing.TB, host string) *client.Client {
	t.Helper()
	c, err := client.NewClientWithOpts(client.WithHost(host), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func ping(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := client.NewClientWithOpts(client.WithHost(host), client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Ping(ctx)
	return err
}

// Image returns the name of a Debian image that is on the engine: it is there,
// or copied from a local Docker, pulled, or built with mmdebstrap, in that
// order. It stays there.
func Image(t testing.TB, host string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	c := Client(t, host)
	if err := ensureDebian(ctx, c, host); err != nil {
		t.Fatalf("get the image %s: %v", Debian, err)
	}
	return Debian
}

func ensureDebian(ctx context.Context, c *client.Client, host string) error {
	switch _, err := c.ImageInspect(ctx, Debian); {
	case err == nil:
		return nil
	case !errdefs.IsNotFound(err):
		return err
	}
	var errs []error
	for _, get := range []func(context.Context, *client.Client) error{copyImage, pullImage, buildImage} {
		err := get(ctx, c)
		if err == nil {
			_, err = c.ImageInspect(ctx, Debian)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// copyImage takes the image from a local Docker.
func copyImage(ctx context.Context, to *client.Client) error {
	from, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	defer from.Close()
	saved, err := from.ImageSave(ctx, []string{Debian})
	if err != nil {
		return err
	}
	defer saved.Close()
	res, err := to.ImageLoad(ctx, saved)
	if err != nil {
		return err
	}
	return drain(res.Body)
}

func pullImage(ctx context.Context, c *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	body, err := c.ImagePull(ctx, Debian, image.PullOptions{})
	if err != nil {
		return err
	}
	return drain(body)
}

// buildImage makes the image from Debian's packages. The files are kept in the
// user's cache directory.
func buildImage(ctx context.Context, c *client.Client) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	rootfs := filepath.Join(cache, "kilntainers-test", "bookworm-slim.tar")
	if _, err := os.Stat(rootfs); err != nil {
		if err := os.MkdirAll(filepath.Dir(rootfs), 0o755); err != nil {
			return err
		}
		fresh := rootfs + ".new"
		defer os.Remove(fresh)
		cmd := exec.CommandContext(ctx, "mmdebstrap", "--variant=minbase", "--format=tar", "bookworm", fresh)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("mmdebstrap: %w: %s", err, lastLine(out))
		}
		if err := os.Rename(fresh, rootfs); err != nil {
			return err
		}
	}
	f, err := os.Open(rootfs)
	if err != nil {
		return err
	}
	defer f.Close()
	body, err := c.ImageImport(ctx, image.ImportSource{Source: f, SourceName: "-"}, Debian, image.ImportOptions{Changes: []string{"CMD bash"}})
	if err != nil {
		return err
	}
	return drain(body)
}

// drain reads the events of a load, pull or import; an error may be one of
// them.
func drain(body io.ReadCloser) error {
	defer body.Close()
	events, err := io.ReadAll(body)
	if err == nil && bytes.Contains(events, []byte(`"errorDetail"`)) {
		err = errors.New(lastLine(events))
	}
	return err
}

func lastLine(b []byte) string {
	b = bytes.TrimSpace(b)
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}

// shared is the Podman of this test process.
var shared service

// A service is podman system service, running while somebody uses it.
type service struct {
	mu    sync.Mutex
	users int
	cmd   *exec.Cmd
	dir   string
	base  []string // of every podman command line
}

// The service runs without systemd, and may lack CAP_SYS_RESOURCE, without
// which Podman's own ulimits cannot be set.
const containersConf = `[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
`

func (s *service) use(ctx context.Context, program string) (host string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == "" {
		if err := s.start(ctx, program); err != nil {
			return "", errors.Join(err, s.stop())
		}
	}
	s.users++
	return "unix://" + s.socket(), nil
}

func (s *service) leave() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	if s.users > 0 {
		return nil
	}
	return s.stop()
}

func (s *service) socket() string { return filepath.Join(s.dir, "podman.sock") }

func (s *service) start(ctx context.Context, program string) (err error) {
	if s.dir, err = os.MkdirTemp("", "kilntainers-podman-"); err != nil {
		return err
	}
	conf := filepath.Join(s.dir, "containers.conf")
	if err := os.WriteFile(conf, []byte(containersConf), 0o666); err != nil {
		return err
	}
	s.base = []string{program, "--root", filepath.Join(s.dir, "root"), "--runroot", filepath.Join(s.dir, "run"), "--cgroup-manager", "cgroupfs"}
	if _, err := exec.LookPath("runc"); err == nil {
		s.base = append(s.base, "--runtime", "runc") // crun refuses hybrid cgroups
	}
	log, err := os.Create(filepath.Join(s.dir, "podman.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = s.podman("system", "service", "--time=0", "unix://"+s.socket())
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = dieWithParent()
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if c, err := net.Dial("unix", s.socket()); err == nil {
			return c.Close()
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("podman system service does not listen: %s", lastLine(text))
		}
	}
}

func (s *service) podman(args ...string) *exec.Cmd {
	cmd := exec.Command(s.base[0], append(slices.Clone(s.base[1:]), args...)...)
	cmd.Dir = s.dir // conmon leaves a file where it is when a container runs out of memory
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+filepath.Join(s.dir, "containers.conf"))
	return cmd
}

// stop removes whatever containers a failed test left, stops the service and
// removes its store.
func (s *service) stop() error {
	if s.dir == "" {
		return nil
	}
	var errs []error
	if s.cmd != nil {
		s.podman("rm", "--all", "--force", "--time=0").Run()
		s.cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(10*time.Second, func() { s.cmd.Process.Kill() })
		s.cmd.Wait()
		late.Stop()
		// What runs on, for a while, is the cleaning up after containers.
		for deadline := time.Now().Add(10 * time.Second); mentioned(s.dir) && time.Now().Before(deadline); {
			time.Sleep(50 * time.Millisecond)
		}
	}
	// Podman leaves its store mounted on itself, and a rootless one has files
	// of other users of its namespace.
	unmount(filepath.Join(s.dir, "root", "overlay"))
	if os.Geteuid() != 0 {
		errs = append(errs, s.podman("unshare", "rm", "-rf", filepath.Join(s.dir, "root")).Run())
	}
	errs = append(errs, os.RemoveAll(s.dir))
	s.cmd, s.dir = nil, ""
	return errors.Join(errs...)
}
