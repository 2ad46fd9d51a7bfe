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

// Sample returns the chosen token. It does not change logits.
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
	at := s.rng.Float64() * sum
	for _, i := range s.order {
		if at -= s.p[i]; at < 0 {
			return i
		}
	}
	return s.order[len(s.order)-1]
}
