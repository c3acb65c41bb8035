package daemon

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/backendtest"
)

// A stop waits for requests, and for connections without one only as long as
// it takes a client to notice.
func TestDrain(t *testing.T) {
	for state, want := range map[http.ConnState]time.Duration{http.StateNew: idleTime, http.StateIdle: idleTime, http.StateActive: graceTimeout, http.StateClosed: 0} {
		synctest.Test(t, func(t *testing.T) {
			c := &conns{open: map[net.Conn]bool{}}
			c.track(&net.TCPConn{}, state)
			ctx, cancel := context.WithTimeout(t.Context(), graceTimeout)
			defer cancel()
			began := time.Now()
			c.drain(ctx)
			if took := time.Since(began); took != want {
				t.Errorf("a connection in state %v takes %v, want %v", state, took, want)
			}
		})
	}
}

// A daemon is not idle before it is ready: systemd would take its end for a
// failure, and start it again for ever.
func TestNotIdleBeforeReady(t *testing.T) {
	r := prepare(t, backendtest.NewFake(backendtest.InMemory), "[daemon]\nexit_when_idle = 1\n"+onePython)
	l, err := net.Listen("unix", filepath.Join(filepath.Dir(r.config), "sd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	release := make(chan struct{})
	r.adjust = func(o *Options) {
		f, err := l.(*net.UnixListener).File()
		if err != nil {
			t.Fatal(err)
		}
		o.Inherited = []*os.File{f}
		o.Drivers[0].Sweep = func(ctx context.Context, _ backends.Sweep) ([]backends.Leftover, error) {
			<-release
			return nil, nil
		}
	}
	ready := r.begin()
	select {
	case err := <-r.done:
		t.Fatalf("it ended with %v", err)
	case <-time.After(1500 * time.Millisecond):
	}
	close(release)
	ready()
	if err := <-r.done; err != nil {
		t.Errorf("it ended with %v", err)
	}
	close(r.done)
}
