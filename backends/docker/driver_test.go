package docker

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/BurntSushi/toml"
	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/system"

	"github.com/kilntainers/kilntainers/backends"
)

// TestOptions: what a profile may write, and what it decodes to.
func TestOptions(t *testing.T) {
	o := defaults()
	if err := o.Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	_, err := toml.Decode(`
		engine = "podman"
		docker_host = ["unix:///a/b.sock", "tcp://h:2376", "ssh://me@h:22/run/x.sock"]
		image = "ghcr.io/a/b@sha256:0123456789012345678901234567890123456789012345678901234567890123"
		pull = "always"
		runtime = "runsc"
		cpu = 0.5
		memory = "512m"
		pids_limit = 64
		user = "1000:1000"
		read_only = true
		tmpfs = ["/tmp:64m", "/run"]
		mounts = ["data:/data", "cache:/cache:ro"]
		disk = "10g"
		docker_run_flags = ["--shm-size=64m", "-e", "A=b"]
		allow_unsafe = true
	`, o)
	if err != nil {
		t.Fatal(err)
	}
	want := &Options{
		Engine:         "podman",
		DockerHost:     Hosts{"unix:///a/b.sock", "tcp://h:2376", "ssh://me@h:22/run/x.sock"},
		Image:          "ghcr.io/a/b@sha256:0123456789012345678901234567890123456789012345678901234567890123",
		Pull:           "always",
		Runtime:        "runsc",
		CPU:            5e8,
		Memory:         512 << 20,
		PidsLimit:      64,
		User:           "1000:1000",
		ReadOnly:       true,
		Tmpfs:          []string{"/tmp:64m", "/run"},
		Mounts:         []string{"data:/data", "cache:/cache:ro"},
		Disk:           10 << 30,
		DockerRunFlags: []string{"--shm-size=64m", "-e", "A=b"},
		AllowUnsafe:    true,
	}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got %+v, want %+v", o, want)
	}
	if err := o.Validate(); err != nil {
		t.Error(err)
	}
}

