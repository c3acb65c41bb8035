// Command load does what many clients do at once, for the tests beside it, on
// the machine where the daemon runs.
//
//	kilntainers-stdio, a process for each client ─┐
//	HTTP with a session, one TCP connection each ─┼─► kilntainersd
//	HTTP of 2026-07-28, sandbox named by header  ─┘
//
// Each client has a sandbox with a file of its own in it, and always two
// commands under way there: one that is short, anew 20 ms after it has ended,
// and one that takes two seconds. What is not answered well is counted. Once
// all have a sandbox it writes "ready", and for each line on stdin what was
// counted since the last:
//
//	{"shim":{"calls":1840,"cut":0,"lost":0,"fresh":0,"errors":[]},"http":{…}}
//
// With --activations it does none of this, but stops the service so many times
// and writes how many milliseconds the next client waited for initialize; with
// --stand-in it is that service, and does nothing but answer, so that what the
// rest costs can be told. With --edges it comes so many times just when an idle daemon leaves, and writes
// how many daemons it met.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

const (
	pause    = 20 * time.Millisecond
	duration = "2"                    // of the long commands
	settling = 300 * time.Millisecond // systemd is busy for a while after a stop
)

func main() {
	profile := flag.String("profile", "debian", "")
	clients := flag.Int("clients", 8, "of the shim, and as many over HTTP")
	url := flag.String("url", "http://127.0.0.1:8435", "")
	activations := flag.Int("activations", 0, "")
	standIn := flag.Bool("stand-in", false, "")
	edges := flag.Int("edges", 0, "")
	flag.Parse()
	err := error(nil)
	switch {
	case *activations > 0:
		err = activate(*profile, *activations)
	case *standIn:
		err = standInFor()
	case *edges > 0:
		err = edge(*profile, *url+"/mcp/"+*profile, *edges)
	default:
		err = run(*profile, *clients, *url+"/mcp/"+*profile)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(profile string, clients int, url string) error {
	var shim, web counts
	var first sync.WaitGroup
	failed := make(chan error, 2*clients)
	for n := range 2 * clients {
		open, counts := func() (client, error) { return dialShim(profile) }, &shim
		if n >= clients {
			open, counts = func() (client, error) { return dialHTTP(url, n%2 == 0, n) }, &web
		}
		first.Go(func() {
			c, err := open()
			if err != nil {
				failed <- err
				return
			}
			u := &user{client: c, counts: counts, name: fmt.Sprintf("client-%d", n)}
			if err := u.mark(); err != nil {
				failed <- err
				return
			}
			go u.work("", pause)
			go u.work("sleep "+duration+"; ", 0)
		})
	}
	first.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		b, err := json.Marshal(map[string]tally{"shim": shim.take(), "http": web.take()})
		if err != nil {
			return err
		}
		fmt.Printf("%s\n", b)
	}
	return nil
}

// activate is a client that finds the service stopped.
func activate(profile string, times int) error {
	for range times {
		if _, err := systemctl("stop", "kilntainers.service"); err != nil {
			return err
		}
		time.Sleep(settling)
		began := time.Now()
		if err := greet(profile); err != nil {
			return err
		}
		fmt.Printf("%.3f\n", time.Since(began).Seconds()*1000)
	}
	return nil
}

// standInFor answers the first client of the first socket that systemd hands
// over as far as greet looks.
func standInFor() error {
	l, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		return err
	}
	notify, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	if _, err := notify.Write([]byte("READY=1")); err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		for in := bufio.NewScanner(c); in.Scan(); {
			if strings.Contains(in.Text(), `"initialize"`) {
				fmt.Fprintln(c, `{"serverInfo":{}}`)
			}
		}
		_ = c.Close()
	}
}

// edge is a client that comes just when the daemon leaves, which it does after
// a second without one: somewhat later each time, until it finds another
// daemon than the last time, and then somewhat earlier. It comes by the shim
// and over HTTP, turn about.
func edge(profile, url string, times int) error {
	pause, last, daemons := time.Second, "", 0
	for n := range times {
		if err := look(profile, url, n%2 == 0); err != nil {
			return err
		}
		pid, err := systemctl("show", "--value", "--property", "MainPID", "kilntainers.service")
		if err != nil {
			return err
		}
		if pid == last {
			pause += 15 * time.Millisecond
		} else {
			pause -= 10 * time.Millisecond
			daemons++
		}
		last = pid
		time.Sleep(pause)
	}
	fmt.Println(daemons)
	return nil
}

