package eval

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"chorus/model"
)

func config() model.Config {
	c := model.Config{
		VocabSize: 29, HiddenSize: 16, IntermediateSize: 12, Layers: 2, Heads: 4, KVHeads: 2,
		MaxPositions: 64, RMSNormEps: 1e-6, Experts: 1, TopK: 1, EOS: model.TokenIDs{0},
	}
	c.Rope.Theta, c.Rope.Type = 10000, "default"
	return c
}

// values returns a source of random tensors that keeps them in all, by name.
func values(seed uint64, all map[string][]float32) model.Source {
	r := rand.New(rand.NewPCG(seed, 0))
	return func(name string, shape ...int) ([]float32, error) {
		n := 1
		for _, s := range shape {
			n *= s
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(r.NormFloat64())
		}
		all[name] = v
		return v, nil
	}
}

func anchor(t *testing.T) (*model.Anchor, map[string][]float32) {
	t.Helper()
	all := make(map[string][]float32)
	a, err := model.BuildAnchor(config(), values(1, all))
	if err != nil {
		t.Fatal(err)
	}
	return a, all
}

func expert(t *testing.T, seed uint64) (*model.Expert, map[string][]float32) {
	t.Helper()
	all := make(map[string][]float32)
	e, err := model.BuildExpert(config(), values(seed, all))
	if err != nil {
		t.Fatal(err)
	}
	return e, all
}

func text(n int) []int32 {
	r := rand.New(rand.NewPCG(9, 9))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(r.IntN(config().VocabSize))
	}
	return ids
}

// bitsOf returns −log₂ of the probability that logits give to a token.
func bitsOf(logits []float32, token int32) float64 {
	var sum float64
	for _, v := range logits {
		sum += math.Exp(float64(v) - float64(slices.Max(logits)))
	}
	return (math.Log(sum) + float64(slices.Max(logits)) - float64(logits[token])) / math.Ln2
}

// naive predicts token after token, and begins anew where a window ends.
func naive(t *testing.T, m *model.Mixture, ids []int32, bytes int64, length int) float64 {
	t.Helper()
	var bits float64
	n := 0
	for at := 0; at+length < len(ids); at += length {
		s := m.NewSequence()
		for i := range length {
			logits, err := s.Extend(ids[at+i : at+i+1])
			if err != nil {
				t.Fatal(err)
			}
			bits += bitsOf(logits, ids[at+i+1])
			n++
		}
	}
	return bits / float64(n) * float64(len(ids)) / float64(bytes)
}

func TestBitsPerByteIsWhatPredictingTokenByTokenGives(t *testing.T) {
	a, _ := anchor(t)
	e, _ := expert(t, 2)
	for name, m := range map[string]*model.Mixture{"anchor": model.NewMixture(a), "mixture": model.NewMixture(a, e)} {
		for _, test := range []struct{ tokens, length int }{
			{2, 1}, {9, 8}, {16, 8}, {17, 8}, {100, 7}, {64*40 + 1, 64}, // the last takes several batches
		} {
			ids := text(test.tokens)
			const bytes = 123
			got, err := BitsPerByte(t.Context(), m, ids, bytes, test.length)
			if err != nil {
				t.Fatal(err)
			}
			if want := naive(t, m, ids, bytes, test.length); math.Abs(got-want) > 1e-5*want {
				t.Errorf("%s, %d tokens in windows of %d: %v bits per byte, want %v", name, test.tokens, test.length, got, want)
			}
		}
	}
}

func TestAUniformModelNeedsTheLogOfItsVocabulary(t *testing.T) {
	a, all := anchor(t)
	clear(all["lm_head.weight"])
	got, err := BitsPerByte(t.Context(), model.NewMixture(a), text(50), 100, 10)
	if want := math.Log2(29) * 50 / 100; err != nil || math.Abs(got-want) > 1e-5 {
		t.Errorf("%v bits per byte, %v, want %v", got, err, want)
	}
}

// An endingContext ends when it has been looked at a number of times.
type endingContext struct {
	context.Context
	looks int
}

func (c *endingContext) Err() error {
	if c.looks--; c.looks < 0 {
		return context.Canceled
	}
	return nil
}

