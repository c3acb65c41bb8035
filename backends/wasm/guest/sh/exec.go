package sh

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/applets"
	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
	"mvdan.cc/sh/v3/syntax"
)

// list runs statements until one of them changes the flow.
func (s *Shell) list(l []*syntax.Stmt) {
	for _, st := range l {
		s.stmt(st)
		if s.ctl != ctlNone {
			return
		}
	}
}

func (s *Shell) stmt(st *syntax.Stmt) {
	s.yield()
	if s.ctl != ctlNone { // a trap said exit or return
		return
	}
	s.line = int(st.Pos().Line())
	if st.Background {
		s.background(st)
		return
	}
	if st.Negated {
		s.noerr++
		s.command(st)
		s.noerr--
		if s.ctl == ctlNone {
			s.status = int(truth(s.status == 0))
		}
		return
	}
	s.command(st)
	if s.status != 0 && s.ctl == ctlNone && s.noerr == 0 && judges(st.Cmd) {
		s.failed()
	}
}

// judges reports whether a failure of c counts for set -e by itself; the other
// compound commands fail because of a command inside, which was judged.
func judges(c syntax.Command) bool {
	switch c := c.(type) {
	case *syntax.BinaryCmd:
		return c.Op == syntax.Pipe || c.Op == syntax.PipeAll
	case *syntax.IfClause, *syntax.WhileClause, *syntax.ForClause, *syntax.CaseClause, *syntax.Block, *syntax.TimeClause, *syntax.FuncDecl:
		return false
	}
	return true
}

// failed runs the ERR trap and set -e.
func (s *Shell) failed() {
	if cmd := s.traps["ERR"]; cmd != "" && !s.inTrap && (len(s.callers) == 0 || s.opt['E']) {
		s.runTrap(cmd)
	}
	if s.opt['e'] && s.ctl == ctlNone {
		s.ctl = ctlExit
	}
}

func (s *Shell) command(st *syntax.Stmt) {
	if call, ok := st.Cmd.(*syntax.CallExpr); ok {
		s.simple(st, call)
		return
	}
	if len(st.Redirs) == 0 {
		s.compound(st.Cmd)
		return
	}
	s.redirected(st.Redirs, func() { s.compound(st.Cmd) })
}

// redirected runs f with redirections in force.
func (s *Shell) redirected(redirs []*syntax.Redirect, f func()) {
	temps := s.tempFds
	s.tempFds = nil
	old := s.pushFds()
	defer func() {
		s.popFds(old)
		s.closeTemps()
		s.tempFds = temps
	}()
	if !s.redirect(redirs) {
		s.status = 1
		return
	}
	if f == nil {
		s.status = 0
		return
	}
	f()
}

func (s *Shell) compound(c syntax.Command) {
	if s.announce != nil {
		s.tell(0)
	}
	switch c := c.(type) {
	case nil:
		s.status = 0
	case *syntax.Block:
		s.list(c.Stmts)
	case *syntax.Subshell:
		sub := s.fork()
		s.status = sub.runSub(func() { sub.list(c.Stmts) })
		s.pipestatus = []int{s.status}
	case *syntax.BinaryCmd:
		s.binaryCmd(c)
	case *syntax.IfClause:
		s.ifClause(c)
	case *syntax.WhileClause:
		s.loop(func() bool {
			s.noerr++
			s.list(c.Cond)
			s.noerr--
			return (s.status == 0) != c.Until
		}, func() { s.list(c.Do) }, nil)
	case *syntax.ForClause:
		s.forClause(c)
	case *syntax.CaseClause:
		s.caseClause(c)
	case *syntax.FuncDecl:
		if c.Name == nil {
			return
		}
		s.funcs[c.Name.Value] = &function{body: c.Body, source: s.funcSource(c), file: s.sourceName}
		s.status = 0
	case *syntax.ArithmCmd:
		s.trace("((", s.source(c.X), "))")
		s.status = int(truth(s.arithm(c.X) == 0))
	case *syntax.LetClause:
		for _, x := range c.Exprs {
			s.status = int(truth(s.arithm(x) == 0))
		}
	case *syntax.TestClause:
		s.status = int(truth(!s.testExpr(c.X)))
		if s.testError {
			s.status, s.testError = 2, false
		}
	case *syntax.DeclClause:
		s.substLast = -1
		s.declClause(c)
	case *syntax.TimeClause:
		s.timeClause(c)
	default:
		s.errorf("%s: this shell does not have it", s.source(c))
		s.status = 2
	}
}

