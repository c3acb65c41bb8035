package mcptest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilntainers/kilntainers/backends/docker"
	"github.com/kilntainers/kilntainers/backends/docker/dockertest"
)

// BenchmarkCall is what the daemon costs: a call of a command that does
// nothing, one after the other, from a client that does no more than write
// and read JSON.
func BenchmarkCall(b *testing.B) {
	b.Run("shim", func(b *testing.B) {
		c := dialShim(b, start(b))
		b.Cleanup(c.close)
		measure(b, func() error { return c.call("true") }, func() {})
	})
	b.Run("HTTP", func(b *testing.B) {
		c := dialHTTP(b, start(b))
		measure(b, func() error { return c.call("true") }, func() {})
	})
}

// BenchmarkDocker is a call all the way: shim, daemon, a container and back.
// x-host is the median divided by that of the same command by fork and exec
// on this machine, turn about.
func BenchmarkDocker(b *testing.B) {
	host := dockertest.Docker(b)
	w := startWith(b, docker.Driver, fmt.Sprintf("backend = \"docker\"\ndocker_host = %q\nimage = %q", host, dockertest.Image(b, host)))
	c := dialShim(b, w)
	b.Cleanup(c.close)
	if err := c.call("true"); err != nil { // makes the container
		b.Fatal(err)
	}
	var here []time.Duration
	there := measure(b, func() error { return c.call("echo hi") }, func() {
		began := time.Now()
		if err := exec.Command("bash", "-c", "echo hi").Run(); err != nil {
			b.Fatal(err)
		}
		here = append(here, time.Since(began))
	})
	slices.Sort(here)
	b.ReportMetric(float64(there)/float64(here[len(here)/2]), "x-host")
}

// BenchmarkStart is what a client waits for when it starts the shim: from the
// start of the process to the answer to initialize.
func BenchmarkStart(b *testing.B) {
	w := start(b)
	var c *line
	measure(b, func() error { c = dialShim(b, w); return nil }, func() { c.close() })
}

// measure runs f and then, not measured, after. It reports what half and what
// nearly all runs of f took at most, and returns the former.
func measure(b *testing.B, f func() error, after func()) time.Duration {
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
		after()
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	b.ReportMetric(0, "ns/op") // it would count after
	b.ReportMetric(p50.Seconds()*1000, "p50-ms")
	b.ReportMetric(p99.Seconds()*1000, "p99-ms")
	return p50
}

const initialize = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}`

// callOf is a call of sandbox_exec.
func callOf(command string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"sandbox_exec","arguments":{"command":%q}}}`, command)
}

// A line is a client on the shim's stdin and stdout.
type line struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// dialShim starts the shim and returns when initialize is answered.
func dialShim(b *testing.B, w *world) *line {
	l := &line{cmd: exec.Command(w.shim[0], w.shim[1:]...)}
	var err error
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		b.Fatal(err)
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	l.out = bufio.NewReader(out)
	if err := l.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	if err := l.ask(initialize); err != nil {
		b.Fatal(err)
	}
	fmt.Fprintln(l.in, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	return l
}

func (l *line) close() {
	_ = l.in.Close()
	_ = l.cmd.Wait()
}

func (l *line) call(command string) error { return l.ask(callOf(command)) }

func (l *line) ask(request string) error {
	if _, err := io.WriteString(l.in, request+"\n"); err != nil {
		return err
	}
	answer, err := l.out.ReadBytes('\n')
	if err != nil {
		return err
	}
	return check(answer)
}

// check wants a result.
func check(answer []byte) error {
	var a struct {
		Result *struct {
			IsError bool `json:"isError"`
		} `json:"result"`
	}
	if err := json.Unmarshal(answer, &a); err != nil || a.Result == nil || a.Result.IsError {
		return fmt.Errorf("the answer is %s", answer)
	}
	return nil
}

// An httpLine is a client over HTTP, in a session.
type httpLine struct {
	url, session string
	client       http.Client
}

func dialHTTP(b *testing.B, w *world) *httpLine {
	l := &httpLine{url: w.url}
	b.Cleanup(l.client.CloseIdleConnections)
	if err := l.post(initialize); err != nil {
		b.Fatal(err)
	}
	return l
}

func (l *httpLine) call(command string) error { return l.post(callOf(command)) }

func (l *httpLine) post(request string) error {
	req, err := http.NewRequest(http.MethodPost, l.url, strings.NewReader(request))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if l.session != "" {
		req.Header.Set("Mcp-Session-Id", l.session)
	}
	res, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if id := res.Header.Get("Mcp-Session-Id"); id != "" {
		l.session = id
	}
	_, data, _ := bytes.Cut(body, []byte("data: ")) // an event stream of one event
	return check(data)
}
