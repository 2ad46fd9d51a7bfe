package tokenizer

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"chorus/durable"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// file is a tokenizer.json as far as it is understood. The steps around the
// model are kept as they are until their length is known to be modest.
type file struct {
	Version       string         `json:"version"`
	Truncation    jsontext.Value `json:"truncation"`
	Padding       jsontext.Value `json:"padding"`
	AddedTokens   addedTokens    `json:"added_tokens"`
	Normalizer    jsontext.Value `json:"normalizer"`
	PreTokenizer  jsontext.Value `json:"pre_tokenizer"`
	PostProcessor jsontext.Value `json:"post_processor"`
	Decoder       jsontext.Value `json:"decoder"`
	Model         model          `json:"model"`
}

type addedToken struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// component is any step around the model; which fields count depends on Type.
type component struct {
	Type string `json:"type"`

	// ByteLevel
	AddPrefixSpace *bool `json:"add_prefix_space,omitzero"`
	TrimOffsets    *bool `json:"trim_offsets,omitzero"` // offsets are not given here
	UseRegex       *bool `json:"use_regex,omitzero"`    // absent: true

	// Split
	Pattern  *pattern `json:"pattern,omitzero"`
	Behavior string   `json:"behavior,omitzero"`
	Invert   *bool    `json:"invert,omitzero"`

	// Sequence
	PreTokenizers []component `json:"pretokenizers,omitzero"`
	Processors    []component `json:"processors,omitzero"`

	// TemplateProcessing
	Single        []templatePart `json:"single,omitzero"`
	Pair          jsontext.Value `json:"pair,omitzero"` // pairs of texts are not encoded here
	SpecialTokens jsontext.Value `json:"special_tokens,omitzero"`
}

// templatePart is either the text or a token beside it.
type templatePart struct {
	Sequence *struct {
		ID     string `json:"id"`
		TypeID int    `json:"type_id"`
	} `json:"Sequence,omitzero"`
	SpecialToken jsontext.Value `json:"SpecialToken,omitzero"`
}

type pattern struct {
	Regex  string `json:"Regex,omitzero"`
	String string `json:"String,omitzero"`
}

type model struct {
	Type         string     `json:"type"`
	Dropout      float64    `json:"dropout,omitzero"`
	UnkToken     string     `json:"unk_token,omitzero"`
	Prefix       string     `json:"continuing_subword_prefix,omitzero"`
	Suffix       string     `json:"end_of_word_suffix,omitzero"`
	FuseUnk      bool       `json:"fuse_unk"`
	ByteFallback bool       `json:"byte_fallback"`
	IgnoreMerges bool       `json:"ignore_merges"`
	Vocab        vocabulary `json:"vocab"`
	Merges       mergePairs `json:"merges"`
}

// vocabulary maps tokens, over the byte-level alphabet, to ids.
type vocabulary map[string]int32

// MarshalJSONTo writes the tokens in the order of their ids.
func (v vocabulary) MarshalJSONTo(enc *jsontext.Encoder) error {
	tokens := slices.SortedFunc(maps.Keys(v), func(a, b string) int { return cmp.Compare(v[a], v[b]) })
	if err := enc.WriteToken(jsontext.BeginObject); err != nil {
		return err
	}
	for _, token := range tokens {
		if err := enc.WriteToken(jsontext.String(token)); err != nil {
			return err
		}
		if err := enc.WriteToken(jsontext.Int(int64(v[token]))); err != nil {
			return err
		}
	}
	return enc.WriteToken(jsontext.EndObject)
}

// UnmarshalJSONFrom stops at maxVocab tokens.
func (v *vocabulary) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if err := expect(dec, '{'); err != nil {
		return err
	}
	*v = make(vocabulary)
	for dec.PeekKind() != '}' {
		if len(*v) == maxVocab {
			return fmt.Errorf("more than %d tokens", maxVocab)
		}
		token, err := dec.ReadToken()
		if err != nil {
			return err
		}
		name := token.String()
		number, err := dec.ReadValue()
		if err != nil {
			return err
		}
		id, err := strconv.ParseInt(string(number), 10, 32)
		if err != nil {
			return fmt.Errorf("token %q: %.40q is no id", name, number)
		}
		(*v)[name] = int32(id)
	}
	return expect(dec, '}')
}

