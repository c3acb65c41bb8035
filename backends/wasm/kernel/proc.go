package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"
)

// Signals, as Linux numbers them.
const (
	sigKILL  = 9
	sigPIPE  = 13
	sigTERM  = 15
	sigCHLD  = 17
	sigCONT  = 18
	sigSTOP  = 19
	sigTSTP  = 20
	sigTTIN  = 21
	sigTTOU  = 22
	sigURG   = 23
	sigWINCH = 28
	sigMax   = 64
)

// maxPid is where process numbers begin again.
const maxPid = 32768

// rootFD is where programs that start from a snapshot find "/".
const rootFD = 1000

// Proc is a process: one instance of a module, run by one goroutine. The
// sandbox's lock guards all fields but those that say otherwise.
type Proc struct {
	sb              *Sandbox
	job             *job
	pid, ppid, pgid int
	start           time.Time

	program  *Program
	file     string
	argv     []string
	env      []string
	cwd      *node
	umask    uint32
	fds      []fd
	root     fd                // on rootFD
	preopens map[uint32]string // names of descriptors that were open at the start
	memory   int64             // charged to the sandbox

	caught, ignored uint64 // signals, by bit
	noPIPE          bool   // a write that nobody reads raises nothing
	pending         []byte // caught and not yet read
	signalled       waitQueue
	stopped         bool
	continued       waitQueue
	asleep          bool
	killer          int           // the signal that ends it
	dying           atomic.Bool   // killer is set
	dead            chan struct{} // closed then
	refused         bool          // memory it asked for

	ended    bool          // nothing of it is left
	reported bool          // its end, to whoever waits; see detach
	done     chan struct{} // closed then
	status   int
	exited   waitQueue
	children int64 // CPU time of descendants that were waited for

	woken chan struct{} // capacity 1

	// The process's own goroutine alone uses these.
	running bool // has a turn
	since   time.Time
	fuel    api.MutableGlobal
	next    *execution // what it becomes

	cpu atomic.Int64
}

// job is one command of the outside world and every process it started.
type job struct {
	dead    bool          // killed: it starts no more processes
	over    chan struct{} // closed then
	running sync.WaitGroup
	fuel    atomic.Int64 // left; see limited
	limited bool
	empty   bool  // the fuel ran out
	oom     bool  // a process failed for lack of memory
	err     error // a writer of the outside world failed
}

// execution is a program with all it needs to run.
type execution struct {
	program *Program
	file    string // by which it was started; its name is what ps shows
	argv    []string
	env     []string
	cwd     *node
	fds     []fd
	size    int64 // what its memory is charged at the start
	group   bool
}

// size of the arguments and the environment, which count as memory.
func stringsSize(lists ...[]string) (n int64) {
	for _, l := range lists {
		for _, s := range l {
			n += int64(len(s)) + 16
		}
	}
	return n
}

// spawn starts a process. It takes over x.fds, also when it fails.
func (sb *Sandbox) spawn(parent *Proc, j *job, x *execution) (*Proc, errno) {
	p := &Proc{sb: sb, job: j, ppid: 1, umask: 0o022, start: time.Now(),
		dead: make(chan struct{}), done: make(chan struct{}), woken: make(chan struct{}, 1)}
	e := ok
	switch {
	case sb.closed || j.dead:
		e = eAGAIN
	case len(sb.procs) >= sb.limits.Processes:
		e = eAGAIN
	case !sb.charge(x.size):
		e = eNOMEM
	}
	if e != ok {
		p.releaseAll(x.fds)
		if e == eNOMEM {
			j.oom = true
		}
		return nil, e
	}
	p.memory = x.size
	p.pid = sb.newPid()
	p.pgid = p.pid
	if parent != nil {
		p.ppid, p.umask, p.ignored = parent.pid, parent.umask, parent.ignored
		if !x.group {
			p.pgid = parent.pgid
		}
	}
	p.become(x)
	sb.procs[p.pid] = p
	j.running.Add(1)
	sb.running.Add(1)
	go p.main()
	return p, ok
}

func (sb *Sandbox) newPid() int {
	for {
		if sb.lastPid++; sb.lastPid >= maxPid {
			sb.lastPid = 300 // as Linux does, past what started first
		}
		if sb.procs[sb.lastPid] == nil && sb.lastPid > 1 {
			return sb.lastPid
		}
	}
}

