package applets

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
)

// Tools for bytes: sums, encodings, dumps.

func newHash(name string, bits int) hash.Hash {
	switch name {
	case "md5sum":
		return md5.New()
	case "sha1sum":
		return sha1.New()
	case "sha224sum":
		return sha256.New224()
	case "sha256sum":
		return sha256.New()
	case "sha384sum":
		return sha512.New384()
	case "sha512sum":
		return sha512.New()
	}
	switch bits {
	case 256:
		return sha3.New256()
	case 384:
		return sha3.New384()
	case 512:
		return sha3.New512()
	}
	return sha3.New224()
}

// sums is md5sum and its family.
func sums(c *Ctx) {
	o := c.options("bctwza:s", "binary=b check=c text=t tag quiet status=s strict warn=w zero=z ignore-missing")
	var check, tag, quiet, status, warn, strict, ignore, bin bool
	bits, end := 224, "\n"
	for o.next() {
		switch o.opt {
		case "a":
			bits, _ = strconv.Atoi(o.arg)
		case "b":
			bin = true
		case "c":
			check = true
		case "tag":
			tag = true
		case "quiet":
			quiet = true
		case "s":
			status = true
		case "w":
			warn = true
		case "strict":
			strict = true
		case "ignore-missing":
			ignore = true
		case "z":
			end = "\x00"
		}
	}
	algo := strings.ToUpper(strings.TrimSuffix(c.name, "sum"))
	sumOf := func(name string) (string, error) {
		r, err := c.open(name)
		if err != nil {
			return "", err
		}
		defer r.Close()
		h := newHash(c.name, bits)
		if _, err := io.Copy(h, r); err != nil {
			return "", err
		}
		return hex.EncodeToString(h.Sum(nil)), nil
	}
	if !check {
		for _, n := range orStdin(o.args) {
			s, err := sumOf(n)
			if err != nil {
				c.fail("%s: %s", n, Strerror(err))
				continue
			}
			mark := " "
			if bin {
				mark = "*"
			}
			switch {
			case tag:
				c.printf("%s (%s) = %s%s", algo, n, s, end)
			case strings.ContainsAny(n, "\\\n") && end == "\n":
				c.printf("\\%s %s%s\n", s, mark, strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(n))
			default:
				c.printf("%s %s%s%s", s, mark, n, end)
			}
		}
		return
	}
	size := newHash(c.name, bits).Size() * 2
	for _, list := range orStdin(o.args) {
		bad, unread, malformed, good, seen := 0, 0, 0, 0, 0
		shown := list
		if list == "-" {
			shown = "'standard input'"
		}
		for i, l := range c.allLines([]string{list}) {
			if l == "" || l[0] == '#' {
				continue
			}
			esc := strings.HasPrefix(l, `\`)
			l = strings.TrimPrefix(l, `\`)
			want, name := "", ""
			if p, ok := strings.CutPrefix(l, algo+" ("); ok {
				if j := strings.LastIndex(p, ") = "); j > 0 {
					name, want = p[:j], p[j+4:]
				}
			} else if len(l) > size+2 && l[size] == ' ' && (l[size+1] == ' ' || l[size+1] == '*') {
				want, name = l[:size], l[size+2:]
			}
			if _, err := hex.DecodeString(want); err != nil || len(want) != size || name == "" {
				malformed++
				if warn {
					c.warn("%s: %d: improperly formatted %s checksum line", shown, i+1, algo)
				}
				continue
			}
			if esc {
				name = strings.NewReplacer(`\\`, `\`, `\n`, "\n").Replace(name)
			}
			seen++
			got, err := sumOf(name)
			switch {
			case err != nil && ignore && os.IsNotExist(err):
			case err != nil:
				unread++
				if !status {
					c.warn("%s: %s", name, Strerror(err))
					c.printf("%s: FAILED open or read\n", name)
				}
			case strings.EqualFold(got, want):
				good++
				if !quiet && !status {
					c.printf("%s: OK\n", name)
				}
			default:
				bad++
				if !status {
					c.printf("%s: FAILED\n", name)
				}
			}
		}
		plural := func(n int, one, many string) string {
			if n == 1 {
				return one
			}
			return many
		}
		if seen == 0 {
			c.fail("%s: no properly formatted checksum lines found", shown)
			continue
		}
		if !status {
			if malformed > 0 {
				c.warn("WARNING: %d %s improperly formatted", malformed, plural(malformed, "line is", "lines are"))
			}
			if unread > 0 {
				c.warn("WARNING: %d listed %s could not be read", unread, plural(unread, "file", "files"))
			}
			if bad > 0 {
				c.warn("WARNING: %d computed %s did NOT match", bad, plural(bad, "checksum", "checksums"))
			}
		}
		if ignore && good == 0 {
			c.fail("%s: no file was verified", shown)
		}
		if bad > 0 || unread > 0 || strict && malformed > 0 {
			c.code = 1
		}
	}
}

func cksum(c *Ctx) {
	o := c.options("", "")
	for o.next() {
	}
	var table [256]uint32
	for i := range table {
		v := uint32(i) << 24
		for range 8 {
			if v&0x80000000 != 0 {
				v = v<<1 ^ 0x04c11db7
			} else {
				v <<= 1
			}
		}
		table[i] = v
	}
	for name, r := range c.inputs(o.args) {
		crc, n := uint32(0), int64(0)
		br := newReader(r)
		for {
			b, err := br.ReadByte()
			if err != nil {
				break
			}
			crc = crc<<8 ^ table[byte(crc>>24)^b]
			n++
		}
		for l := n; l > 0; l >>= 8 {
			crc = crc<<8 ^ table[byte(crc>>24)^byte(l)]
		}
		if len(o.args) == 0 {
			c.printf("%d %d\n", ^crc, n)
		} else {
			c.printf("%d %d %s\n", ^crc, n, name)
		}
	}
}

func sum(c *Ctx) {
	o := c.options("rs", "sysv=s")
	sysv := false
	for o.next() {
		sysv = o.opt == "s"
	}
	for name, r := range c.inputs(o.args) {
		data, _ := io.ReadAll(r)
		if sysv {
			s := uint32(0)
			for _, b := range data {
				s += uint32(b)
			}
			v := s&0xffff + s>>16
			v = v&0xffff + v>>16
			c.printf("%d %d", v, (len(data)+511)/512)
			if len(o.args) > 0 {
				c.print(" " + name)
			}
		} else {
			s := uint16(0)
			for _, b := range data {
				s = s>>1 + s<<15
				s += uint16(b)
			}
			c.printf("%05d %5d", s, (len(data)+1023)/1024)
			if len(o.args) > 1 {
				c.print(" " + name)
			}
		}
		c.println()
	}
}

// base64Tool is base64 and base32.
func base64Tool(c *Ctx) {
	o := c.options("diw:", "decode=d ignore-garbage=i wrap=w")
	decode, ignore, wrap := false, false, 76
	for o.next() {
		switch o.opt {
		case "d":
			decode = true
		case "i":
			ignore = true
		case "w":
			n, err := strconv.Atoi(o.arg)
			if err != nil || n < 0 {
				c.die("invalid wrap size: %s", quote(o.arg))
			}
			wrap = n
		}
	}
	if len(o.args) > 1 {
		c.extra(o.args[1])
	}
	alphabet := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
	if c.name == "base32" {
		alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567="
	}
	for _, r := range c.inputs(o.args) {
		if !decode {
			w := &wrapper{out: c.out, width: wrap}
			enc := base64.NewEncoder(base64.StdEncoding, w)
			if c.name == "base32" {
				enc = base32.NewEncoder(base32.StdEncoding, w)
			}
			io.Copy(enc, r)
			enc.Close()
			w.end()
			continue
		}
		data, _ := io.ReadAll(r)
		var clean []byte
		for _, b := range data {
			if strings.IndexByte(alphabet, b) >= 0 {
				clean = append(clean, b)
			} else if b != '\n' && b != '\r' && !ignore {
				clean = append(clean, b)
			}
		}
		var out []byte
		var err error
		if c.name == "base32" {
			out = make([]byte, base32.StdEncoding.DecodedLen(len(clean)))
			var n int
			n, err = base32.StdEncoding.Decode(out, clean)
			out = out[:n]
		} else {
			out, err = decode64(clean)
		}
		c.out.Write(out)
		if err != nil {
			c.fail("invalid input")
		}
	}
}

// wrapper breaks lines; width 0 makes one without an end.
type wrapper struct {
	out        *bufio.Writer
	width, col int
}

func (w *wrapper) Write(p []byte) (int, error) {
	n := len(p)
	for w.width > 0 && w.col+len(p) >= w.width {
		k := w.width - w.col
		w.out.Write(p[:k])
		w.out.WriteByte('\n')
		p, w.col = p[k:], 0
	}
	w.out.Write(p)
	w.col += len(p)
	return n, nil
}

func (w *wrapper) end() {
	if w.width > 0 && w.col > 0 {
		w.out.WriteByte('\n')
	}
}

// decode64 accepts missing padding at the end and padded pieces in the middle.
func decode64(b []byte) ([]byte, error) {
	var out []byte
	for len(b) > 0 {
		end := len(b)
		if i := bytes.IndexByte(b, '='); i >= 0 {
			end = i
			for end < len(b) && b[end] == '=' {
				end++
			}
		}
		piece := b[:end]
		b = b[end:]
		raw := bytes.TrimRight(piece, "=")
		buf := make([]byte, base64.RawStdEncoding.DecodedLen(len(raw)))
		n, err := base64.RawStdEncoding.Decode(buf, raw)
		out = append(out, buf[:n]...)
		if err != nil || len(piece)%4 != 0 {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return out, err
		}
	}
	return out, nil
}

func uuencode(c *Ctx) {
	o := c.options("m", "base64=m")
	b64 := false
	for o.next() {
		b64 = true
	}
	if len(o.args) == 0 {
		c.usage()
	}
	name := o.args[len(o.args)-1]
	data, mode := []byte(nil), uint32(0644)
	if len(o.args) == 2 {
		b, err := os.ReadFile(o.args[0])
		if err != nil {
			c.die("%s: %s", o.args[0], Strerror(err))
		}
		data = b
		if i, err := sys.Stat(o.args[0]); err == nil {
			mode = i.Perm() & 0777
		}
	} else {
		data, _ = io.ReadAll(c.in)
		mode = 0666 &^ c.umask()
	}
	if b64 {
		c.printf("begin-base64 %o %s\n", mode, name)
		s := base64.StdEncoding.EncodeToString(data)
		for len(s) > 0 {
			n := min(60, len(s))
			c.println(s[:n])
			s = s[n:]
		}
		c.println("====")
		return
	}
	c.printf("begin %o %s\n", mode, name)
	enc := func(v byte) byte {
		if v == 0 {
			return '`'
		}
		return v + ' '
	}
	for len(data) > 0 {
		n := min(45, len(data))
		c.out.WriteByte(enc(byte(n)))
		line := append(bytes.Clone(data[:n]), 0, 0)
		for i := 0; i < n; i += 3 {
			a, b, d := line[i], line[i+1], line[i+2]
			c.out.Write([]byte{enc(a >> 2), enc(a<<4&0x30 | b>>4), enc(b<<2&0x3c | d>>6), enc(d & 0x3f)})
		}
		c.println()
		data = data[n:]
	}
	c.print("`\nend\n")
}

func uudecode(c *Ctx) {
	o := c.options("o:", "output-file=o")
	out := ""
	for o.next() {
		out = o.arg
	}
	ls := c.allLines(o.args)
	for i := 0; i < len(ls); i++ {
		f := strings.SplitN(ls[i], " ", 3)
		if len(f) != 3 || f[0] != "begin" && f[0] != "begin-base64" {
			continue
		}
		var data []byte
		for i++; i < len(ls) && ls[i] != "end" && ls[i] != "===="; i++ {
			if f[0] == "begin-base64" {
				b, _ := decode64([]byte(ls[i]))
				data = append(data, b...)
				continue
			}
			if ls[i] == "" {
				continue
			}
			n := int(ls[i][0]-' ') & 63
			var buf []byte
			l := ls[i][1:] + "    "
			for k := 0; len(buf) < n && k+3 < len(l); k += 4 {
				v := func(j int) byte { return (l[k+j] - ' ') & 63 }
				buf = append(buf, v(0)<<2|v(1)>>4, v(1)<<4|v(2)>>2, v(2)<<6|v(3))
			}
			data = append(data, buf[:min(n, len(buf))]...)
		}
		name := f[2]
		if out != "" {
			name = out
		}
		if name == "-" || name == "/dev/stdout" {
			c.out.Write(data)
			return
		}
		if err := os.WriteFile(name, data, 0o666); err != nil {
			c.die("%s: %s", name, Strerror(err))
		}
		mode, _ := strconv.ParseUint(f[1], 8, 32)
		sys.Chmod(name, uint32(mode))
		return
	}
	c.die("no 'begin' line")
}

func stringsTool(c *Ctx) {
	if len(c.args) > 0 && len(c.args[0]) > 1 && c.args[0][0] == '-' && c.args[0][1] >= '0' && c.args[0][1] <= '9' {
		c.args = append([]string{"-n", c.args[0][1:]}, c.args[1:]...)
	}
	o := c.options("afn:ot:e:", "all=a print-file-name=f bytes=n radix=t encoding=e")
	least, radix, names := 4, "", false
	for o.next() {
		switch o.opt {
		case "n":
			n, err := strconv.Atoi(o.arg)
			if err != nil || n < 1 {
				c.die("invalid minimum string length %s", o.arg)
			}
			least = n
		case "o":
			radix = "o"
		case "t":
			radix = o.arg
		case "f":
			names = true
		}
	}
	for name, r := range c.inputs(o.args) {
		br := newReader(r)
		var run []byte
		pos := int64(0)
		flush := func() {
			if len(run) >= least {
				if names {
					c.print(name + ": ")
				}
				if radix != "" {
					c.printf("%7"+radix+" ", pos-int64(len(run)))
				}
				c.println(string(run))
			}
			run = run[:0]
		}
		for {
			b, err := br.ReadByte()
			if err != nil {
				break
			}
			if b >= ' ' && b < 127 || b == '\t' {
				run = append(run, b)
			} else {
				flush()
			}
			pos++
		}
		flush()
	}
}

// xxd dumps in hex and back.
func xxd(c *Ctx) {
	o := c.options("abc:Cde:g:hil:o:prRs:uEn:", "")
	var plain, include, reverse, upper, bits, little bool
	cols, group, limit, skip, addr := 0, -1, int64(-1), int64(0), int64(0)
	num := func() int64 {
		n, err := strconv.ParseInt(o.arg, 0, 64)
		if err != nil {
			c.die("invalid number %s", o.arg)
		}
		return n
	}
	// -ps and -plain are spelled with one dash.
	for i, a := range c.args {
		switch a {
		case "-ps", "-plain", "-postscript":
			o.argv[i] = "-p"
		case "-revert":
			o.argv[i] = "-r"
		case "-include":
			o.argv[i] = "-i"
		case "-len":
			o.argv[i] = "-l"
		case "-cols":
			o.argv[i] = "-c"
		case "-seek", "-skip":
			o.argv[i] = "-s"
		case "-bits":
			o.argv[i] = "-b"
		case "-e":
			o.argv[i], little = "-E", true
		}
	}
	varName := ""
	for o.next() {
		switch o.opt {
		case "b":
			bits = true
		case "c":
			cols = int(num())
		case "g":
			group = int(num())
		case "i":
			include = true
		case "l":
			limit = num()
		case "n":
			varName = o.arg
		case "o":
			addr = num()
		case "p":
			plain = true
		case "r":
			reverse = true
		case "s":
			skip = num()
		case "u":
			upper = true
		}
	}
	name := "-"
	if len(o.args) > 0 {
		name = o.args[0]
	}
	r, err := c.open(name)
	if err != nil {
		c.dieCode(2, "%s: %s", name, Strerror(err))
	}
	if len(o.args) > 1 {
		f, err := os.Create(o.args[1])
		if err != nil {
			c.dieCode(3, "%s: %s", o.args[1], Strerror(err))
		}
		defer f.Close()
		c.out.Reset(f)
		defer c.out.Flush()
	}
	if reverse {
		c.xxdReverse(r, plain)
		return
	}
	data, _ := io.ReadAll(r)
	if skip < 0 {
		skip = max(0, int64(len(data))+skip)
	}
	data = data[min(skip, int64(len(data))):]
	if limit >= 0 {
		data = data[:min(limit, int64(len(data)))]
	}
	hexFmt := "%02x"
	if upper {
		hexFmt = "%02X"
	}
	switch {
	case plain:
		if cols == 0 {
			cols = 30
		}
		if cols < 0 {
			cols = max(len(data), 1)
		}
		for i := 0; i < len(data); i += cols {
			for _, b := range data[i:min(i+cols, len(data))] {
				c.printf(hexFmt, b)
			}
			c.println()
		}
		return
	case include:
		if cols == 0 {
			cols = 12
		}
		if varName == "" && name != "-" {
			varName = strings.Map(func(r rune) rune {
				if r < 128 && (r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z') {
					return r
				}
				return '_'
			}, name)
			if varName[0] >= '0' && varName[0] <= '9' {
				varName = "__" + varName
			}
		}
		if varName != "" {
			c.printf("unsigned char %s[] = {\n", varName)
		}
		for i, b := range data {
			switch {
			case i == 0:
				c.print("  ")
			case i%cols == 0:
				c.print(",\n  ")
			default:
				c.print(", ")
			}
			c.printf("0x"+hexFmt, b)
		}
		if len(data) > 0 {
			c.println()
		}
		if varName != "" {
			c.printf("};\nunsigned int %s_len = %d;\n", varName, len(data))
		}
		return
	}
	if cols == 0 {
		cols = 16
		if bits {
			cols = 6
		}
	}
	if group < 0 {
		group = 2
		if bits {
			group = 1
		}
		if little {
			group = 4
		}
	}
	cell := 2
	if bits {
		cell = 8
	}
	if group == 0 {
		group = cols
	}
	width := cols*cell + (cols+group-1)/group
	for i := 0; i < len(data); i += cols {
		row := data[i:min(i+cols, len(data))]
		var b strings.Builder
		for k := range row {
			at := k
			if little {
				g := k / group * group
				at = g + group - 1 - k%group
				if at >= len(row) {
					b.WriteString(strings.Repeat(" ", cell))
					if (k+1)%group == 0 {
						b.WriteByte(' ')
					}
					continue
				}
			}
			if bits {
				fmt.Fprintf(&b, "%08b", row[at])
			} else {
				fmt.Fprintf(&b, hexFmt, row[at])
			}
			if (k+1)%group == 0 {
				b.WriteByte(' ')
			}
		}
		c.printf("%08x: %-*s ", addr+skip+int64(i), width, b.String())
		for _, ch := range row {
			if ch < ' ' || ch > 126 {
				ch = '.'
			}
			c.out.WriteByte(ch)
		}
		c.println()
	}
}

func (c *Ctx) xxdReverse(r io.Reader, plain bool) {
	pos := int64(0)
	for b := range lines(r) {
		line := strings.TrimRight(string(b), "\n")
		if !plain {
			off, rest, ok := strings.Cut(line, ":")
			if !ok {
				continue
			}
			n, err := strconv.ParseInt(strings.TrimSpace(off), 16, 64)
			if err != nil {
				continue
			}
			for ; pos < n; pos++ {
				c.out.WriteByte(0)
			}
			// The text column is two spaces away.
			rest = strings.TrimPrefix(rest, " ")
			line, _, _ = strings.Cut(rest, "  ")
		}
		line = strings.Map(func(r rune) rune {
			if r == ' ' || r == '\t' {
				return -1
			}
			return r
		}, line)
		for len(line) >= 2 {
			v, err := strconv.ParseUint(line[:2], 16, 8)
			if err != nil {
				break
			}
			c.out.WriteByte(byte(v))
			pos++
			line = line[2:]
		}
	}
}

// dumpFormat is one -t of od or -e of hexdump: size bytes as kind.
type dumpFormat struct {
	kind  byte // a c d f o u x
	size  int
	width int
	text  bool // z: the characters at the end of the line
}

func (f dumpFormat) value(b []byte) string {
	pad := make([]byte, 8)
	copy(pad, b)
	v := binary.LittleEndian.Uint64(pad)
	switch f.kind {
	case 'a', 'c':
		return dumpChar(b[0], f.kind == 'a')
	case 'd':
		shift := 64 - 8*f.size
		return strconv.FormatInt(int64(v<<shift)>>shift, 10)
	case 'u':
		return strconv.FormatUint(v, 10)
	case 'o':
		return fmt.Sprintf("%0*o", (8*f.size+2)/3, v)
	case 'x':
		return fmt.Sprintf("%0*x", 2*f.size, v)
	case 'f':
		if f.size == 4 {
			return strconv.FormatFloat(float64(math.Float32frombits(uint32(v))), 'g', 8, 32)
		}
		return strconv.FormatFloat(math.Float64frombits(v), 'g', 17, 64)
	}
	return ""
}

func (f *dumpFormat) setWidth() {
	switch f.kind {
	case 'a', 'c':
		f.width = 3
	case 'd':
		f.width = map[int]int{1: 4, 2: 6, 4: 11, 8: 20}[f.size]
	case 'u':
		f.width = map[int]int{1: 3, 2: 5, 4: 10, 8: 20}[f.size]
	case 'o':
		f.width = (8*f.size + 2) / 3
	case 'x':
		f.width = 2 * f.size
	case 'f':
		f.width = map[int]int{4: 15, 8: 24}[f.size]
	}
}

func dumpChar(b byte, named bool) string {
	if named {
		b &= 127
		names := strings.Fields("nul soh stx etx eot enq ack bel bs ht nl vt ff cr so si dle dc1 dc2 dc3 dc4 nak syn etb can em sub esc fs gs rs us sp")
		switch {
		case int(b) < len(names):
			return names[b]
		case b == 127:
			return "del"
		}
		return string(b)
	}
	if k := strings.IndexByte("\x00\a\b\f\n\r\t\v", b); k >= 0 {
		return `\` + string("0abfnrtv"[k])
	}
	if b < ' ' || b > 126 {
		return fmt.Sprintf("%03o", b)
	}
	return string(b)
}

func od(c *Ctx) {
	o := c.options("A:abcdfhilN:j:osS:t:vw::x", "address-radix=A skip-bytes=j read-bytes=N strings? format=t output-duplicates=v width? traditional endian:")
	radix, skip, limit, all, width := "o", int64(0), int64(-1), false, 16
	var formats []dumpFormat
	add := func(spec string) {
		for spec != "" {
			f := dumpFormat{kind: spec[0], size: 4}
			spec = spec[1:]
			switch f.kind {
			case 'a', 'c':
				f.size = 1
			case 'f':
				f.size = 8
			case 'd', 'o', 'u', 'x':
			default:
				c.die("invalid character '%c' in type string %s", f.kind, quote(o.arg))
			}
			if spec != "" && f.kind != 'a' && f.kind != 'c' {
				if k := strings.IndexByte("CSILFD", spec[0]); k >= 0 {
					f.size, spec = [...]int{1, 2, 4, 8, 4, 8}[k], spec[1:]
				} else if n, end, ok := digits(spec, 0, 2, 10); ok {
					f.size, spec = n, spec[end:]
					if n != 1 && n != 2 && n != 4 && n != 8 {
						c.die("invalid type string %s;\nthis system doesn't provide a %d-byte integral type", quote(o.arg), n)
					}
				}
			}
			if strings.HasPrefix(spec, "z") {
				f.text, spec = true, spec[1:]
			}
			f.setWidth()
			formats = append(formats, f)
		}
	}
	size := func() int64 {
		s := o.arg
		if n, err := strconv.ParseInt(s, 0, 64); err == nil {
			return n
		}
		n, ok := parseSize(s)
		if !ok {
			c.die("invalid argument %s", quote(s))
		}
		return n
	}
	for o.next() {
		switch o.opt {
		case "A":
			radix = o.arg
		case "j":
			skip = size()
		case "N":
			limit = size()
		case "t":
			add(o.arg)
		case "v":
			all = true
		case "w", "width":
			width = 32
			if o.arg != "" {
				width, _ = strconv.Atoi(o.arg)
			}
		case "a", "c":
			add(o.opt)
		case "b":
			add("o1")
		case "d":
			add("u2")
		case "f":
			add("fF")
		case "h", "x":
			add("x2")
		case "i":
			add("dI")
		case "l":
			add("dL")
		case "o":
			add("o2")
		case "s":
			add("d2")
		}
	}
	if formats == nil {
		add("o2")
	}
	var readers []io.Reader
	for _, n := range orStdin(o.args) {
		r, err := c.open(n)
		if err != nil {
			c.fail("%s: %s", n, Strerror(err))
			continue
		}
		readers = append(readers, r)
	}
	r := io.MultiReader(readers...)
	io.CopyN(io.Discard, r, skip)
	if limit >= 0 {
		r = io.LimitReader(r, limit)
	}
	address := func(n int64) string {
		switch radix {
		case "d":
			return fmt.Sprintf("%07d", n)
		case "x":
			return fmt.Sprintf("%06x", n)
		case "n":
			return ""
		}
		return fmt.Sprintf("%07o", n)
	}
	// Each byte gets the same width in every format, so that columns line up.
	perByte := 0.0
	for _, f := range formats {
		perByte = max(perByte, float64(f.width+1)/float64(f.size))
	}
	pos := skip
	var prev []byte
	dup := false
	row := make([]byte, width)
	for {
		n, err := io.ReadFull(r, row)
		if n == 0 {
			break
		}
		b := row[:n]
		if !all && n == width && bytes.Equal(b, prev) {
			if !dup {
				c.println("*")
			}
			dup = true
			pos += int64(n)
			continue
		}
		dup = false
		prev = append(prev[:0], b...)
		for i, f := range formats {
			head := address(pos)
			if i > 0 {
				head = strings.Repeat(" ", len(head))
			}
			line := head
			for k := 0; k < n; k += f.size {
				w := int(perByte * float64(f.size))
				line += fmt.Sprintf("%*s", w, f.value(b[k:min(k+f.size, n)]))
			}
			if f.text {
				full := len(head) + int(perByte*float64(width))
				line = fmt.Sprintf("%-*s  >", full, line)
				for _, ch := range b {
					if ch < ' ' || ch > 126 {
						ch = '.'
					}
					line += string(ch)
				}
				line += "<"
			}
			c.println(line)
		}
		pos += int64(n)
		if err != nil {
			break
		}
	}
	if radix != "n" {
		c.println(address(pos))
	}
}

// hexdump has od's job with its own defaults; -e takes simple formats.
func hexdump(c *Ctx) {
	o := c.options("bcCde:n:os:vx", "canonical=C length=n skip=s no-squeezing=v")
	kind, limit, skip, all := "", int64(-1), int64(0), false
	var format []string
	if c.name == "hd" {
		kind = "C"
	}
	num := func() int64 {
		n, err := strconv.ParseInt(o.arg, 0, 64)
		if err != nil {
			v, ok := parseSize(o.arg)
			if !ok {
				c.die("%s: invalid number", o.arg)
			}
			return v
		}
		return n
	}
	for o.next() {
		switch o.opt {
		case "n":
			limit = num()
		case "s":
			skip = num()
		case "v":
			all = true
		case "e":
			format = append(format, o.arg)
		default:
			kind = o.opt
		}
	}
	var readers []io.Reader
	for _, n := range orStdin(o.args) {
		r, err := c.open(n)
		if err != nil {
			c.fail("%s: %s", n, Strerror(err))
			continue
		}
		readers = append(readers, r)
	}
	r := bufio.NewReader(io.MultiReader(readers...))
	io.CopyN(io.Discard, r, skip)
	var in io.Reader = r
	if limit >= 0 {
		in = io.LimitReader(r, limit)
	}
	if format != nil {
		c.hexFormat(in, format)
		return
	}
	pos := skip
	row := make([]byte, 16)
	var prev []byte
	dup := false
	for {
		n, err := io.ReadFull(in, row)
		if n == 0 {
			break
		}
		b := row[:n]
		if !all && n == 16 && bytes.Equal(b, prev) {
			if !dup {
				c.println("*")
			}
			dup = true
			pos += int64(n)
			continue
		}
		dup = false
		prev = append(prev[:0], b...)
		addr := 7
		if kind == "C" {
			addr = 8
		}
		c.printf("%0*x", addr, pos)
		switch kind {
		case "C":
			for k := range 16 {
				if k%8 == 0 {
					c.print(" ")
				}
				if k < n {
					c.printf(" %02x", b[k])
				} else {
					c.print("   ")
				}
			}
			c.print("  |")
			for _, ch := range b {
				if ch < ' ' || ch > 126 {
					ch = '.'
				}
				c.out.WriteByte(ch)
			}
			c.print("|")
		case "b", "c":
			for k := range 16 {
				switch {
				case k >= n:
					c.print("    ")
				case kind == "b":
					c.printf(" %03o", b[k])
				default:
					c.printf(" %3s", dumpChar(b[k], false))
				}
			}
		default:
			verb := map[string]string{"d": "   %05d", "o": "  %06o", "x": "    %04x", "": " %04x"}[kind]
			for k := 0; k < 16; k += 2 {
				if k < n {
					v := int(b[k])
					if k+1 < n {
						v |= int(b[k+1]) << 8
					}
					c.printf(verb, v)
				} else {
					c.print(strings.Repeat(" ", len(fmt.Sprintf(verb, 0))))
				}
			}
		}
		c.println()
		pos += int64(n)
		if err != nil {
			break
		}
	}
	switch {
	case pos == 0:
	case kind == "C":
		c.printf("%08x\n", pos)
	default:
		c.printf("%07x\n", pos)
	}
}

// hexFormat is -e: 'ITER/SIZE "FORMAT"' units, repeated over the input.
func (c *Ctx) hexFormat(r io.Reader, specs []string) {
	type unit struct {
		iter, size int
		format     string
	}
	var units []unit
	for _, s := range specs {
		for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
			u := unit{iter: 1}
			if n, end, ok := digits(s, 0, 6, 10); ok {
				u.iter = n
				s = s[end:]
			}
			if strings.HasPrefix(s, "/") {
				n, end, _ := digits(s, 1, 2, 10)
				u.size = n
				s = s[end:]
			}
			s = strings.TrimSpace(s)
			if !strings.HasPrefix(s, `"`) {
				c.die("bad format {%s}", s)
			}
			end := strings.IndexByte(s[1:], '"')
			if end < 0 {
				c.die("bad format {%s}", s)
			}
			u.format, _ = unescape(s[1:1+end], escPrintf)
			s = s[end+2:]
			if u.size == 0 && strings.Contains(u.format, "%") {
				u.size = 4
				if strings.HasSuffix(strings.TrimSpace(u.format), "c") || strings.Contains(u.format, "_c") || strings.Contains(u.format, "_p") {
					u.size = 1
				}
			}
			units = append(units, u)
		}
	}
	data, _ := io.ReadAll(r)
	pos := 0
	for pos < len(data) {
		start := pos
		for _, u := range units {
			for i := range u.iter {
				if pos >= len(data) && u.size > 0 {
					break
				}
				chunk := data[pos:min(pos+u.size, len(data))]
				f := u.format
				if i == u.iter-1 && u.iter > 1 { // the last round drops trailing blanks
					f = strings.TrimRight(f, " \t")
				}
				switch {
				case !strings.Contains(f, "%"):
				case strings.Contains(f, "%_ax"):
					f = strings.ReplaceAll(f, "%_ax", fmt.Sprintf("%x", pos))
					chunk = nil
				case strings.Contains(f, "%_p"):
					ch := chunk[0]
					if ch < ' ' || ch > 126 {
						ch = '.'
					}
					f = strings.ReplaceAll(f, "%_p", string(ch))
				case strings.Contains(f, "%_c"):
					f = strings.ReplaceAll(f, "%_c", dumpChar(chunk[0], false))
				default:
					pad := make([]byte, 8)
					copy(pad, chunk)
					v := binary.LittleEndian.Uint64(pad)
					p := f
					if k := strings.LastIndexAny(p, "uid"); k > strings.IndexByte(p, '%') {
						p = p[:k] + "d" + p[k+1:]
					}
					f = fmt.Sprintf(p, v)
				}
				c.print(f)
				pos += len(chunk)
			}
		}
		if pos == start {
			break
		}
	}
}

