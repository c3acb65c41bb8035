package profiles

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/kilntainers/kilntainers/backends"
)

var update = flag.Bool("update", false, "write what was found to testdata/bad")

// TestBad loads each archive of testdata/bad, k.toml first. Its file
// "problems" is what must be found, all of it in one pass; "served" are the
// profiles that a daemon with this configuration serves nevertheless.
func TestBad(t *testing.T) {
	archives, err := filepath.Glob("testdata/bad/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, path := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			path, err := filepath.Abs(path)
			if err != nil {
				t.Fatal(err)
			}
			a, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			t.Chdir(dir)
			t.Setenv("CREDENTIALS_DIRECTORY", "")
			want := map[string]string{}
			var inputs []txtar.File
			for _, f := range a.Files {
				if f.Name == "problems" || f.Name == "served" {
					want[f.Name] = string(f.Data)
					continue
				}
				inputs = append(inputs, f)
				write(t, f.Name, strings.ReplaceAll(string(f.Data), "$DIR", dir))
			}

			_, err = Load("k.toml", drivers)
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("got error %v, want Problems", err)
			}
			good, again := LoadGood("k.toml", drivers)
			if !slices.Equal(problems, again) {
				t.Errorf("LoadGood finds\n%v\nLoad finds\n%v", again, problems)
			}
			got := map[string]string{
				"problems": strings.ReplaceAll(problems.Error()+"\n", dir, "$DIR"),
				"served":   strings.Join(slices.Sorted(maps.Keys(good.Profiles)), " ") + "\n",
			}
			if *update {
				a.Files = inputs
				for _, name := range []string{"problems", "served"} {
					a.Files = append(a.Files, txtar.File{Name: name, Data: []byte(got[name])})
				}
				if err := os.WriteFile(path, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			for name := range got {
				if got[name] != want[name] {
					t.Errorf("%s: got\n%s\nwant\n%s", name, got[name], want[name])
				}
			}
		})
	}
}

