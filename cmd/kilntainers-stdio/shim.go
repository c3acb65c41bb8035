package main

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"sync"
	"time"
)

// The bridge. Two goroutines copy lines; down also owns the life of the
// connection, so it alone notices that the daemon is gone and looks for it.
//
//	        up: read line ─► track ─► write ─────────►┐
//	stdin ─►                      └─► held, if there  │ conn (socket)
//	                                  is no conn      │
//	stdout ◄─ write ◄─ untrack ◄─ read line ──────────┘
//	        down: … conn ends ─► answer what is in flight ─► dial, replay ─► conn
//
// A request is in calls from when it is read until its answer was written. If
// the daemon is lost meanwhile, what happens depends on how far it came:
//
//	not yet sent whole              held, sent after the reconnect
//	initialize                      sent again: a client asks only once
//	subscriptions/listen            sent again: it is a wish, not an action
//	tools/call                      answered with a result that says it may have run
//	any other                       answered with an error
//
// So a command is never sent twice, and each request is answered exactly once.
// MCP's state in the daemon is restored by sending the recorded handshake again;
// the sandbox is found again by the token of the connection before.

const (
	maxClientLine = 16 << 20 // the daemon's own limit for a message
	maxDaemonLine = 64 << 20 // what is held of a line, see deliverLong
	maxCalls      = 4096     // requests in flight that are kept track of
	maxID         = 256      // bytes of a request id that is kept track of
	maxKept       = 64 << 10 // bytes of a request that would be sent again
	maxHeld       = 32 << 20 // bytes held for a daemon that is away …
	maxHeldLines  = 1024     // … and lines
	letGoTime     = 2 * time.Second
	firstPause    = 20 * time.Millisecond // between attempts to reconnect, doubled …
	longestPause  = time.Second           // … up to this
)

// Variables for tests only.
var (
	patience = 30 * time.Second // how long a lost daemon is waited for …
	steady   = time.Second      // … anew after a connection that lived as long
)

// What the bridge answers in the daemon's place.
const (
	lostCall     = "The sandbox daemon restarted while this command ran. It may or may not have completed; check before running it again."
	unsentCall   = "The sandbox daemon is gone and did not come back. The command was not started."
	lostRequest  = "the sandbox daemon restarted; try again"
	unsentOther  = "the sandbox daemon is gone and did not come back"
	tooMuchHeld  = "the sandbox daemon is away and too many requests wait for it already"
	longMessage  = "the message is longer than 16 MiB"
	internalCode = -32603 // JSON-RPC: internal error
	invalidCode  = -32600 // JSON-RPC: invalid request
)

type shim struct {
	options
	stdin  io.Reader
	stdout io.Writer

	// gone is closed when the client ended stdin or no longer reads stdout.
	gone     chan struct{}
	goneOnce sync.Once

	// sendMu is held while a line is sent. What it guards says where the next
	// line goes, so a line is sent whole to one connection or not at all.
	sendMu      sync.Mutex
	conn        *conn // nil while there is none
	leaving     bool  // conn was told that nothing more will come
	held        []request
	heldBytes   int
	initialized []byte // the client's notifications/initialized, once sent

	// callMu guards calls. It is taken inside sendMu and outMu, never the other
	// way.
	callMu   sync.Mutex
	calls    map[string]*call // by key(id)
	answered sync.Cond        // an answer was written

	outMu sync.Mutex // one line at a time on stdout

	// Only down uses these.
	token     string
	handshake []byte    // the initialize request that was answered well
	since     time.Time // start of the present connection
	giveUpAt  time.Time
	pause     time.Duration
}

// A request is a line from the client that is on its way.
type request struct {
	line        []byte
	call        *call // nil for what is no request, or not tracked
	answer      bool  // to a question of the daemon's
	initialized bool  // the end of the handshake
}

// A call is a request that was not answered yet.
type call struct {
	id   []byte
	kind kind
	sent bool   // written whole to the present connection, or just being written
	line []byte // of initialize and listen: to send again
}

type kind int

const (
	otherCall kind = iota
	toolCall
	initializeCall
	listenCall
)

