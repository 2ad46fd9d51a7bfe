package p2p

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"chorus/ledger/notice"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
)

// A member is another member's node as the host sees it.
type member struct {
	Name string
	node notice.PublicKey
	id   peer.ID
	wake chan struct{} // of size 1: something changed that keep must look at
	left chan struct{} // closed when this is no longer the member's node
	lost atomic.Bool   // the connection has ended since keep last looked

	parted atomic.Pointer[time.Time] // when a connection last ended; nil: none has

	dialled   atomic.Bool               // it has been, since the start, unless it was connected
	unreached atomic.Bool               // the last dial failed, and there has been no reason to try again since
	revived   atomic.Pointer[time.Time] // when to do so, if there has been one since keep last looked
}

func (m *member) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// peerIDOf returns the libp2p name of a key.
func peerIDOf(k notice.PublicKey) (peer.ID, error) {
	pub, err := crypto.UnmarshalEd25519PublicKey(k[:])
	if err != nil {
		return "", fmt.Errorf("key %s: %w", k, err)
	}
	return peer.IDFromPublicKey(pub)
}

// keyOf returns the key that a libp2p name stands for, if it is one of those that members have.
func keyOf(id peer.ID) (notice.PublicKey, bool) {
	pub, err := id.ExtractPublicKey()
	if err != nil || pub.Type() != crypto.Ed25519 {
		return notice.PublicKey{}, false
	}
	raw, err := pub.Raw()
	if err != nil || len(raw) != len(notice.PublicKey{}) {
		return notice.PublicKey{}, false
	}
	return notice.PublicKey(raw), true
}

// A gate decides who may connect, whichever side dials: the nodes of members, and couriers, who hold another key of a
// member. Guests, who are invited, may connect and do nothing but ask to be let in; and the nodes of members that have left, now
// and then, and are told so. Who is shunned may not, for as long. A stranger learns that an encrypted port is there, and no more.
type gate struct {
	notices   Notices
	guests    Guests // nil: nobody is expected
	farewells *farewells
	shuns     func(notice.PublicKey) bool
}

var _ connmgr.ConnectionGater = gate{}

// node reports whether a peer is the node of a member now.
func (g gate) node(p peer.ID) bool {
	key, ok := keyOf(p)
	if !ok {
		return false
	}
	_, node, ok := g.notices.Seat(key)
	return ok && node
}

// member reports whether a peer has a key that is a member's.
func (g gate) member(p peer.ID) bool {
	key, ok := keyOf(p)
	return ok && Admits(g.notices, key)
}

// Admits reports whether who holds a key may be connected: it is a member's now, be it that of its node or one that a courier holds.
func Admits(notices Notices, key notice.PublicKey) bool {
	_, _, ok := notices.Seat(key)
	return ok
}

// passes reports whether a peer may be connected.
func (g gate) passes(p peer.ID) bool {
	if g.member(p) {
		return true
	}
	key, ok := keyOf(p)
	return ok && g.guests != nil && g.guests.Expects(key)
}

// shunned reports whether a peer is not spoken with for now.
func (g gate) shunned(p peer.ID) bool {
	key, ok := keyOf(p)
	return ok && g.shuns(key)
}

// InterceptPeerDial is asked before a peer is dialled. Couriers come by themselves.
func (g gate) InterceptPeerDial(p peer.ID) bool { return g.node(p) && !g.shunned(p) }

// InterceptAddrDial is asked for each address of a peer that may be dialled.
func (g gate) InterceptAddrDial(peer.ID, multiaddr.Multiaddr) bool { return true }

// InterceptAccept is asked before the handshake, when nobody knows yet who dials.
func (g gate) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured is asked when the peer has proved its key.
func (g gate) InterceptSecured(dir network.Direction, p peer.ID, _ network.ConnMultiaddrs) bool {
	return !g.shunned(p) && (g.passes(p) || dir == network.DirInbound && g.farewells.due(p))
}

// InterceptUpgraded is asked last; the decision has been made.
func (g gate) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// nodesOnly is a host whose protocols are for the nodes of members, and not for couriers.
type nodesOnly struct {
	host.Host
	gate gate
}

func (h nodesOnly) SetStreamHandler(id protocol.ID, handle network.StreamHandler) {
	h.Host.SetStreamHandler(id, h.guard(handle))
}

func (h nodesOnly) SetStreamHandlerMatch(id protocol.ID, match func(protocol.ID) bool, handle network.StreamHandler) {
	h.Host.SetStreamHandlerMatch(id, match, h.guard(handle))
}

func (h nodesOnly) guard(handle network.StreamHandler) network.StreamHandler {
	return func(s network.Stream) {
		if !h.gate.node(s.Conn().RemotePeer()) {
			s.Reset()
			return
		}
		handle(s)
	}
}

// A roster has the other members' nodes.
type roster struct {
	mu    sync.RWMutex
	nodes map[peer.ID]*member // guarded by mu
}

func (r *roster) of(id peer.ID) *member {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.nodes[id]
}

func (r *roster) all() []*member {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*member, 0, len(r.nodes))
	for _, m := range r.nodes {
		all = append(all, m)
	}
	return all
}

// set brings the roster to the nodes given and returns who is new. Those who have left are told.
func (r *roster) set(nodes map[string]notice.PublicKey, self notice.PublicKey) (joined []*member, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	stay := make(map[peer.ID]*member, len(nodes))
	for name, key := range nodes {
		if key == self {
			continue
		}
		id, err := peerIDOf(key)
		if err != nil {
			return nil, err
		}
		m := r.nodes[id]
		if m == nil || m.Name != name {
			m = &member{Name: name, node: key, id: id, wake: make(chan struct{}, 1), left: make(chan struct{})}
			joined = append(joined, m)
		}
		stay[id] = m
	}
	for id, m := range r.nodes {
		if stay[id] != m {
			close(m.left)
		}
	}
	r.nodes = stay
	return joined, nil
}
