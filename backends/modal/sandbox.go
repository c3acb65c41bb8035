package modal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	sdk "github.com/modal-labs/modal-client/go"

	"github.com/kilntainers/kilntainers/backends"
)

// A sandbox is one sandbox of Modal.
type sandbox struct {
	backend *Backend
	log     *slog.Logger
	id      string // Modal's
	name    string // ours
	marks   string // how the marks of its commands begin
	shell   string
	made    time.Time
	done    chan struct{}
	away    chan struct{}      // closed by Leave
	stop    context.CancelFunc // ends what attend began
	beside  sync.WaitGroup     // that, until it has ended

	starting sync.WaitGroup // commands on their way to Modal; none begins when err is set

	mu      sync.Mutex
	client  *client
	boxes   []*sdk.Sandbox // the last as client sees it; running commands use those before
	err     error          // why done is closed
	left    bool           // by Leave: it is not ours any more
	over    bool           // Modal says that it has ended
	removal *removal       // begun last; nil at first
}

// A removal is an attempt to terminate a sandbox.
type removal struct {
	done chan struct{}
	err  error
}

var _ backends.Sandbox = (*sandbox)(nil)

func newSandbox(b *Backend, c *client, box *sdk.Sandbox, name string) *sandbox {
	return &sandbox{
		backend: b,
		log:     b.log.With("sandbox", name),
		id:      box.SandboxID,
		name:    name,
		marks:   newWord(),
		shell:   b.spec.Shell,
		made:    time.Now(),
		done:    make(chan struct{}),
		away:    make(chan struct{}),
		stop:    func() {},
		client:  c,
		boxes:   []*sdk.Sandbox{box},
	}
}

// ID is Modal's name for it.
func (s *sandbox) ID() string { return s.id }

// Done is closed by Close, or when Modal says that the sandbox has ended.
func (s *sandbox) Done() <-chan struct{} { return s.done }

// Err tells why.
func (s *sandbox) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// end closes Done, for the first reason that is given.
func (s *sandbox) end(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = reason
		close(s.done)
	}
}

// ended notes that Modal ended the sandbox.
func (s *sandbox) ended(reason *backends.GoneError) {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.end(reason)
}

// look waits until the sandbox runs commands, and finds out its shell.
func (s *sandbox) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("no answer in %v", readyTimeout))
	defer cancel()
	out, said := answer{max: maxShell}, heading{}
	exit, err := s.run(ctx, command{args: []string{"/bin/sh", "-c", lookScript}, stdout: &out, stderr: &said})
	shell := strings.TrimSpace(out.String())
	switch {
	case err != nil:
		return fmt.Errorf("the sandbox does not run commands (an image needs a /bin/sh): %w", err)
	case exit.Code != 0 || shell == "":
		return fmt.Errorf("the sandbox does not run commands (an image needs a /bin/sh): code %d, %q", exit.Code, said.String())
	}
	if s.shell == "" {
		s.shell = shell
	}
	return nil
}

// attend begins to wait for the sandbox's end, and to keep it from idling to
// death.
func (s *sandbox) attend() {
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	s.beside.Go(func() { s.watch(ctx) })
	s.beside.Go(func() { s.renew(ctx) })
}

// watch waits until Modal says that the sandbox has ended.
func (s *sandbox) watch(ctx context.Context) {
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		box, c := s.handle()
		code, err := box.Wait(ctx, nil)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			s.ended(gone(code, time.Since(s.made), s.backend.options.SandboxTimeout.D()))
			return
		case notFound(err):
			s.ended(&backends.GoneError{Reason: "Modal does not know it any more", Err: explain(c.token, err)})
			return
		case refused(err):
			s.reconnect(c)
		}
		s.log.Debug("waiting for the end of a sandbox was interrupted", "error", explain(c.token, err))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// renew runs a command now and then, since Modal ends a sandbox in which none
// ran for orphanLife.
func (s *sandbox) renew(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := s.run(call, command{args: []string{"/bin/sh", "-c", ":"}})
		cancel()
		if err != nil && ctx.Err() == nil {
			s.log.Warn("a sandbox could not be renewed", "error", err)
		}
	}
}

// handle returns the sandbox as the newest connection sees it, and that.
func (s *sandbox) handle() (*sdk.Sandbox, *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boxes[len(s.boxes)-1], s.client
}

// reconnect takes the sandbox to another connection than stale, when there is
// one with another token, and reports whether there is.
func (s *sandbox) reconnect(stale *client) bool {
	c, err := s.backend.client(stale)
	if err != nil || c == stale {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == stale {
		box, _ := c.Sandboxes.FromID(context.Background(), s.id, nil) // asks nobody
		s.client, s.boxes = c, append(s.boxes, box)
	}
	return true
}

// isOver asks Modal whether the sandbox has ended, and if so ends it here.
func (s *sandbox) isOver(ctx context.Context) bool {
	box, c := s.handle()
	code, err := box.Poll(ctx, nil)
	switch {
	case err == nil && code != nil:
		s.ended(gone(*code, time.Since(s.made), s.backend.options.SandboxTimeout.D()))
	case notFound(err):
		s.ended(&backends.GoneError{Reason: "Modal does not know it any more", Err: explain(c.token, err)})
	}
	return s.Err() != nil
}

// Close terminates the sandbox. What runs in it returns at once; nil means that
// Modal says it has ended.
func (s *sandbox) Close(ctx context.Context) error {
	s.end(backends.ErrClosed)
	r := s.remove()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return fmt.Errorf("terminate sandbox %s: %w", s.id, context.Cause(ctx))
	}
}

// takeBack terminates a sandbox whose Create failed.
func (s *sandbox) takeBack() {
	s.end(backends.ErrClosed)
	r := s.remove()
	<-r.done
	if r.err != nil {
		s.log.Error("a sandbox is left over; it ends by itself, or at the next start", "error", r.err)
	}
}

// remove begins to terminate the sandbox, unless that is being done or has
// been done. What was left is not terminated.
func (s *sandbox) remove() *removal {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		r := &removal{done: make(chan struct{})}
		close(r.done)
		return r
	}
	if r := s.removal; r != nil {
		select {
		case <-r.done:
			if r.err == nil {
				return r
			}
		default:
			return r
		}
	}
	r := &removal{done: make(chan struct{})}
	s.removal = r
	s.backend.beside.Go(func() {
		defer close(r.done)
		s.stop()
		s.beside.Wait()
		r.err = s.terminate()
	})
	return r
}

// terminate ends the sandbox at Modal, and lets go of it.
func (s *sandbox) terminate() error {
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	for !s.isEnded() {
		box, c := s.handle()
		err := terminate(ctx, box)
		if err == nil {
			break
		}
		if !refused(err) || !s.reconnect(c) {
			return explain(c.token, fmt.Errorf("terminate sandbox %s: %w", s.id, err))
		}
	}
	s.detach()
	return nil
}

// detach lets go of the connections to the sandbox.
func (s *sandbox) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, box := range s.boxes {
		box.Detach()
	}
}

// isEnded reports whether Modal has said that it ended the sandbox.
func (s *sandbox) isEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// errUnkillable is the end of a sandbox with a command that could not be ended
// in another way.
var errUnkillable = errors.New("a command in it could not be stopped")

// sacrifice ends the sandbox because it is the only way to end a command.
func (s *sandbox) sacrifice(why error) {
	s.log.Warn("a sandbox is ended, since a command in it could not be", "error", why)
	s.end(&backends.GoneError{Reason: errUnkillable.Error() + ", so it was ended as a whole", Err: why})
	s.remove()
}
