package sh

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/applets"
	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
	"mvdan.cc/sh/v3/syntax"
)

// builtinFunc runs a builtin and returns its status.
type builtinFunc func(s *Shell, args []string) int

// builtin finds a builtin by name. A switch rather than a map: nothing is
// built when the program starts.
func builtin(name string) builtinFunc {
	switch name {
	case ":", "true":
		return func(*Shell, []string) int { return 0 }
	case "false":
		return func(*Shell, []string) int { return 1 }
	case "echo", "printf", "test", "[":
		return appletBuiltin
	case "pwd":
		return pwdBuiltin
	case "cd", "chdir":
		return cdBuiltin
	case "exit":
		return exitBuiltin
	case "return":
		return returnBuiltin
	case "break", "continue":
		return breakBuiltin
	case "shift":
		return shiftBuiltin
	case "set":
		return setBuiltin
	case "unset":
		return unsetBuiltin
	case "eval":
		return evalBuiltin
	case ".", "source":
		return dotBuiltin
	case "command":
		return commandBuiltin
	case "builtin":
		return builtinBuiltin
	case "type":
		return typeBuiltin
	case "read":
		return readBuiltin
	case "mapfile", "readarray":
		return mapfileBuiltin
	case "getopts":
		return getoptsBuiltin
	case "trap":
		return trapBuiltin
	case "wait":
		return waitBuiltin
	case "jobs":
		return jobsBuiltin
	case "fg", "bg":
		return fgBuiltin
	case "disown":
		return disownBuiltin
	case "kill":
		return killBuiltin
	case "umask":
		return umaskBuiltin
	case "ulimit":
		return ulimitBuiltin
	case "alias":
		return aliasBuiltin
	case "unalias":
		return unaliasBuiltin
	case "hash":
		return hashBuiltin
	case "times":
		return func(s *Shell, _ []string) int {
			fmt.Fprint(s.writer(1), "0m0.000s 0m0.000s\n0m0.000s 0m0.000s\n")
			return 0
		}
	case "shopt":
		return shoptBuiltin
	case "let":
		return letBuiltin
	case "export", "readonly", "declare", "typeset", "local":
		return declBuiltin
	case "dirs", "pushd", "popd":
		return dirsBuiltin
	case "caller":
		return callerBuiltin
	case "exec":
		return func(s *Shell, args []string) int { return 0 }
	case "enable", "bind", "complete", "compgen", "history", "suspend", "logout":
		return func(*Shell, []string) int { return 0 }
	}
	return nil
}

// specialBuiltin are those of POSIX whose assignments last and whose errors end sh.
var specialBuiltin = map[string]bool{":": true, ".": true, "break": true, "continue": true, "eval": true, "exec": true, "exit": true,
	"export": true, "readonly": true, "return": true, "set": true, "shift": true, "times": true, "trap": true, "unset": true}

var keywords = []string{"!", "[[", "]]", "case", "do", "done", "elif", "else", "esac", "fi", "for", "function", "if", "in", "select", "then", "time", "until", "while", "{", "}"}

// appletBuiltin runs echo, printf and test, which are also programs.
func appletBuiltin(s *Shell, args []string) int {
	if args[0] == "printf" && len(args) > 2 && args[1] == "-v" {
		var b strings.Builder
		st := applets.Run(&applets.Call{Args: append([]string{"printf"}, args[3:]...), Stdout: &b, Stderr: s.stderr(), Prefix: s.where() + ": ", Quote: quoteIfNeeded})
		if a := s.parseAssign(args[2]); a != nil && a.Index != nil {
			if err := s.setElement(a.Name.Value, a.Index, b.String(), false); err != nil {
				s.errorf("printf: %v", err)
				return 1
			}
			return st
		}
		if !validName(args[2]) {
			s.errorf("printf: `%s': not a valid identifier", args[2])
			return 2
		}
		if err := s.setString(args[2], b.String()); err != nil {
			s.errorf("%v", err)
			return 1
		}
		return st
	}
	out := s.writer(1)
	if args[0] == "echo" && s.shopt["xpg_echo"] {
		args = append([]string{"echo", "-e"}, args[1:]...)
	}
	if (args[0] == "test" || args[0] == "[") && len(args) >= 3 && (args[1] == "-v" || args[1] == "-o" && len(args) <= 4 || args[1] == "-R") {
		rest := args[2]
		switch args[1] {
		case "-v":
			return int(truth(!s.isSet(rest)))
		case "-o":
			return int(truth(!s.optionOn(rest)))
		}
	}
	if t := len(args) > 2 && (args[0] == "test" || args[0] == "[") && args[1] == "-t"; t {
		return 1
	}
	return applets.Run(&applets.Call{Args: args, Env: nil, Dir: s.dir, Stdout: out, Stderr: s.stderr(), Prefix: s.where() + ": ", Quote: quoteIfNeeded})
}

