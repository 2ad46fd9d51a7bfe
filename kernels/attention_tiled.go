//go:build amd64 || arm64

package kernels

import (
	"math"
	"runtime"
)

const (
	// queryBlock is how many queries of a head are computed as one piece of work.
	queryBlock = 56

	// scoresMax is the most scores that a piece of work holds, if that allows more than one tile.
	scoresMax = 1 << 18
)

// attention is the tier's function of this name: for a block of queries of one head it forms all
// scores, as one product, before it turns them into probabilities. A score that a query may not see
// has the probability zero, which leaves sums as they are.
func (t *tiling) attention(out, lse, q, k, v []float32, s Span, h Heads) {
	if s.Rows == 1 {
		t.attend(out, lse, q, k, v, s.Past+1, h)
		return
	}
	block := max(t.heights[0], min(queryBlock, scoresMax/(s.Past+s.Rows+1)))
	blocks := (s.Rows + block - 1) / block
	item := func(p int) {
		// The last blocks see the most keys: they go first.
		head, i := p%h.Query, (blocks-1-p/h.Query)*block
		rows := min(block, s.Rows-i)
		past := s.Past + i
		keys, qw, kw := past+rows, h.Query*h.Dim, h.KV*h.Dim
		at := head / (h.Query / h.KV) * h.Dim
		scores, scaled := borrow(rows*keys), borrow(rows*h.Dim)
		defer giveBack(scores)
		defer giveBack(scaled)
		scaleQueries(*scaled, q[i*qw+head*h.Dim:], qw, rows, h.Dim)
		t.serial(*scores, keys, floats(*scaled, h.Dim, true), floats(k[at:], kw, true), rows, keys, h.Dim, false)
		for r := range rows {
			row := (*scores)[r*keys:][:keys]
			l := softmax(row[:past+r+1])
			clear(row[past+r+1:])
			if lse != nil {
				lse[(i+r)*h.Query+head] = l
			}
		}
		t.serial(out[i*qw+head*h.Dim:], qw, floats(*scores, keys, true), floats(v[at:], kw, false), rows, h.Dim, keys, false)
	}
	if s.Rows*(s.Past+s.Rows)*h.Query*h.Dim <= inline {
		for p := range h.Query * blocks {
			item(p)
		}
		return
	}
	parallel(h.Query*blocks, item)
}

// keyBlock is how many positions are read at a time when there is but one query.
const keyBlock = 16

// attend is attention of one query to so many keys, which takes as long as reading keys and values. The bits are those of attention.
func (t *tiling) attend(out, lse, q, k, v []float32, keys int, h Heads) {
	kw := h.KV * h.Dim
	scores, scaled := borrow(h.Query*keys), borrow(h.Query*h.Dim)
	defer giveBack(scores)
	defer giveBack(scaled)
	scaleQueries(*scaled, q, h.Dim, h.Query, h.Dim)
	// A piece of work is some neighbouring heads, over all positions.
	pieces := min(h.Query, 2*runtime.GOMAXPROCS(0))
	if keys*(h.Query+h.KV)*h.Dim <= 2*grain {
		pieces = 1
	}
	parallel(pieces, func(p int) {
		first, end := p*h.Query/pieces, (p+1)*h.Query/pieces
		eachBlock(k, keys, first, end, h, func(head, heads, at, n int, x []float32) {
			c := (*scores)[head*keys+at:]
			if heads > 1 || keys < n {
				t.serial(c, keys, floats((*scaled)[head*h.Dim:], h.Dim, true), floats(x, kw, true), heads, n, h.Dim, false)
				return
			}
			if n < keyBlock && at > 0 {
				back := keyBlock - n // the same scores again
				n, x, c = keyBlock, k[(at-back)*kw+head/(h.Query/h.KV)*h.Dim:], (*scores)[head*keys+at-back:]
			}
			t.vector(c[:n], (*scaled)[head*h.Dim:][:h.Dim], floats(x, kw, true), h.Dim, false)
		})
		for head := first; head < end; head++ {
			l := softmax((*scores)[head*keys:][:keys])
			if lse != nil {
				lse[head] = l
			}
		}
		eachBlock(v, keys, first, end, h, func(head, heads, at, n int, x []float32) {
			p, o := (*scores)[head*keys+at:], out[head*h.Dim:]
			if heads > 1 || h.Dim%t.width > 0 {
				t.serial(o, h.Dim, floats(p, keys, true), floats(x, kw, false), heads, h.Dim, n, at > 0)
				return
			}
			for d := 0; d < h.Dim; d += t.width {
				t.tile(1, n, p, x[d:], kw, o[d:], 0, at > 0)
			}
		})
	})
}

