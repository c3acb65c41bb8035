package systemdtest

import (
	"slices"
	"strings"
	"testing"
)

const (
	config     = "/etc/kilntainers/kilntainers.toml"
	goodConfig = "[daemon]\nallow_unauthenticated_loopback = true\n\n[profiles.debian]\nbackend = \"docker\"\n\n[profiles.box]\nbackend = \"go_busybox\"\n"
	more       = "/etc/kilntainers/profiles.d/more.toml"
)

// step is a part of a test's story. The parts build on each other, so the
// first that fails is the last.
func (m *machine) step(name string, f func(m *machine)) {
	m.Helper()
	if !m.TB.(*testing.T).Run(name, func(t *testing.T) { f(&machine{t, m.id}) }) {
		m.FailNow()
	}
}

// The life of a daemon that make install installed, under the system's units.
func TestSystemUnits(t *testing.T) {
	m := boot(t)
	m.install()
	m.write(config, goodConfig)

	m.step("enable", func(m *machine) {
		m.run("systemctl enable --now kilntainers.socket")
		m.state("kilntainers.socket", "active")
		m.state("kilntainers.service", "inactive")
	})
	m.step("a user outside the group", func(m *machine) {
		const want = "kilntainers-stdio: permission denied on /run/kilntainers/kilntainers.sock; join its group with: sudo usermod -aG kilntainers $USER, then log in again"
		if got := m.fails("bob", 1, "kilntainers-stdio --profile debian </dev/null"); got != want {
			m.Errorf("got  %s\nwant %s", got, want)
		}
		m.state("kilntainers.service", "inactive")
	})
	m.step("the first connection starts the daemon", func(m *machine) {
		c := m.dial("alice", "--profile debian")
		if got := c.call("echo docker"); got != "docker" {
			m.Errorf("got %q", got)
		}
		m.state("kilntainers.service", "active")
		if got := m.run("stat -c %U /proc/" + m.property("kilntainers.service", "MainPID")); got != "kilntainers" {
			m.Errorf("the daemon runs as %s", got)
		}
		if got := m.sandboxes(); len(got) != 1 {
			m.Errorf("there are %d sandboxes, want 1: %q", len(got), got)
		}
		// Nothing of the unit's hardening may be in the way of WebAssembly.
		if got := m.dial("alice", "--profile box").call("echo wasm"); got != "wasm" {
			m.Errorf("got %q", got)
		}
		if got := m.property("kilntainers-http.socket", "ActiveState"); got != "inactive" {
			m.Errorf("the HTTP socket, which nobody enabled, is %s", got)
		}
	})

	m.step("reload", func(m *machine) {
		c := m.dial("alice", "--profile debian")
		c.call("touch /tmp/mine")
		m.write(more, "[profiles.added]\nbackend = \"go_busybox\"\n")
		m.run("systemctl reload kilntainers.service")
		if got := m.dial("alice", "--profile added").call("echo added"); got != "added" {
			m.Errorf("got %q", got)
		}
		c.call("ls /tmp/mine")
	})
	m.step("reload of a bad file", func(m *machine) {
		c := m.dial("alice", "--profile debian")
		c.call("touch /tmp/mine")
		m.write(more, "[profiles.added]\nbackend = \"dokcer\"\n")
		m.fails("root", 1, "systemctl reload kilntainers.service")
		const problem = `/etc/kilntainers/profiles.d/more.toml:2: profiles.added.backend: unknown backend "dokcer"; this build has docker, e2b, go_busybox, modal, wasm`
		if got := m.journal("kilntainers.service"); !strings.Contains(got, "kilntainers: "+problem) && !slices.Contains(strings.Split(got, "\n"), problem) {
			m.Errorf("the journal has no line %q:\n%s", problem, got)
		}
		m.shows("; the configuration has a problem: " + problem)
		c.call("ls /tmp/mine")
		m.dial("alice", "--profile added").call("true") // as it was
	})
	m.step("a broken configuration at the start", func(m *machine) {
		m.run("systemctl stop kilntainers.service")
		m.dial("alice", "--profile debian").call("true")
		m.shows("; the configuration has a problem: " + more + ":2: ")
		if got := m.fails("alice", 1, "kilntainers-stdio --profile added </dev/null"); !strings.Contains(got, `unknown profile "added"; this daemon has: box, debian`) {
			m.Errorf("got %s", got)
		}
		m.run("rm " + more + " && systemctl reload kilntainers.service")
		if got := m.property("kilntainers.service", "StatusText"); strings.Contains(got, "problem") {
			m.Errorf("the problem is gone, but the status is %s", got)
		}
	})

	m.step("restarts in quick succession", func(m *machine) {
		m.run("for i in 1 2 3 4 5 6 7 8 9 10; do systemctl restart kilntainers.service || exit; done")
		m.state("kilntainers.socket", "active")
		m.dial("alice", "--profile debian").call("true")
	})
	m.step("a profile's own socket", func(m *machine) {
		// The daemon asks systemd whether it is to be started again: only then
		// does the socket stay.
		const socket = "/run/kilntainers/profiles/box.sock"
		m.write(config, strings.Replace(goodConfig, "[daemon]\n", "[daemon]\nprofile_sockets = true\n", 1))
		m.run("systemctl restart kilntainers.service")
		inode := m.run("stat -c %i " + socket)
		m.run("systemctl restart kilntainers.service")
		if got := m.run("stat -c %i " + socket); got != inode {
			m.Errorf("after a restart it is another socket: %s, was %s", got, inode)
		}
		m.dial("alice", "--socket "+socket+" --profile box").call("true")
		m.run("systemctl stop kilntainers.service; [ ! -e " + socket + " ]")
		m.write(config, goodConfig)
		m.dial("alice", "--profile box").call("true")
	})
	m.step("crashes in quick succession", func(m *machine) {
		for range 7 {
			m.kill()
		}
		m.state("kilntainers.socket", "active")
		m.dial("alice", "--profile debian").call("true")
	})
	m.step("a daemon that hangs", func(m *machine) {
		m.override("watchdog", "WatchdogSec=2s")
		pid := m.property("kilntainers.service", "MainPID")
		m.run("kill -STOP " + pid)
		m.successor(pid)
		m.dial("alice", "--profile debian").call("true")
		if got := m.journal("kilntainers.service"); !strings.Contains(got, "Watchdog timeout") {
			m.Errorf("the daemon was restarted, but not by the watchdog:\n%s", got)
		}
	})

	m.step("sockets for a running daemon", func(m *machine) {
		m.override("watchdog", "WatchdogSec=9s")
		m.run("systemctl enable kilntainers@debian.socket kilntainers-http.socket")
		m.run("systemctl restart kilntainers.service kilntainers@debian.socket kilntainers-http.socket")
		only := "--socket /run/kilntainers/profiles/debian.sock --profile "
		m.dial("alice", only+"debian").call("true")
		m.fails("alice", 1, "kilntainers-stdio "+only+"box </dev/null")
		m.fails("bob", 1, "kilntainers-stdio "+only+"debian </dev/null")
		got := m.post("")
		if !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.Contains(got, `"serverInfo"`) {
			m.Errorf("the answer over TCP is %s", got)
		}
		m.fed()
	})
	m.step("an HTTP socket that nobody may use", func(m *machine) {
		m.write(config, strings.Replace(goodConfig, "allow_unauthenticated_loopback = true", "", 1))
		m.run("systemctl restart kilntainers.service")
		m.dial("alice", "--profile debian").call("true")
		m.shows("; the configuration has a problem: the socket 127.0.0.1:8435, which systemd handed over, would serve every user of this machine")
		m.write(config, goodConfig)
	})
	m.step("a token from root's credentials", func(m *machine) {
		m.write("/etc/kilntainers/credentials/laptop", "0123456789abcdef0123456789abcdef")
		m.run("chmod 0600 /etc/kilntainers/credentials/laptop")
		m.write(config, goodConfig+"\n[tokens.laptop]\nfile = \"laptop\"\nprofiles = [\"*\"]\n")
		m.override("credentials", "LoadCredential=laptop:/etc/kilntainers/credentials/laptop")
		if got := m.post("Authorization: Bearer 0123456789abcdef0123456789abcdef\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			m.Errorf("with the token: %s", got)
		}
		if got := m.post("Authorization: Bearer x\r\n"); !strings.HasPrefix(got, "HTTP/1.1 401 ") {
			m.Errorf("with another: %s", got)
		}
	})
	m.step("no network and no memory that is written and then run", func(m *machine) {
		m.override("tight", "PrivateNetwork=yes\nMemoryDenyWriteExecute=yes")
		m.dial("alice", "--profile debian").call("true")
		if got := m.post(""); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			m.Errorf("over TCP: %s", got)
		}
		m.fed()
		if got := m.dial("alice", "--profile box").call("echo slowly"); got != "slowly" {
			m.Errorf("got %q", got)
		}
		if got := m.journal("kilntainers.service"); !strings.Contains(got, "WebAssembly is interpreted") {
			m.Errorf("no warning in the journal:\n%s", got)
		}
	})

	m.step("an idle daemon leaves", func(m *machine) {
		m.driver()
		m.write(config, strings.Replace(goodConfig, "[daemon]", "[daemon]\nexit_when_idle = 1", 1))
		m.run("systemctl stop kilntainers.service") // not restart, which keeps the sessions that clients forgot
		if met := m.run("/opt/load --profile debian --edges 12"); met == "1" {
			m.Errorf("it never left")
		}
		m.write(config, goodConfig)
	})

	m.step("stop leaves nothing", func(m *machine) {
		c := m.dial("alice", "--profile debian")
		c.call("true")
		if got := m.sandboxes(); len(got) != 1 {
			m.Fatalf("there are %d sandboxes, want 1: %q", len(got), got)
		}
		m.run("systemctl stop 'kilntainers*.socket' kilntainers.service")
		m.noSandbox()
		if got := m.property("kilntainers.service", "Result"); got != "success" {
			m.Errorf("the service ended with %s", got)
		}
		if got := m.run("find /proc -maxdepth 1 -user kilntainers"); got != "" {
			m.Errorf("processes are left: %s", got)
		}
		got := m.run("find / /run /tmp /dev/shm -xdev -path /proc -prune -o -user kilntainers ! -type d ! -path '/var/cache/kilntainers/*' -print; find /run/kilntainers ! -type d")
		if want := "/var/lib/kilntainers/lock\n/var/lib/kilntainers/instance"; got != want {
			m.Errorf("left are\n%s\nwant\n%s", got, want)
		}
	})
}

