package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// An element is a type of weights.
type element int

const (
	float    element = iota
	bfloat16         // two in a word of 32 bits
	single           // the last bfloat16 of an odd number, in a word's upper half
)

// perWord returns how many elements are in a word of 32 bits.
func (e element) perWord() int {
	if e == bfloat16 {
		return 2
	}
	return 1
}

// function begins a function that exists for both types of weights; args has %s for a pointer to them.
func (e element) function(name, args, doc string) {
	t := "*float32"
	if e == bfloat16 {
		t, doc = "*uint16", doc+" The weights are bfloat16."
	}
	TEXT(name, NOSPLIT, fmt.Sprintf(args, t))
	Doc(name + " " + doc)
	Pragma("noescape")
}

// suffix is that of a function's name.
func (e element) suffix() string {
	if e == bfloat16 {
		return "bf16"
	}
	return ""
}

// bytes turns a count of elements into one of bytes.
func (e element) bytes(r reg.Register) {
	if e == float {
		SHLQ(Imm(2), r)
	} else {
		SHLQ(Imm(1), r)
	}
}

// words turns a count of elements into one of whole words.
func (e element) words(r reg.Register) {
	if e == bfloat16 {
		SHRQ(Imm(1), r)
	}
}

// widen returns the elements in words of 32 bits, in order, as float32: a bfloat16 is the upper half of one.
func (e element) widen(word reg.VecVirtual, set isa) []reg.VecVirtual {
	if e != bfloat16 {
		return []reg.VecVirtual{word}
	}
	low, high := set.register(), set.register()
	if word.Size() == 16 {
		low, high = XMM(), XMM()
	}
	VPSLLD(Imm(16), word, low)
	if set == avx512 {
		VPANDD_BCST(constantBits(0xffff0000), word, high)
	} else {
		VPAND(constantBits(0xffff0000), word, high)
	}
	return []reg.VecVirtual{low, high}
}

// A gather reads groups of four rows that are ld bytes apart, four columns at a time, and
// returns them as columns: rows become lanes. Its columns are words of 32 bits, each one float32 or two
// bfloat16.
type gather struct {
	groups  []reg.GPVirtual // the first of each four rows
	ld, ld3 reg.GPVirtual
}

func newGather(src, ld reg.Register, e element, rows int) gather {
	g := gather{ld: ld.(reg.GPVirtual), ld3: GP64()}
	e.bytes(ld)
	LEAQ(Mem{Base: ld, Index: ld, Scale: 2}, g.ld3)
	at := src.(reg.GPVirtual)
	for i := 0; i < rows; i += 4 {
		g.groups = append(g.groups, at)
		if i+4 < rows {
			next := GP64()
			LEAQ(Mem{Base: at, Index: ld, Scale: 4}, next)
			at = next
		}
	}
	return g
}

func (g gather) row(group, r, column int) Mem {
	m := Mem{Base: g.groups[group], Disp: column * 4}
	switch r {
	case 1, 2:
		m.Index, m.Scale = g.ld, uint8(r)
	case 3:
		m.Index, m.Scale = g.ld3, 1
	}
	return m
}

func (g gather) advance(columns int) {
	for _, p := range g.groups {
		ADDQ(Imm(uint64(columns)*4), p)
	}
}

// prefetch asks for the cache line that follows by the given number of columns in the rows of two groups.
func (g gather) prefetch(first, columns int) {
	for group := first; group < min(first+2, len(g.groups)); group++ {
		for r := range 4 {
			PREFETCHT1(g.row(group, r, columns))
		}
	}
}

