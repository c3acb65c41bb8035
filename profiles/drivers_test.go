package profiles

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/kilntainers/kilntainers/backends"
)

// drivers are stand-ins for those of a build with docker, go_busybox and wasm,
// and one that nobody knows. They have the keys of the real ones but make no
// sandbox.
var drivers = backends.Drivers{
	fake("go_busybox", backends.Features{Background: true, Shell: true}, func() backends.Options {
		return &busyboxOptions{wasmLimits{MaxMemory: 256, FSLimit: 64 << 20}}
	}),
	fake("docker", backends.Features{Network: true, Background: true, Signals: true, Pool: true, Shell: true}, func() backends.Options {
		return &dockerOptions{
			Engine: "docker", Image: "debian:bookworm-slim", Pull: "missing",
			CPU: "1", Memory: 1 << 30, PidsLimit: 512, Tmpfs: []string{"/tmp"},
		}
	}),
	fake("wasm", backends.Features{Background: true}, func() backends.Options {
		return &wasmOptions{wasmLimits: wasmLimits{MaxMemory: 256, FSLimit: 64 << 20}}
	}),
	fake("odd", backends.Features{}, func() backends.Options { return &oddOptions{List: oddList} }),
}

// withClouds are the drivers of a build that has modal and e2b too.
var withClouds = append(backends.Drivers{
	fake("e2b", backends.Features{Network: true, Background: true, Signals: true, Pool: true, Shell: true}, func() backends.Options {
		return &e2bOptions{Template: "base", Timeout: 3600e9, Domain: "e2b.app"}
	}),
	fake("modal", backends.Features{Network: true, Background: true, Signals: true, Pool: true, Shell: true}, func() backends.Options {
		return &modalOptions{AppName: "kilntainers", CPU: 1, Memory: 512, Timeout: 3600e9}
	}),
}, drivers...)

type modalOptions struct {
	TokenID         string            `toml:"modal_token_id"`
	TokenIDFile     string            `toml:"modal_token_id_file"`
	TokenSecret     string            `toml:"modal_token_secret"`
	TokenSecretFile string            `toml:"modal_token_secret_file"`
	AppName         string            `toml:"modal_app_name"`
	CPU             float64           `toml:"modal_cpu"`
	Memory          int64             `toml:"modal_memory"`
	GPU             string            `toml:"gpu"`
	Region          string            `toml:"region"`
	Image           string            `toml:"image"`
	Secrets         []string          `toml:"modal_secrets"`
	Timeout         backends.Duration `toml:"sandbox_timeout"`
}

func (o *modalOptions) Validate() error { return nil }

type e2bOptions struct {
	APIKey     string            `toml:"e2b_api_key"`
	APIKeyFile string            `toml:"e2b_api_key_file"`
	Template   string            `toml:"e2b_template"`
	Timeout    backends.Duration `toml:"e2b_sandbox_timeout"`
	Metadata   map[string]string `toml:"e2b_metadata"`
	AllowOut   []string          `toml:"e2b_allow_out"`
	DenyOut    []string          `toml:"e2b_deny_out"`
	APIURL     string            `toml:"api_url"`
	Domain     string            `toml:"domain"`
	SandboxURL string            `toml:"sandbox_url"`
}

func (o *e2bOptions) Validate() error { return nil }

func fake(name string, f backends.Features, options func() backends.Options) backends.Driver {
	return backends.Driver{
		Name: name, Features: f, Options: options,
		Describe: func(s backends.Spec, _ backends.Options) string { return "a fake sandbox for " + s.Profile },
		Open: func(backends.Spec, backends.Options, *slog.Logger) (backends.Backend, error) {
			return nil, errors.New("a fake driver opens nothing")
		},
		Agree: func(s backends.Spec, o backends.Options) error {
			if d, ok := o.(*dockerOptions); ok && s.Network && slices.Contains(d.DockerRunFlags, "--network=none") {
				return &backends.OptionError{Key: "docker_run_flags", Problem: "--network=none contradicts network = true; leave one of them out"}
			}
			return nil
		},
		Sweep: func(context.Context, backends.Sweep) ([]backends.Leftover, error) { return nil, nil },
	}
}

