package train

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"chorus/kernels"
	"chorus/model"
	"chorus/model/train/privacy"
)

// walkUnits are n units of texts like walkText's, of different lengths.
func walkUnits(a, b int32, n int) (units []*Tokens) {
	for i := range n {
		u := new(Tokens)
		at := int32(i*7%31 + 1)
		for range 3 + i*5%60 {
			u.IDs = append(u.IDs, at%31)
			at = (a*at + b) % 31
		}
		u.IDs = append(u.IDs, 31)
		units = append(units, u)
	}
	return units
}

func privateRecipe(steps int) PrivateRecipe {
	r := PrivateRecipe{Recipe: expertRecipe(steps), Units: 20, Windows: 2}
	r.Clip, r.PublicSequences, r.SplicedSequences, r.Guide, r.RouterRate = 0.1, 4, 0, 0, 0
	r.Sequences = r.Units*r.Windows + r.PublicSequences
	return r
}

func privateJob(t testing.TB, a *model.Anchor, steps int) PrivateJob {
	return PrivateJob{
		Anchor: a, AnchorCID: "bafyanchor", Unit: ByDocument, Text: walkUnits(7, 1, 200), Public: walkText(5, 3, 2000), Epsilon: 8, Delta: 1e-3,
		Recipe: privateRecipe(steps), Checkpoint: filepath.Join(t.TempDir(), "checkpoint"),
	}
}

