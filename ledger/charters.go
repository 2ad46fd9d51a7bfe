package ledger

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"chorus/ledger/notice"
)

// charters is what is known of the charter's versions: a tree that grows from
// version 1, and the proposals for its next. It is pure.
type charters struct {
	root      digest
	all       map[digest]*notice.Notice   // verified versions
	next      map[digest][]*notice.Notice // the versions that follow one, sorted by id
	proposals map[digest]*notice.Notice
}

func newCharters(root *notice.Notice) *charters {
	id := digestOf(root.CID)
	return &charters{
		root: id, all: map[digest]*notice.Notice{id: root},
		next: make(map[digest][]*notice.Notice), proposals: make(map[digest]*notice.Notice),
	}
}

// current returns the version that holds: the last that is reached from
// version 1 while exactly one follows.
func (c *charters) current() *notice.Notice {
	id := c.root
	for len(c.next[id]) == 1 {
		id = digestOf(c.next[id][0].CID)
	}
	return c.all[id]
}

// tips returns the last versions of every branch after current; none where
// there is no fork.
func (c *charters) tips() []*notice.Charter {
	var tips []*notice.Charter
	var walk func(n *notice.Notice)
	walk = func(n *notice.Notice) {
		after := c.next[digestOf(n.CID)]
		if len(after) == 0 {
			tips = append(tips, n.Body.(*notice.Charter))
		}
		for _, n := range after {
			walk(n)
		}
	}
	for _, n := range c.next[digestOf(c.current().CID)] {
		walk(n)
	}
	return tips
}

// sorted returns the verified versions by number, then id.
func (c *charters) sorted() []*notice.Notice {
	return slices.SortedFunc(maps.Values(c.all), func(a, b *notice.Notice) int {
		return cmp.Or(cmp.Compare(version(a), version(b)), digestOf(a.CID).compare(digestOf(b.CID)))
	})
}

func version(n *notice.Notice) uint64 { return n.Body.(*notice.Charter).Version }

// proposed returns the proposals by id.
func (c *charters) proposed() []*notice.Notice {
	return slices.SortedFunc(maps.Values(c.proposals), func(a, b *notice.Notice) int {
		return digestOf(a.CID).compare(digestOf(b.CID))
	})
}

// weigh says what the charter n comes to: a version, a proposal, or neither,
// with ErrOrphan or notice.ErrSignature. What it returns is n with the
// signatures that are here already, and nil if that is nothing new or a proposal
// that something else has overtaken.
func (c *charters) weigh(n *notice.Notice) (merged *notice.Notice, verified bool, err error) {
	id, body := digestOf(n.CID), n.Body.(*notice.Charter)
	if c.all[id] != nil {
		return nil, true, nil
	}
	if body.Version == 1 {
		return nil, false, fmt.Errorf("charter %s: %w", n.CID, ErrWrongCharter)
	}
	prev := c.all[digestOf(body.Prev)]
	if prev == nil {
		return nil, false, fmt.Errorf("charter %s, version %d: %w", n.CID, body.Version, ErrOrphan)
	}
	before := prev.Body.(*notice.Charter)
	keep := func(k notice.PublicKey) bool { return stewards(before, k) || stewards(body, k) }
	known := c.proposals[id]
	if merged = n; known != nil {
		if merged, err = notice.Merge(known, n, keep); err != nil {
			return nil, false, err
		}
	} else if slices.ContainsFunc(n.Signers(), keep) {
		if merged, err = notice.Merge(n, n, keep); err != nil {
			return nil, false, err
		}
	}
	err = notice.VerifyCharter(merged, prev)
	if err == nil {
		return merged, true, nil
	}
	signed := slices.ContainsFunc(merged.Signers(), func(k notice.PublicKey) bool { return stewards(before, k) })
	if errors.Is(err, notice.ErrMalformed) || !signed {
		return nil, false, fmt.Errorf("charter %s: %w", n.CID, err)
	}
	chosen := slices.ContainsFunc(before.Stewards, func(name string) bool { return c.choice(before, name, merged) == merged })
	overtaken := prev != c.current() || len(c.next[digestOf(prev.CID)]) > 0
	if known != nil && len(known.Signers()) == len(merged.Signers()) || !chosen || overtaken {
		return nil, false, nil
	}
	return merged, false, nil
}

// stewards reports whether k is the publishing key of one of c's stewards.
func stewards(c *notice.Charter, k notice.PublicKey) bool {
	m, ok := c.Member(k)
	return ok && c.Steward(m.Name)
}

// add takes in what weigh returned.
func (c *charters) add(n *notice.Notice, verified bool) {
	if !verified {
		c.proposals[digestOf(n.CID)] = n
		c.prune()
		return
	}
	id, prev := digestOf(n.CID), digestOf(n.Body.(*notice.Charter).Prev)
	c.all[id] = n
	c.next[prev] = append(c.next[prev], n)
	slices.SortFunc(c.next[prev], func(a, b *notice.Notice) int { return digestOf(a.CID).compare(digestOf(b.CID)) })
	c.prune()
}

// prune drops the proposals that can follow no more, and of each steward all
// but the one that it signed last, as the charters say when they were drawn up:
// so there are never more than stewards.
func (c *charters) prune() {
	current := c.current()
	chosen := make(map[digest]bool)
	if len(c.next[digestOf(current.CID)]) == 0 {
		body := current.Body.(*notice.Charter)
		for _, name := range body.Stewards {
			if p := c.choice(body, name, nil); p != nil {
				chosen[digestOf(p.CID)] = true
			}
		}
	}
	maps.DeleteFunc(c.proposals, func(id digest, _ *notice.Notice) bool { return !chosen[id] })
}

// choice returns what a steward of the current version signed last of the
// proposals and extra, or nil.
func (c *charters) choice(current *notice.Charter, steward string, extra *notice.Notice) *notice.Notice {
	m, _ := current.Named(steward)
	best := extra
	if extra != nil && !slices.Contains(extra.Signers(), m.Publishing) {
		best = nil
	}
	for id, p := range c.proposals {
		if extra != nil && id == digestOf(extra.CID) || p.Body.(*notice.Charter).Version != current.Version+1 || !slices.Contains(p.Signers(), m.Publishing) {
			continue
		}
		if best == nil || later(p, best) {
			best = p
		}
	}
	return best
}

// later reports whether proposal a was drawn up after b.
func later(a, b *notice.Notice) bool {
	return cmp.Or(a.Body.(*notice.Charter).Drawn.Compare(b.Body.(*notice.Charter).Drawn), digestOf(b.CID).compare(digestOf(a.CID))) > 0
}
