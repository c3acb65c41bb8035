package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// A fake speaks for an agent, and may say whatever it likes.
type fake struct {
	net.Conn
	kills int // calls of Options.Kill
}

func (f *fake) say(t frameType, id uint32, payload ...byte) {
	f.Write(append(appendHeader(nil, t, id, len(payload)), payload...))
}

// hear reads frames up to one of type t, which is not to come if it is 0.
func (f *fake) hear(t frameType) bool {
	for {
		h := make([]byte, headerSize)
		if _, err := io.ReadFull(f, h); err != nil {
			return false
		}
		io.CopyN(io.Discard, f, int64(binary.LittleEndian.Uint32(h)))
		if frameType(h[4]) == t {
			return true
		}
	}
}

func words(ws ...uint32) (b []byte) {
	for _, w := range ws {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

var hello = words(version, 0, helloBash|helloSh)

// newFake is a Client in a synctest bubble, and what it takes for an agent.
func newFake(t *testing.T, o Options) (*Client, *fake) {
	t.Helper()
	ours, theirs := net.Pipe()
	f := &fake{Conn: theirs}
	if o.Kill == nil {
		o.Kill = func(context.Context) error { f.kills++; return nil }
	}
	go f.say(frameHello, 0, hello...)
	c, err := New(t.Context(), ours, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		theirs.Close()
		c.Close()
	})
	return c, f
}

func wantGone(t *testing.T, err error, reason string) {
	t.Helper()
	gone := (*backends.GoneError)(nil)
	if !errors.As(err, &gone) || gone.Reason != reason || !errors.Is(err, backends.ErrGone) {
		t.Errorf("got %v, want a GoneError with reason %q", err, reason)
	}
}

const broke = "what runs in it broke the protocol"

// Each is said in answer to an EXEC with id 1, and ends the sandbox.
func TestHostileAgent(t *testing.T) {
	header := func(n uint32, rest ...byte) []byte { return append(words(n), rest...) }
	exit := func(code, flags uint32) []byte {
		return header(8, append([]byte{0x84, 0, 0, 0, 1, 0, 0, 0}, words(code, flags)...)...)
	}
	for name, test := range map[string]struct {
		says   []byte
		reason string
	}{
		"unknown type":              {header(0, 0x88, 0, 0, 0, 1, 0, 0, 0), broke},
		"type 0":                    {header(0, 0, 0, 0, 0, 1, 0, 0, 0), broke},
		"a frame of the host":       {header(0, 4, 0, 0, 0, 1, 0, 0, 0), broke},
		"egress":                    {header(0, 0x90, 0, 0, 0, 1, 0, 0, 0), broke},
		"reserved byte":             {header(1, 0x82, 0, 1, 0, 1, 0, 0, 0, 'x'), broke},
		"empty output":              {header(0, 0x82, 0, 0, 0, 1, 0, 0, 0), broke},
		"output over the bound":     {header(maxData+1, 0x82, 0, 0, 0, 1, 0, 0, 0), broke},
		"4 GiB of output":           {header(0xffffffff, 0x83, 0, 0, 0, 1, 0, 0, 0), broke},
		"output of nobody":          {header(1, 0x82, 0, 0, 0, 0, 0, 0, 0, 'x'), broke},
		"output of somebody else":   {header(1, 0x82, 0, 0, 0, 2, 0, 0, 0, 'x'), broke},
		"a second HELLO":            {append(header(12, 0x81, 0, 0, 0, 0, 0, 0, 0), hello...), broke},
		"PONG without PING":         {header(0, 0x87, 0, 0, 0, 0, 0, 0, 0), broke},
		"PONG with an id":           {header(0, 0x87, 0, 0, 0, 1, 0, 0, 0), broke},
		"short EXIT":                {header(7, 0x84, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), broke},
		"EXIT of nobody":            {header(8, 0x84, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), broke},
		"EXIT code over 255":        {exit(256, 0), broke},
		"EXIT code negative":        {exit(0xffffffff, 0), broke},
		"EXIT with unknown flag":    {exit(0, 4), broke},
		"two EXITs that say left":   {slices.Concat(exit(0, exitLeft), exit(0, exitLeft)), broke},
		"CREDIT over what was sent": {append(header(4, 0x85, 0, 0, 0, 1, 0, 0, 0), words(6)...), broke},
		"CREDIT of 4 GiB":           {append(header(4, 0x85, 0, 0, 0, 1, 0, 0, 0), words(0xffffffff)...), broke},
		"STDIN_CLOSED with bytes":   {header(1, 0x86, 0, 0, 0, 1, 0, 0, 0, 0), broke},
		"nothing more":              {nil, "its connection ended"},
		"half a header":             {header(8, 0x84), "its connection ended"},
		"half a frame":              {header(8, 0x84, 0, 0, 0, 1, 0, 0, 0, 0), "its connection ended"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, f := newFake(t, Options{})
				go func() {
					f.hear(frameExec)
					go f.hear(0) // so that no write of the Client hangs
					f.Write(test.says)
					if test.reason != broke {
						f.Close()
					}
				}()
				_, err := c.Exec(t.Context(), Command{Exec: backends.Exec{Args: []string{"x"}, Stdin: strings.NewReader("12345")}})
				if name == "two EXITs that say left" && err == nil { // it was taken at the first
					<-c.Done()
					err = c.Err()
				}
				wantGone(t, err, test.reason)
				<-c.Done()
				wantGone(t, c.Err(), test.reason)
				if f.kills != 1 {
					t.Errorf("the engine was asked to kill %d times, want 1", f.kills)
				}
				_, err = c.Exec(t.Context(), Command{Exec: backends.Exec{Args: []string{"x"}}})
				wantGone(t, err, test.reason)
			})
		})
	}
}