func cmpTool(c *Ctx) {
	o := c.options("bi:ln:s", "print-bytes=b ignore-initial=i verbose=l bytes=n quiet=s silent=s")
	var printBytes, verbose, silent bool
	limit := int64(-1)
	skip := [2]int64{}
	for o.next() {
		switch o.opt {
		case "b":
			printBytes = true
		case "i":
			a, b, ok := strings.Cut(o.arg, ":")
			skip[0], _ = parseSize(a)
			skip[1] = skip[0]
			if ok {
				skip[1], _ = parseSize(b)
			}
		case "l":
			verbose = true
		case "n":
			limit, _ = parseSize(o.arg)
		case "s":
			silent = true
		}
	}
	args := o.args
	if len(args) == 0 {
		c.warn("missing operand after %s", quote("cmp"))
		c.usage()
	}
	if len(args) == 1 {
		args = append(args, "-")
	}
	for i := 2; i < len(args) && i < 4; i++ {
		skip[i-2], _ = parseSize(args[i])
	}
	var in [2]*bufio.Reader
	for i := range 2 {
		r, err := c.open(args[i])
		if err != nil {
			if !silent {
				c.warn("%s: %s", args[i], Strerror(err))
			}
			c.exit(2)
		}
		in[i] = newReader(r)
		io.CopyN(io.Discard, in[i], skip[i])
	}
	line := 1
	var last byte
	for pos := int64(1); limit < 0 || pos <= limit; pos++ {
		a, err1 := in[0].ReadByte()
		b, err2 := in[1].ReadByte()
		if err1 != nil && err2 != nil {
			return
		}
		if err1 != nil || err2 != nil {
			short := args[0]
			if err2 != nil {
				short = args[1]
			}
			c.code = 1
			if !silent {
				c.flush()
				switch {
				case pos == 1:
					fmt.Fprintf(c.err, "cmp: EOF on %s which is empty\n", short)
				case verbose:
					fmt.Fprintf(c.err, "cmp: EOF on %s after byte %d\n", short, pos-1)
				case last == '\n':
					fmt.Fprintf(c.err, "cmp: EOF on %s after byte %d, line %d\n", short, pos-1, line-1)
				default:
					fmt.Fprintf(c.err, "cmp: EOF on %s after byte %d, in line %d\n", short, pos-1, line)
				}
			}
			return
		}
		if a != b {
			c.code = 1
			switch {
			case silent:
				return
			case verbose:
				c.printf("%d %3o %3o\n", pos, a, b)
			case printBytes:
				c.printf("%s %s differ: byte %d, line %d is %3o %s %3o %s\n", args[0], args[1], pos, line, a, catv(a), b, catv(b))
				return
			default:
				c.printf("%s %s differ: byte %d, line %d\n", args[0], args[1], pos, line)
				return
			}
		}
		if a == '\n' {
			line++
		}
		last = a
	}
}

