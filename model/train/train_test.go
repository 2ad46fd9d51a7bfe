package train

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"chorus/kernels"
	"chorus/model"
)

// walkText is a text in which each token decides the next, t → (a·t+b) mod 31, with end-of-text
// tokens, 31, between walks.
func walkText(a, b int32, n int) *Tokens {
	t := &Tokens{Bytes: int64(n)}
	for at := int32(1); len(t.IDs) < n; {
		for range 20 {
			t.IDs = append(t.IDs, at)
			at = (a*at + b) % 31
		}
		t.IDs = append(t.IDs, 31)
		at = (at + int32(len(t.IDs))) % 31
	}
	return t
}

func smallConfig() model.Config {
	c := model.Config{
		VocabSize: 32, HiddenSize: 32, IntermediateSize: 40, Layers: 2, Heads: 2, KVHeads: 1,
		MaxPositions: 64, RMSNormEps: 1e-6, Experts: 1, TopK: 1, EOS: model.TokenIDs{31},
	}
	c.Rope.Theta, c.Rope.Type = 10000, "default"
	return c
}

func smallRecipe(steps int) Recipe {
	return Recipe{
		Steps: steps, WarmUp: 3, Sequences: 4, Length: 16, LR: 1e-2, Beta1: 0.9, Beta2: 0.95,
		WeightDecay: 0.1, Clip: 1, ZLoss: 1e-5, Topic: 0.2, Seed: 1,
	}
}

func expertRecipe(steps int) Recipe {
	r := smallRecipe(steps)
	r.PublicSequences, r.SplicedSequences, r.WeightDecay, r.RouterZLoss, r.RouterRate, r.Guide = 1, 1, 0, 1e-3, 2, 0.1
	return r
}

func anchorJob(t *testing.T, r Recipe) AnchorJob {
	return AnchorJob{Config: smallConfig(), Text: walkText(5, 3, 2000), Recipe: r, Checkpoint: filepath.Join(t.TempDir(), "checkpoint")}
}

// trainedAnchor is an anchor that has learned walkText(5, 3) within steps.
func trainedAnchor(t *testing.T, steps int) *model.Anchor {
	t.Helper()
	tensors, err := Anchor(t.Context(), anchorJob(t, smallRecipe(steps)))
	if err != nil {
		t.Fatal(err)
	}
	a, err := model.BuildAnchor(smallConfig(), among(tensors))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func expertJob(t *testing.T, a *model.Anchor, r Recipe) ExpertJob {
	return ExpertJob{
		Anchor: a, AnchorCID: "bafyanchor", Text: walkText(7, 1, 2000), Public: walkText(5, 3, 2000), Recipe: r,
		Checkpoint: filepath.Join(t.TempDir(), "checkpoint"),
	}
}

// among finds tensors by their names.
func among(tensors []model.Tensor) model.Source {
	return func(name string, shape ...int) ([]float32, error) {
		for _, t := range tensors {
			if t.Name == name && slices.Equal(t.Shape, shape) {
				return t.Values, nil
			}
		}
		return nil, fmt.Errorf("no tensor %q of shape %v", name, shape)
	}
}

// lossOn is m's mean loss on a text, in nats per token.
func lossOn(m *model.Mixture, text *Tokens) float64 {
	const length, sequences = 16, 40
	var p model.Pass
	m.Forward(&p, text.IDs[:sequences*length], sequences, length)
	return kernels.CrossEntropy(p.Logits, text.IDs[1:][:sequences*length], 0, 1, m.Anchor.Config.VocabSize, sequences*length) / (sequences * length)
}

func same(t *testing.T, what string, got, want []model.Tensor) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d tensors, want %d", what, len(got), len(want))
	}
	for i, w := range want {
		if got[i].Name != w.Name || !slices.Equal(got[i].Shape, w.Shape) {
			t.Fatalf("%s: tensor %q %v, want %q %v", what, got[i].Name, got[i].Shape, w.Name, w.Shape)
		}
		for j, v := range w.Values {
			if math.Float32bits(got[i].Values[j]) != math.Float32bits(v) {
				t.Fatalf("%s: %s[%d] is %v, want %v to the bit", what, w.Name, j, got[i].Values[j], v)
			}
		}
	}
}

