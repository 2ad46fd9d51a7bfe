package kernels

import (
	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

// An operand is one side of a product that is summed over k: a vector of k values for each
// row of the result (the left side) or column (the right side), in one of two layouts.
type operand struct {
	data []float32
	ld   int

	// vectors: each vector is contiguous and they are ld apart, data[i*ld+k].
	// Otherwise element k of all vectors is contiguous, data[k*ld+i].
	vectors bool
}

// from returns the operand without its first i vectors and first k elements of each.
func (o operand) from(i, k int) operand {
	if o.vectors {
		o.data = o.data[i*o.ld+k:]
	} else {
		o.data = o.data[k*o.ld+i:]
	}
	return o
}

// product computes c = a·b, or c += a·b, where c is (m, n) with rows ldc apart, on the active tier.
func product(c []float32, ldc int, a, b operand, m, n, k int, add bool) {
	switch {
	case m == 0 || n == 0:
	case k > 0:
		a.check(m, k)
		b.check(n, k)
		active.product(c[:(m-1)*ldc+n], ldc, a, b, m, n, k, add)
	case !add:
		for i := range m {
			clear(c[i*ldc:][:n])
		}
	}
}

// check panics unless o holds as many vectors of k elements: assembly does not check bounds.
func (o operand) check(vectors, k int) {
	if !o.vectors {
		vectors, k = k, vectors
	}
	_ = o.data[(vectors-1)*o.ld+k-1]
}

// Tiles of the output, chosen so that gonum multiplies each on the calling thread in one
// fixed order of summation: it goes parallel by itself from four blocks of 64×64.
const (
	gonumRows    = 64
	gonumColumns = 192
)

func productPortable(c []float32, ldc int, a, b operand, m, n, k int, add bool) {
	transA, transB, beta := blas.Trans, blas.NoTrans, float32(0)
	if a.vectors {
		transA = blas.NoTrans
	}
	if b.vectors {
		transB = blas.Trans
	}
	if add {
		beta = 1
	}
	across := (n + gonumColumns - 1) / gonumColumns
	down := (m + gonumRows - 1) / gonumRows
	parallel(across*down, func(t int) {
		i, j := t/across*gonumRows, t%across*gonumColumns
		mi, nj := min(gonumRows, m-i), min(gonumColumns, n-j)
		blas32.Gemm(transA, transB, 1, a.from(i, 0).general(mi, k), b.from(j, 0).general(nj, k), beta,
			blas32.General{Rows: mi, Cols: nj, Stride: ldc, Data: c[i*ldc+j:]})
	})
}

func (o operand) general(vectors, k int) blas32.General {
	if !o.vectors {
		vectors, k = k, vectors
	}
	return blas32.General{Rows: vectors, Cols: k, Stride: o.ld, Data: o.data}
}
