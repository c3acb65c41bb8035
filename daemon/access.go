package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kilntainers/kilntainers/profiles"
)

// A principal is who a request comes from: the peer of a Unix socket, the
// holder of a token, or anybody on loopback where that is allowed. Every
// sandbox belongs to one.
type principal struct {
	id   string // "uid:1000", "token:laptop" or "loopback": keys sandboxes, stands in logs
	uid  int    // of a Unix peer, else -1
	pid  int    // of a Unix peer, else 0
	gids []int  // its groups when it connected
}

// root reports whether p may do everything, whatever allow lists say.
func (p *principal) root() bool { return p.uid == 0 }

// operator reports whether p may reload and see everybody's sandboxes: root,
// and whoever runs the daemon.
func (p *principal) operator() bool { return p.root() || p.uid == os.Getuid() }

// peerOf reads the credentials of a Unix socket's peer: SO_PEERCRED, and
// SO_PEERGROUPS for the supplementary groups it had when it connected; see
// unix(7). Other connections have none: nil.
func peerOf(c net.Conn) *principal {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil
	}
	var p *principal
	_ = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return
		}
		p = &principal{id: "uid:" + strconv.Itoa(int(cred.Uid)), uid: int(cred.Uid), pid: int(cred.Pid), gids: peerGroups(int(fd))}
		if gid := int(cred.Gid); !slices.Contains(p.gids, gid) {
			p.gids = append(p.gids, gid)
		}
	})
	return p
}

// peerGroups is getsockopt(SO_PEERGROUPS), which package unix does not wrap.
// A kernel without it gives none.
func peerGroups(fd int) []int {
	buf := make([]uint32, 64)
	for {
		size := uint32(len(buf) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == unix.ERANGE && len(buf) < 1<<16:
			buf = make([]uint32, len(buf)*4)
			continue
		case errno != 0:
			return nil
		}
		gids := make([]int, size/4)
		for i := range gids {
			gids[i] = int(buf[i])
		}
		return gids
	}
}

// An allowList is a profile's allow key with its names resolved.
type allowList struct {
	any     bool // the key is empty: everybody who got this far
	uids    []int
	gids    []int
	tokens  []string
	unknown []profiles.Principal // to the system when the profile was loaded; asked for again at each call
}

func newAllowList(entries []profiles.Principal, log *slog.Logger) *allowList {
	a := &allowList{any: len(entries) == 0}
	for _, e := range entries {
		if !a.resolve(e) {
			a.unknown = append(a.unknown, e)
			log.Warn("allow names somebody this system does not know", "name", e.String())
		}
	}
	return a
}

// resolve adds the number behind "alice" or "@datasci".
func (a *allowList) resolve(e profiles.Principal) bool {
	switch e.Kind {
	case profiles.Bearer:
		a.tokens = append(a.tokens, e.Name)
	case profiles.Group:
		g, err := user.LookupGroup(e.Name)
		if err != nil {
			return false
		}
		gid, _ := strconv.Atoi(g.Gid)
		a.gids = append(a.gids, gid)
	default:
		u, err := user.Lookup(e.Name)
		if err != nil {
			return false
		}
		uid, _ := strconv.Atoi(u.Uid)
		a.uids = append(a.uids, uid)
	}
	return true
}

// allows reports whether p, with a token of that name, is on the list.
func (a *allowList) allows(p *principal, token string) bool {
	if a.any || p.root() || a.has(p) || token != "" && slices.Contains(a.tokens, token) {
		return true
	}
	return slices.ContainsFunc(a.unknown, func(e profiles.Principal) bool {
		var b allowList
		return e.Kind != profiles.Bearer && b.resolve(e) && b.has(p)
	})
}

// has reports whether p is a Unix peer that the list names.
func (a *allowList) has(p *principal) bool {
	return p.uid >= 0 && (slices.Contains(a.uids, p.uid) ||
		slices.ContainsFunc(p.gids, func(g int) bool { return slices.Contains(a.gids, g) }))
}

