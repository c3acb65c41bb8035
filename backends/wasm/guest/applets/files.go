package applets

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

// Tools that make, move, change and remove files.

// ParseMode reads an octal or symbolic mode such as u+x,go-w. old is the mode
// that a symbolic one changes; umask masks clauses without u, g, o or a.
func ParseMode(s string, old uint32, isDir bool, umask uint32) (uint32, error) {
	bad := errors.New("invalid mode: " + quote(s))
	if s == "" {
		return 0, bad
	}
	if s[0] >= '0' && s[0] <= '9' {
		n, err := strconv.ParseUint(s, 8, 32)
		if err != nil || n > 07777 {
			return 0, bad
		}
		if isDir && len(s) < 5 { // set-id bits of directories stay
			return uint32(n) | old&06000, nil
		}
		return uint32(n), nil
	}
	mode := old
	for _, clause := range strings.Split(s, ",") {
		i := 0
		who := uint32(0)
		for ; i < len(clause); i++ {
			k := strings.IndexByte("ugoa", clause[i])
			if k < 0 {
				break
			}
			who |= [...]uint32{04700, 02070, 01007, 07777}[k]
		}
		mask := uint32(0)
		if who == 0 {
			who, mask = 07777, umask
		}
		if i == len(clause) {
			return 0, bad
		}
		for i < len(clause) {
			op := clause[i]
			if op != '+' && op != '-' && op != '=' {
				return 0, bad
			}
			i++
			perm := uint32(0)
			for ; i < len(clause); i++ {
				k := strings.IndexByte("rwxXstugo", clause[i])
				if k < 0 {
					break
				}
				switch k {
				case 0:
					perm |= 0444
				case 1:
					perm |= 0222
				case 2:
					perm |= 0111
				case 3:
					if isDir || mode&0111 != 0 {
						perm |= 0111
					}
				case 4:
					perm |= 06000
				case 5:
					perm |= 01000
				case 6:
					perm |= mode >> 6 & 7 * 0111
				case 7:
					perm |= mode >> 3 & 7 * 0111
				case 8:
					perm |= mode & 7 * 0111
				}
			}
			perm &= who &^ mask
			switch op {
			case '+':
				mode |= perm
			case '-':
				mode &^= perm
			case '=':
				keep := uint32(07000)
				if isDir {
					keep = 06000
				} else {
					keep = 0
				}
				mode = mode&^(who&^(mask|keep&^who)) | perm
			}
		}
	}
	return mode, nil
}

func (c *Ctx) umask() uint32 {
	m := sys.Umask(022)
	sys.Umask(m)
	return uint32(m)
}

func mkdir(c *Ctx) {
	o := c.options("m:pvZ", "mode=m parents=p verbose=v")
	parents, verbose, mode := false, false, ""
	for o.next() {
		switch o.opt {
		case "m":
			mode = o.arg
		case "p":
			parents = true
		case "v":
			verbose = true
		}
	}
	if len(o.args) == 0 {
		c.missing()
	}
	perm := uint32(0777)
	if mode != "" {
		var err error
		if perm, err = ParseMode(mode, 0777, true, c.umask()); err != nil {
			c.die("invalid mode %s", quote(mode))
		}
	}
	make1 := func(p string, shown string) bool {
		err := os.Mkdir(p, 0o777)
		if err == nil {
			if verbose {
				c.printf("mkdir: created directory %s\n", quote(shown))
			}
			return true
		}
		if i, e := sys.Stat(p); parents && e == nil && i.IsDir() {
			return true
		}
		c.fail("cannot create directory %s: %s", quote(shown), Strerror(err))
		return false
	}
	for _, a := range o.args {
		if parents {
			ok := true
			for i := 1; i < len(a) && ok; i++ {
				if a[i] == '/' && a[i-1] != '/' && strings.Trim(a[i:], "/") != "" {
					if _, err := sys.Stat(a[:i]); err != nil {
						ok = make1(a[:i], a[:i])
					} else if i2, _ := sys.Stat(a[:i]); !i2.IsDir() {
						c.fail("cannot create directory %s: Not a directory", quote(a[:i]))
						ok = false
					}
				}
			}
			if !ok {
				continue
			}
		}
		_, err := sys.Stat(a)
		if make1(a, a) && mode != "" && err != nil {
			sys.Chmod(a, perm)
		}
	}
}

func rmdir(c *Ctx) {
	o := c.options("pv", "parents=p verbose=v ignore-fail-on-non-empty")
	var parents, verbose, ignore bool
	for o.next() {
		switch o.opt {
		case "p":
			parents = true
		case "v":
			verbose = true
		default:
			ignore = true
		}
	}
	if len(o.args) == 0 {
		c.missing()
	}
	for _, a := range o.args {
		for p := a; ; {
			if verbose {
				c.printf("rmdir: removing directory, %s\n", quote(p))
			}
			if err := removeDir(p); err != nil {
				if !(ignore && Strerror(err) == "Directory not empty") {
					if p != a {
						c.fail("failed to remove directory %s: %s", quote(p), Strerror(err))
					} else {
						c.fail("failed to remove %s: %s", quote(p), Strerror(err))
					}
				}
				break
			}
			p = dirOf(strings.TrimRight(p, "/"))
			if !parents || p == "." || p == "/" {
				break
			}
		}
	}
}

