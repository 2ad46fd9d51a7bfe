// Package train teaches: the public anchor on public text, and an expert against the frozen
// anchor on a member's own text, as FlexOlmo does (arXiv 2507.07024, sections 3.2 and 3.3).
//
// It trains on one machine and never sends anything anywhere. Runs are deterministic: the same
// recipe, text and seed give the same weights to the bit, whether or not the run was interrupted.
//
// Begin with [Prepare], or for text that fits in memory with [ReadCorpus] and [Encode]; then [Anchor] or [Expert].
package train

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"chorus/kernels"
	"chorus/model"
)

// A Recipe says how to train. The learning rate warms up linearly over WarmUp steps and then
// falls along a cosine to a tenth.
type Recipe struct {
	Steps     int `json:"steps"`
	WarmUp    int `json:"warm_up"`
	Sequences int `json:"sequences"` // of each step's batch, in windows
	Length    int `json:"length"`    // of each of them, in tokens

	// When an expert is trained, so many of the windows are of public text, and so many others of passages of the member's own and of public
	// text by turns: documents do cross domains, and routers are to follow them.
	PublicSequences  int `json:"public_sequences"`
	SplicedSequences int `json:"spliced_sequences"`

	LR          float64 `json:"lr"`
	RouterRate  float64 `json:"router_rate"` // times LR is the learning rate of an expert's router rows and biases; 0 says 1
	Beta1       float64 `json:"beta1"`
	Beta2       float64 `json:"beta2"`
	WeightDecay float64 `json:"weight_decay"`  // of matrices; never of embeddings, norms, router rows and biases
	Clip        float64 `json:"clip"`          // the largest norm of a step's gradient
	ZLoss       float64 `json:"z_loss"`        // weight of lse² of the logits
	RouterZLoss float64 `json:"router_z_loss"` // weight of lse² of the router's logits
	Guide       float64 `json:"guide"`         // weight of the routers' cross-entropy against the slot that a token's text is of, see [Share]
	Topic       float64 `json:"topic"`         // weight of telling from the first layer what the text so far is about, when an anchor is trained
	Renamed     float64 `json:"renamed"`       // the share of windows in which the tokens change places with others, when an anchor is trained, see [run.rename]
	Seed        uint64  `json:"seed"`

	// Mixed says that products round what they read to bfloat16, see [kernels.Matrix.Mixed]. Weights, gradients, sums and all else stay float32.
	Mixed bool `json:"mixed"`

	// Micro is how many of a batch's windows are computed at a time, if that is not 0: the gradients of all add up to the batch's, in the
	// memory of so few. Only rounding tells it from a batch that is computed at once.
	Micro int `json:"micro"`

	// Evaluate is after how many steps the loss on text to choose by is measured, if there is such text; 0 means a tenth of all. Patience is after how
	// many measurements without a better one training stops; 0 means never. What comes out are the weights that were best.
	Evaluate int `json:"evaluate"`
	Patience int `json:"patience"`
}

// micro is how many windows are computed at a time.
func (r Recipe) micro() int {
	if r.Micro > 0 {
		return min(r.Micro, r.Sequences)
	}
	return r.Sequences
}

// rate returns the learning rate of a step, counted from 0.
func (r Recipe) rate(step int) float64 {
	if step < r.WarmUp {
		return r.LR * float64(step+1) / float64(r.WarmUp)
	}
	t := float64(step-r.WarmUp) / float64(max(1, r.Steps-r.WarmUp))
	return r.LR * (0.1 + 0.9*(1+math.Cos(math.Pi*t))/2)
}

// Progress is what a run reports after each step.
type Progress struct {
	Step, Steps     int
	Loss            float64       // nats per token, of this step's batch
	BitsPerByte     float64       // the same, by the texts' mean length of a token; 0 where that is not known
	Valid           float64       // bits per byte of the text to choose by, when last measured; 0 before
	TokensPerSecond float64       // since the run was started or resumed
	Left            time.Duration // at this pace, if it does not stop early
}

// A parameter is one trained tensor with its gradient and the optimiser's moments.
type parameter struct {
	slot       int
	name       string
	shape      []int
	w, g, m, v []float32
	best       []float32 // w when the loss on text to choose by was lowest; nil without such text
	decay      bool
	router     bool // a row or a bias of an expert's router
}

// A run is a training run under way.
type run struct {
	recipe  Recipe
	mixture *model.Mixture // over params
	working *model.Mixture // what steps compute with: mixture, or its copy in mixed precision
	params  []*parameter
	grads   *gradients
	batches []share
	valid   *Tokens // to choose by; nil for none
	memory  int64   // bytes that a pass may keep
	step    int     // steps done
	state   state

	private *private // nil unless the run is private
	topic   *topic   // nil unless there is one

	pass         model.Pass
	scratch      scratch
	ids, targets []int32 // (rows)
	slots        []int8  // (rows)
}

// A share is the windows of a step's batch that are of one text.
type share struct {
	*batcher
	sequences    int
	slot         int8
	ids, targets []int32 // its windows, and then those that it is spliced of
}

// begin prepares the memory of steps.
func (r *run) begin() {
	r.grads = gradientsOf(r.mixture, func(slot int, name string) []float32 {
		for _, p := range r.params {
			if p.slot == slot && p.name == name {
				return p.g
			}
		}
		return nil
	})
	r.working = r.mixture
	if r.recipe.Mixed {
		r.working = r.mixture.Mixed()
	}
	rows := r.recipe.Sequences * r.recipe.Length
	r.ids, r.targets, r.slots = make([]int32, rows), make([]int32, rows), make([]int8, rows)
	r.pass.Inputs = r.mixture.PassBytes(r.recipe.micro()*r.recipe.Length) > r.memory
	if r.private != nil {
		r.private.begin(r)
	}
}

