package ledger

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// State says whether an expert may be used, and if not, why.
type State string

// The states of an offer. Where several would fit, the first one here holds.
const (
	Revoked   State = "revoked"   // it, its key or all of its member's were withdrawn, for ever
	Suspended State = "suspended" // a key of its member's signed two feeds, so nothing they say can be relied on
	Left      State = "left"      // its member, or the key that offered it, is not on the charter, or not on every branch of it
	Excess    State = "excess"    // its member had made as many offers that day as the charter allows
	Lapsed    State = "lapsed"    // no lease that counts lists it at this time
	Active    State = "active"    // its owner consents
)

// Standing is where an offer stands at one time.
type Standing struct {
	Offer  *notice.Offer
	Notice cid.Cid // the offer's identity
	Member string
	State  State

	// Until is the end of the lease that lists the offer, also after that end
	// has come; of several leases, the one that ends last. It is zero if no
	// feed's newest lease lists the offer, or none of those counts.
	Until time.Time

	Revocation *notice.Revocation // nil unless State is Revoked; nil also if the key was rotated away from
	RevokedBy  cid.Cid            // the identity of the revocation or rotation; undefined unless State is Revoked
}

// Gap is a run of notices of one feed that are missing: later ones are here.
type Gap struct {
	Key         notice.PublicKey
	First, Last uint64 // seq, both missing
}

// consent is what follows from a set of notices. Adding is commutative and
// idempotent: the same notices give the same consent in whatever order they
// come. It is pure, and it guards nothing against concurrent use.
//
// What was ever said is kept by the methods that add. What follows from it now
// (charter, seats, roles, offered) refresh works out, for the members that were
// touched; a lease is judged when somebody asks, since that needs the time.
type consent struct {
	authority
	charters *charters
	feeds    map[notice.PublicKey]*feed
	dropped  said // the drops that nodes have stated
	exported said // and the exports

	publishers map[string][]notice.PublicKey // every publishing key that a member ever had

	charter *notice.Charter
	tips    []*notice.Charter
	seats   map[string]*seat
	roles   map[notice.PublicKey][]binding
	offered map[string][]offered // by member, sorted
	touched map[string]bool      // members to work out anew
	all     bool                 // all of them

	sorted   []notice.PublicKey // of which there are notices: see keys
	unsorted bool               // a feed began or a key was bound since
}

// offered is an offer's standing but for its leases.
type offered struct {
	Standing // State is empty where it depends on leases
	promises []promise
}

// promise is a feed's newest lease as far as it concerns one offer.
type promise struct {
	lease *notice.Lease
	feed  *feed
	until time.Time // no later than a delegation that it hangs on
}

func newConsent(root *notice.Notice) *consent {
	c := &consent{
		authority: newAuthority(), charters: newCharters(root),
		feeds:      make(map[notice.PublicKey]*feed),
		dropped:    make(said),
		exported:   make(said),
		publishers: make(map[string][]notice.PublicKey),
		seats:      make(map[string]*seat),
		roles:      make(map[notice.PublicKey][]binding),
		offered:    make(map[string][]offered),
		touched:    make(map[string]bool),
	}
	c.install(root.Body.(*notice.Charter))
	c.refresh()
	return c
}

// addCharter takes in what charters.weigh returned.
func (c *consent) addCharter(n *notice.Notice, verified bool) {
	c.charters.add(n, verified)
	if verified {
		c.install(n.Body.(*notice.Charter))
	}
}

// install has the keys of a version count for what they may revoke.
func (c *consent) install(v *notice.Charter) {
	c.all = true
	c.boards = append(c.boards, v)
	for _, m := range v.Members {
		c.bind(m.Publishing, binding{m.Name, RolePublishing})
		c.bind(m.Node, binding{m.Name, RoleNode})
		if !m.Recovery.IsZero() {
			c.bind(m.Recovery, binding{m.Name, RoleRecovery})
		}
		for _, k := range m.Revokers {
			c.bind(k, binding{m.Name, RoleRevoker})
		}
	}
}

// bind notes whose key k is, and whose those are that k delegated or rotated to.
func (c *consent) bind(k notice.PublicKey, b binding) {
	c.touched[b.member] = true
	if slices.Contains(c.bound[k], b) {
		return
	}
	c.unsorted = true
	c.bound[k] = append(c.bound[k], b)
	if b.role == RolePublishing {
		c.publishers[b.member] = append(c.publishers[b.member], k)
		c.all = true // what it voted for counts as this member's, too
	}
	if f := c.feeds[k]; f != nil {
		for _, n := range slices.Concat(f.delegations, f.rotations) {
			c.bindNamed(n)
		}
	}
}

// bindNamed binds the key that a delegation or rotation names.
func (c *consent) bindNamed(n *notice.Notice) {
	for _, b := range slices.Clone(c.bound[n.Header().Key]) {
		switch body := n.Body.(type) {
		case *notice.Delegation:
			if b.role == RolePublishing || b.role == RoleRecovery {
				c.bind(body.Delegate, binding{b.member, RoleDelegate})
			}
		case *notice.Rotation:
			if b.role == RoleRecovery {
				c.bind(body.New, binding{b.member, Role(body.Role)})
			}
		}
	}
}

