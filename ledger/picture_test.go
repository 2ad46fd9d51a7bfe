package ledger

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// A picture is a text that shows feeds and what follows from them.
//
// A line "alpha: X -> [X] -> !X" is a branch of the feed of alpha's publishing
// key, signed an hour apart from 0h on; "alpha.node:", "alpha.rec:" and
// "alpha.rev:" are feeds of its other keys, and "d:" of a key that is nobody's
// by itself:
//
//	X            the offer X
//	[X,Y]        a lease of 24 hours that lists X and Y; [X]48h is longer
//	!X  !*       the revocation of X, and of everything before
//	!*<alpha:3   the revocation of what alpha's feed offers up to seq 3
//	!&d          the revocation of the key d
//	beta!X       a vote against beta; so too beta!*<beta:3, beta!&beta
//	%!X          detached
//	>d:renew     a delegation to d; >d:revoke,renew[X]5h is of X alone, for 5 hours; [] is all
//	alpha~d      a rotation of alpha's publishing key to d; alpha.node~d of its node key
//	name=…       gives a notice a name; an offer has its letter
//	(…)          signed, but it has not arrived
//	@name        not a notice: the branch goes on from the one of that name
//	[X]^name     the lease names the notice of that name as a head
//	…+3h         signed three hours later than its place says
//
// A line "charter c2 after c1 by alpha,beta: -gamma 2/day alpha=d" is a version
// of the charter without gamma, with two offers a day, and with alpha's
// publishing key replaced by d; c1 is the first.
//
// The other lines say what must be seen:
//
//	at 5h X active, Y lapsed
//	heads alpha 3, beta 1
//	missing alpha 2-4
//	tops alpha alpha 2, alpha.rev 1    what a lease of alpha's is to name
//	until X 25h
//	by X name      the notice that X's standing shows as having revoked it
//	seat alpha alpha publishing, d alpha delegate
//	charter c2
//	charters c1, c2
//	proposals c3
type picture struct {
	t       testing.TB
	charter *notice.Notice
	named   map[string]*notice.Notice
	arrived []*notice.Notice
	checks  []string
}

