// Package simulation runs whole consortia in virtual time, to find out whether consent can be missed. The ledger and
// its files, the engine that spreads notices and the steward that decides what is used are the ones that a node runs;
// the network, the experts and the people are made up, and so is everything that goes wrong.
//
// [Run] is a world that follows from a seed: nodes crash at every durable step, are restored from old backups and have
// clocks that are wrong; the network parts, heals, loses and delays; some members withhold, replay, reorder,
// equivocate and flood. In two worlds of five the stewards propose and sign versions of the charter, each by what its own
// node knows: members are admitted, removed and made stewards, and their nodes get other keys; and somebody who is on no
// charter dials, gossips, offers, revokes and forges. It must be called inside a bubble of testing/synctest, on one
// processor. What goes wrong and when follows from the seed; which of the goroutines that could run at one moment runs
// first is the machine's choice, and in some worlds changes from which of its peers a node has a notice, by milliseconds.
//
// # The invariants
//
// They are looked at between any two actions and at each token.
//
//   - I1 no honest node generates with an expert after it accepted its revocation, by whichever key of its owner's or
//     whoever that lent the power to, or a charter without its owner; nor serves the blob of what is revoked, or keeps
//     it for longer than two of its steward's looks.
//   - I2 nor after its lease ended + δ, in true time if the node's clock is right, else after its clock has said so
//     once. A lease is what the charter allows: begun and no longer than the ceiling. And from when the owner's node
//     accepted a revocation, every node whose clock is right stops within the ceiling + 2δ, whatever is withheld from it;
//     at once where it has a lease that was signed by an honest node that had the revocation in a feed.
//   - I3 two honest nodes that can reach each other for T hold the notices that either had before.
//   - I4 nothing revoked is ever active again, on any restart or restore. A node that was restored to a time before
//     the revocation is held to it from when it takes it in again, and generates nothing until it could reach somebody.
//     An offer stays its owner's, whatever keys are replaced.
//   - I5 an equivocation seen by an honest node is known to all that it can reach within T, and nothing of that member's
//     is used from then on.
//   - I6 nothing that a node acknowledged is lost by a crash.
//   - I7 an honest node equivocates only if it was restored from a backup and could reach nobody who knew its feed further,
//     and never has what it contradicts.
//   - I8 nothing is revoked but by those who may: a key of its owner's, one that its owner lent the power to, or a quorum
//     of the stewards of a version of the charter that has its owner. And nothing is a version of the charter that a quorum
//     of the stewards of the one before has not signed, and a quorum of its own.
//   - I9 an honest node is connected with nobody whose member is not on the charter that it has, takes nothing from them by
//     gossip and tells them nothing; it stores nothing that a key has signed which was never on it.
//   - I10 an honest node generates with nothing that the charter does not allow: more offers a day, a larger blob, another
//     anchor.
//
// T is two and a half minutes. Two nodes begin a conversation at most a minute after the last, which bounds the wait
// for something that one of them has; if that one failed or left something out, because it broke or the key of a
// notice was named by a notice of the same conversation, the next comes at most a minute later; half a minute is for
// what the conversations themselves take, on links that take up to 300 ms each way.
package simulation

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"chorus/ledger/notice"
	"chorus/p2p/simnet"

	"github.com/ipfs/go-cid"
)

const (
	delta   = 2 * time.Minute  // how far a right clock may be off
	lease   = 10 * time.Minute // that nodes sign
	ceiling = 15 * time.Minute // on leases
	agree   = 2*time.Minute + 30*time.Second
	look    = time.Minute // how long a steward goes without looking at its clock
)

// A Scale says how large a world is and how long it lasts.
type Scale struct {
	Nodes int
	Span  time.Duration // of what goes wrong; then everything is mended, and it must come to rest
	Pause time.Duration // between two things that happen, at most
}

// ScaleOf returns the scale of the world of a seed. The first 200 are small, and quick, but for four; of the others one in
// ten has up to 13 nodes, one in fifty up to 39, and four in ten thousand 200.
func ScaleOf(seed uint64) Scale {
	random := rand.New(rand.NewPCG(seed, 1))
	switch {
	case seed%2500 == 999:
		return Scale{200, 5 * time.Minute, 10 * time.Second}
	case seed%50 == 49:
		return Scale{20 + random.IntN(20), 6 * time.Minute, 20 * time.Second}
	case seed%10 == 9 && seed > 200:
		return Scale{9 + random.IntN(5), 20 * time.Minute, 20 * time.Second}
	case seed > 200:
		return Scale{5 + random.IntN(3), 35 * time.Minute, 30 * time.Second}
	}
	return Scale{5, 14 * time.Minute, 12 * time.Second}
}

