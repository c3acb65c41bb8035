// Package kernel runs WebAssembly programs as the processes of small machines
// that exist in memory only.
//
//	Kernel ── Load ──► Program     one compiled module, shared by all
//	   │
//	   └─ NewSandbox ─► Sandbox    files, processes, limits
//	                      │
//	                      └─ Exec ─► process ─ spawn ─► process …
//	                                   │ wasi_snapshot_preview1, kiln_v1
//	                                   ▼
//	                           fd table ─► open file ─► file, pipe, pidfd …
//
// It is a kernel in the usual sense: it has the file system, descriptors,
// pipes, processes and signals, and guests reach them by calls. Its calls are
// wasi_snapshot_preview1 and a module of its own, kiln_v1, which ABI.md in the
// directory above defines. It opens no file and no socket of the host, so
// there is no path by which a guest could leave.
//
// Guests are hostile. Memory, files, inodes, processes, descriptors and fuel
// are bounded for each sandbox; processor time is shared out (see scheduler);
// package meter makes sure that any guest can be stopped within a slice.
//
// One lock for each sandbox guards all of it. Guest code runs without the
// lock; a call takes it, and gives it back to wait.
package kernel

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"

	"github.com/kilntainers/kilntainers/backends/wasm/meter"
)

// Kernel is the engine, its compiled programs and the scheduler. A daemon has
// one. It is safe for concurrent use.
type Kernel struct {
	log   *slog.Logger
	sched *scheduler
	boot  time.Time

	runtime wazero.Runtime // for modules of profiles
	cache   wazero.CompilationCache
	config  wazero.RuntimeConfig // without cache

	compiling chan struct{} // one at a time: it takes half a gigabyte
	loads     sync.WaitGroup

	mu       sync.Mutex
	programs map[programKey]*loading
	guests   wazero.Runtime // for modules of guests, of which nothing is kept; nil until there is one
}

type programKey struct {
	sum          [sha256.Size]byte
	instructions bool
	hostile      bool
}

// loading is a program that is, or is being, loaded.
type loading struct {
	users   int
	cancel  context.CancelFunc
	done    chan struct{}
	program *Program
	err     error
}

// New starts a kernel. Compiled code is kept in dir, which is made if need be
// and must be the daemon's alone, since what is in it is run; "" keeps none.
func New(dir string, log *slog.Logger) (*Kernel, error) {
	return newKernel(dir, log, canCompile())
}

func newKernel(dir string, log *slog.Logger, compile bool) (*Kernel, error) {
	k := &Kernel{log: log, sched: newScheduler(), boot: time.Now(),
		compiling: make(chan struct{}, 1), programs: map[programKey]*loading{}}
	config := wazero.NewRuntimeConfig()
	if !compile {
		log.Warn("the system forbids memory that is written and then run; WebAssembly is interpreted, which is 20 times slower",
			"remedy", "MemoryDenyWriteExecute=no")
		config = wazero.NewRuntimeConfigInterpreter()
	}
	config = config.WithDebugInfoEnabled(false)
	k.config = config
	if dir != "" {
		cache, err := openCache(dir)
		if err != nil {
			log.Warn("compiled WebAssembly is not kept", "error", err)
		} else {
			k.cache = cache
			config = config.WithCompilationCache(cache)
		}
	}
	var err error
	k.runtime, err = newRuntime(config)
	return k, err
}

// guestRuntime is the engine for modules of guests.
func (k *Kernel) guestRuntime() (wazero.Runtime, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	if k.guests == nil {
		k.guests, err = newRuntime(k.config)
	}
	return k.guests, err
}

func newRuntime(config wazero.RuntimeConfig) (wazero.Runtime, error) {
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, config)
	for _, m := range hostModules {
		b := r.NewHostModuleBuilder(m.name)
		for name, c := range m.calls {
			b.NewFunctionBuilder().WithGoModuleFunction(c.function(), c.params, c.results).Export(name)
		}
		if _, err := b.Instantiate(ctx); err != nil {
			return nil, fmt.Errorf("host module %s: %w", m.name, err)
		}
	}
	return r, nil
}

// openCache makes sure that nobody else can write what will be run.
func openCache(dir string) (wazero.CompilationCache, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("make cache directory: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return nil, fmt.Errorf("make cache directory: %w", err)
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	if !fi.IsDir() || !ownedByUs(fi) || fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("cache directory %s must be a directory of this user with mode 0700; it is %v", dir, fi.Mode())
	}
	return wazero.NewCompilationCacheWithDir(dir)
}

// LoadOptions say how a program is to be metered.
type LoadOptions struct {
	Fuel bool // exact, one unit for each instruction; slower
}

// Load compiles a module, or finds it compiled. It takes seconds for a module
// that is not in the cache; when ctx ends it returns at once. The module is
// not compiled a second time for another caller. Release undoes it.
func (k *Kernel) Load(ctx context.Context, wasm []byte, o LoadOptions) (*Program, error) {
	return k.loadOptions(ctx, wasm, meter.Options{Instructions: o.Fuel})
}

func (k *Kernel) loadOptions(ctx context.Context, wasm []byte, o meter.Options) (*Program, error) {
	key := programKey{sha256.Sum256(wasm), o.Instructions, o.Hostile}
	k.mu.Lock()
	l := k.programs[key]
	if l == nil {
		lctx, cancel := context.WithCancel(context.Background())
		l = &loading{done: make(chan struct{}), cancel: cancel}
		k.programs[key] = l
		k.loads.Add(1)
		go k.compile(lctx, key, l, wasm, o)
	}
	l.users++
	k.mu.Unlock()
	select {
	case <-l.done:
	case <-ctx.Done():
		k.release(key, l)
		return nil, context.Cause(ctx)
	}
	if l.err != nil {
		k.release(key, l)
		return nil, l.err
	}
	return l.program, nil
}

func (k *Kernel) compile(ctx context.Context, key programKey, l *loading, wasm []byte, o meter.Options) {
	defer k.loads.Done()
	defer close(l.done)
	select {
	case k.compiling <- struct{}{}:
		defer func() { <-k.compiling }()
	case <-ctx.Done():
		l.err = context.Cause(ctx)
		return
	}
	start := time.Now()
	if l.program, l.err = k.load(ctx, wasm, o); l.err != nil {
		return
	}
	l.program.key = key
	if took := time.Since(start); took > time.Second {
		k.log.Info("compiled a WebAssembly module", "bytes", len(wasm), "duration", took.Round(time.Millisecond))
		debug.FreeOSMemory() // compiling leaves hundreds of megabytes
	}
}

// Release gives a program back. When nobody has it any more, its code is
// freed. No process may run it then.
func (k *Kernel) Release(g *Program) {
	k.mu.Lock()
	l := k.programs[g.key]
	k.mu.Unlock()
	k.release(g.key, l)
}

func (k *Kernel) release(key programKey, l *loading) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users > 0 {
		return
	}
	if k.programs[key] == l {
		delete(k.programs, key)
	}
	l.cancel()
	k.loads.Add(1)
	go func() {
		defer k.loads.Done()
		<-l.done
		if l.program != nil {
			l.program.close()
		}
	}()
}

// Close frees the engine. Every sandbox was closed before.
func (k *Kernel) Close() error {
	k.mu.Lock()
	for _, l := range k.programs {
		l.cancel()
	}
	k.mu.Unlock()
	k.loads.Wait()
	ctx := context.Background()
	err := k.runtime.Close(ctx)
	if k.guests != nil {
		k.guests.Close(ctx)
	}
	if k.cache != nil {
		k.cache.Close(ctx)
	}
	return err
}
