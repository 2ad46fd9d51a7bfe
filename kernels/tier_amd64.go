package kernels

import "golang.org/x/sys/cpu"

// tiers returns what this processor has, best first.
func tiers() []tier {
	var t []tier
	x := cpu.X86
	if x.HasAVX2 && x.HasFMA {
		if x.HasAVX512F && x.HasAVX512VL {
			t = append(t, avx512Tier(x.HasAVX512VNNI, x.HasAVX512BF16))
		}
		t = append(t, tiling2.tier("avx2", tiles2, packing2))
	}
	return append(t, portableTier)
}

// avx512Tier returns the tier of a processor with AVX-512, and its products of bytes and of bfloat16 or not.
func avx512Tier(vnni, bf16 bool) tier {
	tiles := tiles512
	if !vnni {
		tiles[Int8], tiles[Int4], tiles[Int8PerRow] = tiles2[Int8], tiles2[Int4], tiles2[Int8PerRow]
	}
	if !bf16 {
		tiles[BFloat16Dot] = tiles512Widened
	}
	t := tiling512.tier("avx512", tiles, packing512)
	t.vectors = vectors512
	if bf16 {
		t.pairs, t.mixed = pairs512, true
	}
	return t
}

func (t *tiling) tier(name string, packed [formats]*tiles, packing packing) tier {
	return tier{
		name: name, product: t.product, tiles: packed, attention: t.attention, attentionGrad: t.attentionGrad,
		pairs: pairsPortable, packing: packing, vectors: vectors2,
	}
}
