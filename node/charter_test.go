package node

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"chorus/ledger/notice"
)

// charters returns what a member's node knows of the charter.
func (c *consortium) charters(name string) Charters {
	c.Helper()
	all, err := c.nodes[name].Charters(c.Context())
	c.must(err)
	return all
}

// version is the number of the charter that holds on a node.
func version(n *Node) uint64 { return n.ledger.Charter().Version }

func TestEveryNodeTakesAVersionIntoUseOnceItsQuorumHasSigned(t *testing.T) {
	c := found(t, terms{}, "east", "north", "west")
	c.up("east", "north", "west")
	east, west := c.nodes["east"], c.nodes["west"]
	if _, err := west.Propose(t.Context(), Change{Remove: []string{"north"}}); !errors.Is(err, ErrNotSteward) {
		t.Errorf("a member that is no steward proposes: %v", err)
	}
	limits := notice.LeakLimits{Extraction: notice.LeakLimit{Warn: 0.01, Block: 0.07}, Epsilon: notice.LeakLimit{Warn: 0.5, Block: 3}}
	change := Change{Steward: []string{"west"}, Terms: Terms{Quorum: 2, OffersPerDay: 1, LeaseSeconds: 600, Leak: &limits}}
	s, err := east.Propose(t.Context(), change)
	c.must(err)
	if words := "audits warn and block above: extraction 1 and 7 %, membership 0 and 0 %, ε 0.5 and 3, personal data 0 and 0 %; instead of: chorus's own limits"; !slices.Contains(s.Changes, words) {
		t.Errorf("the changes are %q, expected %q among them", s.Changes, words)
	}
	if s.Holds || !strings.Contains(s.Lacking(), "1 of the stewards of version 2 must sign yet: west") {
		t.Errorf("proposed: %v, %q", s.Holds, s.Lacking())
	}
	again, err := east.Propose(t.Context(), change)
	if err != nil || again.CID != s.CID {
		t.Errorf("proposed again: %s, %v, expected %s", again.CID, err, s.CID)
	}
	c.poll("the proposal on every node", func() bool { return len(c.charters("north").Proposals)+len(c.charters("west").Proposals) == 2 })
	if _, err := c.nodes["north"].Sign(t.Context(), s.CID, Caution{}); !errors.Is(err, ErrNotSteward) {
		t.Errorf("a member that is no steward signs: %v", err)
	}
	signed, err := west.Sign(t.Context(), s.CID, Caution{})
	c.must(err)
	if !signed.Holds {
		t.Errorf("signed by all: %q", signed.Lacking())
	}
	c.await("version 2", func(n *Node) bool { return version(n) == 2 && n.ledger.Charter().Leak == limits }, "east", "north", "west")

	// Its terms hold at once: the second offer of the day is one too many, and leases are as short as it says.
	first, _ := c.publish("north", 1)
	c.await("use", uses(first), "east", "north", "west")
	if st := c.standing(east, first); st.Until.Sub(now()).Seconds() > 601 {
		t.Errorf("the lease ends at %v", st.Until)
	}
	second, err := c.nodes["north"].Publish(t.Context(), publication(c.expert(2, nil)))
	c.must(err)
	c.await("the second offer", func(n *Node) bool {
		return slices.Contains([]string{"excess"}, string(c.status(n, second).State))
	}, "east", "west")

	// A steward that is not the last may leave, which the others see and sign.
	d, err := west.Leave(t.Context(), "the study has ended", Caution{})
	c.must(err)
	if d.Removal == nil || d.Removal.Holds {
		t.Fatalf("left: %+v", d)
	}
	c.poll("the departure", func() bool { return len(c.charters("east").Leaving) == 1 && len(c.charters("east").Proposals) == 1 })
	_, err = east.Sign(t.Context(), d.Removal.CID, Caution{})
	c.must(err)
	c.await("version 3", func(n *Node) bool { return version(n) == 3 }, "east", "north", "west")
	c.poll("no connection with west", func() bool { return len(west.Host().Connected()) == 0 })
	if _, err := east.Leave(t.Context(), "", Caution{}); err == nil || !strings.Contains(err.Error(), "no steward") {
		t.Errorf("the last steward leaves: %v", err)
	}
}

