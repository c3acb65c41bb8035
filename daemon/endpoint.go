package daemon

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/profiles"
)

// An endpoint is one profile in service: its MCP servers, the backend behind
// them, and its sessions. It outlives reloads: only its service is replaced.
//
//	HTTP with sessions ─┐
//	shim, both eras     ├─► bound  ─┐
//	HTTP with a header ─┘           ├─► call ─► session ─► sandbox
//	HTTP without any ─────► handle ─┘
//
// There are two servers because the tool differs: behind handle nothing but
// the sandbox_id argument ties calls together, so its tool has that argument.
type endpoint struct {
	name    string
	table   *table
	log     *slog.Logger
	metrics *profileMetrics
	bound   *toolServer
	handle  *toolServer
	http    *front

	svc atomic.Pointer[service] // nil = out of service

	mu       sync.Mutex
	sessions map[sessionKey]*session
	shims    map[*lineConn]bool
}

func newEndpoint(name string, t *table) *endpoint {
	ep := &endpoint{
		name: name, table: t, log: t.log.With("profile", name), metrics: t.metrics.profile(name),
		sessions: map[sessionKey]*session{}, shims: map[*lineConn]bool{},
	}
	ids := &sessionIDs{}
	ep.bound = newServer(name, t.version, ids, ep.handler(false), ep.log)
	ep.handle = newServer(name, t.version, &sessionIDs{}, ep.handler(true), ep.log)
	ep.http = newFront(ep.bound.Server, ep.serverFor, ep.log)
	ep.http.ids, ep.http.streams = ids, t.alive
	ep.http.sessionEnded = func(principal, id string) {
		ep.endSession(sessionKey{principal, byMCP, id}, "its MCP session ended")
	}
	ep.http.idleTimeout = func() time.Duration {
		if svc := ep.svc.Load(); svc != nil {
			return svc.profile.SessionTimeout
		}
		return time.Minute
	}
	return ep
}

// A toolServer is an MCP server that offers sandbox_exec and nothing else.
//
// The SDK has a sign of the tool only: it parses the schemas of each tool that
// is added, and again at calls, which with a hundred profiles takes longer than
// all else of a reload. It has no need to, as the checks are ours. What clients
// are shown is put in when they ask.
type toolServer struct {
	*mcp.Server
	call mcp.ToolHandler
	tool atomic.Pointer[mcp.Tool]
}

var sign = &mcp.Tool{Name: toolName, InputSchema: json.RawMessage(`{"type":"object"}`)}

func newServer(profile, version string, ids *sessionIDs, call mcp.ToolHandler, log *slog.Logger) *toolServer {
	s := &toolServer{call: call}
	s.Server = mcp.NewServer(&mcp.Implementation{Name: "kilntainers", Title: "Kilntainers: " + profile, Version: version}, &mcp.ServerOptions{
		Logger:       slog.New(demoted{log.Handler()}),
		GetSessionID: ids.get,
		Capabilities: &mcp.ServerCapabilities{Tools: &mcp.ToolCapabilities{ListChanged: true}},
	})
	s.AddReceivingMiddleware(onlyTools, s.list, recoverPanics(log))
	s.AddTool(sign, s.call)
	return s
}

// list puts the tool in the place of its sign.
func (s *toolServer) list(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
		res, err := next(ctx, method, req)
		if list, ok := res.(*mcp.ListToolsResult); ok && err == nil {
			for i := range list.Tools {
				list.Tools[i] = s.tool.Load()
			}
		}
		return res, err
	}
}

// show makes t what clients are shown, and reports whether it is another tool
// than before. Then they must be told.
func (s *toolServer) show(t *mcp.Tool) (changed bool) {
	return !reflect.DeepEqual(s.tool.Swap(t), t)
}

