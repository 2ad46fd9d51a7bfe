package train

import (
	"fmt"

	"chorus/kernels"
	"chorus/model"
)

// gradients says where each gradient is summed. A nil slice belongs to a frozen tensor, and
// nothing is spent on it.
type gradients struct {
	embed, norm, head []float32
	layers            []layerGradients
}

type layerGradients struct {
	q, k, v, o, qNorm, kNorm, postAttention, postFFN []float32
	slots                                            []slotGradients
}

type slotGradients struct{ gate, up, down, router, bias []float32 }

// gradientsOf finds the gradient of each of m's tensors by its name; find returns nil for a frozen
// one. Slot 0 has the anchor's names, slot 1 the names of an expert's blob.
func gradientsOf(m *model.Mixture, find func(name string) []float32) *gradients {
	g := &gradients{
		embed: find("model.embed_tokens.weight"),
		norm:  find("model.norm.weight"),
		head:  find("lm_head.weight"),
	}
	slot := func(at, router, bias string) slotGradients {
		return slotGradients{find(at + "gate_proj.weight"), find(at + "up_proj.weight"), find(at + "down_proj.weight"), find(router), find(bias)}
	}
	for l := range m.Anchor.Layers {
		at := fmt.Sprintf("model.layers.%d.", l)
		lg := layerGradients{
			q: find(at + "self_attn.q_proj.weight"), k: find(at + "self_attn.k_proj.weight"),
			v: find(at + "self_attn.v_proj.weight"), o: find(at + "self_attn.o_proj.weight"),
			qNorm: find(at + "self_attn.q_norm.weight"), kNorm: find(at + "self_attn.k_norm.weight"),
			postAttention: find(at + "post_attention_layernorm.weight"), postFFN: find(at + "post_feedforward_layernorm.weight"),
			slots: []slotGradients{slot(at+"mlp.experts.0.", at+"mlp.gate.weight", "")},
		}
		if len(m.Slots) > 1 {
			at := fmt.Sprintf("layers.%d.", l)
			lg.slots = append(lg.slots, slot(at, at+"router.weight", at+"router.bias"))
		}
		g.layers = append(g.layers, lg)
	}
	return g
}

// needsInput reports whether anything that layer l's input depends on is trained.
func (g *gradients) needsInput(l int) bool { return l > 0 || g.embed != nil }

// needsAttention reports whether the backward pass must go through layer l's attention.
func (g *gradients) needsAttention(l int) bool {
	lg := &g.layers[l]
	return g.needsInput(l) || lg.q != nil || lg.k != nil || lg.v != nil || lg.o != nil ||
		lg.qNorm != nil || lg.kNorm != nil || lg.postAttention != nil
}

// scratch is the backward pass's memory, reused from step to step.
type scratch struct {
	dFinal, dy, dh, dMoe, dO, dAtt, dQ, dK, dV, dQRaw, dKRaw []float32
	dP, dOut, dAct, dGate, dUp, dIn                          []float32
}

// backward adds to g the gradients of a loss whose gradient by the logits is p.Logits, for the
// forward pass p of m over ids. routerZ weighs the router's z-loss, already divided by rows.
func backward(m *model.Mixture, p *model.Pass, ids []int32, g *gradients, s *scratch, routerZ float32) {
	c := m.Anchor.Config
	rows, h := p.Sequences*p.Length, c.HiddenSize

	kernels.LinearGradInput(zero(&s.dFinal, rows*h), p.Logits, m.Anchor.Head, rows)
	gradWeight(g.head, p.Logits, p.Final, c.VocabSize, h, rows)
	kernels.RMSNormGrad(zero(&s.dy, rows*h), g.norm, s.dFinal, p.Last, m.Anchor.Norm, p.LastInv, rows)
	for l := len(p.Layers) - 1; l >= 0; l-- {
		t, w, lg := &p.Layers[l], &m.Anchor.Layers[l], &g.layers[l]
		kernels.RMSNormGrad(zero(&s.dMoe, rows*h), lg.postFFN, s.dy, t.Moe, w.PostFFNNorm, t.MoeInv, rows)
		copy(zero(&s.dh, rows*h), s.dy)
		below := g.needsAttention(l)
		moeBackward(m, l, t, lg, s, rows, routerZ, below)
		if !below {
			return
		}
		attentionBackward(m, l, p, lg, s, rows)
		if !g.needsInput(l) {
			return
		}
		copy(s.dy, s.dh)
		kernels.LinearGradInput(s.dy, s.dQRaw, w.Q, rows)
		kernels.LinearGradInput(s.dy, s.dKRaw, w.K, rows)
		kernels.LinearGradInput(s.dy, s.dV, w.V, rows)
	}
	if g.embed != nil {
		for r, id := range ids {
			kernels.Axpy(g.embed[int(id)*h:][:h], 1, s.dy[r*h:(r+1)*h])
		}
	}
}

