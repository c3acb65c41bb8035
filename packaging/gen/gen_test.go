package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/docker"
	"github.com/kilntainers/kilntainers/backends/wasm"
	"github.com/kilntainers/kilntainers/profiles"
)

const sample = `Usage: prog [flags]
       prog COMMAND

Does it.

Commands:
  run-it   run it: now
  stop     stop it

Flags:
  -p, --profile NAME   profile to use
                       (default "x")
      --level LEVEL    low, middle or high (default low)
  --quiet              say nothing

Exit status: 0 or
1.

  prog --quiet

More.
`

func TestParse(t *testing.T) {
	got, err := parse(sample)
	if err != nil {
		t.Fatal(err)
	}
	want := help{
		usage: []string{"prog [flags]", "prog COMMAND"},
		parts: []part{
			{text: "Does it."},
			{heading: "Commands", items: []item{{name: "run-it", text: "run it: now"}, {name: "stop", text: "stop it"}}},
			{heading: "Flags", items: []item{
				{"-p", "--profile", "NAME", `profile to use (default "x")`},
				{"", "--level", "LEVEL", "low, middle or high (default low)"},
				{"", "--quiet", "", "say nothing"},
			}},
			{heading: "Exit status", text: "0 or 1."},
			{example: []string{"prog --quiet"}},
			{text: "More."},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
	flags := got.list("Flags")
	if got, want := flags[1].choices(), []string{"low", "middle", "high"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got choices %q, want %q", got, want)
	}
	if got, want := flags[0].brief(), "profile to use"; got != want {
		t.Errorf("got brief %q, want %q", got, want)
	}
}

// What cannot be read is an error, and not left out.
func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"prog does it\n",
		"Usage: prog\n\nFlags:\n  -- what is this\n",
		"Usage: prog\n\nCommands:\n   Run it\n",
	} {
		if h, err := parse(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, h)
		}
	}
}

// Nothing in a text is taken for a request of roff's, or for another character.
func TestText(t *testing.T) {
	for in, want := range map[string]string{
		".TH x":     `\&.TH x`,
		"'br":       `\(aqbr`,
		`a\nb -c`:   `a\enb \-c`,
		"[ARG…]":    `[ARG\[u2026]]`,
		"~/.config": `\(ti/.config`,
	} {
		var r roff
		r.text(inline(in))
		if got := r.String(); got != want+"\n" {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got, want := inline("--a-b, see k.toml(5)."), `\fB\-\-a\-b\fR, see \fBk.toml\fR(5).`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The example of kilntainers.toml(5) is good.
func TestExample(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k.toml")
	if err := os.WriteFile(path, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	conf, err := profiles.Load(path, append(backends.Drivers{docker.Driver}, wasm.Drivers(t.TempDir)...))
	if err != nil {
		t.Fatal(err)
	}
	if len(conf.Profiles) != strings.Count(example, "[profiles.") {
		t.Errorf("got %d profiles", len(conf.Profiles))
	}
}
