package eval

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"chorus/model"

	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/stat/distuv"
)

// MostExact is the largest number of experts whose Banzhaf values are computed from all subsets; those of more are sampled.
const MostExact = 12

// A Valuation says what each expert of a mixture is worth on one text. The value of a set of experts is by how many bits per byte the
// anchor needs less with them. Masking an expert is leaving its slot out, and takes no training.
type Valuation struct {
	Anchor, Mixture float64 // bits per byte
	AnchorShare     float64 // of the router's weight that goes to the public slot
	Experts         []Worth // in the order of the job's
	Subsets         int     // how many were evaluated
	Sampled         bool    // the Banzhaf values are estimates
}

// A Worth is what one expert is worth, by three measures that answer different questions. Nothing adds or averages them.
type Worth struct {
	// RouterShare is how much of the router's weight the expert has in the whole mixture, in the mean over tokens and layers: how much it is
	// used. The shares of all experts and the anchor's add up to 1. A router may use what does not help.
	RouterShare float64

	// LeaveOneOut is how many bits per byte the whole mixture loses without the expert. Of two that know the same, neither is missed.
	LeaveOneOut float64

	// Banzhaf is how many bits per byte the expert saves in the mean over all sets of the others, each as likely
	// (Banzhaf 1965; for data, Wang and Jia 2023, arXiv 2205.15466): what it brings whoever else stays. These do not add up to the value of all.
	Banzhaf Estimate
}

// An Estimate is a number with its interval of 95 % confidence, which is the number alone if it is exact.
type Estimate struct{ Value, Low, High float64 }

// A ValueJob is the valuation of experts on a text.
type ValueJob struct {
	Anchor  *model.Anchor
	Experts []*model.Expert
	IDs     []int32
	Bytes   int64 // of text
	Length  int   // of a window, in tokens; see [BitsPerByte]

	// Of more than [MostExact] experts, Pairs pairs of a random subset and its complement are evaluated, drawn from Seed.
	Pairs int
	Seed  uint64

	// Known returns the bits per byte of a subset if they were measured before, and Measured is told of each that was measured now. A subset is
	// a string of a '1' for each expert in it and a '0' for each other. Either may be nil.
	Known    func(subset string) (bits float64, ok bool)
	Measured func(subset string, bits float64, done, total int)
}

// A subset says of each player whether it takes part.
type subset []bool

func (s subset) String() string {
	b := make([]byte, len(s))
	for i, in := range s {
		b[i] = '0'
		if in {
			b[i] = '1'
		}
	}
	return string(b)
}

// subsetOf is the subset with the players that mask has bits of.
func subsetOf(mask, n int) subset {
	s := make(subset, n)
	for i := range s {
		s[i] = mask>>i&1 == 1
	}
	return s
}

// without is all of n players but one.
func without(i, n int) subset {
	s := subsetOf(-1, n)
	s[i] = false
	return s
}

// Value evaluates subsets of the experts, all of them if there are few. The same job gives the same numbers.
func Value(ctx context.Context, j ValueJob) (*Valuation, error) {
	n := len(j.Experts)
	if n == 0 {
		return nil, errors.New("there is no expert to value")
	}
	v := &Valuation{Experts: make([]Worth, n), Sampled: n > MostExact}
	var pairs []subset
	if v.Sampled {
		if j.Pairs <= n+1 {
			return nil, fmt.Errorf("%d pairs of subsets, expected more than %d for %d experts", j.Pairs, n+1, n)
		}
		pairs = drawPairs(j.Pairs, n, j.Seed)
	}
	bits, err := j.measure(ctx, v, pairs)
	if err != nil {
		return nil, err
	}
	if err := j.share(ctx, v); err != nil {
		return nil, err
	}
	value := func(s subset) float64 { return v.Anchor - bits[s.String()] }
	all := value(subsetOf(-1, n))
	for i := range n {
		v.Experts[i].LeaveOneOut = all - value(without(i, n))
	}
	var banzhaf []Estimate
	if v.Sampled {
		if banzhaf, err = sampledBanzhaf(pairs, value); err != nil {
			return nil, err
		}
	} else {
		banzhaf = exactBanzhaf(n, value)
	}
	for i := range n {
		v.Experts[i].Banzhaf = banzhaf[i]
	}
	return v, nil
}

// measure returns the bits per byte of every subset that is needed, and notes in v those of the anchor and of all.
func (j ValueJob) measure(ctx context.Context, v *Valuation, pairs []subset) (map[string]float64, error) {
	n := len(j.Experts)
	needed := []subset{subsetOf(-1, n), subsetOf(0, n)}
	if v.Sampled {
		for i := range n {
			needed = append(needed, without(i, n))
		}
		for _, s := range pairs {
			needed = append(needed, s, complement(s))
		}
	} else {
		for mask := range 1 << n {
			needed = append(needed, subsetOf(mask, n))
		}
	}
	total := 0
	seen := make(map[string]bool)
	for _, s := range needed {
		if key := s.String(); !seen[key] {
			seen[key], needed[total] = true, s
			total++
		}
	}
	bits := make(map[string]float64, total)
	for done, s := range needed[:total] {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		key := s.String()
		if j.Known != nil {
			if b, ok := j.Known(key); ok {
				bits[key] = b
				continue
			}
		}
		b, err := BitsPerByte(ctx, j.mixture(s), j.IDs, j.Bytes, j.Length)
		if err != nil {
			return nil, err
		}
		if bits[key] = b; j.Measured != nil {
			j.Measured(key, b, done+1, total)
		}
	}
	v.Subsets, v.Anchor, v.Mixture = total, bits[subsetOf(0, n).String()], bits[subsetOf(-1, n).String()]
	return bits, nil
}

