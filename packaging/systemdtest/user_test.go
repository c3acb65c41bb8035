package systemdtest

import (
	"strings"
	"testing"
)

// The same under the units of a user, with a configuration of that user's and
// without anything of root's but the installation.
func TestUserUnits(t *testing.T) {
	m := boot(t)
	m.install()
	m.write(config, "[profiles.theirs]\nbackend = \"docker\"\n") // of the system, and none of the user's business
	m.run("usermod -aG docker alice && loginctl enable-linger alice")
	m.state("user@$(id -u alice).service", "active")

	const env = "export XDG_RUNTIME_DIR=/run/user/$(id -u); "
	alice := func(m *machine, command string) string {
		m.Helper()
		out, err := m.try("alice", env+command)
		if err != nil {
			m.Fatalf("%s: %v\n%s", command, err, out)
		}
		return out
	}
	save := func(m *machine, text string) {
		m.Helper()
		m.write("/home/alice/.config/kilntainers/kilntainers.toml", text)
		m.run("chown -R alice: /home/alice/.config")
	}

	m.step("enable", func(m *machine) {
		alice(m, "systemctl --user enable --now kilntainers.socket")
		if got, _ := m.try("alice", env+"systemctl --user is-active kilntainers.service"); got != "inactive" {
			m.Errorf("the service is %s", got)
		}
		if got := alice(m, "stat -c '%A %U' $XDG_RUNTIME_DIR/kilntainers/kilntainers.sock"); got != "srw------- alice" {
			m.Errorf("the socket is %s", got)
		}
	})
	m.step("without a configuration", func(m *machine) {
		if got := alice(m, "kilntainers profiles"); !strings.Contains(got, "default") || strings.Contains(got, "theirs") {
			m.Errorf("got\n%s", got)
		}
	})
	m.step("reload", func(m *machine) {
		save(m, "[profiles.debian]\nbackend = \"docker\"\n")
		alice(m, "systemctl --user reload kilntainers.service")
		c := m.dial("alice", "--profile debian")
		c.call("touch /tmp/mine")
		save(m, "[profiles.debian]\nbackend = \"dokcer\"\n")
		m.fails("alice", 1, env+"systemctl --user reload kilntainers.service")
		if got := alice(m, "systemctl --user show --value --property StatusText kilntainers.service"); !strings.Contains(got, `/home/alice/.config/kilntainers/kilntainers.toml:2: profiles.debian.backend: unknown backend "dokcer"`) {
			m.Errorf("the status is %s", got)
		}
		c.call("ls /tmp/mine")
		save(m, "[profiles.debian]\nbackend = \"docker\"\n")
		alice(m, "systemctl --user reload kilntainers.service")
	})
	m.step("restart", func(m *machine) {
		c := m.dial("alice", "--profile debian")
		c.call("touch /tmp/mine")
		alice(m, "for i in 1 2 3 4 5 6 7 8 9 10; do systemctl --user restart kilntainers.service || exit; done; systemctl --user is-active kilntainers.socket")
		c.call("ls /tmp/mine")
	})
	m.step("stop", func(m *machine) {
		alice(m, "systemctl --user stop kilntainers.socket kilntainers.service")
		if got := alice(m, "ls -A $XDG_RUNTIME_DIR/kilntainers"); got != "" {
			m.Errorf("left: %s", got)
		}
		if got := m.run("find /proc -maxdepth 2 -name comm -exec grep -l kilntainersd {} + || true"); got != "" {
			m.Errorf("left: %s", got)
		}
	})
}
