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
	"chorus/model/safetensors"
)

// An FFN is one gated feed-forward layer: down(silu(gate·x) ∘ up·x).
type FFN struct {
	Gate, Up Projection // (I, H)
	Down     Projection // (H, I)
}

// A Projection is a matrix of an FFN. A low-rank expert's is the public one, which it shares, and a difference
// of rank r: W + B·A (FlexMoRE, arXiv 2602.08818, section 3).
type Projection struct {
	kernels.Matrix                // (Out, In)
	A              kernels.Matrix // (r, In)
	B              kernels.Matrix // (Out, r)
}

// A Layer holds the shared weights of one block: h = x + norm(attention(x)), y = h + norm(moe(h)).
type Layer struct {
	Q                 kernels.Matrix // (QWidth, H)
	K, V              kernels.Matrix // (KVWidth, H)
	O                 kernels.Matrix // (H, QWidth)
	QNorm             []float32      // (QWidth)
	KNorm             []float32      // (KVWidth)
	PostAttentionNorm []float32      // (H)
	PostFFNNorm       []float32      // (H)
}

// A Slot is what stands in one place of the mixture: for each layer an FFN, its row of the
// router, and the bias that is added to that row's logit (paper, section 3.3.2).
type Slot struct {
	FFN    []FFN       // (layers)
	Router [][]float32 // (layers, H)
	Bias   [][]float32 // (layers, 1), ≤ 0; nil means 0

	// stored returns a matrix of layer l's FFN, of full rank, as the file has it that the slot was loaded from. It is
	// nil if the slot was built.
	stored func(l int, projection string) (safetensors.Tensor, error)
}

// An Anchor is the public model that every expert is trained against. It is read-only.
type Anchor struct {
	Config Config
	Embed  kernels.Matrix // (V, H)
	Layers []Layer
	Public Slot // slot 0
	Norm   []float32
	Head   kernels.Matrix // (V, H)

	checkpoint *Checkpoint // where it was loaded from; nil if it was built

	rope     *kernels.Rope
	ropeOnce sync.Once
}

// An Expert is what one member contributes. It is read-only and may stand in many mixtures. What it takes is given back
// by [Expert.Close], or when it is garbage.
type Expert struct {
	Slot
	Anchor   string            // CID of the anchor it was trained against
	Metadata map[string]string // as its blob carries it

	weights *weights // where it was loaded from; nil if it was built
	packed  kernels.Arena
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
	h, q, kv := int64(c.HiddenSize), int64(c.QWidth()), int64(c.KVWidth())
	layer := 2*h*q + 2*kv*h + 3*h*int64(c.IntermediateSize) + 2*h + q + kv
	heads := int64(2)
	if c.Tied {
		heads = 1
	}
	return heads*int64(c.VocabSize)*h + h + int64(c.Layers)*layer
}

// HeadLayout returns the layout of attention's heads.
func (c Config) HeadLayout() kernels.Heads {
	return kernels.Heads{Query: c.Heads, KV: c.KVHeads, Dim: c.HeadDim()}
}
