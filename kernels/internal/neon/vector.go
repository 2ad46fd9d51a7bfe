package main

import (
	"fmt"
	"math"
)

// An array is a parameter of a vector function that is read, written or both.
type array struct {
	name        string
	read, write bool
}

func in(name string) array    { return array{name, true, false} }
func out(name string) array   { return array{name, false, true} }
func inout(name string) array { return array{name, true, true} }

// whole is the mask of a register all of whose lanes are elements.
const whole vec = -1

// A body is what a vector function does with the values that were read, in order: it returns those to write,
// and may change what it takes. quad counts registers within a step; mask, unless it is whole, selects the
// lanes that are elements.
type body func(quad int, mask vec, v []vec) []vec

// elements emits a function over n elements of each of arrays, in steps of unroll times eight, then of eight,
// then of four, then of what remains. Where it sums, the fifth to seventh of the last elements go to
// the second register of the step, as they would in a step of eight lanes.
// The caller emits the beginning, with parameters n and arrays, and the end.
func (f *function) elements(unroll int, sums bool, arrays []array, b body) {
	n := f.load("n")
	var all, reads, writes []r
	for _, p := range arrays {
		base := f.load(p.name)
		all = append(all, base)
		if p.read {
			reads = append(reads, base)
		}
		if p.write {
			writes = append(writes, base)
		}
	}
	advance := func(elements int) {
		for _, base := range all {
			f.emit("ADD $%d, %v", 4*elements, base)
		}
	}
	steps := []int{unroll * 8, 8}
	if unroll == 1 {
		steps = steps[1:]
	}
	for _, step := range steps {
		f.emit("SUBS $%d, %v", step, n)
		f.emit("BLT less%d", step)
		f.label(fmt.Sprint("by", step))
		for eight := range step / 8 {
			f.registers(b, 2*eight, 2, whole, len(reads), func(v [][]vec) {
				for a, v := range v {
					f.loadPair(reads[a], 32*eight, v[0], v[1])
				}
			}, func(v [][]vec) {
				for a, v := range v {
					f.storePair(writes[a], 32*eight, v[0], v[1])
				}
			})
		}
		advance(step)
		f.emit("SUBS $%d, %v", step, n)
		f.emit("BGE by%d", step)
		f.label(fmt.Sprint("less", step))
		f.emit("ADD $%d, %v", step, n)
	}
	f.emit("TBZ $2, %v, less4", n)
	f.registers(b, 0, 1, whole, len(reads), func(v [][]vec) {
		for a, v := range v {
			f.emit("FMOVQ (%v), F%d", reads[a], v[0])
		}
	}, func(v [][]vec) {
		for a, v := range v {
			f.emit("FMOVQ F%d, (%v)", v[0], writes[a])
		}
	})
	advance(4)
	if sums {
		f.rest(b, 1, n, reads, writes)
		f.emit("JMP done")
	}
	f.label("less4")
	f.rest(b, 0, n, reads, writes)
	f.label("done")
}

// registers emits the body for n registers from quad on. load and store get those of each array that is
// read, or written.
func (f *function) registers(b body, quad, n int, mask vec, reads int, load, store func(v [][]vec)) {
	before := f.vecs
	read, written := make([][]vec, reads), [][]vec(nil)
	for a := range read {
		read[a] = f.vecN(n)
	}
	load(read)
	var results []vec
	loaded := f.vecs
	for i := range n {
		var v []vec
		for a := range read {
			v = append(v, read[a][i])
		}
		for a, result := range b(quad+i, mask, v) {
			if i == 0 {
				written = append(written, nil)
			}
			written[a] = append(written[a], result)
			results = append(results, result)
		}
		f.keep(loaded, results...)
	}
	store(written)
	f.keep(before)
}

