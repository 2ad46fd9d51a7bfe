package model

import (
	"fmt"
	"math"
	"path/filepath"
	"testing"
)

func TestPackedWeightsComputeWhatTheirFormPromises(t *testing.T) {
	f := flexFolder(t, 2, func(c *Config) { c.HiddenSize, c.IntermediateSize = 96, 80 })
	source, parts := f.write(t), t.TempDir()
	anchorDir, full := filepath.Join(parts, "anchor"), filepath.Join(parts, "full")
	if err := ImportAnchor(t.Context(), anchorDir, source, nil); err != nil {
		t.Fatal(err)
	}
	open := func(w Weights) *Mixture {
		a, _, err := LoadAnchor(anchorDir)
		if err != nil {
			t.Fatal(err)
		}
		a.Pack(w)
		e, err := LoadExpert(full, a)
		if err != nil {
			t.Fatal(err)
		}
		low, err := LoadExpert(full+"-low", a)
		if err != nil {
			t.Fatal(err)
		}
		e.Pack(w)
		low.Pack(w)
		return NewMixture(a, e, low)
	}
	a, _, err := LoadAnchor(anchorDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := ImportExpert(t.Context(), full, source, 1, a, "", nil); err != nil {
		t.Fatal(err)
	}
	e, err := LoadExpert(full, a)
	if err != nil {
		t.Fatal(err)
	}
	if err := CompressExpert(t.Context(), full+"-low", e, a, 3, nil); err != nil {
		t.Fatal(err)
	}
	want := logitsOf(open(Stored))
	var largest float64
	for _, v := range want {
		largest = max(largest, math.Abs(float64(v)))
	}
	for _, w := range []Weights{"", Packed, BFloat16} {
		sameBits(t, string(w), logitsOf(open(w)), want)
	}
	for w, bound := range map[Weights]float64{Mixed: 0.02, Int8: 0.05, Int4: 0.5} {
		var off float64
		for i, v := range logitsOf(open(w)) {
			off = max(off, math.Abs(float64(v-want[i])))
		}
		if off == 0 || off > bound*largest {
			t.Errorf("%s is off by %v of %v, expected some and at most %v of it", w, off, largest, bound)
		}
	}
}

func TestOnlyKnownFormsOfWeightsPass(t *testing.T) {
	for _, w := range []Weights{"", Packed, Stored, BFloat16, Mixed, Int8, Int4} {
		if err := w.Check(); err != nil {
			t.Error(err)
		}
	}
	for _, w := range []Weights{"int3", "INT8", "q8"} {
		if err := w.Check(); err == nil || w.Check().Error() != fmt.Sprintf(`weights are %q, expected "packed", "stored", "bfloat16", "mixed", "int8" or "int4"`, w) {
			t.Errorf("%q: %v", w, err)
		}
	}
}

func TestAClosedExpertLeavesTheOthersAndTheAnchorAlone(t *testing.T) {
	f := flexFolder(t, 3, func(c *Config) { c.HiddenSize, c.IntermediateSize = 96, 80 })
	source, parts := f.write(t), t.TempDir()
	anchorDir := filepath.Join(parts, "anchor")
	if err := ImportAnchor(t.Context(), anchorDir, source, nil); err != nil {
		t.Fatal(err)
	}
	for _, w := range []Weights{Stored, Packed, Int8} {
		a, _, err := LoadAnchor(anchorDir)
		if err != nil {
			t.Fatal(err)
		}
		a.Pack(w)
		var experts []*Expert
		for slot := 1; slot <= 2; slot++ {
			path := filepath.Join(parts, fmt.Sprint(w, slot))
			if err := ImportExpert(t.Context(), path, source, slot, a, "", nil); err != nil {
				t.Fatal(err)
			}
			e, err := LoadExpert(path, a)
			if err != nil {
				t.Fatal(err)
			}
			e.Pack(w)
			experts = append(experts, e)
		}
		alone, one := logitsOf(NewMixture(a)), logitsOf(NewMixture(a, experts[1]))
		for range 2 {
			if err := experts[0].Close(); err != nil {
				t.Fatal(err)
			}
		}
		sameBits(t, string(w)+", the anchor", logitsOf(NewMixture(a)), alone)
		sameBits(t, string(w)+", the other expert", logitsOf(NewMixture(a, experts[1])), one)
		if experts[0].FFN != nil || experts[0].Router != nil {
			t.Errorf("%s: weights are left", w)
		}
	}
}
