package leak

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/gonum/stat/distuv"
)

func someCanaries(t *testing.T, count, repeats int) Canaries {
	t.Helper()
	c, err := NewCanaries(count, repeats)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCanariesFollowFromTheirSeedAndAreWhatTheirFormatSays(t *testing.T) {
	c := someCanaries(t, 200, 3)
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	read, err := ParseCanaries(b)
	if err != nil || !slices.Equal(read.Candidates(), c.Candidates()) {
		t.Fatalf("read again: error %v", err)
	}
	form := regexp.MustCompile(`^` + strings.NewReplacer("NNNNNNNN", "[a-z]{8}", "DDD", "[0-9]{3}", ".", `\.`).Replace(CanaryFormat) + `$`)
	planted := 0
	seen := make(map[string]bool)
	for _, k := range c.Candidates() {
		if !form.MatchString(k.Text()) || seen[k.Secret] {
			t.Errorf("the canary %q", k.Text())
		}
		seen[k.Secret] = true
		if k.Planted {
			planted++
		}
	}
	if planted < 60 || planted > 140 { // a fair coin does that once in a hundred million times
		t.Errorf("%d of 200 are planted", planted)
	}
	texts := c.Texts()
	for _, k := range c.Candidates() {
		n := 0
		for _, text := range texts {
			if text == k.Text() {
				n++
			}
		}
		if want := map[bool]int{true: 3, false: 0}[k.Planted]; n != want {
			t.Errorf("%q, planted %v, stands there %d times", k.Text(), k.Planted, n)
		}
	}
	if other := someCanaries(t, 200, 3); slices.Equal(other.Candidates(), c.Candidates()) {
		t.Error("two seeds are the same")
	}
	k := c.Candidates()[5]
	some := c.Alternatives(5, 50)
	for _, o := range some {
		if o.Name != k.Name || o.Secret == k.Secret {
			t.Errorf("an alternative to %+v is %+v", k, o)
		}
	}
	if slices.Equal(some, c.Alternatives(6, 50)) || !slices.Equal(some[:20], c.Alternatives(5, 20)) {
		t.Error("alternatives do not follow from the canary")
	}
	for _, bad := range []Canaries{{c.Seed, 0, 1}, {c.Seed, maxCanaries + 1, 1}, {c.Seed, 1, 0}, {c.Seed, 1, maxRepeats + 1}, {"00", 1, 1}, {strings.Repeat("x", 64), 1, 1}} {
		if bad.check() == nil {
			t.Errorf("%+v are canaries", bad)
		}
	}
}

func FuzzParseCanaries(f *testing.F) {
	f.Add([]byte(`{"seed":"` + strings.Repeat("0f", 32) + `","count":3,"repeats":2}`))
	f.Add([]byte(`{"seed":"0f","count":3,"repeats":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCanaries(b)
		if err != nil {
			return
		}
		if n := len(c.Candidates()); n != c.Count {
			t.Errorf("%d candidates of %+v", n, c)
		}
	})
}

func TestExposureOfASecretThatWasNeverSeenIsThatOfARandomRank(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for name, draw := range map[string]func() float64{
		"normal": r.NormFloat64,
		"skewed": func() float64 { x, y := r.NormFloat64(), r.NormFloat64(); return x*x/3 + y },
	} {
		var mean float64
		const rounds = 400
		for range rounds {
			others := make([]float64, 200)
			for i := range others {
				others[i] = 30 + draw()
			}
			mean += Exposure(30+draw(), others) / rounds
		}
		if !near(mean, 1/math.Ln2, 0.2) { // −log₂ of a uniform number; its deviation is 1.44/√400
			t.Errorf("%s: %v bits in the mean, want %v", name, mean, 1/math.Ln2)
		}
	}
}

func TestExposureIsOfTheSkewNormalDistribution(t *testing.T) {
	var symmetric []float64
	for i := range 1000 {
		symmetric = append(symmetric, distuv.UnitNormal.Quantile((float64(i)+0.5)/1000))
	}
	for _, x := range []float64{-5, -3, -1, 0, 1} {
		if got, want := Exposure(x, symmetric), -math.Log2(distuv.UnitNormal.CDF(x)); !near(got, want, 0.15+0.03*want) {
			t.Errorf("at %v: %v bits, want %v", x, got, want)
		}
	}
	if got, want := Exposure(-1000, symmetric), math.Log2(canarySpace); got != want {
		t.Errorf("far away: %v bits, want %v", got, want)
	}
	if got := Exposure(1000, symmetric); got != 0 {
		t.Errorf("far on the other side: %v bits", got)
	}
	for _, x := range []float64{0, 1, 2} { // no deviation
		if got, want := Exposure(x, []float64{1, 1, 1}), []float64{math.Log2(canarySpace), 1, 0}[int(x)]; !near(got, want, 1e-12) {
			t.Errorf("%v among equals: %v bits, want %v", x, got, want)
		}
	}
}

func TestTheBoundOnEpsilonIsThatOfCoinsWhereDeltaIsZero(t *testing.T) {
	for _, r := range []int{10, 50, 500} {
		q := math.Pow(0.05, 1/float64(r))
		if got, want := epsilonOf(r, r, r, 0, 0.05), math.Log(q/(1-q)); !near(got, want, 1e-3) {
			t.Errorf("%d right guesses of %d: ε ≥ %v, want %v", r, r, got, want)
		}
	}
	for _, correct := range []int{0, 10, 26, 50} { // of 50: what coins do
		got := epsilonOf(50, 50, correct, 0, 0.05)
		if (got > 0) != (correct > 31) {
			t.Errorf("%d right guesses of 50: ε ≥ %v", correct, got)
		}
		if looser := epsilonOf(50, 50, correct, 1e-3, 0.05); looser > got {
			t.Errorf("%d right guesses of 50: a δ makes ε ≥ %v of ε ≥ %v", correct, looser, got)
		}
	}
	if p := guessProbability(100, 100, 80, 1, 1); p != 1 {
		t.Errorf("a δ of 1 allows everything, and this with probability %v", p)
	}
}

func TestTheBoundOnEpsilonHoldsForRandomisedResponse(t *testing.T) {
	const epsilon, m, rounds = 1.0, 100, 300
	r := rand.New(rand.NewPCG(4, 4))
	broken, informative := 0, 0
	for range rounds {
		scores, planted := make([]float64, m), make([]bool, m)
		for i := range scores {
			planted[i] = r.IntN(2) == 1
			tells := r.Float64() < math.Exp(epsilon)/(1+math.Exp(epsilon))
			scores[i] = r.Float64()
			if planted[i] == tells {
				scores[i]++
			}
		}
		b := BoundEpsilon(scores, planted, 0)
		if b.Epsilon > epsilon {
			broken++
		}
		if b.Epsilon > 0.2 {
			informative++
		}
	}
	// At most one in twenty may be above, 15 of 300, and 28 are once in a thousand times.
	if broken > 28 || informative < rounds/2 {
		t.Errorf("ε is 1, and %d of %d bounds are above; %d are above 0.2", broken, rounds, informative)
	}
}
