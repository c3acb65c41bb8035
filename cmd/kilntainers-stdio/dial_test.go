package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestArguments(t *testing.T) {
	for _, test := range []struct {
		args   string
		code   int
		stdout string // prefix
		stderr string
	}{
		{"--version", 0, "kilntainers-stdio " + version + "\n", ""},
		{"--help", 0, "Usage: kilntainers-stdio ", ""},
		{"-h", 0, "Usage: kilntainers-stdio ", ""},
		{"--profil x", 2, "", `unknown argument "--profil"; see kilntainers-stdio --help`},
		{"python", 2, "", `unknown argument "python"; see kilntainers-stdio --help`},
		{"--drain=yes", 2, "", `unknown argument "--drain"; see kilntainers-stdio --help`},
		{"--profile", 2, "", `--profile needs a value; see kilntainers-stdio --help`},
		{"--socket", 2, "", `--socket needs a value; see kilntainers-stdio --help`},
		{"--socket=", 2, "", `--socket needs the path of the daemon's socket`},
		{"--profile=", 2, "", `bad profile name ""; a name has at most 63 of a-z, 0-9, _ and -, and starts with a letter or digit`},
		{"--profile ../etc", 2, "", `bad profile name "../etc"; a name has`},
		{"--profile=a\r\nb", 2, "", `bad profile name "a??b"; a name has`},
		{"--profile=a\x1b]0;x", 2, "", `bad profile name "a?]0;x"; a name has`},
		{"--profile " + strings.Repeat("a", 64), 2, "", `bad profile name "aaa`},
		{"--profile -a", 2, "", `bad profile name "-a"`},
		{"--profile Python", 2, "", `bad profile name "Python"`},
	} {
		cmd := command(strings.Split(test.args, " ")...)
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != test.code {
			t.Errorf("%q: exit code %d, want %d", test.args, got, test.code)
		}
		if !strings.HasPrefix(stdout.String(), test.stdout) || (test.stdout == "") != (stdout.Len() == 0) {
			t.Errorf("%q: stdout %q, want %q", test.args, stdout.String(), test.stdout)
		}
		got := stderr.String()
		if test.stderr == "" && got != "" || test.stderr != "" && !strings.HasPrefix(got, "kilntainers-stdio: "+test.stderr) {
			t.Errorf("%q: stderr %q, want %q", test.args, got, test.stderr)
		}
		if strings.Count(got, "\n") > 1 {
			t.Errorf("%q: more than one line on stderr: %q", test.args, got)
		}
	}
}

func TestValidProfile(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "0": true, "a-b_c9": true, strings.Repeat("a", 63): true,
		"": false, "-a": false, "_a": false, "A": false, "a.b": false, "a b": false, "ä": false, "a\x00": false,
	} {
		if got := validProfile(name); got != want {
			t.Errorf("validProfile(%q) = %v, want %v", name, got, want)
		}
	}
}

func TestDefaultSocket(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("KILNTAINERS_SOCKET", "")
	t.Setenv("XDG_RUNTIME_DIR", dir)
	if got, want := defaultSocket(), systemSocket; got != want {
		t.Errorf("without a user's daemon: %s, want %s", got, want)
	}
	path := filepath.Join(dir, "kilntainers", "kilntainers.sock")
	os.MkdirAll(filepath.Dir(path), 0o700)
	os.WriteFile(path, nil, 0o600)
	if got := defaultSocket(); got != path {
		t.Errorf("with a user's daemon: %s, want %s", got, path)
	}
	t.Setenv("KILNTAINERS_SOCKET", "/x")
	if got := defaultSocket(); got != "/x" {
		t.Errorf("with the variable: %s, want /x", got)
	}
	t.Setenv("KILNTAINERS_SOCKET", "")
	t.Setenv("XDG_RUNTIME_DIR", "")
	want := fmt.Sprintf("/run/user/%d/kilntainers/kilntainers.sock", os.Getuid())
	if _, err := os.Stat(want); err != nil {
		want = systemSocket // nobody runs a daemon of their own here
	}
	if got := defaultSocket(); got != want {
		t.Errorf("without the variable: %s, want %s", got, want)
	}
}