func removeDir(p string) error {
	i, err := sys.Lstat(p)
	if err != nil {
		return err
	}
	if !i.IsDir() {
		return syscall.ENOTDIR
	}
	if l, err := os.ReadDir(p); err == nil && len(l) > 0 {
		return syscall.ENOTEMPTY
	}
	return os.Remove(p)
}

// ask reads a y or n answer to a question on standard error.
func (c *Ctx) ask(format string, a ...any) bool {
	c.flush()
	fmt.Fprintf(c.err, "%s: %s", c.name, fmt.Sprintf(format, a...))
	var line []byte
	var b [1]byte
	for {
		n, err := c.in.Read(b[:])
		if n == 1 && b[0] != '\n' {
			line = append(line, b[0])
		}
		if err != nil || n == 1 && b[0] == '\n' {
			break
		}
	}
	return len(line) > 0 && (line[0] == 'y' || line[0] == 'Y')
}

type remover struct {
	c                           *Ctx
	recursive, force, ask, dirs bool
	verbose                     bool
}

func rm(c *Ctx) {
	o := c.options("dfiIrRv", "dir=d force=f interactive? recursive=r verbose=v no-preserve-root preserve-root? one-file-system")
	r := &remover{c: c}
	for o.next() {
		switch o.opt {
		case "f":
			r.force, r.ask = true, false
		case "i":
			r.ask, r.force = true, false
		case "interactive":
			r.ask = o.arg != "never"
		case "r", "R":
			r.recursive = true
		case "d":
			r.dirs = true
		case "v":
			r.verbose = true
		}
	}
	if len(o.args) == 0 && !r.force {
		c.missing()
	}
	for _, a := range o.args {
		base := path.Base(a)
		switch {
		case (base == "." || base == "..") && r.recursive:
			c.fail("refusing to remove '.' or '..' directory: skipping %s", quote(a))
			continue
		case filepath.Clean(a) == "/" && r.recursive:
			c.fail("it is dangerous to operate recursively on '/'")
			c.err.Write([]byte("rm: use --no-preserve-root to override this failsafe\n"))
			continue
		}
		r.remove(a)
	}
}

func (r *remover) remove(p string) {
	c := r.c
	i, err := sys.Lstat(p)
	if err != nil {
		if !r.force || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			c.fail("cannot remove %s: %s", quote(p), Strerror(err))
		}
		return
	}
	kind := "regular file"
	switch {
	case i.IsDir():
		kind = "directory"
	case i.IsLink():
		kind = "symbolic link"
	case i.Length == 0:
		kind = "regular empty file"
	}
	if i.IsDir() {
		if !r.recursive && !r.dirs {
			c.fail("cannot remove %s: Is a directory", quote(p))
			return
		}
		if r.recursive {
			entries, err := os.ReadDir(p)
			if err != nil {
				c.fail("cannot remove %s: %s", quote(p), Strerror(err))
				return
			}
			if r.ask && len(entries) > 0 && !c.ask("descend into directory %s? ", quote(p)) {
				return
			}
			for _, e := range entries {
				r.remove(strings.TrimSuffix(p, "/") + "/" + e.Name())
			}
		}
	}
	if r.ask && !c.ask("remove %s %s? ", kind, quote(p)) {
		return
	}
	if err := os.Remove(p); err != nil {
		c.fail("cannot remove %s: %s", quote(p), Strerror(err))
		return
	}
	if r.verbose {
		if i.IsDir() {
			c.printf("removed directory %s\n", quote(p))
		} else {
			c.printf("removed %s\n", quote(p))
		}
	}
}

func unlink(c *Ctx) {
	args := c.operands()
	if len(args) == 0 {
		c.missing()
	}
	if i, err := sys.Lstat(args[0]); err == nil && i.IsDir() {
		c.die("cannot unlink %s: Is a directory", quote(args[0]))
	}
	if err := os.Remove(args[0]); err != nil {
		c.die("cannot unlink %s: %s", quote(args[0]), Strerror(err))
	}
}

// copier is cp, and mv between what rename cannot join.
type copier struct {
	c                                        *Ctx
	recursive, force, ask, noClobber, update bool
	preserve, keepLinks, links, followArgs   bool
	verbose, hard, symbolic, parents, noDir  bool
	backup, attrsOnly, removeFirst           bool
	suffix                                   string
	seen                                     map[[2]int64]string // copies of files with several links
}

func cp(c *Ctx) {
	o := c.options("abdfHiLlnPprRst:TuvxS:", "archive=a backup? dereference=L force=f interactive=i link=l no-clobber=n no-dereference=P preserve? no-preserve: recursive=r remove-destination strip-trailing-slashes symbolic-link=s suffix=S target-directory=t no-target-directory=T update? verbose=v parents reflink? sparse: attributes-only one-file-system=x")
	k := &copier{c: c, seen: map[[2]int64]string{}, suffix: "~"}
	target, noDeref, set := "", false, false
	for o.next() {
		switch o.opt {
		case "a":
			k.recursive, k.preserve, noDeref, set = true, true, true, true
		case "b", "backup":
			k.backup = o.arg != "none" && o.arg != "off"
		case "d":
			noDeref, set, k.keepLinks = true, true, true
		case "f":
			k.force = true
		case "H":
			k.followArgs = true
		case "i":
			k.ask, k.noClobber = true, false
		case "L":
			noDeref, set = false, true
		case "l":
			k.hard = true
		case "n":
			k.noClobber, k.ask = true, false
		case "P":
			noDeref, set = true, true
		case "p", "preserve":
			k.preserve = true
		case "r", "R":
			k.recursive = true
		case "s":
			k.symbolic = true
		case "S":
			k.suffix, k.backup = o.arg, true
		case "t":
			target = o.arg
		case "T":
			k.noDir = true
		case "u", "update":
			k.update = true
		case "v":
			k.verbose = true
		case "parents":
			k.parents = true
		case "remove-destination":
			k.removeFirst = true
		case "attributes-only":
			k.attrsOnly = true
		}
	}
	k.links = noDeref || k.recursive && !set
	k.followArgs = k.followArgs || !k.links
	k.copyAll(o.args, target, "copy")
}

