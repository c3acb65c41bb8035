package meter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// A small assembler: enough to write the modules of these tests by hand.

func vec(items ...[]byte) []byte {
	b := appendU32(nil, uint32(len(items)))
	for _, i := range items {
		b = append(b, i...)
	}
	return b
}

func sized(b []byte) []byte { return append(appendU32(nil, uint32(len(b))), b...) }

func sec(id byte, items ...[]byte) []byte { return append([]byte{id}, sized(vec(items...))...) }

func module(sections ...[]byte) []byte {
	return append([]byte(header), bytes.Join(sections, nil)...)
}

func typ(params, results string) []byte {
	b := append([]byte{0x60}, sized(types(params))...)
	return append(b, sized(types(results))...)
}

// types turns "iI" into value types.
func types(s string) (b []byte) {
	for _, c := range s {
		b = append(b, map[rune]byte{'i': i32, 'I': i64, 'f': 0x7d, 'F': 0x7c, 'v': v128}[c])
	}
	return b
}

func export(name string, kind, index byte) []byte {
	return append(appendName(nil, name), kind, index)
}

// body is a function body; locals is one declared group of i32.
func body(locals byte, code ...byte) []byte {
	b := []byte{0}
	if locals > 0 {
		b = []byte{1, locals, i32}
	}
	return sized(append(append(b, code...), opEnd))
}

// one is a module with one function, exported as "f".
func one(params, results string, locals byte, code ...byte) []byte {
	return module(sec(secType, typ(params, results)), sec(secFunction, []byte{0}),
		sec(secMemory, []byte{0, 1}), sec(secExport, export("f", Func, 0)), sec(secCode, body(locals, code...)))
}

// engine runs modules, with the meter's two imports. tick gives the fuel that
// it is told to, and gives up after so many ticks.
type engine struct {
	r     wazero.Runtime
	slice int64
	ticks int
	limit int
}

var errStop, errStack = errors.New("stopped"), errors.New("stack")

func newEngine(t testing.TB, config wazero.RuntimeConfig) *engine {
	ctx := context.Background()
	e := &engine{r: wazero.NewRuntimeWithConfig(ctx, config), slice: 100, limit: 1000}
	t.Cleanup(func() { e.r.Close(ctx) })
	b := e.r.NewHostModuleBuilder(Host)
	b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(_ context.Context, m api.Module, _ []uint64) {
		if e.ticks++; e.ticks > e.limit {
			panic(errStop)
		}
		m.ExportedGlobal(Fuel).(api.MutableGlobal).Set(uint64(e.slice))
	}), nil, nil).Export(Tick)
	b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(context.Context, api.Module, []uint64) {
		panic(errStack)
	}), nil, nil).Export(Overflow)
	if _, err := b.Instantiate(ctx); err != nil {
		t.Fatal(err)
	}
	return e
}

// call runs the export "f" and returns the results as text, and the instance.
func (e *engine) call(wasm []byte, args ...uint64) (string, api.Module, error) {
	ctx := context.Background()
	m, err := e.r.InstantiateWithConfig(ctx, wasm, wazero.NewModuleConfig().WithName(""))
	if err != nil {
		return "", nil, fmt.Errorf("instantiate: %w", err)
	}
	out, err := m.ExportedFunction("f").Call(ctx, args...)
	return fmt.Sprint(out), m, err
}

