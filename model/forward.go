package model

import "chorus/kernels"

// A LayerPass holds what one layer computed for a batch of rows; Q is the width of all queries, KV of all
// keys. The backward pass reads it;
// inference lets all layers share one, and in it all slots. Buffers grow as needed and are reused.
type LayerPass struct {
	X          []float32  // (rows, H) the layer's input
	QRaw, KRaw []float32  // (rows, Q), (rows, KV) before their norms
	Q          []float32  // (rows, Q) after norm and rope
	K, V       []float32  // (rows, KV) after norm and rope; unused where a cache holds them
	QInv, KInv []float32  // (rows) what RMSNorm keeps
	Att, LSE   []float32  // (rows, Q), (rows, heads)
	O, OInv    []float32  // (rows, H), (rows) attention's output before its norm
	Hidden     []float32  // (rows, H) after attention: what router and experts read
	P, PLSE    []float32  // (rows, E), (rows) the router's probabilities
	Chosen     []int32    // (rows, k) slots, by descending probability
	Work       []SlotPass // (E)
	Moe        []float32  // (rows, H) the weighted sum of experts before its norm
	MoeInv     []float32  // (rows)

	routers [][]float32 // (E)(H)
	bias    []float32   // (E)

	shared   *SlotPass // if not nil, the memory of all slots' work, of which nothing but Rows is kept
	products []kernels.Product
}

// A SlotPass is the work of one slot in one layer on the rows that chose it.
type SlotPass struct {
	Rows          []int32   // (n) which rows of the batch
	Weights       []float32 // (n) of what is computed for them, in the sum over slots
	In            []float32 // (n, H)
	Gate, Up, Act []float32 // (n, I)
	Out           []float32 // (n, H)
	Low           []float32 // (n, r) inside a low-rank projection
}

// A Pass is a forward computation over Sequences sequences of Length tokens each, with all that
// the backward pass needs. The zero value is ready to use; reusing one, also on another mixture,
// reuses its memory.
type Pass struct {
	Sequences, Length int
	Layers            []LayerPass
	Last, LastInv     []float32 // (rows, H), (rows) the last layer's output, before the final norm
	Final             []float32 // (rows, H)
	Logits            []float32 // (rows, V)

	// Inputs says to keep of each layer no more than its input, X: all layers share the memory of one's work, and the backward pass has
	// [Mixture.Layer] do it again.
	Inputs bool

	work   LayerPass // that all layers share, if Inputs
	worked int       // the layer whose work that is
	output []float32 // (rows, H) of a layer computed again
	spans  []span
}

// PassBytes is the memory, in bytes, that a [Pass] over rows rows takes to keep what every layer computed, if each row chooses all slots.
func (m *Mixture) PassBytes(rows int) int64 {
	c := m.Anchor.Config
	h, e := int64(c.HiddenSize), int64(m.TopK)
	row := 4*h + 3*int64(c.QWidth()) + 3*int64(c.KVWidth()) + int64(c.Heads) + e*(2*h+3*int64(c.IntermediateSize))
	return 4 * row * int64(rows) * int64(c.Layers)
}

// Forward computes the logits of every position of ids, (sequences, length), into p.Logits.
// ids must be inside the vocabulary and length at most MaxPositions.
func (m *Mixture) Forward(p *Pass, ids []int32, sequences, length int) {
	m.ForwardToHead(p, ids, sequences, length)
	rows := sequences * length
	kernels.Linear(grow(&p.Logits, rows*m.Anchor.Config.VocabSize), p.Final, m.Anchor.Head, rows)
}

// ForwardToHead is [Mixture.Forward] up to p.Final: of a large vocabulary, the logits of many rows are better not computed at once.
// It leaves p.Logits as it was.
func (m *Mixture) ForwardToHead(p *Pass, ids []int32, sequences, length int) {
	c := m.Anchor.Config
	rows := sequences * length
	p.Sequences, p.Length = sequences, length
	if len(p.Layers) != c.Layers {
		p.Layers = make([]LayerPass, c.Layers)
	}
	m.embed(grow(&p.Layers[0].X, rows*c.HiddenSize), ids)
	for l := range p.Layers {
		y := &p.Last
		if l+1 < len(p.Layers) {
			y = &p.Layers[l+1].X
		}
		m.compute(p, l, grow(y, rows*c.HiddenSize))
	}
	m.final(p, p.Last, rows)
}

