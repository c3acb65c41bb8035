package applets

import (
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

func itoa(n int) string { return strconv.Itoa(n) }

// fileTool is file: what the first bytes say.
func fileTool(c *Ctx) {
	o := c.options("bhiLkz", "brief=b mime=i mime-type dereference=L no-dereference=h")
	brief, mime, follow := false, false, false
	for o.next() {
		switch o.opt {
		case "b":
			brief = true
		case "i", "mime-type":
			mime = true
		case "L":
			follow = true
		}
	}
	if len(o.args) == 0 {
		c.usage()
	}
	width := 0
	for _, a := range o.args {
		width = max(width, len(a))
	}
	for _, a := range o.args {
		if !brief {
			c.printf("%s:%s ", a, strings.Repeat(" ", width-len(a)))
		}
		text, typ := describeFile(c, a, follow)
		if mime {
			text = typ
		}
		c.println(text)
	}
}

func describeFile(c *Ctx, name string, follow bool) (text, mime string) {
	stat := sys.Lstat
	if follow {
		stat = sys.Stat
	}
	if name != "-" {
		i, err := stat(name)
		if err != nil {
			s := fmt.Sprintf("cannot open `%s' (%s)", name, Strerror(err))
			return s, s
		}
		switch {
		case i.IsDir():
			return "directory", "inode/directory"
		case i.IsLink():
			t, _ := os.Readlink(name)
			if _, err := sys.Stat(name); err != nil {
				return "broken symbolic link to " + t, "inode/symlink"
			}
			return "symbolic link to " + t, "inode/symlink"
		case !i.IsRegular():
			return fileType(i), "inode/x-empty"
		case i.Length == 0:
			return "empty", "inode/x-empty"
		}
	}
	r, err := c.open(name)
	if err != nil {
		return Strerror(err), ""
	}
	defer r.Close()
	b := make([]byte, 64<<10)
	n, _ := io.ReadFull(r, b)
	return sniff(b[:n])
}

// sniff recognises what a sandbox usually holds.
func sniff(b []byte) (text, mime string) {
	for _, m := range []struct{ magic, text, mime string }{
		{"\x1f\x8b", "gzip compressed data", "application/gzip"}, {"BZh", "bzip2 compressed data", "application/x-bzip2"},
		{"\xfd7zXZ\x00", "XZ compressed data", "application/x-xz"}, {"\x28\xb5\x2f\xfd", "Zstandard compressed data", "application/zstd"},
		{"PK\x03\x04", "Zip archive data", "application/zip"}, {"\x7fELF", "ELF executable", "application/x-executable"},
		{"\x00asm", "WebAssembly (wasm) binary module version 0x1 (MVP)", "application/wasm"}, {"\x89PNG\r\n", "PNG image data", "image/png"},
		{"\xff\xd8\xff", "JPEG image data", "image/jpeg"}, {"GIF8", "GIF image data", "image/gif"}, {"%PDF-", "PDF document", "application/pdf"},
		{"SQLite format 3\x00", "SQLite 3.x database", "application/vnd.sqlite3"}} {
		if strings.HasPrefix(string(b), m.magic) {
			return m.text, m.mime
		}
	}
	if len(b) > 262 && string(b[257:262]) == "ustar" {
		return "POSIX tar archive (GNU)", "application/x-tar"
	}
	ascii := true
	for _, ch := range b {
		if ch == 0 || ch < ' ' && strings.IndexByte("\t\n\r\f\v\b\x1b", ch) < 0 {
			return "data", "application/octet-stream"
		}
		ascii = ascii && ch < 128
	}
	kind := "ASCII text"
	if !ascii {
		kind = "Unicode text, UTF-8 text"
		if !utf8.Valid(b[:len(b)-partialRune(b)]) {
			kind = "ISO-8859 text"
		}
	}
	s := string(b)
	mime = "text/plain"
	trimmed := strings.TrimSpace(s)
	switch {
	case strings.HasPrefix(s, "#!"):
		line, _, _ := strings.Cut(s[2:], "\n")
		f := strings.Fields(line)
		prog := ""
		if len(f) > 0 {
			prog = path.Base(f[0])
			if prog == "env" && len(f) > 1 {
				prog = f[1]
			}
		}
		switch prog {
		case "sh", "dash":
			return "POSIX shell script, " + kind + " executable", "text/x-shellscript"
		case "bash":
			return "Bourne-Again shell script, " + kind + " executable", "text/x-shellscript"
		case "python", "python3":
			return "Python script, " + kind + " executable", "text/x-script.python"
		}
		return "a " + strings.TrimSpace(line) + " script, " + kind + " executable", "text/plain"
	case strings.HasPrefix(trimmed, "{") && strings.HasSuffix(trimmed, "}") || strings.HasPrefix(trimmed, "[") && strings.HasSuffix(trimmed, "]"):
		if _, err := parseJSON([]byte(trimmed)); err == nil {
			return "JSON data", "application/json"
		}
	case strings.HasPrefix(trimmed, "<?xml"):
		return "XML 1.0 document, " + kind, "text/xml"
	case strings.HasPrefix(strings.ToLower(trimmed), "<!doctype html"), strings.HasPrefix(strings.ToLower(trimmed), "<html"):
		return "HTML document, " + kind, "text/html"
	}
	if strings.Contains(s, "\r\n") {
		kind += ", with CRLF line terminators"
	} else if !strings.Contains(s, "\n") {
		kind += ", with no line terminators"
	}
	return kind, mime
}

// partialRune is how many bytes of an unfinished character end b.
func partialRune(b []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-i:]) {
				return i
			}
			return 0
		}
	}
	return 0
}

