package applets

import (
	"bufio"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/glob"
	"github.com/kilntainers/kilntainers/backends/wasm/guest/regex"
	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

// fnmatch is the pattern matching of find -name, grep --include and tar.
func fnmatch(p, s string) bool { return glob.Matcher{}.Match(p, s) }

// found is a file that find looks at.
type found struct {
	path  string
	start string // the command line argument it was reached from
	depth int
	info  *sys.Info
	f     *finder
}

// test is one node of find's expression.
type findTest func(*found) bool

type finder struct {
	c                  *Ctx
	args               []string
	i                  int
	follow             byte // P H L
	minDepth, maxDepth int
	depthFirst, oneFS  bool
	prune, quit        bool
	acts               bool // the expression prints or does something itself
	batches            []*batch
	files              map[string]*bufio.Writer
	now                time.Time
	regexSyntax        regex.Syntax
	dayStart           bool
}

// batch is -exec … {} +.
type batch struct {
	f     *finder
	cmd   []string
	dir   string
	inDir bool
	args  []string
	size  int
}

func findTool(c *Ctx) {
	f := &finder{c: c, args: c.args, follow: 'P', maxDepth: -1, now: time.Now(), files: map[string]*bufio.Writer{}, regexSyntax: regex.Basic}
	for len(f.args) > 0 && len(f.args[0]) == 2 && strings.Contains("-P-H-L", f.args[0]) {
		f.follow = f.args[0][1]
		f.args = f.args[1:]
	}
	var starts []string
	for len(f.args) > 0 && !f.isExpr(f.args[0]) {
		starts = append(starts, f.args[0])
		f.args = f.args[1:]
	}
	if len(starts) == 0 {
		starts = []string{"."}
	}
	test := func(*found) bool { return true }
	if len(f.args) > 0 {
		t := f.or()
		if f.i < len(f.args) {
			if f.args[f.i] == ")" {
				c.die("you have too many ')'")
			}
			c.die("paths must precede expression: `%s'", f.args[f.i])
		}
		test = t
	}
	if !f.acts {
		expr := test
		test = func(e *found) bool {
			if expr(e) {
				c.print(e.path + "\n")
			}
			return true
		}
	}
	for _, s := range starts {
		if f.quit {
			break
		}
		f.walk(&found{path: s, start: s, f: f}, test, 0)
	}
	for _, b := range f.batches {
		b.flush()
	}
	for _, w := range f.files {
		w.Flush()
	}
}

func (f *finder) isExpr(a string) bool {
	return len(a) > 1 && a[0] == '-' || a == "(" || a == ")" || a == "!" || a == ","
}

func (f *finder) walk(e *found, test findTest, dev int64) {
	c := f.c
	follow := f.follow == 'L' || f.follow == 'H' && e.depth == 0
	var err error
	if follow {
		e.info, err = sys.Stat(e.path)
		if err != nil {
			e.info, err = sys.Lstat(e.path)
		}
	} else {
		e.info, err = sys.Lstat(e.path)
	}
	if err != nil {
		c.fail("%s: %s", shownName(e.path), Strerror(err))
		return
	}
	if e.depth == 0 {
		dev = e.info.Dev
	}
	f.prune = false
	if !f.depthFirst && e.depth >= f.minDepth {
		test(e)
	}
	if e.info.IsDir() && !f.prune && !f.quit && (f.maxDepth < 0 || e.depth < f.maxDepth) && !(f.oneFS && e.info.Dev != dev) {
		entries, close, err := openDir(e.path)
		if e.depth > 100 { // descriptors are few
			close()
		} else {
			defer close()
		}
		if err != nil {
			if _, e2 := sys.Lstat(e.path); e2 == nil || !f.acts {
				c.fail("%s: %s", shownName(e.path), Strerror(err))
			}
		}
		prefix := e.path
		if !strings.HasSuffix(prefix, "/") {
			prefix += "/"
		}
		for _, d := range entries {
			f.walk(&found{path: prefix + d.Name(), start: e.start, depth: e.depth + 1, f: f}, test, dev)
			if f.quit {
				return
			}
		}
	}
	if f.depthFirst && e.depth >= f.minDepth && !f.quit {
		test(e)
	}
	f.prune = false
}

func shownName(p string) string { return "‘" + p + "’" }

// The parser: or, and, not, primary.

func (f *finder) peek() string {
	if f.i < len(f.args) {
		return f.args[f.i]
	}
	return ""
}

func (f *finder) or() findTest {
	left := f.and()
	for f.i < len(f.args) {
		switch f.peek() {
		case "-o", "-or":
			op := f.peek()
			f.i++
			if f.i >= len(f.args) {
				f.c.die("expected an expression after '%s'", op)
			}
			a, b := left, f.and()
			left = func(e *found) bool { return a(e) || b(e) }
		case ",":
			f.i++
			a, b := left, f.and()
			left = func(e *found) bool { a(e); return b(e) }
		default:
			return left
		}
	}
	return left
}

func (f *finder) and() findTest {
	left := f.not()
	for f.i < len(f.args) {
		switch f.peek() {
		case "-o", "-or", ",", ")":
			return left
		case "-a", "-and":
			op := f.peek()
			f.i++
			if f.i >= len(f.args) {
				f.c.die("expected an expression after '%s'", op)
			}
		}
		a, b := left, f.not()
		left = func(e *found) bool { return a(e) && b(e) }
	}
	return left
}

func (f *finder) not() findTest {
	if a := f.peek(); a == "!" || a == "-not" {
		f.i++
		if f.i >= len(f.args) {
			f.c.die("expected an expression after '%s'", a)
		}
		t := f.not()
		return func(e *found) bool { return !t(e) }
	}
	return f.primary()
}

// value takes the argument of a test.
func (f *finder) value(name string) string {
	if f.i >= len(f.args) {
		f.c.die("missing argument to `%s'", name)
	}
	f.i++
	return f.args[f.i-1]
}

// number reads +5, -5 or 5.
func (f *finder) number(name, s string) func(int64) bool {
	t := s
	op := byte(0)
	if t != "" && (t[0] == '+' || t[0] == '-') {
		op, t = t[0], t[1:]
	}
	n, err := strconv.ParseInt(t, 10, 64)
	if err != nil {
		f.c.die("invalid argument `%s' to `%s'", s, name)
	}
	return func(v int64) bool {
		switch op {
		case '+':
			return v > n
		case '-':
			return v < n
		}
		return v == n
	}
}

func (f *finder) primary() findTest {
	c := f.c
	name := f.args[f.i]
	f.i++
	always := func(*found) bool { return true }
	matches := func(fold, whole bool) findTest {
		p := f.value(name)
		return func(e *found) bool {
			s := e.path
			if !whole {
				s = path.Base(strings.TrimRight(s, "/"))
				if e.path != "" && strings.Trim(e.path, "/") == "" {
					s = "/"
				}
			}
			return glob.Matcher{Fold: fold}.Match(p, s)
		}
	}
	age := func(field func(*sys.Info) int64, unit int64) findTest {
		s := f.value(name)
		cmp := f.number(name, s)
		now := f.now
		if f.dayStart {
			now = time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, time.Local).Add(24 * time.Hour)
		}
		return func(e *found) bool {
			d := now.UnixNano() - field(e.info)
			if unit == 60e9 && s != "" && s[0] != '+' && s[0] != '-' { // rounded up to whole minutes
				return cmp((d + unit - 1) / unit)
			}
			if unit == 60e9 {
				if s[0] == '-' {
					return cmp(d / unit)
				}
				return cmp((d - 1) / unit)
			}
			return cmp(d / unit)
		}
	}
	mtime := func(i *sys.Info) int64 { return i.Mtime }
	atime := func(i *sys.Info) int64 { return i.Atime }
	ctime := func(i *sys.Info) int64 { return i.Ctime }
	newer := func(field func(*sys.Info) int64, ref func(*sys.Info) int64) findTest {
		p := f.value(name)
		i, err := sys.Stat(p)
		if err != nil {
			c.die("%s: %s", shownName(p), Strerror(err))
		}
		return func(e *found) bool { return field(e.info) > ref(i) }
	}
	switch name {
	case "(":
		if f.peek() == ")" {
			c.die("invalid expression; empty parentheses are not allowed.")
		}
		t := f.or()
		if f.peek() != ")" {
			c.die("invalid expression; expected to find a ')' but didn't see one. Perhaps you need an extra predicate after '%s'", f.args[len(f.args)-1])
		}
		f.i++
		return t
	case ")":
		c.die("invalid expression; you have used a binary operator '%s' with nothing before it.", name)
	case "-a", "-and", "-o", "-or", ",":
		c.die("invalid expression; you have used a binary operator '%s' with nothing before it.", name)
	case "-true", "-noleaf", "-nowarn", "-warn", "-ignore_readdir_race", "-noignore_readdir_race", "-nouser_", "-mount_":
		return always
	case "-false":
		return func(*found) bool { return false }
	case "-daystart":
		f.dayStart = true
		return always
	case "-depth", "-d":
		f.depthFirst = true
		return always
	case "-mount", "-xdev":
		f.oneFS = true
		return always
	case "-follow":
		f.follow = 'L'
		return always
	case "-maxdepth", "-mindepth":
		s := f.value(name)
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			c.die("Expected a positive decimal integer argument to %s, but got %s", name, shownName(s))
		}
		if name == "-maxdepth" {
			f.maxDepth = n
		} else {
			f.minDepth = n
		}
		return always
	case "-regextype":
		switch s := f.value(name); s {
		case "posix-extended", "egrep", "posix-egrep", "gnu-awk", "awk", "posix-awk":
			f.regexSyntax = regex.Extended
		default:
			f.regexSyntax = regex.Basic
		}
		return always
	case "-name":
		return matches(false, false)
	case "-iname":
		return matches(true, false)
	case "-path", "-wholename":
		return matches(false, true)
	case "-ipath", "-iwholename":
		return matches(true, true)
	case "-lname", "-ilname":
		p := f.value(name)
		return func(e *found) bool {
			t, err := os.Readlink(e.path)
			return err == nil && glob.Matcher{Fold: name == "-ilname"}.Match(p, t)
		}
	case "-regex", "-iregex":
		p := f.value(name)
		var flags regex.Flags
		if name == "-iregex" {
			flags = regex.IgnoreCase
		}
		if f.regexSyntax == regex.Basic {
			p = emacsToBasic(p)
		}
		re := c.compile(p, f.regexSyntax, flags)
		return func(e *found) bool {
			m := re.Find([]byte(e.path))
			return m != nil && m[0] == 0 && m[1] == len(e.path)
		}
	case "-type", "-xtype":
		types := f.value(name)
		for _, t := range strings.Split(types, ",") {
			if len(t) != 1 || strings.IndexByte("bcdpfls", t[0]) < 0 {
				c.die("Unknown argument to %s: %s", name, types)
			}
		}
		return func(e *found) bool {
			i := e.info
			if name == "-xtype" {
				if t, err := sys.Stat(e.path); err == nil {
					i = t
				}
			}
			k := modeString(i.StMode)[0]
			if k == '-' {
				k = 'f'
			}
			return strings.IndexByte(types, k) >= 0
		}
	case "-size":
		return f.size(name)
	case "-empty":
		return func(e *found) bool {
			if e.info.IsDir() {
				l, err := os.ReadDir(e.path)
				return err == nil && len(l) == 0
			}
			return e.info.IsRegular() && e.info.Length == 0
		}
	case "-perm":
		return f.perm(name)
	case "-links":
		cmp := f.number(name, f.value(name))
		return func(e *found) bool { return cmp(e.info.Nlink) }
	case "-inum":
		cmp := f.number(name, f.value(name))
		return func(e *found) bool { return cmp(e.info.Ino) }
	case "-samefile":
		p := f.value(name)
		i, err := sys.Stat(p)
		if err != nil {
			c.die("%s: %s", shownName(p), Strerror(err))
		}
		return func(e *found) bool { return e.info.Same(i) }
	case "-user", "-uid":
		s := f.value(name)
		n, ok := lookupName("/etc/passwd", s)
		if !ok {
			c.die("%s is not the name of a known user", shownName(s))
		}
		return func(e *found) bool { return e.info.Uid == n }
	case "-group", "-gid":
		s := f.value(name)
		n, ok := lookupName("/etc/group", s)
		if !ok {
			c.die("%s is not the name of an existing group", shownName(s))
		}
		return func(e *found) bool { return e.info.Gid == n }
	case "-nouser":
		return func(e *found) bool { return lookupID("/etc/passwd", e.info.Uid) == strconv.Itoa(e.info.Uid) }
	case "-nogroup":
		return func(e *found) bool { return lookupID("/etc/group", e.info.Gid) == strconv.Itoa(e.info.Gid) }
	case "-readable", "-writable":
		return always
	case "-executable":
		return func(e *found) bool { return e.info.StMode&0111 != 0 }
	case "-mtime":
		return age(mtime, 86400e9)
	case "-atime":
		return age(atime, 86400e9)
	case "-ctime":
		return age(ctime, 86400e9)
	case "-mmin":
		return age(mtime, 60e9)
	case "-amin":
		return age(atime, 60e9)
	case "-cmin":
		return age(ctime, 60e9)
	case "-newer", "-newermm":
		return newer(mtime, mtime)
	case "-anewer":
		return newer(atime, mtime)
	case "-cnewer":
		return newer(ctime, mtime)
	case "-newermt", "-newerat", "-newerct":
		s := f.value(name)
		t, err := parseDate(s, f.now)
		if err != nil {
			c.die("I cannot figure out how to interpret %s as a date or time", shownName(s))
		}
		field := map[string]func(*sys.Info) int64{"-newermt": mtime, "-newerat": atime, "-newerct": ctime}[name]
		return func(e *found) bool { return field(e.info) > t.UnixNano() }
	case "-used":
		f.value(name)
		return always
	case "-prune":
		return func(e *found) bool { f.prune = true; return true }
	case "-quit":
		f.acts = true
		return func(*found) bool { f.quit = true; return true }
	case "-print":
		f.acts = true
		return func(e *found) bool { c.print(e.path + "\n"); return true }
	case "-print0":
		f.acts = true
		return func(e *found) bool { c.print(e.path + "\x00"); return true }
	case "-printf":
		f.acts = true
		p := f.parsePrintf(f.value(name))
		return func(e *found) bool { c.print(p(e)); return true }
	case "-fprint", "-fprint0", "-fprintf":
		f.acts = true
		w := f.output(f.value(name))
		p := func(e *found) string { return e.path + "\n" }
		switch name {
		case "-fprint0":
			p = func(e *found) string { return e.path + "\x00" }
		case "-fprintf":
			p = f.parsePrintf(f.value(name))
		}
		return func(e *found) bool { w.WriteString(p(e)); return true }
	case "-ls":
		f.acts = true
		return func(e *found) bool { f.list(e); return true }
	case "-delete":
		f.acts, f.depthFirst = true, true
		return func(e *found) bool {
			if e.path == "." {
				return true
			}
			var err error
			if e.info.IsDir() {
				err = removeDir(e.path)
			} else {
				err = os.Remove(e.path)
			}
			if err != nil {
				c.fail("cannot delete %s: %s", shownName(e.path), Strerror(err))
				return false
			}
			return true
		}
	case "-exec", "-execdir", "-ok", "-okdir":
		return f.exec(name)
	}
	if strings.HasPrefix(name, "-") {
		c.die("unknown predicate `%s'", name)
	}
	c.die("paths must precede expression: `%s'", name)
	return nil
}

