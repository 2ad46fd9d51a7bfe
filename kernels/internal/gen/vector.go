package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// constants holds the data section's vectors of one value, by its bits.
var constants = map[uint32]Mem{}

func constantBits(bits uint32) Mem {
	m, ok := constants[bits]
	if !ok {
		m = GLOBL(fmt.Sprintf("all_%08x", bits), RODATA|NOPTR)
		for i := range 8 {
			DATA(i*4, U32(bits))
		}
		constants[bits] = m
	}
	return m
}

// constant returns a vector of eight times f in memory.
func constant(f float32) Mem { return constantBits(math.Float32bits(f)) }

// zeros returns two vectors of zeros in memory.
func zeros() Mem {
	if zeroTable.Symbol.Name == "" {
		zeroTable = GLOBL("zeros", RODATA|NOPTR)
		for i := range 16 {
			DATA(i*8, U64(0))
		}
	}
	return zeroTable
}

var zeroTable Mem

// masks returns eight words of ones and eight of zeros.
func masks() Mem {
	m := GLOBL("masks", RODATA|NOPTR)
	for i := range 16 {
		DATA(i*4, U32([]uint32{math.MaxUint32, 0}[i/8]))
	}
	return m
}

var maskTable Mem

// An array is a parameter of a vector function that is read, written or both.
type array struct {
	name        string
	read, write bool
}

func in(name string) array    { return array{name, true, false} }
func out(name string) array   { return array{name, false, true} }
func inout(name string) array { return array{name, true, true} }

// vectors emits a function over n elements of each of arrays, in steps of unroll registers, then of
// one, then of what remains. body takes the values that were read, in order, and returns those to write;
// lane counts registers within a step and mask, unless nil, selects the elements that exist.
// The caller emits the beginning, with parameters n and arrays, and the end.
func vectors(name string, unroll int, arrays []array, body func(lane int, mask reg.Register, v []reg.VecVirtual) []reg.VecVirtual) {
	at := label(name)
	n := Load(Param("n"), GP64())
	i := GP64()
	XORQ(i, i)
	bases := make([]reg.Register, len(arrays))
	for a, p := range arrays {
		bases[a] = Load(Param(p.name), GP64())
	}
	one := func(lane int, mask reg.Register) {
		var v []reg.VecVirtual
		for a, p := range arrays {
			if !p.read {
				continue
			}
			r, m := YMM(), Mem{Base: bases[a], Index: i, Scale: 4, Disp: lane * 32}
			if mask != nil {
				VMASKMOVPS(m, mask, r)
			} else {
				VMOVUPS(m, r)
			}
			v = append(v, r)
		}
		results := body(lane, mask, v)
		for a, p := range arrays {
			if !p.write {
				continue
			}
			m := Mem{Base: bases[a], Index: i, Scale: 4, Disp: lane * 32}
			if mask != nil {
				VMASKMOVPS(results[0], mask, m)
			} else {
				VMOVUPS(results[0], m)
			}
			results = results[1:]
		}
	}
	inSteps(at, n, i, 8, unroll, func(lane int) { one(lane, nil) })
	JZ(at("done"))
	table, mask := GP64(), YMM()
	LEAQ(maskTable.Offset(32), table)
	NEGQ(n)
	VMOVUPS(Mem{Base: table, Index: n, Scale: 4}, mask)
	one(0, mask)
	Label(string(at("done")))
}

// inSteps emits loops over n elements, in steps of unroll registers of lanes elements each, then of one. i counts elements, lane registers within a
// step. What remains in n is less than one register, and the flags say whether it is nothing.
func inSteps(at func(string) LabelRef, n, i reg.Register, lanes, unroll int, one func(lane int)) {
	steps := []int{unroll * lanes, lanes}
	if unroll == 1 {
		steps = steps[1:]
	}
	for _, step := range steps {
		loop, end := at(fmt.Sprintf("by%d", step)), at(fmt.Sprintf("less%d", step))
		SUBQ(Imm(uint64(step)), n)
		JL(end)
		Label(string(loop))
		for lane := range step / lanes {
			one(lane)
		}
		ADDQ(Imm(uint64(step)), i)
		SUBQ(Imm(uint64(step)), n)
		JGE(loop)
		Label(string(end))
		ADDQ(Imm(uint64(step)), n)
	}
}

