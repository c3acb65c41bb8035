package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	systemSocket = "/run/kilntainers/kilntainers.sock"

	maxAnswer    = 16 << 20 // bytes of an answer of the daemon's
	maxRefusal   = 4 << 10  // bytes of a reason
	upgradeLimit = 30 * time.Second
)

// defaultSocket is where the daemon listens if --socket does not say so: the
// rule of kilntainers-stdio.
func defaultSocket() string {
	if path := os.Getenv("KILNTAINERS_SOCKET"); path != "" {
		return path
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = filepath.Join("/run/user", strconv.Itoa(os.Getuid()))
	}
	path := filepath.Join(dir, "kilntainers", "kilntainers.sock")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	return systemSocket
}

// dial connects to the daemon. Its errors say what to do.
func (c *cli) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, explain(c.socket, err)
	}
	return conn, nil
}

// ask sends a request to the daemon and decodes its answer. A refusal is an
// error in the daemon's words, unless its status is one of accept.
func (c *cli) ask(ctx context.Context, method, path string, answer any, accept ...int) error {
	client := http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://kilntainers"+path, nil)
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	res, err := client.Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // without the address, which is none of the user's
		}
		return err
	}
	defer res.Body.Close()
	ok := res.StatusCode == http.StatusOK
	for _, status := range accept {
		ok = ok || res.StatusCode == status
	}
	if !ok {
		return refusal(res)
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(answer); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	return nil
}

// upgrade opens the MCP stream of a profile, as kilntainers-stdio does. Who
// calls closes it, and with it the sandbox.
func (c *cli) upgrade(ctx context.Context, profile string) (net.Conn, *bufio.Reader, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	conn.SetDeadline(time.Now().Add(upgradeLimit))
	req, err := http.NewRequest(http.MethodGet, "http://kilntainers/stdio/"+url.PathEscape(profile), nil)
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("ask the daemon: %w", err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "kilntainers-stdio/1")
	req.Header.Set("Kilntainers-Binding", "connection") // a handle would outlive the command
	in := bufio.NewReader(conn)
	res, err := exchange(conn, in, req)
	if err == nil && res.StatusCode != http.StatusSwitchingProtocols {
		err = refusal(res)
	}
	if err != nil {
		conn.Close()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, nil, err
	}
	conn.SetDeadline(time.Time{})
	return conn, in, nil
}

func exchange(w io.Writer, r *bufio.Reader, req *http.Request) (*http.Response, error) {
	if err := req.Write(w); err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	res, err := http.ReadResponse(r, req)
	if err != nil {
		return nil, fmt.Errorf("read the daemon's answer: %w", err)
	}
	return res, nil
}

// refusal is the daemon's reason, which is one line of text.
func refusal(res *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(res.Body, maxRefusal))
	reason, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if reason == "" {
		reason = "the daemon answered " + res.Status
	}
	return errors.New(printable(reason))
}

// explain says why the socket cannot be connected to, and what to do about it.
func explain(socket string, err error) error {
	const start = "start it with: systemctl enable --now kilntainers.socket (or kilntainersd)"
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("no daemon at %s; %s", socket, start)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nobody listens at %s, the daemon that made it is gone; %s", socket, start)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("permission denied on %s; %s", socket, permissionRemedy(socket))
	}
	return fmt.Errorf("connect to the daemon: %w", err)
}

// permissionRemedy finds out which group may write to the socket.
func permissionRemedy(socket string) string {
	info, err := os.Stat(socket)
	if err != nil {
		return "its directory is closed to you: ask whoever runs the daemon, or use sudo"
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Gid == 0 || info.Mode().Perm()&0o020 == 0 {
		return "only its owner may use it: ask whoever runs the daemon, or use sudo"
	}
	gid := strconv.Itoa(int(owner.Gid))
	group, err := user.LookupGroupId(gid)
	if err != nil {
		return "join its group (gid " + gid + "), then log in again"
	}
	return "join its group with: sudo usermod -aG " + group.Name + " $USER, then log in again"
}
