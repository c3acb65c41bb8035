package applets

import (
	"os"
	"strconv"
	"strings"
)

// options walks a command line as getopt_long does: options anywhere before
// "--", bundled letters, abbreviated long names.
type options struct {
	c      *Ctx
	short  string // letters; ':' after one that takes a value, "::" if it may
	long   []longOption
	argv   []string
	bundle string // letters of the current argument not yet seen
	posix  bool   // stop at the first operand

	opt  string   // the current option: its letter, or its long name
	arg  string   // its value
	has  bool     // it had a value
	args []string // operands; complete when next has returned false
}

type longOption struct {
	name, alias string
	value       byte // ' ' none, ':' required, '?' optional
}

// options prepares parsing. long lists names separated by spaces: "all=a" is
// another name for -a, "sort:" takes a value, "color?" may have one. A '+' at
// the start of short stops at the first operand.
func (c *Ctx) options(short, long string) *options {
	o := &options{c: c, argv: c.args}
	if strings.HasPrefix(short, "+") || os.Getenv("POSIXLY_CORRECT") != "" {
		o.posix, short = true, strings.TrimPrefix(short, "+")
	}
	o.short = short
	for _, f := range strings.Fields(long) {
		l := longOption{value: ' '}
		name, alias, ok := strings.Cut(f, "=")
		if ok {
			l.alias = alias
			l.value = o.kind(alias[0])
		} else if last := name[len(name)-1]; last == ':' || last == '?' {
			l.value, name = last, name[:len(name)-1]
		}
		l.name = name
		o.long = append(o.long, l)
	}
	return o
}

// kind tells whether a letter takes a value.
func (o *options) kind(letter byte) byte {
	i := strings.IndexByte(o.short, letter)
	switch {
	case i < 0 || !strings.HasPrefix(o.short[i+1:], ":"):
		return ' '
	case strings.HasPrefix(o.short[i+1:], "::"):
		return '?'
	}
	return ':'
}

// next advances to the next option.
func (o *options) next() bool {
	o.arg, o.has = "", false
	if o.bundle != "" {
		return o.letter()
	}
	for len(o.argv) > 0 {
		a := o.argv[0]
		o.argv = o.argv[1:]
		switch {
		case a == "--":
			o.args = append(o.args, o.argv...)
			o.argv = nil
			return false
		case strings.HasPrefix(a, "--"):
			return o.longOpt(a[2:])
		case len(a) > 1 && a[0] == '-':
			o.bundle = a[1:]
			return o.letter()
		case o.posix:
			o.args = append(append(o.args, a), o.argv...)
			o.argv = nil
			return false
		}
		o.args = append(o.args, a)
	}
	return false
}

func (o *options) letter() bool {
	ch := o.bundle[0]
	o.bundle = o.bundle[1:]
	o.opt = string(ch)
	if ch == ':' || strings.IndexByte(o.short, ch) < 0 {
		o.c.warn("invalid option -- '%c'", ch)
		o.c.usage()
	}
	switch o.kind(ch) {
	case '?':
		o.arg, o.has, o.bundle = o.bundle, o.bundle != "", ""
	case ':':
		o.arg, o.has, o.bundle = o.bundle, true, ""
		if o.arg == "" {
			if len(o.argv) == 0 {
				o.c.warn("option requires an argument -- '%c'", ch)
				o.c.usage()
			}
			o.arg, o.argv = o.argv[0], o.argv[1:]
		}
	}
	return true
}

func (o *options) longOpt(text string) bool {
	name, val, has := strings.Cut(text, "=")
	var hits []longOption
	for _, l := range o.long {
		if l.name == name {
			hits = []longOption{l}
			break
		}
		if strings.HasPrefix(l.name, name) {
			if len(hits) == 1 && l.alias != "" && hits[0].alias == l.alias {
				continue
			}
			hits = append(hits, l)
		}
	}
	switch {
	case len(hits) == 0 && name == "help":
		o.c.help()
	case len(hits) == 0 && name == "version":
		if o.c.name == "sed" { // configure scripts look for this
			o.c.println("This is not GNU sed version 4.8")
			o.c.exit(0)
		}
		o.c.println(o.c.name + " (kilntainers)")
		o.c.exit(0)
	case len(hits) == 0:
		o.c.warn("unrecognized option '--%s'", text)
		o.c.usage()
	case len(hits) > 1:
		msg := "option '--" + text + "' is ambiguous; possibilities:"
		for _, h := range hits {
			msg += " '--" + h.name + "'"
		}
		o.c.warn("%s", msg)
		o.c.usage()
	}
	l := hits[0]
	o.opt = l.name
	if l.alias != "" {
		o.opt = l.alias
	}
	o.arg, o.has = val, has
	switch {
	case l.value == ' ' && has:
		o.c.warn("option '--%s' doesn't allow an argument", l.name)
		o.c.usage()
	case l.value == ':' && !has:
		if len(o.argv) == 0 {
			o.c.warn("option '--%s' requires an argument", l.name)
			o.c.usage()
		}
		o.arg, o.has, o.argv = o.argv[0], true, o.argv[1:]
	}
	return true
}

