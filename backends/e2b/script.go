package e2b

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// What runs in a sandbox, below envd:
//
//	envd ── setsid ── sh with runScript ── a part of it ── the command ── what it starts
//	  └──── sh with killScript, or with listScript
//
// All of the first line have markName=… in their environment, and a session and
// a process group of their own. For as long as the command runs, and no longer,
// there is a process with runScript that has its mark among its arguments too:
// that tells what runs from what was left in the background, also to a daemon
// that did not start it.

// markName is the variable with the mark of a command.
const markName = "KILNTAINERS_EXEC"

// runScript runs "$3" and the rest, and tells on both streams when it has
// ended, and how: $1=CODE; with $1 a word that nothing else writes. $2 is the
// command's mark, which only has to be there. Whatever
// the command wrote comes before that, because it is the same pipe. Without it
// one would wait for the end of the pipes, which a server that was left in the
// background never closes.
//
// It has only builtins, so it works with any PATH. The traps, which the command
// does not inherit, let it outlive a command's kill 0. Its own messages
// ("Killed") go nowhere; those of a failed exec are the command's. The subshell
// in the middle only waits: when envd kills the first process, because the time
// of a command is over and no daemon is there to end it, it still tells that the
// command runs.
const runScript = `trap : HUP INT QUIT TERM
exec 3>&1 4>&2 2>/dev/null
(
	trap : HUP INT QUIT TERM
	(exec 2>&4 3>&- 4>&-; shift 2; exec "$@")
	exit $?
)
c=$?
printf "%s=%d;" "$1" $c >&3
printf "%s=%d;" "$1" $c >&4`

// lookScript tells what there is: the shell for commands and, if any, setsid.
const lookScript = `s=/bin/sh; [ -x /bin/bash ] && s=/bin/bash; echo "shell $s"
for s in /usr/bin/setsid /bin/setsid; do [ -x $s ] && echo "setsid $s" && break; done
echo ready`

// listScript tells the marks, of those that begin with $1 and a dot, of the
// commands that run, and says "listed". What was left in the background is none:
// it has the mark in its environment, but not among its arguments.
const listScript = `for t in cat tr grep sort head; do command -v $t >/dev/null || exit 1; done
cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\000' '\n' | grep -x "$1\.[A-Z2-7]*" | sort -u | head -n 40
echo listed`

// killScript kills the command with the mark $1 and all that it started, and
// says "clean" when none of it is left. $2 is its first process, or 0.
//
// Of a command are the processes with the mark, or of the session of the first
// process; all that descend from one of them; and all of the sessions and
// process groups that one of them is in, unless envd, and so this script, is in
// it too. Groups are killed as a whole, so that none can outrun it by forking.
// When twice in a row nothing is found, nothing is left.
//
// Only who drops environment, session and parent, all three, is not found.
const killScript = `n=0 clean=0
while [ $n -lt 40 ]; do
n=$((n+1))
found=$({ grep -lsF "` + markName + `=$1" /proc/[0-9]*/environ; cat /proc/[0-9]*/stat 2>/dev/null; } | awk -v self=$$ -v first="$2" '
/^\/proc\// { split($0, path, "/"); hit[path[3]]; next }
{ pid = $1; if (sub(/^.*\) /, "")) { state[pid] = $1; parent[pid] = $2; group[pid] = $3; session[pid] = $4 } }
END {
	if (first + 0 > 1 && first + 0 != session[self] + 0) ours[first]
	do {
		grew = 0
		for (p in state) {
			if (!(p in hit) && !((parent[p] in hit) || (session[p] in ours) || (group[p] in groups))) continue
			if (p + 0 <= 1 || p + 0 == self + 0 || (p in done)) continue
			hit[p]; done[p]; grew = 1
			if (session[p] > 1 && session[p] != session[self]) ours[session[p]]
			if (group[p] > 1 && group[p] != group[self]) groups[group[p]]
		}
	} while (grew)
	for (p in done) if (state[p] !~ /[ZX]/) { printf "%d ", p; alive = 1 }
	if (alive) for (g in groups) printf "-%d ", g
}')
if [ -z "$found" ]; then
	clean=$((clean+1))
	[ $clean -ge 2 ] && echo clean && exit
	continue
fi
clean=0
kill -9 $found 2>/dev/null
[ $n -gt 10 ] && sleep 0.1
done
exit 1`

