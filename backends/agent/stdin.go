package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
)

// A stdin is how much of a command's input is with the agent, and the
// goroutine that brings it there, if it takes more than one frame. A nil
// *stdin is that of a command without any.
type stdin struct {
	mu      sync.Mutex
	changed sync.Cond
	with    int  // bytes that the agent has and the command has not
	over    bool // no more is wanted

	pump sync.WaitGroup
}

func newStdin() *stdin {
	s := &stdin{}
	s.changed.L = &s.mu
	return s
}

// length tells how long input is that is in memory already.
func length(r io.Reader) (int, bool) {
	switch r := r.(type) {
	case *strings.Reader:
		return r.Len(), true
	case *bytes.Reader:
		return r.Len(), true
	case *bytes.Buffer:
		return r.Len(), true
	}
	return 0, false
}

// appendAll appends the frames for an input of n bytes, at most maxData, that
// cannot fail.
func (s *stdin) appendAll(frames []byte, id uint32, r io.Reader, n int) []byte {
	if n > 0 {
		frames = appendHeader(frames, frameStdin, id, n)
		frames = append(frames, make([]byte, n)...)
		n, _ = io.ReadFull(r, frames[len(frames)-n:])
		s.with = n
	}
	return appendHeader(frames, frameStdinEOF, id, 0)
}

// start sends in to the agent as fast as the command takes it, until stop.
func (s *stdin) start(c *Client, r *run, in io.Reader) {
	s.pump.Go(func() {
		frame := make([]byte, headerSize+maxData)
		for empty := 0; empty < 100; empty++ {
			n, err := in.Read(frame[headerSize:])
			if !s.take(n) {
				return
			}
			if n > 0 {
				appendHeader(frame[:0], frameStdin, r.id, n)
				c.write(context.Background(), frame[:headerSize+n])
				empty = 0
			}
			if err == io.EOF {
				c.send(frameStdinEOF, r.id)
				return
			}
			if err != nil {
				r.fail(fmt.Errorf("read stdin: %w", err))
				return
			}
		}
		r.fail(fmt.Errorf("read stdin: %w", io.ErrNoProgress))
	})
}

// take waits until the agent has room for n bytes more. It returns false when
// nothing more is wanted, nor the error that ends it.
func (s *stdin) take(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.over && s.with+n > stdinWindow {
		s.changed.Wait()
	}
	s.with += n
	return !s.over
}

// stop makes the pump end after the Read that it is in.
func (s *stdin) stop() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	s.changed.Broadcast()
}

// wait stops the pump and waits for its end.
func (s *stdin) wait() {
	s.stop()
	s.pump.Wait()
}

// credited notes that the command took n bytes.
func (s *stdin) credited(n uint32) error {
	if s == nil {
		return errProtocol("CREDIT for a command without stdin")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if uint64(n) > uint64(s.with) {
		return errProtocol("CREDIT for more than was sent")
	}
	s.with -= int(n)
	s.changed.Broadcast()
	return nil
}

// closed notes that the command reads no more.
func (s *stdin) closed() error {
	if s == nil {
		return errProtocol("STDIN_CLOSED for a command without stdin")
	}
	s.stop()
	return nil
}
