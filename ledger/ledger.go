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
// is, and are right within δ, two minutes. It does not hold experts, prompts or
// completions.
package ledger

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
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
	ErrNotMember    = errors.New("key does not belong to a member that may sign this")
	ErrOrphan       = errors.New("the charter before this version is not here")
	ErrUnverified   = errors.New("notice has not been verified")
	ErrNotFound     = errors.New("notice is not in the ledger")
	ErrDamaged      = errors.New("ledger file is damaged")
	ErrClockBehind  = errors.New("clock is behind")
	ErrOverflow     = errors.New("usage does not fit in 64 bits")
)

// The buckets of the file. A change to their meaning needs new names.
var (
	bucketMeta      = []byte("meta")      // "charter" -> envelope; "clock" -> milliseconds since 1970, 8 bytes
	bucketCharters  = []byte("charters")  // digest -> envelope, of the versions from 2 on
	bucketProposals = []byte("proposals") // digest -> envelope
	bucketLinks     = []byte("links")     // key, seq (8 bytes; 0: detached), digest -> kind (1 byte), digest of prev
	bucketBodies    = []byte("bodies")    // likewise -> envelope: apart, so that the links can be read without them
	bucketUsage     = []byte("usage")     // blob CID or "anchor" -> tokens, weight (8 bytes each)
	bucketEvents    = []byte("events")    // number (8 bytes) -> JSON
	bucketVerdicts  = []byte("verdicts")  // offer CID -> JSON
)

var (
	keyCharter = []byte("charter")
	keyClock   = []byte("clock")
	keyAnchor  = []byte("anchor")
)

// Ledger is an open ledger. Its methods may be called from many goroutines.
// What a method has written is on disk when it returns.
type Ledger struct {
	db   *bbolt.DB
	root *notice.Notice // version 1 of the charter

	queue   queue      // what Add was given and nobody has taken in yet
	writing sync.Mutex // held by Add and Append from the write to the fold, so that the two agree

	mu      sync.RWMutex
	consent *consent      // guarded by mu
	changed chan struct{} // guarded by mu; closed and replaced at each change
}

// Open opens the ledger in the file at path, and creates it if there is none.
// charter is version 1 of the consortium's charter; the file remembers which
// one, and Open refuses any other with ErrWrongCharter. If another process has
// the file open, the error wraps ErrInUse after one second. What is stored is
// verified again, if anything follows from it; if it does not stand, the error
// wraps ErrDamaged. Of leases that a later one replaced only their place in the
// feed is read, since there are a million of them in ten years: what follows
// from them is that nothing is missing before the later one.
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
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open ledger %s: %w: stop it first", path, ErrInUse)
	} else if errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) || errors.Is(err, bolterrors.ErrVersionMismatch) {
		return nil, fmt.Errorf("open ledger %s: %w: %w", path, ErrDamaged, err)
	} else if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	l = &Ledger{
		db:      db,
		root:    charter,
		consent: newConsent(charter),
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
	for _, name := range [][]byte{bucketMeta, bucketCharters, bucketProposals, bucketLinks, bucketBodies, bucketUsage, bucketEvents, bucketVerdicts} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	meta := tx.Bucket(bucketMeta)
	stored := meta.Get(keyCharter)
	if stored == nil {
		return meta.Put(keyCharter, l.root.Envelope)
	}
	n, err := notice.Parse(stored)
	if err != nil {
		return fmt.Errorf("%w: charter: %w", ErrDamaged, err)
	}
	if n.CID != l.root.CID {
		return fmt.Errorf("the file %w, %s, and not to %s", ErrWrongCharter, n.CID, l.root.CID)
	}
	return nil
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

// Close closes the file. Of the methods, those that need no file still work.
func (l *Ledger) Close() error { return l.db.Close() }

// Charter returns the version of the charter that holds. It is shared: do not
// change it.
func (l *Ledger) Charter() *notice.Charter {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.consent.charter
}

// Charters returns the verified versions of the charter by number, which are
// never fewer than one. Where two follow the same one, the charter is forked:
// what Charter returns stays before them, and both branches are here.
func (l *Ledger) Charters() []*notice.Notice {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.consent.charters.sorted()
}

// Proposals returns what stewards have signed as the charter's next version and
// lacks signatures: of each steward the last, and no more than there are.
func (l *Ledger) Proposals() []*notice.Notice {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.consent.charters.proposed()
}

// Seat returns whose key k is now, under the current charter and its rotations,
// delegations and revocations, and what it is to that member. A delegation that
// has ended counts until something replaces it: its end is for whoever looks at
// a clock. A key that several members lend powers to is the first one's.
func (l *Ledger) Seat(k notice.PublicKey) (member string, role Role, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	b, ok := l.consent.role(k)
	return b.member, b.role, ok
}

// Offered reports whether a blob was offered and not every offer of it is revoked.
func (l *Ledger) Offered(blob cid.Cid) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, all := range l.consent.offered {
		if slices.ContainsFunc(all, func(o offered) bool { return o.Offer.Blob == blob && o.State != Revoked }) {
			return true
		}
	}
	return false
}

// Nodes returns the node key of every member of the current charter whose node
// key is not revoked, by the member's name.
func (l *Ledger) Nodes() map[string]notice.PublicKey {
	l.mu.RLock()
	defer l.mu.RUnlock()
	nodes := make(map[string]notice.PublicKey, len(l.consent.seats))
	for name, s := range l.consent.seats {
		if !s.node.IsZero() {
			nodes[name] = s.node
		}
	}
	return nodes
}

// Keys returns the keys that the named member of the current charter has now,
// those that it lent powers to among them, and what each is to it.
func (l *Ledger) Keys(member string) map[notice.PublicKey]Role {
	l.mu.RLock()
	defer l.mu.RUnlock()
	keys := make(map[notice.PublicKey]Role)
	if s := l.consent.seats[member]; s != nil {
		for _, k := range s.keys() {
			for _, b := range l.consent.roles[k] {
				if b.member == member && (keys[k] == "" || keys[k] == RoleDelegate) {
					keys[k] = b.role
				}
			}
		}
	}
	return keys
}

// Root returns the identity of version 1 of the charter, which every notice of
// the consortium names.
func (l *Ledger) Root() cid.Cid { return l.root.CID }

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
