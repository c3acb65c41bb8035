package e2b

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// A command is one Exec, from the request to its end:
//
//	                   follow: events ─► writers      feed: stdin ─► SendInput
//	run: Start ────────┤                              ▲
//	                   │ ctx ends, or a write fails   │ has ended, or is killed
//	                   ▼                              │
//	                 kill: killScript, until nothing is left
//
// Its contexts are three. That of the caller says when to stop. What goes on
// until nothing is left lives in another, which only the sandbox's end ends.
// The stream's is below that: it is dropped once it is of no more use.
type command struct {
	sandbox *sandbox
	mark    string // in the environment of all that it starts
	word    string // of its endMarks

	abort context.CancelCauseFunc // ends all of it, unfinished
	drop  context.CancelCauseFunc // ends the stream

	pid     uint32
	started chan struct{} // closed when pid is set
	over    chan struct{} // closed when the stream is not read any more

	kills  sync.Once
	killed chan struct{} // closed when what follows is set
	why    error         // what Exec returns
	clean  bool          // nothing is left
}

// Time limits of one command.
const (
	// startTimeout is how long a command may take to be started.
	startTimeout = 30 * time.Second

	// killTimeout is for one try to kill. After killTries of them the sandbox
	// has to go.
	killTimeout = 10 * time.Second
	killTries   = 2

	// endTimeout is how long after a kill the stream may take to end, so that
	// its connection can be used again.
	endTimeout = 2 * time.Second

	// linger is the same after a command that ended by itself. A background
	// process may keep the stream open.
	linger = 50 * time.Millisecond

	// orphanTimeout is how long after its deadline envd itself ends a command,
	// when we are not there any more to do it.
	orphanTimeout = 30 * time.Second
)

// inputSize is how much stdin goes into one request.
const inputSize = 256 << 10

var errBroken = errors.New("the connection to the command broke off")

// Exec runs one command.
func (s *sandbox) Exec(ctx context.Context, e backends.Exec) (backends.Exit, error) {
	if err := s.Err(); err != nil {
		return backends.Exit{}, err
	}
	if ctx.Err() != nil {
		return backends.Exit{}, context.Cause(ctx)
	}
	if e.Stdout == nil {
		e.Stdout = io.Discard
	}
	if e.Stderr == nil {
		e.Stderr = io.Discard
	}
	c := &command{
		sandbox: s,
		mark:    s.marks + "." + rand.Text(),
		word:    rand.Text(),
		started: make(chan struct{}),
		over:    make(chan struct{}),
		killed:  make(chan struct{}),
	}
	req, err := c.request(e)
	if err != nil {
		return notStarted(e, err.Error())
	}
	var life, reading context.Context
	life, c.abort = context.WithCancelCause(context.WithoutCancel(ctx))
	defer c.abort(nil)
	reading, c.drop = context.WithCancelCause(life)
	if err := s.enter(c); err != nil {
		return backends.Exit{}, err
	}
	defer s.leave(c)
	return c.run(ctx, life, reading, req, e)
}

// request is what envd is asked to start.
func (c *command) request(e backends.Exec) (startRequest, error) {
	s := c.sandbox
	args := e.Args
	if len(args) == 0 {
		args = shellArgs(s.shell, e.Command)
	}
	args = append([]string{"/bin/sh", "-c", runScript, "sh", c.word, c.mark}, args...)
	if s.setsid != "" {
		args = append([]string{s.setsid}, args...)
	}
	env := map[string]string{}
	maps.Copy(env, s.backend.spec.Env)
	maps.Copy(env, e.Env)
	env[markName] = c.mark
	for k, v := range env {
		if err := errors.Join(checkText(k), checkText(v)); err != nil {
			return startRequest{}, err
		}
	}
	dir := cmp.Or(e.Dir, s.backend.spec.Dir)
	for _, a := range append(args, dir) {
		if err := checkText(a); err != nil {
			return startRequest{}, err
		}
	}
	return startRequest{
		Process: process{Cmd: args[0], Args: args[1:], Envs: env, Cwd: dir},
		Stdin:   e.Stdin != nil,
	}, nil
}

// notStarted is the end of a command that cannot be started.
func notStarted(e backends.Exec, why string) (backends.Exit, error) {
	if _, err := fmt.Fprintln(e.Stderr, why); err != nil {
		return backends.Exit{}, err
	}
	return backends.Exit{Code: 126}, nil
}

