package model

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Config is the part of a FlexOlmo `config.json` that decides what the numbers mean. Field names
// are those of Hugging Face transformers' FlexOlmoConfig.
type Config struct {
	VocabSize        int      `json:"vocab_size"`
	HiddenSize       int      `json:"hidden_size"`       // H
	IntermediateSize int      `json:"intermediate_size"` // I
	Layers           int      `json:"num_hidden_layers"`
	Heads            int      `json:"num_attention_heads"`
	KVHeads          int      `json:"num_key_value_heads"`
	HeadSize         int      `json:"head_dim,omitempty"` // 0 is HiddenSize/Heads; see [Config.HeadDim]
	MaxPositions     int      `json:"max_position_embeddings"`
	RMSNormEps       float64  `json:"rms_norm_eps"`
	Experts          int      `json:"num_experts"` // 1 for an anchor: the public FFN
	TopK             int      `json:"num_experts_per_tok"`
	NormTopK         bool     `json:"norm_topk_prob"` // the chosen slots' weights are divided by their sum
	Tied             bool     `json:"tie_word_embeddings"`
	EOS              TokenIDs `json:"eos_token_id"` // each ends a text; the first stands between documents
	Rope             struct {
		Theta float64 `json:"rope_theta"`
		Type  string  `json:"rope_type"`
	} `json:"rope_parameters"`
}

// TokenIDs is one token or several, of which JSON writes one alone without its list.
type TokenIDs []int

// UnmarshalJSON reads a number, a list of numbers, or null.
func (t *TokenIDs) UnmarshalJSON(b []byte) error {
	*t = nil
	var one *int
	if json.Unmarshal(b, &one) == nil {
		if one != nil {
			*t = TokenIDs{*one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]int)(t))
}

// MarshalJSON writes what UnmarshalJSON reads.
func (t TokenIDs) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]int(t))
}

// The architectures that are read: FlexOlmo, and OLMo 2, which is a FlexOlmo of the public FFN alone.
const (
	flexOlmoType = "flex_olmo"
	flexOlmo     = "FlexOlmoForCausalLM"
	olmo2Type    = "olmo2"
)

// HeadDim returns the width of one attention head.
func (c Config) HeadDim() int {
	if c.HeadSize != 0 {
		return c.HeadSize
	}
	return c.HiddenSize / c.Heads
}

// QWidth and KVWidth return the widths of all queries, and of all keys or values, of one position.
func (c Config) QWidth() int  { return c.Heads * c.HeadDim() }
func (c Config) KVWidth() int { return c.KVHeads * c.HeadDim() }

// The largest sizes that a configuration may ask for. They bound what a hostile file can make
// a node allocate; the largest published model (7B, 32 layers, vocabulary 100352) is far below.
const (
	maxWidth     = 1 << 16
	maxLayers    = 512
	maxVocab     = 1 << 20
	maxPositions = 1 << 20
	maxExperts   = 1 << 10
	maxRope      = 1 << 26 // max_position_embeddings × head width: a table of 256 MiB
	maxEOS       = 16
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
	case c.HeadSize == 0 && c.HiddenSize%c.Heads != 0:
		return fmt.Errorf("hidden_size %d does not divide by num_attention_heads %d, and there is no head_dim", c.HiddenSize, c.Heads)
	case c.HeadDim() < 1 || c.QWidth() > maxWidth:
		return fmt.Errorf("head_dim is %d with num_attention_heads %d, expected at most %d in all", c.HeadDim(), c.Heads, maxWidth)
	case c.HeadDim()%2 != 0:
		return fmt.Errorf("a head_dim of %d (hidden_size over num_attention_heads, unless it is given), expected an even one", c.HeadDim())
	case c.Heads%c.KVHeads != 0:
		return fmt.Errorf("num_attention_heads %d is not a multiple of num_key_value_heads %d", c.Heads, c.KVHeads)
	case c.MaxPositions*c.HeadDim() > maxRope:
		return fmt.Errorf("max_position_embeddings %d times a head's width of %d, expected at most %d", c.MaxPositions, c.HeadDim(), maxRope)
	case c.Rope.Type != "default" || !(c.Rope.Theta >= minTheta):
		return fmt.Errorf("rope_parameters %q with theta %v, expected \"default\" and at least %d", c.Rope.Type, c.Rope.Theta, minTheta)
	case !(c.RMSNormEps >= minEps && c.RMSNormEps <= maxEps):
		return fmt.Errorf("rms_norm_eps is %v, expected %v to %v", c.RMSNormEps, minEps, maxEps)
	case len(c.EOS) < 1 || len(c.EOS) > maxEOS:
		return fmt.Errorf("eos_token_id lists %d tokens, expected 1 to %d", len(c.EOS), maxEOS)
	}
	for _, id := range c.EOS {
		if id < 0 || id >= c.VocabSize {
			return fmt.Errorf("eos_token_id %d is outside the vocabulary of %d", id, c.VocabSize)
		}
	}
	return nil
}

