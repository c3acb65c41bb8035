// Package sys is the small piece of operating system that the tools and the
// shell need and Go's standard library does not give them on WASI: processes,
// pipes, signals, modes.
//
//	p, err := sys.Start(&sys.Spec{Path: "/bin/ls", Args: []string{"ls", "-l"}, Files: files})
//	st := p.Wait()          // st.Code is what the shell calls $?
//
// There are two implementations. In the sandbox (wasip1) each function is a
// call into the host module kiln_v1, described in backends/wasm/ABI.md. On
// Linux they are plain system calls, so that every tool can be built, tested
// and fuzzed without a sandbox.
package sys

import "os"

// Spec describes a process to start.
type Spec struct {
	Path  string           // the file to run; not searched for
	Args  []string         // Args[0] is the name the program sees
	Env   []string         // NAME=value
	Dir   string           // working directory; "" is the caller's
	Files map[int]*os.File // the child's descriptors; no others are inherited
	Umask int              // mode bits to mask; -1 keeps the caller's
}

// Status is how a process ended.
type Status struct {
	Code   int // exit code, or 128+Signal: what the shell calls $?
	Signal int // the signal that ended it, or 0
}

// Signals by number, as kill -l and trap name them.
var signalNames = [...]string{1: "HUP", 2: "INT", 3: "QUIT", 4: "ILL", 5: "TRAP", 6: "ABRT", 7: "BUS", 8: "FPE", 9: "KILL",
	10: "USR1", 11: "SEGV", 12: "USR2", 13: "PIPE", 14: "ALRM", 15: "TERM", 16: "STKFLT", 17: "CHLD", 18: "CONT", 19: "STOP",
	20: "TSTP", 21: "TTIN", 22: "TTOU", 23: "URG", 24: "XCPU", 25: "XFSZ", 26: "VTALRM", 27: "PROF", 28: "WINCH", 29: "IO",
	30: "PWR", 31: "SYS"}

// SignalName returns the name without "SIG", or "" if there is none.
func SignalName(n int) string {
	if n > 0 && n < len(signalNames) {
		return signalNames[n]
	}
	return ""
}

// SignalNumber finds a signal by name (TERM, SIGTERM, term) or by number;
// -1 if there is none.
func SignalNumber(s string) int {
	if n, ok := smallInt(s); ok && n < 65 {
		return n
	}
	s = upper(s)
	if len(s) > 3 && s[:3] == "SIG" {
		s = s[3:]
	}
	for n, name := range signalNames {
		if name == s && n > 0 {
			return n
		}
	}
	return -1
}

// LastSignal is the highest signal that has a name.
const LastSignal = len(signalNames) - 1

func smallInt(s string) (int, bool) {
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' || n > 1000 {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, s != ""
}

func upper(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			b[i] = c - 32
		}
	}
	return string(b)
}
