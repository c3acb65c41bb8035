package daemon

import (
	"errors"
	"fmt"
	"sync"
	"unicode/utf8"
)

// errOutputLimit is what a capture's writers return once a command wrote more
// than its limit; the backend then kills the command.
var errOutputLimit = errors.New("output limit exceeded")

// capture keeps the output of one command, both streams together at most
// limit bytes. It never holds more than that plus one write.
type capture struct {
	mu      sync.Mutex
	left    int64 // what may still come
	over    bool
	stdout  stream
	stderr  stream
	discard bool // on_limit = "discard": nothing is shown after a limit or timeout
}

// A stream is one of a capture's two writers.
type stream struct {
	c    *capture
	name string
	buf  []byte
	seen int64 // bytes the command wrote, kept or not
}

func newCapture(limit int64, discard bool) *capture {
	c := &capture{left: limit, discard: discard}
	c.stdout = stream{c: c, name: "stdout"}
	c.stderr = stream{c: c, name: "stderr"}
	return c
}

// Write keeps p. Exactly the limit is fine; with one byte more everything is
// refused from then on.
func (s *stream) Write(p []byte) (int, error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.seen += int64(len(p))
	if c.over {
		return 0, errOutputLimit
	}
	if int64(len(p)) > c.left {
		c.over = true
		if c.discard {
			c.stdout.buf, c.stderr.buf = nil, nil
			return 0, errOutputLimit
		}
		// The bytes that pass the limit are kept too: they are the tail.
		s.buf = append(s.buf, p...)
		return 0, errOutputLimit
	}
	c.left -= int64(len(p))
	s.buf = append(s.buf, p...)
	return len(p), nil
}

// text is all of the stream.
func (s *stream) text() string { return string(s.buf) }

// headAndTail is what is shown of a stream that was cut short: at most max
// bytes, and a line in the middle that counts what is left out, if anything.
// It cuts between characters.
func (s *stream) headAndTail(max int64) string {
	if s.seen <= max && s.seen == int64(len(s.buf)) {
		return string(s.buf)
	}
	head := runeEnd(s.buf, min(len(s.buf), int(max/2)))
	tail := runeEnd(s.buf, len(s.buf)-min(len(s.buf)-head, int(max-max/2)))
	omitted := s.seen - int64(head) - int64(len(s.buf)-tail)
	return fmt.Sprintf("%s\n[kilntainers: %d of %d bytes of %s left out here]\n%s", s.buf[:head], omitted, s.seen, s.name, s.buf[tail:])
}

// runeEnd moves the cut i back so that it does not split a character.
func runeEnd(b []byte, i int) int {
	for j := i; j >= 0 && j > i-utf8.UTFMax && j < len(b); j-- {
		if utf8.RuneStart(b[j]) {
			return j
		}
	}
	return i
}
