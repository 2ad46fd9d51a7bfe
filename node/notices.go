package node

import (
	"chorus/ledger"
	"chorus/ledger/notice"
)

// notices is the ledger as the network uses it.
type notices struct{ *ledger.Ledger }

// Seat says whose key it is, and whether it is that of the member's node.
func (l notices) Seat(key notice.PublicKey) (member string, node, ok bool) {
	member, role, ok := l.Ledger.Seat(key)
	return member, role == ledger.RoleNode, ok
}

// Detached returns what stands in no chain, of every key.
func (l notices) Detached() []*notice.Notice { return l.Ledger.Detached() }
