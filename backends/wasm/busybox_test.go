package wasm

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/wasm/busybox"
)

// BusyBox has a test suite that knows these tools well. It is GPL and not part
// of this repository: unpack Debian's source package and say where it is.
//
//	apt-get source busybox && BUSYBOX_SRC=$PWD/busybox-1.35.0 make test-busybox
//
// It runs in sandboxes, and on the guest built for this machine, which tells
// whether it is the guest or the kernel that fails. testdata/known-failures.txt
// lists what is known to fail; anything else that fails, and anything on the
// list that passes, fails the test.

// suiteApplets are those whose tests count.
var suiteApplets = strings.Fields("awk cat cp cut diff echo find grep gunzip gzip head ls mkdir mv printf pwd rm rmdir sed sort tail tar tr uniq wc xargs")

func TestBusyBoxSuite(t *testing.T) {
	src := filepath.Join(busyboxSource(t), "testsuite")
	options := optionFlags(src)
	for _, kind := range machines(t) {
		t.Run(kind.name, func(t *testing.T) {
			scores := make([]score, len(suiteApplets))
			onEach(t, kind, len(suiteApplets), func(i int, m machine) error {
				return suite(&scores[i], m, src, suiteApplets[i], options)
			})
			var all score
			for i, s := range scores {
				t.Logf("%-8s %3d pass %3d fail", suiteApplets[i], len(s.ran)-len(s.failed), len(s.failed))
				all.ran, all.failed = append(all.ran, s.ran...), append(all.failed, s.failed...)
			}
			all.judge(t, kind.name, "BusyBox's test suite", 90)
		})
	}
}

