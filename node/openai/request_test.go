package openai

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestPromptFormsThatHoldOnePrompt(t *testing.T) {
	for _, tt := range []struct {
		prompt string
		text   string
		ids    []int
	}{
		{`"light"`, "light", nil},
		{`""`, "", nil},
		{`["light"]`, "light", nil},
		{`[""]`, "", nil},
		{`[5,0,7]`, "", []int{5, 0, 7}},
		{`[[5,0,7]]`, "", []int{5, 0, 7}},
		{`[5]`, "", []int{5}},
		{`"n\u00e9\ud834\udd1e"`, "né𝄞", nil},
	} {
		_, r, err := parseCompletion([]byte(`{"model":"m","prompt":` + tt.prompt + `}`))
		if err != nil || r.Prompt != tt.text || !slices.Equal(r.PromptIDs, tt.ids) || (r.PromptIDs == nil) != (tt.ids == nil) {
			t.Errorf("%s: %+v, %v", tt.prompt, r, err)
		}
	}
	for _, prompt := range []string{
		`null`, `[]`, `[[]]`, `["a","b"]`, `[[1],[2]]`, `[1,"a"]`, `["a",1]`, `[null]`, `[[null]]`, `[1,null]`, `[[1,null]]`,
		`["a",null]`, `[1.5]`, `[1e30]`, `[[[1]]]`, `{}`, `7`, `true`, `[true]`,
	} {
		refused(t, `{"model":"m","prompt":`+prompt+`}`, "prompt")
	}
	refused(t, `{"model":"m"}`, "prompt")
}

// refused fails the test unless the body is refused with 400 because of param.
func refused(t *testing.T, body, param string) {
	t.Helper()
	_, _, err := parseCompletion([]byte(body))
	var e *Error
	if !errors.As(err, &e) || e.Status != http.StatusBadRequest || e.Type != "invalid_request_error" || e.Param != param || e.Message == "" {
		t.Errorf("%s: %#v, expected a refusal of %q", body, err, param)
	}
}

func TestFieldsThatWouldChangeTheAnswerAreRefused(t *testing.T) {
	for param, value := range map[string]string{
		"n": "2", "best_of": "3", "logprobs": "0", "echo": "true", "suffix": `"end"`, "logit_bias": `{"50256":-100}`,
		"presence_penalty": "0.1", "frequency_penalty": "-0.1",
		"max_tokens": "0", "temperature": "2.1", "top_p": "0", "stop": `["a","b","c","d","e"]`,
	} {
		refused(t, `{"model":"m","prompt":"x","`+param+`":`+value+`}`, param)
	}
	for _, tt := range [][2]string{
		{"max_tokens", "-1"}, {"temperature", "-0.1"}, {"top_p", "1.1"}, {"stop", "7"}, {"stop", `["a",null]`}, {"stop", `[1]`},
		{"max_tokens", `"9"`}, {"temperature", `"hot"`}, {"stream", `"yes"`}, {"seed", "1.5"},
	} {
		refused(t, `{"model":"m","prompt":"x","`+tt[0]+`":`+tt[1]+`}`, tt[0])
	}
	for _, body := range []string{``, `{`, `[]`, `"x"`, `{"model":"m","prompt":"x"} {}`} {
		refused(t, body, "")
	}
}

func TestFieldsThatAskForNothingAreTaken(t *testing.T) {
	_, r, err := parseCompletion([]byte(`{"model":"m","prompt":"x","n":1,"best_of":1,"logprobs":null,"echo":false,"suffix":"","logit_bias":{},
		"presence_penalty":0,"frequency_penalty":0.0,"stop":null,"seed":null,"max_tokens":null,"temperature":null,"top_p":null,
		"stream":false,"stream_options":null,"user":"somebody","metadata":{"a":"b"}}`))
	if err != nil || r.MaxTokens != defaultMaxTokens || r.Temperature != 1 || r.TopP != 1 || len(r.Stop) != 0 {
		t.Errorf("%+v, %v, expected OpenAI's defaults", r, err)
	}
	_, other, _ := parseCompletion([]byte(`{"model":"m","prompt":"x"}`))
	if r.Seed == other.Seed {
		t.Error("two requests without a seed have the same")
	}
}

func TestSettingsArriveAsTheyWereSent(t *testing.T) {
	c, r, err := parseCompletion([]byte(`{"model":"m","prompt":"x","max_tokens":7,"temperature":0,"top_p":0.5,"seed":-3,"stop":["a","b"],"stream":true,"stream_options":{"include_usage":true}}`))
	seed := -3
	want := Request{Prompt: "x", MaxTokens: 7, Temperature: 0, TopP: 0.5, Seed: uint64(seed), Stop: []string{"a", "b"}}
	if err != nil || !reflect.DeepEqual(r, want) || !c.Stream || !c.StreamOptions.IncludeUsage || c.Model != "m" {
		t.Errorf("%+v, %+v, %v, expected %+v", c, r, err, want)
	}
	if _, r, err := parseCompletion([]byte(`{"prompt":"x","stop":"end"}`)); err != nil || !slices.Equal(r.Stop, []string{"end"}) {
		t.Errorf("%+v, %v", r, err)
	}
}

func FuzzParseCompletion(f *testing.F) {
	for _, prompt := range []string{`"x"`, `["x"]`, `[1,2]`, `[[1,2]]`, `[null]`, `null`, `"\ud800"`} {
		f.Add([]byte(`{"model":"m","prompt":` + prompt + `}`))
	}
	f.Add([]byte(`{"model":"m","prompt":"x","max_tokens":7,"temperature":0,"top_p":0.5,"seed":-3,"stop":["a","b"],"stream":true,"stream_options":{"include_usage":true}}`))
	f.Add([]byte(`{"prompt":"x","n":1,"logit_bias":{"1":1}}`))
	f.Add([]byte(`{"prompt":"x","stop":"\u0000"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, r, err := parseCompletion(body)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Status != http.StatusBadRequest || e.Message == "" || strings.ContainsAny(e.Param, " \n") {
				t.Errorf("%#v", err)
			}
			return
		}
		if r.MaxTokens < 1 || !(r.Temperature >= 0 && r.Temperature <= 2) || !(r.TopP > 0 && r.TopP <= 1) || len(r.Stop) > maxStops ||
			r.PromptIDs != nil && (len(r.PromptIDs) == 0 || r.Prompt != "") {
			t.Errorf("%+v", r)
		}
		prompt := any(r.Prompt)
		if r.PromptIDs != nil {
			prompt = r.PromptIDs
		}
		again, err := json.Marshal(map[string]any{
			"model": c.Model, "prompt": prompt, "max_tokens": r.MaxTokens, "temperature": r.Temperature, "top_p": r.TopP,
			"seed": int64(r.Seed), "stop": r.Stop, "stream": c.Stream,
		})
		if err != nil {
			t.Fatal(err)
		}
		d, q, err := parseCompletion(again)
		if len(r.Stop) == 0 {
			r.Stop, q.Stop = nil, nil
		}
		if err != nil || !reflect.DeepEqual(q, r) || d.Model != c.Model || d.Stream != c.Stream {
			t.Errorf("%s: %+v, %v, expected %+v", again, q, err, r)
		}
	})
}
