package p2p

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/multiformats/go-multiaddr"
)

const (
	maxAddrs    = 16  // of one member that are kept and passed on
	maxAddrLen  = 256 // characters
	syncEvery   = time.Minute
	dialTimeout = 30 * time.Second
	minBackoff  = time.Second
	maxBackoff  = time.Minute
)

// A book has the addresses of members: those configured for good, those that the member itself names until it
// names others, and those heard of from others until the member names its own.
type book struct {
	mu      sync.Mutex
	entries map[peer.ID]*entry // guarded by mu
}

type entry struct{ configured, own, heard []multiaddr.Multiaddr }

func (b *book) entry(id peer.ID) *entry {
	if b.entries == nil {
		b.entries = make(map[peer.ID]*entry)
	}
	if b.entries[id] == nil {
		b.entries[id] = &entry{}
	}
	return b.entries[id]
}

func (b *book) configured(id peer.ID, addrs []multiaddr.Multiaddr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(id)
	e.configured = append(e.configured, addrs...)
}

// learn takes in up to maxAddrs addresses of id that a member names, and reports whether the book gained any. own
// says that the member named them of itself.
func (b *book) learn(id peer.ID, addrs []multiaddr.Multiaddr, own bool) bool {
	addrs = addrs[:min(maxAddrs, len(addrs))]
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(id)
	known := e.all()
	if own {
		e.own, e.heard = addrs, nil
	} else if len(e.own) == 0 {
		e.heard = addrs
	}
	return slices.ContainsFunc(e.all(), func(a multiaddr.Multiaddr) bool { return !multiaddr.Contains(known, a) })
}

// of returns what the book has of id.
func (b *book) of(id peer.ID) []multiaddr.Multiaddr {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.entry(id).all()
}

func (e *entry) all() []multiaddr.Multiaddr {
	return multiaddr.Unique(slices.Concat(e.configured, e.own, e.heard))
}

// keep holds the connection to a member, dialling it whenever it is gone, and synchronises with it at once after
// dialling and then every minute.
func (h *Host) keep(m *member) {
	backoff := minBackoff
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-m.wake:
		case <-timer.C:
		}
		err := h.dial(m)
		if err == nil && h.host.Network().Connectedness(m.id) == network.Connected {
			err = h.syncWith(h.ctx, m)
		}
		wait := syncEvery
		if err == nil {
			backoff = minBackoff
		} else if h.ctx.Err() == nil {
			h.log.Debug("member not reached", "member", m.Name, "error", err)
			wait, backoff = backoff, min(2*backoff, maxBackoff)
		}
		timer.Reset(wait - rand.N(wait/4)) // so that members that lost each other do not dial in step
	}
}

// dial connects to a member that is not connected and has a known address.
func (h *Host) dial(m *member) error {
	addrs := h.book.of(m.id)
	if len(addrs) == 0 || h.host.Network().Connectedness(m.id) == network.Connected {
		return nil
	}
	ctx, cancel := context.WithTimeout(h.ctx, dialTimeout)
	defer cancel()
	if s, ok := h.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(m.id) // keep has its own
	}
	return h.host.Connect(ctx, peer.AddrInfo{ID: m.id, Addrs: addrs})
}
