package kernels

import (
	"math"
	"testing"
)

// Processors with AVX-512 that lack some of it are many, and this may not be one.
func TestPackedProductsDoWithoutInstructionsForBytesAndBFloat16(t *testing.T) {
	best := tiers()[0]
	if best.name != "avx512" {
		t.Skip("this processor lacks AVX-512: run it on one that has it")
	}
	defer func(before tier) { active = before }(active)
	r := source()
	const rows, in, out = 40, 333, 70
	x, w := normals(r, rows*in), normals(r, out*in)
	for _, f := range []Format{BFloat16Dot, Int8, Int4, Int8PerRow} {
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