type dockerOptions struct {
	Engine         string        `toml:"engine"`
	DockerHost     hosts         `toml:"docker_host"`
	Image          string        `toml:"image"`
	Pull           string        `toml:"pull"`
	Runtime        string        `toml:"runtime"`
	CPU            cpus          `toml:"cpu"`
	Memory         backends.Size `toml:"memory"`
	PidsLimit      int64         `toml:"pids_limit"`
	Disk           backends.Size `toml:"disk"`
	User           string        `toml:"user"`
	ReadOnly       bool          `toml:"read_only"`
	Tmpfs          []string      `toml:"tmpfs"`
	Mounts         []string      `toml:"mounts"`
	DockerRunFlags []string      `toml:"docker_run_flags"`
	AllowUnsafe    bool          `toml:"allow_unsafe"`
}

func (o *dockerOptions) Validate() error {
	var errs []error
	bad := func(key, problem string) {
		errs = append(errs, &backends.OptionError{Key: key, Problem: problem})
	}
	if o.Image == "" {
		bad("image", "is empty; write the name of an image")
	}
	if o.Memory < 6<<20 {
		bad("memory", fmt.Sprintf("%v is too little; write at least \"6m\"", o.Memory))
	}
	for i, f := range o.DockerRunFlags {
		if f == "--privileged" && !o.AllowUnsafe {
			bad(fmt.Sprintf("docker_run_flags[%d]", i), "--privileged is refused; leave it out, or set allow_unsafe = true")
		}
	}
	for _, m := range o.Mounts {
		if !strings.Contains(m, ":/") {
			bad("mounts", fmt.Sprintf("%q is not a mount; write \"name:/path\"", m))
		}
	}
	return errors.Join(errs...)
}

// hosts is a string or an array of strings, cpus a string or a number, as with
// the real driver.
type (
	hosts []string
	cpus  string
)

func (h *hosts) UnmarshalTOML(v any) error {
	switch v := v.(type) {
	case string:
		*h = hosts{v}
	case []any:
		*h = hosts{fmt.Sprint(v...)}
	default:
		return errors.New("want an address or a list of them")
	}
	return nil
}

func (c *cpus) UnmarshalTOML(v any) error { *c = cpus(fmt.Sprint(v)); return nil }

type wasmLimits struct {
	MaxMemory  int           `toml:"wasm_max_memory"`
	Fuel       uint64        `toml:"wasm_fuel"`
	FSLimit    backends.Size `toml:"fs_limit"`
	AllowGuest bool          `toml:"allow_guest_wasm"`
}

type busyboxOptions struct{ wasmLimits }

func (o *busyboxOptions) Validate() error { return nil }

type wasmOptions struct {
	Path     string            `toml:"wasm_path"`
	Commands map[string]string `toml:"commands"`
	wasmLimits
}

func (o *wasmOptions) Validate() error {
	if o.Path == "" {
		return &backends.OptionError{Key: "wasm_path", Problem: "missing; write the path of a WebAssembly module"}
	}
	return nil
}

// oddOptions has every kind of value that a driver may have.
type oddOptions struct {
	Byte     uint8              `toml:"odd_byte"`
	Small    int8               `toml:"odd_small"`
	Ratio    float64            `toml:"odd_ratio"`
	Maybe    *int               `toml:"odd_maybe"`
	List     []string           `toml:"odd_list"`
	Disks    []oddDisk          `toml:"odd_disks"`
	One      oddDisk            `toml:"odd_one"`
	Wait     backends.Duration  `toml:"odd_wait"`
	Nested   map[string]oddDisk `toml:"odd_nested"`
	Untagged string
	hidden   string `toml:"odd_hidden"`
}

type oddDisk struct {
	Source string        `toml:"source"`
	Size   backends.Size `toml:"size"`
}

// oddList is a default that all Options share, as a careless driver may write
// it.
var oddList = []string{"a", "b", "c"}

func (o *oddOptions) Validate() error {
	if o.hidden+o.Untagged != "" {
		return errors.New("nothing can set these")
	}
	return nil
}
