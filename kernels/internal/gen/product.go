package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// An isa is an instruction set, by the width of its registers in float32 lanes.
type isa int

const (
	avx2   isa = 8
	avx512 isa = 16
)

func (s isa) register() reg.VecVirtual {
	if s == avx512 {
		return ZMM()
	}
	return YMM()
}

// label returns a function that makes labels unique to name.
func label(name string) func(string) LabelRef {
	return func(s string) LabelRef { return LabelRef(name + "_" + s) }
}

// tile emits the micro-kernel of a product of matrices: a tile of rows by two registers stays in
// registers over all of k, B is loaded once a step and A is broadcast from memory.
func tile(rows int, set isa) {
	const unroll = 4
	width := 2 * int(set)
	name := fmt.Sprintf("tile%dx%d", rows, width)
	at := label(name)
	TEXT(name, NOSPLIT, "func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool)")
	Doc(fmt.Sprintf("%s computes the %d×%d tile c = a·b, or c += a·b, with a packed as (k, %d) and rows of b and c ldb and ldc apart.",
		name, rows, width, rows))
	Pragma("noescape")
	k := Load(Param("k"), GP64())
	a := Load(Param("a"), GP64())
	b := Load(Param("b"), GP64())
	ldb := Load(Param("ldb"), GP64())
	c := Load(Param("c"), GP64())
	ldc := Load(Param("ldc"), GP64())
	add := Load(Param("add"), GP8())
	SHLQ(Imm(2), ldb)
	SHLQ(Imm(2), ldc)
	ldb3 := GP64()
	LEAQ(Mem{Base: ldb, Index: ldb, Scale: 2}, ldb3)

	acc := make([][2]reg.VecVirtual, rows)
	for i := range acc {
		acc[i] = [2]reg.VecVirtual{set.register(), set.register()}
	}
	cr := GP64()
	eachRow := func(f func(i, j int, m Mem)) {
		MOVQ(c, cr)
		for i := range rows {
			for j := range 2 {
				f(i, j, Mem{Base: cr, Disp: j * int(set) * 4})
			}
			if i < rows-1 {
				ADDQ(ldc, cr)
			}
		}
	}
	TESTB(add, add)
	JNZ(at("load"))
	for i := range rows {
		for j := range 2 {
			zero(acc[i][j], set)
		}
	}
	// The tile is written at the end: its lines may come in the meantime.
	eachRow(func(_, j int, m Mem) {
		if j == 0 {
			PREFETCHT0(m)
		}
	})
	JMP(at("start"))
	Label(string(at("load")))
	eachRow(func(i, j int, m Mem) { VMOVUPS(m, acc[i][j]) })

	step := func(u int, b Mem) {
		var bv [2]reg.VecVirtual
		for j := range bv {
			bv[j] = set.register()
			VMOVUPS(b.Offset(j*int(set)*4), bv[j])
		}
		for i := range rows {
			m := Mem{Base: a, Disp: (u*rows + i) * 4}
			if set == avx512 {
				VFMADD231PS_BCST(m, bv[0], acc[i][0])
				VFMADD231PS_BCST(m, bv[1], acc[i][1])
				continue
			}
			t := set.register()
			VBROADCASTSS(m, t)
			VFMADD231PS(t, bv[0], acc[i][0])
			VFMADD231PS(t, bv[1], acc[i][1])
		}
	}
	Label(string(at("start")))
	SUBQ(Imm(unroll), k)
	JL(at("rest"))
	Label(string(at("loop")))
	step(0, Mem{Base: b})
	step(1, Mem{Base: b, Index: ldb, Scale: 1})
	step(2, Mem{Base: b, Index: ldb, Scale: 2})
	step(3, Mem{Base: b, Index: ldb3, Scale: 1})
	LEAQ(Mem{Base: b, Index: ldb, Scale: 4}, b)
	ADDQ(Imm(unroll*uint64(rows)*4), a)
	SUBQ(Imm(unroll), k)
	JGE(at("loop"))
	Label(string(at("rest")))
	ADDQ(Imm(unroll), k)
	JZ(at("store"))
	Label(string(at("one")))
	step(0, Mem{Base: b})
	ADDQ(ldb, b)
	ADDQ(Imm(uint64(rows)*4), a)
	DECQ(k)
	JNZ(at("one"))
	Label(string(at("store")))
	eachRow(func(i, j int, m Mem) { VMOVUPS(acc[i][j], m) })
	VZEROUPPER()
	RET()
}

func zero(r reg.VecVirtual, set isa) {
	if set == avx512 {
		VPXORD(r, r, r)
		return
	}
	VXORPS(r, r, r)
}

// A gather reads groups of four rows that are ld bytes apart, four columns at a time, and
// returns them as columns: rows become lanes.
type gather struct {
	groups  []reg.GPVirtual // the first of each four rows
	ld, ld3 reg.GPVirtual
}

