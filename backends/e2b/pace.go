package e2b

import (
	"context"
	"sync"
	"time"
)

// E2B lets a paying account make five sandboxes a second, a free one one
// (https://e2b.dev/docs/sandbox/rate-limits). Who goes beyond is told how long
// to wait, which a pace heeds too.
const (
	createInterval = 200 * time.Millisecond
	createBurst    = 5
)

// A pace spreads out the creations at one service. It is shared by all
// profiles that use the service.
type pace struct {
	mu   sync.Mutex
	next time.Time // when the next creation would be due, were there no bursts
	held time.Time // nothing before, said the service
}

var paces struct {
	mu sync.Mutex
	by map[string]*pace
}

// paceOf returns the pace of a service. There are as many as services, so none
// is ever dropped.
func paceOf(api string) *pace {
	paces.mu.Lock()
	defer paces.mu.Unlock()
	p := paces.by[api]
	if p == nil {
		p = &pace{}
		if paces.by == nil {
			paces.by = map[string]*pace{}
		}
		paces.by[api] = p
	}
	return p
}

// wait waits for the caller's turn.
func (p *pace) wait(ctx context.Context) error {
	for {
		d := p.take(time.Now())
		if d <= 0 {
			return nil
		}
		if err := sleep(ctx, d); err != nil {
			return err
		}
	}
}

// take takes a turn, or tells after how long to ask again.
func (p *pace) take(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.held.Sub(now); d > 0 {
		return d
	}
	if p.next.Before(now) {
		p.next = now
	}
	if d := p.next.Sub(now) - (createBurst-1)*createInterval; d > 0 {
		return d
	}
	p.next = p.next.Add(createInterval)
	return 0
}

// hold lets nothing through for d.
func (p *pace) hold(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until := time.Now().Add(d); until.After(p.held) {
		p.held = until
	}
}

// sleep waits for d, or returns why ctx ended.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
