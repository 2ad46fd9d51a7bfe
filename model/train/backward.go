package train

import (
	"fmt"

	"chorus/kernels"
	"chorus/model"
)

// gradients says where each gradient goes. A nil slice belongs to a frozen tensor, and nothing is spent on it; an empty one to
// a matrix whose gradient is computed elsewhere, see [scratch].after.
type gradients struct {
	embed, norm, head []float32
	layers            []layerGradients
	adds              bool // [backward] adds to all of them, as of another part of the same batch
}

type layerGradients struct {
	q, k, v, o, qNorm, kNorm, postAttention, postFFN []float32
	slots                                            []slotGradients
}

type slotGradients struct{ gate, up, down, router, bias []float32 }

// clear sets to zero the gradients that [backward] adds to in any case; it stores the others, those of matrices.
func (g *gradients) clear() {
	sums := [][]float32{g.embed, g.norm}
	for _, l := range g.layers {
		sums = append(sums, l.qNorm, l.kNorm, l.postAttention, l.postFFN)
		for _, s := range l.slots {
			sums = append(sums, s.router, s.bias)
		}
	}
	for _, s := range sums {
		kernels.Zero(s)
	}
}

// gradientsOf finds the gradient of each of m's tensors by its slot and its name there, which is the anchor's in slot 0 and
// otherwise that of an expert's blob; find returns nil for a frozen one.
func gradientsOf(m *model.Mixture, find func(slot int, name string) []float32) *gradients {
	anchor := func(name string) []float32 { return find(0, name+".weight") }
	g := &gradients{embed: anchor("model.embed_tokens"), norm: anchor("model.norm"), head: anchor("lm_head")}
	for l := range m.Anchor.Layers {
		at := fmt.Sprintf("model.layers.%d.", l)
		lg := layerGradients{
			q: anchor(at + "self_attn.q_proj"), k: anchor(at + "self_attn.k_proj"), v: anchor(at + "self_attn.v_proj"), o: anchor(at + "self_attn.o_proj"),
			qNorm: anchor(at + "self_attn.q_norm"), kNorm: anchor(at + "self_attn.k_norm"),
			postAttention: anchor(at + "post_attention_layernorm"), postFFN: anchor(at + "post_feedforward_layernorm"),
		}
		for s := range m.Slots {
			ffn, router := at+"mlp.experts.0.", at+"mlp.gate.weight"
			if s > 0 {
				ffn = fmt.Sprintf("layers.%d.", l)
				router = ffn + "router.weight"
			}
			of := func(name string) []float32 { return find(s, ffn+name) }
			lg.slots = append(lg.slots, slotGradients{
				of("gate_proj.weight"), of("up_proj.weight"), of("down_proj.weight"), find(s, router), of("router.bias"),
			})
		}
		g.layers = append(g.layers, lg)
	}
	return g
}

// refill brings the copies of trained matrices in mixed, see [model.Mixture.Mixed], up to date with m.
func (g *gradients) refill(mixed, m *model.Mixture) {
	fill := func(dw []float32, c, w kernels.Matrix) {
		if dw != nil {
			c.Refill(w)
		}
	}
	fill(g.head, mixed.Anchor.Head, m.Anchor.Head)
	for l, lg := range g.layers {
		c, w := &mixed.Anchor.Layers[l], &m.Anchor.Layers[l]
		fill(lg.q, c.Q, w.Q)
		fill(lg.k, c.K, w.K)
		fill(lg.v, c.V, w.V)
		fill(lg.o, c.O, w.O)
		for s, sg := range lg.slots {
			c, w := &mixed.Slots[s].FFN[l], &m.Slots[s].FFN[l]
			fill(sg.gate, c.Gate.Matrix, w.Gate.Matrix)
			fill(sg.up, c.Up.Matrix, w.Up.Matrix)
			fill(sg.down, c.Down.Matrix, w.Down.Matrix)
		}
	}
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
	dP, dWeight, dOut, dAct, dGate, dUp, dIn, ones           []float32
	routers, dRouters                                        [][]float32

	after func(l int, t *model.LayerPass) // if not nil, called when layer l's experts and router are done
}