// isSet is test -v: name or name[subscript].
func (s *Shell) isSet(name string) bool {
	base, idx, elem := strings.Cut(name, "[")
	v := s.lookup(base)
	if n, err := strconv.Atoi(name); err == nil {
		return n <= len(s.params)
	}
	if v == nil {
		return false
	}
	if !elem {
		_, ok := v.str()
		return ok
	}
	idx = strings.TrimSuffix(idx, "]")
	if idx == "@" || idx == "*" {
		return len(v.elements()) > 0
	}
	if v.kind == assoc {
		_, ok := v.dict[idx]
		return ok
	}
	i := int(s.evalText(idx, 0))
	if i < 0 {
		i += v.top()
	}
	_, ok := v.at(i)
	return ok
}

func pwdBuiltin(s *Shell, args []string) int {
	dir := s.dir
	for _, a := range args[1:] {
		if a == "-P" {
			if d, err := filepath.EvalSymlinks(dir); err == nil {
				dir = d
			}
		}
	}
	return s.print(dir+"\n", "pwd")
}

// print writes a builtin's output and reports a failure.
func (s *Shell) print(text, name string) int {
	switch _, err := io.WriteString(s.writer(1), text); {
	case errors.Is(err, syscall.EPIPE):
		return 128 + 13 // which it ends with
	case err != nil:
		s.errorf("%s: write error: %s", name, applets.Strerror(err))
		return 1
	}
	return 0
}

func cdBuiltin(s *Shell, args []string) int {
	physical := s.opt['P']
	rest, err := getopts(args[1:], "LPe@", func(c byte, _ string) error { physical = c == 'P'; return nil })
	if err != nil && !(len(args) > 1 && args[1] == "-") {
		s.errorf("cd: %v", err)
		return 2
	}
	if len(args) > 1 && args[1] == "-" {
		rest = args[1:]
	}
	if len(rest) > 1 {
		s.errorf("cd: too many arguments")
		return 1
	}
	dir, show := "", false
	switch {
	case len(rest) == 0:
		if dir = s.get("HOME"); dir == "" {
			s.errorf("cd: HOME not set")
			return 1
		}
	case rest[0] == "-":
		if dir = s.get("OLDPWD"); dir == "" {
			s.errorf("cd: OLDPWD not set")
			return 1
		}
		show = true
	default:
		dir = rest[0]
	}
	target := s.path(dir)
	if dir == "" {
		return 0
	}
	if !filepath.IsAbs(dir) && !strings.HasPrefix(dir, "./") && !strings.HasPrefix(dir, "../") && dir != "." && dir != ".." {
		for _, p := range filepath.SplitList(s.get("CDPATH")) {
			if i, err := sys.Stat(filepath.Join(s.path(cmp.Or(p, ".")), dir)); err == nil && i.IsDir() {
				target = filepath.Join(s.path(cmp.Or(p, ".")), dir)
				show = show || p != ""
				break
			}
		}
	}
	if code := s.chdir(target, dir, physical); code != 0 {
		return code
	}
	if show {
		return s.print(s.dir+"\n", "cd")
	}
	return 0
}

func (s *Shell) chdir(target, shown string, physical bool) int {
	i, err := sys.Stat(target)
	switch {
	case err != nil:
		s.errorf("cd: %s: %s", shown, applets.Strerror(err))
		return 1
	case !i.IsDir():
		s.errorf("cd: %s: Not a directory", shown)
		return 1
	}
	target = filepath.Clean(target)
	if physical {
		if d, err := filepath.EvalSymlinks(target); err == nil {
			target = d
		}
	}
	old := s.dir
	s.dir = target
	s.setString("OLDPWD", old)
	s.setString("PWD", target)
	return 0
}

