package p2p

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"chorus/ledger/notice"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/multiformats/go-multiaddr"
)

// joinProtocol is the one protocol that a guest may use.
const joinProtocol protocol.ID = "/chorus/join/1"

// Guests are keys of nobody on the charter that a node expects all the same: of those whom it has invited. Its methods may
// be called concurrently.
type Guests interface {
	// Expects reports whether a key may connect, to be received.
	Expects(key notice.PublicKey) bool
	// Receive holds the conversation that a guest has begun, until it is over or ctx ends. The connection is closed after it,
	// once the guest has closed its side.
	Receive(ctx context.Context, key notice.PublicKey, s Stream)
}

// receive hands a guest's stream to whoever expects it. A guest has one conversation in a connection.
func (h *Host) receive(s network.Stream) {
	key, ok := keyOf(s.Conn().RemotePeer())
	if !ok || h.gate.guests == nil || !h.gate.guests.Expects(key) || !h.enter() {
		s.Reset()
		return
	}
	defer h.wg.Done()
	h.gate.guests.Receive(h.ctx, key, s)
	// The guest hears the last word before the connection ends: it closes its side when it has.
	s.CloseWrite()
	s.SetReadDeadline(time.Now().Add(guestGrace))
	s.Read(make([]byte, 1))
	s.Close()
	s.Conn().Close()
}

// ErrUnexpected reports a node that is there and does not let a guest in.
var ErrUnexpected = errors.New("it does not expect this guest")

const (
	guestGrace  = 2 * time.Second
	visitWithin = 15 * time.Second // for each address
)

// A Visit is a conversation with a node by somebody whom it has invited. Close ends it.
type Visit struct {
	Stream
	Node notice.PublicKey // whom the visitor talks to, as it has proved
	id   peer.ID
	host host.Host
}

// NewVisit connects to whatever node answers at one of the addresses, which name none: the visitor must judge by Visit.Node
// whether it is the right one, before saying what not everybody may hear. The error wraps [ErrUnexpected] if a node
// answered and did not let the key in.
func NewVisit(ctx context.Context, key ed25519.PrivateKey, addrs []multiaddr.Multiaddr) (*Visit, error) {
	h, err := newLibp2p(key, nil, outbound{}, 1, nil, libp2p.NoListenAddrs)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, addr := range addrs {
		v, err := visit(ctx, h, addr)
		if err == nil {
			return v, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
	}
	return nil, errors.Join(append(errs, h.Close())...)
}

func visit(ctx context.Context, h host.Host, addr multiaddr.Multiaddr) (*Visit, error) {
	ctx, cancel := context.WithTimeout(ctx, visitWithin)
	defer cancel()
	// Nobody has this name, so the handshake fails: but by then the node has proved its own.
	nobody, err := randomPeer()
	if err != nil {
		return nil, err
	}
	var who sec.ErrPeerIDMismatch
	if err := h.Connect(ctx, peer.AddrInfo{ID: nobody, Addrs: []multiaddr.Multiaddr{addr}}); !errors.As(err, &who) {
		return nil, err
	}
	node, ok := keyOf(who.Actual)
	if !ok {
		return nil, fmt.Errorf("%w: the name %s", ErrMalformed, who.Actual)
	}
	if err := h.Connect(ctx, peer.AddrInfo{ID: who.Actual, Addrs: []multiaddr.Multiaddr{addr}}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnexpected, err)
	}
	s, err := h.NewStream(network.WithNoDial(ctx, "connected above"), who.Actual, joinProtocol)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnexpected, err)
	}
	return &Visit{Stream: s, Node: node, id: who.Actual, host: h}, nil
}

func randomPeer() (peer.ID, error) {
	_, public, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return "", err
	}
	return peer.IDFromPublicKey(public)
}

// Close ends the conversation and the connection.
func (v *Visit) Close() error { return errors.Join(v.Stream.Close(), v.host.Close()) }

// outbound lets a host connect to others, and nobody to it.
type outbound struct{}

func (outbound) InterceptPeerDial(peer.ID) bool                      { return true }
func (outbound) InterceptAddrDial(peer.ID, multiaddr.Multiaddr) bool { return true }
func (outbound) InterceptAccept(network.ConnMultiaddrs) bool         { return false }
func (outbound) InterceptSecured(d network.Direction, _ peer.ID, _ network.ConnMultiaddrs) bool {
	return d == network.DirOutbound
}
func (outbound) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

// Named returns an address of the node, ending in /p2p/… as Config.Peers wants it.
func (v *Visit) Named(addr multiaddr.Multiaddr) string { return fmt.Sprintf("%s/p2p/%s", addr, v.id) }