// digest tells tools apart across a restart.
func (s *toolServer) digest() string {
	b, err := json.Marshal(s.tool.Load())
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// tell tells every client that the tool is another one now; the SDK does when
// a tool is added.
func (s *toolServer) tell() {
	for range s.Sessions() {
		s.AddTool(sign, s.call)
		return
	}
}

// demoted makes what the SDK thinks worth telling a debug message: that a
// client came or went is not news here.
type demoted struct{ slog.Handler }

func (d demoted) Enabled(ctx context.Context, l slog.Level) bool {
	return d.Handler.Enabled(ctx, demote(l))
}

func (d demoted) Handle(ctx context.Context, r slog.Record) error {
	r.Level = demote(r.Level)
	return d.Handler.Handle(ctx, r)
}

func (d demoted) WithAttrs(a []slog.Attr) slog.Handler { return demoted{d.Handler.WithAttrs(a)} }
func (d demoted) WithGroup(name string) slog.Handler   { return demoted{d.Handler.WithGroup(name)} }

// demote keeps errors of the SDK as warnings: most are a client's.
func demote(l slog.Level) slog.Level {
	if l >= slog.LevelError {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// onlyTools answers "method not found" for what the server does not offer;
// the SDK by itself answers with empty lists.
func onlyTools(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
		for _, prefix := range []string{"prompts/", "resources/", "completion/", "logging/"} {
			if strings.HasPrefix(method, prefix) {
				return nil, &jsonrpc.Error{Code: jsonrpc.CodeMethodNotFound, Message: "method not found: " + method}
			}
		}
		return next(ctx, method, req)
	}
}

// recoverPanics makes a bug in one call an error of that call: the SDK lets
// it end the daemon.
func recoverPanics(log *slog.Logger) mcp.Middleware {
	return func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (res mcp.Result, err error) {
			defer func() {
				if v := recover(); v != nil {
					log.Error("panic in a request; this is a bug", "method", method, "panic", v, "stack", stack())
					res, err = nil, &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "internal error; see the daemon's log"}
				}
			}()
			return next(ctx, method, req)
		}
	}
}

// put puts a version of the profile in service, or takes it out of service
// (nil), and returns the one before. Clients are told when the tool changed.
// Running calls are not disturbed.
func (ep *endpoint) put(svc *service) (old *service) {
	var changed []*toolServer
	if svc != nil {
		if ep.bound.show(tool(svc.profile, svc.spec, svc.profile.Binding == profiles.BindingHandle)) {
			changed = append(changed, ep.bound)
		}
		if ep.handle.show(tool(svc.profile, svc.spec, true)) {
			changed = append(changed, ep.handle)
		}
	}
	ep.mu.Lock()
	old = ep.svc.Swap(svc)
	boxes := make([]*session, 0, len(ep.sessions))
	for _, s := range ep.sessions {
		boxes = append(boxes, s)
	}
	ep.mu.Unlock()

	if svc != nil {
		svc.opened.backend.Resize(svc.profile.Pool)
	}
	for _, s := range changed {
		s.tell()
	}
	for _, s := range boxes { // other limits may hold now
		s.mu.Lock()
		if s.box != nil {
			s.box.poke()
		}
		s.mu.Unlock()
	}
	if old != nil {
		if svc == nil || svc.opened != old.opened {
			old.opened.backend.Resize(0) // a living sandbox may keep it open, the warm ones must not
		}
		old.opened.release()
	}
	return old
}

// open returns the backend for one more sandbox, retained.
func (ep *endpoint) open() (*opened, error) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	svc := ep.svc.Load()
	if svc == nil {
		return nil, ep.removed()
	}
	return svc.opened.retain(), nil // put swaps under the same lock, so this one is still open
}

func (ep *endpoint) removed() error {
	return refuse("The profile %q is no longer in the daemon's configuration.", ep.name)
}

// serverFor picks the server of an HTTP request without an MCP session.
func (ep *endpoint) serverFor(r *http.Request) *mcp.Server {
	if r.Header.Get(sandboxHeader) != "" {
		return ep.bound.Server
	}
	return ep.handle.Server
}

// handler is sandbox_exec behind one of the two servers.
func (ep *endpoint) handler(handle bool) mcp.ToolHandler {
	return func(ctx context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if ep.table.closed(req) || !ep.table.gate.enter() {
			return failure("The sandbox daemon is stopping. Nothing was run; try again in a moment."), nil
		}
		defer ep.table.gate.leave()
		return ep.call(ctx, req, handle)
	}
}

