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
}

var (
	tiling512 = &tiling{[]int{14, 8, 4, 2, 1}, 32, 512, tile512}
	tiling2   = &tiling{[]int{6, 4, 2, 1}, 16, 512, tile2}
)

func tile512(height, k int, a, b []float32, ldb int, c []float32, ldc int, add bool) {
	switch height {
	case 14:
		tile14x32(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 8:
		tile8x32(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 4:
		tile4x32(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 2:
		tile2x32(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 1:
		tile1x32(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	}
}

func tile2(height, k int, a, b []float32, ldb int, c []float32, ldc int, add bool) {
	switch height {
	case 6:
		tile6x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 4:
		tile4x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 2:
		tile2x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
	case 1:
		tile1x16(k, &a[0], &b[0], ldb, &c[0], ldc, add)
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

const (
	maxHeight = 14
	maxWidth  = 32

	// packedMax is the most elements of the left side that are packed at a time.
	packedMax = 1 << 20

	// group is how many strips are packed as one piece of work.
	group = 4

	// inline is the work, in multiplications, that one thread does sooner than two share it.
	inline = 1 << 18
)

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
	if m == 1 && a.vectors && b.vectors && !add {
		t.matvec(c, a.data, b, n, k)
		return
	}
	tallest := t.heights[0]
	most := max(8, packedMax/k/tallest) * tallest
	for i := 0; i < m; i += most {
		t.chunk(c[i*ldc:], ldc, a.from(i, 0), b, min(most, m-i), n, k, add)
	}
}

// matvec computes c = b·a for one vector a.
func (t *tiling) matvec(c, a []float32, b operand, n, k int) {
	whole := n / 16
	multiply := func(i, j int) {
		for ; i < j; i++ {
			matvec16(&c[i*16], &b.data[i*16*b.ld], b.ld, &a[0], k)
		}
	}
	if n*k <= inline {
		multiply(0, whole)
	} else {
		parallelRows(whole, 4*k, multiply)
	}
	for j := whole * 16; j < n; j += t.width {
		t.panel(c[j:], n, a, b.from(j, 0), 1, min(t.width, n-j), k, false)
	}
}

// chunk is a product whose left side is packed at once.
func (t *tiling) chunk(c []float32, ldc int, a, b operand, m, n, k int, add bool) {
	packed := borrow(m*k + maxHeight)
	defer giveBack(packed)
	left := *packed
	tallest := t.heights[0]
	strips := (m + tallest - 1) / tallest
	pack := func(s int) {
		steps := k
		if !a.vectors {
			steps = 32 // the strips of a group share cache lines: pack them before they are gone
		}
		for at := 0; at < k; at += steps {
			for i := s * group * tallest; i < min(m, (s+1)*group*tallest); {
				h := t.height(m - i)
				a.from(i, at).pack(left[i*k+at*h:], h, h, min(steps, k-at))
				i += h
			}
		}
	}
	groups := (strips + group - 1) / group
	panels := (n + t.width - 1) / t.width
	if m*n*k <= inline {
		for s := range groups {
			pack(s)
		}
		for p := range panels {
			j := p * t.width
			t.panel(c[j:], ldc, left, b.from(j, 0), m, min(t.width, n-j), k, add)
		}
		return
	}
	if m*k <= inline/4 {
		for s := range groups {
			pack(s)
		}
	} else {
		parallel(groups, pack)
	}
	// Enough pieces to keep all threads busy, but each of eight strips at least, so that packing a
	// panel pays.
	split := min((4*runtime.GOMAXPROCS(0)+panels-1)/panels, max(1, strips/8))
	per := (strips + split - 1) / split * tallest
	split = (m + per - 1) / per
	parallel(panels*split, func(p int) {
		j, i := p/split*t.width, p%split*per
		t.panel(c[i*ldc+j:], ldc, left[i*k:], b.from(j, 0), min(per, m-i), min(t.width, n-j), k, add)
	})
}

// panel computes the first n ≤ t.width columns of a product, with the left side packed.
func (t *tiling) panel(c []float32, ldc int, left []float32, b operand, m, n, k int, add bool) {
	block := t.block
	if m <= 2*t.heights[0] {
		block = 128 // the panel is read so few times that it had better stay in the first-level cache
	}
	// Read once, a panel that has the right layout need not be packed.
	direct := !b.vectors && n == t.width && m <= t.heights[0]
	var right []float32
	if !direct {
		buf := borrow(block*t.width + maxWidth)
		defer giveBack(buf)
		right = *buf
	}
	var edge *[]float32
	if n < t.width {
		edge = borrow(maxHeight * maxWidth)
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
