package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
)

var formatNames = [formats]string{"Float32", "BFloat16", "BFloat16Dot", "Int8", "Int4", "Int8PerRow"}

// onEachFormat runs f on each tier with each format.
func onEachFormat(t *testing.T, f func(t *testing.T, format Format)) {
	onEachTier(t, func(t *testing.T) {
		for format, name := range formatNames {
			t.Run(name, func(t *testing.T) { f(t, Format(format)) })
		}
	})
}

// rowsOf returns all of m as float32.
func rowsOf(m Matrix) []float32 {
	w := make([]float32, m.Out*m.In)
	for i := range m.Out {
		m.Row(w[i*m.In:][:m.In], i)
	}
	return w
}

// packedRows are counts of rows that make tiles of every height.
var packedRows = []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 22, 29, 31, 70}

func TestAPackedMatrixGivesTheBitsOfTheUnpackedOne(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		check := func(rows, in, out int, values func(*rand.Rand, int) []float32) {
			t.Helper()
			half, whole := halves(values(r, out*in))
			for _, c := range []struct{ unpacked, packed Matrix }{
				{NewMatrix(out, in, whole), NewMatrix(out, in, whole).Pack(Float32)},
				{NewMatrix(out, in, whole), NewMatrix(out, in, whole).Pack(BFloat16)},
				{NewMatrixBF16(out, in, half), NewMatrixBF16(out, in, half).Pack(BFloat16)},
			} {
				x, y, dx := values(r, rows*in), values(r, rows*out), values(r, rows*in)
				for _, p := range []struct {
					name     string
					product  func(dst, src []float32, m Matrix, rows int)
					dst, src []float32
				}{{"Linear", Linear, y, x}, {"LinearAdd", LinearAdd, y, x}, {"LinearGradInput", LinearGradInput, dx, y}} {
					got, check := guarded(t, p.dst)
					want := slices.Clone(p.dst)
					p.product(got, p.src, c.packed, rows)
					p.product(want, p.src, c.unpacked, rows)
					check()
					if !sameBits(got, want) {
						t.Fatalf("%s of %d rows, in %d, out %d, as %s, differs", p.name, rows, in, out, formatNames[c.packed.packed.format])
					}
				}
				if !sameBits(rowsOf(c.packed), whole) {
					t.Fatalf("rows of (%d, %d) as %s differ", out, in, formatNames[c.packed.packed.format])
				}
			}
		}
		values := []func(*rand.Rand, int) []float32{normals, extremes}
		for i, rows := range packedRows {
			for j, in := range []int{1, 2, 7, 16, 35} {
				for k, out := range []int{1, 31, 32, 45, 70} {
					check(rows, in, out, values[(i+j+k)%len(values)])
				}
			}
		}
		onThreads(func(int) {
			for _, rows := range []int{1, 2, 15, 70} {
				check(rows, 1099, 95, normals)
				check(rows, 130, 515, normals)
			}
			check(300, 2200, 70, normals)
		})
	})
}

// bound returns the most by which a format's product may differ from the exact one, see the formats' comments, given the
// inputs and the weights before they were packed.
func bound(f Format, x, w []float32) float64 {
	var sum, most float64 // Σ |x·w|, and Σ of what rounding may do to each product
	together := groupSize
	if f == Int8PerRow {
		together = spanSteps
	}
	for at := 0; at < len(x); at += together {
		n := min(together, len(x)-at)
		var topX, topW float64
		for k := at; k < at+n; k++ {
			topX, topW = max(topX, math.Abs(float64(x[k]))), max(topW, math.Abs(float64(w[k])))
		}
		for k := at; k < at+n; k++ {
			a, b := math.Abs(float64(x[k])), math.Abs(float64(w[k]))
			sum += a * b
			var da, db float64
			switch f {
			case BFloat16:
				db = b / 256
			case BFloat16Dot:
				da, db = a/256, b/256
			case Int8:
				da, db = topX/253, topW/250
			case Int4:
				da, db = topX/253, topW/7
			case Int8PerRow:
				da, db = topX/253, topW/253
			}
			most += a*db + b*da + da*db
		}
	}
	return most + float64(len(x)+2)*0x1p-23*(sum+most) + 1e-30
}

