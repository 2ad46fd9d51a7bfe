package ledger

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"time"

	"chorus/ledger/notice"

	"go.etcd.io/bbolt"
)

// queue has what callers of Add wait for. Whoever gets to write takes in all
// of it, so that notices that arrive together cost one transaction.
type queue struct {
	mu      sync.Mutex
	waiting []*addition // guarded by mu
}

// addition is one call of Add. Who holds Ledger.writing fills it in.
type addition struct {
	notices []*notice.Notice
	done    bool
	fresh   []*notice.Notice
	err     error
}

// take empties the queue.
func (q *queue) take() []*addition {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.waiting
	q.waiting = nil
	return all
}

// Add takes in notices and returns those that were new, in one transaction, and
// one more for each charter. They may come in any order, and more than once:
// a charter that follows another in the same call, or a notice of a key that
// another one names, is taken in too.
//
// What may not be taken in is left out, the rest is stored, and the error joins
// the reasons: it then wraps notice.ErrRefused, and ErrUnverified,
// ErrWrongCharter, ErrNotMember or ErrOrphan. The last two may pass: the same
// notice can be taken in later, when the one that it depends on is here. Any
// other error is the disk's.
func (l *Ledger) Add(all ...*notice.Notice) (fresh []*notice.Notice, err error) {
	a := &addition{notices: all}
	l.queue.mu.Lock()
	l.queue.waiting = append(l.queue.waiting, a)
	l.queue.mu.Unlock()
	l.writing.Lock()
	defer l.writing.Unlock()
	if !a.done {
		l.takeIn(l.queue.take())
	}
	return a.fresh, a.err
}

// takeIn serves calls of Add, one or many. The caller holds writing.
func (l *Ledger) takeIn(calls []*addition) {
	type entry struct {
		n    *notice.Notice
		call *addition
		err  error
	}
	var left []entry
	for _, a := range calls {
		for _, n := range a.notices {
			left = append(left, entry{n: n, call: a})
		}
		a.done = true
	}
	for len(left) > 0 { // once more where what was taken in may have made room for the rest
		var refused, feeds []entry
		names := false // whether something was taken in that can name a key or follow a charter
		staged := make(map[digest]bool)
		for _, e := range left {
			switch isNew, err := l.judge(e.n); {
			case err != nil:
				e.err = err
				refused = append(refused, e)
			case !isNew || staged[digestOf(e.n.CID)]:
			case e.n.Kind == notice.KindCharter:
				if isNew, err = l.putCharter(e.n); err != nil {
					e.call.err = errors.Join(e.call.err, err)
				} else if isNew {
					e.call.fresh, names = append(e.call.fresh, e.n), true
				}
			default:
				staged[digestOf(e.n.CID)] = true
				feeds = append(feeds, e)
				names = names || e.n.Kind == notice.KindDelegation || e.n.Kind == notice.KindRotation
			}
		}
		var notices []*notice.Notice
		for _, e := range feeds {
			notices = append(notices, e.n)
		}
		err := l.put(notices)
		for _, e := range feeds {
			if err != nil {
				e.call.err = errors.Join(e.call.err, err)
			} else {
				e.call.fresh = append(e.call.fresh, e.n)
			}
		}
		left = refused
		if !names || err != nil {
			for _, e := range left {
				e.call.err = errors.Join(e.call.err, e.err)
			}
			return
		}
	}
}

// Check says whether Add would take in n by itself: nil, also if n is here
// already, or why not.
func (l *Ledger) Check(n *notice.Notice) error {
	_, err := l.judge(n)
	return err
}

// judge reports whether n is new, or why it is refused.
func (l *Ledger) judge(n *notice.Notice) (isNew bool, err error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	isNew, err = l.consent.judge(n, l.root)
	if err != nil {
		err = fmt.Errorf("%w: %w", notice.ErrRefused, err)
	}
	return isNew, err
}

func (c *consent) judge(n, root *notice.Notice) (isNew bool, err error) {
	if n == nil || len(n.Signers()) == 0 {
		return false, fmt.Errorf("%w: use notice.Parse or notice.Sign", ErrUnverified)
	}
	h := n.Header()
	if h == nil {
		merged, _, err := c.charters.weigh(n)
		return merged != nil, err
	}
	if h.Charter != root.CID {
		return false, fmt.Errorf("%s %s %w, %s", n.Kind, n.CID, ErrWrongCharter, h.Charter)
	}
	if !c.allowed(n) {
		return false, fmt.Errorf("%s %s: %w: %s", n.Kind, n.CID, ErrNotMember, h.Key)
	}
	return !c.has(n), nil
}

