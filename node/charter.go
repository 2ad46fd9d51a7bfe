package node

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node/invite"

	"github.com/ipfs/go-cid"
)

// Charters is what is known of the charter: what holds, what led to it and what may come.
type Charters struct {
	Member    string       `json:"member"` // this node's
	Current   cid.Cid      `json:"current"`
	Versions  []Version    `json:"versions"`  // verified, by number; where the charter is forked, of every branch
	Forked    bool         `json:"forked"`    // two versions follow the current one, so that none of them holds
	Proposals []Version    `json:"proposals"` // which lack signatures
	Requests  []Invitation `json:"requests"`  // of organisations that ask this node to be admitted
	Leaving   []Leaving    `json:"leaving"`   // members whose last notice withdrew all that they had on offer
	Replaced  []Replaced   `json:"replaced"`  // keys that the current version lists and that are their members' no more
}

// Version is one version of the charter, or a proposal for one.
type Version struct {
	CID      cid.Cid         `json:"cid"`
	Charter  *notice.Charter `json:"charter"`
	Envelope string          `json:"envelope"` // the signed document
	Changes  []string        `json:"changes"`  // against the version before, in words; empty for the first
	Votes    []Vote          `json:"votes"`    // who decides on it: the stewards of the version before, then its own if they or their keys are others
}

// A Vote is what the stewards of one version have signed of another.
type Vote struct {
	Version uint64   `json:"version"` // whose stewards
	Quorum  int      `json:"quorum"`
	Signed  []string `json:"signed"`
	Yet     []string `json:"yet"` // have not signed
}

// Lacks returns how many signatures are missing.
func (v Vote) Lacks() int { return max(0, v.Quorum-len(v.Signed)) }

// A Change is how the next version of the charter differs from the current one. What is zero stays, but for keys that were replaced:
// every version lists those that members have when it is drawn up.
type Change struct {
	Add       []notice.Member `json:"add,omitempty"`
	Remove    []string        `json:"remove,omitempty"`
	Steward   []string        `json:"steward,omitempty"`    // members who become stewards
	NoSteward []string        `json:"no_steward,omitempty"` // stewards who become plain members
	Revokers  []Revoker       `json:"revokers,omitempty"`   // keys that are added
	Terms     Terms           `json:"terms"`
	Caution

	seats map[string]notice.Member // by name: the members with the keys that they have now, which the next version lists
}

// A Revoker is a key that can revoke for a member.
type Revoker struct {
	Member string           `json:"member"`
	Key    notice.PublicKey `json:"key"`
}

// Terms are the numbers of a charter.
type Terms struct {
	Quorum              int   `json:"quorum,omitempty"`
	LeaseSeconds        int64 `json:"lease_seconds,omitempty"`
	LeaseCeilingSeconds int64 `json:"lease_ceiling_seconds,omitempty"`
	MaxBlobBytes        int64 `json:"max_blob_bytes,omitempty"`
	OffersPerDay        int   `json:"offers_per_day,omitempty"`

	Leak *notice.LeakLimits `json:"leak,omitempty"` // of audits; those that are zero are each node's own
}

// Caution says how sure a steward wants to be that nothing has happened that this node has not heard of. Whoever signs two
// versions that follow the same one can fork the charter.
type Caution struct {
	WithinSeconds float64 `json:"within_seconds"`    // how long to look for another member; zero: until the context ends
	Alone         bool    `json:"alone,omitempty"`   // sign although none could be reached
	Replace       bool    `json:"replace,omitempty"` // sign although this steward has signed another that may still come to hold
}

// Signed is what became of a version that this node's steward has signed.
type Signed struct {
	Version
	Holds bool `json:"holds"` // it has all signatures and is the charter now
}

// Errors about signing charters.
var (
	ErrNotSteward = errors.New("only stewards decide on the charter")
	ErrPending    = errors.New("this steward has signed another version that follows the same one, and if both came to hold the charter would be forked for good")
	ErrForked     = errors.New("the charter is forked: two versions follow the current one, each with its quorum, so that nothing can be changed any more")
)

// Charters implements [Control].
func (n *Node) Charters(ctx context.Context) (Charters, error) { return n.charters(ctx) }

// ReadCharters is [Node.Charters] of a home whose node does not run.
func ReadCharters(home Home, member string, l *ledger.Ledger) (c Charters, err error) {
	n := &Node{home: home, config: Config{Member: member}, ledger: l}
	key, err := loadKey(home.path(nodeKey))
	if err != nil {
		return c, err
	}
	n.self = notice.PublicKeyOf(key)
	if n.invited, err = openInvitations(n, home.invitations()); err != nil {
		return c, err
	}
	return n.charters(context.Background())
}