// aux says what a step minimises beside the cross-entropy of tokens. The weights of what routers do are already divided by rows.
type aux struct {
	logits, router float32 // of lse² of a row's logits and of its routers'
	guide          float32 // of the cross-entropy of its routers against its slot
	slots          []int8  // (rows) the slot that each row's text is of
	topic          *topic
	rows           int // of the batch that a pass is a part of; 0 if it is all of it
}

// backward stores in g, or adds to it, the gradients of the loss of the forward pass p of m over ids, up to the head, divided by the rows of
// the batch, and returns the sum over rows of the cross-entropy against targets.
func backward(m *model.Mixture, p *model.Pass, ids, targets []int32, x aux, g *gradients, s *scratch) float64 {
	c := m.Anchor.Config
	rows, h := p.Sequences*p.Length, c.HiddenSize
	scale := float32(rows)
	if x.rows > 0 {
		scale = float32(x.rows)
	}
	headLoss := kernels.HeadLossAdd
	if !g.adds {
		g.clear()
		headLoss = kernels.HeadLoss
	}
	loss := headLoss(grow(&s.dFinal, rows*h), g.head, p.Final, m.Anchor.Head, targets, x.logits, scale, rows)
	kernels.RMSNormGrad(grow(&s.dy, rows*h), g.norm, s.dFinal, p.Last, m.Anchor.Norm, p.LastInv, rows)
	for l := len(p.Layers) - 1; l >= 0; l-- {
		t, w, lg := m.Layer(p, l), &m.Anchor.Layers[l], &g.layers[l]
		kernels.RMSNormGrad(grow(&s.dMoe, rows*h), lg.postFFN, s.dy, t.Moe, w.PostFFNNorm, t.MoeInv, rows)
		s.dh, s.dy = s.dy, s.dh
		below := g.needsAttention(l)
		moeBackward(m, l, t, g, s, rows, x, below)
		if x.topic != nil && l == 0 {
			x.topic.backward(s.dh, t.Hidden, ids, p.Length, scale, g.adds)
		}
		if !below {
			return loss
		}
		attentionBackward(m, l, t, g, p, s)
		if !g.needsInput(l) {
			return loss
		}
		s.dy, s.dh = s.dh, s.dy
		kernels.LinearGradInput(s.dy, s.dQRaw, w.Q, rows)
		kernels.LinearGradInput(s.dy, s.dKRaw, w.K, rows)
		kernels.LinearGradInput(s.dy, s.dV, w.V, rows)
	}
	if g.embed != nil {
		for r, id := range ids {
			kernels.Axpy(g.embed[int(id)*h:][:h], 1, s.dy[r*h:(r+1)*h])
		}
	}
	return loss
}

