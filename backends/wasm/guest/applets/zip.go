package applets

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
	"github.com/ulikunitz/xz/lzma"
)

// zipTool is zip: it adds files to an archive, replacing those of the same name.
func zipTool(c *Ctx) {
	o := c.options("rjqvmuf0123456789x:i:d@yXT", "recurse-paths=r junk-paths=j quiet=q exclude=x include=i delete=d move=m update=u symlinks=y")
	var recursive, junk, quiet, move, del, links, fromStdin bool
	level := 6
	var exclude, include []string
	for o.next() {
		switch o.opt {
		case "r":
			recursive = true
		case "j":
			junk = true
		case "q":
			quiet = true
		case "m":
			move = true
		case "d":
			del = true
		case "y":
			links = true
		case "@":
			fromStdin = true
		case "x":
			exclude = append(exclude, o.arg)
		case "i":
			include = append(include, o.arg)
		case "0", "1", "2", "3", "4", "5", "6", "7", "8", "9":
			level = int(o.opt[0] - '0')
		}
	}
	// Patterns after -x end at the next option; operands that follow it are patterns too.
	args := o.args
	if len(args) == 0 {
		c.println(synopsis("zip"))
		c.exit(16)
	}
	name := args[0]
	args = args[1:]
	if path.Ext(name) == "" && name != "-" {
		name += ".zip"
	}
	if i := indexOf(c.args, "-x"); i >= 0 {
		for _, p := range c.args[i+1:] {
			if strings.HasPrefix(p, "-") {
				break
			}
			exclude = append(exclude, p)
			for k, a := range args {
				if a == p && strings.ContainsAny(p, "*?") {
					args = append(args[:k:k], args[k+1:]...)
					break
				}
			}
		}
	}
	if fromStdin {
		args = append(args, c.allLines(nil)...)
	}
	if len(args) == 0 {
		c.dieCode(12, "error: Nothing to do! (%s)", name)
	}
	old := map[string]*zip.File{}
	var order []string
	if data, err := os.ReadFile(name); err == nil && name != "-" {
		if zr, err := zip.NewReader(bytes.NewReader(data), int64(len(data))); err == nil {
			for _, f := range zr.File {
				old[f.Name] = f
				order = append(order, f.Name)
			}
		}
	}
	var buf bytes.Buffer
	zw := zip.NewWriter(&buf)
	zw.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, level) })
	say := func(format string, a ...any) {
		if !quiet {
			c.printf(format, a...)
		}
	}
	if del {
		for _, n := range order {
			if matchAny(args, n) {
				say("deleting: %s\n", n)
				continue
			}
			zw.Copy(old[n])
		}
	} else {
		type item struct {
			disk, name string
			info       *sys.Info
		}
		var items []item
		var add func(disk string)
		add = func(disk string) {
			stat := sys.Stat
			if links {
				stat = sys.Lstat
			}
			i, err := stat(disk)
			if err != nil {
				c.printf("\tzip warning: name not matched: %s\n", disk)
				c.code = max(c.code, 12)
				return
			}
			member := strings.TrimLeft(strings.TrimPrefix(filepath.ToSlash(filepath.Clean(disk)), "./"), "/")
			if junk {
				member = path.Base(member)
			}
			if i.IsDir() {
				member += "/"
			}
			skip := matchAny(exclude, member) || len(include) > 0 && !i.IsDir() && !matchAny(include, member)
			if abs, _ := filepath.Abs(disk); !skip && !i.IsDir() {
				if z, _ := filepath.Abs(name); z == abs {
					skip = true
				}
			}
			if !skip && !(i.IsDir() && (junk || member == "./")) {
				items = append(items, item{disk, member, i})
			}
			if i.IsDir() && recursive {
				entries, _ := os.ReadDir(disk)
				for _, e := range entries {
					add(strings.TrimSuffix(disk, "/") + "/" + e.Name())
				}
			}
		}
		for _, a := range args {
			add(a)
		}
		if len(items) == 0 {
			c.dieCode(12, "error: Nothing to do! (%s)", name)
		}
		replaced := map[string]bool{}
		for _, it := range items {
			replaced[it.name] = true
		}
		for _, n := range order {
			if !replaced[n] {
				zw.Copy(old[n])
			}
		}
		for _, it := range items {
			h := &zip.FileHeader{Name: it.name, Method: zip.Deflate, Modified: it.info.ModTime()}
			h.SetMode(it.info.Mode())
			var data []byte
			switch {
			case it.info.IsDir():
				h.Method = zip.Store
			case it.info.IsLink():
				t, _ := os.Readlink(it.disk)
				data, h.Method = []byte(t), zip.Store
			default:
				var err error
				if data, err = os.ReadFile(it.disk); err != nil {
					c.printf("\tzip warning: could not open for reading: %s\n", it.disk)
					c.code = 18
					continue
				}
			}
			verb := "adding"
			if old[it.name] != nil {
				verb = "updating"
			}
			packed := data
			if h.Method == zip.Deflate {
				var z bytes.Buffer
				fw, _ := flate.NewWriter(&z, max(level, 0))
				fw.Write(data)
				fw.Close()
				if packed = z.Bytes(); len(packed) >= len(data) || level == 0 {
					h.Method, packed = zip.Store, data
				}
			}
			w, err := zw.CreateHeader(h)
			if err == nil {
				_, err = w.Write(data)
			}
			if err != nil {
				c.dieCode(15, "%v", err)
			}
			how, percent := "stored", 0
			if h.Method == zip.Deflate {
				how = "deflated"
				percent = int((100*(int64(len(data))-int64(len(packed))) + int64(len(data))/2) / int64(len(data)))
			}
			say("  %s: %s (%s %d%%)\n", verb, it.name, how, percent)
		}
		if move {
			defer func() {
				for i := len(items) - 1; i >= 0; i-- {
					os.Remove(items[i].disk)
				}
			}()
		}
	}
	if err := zw.Close(); err != nil {
		c.dieCode(14, "%v", err)
	}
	if name == "-" {
		c.out.Write(buf.Bytes())
		return
	}
	if err := os.WriteFile(name, buf.Bytes(), 0o666); err != nil {
		c.dieCode(15, "Could not create output file (%s): %s", name, Strerror(err))
	}
}

