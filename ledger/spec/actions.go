package spec

import "strings"

// A Scope says who does wrong and what may go wrong, and bounds the world: everything that can happen within it
// is looked at.
type Scope struct {
	Name string

	// Equivocates lets whoever holds the owner's publishing key sign whatever he likes, where he likes, and withhold
	// what he likes; his own node is then no honest one, and nothing is asked of it.
	Equivocates bool

	Publishing, Revoker int  // places in each feed that are used
	Notices             int  // that are signed in all
	Crashes             int8 // of all nodes together
	Restore             bool // one node once, from a copy of its disk as it was at any moment
	SetBack             bool // the clock of one node once
}

// An action is what happened last, for the trace and for invariants about a step.
type action struct {
	what        string
	node, other int
	place       int // of the notice
}

// What can happen. A trace has the names of those concerned in the places of the words in capitals.
const (
	nothing    = "the beginning: nothing but the offer is signed"
	ticked     = "a tick passes"
	signed     = "signed: NOTICE"
	delivered  = "NODE gets the NOTICE"
	exchanged  = "NODE and OTHER exchange what either lacks"
	withheld   = "NODE exchanges with a node that withholds everything"
	crashed    = "NODE crashes and starts again"
	copied     = "the disk of NODE is copied"
	restored   = "NODE starts from the old copy of its disk"
	clockMoved = "the clock of NODE is set back"
)

// words says what an action did, given the state that it led to.
func (a action) words(s *State) string {
	names := [...]string{"the owner's node", "A", "B"}
	return strings.NewReplacer("NODE", names[a.node], "OTHER", names[a.other], "NOTICE", s.name(a.place)).Replace(a.what)
}

// A world is a scope under some rules.
type world struct {
	Scope
	rules
}

// begin is where everything starts: all nodes run, and have met.
func (w *world) begin() State {
	s := State{Since: -1, Crashes: w.Crashes}
	for i := range s.Nodes {
		s.Nodes[i].Reconciled = true
	}
	return s
}

// honest reports whether something is asked of a node.
func (w *world) honest(i int) bool { return i != Owner || !w.Equivocates }

// steps calls yield with every action that can happen in s and the state it leads to.
func (w *world) steps(s *State, yield func(action, State)) {
	yield(action{what: ticked}, w.tick(*s))
	w.publishing(s, yield)
	w.revoking(s, yield)
	for i := range s.Nodes {
		if w.honest(i) {
			w.node(s, i, yield)
		}
	}
}

// tick lets time pass. What was long ago is as long ago as it can matter.
func (w *world) tick(s State) State {
	dead := int8(-delta) // a lease that ended then is over by every clock
	if w.SetBack {
		dead -= setBack
	}
	for p := range s.Notices {
		if n := &s.Notices[p]; n.lease() {
			n.Begin = max(n.Begin-1, dead-(n.end()-n.Begin))
		}
	}
	for i := range s.Nodes {
		if n := &s.Nodes[i]; n.Back > 0 {
			n.Mark, n.Seen = min(n.Mark+1, n.Back), min(n.Seen+1, n.Back)
		}
	}
	if s.Since >= 0 {
		s.Since = min(s.Since+1, forgotten)
	}
	return s
}

// publishing signs with the publishing key.
func (w *world) publishing(s *State, yield func(action, State)) {
	if w.Equivocates {
		for seq := 1; seq <= min(s.signed().top(Publishing)+1, w.Publishing); seq++ {
			for prev := range 2 {
				if seq == 1 && prev == 1 || seq > 1 && s.Notices[at(Publishing, seq-1, prev)].Kind == Unsigned {
					continue
				}
				w.sign(s, Publishing, seq, Notice{Kind: Revocation, Prev: uint8(prev)}, yield)
				w.sign(s, Publishing, seq, Notice{Kind: Other, Prev: uint8(prev)}, yield)
				for head := range s.signed().top(Revoker) + 1 {
					for _, k := range []Kind{Lease, LongLease} {
						for _, begin := range []int8{-delta, delta, delta + ceiling} {
							w.sign(s, Publishing, seq, Notice{k, uint8(prev), uint8(head), begin}, yield)
						}
					}
				}
			}
		}
		return
	}
	// The owner's node. It signs for its own part of the feed only, and never in a feed that it knows to be forked.
	n := &s.Nodes[Owner]
	if w.on(ReconcileToSign) && !n.Reconciled || w.contradicted(s, n.Memory) {
		return
	}
	last := n.Memory.top(Publishing)
	if !w.on(SignAfterTop) {
		last = n.Memory.complete(Publishing)
	}
	var prev, head uint8
	if last > 0 && n.Memory.seq(Publishing, last) == 2 {
		prev = 1
	}
	if w.on(LeaseNamesHeads) {
		head = uint8(n.Memory.top(Revoker))
		if !w.on(LeaseNamesTop) {
			head = uint8(n.Memory.complete(Revoker))
		}
	}
	for _, begin := range []int8{-delta, delta} { // by its clock
		w.sign(s, Publishing, last+1, Notice{Lease, prev, head, begin}, yield)
	}
	if s.of(Revocation, n.Memory).after(Publishing, 0) == 0 {
		w.sign(s, Publishing, last+1, Notice{Kind: Revocation, Prev: prev}, yield)
	}
}

