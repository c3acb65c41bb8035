package kernel

import (
	"time"

	"github.com/tetratelabs/wazero/api"

	"github.com/kilntainers/kilntainers/backends/wasm/meter"
)

// atCwd is the "descriptor" of the working directory.
const atCwd = -100

// kilnCalls is the host module kiln_v1, which ABI.md defines.
func kilnCalls() map[string]hostCall {
	return map[string]hostCall{
		meter.Tick:     plain(func(p *Proc, m api.Module) { p.tick(m) }),
		meter.Overflow: plain(func(*Proc, api.Module) { panic(errStack) }),

		"spawn": call("iiii", kilnSpawn),
		"exec":  call("ii", kilnExec),
		"detach": call("i", func(p *Proc, m memory, a args) errno {
			p.report(int(a.u32(0) & 255))
			return ok
		}),
		"pipe":      call("ii", kilnPipe),
		"dup":       call("iii", kilnDup),
		"dup2":      call("ii", kilnDup2),
		"kill":      call("ii", kilnKill),
		"sigaction": call("ii", kilnSigaction),
		"sigfd":     call("i", kilnSigfd),
		"ids":       call("i", kilnIDs),
		"ps":        call("iii", kilnPs),
		"args":      call("iii", kilnArgs),
		"chdir":     call("ii", kilnChdir),
		"getcwd":    call("iii", kilnGetcwd),
		"umask":     call("ii", kilnUmask),
		"stat":      call("iiiii", kilnStat),
		"chmod":     call("iiiii", kilnChmod),
		"mkfifo":    call("iiii", kilnMkfifo),
		"statfs":    call("i", kilnStatfs),
	}
}

func kilnSpawn(p *Proc, m memory, a args) errno {
	b, e := m.bytes(a.u32(0), a.u32(1))
	if e != ok {
		return e
	}
	x, e := p.request(b)
	if e != ok {
		return e
	}
	child, e := p.sb.spawn(p, p.job, x)
	if e != ok {
		return e
	}
	number, e := p.install(fd{&openFile{refs: 1, read: true, proc: child}, true}, 0)
	if e != ok {
		child.kill(sigKILL) // the caller could not wait for it
		return e
	}
	if e := m.put32(a.u32(2), uint32(child.pid)); e != ok {
		return e
	}
	return m.put32(a.u32(3), number)
}

func kilnExec(p *Proc, m memory, a args) errno {
	b, e := m.bytes(a.u32(0), a.u32(1))
	if e != ok {
		return e
	}
	x, e := p.request(b)
	if e != ok {
		return e
	}
	if x.size-p.memory > p.sb.limits.Memory-p.sb.memory {
		p.releaseAll(x.fds)
		return eNOMEM
	}
	p.next = x
	p.exit(0)
	return ok
}

func kilnPipe(p *Proc, m memory, a args) errno {
	if !p.sb.charge(pipeSize) {
		return eNOMEM
	}
	q := &pipe{readers: 1, writers: 1}
	w := fd{&openFile{refs: 1, write: true, pipe: q}, true}
	rn, e := p.install(fd{&openFile{refs: 1, read: true, pipe: q}, true}, 0)
	if e != ok {
		p.release(w.openFile)
		return e
	}
	wn, e := p.install(w, 0)
	if e != ok {
		p.close(rn)
		return e
	}
	if e := m.put32(a.u32(0), rn); e != ok {
		return e
	}
	return m.put32(a.u32(1), wn)
}

func kilnDup(p *Proc, m memory, a args) errno {
	f, e := p.fd(a.u32(0))
	switch {
	case e != ok:
		return e
	case a.i32(1) < 0:
		return eINVAL
	}
	number, e := p.install(fd{f.retain(), f.nonblock}, int(a.i32(1)))
	if e != ok {
		return e
	}
	return m.put32(a.u32(2), number)
}

func kilnDup2(p *Proc, m memory, a args) errno {
	from, to := a.u32(0), a.u32(1)
	f, e := p.fd(from)
	switch {
	case e != ok:
		return e
	case to >= uint32(p.sb.limits.Files):
		return eBADF
	case from == to:
		return ok
	}
	f.retain()
	p.close(to)
	p.put(int(to), f)
	return ok
}

func kilnKill(p *Proc, m memory, a args) errno {
	pid, sig := int(a.i32(0)), int(a.i32(1))
	if sig < 0 || sig > sigMax {
		return eINVAL
	}
	found := false
	for _, c := range p.sb.list() {
		switch {
		case pid > 0 && c.pid != pid,
			pid == 0 && c.pgid != p.pgid,
			pid == -1 && c == p,
			pid < -1 && c.pgid != -pid:
			continue
		}
		found = true
		if sig > 0 {
			c.signal(sig)
		}
	}
	p.check()
	switch {
	case found:
		return ok
	case pid == 1:
		return ePERM
	}
	return eSRCH
}

func kilnSigaction(p *Proc, m memory, a args) errno {
	sig, how := a.u32(0), a.u32(1)
	if sig < 1 || sig > sigMax || sig == sigKILL || sig == sigSTOP || how > 3 || how == 3 && sig != sigPIPE {
		return eINVAL
	}
	bit := uint64(1) << (sig - 1)
	if sig == sigPIPE {
		p.noPIPE = how == 3
	}
	if how == 3 {
		return ok // what children inherit stays
	}
	p.ignored &^= bit
	p.caught &^= bit
	switch how {
	case 1:
		p.ignored |= bit
	case 2:
		p.caught |= bit
	}
	return ok
}

func kilnSigfd(p *Proc, m memory, a args) errno {
	number, e := p.install(fd{&openFile{refs: 1, read: true, signals: true}, true}, 0)
	if e != ok {
		return e
	}
	return m.put32(a.u32(0), number)
}

