package openai

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
)

func (s *server) completions(w http.ResponseWriter, r *http.Request) {
	body, err := read(w, r)
	var c completionRequest
	var req Request
	if err == nil {
		c, req, err = parseCompletion(body)
	}
	if err == nil {
		err = s.known(c.Model)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	a := newAnswer("cmpl-", "text_completion", c.Model, text)
	if c.Stream {
		s.stream(w, r, a, req, c.StreamOptions.IncludeUsage)
	} else {
		s.whole(w, r, a, req)
	}
}

func (s *server) chat(w http.ResponseWriter, r *http.Request) {
	body, err := read(w, r)
	var c chatRequest
	var req Request
	var messages []Message
	if err == nil {
		c, req, messages, err = parseChat(body)
	}
	if err == nil {
		err = s.known(c.Model)
	}
	if err == nil {
		req.PromptIDs, err = s.backend.ChatPrompt(messages)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if c.Stream {
		s.stream(w, r, newAnswer("chatcmpl-", "chat.completion.chunk", c.Model, delta), req, c.StreamOptions.IncludeUsage)
	} else {
		s.whole(w, r, newAnswer("chatcmpl-", "chat.completion", c.Model, message), req)
	}
}

// read returns the body of a request.
func read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		err = &Error{Status: http.StatusRequestEntityTooLarge, Type: "invalid_request_error", Message: fmt.Sprintf("the request is larger than %d bytes", maxBody)}
	}
	return body, err
}

// whole answers with one object.
func (s *server) whole(w http.ResponseWriter, r *http.Request, a answer, req Request) {
	var text strings.Builder
	result, err := s.backend.Generate(r.Context(), req, func(t Token) error {
		text.WriteString(t.Text)
		return nil
	})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, a.with(text.String(), whole, result.FinishReason).used(result).attributed(result.Attribution))
}

// stream answers with server-sent events: a chunk per token, one with the finish reason and the
// attribution of the whole, one with the usage if it was asked for, and the end mark.
func (s *server) stream(w http.ResponseWriter, r *http.Request, a answer, req Request, usage bool) {
	flush := http.NewResponseController(w)
	started := false
	send := func(v any) error {
		if !started {
			started = true
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Cache-Control", "no-store")
		}
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", b); err != nil {
			return err
		}
		return flush.Flush()
	}
	at := first
	result, err := s.backend.Generate(r.Context(), req, func(t Token) error {
		chunk := a.with(t.Text, at, "").attributed(t.Attribution)
		at = between
		return send(chunk)
	})
	switch {
	case err != nil && !started:
		s.fail(w, r, err)
		return
	case err != nil:
		// Only an aborted connection after the error makes every client see a failure.
		_ = send(map[string]any{"error": s.public(r, err)})
		panic(http.ErrAbortHandler)
	}
	_ = send(a.with("", last, result.FinishReason).attributed(result.Attribution))
	if usage {
		u := a.used(result)
		u.Choices = []choice{}
		_ = send(u)
	}
	_, _ = io.WriteString(w, "data: [DONE]\n\n")
}

// answer is OpenAI's object for a completion or a chat, whole or a chunk of a stream.
type answer struct {
	ID      string       `json:"id"`
	Object  string       `json:"object"`
	Created int64        `json:"created"`
	Model   string       `json:"model"`
	Choices []choice     `json:"choices"`
	Usage   *tokenCounts `json:"usage"`
	Chorus  *extension   `json:"chorus,omitempty"`

	form form
}

func newAnswer(prefix, object, model string, f form) answer {
	return answer{ID: prefix + uuid.NewString(), Object: object, Created: time.Now().Unix(), Model: model, form: f}
}

type choice struct {
	Index        int          `json:"index"`
	Text         *string      `json:"text,omitempty"`    // of a completion
	Message      *chatMessage `json:"message,omitempty"` // of a chat
	Delta        *chatDelta   `json:"delta,omitempty"`   // of a chunk of one
	LogProbs     any          `json:"logprobs"`
	FinishReason *string      `json:"finish_reason"`
}

type chatMessage struct {
	Role    string  `json:"role"`
	Content string  `json:"content"`
	Refusal *string `json:"refusal"`
}

type chatDelta struct {
	Role    string  `json:"role,omitempty"`    // in the first chunk
	Content *string `json:"content,omitempty"` // in all but the last
}

// A place is where in an answer a text stands.
type place int

const (
	whole place = iota
	first
	between
	last
)

// A form is how a choice carries its text.
type form func(s string, at place) choice

func text(s string, _ place) choice { return choice{Text: &s} }

func message(s string, _ place) choice {
	return choice{Message: &chatMessage{Role: "assistant", Content: s}}
}

func delta(s string, at place) choice {
	d := &chatDelta{Content: &s}
	switch at {
	case first:
		d.Role = "assistant"
	case last:
		d.Content = nil
	}
	return choice{Delta: d}
}

type tokenCounts struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
	Total      int `json:"total_tokens"`
}

// extension is what chorus adds to an answer.
type extension struct {
	Attribution []Share `json:"attribution"`
}

func (a answer) with(text string, at place, finish string) answer {
	c := a.form(text, at)
	if finish != "" {
		c.FinishReason = &finish
	}
	a.Choices = []choice{c}
	return a
}

func (a answer) used(r Result) answer {
	a.Usage = &tokenCounts{r.PromptTokens, r.CompletionTokens, r.PromptTokens + r.CompletionTokens}
	return a
}

func (a answer) attributed(shares []Share) answer {
	a.Chorus = &extension{shares}
	return a
}
