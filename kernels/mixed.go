package kernels

import "math"

// Mixed returns a copy of m for training in mixed precision (Micikevicius et al. 2018): its products, those of its gradients too, round what they
// read to bfloat16, as [BFloat16Dot] does, and sum in float32. The weights that an optimiser updates stay in m, from which
// [Matrix.Refill] brings the copy up to date. It takes the memory of m once more: weights in the order of the product, and in that of its gradient.
func (m Matrix) Mixed() Matrix {
	p := m.Pack(BFloat16Dot)
	p.packed.gradient = m.PackTransposed(BFloat16Dot).packed
	return p
}

// mixed reports whether m is a copy by [Matrix.Mixed].
func (m Matrix) mixed() bool { return m.packed != nil && m.packed.gradient != nil }

// gradWeight computes dw = dyᵀ·x, or dw += dyᵀ·x, of the weight of p. It is a product over rows, of which two at a time make a word.
func (p *packed) gradWeight(dw, dy, x []float32, rows int, add bool) {
	t := active.tiles[BFloat16Dot]
	switch {
	case p.out == 0 || p.in == 0:
		return
	case rows == 0:
		if !add {
			clear(dw)
		}
		return
	}
	right := &packed{format: BFloat16Dot, out: p.in, in: rows, transposed: true}
	panels := borrow(right.panels() * BFloat16Dot.words(rows) * panelWidth)
	defer giveBack(panels)
	right.data = bytesOf(*panels)
	right.fill(NewMatrix(rows, p.in, x))
	words, tallest := t.left(BFloat16Dot).words(rows), t.heights[0]
	most := max(8, packedMax/words/tallest) * tallest
	left := borrow(min(most, p.out) * words)
	defer giveBack(left)
	for o := 0; o < p.out; o += most {
		n := min(most, p.out-o)
		t.columns(*left, dy[o:], p.out, n, rows, words)
		t.share(dw[o*p.in:], *left, right, n, words, add)
	}
}

// columns packs n columns of dy, (rows, ld), into strips.
func (t *tiles) columns(left, dy []float32, ld, n, rows, words int) {
	const group = 4 // strips, which share cache lines of dy
	whole, step := t.whole(n), group*t.heights[0]
	pieces := (whole + step - 1) / step
	parallel(pieces+1, func(g int) {
		first, last := g*step, min(whole, (g+1)*step)
		if g == pieces {
			first, last = whole, n
		}
		const some = 32 // rows at a time, whose lines stay in the first-level cache
		for r := 0; r < rows; r += some {
			m := min(some, rows-r)
			t.strips(first, last, func(i, h int) {
				if t.widened {
					roundedColumns(left[i*words+r*h:], dy[r*ld+i:], ld, h, m)
				} else {
					pairs(left[i*words+r/2*h:], dy[r*ld+i:], ld, h, m)
				}
			})
		}
	})
}

// pairs stores n columns of src, (rows, ld), as (rows/2, n) words of two rows, rounded to bfloat16. The last of an odd
// number of rows stands beside zeros.
func pairs(dst, src []float32, ld, n, rows int) {
	active.pairs(dst, src, ld, n, rows/2)
	if rows%2 == 1 {
		d := dst[rows/2*n:][:n]
		for c, v := range src[(rows-1)*ld:][:n] {
			d[c] = math.Float32frombits(uint32(roundBFloat16(v)))
		}
	}
}

func pairsPortable(dst, src []float32, ld, n, words int) {
	for w := range words {
		low, high := src[2*w*ld:][:n], src[(2*w+1)*ld:][:n]
		for c, d := 0, dst[w*n:][:n]; c < n; c++ {
			d[c] = math.Float32frombits(uint32(roundBFloat16(low[c])) | uint32(roundBFloat16(high[c]))<<16)
		}
	}
}

// roundedColumns stores n columns of src, (rows, ld), as (rows, n), rounded to bfloat16.
func roundedColumns(dst, src []float32, ld, n, rows int) {
	for r := range rows {
		for c, v := range src[r*ld:][:n] {
			dst[r*n+c] = widened(roundBFloat16(v))
		}
	}
}
