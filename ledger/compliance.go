package ledger

import (
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// Compliance is what a member's node has stated about offers that were withdrawn.
type Compliance struct {
	Member  string
	Node    notice.PublicKey // its node key now; zero: that is revoked
	Dropped time.Time        // when, by its own clock, it stopped to use the last of them; zero: it has not said so of each
}

// Compliance returns for each member of the current charter, by name, whether
// its node has stated that it dropped every one of the offers, which are
// revoked. Under which revocation it said so does not matter: of several that
// withdraw an offer another may count by now than counted then, and what was
// dropped for one of them stays so. A statement under an earlier node key of
// the member's counts.
func (l *Ledger) Compliance(offers ...cid.Cid) []Compliance {
	l.mu.RLock()
	defer l.mu.RUnlock()
	c := l.consent
	var all []Compliance
	for _, m := range c.charter.Members {
		state := Compliance{Member: m.Name, Node: c.seats[m.Name].node}
		for _, offer := range offers {
			at := c.droppedBy(offer, m.Name)
			if at.IsZero() {
				state.Dropped = at
				break
			}
			state.Dropped = latest(state.Dropped, at)
		}
		all = append(all, state)
	}
	return all
}

// droppedBy returns when a member's node last stated that it had dropped an offer.
func (c *consent) droppedBy(offer cid.Cid, member string) (last time.Time) {
	for k, at := range c.dropped[digestOf(offer)] {
		if c.is(k, member, RoleNode) {
			last = latest(last, at)
		}
	}
	return last
}
