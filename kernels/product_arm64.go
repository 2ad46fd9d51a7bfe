package kernels

var tilingNEON = &tiling{[]int{6, 5, 4, 3, 2, 1}, 16, 512, tileNEON, matvecNEON, nil}

// tiles16 are the tiles of sixteen columns, by their height.
var tiles16 = [...]func(k int, a, b *float32, ldb int, c *float32, ldc int, add bool){
	1: tile1x16, tile2x16, tile3x16, tile4x16, tile5x16, tile6x16,
}

func tileNEON(height, k int, a, b []float32, ldb int, c []float32, ldc int, add bool) {
	tiles16[height](k, &a[0], &b[0], ldb, &c[0], ldc, add)
}

func matvecNEON(y []float32, w operand, x []float32, k int, add bool) {
	if w.half != nil {
		matvec16bf16(&y[0], &w.half[0], w.ld, &x[0], k, add)
	} else {
		matvec16(&y[0], &w.data[0], w.ld, &x[0], k, add)
	}
}
