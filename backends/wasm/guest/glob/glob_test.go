package glob

import (
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"*.go", "a.go", true},
		{"*.go", "a.c", false},
		{"a?c", "abc", true},
		{"a?c", "aéc", true},
		{"[a-c]x", "bx", true},
		{"[!a]x", "ax", false},
		{"[^a]x", "bx", true},
		{"[]a]", "]", true},
		{"[a", "[a", true},
		{"[[:digit:]x]", "7", true},
		{"[[:digit:]x]", "y", false},
		{"[[:]", "[", true}, // no class: a set of [ and :
		{"[[:]]", ":]", true},
		{"[[:nothing:]]", "n", false},
		{"[[.a.]b]", "a", true},
		{`[\]]`, "]", true},
		{`\*`, "*", true},
		{`\*`, "a", false},
		{`\`, `\`, true},
		{"*a*b*", "xxaybz", true},
		{"*/b", "a/.c/b", true},
		{"", "", true},
		{"*", "", true},
		{"?", "", false},
		{"?", "\xff", true},
		{"\xff", "\xff", true},
		{"@(a)", "@(a)", true},
		{"A", "a", false},
	} {
		if got := (Matcher{}).Match(tt.pattern, tt.name); got != tt.want {
			t.Errorf("%q, %q: got %v, want %v", tt.pattern, tt.name, got, tt.want)
		}
	}
}

func TestMatchFold(t *testing.T) {
	for _, pattern := range []string{"FILE", "[E-G]ile", "f*E", "FÏLE"} {
		name := "File"
		if pattern == "FÏLE" {
			name = "fïle"
		}
		if !(Matcher{Fold: true}).Match(pattern, name) {
			t.Errorf("%q does not match %q", pattern, name)
		}
	}
}

func TestMatchExtended(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"@(a|bc)d", "bcd", true},
		{"@(a|bc)d", "abcd", false},
		{"?(a)b", "b", true},
		{"*(ab)c", "ababc", true},
		{"+(ab)c", "c", false},
		{"!(*.go)", "a.c", true},
		{"!(*.go)", "a.go", false},
		{"@([|]|b)", "|", true},
		{"@(a|@(b|c))", "c", true},
		{"@(a", "@(a", true}, // not closed
		{"*(", "a(", true},
		{"*(", "a", false},
	} {
		if got := (Matcher{Extended: true}).Match(tt.pattern, tt.name); got != tt.want {
			t.Errorf("%q, %q: got %v, want %v", tt.pattern, tt.name, got, tt.want)
		}
	}
}

// FuzzMatch holds that nothing ends a match but its answer, that a name quoted
// matches itself, and that a pattern without groups is the same to both kinds.
func FuzzMatch(f *testing.F) {
	f.Add("*[a-z]?\\", "abc", false)
	f.Add("[[:]0]", "0", true)
	f.Add("*(a|!(b))[[=c=]-d]", "aac", true)
	f.Fuzz(func(t *testing.T, p, s string, fold bool) {
		if strings.Count(p, "(") > 2 || len(s) > 20 {
			return // exponential
		}
		plain := Matcher{Fold: fold}.Match(p, s)
		if extended := (Matcher{Fold: fold, Extended: true}).Match(p, s); extended != plain && !strings.Contains(p, "(") {
			t.Errorf("%q, %q: got %v with groups, %v without", p, s, extended, plain)
		}
		quoted := make([]byte, 0, 2*len(s))
		for i := range len(s) {
			if s[i] < 0x80 {
				quoted = append(quoted, '\\')
			}
			quoted = append(quoted, s[i])
		}
		if !(Matcher{Fold: fold, Extended: true}).Match(string(quoted), s) {
			t.Errorf("%q does not match %q", quoted, s)
		}
	})
}
