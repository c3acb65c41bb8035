package kernel

import (
	"github.com/tetratelabs/wazero/experimental"
)

// linear is the linear memory of one instance. Its address space is reserved
// once; what it grows by is charged to the sandbox.
type linear struct {
	p     *Proc // whose memory it is now
	all   []byte
	size  uint64
	made  bool // the initial size is set
	image *image

	shrinking bool // what is asked for next is the initial size; see instance.shrink
}

// allocator returns what wazero calls to make the memory of an instance that
// p runs. What the program has at its start is charged already.
func (g *Program) allocator(p *Proc, made **linear) experimental.MemoryAllocator {
	return experimental.MemoryAllocatorFunc(func(_, most uint64) experimental.LinearMemory {
		most = max(min(most, uint64(p.sb.limits.Memory)), g.size)
		b, err := reserve(max(most, 1), g.image)
		if err != nil {
			panic(err) // wazero has no other way; Program.instance recovers it
		}
		*made = &linear{p: p, all: b, image: g.image}
		return *made
	})
}

// Reallocate is called with the initial size first, then by memory.grow, in
// the goroutine of the process.
func (l *linear) Reallocate(size uint64) []byte {
	if l.shrinking {
		l.shrinking = false
		size = l.p.program.size
	} else if !l.made {
		l.made = true
		size = max(size, l.p.program.size)
	} else if !l.p.grow(int64(size-l.size), size <= uint64(len(l.all))) {
		return nil
	}
	l.size = size
	return l.all[:size:len(l.all)]
}

// Free is called when the instance is closed, also in the goroutine that ran
// it.
func (l *linear) Free() {
	if l.all != nil {
		unreserve(l.all)
		l.all = nil
	}
}

// grow charges more memory to the process, if there is room for it.
func (p *Proc) grow(n int64, room bool) bool {
	p.sb.mu.Lock()
	defer p.sb.mu.Unlock()
	if !room || !p.sb.charge(n) {
		p.refused = true
		return false
	}
	p.memory += n
	return true
}

// charge takes n bytes from the sandbox's memory. The lock is held.
func (sb *Sandbox) charge(n int64) bool {
	if n > sb.limits.Memory-sb.memory {
		return false
	}
	sb.memory += n
	return true
}

func (sb *Sandbox) uncharge(n int64) { sb.memory -= n }
