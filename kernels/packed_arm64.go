package kernels

import "golang.org/x/sys/cpu"

// The tiles of asm_arm64.s for packed matrices, by their height: a panel wide up to wholeRows rows, which read it from end to end,
// then half a panel.
var (
	tilesFloat32 = [...]func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool){
		1: tile1x32, tile2x32, tile3x16, tile4x16, tile5x16, tile6x16,
	}
	tilesBFloat16 = [...]func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool){
		1: bf16tile1x32, bf16tile2x32, bf16tile3x16, bf16tile4x16, bf16tile5x16, bf16tile6x16,
	}
)

// An integerTile is a tile of products with integers from a column of a panel on.
type integerTile struct {
	width int
	tile  func(groups int, a *float32, b *byte, column int, c *float32, ldc int, add bool)
}

// The same for integers: wide tiles for few rows, as registers allow. The plain ones do without dot products of bytes.
var (
	tilesInt8 = []integerTile{
		1: {32, int8tile1x32}, {16, int8tile2x16}, {16, int8tile3x16}, {8, int8tile4x8}, {8, int8tile5x8}, {8, int8tile6x8},
	}
	tilesInt4 = []integerTile{
		1: {32, int4tile1x32}, {16, int4tile2x16}, {16, int4tile3x16}, {8, int4tile4x8}, {8, int4tile5x8}, {8, int4tile6x8},
	}
	tilesInt8Plain = []integerTile{1: {32, int8tile1x32plain}, {16, int8tile2x16plain}, {8, int8tile3x8plain}, {8, int8tile4x8plain}}
	tilesInt4Plain = []integerTile{1: {32, int4tile1x32plain}, {16, int4tile2x16plain}, {8, int4tile3x8plain}, {8, int4tile4x8plain}}
)

const wholeRows = 2

var tilesNEON = [formats]*tiles{
	Float32: {
		heights: []int{6, 5, 4, 3, 2, 1}, block: 512, few: 64, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			tilesFloat32[height](words, &a[0], &words32(b)[0], panelWidth, &c[0], ldc, add)
			if height > wholeRows {
				tilesFloat32[height](words, &a[0], &words32(b)[panelWidth/2], panelWidth, &c[panelWidth/2], ldc, add)
			}
		},
	},
	BFloat16: {heights: []int{6, 5, 4, 3, 2, 1}, block: 512, few: 128, strip: strip, tile: bf16tileNEON},
	BFloat16Dot: {
		heights: []int{6, 5, 4, 3, 2, 1}, block: 512, few: 128, encode: roundWords, widened: true, strip: strip, tile: bf16tileNEON,
	},
	Int8:       integers(8*groupWords, tilesInt8, tilesInt8Plain, quantise8),
	Int4:       integers(16*groupWords, tilesInt4, tilesInt4Plain, quantise4),
	Int8PerRow: tilesPortable[Int8PerRow],
}

// integers returns the tiles of a format, plain ones where the processor has no others: nearly all have them since 2018.
func integers(few int, dot, plain []integerTile, encode func(dst, x []float32)) *tiles {
	byHeight := dot
	if !cpu.ARM64.HasASIMDDP {
		byHeight = plain
	}
	t := &tiles{
		block: 64 * groupWords, few: few, encode: encode, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			t := byHeight[height]
			for j := 0; j < panelWidth; j += t.width {
				t.tile(words/groupWords, &a[0], &b[0], j, &c[j], ldc, add)
			}
		},
	}
	for h := len(byHeight) - 1; h > 0; h-- {
		t.heights = append(t.heights, h)
	}
	return t
}

func bf16tileNEON(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
	tilesBFloat16[height](words, &a[0], &words32(b)[0], panelWidth, &c[0], ldc, add)
	if height > wholeRows {
		tilesBFloat16[height](words, &a[0], &words32(b)[panelWidth/2], panelWidth, &c[panelWidth/2], ldc, add)
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

func quantise8(dst, x []float32) { quantiseNEON(dst, x, Int8.raised()) }

func quantise4(dst, x []float32) { quantiseNEON(dst, x, Int4.raised()) }

// quantiseNEON is quantisePortable, whole groups by assembly.
func quantiseNEON(dst, x []float32, raised int32) {
	groups := len(x) / groupSize
	if groups > 0 {
		quantise(groups, &dst[0], &x[0], raised)
	}
	quantisePortable(dst[groups*groupWords:], x[groups*groupSize:], raised)
}
