package leak

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"chorus/model"
)

// distance is Levenshtein's, by its recursion.
func distance(a, b string) int {
	known := make(map[[2]int]int)
	var d func(i, j int) int
	d = func(i, j int) int {
		if i == 0 || j == 0 {
			return i + j
		}
		if v, ok := known[[2]int{i, j}]; ok {
			return v
		}
		v := d(i-1, j-1)
		if a[i-1] != b[j-1] {
			v = 1 + min(v, d(i-1, j), d(i, j-1))
		}
		known[[2]int{i, j}] = v
		return v
	}
	return d(len(a), len(b))
}

func similar(a, b string) float64 {
	if len(a)+len(b) == 0 {
		return 1
	}
	return 1 - float64(distance(a, b))/float64(max(len(a), len(b)))
}

func randomText(r *rand.Rand, n int) string {
	b := make([]byte, r.IntN(n))
	for i := range b {
		b[i] = byte('a' + r.IntN(3))
	}
	return string(b)
}

func TestATextIsGivenUpOnlyIfItCannotBecomeAHit(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	given := 0
	for range 3000 {
		truth, text, s := randomText(r, 20), randomText(r, 25), 0.3+0.7*r.Float64()
		e := newEdits([]byte(truth))
		reached := true
		for i := range text {
			e.add([]byte{text[i]})
			reached = reached && e.reaches(s)
		}
		if got, want := e.similarity(), similar(text, truth); !near(got, want, 1e-12) {
			t.Fatalf("%q and %q: similarity %v, want %v", text, truth, got, want)
		}
		if !reached {
			given++
			if e.similarity() >= s {
				t.Fatalf("%q was given up, and is %v like %q, which is %v or more", text, e.similarity(), truth, s)
			}
		}
	}
	if given < 500 {
		t.Errorf("only %d of 3000 were given up", given)
	}
}

// naiveAttack writes every sample to its end, one after the other.
func naiveAttack(t *testing.T, a Attack, m *model.Mixture, tokens []int32, at uint64) (out Attempt) {
	t.Helper()
	var truth string
	for _, id := range tokens[a.Prefix:] {
		truth += string(alphabet.Bytes(id))
	}
	for i := range a.Samples {
		s := m.NewSequence()
		logits, err := s.Extend(tokens[:a.Prefix])
		if err != nil {
			t.Fatal(err)
		}
		choose := sampler{topK: a.TopK, topP: a.TopP, temperature: a.Temperature, rng: rand.New(rand.NewPCG(a.Seed, at<<16|uint64(i)))}
		var text string
		for n := range len(tokens) - a.Prefix {
			id := choose.choose(logits)
			if id == 26 {
				break
			}
			text += string(alphabet.Bytes(id))
			if n+1 < len(tokens)-a.Prefix {
				if logits, err = s.Extend([]int32{id}); err != nil {
					t.Fatal(err)
				}
			}
		}
		similarity := similar(text, truth)
		if i == 0 {
			out.First, out.FirstText = similarity, text
		}
		if out.Best = max(out.Best, similarity); similarity >= a.Similarity {
			out.Hit = true
		}
	}
	return out
}

func TestAnAttackInBatchesFindsWhatSampleAfterSampleDoes(t *testing.T) {
	m := small(t)
	a := Attack{Prefix: 4, Length: 20, Samples: 5, TopK: 8, TopP: 0.95, Temperature: 1, Similarity: 0.25, Seed: 7}
	docs := a.Documents(documents(3, 24, 12, 30, 3, 24, 24, 9, 24))
	if len(docs) != 7 || len(docs[2]) != 24 {
		t.Fatalf("%d documents are attacked", len(docs))
	}
	got, err := a.Run(t.Context(), m, alphabet, docs, 0)
	if err != nil {
		t.Fatal(err)
	}
	hits := 0
	for i, d := range docs {
		want := naiveAttack(t, a, m, d, uint64(i))
		if got[i].Hit != want.Hit || got[i].First != want.First || got[i].FirstText != want.FirstText || want.Hit != (got[i].Best >= a.Similarity) {
			t.Errorf("document %d: %+v, want %+v", i, got[i], want)
		}
		if got[i].Hit {
			hits++
		}
	}
	if hits == 0 || hits == len(docs) {
		t.Errorf("%d of %d documents are hits: the test is blind", hits, len(docs))
	}
	rest, err := a.Run(t.Context(), m, alphabet, docs[3:], 3)
	if err != nil || !reflect.DeepEqual(rest, got[3:]) {
		t.Errorf("from the fourth document on: %+v, error %v, want %+v", rest, err, got[3:])
	}
}

func TestAnAttackEndsWithItsContextAndRefusesWhatIsNone(t *testing.T) {
	m := small(t)
	a := Attack{Prefix: 4, Length: 20, Samples: 2, TopK: 8, TopP: 1, Temperature: 1, Similarity: 0.9}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Run(ctx, m, alphabet, documents(3, 24, 24), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	for _, change := range []func(*Attack){
		func(a *Attack) { a.Prefix = 0 }, func(a *Attack) { a.Length = 61 }, func(a *Attack) { a.Samples = 0 }, func(a *Attack) { a.TopK = 0 },
		func(a *Attack) { a.TopP = 0 }, func(a *Attack) { a.TopP = 1.5 }, func(a *Attack) { a.Temperature = 0 }, func(a *Attack) { a.Similarity = math.NaN() },
	} {
		b := a
		change(&b)
		if _, err := b.Run(t.Context(), m, alphabet, documents(3, 24), 0); err == nil {
			t.Errorf("%+v is an attack", b)
		}
	}
	if err := PaperAttack(1).Check(288); err != nil {
		t.Errorf("the paper's: %v", err)
	}
}

func TestASampleIsOfTheLikeliestTokensInTheirProportions(t *testing.T) {
	logits := []float32{0, 3, 1, 2, 2.5, -1} // by likelihood 1, 4, 3, 2, 0, 5
	for _, test := range []struct {
		topK int
		topP float64
		kept []int
	}{{6, 1, []int{1, 4, 3, 2, 0, 5}}, {3, 1, []int{1, 4, 3}}, {4, 0.6, []int{1, 4}}, {6, 1e-9, []int{1}}, {99, 0.999, []int{1, 4, 3, 2, 0, 5}}, {1, 1, []int{1}}} {
		s := sampler{topK: test.topK, topP: test.topP, temperature: 2, rng: rand.New(rand.NewPCG(1, 1))}
		const n = 20000
		counts := make([]float64, len(logits))
		for range n {
			counts[s.choose(logits)]++
		}
		var sum float64
		for _, i := range test.kept {
			sum += math.Exp(float64(logits[i]) / 2)
		}
		want := make([]float64, len(logits))
		for _, i := range test.kept {
			want[i] = math.Exp(float64(logits[i])/2) / sum
		}
		for i := range logits {
			if !near(counts[i]/n, want[i], 0.02) || want[i] == 0 && counts[i] > 0 {
				t.Errorf("top-k %d, top-p %v: token %d was drawn %v of the time, want %v", test.topK, test.topP, i, counts[i]/n, want[i])
			}
		}
	}
}