// destination checks the operands and returns the sources, the target, and
// whether that is a directory to put them in.
func (k *copier) destination(args []string, target string) (srcs []string, dst string, into bool) {
	c := k.c
	if target != "" {
		if len(args) == 0 {
			c.warn("missing file operand")
			c.usage()
		}
		if i, err := sys.Stat(target); err != nil {
			c.die("target directory %s: %s", quote(target), Strerror(err))
		} else if !i.IsDir() {
			c.die("target directory %s: Not a directory", quote(target))
		}
		return args, target, true
	}
	switch len(args) {
	case 0:
		c.warn("missing file operand")
		c.usage()
	case 1:
		c.warn("missing destination file operand after %s", quote(args[0]))
		c.usage()
	}
	dst = args[len(args)-1]
	srcs = args[:len(args)-1]
	i, err := sys.Stat(dst)
	into = err == nil && i.IsDir() && !k.noDir
	if len(srcs) > 1 && !into {
		if k.noDir {
			c.extra(args[2])
		}
		if err != nil {
			c.die("target %s: %s", quote(dst), Strerror(err))
		}
		c.die("target %s: Not a directory", quote(dst))
	}
	return srcs, dst, into
}

func (k *copier) copyAll(args []string, target, verb string) {
	c := k.c
	srcs, dst, into := k.destination(args, target)
	for _, src := range srcs {
		to := dst
		if into {
			name := path.Base(src)
			if k.parents {
				name = src
				os.MkdirAll(dst+"/"+dirOf(src), 0o777)
			}
			to = strings.TrimSuffix(dst, "/") + "/" + name
			if name == ".." || name == "." {
				to = dst
			}
		}
		stat := sys.Lstat
		if k.followArgs {
			stat = sys.Stat
		}
		i, err := stat(src)
		if err != nil {
			c.fail("cannot stat %s: %s", quote(src), Strerror(err))
			continue
		}
		if !into && strings.HasSuffix(to, "/") && !i.IsDir() {
			if _, err := sys.Stat(to); err != nil {
				c.fail("cannot create regular file %s: Not a directory", quote(to))
				continue
			}
		}
		k.copy(src, to, i)
	}
}

func (k *copier) copy(src, dst string, i *sys.Info) {
	c := k.c
	if i.IsDir() && !k.recursive {
		c.fail("-r not specified; omitting directory %s", quote(src))
		return
	}
	old, err := sys.Lstat(dst)
	exists := err == nil
	if exists && !i.IsDir() {
		if st, err := sys.Stat(dst); err == nil && st.Same(i) && !k.links {
			c.fail("%s and %s are the same file", quote(src), quote(dst))
			return
		}
		switch {
		case old.Same(i):
			c.fail("%s and %s are the same file", quote(src), quote(dst))
			return
		case old.IsDir():
			c.fail("cannot overwrite directory %s with non-directory", quote(dst))
			return
		case k.noClobber:
			return
		case k.update && old.Mtime >= i.Mtime:
			return
		case k.ask && !c.ask("overwrite %s? ", quote(dst)):
			return
		}
		if k.backup {
			os.Rename(dst, dst+k.suffix)
			exists = false
		}
	}
	if i.IsDir() {
		k.copyDir(src, dst, i, exists, old)
		return
	}
	if k.verbose {
		c.printf("%s -> %s\n", quote(src), quote(dst))
	}
	fail := func(err error) {
		c.fail("cannot create regular file %s: %s", quote(dst), Strerror(err))
	}
	key := [2]int64{i.Dev, i.Ino}
	switch first := k.seen[key]; {
	case k.hard:
		os.Remove(dst)
		if err := os.Link(src, dst); err != nil {
			c.fail("cannot create hard link %s to %s: %s", quote(dst), quote(src), Strerror(err))
		}
		return
	case k.symbolic:
		if err := os.Symlink(src, dst); err != nil {
			c.fail("cannot create symbolic link %s to %s: %s", quote(dst), quote(src), Strerror(err))
		}
		return
	case i.IsLink():
		if exists {
			os.Remove(dst)
		}
		text, err := os.Readlink(src)
		if err == nil {
			err = os.Symlink(text, dst)
		}
		if err != nil {
			c.fail("cannot create symbolic link %s: %s", quote(dst), Strerror(err))
		}
		return
	case first != "" && (k.preserve || k.keepLinks) && i.Nlink > 1:
		os.Remove(dst)
		if os.Link(first, dst) == nil {
			return
		}
	case i.StMode&sys.ModeType == sys.ModeFifo && k.recursive:
		if err := sys.Mkfifo(dst, i.Perm()); err != nil {
			fail(err)
		}
		return
	}
	if i.Nlink > 1 {
		k.seen[key] = dst
	}
	if exists && k.removeFirst {
		os.Remove(dst)
		exists = false
	}
	k.copyFile(src, dst, i, exists)
}

func (k *copier) copyFile(src, dst string, i *sys.Info, exists bool) {
	c := k.c
	in, err := os.Open(src)
	if err != nil {
		c.fail("cannot open %s for reading: %s", quote(src), Strerror(err))
		return
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fs.FileMode(i.Perm()&0777))
	if err != nil && k.force && exists {
		os.Remove(dst)
		out, err = os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(i.Perm()&0777))
	}
	if err != nil {
		c.fail("cannot create regular file %s: %s", quote(dst), Strerror(err))
		return
	}
	if !k.attrsOnly {
		if _, err = io.Copy(out, in); err != nil {
			c.fail("error writing %s: %s", quote(dst), Strerror(err))
		}
	}
	if err := out.Close(); err != nil {
		c.fail("error writing %s: %s", quote(dst), Strerror(err))
	}
	switch {
	case k.preserve:
		k.attributes(dst, i)
	case !exists:
		sys.Chmod(dst, i.Perm()&0777&^c.umask())
	}
}

func (k *copier) attributes(dst string, i *sys.Info) {
	sys.Chown(dst, i.Uid, i.Gid, false)
	sys.Chmod(dst, i.Perm())
	sys.Utimes(dst, i.Atime, i.Mtime)
}

func (k *copier) copyDir(src, dst string, i *sys.Info, exists bool, old *sys.Info) {
	c := k.c
	if exists && !old.IsDir() {
		if st, err := sys.Stat(dst); err != nil || !st.IsDir() {
			c.fail("cannot overwrite non-directory %s with directory %s", quote(dst), quote(src))
			return
		}
	}
	if inside(src, dst) {
		c.fail("cannot copy a directory, %s, into itself, %s", quote(src), quote(dst))
		return
	}
	entries, err := os.ReadDir(src)
	if err != nil {
		c.fail("cannot access %s: %s", quote(src), Strerror(err))
		return
	}
	if !exists {
		if k.verbose {
			c.printf("%s -> %s\n", quote(src), quote(dst))
		}
		if err := os.Mkdir(dst, 0o777); err != nil {
			c.fail("cannot create directory %s: %s", quote(dst), Strerror(err))
			return
		}
	}
	for _, e := range entries {
		from := strings.TrimSuffix(src, "/") + "/" + e.Name()
		stat := sys.Lstat
		if !k.links {
			stat = sys.Stat
		}
		fi, err := stat(from)
		if err != nil {
			c.fail("cannot stat %s: %s", quote(from), Strerror(err))
			continue
		}
		k.copy(from, strings.TrimSuffix(dst, "/")+"/"+e.Name(), fi)
	}
	if k.preserve {
		k.attributes(dst, i)
	} else if !exists {
		sys.Chmod(dst, i.Perm()&0777&^c.umask())
	}
}

// inside reports whether dst is src or below it.
func inside(src, dst string) bool {
	a, err1 := filepath.Abs(src)
	b, err2 := filepath.Abs(dst)
	return err1 == nil && err2 == nil && (a == b || strings.HasPrefix(b, strings.TrimSuffix(a, "/")+"/"))
}

func mv(c *Ctx) {
	o := c.options("bfint:TuvS:", "backup? force=f interactive=i no-clobber=n strip-trailing-slashes suffix=S target-directory=t no-target-directory=T update=u verbose=v")
	k := &copier{c: c, recursive: true, preserve: true, links: true, suffix: "~", seen: map[[2]int64]string{}}
	target := ""
	for o.next() {
		switch o.opt {
		case "b", "backup":
			k.backup = true
		case "f":
			k.noClobber, k.ask = false, false
		case "i":
			k.ask, k.noClobber = true, false
		case "n":
			k.noClobber, k.ask = true, false
		case "t":
			target = o.arg
		case "T":
			k.noDir = true
		case "u":
			k.update = true
		case "v":
			k.verbose = true
		case "S":
			k.suffix, k.backup = o.arg, true
		}
	}
	srcs, dst, into := k.destination(o.args, target)
	for _, src := range srcs {
		to := dst
		if into {
			to = strings.TrimSuffix(dst, "/") + "/" + path.Base(src)
		}
		k.move(src, to)
	}
}

