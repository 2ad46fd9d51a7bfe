package kernels

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// attend is the float64 reference of Attention: it follows the formula.
func attend(q, k, v []float64, s Span, h Heads) (out, lse []float64) {
	out, lse = make([]float64, len(q)), make([]float64, s.Rows*h.Query)
	for i := range s.Rows {
		for head := range h.Query {
			kv := head / (h.Query / h.KV)
			qi := q[(i*h.Query+head)*h.Dim:][:h.Dim]
			scores, sum := make([]float64, s.Past+i+1), 0.0
			for j := range scores {
				for c, u := range qi {
					scores[j] += u * k[(j*h.KV+kv)*h.Dim+c] / math.Sqrt(float64(h.Dim))
				}
				sum += math.Exp(scores[j])
			}
			for j, score := range scores {
				for c := range h.Dim {
					out[(i*h.Query+head)*h.Dim+c] += math.Exp(score) / sum * v[(j*h.KV+kv)*h.Dim+c]
				}
			}
			lse[i*h.Query+head] = math.Log(sum)
		}
	}
	return out, lse
}

func widen(x []float32) []float64 {
	w := make([]float64, len(x))
	for i, v := range x {
		w[i] = float64(v)
	}
	return w
}

func TestAttentionMatchesFloat64(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, s := range []Span{{1, 0}, {2, 0}, {7, 0}, {33, 0}, {130, 0}, {1, 1}, {1, 14}, {1, 15}, {1, 100}, {3, 29}, {17, 50}, {70, 200}} {
			for _, h := range []Heads{{1, 1, 16}, {4, 2, 8}, {2, 2, 32}, {3, 1, 20}, {2, 1, 128}, {2, 2, 1}} {
				what := fmt.Sprintf("%+v, %+v", s, h)
				keys := (s.Past + s.Rows) * h.KV * h.Dim
				q, k, v := normals(r, s.Rows*h.Query*h.Dim), normals(r, keys), normals(r, keys)
				want, wantLSE := attend(widen(q), widen(k), widen(v), s, h)
				out, check := guarded(t, make([]float32, len(q)))
				lse, checkLSE := guarded(t, make([]float32, s.Rows*h.Query))
				Attention(out, lse, q, k, v, s, h)
				check()
				checkLSE()
				for i, v := range out {
					near(t, fmt.Sprintf("%s: out[%d]", what, i), float64(v), want[i], 1e-5, 3e-6)
				}
				for i, v := range lse {
					near(t, fmt.Sprintf("%s: lse[%d]", what, i), float64(v), wantLSE[i], 1e-5, 3e-6)
				}
				again := make([]float32, len(q))
				Attention(again, nil, q, k, v, s, h)
				if !sameBits(again, out) {
					t.Fatalf("%s: the output depends on whether lse is asked for", what)
				}
			}
		}
	})
}

func TestAttentionGradMatchesFiniteDifferences(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, h := range []Heads{{1, 1, 16}, {4, 2, 5}, {2, 1, 8}} {
			for _, rows := range []int{1, 3, 17} {
				s := Span{Rows: rows}
				n, m := rows*h.Query*h.Dim, rows*h.KV*h.Dim
				q, k, v, dout := normals(r, n), normals(r, m), normals(r, m), normals(r, n)
				out, lse := make([]float32, n), make([]float32, rows*h.Query)
				Attention(out, lse, q, k, v, s, h)
				// The gradient is added to what is there: here, one.
				dq, checkQ := guarded(t, slices.Repeat([]float32{1}, n))
				dk, checkK := guarded(t, slices.Repeat([]float32{1}, m))
				dv, checkV := guarded(t, slices.Repeat([]float32{1}, m))
				AttentionGrad(dq, dk, dv, dout, out, lse, q, k, v, rows, h)
				checkQ()
				checkK()
				checkV()
				loss := func(q, k, v []float64) (sum float64) {
					out, _ := attend(q, k, v, s, h)
					for i, v := range out {
						sum += v * float64(dout[i])
					}
					return sum
				}
				wide := [3][]float64{widen(q), widen(k), widen(v)}
				for i, got := range [][]float32{dq, dk, dv} {
					want := differences([][]float32{q, k, v}[i], func(x []float64) float64 {
						in := wide
						in[i] = x
						return loss(in[0], in[1], in[2])
					})
					for c := range got {
						got[c]--
					}
					checkGrad(t, fmt.Sprintf("%+v, %d rows: d%c", h, rows, "qkv"[i]), got, want)
				}
			}
		}
	})
}

func TestAttentionGradOfLongSequencesMatchesThePortableTwin(t *testing.T) {
	r := source()
	h := Heads{4, 2, 24}
	const rows = 150
	n, m := rows*h.Query*h.Dim, rows*h.KV*h.Dim
	q, k, v, dout := normals(r, n), normals(r, m), normals(r, m), normals(r, n)
	out, lse := make([]float32, n), make([]float32, rows*h.Query)
	attentionPortable(out, lse, q, k, v, Span{Rows: rows}, h)
	want := make([]float32, n+2*m)
	attentionGradPortable(want[:n], want[n:n+m], want[n+m:], dout, out, lse, q, k, v, rows, h)
	onEachTier(t, func(t *testing.T) {
		got := make([]float32, n+2*m)
		AttentionGrad(got[:n], got[n:n+m], got[n+m:], dout, out, lse, q, k, v, rows, h)
		for i, v := range got {
			near(t, fmt.Sprintf("gradient %d", i), float64(v), float64(want[i]), 1e-4, 2e-5)
		}
	})
}

