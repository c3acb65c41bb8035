package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/slogtest"
	"time"
	_ "unsafe" // for go:linkname

	_ "github.com/coreos/go-systemd/v22/journal"
)

// journalSocket is where the library looks for the journal.
//
//go:linkname journalSocket github.com/coreos/go-systemd/v22/journal.journalSocket
var journalSocket string

// A fakeJournal is a socket in the journal's place.
type fakeJournal struct{ conn *net.UnixConn }

func newFakeJournal(t *testing.T, path string) *fakeJournal {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &fakeJournal{conn}
}

// entry reads one entry as journald would: from the datagram, or from the file
// that came with it because the entry is large.
func (j *fakeJournal) entry(t *testing.T) map[string]string {
	t.Helper()
	data, control := make([]byte, 256<<10), make([]byte, 128)
	if err := j.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, nc, _, _, err := j.conn.ReadMsgUnix(data, control)
	if err != nil {
		t.Fatalf("no entry comes: %v", err)
	}
	data = data[:n]
	if nc > 0 {
		messages, err := syscall.ParseSocketControlMessage(control[:nc])
		if err != nil {
			t.Fatal(err)
		}
		fds, err := syscall.ParseUnixRights(&messages[0])
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fds[0]), "entry")
		defer file.Close()
		if data, err = io.ReadAll(io.NewSectionReader(file, 0, 1<<30)); err != nil {
			t.Fatal(err)
		}
	}
	fields := map[string]string{}
	for len(data) > 0 {
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		name, value, simple := strings.Cut(string(line), "=")
		if !simple { // then a length comes, the value and a line's end
			size := binary.LittleEndian.Uint64(rest)
			value, rest = string(rest[8:8+size]), rest[8+size+1:]
		}
		if _, twice := fields[name]; twice {
			t.Errorf("field %s twice", name)
		}
		fields[name], data = value, rest
	}
	return fields
}

// withJournal makes the library find a fake journal.
func withJournal(t *testing.T) *fakeJournal {
	t.Helper()
	old := journalSocket
	journalSocket = filepath.Join(t.TempDir(), "socket")
	t.Cleanup(func() { journalSocket = old })
	return newFakeJournal(t, journalSocket)
}

func TestJournalFields(t *testing.T) {
	j := withJournal(t)
	var text bytes.Buffer
	log := slog.New(newJournalHandler(slog.LevelInfo, slog.NewTextHandler(&text, nil)))
	big := strings.Repeat("0123456789abcdef", 64<<10) // more than a datagram holds
	stack := "goroutine 1:\n\tmain.go:1 a=b\n"
	for _, c := range []struct {
		do   func()
		want map[string]string
	}{
		{func() { log.Debug("too little to say") }, nil},
		{func() {
			log.Info("started", "version", "1.2", "took", 3*time.Millisecond, "listen", []string{"unix:/a", "tcp:b"})
		}, map[string]string{
			"PRIORITY": "6", "MESSAGE": `started version=1.2 took=3ms listen="[unix:/a tcp:b]"`,
			"KILNTAINERS_VERSION": "1.2", "KILNTAINERS_TOOK": "3ms", "KILNTAINERS_LISTEN": "[unix:/a tcp:b]",
		}},
		{func() { log.With("profile", "python").Warn("cannot sweep", "error", errors.New("no engine")) }, map[string]string{
			"PRIORITY": "4", "MESSAGE": `cannot sweep profile=python error="no engine"`,
			"KILNTAINERS_PROFILE": "python", "KILNTAINERS_ERROR": "no engine",
		}},
		{func() {
			log.With("a", 1).WithGroup("call").With("id", 7).Error("panic", slog.Group("at", "stack", stack), slog.Group("", "in-line", true))
		}, map[string]string{
			"PRIORITY": "3", "MESSAGE": `panic a=1 call.id=7 call.at.stack="goroutine 1:\n\tmain.go:1 a=b\n" call.in-line=true`,
			"KILNTAINERS_A": "1", "KILNTAINERS_CALL_ID": "7", "KILNTAINERS_CALL_AT_STACK": stack, "KILNTAINERS_CALL_IN_LINE": "true",
		}},
		{func() { log.Info("one\ntwo", "big", big) }, map[string]string{
			"PRIORITY": "6", "MESSAGE": "one\ntwo big=" + big, "KILNTAINERS_BIG": big,
		}},
		{func() { log.Info("long", strings.Repeat("x", 100), "") }, map[string]string{
			"PRIORITY": "6", "MESSAGE": "long " + strings.Repeat("x", 100) + `=""`, "KILNTAINERS_" + strings.Repeat("X", 52): "",
		}},
	} {
		c.do()
		if c.want == nil {
			continue
		}
		c.want["SYSLOG_IDENTIFIER"] = "kilntainersd"
		if got := j.entry(t); !reflect.DeepEqual(got, c.want) {
			t.Errorf("got  %.500q,\nwant %.500q", got, c.want)
		}
	}
	if text.Len() > 0 {
		t.Errorf("on stderr besides: %q", text.String())
	}
}

