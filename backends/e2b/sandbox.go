package e2b

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// A sandbox is one virtual machine. Who ends it, ends it once:
//
//	Close ───────────────────────────────┐
//	keep: renewed no more, or gone ──────┤
//	a command: gone, or it cannot be ────┼─► end ─► Done; commands return
//	ended, which ends the sandbox ───────┘    └──► Close asks the service to remove it
//
// Leave ends it here only, see ticket.go.
type sandbox struct {
	backend *Backend
	log     *slog.Logger
	id      string
	name    string // ours, in its metadata
	domain  string // as its service told it; "" = the service's own
	marks   string // how the marks of its commands begin
	envd    envd
	born    time.Time

	shell  string // for commands: the profile's, or what there is
	setsid string // a program that is setsid; "" = there is none

	stopKeeping context.CancelFunc
	done        chan struct{}

	mu       sync.Mutex
	err      error // why it ended; done is closed then
	left     bool  // by Leave: it is not ours any more
	commands map[*command]bool
	expires  time.Time // when the service ends it, unless it is renewed
	capped   bool      // it cannot be renewed beyond that
	removal  *removal  // the last one begun
}

var _ backends.Sandbox = (*sandbox)(nil)

const (
	// renewInterval is the longest time between two renewals. They also find
	// out that an idle sandbox is gone.
	renewInterval = 100 * time.Second

	removeTimeout   = 30 * time.Second
	diagnoseTimeout = 15 * time.Second
)

func newSandboxOf(b *Backend, c created, name string, timeout time.Duration) *sandbox {
	s := &sandbox{
		backend:  b,
		log:      b.log.With("sandbox", c.ID),
		id:       c.ID,
		name:     name,
		domain:   c.Domain,
		marks:    rand.Text(),
		envd:     envd{client: b.client, url: envdURL(b.options, c), id: c.ID},
		born:     time.Now(),
		done:     make(chan struct{}),
		commands: map[*command]bool{},
		expires:  in(timeout),

		stopKeeping: func() {},
	}
	s.envd.token.Store(&c.Token)
	return s
}

// in is when d will have passed on the clock on the wall, which goes on while
// this machine sleeps, as that of the service does.
func in(d time.Duration) time.Time { return time.Now().Add(d).Round(0) }

// ID is the service's name for the sandbox.
func (s *sandbox) ID() string { return s.id }

// Done is closed when the sandbox is gone, or nobody may use it any more.
func (s *sandbox) Done() <-chan struct{} { return s.done }

// Err tells why.
func (s *sandbox) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// end ends the sandbox for whoever uses it. Only the first reason counts.
func (s *sandbox) end(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = why
	close(s.done)
	s.stopKeeping()
	for c := range s.commands {
		c.abort(why)
	}
}

// enter notes a command, so that it ends with the sandbox.
func (s *sandbox) enter(c *command) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.commands[c] = true
	}
	return s.err
}

func (s *sandbox) leave(c *command) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.commands, c)
}

// Close has the service remove the sandbox. That goes on when ctx ends.
func (s *sandbox) Close(ctx context.Context) error {
	s.end(backends.ErrClosed)
	r := s.remove()
	select {
	case <-r.over:
		return r.err
	case <-ctx.Done():
		select {
		case <-r.over:
			return r.err
		default:
			return fmt.Errorf("remove sandbox %s: %w", s.id, context.Cause(ctx))
		}
	}
}

// A removal is one try to have the sandbox removed.
type removal struct {
	over chan struct{} // closed when err is set
	err  error
}

// remove begins a removal, unless there is one that goes on or went well. What
// was left is not removed.
func (s *sandbox) remove() *removal {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		r := &removal{over: make(chan struct{})}
		close(r.over)
		return r
	}
	if r := s.removal; r != nil {
		select {
		case <-r.over:
			if r.err == nil {
				return r
			}
		default:
			return r
		}
	}
	r := &removal{over: make(chan struct{})}
	s.removal = r
	s.backend.running.Go(func() {
		defer close(r.over)
		ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
		defer cancel()
		if err := s.backend.client.kill(ctx, s.id); err != nil {
			r.err = fmt.Errorf("remove sandbox %s: %w", s.id, err)
		}
	})
	return r
}

// look waits until the sandbox runs commands, and finds out what it has.
func (s *sandbox) look(ctx context.Context) error {
	out, err := s.script(ctx, "", lookScript)
	for err != nil && (errors.As(err, new(*lostError)) || isCode(err, "unavailable", "unknown")) {
		if gone := s.exists(ctx); errors.Is(gone, backends.ErrGone) {
			return gone
		}
		if sleep(ctx, 300*time.Millisecond) != nil {
			break
		}
		out, err = s.script(ctx, "", lookScript)
	}
	if err != nil {
		return err
	}
	found := map[string]string{}
	for _, line := range strings.Split(out, "\n") {
		what, path, _ := strings.Cut(line, " ")
		found[what] = path
	}
	if _, ok := found["ready"]; !ok {
		return errors.New("/bin/sh said something else than it was asked to")
	}
	s.shell, s.setsid = found["shell"], found["setsid"]
	if s.backend.spec.Shell != "" {
		s.shell = s.backend.spec.Shell
	}
	if s.setsid == "" {
		s.log.Warn("the template has no setsid; to end some commands, their sandbox will have to be ended")
	}
	return nil
}

