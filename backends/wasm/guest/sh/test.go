package sh

import (
	"regexp"
	"strings"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/applets"
	"mvdan.cc/sh/v3/syntax"
)

// testExpr evaluates the inside of [[ ]].
func (s *Shell) testExpr(x syntax.TestExpr) bool {
	switch x := x.(type) {
	case *syntax.Word:
		return s.wordIn(x, mode{}) != ""
	case *syntax.ParenTest:
		return s.testExpr(x.X)
	case *syntax.UnaryTest:
		if x.Op == syntax.TsNot {
			return !s.testExpr(x.X)
		}
		w, _ := x.X.(*syntax.Word)
		arg := s.wordIn(w, mode{assign: true})
		switch x.Op {
		case syntax.TsEmpStr:
			return arg == ""
		case syntax.TsNempStr:
			return arg != ""
		case syntax.TsVarSet:
			return s.isSet(arg)
		case syntax.TsOptSet:
			return s.optionOn(arg)
		case syntax.TsRefVar:
			v := s.vars[arg]
			return v != nil && v.nameref
		case syntax.TsFdTerm:
			return false
		}
		return applets.FileTest(x.Op.String()[1], s.path(arg))
	case *syntax.BinaryTest:
		return s.testBinary(x)
	}
	return false
}

func (s *Shell) testBinary(x *syntax.BinaryTest) bool {
	switch x.Op {
	case syntax.AndTest:
		return s.testExpr(x.X) && s.testExpr(x.Y)
	case syntax.OrTest:
		return s.testExpr(x.X) || s.testExpr(x.Y)
	}
	xw, _ := x.X.(*syntax.Word)
	yw, _ := x.Y.(*syntax.Word)
	a := s.wordIn(xw, mode{})
	switch x.Op {
	case syntax.TsMatch, syntax.TsMatchShort:
		return match(s.pattern(yw), a, s.shopt["nocasematch"])
	case syntax.TsNoMatch:
		return !match(s.pattern(yw), a, s.shopt["nocasematch"])
	case syntax.TsReMatch:
		return s.regexMatch(a, yw)
	}
	b := s.wordIn(yw, mode{})
	switch x.Op {
	case syntax.TsBefore:
		return a < b
	case syntax.TsAfter:
		return a > b
	case syntax.TsNewer, syntax.TsOlder, syntax.TsDevIno:
		return applets.FileCompare(x.Op.String(), s.path(a), s.path(b))
	}
	n, m := s.evalText(a, 0), s.evalText(b, 0)
	switch x.Op {
	case syntax.TsEql:
		return n == m
	case syntax.TsNeq:
		return n != m
	case syntax.TsLss:
		return n < m
	case syntax.TsLeq:
		return n <= m
	case syntax.TsGtr:
		return n > m
	case syntax.TsGeq:
		return n >= m
	}
	return false
}

// regexMatch is =~; it sets BASH_REMATCH.
func (s *Shell) regexMatch(str string, w *syntax.Word) bool {
	f := &fields{ifs: ""}
	s.parts(f, w.Parts, mode{})
	f.end()
	var expr strings.Builder
	for _, fd := range f.out {
		for _, fr := range fd {
			if fr.quoted {
				expr.WriteString(regexp.QuoteMeta(fr.s))
			} else {
				expr.WriteString(fr.s)
			}
		}
	}
	m, err := applets.MatchERE(expr.String(), str, s.shopt["nocasematch"])
	if err != nil {
		s.testError = true
		return false
	}
	v := s.modify("BASH_REMATCH")
	v.kind, v.set, v.val, v.keys, v.vals = indexed, true, "", nil, nil
	for i, sub := range m {
		v.put(i, sub)
	}
	return m != nil
}
