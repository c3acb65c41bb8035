package sh

import (
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/applets"
	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
	"mvdan.cc/sh/v3/syntax"
)

// pushFds gives the shell a descriptor table of its own for one command;
// popFds puts the old one back and closes what the command opened.
func (s *Shell) pushFds() map[int]*file {
	old := s.fds
	s.fds = maps.Clone(old)
	for _, f := range s.fds {
		f.share()
	}
	return old
}

func (s *Shell) popFds(old map[int]*file) {
	for _, f := range s.fds {
		f.close()
	}
	s.fds = old
}

// setFd makes f, whose reference passes to the table, descriptor fd.
func (s *Shell) setFd(fd int, f *file) {
	if o := s.fds[fd]; o != nil {
		o.close()
	}
	if f == nil {
		delete(s.fds, fd)
		return
	}
	s.fds[fd] = f
}

// redirect applies redirections in order; false after the first that fails.
func (s *Shell) redirect(l []*syntax.Redirect) bool {
	for _, r := range l {
		if !s.redirect1(r) {
			return false
		}
	}
	return true
}

func (s *Shell) redirect1(r *syntax.Redirect) bool {
	fd := 1
	switch r.Op {
	case syntax.RdrIn, syntax.RdrInOut, syntax.DplIn, syntax.Hdoc, syntax.DashHdoc, syntax.WordHdoc:
		fd = 0
	}
	varName := ""
	if r.N != nil {
		n, err := strconv.Atoi(r.N.Value)
		switch {
		case err == nil:
			fd = n
		case strings.HasPrefix(r.N.Value, "{"):
			varName = strings.Trim(r.N.Value, "{}")
			for fd = 10; s.fds[fd] != nil; fd++ {
			}
		}
	}
	if varName != "" {
		if target := s.wordOfDup(r); target == "-" {
			n, _ := strconv.Atoi(s.get(varName))
			s.setFd(n, nil)
			return true
		}
	}
	ok := s.redirectTo(fd, r)
	if ok && varName != "" {
		s.setString(varName, strconv.Itoa(fd))
	}
	return ok
}

func (s *Shell) wordOfDup(r *syntax.Redirect) string {
	if r.Op == syntax.DplIn || r.Op == syntax.DplOut {
		return s.word(r.Word)
	}
	return ""
}

func (s *Shell) redirectTo(fd int, r *syntax.Redirect) bool {
	flags := os.O_RDONLY
	switch r.Op {
	case syntax.Hdoc, syntax.DashHdoc:
		return s.hereDoc(fd, s.hereText(r))
	case syntax.WordHdoc:
		return s.hereDoc(fd, s.word(r.Word)+"\n")
	case syntax.DplIn, syntax.DplOut:
		return s.duplicate(fd, r)
	case syntax.RdrOut, syntax.RdrClob, syntax.RdrAll:
		flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	case syntax.AppOut, syntax.AppAll:
		flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	case syntax.RdrInOut:
		flags = os.O_RDWR | os.O_CREATE
	}
	name, ok := s.target(r)
	if !ok {
		return false
	}
	if s.opt['C'] && (r.Op == syntax.RdrOut || r.Op == syntax.RdrAll) {
		if i, err := sys.Stat(s.path(name)); err == nil && i.IsRegular() {
			s.errorf("%s: cannot overwrite existing file", name)
			return false
		}
	}
	f, err := s.open(name, flags)
	if err != nil {
		s.cannotOpen(name, flags, err)
		return false
	}
	nf := newFile(f)
	if r.Op == syntax.RdrAll || r.Op == syntax.AppAll {
		s.setFd(2, nf.share())
	}
	s.setFd(fd, nf)
	return true
}

func (s *Shell) cannotOpen(name string, flags int, err error) {
	text := applets.Strerror(err)
	if s.ash {
		verb := "open"
		if flags&os.O_CREATE != 0 {
			verb = "create"
			if text == "No such file or directory" {
				text = "nonexistent directory"
			}
		} else if text == "No such file or directory" {
			text = "no such file"
		}
		s.errorf("can't %s %s: %s", verb, name, text)
		return
	}
	s.errorf("%s: %s", name, text)
}

// target is the file name of a redirection.
func (s *Shell) target(r *syntax.Redirect) (string, bool) {
	if !s.bash {
		return s.word(r.Word), true // POSIX: neither split nor matched with files
	}
	names := s.fieldsOf([]*syntax.Word{r.Word})
	if len(names) != 1 {
		s.errorf("%s: ambiguous redirect", s.source(r.Word))
		return "", false
	}
	return names[0], true
}

