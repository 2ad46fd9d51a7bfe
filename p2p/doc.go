// Package p2p connects the members of a charter: it moves notices and blobs between their nodes.
//
// [New] starts a [Host]. It opens connections only to the node keys on the charter, spreads notices by
// gossip, makes up by synchronisation for what gossip missed, and fetches blobs from whichever members hold
// them into a [BlobStore]. Whatever a peer sends is refused unless it parses, stays within stated sizes and,
// for a blob, hashes to the CID that was asked for.
//
// The package keeps no notices and judges no consent. It hands each notice to a [Notices], which the ledger
// satisfies, and serves every blob that its store holds: a node that must stop serving an expert deletes it.
package p2p

import (
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
)

// Errors that callers can act on. Those of a particular member arrive inside a [MemberError].
var (
	// ErrNotMember reports a key that is not on the charter.
	ErrNotMember = errors.New("not a member of this charter")
	// ErrShunned reports a member whose node keeps sending what no honest node sends.
	ErrShunned = errors.New("sends what no honest node sends, and is not spoken with for a while")
	// ErrAlone reports that no other member is connected.
	ErrAlone = errors.New("no other member is connected")
	// ErrTooLarge reports something beyond its size limit. Nothing was read or allocated for it.
	ErrTooLarge = errors.New("larger than allowed")
	// ErrMalformed reports bytes from a peer that break the protocol.
	ErrMalformed = errors.New("malformed message")
	// ErrUnsupportedCID reports a CID that names no blob: not a CIDv1 with sha2-256 and the codec raw or dag-pb.
	ErrUnsupportedCID = errors.New("not the CID of a blob")
	// ErrMissing reports a blob that the store asked does not hold.
	ErrMissing = errors.New("blob is not held")
	// ErrDeleted reports that a blob was deleted while it was being fetched.
	ErrDeleted = errors.New("blob was deleted during the fetch")
	// ErrSize reports a blob whose size is not the one that was announced for it.
	ErrSize = errors.New("size differs from the announced one")
	// ErrCorrupt reports bytes that do not hash to the CID that names them.
	ErrCorrupt = errors.New("bytes do not match the CID")
	// ErrNoHolder reports that no connected member serves the rest of a blob. What was fetched is kept.
	ErrNoHolder = errors.New("no connected member serves it; try again when one that does is online")
)

// A MemberError says which member something went wrong with.
type MemberError struct {
	Member string // its name on the charter
	Err    error
}

func (e *MemberError) Error() string { return fmt.Sprintf("member %s: %v", e.Member, e.Err) }
func (e *MemberError) Unwrap() error { return e.Err }

// checkBlobCID refuses CIDs that cannot name a blob. Every accepted CID is cidLen bytes long.
func checkBlobCID(id cid.Cid) error {
	if !id.Defined() {
		return fmt.Errorf("%w: no CID given", ErrUnsupportedCID)
	}
	p := id.Prefix()
	if p.Version != 1 || p.Codec != cid.Raw && p.Codec != cid.DagProtobuf || p.MhType != sha256Code || p.MhLength != len(digest{}) {
		return fmt.Errorf("%w: %s", ErrUnsupportedCID, id)
	}
	return nil
}