// write writes a file of a test, and the directories it is in.
func write(t testing.TB, path, data string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(data), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// load loads files, which are given as names and contents in turn, the main
// file first.
func load(t testing.TB, files ...string) *Config {
	t.Helper()
	return loadWith(t, drivers, files...)
}

// loadWith is load for a build with other drivers.
func loadWith(t testing.TB, drivers backends.Drivers, files ...string) *Config {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		write(t, filepath.Join(dir, files[i]), strings.ReplaceAll(files[i+1], "$DIR", dir))
	}
	c, err := Load(filepath.Join(dir, files[0]), drivers)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestLayers: a profile is its table on [defaults] on the built-in defaults;
// a table, such as env, is merged key by key, everything else is replaced.
func TestLayers(t *testing.T) {
	c := load(t, "k.toml", `
[daemon]
max_sandboxes = 3
exit_when_idle = "5m"

[defaults]
backend = "docker"
timeout = 30
output_limit = "1MiB"
network = true
memory = "256m"
wasm_max_memory = 64
tmpfs = ["/tmp", "/run"]
env = { A = "default", B = "default" }

[profiles.plain]

[profiles.own]
description = "has all of its own"
timeout = "90s"
max_timeout = "2h"
session_timeout = "1h"
max_lifetime = 86400
output_limit = 1000
on_limit = "truncate"
max_sandboxes = 1
max_sandboxes_per_user = 2
pool = 3
shell = "/bin/zsh"
network = false
env.B = "own"
env.C = "own"
working_directory = "/work"
extended_tool_instruction = "more"
result = "text"
allow = ["alice", "@datasci", "token:laptop"]
binding = "handle"
memory = "1g"
tmpfs = []

[profiles.wasm]
backend = "go_busybox"
network = false

[tokens.laptop]
file = "$DIR/laptop"
profiles = ["own", "more"]
`,
		"laptop", "  correct-horse\n",
		"profiles.d/b.toml", "[profiles.more]\ntimeout = 1\n",
		"profiles.d/.hidden.toml", "nonsense",
		"profiles.d/notes.txt", "nonsense",
	)

	if got, want := slices.Sorted(maps.Keys(c.Profiles)), []string{"more", "own", "plain", "wasm"}; !slices.Equal(got, want) {
		t.Fatalf("got profiles %q, want %q", got, want)
	}
	if d := c.Daemon; d.MaxSandboxes != 3 || d.ExitWhenIdle != 5*time.Minute || d.ProfileSockets || len(d.Listen) != 1 {
		t.Errorf("got daemon %+v", d)
	}

	plain := c.Profiles["plain"]
	if plain.Backend != "docker" || plain.Driver.Name != "docker" || plain.Name != "plain" {
		t.Errorf("plain: got backend %q, driver %q", plain.Backend, plain.Driver.Name)
	}
	if plain.Timeout != 30*time.Second || plain.MaxTimeout != time.Hour || plain.OutputLimit != 1<<20 || !plain.Network {
		t.Errorf("plain: got %+v", plain)
	}
	if plain.SessionTimeout != 5*time.Minute || plain.OnLimit != OnLimitDiscard || plain.Result != ResultJSON || plain.Binding != BindingAuto {
		t.Errorf("plain: got %+v, want built-in defaults", plain)
	}
	if want := map[string]string{"A": "default", "B": "default"}; !maps.Equal(plain.Env, want) {
		t.Errorf("plain: got env %q, want %q", plain.Env, want)
	}
	if o := plain.Options.(*dockerOptions); o.Memory != 256<<20 || o.PidsLimit != 512 || !slices.Equal(o.Tmpfs, []string{"/tmp", "/run"}) {
		t.Errorf("plain: got options %+v", o)
	}

	own := c.Profiles["own"]
	want := Profile{
		Name: "own", Backend: "docker", Description: "has all of its own",
		Timeout: 90 * time.Second, MaxTimeout: 2 * time.Hour, SessionTimeout: time.Hour, MaxLifetime: 24 * time.Hour,
		OutputLimit: 1000, OnLimit: "truncate",
		MaxSandboxes: 1, MaxSandboxesPerUser: 2, Pool: 3,
		Shell: "/bin/zsh", Env: map[string]string{"A": "default", "B": "own", "C": "own"}, WorkingDirectory: "/work",
		ExtendedToolInstruction: "more", Result: "text",
		Allow: []Principal{{User, "alice"}, {Group, "datasci"}, {Bearer, "laptop"}}, Binding: "handle",
		Driver: own.Driver, Options: own.Options, Source: own.Source,
	}
	if !own.Equal(&want) {
		t.Errorf("own: got\n%+v\nwant\n%+v", *own, want)
	}
	if o := own.Options.(*dockerOptions); o.Memory != 1<<30 || len(o.Tmpfs) != 0 {
		t.Errorf("own: got options %+v", o)
	}
	if !strings.HasSuffix(own.Source, "k.toml:18") {
		t.Errorf("own: got source %s, want line 18", own.Source)
	}

	if o := c.Profiles["wasm"].Options.(*busyboxOptions); o.MaxMemory != 64 || o.FSLimit != 64<<20 {
		t.Errorf("wasm: got options %+v", o)
	}
	if p := c.Profiles["more"]; p.Timeout != time.Second || !strings.HasSuffix(p.Source, "profiles.d/b.toml:1") {
		t.Errorf("more: got timeout %v, source %s", p.Timeout, p.Source)
	}

	var files []string
	for _, f := range c.Files {
		if !filepath.IsAbs(f) {
			t.Errorf("file %s is not absolute", f)
		}
		files = append(files, filepath.Base(f))
	}
	if want := []string{"k.toml", "b.toml", "laptop"}; !slices.Equal(files, want) {
		t.Errorf("got files %q, want %q", files, want)
	}

	tok := c.Tokens["laptop"]
	if !tok.Matches("correct-horse") || tok.Matches("correct-hors") || tok.Matches("") || tok.Matches("  correct-horse\n") {
		t.Error("the token does not match what its file says, and only that")
	}
	if !tok.Permits("own") || tok.Permits("plain") {
		t.Errorf("got a token for %q", tok.Profiles)
	}
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", tok), fmt.Sprintf("%#v", c)} {
		if strings.Contains(s, "horse") {
			t.Errorf("the secret is in %s", s)
		}
	}
}

