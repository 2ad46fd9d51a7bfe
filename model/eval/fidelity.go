package eval

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"

	"chorus/model"
)

// Off is how far values, (rows, n), are from those that they should be.
type Off struct {
	Worst float64 // the largest difference in a row, relative to the row's largest magnitude; of the worst row
	RMS   float64 // the root mean square of all differences, relative to that of all values
}

// A Comparison says how far a mixture is from a recording, for the rows that can be compared.
type Comparison struct {
	Logits, Bound Off
	Hidden        []Off     // (layers+1) the input of each layer, then the last one's output
	Router        []float64 // (layers) probabilities, as Off.Worst; none for a dense model
	Choices       int       // how often, over rows and layers, the router chose other slots
	Rows          int       // rows that were compared to the end
	Fault         *Fault    // the first place, in the order of the computation, that is out of bounds; nil if none is
}

// A Fault is a place where a mixture does not compute what was recorded.
type Fault struct {
	Place      string // such as "layer 3's router"
	Off, Bound float64
}

func (f *Fault) Error() string {
	return fmt.Sprintf("%s is %.3g off, more than %.3g", f.Place, f.Off, f.Bound)
}

// A Report is what [Fidelity] found.
type Report struct {
	Sequences, Length int
	Float32           Comparison
	BFloat16          *Comparison // nil unless the recording has it
	Greedy            int         // tokens in all continuations
	Diverges          string      // where a greedy continuation first differs; "" if none does
}

// Err returns nil if everything is within its bound, and else what is not: the layer, the router, the token.
func (r *Report) Err() error {
	switch {
	case r.Float32.Fault != nil:
		return r.Float32.Fault
	case r.Diverges != "":
		return fmt.Errorf("the greedy continuation differs: %s", r.Diverges)
	case r.BFloat16 != nil && r.BFloat16.Fault != nil:
		return fmt.Errorf("against bfloat16: %w", r.BFloat16.Fault)
	}
	return nil
}

// Fidelity opens the Hugging Face folder dir and compares what it computes with its recording, [RecordingFile]:
// what another implementation computed with the same folder.
//
// It is an error if either cannot be read or they do not fit together. That numbers differ is none: see [Report.Err].
func Fidelity(dir string) (*Report, error) {
	c, err := model.OpenCheckpoint(dir)
	if err != nil {
		return nil, err
	}
	m, err := c.Mixture()
	if err != nil {
		return nil, err
	}
	return Compare(m, filepath.Join(dir, RecordingFile))
}

// Compare compares what m computes with the recording at path: all positions at once and, for the greedy
// continuations, token after token.
func Compare(m *model.Mixture, path string) (*Report, error) {
	rec, err := readRecording(path, m)
	if err != nil {
		return nil, err
	}
	var p model.Pass
	m.Forward(&p, rec.ids, rec.sequences, rec.length)
	r := &Report{Sequences: rec.sequences, Length: rec.length}
	r.Float32 = compare(m, &p, &rec.float32, false)
	if rec.bfloat16 != nil {
		b := compare(m, &p, rec.bfloat16, true)
		r.BFloat16 = &b
	}
	for _, g := range rec.greedy {
		r.Greedy += len(g)
	}
	if r.Diverges, err = continues(m, rec); err != nil {
		return nil, err
	}
	return r, nil
}

// Float32Bound is by how much two orders of the sums in float32 may differ. The sums of a model have up to some
// thousand terms, each rounded to 24 bits, and a hundred of them follow one another.
const Float32Bound = 2e-5

// bfloat16Bound is by how much float32 and bfloat16 may differ where n roundings to bfloat16 follow one another.
//
// It has 8 significant bits: a rounding is at most 2⁻⁸ of the value off, and 0.42·2⁻⁸ in the root mean square
// (over values spread evenly in their logarithm). Roundings are independent, so together they are √n times as
// far off, which leaves a factor of 2.4 for operations that pass errors on enlarged: exp, the sum of experts that
// almost cancel, a norm of what is left. At single values these meet, and those of n roundings may all fall the same way.
func bfloat16Bound(n int) Off {
	const unit = 1.0 / 256
	return Off{Worst: float64(n) * unit, RMS: math.Sqrt(float64(n)) * unit}
}

// The roundings along the longest path through a layer and from the last layer to the logits, where every
// operation stores its result in bfloat16: projection, norm, rope, score, its scaling, attention's weight, value,
// projection, norm, residual; gate, silu, product with up, down, weight, then a sum over k slots, norm,
// residual; and the final norm and the head.
const (
	layerRoundings = 17 // and k
	finalRoundings = 2
)

