package train

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestTextThatIsPublicAndPrivateIsFoundHoweverItIsKept(t *testing.T) {
	docs, long := prose(60, 300), strings.Join(prose(4000, 700), "\n\n")
	if len(long) < 2*maxRecord {
		t.Fatal("the text is short")
	}
	private := func(unit string, files map[string][]byte) []string {
		u, err := ReadUnits(unit, Source{Paths: []string{folder(t, files)}})
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for _, unit := range append(u.Train, u.Heldout...) {
			texts = append(texts, unit.Documents...)
		}
		return texts
	}
	own := private(ByDocument, map[string][]byte{"x.jsonl": records(docs), "long.txt": []byte(long)})
	for name, test := range map[string]struct {
		public map[string][]byte
		want   int
	}{
		"nothing":                       {nil, 0},
		"other text":                    {map[string][]byte{"x.jsonl": records(prose(70, 300))}, 0},
		"a copy":                        {map[string][]byte{"copy.jsonl": records(docs)}, 60},
		"a copy, packed":                {map[string][]byte{"copy.jsonl.gz": zipped(records(docs))}, 60},
		"two copies":                    {map[string][]byte{"copy.jsonl": records(docs), "again.jsonl": records(docs)}, 60},
		"one among others":              {map[string][]byte{"x.jsonl": append(records(prose(70, 300)), records(docs[7:8])...)}, 1},
		"in files, with an end of line": {map[string][]byte{"a.txt": []byte(docs[3] + "\n"), "b.md": []byte("\n" + docs[4])}, 2},
		"a long file":                   {map[string][]byte{"x.txt": []byte(long)}, len(long)/maxRecord + 1},
		"its first megabyte and some":   {map[string][]byte{"x.txt": []byte(long[:maxRecord*3/2])}, 1},
	} {
		source := Source{Paths: []string{folder(t, test.public)}, Limit: 10} // all of it counts, whatever is trained on
		if got, err := Shared(t.Context(), source, own, nil); err != nil || got != test.want {
			t.Errorf("%s: %d, want %d, %v", name, got, test.want, err)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := Shared(ended, Source{Paths: []string{folder(t, map[string][]byte{"x.jsonl": records(docs)})}}, own, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("it was not to go on: %v", err)
	}
}