func (s *Shell) ifClause(c *syntax.IfClause) {
	for ; c != nil; c = c.Else {
		if len(c.Cond) == 0 { // else
			s.list(c.Then)
			return
		}
		s.noerr++
		s.list(c.Cond)
		s.noerr--
		if s.ctl != ctlNone {
			return
		}
		if s.status == 0 {
			s.list(c.Then)
			return
		}
	}
	s.status = 0
}

// loop runs body while more says so, and does what break and continue ask.
func (s *Shell) loop(more func() bool, body, next func()) {
	s.loops++
	defer func() { s.loops-- }()
	last := 0
	for {
		s.yield()
		if !more() || s.ctl != ctlNone {
			if s.ctl == ctlNone {
				break
			}
		} else {
			body()
			last = s.status
		}
		if s.ctl == ctlBreak || s.ctl == ctlContinue {
			if s.ctlN > 1 {
				s.ctlN--
				return
			}
			again := s.ctl == ctlContinue
			s.ctl = ctlNone
			last = s.status
			if !again {
				break
			}
		}
		if s.ctl != ctlNone {
			return
		}
		if next != nil {
			next()
		}
	}
	s.status = last
}

func (s *Shell) forClause(c *syntax.ForClause) {
	switch l := c.Loop.(type) {
	case *syntax.WordIter:
		items := s.params
		if l.InPos.IsValid() {
			items = s.fieldsOf(l.Items)
		} else {
			items = slices.Clone(items)
		}
		if c.Select {
			s.selectLoop(l.Name.Value, items, c.Do)
			return
		}
		i := 0
		s.loop(func() bool {
			if i == len(items) {
				return false
			}
			if err := s.setString(l.Name.Value, items[i]); err != nil {
				s.fail(1, "%v", err)
			}
			i++
			return true
		}, func() { s.list(c.Do) }, nil)
	case *syntax.CStyleLoop:
		s.arithm(l.Init)
		s.loop(func() bool { return l.Cond == nil || s.arithm(l.Cond) != 0 }, func() { s.list(c.Do) }, func() { s.arithm(l.Post) })
	}
}

func (s *Shell) selectLoop(name string, items []string, do []*syntax.Stmt) {
	if len(items) == 0 {
		s.status = 0
		return
	}
	menu := func() {
		for i, it := range items {
			fmt.Fprintf(s.stderr(), "%d) %s\n", i+1, it)
		}
	}
	menu()
	s.loop(func() bool {
		fmt.Fprint(s.stderr(), "#? ")
		line, err := s.readLine(0, '\n')
		if err != nil && line == "" {
			return false
		}
		s.setString("REPLY", line)
		n, ok := s.integer(line)
		choice := ""
		if ok && n > 0 && int(n) <= len(items) {
			choice = items[n-1]
		}
		s.setString(name, choice)
		return true
	}, func() { s.list(do) }, nil)
}

func (s *Shell) caseClause(c *syntax.CaseClause) {
	s.substLast = -1
	str := s.word(c.Word)
	run, hits := false, 0
	defer func() {
		if hits == 0 && s.ctl == ctlNone {
			s.status = 0
		}
	}()
	for _, item := range c.Items {
		hit := run
		for _, p := range item.Patterns {
			if hit {
				break
			}
			hit = match(s.pattern(p), str, s.shopt["nocasematch"])
		}
		if !hit {
			continue
		}
		hits++
		if len(item.Stmts) == 0 {
			s.status = 0
		}
		s.list(item.Stmts)
		if s.ctl != ctlNone {
			return
		}
		switch item.Op {
		case syntax.Fallthrough:
			run = true
		case syntax.Resume:
			run = false
		default:
			return
		}
	}
}

