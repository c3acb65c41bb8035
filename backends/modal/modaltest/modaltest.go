//go:build linux

// Package modaltest is a Modal for tests: a server that speaks the protocol of
// Modal's SDK, runs what is executed in its sandboxes as processes of this
// machine, and fails on demand.
//
//	m := modaltest.Start(t)          // points the SDK to itself
//	m.Fail("SandboxCreateV2", err)   // the next such call
//	m.Expire(id)                     // as if the sandbox's time were over
//
// The protocol is the SDK's own proto package: two gRPC services on one port,
// the control plane (control.go) and the worker (worker.go). Where the real
// ones are not documented, the fake does what makes life harder: a command's
// output ends only when all who hold it have let go, a timeout kills only the
// command's first process, and a command is started although the client gave
// up on the call.
//
// Processes are killed by their handles, or by a random word in their
// environment, see process.go.
package modaltest

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A Server is a Modal with one account.
type Server struct {
	URL string // for $MODAL_SERVER_URL

	// The token that it takes.
	TokenID, TokenSecret string

	grpc *grpc.Server
	word string // in the environment of all its processes

	mu        sync.Mutex
	calls     map[string]int
	faults    map[string][]fault
	jwt       int             // the generation of workers' tokens that is good
	cut       int             // bytes after which each output stream breaks; 0 = never
	noGPU     bool            // nothing with a GPU is ever scheduled
	missing   map[string]bool // images that do not exist
	shell     string          // in the place of /bin/sh; "" = itself
	apps      map[string]bool
	boxes     map[string]*box
	made      map[string]*box // by idempotency key
	building  int             // images being built now
	mostBuilt int             // at once
}

// A fault is what happens to a call instead of, or beside, what it is for.
type fault struct {
	before func(context.Context) error // in place of the call, when it fails
	after  error                       // in place of the answer
}

// Start starts a server and points the SDK to it until the test ends. Then it
// kills all that runs in its sandboxes.
func Start(t testing.TB) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer("http://" + l.Addr().String())
	served := make(chan struct{})
	go func() { defer close(served); s.grpc.Serve(l) }()
	t.Cleanup(func() {
		s.mu.Lock()
		boxes := s.boxes
		s.boxes = map[string]*box{}
		s.mu.Unlock()
		for _, b := range boxes {
			b.end(pb.GenericResult_GENERIC_STATUS_TERMINATED)
		}
		s.grpc.Stop()
		<-served
	})
	// The SDK takes the address from nowhere but the environment.
	t.Setenv("MODAL_SERVER_URL", s.URL)
	for _, name := range []string{"MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET", "MODAL_PROFILE", "MODAL_ENVIRONMENT"} {
		t.Setenv(name, "")
	}
	t.Setenv("MODAL_CONFIG_PATH", t.TempDir()+"/none")
	return s
}

func newServer(url string) *Server {
	s := &Server{
		URL:         url,
		TokenID:     "ak-" + word(),
		TokenSecret: "as-" + word(),
		word:        word(),
		calls:       map[string]int{},
		faults:      map[string][]fault{},
		missing:     map[string]bool{},
		apps:        map[string]bool{},
		boxes:       map[string]*box{},
		made:        map[string]*box{},
	}
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(100<<20),
		grpc.UnaryInterceptor(func(ctx context.Context, r any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			after, err := s.admit(ctx, info.FullMethod)
			if err != nil {
				return nil, err
			}
			v, err := h(ctx, r)
			if after != nil {
				return nil, after
			}
			return v, err
		}),
		grpc.StreamInterceptor(func(srv any, st grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			after, err := s.admit(st.Context(), info.FullMethod)
			if err != nil {
				return err
			}
			if err := h(srv, st); err != nil {
				return err
			}
			return after
		}))
	pb.RegisterModalClientServer(s.grpc, &control{s: s})
	pb.RegisterTaskCommandRouterServer(s.grpc, &worker{s: s})
	return s
}

// Fail makes the next calls of a method, by its bare name, fail with these
// errors, one each. A nil lets one pass.
func (s *Server) Fail(method string, errs ...error) {
	for _, err := range errs {
		s.add(method, fault{before: func(context.Context) error { return err }})
	}
}

// Lose makes the next n calls of a method do what they do, and then breaks the
// connection instead of answering.
func (s *Server) Lose(method string, n int) {
	for range n {
		s.add(method, fault{after: status.Error(codes.Unavailable, "connection lost before the answer")})
	}
}

// Stall makes the next n calls of a method hang until their caller gives up.
func (s *Server) Stall(method string, n int) {
	for range n {
		s.add(method, fault{before: func(ctx context.Context) error {
			<-ctx.Done()
			return status.FromContextError(ctx.Err()).Err()
		}})
	}
}

// Delay makes the next n calls of a method wait, whether their caller does or
// not, and then go on.
func (s *Server) Delay(method string, n int, d time.Duration) {
	for range n {
		s.add(method, fault{before: func(context.Context) error { time.Sleep(d); return nil }})
	}
}

