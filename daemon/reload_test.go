package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends/backendtest"
)

// A changed text reaches open sessions: they are told and see the new text,
// and their sandbox stays.
func TestReloadTellsSessions(t *testing.T) {
	r := start(t, onePython+"extended_tool_instruction = \"one\"\n")
	w := r.wire("python", "").legacy()
	id := w.sh("id").Stdout
	res := r.reload(onePython + "extended_tool_instruction = \"two\"\n")
	if !res.OK || !res.Changed || !slices.Equal(res.Updated, []string{"python"}) || len(res.Added)+len(res.Removed) != 0 {
		t.Errorf("got %+v", res)
	}
	for m := w.next(); m["method"] != "notifications/tools/list_changed"; m = w.next() {
		t.Logf("skipped %v", m)
	}
	if tools := fmt.Sprint(w.call("tools/list", nil)); !strings.Contains(tools, "\n\ntwo") || strings.Contains(tools, "\n\none") {
		t.Errorf("got %s, want the new text", tools)
	}
	if got := w.sh("id").Stdout; got != id {
		t.Errorf("got sandbox %q, want %q", got, id)
	}
	if n := r.fake.Backends(); n != 1 {
		t.Errorf("%d backends open, want the one that was", n)
	}
}

// Clients without a session are told if they listen.
func TestReloadTellsListeners(t *testing.T) {
	r := start(t, onePython)
	h := r.http("python")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	res, err := h.do(ctx, "subscriptions/listen", map[string]any{"notifications": map[string]any{"toolsListChanged": true}}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	heard := func(method string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), method) {
				return
			}
		}
		t.Fatalf("the stream ended without %s: %v", method, lines.Err())
	}
	heard("notifications/subscriptions/acknowledged")
	r.reload(onePython + "timeout = 9\n")
	heard("notifications/tools/list_changed")
	if _, tools := h.post(context.Background(), "tools/list", nil, true); !strings.Contains(fmt.Sprint(tools), "stopped after 9 seconds") {
		t.Errorf("got %v, want the new text", tools)
	}
}

// An edit that leaves the tool alone tells nobody.
func TestReloadTellsNothing(t *testing.T) {
	r := start(t, onePython)
	w := r.wire("python", "").legacy()
	w.call("ping", nil)
	if res := r.reload(onePython + "description = \"for operators\"\n"); !slices.Equal(res.Updated, []string{"python"}) {
		t.Fatalf("got %+v", res)
	}
	r.reload(onePython + "timeout = 9\n")
	if m := w.next(); m["method"] != "notifications/tools/list_changed" {
		t.Fatalf("got %v", m)
	}
	w.send(`{"jsonrpc":"2.0","id":"last","method":"ping"}`)
	if m := w.next(); m["id"] != "last" {
		t.Errorf("got %v, want one notification for the one change", m)
	}
}

// New limits hold from the next call on, in living sessions too; a running
// call keeps its own.
func TestReloadLimits(t *testing.T) {
	r := start(t, onePython)
	w, slow := r.wire("python", "").legacy(), r.wire("python", "").legacy()
	w.sh("true")
	var wg sync.WaitGroup
	var a answer
	wg.Go(func() { a = slow.sh("sleep 2; echo done") })
	eventually(t, "the command runs", func() bool { return len(r.fake.Running()) == 1 })
	r.reload(onePython + "timeout = 1\nsession_timeout = 1\n")
	if got := w.sh("sleep 60"); got.ExitCode != 124 || !strings.Contains(got.Stderr, "after 1s") {
		t.Errorf("got %+v, want the new limit", got)
	}
	wg.Wait()
	if a.Stdout != "done\n" {
		t.Errorf("the running call got %+v, want its old limit", a)
	}
	eventually(t, "the new session_timeout", func() bool { return r.fake.Live() == 0 })
}

