package kernels

// pack stores element k of the first n vectors in dst[k*stride:], and zeros up to a stride that is
// a tile's width.
func (o operand) pack(dst []float32, stride, n, k int) {
	dst = dst[:k*stride]
	if !o.vectors {
		if n == stride && copyColumns(n, dst, o.data, o.ld, k) {
			return
		}
		for i := range k {
			d := dst[i*stride:][:stride]
			clear(d[copy(d, o.data[i*o.ld:][:n]):])
		}
		return
	}
	if n < stride {
		clear(dst)
	}
	i := 0
	for ; i+8 <= n; i += 8 {
		pack8(&dst[i], stride, &o.data[i*o.ld], o.ld, k)
	}
	if n >= 4 && i < n && i+4 != n {
		// Four rows that end at the last repeat some, with the same values.
		if i+4 < n {
			pack4(&dst[i], stride, &o.data[i*o.ld], o.ld, k)
		}
		i = n - 4
	}
	if i+4 <= n {
		pack4(&dst[i], stride, &o.data[i*o.ld], o.ld, k)
		return
	}
	for ; i < n; i++ {
		for e, v := range o.data[i*o.ld:][:k] {
			dst[e*stride+i] = v
		}
	}
}

// copyColumns copies the first n elements of k rows to dst, if there is code for n.
func copyColumns(n int, dst, src []float32, ld, k int) bool {
	switch n {
	case 32:
		copy32(&dst[0], &src[0], ld, k)
	case 16:
		copy16(&dst[0], &src[0], ld, k)
	case 14:
		copy14(&dst[0], &src[0], ld, k)
	case 8:
		copy8(&dst[0], &src[0], ld, k)
	case 6:
		copy6(&dst[0], &src[0], ld, k)
	case 4:
		copy4(&dst[0], &src[0], ld, k)
	default:
		return false
	}
	return true
}