func newGather(src, ld reg.Register, rows int) gather {
	g := gather{ld: ld.(reg.GPVirtual), ld3: GP64()}
	SHLQ(Imm(2), ld)
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

// one returns one column.
func (g gather) one(first int) reg.VecVirtual {
	column := func(group int) reg.VecVirtual {
		x := XMM()
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

// ahead is how many columns before their use rows are prefetched.
const ahead = 256

// eachColumns emits the loops over the columns of g: a cache line's worth at a time, so that rows whose
// distance is a multiple of a page, which compete for the same few places in the cache, read
// each line in one go; then four; then falls through, with k > 0 columns left, to the code that
// follows, or jumps to done.
func eachColumns(at func(string) LabelRef, k reg.Register, g gather, body func(columns int)) {
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
	JZ(at("done"))
}

// pack emits a transposition: rows become lanes.
func pack(rows int) {
	name := fmt.Sprintf("pack%d", rows)
	at := label(name)
	TEXT(name, NOSPLIT, "func(dst *float32, stride int, src *float32, ld, k int)")
	Doc(fmt.Sprintf("%s stores column i of the %d×k matrix src, whose rows are ld apart, in dst[i·stride:].", name, rows))
	Pragma("noescape")
	dst := Load(Param("dst"), GP64())
	stride := Load(Param("stride"), GP64())
	src := Load(Param("src"), GP64())
	ld := Load(Param("ld"), GP64())
	k := Load(Param("k"), GP64())
	SHLQ(Imm(2), stride)
	stride3 := GP64()
	LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, stride3)
	g := newGather(src, ld, rows)
	eachColumns(at, k, g, func(columns int) {
		g.prefetch(0, ahead)
		for c := 0; c < columns; c += 4 {
			o := g.four(0, c)
			VMOVUPS(o[0], Mem{Base: dst})
			VMOVUPS(o[1], Mem{Base: dst, Index: stride, Scale: 1})
			VMOVUPS(o[2], Mem{Base: dst, Index: stride, Scale: 2})
			VMOVUPS(o[3], Mem{Base: dst, Index: stride3, Scale: 1})
			LEAQ(Mem{Base: dst, Index: stride, Scale: 4}, dst)
		}
	})
	Label(string(at("one")))
	VMOVUPS(g.one(0), Mem{Base: dst})
	ADDQ(stride, dst)
	g.advance(1)
	DECQ(k)
	JNZ(at("one"))
	Label(string(at("done")))
	VZEROUPPER()
	RET()
}

// matvec emits a product of sixteen rows with a vector. Rows become lanes on the way, so each
// sum is the chain that a tile forms.
func matvec(set isa) {
	name := "matvec16"
	if set == avx512 {
		name = "matvec16wide"
	}
	at := label(name)
	TEXT(name, NOSPLIT, "func(y, w *float32, ld int, x *float32, k int)")
	Doc(name + " computes y = w·x for 16 rows of w that are ld apart.")
	Pragma("noescape")
	y := Load(Param("y"), GP64())
	w := Load(Param("w"), GP64())
	ld := Load(Param("ld"), GP64())
	x := Load(Param("x"), GP64())
	k := Load(Param("k"), GP64())
	g := newGather(w, ld, 16)
	acc := make([]reg.VecVirtual, 16/set)
	for i := range acc {
		acc[i] = set.register()
		zero(acc[i], set)
	}
	if set == avx512 {
		SUBQ(Imm(16), k)
		JL(at("rest"))
		Label(string(at("loop")))
		g.prefetch(0, ahead)
		g.prefetch(2, ahead)
		for i, column := range g.sixteen() {
			VFMADD231PS_BCST(Mem{Base: x, Disp: i * 4}, column, acc[0])
		}
		g.advance(16)
		ADDQ(Imm(64), x)
		SUBQ(Imm(16), k)
		JGE(at("loop"))
		Label(string(at("rest")))
		ADDQ(Imm(16), k)
		JZ(at("done"))
	} else {
		eachColumns(at, k, g, func(columns int) {
			for half, sum := range acc {
				g.prefetch(2*half, ahead)
				for c := 0; c < columns; c += 4 {
					for i, column := range g.four(2*half, c) {
						xv := YMM()
						VBROADCASTSS(Mem{Base: x, Disp: (c + i) * 4}, xv)
						VFMADD231PS(xv, column, sum)
					}
				}
			}
			ADDQ(Imm(uint64(columns)*4), x)
		})
	}
	Label(string(at("one")))
	if set == avx512 {
		z := ZMM()
		zero(z, set)
		VINSERTF64X4(Imm(0), g.one(0), z, z)
		VINSERTF64X4(Imm(1), g.one(2), z, z)
		VFMADD231PS_BCST(Mem{Base: x}, z, acc[0])
	} else {
		xv := YMM()
		VBROADCASTSS(Mem{Base: x}, xv)
		VFMADD231PS(xv, g.one(0), acc[0])
		VFMADD231PS(xv, g.one(2), acc[1])
	}
	g.advance(1)
	ADDQ(Imm(4), x)
	DECQ(k)
	JNZ(at("one"))
	Label(string(at("done")))
	for i, sum := range acc {
		VMOVUPS(sum, Mem{Base: y, Disp: i * int(set) * 4})
	}
	VZEROUPPER()
	RET()
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

// copyColumns emits a copy of k rows of width elements into consecutive memory. Where width is not a
// multiple of the register's, the last register overlaps the one before.
func copyColumns(width int) {
	name := fmt.Sprintf("copy%d", width)
	at := label(name)
	TEXT(name, NOSPLIT, "func(dst, src *float32, ld, k int)")
	Doc(fmt.Sprintf("%s copies the first %d elements of k ≥ 1 rows that are ld apart to dst, one after the other.", name, width))
	Pragma("noescape")
	dst := Load(Param("dst"), GP64())
	src := Load(Param("src"), GP64())
	ld := Load(Param("ld"), GP64())
	k := Load(Param("k"), GP64())
	SHLQ(Imm(2), ld)
	lanes, register := 8, YMM
	if width < 8 {
		lanes, register = 4, XMM
	}
	Label(string(at("loop")))
	var v []reg.VecVirtual
	var offsets []int
	for c := 0; c < width; c += lanes {
		offset := min(c, width-lanes) * 4
		r := register()
		VMOVUPS(Mem{Base: src, Disp: offset}, r)
		v, offsets = append(v, r), append(offsets, offset)
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
