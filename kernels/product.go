package kernels

import (
	"math"
	"unsafe"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

// An operand is one side of a product that is summed over k: a vector of k values for each
// row of the result (the left side) or column (the right side), in one of two layouts.
type operand struct {
	data []float32 // or
	half []uint16  // in bfloat16, on the right side alone
	ld   int

	// vectors: each vector is contiguous and they are ld apart, data[i*ld+k].
	// Otherwise element k of all vectors is contiguous, data[k*ld+i].
	vectors bool
}

// floats returns an operand in float32.
func floats(data []float32, ld int, vectors bool) operand { return operand{data, nil, ld, vectors} }

// from returns the operand without its first i vectors and first k elements of each.
func (o operand) from(i, k int) operand {
	at := k*o.ld + i
	if o.vectors {
		at = i*o.ld + k
	}
	if o.half != nil {
		o.half = o.half[at:]
	} else {
		o.data = o.data[at:]
	}
	return o
}

// load stores in dst that many elements of o's memory, beginning with element at. A bfloat16 is the upper half
// of a float32.
func (o operand) load(dst []float32, at int) {
	if o.half == nil {
		copy(dst, o.data[at:][:len(dst)])
		return
	}
	for i, v := range o.half[at:][:len(dst)] {
		dst[i] = math.Float32frombits(uint32(v) << 16)
	}
}

const (
	// packedMax is the most elements of the left side that are packed at a time.
	packedMax = 1 << 20

	// inline is the work, in multiplications, that one thread does sooner than two share it; a
	// product of fewer rows than memoryRows takes as long as one of so many, which is what reading b takes.
	inline     = 1 << 18
	memoryRows = 8
)

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
	last := (vectors-1)*o.ld + k - 1
	if o.half != nil {
		_ = o.half[last]
	} else {
		_ = o.data[last]
	}
}

// Tiles of the output, chosen so that gonum multiplies each on the calling thread in one
// fixed order of summation: it goes parallel by itself from four blocks of 64×64.
const (
	gonumRows    = 64
	gonumColumns = 192

	// stagedMax is the most elements of the right side that are copied at a time, if one row has no more.
	stagedMax = 1 << 16
)

func productPortable(c []float32, ldc int, a, b operand, m, n, k int, add bool) {
	transA, transB := blas.Trans, blas.NoTrans
	if a.vectors {
		transA = blas.NoTrans
	}
	if b.vectors {
		transB = blas.Trans
	}
	across := (n + gonumColumns - 1) / gonumColumns
	down := (m + gonumRows - 1) / gonumRows
	parallel(across*down, func(t int) {
		i, j := t/across*gonumRows, t%across*gonumColumns
		mi, nj := min(gonumRows, m-i), min(gonumColumns, n-j)
		// What has to be copied goes by few rows of memory: as gonum sums, that changes no bit.
		direct, width, depth := b.from(j, 0).direct(), nj, k
		if !direct && b.vectors {
			width = max(1, stagedMax/k)
		} else if !direct {
			depth = max(1, stagedMax/nj)
		}
		for end := j + nj; j < end; j += width {
			for at := 0; at < k; at += depth {
				n, steps := min(width, end-j), min(depth, k-at)
				left, right, beta := a.from(i, at), b.from(j, at), float32(0)
				if add || at > 0 {
					beta = 1
				}
				var staged *[]float32
				if !direct {
					right, staged = right.stage(n, steps)
				}
				blas32.Gemm(transA, transB, 1, left.general(mi, steps), right.general(n, steps), beta,
					blas32.General{Rows: mi, Cols: n, Stride: ldc, Data: c[i*ldc+j:]})
				if !direct {
					giveBack(staged)
				}
			}
		}
	})
}

// direct reports whether gonum may read o, the right side, where it is. Its dot products on amd64 sum in an
// order of their own up to an address that is a multiple of 16, so each vector has to begin at one.
func (o operand) direct() bool {
	return o.half == nil && (!o.vectors || o.ld%4 == 0 && uintptr(unsafe.Pointer(&o.data[0]))%16 == 0)
}

// stage returns a direct copy of the first vectors and elements of o, and its memory, to be given back.
func (o operand) stage(vectors, k int) (operand, *[]float32) {
	rows, columns := vectors, k
	if !o.vectors {
		rows, columns = k, vectors
	}
	ld := (columns + 3) &^ 3
	buf := borrow(rows * ld)
	for r := range rows {
		o.load((*buf)[r*ld:][:columns], r*o.ld)
	}
	return floats(*buf, ld, o.vectors), buf
}

func (o operand) general(vectors, k int) blas32.General {
	if !o.vectors {
		vectors, k = k, vectors
	}
	return blas32.General{Rows: vectors, Cols: k, Stride: o.ld, Data: o.data}
}
