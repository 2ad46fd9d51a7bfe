package p2p

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	connrate "github.com/libp2p/go-libp2p/x/rate"
	"golang.org/x/time/rate"
)

// Config says who a host is and whom it serves. All fields but Listen, Peers, Addresses and Guests are needed.
type Config struct {
	Key       ed25519.PrivateKey // node key of a member
	Listen    []string           // multiaddrs, TCP or QUIC: /ip4/0.0.0.0/tcp/4001, /ip4/0.0.0.0/udp/4001/quic-v1; none: dial only
	Peers     []string           // multiaddrs of members, ending in /p2p/…; one that is online is enough
	Addresses string             // a file in which to keep the addresses of members that it hears of; empty: none
	Charter   cid.Cid            // version 1
	Notices   Notices
	Guests    Guests // who else may connect; nil: nobody
	Blobs     *BlobStore
	Log       *slog.Logger
}

// syncProtocol carries the conversations of engines: frame.go.
const syncProtocol protocol.ID = "/chorus/sync/2"

// A Host is a node's place among the members. Its methods may be called concurrently.
type Host struct {
	log     *slog.Logger
	charter cid.Cid
	notices Notices
	blobs   *BlobStore
	self    notice.PublicKey
	gate    gate
	host    host.Host
	topic   *pubsub.Topic
	engine  *Engine
	members roster // every member but this one
	traffic traffic

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool           // guarded by mu
	wg     sync.WaitGroup // work that Close waits for; nothing is added once closed is set

	book  book
	heard chan struct{} // of size 1: the book has learned something

	revivals *rate.Limiter // see revive
}