func newShim(opt options) *shim {
	s := &shim{
		options: opt,
		stdin:   os.Stdin,
		stdout:  os.Stdout,
		gone:    make(chan struct{}),
		calls:   map[string]*call{},
	}
	s.answered.L = &s.callMu
	return s
}

// run bridges until the client is gone, a signal comes or the daemon is lost
// for good, and returns the exit code.
func (s *shim) run(signals <-chan os.Signal) int {
	ended := make(chan int, 1)
	go func() { ended <- s.down() }()
	select {
	case code := <-ended:
		return code
	case <-signals:
	case <-s.gone:
	}
	// The daemon destroys the sandbox and then closes the connection: who waits
	// for our exit can rely on that. A daemon that hangs is not waited for.
	tooLong := make(chan struct{})
	time.AfterFunc(letGoTime, func() { close(tooLong) }) // time.After costs 70 KB
	told := make(chan bool, 1)
	go func() { told <- s.letGo() }() // waits while up is sending
	select {
	case connected := <-told:
		if !connected {
			return 0
		}
	case <-tooLong:
		return 0
	}
	select {
	case <-ended:
	case <-tooLong:
	}
	return 0
}

// letGo tells the daemon that nothing more will come, if there is one.
func (s *shim) letGo() bool {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	s.leaving = true
	if s.conn == nil {
		return false
	}
	s.conn.closeWrite()
	return true
}

// up copies from the client to the daemon.
func (s *shim) up() {
	in := &lines{from: s.stdin, max: maxClientLine}
	for {
		line, err := in.next()
		switch {
		case err == errTooLong:
			s.refuseLong(line)
			err = in.skip()
		case err != nil && len(line) > 0: // a script's last line, without its end
			s.send(append(bytes.Clone(line), '\n'))
		case err == nil:
			s.send(line)
		}
		if err != nil {
			break
		}
	}
	if s.drain {
		s.callMu.Lock()
		for s.waiting() {
			s.answered.Wait()
		}
		s.callMu.Unlock()
	}
	s.clientGone()
}

// down copies from the daemon to the client, over one connection after the
// other. It returns the exit code.
func (s *shim) down() int {
	c, err := s.connect()
	if err != nil {
		complain(err.Error())
		return 1
	}
	s.attach(c)
	go s.up()
	for {
		for {
			line, err := c.next()
			switch err {
			case nil:
				s.deliver(line)
			case errTooLong:
				err = s.deliverLong(c, line)
			}
			if err != nil {
				break // half a line is of no use to anyone
			}
		}
		if s.detach(c) {
			return 0
		}
		complain("lost the daemon, reconnecting")
		if c, err = s.connect(); err != nil {
			s.giveUp()
			complain("the daemon did not come back: " + err.Error())
			return 1
		}
		s.attach(c)
		complain("reconnected")
	}
}

// send passes a line to the daemon, or holds it while there is none.
func (s *shim) send(line []byte) {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	m := scan(line)
	r := request{line: line, answer: m.answer}
	switch {
	case m.id != nil && m.method != nil:
		r.call = s.track(m, line)
	case string(m.method) == "notifications/initialized":
		r.initialized = true
	}
	s.flush()
	if len(s.held) > 0 || !s.transmit(r) {
		s.hold(r)
	}
}

// track enters a request into calls. What would make them large is not
// tracked: it passes, but has no answer if the daemon is lost.
func (s *shim) track(m message, line []byte) *call {
	c := &call{}
	switch string(m.method) {
	case "tools/call":
		c.kind = toolCall
	case "initialize":
		c.kind = initializeCall
	case "subscriptions/listen":
		c.kind = listenCall
	}
	if (c.kind == initializeCall || c.kind == listenCall) && len(line) <= maxKept {
		c.line = bytes.Clone(line)
	}
	s.callMu.Lock()
	defer s.callMu.Unlock()
	if len(s.calls) >= maxCalls || len(m.id) > maxID {
		return nil
	}
	c.id = bytes.Clone(m.id)
	s.calls[key(m.id)] = c
	return c
}