// feed returns the feed of a key, and makes it if there is none.
func (c *consent) feed(k notice.PublicKey) *feed {
	f := c.feeds[k]
	if f == nil {
		f = &feed{offers: make(map[digest]*notice.Notice)}
		c.feeds[k] = f
		c.unsorted = true
	}
	return f
}

// add takes in a notice of a feed and reports whether it was new. The caller
// has checked that it is allowed.
func (c *consent) add(n *notice.Notice) bool {
	if !c.addLink(n.Header().Key, n.Header().Seq, linkOf(n)) {
		return false
	}
	c.addBody(n)
	return true
}

// addLink takes in that a notice is there, and nothing of what it says.
func (c *consent) addLink(k notice.PublicKey, seq uint64, l link) bool {
	if !c.feed(k).add(seq, l) {
		return false
	}
	for _, b := range c.bound[k] {
		c.touched[b.member] = true
	}
	return true
}

// addBody takes in what a notice says.
func (c *consent) addBody(n *notice.Notice) {
	f := c.feed(n.Header().Key)
	if n.Detached() {
		f.detached[digestOf(n.CID)] = n
	}
	switch b := n.Body.(type) {
	case *notice.Offer:
		f.offers[digestOf(n.CID)] = n
	case *notice.Lease:
		if f.renews(n) {
			f.lease = n
		}
	case *notice.Revocation:
		if b.Member != "" {
			c.touched[b.Member] = true
		}
		switch {
		case b.Offer.Defined():
			c.byOffer[digestOf(b.Offer)] = append(c.byOffer[digestOf(b.Offer)], n)
		case !b.RevokedKey.IsZero():
			c.against[b.RevokedKey] = append(c.against[b.RevokedKey], n)
		default:
			f.alls = append(f.alls, n)
			if b.Through != (notice.Through{}) {
				c.through[b.Through.Key] = append(c.through[b.Through.Key], n)
			}
		}
	case *notice.Delegation:
		f.delegations = append(f.delegations, n)
		c.lent[b.Delegate] = append(c.lent[b.Delegate], n)
		c.bindNamed(n)
	case *notice.Rotation:
		f.rotations = append(f.rotations, n)
		c.replaced[b.Old] = append(c.replaced[b.Old], n)
		c.bindNamed(n)
	case *notice.Statement:
		for _, d := range b.Dropped {
			if d.Offer.Defined() {
				c.dropped.add(d.Offer, b.Key, d.Time)
			}
		}
		for _, x := range b.Exported {
			c.exported.add(x.Offer, b.Key, x.Time)
		}
	}
}

// has reports whether n, which is in a feed or detached, is known.
func (c *consent) has(n *notice.Notice) bool {
	h := n.Header()
	f := c.feeds[h.Key]
	return f != nil && f.has(h.Seq, digestOf(n.CID))
}

// keys returns the keys of which there are notices, in the order of whose they
// are, and of one member's in the order of the keys. Do not change it.
func (c *consent) keys() []notice.PublicKey { return c.sorted }

// sort works out keys.
func (c *consent) sort() {
	if !c.unsorted {
		return
	}
	whose := make(map[notice.PublicKey]string, len(c.feeds))
	for k := range c.feeds {
		if names := c.members(k, everyRole...); len(names) > 0 {
			whose[k] = names[0]
		}
	}
	c.sorted = slices.SortedFunc(maps.Keys(c.feeds), func(a, b notice.PublicKey) int {
		return cmp.Or(cmp.Compare(whose[a], whose[b]), slices.Compare(a[:], b[:]))
	})
	c.unsorted = false
}

// refresh works out what follows for the members that were touched.
func (c *consent) refresh() {
	if c.all {
		c.charter, c.tips = c.charters.current().Body.(*notice.Charter), c.charters.tips()
		for name := range c.publishers {
			c.touched[name] = true
		}
	}
	c.spread()
	for name := range c.touched {
		c.sit(name)
	}
	for name := range c.touched { // now that each key has its role
		c.list(name)
	}
	c.all = false
	clear(c.touched)
	c.sort()
}

// spread touches the members too who had a publishing key of one that is touched:
// whose its offers are may have changed.
func (c *consent) spread() {
	more := slices.Collect(maps.Keys(c.touched))
	for len(more) > 0 {
		name := more[len(more)-1]
		more = more[:len(more)-1]
		for _, p := range c.publishers[name] {
			for _, b := range c.bound[p] {
				if b.role == RolePublishing && !c.touched[b.member] {
					c.touched[b.member] = true
					more = append(more, b.member)
				}
			}
		}
	}
}

