package kernels

// SiLUMul computes y = silu(gate)·up, element by element: the activation of a gated
// feed-forward layer (Shazeer 2020, SwiGLU without biases).
func SiLUMul(y, gate, up []float32) {
	parallelRows(len(y), 8, func(i, j int) {
		for c := i; c < j; c++ {
			g := gate[c]
			y[c] = g / (1 + exp32(-g)) * up[c]
		}
	})
}

// SiLUMulGrad stores in dgate and dup the gradients of [SiLUMul]'s inputs given dy.
func SiLUMulGrad(dgate, dup, dy, gate, up []float32) {
	parallelRows(len(dy), 12, func(i, j int) {
		for c := i; c < j; c++ {
			g, d := gate[c], dy[c]
			s := 1 / (1 + exp32(-g))
			dup[c] = d * g * s
			dgate[c] = d * up[c] * s * (1 + g*(1-s))
		}
	})
}
