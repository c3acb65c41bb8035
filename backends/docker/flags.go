package docker

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/docker/cli/pkg/kvfile"
	"github.com/docker/docker/api/types/blkiodev"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-connections/nat"
	"github.com/spf13/pflag"
)

// docker_run_flags go the way that the CLI takes them:
//
//	["--cpus=2", "-v", "data:/data", …]
//	    │ parseFlags: one pflag table; most flags write their field at once,
//	    │             the rest are lists that finish turns into fields
//	    ▼
//	runFlags: config, host, networks = the body that the CLI would send
//	    │ newRequest overlays what is ours
//	    ▼
//	POST /containers/create
//
// The CLI's own parser is not exported (docker/cli v28.5.2,
// cli/command/container/opts.go); flags_test.go compares this one with the
// CLI itself, case by case.

// runFlags is docker_run_flags, parsed.
type runFlags struct {
	config   container.Config
	host     container.HostConfig
	networks map[string]*network.EndpointSettings

	given       map[string]bool // names of the flags that are there
	weakens     []string        // what weakens the isolation, and how
	wantNetwork []string        // flags that mean nothing without a network

	envFiles, labelFiles []string // read by resolve
	seccomp              string   // path of a profile, read by resolve
}

// rawFlags holds the flags that need more than a field to be written to.
type rawFlags struct {
	volumes, tmpfs, publish, expose, devices, env, labels []string
	security, storage, aliases, links, linkLocal          []string
	mounts                                                opts.MountOpt
	gpus                                                  opts.GpuOpts
	networks                                              opts.NetworkOpt
	blkioWeightDevice                                     opts.WeightdeviceOpt
	readBps, writeBps, readIOps, writeIOps                opts.ThrottledeviceOpt
	ulimits                                               *opts.UlimitOpt
	mac, ip4, ip6, uts, userns, cgroupns, ipc             string
	memory, memoryReservation, kernelMemory, shm          opts.MemBytes
	memorySwap                                            opts.MemSwapBytes
	cpus                                                  opts.NanoCPUs
	swappiness, pids                                      int64
	stopTimeout                                           int
	oomKillDisable                                        bool
}

// parseFlags reads docker_run_flags. Each problem names its flag and says what
// would be right. It reads no file and no variable of the daemon.
func parseFlags(args []string) (f *runFlags, problems []string) {
	f = &runFlags{given: map[string]bool{}}
	raw := &rawFlags{}
	fs := f.table(raw)
	bad := func(format string, a ...any) { problems = append(problems, fmt.Sprintf(format, a...)) }

	err := fs.ParseAll(args, func(flag *pflag.Flag, value string) error {
		if why := refused[flag.Name]; why != "" {
			bad("--%s: %s", flag.Name, why)
			return nil
		}
		if err := flag.Value.Set(value); err != nil {
			bad("--%s: %q: %v", flag.Name, value, err)
			return nil
		}
		f.given[flag.Name] = true
		if slices.Contains(networkFlags, flag.Name) {
			f.wantNetwork = append(f.wantNetwork, "--"+flag.Name)
		}
		return nil
	})
	if err != nil {
		msg := err.Error() + "; docker run --help lists the flags"
		if i := slices.IndexFunc(args, func(a string) bool {
			return strings.HasPrefix(a, "-") && strings.Contains(strings.SplitN(a, "=", 2)[0], " ")
		}); i >= 0 {
			msg = fmt.Sprintf("%q is one argument; write a flag and its value as \"--flag=value\" or as two strings", args[i])
		}
		// Problems of flags together may be due to those that follow, which
		// nobody has read. What these weaken is known.
		f.finish(raw)
		f.weakens = f.weaknesses()
		return f, append(problems, msg)
	}
	if rest := fs.Args(); len(rest) > 0 {
		bad("%q is not a flag; the image is the key image, and a sandbox has no command", rest[0])
	}
	problems = append(problems, f.finish(raw)...)
	f.weakens = f.weaknesses()
	return f, problems
}

