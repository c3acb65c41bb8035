// Package sh is the shell: bash's language and messages on processes of the
// kernel, without fork.
//
//	sh -c 'sort <a | uniq -c &'
//
//	            ┌ Shell ───────────────┐   fork    ┌ Shell (goroutine) ┐  sys.Start
//	parser ───► │ variables, functions │ ────────► │ own copy of all,  │ ───────────► sort, uniq
//	            │ descriptors, traps   │           │ pipe as its fd 1  │  with its fds
//	            └──────────────────────┘           └───────────────────┘
//
// A simple command that is not built in is a process. What bash forks for —
// ( ), $( ), pipeline elements that are loops or functions, & — is a copy of
// the Shell on a goroutine of the same process; it takes turns at every
// statement. So descriptors, working directory and umask are the Shell's own
// tables, given to a process when it starts, and the real ones stay as they
// are. Such a subshell has a pid that only this shell knows, which kill and
// wait accept.
//
// The language is read by mvdan.cc/sh/v3/syntax; expansion and execution are
// here. Not there: job control on a terminal, history, coproc.
package sh

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
	"mvdan.cc/sh/v3/syntax"
)

// control is why a list of statements stops early.
type control uint8

const (
	ctlNone control = iota
	ctlBreak
	ctlContinue
	ctlReturn
	ctlExit
)

// Shell is one shell environment: the main one, or a subshell's copy.
type Shell struct {
	shared *shared
	parent *Shell
	pid    int // of this subshell; shared.pid in the main shell
	depth  int // of subshells

	name       string // $0
	sourceName string // the file that . reads
	bash       bool   // called bash, not sh
	ash        bool   // called ash: its own wording of messages
	script     bool   // runs a file: messages have line numbers
	vars       map[string]*variable
	owned      map[string]bool // variables not shared with another Shell
	scopes     [][]saved       // what the locals of running functions hide
	callers    []call
	funcs      map[string]*function
	aliases    map[string]string
	params     []string
	opt        [128]bool
	shopt      map[string]bool
	noBrace    bool

	fds  map[int]*file
	dir  string
	mask int

	status      int
	pipestatus  []int
	lastBg      int
	underscore  string
	substLast   int // status of the last command substitution of a command, or -1
	line        int
	traps       map[string]string
	outerTraps  map[string]string // what trap shows in a subshell that set none
	trapStatus  int               // $? when the running trap began, for exit and return
	trapCallers int               // how many functions it interrupts
	inTrap      bool
	trapping    uint64 // signals whose traps run, by bit
	ctl         control
	ctlN        int
	loops       int
	noerr       int // > 0: a failure does not end the shell
	jobs        []*job
	outerJobs   []*job // what jobs shows in a subshell that started none
	optpos      int
	dirstack    []string
	hash        map[string]found
	tempFds     []int         // descriptors of <( ) of the running command
	announce    func(pid int) // tells & the pid, once
	killed      *atomic.Int32 // the signal that ended this subshell
	pending     chan int      // signals sent to a subshell that traps them
	testError   bool          // [[ ]] had a bad expression
}

type call struct {
	name   string
	line   int
	source string
}

type function struct {
	body   *syntax.Stmt
	source string // the text declare -f shows
	file   string
}

// shared is what all Shells of a process have in common.
type shared struct {
	pid       int
	running   atomic.Int32 // subshells on goroutines beside the main shell
	start     time.Time
	secondsAt int
	rng       *rand.PCG

	mu      sync.Mutex
	procs   map[int]*Shell // processes that are waited for, by pid
	subs    map[int]*Shell // subshells that have a pid
	nextPid int
	signals <-chan int
	own     chan int // those that this process sends itself
	stop    func()
	caught  map[int]bool
	self    string // this program's file
}

func (sh *shared) random() uint32 {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.rng == nil { // never at start: the state would be part of the snapshot
		var b [16]byte
		sys.Random(b[:])
		sh.rng = rand.NewPCG(binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:]))
	}
	return uint32(sh.rng.Uint64() >> 20)
}

