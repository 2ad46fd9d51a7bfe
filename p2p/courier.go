package p2p

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// A Courier exchanges notices with one node and nothing else, from any machine: its key is one of a member's, but not
// that of its node. Its methods may be called concurrently.
type Courier struct {
	host   host.Host
	engine *Engine
}

// CourierConfig says who a courier is and where it goes. All fields but Charter are needed.
type CourierConfig struct {
	Key     ed25519.PrivateKey // a publishing, revoker or recovery key of a member, or one that a member has delegated to
	Peer    string             // multiaddr of a node, ending in /p2p/…
	Charter cid.Cid            // version 1; undefined: Notices are to find out
	Notices Notices
	Log     *slog.Logger
}

// NewCourier connects to the node. The node may refuse the key only later, when Sync uses the connection.
func NewCourier(ctx context.Context, c CourierConfig) (*Courier, error) {
	if len(c.Key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("courier's key has %d bytes, not %d", len(c.Key), ed25519.PrivateKeySize)
	}
	info, err := peer.AddrInfoFromString(c.Peer)
	if err != nil {
		return nil, fmt.Errorf("peer address %q: %w", c.Peer, err)
	}
	node, ok := keyOf(info.ID)
	if !ok {
		return nil, fmt.Errorf("peer address %q: %w", c.Peer, ErrNotMember)
	}
	h, err := newLibp2p(c.Key, nil, only(info.ID), 1, nil, libp2p.NoListenAddrs)
	if err != nil {
		return nil, err
	}
	if err := h.Connect(ctx, *info); err != nil {
		h.Close()
		return nil, err
	}
	return &Courier{host: h, engine: NewEngine(EngineConfig{
		Self: notice.PublicKeyOf(c.Key), Charter: c.Charter, Notices: c.Notices, Network: errand{h, node}, Log: c.Log,
	})}, nil
}

// Sync exchanges with the node the notices that either side lacks. Without an error they are durable on both.
func (c *Courier) Sync(ctx context.Context) error { return c.engine.Sync(ctx) }

// Deliver has one exchange with the node: without an error, what this side had when it began is durable there. Unlike Sync it does not look
// whether something came meanwhile, which a node does not answer that has just been brought the end of the courier's own key.
func (c *Courier) Deliver(ctx context.Context) error { return c.engine.Deliver(ctx) }

// Close disconnects, and waits until the courier no longer uses its Notices.
func (c *Courier) Close() error {
	err := c.host.Close()
	c.engine.Close()
	return err
}

// errand is a courier's network: one node.
type errand struct {
	host host.Host
	node notice.PublicKey
}

func (e errand) Connected() []notice.PublicKey { return []notice.PublicKey{e.node} }

func (e errand) Open(ctx context.Context, node notice.PublicKey) (Stream, error) {
	id, err := peerIDOf(node)
	if err != nil {
		return nil, err
	}
	return e.host.NewStream(ctx, id, syncProtocol)
}

func (e errand) Broadcast(context.Context, []byte) error { return nil }

func (e errand) Part(notice.PublicKey) {} // it is over soon

// only lets a host connect to one peer.
type only peer.ID

func (o only) InterceptPeerDial(p peer.ID) bool                        { return p == peer.ID(o) }
func (o only) InterceptAddrDial(p peer.ID, _ multiaddr.Multiaddr) bool { return p == peer.ID(o) }
func (o only) InterceptAccept(network.ConnMultiaddrs) bool             { return false }
func (o only) InterceptSecured(_ network.Direction, p peer.ID, _ network.ConnMultiaddrs) bool {
	return p == peer.ID(o)
}
func (o only) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }
