package kernel

import (
	"context"
	"errors"

	"github.com/tetratelabs/wazero/api"

	"github.com/kilntainers/kilntainers/backends/wasm/meter"
)

// hostModules is everything a guest can import.
var hostModules []hostModule

func init() {
	// Not an initialiser: calls lead to Check, and Check to this list.
	hostModules = []hostModule{
		{"wasi_snapshot_preview1", wasiCalls()},
		{meter.Host, kilnCalls()},
	}
}

type hostModule struct {
	name  string
	calls map[string]hostCall
}

func hostHas(module, name string) bool {
	for _, m := range hostModules {
		if m.name == module {
			_, found := m.calls[name]
			return found
		}
	}
	return false
}

// hostCall is a function that guests import.
type hostCall struct {
	params, results []api.ValueType
	do              func(p *Proc, m api.Module, stack []uint64)
}

// procKey is the context's key for the process whose code runs.
type procKey struct{}

func (c hostCall) function() api.GoModuleFunc {
	return func(ctx context.Context, m api.Module, stack []uint64) {
		c.do(ctx.Value(procKey{}).(*Proc), m, stack)
	}
}

// call makes a function that returns an errno. Its parameters are i32 for "i"
// and i64 for "I". It runs with the lock; see Proc.sleep for how it waits. It
// does not return to a process that was killed.
func call(signature string, f func(p *Proc, m memory, a args) errno) hostCall {
	c := hostCall{results: []api.ValueType{api.ValueTypeI32}}
	for _, s := range signature {
		t := api.ValueTypeI32
		if s == 'I' {
			t = api.ValueTypeI64
		}
		c.params = append(c.params, t)
	}
	c.do = func(p *Proc, m api.Module, stack []uint64) {
		p.sb.mu.Lock()
		defer p.sb.mu.Unlock()
		p.check()
		stack[0] = uint64(f(p, memory{m.Memory()}, stack))
	}
	return c
}

// plain makes a function without parameters and results that the meter calls.
func plain(f func(p *Proc, m api.Module)) hostCall {
	return hostCall{do: func(p *Proc, m api.Module, _ []uint64) { f(p, m) }}
}

var errStack = errors.New("call stack exhausted")

// args are the parameters of a call.
type args []uint64

func (a args) u32(i int) uint32 { return uint32(a[i]) }
func (a args) i32(i int) int32  { return int32(uint32(a[i])) }

// memory is the guest's. Every address in it is hostile.
type memory struct{ api.Memory }

func (m memory) bytes(at, n uint32) ([]byte, errno) {
	b, found := m.Read(at, n)
	if !found {
		return nil, eFAULT
	}
	return b, ok
}

func (m memory) str(at, n uint32) (string, errno) {
	b, e := m.bytes(at, n)
	if e == ok && n > maxPath {
		e = eNAMETOOLONG
	}
	if e != ok {
		return "", e
	}
	return string(b), ok
}

func (m memory) put32(at, v uint32) errno {
	if !m.WriteUint32Le(at, v) {
		return eFAULT
	}
	return ok
}

func (m memory) put64(at uint32, v uint64) errno {
	if !m.WriteUint64Le(at, v) {
		return eFAULT
	}
	return ok
}

// fill writes b to a buffer when it fits, and its length in any case.
func (m memory) fill(at, size, length uint32, b []byte) errno {
	if uint64(len(b)) <= uint64(size) && !m.Write(at, b) {
		return eFAULT
	}
	return m.put32(length, uint32(len(b)))
}
