package ledger

import (
	"cmp"
	"slices"

	"chorus/ledger/notice"
)

// Role says what a key is to its member.
type Role string

// The roles of a key.
const (
	RolePublishing Role = "publishing" // offers, leases, revokes, delegates
	RoleNode       Role = "node"       // identifies the node, and states what it does
	RoleRevoker    Role = "revoker"    // revokes
	RoleRecovery   Role = "recovery"   // revokes, delegates, names new keys
	RoleDelegate   Role = "delegate"   // what a delegation lends it
)

// binding says that a key is or was a member's.
type binding struct {
	member string
	role   Role
}

// authority knows which keys were ever whose, and what was ever said against
// them. It only grows, whatever the charter says later: so nothing that is
// revoked comes back through a charter. What a key may do now, seats know.
type authority struct {
	bound    map[notice.PublicKey][]binding
	lent     map[notice.PublicKey][]*notice.Notice // the delegations to a key
	replaced map[notice.PublicKey][]*notice.Notice // the rotations away from a key
	against  map[notice.PublicKey][]*notice.Notice // the revocations of a key
	byOffer  map[digest][]*notice.Notice           // the revocations of one offer, which may be unknown
	through  map[notice.PublicKey][]*notice.Notice // the revocations of all that reach into a key's feed from another
	boards   []*notice.Charter                     // every version of the charter: its stewards can vote
}

func newAuthority() authority {
	return authority{
		bound:    make(map[notice.PublicKey][]binding),
		lent:     make(map[notice.PublicKey][]*notice.Notice),
		replaced: make(map[notice.PublicKey][]*notice.Notice),
		against:  make(map[notice.PublicKey][]*notice.Notice),
		byOffer:  make(map[digest][]*notice.Notice),
		through:  make(map[notice.PublicKey][]*notice.Notice),
	}
}

// is reports whether k is or was a key of member's in one of roles.
func (a *authority) is(k notice.PublicKey, member string, roles ...Role) bool {
	return slices.ContainsFunc(a.bound[k], func(b binding) bool { return b.member == member && slices.Contains(roles, b.role) })
}

