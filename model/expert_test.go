package model

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chorus/model/safetensors"
)

// FuzzLoadExpert holds that a blob, which another member may have made of anything, is refused by name, or has an expert's tensors and no
// other, and a mixture with it computes.
func FuzzLoadExpert(f *testing.F) {
	c := testConfig(5, 4, 3, 1, 2, 1)
	path := filepath.Join(f.TempDir(), "blob")
	for _, tensors := range [][]Tensor{expertTensors(f, c), lowRankTensors(f, c, 2), append(lowRankTensors(f, c, 1), Tensor{"layers.1.router.bias", []int{1}, []float32{0}})} {
		for _, dtype := range []safetensors.DType{safetensors.BF16, safetensors.F32} {
			var stored []safetensors.Tensor
			for _, t := range tensors {
				stored = append(stored, safetensors.FromFloat32(t.Name, dtype, t.Shape, t.Values))
			}
			if err := safetensors.Write(path, stored, expertMetadata("bafyanchor")); err != nil {
				f.Fatal(err)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	a, err := BuildAnchor(c, func(_ string, shape ...int) ([]float32, error) { return make([]float32, size(shape)), nil })
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := errors.Join(os.Remove(path), os.WriteFile(path, b, 0o600)); err != nil { // a new file: the one before may be mapped
			t.Fatal(err)
		}
		e, err := LoadExpert(path, a)
		if err == nil {
			defer e.Close()
			err = e.CheckFinite()
		}
		if err != nil {
			unlike := bytes.Contains(b, []byte(formatName)) && !errors.Is(err, ErrMisfit) && !errors.Is(err, safetensors.ErrMalformed)
			if !strings.Contains(err.Error(), path) || unlike && !strings.Contains(err.Error(), metaFormat) {
				t.Errorf("refused with %v", err)
			}
			return
		}
		file, err := safetensors.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		names := make(map[string]bool)
		for x := range file.Tensors() {
			names[x.Name] = true
		}
		want := []string{"layers.0.router.weight", "layers.0.router.bias"}
		for _, m := range projections {
			if whole := "layers.0." + m; names[whole+".weight"] {
				want = append(want, whole+".weight")
			} else {
				want = append(want, whole+"_a.weight", whole+"_b.weight")
			}
		}
		if len(names) != len(want) || slices.ContainsFunc(want, func(name string) bool { return !names[name] }) {
			t.Errorf("%v is read as an expert", names)
		}
		var p Pass
		NewMixture(a, e).Forward(&p, []int32{1, 2, 3}, 1, 3)
		if len(p.Logits) != 3*c.VocabSize {
			t.Errorf("%d logits", len(p.Logits))
		}
	})
}
