package applets

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/regex"
	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

// A sed program is a flat list of commands; braces and labels become jumps.

type sedAddr struct {
	kind byte // 'n' line, 's' first~step, '$', '/' regex, '0' the 0 of 0,/re/, '+' and '~' as second address
	n    int
	step int
	re   *regex.Regexp // nil: the last one used
}

type sedCmd struct {
	a1, a2  *sedAddr
	not     bool
	name    byte
	text    string        // a, i, c text; label; file name
	jump    int           // where b, t, T, { go
	re      *regex.Regexp // s; nil: the last one used
	repl    []sedPiece
	flags   sedFlags
	from    map[rune]rune // y
	code    int           // q, Q exit status; l width
	out     *bufio.Writer
	inRange bool
	started bool // a range that begins at a line number begins once
	endLine int
}

type sedFlags struct {
	global, print, eval bool
	nth                 int
	file                string
}

// sedPiece is part of a replacement: text, a group (-1: none), or a case switch.
type sedPiece struct {
	text  string
	group int
	conv  byte // 'U' 'L' 'u' 'l' 'E'
}

type sedParser struct {
	src      string
	i        int
	extended bool
	posix    bool
	cmds     []*sedCmd
	labels   map[string]int
	blocks   []int
	source   string
}

var errSedEOF = errors.New("unexpected end")

func (p *sedParser) errorf(format string, a ...any) error {
	return fmt.Errorf("%s, char %d: %s", p.source, p.i, fmt.Sprintf(format, a...))
}

func (p *sedParser) peek() byte {
	if p.i < len(p.src) {
		return p.src[p.i]
	}
	return 0
}

func (p *sedParser) blanks() {
	for p.i < len(p.src) && (p.src[p.i] == ' ' || p.src[p.i] == '\t') {
		p.i++
	}
}

// parse appends the commands of src.
func (p *sedParser) parse() error {
	for {
		for p.i < len(p.src) && strings.IndexByte(" \t\n;", p.src[p.i]) >= 0 {
			p.i++
		}
		if p.i >= len(p.src) {
			return nil
		}
		if p.src[p.i] == '#' {
			for p.i < len(p.src) && p.src[p.i] != '\n' {
				p.i++
			}
			continue
		}
		if err := p.command(); err != nil {
			return err
		}
	}
}

func (p *sedParser) command() error {
	c := &sedCmd{jump: -1}
	var err error
	if c.a1, err = p.address(false); err != nil {
		return err
	}
	p.blanks()
	if c.a1 != nil && p.peek() == ',' {
		p.i++
		p.blanks()
		if c.a2, err = p.address(true); err != nil {
			return err
		}
		if c.a2 == nil {
			p.i++
			return p.errorf("unexpected `,'")
		}
	}
	if c.a1 != nil && c.a1.kind == 'n' && c.a1.n == 0 {
		if c.a2 == nil || c.a2.kind != '/' {
			return p.errorf("invalid usage of line address 0")
		}
		c.a1.kind = '0'
	}
	p.blanks()
	for p.peek() == '!' {
		c.not = true
		p.i++
		p.blanks()
	}
	if p.i >= len(p.src) {
		return p.errorf("missing command")
	}
	c.name = p.src[p.i]
	p.i++
	at := len(p.cmds)
	p.cmds = append(p.cmds, c)
	switch c.name {
	case '{':
		p.blocks = append(p.blocks, at)
		return nil
	case '}':
		if len(p.blocks) == 0 {
			return p.errorf("unexpected `}'")
		}
		if c.a1 != nil {
			return p.errorf("} doesn't want any addresses")
		}
		open := p.blocks[len(p.blocks)-1]
		p.blocks = p.blocks[:len(p.blocks)-1]
		p.cmds[open].jump = at
	case '=', 'd', 'D', 'g', 'G', 'h', 'H', 'n', 'N', 'p', 'P', 'x', 'z', 'F':
	case 'a', 'i', 'c':
		return p.text(c)
	case ':':
		if c.a1 != nil {
			return p.errorf(": doesn't want any addresses")
		}
		p.blanks()
		c.text = p.until("\n;")
		if c.text = strings.TrimRight(c.text, " \t"); c.text == "" {
			return p.errorf("\":\" lacks a label")
		}
		p.labels[c.text] = at
		return nil
	case 'b', 't', 'T':
		p.blanks()
		c.text = strings.TrimRight(p.until("\n;}"), " \t")
		return nil
	case 'r', 'R', 'w', 'W':
		p.blanks()
		if c.text = p.until("\n"); c.text == "" {
			return p.errorf("missing filename in r/R/w/W commands")
		}
		return nil
	case 'q', 'Q', 'l', 'L':
		p.blanks()
		if n, end, ok := digits(p.src, p.i, 9, 10); ok {
			c.code, p.i = n, end
		} else if c.name == 'l' {
			c.code = -1
		}
	case 'e':
		p.blanks()
		c.text = p.until("\n")
		return nil
	case 's':
		if err := p.substitute(c); err != nil {
			return err
		}
	case 'y':
		if err := p.translate(c); err != nil {
			return err
		}
	default:
		return p.errorf("unknown command: `%c'", c.name)
	}
	p.blanks()
	switch p.peek() {
	case 0, '\n', ';', '}', '#':
		return nil
	}
	p.i++
	return p.errorf("extra characters after command")
}

