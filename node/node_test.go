package node

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"chorus/ledger"
	"chorus/node/openai"
	"chorus/p2p"

	"github.com/ipfs/go-cid"
)

func TestEveryNodeAdmitsWhatAMemberPublishes(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta", "gamma")
	c.up("alpha", "beta", "gamma")
	offer, blob := c.publish("beta", 2)
	for _, n := range c.nodes {
		before := c.usage(n, blob)
		r := c.answer(n, 4)
		if share(r.Attribution, blob) == 0 || share(r.Attribution, cid.Undef) == 0 {
			t.Errorf("%s: attribution %+v, expected parts of the anchor and of %s", n.Member(), r.Attribution, blob)
		}
		if after := c.usage(n, blob); after.Weight-before.Weight != share(r.Attribution, blob) {
			t.Errorf("%s: the ledger grew from %+v to %+v, the answer said %+v", n.Member(), before, after, r.Attribution)
		}
		e := c.status(n, offer)
		if e.State != ledger.Active || !e.InUse || !e.Held || e.Refusal != "" || e.LastUsed.IsZero() || e.Member != "beta" || e.Domain != "cats" || e.Blob != blob {
			t.Errorf("%s: status %+v", n.Member(), e)
		}
		if n := c.events(n, ledger.EventAdmitted, offer); n != 1 {
			t.Errorf("admitted %d times, expected once", n)
		}
	}
}

func TestRevocationEndsAnExpertOnEveryNode(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta", "gamma")
	c.up("alpha", "beta", "gamma")
	offer, blob := c.publish("beta", 2)
	kept, keptBlob := c.publish("alpha", 3)
	for _, n := range c.nodes {
		c.answer(n, 2)
	}
	id := c.revoke("beta", offer)
	c.await("the end of the expert", gone(offer, blob))
	c.await("the other expert's stay", uses(kept))
	c.await("an account of both", func(n *Node) bool {
		return c.events(n, ledger.EventDropped, offer) == 1 && c.events(n, ledger.EventDeleted, offer) == 1
	})
	for name, n := range c.nodes {
		if _, err := n.Ledger().Get(id); err != nil {
			t.Errorf("%s has not the notice: %v", name, err)
		}
		e := c.status(n, offer)
		if e.State != ledger.Revoked || e.InUse || e.Held || e.Reason != "consent withdrawn" {
			t.Errorf("%s: status %+v", name, e)
		}
		before := c.usage(n, blob)
		if before.Weight == 0 {
			t.Errorf("%s never used the expert", name)
		}
		if r := c.answer(n, 4); share(r.Attribution, blob) != 0 || share(r.Attribution, keptBlob) == 0 {
			t.Errorf("%s: attribution %+v after the revocation", name, r.Attribution)
		}
		if after := c.usage(n, blob); after != before {
			t.Errorf("%s: usage grew from %+v to %+v after the revocation", name, before, after)
		}
		if names, err := n.Host().Holders(t.Context(), blob); err != nil || len(names) > 0 {
			t.Errorf("%s is told that %v would serve the blob, %v", name, names, err)
		}
		if err := n.Host().Fetch(t.Context(), blob, e.Size, nil); !errors.Is(err, p2p.ErrNoHolder) {
			t.Errorf("%s fetches the blob: %v, expected %v", name, err, p2p.ErrNoHolder)
		}
		if !n.Blobs().Has(keptBlob) {
			t.Errorf("%s lost the blob of another expert", name)
		}
	}
}

func TestRevokingAllEndsEveryExpertOfTheMember(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	first, blob1 := c.publish("beta", 2)
	second, blob2 := c.publish("beta", 3)
	c.revoke("beta", cid.Undef)
	c.await("the end of the first", gone(first, blob1))
	c.await("the end of the second", gone(second, blob2))
	if _, err := c.nodes["beta"].Revoke(t.Context(), cid.Undef, ""); err == nil {
		t.Error("a member with nothing on offer revoked all of it again")
	}
	if _, err := c.nodes["alpha"].Revoke(t.Context(), first, ""); err == nil {
		t.Error("a member revoked another's offer")
	}
}

func TestRevokingTwiceIsOneRevocation(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	offer, _ := c.publish("beta", 2)
	if a, b := c.revoke("beta", offer), c.revoke("beta", offer); a != b {
		t.Errorf("revocations %s and %s", a, b)
	}
}