// revoking signs with the revoker key, which is kept apart from every node and knows its own feed.
func (w *world) revoking(s *State, yield func(action, State)) {
	own := s.signed().after(Revoker, 0)
	for _, k := range []Kind{Revocation, Other} {
		if s.of(k, own) == 0 {
			w.sign(s, Revoker, own.top(Revoker)+1, Notice{Kind: k}, yield)
		}
	}
}

// sign puts a notice into the world, if there is room for it there. The owner's node has what it signs.
func (w *world) sign(s *State, k Key, seq int, n Notice, yield func(action, State)) {
	all := s.signed()
	bound, branch := w.Revoker, 0
	if k == Publishing {
		bound, branch = w.Publishing, int(all.seq(k, seq)&1)
	}
	if seq > bound || all.count() >= w.Notices {
		return
	}
	place := at(k, seq, branch)
	if all.has(place) {
		return
	}
	next := *s
	next.Notices[place] = n
	if k == Publishing && !w.Equivocates {
		w.accept(&next, Owner, 1<<place)
	}
	yield(action{what: signed, place: place}, next)
}

// accept has a node take notices in: on disk, then in memory, then it acknowledges. A crash between these leaves
// a notice that was never acknowledged on disk or not, which is what comes of a crash just after or just before.
func (w *world) accept(s *State, i int, some Set) {
	n := &s.Nodes[i]
	n.Memory |= some
	if w.on(DurableFirst) {
		n.Disk |= some
	}
	n.Acknowledged |= some
	if s.of(Revocation, n.Memory) != 0 {
		n.Knew = Accepted
		if i == Owner && s.Since < 0 {
			s.Since = 0
		}
	}
}

// node is what can happen at one node.
func (w *world) node(s *State, i int, yield func(action, State)) {
	n := &s.Nodes[i]
	// The network, or a dishonest member: anything signed may come, in any order, late, or never.
	for missing := s.signed() &^ n.Memory; missing != 0; missing &= missing - 1 {
		next := *s
		w.accept(&next, i, missing.lowest())
		yield(action{delivered, i, 0, missing.first()}, next)
	}
	for j := i + 1; j < nodes; j++ {
		if w.honest(j) {
			yield(action{what: exchanged, node: i, other: j}, w.reconcile(*s, i, j))
		}
	}
	if w.Equivocates && !n.Reconciled {
		next := *s
		next.Nodes[i].Reconciled = true
		if n.Knew == Lost {
			next.Nodes[i].Knew = Never
		}
		yield(action{what: withheld, node: i}, next)
	}
	if s.Crashes > 0 {
		next := w.start(*s, i)
		next.Crashes--
		yield(action{what: crashed, node: i}, next)
	}
	if w.SetBack && !s.SetBack {
		next := *s
		next.SetBack, next.Nodes[i].Back = true, setBack
		yield(action{what: clockMoved, node: i}, next)
	}
	if w.Restore && !s.Copied {
		next := *s
		next.Copied, next.Nodes[i].Copied, next.Nodes[i].Backup = true, true, n.Disk
		yield(action{what: copied, node: i}, next)
	}
	if n.Copied && !n.Restored {
		next := *s
		m := &next.Nodes[i]
		m.Disk, m.Acknowledged, m.Backup, m.Restored = n.Backup, n.Backup, 0, true
		if i == Owner {
			next.Since = -1
		}
		if n.Knew == Accepted && s.of(Revocation, n.Backup) == 0 {
			m.Knew = Lost
		}
		yield(action{what: restored, node: i}, w.start(next, i))
	}
}

// start is a node after a crash and a start: it has what its disk has.
func (w *world) start(s State, i int) State {
	n := &s.Nodes[i]
	n.Memory, n.Reconciled, n.Met = n.Disk, false, false
	if !w.on(HighWaterOnDisk) {
		n.Mark = n.Back
	}
	return s
}

// reconcile has two honest nodes exchange what either lacks.
func (w *world) reconcile(s State, i, j int) State {
	before := s
	a, b := w.exchange(&s, s.Nodes[i].Memory, s.Nodes[j].Memory)
	w.accept(&s, i, a)
	w.accept(&s, j, b)
	for _, pair := range [][2]int{{i, j}, {j, i}} {
		n, peer := &s.Nodes[pair[0]], &before.Nodes[pair[1]]
		n.Reconciled = true
		if n.Knew == Lost && s.of(Revocation, peer.Memory) == 0 {
			n.Knew = Never
		}
		newest := before.signed().top(Publishing)
		if pair[0] == Owner && n.Restored && newest > 0 && peer.Memory.seq(Publishing, newest) != 0 {
			n.Met = true
		}
	}
	return s
}
