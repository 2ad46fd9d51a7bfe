package kernels

import (
	"math/bits"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
)

// The vocabulary is so large that the logits of all rows are more than one piece, and the last piece is a short one.
func TestHeadLossIsThatOfAllLogitsAtOnceToTheBit(t *testing.T) {
	const v, n, rows, z, scale = mostLogits/leastLogitRows + 7, 3, leastLogitRows + 5, 0.01, 3
	r := source()
	x, w := normals(r, rows*n), normals(r, v*n)
	targets := make([]int32, rows)
	for i := range targets {
		targets[i] = int32(r.IntN(v))
	}
	targets[1], targets[rows-1] = v-1, -1
	half := make([]uint16, v*n)
	for i := range half {
		half[i] = uint16(r.IntN(1<<15) & 0xbfff) // at most 2
	}
	onEachTier(t, func(t *testing.T) {
		for _, head := range []Matrix{NewMatrix(v, n, w), NewMatrixBF16(v, n, half)} {
			logits, dx, dhead := make([]float32, rows*v), make([]float32, rows*n), make([]float32, v*n)
			Linear(logits, x, head, rows)
			loss := CrossEntropy(logits, targets, z, scale, v, rows)
			LinearGradInput(dx, logits, head, rows)
			LinearGradWeight(dhead, logits, x, v, n, rows)

			gotX, checkX := guarded(t, x) // what is there does not matter
			gotHead, checkHead := guarded(t, w)
			if got := HeadLoss(gotX, gotHead, x, head, targets, z, scale, rows); got != loss {
				t.Errorf("the loss is %v, want %v", got, loss)
			}
			checkX()
			checkHead()
			if !sameBits(gotX, dx) || !sameBits(gotHead, dhead) {
				t.Error("a gradient differs")
			}
			clear(gotX)
			if got := HeadLoss(gotX, nil, x, head, targets, z, scale, rows); got != loss || !sameBits(gotX, dx) {
				t.Error("of a frozen head, the loss or its gradient differs")
			}
		}
	})
	if HeadLoss(nil, nil, nil, NewMatrix(v, n, w), nil, z, scale, 0) != 0 {
		t.Error("no rows have a loss")
	}
}

func TestHeadLossBorrowsNoMemoryForAllLogits(t *testing.T) {
	const v, n, rows = 100352, 1, 128
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // so that a pool gives back what was put there last
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	all := bits.Len(rows*v - 1)
	for scratch[all].Get() != nil { // what another test left
	}
	x, w, dx := make([]float32, rows*n), make([]float32, v*n), make([]float32, rows*n)
	HeadLoss(dx, nil, x, NewMatrix(v, n, w), slices.Repeat([]int32{3}, rows), 0, 1, rows)
	if scratch[all].Get() != nil {
		t.Errorf("a buffer of %d elements or more was in use", 1<<(all-1))
	}
}
