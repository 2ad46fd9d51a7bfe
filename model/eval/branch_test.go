package eval

import (
	"math"
	"slices"
	"testing"

	"chorus/model"
)

const testWindow, testInput = 8, 4

// branches are an anchor and two dense models with what each predicts of a text.
func branches(t *testing.T) (anchors []*model.Anchor, mixtures []*model.Mixture, parts []*Prediction, ids []int32) {
	t.Helper()
	ids = text(6*testWindow + 3)
	for seed := range uint64(3) {
		a, err := model.BuildAnchor(config(), values(seed+1, make(map[string][]float32)))
		if err != nil {
			t.Fatal(err)
		}
		m := model.NewMixture(a)
		p, err := Predict(m, ids, testWindow, testInput)
		if err != nil {
			t.Fatal(err)
		}
		anchors, mixtures, parts = append(anchors, a), append(mixtures, m), append(parts, p)
	}
	return anchors, mixtures, parts, ids
}

func TestAPredictionIsWhatBitsPerByteCounts(t *testing.T) {
	_, mixtures, parts, ids := branches(t)
	want, err := BitsPerByte(t.Context(), mixtures[1], ids, 99, testWindow)
	if err != nil {
		t.Fatal(err)
	}
	all := *parts[1]
	all.Input = 1
	if got := all.BitsPerByte(len(ids), 99); math.Abs(got-want) > 1e-9 {
		t.Errorf("%v bits per byte, want %v", got, want)
	}
	var pass model.Pass
	mixtures[1].Forward(&pass, ids[:testWindow], 1, testWindow)
	for i := range testWindow {
		logits := pass.Logits[i*config().VocabSize:][:config().VocabSize]
		if want := logits[ids[i+1]] == slices.Max(logits); parts[1].Correct[i] != want {
			t.Errorf("token %d is the likeliest: %v, want %v", i, !want, want)
		}
	}
	if n := parts[1].Windows(); n != 6 {
		t.Errorf("%d windows, want 6", n)
	}
}

func TestAccuracyIsTheShareOfTokensThatWereLikeliest(t *testing.T) {
	p := Prediction{Length: 4, Input: 1, LogProb: make([]float32, 4), Correct: []bool{true, false, false, false}}
	if got := p.Accuracy(); got != 0.25 {
		t.Errorf("accuracy %v, want 0.25", got)
	}
}

func TestAnInputDecidesAndIsNotScored(t *testing.T) {
	// Two windows of three tokens after an input of two: of each, the first is what the input knows of itself.
	one := &Prediction{Length: 3, Input: 2, LogProb: []float32{-1, -5, -5, -3, -7, -7}, Correct: []bool{true, false, true, true, false, false}}
	two := &Prediction{Length: 3, Input: 2, LogProb: []float32{-2, -1, -1, -2, -9, -9}, Correct: make([]bool, 6)}
	if got, want := one.BitsPerByte(6, 6), (5+5+7+7)/4/math.Ln2; math.Abs(got-want) > 1e-9 {
		t.Errorf("%v bits per byte, want %v", got, want)
	}
	if got := one.Accuracy(); got != 0.25 {
		t.Errorf("accuracy %v, want 0.25", got)
	}
	for w, want := range [][]float64{{1, 2}, {3, 2}} {
		if got := losses([]*Prediction{one, two}, w); !slices.Equal(got, want) {
			t.Errorf("window %d: losses %v on the input, want %v", w, got, want)
		}
	}
}

func TestWeightsOfBranchesAreASoftmaxOfTheirLosses(t *testing.T) {
	losses := []float64{2, 1, 1.5}
	for _, test := range []struct {
		b    Branching
		want []float64
	}{
		{Branching{Temperature: 0.5}, []float64{math.Exp(-4), math.Exp(-2), math.Exp(-3)}},
		{Branching{Temperature: 0.5, Top: 2}, []float64{0, math.Exp(-2), math.Exp(-3)}},
		{Branching{Temperature: 0.5, Top: 1}, []float64{0, 1, 0}},
		{Branching{Temperature: 0.5, Top: 9}, []float64{math.Exp(-4), math.Exp(-2), math.Exp(-3)}},
	} {
		var sum float64
		for _, w := range test.want {
			sum += w
		}
		for i, got := range test.b.Weights(losses) {
			if want := test.want[i] / sum; math.Abs(got-want) > 1e-12 {
				t.Errorf("%+v: model %d weighs %v, want %v", test.b, i, got, want)
			}
		}
	}
}

