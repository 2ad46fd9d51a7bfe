package eval

import (
	"bytes"
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chorus/kernels"
	"chorus/model"
	"chorus/model/safetensors"
)

// checkpoints is where small checkpoints and their recordings are.
const checkpoints = "../testdata"

func TestCheckpointsComputeWhatTransformersRecorded(t *testing.T) {
	recordings, err := filepath.Glob(filepath.Join(checkpoints, "*", RecordingFile))
	if err != nil || len(recordings) != 7 {
		t.Fatalf("%d recordings, %v", len(recordings), err)
	}
	for _, path := range recordings {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			r, err := Fidelity(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Err(); err != nil {
				t.Error(err)
			}
			f := r.Float32
			if rows := r.Sequences * r.Length; f.Rows != rows || rows < 32 || f.Choices != 0 || r.Greedy < 2*64 {
				t.Errorf("compared %d rows of %d and %d tokens; %d choices differ", f.Rows, rows, r.Greedy, f.Choices)
			}
			config, err := os.ReadFile(filepath.Join(dir, model.ConfigFile))
			if err != nil {
				t.Fatal(err)
			}
			if rounded := bytes.Contains(config, []byte(`"dtype": "bfloat16"`)); rounded != (r.BFloat16 != nil) {
				t.Error("there is a computation in bfloat16 without such weights, or weights without it")
			}
			if b := r.BFloat16; b != nil && (b.Rows < 16 || b.Logits.RMS < 10*Float32Bound) {
				t.Errorf("of the computation in bfloat16 %d rows were compared, and they are %v off", b.Rows, b.Logits)
			}
		})
	}
}

