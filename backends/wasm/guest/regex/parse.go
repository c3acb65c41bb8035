package regex

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

type parser struct {
	s         string
	i         int
	syntax    Syntax
	flags     Flags
	fold      bool
	multi     bool
	dotAll    bool
	groups    int
	closed    []bool // groups that are complete, by number
	names     map[string]int
	depth     int
	backtrack bool
}

var (
	errParen    = errors.New(`Unmatched ( or \(`)
	errCloseP   = errors.New(`Unmatched ) or \)`)
	errBracket  = errors.New("Unmatched [, [^, [:, [., or [=")
	errTrailing = errors.New("Trailing backslash")
	errBackref  = errors.New("Invalid back reference")
	errRange    = errors.New("Invalid range end")
	errBrace    = errors.New(`Unmatched { or \{`)
	errContent  = errors.New(`Invalid content of \{\}`)
	errClass    = errors.New("Invalid character class name")
	errPrev     = errors.New("Invalid preceding regular expression")
	errDeep     = errors.New("Regular expression too big")
)

func (p *parser) parse() (*node, error) {
	p.closed = []bool{false}
	n, err := p.alternatives()
	if err != nil {
		return nil, err
	}
	if p.i < len(p.s) {
		return nil, errCloseP
	}
	return n, nil
}

