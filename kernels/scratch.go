package kernels

import (
	"math/bits"
	"sync"
)

// scratch holds buffers for reuse, by the power of two that is their size.
var scratch [64]sync.Pool // of *[]float32

// borrow returns a buffer of n ≥ 1 elements of any value, to be given back by [giveBack].
func borrow(n int) *[]float32 {
	class := bits.Len(uint(n - 1))
	b, ok := scratch[class].Get().(*[]float32)
	if !ok {
		s := make([]float32, 1<<class)
		b = &s
	}
	*b = (*b)[:n]
	return b
}

func giveBack(b *[]float32) { scratch[bits.Len(uint(len(*b)-1))].Put(b) }
