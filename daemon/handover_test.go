package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilntainers/kilntainers/backends/backendtest"
	"github.com/kilntainers/kilntainers/daemon/daemontest"
	"github.com/kilntainers/kilntainers/profiles"
)

// A managed daemon runs under something like systemd, which holds its socket
// and its fd store from one run to the next.
type managed struct {
	*running
	manager *daemontest.Manager
	stopped bool // and not restarted
}

// manage is startWith under a manager.
func manage(t *testing.T, fake *backendtest.Fake, toml string) *managed {
	t.Helper()
	r := prepare(t, fake, toml)
	m := &managed{running: r, manager: daemontest.NewManager(t, filepath.Dir(r.socket))}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	r.adjust = func(o *Options) {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		o.Inherited, o.Notify = append(m.manager.Files(), f), m.manager.Address
		o.Restarting = func(context.Context) bool { return !m.stopped }
	}
	t.Cleanup(func() { // before what prepare checks
		r.shutdown()
		m.manager.Forget("")
		eventually(t, "what systemd had kept ends with it", func() bool { return fake.Live() == 0 })
		l.Close()
	})
	r.launch()
	return m
}

// restart is systemctl restart.
func (m *managed) restart() {
	m.Helper()
	m.shutdown()
	m.launch()
}

func held() *backendtest.Fake {
	return backendtest.NewFake(backendtest.InMemory, backendtest.Held)
}

const oneProfile = "[profiles.p]\nbackend = \"fake\"\n"

// The client of a shim notices nothing: same connection, same sandbox.
func TestRestartKeepsShims(t *testing.T) {
	m := manage(t, held(), oneProfile)
	w := m.wire("p", "").legacy()
	w.sh("echo kept > f")
	idle := m.wire("p", "").legacy()
	for i := range 3 {
		m.restart()
		if a := w.sh("cat f"); a.Stdout != "kept\n" || a.Notice != "" {
			t.Errorf("after restart %d: %+v", i, a)
		}
		if a := idle.call("tools/list", nil); a["result"] == nil {
			t.Errorf("after restart %d the idle client got %v", i, a)
		}
	}
	if n := m.fake.Created(); n != 1 {
		t.Errorf("%d sandboxes were made, want 1", n)
	}
	if s := m.status(); len(s.Sandboxes) != 1 {
		t.Errorf("the status has %+v", s.Sandboxes)
	}
	_ = w.Conn.Close()
	eventually(t, "the sandbox ends with its client", func() bool { return m.fake.Live() == 0 })
	eventually(t, "systemd keeps nothing of it", func() bool { return len(m.manager.Names()) == 0 })
}

