package train

import (
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"chorus/kernels"
	"chorus/model"
)

func TestTheReferenceIsThatOfPackageModel(t *testing.T) {
	want, err := os.ReadFile("../reference_test.go")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("reference_test.go")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != strings.Replace(string(want), "package model", "package train", 1) {
		t.Error("reference_test.go differs from package model's: copy it and change its package")
	}
}

// A gradientTest is a mixture with random weights, the reference over the same, and a text.
type gradientTest struct {
	mixture           *model.Mixture
	ref               *reference
	sequences, length int
	ids, targets      []int32
	slots             []int8
	z, routerZ, guide float64
	topic             *topic
	past              []int32  // what it has to tell
	names             []string // of all tensors, as in the reference
}

func newGradientTest(t *testing.T, c model.Config, slots, topK int) *gradientTest {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	g := &gradientTest{
		sequences: 2, length: 5,
		z: 0.02, routerZ: 0.05, guide: 0.3, // large, so that an error in any shows
		ref: &reference{
			vocab: c.VocabSize, hidden: c.HiddenSize, intermediate: c.IntermediateSize, layers: c.Layers, heads: c.Heads, kvHeads: c.KVHeads,
			slots: slots, topK: topK, eps: c.RMSNormEps, theta: c.Rope.Theta, w: make(map[string][]float64),
		},
	}
	source := func(prefix string) model.Source {
		return func(name string, shape ...int) ([]float32, error) {
			v := make([]float32, size(shape))
			for i := range v {
				x := r.NormFloat64()
				switch {
				case strings.HasSuffix(name, "norm.weight"):
					x = 1 + 0.3*x
				case name == "layers.0.router.bias":
					x = -0.4
				case strings.HasSuffix(name, "router.bias"):
					x = 0.4 // counts as 0
				case strings.HasSuffix(name, "router.weight"), strings.HasSuffix(name, "mlp.gate.weight"):
					x /= 3
				case name != "model.embed_tokens.weight":
					x *= 1.5 / math.Sqrt(float64(shape[1]))
				}
				v[i] = float32(x)
				g.ref.w[prefix+name] = append(g.ref.w[prefix+name], float64(v[i]))
			}
			g.names = append(g.names, prefix+name)
			return v, nil
		}
	}
	a, err := model.BuildAnchor(c, source(""))
	if err != nil {
		t.Fatal(err)
	}
	var experts []*model.Expert
	if slots == 2 {
		e, err := model.BuildExpert(c, source("1:"))
		if err != nil {
			t.Fatal(err)
		}
		experts = append(experts, e)
	}
	g.mixture = model.NewMixture(a, experts...)
	g.mixture.TopK = topK
	g.topic = newTopic(Recipe{Topic: 0.4, Seed: 5}, c.VocabSize, c.HiddenSize)
	for i, x := range g.topic.w {
		g.topic.w[i] = 10 * x
		g.ref.w[topicName] = append(g.ref.w[topicName], float64(10*x))
	}
	g.names = append(g.names, topicName)
	for range g.sequences * g.length {
		g.slots = append(g.slots, int8(r.IntN(slots)))
		g.ids = append(g.ids, int32(r.IntN(c.VocabSize-1))) // the last token never comes
		g.targets = append(g.targets, int32(r.IntN(c.VocabSize)))
	}
	g.topic.begin(Recipe{Seed: 5}, 0)
	g.topic.draw(g.ids, g.length)
	g.past = slices.Clone(g.topic.targets)
	return g
}

// loss is the mean cross-entropy, and the mean of lse² of the logits and, layer by layer, of the
// router's, of the router's cross-entropy, and of the topic's, by their weights.
func (g *gradientTest) loss() (sum float64) {
	for s := range g.sequences {
		t := g.ref.forward(g.ids[s*g.length:][:g.length])
		for i, logits := range t.logits {
			_, lse := softmax(logits)
			sum += lse - logits[g.targets[s*g.length+i]] + g.z*lse*lse
		}
		if g.ref.slots > 1 {
			for l, rows := range t.routerLSE {
				sum += g.routerZ * dot(rows, rows)
				for i, p := range t.router[l] {
					sum -= g.guide * math.Log(p[g.slots[s*g.length+i]])
				}
			}
		}
		for i, h := range t.hidden[0] {
			var logits []float64
			for v := range g.ref.vocab {
				logits = append(logits, dot(g.ref.w[topicName][v*g.ref.hidden:][:g.ref.hidden], h))
			}
			_, lse := softmax(logits)
			sum += float64(g.topic.weight) * (lse - logits[g.past[s*g.length+i]])
		}
	}
	return sum / float64(g.sequences*g.length)
}

// difference is the derivative of the loss by one weight, as a central difference.
func (g *gradientTest) difference(name string, i int) float64 {
	const h = 1e-5
	w := g.ref.w[name]
	at := w[i]
	w[i] = at + h
	up := g.loss()
	w[i] = at - h
	down := g.loss()
	w[i] = at
	return (up - down) / (2 * h)
}

