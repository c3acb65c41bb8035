package kernel

import (
	"crypto/rand"
	"math"
	"time"

	"github.com/tetratelabs/wazero/api"
)

// Constants of wasi_snapshot_preview1
// (https://github.com/WebAssembly/WASI/blob/wasi-0.1/preview1/docs.md).
const (
	typeChar   = 2
	typeDir    = 3
	typeFile   = 4
	typeStream = 6
	typeLink   = 7

	flagAppend   = 1
	flagNonblock = 4

	openCreate    = 1
	openDirectory = 2
	openExclusive = 4
	openTruncate  = 8

	rightRead    = 1 << 1
	rightWrite   = 1 << 6
	rightReaddir = 1 << 14
	rightsAll    = 1<<29 - 1

	lookupFollow = 1

	timeAccess    = 1
	timeAccessNow = 2
	timeModify    = 4
	timeModifyNow = 8

	maxVectors       = 1024
	maxSubscriptions = 1024

	maxMove = 0x7ffff000 // bytes that one call moves, as on Linux; fits a 32-bit ssize_t
	piece   = 1 << 20    // of them, until others may have the lock and the turn
)

// wasiCalls is the whole of wasi_snapshot_preview1. Signatures and layouts
// are those of the document above.
func wasiCalls() map[string]hostCall {
	nothing := func(p *Proc, m memory, a args) errno {
		_, e := p.fd(a.u32(0))
		return e
	}
	noSockets := func(*Proc, memory, args) errno { return eNOTSUP }
	return map[string]hostCall{
		"args_get":          call("ii", func(p *Proc, m memory, a args) errno { return putStrings(m, p.argv, a) }),
		"args_sizes_get":    call("ii", func(p *Proc, m memory, a args) errno { return putSizes(m, p.argv, a) }),
		"environ_get":       call("ii", func(p *Proc, m memory, a args) errno { return putStrings(m, p.env, a) }),
		"environ_sizes_get": call("ii", func(p *Proc, m memory, a args) errno { return putSizes(m, p.env, a) }),
		"clock_res_get":     call("ii", func(p *Proc, m memory, a args) errno { return m.put64(a.u32(1), 1) }),
		"clock_time_get": call("iIi", func(p *Proc, m memory, a args) errno {
			t, e := p.clock(a.u32(0))
			if e != ok {
				return e
			}
			return m.put64(a.u32(2), t)
		}),
		"random_get":  call("ii", randomGet),
		"sched_yield": call("", func(*Proc, memory, args) errno { return ok }),
		"proc_exit": {params: []api.ValueType{api.ValueTypeI32}, do: func(p *Proc, _ api.Module, stack []uint64) {
			p.exit(int(uint32(stack[0])))
		}},
		"proc_raise": call("i", func(p *Proc, m memory, a args) errno {
			if s := a.u32(0); s < 1 || s > sigMax {
				return eINVAL
			}
			p.signal(int(a.u32(0)))
			p.check()
			return ok
		}),
		"poll_oneoff": call("iiii", poll),

		"sock_accept":   call("iii", noSockets),
		"sock_recv":     call("iiiiii", noSockets),
		"sock_send":     call("iiiii", noSockets),
		"sock_shutdown": call("ii", noSockets),

		"fd_advise":             call("iIIi", nothing),
		"fd_allocate":           call("iII", fdAllocate),
		"fd_close":              call("i", func(p *Proc, m memory, a args) errno { return p.close(a.u32(0)) }),
		"fd_datasync":           call("i", nothing),
		"fd_fdstat_get":         call("ii", fdstatGet),
		"fd_fdstat_set_flags":   call("ii", fdstatSetFlags),
		"fd_fdstat_set_rights":  call("iII", nothing),
		"fd_filestat_get":       call("ii", func(p *Proc, m memory, a args) errno { return p.putStat(m, a.u32(0), a.u32(1)) }),
		"fd_filestat_set_size":  call("iI", fdSetSize),
		"fd_filestat_set_times": call("iIIi", fdSetTimes),
		"fd_pread":              call("iiiIi", fdPread),
		"fd_prestat_get":        call("ii", prestatGet),
		"fd_prestat_dir_name":   call("iii", prestatName),
		"fd_pwrite":             call("iiiIi", fdPwrite),
		"fd_read":               call("iiii", fdRead),
		"fd_readdir":            call("iiiIi", fdReaddir),
		"fd_renumber":           call("ii", fdRenumber),
		"fd_seek":               call("iIii", fdSeek),
		"fd_sync":               call("i", nothing),
		"fd_tell":               call("ii", fdTell),
		"fd_write":              call("iiii", fdWrite),

		"path_create_directory":   call("iii", pathMkdir),
		"path_filestat_get":       call("iiiii", pathStat),
		"path_filestat_set_times": call("iiiiIIi", pathSetTimes),
		"path_link":               call("iiiiiii", pathLink),
		"path_open":               call("iiiiiIIii", pathOpen),
		"path_readlink":           call("iiiiii", pathReadlink),
		"path_remove_directory":   call("iii", func(p *Proc, m memory, a args) errno { return pathRemove(p, m, a, true) }),
		"path_rename":             call("iiiiii", pathRename),
		"path_symlink":            call("iiiii", pathSymlink),
		"path_unlink_file":        call("iii", func(p *Proc, m memory, a args) errno { return pathRemove(p, m, a, false) }),
	}
}

// arguments, clocks, random

func putStrings(m memory, list []string, a args) errno {
	pointer, at := a.u32(0), a.u32(1)
	for _, s := range list {
		if e := m.put32(pointer, at); e != ok {
			return e
		}
		if !m.WriteString(at, s) || !m.WriteByte(at+uint32(len(s)), 0) {
			return eFAULT
		}
		pointer, at = pointer+4, at+uint32(len(s))+1
	}
	return ok
}

func putSizes(m memory, list []string, a args) errno {
	size := 0
	for _, s := range list {
		size += len(s) + 1
	}
	if e := m.put32(a.u32(0), uint32(len(list))); e != ok {
		return e
	}
	return m.put32(a.u32(1), uint32(size))
}

// clock reads a clock: real time, monotonic, CPU time.
func (p *Proc) clock(id uint32) (uint64, errno) {
	switch id {
	case 0:
		return uint64(time.Now().UnixNano()), ok
	case 1:
		return uint64(time.Since(p.sb.kernel.boot)) + 1, ok
	case 2, 3:
		p.account()
		return uint64(p.cpu.Load()), ok
	}
	return 0, eINVAL
}

func randomGet(p *Proc, m memory, a args) errno {
	b, e := m.bytes(a.u32(0), a.u32(1))
	for len(b) > 0 {
		part := b[:min(len(b), piece)]
		if b = b[len(part):]; len(b) == 0 {
			rand.Read(part)
			break
		}
		p.unlocked(func() { rand.Read(part) })
		p.check()
	}
	return e
}

// descriptors

// vectors calls f for the buffers of a list, piece by piece, until one is not
// moved in full. It returns how much was, and an error only when that is
// nothing. A list can name the same large buffer over and over, so after each
// piece whoever waits goes first, and a process that was killed ends.
func vectors(p *Proc, m memory, at, n uint32, f func(b []byte) (int, errno)) (uint32, errno) {
	if n > maxVectors {
		return 0, eINVAL
	}
	var total uint32
	since := 0
	for i := range n {
		v, e := m.bytes(at+8*i, 8)
		if e != ok {
			return total, e
		}
		b, e := m.bytes(le.Uint32(v), le.Uint32(v[4:]))
		if e != ok {
			return total, e
		}
		for len(b) > 0 {
			if since >= piece {
				p.unlocked(func() {})
				p.check()
				since = 0
			}
			part := b[:min(len(b), piece-since, int(maxMove-total))]
			k, e := f(part)
			total += uint32(k)
			if e != ok && total == 0 {
				return 0, e
			}
			if e != ok || k < len(part) || total == maxMove {
				return total, ok
			}
			b, since = b[k:], since+k
		}
	}
	return total, ok
}