// The rules that every handler of slog's has to keep.
func TestJournalHandler(t *testing.T) {
	j := withJournal(t)
	slogtest.Run(t, func(*testing.T) slog.Handler {
		return newJournalHandler(slog.LevelInfo, slog.DiscardHandler)
	}, func(t *testing.T) map[string]any {
		if strings.HasSuffix(t.Name(), "/zero-time") {
			j.entry(t)
			t.Skip("the journal notes the time itself")
		}
		message, attrs, _ := strings.Cut(j.entry(t)["MESSAGE"], " ")
		record := map[string]any{slog.MessageKey: message, slog.LevelKey: "", slog.TimeKey: ""}
		for attr := range strings.FieldsSeq(attrs) {
			name, value, _ := strings.Cut(attr, "=")
			in := record
			path := strings.Split(name, ".")
			for _, group := range path[:len(path)-1] {
				if in[group] == nil {
					in[group] = map[string]any{}
				}
				in = in[group].(map[string]any)
			}
			in[path[len(path)-1]] = value
		}
		return record
	})
}

// While there is no journal, stderr has what it would have had, and the next
// entry finds a journal that is back.
func TestJournalGone(t *testing.T) {
	j := withJournal(t)
	var text bytes.Buffer
	log := slog.New(newJournalHandler(slog.LevelInfo, slog.NewTextHandler(&text, nil))).With("profile", "p").WithGroup("g")
	log.Info("one")
	j.entry(t)
	if err := j.conn.Close(); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(journalSocket)
	log.Warn("two", "a", 1)
	if got, want := text.String(), "level=WARN msg=two profile=p g.a=1\n"; !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	j = newFakeJournal(t, journalSocket)
	log.Info("three")
	if got, want := j.entry(t)["MESSAGE"], "three profile=p"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The daemon itself, started as systemd starts it.
func TestJournalDaemon(t *testing.T) {
	dir, err := os.MkdirTemp("", "kiln") // sockets want short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	j := newFakeJournal(t, dir+"/journal")
	conf := dir + "/k.toml"
	text := fmt.Sprintf("[daemon]\nlisten = [%q]\nstate_dir = %q\ncache_dir = %q\n[profiles.p]\nbackend = \"dokcer\"\n", "unix:"+dir+"/k.sock", dir, dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		native bool
	}{
		{nil, true},
		{[]string{"--log-format=json"}, false},
	} {
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := os.NewFile(uintptr(pair[0]), "journal"), os.NewFile(uintptr(pair[1]), "stderr")
		defer ours.Close()
		var st syscall.Stat_t
		if err := syscall.Fstat(pair[1], &st); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, exe)
		cmd.Args = append([]string{"kilntainersd", "--config", conf}, c.args...)
		cmd.Env = append(os.Environ(), testJournal+"="+dir+"/journal", fmt.Sprintf("JOURNAL_STREAM=%d:%d", st.Dev, st.Ino))
		cmd.Stderr = theirs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = theirs.Close()
		if c.native {
			if e := j.entry(t); e["PRIORITY"] != "3" || !strings.Contains(e["KILNTAINERS_PROBLEM"], "k.toml:6: profiles.p.backend: ") {
				t.Errorf("got %q, want the problem as an error", e)
			}
			for !strings.HasPrefix(j.entry(t)["MESSAGE"], "started ") {
			}
		} else {
			line := make([]byte, 4096)
			n, err := ours.Read(line)
			if err != nil || !bytes.HasPrefix(line[:n], []byte(`{"time":`)) {
				t.Errorf("got %q, %v, want JSON", line[:n], err)
			}
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the daemon: %v", err)
		}
	}
}
