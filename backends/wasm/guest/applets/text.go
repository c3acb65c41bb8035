package applets

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

// cat joins files.
func cat(c *Ctx) {
	o := c.options("AbeEnstTuv", "show-all=A number-nonblank=b show-ends=E number=n squeeze-blank=s show-tabs=T show-nonprinting=v")
	var number, nonblank, ends, squeeze, tabs, visible bool
	for o.next() {
		switch o.opt {
		case "A":
			visible, ends, tabs = true, true, true
		case "b":
			number, nonblank = true, true
		case "e":
			visible, ends = true, true
		case "E":
			ends = true
		case "n":
			number = true
		case "s":
			squeeze = true
		case "t":
			visible, tabs = true, true
		case "T":
			tabs = true
		case "v":
			visible = true
		}
	}
	n, blanks, midLine := 0, 0, false
	buf := make([]byte, 32<<10)
	for name, r := range c.inputs(o.args) {
		if !(number || ends || squeeze || tabs || visible) {
			for {
				k, err := r.Read(buf)
				c.out.Write(buf[:k])
				if k < len(buf) {
					c.flush()
				}
				if err != nil {
					if err != io.EOF {
						c.fail("%s: %s", name, Strerror(err))
					}
					break
				}
			}
			continue
		}
		for b := range lines(r) {
			blank := len(b) == 1 && b[0] == '\n'
			if blank && !midLine {
				blanks++
			} else {
				blanks = 0
			}
			if squeeze && blanks > 1 {
				continue
			}
			if number && !midLine && !(nonblank && blank) {
				n++
				c.printf("%6d\t", n)
			}
			line, nl := bytes.CutSuffix(b, []byte("\n"))
			for _, ch := range line {
				c.visible(ch, visible, tabs)
			}
			if nl {
				if ends {
					c.out.WriteByte('$')
				}
				c.out.WriteByte('\n')
			}
			midLine = !nl
		}
	}
}

func (c *Ctx) visible(ch byte, visible, tabs bool) {
	switch {
	case ch == '\t':
		if tabs {
			c.print("^I")
		} else {
			c.out.WriteByte(ch)
		}
		return
	case !visible:
		c.out.WriteByte(ch)
		return
	}
	if ch >= 128 {
		c.print("M-")
		ch -= 128
	}
	switch {
	case ch < 32:
		c.out.WriteByte('^')
		c.out.WriteByte(ch + 64)
	case ch == 127:
		c.print("^?")
	default:
		c.out.WriteByte(ch)
	}
}

// headTail rewrites the old form -5 to -n 5.
func oldCount(args []string) []string {
	if len(args) > 0 && len(args[0]) > 1 && (args[0][0] == '-' || args[0][0] == '+') && args[0][1] >= '0' && args[0][1] <= '9' {
		a := args[0]
		n := strings.TrimRight(a, "cklbqvf")
		opts := a[len(n):]
		if a[0] == '-' {
			n = n[1:]
		}
		flag := "-n"
		if strings.Contains(opts, "c") {
			flag = "-c"
		}
		l := []string{flag, n}
		if strings.Contains(opts, "f") {
			l = append(l, "-f")
		}
		return append(l, args[1:]...)
	}
	return args
}

func head(c *Ctx) {
	c.args = oldCount(c.args)
	o := c.options("c:n:qvz", "bytes=c lines=n quiet=q silent=q verbose=v zero-terminated=z")
	count, byBytes, quiet, verbose, delim := "10", false, false, false, byte('\n')
	for o.next() {
		switch o.opt {
		case "c", "n":
			count, byBytes = o.arg, o.opt == "c"
		case "q":
			quiet = true
		case "v":
			verbose = true
		case "z":
			delim = 0
		}
	}
	num, allBut := strings.CutPrefix(count, "-")
	n, ok := parseSize(num)
	if !ok {
		kind := "lines"
		if byBytes {
			kind = "bytes"
		}
		c.die("invalid number of %s: %s", kind, quote(count))
	}
	first := true
	for name, r := range c.inputs(o.args) {
		if verbose || len(o.args) > 1 && !quiet {
			c.banner(name, first)
		}
		first = false
		switch {
		case byBytes && allBut:
			data, _ := io.ReadAll(r)
			c.out.Write(data[:max(0, len(data)-int(n))])
		case byBytes:
			io.CopyN(c.out, r, n)
		case allBut:
			var keep []string
			for b := range records(r, delim) {
				keep = append(keep, string(b))
				if len(keep) > int(n) {
					c.print(keep[0])
					keep = keep[1:]
				}
			}
		case n > 0:
			left := n
			for b := range records(r, delim) {
				c.out.Write(b)
				if left--; left == 0 {
					break
				}
			}
		}
	}
}

