// Package meter rewrites a WebAssembly module so that its host keeps control
// of it: the code can be stopped at any time, pays for what it runs, and
// cannot use up the native stack.
//
//	            ┌─ function entry ──────────┐   ┌─ loop header ─┐
//	fuel -= 1   │ fuel < 0 → call tick      │   │ the same      │
//	depth += n  │ depth > max → call overflow   └───────────────┘
//	            └─ function exit: depth -= n
//
// The rewriting is a pure function of the bytes. It adds two imports, a few
// globals and their exports (see the constants), and it moves the data
// segments into an image that the host can map instead of copying. It does not
// validate: what it does not understand it refuses, and the engine validates
// what it returns.
//
// The format is that of the WebAssembly core specification, version 2.0
// (https://www.w3.org/TR/wasm-core-2/), chapter 5.
package meter

import (
	"errors"
	"fmt"
	"strconv"
)

// What a rewritten module imports from and exports to its host.
const (
	Host     = "kiln_v1"  // module of both imports
	Tick     = "tick"     // () -> (): the fuel has run out; refill it or do not return
	Overflow = "overflow" // () -> (): the stack has run out; do not return

	Fuel   = "kiln:fuel"  // mutable i64; starts at 0, so the first call ticks
	Depth  = "kiln:depth" // mutable i32; 0 whenever no function runs
	global = "kiln:g"     // kiln:g0, kiln:g1 …: the module's own mutable globals
)

// MaxStack is the native stack one call may use, in bytes as the rewriter
// estimates them.
const MaxStack = 16 << 20

// maxTable bounds the entries of all tables together: they are the engine's
// memory, not the module's.
const maxTable = 1 << 20

// maxImage bounds the image that data segments are moved to.
const maxImage = 256 << 20

// Options say how to rewrite.
type Options struct {
	// Instructions charges one unit of fuel for each instruction. Otherwise
	// a unit is a function call, a turn of a loop or 64 instructions without
	// either, which costs less time.
	Instructions bool

	// Hostile is for modules that nobody vouches for: the stack estimate is
	// one that the compiler cannot exceed, about ten times what it needs.
	Hostile bool
}

// A Module is a rewritten module and what was learnt on the way.
type Module struct {
	Wasm    []byte
	Image   []byte   // initial memory from address 0 on; nil: the data is still in Wasm
	Globals []string // exports that together with the memory are the module's whole state
	Imports []Import // functions, without the ones added here
	Exports map[string]byte

	MinPages uint32 // initial size of the memory
	Start    bool   // has a start function, which runs when it is instantiated
	Go       bool   // was built by the Go toolchain
	Pure     bool   // its tables never change, so memory and globals are all that a run leaves behind
}

// Import is one imported function.
type Import struct{ Module, Name string }

// Kinds of imports and exports (5.5.5, 5.5.10).
const (
	Func   = 0
	Table  = 1
	Memory = 2
	Global = 3
)

// GlobalName is the export of the i-th mutable global.
func GlobalName(i int) string { return global + strconv.Itoa(i) }

// ErrNotWasm is returned for bytes that are no WebAssembly module of version 1.
var ErrNotWasm = errors.New("not a WebAssembly module")

const header = "\x00asm\x01\x00\x00\x00"

// Section ids (5.5.2).
const (
	secCustom = iota
	secType
	secImport
	secFunction
	secTable
	secMemory
	secGlobal
	secExport
	secStart
	secElement
	secCode
	secData
	secDataCount
)

// rank is the order in which sections stand in a module: the data count comes
// before the code.
func rank(id byte) int {
	if id == secDataCount {
		return secCode*2 - 1
	}
	return int(id) * 2
}

// Rewrite returns the module with its meter. It keeps nothing of wasm.
func Rewrite(wasm []byte, o Options) (*Module, error) {
	if len(wasm) < len(header) || string(wasm[:len(header)]) != header {
		if len(wasm) >= 8 && string(wasm[:4]) == header[:4] && wasm[6] == 1 {
			return nil, fmt.Errorf("%w: it is a component; build a core module (wasi preview 1)", ErrNotWasm)
		}
		return nil, ErrNotWasm
	}
	m := &rewriter{Options: o, out: &Module{Exports: map[string]byte{}, Pure: true}}
	sections, err := m.split(wasm)
	if err != nil {
		return nil, err
	}
	if err := m.survey(sections); err != nil {
		return nil, err
	}
	return m.out, m.write(sections)
}

