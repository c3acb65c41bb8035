package docker

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-units"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/agent"
)

// Labels of what the driver makes. An agent volume has only the first and its
// own: daemons share it.
const (
	labelMark     = "kilntainers"
	labelInstance = "kilntainers.instance"
	labelBoot     = "kilntainers.boot"
	labelProfile  = "kilntainers.profile"
	labelSandbox  = "kilntainers.sandbox"
	labelAgent    = "kilntainers.agent"
)

// agentDir is where the agent's volume is mounted.
const agentDir = "/.kilntainers"

// Every process may have maxFiles files. What engines give by themselves
// ranges up to 2^30, and there are programs that close all of them one by one.
const maxFiles = 16384

// A file in memory costs about 1.1 KiB beside its content, which the size of
// its file system does not count and memory does. With one for every so many
// bytes, what is half as large as memory never fills it: whatever is in /tmp,
// there is room to run rm.
const (
	bytesPerInode = 2048
	minInodes     = 1024
)

// A request is a container to create.
type request struct {
	config     *container.Config
	host       *container.HostConfig
	networking *network.NetworkingConfig
}

// newRequest returns the container that a profile asks for. Everything that
// keeps a sandbox a sandbox is set last, so that no flag can say otherwise.
// The options have passed Validate.
func newRequest(s backends.Spec, o *Options, name string) request {
	f, _ := parseFlags(o.DockerRunFlags)
	return buildRequest(s, o, f, name)
}

func buildRequest(s backends.Spec, o *Options, f *runFlags, name string) request {
	c, h := f.config, f.host // copies; what they point to is not written to

	// The profile's keys, where no flag says otherwise.
	if !f.given["memory"] {
		h.Memory = int64(o.Memory)
	}
	if !f.given["memory-swap"] {
		h.MemorySwap = h.Memory // with Memory equal, there is no swap
	}
	if !f.given["cpus"] && h.CPUQuota == 0 && h.CPUPeriod == 0 {
		h.NanoCPUs = int64(o.CPU)
	}
	if !f.given["pids-limit"] {
		h.PidsLimit = &o.PidsLimit
	}
	if h.Runtime == "" {
		h.Runtime = o.Runtime
	}
	if c.User == "" {
		c.User = o.User
	}
	if c.WorkingDir == "" {
		c.WorkingDir = s.Dir // made when it is missing
	}
	h.ReadonlyRootfs = h.ReadonlyRootfs || o.ReadOnly
	if _, set := h.StorageOpt["size"]; !set && o.Disk > 0 {
		h.StorageOpt = maps.Clone(h.StorageOpt)
		if h.StorageOpt == nil {
			h.StorageOpt = map[string]string{}
		}
		h.StorageOpt["size"] = o.Disk.String()
	}
	h.Binds = append(slices.Clone(h.Binds), o.Mounts...)
	h.Tmpfs = maps.Clone(h.Tmpfs)
	if h.Tmpfs == nil {
		h.Tmpfs = map[string]string{}
	}
	for _, t := range o.Tmpfs {
		dir, size, sized := strings.Cut(t, ":")
		bytes, _ := backends.ParseSize(size)
		if !sized {
			bytes = backends.Size(h.Memory / 2)
		}
		if taken(&h, dir) {
			continue
		}
		h.Tmpfs[dir] = "rw,exec,nosuid,nodev,mode=1777"
		if bytes > 0 {
			h.Tmpfs[dir] += fmt.Sprintf(",size=%d,nr_inodes=%d", int64(bytes), max(int64(bytes)/bytesPerInode, minInodes))
		}
	}
	if !s.Network {
		h.NetworkMode = "none"
	} else if h.NetworkMode == "" {
		h.NetworkMode = "default"
	}

	// Hardening, which a flag may extend and only allow_unsafe can lift.
	h.CapDrop = append([]string{"ALL"}, h.CapDrop...)
	if slices.ContainsFunc(h.CapAdd, func(c string) bool { c = opts.NormalizeCapability(c); return c == "CAP_SETUID" }) {
		// The agent must be able to kill what became another user.
		h.CapAdd = append(slices.Clone(h.CapAdd), "CAP_KILL")
	}
	if !slices.ContainsFunc(h.SecurityOpt, func(o string) bool { return strings.HasPrefix(o, "no-new-privileges") }) {
		h.SecurityOpt = append(slices.Clone(h.SecurityOpt), "no-new-privileges")
	}
	for _, u := range []*units.Ulimit{{Name: "core"}, {Name: "nofile", Soft: maxFiles, Hard: maxFiles}} {
		if !slices.ContainsFunc(h.Ulimits, func(v *container.Ulimit) bool { return v.Name == u.Name }) {
			h.Ulimits = append(slices.Clone(h.Ulimits), u)
		}
	}
	if h.IpcMode == "" {
		h.IpcMode = container.IPCModePrivate
	}
	if h.CgroupnsMode == "" {
		h.CgroupnsMode = container.CgroupnsModePrivate
	}
	if !f.given["oom-score-adj"] {
		h.OomScoreAdj = 500 // rather a sandbox than a program of the host
	}

	// Ours, whatever the flags say.
	c.Image = o.Image
	c.Entrypoint = []string{path.Join(agentDir, agent.Name)}
	c.Cmd = nil
	c.Tty = false
	c.OpenStdin, c.StdinOnce = true, true
	c.AttachStdin, c.AttachStdout, c.AttachStderr = true, true, true
	c.Healthcheck = &container.HealthConfig{Test: []string{"NONE"}}
	c.Labels = maps.Clone(c.Labels)
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	maps.Copy(c.Labels, labels(s, name))
	h.LogConfig = container.LogConfig{Type: "none"} // any other driver writes the channel to the disk
	h.AutoRemove = true
	h.RestartPolicy = container.RestartPolicy{}
	h.PidMode = ""
	h.Init = new(bool)
	h.ContainerIDFile = ""
	h.Mounts = append(slices.Clone(h.Mounts), agentMount(true))

	r := request{config: &c, host: &h}
	if s.Network {
		r.networking = &network.NetworkingConfig{EndpointsConfig: f.networks}
	}
	return r
}

