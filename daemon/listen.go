package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/kilntainers/kilntainers/profiles"
)

// A listener is one socket that the daemon serves.
type listener struct {
	net.Listener
	only   string // the one profile it is for; "" = all
	own    bool   // we made it, so its file goes with it
	served bool   // of a profile's own: it is being served
}

// remove closes a Unix socket of ours and removes its file, which an inherited
// one does not by itself.
func (l *listener) remove() {
	_ = l.Close()
	_ = os.Remove(l.Addr().String()) // it may be gone
}

// socketGroup is the group that may use the sockets we make, if the system
// has it.
const socketGroup = "kilntainers"

// profileSocketPrefix begins the name of a systemd socket for one profile:
// FileDescriptorName=profile-python.
const profileSocketPrefix = "profile-"

// keptSocketPrefix begins the name of such a socket that an earlier daemon
// made and put into the fd store.
const keptSocketPrefix = "kept-profile-"

// listenAll returns the sockets that systemd handed over (sd_listen_fds(3)),
// and then our own. An address that is there already is not opened again. On an
// error everything that was opened is closed.
func listenAll(ctx context.Context, inherited []*listener, addresses []string) (ls []*listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range ls {
				_ = l.Close()
			}
		}
	}()
	ls = slices.Clone(inherited)
	for _, a := range addresses {
		if slices.ContainsFunc(ls, func(l *listener) bool { return l.address() == a }) {
			continue
		}
		l, err := listenOn(ctx, a)
		if err != nil {
			return ls, fmt.Errorf("listen on %s: %w", a, err)
		}
		ls = append(ls, l)
	}
	return ls, nil
}

// address writes the listener as the configuration would.
func (l *listener) address() string { return l.Addr().Network() + ":" + l.Addr().String() }

func listenOn(ctx context.Context, address string) (*listener, error) {
	network, addr, err := profiles.SplitListen(address)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		return listenUnix(ctx, addr)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &listener{Listener: l, own: true}, nil
}

// listenUnix makes a socket that root, our user and the group may use. A
// socket file that nobody answers on is what a killed daemon left; it is
// replaced.
func listenUnix(ctx context.Context, path string) (*listener, error) {
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		// The socket says who may use it, so its directory is open, whatever the umask.
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
			return nil, err
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if c, dialErr := net.DialTimeout("unix", path, time.Second); dialErr == nil {
			_ = c.Close()
			return nil, errors.New("another daemon answers there; stop it, or choose another daemon.listen")
		}
		if info, statErr := os.Lstat(path); statErr != nil || info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("%w, by a file that is no socket; move it away", err)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove the socket of a daemon that is gone: %w", err)
		}
		l, err = lc.Listen(ctx, "unix", path)
	}
	if err != nil {
		return nil, err
	}
	if g, err := user.LookupGroup(socketGroup); err == nil {
		gid, _ := strconv.Atoi(g.Gid)
		_ = os.Chown(path, -1, gid) // not allowed unless we are root or a member: then our own group may use it
	}
	if err := os.Chmod(path, 0o660); err != nil {
		_ = l.Close()
		return nil, err
	}
	return &listener{Listener: l, own: true}, nil
}

// Accept is the listener's, but its end by stopAccepting is final: net/http
// would take it for a passing fault and try again.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = net.ErrClosed
	}
	return c, err
}

// stopAccepting ends Accept without closing the socket: what is queued waits
// for the next daemon, if systemd holds the socket.
func (l *listener) stopAccepting() {
	if d, ok := l.Listener.(interface{ SetDeadline(time.Time) error }); ok {
		_ = d.SetDeadline(time.Now())
	}
}

// serve serves the listener until stopAccepting or Close.
func (l *listener) serve(srv *http.Server) error {
	err := srv.Serve(l)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", l.address(), err)
}

type onlyKey struct{}

// baseContext is http.Server.BaseContext: it tells requests of a listener
// which profile they are limited to.
func baseContext(l net.Listener) context.Context {
	if l, ok := l.(*listener); ok && l.only != "" {
		return context.WithValue(context.Background(), onlyKey{}, l.only)
	}
	return context.Background()
}

// onlyProfile is the profile that the request's listener is for, or "".
func onlyProfile(ctx context.Context) string {
	only, _ := ctx.Value(onlyKey{}).(string)
	return only
}
