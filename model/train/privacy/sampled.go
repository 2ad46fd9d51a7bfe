package privacy

import "math"

// rdp is the Rényi divergence of one step of the sampled Gaussian mechanism: ln A / (α−1), where A is the α-th moment, under
// N(0, σ²), of the ratio of (1−q)·N(0, σ²) + q·N(1, σ²) to it (Mironov, Talwar and Zhang 2019, theorems 4 and 5: the
// divergence the other way is never larger).
func rdp(q, noise, order float64) float64 {
	var logA float64
	switch {
	case q == 1:
		return order / (2 * noise * noise)
	case order == math.Trunc(order):
		logA = integerMoment(q, noise, int(order))
	default:
		logA = fractionalMoment(q, noise, order)
	}
	return max(0, logA) / (order - 1)
}

// integerMoment returns ln A, whose binomial expansion has α+1 terms (section 3.3, equation 5).
func integerMoment(q, noise float64, order int) float64 {
	sum := math.Inf(-1)
	for k := range order + 1 {
		i := float64(k)
		sum = logAdd(sum, logBinomial(float64(order), i)+i*math.Log(q)+(float64(order)-i)*math.Log1p(-q)+i*(i-1)/(2*noise*noise))
	}
	return sum
}

// fractionalMoment returns ln A of an order that is no integer. The integral is split at z₀, where both parts of the
// mixture are equal, and on each side the larger is taken out of the binomial series, so that both series converge
// (section 3.3). From i > α on their terms alternate in sign and shrink, so what is left out is less than the last of
// them, which is added: the result is never too small by more than rounding.
func fractionalMoment(q, noise, order float64) float64 {
	var (
		s2       = noise * noise
		z0       = s2*math.Log(1/q-1) + 0.5
		logQ     = math.Log(q)
		logRest  = math.Log1p(-q)
		positive = math.Inf(-1)
		negative = math.Inf(-1)
		logCoef  = 0.0 // ln |binomial(α, i)|
		sign     = 1.0
	)
	below := func(x float64) float64 { return logErfc(-x/math.Sqrt2) - math.Ln2 } // ln Φ(x)
	for i := 0.0; ; i++ {
		j := order - i
		left := logCoef + i*logQ + j*logRest + i*(i-1)/(2*s2) + below((z0-i)/noise)
		right := logCoef + j*logQ + i*logRest + j*(j-1)/(2*s2) + below((j-z0)/noise)
		term := logAdd(left, right)
		if sign > 0 {
			positive = logAdd(positive, term)
		} else {
			negative = logAdd(negative, term)
		}
		if i > order && (term < positive-32 || i > 1e5) || math.IsNaN(term) || math.IsInf(term, 1) { // neither of the last two becomes finite again
			positive = logAdd(positive, term)
			break
		}
		if j < 0 {
			sign = -sign
		}
		logCoef += math.Log(math.Abs(j)) - math.Log(i+1)
	}
	return positive + math.Log1p(-math.Exp(negative-positive))
}

// logAdd returns ln(eᵃ + eᵇ).
func logAdd(a, b float64) float64 {
	if a < b {
		a, b = b, a
	}
	if math.IsInf(b, -1) {
		return a
	}
	return a + math.Log1p(math.Exp(b-a))
}

// logBinomial returns ln (n over k).
func logBinomial(n, k float64) float64 {
	a, _ := math.Lgamma(n + 1)
	b, _ := math.Lgamma(k + 1)
	c, _ := math.Lgamma(n - k + 1)
	return a - b - c
}

// logErfc returns ln erfc(x), also where erfc(x) underflows: there by its asymptotic series (Abramowitz and Stegun 7.1.23).
func logErfc(x float64) float64 {
	if x < 20 {
		return math.Log(math.Erfc(x))
	}
	r := 1 / (2 * x * x)
	return -x*x - math.Log(x*math.Sqrt(math.Pi)) + math.Log1p(-r+3*r*r-15*r*r*r)
}
