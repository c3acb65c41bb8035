package wasm

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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/backendtest"
	"github.com/kilntainers/kilntainers/backends/wasm/busybox"
)

// The tests share one kernel, in which busybox is loaded all the time, and its
// cache, which lasts for one run. A test that runs another process gives it the
// cache with sharedCache.
var (
	drivers  backends.Drivers
	cacheDir string
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		cacheDir = os.Getenv("WASM_TEST_CACHE")
		if cacheDir == "" {
			dir, err := os.MkdirTemp("", "wasm-test-")
			if err != nil {
				panic(err)
			}
			defer os.RemoveAll(dir)
			cacheDir = dir
			if raced { // it would compile for minutes: let busybox, with and without fuel, be in the cache
				if err := unraced("TestFuel"); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return 1
				}
			}
		}
		drivers = Drivers(func() string { return cacheDir })
		d, _ := drivers.Lookup("go_busybox")
		b, err := d.Open(backends.Spec{}, d.Options(), slog.New(slog.DiscardHandler))
		if err == nil {
			err = b.Check(context.Background())
		}
		if err != nil {
			panic(err)
		}
		defer b.Close()
		return m.Run()
	}())
}

func sharedCache() []string { return append(os.Environ(), "WASM_TEST_CACHE="+cacheDir) }

// unraced runs a test without the race detector. What it compiles serves this
// process too: the code is kept by version of wazero, which is the same in every
// test, but not in a program.
func unraced(test string) error {
	cmd := exec.Command("go", "test", "-count=1", "-run", "^"+test+"$", ".")
	cmd.Env = sharedCache()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s without the race detector: %w\n%s", test, err, out)
	}
	return nil
}

func driver(t testing.TB, name string) backends.Driver {
	d, found := drivers.Lookup(name)
	if !found {
		t.Fatalf("there is no driver %s", name)
	}
	return d
}

func testLog(t testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// open opens a driver. Options nil are the defaults.
func open(t testing.TB, name string, options backends.Options, spec backends.Spec) backends.Backend {
	t.Helper()
	d := driver(t, name)
	if options == nil {
		options = d.Options()
	}
	if err := options.Validate(); err != nil {
		t.Fatal(err)
	}
	spec.Profile = "test"
	b, err := d.Open(spec, options, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func create(t testing.TB, b backends.Backend) backends.Sandbox {
	t.Helper()
	sb, err := b.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sb.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return sb
}

// sh runs a command line and returns what it writes to both streams.
func sh(t testing.TB, sb backends.Sandbox, line string) string {
	t.Helper()
	out, _ := do(t, sb, backends.Exec{Command: line})
	return out
}

func do(t testing.TB, sb backends.Sandbox, e backends.Exec) (string, backends.Exit) {
	t.Helper()
	var out bytes.Buffer
	e.Stdout, e.Stderr = &out, &out
	x, err := sb.Exec(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), x
}

// require skips a test for want of a tool, unless the environment says that it
// must be there.
func require(t testing.TB, name, why string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("KILNTAINERS_TEST_REQUIRE"), ","), name) {
		t.Fatalf("%s is required: %s", name, why)
	}
	t.Skip(why)
}

func TestBusyboxConformance(t *testing.T) {
	backendtest.Run(t, backendtest.Target{
		Driver: driver(t, "go_busybox"),
		Limits: backendtest.Limits{Memory: 256 << 20, Pids: maxProcesses},
	})
}

func TestModuleConformance(t *testing.T) {
	module := goModule(t)
	backendtest.Run(t, backendtest.Target{
		Driver:  driver(t, "wasm"),
		Options: func(testing.TB) backends.Options { return moduleOptions(t, module) },
		Failing: func(t testing.TB) backends.Options { return moduleOptions(t, invalidModule(t)) },
		Limits:  backendtest.Limits{Memory: 256 << 20, Pids: maxProcesses},
	})
}

// moduleOptions are the options of wasm for one module.
func moduleOptions(t testing.TB, path string) *ModuleOptions {
	o := driver(t, "wasm").Options().(*ModuleOptions)
	o.Path = path
	return o
}

// goModule builds the Go module of testdata.
func goModule(t testing.TB) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "upper.wasm")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./testdata/gomodule")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build module: %v\n%s", err, b)
	}
	return out
}

