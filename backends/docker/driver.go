// Package docker runs sandboxes as containers of Docker or Podman, through the
// Docker API.
//
//	driver.go   the keys of a profile, and what a model is told
//	flags.go    docker_run_flags, read as the docker CLI reads them
//	policy.go   which of those flags a sandbox may have
//	request.go  the container that a profile asks for; what the engine made of it
//	backend.go  picks an engine, makes a sandbox there, takes back what failed
//	sandbox.go  one container: its commands, its death, its removal
//	stream.go   the attached stdin and stdout
//	engine.go   the API calls in use; which engines there are, and what they say
//	dial.go     ways to reach an engine: sockets, TCP, TLS; tunnel.go: ssh
//	image.go    pulls what is missing
//	agent.go    brings the agent in
//	sweep.go    removes what an earlier boot left
//
// The engine's own exec costs 50 ms and cannot be killed, so a container's
// PID 1 is the program of package agent, and commands go to it as frames over
// the attached stdin and stdout. It comes in a read-only volume that is filled
// once for each engine. A sandbox is made in this order:
//
//	create ─► inspect ─► attach ─► wait(removed) ─► start ─► HELLO
//	           │                                               └ agent.New
//	           └ every limit that was asked for is there, or the sandbox is refused
//
// The container has AutoRemove and StdinOnce: when the daemon dies, the kernel
// closes the stream, the agent ends, and the engine removes what is left.
package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"

	"github.com/kilntainers/kilntainers/backends"
)

// Driver is the driver "docker". It serves Podman too.
var Driver = backends.Driver{
	Name: "docker",
	Features: backends.Features{
		Network:    true,
		Background: true,
		Signals:    true,
		Pool:       true,
		Shell:      true,
		Adopt:      true,
	},
	Options:  func() backends.Options { return defaults() },
	Agree:    func(s backends.Spec, o backends.Options) error { return agree(s, o.(*Options)) },
	Describe: func(s backends.Spec, o backends.Options) string { return describe(s, o.(*Options)) },
	Open: func(s backends.Spec, o backends.Options, log *slog.Logger) (backends.Backend, error) {
		return open(s, o.(*Options), log, connect)
	},
	Sweep: func(ctx context.Context, s backends.Sweep) ([]backends.Leftover, error) {
		return sweep(ctx, s, connect)
	},
}

// Options are the keys of a profile whose backend is "docker".
type Options struct {
	// Engine is "docker" or "podman": where to look when DockerHost is empty.
	// Docker is found by $DOCKER_HOST, at /var/run/docker.sock or
	// $XDG_RUNTIME_DIR/docker.sock; Podman by $CONTAINER_HOST, at
	// /run/podman/podman.sock or $XDG_RUNTIME_DIR/podman/podman.sock.
	Engine string `toml:"engine"`

	// DockerHost names engines: unix:///path, tcp://host:port (with TLS when
	// $DOCKER_CERT_PATH or $DOCKER_TLS_VERIFY is set) or ssh://user@host[:port][/path].
	// Of several, the one with the fewest sandboxes of this profile is used.
	DockerHost Hosts `toml:"docker_host"`

	Image string `toml:"image"` // any OCI image, by name or id
	Pull  string `toml:"pull"`  // "missing", "always" or "never"

	Runtime string `toml:"runtime"` // as the engine names it; "" = the engine's default

	// Limits of one sandbox. A flag in DockerRunFlags takes precedence.
	CPU       CPUs          `toml:"cpu"`        // CPUs' worth of time; 0 = no limit
	Memory    backends.Size `toml:"memory"`     // without swap; tmpfs counts
	PidsLimit int64         `toml:"pids_limit"` // processes and threads

	// Disk limits what a sandbox can write to its root file system; 0 = no
	// limit. Few engines can: Docker with overlay2 on xfs mounted with pquota,
	// btrfs or zfs. Elsewhere Create fails and says so; there ReadOnly with a
	// sized Tmpfs bounds all writing.
	Disk backends.Size `toml:"disk"`

	User     string `toml:"user"`      // "name", "uid" or "uid:gid"; "" = the image's
	ReadOnly bool   `toml:"read_only"` // no writing but to Tmpfs and Mounts

	// Tmpfs are memory file systems, "/path" or "/path:size", such as
	// "/tmp:256m". Programs may be run from them. The size, half of Memory
	// when it is missing, counts as memory of the sandbox.
	Tmpfs []string `toml:"tmpfs"`

	// Mounts are volumes as docker run -v takes them: "name:/path" or
	// "name:/path:ro". All sandboxes of the profile share a named volume. A
	// path of the host in place of the name needs AllowUnsafe.
	Mounts []string `toml:"mounts"`

	// DockerRunFlags are flags of docker run, one argument of its command line
	// each: "--memory=2g", or "--memory" and "2g". The files that --env-file
	// and --label-file name are read when a sandbox is made.
	DockerRunFlags []string `toml:"docker_run_flags"`

	// AllowUnsafe lets through what weakens the isolation, and an engine that
	// drops limits.
	AllowUnsafe bool `toml:"allow_unsafe"`
}

