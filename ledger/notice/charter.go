package notice

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/ipfs/go-cid"
)

// maxLeaseSeconds bounds what a charter can allow: 366 days.
const maxLeaseSeconds = 366 * 24 * 60 * 60

var memberName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

// Charter founds a consortium and, in later versions, changes it. It stands in
// no feed: it is signed by a quorum of stewards instead, which Parse does not
// check. VerifyCharter does.
type Charter struct {
	Name                string   `json:"name"`
	Version             uint64   `json:"version"`       // from 1
	Prev                cid.Cid  `json:"prev,omitzero"` // the charter of the version before; undefined exactly when Version is 1
	Anchor              cid.Cid  `json:"anchor"`        // the public model: UnixFS root
	Members             []Member `json:"members"`       // sorted by Name, no two the same; at least one
	Stewards            []string `json:"stewards"`      // names of members who decide on the next version, sorted; at least one
	Quorum              int      `json:"quorum"`        // how many stewards must sign; 1 to len(Stewards)
	LeaseSeconds        int64    `json:"lease_seconds"` // usual length of a lease; at most the ceiling
	LeaseCeilingSeconds int64    `json:"lease_ceiling_seconds"`
	MaxBlobBytes        int64    `json:"max_blob_bytes"` // size of the largest expert

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
	Name       string    `json:"name"`       // ^[a-z0-9][a-z0-9-]{0,39}$
	Publishing PublicKey `json:"publishing"` // signs its feed, and charters if it is a steward
	Node       PublicKey `json:"node"`       // identifies its node on the network
}

// Kind returns KindCharter.
func (c *Charter) Kind() Kind { return KindCharter }

func (c *Charter) header() *Header { return nil }

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
		c.Leak.validate(),
	} {
		if err != nil {
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
	if len(c.Members) == 0 || len(c.Stewards) == 0 {
		return malformed("a charter needs at least one member and one steward")
	}
	names := make(map[string]bool, len(c.Members))
	keys := make(map[PublicKey]bool, 2*len(c.Members))
	for i, m := range c.Members {
		if !memberName.MatchString(m.Name) {
			return malformed("member name %.80q, want 1 to 40 of a-z, 0-9 and -, the first not -", m.Name)
		}
		if i > 0 && c.Members[i-1].Name >= m.Name {
			return malformed("members must be sorted by name, each once")
		}
		names[m.Name] = true
		for _, k := range []PublicKey{m.Publishing, m.Node} {
			if k.IsZero() || keys[k] {
				return malformed("member %s needs a publishing and a node key that nobody else on the charter has", m.Name)
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
// version, naming prev, and signed by a quorum of prev's stewards. With a nil
// prev, n must be version 1, signed by a quorum of its own stewards; that it
// is the right one the caller knows from its CID. Signatures by others are
// allowed and count for nothing. The errors wrap ErrMalformed or ErrSignature.
func VerifyCharter(n, prev *Notice) error {
	c, ok := n.Body.(*Charter)
	if !ok {
		return malformed("a %s where a charter must stand", n.Kind)
	}
	judge := c
	if prev == nil {
		if c.Version != 1 {
			return malformed("charter version %d, want 1", c.Version)
		}
	} else {
		before, ok := prev.Body.(*Charter)
		if !ok {
			return malformed("a %s where a charter must stand", prev.Kind)
		}
		if c.Version != before.Version+1 || !c.Prev.Equals(prev.CID) {
			return malformed("charter version %d does not follow version %d", c.Version, before.Version)
		}
		judge = before
	}
	signed := 0
	for _, k := range n.signers {
		if m, ok := judge.Member(k); ok && slices.Contains(judge.Stewards, m.Name) {
			signed++
		}
	}
	if signed < judge.Quorum {
		return fmt.Errorf("%w: %d of the stewards have signed charter version %d, and it needs %d", ErrSignature, signed, c.Version, judge.Quorum)
	}
	return nil
}
