package daemon

import (
	"bufio"
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

	maxLine      = 16 << 20         // bytes of one message; a longer one ends the connection
	letGo        = 2 * time.Second  // how long a client that leaves waits for its sandbox to be gone
	writeTimeout = 30 * time.Second // a client that takes nothing for so long has gone
)

// serveStdio turns a request's connection into a shim's session and serves it
// to its end. The session's sandbox ends with the connection.
func (ep *endpoint) serveStdio(w http.ResponseWriter, r *http.Request, from *caller) {
	if r.Method != http.MethodGet || !strings.EqualFold(r.Header.Get("Upgrade"), stdioProtocol) {
		w.Header().Set("Upgrade", stdioProtocol)
		http.Error(w, "this address speaks "+stdioProtocol+"; use the kilntainers-stdio program", http.StatusUpgradeRequired)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot be upgraded", http.StatusBadRequest)
		return
	}
	resumed := r.Header.Get(resumeHeader)
	key := sessionKey{from.id, byConnection, rand.Text()}
	s := ep.session(key)
	if resumed != "" {
		s.lost = "the sandbox daemon was restarted" // and with it went what the token led to
	}
	l := &lineConn{id: "shim-" + rand.Text()[:8], conn: conn, r: buffered.Reader,
		extra: &mcp.RequestExtra{TokenInfo: tokenInfo(from, s), Header: http.Header{}}}
	defer conn.Close()
	defer func() { // the client waits for the end of the connection: first let go of its sandbox
		wait(context.Background(), ep.endSession(key, "its client disconnected"), letGo)
	}()

	_ = conn.SetDeadline(time.Time{}) // net/http's own
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %s\r\n\r\n", stdioProtocol, resumeHeader, key.value); err != nil {
		return
	}
	ss, err := ep.bound.Connect(context.WithoutCancel(r.Context()), l, nil)
	if err != nil {
		ep.log.Warn("cannot start session", "error", err)
		return
	}
	ep.mu.Lock()
	ep.shims[l] = ss
	ep.mu.Unlock()
	ep.log.Debug("shim connected", "user", from.display(), "pid", from.pid, "resumed", resumed != "")
	_ = ss.Wait()
	ep.mu.Lock()
	delete(ep.shims, l)
	ep.mu.Unlock()
}

// A lineConn is an MCP transport of one message a line. Unlike the SDK's it
// survives a garbled line, has a write deadline, and says with each request
// who sent it.
type lineConn struct {
	id    string
	conn  net.Conn
	r     *bufio.Reader
	extra *mcp.RequestExtra

	long []byte // a line that is longer than r's buffer

	mu  sync.Mutex // one message at a time
	out []byte
}

var _ mcp.Transport = (*lineConn)(nil)
var _ mcp.Connection = (*lineConn)(nil)

func (l *lineConn) Connect(context.Context) (mcp.Connection, error) { return l, nil }

func (l *lineConn) SessionID() string { return l.id }

// Close ends Read. The connection itself is closed by serveStdio, once the
// session's sandbox is gone.
func (l *lineConn) Close() error { return l.conn.SetReadDeadline(time.Now()) }

// Read returns the next message. A line that is not one is answered.
func (l *lineConn) Read(context.Context) (jsonrpc.Message, error) {
	for {
		line, err := l.line()
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
		}
		return msg, nil
	}
}

// line returns the next line without its end. It is valid until the next
// call; decoding copies.
func (l *lineConn) line() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		l.long = l.long[:0]
		for errors.Is(err, bufio.ErrBufferFull) {
			if l.long = append(l.long, line...); len(l.long) > maxLine {
				return nil, fmt.Errorf("read message: longer than %d bytes", maxLine)
			}
			line, err = l.r.ReadSlice('\n')
		}
		l.long = append(l.long, line...)
		line = l.long
		if cap(l.long) > 1<<20 {
			l.long = nil // once in a while is no reason to keep megabytes
		}
	}
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = io.EOF
		}
		return nil, err // an unfinished last line is no message
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
	if res, ok := msg.(*jsonrpc.Response); ok && res.Error == nil {
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
	return l.write(b)
}

func (l *lineConn) write(parts ...[]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
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