func TestPackedProductsStayWithinTheirFormatsBound(t *testing.T) {
	onEachFormat(t, func(t *testing.T, f Format) {
		r := source()
		for _, rows := range packedRows {
			for _, in := range []int{1, 2, 31, 32, 33, 95, 330} {
				for _, out := range []int{1, 31, 32, 45, 70} {
					w, x, before := normals(r, out*in), normals(r, rows*in), normals(r, rows*out)
					m := NewMatrix(out, in, w).Pack(f)
					y, check := guarded(t, make([]float32, rows*out))
					added, checkAdded := guarded(t, before)
					Linear(y, x, m, rows)
					LinearAdd(added, x, m, rows)
					check()
					checkAdded()
					for i := range rows {
						for o := range out {
							xi, wo := x[i*in:][:in], w[o*in:][:in]
							var want float64
							for k := range in {
								want += float64(xi[k]) * float64(wo[k])
							}
							limit := bound(f, xi, wo)
							if d := math.Abs(float64(y[i*out+o]) - want); !(d <= limit) {
								t.Fatalf("rows %d, in %d, out %d: Linear gives %v, want %v within %v", rows, in, out, y[i*out+o], want, limit)
							}
							want += float64(before[i*out+o])
							if d := math.Abs(float64(added[i*out+o]) - want); !(d <= limit+float64(in+2)*0x1p-23*math.Abs(float64(before[i*out+o]))) {
								t.Fatalf("rows %d, in %d, out %d: LinearAdd gives %v, want %v within %v", rows, in, out, added[i*out+o], want, limit)
							}
						}
					}
				}
			}
		}
	})
}

// What is stored decides, once it is: the product with integers and rounded inputs is exact within groups.
func TestIntegerProductsAreTheSameOnEveryTier(t *testing.T) {
	r := source()
	for _, f := range []Format{Int8, Int4, Int8PerRow} {
		for _, in := range []int{1, 31, 32, 65, 300, 2500, 17001} {
			const rows, out = 12, 45
			x, m := normals(r, rows*in), NewMatrix(out, in, normals(r, out*in)).Pack(f)
			for i := range x {
				x[i] *= float32(math.Exp(4 * r.NormFloat64()))
			}
			clear(x[:min(len(x), 40)])
			want := make([]float32, rows*out)
			before := active
			active = portableTier
			Linear(want, x, m, rows)
			active = before
			onEachTier(t, func(t *testing.T) {
				got := make([]float32, rows*out)
				Linear(got, x, m, rows)
				if !sameBits(got, want) {
					t.Errorf("%s, in %d: differs from the portable tier", formatNames[f], in)
				}
			})
		}
	}
}

func TestAPackedRowGivesTheSameBitsInEveryBatchAndOnAnyNumberOfThreads(t *testing.T) {
	onEachFormat(t, func(t *testing.T, f Format) {
		r := source()
		const rows, in, out = 60, 330, 170
		m := NewMatrix(out, in, normals(r, out*in)).Pack(f)
		x, want, added := normals(r, rows*in), make([]float32, rows*out), normals(r, rows*out)
		before := slices.Clone(added)
		Linear(want, x, m, rows)
		LinearAdd(added, x, m, rows)
		onThreads(func(threads int) {
			for _, n := range []int{1, 2, 3, 7, 13, 15, 29, 43, 60} {
				first := r.IntN(rows - n + 1)
				got := make([]float32, n*out)
				Linear(got, x[first*in:], m, n)
				if !sameBits(got, want[first*out:][:n*out]) {
					t.Errorf("Linear of %d rows on %d threads differs from that of %d", n, threads, rows)
				}
				got = slices.Clone(before[first*out:][:n*out])
				LinearAdd(got, x[first*in:], m, n)
				if !sameBits(got, added[first*out:][:n*out]) {
					t.Errorf("LinearAdd of %d rows on %d threads differs from that of %d", n, threads, rows)
				}
			}
		})
	})
}