func TestForkedCharterIsShownAndNotSignedOn(t *testing.T) {
	c := found(t, terms{}, "east", "west")
	c.up("east", "west")
	var branches []*notice.Notice
	for _, quota := range []int{5, 6} {
		next, err := Change{Terms: Terms{OffersPerDay: quota}}.apply(c.charter.Body.(*notice.Charter), c.charter.CID, now())
		c.must(err)
		n, err := notice.Sign(next, c.key("east"))
		c.must(err)
		branches = append(branches, n)
	}
	for _, n := range branches {
		_, err := c.nodes["east"].ledger.Add(n)
		c.must(err)
	}
	c.poll("a connection", func() bool { return len(c.nodes["east"].Host().Connected()) == 1 })
	c.must(c.nodes["east"].Host().Sync(t.Context()))
	for _, name := range []string{"east", "west"} {
		all := c.charters(name)
		if !all.Forked || len(all.Versions) != 3 || all.Current != c.charter.CID {
			t.Errorf("%s: forked %v, %d versions, current %s", name, all.Forked, len(all.Versions), all.Current)
		}
		found, err := c.nodes[name].Doctor(t.Context())
		c.must(err)
		if !slices.ContainsFunc(found, func(f Finding) bool { return f.Check == "charter" && f.Verdict == Wrong }) {
			t.Errorf("%s: the doctor finds nothing wrong with the charter", name)
		}
	}
	if _, err := c.nodes["east"].Propose(t.Context(), Change{Remove: []string{"west"}}); !errors.Is(err, ErrForked) {
		t.Errorf("proposed on a fork: %v", err)
	}
	if _, err := c.nodes["east"].Invite(t.Context(), InviteRequest{Name: "north"}); !errors.Is(err, ErrForked) {
		t.Errorf("invited on a fork: %v", err)
	}
}

func TestStewardWhoReachesNobodySignsOnlyIfToldTo(t *testing.T) {
	c := found(t, terms{}, "east", "west")
	c.up("east")
	change := Change{Remove: []string{"west"}, Caution: Caution{WithinSeconds: 0.01}}
	if _, err := c.nodes["east"].Propose(t.Context(), change); !errors.Is(err, ErrNotReconciled) {
		t.Errorf("alone: %v", err)
	}
	change.Alone = true
	if s, err := c.nodes["east"].Propose(t.Context(), change); err != nil || !s.Holds {
		t.Errorf("told to: %v, %v", s.Holds, err)
	}
}

func TestAStewardSignsASecondVersionBesideAFirstOnlyIfToldTo(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "east", "west")
	c.up("east", "west")
	east, west := c.nodes["east"], c.nodes["west"]
	first := Change{Steward: []string{"west"}, Terms: Terms{Quorum: 2}}
	p, err := east.Propose(t.Context(), first)
	c.must(err)
	second := Change{Terms: Terms{OffersPerDay: 1}}
	if _, err := east.Propose(t.Context(), second); !errors.Is(err, ErrPending) || !strings.Contains(err.Error(), p.CID.String()+" (makes west a steward, quorum: 2 instead of 1). 1 of the stewards of version 2 must sign yet: west") {
		t.Errorf("a second: %v", err)
	}
	if again, err := east.Propose(t.Context(), first); err != nil || again.CID != p.CID {
		t.Errorf("the first again: %v", err)
	}
	if version(east) != 1 || version(west) != 1 {
		t.Error("the second holds")
	}
	second.Replace = true
	s, err := east.Propose(t.Context(), second)
	if err != nil || !s.Holds {
		t.Errorf("told to: %v", err)
	}
	c.await("version 2", func(n *Node) bool { return version(n) == 2 })
}
