package node

import (
	"runtime"
	"slices"
	"testing"

	"chorus/ledger/notice"
	"chorus/node/steward"

	"github.com/ipfs/go-cid"
)

func TestARevocationEndsUseBeforeAnybodyHearsThatItIsHere(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	first, _ := c.publish("beta", 2)
	second, blob := c.publish("beta", 3)
	alpha := c.nodes["alpha"]
	add := func(offer cid.Cid) {
		c.Helper()
		r := c.sign("beta", 0, cid.Undef, &notice.Revocation{Offer: offer})
		_, err := notices{alpha.ledger, alpha.withdraw}.Add(r)
		c.must(err)
	}
	leaving := alpha.Mixture().Experts[slices.IndexFunc(alpha.Mixture().Experts, func(a Admitted) bool { return a.Offer == first })]
	alpha.signing.Lock() // so that the steward, once it has dropped the first, waits to delete its blob
	add(first)
	for leaving.loan.take() {
		leaving.loan.give()
		runtime.Gosched()
	}
	add(second)
	if alpha.Mixture().stands(second) {
		t.Error("the revocation is stored and the expert in use")
	}
	alpha.signing.Unlock()
	c.await("the end of the expert", gone(second, blob), "alpha")
}

func TestAStewardThatLookedBeforeARevocationBringsNothingBack(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	offer, blob := c.publish("alpha", 2)
	alpha := c.nodes["alpha"]
	before := steward.Admitted{Standing: c.standing(alpha, offer), Expert: alpha.Mixture().Experts[0].loan}
	c.revoke("alpha", offer)
	c.await("the end of the expert", gone(offer, blob))
	hands{alpha}.Use([]steward.Admitted{before}, "", before.Until)
	if m := alpha.Mixture(); m.stands(offer) || m.Why != steward.NoneStands {
		t.Errorf("in use %v because %q", m.Experts, m.Why)
	}
}
