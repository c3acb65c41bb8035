package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends/backendtest"
)

// tcp is a configuration with a TCP listener and two tokens; %DIR%/a and
// %DIR%/b hold them.
const (
	secretA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	secretB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	tcp     = "[daemon]\nlisten = [\"unix:%DIR%/k.sock\", \"tcp:127.0.0.1:0\"]\n" +
		"[tokens.a]\nfile = \"%DIR%/a\"\nprofiles = [\"*\"]\n[tokens.b]\nfile = \"%DIR%/b\"\nprofiles = [\"other\"]\n" +
		onePython + "[profiles.other]\nbackend = \"fake\"\nallow = [\"token:a\"]\n"
)

// startTCP starts a daemon on TCP and returns its base URL.
func startTCP(t *testing.T, toml string) (*running, string) {
	t.Helper()
	fake := backendtest.NewFake(backendtest.InMemory)
	dir := t.TempDir()
	for name, secret := range map[string]string{"a": secretA, "b": secretB} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	toml = strings.NewReplacer("%DIR%/a\"", dir+"/a\"", "%DIR%/b\"", dir+"/b\"").Replace(toml)
	r := startWith(t, fake, toml)
	for _, a := range r.addrs {
		if addr, ok := strings.CutPrefix(a, "tcp:"); ok {
			return r, "http://" + addr
		}
	}
	t.Fatalf("no TCP listener in %v", r.addrs)
	return nil, ""
}

func bearer(secret string) http.Header {
	h := http.Header{}
	if secret != "" {
		h.Set("Authorization", "Bearer "+secret)
	}
	return h
}

func TestTokens(t *testing.T) {
	r, base := startTCP(t, tcp)
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	for name, c := range map[string]struct {
		secret, profile string
		want            int
	}{
		"none":                       {"", "python", 401},
		"wrong":                      {"wrong", "python", 401},
		"right":                      {secretA, "python", 200},
		"not for this profile":       {secretB, "python", 403},
		"not on the allow list":      {secretB, "other", 403},
		"on the allow list":          {secretA, "other", 200},
		"no such profile":            {secretA, "nope", 404},
		"no token, no such profile":  {"", "nope", 401},
		"a prefix is not enough":     {secretA[:20], "python", 401},
		"more than a token is wrong": {secretA + "a", "python", 401},
	} {
		h := &httpClient{running: r, url: base + "/mcp/" + c.profile, c: client, header: bearer(c.secret)}
		res, m := h.post(context.Background(), "tools/list", nil, true)
		if res.StatusCode != c.want {
			t.Errorf("%s: got %s %v, want %d", name, res.Status, m, c.want)
		}
		if remedy := "to add it to the token's profiles"; c.secret == secretB && c.profile == "python" && !strings.Contains(fmt.Sprint(m), remedy) {
			t.Errorf("%s: the remedy is not told: %v", name, m)
		}
		if c.want == 401 && res.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: 401 without WWW-Authenticate", name)
		}
	}
	if strings.Contains(r.log.String(), secretA) || strings.Contains(r.log.String(), secretB) {
		t.Error("a token is in the log")
	}
}

// A session or handle of one principal is nothing to another, and the answer
// does not tell that it exists.
func TestForeignKeys(t *testing.T) {
	r, base := startTCP(t, tcp)
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	mine := &httpClient{running: r, url: base + "/mcp/python", c: client, header: bearer(secretA)}
	unix := r.http("python") // another principal
	mine.initialize()
	mine.exec(false, map[string]any{"command": "echo secret > /f"})

	unix.session = mine.session
	foreign, _ := unix.post(context.Background(), "tools/list", nil, false)
	unix.session = "NOSUCHSESSION"
	unknown, _ := unix.post(context.Background(), "tools/list", nil, false)
	if foreign.StatusCode != 404 || unknown.StatusCode != 404 {
		t.Errorf("foreign %s, unknown %s, want 404 for both", foreign.Status, unknown.Status)
	}
	unix.session = ""
	h := mine.exec(true, map[string]any{"command": "id"})
	got := unix.exec(true, map[string]any{"command": "id", "sandbox_id": h.SandboxID})
	if want := unix.exec(true, map[string]any{"command": "id", "sandbox_id": "NOSUCH"}); !got.IsError || got.Text != want.Text {
		t.Errorf("foreign handle: %q, unknown: %q, want the same", got.Text, want.Text)
	}
	mine.header.Set(sandboxHeader, "shared-name")
	unix.header.Set(sandboxHeader, "shared-name")
	if a, b := mine.exec(true, map[string]any{"command": "id"}), unix.exec(true, map[string]any{"command": "id"}); a.Stdout == b.Stdout {
		t.Error("two principals share a sandbox by a name that both chose")
	}
}

