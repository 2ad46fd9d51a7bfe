package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node/steward"
	"chorus/p2p"

	"github.com/ipfs/go-cid"
)

// ErrNotReconciled is returned when something is to be signed before the node knows from a peer
// how far its own feed goes: signing a place of the feed twice would suspend the member.
var ErrNotReconciled = errors.New("no other member could be reached since the start, so this node does not know how far its own feed goes")

// ErrOnOffer is returned when an expert is to be offered that is on offer already, in other words.
var ErrOnOffer = errors.New("the expert is on offer already, and an offer does not change")

// A Publication is an expert to offer to the other members.
type Publication struct {
	Path    string          `json:"path"` // of the trained expert's file
	Domain  string          `json:"domain"`
	Licence string          `json:"licence"`
	Metrics notice.Metrics  `json:"metrics"`
	Privacy *notice.Privacy `json:"privacy,omitempty"` // nil if none is claimed

	LeakReport cid.Cid `json:"leak_report"` // digest of the report on what the expert leaks; undefined if there is none

	// WithinSeconds is how long to look for another member before anything is signed; zero: until ctx
	// ends. What follows may take longer, as a large expert does.
	WithinSeconds float64 `json:"within_seconds"`
}

// Publish stores an expert's blob, offers it and leases it to the other members. It may be repeated
// after an interruption at any moment: an expert that is on offer already, in the same words, is only leased again.
// It returns the offer's identity, once the members that are connected have both notices.
func (n *Node) Publish(ctx context.Context, p Publication) (cid.Cid, error) {
	offer, err := n.publish(ctx, p)
	if err != nil || n.single() {
		return offer, err
	}
	// A command that published ends its node on return: the notices must be with the others by then.
	spreading, cancel := context.WithTimeout(ctx, spreadWithin)
	defer cancel()
	if err := n.host.Sync(spreading); err != nil {
		n.log.Info("offer not spread at once, synchronisation spreads it", slog.Any("error", err))
	}
	return offer, nil
}

// spreadWithin bounds how long Publish waits for members that are slow to take what it signed.
const spreadWithin = 5 * time.Second

// publish stores, signs and gossips.
func (n *Node) publish(ctx context.Context, p Publication) (cid.Cid, error) {
	if err := n.belongs(); err != nil {
		return cid.Undef, err
	}
	if err := n.awaitReconciled(ctx, time.Duration(p.WithinSeconds*float64(time.Second))); err != nil {
		return cid.Undef, err
	}
	charter := n.ledger.Charter()
	expert, err := loadExpert(p.Path, n.anchor)
	if err != nil {
		return cid.Undef, err
	}
	if err := expert.Close(); err != nil {
		return cid.Undef, err
	}
	if expert.Anchor != charter.Anchor.String() {
		return cid.Undef, fmt.Errorf("%s was trained against anchor %s, the charter's is %s", p.Path, expert.Anchor, charter.Anchor)
	}
	blob, size, err := blobOf(p.Path)
	if err != nil {
		return cid.Undef, err
	}
	if size > charter.MaxBlobBytes {
		return cid.Undef, fmt.Errorf("%s has %d bytes, the charter allows %d", p.Path, size, charter.MaxBlobBytes)
	}
	key, err := n.publishingKey()
	if err != nil {
		return cid.Undef, err
	}
	if err := n.seated(key); err != nil {
		return cid.Undef, err
	}
	offer, err := n.offer(ctx, key, &notice.Offer{
		Blob: blob, Size: size, Anchor: charter.Anchor, Domain: p.Domain, Licence: p.Licence,
		TopK: 2, Bias: true, Metrics: p.Metrics, Privacy: p.Privacy, LeakReport: p.LeakReport,
	})
	if err != nil {
		return cid.Undef, err
	}
	// Only now, since the steward deletes a blob that no offer names, such as that of a revoked one.
	if stored, _, err := n.blobs.Put(ctx, p.Path); err != nil {
		return cid.Undef, err
	} else if stored != blob {
		return cid.Undef, fmt.Errorf("%s changed while it was being published: publish it again", p.Path)
	}
	n.signing.Lock()
	defer n.signing.Unlock()
	at := now()
	offers, lease := n.own(at)
	switch {
	case offers[offer] == nil:
		return offer, fmt.Errorf("%s was revoked while it was being published", offer)
	case !slices.Contains(lease, offer):
		lease = append(lease, offer)
	case n.active(offer, at):
		return offer, nil
	}
	return offer, n.sign(ctx, at, lease)
}

