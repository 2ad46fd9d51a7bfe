package openai

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMessagesAreTextsOrListsOfTexts(t *testing.T) {
	for messages, want := range map[string][]Message{
		`{"role":"user","content":"light"}`:                                                                                         {{"user", "light"}},
		`{"role":"system","content":""},{"role":"user","content":"n\u00e9 \n"}`:                                                     {{"system", ""}, {"user", "né \n"}},
		`{"role":"developer","content":"be brief"},{"role":"assistant","content":"a"}`:                                              {{"system", "be brief"}, {"assistant", "a"}},
		`{"role":"user","content":[{"type":"text","text":"a"}]}`:                                                                    {{"user", "a"}},
		`{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":" b"}]}`:                                        {{"user", "a\n b"}},
		`{"role":"assistant","content":"a","tool_calls":[],"function_call":null,"audio":null,"refusal":null,"name":null,"id":"m1"}`: {{"assistant", "a"}},
	} {
		_, _, got, err := parseChat([]byte(`{"model":"m","messages":[` + messages + `]}`))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", messages, got, err)
		}
	}
	for _, messages := range []string{
		`null`, `[]`, `[null]`, `[{}]`, `[{"role":"user"}]`, `[{"role":"user","content":null}]`, `[{"role":"user","content":[]}]`, `[{"role":"user","content":7}]`,
		`[{"role":"user","content":{}}]`, `[{"role":"user","content":["a"]}]`, `[{"role":"user","content":[null]}]`, `[{"role":"user","content":[{"type":"text"}]}]`,
		`[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}]`, `[{"role":"user","content":[{"type":"refusal","text":"a"}]}]`,
		`[{"role":"tool","content":"x","tool_call_id":"1"}]`, `[{"role":"function","name":"f","content":"x"}]`, `[{"role":"User","content":"x"}]`, `[{"content":"x"}]`,
		`[{"role":"user","content":"x","name":"bob"}]`, `[{"role":"assistant","content":"x","tool_calls":[{}]}]`, `[{"role":"assistant","content":"x","function_call":{}}]`,
		`[{"role":"assistant","content":"x","audio":{"id":"1"}}]`, `[{"role":"assistant","content":"x","refusal":"no"}]`,
		`{}`, `"x"`, `[7]`, `[{"role":7,"content":"x"}]`,
	} {
		refusedChat(t, `{"model":"m","messages":`+messages+`}`, "messages")
	}
	refusedChat(t, `{"model":"m"}`, "messages")
}

// refusedChat fails the test unless the body is refused with 400 because of param.
func refusedChat(t *testing.T, body, param string) {
	t.Helper()
	_, _, _, err := parseChat([]byte(body))
	var e *Error
	if !errors.As(err, &e) || e.Status != http.StatusBadRequest || e.Type != "invalid_request_error" || e.Param != param || e.Message == "" {
		t.Errorf("%s: %#v, expected a refusal of %q", body, err, param)
	}
}

const hi = `"messages":[{"role":"user","content":"hi"}]`

func TestFieldsThatWouldChangeAChatAreRefused(t *testing.T) {
	for _, tt := range [][2]string{
		{"n", "2"}, {"logit_bias", `{"1":1}`}, {"presence_penalty", "0.1"}, {"frequency_penalty", "-0.1"}, {"logprobs", "true"}, {"top_logprobs", "3"},
		{"tools", `[{"type":"function"}]`}, {"tool_choice", `"required"`}, {"tool_choice", `{"type":"function"}`}, {"functions", `[{}]`}, {"function_call", `{"name":"f"}`},
		{"response_format", `{"type":"json_object"}`}, {"response_format", `{"type":"json_schema","json_schema":{}}`}, {"response_format", `"text"`},
		{"modalities", `["text","audio"]`}, {"audio", `{"voice":"x","format":"wav"}`}, {"web_search_options", `{}`}, {"reasoning_effort", `"high"`}, {"verbosity", `"low"`},
		{"max_tokens", "0"}, {"max_completion_tokens", "0"}, {"temperature", "2.1"}, {"top_p", "0"}, {"stop", "7"},
		{"max_completion_tokens", `"9"`}, {"max_tokens", `"9"`}, {"tools", `{}`}, {"logprobs", "5"}, {"stream", `"yes"`},
	} {
		refusedChat(t, `{"model":"m",`+hi+`,"`+tt[0]+`":`+tt[1]+`}`, tt[0])
	}
	refusedChat(t, `{"model":"m",`+hi+`,"max_tokens":1,"max_completion_tokens":2}`, "max_completion_tokens")
	for _, body := range []string{``, `{`, `[]`, `{"model":"m",` + hi + `} {}`} {
		refusedChat(t, body, "")
	}
}