func TestUnauthenticatedLoopback(t *testing.T) {
	r, base := startTCP(t, "[daemon]\nlisten = [\"unix:%DIR%/k.sock\", \"tcp:127.0.0.1:0\"]\nallow_unauthenticated_loopback = true\n"+onePython)
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	h := &httpClient{running: r, url: base + "/mcp/python", c: client, header: http.Header{}}
	if a := h.exec(true, map[string]any{"command": "echo hi"}); a.Stdout != "hi\n" {
		t.Errorf("got %+v", a)
	}
	h.header.Set("Origin", "http://evil.example")
	if res, _ := h.post(context.Background(), "tools/list", nil, true); res.StatusCode != 403 {
		t.Errorf("a foreign page got %s, want 403", res.Status)
	}
	h.header = bearer("a wrong token")
	if res, _ := h.post(context.Background(), "tools/list", nil, true); res.StatusCode != 401 {
		t.Errorf("a wrong token got %s, want 401", res.Status)
	}
}

// Only root and the daemon's own user may reload.
func TestReloadIsForOperators(t *testing.T) {
	_, base := startTCP(t, tcp)
	req, _ := http.NewRequest(http.MethodPost, base+"/-/reload", nil)
	req.Header = bearer(secretA)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("got %s, want 403", res.Status)
	}
}

func TestOperations(t *testing.T) {
	r := start(t, onePython)
	for path, want := range map[string]string{"/-/healthy": "ok\n", "/-/ready": "ready\n"} {
		if code, body := r.get(path); code != 200 || body != want {
			t.Errorf("%s: got %d %q, want %q", path, code, body, want)
		}
	}
	w := r.wire("python", "").legacy()
	w.sh("exit 3")
	w.sh("true")
	st := r.status()
	if len(st.Sandboxes) != 1 || st.Sandboxes[0].Profile != "python" || st.Sandboxes[0].Execs != 2 || st.Profiles[0].Sessions != 1 || st.Instance == "" || st.Boot == "" {
		t.Errorf("got %+v", st)
	}
	_, metrics := r.get("/-/metrics")
	for _, want := range []string{
		`kilntainers_execs_total{outcome="nonzero",profile="python"} 1`,
		`kilntainers_execs_total{outcome="ok",profile="python"} 1`,
		`kilntainers_sandboxes{profile="python"} 1`,
		`kilntainers_config_last_reload_successful 1`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("%s is missing in %s", want, metrics)
		}
	}
	res, err := r.client().Post("http://k/-/check", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); !strings.Contains(string(body), `"ok": true`) {
		t.Errorf("check: got %s", body)
	}
	if code, _ := r.get("/nope"); code != 404 {
		t.Errorf("got %d, want 404", code)
	}
}

// What the shim is told when it is refused is one line for people.
func TestShimRefused(t *testing.T) {
	r := start(t, onePython+"[profiles.closed]\nbackend = \"fake\"\nallow = [\"nobody\"]\n")
	_, _, res := r.dialShim("nope", "")
	b, _ := io.ReadAll(res.Body)
	if res.StatusCode != 404 || string(b) != "unknown profile \"nope\"; this daemon has: closed, python\n" && os.Getuid() == 0 {
		t.Errorf("got %s %q", res.Status, b)
	}
	if code, body := r.get("/stdio/python"); code != http.StatusUpgradeRequired || !strings.Contains(body, "kilntainers-stdio") {
		t.Errorf("got %d %q", code, body)
	}
}

