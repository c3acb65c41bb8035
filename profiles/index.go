package profiles

import (
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// index returns the line of every key in src, which is valid TOML, and of
// every table that a key implies. Keys are written as in problems: dotted,
// quoted where TOML needs it, with the position in an array:
//
//	[[profiles.a.disks]]            profiles.a.disks[0] → 1
//	size = "1g"                     profiles.a.disks[0].size → 2
//	opts = ["a",                    profiles.a.disks[0].opts[0] → 3
//	        { x = 2 }]              profiles.a.disks[0].opts[1].x → 4
//
// The decoder tells which keys there are, in the order in which they stand,
// but not where. So all that is left to find is where the next key begins: at
// the start of a line outside of any bracket, after "{", and after "," in an
// inline table.
func index(src string, md toml.MetaData) map[string]int {
	var (
		keys    = md.Keys()
		lines   = make(map[string]int, len(keys))
		implied = make(map[string]int) // tables that have no header, or not yet
		items   = make(map[string]int) // [[array]] → tables so far

		open   []bracket
		last   bracket // the key read last, as if it were an open bracket
		line   = 1
		want   = true  // a key may begin here
		header = false // the last key is that of a [table] or [[array]] header
	)
	note := func(in map[string]int, path string) {
		if in[path] == 0 {
			in[path] = line
		}
	}
	// extend returns the path of key, whose first b.depth parts are b.path.
	extend := func(b bracket, key toml.Key, item bool) bracket {
		for i := b.depth; i < len(key); i++ {
			if b.path != "" {
				b.path += "."
			}
			b.path += key[i : i+1].String()
			in := implied
			if i == len(key)-1 {
				in = lines
			}
			note(in, b.path)
			if item && i == len(key)-1 {
				items[b.path]++
			}
			if n := items[b.path]; n > 0 {
				b.path += "[" + strconv.Itoa(n-1) + "]"
				note(in, b.path)
			}
		}
		b.depth = len(key)
		return b
	}

	for i := len(src) - len(withoutBOM(src)); i < len(src); i++ {
		c := src[i]
		if want && strings.IndexByte(" \t\r\n#}", c) < 0 {
			if len(keys) == 0 {
				break // not valid TOML after all
			}
			var in bracket
			if len(open) > 0 {
				in = open[len(open)-1]
			}
			header = len(open) == 0 && c == '['
			last = extend(in, keys[0], header && strings.HasPrefix(src[i:], "[["))
			keys, want = keys[1:], false
		}
		if n := len(open) - 1; n >= 0 && open[n].kind == '[' && !open[n].begun && strings.IndexByte(" \t\r\n#,]", c) < 0 {
			open[n].begun = true
			note(lines, open[n].itemPath())
		}
		switch c {
		case '\n':
			line++
			want = want || len(open) == 0
		case '#':
			for i+1 < len(src) && src[i+1] != '\n' {
				i++
			}
		case '"', '\'':
			n := quoted(src[i:])
			line += strings.Count(src[i:i+n], "\n")
			i += n - 1
		case '[', '{':
			b := last
			if len(open) > 0 && open[len(open)-1].kind == '[' {
				b = open[len(open)-1]
				b.path = b.itemPath()
			}
			b.kind, b.item, b.begun = c, 0, false
			if header {
				b.kind = 0
			}
			open = append(open, b)
			want = c == '{'
		case ']', '}':
			open = open[:max(0, len(open)-1)]
			want = false
		case ',':
			if len(open) > 0 {
				b := &open[len(open)-1]
				b.item++
				b.begun = false
				want = b.kind == '{'
			}
		}
	}
	for path, n := range implied {
		if lines[path] == 0 {
			lines[path] = n
		}
	}
	return lines
}

// A bracket is an array or inline table that index stands in.
type bracket struct {
	kind  byte   // '[' or '{'; 0 in a header
	path  string // the key whose value it is
	depth int    // parts of that key
	item  int    // commas so far
	begun bool   // something stands after the last of them
}

// itemPath returns the key of the item of an array that index stands in.
func (b bracket) itemPath() string { return b.path + "[" + strconv.Itoa(b.item) + "]" }

// quoted returns the length of the TOML string that s begins with, quotes
// included. It is one of "basic", 'literal', """basic""" and ”'literal”'.
func quoted(s string) int {
	quote := s[:1]
	if strings.HasPrefix(s[1:], quote+quote) {
		quote = s[:3]
	}
	for i := len(quote); i < len(s); i++ {
		switch {
		case s[i] == '\\' && s[0] == '"':
			i++
		case strings.HasPrefix(s[i:], quote):
			i += len(quote)
			// Up to two more quotes belong to the text of a long string.
			for n := 0; len(quote) == 3 && n < 2 && i < len(s) && s[i] == s[0]; n++ {
				i++
			}
			return i
		}
	}
	return len(s)
}

// withoutBOM cuts off the byte order marks that the decoder ignores.
func withoutBOM(s string) string {
	for _, bom := range []string{"\xef\xbb\xbf", "\xff\xfe", "\xfe\xff"} {
		if t, ok := strings.CutPrefix(s, bom); ok {
			return t
		}
	}
	return s
}
