package notice

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// The short form of a detached revocation, for paper: nothing in it but what its one spelling does not say by itself.
//
//	what (1: offer or key) charter (32) key (32) time (8, seconds) target (32) reason (length 2, bytes) signature (64)
const (
	shortOffer = 1
	shortKey   = 2

	shortFixed = 1 + 32 + 32 + 8 + 32 + 2 + ed25519.SignatureSize
)

// Short returns the short form of a detached revocation; of any other notice,
// the error wraps ErrMalformed.
func (n *Notice) Short() ([]byte, error) {
	r, ok := n.Body.(*Revocation)
	if !ok || !n.Detached() {
		return nil, malformed("a %s has no short form: only a detached revocation has", n.Kind)
	}
	env, _, err := openEnvelope(n.Envelope)
	if err != nil {
		return nil, err
	}
	sig, err := decodeBase64("sig", env.Signatures[0].Sig)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, shortFixed+len(r.Reason))
	what, target := byte(shortKey), r.RevokedKey[:]
	if r.Offer.Defined() {
		what, target = shortOffer, Digest(r.Offer)
	}
	b = append(b, what)
	b = append(b, Digest(r.Charter)...)
	b = append(b, r.Key[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Time.Unix()))
	b = append(b, target...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Reason)))
	b = append(b, r.Reason...)
	return append(b, sig...), nil
}

// ParseShort reads the first short form in b, verifies it as Parse does, and returns the notice and what follows it.
func ParseShort(b []byte) (n *Notice, rest []byte, err error) {
	if len(b) < shortFixed {
		return nil, nil, malformed("short form of %d bytes, want at least %d", len(b), shortFixed)
	}
	take := func(n int) []byte {
		head := b[:n]
		b = b[n:]
		return head
	}
	identityOf := func(digest []byte) cid.Cid { return Identity([32]byte(digest)) }
	r := new(Revocation)
	what := take(1)[0]
	r.Charter = identityOf(take(32))
	r.Key = PublicKey(take(32))
	seconds := binary.BigEndian.Uint64(take(8))
	if seconds > MaxSeq {
		return nil, nil, malformed("short form: time is %d", seconds)
	}
	r.Time = time.Unix(int64(seconds), 0).UTC()
	switch target := take(32); what {
	case shortOffer:
		r.Offer = identityOf(target)
	case shortKey:
		r.RevokedKey = PublicKey(target)
	default:
		return nil, nil, malformed("short form: %d is neither an offer nor a key", what)
	}
	length := int(binary.BigEndian.Uint16(take(2)))
	if len(b) < length+ed25519.SignatureSize {
		return nil, nil, malformed("short form is cut short")
	}
	r.Reason = string(take(length))
	sig := bytes.Clone(take(ed25519.SignatureSize))
	if err := r.validate(); err != nil {
		return nil, nil, err
	}
	payload, err := encode(r)
	if err != nil {
		return nil, nil, err
	}
	n, err = seal(r.Kind(), payload, []dsse.Signature{{KeyID: r.Key.String(), Sig: base64.StdEncoding.EncodeToString(sig)}}, nil)
	return n, b, err
}
