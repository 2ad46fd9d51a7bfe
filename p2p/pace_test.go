package p2p

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	mocknet "github.com/libp2p/go-libp2p/p2p/net/mock"
	"github.com/multiformats/go-multiaddr"
)

func TestAMemberThatHangsUpIsDialledEverMoreRarely(t *testing.T) {
	p, at := pace{backoff: minBackoff}, time.Unix(1e9, 0)
	dials := 0
	for end := at.Add(time.Hour); at.Before(end); at = at.Add(time.Millisecond) {
		if at.Before(p.until) {
			continue
		}
		p.dialled = at
		p.lost(at.Add(time.Millisecond)) // the other side closes after the handshake
		dials++
	}
	if dials < 60 || dials > 70 { // one a minute, and the first few faster
		t.Errorf("%d dials in an hour", dials)
	}

	p.dialled = at
	at = at.Add(settled)
	p.lost(at)
	if at.Before(p.until) {
		t.Errorf("a connection that lasted is not dialled again until %v", p.until.Sub(at))
	}
	p.dialled = at
	if p.lost(at); p.until.Sub(at) != minBackoff {
		t.Errorf("after one that lasted, the wait is %v, want %v", p.until.Sub(at), minBackoff)
	}
}

// An air is a network in memory with a host of member "a", which knows an address of each other member. Nobody reaches anybody at first.
type air struct {
	mocknet.Mocknet
	a      *Host
	others []host.Host // of the other members, which do nothing
	failed *atomic.Int64
}

// newAir must be called inside a bubble.
func newAir(t *testing.T, others int) *air {
	t.Helper()
	names := []string{"a"}
	for i := range others {
		names = append(names, fmt.Sprintf("b%02d", i))
	}
	c := found(t, names...)
	n := &air{Mocknet: mocknet.New(), failed: new(atomic.Int64)}
	t.Cleanup(func() { n.Close() })
	var hosts []host.Host
	config := c.config(t, "a", newMemory())
	for i, name := range names {
		k, err := crypto.UnmarshalEd25519PrivateKey(c.node[name])
		if err != nil {
			t.Fatal(err)
		}
		addr, err := multiaddr.NewMultiaddr(fmt.Sprintf("/ip4/10.0.0.%d/tcp/4001", i+1))
		if err != nil {
			t.Fatal(err)
		}
		h, err := n.AddPeer(k, addr)
		if err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
		if i > 0 {
			config.Peers = append(config.Peers, addrsOf(h)...)
		}
	}
	config.Log = slog.New(failures{slog.DiscardHandler, n.failed})
	var err error
	if n.a, err = prepare(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	n.a.host, n.others = hosts[0], hosts[1:]
	t.Cleanup(func() { n.a.Close() })
	if err := n.a.start(config); err != nil {
		t.Fatal(err)
	}
	return n
}

// failures counts the dials that failed by what is logged.
type failures struct {
	slog.Handler
	count *atomic.Int64
}

func (f failures) Enabled(context.Context, slog.Level) bool { return true }

func (f failures) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "member not reached" {
		f.count.Add(1)
	}
	return nil
}

func TestWhenOneMemberIsReachedAgainTheOthersAreDialledSoon(t *testing.T) {
	for name, back := range map[string]func(*testing.T, *air){
		"it came by itself": func(t *testing.T, n *air) {
			if _, err := n.ConnectPeers(n.others[0].ID(), n.a.host.ID()); err != nil {
				t.Fatal(err)
			}
		},
		"this machine has another address": func(t *testing.T, n *air) {
			e, err := n.a.host.EventBus().Emitter(new(event.EvtLocalAddressesUpdated))
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			if err := e.Emit(event.EvtLocalAddressesUpdated{}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newAir(t, 4)
				time.Sleep(10 * maxBackoff)
				if synctest.Wait(); len(n.a.Connected()) > 0 {
					t.Fatalf("connected to %q over nothing", n.a.Connected())
				}
				if err := n.LinkAll(); err != nil {
					t.Fatal(err)
				}
				back(t, n)
				time.Sleep(minBackoff + 4*reviveEach)
				if synctest.Wait(); !slices.Equal(n.a.Connected(), []string{"b00", "b01", "b02", "b03"}) {
					t.Errorf("connected to %q", n.a.Connected())
				}
			})
		})
	}
}

func TestItIsKnownSinceWhenAMemberIsNotConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newAir(t, 2)
		if err := n.LinkAll(); err != nil {
			t.Fatal(err)
		}
		n.a.revive()
		time.Sleep(maxBackoff)
		if synctest.Wait(); len(n.a.Connected()) != 2 || len(n.a.Parted()) > 0 {
			t.Fatalf("connected to %q, parted %v", n.a.Connected(), n.a.Parted())
		}
		gone := n.others[0].ID()
		if err := errors.Join(n.UnlinkPeers(n.a.host.ID(), gone), n.DisconnectPeers(n.a.host.ID(), gone)); err != nil {
			t.Fatal(err)
		}
		at := time.Now()
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := n.a.Parted(); len(got) != 1 || !got["b00"].Equal(at) {
			t.Errorf("parted %v, expected b00 at %v", got, at)
		}
		if _, err := n.LinkPeers(n.a.host.ID(), gone); err != nil {
			t.Fatal(err)
		}
		if _, err := n.ConnectPeers(gone, n.a.host.ID()); err != nil {
			t.Fatal(err)
		}
		if synctest.Wait(); len(n.a.Parted()) > 0 {
			t.Errorf("parted from one that is back: %v", n.a.Parted())
		}
	})
}

func TestANetworkThatComesAndGoesHasMembersDialledNoFasterThanTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const others, seconds = 40, 600
		n := newAir(t, others)
		time.Sleep(10 * maxBackoff)
		synctest.Wait()
		before := n.failed.Load()
		for range 10 * seconds {
			n.a.revive()
			time.Sleep(time.Second / 10)
		}
		synctest.Wait()
		most := 7*int64(reviveBurst+reviveRate*seconds) + 2*others*seconds/int64(maxBackoff/time.Second)
		if dials := n.failed.Load() - before; dials > most || dials < reviveBurst {
			t.Errorf("%d dials in %d s, want at most %d", dials, seconds, most)
		}
	})
}
