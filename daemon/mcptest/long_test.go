package mcptest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// The largest answer for what a command wrote is that of NUL bytes: 6 bytes for
// each in the result, and 7 in the JSON in its text. It comes through the shim
// whatever output_limit allows, and the sandbox goes on.
func TestNULsThroughTheShim(t *testing.T) {
	const n = 2 << 20 // of stdin, at most
	w := start(t, `output_limit = "6m"`)
	cmd := exec.Command(w.shim[0], w.shim[1:]...)
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
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
	defer cmd.Wait()
	defer in.Close()
	out := bufio.NewReader(stdout)
	send := func(text string) {
		t.Helper()
		if _, err := io.WriteString(in, text+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	// receive returns the answer to the request of that id.
	receive := func(id int) []byte {
		t.Helper()
		for {
			line, err := out.ReadBytes('\n')
			if err != nil {
				t.Fatalf("after %.300q: %v", line, err)
			}
			if bytes.HasPrefix(line, []byte(`{"jsonrpc":"2.0","id":`+strconv.Itoa(id)+`,"result"`)) {
				return line
			}
			if !bytes.HasPrefix(line, []byte(`{"jsonrpc":"2.0","method"`)) {
				t.Fatalf("instead of answer %d: %.300q", id, line)
			}
		}
	}
	exec := func(id int, arguments string) []byte {
		t.Helper()
		send(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"sandbox_exec","arguments":%s}}`, id, arguments))
		return receive(id)
	}

	send(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`)
	receive(1)
	send(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	exec(2, `{"command":"cat > /nul","stdin":"`+strings.Repeat(`\u0000`, n)+`"}`)
	got := exec(3, `{"command":"cat /nul /nul /nul"}`)
	inText := bytes.Count(got, []byte(`\\u0000`))
	if all := bytes.Count(got, []byte(`\u0000`)); inText != 3*n || all != 2*3*n {
		t.Errorf("%d NULs came in the text and %d beside, want %d", inText, all-inText, 3*n)
	}
	exec(4, `{"command":"echo kept > /note"}`)
	if got := exec(5, `{"command":"cat /note"}`); !bytes.Contains(got, []byte(`"stdout":"kept\n"`)) {
		t.Errorf("the sandbox says %s", got)
	}
	if n := w.fake.Created(); n != 1 {
		t.Errorf("%d sandboxes were made", n)
	}
}
