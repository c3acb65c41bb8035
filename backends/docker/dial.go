package docker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/docker/go-connections/tlsconfig"
)

// An unreachableError says, in an operator's words, why an engine could not be
// reached. The Docker client replaces errors whose text has "dial unix" or
// "connection refused", so the text has neither.
type unreachableError struct {
	text string
	err  error
}

func (e *unreachableError) Error() string { return e.text }
func (e *unreachableError) Unwrap() error { return e.err }

// A dialer makes connections to one engine. Of several addresses it stays with
// the first that answered, so that all connections reach the same engine.
type dialer struct {
	kind string // "docker" or "podman", for what to do

	mu     sync.Mutex
	addrs  []string
	tunnel *tunnel
}

const dialTimeout = 10 * time.Second

func newDialer(addrs []string, kind string) *dialer {
	return &dialer{kind: kind, addrs: addrs}
}

// addr is the engine's address; before the first connection, the likeliest.
func (d *dialer) addr() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.addrs[0]
}

// has reports whether addr is one of the engine's addresses.
func (d *dialer) has(addr string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Contains(d.addrs, addr)
}

func (d *dialer) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, errors.New("no answer in "+dialTimeout.String()))
	defer cancel()
	d.mu.Lock()
	addrs := d.addrs
	d.mu.Unlock()

	var failed []error
	for _, a := range addrs {
		c, err := d.dialAddr(ctx, a)
		if err == nil {
			d.mu.Lock()
			d.addrs = []string{a}
			d.mu.Unlock()
			if f, ok := ctx.Value(dialledKey{}).(func(net.Conn)); ok {
				f(c)
			}
			return c, nil
		}
		failed = append(failed, err)
	}
	if len(failed) > 1 && errors.Is(failed[0], fs.ErrNotExist) && errors.Is(failed[1], fs.ErrNotExist) {
		return nil, &unreachableError{fmt.Sprintf("there is no engine: no socket at %s or %s; %s, or set docker_host",
			strings.TrimPrefix(addrs[0], "unix://"), strings.TrimPrefix(addrs[1], "unix://"), d.start()), failed[0]}
	}
	for _, err := range failed[1:] {
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, failed[0]
}

// dialAddr connects to one address. Its errors are for operators.
func (d *dialer) dialAddr(ctx context.Context, addr string) (net.Conn, error) {
	u, err := url.Parse(addr)
	if err != nil {
		return nil, &unreachableError{fmt.Sprintf("%q is not the address of an engine", addr), err}
	}
	var c net.Conn
	switch u.Scheme {
	case "unix":
		if c, err = new(net.Dialer).DialContext(ctx, "unix", u.Path); err != nil {
			return nil, d.unixError(u.Path, err)
		}
	case "tcp":
		if c, err = dialTCP(ctx, u.Host); err != nil {
			return nil, tcpError(addr, err)
		}
	case "ssh":
		if c, err = d.ssh(u).dial(ctx); err != nil {
			return nil, &unreachableError{fmt.Sprintf("cannot reach %s: %v", addr, err), err}
		}
	default:
		return nil, &unreachableError{fmt.Sprintf("%q is not the address of an engine; write unix:///path, tcp://host:port or ssh://user@host", addr), nil}
	}
	return c, nil
}

// start says how to start the engine.
func (d *dialer) start() string {
	if d.kind == "podman" {
		return "start Podman's API (systemctl start podman.socket)"
	}
	return "start Docker (systemctl start docker)"
}

func (d *dialer) unixError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &unreachableError{fmt.Sprintf("there is no socket at %s; %s, or set docker_host", path, d.start()), err}
	case errors.Is(err, fs.ErrPermission):
		return &unreachableError{fmt.Sprintf("permission denied on %s; %s", path, whoMay(path)), err}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &unreachableError{fmt.Sprintf("nothing listens on %s; %s", path, d.start()), err}
	}
	return &unreachableError{fmt.Sprintf("cannot connect to %s: %s", path, bare(err)), err}
}

// whoMay says what to do about a socket that may not be opened.
func whoMay(path string) string {
	st, err := os.Stat(path)
	if err == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && st.Mode()&0o020 != 0 {
			gid := strconv.FormatUint(uint64(sys.Gid), 10)
			if g, err := user.LookupGroupId(gid); err == nil {
				return fmt.Sprintf("add the daemon's user to the group %s", g.Name)
			}
			return fmt.Sprintf("add the daemon's user to the group %s", gid)
		}
	}
	return "it is another user's; run the daemon as that user, or set docker_host"
}

// dialTCP connects to host:port, with TLS when the daemon's environment names
// certificates as for the docker CLI. The engine's certificate is always
// verified. The files are read each time, so a renewed one is used at once.
func dialTCP(ctx context.Context, hostport string) (net.Conn, error) {
	c, err := (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext(ctx, "tcp", hostport)
	if err != nil {
		return nil, err
	}
	dir := certDir()
	if dir == "" {
		return c, nil
	}
	conf, err := tlsconfig.Client(tlsconfig.Options{
		CAFile:             filepath.Join(dir, "ca.pem"),
		CertFile:           filepath.Join(dir, "cert.pem"),
		KeyFile:            filepath.Join(dir, "key.pem"),
		ExclusiveRootPools: true,
	})
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("TLS files of DOCKER_CERT_PATH: %w", err)
	}
	conf.ServerName, _, _ = net.SplitHostPort(hostport)
	t := tls.Client(c, conf)
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return t, nil
}

// loopback tells whether host:port is on this machine.
func loopback(hostport string) bool {
	host, _, _ := net.SplitHostPort(hostport)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// certDir is the folder of ca.pem, cert.pem and key.pem; "" means no TLS.
func certDir() string {
	if dir := os.Getenv("DOCKER_CERT_PATH"); dir != "" || os.Getenv("DOCKER_TLS_VERIFY") == "" {
		return dir
	}
	return configDir()
}

// configDir is the docker CLI's folder of the daemon's user.
func configDir() string {
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return dir
	}
	home, _ := os.UserHomeDir()
	return filepath.Join(home, ".docker")
}

func tcpError(addr string, err error) error {
	var plain tls.RecordHeaderError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return &unreachableError{fmt.Sprintf("nothing listens on %s; start the engine with its TCP socket on", addr), err}
	case errors.As(err, &plain):
		return &unreachableError{fmt.Sprintf("the engine at %s does not speak TLS; unset DOCKER_CERT_PATH and DOCKER_TLS_VERIFY, or set it up with TLS", addr), err}
	}
	return &unreachableError{fmt.Sprintf("cannot reach %s: %s", addr, bare(err)), err}
}

// bare is the innermost text of a network error.
func bare(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		err = sys.Err
	}
	return err.Error()
}

// ssh returns the tunnel to a host, which lives until close.
func (d *dialer) ssh(u *url.URL) *tunnel {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tunnel == nil {
		socket := u.Path
		if strings.Trim(socket, "/") == "" {
			socket = "/var/run/docker.sock"
			if d.kind == "podman" {
				socket = "/run/podman/podman.sock"
			}
		}
		d.tunnel = newTunnel(u, socket)
	}
	return d.tunnel
}

func (d *dialer) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tunnel == nil {
		return nil
	}
	return d.tunnel.close()
}