// moeBackward takes s.dMoe through layer l's experts and router, adding to s.dh if below asks
// for the gradient of what the layer's attention put out.
func moeBackward(m *model.Mixture, l int, t *model.LayerPass, lg *layerGradients, s *scratch, rows int, routerZ float32, below bool) {
	c := m.Anchor.Config
	h, i, e := c.HiddenSize, c.IntermediateSize, len(m.Slots)
	zero(&s.dP, rows*e)
	for slot := range t.Work {
		w, ffn, sg := &t.Work[slot], &m.Slots[slot].FFN[l], &lg.slots[slot]
		n := len(w.Rows)
		zero(&s.dOut, n*h)
		for a, r := range w.Rows {
			dMoe := s.dMoe[int(r)*h:][:h]
			s.dP[int(r)*e+slot] = kernels.Dot(dMoe, w.Out[a*h:][:h])
			kernels.Axpy(s.dOut[a*h:][:h], t.P[int(r)*e+slot], dMoe)
		}
		if !below && sg.gate == nil {
			continue
		}
		kernels.LinearGradInput(zero(&s.dAct, n*i), s.dOut, ffn.Down.Matrix, n)
		gradWeight(sg.down, s.dOut, w.Act, h, i, n)
		kernels.SiLUMulGrad(zero(&s.dGate, n*i), zero(&s.dUp, n*i), s.dAct, w.Gate, w.Up)
		gradWeight(sg.gate, s.dGate, w.In, i, h, n)
		gradWeight(sg.up, s.dUp, w.In, i, h, n)
		if !below {
			continue
		}
		kernels.LinearGradInput(zero(&s.dIn, n*h), s.dGate, ffn.Gate.Matrix, n)
		kernels.LinearGradInput(s.dIn, s.dUp, ffn.Up.Matrix, n)
		for a, r := range w.Rows {
			kernels.Axpy(s.dh[int(r)*h:][:h], 1, s.dIn[a*h:][:h])
		}
	}
	if e == 1 {
		return // one slot always has probability 1
	}
	kernels.SoftmaxGrad(s.dP, s.dP, t.P, t.PLSE, routerZ, e, rows)
	for slot := range m.Slots {
		sg, row := &lg.slots[slot], m.Slots[slot].Router[l]
		for r := range rows {
			d := s.dP[r*e+slot]
			kernels.Axpy(s.dh[r*h:][:h], d, row)
			if sg.router != nil {
				kernels.Axpy(sg.router, d, t.Hidden[r*h:][:h])
			}
			if sg.bias != nil && m.Slots[slot].Bias[l][0] <= 0 {
				sg.bias[0] += d
			}
		}
	}
}

// attentionBackward takes s.dh, the gradient of the layer's hidden state, through its attention:
// it leaves s.dQRaw, s.dKRaw and s.dV, from which follows the gradient of the layer's input.
func attentionBackward(m *model.Mixture, l int, p *model.Pass, lg *layerGradients, s *scratch, rows int) {
	c := m.Anchor.Config
	t, w, rope := &p.Layers[l], &m.Anchor.Layers[l], m.Anchor.Rope()
	h, qw, kv := c.HiddenSize, c.QWidth(), c.KVWidth()
	kernels.RMSNormGrad(zero(&s.dO, rows*h), lg.postAttention, s.dh, t.O, w.PostAttentionNorm, t.OInv, rows)
	kernels.LinearGradInput(zero(&s.dAtt, rows*qw), s.dO, w.O, rows)
	gradWeight(lg.o, s.dO, t.Att, h, qw, rows)
	zero(&s.dQ, rows*qw)
	zero(&s.dK, rows*kv)
	zero(&s.dV, rows*kv)
	for q := range p.Sequences {
		a, b := q*p.Length*qw, q*p.Length*kv
		kernels.AttentionGrad(s.dQ[a:], s.dK[b:], s.dV[b:], s.dAtt[a:], t.Att[a:], t.LSE[q*p.Length*c.Heads:],
			t.Q[a:], t.K[b:], t.V[b:], p.Length, c.HeadLayout())
		rope.Grad(s.dQ[a:], c.Heads, 0, p.Length)
		rope.Grad(s.dK[b:], c.KVHeads, 0, p.Length)
	}
	kernels.RMSNormGrad(zero(&s.dQRaw, rows*qw), lg.qNorm, s.dQ, t.QRaw, w.QNorm, t.QInv, rows)
	kernels.RMSNormGrad(zero(&s.dKRaw, rows*kv), lg.kNorm, s.dK, t.KRaw, w.KNorm, t.KInv, rows)
	gradWeight(lg.q, s.dQRaw, t.X, qw, h, rows)
	gradWeight(lg.k, s.dKRaw, t.X, kv, h, rows)
	gradWeight(lg.v, s.dV, t.X, kv, h, rows)
}

func gradWeight(dw, dy, x []float32, out, in, rows int) {
	if dw != nil {
		kernels.LinearGradWeight(dw, dy, x, out, in, rows)
	}
}

// zero makes *s n long and all zero, keeping its memory where it suffices, and returns it.
func zero(s *[]float32, n int) []float32 {
	if cap(*s) < n {
		*s = make([]float32, n)
		return *s
	}
	*s = (*s)[:n]
	clear(*s)
	return *s
}
