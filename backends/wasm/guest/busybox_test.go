package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BusyBox has a test suite that knows these tools well. It is GPL and not part
// of this repository: unpack Debian's source package and say where it is.
//
//	apt-get source busybox && BUSYBOX_SRC=$PWD/busybox-1.35.0 go test -run BusyBox -v
//
// testdata/known-failures.txt lists what is known to fail; anything else that
// fails, and anything on the list that passes, fails the test.

// suiteApplets are those whose tests count.
var suiteApplets = strings.Fields("awk cat cp cut diff echo find grep gunzip gzip head ls mkdir mv printf pwd rm rmdir sed sort tail tar tr uniq wc xargs")

func busyboxSource(t *testing.T) string {
	src := os.Getenv("BUSYBOX_SRC")
	if src == "" {
		if strings.Contains(os.Getenv("KILNTAINERS_TEST_REQUIRE"), "busybox") {
			t.Fatal("BUSYBOX_SRC does not say where BusyBox's source is")
		}
		t.Skip("set BUSYBOX_SRC to the unpacked source of BusyBox (apt-get source busybox) to run its tests")
	}
	return src
}

// bin builds this program and links it by every name; it returns the directory.
func bin(t *testing.T) string {
	dir := t.TempDir()
	box := filepath.Join(dir, "busybox")
	if out, err := exec.Command("go", "build", "-o", box, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	out, err := exec.Command(box, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range strings.Fields(string(out)) {
		if err := os.Symlink("busybox", filepath.Join(dir, n)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// runIn runs a command with a time limit and kills what it leaves. It starts
// with no signal ignored, whatever the test was started by.
func runIn(t *testing.T, dir string, env []string, limit time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/usr/bin/env", append([]string{"--default-signal"}, args...)...)
	cmd.Dir, cmd.Env = dir, env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	return out.String(), err
}

// knownFailures maps the tests on the list to whether they always fail.
func knownFailures(t *testing.T) map[string]bool {
	data, err := os.ReadFile("testdata/known-failures.txt")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "~ "); ok {
			known[name] = false
		} else if line != "" && line[0] != '#' {
			known[line] = true
		}
	}
	return known
}

// judge compares the failures under a prefix with the list.
func judge(t *testing.T, prefix string, ran, failed []string) {
	known := knownFailures(t)
	for _, f := range failed {
		if _, ok := known[f]; !ok {
			t.Errorf("fails, and is not in testdata/known-failures.txt:\n%s", f)
		}
	}
	for _, r := range ran {
		if known[r] && !slices.Contains(failed, r) {
			t.Errorf("passes; take it out of testdata/known-failures.txt:\n%s", r)
		}
	}
	t.Logf("%s: %d of %d pass (%.1f %%)", prefix, len(ran)-len(failed), len(ran), 100*float64(len(ran)-len(failed))/float64(max(len(ran), 1)))
}

func TestBusyBoxSuite(t *testing.T) {
	src := filepath.Join(busyboxSource(t), "testsuite")
	path := bin(t)
	options := optionFlags(t, src)
	var ran, failed []string
	for _, a := range suiteApplets {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(src)); err != nil {
			t.Fatal(err)
		}
		os.WriteFile(filepath.Join(dir, ".config"), []byte(strings.ReplaceAll(strings.Trim(options, ":"), ":", "=y\n")), 0o644)
		env := []string{"PATH=" + path, "OPTIONFLAGS=" + options, "ECHO=echo", "bindir=" + dir, "tsdir=" + dir, "SKIP=", "d=" + dir, "TZ=UTC", "LC_ALL=C.UTF-8"}
		p, f := 0, 0
		add := func(name string, ok bool) {
			name = "suite " + a + ": " + name
			ran = append(ran, name)
			if ok {
				p++
			} else {
				f++
				failed = append(failed, name)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, a+".tests")); err == nil {
			out, err := runIn(t, dir, append(env, "VERBOSE="), 90*time.Second, filepath.Join(path, "sh"), "./"+a+".tests")
			for line := range strings.Lines(out) {
				line = strings.TrimSpace(line)
				if name, ok := strings.CutPrefix(line, "PASS: "); ok {
					add(name, true)
				} else if name, ok := strings.CutPrefix(line, "FAIL: "); ok {
					add(name, false)
				}
			}
			if p+f == 0 && err != nil { // ls.tests wants another configuration and ends at once
				t.Errorf("%s.tests: %v\n%s", a, err, out)
			}
		}
		old, _ := filepath.Glob(filepath.Join(src, a, "*"))
		for _, o := range old {
			work := t.TempDir()
			_, err := runIn(t, work, env, 20*time.Second, filepath.Join(path, "sh"), "-e", "-c", ". "+o)
			add(filepath.Base(o), err == nil)
		}
		t.Logf("%-8s %3d pass %3d fail", a, p, f)
	}
	judge(t, "BusyBox's test suite", ran, failed)
}

// optionFlags turns on every feature that a test asks for.
func optionFlags(t *testing.T, dir string) string {
	re := regexp.MustCompile(`(?m)^\s*optional (.*)$`)
	flags := map[string]bool{}
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(p, ".tests") {
			data, _ := os.ReadFile(p)
			for _, m := range re.FindAllStringSubmatch(string(data), -1) {
				for _, f := range strings.Fields(m[1]) {
					flags[strings.Trim(f, `"'`)] = true
				}
			}
		}
		return nil
	})
	l := []string{}
	for f := range flags {
		l = append(l, f)
	}
	sort.Strings(l)
	return ":" + strings.Join(l, ":") + ":"
}