func defaults() *Options {
	return &Options{
		Engine:    "docker",
		Image:     "debian:bookworm-slim",
		Pull:      "missing",
		CPU:       1e9,
		Memory:    1 << 30,
		PidsLimit: 512,
		Tmpfs:     []string{"/tmp"},
	}
}

// Engines refuse less memory than minMemory ("Minimum memory limit allowed is
// 6MB"); the agent, the supervisor of a command and a small pipeline need
// minPids processes.
const (
	minMemory = 6 << 20
	minPids   = 16
)

// Validate reports every problem that can be found without an engine.
func (o *Options) Validate() error {
	var errs []error
	bad := func(key, format string, a ...any) {
		errs = append(errs, &backends.OptionError{Key: key, Problem: fmt.Sprintf(format, a...)})
	}

	if o.Engine != "docker" && o.Engine != "podman" {
		bad("engine", "unknown engine %q; write \"docker\" or \"podman\"", o.Engine)
	}
	for _, h := range o.DockerHost {
		if err := checkHost(h); err != nil {
			bad("docker_host", "%v", err)
		}
	}
	if _, err := reference.ParseAnyReference(o.Image); err != nil {
		bad("image", "%q is not the name of an image (%v); write it as docker pull takes it, such as \"python:3.13-slim\"", o.Image, err)
	}
	if !slices.Contains([]string{"missing", "always", "never"}, o.Pull) {
		bad("pull", "unknown policy %q; write \"missing\", \"always\" or \"never\"", o.Pull)
	}
	if o.Memory > 0 && o.Memory < minMemory {
		bad("memory", "%v is too little to start anything; write at least \"6m\"", o.Memory)
	}
	switch {
	case o.PidsLimit < 0:
		bad("pids_limit", "%d is negative; write the number of processes, such as 512", o.PidsLimit)
	case o.PidsLimit > 0 && o.PidsLimit < minPids:
		bad("pids_limit", "%d is too few to run a pipeline; write at least %d", o.PidsLimit, minPids)
	}
	for _, t := range o.Tmpfs {
		dir, size, sized := strings.Cut(t, ":")
		if err := checkTarget(dir); err != nil {
			bad("tmpfs", "%q: %v; write \"/path\" or \"/path:size\", such as \"/tmp:256m\"", t, err)
		} else if z, err := backends.ParseSize(size); sized && (err != nil || z == 0) {
			bad("tmpfs", "%q: %q is not a size; write \"/path\" or \"/path:size\", such as \"/tmp:256m\"", t, size)
		}
	}
	for _, m := range o.Mounts {
		v, err := parseVolume(m)
		switch {
		case err != nil:
			bad("mounts", "%v; write \"name:/path\" or \"name:/path:ro\"", err)
		case v.source == "":
			bad("mounts", "%q names no volume; write \"name:/path\" or \"name:/path:ro\"", m)
		}
	}
	f, problems := parseFlags(o.DockerRunFlags)
	for _, p := range problems {
		bad("docker_run_flags", "%s", p)
	}
	if !o.AllowUnsafe {
		for _, w := range o.weaknesses(f) {
			bad(w.key, "%s; leave it out, or set allow_unsafe = true", w.how)
		}
	}
	return errors.Join(errs...)
}

// A weakness is what a profile does to its isolation.
type weakness struct{ key, how string }

// weaknesses lists what needs AllowUnsafe.
func (o *Options) weaknesses(f *runFlags) (list []weakness) {
	if o.Memory == 0 && !f.given["memory"] {
		list = append(list, weakness{"memory", "without a limit one sandbox can use up the host's memory"})
	}
	if o.PidsLimit == 0 && !f.given["pids-limit"] {
		list = append(list, weakness{"pids_limit", "without a limit a fork bomb in the sandbox stops the host"})
	}
	for _, m := range o.Mounts {
		if v, _ := parseVolume(m); v.bind() {
			list = append(list, weakness{"mounts", fmt.Sprintf("%q gives the sandbox a path of the host", m)})
		}
	}
	for _, w := range f.weakens {
		list = append(list, weakness{"docker_run_flags", w})
	}
	return list
}

