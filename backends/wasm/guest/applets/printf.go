package applets

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// printf formats its arguments, again and again until they are used up.
func printf(c *Ctx) {
	args := c.args
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		if c.call.Prefix != "" {
			c.warn("usage: printf [-v var] format [arguments]")
			c.exit(2)
		}
		c.missing()
	}
	p := &printer{c: c, args: args[1:]}
	for {
		before := len(p.args)
		if !p.format(args[0]) || len(p.args) == 0 || len(p.args) == before {
			break
		}
	}
}

type printer struct {
	c     *Ctx
	args  []string
	noArg bool // the last conversion had no argument
}

func (p *printer) next() string {
	p.noArg = len(p.args) == 0
	if p.noArg {
		return ""
	}
	a := p.args[0]
	p.args = p.args[1:]
	return a
}

// format goes through the format once; false means stop.
func (p *printer) format(f string) bool {
	c := p.c
	for i := 0; i < len(f); i++ {
		switch {
		case f[i] == '\\' && i+1 < len(f):
			end := i + 2 // one escape goes as far as its digits
			switch f[i+1] {
			case 'x':
				_, end, _ = digits(f, i+2, 2, 16)
			case 'u':
				_, end, _ = digits(f, i+2, 4, 16)
			case 'U':
				_, end, _ = digits(f, i+2, 8, 16)
			case '0', '1', '2', '3', '4', '5', '6', '7':
				var n int
				n, end, _ = digits(f, i+1, 3, 8)
				c.out.WriteByte(byte(n))
				i = end - 1
				continue
			}
			text, stop := unescape(f[i:end], escPrintf)
			c.print(text)
			if stop {
				return false
			}
			i = end - 1
		case f[i] == '%' && i+1 < len(f) && f[i+1] == '%':
			c.out.WriteByte('%')
			i++
		case f[i] == '%':
			n, ok := p.conversion(f[i:])
			if !ok {
				return false
			}
			i += n - 1
		default:
			c.out.WriteByte(f[i])
		}
	}
	return true
}

// conversion does one %…; n is its length.
func (p *printer) conversion(f string) (n int, ok bool) {
	c := p.c
	flags, i := "", 1
	for i < len(f) && strings.IndexByte("-+ #0'", f[i]) >= 0 {
		if f[i] != '\'' && !strings.Contains(flags, f[i:i+1]) {
			flags += f[i : i+1]
		}
		i++
	}
	number := func() int {
		if i < len(f) && f[i] == '*' {
			i++
			return int(p.integer(p.next()))
		}
		v, end, _ := digits(f, i, 10, 10)
		i = end
		return v
	}
	width := number()
	if width < 0 {
		flags, width = flags+"-", -width
	}
	prec := -1
	if i < len(f) && f[i] == '.' {
		i++
		prec = number()
	}
	for i < len(f) && strings.IndexByte("hlLjzt", f[i]) >= 0 {
		i++
	}
	if i >= len(f) {
		if c.call.Prefix != "" {
			c.fail("`%s': missing format character", f)
		} else {
			c.fail("%s: invalid conversion specification", f)
		}
		return 0, false
	}
	conv := f[i]
	if conv == '(' {
		if end := strings.Index(f[i:], ")T"); end > 0 {
			t := time.Now()
			if a := p.next(); !p.noArg && a != "-1" && a != "-2" {
				t = time.Unix(p.integer(a), 0)
			}
			p.pad(strftime(f[i+1:i+end], t), flags, width)
			return i + end + 2, true
		}
	}
	switch conv {
	case 's':
		s := p.next()
		if prec >= 0 && prec < len(s) {
			s = truncate(s, prec)
		}
		p.pad(s, flags, width)
	case 'b':
		s, stop := unescape(p.next(), escPrintf)
		p.pad(s, flags, width)
		if stop {
			return 0, false
		}
	case 'q':
		s := p.next()
		if c.call.Prefix != "" {
			s = backslashQuote(s)
		} else {
			s = quoteMaybe(s)
		}
		p.pad(s, flags, width)
	case 'c':
		s := p.next()
		if s != "" {
			s = s[:1]
		}
		p.pad(s, flags, width)
	case 'd', 'i':
		v, sign := p.integer(p.next()), signOf(flags)
		u := uint64(v)
		if v < 0 {
			u, sign = -u, "-"
		}
		p.digits(strconv.FormatUint(u, 10), sign, flags, width, prec)
	case 'u':
		p.digits(strconv.FormatUint(uint64(p.integer(p.next())), 10), "", flags, width, prec)
	case 'o':
		d := strconv.FormatUint(uint64(p.integer(p.next())), 8)
		if strings.Contains(flags, "#") && d != "0" {
			d = "0" + d
		}
		p.digits(d, "", flags, width, prec)
	case 'x', 'X':
		d, before := strconv.FormatUint(uint64(p.integer(p.next())), 16), ""
		if strings.Contains(flags, "#") && d != "0" {
			before = "0x"
		}
		if conv == 'X' {
			d, before = strings.ToUpper(d), strings.ToUpper(before)
		}
		p.digits(d, before, flags, width, prec)
	case 'e', 'E', 'f', 'F', 'g', 'G', 'a', 'A':
		p.float(flags, width, prec, conv)
	default:
		if c.call.Prefix != "" {
			c.fail("`%c': invalid format character", conv)
		} else {
			c.fail("%s: invalid conversion specification", f[:i+1])
		}
		return 0, false
	}
	return i + 1, true
}

