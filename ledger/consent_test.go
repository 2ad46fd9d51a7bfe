package ledger

import (
	"fmt"
	"slices"
	"testing"
	"time"

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