// four returns four columns from column on of eight rows, those of groups first and first+1, or of
// four rows if there is but one group.
func (g gather) four(first, column int) [4]reg.VecVirtual {
	wide := first+1 < len(g.groups)
	register := XMM
	if wide {
		register = YMM
	}
	var r, t, o [4]reg.VecVirtual
	for i := range r {
		r[i], t[i], o[i] = register(), register(), register()
		if !wide {
			VMOVUPS(g.row(first, i, column), r[i])
			continue
		}
		VBROADCASTF128(g.row(first, i, column), r[i])
		VINSERTF128(Imm(1), g.row(first+1, i, column), r[i], r[i])
	}
	VUNPCKLPS(r[1], r[0], t[0])
	VUNPCKHPS(r[1], r[0], t[1])
	VUNPCKLPS(r[3], r[2], t[2])
	VUNPCKHPS(r[3], r[2], t[3])
	VUNPCKLPD(t[2], t[0], o[0])
	VUNPCKHPD(t[2], t[0], o[1])
	VUNPCKLPD(t[3], t[1], o[2])
	VUNPCKHPD(t[3], t[1], o[3])
	return o
}

// one returns one column of words.
func (g gather) one(first int, e element) reg.VecVirtual {
	column := func(group int) reg.VecVirtual {
		x := XMM()
		if e == single {
			zero(x, avx2)
			for r := range 4 {
				VPINSRW(Imm(uint64(2*r+1)), g.row(group, r, 0), x, x)
			}
			return x
		}
		VMOVSS(g.row(group, 0, 0), x)
		for r := 1; r < 4; r++ {
			VINSERTPS(Imm(uint64(r)<<4), g.row(group, r, 0), x, x)
		}
		return x
	}
	low := column(first)
	if first+1 >= len(g.groups) {
		return low
	}
	high, y := column(first+1), YMM()
	zero(y, avx2)
	VINSERTF128(Imm(0), low, y, y)
	VINSERTF128(Imm(1), high, y, y)
	return y
}

// sixteen returns sixteen columns of sixteen rows. It reads each row's cache line in one load.
func (g gather) sixteen() [16]reg.VecVirtual {
	var u [4][4]reg.VecVirtual // by group of rows and column modulo 4; the columns' quotient is the 128-bit lane
	for group := range u {
		var r, t [4]reg.VecVirtual
		for i := range r {
			r[i], t[i], u[group][i] = ZMM(), ZMM(), ZMM()
			VMOVUPS(g.row(group, i, 0), r[i])
		}
		VUNPCKLPS(r[1], r[0], t[0])
		VUNPCKHPS(r[1], r[0], t[1])
		VUNPCKLPS(r[3], r[2], t[2])
		VUNPCKHPS(r[3], r[2], t[3])
		VUNPCKLPD(t[2], t[0], u[group][0])
		VUNPCKHPD(t[2], t[0], u[group][1])
		VUNPCKLPD(t[3], t[1], u[group][2])
		VUNPCKHPD(t[3], t[1], u[group][3])
	}
	const even, odd = 0x88, 0xdd // lanes 0 and 2, or 1 and 3, of both sources
	var columns [16]reg.VecVirtual
	for c := range 4 {
		for parity, lanes := range []uint64{even, odd} {
			low, high := ZMM(), ZMM()
			VSHUFF32X4(Imm(lanes), u[1][c], u[0][c], low)
			VSHUFF32X4(Imm(lanes), u[3][c], u[2][c], high)
			for i, lanes := range []uint64{even, odd} {
				column := ZMM()
				VSHUFF32X4(Imm(lanes), high, low, column)
				columns[4*(parity+2*i)+c] = column
			}
		}
	}
	return columns
}

// ahead is how many columns before their use rows are prefetched.
const ahead = 256

// eachColumns emits the loops over the columns of g: a cache line's worth at a time, so that rows whose
// distance is a multiple of a page, which compete for the same few places in the cache, read
// each line in one go; then four; then falls through, with k > 0 columns left, to the code that
// follows, or jumps to rest.
func eachColumns(at func(string) LabelRef, k reg.Register, g gather, rest LabelRef, body func(columns int)) {
	for _, columns := range []int{16, 4} {
		loop, end := at(fmt.Sprintf("by%d", columns)), at(fmt.Sprintf("less%d", columns))
		SUBQ(Imm(uint64(columns)), k)
		JL(end)
		Label(string(loop))
		body(columns)
		g.advance(columns)
		SUBQ(Imm(uint64(columns)), k)
		JGE(loop)
		Label(string(end))
		ADDQ(Imm(uint64(columns)), k)
	}
	TESTQ(k, k)
	JZ(rest)
}

