package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/profiles"
)

// A reloader puts the files on disk in force. Whatever asks for a reload (the
// watcher, SIGHUP, kilntainers reload) sends to one channel, and one loop
// serves it, so reloads never overlap:
//
//	watcher ─┐
//	SIGHUP  ─┼─► ask ─► loop: Load ─► table.apply ─► access, limits ─► tell whoever asked
//	POST    ─┘            └─ any problem: nothing changes
type reloader struct {
	path    string // of the main file; "" = look for one each time
	drivers backends.Drivers
	table   *table
	access  *access
	log     *slog.Logger
	notify  func(state string) // tells the service manager
	summary func() string      // the daemon's state in one line, for it
	changed func(*profiles.Config)
	ask     chan chan<- ReloadResult

	inherited []*listener // from systemd, whatever the configuration says of them

	mu       sync.Mutex
	conf     *profiles.Config // in force
	loaded   time.Time
	watched  []string        // the files that were read last, good or not
	problems []string        // of the last reload, if it failed
	partial  bool            // they are those of the start, and the rest is in force
	static   profiles.Daemon // what the daemon started with
}

// ReloadResult is the answer of POST /-/reload.
type ReloadResult struct {
	OK      bool `json:"ok"`
	Changed bool `json:"changed"`
	Changes
	RestartNeeded []string `json:"restart_needed"`
	Problems      []string `json:"problems,omitempty"` // "file:line: key: what is wrong; what would be right"
}

// start puts the first configuration in force, as far as it is good. There is
// no last good one to keep, so a profile that cannot be served is left out.
func (r *reloader) start(conf *profiles.Config, found profiles.Problems) {
	problems := texts(found)
	for {
		_, err := r.table.apply(conf)
		if err == nil {
			break
		}
		problems = append(problems, err.Error())
		rest := *conf
		rest.Profiles = maps.Clone(conf.Profiles)
		var bad *openError
		if errors.As(err, &bad) {
			delete(rest.Profiles, bad.profile.Name)
		} else {
			clear(rest.Profiles)
		}
		conf = &rest
	}
	r.access.set(conf)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conf, r.loaded, r.static, r.watched = conf, time.Now(), conf.Daemon, conf.Files
	r.problems, r.partial = problems, len(problems) > 0
	for _, p := range slices.Concat(problems, r.unserved()) {
		r.log.Error("configuration problem; what it concerns is not served", "problem", p)
	}
	r.table.metrics.reloadOK.Set(map[bool]float64{true: 1}[len(problems) == 0])
}

// loop serves requests until ctx ends.
func (r *reloader) loop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case answer := <-r.ask:
			r.notify(notifyReloading())
			res := r.reload()
			r.notify(notifyReady(r.summary()))
			answer <- res
		}
	}
}

// request asks for a reload and waits for its result.
func (r *reloader) request(ctx context.Context) (ReloadResult, error) {
	answer := make(chan ReloadResult, 1)
	select {
	case r.ask <- answer:
	case <-ctx.Done():
		return ReloadResult{}, context.Cause(ctx)
	case <-r.table.alive.Done(): // nobody takes it any more
		return ReloadResult{}, errors.New("the daemon is stopping")
	}
	select {
	case res := <-answer:
		return res, nil
	case <-ctx.Done():
		return ReloadResult{}, context.Cause(ctx)
	}
}

func (r *reloader) reload() ReloadResult {
	began := time.Now()
	conf, problems := profiles.LoadGood(r.file(), r.drivers)
	r.mu.Lock()
	r.watched = conf.Files
	r.mu.Unlock()
	if len(problems) > 0 {
		return r.failed(texts(problems))
	}
	r.mu.Lock()
	same := r.conf.Hash == conf.Hash && len(r.problems) == 0
	r.mu.Unlock()
	if same {
		return ReloadResult{OK: true, Changes: noChanges(), RestartNeeded: r.restartNeeded()}
	}
	done, err := r.table.apply(conf)
	if err != nil {
		return r.failed([]string{err.Error()})
	}
	r.access.set(conf)
	r.mu.Lock()
	r.conf, r.loaded, r.problems, r.partial = conf, time.Now(), nil, false
	r.mu.Unlock()
	r.changed(conf)
	r.table.metrics.reloaded(true)
	res := ReloadResult{OK: true, Changed: true, Changes: done, RestartNeeded: r.restartNeeded()}
	r.log.Info("configuration reloaded", "added", done.Added, "updated", done.Updated, "removed", done.Removed, "took", time.Since(began).Round(time.Millisecond))
	if len(res.RestartNeeded) > 0 {
		r.log.Warn("these keys take effect at the next start of the daemon", "keys", res.RestartNeeded)
	}
	return res
}

// failed keeps what is in force and remembers why. The same problems are
// logged once.
func (r *reloader) failed(problems []string) ReloadResult {
	r.mu.Lock()
	known := slices.Equal(r.problems, problems)
	r.problems, r.partial = problems, r.partial && known
	r.mu.Unlock()
	for _, p := range problems {
		if !known {
			r.log.Error("configuration not reloaded; the last good one stays in force", "problem", p)
		}
	}
	r.table.metrics.reloaded(false)
	return ReloadResult{Changes: noChanges(), Problems: problems, RestartNeeded: r.restartNeeded()}
}

// file is the main file to read now.
func (r *reloader) file() string {
	if r.path != "" {
		return r.path
	}
	return profiles.Find()
}

// files is what to watch.
func (r *reloader) files() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(r.watched) > 0:
		return r.watched
	case r.path != "":
		return []string{r.path}
	}
	return profiles.SearchPath()
}

// restartNeeded names the keys of [daemon] that were changed since the start
// and wait for the next one.
func (r *reloader) restartNeeded() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := []string{}
	for _, k := range staticKeys {
		if !k.same(r.static, r.conf.Daemon) {
			keys = append(keys, "daemon."+k.name)
		}
	}
	return keys
}

func (r *reloader) status() ConfigStatus {
	needed := r.restartNeeded()
	r.mu.Lock()
	defer r.mu.Unlock()
	return ConfigStatus{
		Files: append([]string{}, r.conf.Files...), Loaded: r.loaded.UTC().Truncate(time.Second),
		Problems: append(append([]string{}, r.problems...), r.unserved()...), Partial: r.partial, RestartNeeded: needed,
	}
}

// unserved tells of sockets from systemd where everybody is answered 401,
// until a reload brings a token. A broken file may be the reason, and the other
// sockets are good, so the daemon runs. Called with mu held.
func (r *reloader) unserved() (problems []string) {
	for _, l := range r.inherited {
		if err := r.conf.CheckListen(l.Addr().Network(), l.Addr().String()); err != nil {
			problems = append(problems, fmt.Sprintf("the socket %s, which systemd handed over, %v", l.Addr(), err))
		}
	}
	return problems
}

// texts are problems as lines for people; never nil.
func texts(ps profiles.Problems) []string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return lines
}

func (d *Daemon) serveReload(w http.ResponseWriter, r *http.Request, from *caller) {
	if !from.operator() {
		refuseHTTP(w, http.StatusForbidden, "only root and the user that runs the daemon may reload it")
		return
	}
	res, err := d.reloader.request(r.Context())
	switch {
	case err != nil:
		refuseHTTP(w, http.StatusServiceUnavailable, "the daemon is stopping")
	case res.OK:
		writeJSON(w, http.StatusOK, res)
	default:
		writeJSON(w, http.StatusUnprocessableEntity, res)
	}
}