// TestDefaultsAreNotShared: what one profile adds, others and the next load do
// not see, also when a driver hands out one slice to all.
func TestDefaultsAreNotShared(t *testing.T) {
	const text = `
[defaults]
env.A = "1"
odd_nested.x.source = "default"
[profiles.a]
backend = "odd"
env.B = "2"
odd_list = ["x"]
odd_nested.y.source = "a"
odd_nested.x.size = 1
[profiles.b]
backend = "odd"
env.C = "3"
`
	for range 2 {
		c := load(t, "k.toml", text)
		a, b := c.Profiles["a"], c.Profiles["b"]
		if want := map[string]string{"A": "1", "B": "2"}; !maps.Equal(a.Env, want) {
			t.Errorf("a: got env %q, want %q", a.Env, want)
		}
		if want := map[string]string{"A": "1", "C": "3"}; !maps.Equal(b.Env, want) {
			t.Errorf("b: got env %q, want %q", b.Env, want)
		}
		if got, want := b.Options.(*oddOptions).List, []string{"a", "b", "c"}; !slices.Equal(got, want) {
			t.Errorf("b: got odd_list %q, want %q", got, want)
		}
		if got, want := a.Options.(*oddOptions).Nested, (map[string]oddDisk{"x": {Size: 1}, "y": {Source: "a"}}); !maps.Equal(got, want) {
			t.Errorf("a: got odd_nested %+v, want %+v", got, want)
		}
		if got, want := b.Options.(*oddOptions).Nested, (map[string]oddDisk{"x": {Source: "default"}}); !maps.Equal(got, want) {
			t.Errorf("b: got odd_nested %+v, want %+v", got, want)
		}
	}
}

func TestEqual(t *testing.T) {
	const a = "[profiles.p]\nbackend = \"docker\"\nimage = \"x\"\nenv = { A = \"1\" }\n"
	base := load(t, "k.toml", a).Profiles["p"]
	for _, c := range []struct {
		name, text         string
		equal, sameSandbox bool
	}{
		{"the same", a, true, true},
		{"moved down", "# more\n\n" + a, true, true},
		{"written otherwise", "profiles.p = { env = { 'A' = '1' }, image = 'x', timeout = '2m', backend = 'docker' }", true, true},
		{"empty is absent", "[profiles.p]\nallow = []\nmounts = []" + a[12:], true, true},
		{"timeout", "[profiles.p]\ntimeout = 1" + a[12:], false, true},
		{"description", "[profiles.p]\ndescription = 'x'" + a[12:], false, true},
		{"tool text", "[profiles.p]\nextended_tool_instruction = 'x'" + a[12:], false, true},
		{"pool", "[profiles.p]\npool = 1" + a[12:], false, true},
		{"allow", "[profiles.p]\nallow = ['x']" + a[12:], false, true},
		{"image", strings.Replace(a, `"x"`, `"y"`, 1), false, false},
		{"env", strings.Replace(a, `"1"`, `"2"`, 1), false, false},
		{"network", "[profiles.p]\nnetwork = true" + a[12:], false, false},
		{"shell", "[profiles.p]\nshell = '/bin/sh'" + a[12:], false, false},
		{"directory", "[profiles.p]\nworking_directory = '/'" + a[12:], false, false},
		{"backend", "[profiles.p]\nbackend = 'go_busybox'\nenv = { A = '1' }\n", false, false},
	} {
		p := load(t, "k.toml", c.text).Profiles["p"]
		if got := base.Equal(p); got != c.equal {
			t.Errorf("%s: Equal: got %v, want %v", c.name, got, c.equal)
		}
		if got := base.SameSandbox(p); got != c.sameSandbox {
			t.Errorf("%s: SameSandbox: got %v, want %v", c.name, got, c.sameSandbox)
		}
	}
}