// New starts a host. It listens, connects to the members that it knows of or hears of, and keeps doing so until
// Close is called or ctx ends. The error wraps ErrNotMember if the node key is not that of a member's node.
func New(ctx context.Context, c Config) (*Host, error) {
	h, err := prepare(ctx, c)
	if err != nil {
		return nil, err
	}
	h.host, err = newLibp2p(c.Key, c.Listen, h.gate, len(h.notices.Nodes()), h.mayOpen, libp2p.BandwidthReporter(&h.traffic))
	if err == nil {
		err = h.start(c)
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// prepare makes a host that has yet to be given its libp2p host and started.
func prepare(ctx context.Context, c Config) (*Host, error) {
	if len(c.Key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("node key has %d bytes, not %d", len(c.Key), ed25519.PrivateKeySize)
	}
	h := &Host{
		log: c.Log, charter: c.Charter, notices: c.Notices, blobs: c.Blobs,
		self: notice.PublicKeyOf(c.Key), heard: make(chan struct{}, 1), revivals: rate.NewLimiter(reviveRate, reviveBurst),
	}
	h.gate = gate{c.Notices, c.Guests, &farewells{notices: c.Notices, told: make(map[peer.ID]time.Time)}, func(k notice.PublicKey) bool { return h.engine.shuns(k) }}
	if _, node, ok := c.Notices.Seat(h.self); !ok || !node {
		return nil, fmt.Errorf("node key %s: %w", h.self, ErrNotMember)
	}
	for _, addr := range c.Peers {
		info, err := peer.AddrInfoFromString(addr)
		if err != nil {
			return nil, fmt.Errorf("peer address %q: %w", addr, err)
		}
		// Of one that is no member's node, or not any more, the gate sees to it that it is not dialled. It may become one.
		h.book.configured(info.ID, info.Addrs)
	}
	h.ctx, h.cancel = context.WithCancel(ctx)
	h.engine = NewEngine(EngineConfig{Self: h.self, Charter: c.Charter, Notices: c.Notices, Network: wire{h}, Log: c.Log})
	return h, nil
}

func (h *Host) start(c Config) error {
	if err := h.joinTopic(); err != nil {
		return err
	}
	nodes := nodesOnly{h.host, h.gate}
	nodes.SetStreamHandler(blobProtocol, h.serveBlobs)
	nodes.SetStreamHandler(addressProtocol, h.serveAddresses)
	nodes.SetStreamHandler(farewellProtocol, h.hearFarewell)
	h.host.SetStreamHandler(joinProtocol, h.receive)
	h.host.SetStreamHandler(syncProtocol, func(s network.Stream) {
		if key, ok := keyOf(s.Conn().RemotePeer()); ok {
			h.engine.Serve(key, s)
		} else {
			s.Reset()
		}
	})
	h.host.Network().Notify(&network.NotifyBundle{
		ConnectedF: func(_ network.Network, conn network.Conn) {
			if m := h.memberOf(conn.RemotePeer()); m != nil {
				h.reached(m)
			} else if !h.gate.passes(conn.RemotePeer()) && h.enter() {
				go func() {
					defer h.wg.Done()
					h.bid(conn)
				}()
			}
		},
		DisconnectedF: func(_ network.Network, conn network.Conn) {
			if m := h.memberOf(conn.RemotePeer()); m != nil {
				at := time.Now()
				m.parted.Store(&at)
				m.lost.Store(true)
				m.signal()
			}
		},
	})
	changes, err := h.host.EventBus().Subscribe(new(event.EvtLocalAddressesUpdated))
	if err != nil {
		return err
	}
	h.wg.Go(func() { h.followAddresses(changes) })
	if c.Addresses != "" {
		h.recall(c.Addresses)
		h.wg.Go(func() { h.remember(c.Addresses) })
	}
	changed := h.notices.Changed()
	if err := h.enrol(); err != nil {
		return err
	}
	h.wg.Go(func() {
		for {
			select {
			case <-changed:
			case <-h.ctx.Done():
				return
			}
			changed = h.notices.Changed()
			if err := h.enrol(); err != nil {
				h.log.Error("members not brought up to date", "error", err)
			}
		}
	})
	return nil
}

// enrol takes in who the members are now: it begins to keep a connection to those who are new, and soon closes those
// that no longer pass the gate.
func (h *Host) enrol() error {
	joined, err := h.members.set(h.notices.Nodes(), h.self)
	if err != nil {
		return err
	}
	for _, m := range joined {
		if !h.enter() {
			return nil
		}
		go func() {
			defer h.wg.Done()
			h.keep(m)
		}()
	}
	for _, id := range h.host.Network().Peers() {
		if h.memberOf(id) == nil && !h.gate.passes(id) && h.enter() {
			go func() {
				defer h.wg.Done()
				h.partFrom(id)
			}()
		}
	}
	return nil
}

// farewell is how long a connection outlives its member's seat. Nothing new can be asked over it meanwhile, but the
// notice that ended the seat still reaches the one whom it concerns.
const farewell = time.Second

// partFrom closes the connections of a peer that no longer passes the gate.
func (h *Host) partFrom(id peer.ID) {
	select {
	case <-time.After(farewell):
	case <-h.ctx.Done():
	}
	if !h.gate.passes(id) {
		h.log.Info("connection closed", "peer", id)
		h.host.Network().ClosePeer(id)
	}
}

// newLibp2p starts the libp2p host of a key. mayOpen says whether a peer may open a stream; nil: nobody is in the way.
func newLibp2p(key ed25519.PrivateKey, listen []string, gate connmgr.ConnectionGater, members int, mayOpen func(peer.ID) bool, more ...libp2p.Option) (host.Host, error) {
	k, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		return nil, err
	}
	limits, err := newLimits(members)
	if err != nil {
		return nil, err
	}
	h, err := libp2p.New(append(more,
		libp2p.Identity(k),
		libp2p.ListenAddrStrings(listen...),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(libp2pquic.NewTransport),
		libp2p.ConnectionGater(gate),
		libp2p.ConnectionManager(connmgr.NullConnMgr{}), // the charter bounds the connections
		libp2p.ResourceManager(paced{limits, mayOpen}),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
		libp2p.Ping(false),
		libp2p.UserAgent("chorus"),
	)...)
	if err != nil {
		return nil, errors.Join(err, limits.Close())
	}
	return h, nil
}

// paced bounds how fast streams are opened, which costs something even where each is refused at once.
type paced struct {
	network.ResourceManager
	mayOpen func(peer.ID) bool
}

func (p paced) OpenStream(id peer.ID, dir network.Direction) (network.StreamManagementScope, error) {
	if dir == network.DirInbound && p.mayOpen != nil && !p.mayOpen(id) {
		return nil, network.ErrResourceLimitExceeded
	}
	return p.ResourceManager.OpenStream(id, dir)
}

func (h *Host) mayOpen(id peer.ID) bool {
	key, ok := keyOf(id)
	return ok && (!h.gate.member(id) || h.engine.partner(key).conduct.mayOpen())
}

// wire is the host's connections as the engine uses them.
type wire struct{ *Host }

func (w wire) Connected() []notice.PublicKey {
	var nodes []notice.PublicKey
	for _, m := range w.connected() {
		nodes = append(nodes, m.node)
	}
	return nodes
}

func (w wire) Open(ctx context.Context, node notice.PublicKey) (Stream, error) {
	id, err := peerIDOf(node)
	if err != nil {
		return nil, err
	}
	return w.host.NewStream(network.WithNoDial(ctx, "only connected members are asked"), id, syncProtocol)
}

func (w wire) Broadcast(ctx context.Context, envelope []byte) error {
	return w.topic.Publish(ctx, envelope)
}

func (w wire) Part(node notice.PublicKey) {
	id, err := peerIDOf(node)
	if err != nil || !w.enter() {
		return
	}
	go func() {
		defer w.wg.Done()
		w.log.Warn("connection closed: it asked for too much, or sent what no member sends", "peer", w.engine.nameOf(node), "for", shunFor)
		w.host.Network().ClosePeer(id)
	}()
}

// Publish stores a notice and spreads it to all members that are reachable now. Those who are not get it by
// synchronisation. Publishing what has spread already does nothing.
func (h *Host) Publish(ctx context.Context, n *notice.Notice) error { return h.engine.Publish(ctx, n) }

// Sync exchanges with every connected member the notices that either side lacks. It succeeds if it could do so
// with one of them; the notices are then durable on both sides. The error wraps ErrAlone if nobody is connected.
func (h *Host) Sync(ctx context.Context) error { return h.engine.Sync(ctx) }

// Deliver returns once all notices that this host had when it began are durable on one connected member's, whichever. The
// error wraps ErrAlone if nobody is connected.
func (h *Host) Deliver(ctx context.Context) error { return h.engine.Deliver(ctx) }

// Reconciled returns a channel that is closed once the host has taken in all that one other member had, since it
// started.
func (h *Host) Reconciled() <-chan struct{} { return h.engine.Reconciled() }

// Peers returns the members' nodes that this one has synchronised with since it started, sorted by name.
func (h *Host) Peers() []Peer { return h.engine.Peers() }

// connsPerSecond bounds the handshakes with one address, of which many members may be behind: each takes a millisecond of a processor.
var connsPerSecond = connrate.Limit{RPS: 16, Burst: 1024}

// newLimits sets what libp2p may use. go-libp2p's own limits suit a public network: 8 connections from an IPv4
// address, 128 inbound in all. Here every connection that lasts is a member's, and those that have yet to prove
// it (transient) may be anybody's. What is not named here lies within what is.
func newLimits(members int) (network.ResourceManager, error) {
	scope := func(conns, streams int, memory int64) rcmgr.ResourceLimits {
		c, s := rcmgr.LimitVal(conns), rcmgr.LimitVal(streams)
		return rcmgr.ResourceLimits{
			Conns: c, ConnsInbound: c, ConnsOutbound: c, FD: c,
			Streams: s, StreamsInbound: s, StreamsOutbound: s, Memory: rcmgr.LimitVal64(memory),
		}
	}
	// Membership changes while a host runs, and these limits do not.
	members = max(2*members, members+64)
	const (
		connsPerMember    = 8
		streamsPerMember  = 128
		transient         = 128
		connsPerAddress   = 64
		blobStreamsInUse  = 32 // each holds a chunk in memory while it is answered
		syncStreamsInUse  = 8
		memoryPerMember   = 128 << 20
		memoryOfTransient = 64 << 20
	)
	blob := scope(connsPerMember, 2*blobStreamsInUse, memoryPerMember)
	blob.StreamsInbound = blobStreamsInUse
	limits := rcmgr.PartialLimitConfig{
		System:      scope(connsPerMember*members+transient, streamsPerMember*members+4*transient, 1<<30),
		Transient:   scope(transient, 4*transient, memoryOfTransient),
		PeerDefault: scope(connsPerMember, streamsPerMember, memoryPerMember),
		ProtocolPeer: map[protocol.ID]rcmgr.ResourceLimits{
			blobProtocol: blob,
			syncProtocol: scope(connsPerMember, syncStreamsInUse, memoryPerMember),
		},
	}
	return rcmgr.NewResourceManager(
		rcmgr.NewFixedLimiter(limits.Build(rcmgr.InfiniteLimits)),
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: connsPerAddress}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: connsPerAddress}},
		),
		rcmgr.WithConnRateLimiters(&connrate.Limiter{SubnetRateLimiter: connrate.SubnetLimiter{
			IPv4SubnetLimits: []connrate.SubnetLimit{{PrefixLength: 32, Limit: connsPerSecond}},
			IPv6SubnetLimits: []connrate.SubnetLimit{{PrefixLength: 56, Limit: connsPerSecond}},
			GracePeriod:      time.Minute,
		}}))
}