type section struct {
	id   byte
	body []byte
}

type funcType struct {
	params, results []byte
	index           uint32 // of a type without parameters and with these results; made when results > 1
}

// rewriter holds what is known about the module being rewritten.
type rewriter struct {
	Options
	out   *Module
	types []funcType
	extra []byte // types added, encoded
	added uint32 // how many

	imports      uint32   // imported functions
	funcs        []uint32 // types: of the imported ones, then of the others
	globalImport uint32
	globals      uint32 // defined here
	mutable      []uint32
	passive      bool // memory.init or data.drop is used
	tickType     uint32
}

// Functions added as imports go behind the module's own imports and so move
// every other function up by two.
const addedImports = 2

func (m *rewriter) fn(i uint32) uint32 {
	if i >= m.imports {
		return i + addedImports
	}
	return i
}
func (m *rewriter) tick() uint32     { return m.imports }
func (m *rewriter) overflow() uint32 { return m.imports + 1 }
func (m *rewriter) fuel() uint32     { return m.globalImport + m.globals }
func (m *rewriter) depth() uint32    { return m.globalImport + m.globals + 1 }

// split cuts the module into sections and checks their order.
func (m *rewriter) split(wasm []byte) ([]section, error) {
	r := &reader{b: wasm[len(header):]}
	var all []section
	last := -1
	for len(r.b) > 0 && r.err == nil {
		id := r.byte()
		body := r.take(r.u32())
		if r.err != nil {
			return nil, fmt.Errorf("section %d: %w", id, r.err)
		}
		if id == secCustom {
			c := &reader{b: body}
			if name := c.name(); name == "go:buildid" {
				m.out.Go = true
			}
			continue // names and debugging lines would be wrong after rewriting
		}
		if id > secDataCount {
			return nil, fmt.Errorf("section %d is of a WebAssembly extension that is not supported (exception handling, garbage collection …)", id)
		}
		if rank(id) <= last {
			return nil, fmt.Errorf("section %d is out of order", id)
		}
		last = rank(id)
		all = append(all, section{id, body})
	}
	return all, nil
}

// survey reads everything but the code.
func (m *rewriter) survey(sections []section) error {
	for _, s := range sections {
		r := &reader{b: s.body}
		switch s.id {
		case secType:
			m.readTypes(r)
		case secImport:
			m.readImports(r)
		case secFunction:
			for n := r.count(); n > 0 && r.err == nil; n-- {
				m.funcs = append(m.funcs, r.index(len(m.types)))
			}
		case secMemory:
			if r.count() > 0 {
				if r.byte()&^1 != 0 {
					r.fail("memory is shared or 64-bit, which is not supported")
				}
				m.out.MinPages = r.u32()
			}
		case secGlobal:
			m.globals = r.count()
			for i := range m.globals {
				if r.err != nil {
					break
				}
				r.byte()
				if r.byte() == 1 {
					m.mutable = append(m.mutable, m.globalImport+i)
				}
				m.constExpr(r, nil)
			}
		case secExport:
			for n := r.count(); n > 0 && r.err == nil; n-- {
				name := r.name()
				kind := r.byte()
				r.u32()
				if len(name) >= 5 && name[:5] == "kiln:" {
					r.fail("export %q: names that begin with kiln: are taken", name)
				}
				m.out.Exports[name] = kind
			}
		case secStart:
			m.out.Start = true
		}
		if r.err != nil {
			return fmt.Errorf("section %d: %w", s.id, r.err)
		}
	}
	m.out.Globals = append(m.out.Globals, Fuel, Depth)
	for i := range m.mutable {
		m.out.Globals = append(m.out.Globals, GlobalName(i))
	}
	return nil
}

