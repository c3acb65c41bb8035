package applets

import (
	"errors"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"strings"
)

// decimal is a number of bc and dc: n / 10^scale.
type decimal struct {
	n     *big.Int
	scale int
}

func pow10(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }

func dec(n int64) decimal { return decimal{big.NewInt(n), 0} }

// rescaled changes the scale, cutting digits off.
func (d decimal) rescaled(scale int) decimal {
	switch {
	case scale > d.scale:
		return decimal{new(big.Int).Mul(d.n, pow10(scale-d.scale)), scale}
	case scale < d.scale:
		return decimal{new(big.Int).Quo(d.n, pow10(d.scale-scale)), scale}
	}
	return d
}

func align(a, b decimal) (decimal, decimal) {
	s := max(a.scale, b.scale)
	return a.rescaled(s), b.rescaled(s)
}

func (d decimal) add(e decimal) decimal {
	a, b := align(d, e)
	return decimal{new(big.Int).Add(a.n, b.n), a.scale}
}

func (d decimal) neg() decimal { return decimal{new(big.Int).Neg(d.n), d.scale} }

func (d decimal) cmp(e decimal) int {
	a, b := align(d, e)
	return a.n.Cmp(b.n)
}

func (d decimal) mul(e decimal, scale int) decimal {
	p := decimal{new(big.Int).Mul(d.n, e.n), d.scale + e.scale}
	return p.rescaled(min(d.scale+e.scale, max(scale, d.scale, e.scale)))
}

var errDivide = errors.New("divide by zero")

func (d decimal) div(e decimal, scale int) (decimal, error) {
	if e.n.Sign() == 0 {
		return d, errDivide
	}
	n := new(big.Int).Set(d.n)
	if k := scale + e.scale - d.scale; k >= 0 {
		n.Mul(n, pow10(k))
	} else {
		n.Quo(n, pow10(-k))
	}
	return decimal{n.Quo(n, e.n), scale}, nil
}

func (d decimal) mod(e decimal, scale int) (decimal, error) {
	q, err := d.div(e, scale)
	if err != nil {
		return d, err
	}
	rs := max(d.scale, e.scale+scale)
	return d.add(decimal{new(big.Int).Mul(q.n, e.n), q.scale + e.scale}.neg()).rescaled(rs), nil
}

func (d decimal) pow(e decimal, scale int) (decimal, error) {
	n := e.rescaled(0).n
	if !n.IsInt64() || n.BitLen() > 24 {
		return d, errors.New("exponent too large in raise")
	}
	k := n.Int64()
	neg := k < 0
	if neg {
		k = -k
	}
	r := decimal{new(big.Int).Exp(d.n, big.NewInt(k), nil), d.scale * int(k)}
	if neg {
		return dec(1).div(r, scale)
	}
	return r.rescaled(min(d.scale*int(k), max(scale, d.scale))), nil
}

func (d decimal) sqrt(scale int) (decimal, error) {
	if d.n.Sign() < 0 {
		return d, errors.New("square root of negative number")
	}
	s := max(scale, d.scale)
	n := new(big.Int).Mul(d.n, pow10(2*s-d.scale))
	return decimal{n.Sqrt(n), s}, nil
}

// text writes the number in a base.
func (d decimal) text(base int) string {
	if d.n.Sign() == 0 {
		return "0"
	}
	sign := ""
	abs := new(big.Int).Abs(d.n)
	if d.n.Sign() < 0 {
		sign = "-"
	}
	whole, frac := new(big.Int).QuoRem(abs, pow10(d.scale), new(big.Int))
	if base == 10 {
		s := sign
		if whole.Sign() != 0 {
			s += whole.String()
		}
		if d.scale > 0 {
			f := frac.String()
			s += "." + strings.Repeat("0", d.scale-len(f)) + f
		}
		return s
	}
	digit := func(n int64) string {
		if base <= 16 {
			return strings.ToUpper(strconv.FormatInt(n, 16))
		}
		return fmt.Sprintf(" %0*d", len(strconv.Itoa(base-1)), n)
	}
	b := big.NewInt(int64(base))
	s := ""
	for whole.Sign() > 0 {
		r := new(big.Int)
		whole.QuoRem(whole, b, r)
		s = digit(r.Int64()) + s
	}
	s = sign + s
	if d.scale > 0 {
		s += "."
		unit, reach := pow10(d.scale), big.NewInt(1)
		for reach.Cmp(unit) < 0 { // as many digits as the scale is worth
			frac.Mul(frac, b)
			k := new(big.Int)
			k.QuoRem(frac, unit, frac)
			s += digit(k.Int64())
			reach.Mul(reach, b)
		}
	}
	return s
}

// parseDecimal reads digits in a base.
func parseDecimal(s string, base int) decimal {
	whole, frac, _ := strings.Cut(s, ".")
	value := func(c byte) int64 {
		v := int64(c - '0')
		if c >= 'A' {
			v = int64(c-'A') + 10
		}
		if len(whole)+len(frac) > 1 && v >= int64(base) {
			v = int64(base) - 1
		}
		return v
	}
	b := big.NewInt(int64(base))
	n := new(big.Int)
	for i := range len(whole) {
		n.Mul(n, b).Add(n, big.NewInt(value(whole[i])))
	}
	if frac == "" {
		return decimal{n, 0}
	}
	if base == 10 {
		for i := range len(frac) {
			n.Mul(n, b).Add(n, big.NewInt(value(frac[i])))
		}
		return decimal{n, len(frac)}
	}
	f, unit := new(big.Int), big.NewInt(1)
	for i := range len(frac) {
		f.Mul(f, b).Add(f, big.NewInt(value(frac[i])))
		unit.Mul(unit, b)
	}
	f.Mul(f, pow10(len(frac))).Quo(f, unit)
	return decimal{n.Mul(n, pow10(len(frac))).Add(n, f), len(frac)}
}

