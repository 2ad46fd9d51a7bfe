package model

import (
	"fmt"

	"chorus/kernels"
)

// Weights says how matrices are held while they are computed with.
type Weights string

// The forms of weights. All but Stored are copies in memory, in a layout that is read from end to end.
const (
	Packed   Weights = "packed"   // the default: the same results as Stored, and faster
	Stored   Weights = "stored"   // as the file has them, in place: nothing is copied
	BFloat16 Weights = "bfloat16" // rounded to it: half the memory of float32
	Mixed    Weights = "mixed"    // the same, and inputs rounded too: prompts are read in little more than half the time; see [kernels.BFloat16Dot]
	Int8     Weights = "int8"     // half the memory of bfloat16, and little more than half the time of one answer; see [kernels.Int8] for the rounding
	Int4     Weights = "int4"     // a quarter; see [kernels.Int4]
)

var packedFormats = map[Weights]kernels.Format{BFloat16: kernels.BFloat16, Mixed: kernels.BFloat16Dot, Int8: kernels.Int8, Int4: kernels.Int4}

// Check returns an error that lists the forms if w is none of them. No word at all is [Packed].
func (w Weights) Check() error {
	if _, ok := packedFormats[w]; !ok && w != Packed && w != Stored && w != "" {
		return fmt.Errorf("weights are %q, expected %q, %q, %q, %q, %q or %q", w, Packed, Stored, BFloat16, Mixed, Int8, Int4)
	}
	return nil
}

// pack returns m in the form w, which is in the arena if it is a copy.
func (w Weights) pack(in *kernels.Arena, m kernels.Matrix) kernels.Matrix {
	if f, ok := packedFormats[w]; ok {
		return in.Pack(m, f)
	} else if w == Stored {
		return m
	}
	return in.Packed(m)
}

// Pack changes the form of the anchor's matrices, except the embedding, of which rows are read one by one. It must
// be called before anything else uses the anchor, and before low-rank experts are loaded, which share them.
func (a *Anchor) Pack(w Weights) {
	in := new(kernels.Arena) // an anchor stays
	a.Head = w.pack(in, a.Head)
	for l := range a.Layers {
		x := &a.Layers[l]
		x.Q, x.K, x.V, x.O = w.pack(in, x.Q), w.pack(in, x.K), w.pack(in, x.V), w.pack(in, x.O)
	}
	a.Public.pack(in, w)
}

// Pack changes the form of the expert's matrices of full rank. It must be called before anything else uses the expert.
func (e *Expert) Pack(w Weights) { e.pack(&e.packed, w) }

func (s *Slot) pack(in *kernels.Arena, w Weights) {
	for l := range s.FFN {
		for _, p := range []*Projection{&s.FFN[l].Gate, &s.FFN[l].Up, &s.FFN[l].Down} {
			if p.Rank() == 0 {
				p.Matrix = w.pack(in, p.Matrix)
			}
		}
	}
}
