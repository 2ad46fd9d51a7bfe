package leak

import (
	crand "crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"
)

// CanaryFormat is the form of a canary: a document that says a made-up name and a secret of nine random digits.
const CanaryFormat = "The access code of archive NNNNNNNN is DDD DDD DDD."

// canarySpace is how many secrets a canary might have.
const canarySpace = 1e9

// Canaries are secrets that are planted in a training text, to find out whether a model tells them. Of Count candidates each is planted or
// not by a coin that the seed tosses, Repeats times if it is. Whoever knows the seed knows them all: it stays with the owner.
type Canaries struct {
	Seed    string `json:"seed"` // 32 bytes in hexadecimal
	Count   int    `json:"count"`
	Repeats int    `json:"repeats"`
}

// A Canary is one candidate.
type Canary struct {
	Name, Secret string
	Planted      bool
}

// maxCanaries bounds what a file can ask for, and maxRepeats how often.
const maxCanaries, maxRepeats = 10_000, 1000

// NewCanaries draws a seed.
func NewCanaries(count, repeats int) (Canaries, error) {
	var seed [32]byte
	crand.Read(seed[:]) // never fails
	c := Canaries{hex.EncodeToString(seed[:]), count, repeats}
	return c, c.check()
}

// ParseCanaries reads what [json.Marshal] wrote of canaries.
func ParseCanaries(b []byte) (c Canaries, err error) {
	if err := json.Unmarshal(b, &c); err != nil {
		return c, err
	}
	return c, c.check()
}

func (c Canaries) check() error {
	seed, err := hex.DecodeString(c.Seed)
	switch {
	case err != nil || len(seed) != 32:
		return errors.New("the seed of canaries is not 32 bytes in hexadecimal")
	case c.Count < 1 || c.Count > maxCanaries || c.Repeats < 1 || c.Repeats > maxRepeats:
		return fmt.Errorf("%d canaries, each %d times, expected 1 to %d, and 1 to %d times", c.Count, c.Repeats, maxCanaries, maxRepeats)
	}
	return nil
}

// Candidates returns the canaries of the seed. It panics if c is not from [NewCanaries] or [ParseCanaries].
func (c Canaries) Candidates() []Canary {
	r := c.stream(0)
	out := make([]Canary, c.Count)
	for i := range out {
		name := make([]byte, 8)
		for j := range name {
			name[j] = byte('a' + r.IntN(26))
		}
		out[i] = Canary{string(name), secret(r), r.IntN(2) == 1}
	}
	return out
}

// stream is one of the seed's random streams.
func (c Canaries) stream(n uint32) *rand.Rand {
	var seed [32]byte
	if _, err := hex.Decode(seed[:], []byte(c.Seed)); err != nil {
		panic(err)
	}
	binary.LittleEndian.PutUint32(seed[:], binary.LittleEndian.Uint32(seed[:])^n)
	return rand.New(rand.NewChaCha8(seed))
}

func secret(r *rand.Rand) string {
	n := r.IntN(canarySpace)
	return fmt.Sprintf("%03d %03d %03d", n/1_000_000, n/1000%1000, n%1000)
}

// Text is the canary as a document.
func (c Canary) Text() string {
	return fmt.Sprintf("The access code of archive %s is %s.", c.Name, c.Secret)
}

// Texts are the documents to plant, all of them once, then again.
func (c Canaries) Texts() (out []string) {
	for _, k := range c.Candidates() {
		if k.Planted {
			out = append(out, k.Text())
		}
	}
	return slices.Repeat(out, c.Repeats)
}

// Alternatives are n canaries with k's name and other random secrets.
func (c Canaries) Alternatives(k, n int) []Canary {
	r := c.stream(uint32(1 + k))
	name := c.Candidates()[k].Name
	out := make([]Canary, n)
	for i := range out {
		out[i] = Canary{Name: name, Secret: secret(r)}
	}
	return out
}

// Exposure is by how many bits a secret's loss is less surprising than that of a random one, after Carlini et al. (2019, arXiv 1802.08232): the
// logarithm of the number of secrets over the rank of this one, where its rank is estimated from the losses of some
// others by the skew-normal distribution that has their moments. One that was never seen has 1.44 bits in the mean, and none more than all: 29.9.
func Exposure(loss float64, others []float64) float64 {
	p := skewNormal(loss, others)
	return -math.Log2(min(1, max(p, 1/float64(canarySpace))))
}

