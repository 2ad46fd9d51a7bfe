package node

import (
	"crypto/ed25519"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// rotate has a member's recovery key name a new publishing or node key, by way of its own node, and puts that into the home.
func (c *consortium) rotate(name string, role notice.RotatedRole) (old ed25519.PrivateKey) {
	c.Helper()
	h := c.homes[name]
	recovery, err := loadKey(h.RecoveryKeyPath())
	c.must(err)
	path := h.PublishingKeyPath()
	if role == notice.RotateNode {
		path = h.NodeKeyPath()
	}
	old, err = loadKey(path)
	c.must(err)
	f, err := NewKeyFile(KeyInfo{})
	c.must(err)
	c.must(f.Write(path + newKey))
	key, err := f.Private()
	c.must(err)
	e, err := NewErrand(c.Context(), ErrandConfig{Key: recovery, Charter: c.charter.CID, Peers: c.nodes[name].Host().Addrs(), Within: patience, Log: discard()})
	c.must(err)
	_, err = e.Rotate(c.Context(), role, notice.PublicKey{}, key)
	c.must(errors.Join(err, e.Close()))
	c.must(h.Replace(path))
	return old
}

// card makes the home of an organisation and returns its card.
func (c *consortium) card(name string) notice.Member {
	c.Helper()
	m, err := newHome(c.T, name).Member(name)
	c.must(err)
	return m
}

// listed is the publishing key that the charter which holds on a node lists for a member.
func listed(n *Node, member string) notice.PublicKey {
	m, _ := n.ledger.Charter().Named(member)
	return m.Publishing
}

func TestASoleStewardPutsItsNewKeyOnTheCharterWithTheOldOne(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "east", "west")
	c.up("east", "west")
	east := c.nodes["east"]
	if _, err := east.Propose(t.Context(), Change{}); err == nil || !strings.Contains(err.Error(), "changes nothing") {
		t.Errorf("without a change: %v", err)
	}
	old := c.rotate("east", notice.RotatePublishing)
	again := c.rotate("east", notice.RotatePublishing) // which must not lose the key that the charter lists
	if got := c.charters("east").Replaced; len(got) != 1 || got[0].Listed != notice.PublicKeyOf(old) || got[0].Now != notice.PublicKeyOf(c.key("east")) || !got[0].Steward {
		t.Errorf("replaced: %+v", got)
	}
	for _, name := range []string{"east", "west"} {
		if got := finding(c.doctor(c.nodes[name]), "charter"); !strings.Contains(got, "notable: The publishing key "+keyWords(notice.PublicKeyOf(old))+" of east, which the charter lists, was replaced by") {
			t.Errorf("the doctor of %s: %q", name, got)
		}
	}
	s, err := east.Propose(t.Context(), Change{})
	c.must(err)
	if want := "gives east another publishing key: " + keyWords(notice.PublicKeyOf(c.key("east"))) + " instead of " + keyWords(notice.PublicKeyOf(old)); !s.Holds || strings.Join(s.Changes, ", ") != want {
		t.Errorf("holds %v: %q, expected %q", s.Holds, s.Changes, want)
	}
	c.await("version 2", func(n *Node) bool { return version(n) == 2 && listed(n, "east") == notice.PublicKeyOf(c.key("east")) })
	if got := c.charters("west").Replaced; len(got) != 0 {
		t.Errorf("replaced: %+v", got)
	}

	// From then on the new key decides, and no other.
	current, err := east.current()
	c.must(err)
	for _, key := range []ed25519.PrivateKey{old, again} {
		next, err := Change{Remove: []string{"west"}}.apply(current.Body.(*notice.Charter), current.CID, now())
		c.must(err)
		n, err := notice.Sign(next, key)
		c.must(err)
		if _, err := c.nodes["west"].ledger.Add(n); !errors.Is(err, notice.ErrRefused) || version(c.nodes["west"]) != 2 {
			t.Errorf("version 3 by a key that was replaced: %v", err)
		}
	}
	s, err = east.Propose(t.Context(), Change{Add: []notice.Member{c.card("north")}})
	c.must(err)
	if !s.Holds {
		t.Errorf("north is not admitted: %q", s.Lacking())
	}
	c.await("version 3", func(n *Node) bool { return version(n) == 3 })
}

