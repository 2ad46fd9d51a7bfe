package train

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"chorus/model"
)

// newRun is the training of an anchor whose tensors begin as weight says.
func newRun(t testing.TB, c model.Config, recipe Recipe, text *Tokens, weight func(p *parameter)) *run {
	t.Helper()
	r := &run{recipe: recipe, batches: newBatcher(text, recipe.Length, recipe.Seed)}
	anchor, err := model.BuildAnchor(c, func(name string, shape ...int) ([]float32, error) {
		p := newParameter(name, shape)
		p.decay = len(shape) > 1
		weight(p)
		r.params = append(r.params, p)
		return p.w, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r.mixture = model.NewMixture(anchor)
	r.begin()
	return r
}

// ramp gives a tensor values around zero that need no random numbers.
func ramp(p *parameter) {
	for i := range p.w {
		p.w[i] = float32(i%7-3) / 32
	}
}

func TestAStepIsAdamWWithAClippedGradient(t *testing.T) {
	recipe := smallRecipe(9)
	for _, recipe.Clip = range []float64{0.01, 0.15, 1e9} { // gradients are 0.11 to 0.2 long, on both sides of the second
		r := newRun(t, smallConfig(), recipe, walkText(5, 3, 2000), ramp)
		for step := range 4 {
			var before []parameter
			for _, p := range r.params {
				before = append(before, parameter{w: slices.Clone(p.w), m: slices.Clone(p.m), v: slices.Clone(p.v)})
			}
			r.once()
			var norm float64
			for _, p := range r.params {
				for _, g := range p.g {
					norm += float64(g) * float64(g)
				}
			}
			clip := min(1, recipe.Clip/math.Sqrt(norm))
			rate := recipe.rate(step)
			for i, p := range r.params {
				decay := 0.0
				if p.decay {
					decay = recipe.WeightDecay
				}
				var moved bool
				for j, g := range p.g {
					g := float64(g) * clip
					m := 0.9*float64(before[i].m[j]) + 0.1*g
					v := 0.95*float64(before[i].v[j]) + 0.05*g*g
					w := float64(before[i].w[j])
					unbiased := m / (1 - math.Pow(0.9, float64(step+1)))
					scale := math.Sqrt(v/(1-math.Pow(0.95, float64(step+1)))) + 1e-8
					w -= rate * (unbiased/scale + decay*w)
					if math.Abs(float64(p.w[j])-w) > 1e-3*rate || math.Abs(float64(p.m[j])-m) > 1e-5*(math.Abs(m)+math.Abs(0.1*g)) {
						t.Fatalf("clip %g, step %d: %s[%d] is %v, want %v", recipe.Clip, step, p.name, j, p.w[j], w)
					}
					moved = moved || p.w[j] != before[i].w[j]
				}
				if !moved && !strings.HasSuffix(p.name, "mlp.gate.weight") {
					t.Fatalf("step %d leaves %s as it was", step, p.name)
				}
			}
		}
	}
}

func TestAStepTakesTheWholeLossOfItsRecipe(t *testing.T) {
	g := newGradientTest(t, gradientConfig(2, 4, 2), 2, 2)
	text, public := &Tokens{IDs: g.ids}, &Tokens{IDs: g.targets}
	r := &run{
		recipe:  Recipe{Steps: 2, Sequences: g.sequences, Length: g.length, PublicSequences: 1, LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Clip: 1, ZLoss: g.z, RouterZLoss: g.routerZ},
		mixture: g.mixture, batches: newBatcher(text, g.length, 1), public: newBatcher(public, g.length, 2),
	}
	for _, name := range g.names {
		if name, ok := strings.CutPrefix(name, "1:"); ok { // what training does to them is not looked at
			r.params = append(r.params, newParameter(name, []int{len(g.ref.w["1:"+name])}))
		}
	}
	r.begin()
	half := g.length
	ids, targets := make([]int32, 2*half), make([]int32, 2*half)
	r.batches.fill(ids[:half], targets[:half], 0)
	r.public.fill(ids[half:], targets[half:], 0)
	r.once()
	g.ids, g.targets = ids, targets
	want := g.backward(new(scratch), ofExpert)
	for _, p := range r.params {
		if !slices.Equal(p.g, want["1:"+p.name]) {
			t.Errorf("%s: the step's gradient is not that of its loss", p.name)
		}
	}
}

func TestMatricesDecayAndNothingElse(t *testing.T) {
	for name, shape := range map[string][]int{
		"model.embed_tokens.weight": {8, 4}, "model.norm.weight": {4}, "lm_head.weight": {8, 4},
		"model.layers.0.self_attn.q_proj.weight": {4, 4}, "model.layers.0.self_attn.q_norm.weight": {4},
	} {
		p := newParameter(name, shape)
		initialise(p, rand.New(rand.NewPCG(1, 2)))
		if want := strings.HasSuffix(name, "proj.weight") || name == "lm_head.weight"; p.decay != want {
			t.Errorf("%s decays: %v", name, p.decay)
		}
	}
}

func TestAGradientThatIsNoNumberIsReported(t *testing.T) {
	// One text of one token: every row adds to the last norm's gradient with the same sign, and the
	// head is so large that the sum overflows, while a norm of zero keeps the logits at zero.
	text := &Tokens{IDs: slices.Repeat([]int32{5}, 100)}
	r := newRun(t, smallConfig(), smallRecipe(1), text, func(p *parameter) {
		ramp(p)
		switch p.name {
		case "model.norm.weight":
			clear(p.w)
		case "lm_head.weight":
			for i := range p.w {
				p.w[i] = -3e38
				if i/32 == 5 {
					p.w[i] = 3e38
				}
			}
		}
	})
	err := r.train(t.Context(), func() error { return nil }, nil)
	if err == nil || !strings.Contains(err.Error(), "gradient") {
		t.Errorf("got %v", err)
	}
}

// BenchmarkStep is the speed of training at the sizes that users get: a step of AnchorRecipe on
// AnchorConfig, and one of ExpertRecipe beside that anchor.
func BenchmarkStep(b *testing.B) {
	config := AnchorConfig(Vocabulary, 0)
	text := &Tokens{IDs: make([]int32, 1<<16)}
	for i := range text.IDs {
		text.IDs[i] = int32(i * 97 % Vocabulary)
	}
	steps := func(b *testing.B, r *run) {
		for b.Loop() {
			r.once()
		}
		b.ReportMetric(float64(b.N*len(r.ids))/b.Elapsed().Seconds(), "tokens/s")
		b.ReportMetric(0, "ns/op")
	}
	anchor := newRun(b, config, AnchorRecipe(1), text, ramp)
	b.Run("anchor", func(b *testing.B) { steps(b, anchor) })
	b.Run("expert", func(b *testing.B) {
		recipe := ExpertRecipe(1)
		r := &run{recipe: recipe, batches: newBatcher(text, recipe.Length, 1), public: newBatcher(text, recipe.Length, 2)}
		expert, err := model.BuildExpert(config, func(name string, shape ...int) ([]float32, error) {
			p := newParameter(name, shape)
			ramp(p)
			r.params = append(r.params, p)
			return p.w, nil
		})
		if err != nil {
			b.Fatal(err)
		}
		r.mixture = model.NewMixture(anchor.mixture.Anchor, expert)
		r.begin()
		steps(b, r)
	})
}