// forDocker has /dev/shm mounted as one of Tmpfs is: only so it takes a limit
// to the names in it, and leaves a small memory something beside it.
func (r request) forDocker() {
	const dir, usual = "/dev/shm", 64 << 20 // Docker's own size
	if !r.host.IpcMode.IsPrivate() || taken(r.host, dir) {
		return
	}
	size := r.host.ShmSize
	if size == 0 {
		size = usual
		if r.host.Memory > 0 {
			size = min(size, r.host.Memory/8)
		}
	}
	r.host.Tmpfs[dir] = fmt.Sprintf("rw,noexec,nosuid,nodev,mode=1777,size=%d,nr_inodes=%d", size, 4*minInodes)
}

// forPodman changes what Podman takes differently from Docker. The image sets
// this user.
func (r request) forPodman(f *runFlags, user string) {
	// Podman adds nproc=1048576 to any list of ulimits, which a service without
	// CAP_SYS_RESOURCE cannot set. Its own defaults are modest.
	r.host.Ulimits = f.host.Ulimits

	// It knows no nr_inodes.
	for dir, options := range r.host.Tmpfs {
		if _, given := f.host.Tmpfs[dir]; !given {
			r.host.Tmpfs[dir], _, _ = strings.Cut(options, ",nr_inodes=")
		}
	}

	// It makes the root directory with mode 0555 unless the image says
	// otherwise, and root without this capability could not write there. For
	// other users it would be in effect too, so they do not get it.
	name, _, _ := strings.Cut(cmp.Or(r.config.User, user, "root"), ":")
	if name == "root" || name == "0" {
		r.host.CapAdd = append(slices.Clone(r.host.CapAdd), "CAP_DAC_OVERRIDE")
	}
}

// labels are those of everything that is made for a sandbox.
func labels(s backends.Spec, name string) map[string]string {
	return map[string]string{
		labelMark:     "true",
		labelInstance: s.Owner.Instance,
		labelBoot:     s.Owner.Boot,
		labelProfile:  s.Profile,
		labelSandbox:  name,
	}
}