// emacsToBasic: find's default syntax has + and ? as operators.
func emacsToBasic(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		switch {
		case p[i] == '\\' && i+1 < len(p):
			b.WriteByte('\\')
			i++
		case (p[i] == '+' || p[i] == '?') && i > 0:
			b.WriteByte('\\')
		case p[i] == '[':
			end := bracketEnd(p[i:], 0)
			b.WriteString(p[i : i+end-1])
			i += end - 1
		}
		b.WriteByte(p[i])
	}
	return b.String()
}

func (f *finder) output(name string) *bufio.Writer {
	switch name {
	case "/dev/stdout":
		return f.c.out
	case "/dev/stderr":
		return bufio.NewWriterSize(f.c.err, 1)
	}
	if f.files[name] == nil {
		file, err := os.Create(name)
		if err != nil {
			f.c.die("%s: %s", shownName(name), Strerror(err))
		}
		f.files[name] = bufio.NewWriter(file)
	}
	return f.files[name]
}

func (f *finder) size(name string) findTest {
	s := f.value(name)
	unit := int64(512)
	t := s
	if t != "" {
		if i := strings.IndexByte("bcwkMG", t[len(t)-1]); i >= 0 {
			unit = [...]int64{512, 1, 2, 1024, 1 << 20, 1 << 30}[i]
			t = t[:len(t)-1]
		} else if t[len(t)-1] > '9' {
			f.c.die("invalid -size type `%c'", t[len(t)-1])
		}
	}
	cmp := f.number(name, t)
	return func(e *found) bool { return cmp((e.info.Length + unit - 1) / unit) }
}