func (d decimal) int() int {
	n := d.rescaled(0).n
	if !n.IsInt64() {
		return 1 << 30
	}
	return int(n.Int64())
}

// digitsOf is length(): significant decimal digits.
func (d decimal) length() int {
	if d.n.Sign() == 0 {
		return max(d.scale, 1)
	}
	return max(len(new(big.Int).Abs(d.n).String()), d.scale)
}

// wrapLine breaks long numbers as bc and dc do.
func wrapLine(s string) string {
	const width = 69
	if len(s) <= width {
		return s
	}
	var b strings.Builder
	for len(s) > width-1 {
		b.WriteString(s[:width-1] + "\\\n")
		s = s[width-1:]
	}
	return b.String() + s
}

// bc is a calculator with a language like C's. Statements are executed as they
// are parsed into closures.
func bc(c *Ctx) {
	o := c.options("hilqsvwe:", "mathlib=l quiet=q interactive=i standard=s warn=w expression=e")
	m := &bcMachine{c: c, vars: map[string]*decimal{}, arrays: map[string]map[int]decimal{}, funcs: map[string]*bcFunc{}, ibase: 10, obase: 10}
	var texts []string
	for o.next() {
		switch o.opt {
		case "l":
			m.scale = 20
			m.mathlib = true
		case "e":
			texts = append(texts, o.arg+"\n")
		}
	}
	for _, n := range o.args {
		r, err := c.open(n)
		if err != nil {
			c.die("File %s is unavailable.", n)
		}
		data, _ := io.ReadAll(r)
		texts = append(texts, string(data))
	}
	for _, t := range texts {
		m.run(t)
	}
	if len(texts) == 0 || len(o.args) > 0 {
		data, _ := io.ReadAll(c.in)
		m.run(string(data))
	}
}

type bcFunc struct {
	params, autos []string // with [] for arrays
	body          []bcStmt
}

type bcMachine struct {
	c            *Ctx
	vars         map[string]*decimal
	arrays       map[string]map[int]decimal
	funcs        map[string]*bcFunc
	scale        int
	ibase, obase int
	last         decimal
	mathlib      bool
	depth        int
	toks         []bcTok
	i            int
}

type bcTok struct {
	kind byte // 'n' number, 'i' name, 's' string, 'o' operator, ';' end of statement, 0 end
	text string
}

// bcStmt runs a statement; the result says how it ended: 0 normally, b by
// break, c by continue, r by return, q by quit.
type bcStmt func() byte
type bcExpr func() decimal

type bcError struct{ msg string }

func (m *bcMachine) fail(format string, a ...any) { panic(bcError{fmt.Sprintf(format, a...)}) }

func (m *bcMachine) lex(s string) {
	m.toks, m.i = nil, 0
	add := func(k byte, t string) { m.toks = append(m.toks, bcTok{k, t}) }
	for i := 0; i < len(s); {
		ch := s[i]
		switch {
		case ch == '\\' && i+1 < len(s) && s[i+1] == '\n':
			i += 2
		case ch == ' ' || ch == '\t' || ch == '\r':
			i++
		case ch == '\n' || ch == ';':
			add(';', string(ch))
			i++
		case ch == '#':
			for i < len(s) && s[i] != '\n' {
				i++
			}
		case strings.HasPrefix(s[i:], "/*"):
			end := strings.Index(s[i+2:], "*/")
			if end < 0 {
				return
			}
			i += end + 4
		case ch == '"':
			end := strings.IndexByte(s[i+1:], '"')
			if end < 0 {
				end = len(s) - i - 1
			}
			add('s', s[i+1:i+1+end])
			i = min(i+end+2, len(s))
		case ch >= '0' && ch <= '9' || ch >= 'A' && ch <= 'F' || ch == '.':
			t := ""
			dot := false
			for i < len(s) {
				d := s[i]
				if d == '\\' && i+1 < len(s) && s[i+1] == '\n' {
					i += 2
					continue
				}
				if !(d >= '0' && d <= '9' || d >= 'A' && d <= 'F' || d == '.' && !dot) {
					break
				}
				dot = dot || d == '.'
				t += string(d)
				i++
			}
			if t == "." {
				add('i', "last")
			} else {
				add('n', t)
			}
		case ch >= 'a' && ch <= 'z' || ch == '_':
			j := i
			for j < len(s) && (s[j] >= 'a' && s[j] <= 'z' || s[j] >= '0' && s[j] <= '9' || s[j] == '_') {
				j++
			}
			add('i', s[i:j])
			i = j
		default:
			n := 1
			for _, op := range []string{"++", "--", "+=", "-=", "*=", "/=", "%=", "^=", "==", "<=", ">=", "!=", "&&", "||"} {
				if strings.HasPrefix(s[i:], op) {
					n = 2
				}
			}
			add('o', s[i:i+n])
			i += n
		}
	}
}

func (m *bcMachine) peek() bcTok {
	if m.i < len(m.toks) {
		return m.toks[m.i]
	}
	return bcTok{}
}

