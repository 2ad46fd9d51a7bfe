package train

import (
	"context"
	"fmt"
	"math"

	"chorus/kernels"
)

// A History is how a run went, over all its sessions.
type History struct {
	Steps   int     `json:"steps"`     // that were taken
	Best    int     `json:"best_step"` // after which the weights were those that came out
	Stopped bool    `json:"stopped_early"`
	Seconds float64 `json:"seconds"`
	Curve   []Point `json:"curve"`
}

// A Point of a curve is after some step.
type Point struct {
	Step        int     `json:"step"`
	Loss        float64 `json:"loss,omitempty"`                // nats per token: the mean of the steps since the point before
	BitsPerByte float64 `json:"bits_per_byte,omitempty"`       // the same; 0 where the length of the texts is not known
	Valid       float64 `json:"valid_bits_per_byte,omitempty"` // of the text to choose by; 0 where it was not measured
}

// A state is what a checkpoint keeps beside tensors.
type state struct {
	History
	Sum       float64 `json:"sum"`   // of the losses of steps since the last point
	Count     int     `json:"count"` // of those steps
	Evaluated int     `json:"evaluated"`
	Measured  int     `json:"measured"` // the step after which Last was
	Last      float64 `json:"last"`
	Least     float64 `json:"least"`
	Waited    int     `json:"waited"` // measurements since Least
}

// check refuses what no run says after step.
func (s *state) check(step int) error {
	if s.Steps != step || min(s.Best, s.Measured, s.Count, s.Evaluated, s.Waited) < 0 || max(s.Best, s.Measured, s.Count, s.Waited) > step {
		return fmt.Errorf("%d steps, best %d, measured %d, %d in a point, %d waited, at step %d", s.Steps, s.Best, s.Measured, s.Count, s.Waited, step)
	}
	last := -1
	for _, p := range s.Curve {
		if p.Step <= last || p.Step > step {
			return fmt.Errorf("its curve goes from step %d to %d at step %d", last, p.Step, step)
		}
		last = p.Step
	}
	return nil
}

// curvePoints is about how many points a curve has.
const curvePoints = 200

// note takes the loss of a step into the curve.
func (r *run) note(loss float64) {
	r.state.Steps = r.step
	r.state.Sum += loss
	r.state.Count++
	if r.state.Count >= max(1, r.recipe.Steps/curvePoints) || r.step == r.recipe.Steps {
		r.point()
	}
}

// point ends the curve with a point for this step, and returns it.
func (r *run) point() *Point {
	s := &r.state
	if n := len(s.Curve); n == 0 || s.Curve[n-1].Step < r.step {
		s.Curve = append(s.Curve, Point{Step: r.step})
	}
	p := &s.Curve[len(s.Curve)-1]
	if s.Count > 0 {
		p.Loss = s.Sum / float64(s.Count)
		p.BitsPerByte = r.bitsPerByte(p.Loss)
		s.Sum, s.Count = 0, 0
	}
	return p
}

// done reports whether no step is left to take and none remains to be measured.
func (r *run) done() bool {
	return r.state.Stopped || r.step == r.recipe.Steps && (r.valid == nil || r.state.Evaluated > 0 && r.state.Measured == r.step)
}

// evaluate measures the weights on the text to choose by, if there is one and it is time to, keeps them if they are the best so far, and
// decides whether to stop.
func (r *run) evaluate(ctx context.Context) error {
	s, every := &r.state, r.recipe.Evaluate
	if every == 0 {
		every = max(1, r.recipe.Steps/10)
	}
	if r.valid == nil || r.step%every != 0 && r.step != r.recipe.Steps || s.Evaluated > 0 && s.Measured == r.step {
		return nil
	}
	if r.step == r.recipe.Steps { // an end that comes with the last step comes too late
		ctx = context.WithoutCancel(ctx)
	}
	loss, err := r.validLoss(ctx)
	if err != nil {
		return err
	}
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return fmt.Errorf("the loss on text to choose by became %v at step %d: use a lower learning rate than %v", loss, r.step, r.recipe.LR)
	}
	s.Last = r.valid.bitsPerByte(loss)
	r.point().Valid = s.Last
	if s.Evaluated == 0 || loss < s.Least {
		s.Least, s.Best, s.Waited = loss, r.step, 0
		for _, p := range r.params {
			copy(p.best, p.w)
		}
	} else {
		s.Waited++
	}
	s.Evaluated++
	s.Measured = r.step
	s.Stopped = r.recipe.Patience > 0 && s.Waited >= r.recipe.Patience && r.step < r.recipe.Steps
	return nil
}

// validLoss is the mean loss, in nats per token, on the text to choose by, in windows like those that are trained on.
func (r *run) validLoss(ctx context.Context) (float64, error) {
	ids, vocab := r.valid.IDs, r.mixture.Anchor.Config.VocabSize
	length := min(r.recipe.Length, len(ids)-1)
	windows := (len(ids) - 1) / length
	const logits = 1 << 22 // at a time
	var buf, logp []float32
	var nats float64
	for w := 0; w < windows; w += r.recipe.micro() {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		n := min(r.recipe.micro(), windows-w)
		at := w * length
		r.working.ForwardToHead(&r.pass, ids[at:at+n*length], n, length)
		some, h := max(1, logits/vocab), r.mixture.Anchor.Config.HiddenSize
		for row := 0; row < n*length; row += some {
			m := min(some, n*length-row)
			kernels.Linear(grow(&buf, m*vocab), r.pass.Final[row*h:], r.working.Anchor.Head, m)
			kernels.LogProb(grow(&logp, m), buf, ids[at+row+1:], vocab, m)
			for _, v := range logp {
				nats -= float64(v)
			}
		}
	}
	return nats / float64(windows*length), nil
}
