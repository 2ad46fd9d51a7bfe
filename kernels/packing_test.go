package kernels

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// transposed returns the transpose of m as a matrix of its own.
func transposed(m Matrix) Matrix {
	w := rowsOf(m)
	t := make([]float32, len(w))
	for i := range m.Out {
		for k := range m.In {
			t[k*m.Out+i] = w[i*m.In+k]
		}
	}
	return NewMatrix(m.In, m.Out, t)
}

// checkPacked compares the memory of m, packed in each way, with what the portable tier makes of the same matrix.
func checkPacked(t *testing.T, m Matrix, f Format) {
	t.Helper()
	for _, p := range []struct {
		name string
		pack func(m Matrix) Matrix
		want Matrix
	}{
		{"Pack", func(m Matrix) Matrix { return m.Pack(f) }, m},
		{"PackTransposed", func(m Matrix) Matrix { return m.PackTransposed(f) }, transposed(m)},
	} {
		got := p.pack(m)
		before := active
		active = portableTier
		want := p.want.Pack(f)
		active = before
		if got.Out != want.Out || got.In != want.In || !slices.Equal(got.packed.data, want.packed.data) {
			t.Fatalf("%s of (%d, %d) as %s differs from the portable tier's", p.name, m.Out, m.In, formatNames[f])
		}
		clear(got.packed.data[:len(got.packed.data)/2])
		got.Refill(m)
		if !slices.Equal(got.packed.data, want.packed.data) {
			t.Fatalf("after %s, Refill of (%d, %d) as %s leaves something else", p.name, m.Out, m.In, formatNames[f])
		}
	}
}

func TestEveryTierPacksTheSameBits(t *testing.T) {
	onEachFormat(t, func(t *testing.T, f Format) {
		r := source()
		for i, values := range []func(*rand.Rand, int) []float32{normals, extremes, anyBits} {
			for _, in := range []int{1, 2, 15, 32, 33, 64, 70, 130} {
				for _, out := range []int{1, 31, 32, 45, 64, 97} {
					half, whole := halves(values(r, out*in+i))
					checkPacked(t, NewMatrix(out, in, values(r, out*in)), f)
					checkPacked(t, NewMatrix(out, in, whole[i:]), f)
					checkPacked(t, NewMatrixBF16(out, in, half[i:]), f)
				}
			}
		}
		for _, size := range [][2]int{{70, 4200}, {4200, 70}} {
			half, whole := halves(extremes(r, size[0]*size[1]))
			checkPacked(t, NewMatrix(size[0], size[1], whole), f)
			checkPacked(t, NewMatrixBF16(size[0], size[1], half), f)
		}
	})
}

func TestRefillRefusesAnotherShapeOrStorage(t *testing.T) {
	m, other := NewMatrix(2, 3, make([]float32, 6)), NewMatrix(3, 2, make([]float32, 6))
	for _, c := range []struct{ p, from Matrix }{{m, m}, {m.Pack(Int8), other}, {m.PackTransposed(Int8), other}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a matrix of %d×%d was refilled with one of %d×%d", c.p.Out, c.p.In, c.from.Out, c.from.In)
				}
			}()
			c.p.Refill(c.from)
		}()
	}
}

func TestAPackedMatrixCanBePackedAgain(t *testing.T) {
	onEachFormat(t, func(t *testing.T, f Format) {
		r := source()
		m := NewMatrix(45, 70, normals(r, 45*70)).Pack(BFloat16)
		checkPacked(t, m, f)
		if w := rowsOf(m); !sameBits(rowsOf(m.PackTransposed(Float32)), rowsOf(transposed(NewMatrix(45, 70, w)))) {
			t.Error("the transpose of a packed matrix differs")
		}
	})
}

// BenchmarkPack packs into new memory, whose pages the system clears, and into memory that was packed to before.
func BenchmarkPack(b *testing.B) {
	r := source()
	const out, in = 4096, 4096
	w := normals(r, out*in)
	half, _ := halves(w)
	for f, name := range formatNames {
		for _, s := range []struct {
			name string
			m    Matrix
		}{{"float32", NewMatrix(out, in, w)}, {"bfloat16", NewMatrixBF16(out, in, half)}} {
			for _, how := range []string{"Pack", "Refill", "RefillTransposed"} {
				b.Run(fmt.Sprintf("%s/%s/%s", name, s.name, how), func(b *testing.B) {
					p := s.m.Pack(Format(f))
					if how == "RefillTransposed" {
						p = s.m.PackTransposed(Format(f))
					}
					for b.Loop() {
						if how == "Pack" {
							s.m.Pack(Format(f))
						} else {
							p.Refill(s.m)
						}
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(in*out), "ns/weight")
				})
			}
		}
	}
}
