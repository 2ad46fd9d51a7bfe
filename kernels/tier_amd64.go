package kernels

import "golang.org/x/sys/cpu"

// tiers returns what this processor has, best first.
func tiers() []tier {
	var t []tier
	x := cpu.X86
	if x.HasAVX2 && x.HasFMA {
		if x.HasAVX512F {
			t = append(t, tier{
				name:    "avx512",
				product: tiling512.product,
				vectors: vectors2,
			})
		}
		t = append(t, tier{
			name:    "avx2",
			product: tiling2.product,
			vectors: vectors2,
		})
	}
	return append(t, portableTier)
}
