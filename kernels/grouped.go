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
// what another reads.
func Linears(products ...Product) {
	cuts, pieces, work := make([]cut, 0, len(products)), 0, 0
	for _, q := range products {
		c, buf, ok := q.cut()
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

// cut returns q in pieces, and what to give back after it; false if it has to be computed alone.
func (q Product) cut() (cut, *[]float32, bool) {
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
	left, buf := t.packLeft(q.X[:q.Rows*p.in], p, q.Rows, words)
	return t.cut(q.Y[:q.Rows*p.out], left, p, q.Rows, words, false), buf, true
}
