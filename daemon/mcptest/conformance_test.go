package mcptest

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilntainers/kilntainers/daemon"
)

// The revisions that the suite has requirements for, one for each era.
var revisions = []string{"2025-11-25", "2026-07-28"}

// TestConformanceOfHandler runs the suite against a server that has all it
// asks for, behind the daemon's own front: the choice between the eras, the
// check of Host and Origin. All that is scored must pass. (What 2026-07-28 has
// failing are the scenarios of the tasks extension, which nobody must have.)
func TestConformanceOfHandler(t *testing.T) {
	n := needNode(t)
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	srv := httptest.NewServer(daemon.MCPHandler(newFixture(log), log))
	t.Cleanup(srv.Close)
	t.Cleanup(srv.CloseClientConnections) // the suite leaves streams open

	total := map[string]string{
		"2025-11-25": "Total: 82 passed, 0 failed",
		"2026-07-28": "Total: 165 passed, 30 failed",
	}
	for _, revision := range revisions {
		t.Run(revision, func(t *testing.T) {
			conform(t, n, srv.URL, revision, total[revision])
		})
	}
}

// TestConformanceOfDaemon runs the suite against a profile. It has one tool, so
// what asks for another, or for prompts and resources, must fail; the lists in
// testdata name exactly those scenarios, and one that passes after all is an
// error too.
func TestConformanceOfDaemon(t *testing.T) {
	n := needNode(t)
	w := start(t)
	total := map[string]string{
		"2025-11-25": "Total: 41 passed, 26 failed",
		"2026-07-28": "Total: 99 passed, 70 failed",
	}
	for _, revision := range revisions {
		t.Run(revision, func(t *testing.T) {
			list, err := filepath.Abs("testdata/one-tool-" + revision + ".yml")
			if err != nil {
				t.Fatal(err)
			}
			conform(t, n, w.url, revision, total[revision], "--expected-failures", list)
		})
	}
	if n := w.fake.Created(); n > 0 {
		t.Errorf("the suite never calls sandbox_exec, but %d sandboxes were made", n)
	}
}

// conform runs the suite for one revision, and wants exit 0 and that summary:
// a run of no scenario is no success.
func conform(t *testing.T, n node, url, revision, summary string, args ...string) {
	t.Helper()
	results := t.TempDir()
	args = append([]string{"server", "--url", url, "--requirements", revision, "--output-dir", results}, args...)
	stdout, stderr, status := n.run(t, "conformance", args...)
	for line := range strings.Lines(stdout) {
		if strings.HasPrefix(line, "Total: ") {
			t.Log(strings.TrimSpace(line))
		}
	}
	if status != 0 || !strings.Contains(stdout, summary) {
		t.Errorf("conformance %q: exit %d; want 0 and %q\n%s%s\n%s", args, status, summary, stdout, stderr, failures(t, results))
	}
}

// failures lists the checks that failed, from the files that the suite wrote.
func failures(t *testing.T, results string) string {
	t.Helper()
	var list strings.Builder
	err := filepath.WalkDir(results, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "checks.json" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var checks []struct{ ID, Status, ErrorMessage string }
		if err := json.Unmarshal(text, &checks); err != nil {
			return err
		}
		for _, c := range checks {
			if c.Status == "FAILURE" {
				fmt.Fprintf(&list, "%s: %s: %s\n", filepath.Base(filepath.Dir(path)), c.ID, c.ErrorMessage)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return list.String()
}
