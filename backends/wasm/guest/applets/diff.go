package applets

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/regex"
	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

func sortStrings(l []string) { sort.Strings(l) }

// edit is a difference: lines a0..a1 of one file became b0..b1 of the other.
type hunkEdit struct{ a0, a1, b0, b1 int }

// diffLines finds a shortest edit script (Myers, linear space) of two
// sequences of line numbers.
func diffLines(a, b []int) []hunkEdit {
	delA, insB := make([]bool, len(a)), make([]bool, len(b))
	keepA, keepB := confusing(a, b, delA), confusing(b, a, insB)
	d := &myers{delA: make([]bool, len(keepA)), insB: make([]bool, len(keepB))}
	for _, i := range keepA {
		d.a = append(d.a, a[i])
	}
	for _, j := range keepB {
		d.b = append(d.b, b[j])
	}
	n := 2*(len(d.a)+len(d.b)) + 4
	d.fwd, d.bwd, d.off = make([]int, n), make([]int, n), n/2
	d.compare(0, len(d.a), 0, len(d.b))
	for k, i := range keepA {
		delA[i] = d.delA[k]
	}
	for k, j := range keepB {
		insB[j] = d.insB[k]
	}
	shiftBoundaries(a, delA, insB)
	shiftBoundaries(b, insB, delA)
	var out []hunkEdit
	for i, j := 0, 0; i < len(a) || j < len(b); {
		if (i >= len(a) || !delA[i]) && (j >= len(b) || !insB[j]) {
			i++
			j++
			continue
		}
		e := hunkEdit{a0: i, b0: j}
		for i < len(a) && delA[i] {
			i++
		}
		for j < len(b) && insB[j] {
			j++
		}
		e.a1, e.b1 = i, j
		out = append(out, e)
	}
	return out
}

// confusing marks the lines of a that b does not have as changed, and with
// them those that b has so often that they would match anything, where they
// stand among lines that are not in b. It returns the indexes of the others,
// which are worth comparing. GNU diff does this, so its results show it.
func confusing(a, b []int, changed []bool) (keep []int) {
	const no, yes, maybe = 0, 1, 2
	count := map[int]int{}
	for _, id := range b {
		count[id]++
	}
	many := 5
	for n := len(a) / 64 >> 2; n > 0; n >>= 2 {
		many *= 2
	}
	mark := make([]byte, len(a))
	for i, id := range a {
		switch n := count[id]; {
		case n == 0:
			mark[i] = yes
		case n > many:
			mark[i] = maybe
		}
	}
	for i := 0; i < len(a); i++ {
		switch mark[i] {
		case maybe: // not after a line to discard
			mark[i] = no
		case yes:
			end, maybes := i, 0
			for end < len(a) && mark[end] != no {
				if mark[end] == maybe {
					maybes++
				}
				end++
			}
			for end > i && mark[end-1] == maybe { // nor before one
				end--
				mark[end] = no
				maybes--
			}
			run := mark[i:end]
			if maybes*4 > len(run) {
				for k := range run {
					if run[k] == maybe {
						run[k] = no
					}
				}
			} else {
				thinOut(run)
			}
			i = end - 1
		}
	}
	for i := range a {
		if mark[i] == no {
			keep = append(keep, i)
		} else {
			changed[i] = true
		}
	}
	return keep
}

// thinOut cancels provisional marks (2) in long runs and near the ends of a
// run of lines to discard.
func thinOut(run []byte) {
	minimum := 1 // about the square root of a quarter of the length
	for n := len(run) >> 4; n > 0; n >>= 2 {
		minimum <<= 1
	}
	minimum++
	for k, consecutive := 0, 0; k < len(run); k++ {
		switch {
		case run[k] != 2:
			consecutive = 0
		case consecutive < minimum-1:
			consecutive++
		case consecutive == minimum-1: // too many: back to the first of them
			consecutive++
			k -= consecutive
		default:
			run[k] = 0
		}
	}
	trim := func(at func(int) *byte) {
		for k, sure := 0, 0; k < len(run) && sure < 3; k++ {
			p := at(k)
			if k >= 8 && *p == 1 {
				return
			}
			switch *p {
			case 2:
				*p, sure = 0, 0
			case 0:
				sure = 0
			default:
				sure++
			}
		}
	}
	trim(func(k int) *byte { return &run[k] })
	trim(func(k int) *byte { return &run[len(run)-1-k] })
}

type myers struct {
	a, b       []int
	delA, insB []bool
	fwd, bwd   []int
	off        int
}

func (d *myers) compare(a0, a1, b0, b1 int) {
	for a0 < a1 && b0 < b1 && d.a[a0] == d.b[b0] {
		a0++
		b0++
	}
	for a0 < a1 && b0 < b1 && d.a[a1-1] == d.b[b1-1] {
		a1--
		b1--
	}
	switch {
	case a0 == a1:
		for ; b0 < b1; b0++ {
			d.insB[b0] = true
		}
	case b0 == b1:
		for ; a0 < a1; a0++ {
			d.delA[a0] = true
		}
	default:
		x, y := d.middle(a0, a1, b0, b1)
		d.compare(a0, x, b0, y)
		d.compare(x, a1, y, b1)
	}
}

// middle finds a point on a shortest path, searching from both ends.
func (d *myers) middle(a0, a1, b0, b1 int) (int, int) {
	dmin, dmax := a0-b1, a1-b0
	fmid, bmid := a0-b0, a1-b1
	fmin, fmax, bmin, bmax := fmid, fmid, bmid, bmid
	odd := (fmid-bmid)&1 != 0
	f := func(k int) *int { return &d.fwd[(k+d.off*2)%len(d.fwd)] }
	g := func(k int) *int { return &d.bwd[(k+d.off*2)%len(d.bwd)] }
	*f(fmid) = a0
	*g(bmid) = a1
	for {
		if fmin > dmin {
			fmin--
			*f(fmin - 1) = -1
		} else {
			fmin++
		}
		if fmax < dmax {
			fmax++
			*f(fmax + 1) = -1
		} else {
			fmax--
		}
		for k := fmax; k >= fmin; k -= 2 {
			lo, hi := *f(k - 1), *f(k + 1)
			x := lo + 1
			if lo < hi {
				x = hi
			}
			y := x - k
			for x < a1 && y < b1 && d.a[x] == d.b[y] {
				x++
				y++
			}
			*f(k) = x
			if odd && bmin <= k && k <= bmax && *g(k) <= x {
				return x, y
			}
		}
		if bmin > dmin {
			bmin--
			*g(bmin - 1) = 1 << 40
		} else {
			bmin++
		}
		if bmax < dmax {
			bmax++
			*g(bmax + 1) = 1 << 40
		} else {
			bmax--
		}
		for k := bmax; k >= bmin; k -= 2 {
			lo, hi := *g(k - 1), *g(k + 1)
			x := hi - 1
			if lo < hi {
				x = lo
			}
			y := x - k
			for x > a0 && y > b0 && d.a[x-1] == d.b[y-1] {
				x--
				y--
			}
			*g(k) = x
			if !odd && fmin <= k && k <= fmax && x <= *f(k) {
				return x, y
			}
		}
	}
}

// shiftBoundaries slides runs of changes as far down as they go, joining runs,
// the way GNU diff shows them.
func shiftBoundaries(lines []int, changed, other []bool) {
	i, j, end := 0, 0, len(lines)
	at := func(c []bool, k int) bool { return k >= 0 && k < len(c) && c[k] }
	for {
		for i < end && !changed[i] {
			for at(other, j) {
				j++
			}
			j++
			i++
		}
		if i == end {
			return
		}
		start := i
		for i++; i < end && changed[i]; i++ {
		}
		for at(other, j) {
			j++
		}
		corresponding := end
		for {
			run := i - start
			for start > 0 && lines[start-1] == lines[i-1] {
				start--
				i--
				changed[start], changed[i] = true, false
				for at(changed, start-1) {
					start--
				}
				for j--; at(other, j); j-- {
				}
			}
			corresponding = end
			if at(other, j-1) {
				corresponding = i
			}
			for i < end && lines[start] == lines[i] {
				changed[start], changed[i] = false, true
				start++
				i++
				for i < end && changed[i] {
					i++
				}
				for j++; at(other, j); j++ {
					corresponding = i
				}
			}
			if run == i-start {
				break
			}
		}
		for corresponding < i {
			start--
			i--
			changed[start], changed[i] = true, false
			for j--; at(other, j); j-- {
			}
		}
	}
}

