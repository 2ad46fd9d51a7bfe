package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// panelAhead is how many words before their use 32 rows side by side are prefetched: two cache lines of each, for short rows end soon.
const panelAhead = 32

// transposePanel emits the transposition of 32 rows of weights, sixteen words of each at a time.
func transposePanel(e element) {
	name := "transpose32" + e.suffix() + "wide"
	at := label(name)
	e.function(name, "func(dst *float32, src %s, ld, k int)",
		fmt.Sprintf("stores k > 0, a multiple of %d, columns of the 32×k matrix src, whose rows are ld apart, one after the other.", 16*e.perWord()))
	dst := Load(Param("dst"), GP64())
	src := Load(Param("src"), GP64())
	ld := Load(Param("ld"), GP64())
	k := Load(Param("k"), GP64())
	g := newGather(src, ld, e, 32)
	Label(string(at("loop")))
	for half := range 2 {
		h := gather{groups: g.groups[4*half:][:4], ld: g.ld, ld3: g.ld3}
		h.prefetch(0, panelAhead)
		h.prefetch(2, panelAhead)
		for i, word := range h.sixteen() {
			for j, column := range e.widen(word, avx512) {
				VMOVUPS(column, Mem{Base: dst, Disp: (i*e.perWord()+j)*128 + half*64})
			}
		}
	}
	g.advance(16)
	ADDQ(U32(16*e.perWord()*128), dst)
	SUBQ(U32(16*e.perWord()), k)
	JG(at("loop"))
	VZEROUPPER()
	RET()
}

// roundBits rounds v to bfloat16, to even of two, in its upper half, and leaves denormal numbers what they are.
func roundBits(v reg.VecVirtual) {
	number, cut, odd := K(), K(), ZMM()
	VCMPPS(Imm(7), v, v, number) // ordered
	KNOTW(number, cut)
	VPTESTNMD_BCST(constantBits(0x007f0000), v, cut, cut) // a NaN that would become an infinity
	VPSRLD(Imm(16), v, odd)
	VPANDD_BCST(constantBits(1), odd, odd)
	VPADDD_BCST(constantBits(0x7fff), odd, odd)
	VPADDD(odd, v, number, v)
	VPORD_BCST(constantBits(0x00400000), v, cut, v)
}

// roundPanel emits the rounding of rows of a panel to bfloat16.
func roundPanel() {
	name := "roundpanelwide"
	at := label(name)
	TEXT(name, NOSPLIT, "func(dst, src *float32, ld, pairs int)")
	Doc(name + " rounds pairs > 0 pairs of rows of 32 elements, which are ld apart, to bfloat16, and stores each as 32 words: the first row in their lower halves.")
	Pragma("noescape")
	dst := Load(Param("dst"), GP64())
	src := Load(Param("src"), GP64())
	ld := Load(Param("ld"), GP64())
	pairs := Load(Param("pairs"), GP64())
	SHLQ(Imm(2), ld)
	upper := ZMM()
	VPBROADCASTD(constantBits(0xffff0000), upper)
	Label(string(at("loop")))
	for half := range 2 {
		low, high := ZMM(), ZMM()
		VMOVUPS(Mem{Base: src, Disp: half * 64}, low)
		VMOVUPS(Mem{Base: src, Index: ld, Scale: 1, Disp: half * 64}, high)
		roundBits(low)
		roundBits(high)
		VPSRLD(Imm(16), low, low)
		VPTERNLOGD(Imm(selectFirst), upper, low, high)
		VMOVDQU32(high, Mem{Base: dst, Disp: half * 64})
	}
	LEAQ(Mem{Base: src, Index: ld, Scale: 2}, src)
	ADDQ(U32(128), dst)
	DECQ(pairs)
	JNZ(at("loop"))
	VZEROUPPER()
	RET()
}

// selectFirst is the function of VPTERNLOGD that takes the bits of its destination where its first operand has ones,
// else those of its second.
const selectFirst = 0xe4