func (s *Shell) timeClause(c *syntax.TimeClause) {
	start := time.Now()
	if c.Stmt != nil {
		s.stmt(c.Stmt)
	}
	d := time.Since(start).Seconds()
	if c.PosixFormat {
		fmt.Fprintf(s.stderr(), "real %.2f\nuser %.2f\nsys %.2f\n", d, 0.0, 0.0)
		return
	}
	format := "\nreal\t%3lR\nuser\t%3lU\nsys\t%3lS"
	if v := s.lookup("TIMEFORMAT"); v != nil {
		format, _ = v.str()
	}
	if format != "" {
		fmt.Fprintln(s.stderr(), timeText(format, d))
	}
}

// timeText is TIMEFORMAT with its values. Processor time is not known here.
func timeText(format string, real float64) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		digits, long := 3, false
		if c := format[i]; '0' <= c && c <= '9' && i+1 < len(format) {
			digits = min(int(c-'0'), 3)
			i++
		}
		if format[i] == 'l' && i+1 < len(format) {
			long = true
			i++
		}
		t := 0.0
		switch format[i] {
		case 'R':
			t = real
		case 'U', 'S':
		case 'P':
			b.WriteString("0.00")
			continue
		default:
			b.WriteByte(format[i])
			continue
		}
		if long {
			fmt.Fprintf(&b, "%dm%.*fs", int(t)/60, digits, t-float64(int(t)/60*60))
		} else {
			fmt.Fprintf(&b, "%.*f", digits, t)
		}
	}
	return b.String()
}

func (s *Shell) binaryCmd(c *syntax.BinaryCmd) {
	switch c.Op {
	case syntax.Pipe, syntax.PipeAll:
		s.pipeline(c)
		return
	}
	s.noerr++
	s.stmt(c.X)
	s.noerr--
	if s.ctl != ctlNone || (s.status == 0) != (c.Op == syntax.AndStmt) {
		return
	}
	s.stmt(c.Y)
}

// pipeline starts every element at once, each in a subshell.
func (s *Shell) pipeline(c *syntax.BinaryCmd) {
	elems, withErr := []*syntax.Stmt{c.Y}, []bool{false}
	for x := c; ; {
		elems, withErr = append(elems, x.X), append(withErr, x.Op == syntax.PipeAll)
		y, ok := x.X.Cmd.(*syntax.BinaryCmd)
		if !ok || len(x.X.Redirs) > 0 || x.X.Negated || y.Op != syntax.Pipe && y.Op != syntax.PipeAll {
			break
		}
		elems = elems[:len(elems)-1]
		withErr = withErr[:len(withErr)-1]
		elems, withErr = append(elems, y.Y), append(withErr, x.Op == syntax.PipeAll)
		x = y
	}
	slices.Reverse(elems)
	slices.Reverse(withErr)
	announce := s.announce
	s.announce = nil
	states := make([]int, len(elems))
	done := make(chan int, len(elems))
	var in *file
	for i, st := range elems {
		last := i == len(elems)-1
		if last && s.shopt["lastpipe"] {
			old := s.pushFds()
			s.setFd(0, in)
			s.stmt(st)
			s.popFds(old)
			states[i] = s.status
			done <- i
			break
		}
		sub := s.fork()
		sub.noerr = 0
		if in != nil {
			sub.setFd(0, in)
			in = nil
		}
		if !last {
			r, w, err := sys.Pipe()
			if err != nil {
				s.fail(1, "pipe: %s", applets.Strerror(err))
			}
			out := newFile(w)
			if withErr[i] {
				sub.setFd(2, out.share())
			}
			sub.setFd(1, out)
			in = newFile(r)
		} else {
			sub.announce = announce
		}
		run := func() {
			states[i] = sub.runSub(func() { sub.stmt(st) })
			done <- i
		}
		if last && announce == nil {
			runtime.Gosched() // so that those before have begun, and written what is quickly written
			run()
		} else {
			go run()
		}
	}
	for range elems {
		<-done
	}
	s.pipestatus = states
	s.status = states[len(states)-1]
	if s.opt['o'] { // pipefail
		for _, st := range slices.Backward(states) {
			if st != 0 {
				s.status = st
				break
			}
		}
	}
}

