package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"

	"github.com/kilntainers/kilntainers/backends/docker/dockertest"
)

// ran is the text of a command that ran, whole.
func ran(stdout, stderr string, code int) string {
	quote := func(s string) string {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(s)
		return strings.TrimSuffix(b.String(), "\n")
	}
	return fmt.Sprintf(`{"stdout":%s,"stderr":%s,"exit_code":%d,"exec_duration_ms":N}`, quote(stdout), quote(stderr), code)
}

// What users have read of the tool holds on real engines, word for word,
// through the shim and over HTTP.
func TestToolOnEngines(t *testing.T) {
	const (
		profile = `
			[defaults]
			backend = "docker"
			docker_host = "%HOST%"
			[profiles.box]
			[profiles.small]
			output_limit = 1000
			[profiles.shown]
			output_limit = 1000
			on_limit = "truncate"
			[profiles.plain]
			result = "text"`
		timedOut = "[kilntainers: command timed out after 1s]"
		tooMuch  = "[kilntainers: output limit exceeded (%d bytes). Command terminated. No output returned. Re-run with head, tail, or grep to manage output size.]"
		xs       = `head -c %d /dev/zero | tr '\0' x`
	)
	mib := strings.Repeat("x", 1<<20)
	cases := []struct {
		name, profile, args string
		isError             bool
		want                string // the text; with ^ in front a pattern of it
	}{
		{"ended", "box", arguments("command", "echo out; echo err >&2"), false, ran("out\n", "err\n", 0)},
		{"status", "box", arguments("command", "exit 7"), false, ran("", "", 7)},
		{"args", "box", arguments("args", []string{"printf", "%s|", "a b", "", "$HOME"}), false, ran("a b||$HOME|", "", 0)},
		{"all arguments", "box", arguments("command", "pwd; cat", "stdin", "in", "working_directory", "/usr/lib", "timeout", 60), false, ran("/usr/lib\nin", "", 0)},
		{"KILL", "box", arguments("command", "kill -KILL $$"), false, ran("", "", 128+9)},
		{"SEGV of args", "box", arguments("args", []string{"sh", "-c", "kill -SEGV $$"}), false, ran("", "", 128+11)},
		{"not found", "box", arguments("args", []string{"no-such"}), false, ran("", "kilntainers: cannot run \"no-such\": command not found\n", 127)},
		{"not found by the shell", "box", arguments("command", "no-such"), false, ran("", "/bin/bash: line 1: no-such: command not found\n", 127)},
		{"not executable", "box", arguments("args", []string{"/etc/passwd"}), false, ran("", "kilntainers: cannot run \"/etc/passwd\": Permission denied\n", 126)},
		{"not executable by the shell", "box", arguments("command", "/etc/passwd"), false, ran("", "/bin/bash: line 1: /etc/passwd: Permission denied\n", 126)},

		{"timeout", "box", arguments("command", "echo seen; sleep 86400", "timeout", 1), false, ran("", timedOut, 124)},
		{"timeout, truncated", "shown", arguments("command", "echo seen; echo err >&2; sleep 86400", "timeout", 1), false, ran("seen\n", "err\n"+timedOut, 124)},
		{"exactly the limit", "small", arguments("command", fmt.Sprintf(xs+"; "+xs+" >&2", 600, 400)), false, ran(mib[:600], mib[:400], 0)},
		{"one over", "small", arguments("command", fmt.Sprintf(xs+"; "+xs+" >&2", 600, 401)), false, ran("", fmt.Sprintf(tooMuch, 1000), 1)},
		{"exactly 2 MiB", "box", arguments("command", fmt.Sprintf(xs, 2<<20)), false, ran(mib+mib, "", 0)},
		{"2 MiB and one", "box", arguments("command", fmt.Sprintf(xs, 2<<20+1)), false, ran("", fmt.Sprintf(tooMuch, 2<<20), 1)},
		{"exactly the limit, truncated", "shown", arguments("command", fmt.Sprintf(xs, 1000)), false, ran(mib[:1000], "", 0)},
		{"over, truncated", "shown", arguments("command", "echo begin; yes"), false,
			`^{"stdout":"begin\\n(y\\n){247}\\n\[kilntainers: \d+ of \d+ bytes of stdout left out here\]\\n[y\\n]+","stderr":"` + regexp.QuoteMeta(fmt.Sprintf(tooMuch, 1000)) + `","exit_code":1,"exec_duration_ms":N}$`},

		{"both", "box", arguments("command", "ls", "args", []string{"ls"}), true, "Cannot provide both 'command' and 'args'. Use 'command' for shell commands or 'args' for direct execution."},
		{"neither", "box", arguments("stdin", "x"), true, "Must provide either 'command' or 'args'."},
		{"relative directory", "box", arguments("command", "ls", "working_directory", "tmp/x"), true, "working_directory must be an absolute path, got: tmp/x"},
		{"timeout of 0", "box", arguments("command", "ls", "timeout", 0), true, "timeout must be at least 1 second."},
		{"timeout of -1", "box", arguments("command", "ls", "timeout", -1), true, "timeout must be at least 1 second."},
		{"stdin of 2 MiB", "box", arguments("command", "wc -c", "stdin", mib+mib), false, ran("2097152\n", "", 0)},
		{"stdin over 2 MiB", "box", arguments("command", "wc -c", "stdin", mib+mib+"x"), true, "stdin content exceeds the 2 MiB limit (2097153 bytes). Split into smaller chunks or use a different approach."},
		{"unknown field", "box", arguments("command", "ls", "cwd", "/"), true, `Unknown argument "cwd". sandbox_exec takes command, args, stdin, working_directory, timeout.`},
		{"sandbox_id", "box", arguments("command", "ls", "sandbox_id", "x"), true, `Unknown argument "sandbox_id". sandbox_exec takes command, args, stdin, working_directory, timeout.`},
		{"null is absent", "box", `{"command":"pwd","args":null,"stdin":null,"working_directory":null,"timeout":null}`, false, ran("/\n", "", 0)},
		{"empty is absent", "box", `{"command":"","args":["pwd"],"stdin":"","working_directory":""}`, false, ran("/\n", "", 0)},

		{"not UTF-8", "box", arguments("command", `printf 'a\377\303b\360\237'; printf '\200' >&2`), false, ran("a\ufffd\ufffdb\ufffd\ufffd", "\ufffd", 0)},
		{"all of Unicode", "box", arguments("command", "cat", "stdin", "é€𝄞\u0001\u007f<&>\"\\\u2028"), false, ran("é€𝄞\u0001\u007f<&>\"\\\u2028", "", 0)},

		{"as text", "plain", arguments("command", "echo hi; echo oops >&2; exit 3"), false, "hi\n[stderr]\noops\n[exit code 3, N ms]"},
		{"as text, timeout", "plain", arguments("command", "sleep 86400", "timeout", 1), false, "[stderr]\n" + timedOut + "\n[exit code 124, N ms]"},

		{"background", "box", arguments("command", "sleep 86400 & echo $! > /tmp/pid"), false, ran("", "", 0)},
		{"and it stays", "box", arguments("command", "kill $(cat /tmp/pid) && echo killed"), false, ran("killed\n", "", 0)},
	}
	onEngines(t, func(t *testing.T, host string) {
		p := newProduct(t, host, profile).start()
		for way, dial := range map[string]func(profile string) caller{
			"shim": func(profile string) caller { return p.shim(profile) },
			"HTTP": func(profile string) caller { return p.http(profile) },
		} {
			callers := map[string]caller{}
			for _, c := range cases {
				if callers[c.profile] == nil {
					callers[c.profile] = dial(c.profile)
				}
				got := callers[c.profile].call(c.args)
				text := got.text()
				same := text == c.want
				if pattern, ok := strings.CutPrefix(c.want, "^"); ok {
					same = regexp.MustCompile("^" + pattern).MatchString(text)
				}
				if !same || got.IsError != c.isError {
					t.Errorf("%s, %s: got isError %v %.2000s\nwant %v %.2000s", way, c.name, got.IsError, text, c.isError, c.want)
				}
				checkForm(t, way+", "+c.name, got, c.profile != "plain" && !c.isError)
			}
			// Calls run in parallel: each of these waits for the other.
			if s, ok := callers["box"].(*shim); ok {
				meet := "touch /tmp/%s; until [ -e /tmp/%s ]; do sleep 0.01; done; echo met"
				a, b := s.begin(arguments("command", fmt.Sprintf(meet, "a", "b"))), s.begin(arguments("command", fmt.Sprintf(meet, "b", "a")))
				for range 2 {
					if got := s.answer(a, b); got.text() != ran("met\n", "", 0) {
						t.Errorf("calls at once: got %s", got.text())
					}
				}
			}
			for _, c := range callers {
				c.leave()
			}
			p.containers(0)
		}
	})
}

