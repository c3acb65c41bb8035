package packaging

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What the scripts do at each step of a package's life, as dpkg, rpm and
// pacman call them. The commands they call only tell that they were called.
func TestScripts(t *testing.T) {
	need(t, "unshare", "util-linux")
	if out, err := exec.Command("unshare", "--map-root-user", "--mount", "true").CombinedOutput(); err != nil {
		absent(t, "unshare", "a machine that gives users namespaces of their own: "+string(out))
	}
	dir := t.TempDir()
	for name, status := range map[string]int{
		"systemctl":        1, // what fails there may not stop dpkg
		"systemd-sysusers": 0, "systemd-tmpfiles": 0, "rm": 0,
	} {
		script := fmt.Sprintf("#!/bin/sh\necho \"%s $*\"\nexit %d\n", name, status)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const (
		make    = "systemd-sysusers kilntainers.conf; systemd-tmpfiles --create kilntainers.conf; "
		reload  = "systemctl daemon-reload"
		restart = "systemctl try-restart kilntainers.service"
		disable = "systemctl stop kilntainers@*.socket; systemctl disable --now kilntainers.socket kilntainers-http.socket kilntainers.service"
		purge   = "rm -rf /var/lib/kilntainers /var/cache/kilntainers /etc/kilntainers; " + reload
	)
	for _, c := range []struct{ step, script, args, want string }{
		{"deb: install", "postinst", "configure", make + reload},
		{"deb: upgrade, before", "prerm", "upgrade 2.0-1", ""},
		{"deb: upgrade, old files gone", "postrm", "upgrade 2.0-1", ""},
		{"deb: upgrade, after", "postinst", "configure 1.0-1", make + reload + "; " + restart},
		{"deb: an upgrade that failed", "postinst", "abort-upgrade 2.0-1", ""},
		{"deb: remove, before", "prerm", "remove", disable},
		{"deb: remove, after", "postrm", "remove", reload},
		{"deb: purge", "postrm", "purge", purge},
		{"rpm: install", "postinst", "1", make + reload},
		{"rpm: upgrade, new files there", "postinst", "2", make + reload + "; " + restart},
		{"rpm: upgrade, old files still there", "prerm", "1", ""},
		{"rpm: upgrade, old files gone", "postrm", "1", ""},
		{"rpm: remove, before", "prerm", "0", disable},
		{"rpm: remove, after", "postrm", "0", reload},
		{"arch: upgrade", "postupgrade.arch", "2.0-1 1.0-1", reload + "; " + restart},
		{"arch: remove", "prerm.arch", "1.0-1", disable},
	} {
		for _, systemd := range []string{"with systemd", "without"} {
			// /run is a folder of the test's own, which tells whether systemd runs.
			run := "mount -t tmpfs none /run || exit 77; "
			want := c.want
			if systemd == "without" {
				if at := strings.Index(want, "systemctl"); at >= 0 {
					want = strings.TrimSuffix(want[:at], "; ")
				}
			} else {
				run += "mkdir -p /run/systemd/system; "
			}
			run += "PATH=" + dir + "; exec /bin/sh scripts/" + c.script + " " + c.args
			out, err := exec.Command("unshare", "--map-root-user", "--mount", "sh", "-c", run).CombinedOutput()
			if got := strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "; "); err != nil || got != want {
				t.Errorf("%s, %s: got %q, %v, want %q", c.step, systemd, got, err, want)
			}
		}
	}
}
