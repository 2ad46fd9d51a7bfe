package model

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func draw(s *Sampler, logits []float32, n int) []int {
	counts := make([]int, len(logits))
	for range n {
		counts[s.Sample(logits)]++
	}
	return counts
}

func TestTemperatureZeroTakesTheFirstMostLikelyToken(t *testing.T) {
	s := Sampler{TopP: 1}
	for _, test := range []struct {
		logits []float32
		want   int32
	}{
		{[]float32{3}, 0},
		{[]float32{-5, 2, 7, 7, 1}, 2},
		{[]float32{float32(math.Inf(-1)), -9}, 1},
	} {
		for range 3 {
			if got := s.Sample(test.logits); got != test.want {
				t.Errorf("of %v token %d was chosen, want %d", test.logits, got, test.want)
			}
		}
	}
}

func TestASampleChangesNoLogits(t *testing.T) {
	logits := []float32{1, 5, 3, 2}
	s := Sampler{Temperature: 0.7, TopP: 0.5}
	draw(&s, logits, 10)
	if !slices.Equal(logits, []float32{1, 5, 3, 2}) {
		t.Errorf("the logits are now %v", logits)
	}
}

func TestTheSameSeedDrawsTheSameTokens(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	logits := make([]float32, 40)
	for i := range logits {
		logits[i] = float32(r.NormFloat64())
	}
	take := func(seed uint64) (out []int32) {
		s := Sampler{Temperature: 1, TopP: 0.9, Seed: seed}
		for range 50 {
			out = append(out, s.Sample(logits))
		}
		return out
	}
	if !slices.Equal(take(1), take(1)) {
		t.Error("one seed drew two texts")
	}
	if slices.Equal(take(1), take(2)) {
		t.Error("two seeds drew one text")
	}
}

// chiSquared returns Pearson's statistic of counts against probabilities p.
func chiSquared(counts []int, p []float64) (x float64) {
	n := 0
	for _, c := range counts {
		n += c
	}
	for i, c := range counts {
		if expected := p[i] * float64(n); expected > 0 {
			x += (float64(c) - expected) * (float64(c) - expected) / expected
		}
	}
	return x
}

func TestTokensAreDrawnAsOftenAsTheSoftmaxSays(t *testing.T) {
	logits := []float32{0.5, -1, 2, 1.5, 0, -0.5, 1, -2}
	for _, temperature := range []float64{0.5, 1, 2} {
		var scaled []float64
		for _, v := range logits {
			scaled = append(scaled, float64(v)/temperature)
		}
		p, _ := softmax(scaled)
		for _, topP := range []float64{1, 0.8, 0.5} {
			// Keep the fewest most likely tokens that together reach topP.
			kept, sum := make([]float64, len(p)), 0.0
			for _, e := range largest(p, len(p)) {
				if sum >= topP {
					break
				}
				kept[e] = p[e]
				sum += p[e]
			}
			for i := range kept {
				kept[i] /= sum
			}
			counts := draw(&Sampler{Temperature: temperature, TopP: topP, Seed: 7}, logits, 20000)
			for i, c := range counts {
				if kept[i] == 0 && c > 0 {
					t.Errorf("temperature %v, top-p %v: token %d is not in the set and came %d times", temperature, topP, i, c)
				}
			}
			// Seven degrees of freedom: right samplers exceed 29.9 once in 10⁴ seeds, and the seed is fixed.
			if x := chiSquared(counts, kept); x > 29.9 {
				t.Errorf("temperature %v, top-p %v: tokens came %v times, χ² %.1f against %.3f", temperature, topP, counts, x, kept)
			}
		}
	}
	p, _ := softmax([]float64{0.5, -1, 2, 1.5, 0, -0.5, 1, -2})
	if x := chiSquared(draw(&Sampler{Temperature: 0.9, TopP: 1, Seed: 7}, logits, 20000), p); x < 29.9 {
		t.Errorf("χ² %.1f does not tell temperature 0.9 from 1: the test is blind", x)
	}
}

func TestTopPZeroTakesTheMostLikelyToken(t *testing.T) {
	logits := []float32{1, 4, 4, 2}
	if counts := draw(&Sampler{Temperature: 5, TopP: 0}, logits, 100); counts[1] != 100 {
		t.Errorf("the tokens came %v times", counts)
	}
}

func TestATokenWithoutProbabilityIsNeverDrawn(t *testing.T) {
	inf := float32(math.Inf(-1))
	counts := draw(&Sampler{Temperature: 1, TopP: 1}, []float32{inf, 1, inf, 1, -1e30, inf}, 2000)
	if counts[1]+counts[3] != 2000 || counts[1] == 0 || counts[3] == 0 {
		t.Errorf("the tokens came %v times", counts)
	}
}

func TestLogitsThatAreNoNumbersStillGiveAToken(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, logits := range [][]float32{{nan}, {nan, 1}, {1, nan, 3}, {inf, inf, 0}, {-inf, -inf}} {
		for _, s := range []Sampler{{}, {Temperature: 1, TopP: 1}, {Temperature: 1, TopP: 0.5}, {Temperature: 1e-300, TopP: 0.5}} {
			if got := s.Sample(logits); got < 0 || int(got) >= len(logits) {
				t.Errorf("of %v token %d was chosen", logits, got)
			}
		}
	}
}
