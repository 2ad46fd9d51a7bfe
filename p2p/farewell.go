package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"chorus/ledger/notice"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// farewellProtocol carries the charters to the node of a member that was taken off while it was away: frames with a page
// of one each. It carries nothing the other way.
const farewellProtocol protocol.ID = "/chorus/farewell/1"

const (
	farewellEvery    = time.Minute // how often one node is told; it does not pass the gate in between
	farewellVersions = 4096        // that are read, at most
)

// farewells says who is to be told that its member has left.
type farewells struct {
	notices Notices
	mu      sync.Mutex
	told    map[peer.ID]time.Time // guarded by mu; of nodes that were members' only
}

// due reports whether a peer that dials is to be told, and counts it as told.
func (f *farewells) due(id peer.ID) bool {
	key, ok := keyOf(id)
	if !ok || !former(f.notices, key) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if last, ok := f.told[id]; ok && time.Since(last) < farewellEvery {
		return false
	}
	f.told[id] = time.Now()
	return true
}

// former reports whether a key is that of the node of a member that some version of the charter has, and the last one
// has not.
func former(notices Notices, key notice.PublicKey) bool {
	charters := notices.Charters()
	name := ""
	for _, n := range charters {
		for _, m := range n.Body.(*notice.Charter).Members {
			if m.Node == key {
				name = m.Name
			}
		}
	}
	if name == "" {
		return false
	}
	_, stays := charters[len(charters)-1].Body.(*notice.Charter).Named(name)
	return !stays
}

// bid sends the charters over a connection of a node that is no member's any more, and ends it.
func (h *Host) bid(conn network.Conn) {
	defer conn.Close()
	if err := h.sendCharters(conn.RemotePeer()); err != nil {
		h.log.Debug("farewell not said", "peer", conn.RemotePeer(), "error", err)
	}
}

func (h *Host) sendCharters(to peer.ID) error {
	ctx, cancel := context.WithTimeout(h.ctx, frameTimeout)
	defer cancel()
	s, err := h.host.NewStream(network.WithNoDial(ctx, "it has dialled"), to, farewellProtocol)
	if err != nil {
		return err
	}
	defer s.Close()
	s.SetDeadline(time.Now().Add(frameTimeout))
	for _, n := range h.notices.Charters() {
		p := newPage()
		p.add(n.Envelope)
		if err := writeFrame(s, framePage, p.body); err != nil {
			return err
		}
	}
	if err := s.CloseWrite(); err != nil {
		return err
	}
	s.Read(make([]byte, 1)) // the other side ends it once it has them
	return nil
}

// hearFarewell takes in the charters that another member's node sends. They say by themselves whether they count.
func (h *Host) hearFarewell(s network.Stream) {
	defer s.Close()
	key, ok := keyOf(s.Conn().RemotePeer())
	if !ok || !h.engine.partner(key).conduct.mayConverse() || !h.enter() {
		s.Reset()
		return
	}
	defer h.wg.Done()
	s.SetReadDeadline(time.Now().Add(frameTimeout))
	for range farewellVersions {
		if err := h.takeCharter(s); err != nil {
			if !errors.Is(err, io.EOF) {
				h.log.Debug("farewell not taken in", "member", h.engine.nameOf(key), "error", err)
				s.Reset()
			}
			return
		}
	}
}

func (h *Host) takeCharter(s network.Stream) error {
	kind, body, err := readFrame(s)
	if err != nil {
		return err
	}
	if kind != framePage {
		return fmt.Errorf("%w: frame %q", ErrMalformed, kind)
	}
	envelopes, _, err := decodePage(body)
	if err != nil {
		return err
	}
	charters, err := parseAll(envelopes)
	if err != nil {
		return err
	}
	for _, n := range charters {
		if n.Kind != notice.KindCharter {
			return fmt.Errorf("%w: a %s", ErrMalformed, n.Kind)
		}
	}
	_, err = h.notices.Add(charters...)
	return err
}
