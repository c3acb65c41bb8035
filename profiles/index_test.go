package profiles

import (
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// Each line of the file that holds a key ends in a comment with all the paths
// that index must know there.
const indexed = `# comment = "not a key"

top = 1                                   #: top
[profiles.a] # [not.a.table]              #: profiles profiles.a
text = """
[not.a.header]
not = "a key" ""\"""" # x                 #: profiles.a.text@5
lit = '''
x = 1 \''''                               #: profiles.a.lit@8
"quoted = key" = "= [ { # \" } ]"         #: profiles.a."quoted = key"
'lit.eral' = '[{"' # '"                   #: profiles.a."lit.eral"
dotted . "k.e.y" . x = 1.5                #: profiles.a.dotted profiles.a.dotted."k.e.y" profiles.a.dotted."k.e.y".x
list = [ # ]
  "a", 'b', # "                           #: profiles.a.list[0] profiles.a.list[1]
  ["c", { d = "}" }],                     #: profiles.a.list[2] profiles.a.list[2][0] profiles.a.list[2][1] profiles.a.list[2][1].d
  { e = [ { f = 1 } ], g.h = 2 },         #: profiles.a.list[3] profiles.a.list[3].e profiles.a.list[3].e[0] profiles.a.list[3].e[0].f profiles.a.list[3].g profiles.a.list[3].g.h
]                                         #: profiles.a.list@13
inline = { x = 1, "y z" = { q = [] } }    #: profiles.a.inline profiles.a.inline.x profiles.a.inline."y z" profiles.a.inline."y z".q
empty = {}                                #: profiles.a.empty
after = 1979-05-27T07:32:00Z              #: profiles.a.after
[[ profiles . "a" . disks ]]              #: profiles.a.disks profiles.a.disks[0]
size = 1                                  #: profiles.a.disks[0].size
[profiles.a.disks.opts]                   #: profiles.a.disks[0].opts
x = 1                                     #: profiles.a.disks[0].opts.x
	[[profiles.a.disks]]                  #: profiles.a.disks[1]
	size = 2                              #: profiles.a.disks[1].size
["]".x]                                   #: "]" "]".x
"" = 1                                    #: "]".x.""
é = 1`

func TestIndex(t *testing.T) {
	src, _ := strings.CutSuffix(indexed, "\né = 1") // bare keys are ASCII
	want := map[string]int{}
	for i, line := range strings.Split(src, "\n") {
		_, paths, ok := strings.Cut(line, "#: ")
		if !ok {
			continue
		}
		for _, p := range regexp.MustCompile(`("[^"]*"|[^\s"])+`).FindAllString(paths, -1) {
			p, at, ok := strings.Cut(p, "@")
			n := i + 1
			if ok {
				n = map[string]int{"5": 5, "8": 8, "13": 13}[at]
			}
			want[p] = n
		}
	}
	for name, src := range map[string]string{
		"LF":   src,
		"CRLF": strings.ReplaceAll(src, "\n", "\r\n"),
		"BOM":  "\xef\xbb\xbf" + src,
	} {
		t.Run(name, func(t *testing.T) {
			var v map[string]any
			md, err := toml.Decode(src, &v)
			if err != nil {
				t.Fatal(err)
			}
			got := index(src, md)
			for _, p := range slices.Sorted(maps.Keys(want)) {
				if got[p] != want[p] {
					t.Errorf("%s: got line %d, want %d", p, got[p], want[p])
				}
			}
			for p := range got {
				if want[p] == 0 {
					t.Errorf("%s: unexpected, line %d", p, got[p])
				}
			}
		})
	}
}

// FuzzIndex holds index against the decoder: both know the same keys, and
// outside of arrays each has the line on which the decoder finds it.
func FuzzIndex(f *testing.F) {
	f.Add(indexed)
	f.Add("a.b = {c = [{}, {d = 1}],\n# x\ne = 2,\n}\n[x]\n[x.y]\n'z'=\"\"\n")
	item := regexp.MustCompile(`\[\d+\]`)
	f.Fuzz(func(t *testing.T, src string) {
		var v map[string]toml.Primitive
		md, err := toml.Decode(src, &v)
		if err != nil {
			return
		}
		lines := index(src, md)
		known := map[string]bool{}
		for p := range lines {
			known[item.ReplaceAllString(p, "")] = true
		}
		// The decoder takes the place of an empty key for that of its table.
		empty := slices.ContainsFunc(md.Keys(), func(k toml.Key) bool { return slices.Contains(k, "") })
		for _, k := range md.Keys() {
			if !known[item.ReplaceAllString(k.String(), "")] {
				t.Errorf("%v has no line", k)
			}
			want := decodersLine(src, md, v, k)
			if got := lines[k.String()]; !empty && want > 0 && got != want {
				t.Errorf("%v: got line %d, want %d", k, got, want)
			}
		}
	})
}

// decodersLine returns the line on which the decoder says that k has its
// value, or 0 when it does not know: it tells only in the error of an
// Unmarshaler, and finds nothing in arrays.
func decodersLine(src string, md toml.MetaData, v map[string]toml.Primitive, k toml.Key) int {
	for i := range k {
		if typ := md.Type(k[:i+1]...); typ == "ArrayHash" || typ == "Array" && i < len(k)-1 {
			return 0
		}
		if i == len(k)-1 {
			break
		}
		p := v[k[i]]
		v = nil
		if err := md.PrimitiveDecode(p, &v); err != nil {
			return 0
		}
	}
	p, ok := v[k[len(k)-1]]
	if !ok {
		return 0
	}
	var pe toml.ParseError
	if !errors.As(md.PrimitiveDecode(p, new(refuser)), &pe) || pe.Position.Line == 0 {
		return 0
	}
	return 1 + strings.Count(withoutBOM(src)[:pe.Position.Start], "\n")
}

// A refuser takes no value.
type refuser struct{}

func (*refuser) UnmarshalTOML(any) error { return errors.New("no") }
