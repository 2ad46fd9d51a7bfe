package ledger

import (
	"crypto/ed25519"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"pgregory.net/rapid"
)

// A world is a consortium in which everybody signs what comes to mind, well or
// badly, and the notices that came of it.
type world struct {
	*rapid.T
	root     *notice.Notice
	signed   []*notice.Notice
	offers   []cid.Cid
	charters []*notice.Notice
	feeds    map[string][]*notice.Notice // what a key signed, in any branch
	partial  bool                        // whether charters may lack signatures
	honest   bool                        // whether nobody signs two feeds, and everything is passed on
}

var signers = []string{
	"alpha", "alpha", "alpha", "beta", "beta", "beta", "gamma", "gamma", "alpha", "alpha.node", "alpha.rec", "alpha.rev", "beta", "beta.node", "beta.rec", "beta.rev", "gamma", "gamma.rec", "gamma.rev", "d", "e", "g",
}

func (w *world) pick(of []string) string { return rapid.SampledFrom(of).Draw(w.T, "one of") }

func (w *world) chance(percent int) bool { return rapid.IntRange(0, 99).Draw(w.T, "chance") < percent }

// header returns the next place of a key's feed, or now and then another one.
func (w *world) header(key string) notice.Header {
	h := notice.Header{Charter: w.root.CID, Key: public(key), Seq: 1, Time: midnight.Add(time.Duration(rapid.IntRange(0, 30).Draw(w.T, "hour")) * time.Hour)}
	if before := w.feeds[key]; len(before) > 0 && (w.honest || !w.chance(1)) {
		prev := before[len(before)-1]
		if !w.honest && w.chance(1) {
			prev = rapid.SampledFrom(before).Draw(w.T, "prev")
		}
		h.Seq, h.Prev = prev.Header().Seq+1, prev.CID
	}
	return h
}

func (w *world) someOffers() []cid.Cid {
	var some []cid.Cid
	for _, o := range w.offers {
		if w.chance(60) {
			some = append(some, o)
		}
	}
	slices.SortFunc(some, notice.CompareCID)
	return slices.Compact(some) // one offer can have been signed twice
}

// body returns something that the key may sign in the role that it is drawn in,
// or, of a key that is nobody's, anything.
func (w *world) body(key string, h notice.Header) notice.Body {
	revocation := func() notice.Body {
		r := &notice.Revocation{Header: h}
		switch {
		case w.chance(50) && len(w.offers) > 0:
			r.Offer = rapid.SampledFrom(w.offers).Draw(w.T, "offer")
		case w.chance(50):
			r.RevokedKey = public(w.pick(signers))
		default:
			r.All = true
			if k := w.pick(signers); k != key && w.chance(60) {
				r.Through = notice.Through{Key: public(k), Seq: uint64(rapid.IntRange(1, 4).Draw(w.T, "seq"))}
			}
		}
		if w.chance(30) {
			r.Member = w.pick([]string{"alpha", "beta", "gamma"})
			if len(w.offers) > 0 { // so that votes meet
				r.Offer, r.RevokedKey, r.All, r.Through = w.offers[0], notice.PublicKey{}, false, notice.Through{}
			}
		} else if !r.All && w.chance(20) {
			r.Seq, r.Prev = 0, cid.Undef
		}
		return r
	}
	delegation := func() notice.Body {
		to := w.pick([]string{"d", "e", "g"})
		if to == key {
			return revocation()
		}
		d := &notice.Delegation{Header: h, Delegate: public(to), Revoke: w.chance(60), Offers: []cid.Cid{}, NotAfter: h.Time.Add(20 * time.Hour)}
		d.Renew = !d.Revoke || w.chance(50)
		if w.chance(30) {
			d.Offers = w.someOffers()
		}
		return d
	}
	offer := func() notice.Body {
		o := anOffer(fmt.Sprint(len(w.signed)))
		o.Header = h
		return o
	}
	lease := func() notice.Body {
		l := &notice.Lease{Header: h, Offers: w.someOffers(), NotAfter: h.Time.Add(time.Duration(rapid.IntRange(1, 50).Draw(w.T, "length")) * time.Hour)}
		if w.chance(20) {
			k := w.pick(signers)
			if of := w.feeds[k]; k != key && len(of) > 0 {
				n := of[len(of)-1]
				l.Heads = []notice.Head{{Key: n.Header().Key, Seq: n.Header().Seq, CID: n.CID}}
			}
		}
		return l
	}
	rotation := func() notice.Body {
		member, _, _ := cutRole(key)
		old, role := member, notice.RotatePublishing
		if w.chance(30) {
			old, role = member+".node", notice.RotateNode
		} else if w.chance(30) {
			old = w.pick([]string{"d", "e", "g"})
		}
		to := w.pick([]string{"d", "e", "g", "alpha"})
		if to == old {
			return revocation()
		}
		r := notice.NewRotation(h.Charter, h.Key, role, public(old), keys[to])
		r.Header = h
		return r
	}
	statement := func() notice.Body {
		if len(w.signed) == 0 {
			return nil
		}
		n := rapid.SampledFrom(w.signed).Draw(w.T, "offer")
		if w.chance(30) {
			return &notice.Statement{Header: h, Exported: []notice.Export{{Offer: n.CID, Time: h.Time}}}
		}
		return &notice.Statement{Header: h, Dropped: []notice.Drop{{Revocation: n.CID, Offer: n.CID, Time: h.Time}}}
	}
	_, role, _ := cutRole(key)
	choices := map[string][]func() notice.Body{
		"":     {offer, offer, offer, lease, lease, lease, lease, lease, delegation, delegation, revocation},
		"node": {statement},
		"rev":  {revocation},
		"rec":  {rotation, rotation, delegation, revocation},
		"any":  {offer, lease, lease, lease, revocation, delegation, statement},
	}[role]
	return rapid.SampledFrom(choices).Draw(w.T, "body")()
}

