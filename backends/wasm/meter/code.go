package meter

import "fmt"

// Value types and the instructions this file has to know by name (5.3, 5.4).
const (
	i32  = 0x7f
	i64  = 0x7e
	v128 = 0x7b

	blockEmpty = 0x40

	opUnreachable  = 0x00
	opBlock        = 0x02
	opLoop         = 0x03
	opIf           = 0x04
	opElse         = 0x05
	opEnd          = 0x0b
	opBr           = 0x0c
	opBrIf         = 0x0d
	opBrTable      = 0x0e
	opReturn       = 0x0f
	opCall         = 0x10
	opCallIndirect = 0x11
	opSelectTyped  = 0x1c
	opLocalGet     = 0x20
	opLocalTee     = 0x22
	opGlobalGet    = 0x23
	opGlobalSet    = 0x24
	opI32Const     = 0x41
	opI64Const     = 0x42
	opF32Const     = 0x43
	opF64Const     = 0x44
	opI32GtU       = 0x4b
	opI64LtS       = 0x53
	opI32Add       = 0x6a
	opI32Sub       = 0x6b
	opI64Sub       = 0x7d
	opI64ShrU      = 0x88
	opI64ExtendU   = 0xad
	opRefNull      = 0xd0
	opRefFunc      = 0xd2
	opBulk         = 0xfc
	opSIMD         = 0xfd
)

// A leaf function that is shorter than this and has no loop is not metered:
// its caller is.
const smallLeaf = 128

// In the default mode this many instructions in a row cost one unit of fuel,
// so a long stretch of code without calls and loops is paid for too.
const stretch = 64

// code rewrites the bodies of all functions.
func (m *rewriter) code(body []byte) ([]byte, error) {
	r := &reader{b: body}
	n := r.count()
	if r.err != nil {
		return nil, fmt.Errorf("section %d: %w", secCode, r.err)
	}
	if uint32(len(m.funcs))-m.imports != n {
		return nil, fmt.Errorf("%d functions but %d bodies", uint32(len(m.funcs))-m.imports, n)
	}
	out := appendU32(make([]byte, 0, len(body)*5/4), n)
	f := &function{m: m}
	for i := range n {
		f.reset(m.types[m.funcs[m.imports+i]], r.take(r.u32()))
		if r.err != nil {
			return nil, fmt.Errorf("code of function %d: %w", i, r.err)
		}
		b, err := f.rewrite()
		if err != nil {
			return nil, fmt.Errorf("code of function %d: %w", i, err)
		}
		out = append(appendU32(out, uint32(len(b))), b...)
	}
	if len(r.b) > 0 {
		return nil, fmt.Errorf("section %d: %d bytes after the last body", secCode, len(r.b))
	}
	return out, nil
}

// function rewrites one body. Everything up to a place where control can come
// from elsewhere, or go, collects in run; its cost is charged before it.
type function struct {
	m    *rewriter
	typ  funcType
	body []byte // instructions, after the locals

	locals  uint32 // with parameters
	groups  uint32
	declare []byte // local declarations as they stand
	wide    bool   // uses vectors

	out, run []byte
	cost     int64 // instructions in run
	check    bool  // run begins where a kill point belongs

	nest []block
	high int // of the operand stack, at most
	tall int // highest

	instructions, merges int64
	calls, loops, bulk   bool
}

type block struct {
	height, params, results int
}

func (f *function) reset(t funcType, body []byte) {
	*f = function{m: f.m, typ: t, body: body, out: f.out[:0], run: f.run[:0], nest: f.nest[:0]}
}

func (f *function) rewrite() ([]byte, error) {
	r := &reader{b: f.body}
	f.groups = r.count()
	start := r.b
	total := uint64(len(f.typ.params))
	for range f.groups {
		total += uint64(r.u32())
		if r.byte() == v128 {
			f.wide = true
		}
	}
	if r.err == nil && total > 50000 {
		r.fail("%d local variables; 50000 are possible", total)
	}
	if r.err != nil {
		return nil, r.err
	}
	f.locals = uint32(total)
	f.declare = start[:len(start)-len(r.b)]
	f.body = r.b

	// First pass: what the frame needs, and whether there is anything to
	// meter. It also checks that every instruction is known.
	if err := f.scan(); err != nil {
		return nil, err
	}
	guard := f.calls
	meter := f.calls || f.loops || f.bulk || len(f.body) > smallLeaf || f.m.Instructions

	f.out = appendU32(f.out, f.groups+2)
	f.out = append(f.out, f.declare...)
	f.out = append(f.out, 1, i64, 1, i32) // scratch: locals and locals+1
	if guard {
		f.enter()
	}
	f.check = meter
	f.pass(guard)
	return f.out, nil
}