// until takes everything up to one of the stop characters.
func (p *sedParser) until(stop string) string {
	start := p.i
	for p.i < len(p.src) && strings.IndexByte(stop, p.src[p.i]) < 0 {
		p.i++
	}
	return p.src[start:p.i]
}

func (p *sedParser) address(second bool) (*sedAddr, error) {
	c := p.peek()
	switch {
	case c >= '0' && c <= '9':
		n, end, _ := digits(p.src, p.i, 9, 10)
		p.i = end
		p.blanks()
		if p.peek() == '~' && !second {
			p.i++
			step, end, _ := digits(p.src, p.i, 9, 10)
			p.i = end
			return &sedAddr{kind: 's', n: n, step: step}, nil
		}
		return &sedAddr{kind: 'n', n: n}, nil
	case c == '$':
		p.i++
		return &sedAddr{kind: '$'}, nil
	case second && (c == '+' || c == '~'):
		p.i++
		n, end, ok := digits(p.src, p.i, 9, 10)
		if !ok {
			return nil, p.errorf("expected number")
		}
		p.i = end
		return &sedAddr{kind: c, n: n}, nil
	case c == '/' || c == '\\':
		if c == '\\' {
			p.i++
		}
		delim := p.peek()
		p.i++
		pat, err := p.delimited(delim, true)
		if err != nil {
			return nil, p.errorf("unterminated address regex")
		}
		var flags regex.Flags
		for p.peek() == 'I' || p.peek() == 'M' {
			if p.peek() == 'I' {
				flags |= regex.IgnoreCase
			} else {
				flags |= regex.MultiLine
			}
			p.i++
		}
		re, err := p.compile(pat, flags)
		return &sedAddr{kind: '/', re: re}, err
	}
	return nil, nil
}

// delimited reads up to an unescaped delimiter. In a regular expression a
// bracket expression hides it.
func (p *sedParser) delimited(delim byte, isRegex bool) (string, error) {
	var b strings.Builder
	for p.i < len(p.src) {
		c := p.src[p.i]
		switch {
		case c == delim:
			p.i++
			return b.String(), nil
		case c == '\\' && p.i+1 < len(p.src):
			p.i++
			switch next := p.src[p.i]; {
			case next == delim:
				// An escaped delimiter is the character itself, not an operator.
				if isRegex && strings.IndexByte(".*[]^$+?(){}|", delim) >= 0 && (p.extended || strings.IndexByte("+?(){}|", delim) < 0) {
					b.WriteByte('\\')
				} else if !isRegex && (delim == '&' || delim == '\\') {
					b.WriteByte('\\')
				}
				b.WriteByte(delim)
			case next == 'n' && isRegex && delim != 'n':
				b.WriteString(`\n`)
			default:
				b.WriteByte('\\')
				b.WriteByte(next)
			}
			p.i++
		case c == '\n' && isRegex:
			return "", errSedEOF
		case c == '[' && isRegex:
			end := bracketEnd(p.src[p.i:], delim)
			b.WriteString(p.src[p.i : p.i+end])
			p.i += end
		default:
			b.WriteByte(c)
			p.i++
		}
	}
	return "", errSedEOF
}

