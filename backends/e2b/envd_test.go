package e2b

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
)

// frames returns bytes as a stream of frames, each with its flags.
func frames(messages ...string) []byte {
	var b []byte
	for _, m := range messages {
		b = append(b, m[0]-'0')
		b = binary.BigEndian.AppendUint32(b, uint32(len(m)-1))
		b = append(b, m[1:]...)
	}
	return b
}

func streamOf(b []byte) *stream { return &stream{body: io.NopCloser(bytes.NewReader(b))} }

func TestStream(t *testing.T) {
	st := streamOf(frames(
		`0{"event":{"start":{"pid":4711}}}`,
		`0{"event":{"data":{"stdout":"b3V0"}}}`,
		`0{"event":{"keepalive":{}}}`,
		`0{"event":{"somethingNew":[1,2]}}`,
		`0{"event":{"end":{"exitCode":-1,"status":"signal: killed"}}}`,
		`2{}`,
	))
	for i := range 6 {
		ev, err := st.next()
		ok := err == nil
		switch i {
		case 0:
			ok = ok && ev.Start != nil && ev.Start.PID == 4711
		case 1:
			ok = ok && ev.Data != nil && string(ev.Data.Stdout) == "out" && ev.Data.Stderr == nil
		case 2, 3:
			ok = ok && ev == event{}
		case 4:
			ok = ok && ev.End != nil && ev.End.code() == 137
		case 5:
			ok = err == io.EOF
		}
		if !ok {
			t.Errorf("%d: got %+v, %v", i, ev, err)
		}
	}
	for text, want := range map[string]string{
		"":                             "unexpected EOF",
		"\x00\x00":                     "unexpected EOF",
		"\x00\x00\x00\x00\x09{}":       "unexpected EOF",
		"\x00\xff\xff\xff\xff":         "too long",
		"\x01\x00\x00\x00\x00":         "compressed",
		string(frames(`0{"event":4}`)): "not an event",
		string(frames(`0{"event":{"data":{"stdout":"*"}}}`)):                "not an event",
		string(frames(`0{"event":{"start":{"pid":-1}}}`)):                   "not an event",
		string(frames(`2{"error":{"code":"not_found","message":"a\nb"}}`)):  "not_found: a b",
		string(frames(`2{"error":{"code":"internal","message":` + `"x"}}`)): "internal: x",
		string(frames(`2{"error":"no"}`)):                                   "not an end",
		string(frames("2" + strings.Repeat("[", 20000))):                    "not an end",
		string(frames("0" + strings.Repeat(`{"event":`, 20000))):            "not an event",
	} {
		if _, err := streamOf([]byte(text)).next(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want %q", text, err, want)
		}
	}
}

// A stream comes from a machine on which a stranger's program is root.
func FuzzStream(f *testing.F) {
	f.Add(frames(`0{"event":{"start":{"pid":1}}}`, `0{"event":{"data":{"stderr":"AAAA"}}}`, `2{}`))
	f.Add(frames(`2{"error":{"code":"x"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		st := streamOf(b)
		for range len(b) + 1 {
			ev, err := st.next()
			if err != nil {
				return
			}
			if ev.Data != nil && len(ev.Data.Stdout)+len(ev.Data.Stderr) > len(b) {
				t.Fatalf("%d bytes became more", len(b))
			}
		}
		t.Fatalf("a stream of %d bytes does not end", len(b))
	})
}

func TestEnvdURL(t *testing.T) {
	for _, k := range []struct {
		o    Options
		c    created
		want string
	}{
		{Options{Domain: "e2b.app"}, created{ID: "i1"}, "https://sandbox.e2b.app"},
		{Options{Domain: "e2b.app"}, created{ID: "i1", Domain: "eu.example.org"}, "https://49983-i1.eu.example.org"},
		{Options{Domain: "example.org"}, created{ID: "i1"}, "https://49983-i1.example.org"},
		{Options{Domain: "example.org", SandboxURL: "http://10.0.0.1:3002/"}, created{ID: "i1"}, "http://10.0.0.1:3002"},
	} {
		if got := envdURL(&k.o, k.c); got != k.want {
			t.Errorf("%+v, %+v: got %q, want %q", k.o, k.c, got, k.want)
		}
	}
}
