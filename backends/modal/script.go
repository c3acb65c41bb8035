package modal

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// What runs in a sandbox:
//
//	Modal's worker ── sh with runScript ── a part of it ── the command ── what it starts
//	             └─── sh with killScript, or with listScript
//
// All of the first line have markName=… in their environment. For as long as the
// command runs, and no longer, there is a process with runScript that has its
// mark among its arguments too: that tells what runs from what was left in the
// background, also to a daemon that did not start it.

// markName is the variable with the mark of a command.
const markName = "KILNTAINERS_EXEC"

// runScript runs $5 and the rest in the directory $2 (or where it is) with the
// file $3 (or its own stdin) as stdin; $4 is the command's mark, which only has
// to be there. When that has ended, it writes $1, a
// word that nothing else writes, to both streams. All that the command wrote
// stands before it, since it is the same pipe; what its background processes
// write stands after it. Its exit status is the command's, 126 if the directory
// is not there.
//
// It has only builtins, so that it works with any PATH, and no variables of
// its own, which might be some of the command's. The traps, which the command
// does not inherit, let it outlive a command's kill 0. What it would say
// itself ("Killed") goes nowhere. The subshell in the middle only waits: when
// Modal kills the first process, because the time of a command is over and no
// daemon is there to end it, it still tells that the command runs.
const runScript = `trap : HUP INT QUIT TERM
exec 3>&2 2>/dev/null
(
	trap : HUP INT QUIT TERM
	(
		exec 2>&3 3>&-
		[ -z "$2" ] || cd "$2" || exit 126
		[ -z "$3" ] || exec <"$3"
		shift 4
		exec "$@"
	)
	exit $?
)
set -- $? "$1"
printf %s "$2"
printf %s "$2" >&3
exit "$1"`

// killScript kills all that a command with the mark $1 started, and ends with
// 0 when nothing of it is left.
//
// Of a command are the processes with the mark; all that descend from one of
// them; and all of the process groups and sessions that one of them is in,
// unless this script is in it too. Groups are killed as a whole, so that none
// can outrun the script by forking. What was once found to be of the command
// stays so. When twice in a row nothing lives, nothing is left.
//
// Only who drops environment, session and parent, all three, is not found: its
// end is the sandbox's.
//
// /proc/PID/stat is, after the name in parentheses, state, parent, group and
// session (proc(5)); gVisor has it too. A name may hold anything, also a newline
// and what looks like the rest. So a line that is too short is put together with
// the next one, and the rest is what follows the last ")", which is slow to look
// for when there are two.
const killScript = `exec >/dev/null 2>&1
PATH=$PATH:/usr/local/bin:/usr/bin:/bin
command -v grep && command -v cat || exit 1
mark=$1 newline='
'
set -f
read -r line </proc/$$/stat
set -- ${line##*) }
mygroup=$3 mysession=$4
pids=' ' groups=' ' sessions=' ' clean=0 round=0
while [ $clean -lt 2 ]; do
	round=$((round+1))
	[ $round -le 100 ] || exit 1
	for p in $(set +f; grep -lsF "` + markName + `=$mark" /proc/[0-9]*/environ); do
		p=${p#/proc/} p=${p%/environ}
		case $pids in *" $p "*) ;; *) pids="$pids$p " ;; esac
	done
	all=$(set +f; cat /proc/[0-9]*/stat)
	grew=1 pass=0
	while [ $grew = 1 ] && [ $pass -lt 4 ]; do
		grew=0 alive= pass=$((pass+1)) part=
		IFS=$newline
		for line in $all; do
			IFS=' '
			line=$part$line rest=${line#*)}
			case $rest in *")"*) rest=${line##*) } ;; esac
			set -- $rest
			if [ $# -lt 20 ]; then part=$line; continue; fi
			part= p=${line%% *}
			[ $p -gt 1 ] && [ $p != $$ ] || continue
			case "$pids" in
			*" $p "*) ;;
			*)
				case "$pids$groups$sessions" in
				*" $2 "* | *" g$3 "* | *" s$4 "*) pids="$pids$p " grew=1 ;;
				*) continue ;;
				esac
				;;
			esac
			case " 0 1 $mygroup$groups" in *" $3 "* | *" g$3 "*) ;; *) groups="${groups}g$3 " grew=1 ;; esac
			case " 0 1 $mysession$sessions" in *" $4 "* | *" s$4 "*) ;; *) sessions="${sessions}s$4 " grew=1 ;; esac
			case $1 in Z | X) ;; *) alive="$alive$p " ;; esac
		done
		IFS=' '$newline
	done
	if [ -z "$alive" ]; then
		clean=$((clean+1))
		continue
	fi
	clean=0
	for g in $groups; do kill -s KILL -- -${g#g}; done
	for p in $alive; do kill -s KILL $p; done
done`

