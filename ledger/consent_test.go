package ledger

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

func TestConsentFollowsFromTheNoticesInWhateverOrderTheyArrive(t *testing.T) {
	for _, pic := range slices.Concat(pictures, authorityPictures) {
		t.Run(pic.name, func(t *testing.T) {
			p := draw(t, pic.text)
			for seed := range uint64(40) {
				order := shuffled(p.arrived, seed)
				c := fold(p.charter, order, nil)
				p.check(fmt.Sprintf("order %d", seed), c)
				for _, n := range order {
					if isNew, _ := take(c, p.charter, n); isNew {
						t.Errorf("order %d: %s is new the second time", seed, n.CID)
					}
				}
				p.check(fmt.Sprintf("order %d, twice", seed), c)
				if t.Failed() {
					return
				}
			}
		})
	}
}

// TestRevocationIsTerminal adds the notices of every picture one by one: an
// offer that was revoked once stays so, whatever else comes.
func TestRevocationIsTerminal(t *testing.T) {
	for _, pic := range slices.Concat(pictures, authorityPictures) {
		p := draw(t, pic.text)
		for seed := range uint64(40) {
			before := make(map[cid.Cid]State)
			fold(p.charter, shuffled(p.arrived, seed), func(c *consent) {
				for _, s := range c.standings(midnight.Add(4 * time.Hour)) {
					if was := before[s.Notice]; was == Revoked && s.State != Revoked {
						t.Errorf("%s: order %d: %s became %s", pic.name, seed, was, s.State)
					}
					before[s.Notice] = s.State
				}
			})
		}
	}
}

// TestAFounderHasNoVotesOverWhoCameLater: the founder alone was once a quorum.
func TestAFounderHasNoVotesOverWhoCameLater(t *testing.T) {
	all := aCharter(t, "hearts").Body.(*notice.Charter)
	first := *all
	first.Members, first.Stewards, first.Quorum = all.Members[:1], all.Stewards[:1], 1
	sign := func(b notice.Body, by ...string) *notice.Notice {
		var with []ed25519.PrivateKey
		for _, name := range by {
			with = append(with, keys[name])
		}
		n, err := notice.Sign(b, with...)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	root := sign(&first, "alpha")
	second := *all
	second.Version, second.Prev = 2, root.CID
	header := func(key string) notice.Header {
		return notice.Header{Charter: root.CID, Key: public(key), Seq: 1, Time: midnight}
	}
	offer := anOffer("x")
	offer.Header = header("beta")
	x := sign(offer, "beta")
	vote := func(by string) *notice.Notice {
		return sign(&notice.Revocation{Header: header(by), Member: "beta", Offer: x.CID}, by)
	}
	notices := []*notice.Notice{root, sign(&second, "alpha", "beta"), x, vote("alpha")}
	for _, want := range []State{Lapsed, Revoked} { // with the founder's vote, and with another one's
		if got := fold(root, notices, nil).standings(midnight)[0].State; got != want {
			t.Errorf("with %d notices the offer is %s, want %s", len(notices), got, want)
		}
		notices = append(notices, vote("gamma"))
	}
}
