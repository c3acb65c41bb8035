package applets

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

type tarrer struct {
	c                                   *Ctx
	mode                                byte // c x t r u
	file                                string
	verbose                             int
	packing                             string
	auto                                bool
	keepOld, overwrite, toStdout, perms bool
	deref, noRecurse, absolute, noMtime bool
	wildcards                           bool
	numeric, skipOld                    bool
	strip                               int
	exclude                             []string
	removeFiles                         bool
	owner, group, modeSpec, sortNames   string
	mtime                               *time.Time
	transforms                          []*sedCmd
	members                             []string
	files                               []string // from -T
	null                                bool
	links                               map[[2]int64]string
	dirTimes                            []func()
	warnedSlash                         bool
	format                              tar.Format
	newer                               int64
}

func tarTool(c *Ctx) {
	// The first argument may lack its dash: tar xzf FILE.
	if len(c.args) > 0 && c.args[0] != "" && c.args[0][0] != '-' {
		letters := c.args[0]
		rest := c.args[1:]
		var out []string
		for _, l := range letters {
			out = append(out, "-"+string(l))
			if strings.ContainsRune("fCTXbVN", l) {
				if len(rest) == 0 {
					c.dieCode(2, "Old option '%c' requires an argument.", l)
				}
				out[len(out)-1] += rest[0]
				rest = rest[1:]
			}
		}
		c.args = append(out, rest...)
	}
	o := c.options("AcdrtuxaC:f:hjJkmOopPRsSvwzZT:X:b:V:N:lUBWK:g:I:", "create=c extract=x get=x list=t append=r update=u diff=d file=f directory=C verbose=v gzip=z gunzip=z ungzip=z bzip2=j xz=J lzma zstd auto-compress=a compress=Z keep-old-files=k skip-old-files overwrite unlink-first=U to-stdout=O preserve-permissions=p same-permissions=p no-same-permissions no-same-owner=o same-owner touch=m dereference=h absolute-names=P exclude: exclude-from=X exclude-vcs files-from=T null no-recursion recursion strip-components: transform: xform: owner: group: mode: mtime: numeric-owner one-file-system sparse=S totals? wildcards no-wildcards anchored no-anchored sort: format: to-command: remove-files use-compress-program=I show-transformed-names newer=N after-date=N delay-directory-restore ignore-failed-read warning: checkpoint? blocking-factor=b posix hard-dereference no-overwrite-dir quoting-style: utc full-time label=V overwrite-dir no-auto-compress verify=W")
	t := &tarrer{c: c, links: map[[2]int64]string{}, format: tar.FormatGNU}
	chdir := func(d string) {
		if err := os.Chdir(d); err != nil {
			c.dieCode(2, "%s: Cannot open: %s", d, Strerror(err))
		}
	}
	var dirs []string
	for o.next() {
		switch o.opt {
		case "c", "x", "t", "r", "u", "d", "A":
			if t.mode != 0 && t.mode != o.opt[0] {
				c.warn("You may not specify more than one '-Acdtrux', '--delete' or  '--test-label' option")
				c.usage()
			}
			t.mode = o.opt[0]
		case "f":
			t.file = o.arg
		case "C":
			dirs = append(dirs, o.arg)
			if len(o.args) > 0 || len(dirs) > 1 {
				o.args = append(o.args, "\x00"+o.arg)
			}
		case "v":
			t.verbose++
		case "z":
			t.packing = "gzip"
		case "j":
			t.packing = "bzip2"
		case "J":
			t.packing = "xz"
		case "lzma", "zstd":
			t.packing = o.opt
		case "I":
			t.packing = map[string]string{"gzip": "gzip", "bzip2": "bzip2", "xz": "xz", "zstd": "zstd", "pigz": "gzip", "lzma": "lzma"}[strings.Fields(o.arg + " x")[0]]
		case "a":
			t.auto = true
		case "k":
			t.keepOld = true
		case "overwrite":
			t.overwrite = true
		case "skip-old-files":
			t.skipOld = true
		case "O":
			t.toStdout = true
		case "p":
			t.perms = true
		case "m":
			t.noMtime = true
		case "h":
			t.deref = true
		case "P":
			t.absolute = true
		case "exclude":
			t.exclude = append(t.exclude, o.arg)
		case "X":
			t.exclude = append(t.exclude, c.allLines([]string{o.arg})...)
		case "exclude-vcs":
			t.exclude = append(t.exclude, ".git", ".svn", ".hg", "CVS", ".gitignore")
		case "null":
			t.null = true
		case "T":
			r, err := c.open(o.arg)
			if err != nil {
				c.dieCode(2, "%s: Cannot open: %s", o.arg, Strerror(err))
			}
			end := byte('\n')
			if t.null {
				end = 0
			}
			for b := range records(r, end) {
				if n := strings.TrimSuffix(string(b), string(end)); n != "" {
					t.files = append(t.files, n)
				}
			}
		case "no-recursion":
			t.noRecurse = true
		case "strip-components":
			n, err := strconv.Atoi(o.arg)
			if err != nil || n < 0 {
				c.dieCode(2, "%s: Invalid number of elements", o.arg)
			}
			t.strip = n
		case "transform", "xform":
			p := &sedParser{src: o.arg, source: "-e expression #1", labels: map[string]int{}}
			if err := p.parse(); err != nil {
				c.dieCode(2, "Invalid transform expression")
			}
			t.transforms = append(t.transforms, p.cmds...)
		case "owner":
			t.owner = o.arg
		case "group":
			t.group = o.arg
		case "mode":
			t.modeSpec = o.arg
		case "mtime":
			when, err := parseDate(o.arg, time.Now())
			if err != nil {
				c.dieCode(2, "Invalid mtime %s", quote(o.arg))
			}
			t.mtime = &when
		case "numeric-owner":
			t.numeric = true
		case "wildcards":
			t.wildcards = true
		case "sort":
			t.sortNames = o.arg
		case "format":
			t.format = map[string]tar.Format{"gnu": tar.FormatGNU, "pax": tar.FormatPAX, "posix": tar.FormatPAX, "ustar": tar.FormatUSTAR, "v7": tar.FormatUSTAR, "oldgnu": tar.FormatGNU}[o.arg]
		case "remove-files":
			t.removeFiles = true
		case "N":
			when, err := parseDate(o.arg, time.Now())
			if err == nil {
				t.newer = when.UnixNano()
			}
		}
	}
	if t.mode == 0 {
		c.warn("You must specify one of the '-Acdtrux', '--delete' or '--test-label' options")
		c.usage()
	}
	// The archive is named before the first -C counts.
	if t.file != "" && t.file != "-" && len(dirs) > 0 && !strings.HasPrefix(t.file, "/") {
		if wd, err := os.Getwd(); err == nil {
			t.file = wd + "/" + t.file
		}
	}
	if len(dirs) > 0 && c.firstC() {
		chdir(dirs[0])
	}
	names := append(o.args, t.files...)
	switch t.mode {
	case 'c', 'r', 'u':
		t.create(names)
	default:
		for i, n := range names {
			if strings.HasPrefix(n, "\x00") {
				chdir(n[1:])
				names[i] = ""
				continue
			}
			if n != "" {
				t.members = append(t.members, strings.TrimSuffix(n, "/"))
			}
		}
		t.read()
	}
}