// call is one sandbox_exec from its arguments to its answer.
func (ep *endpoint) call(ctx context.Context, req *mcp.CallToolRequest, handle bool) (*mcp.CallToolResult, error) {
	svc := ep.svc.Load()
	if svc == nil {
		return failure("%v", ep.removed()), nil
	}
	from := callerOf(req.Extra)
	if from != nil {
		from = ep.table.access.still(from)
	}
	if from == nil || !from.may(ep.name, svc.allow) {
		return failure("You may no longer use the profile %q.", ep.name), nil
	}
	shim, _ := req.Extra.TokenInfo.Extra[extraShim].(*session)
	handle = handle || svc.profile.Binding == profiles.BindingHandle && (shim == nil || !shim.byItself)
	in, err := parseInput(req.Params.Arguments, svc.profile, handle)
	if err != nil {
		return failure("%v", err), nil
	}
	s, err := ep.sessionFor(from, req, in, handle)
	if err != nil {
		return failure("%v", err), nil
	}
	if s.key.kind == byHeader {
		// The sandbox outlives the client's MCP session; what runs in it does not.
		var done context.CancelFunc
		ctx, done = ep.http.within(ctx, req.Session.ID())
		defer done()
	}
	unnamed := s.key.kind == byHandle && in.sandboxID == "" // nobody knows its handle before the answer
	b, lost, err := s.acquire(ctx, progressTo(ctx, req))
	if err != nil {
		if unnamed {
			ep.endSession(s.key, "the call that asked for it ended")
		}
		return ep.acquireFailed(ctx, s, err)
	}
	began := time.Now()
	out, err := execute(ctx, b.sb, in, svc.profile)
	s.release(b)
	ep.metrics.executed(time.Since(began), out, err)
	if err != nil && unnamed && !errors.Is(err, backends.ErrGone) {
		ep.endSession(s.key, "the call that asked for it ended")
	}
	switch {
	case errors.Is(err, backends.ErrGone) && b.why(err) == leftForNext:
		return failure(restartedText), nil
	case errors.Is(err, backends.ErrGone):
		reason := b.why(err)
		s.forget(b, reason) // the next call may be quicker than the keeper
		return failure("%s", diedText(reason, s.key.kind == byHandle)), nil
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		ep.log.Error("cannot run command", "sandbox", b.sb.ID(), "error", err)
		if unnamed {
			return failure("The command could not be run: %v. Its sandbox, which was new, is gone.", err), nil
		}
		return failure("The command could not be run: %v. The sandbox still works; its files are kept.", err), nil
	}
	if unnamed {
		out.SandboxID = s.key.value
		out.Notice = "This is a new sandbox. Pass this sandbox_id in later calls to keep its files and processes."
	}
	if lost != "" {
		out.Notice = fmt.Sprintf("This is a new sandbox: the earlier one is gone because %s. Its files and processes are lost.", lost)
	}
	return out.result(svc.profile.Result), nil
}

