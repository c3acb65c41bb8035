package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/backendtest"
)

const onePython = "[profiles.python]\nbackend = \"fake\"\n"

// The shim's connection is the session, in both eras.
func TestShimSession(t *testing.T) {
	r := start(t, onePython)
	w := r.wire("python", "").legacy()
	w.call("tools/list", nil)
	if n := r.fake.Created(); n != 0 {
		t.Fatalf("%d sandboxes before the first call, want none", n)
	}
	if a := w.sh("echo $((1)) > /tmp/f; id"); a.IsError || a.ExitCode != 0 {
		t.Fatalf("got %+v", a)
	}
	first := w.sh("id")
	if second := w.sh("id"); second.Stdout != first.Stdout || first.Stdout == "" {
		t.Errorf("two calls ran in %q and %q, want one sandbox", first.Stdout, second.Stdout)
	}
	if first.SandboxID != "" || first.Notice != "" {
		t.Errorf("got sandbox_id %q, notice %q, want neither on the shim", first.SandboxID, first.Notice)
	}
	other := r.wire("python", "").legacy()
	if a := other.sh("id"); a.Stdout == first.Stdout {
		t.Error("two connections share a sandbox")
	}
	_ = w.Close()
	eventually(t, "one sandbox left after its client went", func() bool { return r.fake.Live() == 1 })
	if a := other.sh("echo still"); a.Stdout != "still\n" {
		t.Errorf("got %+v, want the other session undisturbed", a)
	}
}

// Concurrent first calls make one sandbox, and each of them runs in it.
func TestFirstCallsAtOnce(t *testing.T) {
	r := start(t, onePython)
	r.fake.SetFaults(backendtest.Faults{CreateDelay: 50 * time.Millisecond})
	w := r.wire("python", "").legacy()
	const n = 8
	for i := range n {
		w.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":"c%d","method":"tools/call","params":{"name":"sandbox_exec","arguments":{"command":"id"}}}`, i))
	}
	seen := map[string]bool{}
	for range n {
		m := w.next()
		seen[fmt.Sprint(m["result"].(map[string]any)["structuredContent"].(map[string]any)["stdout"])] = true
	}
	if len(seen) != 1 || r.fake.Created() != 1 {
		t.Errorf("%d sandboxes made, calls saw %v, want one", r.fake.Created(), seen)
	}
}

// A creation that fails is told with its cause, and the next call tries again.
func TestCreateFails(t *testing.T) {
	r := start(t, onePython)
	r.fake.SetFaults(backendtest.Faults{Create: errors.New("no such image: nope:1"), CreateTimes: 1})
	w := r.wire("python", "").legacy()
	if a := w.sh("echo hi"); !a.IsError || !strings.Contains(a.Text, "no such image: nope:1") || !strings.Contains(a.Text, "next call tries again") {
		t.Errorf("got %+v, want the cause and what happens next", a)
	}
	if a := w.sh("echo hi"); a.IsError || a.Stdout != "hi\n" || a.Notice != "" {
		t.Errorf("got %+v, want the second call to work", a)
	}
}

// A sandbox that dies is told to the call that ran in it; the next one gets a
// fresh sandbox and is told so once.
func TestSandboxDies(t *testing.T) {
	r := start(t, onePython)
	w := r.wire("python", "").legacy()
	w.sh("true")
	go func() {
		for len(r.fake.Running()) == 0 {
			time.Sleep(time.Millisecond)
		}
		r.fake.Kill(r.fake.IDs()[0], "it ran out of memory (limit 1g)")
	}()
	a := w.sh("sleep 30")
	if !a.IsError || !strings.Contains(a.Text, "it ran out of memory (limit 1g)") || !strings.Contains(a.Text, "The next call gets a fresh sandbox") {
		t.Fatalf("got %+v, want the reason and what happens next", a)
	}
	if a := w.sh("echo hi"); a.Stdout != "hi\n" || !strings.Contains(a.Notice, "it ran out of memory (limit 1g)") {
		t.Errorf("got %+v, want a fresh sandbox and a notice", a)
	}
	if a := w.sh("echo hi"); a.Notice != "" {
		t.Errorf("got notice %q a second time", a.Notice)
	}
	// Between two calls: no error, only the notice.
	r.fake.Kill(r.fake.IDs()[0], "somebody removed its container")
	if a := w.sh("echo hi"); a.IsError || a.Stdout != "hi\n" || !strings.Contains(a.Notice, "somebody removed its container") {
		t.Errorf("got %+v, want a fresh sandbox and a notice", a)
	}
}