// Another image: new sessions get it, living ones keep their sandbox, and the
// old backend goes with the last of them.
func TestReloadBackend(t *testing.T) {
	r := start(t, onePython+"fake_image = \"a\"\n")
	old := r.wire("python", "").legacy()
	id := old.sh("id").Stdout
	r.reload(onePython + "fake_image = \"b\"\n")
	if n := r.fake.Backends(); n != 2 {
		t.Errorf("%d backends open, want the new one and the one with a sandbox", n)
	}
	fresh := r.wire("python", "").legacy()
	if got := fresh.sh("id").Stdout; got == id {
		t.Error("a new session got an old sandbox")
	}
	if got := old.sh("id").Stdout; got != id {
		t.Error("the living session lost its sandbox")
	}
	_ = old.Close()
	eventually(t, "the old backend is closed", func() bool { return r.fake.Backends() == 1 })
}

// A removed profile: running calls end undisturbed, then its sandboxes go;
// new clients are refused with what there is; when it comes back, connected
// clients work again.
func TestReloadRemoves(t *testing.T) {
	other := "[profiles.other]\nbackend = \"fake\"\n"
	r := start(t, onePython+other)
	w := r.wire("python", "").legacy()
	var wg sync.WaitGroup
	var a answer
	wg.Go(func() { a = w.sh("sleep 1; echo done") })
	eventually(t, "the command runs", func() bool { return len(r.fake.Running()) == 1 })
	if res := r.reload(other); !slices.Equal(res.Removed, []string{"python"}) {
		t.Errorf("got %+v", res)
	}
	wg.Wait()
	if a.Stdout != "done\n" {
		t.Errorf("the running call got %+v", a)
	}
	eventually(t, "its sandbox is destroyed", func() bool { return r.fake.Live() == 0 })
	if a := w.sh("echo hi"); !a.IsError || !strings.Contains(a.Text, `"python" is no longer in the daemon's configuration`) {
		t.Errorf("got %+v", a)
	}
	if code, body := r.get("/mcp/python"); code != 404 || !strings.Contains(body, `unknown profile "python"; this daemon has: other`) {
		t.Errorf("got %d %q", code, body)
	}
	if res := r.reload(onePython + other); !slices.Equal(res.Added, []string{"python"}) {
		t.Errorf("got %+v", res)
	}
	if a := w.sh("echo hi"); a.Stdout != "hi\n" || !strings.Contains(a.Notice, `the profile "python" was removed`) {
		t.Errorf("got %+v, want the connection to work again, with a notice", a)
	}
}

// A file with any problem changes nothing and the problems are told.
func TestReloadBad(t *testing.T) {
	r := start(t, onePython)
	res := r.reload("[profiles.python]\nbackend = \"fake\"\ntimeout = 0\ncolour = \"red\"\n[profiles.new]\nbackend = \"fake\"\n")
	if res.OK || len(res.Problems) != 2 {
		t.Fatalf("got %+v, want two problems", res)
	}
	if st := r.status(); len(st.Config.Problems) != 2 || len(st.Profiles) != 1 {
		t.Errorf("got %+v, want the problems and the one profile", st)
	}
	if a := r.wire("python", "").legacy().sh("echo hi"); a.Stdout != "hi\n" {
		t.Errorf("got %+v, want the last good configuration", a)
	}
	if res := r.reload(onePython); !res.OK {
		t.Errorf("got %+v", res)
	}
	if st := r.status(); len(st.Config.Problems) != 0 {
		t.Errorf("got %v, want no problem", st.Config.Problems)
	}
	if res := r.reload(onePython); !res.OK || res.Changed {
		t.Errorf("got %+v, want nothing changed", res)
	}
}

// A backend that cannot be opened fails the whole reload.
func TestReloadIsAllOrNothing(t *testing.T) {
	r := start(t, onePython)
	r.fake.SetFaults(backendtest.Faults{Open: errors.New("out of luck")})
	res := r.reload(onePython + "description = \"changed\"\n[profiles.new]\nbackend = \"fake\"\n")
	if res.OK || !strings.Contains(strings.Join(res.Problems, "\n"), "out of luck") {
		t.Errorf("got %+v", res)
	}
	if st := r.status(); len(st.Profiles) != 1 || st.Profiles[0].Description != "" {
		t.Errorf("got %+v, want what was", st.Profiles)
	}
	r.fake.SetFaults(backendtest.Faults{})
}

