package applets

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

// modeString is drwxr-xr-x.
func modeString(m uint32) string {
	b := []byte("?rwxrwxrwx")
	switch m & sys.ModeType {
	case sys.ModeDir:
		b[0] = 'd'
	case sys.ModeFile:
		b[0] = '-'
	case sys.ModeLink:
		b[0] = 'l'
	case sys.ModeChar:
		b[0] = 'c'
	case sys.ModeBlock:
		b[0] = 'b'
	case sys.ModeFifo:
		b[0] = 'p'
	case sys.ModeSocket:
		b[0] = 's'
	}
	for i := range 9 {
		if m&(0400>>i) == 0 {
			b[1+i] = '-'
		}
	}
	special := func(bit uint32, at int, on, off byte) {
		if m&bit != 0 {
			if b[at] == 'x' {
				b[at] = on
			} else {
				b[at] = off
			}
		}
	}
	special(04000, 3, 's', 'S')
	special(02000, 6, 's', 'S')
	special(01000, 9, 't', 'T')
	return string(b)
}

// humanSize is a size as du -h and ls -h print it: rounded up, 1.5K.
func humanSize(n int64, base float64) string {
	if n < int64(base) {
		return strconv.FormatInt(n, 10)
	}
	units := "KMGTPE"
	if base == 1000 {
		units = "kMGTPE"
	}
	f := float64(n)
	i := -1
	for f >= base && i+1 < len(units) {
		f /= base
		i++
	}
	up := func(x float64) float64 {
		t := float64(int64(x))
		if t < x {
			t++
		}
		return t
	}
	if f < 10 {
		if r := up(f*10) / 10; r < 10 {
			return fmt.Sprintf("%.1f%c", r, units[i])
		}
	}
	r := up(f)
	if r >= base && i+1 < len(units) {
		r, i = 1, i+1
		return fmt.Sprintf("%.1f%c", r, units[i])
	}
	return fmt.Sprintf("%.0f%c", r, units[i])
}

type lister struct {
	c                                                 *Ctx
	all, almost, long, one, recurse, dirs, human, si  bool
	inode, blocks, numeric, noGroup, noOwner, reverse bool
	slash, classify, fileType, deref, derefArgs       bool
	quoteNames, commas, across, columns, escape       bool
	groupDirs, ignoreBackups, zero                    bool
	sortBy                                            byte // n t S X v U
	timeField                                         byte // m a c
	timeStyle                                         string
	width                                             int
	ignore                                            []string
	blockSize                                         int64
	sections                                          int
	needHeader                                        bool
}

type entry struct {
	name string // as shown
	path string
	info *sys.Info
}

