package simulation

import (
	"context"
	"slices"
	"strings"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/p2p"

	"github.com/ipfs/go-cid"
)

// What happens in the worlds of which the members change, beside what does in all.
var changing = []action{
	{10, (*world).propose},
	{24, (*world).cosign},
	{10, (*world).join},
	{2, (*world).coup},
	{6, (*world).sayFarewell},
	{6, (*world).trespass},
	{2, (*world).moveNode},
	{4, (*world).impersonate},
	{3, (*world).forge},
	{4, (*world).vote},
}

// card is a node's member as a charter lists it.
func (n *node) card() notice.Member {
	return notice.Member{
		Name: n.name, Publishing: n.publishingKey(), Node: n.nodeKey(),
		Recovery: notice.PublicKeyOf(n.recovery), Revokers: []notice.PublicKey{notice.PublicKeyOf(n.revoker)},
	}
}

// decides reports whether the node may sign what follows the charter that it knows: what node.Node asks before.
func decides(n *node) bool {
	c := n.ledger.Charter()
	m, on := c.Named(n.name)
	return signs(n) && on && c.Steward(n.name) && m.Publishing == n.publishingKey()
}

// propose has a steward sign a next version of the charter.
func (w *world) propose() {
	n := pick(w.random, w.running(decides))
	if n == nil {
		return
	}
	all := n.ledger.Charters()
	current := all[len(all)-1]
	before := current.Body.(*notice.Charter)
	if before.Version != n.ledger.Charter().Version {
		return // it is forked
	}
	if n.chosen[current.CID] && w.random.IntN(4) > 0 {
		return
	}
	body := *before
	body.Version, body.Prev, body.Drawn = before.Version+1, current.CID, time.Now().UTC()
	body.Members, body.Stewards = slices.Clone(body.Members), slices.Clone(body.Stewards)
	if !w.amend(&body) {
		return
	}
	signed, err := notice.Sign(&body, n.publishing)
	if err != nil {
		panic(err)
	}
	w.learn(signed)
	w.mu.Lock()
	n.chosen[current.CID] = true
	w.proper[signed.CID] = true
	w.note(n, "proposes %s", w.title(signed))
	w.mu.Unlock()
	w.count("proposal")
	if err := n.engine.Publish(context.Background(), signed); err != nil {
		w.say(n, "proposes nothing: %v", err)
	}
}

// amend changes what a version of the charter says, and reports whether it did.
func (w *world) amend(c *notice.Charter) bool {
	on := func(n *node) bool { _, on := c.Named(n.name); return on }
	of := func(and func(*node) bool) *node {
		return pick(w.random, slices.DeleteFunc(slices.Clone(w.nodes), func(n *node) bool { return !and(n) }))
	}
	steward := func(n *node) bool { return c.Steward(n.name) }
	switch w.random.IntN(8) {
	case 0, 1, 2:
		n := of(func(n *node) bool { return !on(n) })
		if n == nil {
			return false
		}
		c.Members = append(c.Members, n.card())
		slices.SortFunc(c.Members, func(a, b notice.Member) int { return strings.Compare(a.Name, b.Name) })
		if w.random.IntN(3) == 0 { // who came before had fewer over them
			c.Quorum = len(c.Stewards)
		}
	case 3, 4:
		n := of(func(n *node) bool { return on(n) && !(steward(n) && len(c.Stewards) <= 2) })
		if n == nil || len(c.Members) <= 4 {
			return false
		}
		c.Members = slices.DeleteFunc(c.Members, func(m notice.Member) bool { return m.Name == n.name })
		c.Stewards = slices.DeleteFunc(c.Stewards, func(name string) bool { return name == n.name })
	case 5:
		n := of(func(n *node) bool { return on(n) && !steward(n) })
		if n == nil {
			return false
		}
		c.Stewards = append(c.Stewards, n.name)
		slices.Sort(c.Stewards)
		if w.random.IntN(2) == 0 {
			c.Quorum = len(c.Stewards)
		}
	case 6:
		n := of(func(n *node) bool { return on(n) && steward(n) })
		if n == nil || len(c.Stewards) <= 2 {
			return false
		}
		c.Stewards = slices.DeleteFunc(c.Stewards, func(name string) bool { return name == n.name })
	default:
		c.OffersPerDay = 1 + w.random.IntN(8)
	}
	c.Quorum = min(c.Quorum, len(c.Stewards))
	if w.random.IntN(4) == 0 {
		c.Quorum = 2 + w.random.IntN(len(c.Stewards)-1)
	}
	return true
}

