package model

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chorus/model/safetensors"
)

// loadMixture reads a FlexOlmo checkpoint of several experts, as other programs write them.
func loadMixture(t *testing.T, c Config, weights string) *Mixture {
	t.Helper()
	f, err := safetensors.Open(weights)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read := func(name string) []float32 {
		tensor, ok := f.Tensor(name)
		if !ok {
			t.Fatalf("%s has no tensor %q", weights, name)
		}
		return tensor.Float32s()
	}
	row := func(layer string, slot int) []float32 {
		return read(layer + "mlp.gate.weight")[slot*c.HiddenSize:][:c.HiddenSize]
	}
	a, err := BuildAnchor(c, func(name string, _ ...int) ([]float32, error) {
		if layer, ok := strings.CutSuffix(name, "mlp.gate.weight"); ok {
			return row(layer, 0), nil
		}
		return read(name), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var experts []*Expert
	for slot := 1; slot < c.Experts; slot++ {
		e, err := BuildExpert(c, func(name string, _ ...int) ([]float32, error) {
			var l int
			var part string
			if _, err := fmt.Sscanf(name, "layers.%d.%s", &l, &part); err != nil {
				return nil, err
			}
			layer := fmt.Sprintf("model.layers.%d.", l)
			switch part {
			case "router.weight":
				return row(layer, slot), nil
			case "router.bias":
				return []float32{0}, nil
			}
			return read(fmt.Sprintf("%smlp.experts.%d.%s", layer, slot, part)), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		experts = append(experts, e)
	}
	return NewMixture(a, experts...)
}

func TestForwardAgreesWithTransformers(t *testing.T) {
	const tolerance = 2e-5 // of the largest logit: both sides compute in float32, in another order
	b, err := os.ReadFile("testdata/config.json")
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = os.ReadFile("testdata/golden.json"); err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Weights string
		TopK    int `json:"top_k"`
		Prompt  []int32
		Chosen  [][][]int32 // (layers)(rows)(k)
		Greedy  []int32
	}
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	logits, err := safetensors.Open("testdata/logits.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer logits.Close()
	if len(cases) != 4 {
		t.Fatalf("%d cases", len(cases))
	}
	for i, g := range cases {
		t.Run(fmt.Sprintf("%s, k=%d", g.Weights, g.TopK), func(t *testing.T) {
			m := loadMixture(t, c, filepath.Join("testdata", g.Weights))
			m.TopK = g.TopK
			var p Pass
			m.Forward(&p, g.Prompt, 1, len(g.Prompt))
			tensor, ok := logits.Tensor(fmt.Sprint(i))
			want := tensor.Float32s()
			if !ok || len(want) != len(p.Logits) {
				t.Fatalf("%d logits, the fixture has %d", len(p.Logits), len(want))
			}
			for l, rows := range g.Chosen {
				if chosen := slices.Concat(rows...); !slices.Equal(chosen, p.Layers[l].Chosen) {
					t.Errorf("layer %d: the router chose %v, want %v", l, p.Layers[l].Chosen, chosen)
				}
			}
			var most, largest float64
			for j, v := range want {
				most = max(most, math.Abs(float64(v-p.Logits[j])))
				largest = max(largest, math.Abs(float64(v)))
			}
			if !(most/largest < tolerance) {
				t.Errorf("logits are %.3g of the largest off, more than %g", most/largest, tolerance)
			}
			if len(g.Greedy) < 32 {
				t.Fatalf("the fixture continues for %d tokens only", len(g.Greedy))
			}
			var greedy []int32
			var pick Sampler
			seq := m.NewSequence()
			for next := g.Prompt; len(greedy) < len(g.Greedy); next = greedy[len(greedy)-1:] {
				logits, err := seq.Extend(next)
				if err != nil {
					t.Fatal(err)
				}
				greedy = append(greedy, pick.Sample(logits))
			}
			if !slices.Equal(greedy, g.Greedy) {
				t.Errorf("the greedy continuation is\n%v, want\n%v", greedy, g.Greedy)
			}
		})
	}
}