func TestRevocationDoesNotWaitForAPublication(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	offer, blob := c.publish("beta", 2)
	beta := c.nodes["beta"]
	beta.signing.Lock() // as a publication does while it copies a large blob
	c.revoke("beta", offer)
	c.await("the drop", func(n *Node) bool { return !n.Mixture().stands(offer) })
	c.await("the deletion where nothing is being published", gone(offer, blob), "alpha")
	beta.signing.Unlock()
	c.await("the deletion at the owner's", gone(offer, blob))
}

// A client that asks one node for answers without a pause.
type client struct {
	wg     sync.WaitGroup
	cancel context.CancelFunc
	mu     sync.Mutex
	steps  []openai.Token // guarded by mu
	err    error          // guarded by mu
}

func (c *consortium) ask(n *Node) *client {
	ctx, cancel := context.WithCancel(c.Context())
	k := &client{cancel: cancel}
	k.wg.Go(func() {
		for ctx.Err() == nil {
			_, err := n.Generate(ctx, openai.Request{Prompt: "the dog", MaxTokens: 3}, func(t openai.Token) error {
				k.mu.Lock()
				defer k.mu.Unlock()
				k.steps = append(k.steps, t)
				return nil
			})
			if err != nil && ctx.Err() == nil {
				k.mu.Lock()
				k.err = err
				k.mu.Unlock()
				return
			}
		}
	})
	return k
}

func (k *client) end(t *testing.T) []openai.Token {
	t.Helper()
	k.cancel()
	k.wg.Wait()
	if k.err != nil {
		t.Error(k.err)
	}
	return k.steps
}

// neverUsed fails the test if any token was ever computed with an offer's expert on n.
func (c *consortium) neverUsed(n *Node, offer, blob cid.Cid, steps []openai.Token) {
	c.Helper()
	if len(steps) == 0 {
		c.Fatal("nothing was asked")
	}
	for i, s := range steps {
		if share(s.Attribution, blob) > 0 {
			c.Fatalf("token %d of %d was computed with the revoked expert: %+v", i, len(steps), s.Attribution)
		}
	}
	if at := n.LastUsed(offer); !at.IsZero() {
		c.Errorf("the revoked expert was used at %v", at)
	}
}

func TestNodeThatJoinsAfterARevocationNeverUsesTheExpert(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta", "late")
	c.up("alpha", "beta")
	revoked, blob := c.publish("beta", 2)
	kept, keptBlob := c.publish("alpha", 3)
	id := c.revoke("beta", revoked)

	late := c.start("late", Options{}) // it knows nobody, and is known to nobody
	k := c.ask(late)
	for range 5 {
		if r := c.answer(late, 3); len(r.Attribution) != 1 || r.Attribution[0].Expert != "anchor" {
			t.Fatalf("before it reached anybody: %+v", r.Attribution)
		}
	}
	if why := late.Mixture().Why; !strings.Contains(why, "no other member could be reached") {
		t.Errorf("it serves the anchor alone because %q", why)
	}
	c.down("alpha")
	c.start("alpha", Options{}, late.Host().Addrs()...)
	c.await("use of the expert that stands", uses(kept), "late")
	r := c.answer(late, 3)
	if share(r.Attribution, keptBlob) == 0 {
		t.Errorf("attribution %+v lacks the expert that stands", r.Attribution)
	}
	c.neverUsed(late, revoked, blob, k.end(t))
	if c.usage(late, blob) != (ledger.Usage{}) {
		t.Errorf("usage %+v", c.usage(late, blob))
	}
	if c.events(late, ledger.EventAdmitted, revoked) != 0 {
		t.Error("it admitted the revoked expert")
	}
	if _, err := late.Ledger().Get(id); err != nil {
		t.Error(err)
	}
}

