package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// oracle is what Hugging Face's library said; testdata/generate.py asked it.
type oracle struct {
	Train                    []string
	Specials                 []string
	Letters, Numbers, Spaces string
	Cases                    []struct {
		Text          string
		GPT2, CL100K  []int
		GPT2Special   []int `json:"gpt2_special"` // absent: as without
		CL100KSpecial []int `json:"cl100k_special"`
	}
}

func loadOracle(t testing.TB) oracle {
	t.Helper()
	b, err := os.ReadFile("testdata/oracle.json")
	if err != nil {
		t.Fatal(err)
	}
	var o oracle
	if err := json.Unmarshal(b, &o); err != nil {
		t.Fatal(err)
	}
	if len(o.Cases) < 500 {
		t.Fatalf("%d cases in testdata/oracle.json", len(o.Cases))
	}
	return o
}

func load(t testing.TB, name string) *Tokenizer {
	t.Helper()
	tok, err := Load(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestIdsAreThoseOfTheOracle(t *testing.T) {
	gpt2, cl100k := load(t, "gpt2.json"), load(t, "cl100k.json")
	forged := 0
	for _, c := range loadOracle(t).Cases {
		for _, e := range []struct {
			name           string
			tok            *Tokenizer
			plain, special []int
		}{
			{"gpt2", gpt2, c.GPT2, c.GPT2Special},
			{"cl100k", cl100k, c.CL100K, c.CL100KSpecial},
		} {
			if e.special == nil {
				e.special = e.plain
			} else {
				forged++
			}
			for range 2 { // the second time from the cache
				if got := e.tok.Encode(c.Text); !slices.Equal(got, e.plain) {
					t.Errorf("%s: Encode(%q)\n got %v\nwant %v", e.name, c.Text, got, e.plain)
				}
				if got := e.tok.EncodeSpecial(c.Text); !slices.Equal(got, e.special) {
					t.Errorf("%s: EncodeSpecial(%q)\n got %v\nwant %v", e.name, c.Text, got, e.special)
				}
			}
			if got := e.tok.Decode(e.special); got != c.Text {
				t.Errorf("%s: Decode gives %q, want %q", e.name, got, c.Text)
			}
		}
	}
	if forged == 0 {
		t.Error("no case has a special token")
	}
}

func TestTrainingIsThatOfTheOracle(t *testing.T) {
	o := loadOracle(t)
	tok, err := Train(slices.Values(o.Train), 640, o.Specials)
	if err != nil {
		t.Fatal(err)
	}
	want := load(t, "cl100k.json")
	if got := tok.VocabSize(); got != want.VocabSize()-3 { // it got three added tokens afterwards
		t.Fatalf("vocabulary of %d, want %d", got, want.VocabSize()-3)
	}
	for id := range tok.VocabSize() {
		if got, want := tok.Decode([]int{id}), want.Decode([]int{id}); got != want {
			t.Fatalf("token %d is %q, want %q", id, got, want)
		}
	}
	for _, c := range o.Cases {
		if strings.Contains(c.Text, "[") {
			continue // the added tokens
		}
		if got := tok.Encode(c.Text); !slices.Equal(got, c.CL100K) {
			t.Errorf("Encode(%q)\n got %v\nwant %v", c.Text, got, c.CL100K)
		}
	}
}

func TestClassesAreThoseOfTheOracle(t *testing.T) {
	o := loadOracle(t)
	want := make([]class, unicode.MaxRune+1)
	for class, list := range map[class]string{letter: o.Letters, number: o.Numbers, space: o.Spaces} {
		at := 0
		for field := range strings.FieldsSeq(list) {
			skip, take, ok := strings.Cut(field, "+")
			s, err1 := strconv.Atoi(skip)
			n, err2 := strconv.Atoi(take)
			if !ok || err1 != nil || err2 != nil {
				t.Fatalf("testdata/oracle.json: %q", field)
			}
			at += s
			for range n {
				want[at] = class
				at++
			}
		}
	}
	c := classesOnce()
	for r, want := range want {
		if got := c.pages[r>>8][r&0xff]; got != want {
			t.Fatalf("%U has class %d, want %d", r, got, want)
		}
	}
}

// The Go release's Unicode may be older than the tables (it lacks letters then)
// or newer, but a character that has a class in both has the same one.
func TestClassesAgreeWithGo(t *testing.T) {
	c := classesOnce()
	counts := make(map[class]int)
	for r := rune(0); r <= unicode.MaxRune; r++ {
		got := c.pages[r>>8][r&0xff]
		counts[got]++
		goes := other
		switch {
		case unicode.IsLetter(r):
			goes = letter
		case unicode.IsNumber(r):
			goes = number
		case unicode.IsSpace(r):
			goes = space
		}
		if got != goes && got != other && goes != other {
			t.Errorf("%U has class %d, in Go's Unicode %s %d", r, got, unicode.Version, goes)
		}
	}
	// The totals of Unicode 16.0.0, DerivedGeneralCategory.txt and PropList.txt.
	if counts[letter] != 141028 || counts[number] != 1911 || counts[space] != 25 {
		t.Errorf("%d letters, %d numbers, %d spaces", counts[letter], counts[number], counts[space])
	}
}
