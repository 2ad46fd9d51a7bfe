package kernels

import "math"

// Adam holds the constants of one optimiser step (Loshchilov and Hutter 2019, algorithm 2).
type Adam struct {
	LR, Beta1, Beta2, Eps, WeightDecay float64
	Step                               int     // from 1, for the bias correction
	Clip                               float32 // every gradient is multiplied by it first
}

// AdamW updates w and the moments m and v, all of one length, with the gradient g.
func AdamW(w, m, v, g []float32, a Adam) {
	c1 := 1 - math.Pow(a.Beta1, float64(a.Step))
	c2 := 1 - math.Pow(a.Beta2, float64(a.Step))
	rate, root := float32(a.LR/c1), float32(math.Sqrt(c2))
	b1, b2, eps, keep := float32(a.Beta1), float32(a.Beta2), float32(a.Eps), float32(1-a.LR*a.WeightDecay)
	parallelRows(len(w), 8, func(i, j int) {
		for c := i; c < j; c++ {
			gc := g[c] * a.Clip
			m[c] = b1*m[c] + (1-b1)*gc
			v[c] = b2*v[c] + (1-b2)*gc*gc
			w[c] = w[c]*keep - rate*m[c]/(float32(math.Sqrt(float64(v[c])))/root+eps)
		}
	})
}

// SumSquares returns Σ x², accumulated in float64 in one order whatever the number of threads.
func SumSquares(x []float32) float64 {
	chunks := (len(x) + grain - 1) / grain
	each := make([]float64, chunks)
	parallel(chunks, func(i int) {
		for _, v := range x[i*grain : min(len(x), (i+1)*grain)] {
			each[i] += float64(v) * float64(v)
		}
	})
	var sum float64
	for _, v := range each {
		sum += v
	}
	return sum
}
