package simulation

import (
	"slices"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node/steward"

	"github.com/ipfs/go-cid"
)

// What is judged here is judged by what was signed and who acknowledged what, and not by what a ledger makes of it.

// withdraws reports whether r, by itself, withdraws the offer o.
func (w *world) withdraws(r, o *notice.Notice) bool {
	of, by := w.owners[o.Header().Key], w.owners[r.Header().Key]
	own := r.Header().Key == o.Header().Key
	apart := by.node == of.node && (by.role == "revoker" || by.role == "recovery")
	switch b := r.Body.(type) {
	case *notice.Rotation:
		return by.node == of.node && by.role == "recovery" && b.Old == o.Header().Key
	case *notice.Revocation:
		switch {
		case b.Member != "":
		case b.Offer.Defined():
			return b.Offer == o.CID && (own || apart)
		case !b.RevokedKey.IsZero():
			return b.RevokedKey == o.Header().Key && (own || apart)
		default:
			return own && r.Header().Seq > o.Header().Seq || apart && b.Through.Key == o.Header().Key && b.Through.Seq >= o.Header().Seq
		}
	}
	return false
}

// withdrawn returns what the node had acknowledged before now that withdraws the offer o: a notice, or votes.
func (n *node) withdrawn(o *notice.Notice, now time.Time) *notice.Notice {
	w := n.world
	owner := w.owners[o.Header().Key].node
	voters := make(map[string]bool)
	for _, r := range w.revoking {
		if !n.has(r, now) {
			continue
		}
		if n.withdraws(r, o, now) {
			return r
		}
		by := w.owners[r.Header().Key]
		if b, ok := r.Body.(*notice.Revocation); ok && b.Member == owner.name && b.Offer == o.CID && by.role == "publishing" && !voters[by.node.name] {
			if voters[by.node.name] = true; n.carried(voters, owner.name, now) {
				return r
			}
		}
	}
	return nil
}

// carried reports whether those who voted against a member were enough of the stewards of a version of the charter that
// has the member and that the node had acknowledged before now.
func (n *node) carried(voters map[string]bool, member string, now time.Time) bool {
	return slices.ContainsFunc(n.world.charters, func(v *notice.Notice) bool {
		c := v.Body.(*notice.Charter)
		if _, on := c.Named(member); !on || !n.has(v, now) {
			return false
		}
		count := 0
		for _, name := range c.Stewards {
			if voters[name] {
				count++
			}
		}
		return count >= c.Quorum
	})
}

// has reports whether the node had acknowledged a notice before now. The first version of the charter each has from the beginning.
func (n *node) has(of *notice.Notice, now time.Time) bool {
	at, ok := n.held[of.CID]
	return of == n.world.root || ok && at.Before(now)
}

// seen is what follows from what a node has acknowledged, kept as it comes.
type seen struct {
	claims map[notice.PublicKey]map[uint64]cid.Cid // what the notices of a feed say stands at a seq, the first that said so
	forks  map[notice.PublicKey]time.Time          // since when the node can prove that a key equivocated
	leases map[notice.PublicKey]*notice.Notice     // the newest
	at     map[notice.PublicKey]time.Time          // when the node acknowledged that
}

func newSeen() seen {
	return seen{
		claims: make(map[notice.PublicKey]map[uint64]cid.Cid), forks: make(map[notice.PublicKey]time.Time),
		leases: make(map[notice.PublicKey]*notice.Notice), at: make(map[notice.PublicKey]time.Time),
	}
}

func (s seen) add(n *notice.Notice, at time.Time) {
	h := n.Header()
	if h == nil || h.Seq == 0 {
		return
	}
	claims := s.claims[h.Key]
	if claims == nil {
		claims = make(map[uint64]cid.Cid)
		s.claims[h.Key] = claims
	}
	claim := func(seq uint64, id cid.Cid) {
		if was, ok := claims[seq]; !ok {
			claims[seq] = id
		} else if _, known := s.forks[h.Key]; was != id && !known {
			s.forks[h.Key] = at
		}
	}
	claim(h.Seq, n.CID)
	if h.Seq > 1 {
		claim(h.Seq-1, h.Prev)
	}
	if n.Kind == notice.KindLease && (s.leases[h.Key] == nil || s.leases[h.Key].Header().Seq < h.Seq) {
		s.leases[h.Key], s.at[h.Key] = n, at
	}
}