func (m *bcMachine) is(text string) bool {
	t := m.peek()
	return t.text == text && (t.kind == 'o' || t.kind == 'i' || t.kind == ';')
}

func (m *bcMachine) accept(text string) bool {
	if m.is(text) {
		m.i++
		return true
	}
	return false
}

func (m *bcMachine) expect(text string) {
	if !m.accept(text) {
		m.fail("syntax error")
	}
}

func (m *bcMachine) newlines() {
	for m.is("\n") {
		m.i++
	}
}

// run executes a program; an error skips the rest of its line.
func (m *bcMachine) run(text string) {
	m.lex(text)
	for m.i < len(m.toks) {
		if m.peek().kind == ';' {
			m.i++
			continue
		}
		if m.guard() {
			m.c.flush()
			m.c.exit(m.c.code)
		}
	}
}

func (m *bcMachine) guard() (quit bool) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(bcError)
			if !ok {
				panic(r)
			}
			m.c.flush()
			kind := "Runtime error (func=(main), adr=3): " + e.msg
			if e.msg == "syntax error" {
				kind = "(standard_in) 1: syntax error"
			}
			fmt.Fprintln(m.c.err, kind)
			m.depth = 0
			for m.i < len(m.toks) && !m.is("\n") {
				m.i++
			}
		}
	}()
	if m.accept("define") {
		m.define()
		return false
	}
	if m.is("quit") {
		return true
	}
	s := m.statement()
	switch t := m.peek(); {
	case t.kind == ';' || t.kind == 0:
	default:
		m.fail("syntax error")
	}
	return s() == 'q'
}

func (m *bcMachine) define() {
	m.accept("void")
	name := m.peek().text
	m.i++
	f := &bcFunc{}
	list := func(end string) (l []string) {
		for !m.accept(end) {
			if m.accept(",") || m.accept("*") || m.accept("&") {
				continue
			}
			t := m.peek()
			if t.kind != 'i' {
				m.fail("syntax error")
			}
			m.i++
			if m.accept("[") {
				m.expect("]")
				t.text += "[]"
			}
			l = append(l, t.text)
		}
		return l
	}
	m.expect("(")
	f.params = list(")")
	m.newlines()
	m.expect("{")
	m.funcs[name] = f
	for {
		for m.peek().kind == ';' {
			m.i++
		}
		if m.accept("}") {
			return
		}
		if m.accept("auto") {
			for m.peek().kind != ';' && m.peek().kind != 0 {
				if m.accept(",") {
					continue
				}
				n := m.peek().text
				m.i++
				if m.accept("[") {
					m.expect("]")
					n += "[]"
				}
				f.autos = append(f.autos, n)
			}
			continue
		}
		if m.peek().kind == 0 {
			m.fail("syntax error")
		}
		f.body = append(f.body, m.statement())
	}
}

func (m *bcMachine) statement() bcStmt {
	t := m.peek()
	switch {
	case m.accept("{"):
		var l []bcStmt
		for {
			for m.peek().kind == ';' {
				m.i++
			}
			if m.accept("}") {
				break
			}
			if m.peek().kind == 0 {
				m.fail("syntax error")
			}
			l = append(l, m.statement())
		}
		return sequenceOf(l)
	case t.kind == 's':
		m.i++
		return func() byte { m.c.print(t.text); return 0 }
	case m.accept("if"):
		m.expect("(")
		cond := m.expr()
		m.expect(")")
		m.newlines()
		then := m.statement()
		save := m.i
		for m.peek().kind == ';' {
			m.i++
		}
		if m.accept("else") {
			m.newlines()
			other := m.statement()
			return func() byte {
				if cond().n.Sign() != 0 {
					return then()
				}
				return other()
			}
		}
		m.i = save
		return func() byte {
			if cond().n.Sign() != 0 {
				return then()
			}
			return 0
		}
	case m.accept("while"):
		m.expect("(")
		cond := m.expr()
		m.expect(")")
		m.newlines()
		return loopOf(cond, m.statement(), nil)
	case m.accept("for"):
		m.expect("(")
		part := func(end string) bcExpr {
			if m.accept(end) {
				return nil
			}
			e := m.expr()
			m.expect(end)
			return e
		}
		first := part(";")
		cond := part(";")
		next := part(")")
		m.newlines()
		loop := loopOf(cond, m.statement(), next)
		return func() byte {
			if first != nil {
				first()
			}
			return loop()
		}
	case m.accept("break"):
		return func() byte { return 'b' }
	case m.accept("continue"):
		return func() byte { return 'c' }
	case m.accept("quit"), m.accept("halt"):
		return func() byte { return 'q' }
	case m.accept("return"):
		if k := m.peek(); k.kind == ';' || k.kind == 0 || k.text == "}" {
			return func() byte { m.ret(dec(0)); return 'r' }
		}
		e := m.expr()
		return func() byte { m.ret(e()); return 'r' }
	case m.accept("print"):
		var l []bcStmt
		for {
			if s := m.peek(); s.kind == 's' {
				m.i++
				text := strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\\`, `\`, `\q`, `"`, `\a`, "\a").Replace(s.text)
				l = append(l, func() byte { m.c.print(text); return 0 })
			} else {
				e := m.expr()
				l = append(l, func() byte { m.last = e(); m.c.print(m.show(m.last)); return 0 })
			}
			if !m.accept(",") {
				break
			}
		}
		return sequenceOf(l)
	}
	start := m.i
	e := m.expr()
	assigns := m.isAssignment(start)
	return func() byte {
		v := e()
		if !assigns {
			m.last = v
			m.c.println(wrapLine(m.show(v)))
		}
		return 0
	}
}

