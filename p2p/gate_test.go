package p2p

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// seat gives a member's node another key, or takes its place away if key is zero.
func (m *memory) seat(name string, key notice.PublicKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	nodes := make(map[string]notice.PublicKey)
	for n, k := range m.nodes {
		nodes[n] = k
	}
	if nodes[name] = key; key.IsZero() {
		delete(nodes, name)
	}
	m.nodes = nodes
	m.change()
}

func TestConnectionEndsWhenItsMemberLeaves(t *testing.T) {
	c := found(t, "a", "b", "c")
	ma := newMemory()
	a := c.start(t, "a", ma)
	b, cc := c.start(t, "b", newMemory(), a), c.start(t, "c", newMemory(), a)
	waitConnected(t, a, "b", "c")
	waitConnected(t, b, "a", "c")
	ma.seat("b", notice.PublicKey{})
	waitConnected(t, a, "c")
	waitConnected(t, b, "c") // nobody has told b, and a does not let it back
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := b.host.Connect(ctx, *host.InfoFromHost(a.host)); err == nil {
		if s, err := b.host.NewStream(ctx, a.host.ID(), syncProtocol); err == nil {
			if _, err = s.Write([]byte{0}); err == nil {
				_, err = io.ReadAll(s)
			}
			if err == nil {
				t.Error("a node that has left holds a conversation")
			}
		}
	}
	waitConnected(t, a, "c")
	waitReconciled(t, cc)
}

func TestRotatedNodeKeyTakesThePlaceOfTheOldOne(t *testing.T) {
	c := found(t, "a", "b")
	ma := newMemory()
	a := c.start(t, "a", ma)
	b := c.start(t, "b", newMemory(), a)
	waitConnected(t, a, "b")
	c.node["b"] = privateOf("b's new node")
	ma.seat("b", notice.PublicKeyOf(c.node["b"]))
	waitConnected(t, b)
	mb := newMemory()
	config := c.config(t, "a", mb) // for its defaults
	config.Key, config.Peers = c.node["b"], a.Addrs()
	mb.seat("b", notice.PublicKeyOf(c.node["b"]))
	startHost(t, config)
	waitConnected(t, a, "b")
}

// courier starts a courier with a member's publishing key, whose notices are m.
func (c *consortium) courier(t *testing.T, name string, m *memory, to *Host) *Courier {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	courier, err := NewCourier(ctx, CourierConfig{
		Key: c.publishing[name], Peer: to.Addrs()[0], Charter: c.charter.CID, Notices: m.of(c), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { courier.Close() })
	return courier
}

func TestCourierBringsANoticeToOneNodeAndItReachesAll(t *testing.T) {
	c := found(t, "a", "b", "c")
	earlier := c.says(t, "c", "earlier")
	ma, mb := newMemory(earlier), newMemory()
	a := c.start(t, "a", ma)
	b := c.start(t, "b", mb, a)
	waitReconciled(t, a, b)
	mine := newMemory()
	courier := c.courier(t, "c", mine, a)
	if err := courier.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !mine.holds(earlier) {
		t.Error("the courier did not learn how far its feed goes")
	}
	n := c.says(t, "c", "from afar")
	mine.Add(n)
	if err := courier.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !ma.holds(n) {
		t.Error("Sync returned before the notice was there")
	}
	mb.waitFor(t, n)
}

func TestCourierMaySynchroniseAndNothingElse(t *testing.T) {
	c := found(t, "a", "b")
	a := c.start(t, "a", newMemory())
	courier := impersonate(t, c.publishing["b"])
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := courier.Connect(ctx, *host.InfoFromHost(a.host)); err != nil {
		t.Fatal(err)
	}
	for _, id := range []protocol.ID{blobProtocol, addressProtocol, "/meshsub/1.1.0"} {
		s, err := courier.NewStream(ctx, a.host.ID(), id)
		if err == nil {
			s.SetDeadline(time.Now().Add(10 * time.Second))
			s.Write(request{op: opHave, id: c.charter.Body.(*notice.Charter).Anchor}.encode())
			_, err = io.ReadFull(s, make([]byte, 1))
		}
		if !errors.Is(err, network.ErrReset) {
			t.Errorf("%s ended with %v, want a reset", id, err)
		}
	}
	if got := a.Connected(); len(got) > 0 {
		t.Errorf("a courier counts as a member's node: %q", got)
	}
	if err := a.host.Network().ClosePeer(courier.ID()); err != nil {
		t.Fatal(err)
	}
	if err := a.host.Connect(ctx, *host.InfoFromHost(courier)); err == nil {
		t.Error("the host dialled a courier")
	}
	stranger := impersonate(t, privateOf("stranger"))
	stranger.Connect(ctx, *host.InfoFromHost(a.host))
	if s, err := stranger.NewStream(ctx, a.host.ID(), syncProtocol); err == nil {
		if _, err := io.ReadAll(s); err == nil {
			t.Error("a stranger holds a conversation")
		}
	}
}

func TestMemberThatAsksWithoutEndIsHungUpOnAndStaysOut(t *testing.T) {
	c := found(t, "a", "b")
	a := c.start(t, "a", newMemory().of(c))
	b := impersonate(t, c.node["b"])
	to := peer.AddrInfo{ID: a.host.ID(), Addrs: a.host.Addrs()}
	if err := b.Connect(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	waitConnected(t, a, "b")
	asked := 0
	for ; !a.engine.partner(notice.PublicKeyOf(c.node["b"])).conduct.shunned(); asked++ {
		if asked > 10*vainBurst {
			t.Fatalf("after %d conversations it is still spoken with", asked)
		}
		if s, err := b.NewStream(t.Context(), to.ID, syncProtocol); err == nil {
			_, _ = s.Write([]byte("?"))
			_, _ = s.Read(make([]byte, 1)) // until it is hung up
			_ = s.Reset()
		}
	}
	waitConnected(t, a)
	if s, err := b.NewStream(t.Context(), to.ID, syncProtocol); err == nil {
		_, err = s.Read(make([]byte, 1))
		if err == nil {
			t.Error("it is answered again")
		}
	}
	waitConnected(t, a)
}

func TestMemberThatOpensStreamsWithoutEndIsHungUpOn(t *testing.T) {
	c := found(t, "a", "b")
	a := c.start(t, "a", newMemory().of(c))
	b := impersonate(t, c.node["b"])
	if err := b.Connect(t.Context(), peer.AddrInfo{ID: a.host.ID(), Addrs: a.host.Addrs()}); err != nil {
		t.Fatal(err)
	}
	waitConnected(t, a, "b")
	for opened := 0; a.mayOpen(b.ID()) || !a.engine.partner(notice.PublicKeyOf(c.node["b"])).conduct.shunned(); opened++ {
		if opened > 100*streamBurst {
			t.Fatalf("after %d streams it may open another", opened)
		}
	}
	waitConnected(t, a)
	if _, err := a.host.Network().ResourceManager().OpenStream(b.ID(), network.DirInbound); err == nil {
		t.Error("it may open a stream")
	}
}
