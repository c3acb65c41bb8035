package sh

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"
)

// How a word becomes arguments:
//
//	a"b $x"$y*   parts     a | "b $x" | $y | *
//	             frags     a, b 1 (quoted), 2  3 (split), *
//	             fields    [a, b 1, 2] [3, *]
//	             names     "ab 12"  3x 3y

// frag is a piece of a field; what is quoted is not a pattern.
type frag struct {
	s      string
	quoted bool
}

// fields collects frags into fields.
type fields struct {
	ifs   string
	out   [][]frag
	cur   []frag
	open  bool // the current field exists even if it is empty
	space bool // the last field was ended by IFS white space
}

func (f *fields) add(s string, quoted bool) {
	f.cur = append(f.cur, frag{s, quoted})
	f.open = f.open || quoted || s != ""
	f.space = false
}

func (f *fields) end() {
	if f.open {
		f.out = append(f.out, f.cur)
	}
	f.cur, f.open = nil, false
}

// split adds the result of an unquoted expansion.
func (f *fields) split(s string) {
	start := 0
	for i := range len(s) {
		c := s[i]
		if strings.IndexByte(f.ifs, c) < 0 {
			f.space = false
			continue
		}
		if i > start {
			f.add(s[start:i], false)
		}
		start = i + 1
		switch {
		case c == ' ' || c == '\t' || c == '\n':
			if f.open {
				f.end()
				f.space = true
			}
		case f.space:
			f.space = false // the delimiter that the space already was
		default:
			f.open = true
			f.end()
		}
	}
	if start < len(s) {
		f.add(s[start:], false)
	}
}

// mode is where a word stands.
type mode struct {
	quoted  bool // inside double quotes
	heredoc bool // in a here-document
	split   bool // unquoted expansions are split into fields
	pattern bool // the result is a pattern: quoted text is escaped
	assign  bool // ~ after : counts too
	inParam bool // in the word of ${x-word}
}

// fieldsOf expands words into arguments.
func (s *Shell) fieldsOf(words []*syntax.Word) []string {
	var out []string
	for _, w := range words {
		if lit := simpleLit(w); lit != "" {
			out = append(out, lit)
			continue
		}
		for _, w := range s.braces(w) {
			f := &fields{ifs: s.ifs()}
			s.parts(f, w.Parts, mode{split: true})
			f.end()
			for _, fd := range f.out {
				out = s.pathnames(out, fd)
			}
		}
	}
	return out
}

// simpleLit returns the text of a word without anything to expand, or "".
func simpleLit(w *syntax.Word) string {
	if len(w.Parts) != 1 {
		return ""
	}
	l, ok := w.Parts[0].(*syntax.Lit)
	if !ok || strings.ContainsAny(l.Value, `\*?[{~+@!`) {
		return ""
	}
	return l.Value
}

// pathnames appends the files that a field matches, or the field itself.
func (s *Shell) pathnames(out []string, fd []frag) []string {
	plain := join(fd)
	glob := false
	for _, fr := range fd {
		glob = glob || !fr.quoted && strings.ContainsAny(fr.s, "*?[(")
	}
	if !glob || s.opt['f'] {
		return append(out, plain)
	}
	p := asPattern(fd)
	if !hasMeta(p) {
		return append(out, plain)
	}
	l := s.glob(p)
	switch {
	case len(l) > 0:
		return append(out, l...)
	case s.shopt["failglob"]:
		s.fail(1, "no match: %s", plain)
	case s.shopt["nullglob"]:
		return out
	}
	return append(out, plain)
}

func join(fd []frag) string {
	if len(fd) == 1 {
		return fd[0].s
	}
	var b strings.Builder
	for _, fr := range fd {
		b.WriteString(fr.s)
	}
	return b.String()
}

func asPattern(fd []frag) string {
	var b strings.Builder
	for _, fr := range fd {
		if fr.quoted {
			b.WriteString(escapePattern(fr.s))
		} else {
			b.WriteString(fr.s)
		}
	}
	return b.String()
}

// word expands to one string: for assignments, redirections, case.
func (s *Shell) word(w *syntax.Word) string { return s.wordIn(w, mode{assign: true}) }

// pattern expands to a pattern.
func (s *Shell) pattern(w *syntax.Word) string { return s.wordIn(w, mode{pattern: true}) }

func (s *Shell) wordIn(w *syntax.Word, m mode) string {
	if w == nil {
		return ""
	}
	f := &fields{ifs: s.ifs()}
	s.parts(f, w.Parts, m)
	f.end()
	l := make([]string, len(f.out))
	for i, fd := range f.out {
		if m.pattern {
			l[i] = asPattern(fd)
		} else {
			l[i] = join(fd)
		}
	}
	return strings.Join(l, " ")
}

func (s *Shell) ifs() string {
	if v := s.vars["IFS"]; v != nil && v.set {
		return v.val
	}
	return " \t\n"
}

// ifs1 joins "$*".
func (s *Shell) ifs1() string {
	i := s.ifs()
	_, n := utf8.DecodeRuneInString(i)
	return i[:n]
}

