package sh

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Patterns of the shell: * ? [set] and the extended ?( *( +( @( !( forms.
// A backslash takes the next character literally; that is how quoted text
// gets into a pattern.

// escapePattern makes s match itself.
func escapePattern(s string) string {
	if !strings.ContainsAny(s, `*?[]\()|!+@-^`) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(`*?[]\()|!+@-^`, s[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unescapePattern takes the backslashes out again.
func unescapePattern(p string) string {
	if strings.IndexByte(p, '\\') < 0 {
		return p
	}
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] == '\\' && i+1 < len(p) {
			i++
		}
		b.WriteByte(p[i])
	}
	return b.String()
}

// hasMeta reports whether p can match anything but itself.
func hasMeta(p string) bool {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			i++
		case '*', '?':
			return true
		case '[':
			if strings.IndexByte(p[i+1:], ']') >= 0 {
				return true
			}
		case '+', '@', '!':
			if i+1 < len(p) && p[i+1] == '(' {
				return true
			}
		}
	}
	return false
}

// match reports whether the whole of s matches p.
func match(p, s string, fold bool) bool { return (&matcher{fold: fold}).match(p, s) }

// matcher bounds the work: a pattern with many stars is exponential otherwise.
type matcher struct{ fold bool }

func (m *matcher) match(p, s string) bool {
	starP, starS := "", ""
	star := false
	for {
		ok := false
		switch {
		case p == "":
			if s == "" {
				return true
			}
		case len(p) > 1 && p[1] == '(' && strings.IndexByte("?*+@!", p[0]) >= 0 && closing(p) > 0:
			if m.extended(p, s) {
				return true
			}
		case p[0] == '*':
			for p != "" && p[0] == '*' && !(len(p) > 1 && p[1] == '(') {
				p = p[1:]
			}
			if p == "" {
				return true
			}
			star, starP, starS = true, p, s
			continue
		case s == "":
		default:
			if rest, n, hit := m.one(p, s); hit {
				p, s, ok = rest, s[n:], true
			}
		}
		if ok {
			continue
		}
		if !star || starS == "" {
			return false
		}
		_, n := utf8.DecodeRuneInString(starS)
		starS = starS[n:]
		p, s = starP, starS
	}
}

// one matches the first element of p, which is not a star, with the first
// character of s.
func (m *matcher) one(p, s string) (rest string, n int, ok bool) {
	r, n := utf8.DecodeRuneInString(s)
	switch p[0] {
	case '?':
		return p[1:], n, true
	case '[':
		if end := bracketEnd(p); end > 0 {
			return p[end:], n, m.inSet(p[1:end-1], r)
		}
	case '\\':
		if len(p) > 1 {
			p = p[1:]
		}
	}
	c, k := utf8.DecodeRuneInString(p)
	if r == utf8.RuneError && n == 1 || c == utf8.RuneError && k == 1 {
		return p[1:], 1, p[0] == s[0]
	}
	return p[k:], n, c == r || m.fold && unicode.ToLower(c) == unicode.ToLower(r)
}

// bracketEnd is the index after the ] that closes the [ at p[0], or 0.
func bracketEnd(p string) int {
	i := 1
	if i < len(p) && (p[i] == '!' || p[i] == '^') {
		i++
	}
	for first := true; i < len(p); first = false {
		switch {
		case p[i] == ']' && !first:
			return i + 1
		case p[i] == '\\' && i+1 < len(p):
			i += 2
		case p[i] == '[' && i+1 < len(p) && strings.IndexByte(":.=", p[i+1]) >= 0:
			if e := strings.Index(p[i+2:], p[i+1:i+2]+"]"); e >= 0 {
				i += e + 4
			} else {
				i++
			}
		default:
			i++
		}
	}
	return 0
}

func (m *matcher) inSet(set string, r rune) bool {
	neg := false
	if set != "" && (set[0] == '!' || set[0] == '^') {
		neg, set = true, set[1:]
	}
	if m.fold {
		return (m.setHas(set, unicode.ToLower(r)) || m.setHas(set, unicode.ToUpper(r))) != neg
	}
	return m.setHas(set, r) != neg
}

func (m *matcher) setHas(set string, r rune) bool {
	next := func() rune {
		if set[0] == '\\' && len(set) > 1 {
			set = set[1:]
		}
		if len(set) > 4 && set[0] == '[' && (set[1] == '.' || set[1] == '=') {
			if e := strings.Index(set[2:], set[1:2]+"]"); e >= 0 {
				c, _ := utf8.DecodeRuneInString(set[2:])
				set = set[e+4:]
				return c
			}
		}
		c, n := utf8.DecodeRuneInString(set)
		set = set[n:]
		return c
	}
	found := false
	for set != "" {
		if strings.HasPrefix(set, "[:") {
			if e := strings.Index(set, ":]"); e > 0 {
				found = found || InClass(set[2:e], r)
				set = set[e+2:]
				continue
			}
		}
		lo := next()
		hi := lo
		if len(set) > 1 && set[0] == '-' {
			set = set[1:]
			hi = next()
		}
		found = found || lo <= r && r <= hi
	}
	return found
}

// InClass reports whether r belongs to a POSIX class such as alpha.
func InClass(class string, r rune) bool {
	switch class {
	case "alpha":
		return unicode.IsLetter(r)
	case "digit":
		return '0' <= r && r <= '9'
	case "alnum":
		return unicode.IsLetter(r) || unicode.IsDigit(r)
	case "upper":
		return unicode.IsUpper(r)
	case "lower":
		return unicode.IsLower(r)
	case "space":
		return r == ' ' || '\t' <= r && r <= '\r'
	case "blank":
		return r == ' ' || r == '\t'
	case "punct":
		return unicode.IsPunct(r) || unicode.IsSymbol(r)
	case "print":
		return unicode.IsPrint(r)
	case "graph":
		return unicode.IsGraphic(r) && r != ' '
	case "cntrl":
		return unicode.IsControl(r)
	case "xdigit":
		return '0' <= r && r <= '9' || 'a' <= r && r <= 'f' || 'A' <= r && r <= 'F'
	case "word":
		return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r)
	}
	return false
}

// closing is the index of the ) that ends the extended pattern at p[0], or 0.
func closing(p string) int {
	depth := 0
	for i := 1; i < len(p); i++ {
		switch p[i] {
		case '\\':
			i++
		case '[':
			if e := bracketEnd(p[i:]); e > 0 {
				i += e - 1
			}
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return 0
}

// extended matches a p that begins with ?( *( +( @( or !(.
func (m *matcher) extended(p, s string) bool {
	end := closing(p)
	op, rest := p[0], p[end+1:]
	alts := splitAlternatives(p[2:end])
	any := func(s string) bool {
		for _, a := range alts {
			if m.match(a, s) {
				return true
			}
		}
		return false
	}
	switch op {
	case '!':
		for i := 0; i <= len(s); i++ {
			if !any(s[:i]) && m.match(rest, s[i:]) {
				return true
			}
		}
		return false
	case '?', '*':
		if m.match(rest, s) {
			return true
		}
	}
	// A repeated group must take something each time, or it would not end.
	for i := 0; i <= len(s); i++ {
		if i == 0 && (op == '*' || op == '?') || !any(s[:i]) {
			continue
		}
		if m.match(rest, s[i:]) {
			return true
		}
		if (op == '*' || op == '+') && i > 0 && m.extended("*"+p[1:], s[i:]) {
			return true
		}
	}
	return false
}

func splitAlternatives(p string) []string {
	var l []string
	depth, start := 0, 0
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			depth--
		case '|':
			if depth == 0 {
				l, start = append(l, p[start:i]), i+1
			}
		}
	}
	return append(l, p[start:])
}

// prefix returns the length of the shortest or longest prefix of s that
// matches p, or -1.
func (m *matcher) prefix(p, s string, longest bool) int {
	if longest {
		for i := len(s); i >= 0; i-- {
			if (i == len(s) || utf8.RuneStart(s[i])) && m.match(p, s[:i]) {
				return i
			}
		}
		return -1
	}
	for i := 0; i <= len(s); i++ {
		if (i == len(s) || utf8.RuneStart(s[i])) && m.match(p, s[:i]) {
			return i
		}
	}
	return -1
}

// suffix returns where the shortest or longest matching suffix begins, or -1.
func (m *matcher) suffix(p, s string, longest bool) int {
	if longest {
		for i := 0; i <= len(s); i++ {
			if (i == len(s) || utf8.RuneStart(s[i])) && m.match(p, s[i:]) {
				return i
			}
		}
		return -1
	}
	for i := len(s); i >= 0; i-- {
		if (i == len(s) || utf8.RuneStart(s[i])) && m.match(p, s[i:]) {
			return i
		}
	}
	return -1
}

// replace is ${s/p/with}; & is not special. at is "", "#" or "%".
func (m *matcher) replace(s, p, with string, all bool, at string) string {
	if p == "" {
		return s
	}
	switch at {
	case "#":
		if n := m.prefix(p, s, true); n >= 0 {
			return with + s[n:]
		}
		return s
	case "%":
		if n := m.suffix(p, s, true); n >= 0 {
			return s[:n] + with
		}
		return s
	}
	if !hasMeta(p) && !m.fold { // the common case, in linear time
		n := 1
		if all {
			n = -1
		}
		return strings.Replace(s, unescapePattern(p), with, n)
	}
	if s == "" && m.match(p, "") {
		return with
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if n := m.prefix(p, s[i:], true); n > 0 {
			b.WriteString(with)
			i += n
			if !all {
				b.WriteString(s[i:])
				return b.String()
			}
			continue
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		b.WriteString(s[i : i+n])
		i += n
	}
	return b.String()
}
