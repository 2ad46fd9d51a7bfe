package openai

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
)

// settings are the fields that completions and chats have in common. Fields that are not here do not
// change an answer and are ignored, as OpenAI's own clients send some that few servers know.
type settings struct {
	Model         string          `json:"model"`
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
	LogitBias        map[string]float64 `json:"logit_bias"`
	PresencePenalty  float64            `json:"presence_penalty"`
	FrequencyPenalty float64            `json:"frequency_penalty"`
}

// completionRequest is the body of POST /v1/completions.
type completionRequest struct {
	settings
	Prompt json.RawMessage `json:"prompt"`

	// Refused as above.
	BestOf   *int    `json:"best_of"`
	LogProbs *int    `json:"logprobs"`
	Echo     bool    `json:"echo"`
	Suffix   *string `json:"suffix"`
}

// An unsupported field asks for what would change the answer and is not here.
type unsupported struct {
	param string
	asked bool
}

const maxStops = 4 // OpenAI's limit

// unmarshal reads a body into what is one of the requests.
func unmarshal(body []byte, into any, what string) error {
	err := json.Unmarshal(body, into)
	if err == nil {
		return nil
	}
	param := ""
	if kind := (*json.UnmarshalTypeError)(nil); errors.As(err, &kind) {
		param, _, _ = strings.Cut(strings.TrimPrefix(kind.Field, "settings."), ".")
	}
	return invalid(param, "the body is not the JSON of a %s request: %v", what, err)
}

// parseCompletion reads and checks a body. Every error it returns is an [*Error].
func parseCompletion(body []byte) (c completionRequest, r Request, err error) {
	if err := unmarshal(body, &c, "completion"); err != nil {
		return c, r, err
	}
	r, err = c.request(defaultMaxTokens,
		unsupported{"best_of", c.BestOf != nil && *c.BestOf != 1},
		unsupported{"logprobs", c.LogProbs != nil},
		unsupported{"echo", c.Echo},
		unsupported{"suffix", c.Suffix != nil && *c.Suffix != ""},
	)
	if err != nil {
		return c, r, err
	}
	return c, r, parsePrompt(c.Prompt, &r)
}

// request checks the settings, with maxTokens where none is given. The prompt is still to come.
func (c settings) request(maxTokens int, more ...unsupported) (r Request, err error) {
	for _, f := range append(more,
		unsupported{"n", c.N != nil && *c.N != 1},
		unsupported{"logit_bias", len(c.LogitBias) > 0},
		unsupported{"presence_penalty", c.PresencePenalty != 0},
		unsupported{"frequency_penalty", c.FrequencyPenalty != 0},
	) {
		if f.asked {
			return r, invalid(f.param, "%s is not supported here: leave it out", f.param)
		}
	}
	r = Request{MaxTokens: maxTokens, Temperature: 1, TopP: 1, Seed: rand.Uint64()}
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
		return r, invalid("max_tokens", "max_tokens is %d, expected at least 1", r.MaxTokens)
	case !(r.Temperature >= 0 && r.Temperature <= 2):
		return r, invalid("temperature", "temperature is %v, expected 0 to 2", r.Temperature)
	case !(r.TopP > 0 && r.TopP <= 1):
		return r, invalid("top_p", "top_p is %v, expected more than 0 and at most 1", r.TopP)
	}
	if r.Stop, err = oneOrMany(c.Stop); err != nil || len(r.Stop) > maxStops {
		return r, invalid("stop", "stop is a string or up to %d strings", maxStops)
	}
	return r, nil
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