// moeBackward takes s.dMoe through layer l's experts and router, adding to s.dh if below asks
// for the gradient of what the layer's attention put out.
func moeBackward(m *model.Mixture, l int, t *model.LayerPass, g *gradients, s *scratch, rows int, x aux, below bool) {
	c, lg := m.Anchor.Config, &g.layers[l]
	h, i, e := c.HiddenSize, c.IntermediateSize, len(m.Slots)
	zero(&s.dP, rows*e)
	for len(s.ones) < rows {
		s.ones = append(s.ones, 1)
	}
	for slot := range t.Work {
		w, ffn, sg := &t.Work[slot], &m.Slots[slot].FFN[l], &lg.slots[slot]
		n := len(w.Rows)
		kernels.MixGrad(grow(&s.dOut, n*h), grow(&s.dWeight, n), s.dMoe, w.Weights, w.Out, w.Rows, h)
		for a, r := range w.Rows {
			s.dP[int(r)*e+slot] = s.dWeight[a]
		}
		if !below && sg.gate == nil {
			continue
		}
		kernels.SetGradInput(grow(&s.dAct, n*i), s.dOut, ffn.Down.Matrix, n)
		g.weight(sg.down, s.dOut, w.Act, ffn.Down.Matrix, n)
		kernels.SiLUMulGrad(grow(&s.dGate, n*i), grow(&s.dUp, n*i), s.dAct, w.Gate, w.Up)
		g.weight(sg.gate, s.dGate, w.In, ffn.Gate.Matrix, n)
		g.weight(sg.up, s.dUp, w.In, ffn.Up.Matrix, n)
		if !below {
			continue
		}
		kernels.SetGradInput(grow(&s.dIn, n*h), s.dGate, ffn.Gate.Matrix, n)
		kernels.LinearGradInput(s.dIn, s.dUp, ffn.Up.Matrix, n)
		kernels.Mix(s.dh, s.ones[:n], s.dIn, w.Rows, h)
	}
	if e == 1 {
		return // one slot always has probability 1
	}
	kernels.SoftmaxGrad(s.dP, s.dP, t.P, t.PLSE, x.router, e, rows)
	if x.guide > 0 {
		kernels.Axpy(s.dP, x.guide, t.P[:rows*e])
		for r, slot := range x.slots {
			s.dP[r*e+int(slot)] -= x.guide
		}
	}
	grow(&s.routers, e)
	grow(&s.dRouters, e)
	for slot := range m.Slots {
		sg := &lg.slots[slot]
		s.routers[slot], s.dRouters[slot] = m.Slots[slot].Router[l], sg.router
		if sg.bias != nil && m.Slots[slot].Bias[l][0] <= 0 {
			for r := range rows {
				sg.bias[0] += s.dP[r*e+slot]
			}
		}
	}
	kernels.RouteGrad(s.dh, s.dRouters, s.dP, t.Hidden, s.routers, h, rows)
	if s.after != nil {
		s.after(l, t)
	}
}

// attentionBackward takes s.dh, the gradient of the layer's hidden state, through its attention:
// it leaves s.dQRaw, s.dKRaw and s.dV, from which follows the gradient of the layer's input.
func attentionBackward(m *model.Mixture, l int, t *model.LayerPass, g *gradients, p *model.Pass, s *scratch) {
	c, rows := m.Anchor.Config, p.Sequences*p.Length
	w, lg, rope := &m.Anchor.Layers[l], &g.layers[l], m.Anchor.Rope()
	h, qw, kv := c.HiddenSize, c.QWidth(), c.KVWidth()
	kernels.RMSNormGrad(grow(&s.dO, rows*h), lg.postAttention, s.dh, t.O, w.PostAttentionNorm, t.OInv, rows)
	kernels.SetGradInput(grow(&s.dAtt, rows*qw), s.dO, w.O, rows)
	g.weight(lg.o, s.dO, t.Att, w.O, rows)
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
	kernels.RMSNormGrad(grow(&s.dQRaw, rows*qw), lg.qNorm, s.dQ, t.QRaw, w.QNorm, t.QInv, rows)
	kernels.RMSNormGrad(grow(&s.dKRaw, rows*kv), lg.kNorm, s.dK, t.KRaw, w.KNorm, t.KInv, rows)
	g.weight(lg.q, s.dQRaw, t.X, w.Q, rows)
	g.weight(lg.k, s.dKRaw, t.X, w.K, rows)
	g.weight(lg.v, s.dV, t.X, w.V, rows)
}

// weight stores a product's gradient by its weight m in dw, or adds it, unless dw is nil or empty.
func (g *gradients) weight(dw, dy, x []float32, m kernels.Matrix, rows int) {
	switch {
	case len(dw) == 0:
	case g.adds:
		kernels.LinearGradWeight(dw, dy, x, m, rows)
	default:
		kernels.SetGradWeight(dw, dy, x, m, rows)
	}
}

// grow makes *s n long, keeping its memory where it suffices, and returns it.
func grow[T any](s *[]T, n int) []T {
	if cap(*s) < n {
		*s = make([]T, n)
	}
	*s = (*s)[:n]
	return *s
}

// zero is grow, and zeros.
func zero(s *[]float32, n int) []float32 {
	kernels.Zero(grow(s, n))
	return *s
}