// copyOf copies a checkpoint with its recording to a folder that a test may change.
func copyOf(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(checkpoints, name))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// reconfigure sets a key of a folder's configuration.
func reconfigure(t *testing.T, dir, key string, value any) {
	t.Helper()
	path := filepath.Join(dir, model.ConfigFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	if old, ok := c[key]; !ok || old == value {
		t.Fatalf("%s is %v already", key, old)
	}
	c[key] = value
	if b, err = json.Marshal(c); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// rewrite writes a safetensors file anew after change, which may replace and delete tensors.
func rewrite(t *testing.T, path string, change func(map[string]safetensors.Tensor)) {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := make(map[string]safetensors.Tensor)
	for _, name := range f.Names() {
		tensor, _ := f.Tensor(name)
		tensor.Data = slices.Clone(tensor.Data)
		all[name] = tensor
	}
	change(all)
	if err := safetensors.Write(path, slices.Collect(maps.Values(all)), f.Metadata()); err != nil {
		t.Fatal(err)
	}
}

// alter returns a change to the values of one tensor.
func alter(name string, change func(v []float32)) func(map[string]safetensors.Tensor) {
	return func(all map[string]safetensors.Tensor) {
		old := all[name]
		v := old.Float32s()
		change(v)
		all[name] = safetensors.FromFloat32(name, old.DType, old.Shape, v)
	}
}

func double(v []float32) {
	for i := range v {
		v[i] *= 2
	}
}

// faultOf is what is wrong with a folder, "" if nothing is.
func faultOf(t *testing.T, dir string) string {
	t.Helper()
	r, err := Fidelity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		return err.Error()
	}
	return ""
}

func TestAFaultNamesTheFirstPlaceThatDiffers(t *testing.T) {
	for _, test := range []struct{ tensor, place string }{
		{"model.embed_tokens.weight", "the embedding is"},
		{"model.layers.0.self_attn.q_norm.weight", "layer 0's router is"},
		{"model.layers.0.post_attention_layernorm.weight", "layer 0's router is"},
		{"model.layers.0.mlp.gate.weight", "layer 0's router is"},
		{"model.layers.0.mlp.experts.1.up_proj.weight", "layer 0 is"},
		{"model.layers.0.post_feedforward_layernorm.weight", "layer 0 is"},
		{"model.layers.1.self_attn.k_norm.weight", "layer 1's router is"},
		{"model.layers.1.mlp.experts.2.down_proj.weight", "layer 1 is"},
		{"model.norm.weight", "the final norm or the head is"},
		{"lm_head.weight", "the final norm or the head is"},
	} {
		dir := copyOf(t, "plain")
		rewrite(t, filepath.Join(dir, model.WeightsFile), alter(test.tensor, double))
		if got := faultOf(t, dir); !strings.HasPrefix(got, test.place) {
			t.Errorf("%s doubled: %q, want %q", test.tensor, got, test.place)
		}
	}
	for _, test := range []struct {
		checkpoint, key string
		value           any
		place           string
	}{
		{"normalised", "norm_topk_prob", false, "layer 0 is"},
		{"plain", "norm_topk_prob", true, "layer 0 is"},
		{"normalised", "rope_theta", 500000.0, "layer 0's router is"},
		{"dense", "rms_norm_eps", 1e-5, "layer 0 is"},
	} {
		dir := copyOf(t, test.checkpoint)
		reconfigure(t, dir, test.key, test.value)
		if got := faultOf(t, dir); !strings.HasPrefix(got, test.place) {
			t.Errorf("%s with %s %v: %q, want %q", test.checkpoint, test.key, test.value, got, test.place)
		}
	}
}

func TestAnotherRecordedResultIsAFault(t *testing.T) {
	swap := func(v []float32) { v[0], v[1] = v[1], v[0] }
	another := func(v []float32) {
		chosen := slices.Clone(v[:4])
		for slices.Contains(chosen, v[0]) {
			v[0] = float32(int(v[0]+1) % 7)
		}
	}
	for _, test := range []struct {
		name, tensor string
		change       func(v []float32)
		place        string
	}{
		{"another slot", "chosen", another, "the choice of layer 0's router is"},
		{"another order of slots", "chosen", swap, ""},
		{"another token", "greedy", func(v []float32) { v[64+63]++ }, "the greedy continuation differs: prompt 1, token 63:"},
		{"a logit that is no number", "logits", func(v []float32) { v[5] = float32(math.NaN()) }, "the final norm or the head is"},
		{"double the logits", "bfloat16.logits", double, "against bfloat16: the final norm or the head is"},
		{"an embedding nearly the same", "bfloat16.hidden", func(v []float32) { v[0] *= 1 + 1.0/64 }, "against bfloat16: the embedding is"},
	} {
		dir := copyOf(t, "wide")
		rewrite(t, filepath.Join(dir, RecordingFile), alter(test.tensor, test.change))
		if got := faultOf(t, dir); !strings.HasPrefix(got, test.place) || test.place == "" && got != "" {
			t.Errorf("%s: %q, want %q", test.name, got, test.place)
		}
	}
}

func TestRoundingExcusesACloseChoiceAlone(t *testing.T) {
	const slots, k, rows, length = 5, 2, 32, 16
	before, err := Fidelity(filepath.Join(checkpoints, "normalised"))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		better  func(gap, than float64) bool
		excused bool
	}{
		{"the closest", func(gap, than float64) bool { return gap < than }, true},
		{"the clearest", func(gap, than float64) bool { return gap > than }, false},
	} {
		dir := copyOf(t, "normalised")
		at := -1 // a row of layer 0 whose last slot changes places with the next
		rewrite(t, filepath.Join(dir, RecordingFile), func(all map[string]safetensors.Tensor) {
			p := all["router"].Float32s()
			var found float64
			var chosen []float32
			for r := length; r < rows; r++ { // the second sequence, of which all rows are compared
				order := make([]int32, slots)
				kernels.TopK(order, p[r*slots:][:slots], slots)
				gap := math.Log(float64(p[r*slots+int(order[k-1])] / p[r*slots+int(order[k])]))
				if at < 0 || test.better(gap, found) {
					at, found, chosen = r, gap, nil
					for _, s := range append(order[:k-1:k-1], order[k]) {
						chosen = append(chosen, float32(s))
					}
				}
			}
			alter("bfloat16.chosen", func(v []float32) { copy(v[at*k:], chosen) })(all)
		})
		r, err := Fidelity(dir)
		if err != nil {
			t.Fatal(err)
		}
		b, choices, compared := r.BFloat16, before.BFloat16.Choices+1, before.BFloat16.Rows-(rows-at)
		if b.Choices != choices || b.Rows != compared {
			t.Errorf("%s choice, at row %d: %d choices differ and %d rows were compared, want %d and %d", test.name, at, b.Choices, b.Rows, choices, compared)
		}
		if err := r.Err(); (err == nil) != test.excused || err != nil && !strings.HasPrefix(err.Error(), "against bfloat16: the choice of layer 0's router is") {
			t.Errorf("%s choice: %v", test.name, err)
		}
	}
}

