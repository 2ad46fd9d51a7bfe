package chat

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// FuzzReadConfig holds that the files beside a tokenizer are refused by the folder's name or read, and then say the same once that is written in one.
func FuzzReadConfig(f *testing.F) {
	const token = `{"__type":"AddedToken","content":"<c>","lstrip":false,"rstrip":false,"normalized":false,"single_word":false,"special":true}`
	for _, seed := range [][2]string{
		{`{"tokenizer_class":"PreTrainedTokenizerFast","bos_token":"<s>","eos_token":null,"add_bos_token":true,"chat_template":"A{{ bos_token }}"}`, ""},
		{`{"extra_special_tokens":{"foo_token":"<f>"},"bos_token":` + token + `}`, `{"bos_token":{"content":"<old>"},"pad_token":"<p>"}`},
		{`{"added_tokens_decoder":{},"chat_template":[{"name":"tool_use","template":"T"},{"name":"default","template":"D"}]}`, `{"bos_token":"<old>"}`},
		{`{"bos_token":7}`, `[]`},
		{`{"chat_template":null,"extra_special_tokens":[]}`, `{"unk_token":null}`},
	} {
		f.Add(seed[0], seed[1])
	}
	dir := f.TempDir()
	write := func(t *testing.T, name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, own, older string) {
		write(t, configFile, own)
		write(t, mapFile, older)
		c, err := readConfig(dir)
		if err != nil {
			if !strings.Contains(err.Error(), dir) {
				t.Errorf("the error does not name the folder: %v", err)
			}
			return
		}
		fields := map[string]any{classField: c.class, listsAdded: map[string]any{}}
		for name := range c.named {
			fields[name] = nil
		}
		for name, text := range c.tokens {
			fields[name] = text
		}
		if c.template != nil {
			fields[templates] = *c.template
		}
		b, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		write(t, configFile, string(b))
		write(t, mapFile, `{"bos_token":"<old>","eos_token":"<old>"}`)
		if again, err := readConfig(dir); err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("%q and %q are read as %+v, and %s as %+v, %v", own, older, c, b, again, err)
		}
	})
}
