package train

import "math/rand/v2"

// Tokens is a corpus as one run of token ids: document after document, each ended by the
// end-of-text token.
type Tokens struct {
	IDs   []int32
	Bytes int64 // of text
}

// Encode turns documents into a run of tokens.
func Encode(docs []string, encode func(string) []int32, eos int32) *Tokens {
	t := new(Tokens)
	for _, d := range docs {
		t.IDs = append(append(t.IDs, encode(d)...), eos)
		t.Bytes += int64(len(d))
	}
	return t
}

// A batcher cuts a run of tokens into windows of one length and deals them out without
// replacement, in an order that the seed and the epoch decide. What a step gets depends on
// nothing that came before it, so a run that resumes sees what it would have seen.
type batcher struct {
	tokens []int32
	length int
	seed   uint64
	epoch  int
	order  []int
}

func newBatcher(t *Tokens, length int, seed uint64) *batcher {
	return &batcher{tokens: t.IDs, length: length, seed: seed, epoch: -1}
}

// fill stores the windows of a step, counted from 0, in ids, (sequences, length), and what
// follows each token in targets.
func (b *batcher) fill(ids, targets []int32, step, sequences int) {
	windows := max(1, (len(b.tokens)-1)/b.length)
	for s := range sequences {
		n := step*sequences + s
		if e := n / windows; e != b.epoch {
			b.epoch, b.order = e, rand.New(rand.NewPCG(b.seed, uint64(e))).Perm(windows)
		}
		at := b.order[n%windows] * b.length
		for i := range b.length {
			ids[s*b.length+i] = b.tokens[(at+i)%len(b.tokens)]
			targets[s*b.length+i] = b.tokens[(at+i+1)%len(b.tokens)]
		}
	}
}
