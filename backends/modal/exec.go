package modal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	sdk "github.com/modal-labs/modal-client/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kilntainers/kilntainers/backends"
)

// Time limits of a command, beside its ctx.
const (
	killTimeout = 20 * time.Second // for the kill to find nothing more
	endTimeout  = 5 * time.Second  // for Modal to say whether the sandbox has ended
	lastTimeout = 5 * time.Second  // without a byte of output, after the command has ended

	// backstop is how long after the end of ctx Modal ends a command by
	// itself: what a daemon that died leaves running.
	backstop = 30 * time.Second
)

// chunk is how much of stdin is sent at once.
const chunk = 256 << 10

// A command is what to run, as it is, and where its streams go.
type command struct {
	args           []string
	dir            string
	env            map[string]string
	stdin          io.Reader
	stdout, stderr io.Writer

	mark string // "" = a new one, that begins as those of the sandbox do
}

// Exec runs a command to its end.
func (s *sandbox) Exec(ctx context.Context, e backends.Exec) (backends.Exit, error) {
	c, err := s.command(ctx, e)
	if err != nil {
		return backends.Exit{}, err
	}
	return s.run(ctx, c)
}

// command turns an Exec into arguments that Modal takes. What is too long for
// them is written to a file first.
func (s *sandbox) command(ctx context.Context, e backends.Exec) (command, error) {
	c := command{args: e.Args, dir: e.Dir, env: maps.Clone(s.backend.spec.Env), stdin: e.Stdin, stdout: e.Stdout, stderr: e.Stderr}
	if c.dir == "" {
		c.dir = s.backend.spec.Dir
	}
	if c.env == nil {
		c.env = map[string]string{}
	}
	maps.Copy(c.env, e.Env)
	for name, value := range c.env {
		if err := checkVariable(name, value); err != nil {
			return c, err
		}
	}
	for _, text := range append([]string{e.Command, c.dir}, e.Args...) {
		if err := checkText("a command", text); err != nil {
			return c, err
		}
	}

	shell, script := s.shell, e.Command
	if len(e.Args) == 0 {
		c.args = []string{shell, "-c", script}
	}
	if fits(argv(newWord(), c.dir, true, s.newMark(), c.args)) {
		return c, nil
	}
	if len(e.Args) > 0 {
		shell, script = "/bin/sh", asScript(e.Args)
	}
	file := "/tmp/.kilntainers-" + newWord()
	if err := s.write(ctx, file, "rm -f "+file+" 2>/dev/null; "+script); err != nil {
		return c, err
	}
	c.args = []string{shell, "-c", ". " + file, shell}
	return c, nil
}

// write makes a file in the sandbox.
func (s *sandbox) write(ctx context.Context, file, text string) error {
	var said heading
	exit, err := s.run(ctx, command{
		args:   []string{"/bin/sh", "-c", `umask 077; mkdir -p /tmp && cat >"$0"`, file},
		stdin:  strings.NewReader(text),
		stderr: &said,
	})
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("the command is too long for an argument, and could not be written to %s: %s", file, said.String())
	}
	return err
}

