//go:build amd64 || arm64

package kernels

// pack stores element k of the first n vectors in dst[k*stride:], and zeros up to a stride that is
// a tile's width.
func (o operand) pack(dst []float32, stride, n, k int) {
	dst = dst[:k*stride]
	if !o.vectors {
		if n == stride && o.copyColumns(n, dst, k) {
			return
		}
		for i := range k {
			d := dst[i*stride:][:stride]
			o.load(d[:n], i*o.ld)
			clear(d[n:])
		}
		return
	}
	if n < stride {
		clear(dst)
	}
	i := 0
	for ; i+8 <= n; i += 8 {
		o.pack8(dst[i:], stride, i, k)
	}
	if n >= 4 && i < n && i+4 != n {
		// Four rows that end at the last repeat some, with the same values.
		if i+4 < n {
			o.pack4(dst[i:], stride, i, k)
		}
		i = n - 4
	}
	if i+4 <= n {
		o.pack4(dst[i:], stride, i, k)
		return
	}
	for ; i < n; i++ {
		for e := range k {
			o.load(dst[e*stride+i:][:1], i*o.ld+e)
		}
	}
}

// pack8 is pack of eight vectors from i on.
func (o operand) pack8(dst []float32, stride, i, k int) {
	if o.half != nil {
		pack8bf16(&dst[0], stride, &o.half[i*o.ld], o.ld, k)
	} else {
		pack8(&dst[0], stride, &o.data[i*o.ld], o.ld, k)
	}
}

// pack4 is pack of four vectors from i on.
func (o operand) pack4(dst []float32, stride, i, k int) {
	if o.half != nil {
		pack4bf16(&dst[0], stride, &o.half[i*o.ld], o.ld, k)
	} else {
		pack4(&dst[0], stride, &o.data[i*o.ld], o.ld, k)
	}
}
