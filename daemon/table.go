package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/pool"
	"github.com/kilntainers/kilntainers/profiles"
)

// A table holds which profiles are in service. A new configuration is put in
// service whole or not at all:
//
//	apply ─► open what is new (no I/O) ─► put every profile in service ─► let go of what is old
//
// Endpoints outlive reloads, and so do the sessions in them.
type table struct {
	log     *slog.Logger
	owner   backends.Owner
	version string
	metrics *metrics
	limits  *limits
	keeper  *keeper
	access  *access
	gate    gate
	work    sync.WaitGroup // keepers and makings of all sessions
	shims   sync.WaitGroup // connections of shims, but for those that were taken over
	adopted sync.WaitGroup // sandboxes that are being adopted
	closing sync.WaitGroup // backends that nobody uses any more

	swept    chan struct{}   // closed when what earlier boots left is gone; no sandbox is made before
	alive    context.Context // ends when the daemon begins to stop
	stopping context.CancelFunc
	noShims  atomic.Bool // calls over the shim are refused
	parking  atomic.Bool // the shims' connections are to read no more

	mu        sync.Mutex
	conf      *profiles.Config
	endpoints map[string]*endpoint // also those out of service that somebody is still connected to
}

func newTable(owner backends.Owner, version string, m *metrics, k *keeper, a *access, log *slog.Logger) *table {
	t := &table{
		log: log, owner: owner, version: version, metrics: m, keeper: k, access: a,
		limits: newLimits(), conf: &profiles.Config{}, endpoints: map[string]*endpoint{}, swept: make(chan struct{}),
	}
	t.alive, t.stopping = context.WithCancel(context.Background())
	return t
}

// closed reports whether calls over the connection that req came by are
// refused already.
func (t *table) closed(req *mcp.CallToolRequest) bool {
	if !t.noShims.Load() || req.Extra == nil || req.Extra.TokenInfo == nil {
		return false
	}
	_, shim := req.Extra.TokenInfo.Extra[extraShim]
	return shim
}

// Changes is what a new configuration did, by profile name.
type Changes struct {
	Added   []string `json:"added"`
	Updated []string `json:"updated"`
	Removed []string `json:"removed"`
}

// noChanges has lists too: who reads JSON need not tell null from [].
func noChanges() Changes { return Changes{Added: []string{}, Updated: []string{}, Removed: []string{}} }

// Any reports whether anything changed.
func (c Changes) Any() bool { return len(c.Added)+len(c.Updated)+len(c.Removed) > 0 }

// apply puts c in service. When a backend cannot be opened nothing changes.
func (t *table) apply(c *profiles.Config) (Changes, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := map[string]*service{}
	for name, p := range c.Profiles {
		svc, err := t.serve(t.endpoints[name], p)
		if err != nil {
			for _, s := range next {
				s.opened.release()
			}
			return Changes{}, &openError{profile: p, err: err}
		}
		next[name] = svc
	}

	t.conf = c
	t.limits.set(c)
	done := noChanges()
	for name, svc := range next {
		ep := t.endpoints[name]
		if ep == nil {
			ep = newEndpoint(name, t)
			t.endpoints[name] = ep
		}
		old := ep.put(svc)
		switch {
		case old == nil:
			done.Added = append(done.Added, name)
		case !old.profile.Equal(svc.profile):
			done.Updated = append(done.Updated, name)
		}
	}
	for name, ep := range t.endpoints {
		if next[name] == nil {
			if ep.put(nil) != nil {
				done.Removed = append(done.Removed, name)
			}
			if ep.idle() {
				delete(t.endpoints, name)
			}
		}
	}
	for _, names := range [][]string{done.Added, done.Updated, done.Removed} {
		slices.Sort(names)
	}
	return done, nil
}

// An openError is a profile whose backend cannot be opened.
type openError struct {
	profile *profiles.Profile
	err     error
}

func (e *openError) Error() string {
	return fmt.Sprintf("%s: profiles.%s: cannot open the backend %s: %v", e.profile.Source, e.profile.Name, e.profile.Backend, e.err)
}

func (e *openError) Unwrap() error { return e.err }

