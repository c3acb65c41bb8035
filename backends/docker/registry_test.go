package docker

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/docker/dockertest"
)

// startRegistry runs a registry on a port of this machine, which engines take
// without TLS, behind a login, and slow enough to be watched.
func startRegistry(t *testing.T, user, password string) (addr string) {
	t.Helper()
	var program string
	for _, name := range []string{"docker-registry", "registry"} {
		if p, err := exec.LookPath(name); err == nil {
			program = p
		}
	}
	if program == "" {
		if dockertest.Required("registry") {
			t.Fatal("there is no docker-registry command (KILNTAINERS_TEST_REQUIRE has registry)")
		}
		t.Skip("needs the engine's registry: install docker-registry. KILNTAINERS_TEST_REQUIRE=registry makes this a failure")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	inner := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	conf := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: '%s', relativeurls: true}\n", dir, inner)
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte(conf), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", filepath.Join(dir, "config.yml"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if c, err := net.Dial("tcp", inner); err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the registry does not listen")
		}
	}

	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: inner})
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method == http.MethodGet && strings.Contains(r.Request.URL.Path, "/blobs/") {
			r.Body = &slow{r.Body}
		}
		return nil
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return front.Listener.Addr().String()
}

// slow reads 8 MiB a second.
type slow struct{ io.ReadCloser }

func (s *slow) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p[:min(len(p), 64<<10)])
	time.Sleep(time.Duration(n) * time.Second / (8 << 20))
	return n, err
}

// login makes a docker config with a login, and makes it ours.
func login(t *testing.T, addr, user, password string) {
	t.Helper()
	dir := t.TempDir()
	text := "{}"
	if user != "" {
		text = fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, addr, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
}

// TestPull: an image comes from a registry with a login, with progress; and
// what is said when it does not.
func TestPull(t *testing.T) {
	host := dockertest.Docker(t)
	c := dockertest.Client(t, host)
	addr := startRegistry(t, "me", "secret-of-mine")
	ctx := t.Context()

	// An image of one layer with a program and 12 MiB that do not compress.
	bulk := make([]byte, 12<<20)
	cryptorand.Read(bulk)
	local := importImage(t, host, map[string][]byte{"hello": staticProgram(t), "bulk": bulk})
	name := fmt.Sprintf("%s/box/%x:1", addr, rand.Uint64())
	if err := c.ImageTag(ctx, local, name); err != nil {
		t.Fatal(err)
	}
	auth, err := registry.EncodeAuthConfig(registry.AuthConfig{Username: "me", Password: "secret-of-mine"})
	if err != nil {
		t.Fatal(err)
	}
	body, err := c.ImagePush(ctx, name, image.PushOptions{RegistryAuth: auth})
	if err != nil {
		t.Fatal(err)
	}
	pushed, _ := io.ReadAll(body)
	body.Close()
	if bytes.Contains(pushed, []byte("errorDetail")) {
		t.Fatalf("push: %s", pushed)
	}
	forget := func() {
		for _, n := range []string{name, local} {
			if _, err := c.ImageRemove(context.Background(), n, image.RemoveOptions{Force: true}); err != nil {
				t.Fatal(err)
			}
		}
	}
	forget()
	defer func() { // importImage wants to remove it
		if err := c.ImageTag(context.Background(), name, local); err != nil {
			t.Error(err)
		}
		c.ImageRemove(context.Background(), name, image.RemoveOptions{Force: true})
	}()

	open := func(name string) *Backend {
		return openBackend(t, host, func(_ *backends.Spec, o *Options) { o.Image = name })
	}
	for _, k := range []struct{ what, user, password, image, want string }{
		{"NoLogin", "", "", name, "the registry wants a login; run docker login as the daemon's user"},
		{"WrongLogin", "me", "not-the-secret", name, "the registry refused the login"},
		{"NoSuchTag", "me", "secret-of-mine", name + "0", "the registry has no such image; check its name and tag"},
		{"NoRegistry", "", "", "127.0.0.1:1/x:1", "the engine cannot reach the registry"},
	} {
		t.Run(k.what, func(t *testing.T) {
			login(t, addr, k.user, k.password)
			b := openBackend(t, host, func(_ *backends.Spec, o *Options) { o.Image = k.image })
			_, err := b.Create(ctx)
			for what, err := range map[string]error{"Create": err, "Check": b.Check(ctx)} {
				if err == nil || !strings.Contains(err.Error(), k.want) {
					t.Errorf("%s: got %v, want %q", what, err, k.want)
				} else if strings.Contains(err.Error(), "secret") {
					t.Errorf("%s: the error holds a secret: %v", what, err)
				}
			}
		})
	}

	login(t, addr, "me", "secret-of-mine")
	b := open(name)
	if err := b.Check(ctx); err != nil {
		t.Errorf("Check: %v", err)
	}
	if _, err := c.ImageInspect(ctx, name); err == nil {
		t.Error("Check pulled the image")
	}

	// One that gives up ends the pull, as nobody else waits for it.
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := b.Create(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}

	var mu sync.Mutex
	var reports []backends.Progress
	var last time.Time
	watched := backends.WithProgress(ctx, func(p backends.Progress) {
		mu.Lock()
		defer mu.Unlock()
		reports = append(reports, p)
		if since := time.Since(last); since < 100*time.Millisecond {
			t.Errorf("a report %v after the last one", since)
		}
		last = time.Now()
	})
	s, err := b.Create(watched)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	mu.Lock()
	defer mu.Unlock()
	var sized, grown bool
	for i, p := range reports {
		if !strings.HasSuffix(p.Message, "ing "+name) {
			t.Errorf("got the message %q", p.Message)
		}
		sized = sized || p.Total > 12<<20
		grown = grown || i > 0 && p.Done > reports[i-1].Done && reports[i-1].Done > 0
	}
	if len(reports) < 4 || !sized || !grown {
		t.Errorf("got the reports %v, want several that grow to more than 12 MiB", reports)
	}
	var out bytes.Buffer
	if _, err := s.Exec(ctx, backends.Exec{Args: []string{"/hello"}, Stdout: &out}); err != nil || out.String() != "hello\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}
