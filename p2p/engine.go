package p2p

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// A Network carries conversations and gossip between nodes. A node goes by its node key, a courier by the key of a
// member that it holds. Its methods may be called concurrently.
type Network interface {
	// Connected returns the nodes that are connected now.
	Connected() []notice.PublicKey
	// Open begins a conversation with a connected node, whose engine is given the other end to Serve.
	Open(ctx context.Context, node notice.PublicKey) (Stream, error)
	// Broadcast sends an envelope to all who listen, as well as it can.
	Broadcast(ctx context.Context, envelope []byte) error
	// Part begins to end the connections to a node that is shunned from now on.
	Part(node notice.PublicKey)
}

// A Stream is one end of a conversation: bytes in order, both ways.
type Stream interface {
	io.ReadWriteCloser
	CloseWrite() error // says that this side writes no more; Close then frees the stream
	Reset() error      // ends the stream for both sides at once
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

const (
	syncEvery  = time.Minute
	meetGrace  = 2 * time.Second // how long the node with the higher key leaves the first word to the other one
	minBackoff = time.Second
	maxBackoff = time.Minute

	maxParallelMembers = 16 // asked something at once
	maxRounds          = 3  // conversations until both sides have the same

	deliverNext = 250 * time.Millisecond // how long Deliver leaves it to those that it has begun to ask
)

// An Engine spreads notices among nodes, over any Network: it judges gossip and synchronises with every node that
// is connected, at once and then every minute. Its methods may be called concurrently.
type Engine struct {
	self    notice.PublicKey
	charter cid.Cid
	notices Notices
	network Network
	log     *slog.Logger

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool                               // guarded by mu; nothing is added to wg once it is set
	peers  map[notice.PublicKey]*partner      // guarded by mu
	claims map[notice.PublicKey]*claim        // guarded by mu: who fetches much of a feed
	heard  map[notice.PublicKey]*rate.Limiter // guarded by mu: what a key may say by gossip

	stocked atomic.Pointer[stock] // what was looked up last, perhaps out of date

	reconciled chan struct{}
	once       sync.Once // closes reconciled
}

// EngineConfig says whose engine it is. All fields are needed.
type EngineConfig struct {
	Self    notice.PublicKey // the key that others know this node by
	Charter cid.Cid          // version 1
	Notices Notices
	Network Network
	Log     *slog.Logger
}

// NewEngine makes an engine. It does nothing until it is told of others by Meet, Serve or Receive.
func NewEngine(c EngineConfig) *Engine {
	e := &Engine{
		self: c.Self, charter: c.Charter, notices: c.Notices, network: c.Network, log: c.Log,
		peers:      make(map[notice.PublicKey]*partner),
		claims:     make(map[notice.PublicKey]*claim),
		heard:      make(map[notice.PublicKey]*rate.Limiter),
		reconciled: make(chan struct{}),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// Close ends every conversation and waits until the engine no longer uses its Notices.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.cancel()
	e.wg.Wait()
}

// enter begins work, such as answering a stream, and reports whether it may: not once the engine is closed. The
// worker calls e.wg.Done when it ends.
func (e *Engine) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.wg.Add(1)
	}
	return !e.closed
}

// A partner is another node, or a courier, as the engine knows it.
type partner struct {
	key     notice.PublicKey
	conduct conduct
	calling chan struct{} // of size 1: full while this side holds a conversation
	wake    chan struct{} // of size 1: there is a reason to synchronise now
	random  *rand.Rand    // follow's

	following bool          // guarded by Engine.mu: a goroutine runs follow
	serving   int           // guarded by Engine.mu: conversations that the other side began
	synced    time.Time     // guarded by Engine.mu: when this side last had all that the other had
	offset    time.Duration // guarded by Engine.mu: of the other's clock
}

func (e *Engine) partner(key notice.PublicKey) *partner {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.peers[key]
	if p == nil {
		p = &partner{key: key, conduct: newConduct(func() { e.network.Part(key) }), calling: make(chan struct{}, 1), wake: make(chan struct{}, 1), random: e.randomFor(key)}
		e.peers[key] = p
	}
	return p
}

