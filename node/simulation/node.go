package simulation

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node/steward"
	"chorus/p2p"
	"chorus/p2p/simnet"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// errCrashed is what a node's own goroutines are told from its crash on, until they have ended.
var errCrashed = errors.New("the node has crashed")

type state int

const (
	down state = iota
	up
	stopping
)

// A node is one member's, with all that is on its disk, and all its keys, wherever they are kept.
type node struct {
	world      *world
	number     int
	name       string
	evil, rote bool // rote: it leases its offers whether they are revoked or not
	publishing ed25519.PrivateKey
	node       ed25519.PrivateKey
	recovery   ed25519.PrivateKey
	revoker    ed25519.PrivateKey
	delegate   ed25519.PrivateKey
	spare      ed25519.PrivateKey // takes the place of publishing
	replaced   ed25519.PrivateKey // what publishing was before; nil: it was not replaced
	formerly   ed25519.PrivateKey // what node was before, likewise
	path       string
	place      *simnet.Node
	random     *rand.Rand // the generator's alone

	offset  atomic.Int64                        // of its clock, a time.Duration
	made    int                                 // experts; the driver's
	retired bool                                // its publishing key was revoked; the driver's
	away    time.Time                           // until when it stays down; the driver's
	last    map[notice.PublicKey]*notice.Notice // what people signed last with keys kept apart; the driver's alone
	outside bool                                // it is no member's yet; the driver's
	chosen  map[cid.Cid]bool                    // versions of the charter after which it has signed another; the driver's
	guest   notice.PublicKey                    // whom it has invited

	ledger   *ledger.Ledger
	engine   *p2p.Engine
	cancel   context.CancelFunc
	caughtUp chan struct{}
	wg       sync.WaitGroup
	wait     sync.WaitGroup // for the end after a crash

	mu sync.Mutex // guards the following
	at state
	// armed counts the durable steps down to the one that crashes, before it if odd, after it if even; 0: none.
	armed  int
	blobs  map[cid.Cid]bool // on its disk
	using  []steward.Admitted
	until  time.Time
	hidden map[cid.Cid]bool // what it has and keeps from others
	hides  bool             // every revocation, too

	account // guarded by world.mu
	backup  *backup
}

// An account is what a node is held to.
type account struct {
	held     map[cid.Cid]time.Time // what it has acknowledged, and when
	highest  time.Time             // what its clock has said
	jumped   time.Time             // when its clock was last set
	upSince  time.Time
	restored bool
	serving  bool            // it is up
	alone    bool            // since it is, there was nobody whom it could reach
	wrong    bool            // its clock was wrong at some time
	stolen   bool            // somebody signs with its replaced key
	expelled bool            // some version of the charter is without its member
	charter  *notice.Charter // that holds, by what it has acknowledged
	enrolled time.Time       // since when
	seen
}

type backup struct {
	file    []byte
	held    map[cid.Cid]time.Time
	highest time.Time
}

func privateOf(seed uint64, name string) ed25519.PrivateKey {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", seed, name))
	return ed25519.NewKeyFromSeed(sum[:])
}

