package daemon

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// The shim's protocol: an HTTP/1.1 upgrade, then MCP messages as lines.
//
//	GET /stdio/python HTTP/1.1
//	Connection: Upgrade
//	Upgrade: kilntainers-stdio/1
//	Kilntainers-Resume: TOKEN          (when it had a connection before)
//
//	HTTP/1.1 101 Switching Protocols
//	Connection: Upgrade
//	Upgrade: kilntainers-stdio/1
//	Kilntainers-Resume: TOKEN
//
//	{"jsonrpc":"2.0",…}\n              (both ways, until either side closes)
//
// A refusal is any other status, with one line of text for the user.
const (
	stdioProtocol = "kilntainers-stdio/1"
	resumeHeader  = "Kilntainers-Resume"
	bindingHeader = "Kilntainers-Binding" // "connection": the sandbox ends with this connection, in any profile

	maxLine      = 16 << 20         // bytes of one message; a longer one ends the connection
	letGo        = 2 * time.Second  // how long a client that leaves waits for its sandbox to be gone
	writeTimeout = 30 * time.Second // a client that takes nothing for so long has gone
)

// serveStdio turns a request's connection into a shim's session. The session's
// sandbox ends with the connection.
//
// The connection outlives the request: while one is being served net/http has a
// stack and buffers for it, which are a third of what an idle session costs.
func (ep *endpoint) serveStdio(w http.ResponseWriter, r *http.Request, from *caller) {
	if r.Method != http.MethodGet || !strings.EqualFold(r.Header.Get("Upgrade"), stdioProtocol) {
		w.Header().Set("Upgrade", stdioProtocol)
		http.Error(w, "this address speaks "+stdioProtocol+"; use the kilntainers-stdio program", http.StatusUpgradeRequired)
		return
	}
	ep.table.shims.Add(1) // while the connection still counts as HTTP's
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		ep.table.shims.Done()
		http.Error(w, "this connection cannot be upgraded", http.StatusBadRequest)
		return
	}
	resumed := r.Header.Get(resumeHeader)
	s := ep.resume(from, resumed)
	s.byItself = r.Header.Get(bindingHeader) == string(byConnection)
	l := newLineConn(conn, buffered.Reader, s, from)
	ep.attach(l)
	_ = conn.SetDeadline(time.Time{}) // net/http's own
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %s\r\n\r\n", stdioProtocol, resumeHeader, s.key.value); err != nil {
		ep.table.shims.Done()
		ep.detach(l)
		_ = conn.Close()
		ep.endSession(s.key, "its client disconnected")
		return
	}
	ep.log.Debug("shim connected", "user", from.display(), "pid", from.pid, "resumed", resumed != "")
	go func() {
		defer ep.table.shims.Done()
		ep.serveLines(l)
	}()
}

// resume returns the session of a shim's connection: the one that its token
// names if an earlier daemon kept it, else a new one.
func (ep *endpoint) resume(from *caller, token string) *session {
	ep.mu.Lock()
	s := ep.sessions[sessionKey{from.id, byConnection, token}]
	if s == nil || s.connected {
		s = &session{ep: ep, key: sessionKey{from.id, byConnection, rand.Text()}, created: time.Now()}
		ep.sessions[s.key] = s
		if token != "" {
			s.lost = restartedReason // and with it went what the token led to
		}
	}
	s.connected = true
	ep.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expiry != nil {
		s.expiry.Stop()
	}
	return s
}

// abandon ends a session that an earlier daemon kept for a shim that did not
// come back.
func (ep *endpoint) abandon(s *session) {
	ep.mu.Lock()
	connected := s.connected
	ep.mu.Unlock()
	if !connected {
		ep.endSession(s.key, "its client did not come back after the daemon's restart")
	}
}

// serveLines serves a shim's connection to its end, and with it ends the
// session, unless the next daemon goes on with both.
func (ep *endpoint) serveLines(l *lineConn) {
	defer l.conn.Close()
	defer func() { // the client waits for the end of the connection: first let go of its sandbox
		if !l.handedOver() {
			wait(context.Background(), ep.endSession(l.session.key, "its client disconnected"), letGo)
		}
	}()
	defer ep.detach(l)
	ss, err := ep.bound.Connect(context.Background(), l, nil)
	if err != nil {
		_ = l.Close()
		ep.log.Warn("cannot start session", "error", err)
		return
	}
	_ = ss.Wait()
}

