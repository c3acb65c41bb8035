package pool

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/backendtest"
)

// The pool is a Backend, so it keeps all of a Backend's promises, over real
// processes and over functions.
func TestConformance(t *testing.T) {
	for _, k := range []struct {
		name string
		fake *backendtest.Fake
		tg   backendtest.Target
	}{
		{"processes", backendtest.NewFake(), backendtest.Target{Lacks: map[backendtest.Need]string{
			backendtest.OwnRoot:      "the fake's sandboxes are directories",
			backendtest.OwnProcesses: "the fake's commands are processes of this machine",
			backendtest.OwnNetwork:   "the fake's commands are processes of this machine",
			backendtest.CleanKill:    "the fake finds processes by a mark in their environment",
		}}},
		{"in memory", backendtest.NewFake(backendtest.InMemory), backendtest.Target{
			Argv:  func(v backendtest.Verb, words ...string) []string { return append([]string{string(v)}, words...) },
			Lacks: map[backendtest.Need]string{backendtest.Shell: "the fake's shell is a toy"},
		}},
	} {
		t.Run(k.name, func(t *testing.T) {
			if k.name == "processes" && runtime.GOOS != "linux" {
				t.Skip("the fake runs processes only on Linux")
			}
			k.tg.Driver = k.fake.Driver()
			open := k.tg.Driver.Open
			k.tg.Driver.Open = func(s backends.Spec, o backends.Options, l *slog.Logger) (backends.Backend, error) {
				b, err := open(s, o, l)
				if err != nil {
					return nil, err
				}
				return New(b, Options{Size: 2, Log: l}), nil
			}
			k.tg.Destroy = func(t testing.TB, _ backends.Owner, id string) { k.fake.Kill(id, "the test ended it") }
			// Warm sandboxes come and go while cases run: so Leftovers stays nil,
			// and the pool's goroutines are looked for in the other tests.
			k.tg.Goroutines = []string{"pool.(*Pool)"}
			backendtest.Run(t, k.tg)
			if ids := k.fake.IDs(); len(ids) > 0 {
				t.Errorf("left behind: %v", ids)
			}
		})
	}
}

// room is a Reserve with a limit.
type room struct {
	t           testing.TB
	limit, used atomic.Int64
}

func (r *room) reserve() (func(), bool) {
	if r.used.Add(1) > r.limit.Load() {
		r.used.Add(-1)
		return nil, false
	}
	var done atomic.Bool
	return func() {
		if done.Swap(true) {
			r.t.Error("a reservation was given back twice")
		}
		r.used.Add(-1)
	}, true
}

