package daemon

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/kilntainers/kilntainers/profiles"
)

// From one daemon to the next. See keeper for what is kept where, and stop
// and restore for when.

// A shimRecord is a shim's connection: what the client said that the next
// daemon must hear too.
type shimRecord struct {
	Tokens []string          `json:"tokens,omitempty"` // that opened it; none on a Unix socket
	Replay handshake         `json:"replay"`
	Listen []json.RawMessage `json:"listen,omitempty"`
	Rest   []byte            `json:"rest,omitempty"` // read, and not yet acted on
	Tool   string            `json:"tool,omitempty"` // what the client was shown; see toolServer.digest
}

// Why a sandbox is gone that could not be kept: until the daemon ends, and
// after.
const (
	stoppingReason  = "the daemon is stopping"
	restartedReason = "the sandbox daemon was restarted"
)

// nobodyKeeps is the answer when nothing may be left to the next daemon.
func nobodyKeeps(*entry) bool { return false }

// fate tells what becomes of the daemon once it has stopped.
func (d *Daemon) fate(ctx context.Context) fate {
	switch {
	case d.opts.Restarting == nil:
		return askFate(ctx, d.log)
	case d.opts.Restarting(ctx):
		return restarted
	}
	return stopped
}

// mayKeep decides which sandboxes a stop leaves to the next daemon. Where
// nobody knows what becomes of this one, that is what would end by itself
// without a next one.
func mayKeep(f fate) func(*entry) bool {
	return func(e *entry) bool {
		return e != nil && (f == restarted || f == unknownFate && e.mem != nil)
	}
}

// parkShims makes the shims' connections read no more, and waits until what
// they asked for before is answered.
func (d *Daemon) parkShims(ctx context.Context) {
	d.table.parking.Store(true)
	for _, l := range d.shims() {
		l.stopReading()
	}
	for _, l := range d.shims() {
		l.settle(ctx)
	}
}

// shims are the connections of all shims.
func (d *Daemon) shims() (all []*lineConn) {
	for _, ep := range d.table.all() {
		all = append(all, ep.connections()...)
	}
	return all
}

// settle waits until nothing is read and everything is answered. It reports
// whether that is so.
func (l *lineConn) settle(ctx context.Context) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-l.parked:
			if l.pending.Load() == 0 {
				return true
			}
		case <-l.closed:
			return false
		default:
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}

// sessionsToKeep are those of HTTP clients: what opened them, and what to tell
// them if the next daemon has no sandbox for them.
func (d *Daemon) sessionsToKeep() (records []record) {
	for _, ep := range d.table.all() {
		openings := ep.http.openings()
		for _, s := range ep.list() {
			if s.key.kind != byMCP && s.key.kind != byHeader {
				continue
			}
			r := s.record()
			s.mu.Lock()
			b := s.box
			r.Lost = s.lost
			s.mu.Unlock()
			if b != nil {
				r.Lost = restartedReason
			}
			if r.Lost == "" {
				continue
			}
			records = append(records, r)
			if s.key.kind == byMCP {
				delete(openings, s.key.value)
			}
		}
		for id, h := range openings {
			records = append(records, record{Profile: ep.name, Principal: h.principal, Kind: byMCP, Key: id, Opening: h.said})
		}
	}
	return records
}

// handOver gives the shims' connections and the sessions to systemd.
func (d *Daemon) handOver(ctx context.Context, sessions []record) {
	for part := range slices.Chunk(sessions, sessionPart) {
		if err := d.table.keeper.handOver("sessions", part); err != nil {
			d.log.Warn("HTTP clients have to open their sessions again", "sessions", len(part), "error", err)
		}
	}
	for _, l := range d.shims() {
		if !l.settle(ctx) {
			continue
		}
		if err := d.handOverShim(l); err != nil {
			d.log.Warn("a client has to connect again", "error", err)
		}
	}
}