// suite runs what there is for one applet: a script that reports as it goes,
// and scripts that succeed or fail.
func suite(s *score, m machine, src, applet, options string) error {
	config := strings.ReplaceAll(strings.Trim(options, ":"), ":", "=y\n")
	if err := errors.Join(m.put("suite", os.DirFS(src)), m.put("suite", fstest.MapFS{".config": {Data: []byte(config)}})); err != nil {
		return err
	}
	dir := m.dir("suite")
	env := map[string]string{"PATH": m.path(), "OPTIONFLAGS": options, "ECHO": "echo", "bindir": dir, "tsdir": dir, "d": dir, "SKIP": "", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
	if _, err := os.Stat(filepath.Join(src, applet+".tests")); err == nil {
		out, _ := m.run("suite", env, 3*time.Minute, "sh", "./"+applet+".tests")
		for line := range strings.Lines(out) {
			verdict, name, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if verdict == "PASS" || verdict == "FAIL" {
				s.add("suite "+applet+": "+name, verdict == "PASS")
			}
		}
		if len(s.ran) == 0 && applet != "ls" { // ls.tests wants another configuration
			return fmt.Errorf("%s.tests has no result:\n%s", applet, out)
		}
	}
	old, err := filepath.Glob(filepath.Join(src, applet, "*"))
	for _, o := range old {
		name := filepath.Base(o)
		if err := m.put(name, fstest.MapFS{"empty/x": {}}); err != nil {
			return err
		}
		_, code := m.run(name+"/empty", env, 3*time.Minute, "sh", "-e", "-c", "rm x; . "+filepath.Join(dir, applet, name))
		s.add("suite "+applet+": "+name, code == 0)
	}
	return err
}

func TestBusyBoxAsh(t *testing.T) {
	root := filepath.Join(busyboxSource(t), "shell", "ash_test")
	tests, _ := filepath.Glob(filepath.Join(root, "*", "*.tests"))
	tests = slices.DeleteFunc(tests, func(test string) bool {
		_, err := os.Stat(right(test))
		return err != nil
	})
	for _, kind := range machines(t) {
		t.Run(kind.name, func(t *testing.T) {
			always, _ := knownFailures(t, kind.name)
			passes := make([]bool, len(tests))
			onEach(t, kind, len(tests), func(i int, m machine) error {
				want, err := os.ReadFile(right(tests[i]))
				if err != nil {
					return err
				}
				env := map[string]string{"PATH": m.path(), "THIS_SH": m.shell(), "HOME": "/root", "USER": "root", "CONFIG_FEATURE_FANCY_ECHO": "y"}
				name := ashName(tests[i])
				// Many race against sleeps; on a busy machine one more try is fair.
				for _, dir := range []string{"first", "second"} {
					if err := m.put(dir, os.DirFS(filepath.Dir(tests[i]))); err != nil {
						return err
					}
					got, _ := m.run(dir, env, time.Minute, "ash", "./"+filepath.Base(tests[i]))
					if passes[i] = got == string(want); passes[i] || always[name] {
						break
					}
					t.Logf("%s failed; it wrote:\n%s--- and should have written:\n%s", name, got, want)
				}
				return nil
			})
			var all score
			for i, test := range tests {
				all.add(ashName(test), passes[i])
			}
			all.judge(t, kind.name, "BusyBox's tests of its shell", 80)
		})
	}
}

func right(test string) string { return strings.TrimSuffix(test, ".tests") + ".right" }

func ashName(test string) string {
	return "ash " + filepath.Base(filepath.Dir(test)) + "/" + filepath.Base(test)
}

// onEach calls f for 0 to n-1, each with a machine of its own, some at once:
// many tests do nothing but sleep.
func onEach(t *testing.T, kind machineKind, n int, f func(i int, m machine) error) {
	var all sync.WaitGroup
	defer all.Wait()
	slots := make(chan struct{}, 6)
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			m, err := kind.new()
			if err == nil {
				err = errors.Join(f(i, m), m.close())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func busyboxSource(t *testing.T) string {
	src := os.Getenv("BUSYBOX_SRC")
	if src == "" {
		require(t, "busybox", "set BUSYBOX_SRC to the unpacked source of BusyBox (apt-get source busybox) to run its tests")
	}
	return src
}

// optionFlags turns on every feature that a test asks for.
func optionFlags(dir string) string {
	re := regexp.MustCompile(`(?m)^\s*optional (.*)$`)
	flags := map[string]bool{}
	files, _ := filepath.Glob(filepath.Join(dir, "*.tests"))
	for _, f := range files {
		data, _ := os.ReadFile(f)
		for _, m := range re.FindAllSubmatch(data, -1) {
			for _, f := range strings.Fields(string(m[1])) {
				flags[strings.Trim(f, `"'`)] = true
			}
		}
	}
	return ":" + strings.Join(slices.Sorted(maps.Keys(flags)), ":") + ":"
}

// A score is which tests ran and which of them failed.
type score struct{ ran, failed []string }

func (s *score) add(name string, pass bool) {
	s.ran = append(s.ran, name)
	if !pass {
		s.failed = append(s.failed, name)
	}
}

// judge compares the failures with the list, and the score with what it has to
// be.
func (s *score) judge(t *testing.T, machine, what string, least float64) {
	always, sometimes := knownFailures(t, machine)
	for _, f := range s.failed {
		if !always[f] && !sometimes[f] {
			t.Errorf("fails, and is not in testdata/known-failures.txt: %s", f)
		}
	}
	for _, r := range s.ran {
		if always[r] && !slices.Contains(s.failed, r) {
			t.Errorf("passes; take it out of testdata/known-failures.txt: %s", r)
		}
	}
	pass := len(s.ran) - len(s.failed)
	percent := 100 * float64(pass) / float64(max(len(s.ran), 1))
	t.Logf("%s, %s: %d of %d pass (%.1f %%)", what, machine, pass, len(s.ran), percent)
	if percent < least {
		t.Errorf("%.1f %% is less than %.0f", percent, least)
	}
}

// knownFailures are the tests on the list that fail on a machine always, and
// those that fail sometimes.
func knownFailures(t *testing.T, machine string) (always, sometimes map[string]bool) {
	data, err := os.ReadFile("testdata/known-failures.txt")
	if err != nil {
		t.Fatal(err)
	}
	always, sometimes = map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(string(data)) {
		name, list := strings.TrimSpace(line), always
		if name == "" || name[0] == '#' {
			continue
		}
		if rest, found := strings.CutPrefix(name, "~ "); found {
			name, list = rest, sometimes
		}
		if only, rest, found := strings.Cut(name, "| "); found {
			if only = strings.TrimSpace(only); only != machine {
				continue
			}
			name = rest
		}
		list[name] = true
	}
	return always, sometimes
}

// A machine runs commands on files of its own, in directories by name.
type machine interface {
	path() string           // PATH
	shell() string          // BusyBox's
	dir(name string) string // where a directory is
	put(dir string, files fs.FS) error
	run(dir string, env map[string]string, limit time.Duration, args ...string) (out string, code int)
	close() error
}

type machineKind struct {
	name string
	new  func() (machine, error)
}

// machines are the two kinds that the tests run on. They have programs that
// BusyBox's tests use beside what is tested.
func machines(t *testing.T) []machineKind {
	helpers := strings.Fields("recho zecho printenv")
	build := func(env []string, dir, out string, args ...string) {
		cmd := exec.Command("go", append([]string{"build", "-o", out}, args...)...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, b)
		}
	}
	bin := t.TempDir()
	build(nil, "guest", filepath.Join(bin, "busybox"), ".")
	build(nil, "", filepath.Join(bin, "shelltools"), "./testdata/shelltools")
	for _, name := range append(busybox.Applets(), helpers...) {
		to := "busybox"
		if slices.Contains(helpers, name) {
			to = "shelltools"
			os.Remove(filepath.Join(bin, name))
		}
		if err := os.Symlink(to, filepath.Join(bin, name)); err != nil && name != to {
			t.Fatal(err)
		}
	}
	tools := filepath.Join(t.TempDir(), "recho.wasm")
	build([]string{"GOOS=wasip1", "GOARCH=wasm", "GOFLAGS="}, "", tools, "-ldflags=-s -w", "./testdata/shelltools")
	o := moduleOptions(t, tools)
	o.Commands = map[string]string{"zecho": tools, "printenv": tools}
	be := open(t, "wasm", o, backends.Spec{})
	return []machineKind{
		{"sandbox", func() (machine, error) {
			sb, err := be.Create(t.Context())
			return sandboxMachine{sb}, err
		}},
		{"native", func() (machine, error) {
			root, err := os.MkdirTemp("", "busybox-")
			return nativeMachine{root, bin}, err
		}},
	}
}

type sandboxMachine struct{ sandbox backends.Sandbox }

func (m sandboxMachine) path() string           { return "/usr/local/bin:/bin" }
func (m sandboxMachine) shell() string          { return "/bin/ash" }
func (m sandboxMachine) dir(name string) string { return "/home/" + name }
func (m sandboxMachine) close() error           { return m.sandbox.Close(context.Background()) }

func (m sandboxMachine) run(dir string, env map[string]string, limit time.Duration, args ...string) (string, int) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var out bytes.Buffer
	x, err := m.sandbox.Exec(ctx, backends.Exec{Args: args, Dir: m.dir(dir), Env: env, Stdout: &out, Stderr: &out})
	if err != nil {
		return out.String(), -1
	}
	return out.String(), x.Code
}

func (m sandboxMachine) put(dir string, files fs.FS) error {
	var packed, out bytes.Buffer
	w := tar.NewWriter(&packed)
	if err := w.AddFS(files); err != nil {
		return err
	}
	w.Close()
	x, err := m.sandbox.Exec(context.Background(), backends.Exec{
		Args:  []string{"sh", "-c", `mkdir -p "$0" && tar xf - -C "$0"`, m.dir(dir)},
		Stdin: &packed, Stdout: &out, Stderr: &out,
	})
	if err == nil && x.Code != 0 {
		err = fmt.Errorf("unpack: %v: %s", x, out.String())
	}
	return err
}

type nativeMachine struct{ root, bin string }

func (m nativeMachine) path() string           { return m.bin }
func (m nativeMachine) shell() string          { return filepath.Join(m.bin, "ash") }
func (m nativeMachine) dir(name string) string { return filepath.Join(m.root, name) }
func (m nativeMachine) close() error           { return os.RemoveAll(m.root) }

func (m nativeMachine) put(dir string, files fs.FS) error {
	if err := os.CopyFS(m.dir(dir), files); err != nil {
		return err
	}
	return fs.WalkDir(files, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		return os.Chtimes(filepath.Join(m.dir(dir), p), fi.ModTime(), fi.ModTime())
	})
}

// A command starts with no signal ignored, whatever we were started by, and
// what it leaves is killed.
func (m nativeMachine) run(dir string, env map[string]string, limit time.Duration, args ...string) (string, int) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/usr/bin/env", append([]string{"--default-signal"}, args...)...)
	cmd.Dir, cmd.Env = m.dir(dir), environ(env)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	cmd.Run()
	return out.String(), cmd.ProcessState.ExitCode()
}
