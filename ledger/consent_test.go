package ledger

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// A picture is a text that shows feeds and what follows from them.
//
// A line "alpha: X -> [X] -> !X" is a branch of alpha's feed, signed an hour
// apart from 0h on:
//
//	X          the offer X
//	[X,Y]      a lease of 24 hours that lists X and Y; [X]48h is longer
//	!X  !*     the revocation of X, and of everything
//	name=…     gives a notice a name; an offer has its letter
//	(…)        signed, but it has not arrived
//	@name      not a notice: the branch goes on from the one of that name
//	[X]^name   the lease names the notice of that name as a head
//	…+3h       signed three hours later than its place says
//
// The lines that start with a word and no colon say what must be seen:
//
//	at 5h X active, Y lapsed
//	heads alpha 3, beta 1
//	missing alpha 2-4
//	until X 25h
//	by X name      the revocation that X's standing shows
type picture struct {
	t       *testing.T
	charter *notice.Notice
	named   map[string]*notice.Notice
	arrived []*notice.Notice
	checks  []string
}

var midnight = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func key(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

// The keys of the members; mallory is none.
var keys = map[string]ed25519.PrivateKey{"alpha": key(1), "beta": key(2), "gamma": key(3), "mallory": key(66)}

func blob(s string) cid.Cid {
	h, err := multihash.Sum([]byte(s), multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(cid.Raw, h)
}

// aCharter returns the charter of alpha, beta and gamma, with leases of 24
// hours and at most 48.
func aCharter(t testing.TB, name string) *notice.Notice {
	t.Helper()
	c := &notice.Charter{
		Name: name, Version: 1, Anchor: blob("anchor"), Stewards: []string{"alpha"}, Quorum: 1,
		LeaseSeconds: 24 * 3600, LeaseCeilingSeconds: 48 * 3600, MaxBlobBytes: 1 << 30, OffersPerDay: 100,
	}
	for i, m := range []string{"alpha", "beta", "gamma"} {
		c.Members = append(c.Members, notice.Member{
			Name: m, Publishing: notice.PublicKeyOf(keys[m]), Node: notice.PublicKeyOf(key(byte(100 + i))),
		})
	}
	n, err := notice.Sign(c, keys["alpha"])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func anOffer(name string) *notice.Offer {
	return &notice.Offer{Blob: blob(name), Size: 1, Anchor: blob("anchor"), Domain: name, Licence: "CC0-1.0", TopK: 2}
}

func draw(t *testing.T, text string) *picture {
	t.Helper()
	p := &picture{t: t, charter: aCharter(t, "pictures"), named: make(map[string]*notice.Notice)}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		member, chain, ok := strings.Cut(line, ": ")
		if !ok {
			p.checks = append(p.checks, line)
			continue
		}
		var prev *notice.Notice
		for _, step := range strings.Split(chain, " -> ") {
			step = strings.TrimSpace(step)
			if name, ok := strings.CutPrefix(step, "@"); ok {
				prev = p.notice(name)
				continue
			}
			prev = p.sign(member, step, prev)
		}
	}
	return p
}

func (p *picture) notice(name string) *notice.Notice {
	p.t.Helper()
	n := p.named[name]
	if n == nil {
		p.t.Fatalf("the picture has no %q", name)
	}
	return n
}

func (p *picture) duration(s string) time.Duration {
	p.t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

func (p *picture) sign(member, step string, prev *notice.Notice) *notice.Notice {
	p.t.Helper()
	inner, withheld := strings.CutPrefix(step, "(")
	if withheld {
		step = strings.TrimSuffix(inner, ")")
	}
	name, what, ok := strings.Cut(step, "=")
	if !ok {
		name, what = step, step
	}
	h := notice.Header{Charter: p.charter.CID, Key: notice.PublicKeyOf(keys[member]), Seq: 1}
	if prev != nil {
		h.Seq, h.Prev = prev.Header().Seq+1, prev.CID
	}
	h.Time = midnight.Add(time.Duration(h.Seq-1) * time.Hour)
	what, later, ok := strings.Cut(what, "+")
	if ok {
		h.Time = h.Time.Add(p.duration(later))
	}
	var body notice.Body
	switch what, head, _ := strings.Cut(what, "^"); {
	case strings.HasPrefix(what, "["):
		list, length, _ := strings.Cut(what[1:], "]")
		l := &notice.Lease{Header: h, NotAfter: h.Time.Add(24 * time.Hour)}
		if length != "" {
			l.NotAfter = h.Time.Add(p.duration(length))
		}
		for _, o := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
			l.Offers = append(l.Offers, p.notice(o).CID)
		}
		slices.SortFunc(l.Offers, notice.CompareCID)
		if head != "" {
			n := p.notice(head)
			l.Heads = []notice.Head{{Key: n.Header().Key, Seq: n.Header().Seq, CID: n.CID}}
		}
		body = l
	case what == "!*":
		body = &notice.Revocation{Header: h, All: true}
	case strings.HasPrefix(what, "!"):
		body = &notice.Revocation{Header: h, Offer: p.notice(what[1:]).CID}
	default:
		o := anOffer(what)
		o.Header = h
		body = o
	}
	n, err := notice.Sign(body, keys[member])
	if err != nil {
		p.t.Fatalf("%s: %v", step, err)
	}
	p.named[name] = n
	if !withheld {
		p.arrived = append(p.arrived, n)
	}
	return n
}

// check holds a consent against the picture's checks.
func (p *picture) check(order string, c *consent) {
	p.t.Helper()
	for _, line := range p.checks {
		verb, rest, _ := strings.Cut(line, " ")
		var got string
		switch verb {
		case "at":
			at, states, _ := strings.Cut(rest, " ")
			rest = states
			got = p.each(states, func(name string) string {
				for _, s := range c.standings(midnight.Add(p.duration(at))) {
					if s.Notice == p.notice(name).CID {
						p.checkRevocation(order, s)
						return string(s.State)
					}
				}
				return "unknown"
			})
		case "until":
			got = p.each(rest, func(name string) string {
				for _, s := range c.standings(midnight) {
					if s.Notice == p.notice(name).CID && !s.Until.IsZero() {
						return fmt.Sprintf("%gh", s.Until.Sub(midnight).Hours())
					}
				}
				return "none"
			})
		case "by":
			got = p.each(rest, func(name string) string {
				for _, s := range c.standings(midnight) {
					for by, n := range p.named {
						if s.Notice == p.notice(name).CID && s.RevokedBy == n.CID && s.Revocation.Seq == n.Header().Seq {
							return by
						}
					}
				}
				return "none"
			})
		case "heads":
			var heads []string
			for _, k := range c.keys() {
				for _, h := range c.feeds[k].heads(k) {
					if !c.feeds[k].has(h.Seq, h.CID) {
						p.t.Errorf("%s: head %v is unknown", order, h)
					}
					heads = append(heads, fmt.Sprintf("%s %d", c.members[k], h.Seq))
				}
			}
			got = strings.Join(heads, ", ")
		case "missing":
			var gaps []string
			for _, k := range c.keys() {
				for _, g := range c.feeds[k].missing(k) {
					gaps = append(gaps, fmt.Sprintf("%s %d-%d", c.members[k], g.First, g.Last))
				}
			}
			got = strings.Join(gaps, ", ")
		default:
			p.t.Fatalf("what does %q mean?", line)
		}
		if got != rest {
			p.t.Errorf("%s: %s: got %s", order, line, got)
		}
	}
}

func (p *picture) each(list string, f func(name string) string) string {
	var out []string
	for _, item := range strings.Split(list, ", ") {
		name, _, _ := strings.Cut(item, " ")
		out = append(out, name+" "+f(name))
	}
	return strings.Join(out, ", ")
}

func (p *picture) checkRevocation(order string, s Standing) {
	p.t.Helper()
	if (s.State == Revoked) != (s.Revocation != nil) || (s.State == Revoked) != s.RevokedBy.Defined() {
		p.t.Errorf("%s: %s, revoked by %v %v", order, s.State, s.RevokedBy, s.Revocation)
	}
}

// shuffled returns the order number seed of ns: 0 as drawn, 1 backwards.
func shuffled(ns []*notice.Notice, seed uint64) []*notice.Notice {
	ns = slices.Clone(ns)
	switch seed {
	case 0:
	case 1:
		slices.Reverse(ns)
	default:
		r := rand.New(rand.NewPCG(seed, 0))
		r.Shuffle(len(ns), func(i, j int) { ns[i], ns[j] = ns[j], ns[i] })
	}
	return ns
}

var pictures = []struct{ name, text string }{
	{"an offer without a lease is lapsed", `
		alpha: X
		at 0h X lapsed
		until X none
		heads alpha 1`},
	{"a lease makes an offer active until just before its end", `
		alpha: X -> [X]
		at 1h X active
		at 24h59m59s X active
		at 25h X lapsed
		until X 25h`},
	{"a lease does not count before its time but for the tolerance", `
		alpha: X -> [X]+100h
		at 100h57m59s X lapsed
		at 100h58m X active
		at 124h59m59s X active
		at 125h X lapsed`},
	{"a lease of exactly the ceiling counts", `
		alpha: X -> [X]48h
		at 48h59m X active`},
	{"a lease above the ceiling does not count at all", `
		alpha: X -> [X]48h1s
		at 1h X lapsed
		until X none`},
	{"a lease above the ceiling ends the one before", `
		alpha: X -> [X] -> [X]49h
		at 2h X lapsed`},
	{"a renewed lease extends", `
		alpha: X -> [X] -> m=[X]
		at 25h59m X active
		at 26h X lapsed`},
	{"a renewed lease that is shorter shortens", `
		alpha: X -> [X] -> [X]1h
		at 2h59m X active
		at 3h X lapsed
		until X 3h`},
	{"a later lease that omits an offer ends it", `
		alpha: X -> Y -> [X,Y] -> [Y]
		at 4h X lapsed, Y active
		until X none, Y 27h`},
	{"an empty lease ends all", `
		alpha: X -> [X] -> []
		at 3h X lapsed`},
	{"a lease does not reach offers that it does not list", `
		alpha: X -> [X] -> Y
		at 3h X active, Y lapsed`},
	{"a member cannot lease another's offer", `
		alpha: X
		beta: [X]
		at 1h X lapsed`},
	{"a revocation ends an offer for ever", `
		alpha: X -> [X] -> !X -> m=[X]
		at 0h X revoked
		at 4h X revoked
		at 9999h X revoked`},
	{"a revocation leaves other offers alone", `
		alpha: X -> Y -> [X,Y] -> !X
		at 4h X revoked, Y active`},
	{"a revocation counts across a gap", `
		alpha: X -> [X] -> (Y) -> (Z) -> !X
		at 4h X revoked
		missing alpha 3-4
		heads alpha 2`},
	{"a revocation counts although nothing but its target is known", `
		alpha: (Y) -> X -> (m=[X]) -> !X
		at 4h X revoked
		missing alpha 1-1, alpha 3-3
		heads `},
	{"a revocation of another member's offer is void", `
		alpha: X -> [X]
		beta: !X -> !*
		at 2h X active`},
	{"a revocation of all reaches what was offered before and not after", `
		alpha: X -> Y -> [X,Y] -> !* -> Z -> [X,Y,Z]
		at 6h X revoked, Y revoked, Z active`},
	{"a revocation of all counts across a gap", `
		alpha: X -> [X] -> (Y) -> !*
		at 4h X revoked`},
	{"a second revocation of all reaches further", `
		alpha: X -> !* -> Y -> [Y] -> m=!* -> Z -> [Z]
		at 7h X revoked, Y revoked, Z active`},
	{"of several revocations the first in the feed is shown", `
		alpha: X -> Y -> Z -> a=!X -> b=!X -> c=!* -> d=!* -> e=!Y
		at 9h X revoked, Y revoked, Z revoked
		by X a, Y c, Z c`},
	{"an offer that is not revoked shows no revocation", `
		alpha: X -> a=!X -> Y
		by X a, Y none`},
	{"a gap before the newest lease makes it not count", `
		alpha: X -> (Y) -> [X]
		at 3h X lapsed
		until X none
		missing alpha 2-2`},
	{"a gap before the newest lease ends the lease before it too", `
		alpha: X -> [X] -> (Y) -> m=[X]
		at 4h X lapsed`},
	{"a gap after the newest lease does not end it", `
		alpha: X -> [X] -> (Y) -> Z
		at 4h X active, Z lapsed
		missing alpha 3-3
		heads alpha 2`},
	{"a lease that nobody passes on does not extend", `
		alpha: X -> [X] -> (m=[X])
		at 25h X lapsed`},
	{"a lease counts only once the feeds whose heads it names are here", `
		beta: B1 -> B2
		alpha: X -> [X]^B2
		at 2h X active`},
	{"a lease whose named head is missing does not count", `
		beta: B1 -> (B2)
		alpha: X -> [X]^B2
		at 2h X lapsed`},
	{"a lease whose named head has a gap before it does not count", `
		beta: (B1) -> B2
		alpha: X -> [X]^B2
		at 2h X lapsed`},
	{"a lease whose named head is on another branch does not count", `
		beta: B1 -> B2
		beta: @B1 -> (B3)
		alpha: X -> [X]^B3
		at 2h X lapsed`},
	{"two notices at one seq suspend the member and no other", `
		alpha: X -> [X]
		alpha: @X -> Y
		beta: B -> m=[B]
		at 2h X suspended, Y suspended, B active
		heads alpha 2, alpha 2, alpha 2, beta 2`},
	{"two first notices suspend", `
		alpha: X -> [X]
		alpha: Y
		at 2h X suspended, Y suspended`},
	{"a fork below the newest lease suspends", `
		alpha: X -> Y -> [X,Y]
		alpha: @X -> Z
		at 3h X suspended, Y suspended, Z suspended
		heads alpha 2, alpha 2, alpha 3`},
	{"a fork far above suspends", `
		alpha: X -> [X] -> (A) -> (B) -> C
		alpha: @B -> D
		at 2h X suspended
		heads alpha 5, alpha 5, alpha 2`},
	{"a prev that names another notice than the one before suspends", `
		alpha: X -> (A) -> [X]
		alpha: @X -> B
		at 3h X suspended
		heads alpha 2, alpha 3, alpha 3`},
	{"two prevs that name two notices suspend though neither is here", `
		alpha: X -> (A) -> (B) -> C
		alpha: @A -> (D) -> E
		at 3h X suspended
		heads alpha 4, alpha 4, alpha 1`},
	{"a revocation on any branch of a fork counts", `
		alpha: X -> Y -> [X,Y]
		alpha: @X -> !X -> m=!Y
		at 3h X revoked, Y revoked`},
	{"three branches are one fork", `
		alpha: X -> A
		alpha: @X -> B
		alpha: @X -> C -> D
		at 1h X suspended
		heads alpha 2, alpha 2, alpha 3`},
	{"members do not mix", `
		alpha: X -> [X]
		beta: Y -> m=[Y] -> !Y
		gamma: Z
		at 3h X active, Y revoked, Z lapsed
		heads alpha 2, beta 3, gamma 1
		missing `},
	{"gaps are shown as runs", `
		alpha: X -> (A) -> B -> C -> (D) -> (E) -> F
		missing alpha 2-2, alpha 5-6
		heads alpha 1`},
}

func TestConsentFollowsFromTheNoticesInWhateverOrderTheyArrive(t *testing.T) {
	for _, pic := range pictures {
		t.Run(pic.name, func(t *testing.T) {
			p := draw(t, pic.text)
			for seed := range uint64(40) {
				c := newConsent(p.charter.Body.(*notice.Charter))
				for _, n := range shuffled(p.arrived, seed) {
					if !c.add(n) {
						t.Fatalf("%s is drawn twice", n.CID)
					}
				}
				p.check(fmt.Sprintf("order %d", seed), c)
				for _, n := range p.arrived {
					if c.add(n) {
						t.Errorf("order %d: %s is new the second time", seed, n.CID)
					}
				}
				p.check(fmt.Sprintf("order %d, twice", seed), c)
				if t.Failed() {
					return
				}
			}
		})
	}
}

// TestRevocationAndSuspensionAreTerminal adds the notices of every picture one by one: an
// offer that was revoked once stays so, whatever else comes.
func TestRevocationAndSuspensionAreTerminal(t *testing.T) {
	for _, pic := range pictures {
		p := draw(t, pic.text)
		for seed := range uint64(40) {
			c := newConsent(p.charter.Body.(*notice.Charter))
			before := make(map[cid.Cid]State)
			for _, n := range shuffled(p.arrived, seed) {
				c.add(n)
				for _, s := range c.standings(midnight.Add(4 * time.Hour)) {
					switch was := before[s.Notice]; {
					case was == Revoked && s.State != Revoked,
						was == Suspended && s.State != Suspended && s.State != Revoked:
						t.Errorf("%s: order %d: %s became %s", pic.name, seed, was, s.State)
					}
					before[s.Notice] = s.State
				}
			}
		}
	}
}
