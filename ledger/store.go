package ledger

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"slices"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"go.etcd.io/bbolt"
)

// kinds are the kinds of a link's value: the index is the byte.
var kinds = []notice.Kind{"", notice.KindOffer, notice.KindLease, notice.KindRevocation, notice.KindDelegation, notice.KindRotation, notice.KindStatement}

// linkKey returns the key of a feed's notice in bucketLinks and bucketBodies.
func linkKey(n *notice.Notice) []byte {
	h := n.Header()
	return placeKey(h.Key, place{h.Seq, digestOf(n.CID)})
}

func placeKey(key notice.PublicKey, p place) []byte { return append(seqKey(key, p.seq), p.id[:]...) }

// seqKey returns the prefix of linkKey for the notices at seq.
func seqKey(key notice.PublicKey, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(slices.Clone(key[:]), seq)
}

// seqOf returns the seq in a linkKey.
func seqOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(notice.PublicKey{}):]) }

const (
	seqKeyLen  = len(notice.PublicKey{}) + 8
	linkKeyLen = seqKeyLen + len(digest{})
)

func linkValue(n *notice.Notice) []byte {
	prev := linkOf(n).prev
	return append([]byte{byte(slices.Index(kinds, n.Kind))}, prev[:]...)
}

// replay folds what is stored.
func (l *Ledger) replay(tx *bbolt.Tx) error {
	if err := l.replayCharters(tx); err != nil {
		return err
	}
	bodies := tx.Bucket(bucketBodies)
	var lease, leaseValue []byte // the newest lease of the feed so far
	damaged := func(key, value []byte) error {
		return fmt.Errorf("%w: link %x has the value %x", ErrDamaged, key, value)
	}
	speak := func(key, value []byte) error {
		n, err := stored(key, bodies.Get(key))
		if err != nil {
			return err
		}
		if !bytes.Equal(linkValue(n), value) {
			return damaged(key, value)
		}
		l.consent.addBody(n)
		return nil
	}
	c := tx.Bucket(bucketLinks).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if len(k) != linkKeyLen || len(v) != 1+len(digest{}) || v[0] == 0 || int(v[0]) >= len(kinds) {
			return damaged(k, v)
		}
		key, seq, kind, at := notice.PublicKey(k), seqOf(k), kinds[v[0]], link{digest(k[seqKeyLen:]), digest(v[1:])}
		if (seq > 1) == (at.prev == digest{}) || seq == 0 && kind == notice.KindLease { // of most leases nothing more is read
			return damaged(k, v)
		}
		if lease != nil && notice.PublicKey(lease) != key {
			if err := speak(lease, leaseValue); err != nil {
				return err
			}
			lease = nil
		}
		l.consent.addLink(key, seq, at)
		if kind == notice.KindLease {
			lease, leaseValue = k, v
		} else if err := speak(k, v); err != nil {
			return err
		}
	}
	if lease != nil {
		if err := speak(lease, leaseValue); err != nil {
			return err
		}
	}
	for key := range l.consent.feeds {
		if len(l.consent.bound[key]) == 0 {
			return fmt.Errorf("%w: %w: %s", ErrDamaged, ErrNotMember, key)
		}
	}
	l.consent.refresh()
	return nil
}

// replayCharters folds the versions of the charter, each after the one before
// it, and then the proposals. One that another version has overtaken is left out.
func (l *Ledger) replayCharters(tx *bbolt.Tx) error {
	for _, bucket := range [][]byte{bucketCharters, bucketProposals} {
		var all []*notice.Notice
		err := tx.Bucket(bucket).ForEach(func(id, envelope []byte) error {
			n, err := notice.Parse(envelope)
			if err != nil {
				return fmt.Errorf("%w: charter %x: %w", ErrDamaged, id, err)
			}
			if d := digestOf(n.CID); n.Kind != notice.KindCharter || !bytes.Equal(id, d[:]) {
				return fmt.Errorf("%w: charter %x has the content of %s", ErrDamaged, id, n.CID)
			}
			all = append(all, n)
			return nil
		})
		if err != nil {
			return err
		}
		slices.SortFunc(all, func(a, b *notice.Notice) int { return cmp.Compare(version(a), version(b)) })
		for _, n := range all {
			merged, verified, err := l.consent.charters.weigh(n)
			if (err != nil || !verified) && bytes.Equal(bucket, bucketCharters) {
				return fmt.Errorf("%w: charter %s does not stand: %v", ErrDamaged, n.CID, err)
			}
			if err == nil && merged != nil {
				l.consent.addCharter(merged, verified)
			}
		}
	}
	l.consent.refresh()
	return nil
}

// stored parses an envelope out of the file and checks that it is the one that
// its key names.
func stored(key, envelope []byte) (*notice.Notice, error) {
	if envelope == nil {
		return nil, fmt.Errorf("%w: notice %x has no body", ErrDamaged, key)
	}
	n, err := notice.Parse(envelope)
	if err != nil {
		return nil, fmt.Errorf("%w: notice %x: %w", ErrDamaged, key, err)
	}
	if n.Header() == nil || !slices.Equal(linkKey(n), key) {
		return nil, fmt.Errorf("%w: notice %x has the content of %s", ErrDamaged, key, n.CID)
	}
	return n, nil
}

