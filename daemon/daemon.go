// Package daemon serves profiles over MCP.
//
//	listen.go   sockets ──► http.go  routes, who may call (access.go)
//	                          ├─ era.go    MCP over HTTP, both eras ─┐
//	                          └─ stdio.go  MCP over the shim's line ─┴─► endpoint.go ─► session.go ─► a sandbox
//	reload.go   files   ──► table.go       which profiles are in service      tool.go: sandbox_exec, its limits and words
//
// Someone who has read table.go, endpoint.go and tool.go knows the program.
package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/profiles"
)

// Options is what a daemon is started with.
type Options struct {
	Config  string           // path of the main file; "" = the usual places, else the built-in configuration
	Drivers backends.Drivers // the backends of this build
	Version string
	Log     *slog.Logger
	Reload  <-chan os.Signal // each one asks for a reload; may be nil

	// Watch tells when the files changed; nil is profiles.Watch.
	Watch func(ctx context.Context, files func() []string, changed func()) error

	// CacheDir is told, before a backend is opened, where caches belong; may
	// be nil.
	CacheDir func(dir string)

	// Inherited are the descriptors that systemd handed over, named as in
	// LISTEN_FDNAMES; nil asks sd_listen_fds(3). Notify is the address of its
	// notification socket; "" is $NOTIFY_SOCKET.
	Inherited []*os.File
	Notify    string

	// Restarting tells, when the daemon stops, whether it is started again at
	// once; nil asks systemd, which may not know.
	Restarting func(context.Context) bool

	// Ready is called once the daemon serves, with the addresses it listens
	// on, written as in daemon.listen; may be nil.
	Ready func(addresses []string)
}

// How long a stop may take, in all less than the 10 s that users are promised.
const (
	graceTimeout = 5 * time.Second // for running calls
	stopTimeout  = 9 * time.Second // for everything
)

// A Daemon is one running daemon; see Run.
type Daemon struct {
	opts      Options
	log       *slog.Logger
	started   time.Time
	access    *access
	table     *table
	reloader  *reloader
	addresses []string
	conns     *conns
	store     fdStore
	stopping  atomic.Bool
	sweeping  sync.Mutex // held during a sweep
}

// Run serves until ctx ends, then stops in order: no new calls, running ones
// get a grace period, every sandbox is destroyed. It returns nil after a
// clean stop. A bad profile is no reason to return; a socket that cannot be
// opened is.
//
//	state ─► load ─► table ─► what an earlier daemon kept ─► sockets ─► sweep ─► READY …
//	… ctx ends ─► STOPPING ─► calls ─► sandboxes ─► clients ─► sockets
func Run(ctx context.Context, o Options) error {
	d := &Daemon{opts: o, log: o.Log, started: time.Now()}
	files := o.Inherited
	if files == nil {
		files = inheritedFiles()
	}
	in, err := inherit(files)
	if err != nil {
		return err
	}
	defer in.close()
	d.store.address = cmp.Or(o.Notify, os.Getenv("NOTIFY_SOCKET"))
	conf, problems := loadFirst(o)
	paths, err := ownPaths(conf.Daemon, len(in.listeners) > 0)
	if err != nil {
		return err
	}
	owner, unlock, err := claim(paths.state)
	if err != nil {
		return err
	}
	defer unlock()

	if o.CacheDir != nil {
		o.CacheDir(paths.cache)
	}
	d.access = &access{loopback: conf.Daemon.AllowUnauthenticatedLoopback}
	keeper := newKeeper(d.store, paths.state, o.Log)
	d.table = newTable(owner, o.Version, newMetrics(), keeper, d.access, o.Log)
	d.reloader = &reloader{
		path: o.Config, drivers: o.Drivers, table: d.table, access: d.access, log: o.Log,
		notify: d.notify, summary: d.summary, ask: make(chan chan<- ReloadResult),
		inherited: in.listeners,
	}
	old := keeper.found(in.take())
	d.reloader.start(conf, problems)
	listeners, err := listenAll(ctx, in.listeners, paths.listen)
	if err == nil && len(listeners) == 0 {
		err = errors.New("there is no socket to serve: daemon.listen is empty and systemd hands none over; set daemon.listen")
	}
	if err != nil {
		d.table.stop(nobodyKeeps)
		return err
	}
	kept := in.kept
	in.listeners, in.kept = nil, nil
	for _, l := range kept {
		if err := d.store.remove(keptSocketPrefix + l.only); err != nil {
			d.log.Warn("systemd keeps a socket that it need not", "error", err)
		}
	}
	keep := toBeAdopted(old, conf)
	sweep := func(ctx context.Context) { d.sweep(ctx, conf, keep, false) }
	return d.serve(ctx, conf, listeners, kept, d.restore(old), sweep)
}

