package main

import (
	"encoding/binary"
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// An encoded instruction is one that Go's assembler does not know, with the prefix EVEX, a 512-bit register z as its
// destination, and a source in a register besides the one in memory (Intel SDM volume 2, §2.7).
type encoded struct {
	prefix int // 1 for 66, 2 for F3, 3 for F2
	opcode int
}

var (
	vdpbf16ps      = encoded{2, 0x52} // of the map 0F38
	vcvtne2ps2bf16 = encoded{3, 0x72}
)

// emit emits the instruction with the memory operand [rsi + scaled], where scaled counts the operand's size: words that are
// broadcast, or whole registers.
func (e encoded) emit(dst, src, scaled int, broadcast bool) {
	inverted := func(register, bit int) int { return ^register >> bit & 1 }
	b := 0
	if broadcast {
		b = 1
	}
	if scaled > 127 {
		panic("displacement out of range")
	}
	code := []byte{
		0x62,
		byte(inverted(dst, 3)<<7 | 1<<6 | 1<<5 | inverted(dst, 4)<<4 | 2),
		byte(^src&15<<3 | 1<<2 | e.prefix),
		byte(2<<5 | b<<4 | inverted(src, 4)<<3),
		byte(e.opcode),
		byte(1<<6 | dst&7<<3 | 6),
		byte(scaled),
	}
	directive("LONG", U32(binary.LittleEndian.Uint32(code)))
	directive("WORD", U16(binary.LittleEndian.Uint16(code[4:])))
	directive("BYTE", U8(code[6]))
}

// registers emits the instruction with both sources in registers, of which the second is what emit reads from memory.
func (e encoded) registers(dst, first, second int) {
	inverted := func(register, bit int) int { return ^register >> bit & 1 }
	directive("LONG", U32(binary.LittleEndian.Uint32([]byte{
		0x62,
		byte(inverted(dst, 3)<<7 | inverted(second, 4)<<6 | inverted(second, 3)<<5 | inverted(dst, 4)<<4 | 2),
		byte(^first&15<<3 | 1<<2 | e.prefix),
		byte(2<<5 | inverted(first, 4)<<3),
	})))
	directive("WORD", U16(uint16(e.opcode|(3<<6|dst&7<<3|second&7)<<8)))
}

// directive emits bytes.
func directive(name string, v Op) { Instruction(&ir.Instruction{Opcode: name, Operands: []Op{v}}) }

var z = []reg.VecPhysical{
	reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7, reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
	reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23, reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31,
}

// A word is what the words of both sides of a product with a packed matrix hold.
type word struct {
	name, holds string
	multiply    func(m Mem, scaled, b, sum int) // z[sum] += words at m, broadcast, times z[b]; m is scaled words from rsi on
	span        bool                            // sums are exact, and scaled at the end
}

var words = []word{
	{name: "float", holds: "float32", multiply: func(m Mem, _, b, sum int) { VFMADD231PS_BCST(m, z[b], z[sum]) }},
	{name: "dot", holds: "two bfloat16", multiply: func(_ Mem, scaled, b, sum int) { vdpbf16ps.emit(sum, b, scaled, true) }},
	{name: "span", holds: "four bytes of a span, see span.go, of which words does not count the first two",
		multiply: func(m Mem, _, b, sum int) { VPDPBUSD_BCST(m, z[b], z[sum]) }, span: true},
}

// wordTile emits tiles of a product of words that lie below each other. As with [tile], one stays in registers over all of k, B is
// loaded once a step and A is broadcast from memory. The registers are fixed, since some instructions are bytes.
func wordTile(rows int, w word) {
	const unroll = 4
	name := fmt.Sprintf("%stile%dx32", w.name, rows)
	at := label(name)
	TEXT(name, NOSPLIT, "func(strips, words int, a *float32, lda int, b, c *float32, ldc int, add bool)")
	Doc(fmt.Sprintf("%s computes %d×32 tiles c = a·b, or c += a·b, below each other, with the strips of a packed as (words, %d), lda apart, and b as (words, 32). Rows of c are ldc apart. Words hold %s.",
		name, rows, rows, w.holds))
	Pragma("noescape")
	param := func(name string) Op {
		a, err := Param(name).Resolve()
		if err != nil {
			panic(err)
		}
		return a.Addr
	}
	k, a, b, c, ldc := reg.RCX, reg.RSI, reg.RDI, reg.RDX, reg.R8
	ahead, end := reg.RBX, reg.R11     // in b, what to ask for, and from where on it is the beginning
	askC, lastC := reg.R9, reg.R10     // rows of c, to ask for in the meantime
	before, stride := reg.R12, reg.RAX // what sums are added to: zeros or c
	Load(Param("c"), c)
	Load(Param("ldc"), ldc)
	SHLQ(Imm(2), ldc)

	Label(string(at("tile")))
	Load(Param("words"), k)
	Load(Param("a"), a)
	Load(Param("b"), b)
	if rows >= busyRows {
		// The next tile, if there is one, begins with b again.
		MOVQ(I32(-1), end)
		CMPQ(param("strips"), Imm(1))
		JE(at("only"))
		MOVQ(k, end)
		SHLQ(Imm(7), end)
		ADDQ(b, end)
		Label(string(at("only")))
		LEAQ(Mem{Base: b, Disp: stepsAhead * 128}, ahead)
	}
	MOVQ(c, askC)
	eachRow := func(row reg.Register, f func(i, j int, m Mem)) {
		MOVQ(c, row)
		for i := range rows {
			for j := range 2 {
				f(i, j, Mem{Base: row, Disp: j * 64})
			}
			ADDQ(ldc, row)
		}
	}
	CMPB(param("add"), Imm(0))
	if w.span {
		LEAQ(zeros(), before)
		MOVL(U32(0), stride.As32())
		CMOVQNE(c, before)
		CMOVQNE(ldc, stride)
		for i := range 2 * rows {
			VPBROADCASTD(Mem{Base: a, Disp: (rows + i/2) * 4}, z[i])
		}
		ADDQ(U32(2*rows*4), a)
		ADDQ(U32(128), b)
	} else {
		JNE(at("load"))
		for i := range 2 * rows {
			VPXORD(z[i], z[i], z[i])
		}
		JMP(at("start"))
		Label(string(at("load")))
		eachRow(askC, func(i, j int, m Mem) { VMOVUPS(m, z[2*i+j]) }) // and it ends at the tile below
		Label(string(at("start")))
	}
	MOVQ(ldc, lastC)
	IMUL3Q(Imm(uint64(max(1, rows-1))), lastC, lastC)
	ADDQ(askC, lastC)

	load := func(u int) {
		for j := range 2 {
			at := (2*u + j) * 64
			VMOVUPS(Mem{Base: b, Disp: at}, z[28+2*(u%2)+j])
			if rows >= busyRows {
				PREFETCHT0(Mem{Base: ahead, Disp: at})
			}
		}
	}
	multiply := func(u, i int) {
		for j := range 2 {
			scaled := u*rows + i
			w.multiply(Mem{Base: a, Disp: scaled * 4}, scaled, 28+2*(u%2)+j, 2*i+j)
		}
	}
	steps := func(n int) {
		for u := range n {
			load(u)
			for i := range rows {
				multiply(u, i)
			}
		}
		ADDQ(U32(n*128), b)
		if rows >= busyRows {
			ADDQ(U32(n*128), ahead)
		}
		ADDQ(U32(n*rows*4), a)
	}
	// last emits the last words row by row, so that rows are stored while the next ones are multiplied.
	last := func(words int) {
		for u := range words {
			load(u)
		}
		headA, headB := k, end
		if w.span {
			Load(Param("a"), headA)
			Load(Param("b"), headB)
		}
		const behind = 2
		for i := range rows + behind {
			for u := 0; u < words && i < rows; u++ {
				multiply(u, i)
			}
			if i -= behind; i < 0 {
				continue
			}
			for j := range 2 {
				r := z[2*i+j]
				if w.span {
					VCVTDQ2PS(r, r)
					VMULPS_BCST(Mem{Base: headA, Disp: i * 4}, r, r)
					VMULPS(Mem{Base: headB, Disp: j * 64}, r, r)
					VADDPS(Mem{Base: before, Disp: j * 64}, r, r)
				}
				VMOVUPS(r, Mem{Base: c, Disp: j * 64})
			}
			if w.span {
				ADDQ(stride, before)
			}
			ADDQ(ldc, c)
		}
		JMP(at("next"))
	}
	SUBQ(Imm(unroll+2), k)
	JL(at("rest"))
	Label(string(at("loop")))
	steps(unroll)
	if rows >= busyRows {
		CMPQ(ahead, end)
		CMOVQCC(param("b"), ahead)
	}
	for j := range 2 {
		PREFETCHT0(Mem{Base: askC, Disp: j * 64})
	}
	ADDQ(ldc, askC)
	CMPQ(askC, lastC)
	CMOVQHI(lastC, askC)
	SUBQ(Imm(unroll), k)
	JGE(at("loop"))
	Label(string(at("rest")))
	ADDQ(Imm(unroll), k)
	JL(at("single"))
	JZ(at("last"))
	Label(string(at("one")))
	steps(1)
	DECQ(k)
	JNZ(at("one"))
	Label(string(at("last")))
	last(2)
	Label(string(at("single")))
	last(1)
	Label(string(at("next")))
	Load(Param("lda"), k)
	SHLQ(Imm(2), k)
	ADDQ(k, param("a"))
	DECQ(param("strips"))
	JNZ(at("tile"))
	VZEROUPPER()
	RET()
}

// spanTileNarrow emits the tile of a span for AVX2, multiplying them as groupTileNarrow does.
func spanTileNarrow(rows int) {
	name := fmt.Sprintf("spantile%d", rows)
	at := label(name)
	TEXT(name, NOSPLIT, "func(words int, a, b, c *float32, ldc int, add bool)")
	Doc(fmt.Sprintf("%s computes the %d×32 tile c = a·b, or c += a·b, over a span that takes so many words besides the first two; see span.go for how a and b are packed. Rows of c are ldc apart.",
		name, rows))
	Pragma("noescape")
	words := Load(Param("words"), GP64())
	a := Load(Param("a"), GP64())
	b := Load(Param("b"), GP64())
	c := Load(Param("c"), GP64())
	ldc := Load(Param("ldc"), GP64())
	add := Load(Param("add"), GP8())
	SHLQ(Imm(2), ldc)
	const vectors = 4 // of a row of the tile
	parts := make([][vectors]reg.VecVirtual, rows)
	for i := range parts {
		for j := range vectors {
			parts[i][j] = YMM()
			zero(parts[i][j], avx2)
		}
	}
	headA, headB := GP64(), GP64()
	MOVQ(a, headA)
	MOVQ(b, headB)
	ADDQ(U32(2*rows*4), a)
	ADDQ(U32(128), b)
	TESTQ(words, words)
	JZ(at("scale"))
	Label(string(at("word")))
	for j := range vectors {
		signed, unsigned := YMM(), YMM()
		VMOVDQU(constantBits(0x80808080), signed)
		VPXOR(Mem{Base: b, Disp: j * 32}, signed, signed)
		VPABSB(signed, unsigned)
		for i, p := range parts {
			t := YMM()
			VPBROADCASTD(Mem{Base: a, Disp: i * 4}, t)
			VPSIGNB(signed, t, t)
			VPMADDUBSW(t, unsigned, t)
			VPMADDWD(constantBits(1<<16|1), t, t)
			VPADDD(t, p[j], p[j])
		}
	}
	ADDQ(U32(rows*4), a)
	ADDQ(U32(128), b)
	DECQ(words)
	JNZ(at("word"))
	Label(string(at("scale")))
	for i, p := range parts {
		for j := range vectors {
			t := YMM()
			VCVTDQ2PS(p[j], p[j])
			VBROADCASTSS(Mem{Base: headA, Disp: i * 4}, t)
			VMULPS(t, p[j], p[j])
			VMULPS(Mem{Base: headB, Disp: j * 32}, p[j], p[j])
		}
	}
	eachRow := func(f func(m Mem, part reg.VecVirtual)) {
		row := GP64()
		MOVQ(c, row)
		for i, p := range parts {
			for j := range vectors {
				f(Mem{Base: row, Disp: j * 32}, p[j])
			}
			if i < rows-1 {
				ADDQ(ldc, row)
			}
		}
	}
	TESTB(add, add)
	JZ(at("store"))
	eachRow(func(m Mem, part reg.VecVirtual) { VADDPS(m, part, part) })
	Label(string(at("store")))
	eachRow(func(m Mem, part reg.VecVirtual) { VMOVUPS(part, m) })
	VZEROUPPER()
	RET()
}

// groupTile emits the tile of a product of integers, of 8 bits on the left and of the given bits on the right, with scales for
// each group of k. VPDPBUSD multiplies unsigned by signed bytes: the right side's are raised by half their range, which each
// group's sum begins by taking back.
func groupTile(rows, bits int) {
	name := fmt.Sprintf("int%dtile%dx32", bits, rows)
	at := label(name)
	TEXT(name, NOSPLIT, "func(groups int, a *float32, b *byte, c *float32, ldc int, add bool)")
	Doc(fmt.Sprintf("%s computes the %d×32 tile c = a·b, or c += a·b, of groups of 32 steps each; see quant.go for how a and b are packed. Rows of c are ldc apart.",
		name, rows))
	Pragma("noescape")
	groups := Load(Param("groups"), GP64())
	a := Load(Param("a"), GP64())
	b := Load(Param("b"), GP64())
	c := Load(Param("c"), GP64())
	ldc := Load(Param("ldc"), GP64())
	add := Load(Param("add"), GP8())
	SHLQ(Imm(2), ldc)
	tile := func() [][2]reg.VecVirtual {
		t := make([][2]reg.VecVirtual, rows)
		for i := range t {
			t[i] = [2]reg.VecVirtual{ZMM(), ZMM()}
		}
		return t
	}
	sums, parts := tile(), tile()
	eachRow := rowsOf(rows, 64, c, ldc)
	TESTB(add, add)
	JNZ(at("load"))
	for _, s := range sums {
		zero(s[0], avx512)
		zero(s[1], avx512)
	}
	JMP(at("group"))
	Label(string(at("load")))
	eachRow(func(i, j int, m Mem) { VMOVUPS(m, sums[i][j]) })

	Label(string(at("group")))
	headA, headB := GP64(), GP64()
	MOVQ(a, headA)
	MOVQ(b, headB)
	for i, p := range parts {
		VPBROADCASTD(Mem{Base: a, Disp: (rows + i) * 4}, p[0])
		VMOVDQA32(p[0], p[1])
	}
	ADDQ(U32(2*rows*4), a)
	ADDQ(U32(64), b)
	quad := func(q int, bv [2]reg.VecVirtual) {
		for i, p := range parts {
			for j := range 2 {
				VPDPBUSD_BCST(Mem{Base: a, Disp: (q*rows + i) * 4}, bv[j], p[j])
			}
		}
	}
	if bits == 8 {
		for q := range 8 {
			bv := [2]reg.VecVirtual{ZMM(), ZMM()}
			for j := range 2 {
				VMOVDQU32(Mem{Base: b, Disp: (2*q + j) * 64}, bv[j])
				if rows >= busyRows {
					PREFETCHT0(Mem{Base: b, Disp: (2*q + j + 2*stepsAhead) * 64})
				}
			}
			quad(q, bv)
		}
	} else {
		for q := 0; q < 8; q += 2 {
			bv := [2]reg.VecVirtual{ZMM(), ZMM()}
			for j := range 2 {
				VMOVDQU32(Mem{Base: b, Disp: (q + j) * 64}, bv[j])
				if rows >= busyRows {
					PREFETCHT0(Mem{Base: b, Disp: (q + j + 2*stepsAhead) * 64})
				}
				VPANDD_BCST(constantBits(0x0f0f0f0f), bv[j], bv[j])
			}
			quad(q, bv)
			for j := range 2 {
				VPSRLD(Imm(4), Mem{Base: b, Disp: (q + j) * 64}, bv[j])
				VPANDD_BCST(constantBits(0x0f0f0f0f), bv[j], bv[j])
			}
			quad(q+1, bv)
		}
	}
	ADDQ(U32(8*rows*4), a)
	ADDQ(U32(128*bits), b)

	scales := [2]reg.VecVirtual{ZMM(), ZMM()}
	VMOVDQU32(Mem{Base: headB}, scales[1])
	VPSLLD(Imm(16), scales[1], scales[0])
	VPANDD_BCST(constantBits(0xffff0000), scales[1], scales[1])
	for i, p := range parts {
		for j := range 2 {
			VCVTDQ2PS(p[j], p[j])
			VMULPS_BCST(Mem{Base: headA, Disp: i * 4}, p[j], p[j])
			VMULPS(scales[j], p[j], p[j])
			VADDPS(p[j], sums[i][j], sums[i][j])
		}
	}
	DECQ(groups)
	JNZ(at("group"))
	eachRow(func(i, j int, m Mem) { VMOVUPS(sums[i][j], m) })
	VZEROUPPER()
	RET()
}

// groupTileNarrow emits what groupTile does, for AVX2 and added to c. It multiplies bytes in pairs whose sums fit in 16 bits: those of 8
// bits on the right as they are without what raised them, their magnitudes with their signs given to the left side's.
func groupTileNarrow(rows, bits int) {
	name := fmt.Sprintf("int%dtile%d", bits, rows)
	at := label(name)
	TEXT(name, NOSPLIT, "func(groups int, a *float32, b *byte, c *float32, ldc int)")
	Doc(fmt.Sprintf("%s computes the %d×32 tile c += a·b of groups of 32 steps each; see quant.go for how a and b are packed. Rows of c are ldc apart.",
		name, rows))
	Pragma("noescape")
	groups := Load(Param("groups"), GP64())
	a := Load(Param("a"), GP64())
	b := Load(Param("b"), GP64())
	c := Load(Param("c"), GP64())
	ldc := Load(Param("ldc"), GP64())
	SHLQ(Imm(2), ldc)
	const vectors = 4 // of a row of the tile
	parts := make([][vectors]reg.VecVirtual, rows)
	for i := range parts {
		for j := range vectors {
			parts[i][j] = YMM()
		}
	}
	Label(string(at("group")))
	for i, p := range parts {
		for j := range vectors {
			if bits == 8 {
				zero(p[j], avx2)
			} else {
				VPBROADCASTD(Mem{Base: a, Disp: (rows + i) * 4}, p[j])
			}
		}
	}
	multiply := func(q, j int, signed, unsigned reg.VecVirtual) {
		for i, p := range parts {
			t := YMM()
			VPBROADCASTD(Mem{Base: a, Disp: ((2+q)*rows + i) * 4}, t)
			if bits == 8 {
				VPSIGNB(signed, t, t)
			}
			VPMADDUBSW(t, unsigned, t)
			VPMADDWD(constantBits(1<<16|1), t, t)
			VPADDD(t, p[j], p[j])
		}
	}
	for q := 0; q < 8; q += 8 / bits {
		for j := range vectors {
			if bits == 8 {
				signed, unsigned := YMM(), YMM()
				VMOVDQU(constantBits(0x80808080), signed)
				VPXOR(Mem{Base: b, Disp: 64 + (vectors*q+j)*32}, signed, signed)
				VPABSB(signed, unsigned)
				multiply(q, j, signed, unsigned)
				continue
			}
			all, half := YMM(), YMM()
			VMOVDQU(Mem{Base: b, Disp: 64 + (vectors*q/2+j)*32}, all)
			VPAND(constantBits(0x0f0f0f0f), all, half)
			multiply(q, j, nil, half)
			VPSRLD(Imm(4), all, all)
			VPAND(constantBits(0x0f0f0f0f), all, half)
			multiply(q+1, j, nil, half)
		}
	}
	row := GP64()
	MOVQ(c, row)
	for i, p := range parts {
		for j := range vectors {
			t := YMM()
			VCVTDQ2PS(p[j], p[j])
			VBROADCASTSS(Mem{Base: a, Disp: i * 4}, t)
			VMULPS(t, p[j], p[j])
			VMOVDQU(Mem{Base: b, Disp: j % 2 * 32}, t)
			if j < 2 {
				VPSLLD(Imm(16), t, t)
			} else {
				VPAND(constantBits(0xffff0000), t, t)
			}
			VMULPS(t, p[j], p[j])
			VADDPS(Mem{Base: row, Disp: j * 32}, p[j], p[j])
			VMOVUPS(p[j], Mem{Base: row, Disp: j * 32})
		}
		if i < rows-1 {
			ADDQ(ldc, row)
		}
	}
	ADDQ(U32(10*rows*4), a)
	ADDQ(U32(64+128*bits), b)
	DECQ(groups)
	JNZ(at("group"))
	VZEROUPPER()
	RET()
}

// roundPairs emits the rounding of a row of float32 to bfloat16.
func roundPairs() {
	name := "roundwide"
	at := label(name)
	TEXT(name, NOSPLIT, "func(n int, dst, x *float32)")
	Doc(name + " rounds n, a multiple of 32, elements of x to bfloat16.")
	Pragma("noescape")
	n := Load(Param("n"), reg.RCX)
	x := Load(Param("x"), reg.RSI)
	dst := Load(Param("dst"), reg.RDI)
	Label(string(at("loop")))
	VMOVUPS(Mem{Base: x, Disp: 64}, z[1])
	vcvtne2ps2bf16.emit(0, 1, 0, false)
	VMOVUPS(z[0], Mem{Base: dst})
	ADDQ(U32(128), x)
	ADDQ(U32(64), dst)
	SUBQ(U32(32), n)
	JG(at("loop"))
	VZEROUPPER()
	RET()
}
