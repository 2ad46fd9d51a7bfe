package kernels

// Route decides which experts see which of rows rows of x, (rows, n): p, (rows, e), receives the probability of each of
// the e slots, the softmax of x·router + bias, where routers has e vectors, (n), and bias is (e); lse, (rows), the log of
// each row's denominator; and chosen, (rows, k), the k likeliest slots of each row, as of [TopK].
func Route(p, lse []float32, chosen []int32, x []float32, routers [][]float32, bias []float32, k, n, rows int) {
	e := len(routers)
	parallelRows(rows, e*n, func(i, j int) {
		for r := i; r < j; r++ {
			xr, pr := x[r*n:(r+1)*n], p[r*e:(r+1)*e]
			for s, router := range routers {
				pr[s] = active.dot(router, xr) + bias[s]
			}
			lse[r] = softmax(pr)
			TopK(chosen[r*k:(r+1)*k], pr, k)
		}
	})
}

// RouteGrad adds to dx, (rows, n), and to each of drouters, (e)(n), that is not nil the gradients of [Route]'s x and
// routers, given dlogits, (rows, e), the gradient of what its softmax is of.
func RouteGrad(dx []float32, drouters [][]float32, dlogits, x []float32, routers [][]float32, n, rows int) {
	e := len(routers)
	parallelRows(rows, e*n, func(i, j int) {
		for r := i; r < j; r++ {
			for s, router := range routers {
				active.axpy(dx[r*n:(r+1)*n], dlogits[r*e+s], router)
			}
		}
	})
	for s, d := range drouters {
		if d == nil {
			continue
		}
		const columns = 64
		parallelRows((n+columns-1)/columns, rows*columns, func(i, j int) {
			i, j = i*columns, min(n, j*columns)
			for r := range rows {
				active.axpy(d[i:j], dlogits[r*e+s], x[r*n+i:r*n+j])
			}
		})
	}
}

// Gather stores in dst, (len(rows), n), those rows of x, (…, n).
func Gather(dst, x []float32, rows []int32, n int) {
	parallelRows(len(rows), n, func(i, j int) {
		for a := i; a < j; a++ {
			copy(dst[a*n:(a+1)*n], x[int(rows[a])*n:][:n])
		}
	})
}

// Mix adds to the given rows of y, (…, n), of which none is given twice, those of x, (len(rows), n), times weight,
// (len(rows)).
func Mix(y, weight, x []float32, rows []int32, n int) {
	parallelRows(len(rows), n, func(i, j int) {
		for a := i; a < j; a++ {
			active.axpy(y[int(rows[a])*n:][:n], weight[a], x[a*n:(a+1)*n])
		}
	})
}

// MixGrad stores in dx, (len(rows), n), and dweight, (len(rows)), the gradients of [Mix]'s x and weight given dy, (…, n).
func MixGrad(dx, dweight, dy, weight, x []float32, rows []int32, n int) {
	parallelRows(len(rows), 2*n, func(i, j int) {
		for a := i; a < j; a++ {
			dyr, dxr := dy[int(rows[a])*n:][:n], dx[a*n:(a+1)*n]
			dweight[a] = active.dot(dyr, x[a*n:(a+1)*n])
			clear(dxr)
			active.axpy(dxr, weight[a], dyr)
		}
	})
}

// SoftmaxGrad stores in dx, (rows, n), the gradient of the logits given dp, the gradient of the
// probabilities p. It adds z·2·lse·p for the z-loss z·lse² (Zoph et al. 2022, eq. 5); pass z = 0
// for none. dx may be dp.
func SoftmaxGrad(dx, dp, p, lse []float32, z float32, n, rows int) {
	parallelRows(rows, 2*n, func(i, j int) {
		for r := i; r < j; r++ {
			pr, dpr, dxr := p[r*n:(r+1)*n], dp[r*n:(r+1)*n], dx[r*n:(r+1)*n]
			mean := active.dot(pr, dpr)
			if z != 0 {
				mean -= 2 * z * lse[r]
			}
			copy(dxr, dpr)
			active.softmaxGrad(dxr, pr, mean, 1)
		}
	})
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
