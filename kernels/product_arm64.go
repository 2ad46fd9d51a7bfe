package kernels

var tilingNEON = &tiling{[]int{6, 5, 4, 3, 2, 1}, 16, 512, tileNEON, matvecNEON}

func tileNEON(height, k int, a, b []float32, ldb int, c []float32, ldc int, add bool) {
	switch height {
	case 6:
		tile6x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 5:
		tile5x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 4:
		tile4x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 3:
		tile3x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 2:
		tile2x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 1:
		tile1x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	}
}

func matvecNEON(y []float32, w operand, x []float32, k int, add bool) {
	if w.half != nil {
		matvec16bf16(&y[0], &w.half[0], w.ld, &x[0], k, add)
	} else {
		matvec16(&y[0], &w.data[0], w.ld, &x[0], k, add)
	}
}
