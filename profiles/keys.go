package profiles

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/kilntainers/kilntainers/backends"
)

// A Key documents one key of the configuration.
type Key struct {
	Table    string   // "daemon", "tokens.NAME" or "profiles.NAME"
	Name     string   // as written under the table
	Backends []string // which backends know it; nil = all of them
	Default  string   // as TOML; "" = the key must be written
	Meaning  string   // one or two sentences
}

// Keys returns every key, in the order of the manual: those of the daemon, of
// a token, of any profile, and then of each backend. All but the first two
// groups may stand in [defaults] too.
func Keys() []Key {
	var all []Key
	for _, s := range daemonKeys {
		all = append(all, Key{"daemon", s.name, nil, s.byDefault, s.meaning})
	}
	for _, s := range tokenKeys {
		all = append(all, Key{"tokens.NAME", s.name, nil, s.byDefault, s.meaning})
	}
	for _, s := range profileKeys {
		all = append(all, Key{"profiles.NAME", s.name, nil, s.byDefault, s.meaning})
	}
	for _, k := range driverKeys {
		all = append(all, Key{"profiles.NAME", k.name, strings.Fields(k.backends), k.byDefault, k.meaning})
	}
	return all
}

// A setting is a key and where in a T it is stored. The default is decoded
// as if it stood in a file, so what the manual says is what holds.
type setting[T any] struct {
	name      string
	byDefault string
	meaning   string
	at        func(*T) any // a pointer, or a value with UnmarshalTOML that knows one
}

var daemonKeys = []setting[Daemon]{
	{"listen", `["unix:/run/kilntainers/kilntainers.sock"]`,
		`Where to serve: "unix:/absolute/path" or "tcp:host:port". Sockets handed over by systemd come first. TCP needs a token.`,
		func(d *Daemon) any { return &d.Listen }},
	{"state_dir", `"/var/lib/kilntainers"`,
		`What has to outlive a restart. The default is $STATE_DIRECTORY under systemd, and for an ordinary user ~/.local/state/kilntainers.`,
		func(d *Daemon) any { return absolute{&d.StateDir} }},
	{"cache_dir", `"/var/cache/kilntainers"`,
		`What can be made again, such as compiled WebAssembly. The default is $CACHE_DIRECTORY under systemd, and for an ordinary user ~/.cache/kilntainers.`,
		func(d *Daemon) any { return absolute{&d.CacheDir} }},
	{"max_sandboxes", `256`,
		`Sandboxes at once, over all profiles; 0 = no limit.`,
		func(d *Daemon) any { return count{&d.MaxSandboxes} }},
	{"max_sandboxes_per_user", `0`,
		`Sandboxes at once, over all profiles, for one user or token; 0 = no limit.`,
		func(d *Daemon) any { return count{&d.MaxSandboxesPerUser} }},
	{"exit_when_idle", `0`,
		`Seconds without a session after which the daemon exits; 0 = never. For a daemon that systemd starts when a client connects.`,
		func(d *Daemon) any { return seconds{&d.ExitWhenIdle, 0} }},
	{"profile_sockets", `false`,
		`Make one more socket for each profile, profiles/NAME.sock beside the first Unix socket, so that file permissions decide who may use which profile.`,
		func(d *Daemon) any { return &d.ProfileSockets }},
	{"allow_unauthenticated_loopback", `false`,
		`Serve TCP on 127.0.0.0/8 and ::1 without a token: to every user and every web page of this machine.`,
		func(d *Daemon) any { return &d.AllowUnauthenticatedLoopback }},
}

var tokenKeys = []setting[Token]{
	{"file", ``,
		`The file that holds the bearer token and nothing else: an absolute path, or a name under $CREDENTIALS_DIRECTORY.`,
		func(t *Token) any { return &t.File }},
	{"profiles", ``,
		`The profiles that the token may use; ["*"] is all of them.`,
		func(t *Token) any { return &t.Profiles }},
}

