package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kilntainers/kilntainers/backends/backendtest"
	"github.com/kilntainers/kilntainers/backends/docker/dockertest"
	"github.com/kilntainers/kilntainers/daemon"
	"github.com/kilntainers/kilntainers/profiles"
)

// The stories in testdata tell the product: the real daemon, the real shim
// and the real operator's command, with one more backend, "fake", whose
// sandboxes are directories and whose commands are processes of this machine.

// testJournal names the variable with the socket of a fake journal.
const testJournal = "KILNTAINERS_TEST_JOURNAL"

func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){"kilntainersd": func() {
		if path := os.Getenv(testJournal); path != "" {
			journalSocket = path
		}
		drivers = append(drivers, backendtest.NewFake().Driver())
		main()
	}})
}

func TestStories(t *testing.T) { tell(t, "testdata/story", "") }

// The same product on real engines.
func TestEngineStories(t *testing.T) {
	onEngines(t, func(t *testing.T, host string) { tell(t, "testdata/engine", host) })
}

// tell runs the stories of a folder. host is the engine they are about.
func tell(t *testing.T, dir, host string) {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			// A socket's path has at most 107 bytes: not under the work directory.
			run, err := os.MkdirTemp("", "kiln")
			if err != nil {
				return err
			}
			env.Defer(func() { _ = os.RemoveAll(run) })
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("RUN", run)
			env.Setenv("HOST", host)
			env.Setenv("KILNTAINERS_SOCKET", filepath.Join(run, "k.sock"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_CONFIG_HOME", "")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready":      ready,
			"eventually": eventually,
			"config":     config,
			"send":       send,
			"containers": func(ts *testscript.TestScript, _ bool, args []string) {
				containers(ts, dockertest.Client(t, host), true, args[0])
			},
			"running": func(ts *testscript.TestScript, _ bool, args []string) {
				containers(ts, dockertest.Client(t, host), false, args[0])
			},
		},
	})
}

// containers N waits until the engine has N containers of this daemon, in
// whatever state; running N counts those that run.
func containers(ts *testscript.TestScript, c *client.Client, all bool, want string) {
	instance := strings.TrimSpace(ts.ReadFile(filepath.Join(ts.Getenv("RUN"), "state", "instance")))
	var have []container.Summary
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var err error
		have, err = c.ContainerList(context.Background(), container.ListOptions{All: all, Filters: filters.NewArgs(filters.Arg("label", "kilntainers.instance="+instance))})
		ts.Check(err)
		if strconv.Itoa(len(have)) == want {
			return
		}
	}
	ts.Fatalf("there are %d containers, want %s: %v", len(have), want, have)
}

// socketClient speaks HTTP over the daemon's socket.
func socketClient(ts *testscript.TestScript) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", ts.Getenv("KILNTAINERS_SOCKET"))
	}}}
}

// ready waits until the daemon is.
func ready(ts *testscript.TestScript, neg bool, args []string) {
	client := socketClient(ts)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if res, err := client.Get("http://kilntainers/-/ready"); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(end) {
			ts.Fatalf("the daemon does not start")
		}
	}
}

// eventually PATTERN PROGRAM ARG… runs a program until its output matches,
// or with ! until it does not.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	var last string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		_ = ts.Exec(args[1], args[2:]...)
		last = ts.ReadFile("stdout") + ts.ReadFile("stderr")
		if re.MatchString(last) != neg {
			return
		}
	}
	ts.Fatalf("never: %s; the last output was\n%s", args[0], last)
}

// send SIGNAL sends the daemon a signal.
func send(ts *testscript.TestScript, neg bool, args []string) {
	res, err := socketClient(ts).Get("http://kilntainers/-/status")
	ts.Check(err)
	defer res.Body.Close()
	var st daemon.Status
	ts.Check(json.NewDecoder(res.Body).Decode(&st))
	ts.Check(syscall.Kill(st.PID, map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL}[args[0]]))
}