// charters reads what the ledger knows of the charter, and who asks to be put on it.
func (n *Node) charters(ctx context.Context) (c Charters, err error) {
	l := n.ledger
	c.Member, c.Replaced = n.Member(), replaced(l)
	known := make(map[cid.Cid]*notice.Notice)
	after := make(map[cid.Cid]int)
	for _, n := range l.Charters() {
		known[n.CID] = n
		body := n.Body.(*notice.Charter)
		if after[body.Prev]++; body.Prev.Defined() && after[body.Prev] > 1 {
			c.Forked = true
		}
		c.Versions = append(c.Versions, Describe(n, known[body.Prev]))
		if body.Version == l.Charter().Version {
			c.Current = n.CID // before a fork, each number is there once
		}
	}
	for _, n := range l.Proposals() {
		c.Proposals = append(c.Proposals, Describe(n, known[n.Body.(*notice.Charter).Prev]))
	}
	for _, m := range l.Charter().Members {
		gone, err := leaving(l, m)
		if err != nil {
			return c, err
		}
		if gone != nil {
			c.Leaving = append(c.Leaving, *gone)
		}
	}
	all, err := n.Invitations(ctx)
	for _, i := range all {
		if i.State == invite.Waiting {
			c.Requests = append(c.Requests, i)
		}
	}
	return c, err
}

// Describe puts the charter n, which follows prev, in words. prev is nil for the first.
func Describe(n, prev *notice.Notice) Version {
	c := n.Body.(*notice.Charter)
	v := Version{CID: n.CID, Charter: c, Envelope: string(n.Envelope)}
	if prev != nil {
		before := prev.Body.(*notice.Charter)
		v.Changes = changes(before, c)
		v.Votes = append(v.Votes, vote(before, n))
		same := func(a, b string) bool {
			was, _ := before.Named(a)
			is, _ := c.Named(b)
			return a == b && was.Publishing == is.Publishing
		}
		if before.Quorum == c.Quorum && slices.EqualFunc(before.Stewards, c.Stewards, same) {
			return v
		}
	}
	v.Votes = append(v.Votes, vote(c, n))
	return v
}

// vote returns who of judge's stewards has signed n.
func vote(judge *notice.Charter, n *notice.Notice) Vote {
	v := Vote{Version: judge.Version, Quorum: judge.Quorum}
	for _, name := range judge.Stewards {
		if m, _ := judge.Named(name); slices.Contains(n.Signers(), m.Publishing) {
			v.Signed = append(v.Signed, name)
		} else {
			v.Yet = append(v.Yet, name)
		}
	}
	return v
}

// changes says in words how b differs from a.
func changes(a, b *notice.Charter) (words []string) {
	say := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	for _, m := range b.Members {
		old, was := a.Named(m.Name)
		switch {
		case !was:
			say("admits %s", m.Name)
		default:
			for _, k := range []struct {
				role     string
				from, to notice.PublicKey
			}{{"publishing", old.Publishing, m.Publishing}, {"node", old.Node, m.Node}, {"recovery", old.Recovery, m.Recovery}} {
				if k.from != k.to {
					say("gives %s another %s key: %s instead of %s", m.Name, k.role, keyWords(k.to), keyWords(k.from))
				}
			}
			if !slices.Equal(old.Revokers, m.Revokers) {
				say("changes the revoker keys of %s: %d instead of %d", m.Name, len(m.Revokers), len(old.Revokers))
			}
		}
	}
	for _, m := range a.Members {
		if _, stays := b.Named(m.Name); !stays {
			say("removes %s", m.Name)
		}
	}
	for _, s := range b.Stewards {
		if !a.Steward(s) {
			say("makes %s a steward", s)
		}
	}
	for _, s := range a.Stewards {
		if _, stays := b.Named(s); stays && !b.Steward(s) {
			say("%s is a steward no more", s)
		}
	}
	for _, t := range []struct {
		what     string
		from, to any
	}{
		{"name", a.Name, b.Name},
		{"anchor", a.Anchor, b.Anchor},
		{"quorum", a.Quorum, b.Quorum},
		{"length of a lease in seconds", a.LeaseSeconds, b.LeaseSeconds},
		{"longest lease in seconds", a.LeaseCeilingSeconds, b.LeaseCeilingSeconds},
		{"largest expert in bytes", a.MaxBlobBytes, b.MaxBlobBytes},
		{"offers a day", a.OffersPerDay, b.OffersPerDay},
	} {
		if t.from != t.to {
			say("%s: %v instead of %v", t.what, t.to, t.from)
		}
	}
	if a.Leak != b.Leak {
		say("audits warn and block above: %s; instead of: %s", LimitWords(b.Leak), LimitWords(a.Leak))
	}
	return words
}

