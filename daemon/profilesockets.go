package daemon

import (
	"context"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"

	"github.com/kilntainers/kilntainers/profiles"
)

// profileSockets are the sockets of single profiles, profiles/NAME.sock beside
// the main one, for those who want to give access by file permissions. They
// appear and vanish with their profiles. They exist where
// daemon.profile_sockets asks for them; systemd's own (kilntainers@.socket)
// come with the other listeners.
type profileSockets struct {
	dir string // "" = none are wanted
	srv *http.Server
	log *slog.Logger

	wg   sync.WaitGroup
	mu   sync.Mutex
	open map[string]*listener
	done bool
}

// newProfileSockets finds the place for the sockets: beside the first Unix
// socket.
func newProfileSockets(conf profiles.Daemon, listeners []*listener, srv *http.Server, log *slog.Logger) *profileSockets {
	p := &profileSockets{srv: srv, log: log, open: map[string]*listener{}}
	if !conf.ProfileSockets {
		return p
	}
	for _, l := range listeners {
		if l.Addr().Network() == "unix" {
			p.dir = filepath.Join(filepath.Dir(l.Addr().String()), "profiles")
			return p
		}
	}
	log.Warn("daemon.profile_sockets has no effect: there is no Unix socket to put them beside")
	return p
}

// set opens the sockets of new profiles and closes those of removed ones. One
// that cannot be opened is logged; its profile is served elsewhere.
func (p *profileSockets) set(conf *profiles.Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dir == "" || p.done {
		return
	}
	for name, l := range p.open {
		if conf.Profiles[name] == nil {
			_ = l.Close()
			delete(p.open, name)
		}
	}
	for name := range conf.Profiles {
		if p.open[name] != nil {
			continue
		}
		l, err := listenUnix(context.Background(), filepath.Join(p.dir, name+".sock"))
		if err != nil {
			p.log.Error("cannot open the socket of a profile", "profile", name, "error", err)
			continue
		}
		l.only = name
		p.open[name] = l
		p.wg.Go(func() {
			if err := l.serve(p.srv); err != nil {
				p.log.Error("a profile's socket failed", "profile", name, "error", err)
			}
		})
	}
}

// stopAccepting ends Accept on all of them, for good.
func (p *profileSockets) stopAccepting() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
	for _, l := range p.open {
		l.stopAccepting()
	}
}

// close closes them and waits for what served them.
func (p *profileSockets) close() {
	p.mu.Lock()
	for _, l := range p.open {
		_ = l.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}
