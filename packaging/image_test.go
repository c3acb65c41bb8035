package packaging

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends/docker/dockertest"
)

// The image of the daemon, run as contrib/docs/container.md says: clients on
// the host use it through its socket, its sandboxes are containers beside it,
// and nothing of them is left after docker stop.
func TestImage(t *testing.T) {
	need(t, "docker", "docker.io")
	host := dockertest.Docker(t)
	engine, local := strings.CutPrefix(host, "unix://")
	if !local {
		t.Skipf("needs an engine on this machine, not %s", host)
	}
	base := dockertest.Image(t, host)
	programs, _ := docs(t)
	docker := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // also in Cleanup
		defer cancel()
		cmd := exec.CommandContext(ctx, "docker", append([]string{"--host", host}, args...)...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("docker %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
		}
		return strings.TrimSpace(string(out))
	}

	dir, err := os.MkdirTemp("", "kiln") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	name := filepath.Base(dir)
	image := "kilntainers-test:" + name
	docker("build", "--quiet", "--network", "none", "--build-arg", "BASE="+base, "--tag", image, "--file", "Dockerfile", programs)
	if t.Failed() {
		return
	}
	t.Cleanup(func() { docker("rmi", "--force", image) })

	conf := fmt.Sprintf("[profiles.box]\nbackend = \"docker\"\nimage = %q\npull = \"never\"\n[profiles.scratch]\nbackend = \"go_busybox\"\n", base)
	for _, d := range []string{"etc", "run"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/etc/kilntainers.toml", []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	id := docker("run", "--detach", "--name", name, "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only",
		"--network", "none", "--user", fmt.Sprintf("0:%d", os.Getgid()),
		"--volume", dir+"/run:/run/kilntainers", "--volume", dir+"/etc:/etc/kilntainers:ro", "--volume", engine+":/var/run/docker.sock", image)
	if t.Failed() {
		return
	}
	t.Cleanup(func() { docker("rm", "--force", "--volumes", id) })

	socket := dir + "/run/kilntainers.sock"
	t.Setenv("KILNTAINERS_SOCKET", socket)
	kilntainers := func(args ...string) (string, error) {
		out, err := exec.Command(programs+"/kilntainers", args...).CombinedOutput()
		return string(out), err
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, err := kilntainers("version"); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the daemon does not serve:\n%s", docker("logs", id))
		}
	}
	if got, err := kilntainers("exec", "-P", "box", "-c", "echo $((6 * 7)); id -u"); err != nil || got != "42\n0\n" {
		t.Errorf("in a container: got %q, %v", got, err)
	}
	if got, err := kilntainers("exec", "-P", "scratch", "-c", "seq 3 | wc -l"); err != nil || strings.TrimSpace(got) != "3" {
		t.Errorf("in go_busybox: got %q, %v", got, err)
	}

	// One that is in use when the daemon is stopped.
	client := exec.Command(programs+"/kilntainers", "exec", "-P", "box", "-c", "sleep 600")
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	instance := "label=kilntainers.instance=" + instanceOf(t, socket)
	for end := time.Now().Add(time.Minute); docker("ps", "--quiet", "--filter", instance) == ""; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("there is no sandbox")
		}
	}
	docker("stop", "--time", "30", id)
	if err := client.Wait(); err == nil {
		t.Error("the command of a stopped daemon ended well")
	}
	if left := docker("ps", "--all", "--quiet", "--filter", instance); left != "" {
		t.Errorf("docker stop left %q", left)
	}
	if code := docker("inspect", "--format", "{{.State.ExitCode}}", id); code != "0" {
		t.Errorf("the daemon exited with %s:\n%s", code, docker("logs", id))
	}
}

// instanceOf asks the daemon who it is.
func instanceOf(t *testing.T, socket string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	res, err := client.Get("http://kilntainers/-/status")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var status struct{ Instance string }
	if err := json.NewDecoder(res.Body).Decode(&status); err != nil || status.Instance == "" {
		t.Fatalf("got status %+v, %v", status, err)
	}
	return status.Instance
}
