package spec

import (
	"fmt"
	"math/bits"
)

// Sizes of the world. Time is in ticks, and every time in a state is relative to the true time now, so that
// time itself has no end.
const (
	delta    = 1 // δ: how far a right clock may be off, to either side; also the tolerance of the rules
	ceiling  = 2 // the longest lease that counts
	overlong = ceiling + 2*delta
	setBack  = 3 // how far a clock is set back when somebody sets it back

	publishingSeqs = 3 // places in the publishing feed, each with two branches
	revokerSeqs    = 2 // places in the revoker's feed
	slots          = 2*publishingSeqs + revokerSeqs
)

// A Kind says what a notice is. The offer itself comes before all of them, and every node has it.
type Kind uint8

// The kinds. Every lease lists the offer, whether or not its signer knows that it is revoked: nothing here
// depends on a signer who looks.
const (
	Unsigned   Kind = iota
	Lease           // lasts ceiling
	LongLease       // lasts overlong
	Revocation      // of the offer
	Other           // any notice that does not concern the offer
)

// A Notice is what one key signed at one place. Where it stands says its key, its seq and its branch (see at).
type Notice struct {
	Kind  Kind
	Prev  uint8 // the branch of the notice before it
	Head  uint8 // of a lease: how far the revoker's feed goes, by its signer; 0: it names none
	Begin int8  // of a lease
}

func (n Notice) lease() bool { return n.Kind == Lease || n.Kind == LongLease }

// end is when a lease ends.
func (n Notice) end() int8 {
	if n.Kind == LongLease {
		return n.Begin + overlong
	}
	return n.Begin + ceiling
}

// A Key is one of the two keys of the owner.
type Key uint8

// The owner's keys.
const (
	Publishing Key = iota
	Revoker
)

func (k Key) seqs() int { return [...]int{publishingSeqs, revokerSeqs}[k] }

// at is where a notice stands in State.Notices. The revoker's feed has one branch.
func at(k Key, seq, branch int) int {
	if k == Publishing {
		return 2*(seq-1) + branch
	}
	return 2*publishingSeqs + seq - 1
}

// seqAt is the seq of a place in the publishing feed.
func seqAt(place int) int { return place/2 + 1 }

// A Set is a set of notices, a bit for each place.
type Set uint16

func (s Set) has(place int) bool { return s>>place&1 == 1 }

// first is the lowest place in a set that is not empty.
func (s Set) first() int { return bits.TrailingZeros16(uint16(s)) }

// lowest is the part of a set at that place.
func (s Set) lowest() Set { return s & -s }

func (s Set) count() int { return bits.OnesCount16(uint16(s)) }

// seq is the set's part of a feed at one seq, the first branch in the lowest bit.
func (s Set) seq(k Key, seq int) Set {
	if k == Publishing {
		return s >> at(k, seq, 0) & 3
	}
	return s >> at(k, seq, 0) & 1
}

// after is the set's part of a feed above seq.
func (s Set) after(k Key, seq int) (out Set) {
	for q := seq + 1; q <= k.seqs(); q++ {
		out |= s.seq(k, q) << at(k, q, 0)
	}
	return out
}

// complete is the highest seq of a feed up to which the set misses none.
func (s Set) complete(k Key) int {
	for seq := 1; ; seq++ {
		if seq > k.seqs() || s.seq(k, seq) == 0 {
			return seq - 1
		}
	}
}

// top is the highest seq of a feed in the set.
func (s Set) top(k Key) int {
	for seq := k.seqs(); ; seq-- {
		if seq == 0 || s.seq(k, seq) != 0 {
			return seq
		}
	}
}

// The nodes. A and B are members like any other and take each other's place in every respect.
const (
	Owner = iota
	A
	B
	nodes
)

// A Node is what one node knows, in memory and on disk, and what we note about it to judge it by. What is called a
// ghost is read by no rule, only by invariants.
type Node struct {
	Memory       Set
	Disk         Set
	Backup       Set // what the disk held when it was copied
	Acknowledged Set // a ghost: what it told others is safe with it

	Reconciled bool // with another node, since its start
	Back       int8 // how far its clock was set back, besides being right within δ
	Mark       int8 // the high-water mark, as that of a clock that last was right this many ticks ago
	Seen       int8 // a ghost: as Mark, and never lost

	Copied, Restored bool // faults that happened here

	Knew Knowledge // a ghost: of the revocation, durably
	Met  bool      // a ghost: since it was restored, another that had the newest notice of the publishing feed
}

// Knowledge is whether a node durably accepted the revocation.
type Knowledge uint8

// What a node may know of the revocation.
const (
	Never Knowledge = iota
	Accepted
	Lost // by a restore from an old backup; it becomes Never once reconciled with a node that does not tell
)

// A State is the world at one moment.
type State struct {
	Notices [slots]Notice // all that was ever signed; who has signed may have sent, so anybody may get any of it at any time
	Nodes   [nodes]Node
	Since   int8 // a ghost: ticks since the owner's node accepted the revocation, up to forgotten; -1: it has not

	Copied, SetBack bool // faults that are used up
	Crashes         int8 // that may still happen
}

// forgotten is when Since stops counting: after it nobody may use the offer.
const forgotten = ceiling + 2*delta

// signed is the set of all notices.
func (s *State) signed() (all Set) {
	for p, n := range s.Notices {
		if n.Kind != Unsigned {
			all |= 1 << p
		}
	}
	return all
}

// of is the part of a set that is of one kind.
func (s *State) of(k Kind, set Set) (out Set) {
	for p, n := range s.Notices {
		if n.Kind == k && set.has(p) {
			out |= 1 << p
		}
	}
	return out
}

// canonical is the state with A and B in one order. Nothing tells them apart: they begin alike, have the same
// actions, and every invariant speaks of both or of either. So of two states that differ in their names alone, one is
// enough.
func (s State) canonical() State {
	if s.Nodes[B].order() < s.Nodes[A].order() {
		s.Nodes[A], s.Nodes[B] = s.Nodes[B], s.Nodes[A]
	}
	return s
}

// order is a number that differs for nodes that differ.
func (n *Node) order() (o uint64) {
	for _, set := range []Set{n.Memory, n.Disk, n.Backup, n.Acknowledged} {
		o = o<<slots | uint64(set)
	}
	for _, small := range []int8{n.Back, n.Mark, n.Seen, int8(n.Knew)} {
		o = o<<2 | uint64(small)
	}
	for _, b := range []bool{n.Reconciled, n.Met, n.Copied, n.Restored} {
		o <<= 1
		if b {
			o |= 1
		}
	}
	return o
}

// name says which notice stands at a place.
func (s *State) name(place int) string {
	n := s.Notices[place]
	what := [...]string{"nothing", "lease", "overlong lease", "revocation", "other notice"}[n.Kind]
	if place >= at(Revoker, 1, 0) {
		return fmt.Sprintf("%s R%d", what, place-at(Revoker, 0, 0))
	}
	branches := [...]string{"", "'"}
	name := fmt.Sprintf("%s P%d%s", what, seqAt(place), branches[place%2])
	if seqAt(place) > 1 {
		name += fmt.Sprintf(" after P%d%s", seqAt(place)-1, branches[n.Prev])
	}
	if n.lease() {
		name += fmt.Sprintf(", from %+d to %+d", n.Begin, n.end())
	}
	if n.Head > 0 {
		name += fmt.Sprintf(", naming R%d", n.Head)
	}
	return name
}
