// Package model is the FlexOlmo architecture (arXiv 2507.07024): the public anchor, experts
// that members trained against it, and the mixture that a node assembles from both and runs.
//
// It knows nothing of who published an expert or whether it may be used; package node decides
// that and assembles a new [Mixture] when the answer changes. Training and evaluation are in
// the packages below this one.
//
// Begin with [LoadAnchor], [LoadExpert] and [NewMixture], then [Mixture.NewSequence].
//
// Weights may be stored in bfloat16; activations and sums are float32. In shapes, H is the hidden
// size, I the intermediate size, V the vocabulary, E the number of slots: the public FFN in
// slot 0 and one slot per expert.
package model

import (
	"sync"

	"chorus/kernels"
)

// An FFN is one gated feed-forward layer: down(silu(gate·x) ∘ up·x).
type FFN struct {
	Gate, Up kernels.Matrix // (I, H)
	Down     kernels.Matrix // (H, I)
}

// A Layer holds the shared weights of one block: h = x + norm(attention(x)), y = h + norm(moe(h)).
type Layer struct {
	Q, O              kernels.Matrix // (H, H)
	K, V              kernels.Matrix // (KVHeads·HeadDim, H)
	QNorm             []float32      // (H)
	KNorm             []float32      // (KVHeads·HeadDim)
	PostAttentionNorm []float32      // (H)
	PostFFNNorm       []float32      // (H)
}

// A Slot is what stands in one place of the mixture: for each layer an FFN, its row of the
// router, and the bias that is added to that row's logit (paper, section 3.3.2).
type Slot struct {
	FFN    []FFN       // (layers)
	Router [][]float32 // (layers, H)
	Bias   [][]float32 // (layers, 1), ≤ 0; nil means 0
}

// An Anchor is the public model that every expert is trained against. It is read-only.
type Anchor struct {
	Config Config
	Embed  kernels.Matrix // (V, H)
	Layers []Layer
	Public Slot // slot 0
	Norm   []float32
	Head   kernels.Matrix // (V, H)

	rope     *kernels.Rope
	ropeOnce sync.Once
}

// An Expert is what one member contributes. It is read-only and may stand in many mixtures.
type Expert struct {
	Slot
	Anchor   string            // CID of the anchor it was trained against
	Metadata map[string]string // as its blob carries it
}

// A Mixture is the model that runs: the anchor and some experts. It is immutable and cheap to
// make, since it copies no weights; a change of experts makes a new one. Any number of sequences
// may run on it concurrently.
type Mixture struct {
	Anchor *Anchor
	Slots  []*Slot // slot 0 is the anchor's public FFN
	TopK   int     // slots per token
}

// NewMixture assembles the anchor and experts, which take slots 1, 2, …, with every slot active
// for every token (k = E).
func NewMixture(a *Anchor, experts ...*Expert) *Mixture {
	m := &Mixture{Anchor: a, Slots: []*Slot{&a.Public}, TopK: 1 + len(experts)}
	for _, e := range experts {
		m.Slots = append(m.Slots, &e.Slot)
	}
	return m
}

// Rope returns the anchor's table of rotary positions, made at first use.
func (a *Anchor) Rope() *kernels.Rope {
	a.ropeOnce.Do(func() {
		a.rope = kernels.NewRope(a.Config.HeadDim(), a.Config.Rope.Theta, a.Config.MaxPositions)
	})
	return a.rope
}

// Parameters returns how many numbers the anchor has learned, its router row apart.
func (a *Anchor) Parameters() int64 {
	c := a.Config
	h, kv := int64(c.HiddenSize), int64(c.KVHeads*c.HeadDim())
	layer := 2*h*h + 2*kv*h + 3*h*int64(c.IntermediateSize) + 3*h + kv
	return 2*int64(c.VocabSize)*h + h + int64(c.Layers)*layer
}

// HeadLayout returns the layout of attention's heads.
func (c Config) HeadLayout() kernels.Heads {
	return kernels.Heads{Query: c.Heads, KV: c.KVHeads, Dim: c.HeadDim()}
}
