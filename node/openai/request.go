package openai

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
)

// completionRequest is the body of POST /v1/completions. Fields that are not here do not change
// an answer and are ignored, as OpenAI's own clients send some that few servers know.
type completionRequest struct {
	Model         string          `json:"model"`
	Prompt        json.RawMessage `json:"prompt"`
	MaxTokens     *int            `json:"max_tokens"`
	Temperature   *float64        `json:"temperature"`
	TopP          *float64        `json:"top_p"`
	Seed          *int64          `json:"seed"`
	Stop          json.RawMessage `json:"stop"`
	Stream        bool            `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`

	// Each of these would change the answer and is refused unless it asks for nothing.
	N                *int               `json:"n"`
	BestOf           *int               `json:"best_of"`
	LogProbs         *int               `json:"logprobs"`
	Echo             bool               `json:"echo"`
	Suffix           *string            `json:"suffix"`
	LogitBias        map[string]float64 `json:"logit_bias"`
	PresencePenalty  float64            `json:"presence_penalty"`
	FrequencyPenalty float64            `json:"frequency_penalty"`
}

const maxStops = 4 // OpenAI's limit

// parseCompletion reads and checks a body. Every error it returns is an [*Error].
func parseCompletion(body []byte) (c completionRequest, r Request, err error) {
	if err := json.Unmarshal(body, &c); err != nil {
		param := ""
		if kind := (*json.UnmarshalTypeError)(nil); errors.As(err, &kind) {
			param = kind.Field
		}
		return c, r, invalid(param, "the body is not the JSON of a completion request: %v", err)
	}
	for _, f := range []struct {
		param  string
		unlike bool
	}{
		{"n", c.N != nil && *c.N != 1},
		{"best_of", c.BestOf != nil && *c.BestOf != 1},
		{"logprobs", c.LogProbs != nil},
		{"echo", c.Echo},
		{"suffix", c.Suffix != nil && *c.Suffix != ""},
		{"logit_bias", len(c.LogitBias) > 0},
		{"presence_penalty", c.PresencePenalty != 0},
		{"frequency_penalty", c.FrequencyPenalty != 0},
	} {
		if f.unlike {
			return c, r, invalid(f.param, "%s is not supported here: leave it out", f.param)
		}
	}
	r = Request{MaxTokens: defaultMaxTokens, Temperature: 1, TopP: 1, Seed: rand.Uint64()}
	if c.MaxTokens != nil {
		r.MaxTokens = *c.MaxTokens
	}
	if c.Temperature != nil {
		r.Temperature = *c.Temperature
	}
	if c.TopP != nil {
		r.TopP = *c.TopP
	}
	if c.Seed != nil {
		r.Seed = uint64(*c.Seed)
	}
	switch {
	case r.MaxTokens < 1:
		return c, r, invalid("max_tokens", "max_tokens is %d, expected at least 1", r.MaxTokens)
	case !(r.Temperature >= 0 && r.Temperature <= 2):
		return c, r, invalid("temperature", "temperature is %v, expected 0 to 2", r.Temperature)
	case !(r.TopP > 0 && r.TopP <= 1):
		return c, r, invalid("top_p", "top_p is %v, expected more than 0 and at most 1", r.TopP)
	}
	if r.Stop, err = oneOrMany(c.Stop); err != nil || len(r.Stop) > maxStops {
		return c, r, invalid("stop", "stop is a string or up to %d strings", maxStops)
	}
	return c, r, parsePrompt(c.Prompt, &r)
}

// parsePrompt accepts OpenAI's four forms, as long as they hold one prompt.
func parsePrompt(raw json.RawMessage, r *Request) error {
	var many []json.RawMessage
	if json.Unmarshal(raw, &many) == nil && len(many) == 1 {
		if ids := tokenIDs(many[0]); ids != nil {
			r.PromptIDs = ids
			return nil
		}
	}
	if ids := tokenIDs(raw); ids != nil {
		r.PromptIDs = ids
		return nil
	}
	texts, err := oneOrMany(raw)
	if err != nil || len(texts) != 1 {
		return invalid("prompt", "prompt is one text or one list of token ids")
	}
	r.Prompt = texts[0]
	return nil
}

// tokenIDs reads a list of at least one token id; nil if raw is anything else.
func tokenIDs(raw json.RawMessage) []int {
	ids, err := list[int](raw)
	if err != nil || len(ids) == 0 {
		return nil
	}
	return ids
}

// oneOrMany reads a string or a list of strings; null and nothing are an empty list.
func oneOrMany(raw json.RawMessage) ([]string, error) {
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil, nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return []string{one}, nil
	}
	return list[string](raw)
}

// list reads a list in which nothing is null: json.Unmarshal would take that for a zero.
func list[T any](raw json.RawMessage) ([]T, error) {
	var given []*T
	if err := json.Unmarshal(raw, &given); err != nil {
		return nil, err
	}
	var all []T
	for _, v := range given {
		if v == nil {
			return nil, errors.New("null in a list")
		}
		all = append(all, *v)
	}
	return all, nil
}
