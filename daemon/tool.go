package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/profiles"
)

// The tool: its name, what it takes, what it answers. The texts are those of
// the interface that users know; models have learned from them what to do.
const (
	toolName = "sandbox_exec"
	maxStdin = 2 << 20
)

var errTimeout = errors.New("command timed out")

// input is what a call asks for, checked.
type input struct {
	command   string
	args      []string
	stdin     string
	dir       string
	timeout   time.Duration
	sandboxID string
}

// A refusal is why a call is not run, in words for the model.
type refusal string

func (r refusal) Error() string { return string(r) }

func refuse(format string, args ...any) error { return refusal(fmt.Sprintf(format, args...)) }

// parseInput reads a call's arguments. null and empty mean absent; unknown
// fields are refused by name. withID says that sandbox_id is offered. Its
// errors are shown to the model as they are.
func parseInput(raw json.RawMessage, p *profiles.Profile, withID bool) (input, error) {
	in := input{timeout: p.Timeout}
	fields := map[string]json.RawMessage{}
	if len(bytes.TrimSpace(raw)) > 0 {
		if err := json.Unmarshal(raw, &fields); err != nil {
			return in, refuse("The arguments must be one JSON object.")
		}
	}
	known := []string{"command", "args", "stdin", "working_directory", "timeout"}
	if withID {
		known = append(known, "sandbox_id")
	}
	var seconds float64
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		var to any
		var want string
		switch name {
		case "command":
			to, want = &in.command, "a string"
		case "args":
			to, want = &in.args, "an array of strings"
		case "stdin":
			to, want = &in.stdin, "a string"
		case "working_directory":
			to, want = &in.dir, "a string"
		case "timeout":
			to, want = &seconds, "a whole number of seconds"
		case "sandbox_id":
			to, want = &in.sandboxID, "a string"
		}
		if to == nil || !slices.Contains(known, name) {
			return in, refuse("Unknown argument %q. %s takes %s.", name, toolName, strings.Join(known, ", "))
		}
		if err := json.Unmarshal(fields[name], to); err != nil {
			return in, refuse("%s must be %s.", name, want)
		}
	}
	switch {
	case in.command != "" && len(in.args) > 0:
		return in, refuse("Cannot provide both 'command' and 'args'. Use 'command' for shell commands or 'args' for direct execution.")
	case in.command == "" && len(in.args) == 0:
		return in, refuse("Must provide either 'command' or 'args'.")
	case in.dir != "" && !strings.HasPrefix(in.dir, "/"):
		return in, refuse("working_directory must be an absolute path, got: %s", in.dir)
	}
	if raw, given := fields["timeout"]; given && string(raw) != "null" {
		switch {
		case seconds < 1:
			return in, refuse("timeout must be at least 1 second.")
		case seconds != math.Trunc(seconds):
			return in, refuse("timeout must be a whole number of seconds.")
		case seconds > p.MaxTimeout.Seconds():
			return in, refuse("timeout must be at most %d seconds here. Start longer work in the background (nohup … &) and look at it with later calls.", int64(p.MaxTimeout.Seconds()))
		}
		in.timeout = time.Duration(seconds) * time.Second
	}
	if len(in.stdin) > maxStdin {
		return in, refuse("stdin content exceeds the 2 MiB limit (%d bytes). Split into smaller chunks or use a different approach.", len(in.stdin))
	}
	for name, values := range map[string][]string{"command": {in.command}, "args": in.args, "working_directory": {in.dir}} {
		for _, v := range values {
			if strings.ContainsRune(v, 0) {
				return in, refuse("%s must not contain NUL bytes. Pass binary data with the stdin parameter.", name)
			}
		}
	}
	return in, nil
}

// output is the answer of a call that ran, exactly as models see it.
type output struct {
	Stdout     string `json:"stdout"`
	Stderr     string `json:"stderr"`
	ExitCode   int    `json:"exit_code"`
	DurationMS int64  `json:"exec_duration_ms"`
	SandboxID  string `json:"sandbox_id,omitempty"`
	Notice     string `json:"notice,omitempty"`

	oom, timedOut, overLimit bool // for the exit line of text results, and for metrics
}

