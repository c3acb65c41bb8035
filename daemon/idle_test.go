package daemon

import (
	"context"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
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