var midnight = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func key(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

// The keys by the names that pictures give them; mallory, d, e and g are nobody's.
var keys = map[string]ed25519.PrivateKey{
	"alpha": key(1), "alpha.node": key(100), "alpha.rec": key(110), "alpha.rev": key(120),
	"beta": key(2), "beta.node": key(101), "beta.rec": key(111), "beta.rev": key(121),
	"gamma": key(3), "gamma.node": key(102), "gamma.rec": key(112), "gamma.rev": key(122),
	"mallory": key(66), "d": key(67), "e": key(68), "g": key(69),
}

func public(name string) notice.PublicKey { return notice.PublicKeyOf(keys[name]) }

// nameOf returns the name of a key.
func nameOf(k notice.PublicKey) string {
	for name, key := range keys {
		if notice.PublicKeyOf(key) == k {
			return name
		}
	}
	return "?"
}

func blob(s string) cid.Cid {
	h, err := multihash.Sum([]byte(s), multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(cid.Raw, h)
}

// aCharter returns the charter of alpha, beta and gamma, of whom two decide,
// with leases of 24 hours and at most 48.
func aCharter(t testing.TB, name string) *notice.Notice {
	t.Helper()
	c := &notice.Charter{
		Name: name, Version: 1, Anchor: blob("anchor"), Stewards: []string{"alpha", "beta", "gamma"}, Quorum: 2,
		LeaseSeconds: 24 * 3600, LeaseCeilingSeconds: 48 * 3600, MaxBlobBytes: 1 << 30, OffersPerDay: 100,
	}
	for _, m := range c.Stewards {
		c.Members = append(c.Members, notice.Member{
			Name: m, Publishing: public(m), Node: public(m + ".node"), Recovery: public(m + ".rec"), Revokers: []notice.PublicKey{public(m + ".rev")},
		})
	}
	n, err := notice.Sign(c, keys["alpha"], keys["beta"], keys["gamma"])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func anOffer(name string) *notice.Offer {
	return &notice.Offer{Blob: blob(name), Size: 1, Anchor: blob("anchor"), Domain: name, Licence: "CC0-1.0", TopK: 2}
}

func draw(t testing.TB, text string) *picture {
	t.Helper()
	p := &picture{t: t, charter: aCharter(t, "pictures"), named: make(map[string]*notice.Notice)}
	p.named["c1"] = p.charter
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		feed, chain, ok := strings.Cut(line, ": ")
		if version, isCharter := strings.CutPrefix(feed, "charter "); isCharter && strings.Contains(line, " by ") {
			p.amend(strings.TrimSuffix(version, ":"), chain)
			continue
		}
		if !ok {
			if line != "" {
				p.checks = append(p.checks, line)
			}
			continue
		}
		var prev *notice.Notice
		for _, step := range strings.Split(chain, " -> ") {
			step = strings.TrimSpace(step)
			if name, ok := strings.CutPrefix(step, "@"); ok {
				prev = p.notice(name)
				continue
			}
			if n := p.sign(feed, step, prev); !n.Detached() {
				prev = n
			}
		}
	}
	return p
}

// amend signs a version of the charter: "c2 after c1 by alpha,beta".
func (p *picture) amend(version, changes string) {
	p.t.Helper()
	var name, prev, by string
	if _, err := fmt.Sscanf(version, "%s after %s by %s", &name, &prev, &by); err != nil {
		p.t.Fatalf("%s: %v", version, err)
	}
	before := p.notice(prev)
	c := *before.Body.(*notice.Charter)
	c.Version, c.Prev, c.Members, c.Stewards = c.Version+1, before.CID, slices.Clone(c.Members), slices.Clone(c.Stewards)
	c.Drawn = midnight.Add(time.Duration(len(p.named)) * time.Minute)
	for _, change := range strings.Fields(changes) {
		if member, ok := strings.CutPrefix(change, "-"); ok {
			c.Members = slices.DeleteFunc(c.Members, func(m notice.Member) bool { return m.Name == member })
			c.Stewards = slices.DeleteFunc(c.Stewards, func(s string) bool { return s == member })
		} else if n, ok := strings.CutSuffix(change, "/day"); ok {
			c.OffersPerDay, _ = strconv.Atoi(n)
		} else if of, k, ok := strings.Cut(change, "="); ok {
			for i := range c.Members {
				m := &c.Members[i]
				switch of {
				case m.Name:
					m.Publishing = public(k)
				case m.Name + ".node":
					m.Node = public(k)
				case m.Name + ".rev":
					m.Revokers = []notice.PublicKey{public(k)}
				}
			}
		} else {
			c.Name = change
		}
	}
	var signers []ed25519.PrivateKey
	for _, s := range strings.Split(by, ",") {
		signers = append(signers, keys[s])
	}
	n, err := notice.Sign(&c, signers...)
	if err != nil {
		p.t.Fatalf("%s: %v", version, err)
	}
	if p.named[name] == nil {
		p.named[name] = n
	}
	p.arrived = append(p.arrived, n)
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

// ids returns the identities of the notices in a list, sorted.
func (p *picture) ids(list string) []cid.Cid {
	var ids []cid.Cid
	for _, o := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		ids = append(ids, p.notice(o).CID)
	}
	slices.SortFunc(ids, notice.CompareCID)
	return ids
}

func (p *picture) sign(feed, step string, prev *notice.Notice) *notice.Notice {
	p.t.Helper()
	inner, withheld := strings.CutPrefix(step, "(")
	if withheld {
		step = strings.TrimSuffix(inner, ")")
	}
	name, what, ok := strings.Cut(step, "=")
	if !ok {
		name, what = step, step
	}
	h := notice.Header{Charter: p.charter.CID, Key: public(feed), Seq: 1, Time: midnight}
	if prev != nil {
		h.Seq, h.Prev = prev.Header().Seq+1, prev.CID
		h.Time = midnight.Add(time.Duration(h.Seq-1) * time.Hour)
	}
	what, later, ok := strings.Cut(what, "+")
	if ok {
		h.Time = h.Time.Add(p.duration(later))
	}
	if rest, ok := strings.CutPrefix(what, "%"); ok {
		what, h.Seq, h.Prev = rest, 0, cid.Undef
	}
	n, err := notice.Sign(p.body(h, what), keys[feed])
	if err != nil {
		p.t.Fatalf("%s: %v", step, err)
	}
	p.named[name] = n
	if !withheld {
		p.arrived = append(p.arrived, n)
	}
	return n
}

func (p *picture) body(h notice.Header, what string) notice.Body {
	p.t.Helper()
	if list, ok := strings.CutPrefix(what, "["); ok {
		list, head, _ := strings.Cut(list, "^")
		list, length, _ := strings.Cut(list, "]")
		l := &notice.Lease{Header: h, Offers: p.ids(list), NotAfter: h.Time.Add(24 * time.Hour)}
		if length != "" {
			l.NotAfter = h.Time.Add(p.duration(length))
		}
		if head != "" {
			n := p.notice(head)
			l.Heads = []notice.Head{{Key: n.Header().Key, Seq: n.Header().Seq, CID: n.CID}}
		}
		return l
	}
	if against, target, ok := strings.Cut(what, "!"); ok {
		r := &notice.Revocation{Header: h, Member: against}
		if k, ok := strings.CutPrefix(target, "&"); ok {
			r.RevokedKey = public(k)
			return r
		}
		target, through, _ := strings.Cut(target, "<")
		if r.All = target == "*"; !r.All {
			r.Offer = p.notice(target).CID
		}
		if k, seq, ok := strings.Cut(through, ":"); ok {
			n, _ := strconv.Atoi(seq)
			r.Through = notice.Through{Key: public(k), Seq: uint64(n)}
		}
		return r
	}
	if to, ok := strings.CutPrefix(what, ">"); ok {
		to, powers, _ := strings.Cut(to, ":")
		powers, scope, _ := strings.Cut(powers, "[")
		scope, length, _ := strings.Cut(scope, "]")
		d := &notice.Delegation{
			Header: h, Delegate: public(to), Revoke: strings.Contains(powers, "revoke"), Renew: strings.Contains(powers, "renew"),
			Offers: p.ids(scope), NotAfter: h.Time.Add(1000 * time.Hour),
		}
		if length != "" {
			d.NotAfter = h.Time.Add(p.duration(length))
		}
		return d
	}
	if old, to, ok := strings.Cut(what, "~"); ok {
		role := notice.RotatePublishing
		if strings.HasSuffix(old, ".node") {
			role = notice.RotateNode
		}
		r := notice.NewRotation(h.Charter, h.Key, role, public(old), keys[to])
		r.Header = h
		return r
	}
	o := anOffer(what)
	o.Header = h
	return o
}

// take adds one notice as a ledger does and reports whether it was new; refused
// says that it may be at another time.
func take(c *consent, root, n *notice.Notice) (isNew, refused bool) {
	isNew, err := c.judge(n, root)
	if err != nil {
		return false, true
	}
	if n.Kind == notice.KindCharter {
		if merged, verified, _ := c.charters.weigh(n); merged != nil {
			c.addCharter(merged, verified)
		}
	} else if isNew != c.add(n) {
		panic("judge and add disagree")
	}
	c.refresh()
	return isNew, false
}

// fold adds notices in their order, and those that were refused again until
// that changes nothing, as later synchronisations would. It calls each after
// every step.
func fold(root *notice.Notice, all []*notice.Notice, each func(*consent)) *consent {
	c := newConsent(root)
	for more := true; more; {
		more = false
		var refused []*notice.Notice
		for _, n := range all {
			isNew, no := take(c, root, n)
			if no {
				refused = append(refused, n)
			}
			more = more || isNew
			if isNew && each != nil {
				each(c)
			}
		}
		all = refused
	}
	return c
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
						if s.Notice == p.notice(name).CID && s.RevokedBy == n.CID {
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
					if !c.feeds[k].has(h.Seq, digestOf(h.CID)) {
						p.t.Errorf("%s: head %v is unknown", order, h)
					}
					heads = append(heads, fmt.Sprintf("%s %d", nameOf(k), h.Seq))
				}
			}
			got = strings.Join(heads, ", ")
		case "tops":
			member, list, _ := strings.Cut(rest, " ")
			var tops []string
			for _, h := range c.tops(member) {
				if !c.feeds[h.Key].has(h.Seq, digestOf(h.CID)) {
					p.t.Errorf("%s: top %v is unknown", order, h)
				}
				tops = append(tops, fmt.Sprintf("%s %d", nameOf(h.Key), h.Seq))
			}
			slices.Sort(tops) // keys have no order that people see
			got, rest = strings.Join(tops, ", "), list
		case "missing":
			var gaps []string
			for _, k := range c.keys() {
				for _, g := range c.feeds[k].missing(k) {
					gaps = append(gaps, fmt.Sprintf("%s %d-%d", nameOf(k), g.First, g.Last))
				}
			}
			got = strings.Join(gaps, ", ")
		case "seat":
			got = p.each(rest, func(name string) string {
				if b, ok := c.role(public(name)); ok {
					return b.member + " " + string(b.role)
				}
				return "none"
			})
		case "charter":
			got = p.nameOf(c.charters.current())
			if c.charter != c.charters.current().Body {
				p.t.Errorf("%s: the charter that holds is another", order)
			}
		case "charters":
			got = p.names(c.charters.sorted())
		case "proposals":
			got = p.names(c.charters.proposed())
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

func (p *picture) nameOf(n *notice.Notice) string {
	for name, o := range p.named {
		if o.CID == n.CID {
			return name
		}
	}
	return "?"
}

func (p *picture) names(all []*notice.Notice) string {
	var names []string
	for _, n := range all {
		names = append(names, p.nameOf(n))
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func (p *picture) checkRevocation(order string, s Standing) {
	p.t.Helper()
	if s.State != Revoked && s.Revocation != nil || (s.State == Revoked) != s.RevokedBy.Defined() {
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
