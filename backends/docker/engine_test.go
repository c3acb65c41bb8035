package docker

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/docker/dockertest"
)

// The tests of this file need an engine; package dockertest says how to get one.

// onEachEngine runs a test on Docker and on Podman.
func onEachEngine(t *testing.T, f func(t *testing.T, host string)) {
	t.Run("Docker", func(t *testing.T) { f(t, dockertest.Docker(t)) })
	t.Run("Podman", func(t *testing.T) { f(t, dockertest.Podman(t)) })
}

// openBackend opens the driver on an engine. When the test ends, nothing of
// its sandboxes may be left.
func openBackend(t testing.TB, host string, edit func(*backends.Spec, *Options)) *Backend {
	t.Helper()
	s := backends.Spec{Profile: "test", Owner: backends.Owner{Instance: fmt.Sprintf("test-%x", rand.Uint64()), Boot: "1"}}
	o := defaults()
	o.DockerHost = Hosts{host}
	if edit != nil {
		edit(&s, o)
	}
	if o.Image == dockertest.Debian {
		dockertest.Image(t, host)
	}
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	b, err := Driver.Open(s, o, discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left := leftovers(t, host, s.Owner.Instance); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b.(*Backend)
}

// create makes a sandbox that is closed with the test.
func create(t testing.TB, b *Backend) *sandbox {
	t.Helper()
	s, err := b.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s.(*sandbox)
}

// sh runs a command and returns all that it wrote.
func sh(t testing.TB, s backends.Sandbox, command string) (string, backends.Exit) {
	t.Helper()
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	exit, err := s.Exec(ctx, backends.Exec{Command: command, Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return out.String(), exit
}

// deriveImage makes an image of the Debian one by running a command in it and
// changing its configuration, as a Dockerfile does.
func deriveImage(t testing.TB, host, command string, changes ...string) string {
	t.Helper()
	c := dockertest.Client(t, host)
	ctx := context.Background()
	made, err := c.ContainerCreate(ctx,
		&container.Config{Image: dockertest.Image(t, host), Entrypoint: []string{"/bin/sh", "-c", command}, Labels: map[string]string{"kilntainers.test": "true"}},
		&container.HostConfig{NetworkMode: "none"}, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.ContainerRemove(ctx, made.ID, container.RemoveOptions{Force: true})
	done, failed := c.ContainerWait(ctx, made.ID, container.WaitConditionNextExit)
	if err := c.ContainerStart(ctx, made.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-done:
		if r.StatusCode != 0 {
			t.Fatalf("%s: exit status %d", command, r.StatusCode)
		}
	case err := <-failed:
		t.Fatal(err)
	}
	name := fmt.Sprintf("kilntainers-test/%x:1", rand.Uint64())
	if _, err := c.ContainerCommit(ctx, made.ID, container.CommitOptions{Reference: name, Changes: changes, Config: &container.Config{}}); err != nil {
		t.Fatal(err)
	}
	removeImage(t, host, name)
	return name
}

// importImage makes an image of a few files.
func importImage(t testing.TB, host string, files map[string][]byte, changes ...string) string {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		w.Write(data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	c := dockertest.Client(t, host)
	name := fmt.Sprintf("kilntainers-test/%x:1", rand.Uint64())
	body, err := c.ImageImport(context.Background(), image.ImportSource{Source: &archive, SourceName: "-"}, name, image.ImportOptions{Changes: changes})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.Copy(io.Discard, body); err != nil {
		t.Fatal(err)
	}
	removeImage(t, host, name)
	return name
}

// removeImage removes an image when the test ends.
func removeImage(t testing.TB, host, name string) {
	t.Cleanup(func() {
		c, err := client.NewClientWithOpts(client.WithHost(host), client.WithAPIVersionNegotiation())
		if err == nil {
			defer c.Close()
			_, err = c.ImageRemove(context.Background(), name, image.RemoveOptions{Force: true, PruneChildren: true})
		}
		if err != nil {
			t.Error(err)
		}
	})
}

// volumes counts the anonymous volumes of an engine: names of 64 digits.
func volumes(t testing.TB, host string) (n int) {
	t.Helper()
	c := dockertest.Client(t, host)
	list, err := c.VolumeList(context.Background(), volume.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range list.Volumes {
		if len(v.Name) == 64 {
			n++
		}
	}
	return n
}

// TestImages: any image makes a sandbox, whatever it declares.
func TestImages(t *testing.T) {
	onEachEngine(t, func(t *testing.T, host string) {
		for _, c := range []struct {
			name, prepare string
			changes       []string
			command, want string
		}{
			{"NoBash", "rm /bin/bash", nil, `echo $0`, "/bin/sh\n"},
			{"User", "true", []string{"USER 1000:1000"}, `id -u; touch /tmp/x && echo ok; grep CapEff /proc/self/status`, "1000\nok\nCapEff:\t0000000000000000\n"},
			{"NamedUser", "true", []string{"USER nobody"}, `id -un`, "nobody\n"},
			{"Entrypoint", "true", []string{`ENTRYPOINT ["/bin/false"]`, `CMD ["x"]`}, `echo ok`, "ok\n"},
			{"Environment", "mkdir /w", []string{"WORKDIR /w", "ENV A=b"}, `pwd; echo $A`, "/w\nb\n"},
			{"Volume", "mkdir /data && echo seed > /data/f", []string{"VOLUME /data"}, `cat /data/f; echo more >> /data/f; wc -l < /data/f`, "seed\n2\n"},
			{"Healthcheck", "true", []string{`HEALTHCHECK --interval=1s CMD touch /tmp/checked`}, `sleep 2; ls /tmp`, ""},
		} {
			t.Run(c.name, func(t *testing.T) {
				if c.name == "Healthcheck" && strings.Contains(host, "podman") {
					t.Skip("podman commit takes no HEALTHCHECK without systemd to run it")
				}
				before := volumes(t, host)
				img := deriveImage(t, host, c.prepare, c.changes...)
				b := openBackend(t, host, func(_ *backends.Spec, o *Options) { o.Image = img })
				s := create(t, b)
				if got, _ := sh(t, s, c.command); got != c.want {
					t.Errorf("%s: got %q, want %q", c.command, got, c.want)
				}
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
				if n := volumes(t, host); n > before {
					t.Errorf("%d anonymous volumes are left", n-before)
				}
			})
		}
		t.Run("Scratch", func(t *testing.T) {
			b := openBackend(t, host, func(_ *backends.Spec, o *Options) {
				o.Image = importImage(t, host, map[string][]byte{"hello": staticProgram(t)})
			})
			s := create(t, b)
			var out, errs bytes.Buffer
			exit, err := s.Exec(t.Context(), backends.Exec{Args: []string{"/hello"}, Stdout: &out, Stderr: &errs})
			if out.String() != "hello\n" || exit.Code != 0 || err != nil {
				t.Errorf("got %q, %v, %v", out.String(), exit, err)
			}
			exit, err = s.Exec(t.Context(), backends.Exec{Command: "true", Stderr: &errs})
			if exit.Code != 127 || err != nil || !strings.Contains(errs.String(), "shell") {
				t.Errorf("a command without a shell: got %q, %v, %v", errs.String(), exit, err)
			}
		})
		t.Run("ForeignArchitecture", func(t *testing.T) {
			img := importForeign(t, host)
			b := openBackend(t, host, func(_ *backends.Spec, o *Options) { o.Image = img })
			if s, err := b.Create(t.Context()); err == nil {
				s.Close(context.Background())
				t.Error("made a sandbox of an image for another machine")
			} else if !strings.Contains(err.Error(), "name an image for") {
				t.Errorf("got %v", err)
			}
			if err := b.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "name an image for") {
				t.Errorf("Check: got %v", err)
			}
		})
	})
}

// staticProgram is a program that says hello and needs nothing of its image.
func staticProgram(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	src := "package main\n\nimport \"os\"\n\nfunc main() { os.Stdout.WriteString(\"hello\\n\") }\n"
	if err := os.WriteFile(filepath.Join(dir, "hello.go"), []byte(src), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", "hello", "hello.go")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	bin, err := os.ReadFile(filepath.Join(dir, "hello"))
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// importForeign makes an image that says it is for s390x.
func importForeign(t testing.TB, host string) string {
	t.Helper()
	c := dockertest.Client(t, host)
	name := fmt.Sprintf("kilntainers-test/%x:1", rand.Uint64())
	body, err := c.ImageLoad(context.Background(), savedImage(t, name, "s390x"))
	if err != nil {
		t.Fatal(err)
	}
	defer body.Body.Close()
	if out, _ := io.ReadAll(body.Body); bytes.Contains(out, []byte("errorDetail")) {
		t.Fatalf("load: %s", out)
	}
	removeImage(t, host, name)
	return name
}

// savedImage is an image as docker save writes it: one empty layer, for an
// architecture of choice.
func savedImage(t testing.TB, name, arch string) io.Reader {
	t.Helper()
	var layer bytes.Buffer
	if err := tar.NewWriter(&layer).Close(); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{"architecture":%q,"os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]},"history":[{"created":"2024-01-01T00:00:00Z"}]}`,
		arch, sha256.Sum256(layer.Bytes()))
	manifest := fmt.Sprintf(`[{"Config":"config.json","RepoTags":[%q],"Layers":["layer.tar"]}]`, name)

	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range []struct {
		name string
		data []byte
	}{{"manifest.json", []byte(manifest)}, {"config.json", []byte(config)}, {"layer.tar", layer.Bytes()}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			t.Fatal(err)
		}
		w.Write(f.data)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &archive
}

// TestLimits: what the profile and its flags ask for is in force inside.
func TestLimits(t *testing.T) {
	onEachEngine(t, func(t *testing.T, host string) {
		b := openBackend(t, host, func(s *backends.Spec, o *Options) {
			s.Dir = "/made/for/it"
			s.Env = map[string]string{"SECRET": "x"}
			o.ReadOnly = true
			o.Memory, o.PidsLimit, o.CPU = 64<<20, 50, 5e8
			o.Tmpfs = []string{"/tmp:4m", "/run"}
			o.DockerRunFlags = []string{"--hostname=box", "--cap-add=chown", "-e", "FLAG=1", "--shm-size=1m"}
		})
		s := create(t, b)
		for _, c := range []struct{ command, want string }{
			{`pwd`, "/made/for/it\n"},
			{`echo $SECRET$FLAG; hostname`, "x1\nbox\n"},
			{`touch /x`, "touch: cannot touch '/x': Read-only file system\n"},
			{`touch /.kilntainers/x 2>&1 | grep -o 'Read-only.*'; ls /.kilntainers`, "Read-only file system\nkilntainers-init\n"},
			{`dd if=/dev/zero of=/tmp/x bs=1M count=10 2>&1 | grep -o 'No space left.*'; rm /tmp/x`, "No space left on device\n"},
			{`df --output=size -m /run | tail -1 | tr -d ' '`, "32\n"},
			{`cp /bin/true /tmp/t && /tmp/t && echo runs`, "runs\n"},
			{`grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status | tr -d '\t'`, "CapEff:" + capsOf(host) + "\nNoNewPrivs:1\nSeccomp:2\n"},
			{`ls /sys/class/net`, "lo\n"},
			{`cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null`, "67108864\n"},
			{`cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null`, "50\n"},
			{`cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max`, "50000\n"},
			{`cat /proc/1/environ 2>&1 | grep -c SECRET`, "0\n"},
		} {
			if got, _ := sh(t, s, c.command); got != c.want {
				t.Errorf("%s: got %q, want %q", c.command, got, c.want)
			}
		}
		// Names cost memory too, so there is an end to them. Podman knows none.
		if got, _ := sh(t, s, `seq -f /run/%.0f 20000 | xargs touch 2>&1 | grep -o -m 1 'No space left.*'; ls /run | wc -l`); got != "No space left on device\n16383\n" && !strings.Contains(host, "podman") {
			t.Errorf("a full directory: got %q", got)
		}
		// The profile's variables are not for whoever may inspect.
		in, err := b.engines[0].ContainerInspect(t.Context(), s.id)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(in.Config.Env, "SECRET=x") {
			t.Error("the engine shows the profile's variables")
		}
	})
}

// capsOf is what root has of capabilities in TestLimits: chown, and on Podman
// what it needs to write to its root directory.
func capsOf(host string) string {
	if strings.Contains(host, "podman") {
		return "0000000000000003"
	}
	return "0000000000000001"
}

// TestNetwork: network = true gives a network, and the flags choose which.
func TestNetwork(t *testing.T) {
	host := dockertest.Docker(t)
	b := openBackend(t, host, func(s *backends.Spec, o *Options) {
		s.Network = true
		o.DockerRunFlags = []string{"--add-host=else.where:192.0.2.7"}
	})
	s := create(t, b)
	if got, _ := sh(t, s, `ls /sys/class/net | tr '\n' ' '; getent hosts else.where`); got != "eth0 lo 192.0.2.7       else.where\n" {
		t.Errorf("got %q", got)
	}
}

// TestDisk: a profile that passes the check gets its sandbox, on an engine that
// limits disk space and on one that does not.
func TestDisk(t *testing.T) {
	onEachEngine(t, func(t *testing.T, host string) {
		info, err := dockertest.Client(t, host).Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b := openBackend(t, host, func(_ *backends.Spec, o *Options) { o.Disk = 1 << 30 })
		checked := b.Check(t.Context())
		s, made := b.Create(t.Context())
		if made == nil {
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if made != nil && checked == nil && backing(info) != "xfs" { // with xfs, only Create can tell
			t.Errorf("Check finds nothing, and Create says %v", made)
		}
		if made == nil && checked != nil {
			t.Errorf("Check says %v, and Create makes a sandbox", checked)
		}
	})
}

// TestHostile: what goes on inside, or is done from outside, ends in time, is
// told for what it is, and leaves nothing.
func TestHostile(t *testing.T) {
	onEachEngine(t, func(t *testing.T, host string) {
		c := dockertest.Client(t, host)
		b := openBackend(t, host, func(_ *backends.Spec, o *Options) {
			o.Memory, o.PidsLimit = 96<<20, 100
			o.DockerRunFlags = []string{"--tmpfs=/big:size=1g"}
		})
		// gone waits for the end of s, and checks the reason.
		gone := func(t *testing.T, s *sandbox, want string) {
			t.Helper()
			select {
			case <-s.Done():
			case <-time.After(time.Minute):
				t.Fatal("the sandbox does not end")
			}
			var g *backends.GoneError
			if err := s.Err(); !errors.Is(err, backends.ErrGone) || !errors.As(err, &g) {
				t.Errorf("got %v, want a GoneError", err)
			} else if !strings.Contains(g.Reason, want) {
				t.Errorf("got the reason %q (%v), want %q", g.Reason, g.Err, want)
			}
			if left := leftovers(t, host, b.spec.Owner.Instance); len(left) > 0 {
				t.Errorf("Done is closed, and there is %q", left)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Errorf("Close: %v", err)
			}
			if _, err := s.Exec(t.Context(), backends.Exec{Command: "true"}); !errors.Is(err, backends.ErrGone) {
				t.Errorf("Exec: got %v, want ErrGone", err)
			}
		}
		for _, k := range []struct {
			name, want string
			do         func(id string) error
		}{
			{"Removed", "from outside", func(id string) error {
				return c.ContainerRemove(t.Context(), id, container.RemoveOptions{Force: true})
			}},
			{"Killed", "from outside", func(id string) error { return c.ContainerKill(t.Context(), id, "KILL") }},
			{"Stopped", "from outside", func(id string) error { return c.ContainerStop(t.Context(), id, container.StopOptions{}) }},
			{"FirstProcessKilled", "it was killed from outside or for memory (limit 96m)", func(id string) error { return signalFirst(t, c, id, syscall.SIGKILL) }},
		} {
			t.Run(k.name, func(t *testing.T) {
				s := create(t, b)
				running := make(chan error, 1)
				go func() {
					_, err := s.Exec(t.Context(), backends.Exec{Command: "sleep 300"})
					running <- err
				}()
				if err := k.do(s.id); err != nil {
					t.Fatal(err)
				}
				gone(t, s, k.want)
				if err := <-running; !errors.Is(err, backends.ErrGone) {
					t.Errorf("a running command: got %v, want ErrGone", err)
				}
			})
		}
		t.Run("FirstProcessHalted", func(t *testing.T) {
			s := create(t, b)
			if err := signalFirst(t, c, s.id, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			if _, err := s.Exec(ctx, backends.Exec{Command: "sleep 300"}); err == nil {
				t.Error("got no error")
			}
			gone(t, s, "")
		})
		t.Run("OutOfMemory", func(t *testing.T) {
			// A file in memory outlives the commands that are killed for it, so
			// in the end the first process has to go.
			s := create(t, b)
			for range 50 {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				_, err := s.Exec(ctx, backends.Exec{Command: "cat /dev/zero >> /big/x"})
				cancel()
				if errors.Is(err, backends.ErrGone) {
					break
				}
			}
			select {
			case <-s.Done():
				gone(t, s, "it ran out of memory (limit 96m)")
			default: // the kernel always found something else to kill
				if got, _ := sh(t, s, "rm /big/x; echo ok"); got != "ok\n" {
					t.Errorf("got %q", got)
				}
			}
		})
		t.Run("CommandsOutOfMemory", func(t *testing.T) {
			s := create(t, b)
			var out bytes.Buffer
			exit, err := s.Exec(t.Context(), backends.Exec{Command: "tail /dev/zero", Stdout: &out, Stderr: &out})
			if exit.Code != 137 || !exit.OOM || err != nil {
				t.Errorf("got %+v, %v, want 137 for memory", exit, err)
			}
			if got, _ := sh(t, s, "echo ok"); got != "ok\n" {
				t.Errorf("afterwards: got %q", got)
			}
		})
		t.Run("RemovedAfterOutOfMemory", func(t *testing.T) {
			s := create(t, b)
			if _, exit := sh(t, s, "head -c 300m /dev/zero | tail | wc -c"); !exit.OOM {
				t.Errorf("got %+v, want something killed for memory", exit)
			}
			if got, _ := sh(t, s, "echo ok"); got != "ok\n" {
				t.Errorf("afterwards: got %q", got)
			}
			if err := c.ContainerRemove(t.Context(), s.id, container.RemoveOptions{Force: true}); err != nil {
				t.Fatal(err)
			}
			gone(t, s, "from outside")
		})
		t.Run("TmpFull", func(t *testing.T) {
			s := create(t, b)
			if got, exit := sh(t, s, "cat /dev/zero > /tmp/x"); !strings.Contains(got, "No space left on device") || exit.Code == 0 {
				t.Errorf("got %q, %v", got, exit)
			}
			if got, _ := sh(t, s, "rm /tmp/x; echo ok"); got != "ok\n" {
				t.Errorf("afterwards: got %q", got)
			}
		})
		t.Run("ForkBomb", func(t *testing.T) {
			s := create(t, b)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := s.Exec(ctx, backends.Exec{Command: "b() { b | b & }; b; wait; sleep 300"}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the deadline", err)
			}
			// The agent, its supervisor, the shell, ls and wc, where they have begun.
			if got, _ := sh(t, s, "sleep 0.5; ls -d /proc/[0-9]* | wc -l"); got != "5\n" && got != "4\n" {
				t.Errorf("processes afterwards, with those five that count: got %q", got)
			}
		})
		t.Run("EndlessOutput", func(t *testing.T) {
			s := create(t, b)
			enough := errors.New("enough")
			if _, err := s.Exec(t.Context(), backends.Exec{Command: "yes & yes >&2", Stdout: &limited{8 << 20, enough}, Stderr: io.Discard}); !errors.Is(err, enough) {
				t.Errorf("got %v, want the writer's error", err)
			}
			if got, _ := sh(t, s, "echo ok"); got != "ok\n" {
				t.Errorf("afterwards: got %q", got)
			}
		})
	})
}

// signalFirst sends a signal to a container's first process from this host.
func signalFirst(t testing.TB, c *client.Client, id string, sig syscall.Signal) error {
	in, err := c.ContainerInspect(t.Context(), id)
	if err != nil {
		return err
	}
	if in.State.Pid <= 1 {
		return fmt.Errorf("the engine says that its process is %d", in.State.Pid)
	}
	return syscall.Kill(in.State.Pid, sig)
}

// limited fails when it got more than n bytes.
type limited struct {
	n   int
	err error
}

func (l *limited) Write(p []byte) (int, error) {
	if l.n -= len(p); l.n < 0 {
		return 0, l.err
	}
	return len(p), nil
}

// TestManySandboxes: 32 at once, and afterwards none.
func TestManySandboxes(t *testing.T) {
	onEachEngine(t, func(t *testing.T, host string) {
		b := openBackend(t, host, func(_ *backends.Spec, o *Options) { o.Memory = 64 << 20 })
		var wg sync.WaitGroup
		limit := make(chan struct{}, 4)
		all := make([]backends.Sandbox, 32)
		for i := range all {
			wg.Go(func() {
				limit <- struct{}{}
				defer func() { <-limit }()
				s, err := b.Create(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				all[i] = s
				var out bytes.Buffer
				if _, err := s.Exec(t.Context(), backends.Exec{Command: "echo $$", Stdout: &out}); err != nil || out.Len() == 0 {
					t.Errorf("got %q, %v", out.String(), err)
				}
			})
		}
		wg.Wait()
		if n := b.engines[0].live; n != len(all) {
			t.Errorf("the engine counts %d sandboxes, want %d", n, len(all))
		}
		for _, s := range all {
			if s != nil {
				wg.Go(func() {
					if err := s.Close(context.Background()); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		if n := b.engines[0].live; n != 0 {
			t.Errorf("the engine counts %d sandboxes, want 0", n)
		}
	})
}

// TestDaemonKilled: when the daemon is killed, the kernel closes the stream,
// and the container goes, with its anonymous volumes.
func TestDaemonKilled(t *testing.T) {
	onEachEngine(t, func(t *testing.T, host string) {
		before := volumes(t, host)
		img := deriveImage(t, host, "true", "VOLUME /data")
		instance := fmt.Sprintf("test-%x", rand.Uint64())
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "KILNTAINERS_TEST_DAEMON="+strings.Join([]string{host, img, instance}, " "))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		line, err := bufio.NewReader(out).ReadString('\n')
		if line != "ready\n" || err != nil {
			cmd.Process.Kill()
			t.Fatalf("got %q, %v", line, err)
		}
		if left := leftovers(t, host, instance); len(left) != 1 {
			t.Errorf("got %q, want one container", left)
		}
		cmd.Process.Kill()
		deadline := time.Now().Add(time.Minute)
		for len(leftovers(t, host, instance)) > 0 {
			if time.Now().After(deadline) {
				t.Fatal("the container outlives the daemon")
			}
			time.Sleep(20 * time.Millisecond)
		}
		if n := volumes(t, host); n > before {
			t.Errorf("%d anonymous volumes are left", n-before)
		}
	})
}

// testDaemon makes a sandbox, runs something in it, and waits to be killed.
func testDaemon(words string) int {
	w := strings.Fields(words)
	o := defaults()
	o.DockerHost, o.Image = Hosts{w[0]}, w[1]
	b, err := Driver.Open(backends.Spec{Profile: "test", Owner: backends.Owner{Instance: w[2], Boot: "1"}}, o, discard)
	if err == nil {
		var s backends.Sandbox
		if s, err = b.Create(context.Background()); err == nil {
			go s.Exec(context.Background(), backends.Exec{Command: "setsid sleep 300 & sleep 300"})
			fmt.Println("ready")
			select {}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// TestSweepCreated: a container that was made and never started is swept, as
// is one of an earlier boot that still runs; those of others stay.
func TestSweepCreated(t *testing.T) {
	onEachEngine(t, func(t *testing.T, host string) {
		b := openBackend(t, host, nil)
		s := create(t, b)
		e := b.engines[0]
		for _, boot := range []string{"1", "2"} {
			spec := b.spec
			spec.Owner.Boot = boot
			name := b.newName()
			req := newRequest(spec, b.options, name)
			if k, err := e.what(t.Context()); err != nil {
				t.Fatal(err)
			} else if k.podman {
				req.forPodman(b.flags, "")
			}
			if _, err := e.create(t.Context(), req, name); err != nil {
				t.Fatal(err)
			}
			defer e.remove(context.Background(), name)
		}
		stranger := openBackend(t, host, nil)
		other := create(t, stranger)

		found, err := Driver.Sweep(t.Context(), backends.Sweep{
			Owner:   backends.Owner{Instance: b.spec.Owner.Instance, Boot: "2"},
			Options: []backends.Options{b.options},
			Log:     discard,
		})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, l := range found {
			if l.Kind == "container" && l.Profile == "test" && l.Removed {
				n++
			}
		}
		if n != 2 {
			t.Errorf("got %+v, want two containers", found)
		}
		if left := leftovers(t, host, b.spec.Owner.Instance); len(left) != 1 {
			t.Errorf("left are %q, want the one of this boot", left)
		}
		select {
		case <-s.Done():
		case <-time.After(time.Minute):
			t.Error("the swept sandbox lives")
		}
		if got, _ := sh(t, other, "echo ok"); got != "ok\n" {
			t.Errorf("another's sandbox: got %q", got)
		}
	})
}

// TestAgentBroughtAtOnce: backends that find no agent all bring it at once.
func TestAgentBroughtAtOnce(t *testing.T) {
	onEachEngine(t, func(t *testing.T, host string) {
		c := dockertest.Client(t, host)
		var all []*Backend
		for range 4 {
			all = append(all, openBackend(t, host, nil))
		}
		if err := c.VolumeRemove(t.Context(), agentVolume(), false); err != nil && !errdefs.IsNotFound(err) {
			t.Skipf("others use the volume of the agent on this engine right now: %v", err)
		}
		var wg sync.WaitGroup
		for _, b := range all {
			wg.Go(func() {
				s, err := b.Create(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if err := s.Close(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

// TestAgentVolumeRemoved: a volume that was removed between two sandboxes is
// filled again.
func TestAgentVolumeRemoved(t *testing.T) {
	onEachEngine(t, func(t *testing.T, host string) {
		img := dockertest.Image(t, host)
		b := openBackend(t, host, func(_ *backends.Spec, o *Options) { o.Image = img })
		first, err := b.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := first.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := dockertest.Client(t, host)
		if err := c.VolumeRemove(t.Context(), agentVolume(), false); err != nil {
			t.Skipf("others use the volume of the agent on this engine right now: %v", err)
		}
		s := create(t, b)
		if got, _ := sh(t, s, "echo ok"); got != "ok\n" {
			t.Errorf("got %q", got)
		}
	})
}