func (k *copier) move(src, dst string) {
	c := k.c
	i, err := sys.Lstat(src)
	if err != nil {
		c.fail("cannot stat %s: %s", quote(src), Strerror(err))
		return
	}
	if old, err := sys.Lstat(dst); err == nil {
		switch {
		case old.Same(i) && filepath.Clean(src) == filepath.Clean(dst), old.Same(i) && i.IsDir():
			c.fail("%s and %s are the same file", quote(src), quote(dst))
			return
		case k.noClobber:
			return
		case k.update && old.Mtime >= i.Mtime:
			return
		case old.IsDir() && !i.IsDir():
			c.fail("cannot overwrite directory %s with non-directory", quote(dst))
			return
		case !old.IsDir() && i.IsDir():
			c.fail("cannot overwrite non-directory %s with directory %s", quote(dst), quote(src))
			return
		case k.ask && !c.ask("overwrite %s? ", quote(dst)):
			return
		}
		if k.backup {
			os.Rename(dst, dst+k.suffix)
		}
	}
	if i.IsDir() && inside(src, dst) {
		c.fail("cannot move %s to a subdirectory of itself, %s", quote(src), quote(dst))
		return
	}
	err = os.Rename(src, dst)
	if errors.Is(err, syscall.EXDEV) {
		before := c.code
		k.copy(src, dst, i)
		if c.code == before {
			err = os.RemoveAll(src)
		}
	}
	if err != nil {
		var le *os.LinkError
		if errors.As(err, &le) {
			err = le.Err
		}
		if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
			c.fail("cannot overwrite %s: Directory not empty", quote(dst))
			return
		}
		c.fail("cannot move %s to %s: %s", quote(src), quote(dst), Strerror(err))
		return
	}
	if k.verbose {
		c.printf("renamed %s -> %s\n", quote(src), quote(dst))
	}
}

func ln(c *Ctx) {
	o := c.options("bfinsrt:TvLPS:", "backup? force=f interactive=i logical=L no-dereference=n physical=P relative=r symbolic=s suffix=S target-directory=t no-target-directory=T verbose=v")
	var force, symbolic, relative, noDir, verbose, noDeref, backup bool
	target, suffix := "", "~"
	for o.next() {
		switch o.opt {
		case "b", "backup":
			backup = true
		case "f":
			force = true
		case "n":
			noDeref = true
		case "r":
			relative = true
		case "s":
			symbolic = true
		case "S":
			suffix, backup = o.arg, true
		case "t":
			target = o.arg
		case "T":
			noDir = true
		case "v":
			verbose = true
		}
	}
	args := o.args
	if len(args) == 0 {
		c.warn("missing file operand")
		c.usage()
	}
	dst, into := ".", true
	switch {
	case target != "":
		dst = target
	case len(args) > 1:
		dst = args[len(args)-1]
		args = args[:len(args)-1]
		i, err := sys.Stat(dst)
		into = err == nil && i.IsDir() && !noDir
		if noDeref && into {
			if l, err := sys.Lstat(dst); err == nil && l.IsLink() {
				into = false
			}
		}
		if len(args) > 1 && !into {
			c.die("target %s: %s", quote(dst), map[bool]string{true: "No such file or directory", false: "Not a directory"}[err != nil])
		}
	}
	kind := "hard"
	if symbolic {
		kind = "symbolic"
	}
	for _, src := range args {
		to := dst
		if into {
			to = strings.TrimSuffix(dst, "/") + "/" + path.Base(src)
			if dst == "." && target == "" {
				to = path.Base(src)
				to = "./" + to
			}
		}
		shown := strings.TrimPrefix(to, "./")
		if !into {
			shown = to
		}
		text := src
		if !symbolic {
			i, err := sys.Lstat(src)
			if err != nil {
				c.fail("failed to access %s: %s", quote(src), Strerror(err))
				continue
			}
			if i.IsDir() {
				c.fail("%s: hard link not allowed for directory", src)
				continue
			}
		}
		if relative && symbolic {
			if a, err := filepath.Abs(dirOf(to)); err == nil {
				if b, err := filepath.Abs(src); err == nil {
					if r, err := filepath.Rel(resolveDir(a), resolveDir(b)); err == nil {
						text = r
					}
				}
			}
		}
		if old, err := sys.Lstat(to); err == nil {
			if i, e := sys.Lstat(src); !symbolic && e == nil && i.Same(old) && force {
				c.fail("%s and %s are the same file", quote(src), quote(to))
				continue
			}
			switch {
			case backup:
				os.Rename(to, to+suffix)
			case force && !old.IsDir():
				os.Remove(to)
			}
		}
		var err error
		if symbolic {
			err = os.Symlink(text, to)
		} else {
			err = os.Link(src, to)
		}
		if err != nil {
			var le *os.LinkError
			if errors.As(err, &le) {
				err = le.Err
			}
			if symbolic {
				c.fail("failed to create %s link %s: %s", kind, quote(shown), Strerror(err))
			} else if errors.Is(err, fs.ErrExist) {
				c.fail("failed to create %s link %s: %s", kind, quote(shown), Strerror(err))
			} else {
				c.fail("failed to create %s link %s => %s: %s", kind, quote(shown), quote(src), Strerror(err))
			}
			continue
		}
		if verbose {
			arrow := "=>"
			if symbolic {
				arrow = "->"
			}
			c.printf("%s %s %s\n", quote(shown), arrow, quote(text))
		}
	}
}

func resolveDir(p string) string {
	if r, err := filepath.EvalSymlinks(p); err == nil {
		return r
	}
	return p
}

func link(c *Ctx) {
	args := c.operands()
	if len(args) < 2 {
		c.missing()
	}
	if err := os.Link(args[0], args[1]); err != nil {
		c.die("cannot create link %s to %s: %s", quote(args[1]), quote(args[0]), Strerror(err))
	}
}

