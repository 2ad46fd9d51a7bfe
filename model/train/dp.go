package train

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	mathrand "math/rand/v2"
	"os"

	"chorus/kernels"
	"chorus/model"
	"chorus/model/train/privacy"
)

// Poisson is the sampler that the account of a [Guarantee] holds for: each unit is in each step's batch with one probability,
// independently of everything else.
const Poisson = "poisson"

// A Guarantee is what private training promises to each unit of its text, and all that the promise follows from. For any two texts
// of which one has one unit more, and any set of experts, the probabilities that training ends in that set are p ≤ eᵋ·p′ + δ,
// whichever of the two p is of.
type Guarantee struct {
	Unit       string  // as [Units] has it
	Sampler    string  // [Poisson]
	Rate       float64 // q: with which probability a unit is in a step's batch
	Noise      float64 // σ: the noise's standard deviation in the sum of a step's gradients, in multiples of Clip
	Clip       float64 // C: the largest norm of a unit's gradient, of the FFNs, the router's rows and their biases together
	Steps      int     // T
	StartNoise float64 // likewise of the one mean that the router's rows start from
	Delta      float64
	Epsilon    float64 // rounded up to three digits after the point
}

// Account returns the ε that follows from g's other numbers, rounded up, and an error if none does.
func (g Guarantee) Account() (float64, error) {
	if g.Sampler != Poisson {
		return 0, fmt.Errorf("the sampler is %q: the account holds for %q alone", g.Sampler, Poisson)
	}
	e := privacy.Epsilon(g.Delta, privacy.Improved, privacy.Mechanism{Rate: 1, Noise: g.StartNoise, Steps: 1},
		privacy.Mechanism{Rate: g.Rate, Noise: g.Noise, Steps: g.Steps})
	if e = math.Ceil(e*1000) / 1000; math.IsInf(e, 1) || g.Steps < 1 || !(g.Clip > 0) || math.IsInf(g.Clip, 1) {
		return 0, errors.New("no ε follows from these numbers")
	}
	return e, nil
}

// A PrivateRecipe says how to train an expert privately. In its Recipe, Clip is the largest norm of a unit's gradient; Sequences, less those that
// are public, is how many windows the units of a step have at most on average; Micro bounds those that are computed at a time; Patience and
// Evaluate say nothing.
type PrivateRecipe struct {
	Recipe
	Units   int // in a step's batch, on average
	Windows int // of one unit in a batch, at most
}

// ExpertPrivately returns a recipe for a private expert of [AnchorConfig]'s anchor: large batches and few steps, for the noise
// of a step is as large whatever the number of units that it hides.
func ExpertPrivately(seed uint64) PrivateRecipe {
	r := PrivateRecipe{Recipe: ExpertRecipe(seed), Units: 256, Windows: 2}
	r.Steps, r.WarmUp, r.LR, r.Clip, r.PublicSequences, r.SplicedSequences, r.Micro, r.Patience = 200, 10, 2e-3, 0.1, 16, 0, 64, 0
	r.Guide, r.RouterRate = 0, 0 // what the router's rows learn of units would take from what clipping leaves to the FFNs
	r.Sequences = r.Units*r.Windows + r.PublicSequences
	return r
}

// ownShare is how much of a step's gradient is of the member's own text, as of what [ExpertRecipe] sees.
const ownShare = 5.0 / 8

// startShare is which part of ε the router's start would cost alone. Together with the steps it costs much less than that.
const startShare = 1.0 / 8

// A PrivateJob is the training of an expert that tells little of any unit of its text.
type PrivateJob struct {
	Anchor         *model.Anchor
	AnchorCID      string
	Unit           string    // what the units of Text are, as [Units] has it
	Text           []*Tokens // the member's own, unit by unit
	Public         *Tokens   // what the router learns to tell it from; nothing protects it
	Epsilon, Delta float64
	Recipe         PrivateRecipe
	Checkpoint     string         // file for interrupted runs; it is as secret as the text
	Report         func(Progress) // called after every step; what it is told is as secret as the text; may be nil
	History        *History       // receives how it went, as secret as that; may be nil
}

