package applets

import (
	"math/big"
	"strconv"
	"strings"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/regex"
	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

// test evaluates a condition, as test and [.
func test(c *Ctx) {
	args := c.args
	if c.name == "[" {
		if len(args) == 0 || args[len(args)-1] != "]" {
			c.dieCode(2, "missing `]'")
		}
		args = args[:len(args)-1]
	}
	t := &tester{c: c, args: args}
	ok := false
	switch n := len(args); {
	case n == 0:
	case n == 1:
		ok = args[0] != ""
	case n == 2:
		ok = t.two(args)
	case n == 3 && isBinary(args[1]):
		ok = t.binary(args[0], args[1], args[2])
	case n == 3 && args[0] == "!":
		ok = !t.two(args[1:])
	case n == 3 && args[0] == "(" && args[2] == ")":
		ok = args[1] != ""
	case n == 3:
		c.dieCode(2, "%s: binary operator expected", args[1])
	case n == 4 && args[0] == "!" && isBinary(args[2]):
		ok = !t.binary(args[1], args[2], args[3])
	default:
		ok = t.or()
		if t.i < len(args) {
			c.dieCode(2, "too many arguments")
		}
	}
	if !ok {
		c.code = 1
	}
}

type tester struct {
	c    *Ctx
	args []string
	i    int
}

func isBinary(op string) bool {
	switch op {
	case "=", "==", "!=", "<", ">", "-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-nt", "-ot", "-ef", "-a", "-o":
		return true
	}
	return false
}

const unaryLetters = "abcdefghkLnprsStuwxzGNO"

func isUnary(op string) bool {
	return len(op) == 2 && op[0] == '-' && strings.IndexByte(unaryLetters, op[1]) >= 0
}

func (t *tester) two(a []string) bool {
	if a[0] == "!" {
		return a[1] == ""
	}
	return t.unary(a[0], a[1])
}

func (t *tester) unary(op, arg string) bool {
	if !isUnary(op) {
		t.c.dieCode(2, "%s: unary operator expected", op)
	}
	switch op[1] {
	case 'n':
		return arg != ""
	case 'z':
		return arg == ""
	case 't':
		return false
	}
	return FileTest(op[1], t.c.path(arg))
}

// FileTest is -d, -f and so on, of an absolute path.
func FileTest(op byte, path string) bool {
	stat := sys.Stat
	if op == 'h' || op == 'L' {
		stat = sys.Lstat
	}
	i, err := stat(path)
	if err != nil {
		return false
	}
	typ := i.StMode & sys.ModeType
	_, _, _, uid, gid := sys.Ids()
	switch op {
	case 'b':
		return typ == sys.ModeBlock
	case 'c':
		return typ == sys.ModeChar
	case 'd':
		return typ == sys.ModeDir
	case 'f':
		return typ == sys.ModeFile
	case 'h', 'L':
		return typ == sys.ModeLink
	case 'p':
		return typ == sys.ModeFifo
	case 'S':
		return typ == sys.ModeSocket
	case 's':
		return i.Length > 0
	case 'u':
		return i.StMode&04000 != 0
	case 'g':
		return i.StMode&02000 != 0
	case 'k':
		return i.StMode&01000 != 0
	case 'x':
		return i.StMode&0111 != 0
	case 'O':
		return i.Uid == uid
	case 'G':
		return i.Gid == gid
	case 'N':
		return i.Mtime > i.Atime
	}
	return true // -a -e -r -w: root may do all
}

// FileCompare is -nt, -ot and -ef.
func FileCompare(op, a, b string) bool {
	x, errX := sys.Stat(a)
	y, errY := sys.Stat(b)
	switch op {
	case "-ef":
		return errX == nil && errY == nil && x.Same(y)
	case "-nt":
		return errX == nil && (errY != nil || x.Mtime > y.Mtime)
	}
	return errY == nil && (errX != nil || x.Mtime < y.Mtime)
}

func (t *tester) binary(a, op, b string) bool {
	switch op {
	case "=", "==":
		return a == b
	case "!=":
		return a != b
	case "<":
		return a < b
	case ">":
		return a > b
	case "-a":
		return a != "" && b != ""
	case "-o":
		return a != "" || b != ""
	case "-nt", "-ot", "-ef":
		return FileCompare(op, t.c.path(a), t.c.path(b))
	}
	cmp := t.number(a).Cmp(t.number(b))
	switch op {
	case "-eq":
		return cmp == 0
	case "-ne":
		return cmp != 0
	case "-lt":
		return cmp < 0
	case "-le":
		return cmp <= 0
	case "-gt":
		return cmp > 0
	}
	return cmp >= 0
}

func (t *tester) number(s string) *big.Int {
	d := strings.TrimPrefix(strings.TrimSpace(s), "+")
	if n, err := strconv.ParseInt(d, 10, 64); err == nil {
		return big.NewInt(n)
	}
	n, ok := new(big.Int).SetString(d, 10)
	if !ok || strings.Contains(d, "_") {
		t.c.dieCode(2, "%s: integer expression expected", s)
	}
	return n
}

// The long form: or, and, not, primary.

func (t *tester) peek() string {
	if t.i < len(t.args) {
		return t.args[t.i]
	}
	return ""
}

func (t *tester) or() bool {
	ok := t.and()
	for t.peek() == "-o" {
		t.i++
		r := t.and()
		ok = ok || r
	}
	return ok
}

func (t *tester) and() bool {
	ok := t.not()
	for t.peek() == "-a" {
		t.i++
		r := t.not()
		ok = ok && r
	}
	return ok
}

func (t *tester) not() bool {
	if t.peek() == "!" && t.i+1 < len(t.args) {
		t.i++
		return !t.not()
	}
	return t.primary()
}

func (t *tester) primary() bool {
	rest := t.args[t.i:]
	connective := func(s string) bool { return s == "-a" || s == "-o" }
	switch {
	case len(rest) == 0:
		t.c.dieCode(2, "argument expected")
	case len(rest) >= 3 && isBinary(rest[1]) && !connective(rest[1]):
		t.i += 3
		return t.binary(rest[0], rest[1], rest[2])
	case rest[0] == "(":
		t.i++
		ok := t.or()
		if t.peek() != ")" {
			t.c.dieCode(2, "`)' expected")
		}
		t.i++
		return ok
	case len(rest) >= 2 && isUnary(rest[0]) && (!connective(rest[1]) || rest[0] == "-n" || rest[0] == "-z"):
		t.i += 2
		return t.unary(rest[0], rest[1])
	}
	t.i++
	return rest[0] != ""
}

// MatchERE matches an extended regular expression for the shell's =~ and
// returns the match and its groups, or nil.
func MatchERE(expr, s string, fold bool) ([]string, error) {
	var flags regex.Flags
	if fold {
		flags = regex.IgnoreCase
	}
	re, err := regex.Compile(expr, regex.Extended, flags)
	if err != nil {
		return nil, err
	}
	m := re.Find([]byte(s))
	if m == nil {
		return nil, nil
	}
	out := make([]string, len(m)/2)
	for i := range out {
		if m[2*i] >= 0 {
			out[i] = s[m[2*i]:m[2*i+1]]
		}
	}
	return out, nil
}