// Get returns the notice with the identity id, charters and proposals included.
// If there is none, the error wraps ErrNotFound.
func (l *Ledger) Get(id cid.Cid) (*notice.Notice, error) {
	key, n := l.find(digestOf(id))
	if n != nil {
		return n, nil
	}
	if key == nil {
		return nil, fmt.Errorf("get %s: %w", id, ErrNotFound)
	}
	err := l.db.View(func(tx *bbolt.Tx) (err error) {
		n, err = stored(key, tx.Bucket(bucketBodies).Get(key))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", id, err)
	}
	return n, nil
}

// find returns where a feed's notice is stored, or a charter.
func (l *Ledger) find(id digest) (key []byte, charter *notice.Notice) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if n := l.consent.charters.all[id]; n != nil {
		return nil, n
	}
	if n := l.consent.charters.proposals[id]; n != nil {
		return nil, n
	}
	for k, f := range l.consent.feeds {
		if seq, ok := f.find(id); ok {
			return placeKey(k, place{seq, id}), nil
		}
	}
	return nil, nil
}

// Envelopes returns the notices of key's feed with a seq above seq, ascending
// and as they were signed, until they have size bytes or there are no more. Of
// a fork it returns every branch. last is the seq of the last of them: notices
// of one seq are never parted, so that it continues them. They were verified
// when they were taken in, and are not again: that is for who receives them.
func (l *Ledger) Envelopes(key notice.PublicKey, seq uint64, size int) (envelopes [][]byte, last uint64, err error) {
	err = l.scan(key, seq, func(key, envelope []byte) (more bool) {
		at := seqOf(key)
		if size <= 0 && at != last {
			return false
		}
		envelopes, last, size = append(envelopes, slices.Clone(envelope)), at, size-len(envelope)
		return true
	})
	return envelopes, last, err
}

// After returns the notices of key's feed with a seq above seq, ascending, and
// of a fork every branch. It returns about limit of them: a page never ends
// between two notices of one seq, so that the last one's seq continues it.
func (l *Ledger) After(key notice.PublicKey, seq uint64, limit int) ([]*notice.Notice, error) {
	if limit <= 0 {
		return nil, nil
	}
	var keys, page [][]byte
	var last uint64
	err := l.scan(key, seq, func(key, envelope []byte) (more bool) {
		at := seqOf(key)
		if len(page) >= limit && at != last {
			return false
		}
		keys, page, last = append(keys, slices.Clone(key)), append(page, slices.Clone(envelope)), at
		return true
	})
	if err != nil {
		return nil, err
	}
	var notices []*notice.Notice
	for i, envelope := range page {
		n, err := stored(keys[i], envelope)
		if err != nil {
			return nil, fmt.Errorf("feed of %s: %w", key, err)
		}
		notices = append(notices, n)
	}
	return notices, nil
}

// Detached returns the notices that stand in no chain, by key and identity: of
// these keys, or of all where none is given.
func (l *Ledger) Detached(of ...notice.PublicKey) []*notice.Notice {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(of) == 0 {
		of = l.consent.keys()
	}
	var all []*notice.Notice
	for _, k := range of {
		if f := l.consent.feeds[k]; f != nil {
			all = append(all, slices.SortedFunc(maps.Values(f.detached), func(a, b *notice.Notice) int {
				return digestOf(a.CID).compare(digestOf(b.CID))
			})...)
		}
	}
	return all
}

// scan calls f for the stored notices of a key with a seq above seq, ascending,
// until it returns false. What it is given is valid for the call alone.
func (l *Ledger) scan(key notice.PublicKey, seq uint64, f func(key, envelope []byte) (more bool)) error {
	if seq >= notice.MaxSeq {
		return nil
	}
	err := l.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketBodies).Cursor()
		for k, v := c.Seek(seqKey(key, seq+1)); len(k) == linkKeyLen && notice.PublicKey(k) == key; k, v = c.Next() {
			if !f(k, v) {
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("feed of %s: %w", key, err)
	}
	return nil
}

// Notices yields every notice: the charter's versions and proposals, what is
// detached, then feed by feed in the order of the members' names. It ends with the first error. The loop's body may use the ledger; what
// is added meanwhile may or may not be seen.
func (l *Ledger) Notices() iter.Seq2[*notice.Notice, error] {
	return func(yield func(*notice.Notice, error) bool) {
		for _, n := range slices.Concat(l.Charters(), l.Proposals(), l.Detached()) {
			if !yield(n, nil) {
				return
			}
		}
		l.mu.RLock()
		keys := l.consent.keys()
		l.mu.RUnlock()
		for _, key := range keys {
			for seq := uint64(0); ; {
				page, err := l.After(key, seq, 64)
				if err != nil {
					yield(nil, err)
					return
				}
				if len(page) == 0 {
					break
				}
				for _, n := range page {
					if !yield(n, nil) {
						return
					}
				}
				seq = page[len(page)-1].Header().Seq
			}
		}
	}
}
