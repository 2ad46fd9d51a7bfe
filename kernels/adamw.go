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
	step := adamStep{
		beta1: float32(a.Beta1),
		beta2: float32(a.Beta2),
		clip:  a.Clip,
		keep:  float32(1 - a.LR*a.WeightDecay),
		rate:  float32(a.LR / c1),
		root:  float32(math.Sqrt(c2)),
		eps:   float32(a.Eps),
	}
	parallelRows(len(w), 1, func(i, j int) {
		active.adam(w[i:j], m[i:j], v[i:j], g[i:j], step)
	})
}

// An adamStep is an [Adam] with the bias correction worked out.
type adamStep struct{ beta1, beta2, clip, keep, rate, root, eps float32 }

func adamPortable(w, m, v, g []float32, a adamStep) {
	for c := range w {
		gc := g[c] * a.clip
		m[c] = a.beta1*m[c] + (1-a.beta1)*gc
		v[c] = a.beta2*v[c] + (1-a.beta2)*gc*gc
		w[c] = w[c]*a.keep - a.rate*m[c]/(float32(math.Sqrt(float64(v[c])))/a.root+a.eps)
	}
}

// SumSquares returns Σ x², accumulated in float64 in one order whatever the number of threads.
func SumSquares(x []float32) float64 {
	chunks := (len(x) + grain - 1) / grain
	each := make([]float64, chunks)
	parallel(chunks, func(i int) {
		each[i] = active.sumSquares(x[i*grain : min(len(x), (i+1)*grain)])
	})
	var sum float64
	for _, v := range each {
		sum += v
	}
	return sum
}
