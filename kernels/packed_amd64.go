package kernels

import "math"

// wordTiles are tiles of any number of strips, by their height.
type wordTiles [15]func(strips, words int, a *float32, lda int, b, c *float32, ldc int, add bool)

func (t *wordTiles) tile(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
	t[height](1, words, &a[0], 0, &words32(b)[0], &c[0], ldc, add)
}

func (t *wordTiles) column(strips, words int, a []float32, lda int, b []byte, c []float32, ldc int, add bool) {
	t[len(t)-1](strips, words, &a[0], lda, &words32(b)[0], &c[0], ldc, add)
}

// The tiles of asm_amd64.s for packed matrices, by their height.
var (
	tilesFloat32 = [...]func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool){
		1: tile1x32, tile2x32, tile3x32, tile4x32, tile5x32, tile6x32, tile7x32,
		tile8x32, tile9x32, tile10x32, tile11x32, tile12x32, tile13x32, tile14x32,
	}
	tilesBFloat16 = [...]func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool){
		1: bf16tile1x32, bf16tile2x32, bf16tile3x32, bf16tile4x32, bf16tile5x32, bf16tile6x32, bf16tile7x32,
		bf16tile8x32, bf16tile9x32, bf16tile10x32, bf16tile11x32, bf16tile12x32, bf16tile13x32, bf16tile14x32,
	}
	tilesFloat = wordTiles{
		1: floattile1x32, floattile2x32, floattile3x32, floattile4x32, floattile5x32, floattile6x32, floattile7x32,
		floattile8x32, floattile9x32, floattile10x32, floattile11x32, floattile12x32, floattile13x32, floattile14x32,
	}
	tilesDot = wordTiles{
		1: dottile1x32, dottile2x32, dottile3x32, dottile4x32, dottile5x32, dottile6x32, dottile7x32,
		dottile8x32, dottile9x32, dottile10x32, dottile11x32, dottile12x32, dottile13x32, dottile14x32,
	}
	tilesInt8 = [...]func(groups int, a *float32, b *byte, c *float32, ldc int, add bool){
		1: int8tile1x32, int8tile2x32, int8tile3x32, int8tile4x32, int8tile5x32, int8tile6x32, int8tile7x32,
	}
	tilesInt4 = [...]func(groups int, a *float32, b *byte, c *float32, ldc int, add bool){
		1: int4tile1x32, int4tile2x32, int4tile3x32, int4tile4x32, int4tile5x32, int4tile6x32, int4tile7x32,
	}
	tilesSpan = wordTiles{
		1: spantile1x32, spantile2x32, spantile3x32, spantile4x32, spantile5x32, spantile6x32, spantile7x32,
		spantile8x32, spantile9x32, spantile10x32, spantile11x32, spantile12x32, spantile13x32, spantile14x32,
	}

	tilesInt8Narrow = [...]func(groups int, a *float32, b *byte, c *float32, ldc int){1: int8tile1, int8tile2, int8tile3}
	tilesInt4Narrow = [...]func(groups int, a *float32, b *byte, c *float32, ldc int){1: int4tile1, int4tile2, int4tile3}
	tilesSpanNarrow = [...]func(words int, a, b, c *float32, ldc int, add bool){1: spantile1, spantile2, spantile3}

	tilesFloat32Narrow = [...]func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool){
		1: tile1x16, tile2x16, tile3x16, tile4x16, tile5x16, tile6x16,
	}
	tilesBFloat16Narrow = [...]func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool){
		1: bf16tile1x16, bf16tile2x16, bf16tile3x16, bf16tile4x16, bf16tile5x16, bf16tile6x16,
	}
)

var tiles512 = [formats]*tiles{
	Float32: {
		heights: []int{14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, block: 1024, few: 1024, strip: strip,
		tile: tilesFloat.tile, column: tilesFloat.column,
	},
	BFloat16: {
		heights: []int{14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, block: 512, few: 2048, strip: strip,
		tile: bf16tile512,
	},
	BFloat16Dot: {
		heights: []int{14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, block: 1024, few: 1024, encode: roundRowWide, strip: strip,
		tile: tilesDot.tile, column: tilesDot.column,
	},
	Int8: {
		heights: []int{7, 6, 5, 4, 3, 2, 1}, block: 64 * groupWords, few: 96 * groupWords, encode: quantise8, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			tilesInt8[height](words/groupWords, &a[0], &b[0], &c[0], ldc, add)
		},
	},
	Int4: {
		heights: []int{7, 6, 5, 4, 3, 2, 1}, block: 64 * groupWords, few: 192 * groupWords, encode: quantise4, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			tilesInt4[height](words/groupWords, &a[0], &b[0], &c[0], ldc, add)
		},
	},
	Int8PerRow: {
		heights: []int{14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1}, block: spanWords, few: spanWords, encode: quantiseSpans512, strip: strip,
		tile: spanBySpan(func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			tilesSpan.tile(height, words-2, a, b, c, ldc, add)
		}),
		column: func(strips, words int, a []float32, lda int, b []byte, c []float32, ldc int, add bool) {
			tilesSpan.column(strips, words-2, a, lda, b, c, ldc, add)
		},
	},
}

// tiles512Widened is for BFloat16Dot without instructions for it.
var tiles512Widened = &tiles{
	heights: tiles512[BFloat16].heights, block: 512, few: 2048, encode: roundWords, widened: true, strip: strip, tile: bf16tile512,
}

