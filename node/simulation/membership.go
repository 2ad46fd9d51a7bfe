package simulation

import (
	"context"
	"crypto/ed25519"
	"slices"
	"time"

	"chorus/ledger/notice"
	"chorus/p2p"
	"chorus/p2p/simnet"

	"github.com/ipfs/go-cid"
)

// lend has a member lend the power to revoke to a key on another machine, for some minutes or hours.
func (w *world) lend() {
	n := pick(w.random, w.running(signs))
	if n == nil {
		return
	}
	d := &notice.Delegation{Delegate: notice.PublicKeyOf(n.delegate), Revoke: true, Offers: []cid.Cid{}}
	lasts := time.Minute + time.Duration(w.random.Int64N(int64(2*time.Hour)))
	if w.random.IntN(2) == 0 {
		d.NotAfter = time.Now().UTC().Add(lasts)
		w.post(w.next(n, n.recovery, d))
	} else {
		d.NotAfter = n.clock().Add(lasts)
		if err := n.publish(context.Background(), d); err != nil {
			w.say(n, "lends nothing: %v", err)
			return
		}
	}
	w.count("delegation")
}

// rotate has a member replace its publishing key, with its recovery key. Whoever has the old one can go on signing.
func (w *world) rotate() {
	n := pick(w.random, slices.DeleteFunc(w.honest(), func(n *node) bool { return n.retired || n.number < 3 }))
	if n == nil {
		return
	}
	n.crash("to have its key replaced")
	n.stop()
	old := n.publishingKey()
	w.mu.Lock()
	n.publishing, n.replaced, n.retired = n.spare, n.publishing, true
	w.counts["rotation"]++
	w.mu.Unlock()
	w.post(w.next(n, n.recovery, notice.NewRotation(w.root.CID, notice.PublicKeyOf(n.recovery), notice.RotatePublishing, old, n.publishing)))
	n.start()
}

// moveNode has a member replace its node's key, with its recovery key: its node is another to the network from then on.
func (w *world) moveNode() {
	n := pick(w.random, slices.DeleteFunc(w.honest(), func(n *node) bool { return n.formerly != nil }))
	if n == nil {
		return
	}
	n.crash("to have its node's key replaced")
	n.stop()
	old := n.nodeKey()
	w.mu.Lock()
	n.formerly, n.node = n.node, privateOf(w.seed, n.name+" next node")
	w.owners[n.nodeKey()] = owner{n, "node"}
	w.counts["rotation of a node's key"]++
	w.mu.Unlock()
	n.place = w.net.Join(n.nodeKey())
	w.net.Set(w.stranger.nodeKey(), n.nodeKey(), simnet.Link{Delay: time.Duration(5+n.number) * time.Millisecond})
	for _, p := range w.pairs() {
		if slices.Contains(p[:], n.number) {
			w.connect(p[0], p[1], w.links[p].Link)
		}
	}
	r := w.next(n, n.recovery, notice.NewRotation(w.root.CID, notice.PublicKeyOf(n.recovery), notice.RotateNode, old, n.node))
	w.post(r)
	n.start()
	if err := n.engine.Publish(context.Background(), r); err != nil {
		w.say(n, "does not learn of its key: %v", err)
	}
}

// impersonate has somebody pass on what others have signed, with a node key that was replaced.
func (w *world) impersonate() {
	n := pick(w.random, slices.DeleteFunc(slices.Clone(w.nodes), func(n *node) bool { return n.formerly == nil }))
	to := pick(w.random, w.honest())
	w.mu.Lock()
	what := pick(w.random, w.order)
	w.mu.Unlock()
	if n == nil || to == nil {
		return
	}
	key := notice.PublicKeyOf(n.formerly)
	w.mu.Lock()
	m, on := to.charter.Named(n.name)
	knows := !on || to.nodeKeyOf(m) != key
	w.mu.Unlock()
	w.count("impersonation")
	if verdict := to.engine.Receive(key, what.Envelope); verdict == p2p.Accept && knows {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.breach(to, "I9: takes %s from the node key that %s has replaced", w.title(what), n.name)
	}
}

