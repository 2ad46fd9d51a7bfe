// Package ledger is a node's store: the feeds of all members and what follows
// from them, and the node's own account of what it did.
//
// Begin with [Open], give it every notice that arrives with [Ledger.Add], sign
// the member's own with [Ledger.Append], and ask [Ledger.Standings] which
// experts may be used at this moment.
//
// What a member consents to is a pure fold over the notices (consent.go), kept
// in memory and made again from the file by Open. The order in which notices
// arrive does not matter, and no notice is ever removed.
//
// The package knows no network and reads no clock: callers say what time it
// is. It does not hold experts, prompts or completions.
package ledger

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Errors that the functions of this package wrap.
var (
	ErrInUse        = errors.New("another chorus process has the ledger open")
	ErrWrongCharter = errors.New("belongs to another charter")
	ErrNotMember    = errors.New("key does not belong to a member")
	ErrUnverified   = errors.New("notice has not been verified")
	ErrNotFound     = errors.New("notice is not in the ledger")
	ErrDamaged      = errors.New("ledger file is damaged")
	ErrClockBehind  = errors.New("clock is behind")
	ErrOverflow     = errors.New("usage does not fit in 64 bits")
)

// The buckets of the file. A change to their meaning needs new names.
var (
	bucketMeta     = []byte("meta")     // "charter" -> envelope; "clock" -> milliseconds since 1970, 8 bytes
	bucketNotices  = []byte("notices")  // CID -> envelope
	bucketFeeds    = []byte("feeds")    // key, seq (8 bytes), CID -> nothing
	bucketUsage    = []byte("usage")    // blob CID or "anchor" -> tokens, weight (8 bytes each)
	bucketEvents   = []byte("events")   // number (8 bytes) -> JSON
	bucketVerdicts = []byte("verdicts") // offer CID -> JSON
)

var (
	keyCharter = []byte("charter")
	keyClock   = []byte("clock")
	keyAnchor  = []byte("anchor")
)

// Ledger is an open ledger. Its methods may be called from many goroutines.
// What a method has written is on disk when it returns.
type Ledger struct {
	db      *bbolt.DB
	charter *notice.Notice

	writing sync.Mutex // held by Add and Append from the write to the fold, so that the two agree

	mu      sync.RWMutex
	consent *consent      // guarded by mu
	changed chan struct{} // guarded by mu; closed and replaced at each change
}

// Open opens the ledger in the file at path, and creates it if there is none.
// charter is version 1 of the consortium's charter; the file remembers which
// one, and Open refuses any other with ErrWrongCharter. If another process has
// the file open, the error wraps ErrInUse after one second. Every stored notice
// is verified again; if one does not stand, the error wraps ErrDamaged.
func Open(path string, charter *notice.Notice) (l *Ledger, err error) {
	if err := notice.VerifyCharter(charter, nil); err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	// A damaged file makes bbolt panic, and a truncated one faults in the memory
	// map. The database is then past closing, and its lock stays until the
	// process ends.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			l, err = nil, fmt.Errorf("open ledger %s: %w: %v", path, ErrDamaged, r)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open ledger %s: %w: stop it first", path, ErrInUse)
	} else if errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) || errors.Is(err, bolterrors.ErrVersionMismatch) {
		return nil, fmt.Errorf("open ledger %s: %w: %w", path, ErrDamaged, err)
	} else if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	l = &Ledger{
		db:      db,
		charter: charter,
		consent: newConsent(charter.Body.(*notice.Charter)),
		changed: make(chan struct{}),
	}
	if err := l.load(path); err != nil {
		return nil, errors.Join(fmt.Errorf("open ledger %s: %w", path, err), db.Close())
	}
	return l, nil
}

func (l *Ledger) load(path string) error {
	if err := l.db.Update(l.prepare); err != nil {
		return err
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return err
	}
	return l.db.View(l.replay)
}

// prepare creates what a new file lacks and checks the charter of an old one.
func (l *Ledger) prepare(tx *bbolt.Tx) error {
	for _, name := range [][]byte{bucketMeta, bucketNotices, bucketFeeds, bucketUsage, bucketEvents, bucketVerdicts} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	meta := tx.Bucket(bucketMeta)
	stored := meta.Get(keyCharter)
	if stored == nil {
		return meta.Put(keyCharter, l.charter.Envelope)
	}
	n, err := notice.Parse(stored)
	if err != nil {
		return fmt.Errorf("%w: charter: %w", ErrDamaged, err)
	}
	if n.CID != l.charter.CID {
		return fmt.Errorf("the file %w, %s, and not to %s", ErrWrongCharter, n.CID, l.charter.CID)
	}
	return nil
}