// transmit sends a line to the daemon and reports whether it was sent whole.
// Called with sendMu held.
func (s *shim) transmit(r request) bool {
	if s.conn == nil {
		return false
	}
	s.mark(r.call, true)
	if s.conn.write(r.line) != nil {
		s.mark(r.call, false) // down will notice the loss, too
		return false
	}
	if r.initialized {
		s.initialized = bytes.Clone(r.line)
	}
	return true
}

func (s *shim) mark(c *call, sent bool) {
	if c == nil {
		return
	}
	s.callMu.Lock()
	c.sent = sent
	s.callMu.Unlock()
}

// hold keeps a line for the next connection. Called with sendMu held.
func (s *shim) hold(r request) {
	if r.answer {
		return // what it answers died with the connection
	}
	if len(s.held) >= maxHeldLines || s.heldBytes+len(r.line) > maxHeld {
		if r.call != nil {
			s.callMu.Lock()
			delete(s.calls, key(r.call.id))
			s.callMu.Unlock()
			s.write(appendError(nil, r.call.id, internalCode, tooMuchHeld))
		}
		return
	}
	r.line = bytes.Clone(r.line)
	s.held = append(s.held, r)
	s.heldBytes += len(r.line)
}

// flush sends what is held, as far as it gets. Called with sendMu held.
func (s *shim) flush() {
	for len(s.held) > 0 && s.transmit(s.held[0]) {
		s.heldBytes -= len(s.held[0].line)
		s.held = s.held[1:]
	}
}

// deliver passes a line to the client.
func (s *shim) deliver(line []byte) {
	s.untrack(scan(line))
	s.write(line)
	s.answered.Broadcast()
}

// deliverLong passes on a line of more than maxDaemonLine bytes, of which this is
// the beginning, as it comes: output can grow to 13 times its size in JSON, and
// profiles may allow any. Its call is in flight until its end comes. If that
// does not, the client gets half a line, and then the answer of detach on a line
// of its own.
func (s *shim) deliverLong(c *conn, part []byte) error {
	m := scan(part)
	s.outMu.Lock()
	defer s.outMu.Unlock()
	for end := false; !end; {
		s.put(part)
		var err error
		if part, end, err = c.more(); err != nil {
			s.put([]byte{'\n'})
			return err
		}
	}
	s.untrack(m)
	s.put(part)
	s.answered.Broadcast()
	return nil
}

// untrack takes the request that a message answers, if it does, out of calls.
func (s *shim) untrack(m message) {
	if !m.answer || m.id == nil {
		return
	}
	k := key(m.id)
	s.callMu.Lock()
	defer s.callMu.Unlock()
	if c := s.calls[k]; c != nil && c.kind == initializeCall && !m.failed {
		s.handshake = c.line
	}
	delete(s.calls, k)
}

// waiting reports whether an answer is still to come that drain waits for: a
// subscription has none. Called with callMu held.
func (s *shim) waiting() bool {
	for _, c := range s.calls {
		if c.kind != listenCall {
			return true
		}
	}
	return false
}

// connect finds the daemon, for as long as patience lasts, and restores MCP's
// state there. The first time, a daemon that is not there is not waited for.
func (s *shim) connect() (*conn, error) {
	first := s.since.IsZero()
	if time.Since(s.since) > steady {
		s.giveUpAt, s.pause = time.Now().Add(patience), 0
	}
	err := error(&dialError{"it closes every connection", broken})
	for {
		time.Sleep(s.pause)
		if !time.Now().Before(s.giveUpAt) {
			return nil, err
		}
		s.pause = min(max(2*s.pause, firstPause), longestPause)

		var c *conn
		var token string
		if c, token, err = dial(s.socket, s.profile, s.token, s.giveUpAt); err == nil {
			s.token = token // what the last one stood for has moved on to this
			if err = s.replay(c); err == nil {
				return c, nil
			}
			c.Close()
		}
		if e, ok := err.(*dialError); ok && (e.kind == refused || first && e.kind == absent) {
			return nil, err
		}
	}
}

