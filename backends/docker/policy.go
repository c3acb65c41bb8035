package docker

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/docker/cli/opts"
	"github.com/docker/docker/api/types/mount"
)

// refused are the flags of docker run that a sandbox cannot have, with the
// reason and what to do instead.
var refused = map[string]string{
	"detach":              "a sandbox is always detached; leave it out",
	"attach":              "the daemon holds the streams of a sandbox; leave it out",
	"interactive":         "the daemon holds the streams of a sandbox; leave it out",
	"tty":                 "the daemon holds the streams of a sandbox; leave it out",
	"detach-keys":         "the daemon holds the streams of a sandbox; leave it out",
	"sig-proxy":           "the daemon holds the streams of a sandbox; leave it out",
	"log-driver":          "output goes to the client and is never logged by the engine; leave it out",
	"log-opt":             "output goes to the client and is never logged by the engine; leave it out",
	"rm":                  "a sandbox is always removed when it ends; leave it out",
	"restart":             "a sandbox that ended is gone; leave it out",
	"name":                "the daemon names sandboxes; leave it out",
	"cidfile":             "the daemon keeps track of sandboxes; leave it out",
	"entrypoint":          "the daemon's agent is the first process of a sandbox; leave it out",
	"init":                "the daemon's agent is the first process of a sandbox; leave it out",
	"pid":                 "the daemon's agent must be the first process of a sandbox; leave it out",
	"health-cmd":          "sandboxes have no health checks; leave it out",
	"health-interval":     "sandboxes have no health checks; leave it out",
	"health-retries":      "sandboxes have no health checks; leave it out",
	"health-timeout":      "sandboxes have no health checks; leave it out",
	"health-start-period": "sandboxes have no health checks; leave it out",

	"health-start-interval": "sandboxes have no health checks; leave it out",
	"pull":                  "there is a key for it; write pull = \"missing\", \"always\" or \"never\"",
	"quiet":                 "how far a pull is goes to the client; leave it out",
	"platform":              "a sandbox has the engine's platform; leave it out",
	"disable-content-trust": "the engine checks images as it is set up to; leave it out",
	"use-api-socket":        "it hands the engine, and so the host, to the sandbox; leave it out",
	"help":                  "it shows a help text; leave it out",
	"isolation":             "it is for Windows containers; leave it out",
	"cpu-count":             "it is for Windows containers; leave it out",
	"cpu-percent":           "it is for Windows containers; leave it out",
	"io-maxbandwidth":       "it is for Windows containers; leave it out",
	"io-maxiops":            "it is for Windows containers; leave it out",
}

// refusedSwitches are those that take no value.
var refusedSwitches = []string{"detach", "interactive", "tty", "sig-proxy", "rm", "init", "quiet",
	"disable-content-trust", "use-api-socket", "help"}

// networkFlags mean nothing without a network.
var networkFlags = []string{"network-alias", "net-alias", "link", "link-local-ip", "ip", "ip6", "mac-address",
	"publish", "publish-all"}

// defaultCaps are the capabilities that Docker gives to a container
// (moby, oci/caps/defaults.go). A sandbox has none; these can be added.
var defaultCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
	"CAP_AUDIT_WRITE"}

// weaknesses tells what of these flags weakens the isolation, and how. It
// looks at what the engine would be sent, not at the flags, so that no other
// way to write the same slips through.
func (f *runFlags) weaknesses() (list []string) {
	h := &f.host
	weak := func(format string, a ...any) { list = append(list, fmt.Sprintf(format, a...)) }

	if h.Privileged {
		weak("--privileged gives the sandbox all capabilities and devices of the host")
	}
	for _, c := range h.CapAdd {
		if !slices.Contains(defaultCaps, opts.NormalizeCapability(c)) {
			weak("--cap-add=%s is a capability that Docker withholds from containers", c)
		}
	}
	for _, o := range h.SecurityOpt {
		if !harmless(o) {
			weak("--security-opt=%s lifts a protection", o)
		}
	}
	if f.seccomp != "" {
		weak("--security-opt=seccomp=%s replaces a protection", f.seccomp)
	}
	if h.MaskedPaths != nil {
		weak("--security-opt=systempaths=unconfined lifts a protection")
	}

	for _, b := range h.Binds {
		if v, _ := parseVolume(b); v.bind() {
			weak("--volume=%s gives the sandbox a path of the host", b)
		}
	}
	for _, m := range h.Mounts {
		if m.Type == mount.TypeBind {
			weak("--mount of %s gives the sandbox a path of the host", m.Source)
		}
		// The local driver makes a bind mount of the options o=bind,device=/.
		if o := m.VolumeOptions; o != nil && o.DriverConfig != nil && len(o.DriverConfig.Options) > 0 {
			weak("--mount with volume-opt can give the sandbox a path of the host")
		}
	}
	for _, from := range h.VolumesFrom {
		weak("--volumes-from=%s gives the sandbox what another container has", from)
	}
	for _, d := range h.Devices {
		weak("--device=%s gives the sandbox a device of the host", d.PathOnHost)
	}
	for _, d := range h.DeviceRequests {
		if d.Driver == "cdi" {
			weak("--device=%s gives the sandbox a device of the host", strings.Join(d.DeviceIDs, ","))
		}
	}
	for _, r := range h.DeviceCgroupRules {
		weak("--device-cgroup-rule=%s gives the sandbox devices of the host", r)
	}
	for k := range h.Annotations {
		weak("--annotation=%s gives orders to the runtime", k)
	}

	// "container:x", "ns:/path", "slirp4netns:allow_host_loopback=true"
	networks := append(slices.Sorted(maps.Keys(f.networks)), string(h.NetworkMode))
	for _, n := range slices.Compact(networks) {
		if n == "host" || strings.Contains(n, ":") {
			weak("--network=%s is not a network of the sandbox's own", n)
		}
	}
	if h.UTSMode.IsHost() || h.UsernsMode.IsHost() || h.CgroupnsMode.IsHost() {
		weak("--uts, --userns and --cgroupns=host give the sandbox a namespace of the host")
	}
	if i := h.IpcMode; !i.IsEmpty() && !i.IsNone() && !i.IsPrivate() && !i.IsShareable() {
		weak("--ipc=%s is not a namespace of the sandbox's own", i)
	}

	if f.given["memory"] && h.Memory <= 0 {
		weak("--memory=0 lets one sandbox use up the host's memory")
	}
	if h.MemorySwap < 0 {
		weak("--memory-swap=-1 lets one sandbox use up the host's swap")
	}
	if f.given["pids-limit"] && *h.PidsLimit <= 0 {
		weak("--pids-limit=%d lets a fork bomb in the sandbox stop the host", *h.PidsLimit)
	}
	if *h.OomKillDisable {
		weak("--oom-kill-disable lets a sandbox that is out of memory hang")
	}
	if h.OomScoreAdj < 0 {
		weak("--oom-score-adj=%d makes the kernel end programs of the host first", h.OomScoreAdj)
	}
	return list
}

// harmless tells whether a --security-opt takes nothing away.
func harmless(o string) bool {
	switch k, v, _ := strings.Cut(strings.Replace(o, ":", "=", 1), "="); k {
	case "no-new-privileges":
		return v == "" || v == "true"
	case "seccomp":
		return v == "builtin"
	case "apparmor":
		return v != "unconfined"
	case "label": // of SELinux: disable and type:spc_t confine nothing
		return strings.HasPrefix(v, "level")
	}
	return false
}
