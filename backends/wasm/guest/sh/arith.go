package sh

import (
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// Arithmetic is on 64-bit integers that wrap around, as in bash.

// arithm evaluates; mistakes abort the command.
func (s *Shell) arithm(x syntax.ArithmExpr) int64 {
	if x == nil {
		return 0
	}
	return s.eval(x, 0)
}

// arithString evaluates text, as (( )), let and a[text] do.
func (s *Shell) arithString(str string) (n int64, err error) {
	return s.evalText(str, 0), nil
}

func (s *Shell) evalText(str string, depth int) int64 {
	str = strings.TrimSpace(str)
	if str == "" {
		return 0
	}
	if n, ok := s.integer(str); ok {
		return n
	}
	if depth > 64 {
		s.fail(1, "%s: expression recursion level exceeded (error token is %q)", str, str)
	}
	if validName(str) {
		return s.evalText(s.get(str), depth+1)
	}
	x, err := s.parser().Arithmetic(strings.NewReader(str))
	if err != nil {
		s.fail(1, "%s: syntax error: invalid arithmetic operator (error token is %q)", str, str)
	}
	if w, ok := x.(*syntax.Word); ok && w.Lit() == str {
		s.fail(1, "%s: syntax error: invalid arithmetic operator (error token is %q)", str, str)
	}
	return s.eval(x, depth+1)
}

// integer reads a constant: 12, 0x1f, 017, 2#101.
func (s *Shell) integer(str string) (int64, bool) {
	neg := false
	t := str
	if t != "" && (t[0] == '-' || t[0] == '+') {
		neg, t = t[0] == '-', strings.TrimSpace(t[1:])
	}
	if t == "" || t[0] < '0' || t[0] > '9' {
		return 0, false
	}
	var n int64
	switch base, digits, hash := strings.Cut(t, "#"); {
	case hash:
		b, err := strconv.Atoi(base)
		if err != nil || b < 2 || b > 64 {
			s.fail(1, "%s: invalid arithmetic base (error token is %q)", t, t)
		}
		for i := range len(digits) {
			d := digitOf(digits[i], b)
			if d < 0 || d >= b {
				s.fail(1, "%s: value too great for base (error token is %q)", t, t)
			}
			n = n*int64(b) + int64(d)
		}
	case len(t) > 1 && t[0] == '0' && (t[1] == 'x' || t[1] == 'X'):
		for i := 2; i < len(t); i++ {
			d := digitOf(t[i], 16)
			if d < 0 || d > 15 {
				return 0, false
			}
			n = n<<4 | int64(d)
		}
	default:
		b := int64(10)
		if t[0] == '0' {
			b = 8
		}
		for i := range len(t) {
			if t[i] < '0' || t[i] > '9' {
				return 0, false
			}
			if int64(t[i]-'0') >= b {
				s.fail(1, "%s: value too great for base (error token is %q)", t, t)
			}
			n = n*b + int64(t[i]-'0')
		}
	}
	if neg {
		n = -n
	}
	return n, true
}

func digitOf(c byte, base int) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'z':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'Z':
		if base <= 36 {
			return int(c-'A') + 10
		}
		return int(c-'A') + 36
	case c == '@':
		return 62
	case c == '_':
		return 63
	}
	return -1
}

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func (s *Shell) eval(x syntax.ArithmExpr, depth int) int64 {
	switch x := x.(type) {
	case *syntax.Word:
		if lit := x.Lit(); lit != "" {
			if n, ok := s.integer(lit); ok {
				return n
			}
			if validName(lit) {
				s.checkArithUnset(lit)
				return s.evalText(s.get(lit), depth+1)
			}
			return s.evalText(lit, depth+1)
		}
		if name, index := elementOf(x); name != "" {
			return s.evalText(s.element(name, index), depth+1)
		}
		return s.evalText(s.wordIn(x, mode{quoted: true}), depth+1)
	case *syntax.ParenArithm:
		return s.eval(x.X, depth)
	case *syntax.UnaryArithm:
		switch x.Op {
		case syntax.Inc, syntax.Dec:
			old := s.eval(x.X, depth)
			n := old + 1
			if x.Op == syntax.Dec {
				n = old - 1
			}
			s.arithAssign(x.X, n)
			if x.Post {
				return old
			}
			return n
		}
		n := s.eval(x.X, depth)
		switch x.Op {
		case syntax.Not:
			return truth(n == 0)
		case syntax.BitNegation:
			return ^n
		case syntax.Minus:
			return -n
		}
		return n
	case *syntax.BinaryArithm:
		return s.binary(x, depth)
	}
	s.fail(1, "syntax error in expression")
	return 0
}

func (s *Shell) checkArithUnset(name string) {
	if s.opt['u'] {
		if v := s.lookup(name); v == nil || !v.set {
			s.failExit(127, "%s: unbound variable", name)
		}
	}
}