// rest emits the body for the last n%4 elements.
func (f *function) rest(b body, quad int, n r, reads, writes []r) {
	f.emit("ANDS $3, %v", n)
	f.emit("BEQ done")
	before := f.vecs
	mask := f.vec()
	f.emit("MOVD $masks<>+16(SB), R25")
	f.emit("SUB %v<<2, R25", n)
	f.emit("FMOVQ (R25), F%d", mask)
	// each emits a transfer of one, two or three elements of each array; the formats take its
	// address, then its register.
	each := func(what string, bases []r, v [][]vec, one, two, third string) {
		single, done := fmt.Sprintf("%s%d", what, quad), fmt.Sprintf("%sdone%d", what, quad)
		f.emit("TBZ $1, %v, %s", n, single)
		for a, base := range bases {
			f.emit(two, base, v[a][0])
		}
		f.emit("TBZ $0, %v, %s", n, done)
		for a, base := range bases {
			f.emit("ADD $8, %v, R25", base)
			f.emit(third, r(25), v[a][0])
		}
		f.emit("JMP %s", done)
		f.label(single)
		for a, base := range bases {
			f.emit(one, base, v[a][0])
		}
		f.label(done)
	}
	f.registers(b, quad, 1, mask, len(reads), func(v [][]vec) {
		each("load", reads, v, "FMOVS (%[1]v), F%[2]d", "FMOVD (%[1]v), F%[2]d", "VLD1 (%[1]v), %[2]v.S[2]")
	}, func(v [][]vec) {
		if len(writes) > 0 {
			each("store", writes, v, "FMOVS F%[2]d, (%[1]v)", "FMOVD F%[2]d, (%[1]v)", "VST1 %[2]v.S[2], (%[1]v)")
		}
	})
	f.keep(before)
}

// accumulators returns n registers of zeros.
func (f *function) accumulators(n int) []vec {
	acc := f.vecN(n)
	for _, v := range acc {
		f.zero(v)
	}
	return acc
}

// reduce combines accumulators into the first, the farthest pairs first.
func (f *function) reduce(acc []vec, combine instruction) vec {
	for s := len(acc) / 2; s > 0; s /= 2 {
		for i := range s {
			f.do(combine, acc[i], acc[i], acc[i+s])
		}
	}
	return acc[0]
}

// sum emits the end of a function that returns the sum of accumulators.
func (f *function) sum(acc []vec) {
	v := f.reduce(acc, fadd)
	t := f.vec()
	f.emit("VEXT $8, %v.B16, %v.B16, %v.B16", v, v, t)
	f.do(fadd, v, v, t)
	f.do(faddp, v, v)
	f.emit("FMOVS F%d, %s", v, f.param("ret"))
	f.emit("RET")
}

// sumD is sum of float64.
func (f *function) sumD(acc []vec) {
	v := f.reduce(acc, faddD)
	f.do(faddpD, v, v)
	f.emit("FMOVD F%d, %s", v, f.param("ret"))
	f.emit("RET")
}

// exp returns eˣ as exp32 computes it; x is kept.
func (f *function) exp(x vec) vec {
	r, n, half, p, t := f.vec(), f.vec(), f.vec(), f.vec(), f.vec()
	f.do(fmin, r, x, f.constant(89))
	f.do(fmul, n, r, f.constant(1.44269504088896341))
	f.do(frintn, n, n)
	f.fmls(r, n, f.constant(0.693359375))
	f.fmls(r, n, f.constant(-2.12194440e-4))
	f.move(f.constant(1.9875691500e-4), p)
	for _, c := range []float32{1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1} {
		f.move(f.constant(c), t)
		f.fmla(t, p, r)
		p, t = t, p
	}
	f.do(fmul, t, r, r)
	f.fmla(r, p, t)
	f.do(fadd, p, r, f.constant(1))
	// Two halves of the scale, since 2ⁿ alone overflows at n = 128.
	f.do(fcvtns, n, n)
	f.do(halve, half, n)
	f.emit("VSUB %v.S4, %v.S4, %v.S4", half, n, n)
	for _, k := range []vec{half, n} {
		f.emit("VADD %v.S4, %v.S4, %v.S4", f.word(127), k, k)
		f.emit("VSHL $23, %v.S4, %v.S4", k, k)
		f.do(fmul, p, p, k)
	}
	f.do(fcmgt, n, f.constant(-87.3), x)
	f.do(bic, p, p, n)
	f.release(r, n, half, t)
	return p
}

// sigmoid returns 1/(1+e⁻ˣ).
func (f *function) sigmoid(x vec) vec {
	t := f.vec()
	f.do(fneg, t, x)
	e := f.exp(t)
	f.do(fadd, e, e, f.constant(1))
	f.do(fdiv, e, f.constant(1), e)
	f.release(t)
	return e
}

// multiplyD adds the products of a and b to two accumulators of float64.
func (f *function) multiplyD(acc []vec, a, b vec) {
	ad, bd := f.vec(), f.vec()
	for i, widen := range []instruction{fcvtl, fcvtl2} {
		f.do(widen, ad, a)
		f.do(widen, bd, b)
		f.do(fmlaD, acc[i], ad, bd)
	}
}

