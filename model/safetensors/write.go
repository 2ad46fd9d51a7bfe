package safetensors

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strconv"

	"chorus/durable"

	"github.com/go-json-experiment/json/jsontext"
)

// headerAlign is what the header is padded to with spaces, so that the data
// begins at a multiple of 8.
const headerAlign = 8

// Write writes a file that [Open] accepts, or changes nothing. The same
// tensors and metadata give the same bytes, in whatever order they come: as in
// the reference implementation, tensors of wider elements come first and the
// rest is by name, which aligns every tensor to its element size.
//
// The file is put in place as [durable.WriteFile] does it; the tensors are not
// copied in memory.
func Write(path string, tensors []Tensor, metadata map[string]string) error {
	return durable.WriteFile(path, func(w io.Writer) error {
		if err := Encode(w, tensors, metadata); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	})
}

// Encode writes to w what [Write] writes to a file.
func Encode(w io.Writer, tensors []Tensor, metadata map[string]string) error {
	header, order, err := encodeHeader(tensors, metadata)
	if err != nil {
		return err
	}
	return writeTo(w, header, order)
}

// encodeHeader checks the tensors and returns the header, its length in front
// and its padding behind, with the tensors in the order of their bytes.
func encodeHeader(tensors []Tensor, metadata map[string]string) ([]byte, []Tensor, error) {
	order := slices.Clone(tensors)
	slices.SortFunc(order, func(a, b Tensor) int {
		return cmp.Or(
			cmp.Compare(b.DType.Size(), a.DType.Size()),
			cmp.Compare(a.DType, b.DType), // BF16 before F16, as in the reference
			cmp.Compare(a.Name, b.Name))
	})

	var err error
	quote := func(b []byte, s string) []byte {
		q, e := jsontext.AppendQuote(b, s)
		if e != nil && err == nil {
			err = malformed("the name %q is not UTF-8", s)
		}
		return q
	}
	b := make([]byte, lengthSize, 256+128*len(order))
	b = append(b, '{')
	if metadata != nil {
		b = append(quote(b, metadataName), ":{"...)
		for i, k := range slices.Sorted(maps.Keys(metadata)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(quote(b, k), ':')
			b = quote(b, metadata[k])
		}
		b = append(b, '}')
	}
	seen := make(map[string]bool, len(order))
	offset := 0
	for _, t := range order {
		size, err := checkTensor(t.Name, t.DType, t.Shape)
		switch {
		case err != nil:
			return nil, nil, err
		case t.Name == metadataName || seen[t.Name]:
			return nil, nil, malformed("tensor %q: the name is taken", t.Name)
		case len(t.Data) != size:
			return nil, nil, malformed("tensor %q: %d bytes of data, expected %d for %s %v", t.Name, len(t.Data), size, t.DType, t.Shape)
		case size > maxInt-offset:
			return nil, nil, malformed("tensor %q: the file would have more bytes than can be addressed", t.Name)
		}
		seen[t.Name] = true
		if len(b) > lengthSize+1 {
			b = append(b, ',')
		}
		b = append(quote(b, t.Name), `:{"dtype":"`...)
		b = append(b, t.DType...)
		b = append(b, `","shape":[`...)
		b = appendInts(b, t.Shape)
		b = append(b, `],"data_offsets":[`...)
		b = appendInts(b, []int{offset, offset + size})
		b = append(b, "]}"...)
		offset += size
	}
	b = append(b, '}')
	for len(b)%headerAlign != 0 {
		b = append(b, ' ')
	}
	if err != nil {
		return nil, nil, err
	}
	if len(b)-lengthSize > MaxHeader {
		return nil, nil, malformed("header of %d bytes, at most %d are allowed", len(b)-lengthSize, MaxHeader)
	}
	binary.LittleEndian.PutUint64(b, uint64(len(b)-lengthSize))
	return b, order, nil
}

func appendInts(b []byte, v []int) []byte {
	for i, n := range v {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(n), 10)
	}
	return b
}

func writeTo(w io.Writer, header []byte, order []Tensor) error {
	if _, err := w.Write(header); err != nil {
		return err
	}
	for _, t := range order {
		if _, err := w.Write(t.Data); err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
	}
	runtime.KeepAlive(order)
	return nil
}
