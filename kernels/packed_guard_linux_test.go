package kernels

import (
	"slices"
	"testing"
)

func TestNothingBeyondAPackedMatrixAndItsVectorsIsTouched(t *testing.T) {
	onEachFormat(t, func(t *testing.T, f Format) {
		r := source()
		fresh := func(n int) []float32 { return atPageEnd(t, normals(r, n)) }
		for _, in := range []int{1, 2, 19, 32, 63, 70} {
			for _, out := range []int{1, 31, 32, 70} {
				m := NewMatrix(out, in, normals(r, out*in)).Pack(f)
				m.packed.data = bytesOf(atPageEnd(t, words32(m.packed.data)))
				for _, rows := range []int{1, 2, 3, 7, 8, 14, 15} {
					x := fresh(rows * in)
					Linear(fresh(rows*out), x, m, rows)
					LinearAdd(fresh(rows*out), x, m, rows)
					LinearGradInput(fresh(rows*in), fresh(rows*out), m, rows)
				}
				m.Row(fresh(in), out-1)
			}
		}
	})
}

func TestPackingTouchesNothingBeyondEitherMatrix(t *testing.T) {
	onEachFormat(t, func(t *testing.T, f Format) {
		r := source()
		for _, in := range []int{1, 2, 19, 32, 63, 64, 96} {
			for _, out := range []int{1, 31, 32, 64, 70} {
				w := atPageEnd(t, normals(r, out*in))
				half, _ := halves(w)
				half = atPageEnd(t, half)
				for _, m := range []Matrix{NewMatrix(out, in, w), NewMatrixBF16(out, in, half)} {
					for _, p := range []Matrix{m.Pack(f), m.PackTransposed(f)} {
						want := slices.Clone(p.packed.data)
						p.packed.data = bytesOf(atPageEnd(t, make([]float32, len(want)/4)))
						p.Refill(m)
						if !slices.Equal(p.packed.data, want) {
							t.Errorf("(%d, %d) as %s differs", out, in, formatNames[f])
						}
					}
				}
			}
		}
	})
}