// at reports whether an operator comes next: in basic syntax it has a backslash.
func (p *parser) at(op byte) bool {
	if p.syntax == Basic {
		return strings.HasPrefix(p.s[p.i:], `\`+string(op))
	}
	return p.i < len(p.s) && p.s[p.i] == op
}

func (p *parser) skip() {
	if p.syntax == Basic {
		p.i++
	}
	p.i++
}

func (p *parser) alternatives() (*node, error) {
	if p.depth++; p.depth > 250 {
		return nil, errDeep
	}
	defer func() { p.depth-- }()
	fold, multi, dotAll := p.fold, p.multi, p.dotAll
	var alts []*node
	for {
		n, err := p.sequence()
		if err != nil {
			return nil, err
		}
		alts = append(alts, n)
		if p.at('|') {
			p.skip()
			continue
		}
		if p.syntax != Perl && p.i < len(p.s) && p.s[p.i] == '\n' && p.flags&Escapes == 0 { // grep: one pattern a line
			p.i++
			continue
		}
		break
	}
	p.fold, p.multi, p.dotAll = fold, multi, dotAll
	if len(alts) == 1 {
		return alts[0], nil
	}
	return &node{op: opAlt, subs: alts}, nil
}

func (p *parser) sequence() (*node, error) {
	cat := &node{op: opCat}
	for p.i < len(p.s) {
		if p.at('|') || p.at(')') && (p.depth > 1 || p.syntax == Perl || p.syntax == Basic) {
			break
		}
		if p.syntax != Perl && p.s[p.i] == '\n' && p.flags&Escapes == 0 {
			break
		}
		n, err := p.atom(len(cat.subs) == 0 || p.syntax == Basic && onlyBol(cat))
		if err != nil {
			return nil, err
		}
		if n == nil {
			continue
		}
		if n, err = p.repeats(n); err != nil {
			return nil, err
		}
		cat.subs = append(cat.subs, n)
	}
	return cat, nil
}

func onlyBol(cat *node) bool { return len(cat.subs) == 1 && cat.subs[0].op == opBol }

// repeats applies the quantifiers after n.
func (p *parser) repeats(n *node) (*node, error) {
	for p.i < len(p.s) {
		lo, hi := 0, -1
		switch {
		case p.s[p.i] == '*':
			if p.syntax == Basic && n.op == opBol {
				return n, nil // a literal star
			}
			p.i++
		case p.at('+'):
			lo = 1
			p.skip()
		case p.at('?'):
			hi = 1
			p.skip()
		case p.at('{'):
			start := p.i
			p.skip()
			var ok bool
			var err error
			if lo, hi, ok, err = p.interval(); err != nil {
				return nil, err
			} else if !ok {
				p.i = start
				return n, nil
			}
		default:
			return n, nil
		}
		r := &node{op: opRep, subs: []*node{n}, min: lo, max: hi}
		if p.syntax == Perl && p.i < len(p.s) {
			switch p.s[p.i] {
			case '?':
				r.lazy = true
				p.i++
			case '+':
				r.possessive, p.backtrack = true, true
				p.i++
			}
		}
		if n.simple() && r.simple() {
			// a** is a*, and as such is not tried in every way to split it.
			r.subs, r.min = n.subs, n.min*r.min
			if n.max < 0 {
				r.max = -1
			}
		}
		n = r
	}
	return n, nil
}

// simple tells *, + and ? from other quantifiers.
func (n *node) simple() bool {
	return n.op == opRep && n.min <= 1 && (n.max < 0 || n.max == 1) && !n.lazy && !n.possessive
}

// interval reads what follows {; ok is false if it is not one, which only
// basic syntax makes an error.
func (p *parser) interval() (lo, hi int, ok bool, err error) {
	end := strings.IndexByte(p.s[p.i:], '}')
	if end < 0 {
		if p.syntax == Basic {
			return 0, 0, false, errBrace
		}
		return 0, 0, false, nil
	}
	text := p.s[p.i : p.i+end]
	if p.syntax == Basic {
		if !strings.HasSuffix(text, `\`) {
			return 0, 0, false, errBrace
		}
		text = text[:len(text)-1]
	}
	a, b, comma := strings.Cut(text, ",")
	num := func(s string) int {
		n, err := strconv.ParseUint(s, 10, 15)
		if err != nil {
			return -2
		}
		return int(n)
	}
	lo, hi = num(a), -1
	if a == "" && comma && p.syntax != Perl {
		lo = 0
	}
	switch {
	case !comma:
		hi = lo
	case b != "":
		hi = num(b)
	}
	if lo == -2 || hi == -2 || hi >= 0 && lo > hi {
		if p.syntax == Basic || lo >= 0 && hi >= 0 {
			return 0, 0, false, errContent
		}
		return 0, 0, false, nil
	}
	p.i += end + 1
	return lo, hi, true, nil
}

func (p *parser) char(r rune) *node { return &node{op: opChar, r: r, fold: p.fold} }

// atom parses one element; first tells that nothing stands before it.
func (p *parser) atom(first bool) (*node, error) {
	c := p.s[p.i]
	switch {
	case p.at('('):
		p.skip()
		return p.group()
	case p.at(')'):
		p.skip() // alone in extended syntax: itself
		return p.char(')'), nil
	}
	switch c {
	case '\\':
		return p.escape()
	case '[':
		p.i++
		return p.bracket()
	case '.':
		p.i++
		return &node{op: opAny, neg: p.syntax == Perl && !p.dotAll}, nil
	case '*':
		if first || p.syntax == Basic {
			p.i++
			if p.syntax == Extended {
				return nil, nil
			}
			if p.syntax == Perl {
				return nil, errPrev
			}
			return p.char('*'), nil
		}
	case '+', '?':
		if p.syntax == Extended && first {
			p.i++
			return nil, nil
		}
		if p.syntax == Perl {
			return nil, errPrev
		}
	case '^':
		if p.syntax != Basic || first {
			p.i++
			return &node{op: opBol, multiLine: p.multi}, nil
		}
	case '$':
		rest := p.s[p.i+1:]
		if p.syntax != Basic || rest == "" || strings.HasPrefix(rest, `\)`) || strings.HasPrefix(rest, `\|`) || rest[0] == '\n' {
			p.i++
			if p.syntax == Perl && !p.multi {
				return &node{op: opEndNL}, nil
			}
			return &node{op: opEol, multiLine: p.multi}, nil
		}
	}
	r, n := utf8.DecodeRuneInString(p.s[p.i:])
	p.i += n
	return p.char(r), nil
}

func (p *parser) group() (*node, error) {
	g := &node{op: opGroup}
	capture := true
	if p.syntax == Perl && strings.HasPrefix(p.s[p.i:], "?") {
		var inline bool
		var err error
		if capture, inline, err = p.perlGroup(g); err != nil {
			return nil, err
		}
		if inline {
			return nil, nil
		}
	}
	if capture {
		p.groups++
		g.group = p.groups
		p.closed = append(p.closed, false)
	}
	fold, multi, dotAll := p.fold, p.multi, p.dotAll
	sub, err := p.alternatives()
	if err != nil {
		return nil, err
	}
	p.fold, p.multi, p.dotAll = fold, multi, dotAll
	if !p.at(')') {
		return nil, errParen
	}
	p.skip()
	if capture {
		p.closed[g.group] = true
	}
	g.subs = []*node{sub}
	return g, nil
}

// perlGroup reads what stands between ( and the group's pattern.
func (p *parser) perlGroup(g *node) (capture, inline bool, err error) {
	rest := p.s[p.i:]
	for _, k := range []struct {
		text        string
		op          op
		neg, behind bool
	}{{"?:", opGroup, false, false}, {"?=", opLook, false, false}, {"?!", opLook, true, false},
		{"?<=", opLook, false, true}, {"?<!", opLook, true, true}, {"?>", opAtomic, false, false}} {
		if strings.HasPrefix(rest, k.text) {
			p.i += len(k.text)
			g.op, g.neg, g.behind = k.op, k.neg, k.behind
			p.backtrack = p.backtrack || k.op != opGroup
			return false, false, nil
		}
	}
	for _, open := range []string{"?<", "?P<", "?'"} {
		if name, ok := strings.CutPrefix(rest, open); ok {
			end := strings.IndexAny(name, ">'")
			if end < 0 {
				return false, false, errParen
			}
			if p.names == nil {
				p.names = map[string]int{}
			}
			p.names[name[:end]] = p.groups + 1
			p.i += len(open) + end + 1
			return true, false, nil
		}
	}
	on := true
	for p.i++; p.i < len(p.s); p.i++ {
		switch p.s[p.i] {
		case '-':
			on = false
		case 'i':
			p.fold = on
		case 'm':
			p.multi = on
		case 's':
			p.dotAll = on
		case 'x', 'U', 'n':
		case ')':
			p.i++
			return false, true, nil
		case ':':
			p.i++
			return false, false, nil
		default:
			return false, false, errors.New("unrecognized character after (? or (?-")
		}
	}
	return false, false, errParen
}

// Classes as sorted ranges. Word and space are ASCII, as in Go's regexp.
var (
	digitSet = []rune{'0', '9'}
	wordSet  = []rune{'0', '9', 'A', 'Z', '_', '_', 'a', 'z'}
	spaceSet = []rune{'\t', '\r', ' ', ' '}
	blankSet = []rune{'\t', '\t', ' ', ' '}
	vertSet  = []rune{'\n', '\r'}
)

func (p *parser) escape() (*node, error) {
	if p.i+1 >= len(p.s) {
		return nil, errTrailing
	}
	r, n := utf8.DecodeRuneInString(p.s[p.i+1:])
	p.i += 1 + n
	class := func(s []rune, neg bool) (*node, error) {
		return &node{op: opSet, set: &set{ranges: s, neg: neg}, fold: p.fold}, nil
	}
	switch r {
	case 'w':
		return class(wordSet, false)
	case 'W':
		return class(wordSet, true)
	case 's':
		return class(spaceSet, false)
	case 'S':
		return class(spaceSet, true)
	case 'b':
		return &node{op: opWord}, nil
	case 'B':
		return &node{op: opNotWord}, nil
	}
	if '1' <= r && r <= '9' {
		g := int(r - '0')
		if g > p.groups || p.syntax != Perl && !p.closed[g] {
			return nil, errBackref
		}
		p.backtrack = true
		return &node{op: opBackref, group: g, fold: p.fold}, nil
	}
	if p.syntax == Perl {
		return p.perlEscape(r)
	}
	switch r {
	case '<':
		return &node{op: opWordStart}, nil
	case '>':
		return &node{op: opWordEnd}, nil
	case '`':
		return &node{op: opBegin}, nil
	case '\'':
		return &node{op: opEnd}, nil
	}
	if p.flags&Escapes != 0 {
		if c, ok := p.control(r); ok {
			return p.char(c), nil
		}
	}
	return p.char(r), nil
}

