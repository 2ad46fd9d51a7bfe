package model

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// testConfig returns a configuration of the given sizes.
func testConfig(vocab, hidden, intermediate, layers, heads, kvHeads int) Config {
	c := Config{
		VocabSize: vocab, HiddenSize: hidden, IntermediateSize: intermediate, Layers: layers, Heads: heads, KVHeads: kvHeads,
		MaxPositions: 1024, RMSNormEps: 1e-6, Experts: 1, TopK: 1, EOS: TokenIDs{0},
	}
	c.Rope.Theta, c.Rope.Type = 10000, "default"
	return c
}

// randomSource gives every tensor random values, large enough that all parts of a layer matter,
// and tells what it gave. Biases are of both signs.
func randomSource(r *rand.Rand, gave func(name string, shape []int, values []float32)) Source {
	return func(name string, shape ...int) ([]float32, error) {
		n := 1
		for _, s := range shape {
			n *= s
		}
		v := make([]float32, n)
		for i := range v {
			x := r.NormFloat64()
			switch {
			case strings.HasSuffix(name, "norm.weight"):
				x = 1 + 0.3*x
			case strings.HasSuffix(name, "router.bias"):
			case strings.HasSuffix(name, "router.weight"), strings.HasSuffix(name, "gate.weight"):
				x /= 2
			case name != "model.embed_tokens.weight":
				x *= 1.5 / math.Sqrt(float64(shape[len(shape)-1]))
			}
			v[i] = float32(x)
		}
		gave(name, shape, v)
		return v, nil
	}
}

// randomMixture returns a mixture of random tensors, and the reference over the same.
func randomMixture(t testing.TB, c Config, slots, topK int) (*Mixture, *reference) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	ref := &reference{
		vocab: c.VocabSize, hidden: c.HiddenSize, intermediate: c.IntermediateSize, layers: c.Layers, heads: c.Heads, kvHeads: c.KVHeads,
		slots: slots, topK: topK, eps: c.RMSNormEps, theta: c.Rope.Theta, w: make(map[string][]float64),
	}
	under := func(prefix string) Source {
		return randomSource(r, func(name string, _ []int, v []float32) {
			var w []float64
			for _, x := range v {
				w = append(w, float64(x))
			}
			ref.w[prefix+name] = w
		})
	}
	a, err := BuildAnchor(c, under(""))
	if err != nil {
		t.Fatal(err)
	}
	var experts []*Expert
	for i := 1; i < slots; i++ {
		e, err := BuildExpert(c, under(fmt.Sprintf("%d:", i)))
		if err != nil {
			t.Fatal(err)
		}
		experts = append(experts, e)
	}
	m := NewMixture(a, experts...)
	if m.TopK != slots {
		t.Fatalf("a new mixture of %d slots has k = %d", slots, m.TopK)
	}
	m.TopK = topK
	return m, ref
}

func randomIDs(r *rand.Rand, n, vocab int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(r.IntN(vocab))
	}
	return ids
}

// far returns by how much got, a row, differs from want, relative to want's largest magnitude.
func far(got []float32, want []float64) float64 {
	var most, size float64
	for i, w := range want {
		d := math.Abs(float64(got[i]) - w)
		if math.IsNaN(d) {
			return math.Inf(1)
		}
		most, size = max(most, d), max(size, math.Abs(w))
	}
	return most / size
}

