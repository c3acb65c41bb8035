// Package e2btest is a service that speaks E2B's protocol and runs commands as
// processes of this machine. It can be told to fail.
//
//	s := e2btest.New(t)
//	o := e2b.Driver.Options()                       // api_url = s.URL, sandbox_url = s.URL,
//	…                                               // e2b_api_key = e2btest.Key
//	s.Fault(e2btest.Fault{On: "POST /v2/sandboxes", Status: 503, Times: 2})
//
// Control plane and envd are one HTTP server; a request with the header
// E2b-Sandbox-Id is for the envd of that sandbox, as at E2B's own edge. Both
// behave as E2B's do, as far as anything of ours depends on it; that E2B's own
// SDK can work with them is a test (see node). What envd does was tried on
// version 0.6.13:
//
//   - a signal reaches a command's first process only, and what that has
//     started lives on, as it does when the client goes away
//   - the stream of a command ends when nobody has its output open any more
//   - commands have a session and a process group in common: here those of this
//     test, and of a process that does nothing
//
// A sandbox is a directory and a mark in the environment of all its processes.
// When it ends, those with the mark are killed, and those of their process
// groups and sessions; nothing else ever is. So it has no isolation at all:
// what tests run in it they run on this machine. It needs Linux, and its /proc.
package e2btest

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Key is the API key that a Service takes, until it is told another.
const Key = "e2b_0123456789abcdef0123456789abcdef01234567"

// A Service is a control plane and its sandboxes.
type Service struct {
	URL  string
	mark string

	server *httptest.Server
	routes *http.ServeMux

	mu       sync.Mutex
	key      string
	boxes    map[string]*box
	made     int // sandboxes so far
	faults   []*Fault
	requests []Request
	limits   Limits
	old      bool
	envdURL  string
}

// Limits are those of the account. Zero means none.
type Limits struct {
	Sandboxes int           // at once; more get 429 without Retry-After
	Life      time.Duration // of one sandbox; what is asked beyond is cut, …
	Refuse    bool          // … or refused, as some control planes do
}

// A Request is what somebody asked of the service.
type Request struct {
	Route  string // "POST /sandboxes/abc/timeout"
	Query  string
	Header http.Header
	Body   string // its first 64 KiB
}

// A Fault is what goes wrong with requests.
type Fault struct {
	On    string // which, as path.Match has it: "POST /sandboxes/*/timeout"
	Times int    // how many; 0 = all from now on

	Status     int    // answer with this, and do nothing
	Message    string // in the usual form …
	Body       string // … or this instead
	RetryAfter string
	Location   string

	Lose  bool // do it, but cut the connection instead of answering
	Cut   int  // cut the connection after so many bytes of the answer
	Stall bool // do nothing, and do not answer as long as the client waits
}

// New starts a service that ends with the test, and everything in it.
func New(t testing.TB) *Service { return start(t, (*httptest.Server).Start) }

// NewTLS is New with TLS and HTTP/2, as E2B itself has them. Its clients need
// the transport of Client.
func NewTLS(t testing.TB) *Service {
	return start(t, func(s *httptest.Server) {
		s.EnableHTTP2 = true
		s.StartTLS()
	})
}

// Client returns a client that trusts the service.
func (s *Service) Client() *http.Client { return s.server.Client() }

func start(t testing.TB, listen func(*httptest.Server)) *Service {
	t.Helper()
	if err := usable(); err != nil {
		t.Skipf("the fake E2B cannot run here: %v", err)
	}
	s := &Service{mark: rand.Text(), key: Key, boxes: map[string]*box{}}
	s.routes = s.control()
	s.server = httptest.NewUnstartedServer(s)
	listen(s.server)
	s.URL = s.server.URL
	t.Cleanup(s.close)
	return s
}

func (s *Service) close() {
	for _, b := range s.all() {
		s.remove(b)
	}
	s.server.CloseClientConnections()
	s.server.Close()
}

// SetKey changes the API key that is taken.
func (s *Service) SetKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = key
}

// SetLimits changes the account's limits.
func (s *Service) SetLimits(l Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = l
}

// SetOld makes it a control plane of August 2026, without POST /v2/sandboxes.
func (s *Service) SetOld(old bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.old = old
}

// SetEnvd says that sandboxes have a real envd, all of them the one at that
// address: a container that runs envd will do. The service still has a
// directory for each sandbox, but no command is run there. Clients reach the
// envd at its own address.
func (s *Service) SetEnvd(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.envdURL = strings.TrimRight(url, "/")
}

// Fault adds a fault. Of several for one request the oldest counts.
func (s *Service) Fault(f Fault) {
	if _, err := path.Match(f.On, ""); err != nil || f.On == "" {
		panic(fmt.Sprintf("e2btest: %q is not a pattern", f.On))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Times == 0 {
		f.Times = -1
	}
	s.faults = append(s.faults, &f)
}

// Heal ends all faults.
func (s *Service) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Requests returns all requests so far that match the pattern; "" = all.
func (s *Service) Requests(on string) []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Request
	for _, r := range s.requests {
		if ok, _ := path.Match(on, r.Route); ok || on == "" {
			found = append(found, r)
		}
	}
	return found
}