func (m *rewriter) readTypes(r *reader) {
	for n := r.count(); n > 0 && r.err == nil; n-- {
		if form := r.byte(); form != 0x60 {
			r.fail("type form %#x is not supported (garbage collection)", form)
		}
		t := funcType{params: r.take(r.u32()), results: r.take(r.u32())}
		m.types = append(m.types, t)
	}
	// Types for the block that wraps a function with several results, and
	// the type of the added imports.
	next := uint32(len(m.types))
	for i := range m.types {
		if t := &m.types[i]; len(t.results) > 1 {
			m.extra = append(m.extra, 0x60, 0)
			m.extra = appendU32(m.extra, uint32(len(t.results)))
			m.extra = append(m.extra, t.results...)
			t.index = next
			next++
		}
	}
	m.tickType = next
	m.extra = append(m.extra, 0x60, 0, 0)
	m.added = next + 1 - uint32(len(m.types))
}

func (m *rewriter) readImports(r *reader) {
	for n := r.count(); n > 0 && r.err == nil; n-- {
		i := Import{r.name(), r.name()}
		switch kind := r.byte(); kind {
		case Func:
			m.funcs = append(m.funcs, r.index(len(m.types)))
			m.imports++
			m.out.Imports = append(m.out.Imports, i)
		case Table, Memory, Global:
			r.fail("imports %s.%s, which is not a function; only functions can be imported", i.Module, i.Name)
		default:
			r.fail("import %s.%s is of an unknown kind %d", i.Module, i.Name, kind)
		}
	}
}

// write puts the new module together. Sections that must exist and do not are
// added where they belong.
func (m *rewriter) write(sections []section) error {
	has := map[byte]bool{}
	for _, s := range sections {
		has[s.id] = true
	}
	for _, id := range []byte{secType, secImport, secGlobal, secExport} {
		if !has[id] {
			at := 0
			for at < len(sections) && rank(sections[at].id) < rank(id) {
				at++
			}
			sections = append(sections[:at], append([]section{{id, []byte{0}}}, sections[at:]...)...)
		}
	}
	if !has[secType] {
		m.readTypes(&reader{b: []byte{0}})
	}

	// The code first: only it tells whether the data can be moved.
	var code []byte
	var data []byte
	for _, s := range sections {
		switch s.id {
		case secCode:
			var err error
			if code, err = m.code(s.body); err != nil {
				return err
			}
		case secData:
			data = s.body
		}
	}
	var err error
	if m.out.Image, err = m.lift(data); err != nil {
		return err
	}

	size := len(header) + len(code)
	for _, s := range sections {
		if s.id != secCode {
			size += len(s.body) + 16
		}
	}
	out := append(make([]byte, 0, size+64*len(m.mutable)+256), header...)
	for _, s := range sections {
		var b []byte
		r := &reader{b: s.body}
		switch s.id {
		case secType:
			b = appendU32(b, r.count()+m.added)
			b = append(append(b, r.b...), m.extra...)
		case secImport:
			b = appendU32(b, r.count()+addedImports)
			b = append(b, r.b...)
			for _, name := range []string{Tick, Overflow} {
				b = appendName(appendName(b, Host), name)
				b = appendU32(append(b, Func), m.tickType)
			}
		case secTable:
			b = m.tables(r)
		case secGlobal:
			b = appendU32(b, r.count()+2)
			for range m.globals {
				b = append(b, r.take(2)...)
				b = m.constExpr(r, b)
			}
			b = append(b, i64, 1, opI64Const, 0, opEnd)
			b = append(b, i32, 1, opI32Const, 0, opEnd)
		case secExport:
			b = m.exports(r)
		case secStart:
			b = appendU32(b, m.fn(r.u32()))
		case secElement:
			b = m.elements(r)
		case secCode:
			b = code
		case secData, secDataCount:
			if m.out.Image != nil {
				continue
			}
			b = s.body
		default:
			b = s.body
		}
		if r.err != nil {
			return fmt.Errorf("section %d: %w", s.id, r.err)
		}
		out = appendU32(append(out, s.id), uint32(len(b)))
		out = append(out, b...)
	}
	m.out.Wasm = out
	return nil
}

// tables copies the tables and bounds how far they can grow.
func (m *rewriter) tables(r *reader) (b []byte) {
	n := r.count()
	b = appendU32(b, n)
	left := uint32(maxTable)
	for ; n > 0 && r.err == nil; n-- {
		b = append(b, r.byte())
		flag, lo, hi := r.byte(), r.u32(), uint32(maxTable)
		if flag > 1 {
			r.fail("table of an unknown kind %d", flag)
		}
		if flag == 1 {
			hi = min(hi, r.u32())
		}
		if lo > left {
			r.fail("tables have more than %d entries", maxTable)
			return nil
		}
		hi = max(lo, min(hi, left))
		left -= hi
		b = appendU32(appendU32(append(b, 1), lo), hi)
	}
	return b
}

