package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"chorus/model"
	"chorus/model/tokenizer"
)

// A madeUp is a checkpoint of made-up weights in the sizes of the published FlexOlmo 7x7B, a number of layers
// and experts apart.
type madeUp struct {
	layers, experts int
	fused           bool
	shard           int64 // bytes of tensors in one file, 0 for a single file

	// sparse leaves holes in place of the matrices. Opening a checkpoint reads the rest alone.
	sparse bool
}

// config is the configuration of the published models (allenai/FlexOlmo-7x7B-1T), layers and experts apart.
func (m madeUp) config() model.Config {
	c := model.Config{
		VocabSize: 100352, HiddenSize: 4096, IntermediateSize: 11008, Layers: m.layers, Heads: 32, KVHeads: 32,
		MaxPositions: 4096, RMSNormEps: 1e-6, Experts: m.experts, TopK: min(5, m.experts), EOS: model.TokenIDs{100257},
	}
	c.Rope.Type, c.Rope.Theta = "default", 500000
	return c
}

// A part is a tensor that is to be made up.
type part struct {
	name  string
	shape []int
}

// size is the part's size in bytes, in bfloat16.
func (p part) size() int64 {
	n := int64(2)
	for _, d := range p.shape {
		n *= int64(d)
	}
	return n
}

// parts lists the tensors.
func (m madeUp) parts() []part {
	c := m.config()
	h, i, e := c.HiddenSize, c.IntermediateSize, c.Experts
	all := []part{{"model.embed_tokens.weight", []int{c.VocabSize, h}}}
	for l := range c.Layers {
		add := func(name string, shape ...int) {
			all = append(all, part{fmt.Sprintf("model.layers.%d.%s", l, name), shape})
		}
		for _, name := range []string{"q_proj", "k_proj", "v_proj", "o_proj"} {
			add("self_attn."+name+".weight", h, h)
		}
		for _, name := range []string{"self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm", "post_feedforward_layernorm"} {
			add(name+".weight", h)
		}
		add("mlp.gate.weight", e, h)
		if m.fused {
			add("mlp.experts.gate_up_proj", e, 2*i, h)
			add("mlp.experts.down_proj", e, h, i)
			continue
		}
		for s := range e {
			at := fmt.Sprintf("mlp.experts.%d.", s)
			add(at+"gate_proj.weight", i, h)
			add(at+"up_proj.weight", i, h)
			add(at+"down_proj.weight", h, i)
		}
	}
	return append(all, part{"model.norm.weight", []int{h}}, part{"lm_head.weight", []int{c.VocabSize, h}})
}

// size is the size in bytes of all tensors, or of those that an anchor takes over.
func (m madeUp) size(anchor bool) (n int64) {
	for _, p := range m.parts() {
		if !anchor || !strings.Contains(p.name, ".experts.") || strings.Contains(p.name, ".experts.0.") {
			n += p.size()
		}
	}
	return n
}

// write makes the folder, the configuration last: a folder that has one is whole. Every run writes the same bytes.
func (m madeUp) write(ctx context.Context, dir string, report func(line string)) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var shards [][]part
	var size int64
	for _, p := range m.parts() {
		if len(shards) == 0 || m.shard > 0 && size+p.size() > m.shard {
			shards, size = append(shards, nil), 0
		}
		shards[len(shards)-1] = append(shards[len(shards)-1], p)
		size += p.size()
	}
	files := make(map[string]string)
	random := rand.New(rand.NewPCG(1, uint64(m.experts)))
	for i, shard := range shards {
		name := model.WeightsFile
		if m.shard > 0 {
			name = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		}
		began := time.Now()
		n, err := m.writeShard(ctx, filepath.Join(dir, name), shard, random)
		if err != nil {
			return err
		}
		report(fmt.Sprintf("%s: %s in %.1f s", name, gigabytes(n), time.Since(began).Seconds()))
		for _, p := range shard {
			files[p.name] = name
		}
	}
	if m.shard > 0 {
		index, err := json.Marshal(map[string]any{"metadata": map[string]any{"total_size": m.size(false)}, "weight_map": files})
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, model.IndexFile), index, 0o600); err != nil {
			return err
		}
	}
	tok, err := tokenizer.Train(slices.Values([]string{"a tokenizer of bytes"}), 260, []string{"<|endoftext|>"})
	if err != nil {
		return err
	}
	config, err := m.config().Marshal()
	if err != nil {
		return err
	}
	return errors.Join(tok.Save(filepath.Join(dir, model.TokenizerFile)),
		os.WriteFile(filepath.Join(dir, model.ConfigFile), config, 0o600))
}

// writeShard writes one safetensors file, by name as the reference does and a megabyte at a time. It returns its
// size in bytes.
func (m madeUp) writeShard(ctx context.Context, path string, parts []part, random *rand.Rand) (n int64, err error) {
	slices.SortFunc(parts, func(a, b part) int { return strings.Compare(a.name, b.name) })
	type entry struct {
		DType   string   `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	entries := make(map[string]entry)
	for _, p := range parts {
		entries[p.name] = entry{"BF16", p.shape, [2]int64{n, n + p.size()}}
		n += p.size()
	}
	header, err := json.Marshal(entries)
	if err != nil {
		return 0, err
	}
	for len(header)%8 != 0 {
		header = append(header, ' ')
	}
	header = slices.Concat(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header)
	n += int64(len(header))

	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(header); err != nil {
		return 0, err
	}
	buf := make([]byte, 1<<20)
	for _, p := range parts {
		if m.sparse && p.size() > int64(len(buf)) {
			if _, err := f.Seek(p.size(), io.SeekCurrent); err != nil {
				return 0, err
			}
			continue
		}
		for left := p.size(); left > 0; left -= int64(len(buf)) {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			b := buf[:min(left, int64(len(buf)))]
			p.fill(b, random)
			if _, err := f.Write(b); err != nil {
				return 0, err
			}
		}
	}
	return n, errors.Join(f.Truncate(n), f.Sync()) // the file may end in a hole
}

// fill makes up some of the part's values: ones for a vector, and for a matrix what is about as large as what a model
// begins with, a magnitude of 2⁻⁷ to 2⁻⁵ with any mantissa and sign.
func (p part) fill(b []byte, random *rand.Rand) {
	const (
		one   = 0x3f80_3f80_3f80_3f80
		least = 0x3c00_3c00_3c00_3c00 // 2⁻⁷, of which the exponent's lowest bit is not set
		free  = 0x80ff_80ff_80ff_80ff // sign, that bit, and mantissa
	)
	for i := 0; i+8 <= len(b); i += 8 {
		word := uint64(one)
		if len(p.shape) > 1 {
			word = least | random.Uint64()&free
		}
		binary.LittleEndian.PutUint64(b[i:], word)
	}
}

func gigabytes(n int64) string { return fmt.Sprintf("%.2f GB", float64(n)/1e9) }
