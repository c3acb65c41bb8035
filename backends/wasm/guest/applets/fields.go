package applets

import (
	"bytes"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Tools that work on columns and on pairs of sorted files.

// span is a range of a cut list, from 1; hi is -1 when it is open.
type span struct{ lo, hi int }

// parseSpans reads 1,3-5,7- and merges what overlaps.
func (c *Ctx) parseSpans(list string, fields bool) []span {
	var l []span
	what := "byte/character position"
	if fields {
		what = "field"
	}
	for _, f := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		lo, hi, dash := strings.Cut(f, "-")
		a, err1 := strconv.Atoi(lo)
		b, err2 := strconv.Atoi(hi)
		switch {
		case !dash:
			b, err2 = a, nil
		case lo == "" && hi == "":
			c.warn("invalid range with no endpoint: -")
			c.usage()
		default:
			if lo == "" {
				a, err1 = 1, nil
			}
			if hi == "" {
				b, err2 = -1, nil
			}
		}
		if err1 != nil || err2 != nil {
			c.warn("invalid %s %s", map[bool]string{true: "field value", false: "byte/character position"}[fields], quote(f))
			c.usage()
		}
		if a == 0 {
			if fields {
				c.warn("fields are numbered from 1")
			} else {
				c.warn("byte/character positions are numbered from 1")
			}
			c.usage()
		}
		if b >= 0 && b < a {
			c.warn("invalid decreasing range")
			c.usage()
		}
		l = append(l, span{a, b})
	}
	if len(l) == 0 {
		c.warn("invalid %s %s", what, quote(list))
		c.usage()
	}
	sort.Slice(l, func(i, j int) bool { return l[i].lo < l[j].lo })
	out := l[:1]
	for _, s := range l[1:] {
		last := &out[len(out)-1]
		switch {
		case last.hi < 0:
		case s.lo <= last.hi:
			if s.hi < 0 || s.hi > last.hi {
				last.hi = s.hi
			}
		default:
			out = append(out, s)
		}
	}
	return out
}

func complementSpans(l []span) []span {
	var out []span
	next := 1
	for _, s := range l {
		if s.lo > next {
			out = append(out, span{next, s.lo - 1})
		}
		if s.hi < 0 {
			return out
		}
		next = s.hi + 1
	}
	return append(out, span{next, -1})
}

func inSpans(l []span, i int) bool {
	for _, s := range l {
		if i >= s.lo && (s.hi < 0 || i <= s.hi) {
			return true
		}
	}
	return false
}

func cut(c *Ctx) {
	o := c.options("b:c:d:f:nsz", "bytes=b characters=c delimiter=d fields=f only-delimited=s zero-terminated=z complement output-delimiter:")
	kind, list, delim, outDelim, hasOut, only, comp, end := "", "", "\t", "", false, false, false, byte('\n')
	hasDelim := false
	for o.next() {
		switch o.opt {
		case "b", "c", "f":
			if kind != "" {
				c.warn("only one type of list may be specified")
				c.usage()
			}
			kind, list = o.opt, o.arg
		case "d":
			delim, hasDelim = o.arg, true
			if utf8.RuneCountInString(delim) > 1 {
				c.warn("the delimiter must be a single character")
				c.usage()
			}
			if delim == "" {
				delim = "\x00"
			}
		case "s":
			only = true
		case "complement":
			comp = true
		case "output-delimiter":
			outDelim, hasOut = o.arg, true
		case "z":
			end = 0
		}
	}
	switch {
	case kind == "":
		c.warn("you must specify a list of bytes, characters, or fields")
		c.usage()
	case kind != "f" && hasDelim:
		c.warn("an input delimiter may be specified only when operating on fields")
		c.usage()
	case kind != "f" && only:
		c.warn("suppressing non-delimited lines makes sense\n\tonly when operating on fields")
		c.usage()
	}
	spans := c.parseSpans(list, kind == "f")
	if comp {
		spans = complementSpans(spans)
	}
	if !hasOut {
		outDelim = delim
	}
	for _, r := range c.inputs(o.args) {
		for b := range records(r, end) {
			b = bytes.TrimSuffix(b, []byte{end})
			if kind == "f" {
				if !bytes.Contains(b, []byte(delim)) {
					if !only {
						c.out.Write(b)
						c.out.WriteByte(end)
					}
					continue
				}
				first := true
				for i, f := range bytes.Split(b, []byte(delim)) {
					if inSpans(spans, i+1) {
						if !first {
							c.print(outDelim)
						}
						first = false
						c.out.Write(f)
					}
				}
			} else {
				c.cutBytes(b, spans, kind == "c", outDelim, hasOut)
			}
			c.out.WriteByte(end)
		}
	}
}