type differ struct {
	c                                            *Ctx
	style                                        byte // 'n' normal, 'u', 'c', 'e', 's' side by side, 'N' rcs
	context                                      int
	brief, same, recursive, newFile, text        bool
	ignoreCase, ignoreSpace, allWS               bool
	ignoreTrailing, noBlankLines, stripCR, funcs bool
	labels                                       []string
	exclude                                      []string
	ignoreRE, funcRE                             *regex.Regexp
	start                                        string
	flags                                        string // for the "diff -r a b" lines
	width                                        int
	suppressCommon, leftColumn                   bool
}

func diff(c *Ctx) {
	o := c.options("abBcC:dD:eEfF:hHiI:lL:nNpPqrsS:tTuU:vwW:x:X:yZ0123456789", "normal brief=q report-identical-files=s context? unified? ed=e rcs=n side-by-side=y width=W left-column suppress-common-lines show-c-function=p show-function-line=F label=L expand-tabs=t initial-tab=T recursive=r no-dereference new-file=N unidirectional-new-file=P ignore-case=i ignore-file-name-case ignore-tab-expansion=E ignore-trailing-space=Z ignore-space-change=b ignore-all-space=w ignore-blank-lines=B ignore-matching-lines=I text=a strip-trailing-cr minimal=d speed-large-files=H color? exclude=x exclude-from=X starting-file=S to-file: from-file: tabsize: horizon-lines: paginate=l")
	d := &differ{c: c, style: 'n', context: 3, width: 130}
	number := ""
	for o.next() {
		if len(o.opt) == 1 && o.opt[0] >= '0' && o.opt[0] <= '9' {
			number += o.opt
			d.context, _ = strconv.Atoi(number)
			continue
		}
		ctx := func() {
			if o.arg != "" {
				n, err := strconv.Atoi(o.arg)
				if err != nil {
					c.dieCode(2, "invalid context length '%s'", o.arg)
				}
				d.context = n
			}
		}
		switch o.opt {
		case "a":
			d.text = true
		case "b":
			d.ignoreSpace = true
		case "B":
			d.noBlankLines = true
		case "c", "C", "context":
			d.style = 'c'
			ctx()
		case "e":
			d.style = 'e'
		case "n":
			d.style = 'N'
		case "i":
			d.ignoreCase = true
		case "I":
			d.ignoreRE = c.compile(o.arg, regex.Basic, 0)
		case "F":
			d.funcRE, d.funcs = c.compile(o.arg, regex.Basic, 0), true
		case "L":
			d.labels = append(d.labels, o.arg)
		case "N":
			d.newFile = true
		case "p":
			d.funcs = true
			if d.style == 'n' {
				d.style = 'c'
			}
		case "q":
			d.brief = true
		case "r":
			d.recursive = true
		case "s":
			d.same = true
		case "S":
			d.start = o.arg
		case "u", "U", "unified":
			d.style = 'u'
			ctx()
		case "w":
			d.allWS = true
		case "W":
			d.width, _ = strconv.Atoi(o.arg)
		case "x":
			d.exclude = append(d.exclude, o.arg)
		case "X":
			d.exclude = append(d.exclude, c.allLines([]string{o.arg})...)
		case "y":
			d.style = 's'
		case "Z":
			d.ignoreTrailing = true
		case "strip-trailing-cr":
			d.stripCR = true
		case "suppress-common-lines":
			d.suppressCommon = true
		case "left-column":
			d.leftColumn = true
		}
	}
	for _, a := range c.args {
		if a == "--" {
			break
		}
		if len(a) > 1 && a[0] == '-' {
			d.flags += " " + a
		}
	}
	switch {
	case len(o.args) == 0:
		c.warn("missing operand after '%s'", "diff")
		c.usage()
	case len(o.args) == 1:
		c.warn("missing operand after '%s'", o.args[0])
		c.usage()
	case len(o.args) > 2:
		c.extra(o.args[2])
	}
	a, b := o.args[0], o.args[1]
	if a == "-" && b == "-" {
		return
	}
	ia, errA := statOr(a)
	ib, errB := statOr(b)
	if errA != nil && !(d.newFile && errB == nil) {
		c.fail("%s: %s", a, Strerror(errA))
		c.code = 2
	}
	if errB != nil && !(d.newFile && errA == nil) {
		c.fail("%s: %s", b, Strerror(errB))
		c.code = 2
	}
	if c.code == 2 {
		return
	}
	if ia != nil && ib != nil {
		switch {
		case ia.IsDir() && ib.IsDir():
			d.dirs(a, b)
			return
		case ia.IsDir():
			a += "/" + path.Base(b)
		case ib.IsDir():
			b += "/" + path.Base(a)
		}
	}
	d.files(a, b, false)
}

