package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

var lengths = []int{1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 100, 257, 1000}

// near fails the test unless got is within relative (or, near zero, absolute) distance of want.
func near(t *testing.T, what string, got, want, relative, absolute float64) {
	t.Helper()
	if math.IsNaN(want) && math.IsNaN(got) || got == want {
		return
	}
	if !(math.Abs(got-want) <= relative*math.Abs(want)+absolute) {
		t.Fatalf("%s is %v, want %v", what, got, want)
	}
}

// exactly is the relative error of a few roundings.
const exactly = 1e-6

func TestReductionsMatchFloat64(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, n := range lengths {
			a, b, c := normals(r, n), normals(r, n), normals(r, n)
			var dot, squares sum
			var dot3 float64
			for i := range a {
				dot.add(a[i], b[i])
				squares.add(a[i], a[i])
				dot3 += float64(a[i]) * float64(b[i]) * float64(c[i])
			}
			dot.check(t, fmt.Sprint("Dot of ", n), Dot(a, b), n)
			near(t, fmt.Sprint("SumSquares of ", n), SumSquares(a), squares.value, 1e-12, 0)
			near(t, fmt.Sprint("dot3 of ", n), active.dot3(a, b, c), dot3, 0, exactly*float64(n))
			if got := active.max(a); got != slices.Max(a) {
				t.Fatalf("max of %d is %v, want %v", n, got, slices.Max(a))
			}
		}
		if Dot(nil, nil) != 0 || SumSquares(nil) != 0 {
			t.Error("a sum of nothing is not zero")
		}
	})
}

func TestZeroSetsAllToZero(t *testing.T) {
	onThreads(func(int) {
		for _, n := range []int{0, 1, grain, 3*grain + 5} {
			x, check := guarded(t, slices.Repeat([]float32{1}, n))
			Zero(x)
			check()
			if slices.ContainsFunc(x, func(v float32) bool { return v != 0 }) {
				t.Errorf("%d elements are not all zero", n)
			}
		}
	})
}

func TestMaxOfNegativesIsNegative(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		for _, n := range lengths {
			x := slices.Repeat([]float32{-3}, n)
			x[n-1] = -2
			if got := active.max(x); got != -2 {
				t.Errorf("max of %d is %v, want -2", n, got)
			}
		}
	})
}

func TestElementwiseFunctionsMatchFloat64AndWriteNowhereElse(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, n := range lengths {
			a, b, c, d := normals(r, n), normals(r, n), normals(r, n), normals(r, n)
			const k, l = 0.7, -1.3
			out := func(what string, from []float32, f func(y []float32), want func(i int) float64) {
				t.Helper()
				y, check := guarded(t, from)
				f(y)
				check()
				for i, v := range y {
					near(t, fmt.Sprintf("%s of %d at %d", what, n, i), float64(v), want(i), exactly, exactly)
				}
			}
			f := func(s []float32, i int) float64 { return float64(s[i]) }
			out("Axpy", a, func(y []float32) { Axpy(y, k, b) }, func(i int) float64 { return f(a, i) + k*f(b, i) })
			out("mulAxpy", a, func(y []float32) { active.mulAxpy(y, k, b, c) }, func(i int) float64 { return f(a, i) + k*f(b, i)*f(c, i) })
			out("scale", a, func(y []float32) { active.scale(y, k) }, func(i int) float64 { return k * f(a, i) })
			out("norm", a, func(y []float32) { active.norm(y, b, c, k) }, func(i int) float64 { return f(c, i) * f(b, i) * k })
			out("normGrad", a, func(y []float32) { active.normGrad(y, b, c, d, k, l) },
				func(i int) float64 { return f(a, i) + f(b, i)*f(c, i)*k - f(d, i)*l })
			out("expSum", a, func(y []float32) {
				var sum float64
				got := active.expSum(y, b, k)
				for _, v := range y {
					sum += float64(v)
				}
				near(t, "its sum", float64(got), sum, 1e-5, 0)
			}, func(i int) float64 { return math.Exp(f(b, i) - float64(float32(k))) })
			silu := func(x float64) float64 { return x / (1 + math.Exp(-x)) }
			slope := func(x float64) float64 { return (silu(x+1e-5) - silu(x-1e-5)) / 2e-5 }
			out("SiLUMul", a, func(y []float32) { SiLUMul(y, b, c) }, func(i int) float64 { return silu(f(b, i)) * f(c, i) })
			out("SiLUMulGrad of the gate", a, func(y []float32) { SiLUMulGrad(y, make([]float32, n), b, c, d) },
				func(i int) float64 { return f(b, i) * f(d, i) * slope(f(c, i)) })
			out("SiLUMulGrad of up", a, func(y []float32) { SiLUMulGrad(make([]float32, n), y, b, c, d) },
				func(i int) float64 { return f(b, i) * silu(f(c, i)) })
			out("turn of a", a, func(y []float32) { active.turn(y, slices.Clone(b), c, d, -1) }, func(i int) float64 { return f(a, i)*f(c, i) + f(b, i)*f(d, i) })
			out("turn of b", b, func(y []float32) { active.turn(slices.Clone(a), y, c, d, -1) }, func(i int) float64 { return f(b, i)*f(c, i) - f(a, i)*f(d, i) })
		}
	})
}

