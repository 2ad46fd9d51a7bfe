package kernels

import "runtime"

// Inputs are rows of inputs that several products read. What a product with a packed matrix does to its inputs before it multiplies,
// rounding them and laying them out, is done by the first and serves those after it, as long as their matrices have the
// first's [Format]. Results are those of [Linear] and [LinearAdd], to the bit. The zero value is no rows; setting one again
// reuses its memory, which is at most that of the rows. It is for one goroutine at a time.
type Inputs struct {
	x    []float32 // (rows, in)
	rows int
	laid *tiles    // those that left is for, or nil
	left []float32 // a product's left side
}

// Set makes i the rows rows of x, which must not change before i is set again or done with.
func (i *Inputs) Set(x []float32, rows int) { i.x, i.rows, i.laid = x, rows, nil }

// Linear is [Linear] of i: y is (rows, Out).
func (i *Inputs) Linear(y []float32, m Matrix) { i.linear(y, m, false) }

// LinearAdd is [LinearAdd] of i.
func (i *Inputs) LinearAdd(y []float32, m Matrix) { i.linear(y, m, true) }

func (i *Inputs) linear(y []float32, m Matrix, add bool) {
	y, x := y[:i.rows*m.Out], i.x[:i.rows*m.In]
	p := m.packed
	if p == nil || len(x) == 0 || len(y) == 0 || active.tiles[p.format] == nil {
		linear(y, x, m, i.rows, add)
		return
	}
	t := active.tiles[p.format]
	words := t.left(p.format).words(p.in)
	if !t.prepares(i.rows) {
		t.share(y, x, p, i.rows, words, add)
	} else {
		if i.laid != t {
			if need := i.rows * words; cap(i.left) < need {
				i.left = make([]float32, need)
			}
			i.left = i.left[:i.rows*words]
			t.prepare(i.left, x, p.in, i.rows, words)
			i.laid = t
		}
		t.share(y, i.left, p, i.rows, words, add)
	}
	runtime.KeepAlive(p)
}
