package spec

import "math/bits"

// A Safeguard is a rule of the design that can be switched off, to see what it is there for.
type Safeguard uint32

// The safeguards. Each names the rule that holds while it is on.
const (
	LeaseEnds          Safeguard = 1 << iota // an offer is used before the end of its lease only
	LeaseBegun                               // a lease counts from its beginning, less the tolerance
	LeaseCeiling                             // a lease that is longer than the ceiling does not count
	LeaseComplete                            // nor one with a gap below it in its own feed
	LeaseHeadsHere                           // nor one that names a head which is not here
	LeaseHeadsComplete                       // nor one that names a head with a gap below it
	LeaseNamesHeads                          // whoever signs a lease names the head of the revoker's feed
	LeaseNamesTop                            // which is the highest notice of it that he has, whatever is missing below
	Terminal                                 // no later notice undoes a revocation
	RevokedInGaps                            // a revocation counts whatever is missing before it
	ForkSuspends                             // an offer of a key with a forked feed is not used
	ForkByPrev                               // a feed is forked too if a notice names another one before it than is here
	ExchangeProof                            // a frontier stops before a fork, and another head at its seq asks for the whole feed
	ExchangeBeyondGaps                       // what lies beyond a frontier is told and sent too
	HighWater                                // a clock behind the high-water mark, less the tolerance, means the anchor alone
	HighWaterOnDisk                          // the mark outlives a crash
	DurableFirst                             // a notice is on disk before it is acknowledged or sent
	ReconcileToUse                           // after a start, the anchor alone until reconciled with another node
	ReconcileToSign                          // after a start, nothing is signed until reconciled with another node
	SignAfterTop                             // the next seq is above the highest that is known, not above the first gap
	everySafeguard     = 1<<iota - 1
)

var safeguardNames = []string{
	"a lease ends", "a lease must have begun", "ceiling on a lease's length", "complete feed below a lease",
	"a lease's heads must be here", "complete feed below a lease's heads", "a lease names heads", "a lease names the top",
	"revocation is terminal", "revocation counts beyond gaps", "a fork suspends", "a fork by prev is a fork",
	"an exchange proves forks", "an exchange goes beyond gaps", "high-water mark", "high-water mark on disk",
	"durable before acknowledged", "reconcile before use", "reconcile before signing", "sign after the top",
}

// Safeguards returns every safeguard, in order.
func Safeguards() (all []Safeguard) {
	for i := range safeguardNames {
		all = append(all, 1<<i)
	}
	return all
}

// String returns the name of one safeguard.
func (g Safeguard) String() string { return safeguardNames[bits.TrailingZeros32(uint32(g))] }

// rules are the safeguards that are on.
type rules Safeguard

func (r rules) on(g Safeguard) bool { return Safeguard(r)&g != 0 }

// fork is the lowest seq about which a set proves that the publishing key equivocated, 0 if there is none: two
// notices in it are, or name as the one before them, different notices of that seq.
func (r rules) fork(s *State, have Set) int {
	for seq := 1; seq <= publishingSeqs; seq++ {
		if have.seq(Publishing, seq) == 3 {
			return seq
		}
		for branch := range 2 {
			next := at(Publishing, seq+1, branch)
			if r.on(ForkByPrev) && seq < publishingSeqs && have.has(next) && have.has(at(Publishing, seq, 1-int(s.Notices[next].Prev))) {
				return seq
			}
		}
	}
	return 0
}

func (r rules) contradicted(s *State, have Set) bool { return r.fork(s, have) > 0 }

// revoked reports whether a set withdraws the offer.
func (r rules) revoked(s *State, have Set) bool {
	revocations := s.of(Revocation, have)
	for _, k := range []Key{Publishing, Revoker} {
		for seq := 1; seq <= k.seqs() && revocations != 0; seq++ {
			if revocations.seq(k, seq) != 0 &&
				(r.on(RevokedInGaps) || have.complete(k) >= seq) &&
				(r.on(Terminal) || !s.leasedAgain(have, k, seq)) {
				return true
			}
		}
	}
	return false
}