func TestARecordingThatDoesNotFitIsRefused(t *testing.T) {
	set := func(i int, value float32) func([]float32) { return func(v []float32) { v[i] = value } }
	reshape := func(name string, shape ...int) func(map[string]safetensors.Tensor) {
		return func(all map[string]safetensors.Tensor) {
			n := 1
			for _, d := range shape {
				n *= d
			}
			all[name] = safetensors.FromFloat32(name, safetensors.F32, shape, make([]float32, n))
		}
	}
	for _, test := range []struct {
		change func(map[string]safetensors.Tensor)
		says   string
	}{
		{func(all map[string]safetensors.Tensor) { delete(all, "ids") }, `"ids"`},
		{func(all map[string]safetensors.Tensor) { delete(all, "hidden") }, `"hidden" is missing`},
		{func(all map[string]safetensors.Tensor) { delete(all, "router") }, `"router" is missing`},
		{func(all map[string]safetensors.Tensor) { delete(all, "chosen") }, `"chosen" is missing`},
		{alter("ids", set(3, 64)), `"ids" holds 64, expected integers from 0 to 63`},
		{alter("ids", set(3, -1)), `"ids" holds -1`},
		{alter("prompts", set(3, 0.5)), `"prompts" holds 0.5`},
		{alter("greedy", set(3, float32(math.NaN()))), `"greedy" holds NaN`},
		{alter("chosen", set(3, 3)), `"chosen" holds 3, expected integers from 0 to 2`},
		{reshape("ids", 32), `"ids" of shape [32]`},
		{reshape("ids", 0, 16), `"ids" of shape [0 16]`},
		{reshape("ids", 2, 2049), "at most 2048 positions"},
		{reshape("greedy", 3, 64), "2 prompts of 8 with 3 continuations of 64"},
		{reshape("greedy", 2, 2041), "at most 2048 positions"},
		{reshape("logits", 2, 16, 63), `"logits" has shape [2 16 63], expected [2 16 64]`},
		{reshape("hidden", 2, 2, 16, 32), `"hidden" has shape [2 2 16 32], expected [3 2 16 32]`},
		{reshape("chosen", 2, 2, 16, 3), `"chosen" has shape [2 2 16 3], expected [2 2 16 2]`},
	} {
		dir := copyOf(t, "plain")
		path := filepath.Join(dir, RecordingFile)
		rewrite(t, path, test.change)
		if r, err := Fidelity(dir); err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v, error %v, want one that names the file and says %s", r, err, test.says)
		}
	}
	if _, err := Fidelity(t.TempDir()); err == nil {
		t.Error("an empty folder is a checkpoint")
	}
}

// FuzzCompare holds that no recording, however it is made, does more harm than an error or a fault.
func FuzzCompare(f *testing.F) {
	k, err := model.OpenCheckpoint(filepath.Join(checkpoints, "one"))
	if err != nil {
		f.Fatal(err)
	}
	m, err := k.Mixture()
	if err != nil {
		f.Fatal(err)
	}
	seed, err := os.ReadFile(filepath.Join(checkpoints, "one", RecordingFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:len(seed)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), RecordingFile)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Compare(m, path)
		if (r == nil) == (err == nil) {
			t.Errorf("a report %v with error %v", r, err)
		}
	})
}
