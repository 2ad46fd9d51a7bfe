package ledger

import (
	"encoding/binary"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// clockTolerance is δ: how far the clock of an honest member may be from the
// true time, to either side. Two such clocks are up to 2δ apart, and one that is
// set right goes back by as much. The rules allow δ all the same, and cost such
// members no more than time: a lease counts at the latest δ after it reached
// them, and a node whose clock went back waits until it is within δ again.
const clockTolerance = 2 * time.Minute

// Observe remembers the highest time that the node has seen. If now is more
// than δ, two minutes, before it, the error wraps ErrClockBehind and says both:
// a lease that ran out must not come back because somebody set the clock back.
// It is on disk when Observe returns. Call it before a lease is first relied on
// and once one has ended: then no clock brings one back for longer than δ.
func (l *Ledger) Observe(now time.Time) error {
	return l.db.Update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if v := meta.Get(keyClock); v != nil {
			if len(v) != 8 {
				return fmt.Errorf("%w: clock has %d bytes", ErrDamaged, len(v))
			}
			high := time.UnixMilli(int64(binary.BigEndian.Uint64(v))).UTC()
			if now.Before(high.Add(-clockTolerance)) {
				return fmt.Errorf("%w: it says %s and has said %s: set it right", ErrClockBehind,
					now.UTC().Format(time.RFC3339), high.Format(time.RFC3339))
			}
			if !now.After(high) {
				return nil
			}
		}
		return meta.Put(keyClock, binary.BigEndian.AppendUint64(nil, uint64(now.UnixMilli())))
	})
}
