package model

import (
	"math"
	"path/filepath"
	"testing"

	"chorus/model/safetensors"
)

// The folders of testdata are checkpoints with what transformers computed with them. Package eval compares the rest.
func TestForwardAgreesWithTransformers(t *testing.T) {
	const tolerance = 2e-5 // of the largest logit: both sides compute in float32, in another order
	folders, err := filepath.Glob("testdata/*/recording.safetensors")
	if err != nil || len(folders) != 7 {
		t.Fatalf("%d recordings, %v", len(folders), err)
	}
	for _, path := range folders {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			k, err := OpenCheckpoint(dir)
			if err != nil {
				t.Fatal(err)
			}
			m, err := k.Mixture()
			if err != nil {
				t.Fatal(err)
			}
			f, err := safetensors.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			recorded, ok := f.Tensor("ids")
			logits, also := f.Tensor("logits")
			if !ok || !also {
				t.Fatal("the recording lacks ids or logits")
			}
			var ids []int32
			for _, v := range recorded.Float32s() {
				ids = append(ids, int32(v))
			}
			var p Pass
			m.Forward(&p, ids, recorded.Shape[0], recorded.Shape[1])
			want := logits.Float32s()
			if len(want) != len(p.Logits) {
				t.Fatalf("%d logits, the recording has %d", len(p.Logits), len(want))
			}
			var most, largest float64
			for i, v := range want {
				most = max(most, math.Abs(float64(v-p.Logits[i])))
				largest = max(largest, math.Abs(float64(v)))
			}
			if !(most/largest < tolerance) {
				t.Errorf("logits are %.3g of the largest off, more than %g", most/largest, tolerance)
			}
		})
	}
}
