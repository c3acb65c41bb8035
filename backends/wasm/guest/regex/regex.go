// Package regex is POSIX basic and extended regular expressions with GNU's
// additions, and Perl's as far as grep -P is used.
//
//	re, err := regex.Compile(`\(a*\)b\1`, regex.Basic, 0)
//	for _, m := range re.All([]byte("aabaa"), -1) { … m[0]:m[1] is the match, m[2]:m[3] group 1 … }
//
// A pattern is parsed into a tree (parse.go). If Go's regexp can match it,
// which takes linear time, it is written out in that syntax, with leftmost-
// longest matching for POSIX. Back-references, look-around, \K and atomic
// groups need the backtracking matcher (match.go), whose time has no bound;
// whoever runs a tool can end it.
package regex

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Syntax says how a pattern is written.
type Syntax uint8

const (
	Basic    Syntax = iota // grep, sed
	Extended               // grep -E, sed -E, awk
	Perl                   // grep -P
)

// Flags change how a pattern matches.
type Flags uint8

const (
	IgnoreCase Flags = 1 << iota
	MultiLine        // ^ and $ match at newlines inside the text
	Escapes          // \n, \t and so on are control characters, as in sed
)

// Regexp is a compiled pattern. It may be used by one goroutine at a time.
type Regexp struct {
	std     *regexp.Regexp // nil: backtrack
	root    *node
	groups  int
	literal []byte // the pattern is this text and nothing else
}

// Compile parses a pattern. Errors have the text of GNU's library.
func Compile(pattern string, syntax Syntax, flags Flags) (*Regexp, error) {
	p := &parser{s: pattern, syntax: syntax, flags: flags, fold: flags&IgnoreCase != 0, multi: flags&MultiLine != 0}
	root, err := p.parse()
	if err != nil {
		return nil, err
	}
	r := &Regexp{root: root, groups: p.groups}
	if lit, ok := literal(root); ok {
		r.literal = lit
		return r, nil
	}
	if p.backtrack || !wordEdges(root) {
		return r, nil
	}
	var b strings.Builder
	emit(&b, root, syntax != Perl)
	std, err := regexp.Compile(b.String())
	if err != nil {
		if strings.Contains(err.Error(), "repeat") {
			return r, nil // counts above 1000
		}
		return nil, fmt.Errorf("Invalid regular expression")
	}
	if syntax != Perl {
		std.Longest()
	}
	r.std = std
	return r, nil
}

// Groups is the number of groups.
func (r *Regexp) Groups() int { return r.groups }

// Match reports whether b contains a match.
func (r *Regexp) Match(b []byte) bool {
	switch {
	case r.literal != nil:
		return bytes.Contains(b, r.literal)
	case r.std != nil:
		return r.std.Match(b)
	}
	return r.findFrom(b, 0) != nil
}

// Find returns the offsets of the first match and its groups, or nil. A group
// that took no part has -1.
func (r *Regexp) Find(b []byte) []int {
	switch {
	case r.literal != nil:
		if i := bytes.Index(b, r.literal); i >= 0 {
			return []int{i, i + len(r.literal)}
		}
		return nil
	case r.std != nil:
		return r.std.FindSubmatchIndex(b)
	}
	return r.findFrom(b, 0)
}

// All returns at most n matches that do not overlap (all if n < 0). An empty
// match right after another match does not count.
func (r *Regexp) All(b []byte, n int) [][]int {
	if r.std != nil {
		return r.std.FindAllSubmatchIndex(b, n)
	}
	var out [][]int
	last := -1
	for pos := 0; pos <= len(b) && (n < 0 || len(out) < n); {
		var m []int
		if r.literal != nil {
			i := bytes.Index(b[pos:], r.literal)
			if i < 0 {
				break
			}
			m = []int{pos + i, pos + i + len(r.literal)}
			if len(r.literal) == 0 {
				m = []int{pos, pos}
			}
		} else if m = r.findFrom(b, pos); m == nil {
			break
		}
		if m[0] == m[1] {
			if m[0] != last {
				out = append(out, m)
			}
			_, k := utf8.DecodeRune(b[m[1]:])
			pos = m[1] + max(k, 1)
			continue
		}
		out = append(out, m)
		pos, last = m[1], m[1]
	}
	return out
}