func (f *finder) perm(name string) findTest {
	s := f.value(name)
	op, t := byte(0), s
	if t != "" && (t[0] == '-' || t[0] == '/' || t[0] == '+' && len(t) > 1 && t[1] >= '0' && t[1] <= '9') {
		op, t = t[0], t[1:]
	}
	m, err := ParseMode(t, 0, false, 0)
	if err != nil {
		f.c.die("invalid mode %s", shownName(s))
	}
	return func(e *found) bool {
		p := e.info.Perm()
		switch op {
		case '-':
			return p&m == m
		case '/', '+':
			return m == 0 || p&m != 0
		}
		return p == m
	}
}

func (f *finder) exec(name string) findTest {
	c := f.c
	f.acts = true
	start := f.i
	for f.i < len(f.args) {
		a := f.args[f.i]
		if a == ";" || a == "+" && f.i > start && f.args[f.i-1] == "{}" {
			break
		}
		f.i++
	}
	if f.i >= len(f.args) {
		c.die("missing argument to `%s'", name)
	}
	cmd, end := f.args[start:f.i], f.args[f.i]
	f.i++
	if len(cmd) == 0 {
		c.die("missing argument to `%s'", name)
	}
	inDir := name == "-execdir" || name == "-okdir"
	if end == "+" {
		b := &batch{f: f, cmd: cmd[:len(cmd)-1], inDir: inDir}
		f.batches = append(f.batches, b)
		return func(e *found) bool { b.add(e); return true }
	}
	ask := name == "-ok" || name == "-okdir"
	return func(e *found) bool {
		p, dir := e.path, ""
		if inDir {
			dir, p = dirOf(e.path), "./"+path.Base(e.path)
		}
		args := make([]string, len(cmd))
		for i, a := range cmd {
			args[i] = strings.ReplaceAll(a, "{}", p)
		}
		if ask && !f.confirm(args) {
			return false
		}
		code, err := c.run(launch{args: args, dir: dir})
		if err != nil {
			c.warn("%s: %s", shownName(args[0]), Strerror(err))
			return false
		}
		return code == 0
	}
}

