package tokenizer

import "hash/maphash"

// mergeTable maps a pair of ids to the rank of their merge and its result: an
// open-addressed hash table, as it is read for every pair of every new piece.
type mergeTable struct {
	slots []merge // a power of two of them, at most half of them used
	shift uint    // 64 - log2(len(slots))
}

type merge struct {
	pair     uint64 // left<<32 | right
	rank, id int32  // id 0 and rank -1: unused
}

func newMergeTable(n int) mergeTable {
	size, shift := 2, uint(63)
	for size < 2*n {
		size, shift = 2*size, shift-1
	}
	t := mergeTable{make([]merge, size), shift}
	for i := range t.slots {
		t.slots[i].rank = -1
	}
	return t
}

// slot returns the place of a pair: its own, or the unused one it would take.
func (t *mergeTable) slot(left, right int32) *merge {
	pair := uint64(left)<<32 | uint64(right)
	for i := pair * 0x9e3779b97f4a7c15 >> t.shift; ; i++ { // Fibonacci hashing
		s := &t.slots[i&uint64(len(t.slots)-1)]
		if s.rank < 0 || s.pair == pair {
			return s
		}
	}
}

// add reports whether the pair is new.
func (t *mergeTable) add(left, right, rank, id int32) bool {
	s := t.slot(left, right)
	if s.rank >= 0 {
		return false
	}
	*s = merge{uint64(left)<<32 | uint64(right), rank, id}
	return true
}

// merger is the working memory of one Encode: never shared, kept in a pool.
type merger struct {
	symbols []symbol
	queue   []uint64 // min-heap of rank<<posBits | position of the left symbol
	seed    maphash.Seed
	cache   []cached // nil until the first use
}

// A symbol is an id in a doubly linked list over the piece's bytes.
type symbol struct {
	id         int32 // -1 once it was merged into the symbol before it
	prev, next int   // -1 at the ends
}

// Ranks are below maxMerges, so that rank and position share a word.
const posBits = 40

// cached is the ids of a short piece that was merged before.
type cached struct {
	n, k  uint8
	piece [cachePiece]byte
	ids   [cacheIDs]int32
}

const (
	cacheSize  = 1 << 13 // about half a megabyte
	cachePiece = 22
	cacheIDs   = 10
)

// appendIDs appends the ids of one piece of text.
func (m *merger) appendIDs(ids []int, t *Tokenizer, piece string) []int {
	if id, ok := t.whole[piece]; ok {
		return append(ids, int(id))
	}
	if len(piece) == 1 {
		return append(ids, int(t.bytes[piece[0]]))
	}
	if len(piece) > cachePiece {
		return m.merge(ids, t, piece)
	}
	if m.cache == nil {
		m.cache, m.seed = make([]cached, cacheSize), maphash.MakeSeed()
	}
	c := &m.cache[maphash.String(m.seed, piece)%cacheSize]
	if string(c.piece[:c.n]) == piece {
		for _, id := range c.ids[:c.k] {
			ids = append(ids, int(id))
		}
		return ids
	}
	begin := len(ids)
	ids = m.merge(ids, t, piece)
	if found := ids[begin:]; len(found) <= cacheIDs {
		c.n, c.k = uint8(len(piece)), uint8(len(found))
		copy(c.piece[:], piece)
		for i, id := range found {
			c.ids[i] = int32(id)
		}
	}
	return ids
}

// merge is byte pair encoding (Sennrich et al. 2016, arXiv 1508.07909): of all
// neighbours that may merge, those of the lowest rank, the leftmost first,
// until none is left. A heap over a linked list makes it O(n log n); entries
// whose symbols have changed since are skipped when they come up.
func (m *merger) merge(ids []int, t *Tokenizer, piece string) []int {
	m.symbols, m.queue = m.symbols[:0], m.queue[:0]
	for i := range len(piece) {
		m.symbols = append(m.symbols, symbol{t.bytes[piece[i]], i - 1, i + 1})
	}
	m.symbols[len(piece)-1].next = -1
	for i := range len(piece) - 1 {
		m.push(t, i)
	}
	for len(m.queue) > 0 {
		top := m.pop()
		i := int(top & (1<<posBits - 1))
		left := &m.symbols[i]
		if left.id < 0 || left.next < 0 {
			continue
		}
		right := &m.symbols[left.next]
		found := t.merges.slot(left.id, right.id)
		if found.rank != int32(top>>posBits) {
			continue
		}
		left.id, right.id = found.id, -1
		left.next = right.next
		if left.next >= 0 {
			m.symbols[left.next].prev = i
			m.push(t, i)
		}
		if left.prev >= 0 {
			m.push(t, left.prev)
		}
	}
	for i := 0; i >= 0; i = m.symbols[i].next {
		ids = append(ids, int(m.symbols[i].id))
	}
	return ids
}

// push queues the merge of the symbol at i with the one after it, if they do.
func (m *merger) push(t *Tokenizer, i int) {
	left := m.symbols[i]
	found := t.merges.slot(left.id, m.symbols[left.next].id)
	if found.rank < 0 {
		return
	}
	q := append(m.queue, uint64(found.rank)<<posBits|uint64(i))
	for i := len(q) - 1; i > 0; {
		parent := (i - 1) / 2
		if q[parent] <= q[i] {
			break
		}
		q[parent], q[i] = q[i], q[parent]
		i = parent
	}
	m.queue = q
}

func (m *merger) pop() uint64 {
	q := m.queue
	top, last := q[0], len(q)-1
	q[0] = q[last]
	q = q[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			break
		}
		if child+1 < last && q[child+1] < q[child] {
			child++
		}
		if q[i] <= q[child] {
			break
		}
		q[i], q[child] = q[child], q[i]
		i = child
	}
	m.queue = q
	return top
}

// trim lets go of the memory of an unusually long piece.
func (m *merger) trim() {
	const keep = 1 << 16
	if cap(m.symbols) > keep {
		m.symbols, m.queue = nil, nil
	}
}
