package main

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// A message is what the bridge needs to know of one JSON-RPC 2.0 message
// (https://www.jsonrpc.org/specification): a request has an id and a method, a
// notification a method only, an answer an id and a result or an error.
type message struct {
	id     []byte // as written: a string with its quotes or a number; nil for none and null
	method []byte // without its quotes
	answer bool   // has a result or an error
	failed bool   // has an error
}

// scan finds what there is to know of the message in line. It decodes nothing,
// copes with anything (what is not an object has no id and no method, a batch
// too: the daemon refuses those), and stops as soon as it knows enough: the
// rest of a long result is not looked at.
func scan(line []byte) (m message) {
	s := scanner{b: line}
	if s.peek() != '{' {
		return m
	}
	s.i++
	for {
		switch s.peek() {
		case '"':
		case ',':
			s.i++
			continue
		default:
			return m
		}
		name := s.value()
		if s.peek() != ':' {
			return m
		}
		s.i++
		switch string(name) {
		case `"result"`:
			m.answer = true
		case `"error"`:
			m.answer, m.failed = true, true
		}
		if m.id != nil && (m.answer || m.method != nil) {
			return m
		}
		first := s.peek()
		value := s.value()
		if s.i == len(s.b) {
			return m // the value may be cut off
		}
		switch string(name) {
		case `"id"`:
			if first == '"' || first == '-' || first >= '0' && first <= '9' {
				m.id = value
			}
		case `"method"`:
			if first == '"' {
				m.method = value[1 : len(value)-1]
			}
		}
	}
}

// scanner walks over b from i. Each method moves i forward or to the end, so
// hostile bytes end every loop.
type scanner struct {
	b []byte
	i int
}

// peek skips white space and returns the byte at i, 0 at the end.
func (s *scanner) peek() byte {
	for ; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// value skips the JSON value at i and returns it.
func (s *scanner) value() []byte {
	start, depth := s.i, 0
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case '"':
			s.text()
		case '{', '[':
			depth++
			s.i++
		case '}', ']':
			depth--
			s.i++
		default:
			s.scalar()
		}
		if depth <= 0 {
			break
		}
	}
	return s.b[start:s.i]
}

// text skips the string at i.
func (s *scanner) text() {
	for from := s.i + 1; ; from = s.i {
		end := bytes.IndexByte(s.b[from:], '"')
		if end < 0 {
			s.i = len(s.b)
			return
		}
		s.i = from + end + 1
		backslashes := 0
		for at := s.i - 2; at >= from && s.b[at] == '\\'; at-- {
			backslashes++
		}
		if backslashes%2 == 0 {
			return
		}
	}
}

// scalar skips a number, a word or punctuation: at least one byte, and then up
// to what can follow a value.
func (s *scanner) scalar() {
	for s.i++; s.i < len(s.b); s.i++ {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n', ',', ':', '"', '{', '}', '[', ']':
			return
		}
	}
}

// key returns id in one spelling, for comparing: the two sides may escape the
// same string differently ("a<b" comes back as "a\u003cb" from Go).
func key(id []byte) string {
	if bytes.IndexByte(id, '\\') < 0 {
		return string(id)
	}
	var out []byte
	for i := 0; i < len(id); i++ {
		if id[i] != '\\' || i+1 == len(id) {
			out = append(out, id[i])
			continue
		}
		i++
		switch c := id[i]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hex4(id[i+1:])
			if utf16.IsSurrogate(r) && i+6 < len(id) && id[i+5] == '\\' && id[i+6] == 'u' {
				if pair := utf16.DecodeRune(r, hex4(id[i+7:])); pair != utf8.RuneError {
					r = pair
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
			i = min(i+4, len(id)-1)
		default: // \" \\ \/
			out = append(out, c)
		}
	}
	return string(out)
}

// hex4 reads the four hexadecimal digits of a \u escape.
func hex4(b []byte) (r rune) {
	for _, c := range b[:min(4, len(b))] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		}
	}
	return r
}