func blobOf(name string) cid.Cid {
	sum, err := multihash.Sum([]byte(name), multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(cid.Raw, sum)
}

// found makes a world and starts nothing.
func found(seed uint64, scale Scale, dir string) *world {
	w := &world{
		seed: seed, scale: scale, dir: dir, random: rand.New(rand.NewPCG(seed, 2)), began: time.Now(),
		links: make(map[[2]int]*link), at: make(map[place][]*notice.Notice), signed: make(map[cid.Cid]*notice.Notice),
		owners: make(map[notice.PublicKey]owner), knew: make(map[cid.Cid][]*notice.Notice), lent: make(map[notice.PublicKey][]*notice.Notice), counts: make(map[string]int),
		signers: make(map[cid.Cid]map[notice.PublicKey]bool), proper: make(map[cid.Cid]bool), tallied: make(map[cid.Cid]bool),
		net: simnet.New(seed, simnet.Link{Cut: true}),
	}
	w.charter = &notice.Charter{
		Name: "simulation", Version: 1, Anchor: blobOf("anchor"), Quorum: 2,
		LeaseSeconds: int64(lease / time.Second), LeaseCeilingSeconds: int64(ceiling / time.Second), MaxBlobBytes: 1 << 20, OffersPerDay: 1000,
	}
	evil := w.random.IntN(1 + scale.Nodes/3)
	for i := range scale.Nodes {
		n := newNode(w, i, fmt.Sprintf("m%03d", i))
		n.evil = i >= scale.Nodes-evil
		n.rote = n.evil || w.random.IntN(2) == 0
		n.offset.Store(int64(w.rightClock()))
		w.settleIn(n)
		w.charter.Members = append(w.charter.Members, n.card())
		if i < 3 {
			w.charter.Stewards = append(w.charter.Stewards, n.name)
		}
	}
	changes := membersChange(seed, scale)
	if w.actions = actions; changes {
		w.actions = slices.Concat(actions, changing)
		w.invite()
	}
	var err error
	if w.root, err = notice.Sign(w.charter, w.nodes[0].publishing, w.nodes[1].publishing); err != nil {
		panic(err)
	}
	w.stewards = []*notice.Notice{w.learn(w.root)}
	for _, p := range w.pairs() {
		w.links[p] = &link{since: w.began}
		w.connect(p[0], p[1], simnet.Link{Delay: time.Duration(w.random.Int64N(int64(100 * time.Millisecond)))})
	}
	for _, n := range w.nodes {
		n.charter = w.charter
	}
	if changes {
		w.invade()
	}
	return w
}

// newNode makes a node with its keys, which are its alone.
func newNode(w *world, number int, name string) *node {
	n := &node{
		world: w, number: number, name: name, path: filepath.Join(w.dir, name), random: rand.New(rand.NewPCG(w.seed, uint64(1000+number))),
		publishing: privateOf(w.seed, name+" publishing"), node: privateOf(w.seed, name+" node"),
		recovery: privateOf(w.seed, name+" recovery"), revoker: privateOf(w.seed, name+" revoker"),
		delegate: privateOf(w.seed, name+" delegate"), spare: privateOf(w.seed, name+" spare"),
		last: make(map[notice.PublicKey]*notice.Notice), chosen: make(map[cid.Cid]bool),
		blobs: make(map[cid.Cid]bool), hidden: make(map[cid.Cid]bool),
		account: account{held: make(map[cid.Cid]time.Time), seen: newSeen()},
	}
	for key, role := range map[notice.PublicKey]string{
		n.publishingKey(): "publishing", notice.PublicKeyOf(n.spare): "publishing", n.nodeKey(): "node", notice.PublicKeyOf(n.delegate): "delegate",
		notice.PublicKeyOf(n.recovery): "recovery", notice.PublicKeyOf(n.revoker): "revoker",
	} {
		w.owners[key] = owner{n, role}
	}
	return n
}

// settleIn gives a node its place.
func (w *world) settleIn(n *node) {
	w.nodes = append(w.nodes, n)
	n.place = w.net.Join(n.nodeKey())
	if n.evil {
		n.place.Withholds = n.withholds
	}
}

// rightClock returns an offset that a right clock may have.
func (w *world) rightClock() time.Duration {
	return time.Duration(w.random.Int64N(int64(2*delta))) - delta
}

func (n *node) publishingKey() notice.PublicKey { return notice.PublicKeyOf(n.publishing) }
func (n *node) nodeKey() notice.PublicKey       { return notice.PublicKeyOf(n.node) }

// clock is what the node's clock says.
func (n *node) clock() time.Time { return time.Now().Add(n.off()).UTC() }

// off is by how much the node's clock is ahead.
func (n *node) off() time.Duration { return time.Duration(n.offset.Load()) }

// right reports whether the node's clock is.
func (n *node) right() bool { return n.off().Abs() <= delta }

func (n *node) state() state {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.at
}

// start brings the node up with what is on its disk.
func (n *node) start() {
	w := n.world
	l, err := ledger.Open(n.path, w.root)
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.breach(n, "I6: its ledger does not open: %v", err)
		return
	}
	n.mu.Lock()
	n.ledger = l
	n.at, n.armed, n.using = up, 0, nil
	n.mu.Unlock()
	n.resume()
	s := store{l, n}
	n.engine = p2p.NewEngine(p2p.EngineConfig{
		Self: n.nodeKey(), Charter: w.root.CID, Notices: s, Network: n.place, Log: slog.New(slog.DiscardHandler),
	})
	n.caughtUp = make(chan struct{})
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(context.Background())
	caughtUp := n.caughtUp
	n.wg.Go(func() {
		if steward.CatchUp(ctx, others{n.engine, n.place}, slog.New(slog.DiscardHandler)) {
			close(caughtUp)
		}
	})
	loop := &steward.Steward{
		Member: n.name, Ledger: shifted{s}, Hands: hands{n}, Log: slog.New(slog.DiscardHandler),
		Reconciled: n.engine.Reconciled(), CaughtUp: caughtUp, Unheard: others{n.engine, n.place}.Unheard,
	}
	n.wg.Go(func() { loop.Run(ctx) })
	n.wg.Go(func() { n.generate(ctx) })
	if w.stranger != nil {
		n.place.Admits = n.admits
	}
	n.place.Start(n.engine)
}