// operands parses a command line that has no options of its own.
func (c *Ctx) operands() []string {
	o := c.options("", "")
	for o.next() {
	}
	return o.args
}

// usageStatus is the exit status for a wrong command line.
func (c *Ctx) usageStatus() int {
	switch c.name {
	case "ls", "grep", "egrep", "fgrep", "sort", "diff", "cmp", "tar", "expr", "bzip2", "unzip", "jq", "awk":
		return 2
	case "env", "timeout", "nohup", "nice":
		return 125
	}
	return 1
}

func (c *Ctx) usage() {
	c.flush()
	switch c.name {
	case "grep", "egrep", "fgrep":
		c.err.Write([]byte("Usage: grep [OPTION]... PATTERNS [FILE]...\nTry 'grep --help' for more information.\n"))
	case "sed":
		c.err.Write([]byte(synopsis("sed") + "\n"))
	default:
		c.err.Write([]byte("Try '" + c.name + " --help' for more information.\n"))
	}
	c.exit(c.usageStatus())
}

func (c *Ctx) help() {
	c.println(synopsis(c.name))
	c.exit(0)
}

// missing complains about operands that are not there.
func (c *Ctx) missing() {
	c.warn("missing operand")
	c.usage()
}

// missingAfter is for a second operand.
func (c *Ctx) missingAfter(last string) {
	c.warn("missing operand after %s", quote(last))
	c.usage()
}

// extra complains about one operand too many.
func (c *Ctx) extra(arg string) {
	c.warn("extra operand %s", quote(arg))
	c.usage()
}

// quote puts a name into ' ' as GNU's messages do.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('\'')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\'':
			b.WriteString(`\'`)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < ' ' || c == 127:
			b.WriteString("\\" + string([]byte{'0' + c>>6, '0' + c>>3&7, '0' + c&7}))
		default:
			b.WriteByte(c)
		}
	}
	return b.String() + "'"
}

// quoteMaybe quotes a name only if a shell would need it.
func quoteMaybe(s string) string {
	if s == "" || strings.ContainsAny(s, " \t\n'\"\\$`&|;()<>*?[]!#~=%^{}") && !plainName(s) {
		return shellQuote(s)
	}
	return s
}

func plainName(s string) bool { return !strings.ContainsAny(s, " \t\n'\"\\$`&|;()<>*?[!") }

// shellQuote is how ls and others quote a name for a shell.
func shellQuote(s string) string {
	if strings.IndexByte(s, '\'') >= 0 && !strings.ContainsAny(s, "\"$`\\") {
		return `"` + s + `"`
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// size reads a number with the suffixes of GNU: b K M G T kB MB …
func parseSize(s string) (int64, bool) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	n := int64(1)
	if i > 0 {
		var err error
		if n, err = strconv.ParseInt(s[:i], 10, 64); err != nil {
			return 0, false
		}
	} else if s == "" {
		return 0, false
	}
	mult := int64(1)
	suffix := s[i:]
	if suffix == "" {
		return n, i > 0
	}
	if suffix == "b" {
		return n * 512, true
	}
	if suffix == "c" {
		return n, true
	}
	exp := strings.IndexByte("KMGTPE", upperByte(suffix[0])) + 1
	if exp == 0 {
		return 0, false
	}
	base := int64(1024)
	switch suffix[1:] {
	case "", "iB", "i":
	case "B":
		base = 1000
	default:
		return 0, false
	}
	for range exp {
		mult *= base
	}
	return n * mult, true
}

func upperByte(c byte) byte {
	if 'a' <= c && c <= 'z' {
		return c - 32
	}
	return c
}
