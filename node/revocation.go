package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node/steward"

	"github.com/ipfs/go-cid"
)

// A Target is what a revocation withdraws: exactly one of these.
type Target struct {
	Offer cid.Cid
	Key   notice.PublicKey
	All   bool // everything that the member has on offer
}

// revocations signs and stores what withdraws t from the offers and keys of member, by a key that has a role there, and returns besides
// what withdraws it already. A revocation takes a place in the key's feed only if nothing else will do, and then only if own says that nobody
// else continues that feed: two who sign at once would fork it.
func revocations(l *ledger.Ledger, key ed25519.PrivateKey, member string, role ledger.Role, t Target, reason string, own bool) (signed []*notice.Notice, there []cid.Cid, err error) {
	at := now()
	public := notice.PublicKeyOf(key)
	detached := func(r *notice.Revocation) error {
		b, err := notice.WithHeader(r, notice.Header{Charter: l.Root(), Key: public, Time: at})
		if err != nil {
			return err
		}
		n, err := notice.Sign(b, key)
		if err != nil {
			return err
		}
		signed = append(signed, n)
		_, err = l.Add(n)
		return err
	}
	if !t.Key.IsZero() {
		if role == ledger.RoleDelegate {
			return nil, nil, fmt.Errorf("a key that was lent powers of %s revokes offers, and no keys", member)
		}
		return signed, nil, detached(&notice.Revocation{RevokedKey: t.Key, Reason: reason})
	}
	var standing []ledger.Standing
	for _, st := range l.Standings(at) {
		switch {
		case st.Member != member || t.Offer.Defined() && st.Notice != t.Offer:
		case st.State == ledger.Revoked && t.Offer.Defined():
			return nil, []cid.Cid{st.RevokedBy}, nil
		case st.State != ledger.Revoked:
			standing = append(standing, st)
		}
	}
	switch {
	case t.Offer.Defined():
		// It may be unknown here, or another member's: then it counts for nothing.
		if len(standing) == 0 && slices.ContainsFunc(l.Standings(at), func(st ledger.Standing) bool { return st.Notice == t.Offer }) {
			return nil, nil, fmt.Errorf("%s is not an offer of %s, whose key this is", t.Offer, member)
		}
		return signed, nil, detached(&notice.Revocation{Offer: t.Offer, Reason: reason})
	case len(standing) == 0:
		return nil, nil, fmt.Errorf("%s has nothing on offer", member)
	}
	if !own || role != ledger.RoleRecovery && role != ledger.RoleRevoker {
		for _, st := range standing {
			if err := detached(&notice.Revocation{Offer: st.Notice, Reason: reason}); err != nil {
				return signed, nil, err
			}
		}
		return signed, nil, nil
	}
	last := make(map[notice.PublicKey]uint64)
	for _, st := range standing {
		last[st.Offer.Key] = max(last[st.Offer.Key], st.Offer.Seq)
	}
	for _, h := range l.Heads() {
		if seq, ok := last[h.Key]; ok {
			last[h.Key] = max(seq, h.Seq)
		}
	}
	for publishing, seq := range last {
		n, err := steward.Append(l, key, at, &notice.Revocation{All: true, Through: notice.Through{Key: publishing, Seq: seq}, Reason: reason})
		if err != nil {
			return signed, nil, err
		}
		signed = append(signed, n)
	}
	return signed, nil, nil
}

// Declare implements [Control]. A revocation of a key takes no place in the feed: it needs to know no more than that key.
func (n *Node) Declare(ctx context.Context, s Declaration) (cid.Cid, error) {
	key, err := n.publishingKey()
	if err == nil {
		err = n.seated(key)
	}
	if err != nil {
		return cid.Undef, err
	}
	var signed *notice.Notice
	switch {
	case s.Revocation != nil && s.Delegation == nil && s.Revocation.Member == "" && !s.Revocation.RevokedKey.IsZero():
		all, _, err := revocations(n.ledger, key, n.Member(), ledger.RolePublishing, Target{Key: s.Revocation.RevokedKey}, s.Revocation.Reason, false)
		if err != nil {
			return cid.Undef, err
		}
		signed = all[0]
	case s.Revocation != nil && s.Delegation == nil && s.Revocation.Member != "":
		if !n.ledger.Charter().Steward(n.Member()) {
			return cid.Undef, fmt.Errorf("%s is not a steward of %s, and only stewards vote", n.Member(), n.ledger.Charter().Name)
		}
		signed, err = n.place(ctx, key, s.Revocation)
	case s.Delegation != nil && s.Revocation == nil:
		signed, err = n.place(ctx, key, s.Delegation)
	default:
		err = errors.New("nothing that a node signs on request")
	}
	if err != nil {
		return cid.Undef, err
	}
	n.gossip(ctx, signed)
	if n.single() {
		return signed.CID, nil
	}
	return signed.CID, n.deliver(ctx)
}

// place signs b in the feed of the publishing key, once the node knows the whole of that.
func (n *Node) place(ctx context.Context, key ed25519.PrivateKey, b notice.Body) (*notice.Notice, error) {
	if err := n.awaitReconciled(ctx, 0); err != nil {
		return nil, err
	}
	n.signing.Lock()
	defer n.signing.Unlock()
	return steward.Append(n.ledger, key, now(), b)
}

// Present implements [Control].
func (n *Node) Present(ctx context.Context, envelope []byte) (cid.Cid, error) {
	signed, err := notice.Parse(envelope)
	if err != nil {
		return cid.Undef, err
	}
	switch signed.Kind {
	case notice.KindRevocation, notice.KindRotation, notice.KindDelegation:
	default:
		return cid.Undef, fmt.Errorf("a %s, expected what a key signs away from its node", signed.Kind)
	}
	if _, err := n.ledger.Add(signed); err != nil {
		return cid.Undef, err
	}
	n.gossip(ctx, signed)
	if n.single() {
		return signed.CID, nil
	}
	return signed.CID, n.deliver(ctx)
}
