package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/node/steward"
	"chorus/p2p"

	"github.com/ipfs/go-cid"
)

// An Errand is what somebody does for a member with a key, and no node, from any machine: it brings notices to one node
// that can be reached, which spreads them. It keeps nothing on the disk but while it lasts. Close ends it.
type Errand struct {
	key     ed25519.PrivateKey
	peer    string
	member  string
	role    ledger.Role
	dir     string
	ledger  *ledger.Ledger
	courier *p2p.Courier
}

// ErrandConfig says who goes where.
type ErrandConfig struct {
	Key     ed25519.PrivateKey // a member's, or one that a member delegated to; not that of a node
	Charter cid.Cid            // version 1; undefined: the one of the node that is reached
	Peers   []string           // multiaddrs ending in /p2p/…, tried in order
	Within  time.Duration      // how long to try each
	Log     *slog.Logger
}

// ErrUnreached is returned when none of the nodes that an errand may go to let it in.
var ErrUnreached = errors.New("no node could be reached that admits this key")

// NewErrand connects to the first node that can be reached and learns what it knows. The error wraps [ErrUnreached] if there
// is none.
func NewErrand(ctx context.Context, c ErrandConfig) (*Errand, error) {
	dir, err := os.MkdirTemp("", "chorus-errand-*")
	if err != nil {
		return nil, err
	}
	var errs []error
	for i, addr := range c.Peers {
		e := &Errand{key: c.Key, peer: addr, dir: filepath.Join(dir, fmt.Sprint(i))}
		if err := os.Mkdir(e.dir, 0o700); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		trying, cancel := context.WithTimeout(ctx, c.Within)
		err := e.begin(trying, c)
		cancel()
		if err == nil {
			return e, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err), e.leave())
	}
	return nil, errors.Join(fmt.Errorf("%w: %w", ErrUnreached, errors.Join(errs...)), ctx.Err(), os.RemoveAll(dir))
}

func (e *Errand) begin(ctx context.Context, c ErrandConfig) (err error) {
	store := &lateLedger{path: filepath.Join(e.dir, "ledger.db"), root: c.Charter}
	if !c.Charter.Defined() {
		// Which charter it is has to be known before anything else is taken in.
		looking, found := context.WithCancel(ctx)
		defer found()
		store.found = found
		err := e.connect(looking, c, store)
		store.found = nil
		if store.ledger == nil {
			return err
		}
		if err := e.courier.Close(); err != nil {
			return err
		}
	}
	err = e.connect(ctx, c, store)
	if e.ledger = store.ledger; err != nil {
		return err
	}
	if e.ledger == nil {
		return errors.New("the node does not know that charter")
	}
	var ok bool
	public := notice.PublicKeyOf(c.Key)
	if e.member, e.role, ok = e.ledger.Seat(public); !ok {
		return fmt.Errorf("%s is not a key of a member of %s", public, e.ledger.Charter().Name)
	}
	return nil
}

func (e *Errand) connect(ctx context.Context, c ErrandConfig, store *lateLedger) (err error) {
	e.courier, err = p2p.NewCourier(ctx, p2p.CourierConfig{Key: c.Key, Peer: e.peer, Charter: store.charter(), Notices: store, Log: c.Log})
	if err != nil {
		return err
	}
	if err = e.courier.Sync(ctx); err != nil && ctx.Err() == nil {
		err = e.courier.Sync(ctx) // a node that is busy with another exchange resets a stream
	}
	return err
}

// deliver brings the node what it lacks, trying once more if the first exchange breaks off.
func (e *Errand) deliver(ctx context.Context) error {
	err := e.courier.Deliver(ctx)
	if err != nil && ctx.Err() == nil {
		err = e.courier.Deliver(ctx)
	}
	return err
}

// leave disconnects and forgets.
func (e *Errand) leave() error {
	var errs []error
	if e.courier != nil {
		errs = append(errs, e.courier.Close())
	}
	if e.ledger != nil {
		errs = append(errs, e.ledger.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(e.dir))...)
}

// Close ends the errand.
func (e *Errand) Close() error { return errors.Join(e.leave(), os.RemoveAll(filepath.Dir(e.dir))) }

// Member returns for whom the errand is, and Role what its key is to that member.
func (e *Errand) Member() string    { return e.member }
func (e *Errand) Role() ledger.Role { return e.role }

// Peer returns the address of the node that was reached.
func (e *Errand) Peer() string { return e.peer }

// Ledger returns what that node knew, and what was brought to it.
func (e *Errand) Ledger() *ledger.Ledger { return e.ledger }

// Deliver brings notices to the node, and returns when they are durable there.
func (e *Errand) Deliver(ctx context.Context, all ...*notice.Notice) error {
	if _, err := e.ledger.Add(all...); err != nil {
		return err
	}
	return e.deliver(ctx)
}

// Revoke withdraws what t names, and returns the identities of the notices that do once they are durable at the node.
func (e *Errand) Revoke(ctx context.Context, t Target, reason string) ([]cid.Cid, error) {
	own := e.role != ledger.RolePublishing // that feed is continued by the member's node, perhaps at this moment
	signed, there, err := revocations(e.ledger, e.key, e.member, e.role, t, reason, own)
	if err != nil {
		return nil, err
	}
	ids := there
	for _, n := range signed {
		ids = append(ids, n.CID)
	}
	if len(signed) == 0 {
		return ids, nil
	}
	return ids, e.deliver(ctx)
}

