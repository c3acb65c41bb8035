package daemon

import (
	"context"
	"net/http"
	"os"
	"sync"
	"time"
)

// Status is the answer of GET /-/status. A caller sees the profiles that it
// may use and its own sandboxes; an operator (root, and the user that runs
// the daemon) sees all.
type Status struct {
	Version   string          `json:"version"`
	Instance  string          `json:"instance"`
	Boot      string          `json:"boot"`
	PID       int             `json:"pid"`
	Started   time.Time       `json:"started"`
	Uptime    int64           `json:"uptime_seconds"`
	Config    ConfigStatus    `json:"config"`
	Listeners []string        `json:"listeners"`
	Profiles  []ProfileStatus `json:"profiles"`
	Sandboxes []SandboxStatus `json:"sandboxes"`
}

// ConfigStatus tells which configuration is in force, and what is wrong with
// the files if they are newer.
type ConfigStatus struct {
	Files         []string  `json:"files"` // empty = built in
	Loaded        time.Time `json:"loaded"`
	Problems      []string  `json:"problems"`       // of the last reload that failed, or of the start
	Partial       bool      `json:"partial"`        // the daemon started with them; what they do not concern is served
	RestartNeeded []string  `json:"restart_needed"` // keys of [daemon] that changed
}

// ProfileStatus is one profile in service.
type ProfileStatus struct {
	Name         string `json:"name"`
	Backend      string `json:"backend"`
	Description  string `json:"description"`
	Sessions     int    `json:"sessions"`
	Sandboxes    int    `json:"sandboxes"`
	Warm         int    `json:"warm"` // started and not yet given to a session
	Pool         int    `json:"pool"` // how many should be warm
	MaxSandboxes int    `json:"max_sandboxes"`
	Source       string `json:"source"`  // file:line
	Problem      string `json:"problem"` // why warm sandboxes cannot be made, if so
	ToolText     string `json:"tool_text"`
}

// SandboxStatus is one sandbox of a session.
type SandboxStatus struct {
	ID          string    `json:"id"` // as its engine names it
	Profile     string    `json:"profile"`
	Backend     string    `json:"backend"`
	Principal   string    `json:"principal"`
	Session     string    `json:"session"` // what ties calls to it: connection, mcp, header or handle
	Created     time.Time `json:"created"`
	IdleSeconds int64     `json:"idle_seconds"`
	Running     int       `json:"running"` // calls
	Execs       int64     `json:"execs"`   // calls so far
}

// CheckResult is the answer of POST /-/check: whether a sandbox of each
// profile could be made now.
type CheckResult struct {
	Profiles []ProfileCheck `json:"profiles"`
}

// ProfileCheck is one profile of a CheckResult.
type ProfileCheck struct {
	Name    string `json:"name"`
	Backend string `json:"backend"`
	OK      bool   `json:"ok"`
	Error   string `json:"error,omitempty"`
}

// healthy says that the daemon answers.
func (d *Daemon) healthy(w http.ResponseWriter, r *http.Request) {
	refuseHTTP(w, http.StatusOK, "ok")
}

// ready says whether calls are run now.
func (d *Daemon) ready(w http.ResponseWriter, r *http.Request) {
	if d.stopping.Load() {
		refuseHTTP(w, http.StatusServiceUnavailable, "stopping")
		return
	}
	select {
	case <-d.table.swept:
		refuseHTTP(w, http.StatusOK, "ready")
	default:
		refuseHTTP(w, http.StatusServiceUnavailable, "starting")
	}
}

func (d *Daemon) status(w http.ResponseWriter, r *http.Request, from *caller) {
	now := time.Now()
	s := Status{
		Version: d.opts.Version, Instance: d.table.owner.Instance, Boot: d.table.owner.Boot, PID: os.Getpid(),
		Started: d.started.UTC().Truncate(time.Second), Uptime: int64(now.Sub(d.started).Seconds()),
		Config: d.reloader.status(), Listeners: d.addresses,
		Profiles: []ProfileStatus{}, Sandboxes: []SandboxStatus{},
	}
	if !from.operator() {
		s.Config.Files, s.Config.Problems = []string{}, []string{}
	}
	for _, ep := range d.table.all() {
		s.Sandboxes = append(s.Sandboxes, ep.sandboxes(now, from)...)
	}
	for _, ep := range d.visible(r, from) {
		if p, ok := ep.status(); ok {
			s.Profiles = append(s.Profiles, p)
		}
	}
	writeJSON(w, http.StatusOK, s)
}

// status is the endpoint for operators; false when it is out of service.
func (ep *endpoint) status() (ProfileStatus, bool) {
	svc := ep.svc.Load()
	if svc == nil {
		return ProfileStatus{}, false
	}
	p, warm := svc.profile, svc.opened.backend
	s := ProfileStatus{
		Name: ep.name, Backend: p.Backend, Description: p.Description,
		Sessions: ep.sessionCount(), Sandboxes: ep.table.limits.count(ep.name),
		Warm: warm.Warm(), Pool: p.Pool, MaxSandboxes: p.MaxSandboxes,
		Source: p.Source, Problem: warm.Problem(), ToolText: description(p, svc.spec, false),
	}
	return s, true
}

// sessionCount is how many clients the endpoint has: shims, HTTP sessions, and
// sandboxes that are held by a handle or a header.
func (ep *endpoint) sessionCount() int {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	n := len(ep.shims) + ep.http.count()
	for k := range ep.sessions {
		if k.kind == byHandle || k.kind == byHeader {
			n++
		}
	}
	return n
}

// sandboxes lists those that a caller may see.
func (ep *endpoint) sandboxes(now time.Time, from *caller) []SandboxStatus {
	var list []SandboxStatus
	for _, s := range ep.list() {
		if !from.operator() && s.key.principal != from.id {
			continue
		}
		if info, ok := s.info(now); ok {
			list = append(list, info)
		}
	}
	return list
}

// checkTimeout bounds the question to one backend.
const checkTimeout = 10 * time.Second

func (d *Daemon) serveCheck(w http.ResponseWriter, r *http.Request, from *caller) {
	eps := d.visible(r, from)
	res := CheckResult{Profiles: make([]ProfileCheck, len(eps))}
	var wg sync.WaitGroup
	for i, ep := range eps {
		wg.Go(func() { res.Profiles[i] = ep.check(r.Context()) })
	}
	wg.Wait()
	writeJSON(w, http.StatusOK, res)
}

func (ep *endpoint) check(ctx context.Context) ProfileCheck {
	from, err := ep.open()
	if err != nil {
		return ProfileCheck{Name: ep.name, Error: err.Error()}
	}
	defer from.release()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	c := ProfileCheck{Name: ep.name, Backend: from.profile.Backend, OK: true}
	if err := from.backend.Check(ctx); err != nil {
		c.OK, c.Error = false, err.Error()
	}
	return c
}