// loadFirst reads the configuration as far as it is good.
func loadFirst(o Options) (*profiles.Config, profiles.Problems) {
	path := o.Config
	if path == "" {
		path = profiles.Find()
	}
	return profiles.LoadGood(path, o.Drivers)
}

// serve runs everything that runs beside each other, until ctx ends or one of
// them fails.
func (d *Daemon) serve(ctx context.Context, conf *profiles.Config, listeners, kept []*listener, shims []func(), sweep func(context.Context)) error {
	d.conns = &conns{open: map[net.Conn]bool{}, last: time.Now()}
	srv := d.newHTTPServer()
	sockets := newProfileSockets(conf.Daemon, listeners, kept, srv, d.log)
	g, gctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		d.addresses = append(d.addresses, l.address())
	}
	for _, l := range listeners {
		g.Go(func() error { return l.serve(srv) })
	}
	for _, serve := range shims {
		g.Go(func() error { serve(); return nil })
	}
	sockets.set(conf)
	// Engines take their time, which only sandboxes wait for, not clients.
	g.Go(func() error {
		defer close(d.table.swept)
		sweep(gctx)
		return nil
	})
	d.reloader.changed = sockets.set
	g.Go(func() error { return d.reloader.loop(gctx) })
	g.Go(func() error { return d.watch(gctx) })
	g.Go(func() error { return d.reloadOnSignal(gctx) })
	g.Go(func() error { return d.sweepNowAndThen(gctx) })
	if len(listeners) > 0 {
		// A Unix socket is there even where the network is not (PrivateNetwork=yes).
		own := slices.IndexFunc(listeners, func(l *listener) bool { return l.Addr().Network() == "unix" })
		g.Go(func() error { return d.watchdog(gctx, listeners[max(own, 0)]) })
	}

	<-d.table.swept
	if gctx.Err() == nil {
		d.log.Info("started", "version", d.opts.Version, "listen", d.addresses, "config", d.reloader.status().Files)
		d.notify(notifyReady(d.summary()))
		if d.opts.Ready != nil {
			d.opts.Ready(d.addresses)
		}
		if after := conf.Daemon.ExitWhenIdle; after > 0 && slices.ContainsFunc(listeners, func(l *listener) bool { return !l.own }) {
			d.conns.used() // whoever waited for this has only now had a chance
			g.Go(func() error { return d.exitWhenIdle(gctx, after) })
		}
	}
	g.Go(func() error {
		<-gctx.Done()
		d.stop(srv, listeners, sockets)
		return nil
	})
	if err := g.Wait(); err != nil && !errors.Is(err, errIdle) {
		return err
	}
	d.log.Info("stopped")
	return nil
}

// watch asks for a reload when the files change.
func (d *Daemon) watch(ctx context.Context) error {
	watch := d.opts.Watch
	if watch == nil {
		watch = profiles.Watch
	}
	if err := watch(ctx, d.reloader.files, func() { _, _ = d.reloader.request(ctx) }); err != nil {
		d.log.Warn("cannot watch the configuration; reload it with SIGHUP or kilntainers reload", "error", err)
	}
	return nil
}

func (d *Daemon) reloadOnSignal(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.opts.Reload:
			_, _ = d.reloader.request(ctx)
		}
	}
}

