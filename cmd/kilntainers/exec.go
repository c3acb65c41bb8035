package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/spf13/pflag"
)

const (
	maxStdin = 2 << 20 // bytes that a call takes

	statusFailed    = 125 // the command was not run, as docker run has it
	statusCancelled = 130 // Ctrl-C, as shells have it
)

// execFlags are a call's arguments, as flags.
type execFlags struct {
	profile string
	command string
	dir     string
	timeout int
	stdin   bool

	given func(name string) bool // whether the flag was there
}

func execCommand() command {
	var f execFlags
	return command{
		name:     "exec",
		synopsis: "[flags] [--] PROGRAM [ARG…]\n       kilntainers exec [flags] -c 'SHELL COMMAND'",
		summary:  "run a command in a new sandbox of a profile, as an agent would",
		args:     true,
		flags: func(fs *pflag.FlagSet) {
			f.given = fs.Changed
			fs.StringVarP(&f.profile, "profile", "P", "default", "`NAME` of the profile (default \"default\")")
			fs.StringVarP(&f.command, "command", "c", "", "run `TEXT` in the sandbox's shell, instead of a program")
			fs.StringVar(&f.dir, "cwd", "", "`DIR` to run in (must be absolute)")
			fs.IntVar(&f.timeout, "timeout", 0, "kill the command after `N` seconds (default the profile's timeout)")
			fs.BoolVarP(&f.stdin, "stdin", "i", false, "pass standard input on: text, at most 2 MiB, read to its end first")
		},
		detail: `The sandbox is made for this command and destroyed after it. What comes back is
what the tool sandbox_exec gives an agent: stdout and stderr each as a whole at
the end, as text, within the profile's limits. A profile with result = "text"
mixes both into stdout.

Exit status: the command's own; 124 after a timeout; 125 if it was not run; 130
after Ctrl-C; 2 on wrong usage.

  kilntainers exec -P python -- python3 -c 'print(6 * 7)'
  kilntainers exec -c 'ls -la | wc -l'
  tar c . | base64 | kilntainers exec -i -c 'base64 -d | tar t'
`,
		run: func(ctx context.Context, c *cli, args []string) error { return execute(ctx, c, f, args) },
	}
}

// execute calls sandbox_exec once and passes on what comes back.
func execute(ctx context.Context, c *cli, f execFlags, args []string) error {
	params := map[string]any{}
	switch {
	case f.command != "" && len(args) > 0:
		return usageError{"there is -c and a program; give one of them", "exec"}
	case f.command != "":
		params["command"] = f.command
	case len(args) > 0:
		params["args"] = args
	default:
		return usageError{"there is nothing to run: give a program, or -c 'SHELL COMMAND'", "exec"}
	}
	if f.dir != "" {
		params["working_directory"] = f.dir
	}
	if f.given("timeout") {
		if f.timeout < 1 {
			return usageError{"--timeout is a number of seconds, at least 1", "exec"}
		}
		params["timeout"] = f.timeout
	}
	if f.stdin {
		text, err := readStdin(c.stdin)
		if err != nil {
			return exitError{statusFailed, err}
		}
		params["stdin"] = text
	}

	res, err := c.call(ctx, f.profile, params)
	if err != nil {
		if ctx.Err() != nil {
			return exitError{status: statusCancelled}
		}
		return exitError{statusFailed, err}
	}
	if res.IsError {
		return exitError{statusFailed, errors.New(resultText(res))}
	}
	out, err := readOutput(res)
	if err != nil {
		return exitError{statusFailed, err}
	}
	if _, err := io.WriteString(c.stdout, out.Stdout); err != nil {
		return exitError{statusFailed, fmt.Errorf("write output: %w", err)}
	}
	io.WriteString(c.stderr, out.Stderr)
	if killed.MatchString(out.Stderr) {
		fmt.Fprintln(c.stderr) // the daemon's own line has no end
	}
	if out.Notice != "" {
		fmt.Fprintf(c.stderr, "kilntainers: %s\n", out.Notice)
	}
	if out.ExitCode != 0 {
		return exitError{status: out.ExitCode}
	}
	return nil
}

// call makes one MCP call over a connection of its own, whose end is the end
// of the sandbox.
func (c *cli) call(ctx context.Context, profile string, args any) (*mcp.CallToolResult, error) {
	conn, in, err := c.upgrade(ctx, profile)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	options := &mcp.ClientOptions{}
	params := &mcp.CallToolParams{Name: "sandbox_exec", Arguments: args}
	if isTerminal(c.stderr) {
		params.SetProgressToken("1")
		options.ProgressNotificationHandler = func(_ context.Context, req *mcp.ProgressNotificationClientRequest) {
			fmt.Fprintf(c.stderr, "kilntainers: %s\n", printable(req.Params.Message))
		}
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "kilntainers", Version: versionString()}, options)
	session, err := client.Connect(ctx, &mcp.IOTransport{Reader: stream{in, conn}, Writer: conn}, nil)
	if err != nil {
		return nil, fmt.Errorf("start the MCP session: %w", err)
	}
	defer session.Close()
	res, err := session.CallTool(ctx, params)
	if err != nil {
		return nil, fmt.Errorf("call sandbox_exec: %w", err)
	}
	return res, nil
}

// stream reads what was buffered behind the upgrade, and then the connection.
type stream struct {
	*bufio.Reader
	conn net.Conn
}

func (s stream) Close() error { return s.conn.Close() }

// readStdin reads what a call can carry.
func readStdin(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxStdin+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read stdin: %w", err)
	case len(b) > maxStdin:
		return "", errors.New("stdin is longer than the 2 MiB that a call can carry; split it")
	case !utf8.Valid(b):
		return "", errors.New("stdin is not UTF-8 text, and a call can carry nothing else; encode it, as in: base64 FILE | kilntainers exec -i -c 'base64 -d | …'")
	}
	return string(b), nil
}

// output is a result of sandbox_exec.
type output struct {
	Stdout   string `json:"stdout"`
	Stderr   string `json:"stderr"`
	ExitCode int    `json:"exit_code"`
	Notice   string `json:"notice"`
}

// exitLine is the end of a result in text form: [exit code 3, 12 ms].
var exitLine = regexp.MustCompile(`\[exit code (\d+)[^\]\n]*\]$`)

// killed is what the daemon puts at the end of stderr when it stopped a command.
var killed = regexp.MustCompile(`(^|\n)\[kilntainers: [^\n]*\]$`)

// readOutput reads a result in either form.
func readOutput(res *mcp.CallToolResult) (out output, err error) {
	if res.StructuredContent != nil {
		raw, err := json.Marshal(res.StructuredContent)
		if err == nil {
			err = json.Unmarshal(raw, &out)
		}
		if err != nil {
			return out, fmt.Errorf("read the result: %w", err)
		}
		return out, nil
	}
	text := resultText(res)
	at := exitLine.FindStringSubmatchIndex(text)
	if at == nil {
		return out, fmt.Errorf("read the result: it has no exit code: %.200q", text)
	}
	out.Stdout = text[:at[0]]
	out.ExitCode, err = strconv.Atoi(text[at[2]:at[3]])
	return out, err
}

// resultText is what a model would read.
func resultText(res *mcp.CallToolResult) string {
	var b strings.Builder
	for _, content := range res.Content {
		if text, ok := content.(*mcp.TextContent); ok {
			b.WriteString(text.Text)
		}
	}
	return b.String()
}

// isTerminal reports whether somebody watches w.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