// begin emits the head of a vector function.
func begin(name, signature, doc string) {
	TEXT(name, NOSPLIT, signature)
	Doc(name + " " + doc)
	Pragma("noescape")
}

func end() {
	VZEROUPPER()
	RET()
}

func broadcast(param string) reg.VecVirtual { return broadcastTo(param, YMM()) }

func broadcastTo(param string, r reg.VecVirtual) reg.VecVirtual {
	m, err := Param(param).Resolve()
	if err != nil {
		panic(err)
	}
	VBROADCASTSS(m.Addr, r)
	return r
}

// accumulators returns n registers of zeros.
func accumulators(n int) []reg.VecVirtual {
	acc := make([]reg.VecVirtual, n)
	for i := range acc {
		acc[i] = YMM()
		VXORPS(acc[i], acc[i], acc[i])
	}
	return acc
}

// reduce combines accumulators into the lowest lane of one: by pairs, then half by half.
func reduce(acc []reg.VecVirtual, double bool, combine func(a, b, dst Op)) reg.VecVirtual {
	for s := len(acc) / 2; s > 0; s /= 2 {
		for i := range s {
			combine(acc[i+s], acc[i], acc[i])
		}
	}
	low, high := acc[0].AsX(), XMM()
	VEXTRACTF128(Imm(1), acc[0], high)
	combine(high, low, high)
	t := XMM()
	VPERMILPS(Imm(0b1110), high, t)
	combine(t, high, high)
	if !double {
		VMOVSHDUP(high, t)
		combine(t, high, high)
	}
	return high
}

func add(a, b, dst Op)  { VADDPS(a, b, dst) }
func addD(a, b, dst Op) { VADDPD(a, b, dst) }

// exp emits eˣ as exp32 computes it; x is kept.
func exp(x reg.VecVirtual) reg.VecVirtual {
	r, n := YMM(), YMM()
	VMOVUPS(constant(89), r)
	VMINPS(x, r, r) // in this order NaN stays
	VMULPS(constant(1.44269504088896341), r, n)
	VROUNDPS(Imm(0), n, n)
	VFNMADD231PS(constant(0.693359375), n, r)
	VFNMADD231PS(constant(-2.12194440e-4), n, r)
	p := YMM()
	VMOVUPS(constant(1.9875691500e-4), p)
	for _, c := range []float32{1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1} {
		VFMADD213PS(constant(c), r, p)
	}
	square := YMM()
	VMULPS(r, r, square)
	VFMADD213PS(r, square, p)
	VADDPS(constant(1), p, p)
	half := YMM()
	VCVTPS2DQ(n, n)
	VPSRAD(Imm(1), n, half)
	VPSUBD(half, n, n)
	for _, k := range []reg.VecVirtual{half, n} {
		VPADDD(constantBits(127), k, k)
		VPSLLD(Imm(23), k, k)
		VMULPS(k, p, p)
	}
	VCMPPS(Imm(17), constant(-87.3), x, n) // less than
	VANDNPS(p, n, p)
	return p
}

// sigmoid emits 1/(1+e⁻ˣ).
func sigmoid(x reg.VecVirtual) reg.VecVirtual {
	t := YMM()
	VXORPS(constantBits(1<<31), x, t)
	e := exp(t)
	VADDPS(constant(1), e, e)
	one := YMM()
	VMOVUPS(constant(1), one)
	VDIVPS(e, one, e)
	return e
}

type regs = []reg.VecVirtual