var assignOps = map[syntax.BinAritOperator]syntax.BinAritOperator{syntax.AddAssgn: syntax.Add, syntax.SubAssgn: syntax.Sub,
	syntax.MulAssgn: syntax.Mul, syntax.QuoAssgn: syntax.Quo, syntax.RemAssgn: syntax.Rem, syntax.AndAssgn: syntax.And,
	syntax.OrAssgn: syntax.Or, syntax.XorAssgn: syntax.Xor, syntax.ShlAssgn: syntax.Shl, syntax.ShrAssgn: syntax.Shr}

func (s *Shell) binary(x *syntax.BinaryArithm, depth int) int64 {
	switch x.Op {
	case syntax.Assgn:
		n := s.eval(x.Y, depth)
		s.arithAssign(x.X, n)
		return n
	case syntax.TernQuest:
		b, ok := x.Y.(*syntax.BinaryArithm)
		if !ok {
			s.fail(1, "syntax error in expression")
		}
		if s.eval(x.X, depth) != 0 {
			return s.eval(b.X, depth)
		}
		return s.eval(b.Y, depth)
	case syntax.AndArit:
		return truth(s.eval(x.X, depth) != 0 && s.eval(x.Y, depth) != 0)
	case syntax.OrArit:
		return truth(s.eval(x.X, depth) != 0 || s.eval(x.Y, depth) != 0)
	}
	if op, ok := assignOps[x.Op]; ok {
		n := s.operate(op, s.eval(x.X, depth), s.eval(x.Y, depth), x)
		s.arithAssign(x.X, n)
		return n
	}
	a := s.eval(x.X, depth)
	return s.operate(x.Op, a, s.eval(x.Y, depth), x)
}

func (s *Shell) operate(op syntax.BinAritOperator, a, b int64, x *syntax.BinaryArithm) int64 {
	switch op {
	case syntax.Add:
		return a + b
	case syntax.Sub:
		return a - b
	case syntax.Mul:
		return a * b
	case syntax.Quo, syntax.Rem:
		if b == 0 {
			s.fail(1, "%s: division by 0 (error token is %q)", s.source(x), s.source(x.Y))
		}
		if b == -1 { // the one quotient that overflows
			if op == syntax.Rem {
				return 0
			}
			return -a
		}
		if op == syntax.Quo {
			return a / b
		}
		return a % b
	case syntax.Pow:
		if b < 0 {
			s.fail(1, "%s: exponent less than 0 (error token is %q)", s.source(x), s.source(x.Y))
		}
		n := int64(1)
		for ; b > 0; b >>= 1 {
			if b&1 != 0 {
				n *= a
			}
			a *= a
		}
		return n
	case syntax.Eql:
		return truth(a == b)
	case syntax.Neq:
		return truth(a != b)
	case syntax.Gtr:
		return truth(a > b)
	case syntax.Lss:
		return truth(a < b)
	case syntax.Leq:
		return truth(a <= b)
	case syntax.Geq:
		return truth(a >= b)
	case syntax.And:
		return a & b
	case syntax.Or:
		return a | b
	case syntax.Xor:
		return a ^ b
	case syntax.Shl:
		return a << (uint64(b) & 63)
	case syntax.Shr:
		return a >> (uint64(b) & 63)
	case syntax.Comma:
		return b
	}
	s.fail(1, "syntax error in expression")
	return 0
}

// elementOf takes a[i] apart, which the parser gives as a short expansion.
func elementOf(w *syntax.Word) (name string, index syntax.ArithmExpr) {
	if len(w.Parts) != 1 {
		return "", nil
	}
	p, ok := w.Parts[0].(*syntax.ParamExp)
	if !ok || p.Index == nil || p.Exp != nil || p.Length || p.Excl || p.Slice != nil || p.Repl != nil {
		return "", nil
	}
	return p.Param.Value, p.Index
}

func (s *Shell) element(name string, index syntax.ArithmExpr) string {
	v := s.valueOf(&syntax.ParamExp{Param: &syntax.Lit{Value: name}, Index: index})
	return strings.Join(v.list, " ")
}

func (s *Shell) arithAssign(x syntax.ArithmExpr, n int64) {
	w, ok := x.(*syntax.Word)
	if !ok {
		s.fail(1, "%s: attempted assignment to non-variable", s.source(x))
	}
	val := strconv.FormatInt(n, 10)
	if name, index := elementOf(w); name != "" {
		s.assignTo(name, index, val)
		return
	}
	name := w.Lit()
	if name == "" {
		name = s.wordIn(w, mode{})
	}
	if !validName(name) {
		s.fail(1, "%s: attempted assignment to non-variable (error token is %q)", name, name)
	}
	if err := s.setString(name, val); err != nil {
		s.failExit(1, "%v", err)
	}
}
