package kernels

import "math"

// CrossEntropy returns the sum over rows of −ln softmax(logits)[target], in nats, and turns
// logits, (rows, n), into their gradient, divided by scale, in place. It adds the gradient of the
// z-loss z·lse² but not its value. A negative target is a row that does not count.
func CrossEntropy(logits []float32, targets []int32, z, scale float32, n, rows int) float64 {
	each := make([]float64, rows)
	parallelRows(rows, 2*n, func(i, j int) {
		for r := i; r < j; r++ {
			row, t := logits[r*n:(r+1)*n], targets[r]
			if t < 0 {
				clear(row)
				continue
			}
			target := row[t]
			lse := softmax(row)
			each[r] = float64(lse - target)
			active.scale(row, (1+2*z*lse)/scale)
			row[t] -= 1 / scale
		}
	})
	var sum float64
	for _, v := range each {
		sum += v
	}
	return sum
}

// LogProb stores in out, (rows), ln softmax(logits)[target] of each row of logits, (rows, n).
func LogProb(out, logits []float32, targets []int32, n, rows int) {
	parallelRows(rows, 2*n, func(i, j int) {
		exps := borrow(n)
		defer giveBack(exps)
		for r := i; r < j; r++ {
			row := logits[r*n : (r+1)*n]
			top := active.max(row)
			sum := active.expSum(*exps, row, top)
			out[r] = row[targets[r]] - top - float32(math.Log(float64(sum)))
		}
	})
}