// replay repeats the client's initialize on a new connection and keeps the
// answer, and what came before it, from the client, who had one.
func (s *shim) replay(c *conn) error {
	if s.handshake == nil {
		return nil
	}
	c.file.SetDeadline(s.giveUpAt)
	defer c.file.SetDeadline(time.Time{})
	if err := c.write(s.handshake); err != nil {
		return err
	}
	want := key(scan(s.handshake).id)
	for {
		line, err := c.next()
		if err != nil {
			return err
		}
		if m := scan(line); m.answer && key(m.id) == want {
			return nil
		}
	}
}

// attach puts a connection into service and has sent what is held.
func (s *shim) attach(c *conn) {
	s.since = time.Now()
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	if s.handshake != nil && s.initialized != nil {
		c.write(s.initialized) // if this fails, so does the next read
	}
	s.conn = c
	if len(s.held) > 0 {
		// Not here: who calls has to read meanwhile, or both sides might end up
		// writing. If the connection is lost first, this does nothing.
		go func() {
			s.sendMu.Lock()
			defer s.sendMu.Unlock()
			s.flush()
		}()
	}
}

// detach takes a lost connection out of service and answers what was in flight
// on it. It reports whether the connection ended because we are leaving.
func (s *shim) detach(c *conn) (leaving bool) {
	c.Close() // ends a write that waits, and with it sendMu
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	s.conn = nil
	if s.leaving {
		return true
	}
	var out []byte
	s.callMu.Lock()
	for k, c := range s.calls {
		switch {
		case !c.sent: // it is held
		case c.line != nil:
			c.sent = false
			s.holdFirst(request{line: c.line, call: c})
		case c.kind == toolCall:
			out = appendToolError(out, c.id, lostCall)
			delete(s.calls, k)
		default:
			out = appendError(out, c.id, internalCode, lostRequest)
			delete(s.calls, k)
		}
	}
	s.callMu.Unlock()
	s.write(out)
	s.answered.Broadcast()
	return false
}

// holdFirst puts a line in front of what is held: it was there before. It is
// not refused: there are no more of them than calls. Called with sendMu held.
func (s *shim) holdFirst(r request) {
	s.held = append([]request{r}, s.held...)
	s.heldBytes += len(r.line)
}

// giveUp answers all that was not sent: the daemon did not come back.
func (s *shim) giveUp() {
	var out []byte
	s.callMu.Lock()
	for _, c := range s.calls {
		if c.kind == toolCall {
			out = appendToolError(out, c.id, unsentCall)
		} else {
			out = appendError(out, c.id, internalCode, unsentOther)
		}
	}
	s.callMu.Unlock()
	s.write(out)
}

// refuseLong answers a message of which only the beginning was read.
func (s *shim) refuseLong(beginning []byte) {
	id := scan(beginning).id
	if id == nil || len(id) > maxID {
		id = []byte("null")
	}
	s.write(appendError(nil, id, invalidCode, longMessage))
}

// write writes whole lines to the client.
func (s *shim) write(lines []byte) {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	if len(lines) > 0 {
		s.put(lines)
	}
}

// put writes to the client. Called with outMu held.
func (s *shim) put(b []byte) {
	if _, err := s.stdout.Write(b); err != nil {
		s.clientGone()
	}
}

func (s *shim) clientGone() {
	s.goneOnce.Do(func() { close(s.gone) })
}

// appendToolError appends the answer to a tools/call. It is a result, not an
// error, because only a result is shown to the model.
func appendToolError(b, id []byte, text string) []byte {
	b = append(b, `{"jsonrpc":"2.0","id":`...)
	b = append(b, id...)
	b = append(b, `,"result":{"resultType":"complete","content":[{"type":"text","text":"`...)
	b = append(b, text...)
	return append(b, "\"}],\"isError\":true}}\n"...)
}

// appendError appends a JSON-RPC error. Its text needs no escaping.
func appendError(b, id []byte, code int, text string) []byte {
	b = append(b, `{"jsonrpc":"2.0","id":`...)
	b = append(b, id...)
	b = append(b, `,"error":{"code":`...)
	b = strconv.AppendInt(b, int64(code), 10)
	b = append(b, `,"message":"`...)
	b = append(b, text...)
	return append(b, "\"}}\n"...)
}
