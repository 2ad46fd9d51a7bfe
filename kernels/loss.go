package kernels

import (
	"math"
	"runtime"
)

// CrossEntropy returns the sum over rows of −ln softmax(logits)[target], in nats, and turns
// logits, (rows, n), into their gradient, divided by scale, in place. It adds the gradient of the
// z-loss z·lse² but not its value. A negative target is a row that does not count.
func CrossEntropy(logits []float32, targets []int32, z, scale float32, n, rows int) float64 {
	each := make([]float64, rows)
	crossEntropy(each, logits, targets, z, scale, n)
	var sum float64
	for _, v := range each {
		sum += v
	}
	return sum
}

// crossEntropy is [CrossEntropy] of len(each) rows, each of whose losses it stores.
func crossEntropy(each []float64, logits []float32, targets []int32, z, scale float32, n int) {
	parallelRows(len(each), 2*n, func(i, j int) {
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
}

// HeadLoss is [Linear] with the head of a model, [CrossEntropy], and the gradients of both, for x, (rows, head.In): it
// returns the loss, stores the gradient of x in dx and, unless it is nil, that of the head in dhead,
// (head.Out, head.In). All are what they would be to the bit, but the logits of all rows never exist together: those of
// some rows are turned into gradients and used before the next are computed, which costs no product twice.
func HeadLoss(dx, dhead, x []float32, head Matrix, targets []int32, z, scale float32, rows int) float64 {
	return headLoss(dx, dhead, x, head, targets, z, scale, rows, someRows(head), false)
}

// HeadLossAdd is [HeadLoss], but adds the gradient of the head to dhead.
func HeadLossAdd(dx, dhead, x []float32, head Matrix, targets []int32, z, scale float32, rows int) float64 {
	return headLoss(dx, dhead, x, head, targets, z, scale, rows, someRows(head), true)
}

// someRows is of how many rows logits are computed at a time.
func someRows(head Matrix) int { return max(mostLogits/head.Out/logitRows, 1) * logitRows }

const (
	// mostLogits is how many logits are computed at a time, 64 MiB of them, unless they are of the least number of rows.
	mostLogits = 1 << 24

	// Some multiple of logitRows is computed at a time, of which products make whole tiles. With fewer, reading the head and its
	// gradient would take longer than multiplying.
	logitRows = 14
)

// headLoss is [HeadLoss], or [HeadLossAdd], of some rows at a time.
func headLoss(dx, dhead, x []float32, head Matrix, targets []int32, z, scale float32, rows, some int, add bool) (loss float64) {
	if rows == 0 {
		if !add {
			Zero(dhead)
		}
		return 0
	}
	n, v := head.In, head.Out
	logits := borrow(min(some, rows) * v)
	defer giveBack(logits)
	each := make([]float64, rows)
	for i := 0; i < rows; i += some {
		m := min(some, rows-i)
		l, xi := (*logits)[:m*v], x[i*n:][:m*n]
		Linear(l, xi, head, m)
		crossEntropy(each[i:][:m], l, targets[i:], z, scale, v)
		headGradInput(dx[i*n:], l, head, m)
		switch {
		case dhead == nil:
		case i == 0 && !add:
			SetGradWeight(dhead, l, xi, head, m)
		default:
			LinearGradWeight(dhead, l, xi, head, m)
		}
	}
	for _, v := range each {
		loss += v
	}
	return loss
}

// headGradInput is [SetGradInput] by so few outputs at a time that a copy of dy is never made as a whole.
func headGradInput(dx, dy []float32, head Matrix, rows int) {
	if head.packed != nil {
		SetGradInput(dx, dy, head, rows)
		return
	}
	n, v := head.In, head.Out
	const most = 1 << 20
	step := (most + rows - 1) / rows
	for o := 0; o < v; o += step {
		product(dx[:rows*n], n, floats(dy[o:], v, true), head.operand(false).from(0, o), rows, n, min(step, v-o), o > 0)
	}
	runtime.KeepAlive(head.owner)
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
