package tokenizer

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2/v2"
)

// regexes are the patterns as another implementation of regular expressions
// reads them. Its tables are Go's, so that the texts are kept to characters
// whose class is the same there.
var regexes = map[string]*regexp2.Regexp{
	gpt2Pattern:   regexp2.MustCompile(gpt2Pattern, regexp2.None),
	cl100kPattern: regexp2.MustCompile(cl100kPattern, regexp2.None),
}

func piecesByRegexp(t testing.TB, pattern, text string) []string {
	var pieces []string
	m, err := regexes[pattern].FindStringMatch(text)
	for ; m != nil && err == nil; m, err = regexes[pattern].FindNextMatch(m) {
		pieces = append(pieces, m.String())
	}
	if err != nil {
		t.Fatal(err)
	}
	return pieces
}

func pieces(pattern, text string) []string {
	split := newSplitter(pattern)
	var pieces []string
	for len(text) > 0 {
		n := split(text)
		pieces = append(pieces, text[:n])
		text = text[n:]
	}
	return pieces
}

// sameClass replaces what Go's tables and ours see differently.
func sameClass(text string) string {
	c := classesOnce()
	return strings.Map(func(r rune) rune {
		letters, numbers, spaces := unicode.IsLetter(r), unicode.IsNumber(r), unicode.IsSpace(r)
		class := c.pages[r>>8][r&0xff]
		if letters != (class == letter) || numbers != (class == number) || spaces != (class == space) {
			return '?'
		}
		return r
	}, text)
}

func checkSplit(t testing.TB, text string) {
	text = sameClass(text)
	for pattern := range regexes {
		got, want := pieces(pattern, text), piecesByRegexp(t, pattern, text)
		if strings.Join(got, "\x00") != strings.Join(want, "\x00") {
			t.Fatalf("%.20s… splits %q\n into %q\n want %q", pattern, text, got, want)
		}
	}
}

func TestScannersSplitAsTheirRegularExpressions(t *testing.T) {
	// Every short text over characters that the patterns tell apart.
	alphabet := []string{"s", "L", "e", "1", "'", "!", " ", "\t", "\n", "\r", "é", "٣", "\u3000", "ſ", "\u0301"}
	var grow func(text string, n int)
	grow = func(text string, n int) {
		checkSplit(t, text)
		if n > 0 {
			for _, c := range alphabet {
				grow(text+c, n-1)
			}
		}
	}
	grow("", 3)

	rng := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		var b strings.Builder
		for range 1 + rng.IntN(20) {
			if rng.IntN(20) == 0 {
				b.WriteRune(rng.Int32N(unicode.MaxRune + 1))
			} else {
				b.WriteString(alphabet[rng.IntN(len(alphabet))])
			}
		}
		checkSplit(t, b.String())
	}
}

func TestBytesThatAreNotUTF8SplitAsTheReplacementCharacter(t *testing.T) {
	for _, text := range []string{"a\xffb", " \xff\xfe x", "\xc3", "1\xe2\x82", "\xff's", "\xff\r\n"} {
		for pattern := range regexes {
			got := pieces(pattern, text)
			for i := range got {
				got[i] = strings.Map(func(r rune) rune { return r }, got[i])
			}
			var runes strings.Builder
			for _, r := range text {
				runes.WriteRune(r)
			}
			want := pieces(pattern, runes.String())
			if strings.Join(got, "\x00") != strings.Join(want, "\x00") {
				t.Errorf("%q splits into %q, want %q", text, got, want)
			}
		}
	}
}

func FuzzSplit(f *testing.F) {
	for _, s := range []string{"", "It's  12345 \r\n\t x", "'ſ 'LL 're", "\xff\xc3 a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if utf8.ValidString(text) {
			checkSplit(t, text)
		}
		for pattern := range regexes {
			if got := strings.Join(pieces(pattern, text), ""); got != text {
				t.Fatalf("pieces of %q join to %q", text, got)
			}
		}
	})
}
