package regex

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

// backtrack matches a tree by trying: each node gets the rest as a function.
type backtrack struct {
	b    []byte
	caps []int
	keep int // where \K was, or -1
}

// findFrom searches the first match at or after pos.
func (r *Regexp) findFrom(b []byte, pos int) []int {
	m := &backtrack{b: b, caps: make([]int, 2*(r.groups+1))}
	for ; pos <= len(b); pos++ {
		if pos < len(b) && !utf8.RuneStart(b[pos]) && pos > 0 && b[pos-1] >= utf8.RuneSelf {
			continue
		}
		for i := range m.caps {
			m.caps[i] = -1
		}
		m.keep = -1
		if m.run(r.root, pos, func(end int) bool { m.caps[1] = end; return true }) {
			m.caps[0] = pos
			if m.keep >= 0 {
				m.caps[0] = m.keep
			}
			return m.caps
		}
	}
	return nil
}

// one matches a node that is a single character; n is its width, or -1.
func (m *backtrack) one(n *node, pos int) int {
	if pos >= len(m.b) {
		return -1
	}
	r, w := rune(m.b[pos]), 1
	if r >= utf8.RuneSelf {
		r, w = utf8.DecodeRune(m.b[pos:])
	}
	ok := false
	switch n.op {
	case opChar:
		ok = r == n.r || n.fold && unicode.ToLower(r) == unicode.ToLower(n.r)
	case opAny:
		ok = !(n.neg && r == '\n')
	case opSet:
		ok = n.set.has(r, n.fold)
	}
	if !ok {
		return -1
	}
	return w
}

func (m *backtrack) wordAt(pos int) (before, after bool) {
	if pos > 0 {
		r, _ := utf8.DecodeLastRune(m.b[:pos])
		before = isWord(r)
	}
	if pos < len(m.b) {
		r, _ := utf8.DecodeRune(m.b[pos:])
		after = isWord(r)
	}
	return before, after
}

func (m *backtrack) run(n *node, pos int, k func(int) bool) bool {
	switch n.op {
	case opEmpty:
		return k(pos)
	case opChar, opAny, opSet:
		w := m.one(n, pos)
		return w > 0 && k(pos+w)
	case opCat:
		return m.cat(n.subs, pos, k)
	case opAlt:
		for _, s := range n.subs {
			if m.run(s, pos, k) {
				return true
			}
		}
		return false
	case opRep:
		if n.possessive {
			end := -1
			if !m.repeat(n, pos, 0, func(e int) bool { end = e; return true }) {
				return false
			}
			return k(end)
		}
		return m.repeat(n, pos, 0, k)
	case opGroup:
		if n.group == 0 {
			return m.run(n.subs[0], pos, k)
		}
		i := 2 * n.group
		old0, old1 := m.caps[i], m.caps[i+1]
		if m.run(n.subs[0], pos, func(end int) bool {
			in0, in1 := m.caps[i], m.caps[i+1]
			m.caps[i], m.caps[i+1] = pos, end
			if k(end) {
				return true
			}
			m.caps[i], m.caps[i+1] = in0, in1
			return false
		}) {
			return true
		}
		m.caps[i], m.caps[i+1] = old0, old1
		return false
	case opBackref:
		from, to := m.caps[2*n.group], m.caps[2*n.group+1]
		if from < 0 {
			return false
		}
		w := to - from
		if pos+w > len(m.b) {
			return false
		}
		a, b := m.b[from:to], m.b[pos:pos+w]
		if !bytes.Equal(a, b) && !(n.fold && bytes.EqualFold(a, b)) {
			return false
		}
		return k(pos + w)
	case opLook:
		return m.look(n, pos) != n.neg && k(pos)
	case opAtomic:
		end := -1
		return m.run(n.subs[0], pos, func(e int) bool { end = e; return true }) && k(end)
	case opKeep:
		old := m.keep
		m.keep = pos
		if k(pos) {
			return true
		}
		m.keep = old
		return false
	}
	return m.assertion(n, pos) && k(pos)
}

func (m *backtrack) assertion(n *node, pos int) bool {
	before, after := m.wordAt(pos)
	switch n.op {
	case opBol:
		return pos == 0 || n.multiLine && m.b[pos-1] == '\n'
	case opEol:
		return pos == len(m.b) || n.multiLine && m.b[pos] == '\n'
	case opBegin:
		return pos == 0
	case opEnd:
		return pos == len(m.b)
	case opEndNL:
		return pos == len(m.b) || pos == len(m.b)-1 && m.b[pos] == '\n'
	case opWord:
		return before != after
	case opNotWord:
		return before == after
	case opWordStart:
		return !before && after
	case opWordEnd:
		return before && !after
	}
	return false
}

func (m *backtrack) cat(subs []*node, pos int, k func(int) bool) bool {
	for len(subs) > 0 { // single characters need no recursion
		switch subs[0].op {
		case opChar, opAny, opSet:
			w := m.one(subs[0], pos)
			if w < 0 {
				return false
			}
			pos += w
			subs = subs[1:]
			continue
		}
		break
	}
	if len(subs) == 0 {
		return k(pos)
	}
	return m.run(subs[0], pos, func(end int) bool { return m.cat(subs[1:], end, k) })
}

// repeat matches n.subs[0] again, count times so far.
func (m *backtrack) repeat(n *node, pos, count int, k func(int) bool) bool {
	sub := n.subs[0]
	switch sub.op {
	case opChar, opAny, opSet:
		return m.repeatOne(n, pos, k)
	}
	more := func() bool {
		if n.max >= 0 && count >= n.max {
			return false
		}
		return m.run(sub, pos, func(end int) bool {
			if end == pos && count >= n.min {
				return false // an empty round leads nowhere
			}
			return m.repeat(n, end, count+1, k)
		})
	}
	if count < n.min {
		return more()
	}
	if n.lazy {
		return k(pos) || more()
	}
	return more() || k(pos)
}

// repeatOne is repeat for single characters, without recursion.
func (m *backtrack) repeatOne(n *node, pos int, k func(int) bool) bool {
	ends := []int{pos}
	if n.lazy {
		for count := 0; ; count++ {
			if count >= n.min && k(pos) {
				return true
			}
			w := m.one(n.subs[0], pos)
			if w < 0 || n.max >= 0 && count >= n.max {
				return false
			}
			pos += w
		}
	}
	for n.max < 0 || len(ends) <= n.max {
		w := m.one(n.subs[0], pos)
		if w < 0 {
			break
		}
		pos += w
		ends = append(ends, pos)
	}
	for i := len(ends) - 1; i >= n.min; i-- {
		if k(ends[i]) {
			return true
		}
	}
	return false
}

func (m *backtrack) look(n *node, pos int) bool {
	if !n.behind {
		return m.run(n.subs[0], pos, func(int) bool { return true })
	}
	for start := pos; start >= 0; start-- {
		if m.run(n.subs[0], start, func(end int) bool { return end == pos }) {
			return true
		}
	}
	return false
}