func (sh *shared) seed(n uint64) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.rng = rand.NewPCG(n, 0)
}

// file is an open file in a descriptor table; the last user closes it.
type file struct {
	f    *os.File
	refs *atomic.Int32
}

func newFile(f *os.File) *file {
	r := &file{f: f, refs: new(atomic.Int32)}
	r.refs.Store(1)
	return r
}

func (f *file) share() *file { f.refs.Add(1); return f }

func (f *file) close() {
	if f.refs.Add(-1) == 0 {
		f.f.Close()
	}
}

type shellError struct{ msg string }

func (e *shellError) Error() string { return e.msg }

func errorf(format string, a ...any) error { return &shellError{fmt.Sprintf(format, a...)} }

// abort unwinds from an expansion that cannot go on.
type abort struct {
	status int
	exit   bool
}

// fail prints a message and gives up the running top-level command.
func (s *Shell) fail(status int, format string, a ...any) {
	s.errorf(format, a...)
	panic(abort{status: status})
}

// failExit does so and ends the shell.
func (s *Shell) failExit(status int, format string, a ...any) {
	s.errorf(format, a...)
	panic(abort{status: status, exit: true})
}

// errorf prints a message as bash does.
func (s *Shell) errorf(format string, a ...any) {
	fmt.Fprintf(s.stderr(), "%s: %s\n", s.where(), fmt.Sprintf(format, a...))
}

func (s *Shell) where() string {
	if name := s.sourceName; name != "" {
		return fmt.Sprintf("%s: line %d", name, s.line)
	}
	return fmt.Sprintf("%s: line %d", s.name, s.line)
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return 0, os.ErrClosed }
func (nowhere) Read(p []byte) (int, error)  { return 0, os.ErrClosed }

func (s *Shell) writer(fd int) io.Writer {
	if f := s.fds[fd]; f != nil {
		return output{s, f.f}
	}
	return nowhere{}
}

// output is where this shell itself writes. A pipe that nobody reads ends it
// as signal 13 would, and only it: the process has other shells. With that
// signal ignored or trapped the write just fails.
type output struct {
	s *Shell
	f *os.File
}

func (o output) Write(p []byte) (int, error) {
	n, err := o.f.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		if _, trapped := o.s.traps["PIPE"]; trapped {
			return n, errBrokenPipe
		}
		o.s.killed.CompareAndSwap(0, int32(sys.SignalNumber("PIPE")))
	}
	return n, err
}

// errBrokenPipe is EPIPE where it does not end anything.
var errBrokenPipe = errors.New("Broken pipe")

func (s *Shell) stderr() io.Writer { return s.writer(2) }

// path makes name absolute.
func (s *Shell) path(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return strings.TrimSuffix(s.dir, "/") + "/" + name
}

func (s *Shell) ids() (pid, ppid, pgid, uid, gid int) { return sys.Ids() }

func (s *Shell) parser() *syntax.Parser { return syntax.NewParser(syntax.Variant(syntax.LangBash)) }

// source is the text of a piece of syntax, on one line where that is possible.
func (s *Shell) source(n syntax.Node) string {
	var b bytes.Buffer
	switch x := n.(type) {
	case *syntax.Word:
		syntax.NewPrinter().Print(&b, x)
	case syntax.ArithmExpr:
		w := &syntax.Word{Parts: []syntax.WordPart{&syntax.ArithmExp{X: x}}}
		syntax.NewPrinter(syntax.SingleLine(true)).Print(&b, w)
		return strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(b.String(), "$(("), "))"))
	default:
		syntax.NewPrinter(syntax.SingleLine(true)).Print(&b, n)
	}
	return strings.TrimSpace(b.String())
}

