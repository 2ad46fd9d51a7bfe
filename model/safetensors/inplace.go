package safetensors

import (
	"encoding/binary"
	"runtime"
	"unsafe"
)

// InPlace returns the elements of an F32 or a BF16 tensor without a copy, in
// floats or as the upper halves of float32 in halves; the other slice is nil,
// and neither may be changed. It returns ok false where Data cannot be looked
// at so: for F16, on a big-endian host, where Data does not begin at a
// multiple of the element's size, and for a torn last element. [Write] aligns
// every tensor; a file from elsewhere may not.
//
// The slice lies in Data, and is good for as long as the tensor's [File] is
// kept and not closed.
func (t Tensor) InPlace() (floats []float32, halves []uint16, ok bool) {
	size := t.DType.Size()
	if size == 0 || t.DType == F16 || len(t.Data)%size != 0 || !littleEndian {
		return nil, nil, false
	}
	n, at := len(t.Data)/size, unsafe.Pointer(unsafe.SliceData(t.Data))
	switch {
	case n == 0 && t.DType == F32:
		return []float32{}, nil, true
	case n == 0:
		return nil, []uint16{}, true
	case uintptr(at)%uintptr(size) != 0:
		return nil, nil, false
	case t.DType == F32:
		return unsafe.Slice((*float32)(at), n), nil, true
	}
	return nil, unsafe.Slice((*uint16)(at), n), true
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// Finite reports whether every element is a number: no NaN, no infinity. It
// is false for a tensor put together by hand with an unknown type or a torn
// last element.
func (t Tensor) Finite() bool {
	size := t.DType.Size()
	if size == 0 || len(t.Data)%size != 0 {
		return false
	}
	var ok bool
	switch t.DType {
	case F32:
		ok = finite(t.Data, 0x7f800000_7f800000, 0x00800000_00800000)
	case BF16:
		ok = finite(t.Data, 0x7f80_7f80_7f80_7f80, 0x0080_0080_0080_0080)
	case F16:
		ok = finite(t.Data, 0x7c00_7c00_7c00_7c00, 0x0400_0400_0400_0400)
	}
	runtime.KeepAlive(t.file)
	return ok
}

// finite looks at all elements in a word at once. An element is not finite
// when all bits of its exponent are set (IEEE 754-2019, 3.4), which is when
// one more in the lowest of them carries into the sign's place. exponents has
// ones where a word's elements have their exponents, and ones has their lowest
// bits; their sum has ones where the signs are.
func finite(data []byte, exponents, ones uint64) bool {
	signs := exponents + ones
	var carried uint64
	for len(data) >= 512 {
		block := data[:512]
		for i := 0; i < 512; i += 32 {
			w := block[i : i+32 : i+32]
			carried |= (binary.LittleEndian.Uint64(w)&exponents + ones) |
				(binary.LittleEndian.Uint64(w[8:])&exponents + ones) |
				(binary.LittleEndian.Uint64(w[16:])&exponents + ones) |
				(binary.LittleEndian.Uint64(w[24:])&exponents + ones)
		}
		if carried&signs != 0 {
			return false
		}
		data = data[512:]
	}
	var word [8]byte // the last one is filled up with zeros, which are finite
	for len(data) > 0 {
		word = [8]byte{}
		data = data[copy(word[:], data):]
		carried |= binary.LittleEndian.Uint64(word[:])&exponents + ones
	}
	return carried&signs == 0
}
