package kernels

import (
	"testing"
)

func TestProductsTogetherHaveTheBitsOfEachAlone(t *testing.T) {
	onEachFormat(t, func(t *testing.T, f Format) {
		r := source()
		for _, rows := range [][]int{{1, 1, 1}, {1, 3, 0}, {2, 40, 1}, {300, 9, 17}} {
			var together []Product
			var want [][]float32
			for i, n := range rows {
				in, out := 70+100*i, 330-100*i
				m := NewMatrix(out, in, normals(r, out*in))
				if i > 0 || n > 1 { // among packed matrices one that is not
					m = m.Pack(f)
				}
				x, y := normals(r, n*in), make([]float32, n*out)
				Linear(y, x, m, n)
				want = append(want, y)
				together = append(together, Product{normals(r, n*out), x, m, n})
			}
			onThreads(func(threads int) {
				Linears(together...)
				for i, q := range together {
					if !sameBits(q.Y, want[i]) {
						t.Errorf("product %d of %v rows on %d threads differs from what Linear computes", i, rows, threads)
					}
					clear(q.Y)
				}
			})
		}
	})
}

func TestEmptyProductsTogether(t *testing.T) {
	y := []float32{1, 2}
	Linears()
	Linears(Product{nil, make([]float32, 6), NewMatrix(0, 3, nil).Pack(Int8), 2}, Product{y, nil, NewMatrix(2, 0, nil).Pack(Int8), 1})
	if y[0] != 0 || y[1] != 0 {
		t.Errorf("a sum of nothing is %v, expected zeros", y)
	}
}
