package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"chorus/durable"
	"chorus/model/safetensors"
)

// besides are files that stand in a checkpoint's folder and say how to use it. They are taken over as they are.
var besides = []string{
	"tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", generationFile,
}

// maxBesides is the size in bytes of the largest of these.
const maxBesides = 16 << 20

// ImportAnchor makes the anchor's folder dir of a checkpoint's, from: an OLMo 2, or slot 0 of a FlexOlmo. The
// weights keep their bytes: a checkpoint of one expert is copied file by file, of a larger one the public part.
// The folder appears whole or not at all; the end of ctx is an error. report, which may be nil, is told bytes.
func ImportAnchor(ctx context.Context, dir, from string, report func(done, total int64)) error {
	k, err := OpenCheckpoint(from)
	if err != nil {
		return err
	}
	if k.layout == olmoCore {
		return fmt.Errorf("%s: %w: an anchor in OLMo-core's layout, expected one that transformers reads", from, ErrMisfit)
	}
	if _, err := k.tokenizer(); err != nil {
		return err
	}
	tensors, err := k.public()
	if err != nil {
		return err
	}
	p := &progress{ctx: ctx, report: report}
	for _, t := range tensors {
		p.total += 2 * int64(len(t.Data)) // looked at, then written
	}
	err = durable.Folder(dir, func(dir string) error {
		if err := p.finite(k, append(k.shared(), k.slots(0, 1)...)); err != nil {
			return err
		}
		if err := k.copyBesides(dir); err != nil {
			return err
		}
		if k.Config.Experts == 1 {
			return k.copyWhole(dir, p)
		}
		c := k.Config
		c.Experts, c.TopK = 1, 1
		if err := k.writeConfig(dir, c, widest(tensors)); err != nil {
			return err
		}
		return p.write(filepath.Join(dir, WeightsFile), tensors, map[string]string{"format": "pt"})
	})
	runtime.KeepAlive(k) // whose memory the tensors are in
	return err
}