var profileKeys = []setting[Profile]{
	{"backend", ``,
		`What runs the sandboxes: docker (Podman too), go_busybox, wasm, modal, e2b or kubernetes.`,
		func(p *Profile) any { return &p.Backend }},
	{"description", `""`,
		`One line for operators.`,
		func(p *Profile) any { return line{&p.Description} }},
	{"timeout", `120`,
		`Seconds for one exec when the call names none. Waiting and making the sandbox do not count.`,
		func(p *Profile) any { return seconds{&p.Timeout, time.Second} }},
	{"max_timeout", `3600`,
		`The most seconds that a call may ask for.`,
		func(p *Profile) any { return seconds{&p.MaxTimeout, time.Second} }},
	{"output_limit", `2097152`,
		`Bytes that one exec may write, stdout and stderr together. It is killed when it writes more.`,
		func(p *Profile) any { return size{&p.OutputLimit} }},
	{"on_limit", `"discard"`,
		`What is returned after a timeout or too much output: "discard" nothing but a notice, "truncate" the head and the tail too.`,
		func(p *Profile) any { return choice{&p.OnLimit, []string{OnLimitDiscard, OnLimitTruncate}} }},
	{"session_timeout", `300`,
		`Idle seconds after which the session's sandbox is destroyed. A running exec is never idle.`,
		func(p *Profile) any { return seconds{&p.SessionTimeout, time.Second} }},
	{"max_lifetime", `0`,
		`Seconds that a sandbox may live at most; 0 = no limit.`,
		func(p *Profile) any { return seconds{&p.MaxLifetime, 0} }},
	{"max_sandboxes", `0`,
		`Sandboxes of this profile at once; 0 = no limit of its own.`,
		func(p *Profile) any { return count{&p.MaxSandboxes} }},
	{"max_sandboxes_per_user", `0`,
		`Sandboxes of this profile at once for one user or token; 0 = no limit.`,
		func(p *Profile) any { return count{&p.MaxSandboxesPerUser} }},
	{"shell", `""`,
		`The shell for commands, one program without arguments; "" = /bin/bash if the image has it, else /bin/sh.`,
		func(p *Profile) any { return program{&p.Shell} }},
	{"network", `false`,
		`Network access from inside.`,
		func(p *Profile) any { return &p.Network }},
	{"env", `{}`,
		`Environment variables. Those of [defaults] are kept, unless the profile sets the same name.`,
		func(p *Profile) any { return &p.Env }},
	{"working_directory", `""`,
		`Where commands start, absolute; "" = where the image says.`,
		func(p *Profile) any { return directory{&p.WorkingDirectory} }},
	{"tool_instruction_override", `""`,
		`Replaces the text that tells the model what the tool is; "" = the backend's own text.`,
		func(p *Profile) any { return &p.ToolInstructionOverride }},
	{"extended_tool_instruction", `""`,
		`Comes after the backend's own text. Not together with tool_instruction_override.`,
		func(p *Profile) any { return &p.ExtendedToolInstruction }},
	{"result", `"json"`,
		`"json": an object with stdout, stderr and exit_code; "text": plain output with an exit line, for models.`,
		func(p *Profile) any { return choice{&p.Result, []string{ResultJSON, ResultText}} }},
	{"pool", `0`,
		`Sandboxes kept started ahead of need.`,
		func(p *Profile) any { return count{&p.Pool} }},
	{"allow", `[]`,
		`Who may use the profile: Unix users ("alice"), groups ("@datasci") and tokens ("token:laptop"); [] = all who may open the socket. root may use every profile.`,
		func(p *Profile) any { return &p.Allow }},
	{"binding", `"auto"`,
		`What ties a call to its sandbox: "auto" the connection or session, "handle" only the sandbox_id that the first call returned.`,
		func(p *Profile) any { return choice{&p.Binding, []string{BindingAuto, BindingHandle}} }},
}

