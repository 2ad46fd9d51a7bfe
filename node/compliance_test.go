package node

import (
	"slices"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// complied returns the members whose nodes have said that they dropped what was revoked, as n knows.
func (c *consortium) complied(n *Node, revocation cid.Cid) (names []string) {
	c.Helper()
	all, err := n.Compliance(c.Context(), revocation)
	c.must(err)
	for _, m := range all.Members {
		if !m.Dropped.IsZero() {
			names = append(names, m.Member)
		}
	}
	return names
}

func TestTheOwnerLearnsWhoHasDroppedItsExpert(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta", "gamma")
	c.up("alpha", "beta", "gamma")
	offer, blob := c.publish("beta", 2)
	until := c.standing(c.nodes["beta"], offer).Until
	before := time.Now()
	c.down("gamma")
	id := c.revoke("beta", offer)
	beta := c.nodes["beta"]
	c.await("the word of those who are online", func(n *Node) bool { return slices.Equal(c.complied(n, id), []string{"alpha", "beta"}) }, "beta")
	if all, err := beta.Compliance(t.Context(), id); err != nil || !all.Until.Equal(until) || len(all.Members) != 3 || all.Members[2].Connected {
		t.Errorf("compliance %+v, %v, expected gamma offline and the lease to end at %v", all, err, until)
	}
	c.poll("the end of the connection with gamma", func() bool {
		all, err := beta.Compliance(t.Context(), id)
		c.must(err)
		return all.Members[2].Parted.After(before)
	})
	if gone := gone(offer, blob); !gone(c.nodes["alpha"]) {
		t.Error("alpha gave its word and has the expert")
	}
	c.up("gamma")
	c.await("the word of who was offline", func(n *Node) bool { return len(c.complied(n, id)) == 3 }, "beta", "alpha")
	heads := c.nodes["alpha"].Ledger().Heads()
	c.down("alpha")
	c.up("alpha")
	c.await("that it goes on", func(n *Node) bool { return n.Mixture().Why != "" && len(n.Host().Peers()) > 0 }, "alpha")
	if after := c.nodes["alpha"].Ledger().Heads(); !slices.Equal(after, heads) {
		t.Errorf("after a restart it says so again: heads %v, before %v", after, heads)
	}
	if _, err := beta.Compliance(t.Context(), offer); err != nil {
		t.Errorf("of a notice that is no revocation: %v", err)
	}
	if _, err := beta.Compliance(t.Context(), blob); err == nil {
		t.Error("compliance with a revocation that nobody knows")
	}
}

func TestWhatIsRevokedAtOnceIsAcknowledgedOnceAllOfItIs(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	beta := c.nodes["beta"]
	first, _ := c.publish("beta", 2)
	second, _ := c.publish("beta", 3)
	c.await("both experts", func(n *Node) bool { return n.Mixture().stands(first) && n.Mixture().stands(second) })

	// Each is withdrawn by a notice of its own, as where the node does not know its own feed whole.
	key, at := c.key("beta"), now()
	h := notice.Header{Charter: c.charter.CID, Key: notice.PublicKeyOf(key), Time: at}
	sign := func(offer cid.Cid) *notice.Notice {
		n, err := notice.Sign(&notice.Revocation{Header: h, Offer: offer}, key)
		c.must(err)
		return n
	}
	one, other := sign(first), sign(second)
	h.Time = at.Add(time.Second)
	later := sign(first) // which comes too late to withdraw anything
	for _, n := range []*notice.Notice{one, later} {
		_, err := beta.Ledger().Add(n)
		c.must(err)
		c.must(beta.Host().Publish(t.Context(), n))
	}
	c.await("the word on the one", func(*Node) bool { return slices.Equal(c.complied(beta, one.CID), []string{"alpha", "beta"}) }, "beta")
	c.down("alpha")
	_, err := beta.Ledger().Add(other)
	c.must(err)
	c.await("the word on both, of who is online", func(*Node) bool {
		return slices.Equal(c.complied(beta, one.CID), []string{"beta"}) && slices.Equal(c.complied(beta, other.CID), []string{"beta"})
	}, "beta")
	if all, err := beta.Compliance(t.Context(), one.CID); err != nil || all.Withdrawn != 2 {
		t.Errorf("%d offers are withdrawn at once, %v", all.Withdrawn, err)
	}
	c.up("alpha")
	c.await("the word on both", func(*Node) bool { return slices.Equal(c.complied(beta, one.CID), []string{"alpha", "beta"}) }, "beta")
}

// TestAnEarlierRevocationThatComesLaterFindsTheWordThatWasGiven: a sheet of paper, signed long ago, takes the place of the
// revocation that the nodes complied with.
func TestAnEarlierRevocationThatComesLaterFindsTheWordThatWasGiven(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	alpha, beta := c.nodes["alpha"], c.nodes["beta"]
	offer, _ := c.publish("beta", 2)
	key := c.key("beta")
	paper, err := notice.Sign(&notice.Revocation{
		Header: notice.Header{Charter: c.charter.CID, Key: notice.PublicKeyOf(key), Time: now().Add(-time.Hour)}, Offer: offer,
	}, key)
	c.must(err)
	all := []string{"alpha", "beta"}
	first := c.revoke("beta", offer)
	c.await("the word of all", func(n *Node) bool { return slices.Equal(c.complied(n, first), all) })
	heads := alpha.Ledger().Heads()

	_, err = beta.Present(t.Context(), paper.Envelope)
	c.must(err)
	c.await("the sheet", func(n *Node) bool { return c.standing(n, offer).RevokedBy == paper.CID })
	for _, id := range []cid.Cid{first, paper.CID} {
		if said, err := beta.Compliance(t.Context(), id); err != nil || said.Withdrawn != 1 || !slices.Equal(c.complied(beta, id), all) {
			t.Errorf("of %s: %+v, %v", id, said, err)
		}
	}
	c.down("alpha")
	c.up("alpha")
	c.await("that it goes on", func(n *Node) bool { return n.Mixture().Why != "" && len(n.Host().Peers()) > 0 }, "alpha")
	if after := c.nodes["alpha"].Ledger().Heads(); !slices.Equal(after, heads) {
		t.Errorf("it was stated again: heads %v, before %v", after, heads)
	}
}
