package node

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node/steward"

	"github.com/ipfs/go-cid"
)

const (
	// statedFor is how old a revocation may be for a node that never had the expert to state that it does not use it.
	statedFor = 30 * 24 * time.Hour
	// statedAtOnce is the most that one statement says, so that it stays well under the size of a notice.
	statedAtOnce = 100
)

// A Compliance says who has dropped what a revocation withdraws.
type Compliance struct {
	Members   []Acknowledgement `json:"members"`           // all on the charter, this one too, by name
	Withdrawn int               `json:"withdrawn"`         // offers that are known and end by it; of none nobody says that it was dropped
	Outside   bool              `json:"outside,omitempty"` // a key without a node has asked, which cannot see who is connected
	Until     time.Time         `json:"until,omitzero"`    // the end of the lease that the withdrawn had: nobody uses it after that
	Exported  []ledger.Exported `json:"exported"`          // who has said that a copy was taken out of its node, which no revocation reaches
}

// An Acknowledgement is what is known of one member.
type Acknowledgement struct {
	Member    string    `json:"member"`
	Dropped   time.Time `json:"dropped,omitzero"` // when its node stopped, by its own clock; zero: it has not said so
	Connected bool      `json:"connected"`
	Parted    time.Time `json:"parted,omitzero"` // when the last connection with its node ended; zero: it is connected, or was not since this node's start
}

// Compliance implements [Control]. Revocations that were signed together, one for each of a member's offers, count as one.
func (n *Node) Compliance(ctx context.Context, revocation cid.Cid) (c Compliance, err error) {
	signed, err := n.ledger.Get(revocation)
	if err != nil {
		return c, err
	}
	s, err := n.Status(ctx)
	if err != nil {
		return c, err
	}
	c = complianceOf(n.ledger, together(n.ledger, signed)...)
	for i := range c.Members {
		a := &c.Members[i]
		a.Connected = a.Member == n.Member()
		for _, m := range s.Members {
			if m.Name == a.Member {
				a.Connected, a.Parted = m.Connected, m.Parted
			}
		}
	}
	return c, nil
}

// together returns a revocation and, if it stands in no feed, what was signed with it at once and withdraws something.
func together(l *ledger.Ledger, revocation *notice.Notice) []cid.Cid {
	all := []cid.Cid{revocation.CID}
	if !revocation.Detached() {
		return all
	}
	withdraws := make(map[cid.Cid]bool)
	for _, st := range l.Standings(now()) {
		withdraws[st.RevokedBy] = true
	}
	h := revocation.Header()
	for _, n := range l.Detached(h.Key) {
		if n.CID != revocation.CID && n.Header().Time.Equal(h.Time) && withdraws[n.CID] {
			all = append(all, n.CID)
		}
	}
	return all
}

// complianceOf is what a ledger says of all that the revocations withdraw, be it that other notices withdraw it, too.
func complianceOf(l *ledger.Ledger, revocations ...cid.Cid) (c Compliance) {
	named := make(map[cid.Cid]bool)
	for _, id := range revocations {
		if n, err := l.Get(id); err == nil {
			if r, ok := n.Body.(*notice.Revocation); ok {
				named[r.Offer] = true
			}
		}
	}
	var offers []cid.Cid
	for _, st := range l.Standings(now()) {
		if st.State == ledger.Revoked && (named[st.Notice] || slices.Contains(revocations, st.RevokedBy)) {
			offers = append(offers, st.Notice)
			if st.Until.After(c.Until) {
				c.Until = st.Until
			}
		}
	}
	c.Withdrawn, c.Exported = len(offers), l.Exported(offers...)
	for _, said := range l.Compliance(offers...) {
		c.Members = append(c.Members, Acknowledgement{Member: said.Member, Dropped: said.Dropped})
	}
	return c
}

// State implements [steward.Hands]: it tells the owners of revoked experts that this node does not use them any more.
func (h hands) State(ctx context.Context, revoked []ledger.Standing) error {
	key, err := loadKey(h.home.path(nodeKey))
	if err != nil {
		return err
	}
	at := now()
	had := make(map[cid.Cid]bool)
	verdicts, err := h.ledger.Verdicts()
	if err != nil {
		return err
	}
	for _, v := range verdicts {
		had[v.Offer] = true
	}
	var drops []notice.Drop
	for _, st := range revoked {
		if recent := st.Revocation != nil && at.Sub(st.Revocation.Time) < statedFor; !recent && !had[st.Notice] {
			continue
		}
		if !slices.ContainsFunc(h.ledger.Compliance(st.Notice), func(c ledger.Compliance) bool {
			return c.Member == h.Member() && !c.Dropped.IsZero()
		}) {
			drops = append(drops, notice.Drop{Revocation: st.RevokedBy, Offer: st.Notice, Time: at})
		}
	}
	slices.SortFunc(drops, notice.CompareDrop)
	for some := range slices.Chunk(drops, statedAtOnce) {
		if err := h.state(ctx, key, at, &notice.Statement{Dropped: some}); err != nil {
			return err
		}
	}
	return nil
}

// stateExports tells the owners of experts that were exported here, and who have not been told yet.
func (n *Node) stateExports(ctx context.Context) error {
	n.signing.Lock() // whoever looks, says it
	defer n.signing.Unlock()
	events, err := n.ledger.Events()
	if err != nil {
		return err
	}
	last := make(map[cid.Cid]time.Time)
	for _, e := range events {
		if e.Kind == ledger.EventExported && e.Time.After(last[e.Offer]) {
			last[e.Offer] = e.Time
		}
	}
	at := now()
	var all []notice.Export
	for _, st := range n.ledger.Standings(at) {
		made := last[st.Notice]
		if made.IsZero() || st.Member == n.Member() {
			continue
		}
		if made.After(at) { // the clock went back since
			made = at
		}
		if !slices.ContainsFunc(n.ledger.Exported(st.Notice), func(x ledger.Exported) bool {
			return x.Member == n.Member() && x.Time.Unix() >= made.Unix()
		}) {
			all = append(all, notice.Export{Offer: st.Notice, Time: made})
		}
	}
	if len(all) == 0 {
		return nil
	}
	key, err := loadKey(n.home.path(nodeKey))
	if err != nil {
		return err
	}
	slices.SortFunc(all, notice.CompareExport)
	for some := range slices.Chunk(all, statedAtOnce) {
		if err := n.state(ctx, key, at, &notice.Statement{Dropped: []notice.Drop{}, Exported: some}); err != nil {
			return err
		}
	}
	return nil
}

// state signs and sends what this node says of itself.
func (n *Node) state(ctx context.Context, key ed25519.PrivateKey, at time.Time, s *notice.Statement) error {
	signed, err := steward.Append(n.ledger, key, at, s)
	if err != nil {
		return fmt.Errorf("state what was done: %w", err)
	}
	if err := n.host.Publish(ctx, signed); err != nil {
		n.log.Info("statement not gossiped, synchronisation spreads it", slog.Any("error", err))
	}
	return nil
}