// driverKeys are the keys of the drivers, which decode and check them. They
// are known here so that a key of another backend can be told from a typing
// mistake, also in a build that lacks the backend.
var driverKeys = []struct{ backends, name, byDefault, meaning string }{
	{"docker", "engine", `"docker"`,
		`"docker" or "podman": which default socket is looked for.`},
	{"docker", "docker_host", `""`,
		`The engine: "unix:///path", "tcp://host:port" (TLS by $DOCKER_CERT_PATH) or "ssh://user@host". Of a list the least loaded is used.`},
	{"docker", "image", `"debian:bookworm-slim"`,
		`Any OCI image.`},
	{"docker", "pull", `"missing"`,
		`When the image is pulled: "missing", "always" or "never".`},
	{"docker", "runtime", `""`,
		`The OCI runtime, as the engine names it: "runsc", "kata"; "" = the engine's default.`},
	{"docker", "cpu", `"1"`,
		`CPUs' worth of time, such as "0.5"; 0 = no limit.`},
	{"docker", "memory", `"1g"`,
		`Memory, without swap. What is written to tmpfs counts.`},
	{"docker", "pids_limit", `512`,
		`Processes and threads.`},
	{"docker", "disk", `0`,
		`Bytes that can be written to the root file system; 0 = no limit. Few engines can: overlay2 on xfs with pquota, btrfs, zfs.`},
	{"docker", "user", `""`,
		`Whom commands run as: "name", "uid" or "uid:gid"; "" = the image's user.`},
	{"docker", "read_only", `false`,
		`A root file system that cannot be written.`},
	{"docker", "tmpfs", `["/tmp"]`,
		`Memory file systems, "/path" or "/path:size".`},
	{"docker", "mounts", `[]`,
		`Volumes, "name:/path" or "name:/path:ro". All sandboxes of the profile share them. A path of the host needs allow_unsafe.`},
	{"docker", "docker_run_flags", `[]`,
		`Flags of docker run, as its command line takes them, one argument each.`},
	{"docker", "allow_unsafe", `false`,
		`Accept flags and mounts that weaken the isolation, and engines that drop limits.`},

	{"modal", "modal_token_id", `""`,
		`Modal's token id; "" = $MODAL_TOKEN_ID, else the active profile of ~/.modal.toml.`},
	{"modal", "modal_token_id_file", `""`,
		`A file that holds it: an absolute path, or a name under $CREDENTIALS_DIRECTORY.`},
	{"modal", "modal_token_secret", `""`,
		`The secret of that token. Better written in a file:`},
	{"modal", "modal_token_secret_file", `""`,
		`A file that holds it: an absolute path, or a name under $CREDENTIALS_DIRECTORY.`},
	{"modal", "modal_app_name", `"kilntainers"`,
		`The Modal app that the sandboxes belong to. It is made when it is missing.`},
	{"modal", "image", `""`,
		`Any OCI image that Modal can pull without credentials; "" = a Debian with Python.`},
	{"modal", "modal_cpu", `1.0`,
		`CPU cores; a sandbox gets no more.`},
	{"modal", "modal_memory", `512`,
		`Memory in MiB, or a string such as "2g"; a sandbox gets no more.`},
	{"modal", "gpu", `""`,
		`A GPU, as Modal names it: "T4", "A10G", "H100:2".`},
	{"modal", "region", `""`,
		`Where sandboxes run, as Modal names it; "" = anywhere.`},
	{"modal", "sandbox_timeout", `3600`,
		`Seconds after which Modal ends the sandbox by itself, at most 86400.`},
	{"modal", "modal_secrets", `[]`,
		`Modal Secrets, by name, whose values are environment variables in the sandbox.`},

	{"e2b", "e2b_api_key", `""`,
		`The API key; "" = $E2B_API_KEY. Better written in a file:`},
	{"e2b", "e2b_api_key_file", `""`,
		`A file that holds it: an absolute path, or a name under $CREDENTIALS_DIRECTORY.`},
	{"e2b", "e2b_template", `"base"`,
		`The template that sandboxes start from.`},
	{"e2b", "e2b_sandbox_timeout", `3600`,
		`Seconds after which E2B ends a sandbox that the daemon has left; a living session's is renewed.`},
	{"e2b", "e2b_metadata", `{}`,
		`Metadata for each sandbox.`},
	{"e2b", "e2b_allow_out", `[]`,
		`The only addresses that a sandbox can reach: IPs, CIDR blocks, domains ("*.example.com"); [] = all. It needs network = true.`},
	{"e2b", "e2b_deny_out", `[]`,
		`IPs and CIDR blocks that a sandbox cannot reach.`},
	{"e2b", "api_url", `""`,
		`The control plane of a compatible service; "" = https://api.DOMAIN.`},
	{"e2b", "domain", `"e2b.app"`,
		`The domain of the service.`},
	{"e2b", "sandbox_url", `""`,
		`Where sandboxes are reached; "" = as the domain says.`},

	{"wasm", "wasm_path", ``,
		`A WASI module, an absolute path. Its command is the name of the file without .wasm.`},
	{"wasm go_busybox", "wasm_max_memory", `256`,
		`MiB of memory for all processes of a sandbox together.`},
	{"wasm go_busybox", "wasm_fuel", `0`,
		`WebAssembly instructions that one exec may run; 0 = no limit. Counting them costs a third of the speed.`},
	{"wasm", "commands", `{}`,
		`More modules, by the names of their commands.`},
	{"wasm go_busybox", "fs_limit", `"64m"`,
		`Bytes that the files of a sandbox may take; they are in memory.`},
	{"wasm go_busybox", "allow_guest_wasm", `false`,
		`Let a sandbox run WASI modules that were written inside it.`},
}