// control decodes \n, \t, \xHH, \oNNN, \dNNN and \cX; r has been read.
func (p *parser) control(r rune) (rune, bool) {
	digits := func(base, width int) (rune, bool) {
		j := p.i
		for j < len(p.s) && j < p.i+width {
			if _, err := strconv.ParseUint(p.s[j:j+1], base, 8); err != nil {
				break
			}
			j++
		}
		n, err := strconv.ParseUint(p.s[p.i:j], base, 32)
		if err != nil {
			return 0, false
		}
		p.i = j
		return rune(n), true
	}
	if i := strings.IndexRune("ntrafv", r); i >= 0 {
		return rune("\n\t\r\a\f\v"[i]), true
	}
	switch r {
	case 'x':
		return digits(16, 2)
	case 'o':
		return digits(8, 3)
	case 'd':
		return digits(10, 3)
	case 'c':
		if p.i < len(p.s) {
			c := p.s[p.i]
			p.i++
			return rune(c&^0x20 ^ 0x40), true
		}
	}
	return 0, false
}

func (p *parser) perlEscape(r rune) (*node, error) {
	class := func(s []rune, neg bool) (*node, error) {
		return &node{op: opSet, set: &set{ranges: s, neg: neg}, fold: p.fold}, nil
	}
	switch r {
	case 'd':
		return class(digitSet, false)
	case 'D':
		return class(digitSet, true)
	case 'h':
		return class(blankSet, false)
	case 'H':
		return class(blankSet, true)
	case 'v', 'R':
		return class(vertSet, false)
	case 'N':
		return &node{op: opAny, neg: true}, nil
	case 'A':
		return &node{op: opBegin}, nil
	case 'z':
		return &node{op: opEnd}, nil
	case 'Z':
		return &node{op: opEndNL}, nil
	case 'K':
		p.backtrack = true
		return &node{op: opKeep}, nil
	case 'Q':
		text, rest, _ := strings.Cut(p.s[p.i:], `\E`)
		p.i = len(p.s) - len(rest)
		cat := &node{op: opCat}
		for _, c := range text {
			cat.subs = append(cat.subs, p.char(c))
		}
		return cat, nil
	case 'E':
		return nil, nil
	case 'e':
		return p.char(27), nil
	case '0':
		return p.char(0), nil
	case 'k', 'g':
		if p.i < len(p.s) {
			open := p.s[p.i]
			if end := strings.IndexAny(p.s[p.i+1:], ">}'"); strings.IndexByte("<{'", open) >= 0 && end >= 0 {
				name := p.s[p.i+1 : p.i+1+end]
				p.i += end + 2
				g, ok := p.names[name]
				if n, err := strconv.Atoi(name); err == nil {
					g, ok = n, n > 0 && n <= p.groups
				}
				if !ok {
					return nil, errBackref
				}
				p.backtrack = true
				return &node{op: opBackref, group: g, fold: p.fold}, nil
			}
			if r == 'g' && '1' <= open && open <= '9' && int(open-'0') <= p.groups {
				p.i++
				p.backtrack = true
				return &node{op: opBackref, group: int(open - '0'), fold: p.fold}, nil
			}
		}
		return nil, errBackref
	case 'x':
		if p.i < len(p.s) && p.s[p.i] == '{' {
			if end := strings.IndexByte(p.s[p.i:], '}'); end > 0 {
				if n, err := strconv.ParseUint(p.s[p.i+1:p.i+end], 16, 21); err == nil {
					p.i += end + 1
					return p.char(rune(n)), nil
				}
			}
			return nil, errors.New("invalid escape sequence")
		}
	case 'p', 'P':
		return nil, errors.New("Unicode properties are not supported")
	}
	if c, ok := p.control(r); ok && r != 'o' && r != 'd' {
		return p.char(c), nil
	}
	return p.char(r), nil
}

