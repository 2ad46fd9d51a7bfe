package p2p

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"chorus/ledger/notice"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
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
	if err := a.Publish(t.Context(), other.says(t, "a", "")); !errors.Is(err, ErrMalformed) {
		t.Errorf("a notice under another charter: got %v, want ErrMalformed", err)
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
	b, x := notice.PublicKeyOf(c.node["b"]), notice.PublicKeyOf(other.node["x"])
	good, foreign := c.says(t, "b", ""), other.says(t, "x", "")
	other.charter = c.charter
	strange := other.says(t, "x", "")
	for _, test := range []struct {
		what string
		data []byte
		from notice.PublicKey
		want Verdict
	}{
		{"a notice", good.Envelope, b, Accept},
		{"a notice again", good.Envelope, b, Accept},
		{"a notice from a stranger's node", good.Envelope, x, Reject},
		{"a notice from a member's other key", good.Envelope, notice.PublicKeyOf(c.publishing["b"]), Reject},
		{"a notice of somebody whom another charter may list", strange.Envelope, b, Ignore},
		{"a notice of another consortium", foreign.Envelope, b, Reject},
		{"a broken notice", good.Envelope[1:], b, Reject},
	} {
		if got := a.engine.Receive(test.from, test.data); got != test.want {
			t.Errorf("%s: got %v, want %v", test.what, got, test.want)
		}
	}
	m.mu.Lock()
	m.fail = errors.New("disk full")
	m.mu.Unlock()
	if got := a.engine.Receive(b, c.says(t, "b", "more").Envelope); got != Ignore {
		t.Errorf("a notice that cannot be stored: got %v, want Ignore", got)
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

func TestExchangeOfTwoWhoHaveTheSameIsShort(t *testing.T) {
	names := []string{"a", "b"}
	for i := range 98 {
		names = append(names, fmt.Sprintf("c%02d", i))
	}
	c := found(t, names...)
	var notices []*notice.Notice
	for _, name := range names {
		notices = append(notices, c.says(t, name, ""))
	}
	a := c.start(t, "a", newMemory(notices...))
	b := c.start(t, "b", newMemory(), a)
	waitReconciled(t, a, b)
	waitMesh(t, a, 1)
	shortest := int64(1 << 40)
	for range 5 { // gossip and addresses may be on their way as well
		in, out := a.Traffic()
		if err := a.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		nowIn, nowOut := a.Traffic()
		shortest = min(shortest, nowIn-in+nowOut-out)
	}
	if shortest < 2*(5+openLen) || shortest > 400 {
		t.Errorf("the exchange takes %d bytes, want at most 400", shortest)
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
	has := newMemory(strange, good).of(c)
	err := converseRaw(t, a, c, func(s network.Stream) error {
		if err := greet(s, inventoryOf(has)); err != nil {
			return err
		}
		for {
			kind, body, err := readFrame(s)
			if err != nil {
				return err
			}
			switch kind {
			case frameWant:
				w, err := decodeWant(body)
				if err != nil {
					return err
				}
				p := newPage()
				for _, f := range w.feeds {
					envelopes, _, _ := has.Envelopes(f.key, f.seq, pageSize)
					for _, e := range envelopes {
						p.add(e)
					}
				}
				p.finish()
				if err := writeFrame(s, framePage, p.body); err != nil {
					return err
				}
			case frameDone:
				return errors.New("done, though a notice was refused")
			case frameLater:
				if err := errors.Join(writeFrame(s, frameDone, nil), s.CloseWrite()); err != nil {
					return err
				}
				_, err := io.Copy(io.Discard, s) // until the other side has ended it too
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
	a.Close() // on return every conversation is over
	select {
	case <-a.Reconciled():
		t.Error("reconciled, though what was refused may have been a revocation")
	default:
	}
}

// greet opens a conversation as somebody who has v.
func greet(w io.Writer, v inventory) error {
	if err := writeFrame(w, frameOpen, opening{time.Now(), v.digest()}.encode()); err != nil {
		return err
	}
	return writeFrame(w, frameHave, v.encode())
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
	open := opening{time.Now(), [32]byte{1}}.encode()
	nothing := inventory{}.encode()
	for what, send := range map[string]func(io.Writer){
		"an oversized open":      func(w io.Writer) { w.Write([]byte{frameOpen, 0xff, 0xff, 0xff, 0xff}) },
		"a have before the open": func(w io.Writer) { writeFrame(w, frameHave, nothing) },
		"a have with half an ID": func(w io.Writer) {
			writeFrame(w, frameOpen, open)
			writeFrame(w, frameHave, append(nothing, 1))
		},
		"a page that was not asked for": func(w io.Writer) {
			writeFrame(w, frameOpen, open)
			writeFrame(w, frameHave, nothing)
			writeFrame(w, framePage, []byte{1})
		},
		"a broken notice": func(w io.Writer) {
			writeFrame(w, frameOpen, open)
			writeFrame(w, frameHave, inventory{loose: []looseID{{1}}}.encode())
			writeFrame(w, framePage, []byte{1, 0, 0, 0, 1, '{'})
		},
		"a have after the have": func(w io.Writer) {
			writeFrame(w, frameOpen, open)
			writeFrame(w, frameHave, nothing)
			writeFrame(w, frameHave, nothing)
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
	for _, head := range [][]byte{{framePage, 0xff, 0xff, 0xff, 0xff}, {framePage, 0, 0x7f, 0xff, 0xff}, {frameDone, 0, 0, 0, 1}} {
		if n := allocated(func() {
			if _, _, err := readFrame(bytes.NewReader(head)); err == nil {
				t.Errorf("%x: read", head)
			}
		}); n > 64<<10 {
			t.Errorf("%x: %d bytes were allocated", head, n)
		}
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

// A hollow memory says what it has and has nothing.
type hollow struct{ *memory }

func (hollow) Envelopes(notice.PublicKey, uint64, int) ([][]byte, uint64, error) { return nil, 0, nil }

func TestAStoreThatLacksWhatItShowsIsAnErrorAndNoCrash(t *testing.T) {
	c := found(t, "a", "b")
	first, second := c.says(t, "b", "first"), c.says(t, "b", "second")
	a := NewEngine(EngineConfig{
		Self: notice.PublicKeyOf(c.node["a"]), Charter: c.charter.CID, Notices: hollow{newMemory(first, second).of(c)},
		Network: lonely{}, Log: slog.New(slog.DiscardHandler),
	})
	defer a.Close()
	own := a.notices.Frontiers()[0]
	their := notice.Frontier{Head: notice.Head{Key: own.Key, Seq: 1, CID: first.CID}}
	if _, _, err := (&conversation{e: a}).lacksAfter(own, their); err == nil {
		t.Errorf("%d notices are shown, none is served, and nothing is wrong", own.Seq)
	}
}
