package notice

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// maxLeaseSeconds bounds what a charter can allow: 366 days.
const maxLeaseSeconds = 366 * 24 * 60 * 60

// What a charter can hold. The largest fits into MaxCharterSize.
const (
	maxMembers      = 1000
	maxRevokers     = 8 // of one member
	maxOffersPerDay = 10000
)

var memberName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

// CheckName reports whether a charter accepts name as a member's. The error
// wraps ErrMalformed and says what it wants.
func CheckName(name string) error {
	if !memberName.MatchString(name) {
		return malformed("member name %.80q, want 1 to 40 of a-z, 0-9 and -, the first not -", name)
	}
	return nil
}

// Charter founds a consortium and, in later versions, changes it. It stands in
// no feed: it is signed by a quorum of stewards instead, which Parse does not
// check. VerifyCharter does.
type Charter struct {
	Name                string   `json:"name"`
	Version             uint64   `json:"version"`       // from 1
	Prev                cid.Cid  `json:"prev,omitzero"` // the charter of the version before; undefined exactly when Version is 1
	Anchor              cid.Cid  `json:"anchor"`        // the public model: UnixFS root
	Members             []Member `json:"members"`       // sorted by Name, no two the same; 1 to 1,000
	Stewards            []string `json:"stewards"`      // names of members who decide on the next version, sorted; at least one
	Quorum              int      `json:"quorum"`        // how many stewards must sign; 1 to len(Stewards)
	LeaseSeconds        int64    `json:"lease_seconds"` // usual length of a lease; at most the ceiling
	LeaseCeilingSeconds int64    `json:"lease_ceiling_seconds"`
	MaxBlobBytes        int64    `json:"max_blob_bytes"` // size of the largest expert
	OffersPerDay        int      `json:"offers_per_day"` // of one member, by the offers' own time in UTC; 1 to 10,000

	// Drawn is when this version was drawn up; of two proposals that a steward signed, the later counts. Zero: it is not said, and earlier than any.
	Drawn time.Time `json:"drawn,omitzero"`

	Leak LeakLimits `json:"leak,omitzero"` // of an audit before an expert is published; zero: each node's own
}

// LeakLimits are what an audit of an expert may find.
type LeakLimits struct {
	Extraction LeakLimit `json:"extraction"` // share of training documents that can be extracted, beyond what the anchor gives away
	Membership LeakLimit `json:"membership"` // share of training documents that are found where 1 % of others are taken for some
	Epsilon    LeakLimit `json:"epsilon"`    // lower bound on the ε of differential privacy
	Personal   LeakLimit `json:"personal"`   // share of generated texts with personal data of the training text alone
}

// A LeakLimit is above what value people should look, and above what nobody should publish. Both are finite, and Block is no less than Warn.
type LeakLimit struct {
	Warn  float64 `json:"warn"`
	Block float64 `json:"block"`
}

func (l LeakLimits) validate() error {
	for field, limit := range map[string]LeakLimit{"extraction": l.Extraction, "membership": l.Membership, "epsilon": l.Epsilon, "personal": l.Personal} {
		for _, v := range []float64{limit.Warn, limit.Block} {
			if err := checkMeasure("leak."+field, v); err != nil {
				return err
			}
		}
		if limit.Block < limit.Warn {
			return malformed("leak.%s blocks above %v, before it warns above %v", field, limit.Block, limit.Warn)
		}
	}
	return nil
}

// Member is an organisation on the charter. No key is used twice in a charter.
type Member struct {
	Name       string      `json:"name"`              // see CheckName
	Publishing PublicKey   `json:"publishing"`        // signs its offers and leases, and charters if it is a steward
	Node       PublicKey   `json:"node"`              // identifies its node on the network, and signs what the node states
	Recovery   PublicKey   `json:"recovery,omitzero"` // kept apart: revokes, delegates and names new keys; zero: there is none
	Revokers   []PublicKey `json:"revokers"`          // keys that can revoke and nothing else; sorted by text form, at most 8, may be empty
}

// Equal reports whether m and o are the same organisation with the same keys.
func (m Member) Equal(o Member) bool {
	return m.Name == o.Name && m.Publishing == o.Publishing && m.Node == o.Node && m.Recovery == o.Recovery && slices.Equal(m.Revokers, o.Revokers)
}

// Keys returns every key of m; of the first two, a missing one is zero.
func (m Member) Keys() []PublicKey {
	keys := append([]PublicKey{m.Publishing, m.Node}, m.Revokers...)
	if !m.Recovery.IsZero() {
		keys = append(keys, m.Recovery)
	}
	return keys
}

// Kind returns KindCharter.
func (c *Charter) Kind() Kind { return KindCharter }

func (c *Charter) header() *Header { return nil }

// Named returns the member with a name.
func (c *Charter) Named(name string) (Member, bool) {
	i, ok := slices.BinarySearchFunc(c.Members, name, func(m Member, name string) int { return strings.Compare(m.Name, name) })
	if !ok {
		return Member{}, false
	}
	return c.Members[i], true
}

// Steward reports whether the member with a name decides on the next version.
func (c *Charter) Steward(name string) bool {
	_, ok := slices.BinarySearch(c.Stewards, name)
	return ok
}

// Member returns the member whose publishing key is k.
func (c *Charter) Member(k PublicKey) (Member, bool) {
	i := slices.IndexFunc(c.Members, func(m Member) bool { return m.Publishing == k })
	if i < 0 {
		return Member{}, false
	}
	return c.Members[i], true
}