// compute computes layer l of p, from its input to y, (rows, H).
func (m *Mixture) compute(p *Pass, l int, y []float32) {
	rows, kv := p.Sequences*p.Length, m.Anchor.Config.KVWidth()
	t := &p.Layers[l]
	if p.Inputs {
		p.work.X, p.worked = t.X, l
		t = &p.work
	}
	grow(&t.K, rows*kv)
	grow(&t.V, rows*kv)
	for s := range grow(&p.spans, p.Sequences) {
		at := s * p.Length * kv
		p.spans[s] = span{Span: kernels.Span{Rows: p.Length}, k: t.K[at:][:p.Length*kv], v: t.V[at:][:p.Length*kv]}
	}
	m.layer(l, y, t, p.spans, rows)
}

// Layer returns what layer l computed in the forward pass p. If p kept the inputs alone, it is computed again, to the same bits, and stands
// until the next call.
func (m *Mixture) Layer(p *Pass, l int) *LayerPass {
	if !p.Inputs {
		return &p.Layers[l]
	}
	if p.worked != l {
		m.compute(p, l, grow(&p.output, p.Sequences*p.Length*m.Anchor.Config.HiddenSize))
	}
	return &p.work
}

func (m *Mixture) embed(x []float32, ids []int32) {
	h := m.Anchor.Config.HiddenSize
	for i, id := range ids {
		m.Anchor.Embed.Row(x[i*h:(i+1)*h], int(id))
	}
}

// final applies the final norm to last, (rows, H).
func (m *Mixture) final(p *Pass, last []float32, rows int) {
	c := m.Anchor.Config
	kernels.RMSNorm(grow(&p.Final, rows*c.HiddenSize), grow(&p.LastInv, rows), last, m.Anchor.Norm, c.RMSNormEps, rows)
}

// A span is one sequence's place in a batch: its new rows and where its keys and values live.
type span struct {
	kernels.Span
	k, v []float32 // (Past+Rows, KV)
}

// layer computes one block for the rows of all spans, in order: y from t.X, both (rows, H).
func (m *Mixture) layer(l int, y []float32, t *LayerPass, spans []span, rows int) {
	c := m.Anchor.Config
	w := &m.Anchor.Layers[l]
	rope := m.Anchor.Rope()
	h, q, kv, heads := c.HiddenSize, c.QWidth(), c.KVWidth(), c.HeadLayout()

	t.products = append(t.products[:0],
		kernels.Product{Y: grow(&t.QRaw, rows*q), X: t.X, M: w.Q, Rows: rows},
		kernels.Product{Y: grow(&t.KRaw, rows*kv), X: t.X, M: w.K, Rows: rows})
	at := 0
	for _, s := range spans {
		t.products = append(t.products, kernels.Product{Y: s.v[s.Past*kv:], X: t.X[at*h:], M: w.V, Rows: s.Rows})
		at += s.Rows
	}
	kernels.Linears(t.products...)
	kernels.RMSNorm(grow(&t.Q, rows*q), grow(&t.QInv, rows), t.QRaw, w.QNorm, c.RMSNormEps, rows)
	grow(&t.Att, rows*q)
	grow(&t.KInv, rows)
	grow(&t.LSE, rows*c.Heads)
	at = 0
	for _, s := range spans {
		k := s.k[s.Past*kv:]
		kernels.RMSNorm(k, t.KInv[at:], t.KRaw[at*kv:], w.KNorm, c.RMSNormEps, s.Rows)
		rope.Apply(t.Q[at*q:], c.Heads, s.Past, s.Rows)
		rope.Apply(k, c.KVHeads, s.Past, s.Rows)
		kernels.Attention(t.Att[at*q:], t.LSE[at*c.Heads:], t.Q[at*q:], s.k, s.v, s.Span, heads)
		at += s.Rows
	}
	kernels.Linear(grow(&t.O, rows*h), t.Att, w.O, rows)
	kernels.RMSNormAdd(grow(&t.Hidden, rows*h), grow(&t.OInv, rows), t.X, t.O, w.PostAttentionNorm, c.RMSNormEps, rows)

	m.route(l, t, rows)
	kernels.Zero(grow(&t.Moe, rows*h))
	for first := 0; first < len(t.Work); {
		first = m.experts(l, t, first, max(rows, fewRows))
	}
	kernels.RMSNormAdd(y, grow(&t.MoeInv, rows), t.Hidden, t.Moe, w.PostFFNNorm, c.RMSNormEps, rows)
}