func exitBuiltin(s *Shell, args []string) int {
	st := s.status
	if s.inTrap {
		st = s.trapStatus
	}
	if len(args) > 1 {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			s.errorf("exit: %s: numeric argument required", args[1])
			n = 2
		} else if len(args) > 2 {
			s.errorf("exit: too many arguments")
			return 1
		}
		st = n & 255
	}
	s.ctl = ctlExit
	return st
}

func returnBuiltin(s *Shell, args []string) int {
	if len(s.callers) == 0 && s.sourceName == "" {
		s.errorf("return: can only `return' from a function or sourced script")
		return 1
	}
	st := s.status
	if s.inTrap && len(s.callers) == s.trapCallers {
		st = s.trapStatus
	}
	if len(args) > 1 {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			s.errorf("return: %s: numeric argument required", args[1])
			n = 2
		}
		st = n & 255
	}
	s.ctl = ctlReturn
	return st
}

func breakBuiltin(s *Shell, args []string) int {
	n := 1
	if len(args) > 1 {
		var err error
		if n, err = strconv.Atoi(args[1]); err != nil || n < 1 {
			if err != nil {
				s.errorf("%s: %s: numeric argument required", args[0], args[1])
				s.ctl = ctlExit
				return 128
			}
			s.errorf("%s: %s: loop count out of range", args[0], args[1])
			n = 1 << 20
		}
	}
	if s.loops == 0 {
		s.errorf("%s: only meaningful in a `for', `while', or `until' loop", args[0])
		return 0
	}
	s.ctl, s.ctlN = ctlBreak, min(n, s.loops)
	if args[0] == "continue" {
		s.ctl = ctlContinue
	}
	return 0
}

func shiftBuiltin(s *Shell, args []string) int {
	n := 1
	if len(args) > 1 {
		var err error
		if n, err = strconv.Atoi(args[1]); err != nil {
			s.errorf("shift: %s: numeric argument required", args[1])
			return 1
		}
	}
	if n < 0 {
		s.errorf("shift: %d: shift count out of range", n)
		return 1
	}
	if n > len(s.params) {
		return 1
	}
	s.params = s.params[n:]
	return 0
}

// longOptions are the names of set -o by their letter. Those of bash that have
// no letter get one below ' '.
var longOptions = []struct {
	letter byte
	name   string
}{{'a', "allexport"}, {'B', "braceexpand"}, {'e', "errexit"}, {'E', "errtrace"}, {'T', "functrace"}, {'h', "hashall"}, {'H', "histexpand"},
	{'k', "keyword"}, {'m', "monitor"}, {'C', "noclobber"}, {'n', "noexec"}, {'f', "noglob"}, {'b', "notify"}, {'u', "nounset"},
	{'P', "physical"}, {'o', "pipefail"}, {2, "posix"}, {'p', "privileged"}, {'v', "verbose"}, {3, "vi"}, {4, "emacs"}, {5, "ignoreeof"}, {'x', "xtrace"}}

func (s *Shell) optionOn(name string) bool {
	for _, o := range longOptions {
		if o.name == name {
			return s.opt[o.letter]
		}
	}
	return false
}

func (s *Shell) setLong(name string, on bool) bool {
	for _, o := range longOptions {
		if o.name == name {
			s.opt[o.letter] = on
			return true
		}
	}
	return false
}

// setOptions parses -eu -o pipefail +x and so on. It returns what follows, and
// whether that replaces the parameters.
func (s *Shell) setOptions(args []string, cmd string) (rest []string, replace bool, status int) {
	for len(args) > 0 {
		a := args[0]
		if a == "--" {
			return args[1:], true, 0
		}
		if a == "-" && cmd == "set" {
			s.opt['x'], s.opt['v'] = false, false
			return args[1:], len(args) > 1, 0
		}
		if len(a) < 2 || a[0] != '-' && a[0] != '+' {
			return args, true, 0
		}
		args = args[1:]
		on := a[0] == '-'
		for _, c := range []byte(a[1:]) {
			if c == 'o' {
				if len(args) == 0 {
					s.listOptions(on)
					continue
				}
				if !s.setLong(args[0], on) {
					s.errorf("%s: %s: invalid option name", cmd, args[0])
					return nil, false, 2
				}
				args = args[1:]
				continue
			}
			if strings.IndexByte("aBeETfhHkmnpuvxCbPil", c) < 0 {
				s.errorf("%s: %c%c: invalid option", cmd, a[0], c)
				return nil, false, 2
			}
			s.opt[c] = on
			s.noBrace = !s.opt['B']
		}
	}
	return nil, false, 0
}

