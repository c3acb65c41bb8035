// Package systemdtest installs the daemon on a machine that runs systemd, and
// lives through there what the units and the packages promise. The machine is
// a container with systemd as its first process, on the local Docker; that
// Docker also makes the sandboxes. There is no Go code here but the tests, and
// a client that makes load.
//
//	test ── docker exec ─► │ systemctl, kilntainers-stdio (as an ordinary user)
//	                       │      systemd ─► kilntainersd ── /var/run/docker.sock ──► sandboxes, beside the container
//
// It needs Docker, and mmdebstrap to make the image once. Without them the
// tests are skipped, unless KILNTAINERS_TEST_REQUIRE has "systemd".
package systemdtest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends/docker/dockertest"
)

// imagePackages is what the machine has beyond Debian's minimum. For the
// managers of users it needs PAM and their own message bus.
const imagePackages = "systemd,systemd-sysv,dbus,libpam-systemd,dbus-user-session"

// patience is how long anything is waited for: far longer than it takes, so
// that a loaded machine fails no test.
const patience = time.Minute

// A machine is a running system with systemd.
type machine struct {
	testing.TB
	id string // of the container
}

// boot starts a machine with the two users that the tests know, alice and
// bob. It is gone when the test has ended; should the test be killed, it ends
// by itself.
func boot(t testing.TB) *machine {
	t.Helper()
	host := dockertest.Docker(t)
	socket, local := strings.CutPrefix(host, "unix://")
	if !local {
		absent(t, "the Docker at "+host+" is elsewhere; the machine needs its socket")
	}
	if _, err := exec.LookPath("docker"); err != nil {
		absent(t, "there is no docker command; install Docker's client")
	}
	image, err := systemdImage()
	if err != nil {
		absent(t, err.Error())
	}
	// systemd wants a cgroup tree of its own, and a container has one: that of
	// its namespace, mounted once more so that it can be written to, on hosts
	// with cgroups of either version. The capabilities are what systemd needs
	// for the sandboxing of its services.
	args := []string{"run", "--detach", "--rm", "--label", "kilntainers-test=systemd",
		"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined", "--cgroupns", "private"}
	for _, c := range []string{"SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYS_NICE", "SYS_BOOT", "DAC_READ_SEARCH", "AUDIT_CONTROL"} {
		args = append(args, "--cap-add", c)
	}
	args = append(args, "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec", "--env", "container=docker",
		"--volume", socket+":/var/run/docker.sock", image, "sh", "-c", "mount -t cgroup2 none /sys/fs/cgroup && exec /sbin/init")
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		absent(t, fmt.Sprintf("Docker refuses a container that can run systemd: %v: %s", err, out))
	}
	m := &machine{t, strings.TrimSpace(string(out))}
	t.Cleanup(m.remove)
	if out, err := m.try("root", "until [ -S /run/systemd/private ]; do sleep 0.05; done; systemctl is-system-running --wait"); err != nil {
		logs, _ := exec.Command("docker", "logs", m.id).CombinedOutput()
		absent(t, fmt.Sprintf("systemd does not start in a container here: %v: %s\n%s", err, out, logs))
	}
	m.run("systemd-run --quiet --on-active=15min systemctl poweroff --force")
	m.run("mount --make-rshared / && useradd --create-home alice && useradd --create-home bob")
	return m
}

// absent skips the test, or fails it when systemd is required.
func absent(t testing.TB, why string) {
	t.Helper()
	if dockertest.Required("systemd") {
		t.Fatalf("%s (KILNTAINERS_TEST_REQUIRE has systemd)", why)
	}
	t.Skipf("%s. KILNTAINERS_TEST_REQUIRE=systemd makes this a failure", why)
}

// remove ends the machine. What its services said is told when the test failed.
func (m *machine) remove() {
	if m.Failed() {
		out, _ := m.try("root", "systemctl status --no-pager --full 'kilntainers*'; journalctl --no-pager --lines 200 --output short-precise --unit 'kilntainers*' --unit 'user@*'")
		m.Logf("the machine's journal:\n%s", out)
	}
	// In order, so that the daemon takes its sandboxes along.
	_, _ = m.try("root", "systemctl stop 'kilntainers*.service' 'user@*.service'")
	if out, err := exec.Command("docker", "rm", "--force", "--volumes", m.id).CombinedOutput(); err != nil {
		m.Errorf("remove the machine: %v\n%s", err, out)
	}
}

// command is a shell command on the machine.
func (m *machine) command(user, command string) *exec.Cmd {
	return exec.Command("docker", "exec", "--interactive", "--user", user, "--workdir", "/", m.id, "sh", "-c", command)
}

