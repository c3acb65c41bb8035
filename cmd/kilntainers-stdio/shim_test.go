package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	initialize  = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}`
	initialized = `{"jsonrpc":"2.0","method":"notifications/initialized"}`
	welcome     = `{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18"}}`
)

// toolsCall is a tools/call as the TypeScript SDK writes it: with the id last.
func toolsCall(id string) string {
	return `{"method":"tools/call","params":{"name":"sandbox_exec","arguments":{"command":"echo \"id\": 7, {["}},"jsonrpc":"2.0","id":` + id + `}`
}

func result(id string) string {
	return `{"jsonrpc":"2.0","id":` + id + `,"result":{"content":[]}}`
}

func lost(id string) string {
	return `{"jsonrpc":"2.0","id":` + id + `,"result":{"resultType":"complete","content":[{"type":"text","text":"The sandbox daemon restarted while this command ran. It may or may not have completed; check before running it again."}],"isError":true}}`
}

func failed(id, text string) string {
	return `{"jsonrpc":"2.0","id":` + id + `,"error":{"code":-32603,"message":"` + text + `"}}`
}

func TestHello(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket, "--profile=py-3_x")
	p := d.accept()
	if got, want := p.hello.Method+" "+p.hello.RequestURI, "GET /stdio/py-3_x"; got != want {
		t.Errorf("request %q, want %q", got, want)
	}
	if p.hello.Host != "kilntainers" || p.hello.Header.Get("Connection") != "Upgrade" || p.hello.Header.Get("Upgrade") != "kilntainers-stdio/1" {
		t.Errorf("host %q, header %v", p.hello.Host, p.hello.Header)
	}
	if p.hello.Header.Get("Kilntainers-Resume") != "" {
		t.Error("the first connection has nothing to resume")
	}
	p.welcome("t1", "")
	c.in.Close()
	p.want("EOF")
	p.hangUp()
	c.wantExit(0, "")
	c.want("EOF")
}

// What comes right behind the header is MCP already, and every byte passes as
// it is: progress, batches, blank lines, garbage and a line of 8 MiB.
func TestCopies(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket)
	p := d.accept()
	p.welcome("t1", "first\n{\"second\":\n")
	c.want("first")
	c.want(`{"second":`)

	long := `{"jsonrpc":"2.0","id":7,"result":"` + strings.Repeat(`x\"\\`, 8<<20/5) + `"}`
	for _, line := range []string{
		`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":2}}`,
		`[{"id":1,"method":"tools/call"},{"method":"a"}]`,
		"", " \t", "\x00\xff\r", `"`, `[`, `{"id":`, `{{{`, `]`,
		long,
	} {
		go c.send(line)
		p.want(line)
		go p.send(line + "\n")
		c.want(line)
	}
	// Several lines in one write stay in order.
	c.send("a\nb\nc")
	p.want("a")
	p.want("b")
	p.want("c")
}

func TestClientLeaves(t *testing.T) {
	for name, leave := range map[string]func(c *client){
		"stdin ends": func(c *client) { c.in.Close() },
		"SIGTERM":    func(c *client) { c.cmd.Process.Signal(syscall.SIGTERM) },
		"SIGINT":     func(c *client) { c.cmd.Process.Signal(syscall.SIGINT) },
		"SIGHUP":     func(c *client) { c.cmd.Process.Signal(syscall.SIGHUP) },
	} {
		t.Run(name, func(t *testing.T) {
			d := listen(t)
			c := start(t, d.socket)
			p := d.accept()
			p.welcome("t1", "")
			c.send(toolsCall("1"))
			p.want(toolsCall("1"))
			leave(c)
			p.want("EOF")
			select {
			case <-c.exited:
				t.Error("exited before the daemon let go")
			case <-time.After(20 * time.Millisecond): // only so that a wrong exit is likely seen
			}
			p.send(result("1") + "\n") // what still comes is delivered
			c.want(result("1"))
			p.hangUp()
			c.wantExit(0, "")
		})
	}

	t.Run("the daemon hangs", func(t *testing.T) {
		t.Parallel() // takes letGoTime
		d := listen(t)
		c := start(t, d.socket)
		p := d.accept()
		p.welcome("t1", "")
		c.in.Close()
		p.want("EOF")
		c.wantExit(0, "")
	})

	t.Run("the daemon does not read", func(t *testing.T) {
		t.Parallel() // takes letGoTime
		d := listen(t)
		c := start(t, d.socket)
		p := d.accept()
		p.welcome("t1", "ready\n")
		c.want("ready")
		go io.WriteString(c.in, strings.Repeat("x", 1<<20)+"\n") // more than a socket buffers
		c.cmd.Process.Signal(syscall.SIGTERM)
		c.wantExit(0, "")
	})

	t.Run("stdout is closed", func(t *testing.T) {
		d := listen(t)
		c := start(t, d.socket)
		p := d.accept()
		p.welcome("t1", "ready\n")
		c.want("ready")
		c.stdout.Close()
		p.send(result("1") + "\n")
		p.want("EOF")
		p.hangUp()
		c.wantExit(0, "")
	})

	t.Run("the client neither reads nor leaves room", func(t *testing.T) {
		t.Parallel() // takes letGoTime
		d := listen(t)
		c := start(t, d.socket)
		p := d.accept()
		p.welcome("t1", "")
		p.conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		for { // until pipe and socket are full: the shim is stuck in a write
			if _, err := io.WriteString(p.conn, strings.Repeat("x", 100)+"\n"); err != nil {
				break
			}
		}
		c.in.Close()
		c.wantExit(0, "")
	})

	t.Run("SIGKILL", func(t *testing.T) {
		d := listen(t)
		c := start(t, d.socket)
		p := d.accept()
		p.welcome("t1", "ready\n")
		c.want("ready")
		c.cmd.Process.Kill()
		p.want("EOF")
	})
}