func TestCannotConnect(t *testing.T) {
	dir := shortDir(t)
	start := "start it with: systemctl enable --now kilntainers.socket (or kilntainersd)"

	missing := filepath.Join(dir, "missing", "k.sock")
	wantFailure(t, command("--socket", missing), "no daemon at "+missing+"; "+start)
	wantFailure(t, command("KILNTAINERS_SOCKET="+missing), "no daemon at "+missing+"; "+start)

	stale := filepath.Join(dir, "stale.sock")
	ln, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	wantFailure(t, command("--socket", stale), "nobody listens at "+stale+", the daemon that made it is gone; "+start)

	file := filepath.Join(dir, "file")
	os.WriteFile(file, nil, 0o666)
	wantFailure(t, command("--socket", file), "nobody listens at "+file)
	wantFailure(t, command("--socket", file+"/x"), "no daemon at "+file+"/x")

	long := "/" + strings.Repeat("x", 200)
	wantFailure(t, command("--socket", long), "the socket's path is too long (107 bytes at most): "+long)
}

// wantFailure runs a shim that cannot start.
func wantFailure(t *testing.T, cmd *exec.Cmd, reason string) {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != 1 {
		t.Errorf("exit code %d, want 1", got)
	}
	if stdout.Len() > 0 {
		t.Errorf("stdout %q, want nothing", stdout.String())
	}
	if got := stderr.String(); !strings.HasPrefix(got, "kilntainers-stdio: "+reason) || strings.Count(got, "\n") != 1 {
		t.Errorf("stderr %q, want the line %q", got, reason)
	}
}

func TestPermissionDenied(t *testing.T) {
	d := listen(t)
	dir := filepath.Dir(d.socket)
	binary := filepath.Join(dir, "shim")
	content, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, content, 0o755); err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	// run runs the shim as somebody whom permissions stop: root is not.
	run := func(reason string) {
		t.Helper()
		cmd := command("--socket", d.socket)
		cmd.Path = binary
		if os.Getuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		cmd.Dir = "/"
		wantFailure(t, cmd, "permission denied on "+d.socket+"; "+reason)
	}

	os.Chmod(d.socket, 0o000)
	run("only its owner may use it: ask whoever runs the daemon")

	if os.Getuid() == 0 {
		daemonGroup, err := user.LookupGroup("daemon")
		if err != nil {
			t.Skip("no group daemon here: ", err)
		}
		gid, _ := strconv.Atoi(daemonGroup.Gid)
		os.Chown(d.socket, 0, gid)
		os.Chmod(d.socket, 0o660)
		run("join its group with: sudo usermod -aG daemon $USER, then log in again")
		os.Chown(d.socket, 0, 54321)
		run("join its group (gid 54321), then log in again")
		os.Chown(d.socket, 0, 0)
		run("only its owner may use it")

		closed := filepath.Join(dir, "closed")
		os.Mkdir(closed, 0o700)
		d = listenAt(t, filepath.Join(closed, "k.sock"))
		run("its directory is closed to you: ask whoever runs the daemon, or name another socket with --socket")
	}
}

func TestRefused(t *testing.T) {
	for _, test := range []struct{ answer, reason string }{
		{"HTTP/1.1 404 Not Found\r\nContent-Length: 56\r\n\r\nunknown profile \"x\"; this daemon has: default, python\n more",
			`unknown profile "x"; this daemon has: default, python`},
		{"HTTP/1.1 403 Forbidden\r\ncontent-length:3\r\n\r\nno!", "no!"},
		{"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", `the daemon answered "HTTP/1.1 404 Not Found"`},
		{"HTTP/1.0 500\r\n\r\n", `the daemon answered "HTTP/1.0 500"`},
		{"HTTP/1.1 403 Forbidden\r\nContent-Length: 8\r\n\r\na\x1b[2J\nb\n", "a?[2J?b"},
		{"HTTP/1.1 403 Forbidden\r\nContent-Length: 99999999\r\n\r\n" + strings.Repeat("y", 9999), strings.Repeat("y", maxRefusal) + "\n"},
		{"HTTP/1.1 403 Forbidden\r\nContent-Length: 999\r\n\r\nshort", "short\n"},
	} {
		d := listen(t)
		c := start(t, d.socket)
		p := d.accept()
		p.send(test.answer)
		p.hangUp()
		c.wantExit(1, "kilntainers-stdio: "+test.reason)
		if got := c.stderr.String(); strings.Count(got, "\n") != 1 {
			t.Errorf("more than one line on stderr: %q", got)
		}
		c.want("EOF")
	}
}

