package model

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Config is the part of a FlexOlmo `config.json` that decides what the numbers mean. Field names
// are those of Hugging Face transformers' FlexOlmoConfig.
type Config struct {
	VocabSize        int     `json:"vocab_size"`
	HiddenSize       int     `json:"hidden_size"`       // H
	IntermediateSize int     `json:"intermediate_size"` // I
	Layers           int     `json:"num_hidden_layers"`
	Heads            int     `json:"num_attention_heads"`
	KVHeads          int     `json:"num_key_value_heads"`
	MaxPositions     int     `json:"max_position_embeddings"`
	RMSNormEps       float64 `json:"rms_norm_eps"`
	Experts          int     `json:"num_experts"` // 1 for an anchor: the public FFN
	TopK             int     `json:"num_experts_per_tok"`
	EOS              int     `json:"eos_token_id"`
	Rope             struct {
		Theta float64 `json:"rope_theta"`
		Type  string  `json:"rope_type"`
	} `json:"rope_parameters"`
}

const (
	modelType    = "flex_olmo"
	architecture = "FlexOlmoForCausalLM"
)

// HeadDim returns the width of one attention head.
func (c Config) HeadDim() int { return c.HiddenSize / c.Heads }

// The largest sizes that a configuration may ask for. They bound what a hostile file can make
// a node allocate; the largest published model (7B, 32 layers, vocabulary 100352) is far below.
const (
	maxWidth     = 1 << 16
	maxLayers    = 512
	maxVocab     = 1 << 20
	maxPositions = 1 << 20
	maxExperts   = 1 << 10
	maxRope      = 1 << 26 // max_position_embeddings × head width: a table of 256 MiB
)

// The range of rms_norm_eps and the least rope_theta that leave every number finite.
const (
	minEps, maxEps = 1e-12, 1
	minTheta       = 1
)

func (c Config) check() error {
	for _, f := range []struct {
		name   string
		v, max int
	}{
		{"vocab_size", c.VocabSize, maxVocab},
		{"hidden_size", c.HiddenSize, maxWidth},
		{"intermediate_size", c.IntermediateSize, maxWidth},
		{"num_hidden_layers", c.Layers, maxLayers},
		{"num_attention_heads", c.Heads, c.HiddenSize},
		{"num_key_value_heads", c.KVHeads, c.Heads},
		{"max_position_embeddings", c.MaxPositions, maxPositions},
		{"num_experts", c.Experts, maxExperts},
		{"num_experts_per_tok", c.TopK, c.Experts},
	} {
		if f.v < 1 || f.v > f.max {
			return fmt.Errorf("%s is %d, expected 1 to %d", f.name, f.v, f.max)
		}
	}
	switch {
	case c.HiddenSize%c.Heads != 0 || c.HeadDim()%2 != 0:
		return fmt.Errorf("hidden_size %d does not divide by num_attention_heads %d into heads of even width", c.HiddenSize, c.Heads)
	case c.Heads%c.KVHeads != 0:
		return fmt.Errorf("num_attention_heads %d is not a multiple of num_key_value_heads %d", c.Heads, c.KVHeads)
	case c.MaxPositions*c.HeadDim() > maxRope:
		return fmt.Errorf("max_position_embeddings %d times a head's width of %d, expected at most %d", c.MaxPositions, c.HeadDim(), maxRope)
	case c.Rope.Type != "default" || !(c.Rope.Theta >= minTheta):
		return fmt.Errorf("rope_parameters %q with theta %v, expected \"default\" and at least %d", c.Rope.Type, c.Rope.Theta, minTheta)
	case !(c.RMSNormEps >= minEps && c.RMSNormEps <= maxEps):
		return fmt.Errorf("rms_norm_eps is %v, expected %v to %v", c.RMSNormEps, minEps, maxEps)
	case c.EOS < 0 || c.EOS >= c.VocabSize:
		return fmt.Errorf("eos_token_id %d is outside the vocabulary of %d", c.EOS, c.VocabSize)
	}
	return nil
}

// fixed lists the settings that this package implements one way only.
type fixed struct {
	ModelType     string   `json:"model_type"`
	Architectures []string `json:"architectures"`
	HiddenAct     string   `json:"hidden_act"`
	AttentionBias bool     `json:"attention_bias"`
	Tied          bool     `json:"tie_word_embeddings"`
	NormTopK      bool     `json:"norm_topk_prob"`
}

// A spelling is what a file may say besides: a head's width, and rope as before transformers 5.
type spelling struct {
	HeadDim     *int     `json:"head_dim"`
	RopeTheta   *float64 `json:"rope_theta"`
	RopeScaling any      `json:"rope_scaling"`
}

// ParseConfig reads a `config.json` and refuses what this package would compute differently. No
// field of [Config] has a default, except that without num_key_value_heads every head has its own.
func ParseConfig(b []byte) (Config, error) {
	var c Config
	var s spelling
	f := fixed{HiddenAct: "silu"}
	if err := errors.Join(json.Unmarshal(b, &c), json.Unmarshal(b, &f), json.Unmarshal(b, &s)); err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	if c.Rope.Type == "" && c.Rope.Theta == 0 && s.RopeTheta != nil {
		c.Rope.Type, c.Rope.Theta = "default", *s.RopeTheta
	}
	switch {
	case f.ModelType != modelType:
		return Config{}, fmt.Errorf("config.json: model_type %q, expected %q", f.ModelType, modelType)
	case f.HiddenAct != "silu" || f.AttentionBias || f.Tied || f.NormTopK:
		return Config{}, errors.New("config.json: expected hidden_act silu and attention_bias, tie_word_embeddings, norm_topk_prob false")
	}
	if c.KVHeads == 0 {
		c.KVHeads = c.Heads
	}
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	switch {
	case s.HeadDim != nil && *s.HeadDim != c.HeadDim():
		return Config{}, fmt.Errorf("config.json: head_dim is %d, expected %d: hidden_size over num_attention_heads", *s.HeadDim, c.HeadDim())
	case s.RopeScaling != nil:
		return Config{}, errors.New("config.json: rope_scaling is set, expected null")
	}
	return c, nil
}

// Marshal returns the `config.json` that [ParseConfig] and transformers read.
func (c Config) Marshal() ([]byte, error) {
	return json.MarshalIndent(struct {
		fixed
		Config
		DType string `json:"dtype"`
	}{fixed{modelType, []string{architecture}, "silu", false, false, false}, c, "bfloat16"}, "", "  ")
}