func (p *program) vectorFunctions() {
	f := p.function("dot4", "(n int, a, b *float32) float32", "returns Σ a·b.")
	sums := f.accumulators(8)
	f.elements(4, true, []array{in("a"), in("b")}, func(quad int, _ vec, v []vec) []vec {
		f.fmla(sums[quad], v[0], v[1])
		return nil
	})
	f.sum(sums)

	f = p.function("axpy4", "(n int, a float32, x, y *float32)", "computes y += a·x.")
	a := f.broadcast("a")
	f.elements(4, false, []array{in("x"), inout("y")}, func(_ int, _ vec, v []vec) []vec {
		f.fmla(v[1], v[0], a)
		return v[1:]
	})
	f.emit("RET")

	f = p.function("scale4", "(n int, a float32, x *float32)", "computes x *= a.")
	a = f.broadcast("a")
	f.elements(4, false, []array{inout("x")}, func(_ int, _ vec, v []vec) []vec {
		f.do(fmul, v[0], v[0], a)
		return v
	})
	f.emit("RET")

	f = p.function("max4", "(n int, x *float32) float32", "returns the largest of x, NaN left aside.")
	least := f.constant(float32(math.Inf(-1)))
	tops := f.vecN(8)
	for _, v := range tops {
		f.move(least, v)
	}
	f.elements(4, true, []array{in("x")}, func(quad int, mask vec, v []vec) []vec {
		if mask != whole {
			f.emit("VBIF %v.B16, %v.B16, %v.B16", mask, least, v[0])
		}
		f.do(fmaxnm, tops[quad], tops[quad], v[0])
		return nil
	})
	top := f.reduce(tops, fmaxnm)
	f.do(fmaxnmv, top, top)
	f.emit("FMOVS F%d, %s", top, f.param("ret"))
	f.emit("RET")

	f = p.function("expSum4", "(n int, dst, x *float32, shift float32) float32", "computes dst = exp(x-shift) and returns its sum.")
	shift := f.broadcast("shift")
	sums = f.accumulators(4)
	f.elements(2, true, []array{in("x"), out("dst")}, func(quad int, mask vec, v []vec) []vec {
		f.do(fsub, v[0], v[0], shift)
		e := f.exp(v[0])
		if mask != whole {
			f.emit("VAND %v.B16, %v.B16, %v.B16", mask, e, e)
		}
		f.do(fadd, sums[quad], sums[quad], e)
		return []vec{e}
	})
	f.sum(sums)

	f = p.function("siluMul4", "(n int, y, gate, up *float32)", "computes y = silu(gate)·up.")
	f.elements(1, false, []array{in("gate"), in("up"), out("y")}, func(_ int, _ vec, v []vec) []vec {
		s := f.sigmoid(v[0])
		f.do(fmul, s, s, v[0])
		f.do(fmul, s, s, v[1])
		return []vec{s}
	})
	f.emit("RET")

	f = p.function("siluMulGrad4", "(n int, dgate, dup, dy, gate, up *float32)", "computes the gradients of silu(gate)·up.")
	f.elements(1, false, []array{in("dy"), in("gate"), in("up"), out("dgate"), out("dup")}, func(_ int, _ vec, v []vec) []vec {
		d, g, up := v[0], v[1], v[2]
		s, t := f.sigmoid(g), f.vec()
		f.do(fsub, t, f.constant(1), s)
		f.do(fmul, up, up, d)
		f.do(fmul, d, d, g)
		f.do(fmul, d, d, s)
		slope := f.vec()
		f.move(f.constant(1), slope)
		f.fmla(slope, t, g) // 1 + g·(1-s)
		f.do(fmul, up, up, s)
		f.do(fmul, up, up, slope)
		return []vec{up, d}
	})
	f.emit("RET")

	f = p.function("sumSquares4", "(n int, x *float32) float64", "returns Σ x², summed in float64.")
	sums = f.accumulators(16)
	f.elements(4, true, []array{in("x")}, func(quad int, _ vec, v []vec) []vec {
		f.multiplyD(sums[2*quad:], v[0], v[0])
		return nil
	})
	f.sumD(sums)

	f = p.function("dot3x4", "(n int, a, b, c *float32) float64", "returns Σ a·b·c, summed in float64.")
	sums = f.accumulators(8)
	f.elements(2, true, []array{in("a"), in("b"), in("c")}, func(quad int, _ vec, v []vec) []vec {
		f.do(fmul, v[1], v[1], v[0])
		f.multiplyD(sums[2*quad:], v[1], v[2])
		return nil
	})
	f.sumD(sums)

	f = p.function("norm4", "(n int, y, x, weight *float32, s float32)", "computes y = weight·(x·s).")
	s := f.broadcast("s")
	f.elements(2, false, []array{in("x"), in("weight"), out("y")}, func(_ int, _ vec, v []vec) []vec {
		f.do(fmul, v[0], v[0], s)
		f.do(fmul, v[0], v[0], v[1])
		return v[:1]
	})
	f.emit("RET")

	f = p.function("normGrad4", "(n int, dx, dy, weight, x *float32, s, k float32)", "computes dx += dy·weight·s - x·k.")
	s, k := f.broadcast("s"), f.broadcast("k")
	f.elements(2, false, []array{in("dy"), in("weight"), in("x"), inout("dx")}, func(_ int, _ vec, v []vec) []vec {
		f.do(fmul, v[1], v[1], v[0])
		f.do(fmul, v[1], v[1], s)
		f.fmls(v[1], v[2], k)
		f.do(fadd, v[3], v[3], v[1])
		return v[3:]
	})
	f.emit("RET")

	f = p.function("mulAxpy4", "(n int, a float32, x, z, y *float32)", "computes y += x·z·a.")
	a = f.broadcast("a")
	f.elements(2, false, []array{in("x"), in("z"), inout("y")}, func(_ int, _ vec, v []vec) []vec {
		f.do(fmul, v[1], v[1], v[0])
		f.fmla(v[2], v[1], a)
		return v[2:]
	})
	f.emit("RET")

	f = p.function("softmaxGrad4", "(n int, d, p *float32, mean, a float32)", "computes d = p·(d-mean)·a.")
	mean, a := f.broadcast("mean"), f.broadcast("a")
	f.elements(2, false, []array{in("p"), inout("d")}, func(_ int, _ vec, v []vec) []vec {
		f.do(fsub, v[1], v[1], mean)
		f.do(fmul, v[1], v[1], v[0])
		f.do(fmul, v[1], v[1], a)
		return v[1:]
	})
	f.emit("RET")

	f = p.function("turn4", "(n int, a, b, cos, sin *float32, sign float32)", "turns the points (a, b) by sign times the angles given.")
	sign := f.broadcast("sign")
	f.elements(1, false, []array{in("cos"), in("sin"), inout("a"), inout("b")}, func(_ int, _ vec, v []vec) []vec {
		cos, sin, a, b := v[0], v[1], v[2], v[3]
		x, y := f.vec(), f.vec()
		f.do(fmul, sin, sin, sign)
		f.do(fmul, x, b, sin)
		f.do(fneg, x, x)
		f.fmla(x, a, cos)
		f.do(fmul, y, a, sin)
		f.fmla(y, b, cos)
		return []vec{x, y}
	})
	f.emit("RET")

	f = p.function("adam4", "(n int, w, m, v, grad *float32, b1, c1, b2, c2, clip, keep, rate, root, eps float32)",
		"is a step of AdamW, with c1 = 1-b1, c2 = 1-b2, the gradient grad·clip and the moments' bias in rate and root.")
	var c [9]vec
	for i, name := range []string{"b1", "c1", "b2", "c2", "clip", "keep", "rate", "root", "eps"} {
		c[i] = f.broadcast(name)
	}
	f.elements(1, false, []array{in("grad"), inout("w"), inout("m"), inout("v")}, func(_ int, _ vec, v []vec) []vec {
		g, w, m, v2, t := v[0], v[1], v[2], v[3], f.vec()
		f.do(fmul, g, g, c[4])
		f.do(fmul, m, m, c[0])
		f.fmla(m, g, c[1])
		f.do(fmul, g, g, g)
		f.do(fmul, v2, v2, c[2])
		f.fmla(v2, g, c[3])
		f.do(fsqrt, g, v2)
		f.do(fdiv, g, g, c[7])
		f.do(fadd, g, g, c[8])
		f.do(fmul, t, m, c[6])
		f.do(fdiv, g, t, g)
		f.do(fmul, w, w, c[5])
		f.do(fsub, w, w, g)
		return []vec{w, m, v2}
	})
	f.emit("RET")
}