// A user's Go module, beside the commands of busybox.
func TestGoModule(t *testing.T) {
	path := goModule(t)
	o := moduleOptions(t, path)
	o.Commands = map[string]string{"shout": path}
	sb := create(t, open(t, "wasm", o, backends.Spec{Env: map[string]string{"HOME": "/work/home"}, Dir: "/work/home"}))
	for _, c := range []struct{ line, want string }{
		{"echo hi | upper | cat", "HI\n"},
		{"echo hi > f; upper f; cd /; upper work/home/f; upper /work/home/f", "HI\nHI\nHI\n"},
		{"mkdir -p a/b; echo x > a/f; cd a/b && upper ../f", "X\n"},
		{"echo hi | shout | tr H J", "JI\n"},
		{"upper nothing; echo $?", "open nothing: No such file or directory\n1\n"},
		{"command -v upper shout", "/usr/local/bin/upper\n/usr/local/bin/shout\n"},
		{"printf '#!/usr/local/bin/upper\\nscript\\n' > s; chmod +x s; ./s", "#!/USR/LOCAL/BIN/UPPER\nSCRIPT\n"},
	} {
		if got := sh(t, sb, c.line); got != c.want {
			t.Errorf("%s: got %q, want %q", c.line, got, c.want)
		}
	}
	if out, x := do(t, sb, backends.Exec{Args: []string{"upper", "f"}}); out != "HI\n" || x.Code != 0 {
		t.Errorf("args: got %q, %v", out, x)
	}
}

// A user's C module. Its library has no working directory, so the kernel has
// to make one up.
func TestCModule(t *testing.T) {
	out := filepath.Join(t.TempDir(), "count.wasm")
	cmd := exec.Command("clang", "--target=wasm32-wasi", "-O1", "-o", out, "testdata/c/count.c")
	if b, err := cmd.CombinedOutput(); err != nil {
		require(t, "wasi-libc", "needs clang for WebAssembly: apt-get install clang lld wasi-libc libclang-rt-14-dev-wasm32 ("+err.Error()+": "+string(b)+")")
	}
	sb := create(t, open(t, "wasm", moduleOptions(t, out), backends.Spec{}))
	for _, c := range []struct{ line, want string }{
		{"echo hi | count", "3 -\n"},
		{"mkdir -p /tmp/d; cd /tmp/d; echo four > f; count f ./f /tmp/d/f ../d/f", "5 f\n5 ./f\n5 /tmp/d/f\n5 ../d/f\n"},
		{"cd /; count tmp/d/f etc/hostname; count nothing", "5 tmp/d/f\n8 etc/hostname\nnothing: No such file or directory\n"},
		{"cd /tmp; LOG=log count d/f && LOG=/tmp/log count d/f >/dev/null; cat log", "5 d/f\n5\n5\n"},
	} {
		if got := sh(t, sb, c.line); got != c.want {
			t.Errorf("%s: got %q, want %q", c.line, got, c.want)
		}
	}
}

// Programs of others that contrib/profiles/wasm.toml has: esbuild as its project
// publishes it, and gofmt.
func TestRealModules(t *testing.T) {
	modules := nodeModules(t)
	if raced {
		if err := unraced("TestRealModules"); err != nil {
			t.Fatal(err)
		}
		return
	}
	gofmt := filepath.Join(t.TempDir(), "gofmt.wasm")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", gofmt, "cmd/gofmt")
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build gofmt: %v\n%s", err, out)
	}
	esbuild := filepath.Join(modules, "@esbuild", "wasi-preview1", "esbuild.wasm")
	o := moduleOptions(t, esbuild)
	o.Commands = map[string]string{"gofmt": gofmt}
	o.MaxMemory = 512
	sb := create(t, open(t, "wasm", o, backends.Spec{}))
	for _, c := range []struct{ line, want string }{
		{`mkdir src; echo 'export const n: number = 41' > src/lib.ts; echo 'import { n } from "./lib"; console.log(n + 1 as number)' > src/app.ts
			esbuild src/app.ts --bundle --minify --log-level=error --outfile=dist/app.js && cat dist/app.js`, "(()=>{console.log(42);})();\n"},
		{`cd src && esbuild --loader=ts < lib.ts | sed s/41/42/`, "export const n = 42;\n"},
		{`esbuild nosuch.ts 2>&1 | grep ERROR; echo "${PIPESTATUS[0]}"`, "✘ [ERROR] Could not resolve \"nosuch.ts\"\n1\n"},
		{`printf 'package  p\nfunc f( ){}\n' > p.go; gofmt -l .; gofmt -w p.go; cat p.go; echo '}' | gofmt > /dev/null 2>&1; echo $?`, "p.go\npackage p\n\nfunc f() {}\n2\n"},
	} {
		if got := sh(t, sb, c.line); got != c.want {
			t.Errorf("%s: got %q, want %q", c.line, got, c.want)
		}
	}
}