// bracketEnd is the length of the bracket expression at the start of s, or 1
// if it is not closed.
func bracketEnd(s string, _ byte) int {
	i := 1
	if strings.HasPrefix(s[i:], "^") {
		i++
	}
	for first := true; i < len(s); first = false {
		switch {
		case s[i] == ']' && !first:
			return i + 1
		case s[i] == '\n':
			return 1
		case s[i] == '[' && i+1 < len(s) && strings.IndexByte(":.=", s[i+1]) >= 0:
			if e := strings.Index(s[i+2:], s[i+1:i+2]+"]"); e >= 0 {
				i += e + 4
				continue
			}
		}
		i++
	}
	return 1
}

func (p *sedParser) compile(pat string, flags regex.Flags) (*regex.Regexp, error) {
	if pat == "" {
		return nil, nil
	}
	syntax := regex.Basic
	if p.extended {
		syntax = regex.Extended
	}
	re, err := regex.Compile(pat, syntax, flags|regex.Escapes)
	if err != nil {
		return nil, p.errorf("%v", err)
	}
	return re, nil
}

// text reads what a, i and c insert.
func (p *sedParser) text(c *sedCmd) error {
	p.blanks()
	if p.i >= len(p.src) {
		return p.errorf("expected \\ after `a', `c' or `i'")
	}
	if p.peek() == '\\' {
		p.i++
		save := p.i
		if p.blanks(); p.peek() == '\n' {
			p.i++
		} else {
			p.i = save // text on the same line keeps its blanks
		}
		if p.i > len(p.src) {
			return p.errorf("expected \\ after `a', `c' or `i'")
		}
	}
	var b strings.Builder
	for p.i < len(p.src) {
		ch := p.src[p.i]
		p.i++
		if ch == '\\' {
			if p.i < len(p.src) {
				if k := strings.IndexByte("tfvnra", p.src[p.i]); k >= 0 {
					b.WriteByte("\t\f\v\n\r\a"[k])
				} else {
					b.WriteByte(p.src[p.i])
				}
				p.i++
			}
			continue
		}
		if ch == '\n' {
			break
		}
		b.WriteByte(ch)
	}
	c.text = b.String() + "\n"
	return nil
}

func (p *sedParser) substitute(c *sedCmd) error {
	delim := p.peek()
	if delim == 0 || delim == '\n' || delim == '\\' {
		return p.errorf("unterminated `s' command")
	}
	p.i++
	pat, err := p.delimited(delim, true)
	if err != nil {
		return p.errorf("unterminated `s' command")
	}
	repl, err := p.delimited(delim, false)
	if err != nil {
		return p.errorf("unterminated `s' command")
	}
	var flags regex.Flags
flags:
	for p.i < len(p.src) {
		ch := p.src[p.i]
		switch {
		case ch == 'g':
			c.flags.global = true
		case ch == 'p':
			c.flags.print = true
		case ch == 'e':
			c.flags.eval = true
		case ch == 'i' || ch == 'I':
			flags |= regex.IgnoreCase
		case ch == 'm' || ch == 'M':
			flags |= regex.MultiLine
		case ch >= '0' && ch <= '9':
			n, end, _ := digits(p.src, p.i, 9, 10)
			if n == 0 {
				p.i++
				return p.errorf("number option to `s' command may not be zero")
			}
			c.flags.nth, p.i = n, end
			continue
		case ch == 'w':
			p.i++
			p.blanks()
			c.flags.file = p.until("\n")
			break flags
		case strings.IndexByte(" \t\n;}#", ch) >= 0:
			break flags
		default:
			p.i++
			return p.errorf("unknown option to `s'")
		}
		p.i++
	}
	if c.re, err = p.compile(pat, flags); err != nil {
		return err
	}
	c.repl = sedReplacement(repl)
	for _, pc := range c.repl {
		if c.re != nil && pc.group > c.re.Groups() {
			return p.errorf("invalid reference \\%d on `s' command's RHS", pc.group)
		}
	}
	return nil
}

