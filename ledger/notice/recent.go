package notice

import (
	"crypto/sha256"
	"sync"
)

// recent has the notices that Parse and ParseAll accepted last. The same bytes reach a node again and again: by gossip and
// in the conversations with each of its peers, and from its own ledger whenever it compares what it has.
var recent = cache{limit: 2 << 20}

// A cache holds verified notices by the SHA-256 of their envelopes: of every byte, since other signatures of the
// same payload must be verified themselves. What does not verify is never in it, so that whoever sends rubbish evicts nothing.
type cache struct {
	limit int // bytes of the envelopes in new from which on it becomes old

	mu       sync.Mutex
	size     int                           // guarded by mu: bytes of the envelopes in new
	new, old map[[sha256.Size]byte]*Notice // guarded by mu: what was used since the last turn, and before
}

// get returns the notice of an envelope, or nil.
func (c *cache) get(sum [sha256.Size]byte) *Notice {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.new[sum]; n != nil {
		return n
	}
	n := c.old[sum]
	if n != nil {
		c.add(sum, n)
	}
	return n
}

// put remembers a notice that was verified.
func (c *cache) put(sum [sha256.Size]byte, n *Notice) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.new[sum] == nil {
		c.add(sum, n)
	}
}

// add is for what is not in new. The caller holds mu.
func (c *cache) add(sum [sha256.Size]byte, n *Notice) {
	if c.size >= c.limit || c.new == nil {
		c.size, c.new, c.old = 0, make(map[[sha256.Size]byte]*Notice), c.new
	}
	c.size += len(n.Envelope)
	c.new[sum] = n
}