func vectorFunctions() {
	maskTable = masks()

	begin("dot8", "func(n int, a, b *float32) float32", "returns Σ a·b.")
	sums := accumulators(4)
	vectors("dot8", 4, []array{in("a"), in("b")}, func(lane int, _ reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		VFMADD231PS(v[0], v[1], sums[lane])
		return nil
	})
	Store(reduce(sums, false, add).AsX(), ReturnIndex(0))
	end()

	begin("axpy8", "func(n int, a float32, x, y *float32)", "computes y += a·x.")
	a := broadcast("a")
	vectors("axpy8", 4, []array{in("x"), inout("y")}, func(_ int, _ reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		VFMADD231PS(v[0], a, v[1])
		return regs{v[1]}
	})
	end()

	begin("scale8", "func(n int, a float32, x *float32)", "computes x *= a.")
	a = broadcast("a")
	vectors("scale8", 4, []array{inout("x")}, func(_ int, _ reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		VMULPS(v[0], a, v[0])
		return regs{v[0]}
	})
	end()

	begin("max8", "func(n int, x *float32) float32", "returns the largest of x, NaN left aside.")
	top := make([]reg.VecVirtual, 4)
	for i := range top {
		top[i] = YMM()
		VMOVUPS(constant(float32(math.Inf(-1))), top[i])
	}
	vectors("max8", 4, []array{in("x")}, func(lane int, mask reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		if mask != nil {
			t := YMM()
			VMOVUPS(constant(float32(math.Inf(-1))), t)
			VBLENDVPS(mask, v[0], t, v[0])
		}
		VMAXPS(top[lane], v[0], top[lane])
		return nil
	})
	Store(reduce(top, false, func(a, b, dst Op) { VMAXPS(a, b, dst) }).AsX(), ReturnIndex(0))
	end()

	begin("expSum8", "func(n int, dst, x *float32, shift float32) float32", "computes dst = exp(x-shift) and returns its sum.")
	shift := broadcast("shift")
	sums = accumulators(2)
	vectors("expSum8", 2, []array{in("x"), out("dst")}, func(lane int, mask reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		VSUBPS(shift, v[0], v[0])
		e := exp(v[0])
		if mask != nil {
			VANDPS(mask, e, e)
		}
		VADDPS(e, sums[lane], sums[lane])
		return regs{e}
	})
	Store(reduce(sums, false, add).AsX(), ReturnIndex(0))
	end()

	begin("siluMul8", "func(n int, y, gate, up *float32)", "computes y = silu(gate)·up.")
	vectors("siluMul8", 1, []array{in("gate"), in("up"), out("y")}, func(_ int, _ reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		s := sigmoid(v[0])
		VMULPS(v[0], s, s)
		VMULPS(v[1], s, s)
		return regs{s}
	})
	end()

	begin("siluMulGrad8", "func(n int, dgate, dup, dy, gate, up *float32)", "computes the gradients of silu(gate)·up.")
	vectors("siluMulGrad8", 1, []array{in("dy"), in("gate"), in("up"), out("dgate"), out("dup")}, func(_ int, _ reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		d, g, up := v[0], v[1], v[2]
		s, t, dup := sigmoid(g), YMM(), YMM()
		VMULPS(d, g, dup)
		VMULPS(s, dup, dup)
		VMOVUPS(constant(1), t)
		VSUBPS(s, t, t)
		VFMADD213PS(constant(1), g, t) // 1 + g·(1-s)
		VMULPS(d, up, up)
		VMULPS(s, up, up)
		VMULPS(t, up, up)
		return regs{up, dup}
	})
	end()

	// product accumulates the products of two vectors in float64.
	product := func(lane int, acc []reg.VecVirtual, a, b reg.VecVirtual) {
		for h := range 2 {
			ad, bd := YMM(), YMM()
			if h == 0 {
				VCVTPS2PD(a.AsX(), ad)
				VCVTPS2PD(b.AsX(), bd)
			} else {
				x := XMM()
				VEXTRACTF128(Imm(1), a, x)
				VCVTPS2PD(x, ad)
				VEXTRACTF128(Imm(1), b, x)
				VCVTPS2PD(x, bd)
			}
			VFMADD231PD(ad, bd, acc[2*lane+h])
		}
	}
	begin("sumSquares8", "func(n int, x *float32) float64", "returns Σ x², summed in float64.")
	sums = accumulators(8)
	vectors("sumSquares8", 4, []array{in("x")}, func(lane int, _ reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		product(lane, sums, v[0], v[0])
		return nil
	})
	Store(reduce(sums, true, addD).AsX(), ReturnIndex(0))
	end()

	begin("dot3x8", "func(n int, a, b, c *float32) float64", "returns Σ a·b·c, summed in float64.")
	sums = accumulators(4)
	vectors("dot3x8", 2, []array{in("a"), in("b"), in("c")}, func(lane int, _ reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		VMULPS(v[0], v[1], v[1])
		product(lane, sums, v[1], v[2])
		return nil
	})
	Store(reduce(sums, true, addD).AsX(), ReturnIndex(0))
	end()

	begin("norm8", "func(n int, y, x, weight *float32, s float32)", "computes y = weight·(x·s).")
	s := broadcast("s")
	vectors("norm8", 2, []array{in("x"), in("weight"), out("y")}, func(_ int, _ reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		VMULPS(v[0], s, v[0])
		VMULPS(v[0], v[1], v[0])
		return regs{v[0]}
	})
	end()

	begin("normGrad8", "func(n int, dx, dy, weight, x *float32, s, k float32)", "computes dx += dy·weight·s - x·k.")
	s, k := broadcast("s"), broadcast("k")
	vectors("normGrad8", 2, []array{in("dy"), in("weight"), in("x"), inout("dx")}, func(_ int, _ reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		VMULPS(v[0], v[1], v[1])
		VMULPS(s, v[1], v[1])
		VFNMADD231PS(k, v[2], v[1])
		VADDPS(v[1], v[3], v[3])
		return regs{v[3]}
	})
	end()

	begin("mulAxpy8", "func(n int, a float32, x, z, y *float32)", "computes y += x·z·a.")
	a = broadcast("a")
	vectors("mulAxpy8", 2, []array{in("x"), in("z"), inout("y")}, func(_ int, _ reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		VMULPS(v[0], v[1], v[1])
		VFMADD231PS(v[1], a, v[2])
		return regs{v[2]}
	})
	end()

	begin("softmaxGrad8", "func(n int, d, p *float32, mean, a float32)", "computes d = p·(d-mean)·a.")
	mean, a := broadcast("mean"), broadcast("a")
	vectors("softmaxGrad8", 2, []array{in("p"), inout("d")}, func(_ int, _ reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		VSUBPS(mean, v[1], v[1])
		VMULPS(v[0], v[1], v[1])
		VMULPS(a, v[1], v[1])
		return regs{v[1]}
	})
	end()

	begin("turn8", "func(n int, a, b, cos, sin *float32, sign float32)", "turns the points (a, b) by sign times the angles given.")
	sign := broadcast("sign")
	vectors("turn8", 1, []array{in("cos"), in("sin"), inout("a"), inout("b")}, func(_ int, _ reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		cos, sin, a, b := v[0], v[1], v[2], v[3]
		x, y := YMM(), YMM()
		VMULPS(sign, sin, sin)
		VMULPS(b, sin, x)
		VFMSUB231PS(a, cos, x)
		VMULPS(a, sin, y)
		VFMADD231PS(b, cos, y)
		return regs{x, y}
	})
	end()

	begin("adam8", "func(n int, w, m, v, grad *float32, b1, c1, b2, c2, clip, keep, rate, root, eps float32)",
		"is a step of AdamW, with c1 = 1-b1, c2 = 1-b2, the gradient grad·clip and the moments' bias in rate and root.")
	var c [9]reg.VecVirtual
	for i, name := range []string{"b1", "c1", "b2", "c2", "clip", "keep", "rate", "root", "eps"} {
		c[i] = broadcast(name)
	}
	vectors("adam8", 1, []array{in("grad"), inout("w"), inout("m"), inout("v")}, func(_ int, _ reg.Register, v []reg.VecVirtual) []reg.VecVirtual {
		g, w, m, v2 := v[0], v[1], v[2], v[3]
		VMULPS(c[4], g, g)
		VMULPS(c[0], m, m)
		VFMADD231PS(c[1], g, m)
		VMULPS(g, g, g)
		VMULPS(c[2], v2, v2)
		VFMADD231PS(c[3], g, v2)
		VSQRTPS(v2, g)
		VDIVPS(c[7], g, g)
		VADDPS(c[8], g, g)
		t := YMM()
		VMULPS(c[6], m, t)
		VDIVPS(g, t, g)
		VMULPS(c[5], w, w)
		VSUBPS(g, w, w)
		return regs{w, m, v2}
	})
	end()
}
