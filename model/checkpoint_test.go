package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chorus/model/safetensors"
)

// A folder is a checkpoint to be written: tensors by name, all in one type, with a configuration.
type folder struct {
	config  Config
	tensors map[string]Tensor
	dtype   safetensors.DType
	shards  int // 0 is a single file
}

// flexFolder returns a FlexOlmo of so many experts with random weights that are exact in bfloat16.
func flexFolder(t *testing.T, experts int, change func(*Config)) folder {
	t.Helper()
	c := testConfig(trained(t).VocabSize(), 16, 12, 2, 4, 2)
	if change != nil {
		change(&c)
	}
	f := folder{config: c, tensors: make(map[string]Tensor), dtype: safetensors.BF16}
	f.config.Experts, f.config.TopK = experts, experts
	for _, x := range anchorTensors(t, c) {
		f.tensors[x.Name] = x
	}
	for e := 1; e < experts; e++ {
		tensors, src := exactTensors(uint64(e))
		if _, err := BuildExpert(c, src); err != nil {
			t.Fatal(err)
		}
		for _, x := range *tensors {
			var l int
			var name string
			if _, err := fmt.Sscanf(x.Name, "layers.%d.%s", &l, &name); err != nil {
				t.Fatal(err)
			}
			gate := fmt.Sprintf("model.layers.%d.mlp.gate.weight", l)
			switch name {
			case "router.bias":
			case "router.weight":
				g := f.tensors[gate]
				f.tensors[gate] = Tensor{gate, []int{e + 1, c.HiddenSize}, append(slices.Clone(g.Values), x.Values...)}
			default:
				to := fmt.Sprintf("model.layers.%d.mlp.experts.%d.%s", l, e, name)
				f.tensors[to] = Tensor{to, x.Shape, x.Values}
			}
		}
	}
	return f
}

