package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node/steward"

	"github.com/ipfs/go-cid"
)

// seq returns how far a node knows a member's feed, and whether it knows a fork of it.
func (c *consortium) seq(n *Node, member string) (seq uint64, forked bool) {
	c.Helper()
	heads := 0
	for _, h := range n.Ledger().Heads() {
		if h.Key == notice.PublicKeyOf(c.key(member)) {
			heads++
			seq = h.Seq
		}
	}
	return seq, heads > 1
}

// lease has a node sign the lease that it has once more.
func (c *consortium) lease(n *Node) {
	c.Helper()
	n.signing.Lock()
	defer n.signing.Unlock()
	_, leased := n.own(now())
	c.must(n.sign(c.Context(), now(), leased))
}

func TestANodeRestoredFromABackupGoesOnWhereItsFeedWas(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta", "gamma")
	c.up("alpha", "beta", "gamma")
	offer, _ := c.publish("alpha", 2)
	c.lease(c.nodes["alpha"])
	c.await("the third notice", func(n *Node) bool { s, _ := c.seq(n, "alpha"); return s == 3 })
	c.down("alpha", "gamma") // which misses what comes
	file := c.homes["alpha"].ledger()
	backup, err := os.ReadFile(file)
	c.must(err)

	c.up("alpha")
	second, _ := c.publish("alpha", 3)
	c.await("the whole feed", func(n *Node) bool { s, _ := c.seq(n, "alpha"); return s == 5 })
	c.down("alpha")
	c.must(os.WriteFile(file, backup, 0o600))
	c.must(os.RemoveAll(c.homes["alpha"].addresses()))

	// Where it reaches nobody it does not know that 4 and 5 are taken.
	alone := c.start("alpha", Options{})
	if s, _ := c.seq(alone, "alpha"); s != 3 {
		t.Fatalf("the backup goes to %d, the test expects 3", s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := alone.Publish(ctx, publication(c.expert(4, nil))); !errors.Is(err, ErrNotReconciled) {
		t.Errorf("Publish: %v, expected %v", err, ErrNotReconciled)
	}
	c.down("alpha")

	c.start("gamma", Options{}) // it does not know more than the backup, and may be the first that alpha hears
	c.up("alpha")
	alpha := c.nodes["alpha"]
	third, _ := c.publish("alpha", 4)
	feed, err := alpha.Ledger().After(notice.PublicKeyOf(c.key("alpha")), 5, 1)
	c.must(err)
	if len(feed) != 1 || feed[0].Header().Seq != 6 || feed[0].CID != third {
		t.Fatalf("after 5 comes %v", feed)
	}
	c.await("one feed without a fork", func(n *Node) bool {
		s, forked := c.seq(n, "alpha")
		return s == 7 && !forked && n.Mixture().stands(offer) && n.Mixture().stands(second) && n.Mixture().stands(third)
	})
}

func TestANodeSignsNothingInAFeedThatItDoesNotKnowWhole(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		wrong func(c *consortium, feed []*notice.Notice) *notice.Notice // which notice of alpha's comes to light
		want  error
	}{
		{"a gap", func(c *consortium, feed []*notice.Notice) *notice.Notice {
			return c.sign("alpha", 9, feed[1].CID, &notice.Lease{Offers: []cid.Cid{}, Heads: []notice.Head{}, NotAfter: now().Add(time.Hour)})
		}, steward.ErrFeedGap},
		{"a fork", func(c *consortium, feed []*notice.Notice) *notice.Notice {
			return c.sign("alpha", 2, feed[0].CID, &notice.Lease{Offers: []cid.Cid{}, Heads: []notice.Head{}, NotAfter: now().Add(time.Hour)})
		}, steward.ErrFeedFork},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := found(t, terms{}, "alpha", "beta")
			c.up("alpha", "beta")
			c.publish("alpha", 2)
			alpha := c.nodes["alpha"]
			key := notice.PublicKeyOf(c.key("alpha"))
			feed, err := alpha.Ledger().After(key, 0, 10)
			c.must(err)
			n := tt.wrong(c, feed)
			c.must(c.nodes["beta"].Host().Publish(t.Context(), n))
			c.await("the news", func(a *Node) bool { _, err := a.Ledger().Get(n.CID); return err == nil }, "alpha")
			before, err := alpha.Ledger().After(key, 0, 100)
			c.must(err)
			if _, err := alpha.Publish(t.Context(), publication(c.expert(3, nil))); !errors.Is(err, tt.want) {
				t.Errorf("Publish: %v, expected %v", err, tt.want)
			}
			alpha.signing.Lock()
			err = alpha.sign(t.Context(), now(), nil)
			alpha.signing.Unlock()
			if !errors.Is(err, tt.want) {
				t.Errorf("a lease: %v, expected %v", err, tt.want)
			}
			if after, err := alpha.Ledger().After(key, 0, 100); err != nil || len(after) != len(before) {
				t.Errorf("the feed went from %d to %d notices, %v", len(before), len(after), err)
			}
		})
	}
}