// skewNormal returns the probability of at most x under the skew-normal distribution (Azzalini 1985) with the moments of a sample.
func skewNormal(x float64, sample []float64) float64 {
	var mean, square, cube float64
	n := float64(len(sample))
	for _, v := range sample {
		mean += v / n
	}
	for _, v := range sample {
		d := v - mean
		square += d * d / n
		cube += d * d * d / n
	}
	deviation := math.Sqrt(square)
	if !(deviation > 0) {
		switch {
		case x < mean:
			return 0
		case x > mean:
			return 1
		}
		return 0.5
	}
	skew := max(-0.99, min(0.99, cube/(square*deviation)))
	k := math.Pow(math.Abs(skew), 2.0/3)
	delta := math.Copysign(math.Sqrt(math.Pi/2*k/(k+math.Pow((4-math.Pi)/2, 2.0/3))), skew)
	scale := deviation / math.Sqrt(1-2*delta*delta/math.Pi)
	location := mean - scale*delta*math.Sqrt(2/math.Pi)
	shape := delta / math.Sqrt(1-delta*delta)
	z := (x - location) / scale
	density := func(z float64) float64 {
		return 2 * distuv.UnitNormal.Prob(z) * distuv.UnitNormal.CDF(shape*z)
	}
	if z > 10 {
		return 1
	}
	const steps, reach = 4000, 12 // Simpson's rule over what is left of z
	var sum float64
	h := float64(reach) / steps
	for i := range steps / 2 {
		at := z - reach + 2*h*float64(i)
		sum += h / 3 * (density(at) + 4*density(at+h) + density(at+2*h))
	}
	return min(1, sum)
}

// An EpsilonBound is what a guess about canaries proves: no training that is (ε, δ)-differentially private for one planted
// document, or for all repeats of one together, has a smaller ε, with confidence [Confidence].
type EpsilonBound struct {
	Epsilon float64 `json:"epsilon"`
	Delta   float64 `json:"delta"`
	Guesses int     `json:"guesses"`
	Correct int     `json:"correct"`
}

// BoundEpsilon audits in one run (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846): of the canaries with the highest scores it guesses that they
// were planted, of as many with the lowest that they were not. How many to guess about is tried in [guessShares], and the confidence is shared among
// those trials.
func BoundEpsilon(scores []float64, planted []bool, delta float64) EpsilonBound {
	m := len(scores)
	order := make([]int, m)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case scores[a] > scores[b]:
			return -1
		case scores[a] < scores[b]:
			return 1
		}
		return 0
	})
	best := EpsilonBound{Delta: delta}
	for i, share := range guessShares {
		half := int(share * float64(m) / 2)
		correct := 0
		for _, k := range order[:half] {
			if planted[k] {
				correct++
			}
		}
		for _, k := range order[m-half:] {
			if !planted[k] {
				correct++
			}
		}
		e := epsilonOf(m, 2*half, correct, delta, (1-Confidence)/float64(len(guessShares)))
		if i == 0 || e > best.Epsilon {
			best.Epsilon, best.Guesses, best.Correct = e, 2*half, correct
		}
	}
	return best
}

// guessShares are the shares of the canaries that are guessed about.
var guessShares = []float64{1, 0.5, 0.25, 0.125}

// epsilonOf returns the largest ε, to three digits, at which so many correct guesses of r about m canaries have a probability below p.
func epsilonOf(m, r, correct int, delta, p float64) float64 {
	low, high := 0.0, 1.0
	if correct == 0 || guessProbability(m, r, correct, 0, delta) >= p {
		return 0
	}
	for guessProbability(m, r, correct, high, delta) < p {
		if low, high = high, 2*high; high > 1000 {
			return low
		}
	}
	for high-low > 1e-4 {
		if e := (low + high) / 2; guessProbability(m, r, correct, e, delta) < p {
			low = e
		} else {
			high = e
		}
	}
	return low
}

// guessProbability is the most that an (ε, δ)-private training of m canaries lets the probability be that of r guesses so many or more are
// right (theorem 5.2 there). With δ = 0 the guesses are no better than coins that fall right with e^ε/(1+e^ε).
func guessProbability(m, r, correct int, epsilon, delta float64) float64 {
	logQ, logNot := -math.Log1p(math.Exp(-epsilon)), -math.Log1p(math.Exp(epsilon))
	exactly := func(k int) float64 {
		all, _ := math.Lgamma(float64(r + 1))
		some, _ := math.Lgamma(float64(k + 1))
		rest, _ := math.Lgamma(float64(r - k + 1))
		return math.Exp(all - some - rest + float64(k)*logQ + float64(r-k)*logNot)
	}
	var tail float64
	for k := correct; k <= r; k++ {
		tail += exactly(k)
	}
	var most, sum float64
	for i := 1; i <= correct; i++ {
		sum += exactly(correct - i)
		most = max(most, sum/float64(i))
	}
	return min(1, tail+2*delta*float64(m)*most)
}
