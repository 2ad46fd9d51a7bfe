package train

import (
	"context"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"chorus/model"
)

// noiseText is n tokens of which some come more often than others, and nothing else can be learned.
func noiseText(seed uint64, n int) *Tokens {
	t := &Tokens{Bytes: int64(3 * n)}
	r := rand.New(rand.NewPCG(seed, 0))
	for range n {
		t.IDs = append(t.IDs, int32(r.IntN(1+r.IntN(31))))
	}
	return t
}

// overfits is a job that learns how often tokens come, and then its text by heart.
func overfits(t *testing.T) AnchorJob {
	j := anchorJob(t, smallRecipe(120))
	j.Text, j.Valid = noiseText(1, 200), noiseText(2, 600)
	j.Recipe.Evaluate, j.Recipe.Patience = 5, 3
	j.History = new(History)
	return j
}

// bitsOf is how many bits a model of those tensors needs per byte of a text.
func bitsOf(t *testing.T, tensors []model.Tensor, text *Tokens) float64 {
	t.Helper()
	a, err := model.BuildAnchor(smallConfig(), among(tensors))
	if err != nil {
		t.Fatal(err)
	}
	m := model.NewMixture(a)
	r := &run{recipe: smallRecipe(1), mixture: m, working: m, valid: text}
	loss, err := r.validLoss(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return text.bitsPerByte(loss)
}

func TestTrainingThatGetsWorseStopsAndGivesTheBestWeights(t *testing.T) {
	j := overfits(t)
	tensors, err := Anchor(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	h := j.History
	least, at := math.Inf(1), 0
	for _, p := range h.Curve {
		if p.Valid > 0 && p.Valid < least {
			least, at = p.Valid, p.Step
		}
	}
	if !h.Stopped || h.Best != at || at == 0 || h.Steps != at+3*5 || h.Steps >= 120 {
		t.Errorf("it stopped: %v, after %d steps, with the best %d; the curve's least is at %d", h.Stopped, h.Steps, h.Best, at)
	}
	if got := bitsOf(t, tensors, j.Valid); got != least {
		t.Errorf("the weights need %v bits per byte, the best %v", got, least)
	}
	// Without patience it goes on to the end, and the best are the same.
	on := overfits(t)
	on.Recipe.Patience = 0
	best, err := Anchor(t.Context(), on)
	if err != nil {
		t.Fatal(err)
	}
	if h := on.History; h.Stopped || h.Steps != 120 || h.Best != at {
		t.Errorf("without patience: %+v", h)
	}
	same(t, "the best weights", best, tensors)
	// Without text to choose by they are the last.
	last := overfits(t)
	last.Valid = nil
	tensors, err = Anchor(t.Context(), last)
	if err != nil {
		t.Fatal(err)
	}
	if h := last.History; h.Stopped || h.Best != 120 || bitsOf(t, tensors, on.Valid) <= least {
		t.Errorf("without text to choose by: %+v", h)
	}
}

func TestACurveIsTheSameHoweverOftenTheRunWasInterrupted(t *testing.T) {
	whole := overfits(t)
	want, err := Anchor(t.Context(), whole)
	if err != nil {
		t.Fatal(err)
	}
	j := overfits(t)
	for stop := 1; ; stop += 7 {
		ctx, cancel := context.WithCancel(t.Context())
		j.Report = func(p Progress) {
			if p.Step >= stop {
				cancel()
			}
		}
		*j.History = History{}
		got, err := Anchor(ctx, j)
		cancel()
		if err != nil {
			continue
		}
		same(t, "interrupted often", got, want)
		break
	}
	a, b := *whole.History, *j.History
	if !slices.Equal(a.Curve, b.Curve) || a.Best != b.Best || a.Steps != b.Steps || a.Stopped != b.Stopped {
		t.Errorf("the curve is %v, want %v", b, a)
	}
	// A run that stopped has nothing left to do.
	j.Report = func(Progress) { t.Error("it goes on") }
	again, err := Anchor(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "after the end", again, want)
}

func TestACurveHoldsEveryStepsLossInFewPoints(t *testing.T) {
	j := anchorJob(t, smallRecipe(1050))
	j.Recipe.Sequences, j.Recipe.Length = 1, 2
	j.Valid, j.Recipe.Evaluate = walkText(5, 3, 40), 333
	j.History = new(History)
	sum, steps := 0.0, 0
	j.Report = func(p Progress) {
		sum += p.Loss
		steps++
		if want := p.Loss / math.Ln2 * float64(j.Text.Len()) / float64(j.Text.Bytes); math.Abs(p.BitsPerByte-want) > 1e-9 {
			t.Fatalf("a loss of %v is %v bits per byte, want %v", p.Loss, p.BitsPerByte, want)
		}
		if p.Valid == 0 {
			t.Fatal("nothing was measured before the first step")
		}
	}
	if _, err := Anchor(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	got, before := 0.0, 0
	var measured []int
	for _, p := range j.History.Curve {
		got += p.Loss * float64(p.Step-before)
		before = p.Step
		if p.Valid > 0 {
			measured = append(measured, p.Step)
		}
	}
	if n := len(j.History.Curve); n > 2*curvePoints || before != 1050 || steps != 1050 || math.Abs(got-sum) > 1e-6*sum {
		t.Errorf("%d points to step %d hold losses of %v, want %v", n, before, got, sum)
	}
	if !slices.Equal(measured, []int{0, 333, 666, 999, 1050}) {
		t.Errorf("measured after %v", measured)
	}
}

func TestComputingLayersAgainOrNotIsTheSameRun(t *testing.T) {
	inBoth(func(name string, mixed bool) {
		run := func(checkpoint string, memory int64) []model.Tensor {
			j := anchorJob(t, smallRecipe(4))
			j.Recipe.Mixed, j.Recipe.Micro, j.Memory, j.Checkpoint = mixed, 3, memory, checkpoint
			out, err := Anchor(t.Context(), j)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		want := run(filepath.Join(t.TempDir(), "checkpoint"), 0)
		same(t, "layers computed again"+name, run(filepath.Join(t.TempDir(), "checkpoint"), 1), want)
	})
}

func TestLayersAreComputedAgainWhenTheyWouldTakeTooMuchMemory(t *testing.T) {
	recipe := smallRecipe(2)
	r := newRun(t, smallConfig(), recipe, walkText(5, 3, 2000), ramp)
	need := r.mixture.PassBytes(recipe.Sequences * recipe.Length)
	for memory, again := range map[int64]bool{need: false, need - 1: true} {
		r.memory = memory
		r.begin()
		if r.pass.Inputs != again {
			t.Errorf("with %d bytes of %d, layers are computed again: %v", memory, need, r.pass.Inputs)
		}
	}
	r.recipe.Micro = 2
	r.begin()
	if r.pass.Inputs {
		t.Error("parts of a batch are taken for all of it")
	}
	// The bound is what a pass takes.
	var p model.Pass
	r.mixture.ForwardToHead(&p, make([]int32, 64), 4, 16)
	var kept int64
	for _, l := range p.Layers {
		for _, f := range [][]float32{l.X, l.QRaw, l.KRaw, l.Q, l.K, l.V, l.Att, l.LSE, l.O, l.Hidden, l.Moe} {
			kept += 4 * int64(len(f))
		}
		for _, w := range l.Work {
			for _, f := range [][]float32{w.In, w.Gate, w.Up, w.Act, w.Out} {
				kept += 4 * int64(len(f))
			}
		}
	}
	if need != kept {
		t.Errorf("a pass is said to take %d bytes, and takes %d", need, kept)
	}
}
