package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// How commands end, and what the model is told of those that do not start.
func TestExit(t *testing.T) {
	b := newBox(t, Options{})
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := file("plain", "", 0o644)
	lost := file("lost", "#!/no/such/interpreter\n", 0o755)
	junk := file("junk", "\x00\x01junk", 0o755)
	good := file("good", "#!/bin/sh\necho good $1\n", 0o755)
	command := func(s string) backends.Exec { return backends.Exec{Command: s} }
	args := func(s ...string) backends.Exec { return backends.Exec{Args: s} }
	const tooLong = "argument list too long (131071 bytes for one argument, about 2 MiB in all)\n"
	const zero = "kilntainers: cannot run the command: a zero byte in an argument, a variable or the directory\n"

	for _, test := range []struct {
		name           string
		exec           backends.Exec
		code           int
		stdout, stderr string
	}{
		{"both streams", command("echo out; echo err >&2"), 0, "out\n", "err\n"},
		{"status", command("exit 3"), 3, "", ""},
		{"largest status", command("exit 255"), 255, "", ""},
		{"signal", command("kill -TERM $$"), 143, "", ""},
		{"killed", command("kill -KILL $$"), 137, "", ""},
		{"arguments as they are", args("printf", "%s|", "a b", "", "*", "\n", "é"), 0, "a b||*|\n|é|", ""},
		{"path", args("/bin/echo", "x"), 0, "x\n", ""},
		{"script", args(good, "x"), 0, "good x\n", ""},
		{"stdin is empty", command("cat; readlink /proc/self/fd/0"), 0, "/dev/null\n", ""},
		{"no descriptors but three", command("cd /proc/self/fd; echo *"), 0, "0 1 2 3\n", ""}, // 3 is for the *
		{"own session, no terminal", command("read -r _ _ _ _ _ s t _ </proc/$$/stat; echo $((s == $$)) $t"), 0, "1 0\n", ""},
		// Signals 32 and 33 are libc's own, and make leaves them ignored.
		{"signals as by default", args("sed", "-nE", `/^SigIgn/s/[01][08]0000000$/000000000/; /^Sig(Blk|Ign)/p`, "/proc/self/status"), 0,
			"SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n", ""},
		{"directory", backends.Exec{Args: []string{"pwd"}, Dir: "/usr/lib"}, 0, "/usr/lib\n", ""},
		{"relative to the directory", backends.Exec{Args: []string{"./good", "y"}, Dir: dir}, 0, "good y\n", ""},
		{"variable", backends.Exec{Command: "echo $A-$B-", Env: map[string]string{"A": "1 =", "B": ""}}, 0, "1 =--\n", ""},
		{"PATH of the command", backends.Exec{Args: []string{"good", "z"}, Env: map[string]string{"PATH": "/none:" + dir}},
			0, "good z\n", ""},
		{"current directory in PATH", backends.Exec{Args: []string{"good", "z"}, Dir: dir, Env: map[string]string{"PATH": "/none:"}},
			0, "good z\n", ""},

		{"not found", args("no-such-program", "x"), 127, "",
			"kilntainers: cannot run \"no-such-program\": command not found\n"},
		{"no name", args(""), 127, "", "kilntainers: cannot run \"\": command not found\n"},
		{"no file", args("/no/such/file"), 127, "",
			"kilntainers: cannot run \"/no/such/file\": No such file or directory\n"},
		{"below a file", args(plain + "/x"), 126, "",
			"kilntainers: cannot run \"" + plain + "/x\": Not a directory\n"},
		{"not executable", args(plain), 126, "", "kilntainers: cannot run \"" + plain + "\": Permission denied\n"},
		{"not executable in PATH", backends.Exec{Args: []string{"plain"}, Env: map[string]string{"PATH": dir + ":/bin"}}, 126, "",
			"kilntainers: cannot run \"plain\": Permission denied\n"},
		{"a directory", args("/tmp"), 126, "", "kilntainers: cannot run \"/tmp\": Permission denied\n"},
		{"no interpreter", args(lost), 126, "",
			"kilntainers: cannot run \"" + lost + "\": the interpreter or loader that it needs does not exist\n"},
		{"no program", args(junk), 126, "", "kilntainers: cannot run \"" + junk + "\": Exec format error\n"},
		{"no directory", backends.Exec{Command: "echo x", Dir: "/no/such"}, 126, "",
			"kilntainers: cannot change to directory \"/no/such\": No such file or directory\n"},
		{"directory is a file", backends.Exec{Command: "echo x", Dir: plain}, 126, "",
			"kilntainers: cannot change to directory \"" + plain + "\": Not a directory\n"},
		{"long name", args(strings.Repeat("x", 5000)), 127, "",
			"kilntainers: cannot run \"" + strings.Repeat("x", 256) + "\": command not found\n"},

		{"argument too long", args("echo", strings.Repeat("x", 128<<10)), 126, "",
			"kilntainers: cannot run \"echo\": " + tooLong},
		{"arguments too long", args("echo", strings.Repeat("x", 3<<20)), 126, "",
			"kilntainers: cannot run the command: " + tooLong},
		{"too many arguments", args(make([]string, 40000)...), 126, "",
			"kilntainers: cannot run the command: " + tooLong},
		{"zero byte in an argument", args("echo", "a\x00b"), 126, "", zero},
		{"zero byte in a command", command("echo a\x00b"), 126, "", zero},
		{"zero byte in a variable", backends.Exec{Command: "true", Env: map[string]string{"A\x00B": "C"}}, 126, "", zero},
		{"zero byte in the directory", backends.Exec{Command: "true", Dir: "/\x00"}, 126, "", zero},
		{"variable without a name", backends.Exec{Command: "true", Env: map[string]string{"": "x"}}, 126, "",
			"kilntainers: cannot run the command: an environment variable without a name, or with = in it\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			stdout, stderr, x := b.run(t, Command{Exec: test.exec})
			if x.Code != test.code || x.OOM || stdout != test.stdout || stderr != test.stderr {
				t.Errorf("got %+v, stdout %q, stderr %q; want %d, %q, %q", x, stdout, stderr, test.code, test.stdout, test.stderr)
			}
		})
	}
	b.onlyInit(t)
}