// A Report is what came of a world.
type Report struct {
	Seed     uint64
	Breaches []string
	Trace    []string       // what happened, in order, for people
	Digest   [32]byte       // of the trace but for the order within one moment
	Counts   map[string]int // how often things happened, so that a world in which nothing does is noticed
}

// A world is a consortium and what its makers know of it.
type world struct {
	seed    uint64
	scale   Scale
	dir     string
	random  *rand.Rand // the driver's alone
	net     *simnet.Net
	began   time.Time
	charter *notice.Charter // version 1
	root    *notice.Notice
	nodes   []*node
	links   map[[2]int]*link // by the lower and the higher number; the driver's alone

	stewards []*notice.Notice // versions of the charter, the last that was agreed on last
	late     []*notice.Notice // signed by people, and not delivered yet
	flooded  int
	victim   *node // of an eclipse, until a heal
	actions  []action
	stranger *node // nil: the members of this world do not change, and nobody else is about
	liar     *liar

	mu       sync.Mutex // guards what follows, and the accounts of the nodes
	signed   map[cid.Cid]*notice.Notice
	order    []*notice.Notice // the same, as they were signed
	at       map[place][]*notice.Notice
	offers   []*notice.Notice                      // among them, as the next
	revoking []*notice.Notice                      // revocations and rotations
	charters []*notice.Notice                      // proposals too
	signers  map[cid.Cid]map[notice.PublicKey]bool // of those
	proper   map[cid.Cid]bool                      // those that an honest steward may sign
	tallied  map[cid.Cid]bool                      // versions that some node has accepted
	lent     map[notice.PublicKey][]*notice.Notice // delegations, by the delegate
	owners   map[notice.PublicKey]owner
	knew     map[cid.Cid][]*notice.Notice // by lease: revocations in feeds that its signer, who is honest, had
	entries  []entry
	breaches []string
	counts   map[string]int
}

// place is where a notice stands.
type place struct {
	key notice.PublicKey
	seq uint64
}

// owner says whose key it is.
type owner struct {
	node *node
	role string
}

// link is what lies between two nodes.
type link struct {
	simnet.Link
	since time.Time // when it was last cut or mended, or made reliable
}

type entry struct {
	at   time.Time
	node int // -1: the world
	text string
}

// Run runs the world of a seed, with its files in the empty folder dir.
func Run(seed uint64, dir string) *Report { return RunAt(seed, ScaleOf(seed), dir) }

// RunAt is Run at another scale than the seed's own.
func RunAt(seed uint64, scale Scale, dir string) *Report {
	w := found(seed, scale, dir)
	for _, n := range w.nodes {
		if !n.outside {
			n.start()
		}
	}
	w.live()
	w.settle()
	if w.stranger != nil {
		w.leave()
	}
	for _, n := range w.nodes {
		n.stop()
	}
	w.net.Wait()
	return w.report()
}

// live lets things happen, and looks after each.
func (w *world) live() {
	for end := w.began.Add(w.scale.Span); time.Now().Before(end); {
		time.Sleep(time.Millisecond + time.Duration(w.random.Int64N(int64(w.scale.Pause))))
		synctest.Wait()
		w.act()
		synctest.Wait()
		w.check()
	}
}

// settle mends everything and sees to it that all honest nodes come to the same.
func (w *world) settle() {
	w.say(nil, "everything is mended")
	for _, l := range w.pairs() {
		w.connect(l[0], l[1], simnet.Link{Delay: 10 * time.Millisecond})
	}
	for _, n := range w.nodes {
		n.disarm()
		if n.state() == down && !n.outside {
			n.offset.Store(0)
			n.start()
		}
	}
	w.deliver()
	time.Sleep(agree + time.Second)
	synctest.Wait()
	w.check()
	time.Sleep(lease)
	synctest.Wait()
	w.check()
}

// say writes into the trace.
func (w *world) say(n *node, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note(n, format, args...)
}

// note is say for who holds mu.
func (w *world) note(n *node, format string, args ...any) {
	at := -1
	if n != nil {
		at = n.number
	}
	w.entries = append(w.entries, entry{time.Now(), at, fmt.Sprintf(format, args...)})
}