func differ(t *testing.T, what string, a, b []model.Tensor) {
	t.Helper()
	for i := range a {
		if !slices.Equal(a[i].Values, b[i].Values) {
			return
		}
	}
	t.Errorf("%s: the same weights", what)
}

// inBoth calls f for float32 and for mixed precision.
func inBoth(f func(name string, mixed bool)) {
	f("", false)
	f(" in mixed precision", true)
}

func TestAnAnchorLearnsAndAnExpertLearnsWhatItDidNotKnow(t *testing.T) {
	inBoth(func(name string, mixed bool) {
		t.Run("an anchor and an expert"+name, func(t *testing.T) { anchorAndExpertLearn(t, mixed) })
	})
}

func anchorAndExpertLearn(t *testing.T, mixed bool) {
	first := anchorJob(t, smallRecipe(150))
	first.Recipe.Mixed = mixed
	trained, err := Anchor(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	anchor, err := model.BuildAnchor(smallConfig(), among(trained))
	if err != nil {
		t.Fatal(err)
	}
	public, own := walkText(5, 3, 700), walkText(7, 1, 700)
	alone := model.NewMixture(anchor)
	// Where a walk begins cannot be known: 1 in 21 tokens costs ln 31.
	if got := lossOn(alone, public); got > 0.5 {
		t.Errorf("the anchor's loss on its own text is %.2f", got)
	}
	before := lossOn(alone, own)
	if before < math.Log(32) {
		t.Errorf("the anchor's loss on a text it does not know is %.2f: the test cannot tell", before)
	}
	frozen := anchorBits(t, anchor)

	var losses []float64
	j := expertJob(t, anchor, expertRecipe(80))
	j.Recipe.Mixed = mixed
	j.Report = func(p Progress) {
		if p.Steps != 80 || p.Step != len(losses)+1 {
			t.Errorf("step %d of %d is reported after %d", p.Step, p.Steps, len(losses))
		}
		losses = append(losses, p.Loss)
	}
	tensors, err := Expert(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	if len(losses) != 80 || !(losses[79] < losses[0]/2) {
		t.Errorf("%d losses were reported, %v", len(losses), losses)
	}
	expert, err := model.BuildExpert(anchor.Config, among(tensors))
	if err != nil {
		t.Fatal(err)
	}
	mixture := model.NewMixture(anchor, expert)
	if got := lossOn(mixture, own); got > before/4 {
		t.Errorf("with its expert the loss on the owner's text falls from %.2f to %.2f only", before, got)
	}
	if was, is := lossOn(alone, public), lossOn(mixture, public); is > math.Log(32)/2 {
		t.Errorf("the expert takes the public text from %.2f to %.2f", was, is)
	}
	same(t, "the anchor after an expert was trained", anchorBits(t, anchor), frozen)
}

// anchorBits copies all tensors of an anchor.
func anchorBits(t *testing.T, a *model.Anchor) (out []model.Tensor) {
	t.Helper()
	vector := func(v []float32) { out = append(out, model.Tensor{Values: slices.Clone(v)}) }
	matrix := func(m kernels.Matrix) {
		for i := range m.Out {
			row := make([]float32, m.In)
			m.Row(row, i)
			vector(row)
		}
	}
	matrix(a.Embed)
	matrix(a.Head)
	vector(a.Norm)
	for l, w := range a.Layers {
		f := a.Public.FFN[l]
		for _, m := range []kernels.Matrix{w.Q, w.K, w.V, w.O, f.Gate.Matrix, f.Up.Matrix, f.Down.Matrix} {
			matrix(m)
		}
		for _, v := range [][]float32{w.QNorm, w.KNorm, w.PostAttentionNorm, w.PostFFNNorm, a.Public.Router[l]} {
			vector(v)
		}
	}
	return out
}

func TestTrainingGivesTheSameBitsOnAnyNumberOfProcessors(t *testing.T) {
	inBoth(func(name string, mixed bool) {
		t.Run("training"+name, func(t *testing.T) { sameOnAnyProcessors(t, mixed) })
	})
}

func sameOnAnyProcessors(t *testing.T, mixed bool) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	job := anchorJob(t, AnchorRecipe(1))
	job.Recipe.Mixed = mixed
	job.Config = AnchorConfig(64, 31)
	job.Recipe.Steps, job.Recipe.WarmUp, job.Recipe.Sequences = 3, 1, 2
	var anchor, expert []model.Tensor
	for _, processors := range []int{1, 2, 5} {
		runtime.GOMAXPROCS(processors)
		job.Checkpoint = filepath.Join(t.TempDir(), "checkpoint")
		tensors, err := Anchor(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		a, err := model.BuildAnchor(job.Config, among(tensors))
		if err != nil {
			t.Fatal(err)
		}
		j := expertJob(t, a, ExpertRecipe(1))
		j.Recipe.Mixed = mixed
		j.Recipe.Steps, j.Recipe.WarmUp, j.Recipe.Sequences, j.Recipe.PublicSequences, j.Recipe.SplicedSequences = 3, 1, 3, 1, 1
		tuned, err := Expert(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		if anchor == nil {
			anchor, expert = tensors, tuned
		}
		same(t, fmt.Sprintf("an anchor on %d processors", processors), tensors, anchor)
		same(t, fmt.Sprintf("an expert on %d processors", processors), tuned, expert)
	}
}

func TestTheSeedDecides(t *testing.T) {
	anchor := func(seed uint64) []model.Tensor {
		j := anchorJob(t, smallRecipe(3))
		j.Recipe.Seed = seed
		out, err := Anchor(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first := anchor(1)
	same(t, "an anchor", anchor(1), first)
	differ(t, "an anchor", anchor(2), first)
	a := trainedAnchor(t, 3)
	expert := func(seed uint64) []model.Tensor {
		j := expertJob(t, a, expertRecipe(3))
		j.Recipe.Seed = seed
		out, err := Expert(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first = expert(1)
	same(t, "an expert", expert(1), first)
	differ(t, "an expert", expert(2), first)
}

func TestALossThatIsNoNumberIsReported(t *testing.T) {
	for _, rate := range []float64{1e19, 1e30, math.Inf(1), math.NaN()} {
		j := anchorJob(t, smallRecipe(20))
		j.Recipe.LR = rate
		out, err := Anchor(t.Context(), j)
		if out != nil || err == nil || !strings.Contains(err.Error(), "use a lower learning rate than "+strconv.FormatFloat(rate, 'g', -1, 64)) {
			t.Errorf("rate %v: error %v", rate, err)
		}
	}
}

func TestTrainingWithoutTextIsAnError(t *testing.T) {
	j := anchorJob(t, smallRecipe(2))
	j.Text = new(Tokens)
	if _, err := Anchor(t.Context(), j); !errors.Is(err, ErrNoText) {
		t.Errorf("an anchor: %v", err)
	}
	a := trainedAnchor(t, 1)
	for _, empty := range []func(*ExpertJob){func(j *ExpertJob) { j.Text = new(Tokens) }, func(j *ExpertJob) { j.Public = new(Tokens) }} {
		j := expertJob(t, a, expertRecipe(2))
		empty(&j)
		if _, err := Expert(t.Context(), j); !errors.Is(err, ErrNoText) {
			t.Errorf("an expert: %v", err)
		}
	}
}

func TestTextShorterThanAWindowIsEnough(t *testing.T) {
	j := anchorJob(t, smallRecipe(3))
	j.Text = &Tokens{IDs: []int32{5, 31}, Bytes: 1}
	if _, err := Anchor(t.Context(), j); err != nil {
		t.Error(err)
	}
}

func TestTheRateWarmsUpAndFallsToATenth(t *testing.T) {
	r := Recipe{Steps: 100, WarmUp: 10, LR: 2}
	for step, want := range map[int]float64{0: 0.2, 4: 1, 9: 2, 10: 2, 55: 1.1, 100: 0.2} {
		if got := r.rate(step); math.Abs(got-want) > 1e-12 {
			t.Errorf("the rate of step %d is %v, want %v", step, got, want)
		}
	}
	for step := 10; step < 100; step++ {
		if r.rate(step+1) >= r.rate(step) {
			t.Errorf("the rate does not fall at step %d", step)
		}
	}
	all := Recipe{Steps: 5, WarmUp: 5, LR: 1}
	if got := all.rate(4); got != 1 {
		t.Errorf("the last step of a run that only warms up has rate %v", got)
	}
}

func TestARouterRowStartsHalfWayBetweenItsTextAndThePublic(t *testing.T) {
	row := make([]float32, 2)
	bias := discriminant(row, []float32{3, 4}, []float32{0, 0})
	if math.Abs(float64(row[0])-0.6) > 1e-6 || math.Abs(float64(row[1])-0.8) > 1e-6 || math.Abs(float64(bias)+2.5) > 1e-6 {
		t.Errorf("row %v, bias %v, want [0.6 0.8] and -2.5", row, bias)
	}
	if bias := discriminant(row, []float32{1, 0}, []float32{-3, 0}); bias != 0 {
		t.Errorf("a bias of %v favours the expert", bias)
	}
	if bias := discriminant(row, []float32{1, 2}, []float32{1, 2}); bias != 0 || row[0] != 0 || row[1] != 0 {
		t.Errorf("texts that do not differ give row %v, bias %v", row, bias)
	}
}

func TestATopicTeachesTheAnchorAndStaysOutOfIt(t *testing.T) {
	var all [2][]model.Tensor
	for i, weight := range []float64{0, 0.2} {
		r := smallRecipe(6)
		r.Topic = weight
		tensors, err := Anchor(t.Context(), anchorJob(t, r))
		if err != nil {
			t.Fatal(err)
		}
		all[i] = tensors
	}
	without, with := all[0], all[1]
	if len(with) != len(without) {
		t.Fatalf("%d tensors with a topic, %d without", len(with), len(without))
	}
	for i, v := range with {
		if v.Name != without[i].Name {
			t.Fatalf("%s in place of %s", v.Name, without[i].Name)
		}
		// The first layer's attention is what a topic teaches.
		if strings.Contains(v.Name, "layers.0.self_attn.v_proj") && slices.Equal(v.Values, without[i].Values) {
			t.Errorf("%s learns nothing of topics", v.Name)
		}
	}
}

func TestRoutersLearnWhichTextIsWhose(t *testing.T) {
	a := trainedAnchor(t, 60)
	own := func(guide float64) (p float64) {
		r := expertRecipe(300)
		r.Guide = guide
		j := expertJob(t, a, r)
		tensors, err := Expert(t.Context(), j)
		if err != nil {
			t.Fatal(err)
		}
		e, err := model.BuildExpert(a.Config, among(tensors))
		if err != nil {
			t.Fatal(err)
		}
		var pass model.Pass
		const length, windows = 16, 20
		for slot, text := range []*Tokens{j.Public, j.Text} {
			model.NewMixture(a, e).Forward(&pass, text.IDs[:windows*length], windows, length)
			for _, l := range pass.Layers {
				for r := range windows * length {
					p += float64(l.P[r*2+slot]) / (2 * windows * length) / float64(len(pass.Layers))
				}
			}
		}
		return p
	}
	if with, without := own(1), own(0); with < without+0.05 {
		t.Errorf("a guided router gives %.2f of its weight to the right slot, another %.2f", with, without)
	} else {
		t.Logf("%.3f against %.3f", with, without)
	}
}