// table declares every flag of docker run, and where its value goes.
func (f *runFlags) table(r *rawFlags) *pflag.FlagSet {
	fs := pflag.NewFlagSet("docker_run_flags", pflag.ContinueOnError)
	fs.SetInterspersed(false)
	fs.SetOutput(io.Discard)
	c, h := &f.config, &f.host

	list := func(to *[]string, name, short string, check opts.ValidatorFctType) {
		fs.VarP(opts.NewListOptsRef(to, check), name, short, "")
	}
	mapping := func(to *map[string]string, name string, check opts.ValidatorFctType) {
		*to = map[string]string{}
		fs.Var(opts.NewMapOpts(*to, check), name, "")
	}

	// Process and names
	list(&r.env, "env", "e", checkEnv)
	list(&f.envFiles, "env-file", "", checkFile)
	list(&r.labels, "label", "l", checkLabel)
	list(&f.labelFiles, "label-file", "", checkFile)
	list(&h.GroupAdd, "group-add", "", nil)
	fs.StringVarP(&c.Hostname, "hostname", "h", "", "")
	fs.StringVar(&c.Domainname, "domainname", "", "")
	fs.StringVarP(&c.User, "user", "u", "", "")
	fs.StringVarP(&c.WorkingDir, "workdir", "w", "", "")
	fs.StringVar(&c.StopSignal, "stop-signal", "", "")
	fs.IntVar(&r.stopTimeout, "stop-timeout", 0, "")
	fs.Bool("no-healthcheck", false, "") // always so
	fs.StringVar(&h.Runtime, "runtime", "", "")
	mapping(&h.Annotations, "annotation", nil)

	// Security and namespaces
	list((*[]string)(&h.CapAdd), "cap-add", "", nil)
	list((*[]string)(&h.CapDrop), "cap-drop", "", nil)
	fs.BoolVar(&h.Privileged, "privileged", false, "")
	list(&r.security, "security-opt", "", nil)
	fs.StringVar(&r.userns, "userns", "", "")
	fs.StringVar(&r.cgroupns, "cgroupns", "", "")
	fs.StringVar(&r.uts, "uts", "", "")
	fs.StringVar(&r.ipc, "ipc", "", "")
	fs.StringVar(&h.CgroupParent, "cgroup-parent", "", "")
	mapping(&h.Sysctls, "sysctl", opts.ValidateSysctl)

	// Network
	fs.Var(&r.networks, "network", "")
	fs.Var(&r.networks, "net", "")
	list(&r.aliases, "network-alias", "", nil)
	list(&r.aliases, "net-alias", "", nil)
	list(&r.links, "link", "", opts.ValidateLink)
	list(&r.linkLocal, "link-local-ip", "", nil)
	fs.StringVar(&r.ip4, "ip", "", "")
	fs.StringVar(&r.ip6, "ip6", "", "")
	fs.StringVar(&r.mac, "mac-address", "", "")
	list(&h.ExtraHosts, "add-host", "", opts.ValidateExtraHost)
	list(&h.DNS, "dns", "", opts.ValidateIPAddress)
	list(&h.DNSOptions, "dns-opt", "", nil)
	list(&h.DNSOptions, "dns-option", "", nil)
	list(&h.DNSSearch, "dns-search", "", opts.ValidateDNSSearch)
	list(&r.publish, "publish", "p", nil)
	fs.BoolVarP(&h.PublishAllPorts, "publish-all", "P", false, "")
	list(&r.expose, "expose", "", nil)

	// Files
	list(&r.volumes, "volume", "v", nil)
	fs.Var(absolute{&r.mounts}, "mount", "")
	list(&r.tmpfs, "tmpfs", "", nil)
	list(&h.VolumesFrom, "volumes-from", "", nil)
	fs.StringVar(&h.VolumeDriver, "volume-driver", "", "")
	fs.BoolVar(&h.ReadonlyRootfs, "read-only", false, "")
	list(&r.storage, "storage-opt", "", nil)
	fs.Var(&r.shm, "shm-size", "")

	// Devices
	list(&r.devices, "device", "", nil)
	list(&h.DeviceCgroupRules, "device-cgroup-rule", "", checkDeviceRule)
	fs.Var(&r.gpus, "gpus", "")

	// Limits
	fs.VarP(&r.memory, "memory", "m", "")
	fs.Var(&r.memoryReservation, "memory-reservation", "")
	fs.Var(&r.memorySwap, "memory-swap", "")
	fs.Var(&r.kernelMemory, "kernel-memory", "")
	fs.Int64Var(&r.swappiness, "memory-swappiness", -1, "")
	fs.BoolVar(&r.oomKillDisable, "oom-kill-disable", false, "")
	fs.IntVar(&h.OomScoreAdj, "oom-score-adj", 0, "")
	fs.Int64Var(&r.pids, "pids-limit", 0, "")
	r.ulimits = opts.NewUlimitOpt(nil)
	fs.Var(r.ulimits, "ulimit", "")
	fs.Var(&r.cpus, "cpus", "")
	fs.Int64VarP(&h.CPUShares, "cpu-shares", "c", 0, "")
	fs.Int64Var(&h.CPUPeriod, "cpu-period", 0, "")
	fs.Int64Var(&h.CPUQuota, "cpu-quota", 0, "")
	fs.Int64Var(&h.CPURealtimePeriod, "cpu-rt-period", 0, "")
	fs.Int64Var(&h.CPURealtimeRuntime, "cpu-rt-runtime", 0, "")
	fs.StringVar(&h.CpusetCpus, "cpuset-cpus", "", "")
	fs.StringVar(&h.CpusetMems, "cpuset-mems", "", "")
	fs.Uint16Var(&h.BlkioWeight, "blkio-weight", 0, "")
	r.blkioWeightDevice = opts.NewWeightdeviceOpt(opts.ValidateWeightDevice)
	fs.Var(&r.blkioWeightDevice, "blkio-weight-device", "")
	for name, to := range map[string]*opts.ThrottledeviceOpt{"device-read-bps": &r.readBps, "device-write-bps": &r.writeBps} {
		*to = opts.NewThrottledeviceOpt(opts.ValidateThrottleBpsDevice)
		fs.Var(to, name, "")
	}
	for name, to := range map[string]*opts.ThrottledeviceOpt{"device-read-iops": &r.readIOps, "device-write-iops": &r.writeIOps} {
		*to = opts.NewThrottledeviceOpt(opts.ValidateThrottleIOpsDevice)
		fs.Var(to, name, "")
	}

	// Those that a sandbox cannot have are declared too, so that the parser
	// knows which of them take a value.
	shorthand := map[string]string{"attach": "a", "detach": "d", "interactive": "i", "tty": "t", "quiet": "q"}
	for name := range refused {
		if slices.Contains(refusedSwitches, name) {
			fs.BoolP(name, shorthand[name], false, "")
		} else {
			fs.StringP(name, shorthand[name], "", "")
		}
	}
	return fs
}