func TestExecWantsOneOfCommandAndArgs(t *testing.T) {
	b := newBox(t, Options{})
	for _, e := range []backends.Exec{{}, {Command: "true", Args: []string{"true"}}} {
		if _, err := b.Exec(t.Context(), Command{Exec: e}); err == nil || errors.Is(err, backends.ErrGone) {
			t.Errorf("got %v, want an error that is not ErrGone", err)
		}
	}
}

// The image's variables are PID 1's, and a command's come on top of them.
func TestEnvironment(t *testing.T) {
	t.Setenv("FROM_IMAGE", "a")
	t.Setenv("REPLACED", "b")
	b := newBox(t, Options{})
	stdout, _, _ := b.run(t, Command{Exec: backends.Exec{
		Command: "echo $FROM_IMAGE $REPLACED; env | grep -c REPLACED=", Env: map[string]string{"REPLACED": "c"}}})
	if want := "a c\n1\n"; stdout != want {
		t.Errorf("got %q, want %q", stdout, want)
	}
}

func TestShells(t *testing.T) {
	b := newBox(t, Options{})
	if h := b.Hello(); !h.Bash || !h.Sh || h.UID != 0 {
		t.Errorf("got %+v, want both shells and root", h)
	}
	for shell, want := range map[string]string{"": "/bin/bash", "sh": "sh", "/bin/sh": "/bin/sh", "/bin/bash": "/bin/bash"} {
		stdout, _, _ := b.run(t, Command{Shell: shell, Exec: backends.Exec{Command: "echo $0"}})
		if stdout != want+"\n" {
			t.Errorf("shell %q: got %q, want %q", shell, stdout, want)
		}
	}
	_, stderr, x := b.run(t, Command{Shell: "/bin/no-shell", Exec: backends.Exec{Command: "echo $0"}})
	if want := "kilntainers: cannot run \"/bin/no-shell\": No such file or directory\n"; x.Code != 127 || stderr != want {
		t.Errorf("got %d, %q; want 127, %q", x.Code, stderr, want)
	}
}

