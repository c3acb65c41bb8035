package modal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	sdk "github.com/modal-labs/modal-client/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kilntainers/kilntainers/backends"
)

// A ticket is the Data of a backends.Ticket: what Modal does not tell whoever
// has the token and the sandbox's id. There is no secret in it.
type ticket struct {
	Name  string    `json:"name"`  // in the tags: so the sandbox is known to be the one
	Marks string    `json:"marks"` // how the marks of commands begin
	Made  time.Time `json:"made"`
}

// leaveTimeout is how long Leave waits for commands that are being started: one
// that starts after the next daemon has looked for what runs would not be
// found.
const leaveTimeout = 5 * time.Second

// newMark makes the mark of a command.
func (s *sandbox) newMark() string { return s.marks + "." + newWord() }

// beginStart notes that a command is on its way to Modal, until
// starting.Done.
func (s *sandbox) beginStart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.starting.Add(1)
	}
	return s.err
}

// Ticket returns what Adopt needs. It is good for as long as Modal has the
// sandbox.
func (s *sandbox) Ticket() (backends.Ticket, error) {
	if err := s.Err(); err != nil {
		return backends.Ticket{}, err
	}
	data, err := json.Marshal(ticket{s.name, s.marks, s.made})
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
	close(s.away)
	close(s.done)
	s.mu.Unlock()

	started := make(chan struct{})
	go func() { s.starting.Wait(); close(started) }() // they end by themselves
	select {
	case <-started:
	case <-time.After(leaveTimeout):
		s.log.Warn("a command may start after its sandbox was left, and so not be ended")
	}
	s.backend.beside.Go(func() {
		s.stop()
		s.beside.Wait()
		s.detach()
	})
}

// adoptPatience is how long Adopt goes on when Modal cannot be reached: the
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
	if t.ID == "" {
		return nil, errors.New("adopt: the ticket is for no sandbox")
	}
	take := func(c *client) (*sandbox, error) { return b.takeOver(ctx, c, t) }
	s, err := retry(b, take)
	for until := time.Now().Add(adoptPatience); status.Code(err) == codes.Unavailable && time.Now().Before(until) && ctx.Err() == nil; {
		s, err = retry(b, take) // the SDK has waited in between
	}
	if err == nil && ctx.Err() != nil {
		s.Leave() // so that it is ended but once, below
		err = context.Cause(ctx)
	}
	if err == nil {
		s.log.Debug("sandbox adopted", "modal", s.id)
		return s, nil
	}
	if !errors.Is(err, backends.ErrGone) {
		b.removeOwn(ctx, t.ID)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, fmt.Errorf("adopt sandbox %s: %w", t.ID, err)
}

// takeOver makes a sandbox of a ticket.
func (b *Backend) takeOver(ctx context.Context, c *client, t backends.Ticket) (*sandbox, error) {
	var from ticket
	if err := json.Unmarshal(t.Data, &from); err != nil || !markWord.MatchString(from.Marks) || from.Name == "" {
		return nil, errors.New("the ticket is not one of this version")
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	box, tags, err := find(ctx, c, t.ID)
	if err != nil {
		return nil, err
	}
	if !b.owns(tags) || tags[tagSandbox] != from.Name {
		return nil, errors.New("it is not the one that the ticket is for")
	}
	s := newSandbox(b, c, box, from.Name)
	s.marks, s.made = from.Marks, from.Made
	if s.isOver(ctx) {
		return nil, s.Err()
	}
	err = s.look(ctx)
	if err == nil {
		err = s.killRunning(ctx)
	}
	if err != nil {
		s.Leave()
		return nil, err
	}
	s.attend()
	return s, nil
}

// find returns a sandbox and its tags.
func find(ctx context.Context, c *client, id string) (*sdk.Sandbox, map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	box, err := c.Sandboxes.FromID(ctx, id, nil)
	var tags map[string]string
	if err == nil {
		tags, err = box.GetTags(ctx, nil)
	}
	if notFound(err) {
		return nil, nil, &backends.GoneError{Reason: "Modal does not know it any more", Err: explain(c.token, err)}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("look for it: %w", err)
	}
	return box, tags, nil
}

// killRunning kills the commands that run in a sandbox that was adopted: those
// of another daemon.
func (s *sandbox) killRunning(ctx context.Context) error {
	const mostRounds = 20
	for range mostRounds {
		call, cancel := context.WithTimeout(ctx, killTimeout)
		out, said := answer{max: maxMarks}, heading{}
		exit, err := s.run(call, command{
			args:   []string{"/bin/sh", "-c", listScript, "sh", s.marks},
			stdout: &out, stderr: &said,
			mark: newWord(), // not one that it lists
		})
		cancel()
		if err != nil {
			return fmt.Errorf("look for the commands that run: %w", err)
		}
		if exit.Code != 0 {
			return fmt.Errorf("look for the commands that run: code %d, %q", exit.Code, said.String())
		}
		if out.String() == "" {
			return nil
		}
		for mark := range strings.FieldsSeq(out.String()) {
			if err := s.kill(ctx, mark); err != nil {
				return fmt.Errorf("%w: %w", errUnkillable, err)
			}
		}
	}
	return errUnkillable
}

// owns tells whether this instance made a sandbox with these tags.
func (b *Backend) owns(tags map[string]string) bool {
	return tags[tagMark] == "true" && tags[tagInstance] == b.spec.Owner.Instance
}

// removeOwn terminates a sandbox that could not be adopted, if it is ours.
func (b *Backend) removeOwn(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	_, err := retry(b, func(c *client) (any, error) {
		box, tags, err := find(ctx, c, id)
		if err != nil || !b.owns(tags) {
			return nil, err
		}
		defer box.Detach()
		return nil, terminate(ctx, box)
	})
	if err != nil && !errors.Is(err, backends.ErrGone) {
		b.log.Error("a sandbox may be left over; it ends by itself, or at the next start", "modal", id, "error", err)
	}
}