// shuns reports whether a node is not spoken with for now.
func (e *Engine) shuns(node notice.PublicKey) bool {
	e.mu.Lock()
	p := e.peers[node]
	e.mu.Unlock()
	return p != nil && p.conduct.shunned()
}

// nameOf returns the name of the member that a key belongs to, or the key, for logs.
func (e *Engine) nameOf(key notice.PublicKey) string {
	if member, _, ok := e.notices.Seat(key); ok {
		return member
	}
	return key.String()
}

// Meet says that a node is connected, or that there is a reason to synchronise with it now. The engine keeps
// synchronising with it for as long as the network has it connected.
func (e *Engine) Meet(node notice.PublicKey) {
	p := e.partner(node)
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.following {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	} else if !e.closed {
		p.following = true
		e.wg.Add(1)
		go func() {
			defer e.wg.Done()
			e.follow(p)
		}()
	}
}

// follow synchronises with a node, at once and then every minute, until it is no longer connected.
func (e *Engine) follow(p *partner) {
	var first time.Duration
	if slices.Compare(e.self[:], p.key[:]) > 0 {
		first = meetGrace
	}
	met, backoff := time.Now(), minBackoff
	timer := time.NewTimer(first)
	defer timer.Stop()
	for {
		woken := false
		select {
		case <-e.ctx.Done():
			return
		case <-p.wake:
			woken = true
		case <-timer.C:
		}
		if e.leaves(p) {
			return
		}
		e.mu.Lock()
		due := p.synced.Add(syncEvery) // by whichever side, since this node was met
		if p.synced.Before(met) {
			due = time.Time{}
		}
		e.mu.Unlock()
		if wait := time.Until(due); !woken && wait > 0 {
			timer.Reset(wait)
			continue
		}
		wait := syncEvery
		if err := e.syncWith(e.ctx, p, maxRounds); err == nil {
			backoff = minBackoff
		} else {
			e.log.Debug("not synchronised", "member", e.nameOf(p.key), "error", err)
			wait, backoff = backoff, min(2*backoff, maxBackoff)
		}
		timer.Reset(p.spread(wait))
	}
}

// leaves reports whether a node is no longer connected and nobody says otherwise, and so ends its being followed.
func (e *Engine) leaves(p *partner) bool {
	if slices.Contains(e.network.Connected(), p.key) {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-p.wake: // it came back meanwhile
		return false
	default:
		p.following = false
		return true
	}
}

// spread shortens a wait by up to a quarter, so that nodes that lost each other do not act in step.
func (p *partner) spread(wait time.Duration) time.Duration {
	return wait - time.Duration(p.random.Int64N(int64(wait/4)))
}

// randomFor returns what is random about the waits between conversations with a node: another for each.
func (e *Engine) randomFor(node notice.PublicKey) *rand.Rand {
	return rand.New(rand.NewPCG(binary.BigEndian.Uint64(e.self[:]), binary.BigEndian.Uint64(node[:])))
}

// Sync exchanges with every connected node the notices that either side lacks. It succeeds if it could do so with
// one of them; the notices are then durable on both sides. The error wraps ErrAlone if nobody is connected.
func (e *Engine) Sync(ctx context.Context) error {
	nodes := e.network.Connected()
	if len(nodes) == 0 {
		return fmt.Errorf("sync: %w", ErrAlone)
	}
	var g errgroup.Group
	g.SetLimit(maxParallelMembers)
	errs := make([]error, len(nodes))
	for i, key := range nodes {
		g.Go(func() error {
			errs[i] = e.syncWith(ctx, e.partner(key), maxRounds)
			return nil
		})
	}
	g.Wait()
	for _, err := range errs {
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("sync: %w", errors.Join(errs...))
}

// Deliver returns once all notices that this side had when it began are durable on one connected node, whichever. It
// asks them in random order, the next one when one fails or takes long. Unlike Sync it does not look whether something
// came meanwhile. The error wraps ErrAlone if nobody is connected.
func (e *Engine) Deliver(ctx context.Context) error {
	nodes := e.network.Connected()
	if len(nodes) == 0 {
		return fmt.Errorf("deliver: %w", ErrAlone)
	}
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(nodes))
	var errs []error
	next := time.NewTimer(0)
	defer next.Stop()
	for begun := 0; len(errs) < len(nodes); {
		select {
		case <-next.C:
			if begun == len(nodes) {
				continue
			}
			p := e.partner(nodes[begun])
			wg.Go(func() { ended <- e.syncWith(ctx, p, 1) })
			begun++
			next.Reset(deliverNext)
		case err := <-ended:
			if err == nil {
				return nil
			}
			errs = append(errs, err)
			next.Reset(0)
		}
	}
	return fmt.Errorf("deliver: %w", errors.Join(errs...))
}