// An image may have one shell, or none.
func TestNoShell(t *testing.T) {
	need(t, "unshare", canUnshare())
	without := func(script string) *box {
		return launch(t, unshare("/bin/sh", "-c", script+` && exec "$0" "$@"`, agentFile(t))...).dial(t, Options{})
	}
	b := without("mount --bind /dev/null /bin/bash")
	if h := b.Hello(); h.Bash || !h.Sh {
		t.Errorf("got %+v, want sh alone", h)
	}
	if got := b.sh(t, "echo $0"); got != "/bin/sh\n" {
		t.Errorf("got %q, want /bin/sh", got)
	}

	b = without("mount --bind /dev/null /bin/bash && mount --bind /dev/null $(readlink -f /bin/sh)")
	if h := b.Hello(); h.Bash || h.Sh {
		t.Errorf("got %+v, want no shell", h)
	}
	_, stderr, x := b.run(t, Command{Exec: backends.Exec{Command: "echo x"}})
	want := "kilntainers: cannot run a shell command: there is neither /bin/bash nor /bin/sh in here; run a program with args instead\n"
	if x.Code != 127 || stderr != want {
		t.Errorf("got %d, %q; want 127, %q", x.Code, stderr, want)
	}
}

// A command that is too long for one argument behaves as a short one does.
func TestLongCommand(t *testing.T) {
	b := newBox(t, Options{})
	const script = `echo "$0 $#" $LINENO
cat
f() { echo "f $1"; }; f x
x='é€𝄞'; echo "$x ${#x}"
cat <<E
here $((1 + 1)) \$x
E
for i in 1 2; do
  echo $i
done
trap 'echo bye' EXIT
(exit 4) || echo "not $?"
no-such-program
echo "line $LINENO" >&2
set -e
false
echo unreachable
`
	for _, shell := range []string{"/bin/bash", "/bin/sh"} {
		result := func(command string) string {
			stdout, stderr, x := b.run(t, Command{Shell: shell, Exec: backends.Exec{
				Command: command, Stdin: strings.NewReader("from stdin\n"), Env: map[string]string{"LC_ALL": "C.UTF-8"}}})
			// dash says where it found the mistake: in eval.
			return fmt.Sprintf("%d\n%s%s", x.Code, stdout, strings.ReplaceAll(stderr, "eval: ", ""))
		}
		want := result(script)
		for _, size := range []int{maxArg, maxArg + 1, 300_000, 1_500_000} {
			pad := size - len(script)
			if got := result(script + strings.Repeat("\n# é", pad/5) + strings.Repeat("#", pad%5)); got != want {
				t.Errorf("%s, %d bytes: got\n%s\nwant\n%s", shell, size, got, want)
			}
		}
		// A string with characters of all lengths at the cuts.
		text := strings.Repeat("é€𝄞x", 40_000)
		if got, want := result("printf %s '"+text+"' | sha256sum"), fmt.Sprintf("0\n%x  -\n", sha256.Sum256([]byte(text))); got != want {
			t.Errorf("%s: got %s, want %s", shell, got, want)
		}
	}
}