// eachBlock calls f for each block of n positions from at on of x, keys or values, and in it for those of heads first to end that share a
// head of x: heads from head on.
func eachBlock(x []float32, keys, first, end int, h Heads, f func(head, heads, at, n int, x []float32)) {
	group, kw := h.Query/h.KV, h.KV*h.Dim
	for at := 0; at < keys; at += keyBlock {
		for head := first; head < end; {
			kv := head / group
			heads := min(end, (kv+1)*group) - head
			f(head, heads, at, min(keyBlock, keys-at), x[at*kw+kv*h.Dim:])
			head += heads
		}
	}
}

// scaleQueries stores in dst, (rows, dim), the rows of q that are ld apart, times 1/√dim.
func scaleQueries(dst, q []float32, ld, rows, dim int) {
	for r := range rows {
		copy(dst[r*dim:][:dim], q[r*ld:])
	}
	active.scale(dst, float32(1/math.Sqrt(float64(dim))))
}

// attentionGrad is the tier's function of this name. Key and value heads are its pieces of work,
// since each sums over all queries.
func (t *tiling) attentionGrad(dq, dk, dv, dout, out, lse, q, k, v []float32, rows int, h Heads) {
	scale := float32(1 / math.Sqrt(float64(h.Dim)))
	qw, kw, group := h.Query*h.Dim, h.KV*h.Dim, h.Query/h.KV
	block := min(rows, max(t.heights[0], min(queryBlock, scoresMax/(rows+1))))
	parallel(h.KV, func(kv int) {
		at := kv * h.Dim
		scaled, ps, ds := borrow(block*h.Dim), borrow(block*rows), borrow(block*rows)
		defer giveBack(scaled)
		defer giveBack(ps)
		defer giveBack(ds)
		for head := kv * group; head < (kv+1)*group; head++ {
			for i := 0; i < rows; i += block {
				n := min(block, rows-i)
				keys, from := i+n, i*qw+head*h.Dim
				p, d := (*ps)[:n*keys], (*ds)[:n*keys]
				qs := (*scaled)[:n*h.Dim]
				// P = exp(Q·Kᵀ/√Dim - lse), then dS = P∘(dO·Vᵀ - Σ dO∘O)/√Dim.
				scaleQueries(qs, q[from:], qw, n, h.Dim)
				t.serial(p, keys, floats(qs, h.Dim, true), floats(k[at:], kw, true), n, keys, h.Dim, false)
				t.serial(d, keys, floats(dout[from:], qw, true), floats(v[at:], kw, true), n, keys, h.Dim, false)
				for r := range n {
					seen, row := i+r+1, from+r*qw
					pr, dr := p[r*keys:][:keys], d[r*keys:][:keys]
					active.expSum(pr[:seen], pr[:seen], lse[(i+r)*h.Query+head])
					delta := active.dot(dout[row:][:h.Dim], out[row:][:h.Dim])
					active.softmaxGrad(dr[:seen], pr[:seen], delta, scale)
					clear(pr[seen:])
					clear(dr[seen:])
				}
				// dV += Pᵀ·dO, dQ += dS·K, dK += dSᵀ·Q.
				t.serial(dv[at:], kw, floats(p, keys, false), floats(dout[from:], qw, false), keys, h.Dim, n, true)
				t.serial(dq[from:], qw, floats(d, keys, true), floats(k[at:], kw, false), n, h.Dim, keys, true)
				t.serial(dk[at:], kw, floats(d, keys, false), floats(q[from:], qw, false), keys, h.Dim, n, true)
			}
		}
	})
}