func statOr(name string) (*sys.Info, error) {
	if name == "-" {
		return nil, nil
	}
	return sys.Stat(name)
}

func (d *differ) dirs(a, b string) {
	c := d.c
	names := map[string]int{}
	for i, dir := range []string{a, b} {
		entries, err := os.ReadDir(dir)
		if err != nil && !(d.newFile && os.IsNotExist(err)) {
			c.fail("%s: %s", dir, Strerror(err))
			c.code = 2
		}
		for _, e := range entries {
			if !matchAny(d.exclude, e.Name()) {
				names[e.Name()] |= 1 << i
			}
		}
	}
	var list []string
	for n := range names {
		if n >= d.start {
			list = append(list, n)
		}
	}
	sort.Strings(list)
	for _, n := range list {
		pa, pb := strings.TrimSuffix(a, "/")+"/"+n, strings.TrimSuffix(b, "/")+"/"+n
		ia, _ := sys.Stat(pa)
		ib, _ := sys.Stat(pb)
		dirA, dirB := ia != nil && ia.IsDir(), ib != nil && ib.IsDir()
		switch {
		case names[n] != 3 && !d.newFile:
			only := a
			if names[n] == 2 {
				only = b
			}
			c.printf("Only in %s: %s\n", strings.TrimSuffix(only, "/"), n)
			c.code = max(c.code, 1)
		case dirA && dirB || d.newFile && (dirA && ib == nil || dirB && ia == nil):
			if d.recursive {
				d.dirs(pa, pb)
			} else {
				c.printf("Common subdirectories: %s and %s\n", pa, pb)
			}
		case dirA || dirB, special(ia) != special(ib):
			kind := func(i *sys.Info) string {
				if i == nil {
					return "missing file"
				}
				return fileType(i)
			}
			c.printf("File %s is a %s while file %s is a %s\n", pa, kind(ia), pb, kind(ib))
			c.code = max(c.code, 1)
		default:
			d.files(pa, pb, true)
		}
	}
}

// special reports whether a file is neither regular nor a directory.
func special(i *sys.Info) bool { return i != nil && !i.IsRegular() && !i.IsDir() }

// diffFile is a file split into lines.
type diffFile struct {
	name    string
	lines   [][]byte // with newlines
	noEOL   bool
	data    []byte
	stamp   time.Time
	missing bool
}

func (d *differ) load(name string, other string) (*diffFile, bool) {
	f := &diffFile{name: name, stamp: time.Now()}
	var err error
	if name == "-" {
		f.data, err = io.ReadAll(d.c.in)
	} else {
		f.data, err = os.ReadFile(name)
		if i, e := sys.Stat(name); e == nil {
			f.stamp = time.Unix(0, i.Mtime)
		}
	}
	if err != nil {
		if d.newFile && os.IsNotExist(err) {
			f.missing, f.stamp = true, time.Unix(0, 0)
			return f, true
		}
		d.c.fail("%s: %s", name, Strerror(err))
		d.c.code = 2
		return nil, false
	}
	f.lines = bytes.SplitAfter(f.data, []byte("\n"))
	if n := len(f.lines); n > 0 && len(f.lines[n-1]) == 0 {
		f.lines = f.lines[:n-1]
	} else if n > 0 {
		f.noEOL = true
	}
	return f, true
}

