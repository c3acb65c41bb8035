package main

import (
	"slices"
	"strings"

	"github.com/kilntainers/kilntainers/profiles"
)

// configPage is the manual page of the configuration: what holds for all of
// it, and every key from the table that decodes it.
func configPage() string {
	var r roff
	r.title("kilntainers.toml", 5)
	r.section("Name")
	r.line(`kilntainers.toml \- configuration of the Kilntainers daemon`)
	r.section("Synopsis")
	for _, path := range []string{
		"/etc/kilntainers/kilntainers.toml",
		"/etc/kilntainers/profiles.d/*.toml",
		"~/.config/kilntainers/kilntainers.toml",
	} {
		r.line(".PP")
		r.line(italic(path))
	}

	r.section("Description")
	for _, text := range []string{
		"One main file in TOML, and every profiles.d/*.toml beside it, in the order of their names. They say how the daemon runs, and name profiles: kinds of sandboxes, each of which is an MCP endpoint of its own.",
		"A change takes effect within half a second, without a restart and without disturbing a running call: new sessions get the new profile, living ones keep their sandbox and get the new limits with their next call. A file with any problem changes nothing; kilntainers reload and kilntainersd check tell what is wrong with it, each problem with its file and line. Only what stands in [daemon] waits for a restart, but for the limits on sandboxes.",
		"The name of a profile has at most 63 of a-z, 0-9, _ and -, and starts with a letter or a digit. The same name twice is a problem, and so is an unknown key.",
		"Durations are whole seconds (120), or strings such as \"90s\", \"5m\" and \"1h30m\". Sizes are bytes (1048576), or strings such as \"512k\", \"512m\", \"1g\" and \"2MiB\". Below, each key stands with its default; one without has to be written.",
	} {
		r.paragraph(text)
	}

	keys := profiles.Keys()
	table := func(heading, intro, name, backend string) {
		r.macro("SH", heading) // as it is written: keys are lower-case
		r.paragraph(intro)
		for _, k := range keys {
			if k.Table != name || backend == "" && k.Backends != nil || backend != "" && !slices.Contains(k.Backends, backend) {
				continue
			}
			it := item{name: k.Name, text: k.Meaning}
			if k.Default != "" {
				it.name += " = " + k.Default
			}
			r.item(it)
		}
	}
	table("Table [daemon]", "How the daemon runs.", "daemon", "")
	table("Tables [tokens.NAME]", "Bearer tokens for TCP, each with a name of its own. A new token in the file takes effect as an edit does.", "tokens.NAME", "")
	table("Tables [defaults] and [profiles.NAME]", "What a profile is. Every profile starts from [defaults], where any of these keys may stand, and those of the backends below; a profile's own value takes the place of the default, and tables, such as env, are merged key by key.", "profiles.NAME", "")
	var backends []string
	for _, k := range keys {
		for _, b := range k.Backends {
			if !slices.Contains(backends, b) {
				backends = append(backends, b)
			}
		}
	}
	for _, b := range backends {
		table("Profiles with backend = \""+b+"\"", "What such a profile may say besides.", "profiles.NAME", b)
	}

	r.section("Example")
	r.prose([]part{{example: strings.Split(example, "\n")}})
	r.section("Files")
	r.item(item{name: "/usr/share/doc/kilntainers/examples", text: "Every key in one file, and profiles to copy into profiles.d."})
	r.section("See also")
	r.paragraph("kilntainersd(8), kilntainers(1)")
	return r.String()
}

// example is a configuration to begin with; a test loads it.
const example = `[defaults]                       # every profile starts from these
timeout = 60

[profiles.python]
backend = "docker"
image   = "python:3.13-slim"
memory  = "1g"

[profiles.node]
backend = "docker"
image   = "node:24-slim"
network = true                   # off unless a profile says so
pool    = 2                      # sandboxes kept started ahead of need
allow   = ["alice", "@datasci"]  # Unix users and groups

[profiles.scratch]               # no engine needed
backend = "go_busybox"`
