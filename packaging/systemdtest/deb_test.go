package systemdtest

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const (
	olderVersion = "8.0.0"
	newerVersion = "9.0.0"
)

// packages brings two versions of the .deb to the machine. The newer is what
// make packages makes; the older has programs of its own version too, and a
// configuration file that was changed since.
func (m *machine) packages() (older, newer string) {
	m.Helper()
	at := filepath.Join(scratch, "packages")
	dist := filepath.Join(at, "opt")
	if _, err := os.Stat(at); err != nil {
		makeTarget(m.TB, "packages", "DIST="+dist, "ARCHES="+runtime.GOARCH, "FORMATS=deb", "VERSION=v"+newerVersion)
		makeTarget(m.TB, "build", "BIN="+filepath.Join(dist, "older"), "VERSION=v"+olderVersion)
		if err := os.RemoveAll(filepath.Join(dist, "build")); err != nil {
			m.Fatal(err)
		}
	}
	m.copy(at)
	m.run(`cd /opt && mv kilntainers_*.deb newer.deb && dpkg-deb --raw-extract newer.deb old &&
		sed -i 's/^Version: .*/Version: ` + olderVersion + `-1/' old/DEBIAN/control && echo '# older' >>old/etc/kilntainers/kilntainers.toml &&
		cp older/* old/usr/bin/ && dpkg-deb -Zgzip -z1 --root-owner-group --build old older.deb && rm -r old older`)
	return "/opt/older.deb", "/opt/newer.deb"
}

// The life of an installed .deb.
func TestPackage(t *testing.T) {
	m := boot(t)
	older, newer := m.packages()

	m.step("install", func(m *machine) {
		m.run("dpkg --install " + older)
		if got := m.run("systemctl is-enabled kilntainers.socket kilntainers-http.socket kilntainers.service || true"); got != "disabled\ndisabled\ndisabled" {
			m.Errorf("enabled are:\n%s", got)
		}
		m.admit()
		m.run("systemctl enable --now kilntainers.socket")
		m.state("kilntainers.service", "inactive")
		m.run(`sed -i 's/^#allow_unauthenticated_loopback = .*/allow_unauthenticated_loopback = true/; $ a [profiles.mine]\nbackend = "docker"' ` + config)
		m.dial("alice", "--profile mine").call("true")
		m.serves(olderVersion)
	})
	m.step("upgrade under load", func(m *machine) {
		m.run("systemctl enable kilntainers-http.socket && systemctl restart kilntainers.service kilntainers-http.socket")
		l := m.load("mine")
		m.run("dpkg --force-confdef --force-confold --install " + newer)
		m.serves(newerVersion)
		l.unharmed(m)
		m.state("kilntainers.socket", "active")
		m.run("grep -q profiles.mine " + config + " && ls " + config + ".dpkg-dist")
	})
	m.step("remove", func(m *machine) {
		m.run("systemctl enable kilntainers@mine.socket")
		c := m.dial("alice", "--profile mine")
		c.call("true")
		m.run("dpkg --remove kilntainers")
		m.noSandbox()
		if got := m.run("find /proc -maxdepth 1 -user kilntainers; find /run/kilntainers ! -type d; find /etc/systemd /usr/bin /usr/lib -name '*kilntainers*'"); got != "" {
			m.Errorf("left:\n%s", got)
		}
		if got := m.run("systemctl list-units --all --no-legend --plain 'kilntainers*'"); got != "" {
			m.Errorf("left:\n%s", got)
		}
		m.run("grep -q profiles.mine " + config)
	})
	m.step("purge", func(m *machine) {
		m.run("dpkg --purge kilntainers")
		got := strings.Fields(m.run("find / -xdev -path /proc -prune -o -path /opt -prune -o -name '*kilntainers*' -print; find /run -xdev -name '*kilntainers*'"))
		if want := []string{"/run/kilntainers"}; !slices.Equal(got, want) {
			m.Errorf("left are %q, want %q", got, want)
		}
	})
}

// serves wants the daemon that runs to be of a version.
func (m *machine) serves(version string) {
	m.Helper()
	if got := m.run("/proc/" + m.property("kilntainers.service", "MainPID") + "/exe --version"); !strings.Contains(got, version) {
		m.Errorf("the daemon is %s, want version %s", got, version)
	}
}
