package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestScan(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		{`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}`, `1 tools/call`},
		{`{"method":"tools/call","params":{"id":2,"method":"x","a":["}",{"id":3}]},"jsonrpc":"2.0","id":"a b"}`, `"a b" tools/call`},
		{` { "id" : -1.5e3 , "method" : "ping" } ` + "\r\n", `-1.5e3 ping`},
		{`{"method":"notifications/initialized"}`, ` notifications/initialized`},
		{`{"id":null,"method":"x"}`, ` x`},
		{`{"id":1,"result":{"id":2,"method":"x"}}`, `1 answer`},
		{`{"result":{"id":2,"error":1},"id":1}`, `1 answer`},
		{`{"id":1,"error":{"code":1}}`, `1 failed`},
		{`{"error":{"code":1},"id":"\"\\"}`, `"\"\\" failed`},
		{`{"id":"a\\","method":"b\"c"}`, `"a\\" b\"c`},
		{`[{"id":1,"method":"a"}]`, ``},
		{`{"id":true,"method":7}`, ``},
		{`{"id":[1],"method":{"method":"x"}}`, ``},
		{`{"a":1 "id":2}`, `2`},
		{``, ``}, {`null`, ``}, {`"x"`, ``}, {`}`, ``}, {`]`, ``}, {`{`, ``}, {`[`, ``}, {`{"`, ``}, {`{"id`, ``}, {`{"id"`, ``}, {`{"id":`, ``},
		{`{"id":"`, ``}, {`{"id":"\`, ``}, {`{"id":"\"`, ``}, {`{"id":1`, ``}, {`{"id":"1"`, ``}, {`{:1}`, ``}, {`{,,,}`, ``}, {`[[[[`, ``}, {`[}]`, ``},
	} {
		m := scan([]byte(test.line))
		got := string(m.id) + " " + string(m.method)
		switch {
		case m.failed:
			got = string(m.id) + " failed"
		case m.answer:
			got = string(m.id) + " answer"
		}
		if got = strings.TrimSuffix(got, " "); got != test.want {
			t.Errorf("%s: got %q, want %q", test.line, got, test.want)
		}
	}
}

func TestKey(t *testing.T) {
	for _, test := range []struct{ id, want string }{
		{`1`, `1`}, {`"a"`, `"a"`}, {`"a\u003cb"`, `"a<b"`}, {`"\ud83d\ude00"`, `"😀"`}, {`"\ud83d"`, "\"\ufffd\""}, {`"\ud83dx\u00e4"`, "\"\ufffdxä\""},
		{`"\"\\\/\b\f\n\r\t"`, "\"\"\\/\b\f\n\r\t\""},
	} {
		if got := key([]byte(test.id)); got != test.want {
			t.Errorf("key(%s) = %q, want %q", test.id, got, test.want)
		}
	}
}

// FuzzScan compares with encoding/json what that accepts, and asks for nothing
// but an end of the rest.
func FuzzScan(f *testing.F) {
	for _, s := range []string{toolsCall("1"), result(`"x"`), initialize, `[` + result("1") + `]`, `{"id":"\u0041\ud83d\ude00","method":"a"}`, `{"error":{},"id":-1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		got := scan(line)
		key(got.id)
		var fields map[string]json.RawMessage
		if json.Unmarshal(line, &fields) != nil {
			return
		}
		for _, name := range []string{"id", "method", "result", "error"} {
			if n := bytes.Count(line, []byte(`"`+name+`"`)); n > 1 || n == 0 && fields[name] != nil {
				return // twice, or escaped: scan need not agree
			}
		}
		var want message
		if id := fields["id"]; len(id) > 0 && strings.ContainsRune(`"-0123456789`, rune(id[0])) {
			want.id = id
		}
		if method := fields["method"]; len(method) > 0 && method[0] == '"' {
			want.method = method[1 : len(method)-1]
		}
		want.answer = fields["result"] != nil || fields["error"] != nil
		if want.answer && want.method != nil {
			return // neither a request nor an answer
		}
		if string(got.id) != string(want.id) || string(got.method) != string(want.method) || got.answer != want.answer {
			t.Errorf("id %q, method %q, answer %v; want %q, %q, %v", got.id, got.method, got.answer, want.id, want.method, want.answer)
		}
		var text string
		if json.Unmarshal(got.id, &text) == nil && key(got.id) != `"`+text+`"` && !strings.Contains(text, "\ufffd") {
			t.Errorf("key(%q) = %q, want %q", got.id, key(got.id), text)
		}
	})
}

