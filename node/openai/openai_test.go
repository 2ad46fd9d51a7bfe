package openai

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A fake backend says what a test wants.
type fake struct {
	tokens []string
	finish string
	fail   error         // after the tokens
	mute   error         // what ChatPrompt answers, if not nil
	begun  chan struct{} // closed after the tokens, if not nil; generation then waits for the end of its context

	mu    sync.Mutex
	asked []Request   // guarded by mu
	chats [][]Message // guarded by mu
	heard []error     // guarded by mu: how each generation ended
}

func (f *fake) ModelName() string { return "chorus" }
func (f *fake) Owner() string     { return "heart-hospitals" }

var (
	stepShares  = []Share{{Expert: "anchor", Weight: 1, Share: 0.25}, {Expert: "bafyblob", Offer: "bagoffer", Member: "clinic", Domain: "cats", Weight: 3, Share: 0.75}}
	wholeShares = []Share{{Expert: "anchor", Weight: 10, Share: 0.5}, {Expert: "bafyblob", Offer: "bagoffer", Member: "clinic", Domain: "cats", Weight: 10, Share: 0.5}}
)

// ChatPrompt gives a token for each message, the number of its bytes.
func (f *fake) ChatPrompt(messages []Message) (ids []int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.chats = append(f.chats, messages)
	for _, m := range messages {
		ids = append(ids, len(m.Content))
	}
	return ids, f.mute
}

func (f *fake) Generate(ctx context.Context, r Request, emit func(Token) error) (_ Result, err error) {
	f.mu.Lock()
	f.asked = append(f.asked, r)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.heard = append(f.heard, err)
	}()
	for _, text := range f.tokens {
		if err := emit(Token{Text: text, Attribution: stepShares}); err != nil {
			return Result{}, err
		}
	}
	if f.begun != nil {
		close(f.begun)
		<-ctx.Done()
		return Result{}, ctx.Err()
	}
	return Result{PromptTokens: 4, CompletionTokens: len(f.tokens), FinishReason: f.finish, Attribution: wholeShares}, f.fail
}

// serve serves the backend on loopback, as a node does.
func serve(t *testing.T, f *fake) (url string, logged func() string) {
	t.Helper()
	var mu sync.Mutex
	var log strings.Builder
	handler := New(f, slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	}), nil)))
	server := httptest.NewServer(handler)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(server.Close)
	return server.URL, func() string {
		mu.Lock()
		defer mu.Unlock()
		return log.String()
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// do sends a request and returns the answer with its body read.
func do(t *testing.T, method, url, body string, change func(*http.Request)) (*http.Response, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return v
}

func sharesAsJSON(shares []Share) any {
	b, err := json.Marshal(map[string]any{"attribution": shares})
	if err != nil {
		panic(err)
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		panic(err)
	}
	return v
}

func TestWholeAnswer(t *testing.T) {
	f := &fake{tokens: []string{"Light", " is", "", " bent"}, finish: "stop"}
	url, _ := serve(t, f)
	before := time.Now().Unix()
	resp, body, err := do(t, "POST", url+"/v1/completions", `{"model":"chorus","prompt":"What is light?","max_tokens":9}`, nil)
	if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s %v: %s, %v", resp.Status, resp.Header, body, err)
	}
	got := object(t, body)
	if id, _ := got["id"].(string); !strings.HasPrefix(id, "cmpl-") {
		t.Errorf("id %q", id)
	}
	if created, _ := got["created"].(float64); int64(created) < before || int64(created) > time.Now().Unix() {
		t.Errorf("created %v", got["created"])
	}
	delete(got, "id")
	delete(got, "created")
	want := map[string]any{
		"object": "text_completion", "model": "chorus",
		"choices": []any{map[string]any{"index": 0., "text": "Light is bent", "logprobs": nil, "finish_reason": "stop"}},
		"usage":   map[string]any{"prompt_tokens": 4., "completion_tokens": 4., "total_tokens": 8.},
		"chorus":  sharesAsJSON(wholeShares),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, expected %v", got, want)
	}
	if len(f.asked) != 1 || f.asked[0].Prompt != "What is light?" || f.asked[0].MaxTokens != 9 {
		t.Errorf("the backend was asked %+v", f.asked)
	}
}

