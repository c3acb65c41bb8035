package agent

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilntainers/kilntainers/backends"
)

// leave calls let, which lets go of the box's stream, and makes b.conn another
// descriptor of it, as somebody else has kept it.
func (b *box) leave(t testing.TB, let func()) {
	t.Helper()
	raw, err := b.conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	// Not by File and net.FileConn: these make the stream block for a moment,
	// for all who have it, and then a Read may never end.
	if err2 := raw.Control(func(f uintptr) { fd, err = unix.FcntlInt(f, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	let()
	f := os.NewFile(uintptr(fd), "kept")
	defer f.Close()
	if b.conn, err = net.FileConn(f); err != nil {
		t.Fatal(err)
	}
}

// pieces writes the start of everything in small pieces, each of which the
// agent reads by itself.
type pieces struct{ net.Conn }

func (p pieces) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		size := len(b) - n
		if n < 200 {
			size = min(size, 1+mathrand.IntN(60))
			time.Sleep(100 * time.Microsecond)
		}
		var m int
		m, err = p.Conn.Write(b[n : n+size])
		n += m
	}
	return n, err
}

// succeed makes the box's Client one that adopts its stream in state s.
func (b *box) succeed(t testing.TB, rw net.Conn, s State) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	c, err := Adopt(ctx, rw, FindMark(rw), s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	b.Client = c
}

// die ends the box's Client as the death of a daemon does, after it has
// written half, and another adopts the stream, at once and in pieces by turns.
func (b *box) die(t testing.TB, turn int, half []byte) {
	t.Helper()
	s, err := b.State()
	if err != nil {
		t.Fatal(err)
	}
	b.leave(t, b.Leave)
	if _, err := b.conn.Write(half); err != nil {
		t.Fatal(err)
	}
	rw := b.conn
	if turn%2 == 1 {
		rw = pieces{rw}
	}
	b.succeed(t, rw, s)
}

// raw is an agent whose host is the test: with a key, and HELLO read.
func raw(t testing.TB, args ...string) (*box, State) {
	t.Helper()
	b := startAgent(t, args...)
	if _, err := io.ReadFull(b.conn, make([]byte, headerSize+12)); err != nil {
		t.Fatal(err)
	}
	s := State{Version: version, Key: rand.Text(), Hello: Hello{Bash: true, Sh: true}}
	if _, err := b.conn.Write(append(appendHeader(nil, frameKey, 0, keySize), s.Key...)); err != nil {
		t.Fatal(err)
	}
	return b, s
}

// shell is an EXEC of a shell command.
func shell(t testing.TB, id, flags uint32, command string) []byte {
	t.Helper()
	b, err := appendExec(nil, id, request{flags: flags | execShell, args: shellArgs("", command)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAdoptIdle(t *testing.T) {
	b := newBox(t, Options{})
	want := b.Hello()
	for turn := range 100 {
		b.die(t, turn, nil)
		if turn%10 == 0 {
			if got := b.sh(t, "echo works"); got != "works\n" || b.Hello() != want {
				t.Fatalf("got %q, %+v", got, b.Hello())
			}
		}
	}
	b.onlyInit(t)

	// The state is JSON.
	s, err := b.State()
	text, err2 := json.Marshal(s)
	var again State
	err3 := json.Unmarshal(text, &again)
	if err := errors.Join(err, err2, err3); err != nil || again != s || !strings.Contains(string(text), `"hello":{"uid":0,"bash":true,"sh":true}`) {
		t.Errorf("got %s, %v", text, err)
	}
}

// What runs dies with the daemon, however it tries to get away; what an ended
// command left stays.
func TestAdoptKills(t *testing.T) {
	b := newBox(t, Options{})
	b.sh(t, "sleep 2000 & setsid sleep 2000 & (setsid sleep 2000 &)")
	for turn := range 6 {
		var running sync.WaitGroup
		commands := []string{
			"echo; sleep 1000",
			"setsid sleep 1000 & echo; wait",
			"(setsid sh -c 'sleep 1000 & exec sleep 1000' &); echo; sleep 1000",
			"trap '' TERM INT HUP; nohup sleep 1000 & echo; while :; do sleep 1000; done",
			"echo; kill -STOP $$",
			"yes",
			"sleep 3000 & head -c 3000000 /dev/zero", // may end in time, and leaves a process then
			"while read -r x; do :; done; echo; cat; sleep 1000",
		}
		if turn == 5 { // as many as there can be
			commands = slices.Repeat(commands[:2], 64)
		}
		for _, command := range commands {
			ready := make(chan bool)
			var once sync.Once
			running.Go(func() {
				_, err := b.Exec(t.Context(), Command{Exec: backends.Exec{Command: command, Stdin: io.LimitReader(zeros{}, 10),
					Stdout: writer(func(p []byte) (int, error) { once.Do(func() { close(ready) }); return len(p), nil })}})
				if err != backends.ErrClosed && !(err == nil && strings.Contains(command, "head")) {
					t.Errorf("%s: got %v, want %v", command, err, backends.ErrClosed)
				}
			})
			<-ready
		}
		s, err := b.State()
		if err != nil {
			t.Fatal(err)
		}
		b.leave(t, b.Leave)
		running.Wait() // before b.Client is another
		b.succeed(t, b.conn, s)
		if got := b.sh(t, "pgrep -fc '^sleep 2000'; pgrep -fl '^(sleep 1000|yes|head)'; :"); got != "3\n" {
			t.Errorf("got %q, want the 3 that were left", got)
		}
	}
	b.sh(t, "pkill sleep")
	b.onlyInit(t)
}

// The dead host may have written any part of any frame. What it did not write
// whole does not happen.
func TestAdoptHalfWritten(t *testing.T) {
	b := newBox(t, Options{})
	dir := t.TempDir()
	evil := "touch " + filepath.Join(dir, "evil")
	stdin := func(n int) []byte {
		return append(appendHeader(nil, frameStdin, 1, n), bytes.Repeat([]byte(evil+";"), n)[:n]...)
	}
	// A shell that takes its commands from stdin, and one that waits for its end.
	running := slices.Concat(shell(t, 1, execStdin, "exec sh"), shell(t, 2, execStdin, "cat >/dev/null; "+evil))
	all := func(n int) (cuts []int) {
		for i := range n {
			cuts = append(cuts, i)
		}
		return cuts
	}
	near := func(n int) (cuts []int) { // what is missing is about a number of copies
		for missing := 1; missing < n; missing = missing*5/4 + 1 {
			cuts = append(cuts, n-missing)
		}
		return cuts
	}
	for _, test := range []struct {
		name  string
		frame []byte
		cuts  []int
	}{
		{"EXEC", shell(t, 3, 0, evil), all(len(shell(t, 3, 0, evil)))},
		{"long EXEC", shell(t, 3, 0, evil+strings.Repeat(" ", 300)), near(300)},
		{"longest EXEC", func() []byte {
			e, err := appendExec(nil, 3, request{args: append([]string{"sh", "-c", evil}, slices.Repeat([]string{strings.Repeat("x", 100_000)}, 20)...)})
			if err != nil {
				t.Fatal(err)
			}
			return e
		}(), near(2_000_000)},
		{"STDIN", stdin(170), all(headerSize + 170)},
		{"longest STDIN", stdin(maxData), slices.Concat(near(headerSize+maxData), all(14))},
		{"STDIN_EOF", appendHeader(nil, frameStdinEOF, 2, 0), all(headerSize)},
		{"KILL", appendHeader(nil, frameKill, 1, 0), all(headerSize)},
		{"LET", appendHeader(nil, frameLet, 1, 0), all(headerSize)},
		{"PING", appendHeader(nil, framePing, 0, 0), all(headerSize)},
		{"BYE", appendHeader(nil, frameBye, 0, 0), all(headerSize)},
		{"many", slices.Concat(shell(t, 4, execStdin, "sleep 1000"), appendHeader(nil, framePing, 0, 0), appendHeader(nil, frameStdinEOF, 4, 0)), all(64)},
	} {
		t.Run(test.name, func(t *testing.T) {
			for turn, cut := range slices.Concat(test.cuts, test.cuts) {
				if turn >= len(test.cuts) && len(test.cuts)%2 == 0 {
					turn++ // each cut at once and in pieces
				}
				b.die(t, turn, slices.Concat(running, test.frame[:cut]))
				if t.Failed() {
					t.Fatalf("cut at %d", cut)
				}
			}
			if b.onlyInit(t); t.Failed() {
				return
			}
			if found, _ := os.ReadDir(dir); len(found) > 0 {
				t.Errorf("half of a frame took effect")
			}
		})
	}
}

// It may have read any part of what the agent said.
func TestAdoptHalfRead(t *testing.T) {
	b, s := raw(t)
	for k := range 3*headerSize + 30 {
		exec := slices.Concat(appendHeader(nil, framePing, 0, 0), shell(t, 1, 0, "echo hello; exec sleep 1000 >&2"))
		if _, err := b.conn.Write(exec); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(b.conn, make([]byte, min(k, 2*headerSize+6))); err != nil {
			t.Fatal(err)
		}
		b.leave(t, func() { b.conn.Close() })
		b.succeed(t, b.conn, s)
		if got := b.sh(t, "echo works"); got != "works\n" {
			t.Errorf("after %d bytes: got %q", k, got)
		}
		b.leave(t, b.Leave)
	}
	b.succeed(t, b.conn, s)
	b.onlyInit(t)
}

// Nobody reads what the agent says, so that it can say no more, or not even
// hear.
func TestAdoptBlocked(t *testing.T) {
	b, s := raw(t)
	if _, err := b.conn.Write(shell(t, 1, 0, "head -c 10485760 /dev/zero; sleep 1000")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // for the buffers to fill
	b.leave(t, func() { b.conn.Close() })
	b.succeed(t, b.conn, s)
	b.onlyInit(t)

	b.leave(t, b.Leave)
	b.conn.Write(shell(t, 1, 0, "yes"))
	b.conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	pings := bytes.Repeat(appendHeader(nil, framePing, 0, 0), 100)
	for {
		if _, err := b.conn.Write(pings); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	b.conn.SetWriteDeadline(time.Time{})
	b.succeed(t, b.conn, s)
	b.onlyInit(t)
}

// A successor may die too, while it adopts: before, in, or after its SYNC.
func TestAdoptTwice(t *testing.T) {
	b := newBox(t, Options{})
	s, err := b.State()
	if err != nil {
		t.Fatal(err)
	}
	b.sh(t, "sleep 2000 &")
	var many []byte
	for id := range uint32(20) {
		many = append(many, shell(t, id+1, 0, "setsid sleep 1000 & sleep 1000 | sleep 1000")...)
	}
	text := []byte(s.Key + rand.Text())
	for n := range 3 * syncSize {
		sync := bytes.Repeat([]byte(s.Key+rand.Text()), 3)[:n]
		if n%10 == 0 { // many to kill
			b.die(t, n, slices.Concat(many, sync, text, sync))
		}
		b.die(t, n, slices.Concat(shell(t, 1, 0, "sleep 1000"), sync))
	}
	// One that was called off in the middle of it.
	for n := range 20 {
		b.leave(t, b.Leave)
		b.conn.Write(many)
		b.leave(t, func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*time.Millisecond/4)
			defer cancel()
			if c, err := Adopt(ctx, b.conn, FindMark(b.conn), s, Options{}); err == nil {
				c.Leave()
			}
		})
		b.succeed(t, b.conn, s)
		if got := b.sh(t, "pgrep -fl '^sleep'"); strings.Count(got, "sleep") != 1 {
			t.Errorf("got %q, want what was left", got)
		}
	}
	b.sh(t, "pkill sleep")
	b.onlyInit(t)
}

// Without the key a SYNC is a broken protocol, or part of a frame.
func TestAdoptWrongKey(t *testing.T) {
	for name, test := range map[string]struct {
		before []byte
		keyed  bool
		status int // 0: it waits for the rest of the frame
	}{
		"wrong key":               {nil, true, 72},
		"no key":                  {nil, false, 72},
		"wrong key in half STDIN": {append(appendHeader(nil, frameStdin, 1, 2000), "x"...), true, 72},
		"wrong key in half EXEC":  {appendHeader(nil, frameExec, 1, maxExec), true, 0},
		"no key in half EXEC":     {appendHeader(nil, frameExec, 1, maxExec), false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			for try := 1; ; try++ {
				b := startAgent(t)
				if test.keyed {
					b.conn.Write(append(appendHeader(nil, frameKey, 0, keySize), rand.Text()...))
				}
				b.conn.Write(test.before)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				if test.status == 0 {
					time.AfterFunc(300*time.Millisecond, cancel)
				}
				_, err := Adopt(ctx, b.conn, FindMark(b.conn), State{Version: version, Key: rand.Text()}, Options{})
				cancel()
				if errors.Is(err, context.DeadlineExceeded) && try < 5 {
					continue // one in thirty times it ends as the key begins, and the agent waits for more
				}
				if err == nil || errors.Is(err, context.Canceled) != (test.status == 0) {
					t.Errorf("got %v", err)
				}
				if got := b.status(t); got != test.status {
					t.Errorf("got status %d, %q; want %d", got, &b.stderr, test.status)
				}
				return
			}
		})
	}
}

// Whole frames are what they are, whatever is in them.
func TestKeyInFrames(t *testing.T) {
	b := newBox(t, Options{})
	s, err := b.State()
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		want := strings.Repeat(s.Key+rand.Text(), 30)
		stdout, _, x := b.run(t, Command{Exec: backends.Exec{Command: "cat; echo " + s.Key + s.Key, Stdin: strings.NewReader(want)}})
		if stdout != want+s.Key+s.Key+"\n" || x.Code != 0 {
			t.Fatalf("got %+v, %q", x, stdout)
		}
	}
	b.die(t, 0, nil)
	b.onlyInit(t)
}

// A broken protocol is noticed with a key as without.
func TestBrokenWithKey(t *testing.T) {
	for name, says := range map[string][]byte{
		"zeros":               make([]byte, syncSize),
		"a key out of bounds": slices.Concat(appendHeader(nil, frameKey, 0, keySize), make([]byte, syncSize)),
		"EXEC out of bounds":  slices.Concat(appendHeader(nil, frameExec, 1, 13), make([]byte, syncSize)),
		"text":                []byte(strings.Repeat("no key ", 20)),
	} {
		t.Run(name, func(t *testing.T) {
			b, _ := raw(t)
			b.conn.Write(says)
			if got := b.status(t); got != 72 {
				t.Errorf("got status %d, %q; want 72", got, &b.stderr)
			}
		})
	}
}

// A command that is killed sees no end of its input before.
func TestKilledBeforeEndOfInput(t *testing.T) {
	b := newBox(t, Options{})
	file := filepath.Join(t.TempDir(), "file")
	for range 30 {
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("stop")
		in, out := io.Pipe()
		go out.Write([]byte("half"))
		_, err := b.Exec(ctx, Command{Exec: backends.Exec{Command: "head -c 4; cat; touch " + file, Stdin: in, Stdout: ready(func() { cancel(stop); out.CloseWithError(stop) })}})
		if !errors.Is(err, stop) {
			t.Errorf("got %v, want %v", err, stop)
		}
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a command took half of its input for the whole")
	}
	b.onlyInit(t)
}

// ---- without an agent

func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f := newFake(t, Options{})
		said := make(chan []byte)
		go func() {
			all, _ := io.ReadAll(f)
			said <- all
		}()
		running := make(chan error)
		go func() {
			_, err := c.Exec(t.Context(), Command{Exec: backends.Exec{Args: []string{"x"}}})
			running <- err
		}()
		synctest.Wait()
		for range 3 { // the key is told once
			if s, err := c.State(); err != nil || s.Version != version || !keyText.MatchString(s.Key) || s.Hello != c.Hello() {
				t.Errorf("got %+v, %v", s, err)
			}
		}
		go c.Leave()
		c.Leave()
		if err := <-running; err != backends.ErrClosed {
			t.Errorf("a command that ran got %v, want %v", err, backends.ErrClosed)
		}
		<-c.Done()
		if c.Err() != backends.ErrClosed || f.kills != 0 {
			t.Errorf("got %v, %d kills; want %v, 0", c.Err(), f.kills, backends.ErrClosed)
		}
		exec, _ := appendExec(nil, 1, request{args: []string{"x"}})
		if got, want := <-said, slices.Concat(exec, appendHeader(nil, frameKey, 0, keySize), []byte(c.key)); !bytes.Equal(got, want) {
			t.Errorf("it said %q, want %q", got, want)
		}
		if _, err := c.State(); err != backends.ErrClosed {
			t.Errorf("State after it: got %v, want %v", err, backends.ErrClosed)
		}
	})
}

