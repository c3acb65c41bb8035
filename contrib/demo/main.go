// Demo is README's first command: it builds the daemon and the shim, starts
// the daemon in a temporary folder, and does what an MCP client does: start
// the shim, ask for the tools, run commands. It leaves nothing behind.
//
//	go run ./contrib/demo          the profile default: needs nothing but Go
//	go run ./contrib/demo debian   the same in a container: needs Docker
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	profile := "default"
	if len(os.Args) > 1 {
		profile = os.Args[1]
	}
	if err := run(ctx, profile, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// config is what one writes to have a sandbox for everybody: the rest has
// defaults. The profiles are those that there are without any configuration.
// The folders are the demo's own, but what it compiles it keeps.
const config = `
[daemon]
listen = ["unix:%[1]s/kilntainers.sock"]
state_dir = "%[1]s/state"
cache_dir = "%[2]s"

[profiles.default]
backend = "go_busybox"

[profiles.debian]
backend = "docker"
image   = "debian:bookworm-slim"
`

// commands are what the client runs. They share one sandbox.
var commands = []string{
	`for m in clay sand ash feldspar; do echo $m; done > glaze.txt; sort glaze.txt | nl`,
	`wc -l < glaze.txt; uname -so; id -un`,
}

func run(ctx context.Context, profile string, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "kilntainers-demo")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }

	say("Building the daemon and the shim (the first time takes a minute or two) …")
	build := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "./cmd/kilntainersd", "./cmd/kilntainers-stdio")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build: %w", err)
	}

	say("Starting the daemon on a socket in %s …", dir)
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	conf := filepath.Join(dir, "kilntainers.toml")
	if err := os.WriteFile(conf, fmt.Appendf(nil, config, dir, filepath.Join(cache, "kilntainers")), 0o600); err != nil {
		return err
	}
	stopDaemon, err := startDaemon(ctx, dir, conf)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopDaemon()) }()

	say("Connecting as an MCP client does: kilntainers-stdio --profile=%s …", profile)
	shim := exec.Command(filepath.Join(dir, "kilntainers-stdio"), "--profile="+profile, "--socket="+filepath.Join(dir, "kilntainers.sock"))
	shim.Stderr = os.Stderr
	client := mcp.NewClient(&mcp.Implementation{Name: "kilntainers-demo", Version: "1"}, &mcp.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, req *mcp.ProgressNotificationClientRequest) { say("… %s", req.Params.Message) },
	})
	session, err := client.Connect(ctx, &mcp.CommandTransport{Command: shim}, nil)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	tools, err := session.ListTools(ctx, nil)
	if err != nil {
		return fmt.Errorf("list tools: %w", err)
	}
	for _, tool := range tools.Tools {
		say("\nIt offers the tool %s. A model reads:\n  %.150s …\n", tool.Name, tool.Description)
	}
	for _, command := range commands {
		began := time.Now()
		stdout, err := call(ctx, session, command)
		if err != nil {
			return err
		}
		say("$ %s\n%s(%.1f ms)\n", command, stdout, float64(time.Since(began).Microseconds())/1000)
	}
	say("The session ends now, and its sandbox and files with it.")
	say("Next: make build, then start bin/kilntainersd and add bin/kilntainers-stdio to your MCP client; contrib/clients has a configuration for each.")
	return nil
}

// startDaemon runs the daemon and returns once it answers. stop ends it and
// waits.
func startDaemon(ctx context.Context, dir, conf string) (stop func() error, err error) {
	var log strings.Builder
	daemon := exec.Command(filepath.Join(dir, "kilntainersd"), "--config", conf)
	daemon.Stderr = &log
	if err := daemon.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	stop = func() error {
		if err := daemon.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		if err := <-ended; err != nil {
			return fmt.Errorf("the daemon ended: %w\n%s", err, log.String())
		}
		return nil
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "kilntainers.sock")); err == nil {
			return stop, nil
		}
		select {
		case err := <-ended:
			return nil, fmt.Errorf("the daemon did not start: %v\n%s", err, log.String())
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), stop())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// call runs one command in the sandbox and returns what it wrote.
func call(ctx context.Context, session *mcp.ClientSession, command string) (string, error) {
	params := &mcp.CallToolParams{Name: "sandbox_exec", Arguments: map[string]any{"command": command}}
	params.SetProgressToken(command)
	res, err := session.CallTool(ctx, params)
	if err != nil {
		return "", err
	}
	text, ok := res.Content[0].(*mcp.TextContent)
	if !ok {
		return "", fmt.Errorf("running %q gave no text", command)
	}
	var result struct {
		Stdout, Stderr string
		ExitCode       int `json:"exit_code"`
	}
	if res.IsError || json.Unmarshal([]byte(text.Text), &result) != nil || result.ExitCode != 0 {
		return "", fmt.Errorf("running %q gave %s", command, text.Text)
	}
	return result.Stdout, nil
}
