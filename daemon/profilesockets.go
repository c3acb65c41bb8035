package daemon

import (
	"context"
	"log/slog"
	"net"
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

	wg    sync.WaitGroup
	mu    sync.Mutex
	open  map[string]*listener
	other map[string]bool // addresses that systemd's own sockets have
	done  bool
}

// newProfileSockets finds the place for the sockets: beside the first Unix
// socket. kept are those of an earlier daemon.
func newProfileSockets(conf profiles.Daemon, listeners, kept []*listener, srv *http.Server, log *slog.Logger) *profileSockets {
	p := &profileSockets{srv: srv, log: log, open: map[string]*listener{}, other: map[string]bool{}}
	for _, l := range kept {
		p.open[l.only] = l
	}
	if !conf.ProfileSockets {
		return p
	}
	for _, l := range listeners {
		p.other[l.address()] = true
	}
	for _, l := range listeners {
		if l.Addr().Network() == "unix" && l.only == "" { // systemd names them in any order
			p.dir = filepath.Join(filepath.Dir(l.Addr().String()), "profiles")
			return p
		}
	}
	log.Warn("daemon.profile_sockets has no effect: there is no Unix socket to put them beside")
	return p
}

// path is where the socket of a profile belongs.
func (p *profileSockets) path(name string) string { return filepath.Join(p.dir, name+".sock") }

// set opens the sockets of new profiles and closes those of removed ones, and
// what an earlier daemon kept in another place. One that cannot be opened is
// logged; its profile is served elsewhere.
func (p *profileSockets) set(conf *profiles.Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return
	}
	for name, l := range p.open {
		if conf.Profiles[name] == nil || p.dir == "" || l.address() != "unix:"+p.path(name) {
			l.remove()
			delete(p.open, name)
		}
	}
	if p.dir == "" {
		return
	}
	for name := range conf.Profiles {
		path := p.path(name)
		l := p.open[name]
		if l != nil && l.served || p.other["unix:"+path] {
			continue
		}
		if l == nil {
			var err error
			if l, err = listenUnix(context.Background(), path); err != nil {
				p.log.Error("cannot open the socket of a profile", "profile", name, "error", err)
				continue
			}
		}
		l.only, l.served = name, true
		p.open[name] = l
		p.wg.Go(func() {
			if err := l.serve(p.srv); err != nil {
				p.log.Error("a profile's socket failed", "profile", name, "error", err)
			}
		})
	}
}

// keep gives the sockets to systemd for the next daemon, with what is queued
// in them. Without it close removes them.
func (p *profileSockets) keep(store fdStore) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, l := range p.open {
		u, ok := l.Listener.(*net.UnixListener)
		if !ok {
			continue
		}
		f, err := u.File()
		if err == nil {
			err = store.put(keptSocketPrefix+name, f)
			_ = f.Close()
		}
		if err != nil {
			p.log.Warn("a profile's socket is opened anew by the next daemon", "profile", name, "error", err)
			continue
		}
		u.SetUnlinkOnClose(false)
		l.own = false
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
		if l.own {
			l.remove()
		} else {
			_ = l.Close()
		}
	}
	p.mu.Unlock()
	p.wg.Wait()
}
