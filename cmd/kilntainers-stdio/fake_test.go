package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The tests run the real program against a daemon that they script:
//
//	d := listen(t)                   the daemon's socket
//	c := start(t, d.socket)          the shim, started as an MCP client does
//	p := d.accept()                  its connection, with what it asked for
//	p.welcome("token")               101, and from here on lines
//	c.send(…); p.want(…); p.send(…); c.want(…)
//
// Every wait has the same generous limit; no test depends on how long things take.
const limit = 20 * time.Second

// TestMain lets the test binary play the program itself.
func TestMain(m *testing.M) {
	if os.Getenv("KILNTAINERS_STDIO_TEST") == "" {
		os.Exit(m.Run())
	}
	for name, d := range map[string]*time.Duration{"PATIENCE": &patience, "STEADY": &steady} {
		if text := os.Getenv("KILNTAINERS_STDIO_" + name); text != "" {
			var err error
			if *d, err = time.ParseDuration(text); err != nil {
				panic(err)
			}
		}
	}
	main()
	os.Exit(0)
}

// A daemon is the listening half of a scripted daemon.
type daemon struct {
	t      testing.TB
	socket string
	ln     net.Listener
}

// listen makes a daemon on a socket in a directory of its own.
func listen(t testing.TB) *daemon {
	t.Helper()
	return listenAt(t, filepath.Join(shortDir(t), "k.sock"))
}

func listenAt(t testing.TB, socket string) *daemon {
	t.Helper()
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return &daemon{t, socket, ln}
}

// shortDir is a temporary directory whose path leaves room for a socket's name:
// t.TempDir contains the test's name.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kstdio")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// stop closes the socket and removes its file.
func (d *daemon) stop() { d.ln.Close() }

// accept waits for the shim and reads what it asks for.
func (d *daemon) accept() *peer {
	d.t.Helper()
	d.ln.(*net.UnixListener).SetDeadline(time.Now().Add(limit))
	c, err := d.ln.Accept()
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(limit))
	p := &peer{t: d.t, conn: c, in: bufio.NewReader(c)}
	if p.hello, err = http.ReadRequest(p.in); err != nil {
		d.t.Fatalf("the shim's request: %v", err)
	}
	return p
}

// A peer is the daemon's end of one connection.
type peer struct {
	t     testing.TB
	conn  net.Conn
	in    *bufio.Reader
	hello *http.Request
}

// welcome upgrades the connection; more comes with the same write.
func (p *peer) welcome(token, more string) {
	p.t.Helper()
	p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: kilntainers-stdio/1\r\nKilntainers-Resume: " + token + "\r\n\r\n" + more)
}

// refuse answers the request as net/http would.
func (p *peer) refuse(code int, reason string) {
	p.t.Helper()
	r := http.Response{StatusCode: code, ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: int64(len(reason)), Body: io.NopCloser(strings.NewReader(reason))}
	if err := r.Write(p.conn); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) send(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.conn, text); err != nil {
		p.t.Fatal(err)
	}
}

// line reads a line without its end; "EOF" when the shim has closed.
func (p *peer) line() string {
	p.t.Helper()
	return readLine(p.t, p.in)
}

func (p *peer) want(want string) {
	p.t.Helper()
	if got := p.line(); got != want {
		p.t.Fatalf("the daemon got %.300q, want %.300q", got, want)
	}
}

// hangUp ends the connection as the death of the daemon does.
func (p *peer) hangUp() { p.conn.Close() }

func readLine(t testing.TB, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	switch {
	case err == nil:
		return strings.TrimSuffix(line, "\n")
	case err == io.EOF && line == "":
		return "EOF"
	}
	t.Fatalf("reading a line: %v after %.100q", err, line)
	return ""
}

// A client is a running shim, seen from the MCP client that started it.
type client struct {
	t      testing.TB
	cmd    *exec.Cmd
	in     io.WriteCloser
	stdout *os.File
	out    *bufio.Reader
	stderr bytes.Buffer
	exited chan error
}

// start runs the shim on a socket.
func start(t testing.TB, socket string, args ...string) *client {
	t.Helper()
	return startCmd(t, command(append([]string{"--socket", socket}, args...)...))
}

// command is the shim, not yet started. Arguments like NAME=value go into its
// environment.
func command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KILNTAINERS_STDIO_TEST=1")
	for _, a := range args {
		if name, _, ok := strings.Cut(a, "="); ok && !strings.HasPrefix(name, "-") {
			cmd.Env = append(cmd.Env, a)
		} else {
			cmd.Args = append(cmd.Args, a)
		}
	}
	return cmd
}

func startCmd(t testing.TB, cmd *exec.Cmd) *client {
	t.Helper()
	c := &client{t: t, cmd: cmd, exited: make(chan error, 1)}
	var err error
	if c.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	// Not StdoutPipe: Wait would close it before all is read.
	out, childOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = childOut, &c.stderr
	c.stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	childOut.Close()
	out.SetReadDeadline(time.Now().Add(limit))
	c.out = bufio.NewReader(out)
	go func() { c.exited <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-c.exited
		out.Close()
	})
	return c
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, text+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) line() string {
	c.t.Helper()
	return readLine(c.t, c.out)
}

func (c *client) want(want string) {
	c.t.Helper()
	if got := c.line(); got != want {
		c.t.Fatalf("the client got %.300q, want %.300q", got, want)
	}
}

// wantExit waits for the end and checks the exit code and what stderr contains.
func (c *client) wantExit(code int, stderr string) {
	c.t.Helper()
	select {
	case err := <-c.exited:
		c.exited <- err
		got := 0
		if e := (*exec.ExitError)(nil); errors.As(err, &e) {
			got = e.ExitCode() // -1 for death by a signal
		} else if err != nil {
			c.t.Fatal(err)
		}
		if got != code {
			c.t.Fatalf("exit code %d, want %d; stderr:\n%s", got, code, c.stderr.String())
		}
	case <-time.After(limit):
		c.t.Fatal("the shim does not exit")
	}
	if got := c.stderr.String(); !strings.Contains(got, stderr) {
		c.t.Fatalf("stderr %q, want %q in it", got, stderr)
	}
}
