package profiles

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// SplitListen splits a listen address into a network and an address as
// net.Listen takes them: "unix:/run/k.sock" is "unix", "/run/k.sock";
// "tcp:127.0.0.1:8435" is "tcp", "127.0.0.1:8435". Its error says what would
// be right.
func SplitListen(s string) (network, address string, err error) {
	network, address, _ = strings.Cut(s, ":")
	switch {
	case network == "unix" && strings.HasPrefix(address, "/") && !strings.HasPrefix(address, "//"):
		address = filepath.Clean(address)
		if len(address) > maxSocketPath {
			return "", "", fmt.Errorf("%q is longer than the %d bytes that a socket's path may have; shorten it", address, maxSocketPath)
		}
		return network, address, nil
	case network == "tcp" && !strings.HasPrefix(address, "//"):
		host, port, err := net.SplitHostPort(address)
		if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || strconv.FormatUint(n, 10) != port || strings.ContainsAny(host, " /") {
			return "", "", fmt.Errorf("%q is not a host and a port; write \"tcp:127.0.0.1:8435\"", s)
		}
		return network, address, nil
	}
	return "", "", fmt.Errorf("%q is not an address; write \"unix:/run/kilntainers/kilntainers.sock\" or \"tcp:127.0.0.1:8435\"", s)
}

// maxSocketPath is the room in Linux's struct sockaddr_un, less a final NUL
// (unix(7)).
const maxSocketPath = 107

// CheckListen reports whether the configuration lets the daemon serve that
// address: TCP needs a token, unless it is 127.0.0.0/8 or ::1 and
// allow_unauthenticated_loopback is set. It is checked for what [daemon]
// listens on; a daemon checks the sockets that systemd hands over with it.
func (c *Config) CheckListen(network, address string) error {
	if !strings.HasPrefix(network, "tcp") || len(c.Tokens) > 0 {
		return nil
	}
	host, _, _ := net.SplitHostPort(address)
	ip, err := netip.ParseAddr(host)
	loopback := err == nil && ip.IsLoopback()
	switch {
	case c.Daemon.AllowUnauthenticatedLoopback && loopback:
		return nil
	case loopback:
		return errors.New("would serve every user of this machine, as there is no token; add a [tokens.NAME] table, or set allow_unauthenticated_loopback = true")
	default:
		return errors.New("would serve everyone who can reach it, as there is no token; add a [tokens.NAME] table, or listen on 127.0.0.1 with allow_unauthenticated_loopback = true")
	}
}