// backward returns the gradients of the tensors that trained accepts, by name.
func (g *gradientTest) backward(s *scratch, trained func(name string) bool) map[string][]float32 {
	return g.inParts(s, new(model.Pass), g.sequences, trained)
}

// inParts is backward of some sequences at a time, in the memory of p.
func (g *gradientTest) inParts(s *scratch, p *model.Pass, some int, trained func(name string) bool) map[string][]float32 {
	grads := make(map[string][]float32)
	for _, name := range g.names {
		if trained(name) {
			grads[name] = make([]float32, len(g.ref.w[name]))
		}
	}
	into := gradientsOf(g.mixture, func(slot int, name string) []float32 {
		if slot == 1 {
			name = "1:" + name
		}
		return grads[name]
	})
	rows := g.sequences * g.length
	x := aux{logits: float32(g.z), router: float32(g.routerZ / float64(rows)), guide: float32(g.guide / float64(rows)), topic: g.topic, rows: rows}
	g.topic.begin(Recipe{Seed: 5}, 0)
	for at := 0; at < g.sequences; at += some {
		n := min(some, g.sequences-at)
		ids, targets := g.ids[at*g.length:][:n*g.length], g.targets[at*g.length:]
		g.mixture.ForwardToHead(p, ids, n, g.length)
		x.slots = g.slots[at*g.length:][:n*g.length]
		backward(g.mixture, p, ids, targets, x, into, s)
		into.adds = true
	}
	if trained(topicName) {
		grads[topicName] = slices.Clone(g.topic.g)
	}
	return grads
}

func gradientConfig(layers, heads, kvHeads int) model.Config {
	c := model.Config{
		VocabSize: 13, HiddenSize: 4 * heads, IntermediateSize: 11, Layers: layers, Heads: heads, KVHeads: kvHeads,
		MaxPositions: 16, RMSNormEps: 1e-6, Experts: 1, TopK: 1, EOS: model.TokenIDs{0},
	}
	c.Rope.Theta, c.Rope.Type = 100, "default"
	return c
}

func everything(string) bool { return true }

func ofExpert(name string) bool { return strings.HasPrefix(name, "1:") }

func TestTheBackwardPassIsTheDerivativeOfTheLoss(t *testing.T) {
	// Of the largest element of a tensor's gradient; what float32 costs in these models is a tenth.
	const tolerance = 5e-5
	for _, test := range []struct {
		name        string
		c           model.Config
		slots, topK int
		trained     func(string) bool
	}{
		{"an anchor", gradientConfig(2, 4, 4), 1, 1, func(name string) bool { return !strings.HasSuffix(name, "mlp.gate.weight") }},
		{"an anchor with grouped queries", gradientConfig(3, 4, 2), 1, 1, func(name string) bool { return !strings.HasSuffix(name, "mlp.gate.weight") }},
		{"an expert", gradientConfig(2, 4, 4), 2, 2, ofExpert},
		{"an expert of one layer", gradientConfig(1, 2, 2), 2, 2, ofExpert},
		{"an expert under grouped queries", gradientConfig(3, 4, 1), 2, 2, ofExpert},
		{"all of a mixture", gradientConfig(2, 4, 2), 2, 2, everything},
		{"all of a mixture, one slot a token", gradientConfig(2, 4, 2), 2, 1, everything},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newGradientTest(t, test.c, test.slots, test.topK)
			r := rand.New(rand.NewPCG(3, 4))
			grads := g.backward(new(scratch), test.trained)
			if len(grads) == 0 {
				t.Fatal("nothing is trained")
			}
			for _, name := range g.names {
				grad, ok := grads[name]
				if !ok {
					continue
				}
				entries := []int{0, len(grad) - 1}
				largest := 0
				for i, v := range grad {
					if math.Abs(float64(v)) > math.Abs(float64(grad[largest])) {
						largest = i
					}
				}
				entries = append(entries, largest)
				for range 5 {
					entries = append(entries, r.IntN(len(grad)))
				}
				slices.Sort(entries)
				for _, i := range slices.Compact(entries) {
					want := g.difference(name, i)
					if off := math.Abs(float64(grad[i]) - want); !(off <= tolerance*math.Abs(float64(grad[largest]))+1e-9) {
						t.Errorf("%s[%d]: the gradient is %g, the difference quotient %g", name, i, grad[i], want)
					}
				}
				flat := strings.HasSuffix(name, "router.bias") && name != "1:layers.0.router.bias"
				if zero := grad[largest] == 0; zero != flat {
					t.Errorf("%s: the largest gradient is %g", name, grad[largest])
				}
			}
			if embed := grads["model.embed_tokens.weight"]; embed != nil {
				for _, v := range embed[len(embed)-test.c.HiddenSize:] {
					if v != 0 {
						t.Fatal("a token that does not come has a gradient")
					}
				}
			}
		})
	}
}

