package kernels

import (
	"math/bits"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
)

func TestHeadLossOfSomeRowsAtATimeIsThatOfAllToTheBit(t *testing.T) {
	const v, n, rows, z, scale = 1003, 20, 75, 0.01, 3
	r := source()
	x, w := normals(r, rows*n), normals(r, v*n)
	half := make([]uint16, v*n)
	for i := range half {
		half[i] = uint16(r.IntN(1<<16) & 0xbfff) // below 2
	}
	targets := make([]int32, rows)
	for i := range targets {
		targets[i] = int32(r.IntN(v))
	}
	targets[1], targets[rows-1] = v-1, -1
	onEachTier(t, func(t *testing.T) {
		for _, head := range []Matrix{NewMatrix(v, n, w), NewMatrixBF16(v, n, half)} {
			logits, dx, dhead := make([]float32, rows*v), make([]float32, rows*n), make([]float32, v*n)
			Linear(logits, x, head, rows)
			loss := CrossEntropy(logits, targets, z, scale, v, rows)
			LinearGradInput(dx, logits, head, rows)
			LinearGradWeight(dhead, logits, x, Matrix{Out: v, In: n}, rows)
			for _, some := range []int{1, 14, 37, rows, rows + 1} {
				gotX, checkX := guarded(t, x) // what is there does not matter
				gotHead, checkHead := guarded(t, w)
				if got := headLoss(gotX, gotHead, x, head, targets, z, scale, rows, some, false); got != loss {
					t.Errorf("by %d rows, the loss is %v, want %v", some, got, loss)
				}
				checkX()
				checkHead()
				if !sameBits(gotX, dx) || !sameBits(gotHead, dhead) {
					t.Errorf("by %d rows, a gradient differs", some)
				}
				added, more := slices.Clone(w), slices.Clone(w)
				LinearGradWeight(added, logits, x, Matrix{Out: v, In: n}, rows)
				if got := headLoss(gotX, more, x, head, targets, z, scale, rows, some, true); got != loss || !sameBits(more, added) {
					t.Errorf("by %d rows, the loss or what is added to a gradient differs", some)
				}
				clear(gotX)
				if got := headLoss(gotX, nil, x, head, targets, z, scale, rows, some, false); got != loss || !sameBits(gotX, dx) {
					t.Errorf("by %d rows, the loss of a frozen head or its gradient differs", some)
				}
			}
		}
	})
	if HeadLoss(nil, nil, nil, NewMatrix(v, n, w), nil, z, scale, 0) != 0 {
		t.Error("no rows have a loss")
	}
}

func TestTheGradientOfAHeadsInputIsThatOfAllItsOutputsAtOnceToTheBit(t *testing.T) {
	const v, n, rows = 1<<16 + 300, 5, 40
	r := source()
	dy, head := normals(r, rows*v), NewMatrix(v, n, normals(r, v*n))
	onEachTier(t, func(t *testing.T) {
		got, check := guarded(t, dy[:rows*n]) // what is there does not matter
		want := make([]float32, rows*n)
		headGradInput(got, dy, head, rows)
		check()
		LinearGradInput(want, dy, head, rows)
		if !sameBits(got, want) {
			t.Error("it differs")
		}
	})
}

func TestHeadLossBorrowsNoMemoryForAllLogits(t *testing.T) {
	const v, n, rows = 100352, 1, 256
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
