package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"chorus/model"
	"chorus/model/safetensors"
	"chorus/model/train"
)

// A training is one that was done, now or before.
type training struct {
	key     string // what determines it
	mixture *model.Mixture
	flops   float64
	seconds float64
}

// anchor is its slot 0, as a model of its own.
func (t *training) anchor() *model.Anchor { return t.mixture.Anchor }

// expert is its slot 1.
func (t *training) expert() *model.Expert { return &model.Expert{Slot: *t.mixture.Slots[1]} }

// forwardFLOPs is what a token costs in the forward pass of a mixture in which it takes so many slots: two operations for each weight, and for each
// feature of each position before it in its window, of which there are half a window in the mean, two in each of attention's two products.
func (s paperScale) forwardFLOPs(slots int) float64 {
	c := s.config(0, 0)
	return 2*float64(s.attentionWeights()+slots*s.ffnWeights()+s.vocab*s.hidden) + float64(c.Layers*4*c.QWidth()*s.length/2)
}

func (s paperScale) attentionWeights() int { return 4 * s.layers * s.hidden * s.hidden }
func (s paperScale) ffnWeights() int       { return s.layers * s.hidden * (3*s.intermediate + 1) } // with the router's row

// stepFLOPs is what a step costs: forward, as much for the gradients of inputs, and two operations for each weight whose gradient is made.
func (s paperScale) stepFLOPs(slots, sequences int, trained int) float64 {
	return float64(sequences*s.length) * (2*s.forwardFLOPs(slots) + 2*float64(trained))
}

// everything is how many weights are trained where all slots, attention and the head are.
func (s paperScale) everything(slots int) int {
	return s.attentionWeights() + slots*s.ffnWeights() + s.vocab*s.hidden
}

// train runs a job, or loads what it left before. parents are the keys of what its first values come from, but for
// router rows and biases; trained is how many weights it trains.
func (p *paper) train(name string, j train.Job, trained int, parents ...string) (*training, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%s %+v %+v %q", name, j.Recipe, j.Anchor.Config, parents)
	sequences := 0
	for _, t := range j.Texts {
		fmt.Fprintf(h, " %s×%d", p.data.digests[t.Text], t.Sequences)
		sequences += t.Sequences
	}
	for _, e := range j.Experts {
		fmt.Fprint(h, e.Router, e.Bias)
	}
	t := &training{key: fmt.Sprintf("%x", h.Sum(nil)[:8])}
	sequences += j.Recipe.SplicedSequences
	t.flops = float64(j.Recipe.Steps) * p.scale.stepFLOPs(1+len(j.Experts), sequences, trained)
	if j.Recipe.Topic > 0 { // a second head
		t.flops += float64(j.Recipe.Steps*sequences*p.scale.length) * 6 * float64(p.scale.vocab*p.scale.hidden)
	}
	path := filepath.Join(p.dir, "runs", fmt.Sprintf("%s-%s.safetensors", name, t.key))
	if err := t.load(path, j); err == nil {
		p.progress.skip(t.flops)
		return t, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	j.Key, j.Checkpoint = t.key, path+".checkpoint"
	if before, err := os.ReadFile(path + ".seconds"); err == nil {
		t.seconds, _ = strconv.ParseFloat(string(before), 64)
	}
	began := time.Now()
	j.Report = p.progress.training(name, t.flops)
	out, err := j.Run(p.ctx)
	t.seconds += time.Since(began).Seconds()
	if err != nil {
		if errors.Is(err, context.Canceled) {
			err = errors.Join(err, os.WriteFile(path+".seconds", []byte(fmt.Sprint(t.seconds)), 0o600))
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var all []safetensors.Tensor
	for slot, tensors := range out.Trained {
		for _, v := range tensors {
			all = append(all, safetensors.FromFloat32(slotted(slot, v.Name), safetensors.F32, v.Shape, v.Values))
		}
	}
	if err := safetensors.Write(path, all, map[string]string{"seconds": fmt.Sprint(t.seconds)}); err != nil {
		return nil, err
	}
	_ = os.Remove(path + ".seconds")
	if err := os.Remove(j.Checkpoint); err != nil {
		return nil, err
	}
	return t, t.load(path, j)
}

func slotted(slot int, name string) string { return fmt.Sprintf("%d:%s", slot, name) }

// load makes the mixture of a job from what it trained, which is in the file at path, and from what it did not.
func (t *training) load(path string, j train.Job) error {
	f, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	t.seconds, _ = strconv.ParseFloat(f.Metadata()["seconds"], 64)
	source := func(slot int, of model.Tensors) model.Source {
		return func(name string, shape ...int) ([]float32, error) {
			if v, ok := f.Tensor(slotted(slot, name)); ok {
				return v.Float32s(), nil
			}
			return of.Source(name, shape...)
		}
	}
	anchor, err := model.BuildAnchor(j.Anchor.Config, source(0, j.Anchor.Tensors()))
	if err != nil {
		return err
	}
	var experts []*model.Expert
	for i, e := range j.Experts {
		if e, err = model.BuildExpert(anchor.Config, source(i+1, e.Tensors())); err != nil {
			return err
		}
		experts = append(experts, e)
	}
	t.mixture = model.NewMixture(anchor, experts...)
	return nil
}

func isRouter(name string) bool {
	return strings.HasSuffix(name, "mlp.gate.weight") || strings.HasSuffix(name, "router.weight")
}
func isBias(name string) bool      { return strings.HasSuffix(name, "router.bias") }
func isPublicFFN(name string) bool { return strings.Contains(name, ".mlp.experts.0.") }
