package simulation

import (
	"crypto/ed25519"
	"slices"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node/steward"
	"chorus/p2p"
)

// store is a node's ledger, of which each durable step may be where the node crashes. It is what the network sees of it,
// and what a node that withholds shows.
type store struct {
	*ledger.Ledger
	node *node
}

var _ p2p.Notices = store{}

// durably does what writes, unless the node crashes before, and keeps its outcome to itself if it crashes after.
func (s store) durably(write func() error) error {
	if !s.node.step(false) {
		return errCrashed
	}
	err := write()
	if !s.node.step(true) {
		return errCrashed
	}
	return err
}

// Add implements [p2p.Notices].
func (s store) Add(all ...*notice.Notice) (fresh []*notice.Notice, err error) {
	err = s.durably(func() (err error) {
		fresh, err = s.Ledger.Add(all...)
		return err
	})
	if err == errCrashed {
		return nil, err
	}
	s.node.accept(fresh)
	return fresh, err
}

// append signs the next notice of one of the node's feeds.
func (s store) append(key ed25519.PrivateKey, b notice.Body) (n *notice.Notice, err error) {
	err = s.durably(func() (err error) {
		n, err = steward.Append(s.Ledger, key, s.node.clock(), b)
		if err == nil {
			s.node.world.learn(n)
			s.node.world.judgeSigned(s.node, n)
		}
		return err
	})
	if err == nil {
		s.node.accept([]*notice.Notice{n})
	}
	return n, err
}

// Seat implements [p2p.Notices].
func (s store) Seat(key notice.PublicKey) (member string, node, ok bool) {
	member, role, ok := s.Ledger.Seat(key)
	return member, role == ledger.RoleNode, ok
}

// keeps reports whether the node keeps a notice from others.
func (n *node) keeps(of *notice.Notice) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hidden[of.CID] || n.hides && (of.Kind == notice.KindRevocation || of.Kind == notice.KindRotation)
}

// withholds is keeps for what gossip carries.
func (n *node) withholds(envelope []byte) bool {
	of, err := notice.Parse(envelope)
	return err == nil && n.keeps(of)
}

// Envelopes implements [p2p.Notices].
func (s store) Envelopes(key notice.PublicKey, seq uint64, size int) (envelopes [][]byte, last uint64, err error) {
	envelopes, last, err = s.Ledger.Envelopes(key, seq, size)
	if s.node.evil && size > 1 { // of size 1: asked by the node itself, to compare
		envelopes = slices.DeleteFunc(envelopes, s.node.withholds)
	}
	return envelopes, last, err
}

// Detached implements [p2p.Notices].
func (s store) Detached() []*notice.Notice {
	return slices.DeleteFunc(s.Ledger.Detached(), s.node.keeps)
}

// shifted is a node's ledger as its steward sees it. The steward takes the time from package time, where all nodes
// have the same: what it asks about a time is asked about the time that the node's clock shows then, and what it is
// told of times is told in those of package time. A clock that is set shows at the next look at it and not at once.
type shifted struct{ store }

var _ steward.Ledger = shifted{}

// Observe implements [steward.Ledger].
func (s shifted) Observe(at time.Time) error {
	shown := at.Add(s.node.off())
	return s.durably(func() error {
		err := s.Ledger.Observe(shown)
		if err == nil {
			s.node.observed(shown)
		}
		return err
	})
}

func (n *node) observed(shown time.Time) {
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	if shown.After(n.highest) {
		n.highest = shown
	}
}

// Standings implements [steward.Ledger].
func (s shifted) Standings(at time.Time) []ledger.Standing {
	all := s.Ledger.Standings(at.Add(s.node.off()))
	for i := range all {
		if !all[i].Until.IsZero() {
			all[i].Until = all[i].Until.Add(-s.node.off())
		}
	}
	return all
}

// SetVerdict implements [steward.Ledger].
func (s shifted) SetVerdict(v ledger.Verdict) error {
	return s.durably(func() error { return s.Ledger.SetVerdict(v) })
}

// Record implements [steward.Ledger].
func (s shifted) Record(events ...ledger.Event) error {
	return s.durably(func() error { return s.Ledger.Record(events...) })
}
