package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// "A command that ran and failed is a nonzero Exit and a nil error."
func exitCodes(c *probe) {
	for _, code := range []int{0, 1, 42, 255} {
		r := c.exec(c.Context(), c.sandbox, c.verb(Exit, strconv.Itoa(code)))
		if !r.ok(code) || r.OOM || r.stdout+r.stderr != "" {
			c.Errorf("exit %d: got %v", code, r)
		}
	}
}

// "128+n after signal n", whether the shell dies of it or its child. 141 also
// shows that the daemon's own handling of SIGPIPE is not inherited.
func signals(c *probe) {
	for signal, code := range map[string]int{"TERM": 143, "KILL": 137, "PIPE": 141} {
		if r := c.sh("kill -" + signal + " $$; sleep 10"); !r.ok(code) {
			c.Errorf("SIG%s: got %v, want code %d", signal, r, code)
		}
	}
	r := c.sh(`sh -c 'kill -KILL $$'; echo $?`)
	if !r.ok(0) || r.stdout != "137\n" {
		c.Errorf("a child that dies: got %v", r)
	}
}

// "so is one that could not be started (127 not found … with the reason on
// Stderr)". The original gave 126 and the engine's words on stdout.
func notFound(c *probe) {
	for _, name := range []string{"no-such-command", "/no/such/command"} {
		r := c.exec(c.Context(), c.sandbox, backends.Exec{Args: []string{name, "x"}})
		if !r.ok(127) || r.stdout != "" || !strings.Contains(r.stderr, name) {
			c.Errorf("%s: got %v, want code 127 and the name on stderr", name, r)
		}
	}
	if c.lacks(Shell) == "" {
		if r := c.sh("no-such-command"); !r.ok(127) || !strings.Contains(r.stderr, "no-such-command") {
			c.Errorf("from the shell: got %v", r)
		}
	}
	c.usable(c.sandbox)
}

// "126 not executable", for a file without the x bit and for a directory.
func notExecutable(c *probe) {
	c.output(c.sandbox, "echo 'echo run' > plain; chmod 644 plain")
	for _, file := range []string{c.file("plain"), path.Dir(c.file("plain"))} {
		r := c.exec(c.Context(), c.sandbox, backends.Exec{Args: []string{file}})
		if !r.ok(126) || r.stdout != "" || r.stderr == "" {
			c.Errorf("%s: got %v, want code 126 and the reason on stderr", file, r)
		}
	}
}

// A directory that is not there is the command's failure, not the sandbox's;
// the reason names the directory, not the command, and nothing runs.
func badDirectory(c *probe) {
	e := c.verb(Echo, "ran")
	e.Dir = "/no/such/directory"
	r := c.exec(c.Context(), c.sandbox, e)
	if r.err != nil || r.Code != 126 && r.Code != 127 || r.stdout != "" || !strings.Contains(r.stderr, e.Dir) {
		c.Errorf("got %v, want code 126 or 127 and the directory on stderr", r)
	}
	c.usable(c.sandbox)
}

// Stdout and stderr never mix; nomad's driver suite has the same case with 43.
func streamsApart(c *probe) {
	r := c.sh("echo out; echo err >&2; echo out2; echo err2 >&2; exit 43")
	if !r.ok(43) || r.stdout != "out\nout2\n" || r.stderr != "err\nerr2\n" {
		c.Errorf("got %v", r)
	}
}