// checkForm checks how a result is written: the object as text and the very
// same as structured content, or text alone; characters as they are.
func checkForm(t *testing.T, what string, r reply, structured bool) {
	t.Helper()
	if !structured {
		if len(r.StructuredContent) > 0 {
			t.Errorf("%s: has structured content: %s", what, r.StructuredContent)
		}
		return
	}
	var a, b any
	if json.Unmarshal(r.StructuredContent, &a) != nil || json.Unmarshal([]byte(r.Content[0].Text), &b) != nil || fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("%s: the structured content is %.500s, the text %.500s", what, r.StructuredContent, r.Content[0].Text)
	}
	if escaped := regexp.MustCompile(`\\u(00[89a-f]|0[1-9a-f]|[1-9a-e]|f[0-9a-f])[0-9a-f]`).FindString(strings.ReplaceAll(r.raw, `\u2028`, "")); escaped != "" {
		t.Errorf("%s: %s is escaped in %.500s", what, escaped, r.raw)
	}
}

// A sandbox that cannot be made is told with its cause, and the next call
// tries again.
func TestCreateFailsOnEngines(t *testing.T) {
	onEngines(t, func(t *testing.T, host string) {
		name := fmt.Sprintf("kilntainers-test/%x:1", rand.Uint64())
		p := newProduct(t, host, `
			[profiles.late]
			backend = "docker"
			docker_host = "%HOST%"
			image = "`+name+`"
			pull = "never"
			[profiles.away]
			backend = "docker"
			docker_host = "unix://%DIR%/run/engine.sock"`).start()
		failed := func(c caller, want string) {
			t.Helper()
			want = "The sandbox could not be created: " + want + ". Nothing was run; the next call tries again."
			if got := sh(c, "echo hi"); !got.IsError || got.text() != want {
				t.Errorf("got isError %v %s\nwant %s", got.IsError, got.text(), want)
			}
		}
		works := func(c caller) {
			t.Helper()
			if got := sh(c, "echo hi"); got.text() != ran("hi\n", "", 0) {
				t.Errorf("got %s, want the next call to work", got.text())
			}
		}

		late, lateHTTP := p.shim("late"), p.http("late")
		absent := "the image " + name + " is not on the engine at " + host + ", and pull is \"never\"; pull it there, or set pull = \"missing\""
		failed(late, absent)
		failed(lateHTTP, absent)
		if err := p.engine.ImageTag(t.Context(), dockertest.Debian, name); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if _, err := p.engine.ImageRemove(context.Background(), name, image.RemoveOptions{}); err != nil {
				t.Error(err)
			}
		})
		works(late)
		works(lateHTTP)
		late.leave()
		lateHTTP.leave()

		g := &gateway{path: filepath.Join(p.dir, "run", "engine.sock"), host: host}
		t.Cleanup(g.close)
		away := p.shim("away")
		failed(away, "look for the image debian:bookworm-slim: there is no socket at "+g.path+"; start Docker (systemctl start docker), or set docker_host")
		g.open(t)
		works(away)
		// The engine goes while a command runs, and comes back.
		mark := newBrood()
		id := away.begin(arguments("command", mark.command()))
		p.until("the command runs", func() bool { n, _ := mark.count(); return n == broodSize })
		g.close()
		if got := away.answer(id); !got.IsError || got.text() != died("its engine went away") {
			t.Errorf("got %s", got.raw)
		}
		p.containers(0)
		g.open(t)
		if got := sh(away, "echo hi").output(t); got.Stdout != "hi\n" || got.Notice != replaced("its engine went away") {
			t.Errorf("got %+v", got)
		}
		away.leave()
		p.containers(0)
	})
}

