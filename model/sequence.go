package model

import (
	"errors"
	"math/bits"

	"chorus/kernels"
)

// ErrContextFull is returned when a sequence would grow past the model's positions.
var ErrContextFull = errors.New("the context is full")

// prefillRows bounds the memory of a long prompt: it is computed in chunks of so many tokens.
const prefillRows = 256

// UsageScale is the fixed-point weight of one token in one layer: the shares that the slots
// of a mixture have in a token's layer are integers that add up to it exactly.
const UsageScale = 1 << 20

// A Sequence is one text under way on one mixture: its tokens and their keys and values.
// It is for one goroutine at a time.
type Sequence struct {
	mixture *Mixture
	tokens  int
	k, v    [][]float32 // (layers)(tokens, KV)
	usage   []uint64    // (E) fixed-point router weight since the start
	pass    Pass
	layer   LayerPass
}

// NewSequence returns an empty sequence on m.
func (m *Mixture) NewSequence() *Sequence {
	n := m.Anchor.Config.Layers
	s := &Sequence{mixture: m, k: make([][]float32, n), v: make([][]float32, n), usage: make([]uint64, len(m.Slots))}
	s.layer.shared = new(SlotPass)
	return s
}

// Len returns how many tokens the sequence holds.
func (s *Sequence) Len() int { return s.tokens }

// Usage returns each slot's share of the work so far, in units of 1/[UsageScale] of a token in a
// layer. The sum over slots is tokens × layers × UsageScale, exactly.
func (s *Sequence) Usage() []uint64 { return append([]uint64(nil), s.usage...) }

// Extend appends ids, of which there must be at least one, and returns the logits, (V), of what
// follows the last. The slice is valid until the next call. At ErrContextFull nothing is appended.
func (s *Sequence) Extend(ids []int32) ([]float32, error) {
	c := s.mixture.Anchor.Config
	if s.tokens+len(ids) > c.MaxPositions {
		return nil, ErrContextFull
	}
	for len(ids) > prefillRows {
		s.extend(ids[:prefillRows])
		ids = ids[prefillRows:]
	}
	s.extend(ids)
	s.mixture.final(&s.pass, s.pass.Last[len(s.pass.Last)-c.HiddenSize:], 1)
	kernels.Linear(grow(&s.pass.Logits, c.VocabSize), s.pass.Final, s.mixture.Anchor.Head, 1)
	return s.pass.Logits, nil
}

func (s *Sequence) extend(ids []int32) {
	c, rows := s.mixture.Anchor.Config, len(ids)
	kv := c.KVWidth()
	s.mixture.embed(grow(&s.layer.X, rows*c.HiddenSize), ids)
	for l := range c.Layers {
		s.k[l] = extendBy(s.k[l], rows*kv, c.MaxPositions*kv)
		s.v[l] = extendBy(s.v[l], rows*kv, c.MaxPositions*kv)
		at := span{Span: kernels.Span{Rows: rows, Past: s.tokens}, k: s.k[l], v: s.v[l]}
		s.mixture.layer(l, grow(&s.pass.Last, rows*c.HiddenSize), &s.layer, []span{at}, rows)
		s.count(rows)
		s.layer.X, s.pass.Last = s.pass.Last, s.layer.X
	}
	s.layer.X, s.pass.Last = s.pass.Last, s.layer.X
	s.tokens += rows
}

// count adds the chosen slots' shares of the layer just computed, rounded so that each row's add
// up to UsageScale: rounding down loses less than one unit a slot, and the largest gets it.
func (s *Sequence) count(rows int) {
	e, k := len(s.mixture.Slots), s.mixture.TopK
	for r := range rows {
		chosen := s.layer.Chosen[r*k:][:k]
		var sum float64
		for _, slot := range chosen {
			sum += float64(s.layer.P[r*e+int(slot)])
		}
		left := uint64(UsageScale)
		for _, slot := range chosen {
			share := min(left, uint64(float64(s.layer.P[r*e+int(slot)])/sum*UsageScale))
			s.usage[slot] += share
			left -= share
		}
		s.usage[chosen[0]] += left
	}
}

// extendBy makes s n longer, of which it never has more than most, doubling its memory when it must.
func extendBy(s []float32, n, most int) []float32 {
	if need := len(s) + n; need > cap(s) {
		bigger := make([]float32, len(s), min(most, 1<<bits.Len(uint(need-1))))
		copy(bigger, s)
		s = bigger
	}
	return s[:len(s)+n]
}
