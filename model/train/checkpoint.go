package train

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"

	"chorus/model/safetensors"
)

// A checkpoint is a safetensors file in float32: for each trained tensor its weights and the two
// moments of the optimiser, with text to choose by the best weights too, and in its metadata the step, the fingerprint of the run, and how
// it went.
const (
	metaFingerprint = "fingerprint"
	metaStep        = "step"
	metaState       = "state"
)

// parts are what a checkpoint has of each tensor.
func (r *run) parts() []string {
	parts := []string{"w.", "m.", "v."}
	if r.valid != nil {
		parts = append(parts, "best.")
	}
	return parts
}

// key is p's name in a checkpoint. Names in slots above 0 are alike.
func (p *parameter) key() string {
	if p.slot == 0 {
		return p.name
	}
	return fmt.Sprintf("%d:%s", p.slot, p.name)
}

func (p *parameter) part(prefix string) *[]float32 {
	switch prefix {
	case "w.":
		return &p.w
	case "m.":
		return &p.m
	case "v.":
		return &p.v
	}
	return &p.best
}

// save writes a checkpoint in place of the one before.
func (r *run) save(path, fingerprint string) error {
	var tensors []safetensors.Tensor
	for _, p := range r.params {
		for _, prefix := range r.parts() {
			tensors = append(tensors, safetensors.FromFloat32(prefix+p.key(), safetensors.F32, p.shape, *p.part(prefix)))
		}
	}
	state, err := json.Marshal(r.state)
	if err != nil {
		return err
	}
	return safetensors.Write(path, tensors, map[string]string{
		metaFingerprint: fingerprint,
		metaStep:        strconv.Itoa(r.step),
		metaState:       string(state),
	})
}

// resume takes up the checkpoint at path, if there is one and it is of the same run; a checkpoint
// of another run is left to be overwritten.
func (r *run) resume(path, fingerprint string) error {
	f, err := safetensors.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%w: remove the file to begin again", err)
	}
	defer f.Close()
	meta := f.Metadata()
	if meta[metaFingerprint] != fingerprint && r.private != nil {
		return fmt.Errorf("%s: %w: it is of other text or another plan: remove the file to begin again", path, ErrVoid)
	} else if meta[metaFingerprint] != fingerprint {
		return nil
	}
	for _, p := range r.params {
		for _, prefix := range r.parts() {
			t, ok := f.Tensor(prefix + p.key())
			if !ok || !slices.Equal(t.Shape, p.shape) {
				return fmt.Errorf("%s: tensor %q is missing or has another shape: remove the file to begin again", path, prefix+p.key())
			}
			copy(*p.part(prefix), t.Float32s())
		}
	}
	if r.step, err = strconv.Atoi(meta[metaStep]); err != nil || r.step < 0 || r.step > r.recipe.Steps {
		return fmt.Errorf("%s: step %q, expected 0 to %d: remove the file to begin again", path, meta[metaStep], r.recipe.Steps)
	}
	err = json.Unmarshal([]byte(meta[metaState]), &r.state)
	if err == nil {
		err = r.state.check(r.step)
	}
	if err != nil {
		return fmt.Errorf("%s: how the run went: %w: remove the file to begin again", path, err)
	}
	return nil
}

// fingerprint identifies a run by everything that its result depends on.
func fingerprint(texts []*Tokens, values ...any) string {
	h := sha256.New()
	fmt.Fprintln(h, "windows by permutation")
	for _, t := range texts {
		fmt.Fprintf(h, "%d tokens %s ", t.Len(), t.digest())
	}
	fmt.Fprintf(h, "%+v", values)
	return hex.EncodeToString(h.Sum(nil))
}
