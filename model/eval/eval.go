// Package eval measures a model: how well it predicts text it was not trained on, beside other ways of merging
// experts, and whether it computes what another implementation computes with the same weights.
//
// Begin with [BitsPerByte], or with [Fidelity]. The unit, bits per byte of UTF-8, does not depend on the tokenizer, so
// models with different vocabularies can be compared.
package eval

import (
	"context"
	"fmt"

	"chorus/kernels"
	"chorus/model"
)

// batchTokens bounds the memory of one forward pass, and what is still computed when a context ends.
const batchTokens = 512

// BitsPerByte returns how many bits m needs per byte of text, given as one run of token ids of
// bytes bytes. The run is cut into windows of length tokens, none of which sees another, and each
// token of a window predicts the next of the run. So every token but the run's first is predicted,
// from 1 to length tokens before it, up to the last whole window; the few that are left, and the
// first, are counted at the mean of the rest.
//
// ids must be inside the vocabulary. It is an error if there is too little text for one window, or
// if the model has fewer positions than a window, or if ctx ends: that is looked for before every few windows.
func BitsPerByte(ctx context.Context, m *model.Mixture, ids []int32, bytes int64, length int) (float64, error) {
	if _, err := countWindows(m, ids, length); err != nil {
		return 0, err
	}
	if bytes < 1 {
		return 0, fmt.Errorf("%d bytes of text are too few to evaluate", bytes)
	}
	p := &Prediction{Length: length, Input: 1}
	err := forward(ctx, m, ids, length, func(logits []float32, targets []int32) {
		logp := make([]float32, len(targets))
		kernels.LogProb(logp, logits, targets, m.Anchor.Config.VocabSize, len(targets))
		p.LogProb = append(p.LogProb, logp...)
	})
	if err != nil {
		return 0, err
	}
	return p.BitsPerByte(len(ids), bytes), nil
}