func fdRead(p *Proc, m memory, a args) errno {
	f, e := p.fd(a.u32(0))
	if e != ok {
		return e
	}
	first := true
	n, e := vectors(p, m, a.u32(1), a.u32(2), func(b []byte) (int, errno) {
		if !first && f.queue(p) != nil {
			if _, ready := f.ready(p, false); !ready || f.proc != nil {
				return 0, ok // what is there is enough
			}
		}
		first = false
		return p.read(f, b)
	})
	if e != ok {
		return e
	}
	return m.put32(a.u32(3), n)
}

func fdWrite(p *Proc, m memory, a args) errno {
	f, e := p.fd(a.u32(0))
	if e != ok {
		return e
	}
	n, e := vectors(p, m, a.u32(1), a.u32(2), func(b []byte) (int, errno) { return p.write(f, b) })
	if e != ok {
		return e
	}
	return m.put32(a.u32(3), n)
}

// regular returns the file of a descriptor that has offsets.
func (p *Proc) regular(number uint32) (fd, errno) {
	f, e := p.fd(number)
	switch {
	case e != ok:
		return fd{}, e
	case f.node == nil || f.pipe != nil:
		return fd{}, eSPIPE
	case f.node.is(sIFDIR):
		return fd{}, eISDIR
	}
	return f, ok
}

func fdPread(p *Proc, m memory, a args) errno {
	f, e := p.regular(a.u32(0))
	if e == ok && !f.read {
		e = eBADF
	}
	if e != ok {
		return e
	}
	own := *f.openFile // its offset is nobody else's
	f.openFile = &own
	if f.off = int64(a[3]); f.off < 0 {
		return eINVAL
	}
	n, e := vectors(p, m, a.u32(1), a.u32(2), func(b []byte) (int, errno) { return p.read(f, b) })
	if e != ok {
		return e
	}
	return m.put32(a.u32(4), n)
}

func fdPwrite(p *Proc, m memory, a args) errno {
	f, e := p.regular(a.u32(0))
	if e != ok {
		return e
	}
	own := *f.openFile
	f.openFile = &own
	if f.off, f.append = int64(a[3]), false; f.off < 0 {
		return eINVAL
	}
	n, e := vectors(p, m, a.u32(1), a.u32(2), func(b []byte) (int, errno) { return p.write(f, b) })
	if e != ok {
		return e
	}
	return m.put32(a.u32(4), n)
}

func fdSeek(p *Proc, m memory, a args) errno {
	f, e := p.regular(a.u32(0))
	if e == eISDIR { // only back to the start, which readdir does by itself
		f, e = p.fd(a.u32(0))
	}
	if e != ok {
		return e
	}
	base := int64(0)
	switch a.u32(2) {
	case 0:
	case 1:
		base = f.off
	case 2:
		base = f.node.size()
	default:
		return eINVAL
	}
	by := int64(a[1])
	if by > 0 && base > math.MaxInt64-by || base+by < 0 {
		return eINVAL
	}
	f.off = base + by
	return m.put64(a.u32(3), uint64(f.off))
}

func fdTell(p *Proc, m memory, a args) errno {
	f, e := p.regular(a.u32(0))
	if e != ok {
		return e
	}
	return m.put64(a.u32(1), uint64(f.off))
}

func fdRenumber(p *Proc, m memory, a args) errno {
	from, to := a.u32(0), a.u32(1)
	f, e := p.fd(from)
	switch {
	case e != ok:
		return e
	case to >= uint32(p.sb.limits.Files) || from == rootFD:
		return eBADF
	case from == to:
		return ok
	}
	p.close(to)
	p.put(int(to), f)
	p.fds[from] = fd{}
	if name, preopened := p.preopens[from]; preopened {
		delete(p.preopens, from)
		p.preopens[to] = name
	}
	return ok
}

