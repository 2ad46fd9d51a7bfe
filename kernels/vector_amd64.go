package kernels

// This file calls the vector functions of asm_amd64.s with checked lengths.

var vectors2 = vectors{
	dot: func(a, b []float32) float32 {
		if len(a) == 0 {
			return 0
		}
		return dot8(len(a), &a[0], &b[:len(a)][0])
	},
	axpy: func(y []float32, a float32, x []float32) {
		if len(y) > 0 {
			axpy8(len(y), a, &x[:len(y)][0], &y[0])
		}
	},
	mulAxpy: func(y []float32, a float32, x, z []float32) {
		if len(y) > 0 {
			mulAxpy8(len(y), a, &x[:len(y)][0], &z[:len(y)][0], &y[0])
		}
	},
	scale: func(x []float32, a float32) {
		if len(x) > 0 {
			scale8(len(x), a, &x[0])
		}
	},
	max: func(x []float32) float32 { return max8(len(x), &x[0]) },
	expSum: func(dst, x []float32, shift float32) float32 {
		return expSum8(len(x), &dst[:len(x)][0], &x[0], shift)
	},
	siluMul: func(y, gate, up []float32) {
		siluMul8(len(y), &y[0], &gate[:len(y)][0], &up[:len(y)][0])
	},
	siluMulGrad: func(dgate, dup, dy, gate, up []float32) {
		n := len(dy)
		siluMulGrad8(n, &dgate[:n][0], &dup[:n][0], &dy[0], &gate[:n][0], &up[:n][0])
	},
	sumSquares: func(x []float32) float64 { return sumSquares8(len(x), &x[0]) },
	dot3: func(a, b, c []float32) float64 {
		return dot3x8(len(a), &a[0], &b[:len(a)][0], &c[:len(a)][0])
	},
	norm: func(y, x, weight []float32, s float32) {
		norm8(len(y), &y[0], &x[:len(y)][0], &weight[:len(y)][0], s)
	},
	normGrad: func(dx, dy, weight, x []float32, s, k float32) {
		n := len(dx)
		normGrad8(n, &dx[0], &dy[:n][0], &weight[:n][0], &x[:n][0], s, k)
	},
	softmaxGrad: func(d, p []float32, mean, a float32) {
		softmaxGrad8(len(d), &d[0], &p[:len(d)][0], mean, a)
	},
	turn: func(a, b, cos, sin []float32, sign float32) {
		n := len(a)
		turn8(n, &a[0], &b[:n][0], &cos[:n][0], &sin[:n][0], sign)
	},
	adam: func(w, m, v, g []float32, c adamStep) {
		n := len(w)
		adam8(n, &w[0], &m[:n][0], &v[:n][0], &g[:n][0],
			c.beta1, 1-c.beta1, c.beta2, 1-c.beta2, c.clip, c.keep, c.rate, c.root, c.eps)
	},
}

// vectors512 are those of AVX2, but for the ones that compute more than memory keeps waiting.
var vectors512 = func() vectors {
	v := vectors2
	v.expSum = func(dst, x []float32, shift float32) float32 {
		return expSumwide(len(x), &dst[:len(x)][0], &x[0], shift)
	}
	v.siluMul = func(y, gate, up []float32) {
		siluMulwide(len(y), &y[0], &gate[:len(y)][0], &up[:len(y)][0])
	}
	v.siluMulGrad = func(dgate, dup, dy, gate, up []float32) {
		n := len(dy)
		siluMulGradwide(n, &dgate[:n][0], &dup[:n][0], &dy[0], &gate[:n][0], &up[:n][0])
	}
	return v
}()