// token looks at a token that a node has generated with an expert.
func (w *world) token(n *node, a steward.Admitted) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts["tokens"]++
	if n.evil {
		return
	}
	now, o := time.Now(), w.signed[a.Notice]
	key := o.Header().Key
	owner := w.owners[key].node
	if _, on := w.charter.Named(owner.name); !on {
		w.counts["tokens by who came later"]++
	}
	if r := n.withdrawn(o, now); r != nil {
		w.breach(n, "I1: generates with %s, %v after it accepted %s", w.title(o), now.Sub(n.held[r.CID]), w.title(r))
	}
	if c := n.left(key, now); c != nil {
		w.breach(n, "I1: generates with %s, though it accepted %s, on which %s is not", w.title(o), w.title(c), owner.name)
	}
	for _, k := range []notice.PublicKey{key, owner.nodeKey(), notice.PublicKeyOf(owner.recovery), notice.PublicKeyOf(owner.revoker)} {
		if at, ok := n.forks[k]; ok && at.Before(now) {
			w.breach(n, "I5: generates with %s, %v after it could prove that a key of %s equivocated", w.title(o), now.Sub(at), owner.name)
		}
	}
	if n.alone {
		w.breach(n, "I4: generates with %s, though it could reach nobody since it started, and so may have missed its revocation", w.title(o))
	}
	n.limits(o, now)
	under := n.leases[key]
	if under == nil {
		w.breach(n, "I2: generates with %s without any lease", w.title(o))
		return
	}
	l := under.Body.(*notice.Lease)
	// A clock that is set shows at the next look, and in this world, where package time does not jump, at the one after.
	settled := now.Sub(n.jumped) > 2*look+time.Second
	switch shown := now.Add(n.off()); {
	case !n.seen.at[key].Before(now): // it came at this moment
	case l.NotAfter.Sub(l.Time) > ceiling:
		w.breach(n, "I2: generates with %s under a lease of %v", w.title(o), l.NotAfter.Sub(l.Time))
	case settled && shown.Add(delta+look).Before(l.Time):
		w.breach(n, "I2: generates with %s %v before its lease begins", w.title(o), l.Time.Sub(shown))
	case !slices.Contains(l.Offers, o.CID):
		w.breach(n, "I2: generates with %s, which the newest lease does not list", w.title(o))
	case settled && !shown.Before(l.NotAfter):
		w.breach(n, "I2: generates with %s %v after its lease ended by the node's own clock", w.title(o), shown.Sub(l.NotAfter))
	case settled && n.right() && !now.Before(l.NotAfter.Add(delta)): // before, it went by the wrong clock that it had
		w.breach(n, "I2: generates with %s %v after its lease ended + δ", w.title(o), now.Sub(l.NotAfter.Add(delta)))
	case settled && !l.NotAfter.After(n.highest.Add(-delta)):
		w.breach(n, "I2: generates with %s under a lease that its clock has seen end: at %v, it has said %v", w.title(o), l.NotAfter, n.highest)
	}
	for _, r := range w.knew[under.CID] {
		if _, ok := n.held[r.CID]; !ok && owner.withdraws(r, o, now) && n.seen.at[key].Before(now) {
			w.breach(n, "I2: generates with %s under %s, whose signer knew of %s: it lacks that", w.title(o), w.title(under), w.title(r))
		}
	}
	if owner.evil || owner.wrong || !n.right() || owner.stolen && key != owner.publishingKey() {
		return
	}
	for _, r := range w.revoking {
		at, ok := owner.held[r.CID]
		if ok && now.Sub(at) > ceiling+2*delta && owner.withdraws(r, o, now.Add(-ceiling-2*delta)) && (r.Header().Seq > 0 || !owner.rote) {
			w.breach(n, "I2: generates with %s, %v after its owner's node accepted %s", w.title(o), now.Sub(at), w.title(r))
		}
	}
}

