package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node/steward"

	"github.com/ipfs/go-cid"
)

// Leaving is a member that has withdrawn everything.
type Leaving struct {
	Member string    `json:"member"`
	Time   time.Time `json:"time"`
	Reason string    `json:"reason"`
}

// leaving returns what a member's last notice says, if that withdrew everything.
func leaving(l *ledger.Ledger, m notice.Member) (*Leaving, error) {
	key := speaks(l, m)
	for _, h := range l.Heads() {
		if h.Key != key {
			continue
		}
		last, err := l.After(h.Key, h.Seq-1, 1)
		if err != nil {
			return nil, err
		}
		for _, n := range last {
			if r, ok := n.Body.(*notice.Revocation); ok && r.All {
				return &Leaving{Member: m.Name, Time: r.Time, Reason: r.Reason}, nil
			}
		}
	}
	return nil, nil
}

// A Departure is what a member that leaves has signed.
type Departure struct {
	Revocation cid.Cid `json:"revocation"`
	Removal    *Signed `json:"removal,omitempty"` // the proposal that takes it off the charter; nil if it is no steward
}

// Leave implements [Control].
func (n *Node) Leave(ctx context.Context, reason string, with Caution) (d Departure, err error) {
	c := n.ledger.Charter()
	me, ok := c.Named(n.Member())
	if !ok {
		return d, fmt.Errorf("%s is not on the charter any more", n.Member())
	}
	steward := c.Steward(n.Member())
	if steward && len(c.Stewards) == 1 && len(c.Members) > 1 {
		return d, errors.New("that leaves no steward: make another member one first")
	}
	if own, _ := n.own(now()); len(own) > 0 {
		d.Revocation, err = n.Revoke(ctx, cid.Undef, reason)
	} else if gone, failed := leaving(n.ledger, me); failed != nil || gone != nil {
		err = failed // it has said so before
	} else {
		d.Revocation, err = n.bow(ctx, reason, with)
	}
	if err != nil || !steward || len(c.Members) == 1 {
		return d, err
	}
	s, err := n.Propose(ctx, Change{Remove: []string{n.Member()}, Caution: with})
	if err == nil {
		d.Removal = &s
	}
	return d, err
}

// bow withdraws everything in a member's feed that has nothing on offer, so that the stewards see it leave.
func (n *Node) bow(ctx context.Context, reason string, with Caution) (cid.Cid, error) {
	if err := n.awaitReconciled(ctx, time.Duration(with.WithinSeconds*float64(time.Second))); err != nil {
		return cid.Undef, err
	}
	key, err := n.publishingKey()
	if err != nil {
		return cid.Undef, err
	}
	n.signing.Lock()
	defer n.signing.Unlock()
	signed, err := steward.Append(n.ledger, key, now(), &notice.Revocation{All: true, Reason: reason})
	if err != nil {
		return cid.Undef, err
	}
	n.gossip(ctx, signed)
	n.spread(ctx)
	return signed.CID, nil
}