func TestFieldsThatAskNothingOfAChatAreTaken(t *testing.T) {
	_, r, _, err := parseChat([]byte(`{"model":"m",` + hi + `,"n":1,"logit_bias":{},"presence_penalty":0,"frequency_penalty":null,"logprobs":false,"top_logprobs":0,
		"tools":[],"tool_choice":"auto","functions":null,"function_call":"none","response_format":{"type":"text"},"modalities":["text"],"audio":null,"web_search_options":null,
		"reasoning_effort":null,"verbosity":"medium","parallel_tool_calls":true,"store":false,"metadata":{},"user":"u","service_tier":"auto","prediction":null}`))
	if err != nil || r.MaxTokens != allTokens || r.Temperature != 1 || r.TopP != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, limits := range []string{`"max_tokens":7`, `"max_completion_tokens":7`, `"max_tokens":7,"max_completion_tokens":7`} {
		if _, r, _, err := parseChat([]byte(`{"model":"m",` + hi + `,` + limits + `}`)); err != nil || r.MaxTokens != 7 {
			t.Errorf("%s: %+v, %v", limits, r, err)
		}
	}
}

func TestWholeChatAnswer(t *testing.T) {
	f := &fake{tokens: []string{"Light", " is", "", " bent"}, finish: "stop"}
	url, _ := serve(t, f)
	resp, body, err := do(t, "POST", url+"/v1/chat/completions", `{"model":"chorus","messages":[{"role":"system","content":"s"},{"role":"user","content":"What?"}],"max_completion_tokens":9}`, nil)
	if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s %v: %s, %v", resp.Status, resp.Header, body, err)
	}
	got := object(t, body)
	if id, _ := got["id"].(string); !strings.HasPrefix(id, "chatcmpl-") {
		t.Errorf("id %q", id)
	}
	if created, _ := got["created"].(float64); int64(created) > time.Now().Unix() || created == 0 {
		t.Errorf("created %v", got["created"])
	}
	delete(got, "id")
	delete(got, "created")
	want := map[string]any{
		"object": "chat.completion", "model": "chorus",
		"choices": []any{map[string]any{"index": 0., "message": map[string]any{"role": "assistant", "content": "Light is bent", "refusal": nil}, "logprobs": nil, "finish_reason": "stop"}},
		"usage":   map[string]any{"prompt_tokens": 4., "completion_tokens": 4., "total_tokens": 8.},
		"chorus":  sharesAsJSON(wholeShares),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, expected %v", got, want)
	}
	if len(f.asked) != 1 || !slices.Equal(f.asked[0].PromptIDs, []int{1, 5}) || f.asked[0].MaxTokens != 9 || !slices.Equal(f.chats[0], []Message{{"system", "s"}, {"user", "What?"}}) {
		t.Errorf("the backend was asked %+v of %q", f.asked, f.chats)
	}
}