// nodeModules is where make test has installed what testdata/node names.
func nodeModules(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	installed := filepath.Join(cache, "kilntainers-test", "wasm")
	want, err := os.ReadFile("testdata/node/package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(installed, "package-lock.json")); err != nil || !bytes.Equal(got, want) {
		require(t, "node", "needs esbuild as a WebAssembly module; make test installs it where there is npm")
	}
	return filepath.Join(installed, "node_modules")
}

func TestOptions(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(b), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	const magic = "\x00asm\x01\x00\x00\x00"
	library := write("library.wasm", magic)
	imports := write("imports.wasm", magic+"\x01\x04\x01\x60\x00\x00"+"\x02\x0d\x01\x03env\x05magic\x00\x00")
	script := write("script.wasm", "#!/bin/sh\n")
	memory := write("memory.wasm", magic+"\x02\x0a\x01\x03env\x01m\x02\x00\x01")
	for _, c := range []struct {
		name string
		edit func(o *ModuleOptions)
		want []string
	}{
		{"nothing given", func(o *ModuleOptions) { o.Path = "" }, []string{"wasm_path: it is missing; give the path of a WASI module"}},
		{"missing", func(o *ModuleOptions) { o.Path = dir + "/x.wasm" }, []string{"wasm_path: " + dir + "/x.wasm: no such file or directory"}},
		{"directory", func(o *ModuleOptions) { o.Path = dir }, []string{"wasm_path: " + dir + ": it is not a file; give the path of a WASI module"}},
		{"relative", func(o *ModuleOptions) { o.Path = "x.wasm" }, []string{"wasm_path: x.wasm: it is not absolute; write the whole path"}},
		{"script", func(o *ModuleOptions) { o.Path = script }, []string{"wasm_path: " + script + ": not a WebAssembly module"}},
		{"library", func(o *ModuleOptions) { o.Path = library }, []string{"wasm_path: " + library + ": it is no command: it does not export the function _start; build an executable, not a library"}},
		{"imports", func(o *ModuleOptions) { o.Commands = map[string]string{"x": imports} },
			[]string{"wasm_path: it is missing; give the path of a WASI module", "commands.x: " + imports + ": it imports env.magic, which sandboxes do not have; modules for wasi_snapshot_preview1 work"}},
		{"imported memory", func(o *ModuleOptions) { o.Path = memory }, []string{"wasm_path: " + memory + ": section 2: imports env.m, which is not a function; only functions can be imported"}},
		{"names", func(o *ModuleOptions) { o.Commands = map[string]string{"a/b": library}; o.Path = dir + "/a b.wasm" },
			[]string{`wasm_path: "a b" cannot be the name of a command; give it one with commands, or rename the file`, `commands.a/b: "a/b" cannot be the name of a command; use letters, digits, and _ + - .`}},
		{"numbers", func(o *ModuleOptions) { o.Path = script; o.MaxMemory = 1; o.Fuel = -1; o.FSLimit = 1 },
			[]string{"wasm_max_memory: 1 is out of range; it is in MiB, from 16 to 65536", "wasm_fuel: -1 is negative; it is a number of instructions, or 0 for no limit",
				`fs_limit: 1 is out of range; it is a size from "64k" to "64g"`, "wasm_path: " + script + ": not a WebAssembly module"}},
	} {
		o := driver(t, "wasm").Options().(*ModuleOptions)
		c.edit(o)
		for range 2 { // the second answer is one that was remembered
			if err := o.Validate(); err == nil || err.Error() != strings.Join(c.want, "\n") {
				t.Errorf("%s: got\n%v\nwant\n%s", c.name, err, strings.Join(c.want, "\n"))
			} else if oe := (*backends.OptionError)(nil); !errors.As(err, &oe) {
				t.Errorf("%s: %v is no OptionError", c.name, err)
			}
		}
	}
}