// free shows the sandbox's memory limit from /proc/meminfo.
func free(c *Ctx) {
	o := c.options("bkmghtws:c:", "bytes=b kibi=k mebi=m gibi=g human=h total=t wide=w")
	unit, human := int64(1), false
	for o.next() {
		switch o.opt {
		case "b":
			unit = 0
		case "m":
			unit = 1 << 10
		case "g":
			unit = 1 << 20
		case "h":
			human = true
		}
	}
	data, _ := os.ReadFile("/proc/meminfo")
	kb := map[string]int64{}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 {
			kb[strings.TrimSuffix(f[0], ":")], _ = strconv.ParseInt(f[1], 10, 64)
		}
	}
	show := func(n int64) string {
		switch {
		case human:
			s := humanSize(n<<10, 1024)
			return s + "i"
		case unit == 0:
			return strconv.FormatInt(n<<10, 10)
		}
		return strconv.FormatInt(n/unit, 10)
	}
	total, avail := kb["MemTotal"], kb["MemAvailable"]
	if _, ok := kb["MemAvailable"]; !ok {
		avail = kb["MemFree"]
	}
	c.println("               total        used        free      shared  buff/cache   available")
	c.printf("Mem:     %11s %11s %11s %11s %11s %11s\n", show(total), show(total-avail), show(kb["MemFree"]), show(0), show(kb["Cached"]), show(avail))
	c.printf("Swap:    %11s %11s %11s\n", show(0), show(0), show(0))
}

