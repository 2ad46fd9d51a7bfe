package kernels

import "golang.org/x/sys/cpu"

// tilesNEON are the tiles of packed matrices: those of one or two rows are a panel wide, and read it from end to end, the others half a panel.
var tilesNEON = [formats]*tiles{
	Float32: {
		heights: []int{6, 5, 4, 3, 2, 1}, block: 512, few: 128, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			w := words32(b)
			switch height {
			case 2:
				tile2x32(words, &a[0], &w[0], panelWidth, &c[0], ldc, add)
			case 1:
				tile1x32(words, &a[0], &w[0], panelWidth, &c[0], ldc, add)
			default:
				tileNEON(height, words, a, w, panelWidth, c, ldc, add)
				tileNEON(height, words, a, w[16:], panelWidth, c[16:], ldc, add)
			}
		},
	},
	BFloat16: {
		heights: []int{6, 5, 4, 3, 2, 1}, block: 512, few: 256, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			w := words32(b)
			switch height {
			case 2:
				bf16tile2x32(words, &a[0], &w[0], panelWidth, &c[0], ldc, add)
			case 1:
				bf16tile1x32(words, &a[0], &w[0], panelWidth, &c[0], ldc, add)
			default:
				bf16tileNEON(height, words, a, w, panelWidth, c, ldc, add)
				bf16tileNEON(height, words, a, w[16:], panelWidth, c[16:], ldc, add)
			}
		},
	},
	BFloat16Dot: tilesPortable[BFloat16Dot],
	Int8:        integerTilesNEON(Int8, 16, int8tileNEON),
	Int4:        integerTilesNEON(Int4, 32, int4tileNEON),
}

// integerTilesNEON returns the tiles of f, with few groups at a time where rows are few, and the portable ones on a
// processor that lacks dot products of bytes.
func integerTilesNEON(f Format, few int, tile func(height, groups int, a []float32, b []byte, c []float32, ldc int, add bool)) *tiles {
	if !cpu.ARM64.HasASIMDDP {
		return tilesPortable[f]
	}
	return &tiles{
		heights: []int{6, 4, 3, 2, 1}, block: 64 * groupWords, few: few * groupWords, strip: strip,
		encode: tilesPortable[f].encode,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			tile(height, words/groupWords, a, b, c, ldc, add)
		},
	}
}

func strip(dst, rows []float32, ld, height, words int) {
	floats(rows, ld, true).pack(dst, height, height, words)
}

func bf16tileNEON(height, k int, a, b []float32, ldb int, c []float32, ldc int, add bool) {
	switch height {
	case 6:
		bf16tile6x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 5:
		bf16tile5x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 4:
		bf16tile4x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 3:
		bf16tile3x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	}
}

func int8tileNEON(height, groups int, a []float32, b []byte, c []float32, ldc int, add bool) {
	switch height {
	case 6:
		for j := 0; j < panelWidth; j += 8 {
			int8tile6x8(groups, &a[0], &b[0], j, &c[j], ldc, add)
		}
	case 4:
		for j := 0; j < panelWidth; j += 8 {
			int8tile4x8(groups, &a[0], &b[0], j, &c[j], ldc, add)
		}
	case 3:
		for j := 0; j < panelWidth; j += 16 {
			int8tile3x16(groups, &a[0], &b[0], j, &c[j], ldc, add)
		}
	case 2:
		for j := 0; j < panelWidth; j += 16 {
			int8tile2x16(groups, &a[0], &b[0], j, &c[j], ldc, add)
		}
	case 1:
		int8tile1x32(groups, &a[0], &b[0], 0, &c[0], ldc, add)
	}
}

func int4tileNEON(height, groups int, a []float32, b []byte, c []float32, ldc int, add bool) {
	switch height {
	case 6:
		for j := 0; j < panelWidth; j += 8 {
			int4tile6x8(groups, &a[0], &b[0], j, &c[j], ldc, add)
		}
	case 4:
		for j := 0; j < panelWidth; j += 8 {
			int4tile4x8(groups, &a[0], &b[0], j, &c[j], ldc, add)
		}
	case 3:
		for j := 0; j < panelWidth; j += 16 {
			int4tile3x16(groups, &a[0], &b[0], j, &c[j], ldc, add)
		}
	case 2:
		for j := 0; j < panelWidth; j += 16 {
			int4tile2x16(groups, &a[0], &b[0], j, &c[j], ldc, add)
		}
	case 1:
		int4tile1x32(groups, &a[0], &b[0], 0, &c[0], ldc, add)
	}
}
