package docker

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"

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
	r      *bufio.Reader
	left   int // of the current block of stdout
	stderr tail
}

func newStream(h types.HijackedResponse) *stream {
	// The frames of the agent pass through here in bulk; the buffer that comes
	// with h may hold the first of them already.
	return &stream{conn: h.Conn, r: bufio.NewReaderSize(h.Reader, 64<<10)}
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

func (s *stream) Write(p []byte) (int, error) { return s.conn.Write(p) }

// Close ends Reads and Writes that are under way.
func (s *stream) Close() error { return s.conn.Close() }