// override changes a setting of the service, as an administrator does, and
// restarts it.
func (m *machine) override(name, setting string) {
	m.Helper()
	m.write("/etc/systemd/system/kilntainers.service.d/"+name+".conf", "[Service]\n"+setting+"\n")
	m.run("systemctl daemon-reload && systemctl restart kilntainers.service")
}

// kill kills the daemon, and returns when there is another.
func (m *machine) kill() {
	m.Helper()
	pid := m.property("kilntainers.service", "MainPID")
	m.run("kill -KILL " + pid)
	m.successor(pid)
}

// successor waits for a daemon that is not the one with that pid.
func (m *machine) successor(pid string) {
	m.Helper()
	m.until("another daemon", func() bool {
		now := m.property("kilntainers.service", "MainPID")
		return now != pid && now != "0"
	})
}

// fed waits until the daemon tells systemd that it is well: whatever sockets
// there are, it finds one to ask itself.
func (m *machine) fed() {
	m.Helper()
	pid := m.property("kilntainers.service", "MainPID")
	stamp := m.property("kilntainers.service", "WatchdogTimestampMonotonic")
	m.until("the watchdog is fed", func() bool {
		return m.property("kilntainers.service", "WatchdogTimestampMonotonic") != stamp
	})
	if now := m.property("kilntainers.service", "MainPID"); now != pid {
		m.Errorf("the daemon was restarted")
	}
}

// post sends initialize over TCP, with a line of the header, and returns the
// whole answer.
func (m *machine) post(header string) string {
	m.Helper()
	return m.run(`bash -c '
		body="{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{},\"clientInfo\":{\"name\":\"t\",\"version\":\"1\"}}}"
		exec 3<>/dev/tcp/127.0.0.1/8435
		printf "POST /mcp/debian HTTP/1.1\r\nHost: 127.0.0.1:8435\r\nConnection: close\r\n` + header + `Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\nContent-Length: ${#body}\r\n\r\n$body" >&3
		cat <&3'`)
}

// shows wants what systemctl status shows in the line of the daemon's own.
func (m *machine) shows(want string) {
	m.Helper()
	if got := m.property("kilntainers.service", "StatusText"); !strings.Contains(got, want) {
		m.Errorf("the status is\n%s\nwant it to contain\n%s", got, want)
	}
	if got, _ := m.try("root", "systemctl status --full --no-pager kilntainers.service"); !strings.Contains(got, want) {
		m.Errorf("systemctl status does not show %q:\n%s", want, got)
	}
}