func (c *Ctx) cutBytes(b []byte, spans []span, chars bool, outDelim string, hasOut bool) {
	var r []rune
	n := len(b)
	if chars && !isASCII(b) {
		r = []rune(string(b))
		n = len(r)
	}
	for i, s := range spans {
		lo, hi := min(s.lo-1, n), n
		if s.hi >= 0 {
			hi = min(s.hi, n)
		}
		if hasOut && i > 0 && lo < hi {
			c.print(outDelim)
		}
		if r != nil {
			c.print(string(r[lo:hi]))
		} else {
			c.out.Write(b[lo:hi])
		}
	}
}

func isASCII(b []byte) bool {
	for _, ch := range b {
		if ch >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func paste(c *Ctx) {
	o := c.options("d:sz", "delimiters=d serial=s zero-terminated=z")
	delims, serial, end := "\t", false, byte('\n')
	for o.next() {
		switch o.opt {
		case "d":
			delims = o.arg
		case "s":
			serial = true
		case "z":
			end = 0
		}
	}
	var list []string
	for i := 0; i < len(delims); i++ {
		if delims[i] == '\\' && i+1 < len(delims) {
			i++
			list = append(list, map[byte]string{'n': "\n", 't': "\t", '0': "", '\\': "\\"}[delims[i]])
			continue
		}
		_, n := utf8.DecodeRuneInString(delims[i:])
		list = append(list, delims[i:i+n])
		i += n - 1
	}
	if len(list) == 0 {
		list = []string{""}
	}
	names := o.args
	if len(names) == 0 {
		names = []string{"-"}
	}
	if serial {
		for _, r := range c.inputs(names) {
			i := 0
			for b := range records(r, end) {
				if i > 0 {
					c.print(list[(i-1)%len(list)])
				}
				c.out.Write(bytes.TrimSuffix(b, []byte{end}))
				i++
			}
			c.out.WriteByte(end)
		}
		return
	}
	var files []*lineSource
	stdin := newLineSource(c.in, end)
	for _, n := range names {
		if n == "-" {
			files = append(files, stdin)
			continue
		}
		r, err := c.open(n)
		if err != nil {
			c.die("%s: %s", n, Strerror(err))
		}
		defer r.Close()
		files = append(files, newLineSource(r, end))
	}
	for {
		row, any := "", false
		for i, f := range files {
			line, ok := f.next()
			any = any || ok
			if i > 0 {
				row += list[(i-1)%len(list)]
			}
			row += line
		}
		if !any {
			return
		}
		c.print(row)
		c.out.WriteByte(end)
	}
}

// lineSource reads one line at a time.
type lineSource struct {
	pull func() ([]byte, bool)
	end  byte
	line string
	ok   bool
}

func newLineSource(r io.Reader, end byte) *lineSource {
	br := newReader(r)
	s := &lineSource{end: end}
	s.pull = func() ([]byte, bool) {
		b, err := br.ReadBytes(end)
		return b, err == nil || len(b) > 0
	}
	return s
}

// next returns a line without its end.
func (s *lineSource) next() (string, bool) {
	b, ok := s.pull()
	s.line, s.ok = strings.TrimSuffix(string(b), string(s.end)), ok
	return s.line, ok
}

// sources opens two files for comm and join.
func (c *Ctx) sources(names []string, end byte) [2]*lineSource {
	switch {
	case len(names) == 0:
		c.missing()
	case len(names) == 1:
		c.missingAfter(names[0])
	case len(names) > 2:
		c.extra(names[2])
	}
	var s [2]*lineSource
	for i, n := range names {
		r, err := c.open(n)
		if err != nil {
			c.die("%s: %s", n, Strerror(err))
		}
		s[i] = newLineSource(r, end)
	}
	return s
}

func comm(c *Ctx) {
	o := c.options("123z", "check-order nocheck-order output-delimiter: total zero-terminated=z")
	var hide [4]bool
	delim, end, total := "\t", byte('\n'), false
	for o.next() {
		switch o.opt {
		case "1", "2", "3":
			hide[o.opt[0]-'0'] = true
		case "output-delimiter":
			delim = o.arg
		case "total":
			total = true
		case "z":
			end = 0
		}
	}
	s := c.sources(o.args, end)
	prefix := [4]string{}
	if !hide[1] {
		prefix[2] = delim
	}
	prefix[3] = prefix[2]
	if !hide[2] {
		prefix[3] += delim
	}
	var counts [4]int
	show := func(col int, line string) {
		counts[col]++
		if !hide[col] {
			c.print(prefix[col] + line)
			c.out.WriteByte(end)
		}
	}
	s[0].next()
	s[1].next()
	warned := [2]bool{}
	advance := func(i int) {
		old := s[i].line
		if s[i].next(); s[i].ok && s[i].line < old && !warned[i] {
			warned[i] = true
			c.fail("file %d is not in sorted order", i+1)
		}
	}
	for s[0].ok || s[1].ok {
		switch {
		case !s[1].ok || s[0].ok && s[0].line < s[1].line:
			show(1, s[0].line)
			advance(0)
		case !s[0].ok || s[1].line < s[0].line:
			show(2, s[1].line)
			advance(1)
		default:
			show(3, s[0].line)
			advance(0)
			advance(1)
		}
	}
	if total {
		c.printf("%d%s%d%s%d%stotal\n", counts[1], delim, counts[2], delim, counts[3], delim)
	}
	if warned[0] || warned[1] {
		c.warn("input is not in sorted order")
	}
}

// joinTool is join.
func joinTool(c *Ctx) {
	o := c.options("a:e:i1:2:j:o:t:v:z", "ignore-case=i check-order nocheck-order header zero-terminated=z")
	var unpaired [3]bool
	only, empty, fold, sep, format, header, end := false, "", false, "", "", false, byte('\n')
	field := [2]int{0, 0}
	num := func() int {
		n, err := strconv.Atoi(o.arg)
		if err != nil || n < 1 {
			c.die("invalid field number: %s", quote(o.arg))
		}
		return n - 1
	}
	for o.next() {
		switch o.opt {
		case "a", "v":
			n, _ := strconv.Atoi(o.arg)
			if n != 1 && n != 2 {
				c.die("invalid field number: %s", quote(o.arg))
			}
			unpaired[n] = true
			only = only || o.opt == "v"
		case "e":
			empty = o.arg
		case "i":
			fold = true
		case "1":
			field[0] = num()
		case "2":
			field[1] = num()
		case "j":
			field[0] = num()
			field[1] = field[0]
		case "o":
			format += "," + o.arg
		case "t":
			sep = o.arg
			if sep == `\t` {
				sep = "\t"
			}
			if sep == `\0` {
				sep = "\x00"
			}
		case "header":
			header = true
		case "z":
			end = 0
		}
	}
	s := c.sources(o.args, end)
	split := func(line string) []string {
		if sep == "" {
			return strings.Fields(line)
		}
		return strings.Split(line, sep)
	}
	outSep := sep
	if sep == "" {
		outSep = " "
	}
	get := func(f []string, i int) string {
		if i < len(f) && f[i] != "" {
			return f[i]
		}
		return empty
	}
	key := func(i int, f []string) string {
		k := ""
		if field[i] < len(f) {
			k = f[field[i]]
		}
		if fold {
			k = strings.ToLower(k)
		}
		return k
	}
	rows := [2][][]string{}
	for i := range 2 {
		for line, ok := s[i].next(); ok; line, ok = s[i].next() {
			rows[i] = append(rows[i], split(line))
		}
	}
	if format == ",auto" {
		format = ",0"
		for i := range 2 {
			n := 0
			if len(rows[i]) > 0 {
				n = len(rows[i][0])
			}
			for k := range n {
				if k != field[i] {
					format += "," + strconv.Itoa(i+1) + "." + strconv.Itoa(k+1)
				}
			}
		}
	}
	show := func(a, b []string) {
		var out []string
		if format != "" {
			for _, f := range strings.FieldsFunc(format, func(r rune) bool { return r == ',' || r == ' ' }) {
				if f == "0" {
					if a != nil {
						out = append(out, get(a, field[0]))
					} else {
						out = append(out, get(b, field[1]))
					}
					continue
				}
				file, idx, _ := strings.Cut(f, ".")
				n, err := strconv.Atoi(idx)
				if err != nil || file != "1" && file != "2" {
					c.die("invalid field specifier: %s", quote(f))
				}
				if file == "1" {
					out = append(out, get(a, n-1))
				} else {
					out = append(out, get(b, n-1))
				}
			}
		} else {
			if a != nil {
				out = append(out, get(a, field[0]))
			} else {
				out = append(out, get(b, field[1]))
			}
			for i, f := range [][]string{a, b} {
				for k := range f {
					if k != field[i] {
						out = append(out, get(f, k))
					}
				}
			}
		}
		c.print(strings.Join(out, outSep))
		c.out.WriteByte(end)
	}
	i, j := 0, 0
	if header && len(rows[0]) > 0 && len(rows[1]) > 0 {
		show(rows[0][0], rows[1][0])
		i, j = 1, 1
	}
	for i < len(rows[0]) && j < len(rows[1]) {
		a, b := key(0, rows[0][i]), key(1, rows[1][j])
		switch {
		case a < b:
			if unpaired[1] {
				show(rows[0][i], nil)
			}
			i++
		case a > b:
			if unpaired[2] {
				show(nil, rows[1][j])
			}
			j++
		default:
			i2, j2 := i, j
			for i2 < len(rows[0]) && key(0, rows[0][i2]) == a {
				i2++
			}
			for j2 < len(rows[1]) && key(1, rows[1][j2]) == a {
				j2++
			}
			if !only {
				for x := i; x < i2; x++ {
					for y := j; y < j2; y++ {
						show(rows[0][x], rows[1][y])
					}
				}
			}
			i, j = i2, j2
		}
	}
	for ; unpaired[1] && i < len(rows[0]); i++ {
		show(rows[0][i], nil)
	}
	for ; unpaired[2] && j < len(rows[1]); j++ {
		show(nil, rows[1][j])
	}
}

func uniq(c *Ctx) {
	o := c.options("cdDf:is:uw:z", "count=c repeated=d all-repeated? skip-fields=f ignore-case=i skip-chars=s unique=u check-chars=w zero-terminated=z group?")
	var count, dup, all, single, fold bool
	skipF, skipC, width, end, group := 0, 0, -1, byte('\n'), ""
	sepMode := "none"
	num := func() int {
		n, err := strconv.Atoi(o.arg)
		if err != nil || n < 0 {
			c.die("%s: invalid number of fields to skip", o.arg)
		}
		return n
	}
	for o.next() {
		switch o.opt {
		case "c":
			count = true
		case "d":
			dup = true
		case "D":
			all = true
		case "all-repeated":
			all = true
			if o.has {
				sepMode = o.arg
			}
		case "f":
			skipF = num()
		case "i":
			fold = true
		case "s":
			skipC = num()
		case "u":
			single = true
		case "w":
			width = num()
		case "z":
			end = 0
		case "group":
			group = "separate"
			if o.has {
				group = o.arg
			}
		}
	}
	if len(o.args) > 2 {
		c.extra(o.args[2])
	}
	var in []string
	if len(o.args) > 0 {
		in = o.args[:1]
	}
	if len(o.args) == 2 && o.args[1] != "-" {
		f, err := os.Create(o.args[1])
		if err != nil {
			c.die("%s: %s", o.args[1], Strerror(err))
		}
		defer f.Close()
		c.flush()
		c.out.Reset(f)
		defer c.out.Flush()
	}
	key := func(s string) string {
		for range skipF {
			s = strings.TrimLeft(s, " \t")
			i := strings.IndexAny(s, " \t")
			if i < 0 {
				s = ""
				break
			}
			s = s[i:]
		}
		s = s[min(skipC, len(s)):]
		if width >= 0 {
			s = truncate(s, width)
		}
		if fold {
			s = strings.ToLower(s)
		}
		return s
	}
	var run []string
	prev, groups := "", 0
	flush := func() {
		if len(run) == 0 {
			return
		}
		n := len(run)
		switch {
		case group != "":
			if groups > 0 && (group == "separate" || group == "both") || group == "prepend" || group == "both" && groups == 0 {
				c.out.WriteByte(end)
			}
			for _, l := range run {
				c.print(l + string(end))
			}
			if group == "append" {
				c.out.WriteByte(end)
			}
			groups++
			return
		case all:
			if n > 1 {
				if sepMode == "prepend" || sepMode == "separate" && groups > 0 {
					c.out.WriteByte(end)
				}
				groups++
				for _, l := range run {
					c.print(l + string(end))
				}
			}
			return
		case dup && n == 1, single && n > 1:
			return
		}
		if count {
			c.printf("%7d ", n)
		}
		c.print(run[0] + string(end))
	}
	keepAll := all || group != ""
	n := 0
	for _, r := range c.inputs(in) {
		for b := range records(r, end) {
			line := strings.TrimSuffix(string(b), string(end))
			k := key(line)
			if n > 0 && k == prev {
				if keepAll {
					run = append(run, line)
				} else {
					run = append(run, "")[:len(run)+1]
				}
				continue
			}
			flush()
			run, prev = []string{line}, k
			n++
		}
	}
	flush()
	if group == "both" && groups > 0 {
		c.out.WriteByte(end)
	}
}

// column aligns: -t tables, else fills columns.
func column(c *Ctx) {
	o := c.options("c:s:tnexo:N:R:H:JlL", "table=t separator=s output-separator=o table-columns=N output-width=c columns=c fillrows=x table-right=R table-hide=H keep-empty-lines=L")
	table, sep, outSep, width, names, right, byRow := false, "", "  ", 80, "", "", false
	for o.next() {
		switch o.opt {
		case "t":
			table = true
		case "s":
			sep = o.arg
		case "o":
			outSep = o.arg
		case "c":
			if n, err := strconv.Atoi(o.arg); err == nil {
				width = n
			}
		case "N":
			names = o.arg
		case "R":
			right = o.arg
		case "x":
			byRow = true
		}
	}
	lines := c.allLines(o.args)
	if table {
		var rows [][]string
		if names != "" {
			rows = append(rows, strings.Split(names, ","))
		}
		for _, l := range lines {
			if strings.TrimSpace(l) == "" {
				continue
			}
			if sep == "" {
				rows = append(rows, strings.Fields(l))
			} else {
				rows = append(rows, splitAnySep(l, sep))
			}
		}
		alignRight := map[int]bool{}
		for _, f := range strings.Split(right, ",") {
			if n, err := strconv.Atoi(f); err == nil {
				alignRight[n-1] = true
			}
		}
		var widths []int
		for _, r := range rows {
			for i, f := range r {
				if i == len(widths) {
					widths = append(widths, 0)
				}
				widths[i] = max(widths[i], textWidth(f))
			}
		}
		for _, r := range rows {
			var b strings.Builder
			for i := range widths {
				f := ""
				if i < len(r) {
					f = r[i]
				}
				pad := strings.Repeat(" ", widths[i]-textWidth(f))
				switch {
				case alignRight[i]:
					b.WriteString(pad + f)
				case i == len(widths)-1:
					b.WriteString(f)
				default:
					b.WriteString(f + pad)
				}
				if i < len(widths)-1 {
					b.WriteString(outSep)
				}
			}
			c.println(b.String())
		}
		return
	}
	var items []string
	longest := 0
	for _, l := range lines {
		if l == "" {
			continue
		}
		items = append(items, l)
		longest = max(longest, textWidth(l))
	}
	cell := (longest + 8) &^ 7
	if longest == 0 {
		return
	}
	cols := max(width/cell, 1)
	rows := (len(items) + cols - 1) / cols
	for i := range rows {
		col := 0
		for k := range cols {
			at := k*rows + i
			if byRow {
				at = i*cols + k
			}
			if at >= len(items) {
				break
			}
			c.print(items[at])
			col = k*cell + textWidth(items[at])
			nextAt := at + rows
			if byRow {
				nextAt = at + 1
			}
			if nextAt < len(items) && k+1 < cols {
				for col < (k+1)*cell {
					c.out.WriteByte('\t')
					col = (col + 8) &^ 7
				}
			}
		}
		c.out.WriteByte('\n')
	}
}

func splitAnySep(s, seps string) []string {
	var out []string
	start := 0
	for i := range len(s) {
		if strings.IndexByte(seps, s[i]) >= 0 {
			out = append(out, s[start:i])
			start = i + 1
		}
	}
	return append(out, s[start:])
}

func tsort(c *Ctx) {
	args := c.operands()
	var words []string
	name := "-"
	if len(args) > 0 {
		name = args[0]
	}
	for _, r := range c.inputs(args) {
		data, _ := io.ReadAll(r)
		words = append(words, strings.Fields(string(data))...)
	}
	if len(words)%2 == 1 {
		c.die("%s: input contains an odd number of tokens", name)
	}
	var order []string
	after := map[string][]string{}
	count := map[string]int{}
	see := func(w string) {
		if _, ok := count[w]; !ok {
			count[w] = 0
			order = append(order, w)
		}
	}
	for i := 0; i < len(words); i += 2 {
		a, b := words[i], words[i+1]
		see(a)
		see(b)
		if a != b {
			after[a] = append(after[a], b)
			count[b]++
		}
	}
	sort.Strings(order)
	done := map[string]bool{}
	var queue []string
	for _, w := range order {
		if count[w] == 0 {
			queue = append(queue, w)
		}
	}
	for len(done) < len(order) {
		if len(queue) == 0 { // a loop: break it at the first that is left
			c.fail("%s: input contains a loop:", name)
			for _, w := range order {
				if !done[w] {
					c.warn("%s", w)
					queue = append(queue, w)
					break
				}
			}
		}
		w := queue[0]
		queue = queue[1:]
		if done[w] {
			continue
		}
		done[w] = true
		c.println(w)
		for i := len(after[w]) - 1; i >= 0; i-- {
			b := after[w][i]
			if count[b]--; count[b] == 0 && !done[b] {
				queue = append(queue, b)
			}
		}
	}
}

// tr translates, squeezes and deletes.
func tr(c *Ctx) {
	o := c.options("+cCdst", "complement=c delete=d squeeze-repeats=s truncate-set1=t")
	var comp, del, squeeze, trunc bool
	for o.next() {
		switch o.opt {
		case "c", "C":
			comp = true
		case "d":
			del = true
		case "s":
			squeeze = true
		case "t":
			trunc = true
		}
	}
	args := o.args
	switch {
	case len(args) == 0:
		c.missing()
	case len(args) == 1 && !del && !squeeze:
		c.warn("missing operand after %s", quote(args[0]))
		c.err.Write([]byte("Two strings must be given when translating.\n"))
		c.usage()
	case len(args) == 1 && del && squeeze:
		c.warn("missing operand after %s", quote(args[0]))
		c.err.Write([]byte("Two strings must be given when both deleting and squeezing repeats.\n"))
		c.usage()
	case len(args) > 2 || len(args) == 2 && del && !squeeze:
		x := args[len(args)-1]
		c.warn("extra operand %s", quote(x))
		if len(args) == 2 {
			c.err.Write([]byte("Only one string may be given when deleting without squeezing repeats.\n"))
		}
		c.usage()
	}
	set1 := c.trSet(args[0], -1)
	in1 := [256]bool{}
	for _, b := range set1 {
		in1[b] = true
	}
	if comp {
		set1 = set1[:0]
		for i := range 256 {
			in1[i] = !in1[i]
			if in1[i] {
				set1 = append(set1, byte(i))
			}
		}
	}
	var table [256]byte
	for i := range table {
		table[i] = byte(i)
	}
	translate := len(args) == 2 && !del
	var set2 []byte
	if len(args) == 2 {
		n := len(set1)
		if del {
			n = -1
		}
		set2 = c.trSet(args[1], n)
		if translate {
			if len(set2) == 0 && !trunc {
				c.die("when not truncating set1, string2 must be non-empty")
			}
			for i, b := range set1 {
				switch {
				case i < len(set2):
					table[b] = set2[i]
				case !trunc:
					table[b] = set2[len(set2)-1]
				}
			}
		}
	}
	var sq [256]bool
	if squeeze {
		last := set1
		if len(args) == 2 {
			last = set2
		}
		for _, b := range last {
			sq[b] = true
		}
	}
	buf := make([]byte, 32<<10)
	prev := -1
	for {
		n, err := c.in.Read(buf)
		out := buf[:0]
		for _, b := range buf[:n] {
			if del && in1[b] {
				continue
			}
			if translate {
				b = table[b]
			}
			if squeeze && sq[b] && int(b) == prev {
				continue
			}
			prev = int(b)
			out = append(out, b)
		}
		c.out.Write(out)
		if n < len(buf) {
			c.flush()
		}
		if err != nil {
			return
		}
	}
}

// trSet expands a-z, [:class:], [=c=], [c*n] and escapes. size is the length
// that [c*] fills up to.
func (c *Ctx) trSet(s string, size int) []byte {
	var out []byte
	fillAt, fillByte := -1, byte(0)
	char := func(i int) (b byte, next int) {
		if s[i] != '\\' || i+1 == len(s) {
			return s[i], i + 1
		}
		if k := strings.IndexByte("abfnrtv\\", s[i+1]); k >= 0 {
			return "\a\b\f\n\r\t\v\\"[k], i + 2
		}
		if n, end, ok := digits(s, i+1, 3, 8); ok {
			if n > 255 {
				n, end = n>>3, end-1
			}
			return byte(n), end
		}
		return s[i+1], i + 2
	}
	for i := 0; i < len(s); {
		if rest, ok := strings.CutPrefix(s[i:], "[:"); ok {
			if end := strings.Index(rest, ":]"); end >= 0 {
				name := rest[:end]
				class, ok := byteClass(name)
				if !ok {
					c.die("invalid character class %s", quote(name))
				}
				out = append(out, class...)
				i += end + 4
				continue
			}
		}
		if strings.HasPrefix(s[i:], "[=") && len(s) > i+4 && s[i+3:i+5] == "=]" {
			out = append(out, s[i+2])
			i += 5
			continue
		}
		if s[i] == '[' && i+2 < len(s) {
			if b, next := char(i + 1); next < len(s) && s[next] == '*' {
				if end := strings.IndexByte(s[next:], ']'); end > 0 {
					num := s[next+1 : next+end]
					base := 10
					if strings.HasPrefix(num, "0") {
						base = 8
					}
					n, err := strconv.ParseInt(num, base, 32)
					if num == "" || err == nil {
						if n == 0 {
							fillAt, fillByte = len(out), b
						}
						out = append(out, bytes.Repeat([]byte{b}, int(n))...)
						i = next + end + 1
						continue
					}
				}
			}
		}
		lo, next := char(i)
		if next+1 < len(s) && s[next] == '-' {
			hi, after := char(next + 1)
			if hi < lo {
				c.die("range-endpoints of '%s' are in reverse collating sequence order", s[i:after])
			}
			for b := int(lo); b <= int(hi); b++ {
				out = append(out, byte(b))
			}
			i = after
			continue
		}
		out = append(out, lo)
		i = next
	}
	if fillAt >= 0 && size > len(out) {
		fill := bytes.Repeat([]byte{fillByte}, size-len(out))
		out = append(out[:fillAt:fillAt], append(fill, out[fillAt:]...)...)
	}
	return out
}

// byteClass lists the bytes of a class in the C locale.
func byteClass(name string) ([]byte, bool) {
	var in func(rune) bool
	switch name {
	case "alpha":
		in = unicode.IsLetter
	case "digit":
		in = unicode.IsDigit
	case "alnum":
		in = func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }
	case "upper":
		in = unicode.IsUpper
	case "lower":
		in = unicode.IsLower
	case "space":
		in = func(r rune) bool { return r == ' ' || '\t' <= r && r <= '\r' }
	case "blank":
		in = func(r rune) bool { return r == ' ' || r == '\t' }
	case "punct":
		in = func(r rune) bool { return r > ' ' && r < 127 && !unicode.IsLetter(r) && !unicode.IsDigit(r) }
	case "print":
		in = func(r rune) bool { return r >= ' ' && r < 127 }
	case "graph":
		in = func(r rune) bool { return r > ' ' && r < 127 }
	case "cntrl":
		in = func(r rune) bool { return r < ' ' || r == 127 }
	case "xdigit":
		in = func(r rune) bool { return strings.ContainsRune("0123456789abcdefABCDEF", r) }
	default:
		return nil, false
	}
	var out []byte
	for r := range rune(128) {
		if in(r) {
			out = append(out, byte(r))
		}
	}
	return out, true
}