// ErrVoid is returned, wrapped, where training could go on but its guarantee would not hold.
var ErrVoid = errors.New("the guarantee would not hold")

// Plan finds the noise with which training by r on so many units keeps to epsilon and delta.
func (r PrivateRecipe) Plan(unit string, units int, epsilon, delta float64) (Guarantee, error) {
	g := Guarantee{Unit: unit, Sampler: Poisson, Rate: min(1, float64(r.Units)/float64(max(1, units))), Clip: r.Clip, Steps: r.Steps, Delta: delta}
	switch {
	case units == 0:
		return g, fmt.Errorf("%w to train an expert on", ErrNoText)
	case r.Units < 1 || r.Windows < 1 || r.PublicSequences < 1 || r.Steps < 1:
		return g, fmt.Errorf("a recipe of %d units, %d windows, %d public windows and %d steps: expected 1 or more of each", r.Units, r.Windows, r.PublicSequences, r.Steps)
	case !(delta > 0 && delta*float64(units) < 1):
		return g, fmt.Errorf("%w: δ is %g, and of %d units that allows for publishing one whole: expected less than %.1g", ErrVoid, delta, units, 1/float64(units))
	case !(r.Clip > 0) || math.IsInf(r.Clip, 1):
		return g, fmt.Errorf("%w: gradients are clipped to %g", ErrVoid, r.Clip)
	}
	var err error
	if g.StartNoise, err = privacy.Noise(epsilon*startShare, delta, 1, 1); err == nil {
		g.Noise, err = privacy.Noise(epsilon, delta, g.Rate, r.Steps, privacy.Mechanism{Rate: 1, Noise: g.StartNoise, Steps: 1})
	}
	if err != nil {
		return g, fmt.Errorf("%w: no noise is enough for ε %g with δ %g in %d steps", ErrVoid, epsilon, delta, r.Steps)
	}
	g.Epsilon, err = g.Account()
	return g, err
}

// plan is that of a job.
func (j PrivateJob) plan() (Guarantee, error) {
	if j.Public.Len() == 0 {
		return Guarantee{}, fmt.Errorf("%w that is public: an expert is trained beside some", ErrNoText)
	}
	return j.Recipe.Plan(j.Unit, len(j.Text), j.Epsilon, j.Delta)
}

// PrivateExpert trains an expert as [Expert] does, with differential privacy for the units of its text (DP-SGD, Abadi et al. 2016,
// with AdamW in place of SGD), and returns its tensors for [model.SaveExpert] and what it guarantees.
//
// All that it takes from the text is sums over units with Gaussian noise: in each step that of the gradients of a Poisson sample, where a
// unit's gradient, of some of its windows and of all tensors of the expert together, is clipped to Clip; and once, before, that of the
// mean hidden states which router rows start from. Whatever follows from these sums and from public text costs no more.
//
// The guarantee is about the units of Text and what [model.SaveExpert] writes. It does not cover Public, checkpoints and reports of
// progress, the number of units, which Rate tells, or what is measured on text that was held out. Several experts that were
// trained on the same units, published or chosen among by their looks, add up their ε and δ.
//
// If ctx ends first, it leaves a checkpoint from which the same job goes on, and returns ctx's error. A checkpoint of another job
// is refused rather than overwritten, for what was learned from other text is under no account of this one's.
func PrivateExpert(ctx context.Context, j PrivateJob) ([]model.Tensor, Guarantee, error) {
	g, err := j.plan()
	if err != nil {
		return nil, g, err
	}
	for _, t := range j.Text {
		if err := check(model.NewMixture(j.Anchor), t.IDs); err != nil {
			return nil, g, err
		}
	}
	p := &private{guarantee: g, text: j.Text, recipe: j.Recipe, public: newBatcher(j.Public, j.Recipe.Length, j.Recipe.Seed)}
	expert, err := publicExpert(j.Anchor)
	if err != nil {
		return nil, g, err
	}
	if _, err := os.Stat(j.Checkpoint); errors.Is(err, fs.ErrNotExist) { // otherwise the rows are in there
		if err := p.start(model.NewMixture(j.Anchor), expert); err != nil {
			return nil, g, err
		}
	}
	out, err := Job{
		Anchor: j.Anchor, Experts: []*model.Expert{expert}, Trained: func(slot int, _ string) bool { return slot == 1 },
		Texts: []Share{{Text: j.Public, Sequences: j.Recipe.PublicSequences}}, Key: []any{j.AnchorCID, g, j.Recipe, fingerprint(j.Text)},
		Recipe: j.Recipe.Recipe, Checkpoint: j.Checkpoint, Report: j.Report, History: j.History, private: p,
	}.Run(ctx)
	if err != nil {
		return nil, g, err
	}
	return out.Trained[1], g, nil
}

