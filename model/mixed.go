package model

import "slices"

// Mixed returns m for training in mixed precision: its matrices are copies, see [kernels.Matrix.Mixed], and all else is m's,
// the embedding among it. Low-rank projections stay as they are.
func (m *Mixture) Mixed() *Mixture {
	of := m.Anchor
	a := &Anchor{Config: of.Config, Embed: of.Embed, Layers: slices.Clone(of.Layers), Norm: of.Norm, Head: of.Head.Mixed()}
	for l := range a.Layers {
		x := &a.Layers[l]
		x.Q, x.K, x.V, x.O = x.Q.Mixed(), x.K.Mixed(), x.V.Mixed(), x.O.Mixed()
	}
	mixed := &Mixture{Anchor: a, TopK: m.TopK}
	for _, s := range m.Slots {
		slot := &Slot{FFN: slices.Clone(s.FFN), Router: s.Router, Bias: s.Bias}
		for l := range slot.FFN {
			f := &slot.FFN[l]
			for _, p := range []*Projection{&f.Gate, &f.Up, &f.Down} {
				if p.Rank() == 0 {
					p.Matrix = p.Mixed()
				}
			}
		}
		mixed.Slots = append(mixed.Slots, slot)
	}
	return mixed
}
