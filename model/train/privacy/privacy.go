// Package privacy accounts for differential privacy: what a Gaussian mechanism, taken many times over Poisson samples of
// some units, may reveal of any one of them.
//
// It bounds the Rényi divergence of the sampled Gaussian mechanism (Mironov, Talwar and Zhang 2019, arXiv 1908.10530), which adds
// up over steps, and converts it to (ε, δ). Two sets of units are neighbours if one has one unit more. It is pure arithmetic:
// it draws no noise and reads no text, and it knows nothing of whether a program did what it accounts for.
//
// Begin with [Epsilon] and [Noise].
package privacy

import (
	"fmt"
	"math"
)

// A Mechanism is one that was taken Steps times. Each time, every unit is in the sample with probability Rate, independently of all
// others, and what is released is a sum over the sample of vectors no longer than C, plus a Gaussian of standard deviation
// Noise·C in each coordinate. Rate 1 is the plain Gaussian mechanism.
type Mechanism struct {
	Rate  float64 // above 0, at most 1
	Noise float64 // above 0
	Steps int     // 0 or more
}

// valid reports whether m's numbers mean anything.
func (m Mechanism) valid() bool {
	return m.Rate > 0 && m.Rate <= 1 && m.Noise > 0 && !math.IsInf(m.Noise, 1) && m.Steps >= 0
}

// RDP bounds the Rényi divergence of that order, above 1, between what m releases of two neighbours. It is infinite if m is
// not valid: what cannot be accounted for protects nobody.
func (m Mechanism) RDP(order float64) float64 {
	if !m.valid() || !(order > 1) || math.IsInf(order, 1) {
		return math.Inf(1)
	}
	if m.Steps == 0 {
		return 0
	}
	return float64(m.Steps) * rdp(m.Rate, m.Noise, order)
}

// A Conversion returns an ε for which a mechanism of that Rényi divergence is (ε, δ)-differentially private.
type Conversion func(rdp, order, delta float64) float64

// Classic is the conversion of Mironov 2017 (arXiv 1702.07476, proposition 3).
func Classic(rdp, order, delta float64) float64 { return rdp - math.Log(delta)/(order-1) }

// Improved is the conversion of Canonne, Kamath and Steinke 2020 (arXiv 2004.00010, proposition 12), which Balle et al. 2020
// (arXiv 1905.09982, theorem 21) found from hypothesis testing. It is never larger than [Classic].
func Improved(rdp, order, delta float64) float64 {
	return rdp + math.Log1p(-1/order) - (math.Log(delta)+math.Log(order))/(order-1)
}

// orders are those among which the best is looked for.
var orders = func() (all []float64) {
	for i := 1; i < 100; i++ {
		all = append(all, 1+float64(i)/10)
	}
	for a := 11.0; a < 64; a++ {
		all = append(all, a)
	}
	for a := 64.0; a <= 4096; a *= math.Sqrt2 {
		all = append(all, math.Round(a))
	}
	return all
}()

// Epsilon returns the ε of all mechanisms together: the smallest, over many orders, to which their Rényi divergences
// convert. It is infinite if any of them is not valid or delta not between 0 and 1.
func Epsilon(delta float64, to Conversion, all ...Mechanism) float64 {
	if !(delta > 0 && delta < 1) {
		return math.Inf(1)
	}
	least := math.Inf(1)
	for _, a := range orders {
		var sum float64
		for _, m := range all {
			sum += m.RDP(a)
		}
		if e := to(sum, a, delta); e < least { // not where it is NaN
			least = e
		}
	}
	return max(0, least)
}

// mostNoise is more than anybody can use.
const mostNoise = 1e6

// Noise returns the least noise, within a part in a million, with which a mechanism of that rate and so many steps, after what else was
// released, stays within epsilon by the [Improved] conversion.
func Noise(epsilon, delta, rate float64, steps int, and ...Mechanism) (float64, error) {
	within := func(noise float64) bool {
		return Epsilon(delta, Improved, append([]Mechanism{{rate, noise, steps}}, and...)...) <= epsilon
	}
	if !(epsilon > 0) || !within(mostNoise) {
		return 0, fmt.Errorf("no noise makes %d steps at rate %g private with ε %g and δ %g", steps, rate, epsilon, delta)
	}
	low, high := 0.0, 1.0
	for !within(high) {
		low, high = high, 2*high
	}
	for high-low > 1e-6*high {
		if middle := (low + high) / 2; within(middle) {
			high = middle
		} else {
			low = middle
		}
	}
	return high, nil
}
