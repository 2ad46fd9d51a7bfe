package model

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"chorus/kernels"
	"chorus/model/safetensors"
	"chorus/model/tokenizer"
)

// trained returns a tokenizer of 300 tokens at most.
func trained(t *testing.T) *tokenizer.Tokenizer {
	t.Helper()
	text := strings.Repeat("the river rose, the meadow knew it, and the river fell. ", 4)
	tok, err := tokenizer.Train(slices.Values([]string{text}), 300, []string{"<|endoftext|>"})
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// anchorTensors returns random tensors of an anchor that are exact in bfloat16, and expertTensors
// those of an expert.
func anchorTensors(t *testing.T, c Config) []Tensor {
	t.Helper()
	tensors, src := exactTensors(6)
	if _, err := BuildAnchor(c, src); err != nil {
		t.Fatal(err)
	}
	return *tensors
}

func expertTensors(t testing.TB, c Config) []Tensor {
	t.Helper()
	tensors, src := exactTensors(6)
	if _, err := BuildExpert(c, src); err != nil {
		t.Fatal(err)
	}
	return *tensors
}

func exactTensors(seed uint64) (*[]Tensor, Source) {
	tensors := new([]Tensor)
	return tensors, randomSource(rand.New(rand.NewPCG(5, seed)), func(name string, shape []int, v []float32) {
		for i := range v {
			v[i] = math.Float32frombits(math.Float32bits(v[i]) &^ 0xffff)
		}
		*tensors = append(*tensors, Tensor{name, shape, v})
	})
}

// openExpert and openAnchor load what comes from elsewhere.
func openExpert(path string, c Config) (*Expert, error) {
	a, err := BuildAnchor(c, func(_ string, shape ...int) ([]float32, error) { return make([]float32, size(shape)), nil })
	if err != nil {
		return nil, err
	}
	e, err := LoadExpert(path, a)
	if err == nil && e.CheckFinite() != nil {
		return nil, e.CheckFinite()
	}
	return e, err
}

func openAnchor(dir string) (*Anchor, *tokenizer.Tokenizer, error) {
	a, tok, err := LoadAnchor(dir)
	if err == nil && a.CheckFinite() != nil {
		return nil, nil, a.CheckFinite()
	}
	return a, tok, err
}

func size(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// find returns the place of a tensor.
func find(t *testing.T, tensors []Tensor, name string) *Tensor {
	t.Helper()
	for i := range tensors {
		if tensors[i].Name == name {
			return &tensors[i]
		}
	}
	t.Fatalf("no tensor %q", name)
	return nil
}

// compare wants got to give the values of every tensor that build asks for, and those to be want's.
func compare(t *testing.T, want []Tensor, build func(Source) error, got func(string) []float32) {
	t.Helper()
	n := 0
	if err := build(func(name string, shape ...int) ([]float32, error) {
		w := find(t, want, name)
		if !slices.Equal(w.Shape, shape) {
			t.Errorf("tensor %q has shape %v, want %v", name, shape, w.Shape)
		}
		sameBits(t, name, got(name), w.Values)
		n++
		return w.Values, nil
	}); err != nil {
		t.Fatal(err)
	}
	if n != len(want) {
		t.Errorf("%d tensors of %d were compared", n, len(want))
	}
}

// flat returns a function that finds the values of a loaded model's tensors by their names.
func flat(a *Anchor, e *Expert) func(string) []float32 {
	at := make(map[string][]float32)
	rows := func(m kernels.Matrix) []float32 {
		v := make([]float32, m.Out*m.In)
		for i := range m.Out {
			m.Row(v[i*m.In:], i)
		}
		return v
	}
	ffn := func(prefix string, f FFN) {
		at[prefix+"gate_proj.weight"] = rows(f.Gate.Matrix)
		at[prefix+"up_proj.weight"] = rows(f.Up.Matrix)
		at[prefix+"down_proj.weight"] = rows(f.Down.Matrix)
	}
	if a != nil {
		at["model.embed_tokens.weight"], at["lm_head.weight"] = rows(a.Embed), rows(a.Head)
		at["model.norm.weight"] = a.Norm
		for l, w := range a.Layers {
			p := fmt.Sprintf("model.layers.%d.", l)
			at[p+"self_attn.q_proj.weight"], at[p+"self_attn.k_proj.weight"] = rows(w.Q), rows(w.K)
			at[p+"self_attn.v_proj.weight"], at[p+"self_attn.o_proj.weight"] = rows(w.V), rows(w.O)
			at[p+"self_attn.q_norm.weight"], at[p+"self_attn.k_norm.weight"] = w.QNorm, w.KNorm
			at[p+"post_attention_layernorm.weight"], at[p+"post_feedforward_layernorm.weight"] = w.PostAttentionNorm, w.PostFFNNorm
			ffn(p+"mlp.experts.0.", a.Public.FFN[l])
			at[p+"mlp.gate.weight"] = a.Public.Router[l]
		}
	}
	if e != nil {
		for l := range e.FFN {
			p := fmt.Sprintf("layers.%d.", l)
			ffn(p, e.FFN[l])
			at[p+"router.weight"], at[p+"router.bias"] = e.Router[l], e.Bias[l]
		}
	}
	return func(name string) []float32 { return at[name] }
}

func TestASavedAnchorIsLoadedToTheBit(t *testing.T) {
	tok := trained(t)
	c := testConfig(tok.VocabSize()+5, 16, 12, 2, 4, 2)
	want := anchorTensors(t, c)
	dir := filepath.Join(t.TempDir(), "anchor")
	if err := SaveAnchor(dir, c, tok, want); err != nil {
		t.Fatal(err)
	}
	a, got, err := LoadAnchor(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(a.Config, c) {
		t.Errorf("the configuration is %+v, want %+v", a.Config, c)
	}
	if got.VocabSize() != tok.VocabSize() || !slices.Equal(got.Encode("the river"), tok.Encode("the river")) {
		t.Error("the tokenizer is another")
	}
	compare(t, want, func(s Source) error { _, err := BuildAnchor(c, s); return err }, flat(a, nil))

	if err := SaveAnchor(dir, c, tok, want); !errors.Is(err, fs.ErrExist) {
		t.Errorf("saving over a folder: %v", err)
	}
	second := filepath.Join(t.TempDir(), "anchor")
	if err := os.MkdirAll(filepath.Join(second+".part", "left from a crash"), 0o700); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(want)
	if err := SaveAnchor(second, c, tok, want); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{ConfigFile, TokenizerFile, WeightsFile} {
		one, err1 := os.ReadFile(filepath.Join(dir, name))
		two, err2 := os.ReadFile(filepath.Join(second, name))
		if err1 != nil || err2 != nil || !bytes.Equal(one, two) {
			t.Errorf("%s of the same anchor saved twice differs (%v, %v)", name, err1, err2)
		}
	}
	entries, err := os.ReadDir(second)
	if err != nil || len(entries) != 3 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
}

func TestAnAnchorThatCannotBeWrittenLeavesNoFolder(t *testing.T) {
	tok := trained(t)
	c := testConfig(tok.VocabSize(), 16, 12, 1, 2, 2)
	tensors := anchorTensors(t, c)
	tensors[0].Shape = []int{1}
	dir := filepath.Join(t.TempDir(), "anchor")
	if err := SaveAnchor(dir, c, tok, tensors); err == nil {
		t.Fatal("a tensor whose shape does not hold its values was saved")
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is there: %v", err)
	}
}

func TestASavedExpertIsLoadedToTheBit(t *testing.T) {
	c := testConfig(31, 16, 12, 2, 4, 2)
	want := expertTensors(t, c)
	path := filepath.Join(t.TempDir(), "expert")
	if err := SaveExpert(path, "bafyanchor", want); err != nil {
		t.Fatal(err)
	}
	e, err := openExpert(path, c)
	if err != nil {
		t.Fatal(err)
	}
	if e.Anchor != "bafyanchor" || e.Metadata[metaAnchor] != "bafyanchor" || e.Metadata[metaFormat] != formatName {
		t.Errorf("anchor %q, metadata %q", e.Anchor, e.Metadata)
	}
	compare(t, want, func(s Source) error { _, err := BuildExpert(c, s); return err }, flat(nil, e))

	slices.Reverse(want)
	if err := SaveExpert(path+"2", "bafyanchor", want); err != nil {
		t.Fatal(err)
	}
	one, err1 := os.ReadFile(path)
	two, err2 := os.ReadFile(path + "2")
	if err1 != nil || err2 != nil || !bytes.Equal(one, two) {
		t.Errorf("the same expert saved twice differs (%v, %v)", err1, err2)
	}
}

func TestSavingRoundsToTheNearestBFloat16(t *testing.T) {
	c := testConfig(31, 16, 12, 1, 2, 2)
	tensors := expertTensors(t, c)
	v := find(t, tensors, "layers.0.router.weight").Values
	v[0], v[1] = 1+0x1p-8+0x1p-20, -3e-39
	path := filepath.Join(t.TempDir(), "expert")
	if err := SaveExpert(path, "", tensors); err != nil {
		t.Fatal(err)
	}
	e, err := openExpert(path, c)
	if err != nil {
		t.Fatal(err)
	}
	got := e.Router[0]
	if got[0] != 1+0x1p-7 || math.Abs(float64(got[1])+3e-39) > 1e-40 {
		t.Errorf("loaded %v", got[:2])
	}
}

// A spoil is what can be wrong with a tensor, and what the error must say.
type spoil struct {
	name string
	do   func(t *testing.T, tensors []Tensor) []Tensor
	says string
}

// spoils are faults of the tensor vector, which has one dimension.
func spoils(vector string) []spoil {
	at := func(f func(x *Tensor)) func(*testing.T, []Tensor) []Tensor {
		return func(t *testing.T, tensors []Tensor) []Tensor {
			f(find(t, tensors, vector))
			return tensors
		}
	}
	value := func(v float32) func(*testing.T, []Tensor) []Tensor {
		return at(func(x *Tensor) { x.Values = slices.Clone(x.Values); x.Values[len(x.Values)-1] = v })
	}
	all := []spoil{
		{name: "a missing tensor", says: "is missing", do: func(t *testing.T, tensors []Tensor) []Tensor {
			return slices.DeleteFunc(tensors, func(x Tensor) bool { return x.Name == vector })
		}},
		{name: "a dimension too many", says: "has shape", do: at(func(x *Tensor) { x.Shape = []int{len(x.Values), 1} })},
		{name: "a shorter tensor", says: "has shape", do: at(func(x *Tensor) { x.Values, x.Shape = x.Values[1:], []int{len(x.Values) - 1} })},
		{name: "no number", says: "holds NaN or an infinity", do: value(float32(math.NaN()))},
		{name: "infinity", says: "holds NaN or an infinity", do: value(float32(math.Inf(1)))},
		{name: "a number too large for bfloat16", says: "holds NaN or an infinity", do: value(-math.MaxFloat32)},
	}
	for i := range all {
		all[i].says = fmt.Sprintf("tensor %q %s", vector, all[i].says)
	}
	return all
}

func TestLoadExpertRefusesWhatDoesNotFitAndNamesFileAndTensor(t *testing.T) {
	c := testConfig(31, 16, 12, 2, 4, 2)
	for _, test := range spoils("layers.1.router.weight") {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "blob")
			if err := SaveExpert(path, "bafyanchor", test.do(t, expertTensors(t, c))); err != nil {
				t.Fatal(err)
			}
			e, err := openExpert(path, c)
			refusedFor(t, e != nil, err, path, test.says)
		})
	}
	extra := func(name string) {
		path := filepath.Join(t.TempDir(), "blob")
		if err := SaveExpert(path, "", append(expertTensors(t, c), Tensor{name, []int{1}, []float32{0}})); err != nil {
			t.Fatal(err)
		}
		e, err := openExpert(path, c)
		refusedFor(t, e != nil, err, path, fmt.Sprintf("tensor %q is not expected", name))
	}
	extra("layers.2.router.bias")
	extra("model.norm.weight")
	extra("layers.00.router.bias")

	path := filepath.Join(t.TempDir(), "blob")
	if err := SaveExpert(path, "", expertTensors(t, testConfig(31, 16, 13, 2, 4, 2))); err != nil {
		t.Fatal(err)
	}
	e, err := openExpert(path, c)
	refusedFor(t, e != nil, err, path, `tensor "layers.0.gate_proj.weight" has shape [13 16], expected [12 16]`)
}

