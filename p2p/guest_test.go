package p2p

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// door expects one guest, and says a word to it.
type door struct {
	guest notice.PublicKey
	shut  atomic.Bool
}

func (d *door) Expects(key notice.PublicKey) bool { return key == d.guest && !d.shut.Load() }

func (d *door) Receive(_ context.Context, key notice.PublicKey, s Stream) {
	b := make([]byte, 5)
	if _, err := io.ReadFull(s, b); err == nil {
		s.Write(append([]byte("welcome, "), b...))
	}
}

// within returns a context for one step of a test.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// bare returns a host's addresses without its name.
func bare(h *Host) []multiaddr.Multiaddr { return h.host.Addrs() }

func TestGuestIsReceivedAndLearnsWhomItTalksTo(t *testing.T) {
	for _, listen := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"} {
		t.Run(listen, func(t *testing.T) {
			c := found(t, "a", "b")
			guest := privateOf("guest")
			config := c.config(t, "a", newMemory())
			config.Listen, config.Guests = []string{listen}, &door{guest: notice.PublicKeyOf(guest)}
			a := startHost(t, config)
			v, err := NewVisit(within(t), guest, bare(a))
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			if v.Node != a.self {
				t.Errorf("the guest talks to %s, expected %s", v.Node, a.self)
			}
			if _, err := v.Write([]byte("guest")); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(v); err != nil || string(got) != "welcome, guest" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestGuestThatIsNotExpectedIsToldSo(t *testing.T) {
	c := found(t, "a", "b")
	guest := privateOf("guest")
	d := &door{guest: notice.PublicKeyOf(guest)}
	config := c.config(t, "a", newMemory())
	config.Guests = d
	a := startHost(t, config)
	for name, key := range map[string]ed25519.PrivateKey{"stranger": privateOf("stranger"), "guest whose invitation has ended": guest} {
		d.shut.Store(name != "stranger")
		v, err := NewVisit(within(t), key, bare(a))
		if err == nil {
			_, err = io.ReadAll(v)
			v.Close()
			if err == nil {
				t.Errorf("%s: received", name)
			}
		} else if !errors.Is(err, ErrUnexpected) {
			t.Errorf("%s: %v, expected ErrUnexpected", name, err)
		}
	}
	if _, err := NewVisit(within(t), guest, []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/tcp/9")}); err == nil || errors.Is(err, ErrUnexpected) {
		t.Errorf("where nobody listens: %v", err)
	}
}

func TestGuestMayUseNothingElse(t *testing.T) {
	c := found(t, "a", "b")
	guest := privateOf("guest")
	config := c.config(t, "a", newMemory())
	config.Guests = &door{guest: notice.PublicKeyOf(guest)}
	a := startHost(t, config)
	h := impersonate(t, guest)
	if err := h.Connect(within(t), peer.AddrInfo{ID: a.host.ID(), Addrs: bare(a)}); err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, id := range a.host.Mux().Protocols() {
		if id == joinProtocol || id == "/ipfs/id/1.0.0" || id == "/ipfs/id/push/1.0.0" {
			continue
		}
		asked++
		s, err := h.NewStream(within(t), a.host.ID(), id)
		if err != nil {
			continue
		}
		s.SetDeadline(time.Now().Add(10 * time.Second))
		s.Write([]byte{0})
		if b, err := io.ReadAll(s); err == nil {
			t.Errorf("%s answered a guest with %d bytes and no error", id, len(b))
		}
	}
	if asked < 4 {
		t.Errorf("only %d protocols were tried", asked)
	}
	if got := a.Connected(); len(got) > 0 {
		t.Errorf("a guest counts as a member: %q", got)
	}
}
