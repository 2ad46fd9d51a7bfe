package kernels

import "math"

// exp32 returns eˣ to within two units in the last place of float32, several times faster
// than math.Exp: x = n·ln2 + r with |r| ≤ ln2/2, and a polynomial of degree 6 for eʳ.
// Below −87.3 it returns 0 (results would be denormal), above 88.7 +Inf.
func exp32(x float32) float32 {
	switch {
	case x != x:
		return x
	case x < -87.3:
		return 0
	case x > 88.72:
		return float32(math.Inf(1))
	}
	const (
		log2e = 1.44269504088896341
		ln2Hi = 0.693359375
		ln2Lo = -2.12194440e-4
		magic = 1.5 * (1 << 23) // adding it rounds to the nearest integer
	)
	n := (x*log2e + magic) - magic
	r := x - n*ln2Hi - n*ln2Lo
	p := float32(1.9875691500e-4)
	p = p*r + 1.3981999507e-3
	p = p*r + 8.3334519073e-3
	p = p*r + 4.1665795894e-2
	p = p*r + 1.6666665459e-1
	p = p*r + 5.0000001201e-1
	p = p*r*r + r + 1
	// Two halves of the scale, since 2ⁿ alone overflows at n = 128.
	k := int32(n)
	half := k / 2
	return p * math.Float32frombits(uint32(127+half)<<23) * math.Float32frombits(uint32(127+k-half)<<23)
}

func expSumPortable(dst, x []float32, shift float32) float32 {
	var sum float32
	for i, v := range x {
		dst[i] = exp32(v - shift)
		sum += dst[i]
	}
	return sum
}

// softmax turns x into probabilities in place and returns the log of their denominator.
func softmax(x []float32) float32 {
	top := active.max(x)
	sum := active.expSum(x, x, top)
	active.scale(x, 1/sum)
	return top + float32(math.Log(float64(sum)))
}
