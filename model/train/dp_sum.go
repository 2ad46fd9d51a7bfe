package train

import (
	"crypto/rand"
	"math"
	mathrand "math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"

	"chorus/kernels"
)

// A noisySum adds up vectors, of each at most so much that it is no longer than clip, and releases the sum with Gaussian noise.
//
// The proof of the Gaussian mechanism is about real numbers, and floating-point ones betray what was added to them: by which
// values a sum can take at all, and by rounding that depends on the order (Mironov 2012). So everything is added on a grid of
// integers, of which [clipSteps] are clip. A clipped vector is rounded towards zero, and that its squares add up to at most
// clipSteps² is checked in integers; sums of integers are exact in any order. What is added to each coordinate is
// a Gaussian rounded to the nearest integer, and since the sum is one too, that is the sum with a Gaussian, rounded: the
// mechanism of the proof, and after it a function of its result alone. Gaussians are computed in float64, some 2³⁵ of whose
// values lie between two integers: each integer has very nearly its right probability, and no value tells which
// others were possible. (Holohan and Braghin 2021 attack what is released to the last bit; here those bits are gone.)
type noisySum struct {
	clip  float64
	total [][]int64 // one for each part of a vector
	one   [][]int32 // the vector being added
}

// clipSteps is how many steps of the grid are the longest vector.
const clipSteps = 1 << 16

func newNoisySum(clip float64, sizes ...int) *noisySum {
	s := &noisySum{clip: clip}
	for _, n := range sizes {
		s.total, s.one = append(s.total, make([]int64, n)), append(s.one, make([]int32, n))
	}
	return s
}

// add adds scale times the vector of those parts, clipped, and returns how long it was. One that is not finite adds nothing.
func (s *noisySum) add(scale float64, parts ...[]float32) (norm float64) {
	var squares float64
	for _, p := range parts {
		squares += kernels.SumSquares(p)
	}
	norm = math.Sqrt(squares) * scale
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		return norm
	}
	factor := scale * min(1, s.clip/norm) * clipSteps / s.clip
	// What is too long by the rounding of all this is made shorter until it is not.
	for s.round(factor, parts) > clipSteps*clipSteps {
		factor *= 1 - 1.0/(1<<20)
	}
	for i, total := range s.total {
		split(len(total), func(_, a, b int) {
			total, one := total[a:b], s.one[i][a:b]
			for j, v := range one {
				total[j] += int64(v)
			}
		})
	}
	return norm
}

// round stores factor times the parts in s.one, rounded towards zero, and returns the sum of the squares.
func (s *noisySum) round(factor float64, parts [][]float32) (squares int64) {
	for i, p := range parts {
		each := make([]int64, chunks(len(p)))
		split(len(p), func(c, a, b int) {
			one, p := s.one[i][a:b], p[a:b]
			var sum int64
			for j, v := range p {
				// No coordinate is longer than the vector; a bound keeps what rounding makes of it from overflowing.
				n := int64(max(-2*clipSteps, min(2*clipSteps, factor*float64(v))))
				one[j] = int32(n)
				sum += n * n
			}
			each[c] = sum
		})
		for _, n := range each {
			squares += n
		}
	}
	return squares
}

// release stores in parts scale times the sum with noise times clip as the standard deviation of each coordinate, and
// begins a new sum.
func (s *noisySum) release(noise, scale float64, parts ...[]float32) {
	scale *= s.clip / clipSteps
	for i, total := range s.total {
		split(len(total), func(_, a, b int) {
			g := newGaussian(noise * clipSteps)
			for j, v := range total[a:b] {
				parts[i][a+j] = float32(scale * float64(v+g.next()))
			}
			clear(total[a:b])
		})
	}
}

// secret returns a stream of random numbers that nobody can tell from any other: ChaCha8, its key from the system's source.
// It is kept nowhere, so no other run, and no part of this one after an interruption, draws the same.
func secret() *mathrand.ChaCha8 {
	var key [32]byte
	rand.Read(key[:]) // ends the program rather than return an error
	return mathrand.NewChaCha8(key)
}

// A gaussian draws Gaussians rounded to the nearest integer, by the method of Box and Muller.
type gaussian struct {
	source    *mathrand.ChaCha8
	deviation float64
	spare     int64
	has       bool
}

func newGaussian(deviation float64) *gaussian {
	return &gaussian{source: secret(), deviation: deviation}
}

func (g *gaussian) next() int64 {
	if g.has {
		g.has = false
		return g.spare
	}
	// Of 64 bits, so that the tail ends, at 9.4 deviations, only where less than one in 10²⁰ lies beyond.
	radius := g.deviation * math.Sqrt(-2*math.Log((float64(g.source.Uint64())+0.5)/(1<<64)))
	sin, cos := math.Sincos(2 * math.Pi * float64(g.source.Uint64()>>11) / (1 << 53))
	g.spare, g.has = int64(math.RoundToEven(radius*sin)), true
	return int64(math.RoundToEven(radius * cos))
}

// poisson returns the indices of a sample of n, in which each is with probability rate, independently of all others.
func poisson(n int, rate float64, source *mathrand.ChaCha8) (in []int) {
	below := uint64(math.MaxUint64)
	if rate < 1 {
		below = uint64(rate * (1 << 64))
	}
	for i := range n {
		if rate >= 1 || source.Uint64() < below {
			in = append(in, i)
		}
	}
	return in
}

// partSize is how much of a vector one processor works on at a time.
const partSize = 1 << 14

func chunks(n int) int { return (n + partSize - 1) / partSize }

// split calls f for each chunk of n, on all processors.
func split(n int, f func(chunk, from, to int)) {
	var next atomic.Int64
	work := func() {
		for c := int(next.Add(1)) - 1; c < chunks(n); c = int(next.Add(1)) - 1 {
			f(c, c*partSize, min(n, (c+1)*partSize))
		}
	}
	var wait sync.WaitGroup
	for range min(chunks(n), runtime.GOMAXPROCS(0)) - 1 {
		wait.Go(work)
	}
	work()
	wait.Wait()
}
