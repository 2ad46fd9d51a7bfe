// Package node is a running participant: one member's data folder, its place in the network, the
// mixture it has assembled from the experts whose owners consent at this moment, and the
// endpoint through which local programs use it.
//
// Begin with [Home.Init], [Home.SetCharter] and [New].
package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/model"
	"chorus/model/tokenizer"
	"chorus/node/steward"
	"chorus/p2p"

	"github.com/ipfs/go-cid"
)

// maxAnchor bounds, in bytes, what a node downloads as the anchor of its charter.
const maxAnchor = 64 << 30

// waitingAfter is how long a node tries to reach the other members before it says that it waits for one.
const waitingAfter = 2 * time.Second

// A Node is a running participant. Its methods may be called concurrently.
type Node struct {
	home   Home
	config Config
	log    *slog.Logger

	charter   *notice.Notice
	ledger    *ledger.Ledger
	blobs     *p2p.BlobStore
	host      *p2p.Host
	self      notice.PublicKey // its node key
	invited   *invitations
	anchor    *model.Anchor
	tokenizer *tokenizer.Tokenizer
	chat      chatTemplate

	using   sync.Mutex // held while inUse is replaced, from looking what may be used
	inUse   atomic.Pointer[use]
	bare    *Mixture // the anchor alone
	answers sync.Map // *answer → struct{}, those under way
	used    sync.Map // offer CID → *atomic.Int64, unix nanoseconds of the last token it took part in
	api     *api     // nil unless the node serves

	changedMu sync.Mutex
	changed   chan struct{} // guarded by changedMu; closed and replaced after each round of the steward, and when experts are withdrawn

	opened   sync.Map      // notice.PublicKey → ed25519.PrivateKey, what a passphrase has opened
	caughtUp chan struct{} // closed once the node has heard from every member that it can reach
	signing  sync.Mutex    // held, for a moment, from deciding what to sign, or which blob nothing names, to having done it
	stop     context.CancelFunc
	stopped  chan struct{} // closed when the steward loop has ended
}

// Options say how to run a node.
type Options struct {
	Serve    bool // listen on Config.API
	Log      *slog.Logger
	Progress func(done, total int64)  // bytes of the anchor, while it is fetched; may be nil
	Waiting  func(addresses []string) // called if the anchor is to be fetched and nobody is connected yet, with this node's addresses; may be nil
}

// New starts the node of a home: it opens the ledger, connects to the other members, fetches the
// anchor if it is not there, and serves. Until it has reconciled with another member it serves
// the anchor alone. Close ends it; so does the end of ctx, but Close must still be called.
func New(ctx context.Context, home Home, o Options) (_ *Node, err error) {
	n := &Node{home: home, log: o.Log, changed: make(chan struct{}), stopped: make(chan struct{}), caughtUp: make(chan struct{})}
	if n.config, err = home.Config(); err != nil {
		return nil, err
	}
	if n.charter, err = home.LoadCharter(); err != nil {
		return nil, err
	}
	key, err := loadKey(home.path(nodeKey))
	if err != nil {
		return nil, err
	}
	ctx, n.stop = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			close(n.stopped)
			err = errors.Join(err, n.Close())
		}
	}()
	if n.ledger, err = ledger.Open(home.ledger(), n.charter); err != nil {
		return nil, err
	}
	if n.blobs, err = p2p.NewBlobStore(home.blobs()); err != nil {
		return nil, err
	}
	n.self = notice.PublicKeyOf(key)
	if n.invited, err = openInvitations(n, home.invitations()); err != nil {
		return nil, err
	}
	n.host, err = p2p.New(ctx, p2p.Config{
		Key: key, Listen: n.config.Listen, Peers: n.config.Peers, Addresses: home.addresses(),
		Charter: n.charter.CID, Notices: notices{n.ledger, n.withdraw}, Guests: n.invited, Blobs: n.blobs, Log: n.log,
	})
	if errors.Is(err, p2p.ErrNotMember) {
		return nil, fmt.Errorf("no other node would let this one in, since its key is that of no member now: %w", err)
	}
	if err != nil {
		return nil, err
	}
	if err = n.loadAnchor(ctx, o); err != nil {
		return nil, err
	}
	n.bare = n.alone(steward.NoneStands)
	n.inUse.Store(&use{mixture: n.bare})
	if !n.single() {
		n.inUse.Store(&use{mixture: n.alone(steward.NotReconciled)})
	}
	if o.Serve {
		if n.api, err = n.serve(); err != nil {
			return nil, err
		}
	}
	go n.steward(ctx)
	return n, nil
}

