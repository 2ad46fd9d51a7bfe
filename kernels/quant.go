package kernels

import (
	"encoding/binary"
	"math"
)

// This file holds the integer formats, and the portable tiles of those formats that round their inputs.
//
// A group of a panel is 32 steps of k. Its words are the scales, in bfloat16, of outputs 0 to 15 in the lower halves and of 16 to 31 in
// the upper; then vectors of one word for each output, with bytes that are raised by half their range to be unsigned.
// For Int8 vector q holds steps 4q to 4q+3. For Int4 the lower halves of vector q's bytes hold steps 8q to 8q+3, the upper
// ones 8q+4 to 8q+7.
//
// A group of inputs is groupWords words: the scale, in float32; minus the sum of its integers times half the range of the
// right side's, with which its sum of products begins; and the integers, one byte each.

// leastMagnitude is the least that a group's largest input counts as, so that its inverse is finite.
const leastMagnitude = 1e-30

// raised returns by how much bytes are raised.
func (f Format) raised() int32 {
	if f == Int4 {
		return 8
	}
	return 128
}

// groupBytes returns the size of a group of a panel.
func (f Format) groupBytes() int {
	if f == Int4 {
		return 64 + groupSize*panelWidth/2
	}
	return 64 + groupSize*panelWidth
}

// groupScale returns the position of output r's scale in a group of a panel.
func groupScale(r int) int { return r%16*4 + r/16*2 }

// groupByte returns the position of output r's weight at step k of a group of a panel, and the bits to shift it by.
func (f Format) groupByte(r, k int) (int, int) {
	word, shift := k/4, 0
	if f == Int4 {
		word, shift = k/8, k/4%2*4
	}
	return 64 + (word*panelWidth+r)*4 + k%4, shift
}

// groupsRow stores row r of a panel in dst.
func (f Format) groupsRow(dst []float32, panel []byte, r int) {
	for at := 0; at < len(dst); at += groupSize {
		scale := widened(binary.LittleEndian.Uint16(panel[groupScale(r):]))
		for k := range min(groupSize, len(dst)-at) {
			i, shift := f.groupByte(r, k)
			dst[at+k] = float32(int32(panel[i]>>shift)&(2*f.raised()-1)-f.raised()) * scale
		}
		panel = panel[f.groupBytes():]
	}
}

// quantisePortable stores a row of inputs as groups.
func quantisePortable(dst, x []float32, raised int32) {
	for len(x) > 0 {
		g := x[:min(groupSize, len(x))]
		quantiseTogether(dst[:groupWords], g, raised)
		dst, x = dst[groupWords:], x[len(g):]
	}
}

// quantiseTogether stores inputs with one scale.
func quantiseTogether(dst, x []float32, raised int32) {
	top := math.Float32bits(leastMagnitude)
	for _, v := range x {
		top = max(top, math.Float32bits(v)&0x7fffffff) // as integers, magnitudes are in order and NaN is the largest
	}
	largest := math.Float32frombits(top)
	inverse := 127 / largest
	bytes, sum := bytesOf(dst[2:]), int32(0)
	clear(bytes)
	for k, v := range x {
		q := int32(-128) // of NaN
		if r := math.RoundToEven(float64(v * inverse)); r == r {
			q = int32(r)
		}
		bytes[k] = byte(q)
		sum += q
	}
	dst[0] = largest * (1.0 / 127)
	dst[1] = math.Float32frombits(uint32(-sum * raised))
}

// groupTilePortable is the tile of one row of an integer format.
func (f Format) groupTilePortable(words int, a []float32, b []byte, c []float32, add bool) {
	c = c[:panelWidth]
	if !add {
		clear(c)
	}
	for ; words > 0; words -= groupWords {
		begin := int32(math.Float32bits(a[1]))
		x := bytesOf(a[2:groupWords])
		for r := range c {
			part := begin
			for k, v := range x {
				i, shift := f.groupByte(r, k)
				part += int32(int8(v)) * (int32(b[i]>>shift) & (2*f.raised() - 1))
			}
			scale := widened(binary.LittleEndian.Uint16(b[groupScale(r):]))
			c[r] += float32(float32(float32(part)*a[0]) * scale)
		}
		a, b = a[groupWords:], b[f.groupBytes():]
	}
}

// roundRowPortable rounds a row of inputs to bfloat16, two in a word. Numbers below the normal ones become zero.
func roundRowPortable(dst, x []float32) {
	b := bytesOf(dst)
	for k, v := range x {
		bits := math.Float32bits(v)
		if bits&0x7f800000 == 0 {
			v = math.Float32frombits(bits & (1 << 31))
		}
		binary.LittleEndian.PutUint16(b[2*k:], roundBFloat16(v))
	}
	if len(x)%2 == 1 {
		binary.LittleEndian.PutUint16(b[2*len(x):], 0)
	}
}

// dotTilePortable is the tile of one row of BFloat16Dot. Products of two bfloat16 are exact.
func dotTilePortable(words int, a []float32, b []byte, c []float32, add bool) {
	c = c[:panelWidth]
	if !add {
		clear(c)
	}
	for i := range words {
		x := math.Float32bits(a[i])
		low, high := widened(uint16(x)), widened(uint16(x>>16))
		for r := range c {
			w := binary.LittleEndian.Uint32(b[(i*panelWidth+r)*4:])
			c[r] += float32(high * flushed(w&0xffff0000))
			c[r] += float32(low * flushed(w<<16))
		}
	}
}

// flushed returns a float32 of the given bits, and zero for one below the normal ones.
func flushed(bits uint32) float32 {
	if bits&0x7f800000 == 0 {
		return math.Float32frombits(bits & (1 << 31))
	}
	return math.Float32frombits(bits)
}

// tilesPortable leaves the formats whose products are those of the unpacked matrix to [product].
var tilesPortable = [formats]*tiles{
	BFloat16Dot: {
		heights: []int{1}, block: 512, few: 512, encode: roundRowPortable,
		tile: func(_, words int, a []float32, b []byte, c []float32, _ int, add bool) {
			dotTilePortable(words, a, b, c, add)
		},
	},
	Int8: groupTilesPortable(Int8),
	Int4: groupTilesPortable(Int4),
	Int8PerRow: {
		heights: []int{1}, block: spanWords, few: spanWords, encode: quantiseSpans,
		tile: spanBySpan(func(_, words int, a []float32, b []byte, c []float32, _ int, add bool) {
			spanTilePortable(words, a, b, c, add)
		}),
	},
}

func groupTilesPortable(f Format) *tiles {
	return &tiles{
		heights: []int{1}, block: 64 * groupWords, few: 64 * groupWords,
		encode: func(dst, x []float32) { quantisePortable(dst, x, f.raised()) },
		tile: func(_, words int, a []float32, b []byte, c []float32, _ int, add bool) {
			f.groupTilePortable(words, a, b, c, add)
		},
	}
}
