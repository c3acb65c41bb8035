package agent

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// Options are what a Client is told about the sandbox behind its stream. The
// zero value is usable.
type Options struct {
	// Log gets what an operator may want to know of the channel, at debug
	// level. nil discards.
	Log *slog.Logger

	// Kill ends the sandbox through its engine: the last resort. A Client
	// calls it once when the channel ended in any way but Close or Leave: the agent
	// broke the protocol, went silent, did not kill a command in time, or the
	// stream ended. Its ctx has a deadline. It runs before Done is closed and
	// before the Execs that were running return.
	//
	// The engine often knows better why the sandbox ended. When Kill returns a
	// *backends.GoneError, that one is what Err and Exec return; any other
	// error is logged. nil only closes the stream.
	Kill func(ctx context.Context) error

	// Heartbeat is the time between pings; 0 is 15 s. An agent that was silent
	// for four of them is given up. The agent itself ends when it heard nothing
	// for 60 s, so much longer than 15 s is unwise.
	Heartbeat time.Duration

	// Grace is how long the agent has to kill a command; 0 is 5 s. After it
	// the sandbox is ended.
	Grace time.Duration
}

// connectionEnded is the reason when it is all that is known.
const connectionEnded = "its connection ended"

// killTimeout bounds a call of Options.Kill, byeTimeout the last write.
const (
	killTimeout = 10 * time.Second
	byeTimeout  = time.Second
)

// Hello is what the agent says of its sandbox when it starts. It is the
// sandbox's word: good for a message, not for a decision on safety.
type Hello struct {
	UID  uint32 `json:"uid"`  // the user that commands run as
	Bash bool   `json:"bash"` // /bin/bash can be run
	Sh   bool   `json:"sh"`   // /bin/sh can be run
}

// Command is one command for the agent: the Exec of the contract, and the
// shell of its Spec. Dir "" is the directory the agent was started in, and Env
// comes on top of the agent's own environment, so a backend gives the Spec's
// to its engine or adds them to each Command.
type Command struct {
	backends.Exec
	Shell string // for Exec.Command; "" = /bin/bash if it can be run, else /bin/sh
}

// A Client runs commands through one agent. It is safe for concurrent use.
//
// Its one goroutine reads the frames and hands their payloads to the writers
// of the commands. An Exec writes its own frames, so nothing that the agent
// does can keep the reader from reading, and the two sides cannot wait for
// each other.
type Client struct {
	log       *slog.Logger
	kill      func(context.Context) error
	heartbeat time.Duration
	grace     time.Duration
	hello     Hello
	key       string
	tellKey   sync.Once // see State

	rw      io.ReadWriteCloser
	closeRW func() error
	writing chan struct{} // full while something is written to rw

	silence atomic.Int32 // heartbeats since the agent was heard
	pings   atomic.Int32 // that are not answered

	mu     sync.Mutex
	runs   map[uint32]*run
	lastID uint32
	cause  error          // why the channel is ending; the first cause stays
	beat   *time.Timer    // nil once the channel ended
	beats  sync.WaitGroup // one for each beat that is set

	done chan struct{}
	err  error // set before done is closed
}

// New speaks to the agent at the other end of rw and returns once the agent
// said hello; ctx bounds that wait and nothing after it. The Client owns rw: it
// closes it in Close, when the channel ends, and when New fails. Closing rw
// must end Reads and Writes that are under way.
//
// New does not call Options.Kill when it fails.
func New(ctx context.Context, rw io.ReadWriteCloser, o Options) (*Client, error) {
	c := newClient(rw, o)
	c.key = rand.Text()
	stop := context.AfterFunc(ctx, func() { c.closeRW() })
	in := bufio.NewReaderSize(rw, headerSize+maxData)
	err := readFrame(in, func(f frame) (err error) {
		if f.typ != frameHello {
			return errProtocol("the first frame is no HELLO")
		}
		c.hello, err = parseHello(f.payload)
		return err
	})
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.closeRW()
		return nil, fmt.Errorf("wait for the agent: %w", err)
	}
	c.start(in)
	return c, nil
}