// isAssignment reports whether the expression from token start on is an
// assignment, which prints nothing.
func (m *bcMachine) isAssignment(start int) bool {
	if m.toks[start].kind != 'i' {
		return false
	}
	k := start + 1
	if k < m.i && m.toks[k].text == "[" {
		for depth := 0; k < m.i; k++ {
			switch m.toks[k].text {
			case "[":
				depth++
			case "]":
				depth--
			}
			if depth == 0 {
				k++
				break
			}
		}
	}
	if k >= m.i || m.toks[k].kind != 'o' {
		return false
	}
	switch m.toks[k].text {
	case "=", "+=", "-=", "*=", "/=", "%=", "^=":
		return true
	}
	return false
}

func (m *bcMachine) show(d decimal) string { return d.text(m.obase) }

func sequenceOf(l []bcStmt) bcStmt {
	return func() byte {
		for _, s := range l {
			if how := s(); how != 0 {
				return how
			}
		}
		return 0
	}
}

func loopOf(cond bcExpr, body bcStmt, next bcExpr) bcStmt {
	return func() byte {
		for cond == nil || cond().n.Sign() != 0 {
			switch how := body(); how {
			case 'b':
				return 0
			case 'r', 'q':
				return how
			}
			if next != nil {
				next()
			}
		}
		return 0
	}
}

func (m *bcMachine) ret(v decimal) { m.vars["\x00return"] = &v }

// Expressions, lowest precedence first.

func (m *bcMachine) expr() bcExpr {
	left := m.andExpr()
	for m.accept("||") {
		a, b := left, m.andExpr()
		left = func() decimal { x, y := a(), b(); return boolDec(x.n.Sign() != 0 || y.n.Sign() != 0) }
	}
	return left
}

func boolDec(b bool) decimal { return dec(int64(btoi(b))) }

func (m *bcMachine) andExpr() bcExpr {
	left := m.notExpr()
	for m.accept("&&") {
		a, b := left, m.notExpr()
		left = func() decimal { x, y := a(), b(); return boolDec(x.n.Sign() != 0 && y.n.Sign() != 0) }
	}
	return left
}

func (m *bcMachine) notExpr() bcExpr {
	if m.accept("!") {
		e := m.notExpr()
		return func() decimal { return boolDec(e().n.Sign() == 0) }
	}
	return m.relation()
}

func (m *bcMachine) relation() bcExpr {
	left := m.assignment()
	for {
		op := m.peek().text
		switch {
		case m.peek().kind != 'o':
			return left
		case op != "<" && op != ">" && op != "<=" && op != ">=" && op != "==" && op != "!=":
			return left
		}
		m.i++
		a, b := left, m.assignment()
		left = func() decimal {
			d := a().cmp(b())
			switch op {
			case "<":
				return boolDec(d < 0)
			case ">":
				return boolDec(d > 0)
			case "<=":
				return boolDec(d <= 0)
			case ">=":
				return boolDec(d >= 0)
			case "==":
				return boolDec(d == 0)
			}
			return boolDec(d != 0)
		}
	}
}

// place is something that can be assigned to.
type bcPlace struct {
	get func() decimal
	set func(decimal)
}

func (m *bcMachine) place() *bcPlace {
	t := m.peek()
	if t.kind != 'i' {
		return nil
	}
	next := bcTok{}
	if m.i+1 < len(m.toks) {
		next = m.toks[m.i+1]
	}
	switch t.text {
	case "scale", "length", "sqrt", "read", "abs":
		if next.text == "(" {
			return nil
		}
	}
	if next.text == "(" {
		return nil
	}
	m.i++
	register := func(p *int, low, high int) *bcPlace {
		return &bcPlace{func() decimal { return dec(int64(*p)) }, func(d decimal) { *p = min(max(d.int(), low), high) }}
	}
	switch t.text {
	case "scale":
		return register(&m.scale, 0, 1<<20)
	case "ibase":
		return register(&m.ibase, 2, 16)
	case "obase":
		return register(&m.obase, 2, 999)
	case "last":
		return &bcPlace{func() decimal { return m.zero(m.last) }, func(d decimal) { m.last = d }}
	}
	if m.accept("[") {
		idx := m.expr()
		m.expect("]")
		return &bcPlace{
			func() decimal { return m.zero(m.arrays[t.text][idx().int()]) },
			func(d decimal) {
				if m.arrays[t.text] == nil {
					m.arrays[t.text] = map[int]decimal{}
				}
				m.arrays[t.text][idx().int()] = d
			}}
	}
	return &bcPlace{
		func() decimal {
			if v := m.vars[t.text]; v != nil {
				return *v
			}
			return dec(0)
		},
		func(d decimal) { m.vars[t.text] = &d }}
}

func (m *bcMachine) zero(d decimal) decimal {
	if d.n == nil {
		return dec(0)
	}
	return d
}

func (m *bcMachine) assignment() bcExpr {
	save := m.i
	if p := m.place(); p != nil {
		op := m.peek()
		if op.kind == 'o' {
			switch op.text {
			case "=":
				m.i++
				e := m.assignment()
				return func() decimal { v := e(); p.set(v); return v }
			case "+=", "-=", "*=", "/=", "%=", "^=":
				m.i++
				e := m.assignment()
				return func() decimal {
					v := m.apply(op.text[0], p.get(), e())
					p.set(v)
					return v
				}
			}
		}
	}
	m.i = save
	return m.sumExpr()
}