// attach makes a connection known before it is served, so that a stop parks
// it however soon it comes.
func (ep *endpoint) attach(l *lineConn) {
	ep.mu.Lock()
	l.session.connected = true
	ep.shims[l] = true
	ep.mu.Unlock()
	if ep.table.parking.Load() { // it came while the others were being parked
		l.stopReading()
	}
}

func (ep *endpoint) detach(l *lineConn) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	delete(ep.shims, l)
}

// A lineConn is an MCP transport of one message a line. Unlike the SDK's it
// survives a garbled line, has a write deadline, and says with each request
// who sent it.
//
// It can be parked: then it reads no more, and what it has read of a line is
// kept for the daemon that goes on with the connection.
type lineConn struct {
	id      string
	conn    net.Conn
	r       *bufio.Reader
	session *session
	extra   *mcp.RequestExtra

	again  [][]byte      // what the client said to an earlier daemon, to be heard once more
	ahead  bytes.Buffer  // what an earlier daemon had read; r reads it first
	rest   []byte        // of the current line: what came before r's buffer
	closed chan struct{} // by Close
	parked chan struct{} // closed once Read reads no more
	park   atomic.Bool
	once   sync.Once // for closed

	pending atomic.Int64 // requests without an answer, but for subscriptions

	mu     sync.Mutex // one message at a time
	out    []byte
	over   bool                       // the next daemon has the connection: nothing is written here
	replay handshake                  // what it has to be told again
	listen map[string]json.RawMessage // open subscriptions, by the id of their request
	mute   string                     // the request whose answer the client has already
	untold map[string]bool            // requests heard again whose client does not know that the tool is another one since
}

// A handshake is what a client said first, as it said it.
type handshake struct {
	Initialize  json.RawMessage `json:"initialize,omitempty"`
	Initialized json.RawMessage `json:"initialized,omitempty"`
}

// What is kept to be said again: of a message, and subscriptions of one client.
const (
	maxReplayed      = 64 << 10
	maxSubscriptions = 16
)

func newLineConn(conn net.Conn, r *bufio.Reader, s *session, from *caller) *lineConn {
	return &lineConn{
		id: "shim-" + rand.Text()[:8], conn: conn, r: r, session: s, closed: make(chan struct{}), parked: make(chan struct{}),
		untold: map[string]bool{},
		extra:  &mcp.RequestExtra{TokenInfo: tokenInfo(from, s), Header: http.Header{}},
	}
}

var _ mcp.Transport = (*lineConn)(nil)
var _ mcp.Connection = (*lineConn)(nil)

func (l *lineConn) Connect(context.Context) (mcp.Connection, error) { return l, nil }

func (l *lineConn) SessionID() string { return l.id }

// Close ends Read. The connection itself is closed by serveLines, once the
// session's sandbox is gone.
func (l *lineConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.conn.SetReadDeadline(time.Now())
}

// stopReading parks the connection.
func (l *lineConn) stopReading() {
	l.park.Store(true)
	_ = l.conn.SetReadDeadline(time.Now())
}

func (l *lineConn) handedOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

// Read returns the next message. A line that is not one is answered.
func (l *lineConn) Read(context.Context) (jsonrpc.Message, error) {
	for {
		var line []byte
		err := os.ErrDeadlineExceeded
		switch {
		case len(l.again) > 0: // parked or not: the client does not wait for it
			line, l.again, err = l.again[0], l.again[1:], nil
		case !l.park.Load(): // even if there are lines in the buffer
			line, err = l.line()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if l.park.Load() {
				close(l.parked)
				<-l.closed
			}
			err = io.EOF
		}
		if err != nil {
			return nil, err
		}
		if len(line) == 0 {
			continue
		}
		msg, err := jsonrpc.DecodeMessage(line)
		if err != nil {
			if err := l.garbled(line); err != nil {
				return nil, err
			}
			continue
		}
		if req, ok := msg.(*jsonrpc.Request); ok {
			req.Extra = l.extra
			if req.IsCall() && req.Method != "subscriptions/listen" {
				l.pending.Add(1)
			}
			l.remember(req, line)
		}
		return msg, nil
	}
}