func TestBusyBoxAsh(t *testing.T) {
	root := filepath.Join(busyboxSource(t), "shell", "ash_test")
	path := bin(t)
	os.Remove(filepath.Join(path, "printenv"))
	for _, helper := range []string{"printenv", "recho", "zecho"} {
		if out, err := exec.Command("cc", "-O1", "-w", "-o", filepath.Join(path, helper), filepath.Join(root, helper+".c")).CombinedOutput(); err != nil {
			t.Skipf("the tests' helper programs need a C compiler: %v\n%s", err, out)
		}
	}
	tests, _ := filepath.Glob(filepath.Join(root, "*", "*.tests"))
	known := knownFailures(t)
	var ran, failed []string
	for _, test := range tests {
		right, err := os.ReadFile(strings.TrimSuffix(test, ".tests") + ".right")
		if err != nil {
			continue
		}
		dir := t.TempDir()
		files, _ := filepath.Glob(filepath.Join(filepath.Dir(test), "*"))
		for _, f := range files {
			if data, err := os.ReadFile(f); err == nil {
				os.WriteFile(filepath.Join(dir, filepath.Base(f)), data, 0o755)
			}
		}
		name := "ash " + filepath.Base(filepath.Dir(test)) + "/" + filepath.Base(test)
		run := func() string {
			out, _ := runIn(t, dir, []string{"PATH=" + path, "THIS_SH=" + filepath.Join(path, "ash"), "HOME=/root", "USER=root", "CONFIG_FEATURE_FANCY_ECHO=y"}, 20*time.Second, filepath.Join(path, "ash"), "./"+filepath.Base(test))
			return out
		}
		out := run()
		ran = append(ran, name)
		if _, listed := known[name]; out != string(right) && !listed {
			// Many of them race against sleeps; on a busy machine one more try is fair.
			t.Logf("%s failed, and is tried again; it wrote:\n%s--- and should have written:\n%s", name, out, right)
			out = run()
		}
		if out != string(right) {
			failed = append(failed, name)
			if os.Getenv("SHOW") != "" && strings.Contains(name, os.Getenv("SHOW")) {
				fmt.Printf("=== %s\n--- got\n%s--- want\n%s", name, out, right)
			}
		}
	}
	judge(t, "ash_test", ran, failed)
}