// offer returns the member's offer of o's blob: the one that is there, or o, which it signs.
func (n *Node) offer(ctx context.Context, key ed25519.PrivateKey, o *notice.Offer) (cid.Cid, error) {
	n.signing.Lock()
	defer n.signing.Unlock()
	at := now()
	offers, _ := n.own(at)
	var changed error
	for id, there := range offers {
		if there.Blob != o.Blob {
			continue
		}
		how := differences(there, o)
		if how == nil {
			return id, nil
		}
		changed = fmt.Errorf("%w: it stands as %s, %s", ErrOnOffer, id, strings.Join(how, " and "))
	}
	if changed != nil {
		return cid.Undef, changed
	}
	signed, err := steward.Append(n.ledger, key, at, o)
	if err != nil {
		return cid.Undef, err
	}
	return signed.CID, n.host.Publish(ctx, signed)
}

// differences says in words what an offer has, or lacks, that a new one of the same blob would change.
func differences(there, o *notice.Offer) (words []string) {
	has := func(what string, here, new bool) {
		switch {
		case here && new:
			words = append(words, "with another "+what)
		case here:
			words = append(words, "with a "+what)
		default:
			words = append(words, "without a "+what)
		}
	}
	if there.Domain != o.Domain {
		words = append(words, fmt.Sprintf("as %q", there.Domain))
	}
	if there.Licence != o.Licence {
		words = append(words, "under the licence "+there.Licence)
	}
	if there.Metrics != o.Metrics {
		words = append(words, "with other metrics")
	}
	if old, now := there.Privacy, o.Privacy; (old == nil) != (now == nil) || old != nil && *old != *now {
		has("claim of privacy", old != nil, now != nil)
	}
	if there.LeakReport != o.LeakReport {
		has("leak report", there.LeakReport.Defined(), o.LeakReport.Defined())
	}
	return words
}

// blobOf returns the CID and the size that a file has as a blob.
func blobOf(path string) (cid.Cid, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return cid.Undef, 0, err
	}
	defer f.Close()
	return p2p.BlobCID(f)
}

// active reports whether an offer is under a lease that has not run out.
func (n *Node) active(offer cid.Cid, at time.Time) bool {
	return slices.ContainsFunc(n.ledger.Standings(at), func(st ledger.Standing) bool {
		return st.Notice == offer && st.State == ledger.Active
	})
}

// ErrNotSpread is returned when a revocation is signed and stored but no other member has it yet.
// Whenever one is reached, it gets it.
var ErrNotSpread = errors.New("the revocation is signed and stored here, but no other member could be reached yet")

// Revoke withdraws an offer of this member for ever, or all of them if offer is undefined. It
// returns the revocation's identity once it is durable here and on one other node; the error wraps
// [ErrNotSpread] if ctx ends before that. It may be repeated.
func (n *Node) Revoke(ctx context.Context, offer cid.Cid, reason string) (cid.Cid, error) {
	id, err := n.revoke(ctx, offer, reason)
	if err != nil {
		return id, err
	}
	if err := n.belongs(); err != nil {
		return id, fmt.Errorf("the revocation is signed and stored here, and nobody takes it: %w", err)
	}
	if n.single() {
		return id, nil
	}
	return id, n.deliver(ctx)
}

// deliver returns when some other node has everything that this one has, or with an error that wraps [ErrNotSpread] when ctx ends.
func (n *Node) deliver(ctx context.Context) error {
	retry := time.NewTicker(200 * time.Millisecond)
	defer retry.Stop()
	for {
		if err := n.host.Deliver(ctx); err == nil {
			return nil
		} else if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ErrNotSpread, err)
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
		}
	}
}

