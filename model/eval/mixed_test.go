package eval

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestMixedDocumentsCrossDomains(t *testing.T) {
	domains := [][]string{
		{strings.Repeat("aé ", 400), strings.Repeat("A ", 300)},
		{strings.Repeat("bü\n", 500)},
		{strings.Repeat("ç", 900)}, // without a space
	}
	of := func(passage string) int {
		switch strings.ToLower(passage)[0] {
		case 'a':
			return 0
		case 'b':
			return 1
		}
		return 2
	}
	const n, parts, least, most = 40, 4, 100, 300
	docs := MixedDocuments(domains, n, parts, least, most, 7)
	if len(docs) != n {
		t.Fatalf("%d documents, want %d", len(docs), n)
	}
	seen := make(map[int]bool)
	for _, d := range docs {
		passages := strings.Split(d, "\n\n")
		if len(passages) != parts {
			t.Fatalf("%d passages, want %d: %q", len(passages), parts, d)
		}
		for i, p := range passages {
			if len(p) < least/4 || len(p) > most || !utf8.ValidString(p) {
				t.Errorf("a passage of %d bytes, want at most %d of UTF-8", len(p), most)
			}
			if seen[of(p)] = true; i > 0 && of(p) == of(passages[i-1]) {
				t.Error("two neighbouring passages are of one domain")
			}
		}
	}
	if len(seen) != len(domains) {
		t.Errorf("%d domains are there, want %d", len(seen), len(domains))
	}
	if !slices.Equal(docs, MixedDocuments(domains, n, parts, least, most, 7)) {
		t.Error("one seed gives two sets")
	}
	if slices.Equal(docs, MixedDocuments(domains, n, parts, least, most, 8)) {
		t.Error("two seeds give one set")
	}
}

func TestAClassifierTellsTextsByTheirTokens(t *testing.T) {
	c := NewClassifier(5, []int32{0, 0, 0, 1, 2}, []int32{1, 1, 1, 0, 3})
	for _, test := range []struct {
		ids  []int32
		want int
	}{
		{[]int32{0, 0, 1}, 0}, {[]int32{1, 1, 0}, 1}, {[]int32{2, 4}, 0}, {[]int32{3, 4}, 1}, {[]int32{4}, 0},
	} {
		if got := c.Class(test.ids); got != test.want {
			t.Errorf("%v is of class %d, want %d", test.ids, got, test.want)
		}
	}
	// Of ten smoothed counts, 0 has four in class 0 and two in class 1.
	if got := c.Odds([]int32{0}, 0, 1); got < 0.69 || got > 0.70 {
		t.Errorf("the odds of token 0 are %v, want ln 2", got)
	}
}
