package kernels

import "math"

// A Span says where one sequence stands in an attention call: Rows new positions after Past
// earlier ones. Its queries are rows of q; its keys and values hold Past+Rows positions.
type Span struct{ Rows, Past int }

// Heads gives the layout of attention: Query heads of Dim features share KV key and value
// heads, Query/KV of them each (grouped-query attention).
type Heads struct{ Query, KV, Dim int }

// Attention computes causal softmax attention of one sequence, without ever storing a matrix
// of positions by positions: q and out are (Rows, Query, Dim), k and v are (Past+Rows, KV, Dim),
// and the new position i attends to the first Past+i+1. The scale is 1/√Dim. lse, (Rows, Query),
// receives the log of each softmax's denominator for [AttentionGrad]; it may be nil.
func Attention(out, lse, q, k, v []float32, s Span, h Heads) {
	queries, keys := s.Rows*h.Query*h.Dim, (s.Past+s.Rows)*h.KV*h.Dim
	if lse != nil {
		lse = lse[:s.Rows*h.Query]
	}
	active.attention(out[:queries], lse, q[:queries], k[:keys], v[:keys], s, h)
}

// AttentionGrad adds to dq, dk and dv, shaped as q, k and v, the gradients of [Attention] for a
// sequence with no past, given dout, out and lse of the forward pass. The probabilities are
// computed again rather than kept (Dao et al. 2022, §3.1).
func AttentionGrad(dq, dk, dv, dout, out, lse, q, k, v []float32, rows int, h Heads) {
	queries, keys := rows*h.Query*h.Dim, rows*h.KV*h.Dim
	active.attentionGrad(dq[:queries], dk[:keys], dv[:keys], dout[:queries], out[:queries], lse[:rows*h.Query],
		q[:queries], k[:keys], v[:keys], rows, h)
}

func attentionPortable(out, lse, q, k, v []float32, s Span, h Heads) {
	scale := float32(1 / math.Sqrt(float64(h.Dim)))
	total, qw, kw := s.Past+s.Rows, h.Query*h.Dim, h.KV*h.Dim
	blocks := blocksOf(s.Rows)
	parallel(h.Query*blocks, func(t int) {
		head, b := t/blocks, t%blocks
		at := head / (h.Query / h.KV) * h.Dim
		score := make([]float32, total)
		for i := b * blockRows; i < min(s.Rows, (b+1)*blockRows); i++ {
			qi := q[i*qw+head*h.Dim:][:h.Dim]
			sc := score[:s.Past+i+1]
			top := float32(math.Inf(-1))
			for j := range sc {
				sc[j] = dotPortable(qi, k[j*kw+at:][:h.Dim]) * scale
				top = max(top, sc[j])
			}
			var sum float32
			for j := range sc {
				sc[j] = exp32(sc[j] - top)
				sum += sc[j]
			}
			o := out[i*qw+head*h.Dim:][:h.Dim]
			clear(o)
			for j, p := range sc {
				axpyPortable(o, p/sum, v[j*kw+at:][:h.Dim])
			}
			if lse != nil {
				lse[i*h.Query+head] = top + float32(math.Log(float64(sum)))
			}
		}
	})
}

func attentionGradPortable(dq, dk, dv, dout, out, lse, q, k, v []float32, rows int, h Heads) {
	scale := float32(1 / math.Sqrt(float64(h.Dim)))
	qw, kw, group := h.Query*h.Dim, h.KV*h.Dim, h.Query/h.KV
	parallel(h.KV, func(kv int) {
		at := kv * h.Dim
		for head := kv * group; head < (kv+1)*group; head++ {
			for i := range rows {
				row := i*qw + head*h.Dim
				qi, doi, dqi := q[row:][:h.Dim], dout[row:][:h.Dim], dq[row:][:h.Dim]
				delta := dotPortable(doi, out[row:][:h.Dim])
				l := lse[i*h.Query+head]
				for j := 0; j <= i; j++ {
					kj := k[j*kw+at:][:h.Dim]
					p := exp32(dotPortable(qi, kj)*scale - l)
					axpyPortable(dv[j*kw+at:][:h.Dim], p, doi)
					ds := p * (dotPortable(doi, v[j*kw+at:][:h.Dim]) - delta) * scale
					axpyPortable(dqi, ds, kj)
					axpyPortable(dk[j*kw+at:][:h.Dim], ds, qi)
				}
			}
		}
	})
}

// blockRows queries are one unit of parallel work.
const blockRows = 16

func blocksOf(rows int) int { return (rows + blockRows - 1) / blockRows }