func (s *Shell) listOptions(table bool) {
	l := slices.Clone(longOptions)
	slices.SortFunc(l, func(a, b struct {
		letter byte
		name   string
	}) int {
		return strings.Compare(a.name, b.name)
	})
	for _, o := range l {
		on := s.opt[o.letter]
		if table {
			fmt.Fprintf(s.writer(1), "%-15s\t%s\n", o.name, map[bool]string{true: "on", false: "off"}[on])
		} else {
			fmt.Fprintf(s.writer(1), "set %so %s\n", map[bool]string{true: "-", false: "+"}[on], o.name)
		}
	}
}

func setBuiltin(s *Shell, args []string) int {
	if len(args) == 1 {
		for _, n := range s.names() {
			s.printSet(n, s.vars[n])
		}
		if s.bash {
			s.listFunctions(false)
		}
		return 0
	}
	rest, replace, st := s.setOptions(args[1:], "set")
	if replace {
		s.params = slices.Clone(rest)
	}
	return st
}

func (s *Shell) flagString() string {
	var b strings.Builder
	for _, c := range []byte("abefhkmnpuvxBCEHPT") {
		if s.opt[c] {
			b.WriteByte(c)
		}
	}
	if s.opt['c'] {
		b.WriteByte('c')
	}
	if s.opt['s'] {
		b.WriteByte('s')
	}
	return b.String()
}

func unsetBuiltin(s *Shell, args []string) int {
	funcs, vars, refs := false, false, false
	rest, err := getopts(args[1:], "fvn", func(c byte, _ string) error {
		switch c {
		case 'f':
			funcs = true
		case 'v':
			vars = true
		case 'n':
			refs = true
		}
		return nil
	})
	if err != nil {
		s.errorf("unset: %v", err)
		return 2
	}
	status := 0
	for _, n := range rest {
		base, idx, elem := strings.Cut(n, "[")
		switch {
		case funcs:
			delete(s.funcs, n)
		case !validName(base):
			if !vars && s.funcs[n] != nil {
				delete(s.funcs, n)
				continue
			}
			s.errorf("unset: `%s': not a valid identifier", n)
			status = 1
		case elem:
			s.unsetElement(base, strings.TrimSuffix(idx, "]"))
		case refs:
			delete(s.vars, n)
		case s.vars[n] == nil && !vars:
			delete(s.funcs, n)
		default:
			if err := s.unset(n); err != nil {
				s.errorf("%v", err)
				status = 1
			}
		}
	}
	return status
}

func (s *Shell) unsetElement(name, idx string) {
	if s.lookup(name) == nil {
		return
	}
	v := s.modify(name)
	if v.kind == assoc {
		delete(v.dict, unescapePattern(strings.Trim(idx, `"'`)))
		return
	}
	if idx == "@" || idx == "*" {
		v.keys, v.vals = nil, nil
		return
	}
	i := int(s.evalText(idx, 0))
	if i < 0 {
		i += v.top()
	}
	if p, ok := slices.BinarySearch(v.keys, i); ok {
		v.keys, v.vals = slices.Delete(v.keys, p, p+1), slices.Delete(v.vals, p, p+1)
	}
}

func evalBuiltin(s *Shell, args []string) int {
	args = args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	text := strings.Join(args, " ")
	if strings.TrimSpace(text) == "" {
		return 0
	}
	line := s.line
	s.status = 0
	s.evalScript(text)
	s.line = line
	return s.status
}

// evalScript runs text in this shell; an abort unwinds beyond it.
func (s *Shell) evalScript(text string) {
	err := s.stmts(strings.NewReader(text), s.name, func(st *syntax.Stmt) bool {
		s.stmt(st)
		return s.ctl == ctlNone
	})
	if err != nil && s.ctl == ctlNone {
		s.syntaxError(err, s.name+": eval")
		if s.bash {
			s.ctl = ctlNone
			s.status = 2
			if s.depth == 0 && len(s.callers) == 0 {
				s.status = 1
			}
		}
	}
}

