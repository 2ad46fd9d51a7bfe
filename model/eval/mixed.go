package eval

import (
	"math/rand/v2"
	"strings"
	"unicode/utf8"
)

// MixedDocuments returns n documents that cross domains, as real questions do: each is parts passages of neighbouring domains that differ, of
// least to most bytes, one after the other with a blank line between. Passages are cut where there is white space, if there is some, from
// documents, which are given by domain; at least two domains must have some. Which ones, the seed decides.
func MixedDocuments(domains [][]string, n, parts, least, most int, seed uint64) []string {
	r := rand.New(rand.NewPCG(seed, mixedStream))
	var out []string
	for range n {
		var passages []string
		last := -1
		for range parts {
			d := r.IntN(len(domains))
			for d == last {
				d = r.IntN(len(domains))
			}
			last = d
			document := domains[d][r.IntN(len(domains[d]))]
			passages = append(passages, passage(document, least+r.IntN(most-least+1), r))
		}
		out = append(out, strings.Join(passages, "\n\n"))
	}
	return out
}

// mixedStream is the random stream of mixed documents.
const mixedStream = 0x6d69786564

// passage returns about size bytes from somewhere in a document, or all of one that is shorter.
func passage(document string, size int, r *rand.Rand) string {
	if len(document) <= size {
		return strings.TrimSpace(document)
	}
	at := r.IntN(len(document) - size + 1)
	if space := strings.IndexAny(document[at:at+size/2], " \n"); at > 0 && space >= 0 {
		at += space + 1
	}
	end := min(len(document), at+size)
	if space := strings.LastIndexAny(document[at:end], " \n"); end < len(document) && space > size/2 {
		end = at + space
	}
	for at < end && !utf8.RuneStart(document[at]) {
		at++
	}
	for end < len(document) && end > at && !utf8.RuneStart(document[end]) {
		end--
	}
	return strings.TrimSpace(document[at:end])
}