// sedReplacement splits the right side of s.
func sedReplacement(s string) []sedPiece {
	var out []sedPiece
	var b strings.Builder
	flush := func() {
		if b.Len() > 0 {
			out = append(out, sedPiece{text: b.String(), group: -1})
			b.Reset()
		}
	}
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '&':
			flush()
			out = append(out, sedPiece{group: 0})
		case s[i] == '\\' && i+1 < len(s):
			i++
			ch := s[i]
			switch {
			case ch >= '0' && ch <= '9':
				flush()
				out = append(out, sedPiece{group: int(ch - '0')})
			case strings.IndexByte("ULulE", ch) >= 0:
				flush()
				out = append(out, sedPiece{group: -1, conv: ch})
			case strings.IndexByte("ntrafv", ch) >= 0:
				b.WriteByte("\n\t\r\a\f\v"[strings.IndexByte("ntrafv", ch)])
			case ch == 'x':
				if n, end, ok := digits(s, i+1, 2, 16); ok {
					b.WriteByte(byte(n))
					i = end - 1
				} else {
					b.WriteByte('x')
				}
			case ch == 'o' || ch == 'd':
				base := 8
				if ch == 'd' {
					base = 10
				}
				if n, end, ok := digits(s, i+1, 3, base); ok {
					b.WriteByte(byte(n))
					i = end - 1
				} else {
					b.WriteByte(ch)
				}
			case ch == 'c' && i+1 < len(s):
				i++
				b.WriteByte(upperByte(s[i]) ^ 0x40)
			default:
				b.WriteByte(ch)
			}
		default:
			b.WriteByte(s[i])
		}
	}
	flush()
	return out
}

func (p *sedParser) translate(c *sedCmd) error {
	delim := p.peek()
	p.i++
	a, err1 := p.delimited(delim, false)
	b, err2 := p.delimited(delim, false)
	if err1 != nil || err2 != nil {
		return p.errorf("unterminated `y' command")
	}
	un := func(s string) []rune {
		var out []rune
		for i := 0; i < len(s); {
			r, n := utf8.DecodeRuneInString(s[i:])
			i += n
			if r == '\\' && i < len(s) {
				r, n = utf8.DecodeRuneInString(s[i:])
				i += n
				switch r {
				case 'n':
					r = '\n'
				case 't':
					r = '\t'
				case 'r':
					r = '\r'
				case '\\':
				default:
					out = append(out, '\\')
				}
			}
			out = append(out, r)
		}
		return out
	}
	x, y := un(a), un(b)
	if len(x) != len(y) {
		return p.errorf("strings for `y' command are different lengths")
	}
	c.from = map[rune]rune{}
	for i, r := range x {
		if _, ok := c.from[r]; !ok {
			c.from[r] = y[i]
		}
	}
	return nil
}

// sedState runs a program.
type sedState struct {
	c        *Ctx
	cmds     []*sedCmd
	quiet    bool
	separate bool
	inPlace  bool
	suffix   string
	end      byte
	width    int

	in      *bufio.Reader
	names   []string // files still to read
	name    string
	closeIn func()
	out     *bufio.Writer
	files   map[string]*bufio.Writer
	readers map[string]*lineSource
	line    int
	missing bool // the last line had no newline
	space   []byte
	hold    []byte
	appends []func()
	open    map[*bufio.Writer]bool // a line without newline is the last thing written
	lastRE  *regex.Regexp
	subst   bool
	quit    bool
}