// DefaultMemory is how many bytes a pass may keep unless a job says otherwise.
const DefaultMemory = 1 << 30

// train takes the remaining steps. When ctx ends it saves what it has and returns ctx's error.
func (r *run) train(ctx context.Context, save func() error, report func(Progress)) error {
	r.begin()
	start, first, saved, saving := time.Now(), r.step, time.Now(), time.Duration(0)
	trained := r.state.Seconds
	saveNow := func() error {
		begun := time.Now()
		r.state.Seconds = trained + begun.Sub(start).Seconds()
		err := save()
		saved, saving = time.Now(), time.Since(begun)
		return err
	}
	for {
		err := r.evaluate(ctx)
		switch {
		case r.done():
			return saveNow()
		case ctx.Err() != nil:
			return cmp.Or(saveNow(), ctx.Err())
		case err != nil:
			return err
		}
		loss, err := r.once()
		if err != nil {
			return err
		}
		if math.IsNaN(loss) || math.IsInf(loss, 0) {
			return fmt.Errorf("the loss or its gradient became %v at step %d: use a lower learning rate than %v", loss, r.step, r.recipe.LR)
		}
		r.note(loss)
		if report != nil {
			took, done := time.Since(start), r.step-first
			report(Progress{
				Step: r.step, Steps: r.recipe.Steps, Loss: loss, BitsPerByte: r.bitsPerByte(loss), Valid: r.state.Last,
				TokensPerSecond: float64(done*len(r.ids)) / took.Seconds(), Left: took / time.Duration(done) * time.Duration(r.recipe.Steps-r.step),
			})
		}
		if time.Since(saved) > max(saveEvery, 20*saving) { // which takes no more than a twentieth of the time
			if err := saveNow(); err != nil {
				return err
			}
		}
	}
}

// saveEvery is how much of a run an accident may cost. Only tests change it.
var saveEvery = 10 * time.Second

// bitsPerByte turns the loss of a batch into bits per byte.
func (r *run) bitsPerByte(loss float64) float64 {
	var tokens, bytes float64
	for _, b := range r.batches {
		tokens += float64(b.sequences)
		bytes += float64(b.sequences) * float64(b.text.Bytes) / float64(b.text.Len())
	}
	if bytes == 0 {
		return 0
	}
	return loss / math.Ln2 * tokens / bytes
}

// once takes one step and returns its loss in nats per token, or the length of its gradient if that is
// no finite number.
func (r *run) once() (float64, error) {
	if r.private != nil {
		return r.private.once(r)
	}
	c, rows := r.recipe, len(r.ids)
	if err := r.draw(); err != nil {
		return 0, err
	}
	if r.topic != nil {
		r.topic.begin(c, r.step)
	}
	if err := check(r.mixture, r.ids, r.targets); err != nil {
		return 0, err
	}
	if c.Renamed > 0 {
		r.rename()
	}
	var loss float64
	for s := 0; s < c.Sequences; s += c.micro() {
		n := min(c.micro(), c.Sequences-s)
		ids, targets := r.ids[s*c.Length:][:n*c.Length], r.targets[s*c.Length:]
		r.working.ForwardToHead(&r.pass, ids, n, c.Length)
		r.grads.adds = s > 0
		loss += backward(r.working, &r.pass, ids, targets, r.aux(rows, r.slots[s*c.Length:][:n*c.Length]), r.grads, &r.scratch)
	}
	var norm float64
	for _, p := range r.params {
		norm += kernels.SumSquares(p.g)
	}
	norm = math.Sqrt(norm)
	clip := float32(1)
	if norm > c.Clip {
		clip = float32(c.Clip / norm)
	}
	r.update(clip)
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		return norm, nil
	}
	return loss / float64(rows), nil
}

// aux is that of rows whose text is of the given slots, in a batch of so many rows.
func (r *run) aux(rows int, slots []int8) aux {
	c := r.recipe
	return aux{
		logits: float32(c.ZLoss), router: float32(c.RouterZLoss / float64(rows)), guide: float32(c.Guide / float64(rows)),
		slots: slots, topic: r.topic, rows: rows,
	}
}

// update ends a step: it changes all parameters by clip times their gradients.
func (r *run) update(clip float32) {
	c := r.recipe
	for _, p := range r.params {
		a := kernels.Adam{LR: c.rate(r.step), Beta1: c.Beta1, Beta2: c.Beta2, Eps: 1e-8, Step: r.step + 1, Clip: clip}
		if c.RouterRate > 0 && p.router {
			a.LR *= c.RouterRate
		}
		if p.decay {
			a.WeightDecay = c.WeightDecay
		}
		kernels.AdamW(p.w, p.m, p.v, p.g, a)
		if strings.HasSuffix(p.name, ".router.bias") { // one above 0 counts as 0, and would never come back
			p.w[0] = min(0, p.w[0])
		}
	}
	if r.recipe.Mixed {
		r.grads.refill(r.working, r.mixture)
	}
	r.step++
}

// check refuses ids that m has no place for.
func check(m *model.Mixture, texts ...[]int32) error {
	vocab := m.Anchor.Config.VocabSize
	for _, ids := range texts {
		for _, id := range ids {
			if id < 0 || int(id) >= vocab {
				return fmt.Errorf("the text has a token %d, expected 0 to %d: it was made for another tokenizer, or is damaged", id, vocab-1)
			}
		}
	}
	return nil
}