// died and replaced are what models read when a sandbox is gone.
func died(why string) string {
	return "The sandbox died while this command ran, because " + why + ". Its files and processes are gone. The next call gets a fresh sandbox."
}

func replaced(why string) string {
	return "This is a new sandbox: the earlier one is gone because " + why + ". Its files and processes are lost."
}

// A sandbox that dies is told for what it is, once to the call that ran and
// once, as a notice, with the first result of its successor.
func TestSandboxDiesOnEngines(t *testing.T) {
	onEngines(t, func(t *testing.T, host string) {
		p := newProduct(t, host, `
			[profiles.box]
			backend = "docker"
			docker_host = "%HOST%"
			memory = "96m"
			docker_run_flags = ["--tmpfs=/big:size=1g"]`).start()
		outside := map[string]string{"docker": "it was stopped or removed from outside", "podman": "it was killed from outside or for memory (limit 96m)"}[filepath.Base(t.Name())]
		remove := func() {
			t.Helper()
			if err := p.engine.ContainerRemove(t.Context(), p.containers(1)[0].ID, container.RemoveOptions{Force: true}); err != nil {
				t.Fatal(err)
			}
		}
		replacedOnce := func(c caller, why string) {
			t.Helper()
			if got := sh(c, "ls /tmp").output(t); got.Stdout != "" || got.Notice != replaced(why) {
				t.Errorf("got %+v\nwant the notice %s", got, replaced(why))
			}
			if got := sh(c, "ls /tmp"); got.text() != ran("", "", 0) {
				t.Errorf("got %s, want no notice a second time", got.text())
			}
		}
		for _, c := range []caller{p.shim("box"), p.http("box")} {
			sh(c, "touch /tmp/f")
			remove()
			p.until("the daemon has noticed", func() bool { return len(p.status().Sandboxes) == 0 })
			replacedOnce(c, outside)

			mark := newBrood()
			answer := make(chan reply, 1)
			go func() { answer <- sh(c, mark.command()) }()
			p.until("the command runs", func() bool { n, _ := mark.count(); return n == broodSize })
			remove()
			if got := <-answer; !got.IsError || got.text() != died(outside) {
				t.Errorf("got %s\nwant %s", got.raw, died(outside))
			}
			if _, all := mark.count(); all != 0 {
				t.Errorf("%d processes are left of a removed sandbox", all)
			}
			replacedOnce(c, outside)

			// A command that takes all memory dies alone. Files in memory stay when
			// their writer is killed, so in the end the sandbox may have to go.
			if got := sh(c, "tail /dev/zero"); got.text() != ran("", "", 137) {
				t.Errorf("out of memory: got %s", got.text())
			}
			for range 50 {
				got := sh(c, "cat /dev/zero >> /big/x")
				if !got.IsError {
					continue
				}
				const starved = "it ran out of memory (limit 96m)"
				if got.text() != died(starved) {
					t.Errorf("out of memory: got %s\nwant %s", got.text(), died(starved))
				}
				replacedOnce(c, starved)
				break
			}
			if got := sh(c, "rm -f /big/x; echo ok").output(t); got.Stdout != "ok\n" {
				t.Errorf("after all: got %+v", got)
			}
			c.leave()
			p.containers(0)
		}
	})
}