func (c *Ctx) banner(name string, first bool) {
	if name == "-" {
		name = "standard input"
	}
	if !first {
		c.out.WriteByte('\n')
	}
	c.printf("==> %s <==\n", name)
}

func tail(c *Ctx) {
	c.args = oldCount(c.args)
	o := c.options("c:fFn:qs:vz", "bytes=c follow? lines=n quiet=q silent=q verbose=v zero-terminated=z sleep-interval=s pid: retry")
	count, byBytes, follow, quiet, verbose, delim := "10", false, false, false, false, byte('\n')
	pause := time.Second
	for o.next() {
		switch o.opt {
		case "c", "n":
			count, byBytes = o.arg, o.opt == "c"
		case "f", "F", "follow":
			follow = true
		case "q":
			quiet = true
		case "v":
			verbose = true
		case "z":
			delim = 0
		case "s":
			if d, ok := seconds(o.arg); ok {
				pause = d
			}
		}
	}
	num, from := strings.CutPrefix(count, "+")
	n, ok := parseSize(strings.TrimPrefix(num, "-"))
	if !ok {
		kind := "lines"
		if byBytes {
			kind = "bytes"
		}
		c.die("invalid number of %s: %s", kind, quote(count))
	}
	first := true
	var last *os.File
	for name, r := range c.inputs(o.args) {
		if verbose || len(o.args) > 1 && !quiet {
			c.banner(name, first)
		}
		first = false
		switch {
		case byBytes && from:
			io.CopyN(io.Discard, r, max(n-1, 0))
			io.Copy(c.out, r)
		case byBytes:
			c.tailBytes(r, n)
		case from:
			i := int64(0)
			for b := range records(r, delim) {
				if i++; i >= n {
					c.out.Write(b)
				}
			}
		case n > 0:
			c.tailLines(r, int(n), delim)
		default:
			io.Copy(io.Discard, r)
		}
		if f, ok := r.(*os.File); ok && follow {
			last = f
			c.flush()
			c.follow(last, pause)
		}
	}
	if follow && last == nil {
		c.flush()
	}
}

func (c *Ctx) tailBytes(r io.Reader, n int64) {
	if f, ok := r.(*os.File); ok {
		if st, err := sys.Fstat(f); err == nil && st.IsRegular() && st.Length > n {
			f.Seek(-n, io.SeekEnd)
		}
	}
	data, _ := io.ReadAll(r)
	c.out.Write(data[max(0, len(data)-int(n)):])
}

// tailLines keeps the last n lines in a ring.
func (c *Ctx) tailLines(r io.Reader, n int, delim byte) {
	var ring [][]byte
	i := 0
	for b := range records(r, delim) {
		if len(ring) < n {
			ring = append(ring, bytes.Clone(b))
			continue
		}
		ring[i] = append(ring[i][:0], b...)
		i = (i + 1) % n
	}
	for k := range ring {
		c.out.Write(ring[(i+k)%len(ring)])
	}
}

// follow prints what is appended to f, for ever.
func (c *Ctx) follow(f *os.File, pause time.Duration) {
	for {
		if st, err := sys.Fstat(f); err == nil {
			if pos, _ := f.Seek(0, io.SeekCurrent); st.Length < pos {
				c.warn("%s: file truncated", f.Name())
				f.Seek(0, io.SeekStart)
			}
		}
		io.Copy(c.out, f)
		c.flush()
		time.Sleep(pause)
	}
}