// steal has somebody go on with a publishing key that was replaced: an offer, and a lease on that and all before.
func (w *world) steal() {
	n := pick(w.random, slices.DeleteFunc(slices.Clone(w.nodes), func(n *node) bool { return n.replaced == nil }))
	if n == nil {
		return
	}
	w.mu.Lock()
	n.stolen = true
	w.counts["theft"]++
	old := notice.PublicKeyOf(n.replaced)
	h := notice.Header{Seq: 1}
	for ; len(w.at[place{old, h.Seq}]) > 0; h.Seq++ {
		h.Prev = w.at[place{old, h.Seq}][0].CID
	}
	offers := []cid.Cid{}
	for _, o := range w.offers {
		if o.Header().Key == old {
			offers = append(offers, o.CID)
		}
	}
	w.mu.Unlock()
	name := n.name + " stolen " + time.Now().Format(time.TimeOnly)
	o := w.sign(n.replaced, h, &notice.Offer{Blob: blobOf(name), Size: 1, Anchor: w.charter.Anchor, Domain: name, Licence: "CC0-1.0", TopK: 2})
	offers = append(offers, o.CID)
	slices.SortFunc(offers, notice.CompareCID)
	w.post(o)
	h = notice.Header{Seq: h.Seq + 1, Prev: o.CID}
	w.post(w.sign(n.replaced, h, &notice.Lease{Offers: offers, Heads: []notice.Head{}, NotAfter: time.Now().UTC().Add(lease)}))
}

// expel takes a member who is no steward off the next version of the charter. Others speak with its node no more.
func (w *world) expel(next *notice.Charter) {
	n := pick(w.random, slices.DeleteFunc(slices.Clone(w.nodes), func(n *node) bool {
		_, on := next.Named(n.name)
		return !on || n.number < 3
	}))
	if n == nil || len(next.Members) <= 4 {
		return
	}
	next.Members = slices.DeleteFunc(slices.Clone(next.Members), func(m notice.Member) bool { return m.Name == n.name })
	w.mu.Lock()
	defer w.mu.Unlock()
	n.expelled = true
	w.counts["expulsion"]++
	w.note(n, "is to leave")
}

// lends returns the delegations by which a revocation by a delegate withdraws the offer o.
func (w *world) lends(r, o *notice.Notice) (all []*notice.Notice) {
	b, ok := r.Body.(*notice.Revocation)
	if !ok || b.Offer != o.CID || b.Member != "" {
		return nil
	}
	for _, n := range w.lent[b.Key] {
		d, of := n.Body.(*notice.Delegation), w.owners[n.Header().Key]
		if of.node == w.owners[o.Header().Key].node && (d.Key == o.Header().Key || of.role == "recovery") && b.Time.Before(d.NotAfter) {
			all = append(all, n)
		}
	}
	return all
}

// withdraws reports whether r withdraws the offer o, by itself or by what the node had acknowledged before now.
func (n *node) withdraws(r, o *notice.Notice, now time.Time) bool {
	return n.world.withdraws(r, o) || slices.ContainsFunc(n.world.lends(r, o), func(d *notice.Notice) bool {
		return n.has(d, now)
	})
}

// left returns a version of the charter, of those that the node had acknowledged before now and nothing that it has
// follows, on which the owner of a key is not.
func (n *node) left(key notice.PublicKey, now time.Time) *notice.Notice {
	w := n.world
	followed := make(map[cid.Cid]bool)
	var has []*notice.Notice
	for _, c := range w.charters {
		if n.has(c, now) {
			has = append(has, c)
			followed[c.Body.(*notice.Charter).Prev] = true
		}
	}
	for _, c := range has {
		if _, on := c.Body.(*notice.Charter).Named(w.owners[key].node.name); !on && !followed[c.CID] {
			return c
		}
	}
	return nil
}

// keysApart returns the keys of a member's with which people revoke what they did not sign with the same.
func (w *world) keysApart(n *node) []ed25519.PrivateKey {
	keys := []ed25519.PrivateKey{n.revoker, n.recovery}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.lent[notice.PublicKeyOf(n.delegate)]) > 0 {
		keys = append(keys, n.delegate)
	}
	return keys
}
