package kernel

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/kilntainers/kilntainers/backends/wasm/meter"
)

// meterFuel is the meter's global.
const meterFuel = meter.Fuel

// Fuel that is granted at once: how much runs between two ticks. It is a
// fraction of a millisecond's worth.
const (
	sliceCalls        = 1 << 15
	sliceInstructions = 1 << 20
)

// initTime is how long a module may take to initialise itself.
const initTime = 30 * time.Second

// The exports that make a module a program, see ABI.md.
const (
	exportStart = "_start"
	exportInit  = "_initialize"
	exportMain  = "kiln_main"
)

// Program is a module that is ready to run: rewritten, compiled, and with the
// memory that its processes start from. All sandboxes share it.
type Program struct {
	Bytes []byte // as it came

	key      programKey
	kernel   *Kernel
	runtime  wazero.Runtime
	compiled wazero.CompiledModule
	entry    string
	image    *image
	size     uint64   // of the memory at the start
	globals  []string // exports to save and restore
	values   []uint64 // of the globals at the start; nil: as instantiated
	slice    int64
	goGuest  bool
	pure     bool // instances can be used again
}

// snapshots reports whether processes start from a snapshot (ABI.md, 6).
func (g *Program) snapshots() bool { return g.entry == exportMain }

// Check reports whether a module could be a program, without compiling it:
// whether it is one, whether the kernel has all it imports, whether the meter
// understands it.
func Check(wasm []byte) error {
	_, err := rewrite(wasm, meter.Options{})
	return err
}

func rewrite(wasm []byte, o meter.Options) (*meter.Module, error) {
	m, err := meter.Rewrite(wasm, o)
	if err != nil {
		return nil, err
	}
	for _, i := range m.Imports {
		if !hostHas(i.Module, i.Name) {
			return nil, fmt.Errorf("it imports %s.%s, which sandboxes do not have; modules for wasi_snapshot_preview1 work", i.Module, i.Name)
		}
	}
	kind, command := m.Exports[exportStart]
	if command && kind == meter.Func {
		return m, nil
	}
	_, init := m.Exports[exportInit]
	_, main := m.Exports[exportMain]
	switch {
	case init && main && !m.Start && m.Pure:
		return m, nil
	case init && main:
		return nil, errors.New("a module with kiln_main may have no start function and may not change its tables")
	}
	return nil, errors.New("it is no command: it does not export the function _start; build an executable, not a library")
}

// load makes a program of a module. It is slow: seconds for ten megabytes that
// are not in the cache.
func (k *Kernel) load(ctx context.Context, wasm []byte, o meter.Options) (*Program, error) {
	m, err := rewrite(wasm, o)
	if err != nil {
		return nil, err
	}
	g := &Program{
		Bytes: wasm, kernel: k, entry: exportStart, size: uint64(m.MinPages) << 16,
		globals: m.Globals, slice: sliceCalls, goGuest: m.Go, pure: m.Pure && !m.Start,
	}
	if o.Instructions {
		g.slice = sliceInstructions
	}
	if _, command := m.Exports[exportStart]; !command {
		g.entry = exportMain
	}
	g.runtime = k.runtime
	if o.Hostile {
		if g.runtime, err = k.guestRuntime(); err != nil {
			return nil, err
		}
	}
	workers := experimental.WithCompilationWorkers(ctx, max(2, runtime.GOMAXPROCS(0)))
	if g.compiled, err = g.runtime.CompileModule(workers, m.Wasm); err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	err = g.sameTypes()
	if err == nil && m.Image != nil {
		g.image, err = newImage(m.Image)
	}
	if err == nil && g.snapshots() {
		err = g.initialize(ctx)
	}
	if err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

func (g *Program) close() {
	g.compiled.Close(context.Background())
	if g.image != nil {
		g.image.close()
	}
}

// sameTypes checks that imports have the types of what they get.
func (g *Program) sameTypes() error {
	for _, f := range g.compiled.ImportedFunctions() {
		module, name, _ := f.Import()
		have := g.runtime.Module(module).ExportedFunctionDefinitions()[name]
		if !slices.Equal(f.ParamTypes(), have.ParamTypes()) || !slices.Equal(f.ResultTypes(), have.ResultTypes()) {
			return fmt.Errorf("it imports %s.%s with the wrong type", module, name)
		}
	}
	return nil
}

// initialize runs _initialize once, in a sandbox with nothing in it, and makes
// what is in memory then the memory that processes start from.
func (g *Program) initialize(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, initTime)
	defer cancel()
	sb := g.kernel.NewSandbox(Limits{Memory: 1 << 30, Bytes: 1 << 20, Inodes: 64, Processes: 1, Files: 16}, nil)
	defer sb.Close()
	p := sb.template(g)
	stop := context.AfterFunc(ctx, func() {
		sb.mu.Lock()
		defer sb.mu.Unlock()
		p.kill(sigKILL)
	})
	defer stop()
	p.resume()
	defer p.yield()
	pctx := context.WithValue(context.Background(), procKey{}, p)
	in, err := g.instance(pctx, p)
	if err != nil {
		return err
	}
	defer in.module.Close(pctx)
	if _, err := in.module.ExportedFunction(exportInit).Call(pctx); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("%s: %w", exportInit, err)
	}
	mem := in.module.Memory()
	b, _ := mem.Read(0, mem.Size())
	snapshot, err := newImage(b)
	if err != nil {
		return err
	}
	if g.image != nil {
		g.image.close()
	}
	g.image, g.size = snapshot, uint64(len(b))
	g.values = in.save()
	g.values[0], g.values[1] = 0, 0 // fuel and depth
	return nil
}

