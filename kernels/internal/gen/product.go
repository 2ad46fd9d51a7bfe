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

// matvec emits a product of sixteen rows with a vector. Rows become lanes on the way, so each
// sum is the chain that a tile forms.
func matvec(set isa, e element) {
	name := "matvec16" + e.suffix()
	if set == avx512 {
		name += "wide"
	}
	at := label(name)
	e.function(name, "func(y *float32, w %s, ld int, x *float32, k int, add bool)",
		"computes y = w·x, or y += w·x, for 16 rows of w that are ld apart.")
	acc := make([]reg.VecVirtual, 16/set)
	for i := range acc {
		acc[i] = set.register()
		zero(acc[i], set)
	}
	add := Load(Param("add"), GP8())
	TESTB(add, add)
	JZ(at("start"))
	y := Load(Param("y"), GP64())
	for i, sum := range acc {
		VMOVUPS(Mem{Base: y, Disp: i * int(set) * 4}, sum)
	}
	Label(string(at("start")))
	w := Load(Param("w"), GP64())
	ld := Load(Param("ld"), GP64())
	x := Load(Param("x"), GP64())
	k := Load(Param("k"), GP64())
	g := newGather(w, ld, e, 16)
	rest := at("rest")
	e.words(k)
	per := e.perWord()
	if set == avx512 {
		SUBQ(Imm(16), k)
		JL(at("less"))
		Label(string(at("loop")))
		g.prefetch(0, ahead)
		g.prefetch(2, ahead)
		for i, word := range g.sixteen() {
			for h, column := range e.widen(word, set) {
				VFMADD231PS_BCST(Mem{Base: x, Disp: (i*per + h) * 4}, column, acc[0])
			}
		}
		g.advance(16)
		ADDQ(U32(16*per*4), x)
		SUBQ(Imm(16), k)
		JGE(at("loop"))
		Label(string(at("less")))
		ADDQ(Imm(16), k)
		JZ(rest)
	} else {
		eachColumns(at, k, g, rest, func(columns int) {
			for half, sum := range acc {
				g.prefetch(2*half, ahead)
				for c := 0; c < columns; c += 4 {
					for i, word := range g.four(2*half, c) {
						for h, column := range e.widen(word, set) {
							xv := YMM()
							VBROADCASTSS(Mem{Base: x, Disp: ((c+i)*per + h) * 4}, xv)
							VFMADD231PS(xv, column, sum)
						}
					}
				}
			}
			ADDQ(U32(columns*per*4), x)
		})
	}
	e.eachWord(at, k, g, rest, func(e element) {
		for i, sum := range acc {
			first := i * int(set) / 4
			word := g.one(first, e)
			if set == avx512 {
				low, high := word, g.one(first+2, e)
				word = ZMM()
				zero(word, set)
				VINSERTF64X4(Imm(0), low, word, word)
				VINSERTF64X4(Imm(1), high, word, word)
			}
			for h, column := range e.widen(word, set) {
				xv := set.register()
				VBROADCASTSS(Mem{Base: x, Disp: h * 4}, xv)
				VFMADD231PS(xv, column, sum)
			}
		}
		ADDQ(Imm(uint64(per)*4), x)
	})
	y = Load(Param("y"), GP64())
	for i, sum := range acc {
		VMOVUPS(sum, Mem{Base: y, Disp: i * int(set) * 4})
	}
	VZEROUPPER()
	RET()
}