// run runs a command to its end. Whatever ends it early (ctx, a writer, the end
// of the sandbox) becomes the cause of one context.
func (s *sandbox) run(ctx context.Context, c command) (backends.Exit, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel(nil)
	beside.Go(func() {
		select {
		case <-s.done:
			cancel(s.Err())
		case <-ctx.Done():
		}
	})
	if err := s.Err(); err != nil {
		return backends.Exit{}, err
	}
	if ctx.Err() != nil {
		return backends.Exit{}, context.Cause(ctx)
	}

	mark, end := cmp.Or(c.mark, s.newMark()), newWord()
	if err := s.beginStart(); err != nil {
		return backends.Exit{}, err
	}
	p, err := s.start(ctx, c, mark, end)
	s.starting.Done()
	if err != nil {
		return backends.Exit{}, s.failed(ctx, mark, err)
	}
	out := &output{cancel: cancel, end: end, alive: make(chan struct{}, 1), read: make(chan struct{})}
	out.copy(p.Stdout, c.stdout)
	out.copy(p.Stderr, c.stderr)
	beside.Go(func() { out.copies.Wait(); close(out.read) })
	stdin := s.feed(p.Stdin, c.stdin)
	defer stdin.stop()
	var code int
	var lost error
	ended := make(chan struct{})
	beside.Go(func() {
		code, lost = p.Wait(ctx, nil)
		close(ended)
	})

	select {
	case <-ended:
		if lost == nil && !out.drain(ctx) && code <= 128 {
			cancel(errLost{errors.New("the end of the output did not come")})
		} else if lost != nil {
			cancel(errLost{lost}) // unless that is because ctx has ended
		}
	case <-ctx.Done():
	}
	// Why it ended early is decided by now: what comes of closing the streams
	// is no reason.
	switch cause := context.Cause(ctx); {
	case errors.As(cause, new(errLost)):
		err = s.failed(ctx, mark, cause)
	case cause != nil:
		err = s.stopped(ctx, mark, cause)
	case code > 128 && !out.whole.Load() && s.endsNow(ctx):
		err = s.Err() // the command died with the sandbox
	}
	p.Stdout.Close()
	p.Stderr.Close()
	<-out.read
	if err == nil {
		err = out.failed // with the last bytes
	}
	if err != nil {
		return backends.Exit{}, err
	}
	return backends.Exit{Code: code}, nil
}

// An output passes on what a command writes, until its end word comes or it is
// of no more use.
type output struct {
	cancel context.CancelCauseFunc // told of what fails
	end    string
	copies sync.WaitGroup
	read   chan struct{} // closed when they have ended
	alive  chan struct{} // a byte came
	whole  atomic.Bool   // an end word came

	writing sync.Mutex // one for both streams: they may go to one writer
	failed  error      // of a writer
}

// copy begins to pass on a stream.
func (o *output) copy(from io.Reader, to io.Writer) {
	if to == nil {
		return
	}
	o.copies.Go(func() {
		found, err := copyUntil(writerFunc(func(p []byte) (int, error) {
			o.writing.Lock()
			defer o.writing.Unlock()
			n, err := to.Write(p)
			if err != nil {
				o.failed = err
				o.cancel(err)
			}
			return n, err
		}), readerFunc(func(p []byte) (int, error) {
			n, err := from.Read(p)
			select {
			case o.alive <- struct{}{}:
			default:
			}
			return n, err
		}), o.end)
		if found {
			o.whole.Store(true)
		} else if err != nil {
			o.cancel(errLost{err}) // of no effect after a writer's
		}
	})
}

// drain waits for the rest of the output of a command that has ended, and
// reports whether it came or is of no more use. It gives up on one that neither
// ends nor goes on, as after a command that killed the script around it.
func (o *output) drain(ctx context.Context) bool {
	for {
		select {
		case <-o.read:
			return true
		case <-ctx.Done():
			return true
		case <-o.alive:
		case <-time.After(lastTimeout):
			return false
		}
	}
}

type (
	writerFunc func([]byte) (int, error)
	readerFunc func([]byte) (int, error)
)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
func (f readerFunc) Read(p []byte) (int, error)  { return f(p) }

