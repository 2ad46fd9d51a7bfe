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
// and the probabilities that they give to each next token of the window are averaged with these weights.
type Branching struct {
	Temperature float64
	Top         int // how many models count, those with the least loss; 0 for all
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

// LogProb returns what the models give together to each token, as [Prediction.LogProb], from what each gave to it: which is the likeliest
// token cannot be known from that, see [PredictBranches].
func (b Branching) LogProb(parts []*Prediction) []float32 {
	length := parts[0].Length
	out := make([]float32, 0, len(parts[0].LogProb))
	for w := range parts[0].Windows() {
		weights := b.Weights(losses(parts, w))
		for i := w * length; i < (w+1)*length; i++ {
			var p float64
			for m, part := range parts {
				p += weights[m] * math.Exp(float64(part.LogProb[i]))
			}
			out = append(out, float32(math.Log(p)))
		}
	}
	return out
}

// PredictBranches returns what models of one vocabulary predict of ids together, for each of several ways to mix them. parts is what each model
// predicts alone.
func PredictBranches(models []*model.Mixture, parts []*Prediction, ids []int32, ways ...Branching) []*Prediction {
	length, vocab := parts[0].Length, models[0].Anchor.Config.VocabSize
	out := make([]*Prediction, len(ways))
	for i, b := range ways {
		out[i] = &Prediction{Length: length, Input: parts[0].Input, LogProb: b.LogProb(parts)}
	}
	var pass model.Pass
	per := max(1, batchTokens/length)
	sum := make([]float32, vocab)
	probabilities := make([][]float32, len(models))
	windows := parts[0].Windows()
	for w := 0; w < windows; w += per {
		n, at := min(per, windows-w), w*length
		for i, m := range models {
			m.Forward(&pass, ids[at:at+n*length], n, length)
			targets := ids[at+1 : at+1+n*length]
			kernels.CrossEntropy(pass.Logits, targets, 0, 1, vocab, n*length) // leaves probabilities, less 1 at the targets
			for r, t := range targets {
				pass.Logits[r*vocab+int(t)]++
			}
			probabilities[i] = append(probabilities[i][:0], pass.Logits...)
		}
		for i, b := range ways {
			for v := range n {
				weights := b.Weights(losses(parts, w+v))
				for r := v * length; r < (v+1)*length; r++ {
					clear(sum)
					for m, weight := range weights {
						if weight > 0 {
							kernels.Axpy(sum, float32(weight), probabilities[m][r*vocab:][:vocab])
						}
					}
					out[i].Correct = append(out[i].Correct, likeliest(sum) == int(ids[at+r+1]))
				}
			}
		}
	}
	return out
}