func TestBranchesAverageTheLogitsOrTheProbabilitiesOfEachToken(t *testing.T) {
	_, mixtures, parts, ids := branches(t)
	vocab := config().VocabSize
	ways := []Branching{
		{Temperature: 0.7}, {Temperature: 0.7, Top: 2}, {Temperature: 0.7, Top: 1},
		{Temperature: 0.7, Probabilities: true}, {Temperature: 0.7, Top: 2, Probabilities: true},
	}
	got := PredictBranches(mixtures, parts, ids, ways...)
	for w := range parts[0].Windows() {
		at := w * testWindow
		var logits [][]float32
		for _, m := range mixtures {
			var pass model.Pass
			m.Forward(&pass, ids[at:at+testWindow], 1, testWindow)
			logits = append(logits, pass.Logits)
		}
		for i, b := range ways {
			weights := b.Weights(losses(parts, w))
			for r := range testWindow {
				mixed := make([]float64, vocab)
				for token := range mixed {
					for m := range mixtures {
						if b.Probabilities {
							mixed[token] += weights[m] * math.Exp2(-bitsOf(logits[m][r*vocab:][:vocab], int32(token)))
						} else {
							mixed[token] += weights[m] * float64(logits[m][r*vocab+token])
						}
					}
				}
				if !b.Probabilities {
					var sum float64
					for token, l := range mixed {
						mixed[token] = math.Exp(l)
						sum += mixed[token]
					}
					for token := range mixed {
						mixed[token] /= sum
					}
				}
				target := ids[at+r+1]
				if p := math.Exp(float64(got[i].LogProb[at+r])); math.Abs(p-mixed[target]) > 1e-5 {
					t.Errorf("%+v: token %d has probability %v, want %v", b, at+r, p, mixed[target])
				}
				if want := mixed[target] == slices.Max(mixed); got[i].Correct[at+r] != want {
					t.Errorf("%+v: token %d is the likeliest: %v, want %v", b, at+r, !want, want)
				}
			}
		}
	}
}

func TestASoupIsTheWeightedMeanOfAllTensors(t *testing.T) {
	anchors, mixtures, _, _ := branches(t)
	soup, err := Soup(anchors, []float64{0.25, 0.75, 0})
	if err != nil {
		t.Fatal(err)
	}
	a, b, got := anchors[0].Tensors(), anchors[1].Tensors(), soup.Tensors()
	for name, values := range got {
		x, y := a[name](), b[name]()
		for i, v := range values() {
			if want := 0.25*float64(x[i]) + 0.75*float64(y[i]); math.Abs(float64(v)-want) > 1e-6 {
				t.Fatalf("%s[%d] is %v, want %v", name, i, v, want)
			}
		}
	}
	one, err := Soup(anchors, []float64{0, 1, 0})
	if err != nil {
		t.Fatal(err)
	}
	if d := apart(model.NewMixture(one), mixtures[1]); d != 0 {
		t.Errorf("a soup of one is %g off", d)
	}
}

func TestAWeightedSoupFollowsTheLikelihoodOfEachInput(t *testing.T) {
	anchors, _, parts, ids := branches(t)
	got, err := PredictSoups(anchors, parts, ids)
	if err != nil {
		t.Fatal(err)
	}
	for w := range got.Windows() {
		l := losses(parts, w)
		weights, sum := make([]float64, len(l)), 0.0
		for i, v := range l {
			weights[i] = math.Exp((slices.Min(l) - v) * (testInput - 1))
			sum += weights[i]
		}
		for i := range weights {
			weights[i] /= sum
		}
		soup, err := Soup(anchors, weights)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Predict(model.NewMixture(soup), ids[w*testWindow:][:testWindow+1], testWindow, testInput)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range want.LogProb {
			if d := math.Abs(float64(v - got.LogProb[w*testWindow+i])); slices.Max(weights) < 0.999 && d > 1e-4 || d > 0.1 {
				t.Errorf("window %d, token %d: %v, want %v", w, i, got.LogProb[w*testWindow+i], v)
			}
		}
	}
}

func TestSelectTakesEachWindowFromTheModelChosen(t *testing.T) {
	_, _, parts, _ := branches(t)
	got := Select(parts, func(w int) int { return w % 3 })
	for i, v := range got.LogProb {
		from := parts[i/testWindow%3]
		if v != from.LogProb[i] || got.Correct[i] != from.Correct[i] {
			t.Fatalf("token %d is not from model %d", i, i/testWindow%3)
		}
	}
}
