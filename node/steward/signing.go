package steward

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// Errors about the member's own feed, which only people can mend. A node that signed on would make it worse.
var (
	ErrFeedGap  = errors.New("notices of this member's own feed are missing here, though later ones are known")
	ErrFeedFork = errors.New("two notices of this member's own feed have the same number, so nothing that it says is relied on")
)

// Append signs b as the next notice of key's feed and stores it. It refuses if the ledger does not know the whole of
// that feed.
func Append(l *ledger.Ledger, key ed25519.PrivateKey, at time.Time, b notice.Body) (*notice.Notice, error) {
	public := notice.PublicKeyOf(key)
	heads := 0
	for _, h := range l.Heads() {
		if h.Key == public {
			heads++
		}
	}
	if heads > 1 {
		return nil, fmt.Errorf("sign %s: %w", b.Kind(), ErrFeedFork)
	}
	for _, gap := range l.Missing() {
		if gap.Key == public {
			return nil, fmt.Errorf("sign %s: %w: %d to %d", b.Kind(), ErrFeedGap, gap.First, gap.Last)
		}
	}
	return l.Append(key, at, b)
}

// NewLease returns the lease on offers of a member's that its node is to append to the feed of key. It names how far
// the member's other feeds are known, so that nobody who lacks a revocation in one of them can rely on it.
func NewLease(l *ledger.Ledger, member string, key notice.PublicKey, at time.Time, offers []cid.Cid) *notice.Lease {
	heads := []notice.Head{}
	for _, h := range l.Tops(member) {
		if h.Key != key {
			heads = append(heads, h)
		}
	}
	return &notice.Lease{
		Offers: offers, Heads: heads,
		NotAfter: at.Add(time.Duration(l.Charter().LeaseSeconds) * time.Second),
	}
}

// catchUpWithin bounds how long a node waits for members that are connected and say nothing, before it signs.
const catchUpWithin = 10 * time.Second

// Others are the members that a node can reach.
type Others interface {
	Reconciled() <-chan struct{}    // closed once the node has heard from one of them since its start
	Unheard() bool                  // whether one is connected, or being dialled for the first time, from which it has not
	Sync(ctx context.Context) error // exchanges with all that are connected
}

// CatchUp waits until a node has heard from some member since its start, and then from all that it can reach: one of
// them may know more of the node's own feed than the first did. It reports whether it did so before ctx ended.
func CatchUp(ctx context.Context, o Others, log *slog.Logger) bool {
	select {
	case <-o.Reconciled():
	case <-ctx.Done():
		return false
	}
	limited, cancel := context.WithTimeout(ctx, catchUpWithin)
	defer cancel()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for o.Unheard() && limited.Err() == nil {
		if err := o.Sync(limited); err != nil {
			log.Info("catching up", slog.Any("error", err))
		}
		select {
		case <-again.C:
		case <-limited.Done():
		}
	}
	return ctx.Err() == nil
}