// An idle sandbox goes, the shim's connection stays. A running call is never
// idle.
func TestIdle(t *testing.T) {
	r := start(t, onePython+"session_timeout = 1\n")
	w := r.wire("python", "").legacy()
	if a := w.sh("sleep 1.5; echo done"); a.Stdout != "done\n" {
		t.Fatalf("got %+v, want a call longer than session_timeout to end", a)
	}
	eventually(t, "the idle sandbox is destroyed", func() bool { return r.fake.Live() == 0 })
	if a := w.sh("echo hi"); a.Stdout != "hi\n" || !strings.Contains(a.Notice, "it had been unused for 1s") {
		t.Errorf("got %+v, want a fresh sandbox and a notice", a)
	}
}

func TestMaxLifetime(t *testing.T) {
	r := start(t, onePython+"max_lifetime = 1\n")
	w := r.wire("python", "").legacy()
	if a := w.sh("sleep 30"); !a.IsError || !strings.Contains(a.Text, "it had reached its maximum lifetime of 1s") {
		t.Errorf("got %+v, want the lifetime to end the call", a)
	}
	if a := w.sh("echo hi"); a.Stdout != "hi\n" || a.Notice == "" {
		t.Errorf("got %+v, want a fresh sandbox and a notice", a)
	}
}