func (f *finder) confirm(args []string) bool {
	f.c.flush()
	fmt.Fprintf(f.c.err, "< %s ... %s > ? ", args[0], args[len(args)-1])
	var b [1]byte
	answer := byte(0)
	for {
		n, err := f.c.in.Read(b[:])
		if n == 1 && answer == 0 {
			answer = b[0]
		}
		if err != nil || b[0] == '\n' {
			return answer == 'y' || answer == 'Y'
		}
	}
}

func (b *batch) add(e *found) {
	p := e.path
	if b.inDir {
		dir := dirOf(e.path)
		if dir != b.dir {
			b.flush()
			b.dir = dir
		}
		p = "./" + path.Base(e.path)
	}
	if b.size+len(p) > 120<<10 {
		b.flush()
	}
	b.args = append(b.args, p)
	b.size += len(p) + 1
}

func (b *batch) flush() {
	if len(b.args) == 0 {
		return
	}
	args := append(append([]string{}, b.cmd...), b.args...)
	b.args, b.size = nil, 0
	code, err := b.f.c.run(launch{args: args, dir: b.dir})
	if err != nil {
		b.f.c.warn("%s: %s", shownName(args[0]), Strerror(err))
	}
	if code != 0 {
		b.f.c.code = 1
	}
}

// list is -ls.
func (f *finder) list(e *found) {
	i := e.info
	l := &lister{c: f.c, timeField: 'm'}
	name := e.path
	if i.IsLink() {
		t, _ := os.Readlink(e.path)
		name += " -> " + t
	}
	f.c.printf("%9d %6d %s %3d %-8s %-8s %8d %s %s\n", i.Ino, (i.Blocks+1)/2, modeString(i.StMode), i.Nlink, userName(i.Uid), groupName(i.Gid), i.Length, l.timeText(time.Unix(0, i.Mtime)), name)
}

