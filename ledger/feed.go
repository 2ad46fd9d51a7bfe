package ledger

import (
	"cmp"
	"iter"
	"slices"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// feed is what is known of one key's chain of notices: a set, in which order
// of arrival leaves no trace.
type feed struct {
	links    map[uint64][]link // by seq; sorted by CID
	top      uint64            // highest seq of all
	complete uint64            // highest seq up to which none is missing
	fork     uint64            // lowest seq that the feed contradicts itself about; 0: none

	offers  map[cid.Cid]*notice.Notice
	revoked map[cid.Cid]*notice.Notice // by offer, which may be unknown: its first revocation
	all     []*notice.Notice           // the revocations of everything, in feed order
	lease   *notice.Notice             // the newest; nil: none
	listed  map[cid.Cid]bool           // the offers on it
}

// link is a notice as a link of its feed.
type link struct {
	id   cid.Cid
	prev cid.Cid // undefined at seq 1
}

func newFeed() *feed {
	return &feed{
		links:   make(map[uint64][]link),
		offers:  make(map[cid.Cid]*notice.Notice),
		revoked: make(map[cid.Cid]*notice.Notice),
	}
}

// has reports whether the notice id at seq is known.
func (f *feed) has(seq uint64, id cid.Cid) bool {
	return slices.ContainsFunc(f.links[seq], func(l link) bool { return l.id == id })
}

// add takes n in and reports whether it was new.
func (f *feed) add(n *notice.Notice) bool {
	h := n.Header()
	if f.has(h.Seq, n.CID) {
		return false
	}
	f.links[h.Seq] = append(f.links[h.Seq], link{n.CID, h.Prev})
	slices.SortFunc(f.links[h.Seq], func(a, b link) int { return notice.CompareCID(a.id, b.id) })
	f.top = max(f.top, h.Seq)
	for len(f.links[f.complete+1]) > 0 {
		f.complete++
	}
	// Claims about h.Seq and, by its prev, about the seq before it are new.
	for _, seq := range []uint64{h.Seq - 1, h.Seq} {
		if seq > 0 && len(f.contradiction(seq)) > 0 && (f.fork == 0 || seq < f.fork) {
			f.fork = seq
		}
	}
	switch b := n.Body.(type) {
	case *notice.Offer:
		f.offers[n.CID] = n
	case *notice.Lease:
		if f.lease == nil || feedOrder(n, f.lease) > 0 {
			f.lease, f.listed = n, make(map[cid.Cid]bool, len(b.Offers))
			for _, id := range b.Offers {
				f.listed[id] = true
			}
		}
	case *notice.Revocation:
		if b.All {
			f.all = append(f.all, n)
			slices.SortFunc(f.all, feedOrder)
		} else if r := f.revoked[b.Offer]; r == nil || feedOrder(n, r) < 0 {
			f.revoked[b.Offer] = n
		}
	}
	return true
}

// feedOrder orders notices of one feed by seq, and the branches of a fork by CID.
func feedOrder(a, b *notice.Notice) int {
	return cmp.Or(cmp.Compare(a.Header().Seq, b.Header().Seq), notice.CompareCID(a.CID, b.CID))
}

// contradiction returns two notices that name different notices for seq, the
// one by being it and the other by being it or by having it as prev: together
// they prove that the key equivocated. It returns none if there are no such.
func (f *feed) contradiction(seq uint64) []place {
	var first place
	var claimed cid.Cid
	for at, claim := range f.claims(seq) {
		if !claimed.Defined() {
			first, claimed = at, claim
		} else if claim != claimed {
			return []place{first, at}
		}
	}
	return nil
}

// place is where a notice stands in a feed.
type place struct {
	seq uint64
	id  cid.Cid
}

// claims yields the notices that say which notice stands at seq, and which.
func (f *feed) claims(seq uint64) iter.Seq2[place, cid.Cid] {
	return func(yield func(place, cid.Cid) bool) {
		for _, l := range f.links[seq] {
			if !yield(place{seq, l.id}, l.id) {
				return
			}
		}
		for _, l := range f.links[seq+1] {
			if !yield(place{seq + 1, l.id}, l.prev) {
				return
			}
		}
	}
}

// heads returns the proof of a fork, if there is one, and then how far the
// feed is complete.
func (f *feed) heads(key notice.PublicKey) []notice.Head {
	var heads []notice.Head
	if f.fork > 0 {
		for _, p := range f.contradiction(f.fork) {
			heads = append(heads, notice.Head{Key: key, Seq: p.seq, CID: p.id})
		}
	}
	if f.complete > 0 {
		heads = append(heads, notice.Head{Key: key, Seq: f.complete, CID: f.links[f.complete][0].id})
	}
	return heads
}

// missing returns the gaps below the highest known seq, ascending.
func (f *feed) missing(key notice.PublicKey) []Gap {
	if f.complete == f.top {
		return nil
	}
	seqs := make([]uint64, 0, len(f.links))
	for seq := range f.links {
		if seq > f.complete {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	var gaps []Gap
	next := f.complete + 1
	for _, seq := range seqs {
		if seq > next {
			gaps = append(gaps, Gap{Key: key, First: next, Last: seq - 1})
		}
		next = seq + 1
	}
	return gaps
}