// fileType is the type as WASI has it. Pipes have none there; as sockets they
// are what they are to a program: a stream without an offset that can be
// polled.
func (f *openFile) fileType() byte {
	if f.node == nil || f.pipe != nil {
		return typeStream
	}
	return f.node.fileType()
}

func (n *node) fileType() byte {
	switch n.mode & sIFMT {
	case sIFREG:
		return typeFile
	case sIFDIR:
		return typeDir
	case sIFLNK:
		return typeLink
	case sIFCHR:
		return typeChar
	}
	return typeStream
}

func fdstatGet(p *Proc, m memory, a args) errno {
	f, e := p.fd(a.u32(0))
	if e != ok {
		return e
	}
	b, e := m.bytes(a.u32(1), 24)
	if e != ok {
		return e
	}
	clear(b)
	b[0] = f.fileType()
	flags := uint16(0)
	if f.append {
		flags |= flagAppend
	}
	if f.nonblock {
		flags |= flagNonblock
	}
	le.PutUint16(b[2:], flags)
	le.PutUint64(b[8:], rightsAll)
	le.PutUint64(b[16:], rightsAll)
	return ok
}

func fdstatSetFlags(p *Proc, m memory, a args) errno {
	f, e := p.fd(a.u32(0))
	if e != ok {
		return e
	}
	f.append = a.u32(1)&flagAppend != 0
	f.nonblock = a.u32(1)&flagNonblock != 0
	if a.u32(0) == rootFD {
		p.root = f
	} else {
		p.fds[a.u32(0)] = f
	}
	return ok
}

// putStat writes the filestat of a descriptor.
func (p *Proc) putStat(m memory, number, at uint32) errno {
	f, e := p.fd(number)
	if e != ok {
		return e
	}
	if f.node != nil {
		return putStat(m, at, f.node)
	}
	b, e := m.bytes(at, 64)
	if e != ok {
		return e
	}
	clear(b)
	b[16] = f.fileType()
	le.PutUint64(b[24:], 1)
	return ok
}

func putStat(m memory, at uint32, n *node) errno {
	b, e := m.bytes(at, 64)
	if e != ok {
		return e
	}
	clear(b)
	le.PutUint64(b[0:], 1)
	le.PutUint64(b[8:], n.ino)
	b[16] = n.fileType()
	le.PutUint64(b[24:], uint64(n.links()))
	le.PutUint64(b[32:], uint64(n.size()))
	le.PutUint64(b[40:], uint64(n.atime))
	le.PutUint64(b[48:], uint64(n.mtime))
	le.PutUint64(b[56:], uint64(n.ctime))
	return ok
}

func fdSetSize(p *Proc, m memory, a args) errno {
	f, e := p.regular(a.u32(0))
	switch {
	case e != ok:
		return e
	case !f.openFile.write || !f.node.is(sIFREG) || f.node.virt.text != nil:
		return eINVAL
	}
	return p.sb.fs.truncate(f.node, int64(a[1]))
}

func (fs *fileSystem) truncate(n *node, size int64) errno {
	e := n.data.truncate(size, &fs.quota)
	if e == ok {
		fs.changed(n)
	}
	return e
}

// fdAllocate only makes the file longer: space is not set aside.
func fdAllocate(p *Proc, m memory, a args) errno {
	f, e := p.regular(a.u32(0))
	if e != ok {
		return e
	}
	off, n := int64(a[1]), int64(a[2])
	switch {
	case !f.openFile.write || !f.node.is(sIFREG) || f.node.virt.text != nil:
		return eBADF
	case off < 0 || n <= 0 || off > math.MaxInt64-n:
		return eINVAL
	case off+n <= f.node.data.size:
		return ok
	}
	return p.sb.fs.truncate(f.node, off+n)
}

