package main

import (
	"math"
	"math/rand/v2"

	"chorus/model"
)

// A mixtureShape is the shape of a made-up mixture, of which every matrix holds noise.
type mixtureShape struct {
	hidden, intermediate, layers, heads, vocabulary int
	experts, k                                      int
}

// servedShape is what decoding is measured on: 242M parameters, of which a token takes 75M.
var servedShape = mixtureShape{hidden: 512, intermediate: 2048, layers: 8, heads: 8, vocabulary: 32000, experts: 8, k: 2}

func (s mixtureShape) config() model.Config {
	c := model.Config{
		VocabSize: s.vocabulary, HiddenSize: s.hidden, IntermediateSize: s.intermediate, Layers: s.layers, Heads: s.heads, KVHeads: s.heads,
		MaxPositions: 4096, RMSNormEps: 1e-5, Experts: 1, TopK: 1, EOS: model.TokenIDs{2},
	}
	c.Rope.Theta, c.Rope.Type = 10000, "default"
	return c
}

// active returns how many weights one token reads, the embedding's row apart.
func (s mixtureShape) active() int {
	return s.layers*(4*s.hidden*s.hidden+s.k*3*s.hidden*s.intermediate) + s.vocabulary*s.hidden
}

// noise returns a source of tensors that share one pool of random numbers: norms are 1.
func (s mixtureShape) noise() model.Source {
	rng := rand.New(rand.NewPCG(7, 7))
	pool := normal(rng, s.vocabulary*s.hidden+1<<20, float32(1/math.Sqrt(float64(s.hidden))))
	return func(_ string, shape ...int) ([]float32, error) {
		n := elements(shape)
		if len(shape) == 1 && n == 1 {
			return make([]float32, 1), nil // a router's bias
		}
		v := pool[rng.IntN(len(pool)-n+1):][:n:n]
		if len(shape) == 1 {
			v = make([]float32, n)
			for i := range v {
				v[i] = 1
			}
		}
		return v, nil
	}
}

// build makes a mixture up, with its matrices in the form w. Routers are at random, so that each slot is chosen.
func (s mixtureShape) build(w model.Weights) (*model.Mixture, error) {
	noise := s.noise()
	a, err := model.BuildAnchor(s.config(), noise)
	if err != nil {
		return nil, err
	}
	a.Pack(w)
	var experts []*model.Expert
	for range s.experts - 1 {
		e, err := model.BuildExpert(a.Config, noise)
		if err != nil {
			return nil, err
		}
		for l := range e.Router { // one row to a blob, and no norm
			if e.Router[l], err = noise("", 1, s.hidden); err != nil {
				return nil, err
			}
		}
		e.Pack(w)
		experts = append(experts, e)
	}
	m := model.NewMixture(a, experts...)
	m.TopK = s.k
	return m, nil
}