// endsNow reports whether the sandbox ends, which Modal may say a little later
// than that a command in it has.
func (s *sandbox) endsNow(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	for range 4 {
		if s.isOver(ctx) {
			return true
		}
		select {
		case <-s.done:
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
	return false
}

// errLost is why a command ended early when the connection to it is no more.
type errLost struct{ error }

func (e errLost) Unwrap() error { return e.error }

// start starts a command. It outlives ctx by a little, because a start that is
// broken off may come about all the same.
func (s *sandbox) start(ctx context.Context, c command, mark, end string) (*sdk.ContainerProcess, error) {
	env := maps.Clone(c.env)
	if env == nil {
		env = map[string]string{}
	}
	env[markName] = mark
	params := &sdk.SandboxExecParams{Env: env, Stdout: behavior(c.stdout), Stderr: behavior(c.stderr)}
	if deadline, ok := ctx.Deadline(); ok {
		params.Timeout = (time.Until(deadline) + backstop).Truncate(time.Second)
	}
	args := argv(end, c.dir, c.stdin != nil, mark, c.args)

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	box, conn := s.handle()
	p, err := box.Exec(ctx, args, params)
	if refused(err) && s.reconnect(conn) {
		box, _ = s.handle()
		p, err = box.Exec(ctx, args, params)
	}
	if err != nil && !unmade(err) {
		err = errLost{err}
	}
	return p, err
}

func behavior(w io.Writer) sdk.StdioBehavior {
	if w == nil {
		return sdk.Ignore
	}
	return sdk.Pipe
}

// stopped kills a command that is not to run on, unless the sandbox is gone,
// and returns why.
func (s *sandbox) stopped(ctx context.Context, mark string, why error) error {
	if errors.Is(why, backends.ErrGone) {
		return why
	}
	if err := s.kill(ctx, mark); err != nil && s.Err() == nil {
		s.sacrifice(err)
	}
	return why
}

// failed is called for a command that could not be started, or that was lost.
// It finds out whether the sandbox is gone, kills what may be there of the
// command, and returns what Exec does.
func (s *sandbox) failed(ctx context.Context, mark string, failure error) error {
	lost := errors.As(failure, new(errLost))
	code := status.Code(failure)
	if (lost || code == codes.NotFound || code == codes.FailedPrecondition) && s.endsNow(ctx) {
		return s.Err()
	}
	if lost {
		s.stopped(ctx, mark, failure)
	}
	switch cause := context.Cause(ctx); {
	case cause != nil && !errors.As(cause, new(errLost)):
		return cause
	case s.Err() != nil:
		return s.Err()
	}
	_, c := s.handle()
	return explain(c.token, fmt.Errorf("run the command: %w", failure))
}

// kill kills what has the mark, and returns when nothing of it is left.
func (s *sandbox) kill(ctx context.Context, mark string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	var err error
	for range 2 {
		box, c := s.handle()
		var p *sdk.ContainerProcess
		p, err = box.Exec(ctx, []string{"/bin/sh", "-c", killScript, "sh", mark}, &sdk.SandboxExecParams{
			Stdout: sdk.Ignore, Stderr: sdk.Ignore, Timeout: killTimeout,
		})
		if err == nil {
			var code int
			code, err = p.Wait(ctx, nil)
			if err == nil && code == 0 {
				return nil
			}
			if err == nil {
				err = fmt.Errorf("the kill ended with %d", code)
			}
		}
		err = explain(c.token, err)
		if s.isOver(ctx) || ctx.Err() != nil {
			break
		}
	}
	return err
}

// A feeder sends stdin to a command.
type feeder struct {
	mu      sync.Mutex // held while the Exec's reader is read
	stopped bool
}

// feed begins to send from. The SDK's writes heed no ctx: one to a command that
// does not read returns when the command's stdin is no more, perhaps long after
// Exec. So it is the Backend that waits for it, unless the sandbox is left: then
// that is the next daemon's doing, which may wait for the end of this one.
func (s *sandbox) feed(to io.WriteCloser, from io.Reader) *feeder {
	f := &feeder{}
	if from == nil {
		return f
	}
	over := make(chan struct{})
	s.backend.beside.Go(func() {
		select {
		case <-over:
		case <-s.away:
		}
	})
	go func() {
		defer close(over)
		buf := make([]byte, chunk)
		for {
			n, err := f.read(from, buf)
			if n > 0 {
				if _, werr := to.Write(buf[:n]); werr != nil {
					return // the command reads no more
				}
			}
			if err != nil {
				if !errors.Is(err, errStopped) {
					to.Close() // fails when the command has ended
				}
				return
			}
		}
	}()
	return f
}

var errStopped = errors.New("the command has ended")

func (f *feeder) read(from io.Reader, buf []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return 0, errStopped
	}
	return from.Read(buf)
}

// stop waits for a read that goes on, and prevents the next.
func (f *feeder) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
}
