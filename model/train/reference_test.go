package train

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// A reference is the forward pass of FlexOlmo (arXiv 2507.07024, section 3) in float64: plain loops
// over tensors by their names, sharing nothing with what it tests. The tests of package train hold
// a copy, for two packages cannot share a test file; a test there keeps the two alike.
type reference struct {
	vocab, hidden, intermediate, layers, heads, kvHeads, slots, topK int
	eps, theta                                                       float64
	// Slot 0 has the names of an anchor's checkpoint, slot e those of an expert's blob after "e:".
	w map[string][]float64
}

// A trace is what a reference computed for one sequence.
type trace struct {
	x, hidden, router [][][]float64 // (layers)(rows)(H or slots): a layer's input, what its router reads, its probabilities
	routerLSE         [][]float64   // (layers)(rows)
	last              [][]float64   // (rows)(H), before the final norm
	logits            [][]float64   // (rows)(V)
}

func (m *reference) forward(ids []int32) *trace {
	t := new(trace)
	x := make([][]float64, len(ids))
	for i, id := range ids {
		x[i] = m.w["model.embed_tokens.weight"][int(id)*m.hidden:][:m.hidden]
	}
	for l := range m.layers {
		t.x = append(t.x, x)
		x = m.layer(t, l, x)
	}
	t.last = x
	for _, row := range x {
		t.logits = append(t.logits, times(m.w["lm_head.weight"], m.norm("model.norm.weight", row)))
	}
	return t
}

func (m *reference) layer(t *trace, l int, x [][]float64) (y [][]float64) {
	at := fmt.Sprintf("model.layers.%d.", l)
	dim := m.hidden / m.heads
	var q, k, v [][]float64
	for i, row := range x {
		q = append(q, rotate(m.norm(at+"self_attn.q_norm.weight", times(m.w[at+"self_attn.q_proj.weight"], row)), dim, i, m.theta))
		k = append(k, rotate(m.norm(at+"self_attn.k_norm.weight", times(m.w[at+"self_attn.k_proj.weight"], row)), dim, i, m.theta))
		v = append(v, times(m.w[at+"self_attn.v_proj.weight"], row))
	}
	var hidden, router [][]float64
	var lses []float64
	for i := range x {
		var att []float64
		for head := range m.heads {
			kv := head / (m.heads / m.kvHeads) * dim
			var scores []float64
			for j := range i + 1 {
				scores = append(scores, dot(q[i][head*dim:][:dim], k[j][kv:][:dim])/math.Sqrt(float64(dim)))
			}
			p, _ := softmax(scores)
			for d := range dim {
				var sum float64
				for j := range p {
					sum += p[j] * v[j][kv+d]
				}
				att = append(att, sum)
			}
		}
		h := plus(x[i], m.norm(at+"post_attention_layernorm.weight", times(m.w[at+"self_attn.o_proj.weight"], att)))
		logits := make([]float64, m.slots)
		for e := range logits {
			row, bias := m.w[at+"mlp.gate.weight"], 0.0
			if e > 0 {
				in := fmt.Sprintf("%d:layers.%d.", e, l)
				row, bias = m.w[in+"router.weight"], math.Min(0, m.w[in+"router.bias"][0])
			}
			logits[e] = dot(row, h) + bias
		}
		p, lse := softmax(logits)
		moe := make([]float64, m.hidden)
		for _, e := range largest(p, m.topK) {
			in := at + "mlp.experts.0."
			if e > 0 {
				in = fmt.Sprintf("%d:layers.%d.", e, l)
			}
			gate, up := times(m.w[in+"gate_proj.weight"], h), times(m.w[in+"up_proj.weight"], h)
			for i, g := range gate {
				up[i] *= g / (1 + math.Exp(-g))
			}
			for i, v := range times(m.w[in+"down_proj.weight"], up) {
				moe[i] += p[e] * v
			}
		}
		hidden, router, lses = append(hidden, h), append(router, p), append(lses, lse)
		y = append(y, plus(h, m.norm(at+"post_feedforward_layernorm.weight", moe)))
	}
	t.hidden, t.router, t.routerLSE = append(t.hidden, hidden), append(t.router, router), append(t.routerLSE, lses)
	return y
}

func (m *reference) norm(name string, x []float64) []float64 {
	inv := 1 / math.Sqrt(dot(x, x)/float64(len(x))+m.eps)
	y := make([]float64, len(x))
	for i, w := range m.w[name] {
		y[i] = w * x[i] * inv
	}
	return y
}

// rotate turns feature i of each head with feature i+dim/2 by position·theta^(−2i/dim).
func rotate(x []float64, dim, position int, theta float64) []float64 {
	y := make([]float64, len(x))
	for head := 0; head < len(x); head += dim {
		for i := range dim / 2 {
			sin, cos := math.Sincos(float64(position) * math.Pow(theta, -2*float64(i)/float64(dim)))
			a, b := x[head+i], x[head+i+dim/2]
			y[head+i], y[head+i+dim/2] = a*cos-b*sin, b*cos+a*sin
		}
	}
	return y
}

// softmax also returns the log of the denominator.
func softmax(x []float64) (p []float64, lse float64) {
	top := slices.Max(x)
	var sum float64
	for _, v := range x {
		sum += math.Exp(v - top)
	}
	lse = top + math.Log(sum)
	for _, v := range x {
		p = append(p, math.Exp(v-lse))
	}
	return p, lse
}

// largest returns the indices of the k largest of p, largest first.
func largest(p []float64, k int) []int {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(p[b], p[a]) })
	return order[:k]
}

// times is the product of w, (out, len(x)), and x.
func times(w, x []float64) (y []float64) {
	for ; len(w) > 0; w = w[len(x):] {
		y = append(y, dot(w[:len(x)], x))
	}
	return y
}

func dot(a, b []float64) (sum float64) {
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}

func plus(a, b []float64) []float64 {
	y := make([]float64, len(a))
	for i := range a {
		y[i] = a[i] + b[i]
	}
	return y
}