// firstC reports whether -C comes before the first operand, so that it holds
// for all of them.
func (c *Ctx) firstC() bool {
	skip := false
	for _, a := range c.args {
		if skip {
			skip = false
			continue
		}
		switch {
		case strings.HasPrefix(a, "-C") || strings.HasPrefix(a, "--directory"):
			return true
		case strings.HasPrefix(a, "--"):
		case len(a) > 1 && a[0] == '-':
			last := a[len(a)-1]
			if strings.IndexByte(a, 'C') > 0 {
				return true
			}
			skip = strings.IndexByte("fTXbIN", last) >= 0
		default:
			return false
		}
	}
	return true
}

func (t *tarrer) create(names []string) {
	c := t.c
	if len(names) == 0 {
		c.dieCode(2, "Cowardly refusing to create an empty archive\nTry 'tar --help' or 'tar --usage' for more information.")
	}
	if t.auto && t.packing == "" {
		for _, p := range packings() {
			for _, s := range p.suffixes {
				if strings.HasSuffix(t.file, s) {
					t.packing = p.name
				}
			}
		}
	}
	var w io.Writer = c.out
	var old []byte
	if t.file != "" && t.file != "-" {
		if t.mode != 'c' {
			old, _ = os.ReadFile(t.file)
		}
		f, err := os.Create(t.file)
		if err != nil {
			c.dieCode(2, "%s: Cannot open: %s\ntar: Error is not recoverable: exiting now", t.file, Strerror(err))
		}
		defer f.Close()
		w = f
	}
	var z io.WriteCloser
	if t.packing != "" {
		p := packingOf(t.packing)
		var err error
		if z, err = p.writer(w, map[string]int{"gzip": 6, "bzip2": 9, "zstd": 3}[p.name]); err != nil {
			c.dieCode(2, "%v", err)
		}
		w = z
	}
	blocks := &counter{}
	tw := tar.NewWriter(io.MultiWriter(w, blocks))
	if len(old) > 0 {
		tr := tar.NewReader(strings.NewReader(string(old)))
		for {
			h, err := tr.Next()
			if err != nil {
				break
			}
			tw.WriteHeader(h)
			io.Copy(tw, tr)
		}
	}
	for _, n := range names {
		if d, ok := strings.CutPrefix(n, "\x00"); ok {
			if err := os.Chdir(d); err != nil {
				c.dieCode(2, "%s: Cannot open: %s", d, Strerror(err))
			}
			continue
		}
		t.add(tw, n)
	}
	err := tw.Close()
	// GNU pads archives to records of 20 blocks.
	if pad := blocks.n % 10240; pad != 0 && err == nil {
		_, err = w.Write(make([]byte, 10240-pad))
	}
	if z != nil && err == nil {
		err = z.Close()
	}
	if err != nil {
		c.dieCode(2, "%s: Cannot write: %s", t.file, Strerror(err))
	}
	if c.code == 2 {
		c.warn("Exiting with failure status due to previous errors")
	}
}

