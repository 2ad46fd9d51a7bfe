package ledger

import (
	"cmp"
	"slices"

	"chorus/ledger/notice"
)

// A seat is what a member on the current charter has now.
type seat struct {
	publishing notice.PublicKey // after every rotation; zero: revoked
	node       notice.PublicKey // likewise
	recovery   notice.PublicKey // zero: none
	revokers   []notice.PublicKey
	lent       []*notice.Notice // the delegations that hold, but for their end
	forked     bool             // one of these keys has signed two feeds
}

// seat works out what the member m of the current charter has now.
func (c *consent) seat(m notice.Member) *seat {
	s := &seat{recovery: m.Recovery}
	s.publishing = c.rotated(m, m.Publishing, notice.RotatePublishing)
	s.node = c.rotated(m, m.Node, notice.RotateNode)
	for _, k := range m.Revokers {
		if c.keyRevoked(k, m.Name) == nil {
			s.revokers = append(s.revokers, k)
		}
	}
	for _, k := range []notice.PublicKey{s.publishing, s.recovery} {
		f := c.feeds[k]
		if f == nil {
			continue
		}
		for _, d := range f.delegations {
			if f.complete >= d.Header().Seq && c.keyRevoked(d.Body.(*notice.Delegation).Delegate, m.Name) == nil {
				s.lent = append(s.lent, d)
			}
		}
	}
	slices.SortFunc(s.lent, timeOrder)
	for _, k := range s.keys() {
		if f := c.feeds[k]; f != nil && f.fork > 0 {
			s.forked = true
		}
	}
	return s
}

// keys returns the keys of a seat, those of delegates too.
func (s *seat) keys() []notice.PublicKey {
	keys := append([]notice.PublicKey{s.publishing, s.node, s.recovery}, s.revokers...)
	for _, d := range s.lent {
		keys = append(keys, d.Body.(*notice.Delegation).Delegate)
	}
	return slices.DeleteFunc(keys, notice.PublicKey.IsZero)
}

// rotated follows the rotations by m's recovery key from the key k that the
// charter lists to the one that holds now. It is zero if that one is revoked.
func (c *consent) rotated(m notice.Member, k notice.PublicKey, role notice.RotatedRole) notice.PublicKey {
	for range 1 + len(c.rotations(m.Recovery)) { // more steps go in a circle
		var next *notice.Notice
		for _, n := range c.rotations(m.Recovery) {
			r := n.Body.(*notice.Rotation)
			if r.Role == role && r.Old == k && (next == nil || feedOrder(n, next) < 0) {
				next = n
			}
		}
		if next == nil {
			if c.keyRevoked(k, m.Name) != nil {
				return notice.PublicKey{}
			}
			return k
		}
		k = next.Body.(*notice.Rotation).New
	}
	return notice.PublicKey{}
}

func (c *consent) rotations(recovery notice.PublicKey) []*notice.Notice {
	if f := c.feeds[recovery]; f != nil {
		return f.rotations
	}
	return nil
}

// sit works out the seat of the named member anew, and which key has which role.
func (c *consent) sit(name string) {
	if old := c.seats[name]; old != nil {
		for _, k := range old.keys() {
			c.roles[k] = slices.DeleteFunc(c.roles[k], func(b binding) bool { return b.member == name })
			if len(c.roles[k]) == 0 {
				delete(c.roles, k)
			}
		}
		delete(c.seats, name)
	}
	m, ok := c.charter.Named(name)
	if !ok {
		return
	}
	s := c.seat(m)
	c.seats[name] = s
	is := func(role Role, keys ...notice.PublicKey) {
		for _, k := range keys {
			if !k.IsZero() {
				c.roles[k] = append(c.roles[k], binding{name, role})
			}
		}
	}
	is(RolePublishing, s.publishing)
	is(RoleNode, s.node)
	is(RoleRecovery, s.recovery)
	is(RoleRevoker, s.revokers...)
	for _, d := range s.lent {
		is(RoleDelegate, d.Body.(*notice.Delegation).Delegate)
	}
}

// role returns whose key k is now and what it is: of several roles the first in
// the order of everyRole, then of the member's name.
func (c *consent) role(k notice.PublicKey) (b binding, ok bool) {
	roles := c.roles[k]
	if len(roles) == 0 {
		return b, false
	}
	return slices.MinFunc(roles, func(a, b binding) int {
		return cmp.Or(cmp.Compare(slices.Index(everyRole, a.role), slices.Index(everyRole, b.role)), cmp.Compare(a.member, b.member))
	}), true
}
