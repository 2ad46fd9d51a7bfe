package ledger

import (
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// Compliance is what a member's node has stated about a revocation.
type Compliance struct {
	Member  string
	Node    notice.PublicKey // its node key now; zero: that is revoked
	Dropped time.Time        // when, by its own clock, it stopped to use the last thing that the revocation withdraws; zero: it has not said so
}

// Compliance returns for each member of the current charter, by name, whether
// its node has stated that it dropped what the revocation withdraws. A statement
// under an earlier node key of the member's counts.
func (l *Ledger) Compliance(revocation cid.Cid) []Compliance {
	l.mu.RLock()
	defer l.mu.RUnlock()
	c := l.consent
	var all []Compliance
	said := c.dropped[digestOf(revocation)]
	for _, m := range c.charter.Members {
		state := Compliance{Member: m.Name, Node: c.seats[m.Name].node}
		for k, at := range said {
			if c.is(k, m.Name, RoleNode) && at.After(state.Dropped) {
				state.Dropped = at
			}
		}
		all = append(all, state)
	}
	return all
}