// finish fills in what depends on several flags or needs a second look.
func (f *runFlags) finish(r *rawFlags) (problems []string) {
	c, h := &f.config, &f.host
	bad := func(flag string, err error) {
		if err != nil {
			problems = append(problems, fmt.Sprintf("--%s: %v", flag, err))
		}
	}

	c.Env = r.env
	c.Labels = opts.ConvertKVStringsToMap(r.labels)
	if f.given["stop-timeout"] {
		c.StopTimeout = &r.stopTimeout
	}

	h.Memory, h.MemorySwap, h.MemoryReservation = r.memory.Value(), r.memorySwap.Value(), r.memoryReservation.Value()
	h.KernelMemory, h.ShmSize, h.NanoCPUs = r.kernelMemory.Value(), r.shm.Value(), r.cpus.Value()
	h.PidsLimit, h.OomKillDisable, h.MemorySwappiness = &r.pids, &r.oomKillDisable, &r.swappiness
	if r.swappiness < -1 || r.swappiness > 100 {
		bad("memory-swappiness", fmt.Errorf("%d is out of range; write 0 to 100", r.swappiness))
	}
	h.Ulimits = r.ulimits.GetList()
	h.BlkioWeightDevice = r.blkioWeightDevice.GetList()
	h.BlkioDeviceReadBps, h.BlkioDeviceWriteBps = throttles(r.readBps), throttles(r.writeBps)
	h.BlkioDeviceReadIOps, h.BlkioDeviceWriteIOps = throttles(r.readIOps), throttles(r.writeIOps)

	if h.UTSMode = container.UTSMode(r.uts); !h.UTSMode.Valid() {
		bad("uts", fmt.Errorf("%q is no UTS namespace; leave it out", r.uts))
	}
	if h.UsernsMode = container.UsernsMode(r.userns); !h.UsernsMode.Valid() {
		bad("userns", fmt.Errorf("%q is no user namespace; leave it out", r.userns))
	}
	if h.CgroupnsMode = container.CgroupnsMode(r.cgroupns); !h.CgroupnsMode.Valid() {
		bad("cgroupns", fmt.Errorf("%q is no cgroup namespace; write private", r.cgroupns))
	}
	h.IpcMode = container.IpcMode(r.ipc)

	for _, spec := range r.volumes {
		v, err := parseVolume(spec)
		switch {
		case err != nil:
			bad("volume", err)
		case v.source == "":
			if c.Volumes == nil {
				c.Volumes = map[string]struct{}{}
			}
			c.Volumes[spec] = struct{}{}
		default:
			if !slices.Contains(h.Binds, spec) {
				h.Binds = append(h.Binds, spec)
			}
		}
	}
	h.Mounts = r.mounts.Value()
	for _, m := range h.Mounts {
		bad("mount", checkTarget(m.Target))
		switch m.Type {
		case mount.TypeVolume, mount.TypeTmpfs, mount.TypeImage, mount.TypeBind:
		default:
			bad("mount", fmt.Errorf("unknown type %q; write volume, tmpfs, image or bind", m.Type))
		}
	}
	for _, t := range r.tmpfs {
		dir, options, _ := strings.Cut(t, ":")
		bad("tmpfs", checkTarget(dir))
		if h.Tmpfs == nil {
			h.Tmpfs = map[string]string{}
		}
		h.Tmpfs[dir] = options
	}
	for _, o := range r.storage {
		k, v, ok := strings.Cut(o, "=")
		if !ok {
			bad("storage-opt", fmt.Errorf("%q is not key=value; write size=10g", o))
		}
		if h.StorageOpt == nil {
			h.StorageOpt = map[string]string{}
		}
		h.StorageOpt[k] = v
	}

	for _, d := range r.devices {
		if cdiName.MatchString(d) {
			h.DeviceRequests = appendCDI(h.DeviceRequests, d)
			continue
		}
		m, err := parseDevice(d)
		if err != nil {
			bad("device", err)
			continue
		}
		h.Devices = append(h.Devices, m)
	}
	h.DeviceRequests = append(r.gpus.Value(), h.DeviceRequests...)

	var err error
	if c.ExposedPorts, h.PortBindings, err = parsePorts(r.publish); err != nil {
		bad("publish", err)
	} else {
		for _, e := range r.expose {
			bad("expose", addExposed(c.ExposedPorts, e))
		}
	}

	for _, o := range r.security {
		bad("security-opt", f.finishSecurity(o))
	}
	bad("network", f.finishNetworks(r))
	return problems
}