// limits looks whether the offer o is within what the charter allows that holds for the node.
func (n *node) limits(o *notice.Notice, now time.Time) {
	w, offer := n.world, o.Body.(*notice.Offer)
	if w.stranger == nil {
		return // nobody offers more
	}
	if !offer.Anchor.Equals(w.charter.Anchor) || offer.Size > w.charter.MaxBlobBytes {
		w.breach(n, "I10: generates with %s, which has %d bytes and the anchor %s", w.title(o), offer.Size, offer.Anchor)
	}
	before := 0
	for _, other := range w.offers {
		h := other.Header()
		if h.Key == offer.Key && h.Seq < offer.Seq && h.Time.Truncate(24*time.Hour).Equal(offer.Time.Truncate(24*time.Hour)) && h.Time.Before(offer.Time) && n.has(other, now) {
			before++
		}
	}
	if before >= n.charter.OffersPerDay && n.enrolled.Before(now) {
		w.breach(n, "I10: generates with %s, after %d of that day, and the charter allows %d", w.title(o), before, n.charter.OffersPerDay)
	}
}

// served looks at a blob that a node gives to another.
func (w *world) served(from *node, blob cid.Cid) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts["blobs served"]++
	if from.evil {
		return
	}
	for _, o := range w.offers {
		if o.Body.(*notice.Offer).Blob != blob {
			continue
		}
		if r := from.withdrawn(o, time.Now()); r != nil {
			w.breach(from, "I1: serves the blob of %s after it accepted %s", w.title(o), w.title(r))
		}
	}
}

// judgeSigned looks at a notice that a node has just signed.
func (w *world) judgeSigned(n *node, s *notice.Notice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h, now := s.Header(), time.Now()
	if n.evil {
		return
	}
	if s.Kind == notice.KindLease {
		for _, r := range w.revoking {
			if at, ok := n.held[r.CID]; ok && at.Before(now) && r.Header().Seq > 0 && w.owners[r.Header().Key].node == n {
				w.knew[s.CID] = append(w.knew[s.CID], r)
			}
		}
	}
	for id, at := range n.held {
		x := w.signed[id]
		if xh := x.Header(); xh != nil && xh.Key == h.Key && xh.Seq >= h.Seq && x.CID != s.CID && at.Before(now) {
			w.breach(n, "I7: equivocates, or will: signs %s, though it has %s", w.title(s), w.title(x))
			return
		}
	}
	for _, x := range w.at[place{h.Key, h.Seq}] {
		if x.CID == s.CID {
			continue
		}
		if !n.restored {
			w.breach(n, "I7: equivocates: signs %s beside %s", w.title(s), w.title(x))
			return
		}
		w.counts["equivocations of restored nodes"]++
		for _, y := range w.nodes {
			at, ok := y.held[x.CID]
			if y == n || y.evil || y.expelled || n.expelled || w.stranger != nil && !w.acquainted(n, y, n.upSince) || !ok || at.After(n.upSince) || !y.serving || y.upSince.After(n.upSince) {
				continue
			}
			if l := w.between(n, y); !l.Cut && l.Break == 0 && !l.since.After(n.upSince) {
				w.breach(n, "I7: equivocates: signs %s beside %s, which %s has and which it could reach since it was restored", w.title(s), w.title(x), y.name)
				return
			}
		}
	}
}

// between returns what lies between two nodes.
func (w *world) between(a, b *node) *link {
	return w.links[[2]int{min(a.number, b.number), max(a.number, b.number)}]
}