func touch(c *Ctx) {
	o := c.options("acd:fhmr:t:", "no-create=c date=d no-dereference=h reference=r time:")
	var atime, mtime, noCreate bool
	now := time.Now().UnixNano()
	at, mt := now, now
	for o.next() {
		switch o.opt {
		case "a":
			atime = true
		case "m":
			mtime = true
		case "time":
			atime = atime || o.arg == "atime" || o.arg == "access" || o.arg == "use"
			mtime = mtime || o.arg == "mtime" || o.arg == "modify"
		case "c":
			noCreate = true
		case "d":
			t, err := parseDate(o.arg, time.Now())
			if err != nil {
				c.die("invalid date format %s", quote(o.arg))
			}
			at, mt = t.UnixNano(), t.UnixNano()
		case "r":
			i, err := sys.Stat(o.arg)
			if err != nil {
				c.die("failed to get attributes of %s: %s", quote(o.arg), Strerror(err))
			}
			at, mt = i.Atime, i.Mtime
		case "t":
			t, ok := stampTime(o.arg)
			if !ok {
				c.die("invalid date format %s", quote(o.arg))
			}
			at, mt = t.UnixNano(), t.UnixNano()
		}
	}
	if len(o.args) == 0 {
		c.warn("missing file operand")
		c.usage()
	}
	for _, a := range o.args {
		i, err := sys.Stat(a)
		if err != nil {
			if noCreate {
				continue
			}
			f, err := os.OpenFile(a, os.O_WRONLY|os.O_CREATE, 0o666)
			if err != nil {
				c.fail("cannot touch %s: %s", quote(a), Strerror(err))
				continue
			}
			f.Close()
			if i, err = sys.Stat(a); err != nil {
				continue
			}
		}
		na, nm := at, mt
		if atime && !mtime {
			nm = i.Mtime
		}
		if mtime && !atime {
			na = i.Atime
		}
		if err := sys.Utimes(a, na, nm); err != nil {
			c.fail("setting times of %s: %s", quote(a), Strerror(err))
		}
	}
}

// stampTime reads [[CC]YY]MMDDhhmm[.ss].
func stampTime(s string) (time.Time, bool) {
	main, sec, _ := strings.Cut(s, ".")
	switch len(main) {
	case 8:
		main = strconv.Itoa(time.Now().Year()) + main
	case 10:
		if main[:2] >= "69" {
			main = "19" + main
		} else {
			main = "20" + main
		}
	}
	if sec == "" {
		sec = "00"
	}
	t, err := time.ParseInLocation("20060102150405", main+sec, time.Local)
	return t, err == nil
}

// chmod changes modes.
func chmod(c *Ctx) {
	// A mode such as -x looks like an option.
	var modeArg string
	args := make([]string, 0, len(c.args))
	for _, a := range c.args {
		if modeArg == "" && len(a) > 1 && a[0] == '-' && strings.IndexByte("rwxXstugo", a[1]) >= 0 {
			modeArg = a
			continue
		}
		args = append(args, a)
	}
	if modeArg == "-R" {
		modeArg = ""
	}
	c.args = args
	o := c.options("cfRv", "changes=c silent=f quiet=f recursive=R verbose=v reference: preserve-root no-preserve-root")
	var recursive, quiet, verbose, changes bool
	ref := ""
	for o.next() {
		switch o.opt {
		case "R":
			recursive = true
		case "f":
			quiet = true
		case "v":
			verbose = true
		case "c":
			changes = true
		case "reference":
			ref = o.arg
		}
	}
	args = o.args
	if modeArg == "" && ref == "" {
		if len(args) == 0 {
			c.missing()
		}
		modeArg, args = args[0], args[1:]
	}
	if len(args) == 0 {
		c.missingAfter(modeArg)
	}
	var refMode uint32
	if ref != "" {
		i, err := sys.Stat(ref)
		if err != nil {
			c.die("failed to get attributes of %s: %s", quote(ref), Strerror(err))
		}
		refMode = i.Perm()
	} else if _, err := ParseMode(modeArg, 0, false, 0); err != nil {
		c.warn("%v", err)
		c.usage()
	}
	var apply func(p string, top bool)
	apply = func(p string, top bool) {
		stat := sys.Lstat
		if top {
			stat = sys.Stat
		}
		i, err := stat(p)
		if err != nil {
			if !quiet {
				c.fail("cannot access %s: %s", quote(p), Strerror(err))
			}
			c.code = 1
			return
		}
		if i.IsLink() {
			return
		}
		m := refMode
		if ref == "" {
			m, _ = ParseMode(modeArg, i.Perm(), i.IsDir(), c.umask())
		}
		if err := sys.Chmod(p, m); err != nil {
			c.fail("changing permissions of %s: %s", quote(p), Strerror(err))
		} else if verbose || changes && m != i.Perm() {
			if m == i.Perm() {
				c.printf("mode of %s retained as %04o (%s)\n", quote(p), m, modeString(i.StMode)[1:])
			} else {
				c.printf("mode of %s changed from %04o (%s) to %04o (%s)\n", quote(p), i.Perm(), modeString(i.StMode)[1:], m, modeString(i.StMode&^07777 | m)[1:])
			}
		}
		if recursive && i.IsDir() {
			entries, err := os.ReadDir(p)
			if err != nil {
				c.fail("cannot read directory %s: %s", quote(p), Strerror(err))
			}
			for _, e := range entries {
				apply(strings.TrimSuffix(p, "/")+"/"+e.Name(), false)
			}
		}
	}
	for _, a := range args {
		apply(a, true)
	}
}