func TestGradientsOfPartsAddUpToTheBatchs(t *testing.T) {
	// Of the largest element of a tensor's gradient: only the order of sums differs.
	const tolerance = 1e-5
	inBoth(func(precision string, mixed bool) {
		for name, trained := range map[string]func(string) bool{"everything": everything, "an expert": ofExpert} {
			g := newGradientTest(t, gradientConfig(2, 4, 2), 2, 2)
			if mixed {
				g.mixture = g.mixture.Mixed()
			}
			g.sequences = 5
			g.length = 2 // of the same ten tokens
			whole := g.backward(new(scratch), trained)
			for some := 1; some < g.sequences; some++ {
				parts := g.inParts(new(scratch), new(model.Pass), some, trained)
				for tensor, want := range whole {
					var most float64
					for _, v := range want {
						most = max(most, math.Abs(float64(v)))
					}
					for i, v := range want {
						if off := math.Abs(float64(parts[tensor][i] - v)); !(off <= tolerance*most) {
							t.Fatalf("%s%s, %d at a time: the gradient of %s[%d] is %g, want %g", name, precision, some, tensor, i, parts[tensor][i], v)
						}
					}
				}
			}
		}
	})
}

func TestLayersComputedAgainGiveTheSameBits(t *testing.T) {
	inBoth(func(precision string, mixed bool) {
		for _, c := range []struct {
			name        string
			slots, topK int
			trained     func(string) bool
		}{{"an anchor", 1, 1, everything}, {"an expert", 2, 2, ofExpert}, {"a mixture, one slot a token", 2, 1, everything}} {
			g := newGradientTest(t, gradientConfig(3, 4, 2), c.slots, c.topK)
			if mixed {
				g.mixture = g.mixture.Mixed()
			}
			for _, some := range []int{1, 2} {
				want := g.inParts(new(scratch), new(model.Pass), some, c.trained)
				p := &model.Pass{Inputs: true}
				for range 2 { // and with the memory in use
					for tensor, got := range g.inParts(new(scratch), p, some, c.trained) {
						if !slices.Equal(got, want[tensor]) {
							t.Errorf("%s%s: the gradient of %s is another", c.name, precision, tensor)
						}
					}
				}
				for l := range p.Layers {
					if kept := p.Layers[l]; kept.Work != nil || kept.Q != nil || kept.Att != nil || kept.Hidden != nil {
						t.Errorf("%s%s: more of layer %d is kept than its input", c.name, precision, l)
					}
				}
			}
		}
	})
}

func TestAUsedScratchChangesNoGradient(t *testing.T) {
	g := newGradientTest(t, gradientConfig(2, 4, 2), 2, 2)
	once := g.backward(new(scratch), everything)
	var s scratch
	g.backward(&s, ofExpert)
	reused := g.backward(&s, everything)
	for name, grad := range once {
		if !slices.Equal(grad, reused[name]) {
			t.Errorf("%s: the gradient is another", name)
		}
	}
}

func TestWhatIsFrozenGetsNothingAndCostsNothing(t *testing.T) {
	full := newGradientTest(t, gradientConfig(2, 4, 2), 2, 2)
	all := full.backward(new(scratch), everything)
	some := full.backward(new(scratch), ofExpert)
	for name, grad := range some {
		if !ofExpert(name) {
			t.Errorf("%s has a gradient", name)
		}
		if !slices.Equal(grad, all[name]) {
			t.Errorf("%s: its gradient depends on what else is trained", name)
		}
	}
	var s scratch
	newGradientTest(t, gradientConfig(1, 2, 2), 2, 2).backward(&s, ofExpert)
	if s.dIn != nil || s.dAtt != nil || s.dQRaw != nil {
		t.Error("the backward pass goes below the only layer's expert")
	}
}

func TestGradientsInMixedPrecisionPointWhereThoseInFloat32Do(t *testing.T) {
	// Rounding to 8 bits changes terms of products by up to 2⁻⁷. Over so few tokens and such steep weights little of that averages out.
	const least = 0.98
	g := newGradientTest(t, gradientConfig(2, 4, 2), 2, 2)
	want := g.backward(new(scratch), everything)
	g.mixture = g.mixture.Mixed()
	for name, got := range g.backward(new(scratch), everything) {
		a, b := kernels.SumSquares(got), kernels.SumSquares(want[name])
		cos := float64(kernels.Dot(got, want[name])) / math.Sqrt(a*b)
		if a == 0 && b == 0 {
			continue // of a bias that counts as zero
		}
		if !(cos >= least) || cos == 1 && strings.HasSuffix(name, "proj.weight") {
			t.Errorf("%s: the cosine is %v", name, cos)
		}
	}
}