// events splits a stream into the data of its events.
func events(t *testing.T, body string) (all []string) {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(body))
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok && lines.Text() != "" {
			t.Errorf("line %q in a stream", lines.Text())
		}
		if ok {
			all = append(all, data)
		}
	}
	return all
}

func TestStreamedAnswer(t *testing.T) {
	for _, usage := range []bool{false, true} {
		t.Run(fmt.Sprintf("usage %v", usage), func(t *testing.T) {
			url, _ := serve(t, &fake{tokens: []string{"Light", " is", "", " bent"}, finish: "length"})
			resp, body, err := do(t, "POST", url+"/v1/completions", fmt.Sprintf(`{"model":"chorus","prompt":"x","stream":true,"stream_options":{"include_usage":%v}}`, usage), nil)
			if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Cache-Control") != "no-store" {
				t.Fatalf("%s %v, %v", resp.Status, resp.Header, err)
			}
			all := events(t, body)
			if all[len(all)-1] != "[DONE]" {
				t.Fatalf("the stream ends with %q", all[len(all)-1])
			}
			all = all[:len(all)-1]
			first := object(t, all[0])
			var texts []string
			for i, data := range all {
				c := object(t, data)
				if c["id"] != first["id"] || c["created"] != first["created"] || c["object"] != "text_completion" || c["model"] != "chorus" {
					t.Errorf("event %d is of another answer: %s", i, data)
				}
				if _, there := c["error"]; there {
					t.Errorf("event %d names an error: %s", i, data)
				}
				choices, ok := c["choices"].([]any)
				if !ok {
					t.Fatalf("event %d has no list of choices: %s", i, data)
				}
				switch i {
				case 4:
					want := []any{map[string]any{"index": 0., "text": "", "logprobs": nil, "finish_reason": "length"}}
					if !reflect.DeepEqual(choices, want) || !reflect.DeepEqual(c["chorus"], sharesAsJSON(wholeShares)) || c["usage"] != nil {
						t.Errorf("the finish is %s", data)
					}
				case 5:
					want := map[string]any{"prompt_tokens": 4., "completion_tokens": 4., "total_tokens": 8.}
					if len(choices) != 0 || !reflect.DeepEqual(c["usage"], want) {
						t.Errorf("the usage is %s", data)
					}
				default:
					choice := choices[0].(map[string]any)
					texts = append(texts, choice["text"].(string))
					if choice["finish_reason"] != nil || c["usage"] != nil || !reflect.DeepEqual(c["chorus"], sharesAsJSON(stepShares)) {
						t.Errorf("event %d is %s", i, data)
					}
				}
			}
			if want := map[bool]int{false: 5, true: 6}[usage]; len(all) != want || !slices.Equal(texts, []string{"Light", " is", "", " bent"}) {
				t.Errorf("%d events with the texts %q", len(all), texts)
			}
		})
	}
}

