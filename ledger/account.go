package ledger

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/ipfs/go-cid"
	"go.etcd.io/bbolt"
)

// Event is something that the node did or decided about an expert.
type Event struct {
	Time   time.Time `json:"time"`
	Kind   EventKind `json:"kind"`
	Expert cid.Cid   `json:"expert,omitzero"` // blob
	Offer  cid.Cid   `json:"offer,omitzero"`  // the offer's identity
	Detail string    `json:"detail,omitzero"` // why, in words for people
}

// EventKind says what happened.
type EventKind string

// The kinds of event.
const (
	EventAdmitted EventKind = "admitted" // the expert passed admission
	EventRefused  EventKind = "refused"  // the expert failed admission
	EventDropped  EventKind = "dropped"  // the expert left the mixture
	EventDeleted  EventKind = "deleted"  // the expert's blob left the disk
	EventExported EventKind = "exported" // the expert was written to the folder that Detail names
)

// Record appends events to the node's account, all or none. The account only grows.
func (l *Ledger) Record(events ...Event) error {
	err := l.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketEvents)
		for _, e := range events {
			seq, err := b.NextSequence()
			if err != nil {
				return err
			}
			if err := putJSON(b, binary.BigEndian.AppendUint64(nil, seq), e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record event: %w", err)
	}
	return nil
}

// Events returns the node's account in the order in which it was recorded.
func (l *Ledger) Events() ([]Event, error) {
	return readAll(l, bucketEvents, func(k []byte, _ Event) bool { return len(k) == 8 })
}

// Verdict is what this node's admission decided about an offer.
type Verdict struct {
	Offer    cid.Cid   `json:"offer"` // the offer's identity
	Admitted bool      `json:"admitted"`
	Reason   string    `json:"reason,omitzero"` // why not, in words for people
	Time     time.Time `json:"time"`
}

// SetVerdict stores v in place of any verdict about the same offer.
func (l *Ledger) SetVerdict(v Verdict) error {
	err := l.db.Update(func(tx *bbolt.Tx) error {
		return putJSON(tx.Bucket(bucketVerdicts), v.Offer.Bytes(), v)
	})
	if err != nil {
		return fmt.Errorf("store verdict: %w", err)
	}
	return nil
}

// Verdicts returns the verdicts, one for each offer, in no particular order.
func (l *Ledger) Verdicts() ([]Verdict, error) {
	return readAll(l, bucketVerdicts, func(k []byte, v Verdict) bool { return bytes.Equal(k, v.Offer.Bytes()) })
}

func putJSON(b *bbolt.Bucket, key []byte, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put(key, value)
}

// readAll reads the rows of a bucket, each of which must belong where it is.
func readAll[T any](l *Ledger, bucket []byte, belongs func(key []byte, t T) bool) ([]T, error) {
	var all []T
	err := l.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucket).ForEach(func(k, v []byte) error {
			var t T
			if err := json.Unmarshal(v, &t); err != nil {
				return fmt.Errorf("%w: %x: %w", ErrDamaged, k, err)
			}
			if !belongs(k, t) {
				return fmt.Errorf("%w: %x has another's content", ErrDamaged, k)
			}
			all = append(all, t)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", bucket, err)
	}
	return all, nil
}
