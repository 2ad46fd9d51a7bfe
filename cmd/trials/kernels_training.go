package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"chorus/model"
	"chorus/model/train"
)

//go:embed kernels.py
var kernelsPeer string

// A trainedShape is a model to train and the batch of a step.
type trainedShape struct {
	name string
	mixtureShape
	sequences, length int
}

var (
	small = trainedShape{"10M", mixtureShape{hidden: 256, intermediate: 704, layers: 6, heads: 4, vocabulary: 8192}, 8, 128}
	big   = trainedShape{"100M", mixtureShape{hidden: 768, intermediate: 2048, layers: 8, heads: 12, vocabulary: 16384}, 4, 256}
)

// errMeasured ends a run of training of which enough was seen.
var errMeasured = errors.New("measured")

// measureTraining returns what measures the training of one shape.
func (r *kernelsRun) measureTraining(s trainedShape) func() error {
	return func() error {
		fmt.Printf("\nA step of training at about %s, %d×%d tokens, ms\n", s.name, s.sequences, s.length)
		line("", "ours", "PyTorch", "ratio (least..most)", "load, disturbed")
		for _, mixed := range []bool{false, true} {
			for _, slots := range []int{1, 2} {
				for _, cores := range r.cores() {
					if err := r.train(s, mixed, slots, cores); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
}

// A twin is the same step in PyTorch.
type twin struct {
	name    string
	claimed bool
	step    contender
}

// twins prepares the twins of a step, in float32 or by autocast to bfloat16; none without Python.
func (r *kernelsRun) twins(s trainedShape, mixed bool, slots, cores int) (twins []twin, err error) {
	if r.torch == nil {
		return nil, nil
	}
	for _, t := range []struct {
		name    string
		compile bool
	}{{"eager", false}, {"compiled", true}} {
		if t.compile && !r.compile {
			continue
		}
		var parameters int
		err := r.torch.ask([]any{"prepare", s.hidden, s.intermediate, s.layers, s.heads, s.vocabulary, slots, s.sequences, s.length, mixed, t.compile, cores, t.name}, &parameters)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		twins = append(twins, twin{t.name, !t.compile, r.ask("step", t.name)})
	}
	return twins, nil
}

// train measures steps of a model: of an anchor, all of which is trained and which has one slot, or of an expert in a second
// slot beside a frozen one. A round's first step does not count: a checkpoint may have been written before it.
func (r *kernelsRun) train(s trainedShape, mixed bool, slots, cores int) error {
	twins, err := r.twins(s, mixed, slots, cores)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "chorus-trial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, stop := context.WithCancelCause(r.ctx)
	defer stop(nil)
	runtime.GOMAXPROCS(cores)
	ours, theirs := []float64{}, make([][]float64, len(twins))
	var began time.Time
	job := trainingJob{s, mixed, filepath.Join(dir, "checkpoint"), 2*r.rounds + 1, func(p train.Progress) {
		if p.Step%2 == 0 {
			ours = append(ours, time.Since(began).Seconds())
			for i, t := range twins {
				r.settle()
				seconds, err := t.step()
				if err != nil {
					stop(err)
				}
				theirs[i] = append(theirs[i], seconds)
			}
		}
		if len(ours) == r.rounds {
			stop(errMeasured)
		}
		r.settle()
		began = time.Now()
	}}
	if err := job.run(ctx, slots); err != nil && context.Cause(ctx) != errMeasured {
		return errors.Join(err, context.Cause(ctx))
	}
	name := fmt.Sprintf("%s %s, %s on %d", s.name, map[int]string{1: "anchor", 2: "expert"}[slots], map[bool]string{false: "f32", true: "bf16"}[mixed], cores)
	took, disturbance := fmt.Sprintf("%.0f", 1e3*median(ours)), r.disturbance()
	if len(twins) == 0 {
		line(name, took, "", "", disturbance)
	}
	for i, t := range twins {
		q, name := over(theirs[i], ours), name+", "+t.name
		line(name, took, fmt.Sprintf("%.0f", 1e3*median(theirs[i])), q.String(), disturbance)
		if t.claimed {
			r.claim(trainingClaim, q, "a step of %s", name)
		}
	}
	return nil
}

// A trainingJob is some steps of training on noise.
type trainingJob struct {
	trainedShape
	mixed      bool
	checkpoint string
	steps      int
	report     func(train.Progress)
}

func (j trainingJob) run(ctx context.Context, slots int) error {
	rng := rand.New(rand.NewPCG(3, 3))
	text := &train.Tokens{IDs: make([]int32, 64*j.sequences*j.length)}
	for i := range text.IDs {
		text.IDs[i] = int32(rng.IntN(j.vocabulary))
	}
	recipe := train.AnchorRecipe(1)
	if slots > 1 {
		recipe = train.ExpertRecipe(1)
		recipe.PublicSequences = j.sequences / 2
	}
	recipe.Steps, recipe.WarmUp, recipe.Sequences, recipe.Length, recipe.LR = j.steps, 1, j.sequences, j.length, 1e-4
	recipe.Mixed = j.mixed
	if slots == 1 {
		_, err := train.Anchor(ctx, train.AnchorJob{Config: j.config(), Text: text, Recipe: recipe, Checkpoint: j.checkpoint, Report: j.report})
		return err
	}
	anchor, err := model.BuildAnchor(j.config(), func(_ string, shape ...int) ([]float32, error) {
		v := normal(rng, elements(shape), 0.02)
		if len(shape) == 1 {
			for i := range v {
				v[i] = 1
			}
		}
		return v, nil
	})
	if err != nil {
		return err
	}
	_, err = train.Expert(ctx, train.ExpertJob{
		Anchor: anchor, AnchorCID: "noise", Text: text, Public: text, Recipe: recipe, Checkpoint: j.checkpoint, Report: j.report,
	})
	return err
}