// near notes that two nodes can reach each other if both are up. The caller holds world.mu.
func (n *node) near(other *node) {
	if n.serving && other.serving {
		n.alone, other.alone = false, false
	}
}

// resume holds what the ledger has after a start against what the node had acknowledged before.
func (n *node) resume() {
	w := n.world
	w.mu.Lock()
	defer w.mu.Unlock()
	n.upSince, n.serving, n.alone = time.Now(), true, true
	for _, other := range w.nodes {
		if other != n && !w.between(n, other).Cut {
			n.near(other)
		}
	}
	w.note(n, "starts, its clock off by %v", n.off().Round(time.Second))
	has := make(map[cid.Cid]bool)
	for notice, err := range n.ledger.Notices() {
		if err != nil {
			w.breach(n, "I6: its ledger is unreadable: %v", err)
			return
		}
		has[notice.CID] = true
		if _, ok := n.held[notice.CID]; !ok && n.tracked(notice) {
			n.hold(notice)
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(n.held), notice.CompareCID) {
		if !has[id] {
			w.breach(n, "I6: it has lost %s, which it had acknowledged", w.title(w.signed[id]))
			delete(n.held, id)
		}
	}
}

// tracked reports whether the node keeps a notice for ever: all but proposals. The caller holds world.mu.
func (n *node) tracked(of *notice.Notice) bool {
	return of.Kind != notice.KindCharter || slices.ContainsFunc(n.ledger.Charters(), func(c *notice.Notice) bool { return c.CID == of.CID })
}

// hold notes that the node has acknowledged a notice. The caller holds world.mu.
func (n *node) hold(of *notice.Notice) {
	n.held[of.CID] = time.Now()
	n.seen.add(of, time.Now())
	h := of.Header()
	switch {
	case n.world.signed[of.CID] == nil:
		n.world.signed[of.CID] = of
		n.world.breach(n, "I8: stores %s, which nobody has signed", n.world.title(of))
	case h != nil && n.world.owners[h.Key].node == n.world.stranger:
		n.world.breach(n, "I9: stores %s", n.world.title(of))
	case of.Kind == notice.KindRotation:
		n.enrolled = time.Now()
	case h == nil:
		if !n.world.enacted(of) {
			n.world.breach(n, "I8: takes %s for a version of the charter, and too few stewards have signed it", n.world.title(of))
		}
		n.world.tally(of)
		n.enrol()
	}
}

// accept notes what the node has acknowledged.
func (n *node) accept(fresh []*notice.Notice) {
	if n.acknowledge(fresh) && n.world.stranger != nil {
		n.place.Enrol()
	}
}

// acknowledge is accept, and reports whether somebody may be connected now who was not before.
func (n *node) acknowledge(fresh []*notice.Notice) (enrols bool) {
	w := n.world
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range fresh {
		if _, ok := n.held[f.CID]; ok || !n.tracked(f) {
			continue
		}
		n.hold(f)
		enrols = enrols || f.Kind == notice.KindCharter || f.Kind == notice.KindRotation
		w.note(n, "has %s", w.title(f))
		w.counts["accepted"]++
	}
	return enrols
}

// crash ends the node at this moment: nothing that it has not acknowledged by now is, and nothing is written any more.
// It returns at once.
func (n *node) crash(why string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.crashLocked(why)
}

func (n *node) crashLocked(why string) {
	if n.at != up {
		return
	}
	n.at = stopping
	n.world.down(n, why)
	n.wait.Add(1)
	go func() {
		defer n.wait.Done()
		n.end()
	}()
}

// down notes that a node has crashed.
func (w *world) down(n *node, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n.serving = false
	w.note(n, "crashes %s", why)
	w.counts["crash "+why]++
}

// step is called around each durable step and reports whether the node lives on.
func (n *node) step(after bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.at != up {
		return false
	}
	if n.armed > 0 {
		if n.armed--; n.armed == 0 {
			why := "before a transaction"
			if after {
				why = "between a transaction and its acknowledgement"
			}
			n.crashLocked(why)
			return false
		}
	}
	return true
}

func (n *node) disarm() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.armed = 0
}

