package daemon

import (
	"fmt"
	"sync"

	"github.com/kilntainers/kilntainers/profiles"
)

// limits counts the sandboxes of sessions against the ceilings: of the daemon,
// of a profile, and of one principal in each. Warm sandboxes do not count
// here; they are kept only while there is room (see reserveWarm).
type limits struct {
	mu    sync.Mutex
	conf  *profiles.Config
	total int
	warm  int            // sandboxes in pools
	user  map[string]int // by principal
	of    map[string]*profileCount
}

type profileCount struct {
	total int
	user  map[string]int
}

func newLimits() *limits {
	return &limits{conf: &profiles.Config{}, user: map[string]int{}, of: map[string]*profileCount{}}
}

// set puts the ceilings of a new configuration in force. What is over one of
// them stays; nothing new is made until it is below.
func (l *limits) set(c *profiles.Config) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conf = c
}

// sandboxes counts in words.
func sandboxes(n int) string {
	if n == 1 {
		return "1 sandbox"
	}
	return fmt.Sprintf("%d sandboxes", n)
}

// reserve makes room for one sandbox, or says which ceiling was reached.
func (l *limits) reserve(profile, principal string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.profileLocked(profile)
	full := func(n, max int) bool { return max > 0 && n >= max }
	const retry = "End a session that is not needed, or try again later."
	d := l.conf.Daemon
	p := l.conf.Profiles[profile]
	switch {
	case p != nil && full(of.user[principal], p.MaxSandboxesPerUser):
		return refuse("You have %s of profile %q, the most that one user may have (max_sandboxes_per_user). %s", sandboxes(of.user[principal]), profile, retry)
	case p != nil && full(of.total, p.MaxSandboxes):
		return refuse("Profile %q has %s, the most that it may have (max_sandboxes). %s", profile, sandboxes(of.total), retry)
	case full(l.user[principal], d.MaxSandboxesPerUser):
		return refuse("You have %s, the most that one user may have here (daemon.max_sandboxes_per_user). %s", sandboxes(l.user[principal]), retry)
	case full(l.total, d.MaxSandboxes):
		return refuse("The daemon has %s, the most that it may have (daemon.max_sandboxes). %s", sandboxes(l.total), retry)
	}
	l.takeLocked(of, principal)
	return nil
}

// take counts a sandbox that is there already, whatever the ceilings are now.
func (l *limits) take(profile, principal string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takeLocked(l.profileLocked(profile), principal)
}

func (l *limits) takeLocked(of *profileCount, principal string) {
	l.total++
	l.user[principal]++
	of.total++
	of.user[principal]++
}

func (l *limits) profileLocked(profile string) *profileCount {
	of := l.of[profile]
	if of == nil {
		of = &profileCount{user: map[string]int{}}
		l.of[profile] = of
	}
	return of
}

// release gives back what reserve took.
func (l *limits) release(profile, principal string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.of[profile]
	l.total--
	of.total--
	decrement(l.user, principal)
	decrement(of.user, principal)
	if of.total == 0 {
		delete(l.of, profile)
	}
}

// count returns how many sandboxes the sessions of a profile have.
func (l *limits) count(profile string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if of := l.of[profile]; of != nil {
		return of.total
	}
	return 0
}

func decrement(m map[string]int, key string) {
	if m[key]--; m[key] == 0 {
		delete(m, key)
	}
}

// over reports whether warm sandboxes must give way to those of sessions.
func (l *limits) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	max := l.conf.Daemon.MaxSandboxes
	return max > 0 && l.warm > 0 && l.total+l.warm > max
}

// reserveWarm makes room for one warm sandbox, if the daemon's ceiling has any
// left beside what sessions have. It gives way to them: they do not count it.
func (l *limits) reserveWarm() (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if max := l.conf.Daemon.MaxSandboxes; max > 0 && l.total+l.warm >= max {
		return nil, false
	}
	l.warm++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.warm--
	}, true
}
