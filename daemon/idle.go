package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// errIdle ends a daemon that nobody needed for daemon.exit_when_idle. systemd
// starts it again with the next connection.
var errIdle = errors.New("nobody is connected")

// conns counts the connections of the HTTP server, those that became a shim's
// too.
type conns struct {
	mu   sync.Mutex
	open map[net.Conn]bool // whether it waits for its first or next request
	last time.Time         // when a profile was last asked for something
}

// track is http.Server.ConnState.
func (c *conns) track(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew, http.StateActive, http.StateIdle:
		c.open[conn] = state != http.StateActive
	case http.StateClosed, http.StateHijacked: // shims are counted by their endpoint
		delete(c.open, conn)
	}
}

// used notes that a client was served. Who only looks at the daemon is no
// client, least of all the watchdog.
func (c *conns) used() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = time.Now()
}

// quiet returns for how long there has been no client: 0 while there is a
// connection, whoever's it is.
func (c *conns) quiet() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) > 0 {
		return 0
	}
	return time.Since(c.last)
}

// idleTime is how long connections that wait for a request may do so
// once the daemon stops. A client that uses one is told to close it; one that
// is closed under a client's hands costs it a request.
const idleTime = 500 * time.Millisecond

// drain waits until no request is being served, and for connections that have
// none to be closed by their clients for idleTime, or until ctx ends.
func (c *conns) drain(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var idleSince time.Time
	for {
		c.mu.Lock()
		open, busy := len(c.open), 0
		for _, idle := range c.open {
			if !idle {
				busy++
			}
		}
		c.mu.Unlock()
		switch {
		case open == 0:
			return
		case busy > 0:
			idleSince = time.Time{}
		case idleSince.IsZero():
			idleSince = time.Now()
		case time.Since(idleSince) >= idleTime:
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// exitWhenIdle returns errIdle once there has been no request, session or
// sandbox for a while. A connection that comes just then waits in the socket
// for the next daemon.
func (d *Daemon) exitWhenIdle(ctx context.Context, after time.Duration) error {
	tick := time.NewTicker(max(after/10, 10*time.Millisecond))
	defer tick.Stop()
	busy := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, ep := range d.table.all() {
			if !ep.idle() {
				busy = time.Now()
			}
		}
		if min(time.Since(busy), d.conns.quiet()) >= after {
			d.log.Info("nobody is connected; systemd starts the daemon again when somebody is")
			return errIdle
		}
	}
}