// After a timeout, an output limit and a cancel nothing of the command runs,
// and the sandbox stays.
func TestKills(t *testing.T) {
	r := start(t, onePython+"output_limit = 100000\n")
	w := r.wire("python", "").legacy()
	id := w.sh("id").Stdout
	nothingRuns := func(what string) {
		t.Helper()
		if p := r.fake.Running(); len(p) != 0 {
			t.Errorf("after %s these run: %v", what, p)
		}
		if got := w.sh("id").Stdout; got != id {
			t.Errorf("after %s: got sandbox %q, want %q", what, got, id)
		}
	}
	if a := w.exec(map[string]any{"command": "echo out; sleep 60", "timeout": 1}); a.IsError || a.ExitCode != 124 || a.Stdout != "" || a.Stderr != "[kilntainers: command timed out after 1s]" {
		t.Errorf("timeout: got %+v", a)
	}
	nothingRuns("a timeout")
	if a := w.sh("yes"); a.IsError || a.ExitCode != 1 || a.Stdout != "" ||
		a.Stderr != "[kilntainers: output limit exceeded (100000 bytes). Command terminated. No output returned. Re-run with head, tail, or grep to manage output size.]" {
		t.Errorf("output limit: got %+v", a)
	}
	nothingRuns("an output limit")
	w.send(`{"jsonrpc":"2.0","id":"slow","method":"tools/call","params":{"name":"sandbox_exec","arguments":{"command":"sleep 60"}}}`)
	eventually(t, "the command runs", func() bool { return len(r.fake.Running()) == 1 })
	w.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"slow"}}`)
	eventually(t, "the command is killed", func() bool { return len(r.fake.Running()) == 0 })
	nothingRuns("a cancel")
}

// on_limit = "truncate" shows what was seen.
func TestTruncate(t *testing.T) {
	r := start(t, onePython+"output_limit = 1000\non_limit = \"truncate\"\n")
	w := r.wire("python", "").legacy()
	a := w.exec(map[string]any{"command": "echo begin; sleep 60", "timeout": 1})
	if a.Stdout != "begin\n" || a.Stderr != "[kilntainers: command timed out after 1s]" || a.ExitCode != 124 {
		t.Errorf("timeout: got %+v", a)
	}
	a = w.sh("echo begin; yes")
	if !strings.HasPrefix(a.Stdout, "begin\ny\n") || !strings.Contains(a.Stdout, "bytes of stdout left out here]") || a.ExitCode != 1 || !strings.Contains(a.Stderr, "output limit exceeded (1000 bytes)") {
		t.Errorf("output limit: got %+v", a)
	}
	if len(a.Stdout) > 1100 {
		t.Errorf("%d bytes are shown with a limit of 1000", len(a.Stdout))
	}
}

func TestTextResult(t *testing.T) {
	r := start(t, onePython+"result = \"text\"\n")
	w := r.wire("python", "").legacy()
	a := w.sh("echo hi; exit 3")
	if !strings.HasPrefix(a.Text, "hi\n[exit code 3, ") || strings.Contains(a.raw, "structuredContent") {
		t.Errorf("got %s", a.raw)
	}
	tools := fmt.Sprint(w.call("tools/list", nil))
	if strings.Contains(tools, "outputSchema") {
		t.Error("a text tool declares an output schema, so clients would refuse its results")
	}
}

// Ceilings of the profile, of one user in it, and of the daemon.
func TestCeilings(t *testing.T) {
	for key, toml := range map[string]string{
		"max_sandboxes":                 onePython + "max_sandboxes = 1\n",
		"max_sandboxes_per_user":        onePython + "max_sandboxes_per_user = 1\n",
		"daemon.max_sandboxes":          "[daemon]\nmax_sandboxes = 1\n" + onePython,
		"daemon.max_sandboxes_per_user": "[daemon]\nmax_sandboxes_per_user = 1\n" + onePython,
	} {
		t.Run(key, func(t *testing.T) {
			r := start(t, toml)
			a, b := r.wire("python", "").legacy(), r.wire("python", "").legacy()
			if got := a.sh("echo hi"); got.IsError {
				t.Fatalf("got %+v", got)
			}
			if got := b.sh("echo hi"); !got.IsError || !strings.Contains(got.Text, "("+key+")") {
				t.Errorf("got %+v, want a refusal that names %s", got, key)
			}
			_ = a.Close()
			eventually(t, "room again", func() bool { return r.fake.Live() == 0 && r.status().Profiles[0].Sandboxes == 0 })
			if got := b.sh("echo hi"); got.Stdout != "hi\n" {
				t.Errorf("got %+v, want the freed place", got)
			}
		})
	}
}

// Warm sandboxes are kept only while there is room: they give way to those of
// another profile's sessions, and to nobody's when the daemon is full.
func TestWarmGivesWay(t *testing.T) {
	r := start(t, "[daemon]\nmax_sandboxes = 2\n"+onePython+"[profiles.warm]\nbackend = \"fake\"\npool = 2\n")
	warm := func() int {
		for _, p := range r.status().Profiles {
			if p.Name == "warm" {
				return p.Warm
			}
		}
		return -1
	}
	eventually(t, "two are warm", func() bool { return warm() == 2 })
	a, b := r.wire("python", "").legacy(), r.wire("python", "").legacy()
	if got := a.sh("echo hi"); got.IsError {
		t.Fatalf("got %+v, want room", got)
	}
	eventually(t, "one gave way", func() bool { return warm() == 1 && r.fake.Live() == 2 })
	if got := b.sh("echo hi"); got.IsError {
		t.Fatalf("got %+v, want room", got)
	}
	eventually(t, "both gave way", func() bool { return warm() == 0 && r.fake.Live() == 2 })
	if got := r.wire("warm", "").legacy().sh("echo hi"); !got.IsError || !strings.Contains(got.Text, "daemon.max_sandboxes") {
		t.Errorf("got %+v, want a full daemon", got)
	}
}

// Progress of a long creation reaches the calls that wait for it.
func TestCreateProgress(t *testing.T) {
	r := start(t, onePython)
	r.fake.SetFaults(backendtest.Faults{CreateDelay: 700 * time.Millisecond, Progress: []backends.Progress{
		{Message: "pulling debian", Done: 1_000_000, Total: 50_000_000}, {Message: "pulling debian", Done: 40_000_000, Total: 50_000_000},
	}})
	w := r.wire("python", "").legacy()
	w.send(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"sandbox_exec","arguments":{"command":"echo hi"},"_meta":{"progressToken":"p1"}}}`)
	var messages []string
	for {
		m := w.next()
		if m["id"] != nil {
			break
		}
		params := m["params"].(map[string]any)
		if m["method"] != "notifications/progress" || params["progressToken"] != "p1" {
			t.Errorf("got %v", m)
		}
		messages = append(messages, fmt.Sprint(params["message"]))
	}
	if len(messages) == 0 || !strings.Contains(messages[0], "pulling debian (1.0 MB of 50.0 MB)") {
		t.Errorf("got progress %q", messages)
	}
}

