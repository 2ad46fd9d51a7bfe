package notice

import "github.com/ipfs/go-cid"

// Revocation withdraws offers or a key for ever. Exactly one of Offer,
// RevokedKey and All is set.
type Revocation struct {
	Header
	Member     string    `json:"member,omitzero"`      // whose offers or key it is, where a steward votes against another member; else empty
	Offer      cid.Cid   `json:"offer,omitzero"`       // the notice of kind offer
	RevokedKey PublicKey `json:"revoked_key,omitzero"` // a key of the member's, and with it whatever that key alone stands for
	All        bool      `json:"all,omitzero"`         // every offer of this feed at a lower Seq, and those that Through says
	Through    Through   `json:"through,omitzero"`     // only with All, for a feed that does not publish
	Reason     string    `json:"reason"`               // a line for people; may be empty
}

// Through says how much of a publishing key's feed a revocation of all reaches:
// every offer with a seq of at most Seq.
type Through struct {
	Key PublicKey `json:"key"` // another than the revocation's own
	Seq uint64    `json:"seq"` // from 1
}

// Kind returns KindRevocation.
func (r *Revocation) Kind() Kind { return KindRevocation }

func (r *Revocation) validate() error {
	detached := r.Seq == 0
	if err := r.Header.validateSeq(0); err != nil {
		return err
	}
	named := 0
	for _, set := range []bool{r.Offer.Defined(), !r.RevokedKey.IsZero(), r.All} {
		if set {
			named++
		}
	}
	if named != 1 {
		return malformed("a revocation names one offer, one key, or all: exactly one of the three")
	}
	if r.Offer.Defined() {
		if err := checkRef("offer", r.Offer); err != nil {
			return err
		}
	}
	if detached && (r.All || r.Member != "") {
		return malformed("a revocation of all and a steward's vote need a place in a feed")
	}
	if r.Member != "" {
		if err := CheckName(r.Member); err != nil {
			return err
		}
	}
	if r.Through != (Through{}) {
		if !r.All || r.Through.Key.IsZero() || r.Through.Key == r.Key {
			return malformed("through goes with all, and names the key of another feed")
		}
		if r.Through.Seq < 1 || r.Through.Seq > MaxSeq {
			return malformed("through: seq is %d, want 1 to %d", r.Through.Seq, uint64(MaxSeq))
		}
	}
	return checkText("reason", r.Reason)
}
