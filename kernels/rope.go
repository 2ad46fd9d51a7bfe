package kernels

import "math"

// A Rope holds the cosines and sines of rotary position embedding (Su et al. 2021) in the
// half-split (NeoX) layout: feature i of a head turns together with feature i+headDim/2, by
// the angle position·theta^(−2i/headDim).
// It is read-only once made.
type Rope struct {
	headDim  int
	cos, sin []float32 // (positions, headDim/2)
}

// NewRope returns the table for heads of headDim features and the first positions positions.
func NewRope(headDim int, theta float64, positions int) *Rope {
	half := headDim / 2
	r := &Rope{headDim, make([]float32, positions*half), make([]float32, positions*half)}
	for i := range half {
		inv := float32(math.Pow(theta, -2*float64(i)/float64(headDim)))
		for p := range positions {
			sin, cos := math.Sincos(float64(float32(p) * inv))
			r.cos[p*half+i], r.sin[p*half+i] = float32(cos), float32(sin)
		}
	}
	return r
}

// Positions returns how many positions the table holds.
func (r *Rope) Positions() int { return len(r.cos) / (r.headDim / 2) }

// Apply turns x, (rows, heads, headDim), in place; row i stands at position start+i.
func (r *Rope) Apply(x []float32, heads, start, rows int) { r.turn(x, heads, start, rows, 1) }

// Grad turns a gradient back: the transpose of [Rope.Apply], in place.
func (r *Rope) Grad(dx []float32, heads, start, rows int) { r.turn(dx, heads, start, rows, -1) }

func (r *Rope) turn(x []float32, heads, start, rows int, sign float32) {
	half := r.headDim / 2
	width := heads * r.headDim
	parallelRows(rows, width, func(i, j int) {
		for row := i; row < j; row++ {
			cos := r.cos[(start+row)*half:][:half]
			sin := r.sin[(start+row)*half:][:half]
			for h := range heads {
				a := x[row*width+h*r.headDim:][:half]
				b := x[row*width+h*r.headDim+half:][:half]
				active.turn(a, b, cos, sin, sign)
			}
		}
	})
}

func turnPortable(a, b, cos, sin []float32, sign float32) {
	for c, u := range a {
		v, s := b[c], sign*sin[c]
		a[c] = u*cos[c] - v*s
		b[c] = v*cos[c] + u*s
	}
}
