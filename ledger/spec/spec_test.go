package spec

import (
	"slices"
	"strings"
	"testing"
)

func TestTheDesignHoldsInEveryState(t *testing.T) {
	for _, scope := range Scopes(false) {
		r, err := Explore(t.Context(), scope, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		if r.Broken != "" || !r.Whole || r.States < 1000 {
			t.Errorf("%s: %s", scope.Name, r)
		}
		t.Logf("%s: %s", scope.Name, r)
	}
}

// The mutation list: what breaks, and where, without each of the safeguards.
func TestWithoutAnyOneSafeguardAnInvariantBreaks(t *testing.T) {
	type mutation struct {
		without       Safeguard
		scope, breaks string
	}
	mutations := []mutation{
		{LeaseEnds, "honest owner", "I2: a node whose clock is right generates after its lease ended"},
		{LeaseBegun, "dishonest owner", "I2: a node that is cut off now goes on"},
		{LeaseCeiling, "dishonest owner", "I2: a node that is cut off now goes on"},
		{LeaseComplete, "honest owner", "I2: a node generates later than the ceiling + 2δ"},
		{LeaseHeadsHere, "honest owner", "I2: a node generates later than the ceiling + 2δ"},
		{LeaseHeadsComplete, "revoker's gap", "I2: a node generates later than the ceiling + 2δ"},
		{LeaseNamesHeads, "honest owner", "I2: a node generates later than the ceiling + 2δ"},
		{LeaseNamesTop, "revoker's gap", "I2: a node generates later than the ceiling + 2δ"},
		{Terminal, "honest owner", "I1"},
		{RevokedInGaps, "revoker's gap", "I1"},
		{ForkSuspends, "dishonest owner", "I5: a node generates"},
		{ForkByPrev, "dishonest owner", "I5: a node generates"},
		{ExchangeProof, "dishonest owner", "I3"},
		{ExchangeBeyondGaps, "revoker's gap", "I3"},
		{HighWater, "clock set back", "I2: a node generates under a lease that its clock has seen end"},
		{HighWaterOnDisk, "clock set back", "I2: a node generates under a lease that its clock has seen end"},
		{DurableFirst, "honest owner", "I6"},
		{ReconcileToUse, "restore", "I4"},
		{ReconcileToSign, "restore", "I7"},
		{SignAfterTop, "restore", "I7"},
	}
	scopes := Scopes(false)
	for _, m := range mutations {
		i := slices.IndexFunc(scopes, func(s Scope) bool { return s.Name == m.scope })
		if i < 0 {
			t.Fatalf("there is no scope %q", m.scope)
		}
		r, err := Explore(t.Context(), scopes[i], m.without, 0)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(r.Broken, m.breaks) {
			t.Errorf("without %q, in %q: want %q, got\n%s", m.without, m.scope, m.breaks, r)
		}
	}
	for _, g := range Safeguards() {
		if !slices.ContainsFunc(mutations, func(m mutation) bool { return m.without == g }) {
			t.Errorf("the list lacks %q", g)
		}
	}
}

func TestAViolationComesWithTheShortestWayThereInWords(t *testing.T) {
	r, err := Explore(t.Context(), Scope{Publishing: 2, Notices: 2, Restore: true}, ReconcileToUse, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := `the beginning: nothing but the offer is signed
signed: lease P1, from -1 to +1
the disk of the owner's node is copied
signed: revocation P2 after P1
the owner's node starts from the old copy of its disk
I4: a node generates with an expert whose revocation it had durably accepted`
	if r.String() != want {
		t.Errorf("got\n%s\nwant\n%s", r, want)
	}
}

// The explorer's hashes and its one order of A and B must lose no state. A plain search holds whole states in a map,
// under both names.
func TestTheExplorerPassesOverNoState(t *testing.T) {
	scope := Scope{Publishing: 2, Revoker: 1, Notices: 2, Crashes: 1, SetBack: true}
	w := &world{scope, design}
	all := map[State]bool{w.begin(): true}
	for todo := []State{w.begin()}; len(todo) > 0; {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		w.steps(&s, func(_ action, next State) {
			if !all[next] {
				all[next] = true
				todo = append(todo, next)
			}
		})
	}
	apart := make(map[State]bool)
	for s := range all {
		apart[s.canonical()] = true
		swapped := s
		swapped.Nodes[A], swapped.Nodes[B] = s.Nodes[B], s.Nodes[A]
		if !all[swapped] || swapped.canonical() != s.canonical() {
			t.Fatalf("A and B are not alike in %+v", s)
		}
	}
	r, err := Explore(t.Context(), scope, 0, 0)
	if err != nil || r.States != len(apart) {
		t.Errorf("explored %d states (%v), there are %d apart from names, of %d", r.States, err, len(apart), len(all))
	}
}
