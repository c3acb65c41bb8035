package sh

import (
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"
)

// value is what a parameter holds before an operator is applied.
type value struct {
	list []string // the elements; one for a scalar
	set  bool
	at   bool // "$@" or "${a[@]}": each element is a field
	star bool // "$*" or "${a[*]}": the elements are joined with IFS
}

func indexLit(i syntax.ArithmExpr) string {
	if w, ok := i.(*syntax.Word); ok {
		return w.Lit()
	}
	return ""
}

// param expands ${…} into f.
func (s *Shell) param(f *fields, p *syntax.ParamExp, m mode) {
	if p.Param == nil {
		s.fail(1, "bad substitution")
	}
	name := p.Param.Value
	if p.Excl {
		switch {
		case p.Names != 0:
			s.addList(f, value{list: s.namesWith(name), set: true, at: p.Names == syntax.NamesPrefixWords, star: p.Names == syntax.NamesPrefix}, m)
			return
		case indexLit(p.Index) == "@" || indexLit(p.Index) == "*":
			v := s.lookup(name)
			var keys []string
			if v != nil {
				keys = v.subscripts()
			}
			s.addList(f, value{list: keys, set: true, at: indexLit(p.Index) == "@", star: indexLit(p.Index) == "*"}, m)
			return
		}
	}
	v := s.valueOf(p)
	if p.Excl {
		if ref := s.vars[name]; ref != nil && ref.nameref {
			s.addValue(f, ref.val, m)
			return
		}
		target := ""
		if len(v.list) > 0 {
			target = v.list[0]
		}
		q, err := s.indirect(target)
		if err != nil {
			s.fail(1, "%s: invalid variable name", target)
		}
		q.Length, q.Slice, q.Repl, q.Exp = p.Length, p.Slice, p.Repl, p.Exp
		p = q
		v = s.valueOf(p)
		name = p.Param.Value
	}
	if p.Length {
		switch {
		case v.at || v.star:
			s.addValue(f, strconv.Itoa(len(v.list)), m)
		default:
			s.checkUnset(p, v)
			s.addValue(f, strconv.Itoa(utf8.RuneCountInString(strings.Join(v.list, ""))), m)
		}
		return
	}
	if p.Exp != nil && s.alternatives(f, p, v, m) {
		return
	}
	if !(p.Exp != nil && p.Exp.Op == syntax.OtherParamOps) {
		s.checkUnset(p, v)
	}
	switch {
	case p.Slice != nil:
		v = s.slice(p, v)
	case p.Repl != nil:
		orig := s.pattern(p.Repl.Orig)
		at := ""
		if orig != "" && (orig[0] == '#' || orig[0] == '%') && !p.Repl.All {
			at, orig = orig[:1], orig[1:]
		}
		with := s.wordIn(p.Repl.With, mode{quoted: false})
		mt := newMatcher(s.shopt["nocasematch"])
		v.list = slices.Clone(v.list)
		for i, e := range v.list {
			if at != "" && orig == "" {
				v.list[i] = map[string]string{"#": with + e, "%": e + with}[at]
				continue
			}
			v.list[i] = mt.replace(e, orig, with, p.Repl.All, at)
		}
	case p.Exp != nil:
		v.list = s.transform(p, v, name)
	}
	s.addList(f, v, m)
}

// indirect parses the value of x in ${!x}.
func (s *Shell) indirect(target string) (*syntax.ParamExp, error) {
	w, err := s.parser().Document(strings.NewReader("${" + target + "}"))
	if err == nil && len(w.Parts) == 1 {
		if q, ok := w.Parts[0].(*syntax.ParamExp); ok && q.Exp == nil && !q.Excl && !q.Length {
			return q, nil
		}
	}
	return nil, errorf("invalid")
}

func (s *Shell) checkUnset(p *syntax.ParamExp, v value) {
	if s.opt['u'] && !v.set && !v.at && !v.star {
		name := p.Param.Value
		if p.Index != nil {
			name += "[" + s.source(p.Index) + "]"
		}
		s.failExit(127, "%s: unbound variable", name)
	}
}

func (s *Shell) namesWith(prefix string) []string {
	var l []string
	for _, n := range s.names() {
		if strings.HasPrefix(n, prefix) {
			l = append(l, n)
		}
	}
	return l
}

