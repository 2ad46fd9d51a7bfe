package kernels

import "runtime"

// A Product is Y = X·Mᵀ for Rows rows: X is (Rows, In), Y is (Rows, Out).
type Product struct {
	Y, X []float32
	M    Matrix
	Rows int
}

// Linears computes products, each as [Linear] does, to the bit. Those of packed matrices are one piece of work for all
// threads, whatever their inputs: rows sorted by the expert that they chose, say, are a product for each. No product may store
// what another reads. Of products next to each other that read the same inputs, in one format, the first prepares them for all, as
// [Inputs] would.
func Linears(products ...Product) {
	cuts, pieces, work, bytes := make([]cut, 0, len(products)), 0, 0, 0
	for _, q := range products {
		if q.M.packed != nil {
			bytes += len(q.M.packed.data)
		}
	}
	for i, q := range products {
		c, buf, ok := q.cut(cuts, bytes, i == len(products)-1)
		if !ok {
			Linear(q.Y, q.X, q.M, q.Rows)
			continue
		}
		if buf != nil {
			defer giveBack(buf)
		}
		cuts = append(cuts, c)
		pieces += c.pieces()
		work += max(q.Rows, memoryRows) * q.M.Out * q.M.In
	}
	piece := func(i int) {
		for k := range cuts {
			if n := cuts[k].pieces(); i >= n {
				i -= n
				continue
			}
			cuts[k].multiply(i)
			return
		}
	}
	if work <= inline {
		for i := range pieces {
			piece(i)
		}
	} else {
		parallel(pieces, piece)
	}
	runtime.KeepAlive(products)
}

// cut returns q in pieces, and what to give back after it; false if it has to be computed alone. It may use the left side of the last
// of those before it.
func (q Product) cut(before []cut, bytes int, last bool) (cut, *[]float32, bool) {
	p := q.M.packed
	if p == nil || q.Rows == 0 || p.in == 0 || p.out == 0 {
		return cut{}, nil, false
	}
	t := active.tiles[p.format]
	if t == nil {
		return cut{}, nil, false
	}
	words := t.left(p.format).words(p.in)
	if q.Rows > t.most(words) {
		return cut{}, nil, false
	}
	x := q.X[:q.Rows*p.in]
	var left []float32
	var buf *[]float32
	if n := len(before); n > 0 && before[n-1].reads(t, x, q.Rows, words) {
		left = before[n-1].left
	} else {
		left, buf = t.packLeft(x, p, q.Rows, words)
	}
	c := t.cut(q.Y[:q.Rows*p.out], left, p, q.Rows, words, false, bytes, last)
	c.x = x
	return c, buf, true
}

// reads reports whether the left side of c is that of rows of x for t.
func (c *cut) reads(t *tiles, x []float32, rows, words int) bool {
	return c.t == t && c.rows == rows && c.words == words && len(c.x) == len(x) && &c.x[0] == &x[0]
}
