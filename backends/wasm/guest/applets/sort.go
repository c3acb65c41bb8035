package applets

import (
	"bytes"
	"cmp"
	"os"
	"slices"
	"strconv"
	"strings"
)

// ordering is how one key (or the whole line) is compared.
type ordering struct {
	numeric, general, human, month, version, random, reverse bool
	blanks, dict, fold, printable                            bool
	set                                                      bool // the key has options of its own
}

// sortKey is -k F.C[OPTS],F.C[OPTS]; fields and characters count from 1.
type sortKey struct {
	startField, startChar, endField, endChar int
	startBlanks, endBlanks                   bool
	ord                                      ordering
}

// letter sets one option letter; false if there is none such.
func (o *ordering) letter(c byte) bool {
	switch c {
	case 'n':
		o.numeric = true
	case 'g':
		o.general = true
	case 'h':
		o.human = true
	case 'M':
		o.month = true
	case 'V':
		o.version = true
	case 'R':
		o.random = true
	case 'r':
		o.reverse = true
	case 'b':
		o.blanks = true
	case 'd':
		o.dict = true
	case 'f':
		o.fold = true
	case 'i':
		o.printable = true
	default:
		return false
	}
	o.set = true
	return true
}

type sorter struct {
	c      *Ctx
	global ordering
	keys   []sortKey
	sep    string
	stable bool
	unique bool
	salt   uint64
}

func sortTool(c *Ctx) {
	o := c.options("bcCdfghik:Mmno:rRsS:t:T:uVz", "ignore-leading-blanks=b dictionary-order=d ignore-case=f general-numeric-sort=g human-numeric-sort=h ignore-nonprinting=i month-sort=M numeric-sort=n random-sort=R reverse=r version-sort=V sort: batch-size: check? compress-program: debug files0-from: key=k merge=m output=o stable=s buffer-size=S field-separator=t temporary-directory=T parallel: unique=u zero-terminated=z random-source:")
	s := &sorter{c: c}
	check, output, end := "", "", byte('\n')
	for o.next() {
		switch o.opt {
		case "c", "C":
			check = o.opt
		case "check":
			check = "c"
			if o.arg == "quiet" || o.arg == "silent" {
				check = "C"
			}
		case "k":
			s.keys = append(s.keys, s.parseKey(o.arg))
		case "o":
			output = o.arg
		case "s":
			s.stable = true
		case "t":
			s.sep = o.arg
			switch {
			case o.arg == `\0`:
				s.sep = "\x00"
			case o.arg == "":
				c.dieCode(2, "empty tab")
			case len(o.arg) > 1 && len([]rune(o.arg)) > 1:
				c.dieCode(2, "multi-character tab %s", quote(o.arg))
			}
		case "u":
			s.unique = true
		case "z":
			end = 0
		case "sort":
			s.global.letter(map[string]byte{"numeric": 'n', "general-numeric": 'g', "human-numeric": 'h', "month": 'M', "random": 'R', "version": 'V'}[o.arg])
		default:
			if len(o.opt) == 1 {
				s.global.letter(o.opt[0])
			}
		}
	}
	if s.global.random {
		s.salt = uint64(randomInt(1 << 62))
	}
	for i := range s.keys {
		if k := &s.keys[i]; !k.ord.set && !k.startBlanks && !k.endBlanks {
			k.ord = s.global
			k.startBlanks, k.endBlanks = s.global.blanks, s.global.blanks
		}
	}
	var ls []string
	for _, n := range orStdin(o.args) {
		r, err := c.open(n)
		if err != nil {
			c.dieCode(2, "%s: %s: %s", map[bool]string{true: "read failed", false: "cannot read"}[Strerror(err) == "Is a directory"], n, Strerror(err))
		}
		for b := range records(r, end) {
			ls = append(ls, string(bytes.TrimSuffix(b, []byte{end})))
		}
		r.Close()
	}
	if check != "" {
		s.check(ls, check == "C", o.args)
		return
	}
	slices.SortStableFunc(ls, s.compare)
	if s.unique {
		ls = slices.CompactFunc(ls, func(a, b string) bool { return s.byKeys(a, b) == 0 })
	}
	if output != "" {
		f, err := os.Create(output)
		if err != nil {
			c.dieCode(2, "open failed: %s: %s", output, Strerror(err))
		}
		defer f.Close()
		c.flush()
		c.out.Reset(f)
		defer c.out.Flush()
	}
	for _, l := range ls {
		c.print(l)
		c.out.WriteByte(end)
	}
}

func orStdin(names []string) []string {
	if len(names) == 0 {
		return []string{"-"}
	}
	return names
}

func (s *sorter) check(ls []string, quiet bool, names []string) {
	for i := 1; i < len(ls); i++ {
		d := s.compare(ls[i-1], ls[i])
		if d > 0 || d == 0 && s.unique {
			if !quiet {
				s.c.warn("%s:%d: disorder: %s", orStdin(names)[0], i+1, ls[i])
			}
			s.c.exit(1)
		}
	}
}

