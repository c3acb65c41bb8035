package profiles

import (
	"fmt"
	"strings"
)

// A Problem is one thing that is wrong in a configuration.
type Problem struct {
	File string // as it was named or found
	Line int    // counted from 1; 0 = the file as a whole
	Key  string // dotted, as "profiles.python.memory"; "" when it is not about one key
	Text string // what is wrong, then "; " and what would be right
}

// Error writes the problem in one line, "file:line: key: text", and leaves
// out what is not known.
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	return b.String() + p.Text
}

// Problems is every problem of a configuration, in the order of its files and
// lines. It is the error that [Load] returns.
type Problems []Problem

// Error writes one problem on each line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}
