package kernels

import "math"

// RMSNorm computes y = weight · x/√(mean(x²)+eps) for each of rows rows of width len(weight),
// and keeps 1/√(…) of each row in inv, (rows), for [RMSNormGrad]; inv may be nil.
// The order of operations is OLMo 2's: normalise in float32, then scale by the weight.
// (Zhang and Sennrich 2019, eq. 4.)
func RMSNorm(y, inv, x, weight []float32, eps float64, rows int) {
	n := len(weight)
	parallelRows(rows, n, func(i, j int) {
		for r := i; r < j; r++ {
			xr, yr := x[r*n:(r+1)*n], y[r*n:(r+1)*n]
			var sum float64
			for _, v := range xr {
				sum += float64(v) * float64(v)
			}
			s := float32(1 / math.Sqrt(sum/float64(n)+eps))
			if inv != nil {
				inv[r] = s
			}
			for c, v := range xr {
				yr[c] = weight[c] * (v * s)
			}
		}
	})
}

// RMSNormGrad adds to dx, (rows, n), the gradient of [RMSNorm]'s input given dy, (rows, n), and,
// unless dweight is nil, to dweight, (n), that of its weight. inv is what the forward pass kept.
func RMSNormGrad(dx, dweight, dy, x, weight, inv []float32, rows int) {
	n := len(weight)
	parallelRows(rows, 2*n, func(i, j int) {
		for r := i; r < j; r++ {
			xr, dyr, dxr, s := x[r*n:(r+1)*n], dy[r*n:(r+1)*n], dx[r*n:(r+1)*n], inv[r]
			var dot float64
			for c, v := range xr {
				dot += float64(dyr[c] * weight[c] * v)
			}
			k := float32(dot/float64(n)) * s * s * s
			for c, v := range xr {
				dxr[c] += dyr[c]*weight[c]*s - v*k
			}
		}
	})
	if dweight == nil {
		return
	}
	parallelRows(n, rows, func(i, j int) {
		for r := range rows {
			xr, dyr, s := x[r*n:(r+1)*n], dy[r*n:(r+1)*n], inv[r]
			for c := i; c < j; c++ {
				dweight[c] += dyr[c] * xr[c] * s
			}
		}
	})
}
