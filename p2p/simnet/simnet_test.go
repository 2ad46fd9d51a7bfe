package simnet

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/p2p"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A consortium is nodes with ledgers on a network in memory.
type consortium struct {
	t       *testing.T
	net     *Net
	charter *notice.Notice
	members []*member
}

type member struct {
	publishing, node, recovery ed25519.PrivateKey
	ledger                     *ledger.Ledger
	place                      *Node
	engine                     *p2p.Engine
	last                       *notice.Notice // of its feed
}

func privateOf(seed string) ed25519.PrivateKey {
	sum := sha256.Sum256([]byte(seed))
	return ed25519.NewKeyFromSeed(sum[:])
}

// found starts a consortium of n members. It must be called inside a bubble, and ended there with close.
func found(t *testing.T, n int, seed uint64, usual Link) *consortium {
	t.Helper()
	return foundWith(t, n, n, seed, usual)
}

// foundWith starts the first up of n members.
func foundWith(t *testing.T, n, up int, seed uint64, usual Link) *consortium {
	t.Helper()
	hash, err := multihash.Sum(nil, multihash.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	c := &consortium{t: t, net: New(seed, usual)}
	body := &notice.Charter{
		Name: "test", Version: 1, Anchor: cid.NewCidV1(cid.Raw, hash), Quorum: 1, Stewards: []string{"m000"},
		LeaseSeconds: 3600, LeaseCeilingSeconds: 7200, MaxBlobBytes: 1 << 30, OffersPerDay: 10,
	}
	for i := range n {
		name := fmt.Sprintf("m%03d", i)
		m := &member{publishing: privateOf(name + " publishing"), node: privateOf(name + " node"), recovery: privateOf(name + " recovery")}
		c.members = append(c.members, m)
		body.Members = append(body.Members, notice.Member{Name: name, Publishing: notice.PublicKeyOf(m.publishing), Node: m.key(), Recovery: notice.PublicKeyOf(m.recovery)})
	}
	if c.charter, err = notice.Sign(body, c.members[0].publishing); err != nil {
		t.Fatal(err)
	}
	c.members = c.members[:up]
	dir := t.TempDir()
	for i, m := range c.members {
		if m.ledger, err = ledger.Open(filepath.Join(dir, fmt.Sprint(i)), c.charter); err != nil {
			t.Fatal(err)
		}
		m.place = c.net.Join(m.key())
		m.engine = p2p.NewEngine(p2p.EngineConfig{
			Self: m.key(), Charter: c.charter.CID, Notices: store{m.ledger}, Network: m.place, Log: slog.New(slog.DiscardHandler),
		})
	}
	for _, m := range c.members {
		m.place.Start(m.engine)
	}
	return c
}

func (c *consortium) close() {
	for _, m := range c.members {
		m.place.Stop()
		m.engine.Close()
	}
	c.net.Wait()
	for _, m := range c.members {
		if err := m.ledger.Close(); err != nil {
			c.t.Error(err)
		}
	}
}

func (m *member) key() notice.PublicKey { return notice.PublicKeyOf(m.node) }

// says signs what follows prev in a member's feed.
func (c *consortium) says(m *member, prev *notice.Notice, body notice.Body) *notice.Notice {
	c.t.Helper()
	return c.signs(m.publishing, prev, body)
}

// signs signs what follows prev in a key's feed.
func (c *consortium) signs(key ed25519.PrivateKey, prev *notice.Notice, body notice.Body) *notice.Notice {
	c.t.Helper()
	h := notice.Header{Charter: c.charter.CID, Key: notice.PublicKeyOf(key), Seq: 1, Time: time.Now()}
	if prev != nil {
		h.Seq, h.Prev = prev.Header().Seq+1, prev.CID
	}
	body, err := notice.WithHeader(body, h)
	if err != nil {
		c.t.Fatal(err)
	}
	n, err := notice.Sign(body, key)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

func all(reason string) *notice.Revocation { return &notice.Revocation{All: true, Reason: reason} }

// publish has a member sign the next notice of its feed and spread it.
func (c *consortium) publish(m *member, body notice.Body) *notice.Notice {
	c.t.Helper()
	m.last = c.says(m, m.last, body)
	if err := m.engine.Publish(c.t.Context(), m.last); err != nil {
		c.t.Fatal(err)
	}
	return m.last
}

func (c *consortium) keys() (keys []notice.PublicKey) {
	for _, m := range c.members {
		keys = append(keys, m.key())
	}
	return keys
}

// agree reports whether every member holds the same.
func (c *consortium) agree() bool {
	held := func(m *member) []notice.Frontier {
		f := m.ledger.Frontiers()
		slices.SortFunc(f, func(a, b notice.Frontier) int { return compareKeys(a.Key, b.Key) })
		return f
	}
	first := held(c.members[0])
	return !slices.ContainsFunc(c.members, func(m *member) bool { return !slices.Equal(held(m), first) })
}

func TestNoticesOfFiftyNodesConvergeAfterPartitionsHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := found(t, 50, 1, Link{Delay: 20 * time.Millisecond, Jitter: 200 * time.Millisecond, Loss: 0.3, Break: 0.1})
		defer c.close()
		random := rand.New(rand.NewPCG(1, 1))
		for range 5 {
			keys := c.keys()
			random.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			c.net.Partition(keys[:10], keys[10:25])
			for range 10 {
				c.publish(c.members[random.IntN(50)], all("partitioned"))
				time.Sleep(time.Duration(random.Int64N(int64(10 * time.Second))))
			}
		}
		if c.agree() {
			t.Error("members of different sides hold the same: the partition did nothing")
		}
		c.net.Heal()
		time.Sleep(2 * time.Minute)
		if !c.agree() {
			t.Error("members do not hold the same two minutes after the network healed")
		}
	})
}

