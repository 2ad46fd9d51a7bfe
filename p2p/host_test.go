package p2p

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A consortium is a charter and the keys of its members.
type consortium struct {
	charter          *notice.Notice
	publishing, node map[string]ed25519.PrivateKey
	heads            map[string]*notice.Notice // last notice of each feed
}

func privateOf(seed string) ed25519.PrivateKey {
	sum := sha256.Sum256([]byte(seed))
	return ed25519.NewKeyFromSeed(sum[:])
}

// found makes the charter of members, whose names must be sorted.
func found(t testing.TB, names ...string) *consortium {
	t.Helper()
	c := &consortium{
		publishing: make(map[string]ed25519.PrivateKey),
		node:       make(map[string]ed25519.PrivateKey),
		heads:      make(map[string]*notice.Notice),
	}
	charter := &notice.Charter{
		Name: "test", Version: 1, Anchor: newCID(cid.Raw, digest{}), Stewards: names[:1], Quorum: 1,
		LeaseSeconds: 3600, LeaseCeilingSeconds: 7200, MaxBlobBytes: 1 << 30, OffersPerDay: 100,
	}
	for _, name := range names {
		c.publishing[name], c.node[name] = privateOf(name+" publishing"), privateOf(name+" node")
		charter.Members = append(charter.Members, notice.Member{
			Name: name, Publishing: notice.PublicKeyOf(c.publishing[name]), Node: notice.PublicKeyOf(c.node[name]),
		})
	}
	var err error
	if c.charter, err = notice.Sign(charter, c.publishing[names[0]]); err != nil {
		t.Fatal(err)
	}
	return c
}

// says signs the next notice of a member's feed, a revocation for a reason that it may be told by.
func (c *consortium) says(t testing.TB, name, reason string) *notice.Notice {
	t.Helper()
	n := c.saysAfter(t, c.heads[name], name, reason)
	c.heads[name] = n
	return n
}

