package safetensors

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"runtime"
	"slices"

	"github.com/edsrzf/mmap-go"
)

// File is an open safetensors file. Its methods, Close apart, are safe for
// concurrent use.
//
// A file from [Open] is released by Close, or when the garbage collector finds
// that neither the File nor a [Tensor] of it is in use. A slice of Data alone,
// such as [Tensor.InPlace] gives, does not count as a use: whoever keeps one
// keeps the File with it, and does not use it after Close.
type File struct {
	tensors  []Tensor       // in the order of their bytes
	index    map[string]int // name -> position in tensors
	metadata map[string]string
	mapping  mmap.MMap // nil where the bytes are the collector's, and after Close
	release  runtime.Cleanup
}

// readsWhole is where Open maps nothing: a mapped file cannot be deleted on
// Windows, and a file that may no longer be used must be.
const readsWhole = runtime.GOOS == "windows"

// usualHeader is more, in bytes, than the header of a file with a few hundred tensors.
const usualHeader = 64 << 10

// Open maps the file into memory and checks it as [Parse] does. The tensors
// are read in place: opening costs the header only, and pages come in when
// they are touched. On Windows the file is read instead, and memory holds it
// whole.
//
// The file may be deleted while it is open. It must not be truncated or
// changed, or a read of its tensors may fault; write a new file and rename it,
// as [Write] does.
func Open(path string) (*File, error) { return open(path, readsWhole) }

func open(path string, whole bool) (*File, error) {
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
	var file *File
	if whole {
		b := make([]byte, info.Size())
		if _, err := io.ReadFull(f, b); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if file, err = Parse(b); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return file, nil
	}
	// A read brings in little more than was asked for. A fault in the mapping would bring in as much as the device reads
	// ahead, which may be megabytes for every file. An error shows when the same bytes are parsed.
	_, _ = f.ReadAt(make([]byte, min(info.Size(), usualHeader)), 0)
	m, err := mmap.MapRegion(f, int(info.Size()), mmap.RDONLY, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	if file, err = Parse(m); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), m.Unmap())
	}
	for i := range file.tensors {
		file.tensors[i].file = file
	}
	file.mapping = m
	file.release = runtime.AddCleanup(file, func(m mmap.MMap) { _ = m.Unmap() }, m)
	return file, nil
}

// Close releases a file from [Open] at once. After it, the Data of the file's
// tensors must not be touched: doing so faults. Close must not run while
// another method does; a second Close does nothing.
func (f *File) Close() error {
	f.release.Stop()
	m := f.mapping
	f.mapping, f.tensors, f.index = nil, nil, nil
	if m == nil {
		return nil
	}
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
