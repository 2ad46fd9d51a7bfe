package p2p

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"chorus/ledger/notice"

	"github.com/go-json-experiment/json"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/multiformats/go-multiaddr"
)

// The address protocol. Whoever opens a stream sends the addresses of members that it knows, itself among them, once
// after connecting and then those that have changed, as JSON, and closes it.
const (
	addressProtocol protocol.ID = "/chorus/addresses/1"

	maxAddrs     = 16  // of one member that are kept and passed on
	maxAddrLen   = 256 // characters
	maxAddresses = 1 << 20
	addrTimeout  = 30 * time.Second
	keepEvery    = time.Minute
	dialTimeout  = 30 * time.Second
)

type memberAddrs struct {
	Node  notice.PublicKey `json:"node"`
	Addrs []string         `json:"addrs"`
}

// decodeAddresses reads the body of an address stream.
func decodeAddresses(b []byte) ([]memberAddrs, error) {
	var told []memberAddrs
	if err := json.Unmarshal(b, &told, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for _, t := range told {
		if len(t.Addrs) > maxAddrs {
			return nil, fmt.Errorf("%w: %d addresses of a member", ErrMalformed, len(t.Addrs))
		}
		if _, err := parseAddrs(t.Addrs); err != nil {
			return nil, err
		}
	}
	return told, nil
}

func parseAddrs(texts []string) ([]multiaddr.Multiaddr, error) {
	var addrs []multiaddr.Multiaddr
	for _, text := range texts {
		if len(text) > maxAddrLen {
			return nil, fmt.Errorf("%w: address of %d characters", ErrMalformed, len(text))
		}
		a, err := multiaddr.NewMultiaddr(text)
		if err != nil {
			return nil, fmt.Errorf("%w: address: %w", ErrMalformed, err)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

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

// learned returns what the book has of id that was not configured.
func (b *book) learned(id peer.ID) []multiaddr.Multiaddr {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(id)
	return multiaddr.Unique(slices.Concat(e.own, e.heard))
}

func (e *entry) all() []multiaddr.Multiaddr {
	return multiaddr.Unique(slices.Concat(e.configured, e.own, e.heard))
}

// dial connects to a member that has a known address.
func (h *Host) dial(m *member) error {
	addrs := h.book.of(m.id)
	if len(addrs) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(h.ctx, dialTimeout)
	defer cancel()
	if s, ok := h.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(m.id) // keep has its own
	}
	return h.host.Connect(ctx, peer.AddrInfo{ID: m.id, Addrs: addrs})
}

// tell sends a connected member the addresses that it has not been told, and takes note of them in told.
func (h *Host) tell(m *member, told map[notice.PublicKey]string) error {
	news, size := []memberAddrs{}, 0
	about := func(node notice.PublicKey, addrs []multiaddr.Multiaddr) {
		a := memberAddrs{Node: node, Addrs: []string{}}
		for _, addr := range addrs {
			if text := addr.String(); len(text) <= maxAddrLen && len(a.Addrs) < maxAddrs {
				a.Addrs = append(a.Addrs, text)
				size += len(text)
			}
		}
		if len(a.Addrs) > 0 && size < maxAddresses/2 && told[node] != strings.Join(a.Addrs, " ") {
			news = append(news, a)
		}
	}
	about(h.self, h.host.Addrs())
	for _, other := range h.members.all() {
		if other != m {
			about(other.node, h.book.of(other.id))
		}
	}
	if len(news) == 0 {
		return nil
	}
	body, err := json.Marshal(news)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(h.ctx, addrTimeout)
	defer cancel()
	s, err := h.host.NewStream(network.WithNoDial(ctx, "only connected members are told"), m.id, addressProtocol)
	if err != nil {
		return err
	}
	s.SetDeadline(time.Now().Add(addrTimeout))
	if _, err := s.Write(body); err != nil {
		s.Reset()
		return err
	}
	for _, a := range news {
		told[a.Node] = strings.Join(a.Addrs, " ")
	}
	return s.Close()
}

// serveAddresses takes in the addresses that a member sends, and has members dialled of whom they are news.
func (h *Host) serveAddresses(s network.Stream) {
	defer s.Reset()
	from := h.memberOf(s.Conn().RemotePeer())
	if from == nil || !h.enter() {
		return
	}
	defer h.wg.Done()
	conduct := h.engine.partner(from.node).conduct
	if !conduct.mayTell() {
		return
	}
	s.SetDeadline(time.Now().Add(addrTimeout))
	body, err := io.ReadAll(io.LimitReader(s, maxAddresses))
	if err != nil {
		return
	}
	told, err := decodeAddresses(body)
	if err != nil {
		conduct.judge(err)
		return
	}
	news := false
	for _, t := range told {
		id, err := peerIDOf(t.Node)
		if err != nil {
			continue
		}
		about := h.memberOf(id)
		addrs, err := parseAddrs(t.Addrs)
		if about == nil || err != nil {
			continue
		}
		if !h.book.learn(id, addrs, about == from) {
			continue
		}
		news = true
		if h.host.Network().Connectedness(id) != network.Connected {
			about.signal()
		}
	}
	if news {
		select {
		case h.heard <- struct{}{}:
		default:
		}
		for _, m := range h.connected() {
			m.signal()
		}
	}
}
