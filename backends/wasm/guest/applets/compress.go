package applets

import (
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	bzip2w "github.com/dsnet/compress/bzip2"
	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// format is one way to compress.
type packing struct {
	name     string
	suffixes []string // the first is the one added; "tgz" style ones become .tar
	magic    string
	reader   func(io.Reader) (io.Reader, error)
	writer   func(io.Writer, int) (io.WriteCloser, error)
}

func packings() []packing {
	return []packing{
		{"gzip", []string{".gz", ".tgz", ".z", ".Z", "-gz"}, "\x1f\x8b",
			func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
			func(w io.Writer, level int) (io.WriteCloser, error) { return gzip.NewWriterLevel(w, level) }},
		{"bzip2", []string{".bz2", ".tbz2", ".tbz", ".bz"}, "BZh",
			func(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil },
			func(w io.Writer, level int) (io.WriteCloser, error) {
				return bzip2w.NewWriter(w, &bzip2w.WriterConfig{Level: level})
			}},
		{"xz", []string{".xz", ".txz"}, "\xfd7zXZ\x00",
			func(r io.Reader) (io.Reader, error) { return xz.NewReader(r) },
			func(w io.Writer, _ int) (io.WriteCloser, error) {
				return xz.WriterConfig{DictCap: 1 << 20}.NewWriter(w)
			}},
		{"lzma", []string{".lzma", ".tlz"}, "\x5d\x00\x00",
			func(r io.Reader) (io.Reader, error) { return lzma.NewReader(r) },
			func(w io.Writer, _ int) (io.WriteCloser, error) {
				return lzma.WriterConfig{DictCap: 1 << 20, EOSMarker: true}.NewWriter(w)
			}},
		{"zstd", []string{".zst", ".tzst"}, "\x28\xb5\x2f\xfd",
			func(r io.Reader) (io.Reader, error) {
				d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
				if err != nil {
					return nil, err
				}
				return d, nil
			},
			func(w io.Writer, level int) (io.WriteCloser, error) {
				return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithLowerEncoderMem(true))
			}},
	}
}

func packingOf(name string) *packing {
	for _, p := range packings() {
		if p.name == name {
			return &p
		}
	}
	return nil
}

// detect recognises compressed data by its first bytes.
func detectPacking(head []byte) *packing {
	for _, p := range packings() {
		if strings.HasPrefix(string(head), p.magic) {
			return &p
		}
	}
	return nil
}

var errFormat = errors.New("not in the right format")

// compressTool is gzip, bzip2, xz and zstd with all their other names.
func compressTool(c *Ctx) {
	o := c.options("cdfhklLnNqrS:tTvz0123456789eMm:", "stdout=c to-stdout=c decompress=d uncompress=d force=f keep=k list=l no-name=n name=N quiet=q recursive=r suffix=S test=t verbose=v compress=z fast=1 best=9 extreme=e threads: rm memlimit: ultra format: check: rsyncable")
	kind, decompress, stdout := c.name, false, false
	keep := false
	switch c.name {
	case "gunzip":
		kind, decompress = "gzip", true
	case "zcat":
		kind, decompress, stdout = "gzip", true, true
	case "bunzip2":
		kind, decompress = "bzip2", true
	case "bzcat":
		kind, decompress, stdout = "bzip2", true, true
	case "unxz":
		kind, decompress = "xz", true
	case "xzcat":
		kind, decompress, stdout = "xz", true, true
	case "unlzma":
		kind, decompress = "lzma", true
	case "unzstd":
		kind, decompress, keep = "zstd", true, true
	case "zstdcat":
		kind, decompress, stdout = "zstd", true, true
	case "zstd":
		keep = true
	}
	p := packingOf(kind)
	level := map[string]int{"gzip": 6, "bzip2": 9, "zstd": 3}[kind]
	var force, list, quiet, recursive, test, verbose bool
	suffix := ""
	for o.next() {
		switch o.opt {
		case "c":
			stdout = true
		case "d":
			decompress = true
		case "f":
			force = true
		case "k":
			keep = true
		case "l":
			list = true
		case "q":
			quiet = true
		case "r":
			recursive = true
		case "rm":
			keep = false
		case "S":
			suffix = o.arg
		case "t":
			test, decompress = true, true
		case "v":
			verbose = true
		case "z":
			decompress = false
		case "1", "2", "3", "4", "5", "6", "7", "8", "9":
			level = int(o.opt[0] - '0')
		}
	}
	k := &packer{c: c, p: p, level: level, decompress: decompress, stdout: stdout, keep: keep, force: force, list: list, quiet: quiet, recursive: recursive, test: test, verbose: verbose, suffix: suffix}
	if list {
		c.print("         compressed        uncompressed  ratio uncompressed_name\n")
	}
	if len(o.args) == 0 {
		k.stream(c.in, "stdin")
		return
	}
	for _, a := range o.args {
		if a == "-" {
			k.stream(c.in, "stdin")
			continue
		}
		k.file(a)
	}
}

type packer struct {
	c                               *Ctx
	p                               *packing
	level                           int
	decompress, stdout, keep, force bool
	list, quiet, recursive, test    bool
	verbose                         bool
	suffix                          string
}

// stream handles standard input.
func (k *packer) stream(r io.Reader, name string) {
	w := io.Writer(k.c.out)
	if k.test {
		w = io.Discard
	}
	if err := k.convert(w, r); err != nil {
		k.complain(name, err)
	}
}