// become sets what a program finds when it starts.
func (p *Proc) become(x *execution) {
	p.program, p.file, p.argv, p.cwd, p.fds = x.program, x.file, x.argv, x.cwd, x.fds
	// Go programs of others learn their directory from PWD; for all, what it
	// says is true.
	const pwd = "PWD="
	isPWD := func(s string) bool { return strings.HasPrefix(s, pwd) }
	p.env = x.env
	if slices.ContainsFunc(p.env, isPWD) || !p.program.snapshots() {
		p.env = slices.DeleteFunc(slices.Clone(p.env), isPWD)
		if dir := p.sb.fs.path(x.cwd); dir != "" {
			p.env = append(p.env, pwd+dir)
		}
	}
	p.caught, p.noPIPE, p.pending, p.preopens, p.root = 0, false, nil, map[uint32]string{}, fd{}
	for len(p.fds) < 3 {
		p.fds = append(p.fds, fd{})
	}
	preopen := func(n *node, name string, at int) fd {
		n.opens++
		return fd{openFile: &openFile{refs: 1, node: n, read: true}}
	}
	if p.program.snapshots() {
		p.root = preopen(p.sb.fs.root, "/", rootFD)
		return
	}
	add := func(n *node, name string) {
		if len(p.fds) < p.sb.limits.Files {
			p.preopens[uint32(len(p.fds))] = name
			p.fds = append(p.fds, preopen(n, name, len(p.fds)))
		}
	}
	root := p.sb.fs.root
	if p.program.goGuest || p.cwd == root {
		add(root, "/")
		return
	}
	// wasi-libc strips the slash of a path before it looks for the preopen,
	// so "/" would catch relative paths too.
	for i, e := range root.dir.after(0) {
		if e.n != nil && e.n.is(sIFDIR) && i < 64 {
			add(e.n, "/"+e.name)
		}
	}
	add(p.cwd, ".")
}

// main runs the process to its end.
func (p *Proc) main() {
	defer p.sb.running.Done()
	defer p.job.running.Done()
	for {
		status := p.run()
		p.sb.mu.Lock()
		x := p.next
		p.closeAll()
		if p.next = nil; x == nil || p.dying.Load() {
			if x != nil {
				p.releaseAll(x.fds)
			}
			p.end(status)
			p.sb.mu.Unlock()
			return
		}
		p.sb.memory += x.size - p.memory // exec has seen that it fits
		p.memory = x.size
		p.become(x)
		p.sb.mu.Unlock()
	}
}

func (p *Proc) closeAll() {
	p.releaseAll(append(p.fds, p.root))
	p.fds, p.root = nil, fd{}
}

func (p *Proc) releaseAll(fds []fd) {
	for _, f := range fds {
		if f.openFile != nil {
			p.release(f.openFile)
		}
	}
}

// exit ends the program from within a host function.
func (p *Proc) exit(status int) { panic(sys.NewExitError(uint32(status))) }

// run runs the program of the process in an instance of its module and
// returns the exit status.
func (p *Proc) run() (status int) {
	ctx := context.WithValue(context.Background(), procKey{}, p)
	p.resume()
	defer p.yield()
	if p.dying.Load() {
		return 0 // end has the signal
	}
	p.fuel = nil
	in, err := p.program.instance(ctx, p)
	if err == nil {
		p.fuel = in.fuel
		err = in.call(ctx)
		p.settle()
		p.sb.recycle(in)
	}
	var exit *sys.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit.ExitCode() & 255)
	}
	p.complain(err)
	return 134
}

// complain tells why the program crashed, where its errors go.
func (p *Proc) complain(err error) {
	if p.dying.Load() {
		return
	}
	why, _, _ := strings.Cut(err.Error(), "\n")
	line := fmt.Sprintf("%s: %s\n", p.argv[0], strings.TrimPrefix(why, "wasm error: "))
	p.sb.mu.Lock()
	defer p.sb.mu.Unlock()
	defer func() { _ = recover() }() // the write may be what kills it
	if f, e := p.fd(2); e == ok {
		f.nonblock = true
		p.write(f, []byte(line))
	}
}

