package main

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	systemSocket = "/run/kilntainers/kilntainers.sock"

	maxHeader  = 64      // lines of a response header
	maxRefusal = 4 << 10 // bytes of a refusal's reason
	maxToken   = 256     // bytes of a resume token
)

// defaultSocket is where the daemon listens if --socket does not say so. Some
// MCP clients start their servers with an environment of their own making
// (Codex, the TypeScript SDK), so XDG_RUNTIME_DIR's usual value stands in for it.
func defaultSocket() string {
	if path := os.Getenv("KILNTAINERS_SOCKET"); path != "" {
		return path
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = "/run/user/" + strconv.Itoa(os.Getuid())
	}
	path := dir + "/kilntainers/kilntainers.sock"
	var info syscall.Stat_t
	if syscall.Stat(path, &info) == nil {
		return path
	}
	return systemSocket
}

// A dialError is a failed attempt to reach the profile, in words for the user.
type dialError struct {
	text string
	kind failure
}

type failure int

const (
	absent  failure = iota // nobody to talk to: no socket, no permission, nobody listens
	broken                 // somebody who does not finish the handshake, or is stopping
	refused                // the daemon said no, and will again
)

func (e *dialError) Error() string { return e.text }

// A conn is a connection to a profile, past the upgrade: MCP messages, one a
// line, both ways. Reading and writing at once is fine, and Close ends both.
type conn struct {
	file *os.File
	lines
}

// dial connects to the socket and upgrades the connection to the profile's MCP
// stream, all of it before the deadline:
//
//	GET /stdio/python HTTP/1.1                 HTTP/1.1 101 Switching Protocols
//	Host: kilntainers                          Connection: Upgrade
//	Connection: Upgrade                   ◄──► Upgrade: kilntainers-stdio/1
//	Upgrade: kilntainers-stdio/1               Kilntainers-Resume: 7Q…
//	Kilntainers-Resume: 7Q…
//
// A token that an earlier connection was given asks for that connection's
// sandbox. dial returns the token for the next time.
func dial(socket, profile, token string, deadline time.Time) (*conn, string, error) {
	file, err := connect(socket, deadline)
	if err != nil {
		return nil, "", &dialError{explain(socket, err), absent}
	}
	c := &conn{file: file, lines: lines{from: file, max: maxDaemonLine}}
	file.SetDeadline(deadline)
	token, err = c.upgrade(profile, token)
	if err != nil {
		c.Close()
		if e, ok := err.(*dialError); ok {
			return nil, "", e
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = errors.New("it does not answer")
		}
		return nil, "", &dialError{"the daemon at " + socket + " broke the handshake: " + err.Error() + "; see: journalctl -u kilntainers", broken}
	}
	file.SetDeadline(time.Time{})
	return c, token, nil
}

// connect opens a connection to the Unix socket. Package net would add 600 KB.
func connect(socket string, deadline time.Time) (*os.File, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	// The send timeout also bounds connect, which waits for a place in the
	// listener's queue.
	wait := syscall.NsecToTimeval(int64(max(time.Until(deadline), time.Second)))
	syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &wait)
	for {
		if err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}); err != syscall.EINTR {
			break
		}
	}
	if err == nil {
		// Only a non-blocking descriptor gets deadlines, and a Close that ends
		// a Read and a Write in progress.
		err = syscall.SetNonblock(fd, true)
	}
	if err != nil {
		syscall.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), socket), nil
}

