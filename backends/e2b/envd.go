package e2b

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// An envd is the server inside one sandbox, which runs its commands. It speaks
// the Connect protocol (https://connectrpc.com/docs/protocol) with JSON, which
// is what E2B's own SDK uses. The messages are those of process.proto in
// packages/envd/spec.
type envd struct {
	client *client
	url    string // without a slash at the end
	id     string // of the sandbox
	token  atomic.Pointer[Secret]
}

// envdPort is where it listens in the sandbox.
const envdPort = "49983"

// envdURL is where the envd of a sandbox is reached. The services of E2B
// itself tell sandboxes apart by headers, others by the name of the host.
func envdURL(o *Options, c created) string {
	domain := o.Domain
	if c.Domain != "" {
		domain = c.Domain
	}
	switch {
	case o.SandboxURL != "":
		return strings.TrimRight(o.SandboxURL, "/")
	case domain == "e2b.app", domain == "e2b.dev", domain == "e2b.pro":
		return "https://sandbox." + domain
	}
	return "https://" + envdPort + "-" + c.ID + "." + domain
}

// An rpcError is a refusal of envd, or of what stands before it.
type rpcError struct {
	Code    string // as Connect names it: "invalid_argument"
	Message string
	Status  int // of HTTP; 200 when it came at the end of a stream
}

func (e *rpcError) Error() string {
	return fmt.Sprintf("the sandbox's server answered %s: %s", e.Code, e.Message)
}

// refused reports whether envd understood the request and would not do it, so
// that nothing was done.
func (e *rpcError) refused() bool {
	switch e.Code {
	case "invalid_argument", "unauthenticated", "permission_denied", "not_found", "unimplemented",
		"failed_precondition", "already_exists", "resource_exhausted", "out_of_range":
		return true
	}
	return false
}

func isCode(err error, codes ...string) bool {
	var e *rpcError
	if errors.As(err, &e) {
		for _, c := range codes {
			if e.Code == c {
				return true
			}
		}
	}
	return false
}

// codeOf is the code for a status of HTTP that came without one, as the
// protocol says.
func codeOf(status int) string {
	switch status {
	case http.StatusBadRequest:
		return "internal"
	case http.StatusUnauthorized:
		return "unauthenticated"
	case http.StatusForbidden:
		return "permission_denied"
	case http.StatusNotFound:
		return "unimplemented"
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return "unavailable"
	}
	return "unknown"
}

// decodeRPCError reads a refusal: that of Connect has a code of letters, that
// of envd's door and of E2B's proxy a number.
func decodeRPCError(res *http.Response, hide Secret) error {
	text, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	e := &rpcError{Code: codeOf(res.StatusCode), Message: hide.hide(messageOf(res, text)), Status: res.StatusCode}
	var named struct{ Code string }
	if json.Unmarshal(text, &named) == nil && named.Code != "" {
		e.Code = oneLine(named.Code)
	}
	return e
}

// How often envd lets a stream on which nothing happens be heard of, and after
// which silence it is taken for dead.
const (
	keepalive  = 30 * time.Second
	maxSilence = 2*keepalive + 10*time.Second
)

var errSilent = errors.New("it was silent for too long")

