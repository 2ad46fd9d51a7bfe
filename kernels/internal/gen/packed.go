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

// dotTile emits [tile] over words of two bfloat16 on both sides, which VDPBF16PS multiplies and adds in pairs. Its registers
// are fixed, since its instructions are bytes.
func dotTile(rows int) {
	const unroll = 4
	name := fmt.Sprintf("dottile%dx32", rows)
	at := label(name)
	TEXT(name, NOSPLIT, "func(words int, a, b, c *float32, ldc int, add bool)")
	Doc(fmt.Sprintf("%s computes the %d×32 tile c = a·b, or c += a·b, with a packed as (words, %d), b as (words, 32), and rows of c ldc apart. Words hold two bfloat16.",
		name, rows, rows))
	Pragma("noescape")
	k := Load(Param("words"), reg.RCX)
	a := Load(Param("a"), reg.RSI)
	b := Load(Param("b"), reg.RDI)
	c := Load(Param("c"), reg.RDX)
	ldc := Load(Param("ldc"), reg.R8)
	add := Load(Param("add"), reg.R10B)
	SHLQ(Imm(2), ldc)
	row := reg.R9
	eachRow := func(f func(i, j int, m Mem)) {
		MOVQ(c, row)
		for i := range rows {
			for j := range 2 {
				f(i, j, Mem{Base: row, Disp: j * 64})
			}
			if i < rows-1 {
				ADDQ(ldc, row)
			}
		}
	}
	TESTB(add, add)
	JNZ(at("load"))
	for i := range 2 * rows {
		VPXORD(z[i], z[i], z[i])
	}
	eachRow(func(_, j int, m Mem) { PREFETCHT0(m) })
	JMP(at("start"))
	Label(string(at("load")))
	eachRow(func(i, j int, m Mem) { VMOVUPS(m, z[2*i+j]) })
	Label(string(at("start")))
	step := func(u int) {
		for j := range 2 {
			VMOVUPS(Mem{Base: b, Disp: (2*u + j) * 64}, z[28+2*(u%2)+j])
			if rows >= busyRows {
				PREFETCHT0(Mem{Base: b, Disp: (2*u + j + 2*stepsAhead) * 64})
			}
		}
		for i := range rows {
			for j := range 2 {
				vdpbf16ps.emit(2*i+j, 28+2*(u%2)+j, u*rows+i, true)
			}
		}
	}
	SUBQ(Imm(unroll), k)
	JL(at("rest"))
	Label(string(at("loop")))
	for u := range unroll {
		step(u)
	}
	ADDQ(U32(unroll*128), b)
	ADDQ(U32(unroll*rows*4), a)
	SUBQ(Imm(unroll), k)
	JGE(at("loop"))
	Label(string(at("rest")))
	ADDQ(Imm(unroll), k)
	JZ(at("store"))
	Label(string(at("one")))
	step(0)
	ADDQ(U32(128), b)
	ADDQ(U32(rows*4), a)
	DECQ(k)
	JNZ(at("one"))
	Label(string(at("store")))
	eachRow(func(i, j int, m Mem) { VMOVUPS(z[2*i+j], m) })
	VZEROUPPER()
	RET()
}

// groupTile emits the tile of a product of integers, of 8 bits on the left and of the given bits on the right, with scales for
// each group of k. VPDPBUSD multiplies unsigned by signed bytes: the right side's are raised by half their range, which each
// group's sum begins by taking back.
func groupTile(rows, bits int) {
	name := fmt.Sprintf("int%dtile%dx32", bits, rows)
	at := label(name)
	TEXT(name, NOSPLIT, "func(groups, chunks int, a *float32, b *byte, c *float32, ldc int, add bool)")
	Doc(fmt.Sprintf("%s computes the %d×32 tile c = a·b, or c += a·b, of groups of chunks·32 steps each; see quant.go for how a and b are packed. Rows of c are ldc apart.",
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
	headA, headB, chunks := GP64(), GP64(), GP64()
	MOVQ(a, headA)
	MOVQ(b, headB)
	Load(Param("chunks"), chunks)
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
	Label(string(at("chunk")))
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
	DECQ(chunks)
	JNZ(at("chunk"))

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

// quantise emits the rounding of groups of 32 elements of a row to integers of 8 bits.
func quantise() {
	name := "quantisewide"
	at := label(name)
	TEXT(name, NOSPLIT, "func(groups int, dst, x *float32, raised int32)")
	Doc(name + " stores each of groups ≥ 1 groups of 32 elements of x as ten words: its scale, minus raised times the sum of its integers, and its integers.")
	Pragma("noescape")
	groups := Load(Param("groups"), GP64())
	dst := Load(Param("dst"), GP64())
	x := Load(Param("x"), GP64())
	raised := Load(Param("raised"), GP32())
	abs := ZMM()
	VPBROADCASTD(constantBits(0x7fffffff), abs)
	// halves combines the lanes of v, by halves, into the lowest.
	halves := func(v reg.VecVirtual, combine func(a, b, dst Op)) reg.VecVirtual {
		y, x := YMM(), XMM()
		VEXTRACTI64X4(Imm(1), v, y)
		combine(v.AsY(), y, y)
		VEXTRACTI128(Imm(1), y, x)
		combine(y.AsX(), x, x)
		t := XMM()
		VPSHUFD(Imm(0b1110), x, t)
		combine(x, t, t)
		VPSHUFD(Imm(1), t, x)
		combine(x, t, t)
		return t
	}
	Label(string(at("loop")))
	v, top := []reg.VecVirtual{ZMM(), ZMM()}, []reg.VecVirtual{ZMM(), ZMM()}
	for i := range v {
		VMOVUPS(Mem{Base: x, Disp: i * 64}, v[i])
		VPANDD(v[i], abs, top[i])
	}
	// As integers, magnitudes are in order and NaN is the largest.
	VPMAXUD(top[1], top[0], top[0])
	largest := halves(top[0], func(a, b, dst Op) { VPMAXUD(a, b, dst) })
	VPMAXUD(constant(leastMagnitude), largest, largest)
	scale, inverse := XMM(), XMM()
	VMULSS(constant(1.0/127), largest, scale)
	VMOVSS(scale, Mem{Base: dst})
	VMOVSS(constant(127), inverse)
	VDIVSS(largest, inverse, inverse)
	all := ZMM()
	VBROADCASTSS(inverse, all)
	for i := range v {
		VMULPS(all, v[i], v[i])
		VCVTPS2DQ(v[i], v[i])
		VPMOVSDB(v[i], Mem{Base: dst, Disp: 8 + i*16})
	}
	VPADDD(v[1], v[0], v[0])
	sum := GP32()
	VMOVD(halves(v[0], func(a, b, dst Op) { VPADDD(a, b, dst) }), sum)
	IMULL(raised, sum)
	NEGL(sum)
	MOVL(sum, Mem{Base: dst, Disp: 4})
	ADDQ(U32(128), x)
	ADDQ(U32(40), dst)
	DECQ(groups)
	JNZ(at("loop"))
	VZEROUPPER()
	RET()
}

// leastMagnitude is that of the kernels package.
const leastMagnitude = 1e-30
