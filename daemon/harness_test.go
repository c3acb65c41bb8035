package daemon

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/backendtest"
)

// A running is a whole daemon on its own socket, with a fake backend. When
// the test ends it is stopped, and nothing may be left.
type running struct {
	testing.TB
	fake   *backendtest.Fake
	config string // path of the main file
	socket string
	addrs  []string
	watch  func(context.Context, func() []string, func()) error
	adjust func(*Options) // before each launch
	log    *logBuffer
	stop   context.CancelFunc
	done   chan error
}

// start starts a daemon with the fake in memory. The configuration is what is
// given, after a [daemon] table that keeps it inside a temporary directory;
// %SOCKET% in it is the socket's directory.
func start(t testing.TB, toml string) *running {
	t.Helper()
	return startWith(t, backendtest.NewFake(backendtest.InMemory), toml)
}

func startWith(t testing.TB, fake *backendtest.Fake, toml string) *running {
	t.Helper()
	r := prepare(t, fake, toml)
	r.launch()
	return r
}

// noWatch is a watcher that sees nothing, so that tests reload when they want
// to.
func noWatch(ctx context.Context, _ func() []string, _ func()) error {
	<-ctx.Done()
	return nil
}

// prepare is startWith without the start.
func prepare(t testing.TB, fake *backendtest.Fake, toml string) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "kiln") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &running{TB: t, fake: fake, config: filepath.Join(dir, "k.toml"), socket: filepath.Join(dir, "k.sock"), log: &logBuffer{}, watch: noWatch}
	r.write(toml)
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		r.shutdown()
		if n := fake.Live(); n != 0 {
			t.Errorf("%d sandboxes are left: %v", n, fake.IDs())
		}
		if n := fake.Backends(); n != 0 {
			t.Errorf("%d backends are open", n)
		}
		settle(t, before)
	})
	return r
}

// launch runs the daemon on the files as they are.
func (r *running) launch() {
	r.Helper()
	r.begin()()
}

// begin is launch without waiting until the daemon is ready, which what it
// returns does.
func (r *running) begin() (ready func()) {
	r.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.stop, r.done = cancel, make(chan error, 1)
	addrs := make(chan []string, 1)
	o := Options{
		Config: r.config, Drivers: backends.Drivers{r.fake.Driver()}, Version: "test",
		Log:   slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Watch: r.watch,
		Ready: func(a []string) { addrs <- a },
	}
	if r.adjust != nil {
		r.adjust(&o)
	}
	go func() {
		r.done <- Run(ctx, o)
	}()
	return func() {
		r.Helper()
		select {
		case r.addrs = <-addrs:
		case err := <-r.done:
			cancel()
			r.Fatalf("the daemon did not start: %v\n%s", err, r.log)
		case <-time.After(30 * time.Second):
			cancel()
			r.Fatalf("the daemon hangs at its start\n%s", r.log)
		}
	}
}

// shutdown stops the daemon and waits for it; twice is fine.
func (r *running) shutdown() {
	r.Helper()
	r.stop()
	select {
	case err, open := <-r.done:
		if open {
			close(r.done)
		}
		if err != nil {
			r.Errorf("the daemon ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		r.Fatalf("the daemon does not stop\n%s", r.log)
	}
}

// settle waits until the goroutines of a test are gone, and shows them if not.
func settle(t testing.TB, before int) {
	t.Helper()
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	t.Errorf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
}

// write writes the configuration without telling the daemon.
func (r *running) write(toml string) {
	r.Helper()
	dir := filepath.Dir(r.config)
	toml = strings.ReplaceAll(toml, "%DIR%", dir)
	if !strings.Contains(toml, "[daemon]") {
		toml = "[daemon]\n" + toml
	}
	toml = strings.Replace(toml, "[daemon]\n", fmt.Sprintf("[daemon]\nstate_dir = %q\ncache_dir = %q\n", filepath.Join(dir, "state"), filepath.Join(dir, "cache")), 1)
	if !strings.Contains(toml, "listen =") {
		toml = strings.Replace(toml, "[daemon]\n", fmt.Sprintf("[daemon]\nlisten = [\"unix:%s\"]\n", r.socket), 1)
	}
	tmp := r.config + ".new"
	if err := os.WriteFile(tmp, []byte(toml), 0o600); err != nil {
		r.Fatal(err)
	}
	if err := os.Rename(tmp, r.config); err != nil {
		r.Fatal(err)
	}
}

// reload writes the configuration and asks for a reload.
func (r *running) reload(toml string) ReloadResult {
	r.Helper()
	r.write(toml)
	res, err := r.client().Post("http://k/-/reload", "", nil)
	if err != nil {
		r.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.Fatal(err)
	}
	var got ReloadResult
	if err := json.Unmarshal(body, &got); err != nil || bytes.Contains(body, []byte("null")) {
		r.Fatalf("%v in %s", err, body)
	}
	if got.OK != (res.StatusCode == http.StatusOK) {
		r.Errorf("status %d with %+v", res.StatusCode, got)
	}
	return got
}

// client speaks HTTP over the daemon's socket.
func (r *running) client() *http.Client {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", r.socket)
	}}
	r.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 5 * time.Minute}
}