func (s *Shell) parts(f *fields, parts []syntax.WordPart, m mode) {
	for i, p := range parts {
		switch p := p.(type) {
		case *syntax.Lit:
			s.lit(f, p.Value, m, i == 0, i == len(parts)-1)
		case *syntax.SglQuoted:
			str := p.Value
			if p.Dollar {
				str = unescapeAnsi(str)
			} else if m.quoted && m.inParam {
				str = "'" + str + "'"
			}
			f.add(str, true)
		case *syntax.DblQuoted:
			q := m
			q.quoted, q.heredoc = true, false
			before := len(f.out)
			wasOpen := f.open
			s.parts(f, p.Parts, q)
			// "" is a field, but "$@" without arguments is none.
			if len(f.out) == before && !f.open && !wasOpen && !onlyAt(s, p.Parts) {
				f.add("", true)
			}
		case *syntax.ParamExp:
			s.param(f, p, m)
		case *syntax.CmdSubst:
			s.addValue(f, s.cmdSubst(p), m)
		case *syntax.ArithmExp:
			s.addValue(f, strconv.FormatInt(s.arithm(p.X), 10), m)
		case *syntax.ProcSubst:
			f.add(s.procSubst(p), true)
		case *syntax.ExtGlob:
			f.add(p.Op.String()+s.extGlobText(p.Pattern.Value)+")", false)
		case *syntax.BraceExp:
			// Only braces makes these, and takes them out again.
		}
	}
}

// extGlobText expands the inside of @(…), which the parser leaves as text.
func (s *Shell) extGlobText(text string) string {
	if !strings.ContainsAny(text, "$`'\"") {
		return text
	}
	w, err := s.parser().Document(strings.NewReader(strings.NewReplacer(`"`, "", `'`, "").Replace(text)))
	if err != nil {
		return text
	}
	return s.wordIn(w, mode{heredoc: true})
}

// onlyAt reports whether parts may vanish: a lone $@ or ${a[@]}.
func onlyAt(s *Shell, parts []syntax.WordPart) bool {
	seen := false
	for _, p := range parts {
		pe, ok := p.(*syntax.ParamExp)
		if !ok {
			return false
		}
		if pe.Param.Value == "@" || indexLit(pe.Index) == "@" || pe.Names == syntax.NamesPrefixWords {
			seen = true
			continue
		}
		return false
	}
	return seen
}

// addValue adds an expansion's result, split unless it is quoted.
func (s *Shell) addValue(f *fields, str string, m mode) {
	switch {
	case m.quoted || m.heredoc:
		f.add(str, true)
	case m.split:
		f.split(str)
	default:
		f.add(str, false)
	}
}

