package kernels

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// A job is one call of parallel: chunks that threads claim one by one, so that a thread that is
// kept waiting delays only its own chunk.
type job struct {
	f        func(i int)
	n        int64
	next     atomic.Int64 // the next chunk to claim
	left     atomic.Int64 // chunks not done
	finished sync.Mutex   // locked until left is zero
}

// work claims and runs chunks until none is left to claim.
func (j *job) work() {
	for i := j.next.Add(1) - 1; i < j.n; i = j.next.Add(1) - 1 {
		j.f(int(i))
		if j.left.Add(-1) == 0 {
			j.finished.Unlock()
		}
	}
}

// helpers run jobs beside the goroutines that call parallel. One that has nothing to do yields
// the processor some times, for waking a thread takes longer than most jobs, and then ends: no goroutine
// outlives its work by more than a fraction of a millisecond.
var helpers struct {
	jobs chan *job
	live atomic.Int32
}

func init() { helpers.jobs = make(chan *job, 64) }

// linger is how often an idle helper yields before it ends.
const linger = 200

func help() {
	defer helpers.live.Add(-1)
	for idle := 0; idle < linger; idle++ {
		select {
		case j := <-helpers.jobs:
			j.work()
			idle = 0
		default:
			runtime.Gosched()
		}
	}
}

// parallel calls f(i) for each i in [0, n), on as many threads as there are processors.
func parallel(n int, f func(i int)) {
	others := min(n, runtime.GOMAXPROCS(0)) - 1
	if others <= 0 {
		for i := range n {
			f(i)
		}
		return
	}
	j := &job{f: f, n: int64(n)}
	j.left.Store(j.n)
	j.finished.Lock()
	for range others {
		select {
		case helpers.jobs <- j:
		default: // enough is waiting
		}
	}
	for live := helpers.live.Load(); live < int32(others); live = helpers.live.Load() {
		if helpers.live.CompareAndSwap(live, live+1) {
			go help()
		}
	}
	j.work()
	for range linger {
		if j.left.Load() == 0 {
			return
		}
		runtime.Gosched()
	}
	j.finished.Lock()
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