// integerPanel emits the rounding of a group of a panel to integers. Outputs are lanes, so that the largest of a group and
// its scale are found without crossing any.
func integerPanel(bits int) {
	name := fmt.Sprintf("int%dpanelwide", bits)
	TEXT(name, NOSPLIT, "func(dst *byte, src *float32, ld int)")
	Doc(fmt.Sprintf("%s stores 32 rows of 32 elements, which are ld apart, as a group of a panel of integers of %d bits; see quant.go.", name, bits))
	Pragma("noescape")
	dst := Load(Param("dst"), GP64())
	src := Load(Param("src"), GP64())
	ld := Load(Param("ld"), GP64())
	SHLQ(Imm(2), ld)
	ld3, row := GP64(), GP64()
	LEAQ(Mem{Base: ld, Index: ld, Scale: 2}, ld3)
	// fours calls f with the sixteen columns from 16·half on of the rows, four by four.
	fours := func(half int, f func(i int, rows [4]Mem)) {
		MOVQ(src, row)
		for i := range 8 {
			m := Mem{Base: row, Disp: half * 64}
			rows := [4]Mem{m, m, m, m}
			rows[1].Index, rows[1].Scale = ld, 1
			rows[2].Index, rows[2].Scale = ld, 2
			rows[3].Index, rows[3].Scale = ld3, 1
			f(i, rows)
			if i < 7 {
				LEAQ(Mem{Base: row, Index: ld, Scale: 4}, row)
			}
		}
	}
	broadcast := func(bits uint32) reg.VecVirtual {
		v := ZMM()
		VPBROADCASTD(constantBits(bits), v)
		return v
	}
	one, lowest, lower := broadcast(1), broadcast(0xff), broadcast(0xffff)
	var least, most, nibbles reg.VecVirtual
	if bits == 4 {
		least, most, nibbles = broadcast(0xfffffff8), broadcast(7), broadcast(0x0f0f0f0f)
	}
	var scales [2]reg.VecVirtual
	for half := range 2 {
		top := ZMM() // with its sign as the lowest bit, so that magnitudes are in order and NaN comes last
		zero(top, avx512)
		fours(half, func(_ int, rows [4]Mem) {
			for _, m := range rows {
				t := ZMM()
				VPROLD(Imm(1), m, t)
				VPMAXUD(t, top, top)
			}
		})
		VPRORD(Imm(1), top, top)
		scale, finite, some := ZMM(), K(), K()
		if bits == 8 {
			exponent := ZMM()
			VDIVPS_BCST(constant(127), top, scale)
			VPANDD_BCST(constantBits(0x7fffffff), scale, scale)
			VPANDD_BCST(constantBits(0x7f800000), scale, exponent)
			VPCMPUD_BCST(Imm(4), constantBits(0x7f800000), exponent, finite)
			VPADDD_BCST(constantBits(0xffff), scale, finite, scale)
		} else {
			VDIVPS_BCST(constant(-8), top, scale)
			roundBits(scale)
		}
		VPANDD_BCST(constantBits(0xffff0000), scale, scale)
		scales[half] = scale
		none := ZMM()
		zero(none, avx512)
		VCMPPS(Imm(4), none, scale, some) // not equal, nor in order
		var even reg.VecVirtual
		fours(half, func(i int, rows [4]Mem) {
			var q [4]reg.VecVirtual
			for j, m := range rows {
				v, nan := ZMM(), K()
				q[j] = ZMM()
				VMOVUPS(m, v)
				VDIVPS(scale, v, v)
				VCMPPS(Imm(3), v, v, some, nan) // unordered
				VCVTPS2DQ_Z(v, some, q[j])
				if bits == 4 {
					VPMAXSD(least, q[j], q[j])
					VPMINSD(most, q[j], q[j])
				}
				VMOVDQA32(one, nan, q[j])
			}
			VPSLLD(Imm(8), q[1], q[1])
			VPTERNLOGD(Imm(selectFirst), lowest, q[1], q[0])
			VPSLLD(Imm(8), q[3], q[3])
			VPTERNLOGD(Imm(selectFirst), lowest, q[3], q[2])
			VPSLLD(Imm(16), q[2], q[2])
			VPTERNLOGD(Imm(selectFirst), lower, q[2], q[0])
			switch {
			case bits == 8:
				VPXORD_BCST(constantBits(0x80808080), q[0], q[0])
				VMOVDQU32(q[0], Mem{Base: dst, Disp: 64 + i*128 + half*64})
			case i%2 == 0:
				even = q[0]
			default:
				VPSLLD(Imm(4), q[0], q[0])
				VPTERNLOGD(Imm(selectFirst), nibbles, q[0], even)
				VPXORD_BCST(constantBits(0x88888888), even, even)
				VMOVDQU32(even, Mem{Base: dst, Disp: 64 + i/2*128 + half*64})
			}
		})
	}
	VPSRLD(Imm(16), scales[0], scales[0])
	VPORD(scales[0], scales[1], scales[1])
	VMOVDQU32(scales[1], Mem{Base: dst})
	VZEROUPPER()
	RET()
}