func indexOf(l []string, s string) int {
	for i, e := range l {
		if e == s {
			return i
		}
	}
	return -1
}

func unzip(c *Ctx) {
	o := c.options("cd:jlnopqtuvx:ZK", "")
	var pipe, junk, list, never, over, test, long, names bool
	quiet := 0
	dir := ""
	var exclude []string
	for o.next() {
		switch o.opt {
		case "c", "p":
			pipe = true
			quiet += btoi(o.opt == "p")
		case "d":
			dir = o.arg
		case "j":
			junk = true
		case "l":
			list = true
		case "v":
			list, long = true, true
		case "n":
			never = true
		case "o":
			over = true
		case "q":
			quiet++
		case "t":
			test = true
		case "x":
			exclude = append(exclude, o.arg)
		case "Z":
			names = true
		}
	}
	args := o.args
	if len(args) == 0 {
		c.println(synopsis("unzip"))
		return
	}
	name := args[0]
	args = args[1:]
	data, err := os.ReadFile(name)
	if err != nil {
		if data, err = os.ReadFile(name + ".zip"); err == nil {
			name += ".zip"
		}
	}
	if err != nil {
		c.flush()
		io.WriteString(c.err, "unzip:  cannot find or open "+name+", "+name+".zip or "+name+".ZIP.\n")
		c.exit(9)
	}
	zr, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		c.printf("Archive:  %s\n", name)
		c.flush()
		io.WriteString(c.err, "  End-of-central-directory signature not found.  Either this file is not\n  a zipfile, or it constitutes one disk of a multi-part archive.  In the\n  latter case the central directory and zipfile comment will be found on\n  the last disk(s) of this archive.\nunzip:  cannot find zipfile directory in one of "+name+" or\n        "+name+".zip, and cannot find "+name+".ZIP, period.\n")
		c.exit(9)
	}
	zr.RegisterDecompressor(14, lzmaInZip)
	if len(exclude) > 0 {
		if i := indexOf(c.args, "-x"); i >= 0 {
			for _, p := range c.args[i+1:] {
				if strings.HasPrefix(p, "-") {
					break
				}
				exclude = append(exclude, p)
				if k := indexOf(args, p); k >= 0 {
					args = append(args[:k:k], args[k+1:]...)
				}
			}
		}
	}
	wanted := func(n string) bool {
		return (len(args) == 0 || matchAny(args, n)) && !matchAny(exclude, n)
	}
	if names {
		for _, f := range zr.File {
			if wanted(f.Name) {
				c.println(f.Name)
			}
		}
		return
	}
	if quiet == 0 {
		c.printf("Archive:  %s\n", name)
	}
	if list {
		c.listZip(zr, long, quiet, wanted)
		return
	}
	found := false
	for _, f := range zr.File {
		if !wanted(f.Name) {
			continue
		}
		found = true
		c.unzipOne(f, dir, unzipOptions{pipe, junk, never, over, test, quiet})
	}
	if !found && len(args) > 0 {
		for _, a := range args {
			c.flush()
			io.WriteString(c.err, "caution: filename not matched:  "+a+"\n")
		}
		c.code = 11
	}
	if test && c.code == 0 && quiet < 2 {
		c.printf("No errors detected in compressed data of %s.\n", name)
	}
}

