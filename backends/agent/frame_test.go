package agent

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The agent's header has the same numbers.
func TestNumbers(t *testing.T) {
	text, err := os.ReadFile("init/protocol.h")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, m := range regexp.MustCompile(`(\w+) = (0x\w+|\d+)(?: << (\d+))?`).FindAllStringSubmatch(string(text), -1) {
		n, err := strconv.ParseInt(m[2], 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		shift, _ := strconv.Atoi(m[3])
		got[m[1]] = int(n) << shift
	}
	want := map[string]int{
		"PROTOCOL_VERSION": version, "HEADER_SIZE": headerSize, "MAX_EXEC": maxExec, "MAX_DATA": maxData,
		"MAX_STRINGS": maxStrings, "MAX_EXECS": 128, "STDIN_WINDOW": stdinWindow, "KEY_SIZE": keySize, "SYNC_SIZE": syncSize,
		"EXEC": int(frameExec), "STDIN": int(frameStdin), "STDIN_EOF": int(frameStdinEOF), "KILL": int(frameKill),
		"LET": int(frameLet), "PING": int(framePing), "BYE": int(frameBye), "KEY": int(frameKey),
		"HELLO": int(frameHello), "STDOUT": int(frameStdout), "STDERR": int(frameStderr), "EXIT": int(frameExit),
		"CREDIT": int(frameCredit), "STDIN_CLOSED": int(frameStdinClosed), "PONG": int(framePong),
		"EXEC_SHELL": execShell, "EXEC_STDIN": execStdin, "EXIT_LEFT": exitLeft, "EXIT_OOM": exitOOM,
		"HELLO_BASH": helloBash, "HELLO_SH": helloSh,
	}
	if !maps.Equal(got, want) {
		for k := range want {
			if got[k] != want[k] {
				t.Errorf("%s: protocol.h has %d, frame.go has %d", k, got[k], want[k])
			}
			delete(got, k)
		}
		t.Errorf("only protocol.h has %v", got)
	}
}

func TestAppendExec(t *testing.T) {
	got, err := appendExec([]byte("before"), 7, request{
		flags: execStdin, dir: "/d", args: []string{"a", ""}, env: map[string]string{"K": "v=w"}})
	if err != nil {
		t.Fatal(err)
	}
	want := "before" +
		"\x18\x00\x00\x00\x01\x00\x00\x00\x07\x00\x00\x00" +
		"\x02\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00" +
		"/d\x00a\x00\x00K=v=w\x00"
	if string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Whatever is asked for, the frame says just that, or there is none.
func FuzzAppendExec(f *testing.F) {
	f.Add("", "echo\nhi", "A=B", uint32(0))
	f.Add("/", "a\x00", "\x00", uint32(3))
	f.Fuzz(func(t *testing.T, dir, args, env string, flags uint32) {
		r := request{flags: flags, dir: dir, args: strings.Split(args, "\n"), env: map[string]string{}}
		for _, s := range strings.Split(env, "\n") {
			k, v, _ := strings.Cut(s, ":")
			r.env[k] = v
		}
		b, err := appendExec([]byte("x"), 1, r)
		if err != nil {
			if string(b) != "x" {
				t.Errorf("it failed and left %q", b)
			}
			return
		}
		fields := strings.Split(string(b[1+headerSize+12:]), "\x00")
		if len(fields) != 2+len(r.args)+len(r.env) || fields[0] != dir || fields[len(fields)-1] != "" {
			t.Fatalf("got %q for %+v", fields, r)
		}
		if got := fields[1 : 1+len(r.args)]; !slices.Equal(got, r.args) {
			t.Errorf("got arguments %q, want %q", got, r.args)
		}
		for _, s := range fields[1+len(r.args) : len(fields)-1] {
			k, v, _ := strings.Cut(s, "=")
			if w, ok := r.env[k]; !ok || w != v {
				t.Errorf("got variable %q, want %q", s, w)
			}
		}
	})
}

// What an agent says is read without a panic and within its bounds, and says
// again the same when it is written again.
func FuzzReadFrame(f *testing.F) {
	f.Add(append(appendHeader(nil, frameHello, 0, 12), hello...))
	f.Add(append(appendHeader(nil, frameStdout, 1, 2), "hi"...))
	f.Add(append(appendHeader(nil, frameExit, 1, 8), words(3, 1)...))
	f.Add(appendHeader(appendHeader(nil, framePong, 0, 0), frameStdinClosed, 5, 0))
	f.Add(appendHeader(nil, frameStdout, 1, maxData+1))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := bufio.NewReaderSize(bytes.NewReader(b), headerSize+maxData)
		var said []byte
		for {
			err := readFrame(in, func(f frame) error {
				said = append(appendHeader(said, f.typ, f.id, len(f.payload)), f.payload...)
				switch f.typ {
				case frameHello:
					_, err := parseHello(f.payload)
					return err
				case frameExit:
					x, err := parseExit(f.payload)
					if err == nil && (x.code < 0 || x.code > 255) {
						return fmt.Errorf("exit code %d", x.code)
					}
					return err
				}
				return nil
			})
			if err != nil {
				break
			}
		}
		if !bytes.HasPrefix(b, said) {
			t.Errorf("read %q from %q", said, b)
		}
		// It does not hide a mark that follows.
		const mark = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
		r := strings.NewReader(string(b) + mark + "rest")
		if err := FindMark(r)([]byte(mark)); err != nil {
			t.Error(err)
		} else if rest := r.Len(); rest != len("rest") && !bytes.Contains(b, []byte(mark)) {
			t.Errorf("%d bytes are left behind the mark", rest)
		}
	})
}

func TestShellArgs(t *testing.T) {
	long := strings.Repeat("é", maxArg/2) // maxArg-1 bytes
	for _, test := range []struct {
		command string
		want    []string
	}{
		{"echo", []string{"sh", "-c", "echo"}},
		{long + "x", []string{"sh", "-c", long + "x"}},
		{long + "é", []string{"sh", "-c", `eval "shift 2; ${1}${2}"`, "sh", long, "é"}},
		{long + "xx", []string{"sh", "-c", `eval "shift 2; ${1}${2}"`, "sh", long + "x", "x"}},
		{long + long + "é", []string{"sh", "-c", `eval "shift 3; ${1}${2}${3}"`, "sh", long, long, "é"}},
	} {
		if got := shellArgs("sh", test.command); !slices.Equal(got, test.want) {
			t.Errorf("%d bytes: got %.80q, want %.80q", len(test.command), got, test.want)
		}
	}
	// What is no UTF-8 is cut anywhere.
	bad := strings.Repeat("\x80", 3*maxArg)
	if got := strings.Join(shellArgs("sh", bad)[4:], ""); got != bad {
		t.Error("the pieces are not the command")
	}
}

func TestBinary(t *testing.T) {
	for arch, machine := range map[string]byte{"amd64": 62, "x86_64": 62, "arm64": 183, "aarch64": 183} { // e_machine of elf(5)
		b, err := Binary(arch)
		if err != nil || len(b) > 200<<10 || string(b[:4]) != "\x7fELF" || b[18] != machine {
			t.Errorf("%s: got %d bytes, %v; want a small ELF file for machine %d", arch, len(b), err, machine)
		}
	}
	if _, err := Binary("riscv64"); err == nil {
		t.Error("got an agent for riscv64")
	}
	if got := Digest(); !regexp.MustCompile(`^[0-9a-f]{12}$`).MatchString(got) {
		t.Errorf("got digest %q", got)
	}
}