// write writes the folder and returns its name.
func (f folder) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	config, err := f.config.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, ConfigFile), config, 0o600), trained(t).Save(filepath.Join(dir, TokenizerFile))); err != nil {
		t.Fatal(err)
	}
	shards := make([][]safetensors.Tensor, max(1, f.shards))
	index := map[string]string{}
	for i, name := range slices.Sorted(maps.Keys(f.tensors)) {
		x := f.tensors[name]
		s := i % len(shards)
		shards[s] = append(shards[s], safetensors.FromFloat32(name, f.dtype, x.Shape, x.Values))
		index[name] = fmt.Sprintf("model-%d.safetensors", s)
	}
	if f.shards == 0 {
		if err := safetensors.Write(filepath.Join(dir, WeightsFile), shards[0], nil); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for i, s := range shards {
		if err := safetensors.Write(filepath.Join(dir, fmt.Sprintf("model-%d.safetensors", i)), s, nil); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(map[string]any{"weight_map": index})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, IndexFile), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// fuse puts all experts of a layer in one tensor each, as transformers 5 names them.
func (f folder) fuse() folder {
	out := f
	out.tensors = maps.Clone(f.tensors)
	c := f.config
	for l := range c.Layers {
		at := fmt.Sprintf("model.layers.%d.mlp.experts.", l)
		var up, down []float32
		for e := range c.Experts {
			for _, name := range []string{"gate_proj", "up_proj"} {
				up = append(up, f.tensors[fmt.Sprintf("%s%d.%s.weight", at, e, name)].Values...)
			}
			down = append(down, f.tensors[fmt.Sprintf("%s%d.down_proj.weight", at, e)].Values...)
			for _, name := range projections {
				delete(out.tensors, fmt.Sprintf("%s%d.%s.weight", at, e, name))
			}
		}
		out.tensors[at+"gate_up_proj"] = Tensor{"", []int{c.Experts, 2 * c.IntermediateSize, c.HiddenSize}, up}
		out.tensors[at+"down_proj"] = Tensor{"", []int{c.Experts, c.HiddenSize, c.IntermediateSize}, down}
	}
	return out
}

// olmoCore returns the same with OLMo-core's names and layout, and for each expert in each layer a bias.
func (f folder) olmoCore(bias float32) folder {
	out := f
	out.tensors = make(map[string]Tensor)
	c := f.config
	for name, x := range f.tensors {
		for from, to := range map[string]string{
			"model.layers.": "blocks.", "self_attn.q_proj": "attention.w_q", "self_attn.k_proj": "attention.w_k", "self_attn.v_proj": "attention.w_v",
			"self_attn.o_proj": "attention.w_out", "self_attn.": "attention.", "post_attention_layernorm": "attention_norm",
			"post_feedforward_layernorm": "feed_forward_norm", "model.embed_tokens": "embeddings", "model.norm": "lm_head.norm", "lm_head.weight": "lm_head.w_out.weight",
		} {
			if from != "self_attn." || !strings.Contains(name, "_proj") {
				name = strings.Replace(name, from, to, 1)
			}
		}
		if !strings.Contains(name, ".mlp.") {
			out.tensors[name] = x
		}
	}
	for l := range c.Layers {
		at, moe := fmt.Sprintf("model.layers.%d.mlp.", l), fmt.Sprintf("blocks.%d.feed_forward_moe.", l)
		for name, w := range map[string]string{"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"} {
			var all []float32
			var shape []int
			for e := range c.Experts {
				x := f.tensors[fmt.Sprintf("%sexperts.%d.%s.weight", at, e, name)]
				shape = x.Shape
				for in := range shape[1] {
					for o := range shape[0] {
						all = append(all, x.Values[o*shape[1]+in])
					}
				}
			}
			out.tensors[moe+"experts.mlp."+w] = Tensor{"", []int{c.Experts * shape[1], shape[0]}, all}
		}
		gate := f.tensors[at+"gate.weight"].Values
		out.tensors[moe+"router.weight"] = Tensor{"", []int{len(gate)}, gate}
		biases := make([]float32, c.Experts-1)
		for e := range biases {
			biases[e] = bias
		}
		out.tensors[moe+"router.expert_bias"] = Tensor{"", []int{c.Experts - 1, 1}, biases}
	}
	return out
}

// logitsOf returns what a mixture says about some tokens.
func logitsOf(m *Mixture) []float32 {
	var p Pass
	m.Forward(&p, randomIDs(rand.New(rand.NewPCG(3, 4)), 12, 31), 1, 12)
	return p.Logits
}

func openMixture(t *testing.T, dir string) *Mixture {
	t.Helper()
	k, err := OpenCheckpoint(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := k.Mixture()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestEveryLayoutOfTheSameWeightsComputesTheSameBits(t *testing.T) {
	f := flexFolder(t, 3, nil)
	want := logitsOf(openMixture(t, f.write(t)))
	sharded, wide, fused := f, f, f.fuse()
	sharded.shards, wide.dtype = 3, safetensors.F32
	fusedShards := fused
	fusedShards.shards = 2
	for name, f := range map[string]folder{"sharded": sharded, "float32": wide, "fused": fused, "fused and sharded": fusedShards} {
		sameBits(t, name, logitsOf(openMixture(t, f.write(t))), want)
	}
	k, err := openLike(f.olmoCore(0).write(t), f.config)
	if err != nil {
		t.Fatal(err)
	}
	m, err := k.Mixture()
	if err != nil {
		t.Fatal(err)
	}
	sameBits(t, "OLMo-core's layout", logitsOf(m), want)
}

func TestATiedHeadIsTheEmbeddingUnlessThereIsOne(t *testing.T) {
	f := flexFolder(t, 1, nil)
	embed := f.tensors["model.embed_tokens.weight"]
	f.tensors["lm_head.weight"] = Tensor{"", embed.Shape, embed.Values}
	want := logitsOf(openMixture(t, f.write(t)))
	f.config.Tied = true
	m := openMixture(t, f.write(t))
	sameBits(t, "tied, with a head", logitsOf(m), want)
	if m.Anchor.Config.Tied {
		t.Error("a model with a head of its own goes on as one without")
	}
	delete(f.tensors, "lm_head.weight")
	sameBits(t, "tied", logitsOf(openMixture(t, f.write(t))), want)
	f.config.Tied = false
	if _, err := OpenCheckpoint(f.write(t)); err == nil || !strings.Contains(err.Error(), `tensor "lm_head.weight" is missing`) {
		t.Errorf("not tied and without a head: %v", err)
	}
}

func TestAnAnchorAndItsExpertsComeOutOfACheckpointAndGoBackIntoOne(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"plain": nil, "tied": func(c *Config) { c.Tied = true }, "wide heads": func(c *Config) { c.HeadSize = 6 },
	} {
		t.Run(name, func(t *testing.T) {
			f := flexFolder(t, 3, change)
			source := f.write(t)
			want := logitsOf(openMixture(t, source))
			extra := []byte(`{"chat_template": "{{ messages }}"}`)
			if err := os.WriteFile(filepath.Join(source, "tokenizer_config.json"), extra, 0o600); err != nil {
				t.Fatal(err)
			}
			parts := t.TempDir()
			anchorDir := filepath.Join(parts, "anchor")
			var told [2]int64
			report := func(done, total int64) { told = [2]int64{done, total} }
			if err := ImportAnchor(t.Context(), anchorDir, source, report); err != nil {
				t.Fatal(err)
			}
			if told[0] != told[1] || told[0] == 0 {
				t.Errorf("the last report was of %d bytes of %d", told[0], told[1])
			}
			a, _, err := LoadAnchor(anchorDir)
			if err != nil {
				t.Fatal(err)
			}
			var experts []*Expert
			for i, from := range []string{source, f.olmoCore(0).write(t)} {
				path := filepath.Join(parts, fmt.Sprint("expert", i))
				if err := ImportExpert(t.Context(), path, from, i+1, a, "bafyanchor", nil); err != nil {
					t.Fatal(err)
				}
				e, err := LoadExpert(path, a)
				if err != nil {
					t.Fatal(err)
				}
				if e.Anchor != "bafyanchor" {
					t.Errorf("the expert names the anchor %q", e.Anchor)
				}
				experts = append(experts, e)
			}
			m := NewMixture(a, experts...)
			sameBits(t, "imported", logitsOf(m), want)

			for name, o := range map[string]ExportOptions{"whole": {}, "in shards": {ShardBytes: 1000}} {
				out := filepath.Join(parts, name)
				if err := SaveCheckpoint(t.Context(), out, m, o); err != nil {
					t.Fatal(err)
				}
				sameBits(t, "exported "+name, logitsOf(openMixture(t, out)), want)
				if got, err := os.ReadFile(filepath.Join(out, "tokenizer_config.json")); string(got) != string(extra) {
					t.Errorf("the tokenizer's configuration became %s, %v", got, err)
				}
				if err := SaveCheckpoint(t.Context(), out, m, o); !errors.Is(err, fs.ErrExist) {
					t.Errorf("exporting over a folder: %v", err)
				}
			}
		})
	}
}

func TestATextEndsWithAnyTokenThatEitherConfigurationNames(t *testing.T) {
	dir := flexFolder(t, 1, func(c *Config) { c.EOS = TokenIDs{3} }).write(t)
	for file, want := range map[string]TokenIDs{
		`{"eos_token_id": [5, 3]}`: {3, 5}, `{"eos_token_id": 3}`: {3}, `{"eos_token_id": null}`: {3}, `{}`: {3},
		`{"eos_token_id": 100277}`: nil, `{"eos_token_id": "</s>"}`: nil, `eos`: nil,
	} {
		if err := os.WriteFile(filepath.Join(dir, generationFile), []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := OpenCheckpoint(dir)
		switch {
		case want == nil && (err == nil || !strings.Contains(err.Error(), generationFile)):
			t.Errorf("%s: %v", file, err)
		case want != nil && (err != nil || !slices.Equal(k.Config.EOS, want)):
			t.Errorf("%s: %v, %v", file, k, err)
		}
	}
}

func TestADenseModelIsAnAnchor(t *testing.T) {
	f := flexFolder(t, 1, nil)
	want := logitsOf(openMixture(t, f.write(t)))
	dense := folder{config: f.config, tensors: map[string]Tensor{}, dtype: f.dtype, shards: 2}
	for name, x := range f.tensors {
		if !strings.HasSuffix(name, "mlp.gate.weight") {
			dense.tensors[strings.Replace(name, "mlp.experts.0.", "mlp.", 1)] = x
		}
	}
	source := dense.write(t)
	config := configWith(t, map[string]any{"model_type": "olmo2", "num_experts": nil, "num_experts_per_tok": nil,
		"vocab_size": f.config.VocabSize, "hidden_size": 16, "intermediate_size": 12})
	if err := os.WriteFile(filepath.Join(source, ConfigFile), config, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "anchor")
	if err := ImportAnchor(t.Context(), dir, source, nil); err != nil {
		t.Fatal(err)
	}
	a, _, err := LoadAnchor(dir)
	if err != nil {
		t.Fatal(err)
	}
	sameBits(t, "dense", logitsOf(NewMixture(a)), want)

	// Its router has no row, so an expert that was trained beside one is not its.
	err = ImportExpert(t.Context(), filepath.Join(t.TempDir(), "blob"), flexFolder(t, 2, nil).write(t), 1, a, "", nil)
	if !errors.Is(err, ErrMisfit) || !strings.Contains(err.Error(), "not zeros") {
		t.Errorf("an expert of another router: %v", err)
	}
}

func TestAnExpertOfAnotherAnchorIsRefusedByItsFirstDifferentTensor(t *testing.T) {
	f := flexFolder(t, 2, nil)
	anchorDir := filepath.Join(t.TempDir(), "anchor")
	if err := ImportAnchor(t.Context(), anchorDir, f.write(t), nil); err != nil {
		t.Fatal(err)
	}
	a, _, err := LoadAnchor(anchorDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"model.embed_tokens.weight", "model.layers.0.self_attn.k_norm.weight", "model.layers.1.post_feedforward_layernorm.weight",
		"model.norm.weight", "lm_head.weight", "model.layers.1.mlp.experts.0.down_proj.weight", "model.layers.1.mlp.gate.weight",
	} {
		other := f
		other.tensors = maps.Clone(f.tensors)
		x := other.tensors[name]
		x.Values = slices.Clone(x.Values)
		x.Values[len(x.Values)/4] += 1
		other.tensors[name] = x
		path := filepath.Join(t.TempDir(), "blob")
		err := ImportExpert(t.Context(), path, other.write(t), 1, a, "", nil)
		if !errors.Is(err, ErrMisfit) || !strings.Contains(err.Error(), fmt.Sprintf("tensor %q is not bit-equal", name)) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
			t.Errorf("%s: %v is left", name, left)
		}
	}
	for says, change := range map[string]func(*folder){
		"there is no expert in slot 1": func(f *folder) { *f = flexFolder(t, 1, nil) },
		"rope_theta is 20000":          func(f *folder) { f.config.Rope.Theta = 20000 },
		"holds NaN or an infinity": func(f *folder) {
			f.tensors["model.layers.0.mlp.experts.1.up_proj.weight"].Values[3] = float32(math.NaN())
		},
		`is missing`:                    func(f *folder) { delete(f.tensors, "model.layers.1.mlp.experts.1.up_proj.weight") },
		"one has a head and the other":  func(f *folder) { f.config.Tied = true; delete(f.tensors, "lm_head.weight") },
		`"surplus" is not expected`:     func(f *folder) { f.tensors["surplus"] = f.tensors["model.norm.weight"] },
		"num_hidden_layers is 1, the a": func(f *folder) { *f = flexFolder(t, 2, func(c *Config) { c.Layers = 1 }) },
	} {
		other := flexFolder(t, 2, nil)
		change(&other)
		if err := ImportExpert(t.Context(), filepath.Join(t.TempDir(), "blob"), other.write(t), 1, a, "", nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", says, err)
		}
	}
}

func TestAnIndexThatLiesIsRefused(t *testing.T) {
	f := flexFolder(t, 2, nil)
	f.shards = 2
	for says, change := range map[string]func(dir string, index map[string]string){
		"no such file":              func(_ string, index map[string]string) { index["model.norm.weight"] = "model-7.safetensors" },
		"where the index has it":    func(_ string, index map[string]string) { index["model.norm.bias"] = "model-0.safetensors" },
		"is not in the index":       func(_ string, index map[string]string) { delete(index, "model.norm.weight") },
		"expected a file of this":   func(_ string, index map[string]string) { index["model.norm.weight"] = "../model-0.safetensors" },
		"expected a file of this f": func(_ string, index map[string]string) { index["model.norm.weight"] = "/etc/passwd" },
		"weight_map is empty":       func(_ string, index map[string]string) { clear(index) },
		"where the index has": func(_ string, index map[string]string) {
			for name, shard := range index {
				if shard == "model-1.safetensors" {
					index[name] = "model-0.safetensors"
					return
				}
			}
		},
		"not a well-formed": func(dir string, _ map[string]string) { os.Truncate(filepath.Join(dir, "model-1.safetensors"), 900) },
		"is also in":        func(dir string, _ map[string]string) { twice(t, dir) },
		"there is neither":  func(dir string, _ map[string]string) { os.Remove(filepath.Join(dir, IndexFile)) },
	} {
		dir := f.write(t)
		b, err := os.ReadFile(filepath.Join(dir, IndexFile))
		if err != nil {
			t.Fatal(err)
		}
		var index struct {
			WeightMap map[string]string `json:"weight_map"`
		}
		if err := json.Unmarshal(b, &index); err != nil {
			t.Fatal(err)
		}
		before := maps.Clone(index.WeightMap)
		change(dir, index.WeightMap)
		if !maps.Equal(before, index.WeightMap) {
			if b, err = json.Marshal(index); err == nil {
				err = os.WriteFile(filepath.Join(dir, IndexFile), b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := OpenCheckpoint(dir); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%q: %v", says, err)
		}
	}
}

// twice copies a tensor of one shard into the other.
func twice(t *testing.T, dir string) {
	t.Helper()
	one, two := filepath.Join(dir, "model-0.safetensors"), filepath.Join(dir, "model-1.safetensors")
	a, err := safetensors.Open(one)
	if err != nil {
		t.Fatal(err)
	}
	b, err := safetensors.Open(two)
	if err != nil {
		t.Fatal(err)
	}
	all := slices.Collect(b.Tensors())
	first := slices.Collect(a.Tensors())[0]
	if err := safetensors.Write(two, append(all, first), nil); err != nil {
		t.Fatal(err)
	}
}

func TestWhatAnExportCannotHoldIsRefusedUnlessTheLossIsAccepted(t *testing.T) {
	f := flexFolder(t, 2, nil)
	parts := t.TempDir()
	anchorDir, path, core := filepath.Join(parts, "anchor"), filepath.Join(parts, "blob"), f.olmoCore(-0.5).write(t)
	if err := ImportAnchor(t.Context(), anchorDir, f.write(t), nil); err != nil {
		t.Fatal(err)
	}
	a, _, err := LoadAnchor(anchorDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := ImportExpert(t.Context(), path, core, 1, a, "", nil); err != nil {
		t.Fatal(err)
	}
	e, err := LoadExpert(path, a)
	if err != nil {
		t.Fatal(err)
	}
	if e.Bias[1][0] != -0.5 {
		t.Errorf("the bias became %v", e.Bias[1][0])
	}
	m, out := NewMixture(a, e), filepath.Join(parts, "out")
	if err := SaveCheckpoint(t.Context(), out, m, ExportOptions{}); !errors.Is(err, ErrLossy) {
		t.Errorf("a bias: %v", err)
	}
	if _, err := os.Stat(out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is there: %v", err)
	}
	if err := SaveCheckpoint(t.Context(), out, m, ExportOptions{Lossy: true}); err != nil {
		t.Fatal(err)
	}
	sameBits(t, "without the bias", logitsOf(openMixture(t, out)), logitsOf(openMixture(t, f.write(t))))
}

// Whatever an index says, a folder is refused by name or opens as the model that it is.
func FuzzIndex(f *testing.F) {
	index := `{"metadata": {"total_size": 8}, "weight_map": {"model.norm.weight": "model-0.safetensors"}}`
	for _, seed := range []string{index, `{}`, `{"weight_map": {"a": "../b"}}`, `{"weight_map": {"": ""}}`, `{"weight_map": {"a": null}}`, `[]`, `{"weight_map": {"a": "."}}`} {
		f.Add([]byte(seed))
	}
	dir := f.TempDir()
	norm := safetensors.FromFloat32("model.norm.weight", safetensors.BF16, []int{4}, make([]float32, 4))
	if err := safetensors.Write(filepath.Join(dir, "model-0.safetensors"), []safetensors.Tensor{norm}, nil); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, IndexFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		w, err := openWeights(dir)
		if err != nil {
			if !strings.Contains(err.Error(), dir) {
				t.Fatalf("%q: the error does not name the folder: %v", b, err)
			}
			return
		}
		if len(w.tensors) != 1 || w.tensors["model.norm.weight"].path != filepath.Join(dir, "model-0.safetensors") {
			t.Fatalf("%q opens as %v", b, w.tensors)
		}
	})
}
