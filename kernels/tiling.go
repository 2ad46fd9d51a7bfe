//go:build amd64 || arm64

package kernels

import "runtime"

// A tiling is a family of micro-kernels: tiles of the result of a fixed width and of several
// heights. A product packs its left side into strips of one tile's height and its right side, panel
// by panel, into blocks of one tile's width, so that tiles read both from end to end
// (Goto and van de Geijn 2008).
//
// Tiles carry their sums from block to block, so that each is one chain of fused multiply-adds
// in the order of k, and neither heights nor blocks nor threads can change a bit.
type tiling struct {
	heights []int // descending, to 1
	width   int
	block   int // steps of k for which a packed panel stays in the second-level cache
	tile    func(height, k int, a, b []float32, ldb int, c []float32, ldc int, add bool)
	matvec  func(y []float32, w operand, x []float32, k int, add bool) // 16 rows
	narrow  *tiling                                                    // for results of half the width; it gives the same bits
}

// height returns that of the next tile when rows remain.
func (t *tiling) height(rows int) int {
	for _, h := range t.heights {
		if h <= rows {
			return h
		}
	}
	return 0
}

// product is the tier's function of this name.
func (t *tiling) product(c []float32, ldc int, a, b operand, m, n, k int, add bool) {
	if max(m, memoryRows)*n*k <= inline {
		t.serial(c, ldc, a, b, m, n, k, add)
		return
	}
	if m == 1 && a.vectors && b.vectors {
		parallelRows((n+15)/16, 4*k, func(i, j int) {
			i, j = i*16, min(n, j*16)
			t.vector(c[i:j], a.data, b.from(i, 0), k, add)
		})
		return
	}
	tallest := t.heights[0]
	most := max(8, packedMax/k/tallest) * tallest
	for i := 0; i < m; i += most {
		t.chunk(c[i*ldc:], ldc, a.from(i, 0), b, min(most, m-i), n, k, add)
	}
}

// serial is a product on the calling thread.
func (t *tiling) serial(c []float32, ldc int, a, b operand, m, n, k int, add bool) {
	if m == 1 && a.vectors && b.vectors {
		t.vector(c[:n], a.data, b, k, add)
		return
	}
	if t.narrow != nil && n <= t.narrow.width {
		t = t.narrow
	}
	left := borrow(m * k)
	defer giveBack(left)
	t.packStrips(*left, a, 0, m, k)
	for j := 0; j < n; j += t.width {
		t.panel(c[j:], ldc, *left, b.from(j, 0), m, min(t.width, n-j), k, add)
	}
}

// vector is a product of one vector a, reading b once and as it is.
func (t *tiling) vector(c, a []float32, b operand, k int, add bool) {
	j := 0
	for ; j+16 <= len(c); j += 16 {
		t.matvec(c[j:], b.from(j, 0), a, k, add)
	}
	for ; j < len(c); j += t.width {
		t.panel(c[j:], 0, a, b.from(j, 0), 1, min(t.width, len(c)-j), k, add)
	}
}

// packStrips packs rows i to end of the left side, each strip where its rows begin.
func (t *tiling) packStrips(left []float32, a operand, i, end, k int) {
	steps := k
	if !a.vectors {
		steps = 32 // neighbouring strips share cache lines: pack them before those are gone
	}
	for at := 0; at < k; at += steps {
		for i := i; i < end; {
			h := t.height(end - i)
			a.from(i, at).pack(left[i*k+at*h:], h, h, min(steps, k-at))
			i += h
		}
	}
}

// chunk is a product whose left side is packed at once, on all threads.
func (t *tiling) chunk(c []float32, ldc int, a, b operand, m, n, k int, add bool) {
	packed := borrow(m * k)
	defer giveBack(packed)
	left := *packed
	tallest := t.heights[0]
	if m*k <= inline/4 {
		t.packStrips(left, a, 0, m, k)
	} else {
		const group = 4 // strips
		rows := group * tallest
		parallel((m+rows-1)/rows, func(g int) {
			t.packStrips(left, a, g*rows, min(m, (g+1)*rows), k)
		})
	}
	// Enough pieces to keep all threads busy, but each of eight strips at least, so that packing a
	// panel pays.
	panels, strips := (n+t.width-1)/t.width, (m+tallest-1)/tallest
	split := min((4*runtime.GOMAXPROCS(0)+panels-1)/panels, max(1, strips/8))
	rows := (strips + split - 1) / split * tallest
	split = (m + rows - 1) / rows
	parallel(panels*split, func(p int) {
		j, i := p/split*t.width, p%split*rows
		t.panel(c[i*ldc+j:], ldc, left[i*k:], b.from(j, 0), min(rows, m-i), min(t.width, n-j), k, add)
	})
}

// panel computes the first n ≤ t.width columns of a product, with the left side packed.
func (t *tiling) panel(c []float32, ldc int, left []float32, b operand, m, n, k int, add bool) {
	block := t.block
	if m <= 2*t.heights[0] {
		block = 128 // the panel is read so few times that it had better stay in the first-level cache
	}
	// Read once, a panel that has the right layout need not be packed.
	direct := !b.vectors && b.half == nil && n == t.width && m <= t.heights[0]
	var right []float32
	if !direct {
		buf := borrow(block * t.width)
		defer giveBack(buf)
		right = *buf
	}
	var edge *[]float32
	if n < t.width {
		edge = borrow(t.heights[0] * t.width)
		defer giveBack(edge)
	}
	for at := 0; at < k; at += block {
		steps, ldb := min(block, k-at), t.width
		if direct {
			right, ldb = b.data[at*b.ld:], b.ld
		} else {
			b.from(0, at).pack(right, t.width, n, steps)
		}
		for i := 0; i < m; {
			h := t.height(m - i)
			a, ci, more := left[i*k+at*h:], c[i*ldc:], add || at > 0
			if n == t.width {
				t.tile(h, steps, a, right, ldb, ci, ldc, more)
			} else {
				t.edge(*edge, h, steps, a, right, ci, ldc, n, more)
			}
			i += h
		}
	}
}

// edge computes a tile of which only the first n columns belong to c.
func (t *tiling) edge(tmp []float32, h, k int, a, b []float32, c []float32, ldc, n int, add bool) {
	if add {
		for i := range h {
			copy(tmp[i*t.width:], c[i*ldc:][:n])
		}
	}
	t.tile(h, k, a, b, t.width, tmp, t.width, add)
	for i := range h {
		copy(c[i*ldc:][:n], tmp[i*t.width:])
	}
}
