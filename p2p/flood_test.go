package p2p

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chorus/ledger/notice"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
)

// lonely is a network without anybody.
type lonely struct{}

func (lonely) Connected() []notice.PublicKey                          { return nil }
func (lonely) Open(context.Context, notice.PublicKey) (Stream, error) { return nil, ErrAlone }
func (lonely) Broadcast(context.Context, []byte) error                { return nil }
func (lonely) Part(notice.PublicKey)                                  {}

// listen starts an engine that hears what a test tells it, as member a.
func (c *consortium) listen(m *memory) *Engine {
	return NewEngine(EngineConfig{
		Self: notice.PublicKeyOf(c.node["a"]), Charter: c.charter.CID, Notices: m.of(c),
		Network: lonely{}, Log: slog.New(slog.DiscardHandler),
	})
}

func TestMemberThatGossipsGarbageIsSoonNotListenedTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in which no time passes
		c := found(t, "a", "b", "c")
		m := newMemory()
		e := c.listen(m)
		defer e.Close()
		b := notice.PublicKeyOf(c.node["b"])
		verdicts := make(map[Verdict]int)
		for i := range 10_000 {
			verdicts[e.Receive(b, fmt.Appendf(nil, "garbage %d", i))]++
		}
		if verdicts[Reject] != strikeBurst+1 || verdicts[Accept] != 0 {
			t.Errorf("of 10,000 messages %d were looked into, want %d; accepted: %d", verdicts[Reject], strikeBurst+1, verdicts[Accept])
		}
		n := c.says(t, "b", "")
		if got := e.Receive(b, n.Envelope); got != Ignore {
			t.Errorf("a notice after the garbage: got %v, want Ignore", got)
		}
		if got := e.Receive(notice.PublicKeyOf(c.node["c"]), n.Envelope); got != Accept {
			t.Errorf("the same notice from another member: got %v, want Accept", got)
		}
		time.Sleep(shunFor)
		if got := e.Receive(b, n.Envelope); got != Accept {
			t.Errorf("the same notice once the time is over: got %v, want Accept", got)
		}
	})
}

func TestMemberThatGossipsTooMuchIsHeardNoMoreThanItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := found(t, "a", "b", "c")
		m := newMemory()
		e := c.listen(m)
		defer e.Close()
		verdicts := make(map[Verdict]int)
		for i := range 1000 {
			from := []string{"b", "c"}[i%2] // whoever passes it on
			verdicts[e.Receive(notice.PublicKeyOf(c.node[from]), c.says(t, "b", fmt.Sprint(i)).Envelope)]++
		}
		if verdicts[Accept] != hearBurst || verdicts[Reject] != 0 {
			t.Errorf("of 1,000 notices %d were accepted, want %d; rejected: %d", verdicts[Accept], hearBurst, verdicts[Reject])
		}
		if got := e.Receive(notice.PublicKeyOf(c.node["b"]), c.says(t, "c", "").Envelope); got != Accept {
			t.Errorf("another member's notice: got %v, want Accept", got)
		}
		time.Sleep(10 * time.Second)
		if got := e.Receive(notice.PublicKeyOf(c.node["b"]), c.says(t, "b", "later").Envelope); got != Accept {
			t.Errorf("a notice when some time has passed: got %v, want Accept", got)
		}
	})
}

// stat returns what libp2p says that a peer uses of a host.
func stat(t *testing.T, h *Host, of host.Host) (stat network.ScopeStat) {
	t.Helper()
	err := h.host.Network().ResourceManager().ViewPeer(of.ID(), func(s network.PeerScope) error {
		stat = s.Stat()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return stat
}

func TestMemberThatOpensManyStreamsGetsFew(t *testing.T) {
	c := found(t, "a", "b", "c")
	ma := newMemory()
	a := c.start(t, "a", ma)
	b := impersonate(t, c.node["b"])
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := b.Connect(ctx, *host.InfoFromHost(a.host)); err != nil {
		t.Fatal(err)
	}
	const streams = 300
	var wg sync.WaitGroup
	answers := make(chan bool, streams)
	for range streams {
		wg.Go(func() {
			answered := false
			if s, err := b.NewStream(ctx, a.host.ID(), syncProtocol); err == nil {
				s.SetDeadline(time.Now().Add(20 * time.Second))
				// Whoever is served reads an open and is then waited for; the others end at once.
				_, err := io.ReadFull(s, make([]byte, 5+openLen))
				answered = err == nil
			}
			answers <- answered
		})
	}
	wg.Wait()
	served := 0
	for range streams {
		if <-answers {
			served++
		}
	}
	if served > maxServing {
		t.Errorf("%d of %d streams are served, want at most %d", served, streams, maxServing)
	}
	if s := stat(t, a, b); s.NumStreamsInbound > 128 || s.Memory > 128<<20 {
		t.Errorf("the member has %d streams and %d bytes", s.NumStreamsInbound, s.Memory)
	}
	n := c.says(t, "c", "all the same")
	c.start(t, "c", newMemory(n), a)
	ma.waitFor(t, n)
}

func TestStrangerThatHammersHoldsNothing(t *testing.T) {
	c := found(t, "a", "b")
	ma := newMemory()
	a := c.start(t, "a", ma)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for i := range 50 {
		stranger := impersonate(t, privateOf(fmt.Sprint("stranger", i)))
		stranger.Connect(ctx, *host.InfoFromHost(a.host))
		if s, err := stranger.NewStream(network.WithNoDial(ctx, ""), a.host.ID(), syncProtocol); err == nil {
			if _, err := io.ReadAll(s); err == nil {
				t.Error("a stranger holds a conversation")
			}
		}
		stranger.Close()
	}
	n := c.says(t, "b", "all the same")
	b := c.start(t, "b", newMemory(n), a)
	ma.waitFor(t, n)
	waitConnected(t, a, "b")
	if peers := a.host.Network().Peers(); len(peers) != 1 || peers[0] != b.host.ID() {
		t.Errorf("connected to %v, want the member alone", peers)
	}
	a.host.Network().ResourceManager().ViewSystem(func(s network.ResourceScope) error {
		if s := s.Stat(); s.NumConnsInbound > 2 || s.NumStreamsInbound > 16 {
			t.Errorf("%d connections and %d streams are counted", s.NumConnsInbound, s.NumStreamsInbound)
		}
		return nil
	})
}

func TestAddressesThatWereHeardOfOutliveARestart(t *testing.T) {
	c := found(t, "a", "b", "c")
	a := c.start(t, "a", newMemory())
	cc := c.start(t, "c", newMemory(), a)
	config := c.config(t, "b", newMemory())
	config.Peers, config.Addresses = a.Addrs(), filepath.Join(t.TempDir(), "addresses.json")
	b, err := New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	waitConnected(t, b, "a", "c")
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for tries := 0; len(b.book.learned(cc.host.ID())) == 0; tries++ {
		if tries == 3000 {
			t.Fatal("no address of c was heard of in 30 s")
		}
		<-look.C
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	waitConnected(t, cc)
	config.Peers, config.Listen = nil, nil
	b = startHost(t, config)
	waitConnected(t, b, "c")
}