// stop is the reverse of starting. Whatever hangs is left behind after
// stopTimeout. Nothing that has been asked for is lost on the way:
//
//	accept no more        what is queued in a socket waits for the next daemon
//	park the shims        so does what they send, if systemd keeps their connections
//	drain HTTP            requests are served until each connection has been told to close
//	running calls         get the grace period
//	sandboxes             left to the next daemon, or destroyed
//	hand over             connections and sessions to systemd's fd store
func (d *Daemon) stop(srv *http.Server, listeners []*listener, sockets *profileSockets) {
	deadline, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	d.stopping.Store(true)
	d.log.Info("stopping")
	d.notify(notifyStopping())
	for _, l := range listeners {
		l.stopAccepting()
	}
	fate := d.fate(deadline)
	handOver := d.store.there() && fate != stopped
	if d.store.there() && fate == restarted {
		sockets.keep(d.store) // before they stop, which closes them
	}
	sockets.stopAccepting()

	grace, cancelGrace := context.WithTimeout(deadline, graceTimeout)
	defer cancelGrace()
	if handOver {
		d.parkShims(grace)
	} else {
		d.table.noShims.Store(true)
	}
	d.table.stopping()
	d.conns.drain(grace)
	calls := d.table.gate.close()
	wait(grace, calls, graceTimeout)
	wait(grace, finished(&d.table.adopted), graceTimeout) // what is adopted can be left again
	keep := mayKeep(fate)
	var sessions []record
	if handOver {
		sessions = d.sessionsToKeep()
	}
	sandboxes := make(chan struct{})
	go func() {
		defer close(sandboxes)
		d.table.stop(keep)
	}()
	wait(deadline, sandboxes, stopTimeout)
	wait(deadline, calls, time.Second) // what was killed answers
	if handOver {
		d.handOver(deadline, sessions)
	}
	var clients sync.WaitGroup
	for _, ep := range d.table.all() {
		clients.Go(ep.closeClients)
	}
	wait(deadline, finished(&clients), 500*time.Millisecond)
	for _, l := range d.shims() { // whose client does not read
		_ = l.conn.Close()
	}
	quick, cancelQuick := context.WithTimeout(deadline, 500*time.Millisecond)
	defer cancelQuick()
	wait(quick, finished(&d.table.shims), stopTimeout)
	if srv.Shutdown(quick) != nil {
		_ = srv.Close()
	}
	for _, l := range listeners {
		_ = l.Close()
	}
	sockets.close()
	if err := d.store.barrier(time.Second); err != nil {
		d.log.Warn("systemd may not have taken what was handed over", "error", err)
	}
}

// wait waits for done, for at most d and until ctx ends. nil is done.
func wait(ctx context.Context, done <-chan struct{}, d time.Duration) {
	if done == nil {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	case <-ctx.Done():
	}
}

// finished is closed once wg is done.
func finished(wg *sync.WaitGroup) <-chan struct{} {
	done := make(chan struct{})
	go func() { defer close(done); wg.Wait() }()
	return done
}

// notify tells the service manager, if there is one.
func (d *Daemon) notify(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		d.log.Warn("cannot notify systemd", "error", err)
	}
}

// claim locks the state directory and returns who we are: the instance that
// the directory has always been, and a boot of its own.
func claim(dir string) (owner backends.Owner, unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return owner, nil, fmt.Errorf("make the state directory: %w; set daemon.state_dir to one that this user may write to", err)
	}
	lock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return owner, nil, err
	}
	path := filepath.Join(dir, "instance")
	b, err := os.ReadFile(path)
	id := strings.TrimSpace(string(b))
	if errors.Is(err, fs.ErrNotExist) || err == nil && id == "" {
		id = strings.ToLower(rand.Text()[:12])
		err = os.WriteFile(path, []byte(id+"\n"), 0o600)
	}
	if err != nil {
		_ = lock.Close()
		return owner, nil, fmt.Errorf("read the instance id: %w", err)
	}
	return backends.Owner{Instance: id, Boot: strings.ToLower(rand.Text()[:12])}, func() { _ = lock.Close() }, nil
}