func TestAdoptFails(t *testing.T) {
	good := State{Version: version, Key: strings.Repeat("A", keySize)}
	for name, test := range map[string]struct {
		state State
		find  func(theirs net.Conn, ours io.Reader) func([]byte) error // nil: FindMark
		want  string
	}{
		"another version": {State{Version: 1, Key: good.Key}, nil, "adopt the agent: it speaks version 1 of the protocol, this daemon 2"},
		"no key":          {State{Version: version}, nil, "adopt the agent: its key is not 26 letters and digits"},
		"binary key":      {State{Version: version, Key: strings.Repeat("\x00", keySize)}, nil, "adopt the agent: its key is not 26 letters and digits"},
		"silent agent":    {good, nil, "adopt the agent: context deadline exceeded"},
		"find fails": {good, func(net.Conn, io.Reader) func([]byte) error {
			return func([]byte) error { return errors.New("broken") }
		}, "adopt the agent: broken"},
		"end of the stream": {good, func(theirs net.Conn, ours io.Reader) func([]byte) error {
			return func(mark []byte) error { theirs.Close(); return FindMark(ours)(mark) }
		}, "adopt the agent: EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				defer theirs.Close()
				find := FindMark(ours)
				if test.find != nil {
					find = test.find(theirs, ours)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				_, err := Adopt(ctx, ours, find, test.state, Options{Kill: func(context.Context) error { t.Error("Kill was called"); return nil }})
				if err == nil || err.Error() != test.want {
					t.Errorf("got %v, want %s", err, test.want)
				}
				if _, err := ours.Write([]byte{0}); err != io.ErrClosedPipe {
					t.Errorf("Adopt left its stream open")
				}
			})
		})
	}
}

