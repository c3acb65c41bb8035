package agent

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxArg is how long one argument may be on any Linux: 32 pages of 4 KiB, with
// its zero byte (MAX_ARG_STRLEN in linux/binfmts.h).
const maxArg = 128<<10 - 1

// shellArgs returns the arguments with which a shell runs command. The common
// case is
//
//	SHELL -c COMMAND
//
// A command that is too long for one argument comes in pieces, and one line
// puts them together again. Any POSIX shell then runs them as with -c: stdin
// is free, $0 is the shell, there are no positional parameters, and lines
// count from 1. Only the shell's own messages may add that it was in an eval.
//
//	SHELL -c 'eval "shift 2; ${1}${2}"' SHELL PIECE PIECE
func shellArgs(shell, command string) []string {
	if len(command) <= maxArg {
		return []string{shell, "-c", command}
	}
	args := []string{shell, "-c", "", shell}
	var all strings.Builder
	for n := 1; command != ""; n++ {
		piece := min(len(command), maxArg)
		for back := 0; back < utf8.UTFMax && piece < len(command) && !utf8.RuneStart(command[piece]); back++ {
			piece--
		}
		args = append(args, command[:piece])
		command = command[piece:]
		fmt.Fprintf(&all, "${%d}", n)
	}
	args[2] = fmt.Sprintf(`eval "shift %d; %s"`, len(args)-4, all.String())
	return args
}
