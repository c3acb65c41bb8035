// Package pool keeps sandboxes started ahead of need. A [Pool] is a Backend
// around a Backend:
//
//	          ┌───────────────── Pool ─────────────────┐
//	Create ──►│  ▢ ▢ ▢ warm ── the oldest ──► caller    │  at once
//	          │  ▲                                     │
//	          │  └─ refill, two at a time, back-off ─┐ │
//	          └──────────────────────────────────────┼─┘
//	Create, when none is warm ───────────────► inner Backend
//
// A warm sandbox has run nothing, is handed out once, and is the caller's from
// then on. One that ends while it waits is dropped and replaced.
package pool

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

const (
	atOnce     = 2                // Docker starts 4 a second one by one, 6 in pairs, and no more in threes
	firstDelay = time.Second      // after a failure; doubled by each that follows …
	lastDelay  = time.Minute      // … up to this
	forgotten  = 5 * time.Minute  // failures further apart do not add up
	roomDelay  = 5 * time.Second  // before asking again for a reservation
	closeTime  = 30 * time.Second // for destroying one sandbox
)

// Options are a pool's settings.
type Options struct {
	// Size is how many sandboxes to keep warm; Resize changes it.
	Size int

	// Reserve asks for room for one more warm sandbox under the daemon's
	// limits; release gives it back, exactly once: when the sandbox is handed
	// out, where the caller's own reservation takes its place, or destroyed.
	// nil means that there is always room. Both are called without any lock of
	// the pool held.
	Reserve func() (release func(), ok bool)

	// Log gets a line when the pool begins to fail and when it recovers.
	Log *slog.Logger
}

// A Pool is a Backend that has sandboxes ready. It is safe for concurrent use.
type Pool struct {
	inner backends.Backend
	o     Options
	stop  context.CancelFunc // ends the filler and its Creates
	poke  chan struct{}      // tells the filler to look again
	tasks sync.WaitGroup     // the filler, watches, and destructions

	mu       sync.Mutex
	size     int
	closed   bool
	warm     []*warm // oldest first
	problem  string
	failures int       // in a row, see forgotten
	failed   time.Time // the last of them
	retry    time.Time // no Create before
}

// A warm is a sandbox that waits.
type warm struct {
	backends.Sandbox
	release func()
	taken   chan struct{} // closed when it leaves the pool
}

// New returns a pool of sandboxes of b, and begins to fill it. Closing the
// pool closes b.
func New(b backends.Backend, o Options) *Pool {
	if o.Reserve == nil {
		o.Reserve = func() (func(), bool) { return func() {}, true }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &Pool{inner: b, o: o, stop: stop, poke: make(chan struct{}, 1), size: o.Size}
	p.tasks.Go(func() { p.fill(ctx) })
	return p
}

// Check reports whether Create would work without a warm sandbox.
func (p *Pool) Check(ctx context.Context) error { return p.inner.Check(ctx) }

// Create hands out the sandbox that has waited longest. When there is none it
// makes one, as the inner Backend does.
func (p *Pool) Create(ctx context.Context) (backends.Sandbox, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	w := p.take()
	p.wake()
	if w == nil {
		return p.inner.Create(ctx)
	}
	w.release()
	return w.Sandbox, nil
}

// Adopt goes on with a sandbox of the inner Backend's; no warm one is touched.
func (p *Pool) Adopt(ctx context.Context, t backends.Ticket) (backends.Sandbox, error) {
	return p.inner.Adopt(ctx, t)
}

// Warm is how many sandboxes wait.
func (p *Pool) Warm() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.warm)
}

// Problem says why the pool is not full, in words for an operator; "" when it
// is, or is being filled.
func (p *Pool) Problem() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problem
}

// Resize changes how many sandboxes to keep. Warm ones stay, but for those
// that are too many.
func (p *Pool) Resize(size int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.size = size
	for len(p.warm) > size && !p.closed {
		w := p.pop(len(p.warm) - 1)
		p.tasks.Go(func() { p.destroy(w) })
	}
	p.wake()
}

// Evict destroys one warm sandbox to make room for one elsewhere, and reports
// whether there was one. The pool does not ask for the room again before it is
// next used.
func (p *Pool) Evict() bool {
	w := p.take()
	if w != nil {
		p.destroy(w)
	}
	return w != nil
}