// get asks one of the daemon's own addresses.
func (r *running) get(path string) (status int, body string) {
	r.Helper()
	res, err := r.client().Get("http://k" + path)
	if err != nil {
		r.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// status asks for what the daemon knows of itself.
func (r *running) status() (s Status) {
	r.Helper()
	_, body := r.get("/-/status")
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		r.Fatalf("%v in %s", err, body)
	}
	return s
}

// dialShim connects as kilntainers-stdio does and returns the connection
// after the upgrade, or the refusal.
func (r *running) dialShim(profile, resume string) (net.Conn, *bufio.Reader, *http.Response) {
	r.Helper()
	c, err := net.Dial("unix", r.socket)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = c.Close() })
	head := "GET /stdio/" + profile + " HTTP/1.1\r\nHost: kilntainers\r\nConnection: Upgrade\r\nUpgrade: kilntainers-stdio/1\r\n"
	if resume != "" {
		head += "Kilntainers-Resume: " + resume + "\r\n"
	}
	if _, err := io.WriteString(c, head+"\r\n"); err != nil {
		r.Fatal(err)
	}
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		r.Fatal(err)
	}
	return c, br, res
}

// A wire is a shim's connection with JSON-RPC on it, for tests that look at
// single messages.
type wire struct {
	*running
	net.Conn
	lines *bufio.Scanner
	token string
	id    int
}

func (r *running) wire(profile, resume string) *wire {
	r.Helper()
	c, br, res := r.dialShim(profile, resume)
	if res.StatusCode != http.StatusSwitchingProtocols {
		b, _ := io.ReadAll(res.Body)
		r.Fatalf("refused: %s: %s", res.Status, b)
	}
	sc := bufio.NewScanner(br)
	sc.Buffer(nil, 32<<20)
	return &wire{running: r, Conn: c, lines: sc, token: res.Header.Get("Kilntainers-Resume")}
}