// cmdSubst is $( ).
func (s *Shell) cmdSubst(c *syntax.CmdSubst) string {
	if len(c.Stmts) == 1 && c.Stmts[0].Cmd == nil && len(c.Stmts[0].Redirs) == 1 && c.Stmts[0].Redirs[0].Op == syntax.RdrIn {
		return s.slurp(c.Stmts[0].Redirs[0])
	}
	if len(c.Stmts) == 0 {
		s.substLast = 0
		return ""
	}
	r, w, err := sys.Pipe()
	if err != nil {
		s.fail(1, "cannot make pipe for command substitution: %s", applets.Strerror(err))
	}
	sub := s.fork()
	sub.setFd(1, newFile(w))
	if !s.shopt["inherit_errexit"] && s.bash {
		sub.opt['e'] = false
	}
	sub.noerr = 0
	done := make(chan int, 1)
	go func() { done <- sub.runSub(func() { sub.list(c.Stmts) }) }()
	data, _ := io.ReadAll(r)
	r.Close()
	s.substLast = <-done
	s.status = s.substLast
	return trimOutput(data)
}

func trimOutput(b []byte) string {
	str := string(b)
	if strings.IndexByte(str, 0) >= 0 {
		str = strings.ReplaceAll(str, "\x00", "")
	}
	return strings.TrimRight(str, "\n")
}

// slurp is $(<file).
func (s *Shell) slurp(r *syntax.Redirect) string {
	f, err := s.open(s.word(r.Word), os.O_RDONLY)
	if err != nil {
		s.substLast = 1
		s.status = 1
		return ""
	}
	defer f.Close()
	data, _ := io.ReadAll(f)
	s.substLast = 0
	return trimOutput(data)
}

// procSubst is <( ) and >( ): a path under /dev/fd that the command can open.
func (s *Shell) procSubst(p *syntax.ProcSubst) string {
	r, w, err := sys.Pipe()
	if err != nil {
		s.fail(1, "cannot make pipe for process substitution: %s", applets.Strerror(err))
	}
	fd := 63
	for s.fds[fd] != nil {
		fd--
	}
	sub := s.fork()
	mine := newFile(r)
	if p.Op == syntax.CmdOut {
		mine = newFile(w)
		sub.setFd(0, newFile(r))
	} else {
		sub.setFd(1, newFile(w))
	}
	s.fds[fd] = mine
	s.tempFds = append(s.tempFds, fd)
	s.shared.running.Add(1)
	go func() {
		sub.runSub(func() { sub.list(p.Stmts) })
		s.shared.running.Add(-1)
	}()
	return fmt.Sprintf("/dev/fd/%d", fd)
}

func (s *Shell) closeTemps() {
	for _, fd := range s.tempFds {
		if f := s.fds[fd]; f != nil {
			f.close()
			delete(s.fds, fd)
		}
	}
	s.tempFds = nil
}

// simple runs assignments and a command.
func (s *Shell) simple(st *syntax.Stmt, c *syntax.CallExpr) {
	if s.runAlias(st, c) {
		return
	}
	s.substLast = -1
	temps := s.tempFds
	s.tempFds = nil
	defer func() { s.closeTemps(); s.tempFds = temps }()
	args := s.fieldsOf(c.Args)
	if len(args) == 0 {
		s.tell(0)
		s.assignments(st, c)
		return
	}
	if args[0] == "exec" && s.funcs["exec"] == nil {
		s.tell(0)
		s.execBuiltin(st, c, args)
		return
	}
	old := s.fds
	if len(st.Redirs) > 0 {
		old = s.pushFds()
		defer func() { s.popFds(old) }()
		if !s.redirect(st.Redirs) {
			s.tell(0)
			s.status = 1
			if specialBuiltin[args[0]] && !s.bash {
				s.ctl = ctlExit
			}
			return
		}
	}
	var undo []saved
	if len(c.Assigns) > 0 {
		for _, a := range c.Assigns {
			name := a.Name.Value
			v := s.vars[name]
			if v != nil && v.readonly {
				s.errorf("%s: readonly variable", name)
				s.tell(0)
				s.status = 1
				return
			}
			undo = append(undo, saved{name, v})
			val := s.word(a.Value)
			if a.Append && v != nil {
				str, _ := v.str()
				val = str + val
			}
			s.vars[name], s.owned[name] = &variable{set: true, val: val, exported: true}, true
			if name == "PATH" {
				s.hash = nil
			}
			s.trace(name + "=" + quoteIfNeeded(val))
		}
		defer func() {
			if !(specialBuiltin[args[0]] && !s.bash) || s.funcs[args[0]] != nil {
				s.restore(undo)
			}
		}()
	}
	s.traceArgs(args)
	if cmd := s.traps["DEBUG"]; cmd != "" && !s.inTrap {
		s.runTrap(cmd)
	}
	s.call(args)
	s.pipestatus = []int{s.status}
	s.underscore = args[len(args)-1]
}

// assignments is a command without a name.
func (s *Shell) assignments(st *syntax.Stmt, c *syntax.CallExpr) {
	if len(st.Redirs) > 0 {
		old := s.pushFds()
		ok := s.redirect(st.Redirs)
		s.popFds(old)
		if !ok {
			s.status = 1
			return
		}
	}
	for _, a := range c.Assigns {
		if err := s.assign(a, false); err != nil {
			s.failExitOr(err)
		}
	}
	s.status = max(s.substLast, 0)
	s.pipestatus = []int{s.status}
}

// failExitOr is what bash does for an assignment to a readonly variable.
func (s *Shell) failExitOr(err error) { s.fail(1, "%v", err) }

// call runs a function, builtin or program.
func (s *Shell) call(args []string) {
	name := args[0]
	if f := s.funcs[name]; f != nil {
		s.tell(0)
		s.callFunc(f, args)
		return
	}
	s.callNoFunc(args)
}

func (s *Shell) callNoFunc(args []string) {
	if b := builtin(args[0]); b != nil {
		s.tell(0)
		s.status = b(s, args)
		return
	}
	s.external(args)
}

func (s *Shell) callFunc(f *function, args []string) {
	if len(s.callers) >= 1000 {
		s.failExit(1, "%s: maximum function nesting level exceeded (1000)", args[0])
	}
	params, loops, line, src := s.params, s.loops, s.line, s.sourceName
	s.params, s.loops, s.sourceName = args[1:], 0, f.file
	s.callers = append(s.callers, call{args[0], line, src})
	s.scopes = append(s.scopes, nil)
	depth := len(s.scopes)
	defer func() {
		s.restore(s.scopes[depth-1])
		s.scopes = s.scopes[:depth-1]
		s.callers = s.callers[:depth-1]
		s.params, s.loops, s.line, s.sourceName = params, loops, line, src
	}()
	s.stmt(f.body)
	if cmd := s.traps["RETURN"]; cmd != "" && !s.inTrap && s.opt['T'] {
		s.runTrap(cmd)
	}
	if s.ctl == ctlReturn {
		s.ctl = ctlNone
	}
}

func (s *Shell) funcSource(c *syntax.FuncDecl) string {
	var b strings.Builder
	syntax.NewPrinter(syntax.Indent(4), syntax.FunctionNextLine(true)).Print(&b, c)
	src := b.String()
	// bash writes "f () " and then the body.
	if i := strings.Index(src, "()"); i > 0 && !c.RsrvWord {
		src = src[:i] + " () " + strings.TrimLeft(src[i+2:], " ")
	}
	return src
}

// found is where PATH led for a name.
type found struct {
	path   string
	applet bool // one of ours: may run in this process
}

// find looks a command up in PATH.
func (s *Shell) find(name string) (found, error) {
	if strings.Contains(name, "/") {
		return found{path: name}, nil // relative to the child's directory, which is ours
	}
	if f, ok := s.hash[name]; ok {
		return f, nil
	}
	err := error(syscall.ENOENT)
	for _, dir := range filepath.SplitList(s.get("PATH")) {
		if dir == "" {
			dir = "."
		}
		p := strings.TrimSuffix(s.path(dir), "/") + "/" + name
		i, e := sys.Stat(p)
		if e != nil || i.IsDir() {
			continue
		}
		if i.StMode&0111 == 0 {
			err = syscall.EACCES
			continue
		}
		f := found{path: p}
		if applets.Inline(name) {
			l, _ := os.Readlink(p)
			f.applet = filepath.Base(l) == filepath.Base(s.shared.self)
		}
		if s.hash == nil {
			s.hash = map[string]found{}
		}
		s.hash[name] = f
		return f, nil
	}
	return found{}, err
}