// refusedFor wants an error that wraps ErrMisfit and names the file and the reason.
func refusedFor(t *testing.T, loaded bool, err error, path, says string) {
	t.Helper()
	if !errors.Is(err, ErrMisfit) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), says) {
		t.Errorf("got error %v, want one that names %s and says %q", err, path, says)
	}
	if loaded {
		t.Error("something was returned with the error")
	}
}

func TestLoadExpertRefusesOtherFiles(t *testing.T) {
	c := testConfig(31, 16, 12, 2, 4, 2)
	path := filepath.Join(t.TempDir(), "blob")
	if err := SaveExpert(path, "bafyanchor", expertTensors(t, c)); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 8, 100, len(whole) / 2, len(whole) - 1} {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := openExpert(path, c)
		if e != nil || !errors.Is(err, safetensors.ErrMalformed) || !strings.Contains(err.Error(), path) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	if e, err := openExpert(path+"-not", c); e != nil || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for _, meta := range []map[string]string{nil, {}, {"format": "pt"}, {"format": "chorus-expert/2"}} {
		if err := safetensors.Write(path, rounded(expertTensors(t, c)), meta); err != nil {
			t.Fatal(err)
		}
		e, err := openExpert(path, c)
		if e != nil || err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), `expected "chorus-expert/1"`) {
			t.Errorf("metadata %q: %v", meta, err)
		}
	}
}