func (t *tarrer) excluded(name string) bool {
	for _, p := range t.exclude {
		p = strings.TrimSuffix(p, "/")
		if fnmatch(p, name) {
			return true
		}
		// Unanchored: a pattern may match from any slash on.
		for i := range name {
			if name[i] == '/' && fnmatch(p, name[i+1:]) {
				return true
			}
		}
	}
	return false
}

// memberName makes a path relative and applies --transform.
func (t *tarrer) memberName(name string) string {
	if !t.absolute {
		s := strings.TrimLeft(name, "/")
		prefix := name[:len(name)-len(s)]
		for {
			i := strings.Index("/"+s, "/../")
			if i < 0 {
				break
			}
			prefix += s[:i+3]
			s = s[i+3:]
		}
		if prefix != "" && !t.warnedSlash {
			t.warnedSlash = true
			t.c.flush()
			t.c.warn("Removing leading `%s' from member names", prefix)
		}
		name = s
	}
	for _, x := range t.transforms {
		if x.name != 's' || x.re == nil {
			continue
		}
		n := 1
		if x.flags.global {
			n = -1
		}
		src := []byte(name)
		var out []byte
		at := 0
		for _, m := range x.re.All(src, n) {
			out = append(out, src[at:m[0]]...)
			out = x.replace(out, src, m)
			at = m[1]
		}
		name = string(append(out, src[at:]...))
	}
	return name
}

