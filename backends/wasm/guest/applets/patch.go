package applets

import (
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

// patchHunk is one place to change: lines with ' ', '-' and '+' in front.
type patchHunk struct {
	oldStart, oldLen, newStart, newLen int
	lines                              []string // with their newline, unless \ No newline
}

type patchFile struct {
	oldName, newName string
	index            string
	hunks            []patchHunk
	created, removed bool // by their dates or /dev/null
	rename           [2]string
	mode             string
}

type patcher struct {
	c                                      *Ctx
	strip                                  int // -1: only the base name
	reverse, dryRun, forward, batch, quiet bool
	backup, removeEmpty, verbose, ignoreWS bool
	output, rejects, suffix                string
	fuzz                                   int
}

func patch(c *Ctx) {
	o := c.options("bd:Efi:lNno:p:r:RstuF:z:V:", "backup=b directory=d remove-empty-files=E force=f input=i ignore-whitespace=l forward=N output=o strip=p reject-file=r reverse=R silent=s quiet=s batch=t unified=u fuzz=F suffix=z dry-run verbose posix binary no-backup-if-mismatch merge? reject-format:")
	p := &patcher{c: c, strip: -1, fuzz: 2, suffix: ".orig"}
	input, dir := "-", ""
	for o.next() {
		switch o.opt {
		case "b":
			p.backup = true
		case "d":
			dir = o.arg
		case "E":
			p.removeEmpty = true
		case "f", "t":
			p.batch = true
		case "i":
			input = o.arg
		case "l":
			p.ignoreWS = true
		case "N":
			p.forward = true
		case "o":
			p.output = o.arg
		case "p":
			n, err := strconv.Atoi(o.arg)
			if err != nil {
				c.dieCode(2, "**** strip count %s is not a number", o.arg)
			}
			p.strip = n
		case "r":
			p.rejects = o.arg
		case "R":
			p.reverse = true
		case "s":
			p.quiet = true
		case "F":
			p.fuzz, _ = strconv.Atoi(o.arg)
		case "z":
			p.suffix = o.arg
			p.backup = true
		case "dry-run":
			p.dryRun = true
		case "verbose":
			p.verbose = true
		}
	}
	target := ""
	if len(o.args) > 0 {
		target = o.args[0]
	}
	if len(o.args) > 1 {
		input = o.args[1]
	}
	r, err := c.open(input)
	if err != nil {
		c.dieCode(2, "**** Can't open patch file %s : %s", input, Strerror(err))
	}
	if dir != "" {
		if err := os.Chdir(dir); err != nil {
			c.dieCode(2, "**** Can't change to directory %s : %s", dir, Strerror(err))
		}
	}
	data, _ := io.ReadAll(r)
	files, err := parsePatch(string(data))
	if err != nil {
		c.dieCode(2, "**** %v", err)
	}
	if len(data) == 0 {
		return
	}
	if len(files) == 0 {
		c.dieCode(2, "**** Only garbage was found in the patch input.")
	}
	for i := range files {
		p.apply(&files[i], target)
	}
}

// parsePatch reads unified diffs with whatever text is around them.
func parsePatch(text string) ([]patchFile, error) {
	lines := strings.SplitAfter(text, "\n")
	var files []patchFile
	cur := -1
	index, mode := "", ""
	var rename [2]string
	name := func(l string) (string, bool) {
		l = strings.TrimRight(l, "\r\n")
		n, stamp, _ := strings.Cut(l, "\t")
		n = strings.TrimRight(n, " ")
		if strings.HasPrefix(n, `"`) {
			if u, err := strconv.Unquote(n); err == nil {
				n = u
			}
		}
		return n, n == "/dev/null" || strings.HasPrefix(stamp, "1970-01-01 0") || strings.HasPrefix(stamp, "1969-12-31")
	}
	flushGit := func() {
		if rename[0] != "" && cur < 0 {
			files = append(files, patchFile{oldName: rename[0], newName: rename[1], rename: rename, mode: mode})
		}
		rename, mode = [2]string{}, ""
	}
	for i := 0; i < len(lines); i++ {
		l := lines[i]
		switch {
		case strings.HasPrefix(l, "diff --git "):
			flushGit()
			cur = -1
		case strings.HasPrefix(l, "Index: "):
			index = strings.TrimSpace(l[7:])
		case strings.HasPrefix(l, "rename from "):
			rename[0] = strings.TrimSpace(l[12:])
		case strings.HasPrefix(l, "rename to "):
			rename[1] = strings.TrimSpace(l[10:])
		case strings.HasPrefix(l, "new file mode "), strings.HasPrefix(l, "new mode "):
			mode = strings.TrimSpace(l[strings.LastIndexByte(strings.TrimSpace(l), ' ')+1:])
		case strings.HasPrefix(l, "--- ") && i+1 < len(lines) && strings.HasPrefix(lines[i+1], "+++ "):
			f := patchFile{index: index, rename: rename, mode: mode}
			f.oldName, f.created = name(l[4:])
			f.newName, f.removed = name(lines[i+1][4:])
			if rename[0] != "" {
				f.oldName, f.newName = rename[0], rename[1]
			}
			files = append(files, f)
			cur = len(files) - 1
			rename, mode, index = [2]string{}, "", ""
			i++
		case strings.HasPrefix(l, "@@ -") && cur >= 0:
			h, ok := hunkHeader(l)
			if !ok {
				continue
			}
			oldLeft, newLeft := h.oldLen, h.newLen
			for oldLeft > 0 || newLeft > 0 {
				i++
				if i >= len(lines) || lines[i] == "" {
					return nil, fmt.Errorf("malformed patch at line %d: %s", i+1, strings.TrimSuffix(l, "\n"))
				}
				b := lines[i]
				switch b[0] {
				case ' ', '\n', '\t':
					if b[0] != ' ' {
						b = " " + b
					}
					oldLeft--
					newLeft--
				case '-':
					oldLeft--
				case '+':
					newLeft--
				case '\\':
					dropNewline(h.lines)
					continue
				default:
					return nil, fmt.Errorf("malformed patch at line %d: %s", i+1, strings.TrimSuffix(b, "\n"))
				}
				h.lines = append(h.lines, b)
			}
			if i+1 < len(lines) && strings.HasPrefix(lines[i+1], `\`) {
				i++
				dropNewline(h.lines)
			}
			files[cur].hunks = append(files[cur].hunks, h)
		}
	}
	cur = -1
	flushGit()
	return files, nil
}

func dropNewline(l []string) {
	if n := len(l); n > 0 {
		l[n-1] = strings.TrimSuffix(l[n-1], "\n")
	}
}

func hunkHeader(l string) (patchHunk, bool) {
	var h patchHunk
	f := strings.Fields(l)
	if len(f) < 3 {
		return h, false
	}
	span := func(s string) (int, int, bool) {
		a, b, comma := strings.Cut(s[1:], ",")
		start, err := strconv.Atoi(a)
		n := 1
		if comma {
			var e error
			if n, e = strconv.Atoi(b); e != nil {
				return 0, 0, false
			}
		}
		return start, n, err == nil && n >= 0 && start >= 0
	}
	var ok1, ok2 bool
	h.oldStart, h.oldLen, ok1 = span(f[1])
	h.newStart, h.newLen, ok2 = span(f[2])
	return h, ok1 && ok2
}

// stripped removes leading directories as -p says.
func (p *patcher) stripped(name string) string {
	if name == "/dev/null" || name == "" {
		return ""
	}
	if p.strip < 0 {
		return path.Base(name)
	}
	for range p.strip {
		i := strings.IndexByte(name, '/')
		if i < 0 {
			return ""
		}
		name = strings.TrimLeft(name[i:], "/")
	}
	return name
}

// target finds the file to change.
func (p *patcher) target(f *patchFile) string {
	if f.rename[0] != "" {
		return f.rename[0]
	}
	var candidates []string
	for _, n := range []string{f.oldName, f.newName, f.index} {
		if s := p.stripped(n); s != "" {
			candidates = append(candidates, s)
		}
	}
	best := ""
	for _, n := range candidates {
		if _, err := sys.Stat(n); err == nil && (best == "" || strings.Count(n, "/") < strings.Count(best, "/") || strings.Count(n, "/") == strings.Count(best, "/") && len(n) < len(best)) {
			best = n
		}
	}
	if best != "" {
		return best
	}
	if f.created || p.reverse && f.removed {
		n := p.stripped(f.newName)
		if p.reverse {
			n = p.stripped(f.oldName)
		}
		return n
	}
	return ""
}

func (p *patcher) apply(f *patchFile, name string) {
	c := p.c
	say := func(format string, a ...any) {
		if !p.quiet {
			c.printf(format, a...)
		}
	}
	if name == "" {
		if name = p.target(f); name == "" {
			c.printf("can't find file to patch at input line %d\nPerhaps you used the wrong -p or --strip option?\nThe text leading up to this was:\n--------------------------\n|--- %s\n|+++ %s\n--------------------------\nNo file to patch.  Skipping patch.\n%d out of %d hunk%s ignored\n", 3, f.oldName, f.newName, len(f.hunks), len(f.hunks), plural(len(f.hunks)))
			c.code = 1
			return
		}
	}
	if name[0] == '/' || strings.Contains("/"+name+"/", "/../") {
		if len(c.args) == 0 || name != c.args[len(c.args)-1] {
			c.warn("**** Ignoring potentially dangerous file name %s", name)
			c.code = 1
			return
		}
	}
	data, err := os.ReadFile(name)
	exists := err == nil
	text := strings.SplitAfter(string(data), "\n")
	if text[len(text)-1] == "" {
		text = text[:len(text)-1]
	}
	verb := "patching"
	if p.dryRun {
		verb = "checking"
	}
	say("%s file %s", verb, quoteMaybe(name))
	if f.rename[1] != "" {
		say(" (renamed from %s)", f.rename[0])
	}
	say("\n")
	hunks := f.hunks
	if p.reverse {
		hunks = reverseHunks(hunks)
	}
	// Already applied? Then GNU asks; without a terminal it skips.
	if len(hunks) > 0 && !p.fits(text, hunks[0], 0) {
		if r := reverseHunks(hunks); p.fits(text, r[0], 0) && (exists || len(text) > 0) {
			what := "Reversed (or previously applied) patch detected!"
			if p.reverse {
				what = "Unreversed patch detected!"
			}
			switch {
			case p.forward:
				say("%s  Skipping patch.\n%d out of %d hunk%s ignored", what, len(hunks), len(hunks), plural(len(hunks)))
				p.reject(name, f, hunks, say)
				c.code = 1
				return
			case p.batch:
				say("%s  Assuming -R.\n", what)
				hunks = r
			default:
				say("%s  Assume -R? [n] \nApply anyway? [n] \nSkipping patch.\n%d out of %d hunk%s ignored", what, len(hunks), len(hunks), plural(len(hunks)))
				p.reject(name, f, hunks, say)
				c.code = 1
				return
			}
		}
	}
	var out []string
	pos, shift := 0, 0 // next line to copy; how far hunks have been found off
	var failed []patchHunk
	for k, h := range hunks {
		at, fuzz, ok := p.locate(text, h, pos, shift)
		if !ok {
			line := h.oldStart + shift
			say("Hunk #%d FAILED at %d.\n", k+1, max(line, 1))
			failed = append(failed, h)
			continue
		}
		want := h.oldStart - 1
		if h.oldLen == 0 {
			want = h.oldStart
		}
		if d := at - want - shift; d != 0 || fuzz > 0 {
			shift += d
			say("Hunk #%d succeeded at %d", k+1, at+1+len(out)-pos)
			if fuzz > 0 {
				say(" with fuzz %d", fuzz)
			}
			if off := at - want; off != 0 {
				say(" (offset %d line%s)", off, plural(off))
			}
			say(".\n")
		}
		out = append(out, text[pos:at]...)
		pos = at
		skip, tail := fuzzTrim(h, fuzz)
		body := h.lines[skip : len(h.lines)-tail]
		for _, l := range body {
			switch l[0] {
			case ' ':
				out = append(out, text[pos])
				pos++
			case '-':
				pos++
			case '+':
				out = append(out, l[1:])
			}
		}
	}
	out = append(out, text[pos:]...)
	result := strings.Join(out, "")
	if len(failed) > 0 {
		say("%d out of %d hunk%s FAILED", len(failed), len(hunks), plural(len(hunks)))
		p.reject(name, f, failed, say)
		c.code = 1
	}
	if p.dryRun {
		return
	}
	dst := name
	if p.output != "" {
		dst = p.output
	}
	if f.rename[1] != "" && p.output == "" {
		dst = f.rename[1]
		if p.reverse {
			dst = f.rename[0]
		}
		os.MkdirAll(path.Dir(dst), 0o777)
		os.Remove(name)
	}
	if (p.backup || len(failed) > 0) && exists && p.output == "" {
		os.WriteFile(name+p.suffix, data, 0o666)
	}
	removed := f.removed && !p.reverse || f.created && p.reverse
	if result == "" && len(failed) == 0 && p.output == "" && (removed || p.removeEmpty) {
		os.Remove(dst)
		return
	}
	if dst == "-" {
		c.print(result)
		return
	}
	mode := uint32(0666) &^ c.umask()
	if i, err := sys.Stat(name); err == nil {
		mode = i.Perm()
	}
	os.MkdirAll(path.Dir(dst), 0o777)
	if err := os.WriteFile(dst, []byte(result), 0o666); err != nil {
		c.dieCode(2, "**** Can't create file %s : %s", dst, Strerror(err))
	}
	if m, err := strconv.ParseUint(f.mode, 8, 32); err == nil && f.mode != "" {
		mode = uint32(m) & 0777
	}
	sys.Chmod(dst, mode)
}

func plural(n int) string {
	if n == 1 || n == -1 {
		return ""
	}
	return "s"
}

// reject writes the hunks that failed to NAME.rej.
func (p *patcher) reject(name string, f *patchFile, hunks []patchHunk, say func(string, ...any)) {
	rej := name + ".rej"
	if p.rejects != "" {
		rej = p.rejects
	}
	if rej == "-" || p.dryRun {
		say("\n")
		return
	}
	say(" -- saving rejects to file %s\n", rej)
	var b strings.Builder
	fmt.Fprintf(&b, "--- %s\n+++ %s\n", f.oldName, f.newName)
	for _, h := range hunks {
		span := func(start, n int) string {
			if n == 1 {
				return strconv.Itoa(start)
			}
			return fmt.Sprintf("%d,%d", start, n)
		}
		fmt.Fprintf(&b, "@@ -%s +%s @@\n", span(h.oldStart, h.oldLen), span(h.newStart, h.newLen))
		for _, l := range h.lines {
			b.WriteString(l)
			if !strings.HasSuffix(l, "\n") {
				b.WriteString("\n\\ No newline at end of file\n")
			}
		}
	}
	os.WriteFile(rej, []byte(b.String()), 0o666)
}

func reverseHunks(hunks []patchHunk) []patchHunk {
	out := make([]patchHunk, len(hunks))
	for i, h := range hunks {
		r := patchHunk{oldStart: h.newStart, oldLen: h.newLen, newStart: h.oldStart, newLen: h.oldLen}
		for k := 0; k < len(h.lines); {
			if h.lines[k][0] == ' ' {
				r.lines = append(r.lines, h.lines[k])
				k++
				continue
			}
			var dels, adds []string
			for ; k < len(h.lines) && h.lines[k][0] != ' '; k++ {
				if h.lines[k][0] == '-' {
					adds = append(adds, "+"+h.lines[k][1:])
				} else {
					dels = append(dels, "-"+h.lines[k][1:])
				}
			}
			r.lines = append(append(r.lines, dels...), adds...)
		}
		out[i] = r
	}
	return out
}

// fuzzTrim is how many context lines at both ends are ignored.
func fuzzTrim(h patchHunk, fuzz int) (head, tail int) {
	pre, suf := 0, 0
	for pre < len(h.lines) && h.lines[pre][0] == ' ' {
		pre++
	}
	for suf < len(h.lines)-pre && h.lines[len(h.lines)-1-suf][0] == ' ' {
		suf++
	}
	context := max(pre, suf)
	return max(fuzz+pre-context, 0), max(fuzz+suf-context, 0)
}

func (p *patcher) fits(text []string, h patchHunk, pos int) bool {
	_, _, ok := p.locate(text, h, pos, 0)
	return ok
}

// locate searches where a hunk's old lines are, near where they should be.
func (p *patcher) locate(text []string, h patchHunk, pos, shift int) (at, fuzz int, ok bool) {
	pre, suf := 0, 0
	for pre < len(h.lines) && h.lines[pre][0] == ' ' {
		pre++
	}
	for suf < len(h.lines) && h.lines[len(h.lines)-1-suf][0] == ' ' {
		suf++
	}
	for fuzz = 0; fuzz <= min(p.fuzz, max(pre, suf)); fuzz++ {
		head, tail := fuzzTrim(h, fuzz)
		var old []string
		for _, l := range h.lines[head : len(h.lines)-tail] {
			if l[0] != '+' {
				old = append(old, l[1:])
			}
		}
		want := h.oldStart - 1 + shift
		if h.oldLen == 0 {
			want = h.oldStart + shift
			if len(text) > 0 && h.oldStart == 0 && pos == 0 && len(h.lines) > 0 {
				return 0, 0, false // it wants to make a file that is there
			}
		}
		want += head
		// A hunk with less context before than after must be at the start.
		anchoredStart := pre < suf && fuzz == 0 && h.oldStart <= 1
		anchoredEnd := suf < pre && fuzz == 0
		for d := 0; d <= len(text)+1; d++ {
			for _, try := range [2]int{want + d, want - d} {
				if d == 0 && try != want || try < pos || try+len(old) > len(text) {
					continue
				}
				if anchoredStart && try != head || anchoredEnd && try+len(old) != len(text) {
					continue
				}
				if p.same(text[try:try+len(old)], old) {
					return try, fuzz, true
				}
				if d == 0 {
					break
				}
			}
		}
		if anchoredStart || anchoredEnd { // elsewhere only with fuzz
			for d := 0; d <= len(text)+1; d++ {
				for _, try := range [2]int{want + d, want - d} {
					if try >= pos && try+len(old) <= len(text) && p.same(text[try:try+len(old)], old) {
						return try, max(fuzz, 0), true
					}
				}
			}
		}
	}
	return 0, 0, false
}

func (p *patcher) same(a, b []string) bool {
	for i := range a {
		x, y := a[i], b[i]
		if p.ignoreWS {
			x, y = strings.Join(strings.Fields(x), " "), strings.Join(strings.Fields(y), " ")
		}
		if x != y {
			return false
		}
	}
	return true
}