// A daemon that keeps the connection open after a refusal does not hold us.
func TestRefusedAndHeld(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket)
	d.accept().refuse(403, "you may not use profile python")
	c.wantExit(1, "kilntainers-stdio: you may not use profile python\n")
}

// What is no handshake is tried again while patience lasts: the daemon may be
// stopping. Then the reason is told.
func TestBrokenHandshake(t *testing.T) {
	for _, test := range []struct{ answer, reason string }{
		{"", "broke the handshake: EOF; see: journalctl -u kilntainers\n"},
		{"HTTP/1.1 101 Swi", "broke the handshake: EOF"},
		{"SSH-2.0-OpenSSH\r\n\r\n", "broke the handshake: it does not speak HTTP"},
		{"HTTP/1.1 101 Switching\r\n" + strings.Repeat("a: b\r\n", 100), "broke the handshake: its header does not end"},
		{"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 8\r\n\r\nstopping", "kilntainers-stdio: stopping\n"},
	} {
		d := listen(t)
		c := start(t, d.socket, "KILNTAINERS_STDIO_PATIENCE=200ms")
		go func() {
			for {
				conn, err := d.ln.Accept()
				if err != nil {
					return
				}
				go func() {
					io.WriteString(conn, test.answer)
					conn.(*net.UnixConn).CloseWrite()
					io.Copy(io.Discard, conn)
					conn.Close()
				}()
			}
		}()
		c.wantExit(1, test.reason)
	}

	d := listen(t)
	c := start(t, d.socket, "KILNTAINERS_STDIO_PATIENCE=200ms")
	c.wantExit(1, "the daemon at "+d.socket+" broke the handshake: it does not answer; see: journalctl -u kilntainers\n")
}

// A signal ends a shim that waits for the daemon's first answer.
func TestSignalWhileConnecting(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket)
	d.accept()
	c.cmd.Process.Signal(syscall.SIGTERM)
	c.wantExit(0, "")
}

// A token that cannot stand in a header is not sent back.
func TestBadToken(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket)
	p := d.accept()
	p.welcome("a\x01b", "ready\n")
	c.want("ready")
	p.hangUp()
	p = d.accept()
	if got := p.hello.Header; len(got["Kilntainers-Resume"]) > 0 {
		t.Errorf("header %v", got)
	}
	p.welcome(strings.Repeat("x", maxToken+1), "ready\n")
	c.want("ready")
	p.hangUp()
	if got := d.accept().hello.Header; len(got["Kilntainers-Resume"]) > 0 {
		t.Errorf("header %v", got)
	}
}

// FuzzUpgrade feeds the handshake what a strange daemon might send.
func FuzzUpgrade(f *testing.F) {
	f.Add("HTTP/1.1 101 Switching Protocols\r\nKilntainers-Resume: x\r\n\r\nline\n")
	f.Add("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnope")
	f.Add("HTTP/1.1 101\n\n")
	f.Fuzz(func(t *testing.T, answer string) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		go func() {
			io.WriteString(w, answer)
			w.Close()
		}()
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		c := &conn{file: null, lines: lines{from: r, max: maxDaemonLine}}
		token, err := c.upgrade("default", "")
		if strings.ContainsAny(token, "\r\n\x00") || len(token) > maxToken {
			t.Errorf("token %q", token)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("error %q is not one line", err)
		}
		io.Copy(io.Discard, r)
	})
}
