package mcptest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/backendtest"
)

// The five arguments that every client sees, and the sixth that is offered
// where nothing else can tie calls together.
var (
	arguments       = []string{"command", "args", "stdin", "working_directory", "timeout"}
	withSandboxID   = append(slices.Clone(arguments), "sandbox_id")
	waysToTheDaemon = []string{"http", "stdio"}
)

// making is what a sandbox reports while it is made, slowly enough that the
// client has time to hear it.
func making(w *world) {
	w.fake.SetFaults(backendtest.Faults{
		CreateDelay: 300 * time.Millisecond,
		Progress:    []backends.Progress{{Message: "pulling fake", Done: 1, Total: 2}},
	})
}

// A result is sandbox_exec's.
type result struct {
	Stdout    string `json:"stdout"`
	ExitCode  int    `json:"exit_code"`
	SandboxID string `json:"sandbox_id"`
	Notice    string `json:"notice"`
}

// TestTypeScript has a session through each of the TypeScript SDKs, in each
// era that it speaks, over HTTP and through the shim.
func TestTypeScript(t *testing.T) {
	n := needNode(t)
	for _, sdk := range []string{"v1", "v2", "v2-auto"} {
		for _, kind := range waysToTheDaemon {
			t.Run(sdk+" "+kind, func(t *testing.T) {
				w := start(t)
				making(w)
				saw := session(t, n, w, sdk, kind)

				// Without a session the sandbox waits for its id to come again.
				sessionless := sdk == "v2-auto" && kind == "http"
				wantArguments, wantSession, wantLive := arguments, kind == "http", 0
				if sessionless {
					wantArguments, wantSession, wantLive = withSandboxID, false, 1
				}
				if want := []string{"sandbox_exec"}; !slices.Equal(saw.Tools, want) {
					t.Errorf("tools are %q, want %q", saw.Tools, want)
				}
				if !slices.Equal(saw.Arguments, wantArguments) {
					t.Errorf("its arguments are %q, want %q", saw.Arguments, wantArguments)
				}
				if !strings.Contains(saw.Description, "A fake sandbox") {
					t.Errorf("its description is %q; want the backend's in it", saw.Description)
				}
				if !slices.ContainsFunc(saw.Progress, func(m string) bool { return strings.Contains(m, "pulling fake") }) {
					t.Errorf("progress was %q; want what the backend reported", saw.Progress)
				}
				if want := saw.First.Stdout + "kept\n"; saw.Again.Stdout != want || saw.First.Stdout == "" {
					t.Errorf("the second call wrote %q, want %q: the same sandbox, with its file", saw.Again.Stdout, want)
				}
				if got := saw.First.SandboxID != ""; got != sessionless {
					t.Errorf("the first call returned sandbox_id: %v, want %v", got, sessionless)
				}
				var asText result
				if err := json.Unmarshal([]byte(saw.Text), &asText); err != nil || asText != saw.Again {
					t.Errorf("the text is %s (%v), want the structured content %+v", saw.Text, err, saw.Again)
				}
				if !saw.Wrong.IsError || !strings.Contains(saw.Wrong.Text, "comand") {
					t.Errorf("a call with an unknown argument gave %+v; want an error that names it", saw.Wrong)
				}
				if saw.AfterAbort.Stdout != saw.First.Stdout {
					t.Errorf("after the abort the sandbox is %q, want %q as before", saw.AfterAbort.Stdout, saw.First.Stdout)
				}
				if kind == "http" && (saw.Session != "") != wantSession {
					t.Errorf("the session id is %q; want one: %v", saw.Session, wantSession)
				}
				if n := w.fake.Created(); n != 1 {
					t.Errorf("%d sandboxes were made, want 1", n)
				}
				eventually(t, "the sandbox ends with its session", func() bool { return w.fake.Live() == wantLive })
			})
		}
	}
}

// A report is what node/session.mjs saw.
type report struct {
	Tools       []string
	Arguments   []string
	Description string
	Progress    []string
	First       result
	Again       result
	Text        string
	Wrong       struct {
		IsError bool
		Text    string
	}
	Aborted    string
	AfterAbort result
	Session    string
}

