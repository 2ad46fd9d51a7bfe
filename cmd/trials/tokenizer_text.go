package main

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode/utf8"
)

// windows cuts n strings of 1 to about 2,000 bytes, most of them short, out of random places in texts.
func windows(rng *rand.Rand, texts []string, n int) []string {
	var at []int // where each text begins in all of them
	total := 0
	for _, t := range texts {
		at = append(at, total)
		total += len(t)
	}
	out := make([]string, n)
	for i := range out {
		begin := rng.IntN(total)
		of, exact := slices.BinarySearch(at, begin)
		if !exact {
			of--
		}
		text := texts[of]
		begin -= at[of]
		end := min(len(text), begin+int(math.Exp(rng.Float64()*math.Log(2000))))
		for begin < len(text) && !utf8.RuneStart(text[begin]) {
			begin++
		}
		for end < len(text) && !utf8.RuneStart(text[end]) {
			end++
		}
		out[i] = text[begin:max(begin, end)]
	}
	return out
}

// fuzzed makes n strings that real text seldom holds. Each mixes a few kinds of part, some of them many
// times over.
func fuzzed(rng *rand.Rand, specials []string, n int) []string {
	pick := func(from string) func() string {
		runes := []rune(from)
		return func() string { return string(runes[rng.IntN(len(runes))]) }
	}
	between := func(low, high rune) func() string {
		return func() string {
			r := low + rng.Int32N(high-low+1)
			if r >= 0xd800 && r <= 0xdfff {
				r -= 0x1000
			}
			return string(r)
		}
	}
	list := func(of ...string) func() string { return func() string { return of[rng.IntN(len(of))] } }
	kinds := []func() string{
		between(' ', '~'),
		between(0, 0x10ffff), // every plane, most of it unassigned
		between(0, 0xffff),
		between(0x10000, 0x1ffff),
		between(0x20000, 0x323af),
		between(0xe0000, 0xe01ef), // tags and variation selectors
		between(0, 0x1f), between(0x7f, 0x9f),
		between(0xa1, 0x24f),
		between(0x300, 0x36f),                            // combining
		between(0x370, 0x52f),                            // Greek, Cyrillic
		between(0x590, 0x6ff),                            // Hebrew, Arabic
		between(0x900, 0xdff),                            // Indic, with combining vowels and digits
		between(0xe00, 0xfff),                            // Thai, Lao, Tibetan
		between(0x1100, 0x11ff),                          // Hangul as letters
		between(0x2000, 0x206f),                          // punctuation and what is invisible
		between(0x2150, 0x218f), between(0x2460, 0x24ff), // numbers that are no digits
		between(0x3040, 0x30ff), between(0x4e00, 0x9fff), between(0xac00, 0xd7a3),
		between(0x1d400, 0x1d7ff), // mathematical letters and digits
		between(0x1f300, 0x1faff),
		pick(" \t\n\r\v\f\x1c\x1d\x1e\x1f\u0085\u00a0\u1680\u180e\u2000\u2009\u2028\u2029\u200b\u202f\u205f\u3000\ufeff"),
		pick(" \n"), pick("\r\n"), pick("0123456789"), pick("0123456789½²Ⅳ٣৩𝟘"),
		pick("'sStTrReEvVmMlLdDſK’"),
		list("'s", "'T", "'ll", "'RE", "'Ve", "'ſ", "don't", "I'LL", "''s"),
		list("👩\u200d👩\u200d👧", "👨🏽\u200d💻", "🏳️\u200d🌈", "1️⃣", "🇳🇱", "🇩🇪", "e\u0301", "A\u030a", "क्षि", "각", "ﬁ", "\u202e"),
		// The neighbours of the surrogates, what is no character, and how escapes are spelled.
		list("\ud7ff", "\ue000", "\ufffd", "\ufffe", "\uffff", "\U0001fffe", "\U0010ffff", `\ud83d\ude00`, `\ud800`, `\x00`, "&#xD800;", "%F0%9F"),
		list("the", " the", "The ", " of", "function", "  return ", "http://", "://", "_id", ".com", "== ", "!=", "/* ", "----", "...", "\"),"),
		list(specials...), list(specials...),
		func() string { // a part of a special token
			s := specials[rng.IntN(len(specials))]
			return s[:1+rng.IntN(len(s)-1)]
		},
	}
	out := make([]string, n)
	for i := range out {
		var b strings.Builder
		mix := make([]func() string, 1+rng.IntN(4))
		for k := range mix {
			mix[k] = kinds[rng.IntN(len(kinds))]
		}
		for range 1 + rng.IntN(24) {
			part := mix[rng.IntN(len(mix))]()
			switch rng.IntN(30) {
			case 0:
				part = strings.Repeat(part, 1+rng.IntN(300)) // a long run
			case 1, 2, 3:
				part = strings.Repeat(part, 1+rng.IntN(6))
			}
			b.WriteString(part)
		}
		out[i] = b.String()
	}
	return out
}

// hostile are strings of n characters that have few word boundaries, or many of an awkward kind.
func hostile(n int) map[string]string {
	of := func(s string) string { return strings.Repeat(s, n/utf8.RuneCountInString(s)) }
	return map[string]string{
		"spaces":           of(" "),
		"newlines":         of("\n"),
		"spaces, then a":   of(" ")[1:] + "a",
		"a":                of("a"),
		"digits":           of("7"),
		"emoji":            of("🙂"),
		"a and space":      of("a "),
		"a and b":          of("ab"),
		"space, newline":   of(" \n"),
		"punctuation":      of("-="),
		"combining":        of("e\u0301"),
		"apostrophes":      of("'"),
		"special's start":  of("<|"),
		"bytes not letter": of("\u200d"),
	}
}
