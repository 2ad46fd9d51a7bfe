package p2p

import (
	"context"
	"errors"

	"chorus/ledger/notice"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
)

// An Attempt is what came of dialling a member's node at one address.
type Attempt struct {
	Address string
	Err     error
}

// Reach reports whether a member's node is connected, after dialling it at every known address if it is not, and
// what came of each. No attempts and no connection: no address of it is known.
func (h *Host) Reach(ctx context.Context, node notice.PublicKey) (connected bool, attempts []Attempt) {
	id, err := peerIDOf(node)
	if err != nil {
		return false, nil
	}
	if h.host.Network().Connectedness(id) == network.Connected {
		return true, nil
	}
	addrs := h.book.of(id)
	if len(addrs) == 0 {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if s, ok := h.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(id)
	}
	err = h.host.Connect(ctx, peer.AddrInfo{ID: id, Addrs: addrs})
	if err == nil {
		return true, nil
	}
	var failed *swarm.DialError
	if errors.As(err, &failed) {
		for _, e := range failed.DialErrors {
			attempts = append(attempts, Attempt{e.Address.String(), e.Cause})
		}
	}
	if len(attempts) == 0 {
		for _, a := range addrs {
			attempts = append(attempts, Attempt{a.String(), err})
		}
	}
	return false, attempts
}

// Strangers returns which of the addresses that a node was configured with are of no member's node now: such a member has left, or has
// another node key.
func (h *Host) Strangers(configured []string) (strangers []string) {
	for _, addr := range configured {
		if info, err := peer.AddrInfoFromString(addr); err != nil || !h.gate.node(info.ID) {
			strangers = append(strangers, addr)
		}
	}
	return strangers
}