// New makes the main shell of this process from its arguments' environment.
func New(name string, env []string, self string) *Shell {
	base := filepath.Base(strings.TrimPrefix(name, "-"))
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	s := &Shell{name: name, bash: base == "bash", ash: base == "ash", vars: map[string]*variable{}, owned: map[string]bool{},
		funcs: map[string]*function{}, aliases: map[string]string{}, shopt: map[string]bool{"extglob": true, "expand_aliases": base != "bash", "sourcepath": true},
		dir: dir, traps: map[string]string{}, substLast: -1}
	s.shared = &shared{start: time.Now(), procs: map[int]*Shell{}, subs: map[int]*Shell{}, nextPid: 1 << 22, caught: map[int]bool{}, own: make(chan int, 16), self: self}
	s.pending = s.shared.own
	s.shared.pid, _, _, _, _ = sys.Ids()
	s.pid = s.shared.pid
	s.killed = new(atomic.Int32)
	s.mask = sys.Umask(022)
	sys.Umask(s.mask)
	s.fds = map[int]*file{0: newFile(sys.PollableStdin()), 1: newFile(os.Stdout), 2: newFile(os.Stderr)}
	for _, f := range s.fds {
		f.share() // never closed
	}
	// Descriptors that were inherited above 2.
	for fd := 3; fd < 10; fd++ {
		if !sys.Inherited(fd) {
			continue
		}
		if f, err := sys.Dup(fd); err == nil {
			s.fds[fd] = newFile(f)
		}
	}
	for _, o := range "Bh" {
		s.opt[o] = true
	}
	s.importEnv(env)
	sys.KeepPipe()
	return s
}

// fork makes the environment of a subshell: a copy that shares open files.
func (s *Shell) fork() *Shell {
	c := *s
	c.parent = s
	c.depth++
	c.vars, c.hash = maps.Clone(s.vars), maps.Clone(s.hash)
	s.owned, c.owned = map[string]bool{}, map[string]bool{}
	c.funcs, c.aliases, c.shopt = maps.Clone(s.funcs), maps.Clone(s.aliases), maps.Clone(s.shopt)
	c.params, c.callers, c.dirstack = slices.Clone(s.params), slices.Clone(s.callers), slices.Clone(s.dirstack)
	c.scopes = make([][]saved, len(s.scopes))
	c.fds = make(map[int]*file, len(s.fds))
	for n, f := range s.fds {
		c.fds[n] = f.share()
	}
	if len(s.traps) > 0 {
		c.outerTraps = s.traps
	}
	c.traps = map[string]string{}
	for name, cmd := range s.traps {
		if cmd == "" {
			c.traps[name] = ""
		}
	}
	c.jobs, c.tempFds, c.announce = nil, nil, nil
	if len(s.jobs) > 0 {
		c.outerJobs = s.jobs
	}
	c.ctl, c.loops, c.inTrap, c.trapping = ctlNone, s.loops, false, 0
	c.killed, c.pending = new(atomic.Int32), nil
	return &c
}

// end closes a subshell's files, after its EXIT trap.
func (s *Shell) end() {
	s.exitTrap()
	for _, f := range s.fds {
		f.close()
	}
	s.fds = nil
}

// protect runs f and turns an abort into a status. It reports whether the
// shell has to end.
func (s *Shell) protect(f func()) {
	noerr, loops, callers, scopes := s.noerr, s.loops, len(s.callers), len(s.scopes)
	defer func() {
		if r := recover(); r != nil {
			a, ok := r.(abort)
			if !ok {
				panic(r)
			}
			s.status = a.status
			s.noerr, s.loops = noerr, loops
			s.callers, s.scopes = s.callers[:callers], s.scopes[:scopes]
			if a.exit || s.opt['e'] && s.noerr == 0 {
				s.ctl = ctlExit
			}
		}
	}()
	f()
}

// subshell runs f in a forked environment on the calling goroutine and
// returns its status.
func (c *Shell) runSub(f func()) int {
	c.protect(f)
	if c.ctl == ctlNone {
		c.protect(c.runTraps)
	}
	if c.ctl != ctlExit {
		c.ctl = ctlNone
	}
	c.end()
	if sig := c.killed.Load(); sig != 0 {
		return 128 + int(sig)
	}
	return c.status
}

