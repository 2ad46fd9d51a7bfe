package train

import (
	"math"

	"chorus/kernels"
	"chorus/model"
)

// start gives the expert's router its first rows, as [Expert] does, from a private mean of the hidden states of the
// units: each unit adds the mean over some of its windows, less the public mean and clipped to the length that those of
// public windows have, and the sum gets noise once.
func (p *private) start(anchor *model.Mixture, expert *model.Expert) error {
	c, length := anchor.Anchor.Config, p.recipe.Length
	h := c.HiddenSize
	var pass model.Pass
	// means calls f with the mean hidden states, (layers·H), of each of several rows' ranges.
	means := func(ids []int32, ranges []drawn, f func(mean []float32)) {
		anchor.ForwardToHead(&pass, ids, len(ids)/length, length)
		mean := make([]float32, c.Layers*h)
		for _, u := range ranges {
			kernels.Zero(mean)
			for l := range c.Layers {
				for r := u.from; r < u.to; r++ {
					kernels.Axpy(mean[l*h:][:h], 1/float32(u.to-u.from), pass.Layers[l].Hidden[r*h:][:h])
				}
			}
			f(mean)
		}
	}

	const publicWindows = 256
	common := make([]float32, c.Layers*h)
	var each [][]float32
	ids, targets := make([]int32, length), make([]int32, length)
	for n := range publicWindows {
		if err := p.public.fill(ids, targets, n); err != nil {
			return err
		}
		if err := check(anchor, ids); err != nil {
			return err
		}
		means(ids, []drawn{{to: length}}, func(mean []float32) {
			kernels.Axpy(common, 1.0/publicWindows, mean)
			each = append(each, append([]float32(nil), mean...))
		})
	}
	var squares float64
	for _, mean := range each {
		kernels.Axpy(mean, -1, common)
		squares += kernels.SumSquares(mean) / publicWindows
	}

	sum := newNoisySum(max(math.Sqrt(squares), 1e-6), len(common))
	source := secret()
	all := make([]int, len(p.text))
	for i := range all {
		all[i] = i
	}
	for len(all) > 0 {
		all = p.fill(all, source)
		means(p.ids, p.group, func(mean []float32) {
			kernels.Axpy(mean, -1, common)
			sum.add(1, mean)
		})
	}
	own := make([]float32, len(common))
	sum.release(p.guarantee.StartNoise, 1/float64(len(p.text)), own)
	kernels.Axpy(own, 1, common)
	for l := range expert.Router {
		expert.Bias[l][0] = discriminant(expert.Router[l], own[l*h:][:h], common[l*h:][:h])
	}
	return nil
}