func (c *Charter) validate() error {
	for _, err := range []error{
		checkLabel("name", c.Name),
		checkRange("version", int64(min(c.Version, MaxSeq+1)), 1, MaxSeq),
		checkBlob("anchor", c.Anchor),
		c.validateMembers(),
		checkRange("quorum", int64(c.Quorum), 1, int64(len(c.Stewards))),
		checkRange("lease_ceiling_seconds", c.LeaseCeilingSeconds, 1, maxLeaseSeconds),
		checkRange("lease_seconds", c.LeaseSeconds, 1, c.LeaseCeilingSeconds),
		checkRange("max_blob_bytes", c.MaxBlobBytes, 1, MaxSeq),
		checkRange("offers_per_day", int64(c.OffersPerDay), 1, maxOffersPerDay),
		c.Leak.validate(),
	} {
		if err != nil {
			return err
		}
	}
	if !c.Drawn.IsZero() {
		if err := checkTime("drawn", c.Drawn); err != nil {
			return err
		}
	}
	if c.Version == 1 {
		if c.Prev.Defined() {
			return malformed("version 1 of a charter has no prev")
		}
		return nil
	}
	return checkRef("prev", c.Prev)
}

func (c *Charter) validateMembers() error {
	if len(c.Members) == 0 || len(c.Members) > maxMembers || len(c.Stewards) == 0 {
		return malformed("a charter needs 1 to %d members and at least one steward", maxMembers)
	}
	names := make(map[string]bool, len(c.Members))
	keys := make(map[PublicKey]bool, 3*len(c.Members))
	for i, m := range c.Members {
		if err := CheckName(m.Name); err != nil {
			return err
		}
		if i > 0 && c.Members[i-1].Name >= m.Name {
			return malformed("members must be sorted by name, each once")
		}
		names[m.Name] = true
		if len(m.Revokers) > maxRevokers || !slices.IsSortedFunc(m.Revokers, CompareKey) {
			return malformed("member %s has %d revokers, want at most %d, sorted", m.Name, len(m.Revokers), maxRevokers)
		}
		for _, k := range m.Keys() {
			if k.IsZero() || keys[k] {
				return malformed("member %s needs a publishing and a node key, and every key of its own must be nobody else's on the charter", m.Name)
			}
			keys[k] = true
		}
	}
	for i, s := range c.Stewards {
		if !names[s] {
			return malformed("steward %.80q is not a member", s)
		}
		if i > 0 && c.Stewards[i-1] >= s {
			return malformed("stewards must be sorted, each once")
		}
	}
	return nil
}

// VerifyCharter checks that n is a charter that may follow prev: the next
// version, naming prev, and signed by a quorum of prev's stewards and by one of
// its own. With a nil prev, n must be version 1, signed by a quorum of its own
// stewards; that it is the right one the caller knows from its CID. Signatures
// by others are allowed and count for nothing. The errors wrap ErrMalformed or
// ErrSignature: with the latter, n is a proposal that lacks signatures.
func VerifyCharter(n, prev *Notice) error {
	c, ok := n.Body.(*Charter)
	if !ok {
		return malformed("a %s where a charter must stand", n.Kind)
	}
	if prev == nil {
		if c.Version != 1 {
			return malformed("charter version %d, want 1", c.Version)
		}
		return n.signedByQuorum(c)
	}
	before, ok := prev.Body.(*Charter)
	if !ok {
		return malformed("a %s where a charter must stand", prev.Kind)
	}
	if c.Version != before.Version+1 || !c.Prev.Equals(prev.CID) {
		return malformed("charter version %d does not follow version %d", c.Version, before.Version)
	}
	if err := n.signedByQuorum(before); err != nil {
		return err
	}
	return n.signedByQuorum(c)
}

// signedByQuorum checks that a quorum of judge's stewards has signed n.
func (n *Notice) signedByQuorum(judge *Charter) error {
	signed := 0
	for _, k := range n.signers {
		if m, ok := judge.Member(k); ok && judge.Steward(m.Name) {
			signed++
		}
	}
	if signed < judge.Quorum {
		return fmt.Errorf("%w: %d of the stewards of charter version %d have signed version %d, and it needs %d",
			ErrSignature, signed, judge.Version, n.Body.(*Charter).Version, judge.Quorum)
	}
	return nil
}

// Merge returns the charter n with the signatures of more, which has the same
// identity, added to its own, as far as keep says of their keys. So the
// signatures that stewards gave on different machines add up.
func Merge(n, more *Notice, keep func(PublicKey) bool) (*Notice, error) {
	if n.Kind != KindCharter || n.CID != more.CID {
		return nil, malformed("%s %s and %s %s are not one charter", n.Kind, n.CID, more.Kind, more.CID)
	}
	var all []dsse.Signature
	seen := make(map[string]bool)
	var payload []byte
	for _, from := range []*Notice{n, more} {
		env, p, err := openEnvelope(from.Envelope)
		if err != nil {
			return nil, err
		}
		payload = p
		for i, s := range env.Signatures {
			if !seen[s.KeyID] && keep(from.signers[i]) {
				seen[s.KeyID] = true
				all = append(all, s)
			}
		}
	}
	return seal(KindCharter, payload, all, nil)
}
