package simulation

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node/steward"

	"github.com/ipfs/go-cid"
)

// hands are what a node's steward acts through: blobs are names, an expert is its offer.
type hands struct{ *node }

var _ steward.Hands = hands{}

// Held implements [steward.Hands].
func (h hands) Held(blob cid.Cid) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.blobs[blob]
}

// Fetch implements [steward.Hands].
func (h hands) Fetch(ctx context.Context, blob cid.Cid, _ int64) error {
	if err := pause(ctx, h.takes(blob)); err != nil {
		return err
	}
	for _, key := range h.place.Connected() {
		from := h.world.owners[key].node
		if !from.serves(blob) {
			continue
		}
		h.world.served(from, blob)
		h.mu.Lock()
		h.blobs[blob] = true
		h.mu.Unlock()
		return nil
	}
	return errors.New("nobody serves it")
}

// serves reports whether others are given a blob.
func (n *node) serves(blob cid.Cid) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.blobs[blob] && n.ledger.Offered(blob)
}

// Load implements [steward.Hands].
func (h hands) Load(ctx context.Context, st ledger.Standing) (steward.Expert, error) {
	if !h.Held(st.Offer.Blob) {
		return nil, errors.New("the blob is gone")
	}
	return st.Notice, pause(ctx, h.takes(st.Notice))
}

// takes returns how long something takes: other times for other things, so that none end at one moment.
func (n *node) takes(what cid.Cid) time.Duration {
	sum := sha256.Sum256(append(what.Bytes(), byte(n.number)))
	return time.Duration(binary.BigEndian.Uint64(sum[:]) % uint64(500*time.Millisecond))
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Use implements [steward.Hands].
func (h hands) Use(set []steward.Admitted, why string, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	same := slices.EqualFunc(h.using, set, func(a, b steward.Admitted) bool { return a.Notice == b.Notice })
	h.using, h.until = slices.Clone(set), until
	if !same {
		h.world.mu.Lock()
		defer h.world.mu.Unlock()
		var names []string
		for _, a := range set {
			names = append(names, h.world.title(h.world.signed[a.Notice]))
		}
		h.world.note(h.node, "uses %q %s", names, why)
	}
}

// Drop implements [steward.Hands].
func (h hands) Drop(a steward.Admitted) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at == up && slices.ContainsFunc(h.using, func(u steward.Admitted) bool { return u.Notice == a.Notice }) {
		h.world.mu.Lock()
		defer h.world.mu.Unlock()
		h.world.breach(h.node, "I1: an expert is dropped while it is in use")
	}
}

// Delete implements [steward.Hands].
func (h hands) Delete(blob cid.Cid) (bool, error) {
	for _, st := range h.ledger.Standings(h.clock()) {
		if st.Member == h.name && st.State != ledger.Revoked && st.Offer.Blob == blob {
			return false, nil
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.blobs, blob)
	return true, nil
}

// Renew implements [steward.Hands].
func (h hands) Renew(ctx context.Context, offers []cid.Cid) error {
	if h.rote {
		for _, st := range h.ledger.Standings(h.clock()) {
			if st.Member == h.name && !slices.Contains(offers, st.Notice) {
				offers = append(offers, st.Notice)
			}
		}
		slices.SortFunc(offers, notice.CompareCID)
	}
	return h.promise(ctx, offers)
}

// promise signs and sends a lease of the member's.
func (n *node) promise(ctx context.Context, offers []cid.Cid) error {
	return n.publish(ctx, steward.NewLease(n.ledger, n.name, n.publishingKey(), n.clock(), offers))
}

// publish signs what comes next in the publishing feed and sends it.
func (n *node) publish(ctx context.Context, b notice.Body) error {
	signed, err := store{n.ledger, n}.append(n.publishing, b)
	if err != nil {
		return err
	}
	return n.engine.Publish(ctx, signed)
}

// State implements [steward.Hands].
func (h hands) State(ctx context.Context, revoked []ledger.Standing) error {
	var drops []notice.Drop
	for _, st := range revoked {
		if !slices.ContainsFunc(h.ledger.Compliance(st.Notice), func(c ledger.Compliance) bool {
			return c.Member == h.name && !c.Dropped.IsZero()
		}) {
			drops = append(drops, notice.Drop{Revocation: st.RevokedBy, Offer: st.Notice, Time: h.clock()})
		}
	}
	if len(drops) == 0 {
		return nil
	}
	slices.SortFunc(drops, notice.CompareDrop)
	signed, err := store{h.ledger, h.node}.append(h.node.node, &notice.Statement{Dropped: drops})
	if err != nil {
		return err
	}
	return h.engine.Publish(ctx, signed)
}

// Looked implements [steward.Hands].
func (h hands) Looked() {}

// generate emits a token every so often, with all experts that are in use, as long as they may be.
func (n *node) generate(ctx context.Context) {
	for pause(ctx, time.Duration(1+n.random.Int64N(int64(20*time.Second)))) == nil {
		n.mu.Lock()
		var set []steward.Admitted
		if n.at == up && (n.until.IsZero() || !steward.Over(time.Now(), n.until)) {
			set = n.using
		}
		n.mu.Unlock()
		for _, a := range set {
			n.world.token(n, a)
		}
	}
}