// A module that can only be refused when it is compiled is reported by Check
// and Create, with its name and path.
func TestInvalidModule(t *testing.T) {
	path := invalidModule(t)
	b := open(t, "wasm", moduleOptions(t, path), backends.Spec{})
	_, err := b.Create(t.Context())
	if err == nil || !strings.Contains(err.Error(), "command bad: "+path+": compile: ") {
		t.Errorf("Create: %v", err)
	}
	if cerr := b.Check(t.Context()); cerr == nil || cerr.Error() != err.Error() {
		t.Errorf("Check: %v", cerr)
	}
}

// invalidModule is a module that only the compiler refuses.
func invalidModule(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "bad.wasm")
	// Its _start returns a number that its type does not have.
	bad := "\x00asm\x01\x00\x00\x00" + "\x01\x04\x01\x60\x00\x00" + "\x03\x02\x01\x00" + "\x07\x0a\x01\x06_start\x00\x00" + "\x0a\x06\x01\x04\x00\x41\x00\x0b"
	if err := os.WriteFile(path, []byte(bad), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// The tool text names exactly the commands that exist, and each of them runs.
func TestToolText(t *testing.T) {
	d := driver(t, "go_busybox")
	text := d.Describe(backends.Spec{}, d.Options())
	for _, want := range []string{"no network", "256 MiB of memory", "64m of files", "/root"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text does not say %q:\n%s", want, text)
		}
	}
	_, rest, _ := strings.Cut(text, "these commands and no others: ")
	list, _, _ := strings.Cut(rest, ".\n")
	named := strings.Fields(list)
	sb := create(t, open(t, "go_busybox", nil, backends.Spec{}))
	if got := strings.Fields(sh(t, sb, "cd /bin; ls")); !slices.Equal(got, slices.Sorted(slices.Values(append(named, "busybox")))) {
		t.Errorf("/bin has\n%v\nthe text names\n%v", got, named)
	}
	if got := strings.Fields(sh(t, sb, "busybox --list")); !slices.Equal(got, busybox.Applets()) {
		t.Errorf("the module has\n%v\nthe list\n%v", got, busybox.Applets())
	}
	for _, name := range named {
		// Some run for ever, some fail without arguments; all exist.
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		var out bytes.Buffer
		x, err := sb.Exec(ctx, backends.Exec{Args: []string{name, "--help"}, Stdin: strings.NewReader(""), Stderr: &out, Stdout: io.Discard})
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) || x.Code == 127 || x.Code == 126 || x.Code >= 128 || strings.Contains(out.String(), "not found") {
			t.Errorf("%s: %v, %v, %s", name, x, err, out.String())
		}
	}
}

// A shell command works even where the sandbox has removed its shell.
func TestShellSurvives(t *testing.T) {
	sb := create(t, open(t, "go_busybox", nil, backends.Spec{}))
	sh(t, sb, "rm -rf /bin /usr /etc /tmp")
	if got := sh(t, sb, "echo $((6*7))"); got != "42\n" {
		t.Errorf("got %q", got)
	}
}

func TestFuel(t *testing.T) {
	o := driver(t, "go_busybox").Options().(*BusyboxOptions)
	o.Fuel = 100_000_000
	sb := create(t, open(t, "go_busybox", o, backends.Spec{}))
	if got := sh(t, sb, "echo enough"); got != "enough\n" {
		t.Errorf("got %q", got)
	}
	out, x := do(t, sb, backends.Exec{Command: "while :; do :; done"})
	if x.Code != 124 || !strings.Contains(out, "fuel exhausted") || !strings.Contains(out, "100000000") {
		t.Errorf("got %v, %q", x, out)
	}
	if got := sh(t, sb, "echo still here"); got != "still here\n" {
		t.Errorf("got %q", got)
	}
}

// The limits of the options hold inside.
func TestLimits(t *testing.T) {
	o := driver(t, "go_busybox").Options().(*BusyboxOptions)
	o.MaxMemory, o.FSLimit = 64, 1<<20
	sb := create(t, open(t, "go_busybox", o, backends.Spec{}))
	if got := sh(t, sb, "head -c 8m /dev/zero > /tmp/big; wc -c < /tmp/big; rm /tmp/big; echo ok"); !strings.Contains(got, "No space left on device") || !strings.HasSuffix(got, "\nok\n") {
		t.Errorf("files: %q", got)
	}
	_, x := do(t, sb, backends.Exec{Command: "x=aaaaaaaa; while :; do x=$x$x; done"})
	if x.Code == 0 || !x.OOM {
		t.Errorf("memory: %+v", x)
	}
	if got := sh(t, sb, "echo still here"); got != "still here\n" {
		t.Errorf("got %q", got)
	}
}

