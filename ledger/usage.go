package ledger

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"go.etcd.io/bbolt"
)

// Usage is how much one expert was used, in integers, so that sums are exact.
type Usage struct {
	Expert cid.Cid // the expert's blob; undefined: the anchor
	Tokens uint64  // tokens that it took part in
	Weight uint64  // router weight over those tokens and all layers, fixed-point; the recorder sets the scale
}

// RecordUsage adds u to the sums, all of it or nothing. An expert may occur
// more than once. If a sum overflows, the error wraps ErrOverflow.
func (l *Ledger) RecordUsage(u []Usage) error {
	err := l.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketUsage)
		for _, add := range u {
			key := keyAnchor
			if add.Expert.Defined() {
				key = add.Expert.Bytes()
			}
			var sum Usage
			if v := b.Get(key); v != nil {
				var err error
				if sum, err = decodeUsage(key, v); err != nil {
					return err
				}
			}
			tokens, c1 := bits.Add64(sum.Tokens, add.Tokens, 0)
			weight, c2 := bits.Add64(sum.Weight, add.Weight, 0)
			if c1|c2 != 0 {
				return fmt.Errorf("%w: expert %s", ErrOverflow, add.Expert)
			}
			v := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, tokens), weight)
			if err := b.Put(key, v); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record usage: %w", err)
	}
	return nil
}

// Usage returns the sums, in the order of the experts' CIDs. The anchor, whose
// CID is left undefined, comes first.
func (l *Ledger) Usage() ([]Usage, error) {
	var all []Usage
	err := l.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketUsage).ForEach(func(k, v []byte) error {
			u, err := decodeUsage(k, v)
			all = append(all, u)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read usage: %w", err)
	}
	slices.SortFunc(all, func(a, b Usage) int {
		switch {
		case !a.Expert.Defined():
			return -1
		case !b.Expert.Defined():
			return 1
		}
		return notice.CompareCID(a.Expert, b.Expert)
	})
	return all, nil
}

func decodeUsage(k, v []byte) (u Usage, err error) {
	if string(k) != string(keyAnchor) {
		if u.Expert, err = cid.Cast(k); err != nil {
			return u, fmt.Errorf("%w: usage of %x: %w", ErrDamaged, k, err)
		}
	}
	if len(v) != 16 {
		return u, fmt.Errorf("%w: usage of %x has %d bytes", ErrDamaged, k, len(v))
	}
	u.Tokens, u.Weight = binary.BigEndian.Uint64(v), binary.BigEndian.Uint64(v[8:])
	return u, nil
}