// external runs a program and waits for it.
func (s *Shell) external(args []string) {
	f, err := s.find(args[0])
	if err != nil {
		s.tell(0)
		if h := s.funcs["command_not_found_handle"]; h != nil {
			s.callFunc(h, append([]string{"command_not_found_handle"}, args...))
			return
		}
		s.notFound(args[0], err)
		return
	}
	if f.applet && s.announce == nil {
		s.status = applets.Run(&applets.Call{Args: args, Env: s.environ(), Dir: s.dir, Stdin: nowhere{}, Stdout: s.writer(1), Stderr: s.stderr()})
		return
	}
	p, err := s.start(f.path, args)
	if err != nil {
		s.tell(0)
		s.cannotRun(args[0], err)
		return
	}
	s.tell(p.Pid)
	st := p.Wait()
	s.shared.mu.Lock()
	delete(s.shared.procs, p.Pid)
	s.shared.mu.Unlock()
	s.status = st.Code
	s.reportSignal(st, args)
}

func (s *Shell) reportSignal(st sys.Status, args []string) {
	texts := map[int]string{4: "Illegal instruction", 5: "Trace/breakpoint trap", 6: "Aborted", 7: "Bus error", 8: "Floating point exception", 9: "Killed", 11: "Segmentation fault", 15: "Terminated"}
	if t := texts[st.Signal]; t != "" && s.announce == nil && s.depth == 0 {
		fmt.Fprintf(s.stderr(), "%s: line %d: %5d %-23s %s\n", s.name, s.line, 0, t, strings.Join(args, " "))
	}
}

// spec describes a process with this shell's descriptors and environment.
func (s *Shell) spec(path string, args []string) *sys.Spec {
	files := make(map[int]*os.File, len(s.fds))
	for n, f := range s.fds {
		files[n] = f.f
	}
	env := s.environ()
	env = append(env, "_="+path)
	return &sys.Spec{Path: path, Args: args, Env: env, Dir: s.dir, Files: files, Umask: s.mask}
}

func (s *Shell) start(path string, args []string) (*sys.Proc, error) {
	spec := s.spec(path, args)
	p, err := sys.Start(spec)
	if errors.Is(err, syscall.ENOEXEC) && isText(s.path(path)) {
		spec.Path, spec.Args = s.shared.self, append([]string{"sh", args[0]}, args[1:]...)
		if !strings.Contains(args[0], "/") {
			spec.Args[1] = path
		}
		p, err = sys.Start(spec)
	}
	if err != nil {
		return nil, err
	}
	s.shared.mu.Lock()
	s.shared.procs[p.Pid] = s
	s.shared.mu.Unlock()
	return p, nil
}

func isText(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var b [80]byte
	n, _ := f.Read(b[:])
	return !slices.Contains(b[:n], 0)
}

func (s *Shell) notFound(name string, err error) {
	s.status = 127
	switch {
	case err == syscall.EACCES:
		s.errorf("%s: Permission denied", name)
		s.status = 126
	case s.ash && name == "":
		s.errorf(": Permission denied")
	case s.ash:
		s.errorf("%s: not found", name)
	case applets.Refused(name) != "":
		s.errorf("%s: command not found (%s)", name, applets.Refused(name))
	default:
		s.errorf("%s: command not found", name)
	}
}

func (s *Shell) cannotRun(name string, err error) {
	s.status = 126
	i, e := sys.Stat(s.path(name))
	switch {
	case e == nil && i.IsDir() && s.ash:
		s.errorf("%s: Permission denied", name)
	case e == nil && i.IsDir():
		s.errorf("%s: Is a directory", name)
	case errors.Is(err, syscall.ENOEXEC):
		s.errorf("%s: cannot execute binary file: Exec format error", name)
	case errors.Is(err, fs.ErrNotExist) && e == nil:
		s.errorf("%s: cannot execute: required file not found", name)
		s.status = 127
	case errors.Is(err, fs.ErrNotExist):
		text := "No such file or directory"
		if s.ash {
			text = "not found"
		}
		s.errorf("%s: %s", name, text)
		s.status = 127
	default:
		s.errorf("%s: %s", name, applets.Strerror(err))
	}
}