// private is what a private run has beside any other.
type private struct {
	guarantee Guarantee
	recipe    PrivateRecipe
	text      []*Tokens
	public    *batcher
	sum       *noisySum
	parts     [][]float32    // the gradients of all parameters, in one order
	own       [][]float32    // likewise: the noisy mean over units
	into      *gradients     // where the gradient of one unit goes: parts
	recorded  *gradients     // tells the backward pass that they are computed elsewhere
	layers    []unitBackward // (layers)

	ids, targets []int32 // of a group of units
	of           []int8  // the slot that each is of
	group        []drawn
}

// A unitBackward is what the backward pass found of a layer's expert for each row of a group, from which the gradient of each
// unit follows.
type unitBackward struct {
	out, gate, up, p []float32 // the gradients of its output, (rows, H), of both projections, (rows, I), of the router's logits, (rows, E)
	in, act, hidden  []float32 // what they were of
}

// drawn is a unit's place in a group.
type drawn struct {
	from, to int // rows
	counted  int // of them, those that have a next token of their own
}

// begin prepares r's private steps.
func (p *private) begin(r *run) {
	var sizes []int
	for _, q := range r.params {
		p.parts, p.own, sizes = append(p.parts, q.g), append(p.own, make([]float32, len(q.g))), append(sizes, len(q.g))
	}
	p.sum, p.into = newNoisySum(p.guarantee.Clip, sizes...), r.grads
	p.recorded = &gradients{}
	for range r.grads.layers {
		slots := []slotGradients{{}, {gate: []float32{}, up: []float32{}, down: []float32{}}}
		p.recorded.layers = append(p.recorded.layers, layerGradients{slots: slots})
	}
	p.layers = make([]unitBackward, len(r.grads.layers))
}

// once takes one step and returns its loss in nats per token.
func (p *private) once(r *run) (float64, error) {
	var loss float64
	var counted int
	source := secret()
	for sample := poisson(len(p.text), p.guarantee.Rate, source); len(sample) > 0; {
		sample = p.fill(sample, source)
		loss += p.addGroup(r)
		for _, u := range p.group {
			counted += u.counted
		}
	}
	rows := p.recipe.PublicSequences * p.recipe.Length
	if err := p.public.fill(grow(&p.ids, rows), grow(&p.targets, rows), r.step); err != nil {
		return 0, err
	}
	r.working.ForwardToHead(&r.pass, p.ids, p.recipe.PublicSequences, p.recipe.Length)
	loss += backward(r.working, &r.pass, p.ids, p.targets, r.aux(rows, p.slots(0)), r.grads, &r.scratch)
	p.sum.release(p.guarantee.Noise, ownShare/(p.guarantee.Rate*float64(len(p.text))), p.own...)
	for i, g := range p.parts {
		for k, v := range p.own[i] {
			g[k] = (1-ownShare)*g[k] + v
		}
	}
	r.update(1)
	return loss / float64(counted+rows), nil
}

// slots are those of the rows of p.ids, whose text is of one slot.
func (p *private) slots(slot int8) []int8 {
	for i := range grow(&p.of, len(p.ids)) {
		p.of[i] = slot
	}
	return p.of
}

