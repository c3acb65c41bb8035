package wasm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/kilntainers/kilntainers/backends"
	"github.com/kilntainers/kilntainers/backends/wasm/kernel"
)

// sandbox is one machine in memory. It ends only by Close.
type sandbox struct {
	backends.NoTickets

	id      string
	backend *backend
	machine *kernel.Sandbox

	once   sync.Once
	done   chan struct{} // closed when Close begins
	closed chan struct{} // closed when nothing is left
}

func (s *sandbox) ID() string            { return s.id }
func (s *sandbox) Done() <-chan struct{} { return s.done }

func (s *sandbox) Err() error {
	select {
	case <-s.done:
		return backends.ErrClosed
	default:
		return nil
	}
}

func (s *sandbox) Close(ctx context.Context) error {
	s.once.Do(func() {
		close(s.done)
		go func() {
			defer close(s.closed)
			s.machine.Close()
		}()
	})
	select {
	case <-s.closed:
		return nil
	default:
	}
	select {
	case <-s.closed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close %s: %w", s.id, context.Cause(ctx))
	}
}

// Exec runs a command. A shell command runs in the image's shell whatever the
// sandbox has done to /bin.
func (s *sandbox) Exec(ctx context.Context, e backends.Exec) (backends.Exit, error) {
	if ctx.Err() != nil {
		return backends.Exit{}, context.Cause(ctx)
	}
	spec := s.backend.spec
	c := kernel.Command{Argv: e.Args, Dir: e.Dir, Env: environ(environment, spec.Env, e.Env), Stdin: e.Stdin, Stdout: e.Stdout, Stderr: e.Stderr}
	if c.Dir == "" {
		c.Dir = spec.Dir
	}
	if c.Dir == "" {
		c.Dir = home
	}
	if e.Command != "" {
		c.Argv = []string{spec.Shell, "-c", e.Command}
		if spec.Shell == "" {
			c.Argv[0], c.Program = "bash", s.backend.shell
		}
	}
	if slices.ContainsFunc(append(slices.Clone(c.Argv), c.Env...), func(s string) bool { return strings.ContainsRune(s, 0) }) {
		return notRun(e.Stderr, 126, "an argument or a variable contains a NUL byte")
	}
	r, err := s.machine.Exec(ctx, c)
	var start *kernel.StartError
	switch {
	case errors.As(err, &start):
		return notRun(e.Stderr, start.Status, err.Error())
	case errors.Is(err, kernel.ErrClosed):
		return backends.Exit{}, backends.ErrClosed
	case err != nil:
		return backends.Exit{}, err
	case r.Fuel:
		return notRun(e.Stderr, 124, fmt.Sprintf("[kilntainers: fuel exhausted: the command ran more than %d WebAssembly instructions (wasm_fuel). Command terminated.]", s.backend.options.Fuel))
	}
	return backends.Exit{Code: r.Status, OOM: r.OOM}, nil
}

// notRun is the Exit of a command that could not be run, or not to its end,
// with the reason for whoever reads its errors.
func notRun(stderr io.Writer, code int, why string) (backends.Exit, error) {
	if stderr == nil {
		return backends.Exit{Code: code}, nil
	}
	_, err := fmt.Fprintln(stderr, why)
	return backends.Exit{Code: code}, err
}

// environ merges environments, the last first, in a fixed order.
func environ(layers ...map[string]string) []string {
	all := map[string]string{}
	for _, l := range layers {
		maps.Copy(all, l)
	}
	env := make([]string, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		env = append(env, name+"="+all[name])
	}
	return env
}