func TestALeaseNamesWhatItsSignerLacksBelow(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	alpha, beta := c.nodes["alpha"], c.nodes["beta"]
	offer, _ := c.publish("alpha", 2)
	c.await("the expert in use", func(n *Node) bool { return n.Mixture().stands(offer) })

	// Alpha revokes elsewhere, with the recovery key. Somebody keeps that back, and passes on what came after it.
	recovery, err := loadKey(c.homes["alpha"].path(recoveryKey))
	c.must(err)
	sign := func(seq uint64, prev, of cid.Cid) *notice.Notice {
		h := notice.Header{Charter: c.charter.CID, Key: notice.PublicKeyOf(recovery), Seq: seq, Prev: prev, Time: now()}
		n, err := notice.Sign(&notice.Revocation{Header: h, Offer: of}, recovery)
		c.must(err)
		return n
	}
	kept := sign(1, cid.Undef, offer)
	later := sign(2, kept.CID, kept.CID)
	_, err = alpha.Ledger().Add(later)
	c.must(err)
	c.lease(alpha)
	c.await("a lease that cannot count", func(n *Node) bool {
		return !n.Mixture().stands(offer) && c.standing(n, offer).State == ledger.Lapsed
	})
	_, err = beta.Ledger().Add(kept)
	c.must(err)
	c.must(beta.Host().Publish(t.Context(), kept))
	c.await("the revocation", func(n *Node) bool { return c.standing(n, offer).State == ledger.Revoked })
}

func TestLeasesAreSignedByTheKeyThatMaySignThemNow(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	alpha, home := c.nodes["alpha"], c.homes["alpha"]
	offer, _ := c.publish("alpha", 2)
	newKey := func(path string) ed25519.PrivateKey {
		f, err := NewKeyFile(KeyInfo{})
		c.must(err)
		os.Remove(path)
		c.must(f.Write(path))
		key, err := f.Private()
		c.must(err)
		return key
	}
	leasedBy := func(key ed25519.PrivateKey, offer cid.Cid) {
		t.Helper()
		feed, err := alpha.Ledger().After(notice.PublicKeyOf(key), 0, 100)
		c.must(err)
		if len(feed) == 0 {
			t.Fatal("the key has signed nothing")
		}
		l, ok := feed[len(feed)-1].Body.(*notice.Lease)
		if !ok || !slices.Contains(l.Offers, offer) {
			t.Fatalf("its last word is %+v", feed[len(feed)-1].Body)
		}
		c.await("that lease", func(n *Node) bool {
			st := c.standing(n, offer)
			return st.State == ledger.Active && st.Until.Equal(l.NotAfter)
		})
	}

	// Without the publishing key, by the one that was lent the power.
	lent := newKey(home.RenewalKeyPath())
	_, err := steward.Append(alpha.Ledger(), c.key("alpha"), now(), &notice.Delegation{Delegate: notice.PublicKeyOf(lent), Renew: true, Offers: []cid.Cid{}, NotAfter: now().Add(24 * time.Hour)})
	c.must(err)
	c.must(alpha.Host().Sync(t.Context()))
	old := c.key("alpha")
	c.must(os.Remove(home.PublishingKeyPath()))
	c.lease(alpha)
	leasedBy(lent, offer)

	// After a rotation, by the new publishing key; the old one and what it lent count for nothing.
	recovery, err := loadKey(home.path(recoveryKey))
	c.must(err)
	next := newKey(home.PublishingKeyPath())
	rotation := notice.NewRotation(c.charter.CID, notice.PublicKeyOf(recovery), notice.RotatePublishing, notice.PublicKeyOf(old), next)
	_, err = steward.Append(alpha.Ledger(), recovery, now(), rotation)
	c.must(err)
	second, _ := c.publish("alpha", 3)
	c.lease(alpha)
	leasedBy(next, second)
}
