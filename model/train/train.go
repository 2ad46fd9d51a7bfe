// Package train teaches: the public anchor on public text, and an expert against the frozen
// anchor on a member's own text, as FlexOlmo does (arXiv 2507.07024, sections 3.2 and 3.3).
//
// It trains on one machine and never sends anything anywhere. Runs are deterministic: the same
// recipe, text and seed give the same weights to the bit, whether or not the run was interrupted.
//
// Begin with [ReadCorpus] and [Encode], then [Anchor] or [Expert].
package train

import (
	"context"
	"fmt"
	"math"
	"time"

	"chorus/kernels"
	"chorus/model"
)

// A Recipe says how to train. The learning rate warms up linearly over WarmUp steps and then
// falls along a cosine to a tenth.
type Recipe struct {
	Steps, WarmUp     int
	Sequences, Length int // of each step's batch, in windows and tokens
	PublicSequences   int // how many of the windows are of public text, when an expert is trained
	LR                float64
	Beta1, Beta2      float64
	WeightDecay       float64 // of matrices; never of embeddings, norms, router rows and biases
	Clip              float64 // the largest norm of a step's gradient
	ZLoss             float64 // weight of lse² of the logits
	RouterZLoss       float64 // weight of lse² of the router's logits
	Seed              uint64

	// Mixed says that products round what they read to bfloat16, see [kernels.Matrix.Mixed]. Weights, gradients, sums and all else stay float32.
	Mixed bool
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
	Loss            float64 // nats per token, of this step's batch
	TokensPerSecond float64 // since the run was started or resumed
}

// A parameter is one trained tensor with its gradient and the optimiser's moments.
type parameter struct {
	slot       int
	name       string
	shape      []int
	w, g, m, v []float32
	decay      bool
}

// A run is a training run under way.
type run struct {
	recipe  Recipe
	mixture *model.Mixture // over params
	working *model.Mixture // what steps compute with: mixture, or its copy in mixed precision
	params  []*parameter
	grads   *gradients
	batches []share
	step    int // steps done

	pass         model.Pass
	scratch      scratch
	ids, targets []int32
}

// A share is the windows of a step's batch that are of one text.
type share struct {
	*batcher
	sequences int
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
	r.ids, r.targets = make([]int32, rows), make([]int32, rows)
}

// train takes the remaining steps. When ctx ends it saves what it has and returns ctx's error.
func (r *run) train(ctx context.Context, save func() error, report func(Progress)) error {
	r.begin()
	start, first, saved := time.Now(), r.step, time.Now()
	for r.step < r.recipe.Steps {
		if ctx.Err() != nil {
			if err := save(); err != nil {
				return err
			}
			return ctx.Err()
		}
		loss := r.once()
		if math.IsNaN(loss) || math.IsInf(loss, 0) {
			return fmt.Errorf("the loss or its gradient became %v at step %d: use a lower learning rate than %v", loss, r.step, r.recipe.LR)
		}
		if report != nil {
			report(Progress{r.step, r.recipe.Steps, loss, float64((r.step-first)*len(r.ids)) / time.Since(start).Seconds()})
		}
		if time.Since(saved) > saveEvery {
			if err := save(); err != nil {
				return err
			}
			saved = time.Now()
		}
	}
	return nil
}

const saveEvery = 10 * time.Second

// once takes one step and returns its loss in nats per token, or the length of its gradient if that is
// no finite number.
func (r *run) once() float64 {
	c, rows := r.recipe, len(r.ids)
	at := 0
	for _, b := range r.batches {
		n := b.sequences * c.Length
		b.fill(r.ids[at:at+n], r.targets[at:at+n], r.step)
		at += n
	}
	r.working.ForwardToHead(&r.pass, r.ids, c.Sequences, c.Length)
	z := zLoss{logits: float32(c.ZLoss), router: float32(c.RouterZLoss / float64(rows))}
	loss := backward(r.working, &r.pass, r.ids, r.targets, z, r.grads, &r.scratch)
	var norm float64
	for _, p := range r.params {
		norm += kernels.SumSquares(p.g)
	}
	norm = math.Sqrt(norm)
	clip := float32(1)
	if norm > c.Clip {
		clip = float32(c.Clip / norm)
	}
	for _, p := range r.params {
		a := kernels.Adam{LR: c.rate(r.step), Beta1: c.Beta1, Beta2: c.Beta2, Eps: 1e-8, Step: r.step + 1, Clip: clip}
		if p.decay {
			a.WeightDecay = c.WeightDecay
		}
		kernels.AdamW(p.w, p.m, p.v, p.g, a)
	}
	if r.recipe.Mixed {
		r.grads.refill(r.working, r.mixture)
	}
	r.step++
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		return norm
	}
	return loss / float64(rows)
}
