package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// The compilers that the committed binaries come from.
const (
	gccVersion  = "12.2.0"
	muslVersion = "1.2.3-1"
)

// The committed binaries are what init/build.sh makes of their source.
func TestReproducible(t *testing.T) {
	for _, tool := range []struct{ want, name, arg string }{
		{gccVersion, "x86_64-linux-gnu-gcc", "-dumpfullversion"},
		{gccVersion, "aarch64-linux-gnu-gcc", "-dumpfullversion"},
		{muslVersion, "dpkg-query", "-Wf${Version}\n musl-dev:amd64"},
		{muslVersion, "dpkg-query", "-Wf${Version}\n musl-dev:arm64"},
	} {
		out, err := exec.Command(tool.name, strings.Split(tool.arg, " ")...).Output()
		if got := strings.TrimSpace(string(out)); err == nil && got != tool.want {
			err = fmt.Errorf("%s %s is %s, and the binaries are of %s", tool.name, tool.arg, got, tool.want)
		}
		need(t, "cc", err)
	}
	dir := t.TempDir()
	if out, err := exec.Command("sh", "init/build.sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("build.sh: %v\n%s", err, out)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		want, err := os.ReadFile(filepath.Join(dir, Name+"-"+arch))
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := Binary(arch); !bytes.Equal(got, want) {
			t.Errorf("%s: the committed binary is not that of its source; run init/build.sh", arch)
		}
	}
}

// The tests of this package again, with an agent that looks after its memory.
func TestSanitizers(t *testing.T) {
	if os.Getenv("KILNTAINERS_TEST_AGENT") != "" {
		t.Skip("this is that run")
	}
	need(t, "unshare", canUnshare())
	sources, err := filepath.Glob("init/*.c")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	agent := filepath.Join(dir, Name)
	args := []string{"-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-o", agent}
	out, err := exec.Command("gcc", append(args, sources...)...).CombinedOutput()
	if err != nil {
		need(t, "cc", fmt.Errorf("gcc: %w: %s", err, out))
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^(TestExit|TestStdin|TestOutput|TestBackground|TestManyAtOnce|TestTooManyAtOnce|TestHammer|"+
		"TestKill|TestKillAfterItsEnd|TestSupervisorKilled|TestSignalsAtInit|FuzzAgent|"+
		"TestAdopt.*|TestKeyInFrames|TestBrokenWithKey|FuzzAgentAdopted)$", "-test.timeout", "5m")
	cmd.Env = append(os.Environ(), "KILNTAINERS_TEST_AGENT="+agent,
		"ASAN_OPTIONS=detect_leaks=0:log_path="+dir+"/asan", "UBSAN_OPTIONS=print_stacktrace=1:log_path="+dir+"/ubsan")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	reports, _ := filepath.Glob(dir + "/*san.*")
	for _, name := range reports {
		text, _ := os.ReadFile(name)
		t.Errorf("%s", text)
	}
}

// randomFrames is what a host may send, and sometimes what it may not. The
// commands are harmless, since the agent that is tested shares our files.
func randomFrames(seed uint64) []byte {
	rnd := rand.New(rand.NewPCG(seed, 0))
	var b []byte
	last := uint32(0)
	for range 5 + rnd.IntN(40) {
		id := max(last, 4) - rnd.Uint32N(4) // one of the last few
		switch rnd.IntN(10) {
		case 0, 1, 2:
			last++
			r := request{flags: rnd.Uint32N(4), args: [][]string{{"true"}, {"cat"}, {"yes"}, {"sleep", "1000"}, {"no-such"}}[rnd.IntN(5)]}
			if r.flags&execShell != 0 {
				r.args = append([]string{"", "-c"}, strings.Join(r.args, " ")+[]string{"", " &", " | cat", "; kill -9 $PPID"}[rnd.IntN(4)])
			}
			b, _ = appendExec(b, last, r)
		case 3, 4:
			n := 1 + rnd.IntN(1<<rnd.IntN(17))
			b = append(appendHeader(b, frameStdin, id, n), make([]byte, n)...)
		case 5:
			b = appendHeader(b, frameStdinEOF, id, 0)
		case 6, 7:
			b = appendHeader(b, frameKill, id, 0)
		case 8:
			b = appendHeader(b, frameLet, id, 0)
		case 9:
			b = appendHeader(b, framePing, 0, 0)
		}
	}
	for range rnd.IntN(3) * rnd.IntN(2) {
		b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
	}
	return b[:len(b)-rnd.IntN(20)*rnd.IntN(2)]
}

// Whatever the host sends, the agent takes it, or ends and says that it broke
// the protocol; and what it answers is well formed.
func FuzzAgent(f *testing.F) {
	for seed := range uint64(60) {
		f.Add(randomFrames(seed))
	}
	f.Add(appendHeader(nil, frameExec, 1, maxExec))
	f.Add(append(appendHeader(nil, frameExec, 1, 13), make([]byte, 13)...))
	f.Add(append(appendHeader(nil, frameExec, 1, 16), "\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00a\x00b"...))
	f.Add(append(appendHeader(nil, frameExec, 1, 15), "\x00\x00\x00\x00\xff\xff\xff\xff\x02\x00\x00\x00\x00a\x00"...))
	f.Fuzz(func(t *testing.T, frames []byte) {
		b := startAgent(t)
		heard := make(chan error, 1)
		go func() {
			in := bufio.NewReaderSize(b.conn, headerSize+maxData)
			for {
				if err := readFrame(in, func(frame) error { return nil }); err != nil {
					heard <- err
					return
				}
			}
		}()
		b.conn.SetWriteDeadline(time.Now().Add(20 * time.Second))
		b.conn.Write(frames)
		b.conn.(interface{ CloseWrite() error }).CloseWrite()
		// It may end before it has read all, or in the middle of a frame.
		if err := <-heard; err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("it said something malformed: %v", err)
		}
		if got := b.status(t); got != 0 && got != 72 {
			t.Errorf("got status %d, %q; want 0 or 72", got, &b.stderr)
		}
	})
}

// The arm64 agent works too, as far as an emulator of one process can show it.
func TestArm64(t *testing.T) {
	need(t, "unshare", canUnshare())
	qemu, err := exec.LookPath("qemu-aarch64-static")
	need(t, "qemu", err)
	path := filepath.Join(t.TempDir(), Name)
	if err := os.WriteFile(path, arm64, 0o755); err != nil {
		t.Fatal(err)
	}
	b := launch(t, unshare(qemu, path)...).dial(t, Options{})
	if got := b.sh(t, "cat; echo $0; sleep 1000 &"); got != "/bin/bash\n" {
		t.Errorf("got %q, want /bin/bash", got)
	}
	b.sh(t, "pkill sleep")
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	_, err = b.Exec(ctx, Command{Exec: backends.Exec{Command: "setsid sleep 1000 & echo; wait", Stdout: ready(func() { cancel(stop) })}})
	if err != stop {
		t.Errorf("got %v, want %v", err, stop)
	}
	b.onlyInit(t)
	_, stderr, x := b.run(t, Command{Exec: backends.Exec{Args: []string{"no-such"}}})
	if want := "kilntainers: cannot run \"no-such\": command not found\n"; x.Code != 127 || stderr != want {
		t.Errorf("got %d, %q; want 127, %q", x.Code, stderr, want)
	}
}