func TestZerosAndWhatIsNotANumberPassThroughPackedProducts(t *testing.T) {
	inf := float32(math.Inf(1))
	onEachFormat(t, func(t *testing.T, f Format) {
		r := source()
		for _, in := range []int{3, 40} {
			const out = 37
			zeros, w := make([]float32, in), normals(r, out*in)
			y := make([]float32, out)
			Linear(y, zeros, NewMatrix(out, in, w).Pack(f), 1)
			if !slices.Equal(y, make([]float32, out)) {
				t.Errorf("inputs of zero give %v", y)
			}
			Linear(y, normals(r, in), NewMatrix(out, in, make([]float32, out*in)).Pack(f), 1)
			if !slices.Equal(y, make([]float32, out)) {
				t.Errorf("weights of zero give %v", y)
			}
			for _, bad := range []float32{inf, -inf, float32(math.NaN())} {
				x := normals(r, in)
				x[in/2] = bad
				Linear(y, x, NewMatrix(out, in, w).Pack(f), 1)
				for _, v := range y {
					if !(math.IsNaN(float64(v)) || math.IsInf(float64(v), 0)) {
						t.Fatalf("an input %v gives %v", bad, v)
					}
				}
				broken := slices.Clone(w)
				broken[5*in] = bad
				Linear(y, normals(r, in), NewMatrix(out, in, broken).Pack(f), 1)
				for o, v := range y {
					if finite := !math.IsNaN(float64(v)) && !math.IsInf(float64(v), 0); finite != (o != 5) {
						t.Fatalf("a weight %v in row 5 makes output %d %v", bad, o, v)
					}
				}
			}
		}
	})
}

func TestInt4AndInt8KeepTheirBoundsForWeightsOfAnySize(t *testing.T) {
	r := source()
	for _, f := range []Format{Int8, Int4} {
		for _, size := range []float64{1e-36, 1e-3, 1, 1e30} {
			w := normals(r, 64*64)
			for i := range w {
				w[i] = float32(float64(w[i]) * size)
			}
			got := rowsOf(NewMatrix(64, 64, w).Pack(f))
			limit := map[Format]float64{Int8: 1. / 250, Int4: 1. / 7}[f]
			for at := 0; at < len(w); at += groupSize {
				var top float64
				for _, v := range w[at:][:groupSize] {
					top = max(top, math.Abs(float64(v)))
				}
				for k, v := range w[at:][:groupSize] {
					if d := math.Abs(float64(v) - float64(got[at+k])); !(d <= top*limit) {
						t.Fatalf("%s: %v becomes %v, with %v the largest of its group", formatNames[f], v, got[at+k], top)
					}
				}
			}
		}
	}
}

func TestEmptyPackedMatrices(t *testing.T) {
	onEachFormat(t, func(t *testing.T, f Format) {
		y := []float32{1, 2, 3}
		m := NewMatrix(3, 0, nil).Pack(f)
		LinearAdd(y, nil, m, 1)
		if !slices.Equal(y, []float32{1, 2, 3}) {
			t.Errorf("LinearAdd over no inputs gives %v", y)
		}
		Linear(y, nil, m, 1)
		if !slices.Equal(y, make([]float32, 3)) {
			t.Errorf("Linear over no inputs gives %v", y)
		}
		LinearGradInput(nil, y, m, 1)
		Linear(nil, nil, NewMatrix(3, 2, make([]float32, 6)).Pack(f), 0)
		Linear(nil, []float32{1, 2}, NewMatrix(0, 2, nil).Pack(f), 1)
	})
}

func TestPackedMemoryIsReleasedWithItsMatrices(t *testing.T) {
	released := make(chan bool, 1)
	func() {
		m := NewMatrix(512, 512, make([]float32, 512*512)).Pack(Float32)
		runtime.AddCleanup(m.packed.memory, func(int) { released <- true }, 0)
		current.memory.Value().used = len(current.memory.Value().data) // the next matrix goes elsewhere
	}()
	for {
		runtime.GC()
		select {
		case <-released:
			return
		default:
			runtime.Gosched()
		}
	}
}

func TestPackRefusesAnUnknownFormat(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("packed as what does not exist")
		}
	}()
	NewMatrix(1, 1, []float32{1}).Pack(formats)
}

// shapes are (rows, in, out).
var benchmarkShapes = [][3]int{{512, 512, 512}, {1024, 1024, 1024}, {64, 1024, 4096}, {512, 512, 1408}}

