package node

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"chorus/ledger"
	"chorus/ledger/notice"
)

// ErrUnlisted is returned where a steward cannot sign for the charter that holds, since that lists a publishing key of its which
// was replaced and is not here.
var ErrUnlisted = errors.New("the charter lists a publishing key that was replaced")

// A Replaced is a key that the charter lists and that is not its member's any more. For charters it counts until a version lists
// another, since every node judges a version by those before it alone.
type Replaced struct {
	Member  string             `json:"member"`
	Role    notice.RotatedRole `json:"role"`
	Listed  notice.PublicKey   `json:"listed"`
	Now     notice.PublicKey   `json:"now,omitzero"` // zero: it was revoked, and no other named
	Steward bool               `json:"steward"`
}

// Words says what follows from it, in a sentence.
func (r Replaced) Words() string {
	what := fmt.Sprintf("The %s key %s of %s, which the charter lists, was ", r.Role, keyWords(r.Listed), r.Member)
	signs := r.Steward && r.Role == notice.RotatePublishing
	switch {
	case r.Now.IsZero() && signs:
		return what + "revoked, and signs charters until a version lists another."
	case r.Now.IsZero():
		return what + "revoked."
	case signs:
		return what + fmt.Sprintf("replaced by %s, and signs charters until a version lists that.", keyWords(r.Now))
	}
	return what + fmt.Sprintf("replaced by %s, which the next version lists.", keyWords(r.Now))
}

// seat returns a member of the charter that holds with the publishing and node keys that it has now, zero for one that was revoked.
func seat(l *ledger.Ledger, m notice.Member) notice.Member {
	m.Publishing, m.Node = notice.PublicKey{}, notice.PublicKey{}
	for k, role := range l.Keys(m.Name) {
		switch role {
		case ledger.RolePublishing:
			m.Publishing = k
		case ledger.RoleNode:
			m.Node = k
		}
	}
	return m
}

// speaks returns the key in whose feed a member of the charter speaks, or did until that was revoked.
func speaks(l *ledger.Ledger, m notice.Member) notice.PublicKey {
	if key := seat(l, m).Publishing; !key.IsZero() {
		return key
	}
	return m.Publishing
}

// seats returns the seats of all members, by name.
func seats(l *ledger.Ledger) map[string]notice.Member {
	all := make(map[string]notice.Member)
	for _, m := range l.Charter().Members {
		all[m.Name] = seat(l, m)
	}
	return all
}

// replaced returns the keys on the charter that are not their members' any more.
func replaced(l *ledger.Ledger) []Replaced {
	all := []Replaced{}
	c := l.Charter()
	for _, m := range c.Members {
		s := seat(l, m)
		if s.Publishing != m.Publishing {
			all = append(all, Replaced{m.Name, notice.RotatePublishing, m.Publishing, s.Publishing, c.Steward(m.Name)})
		}
		if s.Node != m.Node {
			all = append(all, Replaced{m.Name, notice.RotateNode, m.Node, s.Node, c.Steward(m.Name)})
		}
	}
	return all
}

// reseat gives members the keys of their seats. One that was revoked stays as it is listed, and so does one whose successor is some key on
// the charter already: no member may keep the others from a next version.
func reseat(members []notice.Member, seats map[string]notice.Member) {
	taken := make(map[notice.PublicKey]bool)
	for _, m := range members {
		for _, k := range m.Keys() {
			taken[k] = true
		}
	}
	for i := range members {
		m := &members[i]
		s := seats[m.Name]
		for _, k := range []struct{ listed, now *notice.PublicKey }{{&m.Publishing, &s.Publishing}, {&m.Node, &s.Node}} {
			if !k.now.IsZero() && !taken[*k.now] {
				*k.listed = *k.now
				taken[*k.now] = true
			}
		}
	}
}

// stewardKeys are those with which a steward signs what follows the charter that holds.
type stewardKeys struct {
	charter  *notice.Charter
	member   string
	listed   ed25519.PrivateKey // which the charter lists; nil: it was replaced, and is not here
	unlisted error              // says so then, and who can sign
	now      ed25519.PrivateKey // the member's own
}

// listedKey returns the file of the publishing key that the charter c, which holds, lists for this member: the home's publishing key or, if that
// is its seat's by now, the one that it replaced. The error wraps [ErrUnlisted] if that is not here.
func (n *Node) listedKey(c *notice.Charter) (path string, f *KeyFile, err error) {
	m, ok := c.Named(n.Member())
	if !ok {
		return "", nil, fmt.Errorf("%s is not on the charter any more", n.Member())
	}
	path = n.home.path(publishingKey)
	if f, err = ReadKeyFile(path); err != nil || f.Key == m.Publishing {
		return path, f, err
	}
	if f.Key != seat(n.ledger, m).Publishing {
		return "", nil, fmt.Errorf("the charter does not list %s with the publishing key of this data folder, nor has its recovery key named that", n.Member())
	}
	path, f, err = n.home.Replaced(m.Publishing)
	if errors.Is(err, fs.ErrNotExist) {
		do := "another steward must put the new one on the charter, with `chorus charter propose`"
		if c.Steward(n.Member()) && c.Quorum == len(c.Stewards) {
			do = "without it there is no quorum, so that nothing can change this charter any more"
		}
		err = fmt.Errorf("%w, that of %s, and it is not here, as %s%s: %s", ErrUnlisted, n.Member(), publishingKey, oldKey, do)
	}
	return path, f, err
}

// stewardKeys finds the keys of this node's member. The error wraps [ErrLocked] if a passphrase is needed.
func (n *Node) stewardKeys() (k stewardKeys, err error) {
	k.charter, k.member = n.ledger.Charter(), n.Member()
	path, f, err := n.listedKey(k.charter)
	if err == nil {
		k.listed, err = n.private(path, f)
	} else if errors.Is(err, ErrUnlisted) {
		k.unlisted, err = err, nil
	}
	if err == nil {
		k.now, err = n.publishingKey()
	}
	return k, err
}

// of returns the keys whose signatures of this steward's count for next: that which the charter before it lists, and that which it lists itself.
func (k stewardKeys) of(next *notice.Charter) (keys []ed25519.PrivateKey) {
	if k.listed != nil && k.charter.Steward(k.member) {
		keys = append(keys, k.listed)
	}
	m, _ := next.Named(k.member)
	for _, key := range []ed25519.PrivateKey{k.listed, k.now} {
		if key != nil && next.Steward(k.member) && m.Publishing == notice.PublicKeyOf(key) && !slices.ContainsFunc(keys, func(has ed25519.PrivateKey) bool { return has.Equal(key) }) {
			keys = append(keys, key)
		}
	}
	return keys
}

// keyWords is the end of a key, enough for people to tell two apart.
func keyWords(k notice.PublicKey) string {
	if k.IsZero() {
		return "none"
	}
	s := k.String()
	return "…" + s[len(s)-8:]
}
