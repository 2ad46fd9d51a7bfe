package openai

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// chatRequest is the body of POST /v1/chat/completions.
type chatRequest struct {
	settings
	Messages            []chatTurn `json:"messages"`
	MaxCompletionTokens *int       `json:"max_completion_tokens"` // the newer name of max_tokens

	// Each of these would change the answer and is refused unless it asks for nothing.
	LogProbs        bool              `json:"logprobs"`
	TopLogProbs     int               `json:"top_logprobs"`
	Tools           []json.RawMessage `json:"tools"`
	ToolChoice      json.RawMessage   `json:"tool_choice"`
	Functions       []json.RawMessage `json:"functions"`
	FunctionCall    json.RawMessage   `json:"function_call"`
	ResponseFormat  json.RawMessage   `json:"response_format"`
	Modalities      []string          `json:"modalities"`
	Audio           json.RawMessage   `json:"audio"`
	WebSearch       json.RawMessage   `json:"web_search_options"`
	ReasoningEffort json.RawMessage   `json:"reasoning_effort"`
	Verbosity       json.RawMessage   `json:"verbosity"`
}

// chatTurn is a message as clients send it.
type chatTurn struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`

	Name         string            `json:"name"`
	ToolCalls    []json.RawMessage `json:"tool_calls"`
	FunctionCall json.RawMessage   `json:"function_call"`
	Audio        json.RawMessage   `json:"audio"`
	Refusal      string            `json:"refusal"`
}

// parseChat reads and checks a body. Every error it returns is an [*Error].
func parseChat(body []byte) (c chatRequest, r Request, messages []Message, err error) {
	if err := unmarshal(body, &c, "chat"); err != nil {
		return c, r, nil, err
	}
	if given := c.MaxCompletionTokens; given != nil {
		if c.MaxTokens != nil && *c.MaxTokens != *given {
			return c, r, nil, invalid("max_completion_tokens", "max_completion_tokens is %d and max_tokens is %d: give one", *given, *c.MaxTokens)
		}
		if *given < 1 {
			return c, r, nil, invalid("max_completion_tokens", "max_completion_tokens is %d, expected at least 1", *given)
		}
		c.MaxTokens = given
	}
	r, err = c.request(allTokens,
		unsupported{"logprobs", c.LogProbs},
		unsupported{"top_logprobs", c.TopLogProbs != 0},
		unsupported{"tools", len(c.Tools) > 0},
		unsupported{"tool_choice", !isOneOf(c.ToolChoice, `"none"`, `"auto"`)},
		unsupported{"functions", len(c.Functions) > 0},
		unsupported{"function_call", !isOneOf(c.FunctionCall, `"none"`, `"auto"`)},
		unsupported{"response_format", !isText(c.ResponseFormat)},
		unsupported{"modalities", slices.ContainsFunc(c.Modalities, func(m string) bool { return m != "text" })},
		unsupported{"audio", !isOneOf(c.Audio)},
		unsupported{"web_search_options", !isOneOf(c.WebSearch)},
		unsupported{"reasoning_effort", !isOneOf(c.ReasoningEffort, `"none"`)},
		unsupported{"verbosity", !isOneOf(c.Verbosity, `"medium"`)},
	)
	if err != nil {
		return c, r, nil, err
	}
	if len(c.Messages) == 0 {
		return c, r, nil, invalid("messages", "a chat has at least one message")
	}
	for i, turn := range c.Messages {
		m, err := turn.message(i)
		if err != nil {
			return c, r, nil, err
		}
		messages = append(messages, m)
	}
	return c, r, messages, nil
}

// isOneOf reports whether raw is nothing, null, or one of the values, which ask for nothing either.
func isOneOf(raw json.RawMessage, values ...string) bool {
	return len(raw) == 0 || bytes.Equal(raw, []byte("null")) || slices.Contains(values, string(raw))
}

// isText reports whether a response_format is that of text, or none.
func isText(raw json.RawMessage) bool {
	var f struct{ Type string }
	return isOneOf(raw) || json.Unmarshal(raw, &f) == nil && f.Type == "text"
}

// message checks the i-th message. A developer is what newer models call the system.
func (t chatTurn) message(i int) (Message, error) {
	m := Message{Role: t.Role}
	switch {
	case t.Role == "developer":
		m.Role = "system"
	case t.Role != "system" && t.Role != "user" && t.Role != "assistant":
		return m, invalid("messages", "messages[%d] has the role %q, expected system, developer, user or assistant", i, t.Role)
	}
	for _, f := range []unsupported{
		{"name", t.Name != ""}, {"tool_calls", len(t.ToolCalls) > 0}, {"function_call", !isOneOf(t.FunctionCall)},
		{"audio", !isOneOf(t.Audio)}, {"refusal", t.Refusal != ""},
	} {
		if f.asked {
			return m, invalid("messages", "messages[%d].%s is not supported here: leave it out", i, f.param)
		}
	}
	if !isOneOf(t.Content) && json.Unmarshal(t.Content, &m.Content) == nil {
		return m, nil
	}
	type part struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	parts, err := list[part](t.Content)
	if err != nil || len(parts) == 0 {
		return m, invalid("messages", "messages[%d].content is a string or a list of parts of text", i)
	}
	texts := make([]string, len(parts))
	for j, p := range parts {
		if p.Type != "text" || p.Text == nil {
			return m, invalid("messages", "messages[%d].content[%d] has the type %q, expected text", i, j, p.Type)
		}
		texts[j] = *p.Text
	}
	m.Content = strings.Join(texts, "\n")
	return m, nil
}