func dotBuiltin(s *Shell, args []string) int {
	name := args[0]
	args = args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		s.errorf("%s: filename argument required", name)
		return 2
	}
	file := args[0]
	var f *os.File
	var err error
	if !strings.Contains(file, "/") {
		for _, d := range filepath.SplitList(s.get("PATH")) {
			if i, e := sys.Stat(s.path(cmp.Or(d, ".")) + "/" + file); e == nil && i.IsRegular() {
				file = s.path(cmp.Or(d, ".")) + "/" + file
				break
			}
		}
	}
	f, err = s.open(file, os.O_RDONLY)
	if err == nil {
		if i, e := sys.Fstat(f); e == nil && i.IsDir() {
			f.Close()
			s.errorf("%s: %s: is a directory", name, args[0])
			return 1
		}
	}
	if err != nil {
		s.cannotOpen(file, 0, err)
		if !s.bash {
			s.ctl = ctlExit
			return 2
		}
		return 1
	}
	defer f.Close()
	source, params, line, loops := s.sourceName, s.params, s.line, s.loops
	s.sourceName = args[0]
	if len(args) > 1 {
		s.params = args[1:]
	}
	defer func() {
		if len(args) > 1 {
			s.params = params
		}
		s.sourceName, s.line, s.loops = source, line, loops
	}()
	s.status = 0
	err = s.stmts(f, args[0], func(st *syntax.Stmt) bool {
		s.stmt(st)
		return s.ctl == ctlNone
	})
	if err != nil && s.ctl == ctlNone {
		s.syntaxError(err, args[0])
	}
	if s.ctl == ctlReturn {
		s.ctl = ctlNone
	}
	return s.status
}

func commandBuiltin(s *Shell, args []string) int {
	describe, verbose, defaultPath := false, false, false
	rest, err := getopts(args[1:], "pvV", func(c byte, _ string) error {
		switch c {
		case 'v':
			describe = true
		case 'V':
			describe, verbose = true, true
		case 'p':
			defaultPath = true
		}
		return nil
	})
	if err != nil {
		s.errorf("command: %v", err)
		return 2
	}
	if len(rest) == 0 {
		return 0
	}
	if describe {
		status := 1
		for _, n := range rest {
			if s.describe(n, verbose, "command") {
				status = 0
			}
		}
		return status
	}
	if rest[0] == "exec" {
		s.execBuiltin(&syntax.Stmt{}, &syntax.CallExpr{}, rest)
		return s.status
	}
	if defaultPath {
		old := s.vars["PATH"]
		s.vars["PATH"], s.hash = &variable{set: true, exported: true, val: "/usr/local/bin:/usr/bin:/bin"}, nil
		defer func() { s.vars["PATH"], s.hash = old, nil }()
	}
	bash := s.bash
	s.callNoFunc(rest)
	s.bash = bash
	return s.status
}

func builtinBuiltin(s *Shell, args []string) int {
	if len(args) == 1 {
		return 0
	}
	b := builtin(args[1])
	if b == nil {
		s.errorf("builtin: %s: not a shell builtin", args[1])
		return 1
	}
	return b(s, args[1:])
}

// describe prints what a name is; false if it is nothing.
func (s *Shell) describe(name string, verbose bool, cmd string) bool {
	out := s.writer(1)
	say := func(short, long string) bool {
		if verbose {
			fmt.Fprintln(out, long)
		} else {
			fmt.Fprintln(out, short)
		}
		return true
	}
	if text, ok := s.aliases[name]; ok {
		return say("alias "+name+"="+squote(text), name+" is aliased to `"+text+"'")
	}
	switch {
	case slices.Contains(keywords, name):
		return say(name, name+" is a shell keyword")
	case s.funcs[name] != nil:
		return say(name, name+" is a function\n"+s.funcs[name].source)
	case builtin(name) != nil:
		kind := " is a shell builtin"
		if specialBuiltin[name] && !s.bash {
			kind = " is a special shell builtin"
		}
		return say(name, name+kind)
	}
	if f, err := s.find(name); err == nil {
		if i, err := sys.Stat(s.path(f.path)); err == nil && (!i.IsDir() && i.StMode&0111 != 0) {
			p := f.path
			if strings.Contains(name, "/") {
				p = name
			}
			return say(p, name+" is "+p)
		}
	}
	if verbose {
		s.errorf("%s: %s: not found", cmd, name)
	}
	return false
}

