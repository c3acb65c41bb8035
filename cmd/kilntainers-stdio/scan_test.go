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
		{`[{"id":1,"method":"a"},{"id":2,"result":{}}, 7, "x", [{"id":3}], {"method":"b"}]`, `1 a; 2 answer;  b`},
		{`[{"id":1,"method":"a","params":[{"id":9}]}`, `1 a`},
		{`{"id":true,"method":7}`, ``},
		{`{"id":[1],"method":{"method":"x"}}`, ``},
		{`{"a":1 "id":2}`, `2`},
		{``, ``}, {`null`, ``}, {`"x"`, ``}, {`}`, ``}, {`]`, ``}, {`{`, ``}, {`[`, ``}, {`{"`, ``}, {`{"id`, ``}, {`{"id"`, ``}, {`{"id":`, ``},
		{`{"id":"`, ``}, {`{"id":"\`, ``}, {`{"id":"\"`, ``}, {`{"id":1`, ``}, {`{"id":"1"`, ``}, {`{:1}`, ``}, {`{,,,}`, ``}, {`[[[[`, ``}, {`[}]`, ``},
	} {
		var got []string
		scan([]byte(test.line), func(m message) {
			s := string(m.id) + " " + string(m.method)
			switch {
			case m.failed:
				s = string(m.id) + " failed"
			case m.answer:
				s = string(m.id) + " answer"
			}
			got = append(got, strings.TrimSuffix(s, " "))
		})
		if s := strings.Join(got, "; "); s != test.want {
			t.Errorf("%s: got %q, want %q", test.line, s, test.want)
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

// FuzzScan compares with encoding/json whatever that accepts, and asks for
// nothing but an end of the rest.
func FuzzScan(f *testing.F) {
	for _, s := range []string{toolsCall("1"), result(`"x"`), initialize, `[` + result("1") + `,` + initialized + `]`, `{"id":"\u0041\ud83d\ude00","method":"a"}`, `{"error":{},"id":-1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var got []message
		scan(line, func(m message) { got = append(got, m) })
		for _, m := range got {
			key(m.id)
		}
		want, ok := reference(line)
		if !ok {
			return
		}
		if len(got) != len(want) {
			t.Fatalf("%d messages, want %d", len(got), len(want))
		}
		for i, g := range got {
			if w := want[i]; string(g.id) != string(w.id) || string(g.method) != string(w.method) || g.answer != w.answer {
				t.Errorf("message %d: id %q, method %q, answer %v; want %q, %q, %v", i, g.id, g.method, g.answer, w.id, w.method, w.answer)
			}
			if len(g.id) > 0 && g.id[0] == '"' {
				var s string
				if err := json.Unmarshal(g.id, &s); err == nil && key(g.id) != `"`+s+`"` && !strings.Contains(s, "\ufffd") {
					t.Errorf("key(%q) = %q, want %q", g.id, key(g.id), s)
				}
			}
		}
	})
}

// reference is what encoding/json finds, if the line is clear: valid JSON,
// no key of interest twice or escaped, each message a request or an answer.
func reference(line []byte) (all []message, clear bool) {
	if !json.Valid(line) {
		return nil, false
	}
	var batch []json.RawMessage
	if json.Unmarshal(line, &batch) != nil || batch == nil {
		batch = []json.RawMessage{line}
	}
	isBatch := len(bytes.TrimSpace(line)) > 0 && bytes.TrimSpace(line)[0] == '['
	for _, raw := range batch {
		var fields map[string]json.RawMessage
		if json.Unmarshal(raw, &fields) != nil || fields == nil {
			if !isBatch {
				all = append(all, message{})
			}
			continue
		}
		for _, name := range []string{"id", "method", "result", "error"} {
			if n := bytes.Count(raw, []byte(`"`+name+`"`)); n > 1 || n == 0 && fields[name] != nil {
				return nil, false
			}
		}
		var m message
		if id := fields["id"]; len(id) > 0 && strings.ContainsRune(`"-0123456789`, rune(id[0])) {
			m.id = id
		}
		if method := fields["method"]; len(method) > 0 && method[0] == '"' {
			m.method = method[1 : len(method)-1]
		}
		m.answer = fields["result"] != nil || fields["error"] != nil
		if m.answer && m.method != nil {
			return nil, false
		}
		all = append(all, m)
	}
	return all, true
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
				scan(line, func(m message) {
					if m.id == nil || m.method == nil {
						b.Fatal("not found")
					}
				})
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
