package applets

import (
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/regex"
)

// seq prints numbers. Decimals are exact: they are integers of the smallest unit.
func seq(c *Ctx) {
	sep, format, pad := "\n", "", false
	args := c.args
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && !(args[0][1] >= '0' && args[0][1] <= '9' || args[0][1] == '.') {
		a := args[0]
		args = args[1:]
		val := func(short string) string {
			if v := strings.TrimPrefix(a, short); v != "" && v != a {
				return strings.TrimPrefix(v, "=")
			}
			if len(args) == 0 {
				c.warn("option requires an argument -- '%s'", short[1:])
				c.usage()
			}
			v := args[0]
			args = args[1:]
			return v
		}
		switch {
		case a == "--":
		case a == "-w" || a == "--equal-width":
			pad = true
			continue
		case strings.HasPrefix(a, "--separator"):
			sep = val("--separator")
			continue
		case strings.HasPrefix(a, "--format"):
			format = val("--format")
			continue
		case strings.HasPrefix(a, "-s"):
			sep = val("-s")
			continue
		case strings.HasPrefix(a, "-f"):
			format = val("-f")
			continue
		case a == "--help":
			c.help()
		default:
			c.warn("invalid option -- '%c'", a[1])
			c.usage()
		}
		break
	}
	switch {
	case len(args) == 0:
		c.missing()
	case len(args) > 3:
		c.extra(args[3])
	}
	scale := 0
	width := 0
	nums := make([]*big.Rat, len(args))
	for i, a := range args {
		t := strings.TrimPrefix(a, "+")
		r, ok := new(big.Rat).SetString(t)
		if !ok || strings.ContainsAny(t, "/_") {
			c.warn("invalid floating point argument: %s", quote(a))
			c.usage()
		}
		nums[i] = r
		// The last number shows no decimals of its own, unless -w pads to it.
		if _, frac, ok := strings.Cut(t, "."); ok && !strings.ContainsAny(t, "eE") && (i < len(args)-1 || pad) {
			scale = max(scale, len(frac))
		}
	}
	first, step, last := big.NewRat(1, 1), big.NewRat(1, 1), nums[len(nums)-1]
	if len(nums) > 1 {
		first = nums[0]
	}
	if len(nums) == 3 {
		step = nums[1]
	}
	if step.Sign() == 0 {
		c.warn("invalid Zero increment value: %s", quote(args[1]))
		c.usage()
	}
	text := func(r *big.Rat) string {
		if format != "" {
			f, _ := r.Float64()
			var b strings.Builder
			Run(&Call{Args: []string{"printf", format, strconv.FormatFloat(f, 'g', -1, 64)}, Stdout: &b, Stderr: c.err})
			return b.String()
		}
		return r.FloatString(scale)
	}
	if pad && format == "" {
		width = max(len(text(first)), len(text(last)))
	}
	out := func(s string) {
		if pad && len(s) < width {
			if strings.HasPrefix(s, "-") {
				s = "-" + strings.Repeat("0", width-len(s)) + s[1:]
			} else {
				s = strings.Repeat("0", width-len(s)) + s
			}
		}
		c.print(s)
	}
	// Whole numbers of ordinary size are the common case.
	if scale == 0 && format == "" && first.IsInt() && step.IsInt() && first.Num().IsInt64() && step.Num().IsInt64() {
		limit := new(big.Int).Quo(last.Num(), last.Denom())
		if limit.IsInt64() && limit.BitLen() < 62 {
			n, d, end := first.Num().Int64(), step.Num().Int64(), limit.Int64()
			if last.Sign() < 0 && !last.IsInt() && d > 0 {
				end--
			}
			any := false
			for ; d > 0 && n <= end || d < 0 && n >= end; n += d {
				if any {
					c.print(sep)
				}
				any = true
				out(strconv.FormatInt(n, 10))
			}
			if any {
				c.print("\n")
			}
			return
		}
	}
	any := false
	for v := new(big.Rat).Set(first); step.Sign() > 0 && v.Cmp(last) <= 0 || step.Sign() < 0 && v.Cmp(last) >= 0; v.Add(v, step) {
		if any {
			c.print(sep)
		}
		any = true
		out(text(v))
	}
	if any {
		c.print("\n")
	}
}

func factor(c *Ctx) {
	words := c.operands()
	if len(words) == 0 {
		for _, l := range c.allLines(nil) {
			words = append(words, strings.Fields(l)...)
		}
	}
	for _, w := range words {
		n, ok := new(big.Int).SetString(strings.TrimPrefix(w, "+"), 10)
		if !ok || n.Sign() < 0 {
			c.fail("%s is not a valid positive integer", quote(w))
			continue
		}
		c.print(n.String() + ":")
		for _, f := range factorize(n) {
			c.print(" " + f.String())
		}
		c.println()
	}
}