func (fs *fileSystem) setTimes(n *node, access, modify uint64, flags uint32) errno {
	if flags&timeAccess != 0 && flags&timeAccessNow != 0 || flags&timeModify != 0 && flags&timeModifyNow != 0 {
		return eINVAL
	}
	now := fs.time()
	if flags&timeAccess != 0 {
		n.atime = int64(access)
	}
	if flags&timeAccessNow != 0 {
		n.atime = now
	}
	if flags&timeModify != 0 {
		n.mtime = int64(modify)
	}
	if flags&timeModifyNow != 0 {
		n.mtime = now
	}
	n.ctime = now
	return ok
}

func fdSetTimes(p *Proc, m memory, a args) errno {
	f, e := p.fd(a.u32(0))
	if e != ok {
		return e
	}
	if f.node == nil {
		return eINVAL
	}
	return p.sb.fs.setTimes(f.node, a[1], a[2], a.u32(3))
}

// prestatGet tells programs what was open when they started. They ask for one
// descriptor after the other until there is none, so all up to the last one
// are something: what is not a preopen is of a kind that they skip.
func prestatGet(p *Proc, m memory, a args) errno {
	number := a.u32(0)
	name, preopened := p.preopens[number]
	last := uint32(0)
	for n := range p.preopens {
		last = max(last, n)
	}
	if p.root.openFile != nil {
		last = rootFD
		if number == rootFD {
			name, preopened = "/", true
		}
	}
	if number > last {
		return eBADF
	}
	kind := uint32(0)
	if !preopened {
		kind = 1
	}
	if e := m.put32(a.u32(1), kind); e != ok {
		return e
	}
	return m.put32(a.u32(1)+4, uint32(len(name)))
}

func prestatName(p *Proc, m memory, a args) errno {
	name, preopened := p.preopens[a.u32(0)]
	if p.root.openFile != nil && a.u32(0) == rootFD {
		name, preopened = "/", true
	}
	switch {
	case !preopened:
		return eBADF
	case a.u32(2) < uint32(len(name)):
		return eNAMETOOLONG
	case !m.WriteString(a.u32(1), name):
		return eFAULT
	}
	return ok
}

func fdReaddir(p *Proc, m memory, a args) errno {
	f, e := p.fd(a.u32(0))
	if e == ok && (f.node == nil || !f.node.is(sIFDIR)) {
		e = eNOTDIR
	}
	if e != ok {
		return e
	}
	buf, e := m.bytes(a.u32(1), a.u32(2))
	if e != ok {
		return e
	}
	d, n := f.node, 0
	// put reports whether there is room for more.
	put := func(next uint64, name string, to *node) bool {
		var head [24]byte
		le.PutUint64(head[0:], next)
		le.PutUint64(head[8:], to.ino)
		le.PutUint32(head[16:], uint32(len(name)))
		head[20] = to.fileType()
		n += copy(buf[n:], head[:])
		n += copy(buf[n:], name)
		return n < len(buf)
	}
	cookie := a[3]
	more := true
	if cookie < 1 {
		more = put(1, ".", d)
	}
	if cookie < 2 && more {
		more = put(2, "..", d.dir.parent)
	}
	if d.virt.list != nil {
		names := d.virt.list(p)
		for i := max(cookie, 2) - 2; more && i < uint64(len(names)); i++ {
			if to := p.sb.fs.lookup(p, d, names[i]); to != nil {
				more = put(i+3, names[i], to)
			}
		}
	} else if more {
		for _, entry := range d.dir.after(max(cookie, 2)) {
			if entry.n != nil && !put(entry.seq, entry.name, entry.n) {
				break
			}
		}
	}
	return m.put32(a.u32(4), uint32(n))
}

// paths

// at is the directory that a path is relative to, and the path.
func (p *Proc) at(m memory, number int32, ptr, n uint32) (*node, string, errno) {
	path, e := m.str(ptr, n)
	if e != ok {
		return nil, "", e
	}
	dir := p.cwd
	if number != atCwd {
		f, e := p.fd(uint32(number))
		if e != ok {
			return nil, "", e
		}
		if dir = f.node; dir == nil || !dir.is(sIFDIR) && (path == "" || path[0] != '/') {
			return nil, "", eNOTDIR
		}
	}
	return dir, path, ok
}

