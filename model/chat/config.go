package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

const (
	configFile = "tokenizer_config.json"
	mapFile    = "special_tokens_map.json" // older; counts if the config does not list its added tokens
	maxConfig  = 8 << 20                   // bytes, as a config may list every added token
	listsAdded = "added_tokens_decoder"    // what such a list is called
	extraField = "extra_special_tokens"    // of tokens that only some models have
	templates  = "chat_template"           // a text, or several with names
	classField = "tokenizer_class"         // decides which tokens are there without being named
)

// config is what counts here of a folder's tokenizer_config.json and special_tokens_map.json.
type config struct {
	template *string
	tokens   map[string]string // those that are variables of a template
	named    map[string]bool   // the standard tokens that the files name, if only to say that there is none
	class    string
}

// standardTokens are those that every tokenizer of transformers can have.
var standardTokens = []string{"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}

func readConfig(dir string) (c config, err error) {
	c = config{tokens: make(map[string]string), named: make(map[string]bool)}
	b, err := readFile(dir, configFile, maxConfig)
	if err != nil {
		return c, err
	}
	older, err := readFile(dir, mapFile, maxConfig)
	if err != nil {
		return c, err
	}
	if b != nil {
		if err := c.read(b, &older); err != nil {
			return c, fmt.Errorf("%s: %w", filepath.Join(dir, configFile), err)
		}
	}
	if older != nil {
		if err := c.readTokens(older, true); err != nil {
			return c, fmt.Errorf("%s: %w", filepath.Join(dir, mapFile), err)
		}
	}
	return c, nil
}

// read reads a tokenizer_config.json. It drops the older file if that does not count.
func (c *config) read(b []byte, older *[]byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	if _, ok := fields[listsAdded]; ok {
		*older = nil
	}
	if raw := fields[classField]; raw != nil && json.Unmarshal(raw, &c.class) != nil {
		return fmt.Errorf("%s is no text", classField)
	}
	if err := c.readTokens(b, false); err != nil {
		return err
	}
	if extra := fields[extraField]; len(extra) > 0 && extra[0] == '{' { // a list is of tokens without names
		if err := c.readTokens(extra, false); err != nil {
			return fmt.Errorf("%s: %w", extraField, err)
		}
	}
	raw, ok := fields[templates]
	if !ok {
		return nil
	}
	var one *string
	if json.Unmarshal(raw, &one) == nil {
		c.template = one
		return nil
	}
	var several []struct{ Name, Template string }
	if json.Unmarshal(raw, &several) != nil {
		return fmt.Errorf("%s is neither a text nor a list of texts with names", templates)
	}
	for _, t := range several {
		if t.Name == "default" {
			c.template = &t.Template
		}
	}
	return nil
}

// readTokens reads the special tokens of an object. Each is a text or an object, which in a config, unlike the older file,
// says of itself that it is a token. A setting such as add_bos_token is none.
func (c *config) readTokens(b []byte, older bool) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	for name, raw := range fields {
		standard := slices.Contains(standardTokens, name)
		if !standard && !strings.HasSuffix(name, "_token") {
			continue
		}
		var text *string
		err := json.Unmarshal(raw, &text)
		if err != nil {
			var object struct {
				Content *string `json:"content"`
				Type    string  `json:"__type"`
			}
			text = nil
			if err = json.Unmarshal(raw, &object); err == nil && object.Content != nil && (older || object.Type == "AddedToken") {
				text = object.Content
			} else {
				err = errors.New("no token")
			}
		}
		switch {
		case err != nil && standard:
			return fmt.Errorf("%s is neither a text nor a token", name)
		case err != nil:
			continue
		case text == nil:
			delete(c.tokens, name)
		default:
			c.tokens[name] = *text
		}
		c.named[name] = true
	}
	return nil
}

// names refuses a template that reads a standard token which no file names: what it is, if it is at all, then
// follows from the classes of transformers.
func (c *config) names(reads map[string]bool) error {
	if c.class == "PreTrainedTokenizerFast" || c.class == "TokenizersBackend" {
		return nil // without tokens of their own
	}
	for _, name := range standardTokens {
		if reads[name] && !c.named[name] {
			return fmt.Errorf("the template reads %s, and %s does not say what it is", name, configFile)
		}
	}
	return nil
}
