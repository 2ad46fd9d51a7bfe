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

// busyRows is the height from which a tile takes longer than memory does to bring B. Below it, the processor's own guesses do
// better.
const busyRows = 4

// stepsAhead is how many steps before their use words of B are asked for: what comes from memory, while a tile of many rows keeps
// the processor busy, arrives in time.
const (
	logStepsAhead = 5
	stepsAhead    = 1 << logStepsAhead
)

// tile emits the micro-kernel of a product of matrices: a tile of rows by two registers stays in
// registers over all of k, B is loaded once a step and A is broadcast from memory. Words of B hold
// elements e of as many steps.
func tile(rows int, set isa, e element) {
	unroll := 4 / e.perWord() // words
	width := 2 * int(set)
	name, holds := fmt.Sprintf("tile%dx%d", rows, width), ""
	if e == bfloat16 {
		name, holds = "bf16"+name, " Words of b hold two bfloat16, those of two steps."
	}
	at := label(name)
	TEXT(name, NOSPLIT, "func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool)")
	Doc(fmt.Sprintf("%s computes the %d×%d tile c = a·b, or c += a·b, with a packed as (k, %d) and rows of b and c ldb and ldc apart.%s",
		name, rows, width, rows, holds))
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
	ahead := GP64()
	MOVQ(ldb, ahead)
	SHLQ(Imm(logStepsAhead), ahead)
	ADDQ(b, ahead)

	acc := make([][2]reg.VecVirtual, rows)
	for i := range acc {
		acc[i] = [2]reg.VecVirtual{set.register(), set.register()}
	}
	eachRow := rowsOf(rows, int(set)*4, c, ldc)
	TESTB(add, add)
	JNZ(at("load"))
	for i := range rows {
		for j := range 2 {
			zero(acc[i][j], set)
		}
	}
	// The tile is written at the end: its lines may come in the meantime.
	eachRow(func(_, j int, m Mem) {
		if j*int(set)*4%64 == 0 {
			PREFETCHT0(m)
		}
	})
	JMP(at("start"))
	Label(string(at("load")))
	eachRow(func(i, j int, m Mem) { VMOVUPS(m, acc[i][j]) })
	// The tile below is likely to be read next, and its lines may come in the meantime.
	below := GP64()
	MOVQ(ldc, below)
	IMUL3Q(Imm(uint64(rows)), below, below)
	ADDQ(c, below)
	for i := range rows {
		for j := 0; j < 2*int(set)*4; j += 64 {
			PREFETCHT0(Mem{Base: below, Disp: j})
		}
		if i < rows-1 {
			ADDQ(ldc, below)
		}
	}
	Label(string(at("start")))

	multiply := func(step int, bv [2]reg.VecVirtual) {
		for i := range rows {
			m := Mem{Base: a, Disp: (step*rows + i) * 4}
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
	// Widening a single row's words takes so many instructions that the processor sees too little of what follows.
	widening := rows == 1 && e == bfloat16 && set == avx512
	var high reg.VecVirtual
	if e == bfloat16 {
		high = set.register()
		VBROADCASTSS(constantBits(0xffff0000), high)
	}
	// steps emits those of word u, or the first of them alone.
	steps := func(u int, b Mem, all bool) {
		var bv [2]reg.VecVirtual
		for j := range bv {
			bv[j] = set.register()
			VMOVUPS(b.Offset(j*int(set)*4), bv[j])
			if e == bfloat16 {
				VPSLLD(Imm(16), bv[j], bv[j])
			}
		}
		for j := 0; j < 2*int(set)*4 && (rows >= busyRows || widening); j += 64 {
			m := b.Offset(j)
			m.Base = ahead
			PREFETCHT0(m)
		}
		multiply(u*e.perWord(), bv)
		if e == bfloat16 && all {
			for j := range bv {
				if set == avx512 {
					VPANDD(b.Offset(j*int(set)*4), high, bv[j])
				} else {
					VPAND(b.Offset(j*int(set)*4), high, bv[j])
				}
			}
			multiply(u*e.perWord()+1, bv)
		}
	}
	odd := k
	if e == bfloat16 {
		odd = GP64()
		MOVQ(k, odd)
		SHRQ(Imm(1), k)
	}
	SUBQ(U32(unroll), k)
	JL(at("rest"))
	Label(string(at("loop")))
	for u, m := range []Mem{{Base: b}, {Base: b, Index: ldb, Scale: 1}, {Base: b, Index: ldb, Scale: 2}, {Base: b, Index: ldb3, Scale: 1}}[:unroll] {
		steps(u, m, true)
	}
	LEAQ(Mem{Base: b, Index: ldb, Scale: uint8(unroll)}, b)
	LEAQ(Mem{Base: ahead, Index: ldb, Scale: uint8(unroll)}, ahead)
	ADDQ(U32(4*rows*4), a)
	SUBQ(U32(unroll), k)
	JGE(at("loop"))
	Label(string(at("rest")))
	ADDQ(U32(unroll), k)
	JZ(at("last"))
	Label(string(at("one")))
	steps(0, Mem{Base: b}, true)
	ADDQ(ldb, b)
	ADDQ(U32(rows*e.perWord()*4), a)
	DECQ(k)
	JNZ(at("one"))
	Label(string(at("last")))
	if e == bfloat16 {
		TESTQ(U32(1), odd)
		JZ(at("store"))
		steps(0, Mem{Base: b}, false)
		Label(string(at("store")))
	}
	eachRow(func(i, j int, m Mem) { VMOVUPS(acc[i][j], m) })
	VZEROUPPER()
	RET()
}

// rowsOf returns a function that calls another for the two registers of each row of the tile at c, whose rows are ldc
// bytes apart.
func rowsOf(rows, registerBytes int, c, ldc reg.Register) func(func(i, j int, m Mem)) {
	row := GP64()
	return func(f func(i, j int, m Mem)) {
		MOVQ(c, row)
		for i := range rows {
			for j := range 2 {
				f(i, j, Mem{Base: row, Disp: j * registerBytes})
			}
			if i < rows-1 {
				ADDQ(ldc, row)
			}
		}
	}
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