func (t *tarrer) add(tw *tar.Writer, name string) {
	c := t.c
	disk := name
	if t.excluded(strings.TrimSuffix(name, "/")) {
		return
	}
	stat := sys.Lstat
	if t.deref {
		stat = sys.Stat
	}
	i, err := stat(disk)
	if err != nil {
		c.warn("%s: Cannot stat: %s", strings.TrimSuffix(name, "/"), Strerror(err))
		c.code = 2
		return
	}
	link := ""
	if i.IsLink() {
		link, _ = os.Readlink(disk)
	}
	if i.IsDir() && !strings.HasSuffix(name, "/") {
		name += "/"
	}
	h := &tar.Header{Name: t.memberName(name), Mode: int64(i.Perm()), Uid: i.Uid, Gid: i.Gid, Size: i.Length,
		ModTime: time.Unix(i.Mtime/1e9, 0), Linkname: link, Uname: userName(i.Uid), Gname: groupName(i.Gid), Format: t.format}
	if t.format == tar.FormatUnknown {
		h.Format = tar.FormatGNU
	}
	switch i.StMode & sys.ModeType {
	case sys.ModeDir:
		h.Typeflag, h.Size = tar.TypeDir, 0
	case sys.ModeLink:
		h.Typeflag, h.Size = tar.TypeSymlink, 0
	case sys.ModeFile:
		h.Typeflag = tar.TypeReg
	case sys.ModeFifo:
		h.Typeflag, h.Size = tar.TypeFifo, 0
	default:
		c.warn("%s: file type not supported; not dumped", name)
		return
	}
	if key := [2]int64{i.Dev, i.Ino}; i.IsRegular() && i.Nlink > 1 && !t.deref {
		if first, ok := t.links[key]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			t.links[key] = h.Name
		}
	}
	if t.numeric {
		h.Uname, h.Gname = "", ""
	}
	if t.owner != "" {
		n, id, _ := strings.Cut(t.owner, ":")
		var ok bool
		if h.Uid, ok = lookupName("/etc/passwd", n); ok {
			h.Uname = userName(h.Uid)
		}
		if v, err := strconv.Atoi(id); err == nil {
			h.Uid, h.Uname = v, n
		}
	}
	if t.group != "" {
		n, id, _ := strings.Cut(t.group, ":")
		var ok bool
		if h.Gid, ok = lookupName("/etc/group", n); ok {
			h.Gname = groupName(h.Gid)
		}
		if v, err := strconv.Atoi(id); err == nil {
			h.Gid, h.Gname = v, n
		}
	}
	if t.modeSpec != "" {
		if m, err := ParseMode(t.modeSpec, i.Perm(), i.IsDir(), 0); err == nil {
			h.Mode = int64(m)
		}
	}
	if t.mtime != nil {
		h.ModTime = *t.mtime
	}
	if h.Name != "" && !(i.IsRegular() && t.newer > 0 && i.Mtime <= t.newer) {
		if t.verbose > 0 {
			t.show(h, t.file == "" || t.file == "-")
		}
		if err := tw.WriteHeader(h); err != nil {
			c.fail("%s: %v", name, err)
			c.code = 2
			return
		}
		if h.Typeflag == tar.TypeReg {
			t.copyIn(tw, disk, h.Size)
		}
	}
	if i.IsDir() && !t.noRecurse {
		entries, err := os.ReadDir(disk)
		if err != nil {
			c.warn("%s: Cannot open: %s", disk, Strerror(err))
			c.code = 2
		}
		for _, e := range entries {
			t.add(tw, name+e.Name())
		}
	}
	if t.removeFiles {
		os.Remove(disk)
	}
}

func (t *tarrer) copyIn(tw *tar.Writer, disk string, size int64) {
	f, err := os.Open(disk)
	if err != nil {
		t.c.warn("%s: Cannot open: %s", disk, Strerror(err))
		t.c.code = 2
		tw.Write(make([]byte, size))
		return
	}
	defer f.Close()
	n, _ := io.CopyN(tw, f, size)
	for n < size { // the file shrank
		k := min(size-n, 32<<10)
		tw.Write(make([]byte, k))
		n += k
	}
}

