package daemon

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// A front serves MCP Streamable HTTP of both eras on one URL:
//
//	Mcp-Session-Id, GET, DELETE, initialize ──► stateful   revisions until 2025-11-25, which have sessions
//	everything else                          ──► stateless  revision 2026-07-28, which has none
//
// The SDK's handlers serve one era each; a stateful one cannot serve
// 2026-07-28 and a stateless one keeps no session.
//
// It also knows when a session has lost its client. The SDK's own timeout
// counts POSTs only, so it would end sessions that hold a stream open.
type front struct {
	stateful, stateless http.Handler

	sessionEnded func(principal, id string) // before the SDK ends it, so that running calls end too
	idleTimeout  func() time.Duration       // of a session without a request

	server  *mcp.Server     // the stateful one
	streams context.Context // ends every stream, and leaves sessions and calls alone
	ids     *sessionIDs

	mu       sync.Mutex
	sessions map[string]*httpSession // by Mcp-Session-Id
}

// An httpSession is an MCP session over HTTP. It lives while any request of
// it is open, a GET stream included, and for idleTimeout after.
type httpSession struct {
	principal string
	opening   json.RawMessage // its initialize request, if it is not too long to be said again
	open      int
	timer     *time.Timer
	posts     sync.WaitGroup // calls that are being answered

	calls map[*context.CancelCauseFunc]bool // of running calls; they end with the session, whatever their sandbox hangs on
}

// deleteGrace is how long a DELETE waits for the answers of the calls that it
// has killed; the SDK drops them as soon as it closes the session.
const deleteGrace = 5 * time.Second

// modern is the first protocol revision without sessions.
const modern = "2026-07-28"

// maxBody bounds a request. It leaves room for 2 MiB of stdin however JSON
// escapes it (six bytes for one).
const maxBody = 16 << 20

const (
	sessionHeader = "Mcp-Session-Id"
	versionHeader = "Mcp-Protocol-Version"
)

// newFront serves bound to clients with sessions and what pick returns to
// those without.
func newFront(bound *mcp.Server, pick func(*http.Request) *mcp.Server, log *slog.Logger) *front {
	log = slog.New(demoted{log.Handler()})
	return &front{
		stateful: mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return bound },
			&mcp.StreamableHTTPOptions{Logger: log, MaxRequestBodyBytes: maxBody}),
		stateless: mcp.NewStreamableHTTPHandler(pick,
			&mcp.StreamableHTTPOptions{Logger: log, MaxRequestBodyBytes: maxBody, Stateless: true, PropagateRequestCancellation: true}),
		server:       bound,
		sessions:     map[string]*httpSession{},
		sessionEnded: func(string, string) {},
		idleTimeout:  func() time.Duration { return time.Hour },
		streams:      context.Background(),
	}
}

// sessionIDs makes the ids of a server's sessions, or gives the one that a
// restored session had before. It is an mcp.ServerOptions.GetSessionID.
type sessionIDs struct{ next atomic.Pointer[string] }

func (s *sessionIDs) get() string {
	if id := s.next.Swap(nil); id != nil {
		return *id
	}
	return rand.Text()
}