func TestErrorsAreOpenAIs(t *testing.T) {
	const good = `{"model":"chorus","prompt":"x"}`
	teapot := &Error{Status: 418, Type: "tea", Code: "short_and_stout", Param: "prompt", Message: "no coffee"}
	busy := &Error{Status: http.StatusServiceUnavailable, Type: "server_error", Message: "too many at once"}
	for _, tt := range []struct {
		name, method, path, body string
		fail                     error
		status                   int
		typ                      string
		code, param              any
	}{
		{"unknown model", "POST", "/v1/completions", `{"model":"gpt-4","prompt":"x"}`, nil, 404, "invalid_request_error", "model_not_found", "model"},
		{"no model", "POST", "/v1/completions", `{"prompt":"x"}`, nil, 404, "invalid_request_error", "model_not_found", "model"},
		{"model by id", "GET", "/v1/models/org/other", "", nil, 404, "invalid_request_error", "model_not_found", "model"},
		{"unknown path", "GET", "/v1/embeddings", "", nil, 404, "invalid_request_error", "unknown_url", nil},
		{"unknown method", "DELETE", "/v1/models", "", nil, 404, "invalid_request_error", "unknown_url", nil},
		{"no JSON", "POST", "/v1/completions", `{`, nil, 400, "invalid_request_error", nil, nil},
		{"unsupported", "POST", "/v1/completions", `{"model":"chorus","prompt":"x","echo":true}`, nil, 400, "invalid_request_error", nil, "echo"},
		{"wrong type", "POST", "/v1/completions", `{"model":"chorus","prompt":"x","max_tokens":"9"}`, nil, 400, "invalid_request_error", nil, "max_tokens"},
		{"chat of no messages", "POST", "/v1/chat/completions", `{"model":"chorus","messages":[]}`, nil, 400, "invalid_request_error", nil, "messages"},
		{"chat with an unknown model", "POST", "/v1/chat/completions", `{"model":"gpt-4","messages":[{"role":"user","content":"x"}]}`, nil, 404, "invalid_request_error", "model_not_found", "model"},
		{"the backend's own of a chat", "POST", "/v1/chat/completions", `{"model":"chorus","messages":[{"role":"user","content":"x"}]}`, teapot, 418, "tea", "short_and_stout", "prompt"},
		{"too large a chat", "POST", "/v1/chat/completions", `{"model":"` + strings.Repeat("x", maxBody) + `"}`, nil, 413, "invalid_request_error", nil, nil},
		{"too large", "POST", "/v1/completions", `{"model":"chorus","prompt":"` + strings.Repeat("x", maxBody) + `"}`, nil, 413, "invalid_request_error", nil, nil},
		{"the backend's own", "POST", "/v1/completions", good, teapot, 418, "tea", "short_and_stout", "prompt"},
		{"wrapped", "POST", "/v1/completions", good, fmt.Errorf("deep: %w", teapot), 418, "tea", "short_and_stout", "prompt"},
		{"streamed, before the first token", "POST", "/v1/completions", `{"model":"chorus","prompt":"x","stream":true}`, teapot, 418, "tea", "short_and_stout", "prompt"},
		{"busy", "POST", "/v1/completions", good, busy, 503, "server_error", nil, nil},
		{"internal", "POST", "/v1/completions", good, errors.New("disk /secret/path is full"), 500, "server_error", nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			url, logged := serve(t, &fake{fail: tt.fail})
			resp, body, err := do(t, tt.method, url+tt.path, tt.body, nil)
			if err != nil || resp.StatusCode != tt.status || resp.Header.Get("Content-Type") != "application/json" {
				t.Fatalf("%s %v: %s, %v, expected %d", resp.Status, resp.Header, body, err, tt.status)
			}
			e, ok := object(t, body)["error"].(map[string]any)
			if !ok || len(e) != 4 || e["type"] != tt.typ || e["code"] != tt.code || e["param"] != tt.param {
				t.Errorf("%s", body)
			}
			if m, _ := e["message"].(string); m == "" || strings.Contains(m, "secret") {
				t.Errorf("message %q", m)
			}
			if internal := tt.status == 500; internal != strings.Contains(logged(), "secret") {
				t.Errorf("the log is %q", logged())
			}
			if after := resp.Header.Get("Retry-After"); (after != "") != (tt.status == 503) {
				t.Errorf("Retry-After %q", after)
			}
			if resp.Header.Get("X-Request-Id") == "" {
				t.Error("no X-Request-Id")
			}
		})
	}
}