// LimitWords says above what an audit warns and blocks.
func LimitWords(l notice.LeakLimits) string {
	if l == (notice.LeakLimits{}) {
		return "chorus's own limits"
	}
	percent := func(l notice.LeakLimit) string { return fmt.Sprintf("%.6g and %.6g %%", 100*l.Warn, 100*l.Block) }
	return fmt.Sprintf("extraction %s, membership %s, ε %g and %g, personal data %s", percent(l.Extraction), percent(l.Membership), l.Epsilon.Warn, l.Epsilon.Block, percent(l.Personal))
}

// apply returns the version that follows c, whose identity is prev.
func (ch Change) apply(c *notice.Charter, prev cid.Cid, drawn time.Time) (*notice.Charter, error) {
	next := *c
	next.Version, next.Prev, next.Drawn = c.Version+1, prev, drawn
	next.Members, next.Stewards = slices.Clone(c.Members), slices.Clone(c.Stewards)
	at := func(name string) int {
		return slices.IndexFunc(next.Members, func(m notice.Member) bool { return m.Name == name })
	}
	for _, name := range ch.Remove {
		i := at(name)
		if i < 0 {
			return nil, fmt.Errorf("%s is not on the charter", name)
		}
		next.Members = slices.Delete(next.Members, i, i+1)
		next.Stewards = slices.DeleteFunc(next.Stewards, func(s string) bool { return s == name })
	}
	reseat(next.Members, ch.seats)
	for _, m := range ch.Add {
		if at(m.Name) >= 0 {
			return nil, fmt.Errorf("%s is on the charter already: to give it other keys, remove and add it in one version", m.Name)
		}
		next.Members = append(next.Members, m)
	}
	for _, name := range ch.Steward {
		if at(name) < 0 {
			return nil, fmt.Errorf("%s is not on the charter, and cannot become a steward", name)
		}
		if !slices.Contains(next.Stewards, name) {
			next.Stewards = append(next.Stewards, name)
		}
	}
	for _, name := range ch.NoSteward {
		if !slices.Contains(next.Stewards, name) {
			return nil, fmt.Errorf("%s is not a steward", name)
		}
		next.Stewards = slices.DeleteFunc(next.Stewards, func(s string) bool { return s == name })
	}
	if len(next.Stewards) == 0 {
		return nil, errors.New("that leaves no steward: make another member one first")
	}
	for _, r := range ch.Revokers {
		i := at(r.Member)
		if i < 0 {
			return nil, fmt.Errorf("%s is not on the charter, and cannot have a revoker key", r.Member)
		}
		m := &next.Members[i]
		m.Revokers = append(slices.Clone(m.Revokers), r.Key)
		slices.SortFunc(m.Revokers, notice.CompareKey)
	}
	slices.SortFunc(next.Members, func(a, b notice.Member) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(next.Stewards)
	t := ch.Terms
	next.Quorum = cmp.Or(t.Quorum, min(c.Quorum, len(next.Stewards)))
	next.LeaseSeconds = cmp.Or(t.LeaseSeconds, c.LeaseSeconds)
	next.LeaseCeilingSeconds = cmp.Or(t.LeaseCeilingSeconds, c.LeaseCeilingSeconds)
	next.MaxBlobBytes = cmp.Or(t.MaxBlobBytes, c.MaxBlobBytes)
	next.OffersPerDay = cmp.Or(t.OffersPerDay, c.OffersPerDay)
	if t.Leak != nil {
		next.Leak = *t.Leak
	}
	switch {
	case len(changes(c, &next)) == 0:
		return nil, errors.New("that changes nothing")
	case next.Quorum > len(next.Stewards):
		return nil, fmt.Errorf("a quorum of %d needs as many stewards, and there would be %d: make more members stewards, with --steward, or name a smaller --quorum", next.Quorum, len(next.Stewards))
	case next.LeaseSeconds > next.LeaseCeilingSeconds:
		return nil, fmt.Errorf("a lease of %d s would be longer than one may last, %d s: change the two together, with --lease-seconds and --lease-ceiling-seconds", next.LeaseSeconds, next.LeaseCeilingSeconds)
	}
	return &next, nil
}

// current returns the version that holds, unless that is forked.
func (n *Node) current() (*notice.Notice, error) {
	all, version := n.ledger.Charters(), n.ledger.Charter().Version
	if last := all[len(all)-1].Body.(*notice.Charter); last.Version != version {
		return nil, ErrForked
	}
	return all[len(all)-1], nil
}

// Propose implements [Control].
func (n *Node) Propose(ctx context.Context, change Change) (Signed, error) {
	if err := n.mayDecide(); err != nil {
		return Signed{}, err
	}
	return n.decide(ctx, change.Caution, func(current *notice.Notice, keys stewardKeys) (*notice.Notice, error) {
		if keys.listed == nil {
			return nil, keys.unlisted
		}
		body := current.Body.(*notice.Charter)
		change.seats = seats(n.ledger)
		drawn := now().Truncate(time.Second)
		for _, p := range n.ledger.Proposals() {
			if !slices.Contains(p.Signers(), notice.PublicKeyOf(keys.listed)) {
				continue
			}
			// What was proposed before is not proposed again, and what is proposed now is drawn up later.
			was := p.Body.(*notice.Charter).Drawn
			next, err := change.apply(body, current.CID, was)
			if err != nil {
				return nil, err
			}
			if again, err := notice.Sign(next, keys.listed); err == nil && again.CID == p.CID {
				return p, nil
			}
			if !drawn.After(was) {
				drawn = was.Add(time.Second)
			}
		}
		next, err := change.apply(body, current.CID, drawn)
		if err != nil {
			return nil, err
		}
		return notice.Sign(next, keys.of(next)...)
	})
}

// Sign implements [Control].
func (n *Node) Sign(ctx context.Context, proposal cid.Cid, with Caution) (Signed, error) {
	return n.decide(ctx, with, func(_ *notice.Notice, keys stewardKeys) (*notice.Notice, error) {
		p, err := n.ledger.Get(proposal)
		if err != nil {
			return nil, err
		}
		if p.Kind != notice.KindCharter {
			return nil, fmt.Errorf("%s is a %s, and not a proposal", proposal, p.Kind)
		}
		body := p.Body.(*notice.Charter)
		if !body.Steward(n.Member()) { // who is to become a steward must agree, too
			if err := n.mayDecide(); err != nil {
				return nil, err
			}
		}
		all := keys.of(body)
		if len(all) == 0 {
			return nil, keys.unlisted
		}
		lacking := slices.DeleteFunc(all, func(k ed25519.PrivateKey) bool { return slices.Contains(p.Signers(), notice.PublicKeyOf(k)) })
		if len(lacking) == 0 {
			return p, nil
		}
		return notice.Cosign(p, lacking...)
	})
}

// decide has the steward sign what make returns, stores it and spreads it.
func (n *Node) decide(ctx context.Context, with Caution, make func(current *notice.Notice, keys stewardKeys) (*notice.Notice, error)) (s Signed, err error) {
	if _, err := n.stewardKeys(); err != nil { // before it waits
		return s, err
	}
	if err := n.awaitReconciled(ctx, time.Duration(with.WithinSeconds*float64(time.Second))); err != nil && (!with.Alone || ctx.Err() != nil) {
		return s, err
	}
	n.signing.Lock()
	defer n.signing.Unlock()
	current, err := n.current()
	if err != nil {
		return s, err
	}
	keys, err := n.stewardKeys()
	if err != nil {
		return s, err
	}
	signed, err := make(current, keys)
	if err != nil {
		return s, err
	}
	if other := n.pending(keys, signed); other != nil && !with.Replace {
		v := Describe(other, current)
		return s, fmt.Errorf("%w: %s (%s). %s", ErrPending, v.CID, strings.Join(v.Changes, ", "), v.Lacking())
	}
	if err := n.host.Publish(ctx, signed); err != nil {
		return s, err
	}
	s.Version, s.Holds = Describe(signed, current), n.ledger.Charter().Version > current.Body.(*notice.Charter).Version
	if !s.Holds {
		// What others have signed of it meanwhile counts too.
		if stored, err := n.ledger.Get(signed.CID); err == nil {
			s.Version = Describe(stored, current)
		} else {
			return s, fmt.Errorf("the proposal is not kept here: %w", err)
		}
	}
	n.spread(ctx)
	return s, nil
}

// pending returns a proposal beside signed that has the signature of the same steward, or nil.
func (n *Node) pending(keys stewardKeys, signed *notice.Notice) *notice.Notice {
	if keys.listed == nil {
		return nil
	}
	mine := func(p *notice.Notice) bool {
		return slices.Contains(p.Signers(), notice.PublicKeyOf(keys.listed))
	}
	all := n.ledger.Proposals()
	i := slices.IndexFunc(all, func(p *notice.Notice) bool { return p.CID != signed.CID && mine(p) })
	if i < 0 || !mine(signed) {
		return nil
	}
	return all[i]
}

// mayDecide returns why this node's member does not decide on the charter, or nil if it does.
func (n *Node) mayDecide() error {
	if c := n.ledger.Charter(); !c.Steward(n.Member()) {
		return fmt.Errorf("%s is not a steward of %s: %w: %s", n.Member(), c.Name, ErrNotSteward, strings.Join(c.Stewards, ", "))
	}
	return nil
}

// spread gives what was signed to the members that are connected: a command that signed ends its node on return.
func (n *Node) spread(ctx context.Context) {
	if n.single() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, spreadWithin)
	defer cancel()
	if err := n.host.Sync(ctx); err != nil {
		n.log.Info("not spread at once, synchronisation spreads it", slog.Any("error", err))
	}
}