func (s *Shell) lit(f *fields, str string, m mode, first, last bool) {
	switch {
	case m.heredoc || m.quoted:
		special := "$`\\\n"
		if m.quoted {
			special = "$`\"\\\n"
		}
		if m.inParam {
			special += "}"
		}
		f.add(unescapeIn(str, special), true)
		return
	case first && strings.HasPrefix(str, "~"):
		home, rest := s.tilde(str, last, m.assign)
		if home != "" {
			f.add(home, true)
			str = rest
		}
	}
	if m.assign && !m.inParam && strings.Contains(str, ":~") {
		var b strings.Builder
		for i, piece := range strings.Split(str, ":") {
			if i > 0 {
				b.WriteByte(':')
				if h, rest := s.tilde(piece, true, true); h != "" {
					piece = h + rest
				}
			}
			b.WriteString(piece)
		}
		str = b.String()
	}
	for str != "" {
		i := strings.IndexByte(str, '\\')
		if i < 0 {
			break
		}
		if i > 0 {
			s.addLit(f, str[:i], m)
		}
		if i+1 == len(str) {
			f.add(`\`, true)
			return
		}
		_, n := utf8.DecodeRuneInString(str[i+1:])
		if str[i+1] != '\n' {
			f.add(str[i+1:i+1+n], true)
		}
		str = str[i+1+n:]
	}
	if str != "" {
		s.addLit(f, str, m)
	}
}

// addLit adds unquoted text of the script; inside ${x-…} it is split.
func (s *Shell) addLit(f *fields, str string, m mode) {
	if m.inParam && m.split {
		f.split(str)
		return
	}
	f.add(str, false)
}

// unescapeIn removes the backslashes before the special characters.
func unescapeIn(s, special string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && strings.IndexByte(special, s[i+1]) >= 0 {
			i++
			if s[i] == '\n' {
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// tilde expands ~, ~+, ~- and ~root at the start of str.
func (s *Shell) tilde(str string, last, assign bool) (home, rest string) {
	if str == "" || str[0] != '~' {
		return "", str
	}
	end := strings.IndexByte(str, '/')
	if assign {
		if c := strings.IndexByte(str, ':'); c >= 0 && (end < 0 || c < end) {
			end = c
		}
	}
	if end < 0 {
		if !last {
			return "", str
		}
		end = len(str)
	}
	switch name := str[1:end]; name {
	case "":
		if v := s.vars["HOME"]; v != nil && v.set {
			return v.val, str[end:]
		}
		return "/root", str[end:]
	case "+":
		return s.dir, str[end:]
	case "-":
		return s.get("OLDPWD"), str[end:]
	default:
		data, _ := os.ReadFile("/etc/passwd")
		for line := range strings.Lines(string(data)) {
			if f := strings.Split(strings.TrimSpace(line), ":"); len(f) > 5 && f[0] == name {
				return f[5], str[end:]
			}
		}
	}
	return "", str
}

// braces performs {a,b} and {1..3}.
func (s *Shell) braces(w *syntax.Word) []*syntax.Word {
	if s.noBrace || !hasBrace(w) {
		return []*syntax.Word{w}
	}
	c := &syntax.Word{Parts: slices.Clone(w.Parts)}
	if !syntax.SplitBraces(c) {
		return []*syntax.Word{w}
	}
	return expandBraces(c)
}

func hasBrace(w *syntax.Word) bool {
	for _, p := range w.Parts {
		if l, ok := p.(*syntax.Lit); ok && strings.IndexByte(l.Value, '{') >= 0 {
			return true
		}
	}
	return false
}

func expandBraces(w *syntax.Word) []*syntax.Word {
	for i, p := range w.Parts {
		br, ok := p.(*syntax.BraceExp)
		if !ok {
			continue
		}
		var elems []*syntax.Word
		if br.Sequence {
			for _, str := range sequence(br) {
				elems = append(elems, &syntax.Word{Parts: []syntax.WordPart{&syntax.Lit{Value: str}}})
			}
		} else {
			for _, e := range br.Elems {
				elems = append(elems, expandBraces(e)...)
			}
		}
		tails := expandBraces(&syntax.Word{Parts: w.Parts[i+1:]})
		var out []*syntax.Word
		for _, e := range elems {
			for _, t := range tails {
				out = append(out, &syntax.Word{Parts: slices.Concat(w.Parts[:i], e.Parts, t.Parts)})
			}
		}
		return out
	}
	return []*syntax.Word{w}
}

// sequence is {from..to[..step]} of numbers or letters.
func sequence(br *syntax.BraceExp) []string {
	from, to := br.Elems[0].Lit(), br.Elems[1].Lit()
	a, errA := strconv.Atoi(from)
	b, errB := strconv.Atoi(to)
	chars := errA != nil || errB != nil
	width := 0
	if chars {
		a, b = int(from[0]), int(to[0])
	} else if zero := func(s string) bool { s = strings.TrimPrefix(s, "-"); return len(s) > 1 && s[0] == '0' }; zero(from) || zero(to) {
		width = max(len(from), len(to))
	}
	step := 1
	if len(br.Elems) > 2 {
		step, _ = strconv.Atoi(br.Elems[2].Lit())
	}
	step = max(step, -step)
	if step == 0 {
		step = 1
	}
	var out []string
	add := func(n int) {
		switch {
		case chars:
			out = append(out, string(rune(n)))
		case n < 0:
			out = append(out, "-"+pad(strconv.Itoa(-n), width-1))
		default:
			out = append(out, pad(strconv.Itoa(n), width))
		}
	}
	if a <= b {
		for n := a; n <= b; n += step {
			add(n)
		}
	} else {
		for n := a; n >= b; n -= step {
			add(n)
		}
	}
	return out
}

func pad(s string, width int) string {
	if len(s) < width {
		return strings.Repeat("0", width-len(s)) + s
	}
	return s
}

// unescapeAnsi is the inside of $'…'.
func unescapeAnsi(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			i++
			continue
		}
		i++
		c := s[i]
		i++
		switch c {
		case 'n':
			b.WriteByte('\n')
		case 't':
			b.WriteByte('\t')
		case 'r':
			b.WriteByte('\r')
		case 'a':
			b.WriteByte(7)
		case 'b':
			b.WriteByte(8)
		case 'e', 'E':
			b.WriteByte(27)
		case 'f':
			b.WriteByte(12)
		case 'v':
			b.WriteByte(11)
		case '\\', '\'', '"', '?':
			b.WriteByte(c)
		case 'c':
			if i < len(s) {
				b.WriteByte(s[i] & 31)
				i++
			}
		case 'x', 'u', 'U':
			width := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
			j := i
			for j < len(s) && j < i+width && strings.IndexByte("0123456789abcdefABCDEF", s[j]) >= 0 {
				j++
			}
			n, err := strconv.ParseUint(s[i:j], 16, 32)
			switch {
			case err != nil:
				b.WriteString(s[i-2 : i])
			case c == 'x':
				b.WriteByte(byte(n))
			default:
				b.WriteRune(rune(n))
			}
			i = j
		case '0', '1', '2', '3', '4', '5', '6', '7':
			j := i
			for j < len(s) && j < i+2 && s[j] >= '0' && s[j] <= '7' {
				j++
			}
			n, _ := strconv.ParseUint(s[i-1:j], 8, 16)
			b.WriteByte(byte(n))
			i = j
		default:
			b.WriteByte('\\')
			b.WriteByte(c)
		}
	}
	str, _, _ := strings.Cut(b.String(), "\x00")
	return str
}