// throttles returns an own copy, as the getter has a pointer receiver only.
func throttles(o opts.ThrottledeviceOpt) []*blkiodev.ThrottleDevice { return o.GetList() }

// finishSecurity splits off what the CLI does itself: systempaths=unconfined
// becomes two empty lists, and a seccomp profile is sent as its text.
func (f *runFlags) finishSecurity(o string) error {
	k, v, ok := strings.Cut(o, "=")
	if !ok && k != "no-new-privileges" {
		k, v, ok = strings.Cut(o, ":")
	}
	switch {
	case k == "no-new-privileges":
	case !ok || v == "":
		return fmt.Errorf("%q has no value", o)
	case o == "systempaths=unconfined":
		f.host.MaskedPaths, f.host.ReadonlyPaths = []string{}, []string{}
		return nil
	case k == "seccomp" && v != "builtin" && v != "unconfined":
		if f.seccomp != "" {
			return errors.New("two seccomp profiles; give one")
		}
		if _, err := checkFile(v); err != nil {
			return err
		}
		f.seccomp = v
		return nil
	}
	f.host.SecurityOpt = append(f.host.SecurityOpt, o)
	return nil
}

// finishNetworks makes the endpoints. The flags of a single network (--ip and
// the like) go to the first one.
func (f *runFlags) finishNetworks(r *rawFlags) error {
	//lint:ignore SA1019 engines before API 1.44 read it
	f.config.MacAddress = r.mac
	f.host.Links = r.links
	f.host.NetworkMode = container.NetworkMode(r.networks.NetworkMode())
	f.networks = map[string]*network.EndpointSettings{}

	nets := r.networks.Value()
	if len(nets) == 0 {
		nets = []opts.NetworkAttachmentOpts{{Target: "default"}}
	}
	user, other := false, false
	for i, n := range nets {
		mode := container.NetworkMode(n.Target)
		if strings.TrimSpace(n.Target) == "" {
			return errors.New("no name; write the name of a network")
		}
		if len(r.networks.Value()) > 0 {
			user, other = user || mode.IsUserDefined(), other || !mode.IsUserDefined()
		}
		if i == 0 {
			for _, c := range []struct {
				flag       string
				both, here bool
			}{
				{"network-alias", len(n.Aliases) > 0, len(r.aliases) > 0},
				{"link", len(n.Links) > 0, len(r.links) > 0},
				{"ip", n.IPv4Address != "", r.ip4 != ""},
				{"ip6", n.IPv6Address != "", r.ip6 != ""},
				{"mac-address", n.MacAddress != "", r.mac != ""},
				{"link-local-ip", len(n.LinkLocalIPs) > 0, len(r.linkLocal) > 0},
			} {
				if c.both && c.here {
					return fmt.Errorf("says the same as --%s; give one of them", c.flag)
				}
			}
			n.Aliases = append(n.Aliases, r.aliases...)
			if mode.IsUserDefined() {
				n.Links = append(n.Links, r.links...)
			}
			n.IPv4Address += r.ip4
			n.IPv6Address += r.ip6
			n.MacAddress += r.mac
			n.LinkLocalIPs = append(n.LinkLocalIPs, r.linkLocal...)
		}
		if !mode.IsUserDefined() && len(n.Aliases)+len(n.Links) > 0 {
			return fmt.Errorf("%s has no aliases and links; name a network of your own", n.Target)
		}
		ep := &network.EndpointSettings{
			Aliases:    n.Aliases,
			Links:      n.Links,
			DriverOpts: n.DriverOpts,
			MacAddress: n.MacAddress,
			GwPriority: n.GwPriority,
		}
		if len(ep.Aliases) == 0 {
			ep.Aliases = nil
		}
		if n.MacAddress != "" {
			if _, err := net.ParseMAC(strings.TrimSpace(n.MacAddress)); err != nil {
				return fmt.Errorf("%q is not a MAC address; write 92:d0:c6:0a:29:33", n.MacAddress)
			}
		}
		if n.IPv4Address != "" || n.IPv6Address != "" || len(n.LinkLocalIPs) > 0 {
			ep.IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: n.IPv4Address, IPv6Address: n.IPv6Address, LinkLocalIPs: n.LinkLocalIPs}
		}
		if _, twice := f.networks[n.Target]; twice {
			return fmt.Errorf("%s is there twice; give it once", n.Target)
		}
		if len(r.networks.Value()) == 1 && reflect.DeepEqual(*ep, network.EndpointSettings{}) {
			continue // the engine makes it
		}
		f.networks[n.Target] = ep
	}
	if user && other {
		return errors.New("a network of your own and a built-in one cannot go together; give one kind")
	}
	if ep := f.networks[f.host.NetworkMode.NetworkName()]; ep != nil {
		//lint:ignore SA1019 engines before API 1.44 read it
		f.config.MacAddress = ep.MacAddress
	}
	return nil
}