// [daemon] waits for a restart, except what can change at once.
func TestReloadStatic(t *testing.T) {
	r := start(t, onePython)
	res := r.reload("[daemon]\nlisten = [\"unix:%DIR%/other.sock\"]\nmax_sandboxes = 1\n" + onePython)
	if !res.OK || !slices.Equal(res.RestartNeeded, []string{"daemon.listen"}) {
		t.Errorf("got %+v", res)
	}
	a, b := r.wire("python", "").legacy(), r.wire("python", "").legacy()
	a.sh("true")
	if got := b.sh("true"); !got.IsError || !strings.Contains(got.Text, "daemon.max_sandboxes") {
		t.Errorf("got %+v, want the new ceiling", got)
	}
}

// An edit takes effect by itself.
func TestReloadByWatching(t *testing.T) {
	r := prepare(t, backendtest.NewFake(backendtest.InMemory), onePython)
	r.watch = nil
	r.launch()
	r.write(onePython + "[profiles.new]\nbackend = \"fake\"\n")
	eventually(t, "the new profile is served", func() bool { return len(r.status().Profiles) == 2 })
	dropIn := r.config[:strings.LastIndexByte(r.config, '/')] + "/profiles.d"
	if err := os.Mkdir(dropIn, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dropIn+"/a.toml", []byte("[profiles.dropped]\nbackend = \"fake\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the drop-in is served", func() bool { return len(r.status().Profiles) == 3 })
}

// A daemon whose configuration is broken at start serves what is good.
func TestStartsWithProblems(t *testing.T) {
	r := start(t, onePython+"[profiles.bad]\nbackend = \"fake\"\ntimeout = -1\n")
	if st := r.status(); len(st.Profiles) != 1 || len(st.Config.Problems) != 1 {
		t.Errorf("got %+v", st)
	}
	if a := r.wire("python", "").legacy().sh("echo hi"); a.Stdout != "hi\n" {
		t.Errorf("got %+v", a)
	}
}

// A backend that cannot be opened takes its profile out of service, not the
// daemon.
func TestStartsWithoutABackend(t *testing.T) {
	r := prepare(t, backendtest.NewFake(backendtest.InMemory), onePython)
	r.fake.SetFaults(backendtest.Faults{Open: errors.New("out of luck")})
	r.launch()
	if st := r.status(); len(st.Profiles) != 0 || len(st.Config.Problems) != 1 || !strings.Contains(st.Config.Problems[0], "k.toml:5: profiles.python: cannot open the backend fake: out of luck") {
		t.Errorf("got %+v", st)
	}
	r.fake.SetFaults(backendtest.Faults{})
	if res := r.reload(onePython); !res.OK || !slices.Equal(res.Added, []string{"python"}) {
		t.Errorf("got %+v, want it back", res)
	}
}

// 200 reloads with calls running lose none.
func TestReloadUnderLoad(t *testing.T) {
	r := start(t, onePython)
	var stop atomic.Bool
	var calls atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		w := r.wire("python", "").legacy()
		wg.Go(func() {
			for !stop.Load() {
				if a := w.sh("echo hi"); a.Stdout != "hi\n" || a.Notice != "" {
					t.Errorf("got %+v", a)
					return
				}
				calls.Add(1)
			}
		})
	}
	for i := range 200 {
		res := r.reload(fmt.Sprintf("%sfake_image = \"i%d\"\n[profiles.p%d]\nbackend = \"fake\"\n", onePython, i%3, i%5))
		if !res.OK {
			t.Fatalf("got %+v", res)
		}
	}
	stop.Store(true)
	wg.Wait()
	if calls.Load() == 0 {
		t.Error("no call ran")
	}
	if n := r.fake.Created(); n != 4 {
		t.Errorf("%d sandboxes made, want one for each session", n)
	}
}

