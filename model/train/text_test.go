package train

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

// prose returns n documents of about size bytes, no two alike.
func prose(n, size int) (docs []string) {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	words := strings.Fields("the river rose in night and by morning lower meadow was a lake café 水 naïve")
	for range n {
		var b strings.Builder
		for b.Len() < size {
			b.WriteString(words[r.IntN(len(words))])
			b.WriteString([]string{" ", " ", " ", "\n", "\n\n"}[r.IntN(5)])
		}
		docs = append(docs, fmt.Sprint(b.String(), len(docs)))
	}
	return docs
}

func records(docs []string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for _, d := range docs {
		if err := e.Encode(map[string]any{"text": d, "source": "test"}); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

func zipped(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		panic(err)
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// folder writes files, by their paths below the new folder that it returns.
func folder(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, limit int64, suffixes []string, paths ...string) *Corpus {
	t.Helper()
	c, err := ReadCorpus(limit, suffixes, paths...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const unlimited = 1 << 40

// all are the documents of a corpus, sorted.
func (c *Corpus) all() []string {
	return slices.Sorted(slices.Values(slices.Concat(c.Train, c.Heldout)))
}

func TestACorpusIsReadFromFilesFoldersAndRecords(t *testing.T) {
	docs := prose(120, 300)
	files := map[string][]byte{
		"b/records.jsonl":    records(docs[60:100]),
		"b/c/more.jsonl.gz":  zipped(records(docs[100:])),
		"b/image.png":        []byte(prose(1, 10)[0] + "of no kind that is read"),
		"b/c/no suffix":      []byte("nor this"),
		"b/c/source.go":      []byte("package nor_this"),
		"b/c/.hidden/x.text": []byte("nor this one"),
	}
	for i, d := range docs[:60] {
		files[fmt.Sprintf("a/%d/%d.%s", i%3, i, []string{"txt", "md"}[i%2])] = []byte(d)
	}
	want := slices.Sorted(slices.Values(docs))
	dir := folder(t, files)
	c := read(t, unlimited, nil, dir)
	if got := c.all(); !slices.Equal(got, want) {
		t.Fatalf("%d documents, want %d", len(got), len(want))
	}
	if c.Skipped != 0 {
		t.Errorf("%d skipped", c.Skipped)
	}
	// One in ten is held out, within chance: 120 draws leave 1 to 30 but once in 10⁴.
	if n := len(c.Heldout); n < 1 || n > 30 {
		t.Errorf("%d of 120 are held out", n)
	}
	for _, d := range c.Heldout {
		if slices.Contains(c.Train, d) {
			t.Errorf("%q is held out and trained on", d)
		}
	}
	// Named one by one, in another order, in a folder of another name.
	again := folder(t, files)
	var paths []string
	for name := range maps.Keys(files) { // a random order
		if strings.HasSuffix(name, ".txt") || strings.HasSuffix(name, ".md") || strings.Contains(name, ".jsonl") {
			paths = append(paths, filepath.Join(again, name))
		}
	}
	d := read(t, unlimited, nil, paths...)
	if !slices.Equal(c.Train, d.Train) || !slices.Equal(c.Heldout, d.Heldout) {
		t.Error("the corpus depends on the names or the order of its files")
	}
	if e := read(t, unlimited, nil, dir, again, dir); !slices.Equal(c.Train, e.Train) || e.Skipped != 240 {
		t.Errorf("read three times, %d documents and %d skipped", len(e.all()), e.Skipped)
	}
	if got := read(t, unlimited, []string{".go"}, folder(t, map[string][]byte{
		"x.go": []byte(strings.Join(prose(30, 4000), "\n")), "y.txt": []byte("not this"),
	})); slices.ContainsFunc(got.all(), func(d string) bool { return strings.Contains(d, "not this") }) {
		t.Error("a file of another suffix was read")
	}
}

func TestAFileThatIsNamedIsReadWhateverItsName(t *testing.T) {
	dir := folder(t, map[string][]byte{"BOOK": []byte(strings.Join(prose(100, 1000), "\n"))})
	if got := read(t, unlimited, nil, filepath.Join(dir, "BOOK")); len(got.all()) < 20 {
		t.Errorf("%d pieces", len(got.all()))
	}
}

func TestLinksAreReadAsWhatTheyLeadTo(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("on Windows a link takes a privilege: run it on another system")
	}
	docs := prose(60, 200)
	files := make(map[string][]byte)
	for i, d := range docs {
		files[fmt.Sprintf("%d.txt", i)] = []byte(d)
	}
	dir, link := folder(t, files), filepath.Join(t.TempDir(), "link")
	if err := os.Rename(filepath.Join(dir, "0.txt"), link+".txt"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink(dir, link), os.Symlink(link+".txt", filepath.Join(dir, "0.txt")), os.Symlink(dir, filepath.Join(dir, "folder.txt")),
		os.Symlink(filepath.Join(dir, "none"), filepath.Join(dir, "nowhere.txt")), os.Symlink("itself.txt", filepath.Join(dir, "itself.txt"))); err != nil {
		t.Fatal(err)
	}
	if got := read(t, unlimited, nil, link); len(got.all()) != len(docs) || got.Skipped != 0 {
		t.Errorf("%d documents of %d, %d skipped", len(got.all()), len(docs), got.Skipped)
	}
	if _, err := ReadCorpus(unlimited, nil, filepath.Join(dir, "nowhere.txt")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link that leads nowhere and is named: %v", err)
	}
}

func TestWhatIsNoTextIsSkippedAndCounted(t *testing.T) {
	docs := prose(80, 200)
	files := map[string][]byte{
		"good.jsonl": records(docs),
		"bad.jsonl": []byte("{\"text\": \"cut\n" + // malformed
			"{\"text\": 5}\n" + // another type
			"[]\n" +
			"{\"title\": \"no text\"}\n" +
			"{\"text\": \"\"}\n" +
			"{\"text\": \" \\n\"}\n" +
			"{\"text\": \"nul \\u0000\"}\n" +
			"{\"text\": \"\xff not UTF-8\"}\n" +
			"\n" +
			"{\"text\": \"" + strings.Repeat("long ", maxRecord/5) + "\"}\n" +
			string(bytes.TrimSpace(records(docs[:1])))), // a duplicate, without a line end
		"binary.txt":  {0x89, 'P', 'N', 'G', 0xff, 0xfe},
		"nul.txt":     []byte("text with a \x00 in it"),
		"latin1.txt":  []byte("caf\xe9"),
		"cut rune.md": []byte("caf\xc3"),
		"empty.txt":   nil,
		"blank.md":    []byte(" \n\t\r\n"),
		"same.txt":    []byte(docs[3]),
	}
	c := read(t, unlimited, nil, folder(t, files))
	if got := c.all(); !slices.Equal(got, slices.Sorted(slices.Values(docs))) {
		t.Errorf("%d documents, want %d", len(got), len(docs))
	}
	if c.Skipped != 11+7 {
		t.Errorf("%d skipped, want 18", c.Skipped)
	}
}

func TestACorpusKeepsToItsLimit(t *testing.T) {
	dir := folder(t, map[string][]byte{"x.jsonl": records(prose(2000, 500))})
	for _, limit := range []int64{20e3, 200e3} {
		c := read(t, limit, nil, dir)
		if n := int64(len(strings.Join(c.Train, ""))); n > limit || n < limit-1000 {
			t.Errorf("limit %d: %d bytes to train on", limit, n)
		}
		if n := int64(len(strings.Join(c.Heldout, ""))); n < limit/10 || n >= limit/10+1000 {
			t.Errorf("limit %d: %d bytes held out", limit, n)
		}
	}
	small, large := read(t, 20e3, nil, dir), read(t, 200e3, nil, dir)
	for _, d := range small.Heldout {
		if slices.Contains(large.Train, d) {
			t.Error("a larger limit trains on what a smaller one holds out")
		}
	}
}

func TestOneGiantLineBecomesManyPieces(t *testing.T) {
	line := strings.ReplaceAll(strings.Join(prose(3000, 1000), ""), "\n", " ")
	if len(line) < 2*maxRecord {
		t.Fatal("the line is short")
	}
	dir := folder(t, map[string][]byte{"line.txt": []byte(line)})
	c := read(t, unlimited, nil, dir)
	total := 0
	for _, d := range c.all() {
		if !utf8.ValidString(d) || len(d) > pieceBytes || total < 1e5 && !strings.Contains(line, d) { // to look for all takes long
			t.Fatalf("a piece of %d bytes is no part of the line", len(d))
		}
		total += len(d)
	}
	if total != len(line) || c.Skipped != 0 {
		t.Errorf("the pieces have %d bytes of %d, %d skipped", total, len(line), c.Skipped)
	}
}

func TestAPieceThatRepeatsCountsOnce(t *testing.T) {
	block := strings.Repeat("the same line again\n", pieceBytes/20+1)[:pieceBytes-1] + "\n"
	text := strings.Repeat(block, 20) + strings.Join(prose(40, 3000), "\n")
	c := read(t, unlimited, nil, folder(t, map[string][]byte{"log.txt": []byte(text)}))
	if all := c.all(); len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Error("a piece is there twice")
	}
}

func TestALongHeldOutDocumentGivesOnePiece(t *testing.T) {
	docs := prose(100, 40<<10)
	c := read(t, unlimited, nil, folder(t, map[string][]byte{"x.jsonl": records(docs)}))
	if len(c.Heldout) == 0 {
		t.Fatal("none is held out")
	}
	for _, d := range c.Heldout {
		if len(d) > pieceBytes {
			t.Errorf("%d bytes of one document are held out", len(d))
		}
		if slices.ContainsFunc(c.Train, func(s string) bool { return strings.Contains(s, d) }) {
			t.Error("a held-out piece is in a document that is trained on")
		}
	}
}

func TestNoUsableTextIsAnError(t *testing.T) {
	for name, dir := range map[string]string{
		"an empty folder": folder(t, nil),
		"binary alone":    folder(t, map[string][]byte{"x.txt": {0xff}}),
		"one short text":  folder(t, map[string][]byte{"x.txt": []byte("too short to be parted")}),
	} {
		if c, err := ReadCorpus(unlimited, nil, dir); c != nil || !errors.Is(err, ErrNoText) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadCorpus(0, nil, folder(t, map[string][]byte{"x.jsonl": records(prose(60, 100))})); !errors.Is(err, ErrNoText) {
		t.Errorf("a limit of nothing: %v", err)
	}
	if _, err := ReadCorpus(unlimited, nil, filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such path: %v", err)
	}
}

func TestACutComesAtABlankLineOrALineOrBetweenRunes(t *testing.T) {
	long := strings.Repeat("x", 20)
	for _, test := range []struct{ text, want string }{
		{long + "\n\n" + "abc\ndef", long + "\n\n"},
		{long + "\r\n\r\n" + "abc\ndef", long + "\r\n\r\n"},
		{long + "\nabc", long + "\n"},
		{"ab\n\n" + long + "\nabc", "ab\n\n" + long + "\n"}, // the blank line is in the first half
		{"ab\n" + long, "ab\n" + long[1:]},
		{long + "水", long},
		{long + "水"[:2], long},
		{long + "é水"[:3], long + "é"},
	} {
		if got := test.text[:cut([]byte(test.text))]; got != test.want {
			t.Errorf("%q is cut after %q, want %q", test.text, got, test.want)
		}
	}
}

// Cutting comes to an end, loses no text but blank pieces, and splits no rune.
func FuzzPieces(f *testing.F) {
	f.Add("short", uint8(1))
	f.Add("水\n\nélan\r\n\r\n🙂", uint8(255))
	f.Add("\n", uint8(255))
	f.Add(strings.Repeat("🙂", 1500), uint8(3))
	f.Fuzz(func(t *testing.T, s string, times uint8) {
		// A piece that holds NUL is dropped with its text, after which a repeated text says no more where
		// the next piece stood.
		text := strings.ReplaceAll(strings.ToValidUTF8(strings.Repeat(s, 1+int(times)*4), ""), "\x00", "")
		if len(text) > 64<<10 {
			return
		}
		at := 0
		for _, p := range pieces([]string{text}) {
			i := strings.Index(text[at:], p)
			if i < 0 || strings.TrimSpace(text[at:at+i]) != "" {
				t.Fatalf("a piece is no part of the text, or text before it is lost")
			}
			if !usable(p) || len(p) > pieceBytes {
				t.Fatalf("a piece of %d bytes, usable: %v", len(p), usable(p))
			}
			at += i + len(p)
		}
		if rest := text[at:]; strings.TrimSpace(rest) != "" {
			t.Fatalf("%d bytes at the end are lost", len(rest))
		}
		if usable(text) && !strings.Contains(text, onePiece(text)) {
			t.Fatal("one piece is no part of the text")
		}
	})
}

// readRecords is what a stream takes from a file of records, and how much it skips.
func readRecords(r io.Reader, take func(string), skipped *int) error {
	s := &stream{flows: true, take: func(d document) error {
		take(d.text)
		return nil
	}}
	err := s.records(r)
	*skipped = s.skipped.Total()
	return err
}

// Whatever a file of records holds, each line is taken or counted, however the file is read.
func FuzzReadRecords(f *testing.F) {
	f.Add(records(prose(3, 50)))
	f.Add([]byte("{\"text\": \"a\"}\r\n\n{\"text\": 1}\n{\"text\":\"no line end\"}"))
	f.Add([]byte("{\"text\": \"\xff\"}\n\x00"))
	f.Add([]byte("{\"text\":\"" + strings.Repeat("x", maxRecord) + "\"}\n{\"text\":\"after\"}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var texts []string
		skipped := 0
		if err := readRecords(bytes.NewReader(b), func(s string) { texts = append(texts, s) }, &skipped); err != nil {
			t.Fatal(err)
		}
		lines := bytes.Count(b, []byte("\n"))
		if len(b) > 0 && b[len(b)-1] != '\n' {
			lines++
		}
		if len(texts)+skipped != lines {
			t.Fatalf("%d lines, %d taken and %d skipped", lines, len(texts), skipped)
		}
		for _, s := range texts {
			if !utf8.ValidString(s) || len(s) > maxRecord {
				t.Fatalf("%d bytes were taken, UTF-8: %v", len(s), utf8.ValidString(s))
			}
		}
		if len(b) > 1<<12 {
			return
		}
		var slowly []string
		if err := readRecords(iotest.OneByteReader(bytes.NewReader(b)), func(s string) { slowly = append(slowly, s) }, new(int)); err != nil || !slices.Equal(texts, slowly) {
			t.Fatalf("byte by byte %d records are taken, %d else, %v", len(slowly), len(texts), err)
		}
	})
}

func TestAnErrorOfReadingIsNotTheEndOfTheFile(t *testing.T) {
	broken := errors.New("the disk is gone")
	r := iotest.TimeoutReader(bytes.NewReader(records(prose(3000, 1000)))) // fails at its second read
	if err := readRecords(r, func(string) {}, new(int)); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("got %v", err)
	}
	if err := readRecords(iotest.ErrReader(broken), func(string) {}, new(int)); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
