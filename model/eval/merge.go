package eval

import (
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
		mean := func(pick func(model.FFN) kernels.Matrix) kernels.Matrix {
			public := pick(a.Public.FFN[l])
			sum := make([]float32, 0, public.Out*public.In)
			for i := range public.Out {
				row := append([]float32(nil), public.Row(i)...)
				for _, e := range experts {
					kernels.Axpy(row, 1, pick(e.FFN[l]).Row(i))
				}
				for c := range row {
					row[c] /= float32(1 + len(experts))
				}
				sum = append(sum, row...)
			}
			return kernels.NewMatrix(public.Out, public.In, sum)
		}
		ffn[l] = model.FFN{
			Gate: mean(func(f model.FFN) kernels.Matrix { return f.Gate }),
			Up:   mean(func(f model.FFN) kernels.Matrix { return f.Up }),
			Down: mean(func(f model.FFN) kernels.Matrix { return f.Down }),
		}
	}
	return dense(a, ffn)
}

func dense(a *model.Anchor, ffn []model.FFN) *model.Mixture {
	m := model.NewMixture(a)
	m.Slots[0] = &model.Slot{FFN: ffn, Router: a.Public.Router}
	return m
}
