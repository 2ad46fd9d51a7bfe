// Package simnet is a network in memory for the engines of package p2p: its links can be cut, slow and lossy, and it
// runs two hundred nodes inside testing/synctest. It is for tests and trials, and imitates what consent rests on:
// streams that arrive whole and in order or break, gossip that may be lost, late and out of order.
//
// Begin with [New] and [Net.Join]. What the network does at random follows from its seed and from what each link
// has carried, not from the order in which goroutines run.
package simnet

import (
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"chorus/ledger/notice"
	"chorus/p2p"
)

// ErrUnreachable reports a node that is not connected.
var ErrUnreachable = errors.New("node is not connected")

// gossipDegree is to how many neighbours a node passes a message on: gossipsub's D.
const gossipDegree = 6

// A Link says what lies between two nodes, the same in both directions.
type Link struct {
	Cut    bool          // nothing passes, and streams break
	Delay  time.Duration // of everything
	Jitter time.Duration // of gossip, up to this in addition: it arrives out of order
	Loss   float64       // of gossip: the share of messages that do not arrive
	Break  float64       // of streams: the share that breaks somewhere on the way
}

// A Net is a network. Its methods may be called concurrently.
type Net struct {
	seed    uint64
	carried atomic.Int64

	mu     sync.Mutex
	nodes  map[notice.PublicKey]*Node // guarded by mu, as the next
	sorted []*Node                    // by key
	links  map[[2]notice.PublicKey]*link
	turn   int // how often who is connected may have changed
	usual  Link
	wg     sync.WaitGroup // what is under way
}

type link struct {
	Link
	set     bool                // otherwise the usual one holds
	opened  [2]uint64           // streams so far, by the lower key and by the higher
	streams map[*pipe]struct{}  // open
	who     [2]notice.PublicKey // sorted
}

// New makes a network without nodes whose links are all like usual.
func New(seed uint64, usual Link) *Net {
	return &Net{seed: seed, usual: usual, nodes: make(map[notice.PublicKey]*Node), links: make(map[[2]notice.PublicKey]*link)}
}

// Carried returns how many bytes streams and gossip have carried.
func (n *Net) Carried() int64 { return n.carried.Load() }

// Wait returns when nothing is on its way any more. Call it after the engines were closed.
func (n *Net) Wait() { n.wg.Wait() }

// A Node is a place in the network. It implements p2p.Network.
type Node struct {
	// Withholds reports whether the node does not pass on a message; nil: it passes on all. Set it before Start.
	Withholds func(envelope []byte) bool
	// Admits reports whether the node lets a key connect, and whether that is among Connected then; nil: every key is both. Set
	// it before Start, and call Enrol when what it says has changed.
	Admits func(key notice.PublicKey) (connects, counts bool)

	net *Net
	key notice.PublicKey

	engine  *p2p.Engine           // guarded by Net.mu, as the next; nil: it is down
	seen    map[[32]byte]struct{} // messages that it has had
	linked  []notice.PublicKey    // who was up, and not cut off, at turn
	turn    int
	reached map[notice.PublicKey]bool // whom it was connected with when it last enrolled
}

var _ p2p.Network = (*Node)(nil)

// Join makes a place for a key. The node is down until Start.
func (n *Net) Join(key notice.PublicKey) *Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	node := &Node{net: n, key: key}
	n.nodes[key] = node
	at, _ := slices.BinarySearchFunc(n.sorted, key, func(o *Node, k notice.PublicKey) int { return compareKeys(o.key, k) })
	n.sorted = slices.Insert(n.sorted, at, node)
	n.turn++
	return node
}

// Start brings a node up with its engine, which meets everybody it has a link to.
func (o *Node) Start(e *p2p.Engine) {
	n := o.net
	n.mu.Lock()
	o.engine, o.seen, o.reached = e, make(map[[32]byte]struct{}), nil
	n.turn++
	n.mu.Unlock()
	o.Enrol()
}

// farewell is how long the streams with a node that is not admitted any more last.
const farewell = time.Second

// Enrol has the node meet whom it is connected with since it last did, and soon breaks the streams with whom it is not any more.
func (o *Node) Enrol() {
	n := o.net
	n.mu.Lock()
	defer n.mu.Unlock()
	reached := make(map[notice.PublicKey]bool)
	for _, other := range n.sorted {
		switch now := other != o && n.reaches(o.key, other.key); {
		case now && !o.reached[other.key]:
			n.meetLocked(o.key, other.key)
			fallthrough
		case now:
			reached[other.key] = true
		case o.reached[other.key]:
			n.after(farewell, func() {
				n.mu.Lock()
				defer n.mu.Unlock()
				if !n.reaches(o.key, other.key) {
					n.link(o.key, other.key).breakStreams()
				}
			})
		}
	}
	o.reached = reached
}

// Stop takes a node down: its streams break. It does not close the engine.
func (o *Node) Stop() {
	n := o.net
	n.mu.Lock()
	defer n.mu.Unlock()
	o.engine = nil
	n.turn++
	for _, l := range n.links {
		if slices.Contains(l.who[:], o.key) {
			l.breakStreams()
		}
	}
}