func TestSpec(t *testing.T) {
	p := load(t, "k.toml", `
[profiles.p]
backend = "docker"
shell = "/bin/sh"
network = true
env = { A = "1" }
working_directory = "/w"
`).Profiles["p"]
	owner := backends.Owner{Instance: "i", Boot: "b"}
	got := p.Spec(owner)
	want := backends.Spec{Profile: "p", Owner: owner, Shell: "/bin/sh", Network: true, Env: map[string]string{"A": "1"}, Dir: "/w"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestHash(t *testing.T) {
	dir := t.TempDir()
	main, token, dropIn := filepath.Join(dir, "k.toml"), filepath.Join(dir, "token"), filepath.Join(dir, "profiles.d", "a.toml")
	hash := func() [sha256.Size]byte {
		c, err := Load(main, drivers)
		if err != nil {
			t.Fatal(err)
		}
		return c.Hash
	}
	write(t, token, "secret")
	write(t, main, fmt.Sprintf("[tokens.t]\nfile = %q\nprofiles = [\"*\"]\n", token))
	before := hash()
	if hash() != before {
		t.Error("two loads of the same differ")
	}
	seen := map[[sha256.Size]byte]string{before: "nothing"}
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"a drop-in", func() { write(t, dropIn, "[profiles.a]\nbackend = \"docker\"\n") }},
		{"a comment in it", func() { write(t, dropIn, "# x\n[profiles.a]\nbackend = \"docker\"\n") }},
		{"its name", func() { os.Rename(dropIn, filepath.Join(dir, "profiles.d", "b.toml")) }},
		{"the secret", func() { write(t, token, "another") }},
	} {
		step.do()
		h := hash()
		if other, ok := seen[h]; ok {
			t.Errorf("after a change of %s the hash is the same as after %s", step.name, other)
		}
		seen[h] = step.name
	}
}