// do makes one request. When the token is refused, which leaves nothing done,
// it asks the control plane for the one that holds now.
func (d *envd) do(ctx context.Context, method, path, user string, body []byte, header http.Header) (*http.Response, error) {
	for try := 0; ; try++ {
		req, err := http.NewRequestWithContext(ctx, method, d.url+path, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		for k, v := range header {
			req.Header[k] = v
		}
		req.Header.Set("User-Agent", "kilntainers")
		req.Header.Set("E2b-Sandbox-Id", d.id)
		req.Header.Set("E2b-Sandbox-Port", envdPort)
		token := *d.token.Load()
		if token != "" {
			req.Header.Set("X-Access-Token", string(token))
		}
		if user != "" {
			req.SetBasicAuth(user, "")
		}
		res, err := d.client.send(req)
		if err != nil || res.StatusCode == http.StatusOK || res.StatusCode == http.StatusNoContent {
			return res, err
		}
		err = decodeRPCError(res, token)
		res.Body.Close()
		if try > 0 || res.StatusCode != http.StatusUnauthorized || !d.newToken(ctx, token) {
			return nil, err
		}
	}
}

// newToken asks for the token that holds now, and reports whether it is
// another one.
func (d *envd) newToken(ctx context.Context, old Secret) bool {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	l, err := d.client.get(ctx, d.id)
	if err != nil || l.Token == "" || l.Token == old {
		return false
	}
	d.token.Store(&l.Token)
	return true
}

// healthy reports whether the sandbox's server answers.
func (d *envd) healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Second, errSilent)
	defer cancel()
	res, err := d.do(ctx, http.MethodGet, "/health", "", nil, nil)
	var e *rpcError
	switch {
	case errors.As(err, &e) && e.Status < 500:
		return nil // older ones know no such path
	case err != nil:
		return err
	}
	res.Body.Close()
	return nil
}

// unary makes a call with one answer, which is of no interest.
func (d *envd) unary(ctx context.Context, method string, in any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	res, err := d.do(ctx, http.MethodPost, "/process.Process/"+method, "", body, http.Header{
		"Content-Type":             {"application/json"},
		"Connect-Protocol-Version": {"1"},
	})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, maxFrame))
	return err
}

// A process, by its id. There are tags too, but with more than one alive envd
// finds only some.
type selector struct {
	PID uint32 `json:"pid"`
}

// sendInput brings bytes to a command's stdin. It returns when the command's
// pipe has taken them.
func (d *envd) sendInput(ctx context.Context, pid uint32, data []byte) error {
	type input struct {
		Stdin []byte `json:"stdin"`
	}
	return d.unary(ctx, "SendInput", struct {
		Process selector `json:"process"`
		Input   input    `json:"input"`
	}{selector{pid}, input{data}})
}

// closeStdin ends a command's stdin.
func (d *envd) closeStdin(ctx context.Context, pid uint32) error {
	return d.unary(ctx, "CloseStdin", struct {
		Process selector `json:"process"`
	}{selector{pid}})
}

// startRequest is StartRequest. A missing stdin means true, so it is never
// left out.
type startRequest struct {
	Process process `json:"process"`
	Stdin   bool    `json:"stdin"`
}

type process struct {
	Cmd  string            `json:"cmd"`
	Args []string          `json:"args"`
	Envs map[string]string `json:"envs,omitempty"`
	Cwd  string            `json:"cwd,omitempty"`
}

// An event is ProcessEvent: one of these is set.
type event struct {
	Start *struct {
		PID uint32 `json:"pid"`
	} `json:"start"`
	Data *struct {
		Stdout []byte `json:"stdout"` // base64
		Stderr []byte `json:"stderr"`
	} `json:"data"`
	End *ending `json:"end"`
}

// An ending is how the first process of a command ended.
type ending struct {
	Code   int    `json:"exitCode"`
	Exited bool   `json:"exited"` // by itself, not by a signal
	Status string `json:"status"` // "signal: killed"
}

// signalNames are the words of Go's os package for Linux's signals 1 to 15,
// which are envd's.
var signalNames = []string{1: "hangup", "interrupt", "quit", "illegal instruction", "trace/breakpoint trap", "aborted",
	"bus error", "floating point exception", "killed", "user defined signal 1", "segmentation fault",
	"user defined signal 2", "broken pipe", "alarm clock", "terminated"}

// code is the exit status as a shell gives it.
func (e *ending) code() int {
	if e.Exited {
		return e.Code & 0xff
	}
	name := strings.TrimSuffix(strings.TrimPrefix(e.Status, "signal: "), " (core dumped)")
	for n, s := range signalNames {
		if s == name && n > 0 {
			return 128 + n
		}
	}
	if n, err := strconv.Atoi(strings.TrimPrefix(name, "signal ")); err == nil && n > 0 && n < 128 {
		return 128 + n
	}
	return 255
}

