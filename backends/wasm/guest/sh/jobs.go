package sh

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/kilntainers/kilntainers/backends/wasm/guest/applets"
	"github.com/kilntainers/kilntainers/backends/wasm/guest/sys"
	"mvdan.cc/sh/v3/syntax"
)

// job is a command that runs beside the shell.
type job struct {
	id     int
	pid    int
	text   string
	status int // valid once done is closed
	done   chan struct{}
	told   bool // its end was reported or waited for
}

func (j *job) finished() bool {
	select {
	case <-j.done:
		return true
	default:
		return false
	}
}

// background is st &.
func (s *Shell) background(st *syntax.Stmt) {
	fg := *st
	fg.Background = false
	sub := s.fork()
	sub.noerr = 0
	j := &job{text: s.source(&fg), done: make(chan struct{})}
	for _, o := range s.jobs {
		j.id = max(j.id, o.id)
	}
	j.id++
	// Without a terminal a background command does not read the script's input.
	if f, err := s.open("/dev/null", 0); err == nil && !redirectsStdin(st) {
		sub.setFd(0, newFile(f))
	}
	pid := make(chan int, 1)
	told := false
	sub.announce = func(n int) {
		if told {
			return
		}
		told = true
		if n == 0 {
			n = s.shared.adopt(sub)
		}
		sub.pid = n
		pid <- n
	}
	announce := sub.announce
	go func() {
		j.status = sub.runSub(func() { sub.stmt(&fg) })
		announce(0)
		s.shared.forget(sub.pid)
		close(j.done)
	}()
	j.pid = <-pid
	s.lastBg = j.pid
	s.jobs = append(s.jobs, j)
	s.status = 0
}

func redirectsStdin(st *syntax.Stmt) bool {
	for _, r := range st.Redirs {
		switch r.Op {
		case syntax.RdrIn, syntax.Hdoc, syntax.DashHdoc, syntax.WordHdoc, syntax.DplIn, syntax.RdrInOut:
			if r.N == nil || r.N.Value == "0" {
				return true
			}
		}
	}
	return false
}

// tell answers &, once it is known which process the command is (0: none).
func (s *Shell) tell(pid int) {
	if s.announce != nil {
		a := s.announce
		s.announce = nil
		a(pid)
	}
}

// adopt gives a subshell a pid of its own, beyond those of the kernel.
func (sh *shared) adopt(s *Shell) int {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.nextPid++
	sh.subs[sh.nextPid] = s
	return sh.nextPid
}

func (sh *shared) forget(pid int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	delete(sh.subs, pid)
}

// kill sends a signal to a process or to one of our subshells.
func (s *Shell) kill(pid, sig int) error {
	s.shared.mu.Lock()
	caught := s.shared.caught[sig]
	sub := s.shared.subs[pid]
	var below []int
	if sub != nil {
		for p, owner := range s.shared.procs {
			for o := owner; o != nil; o = o.parent {
				if o == sub {
					below = append(below, p)
				}
			}
		}
	}
	s.shared.mu.Unlock()
	if sub == nil {
		if pid == s.shared.pid && caught {
			// The main shell finds it when the command that runs now is over;
			// the kernel's message could come later. Where bash forks, that
			// command has begun by the time of the signal.
			if s.depth > 0 {
				time.Sleep(time.Millisecond)
			}
			select {
			case s.shared.own <- sig:
			default:
			}
			return nil
		}
		return sys.Kill(pid, sig)
	}
	switch {
	case sig == 0 || sig == 17 || sig == 18:
		return nil
	case sub.pending != nil && sig != 9:
		if cmd, ok := sub.traps[sys.SignalName(sig)]; ok {
			if cmd != "" {
				select {
				case sub.pending <- sig:
				default:
				}
			}
			return nil
		}
	}
	sub.killed.CompareAndSwap(0, int32(sig))
	for _, p := range below {
		sys.Kill(p, sig)
	}
	return nil
}

// Traps

// setTraps makes the process catch what the main shell's traps name.
func (s *Shell) setTraps() {
	if s.depth > 0 {
		if s.pending == nil {
			s.pending = make(chan int, 16)
		}
		return
	}
	var sigs, ignore []int
	changed := false
	for n := 1; n <= sys.LastSignal; n++ {
		cmd, ok := s.traps[sys.SignalName(n)]
		want := ok && cmd != ""
		switch {
		case want:
			sigs = append(sigs, n)
		case ok:
			ignore = append(ignore, n)
		}
		changed = changed || want != s.shared.caught[n]
		s.shared.mu.Lock()
		s.shared.caught[n] = want
		s.shared.mu.Unlock()
	}
	if changed {
		if s.shared.stop != nil {
			s.shared.stop()
			s.shared.stop = nil
		}
		if len(sigs) > 0 {
			s.shared.signals, s.shared.stop = sys.Notify(sigs...)
		}
	}
	for _, n := range ignore { // after stop, which undoes it
		sys.Ignore(n)
	}
	if _, ok := s.traps["PIPE"]; !ok {
		sys.KeepPipe()
	}
}

