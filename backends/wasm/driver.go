// Package wasm is the backends go_busybox and wasm: sandboxes that need no
// container engine, because they are WebAssembly programs inside the daemon.
//
//	profile ── Open ──► backend ── Create ──► sandbox ── Exec ──► exec
//	                      │                     │
//	           kernel.Program (compiled      kernel.Sandbox (files and
//	           in the background, shared)    processes, in memory only)
//
// go_busybox has a shell and about a hundred commands, see package busybox.
// wasm has those too, and beside them the WASI modules that its profile names.
// Package kernel is what they run on; nothing in there can reach a file or a
// socket of the host.
package wasm

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/wasm/busybox"
	"github.com/kilntainers/kilntainers/backends/wasm/kernel"
)

// Limits that no profile sets. The memory limit bounds how many processes
// there are in practice.
const (
	maxProcesses = 64
	maxFiles     = 256
)

// maxModule is how large a module of a profile may be.
const maxModule = 256 << 20

// bytesPerInode gives the number of files that fs_limit allows.
const bytesPerInode = 1 << 10

// features is what both drivers can do.
var features = backends.Features{Background: true, Signals: true, Shell: true}

// Drivers returns the drivers go_busybox and wasm. Compiled modules are kept
// in the directory wasm below cacheDir(), which is called when the first
// backend is opened; "" keeps none, and then every start of the daemon
// compiles for some seconds.
func Drivers(cacheDir func() string) []backends.Driver {
	h := &host{cacheDir: cacheDir}
	return []backends.Driver{
		{
			Name:     "go_busybox",
			Features: features,
			Options:  func() backends.Options { return &BusyboxOptions{defaults} },
			Describe: func(s backends.Spec, o backends.Options) string { return describe(s, o.(*BusyboxOptions).options, nil) },
			Open: func(s backends.Spec, o backends.Options, log *slog.Logger) (backends.Backend, error) {
				return h.open(s, o.(*BusyboxOptions).options, nil, log), nil
			},
		},
		{
			Name:     "wasm",
			Features: features,
			Options:  func() backends.Options { return &ModuleOptions{options: defaults} },
			Describe: func(s backends.Spec, o backends.Options) string {
				return describe(s, o.(*ModuleOptions).options, slices.Sorted(maps.Keys(o.(*ModuleOptions).modules())))
			},
			Open: func(s backends.Spec, o backends.Options, log *slog.Logger) (backends.Backend, error) {
				return h.open(s, o.(*ModuleOptions).options, o.(*ModuleOptions).modules(), log), nil
			},
		},
	}
}

// options are the keys of both drivers.
type options struct {
	// MaxMemory is the memory of all processes of a sandbox, in MiB.
	MaxMemory int64 `toml:"wasm_max_memory"`
	// Fuel is how many WebAssembly instructions one call may run; 0 means as
	// many as it can in its time. Counting them makes programs slower by a
	// third.
	Fuel int64 `toml:"wasm_fuel"`
	// FSLimit is the size of all files that a sandbox may have.
	FSLimit backends.Size `toml:"fs_limit"`
	// AllowGuest lets a sandbox run modules that were written inside it.
	AllowGuest bool `toml:"allow_guest_wasm"`
}

var defaults = options{MaxMemory: 256, FSLimit: 64 << 20}

// BusyboxOptions are the keys of go_busybox.
type BusyboxOptions struct{ options }

// ModuleOptions are the keys of wasm.
type ModuleOptions struct {
	options
	// Path is a module; its command is the file's name without ".wasm".
	Path string `toml:"wasm_path"`
	// Commands are more modules, by the name of their command.
	Commands map[string]string `toml:"commands"`
}

// modules returns the path of each command's module.
func (o *ModuleOptions) modules() map[string]string {
	all := map[string]string{strings.TrimSuffix(filepath.Base(o.Path), ".wasm"): o.Path}
	maps.Copy(all, o.Commands)
	return all
}

func problem(key, format string, args ...any) error {
	return &backends.OptionError{Key: key, Problem: fmt.Sprintf(format, args...)}
}

// Validate reports what is wrong with the options.
func (o *BusyboxOptions) Validate() error { return o.validate() }