// header is what a file says besides its [Config]: what it is, and settings that this package
// implements one way only.
type header struct {
	ModelType     string   `json:"model_type"`
	Architectures []string `json:"architectures"`
	HiddenAct     string   `json:"hidden_act"`
	AttentionBias bool     `json:"attention_bias"`
}

// A spelling is how a file may say the same otherwise: rope as before transformers 5, and the number of experts
// by the name that other architectures have for it.
type spelling struct {
	RopeTheta    *float64 `json:"rope_theta"`
	RopeScaling  any      `json:"rope_scaling"`
	LocalExperts *int     `json:"num_local_experts"`
}

// ParseConfig reads the `config.json` of a FlexOlmo, or of an OLMo 2 as a FlexOlmo of one expert, and
// refuses what this package would compute differently. No field of [Config] has a default, except that
// without num_key_value_heads every head has its own, and without head_dim the heads share HiddenSize.
func ParseConfig(b []byte) (Config, error) {
	var c Config
	var s spelling
	h := header{HiddenAct: "silu"}
	if err := errors.Join(json.Unmarshal(b, &c), json.Unmarshal(b, &h), json.Unmarshal(b, &s)); err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	if c.Rope.Type == "" && c.Rope.Theta == 0 && s.RopeTheta != nil {
		c.Rope.Type, c.Rope.Theta = "default", *s.RopeTheta
	}
	if s.LocalExperts != nil {
		if c.Experts != 0 && c.Experts != *s.LocalExperts {
			return Config{}, fmt.Errorf("config.json: num_experts is %d and num_local_experts %d, expected one number", c.Experts, *s.LocalExperts)
		}
		c.Experts = *s.LocalExperts
	}
	if h.ModelType == olmo2Type {
		c.Experts, c.TopK, c.NormTopK = 1, 1, false
	}
	if c.KVHeads == 0 {
		c.KVHeads = c.Heads
	}
	switch {
	case h.ModelType != flexOlmoType && h.ModelType != olmo2Type:
		return Config{}, fmt.Errorf("config.json: model_type %q, expected %q or %q", h.ModelType, flexOlmoType, olmo2Type)
	case h.HiddenAct != "silu" || h.AttentionBias:
		return Config{}, errors.New("config.json: expected hidden_act silu and attention_bias false")
	case s.RopeScaling != nil:
		return Config{}, errors.New("config.json: rope_scaling is set, expected null")
	}
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("config.json: %w", err)
	}
	return c, nil
}

// Marshal returns the `config.json` of a FlexOlmo in bfloat16 that [ParseConfig] and transformers read.
func (c Config) Marshal() ([]byte, error) { return c.marshal(nil, "bfloat16") }

// marshal returns a FlexOlmo's `config.json` for tensors of a type, in PyTorch's word for it, that says besides
// what base says, a file of the same model. Rope is written both ways, as transformers before 5 knows only the old.
func (c Config) marshal(base []byte, dtype string) ([]byte, error) {
	fields := map[string]any{"pad_token_id": nil} // else transformers takes one that few vocabularies have
	if base != nil {
		if err := json.Unmarshal(base, &fields); err != nil {
			return nil, err
		}
	}
	own, err := json.Marshal(struct {
		header
		Config
		RopeTheta   float64 `json:"rope_theta"`
		RopeScaling any     `json:"rope_scaling"`
		DType       string  `json:"dtype"`
	}{header{flexOlmoType, []string{flexOlmo}, "silu", false}, c, c.Rope.Theta, nil, dtype})
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"num_local_experts", "torch_dtype", "transformers_version"} {
		delete(fields, name)
	}
	if err := json.Unmarshal(own, &fields); err != nil {
		return nil, err
	}
	return json.MarshalIndent(fields, "", "  ")
}