// factorize divides by small primes and then uses Pollard's rho.
func factorize(n *big.Int) []*big.Int {
	var out []*big.Int
	n = new(big.Int).Set(n)
	one := big.NewInt(1)
	for p := int64(2); p < 10000; p++ {
		d := big.NewInt(p)
		for n.Cmp(d) >= 0 {
			q, r := new(big.Int).QuoRem(n, d, new(big.Int))
			if r.Sign() != 0 {
				break
			}
			out = append(out, d)
			n = q
		}
	}
	var split func(*big.Int)
	split = func(m *big.Int) {
		if m.Cmp(one) <= 0 {
			return
		}
		if m.ProbablyPrime(20) {
			out = append(out, m)
			return
		}
		for k := int64(1); ; k++ {
			x, y, d := big.NewInt(2), big.NewInt(2), big.NewInt(1)
			step := func(v *big.Int) { v.Mul(v, v).Add(v, big.NewInt(k)).Mod(v, m) }
			for d.Cmp(one) == 0 {
				step(x)
				step(y)
				step(y)
				d.GCD(nil, nil, new(big.Int).Abs(new(big.Int).Sub(x, y)), m)
			}
			if d.Cmp(m) != 0 {
				split(d)
				split(new(big.Int).Quo(m, d))
				return
			}
		}
	}
	split(n)
	for i := range out {
		for j := i; j > 0 && out[j].Cmp(out[j-1]) < 0; j-- {
			out[j], out[j-1] = out[j-1], out[j]
		}
	}
	return out
}

// expr evaluates one expression given as words.
func expr(c *Ctx) {
	args := c.args
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		c.missing()
	}
	e := &exprParser{c: c, words: args}
	v := e.or()
	if e.i < len(e.words) {
		c.dieCode(2, "syntax error: unexpected argument %s", quote(e.words[e.i]))
	}
	c.println(v)
	if falsy(v) {
		c.code = 1
	}
}

type exprParser struct {
	c     *Ctx
	words []string
	i     int
}

func falsy(s string) bool {
	t := strings.TrimPrefix(s, "-")
	return s == "" || t != "" && strings.Trim(t, "0") == ""
}

func (e *exprParser) peek(ops ...string) string {
	if e.i < len(e.words) {
		for _, op := range ops {
			if e.words[e.i] == op {
				return op
			}
		}
	}
	return ""
}

func (e *exprParser) or() string {
	v := e.and()
	for e.peek("|") != "" {
		e.i++
		if r := e.and(); falsy(v) {
			if v = r; falsy(r) {
				v = "0"
			}
		}
	}
	return v
}

func (e *exprParser) and() string {
	v := e.compare()
	for e.peek("&") != "" {
		e.i++
		if r := e.compare(); falsy(v) || falsy(r) {
			v = "0"
		}
	}
	return v
}

func integerWord(s string) (*big.Int, bool) {
	t := strings.TrimPrefix(s, "-")
	if t == "" || strings.Trim(t, "0123456789") != "" {
		return nil, false
	}
	return new(big.Int).SetString(s, 10)
}

func (e *exprParser) compare() string {
	v := e.sum()
	for {
		op := e.peek("<", "<=", "=", "==", "!=", ">=", ">")
		if op == "" {
			return v
		}
		e.i++
		r := e.sum()
		a, ok1 := integerWord(v)
		b, ok2 := integerWord(r)
		d := strings.Compare(v, r)
		if ok1 && ok2 {
			d = a.Cmp(b)
		}
		ok := false
		switch op {
		case "<":
			ok = d < 0
		case "<=":
			ok = d <= 0
		case "=", "==":
			ok = d == 0
		case "!=":
			ok = d != 0
		case ">=":
			ok = d >= 0
		case ">":
			ok = d > 0
		}
		v = "0"
		if ok {
			v = "1"
		}
	}
}

func (e *exprParser) number(s string) *big.Int {
	n, ok := integerWord(s)
	if !ok {
		e.c.dieCode(2, "non-integer argument")
	}
	return n
}

func (e *exprParser) sum() string {
	v := e.product()
	for {
		op := e.peek("+", "-")
		if op == "" {
			return v
		}
		e.i++
		a, b := e.number(v), e.number(e.product())
		if op == "+" {
			a.Add(a, b)
		} else {
			a.Sub(a, b)
		}
		v = a.String()
	}
}

func (e *exprParser) product() string {
	v := e.match()
	for {
		op := e.peek("*", "/", "%")
		if op == "" {
			return v
		}
		e.i++
		a, b := e.number(v), e.number(e.match())
		switch {
		case op == "*":
			a.Mul(a, b)
		case b.Sign() == 0:
			e.c.dieCode(2, "division by zero")
		case op == "/":
			a.Quo(a, b)
		default:
			a.Rem(a, b)
		}
		v = a.String()
	}
}

func (e *exprParser) match() string {
	v := e.primary()
	for e.peek(":") != "" {
		e.i++
		v = e.matchText(v, e.primary())
	}
	return v
}

func (e *exprParser) matchText(s, pattern string) string {
	re, err := regex.Compile(pattern, regex.Basic, 0)
	if err != nil {
		e.c.dieCode(2, "%v", err)
	}
	m := re.Find([]byte(s))
	if m != nil && m[0] != 0 { // it has to begin at the start
		m = nil
		if k, err := regex.Compile(`^\(`+shiftBackrefs(pattern)+`\)`, regex.Basic, 0); err == nil {
			if m = k.Find([]byte(s)); m != nil {
				m = append(m[:2:2], m[4:]...)
			}
		}
	}
	if re.Groups() > 0 {
		if m == nil || m[2] < 0 {
			return ""
		}
		return s[m[2]:m[3]]
	}
	if m == nil {
		return "0"
	}
	return strconv.Itoa(utf8.RuneCountInString(s[:m[1]]))
}

func (e *exprParser) primary() string {
	if e.i >= len(e.words) {
		last := e.words[len(e.words)-1]
		e.c.dieCode(2, "syntax error: missing argument after %s", quote(last))
	}
	w := e.words[e.i]
	e.i++
	rest := len(e.words) - e.i
	switch {
	case w == "(":
		v := e.or()
		if e.peek(")") == "" {
			if e.i >= len(e.words) {
				e.c.dieCode(2, "syntax error: expecting ')' after %s", quote(e.words[e.i-1]))
			}
			e.c.dieCode(2, "syntax error: expecting ')' instead of %s", quote(e.words[e.i]))
		}
		e.i++
		return v
	case w == ")":
		e.c.dieCode(2, "syntax error: unexpected ')'")
	case w == "+" && rest > 0:
		e.i++
		return e.words[e.i-1]
	case w == "length" && rest > 0:
		return strconv.Itoa(utf8.RuneCountInString(e.primary()))
	case w == "match" && rest > 1:
		s := e.primary()
		return e.matchText(s, e.primary())
	case w == "index" && rest > 1:
		s := e.primary()
		return strconv.Itoa(strings.IndexAny(s, e.primary()) + 1)
	case w == "substr" && rest > 2:
		s := []rune(e.primary())
		pos, ok1 := integerWord(e.primary())
		n, ok2 := integerWord(e.primary())
		if !ok1 || !ok2 || !pos.IsInt64() || !n.IsInt64() || pos.Sign() <= 0 || n.Sign() <= 0 || pos.Int64() > int64(len(s)) {
			return ""
		}
		from := pos.Int64() - 1
		return string(s[from:min(from+n.Int64(), int64(len(s)))])
	}
	return w
}

