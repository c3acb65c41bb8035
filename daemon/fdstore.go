package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Descriptors come from systemd and go back to it:
//
//	sockets  ──sd_listen_fds(3)──►           ──► served
//	fd store ──sd_listen_fds(3)──► the daemon ──FDSTORE=1, sd_notify(3)──► fd store
//
// The fd store keeps a descriptor while the service restarts, however its
// process ended, and drops it when the service stops or its other end hangs
// up. go-systemd hands out listeners alone and cannot send descriptors
// (coreos/go-systemd#442), hence this file.

// An inheritance is what systemd handed over.
type inheritance struct {
	listeners []*listener
	kept      []*listener           // of single profiles, made by an earlier daemon
	stored    map[string][]*os.File // from the fd store, by name
}

// inherit takes over descriptors by what they are: a socket that listens is to
// be served, anything else comes from the fd store.
func inherit(files []*os.File) (in inheritance, err error) {
	in.stored = map[string][]*os.File{}
	for _, f := range files {
		if !listens(f) {
			in.stored[f.Name()] = append(in.stored[f.Name()], f)
			continue
		}
		l, lerr := net.FileListener(f)
		_ = f.Close() // l has a descriptor of its own
		if lerr != nil {
			err = errors.Join(err, fmt.Errorf("take over the socket %q from systemd: %w", f.Name(), lerr))
			continue
		}
		if only, ok := strings.CutPrefix(f.Name(), keptSocketPrefix); ok {
			in.kept = append(in.kept, &listener{Listener: l, only: only, own: true})
			continue
		}
		only, ok := strings.CutPrefix(f.Name(), profileSocketPrefix)
		if !ok {
			only = ""
		}
		in.listeners = append(in.listeners, &listener{Listener: l, only: only})
	}
	return in, err
}

// take returns what was stored, whose descriptors are the caller's then.
func (in *inheritance) take() map[string][]*os.File {
	stored := in.stored
	in.stored = nil
	return stored
}

// close closes what nobody has taken.
func (in *inheritance) close() {
	for _, l := range append(in.listeners, in.kept...) {
		_ = l.Close()
	}
	for _, files := range in.stored {
		for _, f := range files {
			_ = f.Close()
		}
	}
}

// inheritedFiles are the descriptors that systemd started this process with,
// once; children do not see them.
func inheritedFiles() []*os.File { return activation.Files(true) }

func listens(f *os.File) bool {
	n := 0
	_ = control(f, func(fd int) { n, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN) })
	return n != 0
}

// isMemory tells a memfd from a channel.
func isMemory(f *os.File) bool {
	var st unix.Stat_t
	_ = control(f, func(fd int) { _ = unix.Fstat(fd, &st) })
	return st.Mode&unix.S_IFMT == unix.S_IFREG
}

// control runs fn with f's descriptor. os.File.Fd would make it blocking, for
// every process that shares it.
func control(f *os.File, fn func(fd int)) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { fn(int(fd)) })
}

// An fdStore is systemd's, at the address of its notification socket. The zero
// value is none: it keeps nothing.
type fdStore struct{ address string }

func (s fdStore) there() bool { return s.address != "" }

// put hands files over under a name, all at once. The caller still has to
// close its own.
func (s fdStore) put(name string, files ...*os.File) error {
	var fds []int
	for _, f := range files {
		var fd int
		// A duplicate is safe from a Close elsewhere.
		err := control(f, func(own int) { fd, _ = unix.FcntlInt(uintptr(own), unix.F_DUPFD_CLOEXEC, 3) })
		if err != nil || fd == 0 {
			return fmt.Errorf("duplicate a descriptor for the fd store: %w", errors.Join(err, os.ErrClosed))
		}
		defer unix.Close(fd)
		fds = append(fds, fd)
	}
	return s.send("FDSTORE=1\nFDNAME="+name, fds...)
}

// remove makes systemd close what it keeps under that name.
func (s fdStore) remove(name string) error { return s.send("FDSTOREREMOVE=1\nFDNAME=" + name) }

// barrier waits until systemd has taken what was sent before; see
// sd_notify_barrier(3).
func (s fdStore) barrier(limit time.Duration) error {
	if !s.there() {
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	var fd int
	err = control(w, func(own int) { fd, _ = unix.FcntlInt(uintptr(own), unix.F_DUPFD_CLOEXEC, 3) })
	_ = w.Close()
	if err != nil {
		return err
	}
	err = s.send("BARRIER=1", fd)
	_ = unix.Close(fd)
	if err != nil {
		return err
	}
	_ = r.SetReadDeadline(time.Now().Add(limit))
	if _, err := r.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("wait for systemd: " + err.Error())
	}
	return nil
}

// send sends one notification with descriptors. A connected socket of package
// net cannot.
func (s fdStore) send(state string, fds ...int) error {
	if !s.there() {
		return nil
	}
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer unix.Close(sock)
	_ = unix.SetsockoptTimeval(sock, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 5}) // a manager that reads nothing
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	// An address that begins with @ is abstract, which package unix knows.
	if err := unix.Sendmsg(sock, []byte(state), rights, &unix.SockaddrUnix{Name: s.address}, 0); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}
