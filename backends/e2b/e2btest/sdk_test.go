package e2btest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends/e2b/e2btest"
)

// TestSDK: what E2B's own SDK can work with is E2B's protocol. It does the
// things that our client does, and sees what it would see at E2B.
func TestSDK(t *testing.T) {
	dir := sdk(t)
	s := e2btest.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "session.mjs")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "E2B_API_URL="+s.URL, "E2B_SANDBOX_URL="+s.URL, "E2B_API_KEY="+e2btest.Key, "NODE_NO_WARNINGS=1")
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the SDK cannot work with the fake: %v\n%s%s", err, out, &stderr)
	}
	var saw map[string]any
	if err := json.Unmarshal(out, &saw); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range map[string]any{
		"running": true, "ran": []any{0., "hello world\n", "oops\n"}, "failed": []any{true, 7.}, "timedOut": true,
		"root": "root\n", "listed": true, "cat": float64(1 << 20), "killed": []any{true, true}, "later": true,
		"both": 2., "one": true, "none": 0., "again": "here\n", "end": []any{true, false, true}, "runningAfter": false,
		"after": "SandboxNotFoundError", "noTemplate": "404: template 'no-such-template' not found", "badKey": true, "left": 0.,
	} {
		if !reflect.DeepEqual(saw[name], want) {
			t.Errorf("%s: the SDK saw %v, want %v", name, saw[name], want)
		}
	}
	if text, _ := saw["noDir"].(string); !strings.Contains(text, "does not exist") {
		t.Errorf("noDir: the SDK saw %q", text)
	}
}

// sdk returns a folder with E2B's SDK and our script, from where `make test`
// has installed it.
func sdk(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	installed := filepath.Join(cache, "kilntainers-test", "e2b")
	want, err := os.ReadFile("node/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	_, noNode := exec.LookPath("node")
	if got, err := os.ReadFile(filepath.Join(installed, "package-lock.json")); err != nil || noNode != nil || !bytes.Equal(got, want) {
		const how = "needs Node and E2B's SDK; make test installs the latter where there is npm"
		if slices.Contains(strings.Split(os.Getenv("KILNTAINERS_TEST_REQUIRE"), ","), "node") {
			t.Fatal("KILNTAINERS_TEST_REQUIRE names node, but this " + how)
		}
		t.Skip(how)
	}
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(installed, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS("node")); err != nil {
		t.Fatal(err)
	}
	return dir
}
