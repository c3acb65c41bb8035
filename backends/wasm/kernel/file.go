package kernel

import (
	"crypto/rand"
	"encoding/binary"
)

var le = binary.LittleEndian

// device is what a character device does.
type device byte

const (
	devNull device = iota + 1
	devZero
	devFull
	devRandom
)

// openFile is an open file description: what descriptors that were duplicated
// or inherited share. Exactly one of node, pipe, proc, signals and sink says
// what it is.
type openFile struct {
	refs        int
	read, write bool
	append      bool
	off         int64

	node    *node
	text    string // of a virtual file, made when it was opened
	pipe    *pipe  // with one of read and write, or, for a FIFO, both
	early   bool   // a FIFO opened to read without waiting for a writer
	before  int    // how many writers it had had then
	proc    *Proc  // pidfd
	signals bool   // the reader's own queue of caught signals
	sink    *sink
}

// fd is a descriptor: an open file and the one flag that is not shared.
type fd struct {
	*openFile
	nonblock bool
}

func (f *openFile) retain() *openFile {
	f.refs++
	return f
}

// release closes the open file when the last descriptor is gone.
func (p *Proc) release(f *openFile) {
	if f.refs--; f.refs > 0 {
		return
	}
	if f.pipe != nil {
		f.pipe.close(f.read, f.write)
		if f.pipe.readers+f.pipe.writers == 0 {
			p.sb.uncharge(pipeSize)
		}
	}
	p.sb.uncharge(int64(len(f.text)))
	if f.node != nil {
		f.node.opens--
		p.sb.fs.drop(f.node)
	}
}

// pipeSize is what a pipe holds; pipeAtomic is how much is written in one
// piece or not at all.
const (
	pipeSize   = 64 << 10
	pipeAtomic = 4096
)

// pipe is a ring of bytes with two ends. The buffer grows to pipeSize, which
// is charged from the start.
type pipe struct {
	buf              []byte
	r, n             int
	readers, writers int
	opened           int // writers that a FIFO has had
	queue            waitQueue
}

func (q *pipe) close(read, write bool) {
	if read {
		q.readers--
	}
	if write {
		q.writers--
	}
	if q.readers == 0 {
		q.buf, q.r, q.n = nil, 0, 0
	}
	q.queue.wake()
}

func (q *pipe) get(b []byte) int {
	n := 0
	for n < len(b) && q.n > 0 {
		k := copy(b[n:], q.buf[q.r:min(q.r+q.n, len(q.buf))])
		q.r, q.n, n = (q.r+k)%len(q.buf), q.n-k, n+k
	}
	if n > 0 {
		q.queue.wake()
	}
	return n
}

func (q *pipe) put(b []byte) int {
	b = b[:min(len(b), pipeSize-q.n)]
	if need := q.n + len(b); need > len(q.buf) {
		size := max(len(q.buf), 1024)
		for size < need {
			size *= 2
		}
		buf := make([]byte, size)
		k := copy(buf, q.buf[q.r:min(q.r+q.n, len(q.buf))])
		copy(buf[k:], q.buf[:q.n-k])
		q.buf, q.r = buf, 0
	}
	for n := 0; n < len(b); {
		at := (q.r + q.n) % len(q.buf)
		k := copy(q.buf[at:], b[n:])
		q.n, n = q.n+k, n+k
	}
	if len(b) > 0 {
		q.queue.wake()
	}
	return len(b)
}

// ready reports whether a read or a write would not wait, and how many bytes
// it could move.
func (f *openFile) ready(p *Proc, write bool) (int, bool) {
	switch {
	case f.pipe != nil && write:
		free := pipeSize - f.pipe.n
		return free, free >= pipeAtomic || f.pipe.readers == 0
	case f.pipe != nil:
		return f.pipe.n, f.pipe.n > 0 || f.atEnd()
	case f.proc != nil:
		return 16, f.proc.reported
	case f.signals:
		return 4 * len(p.pending), len(p.pending) > 0
	case f.node != nil && f.node.is(sIFREG):
		return int(min(max(f.node.data.size-f.off, 0), 1<<30)), true
	}
	return 1, true
}

// atEnd reports whether nothing more comes out of a pipe. Who opened a FIFO
// without waiting for a writer waits for one when it reads.
func (f *openFile) atEnd() bool {
	return f.pipe.n == 0 && f.pipe.writers == 0 && !(f.early && f.pipe.opened == f.before)
}

// queue is where to wait for ready; nil when it always is.
func (f *openFile) queue(p *Proc) *waitQueue {
	switch {
	case f.pipe != nil:
		return &f.pipe.queue
	case f.proc != nil:
		return &f.proc.exited
	case f.signals:
		return &p.signalled
	}
	return nil
}

// read fills b, which is a piece at most, from a descriptor, waiting for the
// first byte unless the descriptor is non-blocking.
func (p *Proc) read(f fd, b []byte) (int, errno) {
	if !f.read {
		return 0, eBADF
	}
	if q := f.queue(p); q != nil {
		for {
			if _, ready := f.ready(p, false); ready {
				break
			}
			if f.nonblock {
				return 0, eAGAIN
			}
			p.sleep(q)
		}
	}
	switch n := f.node; {
	case f.pipe != nil:
		return f.pipe.get(b), ok
	case f.proc != nil:
		return copy(b, f.proc.wait(p)), ok
	case f.signals:
		k := 0
		for ; len(b)-k >= 4 && len(p.pending) > 0; k += 4 {
			le.PutUint32(b[k:], uint32(p.pending[0]))
			p.pending = p.pending[1:]
		}
		if k == 0 {
			return 0, eINVAL
		}
		return k, ok
	case n == nil:
		return 0, ok // standard input that was not given
	case n.is(sIFDIR):
		return 0, eISDIR
	case n.virt.text != nil:
		k := copy(b, f.text[min(f.off, int64(len(f.text))):])
		f.off += int64(k)
		return k, ok
	case n.is(sIFCHR):
		switch n.device {
		case devZero, devFull:
			clear(b)
			return len(b), ok
		case devRandom:
			rand.Read(b)
			return len(b), ok
		}
		return 0, ok
	default:
		k := n.data.readAt(b, f.off)
		f.off += int64(k)
		return k, ok
	}
}

