package privacy

import (
	"fmt"
	"math"
	"testing"
)

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) {
		t.Errorf("%s: %.9g, want %.9g ± %g", what, got, want, tolerance)
	}
}

func TestPublishedValues(t *testing.T) {
	// MNIST in the tutorial of TensorFlow Privacy: 60000 images, batches of 256, 15 epochs, the conversion of Mironov.
	near(t, "MNIST", Epsilon(1e-5, Classic, Mechanism{256.0 / 60000, 1.3, 3516}), 1.19, 0.005)

	// 10⁴ steps at a rate of 1 %, over whole orders alone; those between find a little less.
	m := Mechanism{0.01, 1, 10000}
	whole := math.Inf(1)
	for a := 2.0; a <= 64; a++ {
		whole = min(whole, Classic(m.RDP(a), a, 1e-6))
	}
	near(t, "10⁴ steps", whole, 8.14, 0.005)
	if all := Epsilon(1e-6, Classic, m); all > whole || all < whole-0.1 {
		t.Errorf("10⁴ steps: %g over all orders, %g over the whole ones", all, whole)
	}
	if better := Epsilon(1e-6, Improved, m); better >= whole-0.5 {
		t.Errorf("10⁴ steps: the improved conversion gives %g, the classic %g", better, whole)
	}
}

// moment integrates, by Simpson's rule in the log domain, the α-th moment of the ratio of two densities under the one below:
// of the mixture to the plain Gaussian, or the other way round.
func moment(q, noise, order float64, mixtureAbove bool) float64 {
	const n = 40000
	low, high := -14*noise, 14*noise+order+1
	h := (high - low) / n
	logs := make([]float64, n+1)
	top := math.Inf(-1)
	for i := range logs {
		z := low + float64(i)*h
		plain := -z*z/(2*noise*noise) - math.Log(noise*math.Sqrt(2*math.Pi))
		ratio := logAdd(math.Log1p(-q), math.Log(q)+(2*z-1)/(2*noise*noise))
		if mixtureAbove {
			logs[i] = plain + order*ratio
		} else {
			logs[i] = plain + (1-order)*ratio
		}
		top = max(top, logs[i])
	}
	var sum float64
	for i, l := range logs {
		w := 2.0 * float64(1+i%2)
		if i == 0 || i == n {
			w = 1
		}
		sum += w * math.Exp(l-top)
	}
	return top + math.Log(sum*h/3)
}

func TestTheDivergenceIsThatOfTheDensities(t *testing.T) {
	for _, q := range []float64{1e-4, 0.004, 0.01, 0.1, 0.3, 0.5, 0.9} {
		for _, noise := range []float64{0.5, 0.8, 1, 1.3, 4, 20} {
			for _, order := range []float64{1.1, 1.5, 2, 2.7, 3, 5.3, 8, 10.9, 16, 32} {
				what := fmt.Sprintf("q %g, σ %g, α %g", q, noise, order)
				want := moment(q, noise, order, true)
				got := rdp(q, noise, order) * (order - 1)
				near(t, what, got, want, 1e-9+1e-8*math.Abs(want))
				if other := moment(q, noise, order, false); other > got+1e-9+1e-8*other {
					t.Errorf("%s: the divergence the other way, %g, is above %g", what, other, got)
				}
			}
		}
	}
}

func TestFractionalAndWholeOrdersAgree(t *testing.T) {
	for _, order := range []float64{2, 3, 7, 20, 63} {
		for _, noise := range []float64{0.7, 1, 3} {
			whole := integerMoment(0.02, noise, int(order))
			near(t, fmt.Sprintf("α %g, σ %g", order, noise), fractionalMoment(0.02, noise, order+1e-9), whole, 1e-6*(1+whole))
		}
	}
}

func TestTheLogarithmOfErfcGoesOnWhereErfcEnds(t *testing.T) {
	near(t, "where both are", logErfc(20), math.Log(math.Erfc(20)), 1e-9*400)
	near(t, "on the left", logErfc(-3), math.Log(math.Erfc(-3)), 1e-15)
	if at, on := logErfc(30), logErfc(1e4); at > -900 || at < -910 || on > -1e8 || math.IsInf(on, 0) {
		t.Errorf("erfc(30) = exp(%g), erfc(10000) = exp(%g)", at, on)
	}
}

// delta is the least δ of one Gaussian mechanism of sensitivity 1 (Balle and Wang 2018, theorem 8).
func delta(noise, epsilon float64) float64 {
	cdf := func(x float64) float64 { return math.Erfc(-x/math.Sqrt2) / 2 }
	return cdf(1/(2*noise)-epsilon*noise) - math.Exp(epsilon)*cdf(-1/(2*noise)-epsilon*noise)
}

