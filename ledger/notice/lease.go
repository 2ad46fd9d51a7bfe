package notice

import (
	"strings"
	"time"

	"github.com/ipfs/go-cid"
)

// Lease promises that some offers of its member still stand until NotAfter.
// Only the newest lease of a feed counts, so leaving an offer out of the next
// one ends what this feed promised for it.
type Lease struct {
	Header
	Offers   []cid.Cid `json:"offers"`    // notices of kind offer, sorted by CompareCID, no two the same; may be empty
	Heads    []Head    `json:"heads"`     // where the member's other feeds stand, sorted by the key's text form, one per key; may be empty
	NotAfter time.Time `json:"not_after"` // the promise holds before this time and not at it; after Time
}

// Head says how far a feed goes: to the notice CID at Seq.
type Head struct {
	Key PublicKey `json:"key"`
	Seq uint64    `json:"seq"`
	CID cid.Cid   `json:"cid"`
}

// Kind returns KindLease.
func (l *Lease) Kind() Kind { return KindLease }

func (l *Lease) validate() error {
	if err := l.Header.validate(); err != nil {
		return err
	}
	if err := checkOffers(l.Offers); err != nil {
		return err
	}
	for i, h := range l.Heads {
		if err := checkRef("heads", h.CID); err != nil {
			return err
		}
		if h.Seq < 1 || h.Seq > MaxSeq {
			return malformed("heads: seq is %d, want 1 to %d", h.Seq, uint64(MaxSeq))
		}
		if h.Key == l.Key || h.Key.IsZero() {
			return malformed("heads: %s is not the key of another feed", h.Key)
		}
		if i > 0 && CompareKey(l.Heads[i-1].Key, h.Key) >= 0 {
			return malformed("heads must be sorted by key, each once")
		}
	}
	if err := checkTime("not_after", l.NotAfter); err != nil {
		return err
	}
	return checkAfter("not_after", l.NotAfter, l.Time)
}

// checkOffers checks a list of offers.
func checkOffers(offers []cid.Cid) error {
	for i, c := range offers {
		if err := checkRef("offers", c); err != nil {
			return err
		}
		if i > 0 && CompareCID(offers[i-1], c) >= 0 {
			return malformed("offers must be sorted by CID, each once")
		}
	}
	return nil
}

// CompareCID orders CIDs by their text form, which is the order of a notice's
// lists. It is a function for slices.SortFunc.
func CompareCID(a, b cid.Cid) int { return strings.Compare(a.String(), b.String()) }
