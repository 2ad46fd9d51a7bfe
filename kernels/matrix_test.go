package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

// halves returns w cut to bfloat16, and the values that this leaves.
func halves(w []float32) ([]uint16, []float32) {
	half, whole := make([]uint16, len(w)), make([]float32, len(w))
	for i, v := range w {
		half[i] = uint16(math.Float32bits(v) >> 16)
		whole[i] = math.Float32frombits(uint32(half[i]) << 16)
	}
	return half, whole
}

// anyBits returns n float32 of any bits, of which one in 256 is infinite or NaN.
func anyBits(r *rand.Rand, n int) []float32 {
	s := make([]float32, n)
	for i := range s {
		s[i] = math.Float32frombits(r.Uint32())
	}
	return s
}

// extremes returns zeros and denormals of both signs, few infinities and NaN, and ordinary values.
func extremes(r *rand.Rand, n int) []float32 {
	s := normals(r, n)
	for i := range s {
		switch r.IntN(8) {
		case 0:
			s[i] = math.Float32frombits(uint32(r.IntN(2)) << 31)
		case 1:
			s[i] = math.Float32frombits(r.Uint32() &^ 0x7f800000)
		case 2:
			if r.IntN(100) == 0 {
				s[i] = math.Float32frombits(r.Uint32() | 0x7f800000)
			}
		case 3:
			if r.IntN(100) == 0 {
				s[i] = math.Float32frombits(uint32(r.IntN(2))<<31 | 0x7f800000)
			}
		}
	}
	return s
}

// checkBF16 compares every product with a matrix in bfloat16, at an address that is odd in words, with
// the one over the same values in float32.
func checkBF16(t *testing.T, r *rand.Rand, rows, in, out int, values func(*rand.Rand, int) []float32) {
	t.Helper()
	half, whole := halves(values(r, out*in))
	half = append(make([]uint16, 1, 1+len(half)), half...)[1:]
	m, want := NewMatrixBF16(out, in, half), NewMatrix(out, in, whole)
	x, y, dx := values(r, rows*in), values(r, rows*out), values(r, rows*in)
	for _, c := range []struct {
		name    string
		product func(dst, src []float32, m Matrix, rows int)
		dst     []float32
		src     []float32
	}{
		{"Linear", Linear, y, x},
		{"LinearAdd", LinearAdd, y, x},
		{"LinearGradInput", LinearGradInput, dx, y},
	} {
		got, check := guarded(t, c.dst)
		expected := slices.Clone(c.dst)
		c.product(got, c.src, m, rows)
		c.product(expected, c.src, want, rows)
		check()
		if !sameBits(got, expected) {
			t.Fatalf("%s of %d rows, in %d, out %d, differs from that in float32", c.name, rows, in, out)
		}
	}
	got, check := guarded(t, make([]float32, in))
	m.Row(got, out-1)
	check()
	if !sameBits(got, whole[(out-1)*in:]) {
		t.Fatalf("row %d of (%d, %d) differs from that in float32", out-1, out, in)
	}
}

func TestBFloat16GivesTheBitsOfFloat32(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		values := []func(*rand.Rand, int) []float32{normals, anyBits, extremes}
		for i, rows := range oddSizes {
			for j, in := range oddSizes {
				for k, out := range oddSizes {
					checkBF16(t, r, rows, in, out, values[(i+j+k)%len(values)])
				}
			}
		}
		onThreads(func(int) {
			for _, rows := range []int{1, 2, 14, 15, 70} {
				checkBF16(t, r, rows, 1099, 515, normals)
				checkBF16(t, r, rows, 513, 1030, extremes)
			}
		})
	})
}

// Every bfloat16 has to come out as it is: NaN with their payload, denormals not as zero.
func TestEveryBFloat16IsWidenedExactly(t *testing.T) {
	const in = 1 << 8
	half := make([]uint16, in*in)
	for i := range half {
		half[i] = uint16(i)
	}
	m := NewMatrixBF16(in, in, half)
	row := make([]float32, in)
	for i := range in {
		m.Row(row, i)
		for j, v := range row {
			if math.Float32bits(v) != uint32(half[i*in+j])<<16 {
				t.Fatalf("%04x is widened to %08x", half[i*in+j], math.Float32bits(v))
			}
		}
	}
	onEachTier(t, func(t *testing.T) {
		one, got := []float32{1}, make([]float32, 2)
		for _, bits := range half {
			v := math.Float32frombits(uint32(bits) << 16)
			if v != v {
				continue // a product makes NaN quiet
			}
			m := NewMatrixBF16(2, 1, []uint16{bits, bits})
			Linear(got, one, m, 1)
			if got[0] != v || got[1] != v {
				t.Fatalf("%04x times one is %v, want %v", bits, got, v)
			}
		}
	})
}