func catv(b byte) string {
	s := ""
	if b >= 128 {
		s, b = "M-", b-128
	}
	switch {
	case b < 32:
		return s + "^" + string(b+64)
	case b == 127:
		return s + "^?"
	}
	return s + string(b)
}

func split(c *Ctx) {
	o := c.options("a:b:C:dl:n:t:x", "suffix-length=a bytes=b line-bytes=C numeric-suffixes? hex-suffixes? lines=l number=n additional-suffix: filter: verbose separator=t elide-empty-files")
	width, mode, count, numeric, hexa, extra, verbose, start := 0, byte('l'), int64(1000), false, false, "", false, 0
	parts := ""
	for o.next() {
		switch o.opt {
		case "a":
			width, _ = strconv.Atoi(o.arg)
		case "b", "C", "l":
			n, ok := parseSize(o.arg)
			if !ok || n <= 0 {
				c.die("invalid number of %s: %s", map[string]string{"b": "bytes", "C": "bytes", "l": "lines"}[o.opt], quote(o.arg))
			}
			mode, count = o.opt[0], n
		case "n":
			mode, parts = 'n', o.arg
		case "d", "numeric-suffixes":
			numeric = true
			start, _ = strconv.Atoi(o.arg)
		case "x", "hex-suffixes":
			hexa = true
		case "additional-suffix":
			extra = o.arg
		case "verbose":
			verbose = true
		}
	}
	in, prefix := "-", "x"
	if len(o.args) > 0 {
		in = o.args[0]
	}
	if len(o.args) > 1 {
		prefix = o.args[1]
	}
	r, err := c.open(in)
	if err != nil {
		c.die("cannot open %s for reading: %s", quote(in), Strerror(err))
	}
	n := start
	if width == 0 {
		width = 2
	}
	suffix := func() string {
		i := n
		n++
		base, zero := 26, byte('a')
		switch {
		case numeric:
			base, zero = 10, '0'
		case hexa:
			base, zero = 16, '0'
		}
		b := make([]byte, width)
		for k := width - 1; k >= 0; k-- {
			d := byte(i % base)
			if hexa && d > 9 {
				b[k] = 'a' + d - 10
			} else {
				b[k] = zero + d
			}
			i /= base
		}
		if i > 0 {
			c.die("output file suffixes exhausted")
		}
		return string(b) + extra
	}
	var out *bufio.Writer
	var file *os.File
	closeOut := func() {
		if file != nil {
			out.Flush()
			file.Close()
			file = nil
		}
	}
	open := func() {
		closeOut()
		name := prefix + suffix()
		if verbose {
			c.printf("creating file %s\n", quote(name))
		}
		f, err := os.Create(name)
		if err != nil {
			c.die("%s: %s", name, Strerror(err))
		}
		file, out = f, bufio.NewWriter(f)
	}
	defer closeOut()
	switch mode {
	case 'l':
		i := int64(0)
		for b := range lines(r) {
			if i%count == 0 {
				open()
			}
			out.Write(b)
			i++
		}
	case 'b':
		for {
			buf := make([]byte, count)
			k, err := io.ReadFull(r, buf)
			if k > 0 {
				open()
				out.Write(buf[:k])
			}
			if err != nil {
				break
			}
		}
	case 'C':
		used := count
		for b := range lines(r) {
			for int64(len(b)) > count {
				open()
				out.Write(b[:count])
				b, used = b[count:], count
			}
			if used+int64(len(b)) > count {
				open()
				used = 0
			}
			out.Write(b)
			used += int64(len(b))
		}
	case 'n':
		byLine := strings.HasPrefix(parts, "l/")
		round := strings.HasPrefix(parts, "r/")
		k, err := strconv.Atoi(strings.TrimPrefix(strings.TrimPrefix(parts, "l/"), "r/"))
		if err != nil || k < 1 {
			c.die("invalid number of chunks: %s", quote(parts))
		}
		data, _ := io.ReadAll(r)
		if round {
			chunks := make([][]byte, k)
			for i, l := range bytes.SplitAfter(data, []byte("\n")) {
				chunks[i%k] = append(chunks[i%k], l...)
			}
			for _, ch := range chunks {
				open()
				out.Write(ch)
			}
			return
		}
		size := len(data)
		at := 0
		for i := range k {
			open()
			end := size / k * (i + 1)
			end += min(i+1, size%k)
			if byLine {
				end = size / k * (i + 1)
				if i == k-1 {
					end = size
				}
				if end < at {
					end = at
				}
				if end > 0 && end < size && end > at && data[end-1] != '\n' {
					if j := bytes.IndexByte(data[end:], '\n'); j >= 0 {
						end += j + 1
					} else {
						end = size
					}
				}
			}
			out.Write(data[at:end])
			at = end
		}
	}
}

