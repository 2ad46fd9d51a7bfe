package notice

import "github.com/ipfs/go-cid"

// Revocation withdraws offers of its own key for ever. Exactly one of Offer
// and All is set.
type Revocation struct {
	Header
	Offer  cid.Cid `json:"offer,omitzero"` // the notice of kind offer
	All    bool    `json:"all,omitzero"`   // every offer of the key at a lower Seq
	Reason string  `json:"reason"`         // a line for people; may be empty
}

// Kind returns KindRevocation.
func (r *Revocation) Kind() Kind { return KindRevocation }

func (r *Revocation) validate() error {
	if err := r.Header.validate(); err != nil {
		return err
	}
	if r.All == r.Offer.Defined() {
		return malformed("a revocation names one offer, or all: exactly one of the two")
	}
	if !r.All {
		if err := checkRef("offer", r.Offer); err != nil {
			return err
		}
	}
	return checkText("reason", r.Reason)
}