// Set changes the link between two nodes.
func (n *Net) Set(a, b notice.PublicKey, to Link) {
	n.mu.Lock()
	l := n.link(a, b)
	was := n.of(l).Cut
	l.Link, l.set = to, true
	n.turn++
	if to.Cut {
		l.breakStreams()
	}
	n.mu.Unlock()
	if was && !to.Cut {
		n.meet(a, b)
	}
}

// Partition cuts every link between nodes of different sides and mends, as usual, every other one. Keys that are on
// no side form one of their own.
func (n *Net) Partition(sides ...[]notice.PublicKey) {
	side := make(map[notice.PublicKey]int)
	for i, keys := range sides {
		for _, k := range keys {
			side[k] = i + 1
		}
	}
	keys := n.keys()
	for i, a := range keys {
		for _, b := range keys[:i] {
			to := n.usual
			to.Cut = side[a] != side[b]
			n.Set(a, b, to)
		}
	}
}

// Heal makes every link like the usual one.
func (n *Net) Heal() { n.Partition() }

func (n *Net) keys() []notice.PublicKey {
	n.mu.Lock()
	defer n.mu.Unlock()
	keys := make([]notice.PublicKey, len(n.sorted))
	for i, o := range n.sorted {
		keys[i] = o.key
	}
	return keys
}

func compareKeys(a, b notice.PublicKey) int { return slices.Compare(a[:], b[:]) }

// link returns what lies between two nodes. The caller holds mu.
func (n *Net) link(a, b notice.PublicKey) *link {
	who := [2]notice.PublicKey{a, b}
	if compareKeys(a, b) > 0 {
		who = [2]notice.PublicKey{b, a}
	}
	l := n.links[who]
	if l == nil {
		l = &link{streams: make(map[*pipe]struct{}), who: who}
		n.links[who] = l
	}
	return l
}

func (n *Net) of(l *link) Link {
	if l.set {
		return l.Link
	}
	return n.usual
}

func (l *link) breakStreams() {
	for p := range l.streams {
		p.reset()
	}
	clear(l.streams)
}

// chance returns what is random about a thing that passes from a node to another, of which no other has the same mark.
func (n *Net) chance(from, to notice.PublicKey, mark ...byte) *rand.Rand {
	sum := fnv.New64a()
	sum.Write(from[:])
	sum.Write(to[:])
	sum.Write(mark)
	return rand.New(rand.NewPCG(n.seed, sum.Sum64()))
}

// meet tells two nodes of each other, once what lies between them has let that through.
func (n *Net) meet(a, b notice.PublicKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.meetLocked(a, b)
}

// meetLocked is meet for who holds mu.
func (n *Net) meetLocked(a, b notice.PublicKey) {
	n.after(n.of(n.link(a, b)).Delay, func() {
		for _, pair := range [][2]notice.PublicKey{{a, b}, {b, a}} {
			n.mu.Lock()
			var engine *p2p.Engine
			if o := n.nodes[pair[0]]; o != nil && n.reaches(pair[0], pair[1]) && o.counts(pair[1]) {
				engine = o.engine
			}
			n.mu.Unlock()
			if engine != nil {
				engine.Meet(pair[1])
			}
		}
	})
}

// after runs f later, as something under way.
func (n *Net) after(d time.Duration, f func()) {
	n.wg.Add(1)
	time.AfterFunc(d, func() {
		defer n.wg.Done()
		f()
	})
}

// reaches reports whether both nodes are up, linked and let each other connect. The caller holds mu.
func (n *Net) reaches(a, b notice.PublicKey) bool {
	from, to := n.nodes[a], n.nodes[b]
	return n.linked(from, to) && from.connects(b) && to.connects(a)
}

func (n *Net) linked(from, to *Node) bool {
	return from != nil && to != nil && from.engine != nil && to.engine != nil && !n.of(n.link(from.key, to.key)).Cut
}

func (o *Node) connects(key notice.PublicKey) bool {
	if o.Admits == nil {
		return true
	}
	connects, _ := o.Admits(key)
	return connects
}

func (o *Node) counts(key notice.PublicKey) bool {
	if o.Admits == nil {
		return true
	}
	_, counts := o.Admits(key)
	return counts
}

// Peers returns every key that is connected, whether it counts or not.
func (o *Node) Peers() (keys []notice.PublicKey) {
	n := o.net
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, other := range n.sorted {
		if other != o && n.reaches(o.key, other.key) {
			keys = append(keys, other.key)
		}
	}
	return keys
}

// Connected returns the nodes that are up and linked to this one, which count.
func (o *Node) Connected() []notice.PublicKey {
	n := o.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if o.turn != n.turn {
		o.turn, o.linked = n.turn, nil
		for _, other := range n.sorted {
			if other != o && n.linked(o, other) {
				o.linked = append(o.linked, other.key)
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(o.linked), func(key notice.PublicKey) bool {
		return !o.counts(key) || !o.connects(key) || !n.nodes[key].connects(o.key)
	})
}
