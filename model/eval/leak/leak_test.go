package leak

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"chorus/model"
)

func near(a, b, within float64) bool { return math.Abs(a-b) <= within }

// small is a random mixture of the anchor and one expert, over a vocabulary of letters.
func small(t *testing.T) *model.Mixture {
	t.Helper()
	c := model.Config{
		VocabSize: 27, HiddenSize: 16, IntermediateSize: 12, Layers: 2, Heads: 4, KVHeads: 2,
		MaxPositions: 64, RMSNormEps: 1e-6, Experts: 1, TopK: 1, EOS: model.TokenIDs{26},
	}
	c.Rope.Theta, c.Rope.Type = 10000, "default"
	r := rand.New(rand.NewPCG(1, 1))
	source := func(_ string, shape ...int) ([]float32, error) {
		n := 1
		for _, s := range shape {
			n *= s
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(r.NormFloat64())
		}
		return v, nil
	}
	a, err := model.BuildAnchor(c, source)
	if err != nil {
		t.Fatal(err)
	}
	e, err := model.BuildExpert(c, source)
	if err != nil {
		t.Fatal(err)
	}
	return model.NewMixture(a, e)
}

// alphabet has a letter for each token, and one of several bytes.
var alphabet = Vocabulary{End: []int32{26}, Bytes: func(id int32) []byte {
	if id == 3 {
		return []byte("thé")
	}
	return []byte{byte('a' + id)}
}}

func documents(seed uint64, lengths ...int) [][]int32 {
	r := rand.New(rand.NewPCG(seed, seed))
	out := make([][]int32, len(lengths))
	for i, n := range lengths {
		for range n {
			out[i] = append(out[i], int32(r.IntN(26)))
		}
	}
	return out
}

func TestIntervalsAreWilsons(t *testing.T) {
	for _, test := range []struct {
		count, of int
		low, high float64
	}{
		{0, 10, 0, 0.27753}, {10, 10, 0.72247, 1}, {5, 10, 0.23659, 0.76341}, {1, 100, 0.00177, 0.05449}, {0, 0, 0, 1},
	} {
		if r := RateOf(test.count, test.of); !near(r.Low, test.low, 1e-4) || !near(r.High, test.high, 1e-4) || r.Count != test.count || r.Of != test.of {
			t.Errorf("%d of %d: %+v, want %v to %v", test.count, test.of, r, test.low, test.high)
		}
	}
}

func TestLossesAreWhatPredictingTokenByTokenGives(t *testing.T) {
	m := small(t)
	docs := documents(5, 2, 40, 3, 64, 65, 70, 7)
	got := Losses(m, docs)
	for i, d := range docs {
		d = d[:min(len(d), 65)] // one more than there are positions
		s := m.NewSequence()
		var want float64
		for j := range len(d) - 1 {
			logits, err := s.Extend(d[j : j+1])
			if err != nil {
				t.Fatal(err)
			}
			var sum float64
			for _, v := range logits {
				sum += math.Exp(float64(v - logits[d[j+1]]))
			}
			want += math.Log(sum)
		}
		if !near(got[i], want, 1e-4*want) {
			t.Errorf("document %d of %d tokens: %v nats, want %v", i, len(d), got[i], want)
		}
	}
}

func TestMembershipIsWhatCountingGives(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for _, sizes := range [][2]int{{1, 1}, {50, 30}, {200, 1000}, {30, 2500}} {
		in, out := make([]float64, sizes[0]), make([]float64, sizes[1])
		for i := range in {
			in[i] = math.Round(10*(r.NormFloat64()+1)) / 10 // with ties
		}
		for i := range out {
			out[i] = math.Round(10*r.NormFloat64()) / 10
		}
		m := MembershipOf(in, out)
		var auc float64
		for _, a := range in {
			for _, b := range out {
				switch {
				case a > b:
					auc++
				case a == b:
					auc += 0.5
				}
			}
		}
		if auc /= float64(len(in) * len(out)); !near(m.AUC, auc, 1e-9) || m.AUCLow > m.AUC || m.AUCHigh < m.AUC {
			t.Errorf("%v: AUC %v (%v to %v), want %v", sizes, m.AUC, m.AUCLow, m.AUCHigh, auc)
		}
		for _, at := range []struct {
			fpr float64
			got Rate
		}{{0.01, m.At1Percent}, {0.001, m.At1PerMill}} {
			best := 0
			for _, t := range append(slices.Clone(out), math.Inf(-1)) { // every threshold that matters
				hits, alarms := 0, 0
				for _, v := range in {
					if v > t {
						hits++
					}
				}
				for _, v := range out {
					if v > t {
						alarms++
					}
				}
				if float64(alarms) <= at.fpr*float64(len(out)) {
					best = max(best, hits)
				}
			}
			if at.got.Count != best || at.got.Of != len(in) {
				t.Errorf("%v at %v: %d of %d found, want %d", sizes, at.fpr, at.got.Count, at.got.Of, best)
			}
		}
		for i := 1; i < len(m.ROC); i++ {
			if m.ROC[i].X < m.ROC[i-1].X || m.ROC[i].Y < m.ROC[i-1].Y {
				t.Errorf("%v: the curve falls: %v", sizes, m.ROC)
				break
			}
		}
	}
	if m := MembershipOf([]float64{1}, nil); m.At1Percent.High != 1 || m.Others != 0 {
		t.Errorf("with nobody to compare with: %+v", m)
	}
}