func TestAMeasurementLooksAtItsContextBetweenWindows(t *testing.T) {
	a, _ := anchor(t)
	e, _ := expert(t, 2)
	ids := text(64*24 + 1) // three batches
	if _, err := BitsPerByte(&endingContext{t.Context(), 3}, model.NewMixture(a, e), ids, 99, 64); err != nil {
		t.Error(err)
	}
	if _, err := BitsPerByte(&endingContext{t.Context(), 2}, model.NewMixture(a, e), ids, 99, 64); !errors.Is(err, context.Canceled) {
		t.Errorf("bits per byte: %v", err)
	}
	// Of a valuation all of whose subsets are known, what is left are the router's shares.
	j := ValueJob{Anchor: a, Experts: []*model.Expert{e}, IDs: ids, Bytes: 99, Length: 64, Known: func(string) (float64, bool) { return 1, true }}
	if _, err := Value(&endingContext{t.Context(), 2 + 3}, j); err != nil {
		t.Error(err)
	}
	if _, err := Value(&endingContext{t.Context(), 2 + 2}, j); !errors.Is(err, context.Canceled) {
		t.Errorf("router shares: %v", err)
	}
}

func TestTooLittleTextIsAnError(t *testing.T) {
	a, _ := anchor(t)
	m := model.NewMixture(a)
	for _, test := range []struct {
		tokens int
		bytes  int64
		length int
		says   string
	}{
		{0, 0, 8, "at least 9 are needed"},
		{1, 5, 8, "at least 9 are needed"},
		{8, 5, 8, "at least 9 are needed"},
		{9, 0, 8, "too few"},
		{9, 5, 0, "expected 1 to 64"},
		{100, 5, 65, "expected 1 to 64"},
		{100, 5, -1, "expected 1 to 64"},
	} {
		if got, err := BitsPerByte(t.Context(), m, text(test.tokens), test.bytes, test.length); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%d tokens of %d bytes in windows of %d: %v, error %v", test.tokens, test.bytes, test.length, got, err)
		}
	}
}

// denseOf builds the anchor anew with the FFNs that ffn gives for a layer's part, such as
// "gate_proj.weight".
func denseOf(t *testing.T, all map[string][]float32, ffn func(layer int, part string) []float32) *model.Mixture {
	t.Helper()
	a, err := model.BuildAnchor(config(), func(name string, _ ...int) ([]float32, error) {
		var l int
		var part string
		if _, err := fmt.Sscanf(name, "model.layers.%d.mlp.experts.0.%s", &l, &part); err == nil {
			return ffn(l, part), nil
		}
		return all[name], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return model.NewMixture(a)
}

// apart is by how much the logits of two mixtures differ, relative to the largest of want's.
func apart(got, want *model.Mixture) float64 {
	var p, q model.Pass
	got.Forward(&p, text(20), 2, 10)
	want.Forward(&q, text(20), 2, 10)
	var most, largest float64
	for i, v := range q.Logits {
		most = max(most, math.Abs(float64(p.Logits[i]-v)))
		largest = max(largest, math.Abs(float64(v)))
	}
	return most / largest
}

func TestAloneIsTheAnchorWithTheExpertsFFNs(t *testing.T) {
	a, all := anchor(t)
	e, own := expert(t, 2)
	want := denseOf(t, all, func(l int, part string) []float32 { return own[fmt.Sprintf("layers.%d.%s", l, part)] })
	if d := apart(Alone(a, e), want); d != 0 {
		t.Errorf("the logits are %g off", d)
	}
	if d := apart(Alone(a, e), model.NewMixture(a)); d < 1e-3 {
		t.Error("the anchor alone computes the same: the test is blind")
	}
}

func TestAverageIsTheMeanOfTheWeights(t *testing.T) {
	const tolerance = 1e-4 // two orders of a sum in float32, through two layers
	a, all := anchor(t)
	var experts []*model.Expert
	var owns []map[string][]float32
	for n := range 4 {
		want := denseOf(t, all, func(l int, part string) []float32 {
			public := all[fmt.Sprintf("model.layers.%d.mlp.experts.0.%s", l, part)]
			mean := make([]float32, len(public))
			for i := range mean {
				sum := float64(public[i])
				for _, own := range owns {
					sum += float64(own[fmt.Sprintf("layers.%d.%s", l, part)][i])
				}
				mean[i] = float32(sum / float64(1+n))
			}
			return mean
		})
		if d := apart(Average(a, experts...), want); !(d < tolerance) {
			t.Errorf("of %d experts: the logits are %g off", n, d)
		}
		e, own := expert(t, uint64(2+n))
		experts, owns = append(experts, e), append(owns, own)
	}
	_, fresh := anchor(t)
	for name, v := range all {
		if !slices.Equal(v, fresh[name]) {
			t.Errorf("averaging changed the anchor's %s", name)
		}
	}
	_, own := expert(t, 2)
	for name, v := range owns[0] {
		if !slices.Equal(v, own[name]) {
			t.Errorf("averaging changed an expert's %s", name)
		}
	}
}
