package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/p2p"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multicodec"
	"github.com/multiformats/go-multihash"
)

func TestPublishGoesOnAfterAKillAtEveryStep(t *testing.T) {
	t.Parallel()
	// What a node that was killed had done of a publication, in the order of Publish.
	type left struct {
		c            *consortium
		ledger, peer *ledger.Ledger // alpha's and beta's
		blobs        *p2p.BlobStore
		path         string
		offer, lease *notice.Notice
	}
	sign := func(l *left, length time.Duration) {
		var err error
		at := now()
		if length < 0 {
			at = at.Add(2 * length)
		}
		l.lease, err = l.ledger.Append(l.c.key("alpha"), at, &notice.Lease{Offers: []cid.Cid{l.offer.CID}, Heads: []notice.Head{}, NotAfter: at.Add(length.Abs())})
		l.c.must(err)
	}
	offer := func(l *left) {
		id, size, err := blobOf(l.path)
		l.c.must(err)
		p := publication(l.path)
		l.offer, err = l.ledger.Append(l.c.key("alpha"), now(), &notice.Offer{Blob: id, Size: size, Anchor: l.c.anchor, Domain: p.Domain, Licence: p.Licence, TopK: 2, Bias: true, Metrics: p.Metrics})
		l.c.must(err)
	}
	gossip := func(n **notice.Notice) func(*left) {
		return func(l *left) {
			_, err := l.peer.Add(*n)
			l.c.must(err)
		}
	}
	store := func(l *left) {
		_, _, err := l.blobs.Put(l.c.Context(), l.path)
		l.c.must(err)
	}
	gossipOffer := func(l *left) { gossip(&l.offer)(l) }
	gossipLease := func(l *left) { gossip(&l.lease)(l) }
	half := func(l *left) { // a blob that was being written
		l.c.must(os.WriteFile(filepath.Join(l.c.homes["alpha"].blobs(), "put-1"), []byte("half"), 0o600))
	}
	leased := func(l *left) { sign(l, time.Hour) }
	lapsed := func(l *left) { sign(l, -time.Minute) }
	for name, steps := range map[string][]func(*left){
		"nothing":                          {},
		"offer":                            {offer},
		"offer, gossip":                    {offer, gossipOffer},
		"offer, half a blob":               {offer, gossipOffer, half},
		"offer, blob":                      {offer, gossipOffer, store},
		"offer, blob, lease":               {offer, gossipOffer, store, leased},
		"offer, blob, lease, gossip":       {offer, gossipOffer, store, leased, gossipLease},
		"all of it, and the lease ran out": {offer, gossipOffer, store, lapsed, gossipLease},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := found(t, terms{}, "alpha", "beta")
			l := &left{c: c, path: c.expert(2, nil)}
			var err error
			l.ledger, err = c.homes["alpha"].OpenLedger()
			c.must(err)
			l.peer, err = c.homes["beta"].OpenLedger()
			c.must(err)
			l.blobs, err = p2p.NewBlobStore(c.homes["alpha"].blobs())
			c.must(err)
			for _, step := range steps {
				step(l)
			}
			c.must(l.ledger.Close())
			c.must(l.peer.Close())

			c.up("alpha", "beta")
			alpha := c.nodes["alpha"]
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			id, err := alpha.Publish(ctx, publication(l.path))
			c.must(err)
			if st := c.standing(alpha, id); st.State != ledger.Active || l.offer != nil && id != l.offer.CID {
				t.Errorf("published %s, %s, expected the offer that was there under a lease", id, st.State)
			}
			if !c.knows(c.nodes["beta"], id, ledger.Active) {
				t.Error("Publish returned before a member that is connected had the offer and its lease")
			}
			c.await("admission", uses(id))
			again, err := alpha.Publish(ctx, publication(l.path))
			if err != nil || again != id {
				t.Errorf("published again: %s, %v, expected %s", again, err, id)
			}
			offers, leases := 0, 0
			for n, err := range alpha.Ledger().Notices() {
				c.must(err)
				switch n.Kind {
				case notice.KindOffer:
					offers++
				case notice.KindLease:
					leases++
				}
			}
			if offers != 1 || leases < 1 || leases > 2 {
				t.Errorf("the feed has %d offers and %d leases, expected one offer and a lease or its renewal", offers, leases)
			}
			if ids, err := alpha.Blobs().List(); err != nil || len(ids) != 5 { // the anchor's folder, its files, the expert
				t.Errorf("the store has %v, %v", ids, err)
			}
			if names, err := filepath.Glob(filepath.Join(c.homes["alpha"].blobs(), "put-*")); err != nil || len(names) > 0 {
				t.Errorf("left over: %v, %v", names, err)
			}
		})
	}
}