func (m *bcMachine) apply(op byte, a, b decimal) decimal {
	var r decimal
	var err error
	switch op {
	case '+':
		return a.add(b)
	case '-':
		return a.add(b.neg())
	case '*':
		return a.mul(b, m.scale)
	case '/':
		r, err = a.div(b, m.scale)
	case '%':
		r, err = a.mod(b, m.scale)
	default:
		r, err = a.pow(b, m.scale)
	}
	if err != nil {
		m.fail("%s", strings.ToUpper(err.Error()[:1])+err.Error()[1:])
	}
	return r
}

func (m *bcMachine) binary(ops string, operand func() bcExpr) bcExpr {
	left := operand()
	for {
		t := m.peek()
		if t.kind != 'o' || len(t.text) != 1 || strings.IndexByte(ops, t.text[0]) < 0 {
			return left
		}
		m.i++
		a, b, op := left, operand(), t.text[0]
		left = func() decimal { x := a(); return m.apply(op, x, b()) }
	}
}

func (m *bcMachine) sumExpr() bcExpr { return m.binary("+-", m.productExpr) }

func (m *bcMachine) productExpr() bcExpr { return m.binary("*/%", m.powerExpr) }

func (m *bcMachine) powerExpr() bcExpr {
	base := m.unary()
	if m.accept("^") {
		e := m.powerExpr()
		return func() decimal { x := base(); return m.apply('^', x, e()) }
	}
	return base
}

func (m *bcMachine) unary() bcExpr {
	switch {
	case m.accept("-"):
		e := m.unary()
		return func() decimal { return e().neg() }
	case m.is("++") || m.is("--"):
		step := dec(1)
		if m.is("--") {
			step = dec(-1)
		}
		m.i++
		p := m.place()
		if p == nil {
			m.fail("syntax error")
		}
		return func() decimal { v := p.get().add(step); p.set(v); return v }
	}
	return m.primary()
}

func (m *bcMachine) primary() bcExpr {
	t := m.peek()
	switch {
	case t.kind == 'n':
		m.i++
		return func() decimal { return parseDecimal(t.text, m.ibase) }
	case m.accept("("):
		e := m.expr()
		m.expect(")")
		return e
	}
	if p := m.place(); p != nil {
		if m.is("++") || m.is("--") {
			step := dec(1)
			if m.is("--") {
				step = dec(-1)
			}
			m.i++
			return func() decimal { v := p.get(); p.set(v.add(step)); return v }
		}
		return p.get
	}
	if t.kind != 'i' {
		m.fail("syntax error")
	}
	m.i++
	m.expect("(")
	var args []bcExpr
	var arrays []string
	for !m.accept(")") {
		if m.accept(",") {
			continue
		}
		if k := m.peek(); k.kind == 'i' && m.i+2 < len(m.toks) && m.toks[m.i+1].text == "[" && m.toks[m.i+2].text == "]" {
			m.i += 3
			args, arrays = append(args, nil), append(arrays, k.text)
			continue
		}
		args, arrays = append(args, m.expr()), append(arrays, "")
	}
	return m.call(t.text, args, arrays)
}

func (m *bcMachine) call(name string, args []bcExpr, arrays []string) bcExpr {
	if len(args) == 1 && args[0] != nil {
		arg := args[0]
		switch name {
		case "length":
			return func() decimal { return dec(int64(arg().length())) }
		case "scale":
			return func() decimal { return dec(int64(arg().scale)) }
		case "sqrt":
			return func() decimal {
				r, err := arg().sqrt(m.scale)
				if err != nil {
					m.fail("%s", "Square root of a negative number")
				}
				return r
			}
		}
	}
	return func() decimal {
		f := m.funcs[name]
		if f == nil && m.mathlib && len(args) > 0 && args[0] != nil {
			if len(args) == 2 && name == "j" {
				return m.bessel(args[0]().int(), args[1]())
			}
			if r, ok := m.mathFunc(name, args[0]()); ok {
				return r
			}
		}
		if f == nil {
			m.fail("Function %s not defined.", name)
		}
		if len(args) != len(f.params) {
			m.fail("Parameter number mismatch")
		}
		if m.depth++; m.depth > 10000 {
			m.fail("too many nested calls")
		}
		defer func() { m.depth-- }()
		vals := make([]decimal, len(args))
		lists := make([]map[int]decimal, len(args))
		for i, a := range args {
			if a == nil {
				lists[i] = map[int]decimal{}
				for k, v := range m.arrays[arrays[i]] {
					lists[i][k] = v
				}
				continue
			}
			vals[i] = a()
		}
		oldVars, oldArrays := map[string]*decimal{}, map[string]map[int]decimal{}
		for i, n := range append(append([]string{}, f.params...), f.autos...) {
			if a, ok := strings.CutSuffix(n, "[]"); ok {
				oldArrays[a] = m.arrays[a]
				m.arrays[a] = map[int]decimal{}
				if i < len(lists) && lists[i] != nil {
					m.arrays[a] = lists[i]
				}
				continue
			}
			oldVars[n] = m.vars[n]
			v := dec(0)
			if i < len(args) {
				v = vals[i]
			}
			m.vars[n] = &v
		}
		m.ret(dec(0))
		how := sequenceOf(f.body)()
		result := *m.vars["\x00return"]
		for n, v := range oldVars {
			m.vars[n] = v
		}
		for n, a := range oldArrays {
			m.arrays[n] = a
		}
		if how == 'q' {
			m.c.flush()
			m.c.exit(0)
		}
		return result
	}
}