func sed(c *Ctx) {
	o := c.options("nrEe:f:i::sl:zub", "quiet=n silent=n regexp-extended=E expression=e file=f in-place=i separate=s line-length=l null-data=z unbuffered=u posix debug follow-symlinks sandbox binary=b")
	s := &sedState{c: c, end: '\n', width: 70, files: map[string]*bufio.Writer{}, readers: map[string]*lineSource{}, open: map[*bufio.Writer]bool{}, out: c.out}
	p := &sedParser{labels: map[string]int{}}
	type chunk struct {
		text, source string
	}
	var script []chunk
	exprs := 0
	for o.next() {
		switch o.opt {
		case "n":
			s.quiet = true
		case "E", "r":
			p.extended = true
		case "e":
			exprs++
			script = append(script, chunk{o.arg, fmt.Sprintf("-e expression #%d", exprs)})
		case "f":
			r, err := c.open(o.arg)
			if err != nil {
				c.die("couldn't open file %s: %s", o.arg, Strerror(err))
			}
			data, _ := io.ReadAll(r)
			script = append(script, chunk{strings.TrimSuffix(string(data), "\n"), "file " + o.arg})
		case "i":
			s.inPlace, s.separate, s.suffix = true, true, o.arg
		case "s":
			s.separate = true
		case "l":
			s.width, _ = strconv.Atoi(o.arg)
		case "z":
			s.end = 0
		case "posix":
			p.posix = true
		}
	}
	args := o.args
	if len(script) == 0 {
		if len(args) == 0 {
			c.usage()
		}
		script, args = []chunk{{args[0], "-e expression #1"}}, args[1:]
	}
	if strings.HasPrefix(script[0].text, "#n\n") || script[0].text == "#n" {
		s.quiet = true
	}
	// A chunk that ends in a\ goes on in the next one.
	for i := 0; i < len(script); i++ {
		for i+1 < len(script) && endsInText(script[i].text) {
			script[i].text += "\n" + script[i+1].text
			script = append(script[:i+1], script[i+2:]...)
		}
		p.src, p.i, p.source = script[i].text, 0, script[i].source
		if err := p.parse(); err != nil {
			c.die("%v", err)
		}
	}
	if len(p.blocks) > 0 {
		c.die("%s, char 0: unmatched `{'", p.source)
	}
	s.cmds = p.cmds
	for _, cmd := range s.cmds {
		switch cmd.name {
		case 'b', 't', 'T':
			cmd.jump = len(s.cmds)
			if cmd.text != "" {
				at, ok := p.labels[cmd.text]
				if !ok {
					c.die("-e expression #1, char %d: can't find label for jump to `%s'", len(p.src), cmd.text)
				}
				cmd.jump = at
			}
		case 'w', 'W':
			cmd.out = s.file(cmd.text)
		case 's':
			if cmd.flags.file != "" {
				cmd.out = s.file(cmd.flags.file)
			}
		}
	}
	s.run(args)
}

// endsInText reports whether a script chunk ends with an a, i or c whose text
// is in the next chunk.
func endsInText(text string) bool {
	n := len(text)
	if n < 2 || text[n-1] != '\\' || text[n-2] == '\\' {
		return false
	}
	t := strings.TrimRight(text[:n-1], " \t")
	return t != "" && strings.IndexByte("aic", t[len(t)-1]) >= 0 || strings.Contains(text, "\\\n")
}

// file is the writer of w; /dev/stdout and /dev/stderr are special.
func (s *sedState) file(name string) *bufio.Writer {
	switch name {
	case "/dev/stdout":
		return s.c.out
	case "/dev/stderr":
		return bufio.NewWriterSize(s.c.err, 1)
	}
	if w := s.files[name]; w != nil {
		return w
	}
	f, err := os.Create(name)
	if err != nil {
		s.c.dieCode(4, "couldn't open file %s: %s", name, Strerror(err))
	}
	s.files[name] = bufio.NewWriter(f)
	return s.files[name]
}

func (s *sedState) run(args []string) {
	c := s.c
	if s.inPlace && len(args) == 0 {
		c.die("no input files")
	}
	files := orStdin(args)
	if s.separate {
		for _, f := range files {
			if s.inPlace {
				s.editFile(f)
			} else {
				s.restart(f)
				s.all()
			}
			if s.quit {
				break
			}
		}
	} else {
		s.names = files
		s.all()
	}
	for _, w := range s.files {
		w.Flush()
	}
	c.flush()
}

// restart makes name the only input: lines and ranges begin again.
func (s *sedState) restart(name string) {
	s.names, s.line = []string{name}, 0
	for _, c := range s.cmds {
		c.inRange, c.started, c.endLine = false, false, 0
	}
}

// editFile is -i: the output replaces the file.
func (s *sedState) editFile(name string) {
	i, err := sys.Stat(name)
	if err != nil {
		s.c.warn("can't read %s: %s", name, Strerror(err))
		s.c.code = 2
		return
	}
	if !i.IsRegular() {
		s.c.warn("couldn't edit %s: not a regular file", name)
		s.c.code = 4
		return
	}
	tmp := dirOf(name) + "/sed" + randomName(6)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		s.c.dieCode(4, "couldn't open temporary file %s: %s", tmp, Strerror(err))
	}
	s.out = bufio.NewWriterSize(f, 32<<10)
	s.restart(name)
	s.all()
	// After q the rest of the file is kept.
	if s.in != nil {
		io.Copy(s.out, s.in)
	}
	err = s.out.Flush()
	f.Close()
	s.out = s.c.out
	if s.closeIn != nil {
		s.closeIn()
	}
	if err != nil {
		os.Remove(tmp)
		s.c.dieCode(4, "couldn't write to %s: %s", tmp, Strerror(err))
	}
	sys.Chmod(tmp, i.Perm())
	if s.suffix != "" {
		backup := name + s.suffix
		if strings.Contains(s.suffix, "*") {
			base := name[strings.LastIndexByte(name, '/')+1:]
			backup = strings.ReplaceAll(s.suffix, "*", base)
			if !strings.Contains(backup, "/") {
				backup = name[:len(name)-len(base)] + backup
			}
		}
		os.Rename(name, backup)
	}
	if err := os.Rename(tmp, name); err != nil {
		s.c.dieCode(4, "cannot rename %s: %s", tmp, Strerror(err))
	}
}

