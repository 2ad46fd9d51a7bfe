package kernels

import "golang.org/x/sys/cpu"

// tiers returns what this processor has, best first.
func tiers() []tier {
	var t []tier
	x := cpu.X86
	if x.HasAVX2 && x.HasFMA {
		if x.HasAVX512F && x.HasAVX512VL {
			tiles := tiles512
			if !x.HasAVX512VNNI {
				tiles[Int8], tiles[Int4] = tilesPortable[Int8], tilesPortable[Int4]
			}
			if !x.HasAVX512BF16 {
				tiles[BFloat16Dot] = tilesPortable[BFloat16Dot]
			}
			t = append(t, tiling512.tier("avx512", tiles))
		}
		t = append(t, tiling2.tier("avx2", tiles2))
	}
	return append(t, portableTier)
}

func (t *tiling) tier(name string, packed [formats]*tiles) tier {
	return tier{
		name: name, product: t.product, tiles: packed, attention: t.attention, attentionGrad: t.attentionGrad,
		vectors: vectors2,
	}
}