func TestAPositionGivesTheSameAttentionHoweverTheSequenceIsCut(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		h := Heads{4, 2, 40}
		const rows = 140
		qw, kw := h.Query*h.Dim, h.KV*h.Dim
		q, k, v := normals(r, rows*qw), normals(r, rows*kw), normals(r, rows*kw)
		want, wantLSE := make([]float32, rows*qw), make([]float32, rows*h.Query)
		Attention(want, wantLSE, q, k, v, Span{Rows: rows}, h)
		for past := 0; past < rows; {
			n := min(1+r.IntN(20)*r.IntN(2), rows-past)
			out, lse := make([]float32, n*qw), make([]float32, n*h.Query)
			Attention(out, lse, q[past*qw:], k, v, Span{n, past}, h)
			if !sameBits(out, want[past*qw:][:n*qw]) || !sameBits(lse, wantLSE[past*h.Query:][:n*h.Query]) {
				t.Fatalf("%d positions after %d differ from the whole sequence", n, past)
			}
			past += n
		}
	})
}

func TestAttentionGivesTheSameBitsOnAnyNumberOfThreads(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		h := Heads{4, 2, 32}
		const rows = 200
		n, m := rows*h.Query*h.Dim, rows*h.KV*h.Dim
		q, k, v, dout := normals(r, n), normals(r, m), normals(r, m), normals(r, n)
		var want []float32
		onThreads(func(threads int) {
			out, lse, grad := make([]float32, n), make([]float32, rows*h.Query), make([]float32, n+2*m)
			Attention(out, lse, q, k, v, Span{Rows: rows}, h)
			AttentionGrad(grad[:n], grad[n:n+m], grad[n+m:], dout, out, lse, q, k, v, rows, h)
			got := slices.Concat(out, lse, grad)
			if want == nil {
				want = got
			}
			if !sameBits(got, want) {
				t.Errorf("%d threads differ from one", threads)
			}
		})
	})
}

func TestAQueryAloneGetsTheBitsThatItGetsAmongOthers(t *testing.T) {
	onEachTier(t, func(t *testing.T) {
		r := source()
		for _, h := range []Heads{{3, 3, 16}, {6, 2, 8}, {4, 1, 64}, {2, 2, 5}} {
			const rows = 150
			qw, kw := h.Query*h.Dim, h.KV*h.Dim
			q, k, v := normals(r, rows*qw), normals(r, rows*kw), normals(r, rows*kw)
			out, lse := make([]float32, rows*qw), make([]float32, rows*h.Query)
			Attention(out, lse, q, k, v, Span{Rows: rows}, h)
			onThreads(func(threads int) {
				for i := range rows {
					alone, checkOut := guarded(t, q[:qw]) // what is there does not matter
					l, checkLSE := guarded(t, q[:h.Query])
					Attention(alone, l, q[i*qw:], k, v, Span{Rows: 1, Past: i}, h)
					checkOut()
					checkLSE()
					if !sameBits(alone, out[i*qw:][:qw]) || !sameBits(l, lse[i*h.Query:][:h.Query]) {
						t.Fatalf("%v: on %d threads, query %d alone differs", h, threads, i)
					}
				}
			})
		}
	})
}

// BenchmarkAttentionOfOneQuery is the speed at which decoding reads keys and values that no cache holds, of 4096 positions.
func BenchmarkAttentionOfOneQuery(b *testing.B) {
	const keys, layers = 4096, 4
	for _, h := range []Heads{{16, 16, 128}, {8, 8, 64}, {16, 4, 128}} {
		b.Run(fmt.Sprintf("%d-of-%dx%d", h.Query, h.KV, h.Dim), func(b *testing.B) {
			r := source()
			n := keys * h.KV * h.Dim
			k, v := normals(r, layers*n), normals(r, layers*n)
			q, out := normals(r, h.Query*h.Dim), make([]float32, h.Query*h.Dim)
			i := 0
			for b.Loop() {
				at := i % layers * n
				Attention(out, nil, q, k[at:], v[at:], Span{Rows: 1, Past: keys - 1}, h)
				i++
			}
			b.ReportMetric(float64(8*n)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GB/s")
		})
	}
}

func BenchmarkAttention(b *testing.B) {
	r := source()
	for _, c := range []struct {
		s Span
		h Heads
	}{{Span{128, 0}, Heads{8, 8, 16}}, {Span{128, 0}, Heads{8, 8, 64}}, {Span{256, 0}, Heads{8, 4, 64}}, {Span{2048, 0}, Heads{16, 16, 128}}, {Span{1, 1000}, Heads{16, 16, 128}}} {
		s, h := c.s, c.h
		n, m := s.Rows*h.Query*h.Dim, (s.Past+s.Rows)*h.KV*h.Dim
		q, k, v, dout := normals(r, n), normals(r, m), normals(r, m), normals(r, n)
		out, lse, dq, dk, dv := make([]float32, n), make([]float32, s.Rows*h.Query), make([]float32, n), make([]float32, m), make([]float32, m)
		// Half of the square of scores: what is needed, not what is done.
		flop := 4 * (float64(s.Past)*float64(s.Rows) + float64(s.Rows)*float64(s.Rows+1)/2) * float64(h.Query*h.Dim)
		run := func(name string, flop float64, f func()) {
			b.Run(fmt.Sprintf("%s/%d+%d,%d×%d", name, s.Past, s.Rows, h.Query, h.Dim), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
				b.ReportMetric(flop*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
			})
		}
		run("forward", flop, func() { Attention(out, lse, q, k, v, s, h) })
		if s.Past == 0 {
			run("grad", 2.5*flop, func() { AttentionGrad(dq, dk, dv, dout, out, lse, q, k, v, s.Rows, h) })
		}
	}
}
