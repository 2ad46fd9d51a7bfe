package ledger

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"slices"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// digest is the hash in a notice's identity. Every notice's CID has the same
// bytes before it.
type digest [sha256.Size]byte

// digestOf is zero for what is not the CID of a notice.
func digestOf(id cid.Cid) (d digest) {
	if id.Defined() && id.Prefix().MhLength == len(d) {
		copy(d[:], notice.Digest(id))
	}
	return d
}

func (d digest) cid() cid.Cid { return notice.Identity(d) }

func (d digest) compare(e digest) int { return bytes.Compare(d[:], e[:]) }

// feed is what is known of one key's notices: a set, in which order of arrival
// leaves no trace.
type feed struct {
	// chain has the notices from seq 1 on of which each names the one before:
	// 32 bytes for each, since a feed of ten years has ten thousand. What does
	// not fit on its end is in extra: beyond a gap, or on another branch.
	chain    []digest
	extra    map[uint64][]link // by seq, in no order
	top      uint64            // highest seq of all
	complete uint64            // highest seq up to which none is missing
	fork     uint64            // lowest seq that the feed contradicts itself about; 0: none
	detached map[digest]*notice.Notice

	offers      map[digest]*notice.Notice
	alls        []*notice.Notice // revocations of everything, in no order
	delegations []*notice.Notice // in no order, as the next
	rotations   []*notice.Notice
	lease       *notice.Notice // the newest; nil: none
}

// link is a notice as a link of its feed.
type link struct {
	id   digest
	prev digest // zero at seq 1
}

func linkOf(n *notice.Notice) link {
	l := link{id: digestOf(n.CID)}
	if h := n.Header(); h.Prev.Defined() {
		l.prev = digestOf(h.Prev)
	}
	return l
}

// at returns the links at seq, sorted by id.
func (f *feed) at(seq uint64) []link {
	links := slices.Clone(f.extra[seq])
	if seq >= 1 && seq <= uint64(len(f.chain)) {
		links = append(links, link{f.chain[seq-1], f.end(seq - 1)})
	}
	slices.SortFunc(links, func(a, b link) int { return a.id.compare(b.id) })
	return links
}

// end returns the id of the chain's link at seq, zero at 0.
func (f *feed) end(seq uint64) (id digest) {
	if seq > 0 {
		id = f.chain[seq-1]
	}
	return id
}

// has reports whether the notice id at seq is known.
func (f *feed) has(seq uint64, id digest) bool {
	if seq == 0 {
		_, ok := f.detached[id]
		return ok
	}
	return seq <= uint64(len(f.chain)) && f.chain[seq-1] == id ||
		slices.ContainsFunc(f.extra[seq], func(l link) bool { return l.id == id })
}

// add takes in a link and reports whether it was new.
func (f *feed) add(seq uint64, l link) bool {
	if f.has(seq, l.id) {
		return false
	}
	if seq == 0 {
		if f.detached == nil {
			f.detached = make(map[digest]*notice.Notice)
		}
		f.detached[l.id] = nil // until add is told what it says
		return true
	}
	f.place(seq, l)
	f.top = max(f.top, seq)
	for f.complete < uint64(len(f.chain)) || len(f.extra[f.complete+1]) > 0 {
		f.complete++
	}
	// Claims about seq and, by prev, about the one before are new.
	for _, s := range []uint64{seq - 1, seq} {
		if s > 0 && (f.fork == 0 || s < f.fork) && len(f.contradiction(s)) > 0 {
			f.fork = s
		}
	}
	return true
}

// place puts a link on the end of the chain, with those that were waiting for
// it, or into extra.
func (f *feed) place(seq uint64, l link) {
	if seq != uint64(len(f.chain))+1 || l.prev != f.end(seq-1) {
		if f.extra == nil {
			f.extra = make(map[uint64][]link)
		}
		f.extra[seq] = append(f.extra[seq], l)
		return
	}
	for {
		f.chain = append(f.chain, l.id)
		seq++
		waiting := f.extra[seq]
		i := slices.IndexFunc(waiting, func(w link) bool { return w.prev == l.id })
		if i < 0 {
			return
		}
		l = waiting[i]
		if f.extra[seq] = slices.Delete(slices.Clone(waiting), i, i+1); len(f.extra[seq]) == 0 {
			delete(f.extra, seq)
		}
	}
}

// renews reports whether the lease n is newer than the one that the feed has.
func (f *feed) renews(n *notice.Notice) bool { return f.lease == nil || feedOrder(n, f.lease) > 0 }

// feedOrder orders notices of one feed by seq, and the branches of a fork by id.
func feedOrder(a, b *notice.Notice) int {
	return cmp.Or(cmp.Compare(a.Header().Seq, b.Header().Seq), digestOf(a.CID).compare(digestOf(b.CID)))
}

// place is where a notice stands in a feed.
type place struct {
	seq uint64
	id  digest
}

// contradiction returns two notices that name different notices for seq, the
// one by being it and the other by being it or by having it as prev: together
// they prove that the key equivocated. It returns none if there are no such.
func (f *feed) contradiction(seq uint64) []place {
	if len(f.extra[seq]) == 0 && len(f.extra[seq+1]) == 0 { // the chain does not contradict itself
		return nil
	}
	var first place
	var claimed digest
	differs := func(at place, claim digest) bool {
		if first == (place{}) {
			first, claimed = at, claim
		}
		return claim != claimed
	}
	for _, l := range f.at(seq) {
		if at := (place{seq, l.id}); differs(at, l.id) {
			return []place{first, at}
		}
	}
	for _, l := range f.at(seq + 1) {
		if at := (place{seq + 1, l.id}); differs(at, l.prev) {
			return []place{first, at}
		}
	}
	return nil
}

// heads returns the proof of a fork, if there is one, and then how far the
// feed is complete.
func (f *feed) heads(key notice.PublicKey) []notice.Head {
	var heads []notice.Head
	if f.fork > 0 {
		for _, p := range f.contradiction(f.fork) {
			heads = append(heads, notice.Head{Key: key, Seq: p.seq, CID: p.id.cid()})
		}
	}
	if f.complete > 0 {
		heads = append(heads, notice.Head{Key: key, Seq: f.complete, CID: f.at(f.complete)[0].id.cid()})
	}
	return heads
}

// missing returns the gaps below the highest known seq, ascending.
func (f *feed) missing(key notice.PublicKey) []Gap {
	if f.complete == f.top {
		return nil
	}
	seqs := make([]uint64, 0, len(f.extra))
	for seq := range f.extra {
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

// find returns the seq of a notice.
func (f *feed) find(id digest) (seq uint64, ok bool) {
	if f.has(0, id) {
		return 0, true
	}
	if i := slices.Index(f.chain, id); i >= 0 {
		return uint64(i) + 1, true
	}
	for seq, links := range f.extra {
		if slices.ContainsFunc(links, func(l link) bool { return l.id == id }) {
			return seq, true
		}
	}
	return 0, false
}
