package applets

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// runTool runs a tool on some input and returns all that it prints.
func runTool(input string, args ...string) (string, int) {
	var out bytes.Buffer
	code := Run(&Call{Args: args, Stdin: strings.NewReader(input), Stdout: &out, Stderr: &out})
	return out.String(), code
}

func TestTools(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, tt := range []struct {
		input string
		args  []string
		want  string
		code  int
	}{
		{"b\na\nc\n", []string{"sort", "-r"}, "c\nb\na\n", 0},
		{"10K\n2M\n500\n", []string{"sort", "-h"}, "500\n10K\n2M\n", 0},
		{"a1\na10\na2\n", []string{"sort", "-V"}, "a1\na2\na10\n", 0},
		{"x 2\ny 10\n", []string{"sort", "-k2,2nr"}, "y 10\nx 2\n", 0},
		{"a:b:c\n", []string{"cut", "-d:", "-f2-"}, "b:c\n", 0},
		{"hello", []string{"tr", "a-y", "b-z"}, "ifmmp", 0},
		{"aab\n", []string{"tr", "-s", "a"}, "ab\n", 0},
		{"a\na\nb\n", []string{"uniq", "-c"}, "      2 a\n      1 b\n", 0},
		{"one\ntwo", []string{"sed", "-n", "$p"}, "two", 0},
		{"one\ntwo", []string{"sed", "p"}, "one\none\ntwo\ntwo", 0},
		{"a-b\n", []string{"sed", `s/\(.\)-\(.\)/\2\n\U\1/`}, "b\nA\n", 0},
		{"1\n2\n3\n4\n", []string{"sed", "-n", "2,3{=;p}"}, "2\n2\n3\n3\n", 0},
		{"x\n", []string{"sed", "q5"}, "x\n", 5},
		{"x\n", []string{"sed", "k"}, "sed: -e expression #1, char 1: unknown command: `k'\n", 1},
		{"foo bar\n", []string{"grep", "-o", "[a-z]*r"}, "bar\n", 0},
		{"a\n", []string{"grep", "b"}, "", 1},
		{"a\n", []string{"grep", "["}, "grep: Unmatched [, [^, [:, [., or [=\n", 2},
		{"", []string{"printf", "%03d|%-4s|%x\\n", "7", "ab", "255"}, "007|ab  |ff\n", 0},
		{"", []string{"printf", "[%+05d %-5d| %.3d %#x %#X %#o % d %.0d %08.3d %x]", "7", "-7", "5", "255", "255", "8", "3", "0", "-5", "-1"}, "[+0007 -7   | 005 0xff 0XFF 010  3      -005 ffffffffffffffff]", 0},
		{"", []string{"printf", "[%09.2f %-9.1e| %+g %#.0f %e %#.2g %A %05f]", "-3.14159", "12345", "1e-7", "4", "0x1f", "1", "1", "inf"}, "[-00003.14 1.2e+04  | +1e-07 4. 3.100000e+01 1.0 0X1P+00   inf]", 0},
		{"", []string{"printf", "%d\\n", "x"}, "printf: 'x': expected a numeric value\n0\n", 1},
		{"", []string{"expr", "2", "+", "3"}, "5\n", 0},
		{"", []string{"expr", "abc", ":", `a\(.\)`}, "b\n", 0},
		{"", []string{"seq", "-w", "9", "11"}, "09\n10\n11\n", 0},
		{"", []string{"basename", "/a/b.c", ".c"}, "b\n", 0},
		{"", []string{"ls", "-z"}, "ls: invalid option -- 'z'\nTry 'ls --help' for more information.\n", 2},
		{"", []string{"ls", "nofile"}, "ls: cannot access 'nofile': No such file or directory\n", 2},
		{"", []string{"date", "-u", "-d", "@86400", "+%F"}, "1970-01-02\n", 0},
		{"", []string{"date", "-u", "-d", "2024-02-28 + 2 days", "+%a %F"}, "Fri 2024-03-01\n", 0},
		{"scale=3; 2/3\n", []string{"bc"}, ".666\n", 0},
		{"", []string{"dc", "-e", "2 3 ^ p"}, "8\n", 0},
		{`{"a":[1,"x"]}`, []string{"jq", "-r", ".a[1]"}, "x\n", 0},
		{"a b\n", []string{"awk", "{print $2, NF}"}, "b 2\n", 0},
		{"", []string{"awk", `BEGIN {print 0x1f+010, "0x10", or(0xf0,1); x=4; print x/2/010}`}, "39 0x10 241\n0.25\n", 0},
		{"a0x1\n", []string{"awk", `/0x1/ {print 0.5, 09}`}, "0.5 9\n", 0},
		{"hi", []string{"base64"}, "aGk=\n", 0},
		{"hi", []string{"xxd"}, "00000000: 6869                                     hi\n", 0},
		{"hi", []string{"md5sum"}, "49f68a5c8493ec2c0bf489821c21fc3b  -\n", 0},
	} {
		if got, code := runTool(tt.input, tt.args...); got != tt.want || code != tt.code {
			t.Errorf("%q: got %q, %d; want %q, %d", tt.args, got, code, tt.want, tt.code)
		}
	}
}

// TestTable holds the table's order, which find relies on, and that every tool
// answers --help.
func TestTable(t *testing.T) {
	last := ""
	for _, tool := range tools() {
		if tool.name <= last {
			t.Errorf("%s is not in order after %s", tool.name, last)
		}
		last = tool.name
		if find(tool.name) == nil {
			t.Errorf("%s is not found", tool.name)
		}
	}
}