// copyBesides copies the tokenizer and what else says how to use a model.
func (k *Checkpoint) copyBesides(dir string) error {
	for _, name := range append([]string{TokenizerFile}, besides...) {
		info, err := os.Stat(filepath.Join(k.dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist) && name != TokenizerFile:
			continue
		case err != nil:
			return err
		case info.Size() > maxBesides && name != TokenizerFile:
			return fmt.Errorf("%s: %d bytes, expected at most %d", filepath.Join(k.dir, name), info.Size(), maxBesides)
		}
		if err := new(progress).copyFile(filepath.Join(dir, name), filepath.Join(k.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// copyWhole copies configuration and weights.
func (k *Checkpoint) copyWhole(dir string, p *progress) error {
	names := []string{ConfigFile}
	for _, t := range k.weights.tensors {
		names = append(names, filepath.Base(t.path))
	}
	if k.weights.path == k.dir {
		names = append(names, IndexFile)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if err := p.copyFile(filepath.Join(dir, name), filepath.Join(k.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func (p *progress) copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(p.to(dst), struct{ io.Reader }{src}, make([]byte, 1<<20))
	return errors.Join(err, dst.Close())
}

// writeConfig writes c as the configuration, with what else k's own says.
func (k *Checkpoint) writeConfig(dir string, c Config, dtype safetensors.DType) error {
	base, err := readSmall(filepath.Join(k.dir, ConfigFile), maxConfig)
	if err != nil {
		return err
	}
	name := "float32"
	if dtype == safetensors.BF16 {
		name = "bfloat16"
	}
	b, err := c.marshal(base, name)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, ConfigFile), b, 0o600)
}

// widest returns the type that holds the values of all tensors.
func widest(tensors []safetensors.Tensor) safetensors.DType {
	for _, t := range tensors {
		if t.DType != safetensors.BF16 {
			return safetensors.F32
		}
	}
	return safetensors.BF16
}

// public returns the shared tensors and slot 0 as a FlexOlmo of one expert has them.
func (k *Checkpoint) public() ([]safetensors.Tensor, error) {
	all, err := k.sharedTensors()
	if err != nil {
		return nil, err
	}
	for l := range k.Config.Layers {
		slot, err := k.slotTensors(l, 0, fmt.Sprintf("model.layers.%d.mlp.experts.0.", l))
		if err != nil {
			return nil, err
		}
		all = append(all, slot...)
		if k.layout == dense {
			continue
		}
		gate, err := k.weights.read(k.router(l, 0))
		if err != nil {
			return nil, err
		}
		gate.Name = fmt.Sprintf("model.layers.%d.mlp.gate.weight", l)
		all = append(all, gate)
	}
	return all, nil
}

// sharedTensors returns the tensors outside the experts and the router under transformers' names.
func (k *Checkpoint) sharedTensors() ([]safetensors.Tensor, error) {
	canonical := &Checkpoint{Config: k.Config, weights: k.weights, layout: unfused}
	mine := k.shared()
	var all []safetensors.Tensor
	for i, p := range canonical.shared() {
		t, err := k.weights.read(mine[i])
		if err != nil {
			return nil, err
		}
		t.Name, t.Shape = p.tensor, p.shape
		all = append(all, t)
	}
	return all, nil
}

// slotTensors returns the FFN of slot e in layer l under names that begin with at.
func (k *Checkpoint) slotTensors(l, e int, at string) ([]safetensors.Tensor, error) {
	var all []safetensors.Tensor
	for _, name := range projections {
		t, err := k.weights.read(k.projection(l, e, name))
		if err != nil {
			return nil, err
		}
		t.Name = at + name + ".weight"
		all = append(all, t)
	}
	return all, nil
}

// ImportExpert packs what stands in a slot of the checkpoint in dir as an expert's blob, path, for the anchor of
// that CID, after checking that everything outside the experts and the public FFN with its row of the router are the
// anchor's, bit by bit. The error names the first tensor that is not.
//
// The checkpoint is one that transformers reads, or one in OLMo-core's layout, whose own configuration is
// not read: the anchor's says what the tensors must be. Only OLMo-core's has a bias. The end of ctx is an error;
// report, which may be nil, is told bytes.
func ImportExpert(ctx context.Context, path, dir string, slot int, anchor *Anchor, anchorCID string, report func(done, total int64)) error {
	k, err := openLike(dir, anchor.Config)
	if err != nil {
		return err
	}
	if slot < 1 || slot >= k.Config.Experts {
		return fmt.Errorf("%s: there is no expert in slot %d: it has %d slots, of which 0 is the public FFN", dir, slot, k.Config.Experts)
	}
	var all []safetensors.Tensor
	for l := range k.Config.Layers {
		tensors, err := k.slotTensors(l, slot, fmt.Sprintf("layers.%d.", l))
		if err != nil {
			return err
		}
		router, err := k.weights.read(k.router(l, slot))
		if err != nil {
			return err
		}
		router.Name, router.Shape = expertTensor(l, "router"), []int{k.Config.HiddenSize}
		bias := safetensors.FromFloat32("", safetensors.BF16, nil, []float32{0})
		if k.biased {
			if bias, err = k.weights.read(k.bias(l, slot)); err != nil {
				return err
			}
		}
		bias.Name, bias.Shape = expertBias(l), []int{1}
		all = append(append(all, tensors...), router, bias)
	}
	p := &progress{ctx: ctx, report: report}
	for _, t := range all {
		p.total += 2 * int64(len(t.Data)) // looked at, then written
	}
	if err := k.sameAs(anchor.checkpoint, p); err != nil {
		return err
	}
	if err := p.finite(k, k.slots(slot, slot+1)); err != nil {
		return err
	}
	err = p.write(path, all, expertMetadata(anchorCID))
	runtime.KeepAlive(k) // whose memory the tensors are in
	return err
}

// openLike opens a checkpoint that may be in OLMo-core's layout, of a model with c's sizes.
func openLike(dir string, c Config) (*Checkpoint, error) {
	w, err := openWeights(dir)
	if err != nil {
		return nil, err
	}
	t, ok := w.tensors[olmoCoreRouter]
	if !ok {
		return OpenCheckpoint(dir)
	}
	if len(t.Shape) == 1 {
		c.Experts = max(1, min(t.Shape[0]/c.HiddenSize, maxExperts))
		c.TopK = c.Experts
	}
	return newCheckpoint(dir, c, w)
}

// sameAs compares with the anchor what an expert must not have changed.
func (k *Checkpoint) sameAs(anchor *Checkpoint, progress *progress) error {
	if err := k.sameSizes(anchor.Config); err != nil {
		return err
	}
	mine, theirs := k.shared(), anchor.shared()
	if len(mine) != len(theirs) {
		return fmt.Errorf("%s: %w: of it and the anchor, one has a head and the other ties it to the embedding", k.dir, ErrMisfit)
	}
	for l := range k.Config.Layers {
		for _, name := range projections {
			mine, theirs = append(mine, k.projection(l, 0, name)), append(theirs, anchor.projection(l, 0, name))
		}
	}
	for _, p := range mine {
		progress.total += int64(p.out * p.in * k.weights.tensors[p.tensor].DType.Size())
	}
	for i, p := range mine {
		if err := k.sameTensor(p, anchor, theirs[i]); err != nil {
			return err
		}
		if err := progress.add(p.out * p.in * k.weights.tensors[p.tensor].DType.Size()); err != nil {
			return err
		}
	}
	for l := range k.Config.Layers {
		if anchor.layout != dense {
			if err := k.sameTensor(k.router(l, 0), anchor, anchor.router(l, 0)); err != nil {
				return err
			}
			continue
		}
		row, err := k.weights.values(k.router(l, 0))
		if err != nil {
			return err
		}
		if slices.ContainsFunc(row, func(v float32) bool { return v != 0 }) {
			return fmt.Errorf("%s: %w: row 0 of tensor %q is not zeros, and the anchor, an OLMo 2, has no other: import slot 0 of this checkpoint as the anchor",
				k.dir, ErrMisfit, k.router(l, 0).tensor)
		}
	}
	return nil
}

func (k *Checkpoint) sameTensor(p place, anchor *Checkpoint, q place) error {
	a, err := k.weights.read(p)
	if err != nil {
		return err
	}
	b, err := anchor.weights.read(q)
	if err != nil {
		return err
	}
	if !equalBits(a, b) {
		return fmt.Errorf("%s: %w: tensor %q is not bit-equal to the anchor's: nothing but an expert's FFN and its row of the router may differ",
			k.weights.tensors[p.tensor].path, ErrMisfit, p.tensor)
	}
	return nil
}

// equalBits reports whether two tensors hold the same values, if need be in different types.
func equalBits(a, b safetensors.Tensor) bool {
	if a.DType == b.DType {
		return bytes.Equal(a.Data, b.Data)
	}
	return slices.EqualFunc(a.Float32s(), b.Float32s(), func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// sameSizes compares what decides how the shared weights compute.
func (k *Checkpoint) sameSizes(anchor Config) error {
	c := k.Config
	for _, f := range []struct {
		name string
		a, b any
	}{
		{"vocab_size", c.VocabSize, anchor.VocabSize},
		{"hidden_size", c.HiddenSize, anchor.HiddenSize},
		{"intermediate_size", c.IntermediateSize, anchor.IntermediateSize},
		{"num_hidden_layers", c.Layers, anchor.Layers},
		{"num_attention_heads", c.Heads, anchor.Heads},
		{"num_key_value_heads", c.KVHeads, anchor.KVHeads},
		{"head_dim", c.HeadDim(), anchor.HeadDim()},
		{"rms_norm_eps", c.RMSNormEps, anchor.RMSNormEps},
		{"rope_theta", c.Rope.Theta, anchor.Rope.Theta},
	} {
		if f.a != f.b {
			return fmt.Errorf("%s: %w: %s is %v, the anchor's is %v", filepath.Join(k.dir, ConfigFile), ErrMisfit, f.name, f.a, f.b)
		}
	}
	return nil
}