// saysAfter signs a notice that follows prev, or begins the feed if prev is nil.
func (c *consortium) saysAfter(t testing.TB, prev *notice.Notice, name, reason string) *notice.Notice {
	t.Helper()
	key := c.publishing[name]
	h := notice.Header{Charter: c.charter.CID, Key: notice.PublicKeyOf(key), Seq: 1, Time: time.Unix(1700000000, 0).UTC()}
	if prev != nil {
		h.Seq, h.Prev = prev.Header().Seq+1, prev.CID
	}
	n, err := notice.Sign(&notice.Revocation{Header: h, All: true, Reason: reason}, key)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// config is a member's, with a store of its own and no peers.
func (c *consortium) config(t testing.TB, name string, notices *memory) Config {
	t.Helper()
	return Config{
		Key: c.node[name], Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Charter: c.charter.CID,
		Notices: notices.of(c), Blobs: newStore(t), Log: slog.New(slog.DiscardHandler),
	}
}

// start starts the host of a member, which knows the addresses of peers.
func (c *consortium) start(t testing.TB, name string, notices *memory, peers ...*Host) *Host {
	t.Helper()
	config := c.config(t, name, notices)
	for _, p := range peers {
		config.Peers = append(config.Peers, p.Addrs()...)
	}
	return startHost(t, config)
}

func startHost(t testing.TB, config Config) *Host {
	t.Helper()
	h, err := New(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// impersonate starts a bare libp2p host under a key, to which a test gives handlers of its own.
func impersonate(t testing.TB, key ed25519.PrivateKey) host.Host {
	t.Helper()
	k, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(k), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func addrsOf(h host.Host) (addrs []string) {
	for _, a := range h.Addrs() {
		addrs = append(addrs, fmt.Sprintf("%s/p2p/%s", a, h.ID()))
	}
	return addrs
}

// waitConnected returns when exactly these members are connected.
func waitConnected(t testing.TB, h *Host, names ...string) {
	t.Helper()
	sub, err := h.host.EventBus().Subscribe(new(event.EvtPeerConnectednessChanged))
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	timeout := time.After(30 * time.Second)
	for !slices.Equal(h.Connected(), names) {
		select {
		case <-sub.Out():
		case <-timeout:
			t.Fatalf("connected to %q after 30 s, want %q", h.Connected(), names)
		}
	}
}

// waitReconciled returns when each host is reconciled.
func waitReconciled(t testing.TB, hosts ...*Host) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for _, h := range hosts {
		select {
		case <-h.Reconciled():
		case <-timeout:
			t.Fatalf("%s was not reconciled in 30 s", h.self)
		}
	}
}

// A logBuffer is a log that a test reads.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestStrangerCannotConnect(t *testing.T) {
	c := found(t, "a", "b")
	a := c.start(t, "a", newMemory())
	stranger := impersonate(t, privateOf("stranger"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := stranger.Connect(ctx, *host.InfoFromHost(a.host)); err == nil {
		// The dialling side may believe in the connection until it uses it.
		if _, err := stranger.NewStream(ctx, a.host.ID(), blobProtocol); err == nil {
			t.Error("a stranger opened a stream")
		}
	}
	if err := a.host.Connect(ctx, *host.InfoFromHost(stranger)); err == nil {
		t.Error("the host connected to a stranger")
	}
	if got := a.host.Network().Peers(); len(got) > 0 {
		t.Errorf("connected to %v", got)
	}
}

func TestNewRefusesTheKeyOfAStranger(t *testing.T) {
	c := found(t, "a", "b")
	config := c.config(t, "a", newMemory())
	config.Key = privateOf("stranger")
	if h, err := New(t.Context(), config); !errors.Is(err, ErrNotMember) {
		t.Errorf("node key of a stranger: got %v, %v, want ErrNotMember", h, err)
	}
}

// A member may have left, or have another node key, since its address was configured: that keeps nobody from starting.
func TestAConfiguredAddressThatIsOfNoMemberIsToldAndNotDialled(t *testing.T) {
	c := found(t, "a", "b")
	b := c.start(t, "b", newMemory())
	stranger := impersonate(t, privateOf("stranger"))
	config := c.config(t, "a", newMemory())
	config.Peers = append(addrsOf(stranger), b.Addrs()...)
	a := startHost(t, config)
	waitReconciled(t, a, b)
	if got := a.Strangers(config.Peers); !slices.Equal(got, addrsOf(stranger)) {
		t.Errorf("strangers: %q, expected %q", got, addrsOf(stranger))
	}
	if err := a.host.Connect(t.Context(), peer.AddrInfo{ID: stranger.ID(), Addrs: stranger.Addrs()}); err == nil || len(stranger.Network().Peers()) > 0 {
		t.Errorf("it dialled the stranger: %v", err)
	}
}

func TestOneKnownPeerLeadsToAll(t *testing.T) {
	c := found(t, "a", "b", "c", "d")
	a := c.start(t, "a", newMemory())
	b := c.start(t, "b", newMemory(), a)
	cc := c.start(t, "c", newMemory(), a)
	d := c.start(t, "d", newMemory(), cc)
	waitConnected(t, d, "a", "b", "c")
	waitConnected(t, a, "b", "c", "d")
	waitConnected(t, b, "a", "c", "d")
}

func TestHostComesBackToAMemberThatRestarted(t *testing.T) {
	c := found(t, "a", "b")
	config := c.config(t, "a", newMemory())
	a, err := New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	b := c.start(t, "b", newMemory(), a)
	waitConnected(t, b, "a")
	config.Listen = []string{a.host.Addrs()[0].String()}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	waitConnected(t, b)
	a = startHost(t, config)
	waitConnected(t, b, "a")
	waitReconciled(t, a)
}

func TestMembersConnectOverQUIC(t *testing.T) {
	c := found(t, "a", "b")
	config := c.config(t, "a", newMemory())
	config.Listen = []string{"/ip4/127.0.0.1/udp/0/quic-v1"}
	a := startHost(t, config)
	b := c.start(t, "b", newMemory(), a)
	waitReconciled(t, a, b)
	for range converseBurst / 2 { // of which either side may be the first to leave
		if err := b.Sync(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestHostThatDoesNotListenDialsOut(t *testing.T) {
	c := found(t, "a", "b")
	a := c.start(t, "a", newMemory())
	config := c.config(t, "b", newMemory())
	config.Listen, config.Peers = nil, a.Addrs()
	b := startHost(t, config)
	waitReconciled(t, a, b)
	if addrs := b.Addrs(); len(addrs) > 0 {
		t.Errorf("the host listens at %q", addrs)
	}
}