// describe tells a model what a sandbox is.
func describe(s backends.Spec, o *Options) string {
	c := newRequest(s, o, "")
	var b strings.Builder
	fmt.Fprintf(&b, "An isolated Linux sandbox: a container of the image %s. ", o.Image)
	if s.Shell == "" {
		b.WriteString("Commands run in bash if the image has it, else in sh. ")
	} else {
		fmt.Fprintf(&b, "Commands run in %s. ", s.Shell)
	}
	if c.host.NetworkMode.IsNone() {
		b.WriteString("No network access. ")
	} else {
		b.WriteString("It has network access. ")
	}

	var limits []string
	switch n := CPUs(c.host.NanoCPUs); n {
	case 0:
	case 1e9:
		limits = append(limits, "1 CPU")
	default:
		limits = append(limits, n.String()+" CPUs")
	}
	if c.host.Memory > 0 {
		limits = append(limits, backends.Size(c.host.Memory).String()+" of memory")
	}
	if p := c.host.PidsLimit; p != nil && *p > 0 {
		limits = append(limits, fmt.Sprintf("%d processes", *p))
	}
	if z := c.host.StorageOpt["size"]; z != "" {
		limits = append(limits, z+" of disk")
	}
	if len(limits) > 0 {
		fmt.Fprintf(&b, "Limits: %s. ", strings.Join(limits, ", "))
	}

	if c.host.ReadonlyRootfs {
		if dirs := c.writable(); len(dirs) > 0 {
			fmt.Fprintf(&b, "The file system is read-only, except for %s. ", strings.Join(dirs, ", "))
		} else {
			b.WriteString("The file system is read-only. ")
		}
	}
	b.WriteString("Files and background processes stay until the sandbox ends; " +
		"shell variables and the working directory do not carry over from one command to the next.")
	return b.String()
}

// Hosts is one engine, or a list of them.
type Hosts []string

// UnmarshalTOML reads a string or an array of strings.
func (h *Hosts) UnmarshalTOML(v any) error {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	*h = nil
	for _, e := range list {
		s, ok := e.(string)
		if !ok {
			return errors.New("want the address of an engine, such as \"unix:///var/run/docker.sock\", or a list of them")
		}
		if s != "" || len(list) > 1 {
			*h = append(*h, s)
		}
	}
	return nil
}

// checkHost reports what is wrong with the address of an engine.
func checkHost(h string) error {
	const right = "write unix:///path, tcp://host:port or ssh://user@host"
	u, err := url.Parse(h)
	if err != nil {
		return fmt.Errorf("%q is not an address; %s", h, right)
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || !path.IsAbs(u.Path) {
			return fmt.Errorf("%q has no absolute path; write unix:///var/run/docker.sock", h)
		}
	case "tcp":
		if u.Hostname() == "" || u.Port() == "" || u.Path != "" || u.User != nil {
			return fmt.Errorf("%q is not a host and a port; write tcp://host:2376", h)
		}
	case "ssh":
		switch _, secret := u.User.Password(); {
		case u.Hostname() == "" || strings.HasPrefix(u.Hostname(), "-"):
			return fmt.Errorf("%q names no host; write ssh://user@host", h)
		case strings.HasPrefix(u.User.Username(), "-"):
			return fmt.Errorf("%q names no user; write ssh://user@host", h)
		case secret:
			return errors.New("an ssh address holds no password; use a key that the daemon's ssh finds")
		}
	default:
		return fmt.Errorf("%q is not an address of an engine; %s", h, right)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%q has more than an address; %s", h, right)
	}
	return nil
}

// CPUs is an amount of CPU time in billionths of a CPU. In a profile it is a
// number or a string, as docker run --cpus takes it: 1, 0.5, "1.5".
type CPUs int64

// UnmarshalTOML reads a number or a string.
func (c *CPUs) UnmarshalTOML(v any) error {
	var s string
	switch v := v.(type) {
	case string:
		s = strings.TrimSpace(v)
	case int64:
		s = strconv.FormatInt(v, 10)
	case float64:
		s = strconv.FormatFloat(v, 'f', -1, 64)
	}
	// big.Rat also takes "1/3" and "0x10", which nobody means here.
	r, ok := new(big.Rat).SetString(s)
	if !ok || strings.Trim(s, "0123456789.") != "" {
		return fmt.Errorf("want a number of CPUs, such as 2 or \"0.5\", not %v", v)
	}
	r.Mul(r, big.NewRat(1e9, 1))
	if !r.IsInt() || !r.Num().IsInt64() {
		return fmt.Errorf("%s CPUs cannot be had; write a number with at most nine decimals, such as \"0.5\"", s)
	}
	if n := r.Num().Int64(); n == 0 || n >= 1e7 {
		*c = CPUs(n)
		return nil
	}
	return fmt.Errorf("%s CPUs are too few; write at least \"0.01\", or 0 for no limit", s)
}

// String writes the number without needless zeros: "0.5".
func (c CPUs) String() string {
	return strconv.FormatFloat(float64(c)/1e9, 'f', -1, 64)
}