func TestWithheldRevocationShowsAsAHoleAtTheNextHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := found(t, 3, 2, Link{Delay: time.Millisecond})
		defer c.close()
		owner, holder, other := c.members[0], c.members[1], c.members[2]
		c.net.Partition([]notice.PublicKey{owner.key()}) // its notices come by way of others
		withheld := c.says(owner, nil, all("withheld"))
		next := c.says(owner, withheld, all("next"))
		if _, err := holder.ledger.Add(next); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		gaps := other.ledger.Missing()
		if len(gaps) != 1 || gaps[0].First != 1 || gaps[0].Last != 1 {
			t.Errorf("gaps at the other node: %v, want the withheld notice", gaps)
		}
		if _, err := owner.ledger.Add(withheld); err != nil {
			t.Fatal(err)
		}
		c.net.Heal()
		time.Sleep(2 * time.Minute)
		if gaps := other.ledger.Missing(); len(gaps) > 0 || !c.agree() {
			t.Errorf("gaps after the owner is back: %v", gaps)
		}
	})
}

func TestOneConversationBringsWhatKeysSayThatNameEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := found(t, 2, 7, Link{Delay: time.Millisecond, Loss: 1}) // nothing by gossip
		defer c.close()
		has, lacks := c.members[0], c.members[1]
		c.net.Partition([]notice.PublicKey{has.key()})
		// The recovery key names the next of many publishing keys, of which each lends the next delegate a power. What
		// these say takes pages, of which some come before what makes them somebody.
		key, prev := has.publishing, (*notice.Notice)(nil)
		var all []*notice.Notice
		var offers []cid.Cid
		for i := range 600 {
			offers = append(offers, notice.Identity(sha256.Sum256([]byte{byte(i), byte(i >> 8)})))
		}
		slices.SortFunc(offers, notice.CompareCID)
		for i := range 5 {
			next, delegate := privateOf(fmt.Sprint("next ", i)), privateOf(fmt.Sprint("delegate ", i))
			prev = c.signs(has.recovery, prev, notice.NewRotation(c.charter.CID, notice.PublicKeyOf(has.recovery), notice.RotatePublishing, notice.PublicKeyOf(key), next))
			key = next
			all = append(all, prev, c.signs(key, nil, &notice.Delegation{Delegate: notice.PublicKeyOf(delegate), Renew: true, Revoke: true, NotAfter: time.Now().Add(time.Hour)}))
			var lease *notice.Notice
			for range 50 {
				lease = c.signs(delegate, lease, &notice.Lease{Offers: offers, Heads: []notice.Head{}, NotAfter: time.Now().Add(time.Hour)})
				all = append(all, lease)
			}
		}
		if _, err := has.ledger.Add(all...); err != nil {
			t.Fatal(err)
		}
		c.net.Heal()
		if err := lacks.engine.Sync(t.Context()); err != nil || !c.agree() || len(lacks.ledger.Frontiers()) != 11 {
			t.Errorf("after one synchronisation the other node has %d feeds, error %v", len(lacks.ledger.Frontiers()), err)
		}
	})
}

func TestDeliverWaitsForOneNodeAndNotForTheSlowOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := found(t, 3, 5, Link{Delay: time.Millisecond, Loss: 1}) // nothing by gossip
		defer c.close()
		has, slow, fast := c.members[0], c.members[1], c.members[2]
		c.net.Set(has.key(), slow.key(), Link{Delay: 5 * time.Second, Loss: 1})
		time.Sleep(30 * time.Second) // the first conversations are over, and the next not due
		n := c.says(has, nil, all("it leaves"))
		if _, err := has.ledger.Add(n); err != nil {
			t.Fatal(err)
		}
		if err := has.engine.Deliver(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := fast.ledger.Get(n.CID); err != nil {
			t.Errorf("nobody has it: %v", err)
		}
		if _, err := slow.ledger.Get(n.CID); err == nil {
			t.Error("it waited until the slow one had it too")
		}
	})
}

