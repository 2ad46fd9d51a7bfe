package model

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestParseConfigReadsWhatTransformersWrites(t *testing.T) {
	b, err := os.ReadFile("testdata/config.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		VocabSize: 64, HiddenSize: 32, IntermediateSize: 20, Layers: 2, Heads: 4, KVHeads: 2, MaxPositions: 128,
		RMSNormEps: 1e-6, Experts: 3, TopK: 2, EOS: TokenIDs{63},
	}
	want.Rope.Theta, want.Rope.Type = 10000, "default"
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// configWith returns the config.json of a small anchor with some fields changed; nil removes one.
func configWith(t testing.TB, changes map[string]any) []byte {
	t.Helper()
	b, err := testConfig(64, 32, 20, 2, 4, 2).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	delete(fields, "rope_theta") // the other spelling
	maps.Copy(fields, changes)
	maps.DeleteFunc(fields, func(_ string, v any) bool { return v == nil })
	if b, err = json.Marshal(fields); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseConfigAcceptsOtherSpellings(t *testing.T) {
	base, err := ParseConfig(configWith(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	everyHead := base
	everyHead.KVHeads = base.Heads
	wide, tied, norm, ends, dense := base, base, base, base, base
	wide.HeadSize = 16
	tied.Tied = true
	norm.NormTopK = true
	ends.EOS = TokenIDs{1, 2}
	width := base
	width.HeadSize = 8
	for name, test := range map[string]struct {
		file []byte
		want Config
	}{
		"a head's width that follows":   {configWith(t, map[string]any{"head_dim": 8}), width},
		"a head's width of its own":     {configWith(t, map[string]any{"head_dim": 16}), wide},
		"a tied head":                   {configWith(t, map[string]any{"tie_word_embeddings": true}), tied},
		"weights that add up to one":    {configWith(t, map[string]any{"norm_topk_prob": true}), norm},
		"several ends":                  {configWith(t, map[string]any{"eos_token_id": []int{1, 2}}), ends},
		"experts by another name":       {configWith(t, map[string]any{"num_experts": nil, "num_local_experts": 1}), base},
		"experts by both names":         {configWith(t, map[string]any{"num_local_experts": 1}), base},
		"an OLMo 2":                     {configWith(t, map[string]any{"model_type": "olmo2", "num_experts": nil, "num_experts_per_tok": nil}), dense},
		"rope as before transformers 5": {configWith(t, map[string]any{"rope_parameters": nil, "rope_theta": 10000}), base},
		"no scaling of rope":            {[]byte(strings.Replace(string(configWith(t, nil)), "{", `{"rope_scaling": null,`, 1)), base},
		"null key heads":                {[]byte(strings.Replace(string(configWith(t, map[string]any{"num_key_value_heads": nil})), "{", `{"num_key_value_heads": null,`, 1)), everyHead},
		"no key heads":                  {configWith(t, map[string]any{"num_key_value_heads": nil}), everyHead},
		"a field that changes nothing":  {configWith(t, map[string]any{"output_router_logits": true}), base},
	} {
		if got, err := ParseConfig(test.file); err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestParseConfigRefusesWhatWouldBeComputedDifferently(t *testing.T) {
	for _, test := range []struct {
		field string // of config.json, named in the error
		value any    // nil removes it
	}{
		{"model_type", "llama"}, {"model_type", nil}, {"model_type", 3},
		{"hidden_act", "gelu"}, {"attention_bias", true},
		{"head_dim", 15}, {"head_dim", -8}, {"head_dim", 1 << 20}, {"num_local_experts", 2}, {"rope_scaling", map[string]any{"type": "linear"}},
		{"vocab_size", nil}, {"vocab_size", 0}, {"vocab_size", -1}, {"vocab_size", 1 << 40}, {"vocab_size", "64"}, {"vocab_size", 64.5},
		{"hidden_size", 0}, {"hidden_size", 31}, {"hidden_size", 1 << 40}, {"hidden_size", 12},
		{"intermediate_size", 0}, {"intermediate_size", 1 << 17},
		{"num_hidden_layers", 0}, {"num_hidden_layers", 513},
		{"num_attention_heads", 0}, {"num_attention_heads", 33}, {"num_attention_heads", 3},
		{"num_key_value_heads", -1}, {"num_key_value_heads", 5}, {"num_key_value_heads", 3},
		{"max_position_embeddings", 0}, {"max_position_embeddings", 1 << 21},
		{"rms_norm_eps", nil}, {"rms_norm_eps", 0}, {"rms_norm_eps", -1}, {"rms_norm_eps", 1e-320}, {"rms_norm_eps", 1e300},
		{"num_experts", 0}, {"num_experts", -1}, {"num_experts", 1 << 30},
		{"num_experts_per_tok", 0}, {"num_experts_per_tok", -2}, {"num_experts_per_tok", 2},
		{"eos_token_id", 64}, {"eos_token_id", -1}, {"eos_token_id", []int{1, 64}}, {"eos_token_id", []int{}}, {"eos_token_id", "</s>"}, {"eos_token_id", nil},
		{"rope_parameters", nil}, {"rope_parameters", map[string]any{"rope_type": "yarn", "rope_theta": 1e4}},
		{"rope_parameters", map[string]any{"rope_type": "default", "rope_theta": 1e-300}},
		{"rope_parameters", map[string]any{"rope_type": "default", "rope_theta": -1}},
	} {
		c, err := ParseConfig(configWith(t, map[string]any{test.field: test.value}))
		if err == nil || !strings.Contains(err.Error(), test.field) {
			t.Errorf("%s %v: error %v, expected one that names the field", test.field, test.value, err)
		}
		if !reflect.DeepEqual(c, Config{}) {
			t.Errorf("%s %v: a refused file gave %+v", test.field, test.value, c)
		}
	}
	for _, file := range []string{"", "[]", "null", "{", "{} {}", `{"vocab_size": 1e400}`} {
		if _, err := ParseConfig([]byte(file)); err == nil {
			t.Errorf("%q is accepted", file)
		}
	}
}

func TestTheTableOfPositionsIsBounded(t *testing.T) {
	_, err := ParseConfig(configWith(t, map[string]any{
		"hidden_size": 1 << 16, "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 1 << 20,
	}))
	if err == nil || !strings.Contains(err.Error(), "max_position_embeddings") {
		t.Errorf("a table of 256 GiB: %v", err)
	}
}

// Whatever a config.json says, it is refused or is a configuration that writes a file with the
// same meaning.
func FuzzParseConfig(f *testing.F) {
	golden, err := os.ReadFile("testdata/config.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden)
	f.Add(configWith(f, nil))
	f.Add(configWith(f, map[string]any{"rope_parameters": nil, "rope_theta": 1e300, "num_key_value_heads": nil}))
	f.Add(configWith(f, map[string]any{"num_attention_heads": 0, "hidden_size": -1 << 63}))
	f.Add([]byte(`{"model_type":"flex_olmo"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			return
		}
		if c.QWidth() > maxWidth || c.MaxPositions*c.HeadDim() > maxRope {
			t.Fatalf("accepted: %+v", c)
		}
		again, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseConfig(again); err != nil || !reflect.DeepEqual(got, c) {
			t.Fatalf("%+v is read again as %+v, %v", c, got, err)
		}
	})
}
