package wasm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/wasm/busybox"
	"github.com/kilntainers/kilntainers/backends/wasm/kernel"
)

// host is the kernel that all profiles share. It starts with the first of
// them and stays for good: without programs it holds next to nothing.
type host struct {
	cacheDir func() string

	once   sync.Once
	kernel *kernel.Kernel
	err    error
}

func (h *host) start(log *slog.Logger) (*kernel.Kernel, error) {
	h.once.Do(func() {
		dir := h.cacheDir()
		if dir != "" {
			dir = filepath.Join(dir, "wasm")
		}
		h.kernel, h.err = kernel.New(dir, log)
	})
	return h.kernel, h.err
}

// backend makes the sandboxes of one profile. Its programs are loaded in the
// background from Open on, which takes seconds when they are not in the cache.
type backend struct {
	backends.NoTickets

	spec    backends.Spec
	options options
	modules map[string]string // path by command
	log     *slog.Logger

	cancel context.CancelFunc
	loaded chan struct{} // closed when the rest is set

	kernel   *kernel.Kernel
	programs []*kernel.Program // to release
	shell    *kernel.Program
	image    []kernel.File
	err      error
}

func (h *host) open(s backends.Spec, o options, modules map[string]string, log *slog.Logger) *backend {
	ctx, cancel := context.WithCancel(context.Background())
	b := &backend{spec: s, options: o, modules: modules, log: log, cancel: cancel, loaded: make(chan struct{})}
	go func() {
		defer close(b.loaded)
		if b.kernel, b.err = h.start(log); b.err != nil {
			return
		}
		if b.err = b.load(ctx); b.err != nil && ctx.Err() == nil {
			log.Error("load WebAssembly programs", "profile", s.Profile, "error", b.err)
		}
	}()
	return b
}

// load gets all programs ready and makes the image.
func (b *backend) load(ctx context.Context) error {
	load := func(wasm []byte) (*kernel.Program, error) {
		g, err := b.kernel.Load(ctx, wasm, kernel.LoadOptions{Fuel: b.options.Fuel > 0})
		if err == nil {
			b.programs = append(b.programs, g)
		}
		return g, err
	}
	wasm, err := busybox.Module()
	if err != nil {
		return err
	}
	if b.shell, err = load(wasm); err != nil {
		return fmt.Errorf("busybox: %w", err)
	}
	b.image = baseImage(b.shell, busybox.Applets())
	for _, name := range slices.Sorted(maps.Keys(b.modules)) {
		file := b.modules[name]
		wasm, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("command %s: %w", name, err)
		}
		g, err := load(wasm)
		if err != nil {
			return fmt.Errorf("command %s: %s: %w", name, file, err)
		}
		b.image = append(b.image, kernel.File{Path: "/usr/local/bin/" + name, Program: g})
	}
	if dir := b.spec.Dir; dir != "" {
		b.image = append(b.image, parents(path.Clean(dir))...)
	}
	return nil
}

// wait waits until the programs are loaded.
func (b *backend) wait(ctx context.Context) error {
	select {
	case <-b.loaded:
		return b.err
	default:
	}
	backends.Report(ctx, backends.Progress{Message: "compiling WebAssembly programs"})
	select {
	case <-b.loaded:
		return b.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Check reports whether the programs are, or can be, ready to run. It waits
// for them.
func (b *backend) Check(ctx context.Context) error { return b.wait(ctx) }

func (b *backend) Create(ctx context.Context) (backends.Sandbox, error) {
	if err := b.wait(ctx); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	size := int64(b.options.FSLimit)
	machine := b.kernel.NewSandbox(kernel.Limits{
		Memory:       b.options.MaxMemory << 20,
		Bytes:        size,
		Inodes:       max(size/bytesPerInode, 64),
		Processes:    maxProcesses,
		Files:        maxFiles,
		Fuel:         b.options.Fuel,
		GuestModules: b.options.AllowGuest,
	}, b.image)
	var id [6]byte
	rand.Read(id[:])
	return &sandbox{
		id: "wasm-" + hex.EncodeToString(id[:]), backend: b, machine: machine,
		done: make(chan struct{}), closed: make(chan struct{}),
	}, nil
}

func (b *backend) Close() error {
	b.cancel()
	<-b.loaded
	for _, g := range b.programs {
		b.kernel.Release(g)
	}
	return nil
}

// home is root's, and where commands start.
const home = "/root"

// environment is what every command has, unless its profile says otherwise.
var environment = map[string]string{
	"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": home, "USER": "root", "LOGNAME": "root", "SHELL": "/bin/sh",
	"LANG": "C.UTF-8", "TERM": "dumb", "HOSTNAME": "sandbox",
}

// baseImage is the files of a new sandbox. See ABI.md, 8.
func baseImage(busybox *kernel.Program, applets []string) []kernel.File {
	var image []kernel.File
	for _, dir := range strings.Fields("/bin /etc /home /root /tmp /usr /usr/local /usr/local/bin /usr/share /var /var/tmp") {
		f := kernel.File{Path: dir, Dir: true}
		switch path.Base(dir) {
		case "tmp":
			f.Mode = 0o1777
		case "root":
			f.Mode = 0o700
		}
		image = append(image, f)
	}
	for _, dir := range []string{"/usr/bin", "/usr/sbin", "/sbin"} {
		image = append(image, kernel.File{Path: dir, Link: "/bin"})
	}
	for name, text := range map[string]string{
		"passwd":     "root:x:0:0:root:/root:/bin/sh\n",
		"group":      "root:x:0:\n",
		"hostname":   "sandbox\n",
		"hosts":      "127.0.0.1\tlocalhost sandbox\n",
		"os-release": "NAME=\"Kilntainers WebAssembly\"\nID=kilntainers\nPRETTY_NAME=\"Kilntainers WebAssembly sandbox\"\n",
		"profile":    "export PATH=/usr/local/bin:/usr/bin:/bin\n",
	} {
		image = append(image, kernel.File{Path: "/etc/" + name, Data: []byte(text)})
	}
	image = append(image, kernel.File{Path: "/bin/busybox", Program: busybox})
	for _, name := range applets {
		if name != "busybox" {
			image = append(image, kernel.File{Path: "/bin/" + name, Link: "busybox"})
		}
	}
	return image
}

// parents are the directories that lead to dir, and dir.
func parents(dir string) (all []kernel.File) {
	if dir != "/" {
		all = append(parents(path.Dir(dir)), kernel.File{Path: dir, Dir: true})
	}
	return all
}
