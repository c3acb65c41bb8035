package agent

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"regexp"

	"github.com/kilntainers/kilntainers/backends"
)

// A daemon may die and its sandboxes live on, when somebody keeps a duplicate
// of each stream. Its successor goes on with them:
//
//	Client.State ──────── kept with the duplicate ───────► Adopt
//	Client.Leave, or death at any moment

// State is what Adopt needs to know of a Client's agent. It can be JSON. The
// key is a secret of the channel: who has it, and can have a command's input
// brought in, can end all commands.
type State struct {
	Version int    `json:"version"` // of the protocol
	Key     string `json:"key"`
	Hello   Hello  `json:"hello"`
}

// State returns it, and tells the agent the key; from then on the stream can
// be adopted. On a Client whose channel ended it returns Err.
func (c *Client) State() (State, error) {
	c.tellKey.Do(func() {
		c.write(context.Background(), append(appendHeader(nil, frameKey, 0, keySize), c.key...))
	})
	c.mu.Lock()
	ending := c.cause != nil
	c.mu.Unlock()
	if ending {
		<-c.done
		return State{}, c.err
	}
	return State{Version: version, Key: c.key, Hello: c.hello}, nil
}

// Leave lets go of the agent without ending it. It closes the stream, which a
// duplicate elsewhere keeps alive, and nothing more is said to the agent. Else
// it is like Close: commands that are running return backends.ErrClosed, and
// Options.Kill is not called. What it leaves behind may be half a frame.
func (c *Client) Leave() {
	if c.end(backends.ErrClosed) {
		c.closeRW()
	}
	<-c.done
}

var keyText = regexp.MustCompile(fmt.Sprintf("^[A-Z2-7]{%d}$", keySize))

// Adopt goes on with the agent of a Client that is gone: rw is the same stream,
// and s what State said. Whatever that Client and its commands were doing, and
// wherever it stopped reading and writing, all commands that were running are
// dead when Adopt returns, with all that they started. What commands left
// running that had ended stays.
//
// find has to read rw and drop everything up to and including mark, which
// anything may precede, and to return with the reader just behind it. FindMark
// does that for a plain stream.
//
// ctx bounds Adopt and nothing after it. The Client owns rw, as in New. When
// Adopt fails it has closed rw and has not called Options.Kill; the agent is of
// no more use then. It fails for the State of another version.
func Adopt(ctx context.Context, rw io.ReadWriteCloser, find func(mark []byte) error, s State, o Options) (*Client, error) {
	c := newClient(rw, o)
	c.key, c.hello = s.Key, s.Hello
	c.tellKey.Do(func() {}) // the agent knows it
	if err := c.sync(ctx, find, s); err != nil {
		c.closeRW()
		return nil, fmt.Errorf("adopt the agent: %w", err)
	}
	c.start(bufio.NewReaderSize(rw, headerSize+maxData))
	return c, nil
}

// sync makes both sides meet at the start of a frame.
func (c *Client) sync(ctx context.Context, find func(mark []byte) error, s State) error {
	if s.Version != version {
		return fmt.Errorf("it speaks version %d of the protocol, this daemon %d", s.Version, version)
	}
	if !keyText.MatchString(s.Key) {
		return fmt.Errorf("its key is not %d letters and digits", keySize)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	stop := context.AfterFunc(ctx, func() { c.closeRW() })

	// At once, since the agent may read nothing until it is read from.
	nonce := rand.Text()
	wrote := make(chan error, 1)
	go func() {
		_, err := c.rw.Write(bytes.Repeat([]byte(c.key+nonce), syncCopies))
		if err != nil {
			c.closeRW() // find would wait for ever
		}
		wrote <- err
	}()
	found := find([]byte(nonce))
	if found != nil {
		c.closeRW()
	}
	failed := <-wrote
	switch {
	case !stop():
		return context.Cause(ctx)
	case failed != nil && found == nil:
		return failed
	default:
		return found
	}
}

// FindMark returns what Adopt wants of a stream that r reads as it is.
func FindMark(r io.Reader) func(mark []byte) error {
	return func(mark []byte) error {
		buf := make([]byte, len(mark))
		n := 0 // bytes at the start of buf: the end of what was read, and how the mark begins
		for n < len(mark) {
			// Never more than what is missing, so nothing behind the mark.
			m, err := r.Read(buf[n:])
			n += m
			last := buf[:n]
			for !bytes.HasPrefix(mark, last) {
				last = last[1:]
			}
			n = copy(buf, last)
			if err != nil && n < len(mark) {
				return err
			}
		}
		return nil
	}
}