// fill puts the windows of the first units of a sample into one group, as many as there is room for, and returns the rest.
func (p *private) fill(sample []int, source *mathrand.ChaCha8) (rest []int) {
	length := p.recipe.Length
	p.ids, p.targets, p.group = p.ids[:0], p.targets[:0], p.group[:0]
	for n, unit := range sample {
		if n > 0 && len(p.ids)+p.recipe.Windows*length > p.recipe.micro()*length {
			return sample[n:]
		}
		u := drawn{from: len(p.ids)}
		p.ids, p.targets, u.counted = appendWindows(p.ids, p.targets, p.text[unit].IDs, length, p.recipe.Windows, source)
		u.to = len(p.ids)
		p.group = append(p.group, u)
	}
	return nil
}

// appendWindows appends some of a unit's windows, at most so many, drawn without replacement, and returns how many of their rows count.
// What a window has beyond the unit's end is its beginning again, and does not count.
func appendWindows(ids, targets, text []int32, length, most int, source *mathrand.ChaCha8) (_, _ []int32, counted int) {
	windows := max(1, (len(text)-1+length-1)/length)
	for _, w := range mathrand.New(source).Perm(windows)[:min(most, windows)] {
		for i := range length {
			at := w*length + i
			ids = append(ids, text[at%len(text)])
			if at+1 < len(text) {
				targets = append(targets, text[at+1])
				counted++
			} else {
				targets = append(targets, -1)
			}
		}
	}
	return ids, targets, counted
}

// addGroup adds the clipped gradient of each unit of the group to the sum, and returns the sum of their rows' losses.
func (p *private) addGroup(r *run) float64 {
	rows := len(p.ids)
	r.working.ForwardToHead(&r.pass, p.ids, rows/p.recipe.Length, p.recipe.Length)
	r.scratch.after = func(l int, t *model.LayerPass) { p.layers[l].record(t, &r.scratch) }
	loss := backward(r.working, &r.pass, p.ids, p.targets, r.aux(rows, p.slots(1)), p.recorded, &r.scratch)
	r.scratch.after = nil
	for _, u := range p.group {
		if u.counted == 0 {
			continue
		}
		for l := range p.layers {
			p.layers[l].gradient(&p.into.layers[l].slots[1], r.working.Slots[1], l, u.from, u.to)
		}
		// The pass was of the mean over all rows; a unit's gradient is of the mean over its own.
		p.sum.add(float64(rows)/float64(u.counted), p.parts...)
	}
	return loss
}

// record keeps what the backward pass of a layer left in s.
func (b *unitBackward) record(t *model.LayerPass, s *scratch) {
	w := &t.Work[1]
	keep := func(dst *[]float32, src []float32) { *dst = append((*dst)[:0], src...) }
	keep(&b.out, s.dOut)
	keep(&b.gate, s.dGate)
	keep(&b.up, s.dUp)
	keep(&b.p, s.dP)
	keep(&b.in, w.In)
	keep(&b.act, w.Act)
	keep(&b.hidden, t.Hidden)
}

// gradient stores in g the gradients of the expert's tensors in layer l over some rows.
func (b *unitBackward) gradient(g *slotGradients, slot *model.Slot, l, from, to int) {
	f, n := &slot.FFN[l], to-from
	h, i := f.Gate.In, f.Gate.Out
	kernels.SetGradWeight(g.down, b.out[from*h:], b.act[from*i:], f.Down.Matrix, n)
	kernels.SetGradWeight(g.gate, b.gate[from*i:], b.in[from*h:], f.Gate.Matrix, n)
	kernels.SetGradWeight(g.up, b.up[from*i:], b.in[from*h:], f.Up.Matrix, n)
	kernels.Zero(g.router)
	kernels.Zero(g.bias)
	e := len(b.p) * h / len(b.hidden)
	for r := from; r < to; r++ {
		d := b.p[r*e+1]
		kernels.Axpy(g.router, d, b.hidden[r*h:][:h])
		if slot.Bias[l][0] <= 0 {
			g.bias[0] += d
		}
	}
}