// BenchmarkPacked measures products, and what is left of them where [Inputs] prepared the left side.
func BenchmarkPacked(b *testing.B) {
	r := source()
	for f, name := range formatNames {
		for _, s := range benchmarkShapes {
			rows, in, out := s[0], s[1], s[2]
			x, y, m := normals(r, rows*in), make([]float32, rows*out), NewMatrix(out, in, normals(r, out*in)).Pack(Format(f))
			var prepared Inputs
			prepared.Set(x, rows)
			for _, c := range []struct {
				name string
				f    func()
			}{{"", func() { Linear(y, x, m, rows) }}, {"/prepared", func() { prepared.Linear(y, m) }}} {
				b.Run(fmt.Sprintf("%s/%dx%dx%d%s", name, rows, out, in, c.name), func(b *testing.B) {
					c.f()
					for b.Loop() {
						c.f()
					}
					b.ReportMetric(2*float64(rows)*float64(in)*float64(out)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
				})
			}
		}
	}
}

// manyTimes returns a matrix that holds the rows of m, a multiple of panelWidth, over and over, in at least size bytes.
func manyTimes(m Matrix, size int) Matrix {
	times := (size + len(m.packed.data) - 1) / len(m.packed.data)
	p := &packed{format: m.packed.format, out: m.Out * times, in: m.In}
	p.data, p.memory = allocate(times * len(m.packed.data))
	for i := range times {
		copy(p.data[i*len(m.packed.data):], m.packed.data)
	}
	return Matrix{Out: p.out, In: p.in, packed: p}
}

// readSpeed returns the bytes per nanosecond at which all threads together do nothing but read, at the best of some times.
func readSpeed(data []byte) float64 {
	w, best := words32(data), 0.0
	for range 5 {
		began := time.Now()
		const piece = 1 << 18
		parallel((len(w)+piece-1)/piece, func(i int) { active.max(w[i*piece : min(len(w), (i+1)*piece)]) })
		best = max(best, float64(len(data))/float64(time.Since(began).Nanoseconds()))
	}
	return best
}

// BenchmarkPackedFewRows reads matrices that no cache holds, and compares that with doing nothing but read.
func BenchmarkPackedFewRows(b *testing.B) {
	r := source()
	const in = 4096
	w := normals(r, 128*in)
	for f, name := range formatNames {
		m := manyTimes(NewMatrix(128, in, w).Pack(Format(f)), 256<<20)
		for _, rows := range []int{1, 2, 3, 5, 8, 13, 14, 16} {
			x, y := normals(r, rows*in), make([]float32, rows*m.Out)
			b.Run(fmt.Sprintf("%s/%d", name, rows), func(b *testing.B) {
				speed := readSpeed(m.packed.data)
				for b.Loop() {
					Linear(y, x, m, rows)
				}
				got := float64(len(m.packed.data)) * float64(b.N) / float64(b.Elapsed().Nanoseconds())
				b.ReportMetric(got, "GB/s")
				b.ReportMetric(max(speed, readSpeed(m.packed.data)), "GB/s-read")
				b.ReportMetric(got*2*float64(rows)*float64(in*m.Out)/float64(len(m.packed.data)), "GFLOP/s")
			})
		}
	}
}

func TestAnArenaComputesTheSameAndGoesAtOnce(t *testing.T) {
	const out, in = 70, 90
	r := source()
	w, x := normals(r, out*in), normals(r, in)
	var a Arena
	for f := range formats {
		m := NewMatrix(out, in, w)
		want, got := make([]float32, out), make([]float32, out)
		Linear(want, x, m.Pack(f), 1)
		if Linear(got, x, a.Pack(m, f), 1); !slices.Equal(got, want) {
			t.Errorf("format %d: an arena changes results", f)
		}
	}
	a.Pack(NewMatrix(1100, 8000, make([]float32, 1100*8000)), Float32) // more than is left of the first stretch
	gone := a.Pack(NewMatrix(panelWidth, in, w[:panelWidth*in]), Float32)
	other := NewMatrix(out, in, w).Pack(Float32)
	want, got := make([]float32, out), make([]float32, out)
	Linear(want, x, other, 1)
	a.Release()
	a.Release()
	if Linear(got, x, other, 1); !slices.Equal(got, want) {
		t.Error("what is not in the arena went with it")
	}
	defer func() {
		if recover() == nil {
			t.Error("a matrix can be used after its arena is gone")
		}
	}()
	Linear(make([]float32, panelWidth), x, gone, 1) // one piece, which no helper takes
}
