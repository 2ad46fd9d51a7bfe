package kernels

import (
	"math"
	"math/rand/v2"
	"testing"
)

// fma returns a·b+c with one rounding but for cases so rare that none is among these tests'.
func fma(a, b, c float32) float32 { return float32(float64(a)*float64(b) + float64(c)) }

// Every tile is a chain of fused multiply-adds in the order of k, and touches nothing but its operands.
func TestTilesAreChainsInTheOrderOfK(t *testing.T) {
	r := source()
	for height := 1; height <= 6; height++ {
		for k := 1; k <= 11; k++ {
			for _, add := range []bool{false, true} {
				for _, f := range []Format{Float32, BFloat16} {
					for _, width := range []int{16, panelWidth} {
						a, before := normals(r, k*height), normals(r, height*panelWidth)
						half, w := halves(normals(r, k*panelWidth))
						b := w
						if f == BFloat16 {
							b = make([]float32, (k+1)/2*panelWidth)
							for i, h := range half {
								word := &b[i/panelWidth/2*panelWidth+i%panelWidth]
								*word = math.Float32frombits(math.Float32bits(*word) | uint32(h)<<(i/panelWidth%2*16))
							}
						}
						a, b = atPageEnd(t, a), atPageEnd(t, b)
						c := atPageEnd(t, before[:(height-1)*panelWidth+width])
						switch {
						case width == panelWidth:
							tilesNEON[f].tile(height, k, a, bytesOf(b), c, panelWidth, add)
						case f == Float32:
							tileNEON(height, k, a, b, panelWidth, c, panelWidth, add)
						default:
							continue
						}
						for i, got := range c {
							want := before[i]
							if i%panelWidth < width {
								if !add {
									want = 0
								}
								for s := range k {
									want = fma(a[s*height+i/panelWidth], w[s*panelWidth+i%panelWidth], want)
								}
							}
							if got != want {
								t.Fatalf("%d×%d, %d steps, %s, add %v: element %d is %v, want %v",
									height, width, k, formatNames[f], add, i, got, want)
							}
						}
					}
				}
			}
		}
	}
}

func TestPackingMovesEachElementToItsPlace(t *testing.T) {
	r := source()
	check := func(n, k, gap int, vectors bool) {
		t.Helper()
		across, down := n, k
		if vectors {
			across, down = k, n
		}
		ld := across + gap
		half, whole := halves(normals(r, (down-1)*ld+across))
		for name, o := range map[string]operand{"float32": {data: atPageEnd(t, whole)}, "bfloat16": {half: atPageEnd(t, half)}} {
			o.ld, o.vectors = ld, vectors
			for _, stride := range []int{n, 16} {
				got := atPageEnd(t, make([]float32, k*stride))
				o.pack(got, stride, n, k)
				for at, v := range got {
					e, i := at/stride, at%stride
					var want float32
					switch {
					case i >= n:
					case vectors:
						want = whole[i*ld+e]
					default:
						want = whole[e*ld+i]
					}
					if v != want {
						t.Fatalf("%s, %d vectors of %d, %d apart, contiguous %v, to a stride of %d: element %d is %v, want %v",
							name, n, k, ld, vectors, stride, at, v, want)
					}
				}
			}
		}
	}
	for n := 1; n <= 16; n++ {
		for _, k := range []int{1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 70} {
			for _, gap := range []int{0, 3} {
				check(n, k, gap, true)
				check(n, k, gap, false)
			}
		}
	}
}

func TestIntegerTilesGiveTheBitsOfPortableOnes(t *testing.T) {
	r := source()
	for _, f := range []Format{Int8, Int4} {
		for _, height := range tilesNEON[f].heights {
			for groups := 1; groups <= 3; groups++ {
				for _, add := range []bool{false, true} {
					in := groups*groupSize - 5
					words := f.words(in)
					x, encoded := normals(r, height*in), make([]float32, height*words)
					a := atPageEnd(t, encoded)
					panel := atPageEnd(t, words32(NewMatrix(panelWidth, in, normals(r, panelWidth*in)).Pack(f).packed.data))
					want := normals(r, height*panelWidth)
					got := atPageEnd(t, want)
					for i := range height {
						row := encoded[i*words:][:words]
						tilesNEON[f].encode(row, x[i*in:][:in])
						f.groupTilePortable(words, row, bytesOf(panel), want[i*panelWidth:], add)
					}
					strip(a, encoded, words, height, words)
					tilesNEON[f].tile(height, words, a, bytesOf(panel), got, panelWidth, add)
					if !sameBits(got, want) {
						t.Errorf("%s, %d rows, %d groups, add %v: differs", formatNames[f], height, groups, add)
					}
				}
			}
		}
	}
}

func TestInputsAreQuantisedToTheBitsOfPortableOnes(t *testing.T) {
	r := source()
	for _, in := range []int{32, 31, 33, 64, 200} {
		for range 20 {
			for _, values := range []func(*rand.Rand, int) []float32{normals, anyBits, extremes} {
				for _, f := range []Format{Int8, Int4} {
					x := atPageEnd(t, values(r, in))
					want := make([]float32, f.words(in))
					got := atPageEnd(t, want)
					quantiseNEON(got, x, f.raised())
					quantisePortable(want, x, f.raised())
					if !sameBits(got, want) {
						t.Fatalf("%s, %d inputs: %x, want %x", formatNames[f], in, bytesOf(got), bytesOf(want))
					}
				}
			}
		}
	}
}
