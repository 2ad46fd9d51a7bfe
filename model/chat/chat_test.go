package chat

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// folder writes files to a new one.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoadTakesTheTemplateThatTransformersTakes(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		want  string
	}{
		"a text":  {map[string]string{configFile: `{"chat_template":"A{{ bos_token }}","bos_token":"<s>"}`}, "A<s>"},
		"a list":  {map[string]string{configFile: `{"chat_template":[{"name":"tool_use","template":"T"},{"name":"default","template":"D"}]}`}, "D"},
		"a file":  {map[string]string{templateFile: "F{{ messages[0].content }}\n"}, "Fhi"},
		"both":    {map[string]string{templateFile: "F{{ pad_token }}", configFile: `{"chat_template":"A","pad_token":"<pad>"}`}, "F<pad>"},
		"nothing": {map[string]string{templateFile: "", configFile: `{"chat_template":"A"}`}, ""},
	} {
		m, err := Load(folder(t, tt.files))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := m.Render([]Message{{"user", "hi"}}, true); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v, expected %q", name, got, err, tt.want)
		}
	}
}

// What transformers 5.0.0 has for the tokens of such a folder.
func TestSpecialTokensAreThoseThatTransformersHas(t *testing.T) {
	const (
		src   = "{{ bos_token }} {{ eos_token }} {{ pad_token }} {{ foo_token }} {{ add_bos_token }}"
		fast  = `"tokenizer_class":"PreTrainedTokenizerFast"`
		plain = `{"content":"<c>","lstrip":false,"rstrip":false,"normalized":false,"single_word":false}`
		added = `{"__type":"AddedToken","content":"<c>","lstrip":false,"rstrip":false,"normalized":false,"single_word":false,"special":true}`
	)
	for name, tt := range map[string]struct{ config, older, want string }{
		"none named":               {`{` + fast + `}`, "", "    "},
		"texts":                    {`{` + fast + `,"bos_token":"<s>","eos_token":"</s>","foo_token":"<f>","add_bos_token":true}`, "", "<s> </s>  <f> "},
		"objects":                  {`{` + fast + `,"bos_token":` + added + `,"foo_token":` + added + `}`, "", "<c>   <c> "},
		"an object of no type":     {`{` + fast + `,"foo_token":` + plain + `}`, "", "    "},
		"null":                     {`{"tokenizer_class":"GPT2Tokenizer","bos_token":"<s>","eos_token":null,"pad_token":null}`, "", "<s>    "},
		"extra ones":               {`{` + fast + `,"extra_special_tokens":{"foo_token":"<f>"}}`, "", "   <f> "},
		"a list of extra ones":     {`{` + fast + `,"extra_special_tokens":["<f>"],"foo_token":"<g>"}`, "", "   <g> "},
		"the older file":           {`{` + fast + `,"bos_token":"<s>"}`, `{"bos_token":"<b>","eos_token":` + plain + `,"foo_token":"<f>"}`, "<b> <c>  <f> "},
		"the older file, replaced": {`{` + fast + `,"bos_token":"<s>","added_tokens_decoder":{}}`, `{"bos_token":"<b>","eos_token":"<e>"}`, "<s>    "},
	} {
		files := map[string]string{templateFile: src, configFile: tt.config}
		if tt.older != "" {
			files[mapFile] = tt.older
		}
		m, err := Load(folder(t, files))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := m.Render(nil, true); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v, expected %q", name, got, err, tt.want)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		want  string
	}{
		"a construct by file and line": {map[string]string{templateFile: "a\n{% include 'x' %}"}, `chat_template.jinja: line 2: the statement "include" is not supported here`},
		"one in the config":            {map[string]string{configFile: `{"chat_template":"{{ x|attr('y') }}"}`}, `tokenizer_config.json: chat_template: line 1: the filter "attr" is not supported`},
		"a token that is not named":    {map[string]string{templateFile: "{{ bos_token }}"}, "chat_template.jinja: the template reads bos_token, and tokenizer_config.json does not say what it is"},
		"one that a class may have":    {map[string]string{configFile: `{"chat_template":"{% for m in messages %}{{ eos_token }}{% endfor %}","tokenizer_class":"GPT2Tokenizer","bos_token":"<s>"}`}, "the template reads eos_token"},
		"a token that is none":         {map[string]string{configFile: `{"bos_token":7}`}, "tokenizer_config.json: bos_token is neither a text nor a token"},
		"an object that is none":       {map[string]string{configFile: `{"bos_token":{"content":"<s>"}}`}, "tokenizer_config.json: bos_token is neither a text nor a token"},
		"an older file that is none":   {map[string]string{mapFile: `[]`}, "special_tokens_map.json: "},
		"a config that is no JSON":     {map[string]string{configFile: `{`}, "tokenizer_config.json: "},
		"a template that is no text":   {map[string]string{configFile: `{"chat_template":7}`}, "neither a text nor a list"},
		"bytes that are no text":       {map[string]string{templateFile: "\xff"}, "not UTF-8"},
		"a template too large":         {map[string]string{templateFile: strings.Repeat("x", maxTemplate+1)}, "larger than 1048576 bytes"},
		"one in a config too large":    {map[string]string{configFile: `{"chat_template":"` + strings.Repeat("x", maxTemplate+1) + `"}`}, "larger than 1048576 bytes"},
		"nesting without end":          {map[string]string{templateFile: "{{ " + strings.Repeat("(", 1000) + strings.Repeat(")", 1000) + "}}"}, "nested more than 100 deep"},
		"blocks without end":           {map[string]string{templateFile: strings.Repeat("{% if true %}", 1000)}, "nested more than 100 deep"},
	} {
		_, err := Load(folder(t, tt.files))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, expected %q", name, err, tt.want)
		}
	}
	for name, files := range map[string]map[string]string{
		"an empty folder": nil, "a config without one": {configFile: `{"bos_token":"<s>"}`}, "null": {configFile: `{"chat_template":null}`},
		"a list without a default": {configFile: `{"chat_template":[{"name":"rag","template":"x"}]}`},
	} {
		if _, err := Load(folder(t, files)); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefusalIsTheTemplatesOwnWords(t *testing.T) {
	m, err := newTemplate("{{ messages[0].content }}\n{{ raise_exception('no ' ~ messages[0].role ~ '!') }}", nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := m.Render([]Message{{"critic", "x"}}, true)
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Message != "no critic!" || text != "" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := m.Render([]Message{{"user", "\xff"}}, true); err == nil || errors.As(err, &refusal) {
		t.Errorf("%v, expected a message that is not UTF-8 to be refused", err)
	}
}

func TestHostileTemplatesEnd(t *testing.T) {
	for name, src := range map[string]string{
		"doubling a text":  "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(100) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
		"doubling a list":  "{% set n = namespace(x=[1]) %}{% for i in range(100) %}{% set n.x = n.x + n.x %}{% endfor %}",
		"multiplying":      "{% set x = 'a' * 99999999999 %}",
		"twice too much":   "{% set x = 'aa' * 4611686018427387905 %}",
		"loops in loops":   "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
		"ranges":           "{% for a in range(100000) %}{% set x = range(99999) %}{% endfor %}",
		"output":           "{% for a in range(100000) %}" + strings.Repeat("x", 10000) + "{% endfor %}",
		"recursion":        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
		"recursion in two": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
		"deep, printed":    "{% set n = namespace(x=[]) %}{% for i in range(90000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}",
		"deep, as JSON":    "{% set n = namespace(x=[]) %}{% for i in range(90000) %}{% set n.x = {'a': n.x} %}{% endfor %}{{ n.x|tojson }}",
		"deep, compared":   "{% set n = namespace(x=[]) %}{% set m = namespace(x=[]) %}{% for i in range(9000) %}{% set n.x = [n.x] %}{% set m.x = [m.x] %}{% endfor %}{{ n.x == m.x }}",
		"wide, compared":   "{% set n = namespace(x=1) %}{% set m = namespace(x=1) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% set m.x = [m.x, m.x] %}{% endfor %}{{ n.x == m.x }}",
		"long chains":      "{% macro m() %}{{ (m()" + strings.Repeat("~''", 50000) + ")" + strings.Repeat("|trim", 50000) + strings.Repeat(" or 0", 50000) + " }}{% endmacro %}{{ m() }}",
		"replacing":        "{% set x = ('a' * 1000000)|replace('a', 'b' * 100000) %}",
		"joining":          "{% set x = range(90000)|join('b' * 100000) %}",
		"indenting":        "{% set x = ('a\\n' * 1000000)|indent(256) %}",
		"indenting JSON":   "{% set x = range(90000)|list|tojson(indent='b' * 100000) %}",
		"stripping":        "{% set x = ('a' * 1000000).strip('b' * 1000000 ~ 'a') %}",
		"counting":         "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set x = s|length %}{% endfor %}",
		"finding":          "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set x = s.find('b') ~ ('b' in s) ~ s[5] ~ (s == s ~ '') %}{% endfor %}",
		"sorting":          "{% for i in range(10000) %}{% set x = range(90000)|sort %}{% endfor %}",
	} {
		t.Run(name, func(t *testing.T) {
			m, err := newTemplate(src, nil)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := m.Render(nil, true); err == nil || !strings.HasPrefix(err.Error(), "line 1: ") {
				t.Errorf("%d bytes, %v", len(text), err)
			}
		})
	}
}

func TestALongChatIsRendered(t *testing.T) {
	c := oracle(t)
	messages := make([]Message, 1000)
	for i := range messages {
		messages[i] = Message{[]string{"user", "assistant"}[i%2], strings.Repeat("word ", 200)}
	}
	for name, src := range c.Templates {
		m, err := newTemplate(src, c.Tokens)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := m.Render(messages, true); err != nil || len(text) < 1_000_000 && name != "thinks" {
			t.Errorf("%s: %d bytes, %v", name, len(text), err)
		}
	}
}

func FuzzRender(f *testing.F) {
	c := oracle(f)
	for _, src := range c.Templates {
		f.Add(src, "user", "hi")
	}
	for _, list := range [][]construct{c.Constructs, c.Soup[:20]} {
		for _, k := range list {
			f.Add(k.src, "assistant", " é\n")
		}
	}
	for _, src := range c.Unsupported {
		f.Add(src, "system", "")
	}
	f.Fuzz(func(t *testing.T, src, role, content string) {
		m, err := newTemplate(src, map[string]string{"bos_token": "<s>"})
		if err != nil {
			return
		}
		if !strings.Contains(src, "{") {
			want := strings.TrimSuffix(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(src), "\n")
			if got, err := m.Render(nil, true); err != nil || got != want {
				t.Errorf("%q, %v, expected the text %q", got, err, want)
			}
		}
		messages := []Message{{role, content}, {"user", content}}
		a, err := m.Render(messages, true)
		if len(a) > maxWork || err != nil && a != "" || !utf8.ValidString(a) {
			t.Errorf("%d bytes, %v", len(a), err)
		}
		if b, again := m.Render(messages, true); !strings.Contains(src, "strftime") && (a != b || (err == nil) != (again == nil)) {
			t.Errorf("%q, %v, and then %q, %v", a, err, b, again)
		}
	})
}
