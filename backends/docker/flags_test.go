package docker

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"

	"github.com/kilntainers/kilntainers/backends"
)

var update = flag.Bool("update", false, "rewrite testdata/flags.json with what the docker CLI says")

// cliCases are flags that mean the same here as in the docker CLI. A tilde
// stands for a blank within an argument; DIR is a folder with files.
var cliCases = []string{
	// names, environment, user
	"-e A=b", "-e A=b -e C=", "--env=A=b=c", "--env-file DIR/env", "--env-file DIR/env -e X=2", "-l a=b", "--label a=b --label c", "--label-file DIR/labels -l a=z",
	"-h box -u 1000:1000 -w /w", "--hostname=h --domainname d", "--user nobody", "--group-add 10 --group-add video", "--stop-signal SIGINT --stop-timeout 3", "--stop-timeout 0", "--runtime runsc",
	"--annotation k=v", "--no-healthcheck",
	// security and namespaces
	"--cap-add SYS_PTRACE --cap-drop ALL", "--cap-add=net_raw,chown", "--cap-add net_raw --cap-add CAP_NET_RAW", "--privileged", "--privileged=false", "--privileged=1 --cap-drop NET_RAW",
	"--security-opt no-new-privileges", "--security-opt no-new-privileges:false", "--security-opt seccomp=unconfined", "--security-opt seccomp=DIR/seccomp.json", "--security-opt apparmor:x",
	"--security-opt systempaths=unconfined --security-opt label=disable", "--userns host --uts host --ipc host", "--ipc none", "--ipc container:x", "--cgroupns private", "--cgroupns host",
	"--cgroup-parent /x", "--sysctl net.core.somaxconn=1", "--sysctl kernel.shmmax=1 --sysctl net.ipv4.ip_forward=1",
	// network
	"--network none", "--network bridge", "--network host --add-host h:1.2.3.4", "--net mine", "--network name=n1,alias=a1,ip=10.0.0.2 --network n2", "--network name=n1,driver-opt=a=b,gw-priority=2",
	"--network mine --network-alias z --ip 10.0.0.9 --ip6 2001:db8::3 --link-local-ip 169.254.1.1", "--network mine --link a:b", "--link a:b", "--network container:x", "--mac-address 02:42:ac:11:00:02",
	"--network mine --mac-address 02:42:ac:11:00:02", "--dns 8.8.8.8 --dns-search x.y --dns-opt ndots:1 --dns-option rotate", "--dns ::1", "--dns-search .", "--add-host a=1.2.3.4", "--add-host a:[::1]",
	"-p 8080:80 -p 127.0.0.1:9000-9002:9000-9002/udp --expose 99", "-p 80", "--publish published=80,target=8080,protocol=udp", "-P --expose 8000-8002/udp", "--expose 80/tcp --expose 80",
	// files
	"-v /anon", "-v name:/b", "-v /srv:/a:ro,z", "-v name:/b:nocopy -v /srv:/c", "--volumes-from c1:ro", "--volume-driver local -v name:/b", "--read-only", "--read-only=false", "--storage-opt size=10G",
	"--tmpfs /x", "--tmpfs /x:size=1m,exec", "--shm-size 64m", "--mount type=bind,src=/srv,dst=/y,readonly", "--mount type=bind,source=/srv,target=/y,bind-propagation=rslave,bind-recursive=disabled",
	"--mount type=tmpfs,dst=/z,tmpfs-size=64m,tmpfs-mode=1777", "--mount type=volume,src=v,dst=/z,volume-nocopy", "--mount dst=/z", "--mount type=image,src=alpine,dst=/i",
	"--mount type=volume,src=v,dst=/z,volume-driver=local,volume-opt=type=none,volume-opt=device=/,volume-opt=o=bind", "--mount type=volume,src=v,dst=/z,volume-subpath=a,volume-label=k=v",
	// devices
	"--gpus all", "--gpus device=0", "--gpus \"device=0,1\",capabilities=utility", "--gpus 2", "--device /dev/null", "--device /dev/null:/dev/x", "--device /dev/null:r", "--device /dev/null:/dev/x:rw",
	"--device vendor.com/class=name", "--device vendor.com/class=a --device vendor.com/class=b --gpus 1", "--device-cgroup-rule c~1:3~rwm", "--device-cgroup-rule a~*:*~r",
	// limits
	"--cpus 1.5", "--cpus 0.1 --cpuset-cpus 0-1 --cpuset-mems 0", "-c 512", "--cpu-period 100000 --cpu-quota 50000", "--cpu-rt-period 1000 --cpu-rt-runtime 500", "-m 512m", "-m 512m --memory-swap -1",
	"--memory 1g --memory-reservation 512m --memory-swappiness 0", "--memory 1.5g --memory-swap 2g", "--kernel-memory 64m", "--oom-kill-disable", "--oom-score-adj 100", "--oom-score-adj=-5", "--pids-limit=256",
	"--pids-limit -1", "--ulimit nofile=1:2 --ulimit core=0", "--ulimit nproc=64", "--blkio-weight 100 --blkio-weight-device /dev/sda:200", "--device-read-bps /dev/sda:1mb --device-write-bps /dev/sda:2mb",
	"--device-read-iops /dev/sda:100 --device-write-iops /dev/sda:200",
	// refused by both
	"--nosuch", "-Z", "--cpus x", "--cpus 0.0000000001", "--memory 1zz", "--memory-swappiness 101", "--pids-limit x", "--mount type=volume", "--mount bogus", "-v relative:/x:", "-v ab:/b:/c:d", "-v :/x",
	"--network none --network-alias z", "--network a --network a", "--network a --network host", "--network name=a,ip=10.0.0.1 --ip 10.0.0.2", "--device x", "--device /dev/null:/x:q", "--device-cgroup-rule x",
	"--ulimit x", "--dns 1.2.3", "--dns-search -x-", "--add-host x", "--expose 1:2", "-p 1:2:3:4", "--storage-opt x", "--security-opt x", "--sysctl kernel.x=1", "--gpus x", "--blkio-weight 70000", "--uts x",
	"--cgroupns x", "--userns x", "--env =x", "--label =x", "--stop-timeout x", "--mac-address x", "--link a:b:c", "--device-read-bps x", "--network name=a,x=y",
}

