package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestGNU runs command lines such as agents write over a real source tree,
// with the system's bash and GNU tools and with ours, and wants every byte of
// the output and the exit status to be the same.
func TestGNU(t *testing.T) {
	for tool, want := range map[string]string{"bash": "GNU bash", "ls": "GNU coreutils", "find": "GNU findutils", "sed": "GNU sed", "grep": "GNU grep", "tar": "GNU tar", "diff": "GNU diffutils", "jq": "jq", "awk": ""} {
		out, err := exec.Command(tool, "--version").CombinedOutput()
		if want != "" && (err != nil || !strings.Contains(string(out), want)) {
			if strings.Contains(os.Getenv("KILNTAINERS_TEST_REQUIRE"), "gnu") {
				t.Fatalf("%s is not %s", tool, want)
			}
			t.Skipf("%s is not %s: install Debian's bash, coreutils, findutils, sed, grep, tar, diffutils, jq and mawk to compare with them", tool, want)
		}
	}
	path := bin(t)
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	src := t.TempDir()
	for _, d := range []string{"strings", "sort", "text", "encoding/json", "container", "path"} {
		if err := os.CopyFS(filepath.Join(src, d), os.DirFS(filepath.Join(strings.TrimSpace(string(root)), "src", d))); err != nil {
			t.Skipf("this test needs the source of Go's library: %v", err)
		}
	}
	stamp := time.Date(2024, 3, 1, 12, 0, 0, 0, time.UTC)
	filepath.Walk(src, func(p string, i os.FileInfo, err error) error { return os.Chtimes(p, stamp, stamp) })
	var data string
	for _, name := range []string{"testdata/gnu.txt", "testdata/bash.txt"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		data += string(b)
	}
	n := 0
	for line := range strings.Lines(data) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		n++
		theirs, theirErr := gnuRun(t, src, "/usr/local/bin:/usr/bin:/bin", "/bin/bash", line)
		ours, ourErr := gnuRun(t, src, path, filepath.Join(path, "bash"), line)
		if ours != theirs || exitStatus(ourErr) != exitStatus(theirErr) {
			t.Errorf("%s\n--- ours (%d)\n%s--- GNU (%d)\n%s", line, exitStatus(ourErr), clip(ours), exitStatus(theirErr), clip(theirs))
		}
	}
	t.Logf("%d command lines", n)
}

func exitStatus(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode()
	}
	return -1
}

func clip(s string) string {
	if len(s) > 1500 {
		return s[:1500] + "…\n"
	}
	return s
}

// gnuRun runs a command line in a copy of the tree.
func gnuRun(t *testing.T, src, path, bash, line string) (string, error) {
	dir, err := os.MkdirTemp("", "gnu")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if out, err := exec.Command("cp", "-a", src+"/.", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	env := []string{"PATH=" + path, "HOME=/root", "LC_ALL=C", "TZ=UTC", "TMPDIR=/tmp", "TERM=dumb"}
	out, err := runIn(t, dir, env, 30*time.Second, bash, "-c", line)
	return strings.NewReplacer(dir, "DIR", filepath.Dir(bash)+"/", "/bin/").Replace(out), err
}
