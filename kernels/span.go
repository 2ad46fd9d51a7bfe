package kernels

import (
	"encoding/binary"
	"math"
)

// This file holds Int8PerRow, whose scales are for spans: rows, or of longer ones 8192 elements each.
//
// A span of a panel is a vector of scales, in float32, one for each output; then vectors of one word for each output, the
// bytes of four steps of k, raised by 128 to be unsigned.
//
// A span of inputs is a group of quant.go with so many integers.

const (
	// spanSteps is how many steps share a scale. Their products add up to less than 2³¹.
	spanSteps = 8192

	// spanWords is what so many inputs take on the left side of a product, in words.
	spanWords = 2 + spanSteps/4

	// spanRaised is by how much the right side's bytes are raised.
	spanRaised = 128
)

// fillSpans packs panel i of o.
func (p *packed) fillSpans(o operand, i int) {
	words := Int8PerRow.words(p.in)
	row, buf := borrow(p.in), borrow(panelWidth*words)
	defer giveBack(row)
	defer giveBack(buf)
	encoded, panel := *buf, words32(p.panel(i, i+1))
	for r := range panelWidth {
		p.spanRow(*row, o, i*panelWidth+r)
		active.tiles[Int8PerRow].encode(encoded[r*words:][:words], *row)
	}
	for at := 0; at < words; at += spanWords {
		n := min(spanWords, words-at)
		for r := range panelWidth {
			span := encoded[r*words+at:][:n]
			panel[r] = span[0]
			b := bytesOf(span[2:])
			for i := range b {
				b[i] ^= spanRaised
			}
		}
		active.gather(panel[panelWidth:][:(n-2)*panelWidth], floats(encoded[at+2:], words, true), panelWidth, n-2)
		panel = panel[(n-1)*panelWidth:]
	}
}

// spanRow stores row i of o in dst, zeros if there is none.
func (p *packed) spanRow(dst []float32, o operand, i int) {
	switch {
	case i >= p.out:
		clear(dst)
	case o.vectors:
		o.load(dst, i*o.ld)
	default:
		for k := range dst {
			o.load(dst[k:k+1], k*o.ld+i)
		}
	}
}

// spansRow stores row r of a panel in dst.
func spansRow(dst []float32, panel []byte, r int) {
	for at := 0; at < len(dst); at += spanSteps {
		scale := math.Float32frombits(binary.LittleEndian.Uint32(panel[4*r:]))
		for k := range min(spanSteps, len(dst)-at) {
			dst[at+k] = float32(int32(panel[((1+k/4)*panelWidth+r)*4+k%4])-spanRaised) * scale
		}
		panel = panel[min(len(panel), (spanWords-1)*4*panelWidth):]
	}
}

// quantiseSpans stores a row of inputs as spans.
func quantiseSpans(dst, x []float32) { eachSpan(dst, x, quantiseTogether) }

// eachSpan calls quantise, which is [quantiseTogether] or gives the same, for each span of x.
func eachSpan(dst, x []float32, quantise func(dst, x []float32, raised int32)) {
	for len(x) > 0 {
		n := min(spanSteps, len(x))
		words := 2 + (n+3)/4
		quantise(dst[:words], x[:n], spanRaised)
		dst, x = dst[words:], x[n:]
	}
}

// spanBySpan returns the tile of any number of words from that of one span.
func spanBySpan(tile func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool)) func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
	return func(height, words int, a []float32, b []byte, c []float32, ldc int, add bool) {
		for ; words > spanWords; words -= spanWords {
			tile(height, spanWords, a, b, c, ldc, add)
			a, b, add = a[height*spanWords:], b[(spanWords-1)*4*panelWidth:], true
		}
		tile(height, words, a, b, c, ldc, add)
	}
}

// spanTilePortable is the tile of one row over a span.
func spanTilePortable(words int, a []float32, b []byte, c []float32, add bool) {
	if !add {
		clear(c[:panelWidth])
	}
	var parts [panelWidth]int32
	for r := range parts {
		parts[r] = int32(math.Float32bits(a[1]))
	}
	scales, b := words32(b), b[4*panelWidth:]
	for k, v := range bytesOf(a[2:words]) {
		for r := range parts {
			parts[r] += int32(int8(v)) * int32(b[(k/4*panelWidth+r)*4+k%4])
		}
	}
	for r, part := range parts {
		c[r] += float32(float32(float32(part)*a[0]) * scales[r])
	}
}
