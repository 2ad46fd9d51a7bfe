package kernels

var (
	tiling512 = &tiling{tiles512[Float32].heights, 32, 512, tile512, matvec512, tiling2}
	tiling2   = &tiling{tiles2[Float32].heights, 16, 512, tile2, matvec2, nil}
)

func tile512(height, k int, a, b []float32, ldb int, c []float32, ldc int, add bool) {
	tilesFloat32[height](k, &a[0], &b[0], ldb, &c[0], ldc, add)
}

func tile2(height, k int, a, b []float32, ldb int, c []float32, ldc int, add bool) {
	tilesFloat32Narrow[height](k, &a[0], &b[0], ldb, &c[0], ldc, add)
}

func matvec512(y []float32, w operand, x []float32, k int, add bool) {
	if w.half != nil {
		matvec16bf16wide(&y[0], &w.half[0], w.ld, &x[0], k, add)
	} else {
		matvec16wide(&y[0], &w.data[0], w.ld, &x[0], k, add)
	}
}

func matvec2(y []float32, w operand, x []float32, k int, add bool) {
	if w.half != nil {
		matvec16bf16(&y[0], &w.half[0], w.ld, &x[0], k, add)
	} else {
		matvec16(&y[0], &w.data[0], w.ld, &x[0], k, add)
	}
}