// listScript tells the marks, of those that begin with $1 and a dot, of the
// commands that run. What was left in the background is none: it has the mark in
// its environment, but not among its arguments.
const listScript = `PATH=$PATH:/usr/local/bin:/usr/bin:/bin
for t in cat tr grep sort; do command -v $t >/dev/null || { echo "there is no $t" >&2; exit 1; }; done
cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\000' '\n' | grep -x "$1\.[A-Z2-7]*" | sort -u
exit 0`

// lookScript says which shell there is.
const lookScript = `if [ -x /bin/bash ]; then echo /bin/bash; else echo /bin/sh; fi`

// maxArgv is how many bytes the arguments of a command may have together; the
// SDK refuses more (validateExecArgs in sandbox.go).
const maxArgv = 1 << 16

// newWord makes a word that nobody can guess, of letters and digits only.
func newWord() string { return rand.Text() }

// argv is how a command with that mark is run in directory dir, with stdin or
// without, such that it ends its output with the word end.
func argv(end, dir string, stdin bool, mark string, command []string) []string {
	input := "/dev/null"
	if stdin {
		input = ""
	}
	return append([]string{"/bin/sh", "-c", runScript, "sh", end, dir, input, mark}, command...)
}

// fits reports whether args can be sent as arguments.
func fits(args []string) bool {
	n := 0
	for _, a := range args {
		n += len(a)
		if !utf8.ValidString(a) {
			return false
		}
	}
	return n <= maxArgv
}

// asScript is a shell script that becomes the command args.
func asScript(args []string) string {
	var b strings.Builder
	b.WriteString("exec")
	for _, a := range args {
		b.WriteString(" '" + strings.ReplaceAll(a, "'", `'\''`) + "'")
	}
	return b.String()
}

// checkText reports why a text cannot be an argument.
func checkText(what, text string) error {
	if strings.ContainsRune(text, 0) {
		return fmt.Errorf("%s cannot hold a NUL character", what)
	}
	return nil
}

// checkVariable reports why something cannot be an environment variable.
func checkVariable(name, value string) error {
	switch {
	case !variableName.MatchString(name):
		return fmt.Errorf("%q is not a name that Modal takes; use letters, digits and underscores", name)
	case !utf8.ValidString(value):
		return fmt.Errorf("the value of %s is not UTF-8, which Modal wants", name)
	}
	return checkText("the value of "+name, value)
}

// copyUntil copies what stands before the word end, as it comes, and reports
// whether it came to the word. Its error is that of to or of from; the end of
// from is none.
func copyUntil(to io.Writer, from io.Reader, end string) (found bool, err error) {
	word := []byte(end)
	buf := make([]byte, 0, 64<<10)
	for {
		n, err := from.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		show := len(buf)
		if i := bytes.Index(buf, word); i >= 0 {
			show, found = i, true
		} else if err == nil {
			show -= partial(buf, word) // which may be the word's beginning
		}
		if show > 0 {
			if _, err := to.Write(buf[:show]); err != nil {
				return found, err
			}
			buf = buf[:copy(buf, buf[show:])]
		}
		switch {
		case found, err == io.EOF:
			return found, nil
		case err != nil:
			return false, err
		}
	}
}

// How much is kept of what our scripts write. A sandbox can put anything in the
// place of its /bin/sh, and then what comes has no end.
const (
	maxSaid  = 4 << 10   // on stderr: it goes into an error
	maxShell = 4 << 10   // by lookScript: a path
	maxMarks = 256 << 10 // by listScript: 54 bytes for each command that runs
)

// A heading keeps the beginning of what is written to it.
type heading struct{ kept []byte }

func (h *heading) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), maxSaid-len(h.kept))]...)
	return len(p), nil
}

func (h *heading) String() string { return string(h.kept) }

// An answer keeps all that is written to it, and takes no more than max bytes.
type answer struct {
	max  int
	kept []byte
}

func (a *answer) Write(p []byte) (int, error) {
	if len(p) > a.max-len(a.kept) {
		return 0, fmt.Errorf("more than %d bytes came of a script that says less; the sandbox may have replaced its /bin/sh", a.max)
	}
	a.kept = append(a.kept, p...)
	return len(p), nil
}

func (a *answer) String() string { return string(a.kept) }

// partial returns how many bytes at the end of buf may be the beginning of
// word.
func partial(buf, word []byte) int {
	for n := min(len(buf), len(word)-1); n > 0; n-- {
		if bytes.HasSuffix(buf, word[:n]) {
			return n
		}
	}
	return 0
}
