package eval

import (
	"slices"

	"chorus/kernels"
	"chorus/model"
)

// Alone returns the anchor with e's FFNs in place of the public ones: the expert as a dense model.
func Alone(a *model.Anchor, e *model.Expert) *model.Mixture { return dense(a, e.FFN) }

// Average returns the anchor with FFNs that are the mean of the public one and the experts',
// weight by weight: the uniform soup (Wortsman et al. 2022; FlexOlmo, section 4.2).
func Average(a *model.Anchor, experts ...*model.Expert) *model.Mixture {
	ffn := make([]model.FFN, len(a.Public.FFN))
	for l := range ffn {
		mean := func(pick func(model.FFN) model.Projection) model.Projection {
			public := pick(a.Public.FFN[l])
			sum, one := make([]float32, public.Out*public.In), make([]float32, public.In)
			for i := range public.Out {
				row := sum[i*public.In:][:public.In]
				public.Row(row, i)
				for _, e := range experts {
					pick(e.FFN[l]).Row(one, i)
					kernels.Axpy(row, 1, one)
				}
				for c := range row {
					row[c] /= float32(1 + len(experts))
				}
			}
			return model.Projection{Matrix: kernels.NewMatrix(public.Out, public.In, sum)}
		}
		ffn[l] = model.FFN{
			Gate: mean(func(f model.FFN) model.Projection { return f.Gate }),
			Up:   mean(func(f model.FFN) model.Projection { return f.Up }),
			Down: mean(func(f model.FFN) model.Projection { return f.Down }),
		}
	}
	return dense(a, ffn)
}

func dense(a *model.Anchor, ffn []model.FFN) *model.Mixture {
	m := model.NewMixture(a)
	m.Slots[0] = &model.Slot{FFN: ffn, Router: a.Public.Router}
	return m
}

// Soup returns the anchor whose tensors are those of several of one configuration, averaged with the given weights, which add up to 1
// (Wortsman et al. 2022; FlexOlmo, section 4.2).
func Soup(anchors []*model.Anchor, weights []float64) (*model.Anchor, error) {
	all := make([]model.Tensors, len(anchors))
	for i, a := range anchors {
		all[i] = a.Tensors()
	}
	return model.BuildAnchor(anchors[0].Config, func(name string, shape ...int) ([]float32, error) {
		var sum []float32
		for i, tensors := range all {
			if weights[i] == 0 {
				continue
			}
			v, err := tensors.Source(name, shape...)
			if err != nil {
				return nil, err
			}
			if sum == nil {
				sum = make([]float32, len(v))
			}
			kernels.Axpy(sum, float32(weights[i]), v)
		}
		return sum, nil
	})
}

// PredictSoups returns what the soup of anchors predicts whose weights are, for each window, the softmax of the log-likelihoods that they
// give to its input: FlexOlmo's weighted soup. parts is what each anchor predicts alone, and stands where one has all but a thousandth of the weight.
func PredictSoups(anchors []*model.Anchor, parts []*Prediction, ids []int32) (*Prediction, error) {
	length, input := parts[0].Length, parts[0].Input
	likelihood := Branching{Temperature: 1 / float64(input-1)} // of the mean loss
	out := &Prediction{Length: length, Input: input}
	for w := range parts[0].Windows() {
		weights := likelihood.Weights(losses(parts, w))
		best := slices.Index(weights, slices.Max(weights))
		at := w * length
		p := &Prediction{Length: length, Input: input, LogProb: parts[best].LogProb[at:][:length], Correct: parts[best].Correct[at:][:length]}
		if weights[best] < 0.999 {
			soup, err := Soup(anchors, weights)
			if err != nil {
				return nil, err
			}
			if p, err = Predict(model.NewMixture(soup), ids[at:at+length+1], length, input); err != nil {
				return nil, err
			}
		}
		out.LogProb, out.Correct = append(out.LogProb, p.LogProb...), append(out.Correct, p.Correct...)
	}
	return out, nil
}
