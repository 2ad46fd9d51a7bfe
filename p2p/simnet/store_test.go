package simnet

import (
	"chorus/ledger"
	"chorus/ledger/notice"
)

// store is the ledger as the network uses it.
type store struct{ *ledger.Ledger }

// Seat says whose key it is, and whether it is that of the member's node.
func (l store) Seat(key notice.PublicKey) (member string, node, ok bool) {
	member, role, ok := l.Ledger.Seat(key)
	return member, role == ledger.RoleNode, ok
}

// Detached returns what stands in no chain, of every key.
func (l store) Detached() []*notice.Notice { return l.Ledger.Detached() }
