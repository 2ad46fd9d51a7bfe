package model

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestASequenceComputesTheBitsOfForwardHoweverItIsSplit(t *testing.T) {
	c := testConfig(31, 32, 24, 3, 4, 2)
	r := rand.New(rand.NewPCG(3, 4))
	for _, k := range []int{1, 2, 3} {
		m, _ := randomMixture(t, c, 3, k)
		const n = 2*prefillRows + 90
		ids := randomIDs(r, n, c.VocabSize)
		var p Pass
		m.Forward(&p, ids, 1, n)
		check := func(s *Sequence, logits []float32) {
			t.Helper()
			sameBits(t, "the logits", logits, p.Logits[(s.Len()-1)*c.VocabSize:][:c.VocabSize])
		}
		splits := [][]int{
			{n}, // three chunks
			{prefillRows, prefillRows, 90},
			{prefillRows + 1, 1, 1, prefillRows - 1, 88},
			slices.Repeat([]int{1}, 40),
		}
		for range 4 {
			var split []int
			for left := n; left > 0; {
				split = append(split, min(left, 1+r.IntN(300)))
				left -= split[len(split)-1]
			}
			splits = append(splits, split)
		}
		for _, split := range splits {
			s := m.NewSequence()
			for _, size := range split {
				logits, err := s.Extend(ids[s.Len():][:size])
				if err != nil {
					t.Fatalf("split %v: %v", split, err)
				}
				check(s, logits)
			}
		}
	}
}

func TestASequenceHoldsNoMoreThanItsContextAndTheWorkOfItsSlots(t *testing.T) {
	c := testConfig(31, 32, 24, 2, 4, 2)
	c.MaxPositions = 75
	m, _ := randomMixture(t, c, 3, 3)
	s := m.NewSequence()
	for _, id := range randomIDs(rand.New(rand.NewPCG(3, 4)), c.MaxPositions, c.VocabSize) {
		if _, err := s.Extend([]int32{id}); err != nil {
			t.Fatal(err)
		}
	}
	for l := range s.k {
		if most := c.MaxPositions * c.KVWidth(); cap(s.k[l]) > most || cap(s.v[l]) > most {
			t.Errorf("layer %d holds %d and %d keys and values for %d", l, cap(s.k[l]), cap(s.v[l]), most)
		}
	}
	for _, rows := range []int{0, fewRows + 9} { // the one token at a time, then some together
		if rows > 0 {
			s = m.NewSequence()
			if _, err := s.Extend(randomIDs(rand.New(rand.NewPCG(3, 4)), rows, c.VocabSize)); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := cap(s.layer.shared.Gate)/c.IntermediateSize, max(3, rows); got != want {
			t.Errorf("the slots' work is on memory for %d rows at a time, expected %d", got, want)
		}
	}
}

func TestSequencesOfOneMixtureDoNotDisturbEachOther(t *testing.T) {
	c := testConfig(31, 32, 24, 2, 4, 2)
	m, _ := randomMixture(t, c, 2, 2)
	const n, texts = 30, 8
	done := make(chan []float32)
	ids := randomIDs(rand.New(rand.NewPCG(3, 4)), n, c.VocabSize)
	for range texts {
		go func() {
			s := m.NewSequence()
			var logits []float32
			for i := range ids {
				logits, _ = s.Extend(ids[i : i+1])
			}
			done <- logits
		}()
	}
	var p Pass
	m.Forward(&p, ids, 1, n)
	for range texts {
		sameBits(t, "the logits", <-done, p.Logits[(n-1)*c.VocabSize:])
	}
}

func TestUsageAddsUpExactlyAndFollowsTheRouter(t *testing.T) {
	c := testConfig(31, 16, 24, 3, 2, 2)
	for _, slots := range []int{1, 2, 3, 5} {
		for k := 1; k <= slots; k++ {
			m, _ := randomMixture(t, c, slots, k)
			ids := randomIDs(rand.New(rand.NewPCG(3, 4)), 77, c.VocabSize)
			s := m.NewSequence()
			for _, size := range []int{1, 40, 3, 33} {
				if _, err := s.Extend(ids[s.Len():][:size]); err != nil {
					t.Fatal(err)
				}
				var sum uint64
				for _, u := range s.Usage() {
					sum += u
				}
				if want := uint64(s.Len()) * uint64(c.Layers) * UsageScale; sum != want {
					t.Fatalf("%d of %d slots, %d tokens: usage sums to %d, want %d", k, slots, s.Len(), sum, want)
				}
			}
			var p Pass
			m.Forward(&p, ids, 1, len(ids))
			want := make([]float64, slots)
			for l := range p.Layers {
				for r := range ids {
					chosen := p.Layers[l].Chosen[r*k:][:k]
					var sum float64
					for _, e := range chosen {
						sum += float64(p.Layers[l].P[r*slots+int(e)])
					}
					for _, e := range chosen {
						want[e] += float64(p.Layers[l].P[r*slots+int(e)]) / sum * UsageScale
					}
				}
			}
			for e, got := range s.Usage() {
				// The rest that rounding leaves, less than a unit for each chosen slot, goes to the first.
				if d := float64(got) - want[e]; d > float64(k*len(ids)*c.Layers) || -d > float64(len(ids)*c.Layers) {
					t.Errorf("%d of %d slots: slot %d has usage %d, the router's weights give %.0f", k, slots, e, got, want[e])
				}
			}
		}
	}
}

func TestUsageIsACopy(t *testing.T) {
	m, _ := randomMixture(t, testConfig(31, 16, 24, 1, 2, 2), 1, 1)
	s := m.NewSequence()
	if _, err := s.Extend([]int32{1, 2}); err != nil {
		t.Fatal(err)
	}
	s.Usage()[0] = 0
	if s.Usage()[0] != 2*UsageScale {
		t.Error("a caller changed a sequence's account")
	}
}

func TestAFullContextAppendsNothing(t *testing.T) {
	c := testConfig(31, 16, 24, 2, 2, 2)
	c.MaxPositions = 2*prefillRows + 3
	m, _ := randomMixture(t, c, 2, 2)
	ids := randomIDs(rand.New(rand.NewPCG(3, 4)), c.MaxPositions, c.VocabSize)
	s := m.NewSequence()
	extend := func(ids []int32) []float32 {
		t.Helper()
		logits, err := s.Extend(ids)
		if err != nil {
			t.Fatal(err)
		}
		return logits
	}
	extend(ids[:5])
	before := s.Usage()
	// Its first chunks alone would have fitted.
	if _, err := s.Extend(make([]int32, c.MaxPositions-4)); !errors.Is(err, ErrContextFull) {
		t.Fatalf("past the last position: %v", err)
	}
	if s.Len() != 5 || !slices.Equal(s.Usage(), before) {
		t.Fatalf("%d tokens and usage %v after a refusal, want 5 and %v", s.Len(), s.Usage(), before)
	}
	got := extend(ids[5:])
	var p Pass
	m.Forward(&p, ids, 1, len(ids))
	sameBits(t, "the logits at the last position", got, p.Logits[(len(ids)-1)*c.VocabSize:])
	if _, err := s.Extend(ids[:1]); !errors.Is(err, ErrContextFull) {
		t.Errorf("one token past the last position: %v", err)
	}
}
