package daemon

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/kilntainers/kilntainers/profiles"
)

func TestPeerOf(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p := peerOf(s)
	if p == nil || p.uid != os.Getuid() || p.pid != os.Getpid() || p.id != "uid:"+strconv.Itoa(os.Getuid()) {
		t.Fatalf("got %+v, want this process", p)
	}
	groups, _ := os.Getgroups()
	for _, g := range append(groups, os.Getgid()) {
		found := false
		for _, got := range p.gids {
			found = found || got == g
		}
		if !found {
			t.Errorf("group %d is missing in %v", g, p.gids)
		}
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if p := peerOf(a); p != nil {
		t.Errorf("a pipe has a peer: %+v", p)
	}
}

func TestAllowList(t *testing.T) {
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip("this system has no user nobody; any Linux distribution has")
	}
	uid, _ := strconv.Atoi(nobody.Uid)
	gid, _ := strconv.Atoi(nobody.Gid)
	group, err := user.LookupGroupId(nobody.Gid)
	if err != nil {
		t.Fatal(err)
	}
	alice := &principal{id: "alice", uid: uid}
	bob := &principal{id: "bob", uid: uid + 7, gids: []int{1, gid}}
	eve := &principal{id: "eve", uid: uid + 8, gids: []int{1}}
	tokenHolder := &principal{id: "token:laptop", uid: -1}
	root := &principal{id: "uid:0", uid: 0}
	for name, c := range map[string]struct {
		list  []profiles.Principal
		who   *principal
		token string
		want  bool
	}{
		"empty lets all in":             {nil, eve, "", true},
		"user":                          {[]profiles.Principal{{Kind: profiles.User, Name: "nobody"}}, alice, "", true},
		"another user":                  {[]profiles.Principal{{Kind: profiles.User, Name: "nobody"}}, eve, "", false},
		"group":                         {[]profiles.Principal{{Kind: profiles.Group, Name: group.Name}}, bob, "", true},
		"not in the group":              {[]profiles.Principal{{Kind: profiles.Group, Name: group.Name}}, eve, "", false},
		"root always":                   {[]profiles.Principal{{Kind: profiles.User, Name: "nobody"}}, root, "", true},
		"token":                         {[]profiles.Principal{{Kind: profiles.Bearer, Name: "laptop"}}, tokenHolder, "laptop", true},
		"another token":                 {[]profiles.Principal{{Kind: profiles.Bearer, Name: "laptop"}}, tokenHolder, "desktop", false},
		"a token's name is not a user":  {[]profiles.Principal{{Kind: profiles.Bearer, Name: "nobody"}}, alice, "", false},
		"a peer without credentials":    {[]profiles.Principal{{Kind: profiles.User, Name: "nobody"}}, tokenHolder, "", false},
		"unknown names let nobody in":   {[]profiles.Principal{{Kind: profiles.User, Name: "no-such-user-here"}}, eve, "", false},
		"unknown groups let nobody in":  {[]profiles.Principal{{Kind: profiles.Group, Name: "no-such-group-here"}}, eve, "", false},
		"an unknown name beside a good": {[]profiles.Principal{{Kind: profiles.User, Name: "no-such-user-here"}, {Kind: profiles.User, Name: "nobody"}}, alice, "", true},
	} {
		if got := newAllowList(c.list, slog.New(slog.DiscardHandler)).allows(c.who, c.token); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestCheckOrigin(t *testing.T) {
	loopback := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8435}
	outside := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8435}
	unix := &net.UnixAddr{Name: "/run/k.sock", Net: "unix"}
	for name, c := range map[string]struct {
		local        net.Addr
		host, origin string
		good         bool
	}{
		"no origin":                      {loopback, "127.0.0.1:8435", "", true},
		"localhost":                      {loopback, "localhost:8435", "", true},
		"IPv6":                           {loopback, "[::1]:8435", "", true},
		"own origin":                     {loopback, "localhost:8435", "http://localhost:8435", true},
		"foreign origin":                 {loopback, "localhost:8435", "http://evil.example", false},
		"null origin":                    {loopback, "localhost:8435", "null", false},
		"rebinding":                      {loopback, "evil.example:8435", "http://evil.example:8435", false},
		"rebinding without origin":       {loopback, "evil.example", "", false},
		"a host that only begins so":     {loopback, "localhost.evil.example", "", false},
		"another port is another origin": {loopback, "localhost:8435", "http://localhost:3000", false},
		"outside":                        {outside, "sandboxes.example", "", true},
		"outside with a page":            {outside, "sandboxes.example", "https://sandboxes.example", true},
		"outside with a foreign page":    {outside, "sandboxes.example", "https://evil.example", false},
		"unix socket":                    {unix, "kilntainers", "", true},
		"unix socket with a page":        {unix, "kilntainers", "http://evil.example", false},
	} {
		for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS"} {
			r := httptest.NewRequest(method, "/mcp/p", nil)
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, c.local))
			r.Host = c.host
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			if err := checkOrigin(r); (err == nil) != c.good {
				t.Errorf("%s, %s: got %v, want good %v", name, method, err, c.good)
			}
		}
	}
}