// runTraps runs the traps of signals that have come.
func (s *Shell) runTraps() {
	if s.pending == nil {
		return
	}
	for {
		select {
		case sig := <-s.pending:
			s.signalTrap(sig)
			continue
		default:
		}
		if s.depth > 0 || s.shared.stop == nil {
			return
		}
		select {
		case sig := <-s.shared.signals:
			s.signalTrap(sig)
			continue
		default:
		}
		return
	}
}

func (s *Shell) signalTrap(sig int) {
	bit := uint64(1) << sig
	if cmd := s.traps[sys.SignalName(sig)]; cmd != "" && s.trapping&bit == 0 {
		s.trapping |= bit // not within itself
		defer func() { s.trapping &^= bit }()
		s.runTrap(cmd)
	}
}

// runTrap keeps $? and the line of the command it interrupts.
func (s *Shell) runTrap(cmd string) {
	status, line, in, ps := s.status, s.line, s.inTrap, s.pipestatus
	s.inTrap = true
	outer, callers := s.trapStatus, s.trapCallers
	s.trapStatus, s.trapCallers = status, len(s.callers)
	s.runReader(strings.NewReader(cmd), s.name)
	s.inTrap, s.trapStatus, s.trapCallers = in, outer, callers
	if s.ctl == ctlNone {
		s.status, s.line = status, line
	}
	s.pipestatus = ps
}

func (s *Shell) exitTrap() {
	cmd := s.traps["EXIT"]
	if cmd == "" {
		return
	}
	delete(s.traps, "EXIT")
	status := s.status
	s.ctl = ctlNone
	s.inTrap, s.trapStatus = true, status
	s.runReader(strings.NewReader(cmd), s.name)
	if s.ctl != ctlExit {
		s.status = status
	}
	s.ctl = ctlExit
}

func trapBuiltin(s *Shell, args []string) int {
	args = args[1:]
	print := len(args) == 0
	if len(args) > 0 {
		switch args[0] {
		case "-l":
			return killList(s, nil)
		case "-p":
			print, args = true, args[1:]
		case "--":
			args = args[1:]
			print = len(args) == 0
		}
	}
	if print {
		names, traps := args, s.traps
		if s.outerTraps != nil {
			traps = s.outerTraps
		}
		if len(names) == 0 {
			names = trapOrder(traps)
		}
		for _, n := range names {
			n, ok := trapName(n)
			if cmd, set := traps[n]; ok && set {
				if sys.SignalNumber(n) > 0 {
					if s.bash {
						n = "SIG" + n
					}
				}
				fmt.Fprintf(s.writer(1), "trap -- %s %s\n", squote(cmd), n)
			}
		}
		return 0
	}
	s.outerTraps = nil
	cmd, reset := args[0], false
	if _, isNum := smallNumber(cmd); cmd == "-" || isNum || len(args) == 1 {
		reset = true
		if cmd == "-" || len(args) > 1 && !isNum {
			args = args[1:]
		}
	} else {
		args = args[1:]
	}
	status := 0
	for _, a := range args {
		n, ok := trapName(a)
		if !ok {
			s.errorf("trap: %s: invalid signal specification", a)
			status = 1
			continue
		}
		if reset {
			if old, set := s.traps[n]; set && old == "" && sys.SignalNumber(n) > 0 {
				sys.Default(sys.SignalNumber(n))
			}
			delete(s.traps, n)
		} else {
			s.traps[n] = cmd
		}
	}
	s.setTraps()
	return status
}

func smallNumber(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && n < 65
}

func trapName(a string) (string, bool) {
	switch u := strings.TrimPrefix(strings.ToUpper(a), "SIG"); u {
	case "EXIT", "0":
		return "EXIT", true
	case "ERR", "DEBUG", "RETURN":
		return u, true
	}
	n := sys.SignalNumber(a)
	if n < 1 || sys.SignalName(n) == "" {
		return "", false
	}
	return sys.SignalName(n), true
}

func trapOrder(m map[string]string) []string {
	var l []string
	for n := range m {
		l = append(l, n)
	}
	rank := func(n string) int {
		if n == "EXIT" {
			return 0
		}
		if k := sys.SignalNumber(n); k > 0 {
			return k
		}
		return 100
	}
	sort.Slice(l, func(i, j int) bool { return rank(l[i]) < rank(l[j]) })
	return l
}

