package e2b

import (
	"bytes"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// split passes text to m in pieces of n bytes, and returns what is the
// command's.
func split(m *endMark, text string, n int) string {
	var out strings.Builder
	for p := []byte(text); len(p) > 0; p = p[min(n, len(p)):] {
		out.Write(m.next(p[:min(n, len(p))]))
	}
	if !m.seen {
		out.Write(m.rest())
	}
	return out.String()
}

// However the stream comes in pieces, what the command wrote is passed on
// whole, and the mark is not.
func TestEndMark(t *testing.T) {
	for _, k := range []struct {
		text, want string
		seen       bool
		code       int
	}{
		{"", "", false, 0},
		{"WORD=0;", "", true, 0},
		{"out\nWORD=255;", "out\n", true, 255},
		{"outWORD=7;late", "out", true, 7},
		{"WORDWORD=7;", "WORD", true, 7},
		{"WORWORD=7;", "WOR", true, 7},
		{"WORD=7", "WORD=7", false, 0},
		{"WORD", "WORD", false, 0},
		{"WOR", "WOR", false, 0},
		{"WORD=;WORD=12;", "WORD=;", true, 12},
		{"WORD=1234;", "WORD=1234;", false, 0},
		{"WORD=x;", "WORD=x;", false, 0},
		{"sh -c … WORD /bin/bash\n", "sh -c … WORD /bin/bash\n", false, 0}, // as ps shows it
		{"WORD=WORD=3;", "WORD=", true, 3},
	} {
		for n := 1; n <= max(len(k.text), 1); n++ {
			m := &endMark{word: "WORD"}
			if got := split(m, k.text, n); got != k.want || m.seen != k.seen || m.code != k.code {
				t.Errorf("%q in pieces of %d: got %q, seen %t, code %d; want %q, %t, %d", k.text, n, got, m.seen, m.code, k.want, k.seen, k.code)
			}
		}
	}
}

func FuzzEndMark(f *testing.F) {
	f.Add("some output", "late", uint8(3), uint8(0))
	f.Add("ab=1ab=", "", uint8(1), uint8(255))
	f.Fuzz(func(t *testing.T, before, after string, n, code uint8) {
		const word = "ab"
		n = max(n, 1)
		whole := &endMark{word: word}
		plain := split(whole, before, len(before)+1)
		if !whole.seen && plain != before {
			t.Fatalf("%q became %q", before, plain)
		}
		text := before + word + "=" + strconv.Itoa(int(code)) + ";" + after
		m := &endMark{word: word}
		got := split(m, text, int(n))
		if !m.seen {
			t.Fatalf("%q: the mark was not seen", text)
		}
		if whole.seen && (got != plain || m.code != whole.code) || !whole.seen && !strings.HasPrefix(before, got) {
			t.Fatalf("%q in pieces of %d: got %q, code %d", text, n, got, m.code)
		}
	})
}

// Any shell puts a long command together again.
func TestShellArgs(t *testing.T) {
	if got := shellArgs("/bin/sh", "echo hi"); !slices.Equal(got, []string{"/bin/sh", "-c", "echo hi"}) {
		t.Errorf("got %q", got)
	}
	text := strings.Repeat("ü", 300<<10)
	args := shellArgs("/bin/sh", "# a comment\nprintf '%s' '"+text+"'; echo \" $# $0\"")
	for _, a := range args {
		if len(a) > maxArg {
			t.Errorf("an argument has %d bytes", len(a))
		}
	}
	for _, shell := range []string{"/bin/sh", "/bin/bash"} {
		out, err := exec.Command(shell, args[1:]...).Output()
		if want := text + " 0 /bin/sh\n"; err != nil || string(out) != want {
			t.Errorf("%s: got %d bytes of %d, %v", shell, len(out), len(want), err)
		}
	}
}

// What runScript says of how a command ended, and that it adds nothing else to
// either stream.
func TestRunScript(t *testing.T) {
	const countFiles = "ls /proc/self/fd | wc -l"
	files, err := exec.Command("sh", "-c", countFiles).Output() // with those that this test itself has got
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		args      []string
		out, errs string
	}{
		{[]string{"echo", `a\nb`}, "a\\nb\nWORD=0;", "WORD=0;"},
		{[]string{"sh", "-c", "echo out; echo err >&2; exit 42"}, "out\nWORD=42;", "err\nWORD=42;"},
		{[]string{"sh", "-c", "kill -KILL $$"}, "WORD=137;", "WORD=137;"},
		{[]string{"sh", "-c", "kill -TERM 0"}, "WORD=143;", "WORD=143;"},
		{[]string{"sh", "-c", "trap"}, "WORD=0;", "WORD=0;"}, // nothing is ignored or caught
		{[]string{"sh", "-c", countFiles}, string(files) + "WORD=0;", "WORD=0;"},
	} {
		for _, shell := range []string{"sh", "bash"} {
			cmd := exec.Command("setsid", append([]string{"-w", shell, "-c", runScript, "sh", "WORD", "MARK"}, k.args...)...)
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			if err := cmd.Run(); err != nil || out.String() != k.out || errs.String() != k.errs {
				t.Errorf("%s: %q: got %q, %q, %v", shell, k.args, &out, &errs, err)
			}
		}
	}
}

func TestEnding(t *testing.T) {
	for _, k := range []struct {
		ending
		want int
	}{
		{ending{Code: 7, Exited: true, Status: "exit status 7"}, 7},
		{ending{Code: -1, Status: "signal: killed"}, 137},
		{ending{Code: -1, Status: "signal: terminated"}, 143},
		{ending{Code: -1, Status: "signal: segmentation fault (core dumped)"}, 139},
		{ending{Code: -1, Status: "signal: broken pipe"}, 141},
		{ending{Code: -1, Status: "signal 34"}, 162},
		{ending{Code: -1, Status: ""}, 255},
		{ending{Code: -1, Status: "signal: 9999"}, 255},
	} {
		if got := k.ending.code(); got != k.want {
			t.Errorf("%+v: got %d, want %d", k.ending, got, k.want)
		}
	}
}