func TestStdinOfACommandWithout(t *testing.T) {
	for _, typ := range []frameType{frameCredit, frameStdinClosed} {
		synctest.Test(t, func(t *testing.T) {
			c, f := newFake(t, Options{})
			go func() {
				f.hear(frameExec)
				if typ == frameCredit {
					f.say(typ, 1, words(0)...)
				} else {
					f.say(typ, 1)
				}
				f.hear(0)
			}()
			_, err := c.Exec(t.Context(), Command{Exec: backends.Exec{Args: []string{"x"}}})
			wantGone(t, err, broke)
		})
	}
}

func TestBadHello(t *testing.T) {
	for name, test := range map[string]struct {
		says []byte
		want string
	}{
		"another version": {append(appendHeader(nil, frameHello, 0, 12), words(1, 0, 3)...), "wait for the agent: protocol: version 1, want 2"},
		"unknown shells":  {append(appendHeader(nil, frameHello, 0, 12), words(version, 0, 4)...), "wait for the agent: protocol: HELLO with unknown shells"},
		"another frame":   {appendHeader(nil, framePong, 0, 0), "wait for the agent: protocol: the first frame is no HELLO"},
		"text":            {[]byte("exec /x: no such file"), "wait for the agent: protocol: nonzero reserved bytes"},
		"nothing":         {nil, "wait for the agent: EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go func() {
				theirs.Write(test.says)
				theirs.Close()
			}()
			_, err := New(t.Context(), ours, Options{Kill: func(context.Context) error { t.Error("Kill was called"); return nil }})
			if err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if _, err := ours.Write([]byte{0}); err != io.ErrClosedPipe {
				t.Errorf("New left its stream open")
			}
		})
	}

	t.Run("too late", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer theirs.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if _, err := New(ctx, ours, Options{}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
			}
		})
	})
}

// An agent that takes a KILL and does nothing is ended by the engine.
func TestKillIsNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newFake(t, Options{Grace: 3 * time.Second})
		go f.hear(0)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Exec(ctx, Command{Exec: backends.Exec{Args: []string{"x"}}})
		wantGone(t, err, "a command in it could not be killed")
		if took := time.Since(start); took != 4*time.Second || f.kills != 1 {
			t.Errorf("got %v and %d kills, want 4s and 1", took, f.kills)
		}
	})
}

// One that reads nothing at all cannot hang an Exec, nor a Close.
func TestAgentReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newFake(t, Options{})
		first := make(chan error)
		go func() {
			_, err := c.Exec(t.Context(), Command{Exec: backends.Exec{Args: []string{"x"}}})
			first <- err
		}()
		synctest.Wait()
		// One that has not had its turn is over with its context.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Exec(ctx, Command{Exec: backends.Exec{Args: []string{"x"}}}); err != context.DeadlineExceeded {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
		// That nothing is read the heartbeat notices.
		wantGone(t, <-first, "it stopped answering")
		if f.kills != 1 {
			t.Errorf("got %d kills, want 1", f.kills)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c, f := newFake(t, Options{})
		start := time.Now()
		c.Close()
		if took := time.Since(start); took != time.Second || c.Err() != backends.ErrClosed || f.kills != 0 {
			t.Errorf("got %v, %v, %d kills; want 1s, %v, 0", took, c.Err(), f.kills, backends.ErrClosed)
		}
	})
}

func TestHeartbeat(t *testing.T) {
	// One that answers lives.
	synctest.Test(t, func(t *testing.T) {
		c, f := newFake(t, Options{})
		go func() {
			for f.hear(framePing) {
				f.say(framePong, 0)
			}
		}()
		time.Sleep(time.Hour)
		if err := c.Err(); err != nil {
			t.Errorf("got %v, want nil", err)
		}
		f.Close()
		<-c.Done()
	})
	// One that does not is given up at the fifth beat.
	synctest.Test(t, func(t *testing.T) {
		c, f := newFake(t, Options{Heartbeat: 10 * time.Second})
		start := time.Now()
		go f.hear(0)
		<-c.Done()
		wantGone(t, c.Err(), "it stopped answering")
		if took := time.Since(start); took != 50*time.Second || f.kills != 1 {
			t.Errorf("got %v and %d kills, want 50s and 1", took, f.kills)
		}
	})
}

