package kernels

import (
	"encoding/binary"
	"math"
	"math/bits"
	"runtime"
	"unsafe"
)

// Pack returns a copy of m in a layout that products read from end to end, in memory with large pages where the
// system has them. Rounding aside, see [Format], it stands for the same matrix; writes to the weights under m are not
// seen by it. Nothing keeps the packed form in a file: packing takes less time than reading the weights from a disk does, see
// CONTRIBUTING.md, and an expert that is withdrawn leaves no copy.
func (m Matrix) Pack(f Format) Matrix { return m.pack(nil, f, false) }

// Packed returns m in the layout that products read fastest, with the same results to the bit: by [Matrix.Pack], in the format that
// changes no weight, or as it is where that is as fast.
func (m Matrix) Packed() Matrix { return m.packedIn(nil) }

func (m Matrix) packedIn(a *Arena) Matrix {
	f := Float32
	if m.h != nil {
		f = BFloat16
	}
	if m.packed != nil || active.tiles[f] == nil {
		return m
	}
	return m.pack(a, f, false)
}

// PackTransposed returns what [Matrix.Pack] returns for the transpose of m, of shape (In, Out): with it [Linear] computes
// the gradient of the input of a product with m.
func (m Matrix) PackTransposed(f Format) Matrix { return m.pack(nil, f, true) }

func (m Matrix) pack(a *Arena, f Format, transposed bool) Matrix {
	if f < 0 || f >= formats {
		panic("kernels: no such format")
	}
	p := &packed{format: f, out: m.Out, in: m.In, transposed: transposed}
	if transposed {
		p.out, p.in = m.In, m.Out
	}
	size := p.panels() * f.panelBytes(f.words(p.in))
	if a != nil {
		a.allocate(p, size)
	} else {
		p.data, p.memory = allocate(size)
	}
	p.fill(m)
	return Matrix{Out: p.out, In: p.in, packed: p}
}

// Refill packs m anew into the memory of p, which came from Pack, PackTransposed or Mixed of a matrix of m's shape: the values of p
// and of its copies are then those of m. Nothing may use p meanwhile.
func (p Matrix) Refill(m Matrix) {
	if p.packed == nil {
		panic("kernels: refill of a matrix that is not packed")
	}
	out, in := m.Out, m.In
	if p.packed.transposed {
		out, in = in, out
	}
	if out != p.Out || in != p.In {
		panic("kernels: refill with a matrix of another shape")
	}
	p.packed.fill(m)
	if g := p.packed.gradient; g != nil {
		g.fill(m)
	}
}

const (
	// fillRows and fillColumns are how much of a matrix is packed at a time: as many rows of its memory side by side
	// as make a panel, or a group of steps, and so much of them that it is worth a thread's while.
	fillRows    = panelWidth
	fillColumns = 2048
)

// fill packs m, or its transpose.
func (p *packed) fill(m Matrix) {
	if m.packed != nil {
		w := make([]float32, m.Out*m.In)
		for i := range m.Out {
			m.Row(w[i*m.In:][:m.In], i)
		}
		m = NewMatrix(m.Out, m.In, w)
	}
	if m.Out == 0 || m.In == 0 {
		return
	}
	o := m.operand(!p.transposed)
	if p.format == Int8PerRow { // whose scales take whole rows
		parallel(p.panels(), func(i int) { p.fillSpans(o, i) })
		runtime.KeepAlive(m.owner)
		runtime.KeepAlive(p)
		return
	}
	down, across := (m.Out+fillRows-1)/fillRows, (m.In+fillColumns-1)/fillColumns
	piece := func(i int) {
		row, column := i/across*fillRows, i%across*fillColumns
		end := min(m.In, column+fillColumns)
		if !p.transposed {
			p.fillPanel(o, row/panelWidth, column, end)
			return
		}
		for ; column < end; column += panelWidth {
			p.fillPanel(o, column/panelWidth, row, min(m.Out, row+fillRows))
		}
	}
	if m.Out*m.In <= grain {
		for i := range down * across {
			piece(i)
		}
	} else {
		parallel(down*across, piece)
	}
	runtime.KeepAlive(m.owner)
	runtime.KeepAlive(p)
}

