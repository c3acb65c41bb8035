package e2b

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// A ticket is the Data of a backends.Ticket: what the service does not tell
// whoever has the API key and the sandbox's id.
type ticket struct {
	Service string    `json:"service"` // the address of the control plane
	Name    string    `json:"name"`    // in the metadata: so the sandbox is known to be the one
	Domain  string    `json:"domain,omitempty"`
	Token   string    `json:"token,omitempty"` // of envd, for services that do not tell it twice
	Marks   string    `json:"marks"`           // how the marks of commands begin
	Born    time.Time `json:"born"`
}

// leaveTimeout is how long Leave waits for commands that are being started: one
// that starts after the next daemon has looked for what runs would not be
// found.
const leaveTimeout = 5 * time.Second

// Ticket returns what Adopt needs. It is good for as long as the service has
// the sandbox.
func (s *sandbox) Ticket() (backends.Ticket, error) {
	if err := s.Err(); err != nil {
		return backends.Ticket{}, err
	}
	data, err := json.Marshal(ticket{
		Service: s.backend.client.api,
		Name:    s.name,
		Domain:  s.domain,
		Token:   string(*s.envd.token.Load()),
		Marks:   s.marks,
		Born:    s.born,
	})
	return backends.Ticket{ID: s.id, Data: data}, err
}

// Leave stops renewing the sandbox and lets go of its commands, which run on
// until Adopt ends them.
func (s *sandbox) Leave() {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err, s.left = backends.ErrClosed, true
	close(s.done)
	s.stopKeeping()
	var commands []*command
	for c := range s.commands {
		commands = append(commands, c)
	}
	s.mu.Unlock()

	patience, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	for _, c := range commands {
		select {
		case <-c.started:
		case <-c.over:
		case <-patience.Done():
			s.log.Warn("a command may start after its sandbox was left, and so not be ended")
		}
		c.abort(backends.ErrClosed)
	}
}

// adoptPatience is how long Adopt goes on when the service cannot be reached: the
// network may come up just now, as this daemon does, and to give up is to lose
// the sandbox. It is shorter in tests.
var adoptPatience = 15 * time.Second

// markWord is the look of what marks begin with. It goes into a pattern.
var markWord = regexp.MustCompile(`^[A-Z2-7]+$`)

// Adopt takes over a sandbox that another daemon left, or had when it died.
func (b *Backend) Adopt(ctx context.Context, t backends.Ticket) (backends.Sandbox, error) {
	if t.File != nil {
		_ = t.File.Close() // not one of ours
	}
	if !sandboxID.MatchString(t.ID) {
		return nil, fmt.Errorf("adopt: %q is not the name of a sandbox", oneLine(t.ID))
	}
	s, err := b.takeOver(ctx, t)
	for until := time.Now().Add(adoptPatience); again(err) && time.Now().Before(until) && sleep(ctx, time.Second) == nil; {
		s, err = b.takeOver(ctx, t)
	}
	if err == nil && ctx.Err() != nil {
		s.end(backends.ErrClosed)
		err = context.Cause(ctx)
	}
	if err == nil {
		s.log.Debug("sandbox adopted")
		return s, nil
	}
	if !isStatus(err, http.StatusNotFound) {
		b.removeOwn(ctx, t.ID)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, fmt.Errorf("adopt sandbox %s: %w", t.ID, err)
}

// takeOver makes a sandbox of a ticket.
func (b *Backend) takeOver(ctx context.Context, t backends.Ticket) (*sandbox, error) {
	var from ticket
	switch err := json.Unmarshal(t.Data, &from); {
	case err != nil:
		return nil, errors.New("the ticket is not one of this version")
	case from.Service != b.client.api:
		return nil, fmt.Errorf("it is at another service than the profile's, %s", hostOf(b.client.api))
	}
	c := created{ID: t.ID, Domain: from.Domain}
	if !markWord.MatchString(from.Marks) || from.Name == "" || c.check() != nil {
		return nil, errors.New("the ticket is not one of this version")
	}
	l, err := b.client.get(ctx, t.ID)
	switch {
	case isStatus(err, http.StatusNotFound):
		return nil, &backends.GoneError{Reason: "it expired or was removed while no daemon held it", Err: err}
	case err != nil:
		return nil, explain(err)
	case !b.owns(l) || l.Metadata[metaSandbox] != from.Name:
		return nil, errors.New("it is not the one that the ticket is for")
	case l.State == "paused":
		return nil, &backends.GoneError{Reason: "it was paused from outside"}
	}
	c.Token = cmp.Or(l.Token, Secret(from.Token))
	s := newSandboxOf(b, c, from.Name, b.options.SandboxTimeout.D())
	s.marks, s.born = from.Marks, from.Born
	if !l.EndAt.IsZero() {
		s.expires = in(l.left)
	}
	s.startKeeping() // which renews it at once: there may not be much time left
	ready, cancel := readySoon(ctx)
	defer cancel()
	err = s.look(ready)
	if err == nil {
		err = s.killRunning(ctx)
	}
	if err != nil {
		s.end(backends.ErrClosed)
		return nil, err
	}
	return s, nil
}

// killRunning kills the commands that run in a sandbox that was adopted: those
// of another daemon.
func (s *sandbox) killRunning(ctx context.Context) error {
	const mostRounds = 20
	for range mostRounds {
		out, err := s.asRoot(ctx, listScript, s.marks)
		if err != nil {
			return fmt.Errorf("look for the commands that run: %w", err)
		}
		list, whole := strings.CutSuffix(out, "listed\n")
		if !whole {
			return errors.New("look for the commands that run: the template lacks one of cat, tr, grep, sort and head")
		}
		if list == "" {
			return nil
		}
		for mark := range strings.FieldsSeq(list) {
			if !s.killAll(ctx, mark, 0) {
				return cmp.Or(s.Err(), error(errUnkillable))
			}
		}
	}
	return errUnkillable
}

var errUnkillable = errors.New("a command that ran in it could not be ended")

// owns tells whether this instance made the sandbox.
func (b *Backend) owns(l listed) bool {
	return l.Metadata[metaMark] == "true" && l.Metadata[metaInstance] == b.spec.Owner.Instance
}

// removeOwn ends a sandbox that could not be adopted, if it is ours.
func (b *Backend) removeOwn(ctx context.Context, id string) {
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	switch l, err := b.client.get(call, id); {
	case isStatus(err, http.StatusNotFound):
	case err != nil:
		b.log.Error("a sandbox may be left over; the service ends it by itself", "sandbox", id, "error", err)
	case b.owns(l):
		b.removeFailed(ctx, id)
	}
}
