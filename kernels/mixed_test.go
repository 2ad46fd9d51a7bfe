package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// normalExtremes are [extremes] but for numbers below the normal ones, which may count as zero.
func normalExtremes(r *rand.Rand, n int) []float32 {
	v := extremes(r, n)
	for i := range v {
		v[i] = flushed(math.Float32bits(v[i]))
	}
	return v
}

// checkMixed compares the products of a mixed matrix with those of matrices of the same values in bfloat16.
func checkMixed(t *testing.T, r *rand.Rand, rows, in, out int, values func(*rand.Rand, int) []float32) {
	t.Helper()
	w, x, dy := values(r, out*in), values(r, rows*in), values(r, rows*out)
	m := NewMatrix(out, in, w).Mixed()
	compare := func(name string, dst []float32, product func(dst []float32), src []float32, twin Matrix, n int, of func(dst, src []float32, m Matrix, rows int)) {
		t.Helper()
		got, check := guarded(t, dst)
		want := append([]float32(nil), dst...)
		product(got)
		of(want, src, twin, n)
		check()
		if !sameBits(got, want) {
			t.Fatalf("%s of %d rows, in %d, out %d, differs", name, rows, in, out)
		}
	}
	back := transposed(NewMatrix(out, in, w)).Pack(BFloat16Dot)
	compare("Linear", values(r, rows*out), func(y []float32) { Linear(y, x, m, rows) }, x, NewMatrix(out, in, w).Pack(BFloat16Dot), rows, Linear)
	compare("LinearGradInput", values(r, rows*in), func(dx []float32) { LinearGradInput(dx, dy, m, rows) }, dy, back, rows, LinearAdd)
	compare("SetGradInput", values(r, rows*in), func(dx []float32) { SetGradInput(dx, dy, m, rows) }, dy, back, rows, Linear)
	right, left := transposed(NewMatrix(rows, in, x)).Pack(BFloat16Dot), rowsOf(transposed(NewMatrix(rows, out, dy)))
	compare("LinearGradWeight", values(r, out*in), func(dw []float32) { LinearGradWeight(dw, dy, x, m, rows) }, left, right, out, LinearAdd)
	compare("SetGradWeight", values(r, out*in), func(dw []float32) { SetGradWeight(dw, dy, x, m, rows) }, left, right, out, Linear)
}

func TestGradientsOfAMixedMatrixAreProductsOfBFloat16ToTheBit(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		values := []func(*rand.Rand, int) []float32{normals, normalExtremes}
		for i, rows := range []int{0, 1, 2, 3, 31, 64, 65} {
			for j, in := range []int{1, 2, 16, 17, 35, 70} {
				for k, out := range []int{1, 2, 13, 14, 15, 29, 45, 71} {
					checkMixed(t, r, rows, in, out, values[(i+j+k)%len(values)])
				}
			}
		}
	})
}

func TestLargeGradientsOfBFloat16AreTheSameOnAnyNumberOfThreads(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		onThreads(func(int) {
			checkMixed(t, source(), 1100, 95, 130, normals)
			checkMixed(t, source(), 2100, 70, 1100, normals)
		})
	})
}

func TestARefilledMatrixIsThatOfTheNewWeights(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		const out, in, rows = 45, 37, 5
		w := normals(r, out*in)
		m := NewMatrix(out, in, w)
		mixed := m.Mixed()
		copy(w, normals(r, len(w)))
		mixed.Refill(m)
		x, dy := normals(r, rows*in), normals(r, rows*out)
		fresh := m.Mixed()
		got, want := make([]float32, rows*out), make([]float32, rows*out)
		Linear(got, x, mixed, rows)
		Linear(want, x, fresh, rows)
		if !sameBits(got, want) {
			t.Error("the product is of other weights")
		}
		got, want = make([]float32, rows*in), make([]float32, rows*in)
		SetGradInput(got, dy, mixed, rows)
		SetGradInput(want, dy, fresh, rows)
		if !sameBits(got, want) {
			t.Error("the gradient is of other weights")
		}
	})
}

// BenchmarkMixed is the speed of the three products of a training step, in float32 and in mixed precision.
func BenchmarkMixed(b *testing.B) {
	r := source()
	for _, s := range []struct{ rows, in, out int }{{512, 256, 704}, {512, 768, 2048}, {1024, 768, 768}} {
		w := NewMatrix(s.out, s.in, normals(r, s.out*s.in))
		x, y := normals(r, s.rows*s.in), normals(r, s.rows*s.out)
		dw := make([]float32, s.out*s.in)
		for _, m := range []struct {
			name string
			Matrix
		}{{"float32", w}, {"mixed", w.Mixed()}} {
			for name, f := range map[string]func(){
				"forward": func() { Linear(y, x, m.Matrix, s.rows) },
				"input":   func() { SetGradInput(x, y, m.Matrix, s.rows) },
				"weight":  func() { SetGradWeight(dw, y, x, m.Matrix, s.rows) },
			} {
				b.Run(fmt.Sprintf("%dx%dx%d/%s/%s", s.rows, s.in, s.out, name, m.name), func(b *testing.B) {
					for b.Loop() {
						f()
					}
					b.ReportMetric(2*float64(s.rows*s.in*s.out)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
				})
			}
		}
	}
}