// Close destroys the warm sandboxes, and only these, then closes the inner
// Backend.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	var errs []error
	var all sync.WaitGroup
	for len(p.warm) > 0 {
		w := p.pop(0)
		all.Go(func() {
			if err := p.destroy(w); err != nil {
				p.mu.Lock()
				defer p.mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	p.mu.Unlock()
	p.stop()
	all.Wait()
	p.tasks.Wait()
	return errors.Join(append(errs, p.inner.Close())...)
}

// take takes the oldest sandbox that lives out of the pool; nil when there is
// none.
func (p *Pool) take() *warm {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.warm) > 0 {
		w := p.pop(0)
		if w.Err() == nil {
			return w
		}
		p.tasks.Go(func() { p.destroy(w) })
	}
	return nil
}

// pop takes the sandbox at i out of the pool, which is locked.
func (p *Pool) pop(i int) *warm {
	w := p.warm[i]
	p.warm = slices.Delete(p.warm, i, i+1)
	close(w.taken)
	return w
}

// destroy ends a sandbox that nobody got.
func (p *Pool) destroy(w *warm) error {
	defer w.release()
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	err := w.Close(ctx)
	if err != nil {
		p.o.Log.Error("warm sandbox not destroyed", "sandbox", w.ID(), "error", err)
	}
	return err
}

func (p *Pool) wake() {
	select {
	case p.poke <- struct{}{}:
	default: // it has not looked yet
	}
}

// fill keeps the pool full until ctx ends.
func (p *Pool) fill(ctx context.Context) {
	done := make(chan struct{})
	for busy := 0; ; {
		missing, pause := p.missing(busy)
		for ; missing > 0 && busy < atOnce; missing-- {
			release, ok := p.o.Reserve()
			if !ok {
				pause = p.noRoom()
				break
			}
			busy++
			go func() { p.add(ctx, release); done <- struct{}{} }()
		}
		var again <-chan time.Time
		if pause > 0 {
			again = time.After(pause)
		}
		select {
		case <-done:
			busy--
		case <-p.poke:
		case <-again:
		case <-ctx.Done():
			for ; busy > 0; busy-- {
				<-done
			}
			return
		}
	}
}

// missing is how many sandboxes to start now, given how many are being
// started; or, when there is a pause after a failure, how long it lasts yet.
func (p *Pool) missing(busy int) (n int, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n = p.size - len(p.warm) - busy
	if n <= 0 {
		p.problem = ""
		return 0, 0
	}
	if pause = time.Until(p.retry); pause > 0 {
		return 0, pause
	}
	return n, 0
}

// add makes one warm sandbox.
func (p *Pool) add(ctx context.Context, release func()) {
	sb, err := p.inner.Create(ctx)
	if err != nil {
		release()
		if ctx.Err() == nil {
			p.fail(err)
		}
		return
	}
	w := &warm{Sandbox: sb, release: release, taken: make(chan struct{})}
	p.mu.Lock()
	if p.closed || len(p.warm) >= p.size {
		p.mu.Unlock()
		p.destroy(w)
		return
	}
	if p.problem != "" {
		p.problem = ""
		p.o.Log.Info("pool is being filled again")
	}
	p.warm = append(p.warm, w)
	p.tasks.Go(func() { p.watch(w) })
	p.mu.Unlock()
}

// watch replaces a sandbox that ends while it waits.
func (p *Pool) watch(w *warm) {
	select {
	case <-w.taken:
		return
	case <-w.Done():
	}
	p.mu.Lock()
	i := slices.Index(p.warm, w)
	if i >= 0 {
		p.pop(i)
	}
	p.mu.Unlock()
	if i < 0 {
		return // someone took it at the same moment
	}
	p.destroy(w)
	p.fail(w.Err())
}

// fail notes a failure, after which the filler pauses: a sandbox that cannot
// be made, or one that does not live to be handed out. Either may happen again
// at once and for ever.
func (p *Pool) fail(err error) {
	p.mu.Lock()
	now := time.Now()
	if now.Sub(p.failed) > forgotten {
		p.failures = 0
	}
	delay := min(firstDelay<<min(p.failures, 10), lastDelay)
	p.failures++
	p.failed, p.retry = now, now.Add(delay)
	if p.problem != err.Error() {
		p.problem = err.Error()
		p.o.Log.Warn("pool cannot be filled", "error", err, "retry", delay)
	}
	p.mu.Unlock()
	p.wake()
}

// noRoom notes that there is no reservation, and returns when to ask again.
func (p *Pool) noRoom() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problem = "the limit on sandboxes leaves no room for it"
	p.retry = time.Now().Add(roomDelay)
	return roomDelay
}