// frame estimates the native stack the function takes, in bytes.
func (f *function) frame() int64 {
	slots := int64(f.locals) + int64(f.tall)
	if f.m.Hostile {
		// The compiler gives each value that lives across a call a slot of
		// its own: at most one for each instruction, with those added here,
		// and one for each local where two paths meet.
		slots = 2*f.instructions + int64(f.locals+2)*(f.merges+1)
	}
	size := 64 + 8*slots
	if f.wide {
		size += 8 * slots
	}
	return min(size, MaxStack+1)
}

func (f *function) enter() {
	depth, tmp := f.m.depth(), f.locals+1
	b := appendU32(append(f.out, opGlobalGet), depth)
	b = append(appendS64(append(b, opI32Const), f.frame()), opI32Add)
	b = appendU32(append(b, opLocalTee), tmp)
	b = appendU32(append(b, opGlobalSet), depth)
	b = appendU32(append(b, opLocalGet), tmp)
	b = append(appendS64(append(b, opI32Const), MaxStack), opI32GtU, opIf, blockEmpty)
	b = append(appendU32(append(b, opCall), f.m.overflow()), opEnd)
	// What was the function is now a block, so that every way out of it,
	// also return, passes leave.
	b = append(b, opBlock)
	switch len(f.typ.results) {
	case 0:
		b = append(b, blockEmpty)
	case 1:
		b = append(b, f.typ.results[0])
	default:
		b = appendS64(b, int64(f.typ.index))
	}
	f.out = b
}

func (f *function) leave(b []byte) []byte {
	b = appendU32(append(b, opGlobalGet), f.m.depth())
	b = append(appendS64(append(b, opI32Const), f.frame()), opI32Sub)
	return appendU32(append(b, opGlobalSet), f.m.depth())
}

// charge takes the fuel for n instructions, and ticks where check is set.
func (f *function) charge(b []byte, n int64, check bool) []byte {
	if !f.m.Instructions {
		n /= stretch
	}
	if check {
		n = max(n, 1)
	}
	if n == 0 {
		return b
	}
	fuel, tmp := f.m.fuel(), f.locals
	b = appendU32(append(b, opGlobalGet), fuel)
	b = append(appendS64(append(b, opI64Const), n), opI64Sub)
	if !check {
		return appendU32(append(b, opGlobalSet), fuel)
	}
	b = appendU32(append(b, opLocalTee), tmp)
	b = appendU32(append(b, opGlobalSet), fuel)
	return f.kill(b, tmp)
}

// kill ticks when the local fuel is negative.
func (f *function) kill(b []byte, fuel uint32) []byte {
	b = appendU32(append(b, opLocalGet), fuel)
	b = append(b, opI64Const, 0, opI64LtS, opIf, blockEmpty)
	return append(appendU32(append(b, opCall), f.m.tick()), opEnd)
}

// chargeBulk takes fuel for an instruction that works on as many bytes as the
// number on top of the stack says: one unit for 64.
func (f *function) chargeBulk(b []byte) []byte {
	fuel, tmp, n := f.m.fuel(), f.locals, f.locals+1
	b = appendU32(append(b, opLocalTee), n)
	b = appendU32(append(b, opGlobalGet), fuel)
	b = appendU32(append(b, opLocalGet), n)
	b = append(b, opI64ExtendU, opI64Const, 6, opI64ShrU, opI64Sub)
	b = appendU32(append(b, opLocalTee), tmp)
	b = appendU32(append(b, opGlobalSet), fuel)
	return f.kill(b, tmp)
}

// flush writes the run with its price in front.
func (f *function) flush() {
	f.out = f.charge(f.out, f.cost, f.check)
	f.out = append(f.out, f.run...)
	f.run, f.cost, f.check = f.run[:0], 0, false
}

