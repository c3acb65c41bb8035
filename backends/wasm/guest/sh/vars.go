package sh

import (
	"cmp"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

type kind uint8

const (
	scalar kind = iota
	indexed
	assoc
)

// variable is one shell variable. A scalar has val; an indexed array has vals
// at the ascending subscripts keys; an associative array has dict.
type variable struct {
	kind                          kind
	set                           bool
	val                           string
	keys                          []int
	vals                          []string
	dict                          map[string]string
	exported, readonly, integer   bool
	lowerCase, upperCase, nameref bool
}

// at is the element with subscript i.
func (v *variable) at(i int) (string, bool) {
	if v.kind == scalar {
		return v.val, v.set && i == 0
	}
	if p, ok := slices.BinarySearch(v.keys, i); ok {
		return v.vals[p], true
	}
	return "", false
}

// put sets the element with subscript i, making the variable an array.
func (v *variable) put(i int, s string) {
	if v.kind == scalar {
		v.keys, v.vals = nil, nil
		if v.set {
			v.keys, v.vals = []int{0}, []string{v.val}
		}
		v.kind, v.val = indexed, ""
	}
	v.set = true
	p, ok := slices.BinarySearch(v.keys, i)
	if ok {
		v.vals[p] = s
		return
	}
	v.keys, v.vals = slices.Insert(v.keys, p, i), slices.Insert(v.vals, p, s)
}

// top is one past the highest subscript.
func (v *variable) top() int {
	if v.kind == scalar {
		if v.set {
			return 1
		}
		return 0
	}
	if len(v.keys) == 0 {
		return 0
	}
	return v.keys[len(v.keys)-1] + 1
}

// str is what $name gives.
func (v *variable) str() (string, bool) {
	switch v.kind {
	case indexed:
		return v.at(0)
	case assoc:
		s, ok := v.dict["0"]
		return s, ok
	}
	return v.val, v.set
}

// subscripts lists the keys of any kind, in the order that bash shows them.
func (v *variable) subscripts() []string {
	switch v.kind {
	case indexed:
		l := make([]string, len(v.keys))
		for i, k := range v.keys {
			l[i] = strconv.Itoa(k)
		}
		return l
	case assoc:
		l := make([]string, 0, len(v.dict))
		for k := range v.dict {
			l = append(l, k)
		}
		// Bash walks its hash table of 1024 buckets (FNV-1).
		slices.SortFunc(l, func(a, b string) int {
			return cmp.Or(cmp.Compare(bucket(a), bucket(b)), cmp.Compare(a, b))
		})
		return l
	}
	if v.set {
		return []string{"0"}
	}
	return nil
}

func bucket(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = h*16777619 ^ uint32(s[i])
	}
	return h & 1023
}

// elements lists the values in the order of subscripts.
func (v *variable) elements() []string {
	switch v.kind {
	case indexed:
		return v.vals
	case assoc:
		l := v.subscripts()
		for i, k := range l {
			l[i] = v.dict[k]
		}
		return l
	}
	if v.set {
		return []string{v.val}
	}
	return nil
}

func (v *variable) clone() *variable {
	c := *v
	c.keys, c.vals = slices.Clone(v.keys), slices.Clone(v.vals)
	if v.dict != nil {
		c.dict = make(map[string]string, len(v.dict))
		for k, s := range v.dict {
			c.dict[k] = s
		}
	}
	return &c
}

// flags are the letters of declare -p.
func (v *variable) flags() string {
	var b strings.Builder
	for _, f := range []struct {
		on bool
		c  byte
	}{{v.kind == indexed, 'a'}, {v.kind == assoc, 'A'}, {v.integer, 'i'}, {v.lowerCase, 'l'}, {v.nameref, 'n'},
		{v.readonly, 'r'}, {v.upperCase, 'u'}, {v.exported, 'x'}} {
		if f.on {
			b.WriteByte(f.c)
		}
	}
	return b.String()
}

// declaration is the line that declare -p prints.
func (v *variable) declaration(name string) string {
	f := v.flags()
	if f == "" {
		f = "-"
	}
	d := "declare -" + f + " " + name
	switch {
	case !v.set:
		return d
	case v.kind == indexed:
		var l []string
		for i, k := range v.keys {
			l = append(l, "["+strconv.Itoa(k)+"]="+dquote(v.vals[i]))
		}
		return d + "=(" + strings.Join(l, " ") + ")"
	case v.kind == assoc:
		s := d + "=("
		for _, k := range v.subscripts() {
			if needsQuote(k) {
				s += "[" + dquote(k) + "]="
			} else {
				s += "[" + k + "]="
			}
			s += dquote(v.dict[k]) + " "
		}
		return s + ")"
	}
	return d + "=" + dquote(v.val)
}

func needsQuote(s string) bool {
	return s == "" || strings.ContainsAny(s, " \t\n\"'\\$`&|;()<>*?[]{}!#~")
}