// look is a client that asks one thing and leaves no session behind.
func look(profile, url string, overHTTP bool) error {
	if overHTTP {
		w, err := dialHTTP(url, false, 0)
		if err != nil {
			return err
		}
		defer w.http.CloseIdleConnections()
		res, err := w.post("tools/list", "{"+meta+"}", modern("tools/list"))
		if err != nil {
			return err
		}
		_, err = read(res)
		return err
	}
	cmd := exec.Command("kilntainers-stdio", "--drain", "--profile", profile)
	cmd.Stdin = strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":` + initialize + "}\n")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(`"serverInfo"`)) {
		return fmt.Errorf("the shim: %w: %s", err, out)
	}
	return nil
}

func systemctl(args ...string) (string, error) {
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("systemctl %q: %w: %s", args, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// greet is a client that connects as the shim does, has initialize answered
// and leaves.
func greet(profile string) error {
	c, err := net.Dial("unix", "/run/kilntainers/kilntainers.sock")
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = fmt.Fprintf(c, "GET /stdio/%s HTTP/1.1\r\nHost: k\r\nConnection: Upgrade\r\nUpgrade: kilntainers-stdio/1\r\n\r\n"+
		`{"jsonrpc":"2.0","id":1,"method":"initialize","params":%s}`+"\n", profile, initialize)
	if err != nil {
		return err
	}
	line := ""
	for r := bufio.NewReader(c); !strings.Contains(line, `"serverInfo"`); {
		if line, err = r.ReadString('\n'); err != nil {
			return fmt.Errorf("the daemon does not answer: %w", err)
		}
	}
	return nil
}

// A tally is what came of calls.
type tally struct {
	Calls  int      `json:"calls"`  // all of them
	Cut    int      `json:"cut"`    // answered: the daemon restarted, it may or may not have completed
	Lost   int      `json:"lost"`   // not answered, or with any other error
	Fresh  int      `json:"fresh"`  // answered by another sandbox than the one before
	Errors []string `json:"errors"` // the first of the last two kinds
}

type counts struct {
	mu sync.Mutex
	tally
}

func (c *counts) take() tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.tally
	c.tally = tally{}
	return t
}

func (c *counts) add(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Calls++
	switch {
	case err == nil:
		return
	case errors.Is(err, errCut):
		c.Cut++
		return
	case errors.Is(err, errFresh):
		c.Fresh++
	default:
		c.Lost++
	}
	if len(c.Errors) < 10 {
		c.Errors = append(c.Errors, time.Now().Format("15:04:05.000 ")+err.Error())
	}
}

var (
	errCut   = errors.New("the call was cut")
	errFresh = errors.New("another sandbox")
)

// A client runs commands in one sandbox, several at a time.
type client interface {
	// call returns the result of sandbox_exec.
	call(command string) (json.RawMessage, error)
}

// A user works in the sandbox of a client, and knows it by a file there.
type user struct {
	client
	*counts
	name string

	mu sync.Mutex
	n  int
}

// mark makes the file.
func (u *user) mark() error { return u.expect("echo "+u.name+" >/tmp/name", "") }

// work runs a command again and again.
func (u *user) work(before string, pause time.Duration) {
	for {
		u.mu.Lock()
		u.n++
		n := u.n
		u.mu.Unlock()
		err := u.expect(fmt.Sprintf("%scat /tmp/name; echo %d", before, n), fmt.Sprintf("%s\n%d\n", u.name, n))
		u.add(err)
		if errors.Is(err, errFresh) {
			_ = u.mark()
		}
		time.Sleep(pause)
	}
}

// expect runs a command that has to write that.
func (u *user) expect(command, want string) error {
	raw, err := u.call(command)
	if err != nil {
		return err
	}
	var r struct {
		IsError           bool
		Content           []struct{ Text string }
		StructuredContent struct{ Stdout, Stderr, Notice string }
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("%w: %s", err, raw)
	}
	switch got := r.StructuredContent; {
	case r.IsError && len(r.Content) == 1 && strings.Contains(r.Content[0].Text, "may or may not have completed"):
		return errCut
	case r.IsError:
		return fmt.Errorf("%s: %s", command, raw)
	case got.Stdout == want:
		return nil
	case got.Notice != "" || strings.Contains(got.Stderr, "/tmp/name"):
		return fmt.Errorf("%w: %s: %s", errFresh, u.name, raw)
	}
	return fmt.Errorf("%s: %s", command, raw)
}

const initialize = `{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"load","version":"1"}}`

// callOf are the parameters of a call.
func callOf(command, more string) string {
	return fmt.Sprintf(`{"name":"sandbox_exec","arguments":{"command":%q}%s}`, command, more)
}

// An answer is a JSON-RPC response.
type answer struct {
	ID     int
	Result json.RawMessage
	Error  json.RawMessage
}

func (a answer) result() (json.RawMessage, error) {
	if a.Result == nil {
		return nil, fmt.Errorf("refused: %s", a.Error)
	}
	return a.Result, nil
}

// A shim is a client of kilntainers-stdio.
type shim struct {
	in io.Writer

	mu      sync.Mutex
	id      int
	waiting map[int]chan answer
	ended   error
}

func dialShim(profile string) (*shim, error) {
	cmd := exec.Command("kilntainers-stdio", "--profile", profile)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &shim{in: in, waiting: map[int]chan answer{}}
	go s.read(out)
	if _, err := s.ask("initialize", initialize); err != nil {
		return nil, err
	}
	_, err = io.WriteString(in, `{"jsonrpc":"2.0","method":"notifications/initialized"}`+"\n")
	return s, err
}

// read hands the answers to those who wait for them.
func (s *shim) read(out io.Reader) {
	r := bufio.NewReader(out)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ended = fmt.Errorf("the shim ended: %w", err)
			for _, w := range s.waiting {
				close(w)
			}
			return
		}
		var a answer
		if json.Unmarshal(line, &a) != nil || a.ID == 0 {
			continue // a notification
		}
		s.mu.Lock()
		if w := s.waiting[a.ID]; w != nil {
			w <- a
			delete(s.waiting, a.ID)
		}
		s.mu.Unlock()
	}
}