// resolve returns a copy with the files read in.
func (f *runFlags) resolve() (*runFlags, error) {
	c := *f
	c.config.Env = nil
	for _, name := range f.envFiles {
		vars, err := kvfile.Parse(name, nil)
		if err != nil {
			return nil, fmt.Errorf("read --env-file: %w", err)
		}
		c.config.Env = append(c.config.Env, vars...)
	}
	c.config.Env = append(c.config.Env, f.config.Env...)

	var labels []string
	for _, name := range f.labelFiles {
		l, err := kvfile.Parse(name, nil)
		if err != nil {
			return nil, fmt.Errorf("read --label-file: %w", err)
		}
		labels = append(labels, l...)
	}
	c.config.Labels = opts.ConvertKVStringsToMap(labels)
	maps.Copy(c.config.Labels, f.config.Labels)

	if f.seccomp != "" {
		text, err := os.ReadFile(f.seccomp)
		if err != nil {
			return nil, fmt.Errorf("read the seccomp profile of --security-opt: %w", err)
		}
		var profile bytes.Buffer
		if err := json.Compact(&profile, text); err != nil {
			return nil, fmt.Errorf("the seccomp profile %s is not JSON: %w", f.seccomp, err)
		}
		c.host.SecurityOpt = append(slices.Clone(f.host.SecurityOpt), "seccomp="+profile.String())
	}
	return &c, nil
}

