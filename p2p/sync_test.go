package p2p

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/go-json-experiment/json"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pubsubpb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
)

// waitMesh returns when a host knows of n others that take part in gossip.
func waitMesh(t *testing.T, h *Host, n int) {
	t.Helper()
	events, err := h.topic.EventHandler()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Cancel()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for n > 0 {
		e, err := events.NextPeerEvent(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == pubsub.PeerJoin {
			n--
		}
	}
}

func TestGossipReachesAll(t *testing.T) {
	c := found(t, "a", "b", "c")
	ma, mb, mc := newMemory(), newMemory(), newMemory()
	a := c.start(t, "a", ma)
	b := c.start(t, "b", mb, a)
	cc := c.start(t, "c", mc, b)
	waitReconciled(t, a, b, cc)
	for _, h := range []*Host{a, b, cc} {
		waitMesh(t, h, 2)
	}
	n := c.says(t, "a", "gossip")
	if err := a.Publish(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	ma.waitFor(t, n)
	mb.waitFor(t, n)
	mc.waitFor(t, n)
}

func TestPublishRefusesWhatIsNoMembersFeed(t *testing.T) {
	c, other := found(t, "a", "b"), found(t, "a", "x")
	m := newMemory()
	a := c.start(t, "a", m)
	if err := a.Publish(t.Context(), c.charter); !errors.Is(err, ErrMalformed) {
		t.Errorf("a charter: got %v, want ErrMalformed", err)
	}
	if err := a.Publish(t.Context(), other.says(t, "a", "")); !errors.Is(err, ErrNotMember) {
		t.Errorf("a notice under another charter: got %v, want ErrNotMember", err)
	}
	other.charter = c.charter
	if err := a.Publish(t.Context(), other.says(t, "x", "")); !errors.Is(err, ErrNotMember) {
		t.Errorf("a stranger's notice: got %v, want ErrNotMember", err)
	}
}

func TestGossipIsJudgedBeforeItIsForwarded(t *testing.T) {
	c, other := found(t, "a", "b"), found(t, "a", "x")
	m := newMemory()
	a := c.start(t, "a", m)
	b, err := peerIDOf(notice.PublicKeyOf(c.node["b"]))
	if err != nil {
		t.Fatal(err)
	}
	x, err := peerIDOf(notice.PublicKeyOf(other.node["x"]))
	if err != nil {
		t.Fatal(err)
	}
	good := c.says(t, "b", "")
	other.charter = c.charter
	strange := other.says(t, "x", "")
	message := func(data []byte, from string) *pubsub.Message {
		return &pubsub.Message{Message: &pubsubpb.Message{Data: data, From: []byte(from)}}
	}
	for _, test := range []struct {
		what string
		data []byte
		from string
		want pubsub.ValidationResult
	}{
		{"a notice", good.Envelope, string(b), pubsub.ValidationAccept},
		{"a notice again", good.Envelope, string(b), pubsub.ValidationAccept},
		{"a notice from a stranger's node", good.Envelope, string(x), pubsub.ValidationReject},
		{"a stranger's notice", strange.Envelope, string(b), pubsub.ValidationReject},
		{"a broken notice", good.Envelope[1:], string(b), pubsub.ValidationReject},
	} {
		if got := a.validate(t.Context(), b, message(test.data, test.from)); got != test.want {
			t.Errorf("%s: got %v, want %v", test.what, got, test.want)
		}
	}
	m.mu.Lock()
	m.fail = errors.New("disk full")
	m.mu.Unlock()
	if got := a.validate(t.Context(), b, message(c.says(t, "b", "more").Envelope, string(b))); got != pubsub.ValidationIgnore {
		t.Errorf("a notice that cannot be stored: got %v, want ValidationIgnore", got)
	}
}

func TestLateJoinerGetsEverything(t *testing.T) {
	c := found(t, "a", "b", "c")
	var all []*notice.Notice
	for i := range 600 { // more than a page of the store, and of the protocol
		all = append(all, c.says(t, "a", fmt.Sprint(i, strings.Repeat(" long", 50))))
	}
	gap := []*notice.Notice{c.says(t, "b", "1"), c.says(t, "b", "2"), c.says(t, "b", "3")}
	ma, mb := newMemory(append(all, gap[0], gap[2])...), newMemory()
	a := c.start(t, "a", ma)
	b := c.start(t, "b", mb, a)
	waitReconciled(t, a, b)
	if !mb.holds(all...) || !mb.holds(gap[0], gap[2]) {
		t.Error("the late joiner is reconciled and lacks notices")
	}
}

// Members are reconciled before each knows that the other listens to gossip.
func TestNoticePublishedBeforeThePeerListensArrives(t *testing.T) {
	c := found(t, "a", "b")
	for i := range 10 {
		ma, mb := newMemory(), newMemory()
		a := c.start(t, "a", ma)
		b := c.start(t, "b", mb, a)
		waitReconciled(t, a)
		n := c.saysAfter(t, nil, "a", fmt.Sprint(i))
		if err := a.Publish(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		mb.waitFor(t, n)
		if err := errors.Join(a.Close(), b.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSyncGoesBothWays(t *testing.T) {
	c := found(t, "a", "b")
	one, two := c.says(t, "a", "one"), c.says(t, "a", "two")
	other := c.says(t, "b", "")
	ma, mb := newMemory(one, two), newMemory(one, other)
	a := c.start(t, "a", ma)
	if err := a.Sync(t.Context()); !errors.Is(err, ErrAlone) {
		t.Errorf("sync alone: got %v, want ErrAlone", err)
	}
	b := c.start(t, "b", mb, a)
	waitReconciled(t, a, b)
	if !ma.holds(one, two, other) || !mb.holds(one, two, other) {
		t.Error("both are reconciled and lack notices")
	}
	three := c.says(t, "a", "three")
	ma.Add(three)
	if err := b.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !mb.holds(three) {
		t.Error("Sync returned before the notice was there")
	}
}

func TestBothBranchesOfAForkReachEverybody(t *testing.T) {
	for _, lengths := range [][2]int{{1, 1}, {1, 3}, {3, 1}, {2, 3}} {
		c := found(t, "a", "b", "c")
		trunk := c.says(t, "c", "trunk")
		branches := [2][]*notice.Notice{}
		for i, n := range lengths {
			prev := trunk
			for j := range n {
				prev = c.saysAfter(t, prev, "c", fmt.Sprint(i, j))
				branches[i] = append(branches[i], prev)
			}
		}
		ma, mb := newMemory(append(branches[0], trunk)...), newMemory(append(branches[1], trunk)...)
		a := c.start(t, "a", ma)
		b := c.start(t, "b", mb, a)
		waitReconciled(t, a, b)
		if err := b.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		for name, m := range map[string]*memory{"a": ma, "b": mb} {
			if !m.holds(branches[0]...) || !m.holds(branches[1]...) {
				t.Errorf("branches of %v notices: %s lacks a part", lengths, name)
			}
		}
	}
}

func TestForkKnownBeforeAStartIsPassedOn(t *testing.T) {
	c := found(t, "a", "b", "c")
	one, other := c.saysAfter(t, nil, "c", "one"), c.saysAfter(t, nil, "c", "other")
	two := c.saysAfter(t, one, "c", "two")
	mb := newMemory(one, two)
	a := c.start(t, "a", newMemory(one, other, two))
	b := c.start(t, "b", mb, a)
	waitReconciled(t, a, b)
	if !mb.holds(other) {
		t.Error("the other branch did not arrive")
	}
}

func TestStrangersNoticeIsNotTakenBySync(t *testing.T) {
	c, other := found(t, "a", "b"), found(t, "a", "x")
	other.charter = c.charter
	strange, good := other.says(t, "x", ""), c.says(t, "b", "")
	m := newMemory()
	a := c.start(t, "a", m)
	err := converseRaw(t, a, c, func(s network.Stream) error {
		if err := writeFrame(s, frameHello, []byte(`{"heads":[],"addrs":[]}`)); err != nil {
			return err
		}
		if err := writeFrame(s, framePage, appendToPage(appendToPage(nil, strange), good)); err != nil {
			return err
		}
		if err := writeFrame(s, frameEnd, nil); err != nil {
			return err
		}
		if err := writeFrame(s, frameDone, nil); err != nil {
			return err
		}
		for {
			if kind, _, err := readFrame(s); err != nil || kind == frameDone {
				return err
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if m.holds(strange) || !m.holds(good) {
		t.Errorf("holds the stranger's notice: %v, the member's: %v", m.holds(strange), m.holds(good))
	}
}

// converseRaw talks the sync protocol as member b.
func converseRaw(t *testing.T, a *Host, c *consortium, talk func(network.Stream) error) error {
	t.Helper()
	b := impersonate(t, c.node["b"])
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := b.Connect(ctx, *host.InfoFromHost(a.host)); err != nil {
		t.Fatal(err)
	}
	s, err := b.NewStream(ctx, a.host.ID(), syncProtocol)
	if err != nil {
		t.Fatal(err)
	}
	s.SetDeadline(time.Now().Add(30 * time.Second))
	return talk(s)
}

func TestSyncEndsAtBadFrames(t *testing.T) {
	greeting := []byte(`{"heads":[],"addrs":[]}`)
	for what, send := range map[string]func(io.Writer){
		"an oversized hello":      func(w io.Writer) { w.Write([]byte{frameHello, 0xff, 0xff, 0xff, 0xff}) },
		"a page before the hello": func(w io.Writer) { writeFrame(w, framePage, nil) },
		"an unknown field":        func(w io.Writer) { writeFrame(w, frameHello, []byte(`{"heads":[],"addrs":[],"x":1}`)) },
		"a broken notice": func(w io.Writer) {
			writeFrame(w, frameHello, greeting)
			writeFrame(w, framePage, []byte{0, 0, 0, 1, '{'})
		},
		"a hello after the hello": func(w io.Writer) {
			writeFrame(w, frameHello, greeting)
			writeFrame(w, frameHello, greeting)
		},
		"an end before done": func(w io.Writer) {
			writeFrame(w, frameHello, greeting)
			writeFrame(w, frameEnd, nil)
			writeFrame(w, frameEnd, nil)
		},
	} {
		t.Run(what, func(t *testing.T) {
			c := found(t, "a", "b")
			var log logBuffer
			config := c.config(t, "a", newMemory())
			config.Log = slog.New(slog.NewTextHandler(&log, nil))
			a := startHost(t, config)
			err := converseRaw(t, a, c, func(s network.Stream) error {
				send(s)
				_, err := io.Copy(io.Discard, s)
				return err
			})
			if !errors.Is(err, network.ErrReset) {
				t.Errorf("the stream ended with %v, want a reset", err)
			}
			select {
			case <-a.Reconciled():
				t.Error("the host counts this as reconciled")
			default:
			}
		})
	}
}

func TestOversizedFrameIsRefusedBeforeAllocation(t *testing.T) {
	head := []byte{framePage, 0xff, 0xff, 0xff, 0xff}
	if n := allocated(func() {
		if _, _, err := readFrame(bytes.NewReader(head)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("got %v, want ErrTooLarge", err)
		}
	}); n > 64<<10 {
		t.Errorf("%d bytes were allocated", n)
	}
}

// allocated returns how many bytes are allocated while f runs.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{frameEnd, 0, 0, 0, 0})
	f.Add([]byte{framePage, 0, 0, 0, 2, 'a', 'b'})
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, body, err := readFrame(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeFrame(&again, kind, body); err != nil || !bytes.HasPrefix(b, again.Bytes()) {
			t.Errorf("accepted a frame that encodes otherwise: %v", err)
		}
	})
}

func FuzzDecodeHello(f *testing.F) {
	c := found(f, "a")
	n := c.says(f, "a", "")
	seed, err := json.Marshal(hello{
		Heads: []feedHead{{n.Header().Key, 1, n.CID.String(), true}},
		Addrs: []memberAddrs{{notice.PublicKeyOf(c.node["a"]), []string{"/ip4/127.0.0.1/tcp/4001"}}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeHello(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeHello(again); err != nil {
			t.Errorf("accepted a hello, but not its encoding: %v", err)
		}
	})
}

func FuzzDecodePage(f *testing.F) {
	c := found(f, "a")
	f.Add(appendToPage(appendToPage(nil, c.says(f, "a", "one")), c.says(f, "a", "two")))
	f.Add(binary.BigEndian.AppendUint32(nil, 1<<31))
	f.Fuzz(func(t *testing.T, b []byte) {
		notices, err := decodePage(b)
		if err != nil {
			return
		}
		var again []byte
		for _, n := range notices {
			again = appendToPage(again, n)
		}
		if !bytes.Equal(again, b) {
			t.Error("accepted a page that encodes otherwise")
		}
	})
}