// parsePrintf compiles the format of -printf.
func (f *finder) parsePrintf(format string) func(*found) string {
	type piece struct {
		text, flags string
		verb, sub   byte
	}
	var ps []piece
	lit := ""
	stop := false
	for i := 0; i < len(format) && !stop; i++ {
		switch ch := format[i]; {
		case ch == '\\' && i+1 < len(format):
			if format[i+1] == 'c' {
				stop = true
				break
			}
			end := i + 2
			if format[i+1] >= '0' && format[i+1] <= '7' {
				var n int
				n, end, _ = digits(format, i+1, 3, 8)
				lit += string([]byte{byte(n)})
			} else {
				t, _ := unescape(format[i:end], escPrintf)
				lit += t
			}
			i = end - 1
		case ch == '%' && i+1 < len(format):
			k := i + 1
			for k < len(format) && strings.IndexByte("-+ #0123456789.", format[k]) >= 0 {
				k++
			}
			if k == len(format) {
				lit += format[i:]
				i = k
				break
			}
			p := piece{text: lit, flags: format[i+1 : k], verb: format[k]}
			lit = ""
			if strings.IndexByte("ATCB", p.verb) >= 0 && k+1 < len(format) {
				k++
				p.sub = format[k]
			}
			ps = append(ps, p)
			i = k
		default:
			lit += string([]byte{ch})
		}
	}
	tail := lit
	return func(e *found) string {
		var b strings.Builder
		for _, p := range ps {
			b.WriteString(p.text)
			s, n, isNum := findField(e, p.verb, p.sub)
			switch {
			case p.verb == 'm':
				fmt.Fprintf(&b, "%"+p.flags+"o", e.info.Perm())
			case isNum:
				fmt.Fprintf(&b, "%"+p.flags+"d", n)
			default:
				fmt.Fprintf(&b, "%"+p.flags+"s", s)
			}
		}
		b.WriteString(tail)
		return b.String()
	}
}

