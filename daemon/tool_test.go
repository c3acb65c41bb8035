package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/profiles"
)

// testProfile has the defaults of the interface.
func testProfile() *profiles.Profile {
	return &profiles.Profile{
		Name: "python", Backend: "fake", Timeout: 120 * time.Second, MaxTimeout: time.Hour, SessionTimeout: 300 * time.Second,
		OutputLimit: 2 << 20, OnLimit: profiles.OnLimitDiscard, Result: profiles.ResultJSON, Binding: profiles.BindingAuto,
		Driver: backends.Driver{Name: "fake", Describe: func(backends.Spec, backends.Options) string { return "A sandbox." }},
	}
}

func TestParseInput(t *testing.T) {
	p := testProfile()
	good := func(mod func(*input)) input {
		in := input{command: "ls", timeout: p.Timeout}
		mod(&in)
		return in
	}
	for name, c := range map[string]struct {
		raw  string
		want input
	}{
		"command":              {`{"command":"ls"}`, good(func(*input) {})},
		"args":                 {`{"args":["ls","-l",""]}`, good(func(in *input) { in.command, in.args = "", []string{"ls", "-l", ""} })},
		"all":                  {`{"command":"ls","stdin":"x","working_directory":"/tmp","timeout":5}`, good(func(in *input) { in.stdin, in.dir, in.timeout = "x", "/tmp", 5*time.Second })},
		"nulls are absent":     {`{"command":"ls","args":null,"stdin":null,"working_directory":null,"timeout":null}`, good(func(*input) {})},
		"empties are absent":   {`{"command":"ls","args":[],"stdin":"","working_directory":""}`, good(func(in *input) { in.args = []string{} })},
		"empty command beside": {`{"command":"","args":["ls"]}`, good(func(in *input) { in.command, in.args = "", []string{"ls"} })},
		"whole float":          {`{"command":"ls","timeout":5.0}`, good(func(in *input) { in.timeout = 5 * time.Second })},
		"largest timeout":      {`{"command":"ls","timeout":3600}`, good(func(in *input) { in.timeout = time.Hour })},
		"smallest timeout":     {`{"command":"ls","timeout":1}`, good(func(in *input) { in.timeout = time.Second })},
		"largest stdin":        {fmt.Sprintf(`{"command":"ls","stdin":%q}`, strings.Repeat("x", 2<<20)), good(func(in *input) { in.stdin = strings.Repeat("x", 2<<20) })},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseInput(json.RawMessage(c.raw), p, false)
			if err != nil {
				t.Fatalf("got error %v", err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// The texts are part of the interface: models act on them.
func TestParseInputRefuses(t *testing.T) {
	for name, c := range map[string]struct{ raw, want string }{
		"both":               {`{"command":"ls","args":["ls"]}`, "Cannot provide both 'command' and 'args'. Use 'command' for shell commands or 'args' for direct execution."},
		"neither":            {`{}`, "Must provide either 'command' or 'args'."},
		"nothing at all":     {``, "Must provide either 'command' or 'args'."},
		"null":               {`null`, "Must provide either 'command' or 'args'."},
		"only empties":       {`{"command":"","args":[]}`, "Must provide either 'command' or 'args'."},
		"relative directory": {`{"command":"ls","working_directory":"tmp/x"}`, "working_directory must be an absolute path, got: tmp/x"},
		"zero timeout":       {`{"command":"ls","timeout":0}`, "timeout must be at least 1 second."},
		"negative timeout":   {`{"command":"ls","timeout":-3}`, "timeout must be at least 1 second."},
		"half a second":      {`{"command":"ls","timeout":0.5}`, "timeout must be at least 1 second."},
		"a second and half":  {`{"command":"ls","timeout":1.5}`, "timeout must be a whole number of seconds."},
		"long timeout":       {`{"command":"ls","timeout":3601}`, "timeout must be at most 3600 seconds here. Start longer work in the background (nohup … &) and look at it with later calls."},
		"huge timeout":       {`{"command":"ls","timeout":1e300}`, "timeout must be at most 3600 seconds here. Start longer work in the background (nohup … &) and look at it with later calls."},
		"timeout as text":    {`{"command":"ls","timeout":"5"}`, "timeout must be a whole number of seconds."},
		"much stdin":         {fmt.Sprintf(`{"command":"ls","stdin":%q}`, strings.Repeat("x", 2<<20+1)), "stdin content exceeds the 2 MiB limit (2097153 bytes). Split into smaller chunks or use a different approach."},
		"bytes count":        {fmt.Sprintf(`{"command":"ls","stdin":%q}`, strings.Repeat("é", 1<<20+1)), "stdin content exceeds the 2 MiB limit (2097154 bytes). Split into smaller chunks or use a different approach."},
		"unknown field":      {`{"command":"ls","cwd":"/"}`, `Unknown argument "cwd". sandbox_exec takes command, args, stdin, working_directory, timeout.`},
		"wrong case":         {`{"Command":"ls"}`, `Unknown argument "Command". sandbox_exec takes command, args, stdin, working_directory, timeout.`},
		"sandbox_id":         {`{"command":"ls","sandbox_id":"x"}`, `Unknown argument "sandbox_id". sandbox_exec takes command, args, stdin, working_directory, timeout.`},
		"command type":       {`{"command":7}`, "command must be a string."},
		"args type":          {`{"args":"ls -l"}`, "args must be an array of strings."},
		"args element":       {`{"args":["ls",1]}`, "args must be an array of strings."},
		"no object":          {`["ls"]`, "The arguments must be one JSON object."},
		"NUL in command":     {`{"command":"a\u0000b"}`, "command must not contain NUL bytes. Pass binary data with the stdin parameter."},
		"NUL in args":        {`{"args":["a\u0000b"]}`, "args must not contain NUL bytes. Pass binary data with the stdin parameter."},
		"NUL in directory":   {`{"command":"ls","working_directory":"/a\u0000"}`, "working_directory must not contain NUL bytes. Pass binary data with the stdin parameter."},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseInput(json.RawMessage(c.raw), testProfile(), false)
			if err == nil || err.Error() != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestParseInputTakesSandboxID(t *testing.T) {
	in, err := parseInput(json.RawMessage(`{"command":"ls","sandbox_id":"abc"}`), testProfile(), true)
	if err != nil || in.sandboxID != "abc" {
		t.Errorf("got %q, %v, want abc", in.sandboxID, err)
	}
}

// FuzzParseInput: whatever a client sends is either refused in words or is a
// call that keeps every rule.
func FuzzParseInput(f *testing.F) {
	for _, s := range []string{`{"command":"ls"}`, `{"args":["a"],"timeout":1e9}`, `{"stdin":"\ud800"}`, `{"command":null`, `[]`, `{"timeout":1e400}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p := testProfile()
		in, err := parseInput(raw, p, true)
		if err != nil {
			var no refusal
			if !errors.As(err, &no) || err.Error() == "" {
				t.Fatalf("got error %#v, want a refusal", err)
			}
			return
		}
		if (in.command == "") == (len(in.args) == 0) || in.timeout < time.Second || in.timeout > p.MaxTimeout || len(in.stdin) > maxStdin || strings.Contains(in.command, "\x00") {
			t.Fatalf("accepted %+v", in)
		}
	})
}

func TestCaptureLimit(t *testing.T) {
	c := newCapture(10, true)
	write := func(s *stream, text string) error { _, err := s.Write([]byte(text)); return err }
	if err := write(&c.stdout, "12345"); err != nil {
		t.Fatal(err)
	}
	if err := write(&c.stderr, "12345"); err != nil { // exactly the limit is fine
		t.Fatal(err)
	}
	if err := write(&c.stdout, "6"); !errors.Is(err, errOutputLimit) {
		t.Fatalf("got %v, want %v", err, errOutputLimit)
	}
	if err := write(&c.stderr, ""); !errors.Is(err, errOutputLimit) {
		t.Fatalf("after the limit: got %v, want %v", err, errOutputLimit)
	}
	if len(c.stdout.buf)+len(c.stderr.buf) != 0 {
		t.Error("discarded output is kept in memory")
	}
}

func TestHeadAndTail(t *testing.T) {
	for _, c := range []struct {
		text  string
		limit int64
		max   int64
		want  string
	}{
		{"short", 100, 50, "short"},
		{"0123456789", 100, 4, "01\n[kilntainers: 6 of 10 bytes of stdout left out here]\n89"},
		{"0123456789", 9, 8, "0123\n[kilntainers: 2 of 10 bytes of stdout left out here]\n6789"},
		{"ééééé", 100, 6, "é\n[kilntainers: 4 of 10 bytes of stdout left out here]\néé"},
	} {
		s := &newCapture(c.limit, false).stdout
		_, _ = s.Write([]byte(c.text))
		if got := s.headAndTail(c.max); got != c.want {
			t.Errorf("%q in %d: got %q, want %q", c.text, c.max, got, c.want)
		}
	}
}

// FuzzHeadAndTail: the counts always add up, and no character is split.
func FuzzHeadAndTail(f *testing.F) {
	f.Add([]byte("0123456789"), int64(4), int64(20))
	f.Add([]byte("é\xffé€"), int64(3), int64(2))
	f.Fuzz(func(t *testing.T, b []byte, max, limit int64) {
		if max < 0 || max > 1<<20 || limit < 0 || limit > 1<<20 {
			return
		}
		c := newCapture(limit, false)
		for half := len(b) / 2; len(b) > 0; half = len(b) {
			_, _ = c.stdout.Write(b[:half])
			b = b[half:]
		}
		got := c.stdout.headAndTail(max)
		if head, rest, cut := strings.Cut(got, "\n[kilntainers: "); cut {
			var omitted, seen int64
			if _, err := fmt.Sscanf(rest, "%d of %d", &omitted, &seen); err != nil {
				return // the output itself has such a line
			}
			_, tail, _ := strings.Cut(rest, "here]\n")
			if int64(len(head)+len(tail))+omitted != seen {
				t.Fatalf("%d shown + %d omitted of %d: %q", len(head)+len(tail), omitted, seen, got)
			}
		}
		if utf8.Valid(c.stdout.buf) && !utf8.ValidString(got) {
			t.Fatalf("a character was split: %q", got)
		}
	})
}

func TestResult(t *testing.T) {
	o := output{Stdout: "<é\xff>", Stderr: "", ExitCode: 3, DurationMS: 7}
	const want = `{"stdout":"<é�>","stderr":"","exit_code":3,"exec_duration_ms":7}`
	res := o.result(profiles.ResultJSON)
	text := res.Content[0].(*mcp.TextContent).Text
	if text != want {
		t.Errorf("text: got %s, want %s", text, want)
	}
	if got := res.StructuredContent.(json.RawMessage); !bytes.Equal(got, []byte(want)) {
		t.Errorf("structured: got %s, want %s", got, want)
	}
	o.Stderr, o.SandboxID, o.Notice, o.oom = "oops", "ABC", "new", true
	plain := o.result(profiles.ResultText)
	if got, want := plain.Content[0].(*mcp.TextContent).Text, "<é�>\n[stderr]\noops\n[notice: new]\n[sandbox_id: ABC]\n[exit code 3, out of memory, 7 ms]"; got != want {
		t.Errorf("plain: got %q, want %q", got, want)
	}
	if plain.StructuredContent != nil {
		t.Error("a text result has structured content, which clients would show instead")
	}
}

func TestDescription(t *testing.T) {
	p := testProfile()
	got := description(p, backends.Spec{}, false)
	for _, want := range []string{"A sandbox.", "120 seconds", "up to 3600", "2 MiB", "unused for 300s", "not returned"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
	if strings.Contains(got, "sandbox_id") {
		t.Error("sandbox_id is mentioned where it is not offered")
	}
	if !strings.Contains(description(p, backends.Spec{}, true), "sandbox_id") {
		t.Error("sandbox_id is not mentioned where it is offered")
	}
	p.ExtendedToolInstruction = "Be brief."
	if !strings.HasSuffix(description(p, backends.Spec{}, false), "\n\nBe brief.") {
		t.Error("the extension does not follow a blank line")
	}
	p.ExtendedToolInstruction, p.ToolInstructionOverride = "", "Only this."
	if got := description(p, backends.Spec{}, true); got != "Only this." {
		t.Errorf("got %q, want the override alone", got)
	}
}

// The schemas are written by hand; they must be JSON that says the same as
// the parser.
func TestInputSchema(t *testing.T) {
	for _, withID := range []bool{false, true} {
		var schema struct {
			Properties           map[string]any
			AdditionalProperties *bool
		}
		if err := json.Unmarshal(inputSchema(testProfile(), withID), &schema); err != nil {
			t.Fatal(err)
		}
		want := 5
		if withID {
			want = 6
		}
		if len(schema.Properties) != want || schema.AdditionalProperties == nil || *schema.AdditionalProperties {
			t.Errorf("withID %v: got %d properties, additional %v", withID, len(schema.Properties), schema.AdditionalProperties)
		}
		if !json.Valid(outputSchema(withID)) {
			t.Error("the output schema is not JSON")
		}
		for name := range schema.Properties {
			if name == "command" {
				continue // it is in every call below
			}
			_, err := parseInput(json.RawMessage(fmt.Sprintf(`{"command":"ls",%q:null}`, name)), testProfile(), withID)
			if err != nil {
				t.Errorf("%s is in the schema, and refused: %v", name, err)
			}
		}
	}
}
