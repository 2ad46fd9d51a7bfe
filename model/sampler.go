package model

import (
	"math"
	"math/rand/v2"
	"slices"
)

// A Sampler chooses the next token from logits. It is for one goroutine at a time; the same seed
// and logits give the same choices.
type Sampler struct {
	Temperature float64 // 0 takes the most likely token
	TopP        float64 // the smallest set of tokens with this probability; 1 keeps all
	Seed        uint64

	rng   *rand.Rand
	order []int32
	p     []float64
}

// Sample returns the chosen token; of equally likely ones, temperature 0 takes the first. It does not
// change logits, (V), of which there must be at least one.
func (s *Sampler) Sample(logits []float32) int32 {
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	if s.Temperature == 0 {
		return int32(best)
	}
	if s.rng == nil {
		s.rng = rand.New(rand.NewPCG(s.Seed, 0))
	}
	s.p = s.p[:0]
	var sum float64
	for _, v := range logits {
		p := math.Exp(float64(v-logits[best]) / s.Temperature)
		s.p = append(s.p, p)
		sum += p
	}
	s.order = s.order[:0]
	for i := range logits {
		s.order = append(s.order, int32(i))
	}
	if s.TopP < 1 {
		slices.SortFunc(s.order, func(a, b int32) int {
			if d := s.p[b] - s.p[a]; d != 0 {
				return int(math.Copysign(1, d))
			}
			return int(a - b)
		})
		kept := 0.0
		for n, i := range s.order {
			if kept += s.p[i]; kept >= s.TopP*sum {
				s.order, sum = s.order[:n+1], kept
				break
			}
		}
	}
	// Added up in the order in which sum was, the parts pass every number below it, and they do at a
	// token that has some probability.
	at, part := s.rng.Float64()*sum, 0.0
	for _, i := range s.order {
		if part += s.p[i]; part > at {
			return i
		}
	}
	return int32(best) // the logits were no numbers
}
