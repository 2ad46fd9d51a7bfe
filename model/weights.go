package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"chorus/kernels"
	"chorus/model/safetensors"
)

// The files of a checkpoint's folder, in the ecosystem's own names.
const (
	ConfigFile    = "config.json"
	TokenizerFile = "tokenizer.json"
	WeightsFile   = "model.safetensors"
	IndexFile     = "model.safetensors.index.json" // which tensor is in which of several files
)

// The largest files that are read whole, in bytes. An index takes about 100 for a tensor.
const (
	maxConfig = 1 << 20
	maxIndex  = 16 << 20
	maxShards = 4096
)

// ErrMisfit is wrapped by errors that say which tensor is not what the model needs.
var ErrMisfit = errors.New("does not fit the model")

// weights are the tensors of one safetensors file, or of several with an index, mapped into memory. They are
// released by close, or when the last matrix over them is garbage.
type weights struct {
	path    string // the file, or the folder of several
	files   []*safetensors.File
	tensors map[string]stored
	meta    map[string]string
}

type stored struct {
	safetensors.Tensor
	file *safetensors.File
	path string
}

// openWeights opens the tensors of a checkpoint's folder. As in transformers, a single file goes before an index.
func openWeights(dir string) (*weights, error) {
	single := filepath.Join(dir, WeightsFile)
	if _, err := os.Stat(single); !errors.Is(err, fs.ErrNotExist) {
		return openFile(single)
	}
	index := filepath.Join(dir, IndexFile)
	shards, err := readIndex(index)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: there is neither %s nor %s", dir, WeightsFile, IndexFile)
	} else if err != nil {
		return nil, err
	}
	w := &weights{path: dir, tensors: make(map[string]stored, len(shards))}
	opened := make(map[string]bool)
	for _, shard := range shards {
		if opened[shard] {
			continue
		}
		if opened[shard] = true; len(opened) > maxShards {
			return nil, fmt.Errorf("%s: names more than %d files", index, maxShards)
		}
		if err := w.open(filepath.Join(dir, shard)); err != nil {
			return nil, err
		}
	}
	for name, shard := range shards {
		if t, ok := w.tensors[name]; !ok || filepath.Base(t.path) != shard {
			return nil, fmt.Errorf("%s: tensor %q is not in %s, where the index has it", index, name, shard)
		}
	}
	for name, t := range w.tensors {
		if _, ok := shards[name]; !ok {
			return nil, fmt.Errorf("%s: tensor %q is not in the index", t.path, name)
		}
	}
	return w, nil
}

// close unmaps the files at once. No matrix over them may be used any more.
func (w *weights) close() error {
	var errs []error
	for _, f := range w.files {
		errs = append(errs, f.Close())
	}
	w.files, w.tensors = nil, nil
	return errors.Join(errs...)
}

func (w *weights) has(name string) bool {
	_, ok := w.tensors[name]
	return ok
}