// settle gives back the fuel that was granted and not used.
func (p *Proc) settle() {
	if p.fuel == nil {
		return
	}
	if left := int64(p.fuel.Get()); p.job.limited && left > 0 {
		p.job.fuel.Add(left)
	}
}

// end takes the process out of the sandbox.
func (p *Proc) end(status int) {
	if p.killer != 0 {
		status = 128 + p.killer
	}
	if p.refused && status != 0 && p.killer == 0 {
		p.job.oom = true
	}
	p.sb.uncharge(p.memory)
	p.memory, p.argv, p.env = 0, nil, nil
	p.ended = true
	delete(p.sb.procs, p.pid)
	for _, c := range p.sb.procs {
		if c.ppid == p.pid {
			c.ppid = 1
		}
	}
	p.report(status)
}

// report tells whoever waits for the process that it is over.
func (p *Proc) report(status int) {
	if p.reported {
		return
	}
	p.reported, p.status = true, status
	p.exited.wake()
	close(p.done)
}

// wait returns what a pidfd reads, and adds the time of a child to its
// parent's.
func (p *Proc) wait(by *Proc) []byte {
	cpu := p.cpu.Load() + p.children
	if p.ppid == by.pid {
		by.children += cpu
		p.ppid = 0 // once
	}
	b := le.AppendUint32(nil, uint32(p.status))
	b = le.AppendUint32(b, uint32(p.killer))
	return le.AppendUint64(b, uint64(cpu))
}

// tick is what the meter calls when the fuel has run out.
func (p *Proc) tick(m api.Module) {
	if p.fuel == nil {
		p.fuel = m.ExportedGlobal(meterFuel).(api.MutableGlobal)
	}
	if p.dying.Load() {
		p.exit(0)
	}
	slice := p.program.slice
	if j := p.job; j.limited {
		// What was granted is already taken; the overdraft is small.
		left := j.fuel.Add(min(int64(p.fuel.Get()), 0))
		if left <= 0 {
			p.sb.mu.Lock()
			j.empty = true
			p.sb.kill(j)
			p.sb.mu.Unlock()
			p.exit(0)
		}
		slice = min(slice, left)
		j.fuel.Add(-slice)
	}
	p.fuel.Set(uint64(slice))
	func() {
		p.sb.mu.Lock()
		defer p.sb.mu.Unlock() // check may not return
		p.check()
	}()
	if p.running {
		p.account()
	}
	if p.sb.kernel.sched.wanted(&p.sb.use) {
		p.yield()
		p.resume()
		if p.dying.Load() {
			p.exit(0)
		}
	}
}

// signal delivers a signal. The sandbox's lock is held.
func (p *Proc) signal(sig int) {
	bit := uint64(1) << (sig - 1)
	switch {
	case p.ended:
		return
	case sig == sigKILL:
		p.kill(sig)
		return
	case sig == sigSTOP:
		p.stopped = true
		return
	case sig == sigCONT:
		p.stopped = false
		p.continued.wake()
	}
	switch {
	case p.ignored&bit != 0:
	case p.caught&bit != 0:
		if !slices.Contains(p.pending, byte(sig)) {
			p.pending = append(p.pending, byte(sig))
		}
		p.signalled.wake()
	case sig == sigCHLD || sig == sigURG || sig == sigWINCH || sig == sigCONT:
	case sig == sigTSTP || sig == sigTTIN || sig == sigTTOU:
		p.stopped = true
	default:
		p.kill(sig)
	}
}

func (p *Proc) kill(sig int) {
	if p.killer == 0 {
		p.killer = sig
		p.dying.Store(true)
		close(p.dead)
	}
}

// kill ends every process of a job and lets it start no more. The lock is
// held; the processes are gone when j.running says so.
func (sb *Sandbox) kill(j *job) {
	if !j.dead {
		j.dead = true
		close(j.over)
	}
	for _, p := range sb.procs {
		if p.job == j {
			p.kill(sigKILL)
		}
	}
}

// list returns the processes in order of their numbers.
func (sb *Sandbox) list() []*Proc {
	return slices.SortedFunc(maps.Values(sb.procs), func(a, b *Proc) int { return cmp.Compare(a.pid, b.pid) })
}