// acquireFailed words why a call got no sandbox.
func (ep *endpoint) acquireFailed(ctx context.Context, s *session, err error) (*mcp.CallToolResult, error) {
	var no refusal
	switch {
	case errors.As(err, &no):
		return failure("%v", err), nil
	case errors.Is(err, errSessionEnded) && s.key.kind == byHandle:
		return failure("%s", unknownHandle), nil
	case errors.Is(err, errSessionEnded):
		return failure(sessionEndedText), nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return failure("The sandbox could not be created: %v. Nothing was run; the next call tries again.", strings.TrimSuffix(err.Error(), ".")), nil
}

// diedText tells a model that its sandbox is gone.
func diedText(reason string, handle bool) string {
	next := "The next call gets a fresh sandbox."
	if handle {
		next = "Call " + toolName + " without sandbox_id to get a fresh sandbox."
	}
	return fmt.Sprintf("The sandbox died while this command ran, because %s. Its files and processes are gone. %s", reason, next)
}

// restartedText tells a model that its command was cut off by a restart.
const restartedText = "The sandbox daemon is being restarted and could not wait for this command. It was stopped; it may or may not have completed. Check before running it again."

const sessionEndedText = "The session has ended. Nothing was run."

// unknownHandle is the one answer to unknown, expired and foreign handles.
const unknownHandle = "There is no sandbox with this sandbox_id, or it has expired. Its files are gone. Call " + toolName + " without sandbox_id to get a new one."

// sandboxHeader names a sandbox by a name that the client chose.
const sandboxHeader = "Kilntainers-Sandbox"

// sessionFor finds the session of a call, first match wins: the sandbox_id
// argument, the header, the shim's connection, the MCP session, else a new
// one with a handle of its own.
func (ep *endpoint) sessionFor(from *caller, req *mcp.CallToolRequest, in input, handle bool) (*session, error) {
	if in.sandboxID != "" {
		ep.mu.Lock()
		defer ep.mu.Unlock()
		if s := ep.sessions[sessionKey{from.id, byHandle, in.sandboxID}]; s != nil {
			return s, nil
		}
		return nil, refusal(unknownHandle)
	}
	if handle {
		return ep.session(sessionKey{from.id, byHandle, rand.Text()}), nil
	}
	if name := req.Extra.Header.Get(sandboxHeader); name != "" {
		if len(name) > 256 {
			return nil, refuse("The %s header must have at most 256 characters.", sandboxHeader)
		}
		return ep.session(sessionKey{from.id, byHeader, name}), nil
	}
	if shim, ok := req.Extra.TokenInfo.Extra[extraShim].(*session); ok {
		return shim, nil
	}
	key := sessionKey{from.id, byMCP, req.Session.ID()}
	s := ep.session(key)
	if !ep.http.known(key.value) { // it ended before this call was read, and would not end again
		ep.endSession(key, "its MCP session ended")
		return nil, refusal(sessionEndedText)
	}
	return s, nil
}

// session returns the session of that key, making it if there is none.
func (ep *endpoint) session(key sessionKey) *session {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	s := ep.sessions[key]
	if s == nil {
		s = &session{ep: ep, key: key, created: time.Now()}
		ep.sessions[key] = s
	}
	return s
}

// drop takes an ended session out. The caller may hold the session's lock, so
// nobody takes a session's lock while holding the endpoint's.
func (ep *endpoint) drop(s *session) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if ep.sessions[s.key] == s {
		delete(ep.sessions, s.key)
	}
}

// endSession ends the session of that key, if there is one; see session.end.
func (ep *endpoint) endSession(key sessionKey, reason string) (gone <-chan struct{}) {
	ep.mu.Lock()
	s := ep.sessions[key]
	delete(ep.sessions, key)
	ep.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.end(reason)
}

func (ep *endpoint) list() []*session {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	ss := make([]*session, 0, len(ep.sessions))
	for _, s := range ep.sessions {
		ss = append(ss, s)
	}
	return ss
}

// connections lists the shims' connections.
func (ep *endpoint) connections() []*lineConn {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	return slices.Collect(maps.Keys(ep.shims))
}

// idle reports whether nobody is connected to the endpoint and nothing of it
// is left.
func (ep *endpoint) idle() bool {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	return len(ep.sessions) == 0 && len(ep.shims) == 0 && ep.http.count() == 0
}

// closeClients ends every MCP session, so that no stream keeps the HTTP
// server from stopping.
func (ep *endpoint) closeClients() {
	for _, srv := range []*toolServer{ep.bound, ep.handle} {
		for ss := range srv.Sessions() {
			_ = ss.Close()
		}
	}
}

// progressTo passes reports of a making on as MCP progress, where the client
// asked for it, at most four times a second.
func progressTo(ctx context.Context, req *mcp.CallToolRequest) func(backends.Progress) {
	token := req.Params.GetProgressToken()
	if token == nil {
		return func(backends.Progress) {}
	}
	var last time.Time
	var n float64
	return func(p backends.Progress) {
		if now := time.Now(); now.Sub(last) >= 250*time.Millisecond {
			last = now
		} else {
			return
		}
		// What MCP calls progress must grow with every notification, and
		// reports of several layers do not: number them, and say the bytes in words.
		n++
		message := p.Message
		if p.Total > 0 {
			message = fmt.Sprintf("%s (%s of %s)", p.Message, megabytes(p.Done), megabytes(p.Total))
		}
		_ = req.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: token, Progress: n, Message: message})
	}
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
