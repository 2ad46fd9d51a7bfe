package train

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"chorus/kernels"
	"chorus/model"
)

// Vocabulary is how many tokens the tokenizer of a small model has.
const Vocabulary = 1024

// AnchorConfig is a small model for a vocabulary of vocab tokens whose end-of-text token is eos:
// one that two cores train in a minute.
func AnchorConfig(vocab, eos int) model.Config {
	c := model.Config{
		VocabSize: vocab, HiddenSize: 96, IntermediateSize: 256, Layers: 3, Heads: 3, KVHeads: 3,
		MaxPositions: 1024, RMSNormEps: 1e-6, Experts: 1, TopK: 1, EOS: model.TokenIDs{eos},
	}
	c.Rope.Theta, c.Rope.Type = 10000, "default"
	return c
}

// AnchorRecipe is a recipe for the anchor of [AnchorConfig].
func AnchorRecipe(seed uint64) Recipe {
	return Recipe{
		Steps: 2000, WarmUp: 50, Sequences: 8, Length: 64, LR: 5e-3,
		Beta1: 0.9, Beta2: 0.95, WeightDecay: 0.1, Clip: 1, ZLoss: 1e-5, Topic: 0.3, Seed: seed, Mixed: kernels.Mixed(), Patience: 3,
	}
}

// An AnchorJob is the training of an anchor.
type AnchorJob struct {
	Config     model.Config
	Text       *Tokens // public
	Valid      *Tokens // of the same kind, in memory, to choose the best weights by; nil for those of the last step
	Recipe     Recipe
	Memory     int64          // as in [Job]
	Checkpoint string         // file for interrupted runs
	Report     func(Progress) // called after every step; may be nil
	History    *History       // receives how it went; may be nil
}

// Anchor trains an anchor and returns its tensors for [model.SaveAnchor]. If ctx ends first, it
// leaves a checkpoint from which the same job goes on, and returns ctx's error. The caller removes
// the checkpoint once it has saved the result.
func Anchor(ctx context.Context, j AnchorJob) ([]model.Tensor, error) {
	if j.Text.Len() == 0 {
		return nil, fmt.Errorf("%w to train an anchor on", ErrNoText)
	}
	rng := rand.New(rand.NewPCG(j.Recipe.Seed, initStream))
	var routers []model.Tensor
	anchor, err := model.BuildAnchor(j.Config, func(name string, shape ...int) ([]float32, error) {
		w := make([]float32, size(shape))
		if isRouter(name) { // one slot needs no router; it stays zero
			routers = append(routers, model.Tensor{Name: name, Shape: shape, Values: w})
		} else {
			initialise(w, name, shape, rng)
		}
		return w, nil
	})
	if err != nil {
		return nil, err
	}
	out, err := Job{
		Anchor: anchor, Trained: func(_ int, name string) bool { return !isRouter(name) }, Texts: []Share{{Text: j.Text, Sequences: j.Recipe.Sequences}},
		Valid: j.Valid, Key: j.Config, Recipe: j.Recipe, Memory: j.Memory, Checkpoint: j.Checkpoint, Report: j.Report, History: j.History,
	}.Run(ctx)
	if err != nil {
		return nil, err
	}
	return append(out.Trained[0], routers...), nil
}

// isRouter reports whether a tensor of an anchor is its router's.
func isRouter(name string) bool { return strings.HasSuffix(name, "mlp.gate.weight") }

// initStream is the random stream of initial weights; batches use others.
const initStream = 1 << 63

// initialise draws a tensor's first values: norms are 1, embeddings have standard deviation ½ so
// that the residual stream and the layers' normalised outputs begin within a small factor of each
// other, and a matrix over n inputs has 1/√n.
func initialise(w []float32, name string, shape []int, rng *rand.Rand) {
	if len(shape) == 1 {
		for i := range w {
			w[i] = 1
		}
		return
	}
	deviation := 1 / math.Sqrt(float64(shape[1]))
	if name == embedding {
		deviation = 0.5
	}
	for i := range w {
		w[i] = float32(rng.NormFloat64() * deviation)
	}
}

const embedding = "model.embed_tokens.weight"

func newParameter(slot int, name string, shape []int) *parameter {
	n := size(shape)
	buf := make([]float32, 4*n)
	return &parameter{
		slot: slot, name: name, shape: shape, decay: len(shape) > 1 && name != embedding && !isRouter(name), router: strings.Contains(name, ".router."),
		w: buf[:n:n], g: buf[n : 2*n : 2*n], m: buf[2*n : 3*n : 3*n], v: buf[3*n:],
	}
}

func size(shape []int) int {
	n := 1
	for _, s := range shape {
		n *= s
	}
	return n
}

// run resumes, trains to the end, leaves a last checkpoint, and then takes the best weights.
func (r *run) run(ctx context.Context, checkpoint, fingerprint string, report func(Progress)) error {
	if r.valid != nil {
		for _, p := range r.params {
			p.best = make([]float32, len(p.w))
		}
		if err := check(r.mixture, r.valid.IDs); err != nil {
			return err
		}
	}
	if err := r.resume(checkpoint, fingerprint); err != nil {
		return err
	}
	if err := r.train(ctx, func() error { return r.save(checkpoint, fingerprint) }, report); err != nil {
		return err
	}
	if r.valid == nil {
		r.state.Best = r.step
	}
	for _, p := range r.params {
		copy(p.w, p.best)
	}
	return nil
}
