package train

import "math/rand/v2"

// Tokens is a corpus as one run of token ids: document after document, each ended by the
// end-of-text token.
type Tokens struct {
	IDs   []int32
	Bytes int64 // of text
}

// Encode turns documents into a run of tokens. It stops after the document that makes it limit
// tokens long; limit 0 takes all.
func Encode(docs []string, encode func(string) []int, eos, limit int) *Tokens {
	t := new(Tokens)
	for _, d := range docs {
		if limit > 0 && len(t.IDs) >= limit {
			break
		}
		for _, id := range append(encode(d), eos) {
			t.IDs = append(t.IDs, int32(id))
		}
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

// fill stores the windows of a step, counted from 0, in ids, as many as fit, and what follows each
// token in targets.
func (b *batcher) fill(ids, targets []int32, step int) {
	windows, sequences := max(1, (len(b.tokens)-1)/b.length), len(ids)/b.length
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