// op is what a node of the tree matches.
type op uint8

const (
	opEmpty op = iota
	opChar
	opAny // any character; without newline if node.neg
	opSet
	opCat
	opAlt
	opRep
	opGroup
	opBol
	opEol
	opBegin
	opEnd
	opEndNL // end, or before a last newline: Perl's $ and \Z
	opWord  // \b
	opNotWord
	opWordStart
	opWordEnd
	opBackref
	opLook
	opAtomic
	opKeep
)

type node struct {
	op                     op
	r                      rune
	fold                   bool
	set                    *set
	subs                   []*node
	min, max               int // max -1: no bound
	lazy, possessive       bool
	group                  int
	neg, behind, multiLine bool
}

// set is a bracket expression.
type set struct {
	neg    bool
	ranges []rune // pairs
	not    []*set // \W and \S inside brackets
}

func (s *set) add(lo, hi rune) { s.ranges = append(s.ranges, lo, hi) }

func (s *set) has(r rune, fold bool) bool {
	in := s.in(r)
	if !in && fold {
		in = s.in(unicode.ToLower(r)) || s.in(unicode.ToUpper(r))
	}
	return in != s.neg
}

func (s *set) in(r rune) bool {
	for i := 0; i < len(s.ranges); i += 2 {
		if s.ranges[i] <= r && r <= s.ranges[i+1] {
			return true
		}
	}
	for _, n := range s.not {
		if !n.in(r) {
			return true
		}
	}
	return false
}

// literal returns the text of a pattern that is nothing but characters.
func literal(n *node) ([]byte, bool) {
	var b []byte
	var walk func(*node) bool
	walk = func(n *node) bool {
		switch n.op {
		case opEmpty:
			return true
		case opChar:
			if n.fold && unicode.ToLower(n.r) != unicode.ToUpper(n.r) {
				return false
			}
			b = utf8.AppendRune(b, n.r)
			return n.r != utf8.RuneError
		case opCat:
			for _, s := range n.subs {
				if !walk(s) {
					return false
				}
			}
			return true
		}
		return false
	}
	if !walk(n) {
		return nil, false
	}
	if b == nil {
		b = []byte{}
	}
	return b, true
}

// wordEdges reports whether every \< and \> stands where \b says the same, as
// Go's regexp has only that.
func wordEdges(n *node) bool {
	switch n.op {
	case opWordStart, opWordEnd:
		return false
	case opCat:
		for i, s := range n.subs {
			switch s.op {
			case opWordStart:
				if i+1 == len(n.subs) || !edge(n.subs[i+1], true) {
					return false
				}
			case opWordEnd:
				if i == 0 || !edge(n.subs[i-1], false) {
					return false
				}
			default:
				if !wordEdges(s) {
					return false
				}
			}
		}
		return true
	}
	for _, s := range n.subs {
		if !wordEdges(s) {
			return false
		}
	}
	return true
}

// edge reports whether n always begins (or ends) with a word character.
func edge(n *node, first bool) bool {
	switch n.op {
	case opChar:
		return isWord(n.r)
	case opSet:
		if n.set.neg || len(n.set.not) > 0 {
			return false
		}
		for i := 0; i < len(n.set.ranges); i += 2 {
			if n.set.ranges[i+1] > 127 {
				return false
			}
			for r := n.set.ranges[i]; r <= n.set.ranges[i+1]; r++ {
				if !isWord(r) {
					return false
				}
			}
		}
		return len(n.set.ranges) > 0
	case opRep:
		return n.min > 0 && edge(n.subs[0], first)
	case opGroup:
		return edge(n.subs[0], first)
	case opAlt:
		for _, s := range n.subs {
			if !edge(s, first) {
				return false
			}
		}
		return true
	case opCat:
		if len(n.subs) == 0 {
			return false
		}
		if first {
			return edge(n.subs[0], true)
		}
		return edge(n.subs[len(n.subs)-1], false)
	}
	return false
}

