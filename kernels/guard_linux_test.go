package kernels

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// atPageEnd returns a copy of s whose last byte is followed by a page that faults on any access, and
// whose first is preceded by one if s fills whole pages.
func atPageEnd[T float32 | uint16](t *testing.T, s []T) []T {
	page := os.Getpagesize()
	bytes := len(s) * int(unsafe.Sizeof(s[0]))
	size := (bytes + page - 1) / page * page
	m, err := unix.Mmap(-1, 0, size+2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(m) })
	for _, guard := range [][]byte{m[:page], m[page+size:]} {
		if err := unix.Mprotect(guard, unix.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	inside := m[page+size-bytes : page+size]
	c := unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(inside))), len(s))
	copy(c, s)
	return c
}

func TestNothingBeyondTheSlicesIsTouched(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		fresh := func(n int) []float32 { return atPageEnd(t, normals(r, n)) }
		for _, n := range []int{1, 5, 14, 16, 31, 32, 33, 130} {
			for _, rows := range []int{1, 2, 7, 14, 15} {
				const in = 19
				x, w, dy := fresh(rows*in), fresh(n*in), fresh(rows*n)
				half, _ := halves(w)
				half = atPageEnd(t, half)
				for _, m := range []Matrix{NewMatrix(n, in, w), NewMatrixBF16(n, in, half)} {
					Linear(fresh(rows*n), x, m, rows)
					LinearAdd(fresh(rows*n), x, m, rows)
					LinearGradInput(fresh(rows*in), dy, m, rows)
					m.Row(fresh(in), n-1)
				}
				LinearGradWeight(fresh(n*in), dy, x, Matrix{Out: n, In: in}, rows)
				for _, m := range []Matrix{NewMatrix(in, n, w), NewMatrixBF16(in, n, half)} {
					Linear(fresh(rows*in), dy, m, rows)
					LinearAdd(fresh(rows*in), dy, m, rows)
					LinearGradInput(fresh(rows*n), x, m, rows)
				}
				LinearGradWeight(fresh(n*in), x, dy, Matrix{Out: in, In: n}, rows)

				RMSNorm(fresh(rows*n), fresh(rows), dy, fresh(n), 1e-5, rows)
				RMSNormGrad(fresh(rows*n), fresh(n), dy, fresh(rows*n), fresh(n), fresh(rows), rows)
				CrossEntropy(fresh(rows*n), make([]int32, rows), 0.1, 1, n, rows)
				LogProb(fresh(rows), dy, make([]int32, rows), n, rows)
				softmax(fresh(n))
				SoftmaxGrad(fresh(rows*n), dy, fresh(rows*n), fresh(rows), 0.1, n, rows)

				h := Heads{Query: 2, KV: 1, Dim: 2 * (n/2 + 1)}
				q, k := rows*h.Query*h.Dim, rows*h.KV*h.Dim
				NewRope(h.Dim, 10000, rows).Apply(fresh(q), h.Query, 0, rows)
				Attention(fresh(q), fresh(rows*h.Query), fresh(q), fresh(k), fresh(k), Span{Rows: rows}, h)
				Attention(fresh(h.Query*h.Dim), nil, fresh(h.Query*h.Dim), fresh(k), fresh(k), Span{1, rows - 1}, h)
				AttentionGrad(fresh(q), fresh(k), fresh(k), fresh(q), fresh(q), fresh(rows*h.Query), fresh(q), fresh(k), fresh(k), rows, h)
			}
			a, b := fresh(n), fresh(n)
			Dot(a, b)
			Axpy(a, 2, b)
			SumSquares(a)
			active.max(a)
			SiLUMul(fresh(n), a, b)
			SiLUMulGrad(fresh(n), fresh(n), fresh(n), a, b)
			AdamW(a, b, fresh(n), fresh(n), Adam{Step: 1})
		}
	})
}