func wc(c *Ctx) {
	o := c.options("clLmw", "bytes=c lines=l max-line-length=L chars=m words=w files0-from: total:")
	var want [5]bool // lines, words, chars, bytes, longest
	any := false
	from := ""
	for o.next() {
		if o.opt == "files0-from" {
			from = o.arg
			continue
		}
		if i := strings.Index("lwmcL", o.opt); i >= 0 {
			want[i], any = true, true
		}
	}
	if !any {
		want[0], want[1], want[3] = true, true, true
	}
	if from != "" {
		if r, err := c.open(from); err == nil {
			data, _ := io.ReadAll(r)
			o.args = strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
		}
	}
	type row struct {
		n    [5]int64
		name string
	}
	var rows []row
	var total [5]int64
	names := o.args
	if len(names) == 0 {
		names = []string{"-"}
	}
	regular, sum := true, int64(0)
	width := 1
	for _, name := range names {
		r, err := c.open(name)
		if err != nil {
			if strings.HasSuffix(Strerror(err), "Is a directory") {
				c.fail("%s: Is a directory", quoteMaybe(name))
				rows = append(rows, row{name: name})
				regular = false
				continue
			}
			c.fail("%s: %s", quoteMaybe(name), Strerror(err))
			continue
		}
		f, isFile := r.(*os.File)
		if !isFile {
			if sf, ok := c.in.(*os.File); ok {
				f, isFile = sf, true
			}
		}
		if isFile {
			if st, err := sys.Fstat(f); err == nil && st.IsRegular() {
				sum += st.Length
			} else {
				regular = false
			}
		} else {
			regular = false
		}
		n := countText(r, want)
		r.Close()
		rows = append(rows, row{n, name})
		for i := range n {
			if i == 4 {
				total[i] = max(total[i], n[i])
			} else {
				total[i] += n[i]
			}
		}
	}
	columns := 0
	for _, w := range want {
		if w {
			columns++
		}
	}
	// GNU sizes the columns by the sizes of the files before it counts.
	switch {
	case columns == 1 && len(names) == 1:
		width = 1
	case !regular:
		width = 7
		if sum > 0 {
			width = max(width, len(strconv.FormatInt(sum, 10)))
		}
	default:
		width = len(strconv.FormatInt(sum, 10))
	}
	if len(names) > 1 {
		rows = append(rows, row{total, "total"})
	}
	for _, r := range rows {
		sep := ""
		for i := range want {
			if want[i] {
				c.printf("%s%*d", sep, width, r.n[i])
				sep = " "
			}
		}
		if len(o.args) > 0 {
			c.print(" " + r.name)
		}
		c.out.WriteByte('\n')
	}
}

func countText(r io.Reader, want [5]bool) (n [5]int64) {
	buf := make([]byte, 64<<10)
	if !want[1] && !want[2] && !want[4] {
		for {
			k, err := r.Read(buf)
			n[3] += int64(k)
			if want[0] {
				n[0] += int64(bytes.Count(buf[:k], []byte{'\n'}))
			}
			if err != nil {
				return n
			}
		}
	}
	br := bufio.NewReaderSize(r, 64<<10)
	inWord := false
	col := int64(0)
	for {
		ch, size, err := br.ReadRune()
		if err != nil {
			break
		}
		n[3] += int64(size)
		if ch != utf8.RuneError || size > 1 {
			n[2]++
		}
		switch {
		case ch == '\n':
			n[0]++
			n[4] = max(n[4], col)
			col, inWord = 0, false
		case ch == '\r' || ch == '\f':
			n[4] = max(n[4], col)
			col, inWord = 0, false
		case ch == '\t':
			col = (col + 8) &^ 7
			inWord = false
		case ch == ' ' || ch == '\v' || unicode.IsSpace(ch):
			col++
			inWord = false
		default:
			col += int64(runeWidth(ch))
			if !inWord && (ch > ' ' && ch != 127) {
				n[1]++
				inWord = true
			}
		}
	}
	n[4] = max(n[4], col)
	return n
}