// Close disconnects and ends everything the host does, and waits until it no longer uses its Notices or its store.
func (h *Host) Close() error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.cancel()
	var err error
	if h.host != nil {
		err = h.host.Close()
	}
	if h.engine != nil {
		h.engine.Close()
	}
	h.wg.Wait()
	return err
}

// enter begins work for a peer, such as answering a stream, and reports whether it may: not once the host is
// closed. The worker calls h.wg.Done when it ends.
func (h *Host) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.wg.Add(1)
	}
	return !h.closed
}

// Addrs returns the multiaddrs that other members can reach this host at, each ending in /p2p/… as Config.Peers
// wants them.
func (h *Host) Addrs() []string {
	var addrs []string
	for _, a := range h.host.Addrs() {
		addrs = append(addrs, fmt.Sprintf("%s/p2p/%s", a, h.host.ID()))
	}
	return addrs
}

// Connected returns the names of the members that are connected now, sorted.
func (h *Host) Connected() []string {
	var names []string
	for _, m := range h.connected() {
		names = append(names, m.Name)
	}
	return names
}

// Dialled reports whether every member that has an address has been dialled since the start: who can be reached is [Host.Connected] then.
func (h *Host) Dialled() bool {
	return !slices.ContainsFunc(h.members.all(), func(m *member) bool { return !m.dialled.Load() })
}

// Parted returns when the last connection with each member ended that is not connected now, by name. Those who have not been connected
// since the start are left out.
func (h *Host) Parted() map[string]time.Time {
	all := make(map[string]time.Time)
	for _, m := range h.members.all() {
		if at := m.parted.Load(); at != nil && h.host.Network().Connectedness(m.id) != network.Connected {
			all[m.Name] = *at
		}
	}
	return all
}

// connected returns the members that are connected now, sorted by name.
func (h *Host) connected() []*member {
	var members []*member
	for _, id := range h.host.Network().Peers() {
		if m := h.memberOf(id); m != nil {
			members = append(members, m)
		}
	}
	slices.SortFunc(members, func(a, b *member) int { return cmp.Compare(a.Name, b.Name) })
	return members
}

// memberOf returns the other member whose node this is, or nil.
func (h *Host) memberOf(id peer.ID) *member { return h.members.of(id) }