// mathFunc is the library of -l: s c a l e, by series at a higher precision.
func (m *bcMachine) mathFunc(name string, x decimal) (decimal, bool) {
	prec := m.scale + 12 + len(x.rescaled(0).n.String())
	mul := func(a, b decimal) decimal {
		return decimal{new(big.Int).Mul(a.n, b.n), a.scale + b.scale}.rescaled(prec)
	}
	quo := func(a, b decimal) decimal { r, _ := a.div(b, prec); return r }
	x0 := x.rescaled(prec)
	// series sums terms until they vanish.
	series := func(term decimal, next func(decimal, int64) decimal) decimal {
		sum := term
		for k := int64(1); term.n.Sign() != 0; k++ {
			term = next(term, k)
			sum = sum.add(term)
		}
		return sum
	}
	exp := func(x decimal) decimal {
		halved := 0
		for x.cmp(dec(1)) > 0 || x.cmp(dec(-1)) < 0 {
			x = quo(x, dec(2))
			halved++
		}
		extra := prec
		prec += halved
		x = x.rescaled(prec)
		r := series(dec(1).rescaled(prec), func(t decimal, k int64) decimal { return quo(mul(t, x), dec(k)) })
		for range halved {
			r = mul(r, r)
		}
		prec = extra
		return r
	}
	atan := func(x decimal) decimal {
		halved := int64(1)
		one := dec(1).rescaled(prec)
		for x.cmp(decimal{big.NewInt(2), 1}) > 0 || x.cmp(decimal{big.NewInt(-2), 1}) < 0 {
			root, _ := one.add(mul(x, x)).sqrt(prec)
			x = quo(x, one.add(root))
			halved *= 2
		}
		sq := mul(x, x).neg()
		power := x
		r := series(x, func(_ decimal, k int64) decimal { power = mul(power, sq); return quo(power, dec(2*k+1)) })
		return r.mul(dec(halved), prec)
	}
	sin := func(x decimal) decimal {
		twoPi := atan(dec(1).rescaled(prec)).mul(dec(8), prec)
		q, _ := x.div(twoPi, 0)
		x = x.add(decimal{new(big.Int).Mul(q.n, twoPi.n), twoPi.scale}.neg())
		sq := mul(x, x).neg()
		return series(x, func(t decimal, k int64) decimal { return quo(mul(t, sq), dec(2*k*(2*k+1))) })
	}
	var r decimal
	switch name {
	case "e":
		r = exp(x0)
	case "l":
		if x.n.Sign() <= 0 {
			one := decimal{pow10(m.scale), 0}
			return decimal{new(big.Int).Sub(big.NewInt(1), one.n), 0}, true
		}
		// ln x = 2^k ln root; then by atanh.
		k := int64(2)
		for x0.cmp(decimal{big.NewInt(15), 1}) > 0 || x0.cmp(decimal{big.NewInt(6), 1}) < 0 {
			x0, _ = x0.sqrt(prec)
			k *= 2
		}
		y := quo(x0.add(dec(-1)), x0.add(dec(1)))
		sq := mul(y, y)
		power := y
		r = series(y, func(_ decimal, i int64) decimal { power = mul(power, sq); return quo(power, dec(2*i+1)) }).mul(dec(k), prec)
	case "a":
		r = atan(x0)
	case "s":
		r = sin(x0)
	case "c":
		r = sin(x0.add(atan(dec(1).rescaled(prec)).mul(dec(2), prec)))
	default:
		return x, false
	}
	return r.rescaled(m.scale), true
}

// bessel is j(n, x) by its power series.
func (m *bcMachine) bessel(n int, x decimal) decimal {
	prec := m.scale + 20 + 2*len(x.rescaled(0).n.String())
	sign := int64(1)
	if n < 0 {
		n = -n
		if n%2 == 1 {
			sign = -1
		}
	}
	x = x.rescaled(prec)
	half, _ := x.div(dec(2), prec)
	term := dec(sign).rescaled(prec)
	mul := func(a, b decimal) decimal {
		return decimal{new(big.Int).Mul(a.n, b.n), a.scale + b.scale}.rescaled(prec)
	}
	for k := 1; k <= n; k++ {
		term, _ = mul(term, half).div(dec(int64(k)), prec)
	}
	sq := mul(half, half).neg()
	sum := term
	for k := 1; term.n.Sign() != 0; k++ {
		term, _ = mul(term, sq).div(dec(int64(k)*int64(k+n)), prec)
		sum = sum.add(term)
	}
	return sum.rescaled(m.scale)
}

// dc is the calculator with a stack.
func dc(c *Ctx) {
	o := c.options("e:f:hVx", "expression=e file=f")
	d := &dcMachine{c: c, regs: map[string][]dcValue{}, ibase: 10, obase: 10}
	var texts []string
	for o.next() {
		switch o.opt {
		case "e":
			texts = append(texts, o.arg)
		case "f":
			o.args = append(o.args, o.arg)
		}
	}
	for _, n := range o.args {
		r, err := c.open(n)
		if err != nil {
			c.die("Could not open file %s", n)
		}
		data, _ := io.ReadAll(r)
		texts = append(texts, string(data))
	}
	if len(texts) == 0 {
		data, _ := io.ReadAll(c.in)
		texts = append(texts, string(data))
	}
	for _, t := range texts {
		if d.run(t, 0) < 0 {
			return
		}
	}
}