func TestEveryAnswerHasAnIDOfItsOwn(t *testing.T) {
	url, _ := serve(t, &fake{finish: "stop"})
	seen := make(map[string]bool)
	for _, path := range []string{"/v1/models", "/v1/models/chorus", "/v1/nothing", "/v1/models"} {
		resp, _, _ := do(t, "GET", url+path, "", nil)
		id := resp.Header.Get("X-Request-Id")
		if id == "" || seen[id] {
			t.Errorf("%s: id %q", path, id)
		}
		seen[id] = true
	}
}

func TestAStreamThatFailsIsCutAfterTheError(t *testing.T) {
	url, logged := serve(t, &fake{tokens: []string{"Light"}, fail: errors.New("disk /secret/path is full")})
	resp, body, err := do(t, "POST", url+"/v1/completions", `{"model":"chorus","prompt":"x","stream":true}`, nil)
	if resp.StatusCode != http.StatusOK || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%s, %v, expected the connection to be cut", resp.Status, err)
	}
	all := events(t, body)
	if len(all) != 2 || strings.Contains(body, "[DONE]") || strings.Contains(body, "secret") || !strings.Contains(logged(), "secret") {
		t.Fatalf("%q, log %q", all, logged())
	}
	if e, ok := object(t, all[1])["error"].(map[string]any); !ok || e["type"] != "server_error" || e["message"] == "" {
		t.Errorf("the last event is %s", all[1])
	}
}

func TestGenerationEndsWhenTheClientIsGone(t *testing.T) {
	for _, stream := range []bool{false, true} {
		f := &fake{tokens: []string{"Light"}, begun: make(chan struct{})}
		ended := make(chan struct{})
		handler := New(f, slog.New(slog.DiscardHandler))
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(ended)
			handler.ServeHTTP(w, r)
		}))
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "POST", server.URL+"/v1/completions", strings.NewReader(fmt.Sprintf(`{"model":"chorus","prompt":"x","stream":%v}`, stream)))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if resp, err := http.DefaultClient.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
		}()
		<-f.begun
		cancel()
		<-ended
		<-done
		if len(f.heard) != 1 || !errors.Is(f.heard[0], context.Canceled) {
			t.Errorf("stream %v: generation ended with %v", stream, f.heard)
		}
		server.Close()
	}
}

func TestOnlyNamesOfThisMachineReachALoopbackListener(t *testing.T) {
	url, _ := serve(t, &fake{})
	_, port, _ := strings.Cut(strings.TrimPrefix(url, "http://"), ":")
	for host, want := range map[string]int{
		"":                          http.StatusOK, // as the client sends it: 127.0.0.1 and the port
		"localhost":                 http.StatusOK,
		"localhost:" + port:         http.StatusOK,
		"127.0.0.1":                 http.StatusOK,
		"127.0.0.2:80":              http.StatusOK,
		"[::1]:" + port:             http.StatusOK,
		"evil.example":              http.StatusForbidden,
		"evil.example:" + port:      http.StatusForbidden,
		"localhost.evil.example":    http.StatusForbidden,
		"127.0.0.1.evil.example:80": http.StatusForbidden,
		"192.0.2.1":                 http.StatusForbidden,
	} {
		resp, body, _ := do(t, "GET", url+"/v1/models", "", func(r *http.Request) { r.Host = host })
		if resp.StatusCode != want {
			t.Errorf("host %q: %s", host, resp.Status)
		}
		if want == http.StatusForbidden && object(t, body)["error"] == nil {
			t.Errorf("host %q: %s", host, body)
		}
	}
}

func TestModels(t *testing.T) {
	url, _ := serve(t, &fake{})
	want := map[string]any{"id": "chorus", "object": "model", "created": 0., "owned_by": "heart-hospitals"}
	_, body, _ := do(t, "GET", url+"/v1/models", "", nil)
	if got := object(t, body); !reflect.DeepEqual(got, map[string]any{"object": "list", "data": []any{want}}) {
		t.Errorf("models %v", got)
	}
	_, body, _ = do(t, "GET", url+"/v1/models/chorus", "", nil)
	if got := object(t, body); !reflect.DeepEqual(got, want) {
		t.Errorf("model %v", got)
	}
}
