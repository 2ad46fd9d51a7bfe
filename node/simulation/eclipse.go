package simulation

import (
	"context"
	"slices"
	"testing/synctest"
	"time"

	"chorus/ledger/notice"
)

// eclipse leaves a node with one that withholds, or with nobody, for as long as a heal does not come. It may be there that
// it starts again.
func (w *world) eclipse() {
	victim, evil := pick(w.random, w.honest()), pick(w.random, w.running(dishonest))
	if victim == nil {
		return
	}
	if w.random.IntN(3) == 0 {
		evil = nil
	}
	w.isolate(victim, evil)
	if w.random.IntN(2) == 0 {
		victim.restart(w.random.IntN(2) == 0)
	}
	switch w.random.IntN(3) { // that would be what is withheld from it
	case 0:
		w.revoke()
	case 1:
		w.revokeApart()
	}
}

// isolate leaves a node with a dishonest one, or with nobody.
func (w *world) isolate(victim, evil *node) {
	w.say(victim, "can reach nobody who is honest")
	w.victim = victim
	w.count("eclipse")
	if evil != nil {
		w.keep(evil)
	}
	for i, other := range w.nodes {
		if other == victim {
			continue
		}
		p := [2]int{min(i, victim.number), max(i, victim.number)}
		l := w.links[p].Link
		l.Cut = other != evil
		w.connect(p[0], p[1], l)
	}
}

// leaseOn has somebody revoke an offer with a key that is kept apart, and its owner's node, which has that revocation and
// leases by rote, lease it on: a node that uses it is shown the lease alone.
func (w *world) leaseOn() {
	victim, evil := pick(w.random, w.honest()), pick(w.random, w.running(dishonest))
	if victim == nil || evil == nil {
		return
	}
	victim.mu.Lock()
	using := slices.Clone(victim.using)
	victim.mu.Unlock()
	w.mu.Lock()
	var leased []*notice.Notice
	for _, a := range using {
		o := w.signed[a.Notice]
		if of := w.owners[o.Header().Key].node; of != victim && !of.evil && of.rote && o.Header().Key == of.publishingKey() {
			leased = append(leased, o)
		}
	}
	w.mu.Unlock()
	o := pick(w.random, leased)
	if o == nil {
		return
	}
	owner := w.owners[o.Header().Key].node
	if owner.state() != up || !signs(owner) {
		return
	}
	w.isolate(victim, evil)
	w.count("revocation")
	r := w.next(owner, owner.revoker, &notice.Revocation{Offer: o.CID, Reason: "from elsewhere"})
	if owner.engine.Publish(context.Background(), r) != nil {
		w.post(r)
		return
	}
	time.Sleep(time.Second)
	synctest.Wait()
	if owner.state() != up {
		return
	}
	if err := owner.promise(context.Background(), owner.own()); err != nil {
		w.say(owner, "leases nothing: %v", err)
	}
}
