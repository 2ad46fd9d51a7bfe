package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

// onEachTier runs f with each tier in turn that this processor has.
func onEachTier(t *testing.T, f func(t *testing.T)) {
	before := active
	defer func() { active = before }()
	for _, tier := range tiers() {
		active = tier
		t.Run(tier.name, f)
	}
}

// normals returns n values of a normal distribution.
func normals(r *rand.Rand, n int) []float32 {
	s := make([]float32, n)
	for i := range s {
		s[i] = float32(r.NormFloat64())
	}
	return s
}

func source() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// guarded returns a copy of s and a function that fails the test if anything around the copy
// has been written.
func guarded(t *testing.T, s []float32) ([]float32, func()) {
	const canaries, canary = 64, 0x7fc0beef // a NaN that no arithmetic makes
	all := make([]float32, len(s)+2*canaries)
	for i := range all {
		all[i] = math.Float32frombits(canary)
	}
	copy(all[canaries:], s)
	return all[canaries : canaries+len(s) : canaries+len(s)], func() {
		t.Helper()
		for i, v := range all {
			if (i < canaries || i >= canaries+len(s)) && math.Float32bits(v) != canary {
				t.Fatalf("a write %d elements from the start of %d", i-canaries, len(s))
			}
		}
	}
}

// A sum is a float64 reference and the sum of the magnitudes of its terms, which bounds what
// rounding may do to it.
type sum struct{ value, magnitude float64 }

func (s *sum) add(a, b float32) {
	p := float64(a) * float64(b)
	s.value += p
	s.magnitude += math.Abs(p)
}

func (s sum) check(t *testing.T, what string, got float32, terms int) {
	t.Helper()
	if math.IsNaN(s.value) || math.IsInf(s.value, 0) {
		if float64(got) != s.value && !(math.IsNaN(s.value) && got != got) {
			t.Fatalf("%s is %v, want %v", what, got, s.value)
		}
		return
	}
	// γ_n of Higham 2002, §3.1; tiny results may also lose denormal bits.
	if limit := float64(terms+1)*0x1p-24*s.magnitude + 1e-44*float64(terms+1); !(math.Abs(float64(got)-s.value) <= limit) {
		t.Fatalf("%s is %v, want %v ± %v", what, got, s.value, limit)
	}
}

var oddSizes = []int{1, 2, 3, 7, 8, 15, 17, 31, 33, 100}

// checkLinear compares each of the products with float64, with rows, in and out as given.
func checkLinear(t *testing.T, r *rand.Rand, rows, in, out int, values func(*rand.Rand, int) []float32) {
	t.Helper()
	what := fmt.Sprintf("rows %d, in %d, out %d", rows, in, out)
	x, w, dy := values(r, rows*in), values(r, out*in), values(r, rows*out)
	m := NewMatrix(out, in, w)

	y, check := guarded(t, make([]float32, rows*out))
	y[0] = float32(math.NaN()) // what was there does not matter
	Linear(y, x, m, rows)
	check()
	for i := range rows {
		for o := range out {
			var s sum
			for k := range in {
				s.add(x[i*in+k], w[o*in+k])
			}
			s.check(t, "Linear: "+what, y[i*out+o], in)
		}
	}

	before := values(r, rows*out)
	y, check = guarded(t, before)
	LinearAdd(y, x, m, rows)
	check()
	for i := range rows {
		for o := range out {
			var s sum
			s.add(before[i*out+o], 1)
			for k := range in {
				s.add(x[i*in+k], w[o*in+k])
			}
			s.check(t, "LinearAdd: "+what, y[i*out+o], in+1)
		}
	}

	before = values(r, rows*in)
	dx, check := guarded(t, before)
	LinearGradInput(dx, dy, m, rows)
	check()
	for i := range rows {
		for k := range in {
			var s sum
			s.add(before[i*in+k], 1)
			for o := range out {
				s.add(dy[i*out+o], w[o*in+k])
			}
			s.check(t, "LinearGradInput: "+what, dx[i*in+k], out+1)
		}
	}

	before = values(r, out*in)
	dw, check := guarded(t, before)
	LinearGradWeight(dw, dy, x, Matrix{Out: out, In: in}, rows)
	check()
	for o := range out {
		for k := range in {
			var s sum
			s.add(before[o*in+k], 1)
			for i := range rows {
				s.add(dy[i*out+o], x[i*in+k])
			}
			s.check(t, "LinearGradWeight: "+what, dw[o*in+k], rows+1)
		}
	}
}

func TestLinearAndItsGradientsMatchFloat64(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, rows := range oddSizes {
			for _, in := range oddSizes {
				for _, out := range oddSizes {
					checkLinear(t, r, rows, in, out, normals)
				}
			}
		}
		checkLinear(t, r, 257, 600, 130, normals) // more than one block of k and chunk of rows
		checkLinear(t, r, 40, 1100, 257, normals)
		checkLinear(t, r, 1, 1030, 515, normals)
	})
}