func ls(c *Ctx) {
	o := c.options("aAbBcCdDfFgGhHiI:klLmnNopqQrRsStT:uUvw:xXZ1", "all=a almost-all=A author escape=b block-size: ignore-backups=B color? directory=d file-type classify? full-time group-directories-first no-group=G human-readable=h si inode=i ignore=I hide: kibibytes=k dereference=L numeric-uid-gid=n literal=N hide-control-chars=q show-control-chars quote-name=Q quoting-style: reverse=r recursive=R size=s sort: time: time-style: tabsize=T width=w format: indicator-style: zero dereference-command-line=H hyperlink?")
	l := &lister{c: c, sortBy: 'n', timeField: 'm', width: 80, blockSize: 1024}
	if w, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && w > 0 {
		l.width = w
	}
	explicitSort := false
	for o.next() {
		switch o.opt {
		case "a":
			l.all = true
		case "A":
			l.almost = true
		case "b":
			l.escape = true
		case "B":
			l.ignoreBackups = true
		case "c":
			l.timeField = 'c'
		case "u":
			l.timeField = 'a'
		case "time":
			l.timeField = map[string]byte{"atime": 'a', "access": 'a', "use": 'a', "ctime": 'c', "status": 'c', "mtime": 'm', "birth": 'c'}[o.arg]
		case "C":
			l.columns, l.long, l.one = true, false, false
		case "x":
			l.across, l.columns, l.long, l.one = true, true, false, false
		case "m":
			l.commas, l.long, l.one = true, false, false
		case "format":
			switch o.arg {
			case "long", "verbose":
				l.long = true
			case "single-column":
				l.one = true
			case "commas":
				l.commas = true
			case "across", "horizontal":
				l.across, l.columns = true, true
			case "vertical":
				l.columns = true
			}
		case "d":
			l.dirs = true
		case "f":
			l.all, l.sortBy, explicitSort = true, 'U', true
		case "F", "classify":
			l.classify = !o.has || o.arg != "never"
		case "p":
			l.slash = true
		case "file-type":
			l.fileType = true
		case "indicator-style":
			l.slash, l.classify, l.fileType = o.arg == "slash", o.arg == "classify", o.arg == "file-type"
		case "g":
			l.long, l.noOwner = true, true
		case "G":
			l.noGroup = true
		case "o":
			l.long, l.noGroup = true, true
		case "h":
			l.human = true
		case "si":
			l.human, l.si = true, true
		case "H":
			l.derefArgs = true
		case "i":
			l.inode = true
		case "I", "hide":
			l.ignore = append(l.ignore, o.arg)
		case "k":
		case "l":
			l.long, l.one, l.columns, l.commas = true, false, false, false
		case "L":
			l.deref = true
		case "n":
			l.long, l.numeric = true, true
		case "Q":
			l.quoteNames = true
		case "r":
			l.reverse = true
		case "R":
			l.recurse = true
		case "s":
			l.blocks = true
		case "block-size":
			if n, ok := parseSize(o.arg); ok {
				l.blockSize = n
			}
		case "S", "t", "X", "v", "U":
			l.sortBy, explicitSort = o.opt[0], true
		case "sort":
			l.sortBy, explicitSort = map[string]byte{"none": 'U', "size": 'S', "time": 't', "version": 'v', "extension": 'X', "name": 'n'}[o.arg], true
			if l.sortBy == 0 {
				c.warn("invalid argument %s for '--sort'", quote(o.arg))
				c.usage()
			}
		case "full-time":
			l.long, l.timeStyle = true, "full-iso"
		case "time-style":
			l.timeStyle = o.arg
		case "w":
			l.width, _ = strconv.Atoi(o.arg)
		case "1":
			if !l.long {
				l.one, l.columns, l.commas = true, false, false
			}
		case "group-directories-first":
			l.groupDirs = true
		case "zero":
			l.zero = true
		}
	}
	if (l.timeField != 'm') && !explicitSort && !l.long {
		l.sortBy = 't'
	}
	args := o.args
	if len(args) == 0 {
		args = []string{"."}
	}
	var files, dirs []entry
	for _, a := range args {
		stat := sys.Lstat
		if l.deref || l.derefArgs || !l.long && !l.classify && !l.dirs {
			stat = sys.Stat
		}
		i, err := stat(a)
		if err != nil {
			if i2, e := sys.Lstat(a); e == nil && !l.deref {
				i, err = i2, nil
			}
		}
		if err == nil && i.IsLink() && !l.dirs && (l.long || l.classify) && strings.HasSuffix(a, "/") {
			i, err = sys.Stat(a)
		}
		if err != nil {
			c.warn("cannot access %s: %s", quote(a), Strerror(err))
			c.code = 2
			continue
		}
		e := entry{name: a, path: a, info: i}
		if i.IsDir() && !l.dirs {
			dirs = append(dirs, e)
		} else {
			files = append(files, e)
		}
	}
	l.sort(files)
	l.sort(dirs)
	if len(files) > 0 {
		l.show(files)
		l.sections++
	}
	l.needHeader = len(args) > 1 || l.recurse
	for _, d := range dirs {
		l.directory(d.path)
	}
}

func (l *lister) directory(p string) {
	c := l.c
	names, close, err := openDir(p)
	if err != nil {
		c.warn("cannot open directory %s: %s", quote(p), Strerror(err))
		c.code = 2
		return
	}
	if l.sections > 0 {
		c.println()
	}
	l.sections++
	if l.needHeader {
		c.printf("%s:\n", p)
	}
	var entries []entry
	add := func(name string) {
		full := strings.TrimSuffix(p, "/") + "/" + name
		stat := sys.Lstat
		if l.deref {
			stat = sys.Stat
		}
		i, err := stat(full)
		if err != nil {
			if i, err = sys.Lstat(full); err != nil {
				c.warn("cannot access %s: %s", quote(full), Strerror(err))
				c.code = max(c.code, 1)
				return
			}
		}
		entries = append(entries, entry{name: name, path: full, info: i})
	}
	if l.all {
		add(".")
		add("..")
	}
	for _, n := range names {
		name := n.Name()
		if name[0] == '.' && !l.all && !l.almost || l.ignoreBackups && strings.HasSuffix(name, "~") || matchAny(l.ignore, name) {
			continue
		}
		add(name)
	}
	close()
	l.sort(entries)
	if l.long || l.blocks {
		total := int64(0)
		for _, e := range entries {
			total += e.info.Blocks * 512
		}
		c.printf("total %s\n", l.blockText(total))
	}
	l.show(entries)
	if l.recurse {
		for _, e := range entries {
			if e.info.IsDir() && e.name != "." && e.name != ".." {
				l.directory(e.path)
			}
		}
	}
}