// eachWord emits the loop over k > 0 columns of words, then the label rest, then what a last bfloat16
// that is half a word takes.
func (e element) eachWord(at func(string) LabelRef, k reg.Register, g gather, rest LabelRef, body func(element)) {
	Label(string(at("one")))
	body(e)
	g.advance(1)
	DECQ(k)
	JNZ(at("one"))
	Label(string(rest))
	if e == bfloat16 {
		elements := Load(Param("k"), GP64())
		TESTQ(U32(1), elements)
		JZ(at("done"))
		body(single)
		Label(string(at("done")))
	}
}

// pack emits a transposition: rows become lanes.
func pack(rows int, e element) {
	name := fmt.Sprintf("pack%d%s", rows, e.suffix())
	at := label(name)
	e.function(name, "func(dst *float32, stride int, src %s, ld, k int)",
		fmt.Sprintf("stores column i of the %d×k matrix src, whose rows are ld apart, in dst[i·stride:].", rows))
	dst := Load(Param("dst"), GP64())
	stride := Load(Param("stride"), GP64())
	src := Load(Param("src"), GP64())
	ld := Load(Param("ld"), GP64())
	k := Load(Param("k"), GP64())
	SHLQ(Imm(2), stride)
	stride3 := GP64()
	LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, stride3)
	g := newGather(src, ld, e, rows)
	rest := at("rest")
	e.words(k)
	eachColumns(at, k, g, rest, func(columns int) {
		g.prefetch(0, ahead)
		for c := 0; c < columns; c += 4 {
			var o []reg.VecVirtual
			for _, word := range g.four(0, c) {
				o = append(o, e.widen(word, avx2)...)
			}
			for ; len(o) > 0; o = o[4:] {
				VMOVUPS(o[0], Mem{Base: dst})
				VMOVUPS(o[1], Mem{Base: dst, Index: stride, Scale: 1})
				VMOVUPS(o[2], Mem{Base: dst, Index: stride, Scale: 2})
				VMOVUPS(o[3], Mem{Base: dst, Index: stride3, Scale: 1})
				LEAQ(Mem{Base: dst, Index: stride, Scale: 4}, dst)
			}
		}
	})
	e.eachWord(at, k, g, rest, func(e element) {
		for _, column := range e.widen(g.one(0, e), avx2) {
			VMOVUPS(column, Mem{Base: dst})
			ADDQ(stride, dst)
		}
	})
	VZEROUPPER()
	RET()
}

// copyColumns emits a copy of k rows of width elements into consecutive memory. Where width is not a
// multiple of the register's, the last register overlaps the one before.
func copyColumns(width int, e element) {
	name := fmt.Sprintf("copy%d%s", width, e.suffix())
	at := label(name)
	e.function(name, "func(dst *float32, src %s, ld, k int)",
		fmt.Sprintf("copies the first %d elements of k ≥ 1 rows that are ld apart to dst, one after the other.", width))
	dst := Load(Param("dst"), GP64())
	src := Load(Param("src"), GP64())
	ld := Load(Param("ld"), GP64())
	k := Load(Param("k"), GP64())
	e.bytes(ld)
	lanes, register := 8, YMM
	if width < 8 {
		lanes, register = 4, XMM
	}
	Label(string(at("loop")))
	var v []reg.VecVirtual
	var offsets []int
	for c := 0; c < width; c += lanes {
		offset := min(c, width-lanes)
		r, m := register(), Mem{Base: src, Disp: offset * 4 / e.perWord()}
		if e == bfloat16 {
			VPMOVZXWD(m, r)
			VPSLLD(Imm(16), r, r)
		} else {
			VMOVUPS(m, r)
		}
		v, offsets = append(v, r), append(offsets, offset*4)
	}
	for i, r := range v {
		VMOVUPS(r, Mem{Base: dst, Disp: offsets[i]})
	}
	ADDQ(Imm(uint64(width)*4), dst)
	ADDQ(ld, src)
	DECQ(k)
	JNZ(at("loop"))
	VZEROUPPER()
	RET()
}