// restore opens a session again that an earlier daemon had, by repeating what
// the client said to open it, and reports whether it is open then. It must not
// be called while requests are served.
func (f *front) restore(id, owner string, opening json.RawMessage) bool {
	if f.known(id) {
		return true
	}
	from := &caller{principal: &principal{id: owner, uid: -1}}
	f.ids.next.Store(&id)
	defer f.ids.next.Store(nil)
	say := func(body string, opened bool) bool {
		r, err := http.NewRequest(http.MethodPost, "http://localhost/", strings.NewReader(body))
		if err != nil {
			return false
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Accept", "application/json, text/event-stream")
		if opened {
			r.Header.Set(sessionHeader, id)
		}
		w := nobody{http.Header{}}
		as(from, f.stateful).ServeHTTP(w, r)
		return w.header.Get(sessionHeader) == id
	}
	if opening == nil || !say(string(opening), false) {
		return false
	}
	say(`{"jsonrpc":"2.0","method":"notifications/initialized"}`, true)
	f.add(id, owner, opening)
	return true
}

func (f *front) known(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sessions[id] != nil
}

// within ties a call to the session that it came by: ctx ends with it. Outside
// of sessions it changes nothing.
func (f *front) within(ctx context.Context, id string) (context.Context, context.CancelFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sessions[id]
	if s == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	if s.calls == nil {
		s.calls = map[*context.CancelCauseFunc]bool{}
	}
	s.calls[&cancel] = true
	return ctx, func() {
		cancel(nil)
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(s.calls, &cancel)
	}
}

// nobody is the client of a request that we make ourselves.
type nobody struct{ header http.Header }

func (n nobody) Header() http.Header         { return n.header }
func (n nobody) Write(b []byte) (int, error) { return len(b), nil }
func (n nobody) WriteHeader(int)             {}
func (n nobody) Flush()                      {}

// An opening is what opened a session, and whose it is.
type opening struct {
	principal string
	said      json.RawMessage
}

// openings returns the sessions that could be restored, by id.
func (f *front) openings() map[string]opening {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[string]opening{}
	for id, s := range f.sessions {
		if s.opening != nil {
			all[id] = opening{s.principal, s.opening}
		}
	}
	return all
}

// openingOf returns the initialize request of an MCP session's key.
func (f *front) openingOf(key sessionKey) json.RawMessage {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sessions[key.value]; key.kind == byMCP && s != nil {
		return s.opening
	}
	return nil
}

// MCPHandler serves one MCP server over Streamable HTTP as the daemon serves
// its profiles: both eras on one URL, foreign origins refused. It is for
// programs that want the daemon's front around a server of their own; it asks
// nobody who they are.
func MCPHandler(srv *mcp.Server, log *slog.Logger) http.Handler {
	f := newFront(srv, func(*http.Request) *mcp.Server { return srv }, log)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := checkOrigin(r); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		f.serve(w, r, &caller{principal: &principal{id: "anybody", uid: -1}})
	})
}

// serve serves one request of a known caller.
func (f *front) serve(w http.ResponseWriter, r *http.Request, from *caller) {
	id := r.Header.Get(sessionHeader)
	if r.Method == http.MethodGet || r.Header.Get("Mcp-Method") == "subscriptions/listen" {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(f.streams, cancel)()
		r = r.WithContext(ctx)
	}
	switch {
	case id == "" && r.Header.Get(versionHeader) >= modern:
		as(from, f.stateless).ServeHTTP(w, r)
	case id != "":
		f.serveSession(w, r, from, id)
	case r.Method != http.MethodPost:
		as(from, f.stateful).ServeHTTP(w, r)
	default:
		f.serveFirst(w, r, from)
	}
}

// serveSession serves a request inside a session. A session of somebody else
// is answered like one that does not exist.
func (f *front) serveSession(w http.ResponseWriter, r *http.Request, from *caller, id string) {
	s := f.begin(id, from.id, r.Method)
	if s == nil {
		http.Error(w, "session not found", http.StatusNotFound)
		return
	}
	defer f.done(id, s)
	switch r.Method {
	case http.MethodPost:
		defer s.posts.Done() // begin has added it
	case http.MethodDelete:
		f.forget(id, s) // the SDK's DELETE would wait for running calls; this ends them
		answered := make(chan struct{})
		go func() { s.posts.Wait(); close(answered) }()
		wait(r.Context(), answered, deleteGrace)
	}
	as(from, f.stateful).ServeHTTP(w, r)
}

// serveFirst serves a POST without session or modern version header. Only
// "initialize" may open a session. A modern body goes to the modern handler,
// which knows the precise error; anything else has lost its session.
func (f *front) serveFirst(w http.ResponseWriter, r *http.Request, from *caller) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			http.Error(w, "request body too large", http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(w, "cannot read the request body", http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var peek struct {
		Method string          `json:"method"`
		ID     json.RawMessage `json:"id"`
		Params struct {
			Meta map[string]json.RawMessage `json:"_meta"`
		} `json:"params"`
	}
	err = json.Unmarshal(body, &peek)
	_, modernBody := peek.Params.Meta["io.modelcontextprotocol/protocolVersion"]
	switch {
	case err == nil && modernBody:
		as(from, f.stateless).ServeHTTP(w, r)
	case err == nil && peek.Method == "initialize":
		var said json.RawMessage
		if len(body) <= maxReplayed {
			said = body
		}
		as(from, f.stateful).ServeHTTP(&openingAnswer{ResponseWriter: w, opened: func(id string) { f.add(id, from.id, said) }}, r)
	case err == nil:
		if peek.ID == nil {
			peek.ID = json.RawMessage("null")
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]any{"jsonrpc": "2.0", "id": peek.ID, "error": map[string]any{
			"code": -32600, "message": "the " + sessionHeader + " header is missing; send initialize first"}})
	default: // the SDK's parse error, or what the SDK can read for all that, such as a batch
		as(from, f.stateful).ServeHTTP(&openingAnswer{ResponseWriter: w, opened: func(id string) { f.add(id, from.id, nil) }}, r)
	}
}