// maxArg is how long one argument may be on any Linux: 32 pages of 4 KiB, with
// its zero byte (MAX_ARG_STRLEN in linux/binfmts.h).
const maxArg = 128<<10 - 1

// shellArgs is how a shell is told to run a command. One that is too long for
// an argument comes in pieces, which the shell puts together again; the command
// sees no difference, it has no positional parameters of its own.
//
//	SHELL -c COMMAND
//	SHELL -c 'eval "set --; ${1}${2}"' SHELL PIECE PIECE
func shellArgs(shell, command string) []string {
	if len(command) <= maxArg {
		return []string{shell, "-c", command}
	}
	var pieces []string
	var all strings.Builder
	for command != "" {
		n := min(len(command), maxArg)
		for n < len(command) && !utf8.RuneStart(command[n]) {
			n--
		}
		pieces = append(pieces, command[:n])
		command = command[n:]
		fmt.Fprintf(&all, "${%d}", len(pieces))
	}
	return append([]string{shell, "-c", fmt.Sprintf(`eval "set --; %s"`, all.String()), shell}, pieces...)
}

// Why a text cannot be an argument.
var (
	errNUL  = errors.New("an argument cannot hold a NUL character")
	errUTF8 = errors.New("an argument must be UTF-8 to be sent to this sandbox")
)

// checkText reports why a text cannot be an argument, or a variable.
func checkText(s string) error {
	if strings.ContainsRune(s, 0) {
		return errNUL
	}
	if !utf8.ValidString(s) {
		return errUTF8
	}
	return nil
}

// An endMark looks for the end of a command in one of its streams, and keeps
// it out of what is passed on.
type endMark struct {
	word string // $1 of runScript
	held []byte // the last bytes so far, when they may be the beginning of the mark
	seen bool
	code int
}

// next takes the next bytes of the stream and returns those that are the
// command's. After the mark there are none.
func (m *endMark) next(p []byte) []byte {
	if m.seen {
		return nil
	}
	if len(m.held) > 0 {
		p = append(m.held, p...)
		m.held = nil
	}
	for from := 0; ; {
		i := bytes.Index(p[from:], []byte(m.word))
		if i < 0 {
			break
		}
		at := from + i
		code, whole, possible := parseEnd(p[at+len(m.word):])
		switch {
		case whole:
			m.seen, m.code = true, code
			return p[:at]
		case possible:
			m.held = bytes.Clone(p[at:])
			return p[:at]
		}
		from = at + 1
	}
	keep := min(len(m.word)-1, len(p))
	for keep > 0 && string(p[len(p)-keep:]) != m.word[:keep] {
		keep--
	}
	m.held = bytes.Clone(p[len(p)-keep:])
	return p[:len(p)-keep]
}

// rest returns what was held back, at the end of a stream without a mark.
func (m *endMark) rest() []byte {
	p := m.held
	m.held = nil
	return p
}

// parseEnd reads what follows the word, =CODE; and more. When that is not all
// there, it tells whether it may yet come.
func parseEnd(p []byte) (code int, whole, possible bool) {
	if len(p) == 0 {
		return 0, false, true
	}
	if p[0] != '=' {
		return 0, false, false
	}
	digits, _, ended := bytes.Cut(p[1:], []byte(";"))
	if len(digits) > 3 || len(bytes.Trim(digits, "0123456789")) > 0 || ended && len(digits) == 0 {
		return 0, false, false
	}
	code, _ = strconv.Atoi(string(digits))
	return code, ended, true
}
