package node

import (
	"slices"
	"strings"
	"testing"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// shortLease is long enough that a renewal, due after a third of it, comes in time on a busy machine.
const shortLease = 4

func TestExpertEndsWithItsLease(t *testing.T) {
	t.Parallel()
	c := found(t, terms{leaseSeconds: shortLease}, "alpha", "beta", "gamma")
	c.up("alpha", "beta", "gamma")
	offer, blob := c.publish("beta", 2)
	c.down("beta") // it renews no more
	until := c.standing(c.nodes["alpha"], offer).Until
	for _, n := range c.nodes {
		c.answer(n, 2)
	}
	c.await("the end of the lease", gone(offer, blob))
	if at := now(); at.Before(until) {
		t.Errorf("the expert was gone at %v, before its lease ended at %v", at, until)
	}
	for name, n := range c.nodes {
		if e := c.status(n, offer); e.State != ledger.Lapsed || e.InUse || e.Held {
			t.Errorf("%s: status %+v", name, e)
		}
		if used := n.LastUsed(offer); used.After(until) {
			t.Errorf("%s used the expert at %v, after its lease ended at %v", name, used, until)
		}
		if why := n.Mixture().Why; why != "no expert stands under a valid lease" {
			t.Errorf("%s serves the anchor alone because %q", name, why)
		}
		if r := c.answer(n, 2); share(r.Attribution, blob) != 0 {
			t.Errorf("%s: attribution %+v", name, r.Attribution)
		}
	}

	// The owner comes back, and with it the lease, the blob and the expert.
	c.up("beta")
	c.await("use after the owner's return", uses(offer))
}

func TestLeaseIsRenewedForAsLongAsTheNodeRuns(t *testing.T) {
	t.Parallel()
	c := found(t, terms{leaseSeconds: shortLease}, "alpha", "beta")
	c.up("alpha", "beta")
	offer, blob := c.publish("beta", 2)
	first := c.standing(c.nodes["alpha"], offer).Until
	c.await("a lease beyond the first one's end", func(n *Node) bool {
		return c.standing(n, offer).Until.After(first.Add(time.Second)) && now().After(first)
	})
	for name, n := range c.nodes {
		if !n.Mixture().stands(offer) || !n.Blobs().Has(blob) || c.events(n, ledger.EventDropped, offer) != 0 {
			t.Errorf("%s did not keep the expert throughout", name)
		}
	}
}

func TestLeaseThatOmitsAnOfferEndsIt(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	ended, blob := c.publish("beta", 2)
	kept, keptBlob := c.publish("beta", 3)
	beta := c.nodes["beta"]
	beta.signing.Lock()
	err := beta.sign(t.Context(), now(), []cid.Cid{kept})
	beta.signing.Unlock()
	c.must(err)
	c.await("the end of what the lease omits", gone(ended, blob), "alpha")
	c.await("the end of what the lease omits", func(n *Node) bool { return !n.Mixture().stands(ended) }, "beta")
	if a := c.nodes["alpha"]; !a.Mixture().stands(kept) || !a.Blobs().Has(keptBlob) || c.status(a, ended).State != ledger.Lapsed {
		t.Errorf("status %+v of what ended and %+v of what was kept", c.status(a, ended), c.status(a, kept))
	}
}

func TestEquivocationSuspendsTheMember(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta", "gamma")
	c.up("alpha", "beta", "gamma")
	suspended, blob := c.publish("beta", 2)
	kept, _ := c.publish("gamma", 3)
	key := notice.PublicKeyOf(c.key("beta"))
	feed, err := c.nodes["alpha"].Ledger().After(key, 1, 1)
	c.must(err)
	second := c.sign("beta", 2, feed[0].Header().Prev, &notice.Lease{Offers: []cid.Cid{}, Heads: []notice.Head{}, NotAfter: now().Add(time.Hour)})
	if second.CID == feed[0].CID {
		t.Fatal("the test expects two notices")
	}
	c.must(c.nodes["alpha"].Host().Publish(t.Context(), second))
	c.await("the suspension", func(n *Node) bool { return !n.Mixture().stands(suspended) && c.knows(n, suspended, ledger.Suspended) })
	c.await("the deletion", gone(suspended, blob), "alpha", "gamma")
	c.await("the stay of another member's expert", uses(kept))
}

func TestClockSetBackLeavesTheAnchorAlone(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	offer, blob := c.publish("beta", 2)
	c.down("alpha")
	l, err := c.homes["alpha"].OpenLedger()
	c.must(err)
	c.must(l.Observe(time.Now().Add(time.Hour)))
	c.must(l.Close())

	c.up("alpha")
	alpha := c.nodes["alpha"]
	c.await("the reason", func(n *Node) bool { return strings.HasPrefix(n.Mixture().Why, "the clock cannot be trusted: ") }, "alpha")
	<-alpha.Host().Reconciled()
	if r := c.answer(alpha, 3); share(r.Attribution, blob) != 0 || len(alpha.Mixture().Experts) > 0 {
		t.Errorf("it uses an expert: %+v", r.Attribution)
	}
	if !alpha.Blobs().Has(blob) {
		t.Error("it deleted a blob on the word of a clock that it does not trust")
	}
	// A revocation counts whatever the clock says.
	c.revoke("beta", offer)
	c.await("the deletion", gone(offer, blob))
}

func TestExpertIsFetchedAgainWhenItsHolderIsBack(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta", "gamma")
	c.up("alpha", "beta")
	offer, _ := c.publish("beta", 2)
	c.down("beta")
	c.must(c.nodes["alpha"].Blobs().Delete(c.standing(c.nodes["alpha"], offer).Offer.Blob))
	c.up("gamma") // it learns of the offer, and nobody serves the blob
	c.await("news of the offer", func(n *Node) bool { return c.knows(n, offer, ledger.Active) }, "gamma")
	if c.nodes["gamma"].Mixture().stands(offer) {
		t.Fatal("the test expects gamma not to have the expert")
	}
	c.up("beta")
	c.await("its admission", uses(offer), "gamma")
	if n := c.events(c.nodes["gamma"], ledger.EventRefused, offer); n != 0 {
		t.Errorf("refused %d times", n)
	}
}

func TestSlotsAreInTheOrderOfMembersOnEveryNode(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta", "gamma")
	c.up("alpha", "beta", "gamma")
	for i, name := range []string{"gamma", "alpha", "beta"} {
		c.publish(name, uint64(2+i))
	}
	for name, n := range c.nodes {
		var order []string
		for _, a := range n.Mixture().Experts {
			order = append(order, a.Member)
		}
		if !slices.Equal(order, []string{"alpha", "beta", "gamma"}) {
			t.Errorf("%s has the experts of %v", name, order)
		}
	}
}