func TestStreamedChatAnswer(t *testing.T) {
	for _, usage := range []bool{false, true} {
		url, _ := serve(t, &fake{tokens: []string{"Light", "", " bent"}, finish: "length"})
		resp, body, err := do(t, "POST", url+"/v1/chat/completions", `{"model":"chorus",`+hi+`,"stream":true,"stream_options":{"include_usage":`+map[bool]string{false: "false", true: "true"}[usage]+`}}`, nil)
		if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
			t.Fatalf("%s %v, %v", resp.Status, resp.Header, err)
		}
		all := events(t, body)
		first := object(t, all[0])
		want := []string{
			`[{"delta":{"content":"Light","role":"assistant"},"finish_reason":null,"index":0,"logprobs":null}]`,
			`[{"delta":{"content":""},"finish_reason":null,"index":0,"logprobs":null}]`,
			`[{"delta":{"content":" bent"},"finish_reason":null,"index":0,"logprobs":null}]`,
			`[{"delta":{},"finish_reason":"length","index":0,"logprobs":null}]`,
		}
		if usage {
			want = append(want, `[]`)
		}
		if len(all) != len(want)+1 || all[len(want)] != "[DONE]" {
			t.Fatalf("usage %v: %q", usage, all)
		}
		for i := range want {
			c := object(t, all[i])
			choices, err := json.Marshal(c["choices"])
			if err != nil || string(choices) != want[i] || c["id"] != first["id"] || c["created"] != first["created"] || c["object"] != "chat.completion.chunk" || c["model"] != "chorus" {
				t.Errorf("event %d is %s", i, all[i])
			}
			counted := reflect.DeepEqual(c["usage"], map[string]any{"prompt_tokens": 4., "completion_tokens": 3., "total_tokens": 7.})
			if _, failed := c["error"]; failed || counted != (i == 4) || !counted && c["usage"] != nil {
				t.Errorf("event %d is %s", i, all[i])
			}
			shares := map[bool]any{false: sharesAsJSON(stepShares), true: sharesAsJSON(wholeShares)}[i == 3]
			if i < 4 && !reflect.DeepEqual(c["chorus"], shares) {
				t.Errorf("event %d is %s", i, all[i])
			}
		}
	}
}

func TestAChatWithoutAPromptIsNotAnswered(t *testing.T) {
	f := &fake{tokens: []string{"Light"}, finish: "stop", mute: invalid("messages", "turns must alternate")}
	url, _ := serve(t, f)
	for _, stream := range []string{"false", "true"} {
		resp, body, _ := do(t, "POST", url+"/v1/chat/completions", `{"model":"chorus",`+hi+`,"stream":`+stream+`}`, nil)
		e, _ := object(t, body)["error"].(map[string]any)
		if resp.StatusCode != http.StatusBadRequest || e["message"] != "turns must alternate" || e["param"] != "messages" || len(f.asked) > 0 {
			t.Errorf("%s: %s", resp.Status, body)
		}
	}
}

func FuzzParseChat(f *testing.F) {
	f.Add([]byte(`{"model":"m",` + hi + `}`))
	f.Add([]byte(`{"model":"m","messages":[{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},{"role":"assistant","content":""}],"max_tokens":7,"stop":["a","b"],"seed":-3}`))
	f.Add([]byte(`{` + hi + `,"max_completion_tokens":7,"temperature":0,"top_p":0.5,"stream":true,"stream_options":{"include_usage":true},"tool_choice":"auto"}`))
	f.Add([]byte(`{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}`))
	f.Add([]byte(`{"messages":[null],"response_format":{"type":"json_object"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, r, messages, err := parseChat(body)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Status != http.StatusBadRequest || e.Message == "" || strings.ContainsAny(e.Param, " \n.") {
				t.Errorf("%#v", err)
			}
			return
		}
		if r.MaxTokens < 1 || !(r.Temperature >= 0 && r.Temperature <= 2) || !(r.TopP > 0 && r.TopP <= 1) || len(r.Stop) > maxStops || len(messages) == 0 || r.PromptIDs != nil || r.Prompt != "" {
			t.Errorf("%+v of %q", r, messages)
		}
		var turns []map[string]string
		for _, m := range messages {
			if m.Role != "system" && m.Role != "user" && m.Role != "assistant" {
				t.Errorf("role %q", m.Role)
			}
			turns = append(turns, map[string]string{"role": m.Role, "content": m.Content})
		}
		again, err := json.Marshal(map[string]any{
			"model": c.Model, "messages": turns, "max_completion_tokens": r.MaxTokens, "temperature": r.Temperature, "top_p": r.TopP,
			"seed": int64(r.Seed), "stop": r.Stop, "stream": c.Stream,
		})
		if err != nil {
			t.Fatal(err)
		}
		d, q, same, err := parseChat(again)
		if len(r.Stop) == 0 {
			r.Stop, q.Stop = nil, nil
		}
		if err != nil || !reflect.DeepEqual(q, r) || !slices.Equal(same, messages) || d.Model != c.Model || d.Stream != c.Stream {
			t.Errorf("%s: %+v, %q, %v, expected %+v, %q", again, q, same, err, r, messages)
		}
	})
}
