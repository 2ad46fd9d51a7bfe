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

	"chorus/ledger/notice"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
)

// Notices is where a host keeps the notices of feeds. Its methods may be called concurrently.
type Notices interface {
	// Add stores a verified notice of a member and reports whether it was new. It is durable when Add returns.
	// A notice may come before those it follows, and two of one key may have the same number: both are kept.
	Add(*notice.Notice) (fresh bool, err error)
	// Heads returns for each key the last notice up to which its feed is complete, if there is one.
	Heads() []notice.Head
	// After returns the first limit stored notices of a feed whose number is above seq, ascending.
	After(key notice.PublicKey, seq uint64, limit int) ([]*notice.Notice, error)
}

// Config says who a host is and whom it serves. All fields but Listen and Peers are needed.
type Config struct {
	Key     ed25519.PrivateKey // node key of a member
	Listen  []string           // multiaddrs, TCP or QUIC: /ip4/0.0.0.0/tcp/4001, /ip4/0.0.0.0/udp/4001/quic-v1; none: dial only
	Peers   []string           // multiaddrs of members, ending in /p2p/…; one that is online is enough
	Charter *notice.Notice     // verified version 1
	Notices Notices
	Blobs   *BlobStore
	Log     *slog.Logger
}

// maxParallelMembers bounds how many members are asked something at once.
const maxParallelMembers = 16

// A Host is a node's place among the members. Its methods may be called concurrently.
type Host struct {
	log     *slog.Logger
	charter *notice.Notice
	notices Notices
	blobs   *BlobStore
	host    host.Host
	topic   *pubsub.Topic
	members gate // every member but this one
	self    *member

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool           // guarded by mu
	wg     sync.WaitGroup // work that Close waits for; nothing is added once closed is set

	book       book
	forks      forks
	reconciled chan struct{}
	once       sync.Once // closes reconciled
}

// New starts a host. It listens, connects to the members that it knows of or hears of, and keeps doing so until
// Close is called or ctx ends. The error wraps ErrNotMember if the node key is not on the charter.
func New(ctx context.Context, c Config) (*Host, error) {
	if len(c.Key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("node key has %d bytes, not %d", len(c.Key), ed25519.PrivateKeySize)
	}
	charter, ok := c.Charter.Body.(*notice.Charter)
	if !ok {
		return nil, fmt.Errorf("a %s cannot found a network, a charter can", c.Charter.Kind)
	}
	h := &Host{
		log:        c.Log,
		charter:    c.Charter,
		notices:    c.Notices,
		blobs:      c.Blobs,
		members:    make(gate),
		reconciled: make(chan struct{}),
	}
	for _, m := range charter.Members {
		id, err := peerIDOf(m.Node)
		if err != nil {
			return nil, err
		}
		member := &member{m, id, make(chan struct{}, 1)}
		if m.Node == notice.PublicKeyOf(c.Key) {
			h.self = member
		} else {
			h.members[id] = member
		}
	}
	if h.self == nil {
		return nil, fmt.Errorf("node key %s: %w", notice.PublicKeyOf(c.Key), ErrNotMember)
	}
	for _, addr := range c.Peers {
		info, err := peer.AddrInfoFromString(addr)
		if err != nil {
			return nil, fmt.Errorf("peer address %q: %w", addr, err)
		}
		m := h.memberOf(info.ID)
		if m == nil && info.ID != h.self.id {
			return nil, fmt.Errorf("peer address %q: %w", addr, ErrNotMember)
		}
		if m != nil {
			h.book.configured(m.id, info.Addrs)
		}
	}
	if err := h.forks.scan(c.Notices, charter); err != nil {
		return nil, err
	}
	h.ctx, h.cancel = context.WithCancel(ctx)
	if err := h.start(c); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

func (h *Host) start(c Config) (err error) {
	key, err := crypto.UnmarshalEd25519PrivateKey(c.Key)
	if err != nil {
		return err
	}
	limits, err := newLimits(len(h.members))
	if err != nil {
		return err
	}
	h.host, err = libp2p.New(
		libp2p.Identity(key),
		libp2p.ListenAddrStrings(c.Listen...),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(libp2pquic.NewTransport),
		libp2p.ConnectionGater(h.members),
		libp2p.ConnectionManager(connmgr.NullConnMgr{}), // the charter bounds the connections
		libp2p.ResourceManager(limits),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
		libp2p.Ping(false),
		libp2p.UserAgent("chorus"),
	)
	if err != nil {
		return errors.Join(err, limits.Close())
	}
	if err := h.joinTopic(); err != nil {
		return err
	}
	h.host.SetStreamHandler(blobProtocol, h.serveBlobs)
	h.host.SetStreamHandler(syncProtocol, h.serveSync)
	h.host.Network().Notify(&network.NotifyBundle{DisconnectedF: func(_ network.Network, conn network.Conn) {
		if m := h.memberOf(conn.RemotePeer()); m != nil {
			m.signal()
		}
	}})
	for _, m := range h.members {
		h.wg.Go(func() { h.keep(m) })
	}
	return nil
}

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
		))
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

// nameOf returns the name of a member, or the peer ID of a stranger, for logs.
func (h *Host) nameOf(id peer.ID) string {
	if m := h.memberOf(id); m != nil {
		return m.Name
	}
	if id == h.self.id {
		return h.self.Name
	}
	return id.String()
}

// memberOf returns the other member whose node this is, or nil.
func (h *Host) memberOf(id peer.ID) *member { return h.members[id] }
