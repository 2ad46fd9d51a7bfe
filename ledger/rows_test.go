package ledger

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	"chorus/ledger/notice"

	"github.com/go-json-experiment/json"
	"github.com/ipfs/go-cid"
	"go.etcd.io/bbolt"
)

// FuzzRows holds that a row of any bytes, beside or in place of those of a ledger, is refused as damage or changes nothing for the worse: every
// notice that is shown was signed and stored, what is revoked stays so, and an account is read as it was written.
func FuzzRows(f *testing.F) {
	p := draw(f, `
		alpha: X -> Y -> [X,Y] -> r=!X -> [Y]
		beta: Z -> W -> [Z,W] -> [Z,W]
		beta: w=%!W
		charter c2 after c1 by alpha,beta: -gamma
		charter c3 after c2 by alpha: 2/day
	`)
	l := newLedger(f)
	l.db.NoSync = true // no process starts from this file
	known := map[cid.Cid]bool{l.Root(): true}
	for _, n := range p.arrived {
		known[n.CID] = true
	}
	_, err := l.Add(p.arrived...)
	err = errors.Join(err, l.RecordUsage([]Usage{{Tokens: 5, Weight: 7}, {Expert: blob("X"), Tokens: 1, Weight: 2}}),
		l.Record(Event{Time: midnight, Kind: EventAdmitted, Expert: blob("X"), Offer: p.notice("X").CID}),
		l.SetVerdict(Verdict{Offer: p.notice("X").CID, Admitted: true, Time: midnight}), l.Observe(midnight))
	if err != nil {
		f.Fatal(err)
	}
	buckets := [][]byte{bucketCharters, bucketProposals, bucketLinks, bucketBodies, bucketUsage, bucketEvents, bucketVerdicts}
	err = l.db.View(func(tx *bbolt.Tx) error {
		for i, name := range buckets {
			c := tx.Bucket(name).Cursor()
			first, _ := c.First()
			if first == nil {
				f.Errorf("no row of %s to begin with", name)
			}
			for k, v := c.First(); k != nil; k, v = c.Next() {
				f.Add(byte(i), bytes.Clone(k), bytes.Clone(v))
			}
		}
		return nil
	})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range l.Standings(midnight.Add(6 * time.Hour)) {
		if revoked := s.Offer.Domain == "X" || s.Offer.Domain == "W"; revoked != (s.State == Revoked) || revoked == (s.State == Active) {
			f.Fatalf("%s is %s", s.Offer.Domain, s.State)
		}
	}
	f.Fuzz(func(t *testing.T, bucket byte, key, value []byte) {
		name := buckets[int(bucket)%len(buckets)]
		var before []byte
		err := l.db.Update(func(tx *bbolt.Tx) error {
			before = bytes.Clone(tx.Bucket(name).Get(key))
			return tx.Bucket(name).Put(key, value)
		})
		if err != nil {
			return // no row, to bbolt
		}
		defer func() {
			err := l.db.Update(func(tx *bbolt.Tx) error {
				if before == nil {
					return tx.Bucket(name).Delete(key)
				}
				return tx.Bucket(name).Put(key, before)
			})
			if err != nil {
				t.Error(err)
			}
		}()
		again := &Ledger{db: l.db, root: l.root, consent: newConsent(l.root), changed: make(chan struct{})}
		if err := l.db.View(again.replay); err == nil {
			checkReplayed(t, again, known)
		} else if !errors.Is(err, ErrDamaged) {
			t.Errorf("replay: %v, want ErrDamaged", err)
		}
		checkAccount(t, l)
	})
}

func checkReplayed(t *testing.T, l *Ledger, known map[cid.Cid]bool) {
	for n, err := range l.Notices() {
		if err != nil && !errors.Is(err, ErrDamaged) || err == nil && !known[n.CID] {
			t.Errorf("shows %v, %v", n, err)
		}
	}
	for _, s := range l.Standings(midnight.Add(6 * time.Hour)) {
		if s.State == Active && (s.Offer.Domain == "X" || s.Offer.Domain == "W") {
			t.Errorf("%s is active, and was revoked", s.Offer.Domain)
		}
	}
	for _, f := range l.Frontiers() {
		if f.Seq > notice.MaxSeq {
			t.Errorf("the feed of %s goes to %d", f.Key, f.Seq)
		}
	}
	l.Heads()
	l.Missing()
}

func checkAccount(t *testing.T, l *Ledger) {
	usage, err := l.Usage()
	if err == nil {
		for _, u := range usage {
			if err := l.RecordUsage([]Usage{{Expert: u.Expert}}); err != nil {
				t.Errorf("%+v is read, and not added to: %v", u, err)
			}
		}
		if after, err := l.Usage(); err != nil || !reflect.DeepEqual(after, usage) {
			t.Errorf("read %+v, and when nothing was added %+v, %v", usage, after, err)
		}
	} else if !errors.Is(err, ErrDamaged) {
		t.Errorf("usage: %v, want ErrDamaged", err)
	}
	if events, err := l.Events(); err == nil {
		writtenAgain(t, events)
	} else if !errors.Is(err, ErrDamaged) {
		t.Errorf("events: %v, want ErrDamaged", err)
	}
	verdicts, err := l.Verdicts()
	if err == nil {
		writtenAgain(t, verdicts)
	} else if !errors.Is(err, ErrDamaged) {
		t.Errorf("verdicts: %v, want ErrDamaged", err)
	}
	seen := make(map[cid.Cid]bool)
	for _, v := range verdicts {
		if seen[v.Offer] {
			t.Errorf("two verdicts about %s", v.Offer)
		}
		seen[v.Offer] = true
	}
}

// writtenAgain holds that v is written as something that reads as v.
func writtenAgain[T any](t *testing.T, v T) {
	b, err := json.Marshal(v)
	if err != nil {
		t.Errorf("%+v is read, and not written: %v", v, err)
		return
	}
	var again T
	if err := json.Unmarshal(b, &again); err != nil {
		t.Errorf("%s is written, and not read: %v", b, err)
		return
	}
	if c, err := json.Marshal(again); err != nil || !bytes.Equal(c, b) {
		t.Errorf("%s is written, and then %s, %v", b, c, err)
	}
}
