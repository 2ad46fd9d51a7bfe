package kernels

import (
	"encoding/binary"
	"math"
	"runtime"
	"unsafe"
)

// A Format is how a packed [Matrix] holds its weights, and the arithmetic of its products. The names of the first two
// say what is stored; their products are those of the unpacked matrix, to the bit.
type Format int

const (
	// Float32 holds weights in 4 bytes.
	Float32 Format = iota

	// BFloat16 holds weights in 2 bytes, rounded to the nearest bfloat16, which changes none of a matrix in bfloat16.
	// They are widened as they are read: inputs and sums stay float32.
	BFloat16

	// BFloat16Dot holds weights as BFloat16 does, and rounds inputs in the same way, row by row. Their products are exact
	// and summed in float32: besides what rounding to 8 bits does to weights and inputs, which is at most 2⁻⁸ of each, the
	// error is within that of In+2 roundings of float32. Numbers below 2⁻¹²⁶ may count as zero.
	BFloat16Dot

	// Int8 holds weights in 8.5 bits: integers from -127 to 127, and a scale in bfloat16 for each group of 32 along a row, so that a
	// weight is within 1/250 of the largest of its group. Inputs are rounded in the same way, row by row, with
	// scales in float32, to within 1/253 of the largest of their group. Products in a group are summed exactly and groups, in
	// order, in float32. A largest input below 10⁻³⁰ counts as that much; an infinity or NaN gives NaN or infinities.
	// Where both are normally distributed, outputs are 0.8% of their deviation from exact, of which inputs are 0.5%.
	Int8

	// Int4 is Int8 with weights in 4.5 bits: integers from -8 to 7, each weight to within 1/7 of the largest of
	// its group. The figure for outputs is 9%, nearly all of it the weights'.
	Int4

	// Int8PerRow holds weights in 8 bits: integers from -127 to 127, and a scale in float32 for each row, so that a weight is
	// within 1/253 of the largest of its row. Inputs are rounded in the same way, row by row. Sums of products are exact, and scaled
	// once, at the end. Of rows longer than 8192 each 8192 have a scale of their own, and their sums are added, in order,
	// in float32. What counts as how much is as with Int8.
	// It is the fastest for many rows. Where both are normally distributed, outputs of rows of 1024 are 1.1% of their deviation from
	// exact; a few large weights or inputs in a row, which Int8 keeps to their groups, make that more.
	Int8PerRow

	formats
)

const (
	// panelWidth is how many outputs are packed side by side.
	panelWidth = 32

	// groupSize is how many weights of a row share a scale.
	groupSize = 32

	// groupWords is what a group of inputs takes on the left side of a product with integers, in words.
	groupWords = 2 + groupSize/4
)

// packed is the storage of a packed matrix: panels of panelWidth outputs, the last filled up with zeros. A panel is read from end
// to end, whether by one row of inputs or by many. It is a sequence of words of 32 bits, in vectors of panelWidth,
// one for each output:
//
//	Float32     (in) weights
//	BFloat16    (in/2, rounded up) pairs of weights that follow each other in a row, the first in the lower half
//	Int8, Int4  (in/32, rounded up) groups; see quant.go
//	Int8PerRow  (in/8192, rounded up) spans; see span.go
type packed struct {
	format     Format
	out, in    int
	transposed bool   // came from PackTransposed
	data       []byte // (panels, panelBytes)
	memory     *memory

	gradient *packed // of a copy by Mixed: the transpose
}

// panelBytes returns what the first words words of a panel's left side meet: all of them, or whole blocks.
func (f Format) panelBytes(words int) int {
	switch f {
	case Float32, BFloat16Dot:
		return words * 4 * panelWidth
	case BFloat16:
		return (words + 1) / 2 * 4 * panelWidth
	case Int8PerRow:
		return (words - (words+spanWords-1)/spanWords) * 4 * panelWidth
	default:
		return words / groupWords * f.groupBytes()
	}
}

// words returns how many words a row of inputs takes on the left side of a product.
func (f Format) words(in int) int {
	switch f {
	case Float32, BFloat16:
		return in
	case BFloat16Dot:
		return (in + 1) / 2
	case Int8PerRow:
		return (in+3)/4 + 2*((in+spanSteps-1)/spanSteps)
	default:
		return (in + groupSize - 1) / groupSize * groupWords
	}
}

func (p *packed) panels() int { return (p.out + panelWidth - 1) / panelWidth }