func TestForwardComputesWhatThePaperSays(t *testing.T) {
	// Of a row's largest magnitude. A float32 sum over the widest row here is good to about 1e-6,
	// and each layer adds its own.
	const tolerance = 2e-5
	for _, test := range []struct {
		name        string
		c           Config
		slots, topK int
	}{
		{"an anchor", testConfig(31, 16, 24, 2, 2, 2), 1, 1},
		{"one expert", testConfig(31, 16, 24, 2, 2, 2), 2, 2},
		{"one of two slots", testConfig(31, 16, 24, 3, 2, 1), 2, 1},
		{"grouped queries", testConfig(64, 48, 32, 2, 6, 2), 3, 3},
		{"one key head for all", testConfig(33, 40, 20, 2, 5, 1), 3, 2},
		{"four slots, all", testConfig(50, 32, 48, 4, 4, 4), 4, 4},
		{"four slots, two", testConfig(50, 32, 48, 4, 4, 2), 4, 2},
		{"odd sizes", testConfig(37, 42, 13, 2, 7, 7), 3, 2},
		{"the least", testConfig(1, 2, 1, 1, 1, 1), 2, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, ref := randomMixture(t, test.c, test.slots, test.topK)
			const sequences, length = 3, 11
			ids := randomIDs(rand.New(rand.NewPCG(3, 4)), sequences*length, test.c.VocabSize)
			var p Pass
			m.Forward(&p, ids, sequences, length)
			chose := make(map[int32]int)
			for s := range sequences {
				want := ref.forward(ids[s*length : (s+1)*length])
				for i := range length {
					r := s*length + i
					row := func(v []float32) []float32 { n := len(v) / (sequences * length); return v[r*n:][:n] }
					check := func(what string, got []float32, want []float64) {
						t.Helper()
						if d := far(row(got), want); d > tolerance {
							t.Fatalf("sequence %d, position %d: %s is %.3g off, more than %g", s, i, what, d, tolerance)
						}
					}
					for l := range p.Layers {
						at := fmt.Sprintf("layer %d: ", l)
						check(at+"the input", p.Layers[l].X, want.x[l][i])
						check(at+"what the router reads", p.Layers[l].Hidden, want.hidden[l][i])
						check(at+"the router", p.Layers[l].P, want.router[l][i])
						for n, e := range largest(want.router[l][i], test.topK) {
							got := p.Layers[l].Chosen[r*test.topK+n]
							if got != int32(e) {
								t.Fatalf("sequence %d, position %d: %schoice %d is slot %d, want %d", s, i, at, n, got, e)
							}
							chose[got]++
						}
					}
					check("the last hidden state", p.Last, want.last[i])
					check("the logits", p.Logits, want.logits[i])
				}
			}
			if test.c.VocabSize > 1 && len(chose) != test.slots {
				t.Errorf("only %v were ever chosen: the case does not test routing", chose)
			}
		})
	}
}

func TestAPassMayBeReused(t *testing.T) {
	var reused Pass
	for _, shape := range []struct{ layers, slots, sequences, length int }{{2, 3, 2, 9}, {4, 1, 1, 5}, {1, 2, 3, 3}} {
		m, _ := randomMixture(t, testConfig(31, 16, 24, shape.layers, 2, 2), shape.slots, shape.slots)
		ids := randomIDs(rand.New(rand.NewPCG(3, 4)), shape.sequences*shape.length, 31)
		var fresh Pass
		m.Forward(&fresh, ids, shape.sequences, shape.length)
		m.Forward(&reused, ids, shape.sequences, shape.length)
		sameBits(t, "the logits", reused.Logits, fresh.Logits)
	}
}

func TestForwardDependsNeitherOnBatchNorOnWhatFollows(t *testing.T) {
	m, _ := randomMixture(t, testConfig(31, 32, 24, 3, 4, 2), 3, 2)
	const sequences, length = 4, 10
	ids := randomIDs(rand.New(rand.NewPCG(3, 4)), sequences*length, 31)
	var all Pass
	m.Forward(&all, ids, sequences, length)
	for s := range sequences {
		for n := 1; n <= length; n++ {
			var one Pass
			m.Forward(&one, ids[s*length:][:n], 1, n)
			sameBits(t, fmt.Sprintf("sequence %d cut at %d", s, n), one.Logits, all.Logits[s*length*31:][:n*31])
		}
	}
}

func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: value %d is %v, want %v to the bit", what, i, got[i], want[i])
		}
	}
}

func TestABiasKeepsAnExpertBackAndNeverFavoursIt(t *testing.T) {
	m, _ := randomMixture(t, testConfig(31, 16, 24, 2, 2, 2), 2, 2)
	ids := randomIDs(rand.New(rand.NewPCG(3, 4)), 12, 31)
	share := func(bias float32) float32 {
		for l := range m.Slots[1].Bias {
			m.Slots[1].Bias[l][0] = bias
		}
		var p Pass
		m.Forward(&p, ids, 1, len(ids))
		return p.Layers[0].P[1]
	}
	none, positive, negative := share(0), share(3), share(-3)
	if positive != none {
		t.Errorf("a positive bias moves an expert's share from %v to %v", none, positive)
	}
	if negative >= none {
		t.Errorf("a negative bias moves an expert's share from %v to %v", none, negative)
	}
	m.Slots[1].Bias = nil
	var p Pass
	m.Forward(&p, ids, 1, len(ids))
	if p.Layers[0].P[1] != none {
		t.Error("no bias is not a bias of zero")
	}
}

func TestParametersAreThoseOfTheCheckpoint(t *testing.T) {
	c := testConfig(37, 42, 13, 2, 7, 7)
	var total int64
	a, err := BuildAnchor(c, func(name string, shape ...int) ([]float32, error) {
		n := 1
		for _, s := range shape {
			n *= s
		}
		if !strings.HasSuffix(name, "mlp.gate.weight") {
			total += int64(n)
		}
		return make([]float32, n), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := a.Parameters(); got != total {
		t.Errorf("%d parameters, the tensors have %d", got, total)
	}
}
