package kernels

import "golang.org/x/sys/cpu"

// tiers returns what this processor has, best first.
func tiers() []tier {
	var t []tier
	x := cpu.X86
	if x.HasAVX2 && x.HasFMA {
		if x.HasAVX512F {
			t = append(t, tiling512.tier("avx512"))
		}
		t = append(t, tiling2.tier("avx2"))
	}
	return append(t, portableTier)
}

func (t *tiling) tier(name string) tier {
	return tier{
		name: name, product: t.product, attention: t.attention, attentionGrad: t.attentionGrad,
		vectors: vectors2,
	}
}