// Half-open, garbled and huge input costs one connection at most.
func TestHostileLines(t *testing.T) {
	r := start(t, onePython)
	w := r.wire("python", "").legacy()
	for line, code := range map[string]string{
		"{garbled": "-32700", `["a","batch"]`: "-32600", `{"jsonrpc":"2.0"}`: "-32600", `7`: "-32600", "\x00\xff": "-32700",
	} {
		w.send(line)
		if m := w.next(); !strings.Contains(fmt.Sprint(m["error"]), code) {
			t.Errorf("%q: got %v, want %s", line, m, code)
		}
	}
	w.send("")
	w.send("\r")
	if a := w.sh("echo hi"); a.Stdout != "hi\n" {
		t.Errorf("got %+v, want the session to go on", a)
	}
	big := r.wire("python", "").legacy()
	if a := big.exec(map[string]any{"command": "cat", "stdin": strings.Repeat("\n", 2<<20)}); len(a.Stdout) != 2<<20 {
		t.Errorf("got %d bytes, exit %d", len(a.Stdout), a.ExitCode)
	}
	flood := r.wire("python", "")
	chunk := strings.Repeat("x", 1<<20)
	for range 20 {
		if _, err := io.WriteString(flood.Conn, chunk); err != nil {
			break
		}
	}
	_ = flood.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadAll(flood.Conn); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error("a line without end is read for ever")
	}
	if a := w.sh("echo hi"); a.Stdout != "hi\n" {
		t.Errorf("got %+v, want other sessions undisturbed", a)
	}
}