func typeBuiltin(s *Shell, args []string) int {
	var word, path bool
	rest, err := getopts(args[1:], "tpaPf", func(c byte, _ string) error {
		switch c {
		case 't':
			word = true
		case 'p', 'P':
			path = true
		}
		return nil
	})
	if err != nil {
		s.errorf("type: %v", err)
		return 2
	}
	status := 0
	for _, n := range rest {
		switch {
		case word:
			kind := s.kindOf(n)
			if kind == "" {
				status = 1
				continue
			}
			fmt.Fprintln(s.writer(1), kind)
		case path:
			if k := s.kindOf(n); k == "file" {
				f, _ := s.find(n)
				fmt.Fprintln(s.writer(1), f.path)
			} else if k == "" {
				status = 1
			}
		default:
			if !s.describe(n, true, "type") {
				status = 1
			}
		}
	}
	return status
}

func (s *Shell) kindOf(name string) string {
	switch {
	case s.aliases[name] != "":
		return "alias"
	case slices.Contains(keywords, name):
		return "keyword"
	case s.funcs[name] != nil:
		return "function"
	case builtin(name) != nil:
		return "builtin"
	}
	if f, err := s.find(name); err == nil {
		if _, err := sys.Stat(s.path(f.path)); err == nil {
			return "file"
		}
	}
	return ""
}

func getoptsBuiltin(s *Shell, args []string) int {
	if len(args) < 3 {
		s.errorf("getopts: usage: getopts optstring name [arg ...]")
		return 2
	}
	spec, name := args[1], args[2]
	params := s.params
	if len(args) > 3 {
		params = args[3:]
	}
	silent := strings.HasPrefix(spec, ":")
	ind, err := strconv.Atoi(s.get("OPTIND"))
	if err != nil || ind < 1 {
		ind = 1
	}
	pos := s.optpos
	finish := func(status int) int {
		s.setString("OPTIND", strconv.Itoa(ind))
		s.optpos = pos // after setString, which resets it
		return status
	}
	if pos == 0 {
		if ind > len(params) || len(params[ind-1]) < 2 || params[ind-1][0] != '-' || params[ind-1] == "--" {
			if ind <= len(params) && params[ind-1] == "--" {
				ind++
			}
			s.setString(name, "?")
			s.unset("OPTARG")
			return finish(1)
		}
		pos = 1
	}
	arg := params[ind-1]
	if pos >= len(arg) { // the parameters changed meanwhile
		s.setString(name, "?")
		pos = 0
		return finish(1)
	}
	c := arg[pos]
	pos++
	next := func() {
		ind++
		pos = 0
	}
	at := strings.IndexByte(spec, c)
	bad := func(ch, val, msg string) int {
		if silent {
			s.setString("OPTARG", val)
		} else {
			s.unset("OPTARG")
			if s.ash {
				fmt.Fprintf(s.stderr(), "%s -%s\n", strings.Replace(msg, "illegal", "Illegal", 1), string(c))
			} else {
				fmt.Fprintf(s.stderr(), "%s: %s -- %s\n", s.name, msg, string(c))
			}
		}
		s.setString(name, ch)
		return finish(0)
	}
	if at < 0 || c == ':' {
		if pos == len(arg) {
			next()
		}
		return bad("?", string(c), "illegal option")
	}
	if at+1 < len(spec) && spec[at+1] == ':' {
		val := arg[pos:]
		next()
		if val == "" {
			if ind > len(params) {
				if silent {
					return bad(":", string(c), "")
				}
				return bad("?", "", "option requires an argument")
			}
			val = params[ind-1]
			ind++
		}
		s.setString("OPTARG", val)
	} else {
		s.unset("OPTARG")
		if pos == len(arg) {
			next()
		}
	}
	s.setString(name, string(c))
	return finish(0)
}