// bracket parses what follows [.
func (p *parser) bracket() (*node, error) {
	s := &set{}
	if p.i < len(p.s) && p.s[p.i] == '^' {
		s.neg = true
		p.i++
	}
	for first := true; ; first = false {
		if p.i >= len(p.s) {
			return nil, errBracket
		}
		c := p.s[p.i]
		if c == ']' && !first {
			p.i++
			break
		}
		if name, ok := strings.CutPrefix(p.s[p.i:], "[:"); ok {
			if end := strings.Index(name, ":]"); end >= 0 {
				ranges, ok := posixClass(name[:end])
				if !ok {
					return nil, errClass
				}
				s.ranges = append(s.ranges, ranges...)
				p.i += end + 4
				continue
			}
			if p.syntax != Perl { // to Perl it is two characters
				return nil, errBracket
			}
		}
		if p.bracketClass(s) {
			continue
		}
		lo, err := p.bracketChar()
		if err != nil {
			return nil, err
		}
		hi := lo
		if strings.HasPrefix(p.s[p.i:], "-") && !strings.HasPrefix(p.s[p.i:], "-]") && p.i+1 < len(p.s) {
			p.i++
			if hi, err = p.bracketChar(); err != nil {
				return nil, err
			}
			if hi < lo {
				return nil, errRange
			}
		}
		s.add(lo, hi)
	}
	return &node{op: opSet, set: s, fold: p.fold}, nil
}

