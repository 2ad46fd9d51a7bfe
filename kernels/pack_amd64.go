package kernels

// copies are the functions that copy columns, by their number.
var copies = [...]func(dst, src *float32, ld, k int){
	4: copy4, copy5, copy6, copy7, copy8, copy9, copy10, copy11, copy12, copy13, copy14, 16: copy16, 32: copy32,
}

// copyColumns copies the first n elements of k rows to dst, if there is code for n.
func (o operand) copyColumns(n int, dst []float32, k int) bool {
	if o.half != nil {
		switch n {
		case 32:
			copy32bf16(&dst[0], &o.half[0], o.ld, k)
		case 16:
			copy16bf16(&dst[0], &o.half[0], o.ld, k)
		default:
			return false
		}
		return true
	}
	if copies[n] == nil {
		return false
	}
	copies[n](&dst[0], &o.data[0], o.ld, k)
	return true
}
