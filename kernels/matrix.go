package kernels

import (
	"fmt"
	"runtime"
)

// A Matrix is a weight of shape (Out, In), stored as checkpoints store it: one row per
// output feature, or in one of the layouts of [Matrix.Pack], which products read faster. Its storage is
// private to this package; callers build one with [NewMatrix] or [NewMatrixBF16] and use it through [Linear]
// and its gradients. A Matrix is a small value that shares its weights with its copies.
type Matrix struct {
	Out, In int
	w       []float32 // (Out, In), or
	h       []uint16  // (Out, In) in bfloat16, or
	packed  *packed
	owner   any // see Keeping
}

// NewMatrix returns the matrix of shape (out, in) over w, which it does not copy: a later
// write to w, such as an optimiser's, is seen by the next product.
func NewMatrix(out, in int, w []float32) Matrix {
	checkSize(out, in, len(w))
	return Matrix{Out: out, In: in, w: w}
}

// NewMatrixBF16 is [NewMatrix] over values in bfloat16, the upper halves of float32: every product
// with them is what it would be with the same values in float32, to the bit. They are widened
// as they are read, a few at a time.
func NewMatrixBF16(out, in int, w []uint16) Matrix {
	checkSize(out, in, len(w))
	return Matrix{Out: out, In: in, h: w}
}

// Keeping returns m as one that keeps owner from the garbage collector: it is for weights in
// memory that the collector does not manage, such as a mapped file, which owner releases when it
// is collected.
func (m Matrix) Keeping(owner any) Matrix {
	m.owner = owner
	return m
}

func checkSize(out, in, n int) {
	if n != out*in {
		panic(fmt.Sprintf("kernels: matrix of %d×%d over %d values", out, in, n))
	}
}

// Row stores row i in dst, (In): the embedding of token i when m is an embedding.
func (m Matrix) Row(dst []float32, i int) {
	if m.packed != nil {
		m.packed.row(dst[:m.In], i)
		runtime.KeepAlive(m.packed)
		return
	}
	m.operand(true).load(dst[:m.In], i*m.In)
	runtime.KeepAlive(m.owner)
}

// operand returns m as the side of a product that has its rows as vectors, or its columns.
func (m Matrix) operand(rows bool) operand { return operand{m.w, m.h, m.In, rows} }

// Linear computes y = x·mᵀ for each of rows rows: x is (rows, In), y is (rows, Out).
func Linear(y, x []float32, m Matrix, rows int) { linear(y, x, m, rows, false) }

// LinearAdd adds to y what [Linear] would store there.
func LinearAdd(y, x []float32, m Matrix, rows int) { linear(y, x, m, rows, true) }

func linear(y, x []float32, m Matrix, rows int, add bool) {
	y, x = y[:rows*m.Out], x[:rows*m.In]
	if m.packed != nil {
		m.packed.linear(y, x, rows, add)
		return
	}
	product(y, m.Out, floats(x, m.In, true), m.operand(true), rows, m.Out, m.In, add)
	runtime.KeepAlive(m.owner)
}

// LinearGradInput adds to dx, (rows, In), the gradient of [Linear]'s input: dx += dy·m, with
// dy (rows, Out). It is exact for the weights as they are stored: it rounds no gradients, whatever m's format, except for
// [Matrix.Mixed].
func LinearGradInput(dx, dy []float32, m Matrix, rows int) { gradInput(dx, dy, m, rows, true) }

// SetGradInput stores in dx what [LinearGradInput] would add to zeros there, to the bit.
func SetGradInput(dx, dy []float32, m Matrix, rows int) { gradInput(dx, dy, m, rows, false) }

func gradInput(dx, dy []float32, m Matrix, rows int, add bool) {
	dx, dy = dx[:rows*m.In], dy[:rows*m.Out]
	switch {
	case m.mixed():
		m.packed.gradient.linear(dx, dy, rows, add)
	case m.packed != nil:
		if !add {
			Zero(dx)
		}
		m.packed.gradInput(dx, dy, rows)
	default:
		product(dx, m.In, floats(dy, m.Out, true), m.operand(false), rows, m.In, m.Out, add)
	}
	runtime.KeepAlive(m.owner)
}

// LinearGradWeight adds to dw, (Out, In), the gradient of [Linear]'s weight: dw += dyᵀ·x, with dy (rows, Out) and x (rows, In).
// It does not read m, of which only the shape and, by [Matrix.Mixed], the arithmetic matter.
func LinearGradWeight(dw, dy, x []float32, m Matrix, rows int) { gradWeight(dw, dy, x, m, rows, true) }

// SetGradWeight stores in dw what [LinearGradWeight] would add to zeros there, to the bit. Adding reads the whole gradient
// from memory, which takes an eighth of the time of both.
func SetGradWeight(dw, dy, x []float32, m Matrix, rows int) { gradWeight(dw, dy, x, m, rows, false) }

func gradWeight(dw, dy, x []float32, m Matrix, rows int, add bool) {
	dw, dy, x = dw[:m.Out*m.In], dy[:rows*m.Out], x[:rows*m.In]
	if m.mixed() {
		m.packed.gradWeight(dw, dy, x, rows, add)
		return
	}
	product(dw, m.In, floats(dy, m.Out, false), floats(x, m.In, false), m.Out, m.In, rows, add)
}