// compare holds p against want, which was computed in float32, or with every result rounded to bfloat16.
//
// Where it was rounded, a router may have chosen another slot if the two slots' logits are so close that rounding
// could turn them. What follows from such a choice is another computation: that row is not compared any further,
// nor are the later rows of its sequence, which attend to it. In float32 every choice must be the same.
func compare(m *model.Mixture, p *model.Pass, want *computed, rounded bool) Comparison {
	e, k, layers, rows := len(m.Slots), m.TopK, len(p.Layers), p.Sequences*p.Length
	var c Comparison
	hold := func(off, bound float64, place string, args ...any) {
		if !(off <= bound) && c.Fault == nil {
			c.Fault = &Fault{fmt.Sprintf(place, args...), off, bound}
		}
	}
	holdBoth := func(off, bound Off, place string, args ...any) {
		hold(off.Worst, bound.Worst, place, args...)
		hold(off.RMS, bound.RMS, place+", in the root mean square,", args...)
	}
	bound := func(layers, more int) Off {
		if rounded {
			return bfloat16Bound(layers*(layerRoundings+k) + more)
		}
		return Off{Float32Bound, Float32Bound}
	}
	settled := slices.Repeat([]bool{true}, rows)
	hidden := func(l int, x []float32) {
		off := distance(x, want.hidden[l*len(x):], settled)
		c.Hidden = append(c.Hidden, off)
		if l == 0 {
			holdBoth(off, bound(0, 0), "the embedding")
		} else {
			holdBoth(off, bound(l, 0), "layer %d", l-1)
		}
	}
	for l := range layers {
		t := &p.Layers[l]
		hidden(l, t.X)
		if want.router == nil {
			continue
		}
		// A logit that is off by d makes a probability wrong by 2d of itself at the most, by its own error and that
		// of the softmax's sum; and two logits have come closer by 2d at the most.
		turn := 2 * bound(l+1, 0).RMS * largestLogit(t, e)
		c.Router = append(c.Router, distance(t.P, want.router[l*len(t.P):], settled).Worst)
		hold(c.Router[l], turn, "layer %d's router", l)
		for r := range rows {
			gap, differs := turned(t.P[r*e:][:e], t.Chosen[r*k:][:k], want.chosen[(l*rows+r)*k:][:k])
			if !settled[r] || !differs {
				continue
			}
			c.Choices++
			if !rounded {
				gap = math.Inf(1)
			}
			hold(gap, turn, "the choice of layer %d's router", l)
			for s := r; s < (r/p.Length+1)*p.Length; s++ {
				settled[s] = false
			}
		}
	}
	hidden(layers, p.Last)
	c.Logits, c.Bound = distance(p.Logits, want.logits, settled), bound(layers, finalRoundings)
	holdBoth(c.Logits, c.Bound, "the final norm or the head")
	for _, ok := range settled {
		if ok {
			c.Rows++
		}
	}
	return c
}

// distance returns how far got is from want, (rows, n) both, in the rows that count.
func distance(got, want []float32, count []bool) Off {
	n := len(got) / len(count)
	var off Off
	var squares, all float64
	for r, ok := range count {
		if !ok {
			continue
		}
		var most, largest float64
		for i, v := range want[r*n : (r+1)*n] {
			d := float64(got[r*n+i]) - float64(v)
			squares += d * d
			all += float64(v) * float64(v)
			most = max(most, math.Abs(d))
			largest = max(largest, math.Abs(float64(v)))
		}
		if most != 0 {
			off.Worst = max(off.Worst, most/largest)
		}
	}
	if squares != 0 {
		off.RMS = math.Sqrt(squares / all)
	}
	return off
}

// largestLogit returns the largest magnitude of the logits of a layer's router over e slots.
func largestLogit(t *model.LayerPass, e int) float64 {
	var most float64
	for i, p := range t.P {
		if p > 0 { // else the logit is too small to tell
			most = max(most, math.Abs(math.Log(float64(p))+float64(t.PLSE[i/e])))
		}
	}
	return most
}

// turned says whether two choices of slots differ, and by how much the logits of those that got alone names are
// above those of want's, at the most.
func turned(p []float32, got, want []int32) (gap float64, differs bool) {
	most, least := 0.0, 1.0
	for _, s := range got {
		if !slices.Contains(want, s) {
			most, differs = max(most, float64(p[s])), true
		}
	}
	for _, s := range want {
		if !slices.Contains(got, s) {
			least, differs = min(least, float64(p[s])), true
		}
	}
	return math.Log(most / least), differs
}

// continues extends each prompt greedily, and says where that first differs from the recording.
func continues(m *model.Mixture, rec *recording) (string, error) {
	var pick model.Sampler
	for i, prompt := range rec.prompts {
		s := m.NewSequence()
		next := prompt
		for j, want := range rec.greedy[i] {
			logits, err := s.Extend(next)
			if err != nil {
				return "", err
			}
			got := pick.Sample(logits)
			if got != want {
				return fmt.Sprintf("prompt %d, token %d: %d, expected %d", i, j, got, want), nil
			}
			next = []int32{got}
		}
	}
	return "", nil
}
