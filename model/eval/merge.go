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
