package notice

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"github.com/ipfs/go-cid"
)

// Frontier says what somebody holds of one feed, so that two who hold the same
// say the same. Up to Seq the feed is plain: exactly one notice for each number,
// each naming the one before. What is held beyond it, after a hole or from a
// fork on, is summed up by Rest.
type Frontier struct {
	Head          // the last plain notice; Seq 0 and no CID if the first is missing or forked
	Rest [32]byte // RestOf the notices held beyond Seq
}

// RestOf is the SHA-256 over the SHA-256 digests of notices' CIDs, sorted. It is
// zero for none. Every CID must be that of a notice.
func RestOf(ids []cid.Cid) (rest [sha256.Size]byte) {
	if len(ids) == 0 {
		return rest
	}
	digests := make([][]byte, len(ids))
	for i, id := range ids {
		digests[i] = Digest(id)
	}
	slices.SortFunc(digests, bytes.Compare)
	return sha256.Sum256(bytes.Join(digests, nil))
}

// Digest returns the 32 bytes of a notice's CID that differ from any other's.
func Digest(id cid.Cid) []byte {
	h := id.Hash()
	return h[len(h)-sha256.Size:]
}

// Identity returns the CID of the notice with this digest.
func Identity(digest [sha256.Size]byte) cid.Cid {
	return cid.NewCidV1(codecJSON, append([]byte{0x12, sha256.Size}, digest[:]...))
}
