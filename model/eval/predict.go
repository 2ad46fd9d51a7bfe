package eval

import (
	"context"
	"fmt"
	"math"

	"chorus/kernels"
	"chorus/model"
)

// A Prediction is what a model made of a text, given as one run of token ids and cut into windows as by [BitsPerByte]. The first Input tokens of
// a window are what is known of it: by them whoever merges models decides how, and they are not scored.
type Prediction struct {
	Length  int       // of a window, in tokens
	Input   int       // tokens, at least 1
	LogProb []float32 // (windows, Length) ln of the probability of the token that follows each of a window
	Correct []bool    // (windows, Length) whether that was the likeliest
}

// Predict returns what m predicts of ids in windows of length tokens, of which the first input are known. It fails as [BitsPerByte] does.
func Predict(m *model.Mixture, ids []int32, length, input int) (*Prediction, error) {
	vocab := m.Anchor.Config.VocabSize
	p := &Prediction{Length: length, Input: input}
	return p, forward(context.Background(), m, ids, length, func(logits []float32, targets []int32) {
		logp := make([]float32, len(targets))
		kernels.LogProb(logp, logits, targets, vocab, len(targets))
		p.LogProb = append(p.LogProb, logp...)
		for r, t := range targets {
			p.Correct = append(p.Correct, likeliest(logits[r*vocab:][:vocab]) == int(t))
		}
	})
}

// BitsPerByte returns the bits per byte of a text of so many tokens and bytes: those not scored count as the mean of the rest.
func (p *Prediction) BitsPerByte(tokens int, bytes int64) float64 {
	var nats float64
	for w := range p.Windows() {
		for _, v := range p.scored(w) {
			nats -= float64(v)
		}
	}
	return nats / math.Ln2 / float64(p.Windows()*(p.Length-p.Input+1)) * float64(tokens) / float64(bytes)
}

// Accuracy returns the share of scored tokens that were the likeliest.
func (p *Prediction) Accuracy() float64 {
	n := 0
	for i, c := range p.Correct {
		if c && i%p.Length >= p.Input-1 {
			n++
		}
	}
	return float64(n) / float64(p.Windows()*(p.Length-p.Input+1))
}

// Windows returns the number of windows.
func (p *Prediction) Windows() int { return len(p.LogProb) / p.Length }

// scored are the scored ones of a window's LogProb.
func (p *Prediction) scored(window int) []float32 {
	return p.LogProb[window*p.Length:][p.Input-1 : p.Length]
}

// losses are the mean losses in nats on the input of a window under each of several predictions.
func losses(parts []*Prediction, window int) []float64 {
	l := make([]float64, len(parts))
	for i, p := range parts {
		n := p.Input - 1
		for _, v := range p.LogProb[window*p.Length:][:n] {
			l[i] -= float64(v) / float64(n)
		}
	}
	return l
}

// Select returns of each window what the prediction says that choose names.
func Select(parts []*Prediction, choose func(window int) int) *Prediction {
	out := &Prediction{Length: parts[0].Length, Input: parts[0].Input}
	for w := range parts[0].Windows() {
		p, at := parts[choose(w)], w*out.Length
		out.LogProb = append(out.LogProb, p.LogProb[at:][:out.Length]...)
		out.Correct = append(out.Correct, p.Correct[at:][:out.Length]...)
	}
	return out
}

// forward calls use with the logits of some whole windows at a time, and the tokens that they are about, until ctx ends.
func forward(ctx context.Context, m *model.Mixture, ids []int32, length int, use func(logits []float32, targets []int32)) error {
	windows, err := countWindows(m, ids, length)
	if err != nil {
		return err
	}
	var pass model.Pass
	for w, per := 0, max(1, batchTokens/length); w < windows; w += per {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, at := min(per, windows-w), w*length
		m.Forward(&pass, ids[at:at+n*length], n, length)
		use(pass.Logits, ids[at+1:at+1+n*length])
	}
	return nil
}

// countWindows returns how many windows of length tokens there are in ids.
func countWindows(m *model.Mixture, ids []int32, length int) (int, error) {
	if limit := m.Anchor.Config.MaxPositions; length < 1 || length > limit {
		return 0, fmt.Errorf("windows of %d tokens, expected 1 to %d", length, limit)
	}
	windows := (len(ids) - 1) / length
	if windows < 1 {
		return 0, fmt.Errorf("%d tokens of text are too few to evaluate: at least %d are needed", len(ids), length+1)
	}
	return windows, nil
}

// likeliest returns the index of the first of the largest.
func likeliest(logits []float32) int {
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	return best
}
