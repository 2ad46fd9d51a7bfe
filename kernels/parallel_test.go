package kernels

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestParallelRunsEachChunkOnce(t *testing.T) {
	onThreads(func(threads int) {
		var wg sync.WaitGroup
		for range 4 { // callers at the same time
			wg.Go(func() {
				for n := range 40 {
					runs := make([]atomic.Int32, n)
					parallel(n, func(i int) {
						parallel(2, func(int) { runs[i].Add(1) }) // and calls within calls
					})
					for i := range runs {
						if got := runs[i].Load(); got != 2 {
							t.Errorf("%d threads: chunk %d of %d ran %d times, want 2", threads, i, n, got)
						}
					}
				}
			})
		}
		wg.Wait()
	})
}

func BenchmarkForkJoin(b *testing.B) {
	for b.Loop() {
		parallel(2, func(int) {})
	}
}