// samples are modules whose function "f" takes one i32, each with something
// that the rewriter has to get right.
var samples = map[string][]byte{
	"nothing":      one("i", "", 0),
	"result":       one("i", "i", 0, opLocalGet, 0),
	"two results":  one("i", "iI", 0, opLocalGet, 0, opI64Const, 7),
	"early return": one("i", "i", 0, opLocalGet, 0, opIf, blockEmpty, opI32Const, 5, opReturn, opEnd, opI32Const, 6),
	"deep return": one("i", "i", 1, opBlock, blockEmpty, opLoop, blockEmpty, opBlock, blockEmpty, opLocalGet, 0, opReturn,
		opEnd, opEnd, opEnd, opI32Const, 1),
	"loop": one("i", "i", 1, opLoop, blockEmpty, opLocalGet, 1, opI32Const, 3, opI32Add, 0x21, 1,
		opLocalGet, 0, opI32Const, 1, opI32Sub, opLocalTee, 0, opBrIf, 0, opEnd, opLocalGet, 1),
	"branch table": one("i", "i", 0, opBlock, blockEmpty, opBlock, blockEmpty, opBlock, blockEmpty, opLocalGet, 0,
		opBrTable, 2, 0, 1, 2, opEnd, opI32Const, 10, opReturn, opEnd, opI32Const, 20, opReturn, opEnd, opI32Const, 30),
	"branch to the function": one("i", "i", 0, opI32Const, 9, opLocalGet, 0, opBrIf, 0, 0x1a, opI32Const, 8),
	"if with result":         one("i", "i", 0, opLocalGet, 0, opIf, i32, opI32Const, 1, opElse, opI32Const, 2, opEnd),
	"memory": one("i", "i", 0, opI32Const, 0, opI32Const, 7, opI32Const, 60, opBulk, 11, 0, // fill
		opI32Const, 50, opI32Const, 0, opI32Const, 10, opBulk, 10, 0, 0, // copy
		opI32Const, 52, 0x28, 2, 0), // load
	"vectors": one("i", "i", 0, opLocalGet, 0, opSIMD, 17, opLocalGet, 0, opSIMD, 17, opSIMD, 0xae, 1, opSIMD, 27, 2), // splat, add, extract
	"recursion": module(sec(secType, typ("i", "i")), sec(secFunction, []byte{0}), sec(secExport, export("f", Func, 0)),
		sec(secCode, body(0, opLocalGet, 0, opIf, i32, opLocalGet, 0, opI32Const, 1, opI32Sub, opCall, 0, opI32Const, 2, opI32Add, opElse, opI32Const, 0, opEnd))),
	"recursion with two results": module(sec(secType, typ("i", "ii")), sec(secFunction, []byte{0}), sec(secExport, export("f", Func, 0)),
		sec(secCode, body(0, opLocalGet, 0, opIf, 0x40, opLocalGet, 0, opI32Const, 1, opI32Sub, opCall, 0, opReturn, opEnd, opI32Const, 1, opI32Const, 2))),
	"table, elements, globals, data": module(sec(secType, typ("i", "i"), typ("", "")), sec(secFunction, []byte{0}, []byte{0}, []byte{1}),
		sec(secTable, []byte{0x70, 0, 2}), sec(secMemory, []byte{0, 1}),
		sec(secGlobal, []byte{i32, 1, opI32Const, 5, opEnd}, []byte{i64, 0, opI64Const, 1, opEnd}, []byte{i64, 1, opI64Const, 1, opEnd}),
		sec(secExport, export("f", Func, 0), export("memory", Memory, 0)), append([]byte{secStart}, sized([]byte{2})...),
		sec(secElement, append([]byte{0, opI32Const, 1, opEnd}, vec([]byte{1})...)),
		sec(secCode, body(0, opLocalGet, 0, opI32Const, 1, opCallIndirect, 0, 0, opI32Const, 4, 0x2d, 0, 0, opI32Add),
			body(0, opLocalGet, 0, opGlobalGet, 0, opI32Add), body(0, opI32Const, 50, opGlobalSet, 0)),
		sec(secData, append([]byte{0, opI32Const, 2, opEnd}, sized([]byte("abcd"))...))),
	"passive data": module(sec(secType, typ("i", "i")), sec(secFunction, []byte{0}), sec(secMemory, []byte{0, 1}),
		sec(secExport, export("f", Func, 0)), append([]byte{secDataCount}, sized([]byte{1})...),
		sec(secCode, body(0, opI32Const, 0, opI32Const, 1, opI32Const, 2, opBulk, 8, 0, 0, opI32Const, 0, 0x28, 2, 0)),
		sec(secData, append([]byte{1}, sized([]byte("abcd"))...))),
}

// A rewritten module does what the module does.
func TestSame(t *testing.T) {
	for name, wasm := range samples {
		for _, o := range []Options{{}, {Instructions: true}, {Hostile: true}} {
			t.Run(fmt.Sprintf("%s/%+v", name, o), func(t *testing.T) {
				e := newEngine(t, wazero.NewRuntimeConfigInterpreter())
				m, err := Rewrite(wasm, o)
				if err != nil {
					t.Fatal(err)
				}
				for arg := range uint64(5) {
					if name == "loop" {
						arg++ // it counts down
					}
					want, _, err := e.call(wasm, arg)
					if err != nil {
						t.Fatal(err)
					}
					got, in, err := e.call(withImage(m), arg)
					if err != nil || got != want {
						t.Errorf("f(%d): got %v, %v; want %v", arg, got, err, want)
					} else if d := in.ExportedGlobal(Depth).Get(); d != 0 {
						t.Errorf("f(%d): depth is %d afterwards", arg, d)
					}
				}
			})
		}
	}
}

