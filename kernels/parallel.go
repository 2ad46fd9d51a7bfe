package kernels

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// parallel calls f(i) for each i in [0, n), on as many threads as there are processors.
// Chunks are claimed one by one, so a thread that is kept waiting delays only its own chunk.
func parallel(n int, f func(i int)) {
	workers := min(n, runtime.GOMAXPROCS(0))
	if workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	claim := func() {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			f(i)
		}
	}
	var wg sync.WaitGroup
	for range workers - 1 {
		wg.Go(claim)
	}
	claim()
	wg.Wait()
}

// grain is the least work, in elementary steps, that is worth a chunk of its own.
const grain = 16 << 10

// parallelRows calls f(i, j) for ranges that cover [0, rows), each of at least [grain]
// steps, where a row takes cost steps.
func parallelRows(rows, cost int, f func(i, j int)) {
	per := max(1, grain/max(1, cost))
	parallel((rows+per-1)/per, func(c int) {
		f(c*per, min(rows, (c+1)*per))
	})
}
