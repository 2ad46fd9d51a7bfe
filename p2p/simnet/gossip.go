package simnet

import (
	"context"
	"crypto/sha256"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"

	"chorus/ledger/notice"
	"chorus/p2p"
)

// Broadcast sends an envelope to every connected node, as gossipsub does with what its own node publishes. Whoever
// accepts it passes it on.
func (o *Node) Broadcast(_ context.Context, envelope []byte) error {
	id := sha256.Sum256(envelope)
	if o.mark(id) {
		for _, to := range o.Connected() {
			o.pass(to, id, envelope)
		}
	}
	return nil
}

// mark notes that a node has had a message and reports whether it is the first time.
func (o *Node) mark(id [32]byte) bool {
	o.net.mu.Lock()
	defer o.net.mu.Unlock()
	if _, ok := o.seen[id]; ok || o.engine == nil {
		return false
	}
	o.seen[id] = struct{}{}
	return true
}

// pass lets a message arrive at a node, later, or never.
func (o *Node) pass(to notice.PublicKey, id [32]byte, envelope []byte) {
	if o.Withholds != nil && o.Withholds(envelope) {
		return
	}
	n := o.net
	n.mu.Lock()
	l := n.link(o.key, to)
	what := n.of(l)
	n.mu.Unlock()
	chance := n.chance(o.key, to, id[:]...)
	n.carried.Add(int64(len(envelope)))
	if chance.Float64() < what.Loss {
		return
	}
	// No two messages arrive at one moment: what comes of them must not hang on which goroutine runs first.
	delay := what.Delay + time.Duration(chance.Int64N(int64(100*time.Microsecond)))
	if what.Jitter > 0 {
		delay += time.Duration(chance.Int64N(int64(what.Jitter)))
	}
	n.after(delay, func() {
		n.mu.Lock()
		other, up := n.nodes[to], n.reaches(o.key, to)
		var engine *p2p.Engine
		if up {
			engine = other.engine
		}
		n.mu.Unlock()
		if engine == nil || !other.mark(id) || engine.Receive(o.key, envelope) != p2p.Accept {
			return
		}
		for _, next := range other.neighbours(id) {
			if next != o.key {
				other.pass(next, id, envelope)
			}
		}
	})
}

// neighbours returns the nodes that this one passes a message on to: some of those connected.
func (o *Node) neighbours(id [32]byte) []notice.PublicKey {
	connected := o.Connected()
	sum := fnv.New64a()
	sum.Write(o.key[:])
	sum.Write(id[:])
	shuffle := rand.New(rand.NewPCG(o.net.seed, sum.Sum64()))
	shuffle.Shuffle(len(connected), func(i, j int) { connected[i], connected[j] = connected[j], connected[i] })
	return slices.Clone(connected[:min(gossipDegree, len(connected))])
}

// Part implements [p2p.Network]. Connections are the world's, and stay.
func (o *Node) Part(notice.PublicKey) {}
