package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"github.com/kilntainers/kilntainers/backends/docker/dockertest"
	"github.com/kilntainers/kilntainers/daemon"
)

// programs builds what users install, once, and returns its folder. The daemon
// is in a folder of its own: the stories have another one.
var programs = sync.OnceValues(func() (string, error) {
	var err error
	if programsDir, err = os.MkdirTemp("", "kiln-programs"); err != nil {
		return "", err
	}
	for _, args := range [][]string{{"-o", programsDir, "../kilntainers", "../kilntainers-stdio"}, {"-o", filepath.Join(programsDir, daemonProgram), "."}} {
		if out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("build the programs: %w\n%s", err, out)
		}
	}
	return programsDir, nil
})

var programsDir string

const daemonProgram = "daemon/kilntainersd"

// tests are those of this package. What they share ends with them.
type tests struct{ *testing.M }

func (m tests) Run() int {
	code := dockertest.Main(m.M)
	_ = os.RemoveAll(programsDir)
	return code
}

// onEngines runs a test on Docker and on Podman.
func onEngines(t *testing.T, f func(t *testing.T, host string)) {
	for name, engine := range map[string]func(testing.TB) string{"docker": dockertest.Docker, "podman": dockertest.Podman} {
		t.Run(name, func(t *testing.T) {
			host := engine(t)
			dockertest.Image(t, host)
			f(t, host)
		})
	}
}

// A product is the installed programs and a folder for everything that they
// write, temporary files too.
type product struct {
	testing.TB
	bin, dir, host string
	engine         *client.Client

	process *exec.Cmd     // the daemon
	ended   chan struct{} // closed once the daemon has been waited for
}

// newProduct prepares profiles on an engine; %HOST% in them is its address and
// %DIR% the folder.
func newProduct(t *testing.T, host, profiles string) *product {
	t.Helper()
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "kiln") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &product{TB: t, bin: bin, dir: dir, host: host, engine: dockertest.Client(t, host)}
	for _, sub := range []string{"tmp", "home", "run"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	p.configure(profiles)
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("the daemon's log:\n%s", log)
		}
	})
	t.Cleanup(func() {
		if p.process != nil {
			p.stop(syscall.SIGTERM)
		}
		if _, err := os.Stat(filepath.Join(dir, "state")); err == nil {
			p.containers(0)
		}
	})
	return p
}

func (p *product) configure(profiles string) {
	p.Helper()
	text := strings.NewReplacer("%HOST%", p.host, "%DIR%", p.dir).Replace("[daemon]\nlisten = [\"unix:%DIR%/run/k.sock\"]\nstate_dir = \"%DIR%/state\"\ncache_dir = \"%DIR%/cache\"\n" + profiles)
	file := filepath.Join(p.dir, "k.toml")
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		p.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		p.Fatal(err)
	}
}

func (p *product) socket() string { return filepath.Join(p.dir, "run", "k.sock") }

// command prepares one of the programs.
func (p *product) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, program), args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(p.dir, "tmp"), "HOME="+filepath.Join(p.dir, "home"),
		"XDG_CONFIG_HOME=", "XDG_CACHE_HOME=", "XDG_RUNTIME_DIR=", "KILNTAINERS_SOCKET="+p.socket())
	return cmd
}

// start starts the daemon and returns when it answers.
func (p *product) start() *product {
	p.Helper()
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.Fatal(err)
	}
	defer log.Close()
	cmd := p.command(daemonProgram, "--config", filepath.Join(p.dir, "k.toml"), "--log-level", "debug")
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		p.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	p.process, p.ended = cmd, ended
	p.until("the daemon answers", func() bool {
		select {
		case <-ended:
			p.Fatalf("the daemon did not start: %v", cmd.ProcessState)
		default:
		}
		c, err := net.Dial("unix", p.socket())
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return p
}

// stop sends the daemon a signal and returns its exit status once it has
// ended, -1 if the signal ended it.
func (p *product) stop(sig syscall.Signal) int {
	p.Helper()
	_ = p.process.Process.Signal(sig)
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		_ = p.process.Process.Kill()
		p.Fatalf("the daemon does not end after %v", sig)
	}
	code := p.process.ProcessState.ExitCode()
	p.process = nil
	return code
}

// until waits for what must come true.
func (p *product) until(what string, ok func() bool) {
	p.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			p.Fatalf("never: %s", what)
		}
	}
}

// status is what the daemon knows of itself.
func (p *product) status() (st daemon.Status) {
	p.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: p.dial}
	res, err := (&http.Client{Transport: tr}).Get("http://kilntainers/-/status")
	if err != nil {
		p.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&st); err != nil {
		p.Fatal(err)
	}
	return st
}

func (p *product) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", p.socket())
}