// lzmaInZip is method 14: a header of 4 bytes and the properties.
func lzmaInZip(r io.Reader) io.ReadCloser {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return io.NopCloser(bytes.NewReader(nil))
	}
	props := make([]byte, int(head[2])|int(head[3])<<8)
	if _, err := io.ReadFull(r, props); err != nil {
		return io.NopCloser(bytes.NewReader(nil))
	}
	unknown := bytes.Repeat([]byte{0xff}, 8)
	z, err := lzma.NewReader(io.MultiReader(bytes.NewReader(props), bytes.NewReader(unknown), r))
	if err != nil {
		return io.NopCloser(errReader{err})
	}
	return io.NopCloser(z)
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

func (c *Ctx) listZip(zr *zip.Reader, long bool, quiet int, wanted func(string) bool) {
	var size, packed, n uint64
	if quiet == 0 || quiet == 1 {
		if long {
			c.print(" Length   Method    Size  Cmpr    Date    Time   CRC-32   Name\n--------  ------  ------- ---- ---------- ----- --------  ----\n")
		} else {
			c.print("  Length      Date    Time    Name\n---------  ---------- -----   ----\n")
		}
	}
	ratio := func(a, b uint64) string {
		if a == 0 {
			return "0%"
		}
		return itoa(int((a-min(a, b))*100/a)) + "%"
	}
	for _, f := range zr.File {
		if !wanted(f.Name) {
			continue
		}
		size += f.UncompressedSize64
		packed += f.CompressedSize64
		n++
		stamp := f.Modified.Local().Format("2006-01-02 15:04")
		if long {
			method := "Defl:N"
			if f.Method == zip.Store {
				method = "Stored"
			}
			c.printf("%8d  %6s%9d%5s %s %08x  %s\n", f.UncompressedSize64, method, f.CompressedSize64, ratio(f.UncompressedSize64, f.CompressedSize64), stamp, f.CRC32, f.Name)
		} else {
			c.printf("%9d  %s   %s\n", f.UncompressedSize64, stamp, f.Name)
		}
	}
	if quiet > 1 {
		return
	}
	files := "files"
	if n == 1 {
		files = "file"
	}
	if long {
		c.printf("--------          -------  ---                            -------\n%8d         %8d%5s                            %d %s\n", size, packed, ratio(size, packed), n, files)
	} else {
		c.printf("---------                     -------\n%9d                     %d %s\n", size, n, files)
	}
}

