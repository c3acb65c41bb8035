package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/agent"
)

// A sandbox is one container with the agent as its first process. It lives as
// long as the agent's stream:
//
//	Close ─► client.Close ─► Done ─► remove the container
//	Leave ─► client.Leave ─► Done, and the stream lives on in another descriptor
//	death ─► the stream ends ─► ended: why? remove the container ─► Done
type sandbox struct {
	engine *engine
	log    *slog.Logger
	stream *stream
	client *agent.Client

	id, name string
	shell    string
	env      map[string]string
	memory   backends.Size // its limit
	made     time.Time

	starved atomic.Int64 // when the last command that ended was killed for memory, in Unix nanoseconds; else 0

	stopWait context.CancelFunc // of the wait for the container's end
	over     chan struct{}      // closed after exit is set
	exit     exit

	left    atomic.Bool // to another daemon
	settled sync.Once   // it no longer counts for its engine
}

var _ backends.Sandbox = (*sandbox)(nil)

// ID is the container's name.
func (s *sandbox) ID() string { return s.name }

// Exec runs one command through the agent.
func (s *sandbox) Exec(ctx context.Context, e backends.Exec) (backends.Exit, error) {
	if len(s.env) > 0 {
		// The profile's variables come with each command and not from the
		// engine, which would show them to whoever inspects the container.
		env := maps.Clone(s.env)
		maps.Copy(env, e.Env)
		e.Env = env
	}
	exit, err := s.client.Exec(ctx, agent.Command{Exec: e, Shell: s.shell})
	switch {
	case err != nil:
	case exit.OOM:
		s.starved.Store(time.Now().UnixNano())
	default:
		s.starved.Store(0)
	}
	return exit, err
}

// Done is closed when the agent's stream has ended.
func (s *sandbox) Done() <-chan struct{} { return s.client.Done() }

// Err tells why.
func (s *sandbox) Err() error { return s.client.Err() }

// Close destroys the container. It returns nil when the engine has it no more.
func (s *sandbox) Close(ctx context.Context) error {
	s.client.Close()
	if s.left.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	err := s.engine.remove(ctx, s.id)
	s.settle()
	if err != nil {
		return fmt.Errorf("remove container %s: %w", s.name, err)
	}
	return nil
}

// takeBack removes a container whose Create failed.
func (s *sandbox) takeBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	if err := s.engine.remove(ctx, s.id); err != nil {
		s.log.Error("a container is left over; it is removed at the next start", "engine", s.engine.at(), "error", err)
	}
	if s.stopWait != nil {
		s.stopWait()
		<-s.over
	}
}

// settle ends what goes on beside a container that is no more.
func (s *sandbox) settle() {
	s.settled.Do(func() {
		s.stopWait()
		<-s.over
		s.engine.count(-1)
	})
}

// An exit is how a container ended.
type exit struct {
	code int64
	err  error // the engine did not say
}

// await begins to wait for the container's removal. With AutoRemove, only a
// wait that was begun before the start gets the exit code.
func (s *sandbox) await(ctx context.Context) {
	ctx, s.stopWait = context.WithCancel(context.WithoutCancel(ctx))
	s.over = make(chan struct{})
	done, failed := s.engine.ContainerWait(ctx, s.id, container.WaitConditionRemoved)
	go func() {
		defer close(s.over)
		select {
		case r := <-done:
			s.exit.code = r.StatusCode
			if r.Error != nil {
				s.exit.err = errors.New(r.Error.Message)
			}
		case s.exit.err = <-failed:
		}
	}()
}

// ended is called once, when the stream ended in any way but Close. It removes
// the container and tells why it went, where the engine knows better than the
// agent's client.
func (s *sandbox) ended(ctx context.Context) error {
	defer s.settle()
	at := time.Now()
	var reason string
	if s.dies(ctx) {
		reason = s.reason(ctx, at)
	}
	err := s.engine.remove(ctx, s.id)
	if err != nil {
		s.log.Error("a container could not be removed", "engine", s.engine.at(), "error", err)
	}
	switch {
	case unreachable(err):
		return &backends.GoneError{Reason: "its engine went away", Err: err}
	case reason != "":
		return &backends.GoneError{Reason: reason, Err: s.exit.err}
	}
	return err
}