func isWord(r rune) bool {
	return r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || r > 127 && (unicode.IsLetter(r) || unicode.IsDigit(r))
}

// emit writes n in the syntax of Go's regexp.
func emit(b *strings.Builder, n *node, posix bool) {
	switch n.op {
	case opChar:
		if n.fold {
			b.WriteString("(?i:")
		}
		b.WriteString(regexp.QuoteMeta(string(n.r)))
		if n.fold {
			b.WriteByte(')')
		}
	case opAny:
		if n.neg {
			b.WriteString(`[^\n]`)
		} else {
			b.WriteString("(?s:.)")
		}
	case opSet:
		emitSet(b, n)
	case opCat:
		for _, s := range n.subs {
			if s.op == opAlt {
				b.WriteString("(?:")
			}
			emit(b, s, posix)
			if s.op == opAlt {
				b.WriteByte(')')
			}
		}
	case opAlt:
		for i, s := range n.subs {
			if i > 0 {
				b.WriteByte('|')
			}
			emit(b, s, posix)
		}
	case opRep:
		b.WriteString("(?:")
		emit(b, n.subs[0], posix)
		b.WriteByte(')')
		switch {
		case n.min == 0 && n.max < 0:
			b.WriteByte('*')
		case n.min == 1 && n.max < 0:
			b.WriteByte('+')
		case n.min == 0 && n.max == 1:
			b.WriteByte('?')
		case n.max < 0:
			fmt.Fprintf(b, "{%d,}", n.min)
		case n.max == n.min:
			fmt.Fprintf(b, "{%d}", n.min)
		default:
			fmt.Fprintf(b, "{%d,%d}", n.min, n.max)
		}
		if n.lazy {
			b.WriteByte('?')
		}
	case opGroup:
		if n.group > 0 {
			b.WriteByte('(')
		} else {
			b.WriteString("(?:")
		}
		emit(b, n.subs[0], posix)
		b.WriteByte(')')
	case opBol:
		if n.multiLine {
			b.WriteString("(?m:^)")
		} else {
			b.WriteString(`\A`)
		}
	case opEol:
		if n.multiLine {
			b.WriteString("(?m:$)")
		} else {
			b.WriteString(`\z`)
		}
	case opBegin:
		b.WriteString(`\A`)
	case opEnd:
		b.WriteString(`\z`)
	case opEndNL:
		b.WriteString(`(?:\n?\z)`)
	case opWord, opWordStart, opWordEnd:
		b.WriteString(`\b`)
	case opNotWord:
		b.WriteString(`\B`)
	}
}

func emitSet(b *strings.Builder, n *node) {
	if n.fold {
		b.WriteString("(?i:")
	}
	b.WriteByte('[')
	if n.set.neg {
		b.WriteByte('^')
	}
	if len(n.set.ranges) == 0 && len(n.set.not) == 0 {
		b.WriteString(`^\x{0}-\x{10FFFF}`)
	}
	for i := 0; i < len(n.set.ranges); i += 2 {
		fmt.Fprintf(b, `\x{%x}`, n.set.ranges[i])
		if n.set.ranges[i+1] != n.set.ranges[i] {
			fmt.Fprintf(b, `-\x{%x}`, n.set.ranges[i+1])
		}
	}
	for _, not := range n.set.not {
		emitComplement(b, not)
	}
	b.WriteByte(']')
	if n.fold {
		b.WriteByte(')')
	}
}

// emitComplement writes the ranges that are not in s; s is sorted.
func emitComplement(b *strings.Builder, s *set) {
	next := rune(0)
	for i := 0; i < len(s.ranges); i += 2 {
		if s.ranges[i] > next {
			fmt.Fprintf(b, `\x{%x}-\x{%x}`, next, s.ranges[i]-1)
		}
		next = s.ranges[i+1] + 1
	}
	fmt.Fprintf(b, `\x{%x}-\x{10FFFF}`, next)
}
