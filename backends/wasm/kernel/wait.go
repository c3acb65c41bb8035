package kernel

import (
	"slices"
	"time"
)

// waitQueue is where processes wait for something to change. The sandbox's
// lock guards it. Who is woken looks again, so waking too often is harmless.
type waitQueue struct {
	waiters []chan struct{} // each of capacity 1
}

func (q *waitQueue) add(c chan struct{}) { q.waiters = append(q.waiters, c) }

func (q *waitQueue) remove(c chan struct{}) {
	if i := slices.Index(q.waiters, c); i >= 0 {
		q.waiters = slices.Delete(q.waiters, i, i+1)
	}
}

func (q *waitQueue) wake() {
	for _, c := range q.waiters {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// sleep waits, without the lock and without a turn, until one of the queues is
// woken. It does not return in a process that was killed.
func (p *Proc) sleep(queues ...*waitQueue) { p.sleepUntil(time.Time{}, queues...) }

// sleepUntil is sleep with a time at which to stop waiting; zero is never.
func (p *Proc) sleepUntil(t time.Time, queues ...*waitQueue) {
	p.pause(t, queues...)
	p.check()
}

// check stops here while the process is stopped, and for good when it was
// killed.
func (p *Proc) check() {
	for p.stopped && !p.dying.Load() {
		p.pause(time.Time{}, &p.continued)
	}
	if p.dying.Load() {
		p.exit(0)
	}
}

func (p *Proc) pause(t time.Time, queues ...*waitQueue) {
	select { // a wake-up left over from before
	case <-p.woken:
	default:
	}
	for _, q := range queues {
		q.add(p.woken)
	}
	var timer <-chan time.Time
	if !t.IsZero() {
		tm := time.NewTimer(time.Until(t))
		defer tm.Stop()
		timer = tm.C
	}
	p.asleep = true
	p.unlocked(func() {
		select {
		case <-p.woken:
		case <-timer:
		case <-p.dead:
		}
	})
	p.asleep = false
	for _, q := range queues {
		q.remove(p.woken)
	}
}

// unlocked runs f, which may take long, without the lock and without a turn.
func (p *Proc) unlocked(f func()) {
	p.sb.mu.Unlock()
	p.yield()
	defer func() {
		p.resume()
		p.sb.mu.Lock()
	}()
	f()
}

// resume and yield take and give back the right to run guest code, and keep
// the process's time. In a process that was killed resume returns at once:
// no code of it runs any more.
func (p *Proc) resume() {
	if p.running = p.sb.kernel.sched.acquire(&p.sb.use, p.dead); p.running {
		p.since = time.Now()
	}
}

func (p *Proc) yield() {
	if p.running {
		p.account()
		p.running = false
		p.sb.kernel.sched.release()
	}
}

func (p *Proc) account() {
	now := time.Now()
	d := int64(now.Sub(p.since))
	p.since = now
	p.cpu.Add(d)
	p.sb.use.Add(d)
}