// cosign has a steward sign what another has proposed: seldom a second version that follows the same one, which can fork.
func (w *world) cosign() {
	n := pick(w.random, w.running(func(n *node) bool { return signs(n) && len(n.waiting()) > 0 }))
	if n == nil {
		return
	}
	p := pick(w.random, n.waiting())
	prev := p.Body.(*notice.Charter).Prev
	if n.chosen[prev] && w.random.IntN(4) > 0 {
		return
	}
	n.chosen[prev] = true
	signed, err := notice.Cosign(p, n.publishing)
	if err != nil {
		panic(err)
	}
	w.learn(signed)
	w.say(n, "signs %s", w.titled(signed))
	if err := n.engine.Publish(context.Background(), signed); err != nil {
		w.say(n, "signs nothing: %v", err)
	}
}

// waiting returns the proposals that wait for the node's member, as a steward of the version before or of their own. What
// only its own stewards want, the honest do not sign.
func (n *node) waiting() []*notice.Notice {
	mine := func(c *notice.Charter) bool {
		m, on := c.Named(n.name)
		return on && c.Steward(n.name) && m.Publishing == n.publishingKey()
	}
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	return slices.DeleteFunc(n.ledger.Proposals(), func(p *notice.Notice) bool {
		c := p.Body.(*notice.Charter)
		return !n.evil && !n.world.proper[p.CID] || slices.Contains(p.Signers(), n.publishingKey()) || !mine(c) && !mine(n.ledger.Charter())
	})
}

// coup has a member who is dishonest, or a stranger, sign a version of the charter of which it is the only steward.
func (w *world) coup() {
	n := pick(w.random, append(w.running(dishonest), w.stranger))
	w.mu.Lock()
	prev := pick(w.random, slices.DeleteFunc(slices.Clone(w.charters), func(c *notice.Notice) bool { return !w.enacted(c) }))
	w.mu.Unlock()
	body := *prev.Body.(*notice.Charter)
	body.Version, body.Prev, body.Drawn = body.Version+1, prev.CID, time.Now().UTC()
	body.Stewards, body.Quorum = []string{n.name}, 1
	if _, on := body.Named(n.name); !on {
		body.Members = append(slices.Clone(body.Members), n.card())
		slices.SortFunc(body.Members, func(a, b notice.Member) int { return strings.Compare(a.Name, b.Name) })
	}
	signed, err := notice.Sign(&body, n.publishing)
	if err != nil {
		panic(err)
	}
	w.learn(signed)
	w.say(nil, "%s wants to be the only steward: %s", n.name, w.titled(signed))
	w.count("coup")
	for range 3 {
		w.hand(n, signed)
		w.hand(pick(w.random, append(w.running(dishonest), w.stranger)), signed)
	}
}

// join brings an applicant up that a node has on its charter, with the versions up to that one: what an invitation does.
func (w *world) join() {
	n := pick(w.random, slices.DeleteFunc(slices.Clone(w.nodes), func(n *node) bool { return !n.outside }))
	if n == nil {
		return
	}
	from := pick(w.random, w.running(func(f *node) bool {
		m, on := f.ledger.Charter().Named(n.name)
		return !f.evil && on && m.Node == n.nodeKey() && !w.between(n, f).Cut
	}))
	if from == nil {
		return
	}
	l, err := ledger.Open(n.path, w.root)
	if err != nil {
		panic(err)
	}
	chain := slices.DeleteFunc(from.ledger.Charters(), func(c *notice.Notice) bool {
		return c.Body.(*notice.Charter).Version > from.ledger.Charter().Version || c.CID == w.root.CID
	})
	if _, err := l.Add(chain...); err != nil {
		panic(err)
	}
	if err := l.Close(); err != nil {
		panic(err)
	}
	w.say(n, "is admitted by %s", from.name)
	w.count("admission")
	n.outside = false
	n.start()
}

// sayFarewell has a node that dials in vain be told why, as p2p.Host tells it.
func (w *world) sayFarewell() {
	n := pick(w.random, w.honest())
	if n == nil {
		return
	}
	to := pick(w.random, w.running(func(other *node) bool {
		_, on := n.ledger.Charter().Named(other.name)
		_, counts := other.admits(n.nodeKey())
		return !on && counts && !other.evil && !w.between(n, other).Cut
	}))
	if to == nil {
		return
	}
	w.count("farewell")
	store{to.ledger, to}.Add(n.ledger.Charters()...)
}