// A client that asks and does not read does not keep the daemon from stopping.
func TestStopWithClientThatReadsNothing(t *testing.T) {
	m := manage(t, held(), oneProfile)
	deaf := m.wire("p", "").legacy()
	args, _ := json.Marshal(map[string]any{"command": "cat", "stdin": strings.Repeat("x", 1<<20)})
	for i := range 8 {
		deaf.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"sandbox_exec","arguments":%s}}`, 100+i, args))
	}
	eventually(t, "the calls have run", func() bool {
		st := m.status()
		return len(st.Sandboxes) == 1 && st.Sandboxes[0].Execs == 8 && st.Sandboxes[0].Running == 0
	})
	m.restart()
}

// A daemon that is stopped as soon as it runs does not lose what it is just
// taking over: neither the sandbox nor what the client said first.
func TestRestartWhileAdopting(t *testing.T) {
	m := manage(t, held(), oneProfile)
	w := m.wire("p", "").legacy()
	w.sh("echo kept > f")
	m.fake.SetFaults(backendtest.Faults{CreateDelay: 100 * time.Millisecond})
	for range 10 {
		m.restart()
	}
	if a := w.sh("cat f"); a.Stdout != "kept\n" || a.Notice != "" {
		t.Errorf("got %+v", a)
	}
}

// What a client sends while there is no daemon is answered by the next one,
// and so is a line that two daemons have read half of.
func TestRestartLosesNoLine(t *testing.T) {
	m := manage(t, held(), oneProfile)
	w := m.wire("p", "").legacy()
	w.sh("echo kept > f")
	line := `{"jsonrpc":"2.0","id":%q,"method":"tools/call","params":{"name":"sandbox_exec","arguments":{"command":"cat f","stdin":"` + strings.Repeat("x", 100000) + `"}}}`
	first, second := fmt.Sprintf(line, "a"), fmt.Sprintf(line, "b")
	io.WriteString(w.Conn, first[:60000])
	time.Sleep(20 * time.Millisecond) // for the daemon to read it
	m.shutdown()
	io.WriteString(w.Conn, first[60000:]+"\n"+second+"\n"+first[:10])
	m.launch()
	io.WriteString(w.Conn, strings.Replace(first[10:], `"a"`, `"c"`, 1)+"\n")
	seen := map[any]bool{}
	for range 3 {
		msg := w.next()
		seen[msg["id"]] = true
		if b, _ := json.Marshal(msg["result"]); !strings.Contains(string(b), "kept") {
			t.Errorf("got %v", msg)
		}
	}
	if !seen["a"] || !seen["b"] || !seen["c"] {
		t.Errorf("answers to %v", seen)
	}
}

// A call that runs when the daemon stops is waited for; one that takes too
// long is cut off and told so, and its sandbox stays.
func TestRestartWaitsForCalls(t *testing.T) {
	m := manage(t, held(), oneProfile)
	quick, slow := m.wire("p", "").legacy(), m.wire("p", "").legacy()
	for _, w := range []*wire{quick, slow} {
		w.sh("echo kept > f")
	}
	send := func(w *wire, command string) {
		w.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":99,"method":"tools/call","params":{"name":"sandbox_exec","arguments":{"command":%q}}}`, command))
	}
	send(quick, "sleep 1; echo done")
	send(slow, "sleep 3600")
	eventually(t, "both run", func() bool { return len(m.fake.Running()) >= 2 })
	m.restart()
	if b, _ := json.Marshal(quick.next()); !strings.Contains(string(b), "done") {
		t.Errorf("the quick call got %s", b)
	}
	if b, _ := json.Marshal(slow.next()); !strings.Contains(string(b), "may or may not have completed") {
		t.Errorf("the slow call got %s", b)
	}
	for _, w := range []*wire{quick, slow} {
		if a := w.sh("cat f"); a.Stdout != "kept\n" {
			t.Errorf("after the restart: %+v", a)
		}
	}
	if r := m.fake.Running(); len(r) != 0 {
		t.Errorf("still running: %v", r)
	}
}

