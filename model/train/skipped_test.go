package train

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Every way of reading a text takes from a .gz file that is damaged what came whole before, and counts the file.
func TestOfAFileThatBreaksOffWhatCameWholeIsUsed(t *testing.T) {
	docs, tok := prose(300, 2000), learned(t)
	good, packed := docs[:100], zipped(records(docs[100:]))
	noise := make([]byte, 5000)
	for r, i := rand.New(rand.NewPCG(1, 2)), 0; i < len(noise); i++ {
		noise[i] = byte(r.Uint32())
	}
	damaged := slices.Clone(packed)
	copy(damaged[len(packed)/2:], noise)
	for name, test := range map[string]struct {
		packed []byte
		least  int // of its 200 documents
		most   int
	}{
		"no byte":          {nil, 0, 0},
		"noise":            {noise, 0, 0},
		"a header alone":   {packed[:10], 0, 0},
		"half of it":       {packed[:len(packed)/2], 50, 150},
		"all but an end":   {packed[:len(packed)-1], 200, 200},
		"another checksum": {append(slices.Clone(packed[:len(packed)-8]), 1, 2, 3, 4, 5, 6, 7, 8), 200, 200},
		"more behind it":   {append(slices.Clone(packed), noise...), 200, 200},
		"damaged half way": {damaged, 50, 150}, // after which lines come out wrong, until it is noticed
	} {
		t.Run(name, func(t *testing.T) {
			source := Source{Paths: []string{folder(t, map[string][]byte{"a.jsonl.gz": test.packed, "b.jsonl": records(good)})}}
			var got []string
			_, skipped, err := readAll(source, func(d document) { got = append(got, d.text) })
			if err != nil {
				t.Fatal(err)
			}
			n := len(got) - len(good)
			if n < test.least || n > test.most || skipped.Broken != 1 {
				t.Fatalf("%d of its documents are used, and skipped are %v", n, skipped)
			}
			if want := slices.Concat(docs[100:100+n], good); name != "damaged half way" && (!slices.Equal(got, want) || skipped.Total() != 1) {
				t.Errorf("what is used is not what came whole, and skipped are %v", skipped)
			}
			slices.Sort(got)

			p, err := Prepare(t.Context(), filepath.Join(t.TempDir(), "text"), source, tok, 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if all := p.Counts.Documents + p.Counts.Valid + p.Counts.Heldout; all != len(got) || p.Counts.Skipped != skipped {
				t.Errorf("prepared are %d documents of %d, and skipped are %v", all, len(got), p.Counts.Skipped)
			}
			var pieced []string
			for _, d := range got {
				if r := ranked(d); !r.heldout() && !r.valid() {
					pieced = append(pieced, d)
				}
			}
			sampled, err := SampleTraining(t.Context(), source, unlimited, nil)
			if err != nil || !slices.Equal(slices.Sorted(slices.Values(sampled)), pieced) {
				t.Errorf("a tokenizer learns from %d documents of %d, %v", len(sampled), len(pieced), err)
			}
			u, err := ReadUnits(ByDocument, source)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(all(u.Train, u.Heldout), got) || u.Skipped != skipped {
				t.Errorf("%d units of %d, and skipped are %v", len(u.Train)+len(u.Heldout), len(got), u.Skipped)
			}
		})
	}
}

func TestWhereNothingIsLeftItIsSaidWhatWasSkipped(t *testing.T) {
	dir := folder(t, map[string][]byte{"a.jsonl.gz": nil, "b.jsonl.gz": []byte("no gzip"), "c.txt": {0xff}})
	source := Source{Paths: []string{dir}}
	_, prepared := Prepare(t.Context(), filepath.Join(t.TempDir(), "text"), source, learned(t), 0, nil)
	_, sampled := SampleTraining(t.Context(), source, unlimited, nil)
	_, units := ReadUnits(ByDocument, source)
	_, corpus := ReadCorpus(unlimited, nil, dir)
	for name, err := range map[string]error{"prepared": prepared, "sampled": sampled, "units": units, "a corpus": corpus} {
		if !errors.Is(err, ErrNoText) || !strings.HasSuffix(err.Error(), "skipped: 1 not UTF-8 text, 2 files that break off or are not gzip)") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAFileThatCannotBeReadIsAnError(t *testing.T) {
	dir := folder(t, map[string][]byte{"a.jsonl.gz": zipped(records(prose(60, 100))), "b.jsonl": records(prose(61, 100))})
	files := mustFiles(t, dir)
	if err := os.Remove(files[0].path); err != nil {
		t.Fatal(err)
	}
	if _, err := each(t.Context(), files, func(document) error { return nil }, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is gone since: %v", err)
	}
	if isBroken(&fs.PathError{Op: "read", Path: "a.jsonl.gz", Err: syscall.EIO}) {
		t.Error("an error of the disk counts as one of the file")
	}
}

func TestRecordsAreSkippedByTheSameKindsWhateverReadsThem(t *testing.T) {
	var lines bytes.Buffer
	for i, d := range prose(60, 100) {
		fmt.Fprintf(&lines, "{\"text\":%q,\"patient\":%d}\n", d, i)
	}
	for line, want := range map[string]Skipped{
		"no json":                             {Malformed: 1},
		`{"text":7,"patient":1}`:              {Malformed: 1},
		`{"text":null,"patient":1}`:           {Malformed: 1},
		`{"title":"x","patient":1}`:           {Malformed: 1},
		"{\"text\":\"\xff\",\"patient\":1}":   {NotText: 1},
		`{"text":"nul \u0000","patient":1}`:   {NotText: 1},
		`{"text":" ","patient":1}`:            {Empty: 1},
		" ":                                   {Empty: 1},
		strings.Repeat("x", maxRecord+1):      {TooLong: 1},
		`{"text":"twice","patient":1}` + "\n": {Duplicate: 1}, // which follows twice
	} {
		if want.Duplicate > 0 {
			line = strings.TrimSpace(line + line)
		}
		source := Source{Paths: []string{folder(t, map[string][]byte{"x.jsonl": append(lines.Bytes(), line...)})}}
		for _, unit := range []string{ByDocument, "field:patient"} {
			u, err := ReadUnits(unit, source)
			if err != nil {
				t.Fatal(err)
			}
			if u.Skipped.Field = ""; u.Skipped != want {
				t.Errorf("%.30q: by %s, skipped are %v", line, unit, u.Skipped)
			}
		}
		if _, skipped, err := readAll(source, func(document) {}); err != nil || skipped != want {
			t.Errorf("%.30q: skipped are %v, %v", line, skipped, err)
		}
	}
}