// chown and chgrp change owners.
func chown(c *Ctx) {
	o := c.options("cfhRvHLP", "changes=c silent=f quiet=f no-dereference=h dereference recursive=R verbose=v reference: from:")
	recursive, noDeref, ref := false, false, ""
	for o.next() {
		switch o.opt {
		case "R":
			recursive = true
		case "h":
			noDeref = true
		case "reference":
			ref = o.arg
		}
	}
	args := o.args
	uid, gid := -1, -1
	if ref == "" {
		if len(args) == 0 {
			c.missing()
		}
		user, group, has := strings.Cut(args[0], ":")
		if c.name == "chgrp" {
			user, group, has = "", args[0], true
		} else if !has {
			user, group, has = strings.Cut(args[0], ".")
		}
		ok := true
		if user != "" {
			if uid, ok = lookupName("/etc/passwd", user); !ok {
				c.die("invalid user: %s", quote(args[0]))
			}
			if has && group == "" {
				gid = uid
			}
		}
		if group != "" {
			if gid, ok = lookupName("/etc/group", group); !ok {
				c.die("invalid group: %s", quote(args[0]))
			}
		}
		if len(args) == 1 {
			c.missingAfter(args[0])
		}
		args = args[1:]
	} else if i, err := sys.Stat(ref); err != nil {
		c.die("failed to get attributes of %s: %s", quote(ref), Strerror(err))
	} else {
		uid, gid = i.Uid, i.Gid
	}
	var apply func(p string, follow bool)
	apply = func(p string, follow bool) {
		stat := sys.Lstat
		if follow {
			stat = sys.Stat
		}
		i, err := stat(p)
		if err != nil {
			c.fail("cannot access %s: %s", quote(p), Strerror(err))
			return
		}
		if err := sys.Chown(p, uid, gid, follow); err != nil {
			c.fail("changing ownership of %s: %s", quote(p), Strerror(err))
		}
		if recursive && i.IsDir() {
			entries, _ := os.ReadDir(p)
			for _, e := range entries {
				apply(strings.TrimSuffix(p, "/")+"/"+e.Name(), false)
			}
		}
	}
	for _, a := range args {
		apply(a, !noDeref)
	}
}

func mkfifo(c *Ctx) {
	o := c.options("m:", "mode=m")
	mode := uint32(0666) &^ c.umask()
	for o.next() {
		m, err := ParseMode(o.arg, 0666, false, c.umask())
		if err != nil {
			c.die("invalid mode")
		}
		mode = m
	}
	if len(o.args) == 0 {
		c.missing()
	}
	for _, a := range o.args {
		if err := sys.Mkfifo(a, mode); err != nil {
			c.fail("cannot create fifo %s: %s", quote(a), Strerror(err))
		}
	}
}

func readlink(c *Ctx) {
	o := c.options("femnqsvz", "canonicalize=f canonicalize-existing=e canonicalize-missing=m no-newline=n quiet=q silent=s verbose=v zero=z")
	mode, newline, end, verbose := "", true, "\n", false
	for o.next() {
		switch o.opt {
		case "f", "e", "m":
			mode = o.opt
		case "n":
			newline = false
		case "z":
			end = "\x00"
		case "v":
			verbose = true
		}
	}
	if len(o.args) == 0 {
		c.missing()
	}
	for i, a := range o.args {
		var p string
		var err error
		if mode == "" {
			p, err = os.Readlink(a)
		} else {
			p, err = canonical(a, mode[0])
		}
		if err != nil {
			c.code = 1
			if verbose {
				c.warn("%s: %s", a, Strerror(err))
			}
			continue
		}
		c.print(p)
		if newline || i < len(o.args)-1 {
			c.print(end)
		}
	}
}

// canonical resolves every link of a path. mode: 'e' all must exist, 'f' all
// but the last, 'm' none.
func canonical(p string, mode byte) (string, error) {
	if p == "" {
		return "", syscall.ENOENT
	}
	abs := p
	if !filepath.IsAbs(p) {
		wd, err := os.Getwd()
		if err != nil {
			return "", err
		}
		if real, err := filepath.EvalSymlinks(wd); err == nil {
			wd = real
		}
		abs = wd + "/" + p
	}
	todo := strings.Split(abs, "/")
	cur := ""
	links := 0
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			if part == "" && len(todo) == 0 && mode != 'm' && strings.HasSuffix(p, "/") {
				if i, err := sys.Stat(cur + "/"); err == nil && !i.IsDir() {
					return "", syscall.ENOTDIR
				}
			}
			continue
		case "..":
			cur = strings.TrimSuffix(cur[:max(strings.LastIndexByte(cur, '/'), 0)], "/")
			continue
		}
		next := cur + "/" + part
		i, err := sys.Lstat(next)
		if err != nil {
			last := strings.Trim(strings.Join(todo, ""), "/.") == ""
			if mode == 'e' || mode == 'f' && !last {
				return "", err
			}
			cur = next
			continue
		}
		if i.IsLink() {
			if links++; links > 40 {
				return "", syscall.ELOOP
			}
			text, err := os.Readlink(next)
			if err != nil {
				return "", err
			}
			if filepath.IsAbs(text) {
				cur = ""
			}
			todo = append(strings.Split(text, "/"), todo...)
			continue
		}
		if !i.IsDir() && len(todo) > 0 && strings.Trim(strings.Join(todo, "/"), "/") != "" && mode != 'm' {
			return "", syscall.ENOTDIR
		}
		cur = next
	}
	if cur == "" {
		cur = "/"
	}
	return cur, nil
}