// newClient is a Client that does not run yet.
func newClient(rw io.ReadWriteCloser, o Options) *Client {
	c := &Client{
		log:       o.Log,
		kill:      o.Kill,
		heartbeat: o.Heartbeat,
		grace:     o.Grace,
		rw:        rw,
		closeRW:   sync.OnceValue(rw.Close),
		writing:   make(chan struct{}, 1),
		runs:      map[uint32]*run{},
		done:      make(chan struct{}),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.heartbeat == 0 {
		c.heartbeat = 15 * time.Second
	}
	if c.grace == 0 {
		c.grace = 5 * time.Second
	}
	return c
}

// start starts the reader and the heartbeat.
func (c *Client) start(in *bufio.Reader) {
	c.mu.Lock()
	c.setBeat()
	c.mu.Unlock()
	go c.read(in)
}

// readFrame reads one frame and calls f with it. Its payload lies in the
// buffer of in.
func readFrame(in *bufio.Reader, f func(frame) error) error {
	b, err := in.Peek(headerSize)
	if err != nil {
		return err
	}
	fr, n, err := parseHeader(b)
	if err != nil {
		return err
	}
	if b, err = in.Peek(headerSize + n); err != nil {
		return err
	}
	fr.payload = b[headerSize:]
	if err := f(fr); err != nil {
		return err
	}
	_, err = in.Discard(headerSize + n)
	return err
}

// Hello returns what the agent said first.
func (c *Client) Hello() Hello { return c.hello }

// Done is closed when the channel has ended and Options.Kill has returned.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is nil until Done is closed; then backends.ErrClosed after Close or
// Leave, or a *backends.GoneError with the reason.
func (c *Client) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Close tells the agent to end, which ends the sandbox, and closes the stream.
// Commands that are running return backends.ErrClosed. It does not call
// Options.Kill. Closing twice is fine.
func (c *Client) Close() error {
	if c.end(backends.ErrClosed) {
		t := time.AfterFunc(byeTimeout, func() { c.closeRW() })
		c.send(frameBye, 0)
		t.Stop()
		c.closeRW()
	}
	<-c.done
	return nil
}

// end says why the channel is to end. It reports whether this was the first
// cause.
func (c *Client) end(cause error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return false
	}
	c.cause = cause
	return true
}

// fail ends the channel: the reader sees it closed and does the rest.
func (c *Client) fail(reason string, err error) {
	if c.end(&backends.GoneError{Reason: reason, Err: err}) {
		c.log.Debug("channel to the agent ends", "reason", reason, "err", err)
	}
	c.closeRW()
}

// read is the reader: it ends with the channel, and ends it.
func (c *Client) read(in *bufio.Reader) {
	var err error
	for err == nil {
		err = readFrame(in, c.take)
		c.silence.Store(0)
	}
	reason := connectionEnded
	if protocol := errProtocol(""); errors.As(err, &protocol) {
		reason = "what runs in it broke the protocol"
	}
	c.fail(reason, err)

	c.mu.Lock()
	if c.beat.Stop() {
		c.beats.Done()
	}
	c.beat = nil
	c.err = c.cause
	c.mu.Unlock()
	c.beats.Wait()

	if c.err != backends.ErrClosed && c.kill != nil {
		ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
		err := c.kill(ctx)
		cancel()
		if gone := (*backends.GoneError)(nil); errors.As(err, &gone) {
			c.err = gone
		} else if err != nil {
			c.log.Warn("cannot end the sandbox", "err", err)
		}
	}
	close(c.done)
}

// take acts on one frame. Only what a run is at this moment may be said of it.
func (c *Client) take(f frame) error {
	switch f.typ {
	case frameHello:
		return errProtocol("a second HELLO")
	case framePong:
		if c.pings.Add(-1) < 0 {
			return errProtocol("PONG without PING")
		}
		return nil
	}
	c.mu.Lock()
	r := c.runs[f.id]
	c.mu.Unlock()
	if r == nil {
		return errProtocol(fmt.Sprintf("frame of type 0x%02x for exec %d, which does not run", uint8(f.typ), f.id))
	}
	switch f.typ {
	case frameExit:
		x, err := parseExit(f.payload)
		if err != nil {
			return err
		}
		if r.left && !r.killed.Load() {
			return errProtocol("a second EXIT without KILL")
		}
		if r.left && x.left {
			return errProtocol("a second EXIT that is not the last")
		}
		r.left = x.left
		if !x.left {
			c.forget(r)
		}
		r.exits <- x
		return nil
	case frameCredit:
		return r.stdin.credited(binary.LittleEndian.Uint32(f.payload))
	case frameStdinClosed:
		return r.stdin.closed()
	}
	if r.left {
		return errProtocol("output after EXIT")
	}
	if f.typ == frameStderr {
		r.write(r.stderr, f.payload)
	} else {
		r.write(r.stdout, f.payload)
	}
	return nil
}

// ---- writing

// write sends frames in one write. It fails, and nothing is sent, when ctx
// ends before its turn. When rw fails the channel ends, and that is not an
// error here: whoever waits for an answer waits for Done too.
func (c *Client) write(ctx context.Context, b []byte) error {
	select {
	case c.writing <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-c.writing }()
	if _, err := c.rw.Write(b); err != nil {
		c.fail(connectionEnded, err)
	}
	return nil
}

// send sends a frame without payload.
func (c *Client) send(t frameType, id uint32) {
	c.write(context.Background(), appendHeader(make([]byte, 0, headerSize), t, id, 0))
}

// setBeat sets the next heartbeat. c.mu is held.
func (c *Client) setBeat() {
	c.beats.Add(1)
	c.beat = time.AfterFunc(c.heartbeat, c.ping)
}

func (c *Client) ping() {
	defer c.beats.Done()
	c.mu.Lock()
	if c.beat == nil {
		c.mu.Unlock()
		return
	}
	c.setBeat() // first: the write below may hang, and that must be noticed
	c.mu.Unlock()
	if c.silence.Add(1) > 4 {
		c.fail("it stopped answering", errors.New("no answer to pings"))
		return
	}
	if len(c.writing) > 0 {
		return // something is being sent, which is as good
	}
	c.pings.Add(1)
	c.send(framePing, 0)
}

