package p2p

import (
	"cmp"
	"crypto/sha256"
	"iter"
	"slices"

	"chorus/ledger/notice"

	"github.com/ipfs/go-cid"
)

// Notices is where a node keeps notices. Its methods may be called concurrently.
type Notices interface {
	// Check returns why Add would refuse a notice now. It may not later, when others have come.
	Check(*notice.Notice) error
	// Add stores notices and returns those that were new, which are durable then. A notice may come before those it
	// follows, and two of one key may have the same number: both are kept. An error that wraps notice.ErrRefused
	// says that some do not belong there; the others are stored.
	Add(...*notice.Notice) (fresh []*notice.Notice, err error)
	// Frontiers returns what is held of each feed of which anything is held.
	Frontiers() []notice.Frontier
	// Envelopes returns the notices of a feed whose number is above seq, ascending, until they have size bytes or
	// there are no more, and never some of one number without the others. last is the number of the last of them.
	Envelopes(key notice.PublicKey, seq uint64, size int) (envelopes [][]byte, last uint64, err error)
	// Charters returns every charter that is held, by version; Proposals those that lack signatures; Detached the
	// notices that stand in no chain.
	Charters() []*notice.Notice
	Proposals() []*notice.Notice
	Detached() []*notice.Notice
	// Seat returns whose key it is: the member that it stands for, and whether it is the key of that member's node
	// now. It is not ok for a key that says nothing to this consortium.
	Seat(key notice.PublicKey) (member string, node, ok bool)
	// Nodes returns the node key of every member, by its name.
	Nodes() map[string]notice.PublicKey
	// Changed returns a channel that is closed at the next change of what is held; nil if there is nothing yet.
	Changed() <-chan struct{}
	// Offered reports whether a blob was offered and not every offer of it is revoked.
	Offered(blob cid.Cid) bool
}

// A looseID names something that stands in no feed. For a proposal it covers who has signed it, since it gathers
// signatures.
type looseID [sha256.Size]byte

func proposalID(n *notice.Notice) looseID {
	sum := sha256.New()
	sum.Write(notice.Digest(n.CID))
	for _, k := range n.Signers() {
		sum.Write(k[:])
	}
	return looseID(sum.Sum(nil))
}

func looseIDOf(n *notice.Notice) looseID { return looseID(notice.Digest(n.CID)) }

// loose yields what is held that stands in no feed, in the order to be taken in.
func loose(notices Notices) iter.Seq2[looseID, *notice.Notice] {
	return func(yield func(looseID, *notice.Notice) bool) {
		for _, n := range notices.Charters() {
			if !yield(looseIDOf(n), n) {
				return
			}
		}
		for _, n := range notices.Proposals() {
			if !yield(proposalID(n), n) {
				return
			}
		}
		for _, n := range notices.Detached() {
			if !yield(looseIDOf(n), n) {
				return
			}
		}
	}
}

// An inventory says what one side of a conversation has.
type inventory struct {
	feeds []notice.Frontier // sorted by key
	loose []looseID         // in the order to be taken in
}

func inventoryOf(notices Notices) inventory {
	v := inventory{feeds: notices.Frontiers()}
	slices.SortFunc(v.feeds, func(a, b notice.Frontier) int { return slices.Compare(a.Key[:], b.Key[:]) })
	for id := range loose(notices) {
		v.loose = append(v.loose, id)
	}
	return v
}

// digest is the same for two inventories that say the same.
func (v inventory) digest() [sha256.Size]byte {
	v.loose = slices.SortedFunc(slices.Values(v.loose), func(a, b looseID) int { return slices.Compare(a[:], b[:]) })
	return sha256.Sum256(v.encode())
}

// A stock is what a node has, for all conversations until that changes.
type stock struct {
	inventory
	sum     [sha256.Size]byte // the inventory's digest
	changed <-chan struct{}   // closed once it is out of date
}

// stock returns what the node has now.
func (e *Engine) stock() *stock {
	if s := e.stocked.Load(); s != nil {
		select {
		case <-s.changed:
		default:
			return s
		}
	}
	changed := e.notices.Changed() // before looking, so as to miss nothing
	v := inventoryOf(e.notices)
	s := &stock{v, v.digest(), changed}
	if changed != nil {
		e.stocked.Store(s)
	}
	return s
}

// of returns what the inventory has of a feed.
func (v inventory) of(key notice.PublicKey) notice.Frontier {
	i, ok := slices.BinarySearchFunc(v.feeds, key, func(f notice.Frontier, key notice.PublicKey) int {
		return slices.Compare(f.Key[:], key[:])
	})
	if !ok {
		return notice.Frontier{Head: notice.Head{Key: key}}
	}
	return v.feeds[i]
}

func compareNamed(a string, aKey notice.PublicKey, b string, bKey notice.PublicKey) int {
	return cmp.Or(cmp.Compare(a, b), slices.Compare(aKey[:], bKey[:]))
}