// TestFlagsLikeTheCLI compares parseFlags with the docker CLI: what both would
// send to an engine, recorded by an engine that only records.
func TestFlagsLikeTheCLI(t *testing.T) {
	rec := newRecorder(t)
	dir := flagFiles(t)
	golden := map[string]any{}
	text, err := os.ReadFile("testdata/flags.json")
	if err == nil {
		err = json.Unmarshal(text, &golden)
	}
	if err != nil && !*update {
		t.Fatal(err)
	}
	cli, cliErr := exec.LookPath("docker")
	for _, c := range cliCases {
		args := argsOf(c, dir)
		ours := rec.ours(t, args)
		if !*update {
			if want := golden[c]; !reflect.DeepEqual(ours, want) {
				t.Errorf("%s\n got %s\nwant %s", c, asJSON(ours), asJSON(want))
			}
		}
		if cliErr == nil {
			golden[c] = rec.cli(t, cli, args)
			if want := golden[c]; !reflect.DeepEqual(ours, want) {
				t.Errorf("%s\n got %s\nthe CLI sends %s", c, asJSON(ours), asJSON(want))
			}
		}
	}
	if !*update {
		return
	}
	if cliErr != nil {
		t.Fatal(cliErr)
	}
	maps.DeleteFunc(golden, func(c string, _ any) bool { return !slices.Contains(cliCases, c) })
	text, err = json.MarshalIndent(golden, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("testdata/flags.json", append(text, '\n'), 0o666); err != nil {
		t.Fatal(err)
	}
}

// TestFlagCombinationsLikeTheCLI does the same with flags thrown together.
func TestFlagCombinationsLikeTheCLI(t *testing.T) {
	cli, err := exec.LookPath("docker")
	if err != nil {
		t.Skip("compares with the docker CLI (28 or later); install it to run this")
	}
	rec := newRecorder(t)
	dir := flagFiles(t)
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		var words []string
		for range 2 + r.IntN(4) {
			words = append(words, cliCases[r.IntN(len(cliCases))])
		}
		c := strings.Join(words, " ")
		args := argsOf(c, dir)
		if ours, want := rec.ours(t, args), rec.cli(t, cli, args); !reflect.DeepEqual(ours, want) {
			t.Errorf("seed %d: %s\n got %s\nthe CLI sends %s", seed, c, asJSON(ours), asJSON(want))
		}
	}
}