// syncWith holds conversations with a connected node until both sides have the same, but no more than so many. One does,
// unless something arrives meanwhile or a fork comes to light.
func (e *Engine) syncWith(ctx context.Context, p *partner, rounds int) error {
	select {
	case p.calling <- struct{}{}:
		defer func() { <-p.calling }()
	case <-ctx.Done():
		return &MemberError{e.nameOf(p.key), ctx.Err()}
	}
	for range rounds {
		moved, err := e.call(ctx, p)
		if err != nil {
			return &MemberError{e.nameOf(p.key), err}
		}
		if !moved {
			break
		}
	}
	return nil
}

// call holds one conversation with a connected node and reports whether it moved anything.
func (e *Engine) call(ctx context.Context, p *partner) (moved bool, err error) {
	if p.conduct.shunned() {
		return false, ErrShunned
	}
	open, cancel := context.WithTimeout(ctx, frameTimeout)
	defer cancel()
	s, err := e.network.Open(open, p.key)
	if err != nil {
		return false, err
	}
	return e.converse(ctx, s, p)
}

// Serve holds a conversation that another node, or a courier, has begun, and returns when it is over.
func (e *Engine) Serve(from notice.PublicKey, s Stream) {
	if !e.enter() {
		s.Reset()
		return
	}
	defer e.wg.Done()
	p := e.partner(from)
	if _, _, ok := e.notices.Seat(from); !ok || !p.conduct.mayConverse() || !e.beginServing(p) {
		s.Reset()
		return
	}
	defer e.endServing(p)
	if _, err := e.converse(e.ctx, s, p); err != nil && e.ctx.Err() == nil {
		e.log.Debug("sync ended", "member", e.nameOf(from), "error", err)
	}
}

func (e *Engine) beginServing(p *partner) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.serving >= maxServing {
		return false
	}
	p.serving++
	return true
}

func (e *Engine) endServing(p *partner) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p.serving--
}

// Reconciled returns a channel that is closed once this node has taken in all that one other node said it had, since it
// started. A conversation in which anything was refused does not count, since that may have been a revocation: a node
// that keeps what nobody else takes keeps no one from reconciling but those who reach no other.
func (e *Engine) Reconciled() <-chan struct{} { return e.reconciled }

// A Peer is another node as this one knows it.
type Peer struct {
	Member string
	Node   notice.PublicKey
	Synced time.Time     // when this node last had all that it had; zero: not since the start
	Offset time.Duration // how far its clock is ahead of this one, within half the time that a message takes both ways
}

// Peers returns the nodes that this one has synchronised with since it started, sorted by name.
func (e *Engine) Peers() []Peer {
	e.mu.Lock()
	defer e.mu.Unlock()
	var peers []Peer
	for key, p := range e.peers {
		if member, _, ok := e.notices.Seat(key); ok && !p.synced.IsZero() {
			peers = append(peers, Peer{member, key, p.synced, p.offset})
		}
	}
	slices.SortFunc(peers, func(a, b Peer) int { return compareNamed(a.Member, a.Node, b.Member, b.Node) })
	return peers
}