// Matrices are rows of memory without gaps, but operands need not be.
func TestBFloat16OperandsGiveTheBitsOfFloat32AtAnyDistanceOfRows(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, s := range [][3]int{{1, 33, 70}, {5, 64, 129}, {20, 31, 35}, {70, 7, 200}, {2, 200, 700}} {
			m, n, k := s[0], s[1], s[2]
			for _, vectors := range []bool{true, false} {
				for _, gap := range []int{0, 1, 6} {
					across, down := n, k
					if vectors {
						across, down = k, n
					}
					ld := across + gap
					half, whole := halves(normals(r, ld*down))
					a := floats(normals(r, m*(k+gap)), k+gap, true)
					got, check := guarded(t, make([]float32, m*(n+gap)))
					want := make([]float32, len(got))
					product(got, n+gap, a, operand{half: half[:len(half)-gap], ld: ld, vectors: vectors}, m, n, k, false)
					product(want, n+gap, a, floats(whole[:len(whole)-gap], ld, vectors), m, n, k, false)
					check()
					if !sameBits(got, want) {
						t.Errorf("%d×%d×%d, vectors %v, gap %d: differs from float32", m, n, k, vectors, gap)
					}
				}
			}
		}
	})
}

func TestAProductGivesTheSameBitsWhereverItsMatrixLies(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		const rows, in, out = 3, 45, 50
		w, x := normals(r, out*in), normals(r, rows*in)
		want := make([]float32, rows*out)
		Linear(want, x, NewMatrix(out, in, w), rows)
		for offset := range 4 {
			moved := append(make([]float32, offset, offset+len(w)), w...)[offset:]
			got := make([]float32, rows*out)
			Linear(got, x, NewMatrix(out, in, moved), rows)
			if !sameBits(got, want) {
				t.Errorf("moved by %d elements, the product differs", offset)
			}
		}
	})
}

func TestAProductWithBFloat16AllocatesLessThanItsMatrix(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		const short, long = 256, 32 << 10
		half := make([]uint16, short*long)
		wide, tall := NewMatrixBF16(short, long, half), NewMatrixBF16(long, short, half)
		for _, rows := range []int{1, 3, 20} {
			x, y := make([]float32, rows*long), make([]float32, rows*short)
			for name, f := range map[string]func(){
				"Linear":          func() { Linear(y, x, wide, rows) },
				"LinearAdd":       func() { LinearAdd(y, x, wide, rows) },
				"LinearGradInput": func() { LinearGradInput(y, x, tall, rows) },
			} {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				f()
				runtime.ReadMemStats(&after)
				// The race detector throws some of the scratch away.
				if got := after.TotalAlloc - before.TotalAlloc; got > 2*short*long {
					t.Errorf("%s of %d rows allocates %d bytes, with %d in the matrix", name, rows, got, 2*short*long)
				}
			}
		}
	})
}

func BenchmarkLinearByType(b *testing.B) {
	r := source()
	const in, out = 4096, 11008
	half, whole := halves(normals(r, out*in))
	for _, rows := range []int{1, 2, 8, 14, 256} {
		x, y := normals(r, rows*in), make([]float32, rows*out)
		for _, c := range []struct {
			name  string
			m     Matrix
			bytes float64
		}{{"float32", NewMatrix(out, in, whole), 4}, {"bfloat16", NewMatrixBF16(out, in, half), 2}} {
			b.Run(fmt.Sprintf("%dx%dx%d/%s", rows, out, in, c.name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					Linear(y, x, c.m, rows)
				}
				products := in * out * float64(b.N) / float64(b.Elapsed().Nanoseconds())
				b.ReportMetric(products*c.bytes, "GB/s")
				b.ReportMetric(products*2*float64(rows), "GFLOP/s")
			})
		}
	}
}
