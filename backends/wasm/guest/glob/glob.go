// Package glob matches names with patterns as the shell, find and tar have
// them (POSIX.1-2017, Shell Command Language 2.13, and fnmatch): * ? and [set],
// where a backslash takes the next character literally. A * matches slashes and
// leading dots too.
package glob

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Matcher says how to match. The zero value is fnmatch without flags.
type Matcher struct {
	Fold     bool // upper and lower case are the same
	Extended bool // ?( *( +( @( and !( are Bash's; their time can be exponential
}

// Match reports whether the whole of s matches p. No p is an error: a [ that is
// not closed matches itself.
func (m Matcher) Match(p, s string) bool {
	starP, starS := "", ""
	star := false
	for {
		ok := false
		switch {
		case p == "":
			if s == "" {
				return true
			}
		case m.group(p) > 0:
			if m.extended(p, s) {
				return true
			}
		case p[0] == '*':
			for p != "" && p[0] == '*' && m.group(p) == 0 {
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
func (m Matcher) one(p, s string) (rest string, n int, ok bool) {
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
	return p[k:], n, c == r || m.Fold && unicode.ToLower(c) == unicode.ToLower(r)
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

func (m Matcher) inSet(set string, r rune) bool {
	neg := false
	if set != "" && (set[0] == '!' || set[0] == '^') {
		neg, set = true, set[1:]
	}
	if m.Fold {
		return (setHas(set, unicode.ToLower(r)) || setHas(set, unicode.ToUpper(r))) != neg
	}
	return setHas(set, r) != neg
}

func setHas(set string, r rune) bool {
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
		if class, ok := strings.CutPrefix(set, "[:"); ok {
			if e := strings.Index(class, ":]"); e >= 0 {
				found = found || inClass(class[:e], r)
				set = class[e+2:]
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

// inClass reports whether r belongs to a POSIX class such as alpha.
func inClass(class string, r rune) bool {
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

// group is the index of the ) that ends the extended pattern at p[0], or 0.
func (m Matcher) group(p string) int {
	if !m.Extended || len(p) < 2 || p[1] != '(' || strings.IndexByte("?*+@!", p[0]) < 0 {
		return 0
	}
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
func (m Matcher) extended(p, s string) bool {
	end := m.group(p)
	op, rest := p[0], p[end+1:]
	alts := splitAlternatives(p[2:end])
	any := func(s string) bool {
		for _, a := range alts {
			if m.Match(a, s) {
				return true
			}
		}
		return false
	}
	switch op {
	case '!':
		for i := 0; i <= len(s); i++ {
			if !any(s[:i]) && m.Match(rest, s[i:]) {
				return true
			}
		}
		return false
	case '?', '*':
		if m.Match(rest, s) {
			return true
		}
	}
	// A repeated group must take something each time, or it would not end.
	for i := 0; i <= len(s); i++ {
		if i == 0 && (op == '*' || op == '?') || !any(s[:i]) {
			continue
		}
		if m.Match(rest, s[i:]) {
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
		case '[':
			if e := bracketEnd(p[i:]); e > 0 {
				i += e - 1
			}
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