// A client that gives up while its sandbox is made does not stop the making:
// its next call wants it. When the client goes for good, nothing is left.
func TestCancelDuringCreate(t *testing.T) {
	r := start(t, onePython)
	r.fake.SetFaults(backendtest.Faults{CreateDelay: 300 * time.Millisecond})
	w := r.wire("python", "").legacy()
	w.send(`{"jsonrpc":"2.0","id":"slow","method":"tools/call","params":{"name":"sandbox_exec","arguments":{"command":"id"}}}`)
	w.call("ping", nil)
	w.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"slow"}}`)
	if a := w.sh("id"); a.IsError {
		t.Fatalf("got %+v", a)
	}
	if n := r.fake.Created(); n != 1 {
		t.Errorf("%d sandboxes made, want 1", n)
	}
	gone := r.wire("python", "").legacy()
	gone.send(`{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"sandbox_exec","arguments":{"command":"id"}}}`)
	gone.call("ping", nil)
	_ = gone.Close()
	time.Sleep(50 * time.Millisecond)
	eventually(t, "the other client's sandbox is not left", func() bool { return r.fake.Live() == 1 })
}

// HTTP sessions of the older revisions: one sandbox for each, DELETE kills
// running calls first, an idle session is answered 404.
func TestLegacyHTTP(t *testing.T) {
	r := start(t, onePython+"session_timeout = 2\n")
	a, b := r.http("python").initialize(), r.http("python").initialize()
	id := a.exec(false, map[string]any{"command": "id"})
	if again := a.exec(false, map[string]any{"command": "id"}); again.Stdout != id.Stdout || id.Stdout == "" || id.SandboxID != "" {
		t.Errorf("got %+v then %+v, want one sandbox and no handle", id, again)
	}
	if other := b.exec(false, map[string]any{"command": "id"}); other.Stdout == id.Stdout {
		t.Error("two sessions share a sandbox")
	}
	done := make(chan answer, 1)
	go func() {
		defer close(done)
		done <- a.exec(false, map[string]any{"command": "sleep 60"})
	}()
	eventually(t, "the command runs", func() bool { return len(r.fake.Running()) == 1 })
	began := time.Now()
	req, _ := http.NewRequest(http.MethodDelete, a.url, nil)
	req.Header.Set("Mcp-Session-Id", a.session)
	res, err := a.c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusNoContent || time.Since(began) > 20*time.Second {
		t.Errorf("DELETE: %s after %v", res.Status, time.Since(began))
	}
	if got := <-done; !got.IsError || !strings.Contains(got.Text, "its MCP session ended") {
		t.Errorf("the running call got %+v, want to be told", got)
	}
	if res, _ := a.post(context.Background(), "tools/list", nil, false); res.StatusCode != http.StatusNotFound {
		t.Errorf("after DELETE: %s, want 404", res.Status)
	}
	eventually(t, "the idle session is gone", func() bool { return r.status().Profiles[0].Sessions == 0 })
	if res, _ := b.post(context.Background(), "tools/list", nil, false); res.StatusCode != http.StatusNotFound {
		t.Errorf("after the idle timeout: %s, want 404", res.Status)
	}
	eventually(t, "no sandbox is left", func() bool { return r.fake.Live() == 0 })
}

// An open GET stream is a living client.
func TestStreamKeepsSession(t *testing.T) {
	r := start(t, onePython+"session_timeout = 1\n")
	h := r.http("python").initialize()
	req, _ := http.NewRequest(http.MethodGet, h.url, nil)
	req.Header.Set("Mcp-Session-Id", h.session)
	req.Header.Set("Accept", "text/event-stream")
	res, err := h.c.Do(req)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("GET: %v %v", res, err)
	}
	h.exec(false, map[string]any{"command": "true"})
	eventually(t, "the idle sandbox goes", func() bool { return r.fake.Live() == 0 })
	time.Sleep(1200 * time.Millisecond)
	if a := h.exec(false, map[string]any{"command": "echo hi"}); a.Stdout != "hi\n" || a.Notice == "" {
		t.Errorf("got %+v, want the session with a fresh sandbox and a notice", a)
	}
	_ = res.Body.Close()
	eventually(t, "the session ends after its stream", func() bool { return r.status().Profiles[0].Sessions == 0 })
}

// Revision 2026-07-28 over HTTP has no session: a handle ties calls together.
func TestModernHTTP(t *testing.T) {
	r := start(t, onePython)
	h := r.http("python")
	first := h.exec(true, map[string]any{"command": "id"})
	if first.SandboxID == "" || !strings.Contains(first.Notice, "sandbox_id") {
		t.Fatalf("got %+v, want a handle and a notice", first)
	}
	second := h.exec(true, map[string]any{"command": "id", "sandbox_id": first.SandboxID})
	if second.Stdout != first.Stdout || second.SandboxID != "" || second.Notice != "" {
		t.Errorf("got %+v, want the same sandbox without more words", second)
	}
	if other := h.exec(true, map[string]any{"command": "id"}); other.Stdout == first.Stdout || other.SandboxID == first.SandboxID {
		t.Errorf("got %+v, want another sandbox", other)
	}
	unknown := h.exec(true, map[string]any{"command": "id", "sandbox_id": "NOSUCH"})
	if !unknown.IsError || !strings.Contains(unknown.Text, "without sandbox_id") {
		t.Errorf("got %+v, want the remedy", unknown)
	}
	// Expired: the very same answer.
	for _, id := range r.fake.IDs() {
		r.fake.Kill(id, "test")
	}
	eventually(t, "the handles are gone", func() bool { return r.status().Profiles[0].Sessions == 0 })
	if expired := h.exec(true, map[string]any{"command": "id", "sandbox_id": first.SandboxID}); expired.Text != unknown.Text {
		t.Errorf("expired: got %q, unknown: %q, want the same", expired.Text, unknown.Text)
	}
	// A bad call makes nothing.
	n := r.fake.Created()
	h.exec(true, map[string]any{"command": "id", "args": []string{"id"}})
	if r.fake.Created() != n {
		t.Error("a refused call made a sandbox")
	}
}

// The header ties calls together in both eras, and then the tool has five
// arguments.
func TestHeaderSession(t *testing.T) {
	r := start(t, onePython)
	h, legacy, other := r.http("python"), r.http("python"), r.http("python")
	h.header.Set(sandboxHeader, "mine")
	legacy.header.Set(sandboxHeader, "mine")
	other.header.Set(sandboxHeader, "theirs")
	legacy.initialize()
	a := h.exec(true, map[string]any{"command": "id"})
	if a.SandboxID != "" || a.Notice != "" {
		t.Errorf("got %+v, want no handle", a)
	}
	if b := h.exec(true, map[string]any{"command": "id"}); b.Stdout != a.Stdout {
		t.Error("the header does not lead back to its sandbox")
	}
	if b := legacy.exec(false, map[string]any{"command": "id"}); b.Stdout != a.Stdout {
		t.Error("the header does not win over the session")
	}
	if b := other.exec(true, map[string]any{"command": "id"}); b.Stdout == a.Stdout {
		t.Error("two names share a sandbox")
	}
	_, list := h.post(context.Background(), "tools/list", nil, true)
	if strings.Contains(fmt.Sprint(list), "sandbox_id") {
		t.Error("sandbox_id is offered although the header ties calls together")
	}
	r.fake.Kill(strings.TrimSpace(a.Stdout), "test reasons")
	if b := h.exec(true, map[string]any{"command": "id"}); !strings.Contains(b.Notice, "test reasons") {
		t.Errorf("got %+v, want a notice", b)
	}
}

// binding = "handle": sandbox_id everywhere, and nothing else counts.
func TestBindingHandle(t *testing.T) {
	r := start(t, onePython+"binding = \"handle\"\n")
	w := r.wire("python", "").legacy()
	a := w.sh("id")
	if a.SandboxID == "" {
		t.Fatalf("got %+v, want a handle on the shim too", a)
	}
	if b := w.sh("id"); b.Stdout == a.Stdout {
		t.Error("the connection ties calls together")
	}
	if b := w.exec(map[string]any{"command": "id", "sandbox_id": a.SandboxID}); b.Stdout != a.Stdout {
		t.Error("the handle does not lead back")
	}
	if !strings.Contains(fmt.Sprint(w.call("tools/list", nil)), "sandbox_id") {
		t.Error("sandbox_id is not offered")
	}
	h := r.http("python").initialize()
	h.header.Set(sandboxHeader, "mine")
	if b, c := h.exec(false, map[string]any{"command": "id"}), h.exec(false, map[string]any{"command": "id"}); b.Stdout == c.Stdout || b.SandboxID == "" {
		t.Error("the header or the session ties calls together")
	}
}

// A shim that reconnects after a daemon's restart is told that its sandbox is
// gone.
func TestResumeAfterRestart(t *testing.T) {
	r := start(t, onePython)
	w := r.wire("python", "").legacy()
	w.sh("id")
	r.shutdown()
	if n := r.fake.Live(); n != 0 {
		t.Fatalf("%d sandboxes left after the stop", n)
	}
	r.launch()
	again := r.wire("python", w.token).legacy()
	if a := again.sh("echo hi"); a.Stdout != "hi\n" || !strings.Contains(a.Notice, "restarted") {
		t.Errorf("got %+v, want a notice", a)
	}
}

// Stopping with calls running: they get their grace or are killed and told,
// no sandbox is left, and it takes less than ten seconds.
func TestStopWithRunningCalls(t *testing.T) {
	r := start(t, onePython)
	var wg sync.WaitGroup
	texts := make([]answer, 4)
	for i := range texts {
		w := r.wire("python", "").legacy()
		wg.Go(func() { texts[i] = w.sh([]string{"sleep 0.5; echo done", "sleep 600"}[i%2]) })
	}
	eventually(t, "all run", func() bool { return len(r.fake.Running()) == len(texts) })
	began := time.Now()
	r.shutdown()
	wg.Wait()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the stop took %v", took)
	}
	for i, a := range texts {
		if short := i%2 == 0; short && a.Stdout != "done\n" || !short && (!a.IsError || !strings.Contains(a.Text, "the daemon is stopping")) {
			t.Errorf("call %d got %+v", i, a)
		}
	}
}

// A hammer: many clients that connect, call, cancel and leave. Nothing may be
// left, and -race must be silent.
func TestHammerSessions(t *testing.T) {
	r := start(t, onePython+"max_sandboxes = 12\nsession_timeout = 1\n[profiles.other]\nbackend = \"fake\"\n")
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for n := range 15 {
				switch (i + n) % 4 {
				case 0:
					w := r.wire("python", "").legacy()
					w.sh("echo hi")
					_ = w.Close()
				case 1:
					w := r.wire("other", "").legacy()
					w.send(`{"jsonrpc":"2.0","id":"s","method":"tools/call","params":{"name":"sandbox_exec","arguments":{"command":"sleep 5"}}}`)
					w.call("ping", nil)
					_ = w.Close()
				case 2:
					h := r.http("python")
					h.exec(true, map[string]any{"command": "id"})
				case 3:
					h := r.http("other").initialize()
					h.exec(false, map[string]any{"command": "echo hi"})
					req, _ := http.NewRequest(http.MethodDelete, h.url, nil)
					req.Header.Set("Mcp-Session-Id", h.session)
					if res, err := h.c.Do(req); err == nil {
						_ = res.Body.Close()
					}
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "everything is destroyed", func() bool { return r.fake.Live() == 0 })
}

// A client of the session-less revision that drops its request cancels the
// call: the command is killed, its sandbox stays.
func TestModernDisconnect(t *testing.T) {
	r := start(t, onePython)
	h := r.http("python")
	first := h.exec(true, map[string]any{"command": "id"})
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if res, err := h.do(ctx, "tools/call", map[string]any{"name": "sandbox_exec", "arguments": map[string]any{"command": "sleep 60", "sandbox_id": first.SandboxID}}, true); err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
	}()
	eventually(t, "the command runs", func() bool { return len(r.fake.Running()) == 1 })
	cancel()
	<-gone
	eventually(t, "the command is killed", func() bool { return len(r.fake.Running()) == 0 })
	if again := h.exec(true, map[string]any{"command": "id", "sandbox_id": first.SandboxID}); again.Stdout != first.Stdout {
		t.Errorf("got %+v, want the sandbox as it was", again)
	}
}

// A header's session that was left without a sandbox is forgotten some time,
// however it came to that.
func TestHeaderSessionIsForgotten(t *testing.T) {
	ep := &endpoint{sessions: map[sessionKey]*session{}}
	s := ep.session(sessionKey{"uid:1", byHeader, "mine"})
	s.loseLocked(restartedReason)
	if s.expiry == nil {
		t.Fatal("it is kept for ever")
	}
	s.expiry.Stop()
	if s.expire(); len(ep.sessions) != 0 {
		t.Error("it is still there")
	}
}

// A name that never led to a sandbox is soon forgotten, for there may be any
// number of them.
func TestFailedNamesAreForgotten(t *testing.T) {
	before := failedSessionLife
	failedSessionLife = 10 * time.Millisecond
	defer func() { failedSessionLife = before }()
	r := start(t, onePython+"max_sandboxes = 1\n")
	call := func(name string) answer {
		h := r.http("python")
		h.header.Set(sandboxHeader, name)
		return h.exec(true, map[string]any{"command": "id"})
	}
	r.fake.SetFaults(backendtest.Faults{Create: errors.New("the engine is away")})
	for i := range 5 {
		call(fmt.Sprint("away-", i))
	}
	r.fake.SetFaults(backendtest.Faults{})
	if a := call("mine"); a.IsError {
		t.Fatalf("got %+v", a)
	}
	for i := range 5 {
		if a := call(fmt.Sprint("full-", i)); !a.IsError {
			t.Errorf("got %+v", a)
		}
	}
	eventually(t, "only the one with a sandbox is known", func() bool { return r.status().Profiles[0].Sessions == 1 })
	if a := call("mine"); a.IsError || a.Notice != "" {
		t.Errorf("got %+v", a)
	}
}

// A command of a call by header ends with the MCP session that the call came
// by, at once by DELETE and by timeout if the client is lost. The sandbox stays,
// for the name is the client's.
func TestHeaderCallEndsWithMCPSession(t *testing.T) {
	r := start(t, onePython+"session_timeout = 2\n")
	for _, deleted := range []bool{true, false} {
		h := r.http("python").initialize()
		h.header.Set(sandboxHeader, "mine")
		h.exec(false, map[string]any{"command": "echo kept > f"})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan string, 1)
		go func() {
			res, err := h.do(ctx, "tools/call", map[string]any{"name": "sandbox_exec", "arguments": map[string]any{"command": "sleep 600", "timeout": 300}}, false)
			if err != nil {
				ended <- err.Error()
				return
			}
			defer res.Body.Close()
			b, _ := io.ReadAll(res.Body)
			ended <- string(b)
		}()
		eventually(t, "the command runs", func() bool { return len(r.fake.Running()) == 1 })
		if deleted {
			req, _ := http.NewRequest(http.MethodDelete, h.url, nil)
			req.Header.Set(sessionHeader, h.session)
			res, err := h.c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if got := <-ended; !strings.Contains(got, errSessionEnded.Error()) {
				t.Errorf("the call got %q, want to be told", got)
			}
		} else {
			cancel()
			<-ended
		}
		eventually(t, "the command is killed", func() bool { return len(r.fake.Running()) == 0 })
		cancel()
		again := r.http("python").initialize()
		again.header.Set(sandboxHeader, "mine")
		if a := again.exec(false, map[string]any{"command": "cat f"}); a.Stdout != "kept\n" {
			t.Errorf("got %+v, want the sandbox as it was", a)
		}
	}
}

// A call that ends before it could tell the handle of its new sandbox takes
// the sandbox with it.
func TestAbortedCallLeavesNoHandle(t *testing.T) {
	r := start(t, onePython+"max_sandboxes = 1\n")
	h := r.http("python")
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if res, err := h.do(ctx, "tools/call", map[string]any{"name": "sandbox_exec", "arguments": map[string]any{"command": "sleep 60"}}, true); err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
	}()
	eventually(t, "the command runs", func() bool { return len(r.fake.Running()) == 1 })
	cancel()
	<-gone
	eventually(t, "its sandbox is gone", func() bool { return r.fake.Live() == 0 })
	eventually(t, "there is room for another", func() bool { return !h.exec(true, map[string]any{"command": "id"}).IsError })
}

// A connection may ask for one sandbox that ends with it, in a profile that
// binds by handles too.
func TestConnectionWithoutHandles(t *testing.T) {
	r := start(t, onePython+"binding = \"handle\"\n")
	c, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(c, "GET /stdio/python HTTP/1.1\r\nHost: k\r\nConnection: Upgrade\r\nUpgrade: kilntainers-stdio/1\r\nKilntainers-Binding: connection\r\n\r\n")
	in := bufio.NewReader(c)
	if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res, err)
	}
	w := (&wire{running: r, Conn: c, lines: bufio.NewScanner(in)}).legacy()
	for range 2 {
		if a := w.sh("id"); a.Stdout != "fake-1\n" || a.SandboxID != "" || a.Notice != "" {
			t.Errorf("got %+v", a)
		}
	}
	_ = c.Close()
	eventually(t, "the sandbox ends with the connection", func() bool { return r.fake.Live() == 0 })
}