// A volumeSpec is what docker run -v takes: [source:]target[:options].
type volumeSpec struct{ source, target, options string }

// bind tells whether the source is a path of the host.
func (v volumeSpec) bind() bool { return strings.HasPrefix(v.source, "/") }

func parseVolume(spec string) (v volumeSpec, err error) {
	part := strings.Split(spec, ":")
	switch {
	case slices.Contains(part, ""):
		return v, fmt.Errorf("%q has an empty part", spec)
	case len(part) > 3:
		return v, fmt.Errorf("%q has too many colons", spec)
	case len(part) == 1:
		v.target = part[0]
	case len(part) == 2:
		v.source, v.target = part[0], part[1]
	default:
		v.source, v.target, v.options = part[0], part[1], part[2]
	}
	if v.source != "" && !v.bind() && !volumeName.MatchString(v.source) {
		return v, fmt.Errorf("%q is neither the name of a volume, of at least two letters, nor an absolute path", v.source)
	}
	return v, checkTarget(v.target)
}

// volumeName is what engines allow (docker, volume/names).
var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// checkTarget reports why nothing may be mounted at dir.
func checkTarget(dir string) error {
	if !path.IsAbs(dir) {
		return fmt.Errorf("%q is not an absolute path", dir)
	}
	for _, ours := range []string{agentDir, "/proc"} {
		if c := path.Clean(dir); c == "/" || c == ours || strings.HasPrefix(c, ours+"/") {
			return fmt.Errorf("nothing can be mounted at %s", dir)
		}
	}
	return nil
}

// checkEnv refuses a bare NAME: the CLI takes its value from whoever starts
// it, which here would be the daemon.
func checkEnv(s string) (string, error) {
	name, _, ok := strings.Cut(s, "=")
	if name == "" || !ok {
		return "", errors.New("no value; write NAME=value, or use the key env")
	}
	return s, nil
}

// checkFile refuses a relative path: it would be looked for wherever the
// daemon was started.
func checkFile(s string) (string, error) {
	if !filepath.IsAbs(s) {
		return "", fmt.Errorf("%q is not an absolute path", s)
	}
	return s, nil
}

func checkLabel(s string) (string, error) {
	if strings.HasPrefix(strings.TrimSpace(s), "kilntainers") {
		return "", errors.New("labels that begin with kilntainers are the daemon's; take another name")
	}
	return opts.ValidateLabel(s)
}

// absolute refuses a relative source, which MountOpt would make absolute from
// wherever the daemon was started.
type absolute struct{ *opts.MountOpt }

