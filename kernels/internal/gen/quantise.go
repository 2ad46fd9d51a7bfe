package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// halves combines the lanes of v, by halves, into the lowest.
func halves(v reg.VecVirtual, combine func(a, b, dst Op)) reg.VecVirtual {
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

// quarters combines the lanes of four registers into the lowest of one.
func quarters(v [4]reg.VecVirtual, combine func(a, b, dst Op)) reg.VecVirtual {
	combine(v[1], v[0], v[0])
	combine(v[3], v[2], v[2])
	combine(v[2], v[0], v[0])
	return halves(v[0], combine)
}

// largestMagnitude emits the first reading of a span of inputs.
func largestMagnitude() {
	name := "magnitudewide"
	at := label(name)
	TEXT(name, NOSPLIT, "func(n int, x *float32) uint32")
	Doc(name + " returns the bits of the largest magnitude, or of a NaN, among n elements of x, a positive multiple of 64.")
	Pragma("noescape")
	n := Load(Param("n"), GP64())
	x := Load(Param("x"), GP64())
	abs := ZMM()
	VPBROADCASTD(constantBits(0x7fffffff), abs)
	var top [4]reg.VecVirtual
	for i := range top {
		top[i] = ZMM()
		zero(top[i], avx512)
	}
	Label(string(at("loop")))
	for i := range top {
		v := ZMM()
		VPANDD(Mem{Base: x, Disp: i * 64}, abs, v)
		VPMAXUD(v, top[i], top[i])
	}
	ADDQ(U32(256), x)
	SUBQ(U32(64), n)
	JG(at("loop"))
	largest := GP32()
	VMOVD(quarters(top, func(a, b, dst Op) { VPMAXUD(a, b, dst) }), largest)
	VZEROUPPER()
	Store(largest, ReturnIndex(0))
	RET()
}

// roundBytes emits the second.
func roundBytes() {
	name := "integerswide"
	at := label(name)
	TEXT(name, NOSPLIT, "func(n int, dst, x *float32, inverse float32) int32")
	Doc(name + " stores n elements of x, a positive multiple of 64, times inverse as integers of a byte, and returns their sum.")
	Pragma("noescape")
	n := Load(Param("n"), GP64())
	x := Load(Param("x"), GP64())
	dst := Load(Param("dst"), GP64())
	inverse := Load(Param("inverse"), XMM())
	all := ZMM()
	VBROADCASTSS(inverse, all)
	var sum [4]reg.VecVirtual
	for i := range sum {
		sum[i] = ZMM()
		zero(sum[i], avx512)
	}
	Label(string(at("loop")))
	for i := range sum {
		v := ZMM()
		VMULPS(Mem{Base: x, Disp: i * 64}, all, v)
		VCVTPS2DQ(v, v)
		VPMOVSDB(v, Mem{Base: dst, Disp: i * 16})
		VPADDD(v, sum[i], sum[i])
	}
	ADDQ(U32(256), x)
	ADDQ(U32(64), dst)
	SUBQ(U32(64), n)
	JG(at("loop"))
	total := GP32()
	VMOVD(quarters(sum, func(a, b, dst Op) { VPADDD(a, b, dst) }), total)
	VZEROUPPER()
	Store(total, ReturnIndex(0))
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
