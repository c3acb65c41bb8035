package applets

import "strings"

// echo prints its arguments: -n without newline, -e with escapes.
func echo(c *Ctx) {
	args, newline, escapes := c.args, true, false
options:
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		n, e := newline, escapes
		for _, ch := range args[0][1:] {
			switch ch {
			case 'n':
				n = false
			case 'e':
				e = true
			case 'E':
				e = false
			default:
				break options
			}
		}
		newline, escapes = n, e
		args = args[1:]
	}
	s := strings.Join(args, " ")
	if escapes {
		text, stop := unescape(s, escEcho)
		c.print(text)
		if stop {
			return
		}
	} else {
		c.print(s)
	}
	if newline {
		c.out.WriteByte('\n')
	}
}

type escapeStyle uint8

const (
	escEcho   escapeStyle = iota // \0nnn
	escPrintf                    // \nnn; %b also \0nnn
)

// unescape decodes backslash sequences; stop tells that \c was met.
func unescape(s string, style escapeStyle) (text string, stop bool) {
	if strings.IndexByte(s, '\\') < 0 {
		return s, false
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		n, ok := 0, false
		switch ch := s[i]; ch {
		case 'a':
			b.WriteByte(7)
		case 'b':
			b.WriteByte(8)
		case 'c':
			return b.String(), true
		case 'e', 'E':
			b.WriteByte(27)
		case 'f':
			b.WriteByte(12)
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		case 'v':
			b.WriteByte(11)
		case '\\':
			b.WriteByte('\\')
		case '"', '\'', '?':
			if style == escEcho {
				b.WriteByte('\\')
			}
			b.WriteByte(ch)
		case 'x':
			if n, i, ok = digits(s, i+1, 2, 16); ok {
				b.WriteByte(byte(n))
			} else {
				b.WriteString(`\x`)
			}
			i--
		case 'u', 'U':
			width := 4
			if ch == 'U' {
				width = 8
			}
			if n, i, ok = digits(s, i+1, width, 16); ok {
				b.WriteRune(rune(n))
			} else {
				b.WriteString(`\` + string(ch))
			}
			i--
		case '0', '1', '2', '3', '4', '5', '6', '7':
			if style == escEcho && ch != '0' {
				b.WriteString(`\` + string(ch))
				continue
			}
			width, start := 3, i
			if ch == '0' && style == escEcho {
				start++
			} else if ch == '0' {
				width = 4
			}
			n, i, _ = digits(s, start, width, 8)
			b.WriteByte(byte(n))
			i--
		default:
			b.WriteByte('\\')
			b.WriteByte(ch)
		}
	}
	return b.String(), false
}

// digits reads at most width digits of a base at s[i:].
func digits(s string, i, width, base int) (n, end int, ok bool) {
	for end = i; end < len(s) && end < i+width; end++ {
		d := strings.IndexByte("0123456789abcdef", s[end]|0x20)
		if s[end] <= '9' {
			d = int(s[end]) - '0'
		}
		if d < 0 || d >= base {
			break
		}
		n = n*base + d
	}
	return n, end, end > i
}
