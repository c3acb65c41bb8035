package sh

import (
	"strings"
	"unicode/utf8"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/glob"
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
func match(p, s string, fold bool) bool { return newMatcher(fold).Match(p, s) }

// matcher adds what parameter expansion does with a pattern.
type matcher struct{ glob.Matcher }

func newMatcher(fold bool) matcher {
	return matcher{glob.Matcher{Fold: fold, Extended: true}}
}

// prefix returns the length of the shortest or longest prefix of s that
// matches p, or -1.
func (m matcher) prefix(p, s string, longest bool) int {
	if longest {
		for i := len(s); i >= 0; i-- {
			if (i == len(s) || utf8.RuneStart(s[i])) && m.Match(p, s[:i]) {
				return i
			}
		}
		return -1
	}
	for i := 0; i <= len(s); i++ {
		if (i == len(s) || utf8.RuneStart(s[i])) && m.Match(p, s[:i]) {
			return i
		}
	}
	return -1
}

// suffix returns where the shortest or longest matching suffix begins, or -1.
func (m matcher) suffix(p, s string, longest bool) int {
	if longest {
		for i := 0; i <= len(s); i++ {
			if (i == len(s) || utf8.RuneStart(s[i])) && m.Match(p, s[i:]) {
				return i
			}
		}
		return -1
	}
	for i := len(s); i >= 0; i-- {
		if (i == len(s) || utf8.RuneStart(s[i])) && m.Match(p, s[i:]) {
			return i
		}
	}
	return -1
}

// replace is ${s/p/with}; & is not special. at is "", "#" or "%".
func (m matcher) replace(s, p, with string, all bool, at string) string {
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
	if !hasMeta(p) && !m.Fold { // the common case, in linear time
		n := 1
		if all {
			n = -1
		}
		return strings.Replace(s, unescapePattern(p), with, n)
	}
	if s == "" && m.Match(p, "") {
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