// show prints a member for -v, -vv and -t.
func (t *tarrer) show(h *tar.Header, toErr bool) {
	c := t.c
	level := t.verbose
	if t.mode == 't' {
		level++
	}
	var b strings.Builder
	if level > 1 {
		kind := map[byte]uint32{tar.TypeDir: sys.ModeDir, tar.TypeSymlink: sys.ModeLink, tar.TypeFifo: sys.ModeFifo, tar.TypeChar: sys.ModeChar, tar.TypeBlock: sys.ModeBlock}[h.Typeflag]
		if kind == 0 {
			kind = sys.ModeFile
		}
		mode := modeString(kind | uint32(h.Mode)&07777)
		if h.Typeflag == tar.TypeLink {
			mode = "h" + mode[1:]
		}
		owner, group := h.Uname, h.Gname
		if owner == "" || t.numeric {
			owner = strconv.Itoa(h.Uid)
		}
		if group == "" || t.numeric {
			group = strconv.Itoa(h.Gid)
		}
		size := strconv.FormatInt(h.Size, 10)
		who := owner + "/" + group
		pad := max(19-len(who)-len(size)-1, 0) + len(size) + 1
		fmt.Fprintf(&b, "%s %s%*s %s ", mode, who, pad-1+1, size, h.ModTime.Format("2006-01-02 15:04"))
	}
	b.WriteString(h.Name)
	if level > 1 {
		switch h.Typeflag {
		case tar.TypeSymlink:
			b.WriteString(" -> " + h.Linkname)
		case tar.TypeLink:
			b.WriteString(" link to " + h.Linkname)
		}
	}
	b.WriteByte('\n')
	if toErr {
		c.flush()
		io.WriteString(c.err, b.String())
	} else {
		c.print(b.String())
	}
}

func (t *tarrer) read() {
	c := t.c
	var r io.Reader = c.in
	if t.file != "" && t.file != "-" {
		f, err := os.Open(t.file)
		if err != nil {
			c.warn("%s: Cannot open: %s", t.file, Strerror(err))
			c.dieCode(2, "Error is not recoverable: exiting now")
		}
		defer f.Close()
		r = f
	}
	br := newReader(r)
	head, _ := br.Peek(6)
	r = br
	p := detectPacking(head)
	if p != nil && p.name == "lzma" && t.packing != "lzma" && !strings.HasSuffix(t.file, "lzma") {
		p = nil
	}
	switch {
	case len(head) == 0 && t.packing != "":
		c.flush()
		fmt.Fprintf(c.err, "\n%s: stdin: unexpected end of file\n", t.packing)
		c.warn("Child returned status 1")
		c.dieCode(2, "Error is not recoverable: exiting now")
	case p != nil:
		z, err := p.reader(br)
		if err != nil {
			c.dieCode(2, "%v", err)
		}
		r = z
	case t.packing != "" && len(head) > 0:
		c.flush()
		fmt.Fprintf(c.err, "\n%s: stdin: not in %s format\n", t.packing, t.packing)
		c.warn("Child returned status 1")
		c.dieCode(2, "Error is not recoverable: exiting now")
	}
	tr := tar.NewReader(r)
	seen := map[string]bool{}
	any := false
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			switch {
			case errors.Is(err, tar.ErrHeader) && !any:
				c.warn("This does not look like a tar archive")
			case errors.Is(err, io.ErrUnexpectedEOF):
				c.warn("Unexpected EOF in archive")
				c.dieCode(2, "Error is not recoverable: exiting now")
			default:
				c.warn("%v", err)
			}
			c.dieCode(2, "Exiting with failure status due to previous errors")
		}
		any = true
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if !t.wanted(h.Name, seen) {
			continue
		}
		if t.mode == 't' {
			t.show(h, false)
			continue
		}
		t.extract(tr, h)
	}
	for i := len(t.dirTimes) - 1; i >= 0; i-- {
		t.dirTimes[i]()
	}
	for _, m := range t.members {
		if !seen[m] {
			c.warn("%s: Not found in archive", m)
			c.code = 2
		}
	}
	if c.code == 2 {
		c.warn("Exiting with failure status due to previous errors")
	}
}

// wanted reports whether a member was asked for.
func (t *tarrer) wanted(name string, seen map[string]bool) bool {
	clean := strings.TrimSuffix(name, "/")
	if t.excluded(clean) {
		seen[clean] = true
		return false
	}
	if len(t.members) == 0 {
		return true
	}
	for _, m := range t.members {
		if clean == m || strings.HasPrefix(clean, m+"/") || t.wildcards && (fnmatch(m, clean) || fnmatch(m+"/*", clean)) {
			seen[m] = true
			return true
		}
	}
	return false
}

