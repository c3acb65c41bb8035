package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/kilntainers/kilntainers/profiles"
)

// The places a system daemon uses unless the configuration names others. They
// are the defaults of package profiles.
const (
	systemSocket = "unix:/run/kilntainers/kilntainers.sock"
	systemState  = "/var/lib/kilntainers"
	systemCache  = "/var/cache/kilntainers"
)

// paths are the places that one daemon uses.
type paths struct {
	listen []string
	state  string
	cache  string
}

// ownPaths resolves the places of a configuration. Where it names none, a
// service gets the directories that systemd made for it, and a daemon that an
// ordinary user started gets that user's own (XDG base directories), which is
// where the shim looks too.
func ownPaths(conf profiles.Daemon, activated bool) (paths, error) {
	p := paths{listen: conf.Listen, state: conf.StateDir, cache: conf.CacheDir}
	personal := os.Geteuid() != 0
	for _, dir := range []struct {
		place                    *string
		system, env, xdg, inHome string
	}{
		{&p.state, systemState, "STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state"},
		{&p.cache, systemCache, "CACHE_DIRECTORY", "XDG_CACHE_HOME", ".cache"},
	} {
		if *dir.place != dir.system {
			continue
		}
		if made, _, _ := strings.Cut(os.Getenv(dir.env), ":"); made != "" {
			*dir.place = made
			continue
		}
		if !personal {
			continue
		}
		base := os.Getenv(dir.xdg)
		if base == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return p, fmt.Errorf("find a place for state and caches: %w; set daemon.state_dir and daemon.cache_dir", err)
			}
			base = filepath.Join(home, dir.inHome)
		}
		*dir.place = filepath.Join(base, "kilntainers")
	}
	if slices.Equal(p.listen, []string{systemSocket}) {
		switch {
		case activated:
			p.listen = nil // systemd listens for us
		case personal && os.Getenv("XDG_RUNTIME_DIR") != "":
			p.listen = []string{"unix:" + filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "kilntainers", "kilntainers.sock")}
		}
	}
	return p, nil
}

// CacheDir is where a daemon with that configuration keeps its caches.
func CacheDir(conf profiles.Daemon) (string, error) {
	p, err := ownPaths(conf, false)
	return p.cache, err
}

// lockFile opens and locks a file until it is closed or the process ends.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another daemon uses the state directory %s; stop it, or set another daemon.state_dir", filepath.Dir(path))
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// staticKeys are the keys of [daemon] that a running daemon cannot change.
var staticKeys = []struct {
	name string
	same func(a, b profiles.Daemon) bool
}{
	{"listen", func(a, b profiles.Daemon) bool { return slices.Equal(a.Listen, b.Listen) }},
	{"state_dir", func(a, b profiles.Daemon) bool { return a.StateDir == b.StateDir }},
	{"cache_dir", func(a, b profiles.Daemon) bool { return a.CacheDir == b.CacheDir }},
	{"exit_when_idle", func(a, b profiles.Daemon) bool { return a.ExitWhenIdle == b.ExitWhenIdle }},
	{"profile_sockets", func(a, b profiles.Daemon) bool { return a.ProfileSockets == b.ProfileSockets }},
	{"allow_unauthenticated_loopback", func(a, b profiles.Daemon) bool {
		return a.AllowUnauthenticatedLoopback == b.AllowUnauthenticatedLoopback
	}},
}
