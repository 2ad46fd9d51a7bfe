package kernels

import "testing"

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