// Whatever ends a call, a client or the daemon: no process of the call is
// left, no container, no volume but the agent's, no file.
func TestNothingLeftOnEngines(t *testing.T) {
	const profile = `
		[profiles.box]
		backend = "docker"
		docker_host = "%HOST%"
		output_limit = 100000
`
	onEngines(t, func(t *testing.T, host string) {
		p := newProduct(t, host, profile).start()
		p.stop(syscall.SIGTERM)
		stopped := p.files() // what a daemon keeps that has never done anything
		p.start()
		started := p.files()

		// noneLeft wants no process of the brood and n containers, which have no
		// volume but the agent's.
		noneLeft := func(after string, b brood, n int) {
			t.Helper()
			p.until("after "+after+" no process is left", func() bool { _, all := b.count(); return all == 0 })
			for _, c := range p.containers(n) {
				for _, m := range c.Mounts {
					if m.Type == "volume" && !strings.HasPrefix(m.Name, "kilntainers-agent-") {
						t.Errorf("after %s: the container has the volume %s", after, m.Name)
					}
				}
			}
		}
		sameFiles := func(after string, want []string) {
			t.Helper()
			if got := p.files(); !slices.Equal(got, want) {
				t.Errorf("after %s there are the files\n%q, want\n%q", after, got, want)
			}
		}
		// running begins a call that breeds, and returns once all of it runs.
		running := func(s *shim) (brood, int) {
			t.Helper()
			b := newBrood()
			id := s.begin(arguments("command", b.command()))
			p.until("the command runs", func() bool { n, _ := b.count(); return n == broodSize })
			return b, id
		}

		// What ends a call leaves its sandbox as it was.
		s := p.shim("box")
		sh(s, "echo mine > /tmp/f")
		mine := func(after string, c caller) {
			t.Helper()
			if got := sh(c, "cat /tmp/f"); got.text() != ran("mine\n", "", 0) {
				t.Errorf("after %s: got %s, want the sandbox as it was", after, got.text())
			}
		}
		b := newBrood()
		if got := s.call(arguments("command", b.command(), "timeout", 1)); got.output(t).ExitCode != 124 {
			t.Errorf("timeout: got %s", got.text())
		}
		noneLeft("a timeout", b, 1)
		mine("a timeout", s)
		b = newBrood()
		if got := sh(s, "(yes & setsid yes & yes >&2) & "+b.command()); got.output(t).ExitCode != 1 {
			t.Errorf("output limit: got %s", got.text())
		}
		noneLeft("an output limit", b, 1)
		mine("an output limit", s)
		b, id := running(s)
		s.send(fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d}}`, id))
		noneLeft("a cancel", b, 1)
		mine("a cancel", s)

		// A reload, by signal, leaves running calls alone too.
		b, id = running(s)
		p.configure(profile + `extended_tool_instruction = "edited"`)
		if err := p.process.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for told := ""; !strings.Contains(told, "notifications/tools/list_changed"); {
			told = s.next()
		}
		if n, _ := b.count(); n != broodSize {
			t.Errorf("after a reload %d processes are left of %d", n, broodSize)
		}
		s.send(fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d}}`, id))
		noneLeft("a reload and a cancel", b, 1)
		mine("a reload", s)
		s.leave()
		p.containers(0)
		sameFiles("a session", started)

		// What ends a client ends its sandbox.
		for _, end := range []struct {
			what string
			how  func(*shim) int
			code int
		}{
			{"SIGKILL of the client", func(s *shim) int { return s.signal(syscall.SIGKILL) }, -1},
			{"SIGTERM of the client", func(s *shim) int { return s.signal(syscall.SIGTERM) }, 0},
			{"SIGINT of the client", func(s *shim) int { return s.signal(syscall.SIGINT) }, 0},
			{"SIGHUP of the client", func(s *shim) int { return s.signal(syscall.SIGHUP) }, 0},
			{"the end of the client's input", func(s *shim) int { s.leave(); return 0 }, 0},
		} {
			s := p.shim("box")
			b, _ := running(s)
			if code := end.how(s); code != end.code {
				t.Errorf("%s: exit status %d, want %d", end.what, code, end.code)
			}
			noneLeft(end.what, b, 0)
		}
		h := p.http("box")
		b = newBrood()
		sh(h, "("+b.command()+") >/dev/null 2>&1 &")
		p.until("the command runs", func() bool { n, _ := b.count(); return n == broodSize })
		h.leave()
		noneLeft("the end of an HTTP session", b, 0)
		sameFiles("the clients' ends", started)

		// What ends the daemon ends everything. The client stays, is told, and goes
		// on with a fresh sandbox when there is a daemon again.
		s = p.shim("box")
		for _, end := range []struct {
			sig  syscall.Signal
			code int
			text string
		}{
			{syscall.SIGTERM, 0, "The sandbox died while this command ran, because the daemon is stopping. Its files and processes are gone. The next call gets a fresh sandbox."},
			{syscall.SIGINT, 0, "The sandbox died while this command ran, because the daemon is stopping. Its files and processes are gone. The next call gets a fresh sandbox."},
			{syscall.SIGKILL, -1, "The sandbox daemon restarted while this command ran. It may or may not have completed; check before running it again."},
		} {
			b, id := running(s)
			if code := p.stop(end.sig); code != end.code {
				t.Errorf("%v: exit status %d, want %d", end.sig, code, end.code)
			}
			noneLeft(end.sig.String()+" of the daemon", b, 0)
			if end.sig != syscall.SIGKILL {
				sameFiles(end.sig.String(), stopped)
			}
			p.start()
			if got := s.answer(id); !got.IsError || got.text() != end.text {
				t.Errorf("%v: the call got %s", end.sig, got.raw)
			}
			if got := sh(s, "echo again").output(t); got.Stdout != "again\n" || got.Notice != replaced("the sandbox daemon was restarted") {
				t.Errorf("%v: the next call got %+v", end.sig, got)
			}
			p.containers(1)
		}
		s.leave()
		p.containers(0)
		sameFiles("all of it", started)
		p.stop(syscall.SIGTERM)
		sameFiles("all of it and a stop", stopped)
	})
}