// open opens a file relative to the shell's directory, with its umask.
func (s *Shell) open(name string, flags int) (*os.File, error) {
	if name == "" {
		return nil, syscall.ENOENT
	}
	if n, ok := devFd(name); ok {
		f := s.fds[n]
		if f == nil {
			return nil, syscall.ENOENT
		}
		return dup(f.f)
	}
	if i, err := sys.Stat(s.path(name)); err == nil && i.StMode&syscall.S_IFMT == syscall.S_IFIFO && flags&os.O_RDWR == 0 {
		s.tell(0) // & does not wait for this
		for {     // the other end may be opened by another subshell of this process
			f, err := sys.OpenFIFO(s.path(name), flags&os.O_WRONLY != 0)
			if !errors.Is(err, syscall.ENXIO) {
				return f, err
			}
			time.Sleep(2 * time.Millisecond)
			s.yield()
		}
	}
	defer sys.Umask(sys.Umask(s.mask))
	return os.OpenFile(s.path(name), flags, 0o666)
}

// devFd recognises the names of this shell's own descriptors.
func devFd(name string) (int, bool) {
	switch name {
	case "/dev/stdin":
		return 0, true
	case "/dev/stdout":
		return 1, true
	case "/dev/stderr":
		return 2, true
	}
	if filepath.Dir(name) == "/dev/fd" {
		n, err := strconv.Atoi(filepath.Base(name))
		return n, err == nil
	}
	return 0, false
}

func dup(f *os.File) (*os.File, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var n *os.File
	c.Control(func(fd uintptr) { n, err = sys.Dup(int(fd)) })
	return n, err
}

// duplicate is >&2, <&3-, >&- and, for files, >&name.
func (s *Shell) duplicate(fd int, r *syntax.Redirect) bool {
	w := s.word(r.Word)
	if w == "-" {
		s.setFd(fd, nil)
		return true
	}
	move := strings.HasSuffix(w, "-")
	n, err := strconv.Atoi(strings.TrimSuffix(w, "-"))
	if err != nil {
		if r.Op == syntax.DplOut && r.N == nil {
			f, err := s.open(w, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
			if err != nil {
				s.errorf("%s: %s", w, applets.Strerror(err))
				return false
			}
			nf := newFile(f)
			s.setFd(2, nf.share())
			s.setFd(1, nf)
			return true
		}
		s.errorf("%s: ambiguous redirect", w)
		return false
	}
	f := s.fds[n]
	if f == nil {
		s.errorf("%d: Bad file descriptor", n)
		return false
	}
	if n != fd {
		s.setFd(fd, f.share())
		if move {
			s.setFd(n, nil)
		}
	}
	return true
}

// hereText expands a here-document's body unless its delimiter was quoted.
func (s *Shell) hereText(r *syntax.Redirect) string {
	quoted := false
	for _, p := range r.Word.Parts {
		if l, ok := p.(*syntax.Lit); !ok || strings.IndexByte(l.Value, '\\') >= 0 {
			quoted = true
		}
	}
	if r.Hdoc == nil {
		return ""
	}
	if quoted {
		var b strings.Builder
		for _, p := range r.Hdoc.Parts {
			if l, ok := p.(*syntax.Lit); ok {
				b.WriteString(l.Value)
			}
		}
		if r.Op == syntax.DashHdoc {
			return untab(b.String(), true)
		}
		return b.String()
	}
	body := r.Hdoc
	if r.Op == syntax.DashHdoc {
		body = stripTabs(body)
	}
	return s.wordIn(body, mode{heredoc: true})
}

// stripTabs removes the tabs at the start of each line of <<- text, before
// anything is expanded.
func stripTabs(w *syntax.Word) *syntax.Word {
	c := &syntax.Word{}
	start := true
	for _, p := range w.Parts {
		if l, ok := p.(*syntax.Lit); ok {
			p = &syntax.Lit{Value: untab(l.Value, start)}
			start = strings.HasSuffix(l.Value, "\n")
		} else {
			start = false
		}
		c.Parts = append(c.Parts, p)
	}
	return c
}

func untab(s string, start bool) string {
	if start {
		s = strings.TrimLeft(s, "\t")
	}
	lines := strings.Split(s, "\n")
	for i := range lines[1:] {
		lines[i+1] = strings.TrimLeft(lines[i+1], "\t")
	}
	return strings.Join(lines, "\n")
}

// hereDoc makes text readable on fd.
func (s *Shell) hereDoc(fd int, text string) bool {
	r, w, err := sys.Pipe()
	if err != nil {
		s.errorf("cannot make pipe for here-document: %s", applets.Strerror(err))
		return false
	}
	if len(text) <= 4096 { // what every pipe takes at once
		io.WriteString(w, text)
		w.Close()
	} else {
		go func() { io.WriteString(w, text); w.Close() }()
	}
	s.setFd(fd, newFile(r))
	return true
}
