package notice

import (
	"time"

	"github.com/ipfs/go-cid"
)

// Delegation lends some of a key's powers to another key, such as one on a
// machine that renews leases while the member's own node rests. It stands in
// the feed of a publishing or a recovery key.
type Delegation struct {
	Header
	Delegate PublicKey `json:"delegate"`  // who receives them; another than the feed's
	Revoke   bool      `json:"revoke"`    // to revoke offers
	Renew    bool      `json:"renew"`     // to sign leases; at least one of the two
	Offers   []cid.Cid `json:"offers"`    // which offers, sorted by CompareCID, no two the same; empty: all of the member's
	NotAfter time.Time `json:"not_after"` // notices of the delegate's that are signed before this time count; after Time
}

// Kind returns KindDelegation.
func (d *Delegation) Kind() Kind { return KindDelegation }

func (d *Delegation) validate() error {
	if err := d.Header.validate(); err != nil {
		return err
	}
	if d.Delegate.IsZero() || d.Delegate == d.Key {
		return malformed("delegate must be another key than the feed's")
	}
	if !d.Revoke && !d.Renew {
		return malformed("a delegation lends the power to revoke, to renew, or both")
	}
	if err := checkOffers(d.Offers); err != nil {
		return err
	}
	if err := checkTime("not_after", d.NotAfter); err != nil {
		return err
	}
	return checkAfter("not_after", d.NotAfter, d.Time)
}
