// Package kernels is the arithmetic of chorus: matrix products, attention, norms,
// the router's softmax, losses and optimiser steps, forward and backward.
//
// It is not a tensor library: there are no shapes to carry around, no graph and no
// allocation. Every function reads and writes float32 slices whose shapes are given in
// its comment, rows first, and panics only when a slice is too short for its shape, which
// is a programmer's error. Begin with [Matrix] and [Linear].
//
// Every result is the same to the bit whatever the number of threads and whatever batch a
// row travels in: work is split over outputs, never over a sum.
//
// All functions may be called concurrently as long as their outputs do not overlap.
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