// handOverShim gives a connection away. From then on nothing is written here.
func (d *Daemon) handOverShim(l *lineConn) error {
	from := callerOf(l.extra)
	conn, ok := l.conn.(interface{ File() (*os.File, error) })
	if from == nil || !ok {
		return errors.New("its connection cannot be kept")
	}
	file, err := conn.File()
	if err != nil {
		return err
	}
	defer file.Close()
	r := l.session.record()
	l.session.mu.Lock()
	if r.Lost = l.session.lost; r.Lost == stoppingReason || r.Lost == leftForNext {
		r.Lost = restartedReason
	}
	l.session.mu.Unlock()
	r.Shim = &shimRecord{}
	for _, t := range from.tokens {
		r.Shim.Tokens = append(r.Shim.Tokens, t.Name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	unread, _ := l.r.Peek(l.r.Buffered())
	r.Shim.Rest = slices.Concat(l.rest, unread, l.ahead.Bytes())
	r.Shim.Replay = l.replay
	r.Shim.Tool = l.session.ep.bound.digest()
	for _, line := range l.listen {
		if line != nil {
			r.Shim.Listen = append(r.Shim.Listen, line)
		}
	}
	if err := d.table.keeper.handOver("shim", []record{r}, file); err != nil {
		return err
	}
	l.over = true
	return nil
}

// toBeAdopted names the sandboxes that the sweep must leave alone.
func toBeAdopted(old []legacy, conf *profiles.Config) (ids []string) {
	for _, l := range old {
		for _, r := range l.records {
			if p := conf.Profiles[r.Profile]; r.Sandbox != nil && p != nil && p.Backend == r.Backend {
				ids = append(ids, r.Sandbox.ID)
			}
		}
	}
	return ids
}

// restore brings back what an earlier daemon kept, before anything is served.
// It returns what serves the connections.
func (d *Daemon) restore(old []legacy) (shims []func()) {
	// Sandboxes first: what is told of a session depends on whether it has one.
	slices.SortStableFunc(old, func(a, b legacy) int { return cmp.Compare(b.sandboxes(), a.sandboxes()) })
	for _, l := range old {
		for _, r := range l.records {
			ep := d.table.lookup(r.Profile)
			if ep == nil {
				d.log.Info("what an earlier run kept is of no use: its profile is gone", "profile", r.Profile, "kind", r.Kind)
				continue
			}
			if r.Kind == byMCP && !ep.http.restore(r.Key, r.Principal, r.Opening) {
				continue // nothing would lead to it
			}
			if r.Sandbox != nil && ep.svc.Load().profile.Backend != r.Backend {
				r.Sandbox, r.Lost = nil, restartedReason+" and its profile uses another backend now"
			}
			if r.Sandbox == nil && r.Shim == nil && (r.Lost == "" || r.Kind == byHandle) {
				continue
			}
			s := ep.session(sessionKey{r.Principal, r.Kind, r.Key})
			s.awaitReturn()
			if r.Sandbox != nil {
				s.restore(l, r)
				l.entry, l.channel = nil, nil // the session's now
				continue
			}
			s.mu.Lock()
			if s.making == nil && s.box == nil && s.lost == "" {
				s.loseLocked(r.Lost)
			}
			s.mu.Unlock()
			if r.Shim != nil {
				if serve := d.takeOver(ep, s, l, r); serve != nil {
					shims = append(shims, serve)
				} else {
					ep.endSession(s.key, "its client is gone")
				}
				l.channel = nil
			}
		}
		if l.entry != nil {
			d.table.keeper.discard(l)
		}
	}
	return shims
}

// sandboxes counts those of an entry.
func (l legacy) sandboxes() (n int) {
	for _, r := range l.records {
		if r.Sandbox != nil {
			n++
		}
	}
	return n
}

// takeOver goes on with a shim's connection. The client does not notice: what
// it said first is said again in its place, and the answer to that is dropped.
// If the tool is another one since, it is told so where it would be otherwise.
func (d *Daemon) takeOver(ep *endpoint, s *session, l legacy, r record) func() {
	if l.channel == nil {
		return nil // the client hung up, and systemd dropped its end
	}
	conn, err := net.FileConn(l.channel)
	_ = l.channel.Close()
	if err != nil {
		d.log.Warn("cannot go on with a client's connection", "error", err)
		return nil
	}
	from := d.callerAgain(conn, r)
	svc := ep.svc.Load()
	if from == nil || svc == nil || !from.may(ep.name, svc.allow) {
		_ = conn.Close()
		return nil
	}
	c := newLineConn(conn, nil, s, from)
	c.ahead.Write(r.Shim.Rest)
	c.r = bufio.NewReader(io.MultiReader(&c.ahead, conn))
	newTool := r.Shim.Tool != ep.bound.digest()
	for _, line := range append([]json.RawMessage{r.Shim.Replay.Initialize, r.Shim.Replay.Initialized}, r.Shim.Listen...) {
		if line == nil {
			continue
		}
		c.again = append(c.again, line)
		if msg, err := jsonrpc.DecodeMessage(line); err == nil && newTool {
			c.untold[idText(msg.(*jsonrpc.Request).ID)] = true
		}
	}
	if msg, err := jsonrpc.DecodeMessage(r.Shim.Replay.Initialize); err == nil {
		c.mute = idText(msg.(*jsonrpc.Request).ID)
	}
	ep.attach(c)
	return func() { ep.serveLines(c) }
}

// callerAgain is who a connection that was taken over belongs to; nil if that
// cannot be told any more.
func (d *Daemon) callerAgain(conn net.Conn, r record) *caller {
	if p := peerOf(conn); p != nil {
		if p.id != r.Principal {
			return nil
		}
		return &caller{principal: p}
	}
	c := &caller{principal: &principal{id: r.Principal, uid: -1}}
	known := *d.access.tokens.Load()
	for _, name := range r.Shim.Tokens {
		t, ok := known[name]
		if !ok {
			return nil
		}
		c.tokens = append(c.tokens, t)
	}
	if len(c.tokens) == 0 && !(r.Principal == "loopback" && d.access.loopback) {
		return nil
	}
	return c
}
