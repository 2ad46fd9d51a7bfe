package ledger

import (
	"slices"

	"chorus/ledger/notice"
)

// Tops returns the highest notice that is here of each feed in which what a
// member offers now can be withdrawn, whatever is missing below: the heads of
// the lease that its node signs next, but for the one of the feed that takes
// it, in their order. Whoever has been shown such a head and lacks anything up
// to it cannot count that lease: it might be the revocation.
func (l *Ledger) Tops(member string) []notice.Head {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.consent.tops(member)
}

func (c *consent) tops(member string) []notice.Head {
	tops := []notice.Head{}
	s := c.seats[member]
	if s == nil {
		return tops
	}
	for k, f := range c.feeds {
		if f.top > 0 && c.mayWithdraw(k, member, s.publishing) {
			tops = append(tops, notice.Head{Key: k, Seq: f.top, CID: f.at(f.top)[0].id.cid()})
		}
	}
	slices.SortFunc(tops, func(a, b notice.Head) int { return notice.CompareKey(a.Key, b.Key) })
	return tops
}

// mayWithdraw reports whether a notice in the feed of k can count against what
// the publishing key p of member's offers. Keys that the charter has dropped
// still can, as authority says.
func (a *authority) mayWithdraw(k notice.PublicKey, member string, p notice.PublicKey) bool {
	return k == p || a.is(k, member, RoleRevoker, RoleRecovery) || slices.ContainsFunc(a.lent[k], func(n *notice.Notice) bool {
		d := n.Body.(*notice.Delegation)
		return d.Revoke && (d.Key == p || a.is(d.Key, member, RoleRecovery))
	})
}