// mixture is the anchor with the experts of a subset.
func (j ValueJob) mixture(s subset) *model.Mixture {
	var experts []*model.Expert
	for i, in := range s {
		if in {
			experts = append(experts, j.Experts[i])
		}
	}
	return model.NewMixture(j.Anchor, experts...)
}

// share notes the router's shares in the whole mixture, over the windows that [BitsPerByte] predicts.
func (j ValueJob) share(ctx context.Context, v *Valuation) error {
	m := j.mixture(subsetOf(-1, len(j.Experts)))
	shares := make([]float64, len(m.Slots))
	windows, per := (len(j.IDs)-1)/j.Length, max(1, batchTokens/j.Length)
	var p model.Pass
	for w := 0; w < windows; w += per {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n := min(per, windows-w)
		m.ForwardToHead(&p, j.IDs[w*j.Length:][:n*j.Length], n, j.Length)
		for l := range p.Layers {
			for i, weight := range p.Layers[l].P {
				shares[i%len(shares)] += float64(weight)
			}
		}
	}
	total := float64(windows * j.Length * len(p.Layers))
	v.AnchorShare = shares[0] / total
	for i := range v.Experts {
		v.Experts[i].RouterShare = shares[1+i] / total
	}
	return nil
}

func complement(s subset) subset {
	c := make(subset, len(s))
	for i, in := range s {
		c[i] = !in
	}
	return c
}

// exactBanzhaf is the definition: the mean over all sets of the others of what a player adds.
func exactBanzhaf(n int, value func(subset) float64) []Estimate {
	out := make([]Estimate, n)
	for mask := range 1 << n {
		v := value(subsetOf(mask, n)) / float64(int(1)<<(n-1))
		for i := range out {
			if mask>>i&1 == 1 {
				out[i].Value += v
			} else {
				out[i].Value -= v
			}
		}
	}
	for i := range out {
		out[i].Low, out[i].High = out[i].Value, out[i].Value
	}
	return out
}

// drawPairs draws one subset of each pair; the other is its complement.
func drawPairs(pairs, n int, seed uint64) []subset {
	r := rand.New(rand.NewPCG(seed, 0))
	out := make([]subset, pairs)
	for p := range out {
		out[p] = make(subset, n)
		for i := range out[p] {
			out[p][i] = r.Uint64()>>63 == 1
		}
	}
	return out
}

// sampledBanzhaf estimates Banzhaf values by regression: they are the coefficients of the linear function that is nearest to the
// game over all subsets (Hammer and Holzman 1992). A subset with its complement takes every even part of the
// game out, as in Kernel Banzhaf (Liu et al. 2024, arXiv 2410.08336): v(S) − v(Sᶜ) = Σ ±βᵢ and odd parts from the third order on.
// Errors are robust to how those spread (HC3, MacKinnon and White 1985), with Student's t for the interval.
func sampledBanzhaf(pairs []subset, value func(subset) float64) ([]Estimate, error) {
	n, rows := len(pairs[0]), len(pairs)
	x, y := mat.NewDense(rows, n, nil), mat.NewVecDense(rows, nil)
	for r, s := range pairs {
		y.SetVec(r, value(s)-value(complement(s)))
		for i, in := range s {
			x.Set(r, i, -1)
			if in {
				x.Set(r, i, 1)
			}
		}
	}
	var gram, inverse, hat, spread mat.Dense
	gram.Mul(x.T(), x)
	if err := inverse.Inverse(&gram); err != nil {
		return nil, fmt.Errorf("%d pairs of subsets do not tell %d experts apart: use more, or another seed", rows, n)
	}
	var beta, fitted mat.VecDense
	beta.MulVec(x.T(), y)
	beta.MulVec(&inverse, mat.VecDenseCopyOf(&beta))
	fitted.MulVec(x, &beta)
	hat.Mul(x, &inverse) // (rows, n)
	weighted := mat.DenseCopyOf(&hat)
	for r := range rows {
		leverage := mat.Dot(hat.RowView(r), x.RowView(r))
		e := (y.AtVec(r) - fitted.AtVec(r)) / (1 - leverage)
		for i := range n {
			weighted.Set(r, i, hat.At(r, i)*e)
		}
	}
	spread.Mul(weighted.T(), weighted)
	t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: float64(rows - n)}.Quantile(0.975)
	out := make([]Estimate, n)
	for i := range out {
		half := t * math.Sqrt(spread.At(i, i))
		out[i] = Estimate{beta.AtVec(i), beta.AtVec(i) - half, beta.AtVec(i) + half}
	}
	return out, nil
}