// newPrivateRun is a private run that is ready to take steps, over weights that are all different.
func newPrivateRun(t *testing.T, mixed bool) (*run, *private) {
	t.Helper()
	j := privateJob(t, trainedAnchor(t, 3), 10)
	g, err := j.plan()
	if err != nil {
		t.Fatal(err)
	}
	p := &private{guarantee: g, text: j.Text, recipe: j.Recipe, public: newBatcher(j.Public, j.Recipe.Length, 1)}
	r := &run{recipe: j.Recipe.Recipe, private: p}
	r.recipe.Mixed = mixed
	rng := rand.New(rand.NewPCG(1, 2))
	expert, err := model.BuildExpert(smallConfig(), func(name string, shape ...int) ([]float32, error) {
		q := newParameter(1, name, shape)
		for i := range q.w {
			q.w[i] = float32(rng.NormFloat64() / 6)
		}
		if name == "layers.0.router.bias" {
			q.w[0] = -0.1
		} else if name == "layers.1.router.bias" {
			q.w[0] = 0.1 // counts as 0, and has no gradient
		}
		r.params = append(r.params, q)
		return q.w, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r.mixture = model.NewMixture(j.Anchor, expert)
	r.begin()
	return r, p
}

// alone returns the gradient of the mean loss over the rows of one unit of p's group that count, computed by the plain
// backward pass of that unit alone.
func alone(r *run, p *private, u drawn) (parts [][]float64) {
	g := gradientsOf(r.mixture, func(slot int, name string) []float32 {
		for _, q := range r.params {
			if q.slot == slot && q.name == name {
				return q.m // memory that nothing else here uses
			}
		}
		return nil
	})
	var pass model.Pass
	rows, length := u.to-u.from, r.recipe.Length
	ids, targets := p.ids[u.from:u.to], p.targets[u.from:u.to]
	r.working.ForwardToHead(&pass, ids, rows/length, length)
	backward(r.working, &pass, ids, targets, r.aux(rows, slices.Repeat([]int8{1}, rows)), g, new(scratch))
	for _, q := range r.params {
		var part []float64
		for _, v := range q.m {
			part = append(part, float64(v)*float64(rows)/float64(u.counted))
		}
		parts = append(parts, part)
	}
	return parts
}

func length(parts [][]float64) float64 {
	var sum float64
	for _, p := range parts {
		for _, v := range p {
			sum += v * v
		}
	}
	return math.Sqrt(sum)
}

func TestTheSumIsOfEachUnitsGradientClippedAlone(t *testing.T) {
	inBoth(func(name string, mixed bool) {
		t.Run("units"+name, func(t *testing.T) {
			tolerance := 1e-5
			if mixed {
				tolerance = 0.02 // gradients of weights round what they read, scaled or not
			}
			r, p := newPrivateRun(t, mixed)
			p.fill([]int{3, 11, 50, 4, 199, 7, 120}, secret())
			if len(p.group) != 7 {
				t.Fatalf("%d units in the group", len(p.group))
			}
			var norms []float64
			for _, u := range p.group {
				norms = append(norms, length(alone(r, p, u)))
			}
			slices.Sort(norms)
			for _, clip := range []float64{norms[0] / 2, (norms[3] + norms[4]) / 2, 2 * norms[6]} {
				p.sum.clip = clip
				var want [][]float64
				for _, u := range p.group {
					parts := alone(r, p, u)
					factor := min(1, clip/length(parts))
					for i, part := range parts {
						if len(want) <= i {
							want = append(want, make([]float64, len(part)))
						}
						for k, v := range part {
							want[i][k] += factor * v
						}
					}
				}
				p.addGroup(r)
				whole := length(want)
				for i, total := range p.sum.total {
					var moved bool
					for k, v := range total {
						got := float64(v) * clip / clipSteps
						if math.Abs(got-want[i][k]) > tolerance*whole+7*clip/clipSteps {
							t.Fatalf("clip %g: %s[%d] is %g, want %g", clip, r.params[i].name, k, got, want[i][k])
						}
						moved = moved || v != 0
					}
					if bias := r.params[i].name == "layers.1.router.bias"; moved == bias {
						t.Errorf("clip %g: %s has a gradient: %v", clip, r.params[i].name, moved)
					}
					clear(total)
				}
			}
		})
	})
}

func TestOneUnitMovesTheSumByNoMoreThanClip(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	s := newNoisySum(0.3, 40000, 1, 77)
	for n := range 60 {
		parts := [][]float32{make([]float32, 40000), make([]float32, 1), make([]float32, 77)}
		scale := math.Pow(10, float64(n%13-6))
		for _, p := range parts {
			for i := range p {
				if n%5 > 0 || i == 0 { // and vectors along one axis
					p[i] = float32(rng.NormFloat64() * scale)
				}
			}
		}
		switch n {
		case 20:
			parts[2][5] = float32(math.NaN())
		case 21:
			parts[1][0] = float32(math.Inf(-1))
		case 22:
			parts[0][8] = math.MaxFloat32
		case 23:
			parts[0][8], parts[0][9] = 1e-45, 0
		}
		before := [][]int64{slices.Clone(s.total[0]), slices.Clone(s.total[1]), slices.Clone(s.total[2])}
		norm := s.add(rng.ExpFloat64(), parts...)
		var squares int64
		for i := range before {
			for k := range before[i] {
				d := s.total[i][k] - before[i][k]
				squares += d * d
			}
		}
		if squares > clipSteps*clipSteps {
			t.Errorf("vector %d, %g long, moves the sum by %g of %d steps", n, norm, math.Sqrt(float64(squares)), clipSteps)
		}
		if finite := !math.IsNaN(norm) && !math.IsInf(norm, 0); !finite && squares != 0 {
			t.Errorf("vector %d, which is not finite, moves the sum", n)
		} else if finite && norm > 1 && float64(squares) < 0.99*clipSteps*clipSteps {
			t.Errorf("vector %d, %g long, moves the sum by %g of %d steps only", n, norm, math.Sqrt(float64(squares)), clipSteps)
		}
	}
}

// kolmogorov is the largest distance between the distribution of samples and that of a standard Gaussian, times √n: above 2.7 once in
// a million times.
func kolmogorov(samples []float64) (d float64) {
	slices.Sort(samples)
	n := float64(len(samples))
	for i, x := range samples {
		cdf := math.Erfc(-x/math.Sqrt2) / 2
		d = max(d, cdf-float64(i)/n, float64(i+1)/n-cdf)
	}
	return d * math.Sqrt(n)
}

func TestNoiseIsGaussian(t *testing.T) {
	const n = 1 << 18
	for _, noise := range []float64{0.3, 1, 40} {
		s := newNoisySum(2, n, 3)
		dst := [][]float32{make([]float32, n), make([]float32, 3)}
		s.release(noise, 1, dst...)
		var all []float64
		var moments [5]float64
		for _, v := range dst[0] {
			x := float64(v) / (2 * noise)
			all = append(all, x)
			for k := range moments {
				moments[k] += math.Pow(x, float64(k)) / n
			}
		}
		// Six standard errors, which chance exceeds twice in a billion times.
		for k, want := range []float64{1, 0, 1, 0, 3} {
			variance := []float64{0, 1, 2, 15, 96}[k]
			if math.Abs(moments[k]-want) > 6*math.Sqrt(variance/n) {
				t.Errorf("noise %g: moment %d is %g, want %g", noise, k, moments[k], want)
			}
		}
		var next float64 // neighbours come from one pair of uniform numbers
		for i := range n - 1 {
			next += all[i] * all[i+1] / n
		}
		if math.Abs(next) > 6/math.Sqrt(n) {
			t.Errorf("noise %g: neighbours correlate by %g", noise, next)
		}
		if d := kolmogorov(all); d > 2.7 {
			t.Errorf("noise %g: the distance to a Gaussian is %g/√n", noise, d)
		}
		again := [][]float32{make([]float32, n), make([]float32, 3)}
		s.release(noise, 1, again...)
		if slices.Equal(dst[0][:9], again[0][:9]) || slices.Equal(dst[1], again[1]) || dst[0][0] == dst[0][partSize] {
			t.Errorf("noise %g comes again", noise)
		}
	}
}

func TestWhatIsReleasedLiesOnTheGrid(t *testing.T) {
	const clip = 0.75
	s := newNoisySum(clip, 5000)
	x := make([]float32, 5000)
	for i := range x {
		x[i] = float32(i%17) * 1e-4
	}
	s.add(1, x)
	s.release(0.01, 1, x)
	for i, v := range x {
		steps := float64(v) / clip * clipSteps
		if math.Abs(steps-math.Round(steps)) > 1e-2 {
			t.Fatalf("coordinate %d is %v steps of the grid", i, steps)
		}
	}
	s.release(1e-9, 1, x) // a new sum, and noise that rounds to nothing
	if slices.Max(x) != 0 || slices.Min(x) != 0 {
		t.Error("a sum stands after it was released")
	}
}

func TestSamplesArePoisson(t *testing.T) {
	const n, rounds = 200, 4000
	for _, rate := range []float64{0.001, 0.3, 1} {
		var sizes, squares float64
		each := make([]int, n)
		empty := 0
		for range rounds {
			in := poisson(n, rate, secret())
			for _, i := range in {
				each[i]++
			}
			if len(in) == 0 {
				empty++
			}
			sizes += float64(len(in)) / rounds
			squares += float64(len(in)*len(in)) / rounds
		}
		variance := n * rate * (1 - rate)
		if math.Abs(sizes-n*rate) > 6*math.Sqrt(variance/rounds)+1e-6 {
			t.Errorf("rate %g: %g of %d on average", rate, sizes, n)
		}
		if got := squares - sizes*sizes; math.Abs(got-variance) > 0.15*variance+1e-6 {
			t.Errorf("rate %g: the variance of the size is %g, want %g", rate, got, variance)
		}
		for i, times := range each {
			if math.Abs(float64(times)-rounds*rate) > 7*math.Sqrt(rounds*rate*(1-rate))+2 {
				t.Errorf("rate %g: unit %d is in %d of %d samples", rate, i, times, rounds)
			}
		}
		if (empty > 0) != (rate == 0.001) {
			t.Errorf("rate %g: %d samples of %d are empty", rate, empty, rounds)
		}
	}
}

func TestAUnitsWindowsAreItsOwnAndBounded(t *testing.T) {
	text := []int32{1, 2, 3, 4, 5, 6, 7, 8, 9, 31}
	for range 20 {
		ids, targets, counted := appendWindows(nil, nil, text, 4, 2, secret())
		if len(ids) != 8 || len(targets) != 8 {
			t.Fatalf("%d rows", len(ids))
		}
		n := 0
		for i, id := range ids {
			at := slices.Index(text, id)
			if targets[i] >= 0 {
				n++
				if text[at+1] != targets[i] {
					t.Errorf("%d is followed by %d", id, targets[i])
				}
			} else if id != 31 && id > 3 { // what wraps around
				t.Errorf("%d does not count", id)
			}
		}
		if n != counted || ids[0] == ids[4] {
			t.Errorf("%d rows count, %d were said to; windows begin with %d and %d", n, counted, ids[0], ids[4])
		}
	}
	ids, targets, counted := appendWindows(nil, nil, []int32{5, 31}, 4, 3, secret())
	if !slices.Equal(ids, []int32{5, 31, 5, 31}) || !slices.Equal(targets, []int32{31, -1, -1, -1}) || counted != 1 {
		t.Errorf("a unit of one token: %v, %v, %d", ids, targets, counted)
	}
}

func TestEmptyBatchesAreSteps(t *testing.T) {
	r, p := newPrivateRun(t, false)
	p.guarantee.Rate = 1e-12
	before := slices.Clone(r.params[0].w)
	for range 3 {
		if loss, err := r.once(); err != nil || math.IsNaN(loss) || loss <= 0 {
			t.Fatalf("the loss is %v, %v", loss, err)
		}
	}
	if r.step != 3 || slices.Equal(before, r.params[0].w) {
		t.Errorf("%d steps, and the weights moved: %v", r.step, !slices.Equal(before, r.params[0].w))
	}
}

func TestAPrivateExpertLearns(t *testing.T) {
	a := trainedAnchor(t, 150)
	j := privateJob(t, a, 60)
	j.Epsilon, j.Delta, j.Text = 1000, 1e-5, walkUnits(7, 1, 2000)
	j.Recipe.Units = 100
	tensors, g, err := PrivateExpert(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	if g.Epsilon > 1000 || g.Epsilon < 900 || g.Steps != 60 || g.Rate != 0.05 || g.Sampler != Poisson || g.Unit != ByDocument {
		t.Errorf("%+v", g)
	}
	expert, err := model.BuildExpert(a.Config, among(tensors))
	if err != nil {
		t.Fatal(err)
	}
	own := walkText(7, 1, 700)
	if before, after := lossOn(model.NewMixture(a), own), lossOn(model.NewMixture(a, expert), own); after > before/2 {
		t.Errorf("the loss on the owner's text falls from %.2f to %.2f only", before, after)
	}
	for l := range expert.Router {
		if n := kernels.SumSquares(expert.Router[l]); n == 0 {
			t.Errorf("layer %d has no router row", l)
		}
	}
}

func TestAResumedPrivateRunTakesEveryStepOnceWithNewNoise(t *testing.T) {
	a := trainedAnchor(t, 3)
	j := privateJob(t, a, 6)
	whole, plan, err := PrivateExpert(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	j.Checkpoint = filepath.Join(t.TempDir(), "again")
	again, _, err := PrivateExpert(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	differ(t, "two private runs of one seed", whole, again)

	j.Checkpoint = filepath.Join(t.TempDir(), "interrupted")
	var steps []int
	for {
		ctx, stop := context.WithCancel(t.Context())
		j.Report = func(p Progress) {
			steps = append(steps, p.Step)
			if p.Step%2 == 0 {
				stop()
			}
		}
		_, g, err := PrivateExpert(ctx, j)
		stop()
		if err == nil {
			if g != plan {
				t.Errorf("the guarantee of an interrupted run is %+v, of a whole one %+v", g, plan)
			}
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if !slices.Equal(steps, []int{1, 2, 3, 4, 5, 6}) {
		t.Errorf("the steps were %v", steps)
	}
}

func TestACheckpointOfAnotherJobIsRefused(t *testing.T) {
	a := trainedAnchor(t, 3)
	j := privateJob(t, a, 6)
	if _, _, err := PrivateExpert(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*PrivateJob){
		"one unit less": func(j *PrivateJob) { j.Text = j.Text[1:] },
		"units cut otherwise": func(j *PrivateJob) {
			j.Text = append([]*Tokens{{IDs: j.Text[0].IDs[:2]}, {IDs: j.Text[0].IDs[2:]}}, j.Text[1:]...)
		},
		"another ε":         func(j *PrivateJob) { j.Epsilon = 3 },
		"another δ":         func(j *PrivateJob) { j.Delta = 1e-4 },
		"another unit":      func(j *PrivateJob) { j.Unit = "field:patient" },
		"more steps":        func(j *PrivateJob) { j.Recipe.Steps++ },
		"another clip":      func(j *PrivateJob) { j.Recipe.Clip *= 2 },
		"more windows":      func(j *PrivateJob) { j.Recipe.Windows++ },
		"other public text": func(j *PrivateJob) { j.Public = walkText(3, 1, 2000) },
	} {
		k := j
		change(&k)
		if _, _, err := PrivateExpert(t.Context(), k); !errors.Is(err, ErrVoid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	plain := expertJob(t, a, expertRecipe(3))
	plain.Checkpoint = filepath.Join(t.TempDir(), "plain")
	if _, err := Expert(t.Context(), plain); err != nil {
		t.Fatal(err)
	}
	j.Checkpoint = plain.Checkpoint
	if _, _, err := PrivateExpert(t.Context(), j); !errors.Is(err, ErrVoid) {
		t.Errorf("what was trained without privacy goes on with it: %v", err)
	}
}

func TestPlansThatProtectNobodyAreRefused(t *testing.T) {
	a := trainedAnchor(t, 3)
	for name, change := range map[string]func(*PrivateJob){
		"no text":             func(j *PrivateJob) { j.Text = nil },
		"no public text":      func(j *PrivateJob) { j.Public = new(Tokens) },
		"δ of one unit":       func(j *PrivateJob) { j.Delta = 1.0 / 200 },
		"δ 0":                 func(j *PrivateJob) { j.Delta = 0 },
		"δ no number":         func(j *PrivateJob) { j.Delta = math.NaN() },
		"ε 0":                 func(j *PrivateJob) { j.Epsilon = 0 },
		"ε no number":         func(j *PrivateJob) { j.Epsilon = math.NaN() },
		"no clip":             func(j *PrivateJob) { j.Recipe.Clip = math.Inf(1) },
		"no windows":          func(j *PrivateJob) { j.Recipe.Windows = 0 },
		"no units in a batch": func(j *PrivateJob) { j.Recipe.Units = 0 },
		"no steps":            func(j *PrivateJob) { j.Recipe.Steps = 0 },
		"no public windows":   func(j *PrivateJob) { j.Recipe.PublicSequences = 0 },
	} {
		j := privateJob(t, a, 3)
		change(&j)
		if tensors, _, err := PrivateExpert(t.Context(), j); err == nil || tensors != nil {
			t.Errorf("%s: trained", name)
		}
	}
}

func TestAGuaranteeIsWhatFollowsFromItsNumbers(t *testing.T) {
	good, err := privateJob(t, trainedAnchor(t, 3), 50).plan()
	if err != nil {
		t.Fatal(err)
	}
	if e, err := good.Account(); err != nil || e != good.Epsilon || e > 8 || e < 7.99 {
		t.Errorf("ε %g, %v", e, err)
	}
	start, steps := privacy.Mechanism{Rate: 1, Noise: good.StartNoise, Steps: 1}, privacy.Mechanism{Rate: good.Rate, Noise: good.Noise, Steps: 50}
	if e := privacy.Epsilon(good.Delta, privacy.Improved, start, steps); e > good.Epsilon || e < good.Epsilon-0.001 {
		t.Errorf("ε %g of the mechanisms, %g of the guarantee", e, good.Epsilon)
	}
	for name, change := range map[string]func(*Guarantee){
		"shuffled":     func(g *Guarantee) { g.Sampler = "shuffled" },
		"no sampler":   func(g *Guarantee) { g.Sampler = "" },
		"no noise":     func(g *Guarantee) { g.Noise = 0 },
		"a free start": func(g *Guarantee) { g.StartNoise = 0 },
		"no clip":      func(g *Guarantee) { g.Clip = 0 },
		"any clip":     func(g *Guarantee) { g.Clip = math.Inf(1) },
		"no step":      func(g *Guarantee) { g.Steps = 0 },
		"no rate":      func(g *Guarantee) { g.Rate = 0 },
		"δ 1":          func(g *Guarantee) { g.Delta = 1 },
	} {
		g := good
		change(&g)
		if e, err := g.Account(); err == nil {
			t.Errorf("%s: ε %g", name, e)
		}
	}
}

func BenchmarkPrivateStep(b *testing.B) {
	c := AnchorConfig(Vocabulary, 0)
	text := &Tokens{IDs: make([]int32, 1<<16)}
	for i := range text.IDs {
		text.IDs[i] = int32(i * 97 % c.VocabSize)
	}
	j := PrivateJob{Unit: ByDocument, Public: text, Epsilon: 3, Delta: 1e-5, Recipe: ExpertPrivately(1)}
	for i := range 4000 {
		j.Text = append(j.Text, &Tokens{IDs: text.IDs[i : i+300]})
	}
	g, err := j.plan()
	if err != nil {
		b.Fatal(err)
	}
	p := &private{guarantee: g, text: j.Text, recipe: j.Recipe, public: newBatcher(text, j.Recipe.Length, 1)}
	r := &run{recipe: j.Recipe.Recipe, private: p}
	rng := rand.New(rand.NewPCG(1, 2))
	source := func(slot int) model.Source {
		return func(name string, shape ...int) ([]float32, error) {
			q := newParameter(slot, name, shape)
			initialise(q.w, name, shape, rng)
			if slot == 1 {
				r.params = append(r.params, q)
			}
			return q.w, nil
		}
	}
	anchor, err := model.BuildAnchor(c, source(0))
	if err != nil {
		b.Fatal(err)
	}
	expert, err := model.BuildExpert(c, source(1))
	if err != nil {
		b.Fatal(err)
	}
	r.mixture = model.NewMixture(anchor, expert)
	r.begin()
	for b.Loop() {
		if _, err := r.once(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(r.ids))/b.Elapsed().Seconds(), "tokens/s")
}
