package kernels

// Softmax turns each of rows rows of x, (rows, n), into probabilities, in place, and keeps the
// log of each row's denominator in lse, (rows), unless it is nil.
func Softmax(x, lse []float32, n, rows int) {
	parallelRows(rows, 2*n, func(i, j int) {
		for r := i; r < j; r++ {
			l := softmax(x[r*n : (r+1)*n])
			if lse != nil {
				lse[r] = l
			}
		}
	})
}

// SoftmaxGrad stores in dx, (rows, n), the gradient of the logits given dp, the gradient of the
// probabilities p. It adds z·2·lse·p for the z-loss z·lse² (Zoph et al. 2022, eq. 5); pass z = 0
// for none. dx may be dp.
func SoftmaxGrad(dx, dp, p, lse []float32, z float32, n, rows int) {
	for r := range rows {
		pr, dpr, dxr := p[r*n:(r+1)*n], dp[r*n:(r+1)*n], dx[r*n:(r+1)*n]
		mean := Dot(pr, dpr)
		if z != 0 {
			mean -= 2 * z * lse[r]
		}
		copy(dxr, dpr)
		active.softmaxGrad(dxr, pr, mean, 1)
	}
}

func softmaxGradPortable(d, p []float32, mean, a float32) {
	for i, v := range p {
		d[i] = v * (d[i] - mean) * a
	}
}

// TopK stores in chosen the indices of the k largest of p, largest first; of equals the lower
// index goes first. k must not exceed len(p).
func TopK(chosen []int32, p []float32, k int) {
	chosen = chosen[:0]
	for range k {
		best := -1
		for e, v := range p {
			if (best < 0 || v > p[best]) && !contains(chosen, int32(e)) {
				best = e
			}
		}
		chosen = append(chosen, int32(best))
	}
}

func contains(s []int32, e int32) bool {
	for _, v := range s {
		if v == e {
			return true
		}
	}
	return false
}
