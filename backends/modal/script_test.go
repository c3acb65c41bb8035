package modal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// The end word is found wherever reads divide it, and nothing of it comes out.
func TestCopyUntil(t *testing.T) {
	const end = "ABABC"
	for _, k := range []struct {
		in, out string
		found   bool
	}{
		{"", "", false},
		{end, "", true},
		{"x" + end + "y", "x", true},
		{"ABAB" + end, "ABAB", true},
		{"ABA" + end, "ABA", true},
		{"ABABABC", "AB", true},
		{"no end ABAB", "no end ABAB", false},
		{"ABA", "ABA", false},
		{strings.Repeat("AB", 100_000) + end, strings.Repeat("AB", 100_000), true},
	} {
		for name, read := range map[string]func(io.Reader) io.Reader{
			"whole":   func(r io.Reader) io.Reader { return r },
			"bytes":   iotest.OneByteReader,
			"halves":  iotest.HalfReader,
			"and end": iotest.DataErrReader,
		} {
			var out bytes.Buffer
			found, err := copyUntil(&out, read(strings.NewReader(k.in)), end)
			if found != k.found || err != nil || out.String() != k.out {
				t.Errorf("%.20q (%s): got %.20q, %t, %v; want %.20q, %t", k.in, name, out.String(), found, err, k.out, k.found)
			}
		}
	}
	broken := errors.New("broken")
	var out bytes.Buffer
	if _, err := copyUntil(&out, io.MultiReader(strings.NewReader("xAB"), iotest.ErrReader(broken)), end); err != broken || out.String() != "xAB" {
		t.Errorf("a reader that breaks: got %q, %v", out.String(), err)
	}
}

func FuzzCopyUntil(f *testing.F) {
	f.Add([]byte("some output ABA"), []byte("late"), uint8(3))
	f.Fuzz(func(t *testing.T, before, after []byte, size uint8) {
		const end = "ABABC"
		in := append(append(bytes.Clone(before), end...), after...)
		var out bytes.Buffer
		r := readerFunc(func(p []byte) (int, error) { // pieces of one size
			if len(in) == 0 {
				return 0, io.EOF
			}
			n := copy(p[:min(len(p), int(size)+1)], in)
			in = in[n:]
			return n, nil
		})
		want := append(bytes.Clone(before), end...)
		want = want[:bytes.Index(want, []byte(end))]
		if found, err := copyUntil(&out, r, end); !found || err != nil || !bytes.Equal(out.Bytes(), want) {
			t.Errorf("got %q, %t, %v, want %q", out.Bytes(), found, err, want)
		}
	})
}

// shells are those on this machine that an image may have as /bin/sh.
func shells(t *testing.T) (found [][]string) {
	for _, argv := range [][]string{{"dash"}, {"bash", "--posix"}, {"busybox", "sh"}, {"ksh"}, {"mksh"}} {
		if path, err := exec.LookPath(argv[0]); err == nil {
			found = append(found, append([]string{path}, argv[1:]...))
		}
	}
	if len(found) == 0 {
		t.Skip("there is no shell here")
	}
	return found
}

// process is a command in a session of its own that ends with the test.
func process(t *testing.T, env []string, argv ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	newSession(cmd)
	return cmd
}

// The script around a command, in any shell: exit codes, the end word on both
// streams after all output, nothing of its own.
func TestRunScript(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no /bin/sh")
	}
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	const end = "END"
	for _, sh := range shells(t) {
		for _, k := range []struct {
			name        string
			dir, input  string
			args        []string
			code        int
			out, errHas string
		}{
			{"plain", "", "/dev/null", []string{"echo", "a  b"}, 0, "a  b\n", ""},
			{"code", "", "/dev/null", []string{"sh", "-c", "exit 7"}, 7, "", ""},
			{"streams", "", "/dev/null", []string{"sh", "-c", "echo out; echo err >&2"}, 0, "out\n", "err\n"},
			{"directory", dir, "/dev/null", []string{"pwd"}, 0, dir + "\n", ""},
			{"no directory", "/no/such", "/dev/null", []string{"pwd"}, 126, "", "/no/such"},
			{"not found", "", "/dev/null", []string{"no-such-command"}, 127, "", "no-such-command"},
			{"not executable", "", "/dev/null", []string{plain}, 126, "", "plain"},
			{"signal", "", "/dev/null", []string{"sh", "-c", "kill -KILL $$"}, 137, "", ""},
			{"kill 0", "", "/dev/null", []string{"sh", "-c", "kill -TERM 0"}, 143, "", ""},
			{"no stdin", "", "/dev/null", []string{"cat"}, 0, "", ""},
			{"stdin", "", "", []string{"cat"}, 0, "input", ""},
			{"no variables", "", "/dev/null", []string{"sh", "-c", `echo "$end$dir$code$line$1"; echo $KILNTAINERS_EXEC`}, 0, "\nmark\n", ""},
			{"default signals", "", "/dev/null", []string{"sh", "-c", "kill -INT $$; echo alive"}, 130, "", ""},
		} {
			t.Run(filepath.Base(sh[0])+"/"+k.name, func(t *testing.T) {
				argv := argv(end, k.dir, k.input == "", "MARK", k.args)
				cmd := process(t, []string{markName + "=mark"}, append(sh, argv[1:]...)...)
				cmd.Stdin = strings.NewReader("input")
				var out, said bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &said
				cmd.Run()
				if code := cmd.ProcessState.ExitCode(); code != k.code {
					t.Errorf("got code %d, want %d", code, k.code)
				}
				if out.String() != k.out+end {
					t.Errorf("got %q, want %q", out.String(), k.out+end)
				}
				if got, ok := strings.CutSuffix(said.String(), end); !ok || !strings.Contains(got, k.errHas) || k.errHas == "" && got != "" {
					t.Errorf("got %q on stderr, want %q", said.String(), k.errHas)
				}
			})
		}
	}
}
