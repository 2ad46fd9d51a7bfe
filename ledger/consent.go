package ledger

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// State says whether an expert may be used, and if not, why.
type State string

// The states of an offer. Where several would fit, the first one here holds.
const (
	Revoked   State = "revoked"   // its key withdrew it, for ever
	Suspended State = "suspended" // its key signed two feeds, so nothing it says can be relied on
	Lapsed    State = "lapsed"    // no lease that counts lists it at this time
	Active    State = "active"    // its owner consents
)

// Standing is where an offer stands at one time.
type Standing struct {
	Offer  *notice.Offer
	Notice cid.Cid // the offer's identity
	Member string
	State  State

	// Until is the end of the lease that lists the offer, also after that end
	// has come. It is zero if the newest lease does not list the offer or does
	// not count.
	Until time.Time

	Revocation *notice.Revocation // nil unless State is Revoked
	RevokedBy  cid.Cid            // the revocation's identity; undefined unless State is Revoked
}

// Gap is a run of notices of one feed that are missing: later ones are here.
type Gap struct {
	Key         notice.PublicKey
	First, Last uint64 // seq, both missing
}

// consent is what follows from a set of notices under a charter. Adding is
// commutative and idempotent: the same notices give the same consent in
// whatever order they come. It is pure, and it guards nothing against
// concurrent use. Only the feeds change: the maps stay as the charter has them.
type consent struct {
	ceiling time.Duration               // of a lease's length
	members map[notice.PublicKey]string // names by publishing key
	feeds   map[notice.PublicKey]*feed  // one for each member
}

func newConsent(c *notice.Charter) *consent {
	s := &consent{
		ceiling: time.Duration(c.LeaseCeilingSeconds) * time.Second,
		members: make(map[notice.PublicKey]string, len(c.Members)),
		feeds:   make(map[notice.PublicKey]*feed, len(c.Members)),
	}
	for _, m := range c.Members {
		s.members[m.Publishing] = m.Name
		s.feeds[m.Publishing] = newFeed()
	}
	return s
}

// add takes in a member's notice and reports whether it was new. The caller
// has checked that the feed is a member's.
func (c *consent) add(n *notice.Notice) bool { return c.feeds[n.Header().Key].add(n) }

// has reports whether n is known.
func (c *consent) has(n *notice.Notice) bool {
	h := n.Header()
	return c.feeds[h.Key].has(h.Seq, n.CID)
}

// keys returns the members' keys in the order of their names.
func (c *consent) keys() []notice.PublicKey {
	return slices.SortedFunc(maps.Keys(c.feeds), func(a, b notice.PublicKey) int {
		return cmp.Compare(c.members[a], c.members[b])
	})
}

// standings returns where every known offer stands at now.
func (c *consent) standings(now time.Time) []Standing {
	var all []Standing
	for key, f := range c.feeds {
		for _, o := range f.offers {
			s := Standing{Offer: o.Body.(*notice.Offer), Notice: o.CID, Member: c.members[key], State: Lapsed}
			from, until := c.leased(f, o.CID)
			s.Until = until
			switch r := f.revocation(o); {
			case r != nil:
				s.State, s.Revocation, s.RevokedBy = Revoked, r.Body.(*notice.Revocation), r.CID
			case f.fork > 0:
				s.State = Suspended
			case now.Before(until) && !now.Add(clockTolerance).Before(from):
				s.State = Active
			}
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b Standing) int {
		return cmp.Or(cmp.Compare(a.Member, b.Member), a.Offer.Time.Compare(b.Offer.Time), notice.CompareCID(a.Notice, b.Notice))
	})
	return all
}

// revocation returns the first notice in the feed that withdraws o, or nil. It
// counts whatever gaps the feed has.
func (f *feed) revocation(o *notice.Notice) *notice.Notice {
	r := f.revoked[o.CID]
	i := slices.IndexFunc(f.all, func(n *notice.Notice) bool { return n.Header().Seq > o.Header().Seq })
	if i >= 0 && (r == nil || feedOrder(f.all[i], r) < 0) {
		r = f.all[i]
	}
	return r
}

// leased returns when the feed's newest lease begins and ends for an offer.
// Both are zero if the lease does not list it, or does not count: because it
// is longer than the charter allows, or because notices before it are missing
// and one of them might be a revocation.
//
// A lease counts from its own time on. Otherwise one with a time in the future
// could stretch as far beyond the ceiling as its signer likes.
func (c *consent) leased(f *feed, offer cid.Cid) (from, until time.Time) {
	if !f.listed[offer] {
		return
	}
	l := f.lease.Body.(*notice.Lease)
	if l.NotAfter.Sub(l.Time) > c.ceiling || f.complete < l.Seq {
		return
	}
	for _, h := range l.Heads {
		other := c.feeds[h.Key]
		if other == nil || other.complete < h.Seq || !other.has(h.Seq, h.CID) {
			return
		}
	}
	return l.Time, l.NotAfter
}