// TestDecode: one key in its several forms.
func TestDecode(t *testing.T) {
	for _, c := range []struct {
		text string
		want any // what the key is, or the words of the error
	}{
		{`cpu = 2`, CPUs(2e9)},
		{`cpu = "1.5"`, CPUs(15e8)},
		{`cpu = 0`, CPUs(0)},
		{`cpu = 0.01`, CPUs(1e7)},
		{`cpu = "0.001"`, "too few; write at least"},
		{`cpu = -1`, "want a number of CPUs"},
		{`cpu = "1/2"`, "want a number of CPUs"},
		{`cpu = "0x1"`, "want a number of CPUs"},
		{`cpu = ""`, "want a number of CPUs"},
		{`cpu = "."`, "want a number of CPUs"},
		{`cpu = true`, "want a number of CPUs"},
		{`cpu = "99999999999999"`, "cannot be had"},
		{`cpu = "0.1234567891"`, "at most nine decimals"},
		{`docker_host = ""`, Hosts(nil)},
		{`docker_host = "unix:///x"`, Hosts{"unix:///x"}},
		{`docker_host = []`, Hosts(nil)},
		{`docker_host = 1`, "want the address of an engine"},
		{`docker_host = ["unix:///x", 1]`, "want the address of an engine"},
	} {
		o := defaults()
		_, err := toml.Decode(c.text, o)
		key, _, _ := strings.Cut(c.text, " ")
		got := map[string]any{"cpu": o.CPU, "docker_host": o.DockerHost}[key]
		if words, bad := c.want.(string); bad {
			if err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("%s: got %v, want %q", c.text, err, words)
			}
		} else if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %v, %v, want %v", c.text, got, err, c.want)
		}
	}
	for c, want := range map[CPUs]string{1e9: "1", 5e8: "0.5", 15e8: "1.5", 0: "0"} {
		if got := c.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestValidate: each problem stands under its key and says what would be right.
func TestValidate(t *testing.T) {
	for _, c := range []struct {
		edit func(*Options)
		key  string
		want string
	}{
		{func(o *Options) { o.Engine = "dokcer" }, "engine", `unknown engine "dokcer"; write "docker" or "podman"`},
		{func(o *Options) { o.DockerHost = Hosts{"/var/run/docker.sock"} }, "docker_host", "is not an address of an engine; write unix:///path"},
		{func(o *Options) { o.DockerHost = Hosts{"unix://var/run/docker.sock"} }, "docker_host", "has no absolute path; write unix:///var/run/docker.sock"},
		{func(o *Options) { o.DockerHost = Hosts{"tcp://h"} }, "docker_host", "is not a host and a port; write tcp://host:2376"},
		{func(o *Options) { o.DockerHost = Hosts{"tcp://h:1/x"} }, "docker_host", "is not a host and a port"},
		{func(o *Options) { o.DockerHost = Hosts{"ssh://"} }, "docker_host", "names no host; write ssh://user@host"},
		{func(o *Options) { o.DockerHost = Hosts{"ssh://me:secret@h"} }, "docker_host", "an ssh address holds no password"},
		{func(o *Options) { o.DockerHost = Hosts{"ssh://-oProxyCommand=x"} }, "docker_host", "names no"},
		{func(o *Options) { o.DockerHost = Hosts{"ssh://-x@h"} }, "docker_host", "names no user"},
		{func(o *Options) { o.DockerHost = Hosts{"ssh://h?x=1"} }, "docker_host", "has more than an address"},
		{func(o *Options) { o.DockerHost = Hosts{"npipe://x"} }, "docker_host", "is not an address of an engine"},
		{func(o *Options) { o.DockerHost = Hosts{"unix:///a", ""} }, "docker_host", "is not an address of an engine"},
		{func(o *Options) { o.Image = "" }, "image", "is not the name of an image"},
		{func(o *Options) { o.Image = "Python:3" }, "image", "is not the name of an image"},
		{func(o *Options) { o.Pull = "allways" }, "pull", `unknown policy "allways"; write "missing", "always" or "never"`},
		{func(o *Options) { o.Memory = 0 }, "memory", "set allow_unsafe = true"},
		{func(o *Options) { o.Memory = 1 << 20 }, "memory", `1m is too little to start anything; write at least "6m"`},
		{func(o *Options) { o.PidsLimit = -1 }, "pids_limit", "is negative; write"},
		{func(o *Options) { o.PidsLimit = 0 }, "pids_limit", "set allow_unsafe = true"},
		{func(o *Options) { o.PidsLimit = 2 }, "pids_limit", "too few to run a pipeline; write at least 16"},
		{func(o *Options) { o.Tmpfs = []string{"tmp"} }, "tmpfs", `"tmp" is not an absolute path; write "/path" or "/path:size"`},
		{func(o *Options) { o.Tmpfs = []string{"/tmp:lots"} }, "tmpfs", `"lots" is not a size`},
		{func(o *Options) { o.Tmpfs = []string{"/tmp:"} }, "tmpfs", `"" is not a size`},
		{func(o *Options) { o.Tmpfs = []string{"/proc"} }, "tmpfs", "nothing can be mounted at /proc"},
		{func(o *Options) { o.Mounts = []string{"/srv:/srv:ro"} }, "mounts", `"/srv:/srv:ro" gives the sandbox a path of the host; leave it out, or set allow_unsafe = true`},
		{func(o *Options) { o.Mounts = []string{"./x:/x"} }, "mounts", "neither the name of a volume"},
		{func(o *Options) { o.Mounts = []string{"/x"} }, "mounts", "names no volume; write"},
		{func(o *Options) { o.Mounts = []string{"vol:/.kilntainers"} }, "mounts", "nothing can be mounted at"},
		{func(o *Options) { o.DockerRunFlags = []string{"--rm"} }, "docker_run_flags", "--rm: a sandbox is always removed when it ends; leave it out"},
		{func(o *Options) { o.DockerRunFlags = []string{"--privileged"} }, "docker_run_flags", "--privileged gives the sandbox all capabilities and devices of the host; leave it out, or set allow_unsafe = true"},
	} {
		o := defaults()
		c.edit(o)
		err := o.Validate()
		var oe *backends.OptionError
		if !errors.As(err, &oe) || oe.Key != c.key || !strings.Contains(oe.Problem, c.want) {
			t.Errorf("got %v, want %s: … %s …", err, c.key, c.want)
			continue
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error holds a secret: %v", err)
		}
		if strings.Contains(oe.Problem, "allow_unsafe") {
			o.AllowUnsafe = true
			if err := o.Validate(); err != nil {
				t.Errorf("with allow_unsafe: %v", err)
			}
		}
	}

	// All of them are told at once.
	o := &Options{Engine: "x", Image: "X", Pull: "x", DockerRunFlags: []string{"--rm", "--privileged"}}
	var keys []string
	for _, err := range o.Validate().(interface{ Unwrap() []error }).Unwrap() {
		keys = append(keys, err.(*backends.OptionError).Key)
	}
	if want := []string{"engine", "image", "pull", "docker_run_flags", "memory", "pids_limit", "docker_run_flags"}; !slices.Equal(keys, want) {
		t.Errorf("got problems with %q, want %q", keys, want)
	}
}

// TestOpen: what the driver's keys and the common ones only say together.
func TestOpen(t *testing.T) {
	for _, c := range []struct {
		network bool
		flags   string
		want    string
	}{
		{false, "--network=none", ""},
		{true, "--network=mine", ""},
		{true, "--network=none", "--network=none contradicts network = true; leave one of them out"},
		{false, "--network=bridge", "--network contradicts network = false; set network = true"},
		{false, "--net=bridge", "--network contradicts network = false; set network = true"},
		{false, "-p=80", "--publish needs a network; set network = true"},
	} {
		o := defaults()
		o.DockerRunFlags = []string{c.flags}
		b, err := Driver.Open(backends.Spec{Profile: "p", Network: c.network}, o, discard)
		if err == nil {
			b.Close()
		}
		if (err == nil) != (c.want == "") || err != nil && err.Error() != "docker_run_flags: "+c.want {
			t.Errorf("%v %s: got %v, want %q", c.network, c.flags, err, c.want)
		}
	}
}

// TestDescribe: what a model reads.
func TestDescribe(t *testing.T) {
	for _, c := range []struct {
		spec backends.Spec
		edit func(*Options)
		want string
	}{
		{backends.Spec{}, func(o *Options) { o.Image = "python:3.13-slim" },
			"An isolated Linux sandbox: a container of the image python:3.13-slim. Commands run in bash if the image has it, else in sh. No network access. " +
				"Limits: 1 CPU, 1g of memory, 512 processes. Files and background processes stay until the sandbox ends; " +
				"shell variables and the working directory do not carry over from one command to the next."},
		{backends.Spec{Shell: "/bin/zsh", Network: true}, func(o *Options) {
			o.CPU, o.ReadOnly, o.Disk = 15e8, true, 2<<30
			o.Mounts = []string{"data:/data", "fixed:/fixed:ro"}
			o.DockerRunFlags = []string{"--memory=2g", "--pids-limit=64"}
		},
			"An isolated Linux sandbox: a container of the image debian:bookworm-slim. Commands run in /bin/zsh. It has network access. " +
				"Limits: 1.5 CPUs, 2g of memory, 64 processes, 2g of disk. The file system is read-only, except for /data, /tmp. Files and background processes stay until the sandbox ends; " +
				"shell variables and the working directory do not carry over from one command to the next."},
	} {
		o := defaults()
		c.edit(o)
		if got := Driver.Describe(c.spec, o); got != c.want {
			t.Errorf("\n got %s\nwant %s", got, c.want)
		}
	}
}

// TestRequest: keys and flags together make one container.
func TestRequest(t *testing.T) {
	request := func(s backends.Spec, edit func(*Options)) request {
		o := defaults()
		edit(o)
		if err := o.Validate(); err != nil {
			t.Fatal(err)
		}
		return newRequest(s, o, "n")
	}
	r := request(backends.Spec{Dir: "/w", Env: map[string]string{"A": "b"}}, func(o *Options) {
		o.User, o.Mounts, o.Disk = "me", []string{"data:/data"}, 1<<30
		o.Tmpfs = []string{"/tmp", "/run:1m", "/data"}
		o.DockerRunFlags = []string{"--cpu-quota=50000", "--tmpfs=/run:size=5m", "--cap-add=setuid", "--ulimit=nofile=5", "--storage-opt=size=2g", "-l", "x=y"}
	})
	h := r.host
	for what, ok := range map[string]bool{
		"user":         r.config.User == "me",
		"directory":    r.config.WorkingDir == "/w",
		"env":          r.config.Env == nil,
		"label":        r.config.Labels["x"] == "y" && r.config.Labels["kilntainers.sandbox"] == "n",
		"memory":       h.Memory == 1<<30 && h.MemorySwap == 1<<30,
		"cpu":          h.NanoCPUs == 0 && h.CPUQuota == 50000 && cpuTime(h) == 5e8,
		"pids":         *h.PidsLimit == 512,
		"disk":         h.StorageOpt["size"] == "2g",
		"mount":        slices.Equal(h.Binds, []string{"data:/data"}),
		"tmpfs":        len(h.Tmpfs) == 2 && h.Tmpfs["/run"] == "size=5m" && h.Tmpfs["/tmp"] == "rw,exec,nosuid,nodev,mode=1777,size=536870912,nr_inodes=262144",
		"capabilities": slices.Equal(h.CapAdd, []string{"setuid", "CAP_KILL"}) && slices.Equal(h.CapDrop, []string{"ALL"}),
		"ulimits":      len(h.Ulimits) == 2 && h.Ulimits[0].Soft == 5 && h.Ulimits[1].Name == "core",
		"oom":          h.OomScoreAdj == 500,
		"network":      h.NetworkMode == "none" && r.networking == nil,
	} {
		if !ok {
			t.Errorf("wrong: %s in %s", what, asJSON(r))
		}
	}
	wantHardened(t, r)

	r = request(backends.Spec{Network: true}, func(o *Options) {
		o.User = "me"
		o.DockerRunFlags = []string{"--user=you", "--network=mine", "--ip=10.0.0.2"}
	})
	if r.config.User != "you" || r.host.NetworkMode != "mine" || r.networking.EndpointsConfig["mine"].IPAMConfig.IPv4Address != "10.0.0.2" {
		t.Errorf("got %s", asJSON(r))
	}

	// On Docker, /dev/shm takes few names, unless the profile mounts its own.
	for flag, want := range map[string]string{
		"":                  "rw,noexec,nosuid,nodev,mode=1777,size=67108864,nr_inodes=4096",
		"--shm-size=1m":     "rw,noexec,nosuid,nodev,mode=1777,size=1048576,nr_inodes=4096",
		"--memory=128m":     "rw,noexec,nosuid,nodev,mode=1777,size=16777216,nr_inodes=4096",
		"--tmpfs=/dev/shm":  "",
		"--tmpfs=/dev/shm/": "missing",
		"-v=data:/dev/shm/": "missing",
		"--ipc=none":        "missing",
	} {
		r := request(backends.Spec{}, func(o *Options) {
			if flag != "" {
				o.DockerRunFlags = []string{flag}
			}
		})
		r.forDocker()
		if got, ok := r.host.Tmpfs["/dev/shm"]; got != want && (ok || want != "missing") {
			t.Errorf("%s: got %q, want %q", flag, got, want)
		}
	}

	// On Podman, root may write to its root directory; nobody else gets more.
	for _, c := range []struct {
		user, image string
		root        bool
	}{{"", "", true}, {"", "root", true}, {"", "0:0", true}, {"", "1000", false}, {"1000", "root", false}, {"root", "1000", true}} {
		r := request(backends.Spec{}, func(o *Options) { o.User = c.user })
		f, _ := parseFlags(nil)
		r.forPodman(f, c.image)
		if got := slices.Contains(r.host.CapAdd, "CAP_DAC_OVERRIDE"); got != c.root || len(r.host.Ulimits) != 0 {
			t.Errorf("%+v: got %s", c, asJSON(r.host))
		}
	}
}

// TestCheckInfo: an engine that says it cannot do what the profile needs fails
// the check.
func TestCheckInfo(t *testing.T) {
	disk := func(driver, backing string) func(*system.Info, *Options) {
		return func(i *system.Info, o *Options) {
			i.Driver, o.Disk = driver, 1<<30
			if backing != "" {
				i.DriverStatus = [][2]string{{"Supports d_type", "true"}, {"Backing Filesystem", backing}}
			}
		}
	}
	good := system.Info{MemoryLimit: true, SwapLimit: true, CPUCfsQuota: true, PidsLimit: true, Runtimes: map[string]system.RuntimeWithStatus{"runc": {}}}
	for _, c := range []struct {
		edit func(*system.Info, *Options)
		want string
	}{
		{func(*system.Info, *Options) {}, ""},
		{func(i *system.Info, o *Options) { o.Runtime = "runsc" }, `has no runtime "runsc"; set it up there, or leave out runtime`},
		{func(i *system.Info, o *Options) { o.Runtime = "runc" }, ""},
		{func(i *system.Info, o *Options) { i.MemoryLimit, i.PidsLimit = false, false }, "cannot limit memory, pids_limit;"},
		{func(i *system.Info, o *Options) { i.SwapLimit = false }, "cannot limit swap;"},
		{func(i *system.Info, o *Options) { i.SwapLimit, o.AllowUnsafe = false, true }, ""},
		{func(i *system.Info, o *Options) { i.SecurityOptions = []string{"name=rootless"}; i.CgroupVersion = "1" }, "cannot limit memory, cpu, pids_limit; a rootless engine needs cgroup v2"},
		{func(i *system.Info, o *Options) { i.SecurityOptions = []string{"name=rootless"}; i.CgroupVersion = "2" }, ""},
		{disk("overlay2", "extfs"), "the engine at fake 0 cannot limit disk space with overlay2 on extfs ("},
		{disk("overlay", "extfs"), "cannot limit disk space with overlay on extfs ("},
		{disk("fuse-overlayfs", ""), "cannot limit disk space with fuse-overlayfs ("},
		{func(i *system.Info, o *Options) {
			disk("overlay2", "extfs")(i, o)
			o.Disk, o.DockerRunFlags = 0, []string{"--storage-opt=size=1g"}
		}, "cannot limit disk space with overlay2 on extfs ("},
		{func(i *system.Info, o *Options) { disk("overlay2", "extfs")(i, o); o.Disk = 0 }, ""},
		{disk("overlay2", "xfs"), ""}, // pquota or not, it does not tell
		{disk("overlay2", "<unknown>"), ""},
		{disk("overlay2", ""), ""},
		{disk("btrfs", ""), ""},
		{disk("zfs", ""), ""},
		{disk("devicemapper", "extfs"), ""},
		{disk("vfs", ""), ""},
		{disk("overlayfs", ""), ""}, // of containerd
	} {
		info := good
		b := fakeBackend(t, func(o *Options) { c.edit(&info, o) }, newFake())
		if err := b.checkInfo(b.engines[0], kind{arch: "amd64"}, info); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// TestCheckPodmanRuntime: Podman's API drops a runtime without a word.
func TestCheckPodmanRuntime(t *testing.T) {
	b := fakeBackend(t, func(o *Options) { o.Runtime = "runsc" }, newFake())
	err := b.checkInfo(b.engines[0], kind{podman: true}, system.Info{Runtimes: map[string]system.RuntimeWithStatus{"runsc": {}}})
	if err == nil || !strings.Contains(err.Error(), "start its service with --runtime runsc, and leave out runtime") {
		t.Errorf("got %v", err)
	}
}

// TestCreateErrors: refusals that a profile causes say which key it is.
func TestCreateErrors(t *testing.T) {
	b := fakeBackend(t, func(o *Options) { o.Runtime = "runsc" }, newFake())
	for says, want := range map[string]string{
		"--storage-opt is supported only for overlay over xfs with 'pquota' mount option": "leave out disk, or set read_only = true",
		"Unknown runtime specified runsc":                                                 `the engine has no runtime "runsc"; set it up there`,
		"something else":                                                                  "something else",
	} {
		if got := b.createError(errors.New(says)).Error(); !strings.Contains(got, want) || !strings.Contains(got, says) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestStream: blocks of stdout become a stream, stderr is set apart, and
// whatever else comes is an error.
func TestStream(t *testing.T) {
	in := slices.Concat(block(1, []byte("ab")), block(2, []byte("oops\n")), block(1, nil), block(1, []byte("cd")), block(0, []byte("?")))
	s := streamOf(in)
	got, err := io.ReadAll(s)
	if string(got) != "abcd" || err != nil || s.stderr.String() != "oops ?" {
		t.Errorf("got %q, %v, stderr %q", got, err, s.stderr.String())
	}
	for _, in := range [][]byte{[]byte("HTTP/1.1 400 "), {3, 0, 0, 0, 0, 0, 0, 0}, {1, 0, 0, 0, 0xff, 0, 0, 0}} {
		if _, err := io.ReadAll(streamOf(in)); err == nil {
			t.Errorf("%q passes for a stream", in)
		}
	}
	long := bytes.Repeat([]byte("x"), 3*maxTail)
	s = streamOf(block(2, long))
	io.ReadAll(s)
	if n := len(s.stderr.String()); n != maxTail {
		t.Errorf("kept %d bytes of stderr, want %d", n, maxTail)
	}
}

// TestStreamFind: the mark is found wherever reading begins and however it is
// cut into blocks, and the next block is read whole.
func TestStreamFind(t *testing.T) {
	const mark = "AB2CAB2DQRSTUVWXYZ234567AB"
	after := block(1, []byte("after"))
	check := func(name string, in []byte) {
		t.Helper()
		for how, r := range map[string]io.Reader{"at once": bytes.NewReader(in), "byte by byte": iotest.OneByteReader(bytes.NewReader(in))} {
			here, there := net.Pipe()
			there.Close()
			s := newStream(types.HijackedResponse{Conn: here, Reader: bufio.NewReader(r)}, nil)
			s.left = 7 // of whoever read before
			if err := s.find([]byte(mark)); err != nil {
				t.Errorf("%s, %s: %v", name, how, err)
				continue
			}
			if got, err := io.ReadAll(s); string(got) != "after" || err != nil {
				t.Errorf("%s, %s: behind the mark comes %q, %v", name, how, got, err)
			}
		}
	}
	// A length that is the mark's own letters, and one that is the streams' numbers.
	heads := [][]byte{{1, 0, 0, 0, 'A', 'B', '2', 'C'}, {1, 0, 0, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 1, 2, 1, 0}, {1, 0, 0, 0, 0, 0, 0, 'A'}}
	garbage := [][]byte{nil, []byte("A"), []byte("AB2C"), []byte("AB2CAB2C"), []byte("AB2CA"), []byte(mark[:25]), []byte(mark[:25] + "x"), {1}, {1, 0, 0, 0, 0}, {0, 0, 'A', 'B'},
		{1, 0, 0, 0, 'A', 'B'}, slices.Concat([]byte(mark[:3]), heads[0]), slices.Concat([]byte(mark[:9]), heads[0][:6]), bytes.Repeat([]byte("AB2"), 1000), bytes.Repeat([]byte{1, 0, 0, 0}, 9),
		[]byte("A\x01\x00\x00")}
	for _, g := range garbage {
		for cut := range len(mark) + 1 {
			for _, h := range heads {
				in := slices.Concat(g, []byte(mark[:cut]), h, []byte(mark[cut:]), after)
				if cut == len(mark) { // the header is the next block's
					in = slices.Concat(g, h, []byte(mark), after)
				}
				check(fmt.Sprintf("%.20q, cut at %d by %q", g, cut, h), in)
			}
		}
		var every []byte
		for i := range mark {
			every = slices.Concat(every, heads[i%len(heads)], heads[(i+1)%len(heads)], []byte(mark[i:i+1]))
		}
		check(fmt.Sprintf("%.20q, two headers everywhere", g), slices.Concat(g, every, after))
	}
	// Every place to begin in what an engine sends.
	all := slices.Concat(block(1, []byte("output AB2C")), block(2, []byte("AB2")), block(1, []byte(mark[:20])), block(1, []byte("AB2CAB2DQ")), block(1, []byte("2DAB2CAB")), block(1, []byte("2DQRSTUVWXYZ234567A")))
	for from := range len(all) {
		check(fmt.Sprint("from ", from), slices.Concat(all[from:], block(1, []byte(mark[:2])), block(1, []byte(mark[2:])), after))
	}
	// A mark that does not come.
	for _, in := range []string{"", mark[:25], mark[:5] + "\x01\x00\x00\x00\x00\x00\x00" + mark[5:], mark[:5] + "\x03\x00\x00\x00\x00\x00\x00\x00" + mark[5:], mark[:5] + "\x01\x00\x01\x00\x00\x00\x00\x00" + mark[5:]} {
		if err := streamOf([]byte(in)).find([]byte(mark)); err != io.EOF {
			t.Errorf("%q: got %v, want %v", in, err, io.EOF)
		}
	}
}

func streamOf(in []byte) *stream {
	here, there := net.Pipe()
	there.Close()
	return newStream(types.HijackedResponse{Conn: here, Reader: bufio.NewReader(bytes.NewReader(in))}, here)
}

// FuzzStream: whatever an engine sends, a stream gives no more than it got.
func FuzzStream(f *testing.F) {
	f.Add(block(1, []byte("ab")))
	f.Add(slices.Concat(block(2, []byte("x")), block(1, []byte("ab")), []byte{1}))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := streamOf(in)
		got, err := io.ReadAll(s)
		if len(got) > len(in) || len(s.stderr.text) > maxTail {
			t.Errorf("got %d bytes and %d of stderr out of %d, %v", len(got), len(s.stderr.text), len(in), err)
		}
		// Nor does it keep a mark that follows from being found.
		const mark = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
		s = streamOf(slices.Concat(in, []byte(mark[:9]), block(1, []byte(mark[9:])), block(1, []byte("after"))))
		if err := s.find([]byte(mark)); err != nil {
			t.Error(err)
		} else if got, err := io.ReadAll(s); string(got) != "after" && !bytes.Contains(in, []byte("Z")) {
			t.Errorf("behind the mark comes %q, %v", got, err)
		}
	})
}

// FuzzVolume: what passes for a volume is mounted neither over the agent nor
// from a path of the host without being known for it.
func FuzzVolume(f *testing.F) {
	for _, s := range []string{"data:/data", "/a:/b:ro", "/x", "a::b", "./x:/y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		v, err := parseVolume(spec)
		if err != nil {
			return
		}
		if checkTarget(v.target) != nil {
			t.Errorf("%q is mounted at %q", spec, v.target)
		}
		if v.source != "" && v.bind() == volumeName.MatchString(v.source) {
			t.Errorf("%q: the source %q is both a path and a name, or neither", spec, v.source)
		}
	})
}
