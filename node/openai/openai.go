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
	"log/slog"
	"math"
	"net"
	"net/http"
	"strings"

	"github.com/google/uuid"
)

// A Backend generates text. Its methods may be called concurrently.
type Backend interface {
	// ModelName is the one model that is served, and Owner who assembled it.
	ModelName() string
	Owner() string
	// ChatPrompt returns the tokens after which the model says the assistant's next turn. It refuses with
	// an [*Error] if the model knows no chats, or not this one.
	ChatPrompt(messages []Message) ([]int, error)
	// Generate continues r's prompt and calls emit for each token before it computes the next. If emit
	// returns an error, generation ends and the error is returned. What the experts did is on
	// record when Generate returns.
	Generate(ctx context.Context, r Request, emit func(Token) error) (Result, error)
}

// A Message is one turn of a chat.
type Message struct {
	Role    string // "system", "user" or "assistant"
	Content string
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
	maxBody          = 1 << 20       // bytes of a request
	defaultMaxTokens = 16            // OpenAI's, of a completion
	allTokens        = math.MaxInt32 // of a chat, whose answer has all the room that there is
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
	mux.HandleFunc("POST /v1/chat/completions", s.chat)
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