func (c *command) run(ctx, life, reading context.Context, req startRequest, e backends.Exec) (backends.Exit, error) {
	var limit time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		limit = time.Until(deadline) + orphanTimeout
	}
	// A request that is on its way is not given up: what it starts has to be
	// known, to be killed. When ctx has ended it is waited for less patiently.
	patience := time.AfterFunc(startTimeout, func() { c.drop(errSilent) })
	hurry := context.AfterFunc(ctx, func() { patience.Reset(killTimeout) })
	st, err := c.sandbox.envd.start(reading, "", req, limit)
	hurry()
	patience.Stop()

	var exit backends.Exit
	if err == nil {
		watch := context.AfterFunc(ctx, func() { c.kill(life, context.Cause(ctx)) })
		exit, err = c.follow(life, reading, st, e)
		if !watch() {
			c.kill(life, context.Cause(ctx))
		}
	}
	close(c.over)
	return c.finish(ctx, life, exit, err, e)
}

// follow reads the events until the command has ended, and passes on what it
// writes. Without an error the command ended by itself.
func (c *command) follow(life, reading context.Context, st *stream, e backends.Exec) (backends.Exit, error) {
	defer st.close()
	feeding, stopFeeding := context.WithCancel(reading)
	var feed sync.WaitGroup
	defer feed.Wait()
	defer stopFeeding()

	silence := time.AfterFunc(maxSilence, func() { c.drop(errSilent) })
	defer silence.Stop()
	var end *ending
	out, errs := endMark{word: c.word}, endMark{word: c.word}
	failed := false
	write := func(w io.Writer, p []byte) {
		if len(p) == 0 || failed {
			return
		}
		if _, err := w.Write(p); err != nil {
			failed = true
			c.kill(life, err)
		}
	}
	for {
		silence.Reset(maxSilence)
		ev, err := st.next()
		silence.Stop() // a writer may be slow
		ended := out.seen && errs.seen
		switch {
		case err != nil && (ended || end != nil):
			write(e.Stdout, out.rest())
			write(e.Stderr, errs.rest())
			switch {
			case out.seen:
				return backends.Exit{Code: out.code}, nil
			case errs.seen:
				return backends.Exit{Code: errs.code}, nil
			case end.code() == 0: // a setsid that forked; runScript itself was killed, or it would have told
				return backends.Exit{Code: 137}, nil
			}
			return backends.Exit{Code: end.code()}, nil
		case err == io.EOF:
			return backends.Exit{}, io.ErrUnexpectedEOF
		case err != nil:
			if cause := context.Cause(reading); cause != nil {
				err = cause
			}
			return backends.Exit{}, err
		case ev.Start != nil && c.pid == 0:
			c.pid = max(ev.Start.PID, 1)
			close(c.started)
			if e.Stdin != nil {
				feed.Go(func() { c.feed(feeding, life, e.Stdin) })
			}
		case ev.Data != nil:
			write(e.Stdout, out.next(ev.Data.Stdout))
			write(e.Stderr, errs.next(ev.Data.Stderr))
			if !ended && out.seen && errs.seen {
				stopFeeding()
				defer time.AfterFunc(linger, func() { c.drop(nil) }).Stop()
			}
		case ev.End != nil:
			end = ev.End
		}
	}
}

// feed brings stdin to the command, as fast as it reads, until ctx ends.
func (c *command) feed(ctx, life context.Context, in io.Reader) {
	buf := make([]byte, inputSize)
	for empty := 0; empty < 100; empty++ {
		n, err := in.Read(buf)
		if n > 0 {
			empty = 0
			if !c.fed(ctx, life, c.sandbox.envd.sendInput(ctx, c.pid, buf[:n])) {
				return
			}
		}
		if err == io.EOF {
			c.fed(ctx, life, c.sandbox.envd.closeStdin(ctx, c.pid))
			return
		}
		if err != nil {
			c.kill(life, fmt.Errorf("read stdin: %w", err))
			return
		}
	}
	c.kill(life, fmt.Errorf("read stdin: %w", io.ErrNoProgress))
}

// fed tells whether the command takes more stdin. It ends a command that would
// wait for ever for what cannot be brought to it.
func (c *command) fed(ctx, life context.Context, err error) bool {
	switch {
	case err == nil:
		return true
	case ctx.Err() != nil:
	case isCode(err, "unimplemented"):
		c.kill(life, errors.New("this sandbox's server is too old to end stdin; build the template again"))
	case isCode(err, "unavailable"), errors.As(err, new(*lostError)):
		c.kill(life, fmt.Errorf("send stdin: %w", err))
	default: // it has ended, or closed its end
	}
	return false
}

