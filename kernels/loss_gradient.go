package kernels

import "runtime"

// SetGradInput stores in dx what [LinearGradInput] would add to zeros there, to the bit.
func SetGradInput(dx, dy []float32, m Matrix, rows int) {
	if m.packed != nil {
		Zero(dx[:rows*m.In])
		LinearGradInput(dx, dy, m, rows)
		return
	}
	dx, dy = dx[:rows*m.In], dy[:rows*m.Out]
	product(dx, m.In, floats(dy, m.Out, true), m.operand(false), rows, m.In, m.Out, false)
	runtime.KeepAlive(m.owner)
}

// SetGradWeight stores in dw what [LinearGradWeight] would add to zeros there, to the bit. Adding reads the whole gradient
// from memory, which takes an eighth of the time of both.
func SetGradWeight(dw, dy, x []float32, out, in, rows int) {
	dw, dy, x = dw[:out*in], dy[:rows*out], x[:rows*in]
	product(dw, in, floats(dy, out, false), floats(x, in, false), out, in, rows, false)
}