func TestStdin(t *testing.T) {
	b := newBox(t, Options{})
	random := make([]byte, 2<<20)
	rand.NewChaCha8([32]byte{}).Read(random)
	for _, size := range []int{0, 1, 4096, maxData - 1, maxData, maxData + 1, stdinWindow, stdinWindow + 1, len(random)} {
		for name, stdin := range map[string]io.Reader{
			"in memory":            bytes.NewReader(random[:size]),
			"by reader":            io.MultiReader(bytes.NewReader(random[:size])),
			"data and EOF at once": iotest.DataErrReader(bytes.NewReader(random[:size])),
		} {
			stdout, stderr, x := b.run(t, Command{Exec: backends.Exec{Args: []string{"cat"}, Stdin: stdin}})
			if x.Code != 0 || stderr != "" || stdout != string(random[:size]) {
				t.Errorf("%d bytes %s: got %+v, %d bytes, %q", size, name, x, len(stdout), stderr)
			}
		}
	}

	t.Run("one byte at a time", func(t *testing.T) {
		stdout, _, _ := b.run(t, Command{Exec: backends.Exec{
			Args: []string{"cat"}, Stdin: iotest.OneByteReader(bytes.NewReader(random[:3000]))}})
		if stdout != string(random[:3000]) {
			t.Errorf("got other bytes than were sent")
		}
	})
	t.Run("not read", func(t *testing.T) {
		_, _, x := b.run(t, Command{Exec: backends.Exec{Args: []string{"true"}, Stdin: bytes.NewReader(random)}})
		if x.Code != 0 {
			t.Errorf("got %+v, want success", x)
		}
	})
	t.Run("endless", func(t *testing.T) {
		stdout, _, x := b.run(t, Command{Exec: backends.Exec{Command: "head -c 300000 | wc -c", Stdin: zeros{}}})
		if x.Code != 0 || stdout != "300000\n" {
			t.Errorf("got %+v, %q; want 300000", x, stdout)
		}
	})
	t.Run("closed by the command", func(t *testing.T) {
		stdout, _, x := b.run(t, Command{Exec: backends.Exec{Command: "exec <&-; sleep 0.1; echo done", Stdin: zeros{}}})
		if x.Code != 0 || stdout != "done\n" {
			t.Errorf("got %+v, %q; want done", x, stdout)
		}
	})
	t.Run("closed by the command before it fails", func(t *testing.T) {
		closed := make(chan bool)
		failing := reader(func(p []byte) (int, error) {
			<-closed
			time.Sleep(50 * time.Millisecond)
			return 0, errors.New("broken")
		})
		_, err := b.Exec(t.Context(), Command{Exec: backends.Exec{Command: "exec <&-; echo; sleep 0.3", Stdin: failing,
			Stdout: ready(func() { close(closed) })}})
		if err != nil {
			t.Errorf("got %v, want nil", err)
		}
	})
	t.Run("answered line by line", func(t *testing.T) {
		in, out := io.Pipe()
		lines := make(chan string)
		go func() {
			defer out.Close()
			for range 3 {
				io.WriteString(out, "ping\n")
				<-lines
			}
		}()
		_, err := b.Exec(t.Context(), Command{Exec: backends.Exec{
			Command: "while read -r l; do echo $l; done", Stdin: in,
			Stdout: writer(func(p []byte) (int, error) { lines <- string(p); return len(p), nil })}})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("fails", func(t *testing.T) {
		broken := errors.New("broken")
		for _, n := range []int{0, 10, maxData, len(random)} {
			_, err := b.Exec(t.Context(), Command{Exec: backends.Exec{
				Command: "cat; sleep 1000", Stdin: io.MultiReader(bytes.NewReader(random[:n]), iotest.ErrReader(broken))}})
			if !errors.Is(err, broken) {
				t.Errorf("got %v, want the reader's error", err)
			}
		}
		_, err := b.Exec(t.Context(), Command{Exec: backends.Exec{Command: "cat", Stdin: stuck{}}})
		if !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("got %v, want %v", err, io.ErrNoProgress)
		}
	})
	b.onlyInit(t)
}

type (
	zeros  struct{}                    // reads for ever
	stuck  struct{}                    // reads nothing
	reader func(p []byte) (int, error) // reads as the function does
	writer func(p []byte) (int, error) // writes as the function does
)

func (zeros) Read(p []byte) (int, error)     { clear(p); return len(p), nil }
func (stuck) Read(p []byte) (int, error)     { return 0, nil }
func (r reader) Read(p []byte) (int, error)  { return r(p) }
func (w writer) Write(p []byte) (int, error) { return w(p) }

// counter counts what is written, and notices calls that overlap.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) Write(p []byte) (int, error) {
	if !c.mu.TryLock() {
		panic("two calls at once")
	}
	defer c.mu.Unlock()
	c.n += len(p)
	return len(p), nil
}