// cutRole returns whose a key is and as what, "" for publishing and "any" for a
// key that is nobody's.
func cutRole(key string) (member, role string, ok bool) {
	if slices.Contains([]string{"d", "e", "g"}, key) {
		return "", "any", false
	}
	for i, r := range key {
		if r == '.' {
			return key[:i], key[i+1:], true
		}
	}
	return key, "", true
}

// amend signs a version of the charter after some other.
func (w *world) amend() {
	before := rapid.SampledFrom(w.charters).Draw(w.T, "before")
	c := *before.Body.(*notice.Charter)
	c.Version, c.Prev, c.Members, c.Stewards = c.Version+1, before.CID, slices.Clone(c.Members), slices.Clone(c.Stewards)
	c.Drawn = midnight.Add(time.Duration(len(w.signed)) * time.Minute)
	switch {
	case w.chance(30) && len(c.Members) > 2:
		gone := c.Members[rapid.IntRange(0, len(c.Members)-1).Draw(w.T, "gone")].Name
		c.Members = slices.DeleteFunc(c.Members, func(m notice.Member) bool { return m.Name == gone })
		c.Stewards = slices.DeleteFunc(c.Stewards, func(s string) bool { return s == gone })
	case w.chance(50):
		m := &c.Members[0]
		used := slices.ContainsFunc(c.Members, func(m notice.Member) bool { return m.Publishing == public("e") })
		if !used {
			m.Publishing = public("e")
		}
	default:
		c.OffersPerDay = rapid.IntRange(1, 3).Draw(w.T, "offers per day")
	}
	c.Quorum = min(c.Quorum, len(c.Stewards))
	by := []ed25519.PrivateKey{keys["alpha"], keys["beta"], keys["gamma"], keys["e"]}
	if w.partial && w.chance(60) {
		by = by[rapid.IntRange(0, 2).Draw(w.T, "from"):][:1]
	}
	n, err := notice.Sign(&c, by...)
	if err != nil {
		w.Fatal(err)
	}
	w.charters, w.signed = append(w.charters, n), append(w.signed, n)
}

func aWorld(t *rapid.T, root *notice.Notice, partial bool) *world {
	w := &world{T: t, root: root, charters: []*notice.Notice{root}, feeds: make(map[string][]*notice.Notice), partial: partial}
	w.honest = w.chance(60)
	for range rapid.IntRange(30, 90).Draw(t, "notices") {
		if w.chance(3) {
			w.amend()
			continue
		}
		key := w.pick(signers)
		b := w.body(key, w.header(key))
		if b == nil {
			continue
		}
		n, err := notice.Sign(b, keys[key])
		if err != nil {
			t.Fatal(err)
		}
		if !n.Detached() {
			w.feeds[key] = append(w.feeds[key], n)
		}
		if n.Kind == notice.KindOffer {
			w.offers = append(w.offers, n.CID)
		}
		if w.honest || !w.chance(2) { // or nobody passes it on
			w.signed = append(w.signed, n)
		}
	}
	return w
}

// conclusions is all that follows from a consent.
type conclusions struct {
	Standings [4][]Standing
	Charter   cid.Cid
	Versions  []string
	Roles     map[notice.PublicKey]binding
	Heads     []notice.Head
	Missing   []Gap
	Frontiers map[notice.PublicKey]notice.Frontier
	Dropped   said
	Exported  said
}