// putCharter stores and folds a charter or proposal. The caller holds writing.
func (l *Ledger) putCharter(n *notice.Notice) (isNew bool, err error) {
	c := l.consent.charters // only who holds writing changes it
	merged, verified, err := c.weigh(n)
	if merged == nil || err != nil {
		return false, err
	}
	err = l.db.Update(func(tx *bbolt.Tx) error {
		id, proposals := digestOf(n.CID), tx.Bucket(bucketProposals)
		var old [][]byte // what the fold has dropped since
		err := proposals.ForEach(func(k, _ []byte) error {
			if c.proposals[digest(k)] == nil {
				old = append(old, k)
			}
			return nil
		})
		for _, k := range old {
			err = errors.Join(err, proposals.Delete(k))
		}
		if err != nil {
			return err
		}
		if !verified {
			return proposals.Put(id[:], merged.Envelope)
		}
		return errors.Join(tx.Bucket(bucketCharters).Put(id[:], merged.Envelope), proposals.Delete(id[:]))
	})
	if err != nil {
		return false, fmt.Errorf("store %s %s: %w", n.Kind, n.CID, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.consent.addCharter(merged, verified)
	l.tell()
	return verified || c.proposals[digestOf(n.CID)] != nil, nil
}

// put stores notices of feeds, folds them and tells those who wait. The caller
// holds writing.
func (l *Ledger) put(all []*notice.Notice) error {
	if len(all) == 0 {
		return nil
	}
	err := l.db.Update(func(tx *bbolt.Tx) error {
		links, bodies := tx.Bucket(bucketLinks), tx.Bucket(bucketBodies)
		// Feeds grow at their ends: pages need no room for what comes between.
		links.FillPercent, bodies.FillPercent = 0.9, 0.9
		for _, n := range all {
			key := linkKey(n)
			if err := errors.Join(links.Put(key, linkValue(n)), bodies.Put(key, n.Envelope)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store %s %s and %d others: %w", all[0].Kind, all[0].CID, len(all)-1, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range all {
		l.consent.add(n)
	}
	l.tell()
	return nil
}

// tell works out what follows from what was taken in, and wakes those who wait.
// The caller holds mu.
func (l *Ledger) tell() {
	l.consent.refresh()
	close(l.changed)
	l.changed = make(chan struct{})
}

// Append signs b as the next notice of key's feed and stores it. It fills in
// the header; now becomes the notice's time. b itself is not changed. The
// errors wrap ErrNotMember or an error of package notice, or come from the disk.
//
// Append continues after the highest seq that it knows. A ledger that may have
// lost notices of this feed must fetch them from peers first: signing the same
// seq twice is equivocation and suspends the member.
func (l *Ledger) Append(key ed25519.PrivateKey, now time.Time, b notice.Body) (*notice.Notice, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("append: %w: a private key of %d bytes", notice.ErrSignature, len(key))
	}
	h := notice.Header{Charter: l.Root(), Key: notice.PublicKeyOf(key), Seq: 1, Time: now}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.RLock()
	if f := l.consent.feeds[h.Key]; f != nil && f.top > 0 {
		h.Seq, h.Prev = f.top+1, f.at(f.top)[0].id.cid()
	}
	known := len(l.consent.bound[h.Key]) > 0
	l.mu.RUnlock()
	if !known {
		return nil, fmt.Errorf("append %s: %w: %s", b.Kind(), ErrNotMember, h.Key)
	}
	b, err := notice.WithHeader(b, h)
	if err != nil {
		return nil, fmt.Errorf("append: %w", err)
	}
	n, err := notice.Sign(b, key)
	if err != nil {
		return nil, fmt.Errorf("append: %w", err)
	}
	if _, err := l.judge(n); err != nil {
		return nil, fmt.Errorf("append: %w", err)
	}
	if err := l.put([]*notice.Notice{n}); err != nil {
		return nil, fmt.Errorf("append: %w", err)
	}
	return n, nil
}