// panel returns panels i to j.
func (p *packed) panel(i, j int) []byte {
	size := p.format.panelBytes(p.format.words(p.in))
	return p.data[i*size : j*size]
}

// row stores row i in dst, (in).
func (p *packed) row(dst []float32, i int) {
	panel, r := p.panel(i/panelWidth, i/panelWidth+1), i%panelWidth
	switch p.format {
	case Float32:
		for k := range dst {
			dst[k] = math.Float32frombits(binary.LittleEndian.Uint32(panel[(k*panelWidth+r)*4:]))
		}
	case BFloat16, BFloat16Dot:
		for k := range dst {
			dst[k] = widened(binary.LittleEndian.Uint16(panel[(k/2*panelWidth+r)*4+k%2*2:]))
		}
	case Int8PerRow:
		spansRow(dst, panel, r)
	default:
		p.format.groupsRow(dst, panel, r)
	}
}

// widened returns a bfloat16, the upper half of a float32.
func widened(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// unpacked calls f with the rows of p as float32, some at a time: rows from i on, each of p.in elements and ld apart, and
// aligned for gonum.
func (p *packed) unpacked(f func(rows []float32, ld, i, n int)) {
	ld := (p.in + 3) &^ 3
	step := max(1, stagedMax/max(1, panelWidth*ld)) * panelWidth
	buf := borrow(max(1, min(step, p.out)*ld))
	defer giveBack(buf)
	for i := 0; i < p.out; i += step {
		n := min(step, p.out-i)
		for r := range n {
			p.row((*buf)[r*ld:][:p.in], i+r)
		}
		f(*buf, ld, i, n)
	}
}

// linear is [Linear] and [LinearAdd].
func (p *packed) linear(y, x []float32, rows int, add bool) {
	switch t := active.tiles[p.format]; {
	case rows == 0 || p.out == 0:
	case p.in == 0:
		if !add {
			clear(y)
		}
	case t != nil:
		t.linear(y, x, p, rows, add)
	default:
		p.unpacked(func(w []float32, ld, i, n int) {
			product(y[i:], p.out, floats(x, p.in, true), floats(w, ld, true), rows, n, p.in, add)
		})
	}
	runtime.KeepAlive(p)
}

// gradInput is [LinearGradInput].
func (p *packed) gradInput(dx, dy []float32, rows int) {
	p.unpacked(func(w []float32, ld, i, n int) {
		product(dx, p.in, floats(dy[min(i, len(dy)):], p.out, true), floats(w, ld, false), rows, p.in, n, true)
	})
	runtime.KeepAlive(p)
}

// tiles are a tier's functions for one format. As in a [tiling], tiles carry their sums from block to block, so that neither
// heights nor blocks nor threads nor the batch that a row travels in can change a bit.
type tiles struct {
	heights []int // of tiles, descending to 1 with none left out
	block   int   // words of the left side for which a panel and many strips stay in the second-level cache
	few     int   // the same, beside two strips

	// encode stores a row of inputs x as the words of a product's left side; nil if those are its elements.
	encode func(dst, x []float32)

	// widened says that the left side of BFloat16Dot is in float32, as that of BFloat16 is.
	widened bool

	// strip packs height > 1 rows of words, which are ld apart, as (words, height).
	strip func(dst, rows []float32, ld, height, words int)

	// tile computes the tile c = a·b, or c += a·b, of height rows that are ldc apart, over words words of each.
	tile func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool)

	// column computes several of the tallest tiles, below each other, over at most block words; their strips are lda apart. It
	// is nil if tile has as little to do between tiles.
	column func(strips, words int, a []float32, lda int, b []byte, c []float32, ldc int, add bool)
}

// left returns the format whose left side is that of f.
func (t *tiles) left(f Format) Format {
	if t.widened {
		return BFloat16
	}
	return f
}

// height returns that of the next tile when rows remain: the tallest, for weights arrive while it multiplies, but
// one that leaves no single row, which takes as long as two.
func (t *tiles) height(rows int) int {
	tallest := t.heights[0]
	if rows == tallest+1 && tallest > 2 {
		return tallest - 1
	}
	return min(rows, tallest)
}

// whole returns how many of rows are in strips of the tallest tiles, which come first.
func (t *tiles) whole(rows int) int {
	tallest := t.heights[0]
	rest := rows % tallest
	if rest == 1 && rows > tallest && tallest > 2 {
		rest += tallest
	}
	return rows - rest
}

