package openai

import (
	"errors"
	"net/http"
	"slices"
	"testing"

	client "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// These tests hold this package to what OpenAI's own client for Go makes of it.

func newClient(t *testing.T, f *fake) client.Client {
	t.Helper()
	url, _ := serve(t, f)
	return client.NewClient(option.WithBaseURL(url+"/v1"), option.WithAPIKey("any"), option.WithMaxRetries(0))
}

func ask(text string) client.CompletionNewParams {
	return client.CompletionNewParams{Model: "chorus", Prompt: client.CompletionNewParamsPromptUnion{OfString: client.String(text)}}
}

func TestOpenAIClientReadsAWholeAnswer(t *testing.T) {
	f := &fake{tokens: []string{"Light", " is", " bent"}, finish: "stop"}
	c := newClient(t, f)
	q := ask("What is light?")
	q.MaxTokens, q.Temperature, q.TopP, q.Seed = client.Int(7), client.Float(0.5), client.Float(0.9), client.Int(3)
	q.Stop = client.CompletionNewParamsStopUnion{OfStringArray: []string{"\n", "."}}
	a, err := c.Completions.New(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Choices) != 1 || a.Choices[0].Text != "Light is bent" || a.Choices[0].FinishReason != "stop" || a.Usage.TotalTokens != 7 || a.Model != "chorus" {
		t.Errorf("%+v", a)
	}
	r := f.asked[0]
	if r.Prompt != "What is light?" || r.MaxTokens != 7 || r.Temperature != 0.5 || r.TopP != 0.9 || r.Seed != 3 || !slices.Equal(r.Stop, []string{"\n", "."}) {
		t.Errorf("the backend was asked %+v", r)
	}
	q.Prompt = client.CompletionNewParamsPromptUnion{OfArrayOfTokens: []int64{5, 6}}
	if _, err := c.Completions.New(t.Context(), q); err != nil || !slices.Equal(f.asked[1].PromptIDs, []int{5, 6}) {
		t.Errorf("%v: the backend was asked %+v", err, f.asked[1])
	}
	q.Prompt = client.CompletionNewParamsPromptUnion{OfArrayOfTokenArrays: [][]int64{{7}}}
	if _, err := c.Completions.New(t.Context(), q); err != nil || !slices.Equal(f.asked[2].PromptIDs, []int{7}) {
		t.Errorf("%v: the backend was asked %+v", err, f.asked[2])
	}
}

func TestOpenAIClientReadsAStream(t *testing.T) {
	for _, usage := range []bool{false, true} {
		c := newClient(t, &fake{tokens: []string{"Light", " is", "", " bent"}, finish: "length"})
		q := ask("x")
		if usage {
			q.StreamOptions = client.ChatCompletionStreamOptionsParam{IncludeUsage: client.Bool(true)}
		}
		s := c.Completions.NewStreaming(t.Context(), q)
		var text, finish string
		var total int64
		for s.Next() {
			chunk := s.Current()
			total += chunk.Usage.TotalTokens
			for _, choice := range chunk.Choices {
				text += choice.Text
				finish += string(choice.FinishReason)
			}
		}
		if err := s.Err(); err != nil || text != "Light is bent" || finish != "length" || total != map[bool]int64{false: 0, true: 8}[usage] {
			t.Errorf("usage %v: %q, finish %q, %d tokens, %v", usage, text, finish, total, err)
		}
	}
}

func TestOpenAIClientSeesThatAStreamFailed(t *testing.T) {
	c := newClient(t, &fake{tokens: []string{"Light"}, fail: errors.New("disk is full")})
	s := c.Completions.NewStreaming(t.Context(), ask("x"))
	n := 0
	for s.Next() {
		n++
	}
	if s.Err() == nil || n != 1 {
		t.Errorf("%d chunks and %v, expected one and an error", n, s.Err())
	}
}

func TestOpenAIClientSeesErrorsAsItsOwn(t *testing.T) {
	for _, tt := range []struct {
		f      *fake
		change func(*client.CompletionNewParams)
		want   Error
	}{
		{&fake{}, func(q *client.CompletionNewParams) { q.Model = "gpt-4" }, Error{Status: http.StatusNotFound, Type: "invalid_request_error", Code: "model_not_found", Param: "model"}},
		{&fake{}, func(q *client.CompletionNewParams) { q.Echo = client.Bool(true) }, Error{Status: http.StatusBadRequest, Type: "invalid_request_error", Param: "echo"}},
		{&fake{fail: errors.New("disk is full")}, func(*client.CompletionNewParams) {}, Error{Status: http.StatusInternalServerError, Type: "server_error"}},
		{&fake{fail: &Error{Status: http.StatusBadRequest, Type: "invalid_request_error", Code: "context_length_exceeded", Param: "prompt", Message: "too long"}},
			func(*client.CompletionNewParams) {}, Error{Status: http.StatusBadRequest, Type: "invalid_request_error", Code: "context_length_exceeded", Param: "prompt"}},
	} {
		c := newClient(t, tt.f)
		q := ask("x")
		tt.change(&q)
		_, whole := c.Completions.New(t.Context(), q)
		s := c.Completions.NewStreaming(t.Context(), q)
		for s.Next() {
			t.Error("a chunk of an answer that failed")
		}
		for _, err := range []error{whole, s.Err()} {
			var e *client.Error
			if !errors.As(err, &e) {
				t.Errorf("%v, expected the client's own error", err)
				continue
			}
			got := Error{Status: e.StatusCode, Type: e.Type, Code: e.Code, Param: e.Param}
			if got != tt.want || e.Message == "" {
				t.Errorf("%+v with %q, expected %+v", got, e.Message, tt.want)
			}
		}
	}
}

func TestOpenAIClientTriesAgainWhenTheNodeIsBusy(t *testing.T) {
	f := &fake{fail: &Error{Status: http.StatusServiceUnavailable, Type: "server_error", Message: "too many at once"}}
	url, _ := serve(t, f)
	c := client.NewClient(option.WithBaseURL(url+"/v1"), option.WithAPIKey("any"), option.WithMaxRetries(1))
	if _, err := c.Completions.New(t.Context(), ask("x")); err == nil || len(f.asked) != 2 {
		t.Errorf("asked %d times, %v", len(f.asked), err)
	}
}

func TestOpenAIClientListsTheModel(t *testing.T) {
	c := newClient(t, &fake{})
	page, err := c.Models.List(t.Context())
	if err != nil || len(page.Data) != 1 || page.Data[0].ID != "chorus" || page.Data[0].OwnedBy != "heart-hospitals" {
		t.Errorf("%+v, %v", page, err)
	}
	m, err := c.Models.Get(t.Context(), "chorus")
	if err != nil || m.ID != "chorus" {
		t.Errorf("%+v, %v", m, err)
	}
	var e *client.Error
	if _, err := c.Models.Get(t.Context(), "gpt-4"); !errors.As(err, &e) || e.Code != "model_not_found" {
		t.Errorf("%v", err)
	}
}

func chat(messages ...client.ChatCompletionMessageParamUnion) client.ChatCompletionNewParams {
	return client.ChatCompletionNewParams{Model: "chorus", Messages: messages}
}

func TestOpenAIClientChats(t *testing.T) {
	f := &fake{tokens: []string{"Light", " is", " bent"}, finish: "stop"}
	c := newClient(t, f)
	q := chat(client.SystemMessage("be brief"), client.DeveloperMessage("be kind"),
		client.UserMessage([]client.ChatCompletionContentPartUnionParam{client.TextContentPart("What is"), client.TextContentPart("light?")}), client.AssistantMessage("Well"), client.UserMessage("?"))
	q.MaxCompletionTokens, q.Temperature, q.Seed = client.Int(7), client.Float(0.5), client.Int(3)
	q.Stop = client.ChatCompletionNewParamsStopUnion{OfString: client.String("\n")}
	a, err := c.Chat.Completions.New(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Choices) != 1 || a.Choices[0].Message.Content != "Light is bent" || a.Choices[0].Message.Role != "assistant" || a.Choices[0].FinishReason != "stop" || a.Usage.TotalTokens != 7 || a.Model != "chorus" || a.Object != "chat.completion" {
		t.Errorf("%+v", a)
	}
	want := []Message{{"system", "be brief"}, {"system", "be kind"}, {"user", "What is\nlight?"}, {"assistant", "Well"}, {"user", "?"}}
	if r := f.asked[0]; !slices.Equal(f.chats[0], want) || r.MaxTokens != 7 || r.Temperature != 0.5 || r.Seed != 3 || !slices.Equal(r.Stop, []string{"\n"}) {
		t.Errorf("the backend was asked %+v of %q", r, f.chats[0])
	}
}

func TestOpenAIClientReadsAStreamedChat(t *testing.T) {
	for _, usage := range []bool{false, true} {
		c := newClient(t, &fake{tokens: []string{"Light", " is", "", " bent"}, finish: "length"})
		q := chat(client.UserMessage("x"))
		if usage {
			q.StreamOptions = client.ChatCompletionStreamOptionsParam{IncludeUsage: client.Bool(true)}
		}
		s := c.Chat.Completions.NewStreaming(t.Context(), q)
		var sum client.ChatCompletionAccumulator
		for s.Next() {
			if !sum.AddChunk(s.Current()) {
				t.Errorf("a chunk that does not fit: %+v", s.Current())
			}
		}
		if err := s.Err(); err != nil || len(sum.Choices) != 1 || sum.Usage.TotalTokens != map[bool]int64{false: 0, true: 8}[usage] {
			t.Fatalf("usage %v: %+v, %v", usage, sum.ChatCompletion, err)
		}
		if m := sum.Choices[0]; m.Message.Content != "Light is bent" || m.Message.Role != "assistant" || m.FinishReason != "length" {
			t.Errorf("usage %v: %+v", usage, m)
		}
	}
}

func TestOpenAIClientSeesThatAChatFailed(t *testing.T) {
	c := newClient(t, &fake{tokens: []string{"Light"}, fail: errors.New("disk is full")})
	s := c.Chat.Completions.NewStreaming(t.Context(), chat(client.UserMessage("x")))
	n := 0
	for s.Next() {
		n++
	}
	if s.Err() == nil || n != 1 {
		t.Errorf("%d chunks and %v, expected one and an error", n, s.Err())
	}
	c = newClient(t, &fake{mute: invalid("messages", "turns must alternate")})
	_, err := c.Chat.Completions.New(t.Context(), chat(client.UserMessage("x")))
	var e *client.Error
	if !errors.As(err, &e) || e.StatusCode != http.StatusBadRequest || e.Param != "messages" || e.Message != "turns must alternate" {
		t.Errorf("%v", err)
	}
}