// dies tells whether the container goes by itself, and then waits for the end
// of that, after which s.exit is known. One that still runs half a second after
// its stream ended does not.
func (s *sandbox) dies(ctx context.Context) bool {
	over := s.over
	for range 10 {
		select {
		case <-over:
			if s.exit.err == nil {
				return true
			}
			over = nil // the engine does not tell any more, so ask it
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return false
		}
		switch in, err := s.engine.ContainerInspect(ctx, s.id); {
		case errdefs.IsNotFound(err):
			late := time.AfterFunc(time.Second, s.stopWait)
			defer late.Stop()
			<-s.over
			return true
		case unreachable(explain(err)), err == nil && in.State != nil && in.State.Running:
			return false
		}
	}
	return false
}

// justNow is how long before a death its reason may have come. A busy engine
// takes seconds to tell of a death.
const justNow = 5 * time.Second

// reason tells why a container went that nobody here removed, and whose stream
// ended at that time.
func (s *sandbox) reason(ctx context.Context, at time.Time) string {
	limit := ""
	if s.memory > 0 {
		limit = fmt.Sprintf(" (limit %v)", s.memory)
	}
	h := s.engine.history(ctx, s.id, s.made)
	if h.code == "" && s.exit.err == nil {
		h.code = strconv.FormatInt(s.exit.code, 10)
	}
	switch {
	case h.oom:
		return "it ran out of memory" + limit
	case h.killed:
		return "it was stopped or removed from outside"
	case h.code == "137" && at.Sub(time.Unix(0, s.starved.Load())) < justNow:
		return "it ran out of memory" + limit
	case h.code == "137":
		return "it was killed from outside or for memory" + limit
	case s.exit.err != nil:
		return "its engine stopped or lost it"
	case h.code == "0":
		return "its first process ended"
	}
	return "its first process ended with status " + h.code
}

// history is what an engine remembers of a container that is gone.
type history struct {
	oom    bool   // the kernel took something for memory just before it died, and nobody killed it then; Podman does not tell
	killed bool   // it was killed or stopped through the engine; Podman does not tell of a forced removal
	code   string // exit status of its first process
}

// history asks the engine. Of the filters only the one by type works on every
// engine.
func (e *engine) history(ctx context.Context, id string, since time.Time) (h history) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	msgs, errs := e.Events(ctx, events.ListOptions{
		// The engine's clock may differ.
		Since:   strconv.FormatInt(since.Add(-10*time.Minute).Unix(), 10),
		Filters: filters.NewArgs(filters.Arg("type", string(events.ContainerEventType))),
	})
	var oom, kill, died int64 // the last of each, in the engine's nanoseconds
	defer func() {
		// What a command was killed for may be told after a kill from outside.
		led := func(at int64) bool { return at != 0 && died-at < int64(justNow) }
		h.oom = led(oom) && !led(kill)
	}()
	for {
		select {
		case m := <-msgs:
			if m.Actor.ID != id {
				continue
			}
			switch m.Action {
			case events.ActionOOM:
				oom = m.TimeNano
			case events.ActionKill:
				h.killed, kill = true, m.TimeNano
			case events.ActionDie:
				h.code, died = m.Actor.Attributes["exitCode"], m.TimeNano
			case events.ActionDestroy, events.ActionRemove:
				return h
			}
		case <-errs:
			return h
		}
	}
}

// remove destroys a container and its anonymous volumes. It returns nil when
// the engine has it no more, whoever removed it.
func (e *engine) remove(ctx context.Context, id string) error {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := e.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		err = explain(err)
		if unreachable(err) {
			return err
		}
		// It is being removed already, or something of it is still in use.
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

// unansweredFor is how long to look for a container whose create was not
// answered: the engine may still be making it.
const unansweredFor = 5 * time.Second

// removeUnanswered removes a container that may or may not come to be there.
func (e *engine) removeUnanswered(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unansweredFor)
	defer cancel()
	for {
		err := e.ContainerRemove(ctx, name, container.RemoveOptions{Force: true, RemoveVolumes: true})
		if err == nil {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			if errdefs.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("remove container %s: %w", name, explain(err))
		}
	}
}