// start starts a command as that user, "" being the template's own. It returns
// when the command has been started, or could not be. The stream lives until
// it ends, or ctx does. After limit, unless it is 0, envd itself kills the
// command's first process, also when nobody listens any more.
func (d *envd) start(ctx context.Context, user string, in startRequest, limit time.Duration) (*stream, error) {
	msg, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	body := make([]byte, frameHeader, frameHeader+len(msg))
	binary.BigEndian.PutUint32(body[1:], uint32(len(msg)))
	body = append(body, msg...)
	header := http.Header{
		"Content-Type":             {"application/connect+json"},
		"Connect-Protocol-Version": {"1"},
		"Keepalive-Ping-Interval":  {strconv.Itoa(int(keepalive / time.Second))},
	}
	if limit > 0 {
		header.Set("Connect-Timeout-Ms", strconv.FormatInt(limit.Milliseconds(), 10))
	}
	var res *http.Response
	err = repeat(ctx, unstarted, func() error {
		res, err = d.do(ctx, http.MethodPost, "/process.Process/Start", user, body, header)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &stream{body: res.Body}, nil
}

// unstarted tells whether nothing can have been started, and another try may
// help.
func unstarted(err error) bool {
	var lost *lostError
	var e *rpcError
	return errors.As(err, &lost) && !lost.sent ||
		errors.As(err, &e) && e.Status == http.StatusTooManyRequests
}

// A stream is the events of one command, as frames: a byte of flags, four of
// length, and so many of JSON.
//
//	00 0000001f {"event":{"start":{"pid":4711}}}
//	02 00000002 {}                               the end, or {"error":{…}}
type stream struct {
	body   io.ReadCloser
	header [frameHeader]byte
	buf    []byte
}

const (
	frameHeader = 5
	flagPacked  = 1
	flagEnd     = 2

	// maxFrame bounds what the other side can make us hold. envd sends 32 KiB of
	// output in a frame, which are 44 KiB as JSON.
	maxFrame = 4 << 20
)

// next returns the next event. Its bytes are good until the call after. At the
// end it returns io.EOF or the *rpcError that ended the stream; a stream that
// breaks off, or is none, gives other errors.
func (s *stream) next() (ev event, err error) {
	if _, err := io.ReadFull(s.body, s.header[:]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // there is an end frame
		}
		return ev, err
	}
	size := int(binary.BigEndian.Uint32(s.header[1:]))
	switch flags := s.header[0]; {
	case size > maxFrame:
		return ev, fmt.Errorf("a frame of %d bytes is too long", size)
	case flags&flagPacked != 0:
		return ev, errors.New("a frame is compressed, which was not asked for")
	}
	if cap(s.buf) < size {
		s.buf = make([]byte, size)
	}
	msg := s.buf[:size]
	if _, err := io.ReadFull(s.body, msg); err != nil {
		return ev, io.ErrUnexpectedEOF
	}
	if s.header[0]&flagEnd == 0 {
		var m struct {
			Event event `json:"event"`
		}
		if err := json.Unmarshal(msg, &m); err != nil {
			return ev, fmt.Errorf("a frame is not an event: %w", err)
		}
		return m.Event, nil
	}
	var end struct {
		Error *struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if err := json.Unmarshal(msg, &end); err != nil {
		return ev, fmt.Errorf("the last frame is not an end: %w", err)
	}
	// The end of the answer too, so that its connection can be used again.
	s.body.Read(s.header[:1])
	if end.Error != nil {
		return ev, &rpcError{Code: oneLine(end.Error.Code), Message: oneLine(end.Error.Message), Status: http.StatusOK}
	}
	return ev, io.EOF
}

func (s *stream) close() { s.body.Close() }
