// Package agent runs commands in a sandbox over one byte stream. At the other
// end of the stream is kilntainers-init, a small program of ours that is PID 1
// of the sandbox: init/ has its source, [Binary] the program itself.
//
//	daemon                                          sandbox
//	[Client] ══ one stream of frames, both ways ══ kilntainers-init (PID 1)
//	                                                ├─ supervisor ── command ── …
//	                                                └─ supervisor ── command ── …
//
// A command costs what fork and exec cost, and is killed exactly: with all
// that it started, however that tried to get away.
//
// # The protocol, version 2
//
// Both directions carry frames. Numbers are little endian.
//
//	0       4       5               8       12
//	├───────┼───────┼───────┼───────┼───────┼─────────────────
//	│ length│ type  │ 0   0   0     │  id   │ payload …
//	└ of the payload                └ 0, or which exec: chosen by the host,
//	                                  free again after its last frame
//
//	host → agent            payload                                          id
//	0x01 EXEC               u32 flags, u32 argc, u32 envc, then              exec
//	                        dir\0 argument\0 … NAME=value\0 …
//	                        flags: 1 arguments 0 and 3 are to be the shell
//	                               2 STDIN follows; else stdin is empty
//	0x02 STDIN              1 to 64 Ki bytes, within the credit              exec
//	0x03 STDIN_EOF          –                                                exec
//	0x04 KILL               –   end all of it; answered by EXIT              exec
//	0x05 LET                –   what EXIT said is left may stay              exec
//	0x06 PING               –   answered by PONG                             0
//	0x07 BYE                –   end                                          0
//	0x08 KEY                26 of A to Z, 2 to 7: what a SYNC begins with    0
//
//	agent → host
//	0x81 HELLO              u32 version, u32 uid, u32 shells                 0
//	                        shells: 1 /bin/bash, 2 /bin/sh
//	0x82 STDOUT             1 to 64 Ki bytes                                 exec
//	0x83 STDERR             1 to 64 Ki bytes                                 exec
//	0x84 EXIT               u32 code (0 to 255), u32 flags                   exec
//	                        flags: 1 processes are left, 2 out of memory
//	0x85 CREDIT             u32 bytes of STDIN that the command took         exec
//	0x86 STDIN_CLOSED       –   the command reads no more                    exec
//	0x87 PONG               –                                                0
//
// HELLO is the agent's first frame. EXIT is the last frame of an exec, unless
// it says that processes are left: then they are held together until the host
// says LET (they may stay, and the exec is over) or KILL (which gives a second
// EXIT). Without that, output that arrives late and breaks the host's limit
// could not be answered by killing who wrote it. Frames of the host for an
// exec that is over may be under way when it ends; the agent ignores them.
//
// An EXEC carries up to 2 MiB and 32,768 strings. With flag 1 the agent puts
// the path of /bin/bash, if that can be run, else of /bin/sh, where arguments 0
// and 3 are: argument 3, if there is one, is $0 to a shell with -c. Of STDIN,
// 256 KiB may be with the agent; each CREDIT allows so much more.
//
// 128 execs run at once. One more, and whatever else cannot be started, is an
// exec that fails as in a shell: a line on stderr, and 127 (not found) or 126.
//
// # Another host
//
// The stream may outlive the daemon: somebody keeps a duplicate of it, and a
// successor goes on with it (see [Adopt]), at whatever byte the dead one had
// got to. Both directions may stand in the middle of a frame. To a KEY that
// the dead host has sent, the successor answers for itself with a SYNC, which
// is no frame, and the agent with its nonce, which is none either:
//
//	host                                                              agent
//	… half a frame │ key nonce │ key nonce │ … ──►
//	                                            all execs are killed, as by KILL,
//	                                            and what was to be sent is dropped
//	                        ◄── nonce │ half a frame …
//	EXEC … ──►
//
// Key and nonce are 26 letters and digits each; a nonce is used for one SYNC.
// The host writes as many copies as the rest of a STDIN can swallow, and one
// more; the agent skips those whose nonce it knows. It looks for them only
// where no frame is: in what cannot be one, and in what came of one that is not
// whole. Frames that the text of a SYNC completes do no harm: channel.c says
// why, and half an EXEC never runs. If no SYNC comes where no frame is, the
// agent ends, as it does at once without a KEY.
//
// Between SYNC and nonce the agent sends nothing, and after the nonce nothing
// until it is asked. So the host drops all that it reads up to the nonce, and
// is then at the start of a frame, and of a block of whatever carries the
// stream in blocks. What ended and was LET stays.
//
// # Trust
//
// Whoever owns the sandbox can speak for the agent, so the host believes
// nothing: lengths, ids, order and codes are checked, nothing is allocated for
// a length, and the first frame that breaks a rule ends the sandbox. Nothing
// is enforced by the agent's word: the host has its own clock, counts the
// bytes itself, and ends the sandbox through its engine when a kill is not
// answered in time.
package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

const (
	version = 2

	headerSize  = 12
	maxExec     = 2 << 20  // payload of an EXEC
	maxData     = 64 << 10 // payload of any other frame
	maxStrings  = 32768    // arguments and variables of an EXEC
	stdinWindow = 256 << 10
	keySize     = 26 // of a key or a nonce: what rand.Text gives
	syncSize    = 2 * keySize

	// Copies of a SYNC: the longest rest of a STDIN that they may complete,
	// what is left of the copy where it ends, and a whole one.
	syncCopies = (headerSize+maxData)/syncSize + 3
)

type frameType uint8

