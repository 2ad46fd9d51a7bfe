package tokenizer

import (
	"fmt"
	"io"
	"os"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Load reads a tokenizer.json; see [Parse].
func Load(path string) (*Tokenizer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	t, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// Parse reads a tokenizer.json, which it keeps; b must not change afterwards.
//
// Supported is a BPE model over the byte-level alphabet, all 256 bytes of it;
// as pre-tokenizer ByteLevel with GPT-2's pattern, or Split with GPT-2's or
// cl100k's (dolma2's) followed by ByteLevel; added tokens, special or not,
// normalized or not; ignore_merges. Refused is everything that changes ids and
// is not in this list: other patterns, normalizers, dropout, a prefix space,
// tokens added around the text, truncation, padding, added tokens that strip
// space or match whole words only; unknown or repeated keys; and files that
// contradict themselves or let text spell a special token.
func Parse(b []byte) (*Tokenizer, error) {
	if len(b) > maxFile {
		return nil, malformed("%d bytes or more, at most %d are allowed", len(b), maxFile)
	}
	var f file
	if err := json.Unmarshal(b, &f, json.RejectUnknownMembers(true)); err != nil {
		return nil, malformed("%v", err)
	}
	t := &Tokenizer{file: b}
	if err := f.check(); err != nil {
		return nil, err
	}
	pre, err := parseStep("pre_tokenizer", f.PreTokenizer)
	if err != nil {
		return nil, err
	}
	if t.split = pre.splitter(); t.split == nil {
		return nil, unsupported("pre_tokenizer: expected ByteLevel with use_regex, or a Sequence of Split by the pattern of GPT-2 or cl100k and ByteLevel without; never add_prefix_space")
	}
	if err := t.addVocab(&f); err != nil {
		return nil, err
	}
	if err := t.addTokens(&f); err != nil {
		return nil, err
	}
	return t, t.addMerges(&f)
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrUnsupported}, args...)...)
}

// check refuses what changes ids and is not done here.
func (f *file) check() error {
	post, err := parseStep("post_processor", f.PostProcessor)
	if err != nil {
		return err
	}
	dec, err := parseStep("decoder", f.Decoder)
	if err != nil {
		return err
	}
	m := f.Model
	switch {
	case f.Version != "1.0":
		return unsupported("version %q, expected \"1.0\"", f.Version)
	case !absent(f.Truncation):
		return unsupported("truncation is set; save the file without it")
	case !absent(f.Padding):
		return unsupported("padding is set; save the file without it")
	case !absent(f.Normalizer):
		return unsupported("normalizer: expected null")
	case !post.addsNothing():
		return unsupported("post_processor: expected null, ByteLevel, or a template that adds no token")
	case dec == nil || dec.Type != "ByteLevel":
		return unsupported("decoder: expected ByteLevel")
	case m.Type != "BPE":
		return unsupported("model of type %q, expected BPE", m.Type)
	case m.Dropout != 0:
		return unsupported("model: dropout is set")
	case m.Prefix != "" || m.Suffix != "":
		return unsupported("model: continuing_subword_prefix or end_of_word_suffix is set")
	}
	// unk_token, fuse_unk and byte_fallback say what to do with characters that
	// have no token; here every byte has one.
	return nil
}

// parseStep reads one of the steps around the model: nil where it is absent.
func parseStep(name string, v jsontext.Value) (*component, error) {
	if absent(v) {
		return nil, nil
	}
	if len(v) > maxStep {
		return nil, unsupported("%s: %d bytes of JSON, at most %d are allowed", name, len(v), maxStep)
	}
	var c component
	if err := json.Unmarshal(v, &c, json.RejectUnknownMembers(true)); err != nil {
		return nil, malformed("%s: %v", name, err)
	}
	return &c, nil
}

func absent(v jsontext.Value) bool { return len(v) == 0 || v.Kind() == 'n' }

// addVocab fills tokens, bytes and whole.
func (t *Tokenizer) addVocab(f *file) error {
	vocab := f.Model.Vocab
	size := 0
	for token, id := range vocab {
		if id < 0 || id >= maxVocab {
			return malformed("token %q has id %d, expected 0 to %d", token, id, maxVocab-1)
		}
		size = max(size, int(id)+1)
	}
	for _, a := range f.AddedTokens {
		if a.ID < 0 || a.ID >= maxVocab {
			return malformed("added token %q has id %d, expected 0 to %d", a.Content, a.ID, maxVocab-1)
		}
		size = max(size, int(a.ID)+1)
	}
	if size > 2*(len(vocab)+len(f.AddedTokens)) {
		return malformed("the largest id is %d for %d tokens", size-1, len(vocab)+len(f.AddedTokens))
	}
	t.tokens = make([]string, size)
	for token, id := range vocab {
		if token == "" {
			return malformed("token %d is empty", id)
		}
		if t.tokens[id] != "" {
			return malformed("token %q has id %d, which is taken", token, id)
		}
		t.tokens[id] = tokenBytes(token)
	}
	for b, r := range byteRunes() {
		id, ok := vocab[string(r)]
		if !ok {
			return unsupported("byte 0x%02x has no token; train with the whole byte-level alphabet", b)
		}
		t.bytes[b] = id
	}
	if f.Model.IgnoreMerges {
		t.whole = make(map[string]int32, len(vocab))
		for token, id := range vocab {
			if piece, ok := byteLevel(token); ok {
				t.whole[piece] = id
			}
		}
	}
	return nil
}

