package tokenizer

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTextCannotForgeASpecialToken(t *testing.T) {
	tok := load(t, "cl100k.json")
	const text = "a<|endoftext|>b[LINK][NAME]<|pad|>"
	for _, id := range tok.Encode(text) {
		if tok.IsSpecial(id) {
			t.Errorf("Encode gives the special token %q", tok.Bytes(id))
		}
	}
	var got []string
	for _, id := range tok.EncodeSpecial(text) {
		if tok.IsSpecial(id) {
			got = append(got, string(tok.Bytes(id)))
		}
	}
	if want := []string{"<|endoftext|>", "[LINK][NAME]", "<|pad|>"}; !slices.Equal(got, want) {
		t.Errorf("EncodeSpecial finds %q, want %q", got, want)
	}
}

func TestTrainingDoesNotSpellASpecialToken(t *testing.T) {
	text := strings.Repeat(" eos eos pad", 50)
	tok, err := Train(slices.Values([]string{text}), 300, []string{" eos", "pad"})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range tok.Encode(text) {
		if tok.IsSpecial(id) {
			t.Fatalf("Encode gives the special token %q", tok.Bytes(id))
		}
	}
	if id, ok := tok.SpecialID("pad"); !ok || id != 1 {
		t.Errorf("SpecialID = %d, %t", id, ok)
	}
	if _, ok := tok.SpecialID("e"); ok {
		t.Error("an ordinary token has a SpecialID")
	}
}

func TestBytesThatAreNotUTF8ComeBack(t *testing.T) {
	for _, name := range []string{"gpt2.json", "cl100k.json"} {
		tok := load(t, name)
		for _, text := range []string{"\xff", "a\xc3", "\xe2\x82 the\x80", "the \xf0\x9f\x99<|endoftext|>\x82", "\x00\xed\xa0\x80"} {
			if got := tok.Decode(tok.Encode(text)); got != text {
				t.Errorf("%s: %q comes back as %q", name, text, got)
			}
			if got := tok.Decode(tok.EncodeSpecial(text)); got != text {
				t.Errorf("%s: %q comes back as %q", name, text, got)
			}
		}
	}
}

func TestBytesOfIdsJoinToTheText(t *testing.T) {
	tok := load(t, "cl100k.json")
	const text = "Река 河水 👩‍👩‍👧 the end<|endoftext|>"
	var b []byte
	for _, id := range tok.EncodeSpecial(text) {
		b = append(b, tok.Bytes(id)...)
	}
	if string(b) != text {
		t.Errorf("got %q, want %q", b, text)
	}
}

func TestIdsWithoutATokenDecodeToNothing(t *testing.T) {
	tok := load(t, "gpt2.json")
	if got := tok.Decode([]int{-1, tok.VocabSize(), 1 << 40}); got != "" {
		t.Errorf("got %q", got)
	}
	if got := tok.Bytes(-1); len(got) != 0 {
		t.Errorf("got %q", got)
	}
	if tok.IsSpecial(-1) || tok.IsSpecial(tok.VocabSize()) {
		t.Error("an id without a token is special")
	}
}

func TestBytesMayBeChangedByTheCaller(t *testing.T) {
	tok := load(t, "gpt2.json")
	id := tok.Encode("a")[0]
	tok.Bytes(id)[0] = 'b'
	if got := tok.Decode([]int{id}); got != "a" {
		t.Errorf("token is now %q", got)
	}
}

// mergeOneByOne is the definition: look for the lowest rank, the leftmost of
// it, merge, begin again.
func mergeOneByOne(tok *Tokenizer, piece string) []int {
	var ids []int32
	for i := range len(piece) {
		ids = append(ids, tok.bytes[piece[i]])
	}
	for {
		at, best := -1, merge{}
		for i := range len(ids) - 1 {
			if m := *tok.merges.slot(ids[i], ids[i+1]); m.rank >= 0 && (at < 0 || m.rank < best.rank) {
				at, best = i, m
			}
		}
		if at < 0 {
			break
		}
		ids = slices.Replace(ids, at, at+2, best.id)
	}
	out := make([]int, len(ids))
	for i, id := range ids {
		out[i] = int(id)
	}
	return out
}

