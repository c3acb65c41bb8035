package main

import (
	"bytes"
	"errors"
	"io"
)

// errTooLong says that a line does not fit into what lines may buffer.
var errTooLong = errors.New("line too long")

const (
	bufferStart = 64 << 10 // what an idle direction keeps
	bufferKeep  = 1 << 20  // a buffer that grew larger is given back
)

// lines cuts a stream into lines, in one buffer that grows with the longest
// line, up to max bytes.
type lines struct {
	from io.Reader
	max  int

	buf        []byte
	start, end int // buf[start:end] was read and not yet returned
}

// next returns the next line with its newline, valid until the following call.
// When the stream ends it returns what was left of the last line together with
// the error, and when a line is longer than max its beginning and errTooLong.
func (l *lines) next() ([]byte, error) {
	seen := 0 // bytes after start that hold no newline
	for {
		if i := bytes.IndexByte(l.buf[l.start+seen:l.end], '\n'); i >= 0 {
			line := l.buf[l.start : l.start+seen+i+1]
			l.start += len(line)
			return line, nil
		}
		seen = l.end - l.start
		if err := l.fill(); err != nil {
			rest := l.buf[l.start:l.end]
			l.start = l.end
			return rest, err
		}
	}
}

// take returns the next n bytes, fewer when the stream ends before.
func (l *lines) take(n int) []byte {
	for l.end-l.start < n {
		if l.fill() != nil {
			break
		}
	}
	n = min(n, l.end-l.start)
	l.start += n
	return l.buf[l.start-n : l.start]
}

// more returns what comes next of a line that was too long, valid until the
// following call, and whether that is its end.
func (l *lines) more() (part []byte, end bool, err error) {
	if l.start == l.end {
		if err := l.fill(); err != nil {
			return nil, false, err
		}
	}
	part = l.buf[l.start:l.end]
	if i := bytes.IndexByte(part, '\n'); i >= 0 {
		part, end = part[:i+1], true
	}
	l.start += len(part)
	return part, end, nil
}

// skip drops what is left of a line that was too long.
func (l *lines) skip() error {
	for {
		if _, end, err := l.more(); end || err != nil {
			return err
		}
	}
}

// fill reads once, behind what is still wanted.
func (l *lines) fill() error {
	switch {
	case l.buf == nil, l.start == l.end && len(l.buf) > bufferKeep:
		l.buf = make([]byte, min(bufferStart, l.max))
		l.start, l.end = 0, 0
	case l.start > 0:
		l.start, l.end = 0, copy(l.buf, l.buf[l.start:l.end])
	case l.end == len(l.buf):
		if l.end >= l.max {
			return errTooLong
		}
		grown := make([]byte, min(2*len(l.buf), l.max))
		copy(grown, l.buf)
		l.buf = grown
	}
	n, err := l.from.Read(l.buf[l.end:])
	l.end += n
	if n > 0 {
		return nil // an error comes again with the next read
	}
	return err
}