// bubble runs f with a pool over a fake in a synctest bubble, then closes the
// pool and looks for what is left.
func bubble(t *testing.T, size int, faults backendtest.Faults, f func(*testing.T, *Pool, *backendtest.Fake, *room)) {
	synctest.Test(t, func(t *testing.T) {
		fake := backendtest.NewFake(backendtest.InMemory)
		fake.SetFaults(faults)
		d := fake.Driver()
		b, err := d.Open(backends.Spec{Profile: "p"}, d.Options(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		r := &room{t: t}
		r.limit.Store(100)
		p := New(b, Options{Size: size, Reserve: r.reserve})
		f(t, p, fake, r)
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if fake.Live() != 0 || r.used.Load() != 0 || p.Warm() != 0 {
			t.Errorf("after Close: %d sandboxes, %d reservations, %d warm", fake.Live(), r.used.Load(), p.Warm())
		}
	})
}

// after lets fake time pass and everything settle.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func create(t *testing.T, p *Pool) backends.Sandbox {
	t.Helper()
	sb, err := p.Create(t.Context())
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return sb
}

func TestFillsTwoAtATime(t *testing.T) {
	bubble(t, 5, backendtest.Faults{CreateDelay: 10 * time.Second}, func(t *testing.T, p *Pool, f *backendtest.Fake, r *room) {
		for i, want := range []int{0, 2, 4, 5, 5} {
			synctest.Wait()
			if got := p.Warm(); got != want {
				t.Errorf("after %d s: %d warm, want %d", i*10, got, want)
			}
			after(10 * time.Second)
		}
		if f.Created() != 5 || r.used.Load() != 5 || p.Problem() != "" {
			t.Errorf("created %d, reserved %d, problem %q", f.Created(), r.used.Load(), p.Problem())
		}
	})
}

func TestHandsOutAtOnceAndOnlyOnce(t *testing.T) {
	bubble(t, 3, backendtest.Faults{CreateDelay: time.Minute}, func(t *testing.T, p *Pool, f *backendtest.Fake, r *room) {
		after(5 * time.Minute)
		warm := f.IDs()
		start := time.Now()
		var got []backends.Sandbox
		for range 3 {
			got = append(got, create(t, p))
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("three warm sandboxes took %v", waited)
		}
		ids := []string{got[0].ID(), got[1].ID(), got[2].ID()}
		slices.Sort(ids[:2]) // these two were ready at the same time
		if !slices.Equal(ids, warm) {
			t.Errorf("got %v, want the oldest first, %v", ids, warm)
		}
		got = append(got, create(t, p)) // none is warm: as long as without a pool
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("a cold one took %v, want 1m0s", waited)
		}
		after(5 * time.Minute)
		if p.Warm() != 3 || r.used.Load() != 3 || f.Live() != 7 {
			t.Errorf("%d warm, %d reserved, %d live; want the pool full again", p.Warm(), r.used.Load(), f.Live())
		}
		for _, sb := range got {
			if x, err := sb.Exec(t.Context(), backends.Exec{Command: "exit 3"}); x.Code != 3 || err != nil {
				t.Errorf("exec: got %+v, %v", x, err)
			}
			if err := sb.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}

// A cold Create reports progress and ends with its ctx; one whose ctx has
// ended takes no warm sandbox.
func TestCreatePassesCtx(t *testing.T) {
	faults := backendtest.Faults{CreateDelay: time.Minute, Progress: []backends.Progress{{Message: "pulling"}}}
	bubble(t, 0, faults, func(t *testing.T, p *Pool, f *backendtest.Fake, _ *room) {
		stop := errors.New("stopped")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 40*time.Second, stop)
		defer cancel()
		reports := 0
		_, err := p.Create(backends.WithProgress(ctx, func(backends.Progress) { reports++ }))
		if !errors.Is(err, stop) || reports != 1 {
			t.Errorf("got %v after %d reports", err, reports)
		}
		p.Resize(1)
		after(2 * time.Minute)
		if _, err := p.Create(ctx); !errors.Is(err, stop) || p.Warm() != 1 {
			t.Errorf("ctx has ended: got %v, %d warm", err, p.Warm())
		}
	})
}

// An engine that is down is asked now and then, not in a storm; the reason is
// there for operators; and the pool is full soon after it is back.
func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := backendtest.NewFake(backendtest.InMemory)
		d := fake.Driver()
		b, _ := d.Open(backends.Spec{}, d.Options(), nil)
		counted := &counter{Backend: b}
		fake.SetFaults(backendtest.Faults{Create: errors.New("the engine is down")})
		var log strings.Builder
		p := New(counted, Options{Size: 4, Log: slog.New(slog.NewTextHandler(&log, nil))})
		after(time.Hour)
		if n := counted.n.Load(); n < 20 || n > 150 {
			t.Errorf("%d attempts in an hour, want about one a minute", n)
		}
		if p.Problem() != "the engine is down" || strings.Count(log.String(), "\n") != 1 {
			t.Errorf("problem %q, log:\n%s", p.Problem(), &log)
		}
		if _, err := p.Create(t.Context()); err == nil {
			t.Errorf("create succeeded although the engine is down")
		}
		fake.SetFaults(backendtest.Faults{})
		after(lastDelay)
		if p.Warm() != 4 || p.Problem() != "" || strings.Count(log.String(), "\n") != 2 {
			t.Errorf("the engine is back: %d warm, problem %q, log:\n%s", p.Warm(), p.Problem(), &log)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
}

type counter struct {
	backends.Backend
	n atomic.Int64
}

func (c *counter) Create(ctx context.Context) (backends.Sandbox, error) {
	c.n.Add(1)
	return c.Backend.Create(ctx)
}

// A sandbox that ends while it waits is not handed out, and is replaced.
func TestDeadOnesAreReplaced(t *testing.T) {
	bubble(t, 3, backendtest.Faults{}, func(t *testing.T, p *Pool, f *backendtest.Fake, r *room) {
		synctest.Wait()
		dead := f.IDs()[0]
		f.Kill(dead, "it ran out of memory")
		synctest.Wait()
		if p.Warm() != 2 || r.used.Load() != 2 || p.Problem() != "sandbox is gone: it ran out of memory" {
			t.Errorf("%d warm, %d reserved, problem %q", p.Warm(), r.used.Load(), p.Problem())
		}
		after(firstDelay)
		if p.Warm() != 3 || p.Problem() != "" {
			t.Errorf("later: %d warm, problem %q", p.Warm(), p.Problem())
		}
		for range 3 {
			sb := create(t, p)
			if sb.ID() == dead {
				t.Errorf("a dead sandbox was handed out")
			}
			sb.Close(t.Context())
		}
	})
}

// Nor is one that ended just now, so that the pool has not noticed.
func TestDeadOnesAreSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := backendtest.NewFake(backendtest.InMemory)
		d := fake.Driver()
		b, _ := d.Open(backends.Spec{}, d.Options(), nil)
		p := New(unnoticed{b}, Options{Size: 3})
		synctest.Wait()
		for _, id := range fake.IDs()[:2] {
			fake.Kill(id, "the test ended it")
		}
		sb := create(t, p)
		if err := sb.Err(); err != nil {
			t.Errorf("a dead sandbox was handed out: %v", err)
		}
		sb.Close(t.Context())
		if err := p.Close(); err != nil || fake.Live() != 0 {
			t.Errorf("close: %v, %d live", err, fake.Live())
		}
	})
}

