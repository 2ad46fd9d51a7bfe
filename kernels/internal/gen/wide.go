package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// wide is [vectors] in AVX-512. A mask is one of the registers for that.
func wide(name string, unroll int, arrays []array, body func(lane int, mask reg.Register, v []reg.VecVirtual) []reg.VecVirtual) {
	at := label(name)
	n := Load(Param("n"), GP64())
	bases := make([]reg.Register, len(arrays))
	for a, p := range arrays {
		bases[a] = Load(Param(p.name), GP64())
	}
	i := GP64()
	XORQ(i, i)
	one := func(lane int, mask reg.Register) {
		var v []reg.VecVirtual
		place := func(a int) Mem { return Mem{Base: bases[a], Index: i, Scale: 4, Disp: lane * 64} }
		for a, p := range arrays {
			switch {
			case !p.read:
				continue
			case mask != nil:
				v = append(v, ZMM())
				VMOVUPS_Z(place(a), mask, v[len(v)-1])
			default:
				v = append(v, ZMM())
				VMOVUPS(place(a), v[len(v)-1])
			}
		}
		results := body(lane, mask, v)
		for a, p := range arrays {
			switch {
			case !p.write:
				continue
			case mask != nil:
				VMOVUPS(results[0], mask, place(a))
			default:
				VMOVUPS(results[0], place(a))
			}
			results = results[1:]
		}
	}
	inSteps(at, n, i, 16, unroll, func(lane int) { one(lane, nil) })
	JZ(at("done"))
	bits, mask := GP64(), K()
	MOVQ(I32(-1), bits)
	BZHIQ(n, bits, bits)
	KMOVW(bits.As32(), mask)
	one(0, mask)
	Label(string(at("done")))
}

// everywhere returns a register whose every lane is f.
func everywhere(f float32) reg.VecVirtual {
	r := ZMM()
	VBROADCASTSS(constant(f), r)
	return r
}

// wideExp returns a function that emits [exp] in AVX-512, which scales by 2ⁿ at once, and the register of ones that it uses.
func wideExp() (func(x reg.VecVirtual) reg.VecVirtual, reg.VecVirtual) {
	top, log2e, low, one := everywhere(89), everywhere(1.44269504088896341), everywhere(-87.3), everywhere(1)
	ln2Hi, ln2Lo := everywhere(0.693359375), everywhere(-2.12194440e-4)
	var c []reg.VecVirtual
	for _, f := range []float32{1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1} {
		c = append(c, everywhere(f))
	}
	return func(x reg.VecVirtual) reg.VecVirtual {
		r, n, p, square, counts := ZMM(), ZMM(), ZMM(), ZMM(), K()
		VMINPS(x, top, r) // in this order NaN stays
		VMULPS(log2e, r, n)
		VRNDSCALEPS(Imm(0), n, n)
		VFNMADD231PS(ln2Hi, n, r)
		VFNMADD231PS(ln2Lo, n, r)
		VMOVAPS(c[0], p)
		for _, c := range c[1:] {
			VFMADD213PS(c, r, p)
		}
		VMULPS(r, r, square)
		VFMADD213PS(r, square, p)
		VADDPS(one, p, p)
		VCMPPS(Imm(21), low, x, counts) // not less than
		VSCALEFPS_Z(n, p, counts, p)
		return p
	}, one
}

// wideSigmoid returns a function that emits [sigmoid] in AVX-512, and the register of ones that it uses.
func wideSigmoid() (func(x reg.VecVirtual) reg.VecVirtual, reg.VecVirtual) {
	exp, one := wideExp()
	sign := everywhere(float32(math.Copysign(0, -1)))
	return func(x reg.VecVirtual) reg.VecVirtual {
		t := ZMM()
		VPXORD(sign, x, t)
		e := exp(t)
		VADDPS(one, e, e)
		VDIVPS(e, one, e)
		return e
	}, one
}

func wideFunctions() {
	begin("expSumwide", "func(n int, dst, x *float32, shift float32) float32", "is expSum8 in AVX-512.")
	shift := broadcastTo("shift", ZMM())
	exp, _ := wideExp()
	sums := []reg.VecVirtual{ZMM(), ZMM()}
	for _, s := range sums {
		zero(s, avx512)
	}
	wide("expSumwide", 2, []array{in("x"), out("dst")}, func(lane int, mask reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		VSUBPS(shift, v[0], v[0])
		e := exp(v[0])
		if mask != nil {
			VADDPS(e, sums[lane], mask, sums[lane])
		} else {
			VADDPS(e, sums[lane], sums[lane])
		}
		return regs{e}
	})
	VADDPS(sums[1], sums[0], sums[0])
	high := YMM()
	VEXTRACTF64X4(Imm(1), sums[0], high)
	low := sums[0].AsY()
	VADDPS(high, low, high)
	Store(reduce(regs{high}, false, add).AsX(), ReturnIndex(0))
	end()

	begin("siluMulwide", "func(n int, y, gate, up *float32)", "is siluMul8 in AVX-512.")
	sigmoid, _ := wideSigmoid()
	wide("siluMulwide", 2, []array{in("gate"), in("up"), out("y")}, func(_ int, _ reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		s := sigmoid(v[0])
		VMULPS(v[0], s, s)
		VMULPS(v[1], s, s)
		return regs{s}
	})
	end()

	begin("siluMulGradwide", "func(n int, dgate, dup, dy, gate, up *float32)", "is siluMulGrad8 in AVX-512.")
	sigmoid, one := wideSigmoid()
	wide("siluMulGradwide", 2, []array{in("dy"), in("gate"), in("up"), out("dgate"), out("dup")}, func(_ int, _ reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		d, g, up := v[0], v[1], v[2]
		s, t, dup := sigmoid(g), ZMM(), ZMM()
		VMULPS(d, g, dup)
		VMULPS(s, dup, dup)
		VSUBPS(s, one, t)
		VFMADD213PS(one, g, t) // 1 + g·(1-s)
		VMULPS(d, up, up)
		VMULPS(s, up, up)
		VMULPS(t, up, up)
		return regs{up, dup}
	})
	end()
}
