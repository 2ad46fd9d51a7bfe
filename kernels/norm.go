package kernels

import "math"

// RMSNorm computes y = weight · x/√(mean(x²)+eps) for each of rows rows of width len(weight),
// and keeps 1/√(…) of each row in inv, (rows), for [RMSNormGrad]; inv may be nil.
// The order of operations is OLMo 2's: normalise in float32, then scale by the weight.
// (Zhang and Sennrich 2019, eq. 4.)
func RMSNorm(y, inv, x, weight []float32, eps float64, rows int) {
	RMSNormAdd(y, inv, nil, x, weight, eps, rows)
}

// RMSNormAdd computes y = residual + weight · x/√(mean(x²)+eps), rounding as [RMSNorm] and an addition after it
// would. residual is (rows, len(weight)), or nil for none.
func RMSNormAdd(y, inv, residual, x, weight []float32, eps float64, rows int) {
	n := len(weight)
	parallelRows(rows, n, func(i, j int) {
		for r := i; r < j; r++ {
			xr := x[r*n : (r+1)*n]
			s := float32(1 / math.Sqrt(active.sumSquares(xr)/float64(n)+eps))
			if inv != nil {
				inv[r] = s
			}
			active.norm(y[r*n:(r+1)*n], xr, weight, s)
			if residual != nil {
				active.axpy(y[r*n:(r+1)*n], 1, residual[r*n:(r+1)*n])
			}
		}
	})
}

// RMSNormGrad stores in dx, (rows, n), the gradient of [RMSNorm]'s input given dy, (rows, n), and,
// unless dweight is nil, adds to dweight, (n), that of its weight. inv is what the forward pass kept.
func RMSNormGrad(dx, dweight, dy, x, weight, inv []float32, rows int) {
	n := len(weight)
	parallelRows(rows, 2*n, func(i, j int) {
		for r := i; r < j; r++ {
			xr, dyr, s := x[r*n:(r+1)*n], dy[r*n:(r+1)*n], inv[r]
			k := float32(active.dot3(dyr, weight, xr)/float64(n)) * s * s * s
			clear(dx[r*n : (r+1)*n])
			active.normGrad(dx[r*n:(r+1)*n], dyr, weight, xr, s, k)
		}
	})
	if dweight == nil {
		return
	}
	const columns = 64
	parallelRows((n+columns-1)/columns, rows*columns, func(i, j int) {
		i, j = i*columns, min(n, j*columns)
		for r := range rows {
			active.mulAxpy(dweight[i:j], inv[r], dy[r*n+i:r*n+j], x[r*n+i:r*n+j])
		}
	})
}

func normPortable(y, x, weight []float32, s float32) {
	for c, v := range x {
		y[c] = weight[c] * (v * s)
	}
}

func normGradPortable(dx, dy, weight, x []float32, s, k float32) {
	for c, v := range x {
		dx[c] += dy[c]*weight[c]*s - v*k
	}
}
