package kernels

// LinearGradSquares adds to squares, (samples), of each sample the squared norm of its gradient of a [Linear]'s weight,
// without ever forming that gradient: what differentially private training clips by, sample by sample. A sample is
// length rows of dy, (samples·length, out), and of x, (samples·length, in), one after the other.
//
// The gradient is Σ dyᵢ·xᵢᵀ over the sample's rows, and its squared norm Σᵢⱼ (dyᵢ·dyⱼ)·(xᵢ·xⱼ), of two Gram matrices
// ("ghost clipping", Li et al. 2022; Goodfellow 2015 for one row). That is length·(out+in) multiplications a row, against out·in for
// the gradient itself. Products are rounded to float32 and added up in float64: where rows cancel each other, the error is
// relative to (Σ‖dyᵢ‖·‖xᵢ‖)², which the square would be if they did not.
func LinearGradSquares(squares []float64, dy, x []float32, out, in, length, samples int) {
	const block = 56 // rows of a Gram matrix that are computed at a time, up to their diagonal
	blocks := (length + block - 1) / block
	parts := make([]float64, samples*blocks)
	parallel(len(parts), func(p int) {
		// The last blocks are the widest: they go first.
		sample, i := p%samples, (blocks-1-p/samples)*block
		m, n := min(block, length-i), min(length, i+block)
		gram := borrow(2 * m * n)
		defer giveBack(gram)
		dys, xs := (*gram)[:m*n], (*gram)[m*n:]
		d, v := dy[sample*length*out:][:length*out], x[sample*length*in:][:length*in]
		product(dys, n, floats(d[i*out:], out, true), floats(d, out, true), m, n, out, false)
		product(xs, n, floats(v[i*in:], in, true), floats(v, in, true), m, n, in, false)
		for r := range m {
			a, b := dys[r*n:][:n], xs[r*n:][:n]
			parts[p] += 2*float64(active.dot(a[:i+r], b[:i+r])) + float64(a[i+r])*float64(b[i+r])
		}
	})
	for p, part := range parts {
		squares[p%samples] += part
	}
}