func TestExpIsExactToTwoUnitsAndKeepsItsEnds(t *testing.T) {
	inf, nan := math.Inf(1), math.NaN()
	onEachTier(t, func(t *testing.T) {
		exp := func(x float64) float64 {
			y := []float32{float32(x)}
			active.expSum(y, y, 0)
			return float64(y[0])
		}
		for x := -87.2; x < 88.7; x += 0.00731 {
			near(t, fmt.Sprintf("exp(%v)", x), exp(x), math.Exp(float64(float32(x))), 2*0x1p-23, 0)
		}
		for _, c := range [][2]float64{{0, 1}, {-87.4, 0}, {-1000, 0}, {-inf, 0}, {89, inf}, {1000, inf}, {inf, inf}, {nan, nan}, {1e-45, 1}} {
			near(t, fmt.Sprintf("exp(%v)", c[0]), exp(c[0]), c[1], 0, 0)
		}
	})
}

func TestAdamWMatchesFloat64(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, n := range lengths {
			w, m, v, g := normals(r, n), normals(r, n), normals(r, n), normals(r, n)
			for i := range v {
				v[i] *= v[i]
			}
			a := Adam{LR: 0.01, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1, Step: 3, Clip: 0.5}
			gw, checkW := guarded(t, w)
			gm, checkM := guarded(t, m)
			gv, checkV := guarded(t, v)
			AdamW(gw, gm, gv, g, a)
			checkW()
			checkM()
			checkV()
			for i := range w {
				gc := float64(g[i]) * 0.5
				mi := 0.9*float64(m[i]) + 0.1*gc
				vi := 0.95*float64(v[i]) + 0.05*gc*gc
				step := mi / (1 - math.Pow(0.9, 3)) / (math.Sqrt(vi/(1-math.Pow(0.95, 3))) + 1e-8)
				near(t, "the first moment", float64(gm[i]), mi, exactly, exactly)
				near(t, "the second moment", float64(gv[i]), vi, exactly, exactly)
				near(t, "the weight", float64(gw[i]), float64(w[i])*(1-0.001)-0.01*step, exactly, exactly)
			}
		}
	})
}

// differences returns the gradient of f at x by central differences.
func differences(x []float32, f func(x []float64) float64) []float64 {
	at := make([]float64, len(x))
	for i, v := range x {
		at[i] = float64(v)
	}
	grad := make([]float64, len(x))
	for i, v := range at {
		const h = 1e-5
		at[i] = v + h
		up := f(at)
		at[i] = v - h
		grad[i] = (up - f(at)) / (2 * h)
		at[i] = v
	}
	return grad
}

func checkGrad(t *testing.T, what string, got []float32, want []float64) {
	t.Helper()
	for i, v := range got {
		near(t, fmt.Sprintf("%s at %d", what, i), float64(v), want[i], 1e-4, 2e-5)
	}
}

func TestRMSNormAndItsGradientsMatchFloat64(t *testing.T) {
	norm := func(x, w []float64, c, n int) float64 {
		sum := 0.0
		for _, v := range x[c/n*n : (c/n+1)*n] {
			sum += v * v
		}
		return w[c%n] * x[c] / math.Sqrt(sum/float64(n)+1e-5)
	}
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, n := range []int{1, 7, 33, 100} {
			const rows = 3
			x, w, dy := normals(r, rows*n), normals(r, n), normals(r, rows*n)
			y, inv := make([]float32, rows*n), make([]float32, rows)
			RMSNorm(y, inv, x, w, 1e-5, rows)
			for c, v := range y {
				near(t, "RMSNorm", float64(v), norm(widen(x), widen(w), c, n), exactly, exactly)
			}
			sum, check := guarded(t, make([]float32, rows*n))
			RMSNormAdd(sum, nil, dy, x, w, 1e-5, rows)
			check()
			for c, v := range y {
				if sum[c] != v+dy[c] {
					t.Errorf("RMSNormAdd of %d at %d is %v, want %v", n, c, sum[c], v+dy[c])
				}
			}
			loss := func(x, w []float64) (sum float64) {
				for c := range x {
					sum += float64(dy[c]) * norm(x, w, c, n)
				}
				return sum
			}
			dx, dw := normals(r, rows*n), make([]float32, n) // what is in dx does not matter
			RMSNormGrad(dx, dw, dy, x, w, inv, rows)
			checkGrad(t, "dx", dx, differences(x, func(x []float64) float64 { return loss(x, widen(w)) }))
			checkGrad(t, "dweight", dw, differences(w, func(w []float64) float64 { return loss(widen(x), w) }))
		}
	})
}