// replay folds the stored notices.
func (l *Ledger) replay(tx *bbolt.Tx) error {
	return tx.Bucket(bucketNotices).ForEach(func(id, envelope []byte) error {
		n, err := stored(id, envelope)
		if err != nil {
			return err
		}
		if err := l.check(n); err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if tx.Bucket(bucketFeeds).Get(feedKey(n)) == nil {
			return fmt.Errorf("%w: notice %s is not in the index of feeds", ErrDamaged, n.CID)
		}
		l.consent.add(n)
		return nil
	})
}

// syncFolder makes the name of a new file durable. A ledger that was lost with
// its name would have its member begin the feed anew, which is equivocation.
func syncFolder(path string) error {
	if runtime.GOOS == "windows" { // where folders cannot be synced and NTFS logs names
		return nil
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// stored parses an envelope out of the file and checks that it is the one
// that its key names.
func stored(id, envelope []byte) (*notice.Notice, error) {
	n, err := notice.Parse(envelope)
	if err != nil {
		return nil, fmt.Errorf("%w: notice %x: %w", ErrDamaged, id, err)
	}
	if !bytes.Equal(n.CID.Bytes(), id) {
		return nil, fmt.Errorf("%w: notice %x has the content of %s", ErrDamaged, id, n.CID)
	}
	return n, nil
}

// feedKey returns the key in bucketFeeds of a feed's notice.
func feedKey(n *notice.Notice) []byte {
	h := n.Header()
	return append(seqKey(h.Key, h.Seq), n.CID.Bytes()...)
}

// seqKey returns the prefix of feedKey for the notices at seq.
func seqKey(key notice.PublicKey, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(key[:], seq)
}

// seqOf returns the seq in a feedKey.
func seqOf(feedKey []byte) uint64 {
	return binary.BigEndian.Uint64(feedKey[len(notice.PublicKey{}):])
}

// Close closes the file. Of the methods, those that need no file still work.
func (l *Ledger) Close() error { return l.db.Close() }

// Charter returns the charter. It is shared: do not change it.
func (l *Ledger) Charter() *notice.Charter { return l.charter.Body.(*notice.Charter) }

// Root returns the identity of version 1 of the charter, which every notice of
// the consortium names.
func (l *Ledger) Root() cid.Cid { return l.charter.CID }

// Changed returns a channel that is closed when the next notice has been taken
// in. To miss nothing, take the channel before looking:
//
//	for {
//		changed := l.Changed()
//		use(l.Standings(time.Now()))
//		<-changed // or the end of a lease, or of the program
//	}
func (l *Ledger) Changed() <-chan struct{} {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.changed
}

// check refuses notices that do not belong into this ledger.
func (l *Ledger) check(n *notice.Notice) error {
	if n == nil || len(n.Signers()) == 0 {
		return fmt.Errorf("%w: use notice.Parse or notice.Sign", ErrUnverified)
	}
	h := n.Header()
	if h == nil {
		return fmt.Errorf("charter %s: %w", n.CID, ErrWrongCharter)
	}
	if h.Charter != l.Root() {
		return fmt.Errorf("%s %s %w, %s", n.Kind, n.CID, ErrWrongCharter, h.Charter)
	}
	if r, ok := n.Body.(*notice.Revocation); n.Detached() || ok && (r.Member != "" || !r.RevokedKey.IsZero()) {
		return fmt.Errorf("%s %s: %w: %s", n.Kind, n.CID, ErrNotMember, h.Key)
	}
	if _, ok := l.consent.members[h.Key]; !ok {
		return fmt.Errorf("%s %s: %w: %s", n.Kind, n.CID, ErrNotMember, h.Key)
	}
	return nil
}

// Add takes in a member's notice and reports whether it was new. Notices may
// come in any order and more than once. The ledger's own charter is never new.
// The errors wrap ErrUnverified, ErrWrongCharter or ErrNotMember, or come from
// the disk.
func (l *Ledger) Add(n *notice.Notice) (fresh bool, err error) {
	if n != nil && n.CID == l.Root() {
		return false, nil
	}
	if err := l.check(n); err != nil {
		return false, err
	}
	if l.has(n) {
		return false, nil
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.has(n) {
		return false, nil
	}
	return true, l.put(n)
}

func (l *Ledger) has(n *notice.Notice) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.consent.has(n)
}

// put stores n, folds it and tells those who wait. The caller holds writing.
func (l *Ledger) put(n *notice.Notice) error {
	err := l.db.Update(func(tx *bbolt.Tx) error {
		if err := tx.Bucket(bucketFeeds).Put(feedKey(n), []byte{}); err != nil {
			return err
		}
		return tx.Bucket(bucketNotices).Put(n.CID.Bytes(), n.Envelope)
	})
	if err != nil {
		return fmt.Errorf("store %s %s: %w", n.Kind, n.CID, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.consent.add(n)
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
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
	f, ok := l.consent.feeds[h.Key]
	if !ok {
		return nil, fmt.Errorf("append %s: %w: %s", b.Kind(), ErrNotMember, h.Key)
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.RLock()
	if f.top > 0 {
		h.Seq, h.Prev = f.top+1, f.links[f.top][0].id
	}
	l.mu.RUnlock()
	b, err := notice.WithHeader(b, h)
	if err != nil {
		return nil, fmt.Errorf("append: %w", err)
	}
	n, err := notice.Sign(b, key)
	if err != nil {
		return nil, fmt.Errorf("append: %w", err)
	}
	if err := l.put(n); err != nil {
		return nil, fmt.Errorf("append: %w", err)
	}
	return n, nil
}

// Heads returns for each feed the highest seq up to which no notice is
// missing, and the notice there. Feeds of which seq 1 is missing are left out.
//
// A member that equivocated has two more heads before that one: two notices
// that prove it, by being or naming different notices for one seq. So whoever
// compares heads passes the proof on too: a head that is not in its own ledger
// is one to ask for, be its seq high or low.
func (l *Ledger) Heads() []notice.Head {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var heads []notice.Head
	for _, key := range l.consent.keys() {
		heads = append(heads, l.consent.feeds[key].heads(key)...)
	}
	return heads
}

// Missing returns the gaps in the feeds: notices that somebody must have,
// since later ones of the feed are here.
func (l *Ledger) Missing() []Gap {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var gaps []Gap
	for _, key := range l.consent.keys() {
		gaps = append(gaps, l.consent.feeds[key].missing(key)...)
	}
	return gaps
}

// Standings returns where every known offer stands at now, sorted by member,
// then time. It changes when Changed says so, and with now: at Until.
func (l *Ledger) Standings(now time.Time) []Standing {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.consent.standings(now)
}

// Get returns the notice with the identity id, the charter included. If there
// is none, the error wraps ErrNotFound.
func (l *Ledger) Get(id cid.Cid) (*notice.Notice, error) {
	if id == l.Root() {
		return l.charter, nil
	}
	var n *notice.Notice
	err := l.db.View(func(tx *bbolt.Tx) (err error) {
		n, err = fetch(tx, id.Bytes())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", id, err)
	}
	return n, nil
}

func fetch(tx *bbolt.Tx, id []byte) (*notice.Notice, error) {
	envelope := tx.Bucket(bucketNotices).Get(id)
	if envelope == nil {
		return nil, ErrNotFound
	}
	return stored(id, envelope)
}

// After returns the notices of key's feed with a seq above seq, ascending, and
// of a fork every branch. It returns about limit of them: a page never ends
// between two notices of one seq, so that the last one's seq continues it.
func (l *Ledger) After(key notice.PublicKey, seq uint64, limit int) ([]*notice.Notice, error) {
	if seq >= notice.MaxSeq || limit <= 0 {
		return nil, nil
	}
	var page []*notice.Notice
	err := l.db.View(func(tx *bbolt.Tx) error {
		last := seq
		c := tx.Bucket(bucketFeeds).Cursor()
		for k, _ := c.Seek(seqKey(key, seq+1)); bytes.HasPrefix(k, key[:]); k, _ = c.Next() {
			n, err := fetch(tx, k[len(key)+8:])
			if err != nil {
				return err
			}
			if len(page) >= limit && n.Header().Seq != last {
				break
			}
			page, last = append(page, n), n.Header().Seq
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("feed of %s: %w", key, err)
	}
	return page, nil
}

// Notices yields every notice: the charter, then feed by feed in the order of
// the members' names. It ends with the first error. The loop's body may use the
// ledger; what is added meanwhile may or may not be seen.
func (l *Ledger) Notices() iter.Seq2[*notice.Notice, error] {
	return func(yield func(*notice.Notice, error) bool) {
		if !yield(l.charter, nil) {
			return
		}
		for _, key := range l.consent.keys() {
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