// unnoticed makes sandboxes whose end does not show in Done yet.
type unnoticed struct{ backends.Backend }

func (b unnoticed) Create(ctx context.Context) (backends.Sandbox, error) {
	sb, err := b.Backend.Create(ctx)
	return neverDone{sb}, err
}

type neverDone struct{ backends.Sandbox }

func (neverDone) Done() <-chan struct{} { return nil }

// Sandboxes that die young, each time, are not made in a storm either.
func TestDyingYoung(t *testing.T) {
	bubble(t, 3, backendtest.Faults{DieAfter: time.Millisecond, DieReason: "its entrypoint ended"}, func(t *testing.T, p *Pool, f *backendtest.Fake, _ *room) {
		after(time.Hour)
		if n := f.Created(); n > 250 {
			t.Errorf("%d sandboxes in an hour", n)
		}
		if p.Warm() != 0 || p.Problem() != "sandbox is gone: its entrypoint ended" {
			t.Errorf("%d warm, problem %q", p.Warm(), p.Problem())
		}
	})
}

func TestResize(t *testing.T) {
	bubble(t, 2, backendtest.Faults{CreateDelay: time.Second}, func(t *testing.T, p *Pool, f *backendtest.Fake, r *room) {
		after(time.Minute)
		before := f.IDs()
		p.Resize(4)
		after(time.Minute)
		if ids := f.IDs(); len(ids) != 4 || !slices.Equal(ids[:2], before) {
			t.Errorf("up: %v, want %v and two more", ids, before)
		}
		p.Resize(1)
		synctest.Wait()
		if ids := f.IDs(); len(ids) != 1 || !slices.Contains(before, ids[0]) || r.used.Load() != 1 {
			t.Errorf("down: %v, want one of %v; %d reserved", ids, before, r.used.Load())
		}
		p.Resize(3)
		time.Sleep(500 * time.Millisecond) // two are being made
		p.Resize(0)
		after(time.Minute)
		if f.Live() != 0 || r.used.Load() != 0 {
			t.Errorf("to nothing: %d live, %d reserved", f.Live(), r.used.Load())
		}
	})
}

// Warm sandboxes count against the daemon's limit, and give way.
func TestReserve(t *testing.T) {
	bubble(t, 5, backendtest.Faults{}, func(t *testing.T, p *Pool, f *backendtest.Fake, r *room) {
		r.limit.Store(2)
		p.Resize(5) // look again
		after(roomDelay)
		for f.Live() > 2 {
			p.Evict() // those from before the limit
		}
		if p.Warm() != 2 {
			t.Fatalf("%d warm, want 2", p.Warm())
		}
		after(time.Hour)
		if p.Warm() != 2 || r.used.Load() != 2 {
			t.Errorf("%d warm, %d reserved; want 2: there is no room", p.Warm(), r.used.Load())
		}
		sb := create(t, p)
		after(time.Minute)
		if !strings.Contains(p.Problem(), "no room") {
			t.Errorf("problem %q", p.Problem())
		}
		if p.Warm() != 2 || r.used.Load() != 2 || f.Live() != 3 {
			t.Errorf("one is the caller's: %d warm, %d reserved, %d live; want 2, 2, 3", p.Warm(), r.used.Load(), f.Live())
		}
		if !p.Evict() || r.used.Load() != 1 || f.Live() != 2 {
			t.Errorf("evict: %d reserved, %d live", r.used.Load(), f.Live())
		}
		r.limit.Store(10)
		after(time.Minute)
		sb.Close(t.Context())
		for p.Evict() {
		}
		if p.Evict() || f.Live() != 0 {
			t.Errorf("all evicted: %d live", f.Live())
		}
	})
}