func (l *lister) blockText(bytes int64) string {
	if l.human {
		return humanSize(bytes, l.base())
	}
	return strconv.FormatInt((bytes+l.blockSize-1)/l.blockSize, 10)
}

func (l *lister) base() float64 {
	if l.si {
		return 1000
	}
	return 1024
}

func (l *lister) when(i *sys.Info) int64 {
	switch l.timeField {
	case 'a':
		return i.Atime
	case 'c':
		return i.Ctime
	}
	return i.Mtime
}

func (l *lister) sort(e []entry) {
	if l.sortBy == 'U' {
		return
	}
	byName := func(a, b entry) int { return strings.Compare(a.name, b.name) }
	less := byName
	switch l.sortBy {
	case 't':
		less = func(a, b entry) int { return cmp.Or(cmp.Compare(l.when(b.info), l.when(a.info)), byName(a, b)) }
	case 'S':
		less = func(a, b entry) int { return cmp.Or(cmp.Compare(b.info.Length, a.info.Length), byName(a, b)) }
	case 'X':
		less = func(a, b entry) int {
			return cmp.Or(strings.Compare(path.Ext(a.name), path.Ext(b.name)), byName(a, b))
		}
	case 'v':
		less = func(a, b entry) int { return compareVersions(a.name, b.name) }
	}
	slices.SortStableFunc(e, func(a, b entry) int {
		if l.groupDirs {
			if d := cmp.Compare(btoi(l.isDir(b)), btoi(l.isDir(a))); d != 0 {
				return d
			}
		}
		if l.reverse {
			return less(b, a)
		}
		return less(a, b)
	})
}

