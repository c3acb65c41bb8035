package applets

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"path"
	"sort"
	"strconv"
	"strings"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/regex"
	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, 64<<10) }

// compile compiles a pattern or ends the tool with GNU's message.
func (c *Ctx) compile(pattern string, syntax regex.Syntax, flags regex.Flags) *regex.Regexp {
	re, err := regex.Compile(pattern, syntax, flags)
	if err != nil {
		c.dieCode(max(c.usageStatus(), 1), "%v", err)
	}
	return re
}

type grepper struct {
	c                               *Ctx
	res                             []*regex.Regexp
	invert, count, only, quiet      bool
	listWith, listWithout, number   bool
	noMessages, nullName, byteOff   bool
	word, line, initialTab, color   bool
	text, skipBinary, lineBuf, null bool
	withName                        bool
	label                           string
	max, before, after              int
	groupSep                        string
	recurse, follow                 bool
	dirs                            string
	include, exclude, excludeDir    []string
	found, shown                    bool
}

// grep prints the lines that match.
func grep(c *Ctx) {
	const long = "extended-regexp=E fixed-strings=F basic-regexp=G perl-regexp=P regexp=e file=f ignore-case=i no-ignore-case word-regexp=w line-regexp=x null-data=z no-messages=s invert-match=v max-count=m byte-offset=b line-number=n line-buffered with-filename=H no-filename=h label: only-matching=o quiet=q silent=q binary-files: text=a directories=d devices=D recursive=r dereference-recursive=R include: exclude: exclude-from: exclude-dir: files-without-match=L files-with-matches=l count=c initial-tab=T null=Z before-context=B after-context=A context=C color? colour? group-separator: no-group-separator"
	o := c.options("EFGPe:f:iywxzsvm:bnHhoqad:D:rRLlcTZB:A:C:UIu0123456789", long)
	g := &grepper{c: c, max: -1, groupSep: "--"}
	syntax, fixed := regex.Basic, false
	switch c.name {
	case "egrep":
		syntax = regex.Extended
	case "fgrep":
		fixed = true
	}
	var patterns []string
	hasPattern, fold, names := false, false, ""
	num := func() int {
		n, err := strconv.Atoi(o.arg)
		if err != nil || n < 0 {
			c.dieCode(2, "%s: invalid context length argument", o.arg)
		}
		return n
	}
	digits := ""
	for o.next() {
		switch o.opt {
		case "E":
			syntax, fixed = regex.Extended, false
		case "F":
			fixed = true
		case "G":
			syntax, fixed = regex.Basic, false
		case "P":
			syntax, fixed = regex.Perl, false
		case "e":
			patterns, hasPattern = append(patterns, strings.Split(o.arg, "\n")...), true
		case "f":
			r, err := c.open(o.arg)
			if err != nil {
				c.dieCode(2, "%s: %s", o.arg, Strerror(err))
			}
			data, _ := io.ReadAll(r)
			if s := strings.TrimSuffix(string(data), "\n"); len(data) > 0 {
				patterns = append(patterns, strings.Split(s, "\n")...)
			}
			hasPattern = true
		case "i", "y":
			fold = true
		case "no-ignore-case":
			fold = false
		case "w":
			g.word = true
		case "x":
			g.line = true
		case "z":
			g.null = true
		case "s":
			g.noMessages = true
		case "v":
			g.invert = true
		case "m":
			n, err := strconv.Atoi(o.arg)
			if err != nil {
				c.dieCode(2, "invalid max count")
			}
			g.max = n
		case "b":
			g.byteOff = true
		case "n":
			g.number = true
		case "H", "h":
			names = o.opt
		case "label":
			g.label = o.arg
		case "o":
			g.only = true
		case "q":
			g.quiet = true
		case "a":
			g.text = true
		case "binary-files":
			g.text, g.skipBinary = o.arg == "text", o.arg == "without-match"
		case "I":
			g.skipBinary = true
		case "d":
			g.dirs = o.arg
			g.recurse = g.recurse || o.arg == "recurse"
		case "r":
			g.recurse = true
		case "R":
			g.recurse, g.follow = true, true
		case "include":
			g.include = append(g.include, o.arg)
		case "exclude":
			g.exclude = append(g.exclude, o.arg)
		case "exclude-dir":
			g.excludeDir = append(g.excludeDir, strings.TrimSuffix(o.arg, "/"))
		case "L":
			g.listWithout = true
		case "l":
			g.listWith = true
		case "c":
			g.count = true
		case "T":
			g.initialTab = true
		case "Z":
			g.nullName = true
		case "B":
			g.before = num()
		case "A":
			g.after = num()
		case "C":
			g.before = num()
			g.after = g.before
		case "color", "colour":
			g.color = o.arg == "always"
		case "group-separator":
			g.groupSep = o.arg
		case "no-group-separator":
			g.groupSep = "\x00"
		case "line-buffered":
			g.lineBuf = true
		case "0", "1", "2", "3", "4", "5", "6", "7", "8", "9":
			digits += o.opt
			g.before, _ = strconv.Atoi(digits)
			g.after = g.before
		}
	}
	args := o.args
	if !hasPattern {
		if len(args) == 0 {
			c.usage()
		}
		patterns, args = strings.Split(args[0], "\n"), args[1:]
	}
	g.compileAll(patterns, syntax, fixed, fold)
	if len(args) == 0 {
		if g.recurse {
			args = []string{""}
		} else {
			args = []string{"-"}
		}
	}
	g.withName = len(args) > 1 || g.recurse
	if g.recurse && len(args) == 1 && args[0] != "" {
		if i, err := sys.Stat(args[0]); err == nil && !i.IsDir() {
			g.withName = false
		}
	}
	switch names {
	case "H":
		g.withName = true
	case "h":
		g.withName = false
	}
	for _, a := range args {
		g.path(a, true)
	}
	switch {
	case g.found && (g.quiet || c.code == 0):
		c.code = 0
	case c.code == 0:
		c.code = 1
	}
}