// legacy opens the session as clients before 2026-07-28 do.
func (w *wire) legacy() *wire {
	w.Helper()
	w.call("initialize", map[string]any{"protocolVersion": "2025-06-18", "capabilities": map[string]any{}, "clientInfo": map[string]any{"name": "t", "version": "1"}})
	w.send(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	return w
}

func (w *wire) send(line string) {
	w.Helper()
	if _, err := io.WriteString(w.Conn, line+"\n"); err != nil {
		w.Fatal(err)
	}
}

// next returns the next message.
func (w *wire) next() map[string]any {
	w.Helper()
	_ = w.SetReadDeadline(time.Now().Add(30 * time.Second))
	if !w.lines.Scan() {
		w.Fatalf("no message: %v", w.lines.Err())
	}
	var m map[string]any
	if err := json.Unmarshal(w.lines.Bytes(), &m); err != nil {
		w.Fatalf("%v in %q", err, w.lines.Text())
	}
	return m
}

// call sends a request and returns its answer, skipping notifications.
func (w *wire) call(method string, params any) map[string]any {
	w.Helper()
	w.id++
	b, _ := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": w.id, "method": method, "params": params})
	w.send(string(b))
	for {
		if m := w.next(); m["id"] != nil && fmt.Sprint(m["id"]) == fmt.Sprint(w.id) {
			return m
		}
	}
}

// exec runs sandbox_exec and returns its structured answer.
func (w *wire) exec(args map[string]any) answer {
	w.Helper()
	m := w.call("tools/call", map[string]any{"name": "sandbox_exec", "arguments": args})
	res, ok := m["result"]
	if !ok {
		w.Fatalf("no result: %v", m)
	}
	b, _ := json.Marshal(res)
	return decodeAnswer(w, b)
}

// sh runs one shell command.
func (w *wire) sh(command string) answer {
	w.Helper()
	return w.exec(map[string]any{"command": command})
}

// An answer is a tool result as a model sees it.
type answer struct {
	IsError bool
	Text    string
	output
	raw string
}

func decodeAnswer(t testing.TB, b []byte) answer {
	t.Helper()
	var res mcp.CallToolResult
	if err := json.Unmarshal(b, &res); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	a := answer{IsError: res.IsError, raw: string(b)}
	if len(res.Content) > 0 {
		a.Text = res.Content[0].(*mcp.TextContent).Text
	}
	if res.StructuredContent != nil {
		raw, _ := json.Marshal(res.StructuredContent)
		if err := json.Unmarshal(raw, &a.output); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// An httpClient speaks MCP over HTTP, message by message.
type httpClient struct {
	*running
	url     string
	c       *http.Client
	session string
	header  http.Header
	id      int
}

func (r *running) http(profile string) *httpClient {
	return &httpClient{running: r, url: "http://k/mcp/" + profile, c: r.client(), header: http.Header{}}
}

// post sends one message and returns the response and, for a request, the
// message that answers it.
func (h *httpClient) post(ctx context.Context, method string, params map[string]any, modernEra bool) (*http.Response, map[string]any) {
	h.Helper()
	res, err := h.do(ctx, method, params, modernEra)
	if err != nil {
		h.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		h.Fatal(err)
	}
	for line := range bytes.Lines(body) {
		line = bytes.TrimSpace(bytes.TrimPrefix(line, []byte("data:")))
		var m map[string]any
		if json.Unmarshal(line, &m) == nil && m["id"] != nil {
			return res, m
		}
	}
	return res, map[string]any{"body": string(body)}
}

func (h *httpClient) do(ctx context.Context, method string, params map[string]any, modernEra bool) (*http.Response, error) {
	h.Helper()
	h.id++
	if params == nil {
		params = map[string]any{}
	}
	msg := map[string]any{"jsonrpc": "2.0", "method": method, "params": params}
	if !strings.HasPrefix(method, "notifications/") {
		msg["id"] = h.id
	}
	if modernEra {
		params["_meta"] = map[string]any{
			"io.modelcontextprotocol/protocolVersion":    modern,
			"io.modelcontextprotocol/clientCapabilities": map[string]any{},
		}
	}
	b, _ := json.Marshal(msg)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(b))
	if err != nil {
		h.Fatal(err)
	}
	for k, v := range h.header {
		req.Header[k] = v
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	switch {
	case modernEra:
		req.Header.Set("Mcp-Protocol-Version", modern)
		req.Header.Set("Mcp-Method", method)
		if name, ok := params["name"].(string); ok {
			req.Header.Set("Mcp-Name", name)
		}
	case h.session != "":
		req.Header.Set("Mcp-Session-Id", h.session)
		req.Header.Set("Mcp-Protocol-Version", "2025-06-18")
	}
	return h.c.Do(req)
}

// initialize opens a session of the older revisions.
func (h *httpClient) initialize() *httpClient {
	h.Helper()
	res, m := h.post(context.Background(), "initialize", map[string]any{"protocolVersion": "2025-06-18", "capabilities": map[string]any{}, "clientInfo": map[string]any{"name": "t", "version": "1"}}, false)
	if h.session = res.Header.Get("Mcp-Session-Id"); h.session == "" {
		h.Fatalf("no session: %s %v", res.Status, m)
	}
	h.post(context.Background(), "notifications/initialized", nil, false)
	return h
}

func (h *httpClient) exec(modernEra bool, args map[string]any) answer {
	h.Helper()
	res, m := h.post(context.Background(), "tools/call", map[string]any{"name": "sandbox_exec", "arguments": args}, modernEra)
	result, ok := m["result"]
	if !ok {
		h.Fatalf("no result: %s %v", res.Status, m)
	}
	b, _ := json.Marshal(result)
	return decodeAnswer(h, b)
}

// eventually waits for what must come true soon.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// A logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
