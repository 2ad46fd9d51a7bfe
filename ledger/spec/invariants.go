package spec

import "fmt"

// design is what the rules are judged by: all of them.
const design = rules(everySafeguard)

// broken returns the invariant that does not hold in a state, or "".
func (w *world) broken(s *State) string {
	for i := range s.Nodes {
		if !w.honest(i) {
			continue
		}
		n := &s.Nodes[i]
		if lost := n.Acknowledged &^ n.Memory; lost != 0 {
			return fmt.Sprintf("I6: a crash loses what was acknowledged: the %s", s.name(lost.first()))
		}
		l, uses := w.uses(s, i)
		switch right := n.Back == 0; {
		case !uses:
		case s.of(Revocation, n.Memory) != 0:
			return "I1: a node generates with an expert whose revocation it accepted"
		case n.Knew != Never:
			return "I4: a node generates with an expert whose revocation it had durably accepted"
		case right && l.end()+delta <= 0:
			return "I2: a node whose clock is right generates after its lease ended + δ"
		case l.end() <= highest(n.Seen)-delta:
			return "I2: a node generates under a lease that its clock has seen end"
		case l.end() > ceiling+2*delta:
			return "I2: a node that is cut off now goes on for longer than the ceiling + 2δ"
		case right && !w.Equivocates && s.Since >= ceiling+2*delta:
			return "I2: a node generates later than the ceiling + 2δ after the owner's node accepted the revocation"
		case design.contradicted(s, n.Memory):
			return "I5: a node generates with an expert of a key that it can prove to have equivocated"
		}
	}
	return w.disagree(s)
}

// wrong returns the invariant that a step breaks, or "".
func (w *world) wrong(before *State, a action, s *State) string {
	proven := func(s *State, i int) bool { return design.contradicted(s, s.Nodes[i].Memory) }
	if a.what == exchanged && (proven(before, a.node) || proven(before, a.other)) && !(proven(s, a.node) && proven(s, a.other)) {
		return "I5: an equivocation that one node can prove is not proven to the other after they exchanged"
	}
	if a.what == signed && a.place < at(Revoker, 1, 0) && before.signed().top(Publishing) >= seqAt(a.place) && !w.Equivocates {
		// Excused is who was restored from a backup and reconciled only with nodes that had not got so far either.
		if owner := &before.Nodes[Owner]; !owner.Restored || !owner.Reconciled || owner.Met {
			return "I7: an honest owner equivocates"
		}
	}
	return ""
}

// disagree returns the invariant that does not hold if, from s on, every honest node exchanges with every other until
// none learns anything, or "". Without that a revocation could stay known to some for ever.
func (w *world) disagree(s *State) string {
	var have [nodes]Set
	for i := range s.Nodes {
		have[i] = s.Nodes[i].Memory
	}
	for have[A] != have[B] || w.honest(Owner) && have[Owner] != have[A] {
		was := have
		for i := range nodes {
			for j := i + 1; j < nodes; j++ {
				if w.honest(i) && w.honest(j) {
					have[i], have[j] = w.exchange(s, have[i], have[j])
				}
			}
		}
		if have == was {
			break
		}
	}
	l, ok := w.standing(s, have[A])
	for i := range have {
		if m, also := w.standing(s, have[i]); w.honest(i) && (also != ok || m != l) {
			return "I3: honest nodes that exchanged everything disagree whether the offer may be used"
		}
	}
	return ""
}
