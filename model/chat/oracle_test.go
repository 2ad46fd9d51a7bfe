package chat

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// cases are what transformers made of templates: see testdata/generate.py.
type cases struct {
	Templates     map[string]string
	Tokens        map[string]string
	Conversations map[string]json.RawMessage
	Tools         json.RawMessage
	Rendered      []struct {
		Template, Conversation string
		Prompt, Tools          bool
		Want                   outcome
	}
	Messages    json.RawMessage
	Variables   map[string]json.RawMessage
	Constructs  []construct
	Unsupported []string
	Grid, Soup  []construct
}

// An outcome is a text, or an error with the words of raise_exception if it was one.
type outcome struct {
	text, refusal string
	fails         bool
}

func (o *outcome) UnmarshalJSON(b []byte) error {
	if json.Unmarshal(b, &o.text) == nil {
		return nil
	}
	o.fails = true
	var e struct{ Error string }
	err := json.Unmarshal(b, &e)
	o.refusal = e.Error
	return err
}

type construct struct {
	src  string
	want outcome
}

func (c *construct) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &[]any{&c.src, &c.want}) }

func oracle(t testing.TB) (c cases) {
	t.Helper()
	b, err := os.ReadFile("testdata/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// decode reads JSON as a template sees it: with the order of keys, and integers apart from floats.
func decode(t testing.TB, b []byte) value {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber()
	var read func() value
	read = func() value {
		token, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		switch token {
		case json.Delim('['):
			s := &sequence{}
			for d.More() {
				s.items = append(s.items, read())
			}
			_, _ = d.Token()
			return s
		case json.Delim('{'):
			o := newDict()
			for d.More() {
				key := read().(string)
				o.set(key, read())
			}
			_, _ = d.Token()
			return o
		}
		if n, ok := token.(json.Number); ok {
			if i, err := n.Int64(); err == nil {
				return i
			}
			f, _ := n.Float64()
			return f
		}
		return token
	}
	return read()
}

// made renders a template at the time of the oracle.
func made(src string, tokens map[string]string, vars map[string]value) (string, error) {
	m, err := newTemplate(src, tokens)
	if err != nil {
		return "", err
	}
	m.now = func() time.Time { return time.Date(2025, 3, 7, 9, 5, 2, 0, time.Local) }
	return m.render(vars)
}

func TestTemplatesRenderAsWithTransformers(t *testing.T) {
	c := oracle(t)
	for _, r := range c.Rendered {
		vars := map[string]value{"messages": decode(t, c.Conversations[r.Conversation]), "tools": nil, "documents": nil, "add_generation_prompt": r.Prompt}
		if r.Tools {
			vars["tools"] = decode(t, c.Tools)
		}
		got, err := made(c.Templates[r.Template], c.Tokens, vars)
		var refusal *Refusal
		switch {
		case r.Want.fails && err == nil:
			t.Errorf("%s of %q: %q, and transformers refuses", r.Template, r.Conversation, got)
		case r.Want.refusal != "" && (!errors.As(err, &refusal) || refusal.Message != r.Want.refusal):
			t.Errorf("%s of %q: %v, expected the refusal %q", r.Template, r.Conversation, err, r.Want.refusal)
		case !r.Want.fails && (err != nil || got != r.Want.text):
			t.Errorf("%s of %q: %q, %v, expected %q", r.Template, r.Conversation, got, err, r.Want.text)
		}
	}
}

func TestConstructsMeanWhatTheyMeanToTransformers(t *testing.T) {
	c := oracle(t)
	answered := 0
	for name, list := range map[string][]construct{"constructs": c.Constructs, "grid": c.Grid, "soup": c.Soup} {
		for _, k := range list {
			got, err := made(k.src, c.Tokens, c.vars(t))
			switch {
			case err == nil && (k.want.fails || got != k.want.text):
				t.Errorf("%q: %q, expected %+v", k.src, got, k.want)
			case err != nil && !k.want.fails && name != "grid":
				t.Errorf("%q: %v, expected %q", k.src, err, k.want.text)
			case err == nil && name == "grid":
				answered++
			}
		}
	}
	if answered < len(c.Grid)/3 {
		t.Errorf("%d of %d answered in the grid", answered, len(c.Grid))
	}
}

func TestUnsupportedConstructsAreRefusedByLine(t *testing.T) {
	c := oracle(t)
	for _, src := range c.Unsupported {
		got, err := made("\n"+src, c.Tokens, c.vars(t))
		if err == nil || !strings.HasPrefix(err.Error(), "line 2: ") {
			t.Errorf("%q: %q, %v", src, got, err)
		}
	}
}

// vars are the variables of the constructs.
func (c cases) vars(t testing.TB) map[string]value {
	vars := map[string]value{"messages": decode(t, c.Messages), "tools": nil, "documents": nil, "add_generation_prompt": true}
	for name, b := range c.Variables {
		vars[name] = decode(t, b)
	}
	return vars
}
