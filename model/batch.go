package model

import (
	"slices"

	"chorus/kernels"
)

// A Batch is texts that grow together on one mixture, so that each weight is read once for all of them. It computes for each what a
// [Sequence] of it computes, to the bit. It is for one goroutine at a time.
type Batch struct {
	mixture *Mixture
	tokens  []int         // (texts)
	k, v    [][][]float32 // (layers)(texts)(tokens, KV)
	pass    Pass
	layer   LayerPass
}

// NewBatch returns n empty texts on m.
func (m *Mixture) NewBatch(n int) *Batch {
	b := &Batch{mixture: m, tokens: make([]int, n)}
	for range m.Anchor.Config.Layers {
		b.k, b.v = append(b.k, make([][]float32, n)), append(b.v, make([][]float32, n))
	}
	b.layer.shared = new(SlotPass)
	return b
}

// Extend appends ids to the texts, to each its own, at least one token each, and returns the logits, (texts, V), of what follows each one's last. The slice
// is valid until the next call. At ErrContextFull nothing is appended.
func (b *Batch) Extend(ids [][]int32) ([]float32, error) {
	m, c := b.mixture, b.mixture.Anchor.Config
	h, kv := c.HiddenSize, c.KVWidth()
	spans := make([]span, len(ids))
	for i, more := range ids {
		if b.tokens[i]+len(more) > c.MaxPositions {
			return nil, ErrContextFull
		}
		spans[i] = span{Span: kernels.Span{Rows: len(more), Past: b.tokens[i]}}
	}
	all := slices.Concat(ids...)
	rows := len(all)
	m.embed(grow(&b.layer.X, rows*h), all)
	for l := range c.Layers {
		for i := range spans {
			n := spans[i].Rows * kv
			b.k[l][i], b.v[l][i] = extendBy(b.k[l][i], n, c.MaxPositions*kv), extendBy(b.v[l][i], n, c.MaxPositions*kv)
			spans[i].k, spans[i].v = b.k[l][i], b.v[l][i]
		}
		m.layer(l, grow(&b.pass.Last, rows*h), &b.layer, spans, rows)
		b.layer.X, b.pass.Last = b.pass.Last, b.layer.X
	}
	last := make([]float32, 0, len(ids)*h)
	at := 0
	for i, s := range spans {
		b.tokens[i] += s.Rows
		at += s.Rows
		last = append(last, b.layer.X[(at-1)*h:at*h]...)
	}
	m.final(&b.pass, last, len(ids))
	kernels.Linear(grow(&b.pass.Logits, len(ids)*c.VocabSize), b.pass.Final, m.Anchor.Head, len(ids))
	return b.pass.Logits, nil
}

// Keep goes on with these of the texts, in that order. One that is named several times goes on as that many.
func (b *Batch) Keep(texts []int) {
	for l := range b.k {
		b.k[l], b.v[l] = keep(b.k[l], texts), keep(b.v[l], texts)
	}
	tokens := make([]int, len(texts))
	for i, t := range texts {
		tokens[i] = b.tokens[t]
	}
	b.tokens = tokens
}

func keep(all [][]float32, texts []int) [][]float32 {
	out := make([][]float32, len(texts))
	taken := make([]bool, len(all))
	for i, t := range texts {
		if out[i] = all[t]; taken[t] {
			out[i] = slices.Clone(all[t])
		}
		taken[t] = true
	}
	return out
}