// fill makes s.in the next file that has something to read.
func (s *sedState) fill() bool {
	for {
		if s.in != nil {
			if _, err := s.in.Peek(1); err == nil {
				return true
			}
			if s.closeIn != nil {
				s.closeIn()
				s.closeIn = nil
			}
			s.in = nil
		}
		if len(s.names) == 0 {
			return false
		}
		s.name = s.names[0]
		s.names = s.names[1:]
		r, err := s.c.open(s.name)
		if err != nil {
			if Strerror(err) == "Is a directory" {
				s.c.warn("couldn't edit %s: not a regular file", s.name)
				s.c.code = 2
				if !s.inPlace {
					s.c.err.Write(nil)
				}
			} else {
				s.c.warn("can't read %s: %s", s.name, Strerror(err))
			}
			s.c.code = 2
			continue
		}
		s.in = newReader(r)
		s.closeIn = func() { r.Close() }
	}
}

// next reads a line into b.
func (s *sedState) next(b []byte) ([]byte, bool) {
	if !s.fill() {
		return b, false
	}
	s.missing = true
	for {
		part, err := s.in.ReadSlice(s.end)
		b = append(b, part...)
		if err == nil {
			b = b[:len(b)-1]
			s.missing = false
			break
		}
		if err != bufio.ErrBufferFull {
			break
		}
	}
	s.line++
	return b, true
}

// last reports whether the current line is the last one.
func (s *sedState) last() bool { return !s.fill() }

// put writes a line. A line that came without a newline goes out without one;
// it gets it if anything follows.
func (s *sedState) put(w *bufio.Writer, b []byte) {
	s.complete(w).Write(b)
	if s.missing {
		s.open[w] = true
	} else {
		w.WriteByte(s.end)
	}
}

// complete ends a line that went out without its newline.
func (s *sedState) complete(w *bufio.Writer) *bufio.Writer {
	if s.open[w] {
		w.WriteByte(s.end)
		delete(s.open, w)
	}
	return w
}

// emit prints a line to the output.
func (s *sedState) emit(b []byte) { s.put(s.out, b) }

// write prints other text to the output.
func (s *sedState) write(text string) { s.complete(s.out).WriteString(text) }

func (s *sedState) all() {
	for !s.quit {
		var ok bool
		if s.space, ok = s.next(s.space[:0]); !ok {
			return
		}
		s.subst = false
		for s.cycle() { // D starts again without reading
		}
	}
}

func (s *sedState) endCycle(print bool) {
	if print && !s.quiet {
		s.emit(s.space)
	}
	s.flushAppends()
}

func (s *sedState) flushAppends() {
	if len(s.appends) == 0 {
		return
	}
	for _, f := range s.appends {
		f()
	}
	s.appends = s.appends[:0]
}

