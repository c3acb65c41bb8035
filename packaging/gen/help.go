package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// A program is what its --help says, and that of its commands.
type program struct {
	name     string
	help     help
	commands []command
}

type command struct {
	name, summary string
	help          help // zero if it has no help of its own
}

// A help is the text of --help, taken apart. Its parts are apart by blank
// lines, and are told from each other by how they begin:
//
//	Usage: prog [flags]             the synopsis, one form a line
//	       prog COMMAND
//
//	Says what it does.              a paragraph
//
//	Flags:                          a list
//	  -p, --profile NAME   text
//	                       more
//
//	Exit status: 0 or 1.            a section of its own in a manual page
//
//	  prog --profile x              an example, as it stands
type help struct {
	usage []string
	parts []part
}

// A part has a list, a paragraph or an example.
type part struct {
	heading string // "Flags", "Exit status", or ""
	text    string
	items   []item
	example []string
}

// An item is a flag or a command.
type item struct {
	short, name, value string // "-p", "--profile", "NAME"
	text               string
}

// ask runs a program, and each of the commands that it says it has.
func ask(path string) (program, error) {
	p := program{name: filepath.Base(path)}
	text, err := output(path, "--help")
	if err != nil {
		return p, err
	}
	if p.help, err = parse(text); err != nil {
		return p, fmt.Errorf("%s --help: %w", p.name, err)
	}
	for _, it := range p.help.list("Commands") {
		c := command{name: it.name, summary: it.text}
		own, err := output(path, it.name, "--help")
		if err != nil {
			return p, err
		}
		if own != text {
			if c.help, err = parse(own); err != nil {
				return p, fmt.Errorf("%s %s --help: %w", p.name, it.name, err)
			}
		}
		p.commands = append(p.commands, c)
	}
	return p, nil
}

func output(path string, args ...string) (string, error) {
	out, err := exec.Command(path, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", path, strings.Join(args, " "), err)
	}
	return string(out), nil
}

// list returns the items under a heading.
func (h help) list(heading string) []item {
	for _, p := range h.parts {
		if p.heading == heading {
			return p.items
		}
	}
	return nil
}

var (
	listHead    = regexp.MustCompile(`^([A-Z][a-z]+):$`)
	sectionHead = regexp.MustCompile(`^(Signals|Exit status|Environment): `)
	flagLine    = regexp.MustCompile(`^ {2,8}(?:(-\w), )?(--[a-z][a-z-]*)(?: ([A-Z]+))?(?:  +| ?$)(.*)$`)
	wordLine    = regexp.MustCompile(`^  ([a-z][a-z-]*)  +(.*)$`)
)

// parse takes a help text apart. What it does not understand is an error, so
// that nothing gets lost on the way to the manual.
func parse(text string) (h help, err error) {
	usage, rest, _ := strings.Cut(text, "\n\n")
	form, ok := strings.CutPrefix(usage, "Usage: ")
	if !ok {
		return h, fmt.Errorf("it begins with %.20q; want Usage:", text)
	}
	for line := range strings.SplitSeq(form, "\n") {
		h.usage = append(h.usage, strings.TrimSpace(line))
	}
	for chunk := range strings.SplitSeq(strings.Trim(rest, "\n"), "\n\n") {
		lines := strings.Split(chunk, "\n")
		var p part
		if m := listHead.FindStringSubmatch(lines[0]); m != nil {
			p.heading = m[1]
			if p.items, err = parseList(lines[1:]); err != nil {
				return h, fmt.Errorf("%s: %w", m[1], err)
			}
		} else if strings.HasPrefix(lines[0], "  ") {
			for _, line := range lines {
				p.example = append(p.example, strings.TrimPrefix(line, "  "))
			}
		} else {
			p.text = strings.Join(lines, " ")
			if m := sectionHead.FindStringSubmatch(p.text); m != nil {
				p.heading = m[1]
				p.text = p.text[len(m[0]):]
			}
		}
		h.parts = append(h.parts, p)
	}
	return h, nil
}

func parseList(lines []string) (items []item, err error) {
	for _, line := range lines {
		if m := flagLine.FindStringSubmatch(line); m != nil {
			items = append(items, item{m[1], m[2], m[3], m[4]})
		} else if m := wordLine.FindStringSubmatch(line); m != nil {
			items = append(items, item{name: m[1], text: m[2]})
		} else if strings.HasPrefix(line, "          ") && len(items) > 0 {
			last := &items[len(items)-1]
			last.text = strings.TrimSpace(last.text + " " + strings.TrimSpace(line))
		} else {
			return nil, fmt.Errorf("cannot read the line %q", line)
		}
	}
	return items, nil
}

// flags returns what may follow a command: its own flags, or the program's.
func (p program) flags(c command) []item {
	if own := c.help.list("Flags"); own != nil {
		return own
	}
	return p.help.list("Flags")
}

// takesArgs tells whether a command has arguments that are not flags.
func (c command) takesArgs() bool {
	return len(c.help.usage) > 0 && strings.Contains(c.help.usage[0], "--]")
}

var choiceText = regexp.MustCompile(`^([a-z]+(?:, [a-z]+)* or [a-z]+)\b`)

// choices returns the words that a flag can be given, if its text begins with
// them: "debug, info, warn or error".
func (i item) choices() []string {
	m := choiceText.FindString(i.text)
	if m == "" || i.value == "" {
		return nil
	}
	return strings.Split(strings.Replace(m, " or ", ", ", 1), ", ")
}

// kind is what completes a flag's value: "", "file", "profile" or "choice".
func (i item) kind() string {
	switch {
	case i.value == "FILE", i.value == "PATH":
		return "file"
	case i.name == "--profile":
		return "profile"
	case i.choices() != nil:
		return "choice"
	}
	return ""
}

// brief is the text without what stands in brackets at its end.
func (i item) brief() string {
	text, _, _ := strings.Cut(i.text, " (")
	return text
}
