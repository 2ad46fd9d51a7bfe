package simnet

import (
	"chorus/ledger"
	"chorus/ledger/notice"
)

// notices is the ledger as the network uses it.
type store struct{ *ledger.Ledger }

func (l store) Check(n *notice.Notice) error {
	if n.Header() == nil {
		return ledger.ErrWrongCharter
	}
	if _, _, ok := l.Seat(n.Header().Key); !ok {
		return ledger.ErrNotMember
	}
	return nil
}

func (l store) Add(all ...*notice.Notice) (fresh []*notice.Notice, err error) {
	for _, n := range all {
		is, err := l.Ledger.Add(n)
		if err != nil {
			return fresh, err
		}
		if is {
			fresh = append(fresh, n)
		}
	}
	return fresh, nil
}

func (l store) Charters() []*notice.Notice {
	c, err := l.Get(l.Root())
	if err != nil {
		return nil
	}
	return []*notice.Notice{c}
}
func (l store) Proposals() []*notice.Notice { return nil }
func (l store) Detached() []*notice.Notice  { return nil }

func (l store) Seat(key notice.PublicKey) (member string, node, ok bool) {
	for _, m := range l.Charter().Members {
		if m.Publishing == key || m.Node == key {
			return m.Name, m.Node == key, true
		}
	}
	return "", false, false
}

func (l store) Nodes() map[string]notice.PublicKey {
	nodes := make(map[string]notice.PublicKey)
	for _, m := range l.Charter().Members {
		nodes[m.Name] = m.Node
	}
	return nodes
}
