package safetensors

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
)

// narrow is a type with fewer bits, for the two conversions to it.
type narrow struct {
	dtype     DType
	exp, man  int // bits
	toNarrow  func(float32) uint16
	overflows float64 // the least magnitude that rounds to infinity
}

var narrows = []narrow{
	{BF16, 8, 7, toBFloat16, math.Ldexp(2-math.Ldexp(1, -8), 127)},
	{F16, 5, 10, toFloat16, 65520},
}

// value is what the bits mean by the formula of IEEE 754, in float64.
func (n narrow) value(bits uint16) float64 {
	bias := 1<<(n.exp-1) - 1
	exp, man := int(bits>>n.man)&(1<<n.exp-1), int(bits)&(1<<n.man-1)
	var v float64
	switch {
	case exp == 1<<n.exp-1 && man != 0:
		return math.NaN()
	case exp == 1<<n.exp-1:
		v = math.Inf(1)
	case exp == 0:
		v = math.Ldexp(float64(man), 1-bias-n.man)
	default:
		v = math.Ldexp(float64(man+1<<n.man), exp-bias-n.man)
	}
	if bits>>15 == 1 {
		v = math.Copysign(v, -1)
	}
	return v
}

func TestEveryNarrowValueIsExactInFloat32(t *testing.T) {
	for _, n := range narrows {
		data := make([]byte, 0, 2<<16)
		for bits := range 1 << 16 {
			data = binary.LittleEndian.AppendUint16(data, uint16(bits))
		}
		got := Tensor{DType: n.dtype, Shape: []int{1 << 16}, Data: data}.Float32s()
		back := FromFloat32("", n.dtype, []int{1 << 16}, got).Data
		for bits, got := range got {
			want := n.value(uint16(bits))
			if float64(got) != want && !(got != got && want != want) || math.Signbit(float64(got)) != (bits>>15 == 1) {
				t.Fatalf("%s %#04x is %v, want %v", n.dtype, bits, got, want)
			}
			again := int(binary.LittleEndian.Uint16(back[2*bits:]))
			quiet := bits
			if want != want {
				quiet |= 1 << (n.man - 1)
			}
			if again != quiet {
				t.Fatalf("%s %#04x comes back as %#04x, want %#04x", n.dtype, bits, again, quiet)
			}
		}
	}
}

// check compares with the definition: no neighbour is nearer, and of two that
// are as near the even one is taken.
func (n narrow) check(t *testing.T, x float32) {
	bits := n.toNarrow(x)
	got, want := n.value(bits), float64(x)
	switch {
	case want != want:
		if got == got || bits>>(n.man-1)&1 == 0 || math.Signbit(want) != (bits>>15 == 1) {
			t.Fatalf("%s: NaN %#08x becomes %#04x", n.dtype, math.Float32bits(x), bits)
		}
		return
	case math.Abs(want) >= n.overflows:
		if !math.IsInf(got, 0) || math.Signbit(got) != math.Signbit(want) {
			t.Fatalf("%s: %v becomes %v", n.dtype, want, got)
		}
		return
	case math.IsInf(got, 0) || math.Signbit(got) != math.Signbit(want):
		t.Fatalf("%s: %v becomes %v", n.dtype, want, got)
	}
	off := math.Abs(got - want)
	for _, neighbour := range []uint16{bits + 1, bits - 1} {
		v := n.value(neighbour)
		if v != v || math.IsInf(v, 0) || math.Signbit(v) != math.Signbit(want) {
			continue
		}
		if d := math.Abs(v - want); d < off || d == off && bits&1 == 1 {
			t.Fatalf("%s: %v becomes %v (%#04x), %v is nearer or even", n.dtype, want, got, bits, v)
		}
	}
}

func TestNarrowingRoundsToNearestEven(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, n := range narrows {
		// Every value, the middle between each two, and their float32 neighbours.
		for bits := range 1<<16 - 1 {
			a, b := n.value(uint16(bits)), n.value(uint16(bits+1))
			for _, v := range []float64{a, (a + b) / 2, n.overflows, -n.overflows} {
				x := float32(v)
				n.check(t, x)
				n.check(t, math.Nextafter32(x, float32(math.Inf(1))))
				n.check(t, math.Nextafter32(x, float32(math.Inf(-1))))
			}
		}
		for range 1 << 20 {
			n.check(t, math.Float32frombits(rng.Uint32()))
		}
		for _, bits := range []uint32{0x7f800001, 0xff800001, 0x7fc00000, 0xffffffff, 0x7f80ffff, 1, 0x80000001} {
			n.check(t, math.Float32frombits(bits))
		}
	}
}

func TestFloat32sOfATornTensorIsNil(t *testing.T) {
	for _, x := range []Tensor{{DType: F32, Data: make([]byte, 6)}, {DType: "I8", Data: make([]byte, 4)}, {}} {
		if got := x.Float32s(); got != nil {
			t.Errorf("%v gives %v", x, got)
		}
	}
}

func BenchmarkFloat32s(b *testing.B) {
	v := make([]float32, 1<<20)
	for i := range v {
		v[i] = float32(i)
	}
	for _, d := range []DType{F32, BF16, F16} {
		x := FromFloat32("x", d, []int{len(v)}, v)
		b.Run(string(d), func(b *testing.B) {
			b.SetBytes(int64(len(x.Data)))
			for b.Loop() {
				x.Float32s()
			}
		})
	}
}
