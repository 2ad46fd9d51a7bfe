package kernels

// Tiles of packed matrices. A tile of one row waits for its sums, and does so for as long as one of two rows takes.

var tiles512 = [formats]*tiles{
	Float32: {
		heights: []int{14, 8, 4, 3, 2, 1}, block: 512, few: 128, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			tile512(height, words, a, words32(b), panelWidth, c, ldc, add)
		},
	},
	BFloat16: {
		heights: []int{14, 8, 4, 3, 2, 1}, block: 512, few: 256, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			bf16tile512(height, words, a, words32(b), panelWidth, c, ldc, add)
		},
	},
	BFloat16Dot: {
		heights: []int{14, 8, 4, 3, 2, 1}, block: 512, few: 128, encode: roundRow, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			dottile512(height, words, a, words32(b), c, ldc, add)
		},
	},
	Int8: {
		heights: []int{7, 4, 3, 2, 1}, block: 64 * groupWords, few: 16 * groupWords, encode: quantise8, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			int8tile512(height, words/groupWords, 1, a, b, c, ldc, add)
		},
	},
	Int4: {
		heights: []int{7, 4, 3, 2, 1}, block: 64 * groupWords, few: 32 * groupWords, encode: quantise4, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			int4tile512(height, words/groupWords, 1, a, b, c, ldc, add)
		},
	},
}

// tiles2 are the tiles of AVX2, half a panel wide.
var tiles2 = [formats]*tiles{
	Float32: {
		heights: []int{6, 4, 3, 2, 1}, block: 512, few: 128, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			tile2(height, words, a, words32(b), panelWidth, c, ldc, add)
			tile2(height, words, a, words32(b)[16:], panelWidth, c[16:], ldc, add)
		},
	},
	BFloat16: {
		heights: []int{6, 4, 3, 2, 1}, block: 512, few: 256, strip: strip,
		tile: func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
			bf16tile2(height, words, a, words32(b), panelWidth, c, ldc, add)
			bf16tile2(height, words, a, words32(b)[16:], panelWidth, c[16:], ldc, add)
		},
	},
	BFloat16Dot: tilesPortable[BFloat16Dot],
	Int8:        tilesPortable[Int8],
	Int4:        tilesPortable[Int4],
}

func strip(dst, rows []float32, ld, height, words int) {
	floats(rows, ld, true).pack(dst, height, height, words)
}

func roundRow(dst, x []float32) {
	whole := len(x) &^ 31
	if whole > 0 {
		roundwide(whole, &dst[0], &x[0])
	}
	roundRowPortable(dst[whole/2:], x[whole:])
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

func bf16tile512(height, k int, a, b []float32, ldb int, c []float32, ldc int, add bool) {
	switch height {
	case 14:
		bf16tile14x32(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 8:
		bf16tile8x32(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 4:
		bf16tile4x32(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 3:
		bf16tile3x32(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 2:
		bf16tile2x32(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 1:
		bf16tile1x32(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	}
}

func bf16tile2(height, k int, a, b []float32, ldb int, c []float32, ldc int, add bool) {
	switch height {
	case 6:
		bf16tile6x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 4:
		bf16tile4x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 3:
		bf16tile3x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 2:
		bf16tile2x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 1:
		bf16tile1x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	}
}

func dottile512(height, words int, a, b, c []float32, ldc int, add bool) {
	switch height {
	case 14:
		dottile14x32(words, &a[0], &b[0], &c[0], ldc, add)
	case 8:
		dottile8x32(words, &a[0], &b[0], &c[0], ldc, add)
	case 4:
		dottile4x32(words, &a[0], &b[0], &c[0], ldc, add)
	case 3:
		dottile3x32(words, &a[0], &b[0], &c[0], ldc, add)
	case 2:
		dottile2x32(words, &a[0], &b[0], &c[0], ldc, add)
	case 1:
		dottile1x32(words, &a[0], &b[0], &c[0], ldc, add)
	}
}

func int8tile512(height, groups, chunks int, a []float32, b []byte, c []float32, ldc int, add bool) {
	switch height {
	case 7:
		int8tile7x32(groups, chunks, &a[0], &b[0], &c[0], ldc, add)
	case 4:
		int8tile4x32(groups, chunks, &a[0], &b[0], &c[0], ldc, add)
	case 3:
		int8tile3x32(groups, chunks, &a[0], &b[0], &c[0], ldc, add)
	case 2:
		int8tile2x32(groups, chunks, &a[0], &b[0], &c[0], ldc, add)
	case 1:
		int8tile1x32(groups, chunks, &a[0], &b[0], &c[0], ldc, add)
	}
}

func int4tile512(height, groups, chunks int, a []float32, b []byte, c []float32, ldc int, add bool) {
	switch height {
	case 7:
		int4tile7x32(groups, chunks, &a[0], &b[0], &c[0], ldc, add)
	case 4:
		int4tile4x32(groups, chunks, &a[0], &b[0], &c[0], ldc, add)
	case 3:
		int4tile3x32(groups, chunks, &a[0], &b[0], &c[0], ldc, add)
	case 2:
		int4tile2x32(groups, chunks, &a[0], &b[0], &c[0], ldc, add)
	case 1:
		int4tile1x32(groups, chunks, &a[0], &b[0], &c[0], ldc, add)
	}
}
