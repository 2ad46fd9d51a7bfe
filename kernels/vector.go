package kernels

import "math"

// Dot returns Σ a·b over len(a) elements.
func Dot(a, b []float32) float32 { return active.dot(a, b) }

// Axpy adds a·x to y over len(y) elements.
func Axpy(y []float32, a float32, x []float32) { active.axpy(y, a, x) }

// Zero sets all of x to zero.
func Zero(x []float32) {
	parallelRows(len(x), 1, func(i, j int) { clear(x[i:j]) })
}

// vectors are the functions over contiguous elements that tiers have in versions of their own. All
// slices of a call have one length, and but for the first three functions it is not zero.
type vectors struct {
	dot     func(a, b []float32) float32                 // Σ a·b
	axpy    func(y []float32, a float32, x []float32)    // y += a·x
	scale   func(x []float32, a float32)                 // x *= a
	mulAxpy func(y []float32, a float32, x, z []float32) // y += a·x·z
	max     func(x []float32) float32

	// expSum computes dst = exp(x-shift) and returns its sum. dst may be x.
	expSum func(dst, x []float32, shift float32) float32

	siluMul     func(y, gate, up []float32)              // see [SiLUMul]
	siluMulGrad func(dgate, dup, dy, gate, up []float32) // see [SiLUMulGrad]

	sumSquares func(x []float32) float64                       // Σ x², in float64
	dot3       func(a, b, c []float32) float64                 // Σ a·b·c, in float64
	norm       func(y, x, weight []float32, s float32)         // y = weight·(x·s)
	normGrad   func(dx, dy, weight, x []float32, s, k float32) // dx += dy·weight·s - x·k

	softmaxGrad func(d, p []float32, mean, a float32) // d = p·(d-mean)·a

	turn func(a, b, cos, sin []float32, sign float32) // see [Rope]
	adam func(w, m, v, g []float32, c adamStep)       // see [AdamW]
}

var vectorsPortable = vectors{
	dot:         dotPortable,
	axpy:        axpyPortable,
	mulAxpy:     mulAxpyPortable,
	scale:       scalePortable,
	max:         maxPortable,
	expSum:      expSumPortable,
	siluMul:     siluMulPortable,
	siluMulGrad: siluMulGradPortable,
	sumSquares:  sumSquaresPortable,
	dot3:        dot3Portable,
	norm:        normPortable,
	normGrad:    normGradPortable,
	softmaxGrad: softmaxGradPortable,
	turn:        turnPortable,
	adam:        adamPortable,
}

func dotPortable(a, b []float32) float32 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float32
	for len(a) >= 4 && len(b) >= 4 {
		s0 += a[0] * b[0]
		s1 += a[1] * b[1]
		s2 += a[2] * b[2]
		s3 += a[3] * b[3]
		a, b = a[4:], b[4:]
	}
	for i, v := range a {
		s0 += v * b[i]
	}
	return (s0 + s1) + (s2 + s3)
}

func axpyPortable(y []float32, a float32, x []float32) {
	x = x[:len(y)]
	for i, v := range x {
		y[i] += a * v
	}
}

func mulAxpyPortable(y []float32, a float32, x, z []float32) {
	for i, v := range x[:len(y)] {
		y[i] += v * z[i] * a
	}
}

func scalePortable(x []float32, a float32) {
	for i := range x {
		x[i] *= a
	}
}

func maxPortable(x []float32) float32 {
	top := float32(math.Inf(-1))
	for _, v := range x {
		top = max(top, v)
	}
	return top
}

func sumSquaresPortable(x []float32) float64 {
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	return sum
}

func dot3Portable(a, b, c []float32) float64 {
	var sum float64
	for i, v := range a {
		sum += float64(v * b[i] * c[i])
	}
	return sum
}