// runeWidth is how many columns a character takes on a terminal.
func runeWidth(r rune) int {
	switch {
	case r < ' ' || r == 127:
		return 0
	case r < 0x300:
		return 1
	case unicode.Is(unicode.Mn, r) || unicode.Is(unicode.Me, r) || r == 0x200b:
		return 0
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0x303e, r >= 0x3041 && r <= 0xa4cf, r >= 0xac00 && r <= 0xd7a3,
		r >= 0xf900 && r <= 0xfaff, r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6,
		r >= 0x1f300 && r <= 0x1f64f, r >= 0x1f900 && r <= 0x1f9ff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

func textWidth(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

func nl(c *Ctx) {
	o := c.options("b:d:f:h:i:l:n:ps:v:w:", "body-numbering=b section-delimiter=d footer-numbering=f header-numbering=h line-increment=i join-blank-lines=l number-format=n no-renumber=p number-separator=s starting-line-number=v number-width=w")
	styles := map[string]string{"h": "n", "b": "t", "f": "n"}
	format, sep, start, inc, width, joinBlank, renumber := "rn", "\t", 1, 1, 6, 1, true
	num := func(dst *int, what string) {
		n, err := strconv.Atoi(o.arg)
		if err != nil {
			c.die("invalid %s: %s", what, quote(o.arg))
		}
		*dst = n
	}
	delim := `\:`
	for o.next() {
		switch o.opt {
		case "b", "h", "f":
			styles[o.opt] = o.arg
		case "d":
			delim = o.arg
		case "i":
			num(&inc, "line number increment")
		case "l":
			num(&joinBlank, "line number of blank lines")
		case "n":
			format = o.arg
		case "p":
			renumber = false
		case "s":
			sep = o.arg
		case "v":
			num(&start, "starting line number")
		case "w":
			num(&width, "line number field width")
		}
	}
	n, blank, section := start, 0, "b"
	for _, r := range c.inputs(o.args) {
		for b := range lines(r) {
			line := strings.TrimSuffix(string(b), "\n")
			if next := map[string]string{delim + delim + delim: "h", delim + delim: "b", delim: "f"}[line]; next != "" {
				section = next
				if renumber {
					n = start
				}
				c.println()
				continue
			}
			style := styles[section]
			count := false
			switch style[:1] {
			case "a":
				count = true
				if line == "" {
					if blank++; blank < joinBlank {
						count = false
					} else {
						blank = 0
					}
				} else {
					blank = 0
				}
			case "t":
				count = line != ""
			case "p":
				re := c.compile(style[1:], 0, 0)
				count = re.Match([]byte(line))
			}
			if count {
				switch format {
				case "ln":
					c.printf("%-*d", width, n)
				case "rz":
					c.printf("%0*d", width, n)
				default:
					c.printf("%*d", width, n)
				}
				c.println(sep + line)
				n += inc
			} else {
				c.println(strings.Repeat(" ", width+len(sep)) + line)
			}
		}
	}
}

func fold(c *Ctx) {
	o := c.options("bsw:0123456789", "bytes=b spaces=s width=w")
	width, byBytes, spaces := 80, false, false
	for o.next() {
		switch o.opt {
		case "b":
			byBytes = true
		case "s":
			spaces = true
		case "w":
			n, err := strconv.Atoi(o.arg)
			if err != nil || n < 1 {
				c.die("invalid number of columns: %s", quote(o.arg))
			}
			width = n
		default: // -80
			n, _ := strconv.Atoi(o.opt + o.bundle)
			width, o.bundle = n, ""
		}
	}
	for _, r := range c.inputs(o.args) {
		for b := range lines(r) {
			line, nl := strings.CutSuffix(string(b), "\n")
			c.print(foldLine(line, width, byBytes, spaces))
			if nl {
				c.out.WriteByte('\n')
			}
		}
	}
}

func foldLine(line string, width int, byBytes, spaces bool) string {
	var out strings.Builder
	start, col, lastSpace := 0, 0, -1
	advance := func(col int, r rune, size int) int {
		switch {
		case byBytes:
			return col + size
		case r == '\b':
			return max(col-1, 0)
		case r == '\r':
			return 0
		case r == '\t':
			return (col + 8) &^ 7
		case r < ' ':
			return col + 1
		}
		return col + max(runeWidth(r), 0)
	}
	for i := 0; i < len(line); {
		r, size := utf8.DecodeRuneInString(line[i:])
		if byBytes {
			size = 1
		}
		next := advance(col, r, size)
		if next > width && i > start {
			end := i
			if spaces && lastSpace > start {
				end = lastSpace
			}
			out.WriteString(line[start:end] + "\n")
			start, lastSpace, col = end, -1, 0
			for j := start; j < i; {
				r, size := utf8.DecodeRuneInString(line[j:])
				col = advance(col, r, size)
				j += size
			}
			continue
		}
		col = next
		i += size
		if r == ' ' || r == '\t' {
			lastSpace = i
		}
	}
	out.WriteString(line[start:])
	return out.String()
}

// tabStops reads the list of expand -t.
func (c *Ctx) tabStops(list string) func(col int) int {
	var stops []int
	for _, f := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		n, err := strconv.Atoi(strings.TrimPrefix(f, "/"))
		if err != nil || n < 1 {
			c.die("tab size contains invalid character(s): %s", quote(f))
		}
		stops = append(stops, n)
	}
	return func(col int) int {
		if len(stops) == 1 {
			return col + stops[0] - col%stops[0]
		}
		for _, s := range stops {
			if s > col {
				return s
			}
		}
		return col + 1
	}
}

func expand(c *Ctx) {
	c.args = oldTabs(c.args)
	o := c.options("it:", "initial=i tabs=t")
	stop, initial := c.tabStops("8"), false
	for o.next() {
		if o.opt == "t" {
			stop = c.tabStops(o.arg)
		} else {
			initial = true
		}
	}
	for _, r := range c.inputs(o.args) {
		for b := range lines(r) {
			col, lead := 0, true
			for _, ch := range string(b) {
				switch {
				case ch == '\t' && (lead || !initial):
					n := stop(col)
					c.print(strings.Repeat(" ", n-col))
					col = n
					continue
				case ch == '\b':
					col = max(col-2, -1)
				case ch != ' ':
					lead = false
				}
				col += max(runeWidth(ch), 0)
				if ch == '\b' {
					col++
				}
				c.out.WriteRune(ch)
			}
		}
	}
}

func oldTabs(args []string) []string {
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && args[0][1] >= '0' && args[0][1] <= '9' {
		return append([]string{"-t", args[0][1:]}, args[1:]...)
	}
	return args
}

func unexpand(c *Ctx) {
	c.args = oldTabs(c.args)
	o := c.options("aft:", "all=a first-only=f tabs=t")
	list, all, firstOnly := "8", false, false
	for o.next() {
		switch o.opt {
		case "t":
			list, all = o.arg, true
		case "a":
			all = true
		case "f":
			firstOnly = true
		}
	}
	all = all && !firstOnly
	stop := c.tabStops(list)
	for _, r := range c.inputs(o.args) {
		for b := range lines(r) {
			line, nl := strings.CutSuffix(string(b), "\n")
			col, from, lead := 0, 0, true // blanks from column from to col wait
			blanks := func(next bool) {
				if lead || all {
					for t := stop(from); t <= col; t = stop(from) {
						if t-from == 1 && !next && !strings.Contains(line, "\t") && !(lead && t == col) {
							break
						}
						c.out.WriteByte('\t')
						from = t
					}
				}
				c.print(strings.Repeat(" ", col-from))
				from = col
			}
			for _, ch := range line {
				switch ch {
				case ' ':
					col++
					continue
				case '\t':
					col = stop(col)
					continue
				}
				blanks(true)
				lead = false
				col += max(runeWidth(ch), 0)
				from = col
				c.out.WriteRune(ch)
			}
			blanks(false)
			if nl {
				c.out.WriteByte('\n')
			}
		}
	}
}

// fmtTool is fmt: it refills paragraphs.
func fmtTool(c *Ctx) {
	args := c.args
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && args[0][1] >= '0' && args[0][1] <= '9' {
		c.args = append([]string{"-w", args[0][1:]}, args[1:]...)
	}
	o := c.options("cg:p:stuw:", "crown-margin=c goal=g prefix=p split-only=s tagged-paragraph=t uniform-spacing=u width=w")
	width, splitOnly := 75, false
	for o.next() {
		switch o.opt {
		case "w":
			n, err := strconv.Atoi(o.arg)
			if err != nil || n < 1 || n > 2500 {
				c.die("invalid width: %s", quote(o.arg))
			}
			width = n
		case "s":
			splitOnly = true
		}
	}
	var words []string
	first, rest := "", ""
	n := 0
	end := func() {
		if len(words) > 0 {
			c.fill(words, first, rest, width)
		}
		words, n = nil, 0
	}
	for _, line := range c.allLines(o.args) {
		text := strings.TrimLeft(line, " \t")
		indent := line[:len(line)-len(text)]
		if text == "" {
			end()
			c.println()
			continue
		}
		if n == 1 && indent != first {
			end()
		} else if n > 1 && indent != rest {
			end()
		}
		if n == 0 {
			first, rest = indent, indent
		}
		if n == 1 {
			rest = indent
		}
		words = append(words, strings.Fields(text)...)
		n++
		if splitOnly {
			end()
		}
	}
	end()
}

// fill breaks words into lines near 93 % of width, choosing the breaks whose
// squared distances from that goal are least in sum, as GNU's fmt does.
func (c *Ctx) fill(words []string, first, rest string, width int) {
	goal := width * 187 / 200
	n := len(words)
	best, next := make([]int64, n+1), make([]int, n)
	for i := n - 1; i >= 0; i-- {
		best[i] = 1 << 60
		length := len(rest)
		if i == 0 {
			length = len(first)
		}
		for j := i; j < n; j++ {
			length += textWidth(words[j])
			if j > i {
				length++
			}
			if length > width && j > i {
				break
			}
			var cost int64
			if j < n-1 {
				d := int64(goal - length)
				cost = d*d*100 + lineCost(words, j)
			}
			if v := cost + best[j+1]; v < best[i] {
				best[i], next[i] = v, j+1
			}
		}
	}
	for i := 0; i < n; i = next[i] {
		line := rest
		if i == 0 {
			line = first
		}
		for j := i; j < next[i]; j++ {
			if j > i {
				line += " "
			}
			line += words[j]
		}
		c.println(line)
	}
}

// lineCost favours breaks after sentences and punctuation.
func lineCost(words []string, j int) int64 {
	w := words[j]
	switch {
	case strings.HasSuffix(w, ".") || strings.HasSuffix(w, "?") || strings.HasSuffix(w, "!"):
		return -50 * 50
	case strings.HasSuffix(w, ",") || strings.HasSuffix(w, ";") || strings.HasSuffix(w, ":"):
		return -40 * 40
	}
	return 0
}

func shuf(c *Ctx) {
	o := c.options("ei:n:o:rz", "echo=e input-range=i head-count=n output=o repeat=r zero-terminated=z random-source:")
	var echoArgs, repeat bool
	rng, count, output, end := "", int64(-1), "", "\n"
	for o.next() {
		switch o.opt {
		case "e":
			echoArgs = true
		case "i":
			rng = o.arg
		case "n":
			n, err := strconv.ParseInt(o.arg, 10, 64)
			if err != nil {
				c.die("invalid line count: %s", quote(o.arg))
			}
			count = n
		case "o":
			output = o.arg
		case "r":
			repeat = true
		case "z":
			end = "\x00"
		}
	}
	var items []string
	switch {
	case rng != "":
		lo, hi, ok := strings.Cut(rng, "-")
		a, err1 := strconv.Atoi(lo)
		b, err2 := strconv.Atoi(hi)
		if !ok || err1 != nil || err2 != nil {
			c.die("invalid input range: %s", quote(rng))
		}
		for ; a <= b; a++ {
			items = append(items, strconv.Itoa(a))
		}
	case echoArgs:
		items = o.args
	default:
		for _, r := range c.inputs(o.args) {
			for b := range records(r, end[0]) {
				items = append(items, strings.TrimSuffix(string(b), end))
			}
		}
	}
	if output != "" {
		f, err := os.Create(output)
		if err != nil {
			c.die("%s: %s", output, Strerror(err))
		}
		defer f.Close()
		c.flush()
		c.out.Reset(f)
		defer c.out.Flush()
	}
	if repeat && len(items) > 0 {
		for i := int64(0); count < 0 || i < count; i++ {
			c.print(items[randomInt(int64(len(items)))] + end)
		}
		return
	}
	for i := range items {
		if count >= 0 && int64(i) >= count {
			break
		}
		j := i + int(randomInt(int64(len(items)-i)))
		items[i], items[j] = items[j], items[i]
		c.print(items[i] + end)
	}
}