// strips calls f for each strip of rows i to end.
func (t *tiles) strips(i, end int, f func(i, height int)) {
	for i < end {
		h := t.height(end - i)
		f(i, h)
		i += h
	}
}

// most returns how many rows' left side is packed at once.
func (t *tiles) most(words int) int {
	tallest := t.heights[0]
	return max(8, packedMax/words/tallest) * tallest
}

func (t *tiles) linear(y, x []float32, p *packed, rows int, add bool) {
	words := t.left(p.format).words(p.in)
	most := t.most(words)
	for i := 0; i < rows; i += most {
		t.chunk(y[i*p.out:], x[i*p.in:], p, min(most, rows-i), words, add)
	}
}

const (
	// pieceBytes is the least of the weights that a thread claims at a time, and largeBytes the most for few rows: each
	// time that a thread goes on elsewhere, memory has to guess anew what will be read.
	pieceBytes = 64 << 10
	largeBytes = 256 << 10

	// leftWords is how much of the left side stays in the second-level cache while panels pass by.
	leftWords = 128 << 10
)

// chunk is a product whose left side is packed at once.
func (t *tiles) chunk(y, x []float32, p *packed, rows, words int, add bool) {
	left, buf := t.packLeft(x, p, rows, words)
	t.share(y, left, p, rows, words, add)
	if buf != nil {
		giveBack(buf)
	}
}

// packLeft returns the left side of a product, and the memory to be given back after it, if there is any.
func (t *tiles) packLeft(x []float32, p *packed, rows, words int) ([]float32, *[]float32) {
	if !t.prepares(rows) {
		return x, nil
	}
	buf := borrow(rows * words)
	t.prepare(*buf, x, p.in, rows, words)
	return *buf, buf
}

// prepares reports whether the left side differs from the inputs.
func (t *tiles) prepares(rows int) bool { return rows > 1 || t.encode != nil }

// share multiplies a left side that is packed, on all threads.
func (t *tiles) share(y, left []float32, p *packed, rows, words int, add bool) {
	if max(rows, memoryRows)*p.out*p.in <= inline {
		t.multiply(y, left, p, 0, rows, 0, p.panels(), words, add)
		return
	}
	c := t.cut(y, left, p, rows, words, add, len(p.data), true)
	parallel(c.pieces(), c.multiply)
}

// A cut is a product whose left side is packed, in pieces: some panels for some rows.
type cut struct {
	t            *tiles
	p            *packed
	y, left      []float32
	x            []float32 // what left was packed from, in [Linears]
	rows, words  int
	add          bool
	large, wide  int // the first large pieces across are of wide panels,
	per, more    int // the others of per panels, and the first more of those of one panel more
	height       int // rows of a piece
	across, down int // pieces
}

// cut cuts a product that is some of a call's bytes of weights; last says that threads have nothing else to do after it.
func (t *tiles) cut(y, left []float32, p *packed, rows, words int, add bool, bytes int, last bool) cut {
	c := cut{t: t, p: p, y: y, left: left, rows: rows, words: words, add: add}
	panels, whole, tallest := p.panels(), t.whole(rows), t.heights[0]
	threads, rest := runtime.GOMAXPROCS(0), panels
	c.height = rows
	if rows <= 2*tallest {
		size := t.left(p.format).panelBytes(words)
		per := max(1, pieceBytes/size)
		c.wide = max(per, min(largeBytes, bytes/(4*threads))/size)
		c.large = panels / c.wide
		if last { // small pieces in the end, so that threads end together
			c.large = panels * 3 / 4 / c.wide
		}
		rest -= c.large * c.wide
		c.across = (rest + per - 1) / per
	} else {
		// So few rows that they stay in the cache and so many panels that reading those rows pays, but at least four pieces for each
		// thread, and equally many.
		strips := max(1, leftWords/min(words, t.block)/tallest)
		split := max(1, (whole/tallest+strips/2)/strips)
		c.height = (whole/tallest + split - 1) / split * tallest
		across := max((4*threads+split-1)/split, (panels+7)/8)
		c.across = min(panels, (across+threads-1)/threads*threads)
	}
	if c.across > 0 {
		c.per, c.more = rest/c.across, rest%c.across
	}
	c.across += c.large
	c.down = max(1, (whole+c.height-1)/c.height)
	return c
}

func (c *cut) pieces() int { return c.across * c.down }