func (s *sorter) parseKey(spec string) sortKey {
	c := s.c
	bad := func(what string) { c.dieCode(2, "%s: invalid field specification %s", what, quote(spec)) }
	var k sortKey
	rest := spec
	num := func(def int) int {
		i := 0
		for i < len(rest) && rest[i] >= '0' && rest[i] <= '9' {
			i++
		}
		if i == 0 {
			return def
		}
		n, err := strconv.Atoi(rest[:i])
		if err != nil {
			n = 1 << 30
		}
		rest = rest[i:]
		return n
	}
	k.startField = num(-1)
	switch k.startField {
	case -1:
		c.dieCode(2, "invalid number at field start: invalid count at start of %s", quote(spec))
	case 0:
		bad("-: field number is zero")
	}
	k.startChar = 1
	if strings.HasPrefix(rest, ".") {
		rest = rest[1:]
		if k.startChar = num(-1); k.startChar == 0 {
			bad("character offset is zero")
		}
	}
	letters := func(blanks *bool) {
		for rest != "" && rest[0] != ',' {
			if rest[0] == 'b' {
				*blanks = true
			} else if !k.ord.letter(rest[0]) {
				bad("stray character in field spec")
			}
			rest = rest[1:]
		}
	}
	letters(&k.startBlanks)
	if strings.HasPrefix(rest, ",") {
		rest = rest[1:]
		if k.endField = num(-1); k.endField == -1 {
			c.dieCode(2, "invalid number after ',': invalid count at start of %s", quote(rest))
		}
		if k.endField == 0 {
			bad("-: field number is zero")
		}
		if strings.HasPrefix(rest, ".") {
			rest = rest[1:]
			k.endChar = num(0)
		}
		letters(&k.endBlanks)
	}
	return k
}

// fieldStart is the offset of field n (from 1) in line.
func (s *sorter) fieldStart(line string, n int) int {
	i := 0
	for range n - 1 {
		if s.sep != "" {
			j := strings.Index(line[i:], s.sep)
			if j < 0 {
				return len(line)
			}
			i += j + len(s.sep)
			continue
		}
		i = skipField(line, i)
	}
	return i
}

// skipField goes over blanks and then non-blanks.
func skipField(line string, i int) int {
	i = skipBlanks(line, i)
	for i < len(line) && line[i] != ' ' && line[i] != '\t' {
		i++
	}
	return i
}

func skipBlanks(line string, i int) int {
	for i < len(line) && (line[i] == ' ' || line[i] == '\t') {
		i++
	}
	return i
}

// extract is the part of a line that a key names.
func (s *sorter) extract(line string, k *sortKey) string {
	start := s.fieldStart(line, k.startField)
	if k.startBlanks {
		start = skipBlanks(line, start)
	}
	start = min(start+k.startChar-1, len(line))
	end := len(line)
	if k.endField > 0 {
		if k.endChar == 0 {
			if s.sep != "" {
				end = s.fieldStart(line, k.endField)
				if j := strings.Index(line[end:], s.sep); j >= 0 {
					end += j
				} else {
					end = len(line)
				}
			} else {
				end = skipField(line, s.fieldStart(line, k.endField))
			}
		} else {
			end = s.fieldStart(line, k.endField)
			if k.endBlanks {
				end = skipBlanks(line, end)
			}
			end = min(end+k.endChar, len(line))
		}
	}
	return line[start:max(start, end)]
}

func (s *sorter) compare(a, b string) int {
	if d := s.byKeys(a, b); d != 0 || s.stable || s.unique {
		return d
	}
	d := strings.Compare(a, b)
	if s.global.reverse {
		return -d
	}
	return d
}

func (s *sorter) byKeys(a, b string) int {
	if len(s.keys) == 0 {
		o := &s.global
		if o.blanks {
			a, b = strings.TrimLeft(a, " \t"), strings.TrimLeft(b, " \t")
		}
		return s.ordered(o, a, b)
	}
	for i := range s.keys {
		k := &s.keys[i]
		if d := s.ordered(&k.ord, s.extract(a, k), s.extract(b, k)); d != 0 {
			return d
		}
	}
	return 0
}

func (s *sorter) ordered(o *ordering, a, b string) int {
	d := 0
	switch {
	case o.numeric:
		d = compareNumbers(a, b)
	case o.general:
		d = compareGeneral(a, b)
	case o.human:
		d = compareHuman(a, b)
	case o.month:
		d = cmp.Compare(monthOf(a), monthOf(b))
	case o.version:
		d = compareVersions(a, b)
	case o.random:
		if d = cmp.Compare(saltedHash(a, s.salt), saltedHash(b, s.salt)); a == b {
			d = 0
		}
	default:
		if o.dict || o.fold || o.printable {
			a, b = o.translate(a), o.translate(b)
		}
		d = strings.Compare(a, b)
	}
	if o.reverse {
		return -d
	}
	return d
}

func (o *ordering) translate(s string) string {
	var b []byte
	for i := range len(s) {
		c := s[i]
		alnum := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if o.dict && !alnum && c != ' ' && c != '\t' || o.printable && (c < ' ' || c > 126) {
			continue
		}
		if o.fold {
			c = upperByte(c)
		}
		b = append(b, c)
	}
	return string(b)
}