// upgrade shakes hands. What the daemon sends after the header stays in c.
func (c *conn) upgrade(profile, token string) (string, error) {
	hello := "GET /stdio/" + profile + " HTTP/1.1\r\n" +
		"Host: kilntainers\r\n" +
		"Connection: Upgrade\r\n" +
		"Upgrade: kilntainers-stdio/1\r\n"
	if token != "" {
		hello += "Kilntainers-Resume: " + token + "\r\n"
	}
	if _, err := c.file.WriteString(hello + "\r\n"); err != nil {
		return "", err
	}

	line, err := c.next()
	if err != nil {
		return "", err
	}
	status := strings.TrimSpace(string(line))
	token, length := "", maxRefusal
	for n := 0; ; n++ {
		line, err := c.next()
		if err != nil {
			return "", err
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			break
		}
		if n == maxHeader {
			return "", errors.New("its header does not end")
		}
		name, value, _ := strings.Cut(string(line), ":")
		value = strings.TrimSpace(value)
		switch {
		case strings.EqualFold(name, "Kilntainers-Resume"):
			if len(value) <= maxToken && value == printable(value) {
				token = value
			}
		case strings.EqualFold(name, "Content-Length"):
			if n, err := strconv.Atoi(value); err == nil && n >= 0 {
				length = min(n, maxRefusal)
			}
		}
	}

	version, code, _ := strings.Cut(status, " ")
	code, _, _ = strings.Cut(code, " ")
	switch {
	case !strings.HasPrefix(version, "HTTP/1."):
		return "", errors.New("it does not speak HTTP")
	case code == "101":
		return token, nil
	}
	reason := printable(strings.TrimSpace(string(c.take(length))))
	if reason == "" {
		reason = "the daemon answered " + quote(status)
	}
	if code == "503" {
		return "", &dialError{reason, broken}
	}
	return "", &dialError{reason, refused}
}

// write sends one line whole. After an error the daemon has at most its
// beginning, which it ignores.
func (c *conn) write(line []byte) error {
	_, err := c.file.Write(line)
	return err
}

// closeWrite tells the daemon that nothing more will come.
func (c *conn) closeWrite() {
	if raw, err := c.file.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { syscall.Shutdown(int(fd), syscall.SHUT_WR) })
	}
}

func (c *conn) Close() { c.file.Close() }

// explain says why the socket cannot be connected to, and what to do about it.
func explain(socket string, err error) string {
	const start = "start it with: systemctl enable --now kilntainers.socket (or kilntainersd)"
	switch err {
	case syscall.ENOENT, syscall.ENOTDIR:
		return "no daemon at " + socket + "; " + start
	case syscall.ECONNREFUSED:
		return "nobody listens at " + socket + ", the daemon that made it is gone; " + start
	case syscall.EACCES, syscall.EPERM:
		return "permission denied on " + socket + "; " + permissionRemedy(socket)
	case syscall.EAGAIN:
		return "the daemon at " + socket + " is too busy to accept connections; see: journalctl -u kilntainers"
	case syscall.EINVAL, syscall.ENAMETOOLONG:
		return "the socket's path is too long (107 bytes at most): " + socket
	}
	return "connect to " + socket + ": " + err.Error()
}

// permissionRemedy finds out which group may write to the socket.
func permissionRemedy(socket string) string {
	var info syscall.Stat_t
	if syscall.Stat(socket, &info) != nil {
		return "its directory is closed to you: ask whoever runs the daemon, or name another socket with --socket"
	}
	group := groupName(info.Gid)
	switch {
	case info.Mode&0o020 == 0, info.Gid == 0:
		return "only its owner may use it: ask whoever runs the daemon"
	case group == "":
		return "join its group (gid " + strconv.Itoa(int(info.Gid)) + "), then log in again"
	}
	return "join its group with: sudo usermod -aG " + group + " $USER, then log in again"
}

// groupName looks a group up in /etc/group (group(5)); "" if it is not there.
func groupName(gid uint32) string {
	file, err := os.Open("/etc/group")
	if err != nil {
		return ""
	}
	defer file.Close()
	groups := lines{from: file, max: maxClientLine}
	for {
		line, err := groups.next()
		if f := strings.Split(string(line), ":"); len(f) > 2 && f[2] == strconv.Itoa(int(gid)) {
			return f[0]
		}
		if err != nil {
			return ""
		}
	}
}
