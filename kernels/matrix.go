package kernels

import "fmt"

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

// Linear computes y = x·mᵀ for each of rows rows: x is (rows, In), y is (rows, Out).
func Linear(y, x []float32, m Matrix, rows int) {
	y, x = y[:rows*m.Out], x[:rows*m.In]
	product(y, m.Out, operand{x, m.In, true}, operand{m.w, m.In, true}, rows, m.Out, m.In, false)
}

// LinearGradInput adds to dx, (rows, In), the gradient of [Linear]'s input: dx += dy·m, with
// dy (rows, Out).
func LinearGradInput(dx, dy []float32, m Matrix, rows int) {
	dx, dy = dx[:rows*m.In], dy[:rows*m.Out]
	product(dx, m.In, operand{dy, m.Out, true}, operand{m.w, m.In, false}, rows, m.In, m.Out, true)
}

// LinearGradWeight adds to dw, (out, in), the gradient of [Linear]'s weight: dw += dyᵀ·x,
// with dy (rows, out) and x (rows, in).
func LinearGradWeight(dw, dy, x []float32, out, in, rows int) {
	dw, dy, x = dw[:out*in], dy[:rows*out], x[:rows*in]
	product(dw, in, operand{dy, out, false}, operand{x, in, false}, out, in, rows, true)
}
