package p2p

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// A memory holds notices in memory, as a ledger does on disk. Its members are those of one charter.
type memory struct {
	mu      sync.Mutex
	charter *notice.Notice
	nodes   map[string]notice.PublicKey           // guarded by mu
	feeds   map[notice.PublicKey][]*notice.Notice // guarded by mu; by number, then CID
	changed chan struct{}                         // guarded by mu; closed at the next change
	fail    error                                 // guarded by mu; what Add returns, unless nil

	withdrawn map[cid.Cid]bool // guarded by mu; blobs
}

func newMemory(notices ...*notice.Notice) *memory {
	m := &memory{feeds: make(map[notice.PublicKey][]*notice.Notice), changed: make(chan struct{})}
	m.Add(notices...)
	return m
}

// of makes the members of a consortium those of the memory.
func (m *memory) of(c *consortium) *memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.charter, m.nodes = c.charter, make(map[string]notice.PublicKey)
	for _, member := range c.charter.Body.(*notice.Charter).Members {
		m.nodes[member.Name] = member.Node
	}
	return m
}

func (m *memory) Offered(blob cid.Cid) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.withdrawn[blob]
}

func (m *memory) Check(n *notice.Notice) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n.Header() == nil {
		return errors.New("a memory has one charter")
	}
	if _, ok := m.charter.Body.(*notice.Charter).Member(n.Header().Key); !ok {
		return ErrNotMember
	}
	return nil
}

func (m *memory) Add(notices ...*notice.Notice) (fresh []*notice.Notice, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return nil, m.fail
	}
	for _, n := range notices {
		key := n.Header().Key
		if m.charter != nil {
			if _, ok := m.charter.Body.(*notice.Charter).Member(key); !ok {
				err = notice.ErrRefused
				continue
			}
		}
		at, found := slices.BinarySearchFunc(m.feeds[key], n, func(a, b *notice.Notice) int {
			if a.Header().Seq != b.Header().Seq {
				return int(int64(a.Header().Seq) - int64(b.Header().Seq))
			}
			return notice.CompareCID(a.CID, b.CID)
		})
		if !found {
			m.feeds[key] = slices.Insert(m.feeds[key], at, n)
			fresh = append(fresh, n)
		}
	}
	if len(fresh) > 0 {
		m.change()
	}
	return fresh, err
}

// change tells those who wait. The caller holds mu.
func (m *memory) change() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memory) Frontiers() []notice.Frontier {
	m.mu.Lock()
	defer m.mu.Unlock()
	var frontiers []notice.Frontier
	for key, feed := range m.feeds {
		f := notice.Frontier{Head: notice.Head{Key: key}}
		i := 0
		for ; i < len(feed) && feed[i].Header().Seq == f.Seq+1; i++ {
			if i+1 < len(feed) {
				next := feed[i+1].Header()
				if next.Seq == f.Seq+1 || next.Seq == f.Seq+2 && next.Prev != feed[i].CID {
					break
				}
				if i+2 < len(feed) && feed[i+2].Header().Seq == f.Seq+2 && feed[i+2].Header().Prev != feed[i].CID {
					break
				}
			}
			f.Seq, f.CID = f.Seq+1, feed[i].CID
		}
		var rest []cid.Cid
		for _, n := range feed[i:] {
			rest = append(rest, n.CID)
		}
		f.Rest = notice.RestOf(rest)
		frontiers = append(frontiers, f)
	}
	return frontiers
}

func (m *memory) Envelopes(key notice.PublicKey, seq uint64, size int) (envelopes [][]byte, last uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.feeds[key] {
		if n.Header().Seq <= seq {
			continue
		}
		if size <= 0 && n.Header().Seq != last {
			break
		}
		envelopes, last, size = append(envelopes, n.Envelope), n.Header().Seq, size-len(n.Envelope)
	}
	return envelopes, last, nil
}

func (m *memory) Charters() []*notice.Notice  { return []*notice.Notice{m.charter} }
func (m *memory) Proposals() []*notice.Notice { return nil }
func (m *memory) Detached() []*notice.Notice  { return nil }

func (m *memory) Seat(key notice.PublicKey) (member string, node, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, k := range m.nodes {
		if k == key {
			return name, true, true
		}
	}
	for _, member := range m.charter.Body.(*notice.Charter).Members {
		if member.Publishing == key {
			return member.Name, false, true
		}
	}
	return "", false, false
}

func (m *memory) Nodes() map[string]notice.PublicKey {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nodes
}

func (m *memory) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *memory) holds(notices ...*notice.Notice) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range notices {
		if !slices.ContainsFunc(m.feeds[n.Header().Key], func(o *notice.Notice) bool { return o.CID.Equals(n.CID) }) {
			return false
		}
	}
	return true
}

// waitFor returns when the memory holds all of notices.
func (m *memory) waitFor(t *testing.T, notices ...*notice.Notice) {
	t.Helper()
	waitUntil(t, m, fmt.Sprintf("%d notices arrived", len(notices)), func() bool { return m.holds(notices...) })
}

// waitUntil returns when something holds that follows from notices.
func waitUntil(t *testing.T, notices Notices, what string, holds func() bool) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		changed := notices.Changed()
		if holds() {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}