// members returns whose key k is or was in one of roles, sorted; usually one.
func (a *authority) members(k notice.PublicKey, roles ...Role) []string {
	var names []string
	for _, b := range a.bound[k] {
		if slices.Contains(roles, b.role) {
			names = append(names, b.member)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// everyRole is any role at all.
var everyRole = []Role{RolePublishing, RoleNode, RoleRevoker, RoleRecovery, RoleDelegate}

// allowed reports whether n is something that its key has ever been allowed to sign.
func (a *authority) allowed(n *notice.Notice) bool {
	k := n.Header().Key
	for _, b := range a.bound[k] {
		switch b.role {
		case RolePublishing:
			if n.Kind == notice.KindOffer || n.Kind == notice.KindLease || n.Kind == notice.KindRevocation || n.Kind == notice.KindDelegation {
				return true
			}
		case RoleNode:
			if n.Kind == notice.KindStatement {
				return true
			}
		case RoleRevoker:
			if n.Kind == notice.KindRevocation {
				return true
			}
		case RoleRecovery:
			if n.Kind == notice.KindRevocation || n.Kind == notice.KindDelegation || n.Kind == notice.KindRotation {
				return true
			}
		}
	}
	return slices.ContainsFunc(a.lent[k], func(d *notice.Notice) bool {
		lent := d.Body.(*notice.Delegation)
		r, revokes := n.Body.(*notice.Revocation)
		return lent.Renew && n.Kind == notice.KindLease || lent.Revoke && revokes && r.Offer.Defined() && r.Member == ""
	})
}

// direct reports whether r counts by itself against something of member's that
// stands in the feed of the publishing key p: by that key, a revoker or the
// recovery key. A publishing key does not reach into the feed of another, or
// whoever stole the one that was replaced could revoke what the new one offers.
func (a *authority) direct(r *notice.Notice, member string, p notice.PublicKey) bool {
	k := r.Header().Key
	return r.Body.(*notice.Revocation).Member == "" && (k == p && a.is(k, member, RolePublishing) || a.is(k, member, RoleRevoker, RoleRecovery))
}

// byDelegate reports whether the revocation r of one offer counts since its key
// was lent the power.
func (a *authority) byDelegate(r *notice.Notice, member string, p notice.PublicKey) bool {
	body := r.Body.(*notice.Revocation)
	return body.Member == "" && slices.ContainsFunc(a.lent[body.Key], func(n *notice.Notice) bool {
		d := n.Body.(*notice.Delegation)
		return d.Revoke && body.Time.Before(d.NotAfter) && (len(d.Offers) == 0 || slices.Contains(d.Offers, body.Offer)) &&
			(d.Key == p || a.is(d.Key, member, RoleRecovery))
	})
}

// carried reports whether the revocations in votes that stewards signed against
// member have a quorum: of the stewards of one version of the charter that has the
// member, enough. Who founded a consortium alone has no power over who came later.
func (a *authority) carried(votes []*notice.Notice, member string) bool {
	voters := make(map[string]bool)
	for _, v := range votes {
		if v.Body.(*notice.Revocation).Member == member {
			for _, name := range a.members(v.Header().Key, RolePublishing) {
				voters[name] = true
			}
		}
	}
	if len(voters) == 0 {
		return false
	}
	return slices.ContainsFunc(a.boards, func(c *notice.Charter) bool {
		if _, on := c.Named(member); !on {
			return false
		}
		n := 0
		for name := range voters {
			if c.Steward(name) {
				n++
			}
		}
		return n >= c.Quorum
	})
}

// first returns the first of the revocations and rotations that count against
// something of member's: all for which direct holds, and the votes if they have
// a quorum. It is nil if none counts.
func (a *authority) first(all []*notice.Notice, member string, direct func(*notice.Notice) bool) *notice.Notice {
	carried := a.carried(all, member)
	var first *notice.Notice
	for _, n := range all {
		counts := direct(n)
		if r, ok := n.Body.(*notice.Revocation); ok && r.Member == member {
			counts = counts || carried && len(a.members(r.Key, RolePublishing)) > 0
		}
		if counts && (first == nil || timeOrder(n, first) < 0) {
			first = n
		}
	}
	return first
}

// timeOrder orders notices of different feeds by their own times, then their ids.
func timeOrder(a, b *notice.Notice) int {
	return cmp.Or(a.Header().Time.Compare(b.Header().Time), cmp.Compare(a.Header().Seq, b.Header().Seq), digestOf(a.CID).compare(digestOf(b.CID)))
}

// keyRevoked returns the notice that withdrew the key k of member's: a
// revocation by a key that may, a vote, or a rotation away from it. A publishing
// key can withdraw itself and whom it lent something. A recovery key cannot be
// revoked: the charter drops it.
func (a *authority) keyRevoked(k notice.PublicKey, member string) *notice.Notice {
	if !a.is(k, member, RolePublishing, RoleNode, RoleRevoker, RoleDelegate) {
		return nil
	}
	r := a.first(a.against[k], member, func(n *notice.Notice) bool {
		by := n.Header().Key
		switch {
		case n.Body.(*notice.Revocation).Member != "":
			return false
		case a.is(by, member, RoleRevoker, RoleRecovery), by == k:
			return true
		}
		return a.is(by, member, RolePublishing) && slices.ContainsFunc(a.lent[k], func(d *notice.Notice) bool { return d.Header().Key == by })
	})
	for _, n := range a.replaced[k] {
		rotation := n.Body.(*notice.Rotation)
		if a.is(rotation.Key, member, RoleRecovery) && a.is(k, member, Role(rotation.Role)) && (r == nil || timeOrder(n, r) < 0) {
			r = n
		}
	}
	return r
}

// offerRevoked returns the first notice that withdraws the offer o, or nil. alls
// are the revocations of everything in the offer's own feed. It counts whatever
// gaps the feeds have. If several members ever had the publishing key, what
// counts against one of them withdraws: whose the key is may change, and what
// is revoked stays so.
func (a *authority) offerRevoked(o *notice.Notice, alls []*notice.Notice) (r *notice.Notice) {
	p, seq := o.Header().Key, o.Header().Seq
	better := func(n *notice.Notice) {
		if n != nil && (r == nil || timeOrder(n, r) < 0) {
			r = n
		}
	}
	for _, n := range alls {
		if n.Header().Seq > seq && n.Body.(*notice.Revocation).Member == "" {
			better(n)
		}
	}
	var reach []*notice.Notice
	for _, n := range a.through[p] {
		if n.Body.(*notice.Revocation).Through.Seq >= seq {
			reach = append(reach, n)
		}
	}
	for _, member := range a.members(p, RolePublishing) {
		better(a.keyRevoked(p, member))
		better(a.first(reach, member, func(n *notice.Notice) bool { return a.direct(n, member, p) }))
		better(a.first(a.byOffer[digestOf(o.CID)], member, func(n *notice.Notice) bool {
			return a.direct(n, member, p) || a.byDelegate(n, member, p)
		}))
	}
	return r
}