func kilnIDs(p *Proc, m memory, a args) errno {
	b, e := m.bytes(a.u32(0), 20)
	if e != ok {
		return e
	}
	for i, v := range []int{p.pid, p.ppid, p.pgid, 0, 0} {
		le.PutUint32(b[4*i:], uint32(v))
	}
	return ok
}

func kilnPs(p *Proc, m memory, a args) errno {
	var all []byte
	p.account()
	for _, c := range p.sb.list() {
		b := make([]byte, 4)
		for _, v := range []uint32{uint32(c.pid), uint32(c.ppid), uint32(c.pgid), uint32(c.state())} {
			b = le.AppendUint32(b, v)
		}
		for _, v := range []int64{c.cpu.Load(), c.memory, c.start.UnixNano()} {
			b = le.AppendUint64(b, uint64(v))
		}
		b = appendList(b, c.argv)
		le.PutUint32(b, uint32(len(b)))
		all = append(all, b...)
	}
	return m.fill(a.u32(0), a.u32(1), a.u32(2), all)
}

// state is how ps shows the process.
func (p *Proc) state() byte {
	switch {
	case p.stopped:
		return 'T'
	case p.asleep:
		return 'S'
	}
	return 'R'
}

func kilnArgs(p *Proc, m memory, a args) errno {
	dir := p.sb.fs.path(p.cwd)
	b := append(le.AppendUint32(nil, uint32(len(dir))), dir...)
	return m.fill(a.u32(0), a.u32(1), a.u32(2), appendList(appendList(b, p.argv), p.env))
}

func kilnChdir(p *Proc, m memory, a args) errno {
	n, e := p.findAt(m, atCwd, a.u32(0), a.u32(1), true)
	switch {
	case e != ok:
		return e
	case !n.is(sIFDIR):
		return eNOTDIR
	}
	p.cwd = n
	return ok
}

func kilnGetcwd(p *Proc, m memory, a args) errno {
	dir := p.sb.fs.path(p.cwd)
	switch {
	case dir == "":
		return eNOENT
	case len(dir) > maxPath:
		return eNAMETOOLONG
	}
	return m.fill(a.u32(0), a.u32(1), a.u32(2), []byte(dir))
}

func kilnUmask(p *Proc, m memory, a args) errno {
	old := p.umask
	if a.i32(0) != -1 {
		p.umask = a.u32(0) & 0o777
	}
	return m.put32(a.u32(1), old)
}

// nodeAt is the file at a path, or of the descriptor when there is no path;
// nil for descriptors of pipes and the like.
func (p *Proc) nodeAt(m memory, number int32, ptr, n, flags uint32) (*node, errno) {
	switch {
	case n > 0:
		return p.findAt(m, number, ptr, n, flags&1 != 0)
	case number == atCwd:
		return p.cwd, ok
	}
	f, e := p.fd(uint32(number))
	if e != ok {
		return nil, e
	}
	return f.node, ok
}

func kilnStat(p *Proc, m memory, a args) errno {
	n, e := p.nodeAt(m, a.i32(0), a.u32(1), a.u32(2), a.u32(3))
	if e != ok {
		return e
	}
	b, e := m.bytes(a.u32(4), 80)
	if e != ok {
		return e
	}
	if n != nil && n.virt.fd != nil {
		if follow := a.u32(3)&1 != 0; follow {
			n = n.virt.fd.node // what /dev/fd/N leads to
		} else {
			n = &node{mode: sIFLNK | 0o700, nlink: 1, mtime: p.start.UnixNano()}
		}
	}
	if n == nil { // a pipe, a pidfd, a stream of the outside world
		n = &node{mode: sIFIFO | 0o600, nlink: 1, mtime: p.start.UnixNano()}
	}
	clear(b)
	le.PutUint64(b[0:], 1)
	le.PutUint64(b[8:], n.ino)
	le.PutUint32(b[16:], n.mode)
	le.PutUint32(b[20:], uint32(n.links()))
	le.PutUint64(b[32:], n.device.number())
	le.PutUint64(b[40:], uint64(n.size()))
	blocks := n.data.blocks()
	if n.is(sIFDIR) {
		blocks = 8
	}
	le.PutUint64(b[48:], blocks)
	le.PutUint64(b[56:], uint64(n.atime))
	le.PutUint64(b[64:], uint64(n.mtime))
	le.PutUint64(b[72:], uint64(n.ctime))
	return ok
}

func kilnChmod(p *Proc, m memory, a args) errno {
	n, e := p.nodeAt(m, a.i32(0), a.u32(1), a.u32(2), a.u32(3))
	switch {
	case e != ok:
		return e
	case n == nil:
		return eINVAL
	case n.is(sIFLNK) || n.virt.made():
		return eNOTSUP
	}
	n.mode = n.mode&sIFMT | a.u32(4)&permAll
	n.ctime = time.Now().UnixNano()
	return ok
}

func kilnMkfifo(p *Proc, m memory, a args) errno {
	at, e := p.walkAt(m, a.i32(0), a.u32(1), a.u32(2), false)
	if e == ok {
		_, e = p.sb.fs.create(at, sIFIFO|a.u32(3)&0o777&^p.umask, nil)
	}
	return e
}

func kilnStatfs(p *Proc, m memory, a args) errno {
	b, e := m.bytes(a.u32(0), 32)
	if e != ok {
		return e
	}
	q := p.sb.fs.quota
	for i, v := range []int64{q.bytes, q.used, q.inodes, q.inodesUsed} {
		le.PutUint64(b[8*i:], uint64(v))
	}
	return ok
}
