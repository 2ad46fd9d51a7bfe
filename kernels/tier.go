package kernels

import (
	"fmt"
	"os"
	"strings"
)

// A tier is one implementation of the functions that have fast versions.
type tier struct {
	name string

	// product is [product] of no empty matrices. Each element is summed over k in one order that
	// depends on k alone.
	product func(c []float32, ldc int, a, b operand, m, n, k int, add bool)

	tiles [formats]*tiles // of packed matrices; nil for a format that can do with product

	packing

	attention     func(out, lse, q, k, v []float32, s Span, h Heads)                     // see [Attention]
	attentionGrad func(dq, dk, dv, dout, out, lse, q, k, v []float32, rows int, h Heads) // see [AttentionGrad]

	// pairs stores n ≤ 16 columns of src, (2·words, ld), as (words, n) words of two rows, rounded to bfloat16.
	pairs func(dst, src []float32, ld, n, words int)

	mixed bool // see [Mixed]

	vectors
}

var portableTier = tier{
	name:      "portable",
	product:   productPortable,
	tiles:     tilesPortable,
	attention: attentionPortable, attentionGrad: attentionGradPortable,
	packing: packingPortable,
	pairs:   pairsPortable,
	vectors: vectorsPortable,
}

// active is the tier in use. Only tests change it after start-up.
var (
	active  tier
	tierErr error
)

func init() { active, tierErr = choose(os.Getenv("CHORUS_KERNELS"), tiers()) }

// Tier returns the name of the instruction set in use: the best that this processor has of
// "avx512", "avx2", "neon" and "portable", or the one that the environment variable CHORUS_KERNELS names.
// The error says that CHORUS_KERNELS names none that this processor has; the best is in use then.
func Tier() (string, error) { return active.name, tierErr }

// Mixed reports whether the processor multiplies bfloat16 itself, so that products of a matrix by [Matrix.Mixed] take half the
// time of those in float32. Elsewhere they take longer.
func Mixed() bool { return active.mixed }

// choose returns the tier of the given name among those available, best first.
func choose(name string, available []tier) (tier, error) {
	var names []string
	for _, t := range available {
		if t.name == name {
			return t, nil
		}
		names = append(names, t.name)
	}
	if name == "" {
		return available[0], nil
	}
	return available[0], fmt.Errorf("CHORUS_KERNELS=%q is not one of %s, which this processor has", name, strings.Join(names, ", "))
}