// A message may come in pieces. Half of one is none, however much of it came.
func TestHalfMessages(t *testing.T) {
	r := start(t, onePython)
	const call = `{"jsonrpc":"2.0","id":"pieces","method":"tools/call","params":{"name":"sandbox_exec","arguments":{"command":"echo hi"}}}` + "\n"
	half := r.wire("python", "").legacy()
	if _, err := io.WriteString(half.Conn, strings.TrimSuffix(call, "\n")); err != nil {
		t.Fatal(err)
	}
	if err := half.Conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if half.lines.Scan() {
		t.Errorf("half a line was answered with %s", half.lines.Text())
	}
	body, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	fmt.Fprintf(body, "POST /mcp/python HTTP/1.1\r\nHost: k\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMcp-Protocol-Version: %s\r\nMcp-Method: tools/call\r\nMcp-Name: sandbox_exec\r\nContent-Length: %d\r\n\r\n%s", modern, len(call), call[:len(call)-2])
	if err := body.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, _ := io.ReadAll(body); strings.Contains(string(answer), " 200 ") {
		t.Errorf("half a body was answered with %s", answer)
	}
	if n := r.fake.Created(); n != 0 {
		t.Errorf("half a call made %d sandboxes", n)
	}
	whole := r.wire("python", "").legacy()
	for i := range len(call) {
		if _, err := io.WriteString(whole.Conn, call[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if m := whole.next(); m["id"] != "pieces" || m["result"] == nil {
		t.Errorf("got %v, want the call to run", m)
	}
}

// More than a request may have is refused, in both eras.
func TestHugeBody(t *testing.T) {
	r := start(t, onePython)
	huge := map[string]any{"name": "sandbox_exec", "arguments": map[string]any{"command": "true", "stdin": strings.Repeat("x", maxBody)}}
	legacy := r.http("python").initialize()
	for what, h := range map[string]*httpClient{"in a session": legacy, "without one": r.http("python")} {
		if res, m := h.post(context.Background(), "tools/call", maps.Clone(huge), h != legacy); res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: got %s %.200v, want 413", what, res.Status, m)
		}
	}
	if n := r.fake.Created(); n != 0 {
		t.Errorf("a refused call made %d sandboxes", n)
	}
	if a := legacy.exec(false, map[string]any{"command": "echo hi"}); a.Stdout != "hi\n" {
		t.Errorf("got %+v, want the session to go on", a)
	}
}

// A client that asks and does not read holds up nobody but itself, and nothing
// is left of its calls once it goes.
func TestClientReadsNothing(t *testing.T) {
	r := start(t, onePython)
	other, deaf := r.wire("python", "").legacy(), r.wire("python", "").legacy()
	args, _ := json.Marshal(map[string]any{"command": "cat", "stdin": strings.Repeat("x", 1<<20)})
	for i := range 8 {
		deaf.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"sandbox_exec","arguments":%s}}`, 100+i, args))
	}
	eventually(t, "the calls have run", func() bool {
		st := r.status()
		return len(st.Sandboxes) == 1 && st.Sandboxes[0].Execs == 8 && st.Sandboxes[0].Running == 0
	})
	for range 20 {
		if a := other.sh("echo hi"); a.Stdout != "hi\n" {
			t.Fatalf("got %+v, want others undisturbed", a)
		}
	}
	_ = deaf.Close()
	eventually(t, "its sandbox is gone", func() bool { return r.fake.Live() == 1 })
}

// A client that says nothing is dropped, and so is one that stops in the
// middle of its greeting.
func TestSlowHello(t *testing.T) {
	r := start(t, onePython)
	for _, hello := range []string{"", "GET /stdio/py"} {
		c, err := net.Dial("unix", r.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, hello)
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("after %q: %v, want the daemon to hang up", hello, err)
		}
	}
}

// 2 MiB of stdin pass, however JSON escapes them.
func TestStdinOverHTTP(t *testing.T) {
	r := start(t, onePython+"output_limit = \"3m\"\n")
	h := r.http("python")
	h.header.Set(sandboxHeader, "one")
	for name, char := range map[string]string{"plain": "x", "newlines": "\n", "controls": "\x01"} {
		a := h.exec(true, map[string]any{"command": "cat > /" + name + "; echo stored", "stdin": strings.Repeat(char, 2<<20)})
		if a.Stdout != "stored\n" {
			t.Errorf("%s: got %+v", name, a)
		}
	}
	if a := h.exec(true, map[string]any{"command": "cat /plain"}); len(a.Stdout) != 2<<20 {
		t.Errorf("got %d bytes back, want all", len(a.Stdout))
	}
}

// Sockets of a killed daemon are replaced; those of a living one are not.
func TestSockets(t *testing.T) {
	r := start(t, onePython)
	if info, err := os.Stat(r.socket); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("got %v %v, want mode 0660", info.Mode(), err)
	}
	if _, err := listenUnix(context.Background(), r.socket); err == nil || !strings.Contains(err.Error(), "another daemon answers") {
		t.Errorf("got %v", err)
	}
	dir := t.TempDir()
	stale := filepath.Join(dir, "s.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	again, err := listenUnix(context.Background(), stale)
	if err != nil {
		t.Fatalf("a stale socket is in the way: %v", err)
	}
	_ = again.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(context.Background(), file); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("got %v, want a file to be left alone", err)
	}
}

// Two daemons on one state directory: the second says so.
func TestStateDirIsLocked(t *testing.T) {
	dir := t.TempDir()
	a, unlock, err := claim(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := claim(dir); err == nil || !strings.Contains(err.Error(), "another daemon uses the state directory") {
		t.Errorf("got %v", err)
	}
	unlock()
	b, unlock, err := claim(dir)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if a.Instance != b.Instance || a.Boot == b.Boot || a.Instance == "" {
		t.Errorf("got %+v then %+v, want one instance and two boots", a, b)
	}
}

// One socket for each profile, where it is asked for: it leads to that
// profile alone, and comes and goes with it.
func TestProfileSockets(t *testing.T) {
	other := "[profiles.other]\nbackend = \"fake\"\n"
	r := start(t, "[daemon]\nprofile_sockets = true\n"+onePython+other)
	dir := filepath.Join(filepath.Dir(r.socket), "profiles")
	main := r.socket
	r.socket = filepath.Join(dir, "python.sock")
	if a := r.wire("python", "").legacy().sh("echo hi"); a.Stdout != "hi\n" {
		t.Errorf("got %+v", a)
	}
	if code, body := r.get("/mcp/other"); code != 404 || !strings.Contains(body, "this daemon has: python\n") {
		t.Errorf("got %d %q, want nothing of another profile", code, body)
	}
	r.socket = main
	r.reload("[daemon]\nprofile_sockets = true\n" + other + "[profiles.fresh]\nbackend = \"fake\"\n")
	if _, err := os.Stat(filepath.Join(dir, "python.sock")); !os.IsNotExist(err) {
		t.Errorf("the socket of a removed profile: %v", err)
	}
	r.socket = filepath.Join(dir, "fresh.sock")
	if a := r.wire("fresh", "").legacy().sh("echo hi"); a.Stdout != "hi\n" {
		t.Errorf("got %+v", a)
	}
	r.socket = main
	r.shutdown()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("sockets left: %v", left)
	}
}

// However a client words its initialize, the session that it opens is one that
// ends when nobody uses it.
func TestEverySessionEnds(t *testing.T) {
	r := start(t, onePython+"session_timeout = 1\n")
	for _, body := range []string{
		`[{"jsonrpc":"2.0","id":1,"method":"initialize","params":%s}]`,
		`{"Params":[1],"jsonrpc":"2.0","id":1,"method":"initialize","params":%s}`,
	} {
		body = fmt.Sprintf(body, `{"protocolVersion":"2025-03-26","capabilities":{},"clientInfo":{"name":"x","version":"1"}}`)
		req, err := http.NewRequest(http.MethodPost, "http://k/mcp/python", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json, text/event-stream")
		res, err := r.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		id := res.Header.Get(sessionHeader)
		if id == "" {
			continue // refused: then there is no session
		}
		sessions := func() int { return r.status().Profiles[0].Sessions }
		if n := sessions(); n != 1 {
			t.Errorf("%s: %d sessions are known", body, n)
		}
		eventually(t, "the session ends", func() bool { return sessions() == 0 })
	}
}

// A call that is read after its session was deleted gets nothing, least of all
// a sandbox that nobody ends.
func TestCallAfterDelete(t *testing.T) {
	r := start(t, onePython)
	h := r.http("python").initialize()
	body, write := io.Pipe()
	post, err := http.NewRequest(http.MethodPost, h.url, body)
	if err != nil {
		t.Fatal(err)
	}
	post.Header.Set("Content-Type", "application/json")
	post.Header.Set("Accept", "application/json, text/event-stream")
	post.Header.Set(sessionHeader, h.session)
	answered := make(chan string)
	go func() {
		res, err := r.client().Do(post)
		if err != nil {
			answered <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		answered <- string(b)
	}()
	fmt.Fprint(write, `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"sandbox_exec",`)
	eventually(t, "the call has come", func() bool { return r.status().Profiles[0].Sessions == 1 })
	deleted := make(chan error)
	go func() {
		del, err := http.NewRequest(http.MethodDelete, h.url, nil)
		if err == nil {
			del.Header.Set(sessionHeader, h.session)
			var res *http.Response
			if res, err = r.client().Do(del); err == nil {
				err = res.Body.Close()
			}
		}
		deleted <- err
	}()
	eventually(t, "the session is deleted", func() bool { return r.status().Profiles[0].Sessions == 0 })
	fmt.Fprint(write, `"arguments":{"command":"id"}}}`)
	_ = write.Close()
	if got := <-answered; strings.Contains(got, "exit_code") {
		t.Errorf("the call got %s", got)
	}
	if err := <-deleted; err != nil {
		t.Error(err)
	}
	if n := r.fake.Created(); n != 0 {
		t.Errorf("%d sandboxes were made", n)
	}
}

// A token that is taken away or changed opens nothing any more, on a
// connection that it opened before neither; one that may do more does at once.
func TestTokenTakenAway(t *testing.T) {
	const profile = "[daemon]\nlisten = [\"unix:%DIR%/k.sock\", \"tcp:127.0.0.1:0\"]\n[profiles.p]\nbackend = \"fake\"\n"
	const a, b = "[tokens.a]\nfile = \"%DIR%/a\"\nprofiles = [\"*\"]\n", "[tokens.b]\nfile = \"%DIR%/b\"\nprofiles = [\"*\"]\n"
	r, base := startTCP(t, profile+a+b)
	text, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	conf := "[daemon]\n" + string(text[strings.Index(string(text), "listen ="):])
	addr := strings.TrimPrefix(base, "http://")
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /stdio/p HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: kilntainers-stdio/1\r\nAuthorization: Bearer %s\r\n\r\n", addr, secretA)
	br := bufio.NewReader(c)
	if res, err := http.ReadResponse(br, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res, err)
	}
	w := &wire{running: r, Conn: c, lines: bufio.NewScanner(br)}
	w.legacy()
	tokenA := conf[strings.Index(conf, "[tokens.a]"):strings.Index(conf, "[tokens.b]")]
	for _, step := range []struct {
		what, conf string
		may        bool
	}{
		{"as it was", conf, true},
		{"without the token", strings.Replace(conf, tokenA, "", 1), false},
		{"with the token again", conf, true},
		{"for another profile", strings.Replace(conf, tokenA, strings.Replace(tokenA, `"*"`, `"q"`, 1), 1) + "[profiles.q]\nbackend = \"fake\"\n", false},
		{"with another secret", strings.Replace(conf, tokenA, strings.Replace(tokenA, `/a"`, `/c"`, 1), 1), false},
	} {
		if strings.Contains(step.conf, `/c"`) {
			dir := filepath.Dir(strings.Split(tokenA, `"`)[1])
			if err := os.WriteFile(filepath.Join(dir, "c"), []byte(strings.Repeat("c", 48)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if res := r.reload(step.conf); !res.OK {
			t.Fatalf("%s: %+v", step.what, res)
		}
		if got := w.sh("id"); got.IsError == step.may {
			t.Errorf("%s: got %+v", step.what, got)
		}
	}
}
