package systemdtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// A client is an MCP client of the machine's daemon, as a user of the machine,
// through the shim.
type client struct {
	m      *machine
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer
	id     int
}

// dial starts a shim and returns when initialize is answered.
func (m *machine) dial(user, args string) *client {
	m.Helper()
	c := &client{m: m, cmd: m.command(user, "exec kilntainers-stdio "+args)}
	c.cmd.Stderr = &c.stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		m.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		m.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		m.Fatal(err)
	}
	m.Cleanup(c.close)
	c.ask("initialize", `{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}`)
	fmt.Fprintln(c.in, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	return c
}

func (c *client) close() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}

// ask sends a request and returns the result.
func (c *client) ask(method, params string) json.RawMessage {
	c.m.Helper()
	c.id++
	if _, err := fmt.Fprintf(c.in, `{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`+"\n", c.id, method, params); err != nil {
		c.m.Fatalf("the shim is gone: %v\n%s", err, c.stderr.String())
	}
	for {
		line, err := c.out.ReadBytes('\n')
		if err != nil {
			c.m.Fatalf("the shim is gone: %v\n%s", err, c.stderr.String())
		}
		var answer struct {
			ID     int
			Result json.RawMessage
		}
		if err := json.Unmarshal(line, &answer); err != nil || answer.ID != 0 && answer.Result == nil {
			c.m.Fatalf("the answer to %s is %s", method, line)
		}
		if answer.ID == c.id { // else a notification
			return answer.Result
		}
	}
}

// call runs a command in the sandbox and returns what it wrote to stdout.
func (c *client) call(command string) string {
	c.m.Helper()
	result := c.ask("tools/call", fmt.Sprintf(`{"name":"sandbox_exec","arguments":{"command":%q}}`, command))
	var r struct {
		IsError           bool
		Content           []struct{ Text string }
		StructuredContent struct {
			Stdout   string
			ExitCode int `json:"exit_code"`
		}
	}
	if err := json.Unmarshal(result, &r); err != nil || r.IsError || r.StructuredContent.ExitCode != 0 {
		c.m.Fatalf("the result of %q is %s", command, result)
	}
	return strings.TrimSuffix(r.StructuredContent.Stdout, "\n")
}