func TestMergingIsThatOfTheDefinition(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for round := range 20 {
		// A vocabulary over two letters has many ways to make one token.
		var words []string
		for range 200 {
			var b strings.Builder
			for range 1 + rng.IntN(12) {
				b.WriteByte("ab"[rng.IntN(2)])
			}
			words = append(words, b.String())
		}
		tok, err := Train(slices.Values(words), 256+rng.IntN(80), nil)
		if err != nil {
			t.Fatal(err)
		}
		var m merger
		for range 500 {
			var b strings.Builder
			for range 1 + rng.IntN(60) {
				b.WriteByte("aaab"[rng.IntN(2+round%3)])
			}
			piece := b.String()
			want := mergeOneByOne(tok, piece)
			for range 2 {
				if got := m.appendIDs(nil, tok, piece); !slices.Equal(got, want) {
					t.Fatalf("%q is %v, want %v", piece, got, want)
				}
			}
		}
	}
}

// A quadratic step anywhere would take minutes here.
func TestTextWithoutWordBoundariesIsFast(t *testing.T) {
	const n = 1 << 18
	for _, name := range []string{"gpt2.json", "cl100k.json"} {
		tok := load(t, name)
		for _, unit := range []string{" ", "a", "the", "\n", " \n", "'", "é", "\xff", "<|", "<|endoftext|", "1", "\n" + strings.Repeat(" ", n/2)} {
			text := strings.Repeat(unit, n/len(unit)) + "x"
			start := time.Now()
			ids := tok.EncodeSpecial(text)
			if d := time.Since(start); d > 20*time.Second {
				t.Errorf("%s: %d bytes of %.20q take %v", name, len(text), unit, d)
			}
			if tok.Decode(ids) != text {
				t.Errorf("%s: %d bytes of %.20q do not come back", name, len(text), unit)
			}
		}
	}
}