// leasedAgain reports whether the newest lease comes after the revocation at a seq, or names it.
func (s *State) leasedAgain(have Set, k Key, seq int) bool {
	place, ok := s.newestLease(have)
	return ok && (k == Publishing && seqAt(place) > seq || k == Revoker && int(s.Notices[place].Head) >= seq)
}

// newestLease is the lease with the highest seq. Only that counts.
func (s *State) newestLease(have Set) (place int, ok bool) {
	for p := 2*publishingSeqs - 1; p >= 0; p-- {
		if have.has(p) && s.Notices[p].lease() {
			return p, true
		}
	}
	return 0, false
}

// standing is the lease under which a set lets the offer be used, whatever the time is.
func (r rules) standing(s *State, have Set) (Notice, bool) {
	place, ok := s.newestLease(have)
	if !ok || r.revoked(s, have) || r.on(ForkSuspends) && r.contradicted(s, have) {
		return Notice{}, false
	}
	l := s.Notices[place]
	switch head := int(l.Head); {
	case r.on(LeaseCeiling) && l.end()-l.Begin > ceiling,
		r.on(LeaseComplete) && have.complete(Publishing) < seqAt(place),
		r.on(LeaseHeadsHere) && head > 0 && have.seq(Revoker, head) == 0,
		r.on(LeaseHeadsHere) && r.on(LeaseHeadsComplete) && have.complete(Revoker) < head:
		return Notice{}, false
	}
	return l, true
}

// uses is the decision between two tokens: may this node generate with the offer now, by some reading that its
// clock may give? A right clock may give any within δ of the true time.
func (r rules) uses(s *State, i int) (Notice, bool) {
	n := &s.Nodes[i]
	l, ok := r.standing(s, n.Memory)
	if !ok || r.on(ReconcileToUse) && !n.Reconciled {
		return Notice{}, false
	}
	for clock := -delta - n.Back; clock <= delta-n.Back; clock++ {
		if r.on(HighWater) && clock < highest(n.Mark)-delta ||
			r.on(LeaseBegun) && clock+delta < l.Begin ||
			r.on(LeaseEnds) && clock >= l.end() {
			continue
		}
		return l, true
	}
	return Notice{}, false
}

// highest is the least that a clock may have said at most if it last was right so many ticks ago.
func highest(ago int8) int8 { return -ago - delta }

// frontier is how far a set has a feed plainly: one notice at each seq, each naming the one before. What it has beyond,
// after a gap or from a fork on, is told as a whole.
func (r rules) frontier(s *State, have Set, k Key) int {
	if fork := r.fork(s, have); k == Publishing && fork > 0 && r.on(ExchangeProof) {
		return min(have.complete(k), fork-1)
	}
	return have.complete(k)
}

// asks is what a node that has one set gets from a node that has another, whose frontiers it was told.
func (r rules) asks(s *State, mine, theirs Set) (got Set) {
	for _, k := range []Key{Publishing, Revoker} {
		own, their := r.frontier(s, mine, k), r.frontier(s, theirs, k)
		rest := theirs.after(k, their)
		all := theirs
		if !r.on(ExchangeBeyondGaps) {
			rest, all = 0, theirs&^rest
		}
		switch {
		case their > own:
			got |= all.after(k, own)
		case r.on(ExchangeProof) && their > 0 && mine.seq(k, their) != theirs.seq(k, their):
			got |= all.after(k, 0)
		case rest != mine.after(k, own):
			got |= all.after(k, their)
		}
	}
	return got
}

// exchange is what two nodes have after they exchanged what either lacks, until neither learns anything.
func (r rules) exchange(s *State, a, b Set) (Set, Set) {
	for {
		toA, toB := r.asks(s, a, b), r.asks(s, b, a)
		if a|toA == a && b|toB == b {
			return a, b
		}
		a, b = a|toA, b|toB
	}
}