// numfmt converts numbers to and from units.
func numfmt(c *Ctx) {
	o := c.options("d:z", "from: to: from-unit: to-unit: suffix: padding: round: field: format: header? delimiter=d invalid: grouping zero-terminated=z")
	from, to, suffix, format, padding, header := "none", "none", "", "", 0, 0
	field, delim, round := "1", "", "from-zero"
	fromUnit, toUnit := 1.0, 1.0
	for o.next() {
		switch o.opt {
		case "from":
			from = o.arg
		case "to":
			to = o.arg
		case "suffix":
			suffix = o.arg
		case "format":
			format = o.arg
		case "padding":
			padding, _ = strconv.Atoi(o.arg)
		case "field":
			field = o.arg
		case "d":
			delim = o.arg
		case "round":
			round = o.arg
		case "header":
			header = 1
			if n, err := strconv.Atoi(o.arg); err == nil {
				header = n
			}
		case "from-unit", "to-unit":
			n, ok := parseSize(o.arg)
			if !ok {
				c.die("invalid unit size: %s", quote(o.arg))
			}
			if o.opt == "from-unit" {
				fromUnit = float64(n)
			} else {
				toUnit = float64(n)
			}
		}
	}
	convert := func(s string) string {
		t := strings.TrimSuffix(strings.TrimSpace(s), suffix)
		num := regexp.MustCompile(`^-?[0-9]*\.?[0-9]+`).FindString(t)
		f, err := strconv.ParseFloat(num, 64)
		unit := t[len(num):]
		if err != nil {
			c.fail("invalid number: %s", quote(s))
			return s
		}
		if unit != "" && from == "none" {
			c.fail("rejecting suffix in input: %s (consider using --from)", quote(s))
			c.exit(2)
		}
		if unit != "" {
			base := 1024.0
			if from == "si" || from == "auto" && !strings.HasSuffix(unit, "i") {
				base = 1000
			}
			exp := strings.IndexByte("KMGTPEZY", upperByte(unit[0])) + 1
			if exp == 0 {
				c.fail("invalid suffix in input: %s", quote(s))
				c.exit(2)
			}
			for range exp {
				f *= base
			}
		}
		f = f * fromUnit / toUnit
		prec := -1
		spec := "%f"
		if format != "" {
			spec = format
			if i := strings.IndexByte(format, '.'); i >= 0 {
				prec, _, _ = digits(format, i+1, 2, 10)
			}
		}
		out := ""
		if to == "none" {
			if prec >= 0 {
				out = strconv.FormatFloat(f, 'f', prec, 64)
			} else {
				out = strconv.FormatFloat(roundTo(f, round), 'f', 0, 64)
				if f == float64(int64(f*10))/10 && f != float64(int64(f)) && toUnit == 1 && from == "none" {
					out = strconv.FormatFloat(f, 'f', -1, 64)
				}
			}
		} else {
			base := 1000.0
			if to != "si" {
				base = 1024
			}
			i := 0
			a := f
			for (a >= base || a <= -base) && i < 8 {
				a /= base
				i++
			}
			switch {
			case prec >= 0:
				out = strconv.FormatFloat(a, 'f', prec, 64)
			case i > 0 && (a < 10 && a > -10):
				v := roundTo(a*10, round) / 10
				if v >= 10 || v <= -10 {
					out = strconv.FormatFloat(v, 'f', 0, 64)
				} else {
					out = strconv.FormatFloat(v, 'f', 1, 64)
				}
			default:
				v := roundTo(a, round)
				if v >= base && i < 8 {
					v, i = v/base, i+1
					out = strconv.FormatFloat(v, 'f', 1, 64)
				} else {
					out = strconv.FormatFloat(v, 'f', 0, 64)
				}
			}
			if i > 0 {
				out += "KMGTPEZY"[i-1 : i]
				if to == "iec-i" {
					out += "i"
				}
			}
		}
		out += suffix
		if format != "" {
			if m := regexp.MustCompile(`%['0-9.-]*f`).FindStringIndex(spec); m != nil {
				w := strings.TrimPrefix(spec[m[0]+1:m[1]-1], "'")
				w, _, _ = strings.Cut(w, ".")
				out = spec[:m[0]] + fmt.Sprintf("%"+w+"s", out) + spec[m[1]:]
			}
		}
		if padding != 0 {
			out = fmt.Sprintf("%*s", padding, out)
		}
		return out
	}
	if len(o.args) > 0 {
		for _, a := range o.args {
			c.println(convert(a))
		}
		return
	}
	spans := c.parseSpans(field, true)
	for n, l := range c.allLines(nil) {
		if n < header {
			c.println(l)
			continue
		}
		var parts []string
		if delim != "" {
			parts = strings.Split(l, delim)
		} else {
			parts = regexp.MustCompile(`\s*\S+`).FindAllString(l, -1)
		}
		for i, p := range parts {
			if !inSpans(spans, i+1) {
				continue
			}
			v := convert(p)
			if lead := len(p) - len(strings.TrimLeft(p, " \t")); delim == "" && lead > 0 {
				v = fmt.Sprintf("%*s", len(p), v)
				if len(v) >= len(p) && v[0] != ' ' {
					v = " " + strings.TrimLeft(v, " ")
				}
			}
			parts[i] = v
		}
		c.println(strings.Join(parts, delim))
	}
}

// roundTo rounds as numfmt --round says.
func roundTo(f float64, how string) float64 {
	t := float64(int64(f))
	switch how {
	case "down":
		if f < t {
			t--
		}
	case "up":
		if f > t {
			t++
		}
	case "towards-zero":
	case "nearest":
		if f >= 0 {
			return float64(int64(f + 0.5))
		}
		return float64(int64(f - 0.5))
	default: // from zero
		if f > t {
			t++
		} else if f < t {
			t--
		}
	}
	return t
}