// yield lets the other subshells of this process run, and stops one that was killed.
func (s *Shell) yield() {
	if s.depth > 0 || len(s.jobs) > 0 {
		runtime.Gosched()
	}
	for p := s; p != nil && (p.depth > 0 || p == s); p = p.parent {
		if sig := p.killed.Load(); sig != 0 {
			s.killed.CompareAndSwap(0, sig)
			panic(abort{status: 128 + int(sig), exit: true})
		}
	}
	s.runTraps()
}

// Run reads statements from r and executes them as they come.
func (s *Shell) Run(r io.Reader, name string) int {
	s.runReader(r, name)
	if s.ctl == ctlNone {
		s.protect(s.runTraps)
	}
	s.exitTrap()
	return s.status
}

// runReader executes r until its end or until the shell has to stop.
func (s *Shell) runReader(r io.Reader, name string) {
	var stop bool
	abortedLine := uint(0)
	err := s.stmts(r, name, func(st *syntax.Stmt) bool {
		if abortedLine != 0 && st.Pos().Line() == abortedLine {
			return true // bash gives up the whole line
		}
		abortedLine = 0
		clean := false
		s.protect(func() { s.stmt(st); clean = true })
		if !clean {
			abortedLine = st.End().Line()
		}
		stop = s.ctl != ctlNone
		return !stop
	})
	if err != nil && !stop {
		s.syntaxError(err, name)
	}
}

func (s *Shell) stmts(r io.Reader, name string, f func(*syntax.Stmt) bool) error {
	// The parser hands out a statement before it has read the here-documents
	// of its line; such a one waits for the next.
	var held []*syntax.Stmt
	run := func(l []*syntax.Stmt) bool {
		for _, st := range l {
			if !s.opt['n'] && !f(st) {
				return false
			}
		}
		return true
	}
	for st, err := range s.parser().StmtsSeq(r) {
		if err != nil {
			run(held)
			return err
		}
		held = append(held, st)
		if st.Semicolon.IsValid() && awaitsHereDoc(held) {
			continue
		}
		if !run(held) {
			return nil
		}
		held = nil
	}
	run(held)
	return nil
}

// awaitsHereDoc reports whether a here-document's body has not been read.
func awaitsHereDoc(l []*syntax.Stmt) bool {
	waits := false
	for _, st := range l {
		syntax.Walk(st, func(n syntax.Node) bool {
			if r, ok := n.(*syntax.Redirect); ok && (r.Op == syntax.Hdoc || r.Op == syntax.DashHdoc) && r.Hdoc == nil {
				waits = true
			}
			return !waits
		})
	}
	return waits
}

// syntaxError prints a parser's complaint and sets status 2.
func (s *Shell) syntaxError(err error, name string) {
	line, msg := uint(1), err.Error()
	var pe syntax.ParseError
	var le syntax.LangError
	switch {
	case errors.As(err, &pe):
		line, msg = pe.Pos.Line(), pe.Text
		if pe.Incomplete && strings.Contains(msg, "quote") {
			msg = "unexpected EOF while looking for matching quote"
			if s.ash {
				msg = "syntax error: unterminated quoted string"
			}
		} else if tok, _, ok := strings.Cut(strings.TrimPrefix(msg, "`"), "` can only be used"); ok && s.ash {
			msg = "syntax error: unexpected \"" + tok + "\""
		} else if tok, _, ok := strings.Cut(strings.TrimPrefix(msg, "`"), "` can only be used"); ok {
			msg = "syntax error near unexpected token `" + tok + "'"
		} else if pe.Incomplete {
			msg = "syntax error: unexpected end of file"
		} else {
			msg = "syntax error: " + msg
		}
	case errors.As(err, &le):
		line, msg = le.Pos.Line(), "syntax error: "+le.Feature+" is not supported"
	}
	fmt.Fprintf(s.stderr(), "%s: line %d: %s\n", name, line, msg)
	s.status = 2
	if s.depth == 0 && len(s.callers) == 0 && s.sourceName == "" {
		s.ctl = ctlExit
	}
}