func conclude(c *consent) conclusions {
	k := conclusions{Charter: c.charters.current().CID, Roles: make(map[notice.PublicKey]binding), Frontiers: make(map[notice.PublicKey]notice.Frontier), Dropped: c.dropped, Exported: c.exported}
	for i := range k.Standings {
		k.Standings[i] = c.standings(midnight.Add(time.Duration(i*15) * time.Hour))
	}
	for _, n := range c.charters.sorted() {
		k.Versions = append(k.Versions, n.CID.String())
	}
	for key := range c.roles {
		k.Roles[key], _ = c.role(key)
	}
	for _, key := range c.keys() {
		f := c.feeds[key]
		k.Heads, k.Missing = append(k.Heads, f.heads(key)...), append(k.Missing, f.missing(key)...)
		k.Frontiers[key] = f.frontier(key)
	}
	return k
}

// same compares field by field, so that a failure says what differs.
func same(t *rapid.T, what string, a, b conclusions) {
	t.Helper()
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		if x, y := va.Field(i).Interface(), vb.Field(i).Interface(); !reflect.DeepEqual(x, y) {
			t.Errorf("%s: %s is\n%+v\nand\n%+v", what, va.Type().Field(i).Name, x, y)
		}
	}
}

// permuted returns the notices in another order, some of them twice.
func permuted(t *rapid.T, all []*notice.Notice) []*notice.Notice {
	all = slices.Clone(all)
	for range len(all) / 4 {
		all = append(all, rapid.SampledFrom(all).Draw(t, "again"))
	}
	return rapid.Permutation(all).Draw(t, "order")
}

// TestConsentOfAnythingFollowsInAnyOrder: any permutation, duplication and
// partition of the same notices gives the same.
func TestConsentOfAnythingFollowsInAnyOrder(t *testing.T) {
	root := aCharter(t, "pictures")
	rapid.Check(t, func(t *rapid.T) {
		w := aWorld(t, root, false)
		want := fold(root, w.signed, nil)
		same(t, "another order", conclude(want), conclude(fold(root, permuted(t, w.signed), nil)))

		// Two sides that each have a part, and then meet.
		cut := rapid.IntRange(0, len(w.signed)).Draw(t, "cut")
		order := rapid.Permutation(w.signed).Draw(t, "order")
		left, right := order[:cut], order[cut:]
		same(t, "left, then right", conclude(want), conclude(fold(root, slices.Concat(left, right), nil)))
		same(t, "right, then left", conclude(want), conclude(fold(root, slices.Concat(right, left), nil)))
	})
}

// TestSidesWithProposalsAgreeOnceTheyMet: what a steward signed and then
// replaced may be known to one side only, who made a version of it.
func TestSidesWithProposalsAgreeOnceTheyMet(t *testing.T) {
	root := aCharter(t, "pictures")
	rapid.Check(t, func(t *rapid.T) {
		w := aWorld(t, root, true)
		a, b := fold(root, w.signed, nil), fold(root, permuted(t, w.signed), nil)
		for more := true; more; { // each meeting can settle another version
			more = false
			forA, forB := slices.Concat(b.charters.sorted(), b.charters.proposed(), w.signed), slices.Concat(a.charters.sorted(), a.charters.proposed(), w.signed)
			for _, n := range forA {
				isNew, _ := take(a, root, n)
				more = more || isNew
			}
			for _, n := range forB {
				isNew, _ := take(b, root, n)
				more = more || isNew
			}
		}
		same(t, "after they met", conclude(a), conclude(b))
		if len(a.charters.proposals) > 3 {
			t.Errorf("%d proposals of three stewards", len(a.charters.proposals))
		}
	})
}

// TestNothingRevokedComesBack: once an offer is revoked, no further notice of
// any kind makes it anything else.
func TestNothingRevokedComesBack(t *testing.T) {
	root := aCharter(t, "pictures")
	rapid.Check(t, func(t *rapid.T) {
		w := aWorld(t, root, true)
		revoked := make(map[cid.Cid]bool)
		fold(root, permuted(t, w.signed), func(c *consent) {
			now := make(map[cid.Cid]bool)
			for _, s := range c.standings(midnight.Add(10 * time.Hour)) {
				if s.State == Revoked {
					now[s.Notice] = true
				} else if revoked[s.Notice] {
					t.Errorf("%s of %s was revoked and is %s", s.Notice, s.Member, s.State)
				}
			}
			for id := range revoked {
				if !now[id] {
					t.Errorf("%s was revoked and is unknown", id)
				}
			}
			maps.Copy(revoked, now)
		})
	})
}

// TestWorkingOutWhatIsTouchedIsEnough: what is worked out step by step is what
// would be worked out from everything.
func TestWorkingOutWhatIsTouchedIsEnough(t *testing.T) {
	root := aCharter(t, "pictures")
	rapid.Check(t, func(t *rapid.T) {
		w := aWorld(t, root, true)
		fold(root, permuted(t, w.signed), func(c *consent) {
			step := conclude(c)
			c.all = true
			c.refresh()
			same(t, "step by step and at once", step, conclude(c))
		})
	})
}