// execBuiltin replaces the shell, or makes redirections permanent.
func (s *Shell) execBuiltin(st *syntax.Stmt, c *syntax.CallExpr, args []string) {
	s.traceArgs(args)
	argv0 := ""
	args = args[1:]
	clean := false
options:
	for len(args) > 0 {
		switch {
		case args[0] == "--":
			args = args[1:]
			break options
		case args[0] == "-c":
			clean = true
			args = args[1:]
		case args[0] == "-a" && len(args) > 1:
			argv0, args = args[1], args[2:]
		default:
			break options
		}
	}
	ok := s.redirect(st.Redirs)
	if !ok {
		s.status = 1
		if !s.bash {
			s.ctl = ctlExit
		}
		return
	}
	for _, a := range c.Assigns {
		s.assign(a, false)
		s.modify(a.Name.Value).exported = true
	}
	s.tempFds = nil
	if len(args) == 0 {
		s.status = 0
		return
	}
	f, err := s.find(args[0])
	if err != nil {
		s.errorf("exec: %s: not found", args[0])
		s.status, s.ctl = 127, ctlExit
		return
	}
	if clean {
		for _, n := range s.names() {
			s.modify(n).exported = false
		}
	}
	argv := slices.Clone(args)
	if argv0 != "" {
		argv[0] = argv0
	}
	delete(s.traps, "EXIT")
	s.ctl = ctlExit
	if s.depth == 0 && !s.busy() && s.shared.stop == nil {
		spec := s.spec(f.path, argv)
		err := sys.Exec(spec)
		if errors.Is(err, syscall.ENOEXEC) && isText(s.path(f.path)) {
			spec.Path, spec.Args = s.shared.self, append([]string{"sh", f.path}, args[1:]...)
			err = sys.Exec(spec)
		}
		s.cannotRun(args[0], err)
		return
	}
	p, err := s.start(f.path, argv)
	if err != nil {
		s.cannotRun(args[0], err)
		return
	}
	s.status = p.Wait().Code
}

// busy reports whether subshells still run on goroutines of this process.
func (s *Shell) busy() bool {
	if s.shared.running.Load() > 0 {
		return true
	}
	for _, j := range s.jobs {
		if !j.finished() {
			return true
		}
	}
	return false
}

// runAlias substitutes the first word when it is an alias.
func (s *Shell) runAlias(st *syntax.Stmt, c *syntax.CallExpr) bool {
	if len(s.aliases) == 0 || len(c.Args) == 0 || !s.shopt["expand_aliases"] {
		return false
	}
	name := c.Args[0].Lit()
	text, ok := s.aliases[name]
	if !ok || name == "" {
		return false
	}
	src := s.source(st)
	i := strings.Index(src, name)
	if i < 0 {
		return false
	}
	rest := src[i+len(name):]
	if strings.HasSuffix(text, " ") { // the next word may be an alias too
		w := strings.TrimLeft(rest, " ")
		end := strings.IndexAny(w+" ", " ;|&<>\n")
		if t, ok := s.aliases[w[:end]]; ok && w[:end] != "" {
			rest = t + w[end:]
		}
	}
	saved, ok := s.aliases[name], true
	delete(s.aliases, name)
	defer func() {
		if ok {
			s.aliases[name] = saved
		}
	}()
	s.runReader(strings.NewReader(src[:i]+text+" "+rest+"\n"), s.name)
	return true
}

// trace prints what set -x shows.
func (s *Shell) trace(words ...string) {
	if !s.opt['x'] {
		return
	}
	ps4 := s.get("PS4")
	s.opt['x'] = false
	if w, err := s.parser().Document(strings.NewReader(ps4)); err == nil && strings.Contains(ps4, "$") {
		ps4 = s.wordIn(w, mode{heredoc: true})
	}
	s.opt['x'] = true
	fmt.Fprintf(s.stderr(), "%s%s\n", ps4, strings.Join(words, " "))
}

func (s *Shell) traceArgs(args []string) {
	if !s.opt['x'] {
		return
	}
	l := make([]string, len(args))
	for i, a := range args {
		l[i] = quoteIfNeeded(a)
	}
	s.trace(l...)
}
