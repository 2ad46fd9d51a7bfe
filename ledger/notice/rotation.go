package notice

import (
	"crypto/ed25519"
	"encoding/base64"

	"github.com/hdevalence/ed25519consensus"
	"github.com/ipfs/go-cid"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// RotatedRole says which key of a member a rotation replaces.
type RotatedRole string

// The roles that a rotation can name.
const (
	RotatePublishing RotatedRole = "publishing"
	RotateNode       RotatedRole = "node"
)

// Rotation gives a member a new publishing or node key in place of one that was
// lost or stolen, which it revokes. It stands in the feed of the member's
// recovery key. Make one with NewRotation.
type Rotation struct {
	Header
	Role  RotatedRole `json:"role"`
	Old   PublicKey   `json:"old"`
	New   PublicKey   `json:"new"`
	Proof string      `json:"proof"` // that the holder of New agrees: its signature, in base64
}

// rotationProof is the DSSE payload type of what the new key signs, so that no
// other signature of that key can pass for one.
const rotationProof = "application/vnd.chorus.rotation-proof.v1"

// NewRotation returns a rotation from the key old to the key new, for the feed
// of the key recovery under the charter whose version 1 is charter. new signs
// that it agrees: otherwise one member could claim the key of another.
func NewRotation(charter cid.Cid, recovery PublicKey, role RotatedRole, old PublicKey, new ed25519.PrivateKey) *Rotation {
	r := &Rotation{Header: Header{Charter: charter, Key: recovery}, Role: role, Old: old, New: PublicKeyOf(new)}
	r.Proof = base64.StdEncoding.EncodeToString(ed25519.Sign(new, r.agreement()))
	return r
}

// agreement is what the new key signs.
func (r *Rotation) agreement() []byte {
	return dsse.PAE(rotationProof, []byte(r.Charter.String()+" "+r.Key.String()+" "+string(r.Role)+" "+r.Old.String()))
}

// Kind returns KindRotation.
func (r *Rotation) Kind() Kind { return KindRotation }

func (r *Rotation) validate() error {
	if err := r.Header.validate(); err != nil {
		return err
	}
	if r.Role != RotatePublishing && r.Role != RotateNode {
		return malformed("role is %.80q, want %q or %q", r.Role, RotatePublishing, RotateNode)
	}
	if r.Old.IsZero() || r.New.IsZero() || r.Old == r.New || r.Old == r.Key || r.New == r.Key {
		return malformed("a rotation needs an old and a new key, neither of them the one that signs it")
	}
	proof, err := decodeBase64("proof", r.Proof)
	if err != nil {
		return err
	}
	if !ed25519consensus.Verify(r.New[:], r.agreement(), proof) {
		return malformed("proof is not the signature of %s under this rotation", r.New)
	}
	return nil
}
