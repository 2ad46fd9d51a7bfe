package kernels

import "testing"

func TestGradientsThatAreSetAreThoseAddedToZerosToTheBit(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, rows := range []int{0, 1, 3, 70} {
			const out, in = 37, 45
			w, x, dy := normals(r, out*in), normals(r, rows*in), normals(r, rows*out)
			for _, m := range []Matrix{NewMatrix(out, in, w), NewMatrix(out, in, w).Pack(Float32)} {
				want := make([]float32, rows*in)
				LinearGradInput(want, dy, m, rows)
				got, check := guarded(t, x) // what is there does not matter
				SetGradInput(got, dy, m, rows)
				check()
				if !sameBits(got, want) {
					t.Errorf("the gradient of %d rows differs", rows)
				}
			}
			want := make([]float32, out*in)
			LinearGradWeight(want, dy, x, Matrix{Out: out, In: in}, rows)
			got, check := guarded(t, w)
			SetGradWeight(got, dy, x, Matrix{Out: out, In: in}, rows)
			check()
			if !sameBits(got, want) {
				t.Errorf("the weight's gradient of %d rows differs", rows)
			}
		}
	})
}
