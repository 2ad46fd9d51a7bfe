package safetensors

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"slices"

	"github.com/edsrzf/mmap-go"
)

// File is an open safetensors file. Its methods, Close apart, are safe for
// concurrent use.
type File struct {
	tensors  []Tensor       // in the order of their bytes
	index    map[string]int // name -> position in tensors
	metadata map[string]string
	mapping  mmap.MMap // nil for Parse, and after Close
}

// Open maps the file into memory and checks it as [Parse] does. The tensors
// are read in place: opening costs the header only, and pages come in when
// they are touched.
//
// The file must not be truncated or changed while it is open, or a read of its
// tensors may fault; write a new file and rename it, as [Write] does.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the mapping outlives the descriptor
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file: %w", path, ErrMalformed)
	}
	if info.Size() < int64(minFile) || info.Size() > int64(maxInt) {
		return nil, fmt.Errorf("%s: %d bytes long: %w", path, info.Size(), ErrMalformed)
	}
	m, err := mmap.MapRegion(f, int(info.Size()), mmap.RDONLY, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	file, err := Parse(m)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), m.Unmap())
	}
	file.mapping = m
	return file, nil
}

// Close ends the mapping of a file from [Open]. After it, the Data of the
// file's tensors must not be touched: doing so faults. Close must not run
// while another method does; a second Close does nothing.
func (f *File) Close() error {
	if f.mapping == nil {
		return nil
	}
	m := f.mapping
	f.mapping, f.tensors, f.index = nil, nil, nil
	return m.Unmap()
}

// Tensor returns the tensor of that name. Its Shape and Data belong to the
// file and must not be changed; Data lies in a read-only mapping when the file
// comes from [Open].
func (f *File) Tensor(name string) (Tensor, bool) {
	i, ok := f.index[name]
	if !ok {
		return Tensor{}, false
	}
	return f.tensors[i], true
}

// Tensors are the file's tensors in the order of their bytes.
func (f *File) Tensors() iter.Seq[Tensor] {
	return slices.Values(f.tensors)
}

// Names returns the names of all tensors, sorted.
func (f *File) Names() []string {
	return slices.Sorted(maps.Keys(f.index))
}

// Metadata returns a copy of the header's __metadata__, nil if it has none.
func (f *File) Metadata() map[string]string {
	return maps.Clone(f.metadata)
}