// knownTo returns the backends that have a key of that name, sorted.
func knownTo(name string) []string {
	var names []string
	for _, k := range driverKeys {
		if k.name == name {
			names = append(names, strings.Fields(k.backends)...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// knownBackends returns the names of all backends that some build has.
func knownBackends() []string {
	all := []string{"kubernetes"} // its keys are not in driverKeys
	for _, k := range driverKeys {
		all = append(all, strings.Fields(k.backends)...)
	}
	return all
}

// builtinProfile returns a profile with every default of profileKeys.
var builtinProfile = sync.OnceValue(func() Profile {
	var p Profile
	setDefaults(profileKeys, &p)
	return p
})

// builtinDaemon returns a [daemon] with every default of daemonKeys. Which
// directories stand for the default ones under systemd and for an ordinary
// user is the daemon's business.
func builtinDaemon() Daemon {
	var d Daemon
	setDefaults(daemonKeys, &d)
	return d
}

// setDefaults sets in dst what the Default of each setting says.
func setDefaults[T any](settings []setting[T], dst *T) {
	for _, s := range settings {
		if s.byDefault == "" {
			continue
		}
		var doc map[string]any
		if _, err := toml.Decode(s.name+" = "+s.byDefault, &doc); err != nil {
			panic(fmt.Sprintf("profiles: default of %s: %v", s.name, err))
		}
		s.set(dst, doc[s.name], s.name, func(key, text string) {
			panic(fmt.Sprintf("profiles: default of %s: %s", key, text))
		})
	}
}

// set stores v, which stands at key, where the setting has its place in dst.
func (s *setting[T]) set(dst *T, v any, key string, bad func(key, text string)) {
	at := s.at(dst)
	if p := reflect.ValueOf(at); p.Kind() == reflect.Pointer {
		decode(v, p.Elem(), key, bad)
		return
	}
	for _, err := range flatten(at.(toml.Unmarshaler).UnmarshalTOML(v)) {
		bad(key, err.Error())
	}
}

// find returns the setting of that name, or nil.
func find[T any](settings []setting[T], name string) *setting[T] {
	for i := range settings {
		if settings[i].name == name {
			return &settings[i]
		}
	}
	return nil
}

// names returns the names of the settings.
func names[T any](settings []setting[T]) []string {
	all := make([]string, len(settings))
	for i, s := range settings {
		all[i] = s.name
	}
	return all
}

// What follows are the kinds of values that have rules of their own.

// text reads a string that can be an argument of a program.
func text(v any) (string, error) {
	s, ok := v.(string)
	switch {
	case !ok:
		return "", errors.New(mismatch("a string", v))
	case strings.ContainsRune(s, 0):
		return "", errors.New("holds a NUL character; leave it out")
	}
	return s, nil
}

// seconds is a duration of whole seconds, at least min.
type seconds struct {
	d   *time.Duration
	min time.Duration
}

func (s seconds) UnmarshalTOML(v any) error {
	var d backends.Duration
	if err := d.UnmarshalTOML(v); err != nil {
		return err
	}
	switch {
	case d.D()%time.Second != 0:
		return fmt.Errorf("%v has a fraction of a second; write whole seconds", d)
	case d.D() < s.min:
		return errors.New("must be at least 1 second")
	}
	*s.d = d.D()
	return nil
}

// size is a number of bytes, at least 1.
type size struct{ n *int64 }

func (s size) UnmarshalTOML(v any) error {
	var z backends.Size
	if err := z.UnmarshalTOML(v); err != nil {
		return err
	}
	if z < 1 {
		return errors.New("must be at least 1 byte")
	}
	*s.n = int64(z)
	return nil
}

// count is a whole number from 0 to maxCount.
type count struct{ n *int }

const maxCount = 1_000_000

func (c count) UnmarshalTOML(v any) error {
	n, ok := v.(int64)
	if !ok {
		return errors.New(mismatch("a whole number", v))
	}
	if n < 0 || n > maxCount {
		return fmt.Errorf("%d is out of range; write a number from 0 to %d", n, maxCount)
	}
	*c.n = int(n)
	return nil
}

// choice is one of a few words.
type choice struct {
	s    *string
	from []string
}

func (c choice) UnmarshalTOML(v any) error {
	s, err := text(v)
	if err != nil {
		return err
	}
	if !slices.Contains(c.from, s) {
		return fmt.Errorf("unknown value %q; write %s", s, list(quote(c.from), "or"))
	}
	*c.s = s
	return nil
}

// line is a string of one line.
type line struct{ s *string }

func (l line) UnmarshalTOML(v any) error {
	s, err := text(v)
	if err != nil {
		return err
	}
	if strings.ContainsAny(s, "\r\n") {
		return errors.New("has more than one line; write one")
	}
	*l.s = s
	return nil
}

// program is the name or path of a program, or "".
type program struct{ s *string }

func (p program) UnmarshalTOML(v any) error {
	s, err := text(v)
	if err != nil {
		return err
	}
	if strings.ContainsAny(s, " \t\r\n") {
		return fmt.Errorf("%q is more than a program; write its path without arguments, such as \"/bin/bash\"", s)
	}
	*p.s = s
	return nil
}

// absolute is an absolute path on this machine.
type absolute struct{ s *string }

func (a absolute) UnmarshalTOML(v any) error {
	s, err := text(v)
	if err != nil {
		return err
	}
	if !filepath.IsAbs(s) {
		return fmt.Errorf("%q is not an absolute path; begin it with /", s)
	}
	*a.s = filepath.Clean(s)
	return nil
}

// directory is an absolute path inside a sandbox, or "".
type directory struct{ s *string }

func (d directory) UnmarshalTOML(v any) error {
	s, err := text(v)
	if err != nil {
		return err
	}
	if s != "" && !path.IsAbs(s) {
		return fmt.Errorf("%q is not an absolute path; begin it with /", s)
	}
	*d.s = s
	return nil
}