// fillPanel packs steps at to end, of which at is a multiple of groupSize, of panel i of o. It lays out up to
// groupSize steps in float32, one after the other, and then stores them as the format has them, unless that
// is the same.
func (p *packed) fillPanel(o operand, i, at, end int) {
	f, n, panel := p.format, min(panelWidth, p.out-i*panelWidth), p.panel(i, i+1)
	panel = panel[f.panelBytes(f.words(at)):]
	o = o.from(i*panelWidth, at)
	if words, ok := o.words(p.in); f == Float32 || ok && (f == BFloat16 || f == BFloat16Dot) {
		steps := end - at
		if ok && f != Float32 {
			o, steps = words, steps/2
		}
		active.gather(words32(panel)[:steps*panelWidth], o, n, steps)
		return
	}
	buf := borrow(groupSize * panelWidth)
	defer giveBack(buf)
	for ; at < end; at += groupSize {
		rows, ld, steps := *buf, panelWidth, min(groupSize, end-at)
		if n == panelWidth && steps == groupSize && o.half == nil && !o.vectors {
			rows, ld = o.data, o.ld
		} else {
			active.gather(rows[:steps*panelWidth], o, n, steps)
			clear(rows[steps*panelWidth:])
		}
		switch f {
		case BFloat16, BFloat16Dot:
			active.round(words32(panel), rows, ld, (steps+1)/2)
		default:
			active.integers(f, panel, rows, ld)
		}
		if at+groupSize < end {
			panel, o = panel[f.panelBytes(f.words(groupSize)):], o.from(0, groupSize)
		}
	}
}

// words returns an operand whose elements are pairs of those of o, vectors of k bfloat16, if these can be read so.
func (o operand) words(k int) (operand, bool) {
	if o.half == nil || !o.vectors || k%2 != 0 || uintptr(unsafe.Pointer(&o.half[0]))%4 != 0 {
		return operand{}, false
	}
	return floats(unsafe.Slice((*float32)(unsafe.Pointer(&o.half[0])), len(o.half)/2), o.ld/2, true), true
}

// packing is the functions of a tier that pack. All give the bits of the portable ones.
type packing struct {
	// gather stores k steps of the first n vectors of o as (k, panelWidth), with zeros beyond n.
	gather func(dst []float32, o operand, n, k int)

	// round rounds rows, (2·pairs, panelWidth) and ld apart, to bfloat16, and stores those of two rows in one of words,
	// (pairs, panelWidth).
	round func(words, rows []float32, ld, pairs int)

	// integers stores rows, (groupSize, panelWidth) and ld apart, as a group of a panel of integers.
	integers func(f Format, group []byte, rows []float32, ld int)
}

var packingPortable = packing{gatherPortable, roundPortable, Format.integersPortable}

func gatherPortable(dst []float32, o operand, n, k int) {
	if n < panelWidth {
		clear(dst[:k*panelWidth])
	}
	if !o.vectors {
		for i := range k {
			o.load(dst[i*panelWidth:][:n], i*o.ld)
		}
		return
	}
	var row [16]float32 // a cache line
	for at := 0; at < k; at += len(row) {
		few := row[:min(len(row), k-at)]
		for r := range n {
			o.load(few, r*o.ld+at)
			for i, v := range few {
				dst[(at+i)*panelWidth+r] = v
			}
		}
	}
}

func roundPortable(words, rows []float32, ld, pairs int) {
	for i := range pairs {
		for r := range panelWidth {
			low, high := roundBFloat16(rows[2*i*ld+r]), roundBFloat16(rows[(2*i+1)*ld+r])
			words[i*panelWidth+r] = math.Float32frombits(uint32(low) | uint32(high)<<16)
		}
	}
}

func (f Format) integersPortable(group []byte, rows []float32, ld int) {
	group = group[:f.groupBytes()]
	clear(group)
	for r := range panelWidth {
		var w [groupSize]float32
		for k := range w {
			w[k] = rows[k*ld+r]
		}
		step := f.scale(w[:])
		binary.LittleEndian.PutUint16(group[groupScale(r):], step)
		for k, v := range w {
			i, shift := f.groupByte(r, k)
			group[i] |= byte(f.integer(v, widened(step))+f.raised()) << shift
		}
	}
}

// scale returns the step between a group's weights, in bfloat16.
func (f Format) scale(w []float32) uint16 {
	var largest uint32 // with its sign as the lowest bit, so that magnitudes are in order and NaN comes last
	for _, v := range w {
		largest = max(largest, bits.RotateLeft32(math.Float32bits(v), 1))
	}
	top := math.Float32frombits(bits.RotateLeft32(largest, -1))
	if f == Int4 {
		return roundBFloat16(top / -8) // the largest is then -8, and the range is used whole
	}
	step := math.Float32bits(top/127) &^ (1 << 31)
	if step&0x7f800000 != 0x7f800000 {
		step += 0xffff // up, so that the largest stays within range
	}
	return uint16(step >> 16)
}

// integer returns v in units of scale.
func (f Format) integer(v, scale float32) int32 {
	if scale == 0 {
		return 0
	}
	least, most := int32(-127), int32(127)
	if f == Int4 {
		least, most = -8, 7
	}
	q := math.RoundToEven(float64(v / scale))
	if q != q {
		return 1 // times a scale that is no number
	}
	return min(max(int32(q), least), most) // |v| is little more than most·scale
}

// roundBFloat16 rounds v to the nearest bfloat16, to even of two.
func roundBFloat16(v float32) uint16 {
	bits := math.Float32bits(v)
	if v != v {
		h := uint16(bits >> 16)
		if h&0x7f == 0 {
			h |= 1 << 6 // what is cut off must not leave an infinity
		}
		return h
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}