// taken tells whether something is mounted at dir.
func taken(h *container.HostConfig, dir string) bool {
	here := func(target string) bool { return path.Clean(target) == path.Clean(dir) }
	return slices.ContainsFunc(h.Binds, func(b string) bool { v, _ := parseVolume(b); return here(v.target) }) ||
		slices.ContainsFunc(h.Mounts, func(m mount.Mount) bool { return here(m.Target) }) ||
		slices.ContainsFunc(slices.Collect(maps.Keys(h.Tmpfs)), here)
}

// writable lists what can be written to although the root file system is
// read-only.
func (r request) writable() []string {
	var dirs []string
	for dir, options := range r.host.Tmpfs {
		if !slices.Contains(strings.Split(options, ","), "ro") {
			dirs = append(dirs, dir)
		}
	}
	for _, b := range r.host.Binds {
		if v, _ := parseVolume(b); !slices.Contains(strings.Split(v.options, ","), "ro") {
			dirs = append(dirs, v.target)
		}
	}
	for _, m := range r.host.Mounts {
		if !m.ReadOnly && m.Type != mount.TypeImage {
			dirs = append(dirs, m.Target)
		}
	}
	slices.Sort(dirs)
	return dirs
}

// missing compares what was asked for with what the engine says it made, and
// names what is not there. Rootless Podman on cgroup v1 takes limits and drops
// them without a word; Docker without swap accounting drops that of swap.
func (r request) missing(got container.InspectResponse) (lost []string) {
	if got.ContainerJSONBase == nil || got.HostConfig == nil {
		return []string{"all limits (the engine does not tell)"}
	}
	asked, have := r.host, got.HostConfig
	check := func(what string, ok bool) {
		if !ok {
			lost = append(lost, what)
		}
	}
	pids := func(h *container.HostConfig) int64 {
		if h.PidsLimit == nil {
			return 0
		}
		return max(*h.PidsLimit, 0)
	}
	check("memory", have.Memory == asked.Memory)
	check("swap", have.MemorySwap == asked.MemorySwap)
	check("cpu", cpuTime(have) == cpuTime(asked))
	check("pids_limit", pids(have) == pids(asked))
	check("cpuset-cpus", have.CpusetCpus == asked.CpusetCpus)
	check("read_only", have.ReadonlyRootfs || !asked.ReadonlyRootfs)
	check("network = false", have.NetworkMode.IsNone() || !asked.NetworkMode.IsNone())
	check("no privileges", !have.Privileged || asked.Privileged)
	check("no capabilities", dropsCaps(asked, have))
	check("no-new-privileges", slices.ContainsFunc(have.SecurityOpt, func(o string) bool { return strings.HasPrefix(o, "no-new-privileges") }))
	check("runtime", asked.Runtime == "" || have.Runtime == asked.Runtime) // Podman's API takes none
	check("log-driver = none", have.LogConfig.Type == "none")
	check("removal at the end", have.AutoRemove)
	return lost
}

// dropsCaps tells whether every capability that engines give by themselves is
// dropped, unless it was asked for. Podman spells ALL out.
func dropsCaps(asked, have *container.HostConfig) bool {
	kept, dropped := opts.CapabilitiesMap(asked.CapAdd), opts.CapabilitiesMap(have.CapDrop)
	return dropped[opts.AllCapabilities] || kept[opts.AllCapabilities] ||
		!slices.ContainsFunc(defaultCaps, func(c string) bool { return !kept[c] && !dropped[c] })
}

// cpuTime is the limit in billionths of a CPU. Engines may tell it as a quota
// in a period.
func cpuTime(h *container.HostConfig) int64 {
	if h.NanoCPUs > 0 || h.CPUQuota <= 0 {
		return h.NanoCPUs
	}
	period := h.CPUPeriod
	if period == 0 {
		period = 100_000
	}
	return h.CPUQuota * 1e9 / period
}