// valueOf fetches a parameter without its operators.
func (s *Shell) valueOf(p *syntax.ParamExp) value {
	name := p.Param.Value
	one := func(str string) value { return value{list: []string{str}, set: true} }
	switch name {
	case "@", "*":
		return value{list: s.params, set: len(s.params) > 0, at: name == "@", star: name == "*"}
	case "#":
		return one(strconv.Itoa(len(s.params)))
	case "?":
		return one(strconv.Itoa(s.status))
	case "$":
		return one(strconv.Itoa(s.shared.pid))
	case "!":
		if s.lastBg == 0 {
			return value{list: []string{""}}
		}
		return one(strconv.Itoa(s.lastBg))
	case "-":
		return one(s.flagString())
	case "0":
		return one(s.name)
	case "_":
		return one(s.underscore)
	}
	if name[0] >= '1' && name[0] <= '9' {
		n, _ := strconv.Atoi(name)
		if n <= len(s.params) {
			return one(s.params[n-1])
		}
		return value{list: []string{""}}
	}
	v := s.lookup(name)
	if lit := indexLit(p.Index); lit == "@" || lit == "*" {
		r := value{at: lit == "@", star: lit == "*"}
		if v != nil {
			r.list, r.set = v.elements(), v.set && len(v.elements()) > 0
		}
		return r
	}
	if v == nil {
		return value{list: []string{""}}
	}
	var str string
	var ok bool
	switch {
	case p.Index == nil:
		str, ok = v.str()
	case v.kind == assoc:
		str, ok = v.dict[s.subscript(p.Index)]
	default:
		i := int(s.arithm(p.Index))
		if i < 0 {
			i += v.top()
		}
		if i < 0 {
			s.errorf("%s: bad array subscript", name)
		} else {
			str, ok = v.at(i)
		}
	}
	return value{list: []string{str}, set: ok}
}

// subscript is the key of an associative array.
func (s *Shell) subscript(i syntax.ArithmExpr) string {
	if w, ok := i.(*syntax.Word); ok {
		return s.wordIn(w, mode{})
	}
	return s.source(i)
}

// alternatives handles - = ? and +; it reports whether f got the result.
func (s *Shell) alternatives(f *fields, p *syntax.ParamExp, v value, m mode) bool {
	null := !v.set || len(v.list) == 0 || len(v.list) == 1 && v.list[0] == ""
	use := false // use the word
	switch p.Exp.Op {
	case syntax.DefaultUnset, syntax.AssignUnset, syntax.ErrorUnset:
		use = !v.set
	case syntax.DefaultUnsetOrNull, syntax.AssignUnsetOrNull, syntax.ErrorUnsetOrNull:
		use = null
	case syntax.AlternateUnset:
		use = v.set
	case syntax.AlternateUnsetOrNull:
		use = !null
	default:
		return false
	}
	w := mode{quoted: m.quoted, heredoc: m.heredoc, split: m.split, pattern: m.pattern, inParam: true}
	switch p.Exp.Op {
	case syntax.DefaultUnset, syntax.DefaultUnsetOrNull, syntax.AlternateUnset, syntax.AlternateUnsetOrNull:
		if use {
			if p.Exp.Word != nil {
				s.parts(f, p.Exp.Word.Parts, w)
			}
			return true
		}
		if p.Exp.Op == syntax.AlternateUnset || p.Exp.Op == syntax.AlternateUnsetOrNull {
			return true
		}
	case syntax.AssignUnset, syntax.AssignUnsetOrNull:
		if use {
			val := s.wordIn(p.Exp.Word, mode{quoted: m.quoted, inParam: true})
			s.assignTo(p.Param.Value, p.Index, val)
			s.addValue(f, val, m)
			return true
		}
	default:
		if use {
			name := p.Param.Value
			msg := "parameter null or not set"
			if p.Exp.Op == syntax.ErrorUnset {
				msg = "parameter not set"
			}
			if p.Exp.Word != nil {
				msg = s.wordIn(p.Exp.Word, mode{quoted: m.quoted, inParam: true})
			}
			s.failExit(127, "%s: %s", name, msg)
		}
	}
	return false
}

// assignTo is an assignment from inside an expansion.
func (s *Shell) assignTo(name string, index syntax.ArithmExpr, val string) {
	var err error
	switch {
	case !validName(name):
		s.fail(1, "$%s: cannot assign in this way", name)
	case index == nil:
		err = s.setString(name, val)
	default:
		err = s.setElement(name, index, val, false)
	}
	if err != nil {
		s.failExit(1, "%v", err)
	}
}

// slice is ${x:offset:length}.
func (s *Shell) slice(p *syntax.ParamExp, v value) value {
	off := int(s.arithm(p.Slice.Offset))
	n, hasLen := 0, p.Slice.Length != nil
	if hasLen {
		n = int(s.arithm(p.Slice.Length))
	}
	if v.at || v.star {
		list := v.list
		switch name := p.Param.Value; {
		case name == "@" || name == "*":
			list = append([]string{s.name}, list...)
			if off < 0 {
				off += len(list)
				if off < 0 {
					list = nil
				}
			}
		default:
			vr := s.lookup(name)
			if vr != nil && vr.kind == indexed {
				if off < 0 {
					off += vr.top()
				}
				at, _ := slices.BinarySearch(vr.keys, off)
				if off < 0 {
					at = len(list)
				}
				off = at
			}
		}
		if hasLen && n < 0 {
			s.fail(1, "%d: substring expression < 0", n)
		}
		off = min(max(off, 0), len(list))
		list = list[off:]
		if hasLen {
			list = list[:min(n, len(list))]
		}
		v.list = list
		return v
	}
	str := strings.Join(v.list, "")
	r := []rune(str)
	ascii := len(r) == len(str)
	if off < 0 {
		off += len(r)
		if off < 0 {
			v.list = []string{""}
			return v
		}
	}
	off = min(off, len(r))
	end := len(r)
	if hasLen {
		if n < 0 {
			end += n
			if end < off {
				s.fail(1, "%d: substring expression < 0", n)
			}
		} else {
			end = min(off+n, len(r))
		}
	}
	if ascii {
		v.list = []string{str[off:end]}
	} else {
		v.list = []string{string(r[off:end])}
	}
	return v
}

// transform is # ## % %% ^ ^^ , ,, and @X.
func (s *Shell) transform(p *syntax.ParamExp, v value, name string) []string {
	op := p.Exp.Op
	out := make([]string, len(v.list))
	if op == syntax.OtherParamOps {
		what := p.Exp.Word.Lit()
		for i, e := range v.list {
			out[i] = s.transformAt(what, e, name, v)
		}
		if !v.set && what != "a" && what != "A" {
			return []string{""}
		}
		return out
	}
	pat := s.pattern(p.Exp.Word)
	mt := newMatcher(false)
	for i, e := range v.list {
		out[i] = e
		switch op {
		case syntax.RemSmallPrefix, syntax.RemLargePrefix:
			if n := mt.prefix(pat, e, op == syntax.RemLargePrefix); n > 0 {
				out[i] = e[n:]
			}
		case syntax.RemSmallSuffix, syntax.RemLargeSuffix:
			if n := mt.suffix(pat, e, op == syntax.RemLargeSuffix); n >= 0 {
				out[i] = e[:n]
			}
		case syntax.UpperFirst, syntax.UpperAll, syntax.LowerFirst, syntax.LowerAll:
			conv := unicode.ToUpper
			if op == syntax.LowerFirst || op == syntax.LowerAll {
				conv = unicode.ToLower
			}
			all := op == syntax.UpperAll || op == syntax.LowerAll
			r := []rune(e)
			for j, c := range r {
				if (j == 0 || all) && (pat == "" || mt.Match(pat, string(c))) {
					r[j] = conv(c)
				}
			}
			out[i] = string(r)
		}
	}
	return out
}

func (s *Shell) transformAt(what, e, name string, v value) string {
	switch what {
	case "Q":
		if !v.set {
			return ""
		}
		return squoteOrAnsi(e)
	case "E":
		return unescapeAnsi(e)
	case "U":
		return strings.ToUpper(e)
	case "u":
		r, n := utf8.DecodeRuneInString(e)
		if n > 0 {
			return string(unicode.ToUpper(r)) + e[n:]
		}
	case "L":
		return strings.ToLower(e)
	case "a":
		if vr := s.lookup(name); vr != nil {
			return vr.flags()
		}
		return ""
	case "A":
		if vr := s.lookup(name); vr != nil {
			if vr.flags() == "" {
				return name + "=" + squoteOrAnsi(e)
			}
			return strings.Replace(vr.declaration(name), dquote(e), squoteOrAnsi(e), 1)
		}
	}
	return e
}

func squoteOrAnsi(s string) string {
	if hasControl(s) {
		return ansiQuote(s)
	}
	return squote(s)
}

// addList adds a value to f the way its quoting asks.
func (s *Shell) addList(f *fields, v value, m mode) {
	if !v.at && !v.star {
		s.addValue(f, strings.Join(v.list, " "), m)
		return
	}
	quoted := m.quoted || m.heredoc
	switch {
	case quoted && v.star || !m.split && v.star:
		f.add(strings.Join(v.list, s.ifs1()), quoted)
	case !m.split && (m.heredoc || !quoted):
		f.add(strings.Join(v.list, " "), quoted)
	case quoted:
		for i, e := range v.list {
			if i > 0 {
				f.open = true
				f.end()
			}
			f.add(e, true)
		}
	default: // $@ and $* unquoted: each element is split further
		for i, e := range v.list {
			if i > 0 {
				f.end()
				f.space = false
			}
			f.split(e)
		}
	}
}