func (l *lister) isDir(e entry) bool {
	if e.info.IsLink() {
		i, err := sys.Stat(e.path)
		return err == nil && i.IsDir()
	}
	return e.info.IsDir()
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// label is a name with quotes and an indicator.
func (l *lister) label(e entry) string {
	n := e.name
	if l.quoteNames {
		n = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(n) + `"`
	} else if l.escape {
		n = strings.NewReplacer(`\`, `\\`, " ", `\ `, "\n", `\n`, "\t", `\t`).Replace(n)
	}
	return n + l.indicator(e.info, l.long)
}

func (l *lister) indicator(i *sys.Info, long bool) string {
	switch {
	case i.IsDir() && (l.slash || l.classify || l.fileType):
		return "/"
	case !l.classify && !l.fileType:
	case i.IsLink():
		if !long {
			return "@"
		}
	case i.StMode&sys.ModeType == sys.ModeFifo:
		return "|"
	case i.StMode&sys.ModeType == sys.ModeSocket:
		return "="
	case l.classify && i.IsRegular() && i.StMode&0111 != 0:
		return "*"
	}
	return ""
}

func (l *lister) show(entries []entry) {
	c := l.c
	if l.long {
		l.showLong(entries)
		return
	}
	inodeW, blockW := 0, 0
	for _, e := range entries {
		inodeW = max(inodeW, len(strconv.FormatInt(e.info.Ino, 10)))
		blockW = max(blockW, len(l.blockText(e.info.Blocks*512)))
	}
	labels := make([]string, len(entries))
	for i, e := range entries {
		if l.inode {
			labels[i] += fmt.Sprintf("%*d ", inodeW, e.info.Ino)
		}
		if l.blocks {
			labels[i] += fmt.Sprintf("%*s ", blockW, l.blockText(e.info.Blocks*512))
		}
		labels[i] += l.label(e)
	}
	switch {
	case l.commas:
		line := ""
		for i, n := range labels {
			if i < len(labels)-1 {
				n += ", "
			}
			if line != "" && textWidth(line)+textWidth(strings.TrimRight(n, " ")) >= l.width {
				c.println(strings.TrimRight(line, " "))
				line = ""
			}
			line += n
		}
		c.println(line)
	case l.columns:
		l.showColumns(labels)
	default:
		end := "\n"
		if l.zero {
			end = "\x00"
		}
		for _, n := range labels {
			c.print(n + end)
		}
	}
}

// showColumns fits the labels into as many columns as the width takes.
func (l *lister) showColumns(labels []string) {
	if len(labels) == 0 {
		return
	}
	best := 1
	var bestWidths []int
	for cols := min(len(labels), l.width/3+1); cols >= 1; cols-- {
		rows := (len(labels) + cols - 1) / cols
		used := (len(labels) + rows - 1) / rows
		if l.across {
			used = cols
		}
		widths := make([]int, used)
		for i, n := range labels {
			col := i / rows
			if l.across {
				col = i % cols
			}
			widths[col] = max(widths[col], textWidth(n)+2)
		}
		total := -2
		for _, w := range widths {
			total += w
		}
		if total < l.width && (used == cols || cols == 1) || cols == 1 {
			best, bestWidths = cols, widths
			break
		}
	}
	rows := (len(labels) + best - 1) / best
	for r := range rows {
		col := 0
		for k := range bestWidths {
			at := k*rows + r
			if l.across {
				at = r*best + k
			}
			if at >= len(labels) {
				continue
			}
			n := labels[at]
			last := at+rows >= len(labels)
			if l.across {
				last = k == len(bestWidths)-1 || at == len(labels)-1
			}
			l.c.print(n)
			if !last {
				l.indent(col+textWidth(n), col+bestWidths[k])
			}
			col += bestWidths[k]
		}
		l.c.println()
	}
}

// indent moves from one column to another with tabs where they help.
func (l *lister) indent(from, to int) {
	for from < to {
		if to/8 > (from+1)/8 {
			l.c.out.WriteByte('\t')
			from += 8 - from%8
		} else {
			l.c.out.WriteByte(' ')
			from++
		}
	}
}

func (l *lister) timeText(t time.Time) string {
	switch l.timeStyle {
	case "full-iso":
		return t.Format("2006-01-02 15:04:05.000000000 -0700")
	case "long-iso":
		return t.Format("2006-01-02 15:04")
	case "iso":
		if recent(t) {
			return t.Format("01-02 15:04")
		}
		return t.Format("2006-01-02 ")
	}
	if f, ok := strings.CutPrefix(l.timeStyle, "+"); ok {
		return strftime(f, t)
	}
	if recent(t) {
		return t.Format("Jan _2 15:04")
	}
	return t.Format("Jan _2  2006")
}

// recent is half a year.
func recent(t time.Time) bool {
	d := time.Since(t)
	return d >= -time.Second && d < 31556952/2*time.Second
}

func (l *lister) showLong(entries []entry) {
	c := l.c
	rows := make([][]string, len(entries))
	var w [7]int
	users, groupsByID := map[int]string{}, map[int]string{}
	name := func(m map[int]string, id int, f func(int) string) string {
		if l.numeric {
			return strconv.Itoa(id)
		}
		if _, ok := m[id]; !ok {
			m[id] = f(id)
		}
		return m[id]
	}
	for k, e := range entries {
		i := e.info
		size := strconv.FormatInt(i.Length, 10)
		if l.human {
			size = humanSize(i.Length, l.base())
		}
		if t := i.StMode & sys.ModeType; t == sys.ModeChar || t == sys.ModeBlock {
			size = fmt.Sprintf("%d, %3d", i.Rdev>>8&0xfff, i.Rdev&0xff|i.Rdev>>12&0xfff00)
		}
		r := []string{strconv.FormatInt(i.Ino, 10), l.blockText(i.Blocks * 512), strconv.FormatInt(i.Nlink, 10),
			name(users, i.Uid, userName), name(groupsByID, i.Gid, groupName), size, l.timeText(time.Unix(0, l.when(i)))}
		for x := range w {
			w[x] = max(w[x], len(r[x]))
		}
		rows[k] = r
	}
	for k, e := range entries {
		r := rows[k]
		if l.inode {
			c.printf("%*s ", w[0], r[0])
		}
		if l.blocks {
			c.printf("%*s ", w[1], r[1])
		}
		c.printf("%s %*s ", modeString(e.info.StMode), w[2], r[2])
		if !l.noOwner {
			c.printf("%-*s ", w[3], r[3])
		}
		if !l.noGroup {
			c.printf("%-*s ", w[4], r[4])
		}
		c.printf("%*s %*s %s", w[5], r[5], w[6], r[6], l.label(e))
		if e.info.IsLink() {
			if t, err := os.Readlink(e.path); err == nil {
				c.print(" -> " + t)
				if i, err := sys.Stat(e.path); err == nil {
					c.print(l.indicator(i, false))
				}
			}
		}
		c.out.WriteByte('\n')
	}
}

// stat shows what the system knows of files.
func statTool(c *Ctx) {
	o := c.options("Lfc:t", "dereference=L file-system=f format=c printf: terse=t cached:")
	follow, fsInfo, format, raw := false, false, "", false
	for o.next() {
		switch o.opt {
		case "L":
			follow = true
		case "f":
			fsInfo = true
		case "c":
			format, raw = o.arg, false
		case "printf":
			format, raw = o.arg, true
		case "t":
			format = "%n %s %b %f %u %g %D %i %h %t %T %X %Y %Z %W %o"
		}
	}
	if len(o.args) == 0 {
		c.missing()
	}
	for _, a := range o.args {
		if fsInfo {
			u, err := sys.Statfs(a)
			if err != nil {
				c.fail("cannot read file system information for %s: %s", quote(a), Strerror(err))
				continue
			}
			if format != "" {
				c.println(strings.NewReplacer("%a", strconv.FormatInt((u.Bytes-u.BytesUsed)/4096, 10), "%f", strconv.FormatInt((u.Bytes-u.BytesUsed)/4096, 10), "%b", strconv.FormatInt(u.Bytes/4096, 10), "%S", "4096", "%s", "4096", "%T", "tmpfs", "%n", a).Replace(format))
				continue
			}
			c.printf("  File: \"%s\"\n    ID: 0        Namelen: 255     Type: tmpfs\nBlock size: 4096       Fundamental block size: 4096\nBlocks: Total: %-10d Free: %-10d Available: %d\nInodes: Total: %-10d Free: %d\n", a, u.Bytes/4096, (u.Bytes-u.BytesUsed)/4096, (u.Bytes-u.BytesUsed)/4096, u.Inodes, u.Inodes-u.InodesUsed)
			continue
		}
		get := sys.Lstat
		if follow {
			get = sys.Stat
		}
		i, err := get(a)
		if err != nil {
			if follow {
				c.fail("cannot stat %s: %s", quote(a), Strerror(err))
			} else {
				c.fail("cannot statx %s: %s", quote(a), Strerror(err))
			}
			continue
		}
		if format != "" {
			c.print(statFormat(format, a, i, raw))
			if !raw {
				c.println()
			}
			continue
		}
		name := a
		if i.IsLink() {
			t, _ := os.Readlink(a)
			name += " -> " + t
		}
		c.printf("  File: %s\n", name)
		c.print(statFormat("  Size: %-10s\tBlocks: %-10b IO Block: %-6o %F\n", a, i, true))
		c.print(statFormat("Device: %Hd,%Ld\tInode: %-11i Links: %h\n", a, i, true))
		c.print(statFormat("Access: (%04a/%A)  Uid: (%5u/%8U)   Gid: (%5g/%8G)\n", a, i, true))
		c.print(statFormat("Access: %x\nModify: %y\nChange: %z\n Birth: %w\n", a, i, true))
	}
}

func fileType(i *sys.Info) string {
	switch i.StMode & sys.ModeType {
	case sys.ModeDir:
		return "directory"
	case sys.ModeLink:
		return "symbolic link"
	case sys.ModeChar:
		return "character special file"
	case sys.ModeBlock:
		return "block special file"
	case sys.ModeFifo:
		return "fifo"
	case sys.ModeSocket:
		return "socket"
	}
	if i.Length == 0 {
		return "regular empty file"
	}
	return "regular file"
}

func statFormat(f, name string, i *sys.Info, raw bool) string {
	var b strings.Builder
	for k := 0; k < len(f); k++ {
		if f[k] == '\\' && raw && k+1 < len(f) {
			t, _ := unescape(f[k:k+2], escPrintf)
			b.WriteString(t)
			k++
			continue
		}
		if f[k] != '%' || k+1 >= len(f) {
			b.WriteByte(f[k])
			continue
		}
		start := k
		k++
		for k < len(f) && strings.IndexByte("-+ #0'123456789.", f[k]) >= 0 {
			k++
		}
		flags := f[start+1 : k]
		if k >= len(f) {
			b.WriteString(f[start:])
			break
		}
		hl := byte(0)
		if (f[k] == 'H' || f[k] == 'L') && k+1 < len(f) && (f[k+1] == 'd' || f[k+1] == 'r') {
			hl = f[k]
			k++
		}
		stamp := func(ns int64) string { return time.Unix(0, ns).Format("2006-01-02 15:04:05.000000000 -0700") }
		num := func(n int64, verb string) { fmt.Fprintf(&b, "%"+flags+verb, n) }
		str := func(s string) { fmt.Fprintf(&b, "%"+strings.ReplaceAll(flags, "0", "")+"s", s) }
		switch f[k] {
		case '%':
			b.WriteByte('%')
		case 'a':
			num(int64(i.Perm()), "o")
		case 'A':
			str(modeString(i.StMode))
		case 'b':
			num(i.Blocks, "d")
		case 'B':
			num(512, "d")
		case 'd':
			switch hl {
			case 'H':
				num(i.Dev>>8&0xfff, "d")
			case 'L':
				num(i.Dev&0xff, "d")
			default:
				num(i.Dev, "d")
			}
		case 'D':
			num(i.Dev, "x")
		case 'f':
			num(int64(i.StMode), "x")
		case 'F':
			str(fileType(i))
		case 'g':
			num(int64(i.Gid), "d")
		case 'G':
			str(groupName(i.Gid))
		case 'u':
			num(int64(i.Uid), "d")
		case 'U':
			str(userName(i.Uid))
		case 'h':
			num(i.Nlink, "d")
		case 'i':
			num(i.Ino, "d")
		case 'm':
			str("/")
		case 'n':
			str(name)
		case 'N':
			s := quote(name)
			if i.IsLink() {
				t, _ := os.Readlink(name)
				s += " -> " + quote(t)
			}
			str(s)
		case 'o':
			num(4096, "d")
		case 's':
			num(i.Length, "d")
		case 't', 'T', 'r', 'R':
			num(i.Rdev, "x")
		case 'w':
			str("-")
		case 'W':
			num(0, "d")
		case 'x':
			str(stamp(i.Atime))
		case 'X':
			num(i.Atime/1e9, "d")
		case 'y':
			str(stamp(i.Mtime))
		case 'Y':
			num(i.Mtime/1e9, "d")
		case 'z':
			str(stamp(i.Ctime))
		case 'Z':
			num(i.Ctime/1e9, "d")
		default:
			b.WriteByte('?')
		}
	}
	return b.String()
}

func du(c *Ctx) {
	o := c.options("0abcd:DhHklLmPsSt:xX:B:", "all=a apparent-size block-size=B bytes=b total=c max-depth=d human-readable=h si separate-dirs=S summarize=s exclude: dereference=L one-file-system=x null=0 count-links=l time? threshold=t inodes")
	var all, total, human, apparent, separate, deref, countLinks, inodes bool
	depth, block, end := -1, int64(1024), "\n"
	base := 1024.0
	var exclude []string
	for o.next() {
		switch o.opt {
		case "a":
			all = true
		case "apparent-size":
			apparent = true
		case "b":
			apparent, block = true, 1
		case "B":
			n, ok := parseSize(o.arg)
			if !ok {
				c.die("invalid --block-size argument %s", quote(o.arg))
			}
			block = n
		case "c":
			total = true
		case "d":
			n, err := strconv.Atoi(o.arg)
			if err != nil || n < 0 {
				c.die("invalid maximum depth %s", quote(o.arg))
			}
			depth = n
		case "h":
			human = true
		case "si":
			human, base = true, 1000
		case "k":
			block = 1024
		case "m":
			block = 1 << 20
		case "L":
			deref = true
		case "l":
			countLinks = true
		case "s":
			depth = 0
		case "S":
			separate = true
		case "0":
			end = "\x00"
		case "exclude":
			exclude = append(exclude, o.arg)
		case "inodes":
			inodes = true
		}
	}
	text := func(n int64) string {
		switch {
		case inodes:
			return strconv.FormatInt(n, 10)
		case human:
			return humanSize(n, base)
		}
		return strconv.FormatInt((n+block-1)/block, 10)
	}
	seen := map[[2]int64]bool{}
	size := func(i *sys.Info) int64 {
		switch {
		case inodes:
			return 1
		case apparent:
			if i.IsDir() || i.IsRegular() || i.IsLink() {
				return i.Length
			}
			return 0
		}
		return i.Blocks * 512
	}
	var walk func(p string, level int) (int64, bool)
	walk = func(p string, level int) (int64, bool) {
		stat := sys.Lstat
		if deref {
			stat = sys.Stat
		}
		i, err := stat(p)
		if err != nil {
			c.fail("cannot access %s: %s", quote(p), Strerror(err))
			return 0, false
		}
		if !i.IsDir() && i.Nlink > 1 && !countLinks {
			key := [2]int64{i.Dev, i.Ino}
			if seen[key] {
				return 0, false
			}
			seen[key] = true
		}
		n := size(i)
		sub := int64(0)
		if i.IsDir() {
			entries, err := os.ReadDir(p)
			if err != nil {
				c.fail("cannot read directory %s: %s", quote(p), Strerror(err))
			}
			for _, e := range entries {
				if matchAny(exclude, e.Name()) {
					continue
				}
				full := strings.TrimSuffix(p, "/") + "/" + e.Name()
				k, isDir := walk(full, level+1)
				if separate && isDir {
					sub += k
				} else {
					n += k
				}
			}
		}
		if (i.IsDir() || all || level == 0) && (depth < 0 || level <= depth) {
			c.print(text(n) + "\t" + p + end)
		}
		return n + sub, i.IsDir()
	}
	args := o.args
	if len(args) == 0 {
		args = []string{"."}
	}
	sum := int64(0)
	for _, a := range args {
		n, _ := walk(a, 0)
		sum += n
	}
	if total {
		c.print(text(sum) + "\ttotal" + end)
	}
}

func df(c *Ctx) {
	o := c.options("aB:hHiklmPTt:x:", "all=a block-size=B human-readable=h si=H inodes=i portability=P print-type=T type=t exclude-type=x total output? local=l")
	human, inodes, typ, block, base := false, false, false, int64(1024), 1024.0
	posix := false
	for o.next() {
		switch o.opt {
		case "h":
			human = true
		case "H":
			human, base = true, 1000
		case "i":
			inodes = true
		case "T":
			typ = true
		case "P":
			posix = true
		case "m":
			block = 1 << 20
		case "B":
			if n, ok := parseSize(o.arg); ok {
				block = n
			}
		}
	}
	args := o.args
	for _, a := range args {
		if _, err := sys.Stat(a); err != nil {
			c.fail("%s: %s", a, Strerror(err))
		}
	}
	if c.code != 0 && len(args) == 1 {
		return
	}
	u, err := sys.Statfs("/")
	if err != nil {
		c.die("/: %s", Strerror(err))
	}
	size, used := u.Bytes, u.BytesUsed
	num := func(n int64) string {
		if human {
			return humanSize(n, base)
		}
		return strconv.FormatInt((n+block-1)/block, 10)
	}
	head := []string{"Filesystem", "Type", fmt.Sprintf("%dK-blocks", block/1024), "Used", "Available", "Use%", "Mounted on"}
	switch {
	case inodes:
		head[2], head[4], head[5] = "Inodes", "IFree", "IUse%"
		head[3] = "IUsed"
		size, used = u.Inodes, u.InodesUsed
		num = func(n int64) string { return strconv.FormatInt(n, 10) }
	case human:
		head[2], head[4] = "Size", "Avail"
	case posix:
		head[2], head[5] = "1024-blocks", "Capacity"
	case block >= 1<<20:
		head[2] = fmt.Sprintf("%dM-blocks", block>>20)
	}
	percent := "0%"
	if size > 0 {
		percent = fmt.Sprintf("%d%%", (used*100+size-1)/size)
	}
	row := []string{"sandbox", "tmpfs", num(size), num(used), num(size - used), percent, "/"}
	if !typ {
		head, row = append(head[:1:1], head[2:]...), append(row[:1:1], row[2:]...)
	}
	for i := range row {
		w := max(len(head[i]), len(row[i]))
		if i == 0 {
			w = max(w, 14)
		}
		if n := i; n >= len(row)-5 && n < len(row)-1 && n > 0 {
			head[i], row[i] = fmt.Sprintf("%*s", w, head[i]), fmt.Sprintf("%*s", w, row[i])
		} else if n < len(row)-1 {
			head[i], row[i] = fmt.Sprintf("%-*s", w, head[i]), fmt.Sprintf("%-*s", w, row[i])
		}
	}
	c.println(strings.Join(head, " "))
	c.println(strings.Join(row, " "))
}