// bracketClass takes \w, \d and so on inside brackets, where Perl has them.
func (p *parser) bracketClass(s *set) bool {
	if p.syntax != Perl || p.s[p.i] != '\\' || p.i+1 >= len(p.s) {
		return false
	}
	var ranges []rune
	c := p.s[p.i+1]
	switch c | 0x20 {
	case 'w':
		ranges = wordSet
	case 'd':
		ranges = digitSet
	case 's':
		ranges = spaceSet
	case 'h':
		ranges = blankSet
	default:
		return false
	}
	p.i += 2
	if c < 'a' {
		s.not = append(s.not, &set{ranges: ranges})
	} else {
		s.ranges = append(s.ranges, ranges...)
	}
	return true
}

func (p *parser) bracketChar() (rune, error) {
	if strings.HasPrefix(p.s[p.i:], "[.") || strings.HasPrefix(p.s[p.i:], "[=") {
		if end := strings.Index(p.s[p.i+2:], p.s[p.i+1:p.i+2]+"]"); end > 0 {
			r, _ := utf8.DecodeRuneInString(p.s[p.i+2:])
			p.i += end + 4
			return r, nil
		}
		if p.syntax != Perl {
			return 0, errBracket
		}
	}
	r, n := utf8.DecodeRuneInString(p.s[p.i:])
	if r == '\\' && p.i+1 < len(p.s) && (p.syntax == Perl || p.flags&Escapes != 0) {
		c, n := utf8.DecodeRuneInString(p.s[p.i+1:])
		save := p.i
		p.i += 1 + n
		if v, ok := p.control(c); ok && !(p.syntax != Perl && strings.ContainsRune("dc", c)) {
			return v, nil
		}
		if p.syntax == Perl {
			return c, nil
		}
		if c == ']' || c == '\\' {
			p.i = save
			p.i++
			return '\\', nil
		}
		p.i = save
	}
	if p.i >= len(p.s) {
		return 0, errBracket
	}
	p.i += n
	return r, nil
}

func posixClass(name string) ([]rune, bool) {
	i := slices.Index([]string{"alpha", "digit", "alnum", "upper", "lower", "space", "blank", "punct", "print", "graph", "cntrl", "xdigit", "word"}, name)
	if i < 0 {
		return nil, false
	}
	return [][]rune{
		{'A', 'Z', 'a', 'z', 0xaa, 0xaa, 0xb5, 0xb5, 0xba, 0xba, 0xc0, 0xd6, 0xd8, 0xf6, 0xf8, 0x2c1, 0x370, 0x373, 0x376, 0x377, 0x37b, 0x37d, 0x386, 0x386, 0x388, 0x481, 0x48a, 0x556, 0x561, 0x587, 0x5d0, 0x5ea, 0x620, 0x64a, 0x904, 0x939, 0xe01, 0xe30, 0x10a0, 0x10ff, 0x1e00, 0x1fff, 0x3041, 0x3096, 0x30a1, 0x30fa, 0x3400, 0x4dbf, 0x4e00, 0x9fff, 0xac00, 0xd7a3},
		digitSet,
		{'0', '9', 'A', 'Z', 'a', 'z', 0xaa, 0xaa, 0xb5, 0xb5, 0xba, 0xba, 0xc0, 0xd6, 0xd8, 0xf6, 0xf8, 0x2c1, 0x370, 0x373, 0x376, 0x377, 0x37b, 0x37d, 0x386, 0x386, 0x388, 0x481, 0x48a, 0x556, 0x561, 0x587, 0x5d0, 0x5ea, 0x620, 0x64a, 0x1e00, 0x1fff, 0x3041, 0x3096, 0x30a1, 0x30fa, 0x4e00, 0x9fff, 0xac00, 0xd7a3},
		{'A', 'Z', 0xc0, 0xd6, 0xd8, 0xde, 0x391, 0x3a9, 0x410, 0x42f},
		{'a', 'z', 0xdf, 0xf6, 0xf8, 0xff, 0x3b1, 0x3c9, 0x430, 0x44f},
		spaceSet, blankSet,
		{'!', '/', ':', '@', '[', '`', '{', '~', 0xa1, 0xa9, 0xab, 0xb4, 0xb6, 0xb9, 0xbb, 0xbf, 0x2010, 0x206f, 0x20a0, 0x20bf, 0x2190, 0x2bff, 0x3000, 0x303f},
		{' ', '~', 0xa0, 0x10ffff},
		{'!', '~', 0xa1, 0x10ffff},
		{0, 31, 127, 159},
		{'0', '9', 'A', 'F', 'a', 'f'},
		wordSet,
	}[i], true
}
