// Package tokenizer turns text into token ids and back: byte-level BPE as in
// GPT-2, cl100k and dolma2, read from and written to Hugging Face's
// tokenizer.json. For every file that it accepts it gives the ids that Hugging
// Face's own tokenizers library gives.
//
// It is a text codec and no more: no chat templates, no truncation or padding,
// no tokens added around a text. It refuses, with a reason, every tokenizer.json
// that asks for something it does not do (see [Parse]), rather than come close.
//
// Three things hold for every tokenizer that Parse accepts, whoever wrote it:
//
//   - No text is lost: Decode(Encode(s)) == s for every string, and so it is for
//     EncodeSpecial. Bytes that are not UTF-8 are kept as they are; for the
//     splitting into pieces each of them counts as U+FFFD does.
//   - Text cannot forge a special token: no id that Encode returns is special.
//   - Encoding takes time O(n log n) in the length of the text, also where the
//     text has no word boundary.
//
// Begin with [Load] or [Train].
package tokenizer

import (
	"errors"
	"sync"
)

// Limits of what Parse accepts.
const (
	maxFile    = 32 << 20 // bytes of a tokenizer.json; dolma2's has about 7 MB
	maxVocab   = 1 << 20  // ids; dolma2 has 100,278
	maxMerges  = 1 << 20  // of dolma2 100,000
	maxAdded   = 1 << 16  // added tokens; dolma2 has 22
	maxContent = 256      // bytes of an added token: bounds the search for it at each position
	maxStep    = 16 << 10 // bytes of the JSON of one step around the model
)

// ErrMalformed is wrapped by the errors of Parse for a file that is no
// tokenizer.json, or contradicts itself, and ErrUnsupported for one that asks
// for something this package does not do.
var (
	ErrMalformed   = errors.New("malformed tokenizer.json")
	ErrUnsupported = errors.New("unsupported tokenizer.json")
)

// Tokenizer is immutable and safe for concurrent use.
type Tokenizer struct {
	file   []byte // the tokenizer.json that this was parsed from
	split  splitter
	tokens []string // (VocabSize): the bytes of each id; "" where an id is unused
	bytes  [256]int32
	merges mergeTable
	whole  map[string]int32 // pieces that are a token as they stand; nil unless ignore_merges

	special map[string]int // content -> id of the special tokens

	raw    *trie // added tokens that are looked for first: the not normalized ones
	normal *trie // and those that are looked for in what remains

	scratch sync.Pool // *merger
}

// Encode returns the ids of text, all of it taken as text: what looks like a
// special token is spelled out in ordinary tokens. Use it for everything that
// is not a constant of the program. It equals Hugging Face's encode with
// encode_special_tokens set and add_special_tokens not.
func (t *Tokenizer) Encode(text string) []int {
	return t.encode(text, false)
}

// EncodeSpecial is Encode, but turns the special tokens in text into their
// ids. It must not see text from a user, a document or a peer. It equals
// Hugging Face's encode with add_special_tokens unset.
func (t *Tokenizer) EncodeSpecial(text string) []int {
	return t.encode(text, true)
}

func (t *Tokenizer) encode(text string, special bool) []int {
	m, _ := t.scratch.Get().(*merger)
	if m == nil {
		m = new(merger)
	}
	ids := make([]int, 0, len(text)/4+1)
	t.raw.cut(text, special, func(text string, id int) {
		if id >= 0 {
			ids = append(ids, id)
			return
		}
		t.normal.cut(text, special, func(text string, id int) {
			if id >= 0 {
				ids = append(ids, id)
				return
			}
			for len(text) > 0 {
				n := t.split(text)
				ids = m.appendIDs(ids, t, text[:n])
				text = text[n:]
			}
		})
	})
	m.trim()
	t.scratch.Put(m)
	return ids
}

// Decode returns the bytes of ids, one after another, special tokens as they
// are written. The result is UTF-8 only if the ids spell whole characters. An
// id without a token, as in a vocabulary padded to a round size, adds nothing.
func (t *Tokenizer) Decode(ids []int) string {
	n := 0
	for _, id := range ids {
		n += len(t.token(id))
	}
	b := make([]byte, 0, n)
	for _, id := range ids {
		b = append(b, t.token(id)...)
	}
	return string(b)
}

// Bytes returns the bytes of one id, for decoding as tokens come: they may end
// inside a character. It is empty for an id without a token.
func (t *Tokenizer) Bytes(id int) []byte {
	return []byte(t.token(id))
}

func (t *Tokenizer) token(id int) string {
	if id < 0 || id >= len(t.tokens) {
		return ""
	}
	return t.tokens[id]
}

// VocabSize is one more than the largest id.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// SpecialID returns the id of the special token of that content, such as
// "<|endoftext|>".
func (t *Tokenizer) SpecialID(content string) (int, bool) {
	id, ok := t.special[content]
	return id, ok
}

// IsSpecial reports whether id is a special token, which is no part of a text.
func (t *Tokenizer) IsSpecial(id int) bool {
	found, ok := t.special[t.token(id)]
	return ok && found == id
}
