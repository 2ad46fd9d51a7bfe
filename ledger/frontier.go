package ledger

import (
	"bytes"
	"fmt"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"go.etcd.io/bbolt"
)

// Frontiers returns what is held of each feed of which anything is held. Two
// ledgers with the same frontiers hold the same notices of feeds.
func (l *Ledger) Frontiers() []notice.Frontier {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var all []notice.Frontier
	for key, f := range l.consent.feeds {
		if f.top > 0 {
			all = append(all, f.frontier(key))
		}
	}
	return all
}

func (f *feed) frontier(key notice.PublicKey) notice.Frontier {
	at := notice.Frontier{Head: notice.Head{Key: key, Seq: f.complete}}
	if f.fork > 0 {
		at.Seq = min(at.Seq, f.fork-1)
	}
	if at.Seq > 0 {
		at.CID = f.links[at.Seq][0].id
	}
	if at.Seq < f.top {
		var rest []cid.Cid
		for seq, links := range f.links {
			for _, l := range links {
				if seq > at.Seq {
					rest = append(rest, l.id)
				}
			}
		}
		at.Rest = notice.RestOf(rest)
	}
	return at
}

// Envelopes returns the notices of key's feed with a seq above seq, ascending
// and as they were signed, until they have size bytes or there are no more. Of
// a fork it returns every branch. last is the seq of the last of them: notices
// of one seq are never parted, so that it continues them.
func (l *Ledger) Envelopes(key notice.PublicKey, seq uint64, size int) (envelopes [][]byte, last uint64, err error) {
	if seq >= notice.MaxSeq {
		return nil, 0, nil
	}
	err = l.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketFeeds).Cursor()
		all := tx.Bucket(bucketNotices)
		for k, _ := c.Seek(seqKey(key, seq+1)); bytes.HasPrefix(k, key[:]); k, _ = c.Next() {
			at := seqOf(k)
			if size <= 0 && at != last {
				break
			}
			envelope := all.Get(k[len(key)+8:])
			if envelope == nil {
				return ErrNotFound
			}
			envelopes, last, size = append(envelopes, bytes.Clone(envelope)), at, size-len(envelope)
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("feed of %s: %w", key, err)
	}
	return envelopes, last, nil
}