// admits reports whether the node lets a key connect, and whether it counts that as a member's node: what p2p.Host asks.
func (n *node) admits(key notice.PublicKey) (connects, counts bool) {
	s := store{n.ledger, n}
	_, counts, _ = s.Seat(key)
	return p2p.Admits(s, key) || key == n.guest, counts
}

// ballot returns the offer that is voted against, often of a member who came later, and who votes, whether it counts or not.
func (w *world) ballot(o *notice.Notice) (*notice.Notice, []*node) {
	w.mu.Lock()
	later := slices.DeleteFunc(slices.Clone(w.offers), func(o *notice.Notice) bool {
		_, on := w.charter.Named(w.owners[o.Header().Key].node.name)
		return on
	})
	w.mu.Unlock()
	if len(later) > 0 && w.random.IntN(2) == 0 {
		o = pick(w.random, later)
	}
	return o, w.running(func(n *node) bool {
		return n.evil || slices.ContainsFunc(n.ledger.Charters(), func(c *notice.Notice) bool { return c.Body.(*notice.Charter).Steward(n.name) })
	})
}

// enacted reports whether a version of the charter has the signatures of a quorum of the stewards of the one before and of
// its own. The caller holds mu.
func (w *world) enacted(v *notice.Notice) bool {
	if v.CID == w.root.CID {
		return true
	}
	c := v.Body.(*notice.Charter)
	prev, ok := w.signed[c.Prev]
	if !ok {
		return false
	}
	for _, board := range []*notice.Charter{prev.Body.(*notice.Charter), c} {
		count := 0
		for _, m := range board.Members {
			if board.Steward(m.Name) && w.signers[v.CID][m.Publishing] {
				count++
			}
		}
		if count < board.Quorum {
			return false
		}
	}
	return true
}

// tally counts what a version of the charter changes, when the first node accepts it. The caller holds mu.
func (w *world) tally(v *notice.Notice) {
	prev, ok := w.signed[v.Body.(*notice.Charter).Prev]
	if w.tallied[v.CID] || !ok || w.stranger == nil {
		return
	}
	w.tallied[v.CID] = true
	before, after := prev.Body.(*notice.Charter), v.Body.(*notice.Charter)
	w.counts["version"]++
	for _, n := range w.nodes {
		_, was := before.Named(n.name)
		_, is := after.Named(n.name)
		switch {
		case is && !was:
			w.counts["version that admits"]++
		case was && !is:
			w.counts["version that removes"]++
		}
	}
	if before.Quorum != after.Quorum || !slices.Equal(before.Stewards, after.Stewards) {
		w.counts["version that changes who decides"]++
	}
	if slices.ContainsFunc(w.charters, func(c *notice.Notice) bool {
		return w.tallied[c.CID] && c.CID != v.CID && c.Body.(*notice.Charter).Prev == after.Prev
	}) {
		w.counts["fork of the charter"]++
	}
}

// enrol works out anew which version of the charter holds for the node, by what it has acknowledged: the last before a
// fork. The caller holds mu.
func (n *node) enrol() {
	after := make(map[cid.Cid][]*notice.Notice)
	for _, c := range n.world.charters {
		if _, ok := n.held[c.CID]; ok {
			prev := c.Body.(*notice.Charter).Prev
			after[prev] = append(after[prev], c)
		}
	}
	v := n.world.root
	for len(after[v.CID]) == 1 {
		v = after[v.CID][0]
	}
	n.charter, n.enrolled = v.Body.(*notice.Charter), time.Now()
}

// seats reports whether the charter that holds for the node has another's member, with the node key that the other has now:
// that of the charter, or the one that its recovery key named in place of it. The caller holds mu.
func (n *node) seats(other *node) bool {
	m, on := n.charter.Named(other.name)
	return on && n.nodeKeyOf(m) == other.nodeKey()
}

// nodeKeyOf returns the node key of a member as the node knows it. The caller holds mu.
func (n *node) nodeKeyOf(m notice.Member) notice.PublicKey {
	key := m.Node
	for _, r := range n.world.revoking { // each has been replaced once at most
		if b, ok := r.Body.(*notice.Rotation); ok && b.Old == key {
			if _, ok := n.held[r.CID]; ok && n.world.owners[b.Key] == (owner{n.world.owners[key].node, "recovery"}) {
				return b.New
			}
		}
	}
	return key
}