// Nothing of the host is opened while commands run: the kernel traces this
// test's own process, in which a sandbox tries everything.
func TestOpensNothing(t *testing.T) {
	if dir := os.Getenv("WASM_TEST_TRACED"); dir != "" {
		traced(t, dir)
		return
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		require(t, "strace", "needs strace: apt-get install strace")
	}
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	cmd := exec.Command(strace, "-f", "-qq", "-o", log, "-e", "trace=%file,%network", "-e", "signal=none", os.Args[0], "-test.run", "^TestOpensNothing$")
	cmd.Env = append(sharedCache(), "WASM_TEST_TRACED="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		if strings.Contains(string(out), "ptrace") {
			require(t, "strace", "strace may not trace here: "+string(out))
		}
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	begin := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, dir+"/begin") })
	end := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, dir+"/end") })
	if begin < 0 || end < begin {
		t.Fatalf("the marks are not in the trace:\n%s", b)
	}
	for _, line := range lines[begin+1 : end] {
		if !strings.Contains(line, "resumed>") {
			t.Errorf("while commands ran: %s", line)
		}
	}
}

// traced runs commands between two marks that the trace shows.
func traced(t *testing.T, dir string) {
	sb := create(t, open(t, "go_busybox", nil, backends.Spec{}))
	sh(t, sb, "true")
	os.Stat(dir + "/begin")
	for _, line := range []string{
		"cat /etc/passwd /etc/shadow " + dir + "/log", "ls -laR / | wc -l", "ln -s ../../../../../.." + dir + " /tmp/l; ls /tmp/l/; cat /tmp/l/log; echo x > /tmp/l/written",
		"cd ../../../../..; cat proc/self/environ proc/1/root/etc/passwd /proc/self/root/etc/passwd", "ln /etc/passwd /tmp/p; mv /etc/hosts /tmp; cat /dev/fd/3 /dev/fd/../../etc/passwd",
		"find / -name '*.go' | head; cp -r /etc /tmp/etc; tar cf /tmp/t.tar /etc; rm -rf /", "exec 3<>/dev/tcp/127.0.0.1/80", "date; hostname; id; uname -a; df; ps; env",
	} {
		do(t, sb, backends.Exec{Command: line})
		do(t, sb, backends.Exec{Command: line, Dir: "/tmp"})
	}
	do(t, sb, backends.Exec{Args: []string{"cat", dir + "/log"}, Dir: "/../.." + dir})
	os.Stat(dir + "/end")
}

// What an agent's shell can do at its worst ends at the timeout, or before by
// itself, and leaves a sandbox that works.
func TestShellAttacks(t *testing.T) {
	be := open(t, "go_busybox", nil, backends.Spec{})
	for _, line := range []string{
		"while :; do :; done",
		"awk 'BEGIN { while (1); }'",
		"awk 'BEGIN { while (1) s = s s \"x\" }'",
		":(){ :|:& };:",
		"while :; do (sleep 100 &) ; done",
		"f() { f; }; f",
		"x=aaaaaaaa; while :; do x=$x$x; done",
		"x=$(cat /dev/zero)",
		"yes | cat | cat > /dev/null",
		"head -c 3g /dev/zero",
		"sleep 1000 & wait",
		"mkfifo f; cat f",
		"trap '' TERM INT HUP; while :; do sleep 100; done",
		"i=0; while :; do i=$((i+1)); echo $i > /tmp/$i; done",
		"mkdir -p d; cd d; while mkdir x && cd x; do :; done; sleep 100",
		"sort /dev/zero",
		"jq -n '[range(1e9)]'",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			sb := create(t, be)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			x, err := sb.Exec(ctx, backends.Exec{Command: line, Stdout: io.Discard, Stderr: io.Discard})
			late := time.Duration(0)
			if ctx.Err() != nil {
				deadline, _ := ctx.Deadline()
				late = time.Since(deadline)
			}
			t.Logf("%+v, %v, %v after the deadline", x, err, late.Round(time.Millisecond/10))
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			if got := sh(t, sb, "echo still here"); got != "still here\n" {
				t.Errorf("afterwards: %q", got)
			}
			if got := sh(t, sb, "ps | wc -l"); err != nil && got != "4\n" { // a heading, the shell, ps, wc
				t.Errorf("processes are left: %s", sh(t, sb, "ps"))
			}
		})
	}
}