func umaskBuiltin(s *Shell, args []string) int {
	symbolic, reuse := false, false
	rest, err := getopts(args[1:], "Sp", func(c byte, _ string) error {
		symbolic = symbolic || c == 'S'
		reuse = reuse || c == 'p'
		return nil
	})
	if err != nil && len(args) > 1 {
		rest = args[1:]
	}
	if len(rest) == 0 {
		text := fmt.Sprintf("%04o", s.mask)
		if symbolic {
			perm := func(bits int) string {
				str := ""
				for i, c := range "rwx" {
					if bits&(4>>i) != 0 {
						str += string(c)
					}
				}
				return str
			}
			m := 0o777 &^ s.mask
			text = "u=" + perm(m>>6) + ",g=" + perm(m>>3&7) + ",o=" + perm(m&7)
		}
		if reuse {
			text = "umask " + text
		}
		return s.print(text+"\n", "umask")
	}
	if n, err := strconv.ParseUint(rest[0], 8, 32); err == nil && n <= 0o777 {
		s.mask = int(n)
		return 0
	}
	m, err := applets.ParseMode(rest[0], uint32(0o777&^s.mask), false, 0)
	if err != nil || rest[0][0] >= '0' && rest[0][0] <= '9' {
		if rest[0][0] >= '0' && rest[0][0] <= '9' {
			s.errorf("umask: %s: octal number out of range", rest[0])
		} else {
			s.errorf("umask: `%s': invalid symbolic mode operator", rest[0])
		}
		return 1
	}
	s.mask = int(0o777 &^ m)
	return 0
}

