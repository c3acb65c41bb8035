package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/rogpeppe/go-internal/testscript"
)

// The stories in testdata/script run the real program against a daemon that
// they script themselves: what /-/status, /-/check, /-/reload and /-/cleanup answer are
// files of the story.
//
//	-- reload.http --
//	422 Unprocessable Entity
//
//	{"ok":false,"problems":["k.toml:3: …"]}
//
// exec meets an MCP server with one tool, [tool].

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kilntainers": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			socket := filepath.Join(env.WorkDir, "k.sock")
			ln, err := net.Listen("unix", socket)
			if err != nil {
				return err
			}
			srv := &http.Server{Handler: fakeDaemon(env.WorkDir)}
			served := make(chan struct{})
			go func() {
				defer close(served)
				srv.Serve(ln)
			}()
			env.Defer(func() {
				srv.Close()
				<-served
			})
			env.Setenv("KILNTAINERS_SOCKET", socket)
			env.Setenv("TZ", "UTC")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// waitfor FILE waits until the fake daemon has written it.
			"waitfor": func(ts *testscript.TestScript, neg bool, args []string) {
				for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
					if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
						return
					}
					if time.Now().After(end) {
						ts.Fatalf("%s does not come", args[0])
					}
				}
			},
			// stale SOCKET leaves a socket to which nobody listens.
			"stale": func(ts *testscript.TestScript, neg bool, args []string) {
				ln, err := net.Listen("unix", ts.MkAbs(args[0]))
				ts.Check(err)
				ln.(*net.UnixListener).SetUnlinkOnClose(false)
				ts.Check(ln.Close())
			},
		},
	})
}

// fakeDaemon answers from the files of dir.
func fakeDaemon(dir string) http.Handler {
	file := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			content, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				http.Error(w, "this story has no "+name, http.StatusNotImplemented)
				return
			}
			head, body, _ := strings.Cut(string(content), "\n\n")
			var status int
			fmt.Sscan(head, &status)
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /-/status", file("status.http"))
	mux.Handle("POST /-/check", file("check.http"))
	mux.Handle("POST /-/reload", file("reload.http"))
	mux.Handle("POST /-/cleanup", file("cleanup.http"))
	mux.HandleFunc("GET /stdio/{profile}", func(w http.ResponseWriter, r *http.Request) {
		profile := r.PathValue("profile")
		if profile == "nope" {
			http.Error(w, "unknown profile \"nope\"; this daemon has: default, text\x1b[2J", http.StatusNotFound)
			return
		}
		if r.Header.Get("Upgrade") != "kilntainers-stdio/1" {
			http.Error(w, "not an upgrade", http.StatusUpgradeRequired)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: kilntainers-stdio/1\r\nKilntainers-Resume: x\r\n\r\n")
		srv := mcp.NewServer(&mcp.Implementation{Name: "fake"}, nil)
		srv.AddTool(&mcp.Tool{Name: "sandbox_exec", InputSchema: json.RawMessage(`{"type":"object"}`)},
			func(ctx context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				return tool(ctx, req, dir, profile == "text")
			})
		srv.Run(context.Background(), &mcp.IOTransport{Reader: stream{bufio.NewReader(rw), conn}, Writer: conn})
	})
	return mux
}

// tool does what the story asks for with its command.
func tool(ctx context.Context, req *mcp.CallToolRequest, dir string, text bool) (*mcp.CallToolResult, error) {
	var in struct {
		Command string
		Args    []string
		Stdin   string
		Timeout int
	}
	if err := json.Unmarshal(req.Params.Arguments, &in); err != nil {
		return nil, err
	}
	out := map[string]any{"stdout": "", "stderr": "", "exit_code": 0, "exec_duration_ms": 1}
	switch {
	case in.Command == "show" || in.Args != nil:
		out["stdout"] = string(req.Params.Arguments) + "\n"
	case in.Command == "cat":
		out["stdout"] = in.Stdin
	case in.Command == "both":
		out["stdout"], out["stderr"], out["exit_code"] = "to stdout\n", "to stderr\n", 7
	case in.Command == "slow":
		out["stderr"], out["exit_code"] = "working\n[kilntainers: command timed out after 5s]", 124
	case in.Command == "notice":
		out["notice"] = "This is a new sandbox."
	case in.Command == "fail":
		return &mcp.CallToolResult{IsError: true, Content: []mcp.Content{&mcp.TextContent{Text: "the sandbox could not be made"}}}, nil
	case in.Command == "odd":
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "what?"}}}, nil
	case in.Command == "progress":
		token := req.Params.GetProgressToken()
		out["stdout"] = fmt.Sprintf("token %v\n", token)
		if token != nil {
			req.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: token, Progress: 1, Message: "pulling \x1b[31mimage"})
		}
	case in.Command == "hang":
		os.WriteFile(filepath.Join(dir, "running"), nil, 0o600)
		<-ctx.Done()
		os.WriteFile(filepath.Join(dir, "cancelled"), nil, 0o600)
		return nil, ctx.Err()
	}
	if text {
		plain := fmt.Sprintf("%s[stderr]\n%s[exit code %d, out of memory, 12 ms]", out["stdout"], out["stderr"], out["exit_code"])
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: plain}}}, nil
	}
	raw, err := json.Marshal(out)
	return &mcp.CallToolResult{StructuredContent: json.RawMessage(raw), Content: []mcp.Content{&mcp.TextContent{Text: string(raw)}}}, err
}