func (g *grepper) compileAll(patterns []string, syntax regex.Syntax, fixed, fold bool) {
	var flags regex.Flags
	if fold {
		flags = regex.IgnoreCase
	}
	for _, p := range patterns {
		if fixed {
			p = quoteBasic(p)
			syntax = regex.Basic
		}
		switch {
		case g.line && syntax == regex.Basic:
			p = `^\(` + p + `\)$`
		case g.line && syntax == regex.Extended:
			p = `^(` + p + `)$`
		case g.line:
			p = `^(?:` + p + `)$`
		}
		if g.line && syntax != regex.Perl { // the added group must not count
			p = shiftBackrefs(p)
		}
		re, err := regex.Compile(p, syntax, flags)
		if err != nil {
			g.c.dieCode(2, "%v", err)
		}
		g.res = append(g.res, re)
	}
}

// shiftBackrefs adds one to each back-reference.
func shiftBackrefs(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] == '\\' && i+1 < len(p) {
			b.WriteByte('\\')
			i++
			if p[i] >= '1' && p[i] < '9' {
				b.WriteByte(p[i] + 1)
				continue
			}
		}
		b.WriteByte(p[i])
	}
	return b.String()
}

// quoteBasic makes a basic regular expression of plain text.
func quoteBasic(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(`.[\*^$`, s[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// matches finds the matches in a line that count, all or only the first.
func (g *grepper) matches(line []byte, all bool) [][]int {
	n := 1
	if all || g.word {
		n = -1
	}
	var out [][]int
	for _, re := range g.res {
		if n == 1 {
			if re.Match(line) {
				return [][]int{{0, 0}}
			}
			continue
		}
		for _, m := range re.All(line, n) {
			if g.word {
				m = g.wordMatch(re, line, m)
				if m == nil {
					continue
				}
			}
			out = append(out, m[:2])
		}
	}
	if len(g.res) > 1 && len(out) > 1 {
		sort.SliceStable(out, func(i, j int) bool {
			return out[i][0] < out[j][0] || out[i][0] == out[j][0] && out[i][1] > out[j][1]
		})
		keep := out[:1]
		for _, m := range out[1:] {
			if m[0] >= keep[len(keep)-1][1] {
				keep = append(keep, m)
			}
		}
		out = keep
	}
	return out
}

// wordMatch checks that no word character adjoins m, trying shorter matches
// at the same place and later ones inside it.
func (g *grepper) wordMatch(re *regex.Regexp, line []byte, m []int) []int {
	isWord := func(i int) bool {
		if i < 0 || i >= len(line) {
			return false
		}
		b := line[i]
		return b == '_' || '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || b >= 128
	}
	for start := m[0]; start <= m[1]; {
		if !isWord(start - 1) {
			for end := m[1]; end >= start; end-- {
				if isWord(end) {
					continue
				}
				if k := re.Find(line[start:end]); k != nil && k[0] == 0 && k[1] == end-start {
					return []int{start, end}
				}
			}
		}
		next := re.Find(line[start+min(1, len(line)-start):])
		if next == nil || start >= len(line) {
			return nil
		}
		m = []int{next[0] + start + 1, next[1] + start + 1}
		start = m[0]
	}
	return nil
}

// path greps a file, or a tree if that was asked for.
func (g *grepper) path(name string, top bool) {
	c := g.c
	if name == "-" {
		label := g.label
		if label == "" {
			label = "(standard input)"
		}
		g.file(label, c.in)
		return
	}
	disk := name
	if disk == "" {
		disk = "."
	}
	stat := sys.Stat
	if g.recurse && !g.follow && !top {
		stat = sys.Lstat
	}
	i, err := stat(disk)
	if err != nil {
		g.complain(name, Strerror(err))
		return
	}
	if i.IsLink() {
		return
	}
	base := path.Base(name)
	if i.IsDir() {
		switch {
		case !g.recurse && g.dirs == "skip":
		case !g.recurse:
			g.complain(name, "Is a directory")
		case matchAny(g.excludeDir, base) && !(top && name == "") || matchAny(g.excludeDir, name):
		default:
			entries, err := os.ReadDir(disk)
			if err != nil {
				g.complain(name, Strerror(err))
				return
			}
			for _, e := range entries {
				sub := e.Name()
				if name != "" {
					sub = strings.TrimSuffix(name, "/") + "/" + sub
				}
				g.path(sub, false)
			}
		}
		return
	}
	if len(g.include) > 0 && !matchAny(g.include, base) || matchAny(g.exclude, base) {
		return
	}
	if !top && i.StMode&sys.ModeType != sys.ModeFile {
		return
	}
	f, err := os.Open(disk)
	if err != nil {
		g.complain(name, Strerror(err))
		return
	}
	defer f.Close()
	g.file(name, f)
}

func (g *grepper) complain(name, text string) {
	if g.noMessages {
		g.c.code = 2
		return
	}
	g.c.warn("%s: %s", name, text)
	if text != "Is a directory" {
		g.c.code = 2
	}
}

func matchAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if fnmatch(p, name) {
			return true
		}
	}
	return false
}

// file greps one file.
func (g *grepper) file(name string, r io.Reader) {
	c := g.c
	end := byte('\n')
	if g.null {
		end = 0
	}
	br := newReader(r)
	binary := false
	if !g.text {
		if peek, _ := br.Peek(32 << 10); bytes.IndexByte(peek, 0) >= 0 && !g.null {
			if g.skipBinary {
				return
			}
			binary = true
		}
	}
	var before [][]byte
	lineNo, count, offset := 0, 0, int64(0)
	pending, lastShown := 0, -1
	context := g.before > 0 || g.after > 0
	for b := range records(br, end) {
		lineNo++
		line := bytes.TrimSuffix(b, []byte{end})
		start := offset
		offset += int64(len(b))
		show := g.only || g.color
		m := g.matches(line, show)
		if (len(m) > 0) != g.invert && g.max != 0 {
			count++
			g.found = true
			switch {
			case g.quiet:
				c.exit(0)
			case g.listWith || g.listWithout:
				if g.listWith {
					g.name(name)
				}
				return
			case g.count:
			case binary:
				c.flush()
				c.printf("Binary file %s matches\n", name)
				c.flush()
				return
			default:
				if context && (lastShown >= 0 && lineNo-len(before) > lastShown+1 || lastShown < 0 && g.shown) && g.groupSep != "\x00" {
					c.print(g.colored(g.groupSep, "36") + "\n")
				}
				for i, l := range before {
					g.line_(name, lineNo-len(before)+i, -1, l, '-', nil, end)
				}
				before = before[:0]
				switch {
				case g.only && g.invert:
				case g.only:
					for _, k := range m {
						if k[1] > k[0] {
							g.line_(name, lineNo, start+int64(k[0]), line[k[0]:k[1]], ':', [][]int{{0, k[1] - k[0]}}, end)
						}
					}
				default:
					g.line_(name, lineNo, start, line, ':', m, end)
				}
				lastShown, g.shown = lineNo, true
				pending = g.after
			}
			if g.lineBuf {
				c.flush()
			}
			if g.max > 0 && count >= g.max {
				if pending == 0 || g.count {
					break
				}
				g.afterMax(name, br, lineNo, pending, end)
				break
			}
			continue
		}
		switch {
		case g.count || g.quiet || g.listWith || g.listWithout:
		case pending > 0:
			g.line_(name, lineNo, start, line, '-', nil, end)
			pending--
			lastShown = lineNo
		case g.before > 0:
			if len(before) == g.before {
				before = before[1:]
			}
			before = append(before, bytes.Clone(line))
		}
		if g.max == 0 {
			break
		}
	}
	switch {
	case g.listWithout:
		g.name(name)
	case g.count && !g.listWith && !g.quiet:
		if g.withName {
			c.print(g.colored(name, "35"))
			if g.nullName {
				c.out.WriteByte(0)
			} else {
				c.print(g.colored(":", "36"))
			}
		}
		c.println(count)
	}
}

// afterMax prints the context after the last line that -m allows.
func (g *grepper) afterMax(name string, br *bufio.Reader, lineNo, n int, end byte) {
	for b := range records(br, end) {
		lineNo++
		line := bytes.TrimSuffix(b, []byte{end})
		if n == 0 || len(g.matches(line, false)) > 0 != g.invert {
			return
		}
		n--
		g.line_(name, lineNo, -1, line, '-', nil, end)
	}
}

func (g *grepper) name(name string) {
	end := "\n"
	if g.nullName {
		end = "\x00"
	}
	g.c.print(g.colored(name, "35") + end)
}

func (g *grepper) colored(s, code string) string {
	if !g.color || s == "" {
		return s
	}
	return "\x1b[" + code + "m\x1b[K" + s + "\x1b[m\x1b[K"
}

// line_ prints one line with its prefixes.
func (g *grepper) line_(name string, no int, offset int64, line []byte, sep byte, m [][]int, end byte) {
	c := g.c
	if g.withName {
		c.print(g.colored(name, "35"))
		if g.nullName {
			c.out.WriteByte(0)
		} else {
			c.print(g.colored(string(sep), "36"))
		}
	}
	if g.number {
		c.print(g.colored(strconv.Itoa(no), "32") + g.colored(string(sep), "36"))
	}
	if g.byteOff && offset >= 0 {
		c.print(g.colored(strconv.FormatInt(offset, 10), "32") + g.colored(string(sep), "36"))
	}
	if g.initialTab {
		c.out.WriteByte('\t')
	}
	if g.color && !g.invert {
		at := 0
		for _, k := range m {
			c.out.Write(line[at:k[0]])
			c.print(g.colored(string(line[k[0]:k[1]]), "01;31"))
			at = k[1]
		}
		line = line[at:]
	}
	c.out.Write(line)
	c.out.WriteByte(end)
}
