package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The tests share one kernel, and the guest of testdata built in two ways: as
// a command, and as a program that starts from a snapshot.
var (
	testKernel *Kernel
	programs   = map[string]*Program{}
	modules    = map[string][]byte{}
)

func TestMain(m *testing.M) {
	code, err := func() (int, error) {
		dir, err := os.MkdirTemp("", "kernel-test-")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		if testKernel, err = New(filepath.Join(dir, "cache"), slog.New(slog.DiscardHandler)); err != nil {
			return 0, err
		}
		defer testKernel.Close()
		for name, flag := range map[string]string{"command": "-buildmode=exe", "snapshot": "-buildmode=c-shared"} {
			file := filepath.Join(dir, name+".wasm")
			cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", flag, "-o", file, "./testdata/guest")
			cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=")
			if out, err := cmd.CombinedOutput(); err != nil {
				return 0, fmt.Errorf("build guest: %w\n%s", err, out)
			}
			if modules[name], err = os.ReadFile(file); err != nil {
				return 0, err
			}
			g, err := testKernel.Load(context.Background(), modules[name], LoadOptions{})
			if err != nil {
				return 0, fmt.Errorf("load %s: %w", name, err)
			}
			defer testKernel.Release(g)
			programs[name] = g
		}
		return m.Run(), nil
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var testLimits = Limits{Memory: 256 << 20, Bytes: 16 << 20, Inodes: 2000, Processes: 16, Files: 64}

// newSandbox makes a sandbox whose commands are the guest.
func newSandbox(t testing.TB, l Limits, program string) *Sandbox {
	t.Helper()
	image := []File{{Path: "/bin", Dir: true}, {Path: "/tmp", Dir: true, Mode: 0o1777}, {Path: "/etc", Dir: true},
		{Path: "/etc/passwd", Data: []byte("root:x:0:0:root:/:/bin/sh\n")}, {Path: "/bin/guest", Program: programs[program]}}
	for _, name := range strings.Fields("true exit echo warn env pwd cat ls write sleep spin recurse bomb forks fds inodes fill flood count random pid bg run exec pipeline kill trap fifo chmod stat moves files escape") {
		image = append(image, File{Path: "/bin/" + name, Link: "guest"})
	}
	sb := testKernel.NewSandbox(l, image)
	t.Cleanup(func() {
		sb.Close()
		if len(sb.procs) > 0 {
			t.Errorf("%d processes are left", len(sb.procs))
		}
	})
	return sb
}

type output struct {
	out, err bytes.Buffer
	Result
}

// run runs a command of one line and waits for it.
func run(t testing.TB, sb *Sandbox, line string, stdin io.Reader) *output {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var o output
	var err error
	o.Result, err = sb.Exec(ctx, Command{Argv: strings.Fields(line), Env: []string{"PATH=/bin"}, Dir: "/", Stdin: stdin, Stdout: &o.out, Stderr: &o.err})
	var start *StartError
	if errors.As(err, &start) {
		o.Status, err = start.Status, nil
		fmt.Fprintln(&o.err, start)
	}
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return &o
}

func TestCommands(t *testing.T) {
	for _, c := range []struct {
		line, stdin, out, err string
		status                int
	}{
		{line: "echo hi", out: "hi\n"},
		{line: "exit 7", status: 7},
		{line: "warn oops", err: "oops\n"},
		{line: "cat", stdin: "in", out: "in"},
		{line: "count", out: "0\n"},
		{line: "env", out: "PATH=/bin\n"},
		{line: "pwd", out: "/\n"},
		{line: "nothing", status: 127, err: "nothing: command not found\n"},
		{line: "/bin", status: 126, err: "/bin: Permission denied\n"},
		{line: "/etc/passwd", status: 126, err: "/etc/passwd: Permission denied\n"},
		{line: "run exit 3", out: "status 3 signal 0\n"},
		{line: "run run echo deep", out: "deep\nstatus 0 signal 0\nstatus 0 signal 0\n"},
		{line: "exec echo replaced", out: "replaced\n"},
		{line: "exec exit 4", status: 4},
		{line: "pipeline echo x , cat , count", out: "2\n", err: "status 0 signal 0\nstatus 0 signal 0\nstatus 0 signal 0\n"},
		{line: "pipeline flood , true", err: "status 141 signal 13\nstatus 0 signal 0\n"},
		{line: "files", out: "done\n"},
		{line: "cat /dev/fd/0", stdin: "through a descriptor", out: "through a descriptor"},
		{line: "cat /proc/self/comm", out: "cat\n"},
		{line: "cat /proc/sys/kernel/ostype", out: "Linux\n"},
		{line: "stat /tmp", out: "41777 links 2 size 4096\n"},
		{line: "stat /bin/echo", out: "120777 links 1 size 5\n"},
	} {
		for program := range programs {
			t.Run(program+"/"+c.line, func(t *testing.T) {
				sb := newSandbox(t, testLimits, program)
				var stdin io.Reader
				if c.stdin != "" {
					stdin = strings.NewReader(c.stdin)
				}
				o := run(t, sb, c.line, stdin)
				c := c
				if program == "command" && c.line == "env" {
					c.out += "PWD=/\n" // how Go learns it where there is no kiln_main
				}
				if o.out.String() != c.out || o.err.String() != c.err || o.Status != c.status {
					t.Errorf("got %q, %q, status %d; want %q, %q, status %d", o.out.String(), o.err.String(), o.Status, c.out, c.err, c.status)
				}
			})
		}
	}
}

// Where the system forbids code that was made at run time, modules are
// interpreted, and the log says so.
func TestInterpreter(t *testing.T) {
	var log bytes.Buffer
	k, err := newKernel("", slog.New(slog.NewTextHandler(&log, nil)), false)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "MemoryDenyWriteExecute=no") {
		t.Errorf("the log says %q", log.String())
	}
	g, err := k.Load(t.Context(), modules["snapshot"], LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Release(g)
	sb := k.NewSandbox(testLimits, []File{{Path: "/bin", Dir: true}, {Path: "/bin/echo", Program: g}})
	defer sb.Close()
	if o := run(t, sb, "echo slowly", nil); o.out.String() != "slowly\n" {
		t.Errorf("got %d, %q, %q", o.Status, o.out.String(), o.err.String())
	}
}

// Compiled code is only kept where nobody else can write.
func TestCacheDirectory(t *testing.T) {
	open := t.TempDir()
	for dir, want := range map[string]bool{filepath.Join(t.TempDir(), "a", "wasm"): true, open: false} {
		os.Chmod(open, 0o777)
		var log bytes.Buffer
		k, err := New(dir, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		k.Close()
		if got := !strings.Contains(log.String(), "not kept"); got != want {
			t.Errorf("%s: kept is %v, want %v: %s", dir, got, want, log.String())
		}
		if fi, err := os.Stat(dir); want && (err != nil || fi.Mode().Perm() != 0o700) {
			t.Errorf("%v, %v", fi, err)
		}
	}
}

// A load that is given up leaves nothing, and the module can be loaded later.
func TestLoadCancelled(t *testing.T) {
	k, err := New("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := k.Load(ctx, modules["command"], LoadOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := k.Close(); err != nil { // waits for the compiler
		t.Error(err)
	}
	if len(k.programs) != 0 {
		t.Errorf("%d programs are left", len(k.programs))
	}
}