// instance is a module instance that one process at a time uses.
type instance struct {
	program *Program
	module  api.Module
	memory  *linear
	globals []api.MutableGlobal
	values  []uint64 // of the globals before the first run
	fuel    api.MutableGlobal
}

// instance returns one that p may run: a used one of the same sandbox, or a
// new one.
func (g *Program) instance(ctx context.Context, p *Proc) (in *instance, err error) {
	if in := p.sb.reuse(g); in != nil {
		in.memory.p = p
		return in, nil
	}
	in = &instance{program: g}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("instantiate: %v", r)
		}
		if err != nil && in.memory != nil {
			in.memory.Free()
		}
	}()
	ctx = experimental.WithMemoryAllocator(ctx, g.allocator(p, &in.memory))
	in.module, err = g.runtime.InstantiateModule(ctx, g.compiled,
		wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		return nil, err
	}
	if mem := in.module.Memory(); mem != nil && uint64(mem.Size()) != g.size {
		return nil, fmt.Errorf("memory is %d bytes after start, not %d", mem.Size(), g.size)
	}
	for _, name := range g.globals {
		in.globals = append(in.globals, in.module.ExportedGlobal(name).(api.MutableGlobal))
	}
	in.fuel = in.globals[0]
	if in.values = g.values; in.values == nil {
		in.values = in.save()
	} else {
		in.restore()
	}
	return in, nil
}

func (in *instance) save() (values []uint64) {
	for _, g := range in.globals {
		values = append(values, g.Get())
	}
	return values
}

func (in *instance) restore() {
	for i, g := range in.globals {
		g.Set(in.values[i])
	}
}

func (in *instance) call(ctx context.Context) error {
	_, err := in.module.ExportedFunction(in.program.entry).Call(ctx)
	return err
}

// shrink gives the memory the size it had at the start: most Go programs grow
// theirs by a little. There is no call for that, but what grows a memory asks
// us for the new one, and takes what it is given.
func (in *instance) shrink() bool {
	if in.memory.size == in.program.size {
		return true
	}
	in.memory.shrinking = true
	in.module.Memory().Grow(1)
	return !in.memory.shrinking && uint64(in.module.Memory().Size()) == in.program.size
}

// used is how many instances a sandbox keeps for use again.
const used = 4

func (sb *Sandbox) reuse(g *Program) *instance {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	for i, in := range sb.used {
		if in.program == g {
			sb.used = slices.Delete(sb.used, i, i+1)
			return in
		}
	}
	return nil
}

// recycle keeps an instance whose process has ended, made as new, for the next
// process of the same sandbox, or closes it. A new one costs ten times as
// much.
func (sb *Sandbox) recycle(in *instance) {
	keep := in.program.pure && in.memory != nil
	if keep && reset(in.memory.all, in.memory.size, in.memory.image) == nil && in.shrink() {
		in.restore()
		sb.mu.Lock()
		if keep = !sb.closed && len(sb.used) < used; keep {
			sb.used = append(sb.used, in)
		}
		sb.mu.Unlock()
	}
	if !keep {
		in.module.Close(context.Background())
	}
}