// serve prepares a profile for service. A backend whose sandboxes the edit
// leaves alone is kept, with its warm ones.
func (t *table) serve(ep *endpoint, p *profiles.Profile) (*service, error) {
	svc := &service{profile: p, spec: p.Spec(t.owner)}
	var old *service
	if ep != nil {
		old = ep.svc.Load()
	}
	switch {
	case old != nil && old.profile.Equal(p):
		svc.allow, svc.opened = old.allow, old.opened.retain()
		return svc, nil
	case old != nil && old.profile.SameSandbox(p):
		svc.opened = old.opened.retain()
	default:
		o, err := t.open(p, svc.spec)
		if err != nil {
			return nil, err
		}
		svc.opened = o
	}
	svc.allow = newAllowList(p.Allow, t.log.With("profile", p.Name))
	return svc, nil
}

// open opens the backend of a profile, with a pool around it.
func (t *table) open(p *profiles.Profile, spec backends.Spec) (*opened, error) {
	log := t.log.With("profile", p.Name)
	b, err := p.Driver.Open(spec, p.Options, log)
	if err != nil {
		return nil, err
	}
	o := &opened{profile: p, log: log, closing: &t.closing, refs: 1}
	o.backend = pool.New(b, pool.Options{Log: log, Reserve: t.limits.reserveWarm})
	return o, nil
}

// evict destroys warm sandboxes while there are more sandboxes than the daemon
// may have: those of sessions come first.
func (t *table) evict() {
	for _, ep := range t.all() {
		svc := ep.svc.Load()
		for svc != nil && t.limits.over() && svc.opened.backend.Evict() {
			ep.log.Debug("a warm sandbox gave way to another profile's")
		}
	}
}

// lookup returns the endpoint of a profile in service, or nil.
func (t *table) lookup(name string) *endpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ep := t.endpoints[name]; ep != nil && ep.svc.Load() != nil {
		return ep
	}
	return nil
}

// config is the configuration in service.
func (t *table) config() *profiles.Config {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conf
}

// served counts the profiles in service.
func (t *table) served() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.conf.Profiles)
}

// all returns every endpoint in name order, those out of service too.
func (t *table) all() []*endpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	eps := make([]*endpoint, 0, len(t.endpoints))
	for _, name := range slices.Sorted(maps.Keys(t.endpoints)) {
		eps = append(eps, t.endpoints[name])
	}
	return eps
}

// stop ends every session, waits until their sandboxes are destroyed or left
// to the next daemon, and closes the backends. Calls must have been refused
// before (see gate). keep tells what may be left.
func (t *table) stop(keep func(*entry) bool) {
	for _, ep := range t.all() {
		for _, s := range ep.list() {
			s.leave(keep)
			ep.drop(s)
		}
	}
	t.work.Wait()
	var wg sync.WaitGroup
	for _, ep := range t.all() {
		wg.Go(func() { ep.put(nil) })
	}
	wg.Wait()
	t.closing.Wait()
}

// A service is one version of a profile in service. It is never changed.
type service struct {
	profile *profiles.Profile
	spec    backends.Spec
	allow   *allowList
	opened  *opened
}

// opened is an open backend. It is shared by the versions of a profile that
// make the same sandboxes, and lives until none of them is in service and the
// last of its sandboxes is gone.
type opened struct {
	profile *profiles.Profile // the version that it was opened for
	backend *pool.Pool
	log     *slog.Logger
	closing *sync.WaitGroup

	mu   sync.Mutex
	refs int
}

func (o *opened) retain() *opened {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refs++
	return o
}

// release does not wait: to destroy warm sandboxes takes an engine's time, and
// callers hold locks.
func (o *opened) release() {
	o.mu.Lock()
	o.refs--
	last := o.refs == 0
	o.mu.Unlock()
	if !last {
		return
	}
	o.closing.Go(func() {
		if err := o.backend.Close(); err != nil {
			o.log.Error("cannot close backend", "error", err)
		}
	})
}

// A gate counts running calls, so that a stop can refuse new ones and wait
// for those that run.
type gate struct {
	mu      sync.Mutex
	running int
	shut    bool
	empty   chan struct{} // made by close, closed when nothing runs
}

// enter reports whether a call may run; leave must follow if so.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return false
	}
	g.running++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running--; g.shut && g.running == 0 {
		close(g.empty)
	}
}

// close refuses calls from now on and returns a channel that closes when the
// last running one has left.
func (g *gate) close() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.shut {
		g.shut = true
		g.empty = make(chan struct{})
		if g.running == 0 {
			close(g.empty)
		}
	}
	return g.empty
}
