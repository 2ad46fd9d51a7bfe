package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"chorus/model/tokenizer"
)

// learned is a tokenizer of a few tokens.
func learned(t *testing.T) *tokenizer.Tokenizer {
	t.Helper()
	tok, err := tokenizer.Train(slices.Values(prose(20, 500)), 300, []string{"<|endoftext|>"})
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func prepare(t *testing.T, dir string, tok *tokenizer.Tokenizer, paths ...string) (p *Prepared, read bool) {
	t.Helper()
	p, err := Prepare(t.Context(), dir, Source{Paths: paths}, tok, 0, func(int64, int64) { read = true })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, read
}

// ids are all tokens.
func (t *Tokens) all(tt *testing.T) []int32 {
	tt.Helper()
	ids := make([]int32, t.Len())
	if err := t.read(ids, 0); err != nil {
		tt.Fatal(err)
	}
	return ids
}

func TestAPreparedTextIsItsDocumentsInOrderAndNothingOfThemTwice(t *testing.T) {
	docs, tok := prose(300, 400), learned(t)
	dir := folder(t, map[string][]byte{
		"a.jsonl":    append(records(docs[:200]), "no json\n"...),
		"b.jsonl.gz": zipped(records(docs[100:])),
		"c.txt":      {0xff, 0xfe},
	})
	p, _ := prepare(t, filepath.Join(t.TempDir(), "text"), tok, dir)
	var want []string
	for _, d := range docs {
		if r := ranked(d); !r.heldout() && !r.valid() {
			want = append(want, d)
		}
	}
	if got := p.Train.all(t); !slices.Equal(got, Encode(want, tok.Encode, 0, 0).IDs) {
		t.Errorf("%d tokens are not those of the documents", len(got))
	}
	if len(p.Valid) == 0 || len(p.Heldout) == 0 || len(want)+len(p.Valid)+len(p.Heldout) != len(docs) {
		t.Errorf("%d documents, %d to choose by and %d held out, of %d", len(want), len(p.Valid), len(p.Heldout), len(docs))
	}
	for _, d := range slices.Concat(p.Valid, p.Heldout) {
		if slices.Contains(want, d) {
			t.Errorf("%q is trained on and not", d)
		}
	}
	counts := Counts{
		Documents: len(want), Bytes: int64(len(strings.Join(want, ""))), Tokens: int64(p.Train.Len()), Valid: len(p.Valid), Heldout: len(p.Heldout),
		Skipped: Skipped{NotText: 1, Malformed: 1, Duplicate: 100},
	}
	if p.Counts != counts || p.Train.Bytes != counts.Bytes {
		t.Errorf("counted %+v, want %+v", p.Counts, counts)
	}
	memory := Encode(want, tok.Encode, 0, 0)
	if p.Train.digest() != memory.digest() {
		t.Error("the same tokens have another digest in memory")
	}
}

func TestASourceWithALimitTrainsOnAnEvenSample(t *testing.T) {
	dir, tok := folder(t, map[string][]byte{"x.jsonl": records(prose(2000, 500))}), learned(t)
	const limit = 50e3
	p, err := Prepare(t.Context(), filepath.Join(t.TempDir(), "text"), Source{Paths: []string{dir}, Limit: limit}, tok, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	all, _ := prepare(t, filepath.Join(t.TempDir(), "text"), tok, dir)
	if p.Train.Bytes > limit || p.Train.Bytes < limit-1000 || !slices.Equal(p.Heldout, all.Heldout) || !slices.Equal(p.Valid, all.Valid) {
		t.Errorf("%d bytes are trained on, %d documents held out, %d to choose by", p.Train.Bytes, len(p.Heldout), len(p.Valid))
	}
	var want []string
	for _, text := range read(t, limit, nil, dir).Train {
		if !ranked(text).valid() {
			want = append(want, text)
		}
	}
	if got := Encode(want, tok.Encode, 0, 0).IDs; !slices.Equal(got, p.Train.all(t)[:len(got)]) {
		t.Error("the sample is not that of a corpus")
	}
}

func TestWhatIsHeldOutIsWhatACorpusHoldsOut(t *testing.T) {
	for name, files := range map[string]map[string][]byte{
		"records":    {"x.jsonl": records(prose(400, 6000))},
		"one text":   {"x.txt": []byte(strings.Join(prose(60, 4000), "\n\n"))},
		"long files": {"x.txt": []byte(strings.Join(prose(3000, 1000), "\n\n"))},
	} {
		dir := folder(t, files)
		p, _ := prepare(t, filepath.Join(t.TempDir(), "text"), learned(t), dir)
		c := read(t, 10*keptBytes, nil, dir)
		if !slices.Equal(p.Heldout, c.Heldout) {
			t.Errorf("%s: %d pieces are held out, of a corpus %d", name, len(p.Heldout), len(c.Heldout))
		}
	}
}

func TestAPreparedTextIsUsedAgainUntilSomethingChanges(t *testing.T) {
	tok, docs := learned(t), records(prose(100, 300))
	source := folder(t, map[string][]byte{"x.jsonl": docs})
	dir := filepath.Join(t.TempDir(), "text")
	first, read := prepare(t, dir, tok, source)
	if !read {
		t.Error("it was not read at first")
	}
	again, read := prepare(t, dir, tok, source)
	if read {
		t.Error("it was read again")
	}
	if !slices.Equal(first.Train.all(t), again.Train.all(t)) || first.Counts != again.Counts || !slices.Equal(first.Heldout, again.Heldout) || first.Train.digest() != again.Train.digest() {
		t.Error("it is another text the second time")
	}
	if runtime.GOOS != "windows" { // whose files have no such modes
		for path, want := range map[string]fs.FileMode{dir: fs.ModeDir | 0o700, filepath.Join(dir, tokensFile): 0o600, filepath.Join(dir, preparedFile): 0o600} {
			if info, err := os.Stat(path); err != nil || info.Mode() != want {
				t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
			}
		}
	}
	for change, do := range map[string]func() error{
		"the text":           func() error { return os.WriteFile(filepath.Join(source, "x.jsonl"), records(prose(101, 300)), 0o600) },
		"a file more":        func() error { return os.WriteFile(filepath.Join(source, "y.txt"), []byte("more"), 0o600) },
		"the tokens cut":     func() error { return os.Truncate(filepath.Join(dir, tokensFile), 100) },
		"the tokens gone":    func() error { return os.Remove(filepath.Join(dir, tokensFile)) },
		"the counts damaged": func() error { return os.WriteFile(filepath.Join(dir, preparedFile), []byte("{"), 0o600) },
		"the tokenizer": func() (err error) {
			tok, err = tokenizer.Train(slices.Values(prose(20, 500)), 290, []string{"<|endoftext|>"})
			return err
		},
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if _, read := prepare(t, dir, tok, source); !read {
			t.Errorf("%s: it was not read again", change)
		}
		if _, read := prepare(t, dir, tok, source); read {
			t.Errorf("%s: it is read every time", change)
		}
	}
}

func TestAPreparationThatIsInterruptedLeavesNothing(t *testing.T) {
	tok, source := learned(t), folder(t, map[string][]byte{"x.jsonl": records(prose(3000, 1000))})
	work := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	p, err := Prepare(ctx, filepath.Join(work, "text"), Source{Paths: []string{source}}, tok, 0, func(done, total int64) {
		if done > total/2 {
			cancel()
		}
	})
	if left, _ := os.ReadDir(work); p != nil || !errors.Is(err, context.Canceled) || len(left) != 0 {
		t.Errorf("error %v, and %v are left", err, left)
	}
	// One that was killed leaves a folder, which the next takes away.
	for _, dir := range []string{".text.123.tmp", ".other.123.tmp"} {
		if err := os.MkdirAll(filepath.Join(work, dir, "private"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	prepare(t, filepath.Join(work, "text"), tok, source)
	if left, _ := filepath.Glob(filepath.Join(work, ".*.tmp")); len(left) != 1 || filepath.Base(left[0]) != ".other.123.tmp" {
		t.Errorf("there are %q", left)
	}
}

func TestASourceWithoutTextIsRefusedWithTheCountOfWhatIsThere(t *testing.T) {
	for name, files := range map[string]map[string][]byte{
		"none": nil, "binary": {"x.txt": {0xff}, "y.md": {0}}, "blank": {"x.txt": []byte("\n")}, "one short text": {"x.txt": []byte("short")},
		"one giant line": {"x.jsonl": []byte(`{"text":"` + strings.Repeat("long ", maxRecord/5) + `"}`)},
	} {
		dir := folder(t, files)
		_, err := Prepare(t.Context(), filepath.Join(t.TempDir(), "text"), Source{Paths: []string{dir}}, learned(t), 0, nil)
		if !errors.Is(err, ErrNoText) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "skipped") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestALongFileLosesWhatIsNotText(t *testing.T) {
	text := strings.Join(prose(5000, 1000), "\n\n")
	if len(text) < 4*maxRecord {
		t.Fatal("the text is short")
	}
	for name, c := range map[string]struct {
		at      int
		skipped int
		least   int // of bytes that are taken
	}{
		"in its first piece, all of it": {1000, 1, 0},
		"in a later one, that":          {2*maxRecord + 1000, 1, len(text) - maxRecord},
	} {
		b := []byte(text)
		b[c.at] = 0xff
		taken := 0
		skipped, err := each(t.Context(), mustFiles(t, folder(t, map[string][]byte{"x.txt": b})), func(d document) error {
			taken += len(d.text)
			return nil
		}, nil)
		if err != nil || skipped.NotText != c.skipped || skipped.Total() != c.skipped || taken < c.least || taken > len(text) || c.least == 0 && taken > 0 {
			t.Errorf("what is no text %s: %d bytes of %d are taken, %+v, %v", name, taken, len(text), skipped, err)
		}
	}
}

func mustFiles(t *testing.T, paths ...string) []sourceFile {
	t.Helper()
	files, err := Source{Paths: paths}.files()
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestATokenizersSampleIsEvenAndOfTrainingTextAlone(t *testing.T) {
	docs := prose(2000, 500)
	dir := folder(t, map[string][]byte{"x.jsonl": records(docs)})
	const limit = 100e3
	got, err := SampleTraining(t.Context(), Source{Paths: []string{dir}}, limit, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(strings.Join(got, "")); n < limit || n > limit+1000 {
		t.Errorf("%d bytes are sampled, want about %.0f", n, limit)
	}
	half := 0
	for _, d := range got {
		i := slices.Index(docs, d)
		if r := ranked(d); i < 0 || r.heldout() || r.valid() {
			t.Fatalf("%q is not trained on", d)
		}
		if i < len(docs)/2 {
			half++
		}
	}
	if half < len(got)/3 || half > len(got)*2/3 {
		t.Errorf("%d of %d are of the first half", half, len(got))
	}
	if _, err := SampleTraining(t.Context(), Source{Paths: []string{folder(t, nil)}}, limit, nil); !errors.Is(err, ErrNoText) {
		t.Errorf("no text: %v", err)
	}
}

func TestASampleDependsOnNoOrder(t *testing.T) {
	docs := prose(200, 100)
	forth, back := sample{limit: 3000}, sample{limit: 3000}
	for i := range docs {
		forth.add(ranked(docs[i]))
		back.add(ranked(docs[len(docs)-1-i]))
	}
	a, b := forth.texts(), back.texts()
	if !slices.Equal(a, b) || len(a) < 20 {
		t.Errorf("%d texts one way, %d the other", len(a), len(b))
	}
}

func TestASetOfHashesKnowsWhatWasAddedUntilItIsFull(t *testing.T) {
	var s hashes
	for i := range uint64(10_000) {
		if !s.add(mix(i)) {
			t.Fatalf("hash %d was known", i)
		}
	}
	for i := range uint64(10_000) {
		if s.add(mix(i)) {
			t.Fatalf("hash %d was not known", i)
		}
	}
	s.n = maxHashes // as if it were full, of slots that it has no more of
	s.slots = make([]uint64, maxHashes/3*4)
	for range 2 {
		if !s.add(7) {
			t.Error("a full set remembers more")
		}
	}
}

func TestAPreparedTextIsTrainedOnAsTheSameTextInMemory(t *testing.T) {
	tok := learned(t)
	p, _ := prepare(t, filepath.Join(t.TempDir(), "text"), tok, folder(t, map[string][]byte{"x.jsonl": records(prose(200, 300))}))
	j := anchorJob(t, smallRecipe(3))
	j.Config.VocabSize = tok.VocabSize()
	j.Text, j.Valid = p.Train, Encode(p.Valid, tok.Encode, 0, 0)
	want, err := Anchor(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	// From the same checkpoint nothing is left to do: the runs count as one.
	j.Text = &Tokens{IDs: p.Train.all(t), Bytes: p.Train.Bytes}
	j.Report = func(Progress) { t.Error("it is another run") }
	got, err := Anchor(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "a text in memory", got, want)
	j.Report, j.Checkpoint = nil, filepath.Join(t.TempDir(), "checkpoint")
	if got, err = Anchor(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	same(t, "a text in memory, from the beginning", got, want)
}

func TestTokensOfAnotherTokenizerAreRefused(t *testing.T) {
	for _, id := range []int32{32, -1} {
		j := anchorJob(t, smallRecipe(3))
		j.Text = &Tokens{IDs: slices.Repeat([]int32{5, id}, 200)}
		if _, err := Anchor(t.Context(), j); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("token %d, expected 0 to 31", id)) {
			t.Errorf("%d: %v", id, err)
		}
		j = anchorJob(t, smallRecipe(3))
		j.Valid = &Tokens{IDs: []int32{1, id}}
		if _, err := Anchor(t.Context(), j); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("token %d", id)) {
			t.Errorf("%d to choose by: %v", id, err)
		}
	}
}

// Whatever lies in a prepared folder is used as it was left, or made anew.
func FuzzOpenPrepared(f *testing.F) {
	good, err := json.Marshal(prepared{Key: "key", Counts: Counts{Tokens: 2}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, []byte{1, 0, 0, 0, 2, 0, 0, 0})
	f.Add([]byte(`{"key":"key","counts":{"tokens":-1}}`), []byte{})
	f.Fuzz(func(t *testing.T, text, tokens []byte) {
		dir := t.TempDir()
		if err := errors.Join(os.WriteFile(filepath.Join(dir, preparedFile), text, 0o600), os.WriteFile(filepath.Join(dir, tokensFile), tokens, 0o600)); err != nil {
			t.Fatal(err)
		}
		p, err := openPrepared(dir, "key")
		if err != nil {
			if !errors.Is(err, errStale) {
				t.Fatal(err)
			}
			return
		}
		defer p.Close()
		if p.Train.Len()*tokenBytes != len(tokens) {
			t.Fatalf("%d tokens in %d bytes", p.Train.Len(), len(tokens))
		}
		p.Train.all(t)
	})
}