const (
	frameExec     frameType = 0x01
	frameStdin    frameType = 0x02
	frameStdinEOF frameType = 0x03
	frameKill     frameType = 0x04
	frameLet      frameType = 0x05
	framePing     frameType = 0x06
	frameBye      frameType = 0x07
	frameKey      frameType = 0x08

	frameHello       frameType = 0x81
	frameStdout      frameType = 0x82
	frameStderr      frameType = 0x83
	frameExit        frameType = 0x84
	frameCredit      frameType = 0x85
	frameStdinClosed frameType = 0x86
	framePong        frameType = 0x87
)

const (
	execShell = 1
	execStdin = 2

	exitLeft = 1
	exitOOM  = 2

	helloBash = 1
	helloSh   = 2
)

// appendHeader appends the header of a frame whose payload of n bytes is to
// follow.
func appendHeader(b []byte, t frameType, id uint32, n int) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	b = binary.LittleEndian.AppendUint32(b, uint32(t))
	return binary.LittleEndian.AppendUint32(b, id)
}

// A request is what an EXEC says.
type request struct {
	flags uint32
	dir   string
	args  []string
	env   map[string]string
}

// Reasons for which a request cannot be put in a frame. The agent says the same
// of one that the kernel refuses.
var (
	errTooLong = errors.New("argument list too long (131071 bytes for one argument, about 2 MiB in all)")
	errZero    = errors.New("a zero byte in an argument, a variable or the directory")
	errName    = errors.New("an environment variable without a name, or with = in it")
)

// appendExec appends an EXEC frame. When it fails b is as it was.
func appendExec(b []byte, id uint32, r request) ([]byte, error) {
	start := len(b)
	if len(r.args)+len(r.env) > maxStrings {
		return b, errTooLong
	}
	b = appendHeader(b, frameExec, id, 0)
	b = binary.LittleEndian.AppendUint32(b, r.flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.args)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.env)))
	text := len(b)
	b = append(append(b, r.dir...), 0)
	for _, s := range r.args {
		b = append(append(b, s...), 0)
	}
	for k, v := range r.env {
		if k == "" || strings.Contains(k, "=") {
			return b[:start], errName
		}
		b = append(append(append(append(b, k...), '='), v...), 0)
	}
	switch n := len(b) - start - headerSize; {
	case bytes.Count(b[text:], []byte{0}) != 1+len(r.args)+len(r.env):
		return b[:start], errZero
	case n > maxExec:
		return b[:start], errTooLong
	default:
		binary.LittleEndian.PutUint32(b[start:], uint32(n))
		return b, nil
	}
}

// A frame is one that the agent sent. Its payload is good until the next one
// is read.
type frame struct {
	typ     frameType
	id      uint32
	payload []byte
}

// errProtocol is what the agent did that it may not do.
type errProtocol string

func (e errProtocol) Error() string { return "protocol: " + string(e) }

// parseHeader checks the header at the start of b, which has at least
// headerSize bytes, and returns its frame without the payload, and the length
// of that.
func parseHeader(b []byte) (frame, int, error) {
	n := binary.LittleEndian.Uint32(b)
	f := frame{typ: frameType(b[4]), id: binary.LittleEndian.Uint32(b[8:])}
	if b[5]|b[6]|b[7] != 0 {
		return frame{}, 0, errProtocol("nonzero reserved bytes")
	}
	var least, most uint32
	ofExec := true
	switch f.typ {
	case frameHello:
		least, most, ofExec = 12, 12, false
	case frameStdout, frameStderr:
		least, most = 1, maxData
	case frameExit:
		least, most = 8, 8
	case frameCredit:
		least, most = 4, 4
	case frameStdinClosed:
	case framePong:
		ofExec = false
	default:
		return frame{}, 0, errProtocol(fmt.Sprintf("frame of unknown type 0x%02x", uint8(f.typ)))
	}
	if n < least || n > most {
		return frame{}, 0, errProtocol(fmt.Sprintf("frame of type 0x%02x with %d bytes", uint8(f.typ), n))
	}
	if ofExec != (f.id != 0) {
		return frame{}, 0, errProtocol(fmt.Sprintf("frame of type 0x%02x with id %d", uint8(f.typ), f.id))
	}
	return f, int(n), nil
}

// parseHello reads the payload of a HELLO, whose length is right.
func parseHello(p []byte) (Hello, error) {
	if v := binary.LittleEndian.Uint32(p); v != version {
		return Hello{}, errProtocol(fmt.Sprintf("version %d, want %d", v, version))
	}
	shells := binary.LittleEndian.Uint32(p[8:])
	if shells&^(helloBash|helloSh) != 0 {
		return Hello{}, errProtocol("HELLO with unknown shells")
	}
	return Hello{
		UID:  binary.LittleEndian.Uint32(p[4:]),
		Bash: shells&helloBash != 0,
		Sh:   shells&helloSh != 0,
	}, nil
}

// An exit is what an EXIT says.
type exit struct {
	code int
	oom  bool
	left bool // processes are left, and the exec is not over
}

// parseExit reads the payload of an EXIT, whose length is right.
func parseExit(p []byte) (exit, error) {
	code, flags := binary.LittleEndian.Uint32(p), binary.LittleEndian.Uint32(p[4:])
	if code > 255 || flags&^(exitLeft|exitOOM) != 0 {
		return exit{}, errProtocol(fmt.Sprintf("EXIT with code %d and flags %#x", code, flags))
	}
	return exit{code: int(code), left: flags&exitLeft != 0, oom: flags&exitOOM != 0}, nil
}