func TestLoadAnchorRefusesWhatDoesNotFitAndNamesFileAndTensor(t *testing.T) {
	tok := trained(t)
	c := testConfig(tok.VocabSize(), 16, 12, 2, 4, 2)
	good := filepath.Join(t.TempDir(), "anchor")
	if err := SaveAnchor(good, c, tok, anchorTensors(t, c)); err != nil {
		t.Fatal(err)
	}
	// with returns a folder like good, changed by f.
	with := func(t *testing.T, f func(dir string) error) string {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "anchor")
		if err := errors.Join(os.CopyFS(dir, os.DirFS(good)), f(dir)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	weights := func(t *testing.T, tensors []Tensor) string {
		return with(t, func(dir string) error {
			return safetensors.Write(filepath.Join(dir, WeightsFile), rounded(tensors), nil)
		})
	}
	for _, test := range spoils("model.layers.1.self_attn.k_norm.weight") {
		t.Run(test.name, func(t *testing.T) {
			dir := weights(t, test.do(t, anchorTensors(t, c)))
			a, _, err := openAnchor(dir)
			refusedFor(t, a != nil, err, filepath.Join(dir, WeightsFile), test.says)
		})
	}
	dir := weights(t, append(anchorTensors(t, c), Tensor{"model.layers.0.input_layernorm.weight", []int{16}, make([]float32, 16)}))
	a, _, err := LoadAnchor(dir)
	refusedFor(t, a != nil, err, dir, `tensor "model.layers.0.input_layernorm.weight" is not expected`)

	config := func(changes map[string]any) func(string) error {
		return func(dir string) error {
			base := map[string]any{"vocab_size": c.VocabSize, "hidden_size": 16, "intermediate_size": 12}
			for k, v := range changes {
				base[k] = v
			}
			return os.WriteFile(filepath.Join(dir, ConfigFile), configWith(t, base), 0o600)
		}
	}
	file := func(name string, content []byte) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), content, 0o600) }
	}
	cut := func(name string) func(string) error {
		return func(dir string) error { return os.Truncate(filepath.Join(dir, name), 1000) }
	}
	remove := func(name string) func(string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
	}
	if _, _, err := LoadAnchor(with(t, config(nil))); err != nil {
		t.Fatalf("an untouched copy: %v", err)
	}
	for _, test := range []struct {
		name, says string
		change     func(string) error
	}{
		{"another model", "model_type", config(map[string]any{"model_type": "llama"})},
		{"several experts", "mlp.gate.weight", config(map[string]any{"num_experts": 2})},
		{"a vocabulary of a petabyte", "vocab_size", config(map[string]any{"vocab_size": 1 << 50})},
		{"the most of everything", "model.embed_tokens.weight", config(map[string]any{"vocab_size": 1 << 20, "hidden_size": 1 << 16, "num_attention_heads": 1 << 15, "num_key_value_heads": 1 << 15, "num_hidden_layers": 512})},
		{"more layers than weights", `"model.layers.2.self_attn.q_proj.weight" is missing`, config(map[string]any{"num_hidden_layers": 512})},
		{"fewer layers than weights", `is not expected`, config(map[string]any{"num_hidden_layers": 1})},
		{"a tokenizer larger than the vocabulary", "embedding only", func(dir string) error {
			small := c
			small.VocabSize--
			return errors.Join(config(map[string]any{"vocab_size": small.VocabSize})(dir),
				safetensors.Write(filepath.Join(dir, WeightsFile), rounded(anchorTensors(t, small)), nil))
		}},
		{"a config of 2 MiB", "expected at most", file(ConfigFile, bytes.Repeat([]byte{' '}, 2<<20))},
		{"a config that is none", ConfigFile, file(ConfigFile, []byte("flex_olmo"))},
		{"a tokenizer that is none", TokenizerFile, file(TokenizerFile, []byte("{}"))},
		{"cut weights", WeightsFile, cut(WeightsFile)},
		{"no config", ConfigFile, remove(ConfigFile)},
		{"no tokenizer", TokenizerFile, remove(TokenizerFile)},
		{"no weights", WeightsFile, remove(WeightsFile)},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := with(t, test.change)
			a, tok, err := LoadAnchor(dir)
			if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got error %v, want one that names %s and says %q", err, dir, test.says)
			}
			if a != nil || tok != nil {
				t.Error("something was returned with the error")
			}
		})
	}
}