func TestEncodeIsSafeForConcurrentUse(t *testing.T) {
	tok := load(t, "cl100k.json")
	cases := loadOracle(t).Cases
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for _, c := range cases[i*len(cases)/16:] {
				if !slices.Equal(tok.Encode(c.Text), c.CL100K) {
					t.Errorf("Encode(%q) differs", c.Text)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestSaveWritesTheVeryBytes(t *testing.T) {
	want, err := os.ReadFile("testdata/gpt2.json")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "tokenizer.json")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := load(t, "gpt2.json").Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the saved file differs from the loaded one")
	}
}

func TestSaveLeavesNothingBehindWhenItCannot(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "tokenizer.json")
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := load(t, "gpt2.json").Save(path); err == nil {
		t.Fatal("a folder was replaced")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestTrainingDoesNotDependOnTheOrderOfTexts(t *testing.T) {
	texts := loadOracle(t).Train
	var files [2]bytes.Buffer
	for i := range files {
		tok, err := Train(slices.Values(texts), 400, []string{"<|endoftext|>"})
		if err != nil {
			t.Fatal(err)
		}
		if tok.VocabSize() != 400 {
			t.Fatalf("vocabulary of %d", tok.VocabSize())
		}
		files[i].Write(tok.file)
		slices.Reverse(texts)
	}
	if !bytes.Equal(files[0].Bytes(), files[1].Bytes()) {
		t.Error("the files differ")
	}
}

func TestTrainingStopsWhereNothingComesTwice(t *testing.T) {
	tok, err := Train(slices.Values([]string{"abab cd"}), 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.VocabSize(); got != 257 {
		t.Errorf("vocabulary of %d, want the bytes and \"ab\"", got)
	}
	tok, err = Train(slices.Values([]string(nil)), 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.VocabSize(); got != 256 {
		t.Errorf("vocabulary of %d from no text, want 256", got)
	}
}

func TestTrainingSaysHowFarItIsAndEndsWhenTold(t *testing.T) {
	texts := loadOracle(t).Train
	var said []int
	if _, err := TrainReporting(slices.Values(texts), 400, nil, func(tokens int) error {
		said = append(said, tokens)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(said) || said[0] != 256 || said[len(said)-1] != 400 {
		t.Errorf("reported %v", said)
	}
	stop := errors.New("stop")
	tok, err := TrainReporting(slices.Values(texts), 400, nil, func(tokens int) error {
		if tokens == 300 {
			return stop
		}
		return nil
	})
	if tok != nil || err != stop {
		t.Errorf("%v, %v; want the error of report", tok, err)
	}
}

func TestTrainingRefuses(t *testing.T) {
	for _, c := range []struct {
		size     int
		specials []string
	}{
		{255, nil},
		{256, []string{"<|pad|>"}},
		{maxVocab + 1, nil},
		{300, []string{"a"}},
		{300, []string{""}},
		{300, []string{"<|pad|>", "<|pad|>"}},
		{300, []string{"\xff\xfe"}},
		{300, []string{strings.Repeat("<", maxContent+1)}},
		{300, []string{"<é>"}},
	} {
		if _, err := Train(slices.Values([]string{"text"}), c.size, c.specials); err == nil {
			t.Errorf("Train(…, %d, %.40q) succeeds", c.size, c.specials)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good, err := os.ReadFile("testdata/cl100k.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		old, new string
		want     error
		say      string
	}{
		{`"version":"1.0"`, `"version":"2.0"`, ErrUnsupported, "version"},
		{`"truncation":null`, `"truncation":{"max_length":5}`, ErrUnsupported, "truncation"},
		{`"padding":null`, `"padding":{}`, ErrUnsupported, "padding"},
		{`"normalizer":null`, `"normalizer":{"type":"NFC"}`, ErrUnsupported, "normalizer"},
		{`"normalizer":null`, `"normalizer":null,"extra":1`, ErrMalformed, "extra"},
		{`"normalizer":null`, `"normalizer":null,"normalizer":null`, ErrMalformed, "normalizer"},
		{`"post_processor":null`, `"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{}}`, ErrUnsupported, "post_processor"},
		{`"post_processor":null`, `"post_processor":{"type":"BertProcessing"}`, ErrUnsupported, "post_processor"},
		{`"post_processor":null`, `"post_processor":{"type":"` + strings.Repeat("x", maxStep) + `"}`, ErrUnsupported, "bytes of JSON"},
		{`"decoder":{"type":"ByteLevel"`, `"decoder":{"type":"Metaspace"`, ErrUnsupported, "decoder"},
		{`"type":"BPE"`, `"type":"Unigram"`, ErrUnsupported, "Unigram"},
		{`"dropout":null`, `"dropout":0.1`, ErrUnsupported, "dropout"},
		{`"continuing_subword_prefix":null`, `"continuing_subword_prefix":"##"`, ErrUnsupported, "prefix"},
		{`"end_of_word_suffix":null`, `"end_of_word_suffix":"</w>"`, ErrUnsupported, "suffix"},
		{`{1,3}`, `{1,2}`, ErrUnsupported, "pre_tokenizer"},
		{`"behavior":"Removed"`, `"behavior":"MergedWithNext"`, ErrUnsupported, "pre_tokenizer"},
		{`"invert":true`, `"invert":false`, ErrUnsupported, "pre_tokenizer"},
		{`"invert":true`, `"invert":1`, ErrMalformed, "pre_tokenizer"},
		{`"add_prefix_space":false`, `"add_prefix_space":true`, ErrUnsupported, "prefix_space"},
		{`"use_regex":false`, `"use_regex":true`, ErrUnsupported, "pre_tokenizer"},
		{`"pre_tokenizer":{"type":"Sequence"`, `"pre_tokenizer":{"type":"Digits"`, ErrUnsupported, "pre_tokenizer"},
		{`"single_word":false`, `"single_word":true`, ErrUnsupported, "single_word"},
		{`"lstrip":false`, `"lstrip":true`, ErrUnsupported, "lstrip"},
		{`"rstrip":false`, `"rstrip":true`, ErrUnsupported, "rstrip"},
		{`"id":471`, `"id":470`, ErrMalformed, "expected 471"},
		{`"id":471`, `"id":-1`, ErrMalformed, "id -1"},
		{`"id":471`, `"id":1048576`, ErrMalformed, "1048576"},
		{`"id":471`, `"id":1048575`, ErrMalformed, "largest id"},
		{`"content":"[NAME]"`, `"content":"[LINK]"`, ErrMalformed, "twice"},
		{`"content":"[NAME]"`, `"content":""`, ErrUnsupported, "empty"},
		{`"content":"[NAME]"`, `"content":"Ġ"`, ErrMalformed, "expected"},
		{`"content":"[NAME]"`, `"content":"Ġzz"`, ErrUnsupported, "other bytes"},
		{`"id":0,"content":"<|endoftext|>"`, `"id":34,"content":"A"`, ErrUnsupported, "0x41 is a special token"},
		{`"id":0,"content":"<|endoftext|>"`, `"id":259,"content":"th"`, ErrUnsupported, `makes the special token "th"`},
		{`"A":34`, `"A":35`, ErrMalformed, "taken"},
		{`"A":34`, `"A":1e1`, ErrMalformed, "no id"},
		{`"A":34`, `"A":3.5`, ErrMalformed, "no id"},
		{`"A":34`, `"A":1048577`, ErrMalformed, "1048577"},
		{`"A":34`, `"":34`, ErrMalformed, "empty"},
		{`"A":34`, `"AA":34`, ErrUnsupported, "0x41 has no token"},
		{`["t","h"]`, `["t","h"],["t","h"]`, ErrMalformed, "twice"},
		{`["t","h"]`, `["t","Q"]`, ErrMalformed, "no token"},
		{`["t","h"]`, `["t","h","e"]`, ErrMalformed, "merges"},
		{`["t","h"]`, `"th"`, ErrMalformed, "space between"},
		{`["t","h"]`, `"t h e"`, ErrMalformed, "space between"},
		{`["t","h"]`, `null`, ErrMalformed, "merge"},
		{`{"version"`, ` x{"version"`, ErrMalformed, "invalid"},
		{"\"merges\":[", "\"merges\":[\"\xff \xff\",", ErrMalformed, "UTF-8"},
	} {
		bad := bytes.Replace(good, []byte(c.old), []byte(c.new), 1)
		if bytes.Equal(bad, good) {
			t.Errorf("the fixture has no %s", c.old)
			continue
		}
		_, err := Parse(bad)
		if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.say) {
			t.Errorf("%.60s for %s: error %v, want %q saying %q", c.new, c.old, err, c.want, c.say)
		}
	}
	for _, bad := range []string{"", "null", "{}", "[]", string(good) + "{}", string(good[:len(good)-1])} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%d bytes are accepted: %.40s", len(bad), bad)
		}
	}
}

func TestParseAcceptsOtherSpellingsOfTheSame(t *testing.T) {
	good, err := os.ReadFile("testdata/cl100k.json")
	if err != nil {
		t.Fatal(err)
	}
	const text = "The river, 12345 'S  of the\r\n\r\n x"
	want := load(t, "cl100k.json").Encode(text)
	for _, c := range [][2]string{
		{`["t","h"]`, `"t h"`},
		{`"behavior":"Removed","invert":true`, `"behavior":"Isolated","invert":false`},
		{`"continuing_subword_prefix":null`, `"continuing_subword_prefix":""`},
		{`"dropout":null,`, ``},
		{`"post_processor":null`, `"post_processor":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false,"use_regex":true}`},
		{`"post_processor":null`, `"post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{}}`},
		{`"post_processor":null`, `"post_processor":{"type":"Sequence","processors":[{"type":"ByteLevel"}]}`},
	} {
		other := bytes.Replace(good, []byte(c[0]), []byte(c[1]), 1)
		if bytes.Equal(other, good) {
			t.Errorf("the fixture has no %s", c[0])
			continue
		}
		tok, err := Parse(other)
		if err != nil {
			t.Errorf("%s: %v", c[1], err)
			continue
		}
		if got := tok.Encode(text); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", c[1], got, want)
		}
	}
}

func TestIgnoreMergesTakesWholePieces(t *testing.T) {
	good, err := os.ReadFile("testdata/cl100k.json")
	if err != nil {
		t.Fatal(err)
	}
	// Of the merge that makes "th" only the token is left, and "pad" is special.
	bad := bytes.Replace(good, []byte(`["t","h"],`), nil, 1)
	bad = bytes.Replace(bad, []byte(`"ignore_merges":false`), []byte(`"ignore_merges":true`), 1)
	bad = bytes.ReplaceAll(bad, []byte(`<|pad|>`), []byte(`pad`))
	tok, err := Parse(bad)
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Encode("th"); len(got) != 1 || string(tok.Bytes(got[0])) != "th" {
		t.Errorf("th is %v", got)
	}
	if got := tok.Encode("pad"); len(got) == 1 {
		t.Errorf("the text pad is the special token %v", got)
	}
}

func TestHostileFilesAreRefusedBeforeTheyCostMemory(t *testing.T) {
	for name, bad := range map[string]string{
		"a huge id":      `{"version":"1.0","model":{"type":"BPE","vocab":{"a":1048575},"merges":[]}}`,
		"many steps":     `{"version":"1.0","pre_tokenizer":{"type":"Sequence","pretokenizers":[` + strings.Repeat("{},", 200_000) + `{}]}}`,
		"many added":     `{"version":"1.0","added_tokens":[` + strings.Repeat("{},", 200_000) + `{}]}`,
		"deep nesting":   `{"version":"1.0","pre_tokenizer":` + strings.Repeat("[", 500_000),
		"an id of a map": `{"version":"1.0","model":{"vocab":{"a":` + strings.Repeat("[", 500_000),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Parse([]byte(bad))
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 24<<20 {
			t.Errorf("%s: %d bytes allocated for a file of %d", name, got, len(bad))
		}
	}
	if _, err := Parse(make([]byte, maxFile+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a file over the limit: %v", err)
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokenizer.json")
	if _, err := Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want that it does not exist", err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want %q with the path", err, ErrMalformed)
	}
}

// FuzzParse: what Parse accepts keeps the three promises of the package.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"gpt2.json", "cl100k.json"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"version":"1.0","added_tokens":[{"id":0,"content":"x"}],"model":{"type":"BPE","vocab":{"a":0},"merges":["a a"]}}`))
	const text = "It's the 1st <|endoftext|> [LINK][NAME] \xff\r\n  th"
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("error of no kind: %v", err)
			}
			return
		}
		checkPromises(t, tok, text)
	})
}

