package model

import "chorus/kernels"

// Rank returns the rank of the difference from the public matrix, 0 if the projection is one of its own.
func (p Projection) Rank() int { return p.A.Out }

// Row stores row i of W + B·A in dst, (In).
func (p Projection) Row(dst []float32, i int) {
	p.Matrix.Row(dst, i)
	if r := p.Rank(); r > 0 {
		b, a := make([]float32, r), make([]float32, p.In)
		p.B.Row(b, i)
		for j, v := range b {
			p.A.Row(a, j)
			kernels.Axpy(dst[:p.In], v, a)
		}
	}
}

// addDifference adds B·A·x to y for n rows: x is (n, In), y is (n, Out) and low is for (n, r). The sum W + B·A is never formed.
func (p *Projection) addDifference(y, x []float32, n int, low *[]float32) {
	if r := p.Rank(); r > 0 {
		kernels.Linear(grow(low, n*r), x, p.A, n)
		kernels.LinearAdd(y, *low, p.B, n)
	}
}
