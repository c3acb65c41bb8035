package docker

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"

	"github.com/docker/docker/api/types"
)

// A stream is the attached stdin and stdout of a container: the agent's
// channel. Without a terminal, engines send output in blocks with a header
// (docker/api/types, container attach):
//
//	│ 1 stdout, 2 stderr │ 0 0 0 │ length, 4 bytes, big endian │ bytes …
//
// Reads give stdout alone; what came on stderr is kept for an error message.
type stream struct {
	conn   net.Conn
	raw    net.Conn // what conn wraps
	r      *bufio.Reader
	left   int // of the current block of stdout
	stderr tail
}

func newStream(h types.HijackedResponse, raw net.Conn) *stream {
	// The frames of the agent pass through here in bulk; the buffer that comes
	// with h may hold the first of them already.
	return &stream{conn: h.Conn, raw: raw, r: bufio.NewReaderSize(h.Reader, 64<<10)}
}

func (s *stream) Read(p []byte) (int, error) {
	for s.left == 0 {
		var head [8]byte
		if _, err := io.ReadFull(s.r, head[:]); err != nil {
			return 0, err
		}
		n := binary.BigEndian.Uint32(head[4:])
		if head[0] > 2 || head[1]|head[2]|head[3] != 0 || n > 1<<30 {
			return 0, errors.New("the engine sent something other than an attached stream")
		}
		if head[0] == 1 {
			s.left = int(n)
		} else if _, err := io.CopyN(&s.stderr, s.r, int64(n)); err != nil {
			return 0, err
		}
	}
	n, err := s.r.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

// find drops everything up to and including mark: it is the find that
// agent.Adopt wants. Another daemon may have read before, so it begins anywhere
// in a block or in a header. In front of each byte of the mark there may be
// headers, whose length may look like the mark:
//
//	… J 2 K │ 1 0 0 0 0 0 0 P │ 7 X … Q
//
// No byte of a mark is that of a stream, so behind a part of it either it goes
// on or a header begins. The agent writes nothing behind the mark, so there a
// block ends.
func (s *stream) find(mark []byte) error {
	type place struct{ mark, head int } // so much of each was read; head 0 is in no header
	var at, next []place                // all the places where this may be
	for {
		c, err := s.r.ReadByte()
		if err != nil {
			return err
		}
		next = next[:0]
		for _, p := range append(at, place{}) {
			switch {
			case p.head > 3 || p.head > 0 && c == 0: // its length, its zeros
				p.head = (p.head + 1) % 8
			case p.head == 0 && c == mark[p.mark]:
				p.mark++
			case p.head == 0 && p.mark > 0 && (c == 1 || c == 2):
				p.head = 1
			default:
				continue
			}
			if p.mark == len(mark) {
				s.left = 0
				return nil
			}
			if !slices.Contains(next, p) {
				next = append(next, p)
			}
		}
		at, next = next, at
	}
}

func (s *stream) Write(p []byte) (int, error) { return s.conn.Write(p) }

// Close ends Reads and Writes that are under way.
func (s *stream) Close() error { return s.conn.Close() }
