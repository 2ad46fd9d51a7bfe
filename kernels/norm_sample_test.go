package kernels

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// gradSquare is the squared norm of the gradient, formed in float64, and what it would be if no two rows cancelled.
func gradSquare(dy, x []float32, out, in, length int) (square, most float64) {
	grad := make([]float64, out*in)
	for r := range length {
		d, v := dy[r*out:][:out], x[r*in:][:in]
		for o := range d {
			for i := range v {
				grad[o*in+i] += float64(d[o]) * float64(v[i])
			}
		}
		most += math.Sqrt(sumSquaresPortable(d) * sumSquaresPortable(v))
	}
	for _, g := range grad {
		square += g * g
	}
	return square, most * most
}

func TestLinearGradSquaresAreThoseOfEachSamplesGradient(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, c := range [][3]int{{1, 1, 1}, {7, 3, 1}, {3, 7, 5}, {33, 20, 56}, {20, 33, 57}, {16, 48, 130}} { // out, in, length
			const samples = 3
			out, in, length := c[0], c[1], c[2]
			dy, x := normals(r, samples*length*out), normals(r, samples*length*in)
			// Of the second sample, the second half takes back most of what the first half adds.
			half := length / 2
			copy(x[(length+half)*in:][:half*in], x[length*in:])
			for i, v := range dy[length*out:][:half*out] {
				dy[(length+half)*out+i] = -v * 0.99
			}
			squares := []float64{0, 10, 0}
			LinearGradSquares(squares, dy, x, out, in, length, samples)
			squares[1] -= 10 // it adds
			for s, got := range squares {
				want, most := gradSquare(dy[s*length*out:], x[s*length*in:], out, in, length)
				near(t, fmt.Sprint("the square of sample ", s, " at ", c), got, want, 1e-5, 2e-7*most+1e-14)
			}
		}
		LinearGradSquares(nil, nil, nil, 3, 3, 4, 0)
	})
}

func TestASamplesGradSquareIsTheSameBitsInAnyBatchOnAnyNumberOfThreads(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		const samples, length, out, in = 4, 120, 40, 70
		dy, x := normals(r, samples*length*out), normals(r, samples*length*in)
		alone := make([]float64, samples)
		for s := range samples {
			LinearGradSquares(alone[s:s+1], dy[s*length*out:], x[s*length*in:], out, in, length, 1)
		}
		onThreads(func(threads int) {
			got := make([]float64, samples)
			LinearGradSquares(got, dy, x, out, in, length, samples)
			if !slices.Equal(got, alone) {
				t.Errorf("%d threads: %v, alone %v", threads, got, alone)
			}
		})
	})
}

func BenchmarkLinearGradSquares(b *testing.B) {
	r := source()
	const samples, length, out, in = 4, 128, 2048, 768
	dy, x := normals(r, samples*length*out), normals(r, samples*length*in)
	squares := make([]float64, samples)
	b.Run("gram", func(b *testing.B) {
		for b.Loop() {
			LinearGradSquares(squares, dy, x, out, in, length, samples)
		}
	})
	b.Run("formed", func(b *testing.B) {
		grad := make([]float32, out*in)
		for b.Loop() {
			for s := range samples {
				Zero(grad)
				LinearGradWeight(grad, dy[s*length*out:], x[s*length*in:], Matrix{Out: out, In: in}, length)
				squares[s] += SumSquares(grad)
			}
		}
	})
}