// tree draws directories.
func tree(c *Ctx) {
	o := c.options("adfI:L:P:sFi", "noreport dirsfirst prune gitignore")
	var all, dirsOnly, full, noReport, size, slash, dirsFirst bool
	depth := -1
	ignore, only := "", ""
	for o.next() {
		switch o.opt {
		case "a":
			all = true
		case "d":
			dirsOnly = true
		case "f":
			full = true
		case "I":
			ignore = o.arg
		case "P":
			only = o.arg
		case "L":
			n, err := strconv.Atoi(o.arg)
			if err != nil || n < 1 {
				c.die("Invalid level, must be greater than 0.")
			}
			depth = n
		case "s":
			size = true
		case "F":
			slash = true
		case "noreport":
			noReport = true
		case "dirsfirst":
			dirsFirst = true
		}
	}
	roots := o.args
	if len(roots) == 0 {
		roots = []string{"."}
	}
	nd, nf := 0, 0
	hit := func(list, name string) bool { return list != "" && matchAny(strings.Split(list, "|"), name) }
	var walk func(p, indent string, level int)
	walk = func(p, indent string, level int) {
		entries, err := os.ReadDir(p)
		if err != nil {
			return
		}
		var show []os.DirEntry
		for pass := range 2 {
			for _, e := range entries {
				n := e.Name()
				if !all && n[0] == '.' || dirsOnly && !e.IsDir() || hit(ignore, n) || only != "" && !e.IsDir() && !hit(only, n) {
					continue
				}
				if dirsFirst && e.IsDir() != (pass == 0) || !dirsFirst && pass == 1 {
					continue
				}
				show = append(show, e)
			}
		}
		for i, e := range show {
			branch, next := "├── ", "│\u00a0\u00a0 "
			if i == len(show)-1 {
				branch, next = "└── ", "    "
			}
			sub := strings.TrimSuffix(p, "/") + "/" + e.Name()
			label := e.Name()
			if full {
				label = sub
			}
			st, err := sys.Lstat(sub)
			if err != nil {
				continue
			}
			if size {
				label = fmt.Sprintf("[%11d]  %s", st.Length, label)
			}
			if slash {
				label += (&lister{classify: true}).indicator(st, false)
			}
			isDir := e.IsDir()
			if st.IsLink() {
				t, _ := os.Readlink(sub)
				label += " -> " + t
				if ti, err := sys.Stat(sub); err == nil {
					isDir = false
					if ti.IsDir() {
						nd++
						nf--
					}
				}
			}
			c.println(indent + branch + label)
			if isDir {
				nd++
				if depth < 0 || level < depth {
					walk(sub, indent+next, level+1)
				}
			} else {
				nf++
			}
		}
	}
	for _, r := range roots {
		if i, err := sys.Stat(r); err != nil || !i.IsDir() {
			c.printf("%s  [error opening dir]\n", r)
			c.code = 2
			continue
		}
		c.println(r)
		walk(r, "", 1)
	}
	if !noReport {
		dirs, files := "directories", "files"
		if nd == 1 {
			dirs = "directory"
		}
		if nf == 1 {
			files = "file"
		}
		if dirsOnly {
			c.printf("\n%d %s\n", nd, dirs)
		} else {
			c.printf("\n%d %s, %d %s\n", nd, dirs, nf, files)
		}
	}
}

// getoptTool is getopt for scripts: it puts a command line into order.
func getoptTool(c *Ctx) {
	o := c.options("+aTo:l:n:qQs:u", "alternative=a test=T options=o longoptions=l name=n quiet=q quiet-output=Q shell=s unquoted=u")
	short, long, name := "", "", "getopt"
	hasShort, unquoted := false, false
	for o.next() {
		switch o.opt {
		case "T":
			c.exit(4)
		case "o":
			short, hasShort = o.arg, true
		case "l":
			long += " " + strings.ReplaceAll(o.arg, ",", " ")
		case "n":
			name = o.arg
		case "u":
			unquoted = true
		}
	}
	args := o.args
	if !hasShort {
		if len(args) == 0 {
			c.warn("missing optstring argument")
			c.exit(2)
		}
		short, args, unquoted = args[0], args[1:], true
	}
	var specs []string
	for _, l := range strings.Fields(long) {
		switch {
		case strings.HasSuffix(l, "::"):
			specs = append(specs, strings.TrimSuffix(l, "::")+"?")
		default:
			specs = append(specs, l)
		}
	}
	sub := &Ctx{name: name, args: args, out: c.out, err: c.err, call: &Call{}}
	out := ""
	word := func(s string) string {
		if unquoted {
			return " " + s
		}
		return " '" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(ended); !ok {
				panic(r)
			}
			c.println(out + " --")
			c.code = 1
		}
	}()
	p := sub.options(short, strings.Join(specs, " "))
	for p.next() {
		dash := " -"
		takes := p.has
		if len(p.opt) > 1 || p.opt != "" && !strings.Contains(short, p.opt) {
			dash = " --"
			for _, l := range p.long {
				if l.name == p.opt {
					takes = l.value != ' '
				}
			}
		} else {
			takes = p.kind(p.opt[0]) != ' '
		}
		out += dash + p.opt
		if takes {
			out += word(p.arg)
		}
	}
	out += " --"
	for _, a := range p.args {
		out += word(a)
	}
	c.println(out)
}
