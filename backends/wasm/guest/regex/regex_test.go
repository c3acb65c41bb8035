package regex

import (
	"fmt"
	"regexp"
	"testing"
)

func TestFind(t *testing.T) {
	for _, tt := range []struct {
		pattern string
		syntax  Syntax
		flags   Flags
		text    string
		want    string // the match and its groups, or "none"
	}{
		{"abc", Basic, 0, "xabcx", "[abc]"},
		{"a*b", Basic, 0, "caab", "[aab]"},
		{"*a", Basic, 0, "x*a", "[*a]"},
		{`\(*a\)`, Basic, 0, "x*a", "[*a *a]"},
		{"a^b$c", Basic, 0, "a^b$c", "[a^b$c]"},
		{`a\{2,3\}`, Basic, 0, "caaaa", "[aaa]"},
		{"a{2}", Basic, 0, "aa a{2}", "[a{2}]"},
		{`a\|bc`, Basic, 0, "xbc", "[bc]"},
		{`a\+b\?`, Basic, 0, "caab", "[aab]"},
		{`\(a*\)b\1`, Basic, 0, "aabaa", "[aabaa aa]"},
		{`\(.\)\1`, Basic, 0, "abccd", "[cc c]"},
		{`^\(.*\)\n\1$`, Basic, Escapes, "x\nx", "[x\nx x]"},
		{"a|ab", Extended, 0, "ab", "[ab]"},
		{"(a|ab)(c|bcd)", Extended, 0, "abcd", "[abcd a bcd]"},
		{"x*", Extended, 0, "abc", "[]"},
		{"a{,2}b", Extended, 0, "aaab", "[aab]"},
		{"[[:digit:]]+", Extended, 0, "ab12", "[12]"},
		{"[]a]+", Extended, 0, "x]a", "[]a]"},
		{"[[.].]x]+", Extended, 0, "a]x", "[]x]"},
		{"[[:]+", Perl, 0, "a[:", "[[:]"},
		{"xa?+*b", Extended, 0, "xaaab", "[xaaab]"},
		{"xa??b", Extended, 0, "xaab xab", "[xab]"},
		{`(.)?*+++0\1$`, Extended, 0, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "none"}, // at once
		{"[^]a]", Extended, 0, "]ab", "[b]"},
		{`[\n]`, Extended, 0, `x\`, `[\]`},
		{`\<b`, Basic, 0, "ab b", "[b]"},
		{`\<[a-z]*\>`, Basic, 0, "  word ", "[word]"},
		{`o\>`, Basic, 0, "of o", "[o]"},
		{`\bfoo\b`, Extended, 0, "a foo", "[foo]"},
		{"É", Extended, IgnoreCase, "é", "[é]"},
		{"^b", Extended, MultiLine, "a\nb", "[b]"},
		{"(?<=a)b", Perl, 0, "bab", "[b]"},
		{"(?<!a)b", Perl, 0, "abb", "[b]"},
		{"a(?=b)", Perl, 0, "acab", "[a]"},
		{`"k":\s*"\K[^"]+`, Perl, 0, `{"k": "v"}`, "[v]"},
		{`(?i)ABC`, Perl, 0, "abc", "[abc]"},
		{`a+?`, Perl, 0, "aaa", "[a]"},
		{`(?<n>.)\k<n>`, Perl, 0, "abb", "[bb b]"},
		{`(a+)+$`, Perl, 0, "aaa", "[aaa aaa]"},
		{`\d{2,}`, Perl, 0, "1 22", "[22]"},
		{"(?>a+)ab", Perl, 0, "aaab", "none"},
		{"nope", Basic, 0, "x", "none"},
	} {
		re, err := Compile(tt.pattern, tt.syntax, tt.flags)
		if err != nil {
			t.Errorf("%q: %v", tt.pattern, err)
			continue
		}
		got := "none"
		if m := re.Find([]byte(tt.text)); m != nil {
			var l []string
			for i := 0; i < len(m); i += 2 {
				if m[i] < 0 {
					l = append(l, "-")
				} else {
					l = append(l, tt.text[m[i]:m[i+1]])
				}
			}
			got = fmt.Sprint(l)
		}
		if got != tt.want {
			t.Errorf("%q in %q: got %v, want %v", tt.pattern, tt.text, got, tt.want)
		}
	}
}

func TestAll(t *testing.T) {
	for _, tt := range []struct{ pattern, text, want string }{
		{"x*", "abc", "[[0 0] [1 1] [2 2] [3 3]]"},
		{"b*", "abbc", "[[0 0] [1 3] [4 4]]"},
		{"a", "aXa", "[[0 1] [2 3]]"},
		{`\(.\)\1*`, "aab", "[[0 2 0 1] [2 3 2 3]]"},
	} {
		re, err := Compile(tt.pattern, Basic, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(re.All([]byte(tt.text), -1)); got != tt.want {
			t.Errorf("%q in %q: got %v, want %v", tt.pattern, tt.text, got, tt.want)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		pattern string
		syntax  Syntax
		want    string
	}{
		{`\(a`, Basic, `Unmatched ( or \(`},
		{"(a", Extended, `Unmatched ( or \(`},
		{"[a", Basic, "Unmatched [, [^, [:, [., or [="},
		{"[b-a]", Basic, "Invalid range end"},
		{`a\`, Basic, "Trailing backslash"},
		{`\1`, Basic, "Invalid back reference"},
		{`a\{1`, Basic, `Unmatched { or \{`},
		{"[[:]", Extended, "Unmatched [, [^, [:, [., or [="},
		{"[[:]]", Basic, "Unmatched [, [^, [:, [., or [="},
		{"[[.]", Basic, "Unmatched [, [^, [:, [., or [="},
		{"[a[=]", Extended, "Unmatched [, [^, [:, [., or [="},
		{"[[::]]", Basic, "Invalid character class name"},
		{"[[:nope:]]", Basic, "Invalid character class name"},
	} {
		if _, err := Compile(tt.pattern, tt.syntax, 0); err == nil || err.Error() != tt.want {
			t.Errorf("%q: got %v, want %v", tt.pattern, err, tt.want)
		}
	}
}

// FuzzCompile wants every pattern to be refused or to match without a panic,
// and extended ones that Go also understands to match at the same place.
func FuzzCompile(f *testing.F) {
	for _, s := range []string{"a*b", `\(a\)\1`, "[[:alpha:]]+", "(a|b){2,3}", `\<x\>`, "(?<=a)b", "^$", "[]-a]", "[[.a.]-c[:]"} {
		f.Add(s, "aab x ab")
	}
	repeats := regexp.MustCompile(`[*+?{]`)
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 30 || len(text) > 30 {
			return
		}
		for _, s := range []Syntax{Basic, Extended, Perl} {
			re, err := Compile(pattern, s, 0)
			if err != nil {
				continue
			}
			if re.std == nil && len(repeats.FindAllString(pattern, -1)) > 3 {
				continue // its time has no bound
			}
			m := re.Find([]byte(text))
			if m != nil && (m[0] < 0 || m[1] < m[0] || m[1] > len(text)) {
				t.Fatalf("%q in %q: %v", pattern, text, m)
			}
			if s == Extended && regexp.MustCompile(`^[a-z.]*$`).MatchString(pattern) {
				std := regexp.MustCompile("(?s)" + pattern).FindStringIndex(text)
				if (std == nil) != (m == nil) || std != nil && std[0] != m[0] {
					t.Fatalf("%q in %q: got %v, want %v", pattern, text, m, std)
				}
			}
		}
	})
}