// access knows who may call. What it knows changes with a reload.
type access struct {
	tokens   atomic.Pointer[map[string]profiles.Token]
	loopback bool // daemon.allow_unauthenticated_loopback
}

// set puts the tokens of a new configuration in force.
func (a *access) set(c *profiles.Config) { a.tokens.Store(&c.Tokens) }

// A caller is a principal with the tokens that opened the door, if any.
type caller struct {
	*principal
	tokens []profiles.Token
}

// still returns the caller as it would be let in now; nil means not at all. On
// a connection that is kept open its tokens may have been taken away since.
func (a *access) still(c *caller) *caller {
	if len(c.tokens) == 0 {
		return c
	}
	now := &caller{principal: c.principal}
	known := *a.tokens.Load()
	for _, t := range c.tokens {
		if k, ok := known[t.Name]; ok && k.Same(t) {
			now.tokens = append(now.tokens, k)
		}
	}
	if len(now.tokens) == 0 {
		return nil
	}
	return now
}

// may reports whether the caller may use a profile with that allow list.
func (c *caller) may(profile string, list *allowList) bool {
	if len(c.tokens) == 0 {
		return list.allows(c.principal, "")
	}
	return slices.ContainsFunc(c.tokens, func(t profiles.Token) bool {
		return t.Permits(profile) && list.allows(c.principal, t.Name)
	})
}

// peerKey is where ConnContext keeps a Unix connection's peer.
type peerKey struct{}

// withPeer is http.Server.ConnContext.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if p := peerOf(c); p != nil {
		return context.WithValue(ctx, peerKey{}, p)
	}
	return ctx
}

// authenticate tells who sent a request; nil means nobody known, and the
// request must be answered 401.
func (a *access) authenticate(r *http.Request) *caller {
	if p, ok := r.Context().Value(peerKey{}).(*principal); ok {
		return &caller{principal: p}
	}
	if scheme, secret, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		var c *caller
		for _, t := range *a.tokens.Load() { // all of them, so time does not tell which
			if t.Matches(strings.TrimSpace(secret)) {
				if c == nil {
					c = &caller{principal: &principal{id: "token:" + t.Name, uid: -1}}
				}
				c.principal.id = min(c.principal.id, "token:"+t.Name)
				c.tokens = append(c.tokens, t)
			}
		}
		return c // nil: a wrong token is wrong, also where none is needed
	}
	if addr, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && a.loopback && addr.Addr().Unmap().IsLoopback() {
		return &caller{principal: &principal{id: "loopback", uid: -1}}
	}
	return nil
}

// checkOrigin refuses what a web page in somebody's browser could send: a
// request with an Origin that is not the daemon's own, and on loopback a Host
// that is not loopback (DNS rebinding). It holds for every method. See "Security & Endpoint" in
// the MCP transport specification.
func checkOrigin(r *http.Request) error {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if tcp, ok := local.(*net.TCPAddr); ok && tcp.IP.IsLoopback() && !loopbackHost(r.Host) {
		return fmt.Errorf("the Host header %q is not a loopback name; use 127.0.0.1 or localhost", r.Host)
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	_, host, ok := strings.Cut(origin, "://")
	if !ok || !strings.EqualFold(host, r.Host) {
		return fmt.Errorf("requests from web pages of other origins are refused (Origin %q)", origin)
	}
	return nil
}

// loopbackHost reports whether a Host header names this machine itself.
func loopbackHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return strings.EqualFold(host, "localhost") || err == nil && ip.IsLoopback()
}

// display is the principal for people: a user's name where it is known.
func (p *principal) display() string { return displayName(p.id) }

// userNames remembers the names of uids; looking one up reads files.
var userNames sync.Map

// displayName turns "uid:1000" into "alice" and leaves other principals alone.
func displayName(principal string) string {
	uid, ok := strings.CutPrefix(principal, "uid:")
	if !ok {
		return principal
	}
	if name, ok := userNames.Load(uid); ok {
		return name.(string)
	}
	name := principal
	if u, err := user.LookupId(uid); err == nil {
		name = u.Username
	}
	userNames.Store(uid, name)
	return name
}
