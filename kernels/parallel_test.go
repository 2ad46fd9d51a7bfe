package kernels

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestParallelRunsEachChunkOnce(t *testing.T) {
	onThreads(func(threads int) {
		var wg sync.WaitGroup
		for range len(open) + 2 { // callers at the same time
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

func TestParallelOutlastsAChangeOfGOMAXPROCS(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for round := range 50 {
		var ran atomic.Int32
		parallel(20, func(i int) {
			if i%5 == 0 {
				runtime.GOMAXPROCS(1 + (round+i)%4)
			}
			ran.Add(1)
		})
		if ran.Load() != 20 {
			t.Fatalf("ran %d of 20 chunks", ran.Load())
		}
	}
}

// helperStacks returns the stacks of all goroutines that are helpers.
func helperStacks() (stacks []string) {
	buf := make([]byte, 1<<20)
	for _, s := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(s, "kernels.help(") {
			stacks = append(stacks, s)
		}
	}
	return stacks
}

// withoutHelpers returns once the last helper has found nothing to do for long enough.
func withoutHelpers() {
	for helpers.Load() > 0 {
		runtime.Gosched()
	}
}

func TestNoHelperOutlivesItsWork(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	parallel(100, func(int) {})
	withoutHelpers() // or the test never ends
	for stacks := helperStacks(); len(stacks) > 0; stacks = helperStacks() {
		if strings.Contains(stacks[0], ".yield(") {
			t.Fatalf("a helper that nobody counts still looks for work:\n%s", stacks[0])
		}
		runtime.Gosched() // it is about to return
	}
}

func TestACallerSleepsUntilAnotherThreadIsDone(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	var done atomic.Bool
	started := make(chan struct{})
	parallel(2, func(int) {
		stack := make([]byte, 1<<12)
		if !strings.Contains(string(stack[:runtime.Stack(stack, false)]), "kernels.help(") {
			<-started
			return
		}
		var own *job
		for i := range open {
			if j := open[i].Load(); j != nil {
				own = j
			}
		}
		close(started)
		for own.left.Load() > 0 { // until the caller has given up looking
			runtime.Gosched()
		}
		done.Store(true)
	})
	if !done.Load() {
		t.Error("parallel returned before its last chunk was done")
	}
}

func TestACallThatPanicsKeepsNoPlace(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	withoutHelpers()
	helpers.Add(1 << 20) // so that none is started
	defer helpers.Add(-1 << 20)
	func() {
		defer func() { recover() }()
		parallel(2, func(int) { panic("a slice is too short") })
	}()
	for i := range open {
		if open[i].Load() != nil {
			t.Errorf("place %d is still taken", i)
		}
	}
}

// BenchmarkForkJoin calls parallel for two chunks of some work each, after some work on the calling thread
// alone. "over" is what a call takes beyond both on a machine with two idle processors.
func BenchmarkForkJoin(b *testing.B) {
	x := normals(source(), 1<<10)
	work := func(n int) {
		for range n {
			active.sumSquares(x)
		}
	}
	ns := math.Inf(1) // of a unit of work
	for range 100 {
		start := time.Now()
		work(100)
		ns = min(ns, float64(time.Since(start).Nanoseconds())/100)
	}
	for _, c := range []struct{ chunk, apart int }{{0, 0}, {3, 0}, {10, 3}, {10, 30}, {30, 30}} { // in µs
		b.Run(fmt.Sprintf("%dus-%dus-apart", c.chunk, c.apart), func(b *testing.B) {
			chunk, apart := int(float64(c.chunk)*1000/ns), int(float64(c.apart)*1000/ns)
			for b.Loop() {
				work(apart)
				parallel(2, func(int) { work(chunk) })
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)-ns*float64(chunk+apart), "over-ns")
		})
	}
}