func (m *rewriter) exports(r *reader) (b []byte) {
	n := r.count()
	b = appendU32(b, n+uint32(len(m.out.Globals)))
	for ; n > 0 && r.err == nil; n-- {
		b = appendName(b, r.name())
		kind, i := r.byte(), r.u32()
		if kind == Func {
			i = m.fn(i)
		}
		b = appendU32(append(b, kind), i)
	}
	put := func(name string, i uint32) { b = appendU32(append(appendName(b, name), Global), i) }
	put(Fuel, m.fuel())
	put(Depth, m.depth())
	for i, g := range m.mutable {
		put(GlobalName(i), g)
	}
	return b
}

// elements copies the element segments with their function indices moved up.
func (m *rewriter) elements(r *reader) (b []byte) {
	n := r.count()
	b = appendU32(b, n)
	for ; n > 0 && r.err == nil; n-- {
		flag := r.u32()
		if flag > 7 {
			r.fail("element segment of an unknown kind %d", flag)
		}
		b = appendU32(b, flag)
		if flag&1 == 0 { // active
			if flag&2 != 0 {
				b = appendU32(b, r.u32())
			}
			b = m.constExpr(r, b)
		}
		if flag&3 != 0 {
			b = append(b, r.byte())
		}
		k := r.count()
		b = appendU32(b, k)
		for ; k > 0 && r.err == nil; k-- {
			if flag&4 == 0 {
				b = appendU32(b, m.fn(r.u32()))
			} else {
				b = m.constExpr(r, b)
			}
		}
	}
	return b
}

// constExpr copies a constant expression, up to and with its end, to b.
func (m *rewriter) constExpr(r *reader, b []byte) []byte {
	for r.err == nil {
		start := r.b
		op := r.byte()
		switch op {
		case opEnd:
			return append(b, op)
		case opI32Const, opI64Const, opGlobalGet, opRefNull:
			r.leb()
		case opF32Const:
			r.take(4)
		case opF64Const:
			r.take(8)
		case opRefFunc:
			b = appendU32(append(b, op), m.fn(r.u32()))
			continue
		case opSIMD:
			if r.u32() != 12 {
				r.fail("constant expression with a vector instruction")
			}
			r.take(16)
		default:
			r.fail("constant expression with instruction %#x, which is not supported", op)
		}
		b = append(b, start[:len(start)-len(r.b)]...)
	}
	return b
}

// lift applies the data segments to an image of the initial memory. The image
// is nil when there is a segment that an instance would have to apply by
// itself. The engine believes the lengths in this section, so they are checked
// also where the section is passed on.
func (m *rewriter) lift(data []byte) ([]byte, error) {
	image, all := []byte{}, !m.passive
	r := &reader{b: data}
	for n := r.count(); n > 0 && r.err == nil; n-- {
		kind := r.u32()
		if kind > 2 {
			r.fail("data segment of an unknown kind %d", kind)
		}
		if kind == 2 { // names its memory
			r.u32()
		}
		at := &reader{}
		if kind != 1 { // 1 is passive
			at.b = m.constExpr(r, nil)
		}
		b := r.take(r.u32())

		all = all && kind == 0 && at.byte() == opI32Const
		start := int64(uint32(at.s32()))
		end := start + int64(len(b))
		all = all && at.byte() == opEnd && end <= int64(m.out.MinPages)<<16 && end <= maxImage
		if !all || r.err != nil {
			continue
		}
		if grow := end - int64(len(image)); grow > 0 {
			image = append(image, make([]byte, grow)...)
		}
		copy(image[start:], b)
	}
	if len(r.b) > 0 {
		r.fail("%d bytes after the last segment", len(r.b))
	}
	if r.err != nil {
		return nil, fmt.Errorf("section %d: %w", secData, r.err)
	}
	if !all {
		return nil, nil
	}
	return image, nil
}