func dd(c *Ctx) {
	in, out := "", ""
	ibs, obs, count, skip, seek := int64(512), int64(512), int64(-1), int64(0), int64(0)
	conv, status, flags := "", "", ""
	for _, a := range c.args {
		k, v, ok := strings.Cut(a, "=")
		if !ok {
			if a == "--help" {
				c.help()
			}
			c.warn("unrecognized operand %s", quote(a))
			c.usage()
		}
		num := func() int64 {
			total := int64(1)
			for _, f := range strings.Split(v, "x") {
				n, ok := parseSize(f)
				if !ok {
					c.die("invalid number: %s", quote(v))
				}
				total *= n
			}
			return total
		}
		switch k {
		case "if":
			in = v
		case "of":
			out = v
		case "bs":
			ibs = num()
			obs = ibs
		case "ibs":
			ibs = num()
		case "obs":
			obs = num()
		case "count":
			count = num()
		case "skip", "iseek":
			skip = num()
		case "seek", "oseek":
			seek = num()
		case "conv":
			conv = v
		case "status":
			status = v
		case "iflag", "oflag":
			flags += "," + v
		default:
			c.warn("unrecognized operand %s", quote(a))
			c.usage()
		}
	}
	if ibs <= 0 || obs <= 0 {
		c.die("invalid number: '0'")
	}
	has := func(list, f string) bool { return strings.Contains(","+list+",", ","+f+",") }
	r := c.in
	if in != "" {
		f, err := os.Open(in)
		if err != nil {
			c.die("failed to open %s: %s", quote(in), Strerror(err))
		}
		defer f.Close()
		r = f
	}
	if has(flags, "count_bytes") && count >= 0 {
		r, count = io.LimitReader(r, count), -1
	}
	skipBytes := skip * ibs
	if has(flags, "skip_bytes") {
		skipBytes = skip
	}
	var w io.Writer = c.out
	if out != "" {
		mode := os.O_WRONLY | os.O_CREATE
		if !has(conv, "notrunc") && seek == 0 {
			mode |= os.O_TRUNC
		}
		if has(flags, "append") {
			mode |= os.O_APPEND
		}
		f, err := os.OpenFile(out, mode, 0o666)
		if err != nil {
			c.die("failed to open %s: %s", quote(out), Strerror(err))
		}
		defer f.Close()
		if seek > 0 {
			at := seek * obs
			if has(flags, "seek_bytes") {
				at = seek
			}
			if !has(conv, "notrunc") {
				f.Truncate(at)
			}
			f.Seek(at, io.SeekStart)
		}
		w = f
	}
	if s, ok := r.(io.Seeker); !ok || func() error { _, err := s.Seek(skipBytes, io.SeekCurrent); return err }() != nil {
		io.CopyN(io.Discard, r, skipBytes)
	}
	var fullIn, partIn, total int64
	buf := make([]byte, ibs)
	for count < 0 || fullIn+partIn < count {
		var n int
		var err error
		if has(flags, "fullblock") {
			n, err = io.ReadFull(r, buf)
		} else {
			n, err = r.Read(buf)
		}
		if n > 0 {
			if int64(n) == ibs {
				fullIn++
			} else {
				partIn++
			}
			b := buf[:n]
			switch {
			case has(conv, "ucase"):
				b = bytes.ToUpper(b)
			case has(conv, "lcase"):
				b = bytes.ToLower(b)
			}
			if has(conv, "swab") {
				for i := 0; i+1 < len(b); i += 2 {
					b[i], b[i+1] = b[i+1], b[i]
				}
			}
			if has(conv, "sync") && int64(n) < ibs {
				b = append(bytes.Clone(b), make([]byte, int(ibs)-n)...)
			}
			k, werr := w.Write(b)
			total += int64(k)
			if werr != nil {
				c.fail("error writing %s: %s", quote(out), Strerror(werr))
				break
			}
		}
		if err != nil {
			break
		}
	}
	c.flush()
	if status != "none" {
		fullOut, partOut := total/obs, int64(0)
		if ibs == obs {
			fullOut, partOut = fullIn, partIn
		} else if total%obs != 0 {
			partOut = 1
		}
		fmt.Fprintf(c.err, "%d+%d records in\n%d+%d records out\n", fullIn, partIn, fullOut, partOut)
		if status != "noxfer" {
			plural := "bytes"
			if total == 1 {
				plural = "byte"
			}
			fmt.Fprintf(c.err, "%d %s copied, 0.001 s, %.1f MB/s\n", total, plural, float64(total)/1e3)
		}
	}
}