// cycle runs the commands on the pattern space; true asks for another round
// without reading a line.
func (s *sedState) cycle() bool {
	for pc := 0; pc < len(s.cmds); pc++ {
		c := s.cmds[pc]
		if c.a1 != nil && s.selected(c) == c.not || c.a1 == nil && c.not {
			if c.name == '{' {
				pc = c.jump
			}
			continue
		}
		switch c.name {
		case '=':
			s.write(strconv.Itoa(s.line) + "\n")
		case 'a':
			text := c.text
			s.appends = append(s.appends, func() { s.write(text) })
		case 'i':
			s.write(c.text)
		case 'c':
			if c.a2 == nil || c.not || !c.inRange {
				s.write(c.text)
			}
			s.endCycle(false)
			return false
		case 'b':
			pc = c.jump - 1
		case 't':
			if s.subst {
				s.subst = false
				pc = c.jump - 1
			}
		case 'T':
			if !s.subst {
				pc = c.jump - 1
			}
			s.subst = false
		case 'd':
			s.endCycle(false)
			return false
		case 'D':
			i := bytes.IndexByte(s.space, '\n')
			if i < 0 {
				s.endCycle(false)
				return false
			}
			s.space = append(s.space[:0], s.space[i+1:]...)
			s.flushAppends()
			return true
		case 'e':
			s.execute(c)
		case 'F':
			s.write(s.name + "\n")
		case 'g':
			s.space = append(s.space[:0], s.hold...)
		case 'G':
			s.space = append(append(s.space, '\n'), s.hold...)
		case 'h':
			s.hold = append(s.hold[:0], s.space...)
		case 'H':
			s.hold = append(append(s.hold, '\n'), s.space...)
		case 'l':
			s.list(c.code)
		case 'n':
			if s.last() {
				if !s.quiet {
					s.emit(s.space)
				}
				s.flushAppends()
				s.quit = true
				return false
			}
			s.endCycle(true)
			s.space, _ = s.next(s.space[:0])
		case 'N':
			if s.last() {
				if !s.quiet {
					s.emit(s.space)
				}
				s.flushAppends()
				s.quit = true
				return false
			}
			s.flushAppends()
			s.space, _ = s.next(append(s.space, '\n'))
		case 'p':
			s.emit(s.space)
		case 'P':
			i := bytes.IndexByte(s.space, '\n')
			if i < 0 {
				s.emit(s.space)
			} else {
				s.write(string(s.space[:i+1]))
			}
		case 'q':
			s.c.code = c.code
			s.endCycle(true)
			s.quit = true
			return false
		case 'Q':
			s.c.code = c.code
			s.quit = true
			return false
		case 'r':
			name := c.text
			s.appends = append(s.appends, func() { s.copyFile(name) })
		case 'R':
			s.readLine(c.text)
		case 's':
			s.substitute(c)
		case 'w':
			s.put(c.out, s.space)
			c.out.Flush()
		case 'W':
			line, _, _ := bytes.Cut(s.space, []byte("\n"))
			c.out.Write(line)
			c.out.WriteByte('\n')
			c.out.Flush()
		case 'x':
			s.space, s.hold = s.hold, s.space
		case 'y':
			s.space = []byte(strings.Map(func(r rune) rune {
				if t, ok := c.from[r]; ok {
					return t
				}
				return r
			}, string(s.space)))
		case 'z':
			s.space = s.space[:0]
		}
	}
	s.endCycle(true)
	return false
}

func (s *sedState) copyFile(name string) {
	if name == "/dev/stdin" {
		io.Copy(s.complete(s.out), s.c.in)
		return
	}
	if f, err := os.Open(name); err == nil {
		io.Copy(s.complete(s.out), f)
		f.Close()
	}
}

func (s *sedState) readLine(name string) {
	src := s.readers[name]
	if src == nil {
		f, err := os.Open(name)
		if err != nil {
			return
		}
		src = newLineSource(f, s.end)
		s.readers[name] = src
	}
	if line, ok := src.next(); ok {
		s.appends = append(s.appends, func() { s.write(line + string(s.end)) })
	}
}

func (s *sedState) matches(a *sedAddr) bool {
	switch a.kind {
	case 'n':
		return s.line == a.n
	case 's':
		if a.step <= 0 {
			return s.line == a.n
		}
		return s.line >= a.n && (s.line-a.n)%a.step == 0
	case '$':
		return s.last()
	case '/':
		re := a.re
		if re == nil {
			if re = s.lastRE; re == nil {
				s.c.die("no previous regular expression")
			}
		}
		s.lastRE = re
		return re.Match(s.space)
	}
	return false
}

// selected applies a command's addresses. A command's inRange is true while
// its range goes on after this line.
func (s *sedState) selected(c *sedCmd) bool {
	if c.a2 == nil {
		return s.matches(c.a1)
	}
	if c.a1.kind == '0' && s.line == 1 && c.endLine == 0 {
		c.inRange, c.endLine = true, -1
	}
	if c.inRange {
		switch {
		case c.a2.kind == 'n' && c.endLine >= 0 || c.a2.kind == '+' || c.a2.kind == '~':
			if s.line >= c.endLine {
				c.inRange = false
				// A line number that has passed selects only what it reached.
				if c.a2.kind == 'n' && s.line > c.endLine {
					return s.startRange(c)
				}
			}
		default:
			c.inRange = !s.matches(c.a2)
		}
		return true
	}
	return s.startRange(c)
}