// try runs a shell command on the machine, and returns all that it wrote.
func (m *machine) try(user, command string) (string, error) {
	out, err := m.command(user, command).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// run runs a shell command as root that must not fail.
func (m *machine) run(command string) string {
	m.Helper()
	out, err := m.try("root", command)
	if err != nil {
		m.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}

// fails runs a shell command that must end with that status.
func (m *machine) fails(user string, status int, command string) string {
	m.Helper()
	out, err := m.try(user, command)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != status {
		m.Fatalf("%s: got %v, want exit status %d\n%s", command, err, status, out)
	}
	return out
}

// write puts a file on the machine, all of it at once.
func (m *machine) write(path, text string) {
	m.Helper()
	cmd := m.command("root", fmt.Sprintf("mkdir -p %[2]s && cat >%[1]s.new && mv %[1]s.new %[1]s", path, filepath.Dir(path)))
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		m.Fatalf("write %s: %v\n%s", path, err, out)
	}
}

// copy copies a folder of this machine onto the other's root.
func (m *machine) copy(dir string) {
	m.Helper()
	pack := exec.Command("tar", "-C", dir, "--owner=0", "--group=0", "-c", ".")
	unpack := m.command("root", "tar -C / --no-overwrite-dir -x")
	var err error
	if unpack.Stdin, err = pack.StdoutPipe(); err != nil {
		m.Fatal(err)
	}
	if err := pack.Start(); err != nil {
		m.Fatal(err)
	}
	out, err := unpack.CombinedOutput()
	if err := errors.Join(err, pack.Wait()); err != nil {
		m.Fatalf("copy %s: %v\n%s", dir, err, out)
	}
}

// until waits for a condition.
func (m *machine) until(what string, holds func() bool) {
	m.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

// property is what systemd knows of a unit.
func (m *machine) property(unit, name string) string {
	m.Helper()
	return m.run("systemctl show --value --property " + name + " " + unit)
}

// state wants a unit in a state; one that it is about to enter is waited for.
func (m *machine) state(unit, want string) {
	m.Helper()
	m.until(unit+" becomes "+want, func() bool { return m.property(unit, "ActiveState") == want })
}

// journal is what a unit and systemd about it wrote.
func (m *machine) journal(unit string) string {
	m.Helper()
	return m.run("journalctl --sync && journalctl --no-pager --output cat --unit " + unit)
}

// sandboxes are the containers that the machine's daemon has made and are
// there still.
func (m *machine) sandboxes() []string {
	m.Helper()
	instance := m.run("cat /var/lib/kilntainers/instance")
	out, err := exec.Command("docker", "ps", "--all", "--no-trunc", "--filter", "label=kilntainers.instance="+instance, "--format", "{{.ID}}").Output()
	if err != nil {
		m.Fatal(err)
	}
	return slices.Sorted(slices.Values(strings.Fields(string(out))))
}

// noSandbox waits for the last sandbox to end: what systemd had kept it closes,
// and then the sandboxes end by themselves.
func (m *machine) noSandbox() {
	m.Helper()
	m.until("no sandbox is left", func() bool { return len(m.sandboxes()) == 0 })
}

// systemdImage returns the name of the machine's image, which stays with the
// engine: its name changes with what it is made of.
var systemdImage = sync.OnceValues(func() (string, error) {
	name := fmt.Sprintf("kilntainers-test:systemd-%x", sha256.Sum256([]byte(imagePackages)))[:40]
	if exec.Command("docker", "image", "inspect", name).Run() == nil {
		return name, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	rootfs := filepath.Join(cache, "kilntainers-test", strings.Replace(name, ":", "-", 1)+".tar")
	if _, err := os.Stat(rootfs); err != nil {
		if _, err := exec.LookPath("mmdebstrap"); err != nil {
			return "", errors.New("there is no image with systemd, and no mmdebstrap to make it with; install mmdebstrap")
		}
		if err := os.MkdirAll(filepath.Dir(rootfs), 0o755); err != nil {
			return "", err
		}
		fresh := rootfs + ".new"
		defer os.Remove(fresh)
		if out, err := exec.Command("mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", "--include="+imagePackages, "bookworm", fresh).CombinedOutput(); err != nil {
			return "", fmt.Errorf("make the image with systemd: mmdebstrap: %w\n%s", err, out)
		}
		if err := os.Rename(fresh, rootfs); err != nil {
			return "", err
		}
	}
	if out, err := exec.Command("docker", "import", rootfs, name).CombinedOutput(); err != nil {
		return "", fmt.Errorf("import %s: %w\n%s", rootfs, err, out)
	}
	return name, nil
})

// scratch is the folder of this run of the tests.
var scratch string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if scratch, err = os.MkdirTemp("", "kilntainers-systemd-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(scratch)
		return m.Run()
	}())
}

// root is the folder above, with the Makefile.
const root = "../.."

// makeTarget runs targets of the Makefile.
func makeTarget(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.Command("make", append([]string{"--no-print-directory", "-C", root}, args...)...)
	// Not with what a make above us was told.
	cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make %q: %v\n%s", args, err, out)
	}
}

// install brings what make installs to the machine, and does there what
// install-systemd does on its own. The user of the daemon may use Docker,
// as the unit says how; alice may use the daemon, and bob may not.
func (m *machine) install() {
	m.Helper()
	tree := filepath.Join(scratch, "tree")
	if _, err := os.Stat(tree); err != nil {
		makeTarget(m.TB, "build", "install", "install-systemd", "BIN="+filepath.Join(scratch, "bin"), "DESTDIR="+tree, "PREFIX=/usr")
	}
	m.copy(tree)
	m.run("systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload")
	m.admit()
}

// admit is what is left to the administrator after an installation.
func (m *machine) admit() {
	m.Helper()
	m.run("getent group docker >/dev/null || groupadd --non-unique --gid $(stat -c %g /var/run/docker.sock) docker; usermod -aG docker kilntainers; usermod -aG kilntainers alice")
}