// pass writes the body. scan has seen every instruction of it.
func (f *function) pass(guard bool) {
	r := &reader{b: f.body}
	depth := uint32(0) // of blocks that are open
	for len(r.b) > 0 {
		start := r.b
		op := r.byte()
		switch op {
		case opCall, opRefFunc:
			f.run = appendU32(append(f.run, op), f.m.fn(r.u32()))
			f.cost++
			continue
		case opReturn:
			if guard {
				f.run = appendU32(append(f.run, opBr), depth)
				f.cost++
				f.flush()
				continue
			}
		case opBulk:
			sub := (&reader{b: r.b}).u32()
			if sub >= 8 && sub != 9 && sub != 13 && sub != 16 {
				f.run = f.chargeBulk(f.run)
			}
		}
		f.m.operands(r, op)
		f.run = append(f.run, start[:len(start)-len(r.b)]...)
		f.cost++
		switch op {
		case opBlock:
			depth++
			f.cost--
		case opLoop:
			depth++
			f.flush()
			f.check = true
		case opIf:
			depth++
			f.flush()
		case opEnd:
			f.cost--
			if depth == 0 && guard { // of the function, now of its block
				f.run = append(f.leave(f.run), opEnd)
			}
			if depth == 0 {
				f.flush()
				return
			}
			depth--
			f.flush()
		case opElse:
			f.cost--
			f.flush()
		case opBr, opBrIf, opBrTable, opReturn, opUnreachable:
			f.flush()
		}
	}
}

// scan measures the function: the height of its operand stack, its calls,
// loops and merges.
func (f *function) scan() error {
	r := &reader{b: f.body}
	f.nest = append(f.nest, block{results: len(f.typ.results)})
	for len(r.b) > 0 && r.err == nil {
		op := r.byte()
		f.instructions++
		switch op {
		case opBlock, opLoop, opIf:
			if op == opIf {
				f.high--
			}
			f.loops = f.loops || op == opLoop
			f.merges++
			b := f.m.blockType(r)
			b.height = max(f.high-b.params, 0)
			f.nest = append(f.nest, b)
			continue
		case opElse, opEnd:
			f.merges++
			b := f.nest[len(f.nest)-1]
			if op == opElse {
				f.high = b.height + b.params
				continue
			}
			f.high = b.height + b.results
			f.rise()
			if f.nest = f.nest[:len(f.nest)-1]; len(f.nest) == 0 {
				if len(r.b) > 0 {
					r.fail("code after the end")
				}
				return r.err
			}
			continue
		case opCall:
			i := r.index(len(f.m.funcs))
			if r.err != nil {
				return r.err
			}
			t := f.m.types[f.m.funcs[i]]
			f.high += len(t.results) - len(t.params)
			f.calls = true
		case opCallIndirect:
			i := r.index(len(f.m.types))
			r.u32()
			if r.err != nil {
				return r.err
			}
			t := f.m.types[i]
			f.high += len(t.results) - len(t.params) - 1
			f.calls = true
		default:
			if op == opBulk {
				switch sub := (&reader{b: r.b}).u32(); {
				case sub == 8 || sub == 9:
					f.m.passive = true
				case sub >= 12 && sub != 16:
					f.m.out.Pure = false
				}
				f.bulk = true
			}
			if op == 0x26 { // table.set
				f.m.out.Pure = false
			}
			f.wide = f.wide || op == opSIMD
			f.high += f.m.operands(r, op)
		}
		f.rise()
	}
	if r.err == nil {
		r.fail("no end")
	}
	return r.err
}

func (f *function) rise() {
	f.high = max(f.high, 0) // below: after a br, where anything can be popped
	f.tall = max(f.tall, f.high)
}

func (m *rewriter) blockType(r *reader) block {
	t := r.s33()
	switch {
	case t >= 0 && t < int64(len(m.types)):
		return block{params: len(m.types[t].params), results: len(m.types[t].results)}
	case t >= 0:
		r.fail("block type %d is out of range", t)
	case t == blockEmpty-0x80:
		return block{}
	}
	return block{results: 1}
}