// Within a stream the order is the command's, over many small writes.
func streamOrder(c *probe) {
	const n = 2000
	r := c.sh(fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo $i; echo $i >&2; i=$((i+1)); done", n))
	var want strings.Builder
	for i := range n {
		fmt.Fprintln(&want, i)
	}
	if !r.ok(0) || r.stdout != want.String() || r.stderr != want.String() {
		c.Errorf("got %v", r)
	}
}

// "Stdout and Stderr get the output as it comes": the first line is there
// while the command, which waits for us to have seen it, still runs.
func outputAsItComes(c *probe) {
	c.output(c.sandbox, "rm -f seen")
	first := newWaitWriter("first\n")
	command := c.start(c.sandbox, backends.Exec{
		Command: "echo first; until [ -e seen ]; do sleep 0.05; done; echo last", Stdout: first})
	c.await("the first line of a command that runs on", first.seen)
	c.output(c.sandbox, ": > seen")
	if r := command.wait(); !r.ok(0) || first.String() != "first\nlast\n" {
		c.Errorf("got %q, %v", first.String(), r)
	}
}

// allBytes is every byte value, and what has a meaning somewhere on the way:
// ^P^Q are an engine's detach keys; the last line has no newline.
func allBytes() string {
	var b strings.Builder
	for i := range 256 {
		b.WriteByte(byte(i))
	}
	return b.String() + "\r\n\x10\x11\x04 end"
}

// No byte is special, in either direction.
func binaryBothWays(c *probe) {
	in := strings.Repeat(allBytes(), 500)
	e := c.verb(Cat)
	e.Stdin = strings.NewReader(in)
	if r := c.exec(c.Context(), c.sandbox, e); !r.ok(0) || r.stdout != in || r.stderr != "" {
		c.Errorf("%d of %d bytes came back, the same: %t; %v", len(r.stdout), len(in), r.stdout == in, r)
	}
}

// Nor on stderr, and stdout stays empty.
func binaryStderr(c *probe) {
	in := strings.Repeat(allBytes(), 500)
	r := c.exec(c.Context(), c.sandbox, backends.Exec{Command: "cat >&2", Stdin: strings.NewReader(in)})
	if !r.ok(0) || r.stderr != in || r.stdout != "" {
		c.Errorf("%d of %d bytes came back, the same: %t; %v", len(r.stderr), len(in), r.stderr == in, r)
	}
}

// A command has no terminal: with one, the streams could not be told apart
// and newlines would change.
func noTerminal(c *probe) {
	if r := c.sh("for fd in 0 1 2; do [ -t $fd ] && echo fd $fd is a terminal; done; true"); !r.ok(0) || r.stdout != "" {
		c.Errorf("got %v", r)
	}
}

// "nil is empty": a reader of stdin sees its end at once and does not wait.
func emptyStdin(c *probe) {
	for _, e := range []backends.Exec{{}, {Stdin: strings.NewReader("")}} {
		e.Args = c.verb(Cat).Args
		if r := c.exec(c.Context(), c.sandbox, e); !r.ok(0) || r.stdout+r.stderr != "" {
			c.Errorf("got %v", r)
		}
	}
}

// stdinSize is the most that the tool takes from a model.
const stdinSize = 2 << 20

// randomText is n bytes that repeat nowhere.
func randomText(n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(b)
	return string(b)
}

// "Stdin is read to its end": 2 MiB, more than any pipe holds.
func bigStdin(c *probe) {
	in := randomText(stdinSize)
	e := c.verb(Cat)
	e.Stdin = strings.NewReader(in)
	if r := c.exec(c.Context(), c.sandbox, e); !r.ok(0) || r.stdout != in {
		c.Errorf("%d of %d bytes came back, the same: %t; %v", len(r.stdout), len(in), r.stdout == in, r)
	}
}

// "… or until the command closes it": one that reads nothing still ends with
// its own code. The original lost the output and answered an empty error.
func stdinIgnored(c *probe) {
	for _, e := range []backends.Exec{c.verb(Exit, "3"), c.verb(Sleep, "0.2"), c.verb(Echo, "x")} {
		e.Stdin = strings.NewReader(randomText(stdinSize))
		r := c.exec(c.Context(), c.sandbox, e)
		if r.err != nil || r.stderr != "" {
			c.Errorf("%q: got %v", e.Args, r)
		}
	}
	c.usable(c.sandbox)
}

// The same for one that reads a little and ends.
func stdinHalfRead(c *probe) {
	in := strings.Repeat("0123456789", stdinSize/10)
	r := c.exec(c.Context(), c.sandbox, backends.Exec{Command: "head -c 10; exit 5", Stdin: strings.NewReader(in)})
	if !r.ok(5) || r.stdout != "0123456789" {
		c.Errorf("got %v", r)
	}
}

// Stdin and output flow at the same time. The original wrote all of stdin
// before it read any output: this command, which does it the other way round,
// hung its session for ever.
func stdinAndOutputAtOnce(c *probe) {
	r := c.exec(c.Context(), c.sandbox, backends.Exec{
		Command: "head -c 3000000 /dev/zero; cat > /dev/null; echo end >&2",
		Stdin:   strings.NewReader(randomText(stdinSize)),
	})
	if !r.ok(0) || len(r.stdout) != 3000000 || r.stderr != "end\n" {
		c.Errorf("got %v", r)
	}
}

// 2 MiB in come back on both streams, a piece at a time.
func stdinEchoedOnBoth(c *probe) {
	in := randomText(stdinSize)
	r := c.exec(c.Context(), c.sandbox, backends.Exec{
		Command: "while dd bs=65536 count=1 2>/dev/null > piece && [ -s piece ]; do cat piece; cat piece >&2; done",
		Stdin:   strings.NewReader(in),
	})
	if !r.ok(0) || r.stdout != in || r.stderr != in {
		c.Errorf("%d and %d of %d bytes came back; %v", len(r.stdout), len(r.stderr), len(in), r)
	}
}

// "nil discards", and the command does not notice.
func nilWriters(c *probe) {
	run := func(e backends.Exec, code int) {
		var exit backends.Exit
		var err error
		c.within("Exec without a writer", func() { exit, err = c.sandbox.Exec(c.Context(), e) })
		if err != nil || exit.Code != code {
			c.Errorf("%.40q: got %+v, %v; want code %d", e, exit, err, code)
		}
	}
	run(c.verb(Echo, strings.Repeat("x", 1<<16)), 0)
	run(c.verb(Exit, "7"), 7)
	if c.lacks(Shell) != "" {
		return
	}
	var stderr bytes.Buffer
	run(backends.Exec{Command: "head -c 1000000 /dev/zero; echo err >&2; exit 9", Stderr: &stderr}, 9)
	if stderr.String() != "err\n" {
		c.Errorf("with Stderr only: got %q", stderr.String())
	}
}

// "Calls to one writer do not overlap", also when it is the writer of both.
func oneWriterForBoth(c *probe) {
	count := newCountingWriter()
	count.each = func() { time.Sleep(100 * time.Microsecond) } // so that calls can meet
	w := &guardedWriter{suite: c.suite, name: "the writer of both streams", over: new(atomic.Bool), w: count}
	var exit backends.Exit
	var err error
	c.within("Exec", func() {
		exit, err = c.sandbox.Exec(c.Context(), backends.Exec{
			Command: "head -c 1000000 /dev/zero & head -c 1000000 /dev/zero >&2; wait", Stdout: w, Stderr: w})
	})
	if err != nil || exit.Code != 0 || count.n.Load() != 2000000 {
		c.Errorf("got %d bytes, %+v, %v", count.n.Load(), exit, err)
	}
}

// A reader that is slower than the command loses nothing.
func slowWriter(c *probe) {
	w := newCountingWriter()
	w.each = func() { time.Sleep(time.Millisecond) }
	r := c.exec(c.Context(), c.sandbox, backends.Exec{Command: "head -c 4000000 /dev/zero; echo end >&2", Stdout: w})
	if !r.ok(0) || w.n.Load() != 4000000 || r.stderr != "end\n" {
		c.Errorf("got %d bytes, %v", w.n.Load(), r)
	}
}

// 100 MiB pass through whole, and are never all in memory: the original put
// 3 GiB into a server's.
func muchOutput(c *probe) {
	const size = 100 << 20
	w := newCountingWriter()
	var most, base uint64
	inUse := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	base = inUse()
	next := int64(0)
	w.each = func() {
		if w.n.Load() >= next {
			next += size / 8
			most = max(most, inUse())
		}
	}
	r := c.exec(c.Context(), c.sandbox, backends.Exec{Command: fmt.Sprintf("head -c %d /dev/zero", size), Stdout: w})
	if !r.ok(0) || w.n.Load() != size {
		c.Errorf("got %d bytes of %d, %v", w.n.Load(), size, r)
	}
	if most > base+32<<20 {
		c.Errorf("%d MiB of memory were in use for it", (most-base)>>20)
	}
}

// oddWords are what a shell, a join or a careless encoder would change.
var oddWords = []string{"a b", "", "$HOME", "*", "'", `"`, `\n`, "`id`", "; exit 1", "ü 你好 🙂", "line\nbreak", "tab\t", "%s", "x=y"}

// "run as is".
func argsAsTheyAre(c *probe) {
	r := c.exec(c.Context(), c.sandbox, c.verb(Echo, oddWords...))
	if want := strings.Join(oddWords, " ") + "\n"; !r.ok(0) || r.stdout != want {
		c.Errorf("got %v, want %q", r, want)
	}
	if c.lacks(Shell) == "" {
		r := c.exec(c.Context(), c.sandbox, backends.Exec{Args: append([]string{"printf", "<%s>"}, oddWords...)})
		if want := "<" + strings.Join(oddWords, "><") + ">"; !r.ok(0) || r.stdout != want {
			c.Errorf("got %v, want %q", r, want)
		}
	}
}

// A thousand of them.
func manyArgs(c *probe) {
	words := make([]string, 1000)
	for i := range words {
		words[i] = fmt.Sprintf("word-%d", i)
	}
	r := c.exec(c.Context(), c.sandbox, c.verb(Echo, words...))
	if !r.ok(0) || r.stdout != strings.Join(words, " ")+"\n" {
		c.Errorf("got %v", r)
	}
}

// A command of 100 KiB runs. One of 200 KiB is more than Linux takes in one
// argument: it runs all the same, or says why not. The original said
// "Argument list too long: 'docker'".
func longCommand(c *probe) {
	for _, size := range []int{50 << 10, 200 << 10} {
		text := strings.Repeat("x", size)
		r := c.sh("echo " + text + " | wc -c; exit 4")
		ran := r.ok(4) && strings.TrimSpace(r.stdout) == strconv.Itoa(size+1)
		refused := size > 100<<10 && strings.Contains(strings.ToLower(fmt.Sprint(r.stderr, r.err)), "too l") &&
			(r.err != nil || r.Code == 126)
		if !ran && !refused {
			c.Errorf("%d bytes: got %v", size, r)
		}
	}
	c.usable(c.sandbox)
}

// What cannot be an argument is refused, never cut short: what comes after
// the NUL may be what makes the command harmless.
func unrepresentable(c *probe) {
	for _, e := range []backends.Exec{c.verb(Echo, "kept\x00cut"), {Command: "echo kept\x00cut"}} {
		if e.Command != "" && c.lacks(Shell) != "" {
			continue
		}
		r := c.exec(c.Context(), c.sandbox, e)
		whole := strings.Contains(r.stdout, "kept\x00cut")
		if refused := r.err != nil || r.Code != 0; !whole && !refused {
			c.Errorf("%q: got %v", e, r)
		}
		c.usable(c.sandbox)
	}
}

// "shell for Exec.Command; "" = /bin/bash if there is one, else /bin/sh".
func defaultShell(c *probe) {
	sb := c.create(c.open(func(s *backends.Spec) { s.Shell = "" }))
	if !c.target().Driver.Features.Shell {
		c.Skip("the driver has no shell of its own")
	}
	if got := c.output(sb, `if [ -x /bin/bash ] && [ -z "$BASH_VERSION" ]; then echo there is a bash; fi`); got != "" {
		c.Errorf("the shell is not bash although %s", got)
	}
	sb = c.create(c.open(func(s *backends.Spec) { s.Shell = "/bin/sh" }))
	if got := c.output(sb, "echo $0"); !strings.HasSuffix(strings.TrimSpace(got), "sh") || strings.Contains(got, "bash") {
		c.Errorf("with the shell /bin/sh, $0 is %q", got)
	}
}

// A shell that is not there fails each command, or Create, with the reason.
func noSuchShell(c *probe) {
	b := c.open(func(s *backends.Spec) { s.Shell = "/no/such/shell" })
	sb, err := c.tryCreate(c.Context(), b)
	if err != nil {
		if !strings.Contains(err.Error(), "/no/such/shell") {
			c.Errorf("create: %v, want an error that names the shell", err)
		}
		return
	}
	defer c.close(sb)
	r := c.exec(c.Context(), sb, backends.Exec{Command: "echo ran"})
	if !r.ok(127) || r.stdout != "" || !strings.Contains(r.stderr, "/no/such/shell") {
		c.Errorf("got %v, want code 127 and the shell on stderr", r)
	}
}

// "Args[0] is looked up in PATH": the command's own.
func pathLookup(c *probe) {
	c.output(c.sandbox, "mkdir -p bin; printf '#!/bin/sh\\necho tool \"$@\"\\n' > bin/our-tool; chmod 755 bin/our-tool")
	r := c.exec(c.Context(), c.sandbox, backends.Exec{
		Args: []string{"our-tool", "x"},
		Env:  map[string]string{"PATH": c.file("bin") + ":/usr/local/bin:/usr/bin:/bin"},
	})
	if !r.ok(0) || r.stdout != "tool x\n" {
		c.Errorf("got %v", r)
	}
}

// "Spec.Env: set for every command", "Exec.Env: on top of the Spec's", and
// only for that one, in that sandbox.
func env(c *probe) {
	odd := "two  words ü 你好 $HOME 'q' \"q\" \\"
	b := c.open(func(s *backends.Spec) {
		s.Env = maps.Clone(s.Env)
		if s.Env == nil {
			s.Env = map[string]string{}
		}
		maps.Copy(s.Env, map[string]string{"KT_SPEC": odd, "KT_BOTH": "spec", "KT_LINES": "a\nb\n", "KT_EMPTY": ""})
	})
	sb, other := c.create(b), c.create(b)
	lines := func(sb backends.Sandbox, extra map[string]string) []string {
		e := c.verb(Env)
		e.Env = extra
		r := c.exec(c.Context(), sb, e)
		if !r.ok(0) {
			c.Fatalf("env: %v", r)
		}
		return strings.Split(r.stdout, "\n")
	}
	check := func(got []string, want ...string) {
		for _, w := range want {
			if !slices.Contains(got, w) {
				c.Errorf("%q is not in the environment %q", w, got)
			}
		}
	}
	check(lines(sb, map[string]string{"KT_BOTH": "exec", "KT_EXEC": odd}), "KT_SPEC="+odd, "KT_BOTH=exec", "KT_EXEC="+odd, "KT_EMPTY=", "KT_LINES=a", "b")
	for _, sb := range []backends.Sandbox{sb, other} {
		again := lines(sb, nil)
		check(again, "KT_SPEC="+odd, "KT_BOTH=spec")
		if slices.Contains(again, "KT_EXEC="+odd) {
			c.Errorf("an Exec's variable is still there in the next: %q", again)
		}
	}
	if c.lacks(Shell) == "" {
		if got := c.output(sb, `printf %s "$KT_LINES|$KT_SPEC"`); got != "a\nb\n|"+odd {
			c.Errorf("the shell sees %q", got)
		}
	}
}

// The daemon's own environment, where credentials are, is nobody's.
func envOfTheDaemon(c *probe) {
	os.Setenv("KILNTAINERS_TEST_SECRET", "of the daemon")
	defer os.Unsetenv("KILNTAINERS_TEST_SECRET")
	r := c.exec(c.Context(), c.create(c.open(nil)), c.verb(Env))
	if !r.ok(0) || strings.Contains(r.stdout, "of the daemon") {
		c.Errorf("code %d, error %v; or this process's environment is in there", r.Code, r.err)
	}
}

// "Spec.Dir: where commands start", "Exec.Dir: "" = the Spec's".
func dir(c *probe) {
	for _, k := range []struct{ spec, exec, want string }{{"/", "", "/"}, {"/", "/tmp", "/tmp"}, {"/tmp", "/", "/"}, {"/tmp", "", "/tmp"}} {
		sb := c.create(c.open(func(s *backends.Spec) { s.Dir = k.spec }))
		e := c.verb(Pwd)
		e.Dir = k.exec
		var out bytes.Buffer
		e.Stdout = &out
		var err error
		c.within("Exec", func() { _, err = sb.Exec(c.Context(), e) })
		if err != nil || out.String() != k.want+"\n" {
			c.Errorf("spec %q, exec %q: got %q, %v; want %q", k.spec, k.exec, out.String(), err, k.want)
		}
	}
}

// Files persist from one command to the next.
func filesStay(c *probe) {
	c.output(c.sandbox, "mkdir -p stay/deep && echo first > stay/deep/file")
	c.output(c.sandbox, "echo second >> stay/deep/file")
	if got := c.output(c.sandbox, "cat stay/deep/file"); got != "first\nsecond\n" {
		c.Errorf("got %q", got)
	}
}

// Each command has a shell of its own: variables and cd do not persist. The
// tool's text promises as much to the model.
func shellStateDoesNot(c *probe) {
	before := c.output(c.sandbox, "pwd")
	c.output(c.sandbox, "VARIABLE=set; export VARIABLE; cd /; umask 077")
	if got := c.output(c.sandbox, `echo "$VARIABLE"; pwd`); got != "\n"+before {
		c.Errorf("got %q, want %q", got, "\n"+before)
	}
}

// "commands in one sandbox run in parallel": 20 at once, each with its own
// input, output and code.
func parallel(c *probe) {
	results := make([]result, 20)
	cat := c.verb(Cat)
	var all sync.WaitGroup
	for i := range results {
		e := cat
		e.Stdin = strings.NewReader(fmt.Sprintf("input of %d", i))
		all.Go(func() { results[i] = c.exec(c.Context(), c.sandbox, e) })
	}
	all.Wait()
	for i, r := range results {
		if want := fmt.Sprintf("input of %d", i); !r.ok(0) || r.stdout != want || r.stderr != "" {
			c.Errorf("%d: got %v", i, r)
		}
	}
}

// A long command does not hold up short ones. The original had one queue for
// each sandbox.
func longBesideShort(c *probe) {
	long := c.start(c.sandbox, c.verb(Sleep, "3600"))
	for range 5 {
		c.usable(c.sandbox)
	}
	if r := long.stop(); !errors.Is(r.err, errStop) {
		c.Errorf("the long one: got %v, want that it ran until it was cancelled", r)
	}
}

// "Exec does not wait for them even when they hold its output open". Docker's
// exec waits 2 s; the child here waits for us.
func backgroundDoesNotDelay(c *probe) {
	c.output(c.sandbox, "rm -f go")
	r := c.sh("(until [ -e go ]; do sleep 0.05; done; echo late) & echo started; exit 6")
	if !r.ok(6) || r.stdout != "started\n" {
		c.Errorf("got %v", r)
	}
	c.output(c.sandbox, ": > go")
	c.usable(c.sandbox)
}

// Features.Background: "processes outlive the command that started them;
// later commands see them".
func backgroundLives(c *probe) {
	c.output(c.sandbox, "sleep 3600 & echo $! > pid")
	for range 3 {
		if len(c.alive("pid")) == 0 {
			c.Fatalf("the background process is gone")
		}
	}
	c.output(c.sandbox, "kill -KILL $(cat pid)")
	if !c.eventually(func() bool { return len(c.alive("pid")) == 0 }) {
		c.Errorf("killed from a later command, it is still there")
	}
}

// A server that was started in the background and logs to the stdout it
// inherited must not die of SIGPIPE, nor may its log come out anywhere.
func backgroundMayWrite(c *probe) {
	c.output(c.sandbox, "rm -f go wrote")
	r := c.sh("(until [ -e go ]; do sleep 0.05; done; for i in 1 2 3; do echo log; sh -c 'echo log'; done; echo $? > wrote) & echo started")
	if !r.ok(0) || r.stdout != "started\n" {
		c.Errorf("got %v", r)
	}
	got := c.output(c.sandbox, ": > go; i=0; until [ -s wrote ] || [ $i -gt 200 ]; do sleep 0.05; i=$((i+1)); done; cat wrote")
	if got != "0\n" {
		c.Errorf("the background process did not come to its end: %q", got)
	}
}

// 200 commands leave nothing: no process in there, no goroutine and no
// descriptor out here.
func manyExecs(c *probe) {
	count := func() int { return 0 }
	if c.lacks(Shell)+c.lacks(Proc)+c.lacks(OwnProcesses) == "" {
		count = func() int {
			n, _ := strconv.Atoi(strings.TrimSpace(c.output(c.sandbox, "ls -d /proc/[0-9]* | wc -l")))
			return n
		}
	}
	c.usable(c.sandbox)
	inside, before := count(), takeCensus()
	e := c.verb(Echo, "x")
	for range 200 {
		if r := c.exec(c.Context(), c.sandbox, e); !r.ok(0) || r.stdout != "x\n" {
			c.Fatalf("got %v", r)
		}
	}
	before.compare(c, c.target().Goroutines, c.patience())
	if !c.eventually(func() bool { return count() <= inside }) {
		c.Errorf("there were %d processes in the sandbox, now there are %d", inside, count())
	}
}

// Orphans that end are reaped. In the original's containers, with tail as
// PID 1, each stayed a zombie.
func noZombies(c *probe) {
	c.output(c.sandbox, "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.05 &); done")
	got := c.output(c.sandbox, `sleep 0.2; i=0
		while z=$(grep -h '^State:' /proc/[0-9]*/status 2>/dev/null | grep -c Z); [ $z -gt 0 ] && [ $i -lt 100 ]; do
			sleep 0.05; i=$((i+1))
		done
		echo $z`)
	if got != "0\n" {
		c.Errorf("zombies that are left: %s", got)
	}
}