// addTokens takes in the added tokens. Those that the vocabulary has keep its
// id; the others get the ids from the vocabulary's length on, in their order.
// Hugging Face's library goes by this rule whatever the file says, so a file
// that says otherwise would be read in two ways.
func (t *Tokenizer) addTokens(f *file) error {
	t.special = make(map[string]int)
	next := int32(len(f.Model.Vocab))
	seen := make(map[string]bool, len(f.AddedTokens))
	for _, a := range f.AddedTokens {
		if a.Content == "" || len(a.Content) > maxContent {
			return unsupported("added token %.40q is empty or longer than %d bytes", a.Content, maxContent)
		}
		if a.SingleWord || a.LStrip || a.RStrip {
			return unsupported("added token %q: single_word, lstrip or rstrip is set", a.Content)
		}
		if seen[a.Content] {
			return malformed("added token %q comes twice", a.Content)
		}
		seen[a.Content] = true
		want, ok := f.Model.Vocab[a.Content]
		if !ok {
			want = next
			next++
		}
		if a.ID != want || !ok && t.tokens[want] != "" {
			return malformed("added token %q has id %d, expected %d", a.Content, a.ID, want)
		}
		text := tokenBytes(a.Content)
		if text != a.Content {
			return unsupported("added token %q: its letters stand for other bytes", a.Content)
		}
		t.tokens[want] = text
		if a.Normalized {
			t.normal = t.normal.add(a.Content, int(want), a.Special)
		} else {
			t.raw = t.raw.add(a.Content, int(want), a.Special)
		}
		if a.Special {
			t.special[a.Content] = int(want)
			delete(t.whole, a.Content) // a piece of text is no special token, even where ignore_merges would make it one
		}
	}
	for b, id := range t.bytes {
		if t.IsSpecial(int(id)) {
			return unsupported("byte 0x%02x is a special token, which text could spell", b)
		}
	}
	return nil
}

func (t *Tokenizer) addMerges(f *file) error {
	vocab, merges := f.Model.Vocab, f.Model.Merges
	t.merges = newMergeTable(len(merges))
	for rank, m := range merges {
		left, ok1 := vocab[m[0]]
		right, ok2 := vocab[m[1]]
		id, ok3 := vocab[m[0]+m[1]]
		if !ok1 || !ok2 || !ok3 {
			return malformed("merge %d, %q and %q: one of them or the result is no token", rank, m[0], m[1])
		}
		if t.IsSpecial(int(id)) {
			return unsupported("merge %d makes the special token %q, which text could spell", rank, m[0]+m[1])
		}
		if !t.merges.add(left, right, int32(rank), id) {
			return malformed("merge %d, %q and %q, comes twice", rank, m[0], m[1])
		}
	}
	return nil
}

// byteRunes is GPT-2's byte-level alphabet, a visible character for each byte:
// printable Latin-1 stands for itself, the others come from U+0100 on.
func byteRunes() [256]rune {
	var a [256]rune
	n := rune(0x100)
	for b := range rune(256) {
		if '!' <= b && b <= '~' || '¡' <= b && b <= '¬' || '®' <= b {
			a[b] = b
		} else {
			a[b] = n
			n++
		}
	}
	return a
}

var runeBytes = func() map[rune]byte {
	m := make(map[rune]byte, 256)
	for b, r := range byteRunes() {
		m[r] = byte(b)
	}
	return m
}()

// byteLevel returns the bytes that a string over the byte-level alphabet stands
// for, and whether it is one.
func byteLevel(token string) (string, bool) {
	b := make([]byte, 0, len(token))
	for _, r := range token {
		c, ok := runeBytes[r]
		if !ok {
			return "", false
		}
		b = append(b, c)
	}
	return string(b), true
}

// tokenBytes is what a token decodes to: itself unless all of it is of the
// byte-level alphabet.
func tokenBytes(token string) string {
	if b, ok := byteLevel(token); ok {
		return b
	}
	return token
}
