package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// Name is the agent's file name.
const Name = "kilntainers-init"

// Options are what a Client is told about the sandbox behind its stream. The
// zero value is usable.
type Options struct {
	// Log gets what an operator may want to know of the channel, at debug
	// level. nil discards.
	Log *slog.Logger

	// Kill ends the sandbox through its engine: the last resort. A Client
	// calls it once when the channel ended in any way but Close: the agent
	// broke the protocol, went silent, did not kill a command in time, or the
	// stream ended. Its ctx has a deadline. It runs before Done is closed and
	// before the Execs that were running return.
	//
	// The engine often knows better why the sandbox ended. When Kill returns a
	// *backends.GoneError, that one is what Err and Exec return; any other
	// error is logged. nil only closes the stream.
	Kill func(ctx context.Context) error

	// Heartbeat is the time between pings while the channel is idle; 0 is 15 s.
	// An agent that was silent for four of them is given up. The agent itself
	// ends when it heard nothing for 60 s, so longer than 15 s is unwise.
	Heartbeat time.Duration

	// Grace is how long the agent has to kill a command; 0 is 5 s. After it
	// the sandbox is ended.
	Grace time.Duration
}

// Hello is what the agent says of its sandbox when it starts. It is the
// sandbox's word: good for a message, not for a decision on safety.
type Hello struct {
	UID      uint32 // the user that commands run as
	Bash, Sh bool   // /bin/bash, /bin/sh can be run
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
type Client struct{}

// New speaks to the agent at the other end of rw and returns once the agent
// said hello; ctx bounds that wait and nothing after it. The Client owns rw: it
// closes it in Close, when the channel ends, and when New fails. Closing rw
// must end Reads and Writes that are under way.
//
// New does not call Options.Kill when it fails.
func New(ctx context.Context, rw io.ReadWriteCloser, o Options) (*Client, error) {
	return nil, errors.New("agent: under construction")
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
// On a Client whose channel ended it returns Err.
func (c *Client) Exec(ctx context.Context, e Command) (backends.Exit, error) {
	return backends.Exit{}, backends.ErrGone
}

// Hello returns what the agent said first.
func (c *Client) Hello() Hello { return Hello{} }

// Done is closed when the channel has ended and Options.Kill has returned.
func (c *Client) Done() <-chan struct{} { return nil }

// Err is nil until Done is closed; then backends.ErrClosed after Close, or a
// *backends.GoneError with the reason.
func (c *Client) Err() error { return nil }

// Close tells the agent to end, which ends the sandbox, and closes the stream.
// Commands that are running return backends.ErrClosed. It does not call
// Options.Kill. Closing twice is fine.
func (c *Client) Close() error { return nil }