func TestOutput(t *testing.T) {
	b := newBox(t, Options{})
	t.Run("100 MiB", func(t *testing.T) {
		var c counter
		_, err := b.Exec(t.Context(), Command{Exec: backends.Exec{Command: "head -c 104857600 /dev/zero", Stdout: &c}})
		if err != nil || c.n != 100<<20 {
			t.Errorf("got %d bytes, %v; want %d", c.n, err, 100<<20)
		}
	})
	t.Run("both streams to one writer", func(t *testing.T) {
		var c counter
		_, err := b.Exec(t.Context(), Command{Exec: backends.Exec{
			Command: "head -c 5000000 /dev/zero & head -c 5000000 /dev/zero >&2; wait", Stdout: &c, Stderr: &c}})
		if err != nil || c.n != 10_000_000 {
			t.Errorf("got %d bytes, %v; want 10000000", c.n, err)
		}
	})
	t.Run("slow reader", func(t *testing.T) {
		// The command has ended long before its output was taken. All of it comes.
		var c counter
		slow := writer(func(p []byte) (int, error) { time.Sleep(time.Millisecond); return c.Write(p) })
		_, err := b.Exec(t.Context(), Command{Exec: backends.Exec{Command: "head -c 3000000 /dev/zero", Stdout: slow}})
		if err != nil || c.n != 3_000_000 {
			t.Errorf("got %d bytes, %v; want 3000000", c.n, err)
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		_, err := b.Exec(t.Context(), Command{Exec: backends.Exec{Command: "head -c 1000000 /dev/zero; echo x >&2"}})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("as it comes", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := b.Exec(ctx, Command{Exec: backends.Exec{Command: "echo x; sleep 1000",
			Stdout: writer(func(p []byte) (int, error) { cancel(); return len(p), nil })}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want canceled", err)
		}
	})
	t.Run("short write", func(t *testing.T) {
		_, err := b.Exec(t.Context(), Command{Exec: backends.Exec{Command: "echo x; sleep 1000",
			Stdout: writer(func(p []byte) (int, error) { return 0, nil })}})
		if !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("got %v, want %v", err, io.ErrShortWrite)
		}
	})
	b.onlyInit(t)
}

// What a command leaves running stays, is seen by the next, and is not waited
// for; and it may write for as long as it likes.
func TestBackground(t *testing.T) {
	b := newBox(t, Options{})
	file := filepath.Join(t.TempDir(), "done")
	b.sh(t, "(head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2; touch "+file+"; exec sleep 1000) &")
	for range 500 {
		if _, err := os.Stat(file); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error("the background process could not write all of its output")
	}
	if got := b.sh(t, "pgrep -c sleep; pkill sleep"); got != "1\n" {
		t.Errorf("got %q, want the background process", got)
	}
	b.onlyInit(t)

	// All kinds of them, and more than there are slots for commands or pipes.
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 15 {
				b.sh(t, "sleep 1000 &")
			}
		})
	}
	wg.Wait()
	b.sh(t, "setsid sleep 1000 & (sleep 1000 &) & nohup sleep 1000 &")
	if got := b.sh(t, "pgrep -c sleep; pkill sleep"); got != "303\n" {
		t.Errorf("got %q, want 303 background processes", got)
	}
	b.onlyInit(t)
}

func TestManyAtOnce(t *testing.T) {
	b := newBox(t, Options{})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			want := fmt.Sprintf("%d\n", i)
			stdout, _, x := b.run(t, Command{Exec: backends.Exec{Command: "cat; head -c 200000 /dev/zero >&2; exit $N",
				Stdin: strings.NewReader(want), Env: map[string]string{"N": fmt.Sprint(i)}}})
			if stdout != want || x.Code != i {
				t.Errorf("got %q, %d; want %q, %d", stdout, x.Code, want, i)
			}
		})
	}
	wg.Wait()
	b.onlyInit(t)
}

// One more than 128 at once is told so; it does not wait, and harms none.
func TestTooManyAtOnce(t *testing.T) {
	b := newBox(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	started := make(chan bool, 128)
	for range 128 {
		wg.Go(func() {
			_, err := b.Exec(ctx, Command{Exec: backends.Exec{Command: "echo x; exec sleep 1000",
				Stdout: writer(func(p []byte) (int, error) { started <- true; return len(p), nil })}})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want canceled", err)
			}
		})
	}
	for range 128 {
		<-started
	}
	_, stderr, x := b.run(t, Command{Exec: backends.Exec{Args: []string{"true"}}})
	if want := "kilntainers: cannot start a process: too many commands at once\n"; x.Code != 126 || stderr != want {
		t.Errorf("got %d, %q; want 126, %q", x.Code, stderr, want)
	}
	cancel()
	wg.Wait()
	b.onlyInit(t)
}

// Commands of all kinds, ended in all ways, at once.
func TestHammer(t *testing.T) {
	b := newBox(t, Options{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			for range 40 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(20))*time.Millisecond)
				limit := errors.New("limit")
				e := backends.Exec{Stdout: &counter{}}
				e.Command = []string{
					"echo hi", "cat", "sleep 0.005", "yes | head -c 100000", "sleep 0.01 & echo x", "yes", "yes & sleep 0.001",
				}[rnd.IntN(7)]
				switch rnd.IntN(5) {
				case 0:
					e.Stdin = strings.NewReader("small")
				case 1:
					e.Stdin = io.LimitReader(zeros{}, 1<<20)
				case 2:
					e.Stderr = &counter{}
				case 3:
					e.Stdout = writer(func([]byte) (int, error) { return 0, limit })
				}
				_, err := b.Exec(ctx, Command{Exec: e})
				if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, limit) {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	b.sh(t, "pkill yes; :") // those that were left by a command that ended by itself
	b.onlyInit(t)
}