// config FILE TO copies a configuration, whole at once, with a [daemon] table
// for this story on top.
func config(ts *testscript.TestScript, neg bool, args []string) {
	run := ts.Getenv("RUN")
	text := "[daemon]\nlisten = [\"unix:" + run + "/k.sock\"]\nstate_dir = \"" + run + "/state\"\ncache_dir = \"" + run + "/cache\"\n" + strings.ReplaceAll(ts.ReadFile(args[0]), "%HOST%", ts.Getenv("HOST"))
	to := ts.MkAbs(args[1])
	ts.Check(os.WriteFile(to+".new", []byte(text), 0o600))
	ts.Check(os.Rename(to+".new", to))
}

// The profiles of the repository load with the backends of this build.
func TestProfilesLoad(t *testing.T) {
	root := filepath.Join("..", "..")
	files, err := filepath.Glob(filepath.Join(root, "contrib", "profiles", "*.toml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no contributed profiles: %v", err)
	}
	for _, file := range append(files, filepath.Join(root, "kilntainers.example.toml")) {
		_, err := profiles.Load(file, drivers)
		var problems profiles.Problems
		if problems, _ = err.(profiles.Problems); err != nil && !onlyOtherBuilds(problems) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// onlyOtherBuilds reports whether a file is good but for backends that this
// build has not, and modules that are installed where it is used.
func onlyOtherBuilds(ps profiles.Problems) bool {
	for _, p := range ps {
		if !strings.Contains(p.Text, "this build has no backend") && !strings.Contains(p.Text, "/usr/local/lib/kilntainers/") {
			return false
		}
	}
	return len(ps) > 0
}

// The built-in configuration is the one that the interface promises.
func TestBuiltin(t *testing.T) {
	c, err := profiles.Builtin(drivers)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal([]string{c.Profiles["default"].Backend, c.Profiles["debian"].Backend})
	if string(got) != `["go_busybox","docker"]` || len(c.Profiles) != 2 {
		t.Errorf("got %s of %d profiles", got, len(c.Profiles))
	}
}

// Every key of this build's drivers is in the table of keys, and what that
// says of its default is so.
func TestDriverKeys(t *testing.T) {
	for _, d := range drivers {
		known := map[string]profiles.Key{}
		var defaults strings.Builder
		for _, k := range profiles.Keys() {
			if slices.Contains(k.Backends, d.Name) {
				known[k.Name] = k
				if k.Default != "" {
					defaults.WriteString(k.Name + " = " + k.Default + "\n")
				}
			}
		}
		for _, name := range tags(reflect.TypeOf(d.Options()).Elem()) {
			if _, ok := known[name]; !ok {
				t.Errorf("the key %s of backend %s is not in profiles.Keys", name, d.Name)
			}
		}
		dir := t.TempDir()
		module := filepath.Join(dir, "m.wasm")
		if err := os.WriteFile(module, emptyCommand, 0o600); err != nil {
			t.Fatal(err)
		}
		must := ""
		if d.Name == "wasm" {
			must = fmt.Sprintf("wasm_path = %q\n", module)
		}
		load := func(keys string) *profiles.Profile {
			file := filepath.Join(dir, "k.toml")
			if err := os.WriteFile(file, []byte(fmt.Sprintf("[profiles.p]\nbackend = %q\n%s%s", d.Name, must, keys)), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := profiles.Load(file, drivers)
			if err != nil {
				t.Fatal(err)
			}
			return c.Profiles["p"]
		}
		if !load("").Equal(load(defaults.String())) {
			t.Errorf("backend %s: a profile that writes every default is another than one that writes none:\n%s", d.Name, defaults.String())
		}
	}
}

// tags returns the toml names of a struct's fields, those of embedded structs
// too.
func tags(t reflect.Type) (names []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			names = append(names, tags(f.Type)...)
		} else if name, _, _ := strings.Cut(f.Tag.Get("toml"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// emptyCommand is the smallest WASI command: a module that exports a _start
// that does nothing, and its memory.
var emptyCommand = []byte("\x00asm\x01\x00\x00\x00" +
	"\x01\x04\x01\x60\x00\x00" + // type 0: no parameters, no results
	"\x03\x02\x01\x00" + // function 0 is of type 0
	"\x05\x03\x01\x00\x01" + // one memory of one page
	"\x07\x13\x02\x06_start\x00\x00\x06memory\x02\x00" +
	"\x0a\x04\x01\x02\x00\x0b") // the function's body