type unzipOptions struct {
	pipe, junk, never, over, test bool
	quiet                         int
}

func (c *Ctx) unzipOne(f *zip.File, dir string, o unzipOptions) {
	open := func() (io.ReadCloser, bool) {
		r, err := f.Open()
		if err != nil {
			c.flush()
			if errors.Is(err, zip.ErrAlgorithm) {
				io.WriteString(c.err, "   skipping: "+f.Name+"  unsupported compression method "+itoa(int(f.Method))+"\n")
			} else {
				io.WriteString(c.err, "unzip: "+err.Error()+"\n")
			}
			c.code = max(c.code, 1)
			return nil, false
		}
		return r, true
	}
	corrupt := func(err error) {
		c.flush()
		io.WriteString(c.err, "unzip: corrupted data\n")
		c.code = max(c.code, 1)
	}
	if o.pipe || o.test {
		if f.FileInfo().IsDir() {
			return
		}
		r, ok := open()
		if !ok {
			return
		}
		defer r.Close()
		w := io.Writer(c.out)
		if o.test {
			w = io.Discard
		}
		if _, err := io.Copy(w, r); err != nil {
			corrupt(err)
		} else if o.test && o.quiet == 0 {
			c.printf("    testing: %-22s   OK\n", f.Name)
		}
		return
	}
	name := f.Name
	if o.junk {
		name = path.Base(name)
	}
	clean := path.Clean("/" + strings.ReplaceAll(name, "\\", "/"))
	disk := strings.TrimPrefix(clean, "/")
	if dir != "" {
		disk = strings.TrimSuffix(dir, "/") + clean
	}
	if f.FileInfo().IsDir() {
		if o.junk || disk == "" {
			return
		}
		if _, err := sys.Stat(disk); err != nil {
			if o.quiet == 0 {
				c.printf("   creating: %s/\n", disk)
			}
			os.MkdirAll(disk, 0o777)
		}
		return
	}
	if _, err := sys.Lstat(disk); err == nil {
		switch {
		case o.never:
			return
		case !o.over:
			c.flush()
			io.WriteString(c.err, "replace "+disk+"? [y]es, [n]o, [A]ll, [N]one, [r]ename: ")
			var b [1]byte
			if n, _ := c.in.Read(b[:]); n == 0 || b[0] == 'n' || b[0] == 'N' {
				if n == 0 {
					io.WriteString(c.err, " NULL\n(EOF or read error, treating as \"[N]one\" ...)\n")
				}
				c.code = max(c.code, 1)
				return
			}
		}
	}
	os.MkdirAll(path.Dir(disk), 0o777)
	r, ok := open()
	if !ok {
		return
	}
	defer r.Close()
	if f.Mode()&fs.ModeSymlink != 0 {
		t, _ := io.ReadAll(io.LimitReader(r, 4096))
		os.Remove(disk)
		os.Symlink(string(t), disk)
		if o.quiet == 0 {
			c.printf("    linking: %-22s  -> %s \n", disk, t)
		}
		return
	}
	if o.quiet == 0 {
		verb := "  inflating"
		if f.Method == zip.Store {
			verb = " extracting"
		}
		c.printf("%s: %-24s\n", verb, disk)
	}
	w, err := os.Create(disk)
	if err != nil {
		c.fail("cannot create %s: %s", disk, Strerror(err))
		return
	}
	_, err = io.Copy(w, r)
	w.Close()
	if err != nil {
		corrupt(err)
	}
	if m := uint32(f.Mode().Perm()); m != 0 {
		sys.Chmod(disk, m)
	}
	if t := f.Modified; !t.IsZero() && t.After(time.Unix(0, 0)) {
		sys.Utimes(disk, t.UnixNano(), t.UnixNano())
	}
}
