//go:build !nomodal

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends/e2b/e2btest"
	"github.com/kilntainers/kilntainers/backends/modal/modaltest"
)

// A secretive is a daemon that holds all credentials there are: those of two
// clouds, good ones and such as are refused, and a token of its own for TCP.
type secretive struct {
	*testing.T
	dir, program, client, socket string
	secrets                      map[string]string // what they are: what must not be said
	e2b                          *e2btest.Service
	cmd                          *exec.Cmd
	ended                        chan struct{} // closed when stderr is whole
	stderr                       bytes.Buffer
	said                         map[string]string // by where
}

// buildSecretive builds the daemon and its client.
func buildSecretive(t *testing.T) (bin string) {
	t.Helper()
	bin = t.TempDir()
	if out, err := exec.Command("go", "build", "-o", bin, ".", "../kilntainers").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

func newSecretive(t *testing.T, bin string) *secretive {
	t.Helper()
	dir, err := os.MkdirTemp("", "kiln")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	m := modaltest.Start(t)
	d := &secretive{T: t, dir: dir, program: filepath.Join(bin, "kilntainersd"), client: filepath.Join(bin, "kilntainers"),
		socket: filepath.Join(dir, "k.sock"), e2b: e2btest.New(t), said: map[string]string{},
		secrets: map[string]string{
			"E2B's key":                   e2btest.Key,
			"a key that is refused":       "e2b_5ecre75ecre75ecre7",
			"a key that is malformed":     "e2b_5ecre8 and more",
			"the id of a token":           m.TokenID,
			"its secret":                  m.TokenSecret,
			"the id of one refused":       "ak-5ecre75ecre75ecre7",
			"its secret, refused":         "as-5ecre75ecre75ecre7",
			"a token for TCP":             "7c95ecre7c95ecre7c95ecre7c95ecre",
			"Modal's own tokens, as JSON": "e30.ey",
		}}
	for name, text := range map[string]string{"key": e2btest.Key, "tcp": d.secrets["a token for TCP"]} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.configure("")
	return d
}

func (d *secretive) configure(more string) {
	d.Helper()
	text := strings.NewReplacer("DIR", d.dir, "URL", d.e2b.URL, "ID", d.secrets["the id of a token"], "SECRET", d.secrets["its secret"]).Replace(`
[daemon]
listen = ["unix:DIR/k.sock", "tcp:127.0.0.1:0"]
state_dir = "DIR/state"
cache_dir = "DIR/cache"
[tokens.laptop]
file = "DIR/tcp"
profiles = ["*"]
[profiles.cloud]
backend = "e2b"
api_url = "URL"
sandbox_url = "URL"
e2b_api_key_file = "DIR/key"
[profiles.refused]
backend = "e2b"
api_url = "URL"
sandbox_url = "URL"
e2b_api_key = "e2b_5ecre75ecre75ecre7"
[profiles.modal]
backend = "modal"
modal_token_id = "ID"
modal_token_secret = "SECRET"
[profiles.modal-refused]
backend = "modal"
modal_token_id = "ak-5ecre75ecre75ecre7"
modal_token_secret = "as-5ecre75ecre75ecre7"
`) + more
	file := filepath.Join(d.dir, "k.toml")
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		d.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		d.Fatal(err)
	}
}

// start starts the daemon, which may write a core as far as it was started.
func (d *secretive) start(env string, flags ...string) {
	d.Helper()
	d.cmd = exec.Command("sh", append([]string{"-c", `ulimit -c unlimited; exec "$0" "$@"`, d.program, "--config", filepath.Join(d.dir, "k.toml")}, flags...)...)
	d.cmd.Env = append(os.Environ(), env)
	d.cmd.Dir = d.dir
	d.cmd.Stderr = &d.stderr
	if err := d.cmd.Start(); err != nil {
		d.Fatal(err)
	}
	d.ended = make(chan struct{})
	go func() { _ = d.cmd.Wait(); close(d.ended) }()
	d.Cleanup(func() { _ = d.cmd.Process.Kill(); <-d.ended })
	for until := time.Now().Add(30 * time.Second); d.get("/-/ready") != "ready\n"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			d.Fatal("the daemon does not start")
		}
	}
}

// get asks the daemon, as a client of its status or metrics does.
func (d *secretive) get(path string) string {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", d.socket)
	}}}
	res, err := c.Get("http://kilntainers" + path)
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	return string(text)
}