// list works out the offers of a member but for their leases.
func (c *consent) list(name string) {
	var all []offered
	for _, p := range c.publishers[name] {
		if f := c.feeds[p]; f != nil && c.publisherOf(p) == name {
			all = append(all, c.listFeed(name, p, f)...)
		}
	}
	slices.SortFunc(all, func(a, b offered) int {
		return cmp.Or(a.Offer.Time.Compare(b.Offer.Time), notice.CompareCID(a.Notice, b.Notice))
	})
	c.offered[name] = all
}

// publisherOf returns the member to whom the offers of a publishing key belong:
// the one that has the key now, or else one that had it; of several the first.
func (c *consent) publisherOf(p notice.PublicKey) string {
	all := c.members(p, RolePublishing)
	for _, name := range all {
		if s := c.seats[name]; s != nil && s.publishing == p {
			return name
		}
	}
	return all[0]
}

// listFeed works out the offers of one publishing key.
func (c *consent) listFeed(name string, p notice.PublicKey, f *feed) []offered {
	s := c.seats[name]
	here := s != nil && s.publishing == p && !slices.ContainsFunc(c.tips, func(tip *notice.Charter) bool {
		_, on := tip.Named(name)
		return !on
	})
	day, count := time.Time{}, 0
	var all []offered
	for _, n := range slices.SortedFunc(maps.Values(f.offers), timeOrder) {
		o := offered{Standing: Standing{Offer: n.Body.(*notice.Offer), Notice: n.CID, Member: name}}
		if today := o.Offer.Time.Truncate(24 * time.Hour); !today.Equal(day) {
			day, count = today, 0
		}
		count++
		r := c.offerRevoked(n, f.alls)
		switch {
		case r != nil:
			o.State, o.RevokedBy = Revoked, r.CID
			o.Revocation, _ = r.Body.(*notice.Revocation)
		case here && s.forked:
			o.State = Suspended
		case !here:
			o.State = Left
		case count > c.charter.OffersPerDay:
			o.State = Excess
		}
		if here {
			o.promises = c.promises(s, p, n.CID)
		}
		all = append(all, o)
	}
	return all
}

// promises returns the newest leases that list an offer of the publishing key p,
// by that key or by those that it or the recovery key lent the power to.
func (c *consent) promises(s *seat, p notice.PublicKey, offer cid.Cid) []promise {
	var all []promise
	add := func(k notice.PublicKey, end time.Time) {
		f := c.feeds[k]
		if f == nil || f.lease == nil {
			return
		}
		l := f.lease.Body.(*notice.Lease)
		if _, lists := slices.BinarySearchFunc(l.Offers, offer, notice.CompareCID); !lists {
			return
		}
		switch {
		case end.IsZero():
			all = append(all, promise{l, f, l.NotAfter})
		case l.Time.Before(end):
			all = append(all, promise{l, f, earlier(l.NotAfter, end)})
		}
	}
	add(p, time.Time{})
	for _, n := range s.lent {
		if d := n.Body.(*notice.Delegation); d.Renew && (len(d.Offers) == 0 || slices.Contains(d.Offers, offer)) {
			add(d.Delegate, d.NotAfter)
		}
	}
	return all
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// standings returns where every known offer stands at now.
func (c *consent) standings(now time.Time) []Standing {
	names := slices.Sorted(maps.Keys(c.offered))
	total := 0
	for _, name := range names {
		total += len(c.offered[name])
	}
	all := make([]Standing, 0, total)
	counts := make(map[*notice.Lease]bool)
	for _, name := range names {
		for i := range c.offered[name] {
			o := &c.offered[name][i]
			all = append(all, o.Standing)
			st := &all[len(all)-1]
			var begun, later time.Time // ends of leases that have begun, and of others
			for _, p := range o.promises {
				ok, judged := counts[p.lease]
				if !judged {
					ok = c.counts(p.lease, p.feed)
					counts[p.lease] = ok
				}
				// A lease counts from its own time on. Otherwise one with a time in the
				// future could stretch as far beyond the ceiling as its signer likes.
				switch {
				case !ok:
				case now.Add(clockTolerance).Before(p.lease.Time):
					later = latest(later, p.until)
				default:
					begun = latest(begun, p.until)
				}
			}
			if st.Until = begun; begun.IsZero() {
				st.Until = later
			}
			switch {
			case st.State != "":
			case now.Before(begun):
				st.State = Active
			default:
				st.State = Lapsed
			}
		}
	}
	return all
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// counts reports whether a feed's newest lease counts: it is no longer than the
// charter allows, and no notice before it is missing, nor any of the feeds that
// it names the heads of. One of those might be a revocation.
func (c *consent) counts(l *notice.Lease, f *feed) bool {
	if l.NotAfter.Sub(l.Time) > time.Duration(c.charter.LeaseCeilingSeconds)*time.Second || f.complete < l.Seq {
		return false
	}
	for _, h := range l.Heads {
		other := c.feeds[h.Key]
		if other == nil || other.complete < h.Seq || !other.has(h.Seq, digestOf(h.CID)) {
			return false
		}
	}
	return true
}