func TestProofOfAForkReachesEverybody(t *testing.T) {
	for _, lengths := range [][2]int{{1, 1}, {1, 4}, {4, 1}, {3, 2}} {
		t.Run(fmt.Sprint(lengths), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := found(t, 10, 3, Link{Delay: time.Millisecond, Loss: 1}) // nothing by gossip
				defer c.close()
				forker := c.members[9]
				trunk := c.says(forker, nil, all("trunk"))
				for i, length := range lengths {
					c.members[i].ledger.Add(trunk)
					prev := trunk
					for j := range length {
						prev = c.says(forker, prev, all(fmt.Sprint(i, j)))
						if _, err := c.members[i].ledger.Add(prev); err != nil {
							t.Fatal(err)
						}
					}
				}
				time.Sleep(5 * time.Minute)
				if !c.agree() {
					t.Error("members do not hold the same")
				}
				for i, m := range c.members {
					if f := m.ledger.Frontiers(); len(f) != 1 || f[0].Seq != 1 || f[0].Rest == [32]byte{} {
						t.Errorf("member %d sees no fork after the trunk: %v", i, f)
					}
				}
			})
		})
	}
}

// A node that the charter lets go is connected with nobody; once it is on it again, it is met at once.
func TestWhoIsAdmittedIsConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := found(t, 4, 6, Link{Delay: 10 * time.Millisecond})
		defer c.close()
		gone, others := c.members[3], c.members[:3]
		for _, m := range c.members {
			m.place.Stop()
			m.place.Admits = func(key notice.PublicKey) (connects, counts bool) {
				_, node, ok := store{m.ledger}.Seat(key)
				return ok, node
			}
			m.place.Start(m.engine)
		}
		prev := c.charter
		change := func(members ...*member) {
			body := *prev.Body.(*notice.Charter)
			body.Version, body.Prev = body.Version+1, prev.CID
			body.Members = c.charter.Body.(*notice.Charter).Members[:len(members)]
			var err error
			if prev, err = notice.Sign(&body, c.members[0].publishing); err != nil {
				t.Fatal(err)
			}
			for _, m := range others { // by gossip it would take no longer
				if _, err := m.ledger.Add(prev); err != nil {
					t.Fatal(err)
				}
				m.place.Enrol()
			}
			time.Sleep(2 * time.Second)
		}
		time.Sleep(5 * time.Second)
		if n := len(gone.engine.Peers()); n != 3 {
			t.Fatalf("it has met %d others, want 3", n)
		}
		change(others...)
		for _, m := range others {
			if slices.Contains(m.place.Connected(), gone.key()) || slices.Contains(m.place.Peers(), gone.key()) {
				t.Error("a member that was removed is connected")
			}
		}
		if _, err := gone.place.Open(t.Context(), others[0].key()); !errors.Is(err, ErrUnreachable) {
			t.Errorf("it opens a stream: %v", err)
		}
		left := c.publish(others[1], all("after it left"))
		time.Sleep(5 * time.Minute)
		if _, err := gone.ledger.Get(left.CID); err == nil {
			t.Error("it hears what others say after it left")
		}
		change(c.members...)
		if _, err := gone.ledger.Get(left.CID); err != nil {
			t.Errorf("it is admitted again and does not hear what others said: %v", err)
		}
	})
}

func TestIdleNodesStayInTouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := found(t, 5, 4, Link{Delay: 10 * time.Millisecond})
		defer c.close()
		time.Sleep(10 * time.Minute)
		for i, m := range c.members {
			peers := m.engine.Peers()
			if len(peers) != 4 {
				t.Fatalf("member %d has synchronised with %d others, want 4", i, len(peers))
			}
			for _, p := range peers {
				if since := time.Since(p.Synced); since > 70*time.Second || p.Offset.Abs() > 20*time.Millisecond {
					t.Errorf("member %d and %s: last synchronised %v ago, clocks apart by %v", i, p.Member, since, p.Offset)
				}
			}
		}
	})
}

func TestIdlePairOfAHundredMembersExchangesLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := foundWith(t, 100, 2, 5, Link{Delay: 10 * time.Millisecond})
		defer c.close()
		for i := range 20 {
			c.publish(c.members[i%2], all("before it is quiet"))
		}
		time.Sleep(3 * time.Minute)
		before := c.net.Carried()
		time.Sleep(10 * time.Minute)
		if got := c.net.Carried() - before; got == 0 || got > 10*200 {
			t.Errorf("%d bytes in ten minutes, want some and at most 2000", got)
		}
	})
}