// key is what of a line counts for equality.
func (d *differ) key(line []byte, last bool) string {
	s := string(line)
	if d.stripCR && strings.HasSuffix(s, "\r\n") {
		s = s[:len(s)-2] + "\n"
	}
	if d.allWS || d.ignoreSpace || d.ignoreTrailing {
		nl := strings.HasSuffix(s, "\n")
		switch {
		case d.allWS:
			s = strings.Join(strings.Fields(s), "")
		case d.ignoreSpace:
			lead := s != "" && (s[0] == ' ' || s[0] == '\t')
			s = strings.Join(strings.Fields(s), " ")
			if lead && s != "" {
				s = " " + s
			}
		default:
			s = strings.TrimRight(s, " \t\r\n")
		}
		if nl || last {
			s += "\n"
		}
	}
	if d.ignoreCase {
		s = strings.ToLower(s)
	}
	return s
}

func (d *differ) files(a, b string, sub bool) {
	c := d.c
	fa, ok1 := d.load(a, b)
	fb, ok2 := d.load(b, a)
	if !ok1 || !ok2 {
		return
	}
	if bytes.Equal(fa.data, fb.data) && fa.missing == fb.missing || bytes.Equal(fa.data, fb.data) && len(fa.data) == 0 {
		if d.same {
			c.printf("Files %s and %s are identical\n", a, b)
		}
		if d.style == 's' && !d.suppressCommon {
			d.sideBySide(fa, fb, nil)
		}
		return
	}
	binary := func(f *diffFile) bool { return bytes.IndexByte(f.data[:min(len(f.data), 4096)], 0) >= 0 }
	if !d.text && (binary(fa) || binary(fb)) {
		if d.brief {
			c.printf("Files %s and %s differ\n", a, b)
		} else {
			c.printf("Binary files %s and %s differ\n", a, b)
		}
		c.code = max(c.code, 1)
		return
	}
	ids := map[string]int{}
	number := func(f *diffFile) []int {
		out := make([]int, len(f.lines))
		for i, l := range f.lines {
			k := d.key(l, i == len(f.lines)-1)
			id, ok := ids[k]
			if !ok {
				id = len(ids)
				ids[k] = id
			}
			out[i] = id
		}
		return out
	}
	na, nb := number(fa), number(fb)
	edits := diffLines(na, nb)
	edits = d.ignorable(edits, fa, fb)
	if len(edits) == 0 {
		if d.same {
			c.printf("Files %s and %s are identical\n", a, b)
		}
		return
	}
	c.code = max(c.code, 1)
	if d.brief {
		c.printf("Files %s and %s differ\n", a, b)
		return
	}
	if sub {
		c.printf("diff%s %s %s\n", d.flags, a, b)
	}
	switch d.style {
	case 'u':
		d.unified(fa, fb, edits)
	case 'c':
		d.contextual(fa, fb, edits)
	case 's':
		d.sideBySide(fa, fb, edits)
	case 'e':
		d.ed(fb, edits)
	case 'N':
		for _, e := range edits {
			if e.a1 > e.a0 {
				c.printf("d%d %d\n", e.a0+1, e.a1-e.a0)
			}
			if e.b1 > e.b0 {
				c.printf("a%d %d\n", e.a1, e.b1-e.b0)
				for _, l := range fb.lines[e.b0:e.b1] {
					c.out.Write(l)
				}
			}
		}
	default:
		d.normal(fa, fb, edits)
	}
}

// ignorable drops the edits that -B and -I make not count.
func (d *differ) ignorable(edits []hunkEdit, fa, fb *diffFile) []hunkEdit {
	if !d.noBlankLines && d.ignoreRE == nil {
		return edits
	}
	trivial := func(l []byte) bool {
		t := bytes.TrimRight(l, "\n")
		if d.noBlankLines && len(t) == 0 {
			return true
		}
		return d.ignoreRE != nil && d.ignoreRE.Match(t)
	}
	var out []hunkEdit
	for _, e := range edits {
		all := true
		for _, l := range fa.lines[e.a0:e.a1] {
			all = all && trivial(l)
		}
		for _, l := range fb.lines[e.b0:e.b1] {
			all = all && trivial(l)
		}
		if !all {
			out = append(out, e)
		}
	}
	return out
}