func checkPromises(t *testing.T, tok *Tokenizer, text string) {
	ids := tok.Encode(text)
	for _, id := range ids {
		if id < 0 || id >= tok.VocabSize() || tok.IsSpecial(id) {
			t.Fatalf("%q has the id %d", text, id)
		}
	}
	if got := tok.Decode(ids); got != text {
		t.Fatalf("%q comes back as %q", text, got)
	}
	if got := tok.Decode(tok.EncodeSpecial(text)); got != text {
		t.Fatalf("with special tokens, %q comes back as %q", text, got)
	}
}

func FuzzEncode(f *testing.F) {
	gpt2, cl100k := load(f, "gpt2.json"), load(f, "cl100k.json")
	for _, c := range loadOracle(f).Cases[:60] {
		f.Add(c.Text)
	}
	f.Add("\xff<|endoftext|>\xc3[LINK][LINK][NAME]")
	f.Fuzz(func(t *testing.T, text string) {
		checkPromises(t, gpt2, text)
		checkPromises(t, cl100k, text)
	})
}

func BenchmarkEncode(b *testing.B) {
	tok := load(b, "cl100k.json")
	var text strings.Builder
	for _, s := range loadOracle(b).Train {
		text.WriteString(s)
	}
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		tok.Encode(text.String())
	}
}
