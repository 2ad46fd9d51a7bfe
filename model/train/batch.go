package train

import (
	"math/bits"
	"math/rand/v2"
)

// A batcher cuts a run of tokens into windows of one length and deals them out without
// replacement, in an order that the seed and the epoch decide. What a step gets depends on
// nothing that came before it, so a run that resumes sees what it would have seen.
type batcher struct {
	text   *Tokens
	length int
	seed   uint64
	window []int32 // (length+1)
}

func newBatcher(t *Tokens, length int, seed uint64) *batcher {
	return &batcher{text: t, length: length, seed: seed, window: make([]int32, length+1)}
}

// fill stores the windows of a step, counted from 0, in ids, as many as fit, and what follows each
// token in targets.
func (b *batcher) fill(ids, targets []int32, step int) error {
	windows, sequences := max(1, (b.text.Len()-1)/b.length), len(ids)/b.length
	for s := range sequences {
		n := step*sequences + s
		order := newPermutation(windows, b.seed, uint64(n/windows))
		if err := b.text.read(b.window, order.at(n%windows)*b.length); err != nil {
			return err
		}
		copy(ids[s*b.length:], b.window[:b.length])
		copy(targets[s*b.length:][:b.length], b.window[1:])
	}
	return nil
}

// A permutation is an order of the numbers from 0 to below n that takes no memory: a Feistel network over the least even number of bits
// that hold them, walked until it comes to a number below n (Black and Rogaway 2002, "Ciphers with arbitrary finite domains", section 3).
type permutation struct {
	n    uint64
	half int // bits
	keys [4]uint64
}

func newPermutation(n int, seed, epoch uint64) permutation {
	p := permutation{n: uint64(n), half: (bits.Len64(uint64(n)-1) + 1) / 2}
	for i := range p.keys {
		p.keys[i] = mix(mix(mix(seed)^epoch) ^ uint64(i))
	}
	return p
}

// at returns what stands at place i.
func (p permutation) at(i int) int {
	x, mask := uint64(i), uint64(1)<<p.half-1
	for {
		left, right := x>>p.half, x&mask
		for _, k := range p.keys {
			left, right = right, left^mix(right^k)&mask
		}
		if x = left<<p.half | right; x < p.n {
			return int(x)
		}
	}
}

// mix is the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// draw fills the batch of the step: the windows of each text, then those that are spliced of the first two.
func (r *run) draw() error {
	length, spliced := r.recipe.Length, r.recipe.SplicedSequences*r.recipe.Length
	at := 0
	for i := range r.batches {
		b := &r.batches[i]
		n, more := b.sequences*length, 0
		if i < 2 {
			more = spliced
		}
		if err := b.fill(grow(&b.ids, n+more), grow(&b.targets, n+more), r.step); err != nil {
			return err
		}
		copy(r.ids[at:], b.ids[:n])
		copy(r.targets[at:], b.targets[:n])
		for row := at; row < at+n; row++ {
			r.slots[row] = b.slot
		}
		at += n
	}
	for w := range r.recipe.SplicedSequences {
		r.splice(at+w*length, w)
	}
	return nil
}

// renameStream is the random stream that says which windows are renamed, and how.
const renameStream = 5 << 61

// rename gives each token of some of the batch's windows the place of another, by an order of the whole vocabulary that is the window's own. A text in
// tokens that mean nothing can be followed only by what repeats in it. An anchor that has learned to do that does it for text whose tokens its own corpus
// hardly has, too, where embeddings, attention and head are no expert's to change.
func (r *run) rename() {
	length := r.recipe.Length
	for w := range len(r.ids) / length {
		rng := rand.New(rand.NewPCG(r.recipe.Seed, renameStream+uint64(r.step*r.recipe.Sequences+w)))
		if rng.Float64() >= r.recipe.Renamed {
			continue
		}
		names := rng.Perm(r.mixture.Anchor.Config.VocabSize)
		for _, ids := range [][]int32{r.ids[w*length:][:length], r.targets[w*length:][:length]} {
			for i, id := range ids {
				ids[i] = int32(names[id])
			}
		}
	}
}

// spliceStream is the random stream that says where windows are spliced.
const spliceStream = 3 << 61

// splice stores in the batch, from row at, the w-th window of passages by turns of the last windows of the first two texts, each passage from where
// the other ends.
func (r *run) splice(at, w int) {
	length, spliced := r.recipe.Length, r.recipe.SplicedSequences
	rng := rand.New(rand.NewPCG(r.recipe.Seed, spliceStream+uint64(r.step*spliced+w)))
	ids, targets := r.ids[at:at+length], r.targets[at:at+length]
	turn := rng.IntN(2)
	for i := 0; i < length; turn = 1 - turn {
		b := &r.batches[turn]
		window := len(b.ids) - (spliced-w)*length
		end := min(length, i+length/8+rng.IntN(length*3/8+1))
		copy(ids[i:end], b.ids[window+i:])
		targets[length-1] = b.targets[window+length-1]
		for ; i < end; i++ {
			r.slots[at+i] = b.slot
		}
	}
	copy(targets, ids[1:])
}
