package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"

	"chorus/durable"
	"chorus/model/safetensors"
)

// ErrLossy is wrapped by errors that say what of a mixture a FlexOlmoForCausalLM cannot hold.
var ErrLossy = errors.New("cannot be expressed in a FlexOlmoForCausalLM")

// ExportOptions say how [SaveCheckpoint] writes.
type ExportOptions struct {
	// Lossy accepts what the format cannot hold: a bias is dropped, and the product of a low-rank expert's factors
	// is added to the public matrix and rounded to the anchor's type.
	Lossy bool

	// ShardBytes is the most bytes of tensors in one file, unless a single tensor has more; 0 is 5 GB.
	ShardBytes int64

	Report func(done, total int64) // bytes written; may be nil

	// Begin is called before the first byte is written, once nothing of the mixture and of the folder's name stands in the way. Its error
	// ends the export. May be nil.
	Begin func() error
}

// defaultShard is the size that transformers has split at for years, in bytes.
const defaultShard = 5_000_000_000

// SaveCheckpoint writes a mixture as a folder that transformers reads as a FlexOlmoForCausalLM: configuration,
// tokenizer and weights, which keep their bytes. Anchor and experts must have been loaded from files. The folder
// appears whole or not at all; the end of ctx is an error. Without o.Lossy, what it would not hold exactly is an [ErrLossy].
func SaveCheckpoint(ctx context.Context, dir string, m *Mixture, o ExportOptions) error {
	x := exporter{progress: progress{ctx: ctx, report: o.Report}, m: m, k: m.Anchor.checkpoint, o: o, dtype: safetensors.BF16}
	if x.k == nil {
		return errors.New("an anchor that was not loaded from a file cannot be exported")
	}
	if o.ShardBytes == 0 {
		x.o.ShardBytes = defaultShard
	}
	tensors, err := x.tensors()
	if err != nil {
		return err
	}
	c := m.Anchor.Config
	c.Experts, c.TopK = len(m.Slots), m.TopK
	return durable.Folder(dir, func(dir string) error {
		if o.Begin != nil {
			if err := o.Begin(); err != nil {
				return err
			}
		}
		if err := x.k.writeConfig(dir, c, x.dtype); err != nil {
			return err
		}
		if err := x.k.copyBesides(dir); err != nil {
			return err
		}
		return x.writeShards(dir, tensors)
	})
}

type exporter struct {
	progress
	m     *Mixture
	k     *Checkpoint
	o     ExportOptions
	dtype safetensors.DType // holds every tensor
}

// A lazyTensor is a tensor of which the bytes are made when it is written.
type lazyTensor struct {
	name  string
	dtype safetensors.DType
	shape []int
	data  func() []byte
}

func (t lazyTensor) size() int64 {
	n := int64(t.dtype.Size())
	for _, d := range t.shape {
		n *= int64(d)
	}
	return n
}

// tensors lists what is to be written.
func (x *exporter) tensors() ([]lazyTensor, error) {
	shared, err := x.k.sharedTensors()
	if err != nil {
		return nil, err
	}
	var all []lazyTensor
	add := func(tensors ...safetensors.Tensor) {
		if widest(tensors) != safetensors.BF16 {
			x.dtype = safetensors.F32
		}
		for _, t := range tensors {
			all = append(all, lazyTensor{t.Name, t.DType, t.Shape, func() []byte { return t.Data }})
		}
	}
	add(shared...)
	for l := range x.m.Anchor.Config.Layers {
		at := fmt.Sprintf("model.layers.%d.mlp.", l)
		for s, slot := range x.m.Slots {
			if err := x.biasless(l, s, slot); err != nil {
				return nil, err
			}
			for i, p := range []Projection{slot.FFN[l].Gate, slot.FFN[l].Up, slot.FFN[l].Down} {
				name := fmt.Sprintf("%sexperts.%d.%s.weight", at, s, projections[i])
				if p.Rank() > 0 {
					t, err := x.folded(name, s, p)
					if err != nil {
						return nil, err
					}
					all = append(all, t)
					continue
				}
				if slot.stored == nil {
					return nil, fmt.Errorf("the expert in slot %d was not loaded from a file and cannot be exported", s)
				}
				t, err := slot.stored(l, projections[i])
				if err != nil {
					return nil, err
				}
				t.Name = name
				add(t)
			}
		}
		add(x.gate(l, at+"gate.weight"))
	}
	return all, nil
}