// revoke signs, stores and gossips. It does not wait for n.signing: a lease that lists what is
// revoked meanwhile changes nothing.
func (n *Node) revoke(ctx context.Context, offer cid.Cid, reason string) (cid.Cid, error) {
	key, err := n.publishingKey()
	if err != nil {
		return cid.Undef, err
	}
	at := now()
	own, _ := n.own(at)
	if offer.Defined() {
		for _, st := range n.ledger.Standings(at) {
			if st.Notice == offer && st.Member == n.Member() && st.State == ledger.Revoked {
				return st.RevokedBy, nil
			}
		}
		if own[offer] == nil {
			return cid.Undef, fmt.Errorf("%s is not an offer of %s: `chorus experts` lists them", offer, n.Member())
		}
	} else if len(own) == 0 {
		return cid.Undef, fmt.Errorf("%s has nothing on offer", n.Member())
	}
	if n.mayPlace() {
		signed, err := steward.Append(n.ledger, key, at, &notice.Revocation{Offer: offer, All: !offer.Defined(), Reason: reason})
		if err == nil {
			n.gossip(ctx, signed)
			return signed.CID, nil
		} else if !errors.Is(err, steward.ErrFeedGap) && !errors.Is(err, steward.ErrFeedFork) {
			return cid.Undef, err
		}
	}
	// A revocation waits for nothing: where this node does not know its own feed it takes no place in it.
	all, there, err := revocations(n.ledger, key, n.Member(), ledger.RolePublishing, Target{Offer: offer, All: !offer.Defined()}, reason, false)
	if err != nil {
		return cid.Undef, err
	}
	for _, signed := range all {
		n.gossip(ctx, signed)
		there = append(there, signed.CID)
	}
	return there[len(there)-1], nil
}

// mayPlace reports whether this node knows how far its own feed goes.
func (n *Node) mayPlace() bool {
	select {
	case <-n.caughtUp:
		return true
	default:
		return n.single()
	}
}

// gossip sends a revocation to whoever is connected. Synchronisation brings it to all others.
func (n *Node) gossip(ctx context.Context, revocation *notice.Notice) {
	if err := n.host.Publish(ctx, revocation); err != nil {
		n.log.Warn("revocation not gossiped, synchronisation spreads it", slog.Any("error", err))
	}
}

// own returns this member's offers that are not revoked, by identity, and which of them its newest
// lease lists, whether or not that has run out.
func (n *Node) own(at time.Time) (offers map[cid.Cid]*notice.Offer, leased []cid.Cid) {
	offers = make(map[cid.Cid]*notice.Offer)
	for _, st := range n.ledger.Standings(at) {
		if st.Member != n.Member() || st.State == ledger.Revoked {
			continue
		}
		offers[st.Notice] = st.Offer
		if !st.Until.IsZero() {
			leased = append(leased, st.Notice)
		}
	}
	return offers, leased
}

// sign signs and sends a lease on offers.
func (n *Node) sign(ctx context.Context, at time.Time, offers []cid.Cid) error {
	key, err := n.leaseKey()
	if err != nil {
		return err
	}
	slices.SortFunc(offers, notice.CompareCID)
	signed, err := steward.Append(n.ledger, key, at, steward.NewLease(n.ledger, n.Member(), notice.PublicKeyOf(key), at, offers))
	if err != nil {
		return err
	}
	return n.host.Publish(ctx, signed)
}

// awaitReconciled waits until the node has caught up with the members that it can reach, if there are others. A limit of
// zero is none.
func (n *Node) awaitReconciled(ctx context.Context, limit time.Duration) error {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	if n.single() {
		return nil
	}
	if !steward.CatchUp(ctx, others{n.host}, n.log) { // again, since members may have come since the start
		return fmt.Errorf("%w: %w", ErrNotReconciled, ctx.Err())
	}
	return nil
}

// others are the members as the node's network knows them.
type others struct{ *p2p.Host }

var _ steward.Others = others{}

// Unheard implements [steward.Others].
func (o others) Unheard() bool {
	if !o.Dialled() {
		return true
	}
	heard := make(map[string]bool)
	for _, p := range o.Peers() {
		heard[p.Member] = true
	}
	return slices.ContainsFunc(o.Connected(), func(name string) bool { return !heard[name] })
}

// ExpertPath is where training leaves an expert of a home, by the name of its run.
func (h Home) ExpertPath(name string) string {
	return filepath.Join(h.Training(), name+".safetensors")
}