func (s *sedState) startRange(c *sedCmd) bool {
	switch {
	case c.a1.kind == '0':
		return false
	case c.a1.kind == 'n': // also when that line was skipped by other commands
		if c.started || s.line < c.a1.n {
			return false
		}
		c.started = true
	case !s.matches(c.a1):
		return false
	}
	switch c.a2.kind {
	case 'n':
		c.endLine = c.a2.n
	case '+':
		c.endLine = s.line + c.a2.n
	case '~':
		c.endLine = s.line
		if c.a2.n > 0 {
			c.endLine = (s.line + c.a2.n - 1) / c.a2.n * c.a2.n
		}
	default:
		c.endLine = -1
		c.inRange = !(c.a2.kind == '$' && s.last())
		return true
	}
	c.inRange = c.endLine > s.line
	return true
}

func (s *sedState) substitute(c *sedCmd) {
	re := c.re
	if re == nil {
		if re = s.lastRE; re == nil {
			s.c.die("no previous regular expression")
		}
	}
	s.lastRE = re
	n := 1
	switch {
	case c.flags.global:
		n = -1
	case c.flags.nth > 0:
		n = c.flags.nth
	}
	ms := re.All(s.space, n)
	if len(ms) == 0 || c.flags.nth > len(ms) {
		return
	}
	var out []byte
	at := 0
	for i, m := range ms {
		if i+1 < c.flags.nth {
			continue
		}
		out = append(out, s.space[at:m[0]]...)
		out = c.replace(out, s.space, m)
		at = m[1]
	}
	out = append(out, s.space[at:]...)
	s.space = out
	s.subst = true
	if c.flags.eval {
		s.space = []byte(strings.TrimSuffix(s.shell(string(s.space)), "\n"))
	}
	if c.flags.print {
		s.emit(s.space)
	}
	if c.out != nil {
		s.put(c.out, s.space)
		c.out.Flush()
	}
}

// replace appends the replacement for one match.
func (c *sedCmd) replace(out, src []byte, m []int) []byte {
	var conv, once byte
	for _, p := range c.repl {
		text := []byte(p.text)
		switch {
		case p.conv == 'u' || p.conv == 'l':
			once = p.conv
			continue
		case p.conv == 'E':
			conv, once = 0, 0
			continue
		case p.conv != 0:
			conv, once = p.conv, 0
			continue
		case p.group >= 0:
			if 2*p.group >= len(m) || m[2*p.group] < 0 {
				continue
			}
			text = src[m[2*p.group]:m[2*p.group+1]]
		}
		if conv == 'U' {
			text = bytes.ToUpper(text)
		} else if conv == 'L' {
			text = bytes.ToLower(text)
		}
		if once != 0 && len(text) > 0 {
			r, n := utf8.DecodeRune(text)
			if once == 'u' {
				r = unicode.ToUpper(r)
			} else {
				r = unicode.ToLower(r)
			}
			out = utf8.AppendRune(out, r)
			text, once = text[n:], 0
		}
		out = append(out, text...)
	}
	return out
}

// list is l: the pattern space made visible.
func (s *sedState) list(width int) {
	if width < 0 {
		width = s.width
	}
	col := 0
	s.complete(s.out)
	add := func(t string) {
		if width > 1 && col+len(t) > width-1 {
			s.out.WriteString("\\\n")
			col = 0
		}
		s.out.WriteString(t)
		col += len(t)
	}
	for _, b := range s.space {
		switch k := strings.IndexByte("\\\a\b\f\n\r\t\v", b); {
		case k >= 0:
			add(`\` + string("\\abfnrtv"[k]))
		case b < ' ' || b >= 127:
			add(fmt.Sprintf("\\%03o", b))
		default:
			add(string(b))
		}
	}
	s.out.WriteString("$\n")
}

// execute is the e command.
func (s *sedState) execute(c *sedCmd) {
	if c.text != "" {
		s.write(s.shell(c.text))
		return
	}
	s.space = []byte(strings.TrimSuffix(s.shell(string(s.space)), "\n"))
}

// shell returns the output of a command.
func (s *sedState) shell(cmd string) string {
	s.out.Flush()
	out, _ := s.c.capture([]string{"sh", "-c", cmd})
	return string(out)
}