func (d *differ) line(prefix string, f *diffFile, i int) {
	l := f.lines[i]
	d.c.print(prefix)
	d.c.out.Write(l)
	if f.noEOL && i == len(f.lines)-1 {
		d.c.print("\n\\ No newline at end of file\n")
	}
}

func lineRange(from, to int) string {
	if to <= from+1 {
		if to == from {
			return strconv.Itoa(from)
		}
		return strconv.Itoa(to)
	}
	return fmt.Sprintf("%d,%d", from+1, to)
}

func (d *differ) normal(fa, fb *diffFile, edits []hunkEdit) {
	for _, e := range edits {
		op := "c"
		switch {
		case e.a0 == e.a1:
			op = "a"
		case e.b0 == e.b1:
			op = "d"
		}
		d.c.print(lineRange(e.a0, e.a1) + op + lineRange(e.b0, e.b1) + "\n")
		for i := e.a0; i < e.a1; i++ {
			d.line("< ", fa, i)
		}
		if op == "c" {
			d.c.print("---\n")
		}
		for i := e.b0; i < e.b1; i++ {
			d.line("> ", fb, i)
		}
	}
}

// ed writes a script for ed, last change first.
func (d *differ) ed(fb *diffFile, edits []hunkEdit) {
	for k := len(edits) - 1; k >= 0; k-- {
		e := edits[k]
		switch {
		case e.a0 == e.a1:
			d.c.printf("%da\n", e.a0)
		case e.b0 == e.b1:
			d.c.print(lineRange(e.a0, e.a1) + "d\n")
			continue
		default:
			d.c.print(lineRange(e.a0, e.a1) + "c\n")
		}
		for _, l := range fb.lines[e.b0:e.b1] {
			d.c.out.Write(l)
		}
		d.c.print(".\n")
	}
}

func (d *differ) header(k int, f *diffFile) string {
	if k < len(d.labels) {
		return d.labels[k]
	}
	return f.name + "\t" + f.stamp.Format("2006-01-02 15:04:05.000000000 -0700")
}

// group joins edits whose context overlaps.
func (d *differ) group(edits []hunkEdit) [][]hunkEdit {
	var out [][]hunkEdit
	for i, e := range edits {
		if i > 0 && e.a0-edits[i-1].a1 <= 2*d.context {
			out[len(out)-1] = append(out[len(out)-1], e)
		} else {
			out = append(out, []hunkEdit{e})
		}
	}
	return out
}

// function finds the line that -p shows for a hunk.
func (d *differ) function(fa *diffFile, at int) string {
	if !d.funcs {
		return ""
	}
	for i := min(at, len(fa.lines)) - 1; i >= 0; i-- {
		l := strings.TrimRight(string(fa.lines[i]), "\n")
		hit := l != "" && (l[0] == '_' || l[0] == '$' || l[0]|0x20 >= 'a' && l[0]|0x20 <= 'z')
		if d.funcRE != nil {
			hit = d.funcRE.Match([]byte(l))
		}
		if hit {
			return " " + strings.TrimRight(l[:min(len(l), 40)], " \t")
		}
	}
	return ""
}

func (d *differ) unified(fa, fb *diffFile, edits []hunkEdit) {
	c := d.c
	c.print("--- " + d.header(0, fa) + "\n+++ " + d.header(1, fb) + "\n")
	span := func(from, to int) string {
		switch to - from {
		case 0:
			return fmt.Sprintf("%d,0", from)
		case 1:
			return strconv.Itoa(from + 1)
		}
		return fmt.Sprintf("%d,%d", from+1, to-from)
	}
	for _, g := range d.group(edits) {
		first, last := g[0], g[len(g)-1]
		a0, b0 := max(first.a0-d.context, 0), max(first.b0-d.context, 0)
		a1, b1 := min(last.a1+d.context, len(fa.lines)), min(last.b1+d.context, len(fb.lines))
		c.print("@@ -" + span(a0, a1) + " +" + span(b0, b1) + " @@" + d.function(fa, a0) + "\n")
		i := a0
		for _, e := range g {
			for ; i < e.a0; i++ {
				d.line(" ", fa, i)
			}
			for ; i < e.a1; i++ {
				d.line("-", fa, i)
			}
			for j := e.b0; j < e.b1; j++ {
				d.line("+", fb, j)
			}
		}
		for ; i < a1; i++ {
			d.line(" ", fa, i)
		}
	}
}