// dquote is the "…" form of declare -p, or $'…' when there are control characters.
func dquote(s string) string {
	if hasControl(s) {
		return ansiQuote(s)
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		if strings.IndexByte("\"\\$`", s[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String() + `"`
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\n' || r == 127 }) || strings.Contains(s, "\n")
}

// ansiQuote is the $'…' form.
func ansiQuote(s string) string {
	var b strings.Builder
	b.WriteString("$'")
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == 27:
			b.WriteString(`\E`)
		case c == 7:
			b.WriteString(`\a`)
		case c == 8:
			b.WriteString(`\b`)
		case c == 11:
			b.WriteString(`\v`)
		case c == 12:
			b.WriteString(`\f`)
		case c == '\'' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c == 127:
			b.WriteString("\\" + string([]byte{'0' + c>>6, '0' + c>>3&7, '0' + c&7}))
		default:
			b.WriteByte(c)
		}
	}
	return b.String() + "'"
}

// squote is how set, alias and trap show a value.
func squote(s string) string {
	if hasControl(s) && !strings.Contains(s, "\n") {
		return ansiQuote(s)
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// quoteIfNeeded is %q of printf and what set prints.
func quoteIfNeeded(s string) string {
	switch {
	case s == "":
		return "''"
	case hasControl(s):
		return ansiQuote(s)
	}
	return squoteIf(s)
}

func squoteIf(s string) string {
	if needsQuote(s) || strings.HasPrefix(s, "~") {
		return squote(s)
	}
	return s
}

// Variables live in a map; a function's locals shadow by saving what was there.

type saved struct {
	name string
	old  *variable
}

// resolve follows name references.
func (s *Shell) resolve(name string) string {
	for range 16 {
		v := s.vars[name]
		if v == nil || !v.nameref || v.val == "" {
			break
		}
		name = v.val
	}
	return name
}

// lookup returns a variable that may only be read, or nil.
func (s *Shell) lookup(name string) *variable {
	if v := s.special(name); v != nil {
		return v
	}
	return s.vars[s.resolve(name)]
}

func number(n int) *variable { return &variable{set: true, val: strconv.Itoa(n)} }

// special makes the variables that compute themselves.
func (s *Shell) special(name string) *variable {
	switch name {
	case "RANDOM":
		if s.vars[name] != nil {
			return number(int(s.shared.random() & 0x7fff))
		}
	case "SRANDOM":
		return number(int(s.shared.random()))
	case "SECONDS":
		if s.vars[name] != nil {
			return number(int(time.Since(s.shared.start)/time.Second) + s.shared.secondsAt)
		}
	case "EPOCHSECONDS":
		return number(int(time.Now().Unix()))
	case "EPOCHREALTIME":
		t := time.Now().UnixMicro()
		return &variable{set: true, val: strconv.FormatInt(t/1e6, 10) + "." + strconv.FormatInt(t%1e6+1e6, 10)[1:]}
	case "LINENO":
		return number(s.line)
	case "BASHPID":
		return number(s.pid)
	case "BASH_SUBSHELL":
		return number(s.depth)
	case "PIPESTATUS":
		v := &variable{kind: indexed, set: true}
		for i, st := range s.pipestatus {
			v.put(i, strconv.Itoa(st))
		}
		return v
	case "FUNCNAME":
		v := &variable{kind: indexed, set: len(s.callers) > 0}
		for i := range s.callers {
			v.put(i, s.callers[len(s.callers)-1-i].name)
		}
		if len(s.callers) > 0 && s.script {
			v.put(len(s.callers), "main")
		}
		return v
	case "BASH_LINENO":
		v := &variable{kind: indexed, set: true}
		for i := range s.callers {
			v.put(i, strconv.Itoa(s.callers[len(s.callers)-1-i].line))
		}
		return v
	case "BASH_SOURCE":
		v := &variable{kind: indexed, set: true}
		for i := range s.callers {
			v.put(i, s.callers[len(s.callers)-1-i].source)
		}
		if s.script || s.sourceName != "" {
			v.put(len(s.callers), cmp.Or(s.sourceName, s.name))
		}
		return v
	case "DIRSTACK":
		v := &variable{kind: indexed, set: true}
		v.put(0, s.dir)
		for i, d := range s.dirstack {
			v.put(i+1, d)
		}
		return v
	}
	return nil
}

// get is $name of a plain name.
func (s *Shell) get(name string) string {
	if v := s.lookup(name); v != nil {
		str, _ := v.str()
		return str
	}
	return ""
}

// modify returns the variable to change, made if need be, and private to this
// shell (subshells share variables until they write them).
func (s *Shell) modify(name string) *variable {
	name = s.resolve(name)
	v := s.vars[name]
	switch {
	case v == nil:
		v = &variable{}
	case s.owned[name]:
		return v
	default:
		v = v.clone()
	}
	s.vars[name], s.owned[name] = v, true
	return v
}

// setString assigns a scalar (or element 0) and honours attributes.
func (s *Shell) setString(name, val string) error {
	if v := s.vars[s.resolve(name)]; v != nil && v.readonly {
		return errorf("%s: readonly variable", name)
	}
	v := s.modify(name)
	switch name {
	case "SECONDS":
		n, _ := strconv.Atoi(val)
		s.shared.start, s.shared.secondsAt = time.Now(), n
	case "RANDOM":
		n, _ := strconv.Atoi(val)
		s.shared.seed(uint64(n))
	case "OPTIND":
		s.optpos = 0
	case "PATH":
		s.hash = nil
	}
	val, err := s.attributed(v, val)
	if err != nil {
		return err
	}
	switch v.kind {
	case indexed:
		v.put(0, val)
	case assoc:
		if v.dict == nil {
			v.dict = map[string]string{}
		}
		v.dict["0"], v.set = val, true
	default:
		v.val, v.set = val, true
	}
	if s.opt['a'] {
		v.exported = true
	}
	return nil
}

// attributed applies -i, -l and -u.
func (s *Shell) attributed(v *variable, val string) (string, error) {
	switch {
	case v.integer:
		n, err := s.arithString(val)
		return strconv.FormatInt(n, 10), err
	case v.lowerCase:
		return strings.ToLower(val), nil
	case v.upperCase:
		return strings.ToUpper(val), nil
	}
	return val, nil
}

func (s *Shell) unset(name string) error {
	name = s.resolve(name)
	v := s.vars[name]
	if v == nil {
		return nil
	}
	if v.readonly {
		return errorf("unset: %s: cannot unset: readonly variable", name)
	}
	delete(s.vars, name)
	delete(s.owned, name)
	if name == "PATH" {
		s.hash = nil
	}
	return nil
}

// declareLocal makes name local to the running function.
func (s *Shell) declareLocal(name string) *variable {
	if n := len(s.scopes); n > 0 {
		for _, sv := range s.scopes[n-1] {
			if sv.name == name {
				return s.modify(name)
			}
		}
		old := s.vars[name]
		s.scopes[n-1] = append(s.scopes[n-1], saved{name, old})
		v := &variable{}
		if old != nil {
			v.exported = old.exported
		}
		s.vars[name], s.owned[name] = v, true
		return v
	}
	return s.modify(name)
}

// restore undoes saved variables, newest first.
func (s *Shell) restore(l []saved) {
	for _, sv := range slices.Backward(l) {
		if sv.old == nil {
			delete(s.vars, sv.name)
		} else {
			s.vars[sv.name] = sv.old
		}
		delete(s.owned, sv.name)
		if sv.name == "PATH" {
			s.hash = nil
		}
	}
}

// names lists all variables that are set, sorted.
func (s *Shell) names() []string {
	l := make([]string, 0, len(s.vars))
	for n := range s.vars {
		l = append(l, n)
	}
	sort.Strings(l)
	return l
}

// environ is what a command gets.
func (s *Shell) environ() []string {
	var l []string
	for n, v := range s.vars {
		if v.exported && v.set && v.kind == scalar {
			l = append(l, n+"="+v.val)
		}
	}
	sort.Strings(l)
	return l
}

// importEnv reads the environment of the shell's own process.
func (s *Shell) importEnv(env []string) {
	for _, kv := range env {
		n, val, ok := strings.Cut(kv, "=")
		if !ok || !validName(n) {
			continue
		}
		s.vars[n] = &variable{set: true, val: val, exported: true}
	}
	def := func(n, val string) {
		if s.vars[n] == nil {
			s.vars[n] = &variable{set: true, val: val}
		}
	}
	for _, n := range []string{"IFS", "OPTIND", "PS4", "RANDOM", "SECONDS", "PPID", "UID", "EUID", "BASH_VERSION", "BASH_VERSINFO"} {
		delete(s.vars, n)
	}
	_, ppid, _, uid, _ := s.ids()
	def("IFS", " \t\n")
	def("OPTIND", "1")
	def("PS4", "+ ")
	def("RANDOM", "")
	def("SECONDS", "")
	def("PATH", "/usr/local/bin:/usr/bin:/bin")
	def("PPID", strconv.Itoa(ppid))
	def("UID", strconv.Itoa(uid))
	def("EUID", strconv.Itoa(uid))
	def("HOSTTYPE", "wasm32")
	def("OSTYPE", "linux-gnu")
	if s.bash {
		def("BASH_VERSION", "5.2.15(1)-release")
		def("BASH", "/bin/bash")
		v := &variable{}
		for i, f := range []string{"5", "2", "15", "1", "release", "wasm32-unknown-linux-gnu"} {
			v.put(i, f)
		}
		s.vars["BASH_VERSINFO"] = v
	}
	if h, err := os.Hostname(); err == nil {
		def("HOSTNAME", h)
	}
	n, _ := strconv.Atoi(s.get("SHLVL"))
	s.vars["SHLVL"] = &variable{set: true, val: strconv.Itoa(n + 1), exported: true}
	s.vars["PWD"] = &variable{set: true, val: s.dir, exported: true}
	for _, n := range []string{"PPID", "UID", "EUID"} {
		s.vars[n].readonly = true
		s.vars[n].integer = true
	}
}

func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || i > 0 && '0' <= c && c <= '9') {
			return false
		}
	}
	return s != ""
}
