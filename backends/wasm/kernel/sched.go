package kernel

import (
	"container/heap"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// scheduler lets only so many guests run at once, over all sandboxes of the
// daemon, because Go cannot interrupt their native code: at every moment some
// processor is left for the daemon, and a garbage collection waits for one
// slice of fuel at most. Who has used least goes first, counted by sandbox, so
// one that spins does not delay one that now and then runs a command.
//
// A guest holds a turn while its code runs, and gives it back to wait and,
// when others want it, at each tick.
type scheduler struct {
	mu      sync.Mutex
	free    int
	queue   turns
	least   int64 // use of whoever was let in last
	waiting atomic.Int32
}

// margin is how much more than the next in the queue a guest may have used
// before it has to let that one in: with less, guests that are equals would
// change places at every tick.
const margin = 500 * time.Microsecond

// grace is how much less than the others a sandbox that did nothing for long
// may have used, for the purpose of going first.
const grace = 50 * time.Millisecond

func newScheduler() *scheduler {
	return &scheduler{free: max(1, runtime.GOMAXPROCS(0)-1)}
}

// turn is one guest in the queue.
type turn struct {
	use   int64
	ready chan struct{}
	index int // in the heap; -1 = let in
}

type turns []*turn

func (q turns) Len() int           { return len(q) }
func (q turns) Less(i, j int) bool { return q[i].use < q[j].use }
func (q turns) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *turns) Push(x any) {
	t := x.(*turn)
	t.index = len(*q)
	*q = append(*q, t)
}
func (q *turns) Pop() any {
	old := *q
	t := old[len(old)-1]
	*q = old[:len(old)-1]
	t.index = -1
	return t
}

// acquire waits for a turn. It gives up, and reports false, when dead closes.
// use is the sandbox's own count, in nanoseconds.
func (s *scheduler) acquire(use *atomic.Int64, dead <-chan struct{}) bool {
	s.mu.Lock()
	floor := s.least - int64(grace)
	if use.Load() < floor {
		use.Store(floor)
	}
	if s.free > 0 {
		s.free--
		s.least = max(s.least, use.Load())
		s.mu.Unlock()
		return true
	}
	t := &turn{use: use.Load(), ready: make(chan struct{})}
	heap.Push(&s.queue, t)
	s.waiting.Add(1)
	s.mu.Unlock()
	select {
	case <-t.ready:
		return true
	case <-dead:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.index < 0 { // let in at the same moment
		s.next()
		return false
	}
	heap.Remove(&s.queue, t.index)
	s.waiting.Add(-1)
	return false
}

// wanted reports whether somebody should go before a guest that runs now.
func (s *scheduler) wanted(use *atomic.Int64) bool {
	if s.waiting.Load() == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) > 0 && s.queue[0].use < use.Load()-int64(margin)
}

func (s *scheduler) release() {
	s.mu.Lock()
	s.next()
	s.mu.Unlock()
}

// next passes a turn on.
func (s *scheduler) next() {
	if len(s.queue) == 0 {
		s.free++
		return
	}
	t := heap.Pop(&s.queue).(*turn)
	s.waiting.Add(-1)
	s.least = max(s.least, t.use)
	close(t.ready)
}