// route computes the router's probabilities over all slots and lists, slot by slot, the rows that chose it among their
// k, and what weight it has there: its probability, or where the configuration normalises them, what it is
// among the chosen alone.
func (m *Mixture) route(l int, t *LayerPass, rows int) {
	h, e, k := m.Anchor.Config.HiddenSize, len(m.Slots), m.TopK
	grow(&t.routers, e)
	grow(&t.bias, e)
	for s, slot := range m.Slots {
		t.routers[s], t.bias[s] = slot.Router[l], 0
		if slot.Bias != nil {
			t.bias[s] = min(slot.Bias[l][0], 0)
		}
	}
	kernels.Route(grow(&t.P, rows*e), grow(&t.PLSE, rows), grow(&t.Chosen, rows*k), t.Hidden, t.routers, t.bias, k, h, rows)
	if len(t.Work) != e {
		t.Work = make([]SlotPass, e)
	}
	for s := range t.Work {
		t.Work[s].Rows, t.Work[s].Weights = t.Work[s].Rows[:0], t.Work[s].Weights[:0]
	}
	for r := range rows {
		p, chosen := t.P[r*e:][:e], t.Chosen[r*k:][:k]
		sum := float32(1)
		if m.Anchor.Config.NormTopK {
			sum = 0
			for _, s := range chosen {
				sum += p[s]
			}
		}
		for _, s := range chosen {
			w := &t.Work[s]
			w.Rows, w.Weights = append(w.Rows, int32(r)), append(w.Weights, p[s]/sum)
		}
	}
}

// fewRows of the slots' work are computed at once, if a batch has no more of its own.
const fewRows = 16

// experts adds to t.Moe what the slots from first on make of t.Hidden: as many slots at once as have, together, no more than most
// rows, but one at least. It returns the slot after them.
func (m *Mixture) experts(l int, t *LayerPass, first, most int) int {
	h, i := m.Anchor.Config.HiddenSize, m.Anchor.Config.IntermediateSize
	end, rows := first, 0
	for ; end < len(t.Work) && (end == first || rows+len(t.Work[end].Rows) <= most); end++ {
		rows += len(t.Work[end].Rows)
	}
	if g := t.shared; g != nil {
		grow(&g.In, rows*h)
		grow(&g.Gate, rows*i)
		grow(&g.Up, rows*i)
		grow(&g.Act, rows*i)
		grow(&g.Out, rows*h)
	}
	at := 0
	each := func(f func(w *SlotPass, ffn *FFN, n int)) {
		for e := first; e < end; e++ {
			if n := len(t.Work[e].Rows); n > 0 {
				f(&t.Work[e], &m.Slots[e].FFN[l], n)
			}
		}
	}
	t.products = t.products[:0]
	each(func(w *SlotPass, ffn *FFN, n int) {
		if g := t.shared; g != nil {
			w.In, w.Out = g.In[at*h:][:n*h], g.Out[at*h:][:n*h]
			w.Gate, w.Up, w.Act = g.Gate[at*i:][:n*i], g.Up[at*i:][:n*i], g.Act[at*i:][:n*i]
			at += n
		}
		kernels.Gather(grow(&w.In, n*h), t.Hidden, w.Rows, h)
		t.products = append(t.products,
			kernels.Product{Y: grow(&w.Gate, n*i), X: w.In, M: ffn.Gate.Matrix, Rows: n},
			kernels.Product{Y: grow(&w.Up, n*i), X: w.In, M: ffn.Up.Matrix, Rows: n})
	})
	kernels.Linears(t.products...)
	t.products = t.products[:0]
	each(func(w *SlotPass, ffn *FFN, n int) {
		ffn.Gate.addDifference(w.Gate, w.In, n, &w.Low)
		ffn.Up.addDifference(w.Up, w.In, n, &w.Low)
		kernels.SiLUMul(grow(&w.Act, n*i), w.Gate, w.Up)
		t.products = append(t.products, kernels.Product{Y: grow(&w.Out, n*h), X: w.Act, M: ffn.Down.Matrix, Rows: n})
	})
	kernels.Linears(t.products...)
	each(func(w *SlotPass, ffn *FFN, n int) {
		ffn.Down.addDifference(w.Out, w.Act, n, &w.Low)
		kernels.Mix(t.Moe, w.Weights, w.Out, w.Rows, h)
	})
	return end
}

// grow makes *s n long, keeping its memory where it suffices, and returns it.
func grow[T any](s *[]T, n int) []T {
	if cap(*s) < n {
		*s = make([]T, n)
	}
	*s = (*s)[:n]
	return *s
}