// jobOf finds %1, %%, %name or a pid.
func (s *Shell) jobOf(arg string) *job {
	spec, isJob := strings.CutPrefix(arg, "%")
	if !isJob {
		pid, err := strconv.Atoi(arg)
		for _, j := range s.jobs {
			if err == nil && j.pid == pid {
				return j
			}
		}
		return nil
	}
	var last, prev *job
	for _, j := range s.jobs {
		if j.told {
			continue
		}
		last, prev = j, last
		if n, err := strconv.Atoi(spec); err == nil && n == j.id {
			return j
		}
		if spec != "" && !strings.ContainsAny(spec[:1], "0123456789%+-?") && strings.HasPrefix(j.text, spec) {
			return j
		}
		if t, ok := strings.CutPrefix(spec, "?"); ok && strings.Contains(j.text, t) {
			return j
		}
	}
	switch spec {
	case "", "%", "+":
		return last
	case "-":
		return prev
	}
	return nil
}

func waitBuiltin(s *Shell, args []string) int {
	args = args[1:]
	next, varName := false, ""
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-n":
			next = true
		case "-f":
		case "-p":
			if len(args) > 1 {
				varName, args = args[1], args[1:]
			}
		case "--":
		default:
			s.errorf("wait: %s: invalid option", args[0])
			return 2
		}
		args = args[1:]
	}
	var jobs []*job
	status := 0
	for _, a := range args {
		j := s.jobOf(a)
		switch {
		case j != nil:
			jobs = append(jobs, j)
			continue
		case strings.HasPrefix(a, "%"):
			s.errorf("wait: %s: no such job", a)
		default:
			if _, err := strconv.Atoi(a); err != nil {
				s.errorf("wait: `%s': not a pid or valid job spec", a)
				return 1
			}
			s.errorf("wait: pid %s is not a child of this shell", a)
		}
		status = 127
	}
	if next {
		return s.waitAny(jobs, varName)
	}
	if len(args) == 0 {
		jobs = slices.Clone(s.jobs)
	}
	for _, j := range jobs {
		if sig := s.await(j.done); sig != 0 {
			return 128 + sig
		}
		j.told = true
		if len(args) > 0 {
			status = j.status
		}
	}
	if len(args) == 0 {
		s.jobs = nil
	}
	return status
}

// await waits until done is closed or a trapped signal comes, which it returns
// after its trap ran.
func (s *Shell) await(done <-chan struct{}) int {
	for {
		var signals <-chan int
		if s.depth == 0 && s.shared.stop != nil {
			signals = s.shared.signals
		}
		select {
		case <-done:
			return 0
		case sig := <-signals:
			s.signalTrap(sig)
			return sig
		case sig := <-s.pending:
			s.signalTrap(sig)
			return sig
		case <-s.killedTick():
			s.yield()
		}
	}
}

// killedTick wakes a waiting subshell so that it notices a kill.
func (s *Shell) killedTick() <-chan time.Time {
	if s.depth == 0 {
		return nil
	}
	return time.After(20 * time.Millisecond)
}

func (s *Shell) waitAny(jobs []*job, varName string) int {
	if len(jobs) == 0 {
		for _, j := range s.jobs {
			if !j.told {
				jobs = append(jobs, j)
			}
		}
	}
	if len(jobs) == 0 {
		return 127
	}
	first := make(chan *job, len(jobs))
	for _, j := range jobs {
		go func() { <-j.done; first <- j }()
	}
	j := <-first
	j.told = true
	s.jobs = slices.DeleteFunc(s.jobs, func(o *job) bool { return o == j })
	if varName != "" {
		s.setString(varName, strconv.Itoa(j.pid))
	}
	return j.status
}