// breach notes that an invariant does not hold. The caller holds mu.
func (w *world) breach(n *node, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.note(n, "BREACH %s", text)
	if n != nil {
		text = n.name + ": " + text
	}
	w.breaches = append(w.breaches, fmt.Sprintf("%v %s", time.Since(w.began).Round(time.Millisecond), text))
}

// title names a notice for people.
func (w *world) title(n *notice.Notice) string {
	short := n.CID.String()
	short = short[len(short)-4:]
	h := n.Header()
	if h == nil {
		return fmt.Sprintf("charter %d (%s)", n.Body.(*notice.Charter).Version, short)
	}
	who := "nobody"
	if o, ok := w.owners[h.Key]; ok {
		who = o.node.name + "'s " + o.role
	}
	what := string(n.Kind)
	if r, ok := n.Body.(*notice.Revocation); ok {
		switch {
		case r.Offer.Defined():
			if o := w.signed[r.Offer]; o != nil {
				what += " of " + w.title(o)
			}
		case r.All:
			what += " of all"
		default:
			what += " of a key"
		}
	}
	return fmt.Sprintf("%s/%d %s (%s)", who, h.Seq, what, short)
}

// learn notes what somebody has signed. Every notice that is in the world goes through it.
func (w *world) learn(n *notice.Notice) *notice.Notice {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n.Kind == notice.KindCharter {
		if w.signers[n.CID] == nil {
			w.signers[n.CID] = make(map[notice.PublicKey]bool)
		}
		for _, key := range n.Signers() {
			w.signers[n.CID][key] = true
		}
	}
	if w.signed[n.CID] == nil {
		w.signed[n.CID] = n
		w.order = append(w.order, n)
		w.counts["signed "+string(n.Kind)]++
		if h := n.Header(); h != nil && h.Seq > 0 {
			w.at[place{h.Key, h.Seq}] = append(w.at[place{h.Key, h.Seq}], n)
		}
		if n.Kind == notice.KindOffer && w.owners[n.Header().Key].node != w.stranger {
			w.offers = append(w.offers, n)
		}
		switch b := n.Body.(type) {
		case *notice.Charter:
			w.charters = append(w.charters, n)
		case *notice.Delegation:
			w.lent[b.Delegate] = append(w.lent[b.Delegate], n)
		}
		if n.Kind == notice.KindRevocation || n.Kind == notice.KindRotation {
			w.revoking = append(w.revoking, n)
		}
	}
	return n
}

func (w *world) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what]++
}

func (w *world) report() *Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := &Report{Seed: w.seed, Breaches: w.breaches, Counts: w.counts}
	lines := make([]string, 0, len(w.entries))
	for _, e := range w.entries {
		who := "world"
		if e.node >= 0 {
			who = w.nodes[e.node].name
		}
		lines = append(lines, fmt.Sprintf("%12v %s: %s", e.at.Sub(w.began).Round(time.Microsecond), who, e.text))
	}
	r.Trace = lines
	r.Digest = digestOf(lines)
	return r
}

// String lists the breaches.
func (r *Report) String() string {
	return fmt.Sprintf("seed %d: %d breaches\n\t%s", r.Seed, len(r.Breaches), strings.Join(r.Breaches[:min(len(r.Breaches), 10)], "\n\t"))
}

// pairs returns the numbers of every two nodes.
func (w *world) pairs() (all [][2]int) {
	for i := range w.nodes {
		for j := i + 1; j < len(w.nodes); j++ {
			all = append(all, [2]int{i, j})
		}
	}
	return all
}

// connect changes what lies between two nodes.
func (w *world) connect(i, j int, to simnet.Link) {
	w.mu.Lock()
	l := w.links[[2]int{i, j}]
	if l.Cut != to.Cut || l.Break > 0 || to.Break > 0 {
		l.since = time.Now()
	}
	// No two links take the same time, so that the order in which things arrive does not hang on that of goroutines.
	to.Delay += time.Duration(1+i*len(w.nodes)+j) * 1009 * time.Nanosecond
	l.Link = to
	if !to.Cut {
		w.nodes[i].near(w.nodes[j])
	}
	w.mu.Unlock()
	w.net.Set(w.nodes[i].nodeKey(), w.nodes[j].nodeKey(), to)
}

// honest returns the honest nodes that are up.
func (w *world) honest() []*node {
	return slices.DeleteFunc(slices.Clone(w.nodes), func(n *node) bool { return n.evil || n.state() != up })
}

// pick returns one of some, or the zero value if there are none.
func pick[T any](random *rand.Rand, some []T) (one T) {
	if len(some) > 0 {
		one = some[random.IntN(len(some))]
	}
	return one
}