// containers waits until the engine has n containers of this daemon, in
// whatever state, and returns them.
func (p *product) containers(n int) (have []container.Summary) {
	p.Helper()
	instance, err := os.ReadFile(filepath.Join(p.dir, "state", "instance"))
	if err != nil {
		p.Fatal(err)
	}
	p.until(fmt.Sprintf("there are %d containers", n), func() bool {
		have, err = p.engine.ContainerList(context.Background(), container.ListOptions{All: true,
			Filters: filters.NewArgs(filters.Arg("label", "kilntainers.instance="+strings.TrimSpace(string(instance))))})
		if err != nil {
			p.Fatal(err)
		}
		return len(have) == n
	})
	return have
}

// files lists what the programs have written, but for the socket and the log.
func (p *product) files() (names []string) {
	p.Helper()
	err := filepath.WalkDir(p.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type() != fs.ModeSocket && path != filepath.Join(p.dir, "log") {
			names = append(names, strings.TrimPrefix(path, p.dir))
		}
		return err
	})
	if err != nil {
		p.Fatal(err)
	}
	return names
}

// A brood is a command that starts processes in every way that outlives a
// careless kill. Each of them has the mark in its arguments.
type brood string

func newBrood() brood { return brood(strconv.FormatUint(1e15+rand.Uint64N(1e15), 10)) }

// size is how many sleeps there are.
const broodSize = 6

func (b brood) command() string {
	return strings.ReplaceAll(`trap '' TERM INT HUP QUIT
		sleep 86400.MARK &
		setsid sleep 86400.MARK &
		nohup sleep 86400.MARK >/dev/null 2>&1 &
		(setsid sh -c 'trap "" TERM; sleep 86400.MARK & exec sleep 86400.MARK' &)
		sleep 86400.MARK`, "MARK", string(b))
}

// count counts the processes of this machine, and so of every container on it,
// that sleep for this brood; all counts its shells too.
func (b brood) count() (sleeping, all int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		line, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(line, []byte(b)) {
			continue
		}
		all++
		if bytes.HasPrefix(line, []byte("sleep\x00")) {
			sleeping++
		}
	}
	return sleeping, all
}

// A reply is a result of the tool as a client sees it.
type reply struct {
	IsError           bool
	Content           []struct{ Type, Text string }
	StructuredContent json.RawMessage
	raw               string // the whole message
}

// text is what a model reads, with N for the time that a command took.
func (r reply) text() string {
	if len(r.Content) != 1 {
		return "no text: " + r.raw
	}
	return took.ReplaceAllString(r.Content[0].Text, "${1}N")
}

var took = regexp.MustCompile(`("exec_duration_ms":|\n\[exit code .*, )\d+`)

// output is the result's object.
func (r reply) output(t testing.TB) (o struct {
	Stdout, Stderr, Notice string
	ExitCode               int `json:"exit_code"`
}) {
	t.Helper()
	if err := json.Unmarshal(r.StructuredContent, &o); err != nil || r.IsError {
		t.Fatalf("got %s, want an output", r.raw)
	}
	return o
}

// A caller has a session.
type caller interface {
	call(args string) reply
	leave() // ends the session as clients do
}

// sh runs one shell command.
func sh(c caller, command string) reply { return c.call(arguments("command", command)) }

// arguments writes names and values as a JSON object.
func arguments(pairs ...any) string {
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1]
	}
	b, _ := json.Marshal(m) // strings, numbers and slices of them always encode
	return string(b)
}

const initialize = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"story","version":"1"}}}`

func toolCall(id int, args string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"sandbox_exec","arguments":%s}}`, id, args)
}

// A shim is kilntainers-stdio as an MCP client runs it.
type shim struct {
	*product
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // closed when the shim closes its output
	ended chan struct{}
	id    int
}

func (p *product) shim(profile string) *shim {
	p.Helper()
	s := &shim{product: p, cmd: p.command("kilntainers-stdio", "--profile="+profile), lines: make(chan string, 64), ended: make(chan struct{})}
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		p.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		p.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		p.Fatal(err)
	}
	go func() {
		defer close(s.ended)
		r := bufio.NewReader(out)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				break
			}
			s.lines <- line
		}
		close(s.lines)
		_ = s.cmd.Wait()
	}()
	p.Cleanup(func() { _ = s.in.Close(); s.wait() })
	s.send(initialize)
	s.answer(0)
	s.send(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	return s
}

func (s *shim) leave() {
	s.Helper()
	_ = s.in.Close()
	if code := s.wait(); code != 0 {
		s.Errorf("the shim ended with %d after its input", code)
	}
}

// signal sends the shim a signal and returns its exit status.
func (s *shim) signal(sig syscall.Signal) int {
	s.Helper()
	_ = s.cmd.Process.Signal(sig)
	return s.wait()
}

func (s *shim) wait() int {
	s.Helper()
	late := time.After(time.Minute)
	for lines := s.lines; ; {
		select {
		case _, open := <-lines: // so that it can end
			if !open {
				lines = nil
			}
		case <-s.ended:
			return s.cmd.ProcessState.ExitCode()
		case <-late:
			_ = s.cmd.Process.Kill()
			s.Fatal("the shim does not end")
		}
	}
}

