package kernels

// tiers returns what every arm64 processor has, best first: NEON and fused multiply-adds are not optional there.
func tiers() []tier {
	neon := portableTier
	neon.name = "neon"
	neon.product, neon.tiles = tilingNEON.product, tilesNEON
	neon.attention, neon.attentionGrad = tilingNEON.attention, tilingNEON.attentionGrad
	neon.gather = func(dst []float32, o operand, n, k int) { o.pack(dst, panelWidth, n, k) }
	neon.vectors = vectorsNEON
	return []tier{neon, portableTier}
}