func (t *tarrer) extract(tr *tar.Reader, h *tar.Header) {
	c := t.c
	name := h.Name
	for range t.strip {
		_, rest, ok := strings.Cut(name, "/")
		if !ok {
			return
		}
		name = strings.TrimLeft(rest, "/")
	}
	if name == "" {
		return
	}
	name = t.memberName(name)
	if !t.absolute && strings.Contains("/"+name+"/", "/../") {
		c.fail("%s: Member name contains '..'", name)
		c.code = 2
		return
	}
	if t.verbose > 0 {
		shown := *h
		shown.Name = h.Name
		t.show(&shown, t.toStdout)
	}
	if t.toStdout {
		if h.Typeflag == tar.TypeReg {
			io.Copy(c.out, tr)
		}
		return
	}
	disk := strings.TrimSuffix(name, "/")
	if disk == "" {
		return
	}
	fail := func(verb string, err error) {
		var le *os.LinkError
		if errors.As(err, &le) {
			err = le.Err
		}
		c.fail("%s: Cannot %s: %s", name, verb, Strerror(err))
		c.code = 2
	}
	old, err := sys.Lstat(disk)
	exists := err == nil
	mode := uint32(h.Mode) & 07777
	if !t.perms {
		_, _, _, uid, _ := sys.Ids()
		if uid != 0 {
			mode = mode & 0777 &^ c.umask()
		}
	}
	if h.Typeflag == tar.TypeDir {
		if exists && !old.IsDir() {
			if i, err := sys.Stat(disk); err != nil || !i.IsDir() {
				os.Remove(disk)
				exists = false
			}
		}
		if !exists {
			if err := os.MkdirAll(disk, 0o777); err != nil {
				fail("mkdir", err)
				return
			}
		}
		mtime := h.ModTime
		t.dirTimes = append(t.dirTimes, func() {
			sys.Chmod(disk, mode)
			if !t.noMtime {
				sys.Utimes(disk, mtime.UnixNano(), mtime.UnixNano())
			}
		})
		return
	}
	if exists && t.keepOld {
		c.fail("%s: Cannot open: File exists", name)
		c.code = 2
		return
	}
	if exists && t.skipOld {
		return
	}
	if dir := path.Dir(disk); dir != "." {
		if _, err := sys.Stat(dir); err != nil {
			os.MkdirAll(dir, 0o777)
		}
	}
	if exists && old.IsDir() {
		if err := os.Remove(disk); err != nil {
			fail("open", syscall.EISDIR)
			return
		}
	} else if exists && !(t.overwrite && old.IsRegular()) && !(h.Typeflag == tar.TypeLink && t.memberName(h.Linkname) == disk) {
		os.Remove(disk)
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		if err := os.Symlink(h.Linkname, disk); err != nil {
			c.fail("%s: Cannot create symlink to '%s': %s", name, h.Linkname, Strerror(err))
			c.code = 2
		}
	case tar.TypeLink:
		target := h.Linkname
		for range t.strip {
			_, target, _ = strings.Cut(target, "/")
		}
		if t.memberName(target) == disk && exists {
			return
		}
		if err := os.Link(t.memberName(target), disk); err != nil {
			var le *os.LinkError
			if errors.As(err, &le) {
				err = le.Err
			}
			c.fail("%s: Cannot hard link to '%s': %s", name, h.Linkname, Strerror(err))
			c.code = 2
		}
	case tar.TypeFifo:
		sys.Mkfifo(disk, mode)
	case tar.TypeReg, tar.TypeGNUSparse:
		f, err := os.OpenFile(disk, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			fail("open", err)
			return
		}
		if _, err := io.Copy(f, tr); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				f.Close()
				c.warn("Unexpected EOF in archive")
				c.dieCode(2, "Error is not recoverable: exiting now")
			}
			c.fail("%s: Cannot write: %s", name, Strerror(err))
			c.code = 2
		}
		f.Close()
		sys.Chmod(disk, mode)
		if !t.noMtime {
			sys.Utimes(disk, h.ModTime.UnixNano(), h.ModTime.UnixNano())
		}
	default:
		c.warn("%s: Unknown file type; file ignored", name)
	}
}
