package train

import (
	"context"
	"fmt"
	"math"
	"strings"

	"chorus/kernels"
	"chorus/model"
)

// ExpertRecipe is a recipe for an expert of [AnchorConfig]'s anchor.
func ExpertRecipe(seed uint64) Recipe {
	return Recipe{
		Steps: 800, WarmUp: 40, Sequences: 8, PublicSequences: 2, SplicedSequences: 2, Length: 64, LR: 4e-3,
		Beta1: 0.9, Beta2: 0.95, Clip: 1, ZLoss: 1e-5, RouterZLoss: 1e-3, RouterRate: 4, Guide: 0.1, Seed: seed, Mixed: kernels.Mixed(), Patience: 3,
	}
}

// An ExpertJob is the training of an expert against a frozen anchor.
type ExpertJob struct {
	Anchor     *model.Anchor
	AnchorCID  string
	Text       *Tokens // the member's own
	Public     *Tokens // what the router learns to tell it from
	Valid      *Tokens // of the member's own kind, in memory, to choose the best weights by; nil for those of the last step
	Recipe     Recipe
	Memory     int64          // as in [Job]
	Checkpoint string         // file for interrupted runs
	Report     func(Progress) // called after every step; may be nil
	History    *History       // receives how it went; may be nil
}

// Expert trains an expert and returns its tensors for [model.SaveExpert]. Everything of the anchor
// is frozen, the public FFN included, which stands beside the expert as it will in a mixture
// (FlexOlmo, section 3.3.1): the expert learns to work with it, and experts trained apart
// with each other.
//
// It differs from the paper in how the router learns. There, a row starts as the mean embedding of
// the domain and sees nothing but the domain, so nothing teaches it when to stay out; at the size
// of our models such rows leave the mixture worse than the anchor on some domains. Here a row
// starts as a linear discriminant between the domain and public text, some of each batch
// is public, in windows and in passages between those of the member, and the router is told which is
// which ([Recipe.Guide]). What a row then computes is an estimate of the log odds of its domain against the
// public, and the softmax over such rows, the public one being zero, is the posterior over
// all of them: rows learned apart fit together because they share what they are measured against.
// That they can tell at all, in lower layers too, they owe to the anchor ([Recipe.Topic]).
//
// If ctx ends first, it leaves a checkpoint from which the same job goes on, and returns ctx's
// error. The caller removes the checkpoint once it has saved the result.
func Expert(ctx context.Context, j ExpertJob) ([]model.Tensor, error) {
	switch {
	case j.Text.Len() == 0:
		return nil, fmt.Errorf("%w to train an expert on", ErrNoText)
	case j.Public.Len() == 0:
		return nil, fmt.Errorf("%w that is public: an expert is trained beside some", ErrNoText)
	}
	expert, err := j.Start()
	if err != nil {
		return nil, err
	}
	out, err := Job{
		Anchor: j.Anchor, Experts: []*model.Expert{expert}, Trained: func(slot int, _ string) bool { return slot == 1 },
		Texts: []Share{
			{Text: j.Text, Sequences: j.Recipe.Sequences - j.Recipe.PublicSequences - j.Recipe.SplicedSequences, Slot: 1},
			{Text: j.Public, Sequences: j.Recipe.PublicSequences},
		},
		Valid: j.Valid, Key: j.AnchorCID, Recipe: j.Recipe, Memory: j.Memory, Checkpoint: j.Checkpoint, Report: j.Report, History: j.History,
	}.Run(ctx)
	if err != nil {
		return nil, err
	}
	return out.Trained[1], nil
}

// Start returns the expert before its first step: the public FFN, with the row and the bias of the router that it starts from.
func (j ExpertJob) Start() (*model.Expert, error) {
	seed := j.Recipe.Seed
	expert, err := publicExpert(j.Anchor)
	if err != nil {
		return nil, err
	}
	own, err := meanHidden(model.NewMixture(j.Anchor), newBatcher(j.Text, j.Recipe.Length, seed), j.Recipe.Sequences)
	if err != nil {
		return nil, err
	}
	common, err := meanHidden(model.NewMixture(j.Anchor), newBatcher(j.Public, j.Recipe.Length, seed), j.Recipe.Sequences)
	if err != nil {
		return nil, err
	}
	for l := range expert.Router {
		expert.Bias[l][0] = discriminant(expert.Router[l], own[l], common[l])
	}
	return expert, nil
}

// publicExpert is an expert whose FFNs are copies of the anchor's public ones and whose router's rows and biases are zero.
func publicExpert(a *model.Anchor) (*model.Expert, error) {
	public := a.Tensors()
	return model.BuildExpert(a.Config, func(name string, shape ...int) ([]float32, error) {
		var l int
		var rest string
		if _, err := fmt.Sscanf(name, "layers.%d.%s", &l, &rest); err != nil || strings.HasPrefix(rest, "router") {
			return make([]float32, size(shape)), err
		}
		return public.Source(fmt.Sprintf("model.layers.%d.mlp.experts.0.%s", l, rest))
	})
}

// discriminant stores in row the direction from the mean hidden state b to a, of length
// [routerScale], and returns the bias, at most 0, that puts the boundary half-way between them.
func discriminant(row, a, b []float32) (bias float32) {
	for i := range row {
		row[i] = a[i] - b[i]
	}
	norm := float32(math.Sqrt(kernels.SumSquares(row)))
	if norm == 0 {
		return 0
	}
	var middle float32
	for i := range row {
		row[i] *= routerScale / norm
		middle += row[i] * (a[i] + b[i]) / 2
	}
	return min(0, -middle)
}

// routerScale is the length that a router row starts with.
const routerScale = 1

// meanBatches of text are enough for the mean of a domain's hidden states.
const meanBatches = 6

// meanHidden returns, for each layer, the mean over some of the text of what the router reads, (layers, H).
func meanHidden(m *model.Mixture, b *batcher, sequences int) ([][]float32, error) {
	c := m.Anchor.Config
	mean := make([][]float32, c.Layers)
	for l := range mean {
		mean[l] = make([]float32, c.HiddenSize)
	}
	rows := sequences * b.length
	ids, next := make([]int32, rows), make([]int32, rows)
	var pass model.Pass
	for step := range meanBatches {
		if err := b.fill(ids, next, step); err != nil {
			return nil, err
		}
		if err := check(m, ids); err != nil {
			return nil, err
		}
		m.ForwardToHead(&pass, ids, sequences, b.length)
		for l := range mean {
			for r := range rows {
				kernels.Axpy(mean[l], 1/float32(meanBatches*rows), pass.Layers[l].Hidden[r*c.HiddenSize:][:c.HiddenSize])
			}
		}
	}
	return mean, nil
}