func TestLinearPropagatesZerosDenormalsInfinitiesAndNaN(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, mix := range [][]float32{
		{0, float32(math.Copysign(0, -1)), 1},
		{1e-40, -1e-42, 1, 1e-20},
		{inf, 1, 2, 3, 4, 5, 6, 7, 8, 9},
		{inf, -inf, 1, 2, 3, 4, 5, 6, 7},
		{float32(math.NaN()), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
	} {
		onEachTier(t, func(t *testing.T) {
			r := source()
			values := func(r *rand.Rand, n int) []float32 {
				s := make([]float32, n)
				for i := range s {
					s[i] = mix[r.IntN(len(mix))]
				}
				return s
			}
			for _, n := range []int{1, 7, 17, 33} {
				checkLinear(t, r, n, 5, 35, values)
				checkLinear(t, r, 15, n, 16, values)
			}
		})
	}
}

func TestEmptyProductsAddNothing(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		y := []float32{1, 2, 3, 4, 5, 6}
		Linear(y, nil, NewMatrix(3, 0, nil), 2)
		if !slices.Equal(y, make([]float32, 6)) {
			t.Errorf("Linear over no inputs gives %v", y)
		}
		Linear(nil, nil, NewMatrix(2, 1, []float32{1, 2}), 0)
		dw := []float32{1, 2}
		LinearGradWeight(dw, nil, nil, Matrix{Out: 2, In: 1}, 0)
		LinearGradInput(nil, nil, NewMatrix(2, 1, dw), 0)
		if !slices.Equal(dw, []float32{1, 2}) {
			t.Errorf("LinearGradWeight over no rows gives %v", dw)
		}
	})
}

// sameBits reports whether a and b are equal to the bit.
func sameBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

func TestARowGivesTheSameBitsInEveryBatch(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, size := range [][2]int{{64, 96}, {513, 47}, {1030, 130}} {
			in, out, rows := size[0], size[1], 300
			m := NewMatrix(out, in, normals(r, out*in))
			x, dy := normals(r, rows*in), normals(r, rows*out)
			y, added, dx := make([]float32, rows*out), slices.Clone(dy), make([]float32, rows*in)
			Linear(y, x, m, rows)
			LinearAdd(added, x, m, rows)
			LinearGradInput(dx, dy, m, rows)
			for _, n := range []int{1, 2, 3, 5, 13, 14, 15, 16, 29, 64, 200} {
				first := r.IntN(rows - n + 1)
				got := make([]float32, n*out)
				Linear(got, x[first*in:], m, n)
				if !sameBits(got, y[first*out:][:n*out]) {
					t.Errorf("in %d, out %d: Linear of %d rows differs from that of %d", in, out, n, rows)
				}
				got = slices.Clone(dy[first*out:][:n*out])
				LinearAdd(got, x[first*in:], m, n)
				if !sameBits(got, added[first*out:][:n*out]) {
					t.Errorf("in %d, out %d: LinearAdd of %d rows differs from that of %d", in, out, n, rows)
				}
				got = make([]float32, n*in)
				LinearGradInput(got, dy[first*out:], m, n)
				if !sameBits(got, dx[first*in:][:n*in]) {
					t.Errorf("in %d, out %d: LinearGradInput of %d rows differs from that of %d", in, out, n, rows)
				}
			}
		}
	})
}

// onThreads calls f with each of several values of GOMAXPROCS.
func onThreads(f func(threads int)) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, n := range []int{1, 2, 3, 8} {
		runtime.GOMAXPROCS(n)
		f(n)
	}
}

func TestProductsGiveTheSameBitsOnAnyNumberOfThreads(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		const rows, in, out = 500, 300, 70
		m := NewMatrix(out, in, normals(r, out*in))
		x, dy := normals(r, rows*in), normals(r, rows*out)
		var want []float32
		onThreads(func(threads int) {
			y, dx, dw := make([]float32, rows*out), make([]float32, rows*in), make([]float32, out*in)
			Linear(y, x, m, rows)
			LinearGradInput(dx, dy, m, rows)
			LinearGradWeight(dw, dy, x, Matrix{Out: out, In: in}, rows)
			got := slices.Concat(y, dx, dw)
			if want == nil {
				want = got
			}
			if !sameBits(got, want) {
				t.Errorf("%d threads differ from one", threads)
			}
		})
	})
}

func BenchmarkLinear(b *testing.B) {
	r := source()
	for _, s := range [][3]int{{512, 512, 512}, {1024, 1024, 1024}, {64, 1024, 4096}, {512, 512, 1408}, {2048, 96, 96}, {2048, 256, 704}, {2048, 256, 4096},
		{1, 512, 512}, {1, 2048, 5632}, {1, 4096, 8192}, {2, 512, 512}, {4, 2048, 5632}, {16, 2048, 5632}} {
		rows, in, out := s[0], s[1], s[2]
		x, w, dy := normals(r, rows*in), normals(r, out*in), normals(r, rows*out)
		m := NewMatrix(out, in, w)
		run := func(name string, f func()) {
			b.Run(fmt.Sprintf("%s/%dx%dx%d", name, rows, out, in), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
				flop := 2 * float64(rows) * float64(in) * float64(out) * float64(b.N)
				b.ReportMetric(flop/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
			})
		}
		y, dx, dw := make([]float32, rows*out), make([]float32, rows*in), make([]float32, out*in)
		run("forward", func() { Linear(y, x, m, rows) })
		if rows >= 64 {
			run("input", func() { LinearGradInput(dx, dy, m, rows) })
			run("weight", func() { LinearGradWeight(dw, dy, x, Matrix{Out: out, In: in}, rows) })
		}
	}
}
