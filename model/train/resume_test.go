package train

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"chorus/model/safetensors"
)

// FuzzResume holds that a checkpoint which says anything of how a run went is refused by name or continued, and then says what can be.
func FuzzResume(f *testing.F) {
	c := smallConfig()
	c.HiddenSize, c.IntermediateSize, c.Layers = 4, 4, 1
	fresh := func(t testing.TB) *run {
		r := newRun(t, c, smallRecipe(4), walkText(5, 3, 200), ramp)
		r.valid = walkText(5, 3, 200)
		for _, p := range r.params {
			p.best = make([]float32, len(p.w))
		}
		return r
	}
	path := filepath.Join(f.TempDir(), "checkpoint")
	r := fresh(f)
	for r.step = range r.recipe.Steps {
		if err := r.evaluate(f.Context()); err != nil {
			f.Fatal(err)
		}
		r.state.Steps = r.step
		b, err := json.Marshal(r.state)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(strconv.Itoa(r.step), string(b))
		r.step++
		r.note(3)
		r.step--
	}
	f.Add("4", `{"curve":[{"step":3},{"step":3}]}`)
	f.Add("4", `{"steps":4,"best_step":-1}`)
	f.Add("+2", `null`)
	if err := r.save(path, "run"); err != nil {
		f.Fatal(err)
	}
	file, err := safetensors.Open(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { file.Close() })
	var tensors []safetensors.Tensor
	for t := range file.Tensors() {
		tensors = append(tensors, t)
	}
	path += "-again"
	f.Fuzz(func(t *testing.T, step, state string) {
		if safetensors.Write(path, tensors, map[string]string{metaFingerprint: "run", metaStep: step, metaState: state}) != nil {
			return // no text
		}
		r, again := fresh(t), fresh(t)
		if err := r.resume(path, "run"); err != nil {
			if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove the file to begin again") {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if err := r.save(path, "run"); err != nil {
			t.Fatal(err)
		}
		if err := again.resume(path, "run"); err != nil || again.step != r.step || !reflect.DeepEqual(again.state, r.state) {
			t.Errorf("step %d, %+v is saved, and continued from as step %d, %+v, %v", r.step, r.state, again.step, again.state, err)
		}
		if r.step < r.recipe.Steps {
			r.step++
			r.note(3)
		}
		h := r.state.History
		if h.Steps != r.step || h.Best < 0 || h.Best > h.Steps {
			t.Errorf("step %d: %+v", r.step, h)
		}
		last := -1
		for _, p := range h.Curve {
			if p.Step <= last || p.Step > h.Steps {
				t.Errorf("step %d: the curve goes from %d to %d", r.step, last, p.Step)
			}
			last = p.Step
		}
	})
}