// Lacking says in words whose signatures a proposal lacks; of one that has them all, nothing.
func (v Version) Lacking() string {
	var parts []string
	for _, vote := range v.Votes {
		if vote.Lacks() == 0 {
			continue
		}
		parts = append(parts, fmt.Sprintf("%d of the stewards of version %d must sign yet: %s", vote.Lacks(), vote.Version, strings.Join(vote.Yet, " or ")))
	}
	return strings.Join(parts, "; ")
}

// checkCharter finds what waits for this member's steward.
func checkCharter(x *examination) (found []Finding) {
	var c Charters
	var err error
	if x.node != nil {
		c, err = x.node.Charters(x)
	} else {
		c, err = ReadCharters(x.home, x.status.Member, x.ledger)
	}
	if err != nil {
		return []Finding{{Verdict: Wrong, Text: fmt.Sprintf("What is known of the charter cannot be read: %v.", err)}}
	}
	current := x.ledger.Charter()
	if c.Forked {
		found = append(found, Finding{Verdict: Wrong, Text: fmt.Sprintf("The charter is forked: two versions follow version %d, so that nobody can be admitted or removed any more.", current.Version),
			Do: "Both branches are in `chorus charter show`. Ask the stewards how each came to be signed."})
	}
	for _, r := range c.Replaced {
		if !r.Steward || r.Role != notice.RotatePublishing {
			continue
		}
		f := Finding{Verdict: Notable, Text: r.Words(), Do: "`chorus charter propose`, by a steward, lists it."}
		if r.Now.IsZero() {
			f.Do = fmt.Sprintf("Have %s name another with `chorus key rotate`, or take it off the charter.", r.Member)
		}
		if r.Member == c.Member && x.node != nil {
			if _, _, err := x.node.listedKey(current); err != nil {
				f.Verdict, f.Do = Wrong, fmt.Sprintf("%v.", err)
			}
		}
		found = append(found, f)
	}
	for _, r := range c.Requests {
		found = append(found, Finding{Verdict: Notable, Text: fmt.Sprintf("%s asks to be admitted, with the fingerprint %s.", r.Name, r.Fingerprint),
			Do: fmt.Sprintf("Compare it, then `chorus charter sign %s`.", r.Name)})
	}
	for _, p := range c.Proposals {
		if slices.ContainsFunc(p.Votes, func(v Vote) bool { return slices.Contains(v.Yet, c.Member) }) {
			found = append(found, Finding{Verdict: Notable, Text: fmt.Sprintf("A proposal for version %d of the charter waits for this steward: %s.", p.Charter.Version, strings.Join(p.Changes, ", ")),
				Do: "`chorus charter sign` shows it and asks."})
		}
	}
	if current.Steward(c.Member) {
		for _, l := range c.Leaving {
			found = append(found, Finding{Verdict: Notable, Text: fmt.Sprintf("%s withdrew all that it had on offer.", l.Member),
				Do: fmt.Sprintf("If it leaves, `chorus charter propose --remove %s`.", l.Member)})
		}
	}
	if found == nil {
		return fine("Version %d of the charter holds, and nothing in it waits for this member.", current.Version)
	}
	return found
}