// multiply computes a piece.
func (c *cut) multiply(piece int) {
	column, i := piece%c.across, piece/c.across*c.height
	j, last := column*c.wide, (column+1)*c.wide
	if small := column - c.large; small >= 0 {
		j = c.large*c.wide + small*c.per + min(small, c.more)
		last = j + c.per
		if small < c.more {
			last++
		}
	}
	end := i + c.height
	if piece/c.across == c.down-1 {
		end = c.rows
	}
	c.t.multiply(c.y, c.left, c.p, i, end, j, last, c.words, c.add)
}

// prepare packs rows of x into strips.
func (t *tiles) prepare(left, x []float32, in, rows, words int) {
	if rows*words <= inline/4 {
		t.prepareRows(left, x, in, 0, rows, words)
		return
	}
	whole, group := t.whole(rows), max(1, min(4, rows*words/inline))*t.heights[0]
	pieces := (whole + group - 1) / group
	parallel(pieces+1, func(g int) {
		if g == pieces {
			t.prepareRows(left, x, in, whole, rows, words)
		} else {
			t.prepareRows(left, x, in, g*group, min(whole, (g+1)*group), words)
		}
	})
}

// prepareRows packs rows i to end of x into strips.
func (t *tiles) prepareRows(left, x []float32, in, i, end, words int) {
	t.strips(i, end, func(i, h int) {
		dst, src, ld := left[i*words:][:h*words], x[i*in:], in
		if t.encode != nil {
			encoded := dst
			if h > 1 {
				buf := borrow(h * words)
				defer giveBack(buf)
				encoded = *buf
			}
			for r := range h {
				t.encode(encoded[r*words:][:words], x[(i+r)*in:][:in])
			}
			src, ld = encoded, words
		}
		if h > 1 {
			t.strip(dst, src, ld, h, words)
		} else if t.encode == nil {
			copy(dst, src)
		}
	})
}

// multiply computes rows i to end of the outputs of panels j to last.
func (t *tiles) multiply(y, left []float32, p *packed, i, end, j, last, words int, add bool) {
	var edge *[]float32
	if last*panelWidth > p.out {
		edge = borrow(t.heights[0] * panelWidth)
		defer giveBack(edge)
	}
	switch {
	case end-i <= t.heights[0]:
		t.blocks(y, left, p, i, end, j, last, words, words, edge, add)
	case end-i <= 2*t.heights[0]:
		for ; j < last; j++ {
			t.blocks(y, left, p, i, end, j, j+1, words, t.few, edge, add)
		}
	default:
		t.blocks(y, left, p, i, end, j, last, words, t.block, edge, add)
	}
}

// blocks is multiply, a block of words after the other.
func (t *tiles) blocks(y, left []float32, p *packed, i, end, j, last, words, block int, edge *[]float32, add bool) {
	for at := 0; at < words; at += block {
		steps, more := min(block, words-at), add || at > 0
		for j := j; j < last; j++ {
			b, n := p.panel(j, j+1)[t.left(p.format).panelBytes(at):], min(panelWidth, p.out-j*panelWidth)
			i := i
			if whole := t.whole(end - i); t.column != nil && n == panelWidth && whole > 0 && steps <= t.block {
				tallest := t.heights[0]
				a, c := left[i*words+at*tallest:], y[i*p.out+j*panelWidth:][:(whole-1)*p.out+n]
				t.column(whole/tallest, steps, a, words*tallest, b, c, p.out, more)
				i += whole
			}
			t.strips(i, end, func(i, h int) {
				a, c := left[i*words+at*h:][:steps*h], y[i*p.out+j*panelWidth:]
				if n == panelWidth {
					t.tile(h, steps, a, b, c[:(h-1)*p.out+n], p.out, more)
				} else {
					t.edge(*edge, h, steps, a, b, c, p.out, n, more)
				}
			})
		}
	}
}

// edge computes a tile of which only the first n columns belong to c.
func (t *tiles) edge(tmp []float32, h, words int, a []float32, b []byte, c []float32, ldc, n int, add bool) {
	if add {
		for i := range h {
			copy(tmp[i*panelWidth:], c[i*ldc:][:n])
		}
	}
	t.tile(h, words, a, b, tmp, panelWidth, add)
	for i := range h {
		copy(c[i*ldc:][:n], tmp[i*panelWidth:])
	}
}

// words32 returns b, whose address is a multiple of 4, as words.
func words32(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

// bytesOf returns the memory of w.
func bytesOf(w []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(w))), 4*len(w))
}