func FuzzSed(f *testing.F) {
	for _, s := range []string{"s/a/b/g", "1,3p", "/x/{s//y/;n;d}", "y/abc/xyz/", "a\\\ntext", "$!N;P;D", ":a;s/x/y/;ta"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script string) {
		p := &sedParser{src: script, labels: map[string]int{}}
		if err := p.parse(); err == nil && len(script) > 0 && p.i > len(p.src) {
			t.Fatalf("%q: read past the end", script)
		}
	})
}

// A width may be larger than fmt takes, and than memory.
func TestPrintfWidth(t *testing.T) {
	const n = 2_000_000
	for format, want := range map[string]string{"%2000000d": " 7", "%02000000d": "07", "%2000000s": " 7", "%.2000000d": "07", "%02000000f": "0"} {
		out, code := runTool("", "printf", format, "7")
		if len(out) != n || code != 0 || !strings.HasSuffix(out, want) || !strings.HasPrefix(out, want[:1]) {
			t.Errorf("%s: %d bytes, status %d: %.20q", format, len(out), code, out)
		}
	}
}

// TestFull holds that what cannot be written ends an endless tool, but not one
// that only tells what it does.
func TestFull(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, args := range [][]string{{"printf", "%2000000000s"}, {"yes"}, {"shuf", "-re", "a"}, {"seq", "1000000000000"}, {"mkdir", "-v", "a", "b"}} {
		var stderr bytes.Buffer
		code := Run(&Call{Args: args, Stdin: strings.NewReader(""), Stdout: full{}, Stderr: &stderr})
		if want := args[0] + ": write error: No space left on device\n"; code != 1 || stderr.String() != want {
			t.Errorf("%q: got %q, status %d; want %q, 1", args, stderr.String(), code, want)
		}
	}
	if _, err := os.Stat("b"); err != nil {
		t.Errorf("mkdir made one directory only: %v", err)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func FuzzPrintf(f *testing.F) {
	f.Add("%5.2f|%s\\n", "3.1")
	f.Add("%*d %b %q %c", "7")
	wide := regexp.MustCompile(`[0-9]{5}`)
	f.Fuzz(func(t *testing.T, format, arg string) {
		if strings.Contains(format, "*") || len(format) > 40 || wide.MatchString(format) {
			return // it would print that much
		}
		runTool("", "printf", format, arg)
	})
}

func FuzzPatch(f *testing.F) {
	f.Add("--- a\n+++ b\n@@ -1,2 +1,2 @@\n x\n-y\n+z\n")
	f.Fuzz(func(t *testing.T, text string) { parsePatch(text) })
}

// FuzzTools gives any arguments, a line each, to tools that write no file. What
// reads files gets options only.
func FuzzTools(f *testing.F) {
	pure := []string{"tr", "expr", "test", "seq", "basename", "dirname", "numfmt", "getopt", "cal"}
	filters := []string{"cut", "od", "fold", "fmt", "nl", "paste", "head", "wc", "column", "expand", "hexdump", "base64"}
	f.Add(uint8(0), "[:]x\n[=a=]b*3][c*]\\012", "some text")
	f.Add(uint8(1), "(\n1\n+\n2\n)\n*\nab : \\(a\\)", "")
	f.Add(uint8(2), "a\n=\nb\n-a\n!\n-n\nx", "")
	f.Add(uint8(3), "-w\n-f%5.2f\n1\n.5\n3", "")
	f.Add(uint8(6), "--from=iec\n--to=si\n--format=%5f\n5K", "1 2K")
	f.Add(uint8(7), "-oab:c::\n-llong,opt:\n--\n-a\n--opt=x\nrest", "")
	f.Add(uint8(9), "-f1-2,4-\n-d,", "a,b,c\n1,2,3\n")
	f.Add(uint8(10), "-Ax\n-tx1z", "abc\x00\xff")
	f.Add(uint8(15), "-n-3", "a\nb\nc\nd\n")
	f.Add(uint8(17), "-t\n-s,\n-Nx,y", "a,2\nb,1\n")
	f.Add(uint8(19), "-e\"%08x \" 4/1 \"%02x\"\n-n10", "text")
	f.Fuzz(func(t *testing.T, which uint8, args, input string) {
		if len(args) > 60 {
			return
		}
		l := strings.Split(args, "\n")
		n := int(which) % (len(pure) + len(filters))
		tool := ""
		if n < len(pure) {
			tool = pure[n]
		} else {
			tool = filters[n-len(pure)]
			if slices.ContainsFunc(l, func(a string) bool { return len(a) < 2 || a[0] != '-' || a == "--" }) {
				return
			}
		}
		Run(&Call{Args: append([]string{tool}, l...), Stdin: strings.NewReader(input), Stdout: gone{}, Stderr: io.Discard})
	})
}

// gone is a pipe that nobody reads.
type gone struct{}

func (gone) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func FuzzDate(f *testing.F) {
	f.Add("next friday 10:00pm")
	f.Fuzz(func(t *testing.T, s string) { runTool("", "date", "-d", s) })
}

// FuzzTar lists whatever bytes it is given.
func FuzzTar(f *testing.F) {
	f.Add([]byte("not a tar"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		Run(&Call{Args: []string{"tar", "tf", "-"}, Stdin: bytes.NewReader(data), Stdout: &out, Stderr: &out})
	})
}

func TestMain(m *testing.M) {
	os.Setenv("TZ", "UTC")
	os.Exit(m.Run())
}
