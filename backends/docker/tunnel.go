package docker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A tunnel is one ssh process that forwards a socket of ours to the engine's
// on another host. It is started by the first dial, started again by the next
// dial after it ended, and stopped by close. The other side needs an sshd and
// an engine, no docker command, and connections cost no ssh handshake.
//
//	dial ─► /tmp/kilntainers-ssh-x/s ─► ssh -N -L ─► sshd ─► /var/run/docker.sock
type tunnel struct {
	args []string // of ssh, without the forward

	mu      sync.Mutex
	socket  string // on the other host
	dir     string // of the socket here; "" = never started
	cancel  context.CancelFunc
	exited  chan struct{} // closed when ssh ended; nil = never started
	said    *tail
	closing bool
}

func newTunnel(u *url.URL, socket string) *tunnel {
	args := []string{"-N", "-T",
		"-o", "BatchMode=yes", // nobody is there to type a password
		"-o", "ConnectTimeout=10",
		"-o", "ServerAliveInterval=15", // so that a dead host ends the sandboxes there
		"-o", "ServerAliveCountMax=3",
		"-o", "ExitOnForwardFailure=yes",
		"-o", "StreamLocalBindUnlink=yes",
		"-o", "ControlPath=none"}
	if p := u.Port(); p != "" {
		args = append(args, "-p", p)
	}
	if n := u.User.Username(); n != "" {
		args = append(args, "-l", n)
	}
	return &tunnel{args: append(args, "--", u.Hostname()), socket: socket}
}

// dial connects through the tunnel. Dials wait for each other only while ssh
// is being started.
func (t *tunnel) dial(ctx context.Context) (net.Conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.start(); err != nil {
		return nil, err
	}
	for {
		// ssh makes the socket once it is let in at the other side.
		c, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(t.dir, "s"))
		if err == nil {
			return &tunnelConn{Conn: c, socket: t.socket, said: t.said}, nil
		}
		select {
		case <-t.exited:
			return nil, fmt.Errorf("ssh ended: %s", t.said)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// A tunnelConn is a connection through ssh, which accepts it before it knows
// whether the engine does.
type tunnelConn struct {
	net.Conn
	socket string
	said   *tail
	heard  bool
}

func (c *tunnelConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && n == 0 && !c.heard && !errors.Is(err, net.ErrClosed) {
		err = &unreachableError{fmt.Sprintf("ssh cannot reach %s at the other side: %s", c.socket, c.said), err}
	}
	c.heard = c.heard || n > 0
	return n, err
}

// start starts ssh unless it runs.
func (t *tunnel) start() error {
	if t.closing {
		return net.ErrClosed
	}
	if t.exited != nil {
		select {
		case <-t.exited:
		default:
			return nil
		}
	}
	if t.dir == "" {
		dir, err := os.MkdirTemp("", "kilntainers-ssh-")
		if err != nil {
			return err
		}
		t.dir = dir
	}
	socket := filepath.Join(t.dir, "s")
	os.Remove(socket)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "ssh", append([]string{"-L", socket + ":" + t.socket}, t.args...)...)
	cmd.SysProcAttr = dieWithParent()
	said := &tail{}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		cancel()
		if errors.Is(err, exec.ErrNotFound) {
			return errors.New("there is no ssh command; install openssh-client")
		}
		return fmt.Errorf("start ssh: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		close(exited)
	}()
	t.cancel, t.exited, t.said = cancel, exited, said
	return nil
}

func (t *tunnel) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closing = true
	if t.exited != nil {
		t.cancel()
		<-t.exited
	}
	if t.dir == "" {
		return nil
	}
	return os.RemoveAll(t.dir)
}

// A tail keeps the last words of a program, for an error message.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const maxTail = 2048

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if n := len(t.text) - maxTail; n > 0 {
		t.text = append(t.text[:0], t.text[n:]...)
	}
	return len(p), nil
}

// String returns the words in one line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(t.text), "?")), " ")
}