func (m absolute) Set(s string) error {
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return err
	}
	for _, f := range fields {
		k, v, _ := strings.Cut(f, "=")
		if k = strings.ToLower(k); (k == "source" || k == "src") && strings.HasPrefix(v, ".") {
			return fmt.Errorf("the source %q is not an absolute path", v)
		}
	}
	return m.MountOpt.Set(s)
}

var (
	deviceRule = regexp.MustCompile(`^[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}$`)
	deviceMode = regexp.MustCompile(`^(r|w|m|rw|rm|wr|wm|mr|mw|rwm|rmw|wrm|wmr|mrw|mwr)$`)
	// cdiName is vendor/class=name of the Container Device Interface.
	cdiName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*/[A-Za-z][A-Za-z0-9_.-]*=[A-Za-z0-9][A-Za-z0-9_.:-]*$`)
)

func checkDeviceRule(s string) (string, error) {
	if !deviceRule.MatchString(s) {
		return "", errors.New("not a rule; write it as \"c 1:3 rwm\"")
	}
	return s, nil
}

// appendCDI adds a device to the request for CDI devices.
func appendCDI(r []container.DeviceRequest, name string) []container.DeviceRequest {
	if len(r) == 0 {
		r = []container.DeviceRequest{{Driver: "cdi"}}
	}
	r[0].DeviceIDs = append(r[0].DeviceIDs, name)
	return r
}

// parseDevice reads host[:container][:mode].
func parseDevice(s string) (m container.DeviceMapping, err error) {
	part := strings.Split(s, ":")
	m = container.DeviceMapping{PathOnHost: part[0], PathInContainer: part[0], CgroupPermissions: "rwm"}
	switch {
	case len(part) == 1:
		m.PathOnHost = path.Clean(part[0])
		m.PathInContainer = m.PathOnHost
	case len(part) == 2 && deviceMode.MatchString(part[1]):
		m.PathOnHost = path.Clean(part[0])
		m.PathInContainer, m.CgroupPermissions = m.PathOnHost, part[1]
	case len(part) == 2:
		m.PathInContainer = path.Clean(part[1])
	case len(part) == 3 && deviceMode.MatchString(part[2]):
		m.PathInContainer, m.CgroupPermissions = part[1], part[2]
	default:
		return m, fmt.Errorf("%q is not host[:container][:rwm]", s)
	}
	if part[0] == "" || !path.IsAbs(m.PathInContainer) {
		return m, fmt.Errorf("%q has no absolute path", s)
	}
	return m, nil
}

// parsePorts reads --publish, in the short form 127.0.0.1:8080:80/tcp and the
// long one published=8080,target=80,protocol=tcp.
func parsePorts(specs []string) (nat.PortSet, map[nat.Port][]nat.PortBinding, error) {
	short := make([]string, len(specs))
	for i, s := range specs {
		short[i] = s
		if !strings.Contains(s, "=") {
			continue
		}
		p := map[string]string{"protocol": "tcp"}
		for _, f := range strings.Split(s, ",") {
			k, v, ok := strings.Cut(f, "=")
			if !ok || k == "" {
				return nil, nil, fmt.Errorf("%q is not name=value", f)
			}
			p[k] = v
		}
		short[i] = p["published"] + ":" + p["target"] + "/" + p["protocol"]
	}
	return nat.ParsePortSpecs(short)
}

// addExposed adds the ports of --expose: 80, 80/udp, 8000-8010.
func addExposed(set nat.PortSet, spec string) error {
	if strings.Contains(spec, ":") {
		return fmt.Errorf("%q has a colon; write a port or a range, such as 80 or 8000-8010/udp", spec)
	}
	proto, ports := nat.SplitProtoPort(spec)
	first, last, err := nat.ParsePortRange(ports)
	if err != nil {
		return fmt.Errorf("%q: %w", spec, err)
	}
	for n := first; n <= last; n++ {
		p, err := nat.NewPort(proto, strconv.FormatUint(n, 10))
		if err != nil {
			return fmt.Errorf("%q: %w", spec, err)
		}
		set[p] = struct{}{}
	}
	return nil
}
