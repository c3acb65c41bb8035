package meter

import (
	"errors"
	"fmt"
)

var errShort = errors.New("unexpected end")

// reader takes values off the front of b. After the first error every method
// returns zero, so that callers check once.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.b = nil
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		if r.err == nil {
			r.err = errShort
		}
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) take(n uint32) []byte {
	if uint64(n) > uint64(len(r.b)) {
		if r.err == nil {
			r.err = errShort
		}
		r.b = nil
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

// u32 reads an unsigned LEB128 number of at most 32 bits (5.2.2).
func (r *reader) u32() uint32 {
	var v uint64
	for shift := 0; shift < 35; shift += 7 {
		c := r.byte()
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			if v > 1<<32-1 {
				break
			}
			return uint32(v)
		}
	}
	r.fail("number is too large")
	return 0
}

// s33 reads a signed LEB128 number of at most 33 bits, s32 one of 32.
func (r *reader) s33() int64 {
	var v int64
	for shift := 0; shift < 35; shift += 7 {
		c := r.byte()
		v |= int64(c&0x7f) << shift
		if c < 0x80 {
			if c&0x40 != 0 {
				v |= -1 << (shift + 7)
			}
			return v
		}
	}
	r.fail("number is too large")
	return 0
}

func (r *reader) s32() int32 { return int32(r.s33()) }

// leb skips a LEB128 number of at most 64 bits.
func (r *reader) leb() {
	for range 10 {
		if r.byte() < 0x80 {
			return
		}
	}
	r.fail("number is too large")
}

// count reads the length of a vector. Each element takes a byte at least, so
// no count is believed that the rest could not hold.
func (r *reader) count() uint32 {
	if len(r.b) == 0 && r.err == nil {
		return 0 // an absent section
	}
	n := r.u32()
	if uint64(n) > uint64(len(r.b)) {
		r.fail("vector of %d elements is longer than its section", n)
		return 0
	}
	return n
}

func (r *reader) index(n int) uint32 {
	i := r.u32()
	if r.err == nil && uint64(i) >= uint64(n) {
		r.fail("index %d is out of range", i)
	}
	if r.err != nil {
		return 0
	}
	return i
}

func (r *reader) name() string { return string(r.take(r.u32())) }

func appendU32(b []byte, v uint32) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func appendS64(b []byte, v int64) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func appendName(b []byte, s string) []byte {
	return append(appendU32(b, uint32(len(s))), s...)
}
