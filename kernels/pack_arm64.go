package kernels

// copyColumns copies the first n elements of k rows to dst, if there is code for n.
func (o operand) copyColumns(n int, dst []float32, k int) bool {
	switch {
	case o.half != nil && n == 16:
		copy16bf16(&dst[0], &o.half[0], o.ld, k)
	case o.half != nil:
		return false
	case n == 16:
		copy16(&dst[0], &o.data[0], o.ld, k)
	case n == 6:
		copy6(&dst[0], &o.data[0], o.ld, k)
	case n == 4:
		copy4(&dst[0], &o.data[0], o.ld, k)
	default:
		return false
	}
	return true
}