func argsOf(c, dir string) []string {
	args := strings.Fields(strings.ReplaceAll(c, "DIR", dir))
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "~", " ")
	}
	return args
}

// flagFiles makes the files that some flags name.
func flagFiles(t *testing.T) string {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"env":          "X=1\n# comment\nY=a b\n",
		"labels":       "a=b\nq=r\n",
		"seccomp.json": "{\n  \"defaultAction\": \"SCMP_ACT_ALLOW\", \"x\": \"<&>\"\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A recorder is an engine that answers just enough for a create, and keeps
// what it was sent.
type recorder struct {
	socket string
	client *client.Client
	last   atomic.Pointer[[]byte]
}

func newRecorder(t *testing.T) *recorder {
	r := &recorder{socket: filepath.Join(t.TempDir(), "s")}
	l, err := net.Listen("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Api-Version", "1.51")
		w.Header().Set("Ostype", "linux")
		w.Header().Set("Server", "Docker/28.5.2 (linux)")
		switch {
		case strings.HasSuffix(req.URL.Path, "/_ping"):
		case strings.HasSuffix(req.URL.Path, "/containers/create"):
			body, _ := io.ReadAll(req.Body)
			r.last.Store(&body)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, `{"Id":"abc","Warnings":[]}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	r.client, err = client.NewClientWithOpts(client.WithHost("unix://"+r.socket), client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.client.Close() })
	return r
}

// ours is what parseFlags makes of the arguments; "refused" when it does not
// take them.
func (r *recorder) ours(t *testing.T, args []string) any {
	t.Helper()
	f, problems := parseFlags(args)
	if len(problems) > 0 {
		return "refused"
	}
	f, err := f.resolve()
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.client.ContainerCreate(context.Background(), &f.config, &f.host, &network.NetworkingConfig{EndpointsConfig: f.networks}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	return r.body(t, args)
}

func (r *recorder) cli(t *testing.T, cli string, args []string) any {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, cli, slices.Concat([]string{"-H", "unix://" + r.socket, "create"}, args, []string{"img:1"})...)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+filepath.Dir(r.socket))
	r.last.Store(nil)
	if out, err := cmd.CombinedOutput(); err != nil {
		if r.last.Load() != nil || cmd.ProcessState.ExitCode() < 0 {
			t.Fatalf("%s: %v: %s", cmd, err, out)
		}
		return "refused"
	}
	return r.body(t, args)
}

// body is the last body without what stands for "not given" and what only the
// CLI sets.
func (r *recorder) body(t *testing.T, args []string) any {
	t.Helper()
	var b map[string]any
	if err := json.Unmarshal(*r.last.Load(), &b); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"Image", "AttachStdout", "AttachStderr"} {
		delete(b, k)
	}
	h := b["HostConfig"].(map[string]any)
	delete(h, "ConsoleSize")
	if h["MemorySwappiness"] == -1. {
		delete(h, "MemorySwappiness")
	}
	if p, ok := h["RestartPolicy"].(map[string]any); ok && p["Name"] == "no" {
		delete(h, "RestartPolicy")
	}
	// Switched off is what a sandbox has anyway.
	if slices.Contains(args, "--no-healthcheck") {
		delete(b, "Healthcheck")
	}
	// Empty lists say something here: nothing is masked.
	for _, k := range []string{"MaskedPaths", "ReadonlyPaths"} {
		if l, ok := h[k].([]any); ok && len(l) == 0 {
			h[k] = "none"
		}
	}
	trim(b)
	// The CLI passes these through maps, and keeps the last value of a variable,
	// as the engine would.
	if l, ok := b["Env"].([]any); ok {
		last := map[string]any{}
		for _, e := range l {
			name, _, _ := strings.Cut(e.(string), "=")
			last[name] = e
		}
		b["Env"] = slices.Collect(maps.Values(last))
	}
	for _, m := range []map[string]any{b, h} {
		for _, k := range []string{"Env", "Binds"} {
			if l, ok := m[k].([]any); ok {
				slices.SortFunc(l, func(x, y any) int { return strings.Compare(x.(string), y.(string)) })
				m[k] = slices.Compact(l)
			}
		}
	}
	text := strings.ReplaceAll(asJSON(b), filepath.Dir(r.socket), "DIR")
	var back any
	if err := json.Unmarshal([]byte(text), &back); err != nil {
		t.Fatal(err)
	}
	return back
}

// trim removes zero values, at any depth.
func trim(v any) (empty bool) {
	switch v := v.(type) {
	case map[string]any:
		maps.DeleteFunc(v, func(k string, e any) bool {
			_, keep := e.(map[string]any)
			return trim(e) && !(keep && len(k) > 0 && (k[0] == '/' || strings.Contains(k, "/") || k == "default"))
		})
		return len(v) == 0
	case []any:
		for _, e := range v {
			trim(e)
		}
		return len(v) == 0
	case string:
		return v == ""
	case float64:
		return v == 0
	case bool:
		return !v
	}
	return v == nil
}

func asJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// TestFlagsRefused: what a sandbox cannot have, and how the config's author is
// told so.
func TestFlagsRefused(t *testing.T) {
	for name := range refused {
		arg := "--" + name
		if !slices.Contains(refusedSwitches, name) {
			arg += "=x"
		}
		if _, problems := parseFlags([]string{arg}); len(problems) != 1 || !strings.HasPrefix(problems[0], "--"+name+": ") || !strings.Contains(problems[0], "; ") {
			t.Errorf("%s: got %q", arg, problems)
		}
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-it"}, "--interactive: the daemon holds"},
		{[]string{"-d", "-i"}, "--detach: a sandbox is always detached"},
		{[]string{"--memory 2g"}, `write a flag and its value as "--flag=value" or as two strings`},
		{[]string{"--memory=2g", "python:3"}, `"python:3" is not a flag; the image is the key image`},
		{[]string{"--pids-limit"}, "flag needs an argument: --pids-limit"},
		{[]string{"--nosuch=1"}, "unknown flag: --nosuch"},
		{[]string{"-e", "HOME"}, `--env: "HOME": no value; write NAME=value`},
		{[]string{"--env-file", "x"}, "is not an absolute path"},
		{[]string{"--label-file=./x"}, "is not an absolute path"},
		{[]string{"--security-opt", "seccomp=x.json"}, "is not an absolute path"},
		{[]string{"-v", "./x:/y"}, "neither the name of a volume"},
		{[]string{"-v", "v:/y"}, "of at least two letters"},
		{[]string{"-v", "~/x:/y"}, "neither the name of a volume"},
		{[]string{"-v", "vol:y"}, `"y" is not an absolute path`},
		{[]string{"-v", "vol:/.kilntainers"}, "nothing can be mounted at"},
		{[]string{"-v", "vol:/x/../.kilntainers/y"}, "nothing can be mounted at"},
		{[]string{"-v", "vol:/"}, "nothing can be mounted at"},
		{[]string{"--tmpfs", "/proc/sys"}, "nothing can be mounted at"},
		{[]string{"--mount", "dst=/.kilntainers"}, "nothing can be mounted at"},
		{[]string{"--mount", "type=bind,src=../x,dst=/y"}, "is not an absolute path"},
		{[]string{"--mount", "type=bogus,dst=/y"}, "unknown type"},
		{[]string{"--mount", "type=npipe,src=/x,dst=/y"}, "unknown type"},
		{[]string{"--label", "kilntainers.boot=x"}, "are the daemon's"},
		{[]string{"--label", "  kilntainers=x"}, "are the daemon's"},
	} {
		_, problems := parseFlags(c.args)
		if len(problems) == 0 || !strings.Contains(problems[0], c.want) {
			t.Errorf("%q: got %q, want %q", c.args, problems, c.want)
		}
	}
	// Each wrong flag is told, not only the first.
	if _, problems := parseFlags([]string{"--cpus=x", "--rm", "--memory=y"}); len(problems) != 3 {
		t.Errorf("got %q, want three problems", problems)
	}
}

// TestFlagProblems: what is wrong and what weakens the isolation are told side
// by side, and of a flag that is wrong nothing else.
func TestFlagProblems(t *testing.T) {
	for flags, want := range map[string][]string{
		"--cap-add=SYS_ADMIN --security-opt=seccomp=unconfined --pid=host --device=/dev/sda --volumes-from=x": {
			"--pid: ", "--cap-add=SYS_ADMIN is ", "--security-opt=seccomp=unconfined lifts ", "--volumes-from=x gives ", "--device=/dev/sda gives "},
		"--privileged --name=x --foo -v /etc:/etc":                            {"--name: ", "unknown flag: --foo", "--privileged gives "},
		"--device=x --device=/dev/kvm":                                        {"--device: \"x\" has no absolute path", "--device=/dev/kvm gives "},
		"--network-alias=a --foo --network=mine":                              {"unknown flag: --foo"},
		"--security-opt=x --security-opt=y --security-opt=seccomp=unconfined": {"--security-opt: \"x\" ", "--security-opt: \"y\" ", "--security-opt=seccomp=unconfined lifts "},
	} {
		o := defaults()
		o.DockerRunFlags = strings.Fields(flags)
		var got []string
		for _, err := range o.Validate().(interface{ Unwrap() []error }).Unwrap() {
			got = append(got, err.(*backends.OptionError).Problem)
		}
		if !slices.EqualFunc(got, want, strings.HasPrefix) {
			t.Errorf("%s: got %q, want %q", flags, got, want)
		}
	}
}

// TestFlagsWeaken: what weakens the isolation is known for it in every
// spelling.
func TestFlagsWeaken(t *testing.T) {
	for _, c := range []string{
		"--privileged", "--privileged=1", "--privileged=T", "--cap-add SYS_PTRACE", "--cap-add=sys_admin", "--cap-add CAP_SYS_ADMIN", "--cap-add all", "--cap-add chown --cap-add bpf",
		"--security-opt seccomp=unconfined", "--security-opt seccomp:unconfined", "--security-opt seccomp=/x.json", "--security-opt no-new-privileges=false", "--security-opt no-new-privileges:0",
		"--security-opt apparmor=unconfined", "--security-opt apparmor:unconfined", "--security-opt label=disable", "--security-opt label:type:spc_t", "--security-opt systempaths=unconfined",
		"--security-opt unmask=ALL", "--security-opt proc-opts=x",
		"-v /var/run/docker.sock:/s", "-v /:/host:ro", "--volume=/etc:/etc", "--mount type=bind,src=/,dst=/h", "--mount TYPE=BIND,src=/,dst=/h",
		"--mount type=volume,src=v,dst=/z,volume-opt=type=none,volume-opt=device=/,volume-opt=o=bind", "--volumes-from other",
		"--device /dev/kvm", "--device vendor.com/class=all", "--gpus driver=cdi,device=vendor.com/class=all", "--device-cgroup-rule a~*:*~rwm", "--annotation io.katacontainers.config.hypervisor.path=/x",
		"--network host", "--net=host", "--network container:db", "--network name=host", "--network ns:/proc/1/ns/net", "--network slirp4netns:allow_host_loopback=true", "--network mine --network container:x",
		"--userns host", "--uts=host", "--ipc host", "--ipc container:x", "--cgroupns host",
		"-m 0", "--memory=0k", "-m 1g --memory-swap -1", "--pids-limit 0", "--pids-limit=-1", "--pids-limit -7", "--pids-limit 0x0", "--oom-kill-disable", "--oom-kill-disable=1", "--oom-score-adj -1",
	} {
		f, problems := parseFlags(argsOf(c, ""))
		if len(f.weakens) == 0 && len(problems) == 0 {
			t.Errorf("%s passes for harmless", c)
		}
		o := defaults()
		o.DockerRunFlags = argsOf(c, "")
		if err := o.Validate(); err == nil {
			t.Errorf("%s: Validate found nothing", c)
		}
	}
	for _, c := range []string{
		"--privileged=false", "--cap-add CHOWN --cap-add CAP_KILL", "--cap-drop ALL", "--security-opt no-new-privileges", "--security-opt no-new-privileges:true", "--security-opt apparmor=docker-default",
		"--security-opt label=level:s0:c1,c2", "-v data:/data", "-v /anon", "--mount type=volume,src=v,dst=/z", "--mount type=tmpfs,dst=/z", "--gpus all", "--ipc private", "--cgroupns private", "-m 2g", "--memory-swap 3g",
		"--pids-limit 64", "--oom-score-adj 900", "--ulimit nofile=100000", "--shm-size 1g", "--tmpfs /x", "--dns 1.1.1.1", "--oom-kill-disable=false",
	} {
		f, problems := parseFlags(argsOf(c, ""))
		if len(f.weakens)+len(problems) > 0 {
			t.Errorf("%s: got %q %q", c, f.weakens, problems)
		}
	}
}

// FuzzFlags: whatever stands in docker_run_flags, the parser does not fall
// over, and what is ours in a container stays ours.
func FuzzFlags(f *testing.F) {
	for _, c := range cliCases {
		f.Add(c, false)
	}
	f.Add("--pid=host --entrypoint=/x --init --rm=false --log-driver=json-file --restart=always", true)
	f.Fuzz(func(t *testing.T, line string, net bool) {
		args := argsOf(line, "/dir")
		flags, problems := parseFlags(args)
		if len(problems) > 0 {
			return
		}
		s := backends.Spec{Profile: "p", Network: net, Owner: backends.Owner{Instance: "i", Boot: "b"}}
		r := buildRequest(s, defaults(), flags, "n")
		wantOurs(t, r, net)
		if len(flags.weakens) == 0 {
			wantHardened(t, r)
		}
	})
}

// wantOurs checks what no flag may change.
func wantOurs(t *testing.T, r request, net bool) {
	t.Helper()
	c, h := r.config, r.host
	theirs := *h
	theirs.Mounts = h.Mounts[:len(h.Mounts)-1]
	for what, ok := range map[string]bool{
		"entrypoint": slices.Equal(c.Entrypoint, []string{"/.kilntainers/kilntainers-init"}) && c.Cmd == nil,
		"streams":    !c.Tty && c.OpenStdin && c.StdinOnce && c.AttachStdin && c.AttachStdout && c.AttachStderr,
		"health":     c.Healthcheck != nil && slices.Equal(c.Healthcheck.Test, []string{"NONE"}),
		"labels":     c.Labels["kilntainers"] == "true" && c.Labels["kilntainers.instance"] == "i" && c.Labels["kilntainers.boot"] == "b" && c.Labels["kilntainers.profile"] == "p" && c.Labels["kilntainers.sandbox"] == "n",
		"log":        h.LogConfig.Type == "none" && h.LogConfig.Config == nil,
		"removal":    h.AutoRemove && h.RestartPolicy.IsNone(),
		"pid":        h.PidMode == "" && h.Init != nil && !*h.Init,
		"agent":      h.Mounts[len(h.Mounts)-1].Target == agentDir && h.Mounts[len(h.Mounts)-1].ReadOnly && !taken(&theirs, agentDir),
		"network":    net || h.NetworkMode.IsNone() && r.networking == nil,
	} {
		if !ok {
			t.Errorf("a flag changed what is ours: %s", what)
		}
	}
}

// wantHardened checks what only allow_unsafe may lift.
func wantHardened(t *testing.T, r request) {
	t.Helper()
	h := r.host
	for what, ok := range map[string]bool{
		"privileged":   !h.Privileged,
		"capabilities": slices.Contains(h.CapDrop, "ALL") && !slices.Contains(h.CapAdd, "ALL"),
		"privileges": slices.ContainsFunc(h.SecurityOpt, func(o string) bool {
			return strings.HasPrefix(o, "no-new-privileges") && !strings.HasSuffix(o, "false")
		}),
		"seccomp":    !slices.ContainsFunc(h.SecurityOpt, func(o string) bool { return strings.HasPrefix(o, "seccomp") && !strings.HasSuffix(o, "builtin") }),
		"memory":     h.Memory > 0 && h.MemorySwap >= 0,
		"pids":       h.PidsLimit != nil && *h.PidsLimit > 0,
		"devices":    len(h.Devices)+len(h.DeviceCgroupRules)+len(h.VolumesFrom) == 0,
		"namespaces": !h.IpcMode.IsHost() && !h.IpcMode.IsContainer() && !h.UTSMode.IsHost() && !h.UsernsMode.IsHost() && !h.CgroupnsMode.IsHost() && !h.NetworkMode.IsHost() && !h.NetworkMode.IsContainer(),
		"host paths": !slices.ContainsFunc(h.Binds, func(b string) bool { return strings.HasPrefix(b, "/") }),
	} {
		if !ok {
			t.Errorf("a flag lifted a protection and passes for harmless: %s", what)
		}
	}
}
