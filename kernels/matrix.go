package kernels

import (
	"fmt"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

// A Matrix is a weight of shape (Out, In), stored as checkpoints store it: one row per
// output feature. Its storage is private to this package, so that a faster layout can take
// its place; callers build one with [NewMatrix] and use it through [Linear] and its gradients.
// A Matrix is a small value that shares its weights with its copies.
type Matrix struct {
	Out, In int
	w       []float32 // (Out, In)
}

// NewMatrix returns the matrix of shape (out, in) over w, which it does not copy: a later
// write to w, such as an optimiser's, is seen by the next product.
func NewMatrix(out, in int, w []float32) Matrix {
	if len(w) != out*in {
		panic(fmt.Sprintf("kernels: matrix of %d×%d over %d values", out, in, len(w)))
	}
	return Matrix{out, in, w}
}

// Row returns row i, (In): the embedding of token i when m is an embedding.
func (m Matrix) Row(i int) []float32 { return m.w[i*m.In : (i+1)*m.In] }

// Tiles of the output, chosen so that gonum multiplies each on the calling thread in one
// fixed order of summation: it goes parallel by itself from four blocks of 64×64.
const (
	tileRows = 64
	tileCols = 192
)

func tiles(rows, cols int, f func(i, ni, j, nj int)) {
	across := (cols + tileCols - 1) / tileCols
	down := (rows + tileRows - 1) / tileRows
	parallel(across*down, func(t int) {
		i, j := t/across*tileRows, t%across*tileCols
		f(i, min(tileRows, rows-i), j, min(tileCols, cols-j))
	})
}

func view(rows, cols, stride int, data []float32) blas32.General {
	return blas32.General{Rows: rows, Cols: cols, Stride: stride, Data: data}
}

// Linear computes y = x·mᵀ for each of rows rows: x is (rows, In), y is (rows, Out).
func Linear(y, x []float32, m Matrix, rows int) {
	y, x = y[:rows*m.Out], x[:rows*m.In]
	tiles(rows, m.Out, func(i, ni, j, nj int) {
		blas32.Gemm(blas.NoTrans, blas.Trans, 1,
			view(ni, m.In, m.In, x[i*m.In:]),
			view(nj, m.In, m.In, m.w[j*m.In:]), 0,
			view(ni, nj, m.Out, y[i*m.Out+j:]))
	})
}

// LinearGradInput adds to dx, (rows, In), the gradient of [Linear]'s input: dx += dy·m, with
// dy (rows, Out).
func LinearGradInput(dx, dy []float32, m Matrix, rows int) {
	dx, dy = dx[:rows*m.In], dy[:rows*m.Out]
	tiles(rows, m.In, func(i, ni, j, nj int) {
		blas32.Gemm(blas.NoTrans, blas.NoTrans, 1,
			view(ni, m.Out, m.Out, dy[i*m.Out:]),
			view(m.Out, nj, m.In, m.w[j:]), 1,
			view(ni, nj, m.In, dx[i*m.In+j:]))
	})
}

// LinearGradWeight adds to dw, (out, in), the gradient of [Linear]'s weight: dw += dyᵀ·x,
// with dy (rows, out) and x (rows, in).
func LinearGradWeight(dw, dy, x []float32, out, in, rows int) {
	dw, dy, x = dw[:out*in], dy[:rows*out], x[:rows*in]
	if rows == 0 {
		return
	}
	tiles(out, in, func(i, ni, j, nj int) {
		blas32.Gemm(blas.Trans, blas.NoTrans, 1,
			view(rows, ni, out, dy[i:]),
			view(rows, nj, in, x[j:]), 1,
			view(ni, nj, in, dw[i*in+j:]))
	})
}