// biasless checks that there is no bias to lose: one that is not negative has no effect.
func (x *exporter) biasless(l, s int, slot *Slot) error {
	if x.o.Lossy || slot.Bias == nil || slot.Bias[l][0] >= 0 {
		return nil
	}
	return fmt.Errorf("the bias of %v in layer %d of the expert in slot %d %w: the router has rows and no bias there", slot.Bias[l][0], l, s, ErrLossy)
}

// folded is a low-rank expert's matrix multiplied out.
func (x *exporter) folded(name string, s int, p Projection) (lazyTensor, error) {
	if !x.o.Lossy {
		return lazyTensor{}, fmt.Errorf("the low-rank expert in slot %d (rank %d) %w: its product with the public matrix must be rounded", s, p.Rank(), ErrLossy)
	}
	t, _ := x.k.weights.at(x.k.projection(0, 0, "gate_proj"))
	dtype := t.DType
	if dtype != safetensors.BF16 {
		dtype, x.dtype = safetensors.F32, safetensors.F32
	}
	return lazyTensor{name, dtype, []int{p.Out, p.In}, func() []byte {
		v := make([]float32, p.Out*p.In)
		for i := range p.Out {
			p.Row(v[i*p.In:], i)
		}
		return safetensors.FromFloat32(name, dtype, nil, v).Data
	}}, nil
}

// gate returns the router of layer l, in bfloat16 if that holds it.
func (x *exporter) gate(l int, name string) safetensors.Tensor {
	var rows []float32
	for _, s := range x.m.Slots {
		rows = append(rows, s.Router[l]...)
	}
	dtype := safetensors.BF16
	for _, v := range rows {
		if math.Float32bits(v)<<16 != 0 {
			dtype = safetensors.F32
		}
	}
	return safetensors.FromFloat32(name, dtype, []int{len(x.m.Slots), x.m.Anchor.Config.HiddenSize}, rows)
}

// writeShards writes the tensors in their order to as few files as their size allows, and an index if they are several.
func (x *exporter) writeShards(dir string, tensors []lazyTensor) error {
	var shards [][]lazyTensor
	var size int64
	for _, t := range tensors {
		n := t.size()
		if len(shards) == 0 || size+n > x.o.ShardBytes {
			shards, size = append(shards, nil), 0
		}
		shards[len(shards)-1] = append(shards[len(shards)-1], t)
		size, x.total = size+n, x.total+n
	}
	if len(shards) == 1 {
		return x.writeShard(filepath.Join(dir, WeightsFile), shards[0])
	}
	index := struct {
		Metadata struct {
			TotalSize int64 `json:"total_size"`
		} `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}{WeightMap: make(map[string]string)}
	index.Metadata.TotalSize = x.total
	for i, shard := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		if err := x.writeShard(filepath.Join(dir, name), shard); err != nil {
			return err
		}
		for _, t := range shard {
			index.WeightMap[t.name] = name
		}
	}
	b, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, IndexFile), b, 0o600)
}

func (x *exporter) writeShard(path string, shard []lazyTensor) error {
	var tensors []safetensors.Tensor
	for _, t := range shard {
		tensors = append(tensors, safetensors.Tensor{Name: t.name, DType: t.dtype, Shape: t.shape, Data: t.data()})
	}
	err := x.write(path, tensors, map[string]string{"format": "pt"})
	runtime.KeepAlive(x) // whose mixture the tensors' memory belongs to
	return err
}
