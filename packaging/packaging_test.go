// Package packaging holds what an installed daemon needs around it: systemd
// units, its user, its directories. There is no Go code here but the tests.
package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// analyze runs systemd-analyze on the units as they are, but for the paths of
// the programs: those are not installed here.
func analyze(t *testing.T, scope string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if slices.Contains(strings.Split(os.Getenv("KILNTAINERS_TEST_REQUIRE"), ","), "systemd-analyze") {
			t.Fatal("systemd-analyze is required and not there")
		}
		t.Skip("needs systemd-analyze; apt-get install systemd")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	units, err := filepath.Glob(filepath.Join("systemd", scope, "*"))
	if err != nil || len(units) == 0 {
		t.Fatalf("no units: %v", err)
	}
	for _, u := range units {
		text, err := os.ReadFile(u)
		if err != nil {
			t.Fatal(err)
		}
		moved := regexp.MustCompile(`/usr/bin/kilntainersd?`).ReplaceAll(text, []byte(program))
		name := strings.Replace(filepath.Base(u), "@.", "@python.", 1)
		if err := os.WriteFile(filepath.Join(dir, name), moved, 0o644); err != nil {
			t.Fatal(err)
		}
		if args[0] == "verify" {
			args = append(args, filepath.Join(dir, name))
		}
	}
	cmd := exec.Command("systemd-analyze", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

func TestUnitsVerify(t *testing.T) {
	for _, scope := range []string{"system", "user"} {
		if out := strings.TrimSpace(analyze(t, scope, "verify", "--man=no")); out != "" {
			t.Errorf("%s: %s", scope, out)
		}
	}
}

// The hardened service stays below what systemd calls an exposure of 1.5.
func TestServiceIsHardened(t *testing.T) {
	out := analyze(t, "system", "security", "--offline=true", "--no-pager", "./kilntainers.service")
	found := regexp.MustCompile(`Overall exposure level for [^:]*: ([0-9.]+)`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("no exposure level in %s", out)
	}
	if level, err := strconv.ParseFloat(found[1], 64); err != nil || level > 1.5 {
		t.Errorf("the exposure level is %s, want at most 1.5", found[1])
	}
}