// keep renews the sandbox until it ends, and notices when the service has
// ended it.
func (s *sandbox) keep(ctx context.Context) {
	interval := min(renewInterval, s.backend.options.SandboxTimeout.D()/3)
	for {
		wait := interval - mathrand.N(interval/10+1) // sandboxes that were made together drift apart
		switch err := s.renew(ctx); {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.log.Warn("cannot renew sandbox; it is tried again", "error", err)
			wait /= 4
		}
		s.mu.Lock()
		if left := time.Until(s.expires); s.capped && left < wait {
			wait = max(left+500*time.Millisecond, 2*time.Second)
		}
		s.mu.Unlock()
		if sleep(ctx, wait) != nil {
			return
		}
	}
}

// renew puts the sandbox's end off and asks when it is now.
func (s *sandbox) renew(ctx context.Context) error {
	timeout := s.backend.options.SandboxTimeout.D()
	var refused *apiError
	if !s.isCapped() {
		err := s.backend.client.renew(ctx, s.id, timeout)
		switch {
		case isStatus(err, http.StatusNotFound):
			s.gone()
			return nil
		case errors.As(err, &refused) && (refused.Status == http.StatusBadRequest || refused.Status == http.StatusForbidden):
			// "Max instance length exceeded"
			s.cap(refused.Error())
		case err != nil:
			return err
		}
	}
	l, err := s.backend.client.get(ctx, s.id)
	switch {
	case isStatus(err, http.StatusNotFound):
		s.gone()
		return nil
	case err != nil:
		return err
	case l.State == "paused":
		s.end(&backends.GoneError{Reason: "it was paused from outside"})
		return nil
	}
	left := l.left
	if l.EndAt.IsZero() {
		left = timeout // it does not say, so it is taken at its word
	}
	s.mu.Lock()
	s.expires = in(left)
	s.mu.Unlock()
	if left < timeout*9/10 {
		s.cap("the service gives it less time than it was asked for")
	}
	return nil
}

func (s *sandbox) isCapped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.capped
}

// cap notes that the service lets the sandbox live no longer.
func (s *sandbox) cap(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.capped {
		s.capped = true
		s.log.Info("sandbox cannot be renewed any more", "reason", why)
	}
}

// gone ends a sandbox that the service has no more, and tells why that is.
func (s *sandbox) gone() {
	const slack = 2 * time.Second // between two clocks
	s.mu.Lock()
	reason := "it was removed from outside, or lost by its service"
	if time.Now().After(s.expires.Add(-slack)) {
		reason = "it expired, because it could not be renewed in time"
		if s.capped {
			life := s.expires.Sub(s.born).Round(time.Second)
			reason = fmt.Sprintf("it expired: its service lets a sandbox live no longer than %v", life)
		}
	}
	s.mu.Unlock()
	s.end(&backends.GoneError{Reason: reason})
}

// diagnose finds out what is behind the failure of a request to the sandbox.
// When the sandbox is gone, or does not answer any more, it is ended, and the
// reason returned; nil means that it lives; another error that nobody knows.
func (s *sandbox) diagnose(ctx context.Context, failure error) error {
	ctx, cancel := context.WithTimeout(ctx, diagnoseTimeout)
	defer cancel()
	if err := s.Err(); err != nil {
		return err
	}
	if err := s.exists(ctx); err != nil {
		return err
	}
	err := repeat(ctx, func(error) bool { return true }, func() error { return s.envd.healthy(ctx) })
	if err == nil {
		return nil
	}
	if err := s.exists(ctx); err != nil { // it may have ended this moment
		return err
	}
	s.giveUp("it stopped answering", errors.Join(failure, err))
	return s.Err()
}

// exists asks whether the service has the sandbox, and it runs. If not, it is
// ended, and the reason returned.
func (s *sandbox) exists(ctx context.Context) error {
	l, err := s.backend.client.get(ctx, s.id)
	switch {
	case isStatus(err, http.StatusNotFound):
		s.gone()
		return s.Err()
	case err == nil && l.State == "paused":
		s.end(&backends.GoneError{Reason: "it was paused from outside"})
		return s.Err()
	}
	return err
}

// giveUp ends a sandbox that can be used no more, and has it removed.
func (s *sandbox) giveUp(reason string, cause error) {
	s.end(&backends.GoneError{Reason: reason, Err: cause})
	s.remove()
}