// A client of 2026-07-28 still hears of changes after a restart.
func TestRestartKeepsSubscriptions(t *testing.T) {
	m := manage(t, held(), oneProfile)
	w := m.wire("p", "")
	meta := `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	w.send(`{"jsonrpc":"2.0","id":"sub","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},` + meta + `}}`)
	if msg := w.next(); msg["method"] == nil {
		t.Fatalf("no subscription: %v", msg)
	}
	m.restart()
	if msg := w.next(); msg["method"] == nil { // that it is heard again
		t.Fatalf("no subscription: %v", msg)
	}
	eventually(t, "the subscription is told again", func() bool {
		m.reload(oneProfile + fmt.Sprintf("extended_tool_instruction = \"%d\"\n", time.Now().UnixNano()))
		_ = w.SetReadDeadline(time.Now().Add(5 * time.Second))
		for {
			if msg := w.next(); msg["method"] == "notifications/tools/list_changed" {
				return true
			}
		}
	})
}

// Whose tool changed together with the restart is told so, in its era's way,
// and nobody else is.
func TestRestartWithAnotherTool(t *testing.T) {
	m := manage(t, held(), oneProfile)
	old, modern, deaf := m.wire("p", "").legacy(), m.wire("p", ""), m.wire("p", "")
	meta := `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	modern.send(`{"jsonrpc":"2.0","id":"sub","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},` + meta + `}}`)
	modern.next()
	deaf.send(`{"jsonrpc":"2.0","id":"sub","method":"subscriptions/listen","params":{"notifications":{"promptsListChanged":true},` + meta + `}}`)
	deaf.next()
	const changed = "notifications/tools/list_changed " // not to those that subscribe later
	for turn, changes := range []bool{false, true, true, false} {
		if changes {
			m.write(oneProfile + fmt.Sprintf("extended_tool_instruction = \"%d\"\n", turn))
		}
		m.restart()
		for name, of := range map[string]struct {
			*wire
			news string
		}{
			"of before 2026-07-28": {old, changed + "<nil>"},
			"with a subscription":  {modern, changed + "map[_meta:map[io.modelcontextprotocol/subscriptionId:sub]]"},
			"without":              {deaf, ""},
		} {
			if !changes {
				of.news = ""
			}
			news, answered := "", false
			of.send(fmt.Sprintf(`{"jsonrpc":"2.0","id":"p%d","method":"tools/list","params":{%s}}`, turn, meta))
			for !answered || news == "" && of.news != "" { // in whatever order
				msg := of.next()
				answered = answered || msg["id"] == fmt.Sprint("p", turn)
				if said := fmt.Sprint(msg["method"], " ", msg["params"]); strings.HasPrefix(said, changed) {
					news += said
				}
			}
			if news != of.news {
				t.Errorf("turn %d: a client %s got %q, want %q", turn, name, news, of.news)
			}
		}
	}
}

// HTTP clients keep their sessions and sandboxes too, whatever ties them.
func TestRestartKeepsHTTP(t *testing.T) {
	m := manage(t, held(), oneProfile)
	session, named, handle := m.http("p").initialize(), m.http("p"), m.http("p")
	unused := m.http("p").initialize()
	session.exec(false, map[string]any{"command": "echo session > f"})
	named.header.Set("Kilntainers-Sandbox", "mine")
	named.exec(true, map[string]any{"command": "echo named > f"})
	id := handle.exec(true, map[string]any{"command": "echo handle > f"}).SandboxID
	for range 2 {
		m.restart()
		if a := session.exec(false, map[string]any{"command": "cat f"}); a.Stdout != "session\n" || a.Notice != "" {
			t.Errorf("session: %+v", a)
		}
		if a := named.exec(true, map[string]any{"command": "cat f"}); a.Stdout != "named\n" || a.Notice != "" {
			t.Errorf("named: %+v", a)
		}
		if a := handle.exec(true, map[string]any{"command": "cat f", "sandbox_id": id}); a.Stdout != "handle\n" {
			t.Errorf("handle: %+v", a)
		}
	}
	if a := unused.exec(false, map[string]any{"command": "echo x"}); a.Stdout != "x\n" || a.Notice != "" {
		t.Errorf("a session without a sandbox: %+v", a)
	}
	stranger := m.http("p")
	stranger.session = "MADEUP"
	if res, _ := stranger.post(t.Context(), "tools/list", nil, false); res.StatusCode != http.StatusNotFound {
		t.Errorf("a session that never was: %s", res.Status)
	}
}

// What cannot be kept comes back as a fresh sandbox, with a notice.
func TestRestartTellsOfLostSandboxes(t *testing.T) {
	fake := backendtest.NewFake(backendtest.InMemory)
	m := manage(t, fake, oneProfile)
	under := m.adjust
	m.adjust = func(o *Options) { under(o); o.Drivers[0].Features.Adopt = false }
	m.restart()
	shim, session, named := m.wire("p", "").legacy(), m.http("p").initialize(), m.http("p")
	named.header.Set("Kilntainers-Sandbox", "mine")
	shim.sh("echo x > f")
	session.exec(false, map[string]any{"command": "echo x > f"})
	named.exec(true, map[string]any{"command": "echo x > f"})
	m.restart()
	for who, a := range map[string]answer{
		"shim":    shim.sh("cat f"),
		"session": session.exec(false, map[string]any{"command": "cat f"}),
		"named":   named.exec(true, map[string]any{"command": "cat f"}),
	} {
		if a.ExitCode == 0 || !strings.Contains(a.Notice, "the sandbox daemon was restarted") {
			t.Errorf("%s: %+v", who, a)
		}
	}
	if a := shim.sh("true"); a.Notice != "" {
		t.Errorf("told twice: %+v", a)
	}
}

// Sandboxes without a channel are found by the state directory: over a
// restart, and not over a stop.
func TestRestartByStateDirectory(t *testing.T) {
	fake := backendtest.NewFake(backendtest.InMemory)
	r := prepare(t, fake, oneProfile)
	again := true
	r.adjust = func(o *Options) { o.Restarting = func(context.Context) bool { return again } }
	r.launch()
	named := r.http("p")
	named.header.Set("Kilntainers-Sandbox", "mine")
	named.exec(true, map[string]any{"command": "echo kept > f"})
	r.shutdown()
	if n := fake.Live(); n != 1 {
		t.Errorf("%d sandboxes after a stop for a restart, want 1", n)
	}
	r.launch()
	if a := named.exec(true, map[string]any{"command": "cat f"}); a.Stdout != "kept\n" || a.Notice != "" {
		t.Errorf("after the restart: %+v", a)
	}
	again = false
	r.shutdown()
	if n := fake.Live(); n != 0 {
		t.Errorf("%d sandboxes after a stop", n)
	}
	if left, _ := os.ReadDir(filepath.Join(filepath.Dir(r.config), "state", "sandboxes")); len(left) != 0 {
		t.Errorf("the state directory still has %v", left)
	}
	r.launch()
}

// After a crash there are the sandboxes' channels and no connections: the shim
// connects again and finds its sandbox by its token, and nobody else does.
func TestShimFindsItsSandbox(t *testing.T) {
	m := manage(t, held(), oneProfile)
	w := m.wire("p", "").legacy()
	w.sh("echo kept > f")
	m.shutdown()
	m.manager.Forget("shim-")
	m.launch()
	if a := m.wire("p", "WRONG").legacy().sh("cat f"); a.ExitCode == 0 || !strings.Contains(a.Notice, "restarted") {
		t.Errorf("with a wrong token: %+v", a)
	}
	again := m.wire("p", w.token).legacy()
	if a := again.sh("cat f"); a.Stdout != "kept\n" || a.Notice != "" {
		t.Errorf("with the token: %+v", a)
	}
	if a := m.wire("p", w.token).legacy().sh("cat f"); a.ExitCode == 0 {
		t.Errorf("the same token a second time, beside its owner: %+v", a)
	}
	if a := again.sh("cat f"); a.Stdout != "kept\n" {
		t.Errorf("the owner afterwards: %+v", a)
	}
}

// A profile's own socket waits for the next daemon too, and goes with its
// profile, whoever made it.
func TestRestartKeepsProfileSockets(t *testing.T) {
	const sockets = "[daemon]\nprofile_sockets = true\n"
	m := manage(t, held(), sockets+oneProfile+"[profiles.q]\nbackend = \"fake\"\n")
	main := m.socket
	path := func(name string) string { return filepath.Join(filepath.Dir(main), "profiles", name+".sock") }
	m.socket = path("q")
	for range 3 {
		m.shutdown()
		c, err := net.Dial("unix", m.socket)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, "GET /-/healthy HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n")
		m.launch()
		if answer, err := io.ReadAll(c); err != nil || !strings.Contains(string(answer), "200 OK") {
			t.Errorf("what waited in the socket got %q, %v", answer, err)
		}
		c.Close()
		if a := m.wire("q", "").legacy().sh("echo x"); a.Stdout != "x\n" {
			t.Errorf("got %+v", a)
		}
	}
	m.socket = main
	m.reload(sockets + oneProfile)
	if _, err := os.Stat(path("q")); !os.IsNotExist(err) {
		t.Errorf("the removed profile's socket: %v", err)
	}
	m.stopped = true
	m.shutdown()
	if _, err := os.Stat(path("p")); !os.IsNotExist(err) {
		t.Errorf("a socket after the stop: %v", err)
	}
	if strings.Contains(m.log.String(), "level=ERROR") {
		t.Errorf("errors in the log:\n%s", m.log)
	}
	m.launch()
}

// A profile's socket that was kept moves with the main one.
func TestKeptProfileSocketsMove(t *testing.T) {
	dir := t.TempDir()
	before, after := filepath.Join(dir, "a", "profiles", "p.sock"), filepath.Join(dir, "b", "profiles", "p.sock")
	open := func(path string) *listener {
		l, err := listenUnix(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	kept, main := open(before), open(filepath.Join(dir, "b", "k.sock"))
	defer main.remove()
	kept.only = "p"
	other := open(filepath.Join(dir, "c", "profiles", "q.sock")) // systemd's, for one profile
	defer other.remove()
	other.only = "q"
	s := newProfileSockets(profiles.Daemon{ProfileSockets: true}, []*listener{other, main}, []*listener{kept}, &http.Server{}, slog.New(slog.DiscardHandler))
	s.set(&profiles.Config{Profiles: map[string]*profiles.Profile{"p": {}}})
	if _, err := os.Stat(before); !os.IsNotExist(err) {
		t.Errorf("the socket in its old place: %v", err)
	}
	if c, err := net.Dial("unix", after); err != nil {
		t.Errorf("the socket in its new place: %v", err)
	} else {
		c.Close()
	}
	s.stopAccepting()
	s.close()
}

// If systemd has kept the clients and not their sandboxes, they are told.
func TestRestartWithoutTheSandboxes(t *testing.T) {
	m := manage(t, held(), oneProfile)
	shim, session := m.wire("p", "").legacy(), m.http("p").initialize()
	shim.sh("echo x > f")
	session.exec(false, map[string]any{"command": "echo x > f"})
	m.shutdown()
	m.manager.Forget("sandbox-")
	m.launch()
	for who, a := range map[string]answer{"shim": shim.sh("cat f"), "session": session.exec(false, map[string]any{"command": "cat f"})} {
		if a.ExitCode == 0 || !strings.Contains(a.Notice, "the sandbox daemon was restarted") {
			t.Errorf("%s: %+v", who, a)
		}
	}
}

// Nonsense in the fd store is thrown away.
func TestRestartWithNonsense(t *testing.T) {
	m := manage(t, held(), oneProfile)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	store := fdStore{m.manager.Address}
	mem, err := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	garbage := os.NewFile(uintptr(mem), "x")
	garbage.WriteString(`[{"profile":"p","kind":"connection","sandbox":`)
	if err := store.put("pipe", w); err != nil {
		t.Fatal(err)
	}
	if err := store.put("sandbox-x", garbage, w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	garbage.Close()
	if err := store.barrier(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	m.restart()
	eventually(t, "systemd was told to drop it", func() bool { return len(m.manager.Names()) == 0 })
	if n, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the pipe is open: %d, %v", n, err)
	}
	if a := m.wire("p", "").legacy().sh("echo x"); a.Stdout != "x\n" {
		t.Errorf("got %+v", a)
	}
}

// A profile that is gone takes its kept sandboxes and connections with it.
func TestRestartWithoutTheProfile(t *testing.T) {
	m := manage(t, held(), oneProfile+"[profiles.q]\nbackend = \"fake\"\n")
	w := m.wire("q", "").legacy()
	w.sh("echo x > f")
	m.write(oneProfile)
	m.restart()
	_ = w.SetReadDeadline(time.Now().Add(10 * time.Second))
	if w.lines.Scan() {
		t.Errorf("the connection still speaks: %s", w.lines.Text())
	}
	eventually(t, "the sandbox is gone", func() bool { return m.fake.Live() == 0 })
}

// Ten restarts under load: every request is answered, and well.
func TestRestartUnderLoad(t *testing.T) {
	m := manage(t, held(), oneProfile)
	var calls, bad atomic.Int64
	stop := make(chan struct{})
	var all sync.WaitGroup
	for i := range 4 {
		w := m.wire("p", "").legacy()
		w.sh("echo kept > f")
		h := m.http("p").initialize()
		h.exec(false, map[string]any{"command": "echo kept > f"})
		ask := func(sh func(string) answer) {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
				command := "cat f"
				if n%50 == i {
					command = "sleep 0.5; cat f"
				}
				if a := sh(command); a.Stdout != "kept\n" || a.Notice != "" {
					bad.Add(1)
					t.Errorf("got %+v", a)
				}
				calls.Add(1)
			}
		}
		all.Go(func() { ask(w.sh) })
		all.Go(func() {
			ask(func(c string) answer { return h.exec(false, map[string]any{"command": c}) })
		})
	}
	for range 10 {
		time.Sleep(50 * time.Millisecond)
		m.restart()
	}
	close(stop)
	all.Wait()
	t.Logf("%d calls over 10 restarts, %d bad", calls.Load(), bad.Load())
	if calls.Load() < 100 {
		t.Errorf("only %d calls were made", calls.Load())
	}
}

// Restarts that follow each other at once lose nothing either: what one daemon
// was given and had no time for is the next one's, sandboxes that it was
// adopting too.
func TestRestartTwiceAtOnce(t *testing.T) {
	m := manage(t, held(), oneProfile)
	w, idle, named := m.wire("p", "").legacy(), m.wire("p", "").legacy(), m.http("p")
	named.header.Set("Kilntainers-Sandbox", "mine")
	w.sh("echo kept > f")
	named.exec(true, map[string]any{"command": "echo kept > f"})
	m.shutdown()
	const n = 200
	var lines []string // in one write: no daemon reads yet, and many small ones fill a socket
	for i := range n {
		lines = append(lines, fmt.Sprintf(`{"jsonrpc":"2.0","id":"%d","method":"tools/call","params":{"name":"sandbox_exec","arguments":{"command":"cat f","stdin":%q}}}`, i, strings.Repeat("x", 200)))
	}
	w.send(strings.Join(lines, "\n"))
	answers := make(chan string, n)
	go func() { // as a client does; a daemon waits no more than 9 s for one that does not
		defer close(answers)
		_ = w.SetReadDeadline(time.Now().Add(time.Minute))
		for range n {
			if !w.lines.Scan() {
				return
			}
			answers <- w.lines.Text()
		}
	}()
	m.fake.SetFaults(backendtest.Faults{CreateDelay: 100 * time.Millisecond}) // of an adoption too
	for range 4 {
		m.launch()
		m.shutdown()
	}
	m.launch()
	seen := map[any]bool{}
	for text := range answers {
		var msg map[string]any
		if err := json.Unmarshal([]byte(text), &msg); err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		if b, _ := json.Marshal(msg["result"]); !strings.Contains(string(b), "kept") || seen[msg["id"]] {
			t.Fatalf("got %v, answered before: %v", msg, seen[msg["id"]])
		}
		seen[msg["id"]] = true
	}
	if len(seen) != n {
		t.Fatalf("%d of %d calls were answered: %v", len(seen), n, w.lines.Err())
	}
	idle.send(`{"jsonrpc":"2.0","id":"p","method":"ping"}`)
	if msg := idle.next(); msg["id"] != "p" {
		t.Errorf("the idle client got %v", msg)
	}
	if a := named.exec(true, map[string]any{"command": "cat f"}); a.Stdout != "kept\n" || a.Notice != "" {
		t.Errorf("named: %+v", a)
	}
}

// The client has its answer to initialize, however it wrote the id.
func TestRestartAnswersInitializeOnce(t *testing.T) {
	m := manage(t, held(), oneProfile)
	for _, id := range []string{`7`, `1.0`, `"a<b"`, `"\u0061"`} {
		w := m.wire("p", "")
		w.send(`{"jsonrpc":"2.0","id":` + id + `,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`)
		w.next()
		w.send(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
		for range 2 {
			m.restart()
			w.send(`{"jsonrpc":"2.0","id":"p","method":"ping"}`)
			if msg := w.next(); msg["id"] != "p" {
				t.Errorf("after initialize with id %s got %v", id, msg)
			}
		}
		w.Close()
	}
}

// A profile that moves to another backend says so to every client.
func TestRestartOnAnotherBackend(t *testing.T) {
	m := manage(t, held(), oneProfile)
	other := backendtest.NewFake(backendtest.InMemory, backendtest.Held, backendtest.Named("other"))
	under := m.adjust
	m.adjust = func(o *Options) { under(o); o.Drivers = append(o.Drivers, other.Driver()) }
	shim, session, named := m.wire("p", "").legacy(), m.http("p").initialize(), m.http("p")
	named.header.Set("Kilntainers-Sandbox", "mine")
	shim.sh("echo x > f")
	session.exec(false, map[string]any{"command": "echo x > f"})
	named.exec(true, map[string]any{"command": "echo x > f"})
	m.write("[profiles.p]\nbackend = \"other\"\n")
	m.restart()
	for who, a := range map[string]answer{
		"shim":    shim.sh("cat f"),
		"session": session.exec(false, map[string]any{"command": "cat f"}),
		"named":   named.exec(true, map[string]any{"command": "cat f"}),
	} {
		if a.ExitCode == 0 || !strings.Contains(a.Notice, "its profile uses another backend now") {
			t.Errorf("%s: %+v", who, a)
		}
	}
	eventually(t, "the sandboxes of the old one are gone", func() bool { return m.fake.Live() == 0 })
	m.shutdown()
	m.manager.Forget("")
	eventually(t, "and those of the new one", func() bool { return other.Live() == 0 })
}

// A client that went while there was no daemon leaves no session behind: one
// would keep the daemon from exiting when it is idle.
func TestRestartForgetsClients(t *testing.T) {
	const idle = "[daemon]\nexit_when_idle = \"1s\"\n"
	m := manage(t, held(), idle+oneProfile)
	with, without := m.wire("p", "").legacy(), m.wire("p", "").legacy()
	with.sh("echo x > f")
	m.shutdown()
	with.Close()
	without.Close()
	m.launch()
	eventually(t, "the daemon is idle", func() bool { return strings.Contains(m.log.String(), "nobody is connected") })
}

// A subscription too long to be said again does not count as a request, before
// its end or after: the stop waits for those, and for nothing else.
func TestRestartWithLongSubscription(t *testing.T) {
	m := manage(t, held(), oneProfile)
	w := m.wire("p", "")
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}`
	for _, id := range []string{"sub", "open"} {
		w.send(`{"jsonrpc":"2.0","id":"` + id + `","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},` + meta + `,"x":"` + strings.Repeat("x", maxReplayed) + `"}}}`)
		w.next()
	}
	w.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"sub"}}`)
	if msg := w.next(); msg["id"] != "sub" {
		t.Fatalf("got %v", msg)
	}
	for range 2 {
		m.restart()
		w.send(`{"jsonrpc":"2.0","id":"list","method":"tools/list","params":{` + meta + `}}}`)
		if msg := w.next(); msg["id"] != "list" || msg["result"] == nil {
			t.Errorf("got %v", msg)
		}
	}
}

// However many sessions there are, and whatever opened them, none is lost.
func TestRestartKeepsManySessions(t *testing.T) {
	m := manage(t, held(), oneProfile)
	var all []*httpClient
	for range 2*sessionPart + 1 {
		h := m.http("p")
		res, _ := h.post(t.Context(), "initialize", map[string]any{"protocolVersion": "2025-06-18", "capabilities": map[string]any{},
			"clientInfo": map[string]any{"name": strings.Repeat("n", maxReplayed-1000), "version": "1"}}, false)
		h.session = res.Header.Get(sessionHeader)
		all = append(all, h)
	}
	m.restart()
	for i, h := range all {
		if res, msg := h.post(t.Context(), "tools/list", nil, false); msg["result"] == nil {
			t.Fatalf("session %d: %s %v", i, res.Status, msg)
		}
	}
}