// ulimit shows that there are no limits but the sandbox's own.
func ulimitBuiltin(s *Shell, args []string) int {
	all, set := false, false
	for _, a := range args[1:] {
		if strings.HasPrefix(a, "-") {
			all = all || strings.Contains(a, "a")
		} else {
			set = true
		}
	}
	if set {
		return 0
	}
	if all {
		return s.print("open files                          (-n) 256\nmax user processes                  (-u) 64\n", "ulimit")
	}
	val := "unlimited"
	if len(args) > 1 && strings.Contains(args[1], "n") {
		val = "256"
	}
	if len(args) > 1 && strings.Contains(args[1], "u") {
		val = "64"
	}
	return s.print(val+"\n", "ulimit")
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func aliasBuiltin(s *Shell, args []string) int {
	args = args[1:]
	if len(args) > 0 && args[0] == "-p" {
		args = args[1:]
	}
	show := func(n string) {
		if s.bash {
			fmt.Fprintf(s.writer(1), "alias %s=%s\n", n, squote(s.aliases[n]))
		} else {
			fmt.Fprintf(s.writer(1), "%s=%s\n", n, squote(s.aliases[n]))
		}
	}
	if len(args) == 0 {
		for _, n := range sortedKeys(s.aliases) {
			show(n)
		}
		return 0
	}
	status := 0
	for _, a := range args {
		n, text, ok := strings.Cut(a, "=")
		if ok {
			s.aliases[n] = text
		} else if _, ok := s.aliases[n]; ok {
			show(n)
		} else {
			s.errorf("alias: %s: not found", n)
			status = 1
		}
	}
	return status
}

func unaliasBuiltin(s *Shell, args []string) int {
	status := 0
	for _, a := range args[1:] {
		if a == "-a" {
			clear(s.aliases)
		} else if _, ok := s.aliases[a]; ok {
			delete(s.aliases, a)
		} else {
			s.errorf("unalias: %s: not found", a)
			status = 1
		}
	}
	return status
}

func hashBuiltin(s *Shell, args []string) int {
	if len(args) == 1 {
		if len(s.hash) == 0 {
			return s.print("hash: hash table empty\n", "hash")
		}
		fmt.Fprintln(s.writer(1), "hits\tcommand")
		for _, n := range sortedKeys(s.hash) {
			fmt.Fprintf(s.writer(1), "%4d\t%s\n", 1, s.hash[n].path)
		}
		return 0
	}
	status := 0
	for _, a := range args[1:] {
		if a == "-r" {
			s.hash = nil
		} else if _, err := s.find(a); err != nil && builtin(a) == nil {
			s.errorf("hash: %s: not found", a)
			status = 1
		}
	}
	return status
}

var shoptNames = []string{"autocd", "checkwinsize", "dotglob", "execfail", "expand_aliases", "extglob", "failglob", "globstar", "huponexit",
	"inherit_errexit", "lastpipe", "nocaseglob", "nocasematch", "nullglob", "patsub_replacement", "sourcepath", "xpg_echo", "cmdhist", "histappend",
	"globasciiranges", "compat44", "extdebug", "localvar_inherit", "login_shell", "progcomp", "promptvars", "interactive_comments"}

func shoptBuiltin(s *Shell, args []string) int {
	var on, off, quiet, long, print bool
	rest, err := getopts(args[1:], "suqop", func(c byte, _ string) error {
		switch c {
		case 's':
			on = true
		case 'u':
			off = true
		case 'q':
			quiet = true
		case 'o':
			long = true
		case 'p':
			print = true
		}
		return nil
	})
	if err != nil {
		s.errorf("shopt: %v", err)
		return 2
	}
	if len(rest) == 0 {
		rest = slices.Sorted(slices.Values(shoptNames))
	}
	status := 0
	for _, n := range rest {
		known := slices.Contains(shoptNames, n)
		val := s.shopt[n]
		if long {
			known, val = false, s.optionOn(n)
			for _, o := range longOptions {
				known = known || o.name == n
			}
		}
		switch {
		case !known:
			s.errorf("shopt: %s: invalid shell option name", n)
			status = 1
		case (on || off) && long:
			s.setLong(n, on)
		case on || off:
			s.shopt[n] = on
		default:
			if !val {
				status = 1
			}
			if print {
				fmt.Fprintf(s.writer(1), "shopt %s %s\n", map[bool]string{true: "-s", false: "-u"}[val], n)
			} else if !quiet {
				fmt.Fprintf(s.writer(1), "%-15s\t%s\n", n, map[bool]string{true: "on", false: "off"}[val])
			}
		}
	}
	return status
}

func letBuiltin(s *Shell, args []string) int {
	if len(args) == 1 {
		s.errorf("let: expression expected")
		return 1
	}
	st := 0
	for _, a := range args[1:] {
		st = int(truth(s.evalText(a, 0) == 0))
	}
	return st
}

// declBuiltin handles declare and its like when the parser saw no keyword,
// as in \export x=1 or command export x=1.
func declBuiltin(s *Shell, args []string) int {
	c := &syntax.DeclClause{Variant: &syntax.Lit{Value: args[0]}}
	for _, a := range args[1:] {
		c.Args = append(c.Args, &syntax.Assign{Naked: true, Value: &syntax.Word{Parts: []syntax.WordPart{&syntax.SglQuoted{Value: a}}}})
	}
	x := s.opt['x']
	s.opt['x'] = false
	s.declClause(c)
	s.opt['x'] = x
	return s.status
}

func dirsBuiltin(s *Shell, args []string) int {
	show := func() int {
		l := append([]string{s.dir}, s.dirstack...)
		home := s.get("HOME")
		for i, d := range l {
			if home != "" && (d == home || strings.HasPrefix(d, home+"/")) {
				l[i] = "~" + d[len(home):]
			}
		}
		sep := " "
		if len(args) > 1 && (args[1] == "-p" || args[1] == "-v") {
			sep = "\n"
		}
		return s.print(strings.Join(l, sep)+"\n", args[0])
	}
	switch args[0] {
	case "pushd":
		if len(args) == 1 || strings.HasPrefix(args[1], "+") {
			n := 1
			if len(args) > 1 {
				n, _ = strconv.Atoi(args[1][1:])
			}
			l := append([]string{s.dir}, s.dirstack...)
			if len(l) < 2 || n >= len(l) {
				s.errorf("pushd: no other directory")
				return 1
			}
			l = append(slices.Clone(l[n:]), l[:n]...)
			if st := s.chdir(l[0], l[0], false); st != 0 {
				return st
			}
			s.dirstack = l[1:]
			return show()
		}
		old := s.dir
		if st := s.chdir(s.path(args[1]), args[1], false); st != 0 {
			return st
		}
		s.dirstack = append([]string{old}, s.dirstack...)
	case "popd":
		if len(s.dirstack) == 0 {
			s.errorf("popd: directory stack empty")
			return 1
		}
		d := s.dirstack[0]
		if st := s.chdir(d, d, false); st != 0 {
			return st
		}
		s.dirstack = s.dirstack[1:]
	default:
		if len(args) > 1 && args[1] == "-c" {
			s.dirstack = nil
			return 0
		}
	}
	return show()
}

func callerBuiltin(s *Shell, args []string) int {
	n := 0
	if len(args) > 1 {
		n, _ = strconv.Atoi(args[1])
	}
	i := len(s.callers) - 1 - n
	if i < 0 {
		return 1
	}
	from := "main"
	if i > 0 {
		from = s.callers[i-1].name
	}
	if len(args) > 1 {
		return s.print(fmt.Sprintf("%d %s %s\n", s.callers[i].line, from, cmp.Or(s.callers[i].source, s.name)), "caller")
	}
	return s.print(fmt.Sprintf("%d %s\n", s.callers[i].line, cmp.Or(s.callers[i].source, "NULL")), "caller")
}