func TestAStewardOfTwoPutsItsNewKeyOnTheCharterWithTheOther(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "east", "west")
	c.up("east", "west")
	east, west := c.nodes["east"], c.nodes["west"]
	s, err := east.Propose(t.Context(), Change{Steward: []string{"west"}, Terms: Terms{Quorum: 2}})
	c.must(err)
	c.poll("the proposal", func() bool { return len(c.charters("west").Proposals) == 1 })
	_, err = west.Sign(t.Context(), s.CID, Caution{})
	c.must(err)
	c.await("version 2", func(n *Node) bool { return version(n) == 2 })

	c.rotate("west", notice.RotatePublishing)
	c.poll("the rotation", func() bool { return len(c.charters("east").Replaced) == 1 })
	s, err = west.Propose(t.Context(), Change{})
	c.must(err)
	if want := "1 of the stewards of version 2 must sign yet: east; 1 of the stewards of version 3 must sign yet: east"; s.Lacking() != want {
		t.Errorf("lacking: %q, expected %q", s.Lacking(), want)
	}
	c.poll("the proposal", func() bool { return len(c.charters("east").Proposals) == 1 })
	s, err = east.Sign(t.Context(), s.CID, Caution{})
	c.must(err)
	if !s.Holds {
		t.Errorf("signed by both: %q", s.Lacking())
	}
	c.await("version 3", func(n *Node) bool { return version(n) == 3 && listed(n, "west") == notice.PublicKeyOf(c.key("west")) })

	// Without the old key nobody can, where the quorum needs this steward.
	c.rotate("west", notice.RotatePublishing)
	c.must(os.Remove(c.homes["west"].PublishingKeyPath() + oldKey))
	c.poll("the rotation", func() bool { return len(c.charters("east").Replaced) == 1 })
	if _, err := west.Propose(t.Context(), Change{}); !errors.Is(err, ErrUnlisted) || !strings.Contains(err.Error(), "nothing can change this charter any more") {
		t.Errorf("without the old key: %v", err)
	}
	if got := finding(c.doctor(west), "charter"); !strings.Contains(got, "wrong: The publishing key") || !strings.Contains(got, "nothing can change") {
		t.Errorf("the doctor: %q", got)
	}
}

func TestAnotherStewardPutsANewKeyOnTheCharterWhereTheOldOneIsLost(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "east", "west")
	c.up("east", "west")
	east, west := c.nodes["east"], c.nodes["west"]
	s, err := east.Propose(t.Context(), Change{Steward: []string{"west"}})
	c.must(err)
	if !s.Holds {
		t.Fatalf("one of two is not enough: %q", s.Lacking())
	}
	c.await("version 2", func(n *Node) bool { return version(n) == 2 })
	c.rotate("west", notice.RotatePublishing)
	c.must(os.Remove(c.homes["west"].PublishingKeyPath() + oldKey))
	c.poll("the rotation", func() bool { return len(c.charters("east").Replaced) == 1 })
	if _, err := west.Propose(t.Context(), Change{}); !errors.Is(err, ErrUnlisted) || !strings.Contains(err.Error(), "another steward must") {
		t.Errorf("without the old key: %v", err)
	}
	if _, err := west.Invite(t.Context(), InviteRequest{Name: "north"}); !errors.Is(err, ErrUnlisted) {
		t.Errorf("invites whom it could not admit: %v", err)
	}
	s, err = east.Propose(t.Context(), Change{Terms: Terms{Quorum: 2}})
	c.must(err)
	if want := "1 of the stewards of version 3 must sign yet: west"; s.Lacking() != want {
		t.Errorf("lacking: %q, expected %q", s.Lacking(), want)
	}
	c.poll("the proposal", func() bool { return len(c.charters("west").Proposals) == 1 })
	s, err = west.Sign(t.Context(), s.CID, Caution{}) // as a steward of the version that lists its new key
	if err != nil || !s.Holds {
		t.Errorf("with the new key alone: %v, %q", err, s.Lacking())
	}
	c.await("version 3", func(n *Node) bool { return version(n) == 3 })
	s, err = west.Propose(t.Context(), Change{Terms: Terms{OffersPerDay: 3}})
	if want := "1 of the stewards of version 3 must sign yet: east"; err != nil || s.Lacking() != want {
		t.Errorf("with the new key: %v, %q, expected %q", err, s.Lacking(), want)
	}
}

