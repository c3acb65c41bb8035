package systemdtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A load is many clients at work on the machine; see load/main.go.
type load struct {
	m   *machine
	in  io.Writer
	out *bufio.Reader
}

// A tally is what came of calls, as the program counts it.
type tally struct {
	Calls, Cut, Lost, Fresh int
	Errors                  []string
}

// driver brings the program that makes load to the machine.
func (m *machine) driver() {
	m.Helper()
	dir := m.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "opt", "load"), "./load")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		m.Fatalf("build the load: %v\n%s", err, out)
	}
	m.copy(dir)
}

// load starts the clients, and returns once each has its sandbox. They work
// until the test ends.
func (m *machine) load(profile string) *load {
	m.Helper()
	m.driver()
	cmd := m.command("root", "exec /opt/load --profile "+profile)
	in, err := cmd.StdinPipe()
	if err != nil {
		m.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.Fatal(err)
	}
	said := &lastWords{}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
		if m.Failed() {
			m.Logf("the load's last words:\n%s", said)
		}
	})
	l := &load{m, in, bufio.NewReader(out)}
	if line, err := l.out.ReadString('\n'); line != "ready\n" {
		m.Fatalf("the load does not start: %q %v", line, err)
	}
	return l
}

// counted returns what came of the calls since the last time.
func (l *load) counted(m *machine) (shim, http tally) {
	m.Helper()
	if _, err := io.WriteString(l.in, "\n"); err != nil {
		m.Fatalf("the load ended: %v", err)
	}
	line, err := l.out.ReadBytes('\n')
	if err != nil {
		m.Fatalf("the load ended: %v", err)
	}
	var both struct{ Shim, HTTP tally }
	if err := json.Unmarshal(line, &both); err != nil {
		m.Fatalf("%v in %s", err, line)
	}
	m.Logf("over the shim %+v, over HTTP %+v", both.Shim, both.HTTP)
	return both.Shim, both.HTTP
}

// lastWords keep the end of a long story.
type lastWords struct{ text []byte }

func (w *lastWords) Write(p []byte) (int, error) {
	w.text = append(w.text, p...)
	if n := len(w.text) - 4096; n > 0 {
		w.text = w.text[n:]
	}
	return len(p), nil
}

func (w *lastWords) String() string { return string(w.text) }

// unharmed wants all calls since the last time to have been answered well, by
// the same sandbox as ever.
func (l *load) unharmed(m *machine) {
	m.Helper()
	shim, http := l.counted(m)
	for how, t := range map[string]tally{"the shim": shim, "HTTP": http} {
		if t.Calls == 0 || t.Cut+t.Lost+t.Fresh > 0 {
			m.Errorf("over %s, of %d calls %d were cut off, %d were lost, and %d came to another sandbox; the first of them:\n%s",
				how, t.Calls, t.Cut, t.Lost, t.Fresh, strings.Join(t.Errors, "\n"))
		}
	}
}

// Clients at work do not notice what an administrator does, and lose nothing but
// what is in flight when the daemon is killed.
func TestUnderLoad(t *testing.T) {
	m := boot(t)
	m.install()
	m.write(config, goodConfig)
	m.run("systemctl enable --now kilntainers-http.socket kilntainers.socket")
	l := m.load("debian")

	m.step("10 restarts", func(m *machine) {
		for range 10 {
			m.run("systemctl restart kilntainers.service && sleep 0.3")
		}
		l.unharmed(m)
	})
	m.step("1000 reloads", func(m *machine) {
		// Each with something new to serve, which the file watcher sees too.
		m.run(fmt.Sprintf(`i=0; while [ $i -lt 1000 ]; do i=$((i+1)); printf '[profiles.more]\nbackend = "docker"\ndescription = "%%s"\n' $i >%[1]s.new; mv %[1]s.new %[1]s; kilntainers reload >/dev/null || exit; done`, more))
		if got := m.run("kilntainers profiles"); !strings.Contains(got, "1000") {
			m.Errorf("the last reload is not in force:\n%s", got)
		}
		l.unharmed(m)
	})
	m.step("10 kills", func(m *machine) {
		before := m.sandboxes()
		for range 10 {
			m.kill()
			m.run("sleep 0.3")
		}
		shim, http := l.counted(m)
		if shim.Cut == 0 || shim.Lost > 0 {
			m.Errorf("over the shim %d calls were cut off, which should be some, and %d were lost, which should be none:\n%s", shim.Cut, shim.Lost, strings.Join(shim.Errors, "\n"))
		}
		// Over HTTP what was in flight ends with its connection.
		m.Logf("over HTTP %d of %d calls were lost", http.Lost, http.Calls)
		if shim.Fresh+http.Fresh > 0 {
			m.Errorf("sandboxes were lost:\n%s", strings.Join(append(shim.Errors, http.Errors...), "\n"))
		}
		if after := m.sandboxes(); !slices.Equal(after, before) {
			m.Errorf("the sandboxes were\n%q\nand are\n%q", before, after)
		}
	})
}
