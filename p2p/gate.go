package p2p

import (
	"chorus/ledger/notice"
	"fmt"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// A member is another member's node as the host sees it.
type member struct {
	notice.Member
	id   peer.ID
	wake chan struct{} // of size 1: something changed that keep must look at
}

func (m *member) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// peerIDOf returns the libp2p name of a node key.
func peerIDOf(k notice.PublicKey) (peer.ID, error) {
	pub, err := crypto.UnmarshalEd25519PublicKey(k[:])
	if err != nil {
		return "", fmt.Errorf("node key %s: %w", k, err)
	}
	return peer.IDFromPublicKey(pub)
}

// A gate lets the host connect to members and nobody else, whichever side dials. A stranger learns that an
// encrypted port is there, and no more.
type gate map[peer.ID]*member

var _ connmgr.ConnectionGater = gate(nil)

// InterceptPeerDial is asked before a peer is dialled.
func (g gate) InterceptPeerDial(p peer.ID) bool { return g[p] != nil }

// InterceptAddrDial is asked for each address of a peer that may be dialled.
func (g gate) InterceptAddrDial(peer.ID, multiaddr.Multiaddr) bool { return true }

// InterceptAccept is asked before the handshake, when nobody knows yet who dials.
func (g gate) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured is asked when the peer has proved its key.
func (g gate) InterceptSecured(_ network.Direction, p peer.ID, _ network.ConnMultiaddrs) bool {
	return g[p] != nil
}

// InterceptUpgraded is asked last; the decision has been made.
func (g gate) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }
