package backendtest

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kilntainers/kilntainers/backends"
)

// A Fake is a backend for tests that keeps every promise until it is told not
// to. Everything that its Driver opens is counted in the Fake and obeys its
// [Faults].
//
//	f := backendtest.NewFake(backendtest.InMemory)
//	d := daemon.New(backends.Drivers{f.Driver()}, …)
//	f.SetFaults(backendtest.Faults{Create: errors.New("no room"), CreateTimes: 2})
//	…
//	if f.Live() != 0 { t.Error("a sandbox is left") }
//
// By default a sandbox is a directory on this machine and its commands are
// real processes in it: no isolation, but real pipes, signals and process
// trees, and an exact kill. That needs Linux and no privileges. With
// [InMemory] a command is a function call, see there.
type Fake struct {
	name     string
	inMemory bool
	held     bool
	mark     string // in the environment of all its processes

	faults  atomic.Pointer[Faults]
	failing atomic.Int64 // Creates that Faults.CreateTimes still lets fail

	opened, created, execs, nextID atomic.Int64

	mu   sync.Mutex
	live map[string]*fakeSandbox // by id

	wrongKill func(m *processMachine, exec string) // a mutant's kill; nil = the right one
}

// A FakeOption is an argument of NewFake.
type FakeOption func(*Fake)

// InMemory makes commands run inside the test's own process, without a fork:
// a thousand sandboxes cost nothing, and all waiting goes through package
// time, so it works in a testing/synctest bubble.
//
// What a sandbox understands then is a small part of a shell: words with
// quotes and $NAME; "a; b", "a && b", "a || b" and "a &"; >FILE, >>FILE, <FILE
// and >&2; files in memory; and the commands
//
//	echo WORD…   cat [FILE…]   sleep SECONDS   exit [N]   yes [WORD]
//	env   pwd   true   false   rm FILE…   id (writes the sandbox's id)
//
// yes writes 64 KiB a millisecond.
func InMemory(f *Fake) { f.inMemory = true }

// Held makes a sandbox end when the last descriptor of it is closed, as one
// does whose engine watches a connection: its Tickets have a File.
func Held(f *Fake) { f.held = true }

// Named gives the driver another name than "fake".
func Named(name string) FakeOption { return func(f *Fake) { f.name = name } }

// NewFake returns a fake without faults.
func NewFake(opts ...FakeOption) *Fake {
	f := &Fake{name: "fake", mark: rand.Text(), live: map[string]*fakeSandbox{}}
	f.faults.Store(&Faults{})
	for _, o := range opts {
		o(f)
	}
	return f
}

// Faults is what goes wrong in a Fake. The zero value is a fake in good order.
type Faults struct {
	Open  error // Driver.Open fails with it
	Check error // Backend.Check fails with it

	Create      error               // Create fails with it …
	CreateTimes int                 // … so many times; 0 = always
	CreateDelay time.Duration       // how long Create takes; ctx cuts it short
	Progress    []backends.Progress // reported by Create one by one during the delay

	Adopt error // Adopt fails with it, and the sandbox ends

	Exec      error         // Exec fails with it; if it is ErrGone, the sandbox goes
	ExecDelay time.Duration // passes before a command is started
	Garbage   string        // on Stdout before a command's own output

	DieAfter  time.Duration // new sandboxes end by themselves after it; 0 = never
	DieReason string        // with this reason

	Close      error         // Sandbox.Close fails with it and the sandbox stays
	CloseDelay time.Duration // how long it takes to destroy a sandbox
}

// SetFaults replaces all faults, from the next call on. Sandboxes that were
// to die keep their date.
func (f *Fake) SetFaults(n Faults) {
	f.failing.Store(int64(n.CreateTimes))
	f.faults.Store(&n)
}

// Live is how many sandboxes exist.
func (f *Fake) Live() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.live)
}

// IDs lists the sandboxes that exist, oldest first.
func (f *Fake) IDs() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]*fakeSandbox, 0, len(f.live))
	for _, s := range f.live {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *fakeSandbox) int { return cmp.Compare(a.number, b.number) })
	ids := make([]string, len(all))
	for i, s := range all {
		ids[i] = s.id
	}
	return ids
}

// Created is how many sandboxes there have been.
func (f *Fake) Created() int64 { return f.created.Load() }

// Execs is how many commands there have been.
func (f *Fake) Execs() int64 { return f.execs.Load() }

// Backends is how many backends are open.
func (f *Fake) Backends() int64 { return f.opened.Load() }

// Running lists the commands that run in all sandboxes, also those in the
// background: after a timeout or a Close nothing of theirs may be in it.
func (f *Fake) Running() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, s := range f.live {
		all = append(all, s.machine.running()...)
	}
	return all
}

// Kill ends a sandbox as if by itself, for that reason, and returns when it
// is gone. It reports whether there was such a sandbox.
func (f *Fake) Kill(id, reason string) bool {
	f.mu.Lock()
	s := f.live[id]
	f.mu.Unlock()
	if s == nil {
		return false
	}
	s.end(&backends.GoneError{Reason: reason}, 0)
	<-s.done
	if !s.lives() {
		s.destroy()
	}
	return true
}

// Leftovers names the sandboxes and processes of that owner that exist. It is
// a Target's Leftovers.
func (f *Fake) Leftovers(o backends.Owner) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var left []string
	for _, s := range f.live {
		if s.owner == o {
			left = append(left, s.id)
		}
	}
	return append(left, leftProcesses(f.mark)...)
}

// FakeOptions are the profile keys of a Fake.
type FakeOptions struct {
	// FakeImage is in the tool text and may not be empty; a change of it makes
	// another backend. With "missing" every Check and Create fails.
	FakeImage string `toml:"fake_image"`
}

// Validate reports an empty fake_image.
func (o *FakeOptions) Validate() error {
	if o.FakeImage == "" {
		return &backends.OptionError{Key: "fake_image", Problem: `is empty; write a name ("debian")`}
	}
	return nil
}

// Driver returns the fake as a driver. It can do all that Features knows.
func (f *Fake) Driver() backends.Driver {
	return backends.Driver{
		Name:     f.name,
		Features: backends.Features{Network: true, Background: true, Signals: true, Pool: true, Shell: true, Adopt: true},
		Options:  func() backends.Options { return &FakeOptions{FakeImage: "fake"} },
		Describe: func(s backends.Spec, o backends.Options) string {
			network := "off"
			if s.Network {
				network = "on"
			}
			return fmt.Sprintf("A fake sandbox (%s) with %s. Network is %s. Files persist between calls.",
				o.(*FakeOptions).FakeImage, cmp.Or(s.Shell, "sh"), network)
		},
		Open: func(s backends.Spec, o backends.Options, _ *slog.Logger) (backends.Backend, error) {
			if err := f.faults.Load().Open; err != nil {
				return nil, err
			}
			f.opened.Add(1)
			return &fakeBackend{fake: f, spec: s, image: o.(*FakeOptions).FakeImage}, nil
		},
		Sweep: f.sweep,
	}
}

// sweep ends what has the owner's instance and another boot.
func (f *Fake) sweep(_ context.Context, req backends.Sweep) (found []backends.Leftover, _ error) {
	f.mu.Lock()
	var old []*fakeSandbox
	for _, s := range f.live {
		if s.owner.Instance == req.Owner.Instance && s.owner.Boot != req.Owner.Boot && !slices.Contains(req.Keep, s.id) {
			old = append(old, s)
		}
	}
	f.mu.Unlock()
	for _, s := range old {
		l := backends.Leftover{Kind: "sandbox", ID: s.id, Profile: s.spec.Profile}
		if !req.DryRun {
			l.Removed = f.Kill(s.id, "it was left behind by an earlier run of the daemon")
		}
		found = append(found, l)
	}
	return found, nil
}

// A fakeBackend is a Fake opened for one profile.
type fakeBackend struct {
	fake   *Fake
	spec   backends.Spec
	image  string
	closed atomic.Bool
}

func (b *fakeBackend) Check(context.Context) error {
	return cmp.Or(b.noImage(), b.fake.faults.Load().Check)
}

// noImage is the error of a backend whose image is "missing".
func (b *fakeBackend) noImage() error {
	if b.image == "missing" {
		return errors.New(`there is no image "missing"`)
	}
	return nil
}

func (b *fakeBackend) Create(ctx context.Context) (backends.Sandbox, error) {
	f := b.fake
	faults := f.faults.Load()
	if b.closed.Load() {
		return nil, errors.New("create: the backend is closed")
	}
	for i := range len(faults.Progress) + 1 {
		if err := sleep(ctx, faults.CreateDelay/time.Duration(len(faults.Progress)+1)); err != nil {
			return nil, err
		}
		if i < len(faults.Progress) {
			backends.Report(ctx, faults.Progress[i])
		}
	}
	if faults.Create != nil && (faults.CreateTimes == 0 || f.failing.Add(-1) >= 0) {
		return nil, faults.Create
	}
	if err := b.noImage(); err != nil {
		return nil, err
	}
	s, err := newFakeSandbox(b)
	if err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	f.created.Add(1)
	if faults.DieAfter > 0 {
		s.dieAfter(faults.DieAfter, faults.DieReason)
	}
	if ctx.Err() != nil { // it ended at the last moment
		s.end(backends.ErrClosed, 0)
		<-s.done
		return nil, context.Cause(ctx)
	}
	return s, nil
}

// Adopt goes on with a sandbox of any backend of the Fake. One that nobody left
// is treated as if its process had died just now.
func (b *fakeBackend) Adopt(ctx context.Context, t backends.Ticket) (backends.Sandbox, error) {
	f := b.fake
	faults := f.faults.Load()
	if err := sleep(ctx, faults.CreateDelay); err != nil {
		f.Kill(t.ID, "nobody adopted it in time")
		return nil, errors.Join(err, closeFile(t.File))
	}
	if faults.Adopt != nil {
		f.Kill(t.ID, "it could not be adopted")
		return nil, errors.Join(faults.Adopt, closeFile(t.File))
	}
	f.mu.Lock()
	old := f.live[t.ID]
	f.mu.Unlock()
	if old == nil || string(t.Data) != t.ID {
		return nil, errors.Join(&backends.GoneError{Reason: "it ended while nobody watched it"}, closeFile(t.File))
	}
	old.Leave()
	old.mu.Lock()
	left := old.left
	old.mu.Unlock()
	s := &fakeSandbox{
		fake: f, backend: b, number: old.number, id: old.id, owner: old.owner, spec: b.spec, machine: old.machine,
		held: t.File, done: make(chan struct{}), execs: map[*gate]context.CancelCauseFunc{},
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !left || f.live[t.ID] != old {
		return nil, errors.Join(&backends.GoneError{Reason: "it ended just now"}, closeFile(t.File))
	}
	f.live[t.ID] = s
	return s, nil
}

func closeFile(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

// Close fails when a sandbox of the backend is left, or on the second call:
// both break the contract, and a test should hear of it.
func (b *fakeBackend) Close() error {
	if b.closed.Swap(true) {
		return errors.New("the backend was closed twice")
	}
	b.fake.opened.Add(-1)
	b.fake.mu.Lock()
	defer b.fake.mu.Unlock()
	var left []string
	for _, s := range b.fake.live {
		if s.backend == b && s.lives() {
			left = append(left, s.id)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("the backend was closed before its sandboxes %s", strings.Join(left, ", "))
	}
	return nil
}

// sleep waits for d, or returns why ctx ended.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