// Whatever goes on in a sandbox is answered in words, costs that sandbox at
// most, and leaves others alone.
func TestHostileOnEngines(t *testing.T) {
	onEngines(t, func(t *testing.T, host string) {
		p := newProduct(t, host, `
			[profiles.box]
			backend = "docker"
			docker_host = "%HOST%"
			memory = "128m"
			pids_limit = 100`).start()
		bystander, s := p.shim("box"), p.shim("box")
		sh(bystander, "echo mine > /tmp/f")
		undisturbed := func(what string) {
			t.Helper()
			if got := sh(bystander, "cat /tmp/f"); got.text() != ran("mine\n", "", 0) {
				t.Errorf("%s: somebody else got %s", what, got.text())
			}
		}
		const timedOut = `\[kilntainers: command timed out after 1s\]`
		touch := func(dir string) string {
			return `mkdir ` + dir + `/d; cd ` + dir + `/d; seq 1000000 | xargs touch 2>&1 | grep -m 1 'No space left on device'`
		}
		// Podman sets no limit to names, and /dev/shm is 64 MB whatever the memory
		// is, so they may fill it.
		podman := ""
		if strings.Contains(host, "podman") {
			podman = `|` + timedOut + `|"exit_code":137`
		}
		for _, c := range []struct{ name, command, want string }{ // want is a pattern
			{"signals to the first process", `for s in KILL STOP TERM INT HUP QUIT SEGV USR1; do kill -$s 1; done; echo alive`, `"stdout":"alive\\n"`},
			{"SIGKILL to all", `sleep 300 & kill -KILL -1; sleep 300`, `"exit_code":137`},
			{"SIGSTOP to all", `sleep 300 & kill -STOP -1; sleep 300`, timedOut},
			{"wrong frames", `for f in 0 1 2; do head -c 100 /dev/urandom > /proc/1/fd/$f; done; cat /proc/1/mem; echo tried`, `"stdout":"tried\\n".*Permission denied.*Permission denied.*Permission denied`},
			{"fork bomb", `trap '' TERM; b() { b | b & }; b; wait; sleep 300`, timedOut},
			{"all memory", `tail /dev/zero`, `"exit_code":137`},
			{"all of /tmp", `cat /dev/zero > /tmp/x; rm /tmp/x`, `No space left on device`},
			{"all of /tmp and of /dev/shm", `cat /dev/zero > /tmp/x; cat /dev/zero > /dev/shm/x`, `No space left on device.*No space left on device` + podman},
			{"all names of /tmp", touch("/tmp"), `No space left on device` + podman},
			{"all names of /dev/shm", touch("/dev/shm"), `No space left on device` + podman},
			{"endless output", `yes & yes >&2 & wait`, `output limit exceeded`},
			{"endless line", `cat /dev/zero`, `output limit exceeded`},
			{"no output to write to", `exec >&- 2>&-; sleep 300`, timedOut},
		} {
			timeout := 60
			if strings.Contains(c.want, timedOut) {
				timeout = 1
			}
			got := s.call(arguments("command", c.command, "timeout", timeout))
			if !regexp.MustCompile(c.want).MatchString(got.text()) {
				t.Errorf("%s: got %.1000s", c.name, got.text())
			}
			undisturbed(c.name)
			if podman != "" && strings.Contains(c.want, podman) {
				s.leave() // whatever runs there now is killed
				s = p.shim("box")
			}
			// The sandbox may have died of it, which would be told. What is left in
			// /tmp is in its memory, but never all of it.
			if got := sh(s, "rm -rf /tmp/[dx] /dev/shm/[dx]; echo next").output(t); got.Stdout != "next\n" {
				t.Errorf("%s: the next call got %+v", c.name, got)
			}
		}
		s.leave()
		p.containers(1)

		// What no command can do, done from outside to the first process.
		for sig, why := range map[syscall.Signal]string{
			syscall.SIGKILL: "it was killed from outside or for memory (limit 128m)",
			syscall.SIGSTOP: "a command in it could not be killed",
		} {
			s := p.shim("box")
			in, err := p.engine.ContainerInspect(t.Context(), strings.TrimSpace(sh(s, "hostname").output(t).Stdout))
			if err != nil || in.State.Pid <= 1 {
				t.Fatalf("no process to send a signal to: %v %+v", err, in.State)
			}
			if err := syscall.Kill(in.State.Pid, sig); err != nil {
				t.Fatal(err)
			}
			if got := s.call(arguments("command", "sleep 300", "timeout", 1)); !got.IsError || got.text() != died(why) {
				t.Errorf("%v: got %s\nwant %s", sig, got.raw, died(why))
			}
			undisturbed(sig.String())
			if got := sh(s, "echo next").output(t); got.Stdout != "next\n" || got.Notice != replaced(why) {
				t.Errorf("%v: the next call got %+v", sig, got)
			}
			s.leave()
		}
		bystander.leave()
		p.containers(0)
	})
}