// numberParts takes a leading decimal number apart.
func numberParts(s string) (neg bool, whole, frac, rest string) {
	s = strings.TrimLeft(s, " \t\n")
	if strings.HasPrefix(s, "-") {
		neg, s = true, s[1:]
	}
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	whole, s = strings.TrimLeft(s[:i], "0"), s[i:]
	if strings.HasPrefix(s, ".") {
		i = 1
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		frac, s = strings.TrimRight(s[1:i], "0"), s[i:]
	}
	if whole == "" && frac == "" {
		neg = false
	}
	return neg, whole, frac, s
}

// compareNumbers compares decimal numbers of any length.
func compareNumbers(a, b string) int {
	an, aw, af, _ := numberParts(a)
	bn, bw, bf, _ := numberParts(b)
	if an != bn {
		if an {
			return -1
		}
		return 1
	}
	d := cmp.Or(cmp.Compare(len(aw), len(bw)), strings.Compare(aw, bw), strings.Compare(af, bf))
	if an {
		return -d
	}
	return d
}

func compareHuman(a, b string) int {
	unit := func(s string) int {
		neg, w, f, rest := numberParts(s)
		u := 0
		if rest != "" {
			u = strings.IndexByte("KMGTPEZY", upperByte(rest[0])) + 1
		}
		if w == "" && f == "" {
			return 0
		}
		if neg {
			return -u
		}
		return u
	}
	sign := func(s string) int {
		neg, w, f, _ := numberParts(s)
		switch {
		case w == "" && f == "":
			return 0
		case neg:
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(sign(a), sign(b)), cmp.Compare(unit(a), unit(b)), compareNumbers(a, b))
}

func compareGeneral(a, b string) int {
	num := func(s string) (float64, bool) {
		s = strings.TrimLeft(s, " \t")
		for end := len(s); end > 0; end-- {
			if f, err := strconv.ParseFloat(s[:end], 64); err == nil {
				return f, true
			}
		}
		return 0, false
	}
	x, okX := num(a)
	y, okY := num(b)
	switch {
	case !okX && !okY:
		return 0
	case !okX:
		return -1
	case !okY:
		return 1
	}
	return cmp.Compare(x, y)
}

func monthOf(s string) int {
	s = strings.ToUpper(strings.TrimLeft(s, " \t"))
	if len(s) < 3 {
		return 0
	}
	i := strings.Index("JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC", s[:3])
	if i < 0 || i%3 != 0 {
		return 0
	}
	return i/3 + 1
}

func saltedHash(s string, salt uint64) uint64 {
	h := salt ^ 14695981039346656037
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h ^ h>>29
}

// compareVersions is GNU's filevercmp: digits by value, ~ before the end,
// letters before other characters.
func compareVersions(a, b string) int {
	if a == b {
		return 0
	}
	for _, special := range []string{"", ".", ".."} {
		switch {
		case a == special:
			return -1
		case b == special:
			return 1
		}
	}
	switch aDot, bDot := a[0] == '.', b[0] == '.'; {
	case aDot && !bDot:
		return -1
	case bDot && !aDot:
		return 1
	case aDot:
		a, b = a[1:], b[1:]
	}
	ap, bp := versionPrefix(a), versionPrefix(b)
	if ap == bp {
		ap, bp = a, b
	}
	return cmp.Or(compareVersionParts(ap, bp), strings.Compare(a, b))
}

// versionPrefix cuts the suffix (\.[A-Za-z~][A-Za-z0-9~]*)*$ off.
func versionPrefix(s string) string {
	end := len(s)
	for i := len(s); i > 0; {
		dot := strings.LastIndexByte(s[:i], '.')
		if dot <= 0 || dot+1 >= i {
			break
		}
		ok := true
		for k := dot + 1; k < i; k++ {
			c := s[k]
			letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '~'
			ok = ok && (letter || k > dot+1 && '0' <= c && c <= '9')
		}
		if !ok {
			break
		}
		i, end = dot, dot
	}
	return s[:end]
}

func compareVersionParts(a, b string) int {
	order := func(s string) int {
		if s == "" {
			return 0
		}
		c := s[0]
		switch {
		case '0' <= c && c <= '9':
			return 0
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z':
			return int(c)
		case c == '~':
			return -1
		}
		return int(c) + 256
	}
	isDigit := func(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }
	for a != "" || b != "" {
		for a != "" && !isDigit(a) || b != "" && !isDigit(b) {
			if d := cmp.Compare(order(a), order(b)); d != 0 {
				return d
			}
			if a != "" {
				a = a[1:]
			}
			if b != "" {
				b = b[1:]
			}
		}
		run := func(s *string) string {
			i := 0
			for i < len(*s) && (*s)[i] >= '0' && (*s)[i] <= '9' {
				i++
			}
			n := strings.TrimLeft((*s)[:i], "0")
			*s = (*s)[i:]
			return n
		}
		x, y := run(&a), run(&b)
		if d := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); d != 0 {
			return d
		}
	}
	return 0
}
