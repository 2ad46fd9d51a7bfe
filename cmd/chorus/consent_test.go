package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node"
)

func TestComplianceInWords(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	has := func(name string) node.Acknowledgement { return node.Acknowledgement{Member: name, Dropped: at} }
	for _, tt := range []struct {
		c       node.Compliance
		words   string
		waiting bool
	}{
		{node.Compliance{Members: []node.Acknowledgement{has("a"), has("b")}, Until: at}, "2 of 2 members have dropped it", false},
		{node.Compliance{Members: []node.Acknowledgement{has("a"), {Member: "b", Connected: true}}}, "1 of 2 members have dropped it; waiting for b", true},
		{
			node.Compliance{Members: []node.Acknowledgement{has("a"), {Member: "b", Parted: at}, {Member: "c"}}, Until: at.Add(time.Hour)},
			"1 of 3 members have dropped it; waiting for b (offline since 2026-03-01 12:00:00), c (offline); their lease ends at 2026-03-01 13:00:00", false,
		},
		{
			node.Compliance{Members: []node.Acknowledgement{has("a"), {Member: "b"}}, Outside: true},
			"1 of 2 members have dropped it; waiting for b, of whom a key alone cannot see who is online", true,
		},
		{
			node.Compliance{Members: []node.Acknowledgement{has("a")}, Exported: []ledger.Exported{{Member: "hub", Time: at}, {Member: "a", Time: at}}},
			"1 of 1 members have dropped it; hub exported it on 2026-03-01: ask hub to delete that copy; a exported it on 2026-03-01: ask a to delete that copy", false,
		},
	} {
		if words, waiting := complianceWords(tt.c); words != tt.words || waiting != tt.waiting {
			t.Errorf("%q, %v, expected %q, %v", words, waiting, tt.words, tt.waiting)
		}
	}
}

func TestWaitingForComplianceOutlastsANodeThatIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		a := &app{ui: newUI(&out, io.Discard)}
		asked := 0
		found := a.awaitCompliance(t.Context(), func(context.Context) (node.Compliance, error) {
			asked++
			c := node.Compliance{Withdrawn: 1, Members: []node.Acknowledgement{{Member: "a", Connected: true}}}
			switch asked {
			case 2:
				return node.Compliance{}, errors.New("stream reset")
			case 3:
				c.Members[0].Dropped = time.Now()
			}
			return c, nil
		}, time.Minute)
		if want := "0 of 1 members have dropped it; waiting for a\n1 of 1 members have dropped it\n"; out.String() != want || len(found.Members) != 1 {
			t.Errorf("it said %q and found %+v, expected %q", out.String(), found, want)
		}
	})
}

func TestWaitingForComplianceAsksNoMoreOftenThanANodeAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &app{ui: newUI(io.Discard, io.Discard)}
		asked := 0
		a.awaitCompliance(t.Context(), func(context.Context) (node.Compliance, error) {
			asked++
			return node.Compliance{Withdrawn: 1, Members: []node.Acknowledgement{{Member: "a", Connected: true}}}, nil
		}, time.Minute)
		const burst, rate = 20, 30 // of p2p, in a minute; some of the burst is spent before
		if asked < 10 || asked > burst/2+rate {
			t.Errorf("it asked %d times in a minute", asked)
		}
	})
}

func TestAClaimOfPrivacyThatDoesNotFollowFromItsNumbersIsSaidTo(t *testing.T) {
	honest := notice.Privacy{Unit: "field:patient", Sampler: "poisson", Rate: 0.01, Noise: 1, Clip: 0.1, Steps: 200, StartNoise: 30, Delta: 1e-5, Epsilon: 8}
	const claims = "north claims of notes that it is private with ε %g, δ 1e-05 for each value of patient"
	for name, test := range map[string]struct {
		change func(*notice.Privacy)
		follow string // "" if it follows
	}{
		"enough":          {func(*notice.Privacy) {}, ""},
		"too small an ε":  {func(p *notice.Privacy) { p.Epsilon = 0.5 }, ". That does not follow: the numbers make ε [0-9.]+, not 0.5"},
		"more steps":      {func(p *notice.Privacy) { p.Steps = 200000 }, ". That does not follow: the numbers make ε [0-9.]+, not 8"},
		"no noise at all": {func(p *notice.Privacy) { p.StartNoise = 1e-300 }, ". That does not follow: no ε follows from these numbers"},
	} {
		p := honest
		test.change(&p)
		words := claimWords(node.Expert{Member: "north", Domain: "notes", Privacy: &p})
		want := regexp.MustCompile("^" + regexp.QuoteMeta(fmt.Sprintf(claims, p.Epsilon)) + test.follow + "$")
		if !want.MatchString(words) {
			t.Errorf("%s: %q, expected %s", name, words, want)
		}
	}
}
