package modal

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// What runs in a sandbox:
//
//	Modal's worker ── sh with runScript ── the command ── what it starts
//	             └─── sh with killScript
//
// All of the first line have markName=… in their environment.

// markName is the variable with the mark of a command.
const markName = "KILNTAINERS_EXEC"

// runScript runs $4 and the rest in the directory $2 (or where it is) with the
// file $3 (or its own stdin) as stdin. When that has ended, it writes $1, a
// word that nothing else writes, to both streams. All that the command wrote
// stands before it, since it is the same pipe; what its background processes
// write stands after it. Its exit status is the command's, 126 if the directory
// is not there.
//
// It has only builtins, so that it works with any PATH, and no variables of
// its own, which might be some of the command's. The traps, which the command
// does not inherit, let it outlive a command's kill 0. What it would say
// itself ("Killed") goes nowhere.
const runScript = `trap : HUP INT QUIT TERM
exec 3>&2 2>/dev/null
(
	exec 2>&3 3>&-
	[ -z "$2" ] || cd "$2" || exit 126
	[ -z "$3" ] || exec <"$3"
	shift 3
	exec "$@"
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
// and what looks like the rest, so the rest is what follows the last ") " of the
// last line.
const killScript = `PATH=$PATH:/usr/local/bin:/usr/bin:/bin
look() {
	line=
	while read -r last; do line=$last; done <"/proc/$1/stat" || return
	set -- ${line##*) }
	state=$1 parent=$2 group=$3 session=$4
} 2>/dev/null
look $$
mygroup=$group mysession=$session
pids=' ' groups=' ' sessions=' ' clean=0 round=0
command -v grep >/dev/null || exit 1
while [ $clean -lt 2 ]; do
	round=$((round+1))
	[ $round -le 200 ] || exit 1
	for p in $(grep -lsF "` + markName + `=$1" /proc/[0-9]*/environ); do
		p=${p#/proc/} p=${p%/environ}
		case $pids in *" $p "*) ;; *) pids="$pids$p " ;; esac
	done
	grew=1 alive=
	while [ $grew = 1 ]; do
		grew=0 alive=
		for p in /proc/[0-9]*; do
			p=${p#/proc/}
			look $p || continue
			[ $p -gt 1 ] && [ $p != $$ ] && [ "$parent" != $$ ] || continue
			case $pids in
			*" $p "*) ;;
			*)
				case $pids$groups$sessions in
				*" $parent "* | *" g$group "* | *" s$session "*) pids="$pids$p " grew=1 ;;
				*) continue ;;
				esac
				;;
			esac
			[ "$group" -le 1 ] || [ $group = $mygroup ] || case $groups in
			*" g$group "*) ;;
			*) groups="${groups}g$group " grew=1 ;;
			esac
			[ "$session" -le 1 ] || [ $session = $mysession ] || case $sessions in
			*" s$session "*) ;;
			*) sessions="${sessions}s$session " grew=1 ;;
			esac
			case $state in Z | X) ;; *) alive="$alive $p -$group" ;; esac
		done
	done
	if [ -z "$alive" ]; then
		clean=$((clean+1))
		continue
	fi
	clean=0
	for p in $alive; do
		[ $p = -$mygroup ] || [ $p -ge -1 ] && [ $p -le 1 ] || kill -s KILL -- $p
	done 2>/dev/null
done`

// lookScript says which shell there is.
const lookScript = `if [ -x /bin/bash ]; then echo /bin/bash; else echo /bin/sh; fi`

// maxArgv is how many bytes the arguments of a command may have together; the
// SDK refuses more (validateExecArgs in sandbox.go).
const maxArgv = 1 << 16

// newWord makes a word that nobody can guess, of letters and digits only.
func newWord() string { return rand.Text() }

// argv is how a command is run in directory dir, with stdin or without, such
// that it ends its output with the word end.
func argv(end, dir string, stdin bool, command []string) []string {
	input := "/dev/null"
	if stdin {
		input = ""
	}
	return append([]string{"/bin/sh", "-c", runScript, "sh", end, dir, input}, command...)
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

// errEnd is the end of a stream at its end word.
var errEnd = errors.New("the end word")

// copyUntil copies what stands before the word end, as it comes. It returns
// nil at the word or at the end of from, a writeError for one of to, and else
// the error of from.
func copyUntil(to io.Writer, from io.Reader, end string) error {
	word := []byte(end)
	buf := make([]byte, 0, 64<<10)
	for {
		n, err := from.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		show := len(buf) - partial(buf, word)
		if i := bytes.Index(buf, word); i >= 0 {
			show, err = i, errEnd
		} else if err != nil {
			show = len(buf) // what looked like the word's beginning is none
		}
		if show > 0 {
			if _, werr := to.Write(buf[:show]); werr != nil {
				return writeError{werr}
			}
			buf = buf[:copy(buf, buf[show:])]
		}
		switch err {
		case nil:
		case errEnd, io.EOF:
			return nil
		default:
			return err
		}
	}
}

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

// A writeError is the error of a writer, told apart from that of a reader.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }
