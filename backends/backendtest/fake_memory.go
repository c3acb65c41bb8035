package backendtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// A memoryMachine runs commands as function calls. Foreground commands run in
// Exec's own goroutine; each background command has one, which ends when the
// command is killed.
type memoryMachine struct {
	id   string
	spec backends.Spec

	mu    sync.Mutex
	gone  bool
	files map[string]string // absolute path → content
	procs map[*memoryProc]bool
}

// A memoryProc is a command that runs.
type memoryProc struct {
	machine *memoryMachine
	exec    *memoryProc // the one that Exec started, maybe itself
	name    string
	kill    context.CancelFunc
	done    chan struct{} // closed when a background command has ended

	env            map[string]string
	dir            string
	stdin          io.Reader
	stdout, stderr io.Writer
}

func newMemoryMachine(id string, spec backends.Spec) machine {
	return &memoryMachine{id: id, spec: spec, files: map[string]string{}, procs: map[*memoryProc]bool{}}
}

func (m *memoryMachine) run(ctx context.Context, e backends.Exec) (backends.Exit, error) {
	p := &memoryProc{
		machine: m, dir: path.Join("/", e.Dir), stdin: e.Stdin, stdout: e.Stdout, stderr: e.Stderr,
		env:  map[string]string{"PATH": "/bin", "HOME": "/"},
		name: "sh -c " + e.Command,
	}
	p.exec = p
	maps.Copy(p.env, e.Env)
	if p.stdin == nil {
		p.stdin = strings.NewReader("")
	}
	if len(e.Args) > 0 {
		p.name = strings.Join(e.Args, " ")
	}
	if !m.add(p) {
		return backends.Exit{}, context.Cause(ctx)
	}
	var code int
	switch {
	case !m.isDir(p.dir):
		fmt.Fprintf(p.stderr, "working directory %s: %v\n", p.dir, fs.ErrNotExist)
		code = 127
	case len(e.Args) > 0:
		code = p.call(ctx, e.Args)
	default:
		code = p.script(ctx, e.Command)
	}
	m.remove(p)
	if err := context.Cause(ctx); err != nil {
		m.killAll(func(q *memoryProc) bool { return q.exec == p })
		return backends.Exit{}, err
	}
	return backends.Exit{Code: code}, nil
}

func (m *memoryMachine) add(p *memoryProc) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.gone {
		m.procs[p] = true
	}
	return !m.gone
}

func (m *memoryMachine) remove(p *memoryProc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.procs, p)
}

// isDir reports whether there is such a directory: it is one that every
// system has, the profile's, or has a file in it.
func (m *memoryMachine) isDir(dir string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if dir == "/" || dir == "/tmp" || dir == path.Clean(m.spec.Dir) {
		return true
	}
	for name := range m.files {
		if strings.HasPrefix(name, dir+"/") {
			return true
		}
	}
	return false
}

func (m *memoryMachine) running() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for p := range m.procs {
		names = append(names, p.name)
	}
	slices.Sort(names)
	return names
}

// killAll kills the background commands that match, until there is none.
func (m *memoryMachine) killAll(match func(*memoryProc) bool) {
	for {
		m.mu.Lock()
		var victims []*memoryProc
		for p := range m.procs {
			if p.done != nil && match(p) {
				victims = append(victims, p)
			}
		}
		m.mu.Unlock()
		if len(victims) == 0 {
			return
		}
		for _, p := range victims {
			p.kill()
			<-p.done
		}
	}
}

func (m *memoryMachine) destroy() {
	m.mu.Lock()
	m.gone = true
	m.mu.Unlock()
	m.killAll(func(*memoryProc) bool { return true })
}

// script runs the small shell that InMemory documents.
func (p *memoryProc) script(ctx context.Context, text string) int {
	cmds, err := parseScript(text, p.env)
	if err != nil {
		fmt.Fprintf(p.stderr, "sh: %v\n", err)
		return 2
	}
	code := 0
	for _, c := range cmds {
		switch {
		case ctx.Err() != nil:
			return 137
		case c.after == "&&" && code != 0, c.after == "||" && code == 0:
			continue
		case c.background:
			code = p.spawn(ctx, c)
		default:
			code = p.redirected(ctx, c)
		}
		if !c.background && c.argv[0] == "exit" {
			break
		}
	}
	return code
}

// spawn starts a command in the background.
func (p *memoryProc) spawn(ctx context.Context, c memoryCommand) int {
	ctx, kill := context.WithCancel(context.WithoutCancel(ctx))
	q := *p
	q.name, q.kill, q.done, q.stdin = strings.Join(c.argv, " "), kill, make(chan struct{}), strings.NewReader("")
	if !p.machine.add(&q) {
		kill()
		return 137
	}
	go func() {
		defer close(q.done)
		defer p.machine.remove(&q)
		defer kill()
		q.redirected(ctx, c)
	}()
	return 0
}

// redirected runs a command with its redirections.
func (p *memoryProc) redirected(ctx context.Context, c memoryCommand) int {
	q := *p
	for _, r := range c.redirects {
		name := p.abs(r.file)
		switch r.op {
		case ">&2":
			q.stdout = q.stderr
		case "<":
			text, err := p.machine.read(name)
			if err != nil {
				fmt.Fprintf(p.stderr, "sh: %v\n", err)
				return 1
			}
			q.stdin = strings.NewReader(text)
		default:
			p.machine.write(name, "", r.op == ">>")
			q.stdout = memoryFile{p.machine, name}
		}
	}
	return q.call(ctx, c.argv)
}

// call runs one of the built-in commands and returns its status.
func (p *memoryProc) call(ctx context.Context, argv []string) int {
	name, args := argv[0], argv[1:]
	switch name = strings.TrimPrefix(name, "/bin/"); name {
	case "sh", "bash":
		if len(args) == 2 && args[0] == "-c" {
			return p.script(ctx, args[1])
		}
		return p.fails(2, "sh: want -c SCRIPT")
	case "true":
		return 0
	case "false":
		return 1
	case "echo":
		return p.writes(strings.Join(args, " ") + "\n")
	case "pwd":
		return p.writes(p.dir + "\n")
	case "id":
		return p.writes(p.machine.id + "\n")
	case "env":
		var lines []string
		for k, v := range p.env {
			lines = append(lines, k+"="+v+"\n")
		}
		slices.Sort(lines)
		return p.writes(strings.Join(lines, ""))
	case "exit":
		if len(args) == 0 {
			return 0
		}
		code, err := strconv.Atoi(args[0])
		if err != nil {
			return p.fails(2, "exit: "+err.Error())
		}
		return code & 0xff
	case "sleep":
		seconds, err := strconv.ParseFloat(strings.Join(args, " "), 64)
		if err != nil {
			return p.fails(1, "sleep: "+err.Error())
		}
		if sleep(ctx, time.Duration(seconds*float64(time.Second))) != nil {
			return 137
		}
		return 0
	case "yes":
		line := cmp.Or(strings.Join(args, " "), "y") + "\n"
		for chunk := strings.Repeat(line, max(1, 64<<10/len(line))); sleep(ctx, time.Millisecond) == nil; {
			p.writes(chunk)
		}
		return 137
	case "cat":
		if len(args) == 0 {
			_, err := io.Copy(untilDone{ctx, p.stdout}, p.stdin)
			if err != nil {
				return 1
			}
		}
		for _, a := range args {
			text, err := p.machine.read(p.abs(a))
			if err != nil {
				return p.fails(1, "cat: "+err.Error())
			}
			p.writes(text)
		}
		return 0
	case "rm":
		for _, a := range args {
			if err := p.machine.unlink(p.abs(a)); err != nil {
				return p.fails(1, "rm: "+err.Error())
			}
		}
		return 0
	}
	if p.machine.isDir(name) {
		return p.fails(126, "exec "+name+": is a directory")
	}
	if _, err := p.machine.read(p.abs(name)); err == nil {
		return p.fails(126, "exec "+name+": "+fs.ErrPermission.Error())
	}
	return p.fails(127, "exec "+name+": not found")
}

func (p *memoryProc) writes(s string) int {
	if _, err := io.WriteString(p.stdout, s); err != nil {
		return 1
	}
	return 0
}

func (p *memoryProc) fails(code int, why string) int {
	fmt.Fprintln(p.stderr, why)
	return code
}

func (p *memoryProc) abs(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(p.dir, name)
}

func (m *memoryMachine) read(name string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	text, ok := m.files[name]
	if !ok {
		return "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return text, nil
}

func (m *memoryMachine) write(name, text string, more bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if more {
		text = m.files[name] + text
	}
	m.files[name] = text
}

func (m *memoryMachine) unlink(name string) error {
	if _, err := m.read(name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, name)
	return nil
}

// A memoryFile appends what is written.
type memoryFile struct {
	machine *memoryMachine
	name    string
}

func (f memoryFile) Write(p []byte) (int, error) {
	f.machine.write(f.name, string(p), true)
	return len(p), nil
}

// untilDone fails when ctx has ended, so that a copy stops.
type untilDone struct {
	ctx context.Context
	w   io.Writer
}

func (u untilDone) Write(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, u.ctx.Err()
	}
	return u.w.Write(p)
}

// A memoryCommand is one command of a script.
type memoryCommand struct {
	after      string // "&&" or "||" when it depends on the command before
	argv       []string
	redirects  []redirect
	background bool
}

// A redirect is >FILE, >>FILE, <FILE or >&2.
type redirect struct{ op, file string }

// parseScript splits a script into commands, with variables expanded: there
// is no assignment, so they do not change.
func parseScript(text string, env map[string]string) (cmds []memoryCommand, err error) {
	var c memoryCommand
	redirecting := "" // the operator whose file is to come
	for text = trimBlanks(text); text != ""; text = trimBlanks(text) {
		op := ""
		for _, o := range []string{">&2", ">>", "&&", "||", ">", "<", ";", "\n", "&"} {
			if strings.HasPrefix(text, o) {
				op = o
				break
			}
		}
		text = text[len(op):]
		if op != "" && redirecting != "" {
			return nil, fmt.Errorf("no file after %s", redirecting)
		}
		switch op {
		case ">&2":
			c.redirects = append(c.redirects, redirect{op: op})
		case ">", ">>", "<":
			redirecting = op
		case "":
			var word string
			if word, text, err = parseWord(text, env); err != nil {
				return nil, err
			}
			if redirecting != "" {
				c.redirects = append(c.redirects, redirect{redirecting, word})
				redirecting = ""
			} else {
				c.argv = append(c.argv, word)
			}
		default:
			if len(c.argv) == 0 && op != "\n" {
				return nil, fmt.Errorf("no command before %s", op)
			}
			if len(c.argv) > 0 {
				c.background = op == "&"
				cmds = append(cmds, c)
			}
			c = memoryCommand{}
			if op == "&&" || op == "||" {
				c.after = op
			}
		}
	}
	if redirecting != "" {
		return nil, fmt.Errorf("no file after %s", redirecting)
	}
	if len(c.argv) > 0 {
		cmds = append(cmds, c)
	} else if c.after != "" {
		return nil, fmt.Errorf("no command after %s", c.after)
	}
	return cmds, nil
}

func trimBlanks(s string) string { return strings.TrimLeft(s, " \t") }

// parseWord reads one word: quotes, backslashes, $NAME.
func parseWord(text string, env map[string]string) (word, rest string, err error) {
	var b strings.Builder
	double := false // inside double quotes
	for i := 0; i < len(text); i++ {
		ch := text[i]
		switch {
		case ch == '"':
			double = !double
		case ch == '\\' && i+1 < len(text) && (!double || strings.IndexByte("$\"\\", text[i+1]) >= 0):
			i++
			b.WriteByte(text[i])
		case ch == '$':
			name, _, _ := strings.Cut(text[i+1:], "$")
			if end := strings.IndexFunc(name, func(r rune) bool {
				return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
			}); end >= 0 {
				name = name[:end]
			}
			if name == "" {
				b.WriteByte('$')
			}
			b.WriteString(env[name])
			i += len(name)
		case double:
			b.WriteByte(ch)
		case ch == '\'':
			end := strings.IndexByte(text[i+1:], '\'')
			if end < 0 {
				return "", "", errors.New("a ' is not closed")
			}
			b.WriteString(text[i+1 : i+1+end])
			i += end + 1
		case strings.IndexByte(" \t\n;&|<>", ch) >= 0:
			if b.Len() == 0 && i == 0 {
				return "", "", fmt.Errorf("%q is not understood", ch)
			}
			return b.String(), text[i:], nil
		default:
			b.WriteByte(ch)
		}
	}
	if double {
		return "", "", errors.New(`a " is not closed`)
	}
	return b.String(), "", nil
}