// dcValue is a number or, if text is set, a string.
type dcValue struct {
	num  decimal
	text string
	str  bool
}

type dcMachine struct {
	c            *Ctx
	stack        []dcValue
	regs         map[string][]dcValue
	arrays       map[string]map[int]dcValue
	scale        int
	ibase, obase int
}

func (d *dcMachine) warn(format string, a ...any) {
	d.c.flush()
	fmt.Fprintf(d.c.err, "dc: "+format+"\n", a...)
}

func (d *dcMachine) pop() (dcValue, bool) {
	if len(d.stack) == 0 {
		d.warn("stack empty")
		return dcValue{}, false
	}
	v := d.stack[len(d.stack)-1]
	d.stack = d.stack[:len(d.stack)-1]
	return v, true
}

func (d *dcMachine) push(n decimal) { d.stack = append(d.stack, dcValue{num: n}) }

// numbers pops n numbers, the deepest first; it leaves the stack alone if it
// cannot.
func (d *dcMachine) numbers(n int) ([]decimal, bool) {
	if len(d.stack) < n {
		d.warn("stack empty")
		return nil, false
	}
	top := d.stack[len(d.stack)-n:]
	out := make([]decimal, n)
	for i, v := range top {
		if v.str {
			d.warn("non-numeric value")
			return nil, false
		}
		out[i] = v.num
	}
	d.stack = d.stack[:len(d.stack)-n]
	return out, true
}

func (d *dcMachine) show(v dcValue) string {
	if v.str {
		return v.text
	}
	return wrapLine(v.num.text(d.obase))
}

// run executes a string. It returns how many levels are still to be left by q
// and Q, or -1 to end.
func (d *dcMachine) run(s string, depth int) int {
	c := d.c
	binary := func(f func(a, b decimal) (decimal, error)) {
		n, ok := d.numbers(2)
		if !ok {
			return
		}
		r, err := f(n[0], n[1])
		if err != nil {
			d.warn("%v", err)
			d.push(n[0])
			d.push(n[1])
			return
		}
		d.push(r)
	}
	for i := 0; i < len(s); i++ {
		ch := s[i]
		reg := func() string {
			if i+1 < len(s) {
				i++
				return s[i : i+1]
			}
			return ""
		}
		switch {
		case ch >= '0' && ch <= '9' || ch >= 'A' && ch <= 'F' || ch == '.' || ch == '_':
			j := i
			if ch == '_' {
				j++
			}
			k, dot := j, false
			for k < len(s) && (s[k] >= '0' && s[k] <= '9' || s[k] >= 'A' && s[k] <= 'F' || s[k] == '.' && !dot) {
				dot = dot || s[k] == '.'
				k++
			}
			n := parseDecimal(s[j:k], d.ibase)
			if ch == '_' {
				n = n.neg()
			}
			d.push(n)
			i = k - 1
			continue
		case ch == '[':
			level, j := 1, i+1
			for ; j < len(s) && level > 0; j++ {
				switch s[j] {
				case '[':
					level++
				case ']':
					level--
				}
			}
			d.stack = append(d.stack, dcValue{text: s[i+1 : j-1], str: true})
			i = j - 1
			continue
		}
		switch ch {
		case ' ', '\t', '\n', '\r':
		case '#':
			for i < len(s) && s[i] != '\n' {
				i++
			}
		case '+':
			binary(func(a, b decimal) (decimal, error) { return a.add(b), nil })
		case '-':
			binary(func(a, b decimal) (decimal, error) { return a.add(b.neg()), nil })
		case '*':
			binary(func(a, b decimal) (decimal, error) { return a.mul(b, d.scale), nil })
		case '/':
			binary(func(a, b decimal) (decimal, error) { return a.div(b, d.scale) })
		case '%':
			binary(func(a, b decimal) (decimal, error) {
				r, err := a.mod(b, d.scale)
				if err != nil {
					err = errors.New("remainder by zero")
				}
				return r, err
			})
		case '^':
			binary(func(a, b decimal) (decimal, error) { return a.pow(b, d.scale) })
		case '~':
			if n, ok := d.numbers(2); ok {
				q, err := n[0].div(n[1], d.scale)
				if err != nil {
					d.warn("%v", err)
					continue
				}
				r, _ := n[0].mod(n[1], d.scale)
				d.push(q)
				d.push(r)
			}
		case '|':
			if n, ok := d.numbers(3); ok {
				if n[2].n.Sign() == 0 {
					d.warn("remainder by zero")
					continue
				}
				d.push(decimal{new(big.Int).Exp(n[0].rescaled(0).n, n[1].rescaled(0).n, n[2].rescaled(0).n), 0})
			}
		case 'v':
			if n, ok := d.numbers(1); ok {
				r, err := n[0].sqrt(d.scale)
				if err != nil {
					d.warn("%v", err)
					continue
				}
				d.push(r)
			}
		case 'p':
			if len(d.stack) == 0 {
				d.warn("stack empty")
			} else {
				c.println(d.show(d.stack[len(d.stack)-1]))
			}
		case 'n':
			if v, ok := d.pop(); ok {
				c.print(d.show(v))
			}
		case 'P':
			if v, ok := d.pop(); ok {
				if v.str {
					c.print(v.text)
				} else {
					c.out.Write(new(big.Int).Abs(v.num.rescaled(0).n).Bytes())
				}
			}
		case 'f':
			for k := len(d.stack) - 1; k >= 0; k-- {
				c.println(d.show(d.stack[k]))
			}
		case 'c':
			d.stack = nil
		case 'd':
			if len(d.stack) == 0 {
				d.warn("stack empty")
			} else {
				d.stack = append(d.stack, d.stack[len(d.stack)-1])
			}
		case 'r':
			if n := len(d.stack); n > 1 {
				d.stack[n-1], d.stack[n-2] = d.stack[n-2], d.stack[n-1]
			} else {
				d.warn("stack empty")
			}
		case 'R':
			if n, ok := d.numbers(1); ok {
				k := n[0].int()
				if k > 1 && k <= len(d.stack) {
					part := d.stack[len(d.stack)-k:]
					first := part[0]
					copy(part, part[1:])
					part[k-1] = first
				}
			}
		case 'z':
			d.push(dec(int64(len(d.stack))))
		case 'Z':
			if v, ok := d.pop(); ok {
				if v.str {
					d.push(dec(int64(len(v.text))))
				} else {
					d.push(dec(int64(v.num.length())))
				}
			}
		case 'X':
			if v, ok := d.pop(); ok {
				d.push(dec(int64(v.num.scale * btoi(!v.str))))
			}
		case 'k':
			if n, ok := d.numbers(1); ok {
				d.scale = max(n[0].int(), 0)
			}
		case 'i':
			if n, ok := d.numbers(1); ok {
				if b := n[0].int(); b < 2 || b > 16 {
					d.warn("input base must be a number between 2 and 16 (inclusive)")
				} else {
					d.ibase = b
				}
			}
		case 'o':
			if n, ok := d.numbers(1); ok {
				if b := n[0].int(); b < 2 {
					d.warn("output base must be a number greater than 1")
				} else {
					d.obase = b
				}
			}
		case 'K':
			d.push(dec(int64(d.scale)))
		case 'I':
			d.push(dec(int64(d.ibase)))
		case 'O':
			d.push(dec(int64(d.obase)))
		case 's', 'S':
			r := reg()
			if v, ok := d.pop(); ok {
				if ch == 's' && len(d.regs[r]) > 0 {
					d.regs[r][len(d.regs[r])-1] = v
				} else {
					d.regs[r] = append(d.regs[r], v)
				}
			}
		case 'l', 'L':
			r := reg()
			l := d.regs[r]
			switch {
			case len(l) == 0 && ch == 'l':
				d.push(dec(0))
			case len(l) == 0:
				d.warn("stack register '%s' (%04o) is empty", r, r[0])
			default:
				d.stack = append(d.stack, l[len(l)-1])
				if ch == 'L' {
					d.regs[r] = l[:len(l)-1]
				}
			}
		case ':', ';':
			r := reg()
			if d.arrays == nil {
				d.arrays = map[string]map[int]dcValue{}
			}
			n, ok := d.numbers(1)
			if !ok {
				continue
			}
			if ch == ';' {
				v := d.arrays[r][n[0].int()]
				if v.num.n == nil && !v.str {
					v.num = dec(0)
				}
				d.stack = append(d.stack, v)
				continue
			}
			if v, ok := d.pop(); ok {
				if d.arrays[r] == nil {
					d.arrays[r] = map[int]dcValue{}
				}
				d.arrays[r][n[0].int()] = v
			}
		case 'a':
			if v, ok := d.pop(); ok {
				t := v.text
				if !v.str {
					t = string([]byte{byte(v.num.int())})
				} else if len(t) > 1 {
					t = t[:1]
				}
				d.stack = append(d.stack, dcValue{text: t, str: true})
			}
		case 'x', '?':
			v := dcValue{str: true}
			ok := true
			if ch == '?' {
				v.text, _ = newLineSource(c.in, '\n').next()
			} else {
				v, ok = d.pop()
			}
			if !ok {
				continue
			}
			if !v.str {
				d.stack = append(d.stack, v)
				continue
			}
			if left := d.call(v.text, depth); left != 0 {
				return left
			}
		case '<', '>', '=', '!':
			not := ch == '!'
			op := ch
			if not {
				if i+1 >= len(s) || strings.IndexByte("<>=", s[i+1]) < 0 {
					d.warn("running shell commands is not possible here")
					for i < len(s) && s[i] != '\n' {
						i++
					}
					continue
				}
				i++
				op = s[i]
			}
			r := reg()
			n, ok := d.numbers(2)
			if !ok {
				continue
			}
			k := n[1].cmp(n[0])
			hit := op == '<' && k < 0 || op == '>' && k > 0 || op == '=' && k == 0
			if hit != not {
				if l := d.regs[r]; len(l) > 0 && l[len(l)-1].str {
					if left := d.call(l[len(l)-1].text, depth); left != 0 {
						return left
					}
				}
			}
		case 'q':
			if depth < 2 {
				return -1
			}
			return 1
		case 'Q':
			if n, ok := d.numbers(1); ok {
				return max(n[0].int()-1, 0)
			}
		default:
			d.warn("'%c' (%04o) unimplemented", ch, ch)
		}
	}
	return 0
}

// call runs a macro one level deeper.
func (d *dcMachine) call(text string, depth int) int {
	if depth > 10000 {
		d.warn("recursion too deep")
		return -1
	}
	left := d.run(text, depth+1)
	if left > 0 {
		return left - 1
	}
	return left
}