// write writes b to a descriptor: all of it, unless the descriptor is
// non-blocking or space runs out.
func (p *Proc) write(f fd, b []byte) (int, errno) {
	switch n := f.node; {
	case !f.openFile.write:
		return 0, eBADF
	case f.sink != nil:
		return p.writeSink(f.sink, b)
	case f.pipe != nil:
		return p.writePipe(f, b)
	case n == nil:
		return len(b), ok
	case n.is(sIFDIR):
		return 0, eISDIR
	case n.is(sIFCHR):
		if n.device == devFull {
			return 0, eNOSPC
		}
		return len(b), ok
	case n.virt.text != nil:
		return 0, eACCES
	default:
		if f.append {
			f.off = n.data.size
		}
		k, e := n.data.writeAt(b, f.off, &p.sb.fs.quota)
		f.off += int64(k)
		p.sb.fs.changed(n)
		return k, e
	}
}

func (p *Proc) writePipe(f fd, b []byte) (int, errno) {
	q, n := f.pipe, 0
	for {
		if q.readers == 0 {
			if !p.noPIPE {
				p.signal(sigPIPE)
			}
			p.check()
			return n, ePIPE
		}
		if len(b)-n > pipeAtomic || pipeSize-q.n >= len(b)-n {
			n += q.put(b[n:])
		}
		if n == len(b) {
			return n, ok
		}
		if f.nonblock {
			if n > 0 {
				return n, ok
			}
			return 0, eAGAIN
		}
		p.sleep(&q.queue)
	}
}

// descriptors

func (p *Proc) fd(n uint32) (fd, errno) {
	if uint64(n) < uint64(len(p.fds)) && p.fds[n].openFile != nil {
		return p.fds[n], ok
	}
	if n == rootFD && p.root.openFile != nil {
		return p.root, ok
	}
	return fd{}, eBADF
}

// install puts f on the lowest free descriptor from min on. It takes over one
// reference, also when it fails.
func (p *Proc) install(f fd, min int) (uint32, errno) {
	limit := p.sb.limits.Files
	n := min
	for n < len(p.fds) && p.fds[n].openFile != nil {
		n++
	}
	if n >= limit {
		p.release(f.openFile)
		return 0, eMFILE
	}
	p.put(n, f)
	return uint32(n), ok
}

func (p *Proc) put(n int, f fd) {
	for len(p.fds) <= n {
		p.fds = append(p.fds, fd{})
	}
	p.fds[n] = f
}

func (p *Proc) close(n uint32) errno {
	f, e := p.fd(n)
	if e != ok {
		return e
	}
	if n == rootFD {
		p.root = fd{}
	} else {
		p.fds[n] = fd{}
		delete(p.preopens, n)
	}
	p.release(f.openFile)
	return ok
}

// open makes an open file of a node.
func (p *Proc) open(n *node, read, write, appending, nonblock bool) (fd, errno) {
	switch {
	case n.virt.fd != nil:
		f := *n.virt.fd
		if read && !f.read || write && !f.openFile.write {
			return fd{}, eACCES
		}
		return fd{openFile: f.retain(), nonblock: nonblock}, ok
	case n.is(sIFIFO):
		return p.openFIFO(n, read, write, nonblock)
	case write && n.virt.text != nil:
		return fd{}, eACCES
	}
	f := &openFile{refs: 1, node: n, read: read, write: write, append: appending}
	if n.virt.text != nil {
		f.text = n.virt.text(p)
		if !p.sb.charge(int64(len(f.text))) {
			return fd{}, eNOMEM
		}
	}
	n.opens++
	return fd{f, nonblock}, ok
}

// openFIFO waits until somebody has the other end open.
func (p *Proc) openFIFO(n *node, read, write, nonblock bool) (fd, errno) {
	if n.pipe == nil {
		n.pipe = &pipe{}
	}
	q := n.pipe
	if write && !read && nonblock && q.readers == 0 {
		return fd{}, eNXIO
	}
	if q.readers+q.writers == 0 && !p.sb.charge(pipeSize) {
		return fd{}, eNOMEM
	}
	if read {
		q.readers++
	}
	if write {
		q.writers++
		q.opened++
	}
	q.queue.wake()
	n.opens++
	f := &openFile{refs: 1, node: n, pipe: q, read: read, write: write, early: nonblock && q.writers == 0, before: q.opened}
	waiting := true
	defer func() {
		if waiting { // killed
			p.release(f)
		}
	}()
	// A reader that came and went while this one waited counts too, but it
	// cannot be told from one that was never there; it comes again or it
	// gets no answer, as with a pipe to nobody.
	for !nonblock && (read && !write && q.writers == 0 && q.n == 0 || write && !read && q.readers == 0) {
		p.sleep(&q.queue)
	}
	waiting = false
	return fd{f, nonblock}, ok
}
