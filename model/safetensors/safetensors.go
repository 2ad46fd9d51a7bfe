// Package safetensors reads and writes the safetensors file format: a JSON
// header that names tensors, then their bytes.
//
// A file is a thing that strangers send. Parse and Open therefore accept less
// than the format's reference implementation does: the header is strict JSON
// without unknown or duplicate keys, only the element types of this project
// exist, every byte of the file belongs to exactly one tensor, and nothing is
// allocated because a header claims a size; memory grows with the header's
// own bytes alone.
//
// The package does no arithmetic, knows no model and no tensor names, and
// keeps nothing but what a file says. Begin with [Open] and [Write].
//
// Format: https://github.com/huggingface/safetensors#format
package safetensors

import (
	"errors"
	"fmt"
	"math/bits"
)

// Limits of what is read and written.
const (
	// MaxHeader is the largest header in bytes. The reference allows 100 MB.
	// A tensor takes about 120 bytes of header, so 16 MiB name 130,000
	// tensors, several times what the largest mixtures of experts hold in one
	// file, while the worst header still parses in well under a second.
	MaxHeader = 16 << 20

	// MaxRank is the largest number of dimensions of a tensor.
	MaxRank = 8
)

// ErrMalformed is wrapped by every error that says a file, or a list of
// tensors to write, breaks the format. An error of the disk does not wrap it.
var ErrMalformed = errors.New("not a well-formed safetensors file")

// DType is the element type of a tensor, spelled as in the file.
type DType string

// The element types that exist here, all little-endian.
const (
	F32  DType = "F32"  // IEEE 754 binary32
	BF16 DType = "BF16" // the upper half of a binary32
	F16  DType = "F16"  // IEEE 754 binary16
)

// Size is the number of bytes of one element, 0 for an unknown type.
func (d DType) Size() int {
	switch d {
	case F32:
		return 4
	case BF16, F16:
		return 2
	}
	return 0
}

// Tensor is a named array in row-major order.
type Tensor struct {
	Name  string
	DType DType
	Shape []int  // none for a scalar; a dimension may be 0
	Data  []byte // len == product of Shape × DType.Size(); read-only for tensors of a [File]

	file *File // whose mapping Data lies in; held so that it stays
}

// checkTensor returns the number of bytes that a tensor of this type and shape
// has. The product of the dimensions must fit even without those that are 0,
// so that no stride computed from the shape can overflow.
func checkTensor(name string, dtype DType, shape []int) (int, error) {
	size := dtype.Size()
	if size == 0 {
		return 0, malformed("tensor %q: dtype %q is not one of F32, BF16, F16", name, dtype)
	}
	if len(shape) > MaxRank {
		return 0, malformed("tensor %q: %d dimensions, at most %d are allowed", name, len(shape), MaxRank)
	}
	empty := false
	n := uint64(size)
	for _, d := range shape {
		if d < 0 {
			return 0, malformed("tensor %q: negative dimension in shape %v", name, shape)
		}
		if d == 0 {
			empty = true
			continue
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > uint64(maxInt) {
			return 0, malformed("tensor %q: shape %v has more bytes than can be addressed", name, shape)
		}
		n = lo
	}
	if empty {
		return 0, nil
	}
	return int(n), nil
}

const maxInt = int(^uint(0) >> 1)

func malformed(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ErrMalformed)...)
}
