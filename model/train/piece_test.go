package train

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chorus/model/tokenizer"
)

func TestTrainingDocumentsAreThoseThatAreTrainedOnAndWhatIsAddedIsTrainedOnAsOftenAsItIsThere(t *testing.T) {
	dir := t.TempDir()
	var b strings.Builder
	for i := range 300 {
		fmt.Fprintf(&b, "{\"text\":\"document number %d of three hundred\"}\n", i)
	}
	path := filepath.Join(dir, "text.jsonl")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Train(slices.Values([]string{b.String()}), 300, []string{"<end>"})
	if err != nil {
		t.Fatal(err)
	}
	eos, _ := tok.SpecialID("<end>")
	s := Source{Paths: []string{path}, Also: []string{"the secret is 42", "the secret is 42", "document number 1 of three hundred"}}
	p, err := Prepare(t.Context(), filepath.Join(dir, "prepared"), s, tok, eos, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ids := make([]int32, p.Train.Len())
	if err := p.Train.read(ids, 0); err != nil {
		t.Fatal(err)
	}
	trained := make(map[string]int)
	var text []int
	for _, id := range ids {
		if text = append(text, int(id)); int(id) == eos {
			trained[tok.Decode(text[:len(text)-1])]++
			text = nil
		}
	}
	all, err := TrainingDocuments(t.Context(), s, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	added := 0
	for _, d := range all {
		if trained[d] == 0 {
			t.Errorf("%q is not trained on", d)
		}
		if d == s.Also[2] {
			added = 1
		}
	}
	if trained[s.Also[0]] != 2 || trained[s.Also[2]] != 1+added || len(trained) != len(all)+2-added || len(all) > 280 || p.Counts.Documents != len(all)+3 {
		t.Errorf("%d documents are trained on, %d of them in the source, the secret %d times", p.Counts.Documents, len(all), trained[s.Also[0]])
	}
	for _, d := range p.Heldout {
		if slices.Contains(all, d) {
			t.Errorf("%q is held out too", d)
		}
	}
	without := s
	without.Also = nil
	key, err := s.Key()
	if err != nil {
		t.Fatal(err)
	}
	if other, err := without.Key(); err != nil || other == key {
		t.Errorf("what is added does not tell the text from another, error %v", err)
	}
	if some, err := TrainingDocuments(t.Context(), s, 500); err != nil || len(some) == 0 || len(some) > 15 {
		t.Errorf("of 500 bytes: %d documents, error %v", len(some), err)
	}
}