func TestBuiltin(t *testing.T) {
	c, err := Builtin(drivers)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(maps.Keys(c.Profiles)), []string{"debian", "default"}; !slices.Equal(got, want) {
		t.Errorf("got profiles %q, want %q", got, want)
	}
	if p := c.Profiles["default"]; p.Backend != "go_busybox" {
		t.Errorf("default: got backend %q, want go_busybox", p.Backend)
	}
	if p := c.Profiles["debian"]; p.Backend != "docker" || p.Options.(*dockerOptions).Image != "debian:bookworm-slim" {
		t.Errorf("debian: got backend %q, options %+v", p.Backend, p.Options)
	}
	if len(c.Files) != 0 {
		t.Errorf("got files %q, want none", c.Files)
	}
	again, err := Load("", drivers)
	if err != nil || again.Hash != c.Hash {
		t.Errorf("Load of no file: got error %v, want the built-in configuration", err)
	}
	few, err := Builtin(drivers[:1])
	if err != nil || len(few.Profiles) != 1 {
		t.Errorf("a build with %q: got %d profiles, error %v", drivers[:1].Names(), len(few.Profiles), err)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("CONFIGURATION_DIRECTORY", "/made/by:/systemd")
	if got, want := SearchPath(), []string{"/made/by/kilntainers.toml"}; !slices.Equal(got, want) {
		t.Errorf("of a service: got %q, want %q", got, want)
	}
	t.Setenv("CONFIGURATION_DIRECTORY", "")
	want := []string{"/etc/kilntainers/kilntainers.toml", filepath.Join(dir, "kilntainers", "kilntainers.toml")}
	if got := SearchPath(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	t.Setenv("XDG_CONFIG_HOME", "relative")
	t.Setenv("HOME", "/home/u")
	if got := SearchPath(); len(got) != 2 || got[1] != "/home/u/.config/kilntainers/kilntainers.toml" {
		t.Errorf("without $XDG_CONFIG_HOME: got %q", got)
	}
	t.Setenv("XDG_CONFIG_HOME", dir)
	if _, err := os.Stat(want[0]); err == nil {
		t.Skipf("there is a %s here", want[0])
	}
	if got := Find(); got != "" {
		t.Errorf("without a file: got %q, want none", got)
	}
	write(t, want[1], "# x")
	if got := Find(); got != want[1] {
		t.Errorf("got %q, want %q", got, want[1])
	}
}

// TestLoadGoodDaemon: what is wrong in [daemon] is as if it were not there.
func TestLoadGoodDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k.toml")
	for _, c := range []struct {
		name, text string
		want       func(*Daemon)
	}{
		{"missing file", "", func(*Daemon) {}},
		{"syntax", "[daemon]\nmax_sandboxes = 1\n[", func(*Daemon) {}},
		{"one key", "[daemon]\nmax_sandboxes = -1\nmax_sandboxes_per_user = 2\n", func(d *Daemon) { d.MaxSandboxesPerUser = 2 }},
		{"one address", `daemon.listen = ["x", "unix:/a"]`, func(d *Daemon) { d.Listen = []string{"unix:/a"} }},
		{"all addresses", `daemon.listen = ["x", "tcp:0.0.0.0:1"]`, func(*Daemon) {}},
		{"TCP without its token", "daemon.listen = ['unix:/a', 'tcp:0.0.0.0:1']\n[tokens.t]\nfile = '/does/not/exist'\nprofiles = ['*']\n",
			func(d *Daemon) { d.Listen = []string{"unix:/a"} }},
		{"no address is no mistake", "daemon.listen = []\ndaemon.x = 1\n", func(d *Daemon) { d.Listen = nil }},
	} {
		if c.text != "" {
			write(t, path, c.text)
		}
		got, problems := LoadGood(path, drivers)
		if len(problems) == 0 {
			t.Errorf("%s: no problem", c.name)
		}
		want := builtinDaemon()
		c.want(&want)
		if !got.Daemon.Equal(want) {
			t.Errorf("%s: got %+v, want %+v", c.name, got.Daemon, want)
		}
		if len(got.Tokens) != 0 {
			t.Errorf("%s: got tokens %v", c.name, got.Tokens)
		}
	}
}

// TestFiles: what is not a file of TOML text is refused in words, and without
// waiting for it.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	const good = "[profiles.a]\nbackend = \"docker\"\n"
	write(t, path("good"), good)
	write(t, path("bom"), "\xef\xbb\xbf"+good)
	write(t, path("crlf"), strings.ReplaceAll(good, "\n", "\r\n"))
	write(t, path("utf16"), "[\x00p\x00]\x00")
	write(t, path("latin1"), "# caf\xe9\n"+good)
	write(t, path("control"), "# \x01\n"+good)
	write(t, path("large"), good+strings.Repeat("# filler\n", maxFile/9))
	if err := errors.Join(
		os.Symlink("good", path("link")),
		os.Symlink("nowhere", path("dangling")),
		syscall.Mkfifo(path("fifo"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, want string }{
		{"good", ""},
		{"link", ""},
		{"bom", ""},
		{"crlf", ""},
		{"dangling", ": cannot be read: no such file or directory"},
		{"fifo", ": is not a regular file; it is read again at each reload"},
		{"large", ": is larger than 4 MiB; split it up in profiles.d"},
		{"utf16", ":1: not TOML: files cannot contain NULL bytes; probably using UTF-16; TOML files must be UTF-8"},
		{"latin1", ":1: not TOML: invalid UTF-8 byte: 0xe9"},
		{"control", ":1: not TOML: TOML files cannot contain control characters: '0x01'"},
	} {
		want := c.want
		if want != "" {
			want = path(c.name) + want
		}
		got := ""
		if _, err := Load(path(c.name), drivers); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got error %q, want %q", c.name, got, want)
		}
	}
}

func TestSplitListen(t *testing.T) {
	for _, c := range []struct{ in, network, address string }{
		{"unix:/run/k.sock", "unix", "/run/k.sock"},
		{"unix:/run/./a/../k.sock", "unix", "/run/k.sock"},
		{"tcp:127.0.0.1:8435", "tcp", "127.0.0.1:8435"},
		{"tcp:[::1]:8435", "tcp", "[::1]:8435"},
		{"tcp::0", "tcp", ":0"},
		{"tcp:host.example:80", "tcp", "host.example:80"},
		{"tcp:::1:80", "", ""},
		{"tcp:127.0.0.1:+80", "", ""},
		{"tcp:127.0.0.1:080", "", ""},
		{"tcp:a b:80", "", ""},
		{"unix:", "", ""},
		{"unix:@abstract", "", ""},
		{"fd://", "", ""},
	} {
		network, address, err := SplitListen(c.in)
		if network != c.network || address != c.address || (err == nil) != (c.network != "") {
			t.Errorf("%q: got %q, %q, %v; want %q, %q", c.in, network, address, err, c.network, c.address)
		}
	}
}

func TestCheckListen(t *testing.T) {
	for _, c := range []struct {
		network, address string
		loopback, token  bool
		ok               bool
	}{
		{"unix", "/run/k.sock", false, false, true},
		{"tcp", "127.0.0.1:1", false, false, false},
		{"tcp", "127.0.0.1:1", true, false, true},
		{"tcp4", "127.255.0.1:1", true, false, true},
		{"tcp6", "[::1]:1", true, false, true},
		{"tcp", "localhost:1", true, false, false},
		{"tcp", "0.0.0.0:1", true, false, false},
		{"tcp", ":1", true, false, false},
		{"tcp", "192.0.2.1:1", true, false, false},
		{"tcp", "nonsense", true, false, false},
		{"tcp", "0.0.0.0:1", false, true, true},
	} {
		config := &Config{Daemon: Daemon{AllowUnauthenticatedLoopback: c.loopback}}
		if c.token {
			config.Tokens = map[string]Token{"t": {}}
		}
		if err := config.CheckListen(c.network, c.address); (err == nil) != c.ok {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}

// FuzzLoad: whatever stands in a file, Load ends, says where each problem is,
// and what it takes it takes the same way again.
func FuzzLoad(f *testing.F) {
	archives, _ := filepath.Glob("testdata/bad/*.txtar")
	for _, path := range archives {
		a, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range a.Files {
			if strings.HasSuffix(file.Name, ".toml") {
				f.Add(file.Data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if strings.Contains(string(data), "file") {
			return // of a token: it would read any file of this machine
		}
		load := func() (*Config, Problems) {
			l := newLoader(drivers)
			l.sources = append(l.sources, l.parse("k.toml", data))
			return l.load()
		}
		c, problems := load()
		for _, p := range problems {
			if p.File != "k.toml" || p.Line < 1 || p.Line > 1+strings.Count(string(data), "\n") || p.Text == "" {
				t.Errorf("a problem without a place: %+v", p)
			}
			if strings.ContainsAny(p.Error(), "\r\n") {
				t.Errorf("a problem on two lines: %q", p.Error())
			}
		}
		again, problemsAgain := load()
		if !slices.Equal(problems, problemsAgain) {
			t.Errorf("got %v, then %v", problems, problemsAgain)
		}
		for name, p := range c.Profiles {
			if !p.Equal(again.Profiles[name]) || !p.SameSandbox(again.Profiles[name]) {
				t.Errorf("%s: got\n%+v, then\n%+v", name, p, again.Profiles[name])
			}
			if p.Timeout < time.Second || p.MaxTimeout < p.Timeout || p.OutputLimit < 1 || p.Driver.Name == "" || p.Options == nil {
				t.Errorf("%s: got %+v", name, p)
			}
		}
	})
}

func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("profiles=%d", n), func(b *testing.B) {
			var text strings.Builder
			text.WriteString("[defaults]\ntimeout = 60\nmemory = \"512m\"\nenv = { LANG = \"C.UTF-8\" }\n")
			for i := range n {
				fmt.Fprintf(&text, "\n[profiles.p%d]\nbackend = \"docker\"\nimage = \"example:%d\"\ndescription = \"number %d\"\n"+
					"timeout = \"90s\"\nextended_tool_instruction = \"\"\"\nBe brief.\n\"\"\"\nenv = { N = \"%d\" }\nallow = [\"alice\", \"@data\"]\n", i, i, i, i)
			}
			path := filepath.Join(b.TempDir(), "k.toml")
			write(b, path, text.String())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Load(path, drivers); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
