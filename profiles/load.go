package profiles

import (
	"github.com/kilntainers/kilntainers/backends"
)

// Load reads the main file at path and every profiles.d/*.toml beside it, in
// name order. Its error is a [Problems] with all that is wrong in any of
// them. An empty path is [Builtin].
func Load(path string, drivers backends.Drivers) (*Config, error) {
	c, problems := LoadGood(path, drivers)
	if len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

// LoadGood is Load for a daemon that starts whatever its files say: the
// Config, never nil, holds only what has no problem. A profile is left out
// when it, or a default it relies on, has one; a faulty key of [daemon] has
// its default; a faulty token is left out.
func LoadGood(path string, drivers backends.Drivers) (*Config, Problems) {
	return &Config{}, nil
}

// Builtin returns the configuration of a daemon that has no file: profile
// "default" on go_busybox and profile "debian" on docker, as far as this
// build has the drivers.
func Builtin(drivers backends.Drivers) (*Config, error) {
	return &Config{}, nil
}

// Find returns the path of the configuration file to use when none is named:
// the first of [SearchPath] that exists, else "" for the built-in
// configuration.
func Find() string { return "" }

// SearchPath lists where Find looks: /etc/kilntainers/kilntainers.toml, then
// kilntainers/kilntainers.toml under $XDG_CONFIG_HOME (or ~/.config).
func SearchPath() []string { return nil }

// SplitListen splits a listen address into a network and an address as
// net.Listen takes them: "unix:/run/k.sock" is "unix", "/run/k.sock";
// "tcp:127.0.0.1:8435" is "tcp", "127.0.0.1:8435". Its error says what would
// be right.
func SplitListen(s string) (network, address string, err error) { return "", "", nil }