func (s *shim) send(line string) {
	s.Helper()
	if _, err := io.WriteString(s.in, line+"\n"); err != nil {
		s.Fatal(err)
	}
}

// begin sends a call and returns its id.
func (s *shim) begin(args string) int {
	s.Helper()
	s.id++
	s.send(toolCall(s.id, args))
	return s.id
}

// next returns the next message.
func (s *shim) next() string {
	s.Helper()
	select {
	case line, open := <-s.lines:
		if !open {
			s.Fatal("the shim ended, and more was awaited of it")
		}
		return line
	case <-time.After(2 * time.Minute):
		s.Fatal("no message for two minutes")
	}
	return ""
}

// answer waits for the answer to one of these requests.
func (s *shim) answer(ids ...int) reply {
	s.Helper()
	for {
		line := s.next()
		for _, id := range ids {
			if r, mine := parseReply(s, line, id); mine {
				return r
			}
		}
	}
}

func (s *shim) call(args string) reply {
	s.Helper()
	return s.answer(s.begin(args))
}

// parseReply returns the result in a message, if that answers the request.
func parseReply(t testing.TB, message string, id int) (r reply, mine bool) {
	t.Helper()
	var m struct {
		ID     *int
		Result reply
		Error  json.RawMessage
	}
	if err := json.Unmarshal([]byte(message), &m); err != nil {
		t.Fatalf("%v in %q", err, message)
	}
	if m.ID == nil || *m.ID != id {
		return r, false
	}
	if m.Error != nil {
		t.Fatalf("got %s", message)
	}
	m.Result.raw = message
	return m.Result, true
}

// An overHTTP is a client of a profile over HTTP, in a session.
type overHTTP struct {
	*product
	client  http.Client
	url     string
	session string
	id      int
}

func (p *product) http(profile string) *overHTTP {
	p.Helper()
	tr := &http.Transport{DialContext: p.dial}
	p.Cleanup(tr.CloseIdleConnections)
	h := &overHTTP{product: p, client: http.Client{Transport: tr, Timeout: 2 * time.Minute}, url: "http://kilntainers/mcp/" + profile}
	h.post(initialize)
	h.post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	return h
}

// post sends a message and returns those that come back.
func (h *overHTTP) post(message string) (messages []string) {
	h.Helper()
	req, err := http.NewRequest(http.MethodPost, h.url, strings.NewReader(message))
	if err != nil {
		h.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if h.session != "" {
		req.Header.Set("Mcp-Session-Id", h.session)
	}
	res, err := h.client.Do(req)
	if err != nil {
		h.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode >= 300 {
		h.Fatalf("got %s %s %v", res.Status, body, err)
	}
	if id := res.Header.Get("Mcp-Session-Id"); id != "" {
		h.session = id
	}
	for line := range strings.Lines(string(body)) {
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			messages = append(messages, data)
		} else if strings.HasPrefix(line, "{") {
			messages = append(messages, line)
		}
	}
	return messages
}

func (h *overHTTP) call(args string) reply {
	h.Helper()
	h.id++
	for _, m := range h.post(toolCall(h.id, args)) {
		if r, mine := parseReply(h, m, h.id); mine {
			return r
		}
	}
	h.Fatal("no answer")
	return reply{}
}

func (h *overHTTP) leave() {
	h.Helper()
	req, _ := http.NewRequest(http.MethodDelete, h.url, nil)
	req.Header.Set("Mcp-Session-Id", h.session)
	res, err := h.client.Do(req)
	if err != nil {
		h.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		h.Errorf("DELETE: got %s", res.Status)
	}
}

// A gateway is an address of the engine that can go away and come back.
type gateway struct {
	path, host string
	mu         sync.Mutex
	ln         net.Listener
	conns      []net.Conn
	work       sync.WaitGroup
}

func (g *gateway) open(t testing.TB) {
	t.Helper()
	ln, err := net.Listen("unix", g.path)
	if err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	g.ln = ln
	g.mu.Unlock()
	g.work.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			network, address, _ := strings.Cut(g.host, "://")
			e, err := net.Dial(network, address)
			if err != nil {
				_ = c.Close()
				continue
			}
			g.mu.Lock()
			g.conns = append(g.conns, c, e)
			g.mu.Unlock()
			g.work.Go(func() { pass(c, e) })
			g.work.Go(func() { pass(e, c) })
		}
	})
}

// pass copies one direction, and its end.
func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// close makes the engine unreachable, at once and for everybody.
func (g *gateway) close() {
	g.mu.Lock()
	if g.ln != nil {
		_ = g.ln.Close()
		g.ln = nil
	}
	for _, c := range g.conns {
		_ = c.Close()
	}
	g.conns = nil
	g.mu.Unlock()
	g.work.Wait()
}