func TestEpsilonBoundsTheExactOneOfTheGaussianMechanism(t *testing.T) {
	for _, noise := range []float64{0.5, 1, 2, 5, 10, 30} {
		for _, d := range []float64{1e-8, 1e-5, 1e-3} {
			classic, improved := Epsilon(d, Classic, Mechanism{1, noise, 1}), Epsilon(d, Improved, Mechanism{1, noise, 1})
			if improved > classic {
				t.Errorf("σ %g, δ %g: the improved conversion gives %g, the classic %g", noise, d, improved, classic)
			}
			if exact := delta(noise, improved); exact > d {
				t.Errorf("σ %g: at ε %g the exact δ is %g, above %g", noise, improved, exact, d)
			}
			if improved > 0.1 && delta(noise, improved/1.35) < d {
				t.Errorf("σ %g, δ %g: ε %g is more than a third above the exact one", noise, d, improved)
			}
		}
	}
}

func TestMechanismsAddUp(t *testing.T) {
	twice := Epsilon(1e-5, Improved, Mechanism{0.02, 1.1, 300}, Mechanism{0.02, 1.1, 200})
	near(t, "two runs", twice, Epsilon(1e-5, Improved, Mechanism{0.02, 1.1, 500}), 1e-12)
	alone := Epsilon(1e-5, Improved, Mechanism{0.02, 1.1, 500})
	if with := Epsilon(1e-5, Improved, Mechanism{0.02, 1.1, 500}, Mechanism{1, 10, 1}); with <= alone {
		t.Errorf("a mean beside it costs nothing: %g, %g alone", with, alone)
	}
	// Two plain Gaussians are one of √2 less noise.
	near(t, "two plain ones", Epsilon(1e-5, Improved, Mechanism{1, 5, 2}), Epsilon(1e-5, Improved, Mechanism{1, 5 / math.Sqrt2, 1}), 1e-9)
	if none := Epsilon(1e-5, Classic, Mechanism{0.5, 1, 0}); none > 0.01 {
		t.Errorf("no step at all: ε %g", none)
	}
}

func TestWhatIsNotValidProtectsNobody(t *testing.T) {
	nan := math.NaN()
	for _, m := range []Mechanism{{}, {0, 1, 1}, {1.1, 1, 1}, {-0.1, 1, 1}, {nan, 1, 1}, {0.1, 0, 1}, {0.1, -1, 1}, {0.1, nan, 1}, {0.1, math.Inf(1), 1}, {0.1, 1, -1}} {
		if e := Epsilon(1e-5, Improved, m, Mechanism{0.01, 5, 1}); !math.IsInf(e, 1) {
			t.Errorf("%+v: ε %g", m, e)
		}
	}
	for _, d := range []float64{0, 1, -1, 2, nan} {
		if e := Epsilon(d, Improved, Mechanism{0.01, 5, 1}); !math.IsInf(e, 1) {
			t.Errorf("δ %g: ε %g", d, e)
		}
	}
}

func TestNoiseIsTheLeastThatIsEnough(t *testing.T) {
	mean := Mechanism{1, 30, 1}
	for _, epsilon := range []float64{0.5, 1, 3, 8, 50} {
		for _, rate := range []float64{0.001, 0.05, 1} {
			noise, err := Noise(epsilon, 1e-6, rate, 400, mean)
			if err != nil {
				t.Fatal(err)
			}
			if e := Epsilon(1e-6, Improved, mean, Mechanism{rate, noise, 400}); e > epsilon {
				t.Errorf("ε %g, q %g: noise %g has ε %g", epsilon, rate, noise, e)
			}
			if e := Epsilon(1e-6, Improved, mean, Mechanism{rate, noise * (1 - 1e-4), 400}); e <= epsilon {
				t.Errorf("ε %g, q %g: less noise than %g would do, ε %g", epsilon, rate, noise, e)
			}
		}
	}
	for _, bad := range [][3]float64{{0, 1e-6, 0.1}, {-1, 1e-6, 0.1}, {math.NaN(), 1e-6, 0.1}, {1, 0, 0.1}, {1, 1, 0.1}, {1, 1e-6, 0}, {1, 1e-6, 2}, {1e-9, 1e-6, 1}} {
		if noise, err := Noise(bad[0], bad[1], bad[2], 100); err == nil {
			t.Errorf("ε %g, δ %g, q %g: noise %g", bad[0], bad[1], bad[2], noise)
		}
	}
	if noise, err := Noise(1, 1e-6, 0.1, 100, Mechanism{1, 0.5, 1}); err == nil {
		t.Errorf("noise %g makes up for what was spent before", noise)
	}
}
