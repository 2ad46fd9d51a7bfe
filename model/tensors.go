package model

import (
	"fmt"

	"chorus/kernels"
)

// A Source gives the values of a named tensor, of the given shape, as float32. It is asked once
// per tensor, so that loading, initialising and saving share one list of names and shapes.
type Source func(name string, shape ...int) ([]float32, error)

// BuildAnchor assembles an anchor from the tensors of a FlexOlmo checkpoint with one expert.
func BuildAnchor(c Config, src Source) (*Anchor, error) {
	b := builder{src: src}
	h, kv := c.HiddenSize, c.KVHeads*c.HeadDim()
	a := &Anchor{
		Config: c,
		Embed:  b.matrix("model.embed_tokens.weight", c.VocabSize, h),
		Norm:   b.values("model.norm.weight", h),
		Head:   b.matrix("lm_head.weight", c.VocabSize, h),
	}
	for l := range c.Layers {
		at := fmt.Sprintf("model.layers.%d.", l)
		a.Layers = append(a.Layers, Layer{
			Q:                 b.matrix(at+"self_attn.q_proj.weight", h, h),
			K:                 b.matrix(at+"self_attn.k_proj.weight", kv, h),
			V:                 b.matrix(at+"self_attn.v_proj.weight", kv, h),
			O:                 b.matrix(at+"self_attn.o_proj.weight", h, h),
			QNorm:             b.values(at+"self_attn.q_norm.weight", h),
			KNorm:             b.values(at+"self_attn.k_norm.weight", kv),
			PostAttentionNorm: b.values(at+"post_attention_layernorm.weight", h),
			PostFFNNorm:       b.values(at+"post_feedforward_layernorm.weight", h),
		})
		a.Public.FFN = append(a.Public.FFN, b.ffn(at+"mlp.experts.0.", c))
		a.Public.Router = append(a.Public.Router, b.values(at+"mlp.gate.weight", 1, h))
	}
	return a, b.err
}

// BuildExpert assembles an expert from the tensors of its blob. They are named by layer alone:
// the slot that an expert takes is each node's own affair.
func BuildExpert(c Config, src Source) (*Expert, error) {
	b := builder{src: src}
	e := new(Expert)
	for l := range c.Layers {
		at := fmt.Sprintf("layers.%d.", l)
		e.FFN = append(e.FFN, b.ffn(at, c))
		e.Router = append(e.Router, b.values(at+"router.weight", c.HiddenSize))
		e.Bias = append(e.Bias, b.values(at+"router.bias", 1))
	}
	return e, b.err
}

type builder struct {
	src Source
	err error
}

func (b *builder) values(name string, shape ...int) []float32 {
	if b.err != nil {
		return nil
	}
	v, err := b.src(name, shape...)
	b.err = err
	return v
}

func (b *builder) matrix(name string, out, in int) kernels.Matrix {
	v := b.values(name, out, in)
	if b.err != nil {
		return kernels.Matrix{}
	}
	return kernels.NewMatrix(out, in, v)
}

func (b *builder) ffn(at string, c Config) FFN {
	h, i := c.HiddenSize, c.IntermediateSize
	return FFN{
		Gate: b.matrix(at+"gate_proj.weight", i, h),
		Up:   b.matrix(at+"up_proj.weight", i, h),
		Down: b.matrix(at+"down_proj.weight", h, i),
	}
}
