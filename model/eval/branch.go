package eval

import (
	"cmp"
	"math"
	"slices"

	"chorus/kernels"
	"chorus/model"
)

// A Branching is how Branch-Train-Merge (Li et al. 2022, arXiv 2208.03306; FlexOlmo, section 4.2) mixes whole models that were trained apart:
// each input x decides once how much each counts, by softmax(−L(x)/Temperature) of their mean losses L on it in nats,
// and what they predict of the rest of the window is averaged with these weights: their logits, as FlexOlmo's paper does, or the
// probabilities that they give to each next token.
type Branching struct {
	Temperature   float64
	Top           int // how many models count, those with the least loss; 0 for all
	Probabilities bool
}

// Weights returns how much each model counts, given their losses on an input.
func (b Branching) Weights(losses []float64) []float64 {
	order := make([]int, len(losses))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(losses[i], losses[j]) })
	if b.Top > 0 {
		order = order[:min(b.Top, len(order))]
	}
	w := make([]float64, len(losses))
	var sum float64
	for _, i := range order {
		w[i] = math.Exp((losses[order[0]] - losses[i]) / b.Temperature)
		sum += w[i]
	}
	for i := range w {
		w[i] /= sum
	}
	return w
}

// PredictBranches returns what models of one vocabulary predict of ids together, for each of several ways to mix them. parts is what each model
// predicts alone.
func PredictBranches(models []*model.Mixture, parts []*Prediction, ids []int32, ways ...Branching) []*Prediction {
	length, vocab := parts[0].Length, models[0].Anchor.Config.VocabSize
	out := make([]*Prediction, len(ways))
	for i := range ways {
		out[i] = &Prediction{Length: length, Input: parts[0].Input}
	}
	var pass model.Pass
	per := max(1, batchTokens/length)
	sum := make([]float32, vocab)
	logits, probabilities := make([][]float32, len(models)), make([][]float32, len(models))
	windows := parts[0].Windows()
	for w := 0; w < windows; w += per {
		n, at := min(per, windows-w), w*length
		targets := ids[at+1 : at+1+n*length]
		for i, m := range models {
			m.Forward(&pass, ids[at:at+n*length], n, length)
			logits[i] = append(logits[i][:0], pass.Logits...)
			kernels.CrossEntropy(pass.Logits, targets, 0, 1, vocab, n*length) // leaves probabilities, less 1 at the targets
			for r, t := range targets {
				pass.Logits[r*vocab+int(t)]++
			}
			probabilities[i] = append(probabilities[i][:0], pass.Logits...)
		}
		for i, b := range ways {
			from := logits
			if b.Probabilities {
				from = probabilities
			}
			for v := range n {
				weights := b.Weights(losses(parts, w+v))
				for r := v * length; r < (v+1)*length; r++ {
					clear(sum)
					for m, weight := range weights {
						if weight > 0 {
							kernels.Axpy(sum, float32(weight), from[m][r*vocab:][:vocab])
						}
					}
					out[i].Correct = append(out[i].Correct, likeliest(sum) == int(targets[r]))
					out[i].LogProb = append(out[i].LogProb, b.logProb(parts, weights, at+r, sum, targets[r:r+1]))
				}
			}
		}
	}
	return out
}

// logProb returns what the models give together to the token at place i of their predictions, the target, from the logits averaged, which it overwrites, or
// from what each gave to it.
func (b Branching) logProb(parts []*Prediction, weights []float64, i int, logits []float32, target []int32) float32 {
	if !b.Probabilities {
		return float32(-kernels.CrossEntropy(logits, target, 0, 1, len(logits), 1))
	}
	var p float64
	for m, part := range parts {
		p += weights[m] * math.Exp(float64(part.LogProb[i]))
	}
	return float32(math.Log(p))
}
