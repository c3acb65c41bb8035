package sh

import (
	"fmt"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// assign performs name=value, name+=value, name[i]=value or name=(…).
// local makes the variable local to the function.
func (s *Shell) assign(a *syntax.Assign, local bool) error {
	name := a.Name.Value
	if v := s.vars[s.resolve(name)]; v != nil && v.readonly {
		return errorf("%s: readonly variable", name)
	}
	switch {
	case a.Array != nil:
		return s.assignArray(name, a)
	case a.Index != nil:
		val := s.word(a.Value)
		s.traceAssign(a, val)
		return s.setElement(name, a.Index, val, a.Append)
	}
	val := s.word(a.Value)
	s.traceAssign(a, val)
	if a.Append {
		if v := s.vars[s.resolve(name)]; v != nil {
			old, _ := v.str()
			if v.integer {
				val = fmt.Sprint(s.evalText(old, 0) + s.evalText(val, 0))
			} else {
				val = old + val
			}
		}
	}
	return s.setString(name, val)
}

func (s *Shell) traceAssign(a *syntax.Assign, val string) {
	if s.opt['x'] {
		op := "="
		if a.Append {
			op = "+="
		}
		name := a.Name.Value
		if a.Index != nil {
			name += "[" + s.source(a.Index) + "]"
		}
		if val != "" {
			val = quoteIfNeeded(val)
		}
		s.trace(name + op + val)
	}
}

// setElement is name[index]=val.
func (s *Shell) setElement(name string, index syntax.ArithmExpr, val string, add bool) error {
	if v := s.vars[s.resolve(name)]; v != nil && v.readonly {
		return errorf("%s: readonly variable", name)
	}
	v := s.modify(name)
	var err error
	if v.kind == assoc {
		key := s.subscript(index)
		if v.dict == nil {
			v.dict = map[string]string{}
		}
		if add {
			val = v.dict[key] + val
		}
		v.dict[key], err = s.attributed(v, val)
		v.set = true
		return err
	}
	i := int(s.arithm(index))
	if i < 0 {
		if i += v.top(); i < 0 {
			return errorf("%s[%s]: bad array subscript", name, s.source(index))
		}
	}
	if add {
		old, _ := v.at(i)
		if v.integer {
			val = fmt.Sprint(s.evalText(old, 0) + s.evalText(val, 0))
		} else {
			val = old + val
		}
	}
	if val, err = s.attributed(v, val); err == nil {
		v.put(i, val)
	}
	return err
}

func (s *Shell) assignArray(name string, a *syntax.Assign) error {
	// The elements may refer to the old value, so expand them first.
	type elem struct {
		index syntax.ArithmExpr
		vals  []string
	}
	var elems []elem
	for _, e := range a.Array.Elems {
		switch {
		case e.Index != nil:
			elems = append(elems, elem{e.Index, []string{s.word(e.Value)}})
		default:
			elems = append(elems, elem{nil, s.fieldsOf([]*syntax.Word{e.Value})})
		}
	}
	v := s.modify(name)
	if !a.Append {
		v.keys, v.vals, v.val = nil, nil, ""
		v.dict = nil
	}
	if v.kind == assoc {
		if v.dict == nil {
			v.dict = map[string]string{}
		}
		v.set = true
		var flat []string
		for _, e := range elems {
			if e.index != nil {
				v.dict[s.subscript(e.index)] = e.vals[0]
			} else {
				flat = append(flat, e.vals...)
			}
		}
		for i := 0; i < len(flat); i += 2 {
			val := ""
			if i+1 < len(flat) {
				val = flat[i+1]
			}
			v.dict[flat[i]] = val
		}
		return nil
	}
	if v.kind == scalar {
		if a.Append && v.set {
			v.keys, v.vals = []int{0}, []string{v.val}
		}
		v.kind, v.val = indexed, ""
	}
	v.set = true
	next := v.top()
	for _, e := range elems {
		if e.index != nil {
			if next = int(s.arithm(e.index)); next < 0 {
				next += v.top()
			}
		}
		for _, val := range e.vals {
			val, err := s.attributed(v, val)
			if err != nil {
				return err
			}
			v.put(next, val)
			next++
		}
	}
	return nil
}

// attributes are the options of declare.
type attributes struct {
	on, off                        string
	print, global, funcs, funcName bool
}

// parse reads one option word; false if it has a letter that is unknown.
func (a *attributes) parse(opt string) (bad byte) {
	for _, c := range []byte(opt[1:]) {
		switch c {
		case 'p':
			a.print = true
		case 'g':
			a.global = true
		case 'f':
			a.funcs = true
		case 'F':
			a.funcs, a.funcName = true, true
		case 'a', 'A', 'i', 'l', 'u', 'n', 'r', 'x', 't', 'I':
			if opt[0] == '+' {
				a.off += string(c)
			} else {
				a.on += string(c)
			}
		default:
			return c
		}
	}
	return 0
}

// apply gives a variable the attributes.
func (a *attributes) apply(v *variable) {
	has := func(s string, c byte) bool { return strings.IndexByte(s, c) >= 0 }
	if has(a.on, 'A') && v.kind != assoc {
		v.kind, v.dict = assoc, map[string]string{}
	}
	if has(a.on, 'a') && v.kind == scalar {
		if v.set {
			v.keys, v.vals = []int{0}, []string{v.val}
		}
		v.kind = indexed
	}
	set := func(c byte, f *bool) {
		if has(a.on, c) {
			*f = true
		}
		if has(a.off, c) {
			*f = false
		}
	}
	set('i', &v.integer)
	set('x', &v.exported)
	set('n', &v.nameref)
	set('l', &v.lowerCase)
	set('u', &v.upperCase)
}

// declClause is declare, typeset, local, export and readonly, with assignments
// that the parser recognised.
func (s *Shell) declClause(c *syntax.DeclClause) {
	var at attributes
	type todo struct {
		assign *syntax.Assign
		text   string
	}
	var list []todo
	for _, a := range c.Args {
		switch {
		case a.Naked && a.Name == nil:
			for _, w := range s.fieldsOf([]*syntax.Word{a.Value}) {
				list = append(list, todo{text: w})
			}
		default:
			list = append(list, todo{assign: a})
		}
	}
	cmd := c.Variant.Value
	s.traceDecl(c)
	status := 0
	opts := true
	var todos []todo
	for _, t := range list {
		if opts && t.assign == nil && len(t.text) > 1 && (t.text[0] == '-' || t.text[0] == '+') {
			if t.text == "--" {
				opts = false
				continue
			}
			if cmd == "export" && t.text == "-n" {
				at.off += "x"
				continue
			}
			if bad := at.parse(t.text); bad != 0 {
				s.errorf("%s: -%c: invalid option", cmd, bad)
				s.status = 2
				return
			}
			continue
		}
		opts = false
		todos = append(todos, t)
	}
	switch cmd {
	case "export":
		if at.off == "" {
			at.on += "x"
		}
	case "readonly":
		at.on += "r"
	case "nameref":
		at.on += "n"
	case "local":
		if len(s.scopes) == 0 {
			s.errorf("local: can only be used in a function")
			s.status = 1
			return
		}
	}
	if len(todos) == 0 {
		s.listVariables(cmd, &at)
		s.status = 0
		return
	}
	for _, t := range todos {
		a := t.assign
		if a == nil {
			a = s.parseAssign(t.text)
			if a == nil {
				s.errorf("%s: `%s': not a valid identifier", cmd, t.text)
				status = 1
				continue
			}
		}
		if !s.declare1(cmd, a, &at) {
			status = 1
		}
	}
	// The status of a command substitution does not count here.
	s.status = status
}

func (s *Shell) traceDecl(c *syntax.DeclClause) {
	if s.opt['x'] {
		s.trace(s.source(c))
	}
}

// parseAssign reads name, name=value or name[i]=value from an expanded word.
func (s *Shell) parseAssign(text string) *syntax.Assign {
	name, val, has := strings.Cut(text, "=")
	add := strings.HasSuffix(name, "+") && has
	name = strings.TrimSuffix(name, "+")
	a := &syntax.Assign{Append: add, Naked: !has}
	if base, idx, ok := strings.Cut(name, "["); ok && strings.HasSuffix(idx, "]") {
		name = base
		a.Index = &syntax.Word{Parts: []syntax.WordPart{&syntax.SglQuoted{Value: strings.TrimSuffix(idx, "]")}}}
	}
	if !validName(name) {
		return nil
	}
	a.Name = &syntax.Lit{Value: name}
	if has {
		a.Value = &syntax.Word{Parts: []syntax.WordPart{&syntax.SglQuoted{Value: val}}}
	}
	return a
}

// declare1 handles one name of declare and its like.
func (s *Shell) declare1(cmd string, a *syntax.Assign, at *attributes) bool {
	name := a.Name.Value
	if at.funcs {
		f := s.funcs[name]
		if f == nil {
			return false
		}
		if at.funcName {
			fmt.Fprintln(s.writer(1), name)
		} else if at.on == "" {
			fmt.Fprintln(s.writer(1), f.source)
		}
		return true
	}
	if at.print && a.Naked {
		v := s.vars[name]
		if v == nil {
			s.errorf("%s: %s: not found", cmd, name)
			return false
		}
		fmt.Fprintln(s.writer(1), v.declaration(name))
		return true
	}
	old := s.vars[s.resolve(name)]
	if old != nil && old.readonly && (!a.Naked || strings.Contains(at.off, "r")) {
		s.errorf("%s: readonly variable", name)
		return false
	}
	local := cmd == "local" || (cmd == "declare" || cmd == "typeset") && len(s.scopes) > 0 && !at.global
	// The value is expanded in the scope outside.
	var val string
	simple := !a.Naked && a.Array == nil && a.Index == nil
	if simple {
		val = s.word(a.Value)
	}
	var v *variable
	if local {
		v = s.declareLocal(name)
	} else if strings.Contains(at.on+at.off, "n") {
		v = s.vars[name]
		if v == nil {
			v = &variable{}
		} else {
			v = v.clone()
		}
		s.vars[name], s.owned[name] = v, true
	} else {
		v = s.modify(name)
	}
	at.apply(v)
	var err error
	switch {
	case a.Naked:
	case simple && v.nameref:
		v.val, v.set = val, true
	case simple:
		if a.Append && v.set {
			before, _ := v.str()
			if v.integer {
				val = fmt.Sprint(s.evalText(before, 0) + s.evalText(val, 0))
			} else {
				val = before + val
			}
		}
		if strings.HasPrefix(val, "(") && strings.HasSuffix(val, ")") && v.kind != scalar {
			if w := s.parseArray(name, val); w != nil {
				err = s.assignArray(name, w)
				break
			}
		}
		err = s.setString(name, val)
	default:
		err = s.assign(a, local)
	}
	if err != nil {
		s.errorf("%v", err)
		return false
	}
	if strings.Contains(at.on, "r") {
		s.modify(name).readonly = true
	}
	return true
}

// parseArray reads the text (a b c) of declare -a x='(a b c)'.
func (s *Shell) parseArray(name, text string) *syntax.Assign {
	f, err := s.parser().Parse(strings.NewReader(name+"="+text), "")
	if err != nil || len(f.Stmts) != 1 {
		return nil
	}
	if c, ok := f.Stmts[0].Cmd.(*syntax.CallExpr); ok && len(c.Assigns) == 1 {
		return c.Assigns[0]
	}
	return nil
}

func (s *Shell) listVariables(cmd string, at *attributes) {
	out := s.writer(1)
	if at.funcs {
		s.listFunctions(at.funcName)
		return
	}
	for _, n := range s.names() {
		v := s.vars[n]
		skip := false
		for _, c := range at.on {
			skip = skip || !strings.ContainsRune(v.flags(), c)
		}
		if skip || cmd == "local" {
			continue
		}
		switch {
		case cmd == "export" && !s.bash:
			fmt.Fprintf(out, "export %s=%s\n", n, squote(v.val))
		case cmd == "readonly" && !s.bash:
			fmt.Fprintf(out, "readonly %s=%s\n", n, squote(v.val))
		case at.print || at.on != "":
			fmt.Fprintln(out, v.declaration(n))
		default:
			s.printSet(n, v)
		}
	}
}

func (s *Shell) listFunctions(namesOnly bool) {
	for _, n := range sortedKeys(s.funcs) {
		if namesOnly {
			fmt.Fprintf(s.writer(1), "declare -f %s\n", n)
		} else {
			fmt.Fprintln(s.writer(1), s.funcs[n].source)
		}
	}
}

// printSet is a line of set without arguments.
func (s *Shell) printSet(n string, v *variable) {
	switch {
	case !v.set:
	case v.kind != scalar:
		_, val, _ := strings.Cut(v.declaration(n), "=")
		fmt.Fprintf(s.writer(1), "%s=%s\n", n, val)
	case !s.bash:
		fmt.Fprintf(s.writer(1), "%s=%s\n", n, squote(v.val))
	default:
		val := v.val
		if val != "" {
			val = quoteIfNeeded(val)
		}
		fmt.Fprintf(s.writer(1), "%s=%s\n", n, val)
	}
}
