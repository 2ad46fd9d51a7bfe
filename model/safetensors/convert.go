package safetensors

import (
	"encoding/binary"
	"math"
	"runtime"
)

// Float32s returns the elements as float32, in a slice of their own. Every
// value of the three types is exact in float32. It returns nil for a tensor
// put together by hand with an unknown type or a torn last element.
func (t Tensor) Float32s() []float32 {
	size := t.DType.Size()
	if size == 0 || len(t.Data)%size != 0 {
		return nil
	}
	data, v := t.Data, make([]float32, len(t.Data)/size)
	switch t.DType {
	case F32:
		for i := range v {
			v[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		}
	case BF16:
		rest := v
		for len(rest) >= 4 && len(data) >= 8 {
			w := binary.LittleEndian.Uint64(data)
			rest[0] = math.Float32frombits(uint32(w) << 16)
			rest[1] = math.Float32frombits(uint32(w) & 0xffff0000)
			rest[2] = math.Float32frombits(uint32(w>>32) << 16)
			rest[3] = math.Float32frombits(uint32(w>>32) & 0xffff0000)
			rest, data = rest[4:], data[8:]
		}
		for i := range rest {
			rest[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(data[2*i:])) << 16)
		}
	case F16:
		for i := range v {
			v[i] = fromFloat16(binary.LittleEndian.Uint16(data[2*i:]))
		}
	}
	runtime.KeepAlive(t.file)
	return v
}

// FromFloat32 makes a tensor of v, rounded to the nearest value of dtype and
// to even in a tie; what is too large becomes infinite, and a NaN stays one
// (quiet, with its sign). Nothing is checked here: [Write] refuses an unknown
// dtype and a shape that does not hold len(v) elements.
func FromFloat32(name string, dtype DType, shape []int, v []float32) Tensor {
	data := make([]byte, dtype.Size()*len(v))
	switch dtype {
	case F32:
		for i, x := range v {
			binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(x))
		}
	case BF16:
		for i, x := range v {
			binary.LittleEndian.PutUint16(data[2*i:], toBFloat16(x))
		}
	case F16:
		for i, x := range v {
			binary.LittleEndian.PutUint16(data[2*i:], toFloat16(x))
		}
	}
	return Tensor{Name: name, DType: dtype, Shape: shape, Data: data}
}

// toBFloat16 adds just under half a unit of the last place that stays, or
// exactly half where that place is odd, and cuts.
func toBFloat16(x float32) uint16 {
	b := math.Float32bits(x)
	if x != x {
		return uint16(b>>16) | 0x40 // a payload in the lower half only would round to infinity
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// A binary16 has 5 bits of exponent, bias 15, and 10 of mantissa; a binary32
// has 8, bias 127, and 23 (IEEE 754-2019, table 3.5).
func fromFloat16(h uint16) float32 {
	sign, exp, man := uint32(h>>15)<<31, uint32(h>>10&0x1f), uint32(h&0x3ff)
	switch exp {
	case 0: // zero or subnormal: man × 2⁻²⁴
		return math.Float32frombits(sign | math.Float32bits(float32(man)*0x1p-24))
	case 0x1f: // infinity or NaN
		return math.Float32frombits(sign | 0x7f800000 | man<<13)
	}
	return math.Float32frombits(sign | (exp+127-15)<<23 | man<<13)
}

func toFloat16(x float32) uint16 {
	b := math.Float32bits(x)
	sign, abs := uint16(b>>16&0x8000), b&0x7fffffff
	switch {
	case x != x:
		return sign | 0x7e00 | uint16(abs>>13&0x3ff)
	case abs >= 0x477ff000: // 65520 and more round past the largest half, 65504
		return sign | 0x7c00
	case abs < 0x38800000: // below 2⁻¹⁴: the float adder rounds to multiples of 2⁻²⁴
		return sign | uint16(math.Float32bits(math.Float32frombits(abs)+0.5)-math.Float32bits(0.5))
	}
	return sign | uint16((abs-(127-15)<<23+0xfff+abs>>13&1)>>13)
}
