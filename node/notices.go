package node

import (
	"slices"

	"chorus/ledger"
	"chorus/ledger/notice"
)

// notices is the ledger as the network uses it.
type notices struct {
	*ledger.Ledger
	withdraw func() // ends the use of what may not be used any more; nil: nothing is used
}

// Add implements [p2p.Notices]. What a notice withdraws is not used any more when Add returns, and so before anybody
// hears that the notice is here.
func (l notices) Add(all ...*notice.Notice) (fresh []*notice.Notice, err error) {
	fresh, err = l.Ledger.Add(all...)
	if l.withdraw != nil && slices.ContainsFunc(all, (*notice.Notice).Withdraws) {
		l.withdraw()
	}
	return fresh, err
}

// Seat says whose key it is, and whether it is that of the member's node.
func (l notices) Seat(key notice.PublicKey) (member string, node, ok bool) {
	member, role, ok := l.Ledger.Seat(key)
	return member, role == ledger.RoleNode, ok
}

// Detached returns what stands in no chain, of every key.
func (l notices) Detached() []*notice.Notice { return l.Ledger.Detached() }