// mergePair is spelled ["left","right"], or "left right" in older files.
type mergePair [2]string

func (m *mergePair) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	if dec.PeekKind() != '"' {
		return json.UnmarshalDecode(dec, (*[2]string)(m))
	}
	token, err := dec.ReadToken()
	if err != nil {
		return err
	}
	left, right, ok := strings.Cut(token.String(), " ")
	if !ok || left == "" || right == "" || strings.Contains(right, " ") {
		return errors.New("a merge is two tokens with a space between")
	}
	*m = mergePair{left, right}
	return nil
}

type (
	addedTokens []addedToken
	mergePairs  []mergePair
)

func (a *addedTokens) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	return unmarshalList(dec, (*[]addedToken)(a), maxAdded)
}

func (m *mergePairs) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	return unmarshalList(dec, (*[]mergePair)(m), maxMerges)
}

// unmarshalList reads an array and stops at limit elements: an element takes
// many times the memory of its JSON.
func unmarshalList[T any](dec *jsontext.Decoder, list *[]T, limit int) error {
	if err := expect(dec, '['); err != nil {
		return err
	}
	*list = nil
	for dec.PeekKind() != ']' {
		if len(*list) == limit {
			return fmt.Errorf("more than %d elements", limit)
		}
		var element T
		if err := json.UnmarshalDecode(dec, &element, json.RejectUnknownMembers(true)); err != nil {
			return err
		}
		*list = append(*list, element)
	}
	return expect(dec, ']')
}

func expect(dec *jsontext.Decoder, kind jsontext.Kind) error {
	token, err := dec.ReadToken()
	if err == nil && token.Kind() != kind {
		err = fmt.Errorf("found %v, expected %v", token.Kind(), kind)
	}
	return err
}

// splitter returns nil for a pre-tokenizer that is not supported.
func (c *component) splitter() splitter {
	if c == nil {
		return nil
	}
	switch {
	case c.Type == "ByteLevel" && c.keepsText() && c.usesRegex():
		return newSplitter(gpt2Pattern)
	case c.Type == "Sequence" && len(c.PreTokenizers) == 2:
		split, bytes := c.PreTokenizers[0], c.PreTokenizers[1]
		// The patterns match all of any text, so that to isolate the matches
		// and to remove what lies between them are the same.
		keeps := split.Behavior == "Isolated" || split.Behavior == "Removed" && split.Invert != nil && *split.Invert
		if split.Type == "Split" && split.Pattern != nil && split.Pattern.String == "" && keeps &&
			bytes.Type == "ByteLevel" && bytes.keepsText() && !bytes.usesRegex() {
			return newSplitter(split.Pattern.Regex)
		}
	}
	return nil
}

func (c *component) keepsText() bool { return c.AddPrefixSpace != nil && !*c.AddPrefixSpace }
func (c *component) usesRegex() bool { return c.UseRegex == nil || *c.UseRegex }

// addsNothing reports whether a post-processor leaves the ids as they are.
func (c *component) addsNothing() bool {
	if c == nil {
		return true
	}
	switch c.Type {
	case "ByteLevel": // changes offsets only
		return true
	case "TemplateProcessing":
		return len(c.Single) == 1 && c.Single[0].Sequence != nil && c.Single[0].Sequence.ID == "A"
	case "Sequence":
		for i := range c.Processors {
			if !c.Processors[i].addsNothing() {
				return false
			}
		}
		return true
	}
	return false
}

// Save writes the tokenizer.json that t was parsed from, byte for byte, as
// [durable.WriteFile] does it.
func (t *Tokenizer) Save(path string) error {
	return durable.WriteFile(path, durable.Bytes(t.file))
}

// Sum is the SHA-256 of the tokenizer.json that t was parsed from: tokenizers of one sum give the same ids.
func (t *Tokenizer) Sum() [sha256.Size]byte { return sha256.Sum256(t.file) }