// readIndex reads which file of the index's own folder each tensor is in.
func readIndex(path string) (map[string]string, error) {
	b, err := readSmall(path, maxIndex)
	if err != nil {
		return nil, err
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(index.WeightMap) == 0 {
		return nil, fmt.Errorf("%s: weight_map is empty, expected a file for each tensor", path)
	}
	for name, shard := range index.WeightMap {
		if !filepath.IsLocal(shard) || filepath.Base(shard) != shard {
			return nil, fmt.Errorf("%s: tensor %q is said to be in %q, expected a file of this folder", path, name, shard)
		}
	}
	return index.WeightMap, nil
}

// openFile opens the tensors of one file.
func openFile(path string) (*weights, error) {
	w := &weights{path: path, tensors: make(map[string]stored)}
	if err := w.open(path); err != nil {
		return nil, err
	}
	w.meta = w.files[0].Metadata()
	return w, nil
}

func (w *weights) open(path string) error {
	f, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	w.files = append(w.files, f)
	for t := range f.Tensors() {
		if other, ok := w.tensors[t.Name]; ok {
			return fmt.Errorf("%s: tensor %q is also in %s", path, t.Name, other.path)
		}
		w.tensors[t.Name] = stored{t, f, path}
	}
	return nil
}

func readSmall(path string, limit int64) ([]byte, error) {
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if info.Size() > limit {
		return nil, fmt.Errorf("%s: %d bytes, expected at most %d", path, info.Size(), limit)
	}
	return os.ReadFile(path)
}

// A place is where in a file a tensor of shape (out, in) lies: from element from on in one of the given
// shape, which may hold others too.
type place struct {
	tensor  string
	shape   []int
	from    int
	out, in int

	transposed bool // stored as (in, out)
}

func whole(tensor string, shape ...int) place {
	p := place{tensor: tensor, shape: shape, out: shape[0], in: 1}
	if len(shape) > 1 {
		p.in = shape[1]
	}
	return p
}

// at returns the tensor at p, (out, in) or if it is transposed (in, out), and checks that the one it is part
// of is there and of the shape that it must have.
func (w *weights) at(p place) (stored, error) {
	t, ok := w.tensors[p.tensor]
	if !ok {
		return t, fmt.Errorf("%s: %w: tensor %q is missing", w.path, ErrMisfit, p.tensor)
	}
	if !slices.Equal(t.Shape, p.shape) {
		return t, fmt.Errorf("%s: %w: tensor %q has shape %v, expected %v", t.path, ErrMisfit, p.tensor, t.Shape, p.shape)
	}
	size := t.DType.Size()
	t.Data = t.Data[p.from*size:][: p.out*p.in*size : p.out*p.in*size]
	t.Shape = []int{p.out, p.in}
	if p.transposed {
		t.Shape = []int{p.in, p.out}
	}
	return t, nil
}

// read returns the tensor at p as (out, in): in place, unless it must be transposed.
func (w *weights) read(p place) (safetensors.Tensor, error) {
	t, err := w.at(p)
	if p.transposed && err == nil {
		t.Data, t.Shape = transpose(t.Data, p.in, p.out, t.DType.Size()), []int{p.out, p.in}
	}
	return t.Tensor, err
}

// transpose returns the transposed of data, (rows, columns) elements of size bytes.
func transpose(data []byte, rows, columns, size int) []byte {
	const block = 32 // rows and columns at a time, so that neither side leaves the cache between two uses
	out := make([]byte, len(data))
	for i := 0; i < rows; i += block {
		for j := 0; j < columns; j += block {
			for r := i; r < min(rows, i+block); r++ {
				for c := j; c < min(columns, j+block); c++ {
					copy(out[(c*rows+r)*size:][:size], data[(r*columns+c)*size:][:size])
				}
			}
		}
	}
	return out
}

// matrix returns the matrix at p, over the file's own memory where its elements can be computed with.
func (w *weights) matrix(p place) (kernels.Matrix, error) {
	t, err := w.read(p)
	if err != nil {
		return kernels.Matrix{}, err
	}
	owner := w.tensors[p.tensor].file
	floats, halves, ok := t.InPlace()
	switch {
	case !ok:
		return kernels.NewMatrix(p.out, p.in, t.Float32s()), nil
	case halves != nil:
		return kernels.NewMatrixBF16(p.out, p.in, halves).Keeping(owner), nil
	}
	return kernels.NewMatrix(p.out, p.in, floats).Keeping(owner), nil
}

// values returns a copy of the tensor at p.
func (w *weights) values(p place) ([]float32, error) {
	t, err := w.at(p)
	if err != nil {
		return nil, err
	}
	return t.Float32s(), nil
}

// checkFinite reads every tensor and refuses what is no number, which nothing computed with it survives.
func (w *weights) checkFinite() error {
	for _, f := range w.files {
		for t := range f.Tensors() {
			if !t.Finite() {
				return infinite(w.tensors[t.Name])
			}
		}
	}
	return nil
}

func infinite(t stored) error {
	return fmt.Errorf("%s: %w: tensor %q holds NaN or an infinity, expected finite numbers", t.path, ErrMisfit, t.Name)
}

// only refuses tensors that no name of known stands for.
func (w *weights) only(known map[string]bool) error {
	for _, f := range w.files {
		for _, name := range f.Names() {
			if !known[name] {
				return fmt.Errorf("%s: %w: tensor %q is not expected", w.tensors[name].path, ErrMisfit, name)
			}
		}
	}
	return nil
}
