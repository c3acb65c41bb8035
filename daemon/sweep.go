package daemon

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/profiles"
)

// Leftovers are looked for before the daemon makes a sandbox or is ready, every
// sweepInterval from then on, for an engine that was away at the start, and
// when an operator asks (kilntainers cleanup).
const (
	sweepInterval = 10 * time.Minute
	sweepTimeout  = 20 * time.Second
)

// CleanupResult is the answer of POST /-/cleanup: what earlier runs of this
// daemon left in the engines of its profiles.
type CleanupResult struct {
	DryRun    bool             `json:"dry_run"` // nothing was removed
	Leftovers []LeftoverStatus `json:"leftovers"`
	Problems  []string         `json:"problems"` // engines that could not be asked, and the like
}

// LeftoverStatus is one thing that was left.
type LeftoverStatus struct {
	Backend string `json:"backend"`
	Kind    string `json:"kind"` // container, sandbox, volume …
	ID      string `json:"id"`
	Profile string `json:"profile"`
	Removed bool   `json:"removed"`
}

// sweep removes what earlier boots of this instance left in the engines, but
// for the sandboxes that are named in keep. An engine that does not answer is
// left for the next time.
func (d *Daemon) sweep(ctx context.Context, conf *profiles.Config, keep []string, dryRun bool) CleanupResult {
	d.sweeping.Lock()
	defer d.sweeping.Unlock()
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	byDriver := map[string][]backends.Options{}
	for _, p := range conf.Profiles {
		byDriver[p.Backend] = append(byDriver[p.Backend], p.Options)
	}
	res := CleanupResult{DryRun: dryRun, Leftovers: []LeftoverStatus{}, Problems: []string{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, options := range byDriver {
		driver, _ := d.opts.Drivers.Lookup(name)
		if driver.Sweep == nil {
			continue
		}
		wg.Go(func() {
			left, err := driver.Sweep(ctx, backends.Sweep{Owner: d.table.owner, Keep: keep, Options: options, DryRun: dryRun, Log: d.log})
			mu.Lock()
			defer mu.Unlock()
			for _, l := range left {
				if !dryRun {
					d.log.Info("removed what an earlier run left", "backend", name, "kind", l.Kind, "id", l.ID, "profile", l.Profile, "removed", l.Removed)
				}
				res.Leftovers = append(res.Leftovers, LeftoverStatus{name, l.Kind, l.ID, l.Profile, l.Removed})
			}
			if err != nil {
				if ctx.Err() == context.Canceled { // the daemon stops
					return
				}
				d.log.Warn("cannot sweep", "backend", name, "error", err)
				res.Problems = append(res.Problems, fmt.Sprintf("%s: %v", name, err))
			}
		})
	}
	wg.Wait()
	slices.Sort(res.Problems)
	return res
}

// sweepNowAndThen sweeps until ctx ends.
func (d *Daemon) sweepNowAndThen(ctx context.Context) error {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			d.sweep(ctx, d.table.config(), d.table.keeper.ids(), false)
		}
	}
}

func (d *Daemon) serveCleanup(w http.ResponseWriter, r *http.Request, from *caller) {
	if !from.operator() {
		refuseHTTP(w, http.StatusForbidden, "only root and the user that runs the daemon may clean up")
		return
	}
	writeJSON(w, http.StatusOK, d.sweep(r.Context(), d.table.config(), d.table.keeper.ids(), r.URL.Query().Get("dry_run") == "true"))
}
