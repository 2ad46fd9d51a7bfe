// Package eval measures a model: how well it predicts text it was not trained on, beside other ways of merging
// experts, and whether it computes what another implementation computes with the same weights.
//
// Begin with [BitsPerByte], or with [Fidelity]. The unit, bits per byte of UTF-8, does not depend on the tokenizer, so
// models with different vocabularies can be compared.
package eval

import (
	"fmt"
	"math"

	"chorus/kernels"
	"chorus/model"
)

// batchTokens bounds the memory of one forward pass.
const batchTokens = 2048

// BitsPerByte returns how many bits m needs per byte of text, given as one run of token ids of
// bytes bytes. The run is cut into windows of length tokens, none of which sees another, and each
// token of a window predicts the next of the run. So every token but the run's first is predicted,
// from 1 to length tokens before it, up to the last whole window; the few that are left, and the
// first, are counted at the mean of the rest.
//
// ids must be inside the vocabulary. It is an error if there is too little text for one window, or
// if the model has fewer positions than a window.
func BitsPerByte(m *model.Mixture, ids []int32, bytes int64, length int) (float64, error) {
	if limit := m.Anchor.Config.MaxPositions; length < 1 || length > limit {
		return 0, fmt.Errorf("windows of %d tokens, expected 1 to %d", length, limit)
	}
	windows := (len(ids) - 1) / length
	if windows < 1 || bytes < 1 {
		return 0, fmt.Errorf("%d tokens of text are too few to evaluate: at least %d are needed", len(ids), length+1)
	}
	var pass model.Pass
	var nats float64
	per := max(1, batchTokens/length)
	vocab := m.Anchor.Config.VocabSize
	logp := make([]float32, per*length)
	for w := 0; w < windows; w += per {
		n := min(per, windows-w)
		at := w * length
		m.Forward(&pass, ids[at:at+n*length], n, length)
		kernels.LogProb(logp, pass.Logits, ids[at+1:at+1+n*length], vocab, n*length)
		for _, v := range logp[:n*length] {
			nats -= float64(v)
		}
	}
	bitsPerToken := nats / math.Ln2 / float64(windows*length)
	return bitsPerToken * float64(len(ids)) / float64(bytes), nil
}