// session runs node/session.mjs, and looks into the sandbox when it has
// aborted a call.
func session(t *testing.T, n node, w *world, sdk, kind string) (saw report) {
	t.Helper()
	cmd := n.command(t, "session.mjs", append([]string{sdk}, w.way(kind)...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(stdout)
	if line, _ := out.ReadString('\n'); line == "aborted\n" {
		eventually(t, "the abort ends the command", func() bool { return len(w.fake.Running()) == 0 })
		if n := w.fake.Live(); n != 1 {
			t.Errorf("after the abort there are %d sandboxes, want 1", n)
		}
	}
	stdin.Close()
	rest, _ := io.ReadAll(out)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("session.mjs: %v\n%s%s", err, rest, stderr.String())
	}
	if err := json.Unmarshal(rest, &saw); err != nil {
		t.Fatalf("session.mjs wrote %q: %v", rest, err)
	}
	return saw
}

// TestInspector looks at the tool and calls it with the MCP Inspector, in each
// era, over HTTP and through the shim. --strict wants a schema that every
// model's API takes.
func TestInspector(t *testing.T) {
	n := needNode(t)
	w := start(t)
	for _, era := range []string{"legacy", "modern", "auto"} {
		for _, kind := range waysToTheDaemon {
			t.Run(era+" "+kind, func(t *testing.T) {
				// The server's command line ends where the Inspector's flags begin.
				server := w.shim
				if kind == "http" {
					server = []string{"--transport", "http", "--server-url", w.url}
				}
				args := append([]string{"--cli", "-q", "--format", "json", "--protocol-era", era}, server...)

				stdout, stderr, status := n.run(t, "mcp-inspector", append(args, "--method", "tools/list", "--strict")...)
				if status != 0 || !strings.Contains(stdout, `"sandbox_exec"`) {
					t.Errorf("tools/list: exit %d; want 0 and sandbox_exec\n%s%s", status, stdout, stderr)
				}
				stdout, stderr, status = n.run(t, "mcp-inspector", append(args, "--method", "tools/call", "--tool-name", "sandbox_exec", "--tool-arg", "command=echo $((6*7)) >&2; echo fired")...)
				if status != 0 || !strings.Contains(stdout, "fired") {
					t.Errorf("tools/call: exit %d; want 0 and the command's output\n%s%s", status, stdout, stderr)
				}
			})
		}
	}
}

// TestGoSDK has a session through the Go SDK's client, in both eras, over HTTP
// and through the shim.
func TestGoSDK(t *testing.T) {
	for _, revision := range revisions {
		for _, kind := range waysToTheDaemon {
			t.Run(revision+" "+kind, func(t *testing.T) {
				w := start(t)
				making(w)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()

				var transport mcp.Transport = &mcp.StreamableClientTransport{Endpoint: w.url}
				if kind == "stdio" {
					transport = &mcp.CommandTransport{Command: exec.Command(w.shim[0], w.shim[1:]...)}
				}
				progress := make(chan string, 100)
				client := mcp.NewClient(&mcp.Implementation{Name: "mcptest", Version: "1"}, &mcp.ClientOptions{
					ProgressNotificationHandler: func(_ context.Context, req *mcp.ProgressNotificationClientRequest) { progress <- req.Params.Message },
				})
				cs, err := client.Connect(ctx, transport, &mcp.ClientSessionOptions{ProtocolVersion: revision})
				if err != nil {
					t.Fatal(err)
				}
				if got := cs.InitializeResult().ProtocolVersion; got != revision {
					t.Errorf("the daemon speaks %s, want %s", got, revision)
				}

				first := call(ctx, t, cs, map[string]any{"command": "id; echo kept > /tmp/note"})
				again := call(ctx, t, cs, map[string]any{"command": "id; cat /tmp/note", "sandbox_id": first.SandboxID})
				if want := first.Stdout + "kept\n"; again.Stdout != want || first.Stdout == "" {
					t.Errorf("the second call wrote %q, want %q: the same sandbox, with its file", again.Stdout, want)
				}
				select {
				case m := <-progress:
					if !strings.Contains(m, "pulling fake") {
						t.Errorf("progress was %q; want what the backend reported", m)
					}
				case <-ctx.Done():
					t.Error("no progress came while the sandbox was made")
				}

				callCtx, abort := context.WithCancel(ctx)
				aborted := make(chan error, 1)
				go func() {
					_, err := cs.CallTool(callCtx, params(map[string]any{"command": "sleep 300", "sandbox_id": first.SandboxID}))
					aborted <- err
				}()
				eventually(t, "the command runs", func() bool { return len(w.fake.Running()) == 1 })
				abort()
				if err := <-aborted; err == nil {
					t.Error("the aborted call returned a result")
				}
				eventually(t, "the abort ends the command", func() bool { return len(w.fake.Running()) == 0 })

				wantLive := 0
				if first.SandboxID != "" {
					wantLive = 1
				}
				if err := cs.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
				eventually(t, "the sandbox ends with its session", func() bool { return w.fake.Live() == wantLive })
			})
		}
	}
}

// params is a call of sandbox_exec; an empty argument is not sent.
func params(args map[string]any) *mcp.CallToolParams {
	for name, value := range args {
		if value == "" {
			delete(args, name)
		}
	}
	p := &mcp.CallToolParams{Name: "sandbox_exec", Arguments: args}
	p.SetProgressToken("token")
	return p
}

// call calls sandbox_exec and wants it to succeed.
func call(ctx context.Context, t *testing.T, cs *mcp.ClientSession, args map[string]any) (r result) {
	t.Helper()
	res, err := cs.CallTool(ctx, params(args))
	if err != nil {
		t.Fatal(err)
	}
	text := res.Content[0].(*mcp.TextContent).Text
	if err := json.Unmarshal([]byte(text), &r); err != nil || res.IsError || r.ExitCode != 0 {
		t.Fatalf("calling with %v gave %s (%v)", args, text, err)
	}
	return r
}