// operands skips the immediate operands of an instruction and returns by how
// much it changes the height of the stack, or more. It refuses what it does
// not know.
func (m *rewriter) operands(r *reader, op byte) int {
	switch {
	case op == opUnreachable, op == 0x01, op == opEnd, op == opElse, op == opReturn:
		return 0
	case op == opBlock, op == opLoop, op == opIf:
		m.blockType(r)
		return 0
	case op == opBr:
		r.leb()
		return 0
	case op == opBrIf:
		r.leb()
		return -1
	case op == opBrTable:
		for n := r.count(); n > 0 && r.err == nil; n-- {
			r.leb()
		}
		r.leb()
		return -1
	case op == opCall:
		r.leb()
		return 0
	case op == opCallIndirect:
		r.leb()
		r.leb()
		return 0
	case op == 0x12, op == 0x13, op == 0x15:
		r.fail("tail calls are not supported; build without them")
	case op == 0x06, op == 0x07, op == 0x08, op == 0x09, op == 0x0a, op == 0x18, op == 0x19, op == 0x1f:
		r.fail("exception handling is not supported; build without it (setjmp and C++ exceptions need it)")
	case op == 0x1a: // drop
		return -1
	case op == 0x1b: // select
		return -2
	case op == opSelectTyped:
		r.take(r.u32())
		return -2
	case op == opLocalGet, op == opGlobalGet:
		r.leb()
		return 1
	case op == 0x21, op == opGlobalSet: // local.set
		r.leb()
		return -1
	case op == opLocalTee, op == 0x25: // table.get
		r.leb()
		return 0
	case op == 0x26: // table.set
		r.leb()
		return -2
	case op >= 0x28 && op <= 0x35: // loads
		m.memarg(r)
		return 0
	case op >= 0x36 && op <= 0x3e: // stores
		m.memarg(r)
		return -2
	case op == 0x3f: // memory.size
		r.leb()
		return 1
	case op == 0x40: // memory.grow
		r.leb()
		return 0
	case op == opI32Const, op == opI64Const:
		r.leb()
		return 1
	case op == opF32Const:
		r.take(4)
		return 1
	case op == opF64Const:
		r.take(8)
		return 1
	case op == 0x45, op == 0x50: // eqz
		return 0
	case op >= 0x46 && op <= 0x66: // comparisons
		return -1
	case op >= 0x67 && op <= 0x69, op >= 0x79 && op <= 0x7b, op >= 0x8b && op <= 0x91, op >= 0x99 && op <= 0x9f:
		return 0 // one operand
	case op >= 0x6a && op <= 0xa6: // two
		return -1
	case op >= 0xa7 && op <= 0xc4: // conversions
		return 0
	case op == opRefNull:
		r.leb()
		return 1
	case op == 0xd1: // ref.is_null
		return 0
	case op == opRefFunc:
		r.leb()
		return 1
	case op == opBulk:
		return m.bulkOperands(r)
	case op == opSIMD:
		return m.simdOperands(r)
	case op == 0xfe:
		r.fail("threads and atomic instructions are not supported; build without them")
	default:
		r.fail("instruction %#x is not supported", op)
	}
	return 0
}

func (m *rewriter) memarg(r *reader) {
	if r.u32() >= 64 {
		r.fail("several memories are not supported")
	}
	r.leb()
}

func (m *rewriter) bulkOperands(r *reader) int {
	switch sub := r.u32(); {
	case sub <= 7: // saturating conversions
		return 0
	case sub == 8, sub == 10, sub == 12, sub == 14: // memory.init, memory.copy, table.init, table.copy
		r.leb()
		r.leb()
		return -3
	case sub == 11, sub == 17: // memory.fill, table.fill
		r.leb()
		return -3
	case sub == 9, sub == 13: // data.drop, elem.drop
		r.leb()
		return 0
	case sub == 15: // table.grow
		r.leb()
		return -1
	case sub == 16: // table.size
		r.leb()
		return 1
	default:
		r.fail("instruction 0xfc %d is not supported", sub)
		return 0
	}
}

func (m *rewriter) simdOperands(r *reader) int {
	switch sub := r.u32(); {
	case sub <= 10, sub == 92, sub == 93: // loads
		m.memarg(r)
		return 0
	case sub == 11: // store
		m.memarg(r)
		return -2
	case sub == 12: // constant
		r.take(16)
		return 1
	case sub == 13: // shuffle
		r.take(16)
		return -1
	case sub >= 21 && sub <= 34: // lanes
		r.byte()
		return 0
	case sub >= 84 && sub <= 91: // loads and stores of a lane
		m.memarg(r)
		r.byte()
		return -1
	case sub <= 255:
		return 0 // one operand at least
	default:
		r.fail("vector instruction %d is not supported (relaxed SIMD)", sub)
		return 0
	}
}