// execute runs a checked call in a sandbox under the profile's limits. The
// error is not nil only when there is nothing to tell the model about the
// command: the sandbox is gone, or the call was cancelled.
func execute(ctx context.Context, sb backends.Sandbox, in input, p *profiles.Profile) (output, error) {
	limit := p.OutputLimit
	c := newCapture(limit, p.OnLimit == "discard")
	e := backends.Exec{Command: in.command, Args: in.args, Dir: in.dir, Stdout: &c.stdout, Stderr: &c.stderr}
	if in.stdin != "" {
		e.Stdin = strings.NewReader(in.stdin)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, in.timeout, errTimeout)
	defer cancel()
	began := time.Now()
	exit, err := sb.Exec(ctx, e)
	out := output{DurationMS: time.Since(began).Milliseconds(), ExitCode: exit.Code, oom: exit.OOM}

	note := ""
	switch {
	case err == nil:
		out.Stdout, out.Stderr = c.stdout.text(), c.stderr.text()
		return out, nil
	case errors.Is(err, errTimeout):
		out.ExitCode, out.timedOut = 124, true
		note = fmt.Sprintf("[kilntainers: command timed out after %ds]", int64(in.timeout.Seconds()))
	case errors.Is(err, errOutputLimit):
		out.ExitCode, out.overLimit = 1, true
		note = fmt.Sprintf("[kilntainers: output limit exceeded (%d bytes). Command terminated. No output returned. Re-run with head, tail, or grep to manage output size.]", limit)
	default:
		return output{}, err
	}
	if c.discard {
		out.Stderr = note
		return out, nil
	}
	// Each stream may show half of the limit, and what the other leaves.
	half := limit / 2
	shown := min(c.stderr.seen, max(half, limit-c.stdout.seen))
	out.Stdout = c.stdout.headAndTail(limit - shown)
	out.Stderr = c.stderr.headAndTail(shown)
	if out.Stderr != "" && !strings.HasSuffix(out.Stderr, "\n") {
		out.Stderr += "\n"
	}
	out.Stderr += note
	return out, nil
}

// result writes an output as MCP sends it: the JSON object as text and as
// structured content, or plain text with an exit line.
func (o output) result(form string) *mcp.CallToolResult {
	if form == "text" {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: o.plain()}}}
	}
	o.Stdout, o.Stderr = validUTF8(o.Stdout), validUTF8(o.Stderr)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(o) // strings and integers always encode
	raw := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	return &mcp.CallToolResult{
		Content:           []mcp.Content{&mcp.TextContent{Text: string(raw)}},
		StructuredContent: json.RawMessage(raw),
	}
}

// plain is the output for models: stdout, stderr behind a heading, and how it
// ended on the last line.
func (o output) plain() string {
	var b strings.Builder
	line := func(s string) {
		b.WriteString(s)
		if s != "" && !strings.HasSuffix(s, "\n") {
			b.WriteByte('\n')
		}
	}
	line(o.Stdout)
	if o.Stderr != "" {
		b.WriteString("[stderr]\n")
		line(o.Stderr)
	}
	if o.Notice != "" {
		line("[notice: " + o.Notice + "]")
	}
	if o.SandboxID != "" {
		line("[sandbox_id: " + o.SandboxID + "]")
	}
	why := ""
	if o.oom {
		why = ", out of memory"
	}
	fmt.Fprintf(&b, "[exit code %d%s, %d ms]", o.ExitCode, why, o.DurationMS)
	return validUTF8(b.String())
}

// validUTF8 puts U+FFFD in place of each byte that is not part of a character.
func validUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// failure is a call that could not be run. Models see the text alone.
func failure(format string, args ...any) *mcp.CallToolResult {
	return &mcp.CallToolResult{IsError: true, Content: []mcp.Content{&mcp.TextContent{Text: fmt.Sprintf(format, args...)}}}
}

