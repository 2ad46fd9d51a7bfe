package train

import (
	"cmp"
	"context"
	"fmt"

	"chorus/model"
)

// A Job is the training of some tensors of a mixture on some texts. [Anchor] and [Expert] are the two that members run; others
// make what those are compared with.
type Job struct {
	Anchor  *model.Anchor
	Experts []*model.Expert // in slots 1, 2, …; every slot works on every token

	// Trained says which tensors are trained, by their names in an anchor's checkpoint, which is slot 0, or in the blob of the expert in
	// another slot. A tensor that is not costs no gradient.
	Trained func(slot int, name string) bool

	Texts  []Share
	Valid  *Tokens // text to choose the best weights by, in memory; nil for those of the last step
	Key    any     // what the tensors' first values follow from, for a checkpoint to be told from another's
	Recipe Recipe

	// Memory is how many bytes a forward pass may keep for the backward pass, 0 for [DefaultMemory]. One that would take more keeps each
	// layer's input and computes the layer again when its gradients are due, to the same bits, in a third more time. [Recipe.Micro] takes less
	// yet.
	Memory int64

	Checkpoint string         // file for interrupted runs
	Report     func(Progress) // called after every step; may be nil
	History    *History       // receives how it went; may be nil

	private *private
}

// A Share is a text and how many windows of each step's batch are of it, beside those that [Recipe.SplicedSequences] splices of the first two.
type Share struct {
	Text      *Tokens
	Sequences int
	Slot      int // that the text is of, which [Recipe.Guide] teaches routers
}

// A Result is what a [Job] leaves: the mixture, and of each slot the tensors that were trained.
type Result struct {
	Mixture *model.Mixture
	Trained [][]model.Tensor
}

// Run trains. The job's anchor and experts stay as they are. If ctx ends first, it leaves a checkpoint from which the same job goes on, and
// returns ctx's error. The caller removes the checkpoint once it has saved the result.
func (j Job) Run(ctx context.Context) (*Result, error) {
	r := &run{recipe: j.Recipe, memory: cmp.Or(j.Memory, DefaultMemory), private: j.private}
	var texts []*Tokens
	windows := j.Recipe.SplicedSequences
	for _, s := range j.Texts {
		windows += s.Sequences
		if s.Text.Len() == 0 {
			return nil, fmt.Errorf("%w to train on", ErrNoText)
		}
		r.batches = append(r.batches, share{batcher: newBatcher(s.Text, j.Recipe.Length, j.Recipe.Seed), sequences: s.Sequences, slot: int8(s.Slot)})
		texts = append(texts, s.Text)
	}
	for i, s := range j.Texts {
		if s.Sequences < 0 || windows != j.Recipe.Sequences && j.private == nil || j.Recipe.SplicedSequences > 0 && len(j.Texts) < 2 {
			return nil, fmt.Errorf("a batch of %d windows, %d of text %d and %d spliced of the first two: they do not add up", j.Recipe.Sequences, s.Sequences, i, j.Recipe.SplicedSequences)
		}
	}
	if j.Valid != nil && len(j.Valid.IDs) > 1 {
		r.valid = j.Valid
		texts = append(texts, j.Valid)
	}
	anchor, experts := j.Anchor, append([]*model.Expert(nil), j.Experts...)
	source := func(slot int, of model.Tensors) model.Source {
		return func(name string, shape ...int) ([]float32, error) {
			first, err := of.Source(name, shape...)
			if err != nil || !j.Trained(slot, name) {
				return first, err
			}
			p := newParameter(slot, name, shape)
			copy(p.w, first)
			r.params = append(r.params, p)
			return p.w, nil
		}
	}
	var err error
	public := anchor.Tensors()
	whole := j.trains(0, public)
	if whole {
		if anchor, err = model.BuildAnchor(anchor.Config, source(0, public)); err != nil {
			return nil, err
		}
	}
	for i, e := range experts {
		if all := e.Tensors(); j.trains(i+1, all) {
			if experts[i], err = model.BuildExpert(anchor.Config, source(i+1, all)); err != nil {
				return nil, err
			}
		}
	}
	r.mixture = model.NewMixture(anchor, experts...)
	if whole && j.Recipe.Topic > 0 {
		r.topic = newTopic(j.Recipe, anchor.Config.VocabSize, anchor.Config.HiddenSize)
		r.params = append(r.params, r.topic.parameter)
	}
	if err := r.run(ctx, j.Checkpoint, fingerprint(texts, j.Key, j.Recipe), j.Report); err != nil {
		return nil, err
	}
	if j.History != nil {
		*j.History = r.state.History
	}
	out := &Result{Mixture: r.mixture, Trained: make([][]model.Tensor, 1+len(experts))}
	for _, p := range r.params {
		if r.topic != nil && p == r.topic.parameter {
			continue
		}
		out.Trained[p.slot] = append(out.Trained[p.slot], model.Tensor{Name: p.name, Shape: p.shape, Values: p.w})
	}
	return out, nil
}

// trains reports whether any tensor of a slot is trained.
func (j Job) trains(slot int, tensors model.Tensors) bool {
	for name := range tensors {
		if j.Trained(slot, name) {
			return true
		}
	}
	return false
}
