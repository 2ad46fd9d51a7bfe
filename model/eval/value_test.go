package eval

import (
	"context"
	"errors"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"chorus/model"
)

func valueJob(t *testing.T, experts int) ValueJob {
	t.Helper()
	a, _ := anchor(t)
	j := ValueJob{Anchor: a, IDs: text(65), Bytes: 100, Length: 16}
	for i := range experts {
		e, _ := expert(t, uint64(2+i))
		j.Experts = append(j.Experts, e)
	}
	return j
}

// bitsOfSubset measures a subset by itself.
func bitsOfSubset(t *testing.T, j ValueJob, mask int) float64 {
	t.Helper()
	var some []*model.Expert
	for i, e := range j.Experts {
		if mask&(1<<i) != 0 {
			some = append(some, e)
		}
	}
	b, err := BitsPerByte(t.Context(), model.NewMixture(j.Anchor, some...), j.IDs, j.Bytes, j.Length)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(1, math.Abs(a)) }

func TestTheValueOfExpertsIsWhatEverySubsetByItselfGives(t *testing.T) {
	for n := 1; n <= 4; n++ {
		j := valueJob(t, n)
		measured := 0
		j.Measured = func(string, float64, int, int) { measured++ }
		v, err := Value(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		all := 1<<n - 1
		if v.Subsets != all+1 || measured != all+1 || v.Sampled {
			t.Errorf("%d experts: %d subsets, %d measured, sampled %v", n, v.Subsets, measured, v.Sampled)
		}
		if want := bitsOfSubset(t, j, 0); !near(v.Anchor, want) {
			t.Errorf("%d experts: the anchor needs %v, want %v", n, v.Anchor, want)
		}
		if want := bitsOfSubset(t, j, all); !near(v.Mixture, want) {
			t.Errorf("%d experts: the mixture needs %v, want %v", n, v.Mixture, want)
		}
		shares := v.AnchorShare
		for i, e := range v.Experts {
			if want := bitsOfSubset(t, j, all&^(1<<i)) - bitsOfSubset(t, j, all); !near(e.LeaveOneOut, want) {
				t.Errorf("expert %d of %d: left out, %v is lost, want %v", i, n, e.LeaveOneOut, want)
			}
			var sum, count float64
			for mask := range all + 1 {
				if mask&(1<<i) == 0 {
					sum += bitsOfSubset(t, j, mask) - bitsOfSubset(t, j, mask|1<<i)
					count++
				}
			}
			if want := (Estimate{sum / count, sum / count, sum / count}); !near(e.Banzhaf.Value, want.Value) || e.Banzhaf.Low != e.Banzhaf.Value || e.Banzhaf.High != e.Banzhaf.Value {
				t.Errorf("expert %d of %d: Banzhaf %v, want %v", i, n, e.Banzhaf, want)
			}
			shares += e.RouterShare
		}
		if math.Abs(shares-1) > 1e-6 {
			t.Errorf("%d experts: the shares add up to %v", n, shares)
		}
	}
}

func TestTheRoutersShareIsTheMeanOfItsProbabilities(t *testing.T) {
	j := valueJob(t, 2)
	v, err := Value(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	var p model.Pass
	model.NewMixture(j.Anchor, j.Experts...).Forward(&p, j.IDs[:64], 4, 16)
	want := make([]float64, 3)
	for l := range p.Layers {
		for r := range 64 {
			for s := range want {
				want[s] += float64(p.Layers[l].P[r*3+s]) / float64(64*len(p.Layers))
			}
		}
	}
	got := []float64{v.AnchorShare, v.Experts[0].RouterShare, v.Experts[1].RouterShare}
	for s := range want {
		if math.Abs(got[s]-want[s]) > 1e-6 {
			t.Errorf("shares %v, want %v", got, want)
			break
		}
	}
}

func TestAValuationThatWasInterruptedMeasuresNothingTwice(t *testing.T) {
	j := valueJob(t, 3)
	whole, err := Value(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]float64)
	j.Known = func(s string) (float64, bool) { b, ok := known[s]; return b, ok }
	ctx, cancel := context.WithCancel(t.Context())
	j.Measured = func(s string, b float64, done, total int) {
		if _, twice := known[s]; twice || total != 8 {
			t.Errorf("%s was measured again, as one of %d", s, total)
		}
		if known[s] = b; done == 5 {
			cancel()
		}
	}
	if _, err := Value(ctx, j); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	again, err := Value(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(again.Experts, whole.Experts) || again.Anchor != whole.Anchor || again.Mixture != whole.Mixture {
		t.Errorf("resumed: %+v, want %+v", again, whole)
	}
}

// masked is s as bits.
func masked(s subset) (mask uint) {
	for i, in := range s {
		if in {
			mask |= 1 << i
		}
	}
	return mask
}

func TestSampledBanzhafValuesOfAnAdditiveGameWithPairsAreExact(t *testing.T) {
	const n = 14
	got, err := sampledBanzhaf(drawPairs(40, n, 1), func(s subset) (v float64) {
		for i, in := range s {
			if in {
				v += float64(i)
			}
		}
		return v + float64(bits.OnesCount(masked(s)))*float64(n-bits.OnesCount(masked(s))) // even: the same for a set and its complement
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range got {
		if math.Abs(e.Value-float64(i)) > 1e-9 || e.High-e.Low > 1e-9 {
			t.Errorf("player %d: %+v", i, e)
		}
	}
}

func TestIntervalsOfSampledBanzhafValuesHoldTheExactOnesAsOftenAsTheySay(t *testing.T) {
	const n, games = 7, 60
	held, width := 0, 0.0
	for g := range uint64(games) {
		r := rand.New(rand.NewPCG(g, 1))
		table := make([]float64, 1<<n)
		for i := range table {
			table[i] = math.Sqrt(float64(bits.OnesCount(uint(i)))) + 0.3*r.NormFloat64()
		}
		value := func(s subset) float64 { return table[masked(s)] }
		exact := exactBanzhaf(n, value)
		sampled, err := sampledBanzhaf(drawPairs(60, n, g), value)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range sampled {
			width += (e.High - e.Low) / (n * games)
			if e.Low <= exact[i].Value && exact[i].Value <= e.High {
				held++
			}
		}
	}
	// Of 420 at 95 %, 399 are expected, and fewer than 380 or more than 415 once in some ten thousand times.
	if held < 380 || held > 415 || width > 0.5 {
		t.Errorf("%d of %d intervals, %.3f wide, hold the exact value", held, n*games, width)
	}
}

func TestManyExpertsAreSampledFromThePublishedSeed(t *testing.T) {
	j := valueJob(t, MostExact+1)
	j.IDs, j.Pairs, j.Seed = text(17), 20, 5
	v, err := Value(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Value(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	if !v.Sampled || !slices.Equal(v.Experts, again.Experts) {
		t.Errorf("sampled %v, %+v then %+v", v.Sampled, v.Experts, again.Experts)
	}
	for i, e := range v.Experts {
		if !(e.Banzhaf.Low < e.Banzhaf.Value && e.Banzhaf.Value < e.Banzhaf.High) {
			t.Errorf("expert %d: %+v", i, e.Banzhaf)
		}
	}
	j.Seed = 6
	if other, err := Value(t.Context(), j); err != nil || slices.Equal(v.Experts, other.Experts) {
		t.Errorf("another seed gives the same, error %v", err)
	}
	j.Pairs = MostExact + 2
	if _, err := Value(t.Context(), j); err == nil {
		t.Error("as many pairs as experts are no error")
	}
	if _, err := Value(t.Context(), valueJob(t, 0)); err == nil {
		t.Error("no experts are no error")
	}
}
