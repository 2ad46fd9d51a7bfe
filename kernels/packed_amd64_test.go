package kernels

import (
	"fmt"
	"math"
	"testing"
)

// Processors with AVX-512 that lack some of it are many, and this may not be one.
func TestPackedProductsDoWithoutInstructionsForBytesAndBFloat16(t *testing.T) {
	best := tiers()[0]
	if best.name != "avx512" {
		t.Skip("needs AVX-512")
	}
	defer func(before tier) { active = before }(active)
	r := source()
	const rows, in, out = 40, 333, 70
	x, w := normals(r, rows*in), normals(r, out*in)
	for _, f := range []Format{BFloat16Dot, Int8, Int4} {
		m := NewMatrix(out, in, w).Pack(f)
		got, want := make([]float32, rows*out), make([]float32, rows*out)
		active = avx512Tier(false, false)
		Linear(got, x, m, rows)
		active = best
		Linear(want, x, m, rows)
		for i := range got {
			limit := 0.0
			if f == BFloat16Dot {
				limit = 2 * bound(f, x[i/out*in:][:in], w[i%out*in:][:in])
			}
			if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= limit) {
				t.Fatalf("%s: %v without, %v with them, limit %v", formatNames[f], got[i], want[i], limit)
			}
		}
	}
}

// BenchmarkBytes multiplies unsigned by signed bytes without the scales of groups: one group is as long as a row. It is what other
// libraries measure, and says what scales and the rounding of inputs cost [Int8].
func BenchmarkBytes(b *testing.B) {
	if tiers()[0].tiles[Int8] != tiles512[Int8] {
		b.Skip("needs AVX-512 VNNI")
	}
	for _, s := range benchmarkShapes {
		rows, in, out := s[0], s[1], s[2]
		words, panelBytes := 2+in/4, 64+in*panelWidth
		r := source()
		raw := func(n int) []float32 {
			w := make([]float32, n)
			for i := range bytesOf(w) {
				bytesOf(w)[i] = byte(r.Uint32())
			}
			return w
		}
		x, w, y := raw(rows*words), raw(out/panelWidth*panelBytes/4), make([]float32, rows*out)
		left := make([]float32, len(x))
		heights := tiles512[Int8]
		b.Run(fmt.Sprintf("%dx%dx%d", rows, out, in), func(b *testing.B) {
			for b.Loop() {
				heights.strips(0, rows, func(i, h int) { strip(left[i*words:], x[i*words:], words, h, words) })
				parallel(out/panelWidth, func(j int) {
					heights.strips(0, rows, func(i, h int) {
						tilesInt8[h](1, in/groupSize, &left[i*words], &bytesOf(w)[j*panelBytes], &y[i*out+j*panelWidth], out, false)
					})
				})
			}
			b.ReportMetric(2*float64(rows)*float64(in)*float64(out)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
		})
	}
}
