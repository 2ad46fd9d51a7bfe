package ledger

import (
	"cmp"
	"slices"
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

// Exported is that a member's node has stated that it was told to export an expert.
type Exported struct {
	Member string    `json:"member"`
	Time   time.Time `json:"time"` // of the last export, by its own clock
}

// Exported returns whose nodes have stated that they exported the expert of one
// of the offers, by name, also of members that have left: a copy stays where it is.
func (l *Ledger) Exported(offers ...cid.Cid) []Exported {
	l.mu.RLock()
	defer l.mu.RUnlock()
	last := make(map[string]time.Time)
	for _, offer := range offers {
		for k, at := range l.consent.exported[digestOf(offer)] {
			for _, name := range l.consent.members(k, RoleNode) {
				last[name] = latest(last[name], at)
			}
		}
	}
	all := make([]Exported, 0, len(last))
	for name, at := range last {
		all = append(all, Exported{name, at})
	}
	slices.SortFunc(all, func(a, b Exported) int { return cmp.Compare(a.Member, b.Member) })
	return all
}

// said is what nodes have stated that they did, by offer and node key: when they
// last did it.
type said map[digest]map[notice.PublicKey]time.Time

func (s said) add(offer cid.Cid, node notice.PublicKey, at time.Time) {
	of := digestOf(offer)
	if s[of] == nil {
		s[of] = make(map[notice.PublicKey]time.Time)
	}
	s[of][node] = latest(s[of][node], at)
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