// A Sandbox is what the service knows of one.
type Sandbox struct {
	ID       string
	Metadata map[string]string
	Token    string // for its envd; "" = it takes commands without
	Open     bool   // the world can reach its ports
	Internet bool
	EndAt    time.Time
}

// Sandboxes returns those that live and have the value in their metadata;
// the oldest first.
func (s *Service) Sandboxes(key, value string) []Sandbox {
	var list []Sandbox
	for _, b := range s.all() {
		if v, ok := b.in.Metadata[key]; ok && v == value {
			list = append(list, s.describe(b))
		}
	}
	return list
}

func (s *Service) describe(b *box) Sandbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Sandbox{
		ID: b.id, Metadata: b.in.Metadata, Token: b.token, EndAt: b.endAt,
		Open:     b.in.Network.AllowPublicTraffic == nil || *b.in.Network.AllowPublicTraffic,
		Internet: b.in.Internet == nil || *b.in.Internet,
	}
}

// Leftovers names what lives of an instance of the daemon: sandboxes, and
// processes of sandboxes that do not live any more.
func (s *Service) Leftovers(instance string) []string {
	var left []string
	alive := map[string]bool{}
	for _, b := range s.all() {
		alive[b.id] = true
		if b.in.Metadata["kilntainers.instance"] == instance {
			left = append(left, "sandbox "+b.id)
		}
	}
	for _, p := range marked(s.mark + ".") {
		if box, _, _ := strings.Cut(strings.TrimPrefix(p.mark, s.mark+"."), "."); !alive[box] && !s.has(box) {
			left = append(left, p.String())
		}
	}
	return left
}

func (s *Service) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boxes[id] != nil
}

// Kill ends a sandbox, as its owner would from elsewhere. It reports whether
// there was one.
func (s *Service) Kill(id string) bool {
	s.mu.Lock()
	b := s.boxes[id]
	s.mu.Unlock()
	if b == nil {
		return false
	}
	s.remove(b)
	return true
}

// Pause pauses a sandbox, as its owner would from elsewhere: its envd is not
// reached, and its streams are cut.
func (s *Service) Pause(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.boxes[id]; b != nil && !b.paused && !b.ended {
		b.paused = true
		close(b.cut)
	}
}

// RotateToken gives a sandbox's envd another access token.
func (s *Service) RotateToken(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.boxes[id]; b != nil {
		b.token = "ec_" + rand.Text()
	}
}

// all returns the sandboxes, oldest first.
func (s *Service) all() []*box {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*box
	for _, b := range s.boxes {
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b *box) int { return a.number - b.number })
	return all
}

// ServeHTTP serves control plane and envd, or what is to go wrong.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the client has gone
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	f := s.note(r, body)
	switch {
	case f.Stall:
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	case f.Status != 0:
		for k, v := range map[string]string{"Retry-After": f.RetryAfter, "Location": f.Location} {
			if v != "" {
				w.Header().Set(k, v)
			}
		}
		if f.Body != "" {
			w.WriteHeader(f.Status)
			io.WriteString(w, f.Body)
			return
		}
		refuse(w, f.Status, f.Message)
		return
	case f.Lose:
		w = &cutter{w: httptest.NewRecorder()}
		defer panic(http.ErrAbortHandler)
	case f.Cut > 0:
		w = &cutter{w: w, left: f.Cut}
	}
	if id := r.Header.Get("E2b-Sandbox-Id"); id != "" {
		s.envd(w, r, id)
		return
	}
	s.mu.Lock()
	key := s.key
	s.mu.Unlock()
	if r.Header.Get("X-API-KEY") != key {
		refuse(w, http.StatusUnauthorized, "Invalid API key, please visit https://e2b.dev/docs for more information.")
		return
	}
	s.routes.ServeHTTP(w, r)
}

// note keeps a request, and finds the fault for it.
func (s *Service) note(r *http.Request, body []byte) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	route := r.Method + " " + r.URL.Path
	s.requests = append(s.requests, Request{route, r.URL.RawQuery, r.Header.Clone(), string(body[:min(len(body), 64<<10)])})
	for _, f := range s.faults {
		if ok, _ := path.Match(f.On, route); ok && f.Times != 0 {
			f.Times--
			return *f
		}
	}
	return Fault{}
}

// A cutter passes on the first bytes of an answer and then cuts the
// connection. Of 0 bytes it passes on nothing and does not cut.
type cutter struct {
	w    http.ResponseWriter
	left int
}

func (c *cutter) Header() http.Header    { return c.w.Header() }
func (c *cutter) WriteHeader(status int) { c.w.WriteHeader(status) }

func (c *cutter) Flush() {
	if f, ok := c.w.(http.Flusher); ok {
		f.Flush()
	}
}

func (c *cutter) Write(p []byte) (int, error) {
	if c.left == 0 {
		return c.w.Write(p)
	}
	if len(p) < c.left {
		c.left -= len(p)
		return c.w.Write(p)
	}
	c.w.Write(p[:c.left])
	c.Flush()
	panic(http.ErrAbortHandler)
}

// refuse answers as the control plane, envd's door and the edge do.
func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"code": status, "message": message})
}