func TestCrossEntropyAndItsGradientMatchFloat64(t *testing.T) {
	lse := func(row []float64) float64 {
		top, sum := slices.Max(row), 0.0
		for _, v := range row {
			sum += math.Exp(v - top)
		}
		return top + math.Log(sum)
	}
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, n := range []int{2, 7, 33, 257} {
			const rows, z, scale = 4, 0.01, 3
			logits := normals(r, rows*n)
			targets := []int32{int32(n - 1), 0, -1, 1}
			loss := func(z float64) func([]float64) float64 {
				return func(x []float64) (sum float64) {
					for i, target := range targets {
						if row := x[i*n : (i+1)*n]; target >= 0 {
							l := lse(row)
							sum += l - row[target] + z*l*l
						}
					}
					return sum
				}
			}
			want := differences(logits, loss(z))
			for i := range want {
				want[i] /= scale
			}
			var value float64
			wide := widen(logits)
			value = loss(0)(wide)
			lp := make([]float32, 2)
			LogProb(lp, logits, targets, n, 2)
			for i := range lp {
				near(t, "LogProb", float64(lp[i]), wide[i*n+int(targets[i])]-lse(wide[i*n:(i+1)*n]), 2e-6, 2e-6)
			}
			p, l := slices.Clone(logits), make([]float32, rows)
			for i := range rows {
				l[i] = softmax(p[i*n:][:n])
			}
			for i := range rows {
				want := lse(wide[i*n : (i+1)*n])
				near(t, "lse", float64(l[i]), want, 2e-6, 2e-6)
				for c := range n {
					near(t, "softmax", float64(p[i*n+c]), math.Exp(wide[i*n+c]-want), 5e-6, 1e-7)
				}
			}
			got, check := guarded(t, logits)
			near(t, "CrossEntropy", CrossEntropy(got, targets, z, scale, n, rows), value, 1e-5, 1e-6)
			check()
			checkGrad(t, "dlogits", got, want)
		}
	})
}

func TestRopeTurnsBackWhatItTurned(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, dim := range []int{2, 6, 16, 64} {
			rope := NewRope(dim, 10000, 50)
			const heads, rows, start = 3, 7, 40
			x := normals(r, rows*heads*dim)
			y, check := guarded(t, x)
			rope.Apply(y, heads, start, rows)
			check()
			for i := range x {
				row, c := i/(heads*dim), i%dim
				other, sign := i+dim/2, -1.0
				if c >= dim/2 {
					other, sign = i-dim/2, 1
				}
				angle := float64(start+row) * math.Pow(10000, -2*float64(c%(dim/2))/float64(dim))
				near(t, "a turned feature", float64(y[i]), float64(x[i])*math.Cos(angle)+sign*float64(x[other])*math.Sin(angle), 1e-5, 1e-5)
			}
			rope.Grad(y, heads, start, rows)
			for i := range x {
				near(t, "a feature turned back", float64(y[i]), float64(x[i]), 1e-5, 1e-5)
			}
		}
	})
}

func TestRowFunctionsGiveTheSameBitsOnAnyNumberOfThreads(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		const rows, n = 700, 130
		x, dy, w := normals(r, rows*n), normals(r, rows*n), normals(r, n)
		targets := make([]int32, rows)
		var want []float32
		onThreads(func(threads int) {
			y, inv, dx, dw := make([]float32, rows*n), make([]float32, rows), make([]float32, rows*n), make([]float32, n)
			RMSNorm(y, inv, x, w, 1e-5, rows)
			RMSNormGrad(dx, dw, dy, x, w, inv, rows)
			logits := slices.Clone(x)
			loss := CrossEntropy(logits, targets, 0.1, 1, n, rows)
			act := make([]float32, rows*n)
			SiLUMul(act, x, dy)
			got := slices.Concat(y, inv, dx, dw, logits, act, []float32{float32(loss), float32(SumSquares(x))})
			if want == nil {
				want = got
			}
			if !sameBits(got, want) {
				t.Errorf("%d threads differ from one", threads)
			}
		})
	})
}

func BenchmarkVectors(b *testing.B) {
	r := source()
	const n = 1 << 14
	x, y, z, u := normals(r, n), normals(r, n), normals(r, n), make([]float32, n)
	v := make([]float32, n)
	w := normals(rand.New(rand.NewPCG(3, 4)), n)
	for _, c := range []struct {
		name string
		f    func()
	}{
		{"dot", func() { active.dot(x, y) }},
		{"axpy", func() { active.axpy(u, 1, y) }},
		{"expSum", func() { active.expSum(u, x, 1) }},
		{"siluMul", func() { active.siluMul(u, x, y) }},
		{"siluMulGrad", func() { active.siluMulGrad(u, v, x, y, z) }},
		{"sumSquares", func() { active.sumSquares(x) }},
		{"normGrad", func() { active.normGrad(u, x, y, z, 1, 1) }},
		{"adam", func() { active.adam(w, u, v, x, adamStep{0.9, 0.9, 1, 1, 0, 1, 1e-8}) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				c.f()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/element")
		})
	}
}