// withImage puts the image back as a data segment, as a host would map it.
func withImage(m *Module) []byte {
	if len(m.Image) == 0 {
		return m.Wasm
	}
	seg := append([]byte{0, opI32Const, 0, opEnd}, sized(m.Image)...)
	return append(bytes.Clone(m.Wasm), sec(secData, seg)...)
}

func TestStops(t *testing.T) {
	forever := map[string][]byte{
		"loop":           one("", "", 0, opLoop, blockEmpty, opBr, 0, opEnd),
		"empty loop":     one("", "", 0, opLoop, blockEmpty, opLoop, blockEmpty, opBr, 1, opEnd, opEnd),
		"loop in a loop": one("", "", 0, opLoop, blockEmpty, opLoop, blockEmpty, opI32Const, 1, opBrIf, 1, opBr, 0, opEnd, opEnd),
		"loop of calls": module(sec(secType, typ("", "")), sec(secFunction, []byte{0}, []byte{0}), sec(secExport, export("f", Func, 0)),
			sec(secCode, body(0, opLoop, blockEmpty, opCall, 1, opBr, 0, opEnd), body(0))),
		"copies": one("", "", 0, bytes.Repeat([]byte{opI32Const, 0, opI32Const, 0, opI32Const, 0x80, 0x80, 4, opBulk, 10, 0, 0}, 2000)...),
	}
	for name, wasm := range forever {
		for _, o := range []Options{{}, {Instructions: true}} {
			t.Run(fmt.Sprintf("%s/%+v", name, o), func(t *testing.T) {
				e := newEngine(t, wazero.NewRuntimeConfigInterpreter())
				m, err := Rewrite(wasm, o)
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err = e.call(m.Wasm); !errors.Is(err, errStop) {
					t.Errorf("got %v, want %v", err, errStop)
				}
			})
		}
	}
}

// Recursion ends at the meter's limit, not at the engine's, whatever the
// function returns and however large its frame is.
func TestStack(t *testing.T) {
	const results = "iiii"
	for _, n := range []int{0, 1, 4} {
		for _, locals := range []byte{0, 100} {
			code := []byte{opCall, 0}
			wasm := module(sec(secType, typ("", results[:n])), sec(secFunction, []byte{0}), sec(secExport, export("f", Func, 0)), sec(secCode, body(locals, code...)))
			m, err := Rewrite(wasm, Options{})
			if err != nil {
				t.Fatal(err)
			}
			e := newEngine(t, wazero.NewRuntimeConfig()) // the interpreter has a limit of its own
			e.slice = 1 << 40
			if _, _, err := e.call(m.Wasm); !errors.Is(err, errStack) {
				t.Errorf("%d results, %d locals: got %v, want %v", n, locals, err, errStack)
			}
		}
	}
}

// With Instructions the fuel used is the number of instructions.
func TestFuel(t *testing.T) {
	m, err := Rewrite(samples["loop"], Options{Instructions: true})
	if err != nil {
		t.Fatal(err)
	}
	e := newEngine(t, wazero.NewRuntimeConfigInterpreter())
	e.slice = 1 << 30
	_, in, err := e.call(m.Wasm, 1000)
	if err != nil {
		t.Fatal(err)
	}
	used := e.slice - int64(in.ExportedGlobal(Fuel).Get())
	if used < 9*1000 || used > 11*1000 {
		t.Errorf("1000 turns of 9 instructions used %d", used)
	}
}