func TestNodeThatWasDownDuringARevocationNeverUsesTheExpertAgain(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta", "gamma")
	c.up("alpha", "beta", "gamma")
	revoked, blob := c.publish("beta", 2)
	kept, _ := c.publish("alpha", 3)
	c.answer(c.nodes["gamma"], 3)
	c.down("gamma")
	c.revoke("beta", revoked)
	c.down("beta")

	// Its ledger says that the expert is active and leased, and its disk has the blob. It reaches nobody.
	c.must(os.RemoveAll(c.homes["gamma"].addresses()))
	gamma := c.start("gamma", Options{})
	if st := c.standing(gamma, revoked); st.State != ledger.Active || !gamma.Blobs().Has(blob) {
		t.Fatalf("the test expects gamma to believe that the expert stands: %s", st.State)
	}
	before := c.usage(gamma, blob)
	if before.Weight == 0 {
		t.Fatal("the test expects gamma to have used the expert")
	}
	k := c.ask(gamma)
	for range 5 {
		if r := c.answer(gamma, 3); len(r.Attribution) != 1 || r.Attribution[0].Expert != "anchor" {
			t.Fatalf("before it reached anybody: %+v", r.Attribution)
		}
	}
	c.down("alpha")
	c.start("alpha", Options{}, gamma.Host().Addrs()...)
	c.await("use of the expert that stands", uses(kept), "gamma")
	c.await("the end of the expert", gone(revoked, blob), "gamma")
	c.neverUsed(gamma, revoked, blob, k.end(t))
	if after := c.usage(gamma, blob); after != before {
		t.Errorf("usage grew from %+v to %+v", before, after)
	}
	if n := c.events(gamma, ledger.EventAdmitted, revoked); n != 1 {
		t.Errorf("it admitted the expert %d times, expected once, before the revocation", n)
	}
}

func TestNodeThatReachesNobodyServesTheAnchorAndSaysWhy(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	offer, _ := c.publish("alpha", 2) // its own
	c.down("alpha", "beta")
	alpha := c.start("alpha", Options{})
	c.await("a reason", func(n *Node) bool { return strings.Contains(n.Mixture().Why, "no other member could be reached") })
	if s, err := alpha.Status(t.Context()); err != nil || s.Why != alpha.Mixture().Why || len(s.Connected) != 0 {
		t.Errorf("status %+v, %v", s, err)
	}
	if c.status(alpha, offer).InUse || len(c.answer(alpha, 2).Attribution) != 1 {
		t.Error("it uses an expert")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	if _, err := alpha.Publish(ctx, publication(c.expert(9, nil))); !errors.Is(err, ErrNotReconciled) {
		t.Errorf("Publish: %v, expected %v", err, ErrNotReconciled)
	}
	head := alpha.Ledger().Heads()
	if id, err := alpha.Revoke(ctx, offer, ""); !errors.Is(err, ErrNotSpread) || !id.Defined() {
		t.Errorf("Revoke: %v, %v, expected %v and the notice", id, err, ErrNotSpread)
	}
	if after := alpha.Ledger().Heads(); after[0].Seq != head[0].Seq || !c.knows(alpha, offer, ledger.Revoked) {
		t.Errorf("the feed went from %v to %v, and the offer is %s: expected a revocation that stands in no feed", head, after, c.standing(alpha, offer).State)
	}
	c.up("beta")
	c.await("the revocation's arrival", func(n *Node) bool { return c.knows(n, offer, ledger.Revoked) })
}

// knows reports whether a node knows an offer and that it is in a state.
func (c *consortium) knows(n *Node, offer cid.Cid, state ledger.State) bool {
	for _, st := range n.Ledger().Standings(now()) {
		if st.Notice == offer {
			return st.State == state
		}
	}
	return false
}

func TestOneMemberNeedsNobody(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	offer, blob := c.publish("alpha", 2)
	c.down("alpha")
	c.up("alpha")
	c.await("its use after a restart", uses(offer))
	c.revoke("alpha", offer)
	c.await("its end", gone(offer, blob))
}

func TestNodeFetchesTheAnchorFromAnotherMember(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	if err := os.RemoveAll(c.homes["beta"].blobs()); err != nil {
		t.Fatal(err)
	}
	c.up("alpha")
	var last, total int64
	beta := c.start("beta", Options{Progress: func(done, of int64) {
		if done < last {
			t.Errorf("progress from %d to %d", last, done)
		}
		last, total = done, of
	}}, c.nodes["alpha"].Host().Addrs()...)
	if last == 0 || last != total {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	a, _ := beta.Anchor()
	b, _ := c.nodes["alpha"].Anchor()
	if a.Parameters() != b.Parameters() {
		t.Error("the anchors differ")
	}
}

func TestNewEndsWithItsContextWhileItWaitsForTheAnchor(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	if err := os.RemoveAll(c.homes["beta"].blobs()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := New(ctx, c.homes["beta"], Options{Log: discard()}); !errors.Is(err, context.Canceled) {
		t.Errorf("New: %v, %v", n, err)
	}
	c.up("alpha", "beta") // nothing that the first attempt opened is still open
}

func TestOneHomeHasOneNode(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	if _, err := New(t.Context(), c.homes["alpha"], Options{Log: discard()}); !errors.Is(err, ledger.ErrInUse) {
		t.Errorf("a second node: %v, expected %v", err, ledger.ErrInUse)
	}
}