// Half frames come together, however they are cut.
func TestFramesInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newFake(t, Options{})
		go func() {
			f.hear(frameExec)
			all := append(appendHeader(nil, frameStdout, 1, 5), "hello"...)
			all = append(appendHeader(all, frameExit, 1, 8), words(7, 0)...)
			for i := range all {
				f.Write(all[i : i+1])
			}
		}()
		var out bytes.Buffer
		x, err := c.Exec(t.Context(), Command{Exec: backends.Exec{Args: []string{"x"}, Stdout: &out}})
		if err != nil || x.Code != 7 || out.String() != "hello" {
			t.Errorf("got %+v, %v, %q; want 7 and hello", x, err, &out)
		}
	})
}

// What comes after the kill does not reach the writers.
func TestNoOutputAfterKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newFake(t, Options{})
		go func() {
			f.hear(frameExec)
			f.say(frameStdout, 1, 'a')
			f.hear(frameKill)
			f.say(frameStdout, 1, 'b')
			f.say(frameExit, 1, words(137, 0)...)
		}()
		var out bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Exec(ctx, Command{Exec: backends.Exec{Args: []string{"x"}, Stdout: &out}})
		if err != context.DeadlineExceeded || out.String() != "a" {
			t.Errorf("got %v, %q; want %v, a", err, &out, context.DeadlineExceeded)
		}
	})
}

// EXIT says that processes are left: they may stay, or a kill takes them.
func TestLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newFake(t, Options{})
		heard := make(chan bool, 1)
		go func() {
			f.hear(frameExec)
			f.say(frameExit, 1, words(5, exitLeft)...)
			heard <- f.hear(frameLet)
		}()
		x, err := c.Exec(t.Context(), Command{Exec: backends.Exec{Args: []string{"x"}}})
		if let := <-heard; x.Code != 5 || err != nil || !let {
			t.Errorf("got %+v, %v, LET %v; want 5 and LET", x, err, let)
		}
	})
	synctest.Test(t, func(t *testing.T) { // the kill crosses the EXIT
		c, f := newFake(t, Options{})
		go func() {
			f.hear(frameExec)
			go f.hear(0)
			time.Sleep(time.Second)
			f.say(frameExit, 1, words(0, exitLeft)...)
			time.Sleep(time.Second)
			f.say(frameExit, 1, words(137, 0)...)
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		start := time.Now()
		_, err := c.Exec(ctx, Command{Exec: backends.Exec{Args: []string{"x"}}})
		if took := time.Since(start); err != context.DeadlineExceeded || took != 2*time.Second {
			t.Errorf("got %v after %v, want %v after 2s", err, took, context.DeadlineExceeded)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newFake(t, Options{})
		bye := make(chan bool)
		go func() {
			f.hear(frameBye)
			close(bye)
		}()
		running := make(chan error)
		go func() {
			_, err := c.Exec(t.Context(), Command{Exec: backends.Exec{Args: []string{"x"}}})
			running <- err
		}()
		synctest.Wait()
		go c.Close()
		c.Close()
		<-bye
		if err := <-running; err != backends.ErrClosed {
			t.Errorf("a command that ran got %v, want %v", err, backends.ErrClosed)
		}
		if _, err := c.Exec(t.Context(), Command{Exec: backends.Exec{Args: []string{"x"}}}); err != backends.ErrClosed {
			t.Errorf("a command after it got %v, want %v", err, backends.ErrClosed)
		}
		if c.Err() != backends.ErrClosed || f.kills != 0 {
			t.Errorf("got %v, %d kills; want %v, 0", c.Err(), f.kills, backends.ErrClosed)
		}
	})
}

// The engine's word for why the sandbox ended is better than ours.
func TestKillKnowsTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newFake(t, Options{Kill: func(ctx context.Context) error {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("Kill got no deadline")
			}
			time.Sleep(time.Second)
			return &backends.GoneError{Reason: "it ran out of memory (limit 1g)"}
		}})
		f.Close()
		_, err := c.Exec(t.Context(), Command{Exec: backends.Exec{Args: []string{"x"}}})
		wantGone(t, err, "it ran out of memory (limit 1g)")
	})
}

func TestExecAfterItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newFake(t, Options{})
		cause := errors.New("cause")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if _, err := c.Exec(ctx, Command{Exec: backends.Exec{Args: []string{"x"}}}); err != cause {
			t.Errorf("got %v, want %v", err, cause)
		}
	})
}