func TestFacts(t *testing.T) {
	wasm := samples["table, elements, globals, data"]
	m, err := Rewrite(wasm, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if string(m.Image) != "\x00\x00abcd" || m.MinPages != 1 || !m.Start || !m.Pure || len(m.Globals) != 4 || m.Exports["memory"] != Memory {
		t.Errorf("got %q %d %v %v %v %v", m.Image, m.MinPages, m.Start, m.Pure, m.Globals, m.Exports)
	}
	if m, _ := Rewrite(samples["passive data"], Options{}); m.Image != nil {
		t.Error("passive data was moved")
	}
}

func TestRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		wasm []byte
		want string
	}{
		"empty":            {nil, "not a WebAssembly module"},
		"script":           {[]byte("#!/bin/sh\n"), "not a WebAssembly module"},
		"component":        {[]byte("\x00asm\x0d\x00\x01\x00"), "it is a component"},
		"cut off":          {samples["loop"][:40], "unexpected end"},
		"tail call":        {one("", "", 0, 0x12, 0), "tail calls are not supported"},
		"exceptions":       {one("", "", 0, 0x06, blockEmpty, opEnd), "exception handling is not supported"},
		"threads":          {one("", "", 0, 0xfe, 3, 0), "threads and atomic instructions are not supported"},
		"tag section":      {module(append([]byte{13}, sized([]byte{0})...)), "exception handling"},
		"imported memory":  {module(sec(secImport, append(appendName(appendName(nil, "env"), "memory"), Memory, 0, 1))), "env.memory, which is not a function"},
		"shared memory":    {module(sec(secMemory, []byte{3, 1, 2})), "shared"},
		"large table":      {module(sec(secTable, appendU32([]byte{0x70, 0}, 1<<24))), "more than 1048576 entries"},
		"our own export":   {module(sec(secExport, export("kiln:fuel", Global, 0))), "names that begin with kiln: are taken"},
		"wrong order":      {module(sec(secCode), sec(secType)), "out of order"},
		"no bodies":        {module(sec(secType, typ("", "")), sec(secFunction, []byte{0}), sec(secCode)), "1 functions but 0 bodies"},
		"unknown":          {one("", "", 0, 0x27), "instruction 0x27 is not supported"},
		"relaxed vectors":  {one("", "", 0, opSIMD, 0x80, 2), "relaxed SIMD"},
		"many locals":      {module(sec(secType, typ("", "")), sec(secFunction, []byte{0}), sec(secCode, sized(append(append([]byte{1}, appendU32(nil, 1<<31)...), i32, opEnd)))), "local variables"},
		"code, count":      {module(append([]byte{secCode}, sized(appendU32(nil, 1<<32-1))...)), "vector of 4294967295 elements"},
		"code, rest":       {module(append([]byte{secCode}, sized([]byte{0, 7})...)), "1 bytes after the last body"},
		"data, count":      {module(append([]byte{secData}, sized(appendU32(nil, 1<<32-1))...)), "vector of 4294967295 elements"},
		"data, length":     {module(append([]byte{secData}, sized(appendU32([]byte{1, 1}, 1<<32-1))...)), "section 11: unexpected end"},
		"data, kind":       {module(sec(secData, []byte{3, 0})), "data segment of an unknown kind 3"},
		"data, rest":       {module(append([]byte{secData}, sized([]byte{1, 1, 0, 7})...)), "1 bytes after the last segment"},
		"garbage collects": {module(sec(secType, []byte{0x5f, 0})), "garbage collection"},
	} {
		if _, err := Rewrite(c.wasm, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// Whatever the bytes are, Rewrite returns; and what it makes of a module that
// the engine accepts is one that the engine accepts.
func FuzzRewrite(f *testing.F) {
	for _, wasm := range samples {
		f.Add(wasm, false, false)
		f.Add(wasm, true, true)
	}
	names := appendU32(append(appendName(nil, "name"), 2, 6), 1<<32-1)
	f.Add(module(append([]byte{secCustom}, sized(names)...)), false, false)
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter())
	f.Cleanup(func() { r.Close(ctx) })
	accepts := func(wasm []byte) error {
		m, err := r.CompileModule(ctx, wasm)
		if err == nil {
			m.Close(ctx)
		}
		return err
	}
	f.Fuzz(func(t *testing.T, wasm []byte, instructions, hostile bool) {
		before := bytes.Clone(wasm)
		m, err := Rewrite(wasm, Options{Instructions: instructions, Hostile: hostile})
		if !bytes.Equal(wasm, before) {
			t.Fatal("the module was written to")
		}
		if err != nil || accepts(core(wasm)) != nil {
			return
		}
		if err := accepts(m.Wasm); err != nil {
			t.Errorf("the engine refuses the result: %v", err)
		}
	})
}

// core returns a module that Rewrite takes without its custom sections, which
// Rewrite drops too: the engine makes room for as many names as one claims to
// have, up to 100 GB.
func core(wasm []byte) []byte {
	out := []byte(header)
	for r := (&reader{b: wasm[len(header):]}); len(r.b) > 0; {
		start := r.b
		id := r.byte()
		r.take(r.u32())
		if id != secCustom {
			out = append(out, start[:len(start)-len(r.b)]...)
		}
	}
	return out
}
