package model

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestABatchComputesWhatSequencesCompute(t *testing.T) {
	m, _ := randomMixture(t, testConfig(31, 24, 20, 2, 4, 2), 3, 2)
	r := rand.New(rand.NewPCG(3, 3))
	v := m.Anchor.Config.VocabSize
	some := func(n int) []int32 { return randomIDs(r, n, v) }
	alone := func(ids []int32) []float32 {
		s := m.NewSequence()
		logits, err := s.Extend(ids)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Clone(logits)
	}
	texts := [][]int32{some(5), some(1), some(9), some(2)}
	b := m.NewBatch(len(texts))
	check := func(what string, logits []float32) {
		t.Helper()
		for i, ids := range texts {
			if !slices.Equal(logits[i*v:][:v], alone(ids)) {
				t.Errorf("%s: text %d of %d tokens gives other logits than by itself", what, i, len(ids))
			}
		}
	}
	logits, err := b.Extend(texts)
	if err != nil {
		t.Fatal(err)
	}
	check("prompts", logits)
	for round, kept := range [][]int{{2, 0, 0, 3, 2}, {4, 1, 2}, {0, 1, 2}} {
		b.Keep(kept)
		var next [][]int32
		more := make([][]int32, len(kept))
		for i, k := range kept {
			more[i] = some(1 + (i+round)%2)
			next = append(next, slices.Concat(texts[k], more[i]))
		}
		texts = next
		if logits, err = b.Extend(more); err != nil {
			t.Fatal(err)
		}
		check("continued", logits)
	}
	full := make([][]int32, len(texts))
	for i := range full {
		full[i] = some(m.Anchor.Config.MaxPositions - len(texts[i]))
	}
	full[1] = append(full[1], 0)
	if _, err := b.Extend(full); !errors.Is(err, ErrContextFull) {
		t.Errorf("beyond the last position: error %v", err)
	}
	full[1] = full[1][1:]
	if _, err := b.Extend(full); err != nil {
		t.Errorf("up to the last position: error %v", err)
	}
}
