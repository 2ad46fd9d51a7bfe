package simulation

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"chorus/ledger/notice"
	"chorus/p2p"
	"chorus/p2p/simnet"

	"github.com/ipfs/go-cid"
)

// An action is something that can happen, and how often beside the others.
type action struct {
	weight int
	do     func(*world)
}

var actions = []action{
	{12, (*world).offer},
	{6, (*world).revoke},
	{4, (*world).revokeApart},
	{2, (*world).vote},
	{1, (*world).replaceKey},
	{8, (*world).partition},
	{6, (*world).heal},
	{5, (*world).eclipse},
	{3, (*world).leaseOn},
	{2, (*world).goAway},
	{3, (*world).loseSite},
	{6, (*world).degrade},
	{8, (*world).fail},
	{14, (*world).recover},
	{3, (*world).backUp},
	{4, (*world).setClock},
	{3, (*world).equivocate},
	{3, (*world).overpromise},
	{5, (*world).replay},
	{3, (*world).withhold},
	{1, (*world).flood},
	{2, (*world).nextCharter},
	{2, (*world).lend},
	{1, (*world).rotate},
	{1, (*world).steal},
}

// act lets one thing happen.
func (w *world) act() {
	total := 0
	for _, a := range w.actions {
		total += a.weight
	}
	at := w.random.IntN(total)
	for _, a := range w.actions {
		if at -= a.weight; at < 0 {
			a.do(w)
			break
		}
	}
	if w.random.IntN(4) == 0 {
		w.deliver()
	}
}

// running returns the nodes that are up.
func (w *world) running(and func(*node) bool) []*node {
	return slices.DeleteFunc(slices.Clone(w.nodes), func(n *node) bool { return n.state() != up || !and(n) })
}

func anyone(*node) bool      { return true }
func dishonest(n *node) bool { return n.evil }

// signs reports whether a node knows enough to sign.
func signs(n *node) bool {
	select {
	case <-n.caughtUp:
		return true
	default:
		return false
	}
}

// offer has a node offer an expert and lease it.
func (w *world) offer() {
	n := pick(w.random, w.running(signs))
	if n == nil {
		return
	}
	n.made++
	name := fmt.Sprintf("%s %d", n.name, n.made)
	n.mu.Lock()
	n.blobs[blobOf(name)] = true
	n.mu.Unlock()
	o := &notice.Offer{Blob: blobOf(name), Size: 1, Anchor: w.charter.Anchor, Domain: name, Licence: "CC0-1.0", TopK: 2}
	if n.evil && w.stranger != nil {
		switch w.random.IntN(4) {
		case 0:
			o.Size = w.charter.MaxBlobBytes + 1
		case 1:
			o.Anchor = blobOf("another anchor")
		}
	}
	if err := n.publish(context.Background(), o); err != nil {
		w.say(n, "offers nothing: %v", err)
		return
	}
	var own []cid.Cid
	for _, st := range n.ledger.Standings(n.clock()) {
		if st.Member == n.name && (n.rote || st.State != "revoked") {
			own = append(own, st.Notice)
		}
	}
	slices.SortFunc(own, notice.CompareCID)
	if err := n.promise(context.Background(), own); err != nil {
		w.say(n, "leases nothing: %v", err)
	}
}

