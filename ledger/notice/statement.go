package notice

import (
	"cmp"
	"time"

	"github.com/ipfs/go-cid"
)

// Statement is what a node says of itself. It stands in the feed of a node key.
type Statement struct {
	Header
	Dropped  []Drop   `json:"dropped"`            // sorted by revocation, then offer, by CompareCID, no two the same
	Exported []Export `json:"exported,omitempty"` // sorted by offer, by CompareCID, no two the same; at least one of either
}

// Drop says that a node has taken note of a revocation and, from a time on, no
// longer uses an offer that it withdraws.
type Drop struct {
	Revocation cid.Cid   `json:"revocation"`     // the notice that withdraws
	Offer      cid.Cid   `json:"offer,omitzero"` // undefined: it withdraws nothing that the node knows of
	Time       time.Time `json:"time"`           // not after the statement's
}

// Export says that a node was told to write the expert of an offer into a folder outside its control, as a copy that no
// revocation reaches: whether it is still there is for the owner to ask that member.
type Export struct {
	Offer cid.Cid   `json:"offer"`
	Time  time.Time `json:"time"` // of the last, not after the statement's
}

// Kind returns KindStatement.
func (s *Statement) Kind() Kind { return KindStatement }

func (s *Statement) validate() error {
	if err := s.Header.validate(); err != nil {
		return err
	}
	if len(s.Dropped)+len(s.Exported) == 0 {
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
		if err := s.checkPast("dropped", d.Time); err != nil {
			return err
		}
	}
	for i, x := range s.Exported {
		if err := checkRef("offer", x.Offer); err != nil {
			return err
		}
		if i > 0 && CompareExport(s.Exported[i-1], x) >= 0 {
			return malformed("exported must be sorted by offer, each once")
		}
		if err := s.checkPast("exported", x.Time); err != nil {
			return err
		}
	}
	return nil
}

// checkPast checks a time at which something was done that the statement says.
func (s *Statement) checkPast(what string, t time.Time) error {
	if err := checkTime("time", t); err != nil {
		return err
	}
	if t.Unix() > s.Time.Unix() {
		return malformed("%s after the time of the statement", what)
	}
	return nil
}

// CompareDrop is the order of what a statement says was dropped. It is a
// function for slices.SortFunc.
func CompareDrop(a, b Drop) int {
	return cmp.Or(CompareCID(a.Revocation, b.Revocation), CompareCID(a.Offer, b.Offer))
}

// CompareExport is the order of what a statement says was exported. It is a
// function for slices.SortFunc.
func CompareExport(a, b Export) int { return CompareCID(a.Offer, b.Offer) }
