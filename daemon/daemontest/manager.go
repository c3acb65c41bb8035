// Package daemontest stands in for systemd where tests restart a daemon: it
// takes notifications (sd_notify(3)), keeps the descriptors that come with
// FDSTORE=1, and hands them to the next daemon.
//
//	m := daemontest.NewManager(t, dir)
//	run the daemon with NOTIFY_SOCKET=m.Address
//	run the next one with m.Files() too
package daemontest

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A Manager is one service's part of systemd. It ends with the test.
type Manager struct {
	Address string // of the notification socket

	t      testing.TB
	socket *net.UnixConn
	ended  chan struct{}

	mu     sync.Mutex
	stored map[string][]int
	ready  int
}

// NewManager listens in a directory, whose path must be short: that of a
// socket has at most 107 bytes.
func NewManager(t testing.TB, dir string) *Manager {
	t.Helper()
	m := &Manager{Address: filepath.Join(dir, "notify"), t: t, ended: make(chan struct{}), stored: map[string][]int{}}
	var err error
	if m.socket, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.Address, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	go m.receive()
	t.Cleanup(func() {
		_ = m.socket.Close()
		<-m.ended
		m.Forget("")
	})
	return m
}

func (m *Manager) receive() {
	defer close(m.ended)
	buf, oob := make([]byte, 64<<10), make([]byte, 4<<10)
	for {
		n, on, _, _, err := m.socket.ReadMsgUnix(buf, oob)
		if err != nil {
			return
		}
		var fds []int
		controls, _ := syscall.ParseSocketControlMessage(oob[:on])
		for _, c := range controls {
			got, _ := syscall.ParseUnixRights(&c)
			fds = append(fds, got...)
		}
		m.take(string(buf[:n]), fds)
	}
}

// take acts on one notification. A BARRIER=1 is answered by closing what came
// with it.
func (m *Manager) take(state string, fds []int) {
	fields := map[string]string{}
	for line := range strings.Lines(state) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		fields[k] = v
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name := fields["FDNAME"]
	switch {
	case fields["FDSTORE"] == "1":
		m.stored[name] = append(m.stored[name], fds...)
		return
	case fields["FDSTOREREMOVE"] == "1":
		fds = append(fds, m.stored[name]...)
		delete(m.stored, name)
	case fields["READY"] == "1":
		m.ready++
	}
	for _, fd := range fds {
		_ = syscall.Close(fd)
	}
}

// Ready is how often a daemon has said READY=1.
func (m *Manager) Ready() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ready
}

// Names lists what is stored.
func (m *Manager) Names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := []string{}
	for name := range m.stored {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Files are duplicates of the stored descriptors, with their names, without
// those whose other end has hung up, which systemd drops. The caller closes
// them.
func (m *Manager) Files() (files []*os.File) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, fds := range m.stored {
		m.stored[name] = slices.DeleteFunc(fds, func(fd int) bool {
			poll := []unix.PollFd{{Fd: int32(fd)}}
			n, _ := unix.Poll(poll, 0)
			return n > 0 && unix.Close(fd) == nil
		})
		for _, fd := range m.stored[name] {
			dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				m.t.Fatal(err)
			}
			files = append(files, os.NewFile(uintptr(dup), name))
		}
	}
	return files
}

// Forget closes what is stored under names with that prefix. With "" it does
// what systemd does when a service has stopped.
func (m *Manager) Forget(prefix string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, fds := range m.stored {
		if strings.HasPrefix(name, prefix) {
			for _, fd := range fds {
				_ = syscall.Close(fd)
			}
			delete(m.stored, name)
		}
	}
}
