package kernels

// SiLUMul computes y = silu(gate)·up, element by element: the activation of a gated
// feed-forward layer (Shazeer 2020, SwiGLU without biases).
func SiLUMul(y, gate, up []float32) {
	parallelRows(len(y), 2, func(i, j int) {
		active.siluMul(y[i:j], gate[i:j], up[i:j])
	})
}

// SiLUMulGrad stores in dgate and dup the gradients of [SiLUMul]'s inputs given dy.
func SiLUMulGrad(dgate, dup, dy, gate, up []float32) {
	parallelRows(len(dy), 3, func(i, j int) {
		active.siluMulGrad(dgate[i:j], dup[i:j], dy[i:j], gate[i:j], up[i:j])
	})
}

func siluMulPortable(y, gate, up []float32) {
	for c, g := range gate {
		y[c] = g / (1 + exp32(-g)) * up[c]
	}
}

func siluMulGradPortable(dgate, dup, dy, gate, up []float32) {
	for c, g := range gate {
		d := dy[c]
		s := 1 / (1 + exp32(-g))
		dup[c] = d * g * s
		dgate[c] = d * up[c] * s * (1 + g*(1-s))
	}
}