func TestFindMark(t *testing.T) {
	const mark = "AABAAC"
	for _, before := range []string{"", "A", "AA", "AAA", "AAB", "AABAA", "AABAAB", "AABAAAABA", "x", "AABAAx", strings.Repeat("AABAA", 100)} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "halves": iotest.HalfReader, "data and EOF at once": iotest.DataErrReader,
		} {
			r := wrap(strings.NewReader(before + mark + "AABAAC rest"))
			err := FindMark(r)([]byte(mark))
			if rest, _ := io.ReadAll(r); err != nil || string(rest) != "AABAAC rest" {
				t.Errorf("%q, %s: got %v, then %q", before, name, err, rest)
			}
			r = wrap(strings.NewReader(before + mark[:5]))
			if err := FindMark(r)([]byte(mark)); err != io.EOF {
				t.Errorf("%q, %s: got %v, want %v", before, name, err, io.EOF)
			}
			r = wrap(strings.NewReader(before + mark))
			if err := FindMark(r)([]byte(mark)); err != nil {
				t.Errorf("%q, %s: got %v", before, name, err)
			}
		}
	}
}

// Whatever a host sent before, a SYNC after it is answered, or the agent has
// ended and said that the protocol is broken.
func FuzzAgentAdopted(f *testing.F) {
	for seed := range uint64(60) {
		frames := randomFrames(seed)
		rnd := mathrand.New(mathrand.NewPCG(seed, 1))
		f.Add(frames[:rnd.IntN(len(frames)+1)], rnd.Uint32N(10000))
	}
	f.Add(append(appendHeader(nil, frameKey, 0, keySize), "ABCDEFGHIJKLMNOPQRSTUVWXY"...), uint32(0)) // another key
	f.Fuzz(func(t *testing.T, frames []byte, pause uint32) {
		// Nothing is to end it but the frames. One that swallowed its SYNC ends for silence.
		b, s := raw(t, "--heartbeat", "1")
		nonce := rand.Text()
		var writes sync.WaitGroup
		writes.Go(func() {
			sync := bytes.Repeat([]byte(s.Key+nonce), syncCopies)
			cut := int(pause) % len(sync)
			b.conn.Write(frames)
			b.conn.Write(sync[:cut])
			time.Sleep(time.Duration(pause%7) * 100 * time.Microsecond)
			b.conn.Write(sync[cut:])
		})
		if err := FindMark(b.conn)([]byte(nonce)); err != nil {
			if got := b.status(t); got != 0 && got != 72 && got != 75 {
				t.Errorf("got status %d, %q; want 0, 72 or 75", got, &b.stderr)
			}
			return
		}
		writes.Wait()
		b.conn.Write(appendHeader(nil, framePing, 0, 0))
		err := readFrame(bufio.NewReaderSize(b.conn, headerSize+maxData), func(f frame) error {
			if f.typ != framePong {
				return fmt.Errorf("after its nonce it said %x", f.typ)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		b.succeed(t, b.conn, s)
		if got := b.sh(t, "pgrep -fl '^sleep 1000$'; :"); got != "" && !bytes.Contains(frames, []byte("&")) && !bytes.Contains(frames, []byte("kill")) {
			t.Errorf("after it there is %q", got)
		}
	})
}