// kill begins to kill all of the command; Exec then returns why. Only the
// first call counts.
func (c *command) kill(life context.Context, why error) {
	c.kills.Do(func() {
		c.why = why
		go func() { // finish waits for it
			defer close(c.killed)
			select {
			case <-c.started:
			case <-c.over:
			case <-life.Done():
			case <-time.After(killTimeout):
			}
			c.clean = c.sandbox.killAll(life, c.mark, c.first())
			time.AfterFunc(endTimeout, func() { c.drop(why) })
		}()
	})
}

// finish returns what Exec does, once nothing is left of a command that did
// not end by itself.
func (c *command) finish(ctx, life context.Context, exit backends.Exit, err error, e backends.Exec) (backends.Exit, error) {
	s := c.sandbox
	asked := true // to kill it, by the caller or a writer
	c.kills.Do(func() { asked = false })
	if !asked {
		if err == nil {
			return exit, nil
		}
		var refused *rpcError
		if errors.As(err, &refused) && c.pid == 0 && refused.refused() {
			return c.refusal(refused, e)
		}
		if state := s.diagnose(life, err); errors.Is(state, backends.ErrGone) {
			return backends.Exit{}, state
		} else if unstarted(err) {
			return backends.Exit{}, cmp.Or(context.Cause(ctx), fmt.Errorf("start command: %w", err))
		}
		c.why = cmp.Or(context.Cause(ctx), fmt.Errorf("%w, so it was ended: %w", errBroken, err))
		c.clean = s.killAll(life, c.mark, c.first())
	} else if <-c.killed; !c.clean {
		s.diagnose(life, c.why) // should it be gone, that is why
	}
	if err := s.Err(); err != nil {
		return backends.Exit{}, err
	}
	if !c.clean || c.pid == 0 && errors.Is(err, errSilent) {
		// What was not found, or may yet be started, ends with the sandbox.
		s.giveUp("a command in it could not be ended, so all of it was", errors.Join(c.why, err))
		if !asked {
			return backends.Exit{}, s.Err()
		}
	}
	return backends.Exit{}, c.why
}

// refusal is the end of a command that envd would not start.
func (c *command) refusal(r *rpcError, e backends.Exec) (backends.Exit, error) {
	if r.Code != "invalid_argument" {
		return backends.Exit{}, fmt.Errorf("start command: %w", r)
	}
	why := r.Message
	if strings.Contains(why, "argument list too long") {
		why = "the command is too long: " + why
	}
	return notStarted(e, why)
}

// first is the command's first process, if that is known and has a session of
// its own; else 0.
func (c *command) first() uint32 {
	select {
	case <-c.started:
		if c.sandbox.setsid != "" {
			return c.pid
		}
	default:
	}
	return 0
}

// killAll kills all of the command with that mark and that first process, and
// reports whether it is sure that nothing is left. A sandbox that is gone has
// nothing left.
func (s *sandbox) killAll(ctx context.Context, mark string, first uint32) bool {
	for try := range killTries {
		if try > 0 && sleep(ctx, 500*time.Millisecond) != nil {
			break
		}
		out, err := s.asRoot(ctx, killScript, mark, strconv.FormatUint(uint64(first), 10))
		if err == nil && out == "clean\n" {
			return true
		}
		s.log.Debug("cannot kill a command yet", "error", err, "said", oneLine(out))
	}
	return errors.Is(s.Err(), backends.ErrGone)
}

// asRoot runs a small script of ours as root, or as who there is.
func (s *sandbox) asRoot(ctx context.Context, script string, args ...string) (out string, err error) {
	for _, user := range []string{"root", ""} {
		call, cancel := context.WithTimeout(ctx, killTimeout)
		out, err = s.script(call, user, script, args...)
		cancel()
		if !isCode(err, "unauthenticated", "permission_denied", "invalid_argument") {
			break
		}
	}
	return out, err
}

// script runs a small script of ours and returns what it says.
func (s *sandbox) script(ctx context.Context, user, script string, args ...string) (string, error) {
	st, err := s.envd.start(ctx, user, startRequest{
		Process: process{Cmd: "/bin/sh", Args: append([]string{"-c", script, "sh"}, args...)},
	}, killTimeout)
	if err != nil {
		return "", err
	}
	defer st.close()
	const most = 4 << 10
	var out []byte
	for {
		switch ev, err := st.next(); {
		case err == io.EOF:
			return string(out), nil
		case err != nil:
			return string(out), err
		case ev.Data != nil && len(out) < most:
			out = append(out, ev.Data.Stdout...)
		}
	}
}