// Warm sandboxes survive an edit that leaves them alone.
func TestPoolOverReload(t *testing.T) {
	r := start(t, onePython+"pool = 2\n")
	eventually(t, "two are warm", func() bool { return r.status().Profiles[0].Warm == 2 })
	ids := r.fake.IDs()
	r.reload(onePython + "pool = 2\nextended_tool_instruction = \"x\"\n")
	time.Sleep(50 * time.Millisecond)
	if got := r.fake.IDs(); !slices.Equal(got, ids) {
		t.Errorf("got %v warm, want %v", got, ids)
	}
	if st := r.status().Profiles[0]; st.Warm != 2 || st.Pool != 2 || st.Sandboxes != 0 {
		t.Errorf("got %+v", st)
	}
	if got := strings.TrimSpace(r.wire("python", "").legacy().sh("id").Stdout); !slices.Contains(ids, got) {
		t.Errorf("got %q, want one of the warm %v", got, ids)
	}
	eventually(t, "the pool is filled again", func() bool { return r.status().Profiles[0].Warm == 2 })
	before := r.fake.IDs()
	r.reload(onePython + "pool = 2\nfake_image = \"other\"\n")
	eventually(t, "the old ones are gone but for the session's, new ones are warm", func() bool {
		old := slices.DeleteFunc(r.fake.IDs(), func(id string) bool { return !slices.Contains(before, id) })
		return r.status().Profiles[0].Warm == 2 && len(old) == 1 && r.fake.Live() == 3
	})
	r.reload(onePython)
	eventually(t, "none is warm", func() bool { return r.status().Profiles[0].Warm == 0 && r.fake.Live() == 1 })
}

// Who asks for a reload while the daemon stops is told so, and does not hold
// the stop up.
func TestReloadWhileStopping(t *testing.T) {
	r := start(t, onePython)
	w := r.wire("python", "").legacy()
	w.send(`{"jsonrpc":"2.0","id":99,"method":"tools/call","params":{"name":"sandbox_exec","arguments":{"command":"sleep 1"}}}`)
	eventually(t, "it runs", func() bool { return len(r.fake.Running()) == 1 })
	c, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The head of a request keeps the connection from being closed as an idle one.
	fmt.Fprint(c, "POST /-/reload HTTP/1.1\r\nHost: k\r\n")
	time.Sleep(20 * time.Millisecond) // for the daemon to read it
	r.stop()
	eventually(t, "it stops", func() bool { return strings.Contains(r.log.String(), "stopping") })
	fmt.Fprint(c, "Content-Length: 0\r\n\r\n")
	if answer, err := io.ReadAll(c); err != nil || !strings.Contains(string(answer), "503 Service Unavailable") {
		t.Errorf("got %q, %v", answer, err)
	}
}

// A reload that lets go of warm sandboxes does not wait for their end, and
// neither does anybody else; the stop does.
func TestReloadLetsGoOfWarmSandboxes(t *testing.T) {
	const other = "[profiles.other]\nbackend = \"fake\"\n"
	r := start(t, onePython+"pool = 2\n"+other)
	eventually(t, "two are warm", func() bool { return r.status().Profiles[1].Warm == 2 })
	r.fake.SetFaults(backendtest.Faults{CloseDelay: 5 * time.Second})
	if res := r.reload(onePython + "fake_image = \"another\"\n" + other); !slices.Equal(res.Changes.Updated, []string{"python"}) {
		t.Fatalf("got %+v", res)
	}
	r.wire("other", "").legacy()
	r.status()
	if n := r.fake.Live(); n != 2 {
		t.Errorf("%d sandboxes are left, want those that take their time", n)
	}
	r.shutdown()
	if n := int64(r.fake.Live()) + r.fake.Backends(); n != 0 {
		t.Errorf("after the stop %d are left", n)
	}
}