// truncate cuts to n characters.
func truncate(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

func (p *printer) pad(s, flags string, width int) {
	p.padded("", 0, s, flags, width-utf8.RuneCountInString(s))
}

// padded prints before, zeros and s, and n blanks on one side of them.
func (p *printer) padded(before string, zeros int, s, flags string, n int) {
	left := strings.Contains(flags, "-")
	if !left {
		p.fill(' ', n)
	}
	p.c.print(before)
	p.fill('0', zeros)
	p.c.print(s)
	if left {
		p.fill(' ', n)
	}
}

// fill prints c n times, none for n < 0. A width may be larger than memory.
func (p *printer) fill(c byte, n int) {
	var some [512]byte
	for i := range some {
		some[i] = c
	}
	for ; n > 0; n -= len(some) {
		if _, err := p.c.out.Write(some[:min(n, len(some))]); err != nil {
			return
		}
	}
}

// digits prints an integer, d, behind its sign or prefix. A precision is the
// least number of digits.
func (p *printer) digits(d, before, flags string, width, prec int) {
	if prec == 0 && d == "0" {
		d = ""
	}
	zeros := max(prec-len(d), 0)
	if prec < 0 && strings.Contains(flags, "0") && !strings.Contains(flags, "-") {
		zeros = max(width-len(before)-len(d), 0)
	}
	p.padded(before, zeros, d, flags, width-len(before)-zeros-len(d))
}

// signOf is what stands before a number that is not negative.
func signOf(flags string) string {
	switch {
	case strings.Contains(flags, "+"):
		return "+"
	case strings.Contains(flags, " "):
		return " "
	}
	return ""
}

// complain reports an argument that is no number, or only begins as one.
func (p *printer) complain(s string, partly bool) {
	switch {
	case p.c.call.Prefix != "":
		p.c.fail("%s: invalid number", s)
	case partly:
		p.c.fail("%s: value not completely converted", quote(s))
	default:
		p.c.fail("%s: expected a numeric value", quote(s))
	}
}

func (p *printer) integer(s string) int64 {
	if p.noArg {
		return 0
	}
	if s != "" && (s[0] == '\'' || s[0] == '"') {
		if len(s) == 1 {
			return 0
		}
		r, n := utf8.DecodeRuneInString(s[1:])
		if r == utf8.RuneError && n == 1 {
			return int64(s[1])
		}
		return int64(r)
	}
	t := strings.TrimLeft(s, " \t\n")
	neg := strings.HasPrefix(t, "-")
	d := strings.TrimPrefix(strings.TrimPrefix(t, "-"), "+")
	base := 10
	switch {
	case len(d) > 2 && (d[:2] == "0x" || d[:2] == "0X"):
		base, d = 16, d[2:]
	case len(d) > 1 && d[0] == '0':
		base = 8
	}
	var v uint64
	end := 0
	over := false
	for ; end < len(d); end++ {
		k := strings.IndexByte("0123456789abcdef", d[end]|0x20)
		if d[end] <= '9' {
			k = int(d[end]) - '0'
		}
		if k < 0 || k >= base {
			break
		}
		over = over || v > (math.MaxUint64-uint64(k))/uint64(base)
		v = v*uint64(base) + uint64(k)
	}
	if end < len(d) || end == 0 {
		p.complain(s, end > 0)
	} else if over {
		p.c.fail("%s: Numerical result out of range", s)
		v = math.MaxUint64
	}
	if neg {
		return -int64(v)
	}
	return int64(v)
}

func (p *printer) float(flags string, width, prec int, conv byte) {
	s := p.next()
	var v float64
	if s != "" && (s[0] == '\'' || s[0] == '"') {
		v = float64(p.integer(s))
	} else if !p.noArg {
		t := strings.TrimSpace(s)
		for end := len(t); ; end-- {
			f, err := strconv.ParseFloat(t[:end], 64)
			if err != nil && strings.ContainsAny(t[:end], "xX") {
				f, err = strconv.ParseFloat(t[:end]+"p0", 64) // C can do without
			}
			if err == nil || math.IsInf(f, 0) {
				v = f
				if end < len(t) {
					p.complain(s, true)
				}
				break
			}
			if end == 0 {
				p.complain(s, false)
				break
			}
		}
	}
	finite := !math.IsInf(v, 0) && !math.IsNaN(v)
	d, sign := formatFloat(math.Abs(v), flags, prec, conv), signOf(flags)
	if finite && strings.Contains(flags, "#") && !strings.Contains(d, ".") {
		end := strings.IndexByte(d, conv+('p'-'a')) // %a: the exponent follows a p
		if conv|0x20 != 'a' {
			end = strings.IndexAny(d, "eE")
		}
		if end < 0 {
			end = len(d)
		}
		d = d[:end] + "." + d[end:]
	}
	if math.Signbit(v) {
		sign = "-"
	}
	zeros := 0
	if strings.Contains(flags, "0") && !strings.Contains(flags, "-") && finite {
		zeros = max(width-len(sign)-len(d), 0)
	}
	p.padded(sign, zeros, d, flags, width-len(sign)-zeros-len(d))
}

// formatFloat is C's %a %e %f %g without a sign.
func formatFloat(v float64, flags string, prec int, conv byte) string {
	var s string
	switch {
	case math.IsInf(v, 0) || math.IsNaN(v):
		s = strings.TrimPrefix(strings.ToLower(strconv.FormatFloat(v, 'f', -1, 64)), "+")
		if conv < 'a' {
			s = strings.ToUpper(s)
		}
	case conv == 'a' || conv == 'A':
		s = strconv.FormatFloat(v, conv+('x'-'a'), prec, 64)
	case conv == 'g' || conv == 'G':
		s = generalFloat(v, prec, strings.Contains(flags, "#"))
		if conv == 'G' {
			s = strings.ToUpper(s)
		}
	default:
		if prec < 0 {
			prec = 6
		}
		if conv == 'F' {
			conv = 'f'
		}
		s = strconv.FormatFloat(v, conv, prec, 64)
	}
	return s
}

// generalFloat is C's %g.
func generalFloat(v float64, prec int, alt bool) string {
	if prec < 0 {
		prec = 6
	}
	prec = max(prec, 1)
	e := strconv.FormatFloat(v, 'e', prec-1, 64)
	exp, _ := strconv.Atoi(e[strings.IndexByte(e, 'e')+1:])
	trim := func(s string) string {
		if !alt && strings.Contains(s, ".") {
			s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
		}
		return s
	}
	if exp < -4 || exp >= prec {
		mant, x, _ := strings.Cut(e, "e")
		return trim(mant) + "e" + x
	}
	return trim(strconv.FormatFloat(v, 'f', prec-1-exp, 64))
}

// backslashQuote is bash's %q.
func backslashQuote(s string) string {
	if s == "" {
		return "''"
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 127 {
			return ansiC(s)
		}
	}
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(" !\"#$&'()*,;<>?[\\]^`{|}~", s[i]) >= 0 && !(i > 0 && (s[i] == '~' || s[i] == '#')) {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func ansiC(s string) string {
	const controls, letters = "\a\b\x1b\f\n\r\t\v", "abEfnrtv"
	var b strings.Builder
	b.WriteString("$'")
	for i := range len(s) {
		k := strings.IndexByte(controls, s[i])
		switch c := s[i]; {
		case k >= 0:
			b.WriteByte('\\')
			b.WriteByte(letters[k])
		case c == '\'' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c == 127:
			fmt.Fprintf(&b, "\\%03o", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String() + "'"
}