// acquainted reports whether the charter that each of two nodes has is from before a time and has the other. The caller holds mu.
func (w *world) acquainted(a, b *node, since time.Time) bool {
	return a.seats(b) && b.seats(a) && !a.enrolled.After(since) && !b.enrolled.After(since)
}

// check looks at everything that must hold between any two actions.
func (w *world) check() {
	honest := w.honest()
	for _, n := range honest {
		w.checkStandings(n)
	}
	if len(honest) <= 30 {
		for i, a := range honest {
			for _, b := range honest[:i] {
				w.checkAgreement(a, b)
				w.checkAgreement(b, a)
			}
		}
		return
	}
	for i, a := range honest { // all of them would take longer than all the rest
		for range 4 {
			if b := honest[w.random.IntN(len(honest))]; b != honest[i] {
				w.checkAgreement(a, b)
			}
		}
	}
}

// checkStandings looks whether a node's ledger takes for revoked what the node has acknowledged to be, and whether the blob of that is gone.
func (w *world) checkStandings(n *node) {
	all, connected := n.ledger.Standings(n.clock()), n.place.Peers()
	n.mu.Lock()
	defer n.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for _, key := range connected {
		if of := w.owners[key].node; w.stranger != nil && key != n.guest && (!n.seats(of) || key != of.nodeKey()) {
			w.breach(n, "I9: is connected with %s, which is not on its charter", of.name)
		}
	}
	for _, st := range all {
		o := w.signed[st.Notice]
		if of := w.owners[o.Header().Key].node.name; st.Member != of {
			w.breach(n, "I4: %s is %s's and stands as %s's", w.title(o), of, st.Member)
		}
		if r := n.withdrawn(o, now); r != nil && st.State != ledger.Revoked {
			w.breach(n, "I4: %s is %s, though it accepted %s", w.title(o), st.State, w.title(r))
		}
		if c := n.left(o.Header().Key, now.Add(1)); st.State == ledger.Active && c != nil {
			w.breach(n, "I1: %s is active, though it accepted %s, on which %s is not", w.title(o), w.title(c), st.Member)
		}
		if st.State == ledger.Revoked && n.withdrawn(o, now.Add(1)) == nil {
			w.breach(n, "I8: %s is revoked, and nobody who may has done it", w.title(o))
		}
	}
	before := now.Add(-2 * look) // in which the steward looks at least once
	if !n.serving || n.upSince.After(before) {
		return
	}
	for _, o := range w.offers {
		if at, ok := n.held[o.CID]; !ok || at.After(before) || !n.blobs[o.Body.(*notice.Offer).Blob] {
			continue
		}
		if r := n.withdrawn(o, before); r != nil {
			w.breach(n, "I1: has the blob of %s on its disk, %v after it accepted %s", w.title(o), now.Sub(n.held[r.CID]), w.title(r))
		}
	}
}

// checkAgreement looks whether a node that can reach another has what that one has had for long enough.
func (w *world) checkAgreement(from, to *node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	l := w.between(from, to)
	if l.Cut || l.Break > 0 || !to.serving || !from.serving {
		return
	}
	if w.stranger == nil && (to.expelled || from.expelled) || w.stranger != nil && !w.acquainted(from, to, now.Add(-agree)) {
		return
	}
	since := l.since
	for _, n := range []*node{from, to} {
		if n.upSince.After(since) {
			since = n.upSince
		}
	}
	if now.Sub(since) < agree {
		return
	}
	for id, at := range from.held {
		if _, ok := to.held[id]; !ok && now.Sub(at) >= agree {
			w.breach(to, "I3: lacks %s, which %s has had for %v", w.title(w.signed[id]), from.name, now.Sub(at).Round(time.Second))
			return
		}
	}
	for key, at := range from.forks {
		if _, ok := to.forks[key]; !ok && now.Sub(at) >= agree {
			w.breach(to, "I5: does not know that a key of %s equivocated, as %s has for %v", w.owners[key].node.name, from.name, now.Sub(at).Round(time.Second))
		}
	}
}
