// Package eval measures how well a model predicts text it was not trained on.
//
// Begin with [BitsPerByte]. The unit, bits per byte of UTF-8, does not depend on the tokenizer, so
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
// bytes bytes. The run is cut into windows of length tokens, each predicted without sight of
// the others; the first token of a window is given, and counted at the mean of the rest.
// The error says if there is too little text for one window.
func BitsPerByte(m *model.Mixture, ids []int32, bytes int64, length int) (float64, error) {
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