// end takes down what start brought up.
func (n *node) end() {
	n.cancel()
	n.place.Stop()
	n.engine.Close()
	n.wg.Wait()
	if err := n.ledger.Close(); err != nil {
		n.world.say(n, "closing: %v", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.at = down
}

// stop ends the node and returns when it is down.
func (n *node) stop() {
	n.mu.Lock()
	if n.at == up {
		n.at = stopping
		n.mu.Unlock()
		n.end()
		return
	}
	n.mu.Unlock()
	n.wait.Wait()
}

// restart has a node crash, if it is up, and start again, with its backup's disk if it has one and restored says so.
func (n *node) restart(restored bool) {
	n.crash("and starts again")
	n.stop()
	if restored && n.backup != nil {
		n.restore()
	}
	n.start()
}

// save keeps a copy of the node's disk. Nothing may be running.
func (n *node) save() {
	file, err := os.ReadFile(n.path)
	if err != nil {
		panic(err)
	}
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	n.backup = &backup{file, maps.Clone(n.held), n.highest}
	n.world.note(n, "is backed up with %d notices", len(n.held))
}

// restore puts the copy back. The node must be down.
func (n *node) restore() {
	if err := os.WriteFile(n.path, n.backup.file, 0o600); err != nil {
		panic(err)
	}
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	n.world.note(n, "is restored from a backup with %d of its %d notices", len(n.backup.held), len(n.held))
	n.world.counts["restore"]++
	n.held, n.highest, n.restored = maps.Clone(n.backup.held), n.backup.highest, true
	n.enrol()
	n.seen = newSeen()
	for id, at := range n.held {
		n.seen.add(n.world.signed[id], at)
	}
}

// others are the members as a node knows them.
type others struct {
	*p2p.Engine
	place *simnet.Node
}

func (o others) Unheard() bool {
	heard := make(map[notice.PublicKey]bool)
	for _, p := range o.Peers() {
		heard[p.Node] = true
	}
	return slices.ContainsFunc(o.place.Connected(), func(k notice.PublicKey) bool { return !heard[k] })
}
