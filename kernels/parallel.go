package kernels

import (
	"runtime"
	"sync/atomic"
)

// A job is one call of parallel: chunks that threads claim one by one, so that a thread that is
// kept waiting delays only its own chunk.
type job struct {
	f    func(i int)
	n    int64
	next atomic.Int64  // the next chunk to claim
	left atomic.Int64  // chunks not done, less asleep if the caller sleeps until done is closed
	done chan struct{} // made by a caller that is about to sleep
}

const asleep = 1 << 62

// work claims and runs chunks until none is left to claim, and reports whether it ran any.
func (j *job) work() bool {
	if j.next.Load() >= j.n {
		return false // without taking the counter from the threads that use it
	}
	ran := false
	for i := j.next.Add(1) - 1; i < j.n; i = j.next.Add(1) - 1 {
		j.f(int(i))
		ran = true
		if j.left.Add(-1) == -asleep {
			close(j.done)
		}
	}
	return ran
}

// wait returns when all chunks are done.
func (j *job) wait() {
	for turn := range int32(longest) {
		if j.left.Load() == 0 {
			return
		}
		yield(turn)
	}
	j.done = make(chan struct{})
	if j.left.Add(-asleep) != -asleep {
		<-j.done
	}
}

// open holds the jobs that have chunks to claim. One that finds no place is run by its caller alone:
// there are enough callers then.
var open [8]atomic.Pointer[job]

// helpers is how many goroutines run jobs beside those that call parallel. One that has nothing to do
// keeps looking for a while, for waking a thread takes longer than most jobs, and then ends: no goroutine
// outlives its work by more than a fraction of a millisecond.
var helpers atomic.Int32

// patience is how often the next helper looks for a job before it ends. Every job found doubles it for
// the helper that found it, and the end of a helper quarters it: where looking finds nothing, because jobs are
// too far apart or because the helper keeps its own caller from a processor that others want too, little is
// spent on it.
var patience atomic.Int32

// A look takes about 4 ns. The longest patience is what it takes to have another thread back.
const shortest, longest = 1 << 10, 1 << 15

// yield lets other goroutines run every few microseconds of looking.
func yield(turn int32) {
	if turn%1024 == 1023 {
		runtime.Gosched()
	}
}

func help() {
	defer helpers.Add(-1)
	most := max(shortest, patience.Load())
	for turn := int32(0); turn < most; turn++ {
		for i := range open {
			if j := open[i].Load(); j != nil && j.work() {
				turn, most = 0, min(2*most, longest)
			}
		}
		yield(turn)
	}
	patience.Store(most / 4)
}

// parallel calls f(i) for each i in [0, n), on as many threads as there are processors. It may be called
// from several goroutines, and by f.
func parallel(n int, f func(i int)) {
	others := int32(min(n, runtime.GOMAXPROCS(0)) - 1)
	if others <= 0 {
		for i := range n {
			f(i)
		}
		return
	}
	j := &job{f: f, n: int64(n)}
	j.left.Store(j.n)
	j.share(others)
	j.wait()
}

// share works on j beside others helpers, if it finds a place.
func (j *job) share(others int32) {
	for i := range open {
		if !open[i].CompareAndSwap(nil, j) {
			continue
		}
		defer open[i].Store(nil) // also if f panics
		for live := helpers.Load(); live < others; live = helpers.Load() {
			if helpers.CompareAndSwap(live, live+1) {
				go help()
			}
		}
		break
	}
	j.work()
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
