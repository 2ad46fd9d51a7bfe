package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"chorus/kernels"
	"chorus/model/safetensors"
)

// A Checkpoint is an open folder of weights as the ecosystem writes them: a FlexOlmo of any number of experts,
// or an OLMo 2. It is read-only and may be used concurrently.
//
// Its files are mapped into memory, and everything made from it computes with them in place: bfloat16 and float32
// tensors are never copied, vectors and a row of the router apart. They must not change meanwhile.
type Checkpoint struct {
	Config Config

	dir     string
	weights *weights
	layout  layout
	biased  bool // OLMo-core's expert_bias is there
}

// A layout is one of the ways to name and store the same tensors.
type layout int

const (
	dense    layout = iota // Olmo2ForCausalLM: mlp.gate_proj
	unfused                // FlexOlmoForCausalLM before transformers 5: mlp.experts.E.gate_proj
	fused                  // FlexOlmoForCausalLM: mlp.experts.gate_up_proj, all experts in one
	olmoCore               // OLMo-core: feed_forward_moe.experts.mlp.w1, all experts in one and transposed
)

// olmoCoreRouter is a tensor by which OLMo-core's layout is known.
const olmoCoreRouter = "blocks.0.feed_forward_moe.router.weight"

// OpenCheckpoint opens a folder with `config.json` and `model.safetensors`, or an index of several such files.
// It reads names and shapes and no weights: see [Checkpoint.CheckFinite].
func OpenCheckpoint(dir string) (*Checkpoint, error) {
	path := filepath.Join(dir, ConfigFile)
	b, err := readSmall(path, maxConfig)
	if err != nil {
		return nil, err
	}
	c, err := ParseConfig(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if err := c.addEnds(filepath.Join(dir, generationFile)); err != nil {
		return nil, err
	}
	w, err := openWeights(dir)
	if err != nil {
		return nil, err
	}
	return newCheckpoint(dir, c, w)
}

// generationFile says how transformers generates with a model: of interest here are the tokens that end a text, which
// for a model that chats may be more than its configuration says.
const generationFile = "generation_config.json"

// addEnds adds the end tokens of a generation_config.json, if it is there, to c's.
func (c *Config) addEnds(path string) error {
	b, err := readSmall(path, maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	var more struct {
		EOS TokenIDs `json:"eos_token_id"`
	}
	if err := json.Unmarshal(b, &more); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, id := range more.EOS {
		if !slices.Contains(c.EOS, id) {
			c.EOS = append(slices.Clip(c.EOS), id)
		}
	}
	if err := c.check(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func newCheckpoint(dir string, c Config, w *weights) (*Checkpoint, error) {
	k := &Checkpoint{Config: c, dir: dir, weights: w, layout: unfused}
	switch {
	case w.has("model.layers.0.mlp.gate_proj.weight"):
		k.layout = dense
	case w.has("model.layers.0.mlp.experts.gate_up_proj"):
		k.layout = fused
	case w.has(olmoCoreRouter):
		k.layout = olmoCore
		k.biased = w.has("blocks.0.feed_forward_moe.router.expert_bias")
	}
	// As in transformers 5, a head that is there is used even if the configuration ties it to the embedding.
	k.Config.Tied = c.Tied && !w.has(k.named("lm_head"))
	if k.layout == dense && c.Experts != 1 {
		return nil, fmt.Errorf("%s: %w: it has one FFN a layer, and num_experts is %d", dir, ErrMisfit, c.Experts)
	}
	known := make(map[string]bool, len(w.tensors))
	for _, p := range append(k.shared(), k.slots(0, c.Experts)...) {
		if _, err := w.at(p); err != nil {
			return nil, err
		}
		known[p.tensor] = true
	}
	if err := w.only(known); err != nil {
		return nil, err
	}
	return k, nil
}

// CheckFinite reads all weights and refuses NaN and infinities. It is for a folder that comes from elsewhere: once.
func (k *Checkpoint) CheckFinite() error { return k.weights.checkFinite() }

// slots lists the tensors of the slots from e to before end.
func (k *Checkpoint) slots(e, end int) []place {
	var all []place
	for ; e < end; e++ {
		for l := range k.Config.Layers {
			for _, m := range projections {
				all = append(all, k.projection(l, e, m))
			}
			if k.layout != dense {
				all = append(all, k.router(l, e))
			}
			if k.biased && e > 0 {
				all = append(all, k.bias(l, e))
			}
		}
	}
	return all
}

// shared lists the tensors outside the experts and the router, in the order of the computation.
func (k *Checkpoint) shared() []place {
	c := k.Config
	all := []place{k.embed()}
	for l := range c.Layers {
		for _, name := range layerMatrices {
			all = append(all, k.layerMatrix(l, name))
		}
		for _, name := range layerVectors {
			all = append(all, k.layerVector(l, name))
		}
	}
	all = append(all, k.norm())
	if head := k.head(); head != k.embed().tensor {
		all = append(all, whole(head, c.VocabSize, c.HiddenSize))
	}
	return all
}

// The weights of one layer that all experts share, and those of an FFN, by the names that FlexOlmo gives them.
var (
	layerMatrices = []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}
	layerVectors  = []string{"self_attn.q_norm", "self_attn.k_norm", "post_attention_layernorm", "post_feedforward_layernorm"}
	projections   = []string{"gate_proj", "up_proj", "down_proj"}
)

// inOLMoCore says what OLMo-core calls the same.
var inOLMoCore = map[string]string{
	"model.embed_tokens": "embeddings", "model.norm": "lm_head.norm", "lm_head": "lm_head.w_out",
	"self_attn.q_proj": "attention.w_q", "self_attn.k_proj": "attention.w_k", "self_attn.v_proj": "attention.w_v", "self_attn.o_proj": "attention.w_out",
	"self_attn.q_norm": "attention.q_norm", "self_attn.k_norm": "attention.k_norm",
	"post_attention_layernorm": "attention_norm", "post_feedforward_layernorm": "feed_forward_norm",
	"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3",
}

func (k *Checkpoint) named(name string) string {
	if k.layout == olmoCore {
		name = inOLMoCore[name]
	}
	return name + ".weight"
}

func (k *Checkpoint) inLayer(l int, name string) string {
	if k.layout == olmoCore {
		return fmt.Sprintf("blocks.%d.%s", l, k.named(name))
	}
	return fmt.Sprintf("model.layers.%d.%s", l, k.named(name))
}

func (k *Checkpoint) embed() place {
	return whole(k.named("model.embed_tokens"), k.Config.VocabSize, k.Config.HiddenSize)
}

func (k *Checkpoint) norm() place { return whole(k.named("model.norm"), k.Config.HiddenSize) }

// head returns the name of the head's tensor.
func (k *Checkpoint) head() string {
	if k.Config.Tied {
		return k.embed().tensor
	}
	return k.named("lm_head")
}

func (k *Checkpoint) layerMatrix(l int, name string) place {
	out, in := k.Config.matrixShape(name)
	return whole(k.inLayer(l, name), out, in)
}

func (k *Checkpoint) layerVector(l int, name string) place {
	return whole(k.inLayer(l, name), k.Config.vectorLength(name))
}

// projection is where one matrix of expert e's FFN in layer l is.
func (k *Checkpoint) projection(l, e int, name string) place {
	out, in := k.Config.matrixShape(name)
	n := out * in
	mlp := fmt.Sprintf("model.layers.%d.mlp.", l)
	switch k.layout {
	case dense:
		return whole(mlp+name+".weight", out, in)
	case fused:
		p := place{tensor: mlp + "experts.down_proj", shape: []int{k.Config.Experts, out, in}, from: e * n, out: out, in: in}
		if name != "down_proj" {
			p.tensor, p.shape, p.from = mlp+"experts.gate_up_proj", []int{k.Config.Experts, 2 * out, in}, 2*e*n
			if name == "up_proj" {
				p.from += n // gate's rows go first
			}
		}
		return p
	case olmoCore:
		return place{
			tensor: fmt.Sprintf("blocks.%d.feed_forward_moe.experts.mlp.%s", l, inOLMoCore[name]),
			shape:  []int{k.Config.Experts * in, out}, from: e * n, out: out, in: in, transposed: true,
		}
	}
	return whole(fmt.Sprintf("%sexperts.%d.%s.weight", mlp, e, name), out, in)
}

// router is where expert e's row of the router in layer l is. A dense checkpoint has none.
func (k *Checkpoint) router(l, e int) place {
	c := k.Config
	p := place{tensor: fmt.Sprintf("model.layers.%d.mlp.gate.weight", l), shape: []int{c.Experts, c.HiddenSize}, from: e * c.HiddenSize, out: 1, in: c.HiddenSize}
	if k.layout == olmoCore {
		p.tensor, p.shape = fmt.Sprintf("blocks.%d.feed_forward_moe.router.weight", l), []int{c.Experts * c.HiddenSize}
	}
	return p
}

// bias is where the bias of expert e ≥ 1 in layer l is, if k.biased.
func (k *Checkpoint) bias(l, e int) place {
	return place{tensor: fmt.Sprintf("blocks.%d.feed_forward_moe.router.expert_bias", l), shape: []int{k.Config.Experts - 1, 1}, from: e - 1, out: 1, in: 1}
}

// Anchor returns the shared weights and slot 0. Without a router, as in an OLMo 2, its row is zeros.
func (k *Checkpoint) Anchor() (*Anchor, error) {
	r := reader{w: k.weights}
	c := k.Config
	c.Experts, c.TopK = 1, 1
	a := &Anchor{Config: c, checkpoint: k,
		Embed: r.matrix(k.embed()),
		Norm:  r.values(k.norm()),
	}
	a.Head = a.Embed
	if head := k.head(); head != k.embed().tensor {
		a.Head = r.matrix(whole(head, c.VocabSize, c.HiddenSize))
	}
	for l := range c.Layers {
		matrix := func(i int) kernels.Matrix { return r.matrix(k.layerMatrix(l, layerMatrices[i])) }
		vector := func(i int) []float32 { return r.values(k.layerVector(l, layerVectors[i])) }
		a.Layers = append(a.Layers, Layer{
			Q: matrix(0), K: matrix(1), V: matrix(2), O: matrix(3),
			QNorm: vector(0), KNorm: vector(1), PostAttentionNorm: vector(2), PostFFNNorm: vector(3),
		})
	}
	a.Public = k.slot(&r, 0)
	if r.err != nil {
		return nil, r.err
	}
	return a, nil
}

// slot reads what stands in slot e.
func (k *Checkpoint) slot(r *reader, e int) (s Slot) {
	s.stored = func(l int, name string) (safetensors.Tensor, error) { return k.weights.read(k.projection(l, e, name)) }
	for l := range k.Config.Layers {
		matrix := func(i int) Projection { return Projection{Matrix: r.matrix(k.projection(l, e, projections[i]))} }
		s.FFN = append(s.FFN, FFN{Gate: matrix(0), Up: matrix(1), Down: matrix(2)})
		if k.layout == dense {
			s.Router = append(s.Router, make([]float32, k.Config.HiddenSize))
		} else {
			s.Router = append(s.Router, r.values(k.router(l, e)))
		}
		if k.biased && e > 0 {
			s.Bias = append(s.Bias, r.values(k.bias(l, e)))
		}
	}
	return s
}

// Mixture returns the whole model, with as many active slots for a token as the configuration says.
func (k *Checkpoint) Mixture() (*Mixture, error) {
	a, err := k.Anchor()
	if err != nil {
		return nil, err
	}
	m := &Mixture{Anchor: a, Slots: []*Slot{&a.Public}, TopK: k.Config.TopK}
	r := reader{w: k.weights}
	for e := 1; e < k.Config.Experts; e++ {
		s := k.slot(&r, e)
		m.Slots = append(m.Slots, &s)
	}
	if r.err != nil {
		return nil, r.err
	}
	return m, nil
}

// A reader reads tensors until the first that is not there.
type reader struct {
	w   *weights
	err error
}

func (r *reader) matrix(p place) (m kernels.Matrix) {
	if r.err == nil {
		m, r.err = r.w.matrix(p)
	}
	return m
}

func (r *reader) values(p place) (v []float32) {
	if r.err == nil {
		v, r.err = r.w.values(p)
	}
	return v
}

// matrixShape returns the shape of one of layerMatrices or projections, (out, in).
func (c Config) matrixShape(name string) (out, in int) {
	switch name {
	case "self_attn.q_proj":
		return c.QWidth(), c.HiddenSize
	case "self_attn.k_proj", "self_attn.v_proj":
		return c.KVWidth(), c.HiddenSize
	case "self_attn.o_proj":
		return c.HiddenSize, c.QWidth()
	case "down_proj":
		return c.HiddenSize, c.IntermediateSize
	}
	return c.IntermediateSize, c.HiddenSize // gate_proj, up_proj
}

// vectorLength returns the length of one of layerVectors.
func (c Config) vectorLength(name string) int {
	switch name {
	case "self_attn.q_norm":
		return c.QWidth()
	case "self_attn.k_norm":
		return c.KVWidth()
	}
	return c.HiddenSize
}