func (o *options) validate() error {
	var errs []error
	if o.MaxMemory < 16 || o.MaxMemory > 65536 {
		errs = append(errs, problem("wasm_max_memory", "%d is out of range; it is in MiB, from 16 to 65536", o.MaxMemory))
	}
	if o.Fuel < 0 {
		errs = append(errs, problem("wasm_fuel", "%d is negative; it is a number of instructions, or 0 for no limit", o.Fuel))
	}
	if o.FSLimit < 64<<10 || o.FSLimit > 64<<30 {
		errs = append(errs, problem("fs_limit", "%v is out of range; it is a size from \"64k\" to \"64g\"", o.FSLimit))
	}
	return errors.Join(errs...)
}

var commandName = regexp.MustCompile(`^[A-Za-z0-9_+][A-Za-z0-9._+-]*$`)

// Validate reports what is wrong with the options, and with the modules that
// they name. It reads those: a module that cannot run is a mistake in the
// profile, and the place to say so is where the profile is loaded. It does not
// compile them.
func (o *ModuleOptions) Validate() error {
	errs := []error{o.validate()}
	check := func(key, path string) {
		if err := checked.module(path); err != nil {
			errs = append(errs, problem(key, "%s: %v", path, err))
		}
	}
	if o.Path == "" {
		errs = append(errs, problem("wasm_path", "it is missing; give the path of a WASI module"))
	} else if name := strings.TrimSuffix(filepath.Base(o.Path), ".wasm"); !commandName.MatchString(name) {
		errs = append(errs, problem("wasm_path", "%q cannot be the name of a command; give it one with commands, or rename the file", name))
	} else {
		check("wasm_path", o.Path)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Commands)) {
		key := "commands." + name
		if !commandName.MatchString(name) {
			errs = append(errs, problem(key, "%q cannot be the name of a command; use letters, digits, and _ + - .", name))
			continue
		}
		check(key, o.Commands[name])
	}
	return errors.Join(errs...)
}

// checked remembers what was wrong with modules, because every reload checks
// every profile.
var checked moduleChecks

type moduleChecks struct {
	mu   sync.Mutex
	seen map[string]moduleCheck
}

type moduleCheck struct {
	size int64
	time time.Time
	err  error
}

// module returns why the module at path cannot be a command, nil if it can.
func (c *moduleChecks) module(path string) error {
	if !filepath.IsAbs(path) {
		return errors.New("it is not absolute; write the whole path")
	}
	fi, err := os.Stat(path)
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return err
	}
	if !fi.Mode().IsRegular() {
		return errors.New("it is not a file; give the path of a WASI module")
	}
	if fi.Size() > maxModule {
		return fmt.Errorf("it has %d MiB; a module has at most %d", fi.Size()>>20, maxModule>>20)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if m, found := c.seen[path]; found && m.size == fi.Size() && m.time.Equal(fi.ModTime()) {
		return m.err
	}
	wasm, err := os.ReadFile(path)
	if err == nil {
		err = kernel.Check(wasm)
	}
	if c.seen == nil {
		c.seen = map[string]moduleCheck{}
	}
	c.seen[path] = moduleCheck{fi.Size(), fi.ModTime(), err}
	return err
}

// describe tells a model what it has got.
func describe(s backends.Spec, o options, modules []string) string {
	var b strings.Builder
	b.WriteString("A Linux-like sandbox in WebAssembly, with a POSIX shell that has most of bash")
	if s.Shell != "" {
		fmt.Fprintf(&b, " (this profile uses %s)", s.Shell)
	}
	if len(modules) > 0 {
		fmt.Fprintf(&b, ", the programs %s", strings.Join(modules, ", "))
	}
	fmt.Fprintf(&b, ", and these commands and no others: %s.\n", strings.Join(busybox.Applets(), " "))
	b.WriteString("There is no network and no package manager; programs for Linux do not run. ")
	dir := s.Dir
	if dir == "" {
		dir = home
	}
	fmt.Fprintf(&b, "Commands start in %s. Limits: %d MiB of memory, %v of files, %d processes", dir, o.MaxMemory, o.FSLimit, maxProcesses)
	if o.Fuel > 0 {
		fmt.Fprintf(&b, ", %d WebAssembly instructions for each call", o.Fuel)
	}
	b.WriteString(". Files and background processes stay between calls; shell variables and the working directory do not.")
	return b.String()
}