// walkAt follows a path that a guest gave.
func (p *Proc) walkAt(m memory, number int32, ptr, n uint32, follow bool) (place, errno) {
	dir, path, e := p.at(m, number, ptr, n)
	if e != ok {
		return place{}, e
	}
	return p.sb.fs.walk(p, dir, path, follow)
}

func (p *Proc) findAt(m memory, number int32, ptr, n uint32, follow bool) (*node, errno) {
	at, e := p.walkAt(m, number, ptr, n, follow)
	if e == ok && at.node == nil {
		e = eNOENT
	}
	return at.node, e
}

func pathOpen(p *Proc, m memory, a args) errno {
	flags, rights, fdflags := a.u32(4), a[5], a.u32(7)
	exclusive := flags&openCreate != 0 && flags&openExclusive != 0
	at, e := p.walkAt(m, a.i32(0), a.u32(2), a.u32(3), a.u32(1)&lookupFollow != 0 && !exclusive)
	if e != ok {
		return e
	}
	fs, n := &p.sb.fs, at.node
	write := rights&rightWrite != 0
	read := rights&(rightRead|rightReaddir) != 0 || !write
	switch {
	case n == nil && flags&openCreate == 0:
		return eNOENT
	case n == nil && at.slash:
		return eISDIR
	case n == nil:
		if n, e = fs.create(at, sIFREG|0o666&^p.umask, nil); e != ok {
			return e
		}
	case exclusive:
		return eEXIST
	case n.is(sIFLNK):
		return eLOOP
	case flags&openDirectory != 0 && !n.is(sIFDIR):
		return eNOTDIR
	case n.is(sIFDIR) && (flags&(openCreate|openTruncate) != 0 || write && flags&openDirectory == 0):
		return eISDIR
	case flags&openTruncate != 0 && n.is(sIFREG) && n.virt.text == nil && n.virt.fd == nil:
		if e := fs.truncate(n, 0); e != ok {
			return e
		}
	}
	f, e := p.open(n, read, write && !n.is(sIFDIR), fdflags&flagAppend != 0, fdflags&flagNonblock != 0)
	if e != ok {
		return e
	}
	number, e := p.install(f, 0)
	if e != ok {
		return e
	}
	return m.put32(a.u32(8), number)
}

func pathStat(p *Proc, m memory, a args) errno {
	n, e := p.findAt(m, a.i32(0), a.u32(2), a.u32(3), a.u32(1)&lookupFollow != 0)
	if e != ok {
		return e
	}
	return putStat(m, a.u32(4), n)
}

func pathSetTimes(p *Proc, m memory, a args) errno {
	n, e := p.findAt(m, a.i32(0), a.u32(2), a.u32(3), a.u32(1)&lookupFollow != 0)
	if e != ok {
		return e
	}
	return p.sb.fs.setTimes(n, a[4], a[5], a.u32(6))
}

func pathMkdir(p *Proc, m memory, a args) errno {
	at, e := p.walkAt(m, a.i32(0), a.u32(1), a.u32(2), false)
	if e == ok {
		_, e = p.sb.fs.create(at, sIFDIR|0o777&^p.umask, nil)
	}
	return e
}

func pathSymlink(p *Proc, m memory, a args) errno {
	target, e := m.str(a.u32(0), a.u32(1))
	if e != ok {
		return e
	}
	at, e := p.walkAt(m, a.i32(2), a.u32(3), a.u32(4), false)
	if e != ok {
		return e
	}
	return p.sb.fs.symlink(at, target)
}