func realpath(c *Ctx) {
	o := c.options("eEmLPqsz", "canonicalize-existing=e canonicalize-missing=m logical=L physical=P quiet=q relative-to: relative-base: strip=s no-symlinks=s zero=z")
	mode, quiet, strip, end, relTo, relBase := byte('f'), false, false, "\n", "", ""
	for o.next() {
		switch o.opt {
		case "e", "m":
			mode = o.opt[0]
		case "q":
			quiet = true
		case "s":
			strip = true
		case "z":
			end = "\x00"
		case "relative-to":
			relTo = o.arg
		case "relative-base":
			relBase = o.arg
		}
	}
	if len(o.args) == 0 {
		c.missing()
	}
	resolve := func(a string) (string, error) {
		if strip {
			return filepath.Abs(a)
		}
		return canonical(a, mode)
	}
	if relTo != "" {
		relTo, _ = resolve(relTo)
	}
	if relBase != "" {
		relBase, _ = resolve(relBase)
		if relTo == "" {
			relTo = relBase
		}
	}
	for _, a := range o.args {
		p, err := resolve(a)
		if err != nil {
			c.code = 1
			if !quiet {
				c.warn("%s: %s", a, Strerror(err))
			}
			continue
		}
		if relTo != "" && (relBase == "" || inside(relBase, p)) {
			if r, err := filepath.Rel(relTo, p); err == nil {
				p = r
			}
		}
		c.print(p + end)
	}
}

func truncateTool(c *Ctx) {
	o := c.options("cor:s:", "no-create=c io-blocks=o reference=r size=s")
	noCreate, size, op := false, int64(-1), byte(0)
	for o.next() {
		switch o.opt {
		case "c":
			noCreate = true
		case "r":
			i, err := sys.Stat(o.arg)
			if err != nil {
				c.die("cannot stat %s: %s", quote(o.arg), Strerror(err))
			}
			size = i.Length
		case "s":
			s := strings.TrimSpace(o.arg)
			if s != "" && strings.IndexByte("+-<>/%", s[0]) >= 0 {
				op, s = s[0], s[1:]
			}
			n, ok := parseSize(s)
			if !ok {
				c.die("Invalid number: %s", quote(o.arg))
			}
			size = n
		}
	}
	if size < 0 {
		c.warn("you must specify either '--size' or '--reference'")
		c.usage()
	}
	if len(o.args) == 0 {
		c.warn("missing file operand")
		c.usage()
	}
	for _, a := range o.args {
		flags := os.O_WRONLY | os.O_CREATE
		if noCreate {
			flags = os.O_WRONLY
		}
		f, err := os.OpenFile(a, flags, 0o666)
		if err != nil {
			if !noCreate {
				c.fail("cannot open %s for writing: %s", quote(a), Strerror(err))
			}
			continue
		}
		n := size
		if st, err := sys.Fstat(f); err == nil {
			switch op {
			case '+':
				n = st.Length + size
			case '-':
				n = max(st.Length-size, 0)
			case '<':
				n = min(st.Length, size)
			case '>':
				n = max(st.Length, size)
			case '/':
				n = st.Length / size * size
			case '%':
				n = (st.Length + size - 1) / size * size
			}
		}
		if err := f.Truncate(n); err != nil {
			c.fail("failed to truncate %s at %d bytes: %s", quote(a), n, Strerror(err))
		}
		f.Close()
	}
}

func install(c *Ctx) {
	o := c.options("bcCdDg:m:o:psS:t:Tv", "directory=d mode=m owner=o group=g preserve-timestamps=p target-directory=t no-target-directory=T verbose=v strip=s compare=C")
	k := &copier{c: c, seen: map[[2]int64]string{}, followArgs: true, removeFirst: true}
	dirs, parents, target, mode := false, false, "", "755"
	for o.next() {
		switch o.opt {
		case "d":
			dirs = true
		case "D":
			parents = true
		case "m":
			mode = o.arg
		case "p":
			k.preserve = true
		case "t":
			target = o.arg
		case "T":
			k.noDir = true
		case "v":
			k.verbose = true
		}
	}
	perm, err := ParseMode(mode, 0, dirs, 0)
	if err != nil {
		c.die("invalid mode %s", quote(mode))
	}
	if dirs {
		for _, a := range o.args {
			if err := os.MkdirAll(a, 0o777); err != nil {
				c.fail("cannot create directory %s: %s", quote(a), Strerror(err))
			} else {
				sys.Chmod(a, perm)
			}
		}
		return
	}
	if parents && target == "" && len(o.args) > 1 {
		os.MkdirAll(dirOf(o.args[len(o.args)-1]), 0o777)
	} else if parents && target != "" {
		os.MkdirAll(target, 0o777)
	}
	k.copyAll(o.args, target, "install")
	srcs, dst, into := k.destination(o.args, target)
	for _, s := range srcs {
		to := dst
		if into {
			to = strings.TrimSuffix(dst, "/") + "/" + path.Base(s)
		}
		if _, err := sys.Stat(to); err == nil {
			sys.Chmod(to, perm)
		}
	}
}