// description is the text of the tool: what the sandbox is, how to call it
// and what limits hold, then the profile's own words; or those alone.
func description(p *profiles.Profile, spec backends.Spec, withID bool) string {
	if p.ToolInstructionOverride != "" {
		return p.ToolInstructionOverride
	}
	var b strings.Builder
	b.WriteString(p.Driver.Describe(spec, p.Options))
	fmt.Fprintf(&b, "\n\nEach call is independent: no shell variables or working directory carry over. Use working_directory, or chain commands with &&. To write files or pass data without shell escaping, use stdin (for example command=\"cat > file.txt\" with the content in stdin)."+
		"\n\nLimits: a command is stopped after %d seconds (timeout asks for another limit, up to %d); stdout and stderr together may be %s; stdin may be 2 MiB.",
		int64(p.Timeout.Seconds()), int64(p.MaxTimeout.Seconds()), byteCount(p.OutputLimit))
	if p.OnLimit == "discard" {
		b.WriteString(" Past a limit the command is killed and its output is not returned.")
	} else {
		b.WriteString(" Past a limit the command is killed, and the head and tail of its output are returned.")
	}
	if p.SessionTimeout > 0 {
		fmt.Fprintf(&b, " A sandbox that is unused for %s is destroyed with its files.", profileDuration(p.SessionTimeout))
	}
	if withID {
		b.WriteString("\n\nThe first call makes a new sandbox and returns its sandbox_id. Pass that sandbox_id in every later call to keep working in the same sandbox, with its files and processes; without it each call gets a new, empty one.")
	}
	if p.ExtendedToolInstruction != "" {
		b.WriteString("\n\n" + p.ExtendedToolInstruction)
	}
	return b.String()
}

func profileDuration(d time.Duration) string { return backends.Duration(d).String() }

// byteCount writes a limit in words for a model.
func byteCount(n int64) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

// tool builds sandbox_exec for a profile. withID adds the sixth argument.
func tool(p *profiles.Profile, spec backends.Spec, withID bool) *mcp.Tool {
	t := &mcp.Tool{
		Name:        toolName,
		Title:       "Run a command in the sandbox",
		Description: description(p, spec, withID),
		InputSchema: inputSchema(p, withID),
		Annotations: &mcp.ToolAnnotations{
			Title:           "Run a command in the sandbox",
			DestructiveHint: new(bool), // what it destroys is its own
			OpenWorldHint:   &spec.Network,
		},
	}
	if p.Result == "json" {
		t.OutputSchema = outputSchema(withID)
	}
	return t
}

// inputSchema is written by hand: the order of its properties is what models
// see, and building it costs nothing at a reload.
func inputSchema(p *profiles.Profile, withID bool) json.RawMessage {
	id := ""
	if withID {
		id = `,
  "sandbox_id": {"type": "string", "description": "The sandbox_id of an earlier result, to run in that same sandbox. Omit it only in the first call."}`
	}
	return json.RawMessage(fmt.Sprintf(`{
 "type": "object",
 "properties": {
  "command": {"type": "string", "description": "Shell command line (mutually exclusive with args)."},
  "args": {"type": "array", "items": {"type": "string"}, "description": "Program and arguments, run directly without a shell (mutually exclusive with command)."},
  "stdin": {"type": "string", "description": "Content for the command's standard input, at most 2 MiB."},
  "working_directory": {"type": "string", "description": "Directory to run in (must be absolute)."},
  "timeout": {"type": "integer", "minimum": 1, "maximum": %d, "description": "Seconds until the command is killed (default %d)."}%s
 },
 "additionalProperties": false
}`, int64(p.MaxTimeout.Seconds()), int64(p.Timeout.Seconds()), id))
}

// outputSchema tells clients what structuredContent holds.
func outputSchema(withID bool) json.RawMessage {
	id := ""
	if withID {
		id = `
  "sandbox_id": {"type": "string", "description": "The new sandbox, to be passed in later calls."},`
	}
	return json.RawMessage(fmt.Sprintf(`{
 "type": "object",
 "properties": {
  "stdout": {"type": "string"},
  "stderr": {"type": "string"},
  "exit_code": {"type": "integer", "description": "The command's exit status; 128+n after signal n; 124 after a timeout."},
  "exec_duration_ms": {"type": "integer"},%s
  "notice": {"type": "string", "description": "What happened to the sandbox, if anything did."}
 },
 "required": ["stdout", "stderr", "exit_code", "exec_duration_ms"]
}`, id))
}
