package model

import (
	"fmt"
	"slices"

	"chorus/kernels"
)

// A Source gives the values of a named tensor, of the given shape, as float32. It is asked once
// per tensor, so that initialising, training and saving share one list of names and shapes.
type Source func(name string, shape ...int) ([]float32, error)

// BuildAnchor assembles an anchor from the tensors of a FlexOlmo checkpoint with one expert.
func BuildAnchor(c Config, src Source) (*Anchor, error) {
	b := builder{src: src}
	h := c.HiddenSize
	a := &Anchor{
		Config: c,
		Embed:  b.matrix("model.embed_tokens", c.VocabSize, h),
		Norm:   b.values("model.norm.weight", h),
	}
	a.Head = a.Embed
	if !c.Tied {
		a.Head = b.matrix("lm_head", c.VocabSize, h)
	}
	for l := range c.Layers {
		at := fmt.Sprintf("model.layers.%d.", l)
		matrix := func(i int) kernels.Matrix {
			out, in := c.matrixShape(layerMatrices[i])
			return b.matrix(at+layerMatrices[i], out, in)
		}
		vector := func(i int) []float32 {
			return b.values(at+layerVectors[i]+".weight", c.vectorLength(layerVectors[i]))
		}
		a.Layers = append(a.Layers, Layer{
			Q: matrix(0), K: matrix(1), V: matrix(2), O: matrix(3),
			QNorm: vector(0), KNorm: vector(1), PostAttentionNorm: vector(2), PostFFNNorm: vector(3),
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
		e.FFN = append(e.FFN, b.ffn(fmt.Sprintf("layers.%d.", l), c))
		e.Router = append(e.Router, b.values(expertTensor(l, "router"), c.HiddenSize))
		e.Bias = append(e.Bias, b.values(expertBias(l), 1))
	}
	return e, b.err
}

// expertTensor and expertBias are the names of tensors in an expert's blob.
func expertTensor(l int, name string) string { return fmt.Sprintf("layers.%d.%s.weight", l, name) }
func expertBias(l int) string                { return fmt.Sprintf("layers.%d.router.bias", l) }

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
	v := b.values(name+".weight", out, in)
	if b.err != nil {
		return kernels.Matrix{}
	}
	return kernels.NewMatrix(out, in, v)
}

func (b *builder) ffn(at string, c Config) FFN {
	matrix := func(name string) Projection {
		out, in := c.matrixShape(name)
		return Projection{Matrix: b.matrix(at+name, out, in)}
	}
	return FFN{Gate: matrix("gate_proj"), Up: matrix("up_proj"), Down: matrix("down_proj")}
}

// Tensors returns the tensors of a, by the names that [BuildAnchor] asks for.
func (a *Anchor) Tensors() Tensors {
	s := make(Tensors)
	s["model.embed_tokens.weight"], s["lm_head.weight"], s["model.norm.weight"] = rowsOf(Projection{Matrix: a.Embed}), rowsOf(Projection{Matrix: a.Head}), copyOf(a.Norm)
	for l, w := range a.Layers {
		at := fmt.Sprintf("model.layers.%d.", l)
		for i, m := range []kernels.Matrix{w.Q, w.K, w.V, w.O} {
			s[at+layerMatrices[i]+".weight"] = rowsOf(Projection{Matrix: m})
		}
		for i, v := range [][]float32{w.QNorm, w.KNorm, w.PostAttentionNorm, w.PostFFNNorm} {
			s[at+layerVectors[i]+".weight"] = copyOf(v)
		}
		s.ffn(at+"mlp.experts.0.", a.Public.FFN[l])
		s[at+"mlp.gate.weight"] = copyOf(a.Public.Router[l])
	}
	return s
}

// Tensors returns the tensors of e, by the names that [BuildExpert] asks for; those of low rank as the products that they stand for.
func (e *Expert) Tensors() Tensors {
	s := make(Tensors)
	for l := range e.FFN {
		s.ffn(fmt.Sprintf("layers.%d.", l), e.FFN[l])
		s[expertTensor(l, "router")], s[expertBias(l)] = copyOf(e.Router[l]), copyOf(e.Bias[l])
	}
	return s
}

// Tensors are functions that copy tensors as float32, by name.
type Tensors map[string]func() []float32

// Source is the [Source] of a copy.
func (s Tensors) Source(name string, _ ...int) ([]float32, error) {
	if s[name] == nil {
		return nil, fmt.Errorf("no tensor %q", name)
	}
	return s[name](), nil
}

func (s Tensors) ffn(at string, f FFN) {
	for i, p := range []Projection{f.Gate, f.Up, f.Down} {
		s[at+projections[i]+".weight"] = rowsOf(p)
	}
}

func copyOf(v []float32) func() []float32 {
	return func() []float32 { return slices.Clone(v) }
}

func rowsOf(p Projection) func() []float32 {
	return func() []float32 {
		v := make([]float32, p.Out*p.In)
		for i := range p.Out {
			p.Row(v[i*p.In:][:p.In], i)
		}
		return v
	}
}