// Close ends the node and returns when everything it did has ended.
func (n *Node) Close() error {
	n.stop()
	var errs []error
	if n.api != nil {
		errs = append(errs, n.api.close())
	}
	<-n.stopped
	if n.host != nil {
		errs = append(errs, n.host.Close())
	}
	if n.ledger != nil {
		errs = append(errs, n.ledger.Close())
	}
	return errors.Join(errs...)
}

// Changed returns a channel that is closed when the mixture, or what the node holds on disk, may
// have changed. Take the channel before looking, to miss nothing.
func (n *Node) Changed() <-chan struct{} {
	n.changedMu.Lock()
	defer n.changedMu.Unlock()
	return n.changed
}

func (n *Node) announce() {
	n.changedMu.Lock()
	defer n.changedMu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
}

// Await returns when done reports true, looking again after every change, or with ctx's error.
func (n *Node) Await(ctx context.Context, done func() bool) error {
	for {
		changed := n.Changed()
		if done() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Anchor returns the anchor and its tokenizer.
func (n *Node) Anchor() (*model.Anchor, *tokenizer.Tokenizer) { return n.anchor, n.tokenizer }

// Ledger returns the node's ledger.
func (n *Node) Ledger() *ledger.Ledger { return n.ledger }

// Blobs returns the node's store of blobs.
func (n *Node) Blobs() *p2p.BlobStore { return n.blobs }

// Host returns the node's place in the network.
func (n *Node) Host() *p2p.Host { return n.host }

// single reports whether the charter has no other member, and so nobody to reconcile with.
func (n *Node) single() bool { return len(n.ledger.Charter().Members) == 1 }

// Member returns the node's own name on the charter.
func (n *Node) Member() string { return n.config.Member }

// loadAnchor reads the anchor, after fetching it from whichever member has it if it is not here.
func (n *Node) loadAnchor(ctx context.Context, o Options) error {
	dir := n.home.Anchor()
	fetched := false
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		fetched = true
		id := n.ledger.Charter().Anchor
		if !n.blobs.Has(id) {
			select {
			case <-n.host.Reconciled():
			case <-time.After(waitingAfter):
				if o.Waiting != nil && len(n.host.Connected()) == 0 {
					o.Waiting(n.host.Addrs())
				}
			case <-ctx.Done():
			}
			select {
			case <-n.host.Reconciled():
			case <-ctx.Done():
				return fmt.Errorf("the anchor is not here and no other member could be reached: %w", ctx.Err())
			}
		}
		if err := n.host.FetchDir(ctx, id, maxAnchor, dir, o.Progress); err != nil {
			return fmt.Errorf("fetching the anchor: %w", err)
		}
	} else if err != nil {
		return err
	}
	n.loadChat(dir)
	var err error
	if n.anchor, n.tokenizer, err = model.LoadAnchor(dir); err != nil {
		return err
	}
	if fetched {
		if err := n.anchor.CheckFinite(); err != nil {
			return err
		}
	}
	n.anchor.Pack(n.config.Weights)
	return nil
}

// ImportAnchor takes the anchor's folder dir into a home's store, so that the node can serve it to
// other members, and returns its CID, which a charter names.
func (h Home) ImportAnchor(ctx context.Context, dir string) (cid.Cid, error) {
	a, _, err := model.LoadAnchor(dir)
	if err != nil {
		return cid.Undef, err
	}
	if err := a.CheckFinite(); err != nil {
		return cid.Undef, err
	}
	blobs, err := p2p.NewBlobStore(h.blobs())
	if err != nil {
		return cid.Undef, err
	}
	return blobs.PutDir(ctx, dir)
}

// now is the time as notices and leases count it.
func now() time.Time { return time.Now().UTC() }
