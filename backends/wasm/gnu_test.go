package wasm

import (
	"fmt"
	"io/fs"
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
			require(t, "gnu", tool+" is not "+want+": install Debian's bash, coreutils, findutils, sed, grep, tar, diffutils, jq and mawk to compare with them")
		}
	}
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
	filepath.WalkDir(src, func(p string, _ fs.DirEntry, _ error) error { return os.Chtimes(p, stamp, stamp) })
	var lines []string
	for _, name := range []string{"testdata/gnu.txt", "testdata/bash.txt", "testdata/agent.txt"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSuffix(line, "\n"); line != "" && line[0] != '#' {
				lines = append(lines, line)
			}
		}
	}
	theirs := make([]string, len(lines))
	onEach(t, machineKind{"GNU", func() (machine, error) {
		dir, err := os.MkdirTemp("", "gnu-")
		return nativeMachine{dir, "/usr/local/bin:/usr/bin:/bin"}, err
	}}, len(lines), func(i int, m machine) (err error) {
		theirs[i], err = gnuRun(m, src, lines[i])
		return err
	})
	for _, kind := range machines(t) {
		t.Run(kind.name, func(t *testing.T) {
			onEach(t, kind, len(lines), func(i int, m machine) error {
				ours, err := gnuRun(m, src, lines[i])
				if ours != theirs[i] {
					t.Errorf("%s\n--- ours\n%s--- GNU\n%s", lines[i], clip(ours), clip(theirs[i]))
				}
				return err
			})
		})
	}
	t.Logf("%d command lines", len(lines))
}

// gnuRun runs a command line in a copy of the tree. What it returns ends with
// the exit status.
func gnuRun(m machine, src, line string) (string, error) {
	if err := m.put("tree", os.DirFS(src)); err != nil {
		return "", err
	}
	env := map[string]string{"PATH": m.path(), "HOME": "/root", "LC_ALL": "C", "TZ": "UTC", "TMPDIR": "/tmp", "TERM": "dumb"}
	out, code := m.run("tree", env, time.Minute, "bash", "-c", line)
	bin := strings.TrimPrefix(m.path(), "/usr/local/bin:") + "/"
	return strings.NewReplacer(m.dir("tree"), "DIR", bin, "/bin/").Replace(out) + fmt.Sprintf("exit status %d\n", code), nil
}

func clip(s string) string {
	if len(s) > 1500 {
		return s[:1500] + "…\n"
	}
	return s
}