func bf16tile512(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
	tilesBFloat16[height](words, &a[0], &words32(b)[0], panelWidth, &c[0], ldc, add)
}

// tiles2 are the tiles of AVX2, half a panel wide.
var tiles2 = [formats]*tiles{
	Float32: {
		heights: []int{6, 5, 4, 3, 2, 1}, block: 512, few: 1024, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			tilesFloat32Narrow[height](words, &a[0], &words32(b)[0], panelWidth, &c[0], ldc, add)
			tilesFloat32Narrow[height](words, &a[0], &words32(b)[panelWidth/2], panelWidth, &c[panelWidth/2], ldc, add)
		},
	},
	BFloat16: {
		heights: []int{6, 5, 4, 3, 2, 1}, block: 512, few: 2048, strip: strip,
		tile: bf16tile2,
	},
	BFloat16Dot: {
		heights: []int{6, 5, 4, 3, 2, 1}, block: 512, few: 2048, encode: roundWords, widened: true, strip: strip,
		tile: bf16tile2,
	},
	Int8: {
		heights: []int{3, 2, 1}, block: 64 * groupWords, few: 96 * groupWords, encode: tilesPortable[Int8].encode, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			zeroUnless(add, c, ldc, height)
			tilesInt8Narrow[height](words/groupWords, &a[0], &b[0], &c[0], ldc)
		},
	},
	Int4: {
		heights: []int{3, 2, 1}, block: 64 * groupWords, few: 192 * groupWords, encode: tilesPortable[Int4].encode, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			zeroUnless(add, c, ldc, height)
			tilesInt4Narrow[height](words/groupWords, &a[0], &b[0], &c[0], ldc)
		},
	},
	Int8PerRow: {
		heights: []int{3, 2, 1}, block: spanWords, few: spanWords, encode: quantiseSpans, strip: strip,
		tile: spanBySpan(func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			tilesSpanNarrow[height](words-2, &a[0], &words32(b)[0], &c[0], ldc, add)
		}),
	},
}

func bf16tile2(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
	tilesBFloat16Narrow[height](words, &a[0], &words32(b)[0], panelWidth, &c[0], ldc, add)
	tilesBFloat16Narrow[height](words, &a[0], &words32(b)[panelWidth/2], panelWidth, &c[panelWidth/2], ldc, add)
}

// zeroUnless clears a tile of c that is not to be added to.
func zeroUnless(add bool, c []float32, ldc, height int) {
	for i := 0; i < height && !add; i++ {
		clear(c[i*ldc:][:panelWidth])
	}
}

// roundWords rounds inputs to bfloat16, and keeps them as float32.
func roundWords(dst, x []float32) {
	for k, v := range x {
		dst[k] = widened(roundBFloat16(v))
	}
}

func strip(dst, rows []float32, ld, height, words int) {
	if height < 4 {
		for r := range height {
			for k, v := range rows[r*ld:][:words] {
				dst[k*height+r] = v
			}
		}
		return
	}
	floats(rows, ld, true).pack(dst, height, height, words)
}

func roundRowWide(dst, x []float32) {
	whole := len(x) &^ 31
	if whole > 0 {
		roundwide(whole, &dst[0], &x[0])
	}
	roundRowPortable(dst[whole/2:], x[whole:])
}

func pairs512(dst, src []float32, ld, n, words int) {
	if words > 0 {
		_, _ = dst[words*n-1], src[(2*words-1)*ld+n-1]
		pairswide(words, &dst[0], &src[0], ld, n)
	}
}

func quantise8(dst, x []float32) { quantise512(dst, x, Int8.raised()) }

func quantise4(dst, x []float32) { quantise512(dst, x, Int4.raised()) }

func quantise512(dst, x []float32, raised int32) {
	if groups := len(x) / groupSize; groups > 0 {
		quantisewide(groups, &dst[0], &x[0], raised)
	}
	if rest := len(x) % groupSize; rest > 0 {
		var group [groupSize]float32
		copy(group[:], x[len(x)-rest:])
		quantisewide(1, &dst[len(x)/groupSize*groupWords], &group[0], raised)
	}
}

func quantiseSpans512(dst, x []float32) { eachSpan(dst, x, quantiseTogether512) }

// quantiseTogether512 is [quantiseTogether], the last of the inputs from a copy that zeros fill up.
func quantiseTogether512(dst, x []float32, raised int32) {
	const step = 64
	whole := len(x) &^ (step - 1)
	var rest [step]float32
	copy(rest[:], x[whole:])
	top := max(math.Float32bits(leastMagnitude), magnitudewide(step, &rest[0]))
	if whole > 0 {
		top = max(top, magnitudewide(whole, &x[0]))
	}
	largest := math.Float32frombits(top)
	inverse, sum := 127/largest, int32(0)
	if whole > 0 {
		sum = integerswide(whole, &dst[2], &x[0], inverse)
	}
	if whole < len(x) {
		var last [step / 4]float32
		sum += integerswide(step, &last[0], &rest[0], inverse)
		copy(dst[2+whole/4:], last[:])
		clear(bytesOf(dst[2:])[len(x):]) // a NaN makes zeros something else
	}
	dst[0] = largest * (1.0 / 127)
	dst[1] = math.Float32frombits(uint32(-sum * raised))
}
