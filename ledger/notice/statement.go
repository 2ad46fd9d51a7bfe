package notice

import (
	"cmp"
	"time"

	"github.com/ipfs/go-cid"
)

// Statement is what a node says of itself. It stands in the feed of a node key.
type Statement struct {
	Header
	Dropped []Drop `json:"dropped"` // sorted by revocation, then offer, by CompareCID, no two the same; at least one
}

// Drop says that a node has taken note of a revocation and, from a time on, no
// longer uses an offer that it withdraws.
type Drop struct {
	Revocation cid.Cid   `json:"revocation"`     // the notice that withdraws
	Offer      cid.Cid   `json:"offer,omitzero"` // undefined: it withdraws nothing that the node knows of
	Time       time.Time `json:"time"`           // not after the statement's
}

// Kind returns KindStatement.
func (s *Statement) Kind() Kind { return KindStatement }

func (s *Statement) validate() error {
	if err := s.Header.validate(); err != nil {
		return err
	}
	if len(s.Dropped) == 0 {
		return malformed("a statement that says nothing")
	}
	for i, d := range s.Dropped {
		if err := checkRef("revocation", d.Revocation); err != nil {
			return err
		}
		if d.Offer.Defined() {
			if err := checkRef("offer", d.Offer); err != nil {
				return err
			}
		}
		if i > 0 && CompareDrop(s.Dropped[i-1], d) >= 0 {
			return malformed("dropped must be sorted by revocation and offer, each once")
		}
		if err := checkTime("time", d.Time); err != nil {
			return err
		}
		if d.Time.Unix() > s.Time.Unix() {
			return malformed("dropped after the time of the statement")
		}
	}
	return nil
}

// CompareDrop is the order of a statement's list. It is a function for
// slices.SortFunc.
func CompareDrop(a, b Drop) int {
	return cmp.Or(CompareCID(a.Revocation, b.Revocation), CompareCID(a.Offer, b.Offer))
}
