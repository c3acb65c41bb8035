package backendtest

import (
	"bytes"
	"strconv"
	"strings"
)

var cases = []testCase{
	{name: "ExitCodes", run: exitCodes},
	{name: "StreamsApart", run: streamsApart, needs: []Need{Shell}},
	{name: "BinaryBothWays", run: binaryBothWays},
}

// "A command that ran and failed is a nonzero Exit and a nil error."
func exitCodes(c *probe) {
	for _, code := range []int{0, 1, 42, 255} {
		r := c.exec(c.Context(), c.sandbox, c.verb(Exit, strconv.Itoa(code)))
		if !r.ok(code) || r.OOM || r.stdout+r.stderr != "" {
			c.Errorf("exit %d: got %v", code, r)
		}
	}
}

// Stdout and stderr never mix; nomad's driver suite has the same case with 43.
func streamsApart(c *probe) {
	r := c.sh("echo out; echo err >&2; echo out2; exit 43")
	if !r.ok(43) || r.stdout != "out\nout2\n" || r.stderr != "err\n" {
		c.Errorf("got %v", r)
	}
}

// No byte is special in either direction: not NUL, not ^P^Q (an engine's
// detach keys), not an invalid rune, not a missing newline at the end.
func binaryBothWays(c *probe) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	in := strings.Repeat(string(all), 500) + "\x10\x11 no newline"
	e := c.verb(Cat)
	e.Stdin = strings.NewReader(in)
	var out bytes.Buffer
	e.Stdout = &out
	r := c.exec(c.Context(), c.sandbox, e)
	if !r.ok(0) || out.String() != in {
		c.Errorf("%d bytes came back of %d, equal: %t; %v", out.Len(), len(in), out.String() == in, r)
	}
}
