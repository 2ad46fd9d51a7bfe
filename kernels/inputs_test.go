package kernels

import (
	"slices"
	"testing"
)

func TestInputsGiveTheBitsOfLinear(t *testing.T) {
	onEachFormat(t, func(t *testing.T, f Format) {
		r := source()
		var inputs Inputs // one for all, so that what a former product left in it would show
		for _, rows := range []int{1, 2, 13, 15, 70, 300} {
			for _, in := range []int{1, 35, 330} {
				x := normals(r, rows*in)
				inputs.Set(x, rows)
				for _, out := range []int{1, 45, 170} {
					w := NewMatrix(out, in, normals(r, out*in))
					for _, m := range []Matrix{w.Pack(f), w, w.Pack(Int4), w.Pack(f)} {
						want, got := normals(r, rows*out), make([]float32, rows*out)
						copy(got, want)
						LinearAdd(want, x, m, rows)
						inputs.LinearAdd(got, m)
						if !sameBits(got, want) {
							t.Fatalf("%d rows, in %d, out %d: LinearAdd differs", rows, in, out)
						}
						Linear(want, x, m, rows)
						inputs.Linear(got, m)
						if !sameBits(got, want) {
							t.Fatalf("%d rows, in %d, out %d: Linear differs", rows, in, out)
						}
					}
				}
			}
		}
	})
}

func TestProductsOfTheSameInputsTogetherHaveTheBitsOfEachAlone(t *testing.T) {
	onEachFormat(t, func(t *testing.T, f Format) {
		r := source()
		for _, rows := range []int{1, 3, 40} {
			const in = 70
			x := normals(r, rows*in)
			var together []Product
			for i, out := range []int{33, 64, 100} {
				m := NewMatrix(out, in, normals(r, out*in))
				n := rows - i%2*(rows/2) // some read the first rows alone
				for _, m := range []Matrix{m.Pack(f), m.Pack(Int4)} {
					together = append(together, Product{make([]float32, n*out), x, m, n})
				}
			}
			Linears(together...)
			for i, q := range together {
				want := make([]float32, len(q.Y))
				Linear(want, x, q.M, q.Rows)
				if !sameBits(q.Y, want) {
					t.Errorf("product %d of %d rows differs from what Linear computes", i, rows)
				}
			}
		}
	})
}

func TestInputsOfNothing(t *testing.T) {
	onEachFormat(t, func(t *testing.T, f Format) {
		var inputs Inputs
		inputs.Linear(nil, NewMatrix(3, 2, make([]float32, 6)).Pack(f))
		y := []float32{1, 2, 3}
		inputs.Set(nil, 1)
		inputs.LinearAdd(y, NewMatrix(3, 0, nil).Pack(f))
		if !slices.Equal(y, []float32{1, 2, 3}) {
			t.Errorf("LinearAdd over no inputs gives %v", y)
		}
		inputs.Set([]float32{1, 2}, 1)
		inputs.Linear(nil, NewMatrix(0, 2, nil).Pack(f))
	})
}