// overTCP asks for a page with a token.
func (d *secretive) overTCP(token string) (said string) {
	d.Helper()
	_, address, ok := strings.Cut(d.get("/-/status"), `"tcp:`)
	if !ok {
		d.Fatal("the daemon does not listen on TCP")
	}
	address, _, _ = strings.Cut(address, `"`)
	req, err := http.NewRequest(http.MethodGet, "http://"+address+"/-/status", nil)
	if err != nil {
		d.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		d.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	return fmt.Sprint(res.Status, res.Header, string(text))
}

// run runs the client; how it ends is of no interest here.
func (d *secretive) run(args ...string) string {
	cmd := exec.Command(d.client, append([]string{"--socket", d.socket}, args...)...)
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// abort has the daemon tell what all its goroutines do, and die.
func (d *secretive) abort() syscall.WaitStatus {
	d.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGABRT); err != nil {
		d.Fatal(err)
	}
	select {
	case <-d.ended:
	case <-time.After(30 * time.Second):
		d.Fatal("the daemon does not die")
	}
	return d.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// No credential is told by the daemon: not in its log, at any level; not in
// what it answers to operators, to agents and to whoever scrapes it; not to the
// services, but where it belongs; and not in the dump of its goroutines.
func TestCredentialsAreNotTold(t *testing.T) {
	bin := buildSecretive(t)
	for i, level := range []string{"debug", "info", "warn", "error"} {
		t.Run(level, func(t *testing.T) {
			d := newSecretive(t, bin)
			d.start("GOTRACEBACK=all", "--log-level", level, "--log-format", []string{"json", "text"}[i%2])
			for _, profile := range []string{"cloud", "refused", "modal", "modal-refused"} {
				d.said["exec in "+profile] = d.run("exec", "-P", profile, "--", "sh", "-c", "env; cat /proc/$PPID/cmdline")
			}
			for what, want := range map[string]string{"cloud": "HOME=", "refused": "API key was refused", "modal": "HOME=", "modal-refused": "refuses the token"} {
				if !strings.Contains(d.said["exec in "+what], want) {
					t.Errorf("this tests too little: %s: %.300q", what, d.said["exec in "+what])
				}
			}
			busy := exec.Command(d.client, "--socket", d.socket, "exec", "-P", "cloud", "--", "sleep", "60")
			if err := busy.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = busy.Process.Kill(); _ = busy.Wait() }()
			for !strings.Contains(d.run("ps"), "cloud") {
				time.Sleep(10 * time.Millisecond)
			}
			for _, s := range d.e2b.Sandboxes("kilntainers", "true") {
				d.secrets["the token of a sandbox"] = s.Token
				d.said["metadata"] = fmt.Sprint(s.Metadata)
			}
			if d.secrets["the token of a sandbox"] == "" {
				t.Error("this tests too little: there is no sandbox")
			}
			d.configure("[profiles.bad]\nbackend = \"e2b\"\ne2b_api_key = \"e2b_5ecre8 and more\"\ne2b_template = \"e2b_5ecre8 and\"\n")
			d.said["reload"] = d.run("reload")
			d.said["a wrong configuration"] = d.check()
			for _, args := range [][]string{{"check", "--json"}, {"ps", "--json"}, {"profiles", "--json"}, {"profiles"}} {
				d.said[strings.Join(args, " ")] = d.run(args...)
			}
			for _, path := range []string{"/-/status", "/-/metrics"} {
				if d.said[path] = d.get(path); len(d.said[path]) < 100 {
					t.Errorf("this tests too little: %s: %q", path, d.said[path])
				}
			}
			for what, token := range map[string]string{"200 OK": d.secrets["a token for TCP"], "401 ": d.secrets["a token for TCP"] + "0"} {
				if d.said["TCP: "+what] = d.overTCP(token); !strings.HasPrefix(d.said["TCP: "+what], what) {
					t.Errorf("this tests too little: %.200q", d.said["TCP: "+what])
				}
			}
			if status := d.abort(); !status.Exited() || status.CoreDump() {
				t.Errorf("the daemon ended with %#x", status)
			}
			d.said["stderr"] = d.stderr.String()
			if !strings.Contains(d.said["stderr"], "SIGABRT") || strings.Count(d.said["stderr"], "goroutine ") < 10 {
				t.Errorf("this tests too little: stderr is %.300q", d.said["stderr"])
			}
			for _, r := range d.e2b.Requests("") {
				for name, values := range r.Header {
					if name != "X-Api-Key" && name != "X-Access-Token" {
						d.said["a request"] += fmt.Sprint(r.Route, r.Query, values, r.Body)
					}
				}
			}
			d.look()
		})
	}
}

// check is what kilntainersd says of the file.
func (d *secretive) check() string {
	out, _ := exec.Command(d.program, "check", "--config", filepath.Join(d.dir, "k.toml")).CombinedOutput()
	return string(out)
}

// look looks for the secrets in all that was said, and in the files that others
// can read.
func (d *secretive) look() {
	d.Helper()
	err := filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			text, _ := os.ReadFile(path)
			d.said["the file "+path] = string(text)
		}
		return err
	})
	if err != nil {
		d.Error(err)
	}
	for what, secret := range d.secrets {
		for where, text := range d.said {
			if i := strings.Index(text, secret); i >= 0 {
				d.Errorf("%s is in %s: …%s", what, where, text[max(0, i-80):min(len(text), i+80)])
			}
		}
	}
}

// The daemon dies without a core, also where cores are written and Go is told
// to write one.
func TestNoCore(t *testing.T) {
	control := exec.Command("sh", "-c", `ulimit -c unlimited && kill -ABRT $$`)
	control.Dir = t.TempDir()
	_ = control.Run()
	if status := control.ProcessState.Sys().(syscall.WaitStatus); !status.CoreDump() {
		t.Skipf("no program writes a core here: sh ended with %#x; allow it (ulimit -Hc) to try it out", status)
	}
	d := newSecretive(t, buildSecretive(t))
	d.start("GOTRACEBACK=crash")
	if status := d.abort(); !status.Signaled() || status.CoreDump() {
		t.Errorf("the daemon ended with %#x", status)
	}
	if cores, _ := filepath.Glob(filepath.Join(d.dir, "core*")); len(cores) > 0 {
		t.Errorf("there is %q", cores)
	}
}
