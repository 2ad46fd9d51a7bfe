package main

import (
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chorus/model"
	"chorus/model/safetensors"
	"chorus/model/tokenizer"
	"chorus/model/train"
)

// modelFolder writes a small model in shards, as transformers does.
func modelFolder(t *testing.T) string {
	t.Helper()
	tok, err := tokenizer.Train(slices.Values([]string{"the river rose, the meadow knew it"}), 280, []string{endOfText})
	if err != nil {
		t.Fatal(err)
	}
	c := train.AnchorConfig(tok.VocabSize(), 0)
	var tensors []model.Tensor
	_, err = model.BuildAnchor(c, func(name string, shape ...int) ([]float32, error) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = 1
		}
		tensors = append(tensors, model.Tensor{Name: name, Shape: shape, Values: v})
		return v, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := model.SaveAnchor(filepath.Join(dir, "anchor"), c, tok, tensors); err != nil {
		t.Fatal(err)
	}
	a, _, err := model.LoadAnchor(filepath.Join(dir, "anchor"))
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "model")
	if err := model.SaveCheckpoint(t.Context(), out, model.NewMixture(a), model.ExportOptions{ShardBytes: 200_000}); err != nil {
		t.Fatal(err)
	}
	return out
}

// edit changes a JSON file of a folder.
func edit(t *testing.T, path string, change func(map[string]any)) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	change(fields)
	if b, err = json.Marshal(fields); err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// rewrite changes the tensors of the shard that holds name.
func rewrite(t *testing.T, dir, name string, change func([]safetensors.Tensor) []safetensors.Tensor) {
	t.Helper()
	shards, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range shards {
		f, err := safetensors.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := f.Tensor(name); !ok {
			continue
		}
		if err := safetensors.Write(path, change(slices.Collect(f.Tensors())), f.Metadata()); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("no shard holds %s", name)
}

func TestAnUnfitModelIsRefusedInOneLineAndLeavesNothing(t *testing.T) {
	good := modelFolder(t)
	shards, err := filepath.Glob(filepath.Join(good, "*.safetensors"))
	if err != nil || len(shards) < 2 {
		t.Fatalf("the model is in %v, %v", shards, err)
	}
	last := filepath.Base(shards[len(shards)-1])
	const tensor = "model.layers.0.self_attn.k_proj.weight"
	with := func(x safetensors.Tensor, values []float32) safetensors.Tensor {
		return safetensors.FromFloat32(x.Name, x.DType, x.Shape, values)
	}
	each := func(f func(safetensors.Tensor) []safetensors.Tensor) func([]safetensors.Tensor) []safetensors.Tensor {
		return func(all []safetensors.Tensor) (out []safetensors.Tensor) {
			for _, x := range all {
				if x.Name == tensor {
					out = append(out, f(x)...)
				} else {
					out = append(out, x)
				}
			}
			return out
		}
	}
	for name, test := range map[string]struct {
		spoil func(dir string)
		says  []string
	}{
		"another architecture": {
			func(dir string) {
				edit(t, filepath.Join(dir, model.ConfigFile), func(c map[string]any) { c["model_type"] = "llama" })
			},
			[]string{"config.json", `model_type "llama"`, `expected "flex_olmo" or "olmo2"`},
		},
		"a missing tensor": {
			func(dir string) {
				rewrite(t, dir, tensor, each(func(safetensors.Tensor) []safetensors.Tensor { return nil }))
				edit(t, filepath.Join(dir, model.IndexFile), func(c map[string]any) {
					maps.DeleteFunc(c["weight_map"].(map[string]any), func(name string, _ any) bool { return name == tensor })
				})
			},
			[]string{tensor, "is missing"},
		},
		"a wrong shape": {
			func(dir string) {
				rewrite(t, dir, tensor, each(func(x safetensors.Tensor) []safetensors.Tensor {
					x.Shape = []int{x.Shape[0] * x.Shape[1]}
					return []safetensors.Tensor{x}
				}))
			},
			[]string{".safetensors", tensor, "has shape", "expected ["},
		},
		"a truncated shard": {
			func(dir string) {
				if err := os.Truncate(filepath.Join(dir, last), 10_000); err != nil {
					t.Fatal(err)
				}
			},
			[]string{last, "not a well-formed"},
		},
		"an index that lies": {
			func(dir string) {
				edit(t, filepath.Join(dir, model.IndexFile), func(c map[string]any) {
					c["weight_map"].(map[string]any)[tensor] = last
				})
			},
			[]string{model.IndexFile, tensor, "where the index has it"},
		},
		"a tokenizer larger than the embedding": {
			func(dir string) {
				tok, err := tokenizer.Train(slices.Values([]string{"the clock follows the meadow; the letter of the clock finds the meadow"}), 300, []string{endOfText, "<|pad|>"})
				if err == nil {
					err = tok.Save(filepath.Join(dir, model.TokenizerFile))
				}
				if err != nil {
					t.Fatal(err)
				}
			},
			[]string{"tokenizer.json", "tokens and the embedding only"},
		},
		"NaN": {
			func(dir string) {
				rewrite(t, dir, tensor, each(func(x safetensors.Tensor) []safetensors.Tensor {
					v := x.Float32s()
					v[len(v)-1] = float32(math.NaN())
					return []safetensors.Tensor{with(x, v)}
				}))
			},
			[]string{".safetensors", tensor, "holds NaN or an infinity", "expected finite"},
		},
		"no folder": {
			func(dir string) {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
			},
			[]string{"config.json"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			work := t.TempDir()
			dir, out := filepath.Join(work, "model"), filepath.Join(work, "anchor")
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			test.spoil(dir)
			var stdout, stderr strings.Builder
			code := run(t.Context(), []string{"anchor", "import", dir, "--out", out}, &stdout, &stderr)
			text, rest, _ := strings.Cut(stderr.String(), "\n")
			if code != exitFailed || stdout.Len() > 0 || !strings.HasPrefix(text, "chorus: error: ") || !strings.Contains(text, dir) || rest != "" {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout.String(), stderr.String())
			}
			for _, s := range test.says {
				if !strings.Contains(text, s) {
					t.Errorf("%q does not say %q", text, s)
				}
			}
			left, err := os.ReadDir(work)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range left {
				if e.Name() != "model" {
					t.Errorf("%s is left", e.Name())
				}
			}
		})
	}
}