// A line full of quotes and backslashes costs what a plain one costs.
func BenchmarkScan(b *testing.B) {
	for name, text := range map[string]string{
		"small":       "echo hi",
		"1MiB":        strings.Repeat("x", 1<<20),
		"1MiBescaped": strings.Repeat(`\"`, 1<<19),
		"1MiBslashes": strings.Repeat(`\\`, 1<<19),
	} {
		line := []byte(`{"method":"tools/call","params":{"name":"sandbox_exec","arguments":{"stdin":"` + text + `"}},"jsonrpc":"2.0","id":1}`)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				if m := scan(line); m.id == nil || m.method == nil {
					b.Fatal("not found")
				}
			}
		})
	}
}

func TestLines(t *testing.T) {
	long := strings.Repeat("x", 3*bufferStart) + "\n"
	input := "a\n\nbc\n" + long + "d\n" + strings.Repeat("y\n", bufferStart) + "rest"
	for name, from := range map[string]io.Reader{
		"at once":     strings.NewReader(input),
		"by the byte": iotest.OneByteReader(strings.NewReader(input)),
		"by halves":   iotest.HalfReader(strings.NewReader(input)),
	} {
		l := &lines{from: from, max: 4 * bufferStart}
		var got strings.Builder
		n := 0
		for {
			line, err := l.next()
			got.Write(line)
			if err != nil {
				if err != io.EOF || string(line) != "rest" {
					t.Errorf("%s: ended with %q, %v", name, line, err)
				}
				break
			}
			if bytes.IndexByte(line, '\n') != len(line)-1 {
				t.Fatalf("%s: %.50q is not one line", name, line)
			}
			n++
		}
		if got.String() != input || n != bufferStart+5 {
			t.Errorf("%s: %d lines, and the bytes are the same: %v", name, n, got.String() == input)
		}
	}
}

func TestLinesTooLong(t *testing.T) {
	l := &lines{from: strings.NewReader(strings.Repeat("x", 100) + "\nnext\n" + strings.Repeat("y", 16) + "\n"), max: 16}
	if line, err := l.next(); err != errTooLong || string(line) != strings.Repeat("x", 16) {
		t.Errorf("got %q, %v; want 16 bytes and %v", line, err, errTooLong)
	}
	if err := l.skip(); err != nil {
		t.Error(err)
	}
	if line, err := l.next(); err != nil || string(line) != "next\n" {
		t.Errorf("got %q, %v after the long line", line, err)
	}
	if _, err := l.next(); err != errTooLong {
		t.Errorf("16 bytes and a newline: %v, want %v", err, errTooLong)
	}
}

// A buffer that grew for one long line is given back.
func TestLinesShrink(t *testing.T) {
	l := &lines{from: io.MultiReader(strings.NewReader(strings.Repeat("x", 4*bufferKeep)+"\n"), strings.NewReader("a\n")), max: 16 * bufferKeep}
	l.next()
	if line, err := l.next(); err != nil || string(line) != "a\n" || len(l.buf) != bufferStart {
		t.Errorf("got %q, %v, with a buffer of %d bytes; want %d", line, err, len(l.buf), bufferStart)
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nbb\n\nccc"), 3, 2)
	f.Fuzz(func(t *testing.T, input []byte, max, chunk int) {
		if max < 1 || max > 1<<10 || chunk < 1 {
			return
		}
		l := &lines{from: &chunks{input, chunk}, max: max}
		var got, want []string
		for {
			line, err := l.next()
			if err == errTooLong {
				got = append(got, "…")
				err = l.skip()
			} else if len(line) > 0 {
				got = append(got, string(line))
			}
			if err != nil {
				break
			}
		}
		for line := range strings.Lines(string(input)) {
			if len(line) > max || len(line) == max && !strings.HasSuffix(line, "\n") {
				line = "…"
			}
			want = append(want, line)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// chunks reads data in pieces of n bytes.
type chunks struct {
	data []byte
	n    int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.n)], c.data)
	c.data = c.data[n:]
	return n, nil
}