func TestDrain(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket, "--drain")
	p := d.accept()
	p.welcome("t1", "")
	listen := `{"jsonrpc":"2.0","id":"l","method":"subscriptions/listen"}`
	c.send(listen) // is never answered: not waited for
	c.send(toolsCall("1"))
	io.WriteString(c.in, toolsCall("2")) // a last line without its end
	c.in.Close()
	p.want(listen)
	p.want(toolsCall("1"))
	p.want(toolsCall("2"))
	p.send(result("2") + "\n")
	c.want(result("2"))

	// With the daemon goes the last answer to wait for.
	p.hangUp()
	c.want(lost("1"))
	c.wantExit(0, "")
}

// What could not be sent yet is waited for, too.
func TestDrainWhileAway(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket, "--drain")
	p := d.accept()
	p.welcome("t1", "ready\n")
	c.want("ready")
	d.stop()
	p.hangUp()
	c.send(toolsCall("1"))
	c.in.Close()
	d = listenAt(t, d.socket)
	p = d.accept()
	p.welcome("t2", "")
	p.want(toolsCall("1"))
	p.send(result("1") + "\n")
	c.want(result("1"))
	p.want("EOF")
	p.hangUp()
	c.wantExit(0, "")
}

// The daemon is lost with one request of each kind in flight.
func TestReconnect(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket)
	p := d.accept()
	p.welcome("t1", "")
	c.send(initialize)
	p.want(initialize)
	p.send(welcome + "\n")
	c.want(welcome)
	c.send(initialized)
	p.want(initialized)

	listen := `{"jsonrpc":"2.0","id":"a\"b<","method":"subscriptions/listen"}`
	list := `{"jsonrpc":"2.0","id":-5,"method":"tools/list"}`
	batch := `[` + toolsCall("21") + `,` + initialized + `]` // the daemon refuses it
	answer := `{"jsonrpc":"2.0","id":99,"result":{}}`        // to a question of the daemon's
	for _, line := range []string{toolsCall("1"), toolsCall(`"a\"b"`), listen, list, batch, answer, toolsCall("2")} {
		c.send(line)
		p.want(line)
	}
	p.send(result("2") + "\n" + `{"jsonrpc":"2.0","id":1,"res`) // half an answer is none
	c.want(result("2"))
	p.hangUp()

	got := map[string]bool{}
	want := []string{lost("1"), lost(`"a\"b"`), failed("-5", "the sandbox daemon restarted; try again")}
	for range want {
		got[c.line()] = true
	}
	for _, line := range want {
		if !got[line] {
			t.Errorf("no %s in %v", line, got)
		}
	}

	// The new daemon is asked to resume, and told of the handshake; the client
	// does not see the second answer to it, nor what comes before.
	p = d.accept()
	if got := p.hello.Header.Get("Kilntainers-Resume"); got != "t1" {
		t.Errorf("resume token %q, want t1", got)
	}
	p.welcome("t2", "")
	p.want(initialize)
	c.send(toolsCall("3")) // comes while there is no daemon yet
	p.send(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}` + "\n")
	p.send(welcome + "\n")
	p.want(initialized)
	p.want(listen)
	p.want(toolsCall("3"))
	p.send(result("3") + "\n")
	c.want(result("3"))

	// A second loss takes the newest token, even if the daemon is lost again
	// before it has answered, and nothing is sent twice.
	p.hangUp()
	p = d.accept()
	if got := p.hello.Header.Get("Kilntainers-Resume"); got != "t2" {
		t.Errorf("resume token %q, want t2", got)
	}
	p.welcome("t3", "")
	p.want(initialize)
	p.hangUp()
	p = d.accept()
	if got := p.hello.Header.Get("Kilntainers-Resume"); got != "t3" {
		t.Errorf("resume token %q, want t3", got)
	}
	p.welcome("t4", "")
	p.want(initialize)
	p.send(welcome + "\n")
	p.want(initialized)
	p.want(listen)
	p.send(`{"jsonrpc":"2.0","id":"a\u0022b\u003c","result":{}}` + "\n") // as Go's encoder writes it: the subscription ended
	c.line()
	p.hangUp()
	p = d.accept()
	p.welcome("t5", "")
	p.want(initialize)
	p.send(welcome + "\n")
	p.want(initialized)
	c.send(toolsCall("4"))
	p.want(toolsCall("4"))
}

// A client of the newest protocol revision has no handshake to repeat.
func TestReconnectWithoutHandshake(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket)
	p := d.accept()
	p.welcome("t1", "ready\n")
	c.want("ready")
	p.hangUp()
	p = d.accept()
	p.welcome("t2", "")
	c.send(toolsCall("1"))
	p.want(toolsCall("1"))
}

// An initialize that failed, or was not answered, is not repeated behind the
// client's back, but it is not lost either.
func TestReconnectDuringHandshake(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket)
	p := d.accept()
	p.welcome("t1", "")
	c.send(initialize)
	p.want(initialize)
	p.send(failed("0", "unsupported") + "\n")
	c.want(failed("0", "unsupported"))
	p.hangUp()
	p = d.accept()
	p.welcome("t2", "")
	c.send(initialize)
	p.want(initialize)
	p.hangUp()
	p = d.accept()
	p.welcome("t3", "")
	p.want(initialize)
	p.send(welcome + "\n")
	c.want(welcome)
}

func TestHeldWhileAway(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket)
	p := d.accept()
	p.welcome("t1", "ready\n")
	c.want("ready")
	d.stop()
	p.hangUp()
	var want []string
	for i := range 300 {
		want = append(want, toolsCall(fmt.Sprint(i)))
	}
	want = append(want, toolsCall(`"`+strings.Repeat("x", maxID)+`"`), `{"id":5,"result":{}}`, initialized)
	for _, line := range want {
		c.send(line)
	}
	for range 2 { // the first is lost before it has taken anything
		d = listenAt(t, d.socket)
		p = d.accept()
		if p.hello.Header.Get("Kilntainers-Resume") != "t1" {
			t.Errorf("resume token %q, want t1", p.hello.Header.Get("Kilntainers-Resume"))
		}
		d.stop()
		p.hangUp()
	}
	d = listenAt(t, d.socket)
	p = d.accept()
	p.welcome("t2", "")
	for _, line := range want {
		if strings.Contains(line, `"result"`) {
			continue // answers nobody's question any more
		}
		p.want(line)
	}
	c.in.Close()
	p.want("EOF")
}

// More than it may hold is refused, and the rest goes through.
func TestHeldTooMuch(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket)
	p := d.accept()
	p.welcome("t1", "ready\n")
	c.want("ready")
	d.stop()
	p.hangUp()
	for i := range maxHeldLines + 1 {
		c.send(toolsCall(fmt.Sprint(i)))
	}
	c.want(failed(fmt.Sprint(maxHeldLines), tooMuchHeld))
	d = listenAt(t, d.socket)
	p = d.accept()
	p.welcome("t2", "")
	for i := range maxHeldLines {
		p.want(toolsCall(fmt.Sprint(i)))
	}
}

func TestDaemonStaysAway(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket, "KILNTAINERS_STDIO_PATIENCE=2s")
	p := d.accept()
	p.welcome("t1", "ready\n")
	c.want("ready")
	d.stop()
	p.hangUp()
	c.send(toolsCall("1"))
	c.send(`{"jsonrpc":"2.0","id":2,"method":"ping"}`)
	got := []string{c.line(), c.line()}
	if strings.Contains(got[0], "-32603") { // in no order
		got[0], got[1] = got[1], got[0]
	}
	if want := `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[{"type":"text","text":"The sandbox daemon is gone and did not come back. The command was not started."}],"isError":true}}`; got[0] != want {
		t.Errorf("got %s, want %s", got[0], want)
	}
	if want := failed("2", "the sandbox daemon is gone and did not come back"); got[1] != want {
		t.Errorf("got %s, want %s", got[1], want)
	}
	c.wantExit(1, "kilntainers-stdio: the daemon did not come back: no daemon at "+d.socket+"; start it with: systemctl enable --now kilntainers.socket (or kilntainersd)\n")
	c.want("EOF")
}

// The client need not wait for a daemon that is away.
func TestClientLeavesWhileAway(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket)
	p := d.accept()
	p.welcome("t1", "ready\n")
	c.want("ready")
	d.stop()
	p.hangUp()
	c.send(toolsCall("1"))
	c.in.Close()
	c.wantExit(0, "")
}

// A daemon that closes every connection is given up, without a busy loop.
func TestDaemonFlaps(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket, "KILNTAINERS_STDIO_PATIENCE=500ms")
	n := 0
	go func() {
		for {
			conn, err := d.ln.Accept()
			if err != nil {
				return
			}
			n++
			http.ReadRequest(bufio.NewReader(conn))
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			conn.Close()
		}
	}()
	c.wantExit(1, "it closes every connection")
	d.stop()
	if n < 2 || n > 10 {
		t.Errorf("%d connections, want a few", n)
	}
}

func TestRefusedAfterReconnect(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket)
	p := d.accept()
	p.welcome("t1", "ready\n")
	c.want("ready")
	p.hangUp()
	p = d.accept()
	c.send(toolsCall("1"))
	// Stopping is not a refusal.
	p.refuse(503, "the daemon is stopping\n")
	p = d.accept()
	p.refuse(404, `unknown profile "default"; this daemon has: python`)
	c.wantExit(1, "kilntainers-stdio: the daemon did not come back: unknown profile \"default\"; this daemon has: python\n")
}

// A message that is too long is answered, and the next one is taken.
func TestLongLine(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket)
	p := d.accept()
	p.welcome("t1", "")
	c.send(`{"id":"x","params":"` + strings.Repeat("y", maxClientLine) + `","method":"tools/call"}`)
	c.want(`{"jsonrpc":"2.0","id":"x","error":{"code":-32600,"message":"the message is longer than 16 MiB"}}`)
	c.send(toolsCall("1"))
	p.want(toolsCall("1"))
}

// An answer of any length passes, and is an answer: nothing is in flight after
// it. One that breaks off is none.
func TestLongAnswer(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket, "KILNTAINERS_STDIO_STEADY=0s")
	p := d.accept()
	p.welcome("t1", "")
	for i := range 2 {
		c.send(toolsCall(fmt.Sprint(i)))
		p.want(toolsCall(fmt.Sprint(i)))
	}
	long := `{"jsonrpc":"2.0","id":0,"result":"` + strings.Repeat("y", maxDaemonLine+maxDaemonLine/4) + `"}`
	go p.conn.Write([]byte(long + "\n" + result("x") + "\n"))
	if got := c.line(); got != long {
		t.Fatalf("got %d bytes, want the same %d", len(got), len(long))
	}
	c.want(result("x"))

	torn := strings.Replace(long[:maxDaemonLine+1000], `"id":0`, `"id":1`, 1)
	go func() {
		p.conn.Write([]byte(torn))
		p.hangUp()
	}()
	if got := c.line(); got != torn {
		t.Fatalf("got %d bytes, want the same %d", len(got), len(torn))
	}
	c.want(lost("1"))
	p = d.accept()
	p.welcome("t2", "ready\n")
	c.want("ready")
}

// Both sides write as much as they can at once, neither reads before: nothing
// may wait for the other direction.
func TestBothWays(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket)
	p := d.accept()
	p.welcome("t1", "")
	const n = 2000
	var writers sync.WaitGroup
	writers.Go(func() {
		for i := range n {
			c.send(toolsCall(fmt.Sprint(i)))
		}
	})
	writers.Go(func() {
		for i := range n {
			p.send(result(fmt.Sprint(i)) + "\n")
		}
	})
	writers.Go(func() {
		for i := range n {
			p.want(toolsCall(fmt.Sprint(i)))
		}
	})
	for i := range n {
		c.want(result(fmt.Sprint(i)))
	}
	writers.Wait()
}

// A daemon that dies again and again under load: every request is answered
// exactly once, and no command is started twice.
func TestHammer(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket, "KILNTAINERS_STDIO_STEADY=0s")

	var mu sync.Mutex
	started := map[string]int{}
	var serving sync.WaitGroup
	stop := make(chan struct{})
	serve := func(conn net.Conn, seed uint64) {
		defer conn.Close()
		rnd := rand.New(rand.NewPCG(seed, 1))
		in := bufio.NewReader(conn)
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		if rnd.IntN(4) == 0 {
			io.WriteString(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 8\r\n\r\nstopping")
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nKilntainers-Resume: t\r\n\r\n")
		for life := rnd.IntN(80); ; life-- {
			line, err := in.ReadBytes('\n')
			if err != nil {
				return
			}
			var m struct {
				ID     json.RawMessage
				Method string
			}
			if err := json.Unmarshal(line, &m); err != nil {
				t.Errorf("a torn line arrived: %q", line)
			}
			if m.Method == "tools/call" {
				mu.Lock()
				started[string(m.ID)]++
				mu.Unlock()
			}
			answer := result(string(m.ID)) + "\n"
			if life == 0 { // die in the middle of an answer
				select {
				case <-stop:
				default:
					io.WriteString(conn, answer[:rnd.IntN(len(answer))])
					return
				}
			}
			if m.ID != nil {
				io.WriteString(conn, answer)
			}
		}
	}
	serving.Go(func() {
		for seed := uint64(0); ; seed++ {
			conn, err := d.ln.Accept()
			if err != nil {
				return
			}
			serve(conn, seed)
		}
	})

	const n = 1000
	go func() {
		c.send(initialize)
		for i := 1; i <= n; i++ {
			c.send(toolsCall(fmt.Sprint(i)))
			if i%50 == 0 {
				time.Sleep(time.Millisecond) // lets some calls meet a daemon that lives
			}
		}
	}()
	answers := map[string]int{}
	for range n + 1 {
		var m struct{ ID json.RawMessage }
		line := c.line()
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("the client got a torn line: %q", line)
		}
		answers[string(m.ID)]++
	}
	close(stop)
	c.in.Close()
	c.wantExit(0, "")
	c.want("EOF")
	d.stop()
	serving.Wait()
	for i := range n + 1 {
		if got := answers[fmt.Sprint(i)]; got != 1 {
			t.Errorf("request %d was answered %d times", i, got)
		}
	}
	for id, times := range started {
		if times > 1 {
			t.Errorf("command %s was started %d times", id, times)
		}
	}
}

// What is tracked of requests is bounded.
func TestTrackBounds(t *testing.T) {
	s := newShim(options{})
	s.stdout = io.Discard
	for i := range 2 * maxCalls {
		s.track(message{id: fmt.Append(nil, i), method: []byte("tools/call")}, nil)
	}
	if len(s.calls) != maxCalls {
		t.Errorf("%d calls, want %d", len(s.calls), maxCalls)
	}
	s = newShim(options{})
	if s.track(message{id: bytes.Repeat([]byte("1"), maxID+1)}, nil); len(s.calls) != 0 {
		t.Error("an id of any length is tracked")
	}
	listen := message{id: []byte("1"), method: []byte("subscriptions/listen")}
	if c := s.track(listen, make([]byte, maxKept+1)); c.line != nil {
		t.Error("a request of any length is kept")
	}
}

// The shim leaves nothing open: what it inherits is all it has.
func TestNoStrayFiles(t *testing.T) {
	d := listen(t)
	c := start(t, d.socket, "KILNTAINERS_STDIO_STEADY=0s")
	for range 20 {
		p := d.accept()
		p.welcome("t", "ready\n")
		c.want("ready")
		p.hangUp()
	}
	p := d.accept()
	p.welcome("t", "ready\n")
	c.want("ready")
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.cmd.Process.Pid))
	if err != nil {
		t.Skip("needs /proc: ", err)
	}
	sockets := 0
	for _, e := range entries {
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", c.cmd.Process.Pid, e.Name()))
		if strings.HasPrefix(target, "socket:") {
			sockets++
		}
	}
	if sockets != 1 {
		t.Errorf("%d sockets are open after 20 reconnects, want 1", sockets)
	}
}
