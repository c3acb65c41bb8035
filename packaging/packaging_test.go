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

// Versions of packages grow with every commit, whichever tag there is.
func TestVersion(t *testing.T) {
	for described, want := range map[string]string{
		"v1.2.3":                       `1\.2\.3`,
		"v1.2.3-dirty":                 `1\.2\.3\+dirty`,
		"v1.2.3-5-gabc1234":            `1\.2\.3\+5\.gabc1234`,
		"v1.3.0-rc.1":                  `1\.3\.0~rc\.1`,
		"v1.3.0-rc.1-5-gabc1234-dirty": `1\.3\.0~rc\.1\+5\.gabc1234\.dirty`,
		"abc1234":                      `0\.0\.0\+\d+\.gabc1234`,
		"0123456-dirty":                `0\.0\.0\+\d+\.g0123456\.dirty`,
		"devel":                        `0\.0\.0\+0\.gdevel`,
	} {
		cmd := exec.Command("./version.sh", described)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		got := strings.TrimSuffix(string(out), "\n")
		if err != nil || !regexp.MustCompile("^"+want+"$").MatchString(got) {
			t.Errorf("%s: got %q, %v, want %s", described, got, err, want)
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