func (k *packer) complain(name string, err error) {
	c := k.c
	switch {
	case errors.Is(err, errFormat):
		switch k.p.name {
		case "bzip2":
			c.fail("%s is not a bzip2 file.", strings.Replace(name, "stdin", "(stdin)", 1))
			c.code = 2
		case "xz", "lzma":
			c.fail("%s: File format not recognized", strings.Replace(name, "stdin", "(stdin)", 1))
		case "zstd":
			c.fail("%s: unsupported format", name)
		default:
			c.fail("%s: not in gzip format", name)
		}
	case errors.Is(err, io.ErrUnexpectedEOF):
		c.fail("%s: unexpected end of file", name)
	default:
		c.fail("%s: %s", name, Strerror(err))
	}
}

// convert copies r to w, compressing or decompressing.
func (k *packer) convert(w io.Writer, r io.Reader) error {
	if !k.decompress {
		z, err := k.p.writer(w, k.level)
		if err != nil {
			return err
		}
		if _, err := io.Copy(z, r); err != nil {
			return err
		}
		return z.Close()
	}
	br := newReader(r)
	head, _ := br.Peek(6)
	if !strings.HasPrefix(string(head), k.p.magic) {
		if len(head) == 0 {
			return io.ErrUnexpectedEOF
		}
		if k.force && k.stdout {
			_, err := io.Copy(w, br)
			return err
		}
		if other := detectPacking(head); other != nil && (k.p.name == "gzip" || k.p.name == "xz") && (other.name == "lzma" || k.p.name == "gzip") {
			z, err := other.reader(br)
			if err == nil {
				_, err = io.Copy(w, z)
			}
			return err
		}
		return errFormat
	}
	z, err := k.p.reader(br)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, z)
	return err
}

func (k *packer) file(name string) {
	c := k.c
	i, err := sys.Stat(name)
	if err != nil && k.decompress && os.IsNotExist(err) {
		for _, s := range k.p.suffixes[:1] {
			if j, e := sys.Stat(name + s); e == nil {
				i, err, name = j, nil, name+s
			}
		}
	}
	if err != nil {
		if k.p.name == "bzip2" {
			c.fail("Can't open input file %s: %s.", name, Strerror(err))
		} else {
			c.fail("%s: %s", name, Strerror(err))
		}
		return
	}
	if i.IsDir() {
		if k.recursive {
			entries, _ := os.ReadDir(name)
			for _, e := range entries {
				k.file(strings.TrimSuffix(name, "/") + "/" + e.Name())
			}
			return
		}
		c.warn("%s is a directory -- ignored", name)
		c.code = max(c.code, 2)
		return
	}
	in, err := os.Open(name)
	if err != nil {
		c.fail("%s: %s", name, Strerror(err))
		return
	}
	defer in.Close()
	if k.list {
		n := &counter{}
		if err := k.convertList(n, in); err != nil {
			k.complain(name, err)
			return
		}
		ratio := 0.0
		if n.n > 0 {
			ratio = 100 * (1 - float64(i.Length-18-int64(len(name)))/float64(n.n))
		}
		c.printf("%19d %19d %5.1f%% %s\n", i.Length, n.n, ratio, strings.TrimSuffix(name, k.p.suffixes[0]))
		return
	}
	if k.stdout || k.test {
		k.stream(in, name)
		return
	}
	out, ok := k.target(name)
	if !ok {
		return
	}
	if _, err := sys.Lstat(out); err == nil && !k.force {
		c.fail("%s already exists; not overwritten", out)
		c.code = 2
		return
	}
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		c.fail("%s: %s", out, Strerror(err))
		return
	}
	err = k.convert(f, in)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		os.Remove(out)
		k.complain(name, err)
		return
	}
	sys.Chmod(out, i.Perm())
	sys.Utimes(out, i.Atime, i.Mtime)
	if k.verbose {
		c.flush()
		verb := "created"
		if !k.keep {
			verb = "replaced with"
		}
		fmt.Fprintf(c.err, "%s:\t%s %s\n", name, verb, out)
	}
	if !k.keep {
		os.Remove(name)
	}
}

func (k *packer) convertList(w io.Writer, r io.Reader) error {
	was := k.decompress
	k.decompress = true
	defer func() { k.decompress = was }()
	return k.convert(w, r)
}

type counter struct{ n int64 }

func (w *counter) Write(p []byte) (int, error) { w.n += int64(len(p)); return len(p), nil }

// target is the name of the output file.
func (k *packer) target(name string) (string, bool) {
	add := k.p.suffixes[0]
	if k.suffix != "" {
		add = k.suffix
	}
	if !k.decompress {
		for _, s := range k.p.suffixes {
			if strings.HasSuffix(name, s) && !k.force {
				k.c.warn("%s already has %s suffix -- unchanged", name, s)
				k.c.code = max(k.c.code, 2)
				return "", false
			}
		}
		return name + add, true
	}
	if base, ok := strings.CutSuffix(name, add); ok && base != "" {
		return base, true
	}
	for _, s := range k.p.suffixes {
		if base, ok := strings.CutSuffix(name, s); ok && base != "" {
			if strings.HasPrefix(s, ".t") {
				base += ".tar"
			}
			return base, true
		}
	}
	if k.p.name == "bzip2" {
		k.c.warn("Can't guess original name for %s -- using %s.out", name, name)
		return name + ".out", true
	}
	k.c.warn("%s: unknown suffix -- ignored", name)
	k.c.code = max(k.c.code, 2)
	return "", false
}