// Rotate names a new publishing or node key of the member's, whose old one that revokes. The errand's key must be the recovery key. Where the
// member's key was revoked already, and so has no seat, last says which it was.
func (e *Errand) Rotate(ctx context.Context, role notice.RotatedRole, last notice.PublicKey, replacement ed25519.PrivateKey) (cid.Cid, error) {
	if e.role != ledger.RoleRecovery {
		return cid.Undef, fmt.Errorf("a rotation is signed by the recovery key of %s, and this is its %s key", e.member, e.role)
	}
	public := notice.PublicKeyOf(replacement)
	if member, has, ok := e.ledger.Seat(public); ok && member == e.member && string(has) == string(role) {
		return cid.Undef, e.deliver(ctx) // by an earlier attempt
	}
	old := last
	for k, has := range e.ledger.Keys(e.member) {
		if string(has) == string(role) {
			old = k
		}
	}
	if old.IsZero() {
		return cid.Undef, fmt.Errorf("%s has no %s key that stands, and the one that it had is not here: the stewards can put one on the charter", e.member, role)
	}
	n, err := steward.Append(e.ledger, e.key, now(), notice.NewRotation(e.ledger.Root(), notice.PublicKeyOf(e.key), role, old, replacement))
	if err != nil {
		return cid.Undef, err
	}
	if member, has, ok := e.ledger.Seat(public); !ok || member != e.member || string(has) != string(role) {
		return cid.Undef, fmt.Errorf("%s was not the last %s key of %s, so a new one cannot take its place", old, role, e.member)
	}
	return n.CID, e.deliver(ctx)
}

// Delegate signs a delegation in the feed of the errand's key, which must be the recovery key: the publishing key's feed is
// the node's to continue.
func (e *Errand) Delegate(ctx context.Context, d *notice.Delegation) (cid.Cid, error) {
	if e.role != ledger.RoleRecovery {
		return cid.Undef, fmt.Errorf("away from its node, %s delegates by its recovery key, and this is its %s key", e.member, e.role)
	}
	n, err := steward.Append(e.ledger, e.key, now(), d)
	if err != nil {
		return cid.Undef, err
	}
	return n.CID, e.deliver(ctx)
}

// Compliance asks the node again and returns who has dropped what the revocations withdraw. Who is online an errand does not know.
func (e *Errand) Compliance(ctx context.Context, revocations ...cid.Cid) (Compliance, error) {
	err := e.courier.Sync(ctx)
	c := complianceOf(e.ledger, revocations...)
	c.Outside = true
	return c, err
}

// lateLedger is a ledger that begins when the charter has come: whoever comes with a key alone does not have it.
type lateLedger struct {
	path  string
	root  cid.Cid // undefined: any
	found func()  // called once the charter is here; may be nil

	mu     sync.Mutex
	ledger *ledger.Ledger // nil until then
}

var _ p2p.Notices = (*lateLedger)(nil)

func (s *lateLedger) get() *ledger.Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger
}

func (s *lateLedger) charter() cid.Cid {
	if l := s.get(); l != nil {
		return l.Root()
	}
	return s.root
}

func (s *lateLedger) isRoot(n *notice.Notice) bool {
	return (!s.root.Defined() || n.CID == s.root) && n.Kind == notice.KindCharter && notice.VerifyCharter(n, nil) == nil
}

func (s *lateLedger) Check(n *notice.Notice) error {
	if l := s.get(); l != nil {
		return l.Check(n)
	}
	if !s.isRoot(n) {
		return fmt.Errorf("%w: the charter has not come yet", ledger.ErrOrphan)
	}
	return nil
}

func (s *lateLedger) Add(all ...*notice.Notice) ([]*notice.Notice, error) {
	l := s.get()
	if l != nil {
		return l.Add(all...)
	}
	i := slices.IndexFunc(all, s.isRoot)
	if i < 0 {
		return nil, fmt.Errorf("%w: %w: the charter has not come yet", notice.ErrRefused, ledger.ErrOrphan)
	}
	l, err := ledger.Open(s.path, all[i])
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.ledger = l
	s.mu.Unlock()
	if s.found != nil {
		s.found()
	}
	fresh, err := l.Add(all...)
	return append(fresh, all[i]), err
}

func (s *lateLedger) Frontiers() []notice.Frontier {
	if l := s.get(); l != nil {
		return l.Frontiers()
	}
	return nil
}

func (s *lateLedger) Envelopes(key notice.PublicKey, seq uint64, size int) ([][]byte, uint64, error) {
	if l := s.get(); l != nil {
		return l.Envelopes(key, seq, size)
	}
	return nil, 0, nil
}

func (s *lateLedger) Charters() []*notice.Notice {
	if l := s.get(); l != nil {
		return l.Charters()
	}
	return nil
}

func (s *lateLedger) Proposals() []*notice.Notice {
	if l := s.get(); l != nil {
		return l.Proposals()
	}
	return nil
}

func (s *lateLedger) Detached() []*notice.Notice {
	if l := s.get(); l != nil {
		return l.Detached()
	}
	return nil
}

func (s *lateLedger) Seat(k notice.PublicKey) (string, bool, bool) {
	if l := s.get(); l != nil {
		return notices{Ledger: l}.Seat(k)
	}
	return "", false, false
}

func (s *lateLedger) Nodes() map[string]notice.PublicKey {
	if l := s.get(); l != nil {
		return l.Nodes()
	}
	return nil
}

func (s *lateLedger) Offered(blob cid.Cid) bool {
	l := s.get()
	return l != nil && l.Offered(blob)
}

func (s *lateLedger) Changed() <-chan struct{} {
	if l := s.get(); l != nil {
		return l.Changed()
	}
	return nil
}