func pathLink(p *Proc, m memory, a args) errno {
	n, e := p.findAt(m, a.i32(0), a.u32(2), a.u32(3), a.u32(1)&lookupFollow != 0)
	if e != ok {
		return e
	}
	at, e := p.walkAt(m, a.i32(4), a.u32(5), a.u32(6), false)
	if e != ok {
		return e
	}
	return p.sb.fs.hardlink(n, at)
}

func pathReadlink(p *Proc, m memory, a args) errno {
	n, e := p.findAt(m, a.i32(0), a.u32(1), a.u32(2), false)
	if e == ok && !n.is(sIFLNK) && n.virt.fd == nil {
		e = eINVAL
	}
	if e != ok {
		return e
	}
	b, e := m.bytes(a.u32(3), a.u32(4))
	if e != ok {
		return e
	}
	target := n.target
	switch {
	case n.virt.link != nil:
		target = n.virt.link(p)
	case n.virt.fd != nil:
		target = p.sb.describe(n.virt.fd.openFile)
	}
	return m.put32(a.u32(5), uint32(copy(b, target)))
}

func pathRemove(p *Proc, m memory, a args, dir bool) errno {
	at, e := p.walkAt(m, a.i32(0), a.u32(1), a.u32(2), false)
	if e != ok {
		return e
	}
	return p.sb.fs.remove(at, dir)
}

func pathRename(p *Proc, m memory, a args) errno {
	from, e := p.walkAt(m, a.i32(0), a.u32(1), a.u32(2), false)
	if e != ok {
		return e
	}
	to, e := p.walkAt(m, a.i32(3), a.u32(4), a.u32(5), false)
	if e != ok {
		return e
	}
	return p.sb.fs.rename(from, to)
}

// poll waits until one of many things can go on: a clock, a read, a write.
func poll(p *Proc, m memory, a args) errno {
	n := a.u32(2)
	if n == 0 || n > maxSubscriptions {
		return eINVAL
	}
	guest, e := m.bytes(a.u32(0), 48*n)
	if e != ok {
		return e
	}
	out, e := m.bytes(a.u32(1), 32*n)
	if e != ok {
		return e
	}
	subscriptions := append([]byte(nil), guest...) // the two may overlap

	const clock, read, write = 0, 1, 2
	var deadline time.Time
	var queues []*waitQueue
	now := time.Now()
	times := make([]time.Time, n)
	for i := range n {
		s := subscriptions[48*i:]
		switch s[8] {
		case clock:
			t := le.Uint64(s[24:])
			if le.Uint16(s[40:])&1 != 0 { // absolute
				at, e := p.clock(le.Uint32(s[16:]))
				if e != ok {
					return e
				}
				t -= min(t, at)
			}
			times[i] = now.Add(time.Duration(min(t, math.MaxInt64/2)))
			if deadline.IsZero() || times[i].Before(deadline) {
				deadline = times[i]
			}
		case read, write:
			if f, e := p.fd(le.Uint32(s[16:])); e == ok {
				if q := f.queue(p); q != nil {
					queues = append(queues, q)
				}
			}
		default:
			return eINVAL
		}
	}

	for {
		events := uint32(0)
		now := time.Now()
		for i := range n {
			s := subscriptions[48*i:]
			e, bytes, ready, hangup := ok, 0, false, false
			if s[8] == clock {
				ready = !now.Before(times[i])
			} else if f, err := p.fd(le.Uint32(s[16:])); err != ok {
				e, ready = err, true
			} else {
				bytes, ready = f.ready(p, s[8] == write)
				hangup = f.pipe != nil && (s[8] == write && f.pipe.readers == 0 || s[8] == read && f.atEnd())
			}
			if !ready {
				continue
			}
			o := out[32*events : 32*events+32]
			clear(o)
			copy(o, s[:8])
			le.PutUint16(o[8:], uint16(e))
			o[10] = s[8]
			le.PutUint64(o[16:], uint64(bytes))
			if hangup {
				o[24] = 1
			}
			events++
		}
		if events > 0 {
			return m.put32(a.u32(3), events)
		}
		p.sleepUntil(deadline, queues...)
	}
}