func (s *shim) ask(method, params string) (json.RawMessage, error) {
	wait := make(chan answer, 1)
	s.mu.Lock()
	if s.ended != nil {
		defer s.mu.Unlock()
		return nil, s.ended
	}
	s.id++
	s.waiting[s.id] = wait
	_, err := fmt.Fprintf(s.in, `{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`+"\n", s.id, method, params)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	a, ok := <-wait
	if !ok {
		return nil, s.ended
	}
	return a.result()
}

func (s *shim) call(command string) (json.RawMessage, error) {
	return s.ask("tools/call", callOf(command, ""))
}

// A web is a client over HTTP: with a session, or of the revision that has
// none.
type web struct {
	url  string
	http http.Client
	name string // of the sandbox, in its header; "" = there is a session

	mu      sync.Mutex
	session string
	id      int
}

func dialHTTP(url string, sessions bool, n int) (*web, error) {
	w := &web{url: url, http: http.Client{Transport: &http.Transport{}}}
	if !sessions {
		w.name = fmt.Sprintf("load-%d-%d", os.Getpid(), n)
		return w, nil
	}
	return w, w.open()
}

// open begins a session.
func (w *web) open() error {
	res, err := w.post("initialize", initialize, nil)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.session = res.Header.Get("Mcp-Session-Id")
	w.mu.Unlock()
	if _, err := read(res); err != nil {
		return err
	}
	if res, err = w.post("notifications/initialized", `{}`, w.sessionHeader()); err == nil {
		err = res.Body.Close()
	}
	return err
}

func (w *web) sessionHeader() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return map[string]string{"Mcp-Session-Id": w.session}
}

func (w *web) call(command string) (json.RawMessage, error) {
	header, more := w.sessionHeader(), ""
	if w.name != "" {
		header, more = modern("tools/call"), ","+meta
		header["Kilntainers-Sandbox"], header["Mcp-Name"] = w.name, "sandbox_exec"
	}
	res, err := w.post("tools/call", callOf(command, more), header)
	if err != nil {
		return nil, err
	}
	if res.StatusCode == http.StatusNotFound && w.name == "" {
		_ = w.open()
	}
	return read(res)
}

// What a request of the revision without sessions has, in its parameters and
// in its header.
const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

func modern(method string) map[string]string {
	return map[string]string{"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": method}
}

func (w *web) post(method, params string, header map[string]string) (*http.Response, error) {
	w.mu.Lock()
	w.id++
	id := fmt.Sprintf(`"id":%d,`, w.id)
	w.mu.Unlock()
	if strings.HasPrefix(method, "notifications/") {
		id = ""
	}
	req, err := http.NewRequest(http.MethodPost, w.url, strings.NewReader(fmt.Sprintf(`{"jsonrpc":"2.0",%s"method":%q,"params":%s}`, id, method, params)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	return w.http.Do(req)
}

// read returns the result in a response, which is JSON or an event stream.
func read(res *http.Response) (json.RawMessage, error) {
	body, err := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(body) {
		var a answer
		if json.Unmarshal(bytes.TrimPrefix(line, []byte("data:")), &a) == nil && a.ID != 0 {
			return a.result()
		}
	}
	return nil, fmt.Errorf("answered %s: %s", res.Status, body)
}