// findField is the value of one %-directive.
func findField(e *found, verb, sub byte) (s string, n int64, isNum bool) {
	i := e.info
	stamp := func(ns int64) string {
		t := time.Unix(0, ns)
		if sub == 0 {
			return t.Format("Mon Jan _2 15:04:05.0000000000 2006")
		}
		if sub == '@' {
			return fmt.Sprintf("%d.%09d0", ns/1e9, ns%1e9)
		}
		switch sub {
		case '+':
			return t.Format("2006-01-02+15:04:05.") + fmt.Sprintf("%09d0", ns%1e9)
		case 'S':
			return t.Format("05.") + fmt.Sprintf("%09d0", ns%1e9)
		case 'T', 'X':
			return t.Format("15:04:05.") + fmt.Sprintf("%09d0", ns%1e9)
		case 'c':
			return t.Format("Mon Jan _2 15:04:05.") + fmt.Sprintf("%09d0", ns%1e9) + t.Format(" 2006")
		}
		return strftime("%"+string(sub), t)
	}
	switch verb {
	case '%':
		return "%", 0, false
	case 'p':
		return e.path, 0, false
	case 'P':
		return strings.TrimPrefix(strings.TrimPrefix(e.path, e.start), "/"), 0, false
	case 'f':
		return path.Base(e.path), 0, false
	case 'h':
		if d := strings.LastIndexByte(strings.TrimRight(e.path, "/"), '/'); d > 0 {
			return e.path[:d], 0, false
		} else if d == 0 {
			return "", 0, false
		}
		return ".", 0, false
	case 'H':
		return e.start, 0, false
	case 's':
		return "", i.Length, true
	case 'd':
		return "", int64(e.depth), true
	case 'b':
		return "", i.Blocks, true
	case 'k':
		return "", (i.Blocks + 1) / 2, true
	case 'i':
		return "", i.Ino, true
	case 'n':
		return "", i.Nlink, true
	case 'D':
		return "", i.Dev, true
	case 'U':
		return "", int64(i.Uid), true
	case 'G':
		return "", int64(i.Gid), true
	case 'u':
		return userName(i.Uid), 0, false
	case 'g':
		return groupName(i.Gid), 0, false
	case 'M':
		return modeString(i.StMode), 0, false
	case 'y', 'Y':
		if verb == 'Y' {
			t, err := sys.Stat(e.path)
			if err != nil {
				return "N", 0, false
			}
			i = t
		}
		k := modeString(i.StMode)[:1]
		if k == "-" {
			k = "f"
		}
		return k, 0, false
	case 'l':
		if i.IsLink() {
			s, _ = os.Readlink(e.path)
		}
		return s, 0, false
	case 'F':
		return "tmpfs", 0, false
	case 'S':
		return "1", 0, false
	case 't', 'T':
		return stamp(i.Mtime), 0, false
	case 'a', 'A':
		return stamp(i.Atime), 0, false
	case 'c', 'C':
		return stamp(i.Ctime), 0, false
	}
	return "%" + string(verb), 0, false
}