// target returns an offer that somebody made, often one that is in use: by who is eclipsed, or by somebody.
func (w *world) target() *notice.Notice {
	user := w.victim
	if user == nil {
		user = pick(w.random, w.honest())
	}
	if user != nil && w.random.IntN(3) > 0 {
		user.mu.Lock()
		using := slices.Clone(user.using)
		user.mu.Unlock()
		if len(using) > 0 {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.signed[pick(w.random, using).Notice]
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return pick(w.random, w.offers)
}

// revoke has an owner's node withdraw an offer, or all.
func (w *world) revoke() {
	o := w.target()
	if o == nil {
		return
	}
	n := w.owners[o.Header().Key].node
	if n.state() != up {
		return
	}
	w.count("revocation")
	r := &notice.Revocation{Offer: o.CID, Reason: "it is over"}
	if w.random.IntN(5) == 0 {
		r = &notice.Revocation{All: true, Reason: "all is over"}
	}
	if signs(n) {
		if err := n.publish(context.Background(), r); err == nil || n.state() != up {
			return
		}
	}
	// It takes no place in a feed that is not known whole.
	w.post(w.sign(n.publishing, notice.Header{}, &notice.Revocation{Offer: o.CID, Reason: "it is over, whatever the feed"}))
}

// sign signs with a key that is kept apart. The header's time and what is the same for all are filled in.
func (w *world) sign(key ed25519.PrivateKey, h notice.Header, b notice.Body) *notice.Notice {
	h.Charter, h.Key = w.root.CID, notice.PublicKeyOf(key)
	if h.Time.IsZero() {
		h.Time = time.Now().UTC()
	}
	b, err := notice.WithHeader(b, h)
	if err != nil {
		panic(err)
	}
	n, err := notice.Sign(b, key)
	if err != nil {
		panic(err)
	}
	return w.learn(n)
}

// next signs what follows in the feed of a key that one person keeps.
func (w *world) next(n *node, key ed25519.PrivateKey, b notice.Body) *notice.Notice {
	h := notice.Header{Seq: 1}
	public := notice.PublicKeyOf(key)
	if last := n.last[public]; last != nil {
		h.Seq, h.Prev = last.Header().Seq+1, last.CID
	}
	n.last[public] = w.sign(key, h, b)
	return n.last[public]
}

// post has something delivered, now or later.
func (w *world) post(n *notice.Notice) {
	w.late = append(w.late, n)
	if w.random.IntN(3) > 0 {
		w.deliver()
	}
}

// deliver brings what people have signed to some node, each in whatever order. What no node has taken durably they keep.
func (w *world) deliver() {
	w.random.Shuffle(len(w.late), func(i, j int) { w.late[i], w.late[j] = w.late[j], w.late[i] })
	w.late = slices.DeleteFunc(w.late, func(s *notice.Notice) bool {
		n := pick(w.random, w.running(func(n *node) bool {
			// The node whose key it replaces could not bring it to anybody.
			return !n.evil && !(w.stranger != nil && s.Kind == notice.KindRotation && w.owners[s.Header().Key].node == n)
		}))
		return n != nil && n.engine.Publish(context.Background(), s) == nil
	})
}

// revokeApart has an owner withdraw with a key that is not the node's, in its feed or in none.
func (w *world) revokeApart() {
	o := w.target()
	if o == nil {
		return
	}
	w.count("revocation")
	n := w.owners[o.Header().Key].node
	key := pick(w.random, w.keysApart(n))
	switch kind := w.random.IntN(6); {
	case kind == 0 && !key.Equal(n.delegate):
		w.post(w.next(n, key, &notice.Revocation{All: true, Through: notice.Through{Key: n.publishingKey(), Seq: o.Header().Seq}, Reason: "all up to here"}))
	case kind < 3:
		w.post(w.sign(key, notice.Header{}, &notice.Revocation{Offer: o.CID, Reason: "signed ahead"}))
	default:
		w.post(w.next(n, key, &notice.Revocation{Offer: o.CID, Reason: "from elsewhere"}))
	}
}

// vote has stewards withdraw another member's offer.
func (w *world) vote() {
	o := w.target()
	if o == nil {
		return
	}
	voters := w.nodes[:3]
	if w.stranger != nil {
		o, voters = w.ballot(o)
	}
	of, votes := w.owners[o.Header().Key].node, 0
	for _, n := range voters {
		if n != of && n.state() == up && signs(n) && w.random.IntN(4) > 0 {
			if err := n.publish(context.Background(), &notice.Revocation{Member: of.name, Offer: o.CID, Reason: "the stewards say so"}); err == nil {
				w.count("vote")
				votes++
			}
		}
	}
	if votes >= w.charter.Quorum {
		w.count("vote of a quorum")
	}
}

// replaceKey has a member give up its publishing key.
func (w *world) replaceKey() {
	n := pick(w.random, w.nodes[min(3, len(w.nodes)):])
	if n == nil || n.retired {
		return
	}
	n.retired = true
	w.count("revocation of a key")
	key := pick(w.random, []ed25519.PrivateKey{n.revoker, n.recovery})
	w.post(w.next(n, key, &notice.Revocation{RevokedKey: n.publishingKey(), Reason: "the key is lost"}))
}

// partition parts the network into up to three. Who is eclipsed stays so.
func (w *world) partition() {
	side := make([]int, len(w.nodes))
	for i := range side {
		side[i] = w.random.IntN(3)
	}
	w.say(nil, "the network parts: %v", side)
	w.count("partition")
	for _, p := range w.pairs() {
		if w.victim != nil && slices.Contains(p[:], w.victim.number) {
			continue
		}
		l := w.links[p].Link
		l.Cut = side[p[0]] != side[p[1]]
		w.connect(p[0], p[1], l)
	}
}

// goAway has a node stay down until its leases have ended: nobody opts out of anything, and all must stop.
func (w *world) goAway() {
	n := pick(w.random, w.honest())
	if n == nil || slices.ContainsFunc(w.nodes, func(n *node) bool { return time.Now().Before(n.away) }) {
		return
	}
	n.away = time.Now().Add(lease + time.Duration(w.random.Int64N(int64(2*delta))))
	n.crash("and stays away")
}

// loseSite restores two nodes at once: the first that either hears from may be the other, which has lost as much.
func (w *world) loseSite() {
	some := slices.DeleteFunc(slices.Clone(w.nodes), func(n *node) bool { return n.backup == nil || time.Now().Before(n.away) })
	w.random.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	for _, n := range some[:min(2, len(some))] {
		n.restart(true)
	}
}

// heal mends every link.
func (w *world) heal() {
	w.say(nil, "the network is whole")
	w.victim = nil
	for _, p := range w.pairs() {
		w.connect(p[0], p[1], simnet.Link{Delay: time.Duration(w.random.Int64N(int64(300 * time.Millisecond)))})
	}
}

// degrade makes some links slow, lossy or unreliable, and cuts single ones.
func (w *world) degrade() {
	pairs := w.pairs()
	for range 1 + len(pairs)/4 {
		p := pick(w.random, pairs)
		l := simnet.Link{
			Delay: time.Duration(w.random.Int64N(int64(300 * time.Millisecond))), Jitter: time.Duration(w.random.Int64N(int64(10 * time.Second))),
			Loss: w.random.Float64(), Cut: w.random.IntN(4) == 0,
		}
		if w.random.IntN(3) == 0 {
			l.Break = w.random.Float64()
		}
		w.connect(p[0], p[1], l)
	}
	w.say(nil, "some links are bad")
}

// fail has a node crash, at once or at one of its next durable steps.
func (w *world) fail() {
	n := pick(w.random, w.running(anyone))
	if n == nil {
		return
	}
	if w.random.IntN(4) == 0 {
		n.crash("between transactions")
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.armed = 1 + w.random.IntN(12)
}

// recover brings back a node that is down, sometimes from its backup.
func (w *world) recover() {
	n := pick(w.random, slices.DeleteFunc(slices.Clone(w.nodes), func(n *node) bool {
		return n.state() != down || n.outside || time.Now().Before(n.away)
	}))
	if n == nil {
		return
	}
	if n.backup != nil && w.random.IntN(4) == 0 {
		n.restore()
	}
	n.start()
}

// backUp copies a node's disk.
func (w *world) backUp() {
	if n := pick(w.random, w.running(anyone)); n != nil {
		n.save()
	}
}

// setClock sets a node's clock: to about the right time, or far from it.
func (w *world) setClock() {
	n := pick(w.random, w.nodes)
	offset := w.rightClock()
	if w.random.IntN(3) == 0 {
		offset = time.Duration(w.random.Int64N(int64(4*time.Hour))) - 2*time.Hour
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	n.offset.Store(int64(offset))
	n.jumped = time.Now()
	n.wrong = n.wrong || !n.right()
	w.note(n, "has its clock set to be off by %v", offset.Round(time.Second))
}

// equivocate has a member sign two notices of one number, and show each to another node.
func (w *world) equivocate() {
	n := pick(w.random, w.running(dishonest))
	if n == nil {
		return
	}
	h := notice.Header{Seq: 1, Time: n.clock()}
	for _, head := range n.ledger.Tops(n.name) {
		if head.Key == n.publishingKey() {
			h.Seq, h.Prev = head.Seq+1, head.CID
		}
	}
	own := n.own()
	for i, offers := range [][]cid.Cid{own, own[:len(own)/2]} {
		branch := w.sign(n.publishing, h, &notice.Lease{Offers: offers, Heads: []notice.Head{}, NotAfter: h.Time.Add(lease + time.Duration(i)*time.Second)})
		w.hand(n, branch)
	}
	w.say(n, "equivocates at %d", h.Seq)
	w.count("equivocation")
}

// own returns a member's offers.
func (n *node) own() (all []cid.Cid) {
	for _, st := range n.ledger.Standings(n.clock()) {
		if st.Member == n.name {
			all = append(all, st.Notice)
		}
	}
	slices.SortFunc(all, notice.CompareCID)
	return all
}

// hand has a dishonest node pass a message on to one that it reaches.
func (w *world) hand(from *node, n *notice.Notice) {
	to := pick(w.random, w.running(func(n *node) bool { return n != from && (from == w.stranger || !w.between(from, n).Cut) }))
	if to == nil {
		return
	}
	w.mu.Lock()
	seats := to.seats(from)
	w.mu.Unlock()
	if verdict := to.engine.Receive(from.nodeKey(), n.Envelope); verdict == p2p.Accept && !seats && !to.evil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.breach(to, "I9: takes %s from %s, who is no member", w.title(n), from.name)
	}
}

// overpromise has a dishonest member sign a lease that is too long or begins in the future.
func (w *world) overpromise() {
	n := pick(w.random, w.running(dishonest))
	if n == nil {
		return
	}
	at, until := n.clock(), ceiling+time.Duration(1+w.random.Int64N(int64(10*time.Hour)))
	if w.random.IntN(2) == 0 {
		at, until = at.Add(time.Duration(w.random.Int64N(int64(5*time.Hour)))), lease
	}
	l := &notice.Lease{Offers: n.own(), Heads: []notice.Head{}, NotAfter: at.Add(until)}
	h := notice.Header{Seq: 1, Time: at}
	for _, head := range n.ledger.Tops(n.name) {
		if head.Key == n.publishingKey() {
			h.Seq, h.Prev = head.Seq+1, head.CID
		}
	}
	s := w.sign(n.publishing, h, l)
	w.say(n, "promises too much: %s", w.titled(s))
	n.engine.Publish(context.Background(), s)
}

func (w *world) titled(n *notice.Notice) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.title(n)
}

// replay has a dishonest node pass on something old, or rubbish.
func (w *world) replay() {
	n := pick(w.random, w.running(dishonest))
	if n == nil {
		return
	}
	for range 1 + w.random.IntN(8) {
		w.mu.Lock()
		s := pick(w.random, w.order)
		w.mu.Unlock()
		if s == nil {
			return
		}
		w.hand(n, s)
	}
	if w.random.IntN(4) == 0 {
		if to := pick(w.random, w.running(func(to *node) bool { return to != n && !w.between(n, to).Cut })); to != nil {
			to.engine.Receive(n.nodeKey(), []byte(`{"payloadType":"rubbish"}`))
		}
	}
}

// withhold has a dishonest node keep revocations to itself.
func (w *world) withhold() {
	if n := pick(w.random, w.running(dishonest)); n != nil {
		w.keep(n)
	}
}

// keep hides all revocations from now on, and sometimes much else, so that what it shows has gaps.
func (w *world) keep(n *node) {
	w.say(n, "withholds every revocation")
	w.mu.Lock()
	var all []*notice.Notice
	if w.random.IntN(4) == 0 {
		for _, other := range w.order {
			if w.random.IntN(3) == 0 {
				all = append(all, other)
			}
		}
	}
	w.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hides = true
	for _, r := range all {
		n.hidden[r.CID] = true
	}
}

// flood has a dishonest member say much.
func (w *world) flood() {
	n := pick(w.random, w.running(dishonest))
	if n == nil || w.flooded > 100 {
		return
	}
	w.say(n, "floods")
	for range 40 {
		w.flooded++
		if n.promise(context.Background(), n.own()) != nil {
			return
		}
	}
}

// nextCharter has the stewards agree on another version, and sometimes on two.
func (w *world) nextCharter() {
	if w.stranger != nil {
		w.propose() // by what each knows
		return
	}
	last := w.stewards[len(w.stewards)-1]
	before := last.Body.(*notice.Charter)
	if len(w.stewards) > 4 {
		return
	}
	for i := range 1 + w.random.IntN(5)/4 {
		body := *before
		body.Version, body.Prev = before.Version+1, last.CID
		body.OffersPerDay = 1000 + w.random.IntN(1000) + i
		body.Drawn = time.Now().UTC()
		if w.random.IntN(3) == 0 {
			w.expel(&body)
		}
		n, err := notice.Sign(&body, w.nodes[0].publishing, w.nodes[1].publishing)
		if err != nil {
			panic(err)
		}
		w.learn(n)
		w.stewards = append(w.stewards, n)
		w.count("charter")
		w.post(n)
	}
}
