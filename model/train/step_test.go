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
	r := &run{recipe: recipe, memory: DefaultMemory, batches: []share{{batcher: newBatcher(text, recipe.Length, recipe.Seed), sequences: recipe.Sequences}}}
	anchor, err := model.BuildAnchor(c, func(name string, shape ...int) ([]float32, error) {
		p := newParameter(0, name, shape)
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
		recipe:  Recipe{Steps: 2, Sequences: g.sequences, Length: g.length, LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Clip: 1, ZLoss: g.z, RouterZLoss: g.routerZ, Guide: g.guide},
		mixture: g.mixture, memory: DefaultMemory, batches: []share{{batcher: newBatcher(text, g.length, 1), sequences: 1, slot: 1}, {batcher: newBatcher(public, g.length, 2), sequences: 1}},
	}
	for _, name := range g.names {
		if name, ok := strings.CutPrefix(name, "1:"); ok { // what training does to them is not looked at
			r.params = append(r.params, newParameter(1, name, []int{len(g.ref.w["1:"+name])}))
		}
	}
	r.begin()
	half := g.length
	ids, targets := make([]int32, 2*half), make([]int32, 2*half)
	r.batches[0].fill(ids[:half], targets[:half], 0)
	r.batches[1].fill(ids[half:], targets[half:], 0)
	r.once()
	g.ids, g.targets, g.slots = ids, targets, append(slices.Repeat([]int8{1}, half), make([]int8, half)...)
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
		"model.layers.0.self_attn.q_proj.weight": {4, 4}, "model.layers.0.self_attn.q_norm.weight": {4}, "model.layers.0.mlp.gate.weight": {1, 4},
	} {
		p := newParameter(0, name, shape)
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

// BenchmarkStep is the speed of a training step, and how much of a second goes to each token's multiplications: the
// products' 2·m·n·k, attention's left aside.
//
// anchor and expert are the sizes that users get: AnchorRecipe on AnchorConfig, 8 windows of 64 tokens, and
// ExpertRecipe beside that anchor. The others are mixtures of the public slot and one expert, both of which see every row
// (k = E = 2), in float32 or in mixed precision, and a batch of 512 tokens, 4 windows of 128, with AdamW and a clipped gradient:
//
//	      parameters  vocabulary  hidden  intermediate  layers  heads of 64
//	10M   10.2M       4096        256     704           6       4
//	100M  96.0M       16384       768     2048          6       12
//
// whole trains every tensor, as an optimiser over all of model.parameters() would; expert trains the expert and its router
// alone. Blocks are FlexOlmo's: norms after attention and FFN, norms of all queries and of all keys, SwiGLU, an untied head.
func BenchmarkStep(b *testing.B) {
	text := &Tokens{IDs: make([]int32, 1<<16)}
	bench := func(name string, c model.Config, recipe Recipe, slots int, whole bool) {
		if recipe.Mixed {
			name = "mixed/" + name
		}
		var r *run // made once, though the benchmark runs several times: b.Loop would leave the first of -cpu aside
		b.Run(name, func(b *testing.B) {
			for i := range text.IDs {
				text.IDs[i] = int32(i * 97 % c.VocabSize)
			}
			if r == nil {
				r = &run{recipe: recipe, memory: DefaultMemory, batches: []share{
					{batcher: newBatcher(text, recipe.Length, 1), sequences: recipe.Sequences - recipe.PublicSequences, slot: 1}, {batcher: newBatcher(text, recipe.Length, 2), sequences: recipe.PublicSequences},
				}}
				source := func(slot int, trained bool) model.Source {
					return func(name string, shape ...int) ([]float32, error) {
						p := newParameter(slot, name, shape)
						initialise(p.w, name, shape, rand.New(rand.NewPCG(1, 2)))
						if trained {
							r.params = append(r.params, p)
						}
						return p.w, nil
					}
				}
				anchor, err := model.BuildAnchor(c, source(0, whole))
				if err != nil {
					b.Fatal(err)
				}
				var experts []*model.Expert
				if slots > 1 {
					expert, err := model.BuildExpert(c, source(1, true))
					if err != nil {
						b.Fatal(err)
					}
					experts = append(experts, expert)
				}
				r.mixture = model.NewMixture(anchor, experts...)
				r.begin()
				r.once() // which allocates
			}
			b.ResetTimer()
			for range b.N {
				r.once()
			}
			perSecond := float64(b.N*len(r.ids)) / b.Elapsed().Seconds()
			b.ReportMetric(perSecond, "tokens/s")
			b.ReportMetric(perSecond*multiplications(c, slots, whole)/1e9, "GFLOP/s")
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)*1e3, "ms/step")
			b.ReportMetric(0, "ns/op")
		})
	}
	small, medium := AnchorConfig(4096, 0), AnchorConfig(16384, 0)
	small.HiddenSize, small.IntermediateSize, small.Layers, small.Heads, small.KVHeads = 256, 704, 6, 4, 4
	medium.HiddenSize, medium.IntermediateSize, medium.Layers, medium.Heads, medium.KVHeads = 768, 2048, 6, 12, 12
	batch := AnchorRecipe(1)
	batch.Sequences, batch.Length, batch.LR = 4, 128, 1e-3
	for _, mixed := range []bool{false, true} {
		anchor, expert := AnchorRecipe(1), ExpertRecipe(1)
		anchor.Mixed, expert.Mixed, batch.Mixed = mixed, mixed, mixed
		bench("anchor", AnchorConfig(Vocabulary, 0), anchor, 1, true)
		bench("expert", AnchorConfig(Vocabulary, 0), expert, 2, false)
		bench("10M/whole", small, batch, 2, true)
		bench("10M/expert", small, batch, 2, false)
		bench("100M/whole", medium, batch, 2, true)
		bench("100M/expert", medium, batch, 2, false)
	}
}

// multiplications is twice how many weights a token is multiplied by in a step: forward, for the gradient of what a
// product reads, and for that of its weight.
func multiplications(c model.Config, slots int, whole bool) float64 {
	h, layers := float64(c.HiddenSize), float64(c.Layers)
	attention := layers * h * float64(2*c.QWidth()+2*c.KVWidth())
	ffn := layers * 3 * h * float64(c.IntermediateSize)
	head := h * float64(c.VocabSize)
	if whole {
		return 6 * (attention + float64(slots)*ffn + head)
	}
	below := (layers - 1) / layers // the first layer's input has nothing below it that is trained
	return 2 * (attention*(1+below) + ffn*(1+below) + ffn*(2+below) + 2*head)
}
