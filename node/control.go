package node

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// Control is what the commands ask of a node: of one in their own process, a [Node], or of one that
// runs elsewhere on this machine, through a [Client].
type Control interface {
	Status(ctx context.Context) (Status, error)
	Publish(ctx context.Context, p Publication) (cid.Cid, error)
	Revoke(ctx context.Context, offer cid.Cid, reason string) (cid.Cid, error)
	// Account returns the notices, usage and events of the ledger, for people and programs to read.
	Account(ctx context.Context) (Account, error)
	// AwaitEnd returns how the node is doing as soon as one of the offers' experts is not in use.
	AwaitEnd(ctx context.Context, offers []cid.Cid) (Status, error)
	// RecordExport writes to the ledger that an export is about to be made, and states it, so that the experts' owners learn of it. It refuses
	// one with an expert that is not in use.
	RecordExport(ctx context.Context, e Export) error
	// Compliance returns who has dropped what a revocation withdraws.
	Compliance(ctx context.Context, revocation cid.Cid) (Compliance, error)
	// Declare signs a notice with the publishing key, and returns its identity once another node has it.
	Declare(ctx context.Context, d Declaration) (cid.Cid, error)
	// Present takes in a revocation, delegation or rotation that was signed elsewhere, and returns its identity once another node has it.
	Present(ctx context.Context, envelope []byte) (cid.Cid, error)
	// Open opens a publishing key that is protected, for as long as the node runs.
	Open(ctx context.Context, passphrase string) error
	// Doctor examines the node and returns what it found, good and bad.
	Doctor(ctx context.Context) ([]Finding, error)
	Membership
}

// A Declaration is what a node signs on request: exactly one of these, without its header.
type Declaration struct {
	Delegation *notice.Delegation `json:"delegation,omitempty"`
	Revocation *notice.Revocation `json:"revocation,omitempty"` // of a key, or a steward's vote
}

// An Export is a folder that holds a copy of the mixture: no revocation reaches it, so that people must.
type Export struct {
	Folder string    `json:"folder"` // absolute
	Offers []cid.Cid `json:"offers"` // whose experts it holds
}

// Status is how a node is doing.
type Status struct {
	Member    string         `json:"member"`
	Charter   string         `json:"charter"` // its name
	Root      cid.Cid        `json:"root"`
	Anchor    cid.Cid        `json:"anchor"`
	API       string         `json:"api,omitempty"` // base URL for local programs
	Addresses []string       `json:"addresses"`
	Connected []string       `json:"connected"`     // members
	Members   []MemberStatus `json:"members"`       // the others on the charter
	Why       string         `json:"why,omitempty"` // if the anchor serves alone, why
	Experts   []Expert       `json:"experts"`       // every offer known
	Keys      []SeatedKey    `json:"keys"`          // this member's, that it has a use for now
	Findings  []Finding      `json:"findings"`      // what is not as it should be, as far as a glance shows
}

// A SeatedKey is a key and what it is to its member.
type SeatedKey struct {
	Key  notice.PublicKey `json:"key"`
	Role ledger.Role      `json:"role"`
}

// MemberStatus is what is known of another member.
type MemberStatus struct {
	Name      string    `json:"name"`
	Connected bool      `json:"connected"`
	Synced    time.Time `json:"synced,omitzero"`         // when this node last had all that its node had; zero: not since the start
	Parted    time.Time `json:"parted,omitzero"`         // when the last connection with its node ended; zero: it is connected, or was not since the start
	Ahead     float64   `json:"clock_ahead_s,omitempty"` // of its clock, in seconds
	Until     time.Time `json:"until,omitzero"`          // the end of its lease; zero: it has none in force
}

// Expert is where one offer stands and how it is used on this node.
type Expert struct {
	Offer    cid.Cid         `json:"offer"`
	Blob     cid.Cid         `json:"blob"`
	Member   string          `json:"member"`
	Domain   string          `json:"domain"`
	Size     int64           `json:"size"`
	State    ledger.State    `json:"state"`
	Until    time.Time       `json:"until,omitzero"`
	InUse    bool            `json:"in_use"` // part of the mixture now
	Held     bool            `json:"held"`   // the blob is on this node's disk
	Refusal  string          `json:"refusal,omitempty"`
	Reason   string          `json:"reason,omitempty"` // of its revocation
	LastUsed time.Time       `json:"last_used,omitzero"`
	Path     string          `json:"path"`              // of the blob
	Privacy  *notice.Privacy `json:"privacy,omitempty"` // as its member claims; nil for none
	Exports  []string        `json:"exports,omitempty"` // folders on this machine that were exported with it and are still there

	Exported []ledger.Exported `json:"exported,omitempty"` // by members that have said so; whether the copies are still there they do not say
}