// An openingAnswer is the answer to initialize. It makes the session known before
// the client reads its id: a quick one uses it before the handler returns.
type openingAnswer struct {
	http.ResponseWriter
	opened func(id string)
	begun  bool
}

func (o *openingAnswer) begin() {
	if id := o.Header().Get(sessionHeader); id != "" && !o.begun {
		o.opened(id)
	}
	o.begun = true
}

func (o *openingAnswer) WriteHeader(status int)      { o.begin(); o.ResponseWriter.WriteHeader(status) }
func (o *openingAnswer) Write(b []byte) (int, error) { o.begin(); return o.ResponseWriter.Write(b) }

// Unwrap lets http.ResponseController flush.
func (o *openingAnswer) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// add begins to watch a session that initialize has opened.
func (f *front) add(id, principal string, opening json.RawMessage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &httpSession{principal: principal, opening: opening}
	s.timer = time.AfterFunc(f.idleTimeout(), func() { f.expire(id, s) })
	f.sessions[id] = s
}

// begin marks a request of the session as open; nil means there is no such
// session of that principal.
func (f *front) begin(id, principal, method string) *httpSession {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sessions[id]
	if s == nil || s.principal != principal {
		return nil
	}
	s.open++
	if method == http.MethodPost {
		s.posts.Add(1)
	}
	s.timer.Stop()
	return s
}

func (f *front) done(id string, s *httpSession) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.open--; s.open == 0 && f.sessions[id] == s {
		s.timer.Reset(f.idleTimeout())
	}
}

// expire ends a session that nobody has used for its timeout.
func (f *front) expire(id string, s *httpSession) {
	f.mu.Lock()
	idle := s.open == 0 && f.sessions[id] == s
	f.mu.Unlock()
	if !idle {
		return
	}
	f.forget(id, s)
	for ss := range f.server.Sessions() {
		if ss.ID() == id {
			_ = ss.Close()
		}
	}
}

// forget ends what hangs on a session: from now on its id is unknown.
func (f *front) forget(id string, s *httpSession) {
	f.mu.Lock()
	known := f.sessions[id] == s
	delete(f.sessions, id)
	calls := maps.Clone(s.calls)
	f.mu.Unlock()
	if known {
		s.timer.Stop()
		for cancel := range calls {
			(*cancel)(errSessionEnded)
		}
		f.sessionEnded(s.principal, id)
	}
}

// count returns how many sessions are open.
func (f *front) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.sessions)
}

// Where a request's TokenInfo carries what the daemon knows of its caller.
const (
	extraCaller = "caller" // *caller
	extraShim   = "shim"   // *session, on the shim's connection
)

// tokenInfo is how the SDK carries a caller to the handler of a call.
func tokenInfo(from *caller, shim *session) *auth.TokenInfo {
	extra := map[string]any{extraCaller: from}
	if shim != nil {
		extra[extraShim] = shim
	}
	return &auth.TokenInfo{UserID: from.id, Extra: extra}
}

// callerOf is the other end of tokenInfo; nil means that nobody asked who it
// is.
func callerOf(extra *mcp.RequestExtra) *caller {
	if extra == nil || extra.TokenInfo == nil {
		return nil
	}
	from, _ := extra.TokenInfo.Extra[extraCaller].(*caller)
	return from
}

// as serves h for a caller that has been authenticated already. The SDK has
// one door for that: its bearer middleware, with a verifier. The client's own
// Authorization header ends here.
func as(from *caller, h http.Handler) http.Handler {
	verify := func(_ context.Context, _ string, _ *http.Request) (*auth.TokenInfo, error) {
		return tokenInfo(from, nil), nil
	}
	mw := auth.RequireBearerToken(verify, &auth.RequireBearerTokenOptions{AllowMissingExpiration: true})(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Authorization", "Bearer authenticated")
		mw.ServeHTTP(w, r)
	})
}