// remember keeps what the next daemon must be told again.
func (l *lineConn) remember(req *jsonrpc.Request, line []byte) {
	switch req.Method {
	case "initialize", "notifications/initialized", "subscriptions/listen":
	default:
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if line = bytes.Clone(line); len(line) > maxReplayed || len(l.listen) >= maxSubscriptions {
		line = nil
	}
	switch req.Method {
	case "initialize":
		l.replay.Initialize = line
	case "notifications/initialized":
		l.replay.Initialized = line
	default:
		if l.listen == nil {
			l.listen = map[string]json.RawMessage{}
		}
		l.listen[idText(req.ID)] = line // nil too, as its answer is no other request's
	}
}

// idText tells apart the ids of requests: 1 is not "1".
func idText(id jsonrpc.ID) string {
	b, _ := json.Marshal(id.Raw())
	return string(b)
}

// line returns the next line without its end. It is valid until the next
// call; decoding copies.
func (l *lineConn) line() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if err != nil || len(l.rest) > 0 {
		for errors.Is(err, bufio.ErrBufferFull) {
			if l.rest = append(l.rest, line...); len(l.rest) > maxLine {
				return nil, fmt.Errorf("read message: longer than %d bytes", maxLine)
			}
			line, err = l.r.ReadSlice('\n')
		}
		l.rest = append(l.rest, line...)
		if err != nil {
			return nil, err // an unfinished last line is no message
		}
		line = l.rest
		if l.rest = l.rest[:0]; cap(l.rest) > 1<<20 {
			l.rest = nil // once in a while is no reason to keep megabytes
		}
	}
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line, nil
}

// garbled answers a line that is no JSON-RPC message.
func (l *lineConn) garbled(line []byte) error {
	code, text := -32600, "not a JSON-RPC 2.0 message; send one request, notification or response a line"
	if !json.Valid(line) {
		code, text = -32700, "parse error: the line is not JSON"
	}
	return l.write(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":null,"error":{"code":%d,"message":%q}}`, code, text))
}

// Write sends one message.
func (l *lineConn) Write(_ context.Context, msg jsonrpc.Message) error {
	// A response's result is JSON already, and may be megabytes: frame it here
	// rather than have it encoded again.
	res, ok := msg.(*jsonrpc.Response)
	if ok {
		subscription, again := l.answered(res.ID)
		if !subscription {
			defer l.pending.Add(-1) // after it is written
		}
		if again {
			if l.tell(idText(res.ID)) {
				return l.write([]byte(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`))
			}
			return nil
		}
	}
	if ok && res.Error == nil {
		id, err := json.Marshal(res.ID.Raw())
		if err != nil {
			return fmt.Errorf("encode message: %w", err)
		}
		return l.write([]byte(`{"jsonrpc":"2.0","id":`), id, []byte(`,"result":`), res.Result, []byte(`}`))
	}
	b, err := jsonrpc.EncodeMessage(msg)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if err := l.write(b); err != nil {
		return err
	}
	return l.tellSubscriber(msg)
}

// tell reports whether the client must be told of a new tool now that this
// request has been heard again.
func (l *lineConn) tell(request string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	untold := l.untold[request]
	delete(l.untold, request)
	return untold
}

// tellSubscriber tells a client of the new tool whose subscription has just
// been heard again. As everything on that stream, it names the subscription
// (SEP-2575).
func (l *lineConn) tellSubscriber(msg jsonrpc.Message) error {
	ack, ok := msg.(*jsonrpc.Request)
	if !ok || ack.Method != "notifications/subscriptions/acknowledged" {
		return nil
	}
	var params struct {
		Meta struct {
			Subscription json.RawMessage `json:"io.modelcontextprotocol/subscriptionId"`
		} `json:"_meta"`
		Notifications struct {
			Tools bool `json:"toolsListChanged"`
		} `json:"notifications"`
	}
	if err := json.Unmarshal(ack.Params, &params); err != nil {
		return fmt.Errorf("read our own acknowledgement: %w", err)
	}
	if !l.tell(string(params.Meta.Subscription)) || !params.Notifications.Tools {
		return nil
	}
	return l.write([]byte(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":`),
		params.Meta.Subscription, []byte(`}}}`))
}

// answered notes the answer to a request: whether that was a subscription, and
// whether the client had an answer before, from an earlier daemon.
func (l *lineConn) answered(id jsonrpc.ID) (subscription, again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.listen) == 0 && l.mute == "" {
		return false, false
	}
	text := idText(id)
	if l.mute == text {
		l.mute = ""
		return false, true
	}
	_, subscription = l.listen[text]
	if !l.over {
		delete(l.listen, text)
	}
	return subscription, false
}

func (l *lineConn) write(parts ...[]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil
	}
	l.out = l.out[:0]
	for _, p := range parts {
		l.out = append(l.out, p...)
	}
	l.out = append(l.out, '\n')
	_ = l.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := l.conn.Write(l.out)
	if cap(l.out) > 1<<20 {
		l.out = nil
	}
	return err
}