// Throttle makes the next n calls of a method be asked to come back later.
func (s *Server) Throttle(method string, n int, later time.Duration) {
	st, err := status.New(codes.ResourceExhausted, "rate limit of the account exceeded").WithDetails(
		pb.RPCRetryPolicy_builder{RetryAfterSecs: float32(later.Seconds())}.Build())
	if err != nil {
		panic(err)
	}
	for range n {
		s.Fail(method, st.Err())
	}
}

func (s *Server) add(method string, f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[method] = append(s.faults[method], f)
}

// Heal takes back all faults that have not come about.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.faults)
	s.cut = 0
	s.noGPU = false
}

// Cut breaks each stream of output after so many bytes of it; 0 stops that.
func (s *Server) Cut(after int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut = after
}

// RunOutOfGPUs lets nothing that asks for a GPU be scheduled.
func (s *Server) RunOutOfGPUs() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noGPU = true
}

// Missing makes an image one that does not exist.
func (s *Server) Missing(image string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missing[image] = true
}

// ReplaceShell puts a program in the place of every /bin/sh that is started from
// outside, as root in a sandbox can.
func (s *Server) ReplaceShell(program string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shell = program
}

// RotateWorkerTokens makes all tokens for workers that were given out stale.
func (s *Server) RotateWorkerTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jwt++
}

// SetToken replaces the account's token.
func (s *Server) SetToken(id, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.TokenID, s.TokenSecret = id, secret
}

// Calls tells how often a method was called.
func (s *Server) Calls(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[method]
}

// MostBuilds tells how many builds of images there were at once, at most.
func (s *Server) MostBuilds() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mostBuilt
}

// Expire ends a sandbox as Modal does when its time is over.
func (s *Server) Expire(id string) { s.endBox(id, pb.GenericResult_GENERIC_STATUS_TIMEOUT) }

// Terminate ends a sandbox as somebody else with the token can.
func (s *Server) Terminate(id string) { s.endBox(id, pb.GenericResult_GENERIC_STATUS_TERMINATED) }

// Forget ends a sandbox and any memory of it.
func (s *Server) Forget(id string) {
	s.endBox(id, pb.GenericResult_GENERIC_STATUS_TERMINATED)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.boxes, id)
}

func (s *Server) endBox(id string, why pb.GenericResult_GenericStatus) {
	s.mu.Lock()
	b := s.boxes[id]
	s.mu.Unlock()
	if b == nil {
		panic("modaltest: there is no sandbox " + id)
	}
	b.end(why)
}

// A Sandbox is what the server knows of one that lives.
type Sandbox struct {
	ID         string
	Definition *pb.Sandbox
	Tags       map[string]string
	Image      string
}

// Sandboxes lists the living sandboxes, oldest first.
func (s *Server) Sandboxes() (list []Sandbox) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.oldestFirst() {
		if b.living() {
			list = append(list, Sandbox{b.id, b.definition, b.tags, b.image})
		}
	}
	return list
}

func (s *Server) oldestFirst() (list []*box) {
	for _, b := range s.boxes {
		list = append(list, b)
	}
	slices.SortFunc(list, func(a, b *box) int { return a.created.Compare(b.created) })
	return list
}

// Processes lists what runs in the sandboxes, also in those that have ended.
func (s *Server) Processes() []string { return names(marked(s.word)) }

// admit decides what becomes of a call.
func (s *Server) admit(ctx context.Context, full string) (after error, err error) {
	service, method := path.Dir(full)[1:], path.Base(full)
	md, _ := metadata.FromIncomingContext(ctx)
	header := func(name string) string {
		// The SDK sends the headers of a call twice when it needs a token for it.
		return strings.Join(md.Get(name)[:min(1, len(md.Get(name)))], "")
	}

	s.mu.Lock()
	s.calls[method]++
	var f fault
	if q := s.faults[method]; len(q) > 0 {
		f, s.faults[method] = q[0], q[1:]
	}
	if service == "modal.client.ModalClient" {
		id, secret := header("x-modal-token-id"), header("x-modal-token-secret")
		if id != s.TokenID || secret != s.TokenSecret {
			// Nobody should write the token in an error, but somebody will.
			err = status.Errorf(codes.Unauthenticated, "token %s with %s is not known", id, secret)
		}
	} else if header("authorization") != "Bearer "+s.workerToken() {
		err = status.Error(codes.Unauthenticated, "stale token for a worker")
	}
	s.mu.Unlock()

	if err == nil && f.before != nil {
		err = f.before(ctx)
	}
	return f.after, err
}

// workerToken is the token for workers that is good now: a JWT that is about
// to expire, so that the SDK fetches another one when it is refused.
func (s *Server) workerToken() string {
	payload := fmt.Sprintf(`{"exp":%d,"n":%d}`, 1, s.jwt)
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".sig"
}

// accountToken is the JWT that goes with calls of the control plane.
func accountToken() string {
	payload := fmt.Sprintf(`{"exp":%d}`, time.Now().Add(time.Hour).Unix())
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".sig"
}