// Words says where the offer stands, and if it may not be used, why.
func (e Expert) Words() string {
	switch {
	case e.Refusal != "":
		return "refused: " + e.Refusal
	case e.State == ledger.Active:
		return "leased until " + e.Until.Local().Format(time.DateTime)
	case e.State == ledger.Revoked && e.Reason != "":
		return "revoked: " + e.Reason
	case e.State == ledger.Lapsed && e.Until.IsZero():
		return "lapsed: under no lease that counts"
	case e.State == ledger.Lapsed:
		return "lapsed: its lease ended at " + e.Until.Local().Format(time.DateTime)
	case e.State == ledger.Suspended:
		return "suspended: a key of its member has signed two notices with one number"
	case e.State == ledger.Left:
		return "left: its member, or the key that offered it, is not on the charter"
	case e.State == ledger.Excess:
		return "excess: its member had offered as many that day as the charter allows"
	}
	return string(e.State)
}

// Account is a node's ledger in a form to read.
type Account struct {
	Notices []NoticeLine   `json:"notices"`
	Usage   []UsageLine    `json:"usage"`
	Events  []ledger.Event `json:"events"`
}

// NoticeLine is one notice.
type NoticeLine struct {
	CID    cid.Cid   `json:"cid"`
	Kind   string    `json:"kind"`
	Member string    `json:"member,omitempty"` // empty for a charter
	Seq    uint64    `json:"seq,omitempty"`
	Time   time.Time `json:"time,omitzero"`
	Body   any       `json:"body"`
}

// UsageLine is how much one expert was used on this node, in all.
type UsageLine struct {
	Expert string  `json:"expert"` // blob CID, or "anchor"
	Member string  `json:"member,omitempty"`
	Domain string  `json:"domain,omitempty"`
	Tokens uint64  `json:"tokens"`
	Weight uint64  `json:"weight"`
	Share  float64 `json:"share"` // of all weight, from 0 to 1
}

// Status implements [Control].
func (n *Node) Status(ctx context.Context) (Status, error) {
	s := OfflineStatus(n.home, n.Member(), n.ledger)
	s.Member, s.Addresses, s.Connected, s.Why = n.Member(), n.host.Addrs(), n.host.Connected(), n.Mixture().Why
	if n.api != nil {
		s.API = n.api.url()
	}
	peers, parted := n.host.Peers(), n.host.Parted()
	for i := range s.Members {
		m := &s.Members[i]
		if m.Connected = slices.Contains(s.Connected, m.Name); !m.Connected {
			m.Parted = parted[m.Name]
		}
		for _, p := range peers {
			if p.Member == m.Name {
				m.Synced, m.Ahead = p.Synced, p.Offset.Seconds()
			}
		}
	}
	for i := range s.Experts {
		e := &s.Experts[i]
		e.LastUsed = n.LastUsed(e.Offer)
		for _, a := range n.Mixture().Experts {
			e.InUse = e.InUse || a.Offer == e.Offer
		}
	}
	x := &examination{ctx, n.home, n.ledger, s, n, now()}
	s.Findings = slices.DeleteFunc(x.examine(false), func(f Finding) bool { return f.Verdict == Fine })
	return s, nil
}

// OfflineStatus is what a ledger alone says, while no node runs.
func OfflineStatus(home Home, member string, l *ledger.Ledger) Status {
	c := l.Charter()
	s := Status{Member: member, Charter: c.Name, Root: l.Root(), Anchor: c.Anchor, Why: ErrNotRunning.Error()}
	refusals := make(map[cid.Cid]string)
	if verdicts, err := l.Verdicts(); err == nil {
		for _, v := range verdicts {
			refusals[v.Offer] = v.Reason
		}
	}
	events, _ := l.Events() // what cannot be read is not shown, here as above
	folders := exports(events)
	for _, st := range l.Standings(now()) {
		e := Expert{
			Offer: st.Notice, Blob: st.Offer.Blob, Member: st.Member, Domain: st.Offer.Domain, Size: st.Offer.Size,
			State: st.State, Until: st.Until, Refusal: refusals[st.Notice], Path: home.Blob(st.Offer.Blob), Privacy: st.Offer.Privacy,
		}
		_, err := os.Stat(e.Path)
		e.Held = err == nil
		e.Exports, e.Exported = folders[st.Notice], l.Exported(st.Notice)
		if st.Revocation != nil {
			e.Reason = st.Revocation.Reason
		}
		s.Experts = append(s.Experts, e)
	}
	for k, role := range l.Keys(member) {
		s.Keys = append(s.Keys, SeatedKey{k, role})
	}
	slices.SortFunc(s.Keys, func(a, b SeatedKey) int { return notice.CompareKey(a.Key, b.Key) })
	for _, m := range c.Members {
		if m.Name == member {
			continue
		}
		known := MemberStatus{Name: m.Name}
		for _, e := range s.Experts {
			if e.Member == m.Name && e.State == ledger.Active {
				known.Until = e.Until
			}
		}
		s.Members = append(s.Members, known)
	}
	return s
}

// AwaitEnd implements [Control].
func (n *Node) AwaitEnd(ctx context.Context, offers []cid.Cid) (Status, error) {
	err := n.Await(ctx, func() bool {
		m := n.Mixture()
		return slices.ContainsFunc(offers, func(offer cid.Cid) bool { return !m.stands(offer) })
	})
	if err != nil {
		return Status{}, err
	}
	return n.Status(ctx)
}

// RecordExport implements [Control].
func (n *Node) RecordExport(ctx context.Context, e Export) error {
	m, at := n.Mixture(), now()
	var events []ledger.Event
	for _, offer := range e.Offers {
		i := slices.IndexFunc(m.Experts, func(a Admitted) bool { return a.Offer == offer })
		if i < 0 {
			return fmt.Errorf("the expert of the offer %s is not in use, so it may not be exported", offer)
		}
		events = append(events, ledger.Event{Time: at, Kind: ledger.EventExported, Expert: m.Experts[i].Blob, Offer: offer, Detail: e.Folder})
	}
	if err := n.awaitReconciled(ctx, 0); err != nil { // a moment: it has heard from somebody, or nothing were in use
		return err
	}
	if err := n.ledger.Record(events...); err != nil {
		return err
	}
	return n.stateExports(ctx)
}

// Account implements [Control].
func (n *Node) Account(context.Context) (Account, error) { return ReadAccount(n.ledger) }

// ReadAccount reads a ledger.
func ReadAccount(l *ledger.Ledger) (a Account, err error) {
	members := make(map[string]string)
	for _, m := range l.Charter().Members {
		members[m.Publishing.String()] = m.Name
	}
	for n, err := range l.Notices() {
		if err != nil {
			return a, err
		}
		line := NoticeLine{CID: n.CID, Kind: string(n.Kind), Body: n.Body}
		if h := n.Header(); h != nil {
			line.Member, line.Seq, line.Time = members[h.Key.String()], h.Seq, h.Time
			if line.Member == "" { // a key that was lent powers, say
				line.Member, _, _ = l.Seat(h.Key)
			}
		}
		a.Notices = append(a.Notices, line)
	}
	usage, err := l.Usage()
	if err != nil {
		return a, err
	}
	offers := l.Standings(now())
	var total uint64
	for _, u := range usage {
		total += u.Weight
	}
	for _, u := range usage {
		line := UsageLine{Expert: "anchor", Tokens: u.Tokens, Weight: u.Weight, Share: float64(u.Weight) / float64(max(1, total))}
		if u.Expert.Defined() {
			line.Expert = u.Expert.String()
		}
		for _, st := range offers {
			if st.Offer.Blob == u.Expert {
				line.Member, line.Domain = st.Member, st.Offer.Domain
			}
		}
		a.Usage = append(a.Usage, line)
	}
	a.Events, err = l.Events()
	return a, err
}