func (d *differ) contextual(fa, fb *diffFile, edits []hunkEdit) {
	c := d.c
	c.print("*** " + d.header(0, fa) + "\n--- " + d.header(1, fb) + "\n")
	for _, g := range d.group(edits) {
		first, last := g[0], g[len(g)-1]
		a0, b0 := max(first.a0-d.context, 0), max(first.b0-d.context, 0)
		a1, b1 := min(last.a1+d.context, len(fa.lines)), min(last.b1+d.context, len(fb.lines))
		c.print("***************" + d.function(fa, a0) + "\n*** " + lineRange(a0, a1) + " ****\n")
		mark := func(e hunkEdit, only string) string {
			if e.a0 < e.a1 && e.b0 < e.b1 {
				return "! "
			}
			return only
		}
		dels, adds := false, false
		for _, e := range g {
			dels = dels || e.a1 > e.a0
			adds = adds || e.b1 > e.b0
		}
		if dels {
			i := a0
			for _, e := range g {
				for ; i < e.a0; i++ {
					d.line("  ", fa, i)
				}
				for ; i < e.a1; i++ {
					d.line(mark(e, "- "), fa, i)
				}
			}
			for ; i < a1; i++ {
				d.line("  ", fa, i)
			}
		}
		c.print("--- " + lineRange(b0, b1) + " ----\n")
		if adds {
			j := b0
			for _, e := range g {
				for ; j < e.b0; j++ {
					d.line("  ", fb, j)
				}
				for ; j < e.b1; j++ {
					d.line(mark(e, "+ "), fb, j)
				}
			}
			for ; j < b1; j++ {
				d.line("  ", fb, j)
			}
		}
	}
}

// sideBySide is -y: two columns, with a mark between them where they differ.
func (d *differ) sideBySide(fa, fb *diffFile, edits []hunkEdit) {
	const tab, gap = 8, 3
	second := (d.width + tab + gap) / (2 * tab) * tab // where the second column begins
	half := max(0, min(second-gap, d.width-second))
	if half == 0 {
		second = d.width
	}
	row := func(l, r []byte, mark byte) {
		text := func(b []byte) string {
			return truncate(expandTabs(strings.TrimRight(string(b), "\n")), half)
		}
		out := text(l)
		col := textWidth(out)
		if mark != ' ' {
			at := (half + second - 1) / 2
			out += tabTo(col, at) + string(mark)
			col = at + 1
		}
		if t := text(r); t != "" {
			out += tabTo(col, second) + t
		}
		d.c.println(out)
	}
	i, j := 0, 0
	same := func(to int) {
		for ; i < to; i++ {
			if !d.suppressCommon {
				if d.leftColumn {
					row(fa.lines[i], nil, '(')
				} else {
					row(fa.lines[i], fb.lines[j], ' ')
				}
			}
			j++
		}
	}
	for _, e := range edits {
		same(e.a0)
		for i < e.a1 && j < e.b1 {
			row(fa.lines[i], fb.lines[j], '|')
			i++
			j++
		}
		for ; i < e.a1; i++ {
			row(fa.lines[i], nil, '<')
		}
		for ; j < e.b1; j++ {
			row(nil, fb.lines[j], '>')
		}
	}
	same(len(fa.lines))
}

func tabTo(from, to int) string {
	s := ""
	for from < to {
		if next := (from + 8) &^ 7; next <= to {
			s += "\t"
			from = next
		} else {
			s += " "
			from++
		}
	}
	return s
}

func expandTabs(s string) string {
	if !strings.Contains(s, "\t") {
		return s
	}
	var b strings.Builder
	col := 0
	for _, r := range s {
		if r == '\t' {
			n := 8 - col%8
			b.WriteString(strings.Repeat(" ", n))
			col += n
			continue
		}
		b.WriteRune(r)
		col += runeWidth(r)
	}
	return b.String()
}
