// Package openai is the HTTP surface that local programs use: the part of the OpenAI API that a
// text model can answer, in the shapes that existing clients accept.
//
// It runs no model. A [Backend], which the node is, generates; this package parses requests,
// refuses what would silently change their meaning, and writes answers, streamed or whole. Every
// answer carries its attribution: which experts had what share of the work.
//
// Begin with [New].
package openai

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
)

// A Backend generates text. Its methods may be called concurrently.
type Backend interface {
	// ModelName is the one model that is served, and Owner who assembled it.
	ModelName() string
	Owner() string
	// Generate continues r's prompt and calls emit for each token before it computes the next. If emit
	// returns an error, generation ends and the error is returned. What the experts did is on
	// record when Generate returns.
	Generate(ctx context.Context, r Request, emit func(Token) error) (Result, error)
}

// A Request is a prompt and how to continue it.
type Request struct {
	Prompt      string
	PromptIDs   []int // used instead of Prompt if not nil
	MaxTokens   int
	Temperature float64
	TopP        float64
	Seed        uint64
	Stop        []string // generation ends before any of these
}

// A Token is one step of an answer. Text is what it adds: it can be empty, since a character may
// take several tokens.
type Token struct {
	Text        string
	Attribution []Share // of this step, by the slots of the mixture that computed it
}

// A Result says how an answer ended.
type Result struct {
	PromptTokens, CompletionTokens int
	FinishReason                   string // "stop" or "length"
	Attribution                    []Share
}

// A Share is one expert's part of the work on an answer.
type Share struct {
	Expert string  `json:"expert"`           // blob CID; "anchor" for the public FFN
	Offer  string  `json:"offer,omitempty"`  // notice CID
	Member string  `json:"member,omitempty"` // who contributed it
	Domain string  `json:"domain,omitempty"`
	Weight uint64  `json:"weight"` // fixed-point router weight, summed over tokens and layers
	Share  float64 `json:"share"`  // of all weight, from 0 to 1
}

// An Error is answered to the client as its own words; anything else a backend returns is logged
// and answered as an internal error.
type Error struct {
	Status  int    // HTTP status
	Type    string // OpenAI's error type
	Code    string // may be empty
	Param   string // may be empty
	Message string
}

func (e *Error) Error() string { return e.Message }

func invalid(param, format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Type: "invalid_request_error", Param: param, Message: fmt.Sprintf(format, args...)}
}

const (
	maxBody          = 1 << 20 // bytes of a request
	defaultMaxTokens = 16      // OpenAI's
)

type server struct {
	backend Backend
	log     *slog.Logger
}

// New returns the handler of everything under /v1/.
func New(b Backend, log *slog.Logger) http.Handler {
	s := &server{b, log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", s.models)
	mux.HandleFunc("GET /v1/models/{id...}", s.model)
	mux.HandleFunc("POST /v1/completions", s.completions)
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, invalid("model", "%s has no chat template, so it cannot answer chats: use /v1/completions", b.ModelName()))
	})
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, &Error{Status: http.StatusNotFound, Type: "invalid_request_error", Code: "unknown_url",
			Message: fmt.Sprintf("%s %s is not here", r.Method, r.URL.Path)})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", uuid.NewString())
		if !localHost(r) {
			s.fail(w, r, &Error{Status: http.StatusForbidden, Type: "invalid_request_error",
				Message: fmt.Sprintf("host %q is not this machine: use its address or localhost", r.Host)})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// localHost guards a loopback listener against web pages that point a name of theirs at it.
func localHost(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if tcp, ok := local.(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

type modelObject struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func (s *server) modelObject() modelObject {
	return modelObject{s.backend.ModelName(), "model", 0, s.backend.Owner()}
}

func (s *server) models(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": []modelObject{s.modelObject()}})
}

func (s *server) model(w http.ResponseWriter, r *http.Request) {
	if err := s.known(r.PathValue("id")); err != nil {
		s.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, s.modelObject())
}

func (s *server) known(model string) error {
	if model != s.backend.ModelName() {
		return &Error{Status: http.StatusNotFound, Type: "invalid_request_error", Code: "model_not_found", Param: "model",
			Message: fmt.Sprintf("model %q is not here: this node serves %q", model, s.backend.ModelName())}
	}
	return nil
}

func (s *server) completions(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		err = &Error{Status: http.StatusRequestEntityTooLarge, Type: "invalid_request_error", Message: fmt.Sprintf("the request is larger than %d bytes", maxBody)}
	}
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
	a := answer{ID: "cmpl-" + uuid.NewString(), Object: "text_completion", Created: time.Now().Unix(), Model: c.Model}
	if c.Stream {
		s.stream(w, r, a, req, c.StreamOptions.IncludeUsage)
		return
	}
	var text strings.Builder
	result, err := s.backend.Generate(r.Context(), req, func(t Token) error {
		text.WriteString(t.Text)
		return nil
	})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, a.with(text.String(), result.FinishReason).used(result).attributed(result.Attribution))
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
	result, err := s.backend.Generate(r.Context(), req, func(t Token) error {
		return send(a.with(t.Text, "").attributed(t.Attribution))
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
	_ = send(a.with("", result.FinishReason).attributed(result.Attribution))
	if usage {
		u := a.used(result)
		u.Choices = []choice{}
		_ = send(u)
	}
	_, _ = io.WriteString(w, "data: [DONE]\n\n")
}

// answer is OpenAI's text_completion object, whole or a chunk of a stream.
type answer struct {
	ID      string       `json:"id"`
	Object  string       `json:"object"`
	Created int64        `json:"created"`
	Model   string       `json:"model"`
	Choices []choice     `json:"choices"`
	Usage   *tokenCounts `json:"usage"`
	Chorus  *extension   `json:"chorus,omitempty"`
}

type choice struct {
	Index        int     `json:"index"`
	Text         string  `json:"text"`
	LogProbs     any     `json:"logprobs"`
	FinishReason *string `json:"finish_reason"`
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

func (a answer) with(text, finish string) answer {
	c := choice{Text: text}
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

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone if this fails
}

type errorObject struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	if e := (*Error)(nil); errors.As(err, &e) {
		status = e.Status
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, status, map[string]any{"error": s.public(r, err)})
}

// public returns what a client may know of err, and logs the rest.
func (s *server) public(r *http.Request, err error) errorObject {
	e := (*Error)(nil)
	if !errors.As(err, &e) {
		if r.Context().Err() == nil {
			s.log.Error("request", slog.String("path", r.URL.Path), slog.Any("error", err))
		}
		e = &Error{Type: "server_error", Message: "the node could not answer: see its log"}
	}
	o := errorObject{Message: e.Message, Type: e.Type}
	if e.Param != "" {
		o.Param = &e.Param
	}
	if e.Code != "" {
		o.Code = &e.Code
	}
	return o
}
