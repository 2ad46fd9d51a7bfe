package tokenizer

import (
	"cmp"
	"container/heap"
	"fmt"
	"iter"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// minCount is how often a pair must occur to be merged: what occurs once says
// nothing about other text.
const minCount = 2

// Train learns a vocabulary of vocabSize tokens from texts: the special tokens
// in their order from id 0, the 256 bytes, then merges of cl100k's pieces, the
// most frequent pair first and of equals that of the lower ids. The result
// depends on nothing but the arguments, and not on the order of the texts. It
// is what Hugging Face's BpeTrainer with min_frequency 2 learns.
//
// The vocabulary is smaller than vocabSize if the texts have too few pairs that
// occur twice. Text that looks like a special token is learned as text, except
// that no merge completes it.
func Train(texts iter.Seq[string], vocabSize int, specials []string) (*Tokenizer, error) {
	return TrainReporting(texts, vocabSize, specials, func(int) error { return nil })
}

// TrainReporting is [Train] that says how far it is: when the texts are counted
// and after each merge it calls report with the number of tokens so far. An
// error of report ends the training and comes back as it is.
func TrainReporting(texts iter.Seq[string], vocabSize int, specials []string, report func(tokens int) error) (*Tokenizer, error) {
	if least := len(specials) + 256; vocabSize < least || vocabSize > maxVocab {
		return nil, fmt.Errorf("vocabulary of %d tokens: expected %d to %d", vocabSize, least, maxVocab)
	}
	tr := newTrainer(specials)
	if len(tr.tokens) != len(specials)+256 {
		return nil, fmt.Errorf("special tokens %q: each must be unique and longer than a byte", specials)
	}
	tr.count(texts)
	for more := true; more; more = len(tr.tokens) < vocabSize && tr.mergeNext() {
		if err := report(len(tr.tokens)); err != nil {
			return nil, err
		}
	}
	b, err := tr.file(specials)
	if err != nil {
		return nil, err
	}
	return Parse(b)
}

// pair is two neighbouring ids.
type pair struct{ left, right int32 }

func (p pair) compare(q pair) int {
	return cmp.Or(cmp.Compare(p.left, q.left), cmp.Compare(p.right, q.right))
}

// occurrences is how often a pair stands in the texts, and in which words.
type occurrences struct {
	pair  pair
	count int
	words []int32 // may list words that lost the pair since

	merged bool // once before: a token made in two ways can bring a pair back
}

// trainer keeps the counts of all pairs up to date while it merges, so that a
// merge costs as much as the words it changes (Sennrich et al. 2016, 3.2).
type trainer struct {
	tokens  []string // by id, over the byte-level alphabet
	ids     vocabulary
	special int // ids below are special
	merges  []mergePair

	words  [][]int32 // the distinct pieces, as ids
	counts []int     // and how often each occurs
	pairs  map[pair]*occurrences
	queue  candidates
}

func newTrainer(specials []string) *trainer {
	tr := &trainer{ids: make(vocabulary), special: len(specials), pairs: make(map[pair]*occurrences)}
	for _, s := range specials {
		tr.token(s)
	}
	alphabet := byteRunes()
	slices.Sort(alphabet[:])
	for _, r := range alphabet {
		tr.token(string(r))
	}
	return tr
}

// token returns the id of a token, new or not.
func (tr *trainer) token(s string) int32 {
	id, ok := tr.ids[s]
	if !ok {
		id = int32(len(tr.tokens))
		tr.ids[s] = id
		tr.tokens = append(tr.tokens, s)
	}
	return id
}

// count takes in the texts: their distinct pieces, then the pairs in these.
func (tr *trainer) count(texts iter.Seq[string]) {
	split := newSplitter(cl100kPattern)
	index := make(map[string]int)
	var pieces []string
	for text := range texts {
		for len(text) > 0 {
			n := split(text)
			i, ok := index[text[:n]]
			if !ok {
				i = len(pieces)
				piece := string([]byte(text[:n])) // does not hold on to the text
				index[piece] = i
				pieces = append(pieces, piece)
				tr.counts = append(tr.counts, 0)
			}
			tr.counts[i]++
			text = text[n:]
		}
	}

	var byteIDs [256]int32
	for b, r := range byteRunes() {
		byteIDs[b] = tr.ids[string(r)]
	}
	tr.words = make([][]int32, len(pieces))
	for w, piece := range pieces {
		word := make([]int32, len(piece))
		for i := range len(piece) {
			word[i] = byteIDs[piece[i]]
		}
		tr.words[w] = word
		for i := range len(word) - 1 {
			tr.change(pair{word[i], word[i+1]}, w, tr.counts[w])
		}
	}
	for _, o := range tr.pairs {
		tr.queue = append(tr.queue, candidate{o, o.count})
	}
	heap.Init(&tr.queue)
}

// change adds n to the count of a pair in word w, and returns its record.
func (tr *trainer) change(p pair, w int, n int) *occurrences {
	o := tr.pairs[p]
	if o == nil {
		o = &occurrences{pair: p}
		tr.pairs[p] = o
	}
	o.count += n
	if n > 0 && (len(o.words) == 0 || o.words[len(o.words)-1] != int32(w)) {
		o.words = append(o.words, int32(w))
	}
	return o
}

// mergeNext does the merge that is due and reports whether there was one.
func (tr *trainer) mergeNext() bool {
	for len(tr.queue) > 0 {
		top := &tr.queue[0]
		o := top.occurrences
		if top.count != o.count { // it was queued before other merges took some
			top.count = o.count
			heap.Fix(&tr.queue, 0)
			continue
		}
		heap.Pop(&tr.queue)
		if o.count < minCount {
			return false
		}
		left, right := tr.tokens[o.pair.left], tr.tokens[o.pair.right]
		if id, ok := tr.ids[left+right]; ok && int(id) < tr.special {
			continue
		}
		if !o.merged {
			o.merged = true
			tr.merges = append(tr.merges, mergePair{left, right})
		}
		tr.apply(o, tr.token(left+right))
		return true
	}
	return false
}

// apply replaces the pair by id in every word that has it.
func (tr *trainer) apply(o *occurrences, id int32) {
	words := o.words
	o.words = nil
	grown := make(map[*occurrences]bool)
	for _, w := range words {
		word, n := tr.words[w], tr.counts[w]
		out := word[:0] // what was merged is never longer
		for i := 0; i < len(word); i++ {
			if i+1 == len(word) || word[i] != o.pair.left || word[i+1] != o.pair.right {
				out = append(out, word[i])
				continue
			}
			if len(out) > 0 {
				before := out[len(out)-1]
				tr.change(pair{before, o.pair.left}, int(w), -n)
				grown[tr.change(pair{before, id}, int(w), n)] = true
			}
			if i+2 < len(word) {
				after := word[i+2]
				tr.change(pair{o.pair.right, after}, int(w), -n)
				grown[tr.change(pair{id, after}, int(w), n)] = true
			}
			out = append(out, id)
			i++
		}
		tr.words[w] = out
	}
	o.count = 0
	for g := range grown {
		if g.count > 0 {
			heap.Push(&tr.queue, candidate{g, g.count})
		}
	}
}

// candidate is a pair with its count when it was queued. A count that has
// fallen since is put right when the candidate comes up.
type candidate struct {
	*occurrences
	count int
}

// candidates is a heap, the most frequent pair first. Equals are ordered by
// pair, so that the order in which they were pushed does not matter.
type candidates []candidate

func (q candidates) Len() int { return len(q) }
func (q candidates) Less(i, j int) bool {
	if q[i].count != q[j].count {
		return q[i].count > q[j].count
	}
	return q[i].pair.compare(q[j].pair) < 0
}
func (q candidates) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *candidates) Push(x any)   { *q = append(*q, x.(candidate)) }
func (q *candidates) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// file writes what was learned as a tokenizer.json.
func (tr *trainer) file(specials []string) ([]byte, error) {
	byteLevel := func(useRegex bool) component {
		return component{Type: "ByteLevel", AddPrefixSpace: new(false), TrimOffsets: new(true), UseRegex: &useRegex}
	}
	pre, err := json.Marshal(component{Type: "Sequence", PreTokenizers: []component{
		{Type: "Split", Pattern: &pattern{Regex: cl100kPattern}, Behavior: "Isolated", Invert: new(false)},
		byteLevel(false),
	}})
	if err != nil {
		return nil, err
	}
	dec, err := json.Marshal(byteLevel(true))
	if err != nil {
		return nil, err
	}
	f := file{
		Version:      "1.0",
		AddedTokens:  addedTokens{},
		PreTokenizer: pre,
		Decoder:      dec,
		Model:        model{Type: "BPE", Vocab: tr.ids, Merges: tr.merges},
	}
	for i, s := range specials {
		f.AddedTokens = append(f.AddedTokens, addedToken{ID: int32(i), Content: s, Special: true})
	}
	return json.Marshal(&f, jsontext.WithIndent("  "))
}