// Close destroys what is warm or being made, and nothing that was handed out.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := backendtest.NewFake(backendtest.InMemory)
		d := fake.Driver()
		b, _ := d.Open(backends.Spec{}, d.Options(), nil)
		p := New(b, Options{Size: 3})
		synctest.Wait()
		mine := create(t, p)
		synctest.Wait()
		fake.SetFaults(backendtest.Faults{CreateDelay: time.Hour})
		p.Resize(9)
		synctest.Wait()
		start := time.Now()
		err := p.Close()
		if time.Since(start) != 0 || mine.Err() != nil || fake.Live() != 1 {
			t.Errorf("after %v: %v, %d live", time.Since(start), mine.Err(), fake.Live())
		}
		if err == nil || !strings.Contains(err.Error(), mine.ID()) { // the fake's own complaint
			t.Errorf("the inner Backend was not closed last: %v", err)
		}
		mine.Close(t.Context())
	})
}

// A sandbox that is ready at the very moment of Close is not lost.
func TestCloseWhileOneBecomesReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := backendtest.NewFake(backendtest.InMemory)
		d := fake.Driver()
		b, _ := d.Open(backends.Spec{}, d.Options(), nil)
		p := New(tooLate{b}, Options{Size: 1})
		synctest.Wait()
		if err := p.Close(); err != nil || fake.Created() != 1 || fake.Live() != 0 {
			t.Errorf("got %v; %d created, %d live", err, fake.Created(), fake.Live())
		}
	})
}

// tooLate creates when ctx has just ended.
type tooLate struct{ backends.Backend }

func (b tooLate) Create(ctx context.Context) (backends.Sandbox, error) {
	<-ctx.Done()
	return b.Backend.Create(context.WithoutCancel(ctx))
}

// What could not be destroyed is said.
func TestCloseFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := backendtest.NewFake(backendtest.InMemory)
		d := fake.Driver()
		b, _ := d.Open(backends.Spec{}, d.Options(), nil)
		var log strings.Builder
		p := New(b, Options{Size: 1, Log: slog.New(slog.NewTextHandler(&log, nil))})
		synctest.Wait()
		stuck := errors.New("device is busy")
		fake.SetFaults(backendtest.Faults{Close: stuck})
		if err := p.Close(); !errors.Is(err, stuck) || !strings.Contains(log.String(), "device is busy") {
			t.Errorf("got %v, log %q", err, &log)
		}
	})
}

// Everything at once, for -race: no sandbox is handed out twice, none is lost,
// and the reservations come out even.
func TestHammer(t *testing.T) {
	fake := backendtest.NewFake(backendtest.InMemory)
	d := fake.Driver()
	b, _ := d.Open(backends.Spec{}, d.Options(), nil)
	r := &room{t: t}
	r.limit.Store(6)
	p := New(b, Options{Size: 4, Reserve: r.reserve})
	var seen sync.Map
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				switch n := rand.IntN(20); n {
				case 0:
					p.Resize(rand.IntN(6))
				case 1:
					p.Evict()
				case 2:
					if ids := fake.IDs(); len(ids) > 0 {
						fake.Kill(ids[rand.IntN(len(ids))], "the hammer hit it")
					}
				default:
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(2000))*time.Microsecond)
					sb, err := p.Create(ctx)
					cancel()
					if err != nil {
						continue
					}
					if _, twice := seen.LoadOrStore(sb.ID(), true); twice {
						t.Errorf("%s was handed out twice", sb.ID())
					}
					_, err = sb.Exec(t.Context(), backends.Exec{Command: "echo hi"})
					if err != nil && !errors.Is(err, backends.ErrGone) {
						t.Errorf("exec: %v", err)
					}
					if err := sb.Close(t.Context()); err != nil {
						t.Errorf("close: %v", err)
					}
				}
			}
		})
	}
	all.Wait()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if fake.Live() != 0 || r.used.Load() != 0 {
		t.Errorf("after Close: %d sandboxes, %d reservations", fake.Live(), r.used.Load())
	}
}