func jobsBuiltin(s *Shell, args []string) int {
	mode := ""
	for len(args) > 1 && strings.HasPrefix(args[1], "-") {
		mode, args = mode+args[1][1:], args[1:]
	}
	var live []*job
	all := s.jobs
	if len(all) == 0 {
		all = s.outerJobs
	}
	for _, j := range all {
		if !j.told {
			live = append(live, j)
		}
	}
	for i, j := range live {
		state, amp := "Running", " &"
		if j.finished() {
			j.told = true
			state, amp = "Done", ""
			if j.status != 0 {
				state = fmt.Sprintf("Exit %d", j.status)
			}
			if j.status > 128 {
				state = map[int]string{143: "Terminated", 137: "Killed", 130: "Interrupt"}[j.status]
				if state == "" {
					state = fmt.Sprintf("Exit %d", j.status)
				}
			}
		}
		if strings.Contains(mode, "r") && state != "Running" || strings.Contains(mode, "s") {
			continue
		}
		mark := " "
		switch i {
		case len(live) - 1:
			mark = "+"
		case len(live) - 2:
			mark = "-"
		}
		switch {
		case strings.Contains(mode, "p"):
			fmt.Fprintln(s.writer(1), j.pid)
		case strings.Contains(mode, "l"):
			fmt.Fprintf(s.writer(1), "[%d]%s %5d %-23s %s%s\n", j.id, mark, j.pid, state, j.text, amp)
		default:
			fmt.Fprintf(s.writer(1), "[%d]%s  %-23s %s%s\n", j.id, mark, state, j.text, amp)
		}
	}
	s.jobs = slices.DeleteFunc(s.jobs, func(j *job) bool { return j.told && j.finished() && j.pid != s.lastBg })
	return 0
}

func fgBuiltin(s *Shell, args []string) int {
	spec := "%%"
	if len(args) > 1 {
		spec = args[1]
		if !strings.HasPrefix(spec, "%") {
			spec = "%" + spec
		}
	}
	j := s.jobOf(spec)
	if j == nil {
		s.errorf("%s: %s: no such job", args[0], strings.TrimPrefix(strings.Replace(spec, "%%", "current", 1), ""))
		return 1
	}
	if args[0] == "bg" {
		fmt.Fprintf(s.writer(1), "[%d] %s &\n", j.id, j.text)
		return 0
	}
	fmt.Fprintln(s.writer(1), j.text)
	<-j.done
	j.told = true
	return j.status
}

func disownBuiltin(s *Shell, args []string) int {
	if len(args) == 1 || args[1] == "-a" {
		s.jobs = nil
		return 0
	}
	for _, a := range args[1:] {
		if j := s.jobOf(a); j != nil {
			s.jobs = slices.DeleteFunc(s.jobs, func(o *job) bool { return o == j })
		}
	}
	return 0
}

func killBuiltin(s *Shell, args []string) int {
	args = args[1:]
	sig := 15
	if len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "--" {
		a := args[0]
		args = args[1:]
		switch {
		case a == "-l" || a == "-L":
			return killList(s, args)
		case (a == "-s" || a == "-n") && len(args) > 0:
			a, args = "-"+args[0], args[1:]
		}
		name := strings.TrimPrefix(strings.TrimPrefix(a, "-s"), "-")
		if strings.HasPrefix(a, "-s") && sys.SignalNumber(a[1:]) > 0 {
			name = a[1:]
		}
		if sig = sys.SignalNumber(name); sig < 0 && name == "EXIT" {
			sig = 0
		}
		if sig < 0 {
			s.errorf("kill: %s: invalid signal specification", name)
			return 1
		}
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		s.errorf("kill: usage: kill [-s sigspec | -n signum | -sigspec] pid | jobspec ... or kill -l [sigspec]")
		return 2
	}
	status := 0
	for _, a := range args {
		pid, err := strconv.Atoi(a)
		switch {
		case strings.HasPrefix(a, "%"):
			j := s.jobOf(a)
			if j == nil {
				s.errorf("kill: %s: no such job", a)
				status = 1
				continue
			}
			pid = j.pid
		case err != nil:
			s.errorf("kill: %s: arguments must be process or job IDs", a)
			status = 1
			continue
		}
		if err := s.kill(pid, sig); err != nil {
			s.errorf("kill: (%d) - %s", pid, applets.Strerror(err))
			status = 1
		}
	}
	if s.depth > 0 {
		s.yield()
	}
	return status
}

func killList(s *Shell, args []string) int {
	if len(args) == 0 {
		var b strings.Builder
		for n := 1; n <= sys.LastSignal; n++ {
			fmt.Fprintf(&b, "%2d) SIG%s", n, sys.SignalName(n))
			if n%5 == 0 || n == sys.LastSignal {
				b.WriteByte('\n')
			} else {
				b.WriteByte('\t')
			}
		}
		fmt.Fprint(s.writer(1), b.String())
		return 0
	}
	for _, a := range args {
		n, err := strconv.Atoi(a)
		if err == nil {
			if n > 128 {
				n -= 128
			}
			if n == 0 {
				fmt.Fprintln(s.writer(1), "EXIT")
				continue
			}
			if name := sys.SignalName(n); name != "" {
				fmt.Fprintln(s.writer(1), name)
				continue
			}
		} else if n := sys.SignalNumber(a); n > 0 {
			fmt.Fprintln(s.writer(1), n)
			continue
		}
		s.errorf("kill: %s: invalid signal specification", a)
		return 1
	}
	return 0
}