// ---- commands

// A run is one command that the agent runs.
type run struct {
	id             uint32
	stdout, stderr io.Writer
	stdin          *stdin      // nil if it has none
	killed         atomic.Bool // KILL is sent, or about to be
	left           bool        // EXIT said that processes are left; for the reader only
	exits          chan exit   // two at most
	failed         chan error  // the first error of a writer or of stdin
}

// Exec runs one command as backends.Sandbox.Exec promises. Beyond that:
//
// What could not be started ends with 127 (no such command; no shell in the
// image) or 126 (anything else: not executable, no such directory, too long)
// and has a line that starts with "kilntainers: " on Stderr.
//
// A Stdin whose Read fails is treated like a writer that fails: the command is
// killed, and the error returned, so that no command takes half of its input
// for the whole.
//
// Commands of more than 128 KiB, which is all that the kernel takes as one
// argument, reach the shell in pieces and run as with -c. Of commands that run
// at once, OOM is told of each that fails while the kernel kills something.
//
// On a Client whose channel ended it returns Err.
func (c *Client) Exec(ctx context.Context, e Command) (backends.Exit, error) {
	if ctx.Err() != nil {
		return backends.Exit{}, context.Cause(ctx)
	}
	req := request{dir: e.Dir, args: e.Args, env: e.Env}
	switch {
	case (e.Command == "") == (len(e.Args) == 0):
		return backends.Exit{}, errors.New("exactly one of Command and Args must be set")
	case e.Command != "":
		req.args = shellArgs(e.Shell, e.Command)
		if e.Shell == "" {
			req.flags |= execShell
		}
	}
	r := &run{stdout: e.Stdout, stderr: e.Stderr, exits: make(chan exit, 2), failed: make(chan error, 1)}
	if e.Stdin != nil {
		req.flags |= execStdin
		r.stdin = newStdin()
	}
	if !c.register(r) {
		<-c.done
		return backends.Exit{}, c.err
	}

	// What is known of stdin leaves in one write with the command.
	frames, err := appendExec(nil, r.id, req)
	if err != nil {
		c.forget(r)
		if e.Stderr != nil {
			fmt.Fprintf(e.Stderr, "kilntainers: cannot run the command: %v\n", err)
		}
		return backends.Exit{Code: 126}, nil
	}
	stdin := e.Stdin
	if n, ok := length(stdin); ok && n <= maxData {
		frames, stdin = r.stdin.appendAll(frames, r.id, stdin, n), nil
	}
	if err := c.write(ctx, frames); err != nil {
		c.forget(r)
		return backends.Exit{}, err
	}
	if stdin != nil {
		r.stdin.start(c, r, stdin)
		defer r.stdin.wait()
	}
	return c.wait(ctx, r)
}

// wait waits for r's end, or brings it about.
func (c *Client) wait(ctx context.Context, r *run) (backends.Exit, error) {
	var cause error        // why it is to die
	var grace *time.Timer  // runs since KILL
	canceled := ctx.Done() // until then
	for {
		select {
		case <-canceled:
			cause = context.Cause(ctx)
		case err := <-r.failed:
			if cause == nil {
				cause = err
			}
		case x := <-r.exits:
			if cause == nil {
				select {
				case cause = <-r.failed: // before it ended
				default:
				}
			}
			if cause == nil && x.left {
				cause = context.Cause(ctx)
			}
			switch {
			case !x.left && cause == nil:
				return backends.Exit{Code: x.code, OOM: x.oom}, nil
			case !x.left:
				return backends.Exit{}, cause
			case cause == nil:
				c.forget(r)
				c.send(frameLet, r.id)
				return backends.Exit{Code: x.code, OOM: x.oom}, nil
			}
		case <-c.done:
			return backends.Exit{}, c.err
		}
		if grace == nil {
			canceled = nil
			r.killed.Store(true)
			// The clock first: the write may hang too.
			grace = time.AfterFunc(c.grace, func() {
				c.fail("a command in it could not be killed", errors.New("no answer to KILL"))
			})
			defer grace.Stop()
			r.stdin.stop()
			c.send(frameKill, r.id)
		}
	}
}

// register gives r an id. It fails when the channel is ending.
func (c *Client) register(r *run) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return false
	}
	for {
		c.lastID++
		if _, used := c.runs[c.lastID]; !used && c.lastID != 0 {
			break
		}
	}
	r.id = c.lastID
	c.runs[r.id] = r
	return true
}

// forget ends what the agent may say of r.
func (c *Client) forget(r *run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.runs, r.id)
}

// write hands output to a writer of the command, until one fails or the
// command is to die.
func (r *run) write(w io.Writer, p []byte) {
	if w == nil || r.killed.Load() {
		return
	}
	n, err := w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		r.fail(err)
	}
}

// fail asks for r's death. Only the first error counts.
func (r *run) fail(err error) {
	r.killed.Store(true)
	select {
	case r.failed <- err:
	default:
	}
}