func TestARevokedBlobCanBeOfferedAnew(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	first, blob := c.publish("beta", 2)
	c.revoke("beta", first)
	c.await("the end of the first offer", gone(first, blob))
	second, same := c.publish("beta", 2)
	if second == first || same != blob {
		t.Fatalf("offers %s and %s of blobs %s and %s", first, second, blob, same)
	}
	for name, n := range c.nodes {
		if c.status(n, first).State != ledger.Revoked || !uses(second)(n) || uses(first)(n) || !n.Blobs().Has(blob) {
			t.Errorf("%s: status %+v of the first offer and %+v of the second", name, c.status(n, first), c.status(n, second))
		}
		if r := c.answer(n, 3); share(r.Attribution, blob) == 0 {
			t.Errorf("%s: attribution %+v", name, r.Attribution)
		}
	}
	c.revoke("beta", second)
	c.await("the end of the second offer", gone(second, blob))
}

func TestAnOfferDoesNotChange(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	alpha := c.nodes["alpha"]
	p := publication(c.expert(2, nil))
	report := func(text string) cid.Cid {
		id, err := cid.Prefix{Version: 1, Codec: uint64(multicodec.Json), MhType: multihash.SHA2_256, MhLength: -1}.Sum([]byte(text))
		c.must(err)
		return id
	}
	privacy := notice.Privacy{Unit: "document", Sampler: "poisson", Rate: 0.1, Noise: 2, Clip: 1, Steps: 10, StartNoise: 10, Delta: 1e-6, Epsilon: 8}
	stricter := privacy
	stricter.Epsilon = 2
	publish := func(change func(*Publication)) (cid.Cid, error) {
		changed := p
		change(&changed)
		return alpha.Publish(t.Context(), changed)
	}
	same := func(*Publication) {}
	refused := func(change func(*Publication), words string) {
		t.Helper()
		if _, err := publish(change); !errors.Is(err, ErrOnOffer) || !strings.HasSuffix(err.Error(), words) {
			t.Errorf("error %v, expected %s", err, words)
		}
	}
	bare, err := publish(same)
	c.must(err)
	if again, err := publish(same); err != nil || again != bare {
		t.Errorf("the same again: %s, %v, expected %s", again, err, bare)
	}
	stands := "it stands as " + bare.String() + ", "
	refused(func(p *Publication) { p.Domain = "dogs" }, stands+`as "cats"`)
	refused(func(p *Publication) { p.Licence = "MIT" }, stands+"under the licence CC0-1.0")
	refused(func(p *Publication) { p.Metrics.ExpertBitsPerByte = 0.5 }, stands+"with other metrics")
	refused(func(p *Publication) { p.Privacy = &privacy }, stands+"without a claim of privacy")
	refused(func(p *Publication) { p.Privacy, p.LeakReport = &privacy, report("a") }, stands+"without a claim of privacy and without a leak report")

	// Revoked, the same blob can be offered in other words.
	c.revoke("alpha", bare)
	p.Privacy, p.LeakReport = &privacy, report("a")
	full, err := publish(same)
	c.must(err)
	c.await("use", uses(full))
	if o := c.standing(alpha, full).Offer; full == bare || o.LeakReport != p.LeakReport || *o.Privacy != privacy {
		t.Errorf("the new offer %s is %+v", full, o)
	}
	copied := privacy
	if again, err := publish(func(p *Publication) { p.Privacy = &copied }); err != nil || again != full {
		t.Errorf("the same again: %s, %v, expected %s", again, err, full)
	}
	stands = "it stands as " + full.String() + ", "
	refused(func(p *Publication) { p.Privacy = &stricter }, stands+"with another claim of privacy")
	refused(func(p *Publication) { p.LeakReport = report("b") }, stands+"with another leak report")
	refused(func(p *Publication) { p.LeakReport = cid.Undef }, stands+"with a leak report")
}