func TestNoMemberKeepsTheOthersFromANextVersionByTheKeyThatItNames(t *testing.T) {
	key := func(b byte) notice.PublicKey { return notice.PublicKey{b} }
	members := []notice.Member{
		{Name: "east", Publishing: key(1), Node: key(2), Revokers: []notice.PublicKey{key(3)}},
		{Name: "north", Publishing: key(4), Node: key(5), Recovery: key(6)},
		{Name: "west", Publishing: key(7), Node: key(8)},
	}
	reseat(members, map[string]notice.Member{
		"east":  {Publishing: key(3), Node: key(9)},  // its own revoker's
		"north": {Publishing: key(9), Node: key(10)}, // which east has named before
		"west":  {Node: key(8)},                      // a publishing key that was revoked
	})
	for i, want := range [][2]notice.PublicKey{{key(1), key(9)}, {key(4), key(10)}, {key(7), key(8)}} {
		if m := members[i]; m.Publishing != want[0] || m.Node != want[1] {
			t.Errorf("%s has the keys %v and %v, expected %v", m.Name, m.Publishing[0], m.Node[0], want)
		}
	}
}

func TestAMemberWhoseNewKeyIsNotOnTheCharterIsSeenToLeave(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "east", "west")
	c.up("east", "west")
	c.rotate("west", notice.RotatePublishing)
	_, err := c.nodes["west"].Leave(t.Context(), "the study has ended", Caution{})
	c.must(err)
	c.poll("the departure", func() bool {
		l := c.charters("east").Leaving
		return len(l) == 1 && l[0].Member == "west"
	})
}

func TestTheDoctorKnowsMembersByTheKeysThatTheyHaveNow(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "east", "west")
	c.up("east", "west")
	c.rotate("west", notice.RotateNode)
	c.down("west")
	c.up("west")
	east := c.nodes["east"]
	c.poll("west's sync", func() bool {
		return finding(c.doctor(east), "members") == "fine: All other members are connected: 1. "
	})
	if got := c.charters("east").Replaced; len(got) != 1 || got[0].Role != notice.RotateNode || got[0].Now != c.nodes["west"].self {
		t.Errorf("replaced: %+v", got)
	}

	c.rotate("east", notice.RotatePublishing)
	if got := finding(c.doctor(east), "feed"); got != "" {
		t.Errorf("feed: %q", got)
	}
	_, err := east.ledger.Add(c.sign("east", 5, c.charter.CID, &notice.Lease{Offers: []cid.Cid{}, Heads: []notice.Head{}, NotAfter: now().Add(time.Hour)}))
	c.must(err)
	if got := finding(c.doctor(east), "feed"); !strings.Contains(got, "wrong: Notices 1 to 4 of this member's own feed are missing") {
		t.Errorf("feed: %q", got)
	}

	// The next version lists both.
	s, err := east.Propose(t.Context(), Change{})
	c.must(err)
	if !s.Holds || len(s.Changes) != 2 || len(c.charters("east").Replaced) != 0 {
		t.Errorf("%v: %q", s.Holds, s.Changes)
	}
}

func TestAMemberThatWasRemovedIsToldSoWhateverItDoes(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "east", "north", "west")
	c.up("east", "north", "west")
	offer, _ := c.publish("west", 2)
	c.down("west")
	_, err := c.nodes["east"].Propose(t.Context(), Change{Remove: []string{"west"}})
	c.must(err)
	c.up("west")
	c.await("version 2", func(n *Node) bool { return version(n) == 2 })
	west := c.nodes["west"]
	if _, err := west.Publish(t.Context(), publication(c.expert(3, nil))); !errors.Is(err, ErrRemoved) {
		t.Errorf("publishes: %v", err)
	}
	id, err := west.Revoke(t.Context(), cid.Undef, "consent withdrawn")
	if !errors.Is(err, ErrRemoved) || !c.knows(west, offer, ledger.Revoked) {
		t.Errorf("revokes: %s, %v", id, err)
	}
	var wrong []string
	for _, f := range c.doctor(west) {
		if f.Verdict == Wrong {
			wrong = append(wrong, f.Text)
		}
	}
	if want := "west is not on the charter any more, so that no other node lets this one in or uses what it offers."; len(wrong) != 1 || wrong[0] != want {
		t.Errorf("the doctor: %q, expected %q", wrong, want)
	}
}

func TestACardWithAKeyThatAMemberHasNamedSinceIsUnfit(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "east")
	c.up("east")
	c.rotate("east", notice.RotatePublishing)
	r := &reception{invitations: c.nodes["east"].invited}
	card := c.card("north")
	if r.taken(card) {
		t.Error("a card with keys of its own is unfit")
	}
	card.Publishing = notice.PublicKeyOf(c.key("east"))
	if !r.taken(card) {
		t.Error("a card with the key that east has now is fit")
	}
}
